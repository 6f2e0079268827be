//! A device of one target hangs, fails or fills up under a whole server: clients hear of it in bounded time,
//! with the device's name; the operator sees which target it is; the other target goes on; and after the
//! device is mended and the server restarted, everything acknowledged is there. One that was full needs no restart.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use client::{Container, ContainerSpec, System, SystemOptions};
use control::config::{Config, Storage};
use control::server::Server;
use rt::fault::When;
use rt::sim::{DiskFault, NodeId, Sim, SimConfig};
use types::{Code, Error, ObjectId, ObjectType};

const ADDRESS: &str = "mem://server";
const IO_TIMEOUT: Duration = Duration::from_secs(5);
const KEYS: u32 = 24;

fn config() -> Config {
    Config {
        listen: vec![ADDRESS.parse().unwrap()],
        targets: 2,
        storage: Storage::Directory { path: "/daos".into(), bytes: Some(2 * (160 << 20)) },
        memory: 8 << 20,
        io_timeout: IO_TIMEOUT,
        ..Config::default()
    }
}

async fn serve() {
    let _server = Server::start(&config()).await.unwrap();
    std::future::pending::<()>().await;
}

async fn connect() -> System {
    let options = SystemOptions { deadline: IO_TIMEOUT * 4, ..SystemOptions::default() };
    loop {
        match System::connect(&[ADDRESS.parse().unwrap()], options.clone()).await {
            Ok(system) => return system,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// Large enough to go to the data device.
fn value(key: u32, round: u32) -> Vec<u8> {
    vec![(key * 7 + round) as u8; 9000]
}

/// Puts every key once; returns the round each key is known to hold, and the first error.
async fn put_all(container: &Container, object: ObjectId, round: u32, known: &RefCell<Vec<u32>>) -> Vec<Error> {
    let mut errors = Vec::new();
    for key in 0..KEYS {
        let began = rt::now();
        match container.kv(object).put(format!("key-{key}").as_str(), &value(key, round)).await {
            Ok(_) => known.borrow_mut()[key as usize] = round,
            Err(error) => errors.push(error),
        }
        assert!(began.elapsed() < IO_TIMEOUT * 3, "key {key} waited for {:?}", began.elapsed());
    }
    errors
}

fn check(path: &'static str, role: &'static str, fault: DiskFault, says: &'static str) {
    let sim = Sim::new(SimConfig::seeded(23));
    let (server, client) = (sim.node("server"), sim.node("client"));
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(server, serve());
        let known = Rc::new(RefCell::new(vec![0; KEYS as usize]));
        let object = Rc::new(Cell::new(None));
        let first = fails(sim.clone(), server, path, role, fault, says, known.clone(), object.clone());
        sim.spawn_on(client, first).await.unwrap();
        sim.crash(server);
        sim.clear_disk_faults(server);
        sim.restart(server, serve());
        sim.spawn_on(client, heals(known, object)).await.unwrap();
    });
}

#[allow(clippy::too_many_arguments)] // a scene with its whole cast
async fn fails(
    sim: Sim,
    server: NodeId,
    path: &'static str,
    role: &'static str,
    fault: DiskFault,
    says: &'static str,
    known: Rc<RefCell<Vec<u32>>>,
    object: Rc<Cell<Option<ObjectId>>>,
) {
    let system = connect().await;
    let pool = system.create_pool("tank", 200 << 20, Vec::new()).await.unwrap();
    assert_eq!(pool.disabled_targets, 0);
    let pool = system.pool("tank").await.unwrap();
    pool.create_container(ContainerSpec::labelled("c")).await.unwrap();
    let container = pool.container("c").await.unwrap();
    let kv = container.new_object(ObjectType::KvHashed, None).await.unwrap();
    object.set(Some(kv));
    assert!(put_all(&container, kv, 1, &known).await.is_empty());

    sim.disk_fault(server, path, fault, When::Chance(1.0));
    let errors = put_all(&container, kv, 2, &known).await;
    assert!(errors.len() > KEYS as usize / 5, "target 0 has some of the keys: {}", errors.len());
    assert!(errors.len() < KEYS as usize, "and target 1 takes the others");
    for error in &errors {
        assert_eq!(error.code, Code::Io, "{error}");
        for part in ["target 0", &format!("{role} device"), path, says] {
            assert!(error.message.contains(part), "'{part}' in: {error}");
        }
        assert!(error.remedy.as_ref().is_some_and(|remedy| remedy.contains("restart")), "{error:?}");
    }
    // What the operator sees.
    let devices = system.storage().await.unwrap().devices;
    let failure = devices[0].failure.as_ref().expect("target 0 says that it failed");
    assert!(failure.contains(path) && failure.contains(role) && failure.contains(says), "{failure}");
    assert_eq!(devices[1].failure, None);
    assert_eq!(system.pool_info("tank").await.unwrap().disabled_targets, 1);
}

async fn heals(known: Rc<RefCell<Vec<u32>>>, object: Rc<Cell<Option<ObjectId>>>) {
    let system = connect().await;
    assert_eq!(system.pool_info("tank").await.unwrap().disabled_targets, 0);
    let container = system.pool("tank").await.unwrap().container("c").await.unwrap();
    let kv = container.kv(object.get().unwrap());
    for key in 0..KEYS {
        let found = kv.get(format!("key-{key}").as_str()).await.unwrap().expect("K1: an acknowledged key");
        let round = known.borrow()[key as usize];
        // What was not acknowledged may have happened.
        let is_right = (round..=2).any(|round| found[..] == value(key, round)[..]);
        assert!(is_right, "K1: key {key} holds {}", found[0]);
    }
    assert!(put_all(&container, object.get().unwrap(), 3, &known).await.is_empty());
}

/// A file system beneath one target has no room: what is to be written there is refused, with words about it; everything can be
/// read; and when there is room it goes on by itself (K1).
fn check_full(path: &'static str, role: &'static str) {
    let sim = Sim::new(SimConfig::seeded(31));
    let (server, client) = (sim.node("server"), sim.node("client"));
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(server, serve());
        let known = Rc::new(RefCell::new(vec![0; KEYS as usize]));
        let object = Rc::new(Cell::new(None));
        let play = fills_up(sim.clone(), server, path, role, known.clone(), object.clone());
        sim.spawn_on(client, play).await.unwrap();
        // What was acknowledged when there was room again is durable as ever.
        sim.crash(server);
        sim.restart(server, serve());
        sim.spawn_on(client, heals(known, object)).await.unwrap();
    });
}

async fn fills_up(
    sim: Sim,
    server: NodeId,
    path: &'static str,
    role: &'static str,
    known: Rc<RefCell<Vec<u32>>>,
    object: Rc<Cell<Option<ObjectId>>>,
) {
    let system = connect().await;
    system.create_pool("tank", 200 << 20, Vec::new()).await.unwrap();
    let pool = system.pool("tank").await.unwrap();
    pool.create_container(ContainerSpec::labelled("c")).await.unwrap();
    let container = pool.container("c").await.unwrap();
    let kv = container.new_object(ObjectType::KvHashed, None).await.unwrap();
    object.set(Some(kv));
    assert!(put_all(&container, kv, 1, &known).await.is_empty());

    sim.disk_fault(server, path, DiskFault::Full, When::Chance(1.0));
    // Whoever is on the way when the disk is found to be full waits for room, or for its deadline.
    let first = {
        let kv = container.kv(kv);
        rt::spawn_local(async move {
            let mut unknown = 0;
            for key in 0..KEYS {
                let (name, value) = (format!("early-{key}"), value(key, 1));
                let put = kv.put(name.as_str(), &value);
                unknown += u32::from(rt::timeout(Duration::from_secs(3), put).await.is_err());
            }
            unknown
        })
    };
    let unknown = first.await.unwrap();
    assert!(unknown <= 1, "{unknown} waited, and were not told");
    let errors = put_all(&container, kv, 2, &known).await;
    assert!((KEYS / 5..KEYS).contains(&(errors.len() as u32)), "{} of {KEYS} keys are on target 0", errors.len());
    for error in &errors {
        assert_eq!(error.code, Code::NoSpace, "{error}");
        for part in ["target 0", &format!("{role} device"), path, "no space is left"] {
            assert!(error.message.contains(part), "'{part}' in: {error}");
        }
        assert!(error.remedy.as_ref().is_some_and(|remedy| remedy.contains("make room")), "{error:?}");
    }
    // It has not failed, and all of it can be read.
    assert_eq!(system.pool_info("tank").await.unwrap().disabled_targets, 0);
    for key in 0..KEYS {
        let found = container.kv(kv).get(format!("key-{key}").as_str()).await.unwrap().expect("an acknowledged key");
        assert!(found[..] == value(key, known.borrow()[key as usize])[..], "key {key} holds {}", found[0]);
    }
    sim.clear_disk_faults(server);
    rt::sleep(Duration::from_secs(2)).await;
    assert!(put_all(&container, kv, 2, &known).await.is_empty(), "there is room again");
}

#[test]
fn a_full_disk_refuses_updates_until_there_is_room() {
    check_full("/daos/target-0/log", "log");
    check_full("/daos/target-0/data", "data");
}

/// A rollback that one target cannot take fails, with the server going on: what is written afterwards where it was
/// done, or where it was not, is there after a restart. Left to be finished at the start, it would undo that.
#[test]
fn a_rollback_that_fails_is_not_finished_by_a_restart() {
    let sim = Sim::new(SimConfig::seeded(29));
    let (server, client) = (sim.node("server"), sim.node("client"));
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(server, serve());
        let known = Rc::new(RefCell::new(vec![0; KEYS as usize]));
        let first = sim.spawn_on(client, rollback_fails(sim.clone(), server, known.clone()));
        let object = first.await.unwrap();
        sim.crash(server);
        sim.clear_disk_faults(server);
        sim.restart(server, serve());
        sim.spawn_on(client, goes_back_at_last(known, object)).await.unwrap();
    });
}

async fn rollback_fails(sim: Sim, server: NodeId, known: Rc<RefCell<Vec<u32>>>) -> ObjectId {
    let system = connect().await;
    system.create_pool("tank", 200 << 20, Vec::new()).await.unwrap();
    let pool = system.pool("tank").await.unwrap();
    pool.create_container(ContainerSpec::labelled("c")).await.unwrap();
    let container = pool.container("c").await.unwrap();
    let kv = container.new_object(ObjectType::KvHashed, None).await.unwrap();
    assert!(put_all(&container, kv, 1, &known).await.is_empty());
    container.create_snapshot(Some("monday")).await.unwrap();
    assert!(put_all(&container, kv, 2, &known).await.is_empty());

    // Target 0 is asked first, and goes back; target 1 cannot write it down.
    sim.disk_fault(server, "/daos/target-1/log", DiskFault::WriteError, When::Chance(1.0));
    let refused = container.rollback("monday").await.unwrap_err();
    assert_eq!(refused.code, Code::Io, "{refused}");
    assert!(refused.message.contains("target 1"), "{refused}");
    assert!(refused.remedy.as_ref().is_some_and(|remedy| remedy.contains("ask for the rollback again")), "{refused:?}");
    let errors = put_all(&container, kv, 3, &known).await;
    assert!(errors.len() > KEYS as usize / 5, "target 1 has some of the keys: {}", errors.len());
    assert!(errors.len() < KEYS as usize, "and target 0, which went back, takes the others");
    assert!(errors.iter().all(|error| error.message.contains("target 1")), "{errors:?}");
    kv
}

async fn goes_back_at_last(known: Rc<RefCell<Vec<u32>>>, object: ObjectId) {
    let system = connect().await;
    let container = system.pool("tank").await.unwrap().container("c").await.unwrap();
    let kv = container.kv(object);
    let read = async |key: u32| kv.get(format!("key-{key}").as_str()).await.unwrap().expect("K1");
    for key in 0..KEYS {
        let found = read(key).await;
        let round = known.borrow()[key as usize];
        // On target 1 a write or the rollback may have been under way to its log, unacknowledged.
        let is_right = match round {
            3 => found[..] == value(key, 3)[..],
            _ => (1..=3).any(|round| found[..] == value(key, round)[..]),
        };
        assert!(is_right, "K1: key {key}, known to hold {round}, holds {}", found[0]);
    }
    container.rollback("monday").await.unwrap();
    for key in 0..KEYS {
        assert!(read(key).await[..] == value(key, 1)[..], "key {key} is as on monday");
    }
    assert!(put_all(&container, object, 4, &known).await.is_empty());
}

/// A server that is to start on a device which hangs says so, with the target, the device and what to do, at format and
/// at recovery; the other targets are as they were, and so is all that was acknowledged.
#[test]
fn a_server_that_starts_on_a_device_that_hangs_names_it() {
    for (path, role) in [("/daos/target-1/log", "log"), ("/daos/target-1/data", "data")] {
        let sim = Sim::new(SimConfig::seeded(31));
        let (server, client) = (sim.node("server"), sim.node("client"));
        sim.run(async move {
            let sim = rt::sim::current();
            let refused = move || async move {
                let error = Server::start(&config()).await.err().expect("it cannot start");
                assert_eq!(error.code, Code::TimedOut, "{error}");
                for part in ["target 1", &format!("{role} device"), path, "hangs"] {
                    assert!(error.message.contains(part), "'{part}' in: {error}");
                }
                let remedy = error.remedy.unwrap();
                assert!(remedy.contains("look after the device") && remedy.contains("io_timeout"), "{remedy}");
            };
            let slow = DiskFault::Stall(IO_TIMEOUT * 2);
            sim.disk_fault(server, path, slow, When::Chance(1.0));
            sim.spawn_on(server, refused()).await.unwrap();
            sim.crash(server);
            sim.clear_disk_faults(server);
            sim.restart(server, serve());
            let known = Rc::new(RefCell::new(vec![0; KEYS as usize]));
            let (noted, object) = (known.clone(), Rc::new(Cell::new(None)));
            let kept = object.clone();
            let work = async move {
                let system = connect().await;
                system.create_pool("tank", 200 << 20, Vec::new()).await.unwrap();
                let pool = system.pool("tank").await.unwrap();
                pool.create_container(ContainerSpec::labelled("c")).await.unwrap();
                let container = pool.container("c").await.unwrap();
                let kv = container.new_object(ObjectType::KvHashed, None).await.unwrap();
                kept.set(Some(kv));
                assert!(put_all(&container, kv, 1, &noted).await.is_empty());
            };
            sim.spawn_on(client, work).await.unwrap();
            sim.crash(server);
            sim.disk_fault(server, path, slow, When::Chance(1.0));
            sim.restart(server, refused()).await.unwrap();
            sim.crash(server);
            sim.clear_disk_faults(server);
            sim.restart(server, serve());
            sim.spawn_on(client, heals(known, object)).await.unwrap();
        });
    }
}

const FOR_EVER: DiskFault = DiskFault::Stall(Duration::from_secs(86_400));

#[test]
fn a_log_that_hangs_is_named() {
    check("/daos/target-0/log", "log", FOR_EVER, "hangs");
}

#[test]
fn a_data_device_that_hangs_is_named() {
    check("/daos/target-0/data", "data", FOR_EVER, "hangs");
}

#[test]
fn a_device_that_fails_is_named() {
    check("/daos/target-0/log", "log", DiskFault::WriteError, "input/output error");
    check("/daos/target-0/log", "log", DiskFault::SyncError, "input/output error");
    check("/daos/target-0/data", "data", DiskFault::WriteError, "input/output error");
    check("/daos/target-0/data", "data", DiskFault::SyncError, "input/output error");
}

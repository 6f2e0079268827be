//! Exactly once, across restarts (K5): clients that write the same keys, under a server that dies between what it
//! did and saying so.
//!
//! Every value is written by one request only. Whatever becomes of the server:
//! - an insert of a key that nobody else inserts is never refused because the key exists, and the removal of such
//!   a key is never refused because it does not;
//! - the container keeps all history: at the end, no value is there in two versions, and one whose write was
//!   answered is there at the epoch of the answer;
//! - somebody who reads a key again and again never sees a value come back that was gone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use client::{Container, ContainerSpec, Kv};
use engine::target::ANSWER_IS_LATE;
use engine::target::recall::RECALLED;
use rt::Rng;
use rt::fault::When;
use rt::sim::{NodeId, Sim};
use types::{Code, Conditions, Epoch, Error, ObjectId, ObjectType};
use vos::{Branch, Child, Stored};

use crate::nemesis::{self, Faults};
use crate::scenario::{POOL_BYTES, ServerNode, faulty, restart_server, start_server, stop_server, whole_stores};
use crate::workload::{connect, is_unknown, patiently};

const WRITERS: u64 = 3;
/// Requests of one writer in one run.
const OPERATIONS: u64 = 40;
/// Keys that all writers write.
const SHARED: u64 = 3;
/// So many answers stay away for longer than their client waits.
const LATE: f64 = 0.05;

/// How a run went.
#[derive(Debug)]
pub struct Report {
    pub faults: Faults,
    /// Requests that a store remembered from an earlier life.
    pub recalled: u64,
    /// Values found in the stores.
    pub values: usize,
    pub trace: u64,
}

/// What the writers know at the end.
#[derive(Default)]
struct Ledger {
    /// Values whose write was answered, with the epoch of the answer.
    answered: BTreeMap<Vec<u8>, Epoch>,
    /// Values whose write may have happened.
    unknown: BTreeSet<Vec<u8>>,
}

/// Runs the scenario of `seed`. Panics on a broken promise.
pub fn run(seed: u64) -> Report {
    let before = RECALLED.get();
    let sim = Sim::new(faulty(seed));
    let server = ServerNode::new(&sim);
    let writers: Vec<NodeId> = (0..WRITERS).map(|n| sim.node(&format!("client-{n}"))).collect();
    let (faults, values) = sim.run(play(seed, server, writers));
    Report { faults, recalled: RECALLED.get() - before, values, trace: sim.trace_hash() }
}

async fn play(seed: u64, server: ServerNode, writers: Vec<NodeId>) -> (Faults, usize) {
    let sim = rt::sim::current();
    start_server(&server);
    let system = connect().await;
    system.create_pool("tank", POOL_BYTES, Vec::new()).await.expect("there is room for a pool");
    let pool = patiently(|| system.pool("tank")).await;
    let properties = vec![("retention".to_string(), "forever".to_string())];
    let spec = ContainerSpec { properties, ..ContainerSpec::labelled("shared") };
    pool.create_container(spec).await.expect("nothing goes wrong yet");
    let container = patiently(|| pool.container("shared")).await;
    let object = patiently(|| container.new_object(ObjectType::KvHashed, None)).await;
    let (calm, ledger) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Ledger::default())));
    sim.arm(ANSWER_IS_LATE, When::Chance(LATE));
    let torment = {
        let (server, writers, calm) = (server.clone(), writers.clone(), calm.clone());
        rt::spawn_local(nemesis::torment(server, writers, Rng::seeded(seed ^ 0x5eed), calm))
    };
    let watcher = rt::spawn_local(watch(container.clone(), object, calm.clone()));
    let running: Vec<_> = writers
        .iter()
        .zip(0..)
        .map(|(node, number)| {
            let dice = Rng::seeded(seed.wrapping_add(number + 1));
            sim.spawn_on(*node, write(number, object, dice, ledger.clone()))
        })
        .collect();
    for writer in running {
        writer.await.expect("a client that broke a promise has said which");
    }
    calm.set(true);
    let faults = torment.await.expect("the nemesis only sleeps and breaks things");
    watcher.await.expect("a value that came back was named");
    sim.disarm(ANSWER_IS_LATE);
    sim.crash(server.node);
    restart_server(&server);
    drop((container, pool, system));
    drop(connect().await);
    stop_server(&server).await;
    let ledger = Rc::try_unwrap(ledger).ok().expect("the writers are done").into_inner();
    let found = sim.spawn_on(server.node, async move { audit(&ledger) }).await;
    (faults, found.expect("a promise that was broken was named"))
}

/// One writer's share.
async fn write(number: u64, object: ObjectId, mut dice: Rng, ledger: Rc<RefCell<Ledger>>) {
    let system = connect().await;
    let pool = patiently(|| system.pool("tank")).await;
    let container = patiently(|| pool.container("shared")).await;
    let kv = container.kv(object);
    // Keys of its own that are there.
    let mut own: Vec<String> = Vec::new();
    for operation in 0..OPERATIONS {
        rt::sleep(Duration::from_millis(dice.below(60))).await;
        let mut value = format!("{number}.{operation} ").into_bytes();
        // Some larger than what travels in a request's body.
        value.resize(if dice.below(8) == 0 { 5_000 } else { 20 }, b'.');
        let (key, done) = match dice.below(8) {
            0..=2 => {
                let key = format!("own {number}.{operation}");
                let done = kv.put_if(Conditions::DkeyInsert, key.as_str(), &value).await;
                if done.is_ok() {
                    own.push(key.clone());
                }
                (key, done)
            }
            3 if !own.is_empty() => {
                let key = own.swap_remove(dice.below(own.len() as u64) as usize);
                let done = kv.remove_if(Conditions::DkeyExists, key.as_str()).await;
                if let Err(error) = done {
                    assert!(is_unknown(&error), "K5: removing {key}, which nobody else removes: {error}");
                }
                continue;
            }
            _ => {
                let key = shared(dice.below(SHARED));
                let done = kv.put(key.as_str(), &value).await;
                (key, done)
            }
        };
        let mut ledger = ledger.borrow_mut();
        match done {
            Ok(epoch) => drop(ledger.answered.insert(value, epoch)),
            Err(error) if is_unknown(&error) => drop(ledger.unknown.insert(value)),
            Err(error) if error.code == Code::Exists => panic!("K5: {key}, which nobody else inserts: {error}"),
            Err(error) => panic!("writing {key}: {error}"),
        }
    }
}

fn shared(n: u64) -> String {
    format!("shared {n}")
}

/// Reads the shared keys one after another: what was gone must not come back.
async fn watch(container: Container, object: ObjectId, calm: Rc<Cell<bool>>) {
    let kv: Kv = container.kv(object);
    let mut seen = vec![Vec::<Vec<u8>>::new(); SHARED as usize];
    while !calm.get() {
        rt::sleep(Duration::from_millis(5)).await;
        for (n, seen) in (0..).zip(&mut seen) {
            let found: Result<_, Error> = kv.get(shared(n).as_str()).await;
            let value = match found {
                Ok(Some(value)) => value.to_vec(),
                Ok(None) => continue,
                Err(error) if is_unknown(&error) => continue,
                Err(error) => panic!("reading: {error}"),
            };
            if seen.last() == Some(&value) {
                continue;
            }
            let label = String::from_utf8_lossy(&value[..8]).into_owned();
            assert!(!seen.contains(&value), "K5: {label} of {} was overwritten, and is back", shared(n));
            seen.push(value);
        }
    }
}

/// Looks at every version of every value in the stores; returns how many there are.
fn audit(ledger: &Ledger) -> usize {
    let mut found: BTreeMap<Vec<u8>, Vec<Epoch>> = BTreeMap::new();
    for mut store in whole_stores() {
        let containers: Vec<_> = store.pools().into_iter().flat_map(|pool| store.containers(pool)).collect();
        for container in containers {
            let mut branches = vec![Branch::default()];
            while let Some(branch) = branches.pop() {
                let children = store.stored_children(container, &branch, None, vos::LIST_MAX).expect("it is whole");
                assert!(children.next.is_none(), "few enough to list at once");
                for child in children.entries {
                    branches.push(match child {
                        Child::Object(object) => Branch { object: Some(object), ..Branch::default() },
                        Child::Key(key) if branch.dkey.is_none() => Branch { dkey: Some(key), ..branch.clone() },
                        Child::Key(key) => Branch { akey: Some(key), ..branch.clone() },
                    });
                }
                if branch.akey.is_none() {
                    continue;
                }
                let records = store.stored_records(container, &branch, None, vos::LIST_MAX).expect("it is whole");
                for record in records.entries {
                    let (Stored::Single(_), Some(version)) = (&record.what, record.version) else { continue };
                    let bytes = store.stored_bytes(container, &record.key).expect("it is whole");
                    found.entry(bytes.expect("it is a value").0).or_default().push(version.epoch);
                }
            }
        }
    }
    for (value, epochs) in &found {
        let label = String::from_utf8_lossy(&value[..8]);
        assert_eq!(epochs.len(), 1, "K5: {label} was written {} times, at {epochs:?}", epochs.len());
        match ledger.answered.get(value) {
            Some(epoch) => assert_eq!(epochs[0], *epoch, "K5: {label} was answered with another epoch"),
            None => assert!(ledger.unknown.contains(value), "{label} was written by nobody"),
        }
    }
    for value in ledger.answered.keys() {
        assert!(found.contains_key(value), "K1: {} is lost", String::from_utf8_lossy(&value[..8]));
    }
    found.len()
}

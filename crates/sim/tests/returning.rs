//! Servers that were out return: they get what they missed, not what they have (K12, K15), and end with what the others
//! have, however often they go.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use client::{ContainerSpec, Kv, PoolInfo, PoolServers, System, TargetChange};
use placement::TargetState;
use rt::sim::{NetworkConfig, Sim, SimConfig};
use sim::cluster::Cluster;
use sim::contents::Place;
use types::{ObjectClass, ObjectType, Rank};

const SERVERS: usize = 3;
const POOL_BYTES: u64 = SERVERS as u64 * (200 << 20);
const DEADLINE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(120);

fn value(n: u64, version: u64) -> Vec<u8> {
    let len = [10, 3000, 50_000][(n % 3) as usize];
    (0..len).map(|at| (n + version * 7 + at) as u8).collect()
}

fn sim(seed: u64, drop: f64) -> Sim {
    let delay = Duration::from_micros(20)..=Duration::from_millis(2);
    let network = NetworkConfig { delay, drop, duplicate: 0.005 };
    Sim::new(SimConfig { network, time_limit: Duration::from_secs(7200), ..SimConfig::seeded(seed) })
}

fn simulate(seed: u64, drop: f64, test: impl AsyncFnOnce(Rc<Cluster>, System) + 'static) {
    sim(seed, drop).run(async move {
        let cluster = Rc::new(Cluster::form(SERVERS).await);
        let system = cluster.connect(DEADLINE).await;
        system.create_pool("tank", POOL_BYTES, Vec::new()).await.expect("there is room for a pool");
        test(cluster, system).await;
    });
}

/// Of three copies, one on each server.
async fn store(system: &System, label: &str, retention: &str) -> Kv {
    store_as(system, label, retention, "2", "RP_3GX").await
}

async fn store_as(system: &System, label: &str, retention: &str, rd_fac: &str, class: &str) -> Kv {
    let pool = system.pool("tank").await.unwrap();
    let properties = vec![("rd_fac".into(), rd_fac.into()), ("retention".into(), retention.into())];
    let spec = ContainerSpec { label: Some(label.into()), properties, ..ContainerSpec::default() };
    pool.create_container(spec).await.unwrap();
    let container = pool.container(label).await.unwrap();
    let class: ObjectClass = class.parse().unwrap();
    let oid = container.new_object(ObjectType::KvHashed, Some(class)).await.unwrap();
    // The pool's service has all its replicas by then.
    rt::sleep(Duration::from_secs(10)).await;
    container.kv(oid)
}

async fn put(kv: &Kv, keys: impl IntoIterator<Item = u64>, version: u64) {
    for n in keys {
        kv.put(n, &value(n, version)).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
    }
}

async fn until(system: &System, what: &str, pause: Duration, mut is_so: impl FnMut(&PoolInfo) -> bool) {
    let begun = rt::now();
    loop {
        let info = system.pool_info("tank").await.unwrap();
        if is_so(&info) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {what}: {info:?}");
        rt::sleep(pause).await;
    }
}

/// What a server's stores hold of groups of three copies: the newest of each key, and all versions.
type Held = (BTreeMap<(u32, String, String), Vec<u8>>, BTreeMap<Place, Option<Vec<u8>>>);

async fn held(cluster: &Cluster, rank: usize) -> Held {
    let (mut newest, mut all) = (BTreeMap::new(), BTreeMap::new());
    for contents in cluster.contents(rank).await {
        // In the order of their epochs.
        for (place, value) in contents.values {
            let (group, dkey, akey, _) = &place;
            let key = (*group, dkey.clone(), akey.clone());
            match &value {
                Some(bytes) => newest.insert(key, bytes.clone()),
                None => newest.remove(&key),
            };
            all.insert(place, value);
        }
    }
    (newest, all)
}

/// All servers end with the same; with all versions, where no history is forgotten.
async fn end_the_same(cluster: &Cluster, keys: usize, is_all: bool) {
    for rank in 0..SERVERS {
        cluster.stop(rank).await.unwrap();
    }
    let (newest, all) = held(cluster, 0).await;
    assert_eq!(newest.len(), keys);
    for rank in 1..SERVERS {
        let other = held(cluster, rank).await;
        assert!(other.0 == newest, "server {rank} has something else than server 0");
        assert!(!is_all || other.1 == all, "server {rank} has another history than server 0");
    }
}

/// A server is out for long enough to be taken out of the map, and others write, and forget what they may. It gets that,
/// while writes go on, and little more; it finds nothing that it has to drop.
fn out_for_a_while(seed: u64, retention: &'static str) {
    simulate(seed, 0.0, async move |cluster, system| {
        let kv = store(&system, "box", retention).await;
        let keys = 240;
        put(&kv, 0..keys, 0).await;
        let doomed = store(&system, "bin", retention).await;
        // Keys of its own: what stores hold is told apart by them.
        let removed = 1000..1020;
        put(&doomed, removed.clone(), 0).await;
        rt::sleep(Duration::from_secs(20)).await;
        let down = seed as usize % SERVERS;
        cluster.crash(down);
        until(&system, "out", Duration::from_millis(100), |info| info.disabled_targets > 0).await;
        // Every size.
        let missed: BTreeSet<u64> = (0..keys).step_by(20).collect();
        put(&kv, missed.clone(), 1).await;
        // The others may have nothing left of it, not even that it is gone.
        for n in removed.clone() {
            doomed.remove(n).await.unwrap();
        }
        // Horizons of pools on several servers stay half a minute behind.
        rt::sleep(Duration::from_secs(60)).await;
        cluster.restart(down).await;
        let is_over = Rc::new(Cell::new(false));
        let writer = {
            let (is_over, kv) = (is_over.clone(), kv.clone());
            rt::spawn_local(async move {
                let mut rounds = 0;
                while !is_over.get() {
                    rounds += 1;
                    put(&kv, [7, 8], 1 + rounds).await;
                    rt::sleep(Duration::from_millis(50)).await;
                }
                rounds
            })
        };
        let seen = RefCell::new((0, 0, 0));
        until(&system, "back", Duration::from_millis(1), |info| {
            let rebuild = &info.rebuild;
            assert_eq!(rebuild.anew, 0, "what it had was dropped");
            let mut seen = seen.borrow_mut();
            *seen = (seen.0.max(rebuild.records), seen.1.max(rebuild.bytes), seen.2.max(rebuild.same));
            info.disabled_targets == 0
        })
        .await;
        is_over.set(true);
        let rounds: u64 = writer.await.expect("writes go on");
        let (records, bytes, same) = *seen.borrow();
        let all: usize = (0..keys).map(|n| value(n, 0).len()).sum();
        let least: usize = missed.iter().map(|n| value(*n, 1).len()).sum();
        // What it missed came; with it some of what was written meanwhile, of which it was to hear as a member.
        assert!(records >= missed.len() as u64 && bytes >= least as u64, "{records} records, {bytes} bytes");
        let most = missed.len() as u64 + removed.clone().count() as u64 + 2 * rounds;
        assert!(bytes < all as u64 / 8 && records <= most, "{records} records of {most}, {bytes} bytes of {all}");
        assert!(same > keys * 8 / 10, "{same} of {keys} records were there");
        // What is removed is stored as long as anybody may ask for it.
        let is_kept = retention == "forever";
        let stored = keys + if is_kept { removed.count() as u64 } else { 0 };
        end_the_same(&cluster, stored as usize, is_kept).await;
    });
}

/// Servers go and return, and go again before they have what they missed, and the network loses messages: at the end all have
/// the same, and none of what anybody had was given up for that.
fn again_and_again(seed: u64, retention: &'static str) {
    simulate(seed, 0.01, async move |cluster, system| {
        let kv = store(&system, "box", retention).await;
        let keys = 90;
        put(&kv, 0..keys, 0).await;
        let (mut version, mut state) = (0, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut dice = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % below
        };
        for _ in 0..4 {
            let down = dice(SERVERS as u64) as usize;
            for _ in 0..1 + dice(3) {
                match dice(3) {
                    0 => cluster.kill(down),
                    _ => cluster.crash(down),
                }
                version += 1;
                let first = dice(keys);
                let some = (0..2 + dice(12)).map(|n| (first + n * 7) % keys).collect::<BTreeSet<_>>();
                for n in some.iter().filter(|n| *n % 4 == 0) {
                    kv.remove(*n).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
                }
                put(&kv, some, version).await;
                // Out by the map, or back before that.
                rt::sleep(Duration::from_millis(dice(12_000))).await;
                cluster.restart(down).await;
                put(&kv, [dice(keys)], version).await;
                // On its way, or already there.
                rt::sleep(Duration::from_millis(dice(2_500))).await;
            }
            until(&system, "back", Duration::from_millis(100), |info| {
                assert_eq!(info.rebuild.anew, 0, "what it had was dropped");
                info.disabled_targets == 0
            })
            .await;
        }
        // Whoever is just back says so to all.
        rt::sleep(Duration::from_secs(5)).await;
        end_the_same(&cluster, keys as usize, retention == "forever").await;
    });
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let from_env = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = from_env("SIM_FIRST", 1);
    first..first + from_env("SIM_SEEDS", default)
}

#[test]
fn who_was_out_for_a_while_gets_what_it_missed() {
    seeds(2).for_each(|seed| out_for_a_while(seed, "forever"));
}

/// The others have forgotten, meanwhile, what newer versions hide; so it has more than they, and that goes.
#[test]
fn who_was_out_while_history_was_forgotten_gets_what_it_missed() {
    seeds(2).for_each(|seed| out_for_a_while(seed, "0"));
}

#[test]
fn who_goes_again_and_again_ends_with_what_all_have() {
    seeds(2).for_each(|seed| again_and_again(seed, if seed % 2 == 0 { "0" } else { "forever" }));
}

/// What a server knows of the system.
fn system_here(cluster: &Cluster, rank: usize) -> Vec<u8> {
    cluster.states(rank).expect("it is up").remove("system").expect("every server has it")
}

async fn comes(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = rt::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not {what}");
        rt::sleep(Duration::from_millis(50)).await;
    }
}

fn hears_late_that_it_left(seed: u64) {
    sim(seed, 0.0).run(async {
        // Five vote on the system; the pool is on three others.
        let mut cluster = Cluster::form(5).await;
        let (voters, ranks) = (0..5, 5..8);
        for _ in ranks.clone() {
            cluster.join().await;
        }
        let system = cluster.connect(DEADLINE).await;
        let servers = PoolServers::Ranks { ranks: ranks.clone().map(|rank| Rank(rank as u32)).collect() };
        system.create_pool_on(servers, "tank", POOL_BYTES, Vec::new(), None).await.unwrap();
        let kv = store_as(&system, "box", "forever", "1", "RP_2GX").await;
        let keys = 60;
        put(&kv, 0..keys, 0).await;

        let lead = system.info().await.unwrap().leader.expect("it answered").0 as usize;
        let tend = system.pool_info("tank").await.unwrap().leader.expect("it answered").0 as usize;
        let late = ranks.clone().find(|rank| *rank != tend).expect("there are three");
        let nodes = |some: std::ops::Range<usize>| some.map(|rank| cluster.node(rank)).collect::<Vec<_>>();
        let sim = rt::sim::current();
        nodes(voters.clone()).into_iter().for_each(|voter| sim.partition(cluster.node(late), voter));
        let before = system_here(&cluster, lead);
        let change = |change| system.change_targets("tank", change, vec![Rank(late as u32)], Vec::new(), false);
        change(TargetChange::Drain).await.unwrap();
        comes("out of the pool's row", async || system_here(&cluster, lead) != before).await;
        // Of the server that leads the pool nobody hears that it is to be in the row again.
        sim.partition(cluster.node(tend), cluster.node(lead));
        let left = system_here(&cluster, lead);
        change(TargetChange::Reintegrate).await.unwrap();
        let serves = async || {
            // One that does not answer is asked again.
            let Ok(map) = cluster.map(tend, "tank").await else { return false };
            let mut targets = map.positions_of(Rank(late as u32)).map(|at| map.targets()[at as usize].state());
            targets.all(|state| state == TargetState::UpIn)
        };
        comes("back", serves).await;
        assert_eq!(system_here(&cluster, late), before, "it has not heard yet");

        nodes(voters).into_iter().for_each(|voter| sim.heal(cluster.node(late), voter));
        comes("told that it left", async || system_here(&cluster, late) == left).await;
        rt::sleep(Duration::from_secs(10)).await;
        assert_eq!(system_here(&cluster, lead), left, "nobody said yet that it is back");
        assert_eq!(cluster.states(late).expect("it is up").len(), 2, "it has the pool still");
        sim.heal(cluster.node(tend), cluster.node(lead));
        comes("in the pool's row", async || system_here(&cluster, late) != left).await;
        rt::sleep(Duration::from_secs(10)).await;
        for n in 0..keys {
            assert!(kv.get(n).await.unwrap().as_deref() == Some(&value(n, 0)[..]), "key {n}");
        }
        let mut copies = BTreeMap::new();
        for rank in ranks {
            cluster.stop(rank).await.unwrap();
            held(&cluster, rank).await.0.into_keys().for_each(|place| *copies.entry(place).or_insert(0) += 1);
        }
        assert_eq!(copies.len() as u64, keys);
        assert!(copies.values().all(|count| *count >= 2), "{copies:?}");
    });
}

/// A server is drained, and wanted back before it has heard that it left, because nobody tells it how the system stands; the
/// pool does, and so it is filled and serves. Then it hears that it left, and not yet that it came back: it dropped what it had,
/// and the map said that it served. It asks the pool first.
#[test]
fn who_hears_late_that_it_left_keeps_what_it_got_since() {
    seeds(1).for_each(hears_late_that_it_left);
}

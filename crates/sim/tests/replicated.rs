//! Objects with copies, in a system of three servers: what was acknowledged is read, whoever is down.

use std::time::Duration;

use client::{ContainerSpec, Kv, System};
use rt::sim::{NetworkConfig, Sim, SimConfig};
use sim::cluster::Cluster;
use types::{ObjectClass, ObjectType};

/// Fits two servers as well as five.
const POOL_BYTES: u64 = 3 * (200 << 20);
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a server may take until it has what it missed.
const PATIENCE: Duration = Duration::from_secs(120);

fn value(n: u64) -> Vec<u8> {
    let len = [10, 3000, 50_000][(n % 3) as usize];
    (0..len).map(|at| (n + at) as u8).collect()
}

/// A store of keys with so many copies.
async fn store(system: &System, copies: usize) -> Kv {
    system.create_pool("tank", POOL_BYTES, Vec::new()).await.expect("there is room for a pool");
    let pool = system.pool("tank").await.unwrap();
    let factor = (copies - 1).to_string();
    let spec = ContainerSpec {
        label: Some("box".into()),
        properties: vec![("rd_fac".into(), factor)],
        ..ContainerSpec::default()
    };
    pool.create_container(spec).await.unwrap();
    let container = pool.container("box").await.unwrap();
    let class: ObjectClass = format!("RP_{copies}GX").parse().unwrap();
    let oid = container.new_object(ObjectType::KvHashed, Some(class)).await.unwrap();
    container.kv(oid)
}

async fn put(kv: &Kv, keys: std::ops::Range<u64>) {
    for n in keys {
        kv.put(n, &value(n)).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
    }
}

/// Removes keys, and writes them again.
async fn overwrite(kv: &Kv, keys: std::ops::Range<u64>) {
    for n in keys {
        kv.remove(n).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
        kv.put(n, &value(n)).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
    }
}

/// Waits until all targets are in service.
async fn in_service(system: &System) {
    let begun = rt::now();
    loop {
        let info = system.pool_info("tank").await.unwrap();
        if info.disabled_targets == 0 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "some targets do not come back: {info:?}");
        rt::sleep(Duration::from_millis(200)).await;
    }
}

async fn is_whole(kv: &Kv, keys: std::ops::Range<u64>) {
    for n in keys {
        let found = kv.get(n).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
        assert_eq!(found.as_deref(), Some(&value(n)[..]), "key {n}");
    }
}

fn run(seed: u64, copies: usize) {
    let delay = Duration::from_micros(20)..=Duration::from_millis(2);
    let network = NetworkConfig { delay, drop: 0.002, duplicate: 0.005 };
    let sim = Sim::new(SimConfig { network, time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    sim.run(async move {
        let cluster = Cluster::form(3).await;
        let system = cluster.connect(DEADLINE).await;
        let kv = store(&system, copies).await;
        put(&kv, 0..60).await;
        is_whole(&kv, 0..60).await;
        // The pool's service has all its replicas by now.
        rt::sleep(Duration::from_secs(10)).await;
        // One after the other, whoever it is: reads and writes go on, without an error. What one misses is brought to it,
        // for the next to die may have the only other copy.
        let mut written = 60;
        for turn in 0..3 {
            let down = (seed as usize + turn) % 3;
            cluster.crash(down);
            put(&kv, written..written + 40).await;
            written += 40;
            is_whole(&kv, 0..written).await;
            overwrite(&kv, 0..10).await;
            cluster.restart(down).await;
            put(&kv, written..written + 10).await;
            written += 10;
            in_service(&system).await;
            is_whole(&kv, 0..written).await;
        }
    });
}

/// Of five servers two die, one after the other; what has both its copies there is awaited, and nothing is lost, whichever of
/// them is back first: the one that served last knows what the other has missed.
fn two_are_out(seed: u64) {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    sim.run(async move {
        let cluster = Cluster::form(5).await;
        let system = cluster.connect(DEADLINE).await;
        let kv = store(&system, 2).await;
        put(&kv, 0..40).await;
        rt::sleep(Duration::from_secs(10)).await;
        let (first, second) = ((seed % 5) as usize, ((seed + 1 + seed % 3) % 5) as usize);
        cluster.crash(first);
        put(&kv, 0..80).await;
        // Both are out by the map before anybody returns.
        cluster.crash(second);
        rt::sleep(Duration::from_secs(20)).await;
        for rank in if seed.is_multiple_of(2) { [first, second] } else { [second, first] } {
            cluster.restart(rank).await;
            rt::sleep(Duration::from_secs(10)).await;
        }
        in_service(&system).await;
        is_whole(&kv, 0..80).await;
        put(&kv, 80..100).await;
        is_whole(&kv, 0..100).await;
    });
}

/// A server loses its power and says nothing more, not even that its connections are gone: the longest time that a write
/// takes, until it is somewhere else. Its link once waited a quarter of the client's time for each group that it led.
fn longest_write_over_a_death(seed: u64, copies: usize) -> Duration {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    sim.run(async move {
        let cluster = Cluster::form(3).await;
        let system = cluster.connect(DEADLINE).await;
        let kv = store(&system, copies).await;
        put(&kv, 0..60).await;
        rt::sleep(Duration::from_secs(10)).await;
        cluster.crash(seed as usize % 3);
        let mut longest = Duration::ZERO;
        for n in 60..120 {
            let begun = rt::now();
            put(&kv, n..n + 1).await;
            longest = longest.max(begun.elapsed());
        }
        is_whole(&kv, 0..120).await;
        longest
    })
}

#[test]
fn writes_go_on_within_three_seconds_of_a_death() {
    for seed in 0..6 {
        let longest = longest_write_over_a_death(seed, 2 + (seed % 2) as usize);
        assert!(longest < Duration::from_secs(3), "seed {seed}: {longest:?}");
    }
}

/// One program with much under way: of a request that waited for a dead leader while hundreds of others went on, targets
/// could not tell any more whether it ran, and its client was refused until its time was up.
fn a_busy_client_bears_a_death(seed: u64) {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    sim.run(async move {
        let cluster = Cluster::form(3).await;
        let system = cluster.connect(DEADLINE).await;
        let kv = store(&system, 2).await;
        rt::sleep(Duration::from_secs(10)).await;
        let task = |n: u64| {
            let kv = kv.clone();
            rt::spawn_local(async move { put(&kv, n * 100..(n + 1) * 100).await })
        };
        let tasks: Vec<_> = (0..64).map(task).collect();
        rt::sleep(Duration::from_millis(300)).await;
        cluster.crash(seed as usize % 3);
        for task in tasks {
            task.await.expect("it ends");
        }
        for n in (0..6400).step_by(61) {
            is_whole(&kv, n..n + 1).await;
        }
    });
}

#[test]
fn a_program_with_much_under_way_bears_the_death_of_a_server() {
    (0..2).for_each(a_busy_client_bears_a_death);
}

#[test]
fn two_servers_that_were_out_at_once_return_in_the_right_order() {
    (0..4).for_each(two_are_out);
}

#[test]
fn two_copies_bear_the_death_of_any_server() {
    (0..3).for_each(|seed| run(seed, 2));
}

#[test]
fn three_copies_bear_the_death_of_any_server() {
    (3..6).for_each(|seed| run(seed, 3));
}

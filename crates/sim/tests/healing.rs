//! What one server held gets another home: after a death, when it drains, when others join (K1, K12).

use std::time::Duration;

use client::{ContainerSpec, Kv, PoolInfo, RebuildState, System, TargetChange};
use rt::sim::{NetworkConfig, Sim, SimConfig};
use sim::cluster::Cluster;
use types::{Code, ObjectClass, ObjectType, Rank};

/// A pool's share of each server.
const SERVER_BYTES: u64 = 180 << 20;
const DEADLINE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);
const KEYS: u64 = 120;

fn value(n: u64) -> Vec<u8> {
    let len = [10, 3000, 50_000][(n % 3) as usize];
    (0..len).map(|at| (n + at) as u8).collect()
}

async fn store(system: &System, copies: usize) -> Kv {
    let pool = system.pool("tank").await.unwrap();
    let label = format!("box-{copies}");
    let properties = vec![("rd_fac".into(), (copies - 1).to_string())];
    let spec = ContainerSpec { label: Some(label.clone()), properties, ..ContainerSpec::default() };
    pool.create_container(spec).await.unwrap();
    let class: ObjectClass = if copies == 1 { "SX".parse() } else { format!("RP_{copies}GX").parse() }.unwrap();
    let container = pool.container(&label).await.unwrap();
    let oid = container.new_object(ObjectType::KvHashed, Some(class)).await.unwrap();
    container.kv(oid)
}

async fn put(kv: &Kv, keys: std::ops::Range<u64>) {
    for n in keys {
        kv.put(n, &value(n)).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
    }
}

async fn is_whole(kv: &Kv, keys: std::ops::Range<u64>) {
    for n in keys {
        let found = kv.get(n).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
        assert_eq!(found.as_deref(), Some(&value(n)[..]), "key {n}");
    }
}

async fn until(system: &System, what: &str, is_so: impl Fn(&PoolInfo) -> bool) -> PoolInfo {
    let begun = rt::now();
    loop {
        let info = system.pool_info("tank").await.unwrap();
        if is_so(&info) {
            return info;
        }
        assert!(begun.elapsed() < PATIENCE, "not {what}: {info:?}");
        rt::sleep(Duration::from_millis(200)).await;
    }
}

fn in_a_system(seed: u64, servers: usize, test: impl AsyncFnOnce(Cluster, System) + 'static) {
    let delay = Duration::from_micros(20)..=Duration::from_millis(2);
    let network = NetworkConfig { delay, drop: 0.002, duplicate: 0.005 };
    let sim = Sim::new(SimConfig { network, time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    sim.run(async move {
        let cluster = Cluster::form(servers).await;
        let system = cluster.connect(DEADLINE).await;
        system.create_pool("tank", servers as u64 * SERVER_BYTES, Vec::new()).await.expect("there is room for a pool");
        // The pool's service has all its replicas by then.
        rt::sleep(Duration::from_secs(10)).await;
        test(cluster, system).await;
    });
}

/// A server dies for good: its copies are made anew elsewhere, while writes go on. Then another dies, which with two
/// copies would have taken some with it. What had one copy is not there, and says so; when the first is back it is.
fn a_dead_server_is_replaced(seed: u64) {
    in_a_system(seed, 4, async move |cluster, system| {
        let (two, one) = (store(&system, 2).await, store(&system, 1).await);
        put(&two, 0..KEYS).await;
        put(&one, 0..40).await;
        let (first, second) = ((seed % 4) as usize, ((seed + 1 + seed % 3) % 4) as usize);
        cluster.crash(first);
        put(&two, KEYS..KEYS + 40).await;
        let is_healed =
            |info: &PoolInfo| info.rebuild.state == RebuildState::Idle && info.rebuild.awaited == [Rank(first as u32)];
        until(&system, "healed", is_healed).await;
        cluster.crash(second);
        is_whole(&two, 0..KEYS + 40).await;
        put(&two, 0..KEYS + 60).await;
        let mut missing = 0;
        for n in 0..40 {
            match one.get(n).await {
                Ok(found) => assert_eq!(found.as_deref(), Some(&value(n)[..]), "key {n}"),
                Err(error) => {
                    assert_eq!(error.code, Code::Unreachable, "key {n}: {error}");
                    missing += 1;
                }
            }
            // Each waits for its whole time.
            if missing > 1 {
                break;
            }
        }
        assert!(missing > 0, "two of four servers held none of 40 keys");
        cluster.restart(second).await;
        rt::sleep(Duration::from_secs(5)).await;
        cluster.restart(first).await;
        until(&system, "all in service", |info| info.disabled_targets == 0).await;
        is_whole(&two, 0..KEYS + 60).await;
        is_whole(&one, 0..40).await;
    });
}

/// A server is emptied and taken away, and a new one takes its share; nobody notices.
fn servers_come_and_go(seed: u64) {
    in_a_system(seed, 3, async move |mut cluster, system| {
        let (two, one) = (store(&system, 2).await, store(&system, 1).await);
        put(&two, 0..KEYS).await;
        put(&one, 0..KEYS).await;
        let joined = cluster.join().await;
        system.extend_pool("tank", vec![Rank(joined)]).await.unwrap();
        put(&two, KEYS..KEYS + 40).await;
        until(&system, "extended", |info| info.disabled_targets == 0 && info.rebuild.state == RebuildState::Idle).await;
        is_whole(&two, 0..KEYS + 40).await;
        is_whole(&one, 0..KEYS).await;
        let leaving = (seed % 3) as u32;
        system.change_targets("tank", TargetChange::Drain, vec![Rank(leaving)], Vec::new(), false).await.unwrap();
        put(&two, KEYS + 40..KEYS + 60).await;
        until(&system, "drained", |info| info.disabled_targets == 2 && info.rebuild.state == RebuildState::Idle).await;
        // Nothing of the pool is there any more; who goes by an older map is sent on.
        until(&system, "left", |info| !info.ranks.contains(&Rank(leaving))).await;
        is_whole(&two, 0..KEYS + 60).await;
        is_whole(&one, 0..KEYS).await;
        cluster.crash(leaving as usize);
        is_whole(&two, 0..KEYS + 60).await;
        is_whole(&one, 0..KEYS).await;
        // It makes its share anew, and gets its places back.
        cluster.restart(leaving as usize).await;
        rt::sleep(Duration::from_secs(5)).await;
        system.change_targets("tank", TargetChange::Reintegrate, vec![Rank(leaving)], Vec::new(), false).await.unwrap();
        put(&two, KEYS + 60..KEYS + 80).await;
        until(&system, "back", |info| info.disabled_targets == 0 && info.rebuild.state == RebuildState::Idle).await;
        is_whole(&two, 0..KEYS + 80).await;
        is_whole(&one, 0..KEYS).await;
    });
}

/// Nothing is made anew while the pool's policy forbids it. A server that does not come back is given up: what only it had
/// is gone, its places are others', and a new server may come.
fn a_dead_server_is_given_up(seed: u64) {
    in_a_system(seed, 3, async move |mut cluster, system| {
        let policy = |text: &str| vec![("self_heal".to_string(), text.to_string())];
        system.set_pool_properties("tank", policy("exclude")).await.unwrap();
        let (two, one) = (store(&system, 2).await, store(&system, 1).await);
        put(&two, 0..KEYS).await;
        put(&one, 0..40).await;
        let dead = (seed % 3) as usize;
        cluster.crash(dead);
        put(&two, 0..KEYS).await;
        rt::sleep(Duration::from_secs(20)).await;
        let info = system.pool_info("tank").await.unwrap();
        assert_eq!((info.rebuild.state, info.rebuild.groups), (RebuildState::Busy, 0), "{info:?}");
        system.set_pool_properties("tank", policy("exclude;rebuild")).await.unwrap();
        let awaited = [Rank(dead as u32)];
        until(&system, "healed", |i| i.rebuild.state == RebuildState::Idle && i.rebuild.awaited == awaited).await;
        let joined = cluster.join().await;
        let early = system.extend_pool("tank", vec![Rank(joined)]).await;
        assert!(early.is_err_and(|error| error.code == Code::Busy));
        system.change_targets("tank", TargetChange::GiveUp, awaited.to_vec(), Vec::new(), false).await.unwrap();
        until(&system, "given up", |info| info.rebuild.awaited.is_empty()).await;
        let mut gone = 0;
        for n in 0..40 {
            match one.get(n).await.unwrap() {
                None => gone += 1,
                found => assert_eq!(found.as_deref(), Some(&value(n)[..]), "key {n}"),
            }
        }
        assert!(gone > 0, "one of three servers held none of 40 keys");
        put(&one, 0..40).await;
        system.extend_pool("tank", vec![Rank(joined)]).await.unwrap();
        until(&system, "extended", |i| i.rebuild.state == RebuildState::Idle && i.disabled_targets == 2).await;
        is_whole(&one, 0..40).await;
        is_whole(&two, 0..KEYS).await;
    });
}

/// Two of five servers die at once, for good. All objects have three copies, so nothing is out of reach and nobody has to be
/// given up. What has two copies and came later may be refused its place for a while, and holds up nothing either: where
/// both of its places are dead, it never was.
fn two_die_at_once_and_three_copies_are_enough(seed: u64) {
    in_a_system(seed, 5, async move |cluster, system| {
        let three = store(&system, 3).await;
        put(&three, 0..KEYS).await;
        let dead = [(seed % 5) as usize, ((seed + 1 + seed % 3) % 5) as usize];
        dead.iter().for_each(|server| cluster.crash(*server));
        put(&three, KEYS..KEYS + 20).await;
        let two = store(&system, 2).await;
        put(&two, 0..40).await;
        let all_out = |info: &PoolInfo| info.rebuild.awaited.len() == 2;
        let is_healed = |info: &PoolInfo| info.rebuild.state == RebuildState::Idle && all_out(info);
        until(&system, "healed", is_healed).await;
        is_whole(&three, 0..KEYS + 20).await;
        is_whole(&two, 0..40).await;
        for server in dead {
            cluster.restart(server).await;
        }
        until(&system, "all in service", |info| info.disabled_targets == 0).await;
        is_whole(&three, 0..KEYS + 20).await;
        is_whole(&two, 0..40).await;
    });
}

/// As before, but there are objects of two copies, and some of them had both on the dead: what stands in for these would
/// count as empty. The pool waits until they are back, and nothing is lost.
fn two_die_at_once_and_two_copies_wait(seed: u64) {
    in_a_system(seed, 5, async move |cluster, system| {
        let (three, two) = (store(&system, 3).await, store(&system, 2).await);
        put(&three, 0..40).await;
        put(&two, 0..KEYS).await;
        let dead = [(seed % 5) as usize, ((seed + 2) % 5) as usize];
        dead.iter().for_each(|server| cluster.crash(*server));
        until(&system, "waiting", |info| info.rebuild.state == RebuildState::Waiting).await;
        rt::sleep(Duration::from_secs(30)).await;
        let info = system.pool_info("tank").await.unwrap();
        assert_eq!((info.rebuild.state, info.rebuild.awaited.len()), (RebuildState::Waiting, 2), "{info:?}");
        // Whichever was excluded last may come by itself, and the other after it.
        for server in dead {
            cluster.restart(server).await;
        }
        until(&system, "all in service", |info| info.disabled_targets == 0).await;
        is_whole(&three, 0..40).await;
        is_whole(&two, 0..KEYS).await;
    });
}

/// What an administrator stops stays as far as it came, also over a change of the leader, and goes on when he says so.
fn a_rebuild_is_stopped_and_started(seed: u64) {
    in_a_system(seed, 4, async move |cluster, system| {
        let two = store(&system, 2).await;
        put(&two, 0..KEYS).await;
        let refused = system.rebuild("tank", false).await.unwrap_err();
        assert_eq!((refused.code, refused.remedy.is_some()), (Code::NotFound, true), "{refused}");
        let leaving = Rank((seed % 4) as u32);
        system.change_targets("tank", TargetChange::Drain, vec![leaving], Vec::new(), false).await.unwrap();
        let stopped = system.rebuild("tank", false).await.unwrap();
        assert_eq!(stopped.rebuild.state, RebuildState::Stopped, "{stopped:?}");
        // What was under way comes to its end.
        rt::sleep(Duration::from_secs(2)).await;
        let before = system.pool_info("tank").await.unwrap();
        cluster.crash(before.leader.unwrap().0 as usize);
        put(&two, KEYS..KEYS + 20).await;
        cluster.restart(before.leader.unwrap().0 as usize).await;
        rt::sleep(Duration::from_secs(20)).await;
        let after = system.pool_info("tank").await.unwrap();
        assert_eq!(after.rebuild.state, RebuildState::Stopped, "{after:?}");
        assert!(after.disabled_targets > 0, "who came back gets what it missed later");
        system.rebuild("tank", true).await.unwrap();
        until(&system, "drained", |info| info.rebuild.state == RebuildState::Idle && info.disabled_targets == 2).await;
        is_whole(&two, 0..KEYS + 20).await;
    });
}

#[test]
fn what_is_stopped_stays_as_it_is_until_it_is_started() {
    (0..2).for_each(a_rebuild_is_stopped_and_started);
}

#[test]
fn two_servers_that_die_at_once_hold_up_nothing_that_has_three_copies() {
    (0..2).for_each(two_die_at_once_and_three_copies_are_enough);
}

#[test]
fn two_servers_that_die_at_once_are_waited_for_when_both_copies_may_be_theirs() {
    (0..2).for_each(two_die_at_once_and_two_copies_wait);
}

#[test]
fn what_only_a_dead_server_had_is_written_off_when_it_is_given_up() {
    (0..2).for_each(a_dead_server_is_given_up);
}

#[test]
fn what_a_dead_server_held_is_made_anew_elsewhere() {
    (0..4).for_each(a_dead_server_is_replaced);
}

#[test]
fn servers_are_added_and_drained_under_load() {
    (0..3).for_each(servers_come_and_go);
}

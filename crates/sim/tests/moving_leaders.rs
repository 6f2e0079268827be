//! Leaders of placement groups move while servers drain and return, and writes go on: who led gives its lease up.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use client::{ContainerSpec, Kv, PoolInfo, RebuildState, System, TargetChange};
use engine::replication::LEASE;
use rt::sim::{NetworkConfig, Sim, SimConfig};
use sim::cluster::Cluster;
use types::{ObjectClass, ObjectType, Rank};

const SERVERS: usize = 4;
const SERVER_BYTES: u64 = 180 << 20;
const PATIENCE: Duration = Duration::from_secs(120);
/// Keys that are written all the time, each by a writer of its own: they lie in different groups.
const WRITERS: u64 = 16;

fn in_a_system(seed: u64, test: impl AsyncFnOnce(Cluster, System) + 'static) {
    let delay = Duration::from_micros(20)..=Duration::from_millis(2);
    let network = NetworkConfig { delay, drop: 0.0, duplicate: 0.005 };
    let sim = Sim::new(SimConfig { network, time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    sim.run(async move {
        let cluster = Cluster::form(SERVERS).await;
        let system = cluster.connect(PATIENCE).await;
        system.create_pool("tank", SERVERS as u64 * SERVER_BYTES, Vec::new()).await.expect("there is room for a pool");
        // The pool's service has all its replicas by then.
        rt::sleep(Duration::from_secs(10)).await;
        test(cluster, system).await;
    });
}

async fn store(system: &System) -> Kv {
    let pool = system.pool("tank").await.unwrap();
    let properties = vec![("rd_fac".into(), "2".into())];
    let spec = ContainerSpec { label: Some("box".into()), properties, ..ContainerSpec::default() };
    pool.create_container(spec).await.unwrap();
    let class: ObjectClass = "RP_3GX".parse().unwrap();
    let container = pool.container("box").await.unwrap();
    let oid = container.new_object(ObjectType::KvHashed, Some(class)).await.unwrap();
    container.kv(oid)
}

/// Writers that go on until told to stop, and the longest that any of them waited for a write.
struct Writers {
    is_over: Rc<Cell<bool>>,
    /// The longest wait since it was looked at, and of which key.
    longest: Rc<Cell<(Duration, u64)>>,
    tasks: Vec<rt::JoinHandle<u64>>,
}

impl Writers {
    fn begin(kv: &Kv) -> Writers {
        let (is_over, longest) = (Rc::new(Cell::new(false)), Rc::<Cell<(Duration, u64)>>::default());
        let begin = |n| rt::spawn_local(write(kv.clone(), n, is_over.clone(), Rc::clone(&longest)));
        let tasks = (0..WRITERS).map(begin).collect();
        Writers { is_over, longest, tasks }
    }

    fn take_longest(&self) -> (Duration, u64) {
        self.longest.take()
    }

    /// How many writes were acknowledged.
    async fn end(self) -> u64 {
        self.is_over.set(true);
        let mut all = 0;
        for task in self.tasks {
            all += task.await.expect("writes go on");
        }
        all
    }
}

async fn write(kv: Kv, n: u64, is_over: Rc<Cell<bool>>, longest: Rc<Cell<(Duration, u64)>>) -> u64 {
    let mut count = 0;
    while !is_over.get() {
        let begun = rt::now();
        kv.put(n, &[count as u8; 100]).await.unwrap_or_else(|error| panic!("key {n}: {error}"));
        count += 1;
        longest.set(longest.get().max((begun.elapsed(), n)));
        rt::sleep(Duration::from_millis(4)).await;
    }
    count
}

async fn until(system: &System, what: &str, is_so: impl Fn(&PoolInfo) -> bool) {
    let begun = rt::now();
    loop {
        let info = system.pool_info("tank").await.unwrap();
        if is_so(&info) && info.rebuild.state == RebuildState::Idle {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {what}: {info:?}");
        rt::sleep(Duration::from_millis(50)).await;
    }
}

/// A server drains, and is taken back. Leaders change with each, and when what follows is done. No write waits for nearly as long as a lease: once, each
/// group whose leader moved stood still for a second.
#[test]
fn no_write_waits_for_a_lease_when_leaders_move() {
    in_a_system(1, async move |_cluster, system| {
        let kv = store(&system).await;
        let writers = Writers::begin(&kv);
        rt::sleep(Duration::from_secs(2)).await;
        writers.take_longest();
        let targets = |change| system.change_targets("tank", change, vec![Rank(1)], Vec::new(), false);
        targets(TargetChange::Drain).await.unwrap();
        until(&system, "drained", |info| !info.ranks.contains(&Rank(1))).await;
        rt::sleep(Duration::from_secs(2)).await;
        let drained = writers.take_longest();
        targets(TargetChange::Reintegrate).await.unwrap();
        until(&system, "back", |info| info.disabled_targets == 0).await;
        rt::sleep(Duration::from_secs(2)).await;
        let back = writers.take_longest();
        let count = writers.end().await;
        println!("{count} writes; the longest waited {drained:?} for the drain, {back:?} for the way back");
        assert!(count > 2000, "{count} writes");
        for (longest, key) in [drained, back] {
            assert!(longest < LEASE / 2, "a write of key {key} took {longest:?}");
        }
    });
}

//! One server, some clients, one seed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use control::config::{Config, Storage};
use control::server::Server;
use rt::Rng;
use rt::sim::{NetworkConfig, NodeId, Sim, SimConfig};

use crate::nemesis::{self, Faults};
use crate::workload;

/// Where the server answers.
pub const ADDRESS: &str = "mem://server";
const CLIENTS: u64 = 2;
const TARGETS: u32 = 2;
const STORAGE_BYTES: u64 = 2 * (160 << 20);
/// Small, so that pages are evicted and checkpoints run.
const MEMORY_BYTES: u64 = 8 << 20;
pub(crate) const POOL_BYTES: u64 = 200 << 20;

/// The server's node, and the flag that tells its present life to end in order.
#[derive(Clone)]
pub struct ServerNode {
    pub node: NodeId,
    stop: Rc<tokio::sync::Notify>,
    stopped: Rc<Cell<bool>>,
}

impl ServerNode {
    pub(crate) fn new(sim: &Sim) -> ServerNode {
        ServerNode {
            node: sim.node("server"),
            stop: Rc::new(tokio::sync::Notify::new()),
            stopped: Rc::new(Cell::new(false)),
        }
    }
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    pub faults: Faults,
    /// Of everything that happened, in order: equal for equal seeds.
    pub trace: u64,
}

/// Runs the scenario of `seed`. Panics on a broken promise.
pub fn run(seed: u64) -> Report {
    let sim = Sim::new(faulty(seed));
    let server = ServerNode::new(&sim);
    let clients: Vec<NodeId> = (0..CLIENTS).map(|n| sim.node(&format!("client-{n}"))).collect();
    let faults = sim.run(play(seed, server, clients));
    Report { faults, trace: sim.trace_hash() }
}

/// A network that delays, loses and repeats; disks as they are.
pub(crate) fn faulty(seed: u64) -> SimConfig {
    let healthy = SimConfig::seeded(seed);
    let delay = Duration::from_micros(20)..=Duration::from_millis(3);
    SimConfig { network: NetworkConfig { delay, drop: 0.005, duplicate: 0.01 }, ..healthy }
}

async fn play(seed: u64, server: ServerNode, clients: Vec<NodeId>) -> Faults {
    let sim = rt::sim::current();
    start_server(&server);
    let system = workload::connect().await;
    system.create_pool("tank", POOL_BYTES, Vec::new()).await.expect("there is room for a pool");
    let calm = Rc::new(Cell::new(false));
    let torment = {
        let (server, clients, calm) = (server.clone(), clients.clone(), calm.clone());
        rt::spawn_local(nemesis::torment(server, clients, Rng::seeded(seed ^ 0x5eed), calm))
    };
    let running: Vec<_> = clients
        .iter()
        .zip(0..)
        .map(|(node, number)| sim.spawn_on(*node, workload::run(number, Rng::seeded(seed.wrapping_add(number + 1)))))
        .collect();
    let mut witnesses = Vec::new();
    for client in running {
        witnesses.push(client.await.expect("a client that broke a promise has said which"));
    }
    calm.set(true);
    let faults = torment.await.expect("the nemesis only sleeps and breaks things");

    // Once more from power off: what is promised must be on the disk, not in memory.
    sim.crash(server.node);
    restart_server(&server);
    let pool = workload::connect().await.pool("tank").await.expect("the pool survives");
    for witness in &witnesses {
        witness.verify(&pool).await;
    }
    drop((pool, system));
    stop_server(&server).await;
    sim.spawn_on(server.node, check()).await.expect("a store that broke an invariant has said which");
    faults
}

/// Ends the server's present life in order.
pub(crate) async fn stop_server(server: &ServerNode) {
    server.stop.notify_one();
    while !server.stopped.get() {
        rt::sleep(Duration::from_millis(50)).await;
    }
}

/// Begins the first life of the server on its node.
pub(crate) fn start_server(server: &ServerNode) {
    rt::sim::current().spawn_on(server.node, live(server.clone()));
}

/// Begins another life of the server, on a node that is down.
pub fn restart_server(server: &ServerNode) {
    rt::sim::current().restart(server.node, live(server.clone()));
}

/// One life of the server.
async fn live(this: ServerNode) {
    let server = Server::start(&config()).await.expect("a server starts from whatever a crash leaves");
    this.stop.notified().await;
    server.stop().await.expect("a healthy server stops in order");
    this.stopped.set(true);
}

fn config() -> Config {
    Config {
        listen: vec![ADDRESS.parse().expect("a literal")],
        targets: TARGETS,
        storage: Storage::Directory { path: "/daos".into(), bytes: Some(STORAGE_BYTES) },
        memory: MEMORY_BYTES,
        ..Config::default()
    }
}

/// Opens every store of the stopped server and walks all of it (K6, K8).
async fn check() {
    drop(whole_stores());
}

/// The stores of the stopped server, every invariant of which holds.
pub(crate) fn whole_stores() -> Vec<vos::Store> {
    let storage = control::storage::Owned::take(&config()).expect("nobody holds the storage");
    let open = |target: engine::target::open::TargetConfig| {
        let index = target.index;
        let (store, _) = engine::target::open::open_store(target).expect("a store that was closed opens");
        let findings = store.check().findings;
        assert!(findings.is_empty(), "target {index}: {findings:#?}");
        store
    };
    storage.targets(MEMORY_BYTES).expect("the layout is there").into_iter().map(open).collect()
}

//! Several servers in one simulation: a system that forms, and lives that end and begin.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use client::{System, SystemOptions};
use control::config::{Config, Storage};
use control::server::Server;
use engine::service::JoinConfig;
use net::Address;
use rt::sim::{NodeId, Sim};

const TARGETS: u32 = 2;
const STORAGE_BYTES: u64 = 2 * (160 << 20);
/// Small, so that pages are evicted and checkpoints run.
const MEMORY_BYTES: u64 = 8 << 20;
const TOKEN_SECONDS: u64 = 60;

/// One server: its node, and its present life.
struct Node {
    node: NodeId,
    server: Rc<RefCell<Option<Server>>>,
}

/// Servers by rank.
pub struct Cluster {
    sim: Sim,
    nodes: Vec<Node>,
}

/// Where the server of this rank answers.
pub fn address(rank: usize) -> Address {
    format!("mem://server-{rank}").parse().expect("a literal")
}

fn config(rank: usize, join: Option<JoinConfig>) -> Config {
    Config {
        listen: vec![address(rank)],
        targets: TARGETS,
        storage: Storage::Directory { path: "/daos".into(), bytes: Some(STORAGE_BYTES) },
        memory: MEMORY_BYTES,
        join,
        ..Config::default()
    }
}

impl Cluster {
    /// A system of `count` servers, at most five, which bears the death of any. Panics when it does not form.
    pub async fn form(count: usize) -> Cluster {
        let sim = rt::sim::current();
        let nodes = (0..count).map(|rank| sim.node(&format!("server-{rank}")));
        let nodes = nodes.map(|node| Node { node, server: Rc::default() }).collect();
        let cluster = Cluster { sim, nodes };
        cluster.begin(0, None).await;
        let first = cluster.connect(Duration::from_secs(20)).await;
        for rank in 1..count {
            let token = first.create_token(TOKEN_SECONDS).await.expect("the first server makes tokens").token;
            cluster.begin(rank, Some(JoinConfig { addresses: vec![address(0).to_string()], token })).await;
        }
        // An even number of voters bears no more than one less.
        let voters = count - usize::from(count.is_multiple_of(2));
        while first.info().await.expect("the system answers").voters.len() < voters {
            rt::sleep(Duration::from_millis(100)).await;
        }
        cluster
    }

    /// Adds a server on a node of its own; returns its rank.
    pub async fn join(&mut self) -> u32 {
        let rank = self.nodes.len();
        let node = self.sim.node(&format!("server-{rank}"));
        self.nodes.push(Node { node, server: Rc::default() });
        let system = self.connect(Duration::from_secs(20)).await;
        let token = system.create_token(TOKEN_SECONDS).await.expect("somebody makes tokens").token;
        self.begin(rank, Some(JoinConfig { addresses: vec![address(0).to_string()], token })).await;
        rank as u32
    }

    /// A client of the system, from the node that asks.
    pub async fn connect(&self, deadline: Duration) -> System {
        let addresses: Vec<Address> = (0..self.nodes.len()).map(address).collect();
        let options = SystemOptions { deadline, ..SystemOptions::default() };
        System::connect(&addresses, options).await.expect("somebody answers")
    }

    pub fn node(&self, rank: usize) -> NodeId {
        self.nodes[rank].node
    }

    async fn begin(&self, rank: usize, join: Option<JoinConfig>) {
        let Node { node, server } = &self.nodes[rank];
        let config = config(rank, join);
        let life = self.sim.restart(*node, async move { Server::start(&config).await });
        let started = life.await.expect("nobody cuts the power of a server that starts");
        *server.borrow_mut() = Some(started.expect("a server starts from whatever a crash leaves"));
    }

    /// Cuts the power of a server.
    pub fn crash(&self, rank: usize) {
        let Node { node, server } = &self.nodes[rank];
        server.borrow_mut().take();
        self.sim.crash(*node);
    }

    /// Begins another life of a server that is down.
    pub async fn restart(&self, rank: usize) {
        self.begin(rank, None).await;
    }
}

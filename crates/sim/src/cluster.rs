//! Several servers in one simulation: a system that forms, and lives that end and begin.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use client::{System, SystemOptions};
use control::config::{Config, Storage};
use control::server::Server;
use engine::detection::Detection;
use engine::service::JoinConfig;
use net::{Address, Caller, Connection};
use rt::sim::{NodeId, Sim};
use types::{Error, SessionId};
use wire::{Opcode, Wire};

use crate::contents::Contents;

/// Of each server.
pub const TARGETS: u32 = 2;
const STORAGE_BYTES: u64 = 2 * (160 << 20);
/// Small, so that pages are evicted and checkpoints run.
const MEMORY_BYTES: u64 = 8 << 20;
const TOKEN_SECONDS: u64 = 60;
/// Of a system, however many servers it has.
const VOTERS_MAX: usize = 5;
/// In which somebody answers.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// How long one server may take to tell a map.
const ASK_MAX: Duration = Duration::from_secs(5);

/// One server: its node, and its present life.
struct Node {
    node: NodeId,
    server: Rc<RefCell<Option<Server>>>,
}

/// How the servers of a cluster stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domains {
    /// Each fails by itself.
    Servers,
    /// In so many racks, one after the other.
    Racks(usize),
}

/// Servers by rank.
pub struct Cluster {
    sim: Sim,
    nodes: Vec<Node>,
    domains: Domains,
    detection: fn(usize) -> Detection,
}

/// As servers come.
pub fn usual(_: usize) -> Detection {
    Detection::default()
}

/// Each server has its own idea of how long silence means death: some are hasty, some slow.
pub fn mixed(rank: usize) -> Detection {
    let millis = [500, 1700, 900, 3000][rank % 4];
    Detection::new(Duration::from_millis(millis)).expect("within bounds")
}

/// Where the server of this rank answers.
pub fn address(rank: usize) -> Address {
    format!("mem://server-{rank}").parse().expect("a literal")
}

/// How many of so many servers vote: an odd number, five at most.
pub fn voters(servers: usize) -> usize {
    (servers - (servers + 1) % 2).min(5)
}

fn config(rank: usize, domains: Domains, detection: Detection, join: Option<JoinConfig>) -> Config {
    let fault_path = match domains {
        Domains::Servers => None,
        Domains::Racks(racks) => Some(format!("/rack{}/server{rank}", rank % racks)),
    };
    Config {
        fault_path,
        listen: vec![address(rank)],
        targets: TARGETS,
        storage: Storage::Directory { path: "/daos".into(), bytes: Some(STORAGE_BYTES) },
        memory: MEMORY_BYTES,
        detection,
        join,
        ..Config::default()
    }
}

impl Cluster {
    /// A system of `count` servers, which bears the death of any. Panics when it does not form.
    pub async fn form(count: usize) -> Cluster {
        Cluster::form_in(count, Domains::Servers, usual).await
    }

    /// The same, with servers that fail together.
    pub async fn form_in(count: usize, domains: Domains, detection: fn(usize) -> Detection) -> Cluster {
        let sim = rt::sim::current();
        let nodes = (0..count).map(|rank| sim.node(&format!("server-{rank}")));
        let nodes = nodes.map(|node| Node { node, server: Rc::default() }).collect();
        let cluster = Cluster { sim, nodes, domains, detection };
        cluster.begin(0, None).await;
        let first = cluster.connect(Duration::from_secs(20)).await;
        for rank in 1..count {
            let token = first.create_token(TOKEN_SECONDS).await.expect("the first server makes tokens").token;
            cluster.begin(rank, Some(JoinConfig { addresses: vec![address(0).to_string()], token })).await;
        }
        // Few vote; and an even number of voters bears no more than one less.
        let voters = (count - usize::from(count.is_multiple_of(2))).min(VOTERS_MAX);
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
        let addresses = (0..rank).map(|known| address(known).to_string()).collect();
        let token = system.create_token(TOKEN_SECONDS).await.expect("somebody makes tokens").token;
        self.begin(rank, Some(JoinConfig { addresses, token })).await;
        rank as u32
    }

    /// A client of the system, from the node that asks.
    pub async fn connect(&self, deadline: Duration) -> System {
        let addresses: Vec<Address> = (0..self.nodes.len()).map(address).collect();
        let options = SystemOptions { deadline, ..SystemOptions::default() };
        // Whoever is asked first may hang at that moment.
        let begun = rt::now();
        loop {
            match System::connect(&addresses, options.clone()).await {
                Ok(system) => return system,
                Err(error) => assert!(begun.elapsed() < CONNECT_MAX, "nobody answers: {error}"),
            }
            rt::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn node(&self, rank: usize) -> NodeId {
        self.nodes[rank].node
    }

    async fn begin(&self, rank: usize, join: Option<JoinConfig>) {
        let Node { node, server } = &self.nodes[rank];
        let config = config(rank, self.domains, (self.detection)(rank), join);
        let life = self.sim.restart(*node, async move { Server::start(&config).await });
        let started = life.await.expect("nobody cuts the power of a server that starts");
        *server.borrow_mut() = Some(started.expect("a server starts from whatever a crash leaves"));
    }

    /// How many servers there are, up or down.
    pub fn servers(&self) -> usize {
        self.nodes.len()
    }

    /// Cuts the power of a server.
    pub fn crash(&self, rank: usize) {
        let Node { node, server } = &self.nodes[rank];
        server.borrow_mut().take();
        self.sim.crash(*node);
    }

    /// Ends the process of a server at once; what it wrote stays.
    pub fn kill(&self, rank: usize) {
        let Node { node, server } = &self.nodes[rank];
        server.borrow_mut().take();
        self.sim.kill(*node);
    }

    /// Ends a server in order. Nothing, when it is down.
    ///
    /// # Errors
    /// As [`Server::stop`]; the process has ended all the same.
    pub async fn stop(&self, rank: usize) -> Result<(), Error> {
        let Node { node, server } = &self.nodes[rank];
        let Some(server) = server.borrow_mut().take() else { return Ok(()) };
        let stopped = self.sim.spawn_on(*node, server.stop()).await;
        self.sim.kill(*node);
        stopped.expect("nobody cuts the power of a server that stops")
    }

    /// Begins another life of a server that is down.
    pub async fn restart(&self, rank: usize) {
        self.begin(rank, None).await;
    }

    /// Encoded states of the replicas that lie with a server, by group; none when it is down.
    pub fn states(&self, rank: usize) -> Option<BTreeMap<String, Vec<u8>>> {
        self.nodes[rank].server.borrow().as_ref().map(|server| server.engine().service().states())
    }

    /// The map of a pool as this server tells it, or has it from who leads.
    ///
    /// # Errors
    /// The server does not answer, or nobody leads.
    pub async fn map(&self, rank: usize, pool: &str) -> Result<placement::PoolMap, Error> {
        let clock = rt::Hlc::new();
        let caller = Caller { session: SessionId(rt::random_u64()), system: String::new(), clock };
        let service = wire::hello::Service::Control;
        let link = Connection::open(&address(rank), service, &caller, ASK_MAX).await.map_err(Error::from)?;
        let body = wire::control::PoolName { pool: pool.into() }.to_bytes();
        let reply = link.call(Opcode::PoolConnect, 0, body, None, ASK_MAX).await.map_err(Error::from)?;
        let message =
            wire::control::PoolMap::from_bytes(&reply.body).expect("servers answer in the form of the question");
        Ok(object::map::from_message(&message)?.map)
    }

    /// What the stores of a server hold, which is down from then on. Panics on a store that is not whole (K6, K8).
    pub async fn contents(&self, rank: usize) -> Vec<Contents> {
        if self.nodes[rank].server.borrow().is_some() {
            self.kill(rank);
        }
        let config = config(rank, self.domains, (self.detection)(rank), None);
        let node = self.nodes[rank].node;
        let read = self.sim.restart(node, async move { read(&config) }).await;
        let contents = read.expect("a store that is not whole was named");
        self.sim.kill(node);
        contents
    }
}

fn read(config: &Config) -> Vec<Contents> {
    let storage = control::storage::Owned::take(config).expect("nobody holds the storage of a server that is down");
    let targets = storage.targets(MEMORY_BYTES).expect("the layout is there");
    targets.into_iter().map(Contents::read).collect()
}

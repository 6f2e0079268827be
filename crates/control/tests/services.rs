//! The control services over consensus, on servers of one simulation: a system forms and grows, commands go on when a leader
//! dies, and take effect once (K5); in the end all replicas have the same state (K19).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use control::config::{Config, Storage};
use control::server::Server;
use engine::service::JoinConfig;
use net::{Caller, Connection};
use rt::sim::{NetworkConfig, NodeId, Sim, SimConfig};
use types::{Code, Error, Layout, SessionId};
use wire::control::*;
use wire::{Opcode, Wire};

const POOL_BYTES: u64 = 200 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// One server: its node, and how its present life is told to end.
#[derive(Clone)]
struct Node {
    node: NodeId,
    number: u32,
    server: Rc<RefCell<Option<Server>>>,
}

/// Servers by number, which is their rank when they join in order.
#[derive(Clone)]
struct Cluster {
    sim: Sim,
    nodes: Rc<RefCell<BTreeMap<u32, Node>>>,
    client: NodeId,
}

fn address(number: u32) -> String {
    format!("mem://server-{number}")
}

fn config(number: u32, join: Option<JoinConfig>) -> Config {
    Config {
        listen: vec![address(number).parse().expect("a literal")],
        targets: 2,
        storage: Storage::Directory { path: "/daos".into(), bytes: Some(2 * (160 << 20)) },
        memory: 8 << 20,
        join,
        ..Config::default()
    }
}

/// Runs a test in a simulation of its own.
fn run<F: Future<Output = ()> + 'static>(seed: u64, test: impl FnOnce(Cluster) -> F + 'static) -> u64 {
    let delay = Duration::from_micros(20)..=Duration::from_millis(2);
    let network = NetworkConfig { delay, drop: 0.002, duplicate: 0.005 };
    let sim = Sim::new(SimConfig { network, time_limit: Duration::from_secs(3600), ..SimConfig::seeded(seed) });
    let client = sim.node("client");
    let cluster = Cluster { sim: sim.clone(), nodes: Rc::default(), client };
    sim.run(async move { test(cluster).await });
    sim.trace_hash()
}

impl Cluster {
    /// Begins a life of a server, and waits until it serves.
    async fn start(&self, number: u32, join: Option<JoinConfig>) -> Result<(), Error> {
        let node = self.sim.node(&format!("server-{number}"));
        let node = Node { node, number, server: Rc::default() };
        self.nodes.borrow_mut().insert(number, node.clone());
        let config = config(number, join);
        let started = self.sim.restart(node.node, async move { Server::start(&config).await });
        let server = started.await.map_err(|_| Error::new(Code::Misc, "the node went down"))??;
        *node.server.borrow_mut() = Some(server);
        Ok(())
    }

    fn node(&self, number: u32) -> Node {
        self.nodes.borrow()[&number].clone()
    }

    /// Cuts a server's power.
    fn crash(&self, number: u32) {
        let node = self.node(number);
        node.server.borrow_mut().take();
        self.sim.crash(node.node);
    }

    /// A client's request, repeated at one server after another until it is answered for good.
    async fn ask<R: Wire + 'static>(&self, to: &[u32], name: (u64, u64), opcode: Opcode, message: &impl Wire) -> Result<R, Error> {
        let (session, sequence) = name;
        let begun = rt::now();
        let mut last = Error::new(Code::Unreachable, "nobody was asked");
        while begun.elapsed() < PATIENCE {
            for number in to {
                match once(self, *number, session, sequence, opcode, message.to_bytes()).await {
                    Ok(body) => return Ok(R::from_bytes(&body).expect("an answer of this kind")),
                    Err(error) if error.is_transient() && error.code != Code::Busy => last = error,
                    Err(error) => return Err(error),
                }
            }
            rt::sleep(Duration::from_millis(100)).await;
        }
        panic!("seed {}: {} is not answered: {last}", self.sim.seed(), opcode.name());
    }
}

/// One attempt, from the client's node.
async fn once(cluster: &Cluster, number: u32, session: u64, sequence: u64, opcode: Opcode, body: Vec<u8>) -> Result<Vec<u8>, Error> {
    let attempt = async move {
        let caller = Caller { session: SessionId(session), system: String::new(), clock: rt::Hlc::new() };
        let to = address(number).parse().expect("a literal");
        let connection =
            Connection::open(&to, wire::hello::Service::Control, &caller, Duration::from_secs(1)).await?;
        Ok::<_, net::CallError>(connection.call(opcode, sequence, body, None, Duration::from_secs(8)).await?.body.to_vec())
    };
    let answer = cluster.sim.spawn_on(cluster.client, attempt).await.expect("the client does not go down");
    answer.map_err(Error::from)
}

fn pool(label: &str) -> PoolCreate {
    PoolCreate { label: label.into(), bytes: POOL_BYTES, properties: vec![] }
}

fn container(label: &str) -> ContainerCreate {
    ContainerCreate {
        pool: "tank".into(),
        label: label.into(),
        layout: Layout::Posix,
        properties: vec![],
        attributes: vec![],
    }
}

#[test]
fn one_server_is_a_system_and_remembers_what_it_did() {
    run(1, async |cluster: Cluster| {
        cluster.start(0, None).await.unwrap();
        let made: PoolInfo = cluster.ask(&[0], (7, 1), Opcode::PoolCreate, &pool("tank")).await.unwrap();
        let first: ContainerInfo = cluster.ask(&[0], (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
        cluster.crash(0);
        cluster.start(0, None).await.unwrap();
        let again: PoolInfo = cluster.ask(&[0], (7, 1), Opcode::PoolCreate, &pool("tank")).await.unwrap();
        assert_eq!(again.id, made.id, "K5: a repeat over a restart");
        let again: ContainerInfo = cluster.ask(&[0], (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
        assert_eq!(again.id, first.id, "K5: a repeat over a restart");
        let other = cluster.ask::<PoolInfo>(&[0], (7, 3), Opcode::PoolCreate, &pool("tank")).await;
        assert_eq!(other.unwrap_err().code, Code::Exists);
    });
}

//! Clusters in the simulator: replicas on nodes that crash, a network that loses, repeats and cuts one way, clients that
//! repeat, and a history that must be that of one list (`history`).
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod history;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use raft::{Address, CallError, Calling, Config, Group, GroupId, Peer, Peers, ProposeError, ReadError, Request, Role};
use raft::{StateMachine, limits};
use rt::sim::{NodeId, Sim, SimConfig};
use types::{Rank, SessionId};
use wire::{DecodeError, Reader, Wire};

use history::History;

pub const GROUP: GroupId = GroupId(*b"group of the rig");
pub const DIRECTORY: &str = "/replica";

pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The machine: a list of what was ever appended. An append answers the place it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    pub items: Vec<u64>,
    /// Makes the state large.
    pub ballast: Vec<u8>,
}

/// Appends an item; the ballast makes the command large, and stays in the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub item: u64,
    pub ballast: Vec<u8>,
}

impl Append {
    pub fn of(item: u64) -> Append {
        Append { item, ballast: Vec::new() }
    }
}

impl Wire for Append {
    fn encode(&self, out: &mut Vec<u8>) {
        self.item.encode(out);
        wire::encoding::encode_bytes(&self.ballast, out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Append, DecodeError> {
        Ok(Append { item: Wire::decode(from)?, ballast: from.counted()?.to_vec() })
    }
}

impl Wire for List {
    fn encode(&self, out: &mut Vec<u8>) {
        self.items.encode(out);
        wire::encoding::encode_bytes(&self.ballast, out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<List, DecodeError> {
        Ok(List { items: Wire::decode(from)?, ballast: from.counted()?.to_vec() })
    }
}

impl StateMachine for List {
    const NAME: &'static str = "list";
    type Command = Append;
    type Response = u64;

    fn apply(&mut self, append: Append) -> u64 {
        self.items.push(append.item);
        self.ballast.extend(append.ballast);
        self.items.len() as u64 - 1
    }
}

pub fn peer(rank: u32) -> Peer {
    Peer { rank: Rank(rank), address: Address(format!("node-{rank}")) }
}

/// Timing as by default, and snapshots so often that tests meet them.
pub fn config() -> Config {
    Config { snapshot_entries: 20, kept_entries: 5, ..Config::default() }
}

/// How many seeds a campaign runs: `RAFT_SEEDS`, or what the test takes by default.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let first = std::env::var("RAFT_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count = std::env::var("RAFT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    first..first + count
}

/// Uniform in `0..bound`, from the simulation's dice.
pub fn dice(bound: u64) -> u64 {
    rt::random_u64() % bound
}

fn chance(percent: u64) -> bool {
    dice(100) < percent
}

/// What is between the replicas.
#[derive(Default)]
pub struct Net {
    groups: RefCell<BTreeMap<Rank, Rc<Group<List>>>>,
    /// From, to: silently lost.
    cut: RefCell<BTreeSet<(Rank, Rank)>>,
    pub lost_percent: Cell<u64>,
    pub repeated_percent: Cell<u64>,
    pub delay_max_us: Cell<u64>,
}

impl Net {
    async fn travel(&self, from: Rank, to: Rank) -> bool {
        let (delay, is_lost) = (dice(self.delay_max_us.get() + 1), chance(self.lost_percent.get()));
        rt::sleep(Duration::from_micros(50 + delay)).await;
        !is_lost && !self.cut.borrow().contains(&(from, to))
    }
}

struct Line {
    net: Rc<Net>,
    nodes: Rc<RefCell<BTreeMap<Rank, NodeId>>>,
    me: Rank,
}

impl Line {
    /// Has `to` handle the message, on its own node. `None`: it is down, or goes down meanwhile.
    async fn deliver(&self, to: Rank, message: Vec<u8>) -> Option<Vec<u8>> {
        let group = self.net.groups.borrow().get(&to).cloned()?;
        let node = *self.nodes.borrow().get(&to)?;
        let handling = rt::sim::current().spawn_on(node, async move { group.handle(&message).await });
        handling.await.ok()
    }
}

impl Peers for Line {
    fn call<'a>(&'a self, peer: &'a Peer, message: Vec<u8>) -> Calling<'a> {
        assert!(message.len() <= limits::MESSAGE_BYTES_MAX, "a message of {} bytes", message.len());
        assert_eq!(peer.address.0, format!("node-{}", peer.rank));
        Box::pin(async move {
            let silence = std::future::pending;
            if !self.net.travel(self.me, peer.rank).await {
                return silence().await;
            }
            if chance(self.net.repeated_percent.get()) {
                // The first of two: its answer goes nowhere.
                let line = Line { net: Rc::clone(&self.net), nodes: Rc::clone(&self.nodes), me: self.me };
                let (to, message) = (peer.rank, message.clone());
                rt::spawn_local(async move {
                    rt::sleep(ms(dice(200))).await;
                    line.deliver(to, message).await;
                });
            }
            match self.deliver(peer.rank, message).await {
                Some(answer) if self.net.travel(peer.rank, self.me).await => Ok(answer),
                Some(_) => silence().await,
                // A machine without power says nothing; one that lost the process says so.
                None if chance(50) => Err(CallError { cause: "connection refused".into() }),
                None => silence().await,
            }
        })
    }
}

/// Replicas by rank, each on a node of its own.
#[derive(Clone)]
pub struct Cluster {
    pub sim: Sim,
    pub net: Rc<Net>,
    pub history: Rc<History>,
    nodes: Rc<RefCell<BTreeMap<Rank, NodeId>>>,
    config: Config,
    next_session: Rc<Cell<u64>>,
}

/// Runs a test in a simulation of its own, and gives the hash of all that happened.
pub fn run<F: Future<Output = ()> + 'static>(seed: u64, test: impl FnOnce(Cluster) -> F + 'static) -> u64 {
    run_with(seed, config(), test)
}

pub fn run_with<F: Future<Output = ()> + 'static>(
    seed: u64,
    config: Config,
    test: impl FnOnce(Cluster) -> F + 'static,
) -> u64 {
    run_in(SimConfig::seeded(seed), config, test)
}

/// As [`run`], in a world of another kind.
pub fn run_in<F: Future<Output = ()> + 'static>(
    world: SimConfig,
    config: Config,
    test: impl FnOnce(Cluster) -> F + 'static,
) -> u64 {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(3600), ..world });
    sim.run(async move {
        let net = Rc::new(Net::default());
        net.delay_max_us.set(1000);
        let cluster = Cluster {
            sim: rt::sim::current(),
            net,
            history: Rc::default(),
            nodes: Rc::default(),
            config,
            next_session: Rc::default(),
        };
        let net = Rc::clone(&cluster.net);
        test(cluster).await;
        net.groups.borrow_mut().clear();
    });
    sim.trace_hash()
}

impl Cluster {
    pub fn node(&self, rank: u32) -> NodeId {
        let node = self.sim.node(&format!("node-{rank}"));
        self.nodes.borrow_mut().insert(Rank(rank), node);
        node
    }

    fn peers(&self, rank: u32) -> Rc<dyn Peers> {
        Rc::new(Line { net: Rc::clone(&self.net), nodes: Rc::clone(&self.nodes), me: Rank(rank) })
    }

    async fn begin(&self, rank: u32, how: How) {
        let (node, peers, config) = (self.node(rank), self.peers(rank), self.config.clone());
        let begun = self.sim.restart(node, async move {
            let (path, machine) = (Path::new(DIRECTORY), List::default());
            match how {
                How::Create => Group::create(path, GROUP, peer(rank), machine, peers, config).await,
                How::Join => Group::join(path, GROUP, peer(rank), machine, peers, config).await,
                How::Open => Group::open(path, GROUP, peer(rank), machine, peers, config).await,
            }
        });
        // A node that goes down again meanwhile has no group.
        if let Ok(group) = begun.await {
            let group = group.unwrap_or_else(|error| panic!("rank {rank}: {error}"));
            self.net.groups.borrow_mut().insert(Rank(rank), Rc::new(group));
        }
    }

    pub async fn create(&self, rank: u32) {
        self.begin(rank, How::Create).await;
    }

    pub async fn join(&self, rank: u32) {
        self.begin(rank, How::Join).await;
    }

    pub async fn open(&self, rank: u32) {
        self.begin(rank, How::Open).await;
    }

    /// A group of ranks 0 to `count` - 1, all of them voters.
    pub async fn of(&self, count: u32) {
        self.create(0).await;
        for rank in 1..count {
            self.join(rank).await;
        }
        self.settle("members", async || {
            let leader = self.leader()?;
            for rank in 0..count {
                leader.add_learner(&peer(rank)).await.ok()?;
            }
            leader.set_voters(&(0..count).map(Rank).collect()).await.ok()
        })
        .await;
    }

    pub fn group(&self, rank: u32) -> Option<Rc<Group<List>>> {
        self.net.groups.borrow().get(&Rank(rank)).cloned()
    }

    pub fn groups(&self) -> Vec<Rc<Group<List>>> {
        self.net.groups.borrow().values().cloned().collect()
    }

    pub fn is_up(&self, rank: u32) -> bool {
        self.net.groups.borrow().contains_key(&Rank(rank))
    }

    /// The leader of the newest term.
    pub fn leader(&self) -> Option<Rc<Group<List>>> {
        let leading = |group: &Rc<Group<List>>| group.standing().role == Role::Leader;
        self.groups().into_iter().filter(leading).max_by_key(|group| group.standing().term)
    }

    /// Cuts the power of a node.
    pub fn crash(&self, rank: u32) {
        self.sim.crash(self.node(rank));
        self.net.groups.borrow_mut().remove(&Rank(rank));
    }

    /// Kills the process on a node.
    pub fn kill(&self, rank: u32) {
        self.sim.kill(self.node(rank));
        self.net.groups.borrow_mut().remove(&Rank(rank));
    }

    /// Takes a group out of its server, which runs on: peers do not find it any more.
    pub fn take(&self, rank: u32) -> Group<List> {
        let group = self.net.groups.borrow_mut().remove(&Rank(rank)).expect("it is up");
        Rc::try_unwrap(group).ok().expect("nobody else holds it")
    }

    pub fn cut(&self, from: u32, to: u32) {
        self.net.cut.borrow_mut().insert((Rank(from), Rank(to)));
    }

    pub fn isolate(&self, rank: u32) {
        for other in self.nodes.borrow().keys() {
            self.net.cut.borrow_mut().extend([(Rank(rank), *other), (*other, Rank(rank))]);
        }
    }

    pub fn heal(&self) {
        self.net.cut.borrow_mut().clear();
        self.net.lost_percent.set(0);
        self.net.repeated_percent.set(0);
        self.net.delay_max_us.set(1000);
    }

    /// Tries until it works, for at most 30 seconds of virtual time.
    pub async fn settle<R>(&self, what: &str, mut attempt: impl AsyncFnMut() -> Option<R>) -> R {
        let begun = rt::now();
        while begun.elapsed() < Duration::from_secs(30) {
            if let Some(done) = attempt().await {
                return done;
            }
            rt::sleep(ms(20)).await;
        }
        let standings: Vec<_> = self.groups().iter().map(|group| (group.me().rank, group.standing())).collect();
        panic!("seed {}: {what} does not come about: {standings:#?}", self.sim.seed());
    }

    /// Runs `act` with a group on that group's node. `None`: the node is down, or goes down meanwhile.
    pub async fn on<R: 'static, F: Future<Output = R> + 'static>(
        &self,
        rank: Rank,
        act: impl FnOnce(Rc<Group<List>>) -> F + 'static,
    ) -> Option<R> {
        let group = self.net.groups.borrow().get(&rank).cloned()?;
        let node = *self.nodes.borrow().get(&rank)?;
        self.sim.spawn_on(node, async move { act(group).await }).await.ok()
    }

    pub fn session(&self) -> SessionId {
        self.next_session.set(self.next_session.get() + 1);
        SessionId(self.next_session.get())
    }

    /// A client's append: repeated, at whatever replica, until it is answered or `patience` is over. Noted in the history.
    pub async fn append(&self, request: Request, patience: Duration) -> Option<u64> {
        self.append_large(request, patience, 0).await
    }

    pub async fn append_large(&self, request: Request, patience: Duration, ballast: usize) -> Option<u64> {
        let item = request.session.0 << 32 | request.number;
        let begun = rt::now();
        let noted = self.history.begin(item);
        let mut to = self.some_rank();
        while begun.elapsed() < patience {
            let append = Append { item, ballast: vec![7; ballast] };
            let outcome = self.on(to, async move |group| group.propose(Some(request), &append).await).await;
            match outcome {
                Some(Ok(place)) => {
                    self.history.answered(noted, place);
                    return Some(place);
                }
                Some(Err(ProposeError::NotLeader { leader: Some(leader) })) if leader.rank != to => to = leader.rank,
                Some(Err(ProposeError::NotLeader { .. } | ProposeError::Busy)) => to = self.some_rank(),
                Some(Err(ProposeError::Unknown { .. } | ProposeError::Stopped { .. })) | None => {
                    self.history.may_have_happened(noted);
                    to = self.some_rank();
                }
                Some(Err(error)) => panic!("seed {}: {error}", self.sim.seed()),
            }
            rt::sleep(ms(10 + dice(40))).await;
        }
        None
    }

    /// A client's linearizable read, noted in the history.
    pub async fn look(&self, patience: Duration) -> bool {
        let begun = rt::now();
        let noted = self.history.begin_read();
        let mut to = self.some_rank();
        while begun.elapsed() < patience {
            let read = self.on(to, async move |group| group.read(|list| list.items.clone()).await).await;
            match read {
                Some(Ok(items)) => {
                    self.history.saw(noted, items);
                    return true;
                }
                Some(Err(ReadError::NotLeader { leader: Some(leader) })) => to = leader.rank,
                _ => to = self.some_rank(),
            }
            rt::sleep(ms(10 + dice(40))).await;
        }
        false
    }

    fn some_rank(&self) -> Rank {
        let nodes = self.nodes.borrow();
        *nodes.keys().nth(dice(nodes.len() as u64) as usize).expect("a cluster has nodes")
    }

    /// Waits until all that run have the same state, takes it, and checks the history against it.
    pub async fn check(&self) -> Vec<u64> {
        // An append of an own session: when it is answered, all that was before is committed.
        let request = Request { session: self.session(), number: 1 };
        self.append(request, Duration::from_secs(30)).await.unwrap_or_else(|| {
            let standings: Vec<_> = self.groups().iter().map(|group| (group.me().rank, group.standing())).collect();
            panic!("seed {}: no leader after 30 s of peace: {standings:#?}", self.sim.seed())
        });
        let items = self
            .settle("one state", async || {
                let states: Vec<_> = self.groups().iter().map(|group| group.local(Clone::clone)).collect();
                states.windows(2).all(|pair| pair[0] == pair[1]).then(|| states[0].items.clone())
            })
            .await;
        self.history.check(self.sim.seed(), &items);
        items
    }
}

enum How {
    Create,
    Join,
    Open,
}

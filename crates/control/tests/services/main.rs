//! The control services over consensus, on servers of one simulation: a system forms and grows, commands go on when a leader
//! dies, and take effect once (K5); in the end all replicas have the same state (K19).

mod access;
mod log;
mod survivors;
mod withdrawn;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use control::config::{Config, Storage};
use control::server::Server;
use engine::service::JoinConfig;
use net::{Caller, Connection};
use rt::sim::{NetworkConfig, NodeId, Sim, SimConfig};
use types::{Code, ContainerId, Error, Layout, Rank, SessionId, TargetIndex};
use wire::control::*;
use wire::{Opcode, Wire};

const POOL_BYTES: u64 = 200 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// One server: its node, and how its present life is told to end.
#[derive(Clone)]
struct Node {
    node: NodeId,
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

/// Runs a test in a simulation of its own. `SERVICES_LOG=info,engine=debug` shows what its servers log.
fn run<F: Future<Output = ()> + 'static>(seed: u64, test: impl FnOnce(Cluster) -> F + 'static) -> u64 {
    log::begin();
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
        let node = Node { node, server: Rc::default() };
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
    async fn ask<R: Wire + 'static>(
        &self,
        to: &[u32],
        name: (u64, u64),
        opcode: Opcode,
        message: &impl Wire,
    ) -> Result<R, Error> {
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
async fn once(
    cluster: &Cluster,
    number: u32,
    session: u64,
    sequence: u64,
    opcode: Opcode,
    body: Vec<u8>,
) -> Result<Vec<u8>, Error> {
    let attempt = async move {
        let caller = Caller { session: SessionId(session), system: String::new(), clock: rt::Hlc::new() };
        let to = address(number).parse().expect("a literal");
        let connection = Connection::open(&to, wire::hello::Service::Control, &caller, Duration::from_secs(1)).await?;
        Ok::<_, net::CallError>(
            connection.call(opcode, sequence, body, None, Duration::from_secs(8)).await?.body.to_vec(),
        )
    };
    let answer = cluster.sim.spawn_on(cluster.client, attempt).await.expect("the client does not go down");
    answer.map_err(Error::from)
}

/// As [`once`], but again when the link broke for a message that was lost or came twice: the server never said anything.
async fn answered(
    cluster: &Cluster,
    number: u32,
    (session, sequence): (u64, u64),
    opcode: Opcode,
    body: Vec<u8>,
) -> Result<Vec<u8>, Error> {
    let mut outcome = once(cluster, number, session, sequence, opcode, body.clone()).await;
    for _ in 0..3 {
        match &outcome {
            Err(error) if matches!(error.code, Code::Unreachable | Code::Protocol | Code::Again) => {}
            _ => break,
        }
        outcome = once(cluster, number, session, sequence, opcode, body.clone()).await;
    }
    outcome
}

fn pool(label: &str) -> PoolCreate {
    PoolCreate { label: label.into(), bytes: POOL_BYTES, servers: PoolServers::All, properties: vec![], acl: None }
}

fn container(label: &str) -> ContainerCreate {
    ContainerCreate {
        pool: "tank".into(),
        label: label.into(),
        layout: Layout::Posix,
        properties: vec![],
        attributes: vec![],
        acl: None,
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

/// A system of `count` servers.
async fn form(cluster: &Cluster, count: u32) {
    cluster.start(0, None).await.unwrap();
    for number in 1..count {
        let token: Token =
            cluster.ask(&[0], (9, u64::from(number)), Opcode::SystemToken, &TokenCreate { seconds: 60 }).await.unwrap();
        let join = JoinConfig { addresses: vec![address(0)], token: token.token };
        cluster.start(number, Some(join)).await.unwrap();
    }
}

impl Cluster {
    /// Waits until the system says what `look` wants.
    async fn settle(&self, what: &str, to: &[u32], look: impl Fn(&SystemInfo) -> bool) -> SystemInfo {
        let begun = rt::now();
        loop {
            let info: SystemInfo = self.ask(to, (0, 0), Opcode::SystemQuery, &()).await.unwrap();
            if look(&info) {
                return info;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: {what}: {info:?}", self.sim.seed());
            rt::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the pool says what `look` wants.
    async fn pool_settles(&self, what: &str, to: &[u32], look: impl Fn(&PoolInfo) -> bool) {
        let begun = rt::now();
        loop {
            let name = PoolName { pool: "tank".into() };
            let info: PoolInfo = self.ask(to, (0, 0), Opcode::PoolQuery, &name).await.unwrap();
            if look(&info) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: {what}: {info:?}", self.sim.seed());
            rt::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the map of the pool is as `look` wants it.
    async fn map_settles(&self, to: &[u32], look: impl Fn(&PoolMap) -> bool) {
        let begun = rt::now();
        loop {
            let map: PoolMap =
                self.ask(to, (0, 0), Opcode::PoolConnect, &PoolName { pool: "tank".into() }).await.unwrap();
            if look(&map) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: {map:?}", self.sim.seed());
            rt::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all replicas have the same state (K19).
    async fn agree(&self, numbers: &[u32]) {
        let begun = rt::now();
        loop {
            let states: Vec<_> = numbers
                .iter()
                .map(|number| {
                    self.node(*number).server.borrow().as_ref().expect("it is up").engine().service().states()
                })
                .collect();
            if states.iter().all(|state| *state == states[0]) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: K19: {states:?}", self.sim.seed());
            rt::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What a map says now of the targets of a rank.
fn states_of(map: &PoolMap, rank: u32) -> Vec<TargetState> {
    let before = map.servers.iter().take_while(|server| server.rank.0 != rank);
    let first: u32 = before.map(|server| server.targets).sum();
    let newest = |position: u32| {
        let said = map.standings.iter().filter(|run| (run.first..run.first + run.count).contains(&position));
        said.max_by_key(|run| run.since).map(|run| run.state).expect("something is said of every target")
    };
    (first..first + 2).map(newest).collect()
}

/// It failed; what it held is elsewhere soon after.
fn is_out(state: TargetState) -> bool {
    matches!(state, TargetState::Down | TargetState::Away)
}

fn states(info: &SystemInfo) -> Vec<MemberState> {
    info.members.iter().map(|member| member.state).collect()
}

#[test]
fn a_second_and_a_third_server_join_and_pools_use_all_of_them() {
    for seed in 0..3 {
        run(seed, async |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            let info = cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            assert_eq!(states(&info), [MemberState::Joined; 3]);
            let made: PoolInfo = cluster
                .ask(&[2, 1], (7, 1), Opcode::PoolCreate, &PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") })
                .await
                .unwrap();
            assert_eq!(made.targets, 6);
            // In the first answer one may be missing, if what it was asked for that was lost.
            cluster.pool_settles("all are in", &all, |info| info.disabled_targets == 0).await;
            let first: ContainerInfo =
                cluster.ask(&[1], (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
            let name = ContainerName { pool: "tank".into(), container: "box".into() };
            for number in all {
                let seen: ContainerInfo = cluster.ask(&[number], (0, 0), Opcode::ContainerQuery, &name).await.unwrap();
                assert_eq!(seen.id, first.id, "asked of server {number}");
            }
            cluster.agree(&all).await;
        });
    }
}

/// A request that was answered, and one that was not, are repeated at another leader: neither takes effect twice.
#[test]
fn commands_go_on_when_the_leader_dies_and_take_effect_once() {
    for seed in 0..6 {
        run(seed, async move |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
            let made: PoolInfo = cluster.ask(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            let first: ContainerInfo =
                cluster.ask(&all, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
            // One more, of which nobody hears what became.
            let lost = once(&cluster, 0, 7, 3, Opcode::ContainerCreate, container("crate").to_bytes());
            let _ = rt::timeout(Duration::from_millis(seed * 3), lost).await;
            // The maker leads the pool as long as nothing happens.
            let leader =
                cluster.settle("a leader", &all, |info| info.leader.is_some()).await.leader.expect("looked for").0;
            cluster.crash(leader);
            let left: Vec<u32> = all.into_iter().filter(|number| *number != leader).collect();
            let again: PoolInfo = cluster.ask(&left, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            assert_eq!(again.id, made.id, "K5");
            let again: ContainerInfo =
                cluster.ask(&left, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
            assert_eq!(again.id, first.id, "K5");
            let made: ContainerInfo =
                cluster.ask(&left, (7, 3), Opcode::ContainerCreate, &container("crate")).await.unwrap();
            let again: ContainerInfo =
                cluster.ask(&left, (7, 3), Opcode::ContainerCreate, &container("crate")).await.unwrap();
            assert_eq!(again.id, made.id, "K5");
            let snapshot = SnapshotCreate { pool: "tank".into(), container: "box".into(), name: "before".into() };
            let snap: SnapshotInfo = cluster.ask(&left, (7, 4), Opcode::SnapshotCreate, &snapshot).await.unwrap();
            cluster
                .settle("the dead is excluded", &left, |info| {
                    info.members[leader as usize].state == MemberState::Excluded
                })
                .await;
            // The pool's leader follows with the map: its targets are down.
            let of_the_dead = move |map: &PoolMap| states_of(map, leader);
            cluster.map_settles(&left, |map| of_the_dead(map).into_iter().all(is_out)).await;
            cluster.start(leader, None).await.unwrap();
            cluster.settle("the dead is back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
            // What they hold is brought up to date, and they serve again.
            cluster.map_settles(&all, |map| of_the_dead(map) == [TargetState::UpIn; 2]).await;
            let list: SnapshotList = {
                let name = ContainerName { pool: "tank".into(), container: "box".into() };
                cluster.ask(&[leader], (0, 0), Opcode::SnapshotList, &name).await.unwrap()
            };
            assert_eq!(list.snapshots, [snap]);
            let list: ContainerList =
                cluster.ask(&all, (0, 0), Opcode::ContainerList, &PoolName { pool: "tank".into() }).await.unwrap();
            assert_eq!(list.containers.len(), 2);
            cluster.agree(&all).await;
        });
    }
}

/// Targets of some ranks of the pool, all of them.
fn targets(change: TargetChange, ranks: &[u32]) -> PoolChangeTargets {
    let ranks = ranks.iter().copied().map(Rank).collect();
    PoolChangeTargets { pool: "tank".into(), change, ranks, targets: vec![], force: false }
}

fn on(ranks: &[u32]) -> PoolServers {
    PoolServers::Ranks { ranks: ranks.iter().copied().map(Rank).collect() }
}

/// A pool of two servers is given a third, which makes its shares and is on its way in; whatever dies meanwhile.
#[test]
fn a_pool_is_extended_by_a_server_that_is_not_in_it() {
    // 23: the new server had just died, and the command was refused for good, where it would have answered a moment later; 53: one
    // answer of it was lost. 37: a repeat at another leader, which did not know of the first yet, found no room: the pool's own
    // shares were there already.
    for seed in seeds(4).chain([23, 37, 53]) {
        let dies = [None, Some(0), Some(1), Some(2)][seed as usize % 4];
        run(seed, async move |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            let small = PoolCreate { bytes: 2 * POOL_BYTES, servers: on(&[0, 1]), ..pool("tank") };
            let made: PoolInfo = cluster.ask(&all, (7, 1), Opcode::PoolCreate, &small).await.unwrap();
            assert_eq!((made.targets, made.ranks), (4, vec![Rank(0), Rank(1)]));
            cluster.ask::<ContainerInfo>(&all, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
            let extend = |rank: u32| PoolExtend { pool: "tank".into(), ranks: vec![Rank(rank)] };
            for (rank, code) in [(9, Code::NotFound), (1, Code::Exists)] {
                let name = (7, 10 + u64::from(rank));
                let refused = cluster.ask::<PoolInfo>(&all, name, Opcode::PoolExtend, &extend(rank)).await;
                let error = refused.unwrap_err();
                assert!(error.code == code && error.remedy.is_some(), "{error}");
            }
            // One attempt of which nobody hears what became, and somebody who dies meanwhile.
            let lost = once(&cluster, 1, 7, 3, Opcode::PoolExtend, extend(2).to_bytes());
            let _ = rt::timeout(Duration::from_millis(seed * 8 % 100), lost).await;
            if let Some(number) = dies {
                cluster.crash(number);
                rt::sleep(Duration::from_millis(100)).await;
                cluster.start(number, None).await.unwrap();
            }
            let wider: PoolInfo = cluster.ask(&all, (7, 3), Opcode::PoolExtend, &extend(2)).await.unwrap();
            assert_eq!((wider.targets, wider.ranks), (6, vec![Rank(0), Rank(1), Rank(2)]), "K5");
            // Not new any more: how far they are on their way is not this test's.
            cluster.map_settles(&all, |map| !states_of(map, 2).contains(&TargetState::New)).await;
            let asked = PoolQueryTargets { pool: "tank".into(), rank: Rank(2), targets: vec![TargetIndex(1)] };
            // Its answer may be the message that is lost; then the list says nothing of its space.
            let mut asked_times = 0;
            let found = loop {
                let found: PoolTargets = cluster.ask(&all, (0, 0), Opcode::PoolQueryTargets, &asked).await.unwrap();
                asked_times += 1;
                if found.targets[0].space.is_some() || asked_times == 5 {
                    break found;
                }
            };
            let target = &found.targets[0];
            assert_eq!((found.targets.len(), target.index, target.is_kept_out), (1, TargetIndex(1), false));
            assert_eq!(target.space.as_ref().map(|space| space.total), Some(POOL_BYTES / 2), "it made its share");
            cluster.agree(&all).await;
        });
    }
}

/// A server that was drained has nothing of the pool any more: no replica of its service, no share of its own space; also if it
/// led the service, or somebody dies meanwhile. When it is wanted back it makes its share anew.
#[test]
fn a_drained_server_leaves_the_pool_and_may_come_back() {
    // 4: the leader started anew and led again. Who had reported to it before did not report again, so that the drain never ended.
    for seed in seeds(8) {
        run(seed, async move |cluster: Cluster| {
            form(&cluster, 4).await;
            let all = [0, 1, 2, 3];
            cluster.settle("four servers", &all, |info| states(info) == [MemberState::Joined; 4]).await;
            let big = PoolCreate { bytes: 4 * POOL_BYTES, ..pool("tank") };
            let made: PoolInfo = cluster.ask(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            cluster.ask::<ContainerInfo>(&all, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
            let leader = made.leader.expect("it made the pool").0;
            let leaving = (leader + (seed % 2) as u32) % 4;
            let drain = targets(TargetChange::Drain, &[leaving]);
            cluster.ask::<PoolInfo>(&all, (7, 3), Opcode::PoolChangeTargets, &drain).await.unwrap();
            if let Some(dies) = [None, Some(leaving), Some((leaving + 1) % 4)][seed as usize % 3] {
                rt::sleep(Duration::from_millis(seed * 50)).await;
                cluster.crash(dies);
                rt::sleep(Duration::from_millis(200)).await;
                cluster.start(dies, None).await.unwrap();
            }
            let has_left =
                |info: &PoolInfo| !info.ranks.contains(&Rank(leaving)) && !info.voters.contains(&Rank(leaving));
            cluster.pool_settles("it has left", &all, has_left).await;
            cluster
                .pool_settles("the others stay", &all, |info| info.ranks.len() == 3 && info.disabled_targets == 2)
                .await;
            let gone = |cluster: &Cluster| {
                let node = cluster.node(leaving);
                let server = node.server.borrow();
                server.as_ref().is_some_and(|server| server.engine().service().states().len() == 1)
            };
            let begun = rt::now();
            while !gone(&cluster) {
                assert!(begun.elapsed() < PATIENCE, "seed {seed}: its replica is still there");
                rt::sleep(Duration::from_millis(100)).await;
            }
            let stored: StorageInfo = cluster.ask(&all, (0, 0), Opcode::StorageQuery, &()).await.unwrap();
            let there = |device: &&DeviceInfo| device.rank == Rank(leaving);
            assert!(stored.devices.iter().filter(there).all(|device| device.reserved == 0), "{stored:?}");
            let others: Vec<u32> = all.into_iter().filter(|number| *number != leaving).collect();
            cluster.agree(&others).await;
            // It is asked for the pool, and knows who has it.
            let name = PoolName { pool: "tank".into() };
            cluster.ask::<ContainerList>(&[leaving], (0, 0), Opcode::ContainerList, &name).await.unwrap();
            let extend = PoolExtend { pool: "tank".into(), ranks: vec![Rank(leaving)] };
            let refused = cluster.ask::<PoolInfo>(&all, (7, 4), Opcode::PoolExtend, &extend).await.unwrap_err();
            assert!(refused.code == Code::Exists && refused.remedy.unwrap().contains("reintegrate"));
            let back = targets(TargetChange::Reintegrate, &[leaving]);
            cluster.ask::<PoolInfo>(&all, (7, 5), Opcode::PoolChangeTargets, &back).await.unwrap();
            cluster.map_settles(&all, |map| states_of(map, leaving) == [TargetState::UpIn; 2]).await;
            cluster.pool_settles("it is back", &all, |info| info.ranks.len() == 4 && info.disabled_targets == 0).await;
            cluster.agree(&all).await;
        });
    }
}

#[test]
fn what_an_administrator_excluded_stays_out_until_he_takes_it_back() {
    for seed in seeds(3) {
        run(seed, async |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
            cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            let one = PoolChangeTargets { targets: vec![TargetIndex(1)], ..targets(TargetChange::Exclude, &[1]) };
            let info: PoolInfo = cluster.ask(&all, (7, 2), Opcode::PoolChangeTargets, &one).await.unwrap();
            assert_eq!(info.targets, 6);
            // A server whose answer is lost counts as out, that time.
            cluster.pool_settles("one is out", &all, |info| info.disabled_targets == 1).await;
            // The map changes by itself until others have all that it held.
            cluster.map_settles(&all, |map| states_of(map, 1)[1] == TargetState::Away).await;
            let settled: PoolInfo = cluster.ask(&all, (7, 3), Opcode::PoolChangeTargets, &one).await.unwrap();
            let again: PoolInfo = cluster.ask(&all, (7, 30), Opcode::PoolChangeTargets, &one).await.unwrap();
            assert_eq!(again.map_version, settled.map_version, "a repeat changes nothing");
            cluster.pool_settles("one is still out", &all, |info| info.disabled_targets == 1).await;
            // Its server dies and is back: the other target comes back by itself, this one does not.
            cluster.crash(1);
            cluster.map_settles(&[0, 2], |map| is_out(states_of(map, 1)[0])).await;
            cluster.start(1, None).await.unwrap();
            cluster.map_settles(&all, |map| states_of(map, 1)[0] == TargetState::UpIn).await;
            rt::sleep(Duration::from_secs(3)).await;
            cluster.map_settles(&all, |map| is_out(states_of(map, 1)[1])).await;
            let back = PoolChangeTargets { change: TargetChange::Reintegrate, ..one.clone() };
            cluster.ask::<PoolInfo>(&all, (7, 4), Opcode::PoolChangeTargets, &back).await.unwrap();
            cluster.map_settles(&all, |map| states_of(map, 1) == [TargetState::UpIn; 2]).await;
            cluster.agree(&all).await;
        });
    }
}

/// Whether a target of a server serves, or says that it was stopped: links to it, from the client's node, until one of them
/// comes to something.
async fn serves(cluster: &Cluster, number: u32) -> bool {
    let begun = rt::now();
    loop {
        match link_to_target(cluster, number).await {
            Ok(()) => return true,
            Err(error) if error.code == Code::ShuttingDown => return false,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "seed {}: {error}", cluster.sim.seed()),
        }
    }
}

async fn link_to_target(cluster: &Cluster, number: u32) -> Result<(), Error> {
    let attempt = async move {
        let caller = Caller { session: SessionId(99), system: String::new(), clock: rt::Hlc::new() };
        let to = address(number).parse().expect("a literal");
        let target = wire::hello::Service::Target { index: 0 };
        let connection = Connection::open(&to, target, &caller, Duration::from_secs(2)).await?;
        connection.call(Opcode::Echo, 1, vec![], None, Duration::from_secs(2)).await
    };
    let answer = cluster.sim.spawn_on(cluster.client, attempt).await.expect("the client does not go down");
    answer.map(drop).map_err(Error::from)
}

fn stop(ranks: &[u32], stop: bool) -> SystemStop {
    SystemStop { ranks: ranks.iter().copied().map(Rank).collect(), stop }
}

#[test]
fn a_rank_that_is_stopped_serves_no_more_until_it_is_started() {
    for seed in seeds(3) {
        run(seed, async |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
            cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            assert!(serves(&cluster, 1).await);
            cluster.ask::<()>(&all, (7, 2), Opcode::SystemStop, &stop(&[1], true)).await.unwrap();
            assert!(!serves(&cluster, 1).await);
            cluster.map_settles(&all, |map| states_of(map, 1).into_iter().all(is_out)).await;
            // It stays so, answers for the services, and keeps its vote.
            rt::sleep(Duration::from_secs(20)).await;
            let info: SystemInfo = cluster.ask(&[1], (0, 0), Opcode::SystemQuery, &()).await.unwrap();
            assert_eq!(states(&info), [MemberState::Joined, MemberState::Stopped, MemberState::Joined]);
            assert_eq!(info.voters.len(), 3);
            let shown: PoolInfo =
                cluster.ask(&all, (0, 0), Opcode::PoolQuery, &PoolName { pool: "tank".into() }).await.unwrap();
            assert_eq!((shown.disabled_targets, shown.silent_ranks), (2, vec![Rank(1)]));
            cluster.ask::<()>(&[1], (7, 3), Opcode::SystemStop, &stop(&[1], false)).await.unwrap();
            assert!(serves(&cluster, 1).await);
            cluster.map_settles(&all, |map| states_of(map, 1) == [TargetState::UpIn; 2]).await;
            cluster.agree(&all).await;
        });
    }
}

/// Nobody writes to a system that is stopped as a whole, so that nobody has missed anything when it is started; a server
/// whose process is started meanwhile is meant to serve.
#[test]
fn a_system_that_is_stopped_as_a_whole_is_started_as_it_was() {
    run(1, async |cluster: Cluster| {
        form(&cluster, 3).await;
        let all = [0, 1, 2];
        cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
        let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
        let made: PoolInfo = cluster.ask(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
        cluster.ask::<()>(&all, (7, 2), Opcode::SystemStop, &stop(&[], true)).await.unwrap();
        for number in all {
            assert!(!serves(&cluster, number).await, "{number}");
        }
        rt::sleep(Duration::from_secs(60)).await;
        let info: SystemInfo = cluster.ask(&all, (0, 0), Opcode::SystemQuery, &()).await.unwrap();
        assert_eq!((states(&info), info.voters.len()), (vec![MemberState::Stopped; 3], 3));
        cluster.ask::<()>(&all, (7, 3), Opcode::SystemStop, &stop(&[], false)).await.unwrap();
        for number in all {
            assert!(serves(&cluster, number).await, "{number}");
        }
        rt::sleep(Duration::from_secs(20)).await;
        let begun = rt::now();
        loop {
            let shown: PoolInfo =
                cluster.ask(&all, (0, 0), Opcode::PoolQuery, &PoolName { pool: "tank".into() }).await.unwrap();
            assert_eq!(shown.map_version, made.map_version, "nobody was taken for lost");
            // Of one whose answer is lost, the targets do not count.
            if shown.disabled_targets == 0 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{shown:?}");
        }
        cluster.ask::<()>(&all, (7, 4), Opcode::SystemStop, &stop(&[2], true)).await.unwrap();
        cluster.crash(2);
        cluster.start(2, None).await.unwrap();
        cluster.settle("it is back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
        cluster.agree(&all).await;
    });
}

#[test]
fn without_a_majority_it_is_said_who_is_missing() {
    run(5, async |cluster: Cluster| {
        form(&cluster, 3).await;
        cluster.settle("three voters", &[0, 1, 2], |info| info.voters.len() == 3).await;
        let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("wide") };
        cluster.ask::<PoolInfo>(&[0], (7, 9), Opcode::PoolCreate, &big).await.unwrap();
        rt::sleep(Duration::from_secs(10)).await;
        cluster.crash(1);
        cluster.crash(2);
        let query = PoolName { pool: "wide".into() };
        let error = answered(&cluster, 0, (0, 0), Opcode::PoolQuery, query.to_bytes()).await.unwrap_err();
        assert_eq!(error.message, "no quorum for pool 'wide': of ranks 0, 1, 2 only 0 answer");
        assert_eq!(error.remedy.as_deref(), Some("bring ranks 1, 2 back"));
        let error = once(&cluster, 0, 7, 1, Opcode::PoolCreate, pool("tank").to_bytes()).await.unwrap_err();
        assert_eq!(error.code, Code::NoService, "{error}");
        assert!(error.message.contains("of ranks 0, 1, 2 only 0 answer"), "{error}");
        assert_eq!(error.remedy.as_deref(), Some("bring ranks 1, 2 back"));
        cluster.start(1, None).await.unwrap();
        cluster.ask::<PoolList>(&[0], (0, 0), Opcode::PoolList, &()).await.unwrap();
    });
}

#[test]
fn a_server_without_a_good_token_does_not_get_in() {
    run(6, async |cluster: Cluster| {
        cluster.start(0, None).await.unwrap();
        let join = JoinConfig { addresses: vec![address(0)], token: "nonsense".into() };
        let error = cluster.start(1, Some(join)).await.unwrap_err();
        assert_eq!(error.code, Code::NoPermission, "{error}");
        assert!(error.remedy.unwrap().contains("dmg system token"));
        let token: Token = cluster.ask(&[0], (9, 1), Opcode::SystemToken, &TokenCreate { seconds: 60 }).await.unwrap();
        rt::sleep(Duration::from_secs(61)).await;
        let join = JoinConfig { addresses: vec![address(0)], token: token.token };
        let error = cluster.start(2, Some(join)).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::NoPermission, "the token has expired"));
        assert!(error.remedy.unwrap().contains("dmg system token"));
        let info: SystemInfo = cluster.ask(&[0], (0, 0), Opcode::SystemQuery, &()).await.unwrap();
        assert_eq!(info.members.len(), 1);
    });
}

/// `SERVICES_SEEDS=n` runs n seeds, `SERVICES_SEED=s` the one seed s.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SERVICES_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SERVICES_SEEDS").unwrap_or(default),
    }
}

fn dice(bound: u64) -> u64 {
    rt::random_u64() % bound
}

/// Servers that die and come back, and links that part, one at a time, until told to stop.
async fn torment(cluster: Cluster, calm: Rc<Cell<bool>>) {
    while !calm.get() {
        rt::sleep(Duration::from_millis(200 + dice(3000))).await;
        let victim = dice(3) as u32;
        let node = cluster.node(victim).node;
        match dice(3) {
            0 => {
                let other = cluster.node((victim + 1) % 3).node;
                cluster.sim.partition(node, other);
                rt::sleep(Duration::from_millis(dice(6000))).await;
                cluster.sim.heal(node, other);
            }
            how => {
                cluster.node(victim).server.borrow_mut().take();
                if how == 1 {
                    cluster.sim.crash(node)
                } else {
                    cluster.sim.kill(node)
                }
                rt::sleep(Duration::from_millis(dice(5000))).await;
                cluster.start(victim, None).await.expect("a server starts from whatever a crash leaves");
            }
        }
    }
}

/// One client works while servers die and links part. No command is lost that was answered, and none happens twice: a
/// container of a label that nobody else uses is never refused because it exists, nor its removal because it does not.
#[test]
fn whatever_happens_a_command_takes_effect_once() {
    for seed in seeds(8) {
        run(seed, async |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
            cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            cluster.ask::<ContainerInfo>(&all, (7, 2), Opcode::ContainerCreate, &container("ids")).await.unwrap();
            let calm = Rc::new(Cell::new(false));
            let nemesis = rt::spawn_local(torment(cluster.clone(), calm.clone()));
            let mut there: BTreeMap<String, ContainerId> = BTreeMap::new();
            let mut next_id = 0;
            for number in 3..40 {
                let to = [dice(3) as u32, dice(3) as u32, 0, 1, 2];
                let gone = there.keys().next().cloned().filter(|_| dice(3) == 0);
                match gone {
                    Some(label) => {
                        let destroy = ContainerDestroy { pool: "tank".into(), container: label.clone() };
                        let done = cluster.ask::<()>(&to, (7, number), Opcode::ContainerDestroy, &destroy).await;
                        done.unwrap_or_else(|error| panic!("K5: {label}: {error}"));
                        there.remove(&label);
                    }
                    None if dice(2) == 0 => {
                        let count = 1 + dice(9);
                        let ask = AllocateObjectIds { pool: "tank".into(), container: "ids".into(), count };
                        let ids: ObjectIdRange =
                            cluster.ask(&to, (7, number), Opcode::AllocateObjectIds, &ask).await.unwrap();
                        assert!(ids.first >= next_id, "K5: {} was handed out before", ids.first);
                        assert!(
                            next_id == 0 || ids.first == next_id,
                            "ids are handed out once: {} after {next_id}",
                            ids.first
                        );
                        next_id = ids.first + count;
                    }
                    None => {
                        let label = format!("box-{number}");
                        let made: Result<ContainerInfo, _> =
                            cluster.ask(&to, (7, number), Opcode::ContainerCreate, &container(&label)).await;
                        let made = made.unwrap_or_else(|error| panic!("K5: {label}: {error}"));
                        there.insert(label, made.id);
                    }
                }
            }
            calm.set(true);
            nemesis.await.expect("it only breaks things");
            cluster.settle("all are back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
            let list: ContainerList =
                cluster.ask(&all, (0, 0), Opcode::ContainerList, &PoolName { pool: "tank".into() }).await.unwrap();
            let found: BTreeMap<String, ContainerId> = list
                .containers
                .into_iter()
                .map(|info| (info.label, info.id))
                .filter(|(label, _)| label != "ids")
                .collect();
            assert_eq!(found, there, "seed {}", cluster.sim.seed());
            cluster.agree(&all).await;
        });
    }
}

/// With a policy of `none` nobody is taken for dead, and pools stay as they are; when it is as it was before, the dead are excluded.
#[test]
fn the_systems_policy_says_whether_the_dead_are_excluded() {
    run(4, async |cluster: Cluster| {
        form(&cluster, 3).await;
        let all = [0, 1, 2];
        cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
        let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
        cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
        cluster.pool_settles("all are in", &all, |info| info.disabled_targets == 0).await;
        let policy = |text: &str| SystemSetProperties { properties: vec![("self_heal".into(), text.into())] };
        let wrong = cluster.ask::<()>(&all, (7, 2), Opcode::SystemSetProperties, &policy("never")).await.unwrap_err();
        assert!(wrong.code == Code::Invalid && wrong.message.contains("pool_rebuild"), "{wrong}");
        cluster.ask::<()>(&all, (7, 3), Opcode::SystemSetProperties, &policy("none")).await.unwrap();
        let leader = cluster.settle("a leader", &all, |info| info.leader.is_some()).await.leader.expect("looked for").0;
        let dead = (leader + 1) % 3;
        let left: Vec<u32> = all.into_iter().filter(|number| *number != dead).collect();
        cluster.crash(dead);
        rt::sleep(Duration::from_secs(20)).await;
        cluster.settle("nobody is taken for dead", &left, |info| states(info) == [MemberState::Joined; 3]).await;
        let is_as_it_was = |info: &PoolInfo| info.map_version == 1 && info.silent_ranks == [Rank(dead)];
        cluster.pool_settles("the pool's map says nothing of it", &left, is_as_it_was).await;
        let told: Properties = cluster.ask(&left, (0, 0), Opcode::SystemGetProperties, &()).await.unwrap();
        assert!(told.values.contains(&("self_heal".into(), "none".into())), "{told:?}");
        let usual = policy("exclude;pool_exclude;pool_rebuild");
        cluster.ask::<()>(&left, (7, 4), Opcode::SystemSetProperties, &usual).await.unwrap();
        let is_excluded = |info: &SystemInfo| info.members[dead as usize].state == MemberState::Excluded;
        cluster.settle("it is excluded", &left, is_excluded).await;
        cluster.map_settles(&left, |map| states_of(map, dead).into_iter().all(is_out)).await;
    });
}

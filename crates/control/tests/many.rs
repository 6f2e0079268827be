//! More servers than a group has members: most have the states by subscription. Voters die and are replaced out of those that
//! subscribe, and who was away finds the others again, though all voters have moved.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use control::config::{Config, Storage};
use control::server::Server;
use engine::service::JoinConfig;
use net::{Caller, Connection};
use rt::sim::{NetworkConfig, NodeId, Sim, SimConfig};
use types::{Code, Error, Layout, Rank, SessionId};
use wire::control::*;
use wire::{Opcode, Wire};

/// More than a group may have members ([`raft::limits::MEMBERS_MAX`]).
const SERVERS: u32 = 40;
const RACKS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// Servers by number, which is their rank: they join in order. Where each is by now, and its present life.
#[derive(Clone)]
struct Cluster {
    sim: Sim,
    nodes: Rc<RefCell<BTreeMap<u32, Node>>>,
    client: NodeId,
}

struct Node {
    node: NodeId,
    address: String,
    server: Rc<RefCell<Option<Server>>>,
}

impl Cluster {
    /// Begins a life of a server, at an address, and waits until it serves.
    async fn start(&self, number: u32, address: &str, join: Option<JoinConfig>) {
        let node = self.sim.node(&format!("server-{number}"));
        let config = Config {
            listen: vec![address.parse().expect("a literal")],
            targets: 1,
            storage: Storage::Directory { path: "/daos".into(), bytes: Some(128 << 20) },
            memory: 4 << 20,
            fault_path: Some(format!("/rack{}/server{number}", number % RACKS).parse().expect("two names")),
            join,
            ..Config::default()
        };
        let started = self.sim.restart(node, async move { Server::start(&config).await });
        let server = started.await.expect("nobody cuts its power").expect("it is let in");
        let server = Rc::new(RefCell::new(Some(server)));
        self.nodes.borrow_mut().insert(number, Node { node, address: address.to_string(), server });
    }

    fn address(&self, number: u32) -> String {
        self.nodes.borrow()[&number].address.clone()
    }

    /// Cuts a server's power.
    fn crash(&self, number: u32) {
        let nodes = self.nodes.borrow();
        nodes[&number].server.borrow_mut().take();
        self.sim.crash(nodes[&number].node);
    }

    /// A request, repeated at one server after another until it is answered for good.
    async fn ask<R: Wire + 'static>(&self, to: &[u32], sequence: u64, opcode: Opcode, message: &impl Wire) -> R {
        let begun = rt::now();
        let mut last = Error::new(Code::Unreachable, "nobody was asked");
        while begun.elapsed() < PATIENCE {
            for number in to {
                match self.once(*number, sequence, opcode, message.to_bytes()).await {
                    Ok(body) => return R::from_bytes(&body).expect("an answer of this kind"),
                    Err(error) if error.is_transient() => last = error,
                    Err(error) => panic!("{}: {error}", opcode.name()),
                }
            }
            rt::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} is not answered: {last}", opcode.name());
    }

    async fn once(&self, number: u32, sequence: u64, opcode: Opcode, body: Vec<u8>) -> Result<Vec<u8>, Error> {
        let to = self.address(number).parse().expect("a literal");
        let attempt = async move {
            let caller = Caller { session: SessionId(7), system: String::new(), clock: rt::Hlc::new() };
            let service = wire::hello::Service::Control;
            let connection = Connection::open(&to, service, &caller, Duration::from_secs(1)).await?;
            let reply = connection.call(opcode, sequence, body, None, Duration::from_secs(20)).await?;
            Ok::<_, net::CallError>(reply.body.to_vec())
        };
        let answer = self.sim.spawn_on(self.client, attempt).await.expect("the client does not go down");
        answer.map_err(Error::from)
    }

    /// Waits until what a server says is as `look` wants it.
    async fn settle<R: Wire + std::fmt::Debug + 'static>(
        &self,
        to: &[u32],
        opcode: Opcode,
        message: &impl Wire,
        look: impl Fn(&R) -> bool,
    ) -> R {
        let begun = rt::now();
        loop {
            let info: R = self.ask(to, 0, opcode, message).await;
            if look(&info) {
                return info;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: {info:?}", opcode.name());
            rt::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn system(&self, to: &[u32], look: impl Fn(&SystemInfo) -> bool) -> SystemInfo {
        self.settle(to, Opcode::SystemQuery, &(), look).await
    }

    /// Waits until all have the same states, byte for byte, whether by consensus or by subscription (K19).
    async fn agree(&self, numbers: &[u32]) {
        let begun = rt::now();
        loop {
            let states: BTreeSet<Vec<(String, Vec<u8>)>> = numbers
                .iter()
                .map(|number| {
                    let nodes = self.nodes.borrow();
                    let server = nodes[number].server.borrow();
                    server.as_ref().expect("it is up").engine().service().states().into_iter().collect()
                })
                .collect();
            if states.len() == 1 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "K19: {} different states", states.len());
            rt::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn racks(ranks: &[Rank]) -> BTreeSet<u32> {
    ranks.iter().map(|rank| rank.0 % RACKS).collect()
}

fn all_but(numbers: &[u32]) -> Vec<u32> {
    (0..SERVERS).filter(|number| !numbers.contains(number)).collect()
}

#[test]
fn forty_servers_are_a_system_and_most_of_them_subscribe() {
    let network =
        NetworkConfig { delay: Duration::from_micros(20)..=Duration::from_millis(2), drop: 0.0, duplicate: 0.0 };
    let sim = Sim::new(SimConfig { network, time_limit: Duration::from_secs(3600), ..SimConfig::seeded(1) });
    let cluster = Cluster { sim: sim.clone(), nodes: Rc::default(), client: sim.node("client") };
    sim.run(async move {
        let all: Vec<u32> = (0..SERVERS).collect();
        cluster.start(0, "mem://server-0", None).await;
        for number in 1..SERVERS {
            let token: Token =
                cluster.ask(&[0], number.into(), Opcode::SystemToken, &TokenCreate { seconds: 60 }).await;
            let join = JoinConfig { addresses: vec!["mem://server-0".into()], token: token.token };
            cluster.start(number, &format!("mem://server-{number}"), Some(join)).await;
        }
        let is_whole = |info: &SystemInfo| {
            let joined = info.members.iter().filter(|member| member.state == MemberState::Joined);
            joined.count() == SERVERS as usize && info.voters.len() == 5 && racks(&info.voters).len() == 5
        };
        cluster.system(&[39], is_whole).await;
        // A pool spans all; every one of them makes its share, though five only vote on it.
        let wanted = PoolCreate {
            label: "tank".into(),
            bytes: u64::from(SERVERS) * (64 << 20),
            servers: PoolServers::All,
            properties: vec![],
            acl: None,
        };
        let made: PoolInfo = cluster.ask(&[38], 100, Opcode::PoolCreate, &wanted).await;
        assert_eq!((made.targets, made.ranks.len()), (SERVERS, SERVERS as usize));
        let name = PoolName { pool: "tank".into() };
        let has_five = |info: &PoolInfo| info.voters.len() == 5 && racks(&info.voters).len() == 5;
        cluster.settle(&[37], Opcode::PoolQuery, &name, has_five).await;
        let container = ContainerCreate {
            pool: "tank".into(),
            label: "box".into(),
            layout: Layout::Posix,
            properties: vec![],
            attributes: vec![],
            acl: None,
        };
        cluster.ask::<ContainerInfo>(&[36], 101, Opcode::ContainerCreate, &container).await;
        cluster.agree(&all).await;

        // Two voters die, one of them the leader: others that only subscribed until then vote in their places.
        let before = cluster.system(&[35], is_whole).await;
        let leader = before.leader.expect("it answered").0;
        let other = before.voters.iter().map(|rank| rank.0).find(|rank| *rank != leader).expect("there are five");
        let dead = [leader, other];
        dead.iter().for_each(|number| cluster.crash(*number));
        let left = all_but(&dead);
        let is_replaced = |info: &SystemInfo| {
            let is_there = |rank: &Rank| !dead.contains(&rank.0);
            info.voters.len() == 5 && info.voters.iter().all(is_there) && racks(&info.voters).len() == 5
        };
        let after = cluster.system(&left, is_replaced).await;
        assert!(after.voters.iter().any(|rank| !before.voters.contains(rank)));
        cluster
            .ask::<ContainerInfo>(
                &left,
                102,
                Opcode::ContainerCreate,
                &ContainerCreate { label: "chest".into(), ..container.clone() },
            )
            .await;

        // A server that only subscribes goes down; when it is back, no voter is where it was.
        let away = left.iter().copied().rev().find(|n| !after.voters.contains(&Rank(*n))).expect("35 do not vote");
        // What it keeps of where the others are is not older than this.
        rt::sleep(Duration::from_secs(6)).await;
        cluster.crash(away);
        let movers: Vec<u32> = after.voters.iter().map(|rank| rank.0).collect();
        movers.iter().for_each(|number| cluster.crash(*number));
        for number in &movers {
            cluster.start(*number, &format!("mem://moved-{number}"), None).await;
        }
        let there = all_but(&[dead[0], dead[1], away]);
        // Once it is excluded, nobody greets it: it finds them by what it kept.
        cluster.system(&there, |info| info.members[away as usize].state == MemberState::Excluded).await;
        cluster
            .ask::<ContainerInfo>(
                &there,
                103,
                Opcode::ContainerCreate,
                &ContainerCreate { label: "crate".into(), ..container },
            )
            .await;
        cluster.start(away, &format!("mem://server-{away}"), None).await;
        let left = all_but(&dead);
        cluster
            .system(&[away], |info| left.iter().all(|n| info.members[*n as usize].state == MemberState::Joined))
            .await;
        for number in dead {
            cluster.start(number, &format!("mem://server-{number}"), None).await;
        }
        cluster.system(&[away], is_whole).await;
        let list: ContainerList = cluster.ask(&dead, 0, Opcode::ContainerList, &name).await;
        assert_eq!(list.containers.len(), 3);
        cluster.agree(&all).await;
    });
}

/// Three servers went down, and came back at three other addresses: none was where anybody knew, so that they had neither a leader
/// nor other clocks to compare theirs with, and `--join` was not looked at before that. Now one place that two of them are told is
/// enough.
#[test]
fn servers_that_all_moved_find_each_other_at_the_one_place_that_they_are_told() {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(3600), ..SimConfig::seeded(2) });
    let cluster = Cluster { sim: sim.clone(), nodes: Rc::default(), client: sim.node("client") };
    sim.run(async move {
        cluster.start(0, "mem://server-0", None).await;
        for number in 1..3 {
            let token: Token =
                cluster.ask(&[0], number.into(), Opcode::SystemToken, &TokenCreate { seconds: 60 }).await;
            let join = JoinConfig { addresses: vec!["mem://server-0".into()], token: token.token };
            cluster.start(number, &format!("mem://server-{number}"), Some(join)).await;
        }
        cluster.system(&[0], |info| info.voters.len() == 3).await;
        rt::sleep(Duration::from_secs(6)).await;
        (0..3).for_each(|number| cluster.crash(number));
        for number in 0..3 {
            let told = JoinConfig { addresses: vec!["mem://moved-0".into()], token: String::new() };
            cluster.start(number, &format!("mem://moved-{number}"), Some(told).filter(|_| number > 0)).await;
        }
        let is_there = |number: u32, info: &SystemInfo| {
            let member = &info.members[number as usize];
            member.state == MemberState::Joined && member.address == format!("mem://moved-{number}")
        };
        cluster.system(&[0, 1, 2], |info| (0..3).all(|number| is_there(number, info))).await;
    });
}

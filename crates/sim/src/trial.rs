//! One run of a cluster from one seed: it forms, clients work, a nemesis does harm, all is put right, the cluster heals, and
//! what is left is evidence for the invariants ([`Evidence`]).
//!
//! # Not here
//! What must hold of the evidence: [`crate::verdict`]. What a scenario does: `tests/invariants`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use client::{ContainerSpec, System};
use engine::detection::Detection;
use placement::PoolMap;
use rt::Rng;
use rt::sim::{NetworkConfig, NodeId, Sim, SimConfig};
use types::{Code, ObjectClass, ObjectId, ObjectType};

use crate::cluster::{Cluster, Domains, voters};
use crate::contents::Contents;
use crate::nemesis::cluster::{Harm, Menu, Nemesis};
use crate::work::{self, DEADLINE, Ledger, Load, Place};
use crate::workload::patiently;

/// Fits whatever number of servers there are.
const POOL_BYTES_PER_SERVER: u64 = 200 << 20;
/// After which a cluster that does not heal never will.
const HEALING_MAX: Duration = Duration::from_secs(240);
/// In which what is undecided is decided, and said to everybody, once all is well.
const REST: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    /// As the seed chooses.
    pub servers: RangeInclusive<usize>,
    pub domains: Domains,
    /// By rank.
    pub detection: fn(usize) -> Detection,
    pub copies: RangeInclusive<usize>,
    pub load: Load,
    pub menu: Menu,
}

/// What is left of a run.
pub struct Evidence {
    pub ledger: Ledger,
    pub harm: Harm,
    /// As they were seen, in this order.
    pub maps: Vec<PoolMap>,
    /// States of the replicas of each server, at rest.
    pub states: Vec<BTreeMap<String, Vec<u8>>>,
    /// By server and target, at rest.
    pub contents: Vec<Vec<Contents>>,
    /// What every look back sees when all is over, in the order of the ledger's.
    pub looks_again: Vec<Vec<Option<String>>>,
    /// What is at the epoch of every acknowledged write, in the order of the ledger's.
    pub told_again: Vec<Vec<Option<String>>>,
    /// What own dkeys hold, in the order of the ledger's.
    pub own_again: Vec<Option<String>>,
    /// Labels of the containers that are there.
    pub containers: Vec<String>,
    /// From the last repair to all being in service.
    pub healing: Duration,
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub harm: Harm,
    pub answered: u64,
    pub unanswered: u64,
    /// Versions of the pool map.
    pub maps: u64,
    pub healing: Duration,
    pub virtual_time: Duration,
    /// Of everything that happened, in order: equal for equal seeds.
    pub trace: u64,
}

/// Runs `plan` with `seed`, and has `judge` look at the evidence. Panics on a broken promise.
pub fn run(seed: u64, plan: &Plan, judge: impl FnOnce(&Evidence)) -> Report {
    let network = NetworkConfig {
        delay: Duration::from_micros(20)..=Duration::from_millis(2),
        drop: [0.0, 0.002, 0.005][seed as usize % 3],
        duplicate: [0.0, 0.005, 0.01][seed as usize % 3],
    };
    let config = SimConfig { network, time_limit: Duration::from_secs(900), ..SimConfig::seeded(seed) };
    let sim = Sim::new(config.clone());
    let mut dice = Rng::seeded(seed ^ 0x0007_121a);
    let servers = pick(&plan.servers, &mut dice);
    let copies = pick(&plan.copies, &mut dice).min(servers);
    let evidence = sim.run(play(plan.clone(), servers, copies, config.network, dice));
    judge(&evidence);
    Report {
        harm: evidence.harm,
        answered: evidence.ledger.answered,
        unanswered: evidence.ledger.unanswered,
        maps: u64::from(evidence.maps.last().map_or(0, PoolMap::version)),
        healing: evidence.healing,
        virtual_time: sim.elapsed(),
        trace: sim.trace_hash(),
    }
}

fn pick(range: &RangeInclusive<usize>, dice: &mut Rng) -> usize {
    range.start() + dice.below((range.end() - range.start() + 1) as u64) as usize
}

async fn play(plan: Plan, servers: usize, copies: usize, network: NetworkConfig, mut dice: Rng) -> Evidence {
    let sim = rt::sim::current();
    let cluster = Rc::new(Cluster::form_in(servers, plan.domains, plan.detection).await);
    let system = cluster.connect(DEADLINE).await;
    tracing::info!(seconds = rt::sim::current().elapsed().as_secs_f64(), "formed");
    let object = set_up(&system, servers, copies).await;
    tracing::info!(seconds = rt::sim::current().elapsed().as_secs_f64(), "set up");
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let clients: Vec<NodeId> = (0..plan.load.clients).map(|number| sim.node(&format!("client-{number}"))).collect();
    let calm = Rc::new(Cell::new(false));

    let mut working = Vec::new();
    for (number, node) in (0..).zip(&clients) {
        let (cluster, ledger) = (cluster.clone(), ledger.clone());
        let (load, dice) = (plan.load, Rng::seeded(dice.next_u64()));
        working.push(sim.spawn_on(*node, async move {
            let place = Place::open(&cluster, object).await;
            work::work(number, load, place, dice, ledger).await;
        }));
    }
    working.push(sim.spawn_on(sim.node("admin"), {
        work::command(plan.load, system.clone(), Rng::seeded(dice.next_u64()), ledger.clone())
    }));
    let maps = Rc::new(RefCell::new(Vec::new()));
    let watching = rt::spawn_local(watch_maps(cluster.clone(), maps.clone()));
    let nemesis = Nemesis::new(cluster.clone(), system.clone(), clients, network, plan.menu);
    let torment = rt::spawn_local(nemesis.torment(Rng::seeded(dice.next_u64()), calm.clone()));

    for client in working {
        client.await.expect("a client that was cheated has said how");
    }
    tracing::info!(seconds = rt::sim::current().elapsed().as_secs_f64(), "work done");
    calm.set(true);
    let harm = torment.await.expect("it puts right what it did");
    let healed = rt::now();
    heal(&cluster, &system, &maps).await;
    let healing = healed.elapsed();
    tracing::info!(seconds = rt::sim::current().elapsed().as_secs_f64(), "healed");
    rt::sleep(REST).await;

    let ledger = ledger.take();
    let mut evidence = look_again(&cluster, &system, object, ledger).await;
    watching.abort();
    tracing::info!(seconds = rt::sim::current().elapsed().as_secs_f64(), "looked");
    evidence.maps = maps.take();
    evidence.maps.push(patiently(|| cluster.map(0, "tank")).await);
    evidence.states = agreed_states(&cluster).await;
    for rank in 0..servers {
        cluster.kill(rank);
    }
    for rank in 0..servers {
        evidence.contents.push(cluster.contents(rank).await);
    }
    tracing::info!(seconds = rt::sim::current().elapsed().as_secs_f64(), "read");
    Evidence { harm, healing, ..evidence }
}

/// A pool, a container that keeps all history, an object in all its groups.
async fn set_up(system: &System, servers: usize, copies: usize) -> ObjectId {
    let bytes = servers as u64 * POOL_BYTES_PER_SERVER;
    // One frame that is lost may cost many servers' maker all of a client's patience.
    while let Err(error) = system.create_pool("tank", bytes, Vec::new()).await {
        match error.code {
            Code::Exists => break,
            Code::TimedOut => {}
            _ => panic!("there is room for a pool: {error}"),
        }
    }
    let pool = patiently(|| system.pool("tank")).await;
    let properties =
        vec![("rd_fac".to_string(), (copies - 1).to_string()), ("retention".to_string(), "forever".to_string())];
    let spec = ContainerSpec { properties, ..ContainerSpec::labelled("box") };
    pool.create_container(spec).await.expect("nothing goes wrong yet");
    let container = patiently(|| pool.container("box")).await;
    let class: ObjectClass = format!("RP_{copies}GX").parse().expect("a class of copies");
    patiently(|| container.new_object(ObjectType::KvHashed, Some(class))).await
}

/// Notes every version of the map that is told by whichever server.
async fn watch_maps(cluster: Rc<Cluster>, maps: Rc<RefCell<Vec<PoolMap>>>) {
    for turn in 0.. {
        if let Ok(map) = cluster.map(turn % cluster.servers(), "tank").await
            && maps.borrow().last() != Some(&map)
        {
            maps.borrow_mut().push(map);
        }
        rt::sleep(LOOK_EVERY).await;
    }
}

/// Waits until every server is a member and every target in service.
async fn heal(cluster: &Cluster, system: &System, maps: &RefCell<Vec<PoolMap>>) {
    let begun = rt::now();
    loop {
        let info = system.info().await;
        let pool = system.pool_info("tank").await;
        if let (Ok(info), Ok(pool)) = (&info, &pool)
            && info.members.iter().all(|member| member.state == client::MemberState::Joined)
            && info.voters.len() >= voters(cluster.servers())
            && pool.disabled_targets == 0
        {
            return;
        }
        tracing::debug!(?info, ?pool, "not healed yet");
        if begun.elapsed() > HEALING_MAX {
            let map = maps.borrow().last().cloned();
            let states = map.map(|map| map.targets().iter().map(|target| target.standing()).collect::<Vec<_>>());
            panic!("it does not heal: {info:?}, {pool:?}, {states:?}");
        }
        rt::sleep(LOOK_EVERY).await;
    }
}

/// Reads once more what was read, and what was written.
async fn look_again(cluster: &Rc<Cluster>, system: &System, object: ObjectId, ledger: Ledger) -> Evidence {
    let reader = cluster.clone();
    let looking = async move {
        let place = Place::open(&reader, object).await;
        let (mut looks_again, mut told_again, mut own_again) = (Vec::new(), Vec::new(), Vec::new());
        for look in &ledger.looks {
            looks_again
                .push(patiently(|| async { work::read(&place.at(look.at), &look.dkey, &look.akeys).await }).await);
        }
        for told in ledger.acknowledged.values() {
            let read = || async { work::read(&place.at(told.epoch), &told.dkey, &told.akeys).await };
            told_again.push(patiently(read).await);
        }
        for dkey in ledger.own.keys() {
            let read = || async { work::read(&place.now(), dkey, &["v".into()]).await };
            own_again.push(patiently(read).await.remove(0));
        }
        (ledger, looks_again, told_again, own_again)
    };
    let sim = rt::sim::current();
    let looked = sim.spawn_on(sim.node("reader"), looking).await;
    let (ledger, looks_again, told_again, own_again) = looked.expect("what can be read is read");
    let pool = patiently(|| system.pool("tank")).await;
    let containers = patiently(|| pool.containers()).await.into_iter().map(|info| info.label).collect();
    Evidence {
        ledger,
        harm: Harm::default(),
        maps: Vec::new(),
        states: Vec::new(),
        contents: Vec::new(),
        looks_again,
        told_again,
        own_again,
        containers,
        healing: Duration::ZERO,
    }
}

/// What the replicas hold, when they hold the same, or after a while whatever they hold.
async fn agreed_states(cluster: &Cluster) -> Vec<BTreeMap<String, Vec<u8>>> {
    let begun = rt::now();
    loop {
        let states: Vec<_> = (0..cluster.servers()).map(|rank| cluster.states(rank).expect("it is up")).collect();
        if states.iter().all(|state| *state == states[0]) || begun.elapsed() > HEALING_MAX {
            return states;
        }
        rt::sleep(LOOK_EVERY).await;
    }
}

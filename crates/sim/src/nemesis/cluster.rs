//! What goes wrong in a cluster: several things at once, each for a while, and in the end everything is whole again.
//!
//! # Shape
//! A [`Menu`] says what may happen, how often, and to how many servers at a time. Every fault is an *act* of its own: it
//! takes hold of its victims, does its harm, waits, and puts right what it did. So a server hangs while another one
//! starts, over a network that loses what it carries.
//!
//! # Always true
//! 1. A server is in one act at most; acts on the network alone need none.
//! 2. When [`Nemesis::torment`] returns, all servers are up, all links whole, all disks well and all clocks right.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use client::System;
use rt::Rng;
use rt::fault::When;
use rt::sim::{DiskFault, NetworkConfig, NodeId};
use types::{Code, Rank};

use crate::cluster::Cluster;
use crate::workload::patiently;

/// Where a server keeps its replicas of the services.
const SERVICE: &str = "/daos/service";

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// One server loses power; unsynced writes are torn, reordered and lost.
    PowerCut,
    /// One process dies.
    Kill,
    /// One server ends in order.
    Stop,
    /// All lose power at once.
    Blackout,
    /// One process stands still (SIGSTOP), and goes on.
    Hang,
    /// Two servers hear nothing of each other.
    Partition,
    /// One hears nothing of another, which hears it.
    OneWay,
    /// One server hears no other; clients reach it.
    Isolate,
    /// A client and a server hear nothing of each other.
    ClientCut,
    /// Many frames are lost, repeated and late, everywhere.
    BadNetwork,
    /// One server's disks take long, now and then.
    SlowDisk,
    /// The file system of one server is full, or of one of its targets, or the one that its services are on; when there is room,
    /// all go on by themselves.
    FullDisk,
    /// One server's clock is off by less than what is borne.
    Skew,
    /// One server's clock is set off by a moment, seconds or hours, as it runs or while it is started anew: it serves nobody.
    WrongClock,
    /// An administrator excludes a server, and takes it back.
    Exclude,
}

/// What may happen in a run.
#[derive(Clone, Copy, Debug)]
pub struct Menu {
    /// Faults and their weights.
    pub faults: &'static [(Fault, u64)],
    /// Servers that are in acts at a time.
    pub victims_max: usize,
    /// Between the beginnings of two acts, on average.
    pub pause: Duration,
    /// One act in so many lasts for seconds, so that its victim is excluded; the others, for less.
    pub long_one_in: u64,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Harm {
    pub acts: BTreeMap<Fault, u32>,
    /// Acts that lasted for seconds.
    pub long: u32,
    /// The longest that a server took to end in order.
    pub slowest_stop: Duration,
}

impl Harm {
    pub fn total(&self) -> u32 {
        self.acts.values().sum()
    }

    pub fn add(&mut self, other: &Harm) {
        for (fault, count) in &other.acts {
            *self.acts.entry(*fault).or_default() += count;
        }
        self.long += other.long;
        self.slowest_stop = self.slowest_stop.max(other.slowest_stop);
    }
}

/// Shared by acts.
pub struct Nemesis {
    cluster: Rc<Cluster>,
    system: System,
    clients: Vec<NodeId>,
    network: NetworkConfig,
    menu: Menu,
    /// Servers that are in an act.
    held: RefCell<BTreeSet<usize>>,
    network_is_bad: Cell<bool>,
    harm: RefCell<Harm>,
}

impl Nemesis {
    /// `network`: how it is when it is well.
    pub fn new(
        cluster: Rc<Cluster>,
        system: System,
        clients: Vec<NodeId>,
        network: NetworkConfig,
        menu: Menu,
    ) -> Rc<Nemesis> {
        let (held, harm) = (RefCell::default(), RefCell::default());
        Rc::new(Nemesis { cluster, system, clients, network, menu, held, network_is_bad: Cell::new(false), harm })
    }

    /// Does harm until told to stop; then waits until what it did is put right.
    pub async fn torment(self: Rc<Self>, mut dice: Rng, calm: Rc<Cell<bool>>) -> Harm {
        let mut acts = Vec::new();
        while !calm.get() {
            let pause = self.menu.pause.as_micros() as u64;
            rt::sleep(Duration::from_micros(pause / 2 + dice.below(pause))).await;
            let fault = self.choose(&mut dice);
            let Some(victims) = self.hold(fault, &mut dice) else { continue };
            let is_long = dice.below(self.menu.long_one_in) == 0;
            let time = Duration::from_millis(if is_long { 2_500 + dice.below(4_000) } else { 10 + dice.below(900) });
            {
                let mut harm = self.harm.borrow_mut();
                *harm.acts.entry(fault).or_default() += 1;
                harm.long += u32::from(is_long);
            }
            let (this, dice) = (Rc::clone(&self), Rng::seeded(dice.next_u64()));
            acts.push(rt::spawn_local(async move {
                this.act(fault, &victims, time, dice).await;
                let mut held = this.held.borrow_mut();
                victims.iter().for_each(|victim| assert!(held.remove(victim), "an act lets go of what it held"));
            }));
        }
        for act in acts {
            act.await.expect("a server starts from whatever was done to it");
        }
        self.harm.take()
    }

    fn choose(&self, dice: &mut Rng) -> Fault {
        let mut left = dice.below(self.menu.faults.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in self.menu.faults {
            match left.checked_sub(*weight) {
                None => return *fault,
                Some(less) => left = less,
            }
        }
        unreachable!("a number below the sum of the weights")
    }

    /// Takes the servers that a fault is to strike; `None` when they are in other hands.
    fn hold(&self, fault: Fault, dice: &mut Rng) -> Option<Vec<usize>> {
        let mut held = self.held.borrow_mut();
        let count = self.cluster.servers();
        if fault == Fault::Blackout {
            return held.is_empty().then(|| {
                held.extend(0..count);
                (0..count).collect()
            });
        }
        if fault == Fault::BadNetwork {
            return (!self.network_is_bad.replace(true)).then(Vec::new);
        }
        let free: Vec<usize> = (0..count).filter(|server| !held.contains(server)).collect();
        if held.len() >= self.menu.victims_max || free.is_empty() {
            return None;
        }
        let victim = free[dice.below(free.len() as u64) as usize];
        held.insert(victim);
        Some(vec![victim])
    }

    async fn act(&self, fault: Fault, victims: &[usize], time: Duration, mut dice: Rng) {
        let (sim, cluster) = (rt::sim::current(), &self.cluster);
        let victim = victims.first().copied().unwrap_or(0);
        let node = cluster.node(victim);
        let other = cluster.node((victim + 1 + dice.below(cluster.servers() as u64 - 1) as usize) % cluster.servers());
        match fault {
            Fault::PowerCut => {
                cluster.crash(victim);
                rt::sleep(time).await;
                cluster.restart(victim).await;
            }
            Fault::Kill => {
                cluster.kill(victim);
                rt::sleep(time).await;
                cluster.restart(victim).await;
            }
            Fault::Stop => {
                let begun = rt::now();
                // What it may complain of is a target whose disks another act made fail; it has ended all the same.
                let _ = cluster.stop(victim).await;
                {
                    let mut harm = self.harm.borrow_mut();
                    harm.slowest_stop = harm.slowest_stop.max(begun.elapsed());
                }
                rt::sleep(time).await;
                cluster.restart(victim).await;
            }
            Fault::Blackout => {
                victims.iter().for_each(|server| cluster.crash(*server));
                rt::sleep(time).await;
                futures_util::future::join_all(victims.iter().map(|server| cluster.restart(*server))).await;
            }
            Fault::Hang => {
                sim.pause(node);
                rt::sleep(time).await;
                sim.resume(node);
            }
            Fault::Partition => {
                sim.partition(node, other);
                rt::sleep(time).await;
                sim.heal(node, other);
            }
            Fault::OneWay => {
                match dice.below(2) {
                    0 => sim.cut(node, other),
                    _ => sim.cut(other, node),
                }
                rt::sleep(time).await;
                sim.heal(node, other);
            }
            Fault::Isolate => {
                let others = || (0..cluster.servers()).filter(|server| *server != victim);
                others().for_each(|other| sim.partition(node, cluster.node(other)));
                rt::sleep(time).await;
                others().for_each(|other| sim.heal(node, cluster.node(other)));
            }
            Fault::ClientCut => {
                let client = self.clients[dice.below(self.clients.len() as u64) as usize];
                sim.partition(node, client);
                rt::sleep(time).await;
                sim.heal(node, client);
            }
            Fault::BadNetwork => {
                let delay = Duration::from_micros(50)..=Duration::from_millis(20);
                sim.set_network(NetworkConfig { delay, drop: 0.03, duplicate: 0.05 });
                rt::sleep(time).await;
                sim.set_network(self.network.clone());
                self.network_is_bad.set(false);
            }
            Fault::SlowDisk => {
                let stall = DiskFault::Stall(Duration::from_millis(1 + dice.below(150)));
                sim.disk_fault(node, "/daos", stall, When::Chance(0.3));
                rt::sleep(time).await;
                sim.clear_disk_faults(node);
            }
            Fault::FullDisk => {
                let path = ["/daos/target-0/log", "/daos/target-1/data", "/daos", SERVICE][dice.below(4) as usize];
                sim.disk_fault(node, path, DiskFault::Full, When::Chance(1.0));
                rt::sleep(time).await;
                // Replicas of services and targets go on by themselves.
                sim.clear_disk_faults(node);
            }
            Fault::Skew => {
                // Of two servers at once, one ahead and one behind are within what is borne.
                sim.set_clock_skew(node, dice.below(44_000) as i64 - 22_000);
                rt::sleep(time).await;
                sim.set_clock_skew(node, 0);
            }
            Fault::WrongClock => {
                let micros = match dice.below(3) {
                    0 => 60_000 + dice.below(300_000) as i64,
                    1 => 200_000 + dice.below(3_000_000) as i64,
                    _ => 3_600_000_000 * (1 + dice.below(12) as i64),
                };
                sim.set_clock_skew(node, if dice.below(2) == 0 { micros } else { -micros });
                if dice.below(3) == 0 {
                    cluster.kill(victim);
                    cluster.restart(victim).await;
                }
                rt::sleep(time).await;
                sim.set_clock_skew(node, 0);
            }
            Fault::Exclude => {
                let ranks = vec![Rank(victim as u32)];
                // Refused when all others are out.
                let excluded = patiently(|| async {
                    match self.system.exclude(ranks.clone(), true).await {
                        Err(error) if error.code == Code::Invalid => Ok(false),
                        done => done.map(|()| true),
                    }
                });
                if excluded.await {
                    rt::sleep(time).await;
                    patiently(|| self.system.exclude(ranks.clone(), false)).await;
                }
            }
        }
    }
}

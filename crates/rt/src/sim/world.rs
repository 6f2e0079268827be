//! What a simulation consists of besides its tasks: time, events, dice, nodes, and the trace.
//!
//! # Always true
//! 1. One lock holds all of it. It is never held while a future is polled, or while anything of a
//!    user (a task, a link's end) is dropped.
//! 2. Events of one time happen in the order in which they were scheduled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use super::disk::Volume;
use super::file::NodeDisk;
use super::net::Net;
use super::{NodeId, SimConfig};
use crate::fault::Points;
use crate::random::{Rng, mix};

/// Virtual time begins here, so that "a minute ago" exists from the start.
const START_NANOS: u64 = 3_600_000_000_000;

/// The calendar at the start: 2026-01-01, to the microsecond.
const START_WALL_MICROS: u64 = 1_767_225_600_000_000;

/// The numbers of the tasks to be polled.
pub(super) type Ready = Mutex<Vec<u64>>;

/// What an event does, given the world it happens in.
type Deed = Box<dyn FnOnce(&Arc<Shared>) + Send>;

/// The part of a simulation that handles of any thread may hold.
pub(crate) struct Shared {
    /// Tasks to be polled. Apart from the world, because wakers are called under the world's lock,
    /// and because a waker kept in the world would otherwise keep the world.
    pub(super) ready: Arc<Ready>,
    world: Mutex<World>,
}

impl Shared {
    pub(super) fn new(config: SimConfig) -> Arc<Shared> {
        Arc::new(Shared { ready: Arc::default(), world: Mutex::new(World::new(config)) })
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where something runs: a node, and which of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(super) life: u32,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) is_up: bool,
    /// Grows with each crash; what was made in an earlier life is dead.
    pub(super) life: u32,
    pub(super) is_paused: bool,
    /// Tasks that would run if it were not paused.
    pub(super) waiting: Vec<u64>,
    pub(super) skew_micros: i64,
    pub(super) disk: NodeDisk,
}

pub(super) enum Event {
    Wake(Waker),
    /// Runs outside the lock.
    Call(Deed),
}

/// The time of an event, then its place among the events of that time.
pub(crate) type EventKey = (u64, u64);

pub(crate) struct World {
    pub(super) config: SimConfig,
    now: u64,
    pub(super) events: BTreeMap<EventKey, Event>,
    scheduled: u64,
    pub(super) spawned: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) net: Net,
    pub(crate) faults: Points,
    /// One set of dice each, so that a change in one area does not reshuffle the others.
    pub(super) order: Rng,
    pub(super) chance: Rng,
    pub(super) net_rng: Rng,
    pub(super) disk_rng: Rng,
    trace: u64,
}

impl World {
    fn new(config: SimConfig) -> World {
        let mut seeds = Rng::seeded(config.seed);
        let mut world = World {
            now: START_NANOS,
            events: BTreeMap::new(),
            scheduled: 0,
            spawned: 0,
            nodes: Vec::new(),
            net: Net::default(),
            faults: Points::new(),
            order: Rng::seeded(seeds.next_u64()),
            chance: Rng::seeded(seeds.next_u64()),
            net_rng: Rng::seeded(seeds.next_u64()),
            disk_rng: Rng::seeded(seeds.next_u64()),
            trace: mix(config.seed),
            config,
        };
        world.node("main");
        world
    }

    /// The node called `name`, made if there is none.
    pub(super) fn node(&mut self, name: &str) -> NodeId {
        let found = self.nodes.iter().position(|node| node.name == name);
        let index = found.unwrap_or_else(|| {
            let disk = NodeDisk::new(Volume::new(self.config.disk_bytes));
            self.nodes.push(Node {
                name: name.to_owned(),
                is_up: true,
                life: 0,
                is_paused: false,
                waiting: Vec::new(),
                skew_micros: 0,
                disk,
            });
            self.nodes.len() - 1
        });
        NodeId(u32::try_from(index).expect("a simulation has a handful of nodes"))
    }

    pub(super) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0 as usize]
    }

    pub(super) fn place(&self, node: NodeId) -> Place {
        Place { node, life: self.nodes[node.0 as usize].life }
    }

    pub(super) fn is_alive(&self, place: Place) -> bool {
        let node = &self.nodes[place.node.0 as usize];
        node.is_up && node.life == place.life
    }

    /// The present, without looking at the clock (which takes time).
    pub(super) fn peek_now(&self) -> u64 {
        self.now
    }

    /// Reading the clock takes a little time, so that a loop that waits for it to move ends.
    pub(crate) fn read_clock(&mut self) -> u64 {
        self.now += 10;
        self.now
    }

    pub(super) fn pass(&mut self, nanos: u64) {
        self.now += nanos;
    }

    pub(super) fn pass_until(&mut self, time: u64) {
        self.now = self.now.max(time);
    }

    pub(crate) fn wall_micros(&mut self, node: NodeId) -> u64 {
        let passed = (self.read_clock() - START_NANOS) / 1000;
        let skew = self.nodes[node.0 as usize].skew_micros;
        (START_WALL_MICROS + passed).saturating_add_signed(skew)
    }

    pub(super) fn elapsed_nanos(&self) -> u64 {
        self.now - START_NANOS
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.chance.next_u64()
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) -> EventKey {
        self.scheduled += 1;
        let key = (at.max(self.now), self.scheduled);
        self.events.insert(key, event);
        key
    }

    pub(super) fn call_at(&mut self, at: u64, call: impl FnOnce(&Arc<Shared>) + Send + 'static) {
        self.schedule(at, Event::Call(Box::new(call)));
    }

    pub(crate) fn wake_at(&mut self, at: u64, waker: Waker) -> EventKey {
        self.schedule(at, Event::Wake(waker))
    }

    pub(crate) fn cancel(&mut self, key: EventKey) {
        self.events.remove(&key);
    }

    /// Adds something that happened to the trace. Two runs that differ anywhere differ in its hash.
    pub(super) fn note(&mut self, what: u64, detail: u64) {
        self.trace = mix(self.trace ^ mix(what ^ self.now.rotate_left(20)) ^ detail.rotate_left(40));
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace
    }
}

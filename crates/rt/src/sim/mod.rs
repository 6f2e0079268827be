//! The simulator: whole clusters in one thread, in virtual time, from one seed.
//!
//! # Shape
//! ```
//! use std::time::Duration;
//! use rt::sim::{Sim, SimConfig};
//!
//! let sim = Sim::new(SimConfig::seeded(7));
//! let server = sim.node("server");
//! let answer = sim.run(async {
//!     let sim = rt::sim::current();
//!     let task = sim.spawn_on(server, async {
//!         rt::sleep(Duration::from_secs(86_400)).await; // takes no time at all
//!         42
//!     });
//!     task.await.unwrap()
//! });
//! assert_eq!(answer, 42);
//! ```
//! A *node* is a machine: a clock skew, disks, and tasks, all of which die together. Tasks spawned by
//! tasks belong to the same node; `rt::spawn_thread` makes a task of it. The future given to
//! [`Sim::run`] plays the outside world on a node of its own.
//!
//! # Always true
//! 1. The same seed, configuration and program give the same [`Sim::trace_hash`].
//! 2. Ready tasks are polled in random order, one at a time.
//! 3. Virtual time moves when nothing is ready, and a little with each poll.
//!
//! # What breaks the first rule
//! - `tokio::select!` and `futures_util::select!` start at a random branch: write `biased;` or
//!   `select_biased!`.
//! - `HashMap` with its default hasher iterates in random order: use a fixed hasher or a `BTreeMap`.
//! - Addresses, thread ids and anything else the process does not repeat.
//!
//! # Not here
//! Byte streams: nodes talk over [`crate::mem`] links. Scenarios and checkers: crate `sim`.

pub mod disk;
mod executor;
pub(crate) mod file;
pub(crate) mod net;
mod world;

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use executor::is_active;
pub(crate) use executor::{SimJoin, here, spawn_here};
pub(crate) use world::{EventKey, Shared};

use crate::fault::When;
use crate::task::JoinHandle;
use disk::{Recorder, Volume};
use executor::{Local, new_local, spawn_at};
use file::NodeDisk;

/// A machine of a simulation. `NodeId(0)` is the outside world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) u32);

/// What the dice may do.
#[derive(Clone, Debug)]
pub struct SimConfig {
    pub seed: u64,
    pub network: NetworkConfig,
    pub disk: DiskConfig,
    /// The size of each node's disks together.
    pub disk_bytes: u64,
    /// Virtual time after which a run counts as hung.
    pub time_limit: Duration,
}

/// How links between nodes behave. Links within a node are fast and lose nothing.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub delay: RangeInclusive<Duration>,
    /// Probability that a frame is silently lost.
    pub drop: f64,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
}

/// How long disks take.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    pub read: RangeInclusive<Duration>,
    pub write: RangeInclusive<Duration>,
    pub sync: RangeInclusive<Duration>,
}

impl SimConfig {
    /// A healthy world: short delays, nothing lost, disks of 1 TiB, a limit of 30 days.
    pub fn seeded(seed: u64) -> SimConfig {
        let micros = Duration::from_micros;
        SimConfig {
            seed,
            network: NetworkConfig { delay: micros(20)..=micros(500), drop: 0.0, duplicate: 0.0 },
            disk: DiskConfig {
                read: micros(50)..=micros(200),
                write: micros(20)..=micros(100),
                sync: micros(50)..=micros(2000),
            },
            disk_bytes: 1 << 40,
            time_limit: Duration::from_secs(30 * 86_400),
        }
    }
}

/// What can go wrong with a disk, besides a power cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DiskFault {
    ReadError,
    /// The write fails and leaves the file as it was.
    WriteError,
    /// The sync fails, and some of what it covered is lost for good.
    SyncError,
    /// The write fails for lack of space.
    Full,
    /// The sync returns success and does nothing.
    LostSync,
    /// The operation takes this much longer.
    Stall(Duration),
}

/// A handle on a simulation. Not `Send`: in a `Send` future, get it by [`current`] where it is used.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
    local: Rc<Local>,
}

/// The simulation around the caller.
///
/// # Panics
/// Outside [`Sim::run`].
pub fn current() -> Sim {
    executor::current().expect("rt::sim::current is called inside Sim::run")
}

/// The node the caller runs on.
///
/// # Panics
/// Outside [`Sim::run`].
pub fn current_node() -> NodeId {
    here().1.node
}

impl Sim {
    pub fn new(config: SimConfig) -> Sim {
        Sim { shared: Shared::new(config), local: new_local() }
    }

    pub fn seed(&self) -> u64 {
        self.shared.world().config.seed
    }

    /// The node called `name`, made with empty disks if there is none.
    pub fn node(&self, name: &str) -> NodeId {
        self.shared.world().node(name)
    }

    /// Runs `future` as a task of `node`. On a node that is down, it is cancelled at once.
    pub fn spawn_on<T: 'static>(&self, node: NodeId, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let place = self.shared.world().place(node);
        JoinHandle::of_sim(spawn_at(self, place, future))
    }

    /// Pulls the plug of `node`: its tasks are dropped, its unsynced writes torn, reordered and lost.
    ///
    /// Peers learn of it from a reset after a while, or never, as the dice say. The node stays down
    /// until [`Sim::restart`].
    pub fn crash(&self, node: NodeId) {
        self.stop(node, net::End::PowerCut);
        let mut world = self.shared.world();
        let mut rng = world.disk_rng.clone();
        world.node_mut(node).disk.volume.power_cut(&mut rng);
        world.disk_rng = rng;
    }

    /// Kills the processes of `node` (`kill -9`): its tasks are dropped, its links reset. What it
    /// wrote stays, synced or not. The node stays down until [`Sim::restart`].
    pub fn kill(&self, node: NodeId) {
        self.stop(node, net::End::Killed);
        self.shared.world().node_mut(node).disk.volume.process_ends();
    }

    fn stop(&self, node: NodeId, end: net::End) {
        assert!(node != NodeId(0), "the outside world does not crash");
        {
            let mut world = self.shared.world();
            let now = world.peek_now();
            world.note(4, u64::from(node.0) ^ now);
            let state = world.node_mut(node);
            state.is_up = false;
            state.life += 1;
            state.is_paused = false;
            state.waiting.clear();
            state.disk.unlock_all();
            state.disk.recorder = None;
            net::node_stops(&mut world, node, end);
        }
        // Marked dead before this, so that whatever destructors do has no effect any more.
        self.drop_tasks(|place| place.node == node);
    }

    /// Switches a crashed or killed node on again, with its surviving disks, and runs `future` on it.
    pub fn restart<T: 'static>(&self, node: NodeId, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.shared.world().node_mut(node).is_up = true;
        self.spawn_on(node, future)
    }

    /// Stops the processes of `node` where they are (SIGSTOP): none of its tasks is run until [`Sim::resume`], while its
    /// timers run out, its disks finish what they have, and frames arrive and wait.
    pub fn pause(&self, node: NodeId) {
        self.shared.world().node_mut(node).is_paused = true;
    }

    /// Lets a node that was paused go on. Nothing, for any other.
    pub fn resume(&self, node: NodeId) {
        let waiting = {
            let mut world = self.shared.world();
            let node = world.node_mut(node);
            node.is_paused = false;
            std::mem::take(&mut node.waiting)
        };
        self.shared.ready.lock().expect("pushing a number does not panic").extend(waiting);
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.world().node_mut(node).is_up
    }

    /// Cuts all links between two nodes, both ways: frames are silently lost. Links survive.
    pub fn partition(&self, a: NodeId, b: NodeId) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// Cuts one way of all links between two nodes: what `to` sends still arrives at `from`.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.shared.world().net.cut(from, to);
    }

    /// Ends a partition, or what is cut of it.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.shared.world().net.heal(a, b);
    }

    /// Ends all partitions.
    pub fn heal_all(&self) {
        self.shared.world().net.heal_all();
    }

    /// Changes how the network behaves from now on.
    pub fn set_network(&self, network: NetworkConfig) {
        self.shared.world().config.network = network;
    }

    /// Sets the calendar of `node` ahead (or back) of true time.
    pub fn set_clock_skew(&self, node: NodeId, micros: i64) {
        self.shared.world().node_mut(node).skew_micros = micros;
    }

    /// Lets `fault` strike operations on the files at or under `path` of `node`.
    pub fn disk_fault(&self, node: NodeId, path: impl AsRef<Path>, fault: DiskFault, when: When) {
        self.shared.world().node_mut(node).disk.add_fault(path.as_ref(), fault, when);
    }

    /// Ends all disk faults of `node`.
    pub fn clear_disk_faults(&self, node: NodeId) {
        self.shared.world().node_mut(node).disk.clear_faults();
    }

    /// Inverts one bit of a file, in what is durable too. Bit 0 is the lowest of byte 0.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn flip_bit(&self, node: NodeId, path: impl AsRef<Path>, bit: u64) {
        let path = file::normal(path.as_ref());
        self.shared.world().node_mut(node).disk.volume.flip_bit(&path, bit);
    }

    /// Changes the size of a node's disks.
    pub fn set_disk_bytes(&self, node: NodeId, bytes: u64) {
        self.shared.world().node_mut(node).disk.volume.set_capacity(bytes);
    }

    /// Records what happens to the disks of `node` from now on, until it crashes or is killed.
    pub fn record(&self, node: NodeId) -> Recorder {
        let mut world = self.shared.world();
        let disk = &mut world.node_mut(node).disk;
        let recorder = Recorder::new(disk.volume.clone());
        disk.recorder = Some(recorder.clone());
        recorder
    }

    /// Gives `node` these disks instead of its own. Before its first task, or while it is down.
    pub fn install(&self, node: NodeId, volume: &Volume) {
        self.shared.world().node_mut(node).disk = NodeDisk::new(volume.clone());
    }

    /// A copy of the disks of `node` as its programs see them.
    pub fn volume(&self, node: NodeId) -> Volume {
        self.shared.world().node_mut(node).disk.volume.clone()
    }

    /// Arms a fault point (see [`crate::fault!`]) of this simulation.
    pub fn arm(&self, name: &str, when: When) {
        self.shared.world().faults.arm(name, when);
    }

    pub fn disarm(&self, name: &str) {
        self.shared.world().faults.disarm(name);
    }

    /// A random number from the simulation's dice, for fault schedules.
    pub fn random_u64(&self) -> u64 {
        self.shared.world().random()
    }

    /// Virtual time since the simulation was made. To look at it takes none, unlike [`crate::now`].
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.shared.world().elapsed_nanos())
    }

    /// A digest of all that has happened: polls, events, frames, disk operations, and when.
    pub fn trace_hash(&self) -> u64 {
        self.shared.world().trace_hash()
    }
}

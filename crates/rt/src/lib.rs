//! The only door to the outside world: time, tasks, threads, randomness, disks, streams, metrics,
//! fault points.
//!
//! Nothing else in the tree may ask the operating system for these. So the same production code
//! runs on either of two back ends, chosen by where it is called from:
//!
//! - `os`: tokio and the kernel. One current-thread runtime a thread, io_uring for disks.
//! - [`sim`]: inside [`sim::Sim::run`]. One thread, virtual time, seeded task order and randomness,
//!   disks that tear and forget, a network that loses. The same seed gives the same trace.
//!
//! # Shape
//! Free functions (`rt::now`, `rt::spawn`, ...) look at one thread-local flag and dispatch. Every
//! handle they return (`JoinHandle`, `Sleep`, `disk::Disk`, `mem::MemLink`) is an enum of the two
//! back ends, so none of this costs a virtual call.
//!
//! # Always true
//! 1. Everything returned is `Send` where tokio's counterpart is.
//! 2. Dropping any future here is safe: a dropped disk operation may or may not take place, but its
//!    buffer lives until the kernel is done with it.
//!
//! # Not here
//! Channels: use `tokio::sync`, whose primitives need no runtime and work on both back ends.
//! Sockets in the simulator: simulated nodes talk over [`mem`] links.

pub mod disk;
pub mod fault;
mod hlc;
pub mod log;
pub mod mem;
pub mod memory;
pub mod metrics;
mod random;
pub mod sim;
pub mod stream;
mod task;
mod thread;
mod time;

pub use hlc::{ClockOffset, EPSILON, Hlc};
pub use random::{Rng, machine_u64, random_bytes, random_u64, random_uuid};
pub use task::{JoinError, JoinHandle, TaskSet, spawn, spawn_local};
pub use thread::{ThreadHandle, block_on, cores, spawn_thread, stop_requested};
pub use time::{Elapsed, Instant, Sleep, Timeout, now, sleep, sleep_until, timeout, wall_micros, yield_now};

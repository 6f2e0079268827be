//! Whole-system scenarios in the simulator: real servers and clients, simulated disks and network,
//! faults from a seed, an oracle that remembers what was promised.
//!
//! # Shape
//! - [`scenario`]: one run from one seed: set up, let clients and faults loose, heal, verify.
//! - [`workload`]: what a client does; [`oracle`]: what it may then read.
//! - [`once`]: a scenario of its own: clients that meet on the same keys, and answers that get lost.
//! - [`resize`]: another one: storage that gets another size meanwhile.
//! - [`cluster`]: several servers that form a system; [`contents`]: what their stores hold at rest.
//! - [`trial`]: a run of a cluster: [`work`] that clients do, harm that [`nemesis::cluster`] does, healing, evidence;
//!   [`verdict`]: what must hold of it, by [`history`] (single keys) and [`serial`] (several at once).
//! - [`nemesis`]: what goes wrong with one server.
//! - [`scale`]: no scenario: what placement does in pools of thousands of servers.
//!
//! A failed request is *unknown*, never *absent*: it may have happened, or may yet.
//!
//! A seed that fails is replayed by `SIM_SEED=<seed> cargo test -p sim`, and becomes a test with its
//! story.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod contents;
pub mod history;
pub mod nemesis;
pub mod once;
pub mod oracle;
pub mod resize;
pub mod scale;
pub mod scenario;
pub mod serial;
pub mod trial;
pub mod verdict;
pub mod work;
pub mod workload;

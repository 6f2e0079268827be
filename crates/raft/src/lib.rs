//! Consensus: a group of replicas that agree on the commands of one service, and so on its state.
//!
//! # Shape
//! A service is a [`StateMachine`]: `apply(command) -> response`, pure. [`Group`] is one replica of it. What is proposed to the
//! leader is appended to its log and to those of the others; when a majority has it durably, it is committed, and every
//! replica applies it. Raft, by the `openraft` crate; this crate is its narrow face, its storage and its network:
//!
//! ```text
//!   service:  propose  read  local  watch  members           peers: handle(bytes)
//!                 \      |     |      |       /                      |
//!                  +----------- group -------+------------------- message
//!                       |                 |                          |
//!                   openraft -------- network (Peers) ---------------+
//!                    /      \
//!   log (kept, format)       snapshot -- machine (Replicated) -- sessions
//!          \                   /
//!           rt: disk, time, tasks, chance
//! ```
//!
//! # Always true
//! 1. A command whose response was given survives as long as a majority of the voters' disks does (K1, K19).
//! 2. A request of a session takes effect once, however often it is repeated, while its session is remembered (K5).
//! 3. [`Group::read`] sees every command that was answered before it began.
//! 4. Logs, messages, snapshots, queues and sessions are bounded ([`limits`]), and bytes of peers and disks never panic
//!    (K21, K23).
//! 5. In the simulator, the same seed gives the same trace.
//!
//! # Assumed
//! A replica's durable files do not go back in time: one that lost them does not come back under its rank, it is removed
//! and joins as a new one. Clocks run at about the same speed; nothing but the time to a new leader depends on it.
//!
//! # Not here
//! How peers are reached (`net`, by the server), what services do with their state (`engine`), where the log of a *target*
//! is kept (`media`).
//!
//! # Source
//! Raft: Ongaro's dissertation. Decision 0019.
#![forbid(unsafe_code)]

mod error;
#[cfg(test)]
mod golden;
mod group;
mod kinds;
pub mod limits;
mod log;
mod machine;
mod message;
mod network;
mod news;
mod recent;
mod runtime;
mod sessions;
mod snapshot;
mod voters;

pub use error::{ChangeError, OpenError, ProposeError, ReadError};
pub use group::{AtRest, Dictated, Group, Members, Role, Standing, Watch, at_rest, look_at};
pub use kinds::{Address, GroupId, Peer, Request};
pub use limits::Config;
pub use log::kept::read_log;
pub use machine::{StateMachine, read_state};
pub use message::Message;
pub use network::{CallError, Calling, Peers};
pub use news::Taken;
pub use snapshot::decode_file as read_snapshot;
pub use voters::{Candidate, choose_spare, choose_voters};

//! Endpoints and calls: how programs of the system reach each other.
//!
//! # Shape
//! ```text
//!   Connection::open -- hello --> Listener -- Incoming --> (another thread) -- serve --> Handler
//!        call()      -- Request frames, any number under way ------------------> handle()
//!                    <- Response or Failure frames, in any order ---------------
//! ```
//! Every provider (tcp, unix, mem) carries the same frames (`wire::frame`); [`link`] is the one
//! place that knows them apart.
//!
//! # Always true
//! 1. A request is answered at most once, by the link it came on; after a link is gone nobody
//!    learns here what became of its requests. Repeating them with the same session and sequence
//!    is the caller's, recognising the repeat is the receiver's.
//! 2. What a peer may have under way is bounded (requests and bulk bytes, told in the welcome). A
//!    caller waits at the bound; a peer that overruns it is sent away.
//! 3. No bytes from a peer do more harm than to end its own link, with a goodbye that says why.
//! 4. Deadlines travel as time left.
//!
//! # Not here
//! Retries (`client`), what a request means (`engine`, `control`), shared-memory rings, TLS.

#![forbid(unsafe_code)]

mod address;
mod call_error;
mod calls;
mod connection;
mod link;
mod listener;
pub mod membership;
mod metrics;
mod outbox;
mod polling;
mod request;
mod server;

pub use address::{Address, AddressError};
pub use call_error::CallError;
pub use connection::{Caller, Connection};
pub use listener::{BindError, HALF_OPEN_MAX, HELLO_TIMEOUT, Incoming, LINKS_MAX, Listener};
pub use metrics::METRICS;
pub use outbox::Bulk;
pub use polling::{SPIN_WINDOW, set_spin};
pub use request::{Limits, Reply, Request};
pub use server::{Handler, serve};

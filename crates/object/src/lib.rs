//! Object I/O as a plan: from what a caller means to the messages that say it, and back. No sockets.
//!
//! # Shape
//! ```text
//!   AkeyUpdate ... --check--> --update--> UpdateRequest body + bulk buffer, checksums computed on the way
//!   AkeyQuery  ... --check--> --fetch---> FetchRequest bodies
//!   FetchResponse + bulk      --fetch---> AkeyResult, every byte verified
//!   records of an array       --array---> pieces, each within one dkey
//!   a failed attempt          --retry---> again, with a new map, or give up
//!   placement's map          <---map----> the pool map in messages, believed only as far as it can be one
//! ```
//!
//! # Always true
//! 1. A payload leaves here with the checksums of exactly its bytes, and no byte from a server gets
//!    past here unverified.
//! 2. What passes [`check`] is accepted by a server: limits and extents are judged before anything
//!    is sent.
//! 3. One logical update is one request, so that it takes effect whole; only reads are split.
//!
//! # Not here
//! Which target (`placement`), sending (`client`), storing (`vos`).
#![forbid(unsafe_code)]

pub mod array;
pub mod check;
pub mod fetch;
pub mod map;
pub mod retry;
pub mod update;

pub use array::{ArrayPiece, ArrayShape};
pub use fetch::{AkeyQuery, AkeyResult, Query};
pub use update::{AkeyUpdate, NewValue, UpdateMessage};

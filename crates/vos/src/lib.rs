//! One target's versioned store.
#![forbid(unsafe_code)]

mod check;
mod cursor;
mod error;
mod key;
mod node;
mod request;
mod space;
mod store;
mod tree;

pub use error::{Error, Result};
pub use request::{
    AkeyPlan, AkeyRead, AkeyWrite, ArrayEnd, ArrayTail, BulkList, Checksums, ContainerInfo, Edge, FetchPlan,
    ListedAkey, ListedExtent, ListedObject, Listing, Origin, Payload, Piece, PoolSpace, Punch, PunchScope, ReadWhat,
    Source, Update, ValueRead, ValueWrite,
};
pub use space::{BulkExtent, Reservation};
pub use store::{INLINE_BYTES_MAX, Store};

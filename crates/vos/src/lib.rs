//! One target's versioned store.
#![forbid(unsafe_code)]

mod error;
mod request;
mod space;
mod store;

pub use error::{Error, Result};
pub use request::{
    AkeyPlan, AkeyRead, AkeyWrite, ArrayEnd, ArrayTail, BulkList, Checksums, ContainerInfo, Edge, FetchPlan,
    ListedAkey, ListedExtent, ListedObject, Listing, Origin, Payload, Piece, PoolSpace, Punch, PunchScope, ReadWhat,
    Source, Update, ValueRead, ValueWrite,
};
pub use space::{BulkExtent, Reservation};
pub use store::{INLINE_BYTES_MAX, Store};

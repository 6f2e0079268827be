//! One target's versioned store: pools, containers, objects, their keys and values, at every epoch.
//!
//! # Shape
//! ```text
//!   Store -- requests --> update  punch | fetch  list  query | maintain
//!                              \   /           \   |   /          |
//!                          log record          view, extents      |
//!                                \              /                 |
//!   Catalog: pools, Shards --- key, value --> Tree of nodes --> media::{Pages, Store}
//! ```
//! One ordered tree a container. Default headers are not stored: only what was ever punched owns a record
//! of its life, so one descent serves a fetch or an update.
//!
//! # Always true
//! - A change is logged, then applied, in one call without a wait; never half of a request (K1, K6).
//! - What a version holds stays readable at its epoch until a punch and no snapshot let it go (K3, K17).
//! - `model` says what everything means, in a page; `check` asserts all invariants.
//!
//! # Not here
//! Epochs (the engine chooses them), conflicts and uncommitted changes (later: intents beside the tree),
//! aggregation and diff (later), bulk transfers and durability (`media`), checksums of data (computed by
//! clients, verified by the engine; kept here).
#![forbid(unsafe_code)]

mod catalog;
mod check;
mod cursor;
mod describe;
mod error;
mod extents;
mod fetch;
mod finding;
mod inspect;
mod key;
mod list;
mod maintain;
pub mod model;
mod naming;
mod node;
mod punch;
mod query;
mod record;
mod repair;
mod request;
mod salvage;
mod shard;
mod space;
mod store;
mod tree;
mod update;
mod value;
mod view;

pub use check::{CheckOptions, ContainerCount, Report};
pub use describe::{LogEntry, describe_record};
pub use error::{Error, Result};
pub use finding::{Finding, FindingKind};
pub use inspect::{Branch, Child, Opened, Stored, StoredRecord, StoredValue};
pub use key::Version;
pub use list::LIST_MAX;
pub use naming::{key_name, object_name, read_key_name, read_object_name};
pub use repair::{Mended, RepairOptions, Repaired};
pub use request::{
    AkeyPlan, AkeyRead, AkeyWrite, ArrayEnd, ArrayTail, BulkList, Checksums, ContainerInfo, Edge, FetchPlan,
    INLINE_BYTES_MAX, ListedAkey, ListedExtent, ListedObject, Listing, Origin, Payload, Piece, PoolSpace, Punch,
    PunchScope, ReadWhat, Source, Update, ValueRead, ValueWrite,
};
pub use shard::SNAPSHOTS_MAX;
pub use space::{BulkExtent, Reservation};
pub use store::Store;

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
//! ```text
//!   checked reads and writes -- facts: read marks, history, intents --> conflict::decide (tables M-1 to M-4)
//!   prepare --> intents, in the catalog's tree -- commit --> the containers' trees
//! ```
//!
//! # Always true
//! - A change is logged, then applied, in one call without a wait; never half of a request (K1, K6).
//! - Trees hold committed versions only; what is prepared survives a crash beside them (K2, K10).
//! - Checked operations are serial in the order of epochs (K4); forgetting only makes more start over (K18).
//! - Whoever asks is told whether a request took effect, over any crash, within stated bounds (K5).
//! - A container reads the same at its snapshots, and at every moment from its horizon on, until it is written
//!   there or rolled back (K3, K17).
//! - `model` says what everything means, in a page; `check` asserts all invariants.
//!
//! # Not here
//! Epochs and horizons (the engine chooses them), who leads a transaction and how its members agree (the
//! engine), bulk transfers and durability (`media`), checksums of data (computed by
//! clients, verified by the engine; kept here).
#![forbid(unsafe_code)]

mod aggregate;
mod ahead;
mod catalog;
mod check;
mod checked;
mod coalesce;
mod commit;
mod conflict;
mod copy;
mod cursor;
mod describe;
mod diff;
mod error;
mod extents;
mod fetch;
mod finding;
mod history;
mod inspect;
mod intent;
mod key;
mod list;
mod maintain;
pub mod model;
mod naming;
mod node;
mod prepare;
mod punch;
mod query;
mod recall;
mod record;
mod recover;
mod repair;
mod request;
mod rewrite;
mod salvage;
mod scrub;
mod sessions;
mod shard;
mod space;
mod staged;
mod standing;
mod store;
mod transaction;
mod transfer;
mod tree;
mod update;
mod upkeep;
mod value;
mod verified;
mod view;
mod walk;

pub use check::{CheckOptions, ContainerCount, Report};
pub use checked::ReadScope;
pub use coalesce::JoinLimits;
pub use conflict::Party;
pub use copy::{Copied, CopiedPayload, CopiedValue, CopyPart, Incoming, Prints, Span};
pub use describe::{LogEntry, describe_record};
pub use diff::{DiffAnchor, Difference, Kind};
pub use error::{Error, Result};
pub use finding::{Finding, FindingKind};
pub use inspect::{Branch, Child, Opened, Stored, StoredRecord, StoredValue};
pub use key::Version;
pub use list::LIST_MAX;
pub use naming::{key_name, object_name, read_key_name, read_object_name};
pub use repair::{Mended, RepairOptions, Repaired};
pub use request::{
    AkeyPlan, AkeyRead, AkeyWrite, ArrayEnd, ArrayTail, BulkList, ChangeId, ChangeState, Checksums, ContainerInfo,
    Direction, Edge, FetchPlan, INLINE_BYTES_MAX, ListPart, ListedAkey, ListedExtent, ListedObject, Listing,
    NOTE_BYTES_MAX, Op, Origin, Payload, Piece, PoolSpace, Prepare, Punch, PunchScope, ReadWhat, Recall, Source,
    Standing, Term, TxId, Undecided, Update, ValueRead, ValueWrite,
};
pub use rewrite::{Rewrite, Rewriting};
pub use scrub::{Damage, Mend, Scrub, ScrubbedValue, Scrubbing};
pub use sessions::{EFFECTS_MAX, Effects, Memory};
pub use shard::SNAPSHOTS_MAX;
pub use space::{BulkExtent, Reservation};
pub use store::Store;
pub use transfer::COPY_RECORDS_MAX;
pub use walk::{KeyView, ValueView, Visitor, WalkAnchor, WalkedRecord, WalkedValue};

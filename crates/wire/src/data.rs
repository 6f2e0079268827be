//! Requests to a target: values, keys, listings.
//!
//! All name a container, an object and the group of it that the target holds. Payloads up to
//! [`INLINE_BYTES_MAX`] travel in the body; larger ones lie in the frame's bulk data, one after
//! another in the order they are named.

use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId};

use crate::encoding::{Bytes, message};

/// Largest payload that travels inside a body.
pub const INLINE_BYTES_MAX: usize = 4096;
/// Most entries in one page of a listing.
pub const LIST_ENTRIES_MAX: u32 = 1024;

message! {
    /// What a request is about. `map_version` is the pool map the sender placed it with.
    pub struct Place {
        pub container: ContainerId,
        pub oid: ObjectId,
        /// The placement group at the width of the object's class, as `placement::GroupNumber` makes it of both: the
        /// key range of the object's group on the target.
        pub group: u32,
        pub map_version: u32,
    }
}

message! {
    /// The bytes of one value or extent, with a CRC-32C per 32 KiB.
    pub enum Payload {
        Inline { bytes: Bytes, checksums: Vec<u32> } = 1,
        /// `bytes` of the frame's bulk data from `offset`.
        Bulk { offset: u32, bytes: u32, checksums: Vec<u32> } = 2,
    }
}

message! {
    pub struct ExtentWrite {
        pub extent: Extent,
        pub payload: Payload,
    }
}

message! {
    pub enum Value {
        Single { payload: Payload } = 1,
        /// Each payload is `record_bytes * extent.count` long.
        Array { record_bytes: u32, extents: Vec<ExtentWrite> } = 2,
    }
}

message! {
    pub struct AkeyWrite {
        pub akey: Key,
        pub value: Value,
    }
}

message! {
    /// Client to target. All akeys take effect together, at one epoch, or none does.
    pub struct UpdateRequest {
        pub place: Place,
        pub dkey: Key,
        pub conditions: Conditions,
        pub akeys: Vec<AkeyWrite>,
    }
}

message! {
    /// The epoch at which an update or punch took effect.
    pub struct Committed {
        pub epoch: Epoch,
    }
}

message! {
    pub enum Selection {
        Single = 1,
        Array { extents: Vec<Extent> } = 2,
    }
}

message! {
    pub struct AkeyRead {
        pub akey: Key,
        pub selection: Selection,
    }
}

message! {
    /// Client to target. `at`: the epoch to read at, or `Epoch::MAX` for the latest.
    pub struct FetchRequest {
        pub place: Place,
        pub dkey: Key,
        pub at: Epoch,
        pub conditions: Conditions,
        pub akeys: Vec<AkeyRead>,
    }
}

message! {
    /// Part of an answer: these records read so. For a single value the extent is 0..1.
    pub struct Piece {
        pub extent: Extent,
        /// Absent: a hole.
        pub payload: Option<Payload>,
    }
}

message! {
    /// One akey's answer, in the order asked. `record_bytes` is 0 when nothing is there; of a
    /// single value it is the value's length.
    pub struct AkeyData {
        pub record_bytes: u32,
        pub pieces: Vec<Piece>,
    }
}

message! {
    pub struct FetchResponse {
        pub akeys: Vec<AkeyData>,
    }
}

message! {
    pub enum PunchScope {
        Object = 1,
        Dkey { dkey: Key } = 2,
        Akeys { dkey: Key, akeys: Vec<Key> } = 3,
        Extents { dkey: Key, akey: Key, extents: Vec<Extent> } = 4,
    }
}

message! {
    /// Client to target. Answered with [`Committed`].
    pub struct PunchRequest {
        pub place: Place,
        pub conditions: Conditions,
        pub scope: PunchScope,
    }
}

message! {
    /// Which way a list goes.
    #[derive(Copy)]
    pub enum Direction {
        /// From the lowest up.
        Forward = 1,
        /// From the highest down.
        Backward = 2,
    }
}

message! {
    /// Client to target: objects with data at `at`, in the target's order, after `after`.
    pub struct ListObjectsRequest {
        pub container: ContainerId,
        pub at: Epoch,
        pub after: Option<(u32, ObjectId)>,
        pub limit: u32,
        pub direction: Direction,
    }
}

message! {
    pub struct ListObjectsResponse {
        /// Group number and object.
        pub objects: Vec<(u32, ObjectId)>,
        /// Where the next answer begins; absent at the end.
        pub next: Option<(u32, ObjectId)>,
    }
}

message! {
    /// Client to target: what differs in a container between two moments, `after` where the last answer ended
    /// (empty: from the beginning).
    pub struct DiffRequest {
        pub container: ContainerId,
        pub from: Epoch,
        pub to: Epoch,
        pub after: Bytes,
        pub limit: u32,
    }
}

message! {
    pub struct DiffResponse {
        pub differences: Vec<Difference>,
        /// Where the next answer begins; empty at the end.
        pub next: Bytes,
    }
}

message! {
    /// A single value, or records of an array.
    pub struct Difference {
        pub group: u32,
        pub oid: ObjectId,
        pub dkey: Key,
        pub akey: Key,
        pub extent: Option<Extent>,
        pub kind: DifferenceKind,
    }
}

message! {
    /// How something differs.
    #[derive(Copy)]
    pub enum DifferenceKind {
        Added = 1,
        Removed = 2,
        Modified = 3,
    }
}

message! {
    /// Client to target: dkeys of one group of an object, in key order, after `after`.
    pub struct ListDkeysRequest {
        pub place: Place,
        pub at: Epoch,
        pub after: Option<Key>,
        pub limit: u32,
        pub direction: Direction,
    }
}

message! {
    pub struct ListAkeysRequest {
        pub place: Place,
        pub dkey: Key,
        pub at: Epoch,
        pub after: Option<Key>,
        pub limit: u32,
        pub direction: Direction,
    }
}

message! {
    pub struct ListKeysResponse {
        pub keys: Vec<Key>,
        /// Where the next answer begins; absent at the end.
        pub next: Option<Key>,
    }
}

message! {
    /// Client to target: visible extents of an array within one.
    pub struct ListExtentsRequest {
        pub place: Place,
        pub dkey: Key,
        pub akey: Key,
        pub at: Epoch,
        pub within: Extent,
        pub limit: u32,
        pub direction: Direction,
    }
}

message! {
    pub struct ListExtentsResponse {
        pub record_bytes: u32,
        /// Extent and the epoch that wrote it.
        pub extents: Vec<(Extent, Epoch)>,
        /// What is left of the extent asked for; absent at the end.
        pub next: Option<Extent>,
    }
}

message! {
    /// Client to target: the ends of an object's integer keys. With a dkey, only that one is
    /// looked at; with an akey, the array's end is told too (of the highest dkey, or the one named).
    pub struct QueryKeysRequest {
        pub place: Place,
        pub at: Epoch,
        pub dkey: Option<Key>,
        pub akey: Option<Key>,
    }
}

message! {
    pub struct QueryKeysResponse {
        pub dkey_min: Option<u64>,
        pub dkey_max: Option<u64>,
        /// One past the highest record visible; 0 when there is none.
        pub array_end: u64,
        pub record_bytes: u32,
        /// When the object (its group here) was last written or punched.
        pub last_write: Epoch,
    }
}

impl Payload {
    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Payload::Inline { bytes, .. } => bytes.0.len(),
            Payload::Bulk { bytes, .. } => *bytes as usize,
        }
    }

    pub fn checksums(&self) -> &[u32] {
        match self {
            Payload::Inline { checksums, .. } | Payload::Bulk { checksums, .. } => checksums,
        }
    }

    /// The payload's bytes, out of the body or out of `bulk`; `None` if `bulk` is too short.
    pub fn bytes<'a>(&'a self, bulk: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Payload::Inline { bytes, .. } => Some(&bytes.0),
            Payload::Bulk { offset, bytes, .. } => {
                let start = *offset as usize;
                bulk.get(start..start.checked_add(*bytes as usize)?)
            }
        }
    }
}

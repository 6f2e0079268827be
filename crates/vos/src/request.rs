//! What a target is asked, and what it answers. Requests borrow; answers own.

use std::ops::Range;

use smallvec::SmallVec;
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId, SessionId};

use crate::space::{BulkExtent, Reservation};

/// Who asked: the session and the request's number in it, kept in the log for exactly-once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Origin {
    pub session: SessionId,
    pub seq: u64,
}

/// What a store remembers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// It took no effect: it never came, or was refused.
    Never,
    /// It took effect, at this epoch; zero for one whose effect has none.
    Done(Epoch),
    /// Later requests of its session have taken its place: whether it took effect is not known.
    Forgotten,
    /// What its session did cannot be read: whether this or any other request of it took effect is not known.
    Unreadable,
}

/// A transaction: the session that runs it, and its number there. No two transactions share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId {
    pub session: SessionId,
    pub seq: u64,
}

impl std::fmt::Display for TxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}.{}", self.session.0, self.seq)
    }
}

/// A reign over a placement group: no two leaders have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// Version of the pool map at which the group's membership last changed.
    pub interval: u32,
    /// Counts starts of the leader in this interval.
    pub round: u32,
}

/// Names a change of a placement group, as its leader does; no two of a pool have the same name. Those of a group are
/// in the order in which its leaders took them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId {
    /// The placement group.
    pub group: u32,
    pub term: Term,
    /// From 1.
    pub number: u64,
}

impl std::fmt::Display for ChangeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}.{}.{}", self.group, self.term.interval, self.term.round, self.number)
    }
}

/// What a target knows of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeState {
    /// Never heard of it.
    Unknown,
    /// It waits for a decision.
    Prepared {
        epoch: Epoch,
    },
    Committed {
        epoch: Epoch,
    },
    Aborted,
    /// Decided, and forgotten since every member knows how.
    Settled,
}

/// A change to be kept beside the data until it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    pub change: ChangeId,
    pub container: ContainerId,
    /// Whose request it is; it took effect when the change is committed.
    pub origin: Origin,
    /// What its leader wants to find again beside it, as who else prepares it; at most [`NOTE_BYTES_MAX`].
    pub note: &'a [u8],
    pub ops: &'a [Op<'a>],
}

/// Longest note of a change.
pub const NOTE_BYTES_MAX: usize = 1024;

/// What a target knows of a placement group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of the leader that it follows.
    pub term: Term,
    /// Up to here, everything is decided, and every member knows.
    pub settled: ChangeId,
    /// Undecided, in the order of their names.
    pub prepared: Vec<Undecided>,
    /// Decided, above `settled`.
    pub decided: Vec<(ChangeId, ChangeState)>,
}

/// A change that waits for its decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    pub change: ChangeId,
    pub epoch: Epoch,
    pub note: Vec<u8>,
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    Update(Update<'a>),
    Punch(Punch<'a>),
}

/// Writes to several akeys of one dkey, all or none.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// Placement group of the object; objects of a group are one key range.
    pub group: u32,
    pub oid: ObjectId,
    pub dkey: &'a Key,
    pub conditions: Conditions,
    /// At most [`types::AKEYS_PER_REQUEST_MAX`].
    pub akeys: &'a [AkeyWrite<'a>],
}

/// What one akey gets.
#[derive(Clone, Copy, Debug)]
pub struct AkeyWrite<'a> {
    pub akey: &'a Key,
    pub value: ValueWrite<'a>,
}

/// A single value, or extents of an array.
#[derive(Clone, Copy, Debug)]
pub enum ValueWrite<'a> {
    Single(Payload<'a>),
    /// Extents are written in order: of two that overlap, the later wins. Each payload has
    /// `count * record_bytes` bytes. At most [`types::EXTENTS_PER_AKEY_MAX`] extents.
    Array {
        record_bytes: u32,
        extents: &'a [(Extent, Payload<'a>)],
    },
}

/// Largest payload kept in the tree; larger ones go to bulk blocks first. A pool may choose less.
pub const INLINE_BYTES_MAX: usize = 4096;

/// The bytes of a value, or where they already lie. `checksums`: CRC-32C of each
/// [`types::CHECKSUM_CHUNK_BYTES`] of the payload.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// At most [`INLINE_BYTES_MAX`] bytes, kept in the tree; from [`media::STAGED_BYTES_MIN`] on on the stage,
    /// while there is room.
    Inline { bytes: &'a [u8], checksums: &'a [u32] },
    /// What the store makes of a long inline payload, and no request has: the bytes are logged with the record
    /// and belong to `block`.
    Staged { block: u32, bytes: &'a [u8], checksums: &'a [u32] },
    /// Already written to the blocks of `at`, from their start; `bytes` of them count.
    Bulk { at: &'a Reservation, bytes: u64, checksums: &'a [u32] },
}

impl Payload<'_> {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Inline { bytes, .. } | Payload::Staged { bytes, .. } => bytes.len() as u64,
            Payload::Bulk { bytes, .. } => *bytes,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Hides what is older than its epoch.
#[derive(Clone, Copy, Debug)]
pub struct Punch<'a> {
    pub group: u32,
    pub oid: ObjectId,
    pub scope: PunchScope<'a>,
    pub conditions: Conditions,
}

/// How much a punch hides.
#[derive(Clone, Copy, Debug)]
pub enum PunchScope<'a> {
    Object,
    Dkey(&'a Key),
    Akeys(&'a Key, &'a [Key]),
    Extents { dkey: &'a Key, akey: &'a Key, extents: &'a [Extent] },
}

/// What to read of one akey.
#[derive(Clone, Copy, Debug)]
pub struct AkeyRead<'a> {
    pub akey: &'a Key,
    pub what: ReadWhat<'a>,
}

/// A single value, or extents of an array.
#[derive(Clone, Copy, Debug)]
pub enum ReadWhat<'a> {
    Single,
    Array(&'a [Extent]),
}

/// The answer of a fetch: where the bytes are. Bulk extents it names stay allocated while it lives.
#[derive(Debug, Default)]
pub struct FetchPlan {
    /// One per akey asked for, in that order.
    pub akeys: Vec<AkeyPlan>,
    /// Inline payloads, end to end; [`Source::Inline`] names ranges of it.
    pub inline: Vec<u8>,
    /// For [`media::Store::bulk_read`]; there when bulk blocks are named.
    pub pin: Option<media::PinGuard>,
}

/// What a fetch found of one akey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AkeyPlan {
    /// Bytes of a single value, or of each record of the array; 0 when nothing is there.
    pub record_bytes: u32,
    /// Single: one piece, or none when absent. Array: for each extent asked for, pieces that cover
    /// it in order, holes included.
    pub pieces: Vec<Piece>,
}

/// Part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Records covered; `(0, 1)` for a single value.
    pub extent: Extent,
    pub source: Source,
}

/// Where a piece's bytes are. Payload and checksums are those of the whole value written, so that
/// the reader can verify it; `part` is the byte range of it that answers the piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Hole,
    Inline { payload: Range<usize>, checksums: Checksums, part: Range<u64> },
    Bulk { extents: BulkList, bytes: u64, checksums: Checksums, part: Range<u64> },
}

/// Checksums of a payload's chunks.
pub type Checksums = SmallVec<[u32; 2]>;
/// Blocks of a payload, in order.
pub type BulkList = SmallVec<[BulkExtent; 2]>;

/// Answer of the quick path for one single value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueRead {
    Absent,
    /// The bytes are in the caller's buffer.
    Inline {
        checksums: Checksums,
    },
    /// Use [`crate::Store::fetch`].
    Bulk,
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T, A = T> {
    pub entries: Vec<T>,
    /// Where to go on; `None` at the end. An answer may have no entries and still not be the end: what it
    /// looks at is bounded.
    pub next: Option<A>,
}

/// Which way a list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direction {
    /// From the lowest up.
    #[default]
    Forward,
    /// From the highest down.
    Backward,
}

/// Which part of a list is wanted. What is written or removed between two parts may or may not be met; what
/// stays is met once.
#[derive(Clone, Copy, Debug)]
pub struct ListPart<'a, A> {
    /// `next` of the part before; any place at all will do, whether there is something or not.
    pub after: Option<&'a A>,
    /// Most entries; at most [`crate::LIST_MAX`] come.
    pub limit: usize,
    pub direction: Direction,
}

impl<'a, A> ListPart<'a, A> {
    /// The part after `after`, from the lowest up.
    pub fn forward(after: Option<&'a A>, limit: usize) -> ListPart<'a, A> {
        ListPart { after, limit, direction: Direction::Forward }
    }

    /// The part before `after`, from the highest down.
    pub fn backward(after: Option<&'a A>, limit: usize) -> ListPart<'a, A> {
        ListPart { after, limit, direction: Direction::Backward }
    }
}

/// An object in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListedObject {
    pub group: u32,
    pub oid: ObjectId,
}

/// An akey in a list, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedAkey {
    pub akey: Key,
    /// It has a single value.
    pub single: bool,
    /// It has array records, of this size; 0 when it has none.
    pub record_bytes: u32,
}

/// A visible run of records. They were written at `epoch`, or, when extents were joined since, the newest of
/// them was and no moment that is kept lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedExtent {
    pub extent: Extent,
    pub epoch: Epoch,
    pub record_bytes: u32,
}

/// Which end of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Lowest,
    Highest,
}

/// Where an array that is spread over integer dkeys ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayTail {
    pub dkey: u64,
    /// Highest record + 1 within `dkey`.
    pub end: u64,
    pub record_bytes: u32,
}

/// Where an array ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ArrayEnd {
    /// Highest record + 1; 0 for an empty array.
    pub end: u64,
    pub record_bytes: u32,
}

/// Space of a pool on this target, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PoolSpace {
    pub quota: u64,
    /// `pages + bulk`, reservations included.
    pub used: u64,
    /// Tree pages.
    pub pages: u64,
    /// Bulk blocks.
    pub bulk: u64,
}

/// A container on this target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerInfo {
    pub id: types::ContainerId,
    pub pool: types::PoolId,
    /// Tree and head pages.
    pub pages: u64,
    /// Bulk blocks.
    pub blocks: u64,
    /// Ascending.
    pub snapshots: Vec<Epoch>,
    /// Highest epoch written.
    pub max_epoch: Epoch,
    /// Before it, only snapshots can be read; nothing is written at or before it.
    pub horizon: Epoch,
}

//! Between targets: the records of placement groups that get another home.
//!
//! Who is to have a group asks who leads it. A container of which something is copied is held as it is at the leader;
//! the hold ends by itself some time after the last request, and each answer says which hold it was made under.

use types::{ContainerId, Epoch, PoolId};

use crate::data::Payload;
use crate::encoding::{Bytes, message};

message! {
    /// Target to target: of which groups of a pool's containers the asked one has records, after `after`.
    pub struct CopyListRequest {
        pub pool: PoolId,
        /// The pool map that the sender goes by. Of groups that are named, what was begun by older ones is decided before
        /// the answer.
        pub map_version: u32,
        pub after: Option<(ContainerId, u32)>,
    }
}

message! {
    pub struct CopyListResponse {
        /// Ascending.
        pub groups: Vec<(ContainerId, u32)>,
        /// Groups that the asked one leads and does not serve: whether they have data in any container is not known yet.
        /// None of them is among `groups`. Ascending.
        pub unserved: Vec<u32>,
        /// Where the next answer begins; absent at the end.
        pub next: Option<(ContainerId, u32)>,
    }
}

message! {
    /// A part of a placement group.
    pub struct CopySpan {
        pub group: u32,
        /// First key; empty: the group's first.
        pub from: Bytes,
        /// First key behind it; empty: to the group's end.
        pub end: Bytes,
        /// What was written later does not count.
        pub upto: Epoch,
    }
}

message! {
    /// Target to target: records with keys of a span of a group, written up to `upto`, that the sender has not. What is
    /// undecided up to there is decided before the answer.
    pub struct CopyRequest {
        pub container: ContainerId,
        pub map_version: u32,
        pub span: CopySpan,
        /// Fingerprints of those that it has.
        pub known: Vec<u64>,
    }
}

message! {
    pub struct CopyResponse {
        /// Which hold of the container this was read under. Another one than before: begin the group again.
        pub hold: u64,
        /// History before it is forgotten.
        pub horizon: Epoch,
        /// When the latest rollback was asked for.
        pub undone: Epoch,
        pub records: Vec<CopyRecord>,
        /// Fingerprints of those that both have. What else the asker has before `next`, it has too much.
        pub same: Vec<u64>,
        /// Where the next answer begins; empty at the end of the span.
        pub next: Bytes,
    }
}

message! {
    /// A stored record: the key by which stores sort it, and what lies there. Bulk payloads lie in the frame's bulk data.
    pub struct CopyRecord {
        pub key: Bytes,
        pub value: CopyValue,
    }
}

message! {
    pub enum CopyValue {
        /// Of an object, a dkey or an akey.
        Punch = 1,
        /// Records of an array that were punched.
        Hole { count: u64 } = 2,
        Single { payload: Payload } = 3,
        /// Records of an array.
        Data { count: u64, record_bytes: u32, payload: Payload } = 4,
    }
}

message! {
    /// Target to target: the sum of the fingerprints of a span's records.
    pub struct CopyDigestRequest {
        pub container: ContainerId,
        /// By which the target leads the group.
        pub map_version: u32,
        pub span: CopySpan,
    }
}

message! {
    pub struct CopyDigestResponse {
        pub hold: u64,
        /// To be added up, wrapping.
        pub sum: u64,
        /// Where the next answer begins; empty at the end.
        pub next: Bytes,
    }
}

message! {
    /// Target to target: which requests of sessions took effect at the asked one, of sessions behind `after`. Asked of who
    /// gave a group, by the map that it was got by: what older maps began in it was decided before it was given.
    pub struct CopyMemoryRequest {
        pub pool: PoolId,
        pub map_version: u32,
        pub after: Option<u64>,
    }
}

message! {
    pub struct CopyMemoryResponse {
        /// Ascending, behind `after`.
        pub sessions: Vec<SessionMemory>,
        /// The last of them, behind which the next answer begins; absent at the end.
        pub next: Option<u64>,
    }
}

message! {
    /// What is remembered of a session, as far as its requests may come again.
    pub struct SessionMemory {
        pub session: u64,
        /// Absent: of no request can it be told whether it took effect.
        pub effects: Option<SessionEffects>,
    }
}

message! {
    pub struct SessionEffects {
        /// Of requests with lower numbers nobody can tell whether they took effect.
        pub floor: u64,
        /// Requests from `floor` on that did, ascending, and when. At least one.
        pub list: Vec<(u64, Epoch)>,
    }
}

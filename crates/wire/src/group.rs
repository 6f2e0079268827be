//! Between the targets of a placement group: its leader to the other members.
//!
//! Whatever goes to a member carries the leader's term and what it has decided since; an answer says that all of it
//! is on the member's device, and grants the leader its lease anew. Bulk data of a change is that of the frame, as
//! the client sent it. A repeat of any of these changes nothing.

use types::{Epoch, Error, PoolId, Rank, TargetIndex};

use crate::encoding::{Bytes, message};

message! {
    /// A target of some server.
    #[derive(Copy, PartialOrd, Ord)]
    pub struct GroupPeer {
        pub rank: Rank,
        pub target: TargetIndex,
    }
}

message! {
    /// A reign over a placement group.
    #[derive(Copy, PartialOrd, Ord)]
    pub struct GroupTerm {
        pub interval: u32,
        pub round: u32,
    }
}

message! {
    /// Names a change of a placement group.
    #[derive(Copy, PartialOrd, Ord)]
    pub struct GroupChange {
        pub term: GroupTerm,
        pub number: u64,
    }
}

message! {
    /// How a change ended.
    #[derive(Copy)]
    pub struct GroupDecision {
        pub change: GroupChange,
        pub is_committed: bool,
    }
}

message! {
    /// Target to target, of a placement group of a pool.
    pub struct GroupRequest {
        pub pool: PoolId,
        /// As in the key range of its objects.
        pub group: u32,
        /// The pool map that the sender goes by.
        pub map_version: u32,
        pub from: GroupPeer,
        pub term: GroupTerm,
        pub decided: Vec<GroupDecision>,
        /// Every member knows how all changes up to here ended.
        pub settled: GroupChange,
        /// No change that has yet to be decided, or begins later, has an epoch up to here.
        pub closed: Epoch,
        /// How long the leader asks the member to keep to it, in milliseconds.
        pub lease_ms: u32,
        pub step: GroupStep,
    }
}

message! {
    /// What a member is to do.
    pub enum GroupStep {
        /// Follow the leader of this term, and say what it holds. `since`: the map version since which it has been a
        /// member without a break. Answered with `Report`.
        Recover { since: u32 } = 1,
        /// Keep a change until it is decided. Answered with `Done` or `Refused`.
        Prepare { change: GroupPrepare } = 2,
        /// Hear what was decided, and grant the lease. Answered with `Done`.
        Tell = 3,
        /// A member to its leader: it holds changes that are undecided since another led. Answered with `Done`.
        Wake = 4,
        /// A new leader to one that led before, when all members follow the new one: count on no lease of an earlier term.
        /// It has stopped when it answers, with `GaveUp`; a repeat finds that done.
        GiveUp = 5,
    }
}

message! {
    /// A change as its leader judged it.
    pub struct GroupPrepare {
        pub number: u64,
        pub epoch: Epoch,
        /// Who else prepares it.
        pub members: Vec<GroupPeer>,
        /// The client's session and the number of its request.
        pub session: u64,
        pub sequence: u64,
        pub work: GroupWork,
    }
}

message! {
    /// The body of the client's request. Its conditions are met.
    pub enum GroupWork {
        Update { body: Bytes } = 1,
        Punch { body: Bytes } = 2,
    }
}

message! {
    /// A change that a member holds undecided, and who was to prepare it.
    pub struct GroupUndecided {
        pub change: GroupChange,
        pub members: Vec<GroupPeer>,
    }
}

message! {
    /// A lease that a member granted to another leader; `left_ms`: so long it still runs, rounded up.
    #[derive(Copy)]
    pub enum GroupLease {
        To { peer: GroupPeer, left_ms: u32 } = 1,
        /// To whoever led in a term up to `upto`: it does not remember.
        Unknown { upto: GroupTerm, left_ms: u32 } = 2,
    }
}

message! {
    /// What a member holds.
    pub struct GroupReport {
        pub prepared: Vec<GroupUndecided>,
        /// Decided above `settled`.
        pub decided: Vec<GroupDecision>,
        pub settled: GroupChange,
        /// What others may count on.
        pub leases: Vec<GroupLease>,
    }
}

message! {
    pub enum GroupResponse {
        Report { report: GroupReport } = 1,
        Done = 2,
        /// What was decided is done. The change is not kept, and never will be under this name.
        Refused { error: Error } = 3,
        /// Nothing is done: it follows a leader of this term, or has yet to hear of the asker's.
        Term { known: GroupTerm } = 4,
        /// It counts on no lease of an earlier term. `served`: the newest term of which it knows that its leader served,
        /// when leases of earlier ones were over; zeros: of none.
        GaveUp { served: GroupTerm } = 5,
    }
}

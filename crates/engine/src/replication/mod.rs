//! Replication of a placement group: its leader prepares each change on every member, and all prepared means
//! committed.
//!
//! # Shape
//! Pure state machines: no clock, no I/O, no chance. A [`Leader`] decides, [`Member`]s hold what is undecided; whoever
//! drives them carries messages between them, and calls the store of a target from within their steps ([`Ledger`]).
//!
//! ```text
//!   client        leader (a member itself)                     other members
//!     | change ->  prepare here, then Prepare ------------------> prepare, durable
//!     |            all prepared: COMMITTED <--------------------- Prepared
//!     | <- answer  commit here; Decide rides on the next message
//!     |                          Decide ------------------------> commit
//!     |            all know: settled                <------------ Decided
//! ```
//!
//! # Terms
//! A [`Term`] is the interval of the group (the map version at which its membership last changed) and a round: a
//! leader that starts anew in the same interval takes the next one. Members adopt the highest term they are
//! asked about and refuse what comes from lower ones (K14). A leader first asks every member what it holds, decides
//! all of it, sees to it that everybody knows, and only then takes new changes.
//!
//! # Members that were away
//! A [`Seat`] says since which interval its holder has been a member without a break. What such a member remembers of
//! before, others decided without it: it forgets that first ([`Member::recover`]), nobody asks it about changes of
//! before, and it gets its data from those who stayed.
//!
//! # Always true
//! 1. A change is committed only when every member of its term that has been one ever since has prepared it; so
//!    whoever may lead next finds it with all of them, or decided (K1, K2).
//! 2. Nobody but the leader of a term decides in it. A leader aborts only what some member refused, or, of earlier
//!    terms, what a member that was to prepare it does not have and did not commit.
//! 3. A decision is forgotten only when every member has it: *settled*. Below that mark nothing is prepared any
//!    more, however late a message comes.
//! 4. An error that says "it did not happen" is given when every member has aborted: none of them can bring it back.
//!
//! # Not here
//! Which targets are members (`placement`). How a change looks (`vos`), and the wire.

mod leader;
mod lease;
mod member;

use types::{Rank, TargetIndex};
use vos::ChangeId;

pub use leader::{Action, Leader, Phase, Request, UNSETTLED_MAX};
pub use lease::{Former, Granted, Grants, LEASE, Lease};
pub use member::{DecideError, Ledger, Member, PrepareError, RecoverError, Unprepared};
pub use vos::Term;

/// A target of some server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    pub rank: Rank,
    pub target: TargetIndex,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.rank, self.target)
    }
}

/// A place in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    pub peer: Peer,
    /// Version of the map since which it has been a member without a break; zero when it always was, as far as anybody
    /// knows.
    pub since: u32,
}

/// Names a change of a placement group: each attempt of a request has a name of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    pub term: Term,
    /// From 1, in the order in which the leader took them.
    pub number: u64,
}

impl Change {
    /// The first name of a term: below all its changes, above those of earlier terms.
    pub fn start_of(term: Term) -> Change {
        Change { term, number: 0 }
    }

    /// As stores name it, among the changes of all groups.
    pub fn in_group(self, group: u32) -> ChangeId {
        ChangeId { group, term: self.term, number: self.number }
    }
}

impl From<ChangeId> for Change {
    fn from(id: ChangeId) -> Change {
        Change { term: id.term, number: id.number }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.term.interval, self.term.round, self.number)
    }
}

/// How a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Committed,
    Aborted,
}

/// What a leader tells members besides asking them to prepare: it rides on whatever goes to them next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decisions {
    pub decided: Vec<(Change, Outcome)>,
    /// Everything up to here is decided, and every member knows.
    pub settled: Change,
}

/// What a member holds that a new leader must know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Report {
    /// Undecided here, and who was to prepare it.
    pub prepared: Vec<(Change, Vec<Peer>)>,
    /// Decided, and not known to be known by all.
    pub decided: Vec<(Change, Outcome)>,
    pub settled: Change,
}

//! The conflict tables as data. What each operation reads and writes (M-1), and what happens when the later
//! to arrive of two operations would change what the earlier saw or did (M-2 to M-4).
//!
//! # Source
//! DAOS `src/vos/README.md`, MVCC rules, restated. Differs: existence follows from values here, so a blind
//! write needs no state of its key, and never waits for an uncommitted punch or creation above it.

use types::Conditions;

/// How much a read or a write takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Container,
    Object,
    Dkey,
    Akey,
}

/// What a conditional operation asks of the level it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Predicate {
    Empty,
    Nonempty,
}

/// An operation, as far as conflicts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) read: Option<Level>,
    pub(crate) write: Option<Level>,
    pub(crate) predicate: Option<Predicate>,
    /// The write hides all older values at and below its level.
    pub(crate) punches: bool,
}

const fn read(level: Level) -> Class {
    Class { read: Some(level), write: None, predicate: None, punches: false }
}

const fn update(read: Option<Level>, predicate: Option<Predicate>) -> Class {
    Class { read, write: Some(Level::Akey), predicate, punches: false }
}

const fn punch(level: Level, read: Option<Level>, predicate: Option<Predicate>) -> Class {
    Class { read, write: Some(level), predicate, punches: true }
}

/// What is asked for, its condition aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// A fetch; a list or query of array records.
    ReadAkeys,
    /// A list or query of akeys.
    ReadDkey,
    /// A list or query of dkeys.
    ReadObject,
    /// A list of objects, or a snapshot.
    ReadContainer,
    /// Values, and holes punched into arrays.
    Update,
    PunchAkeys,
    PunchDkey,
    PunchObject,
}

use Conditions::{AkeyExists, AkeyInsert, DkeyExists, DkeyInsert, None as Blind};
use Doing::{PunchAkeys, PunchDkey, PunchObject, ReadAkeys, ReadContainer, ReadDkey, ReadObject, Update};
use Level::{Akey, Container, Dkey, Object};
use Predicate::{Empty, Nonempty};

/// M-1. A condition that has no row asks for nothing: there are no akeys in the request.
pub(crate) const OPERATIONS: [(Doing, Conditions, Class); 20] = [
    (ReadAkeys, Blind, read(Akey)),
    (ReadDkey, Blind, read(Dkey)),
    (ReadObject, Blind, read(Object)),
    (ReadContainer, Blind, read(Container)),
    (Update, Blind, update(None, None)),
    (Update, DkeyInsert, update(Some(Dkey), Some(Empty))),
    (Update, DkeyExists, update(Some(Dkey), Some(Nonempty))),
    (Update, AkeyInsert, update(Some(Akey), Some(Empty))),
    (Update, AkeyExists, update(Some(Akey), Some(Nonempty))),
    (PunchAkeys, Blind, punch(Akey, None, None)),
    (PunchAkeys, DkeyInsert, punch(Akey, Some(Dkey), Some(Empty))),
    (PunchAkeys, DkeyExists, punch(Akey, Some(Dkey), Some(Nonempty))),
    (PunchAkeys, AkeyInsert, punch(Akey, Some(Akey), Some(Empty))),
    (PunchAkeys, AkeyExists, punch(Akey, Some(Akey), Some(Nonempty))),
    (PunchDkey, Blind, punch(Dkey, None, None)),
    (PunchDkey, DkeyInsert, punch(Dkey, Some(Dkey), Some(Empty))),
    (PunchDkey, DkeyExists, punch(Dkey, Some(Dkey), Some(Nonempty))),
    (PunchObject, Blind, punch(Object, None, None)),
    (PunchObject, DkeyInsert, punch(Object, Some(Object), Some(Empty))),
    (PunchObject, DkeyExists, punch(Object, Some(Object), Some(Nonempty))),
];

/// The class of a request.
pub(crate) fn class_of(doing: Doing, conditions: Conditions) -> Class {
    let row = |wanted| OPERATIONS.iter().find(|(d, c, _)| *d == doing && *c == wanted).map(|(_, _, class)| *class);
    row(conditions).or_else(|| row(Blind)).expect("every request has a row without a condition")
}

/// How the epoch of the later operation to arrive relates to that of the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// At a higher epoch.
    After,
    /// At the same epoch, in the same transaction.
    SameTx,
    /// At the same epoch, in another transaction.
    SameEpoch,
    /// At a lower epoch.
    Before,
}

/// What the later operation to arrive is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allow,
    /// Start over at a higher epoch.
    Restart,
    /// Learn how the other ends, then ask again.
    Wait,
}

/// M-2: a read, then a write to what it read. A failed predicate of the write comes before `Restart`.
pub(crate) const READ_THEN_WRITE: [(Relation, Outcome); 4] = [
    (Relation::After, Outcome::Allow),
    (Relation::SameTx, Outcome::Allow),
    (Relation::SameEpoch, Outcome::Restart),
    (Relation::Before, Outcome::Restart),
];

/// A write at `w` met by an operation at a lower epoch `a`, whose clock may be off up to `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newer {
    /// `w <= b`: it may have been committed before the operation began.
    Uncertain,
    /// `w > b`, and the operation reads or writes beside it.
    Certain,
    /// `w > b`, and the operation is a punch of the write's level or above.
    UnderPunch,
}

/// M-3: a write, then an operation at a lower epoch. Allowed, the operation does not see the write.
pub(crate) const WRITE_THEN_OLDER: [(Newer, Outcome); 3] =
    [(Newer::Uncertain, Outcome::Restart), (Newer::Certain, Outcome::Allow), (Newer::UnderPunch, Outcome::Restart)];

/// A write of another transaction that does not lie above the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clash {
    /// Both write, at different epochs.
    Apart,
    /// Both write the same place at the same epoch.
    SameEpoch,
    /// Both punch the same thing at the same epoch, and the first is committed: the second is done already.
    SamePunch,
    /// The first is not committed; the second reads it, or its predicate depends on it.
    Undecided,
}

/// M-4: a write, then a write of another transaction, or a read of the uncommitted.
pub(crate) const WRITE_THEN_WRITE: [(Clash, Outcome); 4] = [
    (Clash::Apart, Outcome::Allow),
    (Clash::SameEpoch, Outcome::Restart),
    (Clash::SamePunch, Outcome::Allow),
    (Clash::Undecided, Outcome::Wait),
];

/// The outcome in the row of `case`.
pub(crate) fn look_up<T: PartialEq + Copy + std::fmt::Debug>(table: &[(T, Outcome)], case: T) -> Outcome {
    let row = table.iter().find(|(row, _)| *row == case);
    row.map(|(_, outcome)| *outcome).expect("every case has a row: the tables' test holds them to it")
}

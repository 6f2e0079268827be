//! Which of two conflicting operations wins: optimistic, in the order of epochs.
//!
//! Transactions behave as if each was done at its epoch, all at once. Readers never stop later writers; a
//! write that would change what somebody read starts over at a higher epoch. [`decide`] is the whole of it:
//! facts in, verdict out. The facts come from the read marks ([`timestamps`]), the tree (`history`) and the
//! intents; what outweighs what is in [`table`].
//!
//! # Always true
//! 1. After a read at `r`, no other transaction writes to what was read at or below `r` (K4).
//! 2. Forgetting, of marks or of a whole process, only makes more writes start over (K18).
//! 3. Who waits, waits for an uncommitted write at its own epoch or below: no two wait for one another.
//!
//! # Not here
//! Who learns how an undecided transaction ends, and when a restart is tried again: the caller.

pub(crate) mod table;
pub(crate) mod timestamps;

use rt::EPSILON;
use types::Epoch;

use crate::conflict::table::{
    Clash, Class, Doing, Newer, Outcome, Predicate, READ_THEN_WRITE, Relation, WRITE_THEN_OLDER, WRITE_THEN_WRITE,
    class_of, look_up,
};
use crate::conflict::timestamps::Stamp;
use crate::request::{ChangeId, Op, PunchScope, TxId};

/// On whose behalf a checked call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    pub tx: TxId,
    /// When it happens.
    pub epoch: Epoch,
    /// Until when a write may have happened before it, for all its clock knows. `epoch` when certain.
    pub bound: Epoch,
}

impl Party {
    /// The server that does it chose the epoch.
    pub fn certain(tx: TxId, epoch: Epoch) -> Party {
        Party { tx, epoch, bound: epoch }
    }

    /// Another server's clock chose `first`; restarts chose later epochs since. A server whose clock is ahead
    /// by no more than the allowed offset may have committed something before `first` was chosen, and stamped it
    /// later. The bound stays where it is: once the epoch is beyond it, nothing is uncertain any more.
    pub fn uncertain(tx: TxId, first: Epoch, epoch: Epoch) -> Party {
        let offset = u64::try_from(EPSILON.as_micros()).unwrap_or(u64::MAX);
        let bound = Epoch::from_micros(first.micros().saturating_add(offset), u16::MAX);
        Party { tx, epoch, bound: bound.max(epoch) }
    }
}

/// What is known of the places an operation reads and writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// Newest read that the write would change.
    pub(crate) read: Stamp,
    /// Newest write after the epoch and up to the bound.
    pub(crate) uncertain: Option<Epoch>,
    /// For a punch: newest write after its epoch, at or below its level.
    pub(crate) covered: Option<Epoch>,
    /// The worst clash with a write of another transaction at the same epoch.
    pub(crate) clash: Option<Clash>,
    /// An uncommitted write that decides what is read.
    pub(crate) undecided: Option<ChangeId>,
    /// Whether what the predicate asks for is there; `None` without one.
    pub(crate) exists: Option<bool>,
}

/// What an operation is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Restart { above: Epoch },
    InProgress { change: ChangeId },
    Exists,
    NotFound,
}

/// Decides an operation. In this order: what the clock leaves open, what others leave open, what the
/// operation asks for, what others have seen, what others have written.
pub(crate) fn decide(class: Class, party: &Party, facts: &Facts) -> Verdict {
    if let Some(above) = facts.uncertain
        && look_up(&WRITE_THEN_OLDER, Newer::Uncertain) == Outcome::Restart
    {
        return Verdict::Restart { above };
    }
    if let Some(change) = facts.undecided
        && look_up(&WRITE_THEN_WRITE, Clash::Undecided) == Outcome::Wait
    {
        return Verdict::InProgress { change };
    }
    match (class.predicate, facts.exists) {
        (Some(Predicate::Empty), Some(true)) => return Verdict::Exists,
        (Some(Predicate::Nonempty), Some(false)) => return Verdict::NotFound,
        _ => {}
    }
    if class.write.is_none() {
        return Verdict::Ok;
    }
    if look_up(&READ_THEN_WRITE, relation(party, facts.read)) == Outcome::Restart {
        return Verdict::Restart { above: facts.read.epoch };
    }
    if look_up(&WRITE_THEN_WRITE, facts.clash.unwrap_or(Clash::Apart)) == Outcome::Restart {
        return Verdict::Restart { above: party.epoch };
    }
    let newer = if class.punches { Newer::UnderPunch } else { Newer::Certain };
    match facts.covered {
        Some(above) if look_up(&WRITE_THEN_OLDER, newer) == Outcome::Restart => Verdict::Restart { above },
        _ => Verdict::Ok,
    }
}

fn relation(party: &Party, earlier: Stamp) -> Relation {
    match party.epoch.cmp(&earlier.epoch) {
        std::cmp::Ordering::Greater => Relation::After,
        std::cmp::Ordering::Less => Relation::Before,
        std::cmp::Ordering::Equal if earlier.tx == Some(party.tx) => Relation::SameTx,
        std::cmp::Ordering::Equal => Relation::SameEpoch,
    }
}

impl Class {
    /// The row of M-1 that an operation is in.
    pub(crate) fn of(op: &Op<'_>) -> Class {
        match op {
            Op::Update(update) => class_of(Doing::Update, update.conditions),
            Op::Punch(punch) => {
                let doing = match punch.scope {
                    PunchScope::Object => Doing::PunchObject,
                    PunchScope::Dkey(_) => Doing::PunchDkey,
                    PunchScope::Akeys(..) => Doing::PunchAkeys,
                    PunchScope::Extents { .. } => Doing::Update,
                };
                class_of(doing, punch.conditions)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::SessionId;

    use super::*;
    use crate::conflict::table::OPERATIONS;

    fn party(epoch: u64, tx: u64) -> Party {
        Party { tx: id(tx), epoch: Epoch(epoch), bound: Epoch(epoch) }
    }

    fn undecided() -> ChangeId {
        ChangeId { number: 3, ..ChangeId::default() }
    }

    fn id(seq: u64) -> TxId {
        TxId { session: SessionId(1), seq }
    }

    #[test]
    fn uncertainty_ends_when_the_epoch_passes_the_bound_of_the_first() {
        let first = Epoch::from_micros(1_000_000, 7);
        let before = Party::uncertain(id(1), first, first);
        assert_eq!(before.bound, Epoch::from_micros(1_050_000, 0xfff), "50 ms, and the whole of the microsecond");
        let later = Epoch::from_micros(1_050_001, 0);
        assert_eq!(Party::uncertain(id(1), first, later), Party::certain(id(1), later));
    }

    /// Every case has exactly one row.
    #[test]
    fn the_tables_are_whole() {
        use Relation::{After, Before, SameEpoch, SameTx};
        assert_eq!(READ_THEN_WRITE.map(|(row, _)| row), [After, SameTx, SameEpoch, Before]);
        assert_eq!(WRITE_THEN_OLDER.map(|(row, _)| row), [Newer::Uncertain, Newer::Certain, Newer::UnderPunch]);
        let clashes = [Clash::Apart, Clash::SameEpoch, Clash::SamePunch, Clash::Undecided];
        assert_eq!(WRITE_THEN_WRITE.map(|(row, _)| row), clashes);
        for (at, (doing, conditions, class)) in OPERATIONS.iter().enumerate() {
            assert!(OPERATIONS[..at].iter().all(|(d, c, _)| (d, c) != (doing, conditions)));
            assert!(class.predicate.is_none() || class.read.is_some());
            assert_eq!(class_of(*doing, *conditions), *class);
        }
    }

    /// All operations, all combinations of facts: what outweighs what.
    #[test]
    fn verdicts_follow_one_order() {
        let stamps = [(4, 9), (5, 1), (5, 9), (6, 9)].map(|(e, tx)| Stamp { epoch: Epoch(e), tx: Some(id(tx)) });
        for (doing, conditions, class) in OPERATIONS {
            for case in 0..4u32 * 2 * 2 * 3 * 2 * 2 {
                let bit = |n: u32| case >> n & 1 == 1;
                let read = stamps[(case % 4) as usize];
                let clash = [None, Some(Clash::SamePunch), Some(Clash::SameEpoch)][(case / 64 % 3) as usize];
                let facts = Facts {
                    read,
                    uncertain: bit(2).then_some(Epoch(7)),
                    covered: bit(3).then_some(Epoch(8)),
                    clash,
                    undecided: bit(4).then_some(undecided()),
                    exists: class.predicate.map(|_| bit(5)),
                };
                let fails = match class.predicate {
                    Some(Predicate::Empty) => bit(5),
                    Some(Predicate::Nonempty) => !bit(5),
                    None => false,
                };
                let expected = if bit(2) {
                    Verdict::Restart { above: Epoch(7) }
                } else if bit(4) {
                    Verdict::InProgress { change: undecided() }
                } else if fails {
                    if bit(5) { Verdict::Exists } else { Verdict::NotFound }
                } else if class.write.is_none() {
                    Verdict::Ok
                } else if read.epoch > Epoch(5) || read.epoch == Epoch(5) && read.tx != Some(id(1)) {
                    Verdict::Restart { above: read.epoch }
                } else if clash == Some(Clash::SameEpoch) {
                    Verdict::Restart { above: Epoch(5) }
                } else if bit(3) && class.punches {
                    Verdict::Restart { above: Epoch(8) }
                } else {
                    Verdict::Ok
                };
                assert_eq!(decide(class, &party(5, 1), &facts), expected, "{doing:?} {conditions:?}: {facts:?}");
            }
        }
    }
}

//! A member of a placement group: what it has prepared, and what it knows to be decided.

use std::collections::BTreeMap;

use super::{Change, Decisions, Outcome, Peer, Report, Term};

/// What a target's store does in the steps of a member: at once, and durable before the member's answer leaves.
///
/// A failure of any of its steps is the store's: nothing changed unless said, and the same may be tried again.
pub trait Ledger {
    /// What a change does.
    type Work: ?Sized;
    /// Why it cannot be done.
    type Refusal;
    /// Why the store does nothing for now, or ever again.
    type Failure;

    /// The group's leader is that of `term` from now on.
    ///
    /// # Errors
    /// The store's.
    fn adopt(&mut self, term: Term) -> Result<(), Self::Failure>;

    /// Keeps `work` beside the data until it is decided. What conditions say, and whether it goes together with what else
    /// is under way, the leader's own member judges for all.
    ///
    /// # Errors
    /// It cannot be done here. Nothing changed.
    fn prepare(
        &mut self,
        change: Change,
        members: &[Peer],
        work: &Self::Work,
    ) -> Result<(), Unprepared<Self::Refusal, Self::Failure>>;

    /// Ends a change: what it prepared takes effect, or goes. One that was never prepared here is noted as aborted.
    ///
    /// # Errors
    /// The store's.
    fn decide(&mut self, change: Change, outcome: Outcome) -> Result<(), Self::Failure>;

    /// Whatever is known of changes up to `change`, and what they prepared, is forgotten: they count as settled.
    ///
    /// # Errors
    /// The store's; some of it may be forgotten then.
    fn forget(&mut self, change: Change) -> Result<(), Self::Failure>;

    /// Whatever is known of the group is forgotten.
    ///
    /// # Errors
    /// The store's; some of it may be forgotten then.
    fn leave(&mut self) -> Result<(), Self::Failure>;

    /// Outcomes up to `change` need not be remembered.
    ///
    /// # Errors
    /// The store's.
    fn settle(&mut self, change: Change) -> Result<(), Self::Failure>;
}

/// Why work is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unprepared<R, F> {
    /// It cannot be done here.
    Refused(R),
    /// The store's failure.
    Failed(F),
}

/// Why a member does not prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrepareError<R, F> {
    /// It has adopted a higher term, or has yet to hear of this one.
    Term(Term),
    /// It is decided already that it does not happen.
    Aborted,
    /// It cannot be done here, and never will under this name.
    Refused(R),
    /// The store's failure: nothing changed.
    Failed(F),
}

/// Why a member does not take a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecideError<F> {
    /// The store's failure: what was said before it is done, and all may be said again.
    Failed(F),
    /// It has adopted another term.
    Term(Term),
    /// A change that is committed and was never prepared here: this member is not what the leader takes it for.
    NeverPrepared(Change),
    /// A change that is said to be settled waits here for its decision: it would wait for ever (K10).
    Undecided(Change),
}

/// Why a member does not follow a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecoverError<F> {
    /// It has adopted a higher term.
    Term(Term),
    /// The store's failure: nothing changed.
    Failed(F),
}

/// The state of one placement group on one target. All of it is durable, by way of [`Ledger`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    term: Term,
    settled: Change,
    prepared: BTreeMap<Change, Vec<Peer>>,
    /// Above `settled`.
    decided: BTreeMap<Change, Outcome>,
}

impl Member {
    /// As the store has it after a restart.
    pub fn restore(term: Term, report: Report) -> Member {
        let Report { prepared, decided, settled } = report;
        Member { term, settled, prepared: prepared.into_iter().collect(), decided: decided.into_iter().collect() }
    }

    pub fn term(&self) -> Term {
        self.term
    }

    /// The leader of `term` begins: nothing of earlier ones is taken any more. `since` is this member's
    /// [`super::Seat::since`]: what it remembers of before was decided without it, and is forgotten. That comes up once,
    /// because a member that has heard of its seat has a mark in that interval.
    ///
    /// # Errors
    /// The term it has, when that is higher; the store's failure.
    pub fn recover<L: Ledger>(
        &mut self,
        term: Term,
        since: u32,
        ledger: &mut L,
    ) -> Result<Report, RecoverError<L::Failure>> {
        if term < self.term {
            return Err(RecoverError::Term(self.term));
        }
        if term > self.term {
            ledger.adopt(term).map_err(RecoverError::Failed)?;
            self.term = term;
        }
        // After the term: nobody of before may ask about what is half forgotten.
        let seated = Change::start_of(Term { interval: since, round: 0 });
        if self.settled < seated {
            ledger.forget(seated).map_err(RecoverError::Failed)?;
            self.settled = seated;
            self.prepared = self.prepared.split_off(&seated);
            self.decided = self.decided.split_off(&seated);
        }
        Ok(self.report())
    }

    /// The map has no seat for this member any more. Should it get one again, it will be a new one.
    ///
    /// # Errors
    /// The store's.
    pub fn leave<L: Ledger>(&mut self, ledger: &mut L) -> Result<(), L::Failure> {
        ledger.leave()?;
        *self = Member::default();
        Ok(())
    }

    /// What it holds now.
    pub fn report(&self) -> Report {
        Report {
            prepared: self.prepared.iter().map(|(change, members)| (*change, members.clone())).collect(),
            decided: self.decided.iter().map(|(change, outcome)| (*change, *outcome)).collect(),
            settled: self.settled,
        }
    }

    /// Prepares a change, unless that is past; saying it twice is fine. What was refused once stays refused: else a
    /// message that comes twice could bring a change back that its client was told had failed.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare<L: Ledger>(
        &mut self,
        change: Change,
        members: &[Peer],
        work: &L::Work,
        ledger: &mut L,
    ) -> Result<(), PrepareError<L::Refusal, L::Failure>> {
        if change.term != self.term {
            return Err(PrepareError::Term(self.term));
        }
        if self.prepared.contains_key(&change) {
            return Ok(());
        }
        match self.outcome(change) {
            Some(Outcome::Committed) => return Ok(()),
            Some(Outcome::Aborted) => return Err(PrepareError::Aborted),
            None => {}
        }
        match ledger.prepare(change, members, work) {
            Ok(()) => {
                self.prepared.insert(change, members.to_vec());
                Ok(())
            }
            Err(Unprepared::Refused(why)) => {
                ledger.decide(change, Outcome::Aborted).map_err(PrepareError::Failed)?;
                self.decided.insert(change, Outcome::Aborted);
                Err(PrepareError::Refused(why))
            }
            Err(Unprepared::Failed(why)) => Err(PrepareError::Failed(why)),
        }
    }

    /// Refuses a change that there is no place for here, unless it came before and is kept.
    ///
    /// # Errors
    /// `Aborted`: it is refused; of another term; the store's failure.
    pub fn refuse<L: Ledger>(
        &mut self,
        change: Change,
        ledger: &mut L,
    ) -> Result<(), PrepareError<L::Refusal, L::Failure>> {
        if change.term != self.term {
            return Err(PrepareError::Term(self.term));
        }
        match self.outcome(change) {
            _ if self.prepared.contains_key(&change) => return Ok(()),
            Some(Outcome::Committed) => return Ok(()),
            Some(Outcome::Aborted) => return Err(PrepareError::Aborted),
            None => {}
        }
        ledger.decide(change, Outcome::Aborted).map_err(PrepareError::Failed)?;
        self.decided.insert(change, Outcome::Aborted);
        Err(PrepareError::Aborted)
    }

    /// Prepares a change of the leader whose own member this is. One that it refuses leaves nothing behind: nobody else
    /// has heard of it, or ever will.
    ///
    /// # Errors
    /// Its refusal, or the store's failure; of another term it is neither.
    pub fn prepare_own<L: Ledger>(
        &mut self,
        change: Change,
        members: &[Peer],
        work: &L::Work,
        ledger: &mut L,
    ) -> Result<(), PrepareError<L::Refusal, L::Failure>> {
        if change.term != self.term {
            return Err(PrepareError::Term(self.term));
        }
        ledger.prepare(change, members, work).map_err(|why| match why {
            Unprepared::Refused(why) => PrepareError::Refused(why),
            Unprepared::Failed(why) => PrepareError::Failed(why),
        })?;
        self.prepared.insert(change, members.to_vec());
        Ok(())
    }

    /// Hears what the leader of `term` decided. What it knew stays as it is: there is one outcome (K2).
    ///
    /// # Errors
    /// [`DecideError`].
    pub fn decide<L: Ledger>(
        &mut self,
        term: Term,
        decisions: &Decisions,
        ledger: &mut L,
    ) -> Result<(), DecideError<L::Failure>> {
        if term != self.term {
            // An old leader's abort may be of a change that the new one found with everybody, and committed.
            return Err(DecideError::Term(self.term));
        }
        // First: it makes room for what is decided, and all of that lies above it.
        if decisions.settled > self.settled {
            if let Some((change, _)) = self.prepared.range(..=decisions.settled).next() {
                return Err(DecideError::Undecided(*change));
            }
            ledger.settle(decisions.settled).map_err(DecideError::Failed)?;
            self.settled = decisions.settled;
            self.decided = self.decided.split_off(&decisions.settled);
            self.decided.remove(&decisions.settled);
        }
        for &(change, outcome) in &decisions.decided {
            if self.outcome(change).is_some() {
                continue;
            }
            if !self.prepared.contains_key(&change) && outcome == Outcome::Committed {
                return Err(DecideError::NeverPrepared(change));
            }
            ledger.decide(change, outcome).map_err(DecideError::Failed)?;
            self.prepared.remove(&change);
            self.decided.insert(change, outcome);
        }
        Ok(())
    }

    /// How a change ended, as far as it is known here; one below the mark that is not remembered did not happen as
    /// far as any message can still tell.
    fn outcome(&self, change: Change) -> Option<Outcome> {
        match self.decided.get(&change) {
            None if change <= self.settled => Some(Outcome::Aborted),
            known => known.copied(),
        }
    }
}

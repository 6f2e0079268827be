//! News of a state, for servers that are no voters: the commands that took effect since, or the whole state.
//!
//! Consensus brings a log to few members, each of which its leader tends. Many more servers want the *state*. They subscribe:
//! each says to some voter how far the state is that it has, and is told what came since, when something has.
//!
//! # Shape
//! At a voter, [`Recent`] remembers the last commands that took effect. At a subscriber, [`Subscription`] has a copy of the
//! state, which the same commands take from one log id to the next: it is equal, byte for byte, to that of every replica that
//! has applied as much (K19). Whoever has missed more than is remembered gets the whole state, in parts.
//!
//! # Always true
//! 1. A copy only goes forward, in the order of log ids; of copy and replica here, the one with the later log id counts.
//! 2. What is remembered, told and gathered is bounded (K21), and what is told wrongly harms nobody but who believes it: it
//!    gets the whole state next.
//! 3. Nothing that is told is more than committed: a copy may be behind, and is never ahead.
//!
//! # Not here
//! Who asks whom, and when (the service). Reads of what is newest: only [`crate::Group::read`] gives those.

use std::collections::BTreeSet;
use std::rc::Rc;

use types::Rank;
use wire::encoding::Bytes;
use wire::peer::{LogId, Newer};
use wire::{DecodeError, Wire};

use crate::limits::{NEWS_PART_BYTES, SNAPSHOT_BYTES_MAX};
use crate::machine::StateMachine;
use crate::recent::Recent;

/// A whole state that is being told, which several may be in the middle of.
pub(crate) struct Told {
    of: LogId,
    bytes: Rc<Vec<u8>>,
}

/// What is new to who has `have`, and a `part` of a whole state. `now`: the state here, its log id, and its bytes.
pub(crate) fn newer(
    recent: &Recent,
    told: &mut Option<Told>,
    now: Option<LogId>,
    encode: impl FnOnce() -> Vec<u8>,
    have: Option<LogId>,
    part: Option<(LogId, u64)>,
) -> Newer {
    let Some(now) = now else { return Newer::Unknown };
    if have >= Some(now) {
        return Newer::Commands { to: now, commands: Vec::new() };
    }
    if let Some(commands) = have.and_then(|have| recent.since(have)) {
        return Newer::Commands { to: now, commands };
    }
    // Somebody may be in the middle of it; and from there the commands lead on.
    let is_useful = |told: &&mut Told| told.of == now || recent.since(told.of).is_some();
    let whole = match told.as_mut().filter(is_useful) {
        Some(told) => told,
        None => told.insert(Told { of: now, bytes: Rc::new(encode()) }),
    };
    let asked = part.filter(|(of, _)| *of == whole.of).and_then(|(_, offset)| usize::try_from(offset).ok());
    let offset = asked.filter(|offset| *offset < whole.bytes.len()).unwrap_or(0);
    let end = whole.bytes.len().min(offset + NEWS_PART_BYTES);
    let bytes = Bytes(whole.bytes[offset..end].to_vec());
    Newer::Whole { of: whole.of, total: whole.bytes.len() as u64, offset: offset as u64, bytes }
}

/// The state of a group as it was told here.
pub(crate) struct Copy<S> {
    pub(crate) at: LogId,
    pub(crate) machine: S,
}

/// A whole state of which parts are here.
struct Coming {
    of: LogId,
    total: u64,
    bytes: Vec<u8>,
}

/// What a subscriber has.
pub(crate) struct Subscription<S> {
    copy: Option<Copy<S>>,
    coming: Option<Coming>,
    /// Who leads and votes, as far as was told.
    pub(crate) leader: Option<Rank>,
    pub(crate) term: u64,
    pub(crate) voters: BTreeSet<Rank>,
}

/// What news came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing that was not known.
    Nothing,
    /// More is to be asked for.
    Part,
    /// The state is a later one.
    State,
}

impl<S: StateMachine> Subscription<S> {
    pub(crate) fn new() -> Subscription<S> {
        Subscription { copy: None, coming: None, leader: None, term: 0, voters: BTreeSet::new() }
    }

    pub(crate) fn copy(&self) -> Option<&Copy<S>> {
        self.copy.as_ref()
    }

    /// The part of a whole state that is wanted next.
    pub(crate) fn part(&self) -> Option<(LogId, u64)> {
        self.coming.as_ref().map(|coming| (coming.of, coming.bytes.len() as u64))
    }

    /// Takes what was told to who `asked` for more than that. Commands that follow another state than the later one of `replica`
    /// and the copy here are of no use: some of them it has.
    ///
    /// # Errors
    /// It cannot be read; the copy is dropped, so that the whole state is told next.
    pub(crate) fn take(
        &mut self,
        replica: (Option<LogId>, &S),
        asked: Option<LogId>,
        newer: Newer,
    ) -> Result<Taken, DecodeError> {
        let have = self.copy.as_ref().map(|copy| copy.at).max(replica.0);
        let taken = match newer {
            Newer::Unknown => Ok(Taken::Nothing),
            Newer::Commands { to, .. } if Some(to) <= have || asked != have => Ok(Taken::Nothing),
            Newer::Commands { to, commands } => self.advance(replica, to, &commands),
            Newer::Whole { of, .. } if Some(of) <= have => {
                self.coming = None;
                Ok(Taken::Nothing)
            }
            Newer::Whole { of, total, offset, bytes } => self.gather(of, total, offset, bytes.0),
        };
        if taken.is_err() {
            (self.copy, self.coming) = (None, None);
        }
        taken
    }

    fn advance(&mut self, replica: (Option<LogId>, &S), to: LogId, commands: &[Bytes]) -> Result<Taken, DecodeError> {
        let copy = match self.copy.take().filter(|copy| Some(copy.at) >= replica.0) {
            Some(copy) => copy,
            None => Copy { at: to, machine: S::from_bytes(&replica.1.to_bytes())? },
        };
        let mut machine = copy.machine;
        for command in commands {
            machine.apply(S::Command::from_bytes(&command.0)?);
        }
        self.copy = Some(Copy { at: to, machine });
        self.coming = None;
        Ok(Taken::State)
    }

    fn gather(&mut self, of: LogId, total: u64, offset: u64, bytes: Vec<u8>) -> Result<Taken, DecodeError> {
        if total > SNAPSHOT_BYTES_MAX as u64 {
            return Err(DecodeError::Invalid { what: "the size of a state" });
        }
        if offset == 0 {
            self.coming = Some(Coming { of, total, bytes: Vec::new() });
        }
        let Some(coming) = self.coming.as_mut().filter(|coming| coming.of == of && coming.total == total) else {
            self.coming = None;
            return Ok(Taken::Part);
        };
        // A part that brings nothing, or another than was asked for, would never end.
        if coming.bytes.len() as u64 != offset || bytes.is_empty() {
            return Err(DecodeError::Invalid { what: "a part of a state" });
        }
        coming.bytes.extend_from_slice(&bytes);
        match (coming.bytes.len() as u64).cmp(&total) {
            std::cmp::Ordering::Less => Ok(Taken::Part),
            std::cmp::Ordering::Greater => Err(DecodeError::Invalid { what: "the size of a state" }),
            std::cmp::Ordering::Equal => {
                self.copy = Some(Copy { at: of, machine: S::from_bytes(&coming.bytes)? });
                self.coming = None;
                Ok(Taken::State)
            }
        }
    }

    /// Lets the copy go: the replica here has caught up with it.
    pub(crate) fn forget(&mut self) {
        (self.copy, self.coming) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RECENT_ENTRIES_MAX;

    /// All commands so far, and some weight.
    #[derive(Clone, Debug, PartialEq)]
    struct List(Vec<u64>);

    impl Wire for List {
        fn encode(&self, out: &mut Vec<u8>) {
            self.0.encode(out);
        }
        fn decode(from: &mut wire::Reader<'_>) -> Result<List, DecodeError> {
            Wire::decode(from).map(List)
        }
    }

    impl StateMachine for List {
        const NAME: &'static str = "list";
        type Command = u64;
        type Response = u64;
        fn apply(&mut self, command: u64) -> u64 {
            self.0.push(command);
            self.0.len() as u64
        }
    }

    /// A voter with all that it applied.
    struct Voter {
        recent: Recent,
        told: Option<Told>,
        at: Option<LogId>,
        list: List,
    }

    impl Voter {
        fn new() -> Voter {
            Voter { recent: Recent::default(), told: None, at: None, list: List(vec![]) }
        }
        fn apply(&mut self, term: u64, command: Option<u64>) {
            let id = LogId { term, index: self.at.map_or(0, |at| at.index + 1) };
            if let Some(command) = command {
                self.list.apply(command);
            }
            self.recent.note(id, command.map(|command| command.to_bytes()));
            self.at = Some(id);
        }
        fn tell(&mut self, have: Option<LogId>, part: Option<(LogId, u64)>) -> Newer {
            newer(&self.recent, &mut self.told, self.at, || self.list.to_bytes(), have, part)
        }
    }

    /// A subscriber whose replica never got anything.
    struct Subscriber(Subscription<List>);

    impl Subscriber {
        fn have(&self) -> Option<LogId> {
            self.0.copy().map(|copy| copy.at)
        }
        fn take(&mut self, newer: Newer) -> Result<Taken, DecodeError> {
            self.0.take((None, &List(vec![])), self.have(), newer)
        }
        /// Asks until nothing is missing; gives the parts that took.
        fn catch_up(&mut self, voter: &mut Voter) -> usize {
            for asked in 0..1000 {
                if self.have() == voter.at {
                    return asked;
                }
                self.take(voter.tell(self.have(), self.0.part())).unwrap();
            }
            panic!("it does not end");
        }
        fn list(&self) -> &List {
            &self.0.copy().expect("it has caught up").machine
        }
    }

    #[test]
    fn a_subscriber_has_the_state_of_the_voters_at_each_log_id() {
        let mut voter = Voter::new();
        let mut subscriber = Subscriber(Subscription::new());
        assert_eq!(subscriber.take(voter.tell(None, None)), Ok(Taken::Nothing), "nobody knows anything yet");
        let mut dice = rt::Rng::seeded(7);
        for number in 0..5000 {
            voter.apply(1 + number / 1000, dice.chance(0.8).then_some(number));
            if dice.chance(0.05) {
                subscriber.catch_up(&mut voter);
                assert_eq!(subscriber.list(), &voter.list, "K19 at {:?}", voter.at);
            }
        }
        // What came twice, or late, changes nothing.
        let before = subscriber.have();
        let late = voter.tell(before, None);
        subscriber.catch_up(&mut voter);
        assert_eq!(subscriber.take(late), Ok(Taken::Nothing));
        assert_eq!(subscriber.list(), &voter.list);
    }

    #[test]
    fn who_was_away_for_long_gets_the_whole_state_in_parts_while_it_goes_on() {
        let mut voter = Voter::new();
        let mut subscriber = Subscriber(Subscription::new());
        (0..200_000).for_each(|number| voter.apply(1, Some(number)));
        let parts = voter.list.to_bytes().len().div_ceil(NEWS_PART_BYTES);
        assert!(parts > 2);
        for number in 0..parts as u64 {
            assert_eq!(subscriber.have(), None);
            subscriber.take(voter.tell(None, subscriber.0.part())).unwrap();
            // The state that is being told stays as it was begun.
            voter.apply(1, Some(number));
        }
        assert_eq!(subscriber.have().map(|have| have.index), Some(199_999));
        assert_eq!(subscriber.catch_up(&mut voter), 1, "the rest are commands");
        assert_eq!(subscriber.list(), &voter.list);
        // So much has happened meanwhile that the state which was begun leads nowhere: another is begun.
        let mut late = Subscriber(Subscription::new());
        late.take(voter.tell(None, None)).unwrap();
        (0..2 * RECENT_ENTRIES_MAX as u64).for_each(|number| voter.apply(2, Some(number)));
        late.catch_up(&mut voter);
        assert_eq!(late.list(), &voter.list);
    }

    /// A forced recovery: the survivor lacks what a subscriber had been told, and goes on in a later term.
    #[test]
    fn what_a_forced_recovery_dropped_is_dropped_by_subscribers() {
        let (mut voter, mut survivor) = (Voter::new(), Voter::new());
        let mut subscriber = Subscriber(Subscription::new());
        for number in 0..10 {
            voter.apply(1, Some(number));
            if number < 7 {
                survivor.apply(1, Some(number));
            }
        }
        subscriber.catch_up(&mut voter);
        survivor.apply(2, None);
        survivor.apply(2, Some(77));
        assert!(survivor.at.unwrap().index < voter.at.unwrap().index);
        subscriber.catch_up(&mut survivor);
        assert_eq!(subscriber.list(), &survivor.list);
    }

    #[test]
    fn a_replica_that_was_a_member_goes_on_from_its_own_state() {
        let mut voter = Voter::new();
        (0..5).for_each(|number| voter.apply(1, Some(number)));
        let (at, replica) = (voter.at, voter.list.clone());
        (5..9).for_each(|number| voter.apply(2, Some(number)));
        let mut subscription = Subscription::new();
        let told = voter.tell(at, None);
        assert!(matches!(told, Newer::Commands { .. }));
        assert_eq!(subscription.take((at, &replica), at, told), Ok(Taken::State));
        assert_eq!(subscription.copy().unwrap().machine, voter.list);
    }

    /// A voter that had just been relieved asked what was new; a last message of consensus came before the answer, and a command of
    /// both took effect twice: its state was another than everybody's, for good. Seed 13047 of the simulator's `wide`. (K19)
    #[test]
    fn what_came_between_question_and_answer_takes_effect_once() {
        let mut voter = Voter::new();
        (0..5).for_each(|number| voter.apply(1, Some(number)));
        let asked = voter.at;
        voter.apply(1, Some(5));
        let (at, replica) = (voter.at, voter.list.clone());
        voter.apply(1, Some(6));
        let mut subscription = Subscription::new();
        assert_eq!(subscription.take((at, &replica), asked, voter.tell(asked, None)), Ok(Taken::Nothing));
        assert_eq!(subscription.take((at, &replica), at, voter.tell(at, None)), Ok(Taken::State));
        assert_eq!(subscription.copy().unwrap().machine, voter.list);
    }

    #[test]
    fn what_cannot_be_read_costs_the_whole_state_and_nothing_else() {
        let mut voter = Voter::new();
        (0..5).for_each(|number| voter.apply(1, Some(number)));
        let to = LogId { term: 9, index: 9 };
        let whole = |total, offset, bytes: usize| Newer::Whole { of: to, total, offset, bytes: Bytes(vec![1; bytes]) };
        for bad in [
            Newer::Commands { to, commands: vec![Bytes(vec![1])] },
            whole(u64::MAX, 0, 10),
            whole(10, 0, 11),
            whole(10, 0, 0),
            whole(3, 0, 3),
        ] {
            let mut subscriber = Subscriber(Subscription::new());
            subscriber.catch_up(&mut voter);
            assert!(subscriber.take(bad.clone()).is_err(), "{bad:?}");
            assert_eq!((subscriber.have(), subscriber.0.part()), (None, None), "{bad:?}");
            subscriber.catch_up(&mut voter);
            assert_eq!(subscriber.list(), &voter.list, "{bad:?}");
        }
        // A part of what is not being gathered is no part.
        let mut subscriber = Subscriber(Subscription::new());
        assert_eq!(subscriber.take(whole(10, 4, 6)), Ok(Taken::Part));
        assert_eq!(subscriber.0.part(), None);
    }
}

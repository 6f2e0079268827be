//! How far a pool's groups are on a target that is to have them: pure bookkeeping.
//!
//! # Shape
//! A group that came whole is *owed* what its giver remembers of requests, and *here* when that has come, too: whoever has
//! it may lead it next, and must know a repeat (K5). One whose giver leads it no more before that is missing again: what
//! became of its requests meanwhile is for its next leader to tell. One that failed for a reason that does not pass
//! by itself *rests*, each time for longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::Instant;
use types::{ContainerId, Error};

use super::RETRY_MAX;
use crate::replication::Peer;

/// Longest pause between two tries of what fails for a reason that does not pass by itself: a try may cost a full copy.
const REST_MAX: Duration = Duration::from_secs(60);

/// A group of a container.
pub(super) type Key = (ContainerId, u32);

/// What is known of groups that this target is to have. At most one entry each for every group that it is a member of.
#[derive(Default)]
pub(super) struct Progress {
    /// Groups that are here, and the version since which this target had been a member of them: as long as it is one
    /// without a break, it gets whatever comes.
    here: BTreeMap<Key, u32>,
    /// Groups that came whole, who gave them, and as for `here`.
    owed: BTreeMap<Key, (Peer, u32)>,
    resting: BTreeMap<Key, Rest>,
}

struct Rest {
    until: Instant,
    pause: Duration,
    /// Who could not give it, and why.
    giver: Peer,
    why: Error,
}

/// Twice as long, from the usual pause up to [`REST_MAX`].
pub(super) fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(RETRY_MAX, REST_MAX)
}

impl Progress {
    /// Nothing is on its way any more.
    pub(super) fn clear(&mut self) {
        *self = Progress::default();
    }

    /// Whether a group has yet to come from `leader` to a target that has been a member since that version.
    pub(super) fn is_missing(&self, key: Key, leader: Peer, since: u32) -> bool {
        self.here.get(&key) != Some(&since) && self.owed.get(&key) != Some(&(leader, since))
    }

    /// A group came whole.
    pub(super) fn came(&mut self, key: Key, giver: Peer, since: u32) {
        self.resting.remove(&key);
        self.here.remove(&key);
        self.owed.insert(key, (giver, since));
    }

    /// Who is to tell what it remembers: those who gave something that they lead yet, and nobody else. `leads` says that,
    /// for a target that has been a member since that version.
    pub(super) fn givers(&mut self, leads: impl Fn(Key, Peer, u32) -> bool) -> BTreeSet<Peer> {
        self.owed.retain(|key, (giver, since)| leads(*key, *giver, *since));
        self.owed.values().map(|(giver, _)| *giver).collect()
    }

    /// A giver told what it remembers.
    pub(super) fn told(&mut self, giver: Peer) {
        let told = self.owed.iter().filter(|(_, (from, _))| *from == giver);
        self.here.extend(told.map(|(key, (_, since))| (*key, *since)));
        self.owed.retain(|_, (from, _)| *from != giver);
    }

    /// A group did not come.
    pub(super) fn failed(&mut self, key: Key, giver: Peer, why: &Error, now: Instant) {
        if why.is_transient() {
            return;
        }
        let before = self.resting.get(&key).filter(|rest| rest.giver == giver);
        let pause = before.map_or(RETRY_MAX, |rest| longer(rest.pause));
        self.resting.insert(key, Rest { until: now + pause, pause, giver, why: why.clone() });
    }

    /// Why a group is not asked of `giver` for now.
    pub(super) fn rests(&self, key: Key, giver: Peer, now: Instant) -> Option<Error> {
        let rest = self.resting.get(&key)?;
        (rest.giver == giver && now < rest.until).then(|| rest.why.clone())
    }
}

/// Of two troubles the one that may be over soon: it says when all is tried again.
pub(super) fn sooner(one: Option<Error>, other: Option<Error>) -> Option<Error> {
    match (one, other) {
        (Some(one), Some(other)) if !one.is_transient() && other.is_transient() => Some(other),
        (Some(one), _) => Some(one),
        (None, other) => other,
    }
}

#[cfg(test)]
mod tests {
    use types::{Code, Rank, TargetIndex};

    use super::*;

    const KEY: Key = (ContainerId::from_bytes([2; 16]), 3);
    const OTHER: Key = (ContainerId::from_bytes([2; 16]), 7);

    const ALL_LEAD: fn(Key, Peer, u32) -> bool = |_, _, _| true;

    fn peer(rank: u32) -> Peer {
        Peer { rank: Rank(rank), target: TargetIndex(0) }
    }

    /// With each map of a pool that was not settled, every target asked every other for all that its sessions ever did:
    /// so much that it forgot its own.
    #[test]
    fn who_gave_a_group_is_asked_what_it_remembers_and_nobody_else() {
        let mut progress = Progress::default();
        assert!(progress.givers(ALL_LEAD).is_empty(), "nothing was missing");
        progress.came(KEY, peer(1), 4);
        progress.came(OTHER, peer(2), 4);
        assert_eq!(progress.givers(ALL_LEAD), BTreeSet::from([peer(1), peer(2)]));
        progress.told(peer(1));
        assert_eq!(progress.givers(ALL_LEAD), BTreeSet::from([peer(2)]));
        // Whoever leads it now: what comes comes to both.
        assert!(!progress.is_missing(KEY, peer(3), 4));
        // A break in being a member.
        assert!(progress.is_missing(KEY, peer(1), 5));
    }

    #[test]
    fn a_group_whose_giver_dies_before_it_told_what_it_remembers_is_missing_again() {
        let mut progress = Progress::default();
        progress.came(KEY, peer(1), 4);
        assert!(!progress.is_missing(KEY, peer(1), 4), "only the memory is");
        assert!(progress.is_missing(KEY, peer(2), 4));
        progress.came(KEY, peer(2), 4);
        assert_eq!(progress.givers(ALL_LEAD), BTreeSet::from([peer(2)]));
        // Nobody leads it now, and nobody is waited for; who leads it next gives it.
        assert!(progress.givers(|_, _, _| false).is_empty());
        assert!(progress.is_missing(KEY, peer(2), 4));
    }

    /// One whose members never agree was dropped and copied anew four times in two seconds, for ever.
    #[test]
    fn a_group_that_cannot_be_had_rests_for_longer_each_time_and_not_from_another_giver() {
        rt::sim::Sim::new(rt::sim::SimConfig::seeded(1)).run(async {
            let (mut progress, mut now) = (Progress::default(), rt::now());
            let why = Error::new(Code::DataLoss, "its sums differ");
            let mut pauses = Vec::new();
            for _ in 0..10 {
                progress.failed(KEY, peer(1), &why, now);
                let began = now;
                while progress.rests(KEY, peer(1), now) == Some(why.clone()) {
                    now += RETRY_MAX;
                }
                pauses.push((now - began).as_millis());
            }
            assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
            progress.failed(KEY, peer(1), &why, now);
            assert_eq!(progress.rests(KEY, peer(2), now), None, "another leader may have it");
            assert_eq!(progress.rests(OTHER, peer(1), now), None);
            // What passes by itself is tried with all others.
            progress.failed(OTHER, peer(1), &Error::new(Code::Again, "later"), now);
            assert_eq!(progress.rests(OTHER, peer(1), now), None);
            progress.came(KEY, peer(1), 4);
            assert_eq!(progress.rests(KEY, peer(1), now), None);
        });
    }

    #[test]
    fn trouble_that_passes_says_when_all_is_tried_again() {
        let of = |code| Some(Error::new(code, "trouble"));
        assert_eq!(sooner(of(Code::DataLoss), of(Code::Again)), of(Code::Again));
        assert_eq!(sooner(of(Code::Again), of(Code::DataLoss)), of(Code::Again));
        assert_eq!(sooner(None, of(Code::DataLoss)), of(Code::DataLoss));
    }
}

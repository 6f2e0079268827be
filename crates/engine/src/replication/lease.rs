//! Leases: until when a leader may answer by itself what is the newest.
//!
//! A member that hears from the leader it follows grants it a lease. Before another leader serves, it asks every member
//! how long the leases that it granted to others still run, and waits for the longest. The two share a
//! member (or everything is lost anyway), so the old leader's lease is over by then. That member may be the old leader
//! itself: so a leader asks its own member, too.
//!
//! # Giving up
//! Nobody has to wait for a former leader that says that it counts on no lease of an earlier term any more. Members name
//! those that they granted one, and the new leader asks them, in its reign or not, when *all* members follow it: from then
//! on none of them grants anything to an earlier term, and what is given up is gone for good, whatever comes late, comes
//! twice or starts anew. So a former leader has nothing to remember. It speaks for itself only, and who led before it is
//! named, too; but who starts anew does not remember whom it granted one. It says up to which term that can have been, and who
//! gives up says in which it served: leases of earlier terms were over then. What the wait promised about clocks (reads at a moment, and moments that are closed), the answer does: it
//! carries the clock of who gives up, and the new leader's is past that from then on.
//!
//! # Clocks
//! Nobody compares moments of two machines. A member counts from when it grants; a leader from when it asked, which
//! was earlier; a successor from when it hears the answer, which is later. All that clocks have to do is to run
//! at about the same speed: a leader counts a tenth less, and [`MARGIN`] less at least.
//!
//! # Not here
//! Who asks whom, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::Instant;

use super::{Peer, Term};

/// The longest that a member keeps to the leader that it heard from; a leader may ask for less. Less than a dead server takes to
/// be found out, so that failing over does not wait for it.
pub const LEASE: Duration = Duration::from_secs(1);
/// So much sooner the leader stops to count on it: whoever leads next, by a clock that is behind by as much as two that count as
/// right may differ, is past all that the leader said of its moments. However short the lease is.
const MARGIN: Duration = Duration::from_millis(2 * rt::EPSILON.as_millis() as u64);

/// Leaders that a member remembers by name; of further ones it remembers until when some lease runs. Leaders that took
/// over from one another within a lease.
const NAMED_MAX: usize = 4;

/// A lease that a member granted, as it tells a new leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granted {
    /// `left`: so long it still runs.
    To { peer: Peer, left: Duration },
    /// To whoever led in a term up to `upto`: it does not remember.
    Unknown { upto: Term, left: Duration },
}

/// What a member granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grants {
    /// By leader, until when: at most [`NAMED_MAX`].
    until: BTreeMap<Peer, Instant>,
    /// Whom it does not remember: an earlier life of the process may have granted a lease to anybody.
    unknown: Instant,
    unknown_upto: Term,
}

impl Grants {
    /// Of a process that starts `now`. `upto`: the newest term that its store remembers; that of who remembers none is
    /// [`Grants::ANY`].
    pub fn begin(now: Instant, upto: Term) -> Grants {
        Grants { until: BTreeMap::new(), unknown: now + LEASE, unknown_upto: upto }
    }

    /// Above all terms: who has left a group has forgotten what it followed.
    pub const ANY: Term = Term { interval: u32::MAX, round: u32::MAX };

    /// The leader that this member follows asked for it, for so long; [`LEASE`] at most.
    pub fn grant(&mut self, leader: Peer, now: Instant, lease: Duration) {
        let over = now + lease.min(LEASE);
        if let Some(until) = self.until.get_mut(&leader) {
            *until = (*until).max(over);
            return;
        }
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= NAMED_MAX
            && let Some(first) = self.until.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            let until = self.until.remove(&first).expect("just seen");
            (self.unknown, self.unknown_upto) = (self.unknown.max(until), Grants::ANY);
        }
        self.until.insert(leader, over);
    }

    /// What others than `leader` may count on.
    pub fn left(&self, leader: Peer, now: Instant) -> Vec<Granted> {
        let named = self.until.iter().filter(|(peer, until)| **peer != leader && **until > now);
        let mut granted: Vec<_> = named.map(|(peer, until)| Granted::To { peer: *peer, left: *until - now }).collect();
        if self.unknown > now {
            granted.push(Granted::Unknown { upto: self.unknown_upto, left: self.unknown - now });
        }
        granted
    }

    /// When all that it granted is over.
    pub fn over(&self) -> Instant {
        self.until.values().copied().fold(self.unknown, Instant::max)
    }
}

/// Leases of earlier terms, as a new leader hears of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Former {
    /// By whom, until when; at most as many as members name.
    until: BTreeMap<Peer, Instant>,
    /// Up to which term, until when: at most one a member.
    unknown: BTreeMap<Term, Instant>,
    gave_up: BTreeSet<Peer>,
    /// Somebody served in this term, who was the new leader itself or gave its lease up: earlier leases were over then.
    served: Term,
}

impl Former {
    /// As far as a new leader knows by itself. `served`: the newest term in which it served.
    pub fn begin(served: Term) -> Former {
        Former { served, ..Former::default() }
    }

    /// A member that follows the new leader said what it had granted to others.
    pub fn report(&mut self, granted: &[Granted], now: Instant) {
        for granted in granted {
            let (until, left) = match *granted {
                Granted::To { peer, left } => (self.until.entry(peer).or_insert(now), left),
                Granted::Unknown { upto, left } => (self.unknown.entry(upto).or_insert(now), left),
            };
            *until = (*until).max(now + left);
        }
    }

    /// It was asked after all members had reported, and counts on no lease of an earlier term. `served`: the newest term of
    /// which it knows that somebody served in it.
    pub fn gave_up(&mut self, peer: Peer, served: Term) {
        self.gave_up.insert(peer);
        self.served = self.served.max(served);
    }

    /// Who may still count on a lease, by name.
    pub fn to_ask(&self, now: Instant) -> impl Iterator<Item = Peer> + '_ {
        let waiting = self.until.iter().filter(move |(_, until)| **until > now);
        waiting.map(|(peer, _)| *peer).filter(|peer| !self.gave_up.contains(peer))
    }

    /// Until then somebody may count on a lease; `None`: nobody was granted one, or whoever was gave it up.
    pub fn over(&self) -> Option<Instant> {
        let named = self.until.iter().filter(|(peer, _)| !self.gave_up.contains(peer)).map(|(_, until)| *until);
        named.chain(self.unknown.range(self.served..).map(|(_, until)| *until)).max()
    }

    /// The newest term of which is known that somebody served in it.
    pub fn served(&self) -> Term {
        self.served
    }
}

/// What a leader was granted by the members, its own among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    asked_for: Duration,
    until: BTreeMap<Peer, Instant>,
}

impl Lease {
    /// Of a leader that asks for so long, [`LEASE`] at most.
    pub fn of(asked_for: Duration) -> Lease {
        Lease { asked_for: asked_for.min(LEASE), until: BTreeMap::new() }
    }

    /// What members are asked for, each time.
    pub fn asked_for(&self) -> Duration {
        self.asked_for
    }

    /// What of it the leader counts on: less by a tenth, for clocks that do not run alike, and by [`MARGIN`] at least.
    pub fn trusted(&self) -> Duration {
        self.asked_for.saturating_sub(MARGIN.max(self.asked_for / 10))
    }

    /// A member answered what it was asked at `asked`.
    pub fn renewed(&mut self, from: Peer, asked: Instant) {
        let over = asked + self.trusted();
        let until = self.until.entry(from).or_insert(asked);
        *until = (*until).max(over);
    }

    /// Whether all of `members`, the leader's own included, keep to this leader.
    pub fn holds(&self, members: impl IntoIterator<Item = Peer>, now: Instant) -> bool {
        members.into_iter().all(|member| self.until.get(&member).is_some_and(|until| now < *until))
    }
}

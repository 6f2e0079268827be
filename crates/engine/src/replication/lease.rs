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
//! named, too. What the wait promised about clocks (reads at a moment, and moments that are closed), the answer does: it
//! carries the clock of who gives up, and the new leader's is past that from then on.
//!
//! # Clocks
//! Nobody compares moments of two machines. A member counts from when it grants; a leader from when it asked, which
//! was earlier; a successor from when it hears the answer, which is later. All that clocks have to do is to run
//! at about the same speed: a leader counts a tenth less.
//!
//! # Not here
//! Who asks whom, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rt::Instant;

use super::Peer;

/// How long a member keeps to the leader that it heard from. Less than a dead server takes to be found out, so that
/// failing over does not wait for it.
pub const LEASE: Duration = Duration::from_secs(1);
/// What of it a leader counts on.
const TRUSTED: Duration = Duration::from_millis(900);

/// Leaders that a member remembers by name; of further ones it remembers until when some lease runs. Leaders that took
/// over from one another within a lease.
const NAMED_MAX: usize = 4;

/// A lease that a member granted, as it tells a new leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granted {
    /// `None`: to somebody that it does not remember.
    pub to: Option<Peer>,
    /// So long it still runs.
    pub left: Duration,
}

/// What a member granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grants {
    /// By leader, until when: at most [`NAMED_MAX`].
    until: BTreeMap<Peer, Instant>,
    /// Whom it does not remember: an earlier life of the process may have granted a lease to anybody.
    unknown: Instant,
}

impl Grants {
    /// Of a process that starts `now`.
    pub fn begin(now: Instant) -> Grants {
        Grants { until: BTreeMap::new(), unknown: now + LEASE }
    }

    /// The leader that this member follows asked for it.
    pub fn grant(&mut self, leader: Peer, now: Instant) {
        if let Some(until) = self.until.get_mut(&leader) {
            *until = (*until).max(now + LEASE);
            return;
        }
        self.until.retain(|_, until| *until > now);
        if self.until.len() >= NAMED_MAX
            && let Some(first) = self.until.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            let until = self.until.remove(&first).expect("just seen");
            self.unknown = self.unknown.max(until);
        }
        self.until.insert(leader, now + LEASE);
    }

    /// What others than `leader` may count on.
    pub fn left(&self, leader: Peer, now: Instant) -> Vec<Granted> {
        let named = self.until.iter().filter(|(peer, _)| **peer != leader);
        let all = named.map(|(peer, until)| (Some(*peer), *until)).chain([(None, self.unknown)]);
        all.filter(|(_, until)| *until > now).map(|(to, until)| Granted { to, left: until - now }).collect()
    }
}

/// Leases of earlier terms, as a new leader hears of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Former {
    /// By whom, until when; at most as many as members name.
    until: BTreeMap<Option<Peer>, Instant>,
    gave_up: BTreeSet<Peer>,
}

impl Former {
    /// A member that follows the new leader said what it had granted to others.
    pub fn report(&mut self, granted: &[Granted], now: Instant) {
        for Granted { to, left } in granted {
            let until = self.until.entry(*to).or_insert(now);
            *until = (*until).max(now + *left);
        }
    }

    /// It was asked after all members had reported, and counts on no lease of an earlier term.
    pub fn gave_up(&mut self, peer: Peer) {
        self.gave_up.insert(peer);
    }

    /// Who may still count on a lease, by name.
    pub fn to_ask(&self, now: Instant) -> impl Iterator<Item = Peer> + '_ {
        let waiting = self.until.iter().filter(move |(_, until)| **until > now);
        waiting.filter_map(|(to, _)| *to).filter(|peer| !self.gave_up.contains(peer))
    }

    /// Until then somebody may count on a lease; `None`: nobody was granted one, or whoever was gave it up.
    pub fn over(&self) -> Option<Instant> {
        let waiting = self.until.iter().filter(|(to, _)| to.is_none_or(|peer| !self.gave_up.contains(&peer)));
        waiting.map(|(_, until)| *until).max()
    }
}

/// What a leader was granted by the members, its own among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    until: BTreeMap<Peer, Instant>,
}

impl Lease {
    /// A member answered what it was asked at `asked`.
    pub fn renewed(&mut self, from: Peer, asked: Instant) {
        let until = self.until.entry(from).or_insert(asked);
        *until = (*until).max(asked + TRUSTED);
    }

    /// Whether all of `members`, the leader's own included, keep to this leader.
    pub fn holds(&self, members: impl IntoIterator<Item = Peer>, now: Instant) -> bool {
        members.into_iter().all(|member| self.until.get(&member).is_some_and(|until| now < *until))
    }
}

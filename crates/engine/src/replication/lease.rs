//! Leases: until when a leader may answer by itself what is the newest.
//!
//! A member that hears from the leader it follows grants it a lease. Before another leader serves, it asks every member
//! how long the last lease that it granted to somebody else still runs, and waits for the longest. The two share a
//! member (or everything is lost anyway), so the old leader's lease is over by then. That member may be the old leader
//! itself: so a leader asks its own member, too.
//!
//! # Clocks
//! Nobody compares moments of two machines. A member counts from when it grants; a leader from when it asked, which
//! was earlier; a successor from when it hears the answer, which is later. All that clocks have to do is to run
//! at about the same speed: a leader counts a tenth less.
//!
//! # Not here
//! Who asks whom, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use rt::Instant;

use super::Peer;

/// How long a member keeps to the leader that it heard from. Less than a dead server takes to be found out, so that
/// failing over does not wait for it.
pub const LEASE: Duration = Duration::from_secs(1);
/// What of it a leader counts on.
const TRUSTED: Duration = Duration::from_millis(900);

/// What a member granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grants {
    /// Nobody is known of before the first: an earlier life of the process may have granted one to anybody.
    to: Option<Peer>,
    until: Instant,
    /// What others than `to` may still have.
    others: Instant,
}

impl Grants {
    /// Of a process that starts `now`.
    pub fn begin(now: Instant) -> Grants {
        Grants { to: None, until: now, others: now + LEASE }
    }

    /// The leader that this member follows asked for it.
    pub fn grant(&mut self, leader: Peer, now: Instant) {
        if self.to != Some(leader) {
            (self.to, self.others) = (Some(leader), self.others.max(self.until));
        }
        self.until = self.until.max(now + LEASE);
    }

    /// How long somebody other than `leader` may count on a lease of this member.
    pub fn left(&self, leader: Peer, now: Instant) -> Duration {
        let until = if self.to == Some(leader) { self.others } else { self.others.max(self.until) };
        until - now
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

//! Reads: the newest at the leader, while members keep to it; what is closed at any member that has everything.
//!
//! The leader answers from what is committed. A change that is under way may be committed after the answer was given:
//! then it happened after. Only a read at a moment that was named waits for changes that have an epoch up to there.

use std::rc::Rc;
use std::time::Duration;

use rt::Instant;
use types::{Epoch, Error};
use wire::data::Place;

use super::lead::undone;
use super::{Door, Group, Target, stale};
use crate::replication::{LEASE, Peer};

/// A lease that is older is asked for anew while there are reads, so that none of them has to wait for it.
const FRESH: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);

impl Target {
    /// Whether a read at `at` may be made here, now: make it before anything else is done.
    ///
    /// # Errors
    /// `Stale`: go to the leader, by the newest map. `Again`.
    pub(in crate::target) async fn admit_read(
        self: &Rc<Self>,
        place: &Place,
        at: Epoch,
        deadline: Instant,
    ) -> Result<(), Error> {
        match self.door(place, deadline).await? {
            Door::Single => Ok(()),
            Door::Lead(group) => loop {
                self.serving(&group, deadline).await?;
                self.leased(&group, deadline).await?;
                if self.is_closed(&group, at) {
                    return Ok(());
                }
                group.moves(deadline, "a change before that moment has yet to be decided").await?;
            },
            Door::Follow { group, is_whole } => {
                let Some(view) = self.groups.view(group.pool) else { return Err(undone()) };
                match is_whole && at != Epoch::MAX && at <= group.closed.get() {
                    true => Ok(()),
                    false => Err(stale(&view, place.map_version)),
                }
            }
        }
    }

    /// No change will come to lie at or before that moment.
    fn is_closed(&self, group: &Group, at: Epoch) -> bool {
        at >= self.hlc.now() || group.lead.borrow().as_ref().is_some_and(|lead| lead.is_closed(at))
    }

    /// Waits until all members have granted the lease.
    ///
    /// # Errors
    /// `Again`: another leads, or a member does not answer.
    pub(super) async fn leased(self: &Rc<Self>, group: &Rc<Group>, deadline: Instant) -> Result<(), Error> {
        loop {
            let now = rt::now();
            let (term, lacking, holds) = {
                let mut slot = group.lead.borrow_mut();
                let lead = slot.as_mut().ok_or_else(undone)?;
                let me = lead.view.me;
                // Its own member is asked like any other.
                if group.member.borrow().term() == lead.term() {
                    group.grants.borrow_mut().grant(me, now);
                    lead.lease.renewed(me, now);
                }
                let members: Vec<Peer> = lead.machine.members().collect();
                let holds = lead.lease.holds(members.iter().copied(), now);
                let is_old = |peer: &Peer| *peer != me && !lead.lease.holds([*peer], now + FRESH);
                (lead.term(), members.into_iter().filter(is_old).collect::<Vec<_>>(), holds)
            };
            lacking.into_iter().for_each(|peer| self.beat(group, peer, term));
            if holds {
                return Ok(());
            }
            group.moves(deadline, "a member does not confirm that this target leads").await?;
        }
    }
}

//! Reads: the newest at the leader, while members keep to it; what is closed at any member that has everything.
//!
//! The leader answers from what is committed, when no change of what is read is under way that began before. Such a
//! change has an epoch already: committed after the answer, it would lie behind others that the answer shows, and a part
//! of it might be under them for good (K4). Nor may the answer show what began after what is still under way: so a read that
//! meets such changes sees what was there when it came. A read at a moment that was named waits for all changes up to there, and for the
//! moment itself: who leads next remembers no reads, but its clock is not that far behind.

use std::rc::Rc;
use std::time::Duration;

use rt::Instant;
use types::{Code, Epoch, Error, Key};
use wire::data::Place;

use super::lead::{Reach, undone};
use super::{Door, Group, Target, stale};
use crate::replication::Peer;

/// The least wait for a clock.
const TICK: Duration = Duration::from_micros(1);

impl Target {
    /// Waits until a read at `at` may be made here, and says of which moment: make it before anything else is done.
    ///
    /// # Errors
    /// `Stale`: go to the leader, by the newest map. `Again`.
    pub(in crate::target) async fn admit_read(
        self: &Rc<Self>,
        place: &Place,
        dkey: Option<&Key>,
        at: Epoch,
        deadline: Instant,
    ) -> Result<Epoch, Error> {
        match self.door(place, deadline).await? {
            Door::Single => {
                self.reached(at, deadline).await?;
                self.still_single(place)?;
                Ok(at)
            }
            Door::Lead(group) => {
                self.reached(at, deadline).await?;
                let (now, reach) = (self.hlc.now(), Reach::of_object(place.oid, dkey.cloned()));
                loop {
                    self.serving(&group, deadline).await?;
                    self.leased(&group, deadline).await?;
                    // Meanwhile a new round may have begun, which knows nothing yet, and has nothing under way.
                    let moment = match &*group.lead.borrow() {
                        Some(lead) if !lead.serves() || !lead.is_leased() => continue,
                        Some(lead) if at != Epoch::MAX => lead.is_closed(at).then_some(at),
                        Some(lead) if lead.is_calm(Epoch::MAX, &reach) => Some(at),
                        Some(lead) => lead.is_calm(now, &reach).then_some(now),
                        None => return Err(undone()),
                    };
                    if let Some(moment) = moment {
                        return Ok(moment);
                    }
                    group.moves(deadline, "a change before that moment has yet to be decided").await?;
                }
            }
            Door::Follow { group, is_whole } => {
                let Some(view) = self.groups.view(group.pool) else { return Err(undone()) };
                match is_whole && at != Epoch::MAX && at <= group.closed.get() {
                    true => Ok(at),
                    false => Err(stale(&view, place.map_version)),
                }
            }
        }
    }

    /// Waits until a moment that was named is there.
    ///
    /// # Errors
    /// `Again`: it is far ahead.
    pub(super) async fn reached(&self, at: Epoch, deadline: Instant) -> Result<(), Error> {
        while at != Epoch::MAX && self.hlc.now() < at {
            let ahead = Duration::from_micros(at.micros().saturating_sub(self.hlc.now().micros())).max(TICK);
            if rt::now() + ahead > deadline {
                let text = format!("the moment {at} is {} ms ahead of this server's clock", ahead.as_millis());
                return Err(Error::new(Code::Again, text).remedy("read at a moment that was told, or the newest"));
            }
            rt::sleep(ahead).await;
        }
        Ok(())
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
                let asked_for = lead.lease.asked_for();
                if group.member.borrow().term() == lead.term() {
                    group.grants.borrow_mut().grant(me, now, asked_for);
                    lead.lease.renewed(me, now);
                }
                let members: Vec<Peer> = lead.machine.members().collect();
                let holds = lead.lease.holds(members.iter().copied(), now);
                // Asked for anew while there are reads, so that none of them has to wait for it.
                let fresh = lead.lease.trusted() / 2;
                let is_old = |peer: &Peer| *peer != me && !lead.lease.holds([*peer], now + fresh);
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

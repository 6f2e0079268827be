//! A change that a client asks the leader for: judged and kept here, then by all other members, then done.

use std::rc::Rc;

use bytes::Bytes;
use placement::GroupNumber;
use rt::Instant;
use tokio::sync::oneshot;
use types::{Code, ContainerId, Epoch, Error};
use vos::{Origin, Party, TxId};
use wire::data::Committed;

use super::lead::{Answer, Kind, Reach, Work, undone};
use super::{Group, Lend, MAP_PATIENCE, Target, is_pressure};
use crate::replication::{Change, Peer, Phase, PrepareError};
use crate::target::ledger::{self, Judge};

/// Longest body that is passed on: what goes with it has room in a frame.
const BODY_BYTES_MAX: usize = wire::frame::BODY_BYTES_MAX - (64 << 10);

/// An update or a punch as it came, and as the store takes it.
pub(in crate::target) struct Wanted<'a> {
    pub(in crate::target) container: ContainerId,
    pub(in crate::target) origin: Origin,
    pub(in crate::target) deadline: Instant,
    pub(in crate::target) what: Kind,
    pub(in crate::target) body: Bytes,
    /// For the other members.
    pub(in crate::target) bulk: Option<Bytes>,
    pub(in crate::target) with_op: &'a Lend<'a>,
}

/// How far one try came.
enum Tried {
    /// It is kept here, and on its way to the others.
    Kept {
        change: Change,
        me: Peer,
        epoch: Epoch,
        lsn: media::Lsn,
        answer: oneshot::Receiver<Answer>,
    },
    /// Its request took effect before.
    Before(Epoch),
    /// Something else has to be decided first, or there is too much under way.
    Later,
    /// The clock of the leader before was ahead.
    Again,
    Refused(vos::Error),
}

impl Target {
    /// Makes a change in a group that this target leads.
    ///
    /// # Errors
    /// What the store refuses; `Again`: it is not known what became of it, or nothing was done.
    pub(in crate::target) async fn replicate(
        self: &Rc<Self>,
        group: &Rc<Group>,
        mut wanted: Wanted<'_>,
    ) -> Result<Committed, Error> {
        if wanted.body.len() > BODY_BYTES_MAX {
            let text = format!("a request of {} bytes is too long to be passed on", wanted.body.len());
            return Err(Error::new(Code::Overflow, text).remedy("write it in pieces, or larger values at once"));
        }
        self.may_be_written(group, wanted.deadline).await?;
        let mut looked = false;
        loop {
            self.serving(group, wanted.deadline).await?;
            // From here on without a wait.
            match self.try_change(group, &mut wanted)? {
                Tried::Kept { change, me, epoch, lsn, answer } => {
                    self.upkeep.written();
                    self.durable(lsn).await?;
                    self.prepared(group, me, change);
                    // Without a deadline: run again, it would be a second change.
                    return match answer.await {
                        Ok(Ok(())) => Ok(Committed { epoch }),
                        Ok(Err(Some(why))) => Err(why),
                        Ok(Err(None)) | Err(_) => Err(undone()),
                    };
                }
                Tried::Before(epoch) => {
                    let last = self.store.borrow().last_lsn();
                    self.durable(last).await?;
                    return Ok(Committed { epoch });
                }
                Tried::Later => group.moves(wanted.deadline, "changes before this one have yet to be decided").await?,
                Tried::Again if rt::now() < wanted.deadline => rt::yield_now().await,
                Tried::Again => return Err(undone()),
                Tried::Refused(error) if is_pressure(&error) || is_full(&error) => {
                    self.mend(error, wanted.container, wanted.deadline, &mut looked).await?;
                }
                Tried::Refused(error) => {
                    // As good as a read: it counts as long as nobody else may lead.
                    self.leased(group, wanted.deadline).await?;
                    return Err(self.refusal(wanted.container, error));
                }
            }
        }
    }

    /// Waits until the pool's state has the width of a group in use: what it does not have, no group holds data of, as
    /// far as healing is concerned.
    ///
    /// # Errors
    /// `Again`: it has it not yet.
    async fn may_be_written(&self, group: &Group, deadline: Instant) -> Result<(), Error> {
        let width = GroupNumber::from_u32(group.number).map_or(0, |group| group.width() as u32);
        let is_in_use = || self.groups.view(group.pool).is_some_and(|view| view.widths.contains(&width));
        let until = deadline.min(rt::now() + MAP_PATIENCE);
        while !is_in_use() {
            let mapped = self.groups.mapped.notified();
            self.widths.want(group.pool, width);
            if Box::pin(rt::timeout(until - rt::now(), mapped)).await.is_err() && !is_in_use() {
                let text = format!("the pool's service has yet to note that the pool has objects of {width} copies");
                return Err(Error::new(Code::Again, text).remedy("try again in a moment; see `dmg pool query`"));
            }
        }
        Ok(())
    }

    /// Judges a change and keeps it here, at an epoch of its own.
    fn try_change(self: &Rc<Self>, group: &Rc<Group>, wanted: &mut Wanted<'_>) -> Result<Tried, Error> {
        // A leader that was a member when it was done.
        if let Some(epoch) = self.recalled(wanted.origin)? {
            return Ok(Tried::Before(epoch));
        }
        let request = group.requests.get() + 1;
        group.requests.set(request);
        let taken = {
            let mut slot = group.lead.borrow_mut();
            let Some(lead) = slot.as_mut().filter(|lead| lead.serves()) else { return Ok(Tried::Later) };
            lead.machine.take(request).map(|change| (change, lead.machine.members().collect::<Vec<_>>(), lead.view.me))
        };
        let Some((change, members, me)) = taken else { return Ok(Tried::Later) };
        let epoch = self.hlc.now();
        let origin = wanted.origin;
        let party = Party::certain(TxId { session: origin.session, seq: origin.seq }, epoch);
        let mut kept = None;
        (wanted.with_op)(&mut |op| {
            let ops = [*op];
            let judge = Judge::Leader(party);
            let work = ledger::Work { judge, container: wanted.container, epoch, origin, ops: &ops };
            kept = Some(group.step(self, |member, ledger| member.prepare_own(change, &members, &work, ledger)));
        });
        match kept {
            Some(Ok(((), lsn))) => {
                let (what, body) = (wanted.what, wanted.body.clone());
                let reach = Reach::of(what, &body);
                let work = Work { what, reach, body, bulk: wanted.bulk.take(), epoch, origin };
                let begun = group.with_lead(change.term, |lead| {
                    lead.keep(change, work);
                    (lead.await_answer(request), lead.machine.spread(change, me))
                });
                let Some((answer, actions)) = begun else { return Ok(Tried::Later) };
                self.act(group, actions);
                Ok(Tried::Kept { change, me, epoch, lsn, answer })
            }
            Some(Err(why)) => {
                let actions = group.with_lead(change.term, |lead| lead.machine.withdraw(change));
                self.act(group, actions.unwrap_or_default());
                Ok(match why {
                    PrepareError::Term(_) => {
                        group.abdicate();
                        Tried::Later
                    }
                    PrepareError::Aborted => Tried::Later,
                    PrepareError::Refused(vos::Error::Restart { .. }) => Tried::Again,
                    PrepareError::Failed(vos::Error::InProgress { .. } | vos::Error::IntentsFull) => Tried::Later,
                    PrepareError::Refused(error) | PrepareError::Failed(error) => Tried::Refused(error),
                })
            }
            None => unreachable!("the operation is lent once"),
        }
    }

    /// Waits until this target serves the group.
    ///
    /// # Errors
    /// `Again`: another leads, or it takes too long. `DataLoss`: members contradict one another.
    pub(super) async fn serving(&self, group: &Group, deadline: Instant) -> Result<(), Error> {
        loop {
            match &*group.lead.borrow() {
                None => return Err(undone()),
                Some(lead) if lead.serves() => return Ok(()),
                Some(lead) if *lead.machine.phase() == Phase::Stuck => {
                    let text = format!("members of placement group {:#x} contradict one another", group.number);
                    return Err(Error::new(Code::DataLoss, text).remedy("see the log of its leader's server"));
                }
                Some(_) => {}
            }
            group.moves(deadline, "its leader is learning what the members hold").await?;
        }
    }
}

fn is_full(error: &vos::Error) -> bool {
    matches!(error, vos::Error::NoSpace { .. } | vos::Error::DeviceFull { .. })
}

//! Following: what the leader of a group wants of this target.

use std::rc::Rc;
use std::time::Duration;

use net::{Reply, Request};
use rt::Instant;
use types::{Code, ContainerId, Error, SessionId};
use vos::{Op, Origin};
use wire::group::{GroupPrepare, GroupRequest, GroupResponse, GroupStep, GroupWork};

use super::message::{change_in, decisions_in, peer_in, report_out, term_in, term_out};
use super::{Group, Lend, Target, is_pressure};
use crate::replication::{Change, DecideError, Decisions, Peer, PrepareError, RecoverError, Term};
use crate::target::ledger::{Judge, Work};
use crate::target::parse;
use crate::target::punch::with_punch;
use crate::target::update::with_update;

/// Why a step was not done.
enum Undone {
    Term(Term),
    /// Ask again.
    Failed(vos::Error),
    /// Members do not agree.
    Broken(Change),
    Refused(Error),
}

impl From<DecideError<vos::Error>> for Undone {
    fn from(why: DecideError<vos::Error>) -> Undone {
        match why {
            DecideError::Term(known) => Undone::Term(known),
            DecideError::Failed(error) => Undone::Failed(error),
            DecideError::NeverPrepared(change) | DecideError::Undecided(change) => Undone::Broken(change),
        }
    }
}

impl Target {
    /// Does a leader's step.
    ///
    /// # Errors
    /// `Stale`, `Again`, `Busy`: ask again. `DataLoss`: members do not agree.
    pub(in crate::target) async fn follow(self: &Rc<Self>, mut request: Request) -> Result<Reply, Error> {
        let message: GroupRequest = parse(&request.body)?;
        let GroupRequest { pool, group: number, map_version, .. } = message;
        let (from, deadline) = (peer_in(&message.from), request.deadline);
        let Some(view) = self.view_of(pool, map_version, deadline).await? else {
            let text = format!("target {} does not know pool {pool} yet", self.index);
            return Err(Error::new(Code::Again, text));
        };
        let reign = view.reign(number)?;
        if !reign.has(view.me) {
            return Err(super::stale(&view, map_version));
        }
        let group = self.group(pool, number)?;
        let answer = match &message.step {
            GroupStep::Wake => {
                if reign.leader == Some(view.me) {
                    self.lead(&group, &view, &reign);
                }
                Ok(GroupResponse::Done)
            }
            GroupStep::Recover { since } => self.recover(&group, &message, from, *since).await,
            GroupStep::Tell => self.hear(&group, &message, from, deadline).await,
            GroupStep::Prepare { change } => {
                let bulk = request.bulk.take().unwrap_or_default();
                self.prepare(&group, &message, from, change, bulk, deadline).await
            }
        };
        match answer {
            Ok(answer) => Ok(Reply::message(&answer)),
            Err(Undone::Term(known)) => Ok(Reply::message(&GroupResponse::Term { known: term_out(known) })),
            Err(Undone::Refused(error)) => {
                // That it refused must not be forgotten.
                let last = self.store.borrow().last_lsn();
                self.durable(last).await?;
                Ok(Reply::message(&GroupResponse::Refused { error }))
            }
            Err(Undone::Failed(error)) if is_pressure(&error) => {
                Err(Error::new(Code::Busy, format!("target {}: {error}", self.index)))
            }
            Err(Undone::Failed(error)) => Err(self.refusal(ContainerId::from_bytes([0; 16]), error)),
            Err(Undone::Broken(change)) => {
                tracing::error!(target_index = %self.index, group = number, %change, leader = %from, "a leader decides what cannot be");
                Err(Error::new(Code::DataLoss, format!("change {change} cannot have been decided so")))
            }
        }
    }

    /// A leader begins.
    async fn recover(
        &self,
        group: &Group,
        message: &GroupRequest,
        from: Peer,
        since: u32,
    ) -> Result<GroupResponse, Undone> {
        let term = term_in(message.term);
        let own = group.lead.borrow().as_ref().map(|lead| lead.term());
        if own.is_some_and(|own| own < term) {
            // Before this target's member follows: its leader must not count on it any more.
            group.abdicate();
        }
        let recovered = group.step(self, |member, ledger| member.recover(term, since, ledger));
        let (report, lsn) = recovered.map_err(|why| match why {
            RecoverError::Term(known) => Undone::Term(known),
            RecoverError::Failed(error) => Undone::Failed(error),
        })?;
        let left = {
            let mut grants = group.grants.borrow_mut();
            let left = grants.left(from, rt::now());
            grants.grant(from, rt::now());
            left
        };
        self.on_device(lsn).await?;
        group.moved.notify_waiters();
        Ok(GroupResponse::Report { report: report_out(report, left) })
    }

    /// Hears what was decided.
    async fn hear(
        &self,
        group: &Group,
        message: &GroupRequest,
        from: Peer,
        deadline: Instant,
    ) -> Result<GroupResponse, Undone> {
        let lsn = loop {
            match self.decide(group, message, from) {
                Err(Undone::Failed(error)) if is_pressure(&error) => self.pressed(error, deadline).await?,
                done => break done?,
            }
        };
        self.on_device(lsn).await?;
        Ok(GroupResponse::Done)
    }

    /// Does what was decided, and grants the lease to whoever decided it.
    fn decide(&self, group: &Group, message: &GroupRequest, from: Peer) -> Result<media::Lsn, Undone> {
        let term = term_in(message.term);
        let decisions = Decisions { decided: decisions_in(&message.decided), settled: change_in(message.settled) };
        let ((), lsn) = group.step(self, |member, ledger| member.decide(term, &decisions, ledger))?;
        group.grants.borrow_mut().grant(from, rt::now());
        group.closed.set(group.closed.get().max(message.closed));
        group.moved.notify_waiters();
        Ok(lsn)
    }

    /// Keeps a change.
    async fn prepare(
        &self,
        group: &Group,
        message: &GroupRequest,
        from: Peer,
        change: &GroupPrepare,
        bulk: rt::disk::IoBuf,
        deadline: Instant,
    ) -> Result<GroupResponse, Undone> {
        let term = term_in(message.term);
        let known = group.member.borrow().term();
        if known != term {
            // Before anything is written for it.
            return Err(Undone::Term(known));
        }
        let lsn = match &change.work {
            GroupWork::Update { body } => {
                let update = parse(&body.0).map_err(Undone::Refused)?;
                let placed = self.place(&update, bulk, deadline).await.map_err(refused)?;
                let with_op = |keep: &mut dyn FnMut(&Op<'_>)| {
                    with_update(&update, &placed, |update| keep(&Op::Update(*update)));
                };
                let container = update.place.container;
                self.keep_change(group, message, from, change, container, &with_op, deadline).await?
            }
            GroupWork::Punch { body } => {
                let punch: wire::data::PunchRequest = parse(&body.0).map_err(Undone::Refused)?;
                let with_op = |keep: &mut dyn FnMut(&Op<'_>)| with_punch(&punch, |punch| keep(&Op::Punch(*punch)));
                let container = punch.place.container;
                self.keep_change(group, message, from, change, container, &with_op, deadline).await?
            }
        };
        self.upkeep.written();
        self.on_device(lsn).await?;
        Ok(GroupResponse::Done)
    }

    /// First what was decided before, then the change, in one call.
    #[allow(clippy::too_many_arguments)]
    async fn keep_change(
        &self,
        group: &Group,
        message: &GroupRequest,
        from: Peer,
        change: &GroupPrepare,
        container: ContainerId,
        with_op: &Lend<'_>,
        deadline: Instant,
    ) -> Result<media::Lsn, Undone> {
        let name = Change { term: term_in(message.term), number: change.number };
        let members: Vec<Peer> = change.members.iter().map(peer_in).collect();
        let origin = Origin { session: SessionId(change.session), seq: change.sequence };
        loop {
            let decided = self.decide(group, message, from);
            let kept = decided.and_then(|lsn| {
                let mut kept = None;
                with_op(&mut |op| {
                    let ops = [*op];
                    let work = Work { judge: Judge::Member, container, epoch: change.epoch, origin, ops: &ops };
                    kept = Some(group.step(self, |member, ledger| member.prepare(name, &members, &work, ledger)));
                });
                match kept {
                    Some(Ok(((), own))) => Ok(Ok(lsn.max(own))),
                    Some(Err(PrepareError::Term(known))) => Err(Undone::Term(known)),
                    Some(Err(PrepareError::Aborted)) => Err(Undone::Refused(super::lead::undone())),
                    Some(Err(PrepareError::Refused(error))) => Ok(Err(error)),
                    Some(Err(PrepareError::Failed(error))) => Err(Undone::Failed(error)),
                    None => Err(Undone::Refused(Error::new(Code::Protocol, "the change does not decode"))),
                }
            });
            match kept {
                Ok(Ok(lsn)) => return Ok(lsn),
                Ok(Err(error)) => return Err(Undone::Refused(self.refusal(container, error))),
                Err(Undone::Failed(error)) if is_pressure(&error) => self.pressed(error, deadline).await?,
                Err(why) => return Err(why),
            }
        }
    }

    /// Waits until the store takes changes again.
    async fn pressed(&self, error: vos::Error, deadline: Instant) -> Result<(), Undone> {
        self.relieved(deadline.min(rt::now() + Duration::from_secs(1))).await.map_err(|_| Undone::Failed(error))
    }

    async fn on_device(&self, lsn: media::Lsn) -> Result<(), Undone> {
        // Its device failed, which its own users hear of, too.
        self.durable(lsn).await.map_err(|_| Undone::Failed(vos::Error::Stopped))
    }
}

/// What a member says when it has no place for the data of a change.
fn refused(error: Error) -> Undone {
    match error.is_transient() {
        true => Undone::Failed(vos::Error::IntentsFull),
        false => Undone::Refused(error),
    }
}

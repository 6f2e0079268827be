//! Following: what the leader of a group wants of this target.

use std::rc::Rc;
use std::time::Duration;

use net::{Reply, Request};
use rt::Instant;
use types::{Code, ContainerId, Error, PoolId, SessionId};
use vos::{Op, Origin};
use wire::group::{GroupPrepare, GroupRequest, GroupResponse, GroupStep, GroupWork};

use super::lead::Lead;
use super::message::{change_in, decisions_in, peer_in, report_out, term_in, term_out};
use super::{Group, Lend, Target, is_pressure};
use crate::replication::{Change, DecideError, Decisions, Peer, PrepareError, RecoverError, Term};
use crate::target::ledger::{Judge, Work};
use crate::target::parse;
use crate::target::punch::with_punch;
use crate::target::update::with_update;

/// What a leader asked for.
struct Asked<'a> {
    group: &'a Group,
    message: &'a GroupRequest,
    from: Peer,
    deadline: Instant,
}

impl Asked<'_> {
    fn term(&self) -> Term {
        term_in(self.message.term)
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.message.lease_ms.into())
    }

    fn name(&self, change: &GroupPrepare) -> Change {
        Change { term: self.term(), number: change.number }
    }
}

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
        if message.step == GroupStep::GiveUp {
            let served = self.give_up(pool, number, term_in(message.term));
            return Ok(Reply::message(&GroupResponse::GaveUp { served: term_out(served) }));
        }
        let (from, deadline) = (peer_in(&message.from), request.deadline);
        let view = self.view_of(pool, map_version, deadline).await?;
        let reign = view.reign(number)?;
        if !reign.has(view.me) {
            return Err(super::stale(&view, map_version));
        }
        let group = self.group(pool, number)?;
        let asked = Asked { group: &group, message: &message, from, deadline };
        let answer = match &message.step {
            GroupStep::Wake => {
                if reign.leader == Some(view.me) {
                    self.lead(&group, &view, &reign);
                }
                Ok(GroupResponse::Done)
            }
            GroupStep::Recover { since } => self.recover(&asked, *since).await,
            GroupStep::Tell => self.hear(&asked).await,
            // Done above: it needs no map.
            GroupStep::GiveUp => Ok(GroupResponse::GaveUp { served: term_out(group.served.get()) }),
            GroupStep::Prepare { change } => {
                let bulk = request.bulk.take().unwrap_or_default();
                self.prepare(&asked, change, bulk).await
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

    /// All members follow the leader of `term`: no lease of an earlier one is counted on any more. That needs neither the map
    /// by which this is so nor a memory: no member grants anything in an earlier term.
    /// Returns the newest term of which is known that its leader served.
    fn give_up(&self, pool: PoolId, number: u32, term: Term) -> Term {
        let known = self.groups.groups.borrow().get(&(pool, number)).cloned();
        let Some(group) = known else { return Term::default() };
        let own = group.lead.borrow().as_ref().map(Lead::term);
        if own.is_some_and(|own| own < term) {
            group.interval.set(group.interval.get().max(term.interval));
            group.abdicate();
        }
        group.served.get()
    }

    /// By the map as it is here at this moment, no later reign than the leader's has begun. A member may not have met the later
    /// leader yet, nor even have the group: what it took from the earlier one after it told others, by the later map, what it
    /// holds, they would lack.
    fn check_reign(&self, asked: &Asked<'_>) -> Result<(), Undone> {
        let Asked { group, .. } = *asked;
        let reign = self.groups.view(group.pool).and_then(|view| view.reign(group.number).ok());
        match reign.filter(|reign| reign.since > asked.term().interval) {
            Some(later) => Err(Undone::Term(Term { interval: later.since, round: 0 })),
            None => Ok(()),
        }
    }

    /// A leader begins.
    async fn recover(&self, asked: &Asked<'_>, since: u32) -> Result<GroupResponse, Undone> {
        let (group, from, term) = (asked.group, asked.from, asked.term());
        self.check_reign(asked)?;
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
            grants.grant(from, rt::now(), asked.lease());
            left
        };
        self.on_device(lsn).await?;
        group.moved.notify_waiters();
        Ok(GroupResponse::Report { report: report_out(report, left) })
    }

    /// Hears what was decided.
    async fn hear(&self, asked: &Asked<'_>) -> Result<GroupResponse, Undone> {
        let lsn = loop {
            match self.decide(asked) {
                Err(Undone::Failed(error)) if is_pressure(&error) => self.pressed(error, asked.deadline).await?,
                done => break done?,
            }
        };
        self.on_device(lsn).await?;
        Ok(GroupResponse::Done)
    }

    /// Does what was decided, and grants the lease to whoever decided it.
    fn decide(&self, asked: &Asked<'_>) -> Result<media::Lsn, Undone> {
        let Asked { group, message, from, .. } = *asked;
        let term = asked.term();
        self.check_reign(asked)?;
        let decisions = Decisions { decided: decisions_in(&message.decided), settled: change_in(message.settled) };
        let ((), lsn) = group.step(self, |member, ledger| member.decide(term, &decisions, ledger))?;
        group.grants.borrow_mut().grant(from, rt::now(), asked.lease());
        group.closed.set(group.closed.get().max(message.closed));
        group.moved.notify_waiters();
        Ok(lsn)
    }

    /// Keeps a change.
    async fn prepare(
        &self,
        asked: &Asked<'_>,
        change: &GroupPrepare,
        bulk: rt::disk::IoBuf,
    ) -> Result<GroupResponse, Undone> {
        let term = asked.term();
        let known = asked.group.member.borrow().term();
        if known != term {
            // Before anything is written for it.
            return Err(Undone::Term(known));
        }
        let kept = match &change.work {
            GroupWork::Update { body } => self.keep_update(asked, change, &body.0, bulk).await,
            GroupWork::Punch { body } => self.keep_punch(asked, change, &body.0).await,
        };
        let lsn = match kept {
            // Refused before anything was done: not even what was decided before.
            Err(Undone::Refused(error)) => Box::pin(self.refuse(asked, change, error)).await?,
            kept => kept?,
        };
        self.upkeep.written();
        self.on_device(lsn).await?;
        Ok(GroupResponse::Done)
    }

    async fn keep_update(
        &self,
        asked: &Asked<'_>,
        change: &GroupPrepare,
        body: &[u8],
        bulk: rt::disk::IoBuf,
    ) -> Result<media::Lsn, Undone> {
        let update: wire::data::UpdateRequest = parse(body).map_err(Undone::Refused)?;
        let placed = self.place(&update, bulk, asked.deadline).await.map_err(refused)?;
        let with_op = |keep: &mut dyn FnMut(&Op<'_>)| {
            with_update(&update, &placed, |update| keep(&Op::Update(*update)));
        };
        self.keep_change(asked, change, update.place.container, &with_op).await
    }

    async fn keep_punch(&self, asked: &Asked<'_>, change: &GroupPrepare, body: &[u8]) -> Result<media::Lsn, Undone> {
        let punch: wire::data::PunchRequest = parse(body).map_err(Undone::Refused)?;
        let with_op = |keep: &mut dyn FnMut(&Op<'_>)| with_punch(&punch, |punch| keep(&Op::Punch(*punch)));
        self.keep_change(asked, change, punch.place.container, &with_op).await
    }

    /// First what was decided before; then the change is refused for good, unless it came before and is kept.
    async fn refuse(&self, asked: &Asked<'_>, change: &GroupPrepare, error: Error) -> Result<media::Lsn, Undone> {
        let (group, name) = (asked.group, asked.name(change));
        loop {
            let refused = self.decide(asked).and_then(|lsn| {
                match group.step(self, |member, ledger| member.refuse(name, ledger)) {
                    Ok(((), own)) => Ok(lsn.max(own)),
                    Err(PrepareError::Term(known)) => Err(Undone::Term(known)),
                    Err(PrepareError::Failed(error)) => Err(Undone::Failed(error)),
                    Err(PrepareError::Aborted | PrepareError::Refused(_)) => Err(Undone::Refused(error.clone())),
                }
            });
            match refused {
                Err(Undone::Failed(error)) if is_pressure(&error) => self.pressed(error, asked.deadline).await?,
                refused => return refused,
            }
        }
    }

    /// First what was decided before, then the change, in one call.
    async fn keep_change(
        &self,
        asked: &Asked<'_>,
        change: &GroupPrepare,
        container: ContainerId,
        with_op: &Lend<'_>,
    ) -> Result<media::Lsn, Undone> {
        let (group, name) = (asked.group, asked.name(change));
        let members: Vec<Peer> = change.members.iter().map(peer_in).collect();
        let origin = Origin { session: SessionId(change.session), seq: change.sequence };
        loop {
            let decided = self.decide(asked);
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
                Err(Undone::Failed(error)) if is_pressure(&error) => self.pressed(error, asked.deadline).await?,
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

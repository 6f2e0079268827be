//! Leading a group: what the leader's machine wants done is done, by tasks that ask until they are answered or another
//! leads.
//!
//! Decisions ride with whatever goes to a member; alone they go at the next of the target's turns, which are
//! [`TELL_EVERY`] apart: those of all its groups together, so that nobody is woken for each. The mark costs members a
//! record of their own each time, so it goes every [`MARK_AFTER`].

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use rt::Instant;
use tokio::sync::{Notify, oneshot};
use types::{Code, Epoch, Error, Key, ObjectId};
use wire::data::Place;
use wire::group::{GroupPrepare, GroupRequest, GroupResponse, GroupStep, GroupWork};
use wire::{Reader, Wire};

use super::message::{change_out, decisions_out, peer_out, report_in, term_in, term_out};
use super::view::{Reign, View};
use super::{Group, RETRY_MAX, RETRY_MIN, Target, WAKE_EVERY, is_pressure, longer};
use crate::replication::{
    Action, Change, DecideError, Decisions, Former, Granted, Leader, Lease, Peer, Phase, RecoverError, Request, Term,
};

/// How often decisions go that found nothing to ride with; and how long what this target's own member has done waits for a flush
/// of the log that somebody else waits for.
const TELL_EVERY: Duration = Duration::from_millis(1);
/// How long a mark does.
const MARK_AFTER: Duration = Duration::from_millis(200);
/// Decisions in one message; more go with the next.
const DECISIONS_MAX: usize = 1024;

/// What became of a request: why it did not happen, or nothing when asking again may help.
pub(super) type Answer = Result<(), Option<Error>>;

/// A group's leader, while this target is it.
pub(super) struct Lead {
    pub(super) machine: Leader<Error>,
    pub(super) lease: Lease,
    pub(super) view: Rc<View>,
    /// Leases that others may count on.
    former: Former,
    waiting: BTreeMap<Request, oneshot::Sender<Answer>>,
    /// What is decided, and will be said when this target's own member has done it.
    answers: Vec<(Request, Answer)>,
    /// What changes are to do, as long as some member has yet to prepare them. In the order of their names, which is that
    /// of their epochs.
    work: BTreeMap<Change, Rc<Work>>,
    /// Who tells a member what it lacks, and how to hurry them.
    tellers: BTreeMap<Peer, Rc<Notify>>,
    /// When a member was told the mark.
    marked: BTreeMap<Peer, Instant>,
    /// Members that are being asked for a lease.
    beats: Vec<Peer>,
    /// The store did not do what was decided when it was to.
    is_behind: bool,
}

/// What a change is to do, as its client sent it.
pub(super) struct Work {
    pub(super) what: Kind,
    pub(super) reach: Reach,
    pub(super) body: Bytes,
    /// One copy for all members.
    pub(super) bulk: Option<Bytes>,
    pub(super) epoch: Epoch,
    pub(super) origin: vos::Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::target) enum Kind {
    Update,
    Punch,
}

/// What a change, or a read, is about: of an object that cannot be told, everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::target) struct Reach {
    oid: Option<ObjectId>,
    /// `None`: all of them.
    dkey: Option<Key>,
}

impl Reach {
    pub(in crate::target) fn of_object(oid: ObjectId, dkey: Option<Key>) -> Reach {
        Reach { oid: Some(oid), dkey }
    }

    /// Of a request, as it came: messages begin with what they are about.
    pub(super) fn of(what: Kind, body: &[u8]) -> Reach {
        let mut from = Reader::new(body);
        let oid = Place::decode(&mut from).ok().map(|place| place.oid);
        let dkey = match what {
            Kind::Update => Key::decode(&mut from).ok(),
            Kind::Punch => None,
        };
        Reach { oid, dkey }
    }

    fn meets(&self, other: &Reach) -> bool {
        let is_same = |a: Option<&Key>, b: Option<&Key>| a.is_none() || b.is_none() || a == b;
        let is_one = self.oid.is_none() || other.oid.is_none() || self.oid == other.oid;
        is_one && is_same(self.dkey.as_ref(), other.dkey.as_ref())
    }
}

/// A message to a member, and what it will know when it has answered.
struct Letter {
    view: Rc<View>,
    message: GroupRequest,
    decided: Vec<Change>,
    settled: Change,
}

/// What a member lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lack {
    Nothing,
    Mark,
    Decisions,
}

impl Lead {
    pub(super) fn term(&self) -> Term {
        self.machine.term()
    }

    /// It may answer, and take changes.
    pub(super) fn serves(&self) -> bool {
        *self.machine.phase() == Phase::Serving && self.former.over().is_none_or(|over| over <= rt::now())
    }

    /// This target's own member has yet to do what was decided.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The newest term of which is known that its leader served: leases of earlier ones are over.
    pub(super) fn served(&self) -> Term {
        if self.serves() { self.term() } else { self.former.served() }
    }

    /// All members have granted the lease, and it holds.
    pub(super) fn is_leased(&self) -> bool {
        self.lease.holds(self.machine.members(), rt::now())
    }

    /// No change that is under way has an epoch up to `at`.
    pub(super) fn is_closed(&self, at: Epoch) -> bool {
        self.answers.is_empty() && self.first_epoch().is_none_or(|first| first > at)
    }

    /// No change of what is read, with an epoch up to `at`, is under way.
    pub(super) fn is_calm(&self, at: Epoch, reach: &Reach) -> bool {
        let mut open = self.work.values().take_while(|work| work.epoch <= at);
        self.answers.is_empty() && !open.any(|work| work.reach.meets(reach))
    }

    /// Of the changes that are under way.
    fn first_epoch(&self) -> Option<Epoch> {
        self.work.first_key_value().map(|(_, work)| work.epoch)
    }

    /// Takes a request up: its name, and where its answer will come.
    pub(super) fn await_answer(&mut self, request: Request) -> oneshot::Receiver<Answer> {
        let (done, answer) = oneshot::channel();
        self.waiting.insert(request, done);
        answer
    }

    /// Remembers what a change is to do until it is decided.
    pub(super) fn keep(&mut self, change: Change, work: Work) {
        self.work.insert(change, Rc::new(work));
    }

    /// What a member is sent: a step, and all that was decided since.
    fn letter(&mut self, group: &Group, now: Epoch, peer: Peer, step: GroupStep) -> Letter {
        let Decisions { mut decided, settled } = self.machine.decisions_for(peer);
        let is_all = decided.len() <= DECISIONS_MAX;
        decided.truncate(DECISIONS_MAX);
        // Under the lease: whoever leads next does so later by more than clocks may differ.
        let others = self.machine.members().filter(|peer| *peer != self.view.me);
        let may_close = is_all && *self.machine.phase() == Phase::Serving && self.lease.holds(others, rt::now());
        let closed = match (may_close, self.first_epoch()) {
            (false, _) => Epoch::ZERO,
            (true, None) => now,
            (true, Some(open)) => Epoch(open.0.saturating_sub(1)),
        };
        let is_due = self.marked.get(&peer).is_none_or(|last| rt::now() >= *last + MARK_AFTER);
        // It lies below all that this member has yet to hear.
        let settled = if is_due { settled } else { Change::default() };
        if is_due {
            self.marked.insert(peer, rt::now());
        }
        let message = GroupRequest {
            pool: group.pool,
            group: group.number,
            map_version: self.view.version(),
            from: peer_out(self.view.me),
            term: term_out(self.term()),
            decided: decisions_out(&decided),
            settled: change_out(settled),
            closed,
            lease_ms: self.lease.asked_for().as_millis() as u32,
            step,
        };
        let decided = decided.into_iter().map(|(change, _)| change).collect();
        Letter { view: self.view.clone(), message, decided, settled }
    }

    fn lack(&self, peer: Peer) -> Lack {
        match self.machine.lacks(peer) {
            false => Lack::Nothing,
            true if self.machine.decisions_for(peer).decided.is_empty() => Lack::Mark,
            true => Lack::Decisions,
        }
    }
}

impl Target {
    /// Leads a group from now on, unless it does already and nothing changed. Its requests go on.
    pub(super) fn lead(self: &Rc<Self>, group: &Rc<Group>, view: &Rc<View>, reign: &Reign) {
        let mut slot = group.lead.borrow_mut();
        if let Some(lead) = &mut *slot {
            // Nothing changed since the map by which it has led so far.
            if reign.since <= lead.view.version() {
                lead.view = view.clone();
                return;
            }
        }
        let own = group.member.borrow().term();
        if own.interval.max(group.interval.get()) > reign.since {
            // Another leads by a map that has yet to come.
            return;
        }
        let before = slot.take();
        before.as_ref().inspect(|lead| group.note_served(lead));
        let known = before.as_ref().map_or(Term::default(), Lead::term).max(own);
        let round = match known.interval == reign.since {
            true => (known.round + 1).max(group.round.get()),
            false => 0,
        };
        let (machine, waiting) = match before {
            Some(Lead { machine, mut waiting, answers, .. }) => {
                // Decided, and not yet done here: they ask again.
                answers.iter().for_each(|(request, _)| drop(waiting.remove(request)));
                (Some(machine), waiting)
            }
            None => (None, BTreeMap::new()),
        };
        let term = Term { interval: reign.since, round };
        tracing::debug!(target_index = %self.index, group = group.number, interval = term.interval, round, "leads");
        let (machine, actions) = Leader::begin(term, reign.seats.clone(), machine);
        *slot = Some(Lead {
            machine,
            lease: Lease::of(self.groups.lease),
            view: view.clone(),
            former: Former::begin(group.served.get()),
            waiting,
            answers: Vec::new(),
            work: BTreeMap::new(),
            tellers: BTreeMap::new(),
            marked: BTreeMap::new(),
            beats: Vec::new(),
            is_behind: false,
        });
        drop(slot);
        self.act(group, actions);
    }

    /// Does what the leader's machine wants done.
    pub(super) fn act(self: &Rc<Self>, group: &Rc<Group>, actions: Vec<Action<Error>>) {
        let Some(term) = group.lead.borrow().as_ref().map(Lead::term) else { return };
        for action in actions {
            match action {
                Action::Ask(peer) => drop(rt::spawn_local(self.clone().ask(group.clone(), peer, term))),
                Action::Prepare(peer, change) => {
                    let work = group.with_lead(term, |lead| lead.work.get(&change).cloned()).flatten();
                    if let Some(work) = work {
                        drop(rt::spawn_local(self.clone().prepare_at(group.clone(), peer, change, work)));
                    }
                }
                // Below, for all who lack something.
                Action::Tell(_) => {}
                Action::Answer(request, answer) => {
                    group.with_lead(term, |lead| lead.answers.push((request, answer)));
                }
                Action::Serve => drop(rt::spawn_local(self.clone().announce(group.clone(), term))),
                Action::Contradiction(change) => {
                    tracing::error!(
                        target_index = %self.index, group = group.number, %change,
                        "members of a placement group contradict one another about a change: the group is not served"
                    );
                }
            }
        }
        self.catch_up(group, term);
    }

    /// This target's own member hears at once; then who waits for an answer, and soon the other members.
    fn catch_up(self: &Rc<Self>, group: &Rc<Group>, term: Term) {
        let is_done = self.decide_own(group, term, Change::default()).is_ok();
        let mut slot = group.lead.borrow_mut();
        let Some(lead) = slot.as_mut().filter(|lead| lead.term() == term) else { return };
        lead.is_behind = !is_done;
        if is_done {
            for (request, answer) in std::mem::take(&mut lead.answers) {
                if let Some(waiting) = lead.waiting.remove(&request) {
                    // Whoever asked may have stopped.
                    let _ = waiting.send(answer);
                }
            }
        }
        let lacking: Vec<Peer> = lead.machine.members().filter(|peer| lead.machine.lacks(*peer)).collect();
        for peer in lacking {
            match lead.tellers.get(&peer) {
                Some(hurry) => hurry.notify_one(),
                None => {
                    let hurry = Rc::new(Notify::new());
                    lead.tellers.insert(peer, hurry.clone());
                    drop(rt::spawn_local(self.clone().tell(group.clone(), peer, term, hurry)));
                }
            }
        }
        drop(slot);
        group.moved.notify_waiters();
    }

    /// The own member's part of what was decided.
    fn decide_own(&self, group: &Group, term: Term, settled: Change) -> Result<media::Lsn, DecideError<vos::Error>> {
        let decided = group.with_lead(term, |lead| lead.machine.decisions_for(lead.view.me).decided);
        let decisions = Decisions { decided: decided.unwrap_or_default(), settled };
        if decisions == Decisions::default() {
            return Ok(media::Lsn(0));
        }
        group.step(self, |member, ledger| member.decide(term, &decisions, ledger)).map(|((), lsn)| lsn)
    }

    /// Tells a member what it lacks, until it lacks nothing.
    async fn tell(self: Rc<Self>, group: Rc<Group>, peer: Peer, term: Term, hurry: Rc<Notify>) {
        let mut pause = RETRY_MIN;
        loop {
            let lack = |lead: &mut Lead| {
                let lack = lead.lack(peer);
                if lack == Lack::Nothing {
                    lead.tellers.remove(&peer);
                }
                (lack, lead.marked.get(&peer).copied(), lead.view.me)
            };
            let Some((lack, marked, me)) = group.with_lead(term, lack) else { return };
            match lack {
                Lack::Nothing => return,
                Lack::Mark => {
                    let due = marked.map_or(MARK_AFTER, |marked| marked + MARK_AFTER - rt::now());
                    if !due.is_zero() && rt::timeout(due, hurry.notified()).await.is_ok() {
                        continue;
                    }
                }
                Lack::Decisions => {
                    rt::sleep_until(self.groups.next_turn(TELL_EVERY)).await;
                    if group.with_lead(term, |lead| lead.lack(peer)) != Some(Lack::Decisions) {
                        continue;
                    }
                }
            }
            let told = match peer == me {
                true => self.tell_own(&group, term).await,
                false => self.send(&group, peer, term, GroupStep::Tell, None).await.is_some(),
            };
            pause = if told { RETRY_MIN } else { longer(pause) };
            if !told {
                rt::sleep(pause).await;
            }
        }
    }

    /// Waits until what its own member did is on the device. False: it could not.
    async fn tell_own(self: &Rc<Self>, group: &Rc<Group>, term: Term) -> bool {
        let known = group.with_lead(term, |lead| {
            let Decisions { decided, settled } = lead.machine.decisions_for(lead.view.me);
            let is_due = lead.marked.get(&lead.view.me).is_none_or(|last| rt::now() >= *last + MARK_AFTER);
            if is_due {
                lead.marked.insert(lead.view.me, rt::now());
            }
            let changes: Vec<Change> = decided.into_iter().map(|(change, _)| change).collect();
            (lead.view.me, changes, if is_due { settled } else { Change::default() })
        });
        let Some((me, changes, settled)) = known else { return false };
        let lsn = match self.decide_own(group, term, settled) {
            Ok(lsn) => lsn,
            Err(DecideError::Failed(error)) if is_pressure(&error) => {
                let _ = self.relieved(rt::now() + RETRY_MAX).await;
                return false;
            }
            Err(error) => {
                tracing::error!(target_index = %self.index, group = group.number, ?error, "a decision is not done");
                return false;
            }
        };
        if self.durable(lsn).await.is_err() {
            return false;
        }
        let actions = group.with_lead(term, |lead| lead.machine.confirmed(me, &changes, settled));
        self.act(group, actions.unwrap_or_default());
        true
    }

    /// Sends a member a step; what it confirms with its answer is noted. `None`: no answer, or one that says that another
    /// term counts.
    async fn send(
        self: &Rc<Self>,
        group: &Rc<Group>,
        peer: Peer,
        term: Term,
        step: GroupStep,
        bulk: Option<Bytes>,
    ) -> Option<GroupResponse> {
        let now = self.hlc.now();
        let letter = group.with_lead(term, |lead| lead.letter(group, now, peer, step))?;
        let asked = rt::now();
        let answer = match self.groups.peers.call(&letter.view, peer, &letter.message, bulk).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(target_index = %self.index, group = group.number, %peer, %error, "a member does not do its part");
                return None;
            }
        };
        if let GroupResponse::Term { known } = answer {
            self.outranked(group, term, term_in(known));
            return None;
        }
        let actions = group.with_lead(term, |lead| {
            lead.lease.renewed(peer, asked);
            match answer {
                GroupResponse::Report { .. } => Vec::new(),
                _ => lead.machine.confirmed(peer, &letter.decided, letter.settled),
            }
        })?;
        self.act(group, actions);
        Some(answer)
    }

    /// A member goes by another term. If that is one of this leader's own reign, this target has lost its memory of it,
    /// or the member has lost its own: a new round begins. Else another leads, by a map that has yet to come.
    fn outranked(self: &Rc<Self>, group: &Rc<Group>, term: Term, known: Term) {
        if group.with_lead(term, |_| ()).is_none() {
            return;
        }
        group.interval.set(group.interval.get().max(known.interval));
        if known.interval == term.interval {
            group.round.set(group.round.get().max(known.round.saturating_add(1)));
        }
        group.abdicate();
        if known.interval <= term.interval
            && let Some(view) = self.groups.view(group.pool)
            && let Ok(reign) = view.reign(group.number)
            && reign.leader == Some(view.me)
        {
            self.lead(group, &view, &reign);
        }
    }

    /// Asks a member what it holds, until it says so.
    async fn ask(self: Rc<Self>, group: Rc<Group>, peer: Peer, term: Term) {
        let mut pause = RETRY_MIN;
        loop {
            let seat = group.with_lead(term, |lead| (lead.view.me, lead.machine.since(peer)));
            let Some((me, Some(since))) = seat else { return };
            let heard = match peer == me {
                true => self.recover_own(&group, term, since).await,
                false => {
                    let answer = self.send(&group, peer, term, GroupStep::Recover { since }, None).await;
                    match answer {
                        Some(GroupResponse::Report { report }) => Some(report_in(&report)),
                        _ => None,
                    }
                }
            };
            if let Some((report, granted)) = heard {
                let actions = group.with_lead(term, |lead| {
                    lead.former.report(&granted, rt::now());
                    lead.machine.report(peer, report)
                });
                return self.act(&group, actions.unwrap_or_default());
            }
            rt::sleep(pause).await;
            pause = longer(pause);
        }
    }

    async fn recover_own(
        self: &Rc<Self>,
        group: &Rc<Group>,
        term: Term,
        since: u32,
    ) -> Option<(crate::replication::Report, Vec<Granted>)> {
        let me = group.with_lead(term, |lead| lead.view.me)?;
        match group.step(self, |member, ledger| member.recover(term, since, ledger)) {
            Ok((report, lsn)) => {
                let left = group.grants.borrow().left(me, rt::now());
                self.durable(lsn).await.ok()?;
                Some((report, left))
            }
            Err(RecoverError::Term(known)) => {
                self.outranked(group, term, known);
                None
            }
            Err(RecoverError::Failed(error)) => {
                tracing::warn!(target_index = %self.index, group = group.number, %error, "the group has to wait");
                None
            }
        }
    }

    /// The machine is ready to serve, and all members follow: whoever waits goes on when the leases of others are over, or
    /// given up.
    async fn announce(self: Rc<Self>, group: Rc<Group>, term: Term) {
        let former = group.with_lead(term, |lead| lead.former.to_ask(rt::now()).collect::<Vec<_>>());
        for peer in former.unwrap_or_default() {
            drop(rt::spawn_local(self.clone().retire(group.clone(), peer, term)));
        }
        loop {
            let moved = group.moved.notified();
            let over = group.with_lead(term, |lead| lead.former.over()).flatten();
            let Some(over) = over.filter(|over| *over > rt::now()) else { break };
            // Either way it is looked at again.
            let _ = rt::timeout(over - rt::now(), moved).await;
        }
        group.moved.notify_waiters();
    }

    /// Asks who led before to count on its lease no longer, until it answers or the lease is over.
    async fn retire(self: Rc<Self>, group: Rc<Group>, peer: Peer, term: Term) {
        let mut pause = RETRY_MIN;
        loop {
            let view = |lead: &mut Lead| lead.former.to_ask(rt::now()).any(|to| to == peer).then(|| lead.view.clone());
            let Some(view) = group.with_lead(term, view).flatten() else { return };
            let message = group.bare_message(&view, term, GroupStep::GiveUp);
            // By itself: others wait for this one.
            let answer = self.groups.peers.call(&view, peer, &message, None).await;
            match answer {
                // A clock that stands has not passed that of who answered.
                Ok(GroupResponse::GaveUp { served }) if !self.hlc.is_halted() => {
                    group.with_lead(term, |lead| lead.former.gave_up(peer, term_in(served)));
                    return group.moved.notify_waiters();
                }
                // Its lease is over in a while.
                Ok(_) | Err(_) => {}
            }
            rt::sleep(pause).await;
            pause = longer(pause);
        }
    }

    /// Has a member prepare a change, until it has, or refuses, or it is past.
    async fn prepare_at(self: Rc<Self>, group: Rc<Group>, peer: Peer, change: Change, work: Rc<Work>) {
        let (term, mut pause) = (change.term, RETRY_MIN);
        loop {
            let is_missing = |lead: &mut Lead| {
                let members = || lead.machine.members().map(peer_out).collect::<Vec<_>>();
                lead.machine.is_missing(peer, change).then(members)
            };
            let Some(members) = group.with_lead(term, is_missing).flatten() else { return };
            let body = wire::encoding::Bytes(work.body.to_vec());
            let prepare = GroupPrepare {
                number: change.number,
                epoch: work.epoch,
                members,
                session: work.origin.session.0,
                sequence: work.origin.seq,
                work: match work.what {
                    Kind::Update => GroupWork::Update { body },
                    Kind::Punch => GroupWork::Punch { body },
                },
            };
            let answer = self.send(&group, peer, term, GroupStep::Prepare { change: prepare }, work.bulk.clone()).await;
            match answer {
                Some(GroupResponse::Done) => return self.prepared(&group, peer, change),
                Some(GroupResponse::Refused { error }) => {
                    let actions = group.with_lead(term, |lead| {
                        lead.work.remove(&change);
                        lead.machine.refused(peer, change, Some(error))
                    });
                    return self.act(&group, actions.unwrap_or_default());
                }
                _ => {
                    rt::sleep(pause).await;
                    pause = longer(pause);
                }
            }
        }
    }

    /// A member has prepared a change.
    pub(super) fn prepared(self: &Rc<Self>, group: &Rc<Group>, peer: Peer, change: Change) {
        let actions = group.with_lead(change.term, |lead| {
            let actions = lead.machine.prepared(peer, change);
            if !lead.machine.is_open(change) {
                lead.work.remove(&change);
            }
            actions
        });
        self.act(group, actions.unwrap_or_default());
    }

    /// Asks a member for a lease, once; several at the same time ask once.
    pub(super) fn beat(self: &Rc<Self>, group: &Rc<Group>, peer: Peer, term: Term) {
        let begun = group.with_lead(term, |lead| {
            let is_new = !lead.beats.contains(&peer);
            if is_new {
                lead.beats.push(peer);
            }
            is_new
        });
        if begun != Some(true) {
            return;
        }
        let (this, group) = (self.clone(), group.clone());
        drop(rt::spawn_local(async move {
            if this.send(&group, peer, term, GroupStep::Tell, None).await.is_none() {
                rt::sleep(RETRY_MIN).await;
            }
            group.with_lead(term, |lead| lead.beats.retain(|other| *other != peer));
            group.moved.notify_waiters();
        }));
    }

    /// Reminds the leader of a group that it holds undecided changes of the one before.
    pub(super) async fn wake_leader(self: Rc<Self>, group: Rc<Group>, version: u32) {
        loop {
            rt::sleep(WAKE_EVERY).await;
            let Some(view) = self.groups.view(group.pool).filter(|view| view.version() == version) else { return };
            let Ok(reign) = view.reign(group.number) else { return };
            let report = group.member.borrow().report();
            let is_old = |(change, _): &(Change, Vec<Peer>)| change.term.interval < reign.since;
            let (Some(leader), true) = (reign.leader, report.prepared.iter().any(is_old)) else { return };
            let term = group.member.borrow().term();
            let message = group.bare_message(&view, term, GroupStep::Wake);
            // It is tried again anyway.
            let _ = self.groups.peers.call(&view, leader, &message, None).await;
        }
    }
}

impl Group {
    /// A message that decides nothing.
    fn bare_message(&self, view: &View, term: Term, step: GroupStep) -> GroupRequest {
        GroupRequest {
            pool: self.pool,
            group: self.number,
            map_version: view.version(),
            from: peer_out(view.me),
            term: term_out(term),
            decided: Vec::new(),
            settled: change_out(Change::default()),
            closed: Epoch::ZERO,
            lease_ms: 0,
            step,
        }
    }
}

/// A request whose change nobody here can tell the end of.
pub(super) fn undone() -> Error {
    Error::new(Code::Again, "the leader of the placement group changed while the request was under way")
        .remedy("send it again")
}

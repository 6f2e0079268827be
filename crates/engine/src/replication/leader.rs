//! The leader of a placement group: what it asks members for, and what it decides.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Decisions, Outcome, Peer, Report, Seat, Term};

/// Changes that are not settled. At the bound, further ones wait.
pub const UNSETTLED_MAX: usize = 4096;

/// Who waits for a change: the driver's name for it.
pub type Request = u64;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action<E> {
    /// Ask this member what it holds, by [`super::Member::recover`] and [`Leader::since`], until it answers.
    Ask(Peer),
    /// Let this member prepare the change, until it answers.
    Prepare(Peer, Change),
    /// Tell this member [`Leader::decisions_for`] it, until it confirms; the leader's own member at once.
    Tell(Peer),
    /// The request is done, or it did not happen: why, or nothing when trying again may help.
    Answer(Request, Result<(), Option<E>>),
    /// New changes are taken from now on.
    Serve,
    /// Two members hold what excludes one another: the group must not go on without somebody who looks.
    Contradiction(Change),
}

/// How far a leader is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Learning what members hold.
    Asking {
        reports: BTreeMap<Peer, Report>,
    },
    /// What earlier terms left behind is decided; members are told.
    Telling,
    Serving,
    /// Ended by a contradiction.
    Stuck,
}

/// A change that some member has not prepared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Open {
    request: Request,
    missing: BTreeSet<Peer>,
}

/// What one member has yet to confirm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Untold {
    decided: BTreeMap<Change, Outcome>,
    /// The mark that it knows.
    settled: Change,
}

/// The leader of one placement group, for one term. Nothing of it is durable: its successor asks the members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader<E> {
    term: Term,
    /// All members, itself among them.
    seats: Vec<Seat>,
    phase: Phase,
    /// Number of the newest change.
    newest: u64,
    settled: Change,
    open: BTreeMap<Change, Open>,
    /// What a member has not confirmed.
    untold: BTreeMap<Peer, Untold>,
    /// Requests whose changes are aborted; they hear of it when all members have confirmed.
    failed: BTreeMap<Change, (Request, Option<E>)>,
    /// Requests of this leader's last term.
    inherited: BTreeMap<Change, Request>,
}

impl<E: Clone> Leader<E> {
    /// Begins a term. `before`: what the same process led the group with until now; its requests are answered
    /// by what becomes of their changes.
    pub fn begin(term: Term, seats: Vec<Seat>, before: Option<Leader<E>>) -> (Leader<E>, Vec<Action<E>>) {
        let mut inherited = BTreeMap::new();
        if let Some(before) = before {
            assert!(before.term < term, "terms grow");
            inherited.extend(before.inherited);
            inherited.extend(before.open.into_iter().map(|(change, open)| (change, open.request)));
            inherited.extend(before.failed.into_iter().map(|(change, (request, _))| (change, request)));
        }
        let actions = seats.iter().map(|seat| Action::Ask(seat.peer)).collect();
        let untold = seats.iter().map(|seat| (seat.peer, Untold::default())).collect();
        let phase = Phase::Asking { reports: BTreeMap::new() };
        let leader = Leader {
            term,
            seats,
            phase,
            newest: 0,
            settled: Change::default(),
            open: BTreeMap::new(),
            untold,
            failed: BTreeMap::new(),
            inherited,
        };
        (leader, actions)
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub fn members(&self) -> impl Iterator<Item = Peer> + '_ {
        self.seats.iter().map(|seat| seat.peer)
    }

    /// Since when a member is one: it is told when it is asked what it holds.
    pub fn since(&self, peer: Peer) -> Option<u32> {
        self.seats.iter().find(|seat| seat.peer == peer).map(|seat| seat.since)
    }

    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// A member says what it holds.
    pub fn report(&mut self, from: Peer, report: Report) -> Vec<Action<E>> {
        let Phase::Asking { reports } = &mut self.phase else { return Vec::new() };
        if !self.seats.iter().any(|seat| seat.peer == from) {
            return Vec::new();
        }
        reports.insert(from, report);
        if reports.len() < self.seats.len() {
            return Vec::new();
        }
        let reports = std::mem::take(reports);
        match judge(&self.seats, &reports) {
            Ok(decisions) => self.tell_all(&reports, &decisions),
            Err(change) => {
                self.phase = Phase::Stuck;
                vec![Action::Contradiction(change)]
            }
        }
    }

    /// Tells members what became of what they hold prepared, and requests what became of theirs.
    fn tell_all(&mut self, reports: &BTreeMap<Peer, Report>, decisions: &BTreeMap<Change, Outcome>) -> Vec<Action<E>> {
        let mut actions = Vec::new();
        for (peer, report) in reports {
            let news: BTreeMap<_, _> = report.prepared.iter().map(|(change, _)| (*change, decisions[change])).collect();
            if !news.is_empty() {
                actions.push(Action::Tell(*peer));
                self.untold.insert(*peer, Untold { decided: news, settled: Change::default() });
            }
        }
        for (change, request) in std::mem::take(&mut self.inherited) {
            match decisions.get(&change) {
                Some(Outcome::Committed) => actions.push(Action::Answer(request, Ok(()))),
                Some(Outcome::Aborted) => drop(self.failed.insert(change, (request, None))),
                // Its own member had prepared it; only a settled abort is not in its report.
                None => actions.push(Action::Answer(request, Err(None))),
            }
        }
        self.phase = Phase::Telling;
        actions.extend(self.advance());
        actions
    }

    /// Takes a change up, to be prepared by the leader's own member first; `None` when it is not time, or too much
    /// is under way.
    pub fn take(&mut self, request: Request) -> Option<Change> {
        let unsettled = self.newest - if self.settled.term == self.term { self.settled.number } else { 0 };
        if self.phase != Phase::Serving || unsettled >= UNSETTLED_MAX as u64 {
            return None;
        }
        self.newest += 1;
        let change = Change { term: self.term, number: self.newest };
        let missing = self.members().collect();
        self.open.insert(change, Open { request, missing });
        Some(change)
    }

    /// The leader's own member refused a change that nobody else has heard of: there is none.
    pub fn withdraw(&mut self, change: Change) -> Vec<Action<E>> {
        self.open.remove(&change);
        self.advance()
    }

    /// The leader's own member has prepared it (and will say [`Leader::prepared`] when that is durable).
    pub fn spread(&self, change: Change, me: Peer) -> Vec<Action<E>> {
        self.members().filter(|peer| *peer != me).map(|peer| Action::Prepare(peer, change)).collect()
    }

    /// A member has prepared a change, durably.
    pub fn prepared(&mut self, from: Peer, change: Change) -> Vec<Action<E>> {
        let Some(open) = self.open.get_mut(&change) else { return Vec::new() };
        open.missing.remove(&from);
        if !open.missing.is_empty() {
            return Vec::new();
        }
        let request = open.request;
        let mut actions = self.decide(change, Outcome::Committed);
        actions.push(Action::Answer(request, Ok(())));
        actions
    }

    /// A member cannot prepare a change.
    pub fn refused(&mut self, from: Peer, change: Change, why: Option<E>) -> Vec<Action<E>> {
        let Some(open) = self.open.get(&change).filter(|open| open.missing.contains(&from)) else { return Vec::new() };
        self.failed.insert(change, (open.request, why));
        self.decide(change, Outcome::Aborted)
    }

    fn decide(&mut self, change: Change, outcome: Outcome) -> Vec<Action<E>> {
        self.open.remove(&change);
        for news in self.untold.values_mut() {
            news.decided.insert(change, outcome);
        }
        self.members().map(Action::Tell).collect()
    }

    /// What a member is to be told.
    pub fn decisions_for(&self, peer: Peer) -> Decisions {
        let news = self.untold.get(&peer).into_iter().flat_map(|news| &news.decided);
        Decisions { decided: news.map(|(change, outcome)| (*change, *outcome)).collect(), settled: self.settled }
    }

    /// Whether a member lacks a decision, or the mark: to be told in a while, when nothing else goes to it.
    pub fn lacks(&self, peer: Peer) -> bool {
        self.untold.get(&peer).is_some_and(|news| !news.decided.is_empty() || news.settled < self.settled)
    }

    /// This member has yet to prepare it, as far as is known.
    pub fn is_missing(&self, peer: Peer, change: Change) -> bool {
        self.open.get(&change).is_some_and(|open| open.missing.contains(&peer))
    }

    /// Some member has yet to prepare it, as far as is known.
    pub fn is_open(&self, change: Change) -> bool {
        self.open.contains_key(&change)
    }

    /// Changes that a member has yet to prepare: to be asked for again over a new link.
    pub fn missing_from(&self, peer: Peer) -> impl Iterator<Item = Change> + '_ {
        self.open.iter().filter(move |(_, open)| open.missing.contains(&peer)).map(|(change, _)| *change)
    }

    /// Requests that have no answer yet.
    pub fn waiting(&self) -> impl Iterator<Item = Request> + '_ {
        let open = self.open.values().map(|open| open.request);
        open.chain(self.failed.values().map(|(request, _)| *request)).chain(self.inherited.values().copied())
    }

    /// A member knows these decisions and this mark, durably.
    pub fn confirmed(&mut self, from: Peer, changes: &[Change], settled: Change) -> Vec<Action<E>> {
        let Some(news) = self.untold.get_mut(&from) else { return Vec::new() };
        for change in changes {
            news.decided.remove(change);
        }
        news.settled = news.settled.max(settled.min(self.settled));
        self.advance()
    }

    /// Moves the mark below which everybody knows everything, and does what waited for that.
    fn advance(&mut self) -> Vec<Action<E>> {
        let mut actions = Vec::new();
        let first = |news: &Untold| news.decided.first_key_value().map(|(change, _)| *change);
        let untold = self.untold.values().filter_map(first).min();
        match self.phase {
            Phase::Asking { .. } | Phase::Stuck => return actions,
            Phase::Telling if untold.is_some() => {}
            Phase::Telling => {
                self.phase = Phase::Serving;
                self.settled = Change::start_of(self.term);
                actions.push(Action::Serve);
            }
            Phase::Serving => {
                let open = self.open.first_key_value().map(|(change, _)| *change);
                let number = match open.into_iter().chain(untold).min() {
                    Some(first) => first.number - 1,
                    None => self.newest,
                };
                self.settled = Change { term: self.term, number };
            }
        }
        // What is aborted, and known to be, cannot come back.
        let is_known = |change: &Change| !self.untold.values().any(|news| news.decided.contains_key(change));
        let known: Vec<Change> = self.failed.keys().filter(|change| is_known(change)).copied().collect();
        for change in known {
            let (request, why) = self.failed.remove(&change).expect("just seen");
            actions.push(Action::Answer(request, Err(why)));
        }
        actions
    }
}

/// Decides everything that members hold undecided.
///
/// # Errors
/// A change of which two members say what excludes one another.
fn judge(seats: &[Seat], reports: &BTreeMap<Peer, Report>) -> Result<BTreeMap<Change, Outcome>, Change> {
    let mut decisions: BTreeMap<Change, Outcome> = BTreeMap::new();
    for (change, outcome) in reports.values().flat_map(|report| &report.decided) {
        if *decisions.entry(*change).or_insert(*outcome) != *outcome {
            return Err(*change);
        }
    }
    for (change, theirs) in reports.values().flat_map(|report| &report.prepared) {
        // Who is no member any more, was not one then, or was away since, says nothing about it.
        let stayed = |peer: &Peer| seats.iter().any(|seat| seat.peer == *peer && seat.since <= change.term.interval);
        if reports.iter().any(|(peer, report)| stayed(peer) && *change <= report.settled) {
            return Err(*change);
        }
        let has = |peer: &Peer| reports[peer].prepared.iter().any(|(held, _)| held == change);
        let is_everywhere = theirs.iter().filter(|peer| stayed(peer)).all(has);
        let outcome = if is_everywhere { Outcome::Committed } else { Outcome::Aborted };
        decisions.entry(*change).or_insert(outcome);
    }
    Ok(decisions)
}

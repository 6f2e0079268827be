//! Replication of one placement group, every interleaving of it: three members, requests that clients repeat, lost and
//! repeated messages, a member that refuses, a restart, an exclusion with a change of leader, the return of who was
//! excluded, old leaders that have yet to hear of it.
//!
//! The checker walks all states that the budgets below allow. Asserted in each: K1 (what was acknowledged is with every
//! member), K2 (no two outcomes), K5 (a request takes effect once), K14 (an old leader changes nothing: else K1 or K2
//! would break), and at rest K10 (nothing stays undecided, and everybody knows the mark).
//!
//! Who returns is filled by a copy of a serving member's data, one step here, once the leader of the new interval serves.
//! Until then its data counts for nothing.
//!
//! # Not here
//! What is volatile and what is durable within a target: a step of a member and its durability are one here, because
//! an answer leaves after it. Reads and leases: that a new leader waits for the old one's lease is assumed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;

use engine::replication::{
    Action, Change, DecideError, Decisions, Leader, Ledger, Member, Outcome, Peer, Phase, PrepareError, Report, Seat,
    Term, Unprepared,
};
use stateright::{Checker, Model, Property};
use types::{Rank, TargetIndex};

const NODES: usize = 3;

fn peer(node: usize) -> Peer {
    Peer { rank: Rank(node as u32), target: TargetIndex(0) }
}

fn node_of(peer: Peer) -> usize {
    peer.rank.0 as usize
}

/// A client's request: what makes it the same when it is sent again.
type Origin = u64;

/// What a target's store keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    term: Term,
    prepared: BTreeMap<Change, (Vec<Peer>, Origin)>,
    /// For ever, so that properties can look at them.
    ended: BTreeMap<Change, (Outcome, Option<Origin>)>,
    decided: BTreeMap<Change, Outcome>,
    settled: Change,
    refuses: bool,
}

impl Ledger for Store {
    type Work = Origin;
    type Refusal = ();
    type Failure = Infallible;

    fn adopt(&mut self, term: Term) -> Result<(), Infallible> {
        self.term = term;
        Ok(())
    }

    fn prepare(&mut self, change: Change, members: &[Peer], work: &Origin) -> Result<(), Unprepared<(), Infallible>> {
        if std::mem::take(&mut self.refuses) {
            return Err(Unprepared::Refused(()));
        }
        self.prepared.insert(change, (members.to_vec(), *work));
        Ok(())
    }

    fn decide(&mut self, change: Change, outcome: Outcome) -> Result<(), Infallible> {
        let origin = self.prepared.remove(&change).map(|(_, origin)| origin);
        self.ended.insert(change, (outcome, origin));
        self.decided.insert(change, outcome);
        Ok(())
    }

    fn forget(&mut self, change: Change) -> Result<(), Infallible> {
        self.prepared.retain(|known, _| *known > change);
        // What took effect stays: somebody decided it.
        self.ended.retain(|known, (outcome, _)| *known > change || *outcome == Outcome::Committed);
        self.settle(change)
    }

    fn leave(&mut self) -> Result<(), Infallible> {
        unreachable!("nobody leaves for good")
    }

    fn settle(&mut self, change: Change) -> Result<(), Infallible> {
        self.settled = change;
        self.decided.retain(|known, _| *known > change);
        Ok(())
    }
}

impl Store {
    fn restored(&self) -> Member {
        let report = Report {
            prepared: self.prepared.iter().map(|(change, (members, _))| (*change, members.clone())).collect(),
            decided: self.decided.iter().map(|(change, outcome)| (*change, *outcome)).collect(),
            settled: self.settled,
        };
        Member::restore(self.term, report)
    }

    fn committed(&self, origin: Origin) -> BTreeSet<Change> {
        let is = |(_, end): &(&Change, &(Outcome, Option<Origin>))| *end == &(Outcome::Committed, Some(origin));
        self.ended.iter().filter(is).map(|(change, _)| *change).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Ask(Term, u32),
    Report(Term, Vec<(Change, Vec<Peer>)>, Vec<(Change, Outcome)>, Change),
    Prepare { change: Change, members: Vec<Peer>, origin: Origin },
    Prepared(Change),
    Refused(Change),
    Tell { term: Term, decided: Vec<(Change, Outcome)>, settled: Change },
    Told(Vec<Change>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Envelope {
    from: usize,
    to: usize,
    message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    store: Store,
    /// `None`: down.
    life: Option<Life>,
    /// The map it knows; durable.
    map: u32,
}

/// What a restart loses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Life {
    member: Member,
    leader: Option<Leader<()>>,
    /// What its changes are to do, as leader.
    work: BTreeMap<Change, Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    nodes: Vec<Node>,
    net: BTreeSet<Envelope>,
    /// Versions of the map from 1 on.
    maps: Vec<Map>,
    /// By this version a leader serves, or has served: it waited until leases of those before were over.
    served: u32,
    /// What must never be: members contradict one another, or hear what cannot be.
    is_broken: bool,
    flaw: Flaw,
    /// What clients were told; `None`: they still want to know.
    answers: BTreeMap<Origin, Option<Result<(), ()>>>,
    /// Whom they asked last: they listen to nobody else.
    asked: BTreeMap<Origin, usize>,
    budget: Budget,
}

/// Where a node is, but in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Map {
    /// Excluded.
    away: Option<usize>,
    /// Back, and without what was done meanwhile.
    filling: Option<usize>,
}

/// What could be wrong with those who return: the model must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flaw {
    None,
    /// They are asked about changes from before they were away.
    AskedAsEver,
    /// They keep what they remember.
    KeepMemory,
}

/// How much may go wrong, and how often clients send.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Budget {
    sends: u8,
    losses: u8,
    repeats: u8,
    restarts: u8,
    exclusions: u8,
    returns: u8,
    fills: u8,
    refusals: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Send(Origin, usize),
    Deliver(Envelope),
    /// Delivered, and once more later.
    Repeat(Envelope),
    Lose(Envelope),
    Refuse(usize),
    Exclude(usize),
    Return,
    /// Who returned has everything.
    Filled,
    Learn(usize),
    Restart(usize),
    /// Nothing is under way: whoever waits for an answer asks again.
    AskAgain,
    /// Nothing is under way: members hear of a mark that moved.
    TellMarks,
}

struct Group {
    origins: u64,
    budget: Budget,
    flaw: Flaw,
}

impl State {
    fn map(&self) -> u32 {
        self.maps.len() as u32
    }

    fn newest(&self) -> Map {
        *self.maps.last().unwrap()
    }

    /// Members by a version of the map.
    fn members(&self, map: u32) -> Vec<Peer> {
        let Map { away, .. } = self.maps[map as usize - 1];
        (0..NODES).filter(|node| away != Some(*node)).map(peer).collect()
    }

    /// The version since which a member has been one.
    fn since(&self, map: u32, member: Peer) -> u32 {
        let was_away = |map: &Map| map.away == Some(node_of(member));
        let last = self.maps[..map as usize].iter().rposition(was_away);
        last.map_or(0, |last| last as u32 + 2)
    }

    fn leader_by(&self, map: u32) -> usize {
        let Map { filling, .. } = self.maps[map as usize - 1];
        let mut members = self.members(map).into_iter().map(node_of);
        members.find(|node| filling != Some(*node)).unwrap()
    }

    fn send(&mut self, from: usize, to: Peer, message: Message) {
        self.net.insert(Envelope { from, to: node_of(to), message });
    }

    /// Starts to lead, if the map says so.
    fn lead(&mut self, node: usize) {
        let map = self.nodes[node].map;
        let is_leader = self.leader_by(map) == node;
        let since = |peer| if self.flaw == Flaw::AskedAsEver { 0 } else { self.since(map, peer) };
        let seats = self.members(map).into_iter().map(|peer| Seat { peer, since: since(peer) }).collect();
        let Some(life) = &mut self.nodes[node].life else { return };
        if !is_leader {
            life.leader = None;
            return;
        }
        let mine = life.member.term();
        let round = if mine.interval == map { mine.round + 1 } else { 0 };
        let (leader, actions) = Leader::begin(Term { interval: map, round }, seats, life.leader.take());
        life.leader = Some(leader);
        self.act(node, actions);
    }

    /// Does what a leader wants done; its own member is asked at once.
    fn act(&mut self, node: usize, actions: Vec<Action<()>>) {
        let mut left: VecDeque<_> = actions.into();
        while let Some(action) = left.pop_front() {
            let Some(life) = &self.nodes[node].life else { return };
            let Some(leader) = &life.leader else { return };
            let (to, message) = match action {
                Action::Ask(to) => {
                    let term = leader.term();
                    let since = if self.flaw == Flaw::KeepMemory { 0 } else { self.since(term.interval, to) };
                    (to, Message::Ask(term, since))
                }
                Action::Prepare(to, change) => {
                    let (members, origin) = (leader.members().collect(), life.work[&change]);
                    (to, Message::Prepare { change, members, origin })
                }
                Action::Tell(to) => {
                    let Decisions { decided, settled } = leader.decisions_for(to);
                    (to, Message::Tell { term: leader.term(), decided, settled })
                }
                Action::Answer(origin, answer) => {
                    self.answer(node, origin, answer);
                    continue;
                }
                Action::Serve => {
                    self.served = self.served.max(leader.term().interval);
                    continue;
                }
                Action::Contradiction(_) => {
                    self.is_broken = true;
                    continue;
                }
            };
            if node_of(to) != node {
                self.send(node, to, message);
            } else if let Some(answer) = self.member(node, message) {
                left.extend(self.leader(node, to, answer));
            }
        }
    }

    fn answer(&mut self, node: usize, origin: Origin, answer: Result<(), Option<()>>) {
        if self.asked.get(&origin) != Some(&node) {
            return;
        }
        let told = self.answers.get_mut(&origin).unwrap();
        let answer = match answer {
            Ok(()) => Ok(()),
            Err(Some(())) => Err(()),
            Err(None) => return,
        };
        assert!(
            told.is_none_or(|before| before == answer),
            "a client is told both that it happened and that it did not"
        );
        *told = Some(answer);
    }

    /// A member's step.
    fn member(&mut self, node: usize, message: Message) -> Option<Message> {
        let Node { store, life, .. } = &mut self.nodes[node];
        let member = &mut life.as_mut()?.member;
        Some(match message {
            Message::Ask(term, since) => {
                let Report { prepared, decided, settled } = member.recover(term, since, store).ok()?;
                Message::Report(term, prepared, decided, settled)
            }
            Message::Prepare { change, members, origin } => match member.prepare(change, &members, &origin, store) {
                Ok(()) => Message::Prepared(change),
                Err(PrepareError::Refused(())) => Message::Refused(change),
                Err(PrepareError::Aborted | PrepareError::Term(_)) => return None,
            },
            Message::Tell { term, decided, settled } => {
                let changes = decided.iter().map(|(change, _)| *change).collect();
                match member.decide(term, &Decisions { decided, settled }, store) {
                    Ok(()) => Message::Told(changes),
                    Err(DecideError::Term(_)) => return None,
                    Err(DecideError::NeverPrepared(_) | DecideError::Undecided(_)) => {
                        self.is_broken = true;
                        return None;
                    }
                }
            }
            other => unreachable!("{other:?} is for leaders"),
        })
    }

    /// A leader's step.
    fn leader(&mut self, node: usize, from: Peer, message: Message) -> Vec<Action<()>> {
        let life = self.nodes[node].life.as_mut();
        let Some(leader) = life.and_then(|life| life.leader.as_mut()) else { return Vec::new() };
        match message {
            Message::Report(term, prepared, decided, settled) if term == leader.term() => {
                leader.report(from, Report { prepared, decided, settled })
            }
            Message::Prepared(change) => leader.prepared(from, change),
            Message::Refused(change) => leader.refused(from, change, Some(())),
            // That they know the mark, too, is a step of its own: see `tell_marks`.
            Message::Told(changes) => leader.confirmed(from, &changes, Change::default()),
            _ => Vec::new(),
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, message } = envelope;
        match message {
            Message::Ask(..) | Message::Prepare { .. } | Message::Tell { .. } => {
                if let Some(answer) = self.member(to, message) {
                    self.send(to, peer(from), answer);
                }
            }
            _ => {
                let actions = self.leader(to, peer(from), message);
                self.act(to, actions);
            }
        }
    }

    /// A client's request reaches a node that leads.
    fn submit(&mut self, origin: Origin, node: usize) {
        let is_done = !self.nodes[node].store.committed(origin).is_empty();
        let Node { store, life, .. } = &mut self.nodes[node];
        let Some(life) = life else { return };
        let Some(leader) = life.leader.as_mut().filter(|leader| *leader.phase() == Phase::Serving) else { return };
        if is_done {
            return self.act(node, vec![Action::Answer(origin, Ok(()))]);
        }
        // Under way: the repeat waits for the first.
        if leader.waiting().any(|request| request == origin) {
            return;
        }
        let Some(change) = leader.take(origin) else { return };
        life.work.insert(change, origin);
        let members: Vec<Peer> = leader.members().collect();
        let is_prepared = life.member.prepare_own(change, &members, &origin, store).is_ok();
        let actions = if is_prepared {
            let mut actions = leader.spread(change, peer(node));
            actions.extend(leader.prepared(peer(node), change));
            actions
        } else {
            let mut actions = leader.withdraw(change);
            // Its own refusal is as good as a read: it counts as long as nobody else may lead.
            let has_lease = leader.term().interval >= self.served;
            actions.push(Action::Answer(origin, Err(has_lease.then_some(()))));
            actions
        };
        self.act(node, actions);
    }

    /// Whoever waits for an answer asks again.
    fn ask_again(&mut self) {
        for node in 0..NODES {
            let life = self.nodes[node].life.as_ref();
            let Some(leader) = life.and_then(|life| life.leader.as_ref()) else { continue };
            let mut actions = Vec::new();
            for to in leader.members() {
                match leader.phase() {
                    Phase::Asking { reports } if !reports.contains_key(&to) => actions.push(Action::Ask(to)),
                    Phase::Asking { .. } => {}
                    _ => {
                        actions.extend(leader.missing_from(to).map(|change| Action::Prepare(to, change)));
                        if !leader.decisions_for(to).decided.is_empty() {
                            actions.push(Action::Tell(to));
                        }
                    }
                }
            }
            self.act(node, actions);
        }
    }

    /// Nothing else is under way: members hear of a mark that moved, at once. (That it comes late, with other messages, is
    /// walked through; when its leader hears that it came changes nothing but that it goes out no more.)
    fn tell_marks(&mut self) {
        for node in 0..NODES {
            let leads = |state: &State| state.nodes[node].life.as_ref().and_then(|life| life.leader.clone());
            let Some(leader) = leads(self).filter(|leader| *leader.phase() == Phase::Serving) else { continue };
            for to in leader.members().filter(|to| leader.lacks(*to)) {
                let Decisions { decided, settled } = leader.decisions_for(to);
                let told = Message::Tell { term: leader.term(), decided: decided.clone(), settled };
                if decided.is_empty()
                    && let Some(Message::Told(_)) = self.member(node_of(to), told)
                {
                    let life = self.nodes[node].life.as_mut();
                    let leader = life.and_then(|life| life.leader.as_mut()).expect("it leads");
                    assert!(leader.confirmed(to, &[], settled).is_empty(), "nothing waits for a mark");
                }
            }
        }
    }

    /// Nothing moves by itself any more, and everybody is up and knows the map.
    fn is_at_rest(&self) -> bool {
        let knows = |peer: &Peer| {
            let node = &self.nodes[node_of(*peer)];
            node.map == self.map() && node.life.is_some()
        };
        let mut again = self.clone();
        again.ask_again();
        again.tell_marks();
        self.net.is_empty() && self.members(self.map()).iter().all(knows) && again == *self
    }

    /// Of members by the newest map.
    fn stores(&self) -> impl Iterator<Item = &Store> {
        self.members(self.map()).into_iter().map(|peer| &self.nodes[node_of(peer)].store)
    }

    /// Of those that have everything.
    fn whole_stores(&self) -> impl Iterator<Item = &Store> {
        let members = self.members(self.map()).into_iter().map(node_of);
        members.filter(|node| self.newest().filling != Some(*node)).map(|node| &self.nodes[node].store)
    }

    /// The leader by the newest map serves: what was undecided before is decided, and can be copied.
    fn leads_now(&self) -> Option<usize> {
        let node = self.leader_by(self.map());
        let leader = self.nodes[node].life.as_ref()?.leader.as_ref()?;
        (leader.term().interval == self.map() && *leader.phase() == Phase::Serving).then_some(node)
    }

    /// Who returned gets what the leader has. What is under way reaches it by itself.
    fn fill(&mut self, node: usize, from: usize) {
        let known = self.nodes[from].store.ended.clone();
        let effects = known.into_iter().filter(|(_, (outcome, _))| *outcome == Outcome::Committed);
        let ended = &mut self.nodes[node].store.ended;
        for (change, end) in effects {
            ended.entry(change).or_insert(end);
        }
    }

    fn told(&self, answer: Result<(), ()>) -> impl Iterator<Item = Origin> {
        self.answers.iter().filter(move |(_, told)| **told == Some(answer)).map(|(origin, _)| *origin)
    }
}

impl Model for Group {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let node = || Node {
            store: Store::default(),
            life: Some(Life { member: Member::default(), leader: None, work: BTreeMap::new() }),
            map: 1,
        };
        let mut state = State {
            nodes: (0..NODES).map(|_| node()).collect(),
            net: BTreeSet::new(),
            maps: vec![Map::default()],
            served: 1,
            is_broken: false,
            flaw: self.flaw,
            answers: (1..=self.origins).map(|origin| (origin, None)).collect(),
            asked: BTreeMap::new(),
            budget: self.budget.clone(),
        };
        state.lead(0);
        // From where the first leader serves.
        while let Some(envelope) = state.net.pop_first() {
            state.deliver(envelope);
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let Budget { sends, losses, repeats, restarts, exclusions, returns, fills, refusals } = state.budget;
        if returns > 0 && state.newest().away.is_some() {
            steps.push(Step::Return);
        }
        if fills > 0 && state.newest().filling.is_some() && state.leads_now().is_some() {
            steps.push(Step::Filled);
        }
        for envelope in &state.net {
            steps.push(Step::Deliver(envelope.clone()));
            if losses > 0 {
                steps.push(Step::Lose(envelope.clone()));
            }
            if repeats > 0 {
                steps.push(Step::Repeat(envelope.clone()));
            }
        }
        if state.net.is_empty() {
            steps.extend([Step::AskAgain, Step::TellMarks]);
        }
        for (origin, _) in state.answers.iter().filter(|(_, told)| sends > 0 && told.is_none()) {
            let leads = |node: &usize| state.nodes[*node].life.as_ref().is_some_and(|life| life.leader.is_some());
            steps.extend((0..NODES).filter(leads).map(|node| Step::Send(*origin, node)));
        }
        for (node, known) in state.nodes.iter().enumerate() {
            if restarts > 0 {
                steps.push(Step::Restart(node));
            }
            if exclusions > 0 && state.newest() == Map::default() {
                steps.push(Step::Exclude(node));
            }
            if known.map < state.map() {
                steps.push(Step::Learn(node));
            }
            if refusals > 0 && !known.store.refuses {
                steps.push(Step::Refuse(node));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Send(origin, node) => {
                state.budget.sends -= 1;
                state.asked.insert(origin, node);
                state.submit(origin, node);
            }
            Step::Deliver(envelope) => {
                state.net.remove(&envelope);
                state.deliver(envelope);
            }
            Step::Repeat(envelope) => {
                state.budget.repeats -= 1;
                state.deliver(envelope);
            }
            Step::Lose(envelope) => {
                state.budget.losses -= 1;
                state.net.remove(&envelope);
            }
            Step::Refuse(node) => {
                state.budget.refusals -= 1;
                state.nodes[node].store.refuses = true;
            }
            Step::Exclude(node) => {
                state.budget.exclusions -= 1;
                state.maps.push(Map { away: Some(node), filling: None });
            }
            Step::Return => {
                state.budget.returns -= 1;
                let filling = state.newest().away;
                state.maps.push(Map { away: None, filling });
            }
            Step::Filled => {
                state.budget.fills -= 1;
                let (node, from) = (state.newest().filling?, state.leads_now()?);
                state.fill(node, from);
                state.maps.push(Map::default());
            }
            Step::Learn(node) => {
                state.nodes[node].map = state.map();
                state.lead(node);
            }
            Step::Restart(node) => {
                state.budget.restarts -= 1;
                let member = state.nodes[node].store.restored();
                state.nodes[node].life = Some(Life { member, leader: None, work: BTreeMap::new() });
                state.lead(node);
            }
            Step::AskAgain => state.ask_again(),
            Step::TellMarks => state.tell_marks(),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("members agree", |_, state: &State| !state.is_broken),
            Property::always("K2: a change has one outcome", |_, state: &State| {
                let mut ends: BTreeMap<Change, Outcome> = BTreeMap::new();
                let mut all = state.stores().flat_map(|store| &store.ended);
                all.all(|(change, (outcome, _))| *ends.entry(*change).or_insert(*outcome) == *outcome)
            }),
            Property::always("K1: what was acknowledged is with every member", |_, state: &State| {
                state.told(Ok(())).all(|origin| {
                    let has = |store: &Store| {
                        let waits = store.prepared.values().any(|(_, work)| *work == origin);
                        waits || !store.committed(origin).is_empty()
                    };
                    state.whole_stores().all(has)
                })
            }),
            Property::always("what is said not to have happened never does", |_, state: &State| {
                state.told(Err(())).all(|origin| state.stores().all(|store| store.committed(origin).is_empty()))
            }),
            Property::always("K5: a request takes effect once", |group: &Group, state: &State| {
                (1..=group.origins).all(|origin| {
                    let changes: BTreeSet<Change> = state.stores().flat_map(|store| store.committed(origin)).collect();
                    changes.len() <= 1
                })
            }),
            Property::always("K10: at rest the leader serves, and nothing is undecided", |_, state: &State| {
                let leads = state.leads_now();
                let life = leads.and_then(|node| state.nodes[node].life.as_ref());
                let leader = life.and_then(|life| life.leader.as_ref());
                let is_known = leader.is_some_and(|leader| !leader.members().any(|peer| leader.lacks(peer)));
                let is_decided = state.stores().all(|store| store.prepared.is_empty() && store.decided.is_empty());
                !state.is_at_rest() || is_known && is_decided
            }),
            // The model reaches what it is about.
            Property::sometimes("every client is told that it happened", |_, state: &State| {
                state.answers.values().all(|answer| *answer == Some(Ok(())))
            }),
            Property::sometimes("nothing is left to go wrong", |group: &Group, state: &State| {
                state.budget == Budget { sends: state.budget.sends, ..Budget::default() }
                    || group.budget == state.budget
            }),
        ]
    }
}

impl Default for Budget {
    /// A client that sends twice; nothing goes wrong.
    fn default() -> Budget {
        Budget { sends: 2, losses: 0, repeats: 0, restarts: 0, exclusions: 0, returns: 0, fills: 0, refusals: 0 }
    }
}

/// Walks all states.
fn check(origins: u64, budget: Budget) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let group = Group { origins, budget: budget.clone(), flaw: Flaw::None };
    let checker = group.checker().threads(threads).spawn_bfs().join();
    println!("{origins} requests, {budget:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// Walks states until what a flaw brings about is met.
fn must_break(flaw: Flaw, budget: Budget) {
    let group = Group { origins: 1, budget, flaw };
    let checker = group.checker().threads(2).spawn_bfs().join();
    let found: Vec<_> =
        checker.discoveries().into_keys().filter(|name| name.contains("K1") || name.contains("agree")).collect();
    assert!(!found.is_empty(), "{flaw:?} goes unnoticed");
    println!("{flaw:?}: {found:?} after {} states", checker.unique_state_count());
}

#[test]
fn a_change_of_leader_and_a_lost_message() {
    check(1, Budget { losses: 1, exclusions: 1, ..Budget::default() });
}

#[test]
fn a_change_of_leader_and_a_repeated_message() {
    check(1, Budget { repeats: 1, exclusions: 1, ..Budget::default() });
}

#[test]
fn a_member_that_refuses_while_another_goes() {
    check(1, Budget { refusals: 1, repeats: 1, exclusions: 1, ..Budget::default() });
}

#[test]
fn a_restart_and_a_change_of_leader() {
    check(1, Budget { restarts: 1, exclusions: 1, ..Budget::default() });
}

#[test]
fn two_changes_and_a_change_of_leader() {
    check(2, Budget { exclusions: 1, ..Budget::default() });
}

#[test]
fn a_member_that_goes_and_comes_back() {
    check(1, Budget { sends: 1, exclusions: 1, returns: 1, fills: 1, ..Budget::default() });
}

/// The model's own test: what a member remembers of before it was away must neither count nor stay.
#[test]
fn who_returns_with_its_memory_is_found_out() {
    let budget = Budget { sends: 1, exclusions: 1, returns: 1, ..Budget::default() };
    must_break(Flaw::AskedAsEver, budget.clone());
    must_break(Flaw::KeepMemory, budget);
}

/// Millions of states: `cargo test --release -p engine --test replication_model -- --ignored`.
#[test]
#[ignore = "the long form"]
fn all_of_it_at_once() {
    check(1, Budget { sends: 3, losses: 1, repeats: 1, restarts: 1, exclusions: 1, refusals: 1, ..Budget::default() });
    check(2, Budget { sends: 3, losses: 1, repeats: 1, exclusions: 1, ..Budget::default() });
    check(1, Budget { losses: 1, repeats: 1, restarts: 1, exclusions: 2, returns: 2, fills: 1, ..Budget::default() });
}

//! Leases, every interleaving: a leader renews its own, is replaced by another at any moment and does not hear of it,
//! messages take any time (for ever, too), members start anew. Never may the old one count on its lease while the new one
//! serves (K14).
//!
//! Time goes in ticks, two a lease.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::replication::{Grants, LEASE, Lease, Peer};
use rt::Instant;
use stateright::{Checker, Model, Property};
use types::{Rank, TargetIndex};

/// The old leader, the new one, and a member of both.
const NODES: usize = 3;
const OLD: usize = 0;
const NEW: usize = 1;
const TICKS_A_LEASE: u32 = 2;

fn peer(node: usize) -> Peer {
    Peer { rank: Rank(node as u32), target: TargetIndex(0) }
}

fn tick() -> Duration {
    LEASE / TICKS_A_LEASE
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Renew {
        asked: u32,
    },
    Renewed {
        asked: u32,
    },
    /// The new leader asks what members hold; they follow it from then on.
    Ask,
    /// How long the lease of another still runs.
    Report {
        left: Duration,
    },
}

/// From, to, and what.
type Envelope = (usize, usize, Message);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// In ticks.
    now: u32,
    net: BTreeSet<Envelope>,
    grants: Vec<Grants>,
    is_asked: bool,
    /// Whether a member follows the new leader; durable.
    follows_new: Vec<bool>,
    /// Of the old leader.
    lease: Lease,
    /// What the new leader heard: when it may serve, by each member's word.
    reports: Vec<Option<Instant>>,
    renewals: u8,
    restarts: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Tick,
    Renew,
    Replace,
    Deliver(Envelope),
    Restart(usize),
}

struct Group {
    ticks: u32,
    renewals: u8,
    restarts: u8,
}

impl State {
    fn at(&self, ticks: u32) -> Instant {
        Instant::from_nanos(1_000_000_000) + tick() * ticks
    }

    /// The members of the old reign but for its leader; the new one, who excluded that leader, has the same.
    fn members() -> impl Iterator<Item = usize> {
        (0..NODES).filter(|node| *node != OLD)
    }

    fn old_holds(&self) -> bool {
        self.lease.holds(State::members().map(peer), self.at(self.now))
    }

    fn new_serves(&self) -> bool {
        State::members().all(|node| self.reports[node].is_some_and(|from| from <= self.at(self.now)))
    }

    fn deliver(&mut self, (from, to, message): Envelope) {
        let now = self.at(self.now);
        match message {
            // A member answers the leader it follows only.
            Message::Renew { asked } if !self.follows_new[to] => {
                self.grants[to].grant(peer(from), now);
                self.net.insert((to, from, Message::Renewed { asked }));
            }
            Message::Renew { .. } => {}
            Message::Renewed { asked } => self.lease.renewed(peer(from), self.at(asked)),
            Message::Ask => {
                self.follows_new[to] = true;
                let left = self.grants[to].left(peer(from), now);
                self.grants[to].grant(peer(from), now);
                self.net.insert((to, from, Message::Report { left }));
            }
            Message::Report { left } => {
                let from_then = self.reports[from].get_or_insert(now + left);
                *from_then = (*from_then).min(now + left);
            }
        }
    }
}

impl Model for Group {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let start = Instant::from_nanos(1_000_000_000);
        let state = State {
            // No process of before is left.
            now: TICKS_A_LEASE,
            net: BTreeSet::new(),
            grants: vec![Grants::begin(start); NODES],
            is_asked: false,
            follows_new: vec![false; NODES],
            lease: Lease::default(),
            reports: vec![None; NODES],
            renewals: self.renewals,
            restarts: self.restarts,
        };
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.now < TICKS_A_LEASE + self.ticks {
            steps.push(Step::Tick);
        }
        if !state.is_asked {
            steps.push(Step::Replace);
        }
        // Also long after it was replaced.
        if state.renewals > 0 {
            steps.push(Step::Renew);
        }
        for envelope in &state.net {
            steps.push(Step::Deliver(envelope.clone()));
        }
        if state.restarts > 0 {
            steps.extend(State::members().map(Step::Restart));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick => state.now += 1,
            Step::Renew => {
                state.renewals -= 1;
                let asked = state.now;
                state.net.extend(State::members().map(|to| (OLD, to, Message::Renew { asked })));
            }
            Step::Replace => {
                state.is_asked = true;
                state.net.extend(State::members().map(|to| (NEW, to, Message::Ask)));
            }
            Step::Deliver(envelope) => {
                state.net.remove(&envelope);
                state.deliver(envelope);
            }
            Step::Restart(node) => {
                state.restarts -= 1;
                state.grants[node] = Grants::begin(state.at(state.now));
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("K14: not both", |_, state: &State| !(state.old_holds() && state.new_serves())),
            // The tests of the test: both are reached.
            Property::sometimes("the old one has a lease", |_, state: &State| state.old_holds()),
            Property::sometimes("the new one serves", |_, state: &State| state.new_serves()),
            Property::sometimes("the old one has a lease and was replaced", |_, state: &State| {
                state.old_holds() && state.follows_new.iter().any(|follows| *follows)
            }),
        ]
    }
}

fn check(ticks: u32, renewals: u8, restarts: u8) {
    let checker = Group { ticks, renewals, restarts }.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn no_two_leaders_count_on_a_lease_at_once() {
    check(4, 2, 0);
}

#[test]
fn a_member_that_starts_anew_remembers_no_grant_and_allows_for_one() {
    // Both: the word of one that did not is enough.
    check(3, 1, 2);
}

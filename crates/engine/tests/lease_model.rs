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

/// The old leader, the new one, and somebody else.
const NODES: usize = 3;
const OLD: usize = 0;
const NEW: usize = 1;

/// Who is a member of which reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Members {
    /// The old leader is excluded, the others stay.
    OthersStay,
    /// The old leader stays, and nobody else: it is on its way out, and another leads already.
    OldLeaderStays,
}

impl Members {
    fn of_old(self) -> &'static [usize] {
        match self {
            Members::OthersStay => &[OLD, NEW, 2],
            Members::OldLeaderStays => &[OLD, 2],
        }
    }

    fn of_new(self) -> &'static [usize] {
        match self {
            Members::OthersStay => &[NEW, 2],
            Members::OldLeaderStays => &[NEW, OLD],
        }
    }
}
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
    members: Members,
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
    members: Members,
    /// Leaders ask their own members for a lease, too.
    own_is_asked: bool,
    ticks: u32,
    renewals: u8,
    restarts: u8,
}

impl State {
    fn at(&self, ticks: u32) -> Instant {
        Instant::from_nanos(1_000_000_000) + tick() * ticks
    }

    fn old_holds(&self) -> bool {
        self.lease.holds(self.members.of_old().iter().copied().map(peer), self.at(self.now))
    }

    fn new_serves(&self) -> bool {
        self.members.of_new().iter().all(|node| self.reports[*node].is_some_and(|from| from <= self.at(self.now)))
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
            members: self.members,
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
            steps.extend((0..NODES).filter(|node| *node != OLD).map(Step::Restart));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick => state.now += 1,
            Step::Renew => {
                state.renewals -= 1;
                let (asked, now) = (state.now, state.at(state.now));
                let others = state.members.of_old().iter().filter(|to| **to != OLD);
                state.net.extend(others.map(|to| (OLD, *to, Message::Renew { asked })));
                // Its own member is asked at once.
                if !self.own_is_asked {
                    state.lease.renewed(peer(OLD), now);
                } else if !state.follows_new[OLD] {
                    state.grants[OLD].grant(peer(OLD), now);
                    state.lease.renewed(peer(OLD), now);
                }
            }
            Step::Replace => {
                state.is_asked = true;
                state.net.extend(state.members.of_new().iter().map(|to| (NEW, *to, Message::Ask)));
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

fn check(members: Members, ticks: u32, renewals: u8, restarts: u8) {
    let group = Group { members, own_is_asked: true, ticks, renewals, restarts };
    let checker = group.checker().threads(2).spawn_bfs().join();
    println!("{members:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn no_two_leaders_count_on_a_lease_at_once() {
    check(Members::OthersStay, 4, 2, 0);
}

#[test]
fn the_old_leader_itself_keeps_the_new_one_waiting() {
    check(Members::OldLeaderStays, 4, 2, 0);
}

/// The model's own test.
#[test]
fn a_leader_that_does_not_ask_its_own_member_is_found_out() {
    let members = Members::OldLeaderStays;
    let group = Group { members, own_is_asked: false, ticks: 4, renewals: 1, restarts: 0 };
    let checker = group.checker().threads(2).spawn_bfs().join();
    assert!(checker.discoveries().contains_key("K14: not both"));
}

#[test]
fn a_member_that_starts_anew_remembers_no_grant_and_allows_for_one() {
    // Both: the word of one that did not is enough.
    check(Members::OthersStay, 3, 1, 2);
}

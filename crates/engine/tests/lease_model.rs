//! Leases, every interleaving: a leader renews its own, is replaced by another at any moment and does not hear of it,
//! messages take any time (for ever, too), members and the old leader start anew, and the new one asks the old one to give
//! its lease up. Never may the old one, or one who led before that, count on a lease while the new one serves (K14).
//!
//! Time goes in ticks, two a lease.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::replication::{Former, Granted, Grants, LEASE, Lease, Peer, Term};
use rt::Instant;
use stateright::{Checker, Model, Property};
use types::{Rank, TargetIndex};

/// The old leader, the new one, and somebody else, who led before the old one.
const NODES: usize = 3;
const OLD: usize = 0;
const NEW: usize = 1;
const OLDER: usize = 2;

/// Who is a member of which reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Members {
    /// The old leader is excluded, the others stay.
    OthersStay,
    /// The old leader stays, and nobody else: it is on its way out, and another leads already.
    OldLeaderStays,
    /// The new one was a member of an earlier reign of the old leader, and is none of its last.
    NewOneWasAway,
}

impl Members {
    fn of_old(self) -> &'static [usize] {
        match self {
            Members::OthersStay => &[OLD, NEW, OLDER],
            Members::OldLeaderStays | Members::NewOneWasAway => &[OLD, OLDER],
        }
    }

    fn of_older(self) -> &'static [usize] {
        match self {
            Members::OthersStay => &[OLD, NEW, OLDER],
            Members::OldLeaderStays => &[OLD, OLDER],
            Members::NewOneWasAway => &[NEW, OLDER],
        }
    }

    fn of_new(self) -> &'static [usize] {
        match self {
            Members::OthersStay => &[NEW, OLDER],
            Members::OldLeaderStays | Members::NewOneWasAway => &[NEW, OLD],
        }
    }
}
const TICKS_A_LEASE: u32 = 2;

fn peer(node: usize) -> Peer {
    Peer { rank: Rank(node as u32), target: TargetIndex(0) }
}

/// Of the leaders, in their order.
fn term(node: usize) -> Term {
    let interval = match node {
        OLDER => 1,
        OLD => 2,
        _ => 3,
    };
    Term { interval, round: 0 }
}

fn tick() -> Duration {
    LEASE / TICKS_A_LEASE
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Renew {
        asked: u32,
        reign: u8,
    },
    Renewed {
        asked: u32,
        reign: u8,
    },
    /// The new leader asks what members hold; they follow it from then on.
    Ask,
    /// How long leases of others still run.
    Report {
        granted: Vec<Granted>,
    },
    /// The new leader asks a former one.
    GiveUp,
    GaveUp {
        served: Term,
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
    /// Whom a member follows; durable.
    follows: Vec<Term>,
    /// Of the old leader.
    lease: Lease,
    /// How often it began anew: an answer to what it was before is none to what it is.
    reign: u8,
    /// It knew at some time that nobody of before counts on a lease.
    old_served: bool,
    /// Of who led before.
    older: Lease,
    /// Who told the new leader what it had granted.
    reports: BTreeSet<usize>,
    former: Former,
    flaw: Option<Flaw>,
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

/// What models are built with to see that they find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flaw {
    /// Leaders do not ask their own members for a lease.
    OwnIsNotAsked,
    /// Who gave its lease up counts on it all the same.
    ServesAfterGivingUp,
    /// An answer to what was asked before it gave its lease up renews it.
    LateRenewalCounts,
    /// A former leader is asked when one member has named it, and others may yet grant it a lease anew.
    AskedEarly,
    /// The old leader says that it served while somebody counted on a lease of before.
    ServesTooEarly,
    /// One who gives up counts for all who led before.
    OneForAll,
}

struct Group {
    members: Members,
    flaw: Option<Flaw>,
    /// Somebody led before the old leader, and its lease runs at the start.
    has_older: bool,
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

    fn older_holds(&self) -> bool {
        self.older.holds(self.members.of_older().iter().copied().map(peer), self.at(self.now))
    }

    fn all_follow(&self) -> bool {
        self.members.of_new().iter().all(|node| self.reports.contains(node))
    }

    fn new_serves(&self) -> bool {
        self.all_follow() && self.former.over().is_none_or(|over| over <= self.at(self.now))
    }

    fn deliver(&mut self, (from, to, message): Envelope) {
        let now = self.at(self.now);
        match message {
            // A member answers the leader it follows only.
            Message::Renew { asked, reign } if self.follows[to] <= term(OLD) => {
                self.follows[to] = term(OLD);
                self.grants[to].grant(peer(from), now, LEASE);
                self.net.insert((to, from, Message::Renewed { asked, reign }));
            }
            Message::Renew { .. } => {}
            Message::Renewed { asked, reign } => {
                if reign == self.reign || self.flaw == Some(Flaw::LateRenewalCounts) {
                    self.lease.renewed(peer(from), self.at(asked));
                }
            }
            Message::Ask => {
                self.follows[to] = term(NEW);
                let granted = self.grants[to].left(peer(from), now);
                self.grants[to].grant(peer(from), now, LEASE);
                self.net.insert((to, from, Message::Report { granted }));
            }
            Message::Report { granted } => {
                self.reports.insert(from);
                self.former.report(&granted, now);
                if self.all_follow() || self.flaw == Some(Flaw::AskedEarly) {
                    let to_ask: Vec<Peer> = self.former.to_ask(now).collect();
                    self.net.extend(to_ask.into_iter().map(|to| (NEW, to.rank.0 as usize, Message::GiveUp)));
                }
            }
            Message::GiveUp => {
                let served = match to {
                    OLD if self.old_served => term(OLD),
                    OLDER => term(OLDER),
                    _ => Term::default(),
                };
                if self.flaw != Some(Flaw::ServesAfterGivingUp) {
                    match to {
                        OLDER => self.older = Lease::of(LEASE),
                        _ => (self.lease, self.reign) = (Lease::of(LEASE), self.reign + 1),
                    }
                }
                self.net.insert((to, from, Message::GaveUp { served }));
            }
            Message::GaveUp { served } => {
                self.former.gave_up(peer(from), served);
                if self.flaw == Some(Flaw::OneForAll) {
                    (0..NODES).for_each(|node| self.former.gave_up(peer(node), Term::default()));
                }
            }
        }
    }
}

impl Model for Group {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let start = Instant::from_nanos(1_000_000_000);
        let mut state = State {
            members: self.members,
            // No process of before is left.
            now: TICKS_A_LEASE,
            net: BTreeSet::new(),
            grants: vec![Grants::begin(start, Grants::ANY); NODES],
            is_asked: false,
            follows: vec![term(if self.has_older { OLDER } else { OLD }); NODES],
            lease: Lease::of(LEASE),
            reign: 0,
            old_served: !self.has_older || self.flaw == Some(Flaw::ServesTooEarly),
            older: Lease::of(LEASE),
            reports: BTreeSet::new(),
            former: Former::default(),
            flaw: self.flaw,
            renewals: self.renewals,
            restarts: self.restarts,
        };
        if self.members == Members::NewOneWasAway {
            let now = state.at(state.now);
            state.grants[NEW].grant(peer(OLD), now, LEASE);
        }
        if self.has_older {
            let now = state.at(state.now);
            for member in self.members.of_older() {
                state.grants[*member].grant(peer(OLDER), now, LEASE);
                state.older.renewed(peer(*member), now);
            }
        }
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
            steps.extend((0..NODES).map(Step::Restart));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick => {
                state.now += 1;
                state.old_served |= !state.older_holds();
            }
            Step::Renew => {
                state.renewals -= 1;
                let (asked, now, reign) = (state.now, state.at(state.now), state.reign);
                let others = state.members.of_old().iter().filter(|to| **to != OLD);
                state.net.extend(others.map(|to| (OLD, *to, Message::Renew { asked, reign })));
                // Its own member is asked at once.
                if self.flaw == Some(Flaw::OwnIsNotAsked) {
                    state.lease.renewed(peer(OLD), now);
                } else if state.follows[OLD] <= term(OLD) {
                    state.follows[OLD] = term(OLD);
                    state.grants[OLD].grant(peer(OLD), now, LEASE);
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
                state.grants[node] = Grants::begin(state.at(state.now), state.follows[node]);
                match node {
                    OLD => {
                        (state.lease, state.reign) = (Lease::of(LEASE), state.reign + 1);
                        state.old_served = false;
                    }
                    OLDER => state.older = Lease::of(LEASE),
                    // What it led with is gone, too; another life of it begins anew, which is another run.
                    _ => (state.reports, state.former) = Default::default(),
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("K14: not both", |_, state: &State| {
                !(state.new_serves() && (state.old_holds() || state.older_holds()))
            }),
            // The tests of the test: both are reached.
            Property::sometimes("the old one has a lease", |_, state: &State| state.old_holds()),
            Property::sometimes("the new one serves", |_, state: &State| state.new_serves()),
            Property::sometimes("the new one serves within the old one's lease", |_, state: &State| {
                state.new_serves() && state.now == TICKS_A_LEASE
            }),
            Property::sometimes("the old one has a lease and was replaced", |_, state: &State| {
                state.old_holds() && state.follows.contains(&term(NEW))
            }),
        ]
    }
}

fn explore(group: Group) -> impl Checker<Group> {
    group.checker().threads(2).spawn_bfs().join()
}

fn check(members: Members, has_older: bool, ticks: u32, renewals: u8, restarts: u8) {
    let checker = explore(Group { members, flaw: None, has_older, ticks, renewals, restarts });
    println!("{members:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// The model's own tests: what it is built to find, it finds.
fn finds(members: Members, flaw: Flaw, has_older: bool, renewals: u8) {
    let restarts = u8::from(flaw == Flaw::ServesTooEarly);
    let checker = explore(Group { members, flaw: Some(flaw), has_older, ticks: 3, renewals, restarts });
    assert!(checker.discoveries().contains_key("K14: not both"), "{flaw:?} is not found");
}

#[test]
fn no_two_leaders_count_on_a_lease_at_once() {
    check(Members::OthersStay, false, 3, 2, 0);
}

#[test]
fn the_old_leader_itself_keeps_the_new_one_waiting() {
    check(Members::OldLeaderStays, false, 4, 2, 0);
}

#[test]
fn who_led_before_the_old_leader_speaks_for_itself() {
    check(Members::OthersStay, true, 2, 1, 0);
    check(Members::OldLeaderStays, true, 3, 2, 0);
}

#[test]
fn a_lease_of_an_earlier_reign_is_given_up_with_the_last() {
    check(Members::NewOneWasAway, false, 3, 2, 0);
}

#[test]
fn a_member_that_starts_anew_remembers_no_grant_and_allows_for_one() {
    // Both: the word of one that did not is enough. The old leader among them, after it gave its lease up.
    check(Members::OthersStay, false, 2, 1, 2);
    check(Members::OldLeaderStays, false, 2, 2, 1);
}

#[test]
fn who_was_away_and_starts_anew_is_not_waited_for() {
    check(Members::NewOneWasAway, true, 2, 1, 1);
}

#[test]
fn a_leader_that_says_too_early_that_it_served_is_found_out() {
    finds(Members::NewOneWasAway, Flaw::ServesTooEarly, true, 1);
}

#[test]
fn a_leader_that_does_not_ask_its_own_member_is_found_out() {
    finds(Members::OldLeaderStays, Flaw::OwnIsNotAsked, false, 1);
}

#[test]
fn a_leader_that_serves_after_giving_its_lease_up_is_found_out() {
    finds(Members::OthersStay, Flaw::ServesAfterGivingUp, false, 1);
}

#[test]
fn a_renewal_that_comes_after_the_lease_was_given_up_is_found_out() {
    finds(Members::OthersStay, Flaw::LateRenewalCounts, false, 2);
}

#[test]
fn a_former_leader_that_is_asked_before_all_follow_is_found_out() {
    finds(Members::NewOneWasAway, Flaw::AskedEarly, false, 1);
}

#[test]
fn a_former_leader_that_speaks_for_others_is_found_out() {
    finds(Members::OthersStay, Flaw::OneForAll, true, 1);
}

/// A lease of 0.3 s, a tenth of it left out, would have left 30 ms between a leader and the next, whose clock may be 50 ms behind,
/// or 100 behind that of the first: what was read at a moment that was told could have been changed at that moment.
#[test]
fn a_short_lease_leaves_as_much_for_clocks_as_a_long_one() {
    for millis in [180, 300, 700, 1000, 5000] {
        let lease = Lease::of(Duration::from_millis(millis));
        assert!(lease.asked_for() <= LEASE && lease.trusted() > Duration::ZERO);
        assert!(lease.asked_for() - lease.trusted() >= 2 * rt::EPSILON, "{millis} ms");
        assert!(lease.asked_for() - lease.trusted() >= lease.asked_for() / 10, "{millis} ms");
    }
}

//! What members say, as the wire has it and as the machines have it.

use std::time::Duration;

use wire::group::{GroupChange, GroupDecision, GroupLease, GroupPeer, GroupReport, GroupTerm, GroupUndecided};

use crate::replication::{Change, Granted, Outcome, Peer, Report, Term};

pub(super) fn peer_out(peer: Peer) -> GroupPeer {
    GroupPeer { rank: peer.rank, target: peer.target }
}

pub(super) fn peer_in(peer: &GroupPeer) -> Peer {
    Peer { rank: peer.rank, target: peer.target }
}

pub(super) fn term_out(term: Term) -> GroupTerm {
    GroupTerm { interval: term.interval, round: term.round }
}

pub(super) fn term_in(term: GroupTerm) -> Term {
    Term { interval: term.interval, round: term.round }
}

pub(super) fn change_out(change: Change) -> GroupChange {
    GroupChange { term: term_out(change.term), number: change.number }
}

pub(super) fn change_in(change: GroupChange) -> Change {
    Change { term: term_in(change.term), number: change.number }
}

pub(super) fn decisions_out(decided: &[(Change, Outcome)]) -> Vec<GroupDecision> {
    let decision = |(change, outcome): &(Change, Outcome)| GroupDecision {
        change: change_out(*change),
        is_committed: *outcome == Outcome::Committed,
    };
    decided.iter().map(decision).collect()
}

pub(super) fn decisions_in(decided: &[GroupDecision]) -> Vec<(Change, Outcome)> {
    let outcome = |decision: &GroupDecision| match decision.is_committed {
        true => Outcome::Committed,
        false => Outcome::Aborted,
    };
    decided.iter().map(|decision| (change_in(decision.change), outcome(decision))).collect()
}

pub(super) fn report_out(report: Report, granted: Vec<Granted>) -> GroupReport {
    let undecided = |(change, members): (Change, Vec<Peer>)| GroupUndecided {
        change: change_out(change),
        members: members.into_iter().map(peer_out).collect(),
    };
    GroupReport {
        prepared: report.prepared.into_iter().map(undecided).collect(),
        decided: decisions_out(&report.decided),
        settled: change_out(report.settled),
        leases: granted.into_iter().map(lease_out).collect(),
    }
}

fn lease_out(granted: Granted) -> GroupLease {
    // Rounded up: nobody may serve too early.
    let millis = |left: Duration| left.as_nanos().div_ceil(1_000_000).min(u128::from(u32::MAX)) as u32;
    match granted {
        Granted::To { peer, left } => GroupLease::To { peer: peer_out(peer), left_ms: millis(left) },
        Granted::Unknown { upto, left } => GroupLease::Unknown { upto: term_out(upto), left_ms: millis(left) },
    }
}

fn lease_in(lease: &GroupLease) -> Granted {
    let millis = |left: u32| Duration::from_millis(left.into());
    match *lease {
        GroupLease::To { peer, left_ms } => Granted::To { peer: peer_in(&peer), left: millis(left_ms) },
        GroupLease::Unknown { upto, left_ms } => Granted::Unknown { upto: term_in(upto), left: millis(left_ms) },
    }
}

pub(super) fn report_in(report: &GroupReport) -> (Report, Vec<Granted>) {
    let undecided = |held: &GroupUndecided| (change_in(held.change), held.members.iter().map(peer_in).collect());
    let known = Report {
        prepared: report.prepared.iter().map(undecided).collect(),
        decided: decisions_in(&report.decided),
        settled: change_in(report.settled),
    };
    (known, report.leases.iter().map(lease_in).collect())
}

//! What must hold of the evidence that a run left: one function an invariant, whatever the run was about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use placement::{Event, GroupNumber, Layout, PoolMap, TargetState};
use types::{Epoch, PoolId};
use vos::{ChangeId, ChangeState};

use crate::cluster::TARGETS;
use crate::contents::{Contents, Place};
use crate::serial::{self, Versions};
use crate::trial::Evidence;
use crate::work::DEADLINE;

/// Over its deadline, a request may take this much: an attempt that was begun before it ends with its own.
const SLACK: Duration = Duration::from_secs(1);
/// In which a server ends, whatever it is doing: requests under way get ten seconds, its services five.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Every run is judged by all of them.
pub fn all(evidence: &Evidence) {
    acknowledged_writes_are_there(evidence);
    members_hold_the_same(evidence);
    requests_took_effect_once(evidence);
    nothing_is_undecided(evidence);
    copies_are_apart(evidence);
    targets_changed_as_they_may(evidence);
    single_keys_are_linearizable(evidence);
    the_past_does_not_change(evidence);
    replicas_agree(evidence);
    requests_ended_in_time(evidence);
    stops_ended_in_time(evidence);
    many_keys_are_serialisable(evidence);
}

/// K1: what was acknowledged is there, at its epoch; what one client alone wrote last, now.
pub fn acknowledged_writes_are_there(evidence: &Evidence) {
    for ((value, told), found) in evidence.ledger.acknowledged.iter().zip(&evidence.told_again) {
        let is_there = found.iter().all(|found| found.as_ref() == Some(value));
        assert!(is_there, "K1: {} at {} holds {found:?}, and {value} was acknowledged", told.dkey, told.epoch);
    }
    for ((dkey, expected), found) in evidence.ledger.own.iter().zip(&evidence.own_again) {
        assert_eq!(found, expected, "K1: {dkey}");
    }
    let there: BTreeSet<&String> = evidence.containers.iter().collect();
    for label in &evidence.ledger.containers {
        assert!(there.contains(label), "K1: container {label} is gone");
    }
}

/// K2: at rest, all members of a placement group have committed the same; and nobody took for committed what another took
/// for aborted.
pub fn members_hold_the_same(evidence: &Evidence) {
    let mut outcomes: BTreeMap<(PoolId, ChangeId), ChangeState> = BTreeMap::new();
    for (key, state) in evidence.contents.iter().flatten().flat_map(|contents| &contents.decided) {
        let before = outcomes.insert(*key, *state);
        assert!(before.is_none_or(|before| before == *state), "K2: {key:?} is {before:?} and {state:?}");
    }
    let map = evidence.maps.last().expect("the map was asked for at the end");
    let layout = Layout::new(map.clone());
    for (group, members) in members(evidence, &layout) {
        let held = |contents: &Contents| -> BTreeMap<Place, Option<Vec<u8>>> {
            let of_group = contents.values.iter().filter(|(place, _)| place.0 == group);
            of_group.map(|(place, value)| (place.clone(), value.clone())).collect()
        };
        let first = held(members[0].1);
        for (position, contents) in &members[1..] {
            let other = held(contents);
            let missing: Vec<&Place> = first.keys().filter(|place| other.get(*place) != first.get(*place)).collect();
            let more: Vec<&Place> = other.keys().filter(|place| !first.contains_key(*place)).collect();
            assert!(
                missing.is_empty() && more.is_empty(),
                "K2, K13: group {group:#x}: of what target {} has, target {position} lacks {missing:?}; it has more: {more:?}",
                members[0].0,
            );
        }
    }
}

/// Of each placement group that holds something: its serving members, with what they hold.
fn members<'a>(evidence: &'a Evidence, layout: &Layout) -> BTreeMap<u32, Vec<(u32, &'a Contents)>> {
    let stored = evidence.contents.iter().flatten();
    let groups: BTreeSet<u32> = stored.flat_map(|contents| contents.values.keys().map(|place| place.0)).collect();
    let of_group = |group: u32| {
        let number = GroupNumber::from_u32(group).expect("stores hold groups that there are");
        let serving = layout.slots(number.pg(), number.width()).into_iter().filter_map(|slot| slot.serving);
        let contents = |position: u32| {
            let target = &layout.map().targets()[position as usize];
            (position, &evidence.contents[target.rank.0 as usize][target.index.0 as usize])
        };
        (group, serving.map(contents).collect())
    };
    groups.into_iter().map(of_group).collect()
}

/// K5: every value has one version, where it was told, and nobody wrote what nobody asked for.
pub fn requests_took_effect_once(evidence: &Evidence) {
    let ledger = &evidence.ledger;
    let mut epochs: BTreeMap<String, BTreeSet<Epoch>> = BTreeMap::new();
    for (place, value) in committed(evidence) {
        epochs.entry(value).or_default().insert(place.3);
    }
    for (value, epochs) in &epochs {
        assert_eq!(epochs.len(), 1, "K5: {value} was written {} times, at {epochs:?}", epochs.len());
        match ledger.acknowledged.get(value) {
            Some(told) => assert!(epochs.contains(&told.epoch), "K5: {value} was answered with another epoch"),
            None => assert!(ledger.unknown.contains(value), "{value} was written by nobody"),
        }
    }
    for value in ledger.acknowledged.keys() {
        assert!(epochs.contains_key(value), "K1: {value} is in no store of a member");
    }
}

/// Every version that the first serving member of its group holds.
fn committed(evidence: &Evidence) -> impl Iterator<Item = (Place, String)> {
    let map = evidence.maps.last().expect("the map was asked for at the end");
    let layout = Layout::new(map.clone());
    let mut all = Vec::new();
    for (group, members) in members(evidence, &layout) {
        let of_group = members[0].1.values.iter().filter(|(place, _)| place.0 == group);
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).trim_end_matches('.').to_string();
        all.extend(of_group.filter_map(|(place, value)| Some((place.clone(), text(value.as_ref()?)))));
    }
    all.into_iter()
}

/// K10: some seconds after all is well, nothing waits for a decision anywhere.
pub fn nothing_is_undecided(evidence: &Evidence) {
    for (rank, contents) in evidence.contents.iter().enumerate() {
        for (index, contents) in contents.iter().enumerate() {
            assert!(contents.undecided.is_empty(), "K10: target {rank}.{index} waits for {:?}", contents.undecided);
        }
    }
}

/// K12: by every map that was seen, members of a group fail apart, as far as there are domains; whoever works the layout out
/// has the same; and a group none of whose members changed is as it was.
pub fn copies_are_apart(evidence: &Evidence) {
    let mut before: Option<Layout> = None;
    for map in &evidence.maps {
        let layout = Layout::new(map.clone());
        assert_eq!(layout.digest(), Layout::new(map.clone()).digest(), "K12: map {}", map.version());
        for pg in (0..layout.pg_count()).step_by(7) {
            let slots = layout.slots(pg, 2);
            let serving: Vec<u32> = slots.iter().filter_map(|slot| slot.serving).collect();
            // Who stands in for those that are out may have to stand beside others; on a server of its own, it does.
            let is_whole = all_in(map);
            let domain = |server: u32| match is_whole {
                true => map.servers()[server as usize].path.parts().next().map(String::from),
                false => Some(server.to_string()),
            };
            let in_service = map.targets().iter().filter(|target| target.state().serves());
            let possible: BTreeSet<_> = in_service.map(|target| domain(target.server)).collect();
            let used: BTreeSet<_> =
                serving.iter().map(|position| domain(map.targets()[*position as usize].server)).collect();
            assert!(
                used.len() == serving.len().min(possible.len()),
                "K12: map {}: copies of group {pg} share a domain: {serving:?}",
                map.version()
            );
            let Some(old) = &before else { continue };
            let was = old.slots(pg, 2);
            let has_changed = was.iter().flat_map(|slot| slot.writers().chain(slot.lost)).any(|position| {
                old.map().targets()[position as usize].state() != map.targets()[position as usize].state()
            });
            if !has_changed && all_in(old.map()) {
                assert_eq!(slots, was, "K12: map {}: group {pg} moved, and none of its members changed", map.version());
            }
        }
        before = Some(layout);
    }
}

fn all_in(map: &PoolMap) -> bool {
    map.targets().iter().all(|target| target.state() == TargetState::UpIn)
}

/// K13: versions only grow, and every target went from state to state as the table has it.
pub fn targets_changed_as_they_may(evidence: &Evidence) {
    for (before, after) in evidence.maps.iter().zip(evidence.maps.iter().skip(1)) {
        // Another server may be behind, never in disagreement.
        let (old, new) = if before.version() <= after.version() { (before, after) } else { (after, before) };
        for (position, (was, is)) in old.targets().iter().zip(new.targets()).enumerate() {
            let standing = is.standing_at(old.version()).expect("a target stays known");
            assert_eq!(standing, was.standing(), "K13: two maps disagree about target {position} at {}", old.version());
        }
        for version in old.version()..new.version() {
            for (position, target) in new.targets().iter().enumerate() {
                let state = |version: u32| target.standing_at(version).map(|standing| standing.state);
                let (Some(was), Some(is)) = (state(version), state(version + 1)) else { continue };
                let may = was == is || Event::ALL.iter().any(|event| was.after(*event) == Ok(Some(is)));
                assert!(may, "K13: target {position} went from {was} to {is} in map {}", version + 1);
            }
        }
    }
}

/// K14: what clients saw of single keys, one after another explains, whoever led when.
pub fn single_keys_are_linearizable(evidence: &Evidence) {
    evidence.ledger.histories.check().unwrap_or_else(|why| panic!("K14: {why}"));
}

/// K4: operations on several keys have an order, which is that of their epochs.
pub fn many_keys_are_serialisable(evidence: &Evidence) {
    let mut versions = Versions::new();
    for ((_, dkey, akey, epoch), value) in committed(evidence) {
        versions.entry((dkey, akey)).or_default().push((epoch, value));
    }
    versions.values_mut().for_each(|versions| versions.sort());
    serial::check(&evidence.ledger.transactions, &versions).unwrap_or_else(|why| panic!("K4: {why}"));
}

/// K18, K3: what was read at a moment stays what was at that moment, whoever has led and restarted since.
pub fn the_past_does_not_change(evidence: &Evidence) {
    for (look, again) in evidence.ledger.looks.iter().zip(&evidence.looks_again) {
        assert_eq!(
            look.found, *again,
            "K18: {} at {}: something was written before a moment that was read",
            look.dkey, look.at
        );
    }
}

/// K19: replicas of the services hold the same bytes.
pub fn replicas_agree(evidence: &Evidence) {
    for (rank, states) in evidence.states.iter().enumerate() {
        let first = &evidence.states[0];
        let groups: BTreeSet<&String> = states.keys().chain(first.keys()).collect();
        for group in groups {
            assert_eq!(states.get(group), first.get(group), "K19: {group}: rank {rank} and rank 0 differ");
        }
    }
}

/// K21: every request ended by its deadline, answered or not.
pub fn requests_ended_in_time(evidence: &Evidence) {
    let slowest = evidence.ledger.slowest;
    assert!(slowest <= DEADLINE + SLACK, "K21: a request with a deadline of {DEADLINE:?} took {slowest:?}");
}

/// K24: every server that was told to end ended.
pub fn stops_ended_in_time(evidence: &Evidence) {
    let slowest = evidence.harm.slowest_stop;
    assert!(slowest <= STOP_MAX, "K24: a server took {slowest:?} to end");
}

const _: () = assert!(TARGETS > 1, "servers of several targets, so that copies could share one");

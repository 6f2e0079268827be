//! Healing: what the pool's leader says of a map in which something is under way, after what its servers reported.
//!
//! ```text
//!   target failed ------> substitutes fill -----------------> Rebuilt: it is away, and its copies are elsewhere
//!      came back   -----> it fills -------------------------> Reintegrated
//!   away, came back ----> it fills -------------------------> Arrived
//!   drains, is new -----> whoever is to take over fills ----> Arrived
//!   away, given up -----------------------------------------> GivenUp
//! ```
//! All of it is functions of the map; what they say is proposed for the map's version, so that it is void once
//! something else has happened.
//!
//! # Always true
//! 1. Nothing is finished before all who are to have something have said that they have it, by this version (K12).
//! 2. A failure is not finished while a group that may have copies is served by nobody: all who had it are out, and
//!    whoever stands in for them has nothing. It waits for one of them, or until they are given up (K1). What may have
//!    copies are groups of the pool's widths in use, which lie in one state with the map: whoever may write by an older
//!    map knows no width that came later.
//! 3. What has one copy only is never taken for rebuilt: see [`placement`].

use std::collections::{BTreeMap, BTreeSet};

use placement::{CameFrom, Change, Event, Layout, PoolMap, Slot, Target, TargetState};
use types::{PoolId, Rank};
use wire::control::{Rebuild, RebuildState};
use wire::peer::Filling;

use super::Service;
use super::pool::{Finished, PoolState};
use super::slot::Followed;
use crate::target::order::Heal;

/// Placement groups that are looked at in one step.
const GROUPS_AT_ONCE: u32 = 1024;

/// It failed, and has not begun to come back.
pub(super) fn is_out(state: TargetState) -> bool {
    matches!(state, TargetState::Down | TargetState::Away)
}

/// What happens to which targets when that comes to its end.
pub(super) fn events(
    map: &PoolMap,
    given_up: &BTreeSet<u32>,
    drained: &BTreeSet<u32>,
    what: Finished,
) -> Vec<(u32, Event)> {
    let last = last_awaited(map);
    let event = |position: u32, target: &Target| match (what, target.state()) {
        (Finished::Rebuilt, TargetState::Down) => Some(Event::Rebuilt),
        (Finished::Arrived, TargetState::Drain) => Some(Event::Drained),
        (Finished::Arrived, TargetState::Up(CameFrom::New)) => Some(Event::Extended),
        (Finished::Arrived, TargetState::Up(CameFrom::Away | CameFrom::DownOut)) => Some(Event::Reintegrated),
        (Finished::GivenUp, TargetState::Away) if given_up.contains(&position) => Some(Event::GiveUp),
        (Finished::Resumed, TargetState::UpIn) if drained.contains(&position) => Some(Event::Drain),
        (Finished::PutOff, state) if arrives(state) && target.standing().left < last => Some(Event::Cancel),
        _ => None,
    };
    let targets = map.targets().iter().zip(0..);
    targets.filter_map(|(target, position)| Some((position, event(position, target)?))).collect()
}

/// What has come to its end, if anything has. `is_full`: a server has all that it is to have. `is_ready`: somebody
/// serves each group that has copies, and the pool's policy is to make anew what failed.
pub(super) fn finished(
    map: &PoolMap,
    given_up: &BTreeSet<u32>,
    drained: &BTreeSet<u32>,
    is_full: impl Fn(Rank) -> bool,
    is_ready: bool,
) -> Option<Finished> {
    let any = |is: &dyn Fn(TargetState) -> bool| map.targets().iter().any(|target| is(target.state()));
    let would = |what| !events(map, given_up, drained, what).is_empty();
    if would(Finished::GivenUp) {
        return Some(Finished::GivenUp);
    }
    let all_full = || {
        let taking: BTreeSet<Rank> =
            map.targets().iter().filter(|target| target.state().gets_writes()).map(|target| target.rank).collect();
        taking.into_iter().all(&is_full)
    };
    if any(&|state| state == TargetState::Down) {
        let nobody_is_awaited = || {
            let mut out = map.targets().iter().zip(0..).filter(|(target, _)| is_unfinished(target.state()));
            out.all(|(_, position)| given_up.contains(&position))
        };
        return ((is_ready || nobody_is_awaited()) && all_full()).then_some(Finished::Rebuilt);
    }
    if any(&|state| state == TargetState::Up(CameFrom::Down)) {
        return None;
    }
    if would(Finished::PutOff) {
        return Some(Finished::PutOff);
    }
    // Not while nobody else is in service who could take what it has: the leader would try again and again, and do nothing else.
    let can = |what| map.clone().apply(&Change::Happen(events(map, given_up, drained, what))).is_ok();
    if would(Finished::Resumed) && can(Finished::Resumed) {
        return Some(Finished::Resumed);
    }
    (would(Finished::Arrived) && all_full()).then_some(Finished::Arrived)
}

/// The server that was out, is on its way in, and may be taken in when it has all that it is to have from those who serve.
///
/// Who is in service has all of its groups. When all others are, whatever this one is to have was to be had from them; and
/// a group without another copy was written by nobody while it was out. While others are out, too, it must be the last of
/// them to have served: a group that nobody serves was not written since, so that it has all of that group, where one that
/// served before may lack something. Those that were given up are not waited for; those that an administrator keeps out
/// stay behind, and count among those that are out.
pub(super) fn returned(map: &PoolMap, given_up: &BTreeSet<u32>, kept_out: &BTreeSet<u32>) -> Option<Rank> {
    let out = || {
        let targets = map.targets().iter().zip(0..).filter(|(target, _)| is_unfinished(target.state()));
        targets.filter(|(_, position)| !given_up.contains(position)).map(|(target, _)| target)
    };
    let served = |target: &Target| target.standing().served;
    let last = out().map(served).max()?;
    let may_come = |rank: &Rank| {
        let is_alone = out().all(|target| target.rank == *rank);
        let mine = map.targets().iter().zip(0..).filter(|(target, _)| target.rank == *rank);
        let stays = |state, position| state == TargetState::Down && kept_out.contains(&position);
        let coming = |(target, position): (&'_ Target, u32)| {
            let comes = is_unfinished(target.state()) && !stays(target.state(), position);
            comes.then(|| (target.state(), served(target)))
        };
        let mut mine = mine.filter_map(coming).peekable();
        mine.peek().is_some()
            && mine.all(|(state, served)| state == TargetState::Up(CameFrom::Down) && (is_alone || served == last))
    };
    map.servers().iter().map(|server| server.rank).find(may_come)
}

/// What happens to targets of servers that are there again. What an administrator keeps out stays out; what is out for good
/// comes when he wanted it back, and it was put off: because its server died on its way in, or because somebody failed whose
/// places it might have been given.
pub(super) fn returning(
    map: &PoolMap,
    ranks: &[Rank],
    kept_out: &BTreeSet<u32>,
    wanted_back: &BTreeSet<u32>,
) -> Vec<(u32, Event)> {
    let last = last_awaited(map);
    let may_come = |(target, position): &(&Target, u32)| match target.state() {
        TargetState::Down => !kept_out.contains(position),
        // Nobody who left later is awaited.
        TargetState::Away => !kept_out.contains(position) && target.standing().left >= last,
        TargetState::DownOut => wanted_back.contains(position) && target.standing().left >= last,
        _ => false,
    };
    let targets = map.targets().iter().zip(0..).filter(|(target, _)| ranks.contains(&target.rank));
    targets.filter(may_come).map(|(_, position)| (position, Event::Reintegrate)).collect()
}

/// It is out, or on its way back without anybody who stands in for it.
fn is_unfinished(state: TargetState) -> bool {
    matches!(state, TargetState::Down | TargetState::Up(CameFrom::Down))
}

/// It ends with an arrival, which those that are awaited may be in the way of.
fn arrives(state: TargetState) -> bool {
    matches!(state, TargetState::Drain | TargetState::Up(CameFrom::New | CameFrom::Away | CameFrom::DownOut))
}

/// What only targets have that are out, or on their way back, is waited for: nobody may take their places.
pub(super) fn is_awaiting(map: &PoolMap) -> bool {
    last_awaited(map) > 0
}

/// Who is awaited.
pub(super) fn awaited(map: &PoolMap) -> BTreeSet<Rank> {
    map.targets().iter().filter(|target| is_awaited(target.state())).map(|target| target.rank).collect()
}

fn is_awaited(state: TargetState) -> bool {
    matches!(state, TargetState::Down | TargetState::Away | TargetState::Up(CameFrom::Away))
}

/// When the last of those left that are awaited; zero: nobody is.
fn last_awaited(map: &PoolMap) -> u32 {
    let awaited = map.targets().iter().map(Target::standing).filter(|standing| is_awaited(standing.state));
    awaited.map(|standing| standing.left).max().unwrap_or(0)
}

/// Whether nobody serves a group that may have data: it has copies, and was served by somebody when its width came into
/// use (`since`) or later. Where nothing is said of who had it any more, it may have any.
fn is_orphaned(map: &PoolMap, slots: &[Slot], since: u32) -> bool {
    let mut lost = slots.iter().filter_map(|slot| slot.lost).peekable();
    let may_have_data =
        lost.peek().is_none() || lost.any(|position| map.targets()[position as usize].standing().served >= since);
    // A pool that has only one target has no copies.
    slots.len() > 1 && slots.iter().all(|slot| slot.serving.is_none()) && may_have_data
}

impl Service {
    /// Whether somebody serves each group of a pool that may have copies of anything.
    ///
    /// Cost: nothing while no target is down; else, once a version and set of widths, a walk over all groups of these widths
    /// in steps.
    pub(super) async fn is_served(&self, pool: &PoolState) -> bool {
        let Some(map) = pool.map() else { return true };
        if !map.targets().iter().any(|target| is_unfinished(target.state())) {
            return true;
        }
        // Widths only come to it: how many there are says which.
        let key = (map.version(), pool.widths.len());
        if let Some((known, is_served)) = self.served.borrow().get(&pool.id)
            && *known == key
        {
            return *is_served;
        }
        let layout = Layout::new(map.clone());
        let mut is_served = true;
        // A wider group has somebody left in service.
        let idle = map.targets().iter().filter(|target| target.state() != TargetState::New && !target.state().serves());
        let idle = idle.count() as u32;
        'all: for (&width, &since) in pool.widths.range(..=idle) {
            for pg in 0..layout.pg_count() {
                if is_orphaned(map, &layout.slots(pg, width as usize), since) {
                    is_served = false;
                    break 'all;
                }
                if pg % GROUPS_AT_ONCE == GROUPS_AT_ONCE - 1 {
                    rt::yield_now().await;
                }
            }
        }
        let mut served = self.served.borrow_mut();
        // Of pools that are gone nobody asks any more.
        served.retain(|id, _| self.pools.borrow().contains_key(id));
        served.insert(pool.id, (key, is_served));
        is_served
    }

    /// How far a pool's healing has come.
    pub(super) async fn rebuild(&self, pool: &PoolState, reports: BTreeMap<Rank, Followed>) -> Rebuild {
        let map = pool.map();
        let is_served = self.is_served(pool).await;
        let targets = map.map_or(&[][..], PoolMap::targets);
        let is_busy = targets.iter().any(|target| target.state().in_change())
            || self.system.group.local(|system| is_expected(pool, |rank| system.is_joined(rank)));
        let state = match is_busy {
            false => RebuildState::Idle,
            true if pool.heal() == Heal::Nothing => RebuildState::Stopped,
            true if !is_served => RebuildState::Waiting,
            true => RebuildState::Busy,
        };
        let filling: Vec<Filling> = match state {
            RebuildState::Idle => Vec::new(),
            // Of who died on the way, the last word is not news.
            _ => {
                let takes = |rank: &Rank| targets.iter().any(|t| t.rank == *rank && t.state().gets_writes());
                let reports = reports.into_iter().filter(|(rank, _)| takes(rank));
                reports.flat_map(|(_, followed)| followed.filling).collect()
            }
        };
        // What servers say: any numbers.
        let sum = |of: fn(&Filling) -> u64| filling.iter().map(of).fold(0, u64::saturating_add);
        let left_ms = |one: &Filling| one.spent_ms.checked_div(one.groups).map(|each| each.saturating_mul(one.left));
        let seconds = filling.iter().filter(|one| one.left > 0).map(left_ms).collect::<Option<Vec<u64>>>();
        let is_awaited = |state| match state {
            TargetState::Away | TargetState::Up(CameFrom::Away) => true,
            _ => is_unfinished(state) && !is_served,
        };
        let awaited: BTreeSet<Rank> =
            targets.iter().filter(|target| is_awaited(target.state())).map(|target| target.rank).collect();
        Rebuild {
            state,
            groups: sum(|one| one.groups),
            left: sum(|one| one.left),
            records: sum(|one| one.records),
            bytes: sum(|one| one.bytes),
            same: sum(|one| one.same),
            anew: sum(|one| one.anew),
            seconds_left: seconds.and_then(|all| all.into_iter().max()).map(|ms| ms.div_ceil(1000)),
            awaited: awaited.into_iter().collect(),
        }
    }
}

/// An administrator wants targets back that are out for good, their servers are there, and nobody has to be there before them:
/// they make their shares, and are on their way in when they have.
pub(super) fn is_expected(pool: &PoolState, is_there: impl Fn(Rank) -> bool) -> bool {
    let Some(map) = pool.map() else { return false };
    let wanted = pool.wanted_back.iter().filter_map(|position| map.targets().get(*position as usize));
    let mut there = wanted.map(|target| target.rank).filter(|rank| is_there(*rank));
    there.any(|rank| !returning(map, &[rank], &pool.kept_out, &pool.wanted_back).is_empty())
}

/// Of pools that were looked at: by which version of the map, and how many widths; and whether all is served.
pub(super) type Served = BTreeMap<PoolId, ((u32, usize), bool)>;

#[cfg(test)]
mod tests {
    use placement::{FaultPath, Server};

    use super::*;

    fn map(servers: u32) -> PoolMap {
        let server = |rank| Server { rank: Rank(rank), path: FaultPath::of_rank(Rank(rank)), targets: 1, weight: 1 };
        PoolMap::create((0..servers).map(server).collect()).unwrap()
    }

    fn happen(map: &mut PoolMap, events: &[(u32, Event)]) {
        map.apply(&Change::Happen(events.to_vec())).unwrap();
    }

    fn finish(map: &mut PoolMap, given_up: &BTreeSet<u32>, what: Finished) {
        happen(map, &events(map, given_up, &NOBODY, what));
    }

    const NOBODY: BTreeSet<u32> = BTreeSet::new();

    #[test]
    fn a_failure_is_over_when_all_who_take_part_are_full_and_everything_is_served() {
        let mut map = map(4);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), None);
        happen(&mut map, &[(3, Event::Exclude)]);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |rank| rank != Rank(2), true), None);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, false), None);
        // Nobody asks the one that is out.
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |rank| rank != Rank(3), true), Some(Finished::Rebuilt));
        finish(&mut map, &NOBODY, Finished::Rebuilt);
        assert_eq!(map.targets()[3].state(), TargetState::Away);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), None);
        // It comes back, and has arrived when all are full.
        assert_eq!(returning(&map, &[Rank(2), Rank(3)], &NOBODY, &NOBODY), [(3, Event::Reintegrate)]);
        happen(&mut map, &[(3, Event::Reintegrate)]);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |rank| rank != Rank(3), true), None);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), Some(Finished::Arrived));
        finish(&mut map, &NOBODY, Finished::Arrived);
        assert!(map.targets().iter().all(|target| target.state() == TargetState::UpIn));
    }

    #[test]
    fn what_is_given_up_is_waited_for_no_longer() {
        let mut map = map(4);
        happen(&mut map, &[(3, Event::Exclude)]);
        happen(&mut map, &[(2, Event::Exclude)]);
        let one = BTreeSet::from([2]);
        let both = BTreeSet::from([2, 3]);
        assert_eq!(finished(&map, &one, &NOBODY, |_| true, false), None);
        assert_eq!(finished(&map, &both, &NOBODY, |_| true, false), Some(Finished::Rebuilt));
        // One came back, and is alone with what it has.
        happen(&mut map, &[(3, Event::Reintegrate)]);
        assert_eq!(returned(&map, &NOBODY, &NOBODY), None);
        assert_eq!(returned(&map, &one, &NOBODY), Some(Rank(3)));
        happen(&mut map, &[(3, Event::Reintegrated)]);
        finish(&mut map, &one, Finished::Rebuilt);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), None);
        assert_eq!(finished(&map, &one, &NOBODY, |_| false, true), Some(Finished::GivenUp));
        finish(&mut map, &one, Finished::GivenUp);
        assert_eq!(map.targets()[2].state(), TargetState::DownOut);
        // Nobody is waiting for it, and it does not come back by itself.
        assert_eq!(returning(&map, &[Rank(2)], &NOBODY, &NOBODY), []);
    }

    /// Once who served last was looked for in the map's history: two that were both out for longer than that were both
    /// taken for having served never, and waited until one was given up.
    #[test]
    fn two_that_were_out_for_longer_than_the_map_looks_back_come_back_by_themselves() {
        let mut map = map(4);
        happen(&mut map, &[(3, Event::Exclude)]);
        happen(&mut map, &[(2, Event::Exclude)]);
        for _ in 0..placement::HISTORY_MAX {
            happen(&mut map, &[(1, Event::Drain)]);
            happen(&mut map, &[(1, Event::Cancel)]);
        }
        assert!(map.floor() > 3, "both left before all that the map knows");
        let back = returning(&map, &[Rank(2), Rank(3)], &NOBODY, &NOBODY);
        happen(&mut map, &back);
        // The last to serve has all; the other may have missed what only that one got.
        for (rank, position) in [(2, 2), (3, 3)] {
            assert_eq!(returned(&map, &NOBODY, &NOBODY), Some(Rank(rank)));
            happen(&mut map, &[(position, Event::Reintegrated)]);
        }
        assert_eq!(returned(&map, &NOBODY, &NOBODY), None);
    }

    #[test]
    fn whoever_might_take_places_waits_for_those_that_are_away() {
        let mut map = map(4);
        happen(&mut map, &[(3, Event::Drain)]);
        happen(&mut map, &[(2, Event::Exclude)]);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), Some(Finished::Rebuilt));
        finish(&mut map, &NOBODY, Finished::Rebuilt);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), Some(Finished::PutOff));
        finish(&mut map, &NOBODY, Finished::PutOff);
        assert_eq!(map.targets()[3].state(), TargetState::UpIn);
        // Begun anew, it gives nothing to the one that is away, and may finish.
        let drained = BTreeSet::from([3]);
        assert_eq!(finished(&map, &NOBODY, &drained, |_| false, true), Some(Finished::Resumed));
        let resumed = events(&map, &NOBODY, &drained, Finished::Resumed);
        happen(&mut map, &resumed);
        assert_eq!(map.targets()[3].state(), TargetState::Drain);
        // Nobody would be left in service.
        assert_eq!(finished(&self::map(1), &NOBODY, &BTreeSet::from([0]), |_| true, true), None);
        assert_eq!(finished(&map, &NOBODY, &NOBODY, |_| true, true), Some(Finished::Arrived));
        // Of two that are away, who left last may come.
        finish(&mut map, &NOBODY, Finished::Arrived);
        happen(&mut map, &[(1, Event::Exclude)]);
        finish(&mut map, &NOBODY, Finished::Rebuilt);
        assert_eq!(returning(&map, &[Rank(1), Rank(2)], &NOBODY, &NOBODY), [(1, Event::Reintegrate)]);
    }

    #[test]
    fn what_an_administrator_keeps_out_stays_behind_and_holds_up_nobody_of_its_server() {
        let server = |rank| Server { rank: Rank(rank), path: FaultPath::of_rank(Rank(rank)), targets: 2, weight: 1 };
        let mut map = PoolMap::create((0..2).map(server).collect()).unwrap();
        let kept_out = BTreeSet::from([2]);
        happen(&mut map, &[(2, Event::Exclude)]);
        happen(&mut map, &[(3, Event::Exclude)]);
        let back = returning(&map, &[Rank(1)], &kept_out, &NOBODY);
        assert_eq!(back, [(3, Event::Reintegrate)]);
        happen(&mut map, &back);
        assert_eq!(returned(&map, &NOBODY, &kept_out), Some(Rank(1)));
        assert_eq!(returned(&map, &NOBODY, &NOBODY), None, "the other is expected");
        // Of another server, it may have what is missing here.
        happen(&mut map, &[(3, Event::Reintegrated)]);
        happen(&mut map, &[(0, Event::Exclude)]);
        happen(&mut map, &[(2, Event::Reintegrate)]);
        assert_eq!(returned(&map, &NOBODY, &BTreeSet::from([0])), None);
    }
}

//! Random histories of failures, repairs and wanted changes, and what must hold at every version.
//!
//! An oracle beside the map knows who has the data of each slot: it fills a target only when the map says that
//! something is finished, and takes the data from everybody who is no member for one version. Of groups of one slot it
//! knows who has the only copy, and for how long. A failed history prints its seed; `PLACEMENT_SEED=n` repeats it alone.

use std::collections::{BTreeMap, BTreeSet};

use placement::{CameFrom, Change, Event, Layout, PoolMap, Server, Slot, TargetState};
use types::Rank;

const HISTORIES: u64 = 60;
const STEPS: u32 = 30;
const SLOTS: usize = 3;

/// splitmix64: reproducible, and nothing to depend on.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len())])
    }
}

struct Shape {
    racks: u32,
    hosts: u32,
    targets: u32,
}

fn server(shape: &Shape, rank: u32) -> Server {
    let path = format!("/rack{}/host{rank}", rank / shape.hosts).parse().unwrap();
    Server { rank: Rank(rank), path, targets: shape.targets, weight: 1 + rank % 3 / 2 }
}

/// A change that is possible now, or `None` if this turn's idea is not.
fn change(chance: &mut Chance, map: &PoolMap, shape: &Shape) -> Option<Change> {
    let in_state = |wanted: &dyn Fn(TargetState) -> bool| -> Vec<u32> {
        let targets = map.targets().iter().enumerate();
        targets.filter(|(_, target)| wanted(target.state())).map(|(position, _)| position as u32).collect()
    };
    let one = |chance: &mut Chance, event, wanted: &dyn Fn(TargetState) -> bool| {
        let target = chance.one(&in_state(wanted))?;
        Some(Change::Happen(vec![(target, event)]))
    };
    let all = |event, positions: Vec<u32>| positions.into_iter().map(move |position| (position, event));
    let left = |position: u32| map.targets()[position as usize].standing().left;
    let down = in_state(&|state| state == TargetState::Down);
    let is_awaited = |s| matches!(s, TargetState::Down | TargetState::Away | TargetState::Up(CameFrom::Away));
    let last_awaited = in_state(&is_awaited).into_iter().map(left).max().unwrap_or(0);
    match chance.below(13) {
        0 | 1 => one(chance, Event::Exclude, &|state| state != TargetState::New),
        2 => {
            let rank = map.servers()[chance.below(map.servers().len())].rank;
            let able = map.positions_of(rank).filter(|&p| map.targets()[p as usize].state() != TargetState::New);
            Some(Change::Happen(all(Event::Exclude, able.collect()).collect()))
        }
        3 => {
            // Some of those that are down, in their order: all up to one of them.
            let until = left(chance.one(&down)?);
            Some(Change::Happen(
                all(Event::Rebuilt, down.into_iter().filter(|&p| left(p) <= until).collect()).collect(),
            ))
        }
        4 | 5 if down.is_empty() && in_state(&|s| s == TargetState::Up(CameFrom::Down)).is_empty() => {
            let arriving = |s| s == TargetState::Drain || matches!(s, TargetState::Up(came) if came != CameFrom::Down);
            let blocked: Vec<u32> =
                in_state(&arriving).into_iter().filter(|&target| last_awaited > left(target)).collect();
            if !blocked.is_empty() {
                return Some(Change::Happen(all(Event::Cancel, blocked).collect()));
            }
            let mut events: Vec<(u32, Event)> = all(Event::Drained, in_state(&|s| s == TargetState::Drain)).collect();
            events.extend(all(Event::Extended, in_state(&|s| s == TargetState::Up(CameFrom::New))));
            if !events.is_empty() && in_state(&|s| s == TargetState::UpIn).is_empty() {
                return None;
            }
            let back = |s| matches!(s, TargetState::Up(CameFrom::Away | CameFrom::DownOut));
            events.extend(all(Event::Reintegrated, in_state(&back)));
            Some(Change::Happen(events))
        }
        4 | 5 => Some(Change::Happen(all(Event::Rebuilt, down).collect())),
        6 => {
            let able = in_state(&|state| state == TargetState::UpIn);
            (able.len() > 1).then(|| Change::Happen(vec![(able[chance.below(able.len())], Event::Drain)]))
        }
        7 => {
            let out = in_state(&|s| matches!(s, TargetState::Down | TargetState::Away | TargetState::DownOut));
            let may = |&target: &u32| {
                map.targets()[target as usize].state() == TargetState::Down || left(target) >= last_awaited
            };
            let target = chance.one(&out.into_iter().filter(may).collect::<Vec<_>>())?;
            Some(Change::Happen(vec![(target, Event::Reintegrate)]))
        }
        8 => one(chance, Event::Reintegrated, &|state| state == TargetState::Up(CameFrom::Down)),
        9 => one(chance, Event::Cancel, &|state| matches!(state, TargetState::Drain | TargetState::Up(_))),
        10 => {
            let rank = map.servers().len() as u32;
            (rank < 2 * shape.racks * shape.hosts).then(|| Change::Add(vec![server(shape, rank)]))
        }
        11 => one(chance, Event::GiveUp, &|state| state == TargetState::Away),
        _ => {
            let rank = map.servers()[chance.below(map.servers().len())].rank;
            let able = map.positions_of(rank).filter(|&p| map.targets()[p as usize].state() == TargetState::New);
            Some(Change::Happen(all(Event::Extend, able.collect()).collect()))
        }
    }
}

type Slots = Vec<Vec<Slot>>;

fn slots(layout: &Layout) -> Slots {
    (0..layout.pg_count()).map(|pg| layout.slots(pg, SLOTS)).collect()
}

/// Who has the data of each slot of each placement group.
struct Holders(BTreeMap<(usize, usize), BTreeSet<u32>>);

impl Holders {
    fn new(slots: &Slots) -> Holders {
        let mut holders = Holders(BTreeMap::new());
        holders.each(slots, |slot, held| held.extend(slot.serving));
        holders
    }

    fn each(&mut self, slots: &Slots, mut act: impl FnMut(Slot, &mut BTreeSet<u32>)) {
        for (pg, group) in slots.iter().enumerate() {
            for (at, slot) in group.iter().enumerate() {
                act(*slot, self.0.entry((pg, at)).or_default());
            }
        }
    }

    /// A job is done: who was being filled is full.
    fn finish(&mut self, before: &Slots, after: &Slots) {
        for (pg, (before, after)) in before.iter().zip(after).enumerate() {
            for (at, (was, is)) in before.iter().zip(after).enumerate() {
                let filled = [was.substitute, was.joining].into_iter().flatten().find(|&t| is.serving == Some(t));
                self.0.entry((pg, at)).or_default().extend(filled);
            }
            // Slots that a small pool did not have: empty until now, so that whoever joined has all of it.
            for (at, is) in after.iter().enumerate().skip(before.len()) {
                self.0.entry((pg, at)).or_default().extend(is.serving);
            }
        }
    }

    /// Who gets no writes any more has old data, and who failed has none.
    fn lapse(&mut self, slots: &Slots) {
        self.each(slots, |slot, held| held.retain(|held| slot.writers().any(|writer| writer == *held)));
    }
}

/// Who has the data of groups of one slot: by group, everybody who has all of it; nobody if it was given up.
struct OnlyCopies(Vec<BTreeSet<u32>>);

impl OnlyCopies {
    fn slot(layout: &Layout, pg: u32) -> Slot {
        layout.slots(pg, 1).first().copied().expect("a pool has targets")
    }

    fn new(layout: &Layout) -> OnlyCopies {
        OnlyCopies(
            (0..layout.pg_count()).map(|pg| OnlyCopies::slot(layout, pg).serving.into_iter().collect()).collect(),
        )
    }

    /// Whoever serves now has the data: it did before, or was filled by who did, or the data was given up.
    fn follow(&mut self, before: &Layout, after: &Layout, events: &[(u32, Event)]) {
        let is_given_up = |target: Option<u32>| target.is_some_and(|t| events.contains(&(t, Event::GiveUp)));
        for (pg, held) in self.0.iter_mut().enumerate() {
            let (was, is) = (OnlyCopies::slot(before, pg as u32), OnlyCopies::slot(after, pg as u32));
            if is_given_up(was.lost) {
                held.clear();
            }
            let Some(serving) = is.serving else { continue };
            // Who comes next may be awaited, too: nobody has anything until it is there.
            if held.is_empty() || (was.serving.is_some() && was.joining == Some(serving)) {
                held.insert(serving);
            }
            assert!(held.contains(&serving), "group {pg}: {was:?} became {is:?}, and {held:?} have the data");
            held.retain(|&target| is.writers().any(|writer| writer == target));
        }
    }
}

fn check_holders(holders: &mut Holders, slots: &Slots) {
    holders.each(slots, |slot, held| {
        assert!(slot.serving.is_none_or(|target| held.contains(&target)), "{slot:?} is read, and {held:?} have data");
    });
}

/// Members of each stage: those that hold, and those that will.
fn check_domains(map: &PoolMap, slots: &Slots) {
    let usable =
        |state: TargetState| matches!(state, TargetState::UpIn | TargetState::Drain | TargetState::Up(CameFrom::Down));
    let live: BTreeSet<u32> =
        (0..map.targets().len() as u32).filter(|&p| usable(map.targets()[p as usize].state())).collect();
    let rack = |target: u32| {
        let server = &map.servers()[map.targets()[target as usize].server as usize];
        server.path.parts().next().unwrap().to_string()
    };
    let machines: BTreeSet<u32> = live.iter().map(|&target| map.targets()[target as usize].server).collect();
    let racks: BTreeSet<String> = live.iter().map(|&target| rack(target)).collect();
    for group in slots {
        for slot in group {
            let all: Vec<u32> = slot.writers().collect();
            assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "{slot:?}");
        }
        let now: Vec<u32> = group.iter().filter_map(|slot| slot.serving.or(slot.substitute)).collect();
        assert_eq!(now.len(), now.iter().collect::<BTreeSet<_>>().len(), "a target twice: {group:?}");
        let least = SLOTS.min(machines.len()).min(group.len());
        assert!((least..=SLOTS.min(live.len())).contains(&now.len()), "machines, and no place: {group:?}");
        // Racks that were empty when a substitute was chosen may be there again: a later version mends it.
        let settled = map.targets().iter().all(|t| matches!(t.state(), TargetState::UpIn | TargetState::New));
        if settled {
            let apart: BTreeSet<String> = now.iter().map(|&target| rack(target)).collect();
            assert_eq!(apart.len(), racks.len().min(now.len()), "{group:?}");
        }
    }
}

/// A failure moves nobody but those who failed.
fn check_failure(before: &Slots, after: &Slots, failed: &BTreeSet<u32>) {
    let hit = |member: Option<u32>| member.is_some_and(|member| failed.contains(&member));
    for (was, is) in before.iter().zip(after) {
        for (was, is) in was.iter().zip(is) {
            match hit(was.serving) {
                true => assert_eq!((is.serving, is.lost), (None, was.serving)),
                false => assert_eq!(is.serving, was.serving),
            }
            if !hit(was.serving) && !hit(was.substitute) {
                assert_eq!(is.substitute, was.substitute, "{was:?} {is:?}");
            }
        }
    }
}

/// What is planned is what is being filled now and was not before; what is released, the other way round.
fn check_plan(before: &Layout, after: &Layout, was: &Slots, is: &Slots) {
    let filled = |slots: &Slots| -> BTreeSet<(u32, usize, u32)> {
        let of = |(pg, at, slot): (u32, usize, Slot)| {
            slot.substitute.into_iter().chain(slot.joining).map(move |t| (pg, at, t))
        };
        each(slots).flat_map(of).collect()
    };
    let written = |slots: &Slots| -> BTreeSet<(u32, usize, u32)> {
        each(slots).flat_map(|(pg, at, slot)| slot.writers().map(move |target| (pg, at, target))).collect()
    };
    let moves: BTreeSet<_> = Layout::plan(before, after, SLOTS).map(|m| (m.pg, m.slot, m.to)).collect();
    assert_eq!(moves, filled(is).difference(&written(was)).copied().collect());
    let lost: BTreeSet<_> = each(is).filter_map(|(pg, at, slot)| slot.lost.map(|target| (pg, at, target))).collect();
    let released: BTreeSet<_> = Layout::releases(before, after, SLOTS).map(|r| (r.pg, r.slot, r.from)).collect();
    let gone: BTreeSet<_> = written(was).difference(&written(is)).copied().collect();
    assert_eq!(released, gone.difference(&lost).copied().collect());
    for found in Layout::plan(before, after, SLOTS).take(200) {
        let slots = &is[found.pg as usize];
        assert_eq!(found.source, slots[found.slot].serving);
        assert!(found.survivors.iter().all(|s| slots.iter().any(|slot| slot.serving == Some(*s))));
    }
}

fn each(slots: &Slots) -> impl Iterator<Item = (u32, usize, Slot)> {
    let of = |(pg, group): (usize, &Vec<Slot>)| {
        group.clone().into_iter().enumerate().map(move |(at, slot)| (pg as u32, at, slot))
    };
    slots.iter().enumerate().flat_map(of)
}

/// Who does not serve says when it did last, however long ago that was.
fn check_served(map: &PoolMap, last: &mut BTreeMap<u32, u32>) {
    for (position, target) in (0..).zip(map.targets()) {
        if target.state().serves() {
            last.insert(position, map.version());
        }
        let said = target.standing().served;
        let expected = if target.state().serves() { 0 } else { last.get(&position).copied().unwrap_or(0) };
        assert_eq!(said, expected, "target {position}, {}", target.state());
    }
    assert_eq!(PoolMap::from_parts(map.parts()).as_ref(), Ok(map));
}

/// An interval is the first version since which members are the same.
fn check_intervals(layout: &Layout, past: &[(u32, Slots)]) {
    let members = |slot: &Slot| [slot.serving, slot.substitute, slot.joining];
    let members = |slots: &Slots, pg: usize| -> Vec<[Option<u32>; 3]> { slots[pg].iter().map(members).collect() };
    let (newest, older) = past.split_last().unwrap();
    for pg in (0..layout.pg_count() as usize).step_by(37) {
        let now = members(&newest.1, pg);
        let known = older.iter().rev().filter(|(version, _)| *version >= layout.map().floor());
        let same = known.take_while(|(_, slots)| members(slots, pg) == now).last();
        let expected = same.map_or(newest.0, |(version, _)| *version);
        assert_eq!(layout.interval(pg as u32, SLOTS), expected, "group {pg}");
        for known in expected.saturating_sub(2)..=newest.0 {
            assert_eq!(layout.admit(pg as u32, SLOTS, known).is_ok(), known >= expected);
        }
    }
}

fn run(seed: u64) -> u32 {
    let mut chance = Chance(seed);
    let chosen = [(4, 2, 2), (5, 1, 1), (3, 3, 1), (2, 3, 2), (6, 2, 1), (1, 5, 2)][chance.below(6)];
    let shape = Shape { racks: chosen.0, hosts: chosen.1, targets: chosen.2 };
    let mut map = PoolMap::create((0..shape.racks * shape.hosts).map(|rank| server(&shape, rank)).collect()).unwrap();
    let mut follower = map.clone();
    let mut layout = Layout::new(map.clone());
    let mut holders = Holders::new(&slots(&layout));
    let mut only = OnlyCopies::new(&layout);
    let mut past = vec![(map.version(), slots(&layout))];
    let mut served = BTreeMap::new();
    check_served(&map, &mut served);
    for step in 0..STEPS {
        let Some(change) = change(&mut chance, &map, &shape) else { continue };
        let states: Vec<TargetState> = map.targets().iter().map(|target| target.state()).collect();
        let version = map.version();
        if map.apply(&change).unwrap_or_else(|error| panic!("{change:?}: {error}")) == version {
            continue;
        }
        assert_eq!(map.version(), version + 1);
        let next = Layout::new(map.clone());
        let (before, after) = (past.last().unwrap().1.clone(), slots(&next));
        let events = match &change {
            Change::Happen(events) => events.as_slice(),
            Change::Add(_) => &[],
        };
        let finishes = |event| matches!(event, Event::Rebuilt | Event::Drained | Event::Extended | Event::Reintegrated);
        if events.iter().any(|(_, event)| finishes(*event)) {
            holders.finish(&before, &after);
        }
        holders.lapse(&after);
        only.follow(&layout, &next, events);
        check_holders(&mut holders, &after);
        check_domains(&map, &after);
        check_served(&map, &mut served);
        let failed = |(target, event): &(u32, Event)| (*event == Event::Exclude).then_some(*target);
        let failed: BTreeSet<u32> = events.iter().filter_map(failed).collect();
        if failed.len() == events.len()
            && failed.iter().all(|&f| states[f as usize].serves() || states[f as usize] == TargetState::Down)
        {
            check_failure(&before, &after, &failed);
        }
        // Plans work everything out again: every fourth will do.
        if step % 4 == 0 {
            check_plan(&layout, &next, &before, &after);
        }
        past.push((map.version(), after));
        check_intervals(&next, &past);
        if chance.below(3) == 0 {
            follower.advance(&map.delta_since(follower.version()).unwrap()).unwrap();
            assert_eq!(follower, map);
            assert_eq!(Layout::new(follower.clone()).digest(), next.digest());
        }
        layout = next;
    }
    map.version()
}

#[test]
fn what_must_hold_holds_through_random_histories() {
    if let Ok(seed) = std::env::var("PLACEMENT_SEED") {
        run(seed.parse().expect("PLACEMENT_SEED is a number"));
        return;
    }
    let mut versions = 0;
    for seed in 0..HISTORIES {
        let outcome = std::panic::catch_unwind(|| run(seed));
        versions += outcome.unwrap_or_else(|_| panic!("history {seed} failed: PLACEMENT_SEED={seed} repeats it"));
    }
    // Histories in which nothing happens would show nothing.
    assert!(versions > HISTORIES as u32 * STEPS / 2, "{versions} versions in {HISTORIES} histories");
}

//! A layout: who holds each placement group, who is about to, and since when.
//!
//! Nothing is tabulated: a placement group is worked out when it is asked for, in a microsecond or
//! so, from the map alone. So a layout is ready at once, at a client as on a server, and answers for the
//! versions before its own as well.

use std::ops::Range;
use std::sync::OnceLock;

use crate::hash::{self, Purpose};
use crate::map::PoolMap;
use crate::state::TargetState;
use crate::view::{Ground, Stage, View};

/// Most slots of a placement group: the widest class has 128 copies.
pub const SLOTS_MAX: usize = 128;

/// Placement of one version of a pool map, and of those before it.
#[derive(Clone, Debug)]
pub struct Layout {
    map: PoolMap,
    /// Fault domains, counted once: many objects are opened by one version.
    pub(crate) domains: usize,
    ground: Ground,
    origin: View,
    /// Versions at which something changed, newest first, and their views once somebody asked.
    versions: Vec<(u32, OnceLock<Stages>)>,
}

/// One place in a placement group: of a copy, or of a cell.
///
/// All fields are positions in the map. Without changes under way only `serving` is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Has the data, answers reads and gets writes.
    pub serving: Option<u32>,
    /// Held it, and does not answer, or has not yet what was written meanwhile.
    pub lost: Option<u32>,
    /// Gets writes and is being filled, in place of who is lost. May be the lost one itself, come back.
    pub substitute: Option<u32>,
    /// Gets writes and is being filled, to take over when a wanted change is done.
    pub joining: Option<u32>,
}

/// The members of a placement group changed after the version that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("placement group {pg} changed in pool map {interval}, after map {known}: the map is now at {version}")]
pub struct Stale {
    pub pg: u32,
    pub known: u32,
    pub interval: u32,
    pub version: u32,
}

/// The views of one version; what is not there is as the stage before.
#[derive(Clone, Debug)]
struct Stages {
    base: View,
    restored: Option<View>,
    settled: Option<View>,
}

impl Slot {
    /// Who gets writes: everybody but the lost.
    pub fn writers(self) -> impl Iterator<Item = u32> {
        self.serving.into_iter().chain(self.substitute).chain(self.joining)
    }

    /// Nothing is under way here.
    pub fn is_settled(self) -> bool {
        self == Slot { serving: self.serving, ..Slot::default() } && self.serving.is_some()
    }

    fn same_members(self, other: Slot) -> bool {
        Slot { lost: None, ..self } == Slot { lost: None, ..other }
    }
}

impl Layout {
    /// Cost: a walk over the targets, a millisecond for ten thousand.
    pub fn new(map: PoolMap) -> Layout {
        let ground = Ground::new(&map);
        let origin = View::of_origin(&ground, &map);
        let versions = map.versions().into_iter().map(|version| (version, OnceLock::new())).collect();
        Layout { domains: map.domain_count(), map, ground, origin, versions }
    }

    pub fn map(&self) -> &PoolMap {
        &self.map
    }

    pub fn version(&self) -> u32 {
        self.map.version()
    }

    pub fn pg_count(&self) -> u32 {
        self.map.pg_count()
    }

    /// The first `count` slots of a placement group: those that objects of `count` copies or cells a group use.
    /// Fewer if the pool has fewer targets, none if it has no such group; never more than [`SLOTS_MAX`].
    ///
    /// More slots begin with the same ones; but a substitute is chosen apart from all `count`, so that objects of
    /// different widths may have different substitutes. Plans and intervals are therefore those of a width, too.
    ///
    /// Slots stand in distinct domains of the highest level while there are enough of them; then as evenly as can be, in
    /// distinct ones of the level below, and so on.
    pub fn slots(&self, pg: u32, count: usize) -> Vec<Slot> {
        self.slots_at(0, pg, count)
    }

    /// Who leads a placement group for objects of `count` slots: the first that serves and stays, or else the first that
    /// serves. `None` if nobody does: its data waits for a target to come back.
    pub fn leader(&self, pg: u32, count: usize) -> Option<u32> {
        self.leader_among(&self.slots(pg, count))
    }

    /// As [`Layout::leader`], of slots that are known already.
    pub fn leader_among(&self, slots: &[Slot]) -> Option<u32> {
        let serving = || slots.iter().filter_map(|slot| slot.serving);
        let stays = |&target: &u32| self.map.targets()[target as usize].state() == TargetState::UpIn;
        serving().find(stays).or_else(|| serving().next())
    }

    /// Who held the first `count` slots last: whom to bring back where nobody serves them. Where nothing is said of that
    /// any more, those who held them first.
    pub fn awaited(&self, pg: u32, count: usize) -> impl Iterator<Item = u32> {
        let lost: Vec<u32> = self.slots(pg, count).iter().filter_map(|slot| slot.lost).collect();
        let first = lost.is_empty().then(|| self.origin_members(pg, count));
        lost.into_iter().chain(first.into_iter().flatten())
    }

    /// The version at which who is a member of the first `count` slots of a placement group last changed, or
    /// the floor of the map if that was before.
    ///
    /// Every layout of the same map says the same. A later map may say more only where membership changed, or where its
    /// floor rose.
    ///
    /// Cost: the group is worked out once for each version back to the one that changed it.
    pub fn interval(&self, pg: u32, count: usize) -> u32 {
        let now = self.slots_at(0, pg, count);
        let differs = |&at: &usize| !same_members(&now, &self.slots_at(at, pg, count));
        match (1..self.versions.len()).find(differs) {
            Some(older) => self.versions[older - 1].0,
            None => self.map.floor(),
        }
    }

    /// A placement group at all versions before this one, newest first.
    pub(crate) fn history(&self, pg: u32, count: usize) -> impl Iterator<Item = (u32, Vec<Slot>)> {
        (1..self.versions.len()).map(move |at| (self.versions[at].0, self.slots_at(at, pg, count)))
    }

    /// As [`Layout::leader_among`], of a version before.
    pub(crate) fn leader_at(&self, version: u32, slots: &[Slot]) -> Option<u32> {
        let serving = || slots.iter().filter_map(|slot| slot.serving);
        let state = |target: u32| self.map.targets()[target as usize].standing_at(version).map(|s| s.state);
        serving().find(|target| state(*target) == Some(TargetState::UpIn)).or_else(|| serving().next())
    }

    /// Whether an operation on the first `count` slots of a placement group may go on, though whoever sent it knew map
    /// version `known`. A version newer than this map is no reason to refuse: the sender is ahead.
    ///
    /// Cost: nothing at the same version; else the group is worked out once for each version between.
    ///
    /// # Errors
    /// [`Stale`]: members changed since, or `known` is older than the map can tell, or there is no such group. The
    /// sender needs [`PoolMap::delta_since`].
    pub fn admit(&self, pg: u32, count: usize, known: u32) -> Result<(), Stale> {
        if pg >= self.pg_count() {
            return Err(Stale { pg, known, interval: self.version(), version: self.version() });
        }
        if known >= self.version() {
            return Ok(());
        }
        let interval = self.interval(pg, count);
        match known >= interval {
            true => Ok(()),
            false => Err(Stale { pg, known, interval, version: self.version() }),
        }
    }

    /// Who held slots of a group when the pool was made: what objects are spread by, for good.
    pub(crate) fn origin_members(&self, pg: u32, count: usize) -> impl Iterator<Item = u32> + use<> {
        self.origin.fill(&self.ground, pg, count).into_iter().flatten()
    }

    /// Equal for two parties that place alike: what the map says, and where a few placement groups are.
    pub fn digest(&self) -> u64 {
        let mut words = vec![u64::from(self.version()), u64::from(self.pg_count()), u64::from(self.map.origin())];
        for server in self.map.servers() {
            words.push(u64::from(server.rank.0) << 32 | u64::from(server.targets));
            words.push(hash::of_bytes(Purpose::Digest, server.path.as_str().as_bytes()));
        }
        for target in self.map.targets() {
            let standing = target.standing();
            let state = TargetState::ALL.iter().position(|state| *state == standing.state);
            words.push(u64::from(target.rank.0) << 32 | u64::from(target.index.0));
            words.push(u64::from(target.weight));
            words.push(u64::from(standing.joined) << 32 | u64::from(standing.left));
            words.push(state.expect("every state is listed") as u64);
        }
        for sample in 0..DIGEST_PGS.min(self.pg_count()) {
            let pg = sample * (self.pg_count() / DIGEST_PGS.min(self.pg_count()));
            for slot in self.slots(pg, 3) {
                let places = [slot.serving, slot.lost, slot.substitute, slot.joining];
                words.extend(places.map(|place| place.map_or(u64::MAX, u64::from)));
            }
        }
        hash::of_words(Purpose::Digest, &words)
    }

    pub(crate) fn pgs(&self) -> Range<u32> {
        0..self.pg_count()
    }

    fn slots_at(&self, at: usize, pg: u32, count: usize) -> Vec<Slot> {
        // Both may come from a request.
        if pg >= self.pg_count() {
            return Vec::new();
        }
        let count = count.min(SLOTS_MAX);
        let (version, stages) = &self.versions[at];
        let Stages { base, restored, settled } = stages.get_or_init(|| self.stages(*version));
        let before = base.fill(&self.ground, pg, count);
        let next = restored.as_ref().map(|view| view.fill(&self.ground, pg, count));
        let next = next.as_ref().unwrap_or(&before);
        let last = settled.as_ref().map(|view| view.fill(&self.ground, pg, count));
        let last = last.as_ref().unwrap_or(next);
        // Where a pool has fewer targets than slots, an extension adds slots.
        let of = |stage: &[Option<u32>], slot: usize| stage.get(slot).copied().flatten();
        let slot = |slot: usize| {
            let (before, next, last) = (of(&before, slot), of(next, slot), of(last, slot));
            let serving = before.filter(|&target| self.serves(target, *version));
            Slot {
                serving,
                lost: before.filter(|_| serving.is_none()),
                substitute: next.filter(|&target| next != serving && self.gets_writes(target, *version)),
                joining: last.filter(|_| last != next && last != serving),
            }
        };
        (0..before.len().max(last.len())).map(slot).collect()
    }

    fn serves(&self, target: u32, version: u32) -> bool {
        let standing = self.map.targets()[target as usize].standing_at(version);
        standing.is_some_and(|standing| standing.state.serves())
    }

    fn gets_writes(&self, target: u32, version: u32) -> bool {
        let standing = self.map.targets()[target as usize].standing_at(version);
        standing.is_some_and(|standing| standing.state.gets_writes())
    }

    fn stages(&self, version: u32) -> Stages {
        let states = || self.map.targets().iter().filter_map(|target| target.standing_at(version));
        let view = |stage| View::new(&self.ground, &self.map, version, stage);
        let down = |state| state == TargetState::Down;
        let wanted = |state: TargetState| state.in_change() && !down(state);
        Stages {
            base: view(Stage::Base),
            restored: states().any(|standing| down(standing.state)).then(|| view(Stage::Restored)),
            settled: states().any(|standing| wanted(standing.state)).then(|| view(Stage::Settled)),
        }
    }
}

/// Placement groups that go into a digest: enough to notice a difference in the code as well as in the map.
const DIGEST_PGS: u32 = 64;

fn same_members(a: &[Slot], b: &[Slot]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_members(*b))
}

#[cfg(test)]
mod tests;

//! A view: who may hold data, as one version of the map has it at one stage of its changes, and the
//! choice of targets by it.
//!
//! A map in which something is under way has three stages, one behind the other:
//!
//! | stage | a target that is down | wanted changes |
//! |---|---|---|
//! | [`Stage::Base`] | holds its places, and answers nothing | have not begun |
//! | [`Stage::Restored`] | is out | have not begun |
//! | [`Stage::Settled`] | is out | are done |
//!
//! Data moves from the first towards the last; [`crate::PoolMap::apply`] sees to it that the base of the next
//! version is the restored or the settled stage of this one, or its own.

use std::cmp::Reverse;

use crate::claim;
use crate::domain::{ROOT, Tree};
use crate::draw::{Draws, Line};
use crate::map::{PoolMap, Standing, Target};
use crate::state::{From, TargetState};

/// Draws of targets that are there, before the tree is searched. With three racks for three slots, a third of the
/// draws does: a search then costs one slot in 10^17. Where domains differ much in size it is the usual way. Draws of
/// what is not there do not count: a server that is merely known must not move anything.
const DRAWS_MAX: usize = 96;
/// Draws in all: with one target in a hundred there, the bound above is met first.
const POINTS_MAX: usize = 16_384;

/// How far the changes that are under way are taken to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Base,
    Restored,
    Settled,
}

/// What becomes of a target in a view: see [`View::fates`].
type Fate = u32;
const ABSENT: Fate = 0;
const STAYS: Fate = u32::MAX;

/// Who may hold data.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// By position: not there, there to stay, or there and leaving as the map's version says.
    fates: Vec<Fate>,
    /// By domain.
    rooms: Vec<Room>,
}

/// How many targets of a domain there are, and what is left of it when some have gone.
#[derive(Clone, Debug, Default)]
struct Room {
    targets: u32,
    /// When targets go, in order.
    leaving: Vec<u32>,
    /// Domains in it with any target.
    domains: u32,
    /// When domains in it have lost their last one, in order.
    emptied: Vec<u32>,
}

/// All that choosing is done by and that does not change with the view.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) line: Line,
    pub(crate) tree: Tree,
    pub(crate) weights: Vec<u32>,
}

impl Stage {
    fn fate(self, standing: Option<Standing>) -> Fate {
        let Some(Standing { state, left, .. }) = standing else { return ABSENT };
        match (self, state) {
            (_, TargetState::New) => ABSENT,
            (_, TargetState::DownOut) => left,
            (_, TargetState::UpIn | TargetState::Up(From::Down)) => STAYS,
            (Stage::Base, TargetState::Down) => STAYS,
            (Stage::Restored | Stage::Settled, TargetState::Down) => left,
            (Stage::Base | Stage::Restored, TargetState::Drain) => STAYS,
            (Stage::Settled, TargetState::Drain) => left,
            (Stage::Base | Stage::Restored, TargetState::Up(From::New)) => ABSENT,
            (Stage::Base | Stage::Restored, TargetState::Up(From::DownOut)) => left,
            (Stage::Settled, TargetState::Up(From::New | From::DownOut)) => STAYS,
        }
    }
}

impl Ground {
    pub(crate) fn new(map: &PoolMap) -> Ground {
        let weights: Vec<u32> = map.targets().iter().map(|target| target.weight).collect();
        Ground { line: Line::new(weights.iter().copied()), tree: Tree::new(map), weights }
    }
}

impl View {
    pub(crate) fn new(ground: &Ground, map: &PoolMap, version: u32, stage: Stage) -> View {
        let fate = |target: &Target| stage.fate(target.standing_at(version));
        View::of_fates(ground, map.targets().iter().map(fate).collect())
    }

    /// The targets that the pool was made of, as if nothing had happened since.
    pub(crate) fn of_origin(ground: &Ground, map: &PoolMap) -> View {
        let fate = |position| if position < map.origin() { STAYS } else { ABSENT };
        View::of_fates(ground, (0..map.targets().len() as u32).map(fate).collect())
    }

    fn of_fates(ground: &Ground, fates: Vec<Fate>) -> View {
        let tree = &ground.tree;
        let mut rooms = vec![Room::default(); tree.domain_count()];
        for (position, &fate) in fates.iter().enumerate() {
            if fate == ABSENT {
                continue;
            }
            for &domain in [ROOT].iter().chain(tree.above(position as u32)) {
                let room = &mut rooms[domain as usize];
                room.targets += 1;
                if fate != STAYS {
                    room.leaving.push(fate);
                }
            }
        }
        for room in &mut rooms {
            room.leaving.sort_unstable();
        }
        // Domains at the lowest level have targets in them, which need no counting again.
        let mut level = vec![ROOT];
        for _ in 0..tree.depth() {
            for &domain in &level {
                let inhabited: Vec<u32> =
                    tree.children(domain).iter().copied().filter(|&child| rooms[child as usize].targets > 0).collect();
                let emptied = inhabited.iter().filter_map(|&child| rooms[child as usize].emptied_at());
                let mut emptied: Vec<u32> = emptied.collect();
                emptied.sort_unstable();
                rooms[domain as usize].domains = inhabited.len() as u32;
                rooms[domain as usize].emptied = emptied;
            }
            level = level.iter().flat_map(|&domain| tree.children(domain)).copied().collect();
        }
        View { fates, rooms }
    }

    /// The targets of `count` slots of a placement group, fewer if there are not as many targets.
    ///
    /// First as if nobody were leaving; then, failure by failure, a substitute takes the place of who left, chosen
    /// among those who were there at that moment. A target that has no substitute keeps its place.
    pub(crate) fn fill(&self, ground: &Ground, pg: u32, count: usize) -> Vec<Option<u32>> {
        let count = count.min(self.rooms[ROOT as usize].targets as usize);
        let mut members: Vec<u32> = Vec::with_capacity(count);
        for slot in 0..count {
            let chosen = self.choose(ground, pg, slot, &members, 0);
            members.push(chosen.expect("there are more targets than slots before this one"));
        }
        let leaving = |&(_, member): &(usize, u32)| self.fates[member as usize] != STAYS;
        let mut lost: Vec<usize> = Vec::new();
        loop {
            let next = members.iter().copied().enumerate().filter(leaving).filter(|(slot, _)| !lost.contains(slot));
            // Who left in the same change goes in the order of the map.
            let Some((slot, gone)) = next.min_by_key(|&(_, member)| (self.fates[member as usize], member)) else {
                break;
            };
            let mut others = members.clone();
            others.remove(slot);
            match self.choose(ground, pg, slot, &others, self.fates[gone as usize]) {
                Some(substitute) => members[slot] = substitute,
                None => lost.push(slot),
            }
        }
        members.iter().enumerate().map(|(slot, &member)| (!lost.contains(&slot)).then_some(member)).collect()
    }

    /// A target for a slot, among those still there after version `after`, that stands apart from `others`.
    fn choose(&self, ground: &Ground, pg: u32, slot: usize, others: &[u32], after: u32) -> Option<u32> {
        let mut draws = Draws::new(&ground.line, pg, slot);
        let there = |target: &u32| self.fates[*target as usize] != ABSENT;
        (0..POINTS_MAX)
            .filter_map(|_| draws.next())
            .filter(there)
            .take(DRAWS_MAX)
            .find(|&target| self.suits(ground, target, others, after))
            .or_else(|| self.search(ground, pg, slot, others, after))
    }

    fn stays(&self, target: u32, after: u32) -> bool {
        self.fates[target as usize] > after
    }

    /// Whether `target` stands in a least used domain at every level.
    fn suits(&self, ground: &Ground, target: u32, others: &[u32], after: u32) -> bool {
        if !self.stays(target, after) || others.contains(&target) {
            return false;
        }
        let mut parent = ROOT;
        for (level, &domain) in ground.tree.above(target).iter().enumerate() {
            let beside = |&&other: &&u32| ground.tree.above(other)[level] == domain;
            match others.iter().filter(beside).count() as u32 {
                // Nobody is in it: it is least used, and so is everything within.
                0 => return true,
                used if self.least_used(ground, parent, level, others, after) < used => return false,
                _ => parent = domain,
            }
        }
        true
    }

    /// How many of `others` are in that domain within `parent` that has the fewest, and room for more.
    fn least_used(&self, ground: &Ground, parent: u32, level: usize, others: &[u32], after: u32) -> u32 {
        let within = |&&other: &&u32| level == 0 || ground.tree.above(other)[level - 1] == parent;
        let mut used: Vec<u32> = others.iter().filter(within).map(|&o| ground.tree.above(o)[level]).collect();
        used.sort_unstable();
        let counts: Vec<(u32, u32)> = used.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32)).collect();
        let live = counts.iter().filter(|(domain, _)| self.rooms[*domain as usize].left(after) > 0);
        if self.rooms[parent as usize].domains_left(after) > live.clone().count() as u32 {
            return 0;
        }
        let roomy = live.filter(|(domain, _)| self.has_room(ground, *domain, level, others, after));
        roomy.map(|&(_, count)| count).min().unwrap_or(u32::MAX)
    }

    /// A domain at `level` has a target that none of `others` is.
    fn has_room(&self, ground: &Ground, domain: u32, level: usize, others: &[u32], after: u32) -> bool {
        let taken = |&&other: &&u32| ground.tree.above(other)[level] == domain && self.stays(other, after);
        self.rooms[domain as usize].left(after) > others.iter().filter(taken).count() as u32
    }

    /// As drawing, but from the root down, by claims that count all children of a domain: for when a suitable
    /// target is rare. `None` if there is none.
    fn search(&self, ground: &Ground, pg: u32, slot: usize, others: &[u32], after: u32) -> Option<u32> {
        let tree = &ground.tree;
        let mut domain = ROOT;
        for level in 0..tree.depth() {
            let used = |child: u32| others.iter().filter(|&&other| tree.above(other)[level] == child).count();
            let children = tree.children(domain).iter().copied();
            let roomy = children.filter(|&child| self.has_room(ground, child, level, others, after));
            let best = |child: u32| {
                let weight = self.rooms[child as usize].left(after);
                (used(child), claim::of_domain(pg, slot, level, child, weight), Reverse(child))
            };
            domain = roomy.min_by_key(|&child| best(child))?;
        }
        let free = |target: &u32| self.stays(*target, after) && !others.contains(target);
        let targets = tree.children(domain).iter().copied().filter(free);
        targets.min_by_key(|&target| {
            let weight = ground.weights[target as usize];
            (claim::of_domain(pg, slot, tree.depth(), target, weight), target)
        })
    }
}

impl Room {
    /// Targets still there after version `after`.
    fn left(&self, after: u32) -> u32 {
        self.targets - self.leaving.partition_point(|&at| at <= after) as u32
    }

    fn domains_left(&self, after: u32) -> u32 {
        self.domains - self.emptied.partition_point(|&at| at <= after) as u32
    }

    fn emptied_at(&self) -> Option<u32> {
        (self.leaving.len() as u32 == self.targets).then(|| self.leaving.last().copied()).flatten()
    }
}

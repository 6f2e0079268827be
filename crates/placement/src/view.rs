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
//! A group of one slot knows no substitutes: what it held is nowhere else. Its target keeps it, failed or not, until
//! it is given up.
//!
//! Data moves from the first towards the last; [`crate::PoolMap::apply`] sees to it that the base of the next
//! version is the restored or the settled stage of this one, or its own.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::claim;
use crate::domain::{ROOT, Tree};
use crate::draw::{Draws, Line};
use crate::map::{PoolMap, Standing};
use crate::state::{CameFrom, TargetState};

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
    /// By position: the version at which it was taken in.
    joined: Vec<u32>,
    /// By position: it failed, and what only it had waits for it.
    awaited: Vec<bool>,
    /// All versions at which targets were taken in, in order.
    generations: Vec<u32>,
    /// By domain.
    rooms: Vec<Room>,
}

/// How many targets of a domain there are, and what is left of it when some have gone.
#[derive(Clone, Debug, Default)]
struct Room {
    /// When its targets came, in order.
    joining: Vec<u32>,
    /// When targets go, in order.
    leaving: Vec<u32>,
    /// When domains in it got their first target, in order.
    domains: Vec<u32>,
    /// When domains in it have lost their last one, in order.
    emptied: Vec<u32>,
}

/// Which targets there are to choose from.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Those taken in up to this version,
    joined: u32,
    /// and still there after this one.
    after: u32,
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
            (_, TargetState::Away | TargetState::DownOut) => left,
            (_, TargetState::UpIn | TargetState::Up(CameFrom::Down)) => STAYS,
            (Stage::Base, TargetState::Down) => STAYS,
            (Stage::Restored | Stage::Settled, TargetState::Down) => left,
            (Stage::Base | Stage::Restored, TargetState::Drain) => STAYS,
            (Stage::Settled, TargetState::Drain) => left,
            (Stage::Base | Stage::Restored, TargetState::Up(CameFrom::New)) => ABSENT,
            (Stage::Base | Stage::Restored, TargetState::Up(CameFrom::Away | CameFrom::DownOut)) => left,
            (Stage::Settled, TargetState::Up(CameFrom::New | CameFrom::Away | CameFrom::DownOut)) => STAYS,
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
        let standings = || map.targets().iter().map(|target| target.standing_at(version));
        let joined = standings().map(|standing| standing.map_or(0, |standing| standing.joined)).collect();
        let awaited = standings().map(|standing| standing.is_some_and(|standing| standing.state.is_awaited()));
        let fates = standings().map(|standing| stage.fate(standing)).collect();
        View { awaited: awaited.collect(), ..View::of_fates(ground, fates, joined) }
    }

    /// The targets that the pool was made of, as if nothing had happened since.
    pub(crate) fn of_origin(ground: &Ground, map: &PoolMap) -> View {
        let fate = |position| if position < map.origin() { STAYS } else { ABSENT };
        let fates: Vec<Fate> = (0..map.targets().len() as u32).map(fate).collect();
        let joined = vec![0; fates.len()];
        View::of_fates(ground, fates, joined)
    }

    fn of_fates(ground: &Ground, fates: Vec<Fate>, joined: Vec<u32>) -> View {
        let tree = &ground.tree;
        let mut rooms = vec![Room::default(); tree.domain_count()];
        for (position, &fate) in fates.iter().enumerate() {
            if fate == ABSENT {
                continue;
            }
            for &domain in [ROOT].iter().chain(tree.above(position as u32)) {
                let room = &mut rooms[domain as usize];
                room.joining.push(joined[position]);
                if fate != STAYS {
                    room.leaving.push(fate);
                }
            }
        }
        for room in &mut rooms {
            room.joining.sort_unstable();
            room.leaving.sort_unstable();
        }
        // Domains at the lowest level have targets in them, which need no counting again.
        let mut level = vec![ROOT];
        for _ in 0..tree.depth() {
            for &domain in &level {
                let within = || tree.children(domain).iter().map(|&child| &rooms[child as usize]);
                let mut domains: Vec<u32> = within().filter_map(|room| room.joining.first().copied()).collect();
                let mut emptied: Vec<u32> = within().filter_map(Room::emptied_at).collect();
                domains.sort_unstable();
                emptied.sort_unstable();
                let room = &mut rooms[domain as usize];
                (room.domains, room.emptied) = (domains, emptied);
            }
            level = level.iter().flat_map(|&domain| tree.children(domain)).copied().collect();
        }
        let mut generations = rooms[ROOT as usize].joining.clone();
        generations.dedup();
        View { awaited: vec![false; fates.len()], fates, joined, generations, rooms }
    }

    /// The targets of `count` slots of a placement group, fewer if there are not as many targets.
    ///
    /// First as if nobody were leaving; then, failure by failure, a substitute takes the place of who left, chosen
    /// among those who were there at that moment. A slot without a substitute is empty; so is one whose only substitute
    /// would stand on a machine that has another slot, where who left did not.
    pub(crate) fn fill(&self, ground: &Ground, pg: u32, count: usize) -> Vec<Option<u32>> {
        let mut members = self.homes(ground, pg, count);
        let leaving = |&(_, member): &(usize, u32)| self.fates[member as usize] != STAYS;
        let mut lost: Vec<usize> = Vec::new();
        loop {
            let next = members.iter().copied().enumerate().filter(leaving).filter(|(slot, _)| !lost.contains(slot));
            // Who left in the same change goes in the order of the map.
            let Some((slot, gone)) = next.min_by_key(|&(_, member)| (self.fates[member as usize], member)) else {
                break;
            };
            if count == 1 && self.awaited[gone as usize] {
                break;
            }
            let moment = Moment { joined: u32::MAX, after: self.fates[gone as usize] };
            let others = without(&members, slot);
            let machine = |target: u32| ground.tree.above(target).last();
            let is_beside = |target: u32| others.iter().any(|&other| machine(other) == machine(target));
            // A copy beside another takes its room, and dies with it: the slot rather waits for who left.
            let stands_well = |target: u32| !is_beside(target) || is_beside(gone);
            match self.choose(ground, pg, slot, &others, moment, &stands_well) {
                Some(substitute) => members[slot] = substitute,
                None => lost.push(slot),
            }
        }
        members.iter().enumerate().map(|(slot, &member)| (!lost.contains(&slot)).then_some(member)).collect()
    }

    /// Who holds the slots if nobody leaves. Generation by generation: a target that was taken in gets a slot where it
    /// is drawn before whoever has it, and those that had none of it stay where they are.
    fn homes(&self, ground: &Ground, pg: u32, count: usize) -> Vec<u32> {
        let mut members: Vec<u32> = Vec::with_capacity(count);
        let Some((&first, later)) = self.generations.split_first() else { return members };
        self.add_slots(ground, pg, count, first, &mut members);
        if later.is_empty() {
            return members;
        }
        // Where slots share domains (or are missing), every generation may bring a better place.
        let crowded = members.len() < count || self.share_domains(ground, &members);
        let drawn = || members.iter().enumerate().flat_map(|(slot, &member)| self.before(ground, pg, slot, member));
        let generations: BTreeSet<u32> = match crowded {
            true => later.iter().copied().collect(),
            false => drawn().map(|target| self.joined[target as usize]).filter(|&joined| joined > first).collect(),
        };
        for joined in generations {
            let moment = Moment { joined, after: 0 };
            for slot in 0..members.len() {
                let new = |&target: &u32| self.joined[target as usize] == joined;
                let newcomer = self
                    .before(ground, pg, slot, members[slot])
                    .filter(new)
                    .find(|&target| self.suits(ground, target, &members[..slot], moment));
                // Where a later slot has its domain, it takes that one: one slot moves instead of two.
                let suits_in = |at: &usize, target| self.suits(ground, target, &without(&members, *at), moment);
                let taken = newcomer.and_then(|new| Some(((slot..members.len()).find(|at| suits_in(at, new))?, new)));
                if let Some((at, newcomer)) = taken {
                    members[at] = newcomer;
                } else if crowded && !suits_in(&slot, members[slot]) {
                    let chosen = self.choose(ground, pg, slot, &without(&members, slot), moment, &|_| true);
                    members[slot] = chosen.unwrap_or(members[slot]);
                }
            }
            self.add_slots(ground, pg, count, joined, &mut members);
        }
        members
    }

    fn add_slots(&self, ground: &Ground, pg: u32, count: usize, joined: u32, members: &mut Vec<u32>) {
        let moment = Moment { joined, after: 0 };
        let count = count.min(self.rooms[ROOT as usize].left(moment) as usize);
        for slot in members.len()..count {
            let chosen = self.choose(ground, pg, slot, members, moment, &|_| true);
            members.push(chosen.expect("there are more targets than slots before this one"));
        }
    }

    fn share_domains(&self, ground: &Ground, members: &[u32]) -> bool {
        let of = |slot: usize| ground.tree.above(members[slot])[0];
        (1..members.len()).any(|slot| (0..slot).any(|before| of(before) == of(slot)))
    }

    /// Targets that are drawn before `member` is.
    fn before(&self, ground: &Ground, pg: u32, slot: usize, member: u32) -> impl Iterator<Item = u32> {
        let mut draws = Draws::new(&ground.line, pg, slot);
        let drawn = (0..POINTS_MAX).filter_map(move |_| draws.next()).take_while(move |&target| target != member);
        drawn.filter(|&target| self.fates[target as usize] != ABSENT).take(DRAWS_MAX)
    }

    /// A target for a slot, among those of the moment that will do, which stands apart from `others`.
    fn choose(
        &self,
        ground: &Ground,
        pg: u32,
        slot: usize,
        others: &[u32],
        moment: Moment,
        will_do: &dyn Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut draws = Draws::new(&ground.line, pg, slot);
        let there =
            |&target: &u32| self.fates[target as usize] != ABSENT && self.joined[target as usize] <= moment.joined;
        (0..POINTS_MAX)
            .filter_map(|_| draws.next())
            .filter(there)
            .take(DRAWS_MAX)
            .find(|&target| self.suits(ground, target, others, moment) && will_do(target))
            .or_else(|| self.search(ground, pg, slot, others, moment).filter(|&target| will_do(target)))
    }

    fn is_there(&self, target: u32, moment: Moment) -> bool {
        self.fates[target as usize] > moment.after && self.joined[target as usize] <= moment.joined
    }

    /// Whether `target` stands in a least used domain at every level.
    fn suits(&self, ground: &Ground, target: u32, others: &[u32], moment: Moment) -> bool {
        if !self.is_there(target, moment) || others.contains(&target) {
            return false;
        }
        let mut parent = ROOT;
        for (level, &domain) in ground.tree.above(target).iter().enumerate() {
            let beside = |&&other: &&u32| ground.tree.above(other)[level] == domain;
            match others.iter().filter(beside).count() as u32 {
                // Nobody is in it: it is least used, and so is everything within.
                0 => return true,
                used if self.least_used(ground, parent, level, others, moment) < used => return false,
                _ => parent = domain,
            }
        }
        true
    }

    /// How many of `others` are in that domain within `parent` that has the fewest, and room for more.
    fn least_used(&self, ground: &Ground, parent: u32, level: usize, others: &[u32], moment: Moment) -> u32 {
        let within = |&&other: &&u32| level == 0 || ground.tree.above(other)[level - 1] == parent;
        let mut used: Vec<u32> = others.iter().filter(within).map(|&o| ground.tree.above(o)[level]).collect();
        used.sort_unstable();
        let counts: Vec<(u32, u32)> = used.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32)).collect();
        let live = counts.iter().filter(|(domain, _)| self.rooms[*domain as usize].left(moment) > 0);
        if self.rooms[parent as usize].domains_left(moment) > live.clone().count() as u32 {
            return 0;
        }
        let roomy = live.filter(|(domain, _)| self.has_room(ground, *domain, level, others, moment));
        roomy.map(|&(_, count)| count).min().unwrap_or(u32::MAX)
    }

    /// A domain at `level` has a target that none of `others` is.
    fn has_room(&self, ground: &Ground, domain: u32, level: usize, others: &[u32], moment: Moment) -> bool {
        let taken = |&&other: &&u32| ground.tree.above(other)[level] == domain && self.is_there(other, moment);
        self.rooms[domain as usize].left(moment) > others.iter().filter(taken).count() as u32
    }

    /// As drawing, but from the root down, by claims that count all children of a domain: for when a suitable
    /// target is rare. `None` if there is none.
    fn search(&self, ground: &Ground, pg: u32, slot: usize, others: &[u32], moment: Moment) -> Option<u32> {
        let tree = &ground.tree;
        let mut domain = ROOT;
        for level in 0..tree.depth() {
            let used = |child: u32| others.iter().filter(|&&other| tree.above(other)[level] == child).count();
            let children = tree.children(domain).iter().copied();
            let roomy = children.filter(|&child| self.has_room(ground, child, level, others, moment));
            let best = |child: u32| {
                let weight = self.rooms[child as usize].left(moment);
                (used(child), claim::of_domain(pg, slot, level, child, weight), Reverse(child))
            };
            domain = roomy.min_by_key(|&child| best(child))?;
        }
        let free = |target: &u32| self.is_there(*target, moment) && !others.contains(target);
        let targets = tree.children(domain).iter().copied().filter(free);
        targets.min_by_key(|&target| {
            let weight = ground.weights[target as usize];
            (claim::of_domain(pg, slot, tree.depth(), target, weight), target)
        })
    }
}

impl Room {
    /// Targets that are there.
    fn left(&self, moment: Moment) -> u32 {
        count_until(&self.joining, moment.joined) - count_until(&self.leaving, moment.after)
    }

    /// Domains in it that have any.
    fn domains_left(&self, moment: Moment) -> u32 {
        count_until(&self.domains, moment.joined) - count_until(&self.emptied, moment.after)
    }

    fn emptied_at(&self) -> Option<u32> {
        (self.leaving.len() == self.joining.len()).then(|| self.leaving.last().copied()).flatten()
    }
}

fn count_until(sorted: &[u32], version: u32) -> u32 {
    sorted.partition_point(|&at| at <= version) as u32
}

fn without(members: &[u32], slot: usize) -> Vec<u32> {
    let mut others = members.to_vec();
    others.remove(slot);
    others
}

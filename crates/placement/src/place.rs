//! Objects to placement groups, dkeys to groups.

use std::collections::BTreeSet;

use types::{Key, ObjectClass, ObjectId};

use crate::Layout;
use crate::hash::{self, Purpose};

/// Placement groups for each group of an object that is as wide as can be: at first it has four groups a target, and when
/// the pool has grown fourfold still one. More would be more to ask for a listing, fewer would not widen.
const PGS_PER_WIDEST: u32 = 16;
/// Most groups of one object: placing it takes milliseconds, and no single object needs more targets.
pub const GROUPS_MAX: u32 = 4096;

/// Which placement groups an object's groups lie in: for good, whatever version of the map said so.
///
/// Who holds them, and who leads, is for [`Layout::slots`] and [`Layout::leader`] to say, of every version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    oid: ObjectId,
    width: usize,
    pgs: Vec<u32>,
}

/// Why an object cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The id was not made by this system.
    #[error("object {oid} has no known class in its id")]
    NoClass { oid: ObjectId },
    #[error("class {class} needs {needed} fault domains (servers that fail apart), and the pool has {domains}")]
    TooFewDomains { class: ObjectClass, needed: usize, domains: usize },
}

/// How many groups an object of `class` has in a pool of `pg_count` placement groups. For good: targets may come and
/// go, but a dkey stays in its group.
pub fn group_count(class: ObjectClass, pg_count: u32) -> usize {
    let slots = class.redundancy().width() as u32;
    let widest = (pg_count / PGS_PER_WIDEST / slots).clamp(1, GROUPS_MAX);
    widest.min(class.groups().into()) as usize
}

impl Layout {
    /// Fault domains that there are to keep copies apart in: [`PoolMap::domain_count`](crate::PoolMap::domain_count),
    /// counted once.
    pub fn domain_count(&self) -> usize {
        self.domains
    }

    /// Whether objects of a class have a place.
    ///
    /// # Errors
    /// [`PlaceError::TooFewDomains`].
    pub fn admits_class(&self, class: ObjectClass) -> Result<(), PlaceError> {
        let (needed, domains) = (class.redundancy().width(), self.domain_count());
        match needed > domains {
            true => Err(PlaceError::TooFewDomains { class, needed, domains }),
            false => Ok(()),
        }
    }

    /// The groups of an object, in order.
    ///
    /// They are taken along a walk over the placement groups that starts where the object's hash says, in rounds: no
    /// two of a round had a target in common when the pool was made. So which they are does not depend on what
    /// happened since, and an object is spread as evenly as the targets of its first day allowed.
    ///
    /// Cost: a group or two worked out for each that is found; once, as the answer holds for all versions.
    ///
    /// # Errors
    /// [`PlaceError`]: not a class, or one that needs more fault domains than there are.
    pub fn place(&self, oid: ObjectId) -> Result<Placed, PlaceError> {
        let class = oid.class().ok_or(PlaceError::NoClass { oid })?;
        self.admits_class(class)?;
        let width = class.redundancy().width();
        Ok(Placed { oid, width, pgs: self.walk(oid, width, group_count(class, self.pg_count())) })
    }

    fn walk(&self, oid: ObjectId, slots: usize, wanted: usize) -> Vec<u32> {
        let last = self.pg_count() - 1;
        let start = hash::of_words(Purpose::Object, &[oid.hi, oid.lo]) as u32 & last;
        // Twice as many as wanted leave enough to choose from; all of them would be a long walk.
        let window = (2 * wanted as u32 + 64).min(self.pg_count());
        let mut found = Vec::with_capacity(wanted);
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        let mut passed_over: Vec<(u32, Vec<u32>)> = Vec::new();
        for step in 0..window {
            let pg = start.wrapping_add(step) & last;
            let members: Vec<u32> = self.origin_members(pg, slots).collect();
            match members.iter().any(|member| taken.contains(member)) {
                true => passed_over.push((pg, members)),
                false => {
                    taken.extend(members);
                    found.push(pg);
                }
            }
            if found.len() == wanted {
                return found;
            }
        }
        // Further rounds share targets with those before, but never a placement group.
        while found.len() < wanted {
            taken.clear();
            for (pg, members) in std::mem::take(&mut passed_over) {
                if found.len() == wanted || members.iter().any(|member| taken.contains(member)) {
                    passed_over.push((pg, members));
                } else {
                    taken.extend(members);
                    found.push(pg);
                }
            }
        }
        found
    }
}

impl Placed {
    /// The placement group of each group of the object, in order.
    pub fn pgs(&self) -> &[u32] {
        &self.pgs
    }

    /// Slots of each group: copies, or cells.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The group that holds `dkey`: an index into [`Placed::pgs`].
    ///
    /// The chunks of an array go round the groups in turn, so that a sequential reader uses all
    /// targets; any other key goes where its hash says.
    pub fn group_of(&self, dkey: &Key) -> usize {
        let count = self.pgs.len();
        match (dkey, self.oid.kind()) {
            (Key::Integer(n), Some(kind)) if kind.is_array() => (n % count as u64) as usize,
            _ => {
                let bound = u32::try_from(count).expect("as many groups as a pool has targets, at most");
                hash::scale(dkey.with_bytes(|bytes| hash::of_bytes(Purpose::Dkey, bytes)), bound) as usize
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{ObjectType, Rank};

    use super::*;
    use crate::{Change, Event, FaultPath, PoolMap, Server};

    fn servers(ranks: std::ops::Range<u32>, targets: u32) -> Vec<Server> {
        ranks.map(|r| Server { rank: Rank(r), path: FaultPath::of_rank(Rank(r)), targets, weight: 1 }).collect()
    }

    fn layout(ranks: u32, each: u32) -> Layout {
        Layout::new(PoolMap::create(servers(0..ranks, each)).unwrap())
    }

    fn oid(class: &str, kind: ObjectType, lo: u64) -> ObjectId {
        ObjectId::new(kind, class.parse().unwrap(), 0, lo)
    }

    fn targets(layout: &Layout, placed: &Placed, groups: usize) -> Vec<u32> {
        let members = |&pg: &u32| layout.slots(pg, placed.width());
        placed.pgs()[..groups].iter().flat_map(members).filter_map(|slot| slot.serving).collect()
    }

    #[test]
    fn classes_have_as_many_groups_as_they_say_and_targets_allow() {
        let layout = layout(4, 4);
        for (class, groups) in [("S1", 1), ("S2", 2), ("S4", 4), ("SX", 64), ("RP_2GX", 32), ("EC_2P1G8", 8)] {
            let placed = layout.place(oid(class, ObjectType::MultiHashed, 7)).unwrap();
            assert_eq!(placed.pgs().len(), groups, "{class}");
        }
    }

    #[test]
    fn groups_of_an_object_are_in_distinct_groups_and_on_distinct_targets_while_there_are_enough() {
        let layout = layout(4, 4);
        for lo in 0..100 {
            for (class, first) in [("SX", 16), ("RP_2GX", 6), ("S12", 12), ("RP_3G2", 2), ("EC_2P1G3", 3)] {
                let placed = layout.place(oid(class, ObjectType::MultiHashed, lo)).unwrap();
                let pgs: BTreeSet<u32> = placed.pgs().iter().copied().collect();
                assert_eq!(pgs.len(), placed.pgs().len());
                let targets = targets(&layout, &placed, first);
                let distinct: BTreeSet<u32> = targets.iter().copied().collect();
                assert_eq!(
                    (distinct.len(), targets.len()),
                    (first * placed.width(), first * placed.width()),
                    "{class}"
                );
            }
        }
    }

    /// Once the number of groups followed the number of targets, and groups were chosen by who led them at the
    /// moment: every failure and every extension would have sent readers to where nothing had been written.
    #[test]
    fn an_object_stays_in_its_placement_groups_whatever_happens_to_targets() {
        let mut map = PoolMap::create(servers(0..4, 4)).unwrap();
        let pgs = |map: &PoolMap| -> Vec<u32> {
            let layout = Layout::new(map.clone());
            let of = |lo| layout.place(oid("RP_2GX", ObjectType::MultiHashed, lo)).unwrap().pgs().to_vec();
            (0..20).flat_map(of).collect()
        };
        let first = pgs(&map);
        map.apply(&Change::Add(servers(4..8, 4))).unwrap();
        map.apply(&Change::Happen((16..32).map(|p| (p, Event::Extend)).collect())).unwrap();
        map.apply(&Change::Happen((16..32).map(|p| (p, Event::Extended)).collect())).unwrap();
        map.apply(&Change::Happen(vec![(3, Event::Exclude), (9, Event::Exclude)])).unwrap();
        assert_eq!(pgs(&map), first);
    }

    #[test]
    fn a_widest_object_takes_the_new_targets_of_a_pool_that_doubles() {
        let mut map = PoolMap::create(servers(0..4, 4)).unwrap();
        map.apply(&Change::Add(servers(4..8, 4))).unwrap();
        map.apply(&Change::Happen((16..32).map(|p| (p, Event::Extend)).collect())).unwrap();
        map.apply(&Change::Happen((16..32).map(|p| (p, Event::Extended)).collect())).unwrap();
        let layout = Layout::new(map);
        let placed = layout.place(oid("SX", ObjectType::MultiHashed, 1)).unwrap();
        let used: BTreeSet<u32> = placed.pgs().iter().filter_map(|&pg| layout.leader(pg, 1)).collect();
        assert!(used.len() > 24, "of 32 targets, 64 groups use {}", used.len());
    }

    #[test]
    fn narrow_objects_spread_over_the_targets() {
        let layout = layout(2, 2);
        let mut counts = [0u32; 4];
        for lo in 0..4000 {
            let placed = layout.place(oid("S1", ObjectType::MultiHashed, lo)).unwrap();
            counts[layout.leader(placed.pgs()[0], 1).unwrap() as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (700..1350).contains(&n)), "{counts:?}");
    }

    #[test]
    fn consecutive_chunks_of_an_array_go_to_different_targets() {
        let layout = layout(1, 4);
        let placed = layout.place(oid("SX", ObjectType::ArrayByte, 1)).unwrap();
        let target = |n: u64| layout.leader(placed.pgs()[placed.group_of(&Key::from(n))], 1).unwrap();
        let used: BTreeSet<u32> = (0..4).map(target).collect();
        assert_eq!(used.len(), 4);
        assert_eq!(placed.group_of(&Key::from(16)), 0);
    }

    #[test]
    fn keys_spread_over_the_groups() {
        let placed = layout(1, 4).place(oid("S4", ObjectType::KvHashed, 1)).unwrap();
        let mut counts = [0u32; 4];
        for i in 0..4000u32 {
            counts[placed.group_of(&Key::new(format!("key {i}").into_bytes()).unwrap())] += 1;
        }
        assert!(counts.iter().all(|&n| (900..1100).contains(&n)), "{counts:?}");
    }

    #[test]
    fn an_object_that_cannot_be_placed_says_why() {
        let one = layout(1, 2).place(oid("RP_2G1", ObjectType::MultiHashed, 1)).unwrap_err();
        assert_eq!(one.to_string(), "class RP_2G1 needs 2 fault domains (servers that fail apart), and the pool has 1");
        let none = layout(1, 1).place(ObjectId { hi: 0, lo: 1 });
        assert!(matches!(none, Err(PlaceError::NoClass { .. })));
    }
}

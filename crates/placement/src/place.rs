//! Objects to placement groups, dkeys to groups.

use types::{Key, ObjectClass, ObjectId, ObjectType, Redundancy};

use crate::Layout;
use crate::hash::{self, Purpose};

/// Where an object's groups lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    oid: ObjectId,
    groups: Vec<Group>,
}

/// One group of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The placement group it lies in.
    pub pg: u32,
    /// Position of the leading target in the pool map.
    pub leader: u16,
}

/// Why an object cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The id was not made by this system.
    #[error("object {oid} has no known class in its id")]
    NoClass { oid: ObjectId },
    #[error("class {class} keeps {needed} copies or cells on as many servers, and the pool has {domains}")]
    TooFewDomains { class: ObjectClass, needed: usize, domains: usize },
    #[error("class {class} is redundant, which this release does not place yet")]
    Unsupported { class: ObjectClass },
}

/// How many groups an object of `class` has in a pool of `targets`.
pub fn group_count(class: ObjectClass, targets: usize) -> usize {
    match class.groups() {
        ObjectClass::GROUPS_MAX => targets,
        groups => targets.min(groups.into()),
    }
}

impl Layout {
    /// The groups of an object, in order.
    ///
    /// They are taken along a walk over all placement groups that starts where the object's hash
    /// says, skipping those whose leader has one of this object's groups already. So one object is
    /// spread as evenly as targets allow, and a class of more groups begins with the same ones.
    ///
    /// Cost: one step a group for a narrow object; `n log n` steps for one over all `n` targets.
    ///
    /// # Errors
    /// [`PlaceError`]. Only classes without redundancy (`S1`, `SX`, ...) can be placed now.
    pub fn place(&self, oid: ObjectId) -> Result<Placed, PlaceError> {
        let class = oid.class().ok_or(PlaceError::NoClass { oid })?;
        let needed = match class.redundancy() {
            Redundancy::Replicas { copies } => usize::from(copies),
            Redundancy::Erasure { data, parity } => usize::from(data) + usize::from(parity),
        };
        let domains = self.map().domain_count();
        if needed > domains {
            return Err(PlaceError::TooFewDomains { class, needed, domains });
        }
        if needed > 1 {
            return Err(PlaceError::Unsupported { class });
        }
        Ok(Placed { oid, groups: self.walk(oid, group_count(class, self.map().targets().len())) })
    }

    fn walk(&self, oid: ObjectId, wanted: usize) -> Vec<Group> {
        let last = self.pg_count() - 1;
        let start = hash::of_words(Purpose::Object, &[oid.hi, oid.lo]) as u32 & last;
        let mut groups = Vec::with_capacity(wanted);
        let mut taken = vec![false; self.map().targets().len()];
        let mut passed_over = Vec::new();
        for step in 0..self.pg_count() {
            let pg = start.wrapping_add(step) & last;
            let leader = self.members(pg)[0];
            match std::mem::replace(&mut taken[usize::from(leader)], true) {
                false => groups.push(Group { pg, leader }),
                true => passed_over.push(Group { pg, leader }),
            }
            if groups.len() == wanted {
                return groups;
            }
        }
        // Some target leads no placement group at all: the rest share targets, but never a group.
        groups.extend(passed_over.into_iter().take(wanted - groups.len()));
        groups
    }
}

impl Placed {
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The group that holds `dkey`: an index into [`Placed::groups`].
    ///
    /// The chunks of an array go round the groups in turn, so that a sequential reader uses all
    /// targets; any other key goes where its hash says.
    pub fn group_of(&self, dkey: &Key) -> usize {
        let count = self.groups.len();
        match (dkey, self.oid.kind()) {
            (Key::Integer(n), Some(ObjectType::Array | ObjectType::ArrayAttr | ObjectType::ArrayByte)) => {
                (n % count as u64) as usize
            }
            _ => {
                let bound = u32::try_from(count).expect("as many groups as a pool has targets, at most");
                hash::scale(dkey.with_bytes(|bytes| hash::of_bytes(Purpose::Dkey, bytes)), bound) as usize
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{Rank, TargetIndex};

    use super::*;
    use crate::{PoolMap, Target};

    fn layout(ranks: u32, each: u32) -> Layout {
        let name = |i| Target { rank: Rank(i / each), index: TargetIndex(i % each), weight: 1, up: true };
        Layout::new(PoolMap::new(1, (0..ranks * each).map(name).collect()).unwrap())
    }

    fn oid(class: &str, kind: ObjectType, lo: u64) -> ObjectId {
        ObjectId::new(kind, class.parse().unwrap(), 0, lo)
    }

    #[test]
    fn classes_have_as_many_groups_as_they_say_and_targets_allow() {
        let layout = layout(1, 4);
        for (class, groups) in [("S1", 1), ("S2", 2), ("S4", 4), ("S32", 4), ("SX", 4)] {
            let placed = layout.place(oid(class, ObjectType::MultiHashed, 7)).unwrap();
            assert_eq!(placed.groups().len(), groups, "{class}");
        }
    }

    #[test]
    fn groups_of_an_object_are_on_distinct_targets() {
        let layout = layout(4, 4);
        for lo in 0..200 {
            let placed = layout.place(oid("SX", ObjectType::MultiHashed, lo)).unwrap();
            let targets: std::collections::BTreeSet<u16> = placed.groups().iter().map(|g| g.leader).collect();
            let pgs: std::collections::BTreeSet<u32> = placed.groups().iter().map(|g| g.pg).collect();
            assert_eq!((targets.len(), pgs.len()), (16, 16));
        }
    }

    #[test]
    fn narrow_objects_spread_over_the_targets() {
        let layout = layout(2, 2);
        let mut counts = [0u32; 4];
        for lo in 0..4000 {
            let placed = layout.place(oid("S1", ObjectType::MultiHashed, lo)).unwrap();
            counts[usize::from(placed.groups()[0].leader)] += 1;
        }
        assert!(counts.iter().all(|&n| (700..1350).contains(&n)), "{counts:?}");
    }

    #[test]
    fn consecutive_chunks_of_an_array_go_to_different_targets() {
        let placed = layout(1, 4).place(oid("SX", ObjectType::ArrayByte, 1)).unwrap();
        let groups: Vec<usize> = (1..=8).map(|n| placed.group_of(&Key::from(n))).collect();
        assert_eq!(groups, [1, 2, 3, 0, 1, 2, 3, 0]);
    }

    #[test]
    fn keys_spread_over_the_groups() {
        let placed = layout(1, 4).place(oid("SX", ObjectType::KvHashed, 1)).unwrap();
        let mut counts = [0u32; 4];
        for i in 0..4000u32 {
            counts[placed.group_of(&Key::new(format!("key {i}").into_bytes()).unwrap())] += 1;
        }
        assert!(counts.iter().all(|&n| (900..1100).contains(&n)), "{counts:?}");
    }

    #[test]
    fn redundant_classes_say_why_they_cannot_be_placed() {
        let one = layout(1, 2).place(oid("RP_2G1", ObjectType::MultiHashed, 1)).unwrap_err();
        assert_eq!(one.to_string(), "class RP_2G1 keeps 2 copies or cells on as many servers, and the pool has 1");
        let two = layout(2, 2).place(oid("RP_2G1", ObjectType::MultiHashed, 1));
        assert!(matches!(two, Err(PlaceError::Unsupported { .. })));
        let none = layout(1, 1).place(ObjectId { hi: 0, lo: 1 });
        assert!(matches!(none, Err(PlaceError::NoClass { .. })));
    }
}

//! A pool map as placement sees it: targets, in a fixed order.

use types::{Rank, TargetIndex};

/// Placement groups per target: enough that load evens out, few enough that a table of them is
/// small and a listing by group is cheap.
pub const PGS_PER_TARGET: u32 = 64;
/// Most targets of one pool: bounds the work of making a layout (PGs times targets).
pub const TARGETS_MAX: usize = 4096;

/// The number of placement groups of a pool of `targets`: a power of two, at least 64.
pub fn pg_count(targets: usize) -> u32 {
    let targets = u32::try_from(targets.clamp(1, TARGETS_MAX)).expect("clamped to a few thousand");
    (targets * PGS_PER_TARGET).next_power_of_two()
}

/// One target of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub rank: Rank,
    pub index: TargetIndex,
    /// Its share of the data relative to the others, above zero. Equal weights share equally.
    pub weight: u32,
    /// It serves requests. A target that does not keeps its place.
    pub up: bool,
}

/// Targets in the order of the map; a *position* is an index into this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMap {
    version: u32,
    pg_count: u32,
    targets: Vec<Target>,
}

/// Why a list of targets is not a pool map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("pool map {version} has no targets")]
    Empty { version: u32 },
    #[error("pool map {version} has {targets} targets: at most {TARGETS_MAX} are supported")]
    TooMany { version: u32, targets: usize },
    #[error("pool map {version} names target {index} of rank {rank} twice")]
    Twice { version: u32, rank: Rank, index: TargetIndex },
    #[error("pool map {version} gives target {index} of rank {rank} no weight")]
    Weightless { version: u32, rank: Rank, index: TargetIndex },
}

impl PoolMap {
    /// # Errors
    /// [`MapError`]: no targets, too many, one twice, or one without weight.
    pub fn new(version: u32, targets: Vec<Target>) -> Result<PoolMap, MapError> {
        let groups = pg_count(targets.len());
        PoolMap::with_pg_count(version, targets, groups)
    }

    /// As [`PoolMap::new`], with the number of placement groups of an earlier version of the map.
    pub(crate) fn with_pg_count(version: u32, targets: Vec<Target>, pg_count: u32) -> Result<PoolMap, MapError> {
        assert!(pg_count.is_power_of_two(), "a count of placement groups is a power of two");
        if targets.is_empty() {
            return Err(MapError::Empty { version });
        }
        if targets.len() > TARGETS_MAX {
            return Err(MapError::TooMany { version, targets: targets.len() });
        }
        let mut seen = std::collections::BTreeSet::new();
        for Target { rank, index, weight, .. } in &targets {
            if !seen.insert((*rank, *index)) {
                return Err(MapError::Twice { version, rank: *rank, index: *index });
            }
            if *weight == 0 {
                return Err(MapError::Weightless { version, rank: *rank, index: *index });
            }
        }
        Ok(PoolMap { version, pg_count, targets })
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn pg_count(&self) -> u32 {
        self.pg_count
    }

    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Fault domains: servers, for now.
    pub fn domain_count(&self) -> usize {
        self.targets.iter().map(|target| target.rank).collect::<std::collections::BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(rank: u32, index: u32, weight: u32) -> Target {
        Target { rank: Rank(rank), index: TargetIndex(index), weight, up: true }
    }

    #[test]
    fn placement_groups_are_a_power_of_two_and_about_64_a_target() {
        let counts: Vec<u32> = [0, 1, 2, 3, 4, 5, 16].map(pg_count).into();
        assert_eq!(counts, [64, 64, 128, 256, 256, 512, 1024]);
    }

    #[test]
    fn a_bad_map_says_what_is_wrong_with_it() {
        assert_eq!(PoolMap::new(3, vec![]), Err(MapError::Empty { version: 3 }));
        let twice = PoolMap::new(3, vec![target(1, 0, 1), target(1, 0, 1)]).unwrap_err();
        assert_eq!(twice.to_string(), "pool map 3 names target 0 of rank 1 twice");
        assert!(matches!(PoolMap::new(3, vec![target(1, 0, 0)]), Err(MapError::Weightless { .. })));
        let many = (0..=TARGETS_MAX as u32).map(|i| target(0, i, 1)).collect();
        assert!(matches!(PoolMap::new(3, many), Err(MapError::TooMany { .. })));
    }
}

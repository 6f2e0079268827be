//! The table of placement groups: which targets hold each, in order.

use crate::hash::{self, Purpose};
use crate::map::{PoolMap, Target};

/// Members kept per placement group: what the widest replication this release could place needs,
/// and spares. Bounds the table at 32 bytes a group.
pub const MEMBERS_MAX: usize = 8;

/// Placement of one version of a pool map.
///
/// Cost of making one: PGs times targets hashes, some 10 ms for 64 targets. Then every question is
/// a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    map: PoolMap,
    /// `width` positions per placement group, best first.
    members: Vec<u16>,
    width: usize,
    digest: u64,
}

impl Layout {
    pub fn new(map: PoolMap) -> Layout {
        let width = map.targets().len().min(MEMBERS_MAX);
        let mut members = Vec::with_capacity(map.pg_count() as usize * width);
        let mut ranking = Vec::with_capacity(map.targets().len());
        for pg in 0..map.pg_count() {
            rank_targets(&map, pg, &mut ranking);
            choose_members(&map, &ranking, width, &mut members);
        }
        let digest = digest(&map, &members);
        Layout { map, members, width, digest }
    }

    pub fn map(&self) -> &PoolMap {
        &self.map
    }

    pub fn pg_count(&self) -> u32 {
        self.map.pg_count()
    }

    /// Positions of the targets that hold placement group `pg`, leader first, then those that would
    /// take over in turn. In distinct fault domains while there are enough.
    pub fn members(&self, pg: u32) -> &[u16] {
        let start = pg as usize * self.width;
        &self.members[start..start + self.width]
    }

    /// Equal in two layouts that place alike (whether a target is up does not matter).
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

/// A target's claim to a placement group; the smallest wins.
///
/// `claim` is `-log2(hash) / weight`: the first of exponential arrivals at the rate of the weight,
/// so a target wins in proportion to it, and its claim does not depend on who else there is.
/// Equal claims (the logarithm is rounded) are settled by the hash, largest first, then by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    claim: u64,
    hash: std::cmp::Reverse<u64>,
    name: (u32, u32),
    position: u16,
}

/// All targets, best claim first.
fn rank_targets(map: &PoolMap, pg: u32, ranking: &mut Vec<Claim>) {
    ranking.clear();
    let equal = map.targets().iter().all(|target| target.weight == map.targets()[0].weight);
    for (position, target) in map.targets().iter().enumerate() {
        let Target { rank, index, weight, .. } = *target;
        let hash = hash::of_words(Purpose::Score, &[pg.into(), rank.0.into(), index.0.into()]);
        // With equal weights the claims order as the hashes do, which spares the logarithms.
        let claim = if equal { 0 } else { minus_log2(hash) / u64::from(weight) };
        let position = u16::try_from(position).expect("a map has at most a few thousand targets");
        ranking.push(Claim { claim, hash: std::cmp::Reverse(hash), name: (rank.0, index.0), position });
    }
    ranking.sort_unstable();
}

/// Appends `width` members: the best of each fault domain first, then the rest.
fn choose_members(map: &PoolMap, ranking: &[Claim], width: usize, members: &mut Vec<u16>) {
    let first = members.len();
    let mut domains: Vec<u32> = Vec::with_capacity(width);
    for claim in ranking {
        if members.len() - first == width {
            return;
        }
        let domain = map.targets()[usize::from(claim.position)].rank.0;
        if !domains.contains(&domain) {
            domains.push(domain);
            members.push(claim.position);
        }
    }
    for claim in ranking {
        if members.len() - first == width {
            return;
        }
        if !members[first..].contains(&claim.position) {
            members.push(claim.position);
        }
    }
}

/// Bits after the point of [`minus_log2`]: 2^-24 of a bit is far below what 4096 targets can tell
/// apart, and 64 bits before the point leave room for the shift.
const FRACTION_BITS: u32 = 24;

/// `-log2((hash + 1) / 2^64)` in fixed point, rounded down; decreasing in `hash`. Integer arithmetic, because
/// two machines' floating-point logarithms may differ in the last bit.
fn minus_log2(hash: u64) -> u64 {
    let value = u128::from(hash) + 1;
    let whole = 127 - value.leading_zeros();
    // The mantissa in 1.63; squaring it doubles its logarithm, so each carry is the next binary digit.
    let mut mantissa = (value << (127 - whole) >> 64) as u64;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = (square >> 127) as u64;
        mantissa = (square >> (63 + carry)) as u64;
        fraction = fraction << 1 | carry;
    }
    (64 << FRACTION_BITS) - ((u64::from(whole) << FRACTION_BITS) | fraction)
}

fn digest(map: &PoolMap, members: &[u16]) -> u64 {
    let mut words = vec![u64::from(map.pg_count())];
    words.extend(map.targets().iter().map(|target| u64::from(target.rank.0) << 32 | u64::from(target.index.0)));
    words.extend(members.iter().map(|&position| u64::from(position)));
    hash::of_words(Purpose::Digest, &words)
}

#[cfg(test)]
mod tests {
    use types::{Rank, TargetIndex};

    use super::*;

    fn targets(ranks: u32, each: u32) -> Vec<Target> {
        let name = |i| Target { rank: Rank(i / each), index: TargetIndex(i % each), weight: 1, up: true };
        (0..ranks * each).map(name).collect()
    }

    fn leaders(layout: &Layout) -> Vec<(Rank, TargetIndex)> {
        let name = |pg| {
            let target = layout.map().targets()[usize::from(layout.members(pg)[0])];
            (target.rank, target.index)
        };
        (0..layout.pg_count()).map(name).collect()
    }

    fn load(layout: &Layout) -> Vec<usize> {
        let mut load = vec![0; layout.map().targets().len()];
        (0..layout.pg_count()).for_each(|pg| load[usize::from(layout.members(pg)[0])] += 1);
        load
    }

    #[test]
    fn load_is_even_within_a_third() {
        for (ranks, each) in [(1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (8, 8)] {
            let layout = Layout::new(PoolMap::new(1, targets(ranks, each)).unwrap());
            let load = load(&layout);
            let mean = f64::from(layout.pg_count()) / load.len() as f64;
            let most = *load.iter().max().unwrap() as f64;
            assert!(most / mean < 1.34, "{ranks}x{each}: {load:?}");
        }
    }

    #[test]
    fn a_target_that_leaves_moves_only_its_own_groups() {
        let before = targets(4, 4);
        let groups = crate::pg_count(before.len());
        let old = leaders(&Layout::new(PoolMap::new(1, before.clone()).unwrap()));
        for leaving in 0..before.len() {
            let mut after = before.clone();
            let gone = after.remove(leaving);
            let new = leaders(&Layout::new(PoolMap::with_pg_count(2, after, groups).unwrap()));
            for (was, is) in old.iter().zip(&new) {
                assert_eq!(was == is, *was != (gone.rank, gone.index));
            }
        }
    }

    #[test]
    fn a_target_that_goes_down_moves_nothing() {
        let mut list = targets(2, 2);
        let up = Layout::new(PoolMap::new(1, list.clone()).unwrap());
        list[1].up = false;
        let down = Layout::new(PoolMap::new(2, list).unwrap());
        assert_eq!((up.members.clone(), up.digest()), (down.members.clone(), down.digest()));
    }

    #[test]
    fn members_stand_in_distinct_domains_while_there_are_enough() {
        let layout = Layout::new(PoolMap::new(1, targets(4, 4)).unwrap());
        for pg in 0..layout.pg_count() {
            let members = layout.members(pg);
            assert_eq!(members.len(), MEMBERS_MAX);
            let ranks: std::collections::BTreeSet<u16> = members[..4].iter().map(|m| m / 4).collect();
            assert_eq!(ranks.len(), 4);
            let distinct: std::collections::BTreeSet<u16> = members.iter().copied().collect();
            assert_eq!(distinct.len(), MEMBERS_MAX);
        }
    }

    #[test]
    fn load_follows_weight() {
        let mut list = targets(2, 2);
        list[3].weight = 3;
        let layout = Layout::new(PoolMap::with_pg_count(1, list, 4096).unwrap());
        let load = load(&layout);
        assert!((1848..2248).contains(&load[3]), "half of 4096 expected: {load:?}");
        assert!(load[..3].iter().all(|n| (583..783).contains(n)), "a sixth each expected: {load:?}");
    }

    #[test]
    fn the_logarithm_is_right_and_monotonic() {
        let scale = f64::from(1u32 << FRACTION_BITS);
        for hash in [0, 1, 2, 1000, 1 << 40, u64::MAX / 3, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let exact = 64.0 - (hash as f64 + 1.0).log2();
            assert!((minus_log2(hash) as f64 / scale - exact).abs() < 1e-6, "{hash}");
        }
        for i in 0..10_000u64 {
            let (a, b) = (i << 50, (i + 1) << 50);
            assert!(minus_log2(a) >= minus_log2(b));
        }
    }

    /// Golden value: if this fails, every stored object has moved.
    #[test]
    fn the_layout_is_golden() {
        let layout = Layout::new(PoolMap::new(1, targets(2, 2)).unwrap());
        let first: Vec<u16> = (0..8).map(|pg| layout.members(pg)[0]).collect();
        assert_eq!(
            (first, layout.digest()),
            (vec![0, 0, 1, 3, 0, 3, 2, 0], 0x6996_7ec5_7a2c_399f),
            "{:#x}",
            layout.digest()
        );
    }
}

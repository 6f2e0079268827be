//! When what was read: the newest reads of containers, objects, dkeys and akeys, in bounded memory.
//!
//! # Shape
//! A mark per place, by a 64-bit hash of its path: `low`, when all of it was read, and `high`, when something
//! in it was. Places that do not exist have marks too, so absence needs no table of its own. Two generations:
//! when the young one is full, the old one is dropped and the young one grows old.
//!
//! # Always true
//! 1. [`Timestamps::newest`] never answers less than a read that was noted (K18): dropping marks raises the
//!    low-water mark to the newest of them, and two places of one hash share a mark.
//! 2. Marks number at most twice the capacity.
//!
//! After a restart nothing is known of earlier reads: the low-water mark starts at "now".

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use hashbrown::HashMap;
use types::{ContainerId, Epoch, PoolId};

use crate::intent::ends;
use crate::request::TxId;

/// Marks of a pool in a generation: 64 Ki of some 80 bytes.
const MARKS_MAX: usize = 64 << 10;

/// The newest read, and whose it was; of several transactions, nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub(crate) epoch: Epoch,
    pub(crate) tx: Option<TxId>,
}

impl Stamp {
    /// The newer; of two at one epoch, nobody's unless they are one transaction's.
    pub(crate) fn join(self, other: Stamp) -> Stamp {
        match self.epoch.cmp(&other.epoch) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal => Stamp { tx: self.tx.filter(|tx| Some(*tx) == other.tx), ..self },
        }
    }
}

#[derive(Clone, Copy)]
struct Mark {
    low: Stamp,
    high: Stamp,
}

/// The reads of one pool.
pub(crate) struct Timestamps {
    young: HashMap<u64, Mark>,
    old: HashMap<u64, Mark>,
    /// Newest stamp in each.
    young_max: Epoch,
    old_max: Epoch,
    low_water: Epoch,
    marks_max: usize,
}

/// Hashes of a place and of everything above it, container first. `place` is a key prefix.
fn path(container: ContainerId, place: &[u8]) -> impl Iterator<Item = u64> {
    let hash = move |prefix: &[u8]| {
        let mut hasher = DefaultHasher::new();
        container.to_bytes().hash(&mut hasher);
        prefix.hash(&mut hasher);
        hasher.finish()
    };
    std::iter::once(hash(&[])).chain(ends(place).map(move |end| hash(&place[..end])))
}

impl Timestamps {
    pub(crate) fn new(low_water: Epoch, marks_max: usize) -> Timestamps {
        Timestamps {
            young: HashMap::new(),
            old: HashMap::new(),
            young_max: Epoch::ZERO,
            old_max: Epoch::ZERO,
            low_water,
            marks_max,
        }
    }

    /// Notes a read of all of `place`.
    pub(crate) fn note(&mut self, container: ContainerId, place: &[u8], stamp: Stamp) {
        let all: smallvec::SmallVec<[u64; 4]> = path(container, place).collect();
        for (depth, hash) in all.iter().enumerate() {
            let low = if depth + 1 == all.len() { stamp } else { Stamp::default() };
            self.raise(*hash, Mark { low, high: stamp });
        }
    }

    /// The newest read that a write to `place` would change: of all of something above it, or of anything in it.
    pub(crate) fn newest(&self, container: ContainerId, place: &[u8]) -> Stamp {
        let mut newest = Stamp { epoch: self.low_water, tx: None };
        let mut last = None;
        for hash in path(container, place) {
            let mark = self.young.get(&hash).or_else(|| self.old.get(&hash));
            newest = mark.map_or(newest, |mark| newest.join(mark.low));
            last = mark;
        }
        last.map_or(newest, |mark| newest.join(mark.high))
    }

    fn raise(&mut self, hash: u64, mark: Mark) {
        if self.young.len() >= self.marks_max && !self.young.contains_key(&hash) {
            self.low_water = self.low_water.max(self.old_max);
            self.old = std::mem::take(&mut self.young);
            self.old_max = std::mem::take(&mut self.young_max);
        }
        let before = self.young.get(&hash).copied().or_else(|| self.old.remove(&hash));
        let mark =
            before.map_or(mark, |before| Mark { low: before.low.join(mark.low), high: before.high.join(mark.high) });
        self.young_max = self.young_max.max(mark.high.epoch);
        self.young.insert(hash, mark);
    }
}

/// The reads of all pools of a target. One pool's reads never push out another's.
pub(crate) struct Reads {
    low_water: Epoch,
    marks_max: usize,
    pools: BTreeMap<PoolId, Timestamps>,
}

impl Reads {
    pub(crate) fn new(low_water: Epoch) -> Reads {
        Reads { low_water, marks_max: MARKS_MAX, pools: BTreeMap::new() }
    }

    /// Forgets all reads; those up to `low_water` count as made of everything.
    pub(crate) fn start(&mut self, low_water: Epoch) {
        *self = Reads { low_water, marks_max: self.marks_max, pools: BTreeMap::new() };
    }

    pub(crate) fn set_marks_max(&mut self, marks_max: usize) {
        self.marks_max = marks_max;
    }

    /// `is_live` says of the others whether they are still there.
    pub(crate) fn pool(&mut self, pool: PoolId, is_live: impl Fn(&PoolId) -> bool) -> &mut Timestamps {
        if !self.pools.contains_key(&pool) {
            self.pools.retain(|id, _| is_live(id));
        }
        self.pools.entry(pool).or_insert_with(|| Timestamps::new(self.low_water, self.marks_max))
    }
}

#[cfg(test)]
mod tests {
    use types::{Key, ObjectId, SessionId};

    use super::*;
    use crate::key;

    fn place(object: u64, dkey: Option<u64>, akey: Option<u64>) -> Vec<u8> {
        let mut place = Vec::new();
        key::push_object(&mut place, 0, ObjectId { hi: 1, lo: object });
        for n in [dkey, akey].into_iter().flatten() {
            key::push_key(&mut place, &Key::Integer(n));
        }
        place
    }

    fn stamp(epoch: u64, tx: u64) -> Stamp {
        Stamp { epoch: Epoch(epoch), tx: Some(TxId { session: SessionId(1), seq: tx }) }
    }

    const ID: ContainerId = ContainerId::from_bytes([3; 16]);

    /// M-2's level rule: a write meets reads of all of what is above it, and of anything in it.
    #[test]
    fn a_write_meets_reads_above_and_within_and_not_beside() {
        let places = [
            vec![],
            place(1, None, None),
            place(1, Some(1), None),
            place(1, Some(1), Some(1)),
            place(1, Some(1), Some(2)),
        ];
        // Which writes (object, dkey, akey 1, akey 2) a read of each place meets.
        let meets = [
            [true, true, true, true],
            [true, true, true, true],
            [true, true, true, true],
            [true, true, true, false],
            [true, true, false, true],
        ];
        for (read, meets) in places.iter().zip(meets) {
            let mut reads = Timestamps::new(Epoch::ZERO, 100);
            reads.note(ID, read, stamp(5, 1));
            for (write, meets) in places[1..].iter().zip(meets) {
                assert_eq!(reads.newest(ID, write) == stamp(5, 1), meets, "read {read:?} write {write:?}");
            }
            assert_eq!(reads.newest(ContainerId::from_bytes([4; 16]), &places[1]).epoch, Epoch::ZERO);
        }
    }

    #[test]
    fn two_readers_at_one_epoch_are_nobody() {
        let mut reads = Timestamps::new(Epoch::ZERO, 100);
        reads.note(ID, &place(1, None, None), stamp(5, 1));
        reads.note(ID, &place(1, None, None), stamp(5, 1));
        assert_eq!(reads.newest(ID, &place(1, None, None)), stamp(5, 1));
        reads.note(ID, &place(1, None, None), stamp(5, 2));
        assert_eq!(reads.newest(ID, &place(1, None, None)), Stamp { epoch: Epoch(5), tx: None });
        reads.note(ID, &place(1, None, None), stamp(4, 2));
        reads.note(ID, &place(1, None, None), stamp(6, 2));
        assert_eq!(reads.newest(ID, &place(1, None, None)), stamp(6, 2));
    }

    /// K18: whatever is dropped, no answer falls below a noted read, and memory stays bounded.
    #[test]
    fn dropping_marks_only_raises_answers() {
        let mut reads = Timestamps::new(Epoch(3), 16);
        let mut all: BTreeMap<Vec<u8>, Epoch> = BTreeMap::new();
        let mut state = 7u64;
        for round in 0..2000u64 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = place(state >> 60, Some((state >> 50) % 8), Some((state >> 40) % 4));
            let epoch = 10 + round / 4 + (state >> 33) % 7;
            reads.note(ID, &at, stamp(epoch, round));
            all.entry(at).and_modify(|e| *e = (*e).max(Epoch(epoch))).or_insert(Epoch(epoch));
            assert!(reads.young.len() <= 16 && reads.old.len() <= 16);
            for (at, epoch) in &all {
                assert!(reads.newest(ID, at).epoch >= *epoch);
            }
        }
        assert!(reads.low_water > Epoch(3));
        assert!(reads.newest(ID, &place(99, None, None)).epoch == reads.low_water, "and nothing else is raised");
    }
}

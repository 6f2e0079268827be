//! Intents: what prepared changes will do, beside the tree until they are decided.
//!
//! ```text
//!   prepare -> PREPARED --commit--> its operations in the tree, outcome kept --settle--> forgotten
//!                  `-----abort----> blocks given back,          outcome kept --settle--> forgotten
//! ```
//! The table holds what readers and writers must know of an intent: which places it touches and how. The
//! values stay in the catalog's tree, where the prepare record is kept whole until it is decided.
//!
//! # Always true
//! 1. An intent's blocks are allocated, and nobody else's (K8).
//! 2. Every intent belongs to a container, or to one being destroyed, whose remains wait for it (K10).
//! 3. No change is both committed and aborted (K2): the first outcome stays.
//!
//! # Not here
//! What prepare, commit and abort do to the tree (`commit`), which of two conflicting operations wins
//! (`conflict`).

use std::collections::BTreeMap;

use types::{ContainerId, Epoch, Extent, Key, PoolId};

use crate::key::{self, OBJECT_BYTES, Version};
use crate::request::{BulkList, ChangeId, Op, Origin, Payload, PunchScope, ValueWrite};
use crate::space::BulkExtent;

/// Most intents of a target: what memory and a scan of all of them can take.
pub(crate) const INTENTS_MAX: usize = 4096;
/// Most places touched by all of them.
const TOUCHES_MAX: usize = 256 << 10;

/// Pages that a change may add beyond one for each record: a split on every level.
pub(crate) const SPLIT_PAGES: u64 = 4;

/// What one operation of an intent does to one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Everything at and below the place.
    Punch,
    Single,
    Array {
        record_bytes: u32,
        extents: Vec<Extent>,
    },
    Holes(Vec<Extent>),
}

/// A place that an intent touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// Key prefix of the object, dkey or akey.
    pub(crate) place: Vec<u8>,
    pub(crate) version: Version,
    pub(crate) change: Change,
}

impl Touch {
    /// Whether it may make something exist, or cease to exist.
    pub(crate) fn is_removal(&self) -> bool {
        matches!(self.change, Change::Punch | Change::Holes(_))
    }
}

/// One prepared change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) container: ContainerId,
    /// Of its first operation; later ones have the following minors.
    pub(crate) version: Version,
    /// Operations.
    pub(crate) ops: u16,
    pub(crate) touches: Vec<Touch>,
    pub(crate) blocks: Vec<BulkExtent>,
    /// Records that its commit writes.
    pub(crate) records: u64,
    /// Pieces in which the catalog keeps it.
    pub(crate) parts: u32,
    /// Whose request it is.
    pub(crate) origin: Origin,
    /// Its leader's.
    pub(crate) note: Vec<u8>,
}

impl Intent {
    /// Of no operation yet.
    pub(crate) fn new(container: ContainerId, version: Version, origin: Origin, note: &[u8]) -> Intent {
        let (touches, blocks, note) = (Vec::new(), Vec::new(), note.to_vec());
        Intent { container, version, ops: 0, touches, blocks, records: 0, parts: 0, origin, note }
    }

    /// Adds the next operation.
    pub(crate) fn add(&mut self, op: &Op<'_>) {
        let version = self.version_of(self.ops);
        self.ops = self.ops.saturating_add(1);
        let first = self.touches.len();
        touches(op, version, &mut self.touches);
        for touch in &self.touches[first..] {
            self.records += match &touch.change {
                Change::Punch => 2,
                Change::Single => 1,
                Change::Array { extents, .. } | Change::Holes(extents) => extents.len() as u64,
            };
        }
        if let Op::Update(update) = op {
            for write in update.akeys {
                match &write.value {
                    ValueWrite::Single(payload) => self.add_blocks(payload),
                    ValueWrite::Array { extents, .. } => extents.iter().for_each(|(_, p)| self.add_blocks(p)),
                }
            }
        }
    }

    fn add_blocks(&mut self, payload: &Payload<'_>) {
        if let Payload::Bulk { at, .. } = payload {
            self.blocks.extend_from_slice(at.extents());
        }
    }

    /// The version of operation `index`.
    pub(crate) fn version_of(&self, index: u16) -> Version {
        Version { epoch: self.version.epoch, minor: self.version.minor.saturating_add(index) }
    }

    /// The version of its last operation.
    pub(crate) fn last(&self) -> Version {
        self.version_of(self.ops.saturating_sub(1))
    }

    /// Pages of quota that it takes until it is decided.
    pub(crate) fn quota_pages(&self) -> u64 {
        self.records + SPLIT_PAGES
    }

    /// Pages that its commit may take on the device beyond those it has: each record may need a leaf of its own, and the
    /// leaf beside it changes when one is split.
    pub(crate) fn promised_pages(&self) -> u64 {
        2 * self.records + SPLIT_PAGES
    }

    pub(crate) fn block_count(&self) -> u64 {
        self.blocks.iter().map(|piece| u64::from(piece.blocks)).sum()
    }
}

/// The places one operation touches.
pub(crate) fn touches(op: &Op<'_>, version: Version, out: &mut Vec<Touch>) {
    let mut place = Vec::new();
    let mut touch = |place: &[u8], change| out.push(Touch { place: place.to_vec(), version, change });
    let below = |prefix: &[u8], key: &Key| {
        let mut place = prefix.to_vec();
        key::push_key(&mut place, key);
        place
    };
    match op {
        Op::Update(update) => {
            key::push_object(&mut place, update.group, update.oid);
            key::push_key(&mut place, update.dkey);
            for write in update.akeys {
                let change = match write.value {
                    ValueWrite::Single(_) => Change::Single,
                    ValueWrite::Array { record_bytes, extents } => {
                        Change::Array { record_bytes, extents: extents.iter().map(|(extent, _)| *extent).collect() }
                    }
                };
                touch(&below(&place, write.akey), change);
            }
        }
        Op::Punch(punch) => {
            key::push_object(&mut place, punch.group, punch.oid);
            match punch.scope {
                PunchScope::Object => touch(&place, Change::Punch),
                PunchScope::Dkey(dkey) => touch(&below(&place, dkey), Change::Punch),
                PunchScope::Akeys(dkey, akeys) => {
                    let dkey = below(&place, dkey);
                    akeys.iter().for_each(|akey| touch(&below(&dkey, akey), Change::Punch));
                }
                PunchScope::Extents { dkey, akey, extents } => {
                    touch(&below(&below(&place, dkey), akey), Change::Holes(extents.to_vec()));
                }
            }
        }
    }
}

/// Where the keys of a place end: its object, dkey and akey, as far as it goes.
pub(crate) fn ends(place: &[u8]) -> impl Iterator<Item = usize> {
    let object = (place.len() >= OBJECT_BYTES).then_some(OBJECT_BYTES);
    let next = |at: usize| place.get(at..).and_then(key::key_len).map(|len| at + len);
    let dkey = object.and_then(next);
    [object, dkey, dkey.and_then(next)].into_iter().flatten()
}

/// All intents of a target, by the number of their container's tree.
#[derive(Default)]
pub(crate) struct Table {
    intents: BTreeMap<(u32, ChangeId), Intent>,
    /// Number of the tree of a change of a pool. Not of pools that were destroyed.
    owners: BTreeMap<(PoolId, ChangeId), u32>,
    /// Tree number, big-endian, and place: who touches it, with the index of the touch.
    places: BTreeMap<Vec<u8>, Vec<(ChangeId, u32)>>,
    touches: usize,
    promised: u64,
}

impl Table {
    pub(crate) fn is_empty(&self) -> bool {
        self.intents.is_empty()
    }

    /// Whether one more with `touches` places fits.
    pub(crate) fn has_room(&self, touches: usize) -> bool {
        self.intents.len() < INTENTS_MAX && self.touches + touches <= TOUCHES_MAX
    }

    pub(crate) fn len(&self) -> usize {
        self.intents.len()
    }

    pub(crate) fn get(&self, owner: u32, change: ChangeId) -> Option<&Intent> {
        self.intents.get(&(owner, change))
    }

    /// An intent of a pool, with the number of its container's tree.
    pub(crate) fn find(&self, pool: PoolId, change: ChangeId) -> Option<(u32, &Intent)> {
        let owner = *self.owners.get(&(pool, change))?;
        Some((owner, self.get(owner, change)?))
    }

    /// Undecided changes of a placement group, in the order of their names.
    pub(crate) fn of_group(&self, pool: PoolId, group: u32) -> impl Iterator<Item = (ChangeId, &Intent)> {
        let lowest = ChangeId { group, ..ChangeId::default() };
        let all = self.owners.range((pool, lowest)..);
        all.take_while(move |((of, change), _)| *of == pool && change.group == group)
            .filter_map(|((_, change), owner)| Some((*change, self.get(*owner, *change)?)))
    }

    /// Of one container, in the order of their ids.
    pub(crate) fn of(&self, owner: u32) -> impl Iterator<Item = (ChangeId, &Intent)> {
        let all = self.intents.range((owner, ChangeId::default())..);
        all.take_while(move |((found, _), _)| *found == owner).map(|((_, change), intent)| (*change, intent))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, ChangeId, &Intent)> {
        self.intents.iter().map(|((owner, change), intent)| (*owner, *change, intent))
    }

    /// Placement groups of a pool with an intent.
    pub(crate) fn groups(&self, pool: PoolId) -> impl Iterator<Item = u32> {
        let all = self.owners.range((pool, ChangeId::default())..).take_while(move |((of, _), _)| *of == pool);
        all.map(|((_, change), _)| change.group)
    }

    /// Nobody of `pool` decides the changes of this tree any more: they are found by their names no longer.
    pub(crate) fn forget_names(&mut self, pool: PoolId, owner: u32) {
        let first = (owner, ChangeId::default());
        let of_tree = self.intents.range(first..).take_while(|((found, _), _)| *found == owner);
        for ((_, change), _) in of_tree {
            self.owners.remove(&(pool, *change));
        }
    }

    /// Pages that are kept free for the commits of all intents.
    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    pub(crate) fn insert(&mut self, pool: Option<PoolId>, owner: u32, change: ChangeId, intent: Intent) {
        if let Some(pool) = pool {
            self.owners.insert((pool, change), owner);
        }
        for (index, touch) in intent.touches.iter().enumerate() {
            self.places.entry(place_key(owner, &touch.place)).or_default().push((change, index as u32));
        }
        self.touches += intent.touches.len();
        self.promised += intent.promised_pages();
        self.intents.insert((owner, change), intent);
    }

    pub(crate) fn remove(&mut self, pool: PoolId, owner: u32, change: ChangeId) -> Option<Intent> {
        let intent = self.intents.remove(&(owner, change))?;
        self.owners.remove(&(pool, change));
        for touch in &intent.touches {
            let key = place_key(owner, &touch.place);
            if let Some(list) = self.places.get_mut(&key) {
                list.retain(|(other, _)| *other != change);
                if list.is_empty() {
                    self.places.remove(&key);
                }
            }
        }
        self.touches -= intent.touches.len();
        self.promised -= intent.promised_pages();
        Some(intent)
    }

    /// Every touch at, above or below `place` (a key prefix; empty for the whole container). Stops when
    /// `each` returns true.
    pub(crate) fn any_touch(&self, owner: u32, place: &[u8], mut each: impl FnMut(ChangeId, &Touch) -> bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut look = |list: &[(ChangeId, u32)]| {
            list.iter().any(|(change, index)| {
                let touch = self.intents.get(&(owner, *change)).and_then(|intent| intent.touches.get(*index as usize));
                touch.is_some_and(|touch| each(*change, touch))
            })
        };
        for end in ends(place).filter(|end| *end < place.len()) {
            if self.places.get(&place_key(owner, &place[..end])).is_some_and(|list| look(list)) {
                return true;
            }
        }
        let from = place_key(owner, place);
        let below = self.places.range(from.clone()..).take_while(|(key, _)| key.starts_with(&from));
        below.into_iter().any(|(_, list)| look(list))
    }

    /// Whether places and touches agree. For `check`.
    pub(crate) fn is_consistent(&self) -> bool {
        let listed: usize = self.places.values().map(Vec::len).sum();
        let held: usize = self.intents.values().map(|intent| intent.touches.len()).sum();
        let promised: u64 = self.intents.values().map(Intent::promised_pages).sum();
        listed == held && held == self.touches && promised == self.promised
    }
}

fn place_key(owner: u32, place: &[u8]) -> Vec<u8> {
    [&owner.to_be_bytes()[..], place].concat()
}

/// The lowest epoch of an intent.
pub(crate) fn oldest<'a>(intents: impl Iterator<Item = (ChangeId, &'a Intent)>) -> Option<Epoch> {
    intents.map(|(_, intent)| intent.version.epoch).min()
}

/// An intent's blocks, to be given back.
pub(crate) fn give_back(intent: &Intent, freed: &mut BulkList) {
    freed.extend_from_slice(&intent.blocks);
}

#[cfg(test)]
mod tests {
    use types::{Conditions, ObjectId};

    use super::*;
    use crate::request::Punch;

    fn change(number: u64) -> ChangeId {
        ChangeId { number, ..ChangeId::default() }
    }

    fn place(dkey: Option<u64>, akey: Option<u64>) -> Vec<u8> {
        let mut place = Vec::new();
        key::push_object(&mut place, 0, ObjectId { hi: 1, lo: 2 });
        for n in [dkey, akey].into_iter().flatten() {
            key::push_key(&mut place, &Key::Integer(n));
        }
        place
    }

    /// An intent is found from every place above and below those it touches, and from no other.
    #[test]
    fn intents_are_found_from_above_and_from_below() {
        let (dkey, oid) = (Key::Integer(5), ObjectId { hi: 1, lo: 2 });
        let punch = |scope| Op::Punch(Punch { group: 0, oid, scope, conditions: Conditions::None });
        let version = Version { epoch: Epoch(7), minor: 0 };
        let mut table = Table::default();
        let pool = PoolId::from_bytes([7; 16]);
        let mut intent = Intent::new(ContainerId::from_bytes([8; 16]), version, Origin::default(), &[]);
        intent.add(&punch(PunchScope::Dkey(&dkey)));
        table.insert(Some(pool), 3, change(1), intent);
        assert!(table.find(pool, change(1)).is_some_and(|(owner, _)| owner == 3));
        let found = |table: &Table, owner, place: &[u8]| table.any_touch(owner, place, |found, _| found == change(1));
        for at in [vec![], place(None, None), place(Some(5), None), place(Some(5), Some(9))] {
            assert!(found(&table, 3, &at), "{at:?}");
            assert!(!found(&table, 4, &at), "{at:?}");
        }
        assert!(!found(&table, 3, &place(Some(6), None)) && !found(&table, 3, &place(Some(6), Some(9))));
        table.remove(pool, 3, change(1)).unwrap();
        assert!(table.is_empty() && table.places.is_empty() && table.owners.is_empty() && table.is_consistent());
    }
}

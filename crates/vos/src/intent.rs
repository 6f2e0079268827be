//! Intents: what prepared transactions will do, beside the tree until they are decided.
//!
//! ```text
//!   prepare -> PREPARED --commit--> its operations in the tree, outcome kept
//!                  `-----abort----> blocks given back,          outcome kept
//! ```
//! The table holds what readers and writers must know of an intent: which places it touches and how. The
//! values stay in the catalog's tree, where the prepare record is kept whole until it is decided.
//!
//! # Always true
//! 1. An intent's blocks are allocated, and nobody else's (K8).
//! 2. Every intent belongs to a container, or to one being destroyed (K10).
//! 3. No transaction is both committed and aborted (K2): the first outcome stays.
//!
//! # Not here
//! What prepare, commit and abort do to the tree (`commit`), which of two conflicting operations wins
//! (`conflict`).

use std::collections::{BTreeMap, VecDeque};

use types::{Epoch, Extent, Key};

use crate::key::{self, OBJECT_BYTES, Version};
use crate::request::{BulkList, Op, Payload, PunchScope, TxId, TxState, ValueWrite};
use crate::space::BulkExtent;

/// Most intents of a target: what memory and a scan of all of them can take.
pub(crate) const INTENTS_MAX: usize = 4096;
/// Most places touched by all of them.
const TOUCHES_MAX: usize = 256 << 10;
/// Outcomes remembered for each container, newest first to last.
pub(crate) const OUTCOMES_MAX: u64 = 1024;

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

/// One prepared transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
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
}

impl Intent {
    pub(crate) fn new(version: Version, ops: &mut dyn Iterator<Item = &Op<'_>>) -> Intent {
        let mut intent = Intent { version, ops: 0, touches: Vec::new(), blocks: Vec::new(), records: 0, parts: 0 };
        ops.for_each(|op| intent.add(op));
        intent
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

/// How the transactions of one container ended, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// Number of the first in `ring`.
    first: u64,
    ring: VecDeque<TxId>,
    states: BTreeMap<TxId, TxState>,
}

impl Outcomes {
    /// Notes an outcome; returns its number. The oldest is forgotten when there are too many.
    pub(crate) fn note(&mut self, tx: TxId, state: TxState) -> u64 {
        if self.ring.len() as u64 >= OUTCOMES_MAX
            && let Some(oldest) = self.ring.pop_front()
        {
            self.states.remove(&oldest);
            self.first += 1;
        }
        self.ring.push_back(tx);
        self.states.insert(tx, state);
        self.first + self.ring.len() as u64 - 1
    }

    /// Puts outcomes read back, in the order of their numbers.
    pub(crate) fn restore(&mut self, first: u64, tx: TxId, state: TxState) {
        if self.ring.is_empty() {
            self.first = first;
        }
        self.ring.push_back(tx);
        self.states.insert(tx, state);
    }

    pub(crate) fn state(&self, tx: TxId) -> Option<TxState> {
        self.states.get(&tx).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Drops the oldest; false when there is none.
    pub(crate) fn drop_first(&mut self) -> bool {
        let Some(oldest) = self.ring.pop_front() else { return false };
        self.states.remove(&oldest);
        self.first += 1;
        true
    }
}

/// All intents of a target, by the number of their container's tree.
#[derive(Default)]
pub(crate) struct Table {
    intents: BTreeMap<(u32, TxId), Intent>,
    /// Tree number, big-endian, and place: who touches it, with the index of the touch.
    places: BTreeMap<Vec<u8>, Vec<(TxId, u32)>>,
    touches: usize,
    pub(crate) outcomes: BTreeMap<u32, Outcomes>,
}

impl Table {
    pub(crate) fn is_empty(&self) -> bool {
        self.intents.is_empty()
    }

    /// Whether one more with `touches` places fits.
    pub(crate) fn has_room(&self, touches: usize) -> bool {
        self.intents.len() < INTENTS_MAX && self.touches + touches <= TOUCHES_MAX
    }

    pub(crate) fn get(&self, owner: u32, tx: TxId) -> Option<&Intent> {
        self.intents.get(&(owner, tx))
    }

    /// Of one container, in the order of their ids.
    pub(crate) fn of(&self, owner: u32) -> impl Iterator<Item = (TxId, &Intent)> {
        let lowest = TxId { session: types::SessionId(0), seq: 0 };
        let all = self.intents.range((owner, lowest)..);
        all.take_while(move |((found, _), _)| *found == owner).map(|((_, tx), intent)| (*tx, intent))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, TxId, &Intent)> {
        self.intents.iter().map(|((owner, tx), intent)| (*owner, *tx, intent))
    }

    pub(crate) fn state(&self, owner: u32, tx: TxId) -> TxState {
        match self.get(owner, tx) {
            Some(intent) => TxState::Prepared { epoch: intent.version.epoch },
            None => self.outcomes.get(&owner).and_then(|o| o.state(tx)).unwrap_or(TxState::Unknown),
        }
    }

    pub(crate) fn insert(&mut self, owner: u32, tx: TxId, intent: Intent) {
        for (index, touch) in intent.touches.iter().enumerate() {
            self.places.entry(place_key(owner, &touch.place)).or_default().push((tx, index as u32));
        }
        self.touches += intent.touches.len();
        self.intents.insert((owner, tx), intent);
    }

    pub(crate) fn remove(&mut self, owner: u32, tx: TxId) -> Option<Intent> {
        let intent = self.intents.remove(&(owner, tx))?;
        for touch in &intent.touches {
            let key = place_key(owner, &touch.place);
            if let Some(list) = self.places.get_mut(&key) {
                list.retain(|(other, _)| *other != tx);
                if list.is_empty() {
                    self.places.remove(&key);
                }
            }
        }
        self.touches -= intent.touches.len();
        Some(intent)
    }

    /// Every touch at, above or below `place` (a key prefix; empty for the whole container). Stops when
    /// `each` returns true.
    pub(crate) fn any_touch(&self, owner: u32, place: &[u8], mut each: impl FnMut(TxId, &Touch) -> bool) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut look = |list: &[(TxId, u32)]| {
            list.iter().any(|(tx, index)| {
                let touch = self.intents.get(&(owner, *tx)).and_then(|intent| intent.touches.get(*index as usize));
                touch.is_some_and(|touch| each(*tx, touch))
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
        listed == held && held == self.touches
    }
}

fn place_key(owner: u32, place: &[u8]) -> Vec<u8> {
    [&owner.to_be_bytes()[..], place].concat()
}

/// The lowest epoch of an intent.
pub(crate) fn oldest<'a>(intents: impl Iterator<Item = (TxId, &'a Intent)>) -> Option<Epoch> {
    intents.map(|(_, intent)| intent.version.epoch).min()
}

/// An intent's blocks, to be given back.
pub(crate) fn give_back(intent: &Intent, freed: &mut BulkList) {
    freed.extend_from_slice(&intent.blocks);
}

#[cfg(test)]
mod tests {
    use types::{Conditions, ObjectId, SessionId};

    use super::*;
    use crate::request::Punch;

    fn tx(seq: u64) -> TxId {
        TxId { session: SessionId(1), seq }
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
        table.insert(3, tx(1), Intent::new(version, &mut [punch(PunchScope::Dkey(&dkey))].iter()));
        let found = |table: &Table, owner, place: &[u8]| table.any_touch(owner, place, |found, _| found == tx(1));
        for at in [vec![], place(None, None), place(Some(5), None), place(Some(5), Some(9))] {
            assert!(found(&table, 3, &at), "{at:?}");
            assert!(!found(&table, 4, &at), "{at:?}");
        }
        assert!(!found(&table, 3, &place(Some(6), None)) && !found(&table, 3, &place(Some(6), Some(9))));
        table.remove(3, tx(1)).unwrap();
        assert!(table.is_empty() && table.places.is_empty() && table.is_consistent());
    }

    #[test]
    fn old_outcomes_are_forgotten_in_order() {
        let mut outcomes = Outcomes::default();
        for seq in 0..OUTCOMES_MAX + 3 {
            assert_eq!(outcomes.note(tx(seq), TxState::Aborted), seq);
        }
        assert_eq!((outcomes.len() as u64, outcomes.first()), (OUTCOMES_MAX, 3));
        assert!(!outcomes.states.contains_key(&tx(2)) && outcomes.states.contains_key(&tx(3)));
    }
}

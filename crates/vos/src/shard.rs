//! A container's share of this target: its tree, its counters, its snapshots.
//!
//! Everything about a shard that changes with every operation lies in one page, its *head*, so that a
//! checkpoint finds it as it finds the tree. The rest, its *site*, is the catalog's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use hashbrown::HashMap;
use media::{PAGE_BODY_BYTES, PageId, Pages};
use types::{ContainerId, Epoch, PoolId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Result};
use crate::extents::Stop;
use crate::key::{LIFE, OBJECT_BYTES, OBJECT_FLAG, Version};
use crate::node::KIND_HEAD;
use crate::tree::{Tree, damaged};

const HEAD_VERSION: u32 = 1;
/// Epochs whose minors are remembered. Epochs are given out in order and applied almost in order: this
/// many operations may overtake one another.
const RECENT: usize = 64;
/// First minor of an epoch so old that its minors were forgotten: above those of any transaction of
/// ordinary size, so that what comes later still sorts later.
const FORGOTTEN_MINOR: u16 = 0x8000;
/// Most snapshots of a container: what its entry in the catalog has room for.
pub const SNAPSHOTS_MAX: usize = 900;
/// Objects whose flag is remembered; all are forgotten when there are more.
const FLAGS_MAX: usize = 64 << 10;

/// Head of a shard, from the start of a page body; the rest of the body is zero. Little-endian. Ours.
///
/// | offset | bytes | field     | meaning                                                        |
/// |-------:|------:|-----------|----------------------------------------------------------------|
/// |      0 |     4 | version   | 1                                                              |
/// |      4 |     4 | root      | root page of the tree                                          |
/// |      8 |    16 | container | UUID; zero for the catalog                                     |
/// |     24 |    16 | pool      | UUID; zero when the pool is gone                               |
/// |     40 |     8 | pages     | nodes of the tree                                              |
/// |     48 |     8 | blocks    | bulk blocks its values refer to                                |
/// |     56 |     8 | max epoch | highest epoch of an operation                                  |
/// |     64 |     8 | punches   | punch records in the tree                                      |
/// |     72 |     8 | settled   | highest epoch whose minors were forgotten                      |
/// |     80 |     4 | next      | slot of `recent` that is overwritten next                      |
/// |     84 |     4 | reserved  | zero                                                           |
/// |     88 |     4 | owner     | number of the tree                                             |
/// |     92 |     4 | counter   | catalog: trees made so far                                     |
/// |     96 |     8 | horizon   | reads below it see snapshots only                              |
/// |    104 |     8 | aggregated | what nobody can see was removed up to this epoch              |
/// |    112 |     8 | coalesced | small extents up to this epoch were joined                     |
/// |    120 |   512 | epochs    | recent epochs, zero where there is none                        |
/// |    632 |   128 | minors    | highest minor given at each                                    |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Head {
    version: U32,
    root: U32,
    container: [u8; 16],
    pool: [u8; 16],
    pages: U64,
    blocks: U64,
    max_epoch: U64,
    punches: U64,
    settled: U64,
    next: U32,
    reserved: U32,
    owner: U32,
    counter: U32,
    horizon: U64,
    aggregated: U64,
    coalesced: U64,
    epochs: [U64; RECENT],
    minors: [U16; RECENT],
}
const _: () = assert!(offset_of!(Head, pages) == 40);
const _: () = assert!(offset_of!(Head, owner) == 88);
const _: () = assert!(offset_of!(Head, horizon) == 96);
const _: () = assert!(offset_of!(Head, epochs) == 120);
const _: () = assert!(offset_of!(Head, minors) == 632);
const _: () = assert!(size_of::<Head>() == 760 && size_of::<Head>() <= PAGE_BODY_BYTES);

/// What the catalog knows of a shard: where it lies, and what no tree tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) head: PageId,
    pub(crate) root: PageId,
    /// Number of the tree.
    pub(crate) owner: u32,
    pub(crate) pool: PoolId,
    pub(crate) rollback: Option<Epoch>,
    pub(crate) undone: Epoch,
    pub(crate) snapshots: Vec<Epoch>,
}

/// An aggregation pass between two steps. Not kept: after a restart it begins anew, and finds less.
#[derive(Debug)]
pub(crate) struct InPass {
    pub(crate) since: Epoch,
    pub(crate) until: Epoch,
    /// First key of the next step.
    pub(crate) from: Vec<u8>,
    pub(crate) carry: Carry,
}

/// What a pass knows of the owners it is in the middle of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carry {
    /// Oldest version kept so far of the object, the dkey and the akey. `NEVER` when some of the owner was
    /// passed over: then nothing is known.
    pub(crate) kept: [Version; 3],
    /// Epoch of the single value just before; zero when there is none.
    pub(crate) newer: Epoch,
    /// Punches of dkeys or akeys were kept in the object, or came while the pass was in it.
    pub(crate) has_punch: bool,
    /// The akey has something that was written in the pass's span.
    pub(crate) is_changed: bool,
    /// Where the look at what lies below the present extent goes on.
    pub(crate) below: Option<Below>,
}

/// A place among the extents below another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Below {
    pub(crate) stop: Stop,
    /// First index of it that was not looked at.
    pub(crate) index: u64,
    /// Nothing but holes was kept so far.
    pub(crate) is_bare: bool,
}

/// Above every version: nothing was kept yet.
pub(crate) const NONE_KEPT: Version = Version { epoch: Epoch::MAX, minor: u16::MAX };

impl Default for Carry {
    fn default() -> Self {
        Carry { kept: [NONE_KEPT; 3], newer: Epoch::ZERO, has_punch: false, is_changed: false, below: None }
    }
}

/// A walk over small extents written in a span, between two steps. Not kept: after a restart it begins anew.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) since: Epoch,
    pub(crate) until: Epoch,
    /// First key of the next step; empty for the first of all.
    pub(crate) from: Vec<u8>,
    /// Where the walk is: an akey, and a length class in it.
    pub(crate) akey: Vec<u8>,
    pub(crate) class: u8,
    /// Up to where each moment was looked at there.
    pub(crate) seen: BTreeMap<Epoch, u64>,
}

impl Walk {
    pub(crate) fn new(since: Epoch, until: Epoch) -> Walk {
        Walk { since, until, from: Vec::new(), akey: Vec::new(), class: 0, seen: BTreeMap::new() }
    }
}

/// One container on this target. (The catalog is one too, without a container.)
pub(crate) struct Shard {
    pub(crate) id: ContainerId,
    pub(crate) pool: PoolId,
    pub(crate) head: PageId,
    pub(crate) tree: Tree,
    pub(crate) blocks: u64,
    pub(crate) punches: u64,
    pub(crate) snapshots: Vec<Epoch>,
    /// Reads below it see snapshots only, and nothing more is written there.
    pub(crate) horizon: Epoch,
    /// What nobody can see was removed up to here.
    pub(crate) aggregated: Epoch,
    /// The container goes back to this moment: everything above is being removed, and nothing is written.
    pub(crate) rollback: Option<Epoch>,
    /// When the latest rollback was asked for: the same, asked again, undoes nothing that came after.
    pub(crate) undone: Epoch,
    /// Small extents were joined up to here.
    pub(crate) coalesced: Epoch,
    /// Catalog only: numbers trees.
    pub(crate) counter: u32,
    /// The aggregation pass that is under way.
    pub(crate) pass: Option<InPass>,
    /// The walk over small extents that is under way.
    pub(crate) walk: Option<Walk>,
    /// Where the rollback under way goes on; empty for its beginning.
    pub(crate) discard_from: Vec<u8>,
    /// Somebody copies it: nothing is aggregated or joined meanwhile.
    pub(crate) is_held: bool,
    minors: Minors,
    /// Whether objects have the flag. A cache.
    flags: RefCell<HashMap<[u8; OBJECT_BYTES], bool>>,
}

impl Shard {
    /// A new shard: a head and an empty tree.
    pub(crate) fn create(pages: &mut Pages, id: ContainerId, pool: PoolId, owner: u32) -> Result<Shard> {
        let head = pages.allocate()?;
        let root = Tree::create(pages, owner)?.root;
        let (rollback, undone, snapshots) = (None, Epoch::ZERO, Vec::new());
        Shard::begin(pages, id, Site { head, root, owner, pool, rollback, undone, snapshots })
    }

    /// A head made anew, for the tree that is there: what it counts, and up to where, is to be found out.
    pub(crate) fn rebuild(pages: &mut Pages, id: ContainerId, site: &Site) -> Result<Shard> {
        let head = pages.allocate()?;
        Shard::begin(pages, id, Site { head, ..site.clone() })
    }

    fn begin(pages: &mut Pages, id: ContainerId, site: Site) -> Result<Shard> {
        pages.get_mut(site.head)?.set_kind(KIND_HEAD);
        let shard = Shard {
            id,
            pool: site.pool,
            head: site.head,
            tree: Tree { root: site.root, owner: site.owner, pages: 1 },
            blocks: 0,
            punches: 0,
            snapshots: site.snapshots,
            horizon: Epoch::ZERO,
            aggregated: Epoch::ZERO,
            rollback: site.rollback,
            undone: site.undone,
            coalesced: Epoch::ZERO,
            counter: site.owner,
            pass: None,
            walk: None,
            discard_from: Vec::new(),
            is_held: false,
            minors: Minors::default(),
            flags: RefCell::default(),
        };
        shard.save_all(pages)?;
        Ok(shard)
    }

    /// Reads a shard back from its head and what the catalog knows of it.
    pub(crate) fn load(pages: &Pages, site: Site) -> Result<Shard> {
        let shard = Shard::load_own(pages, site.head)?;
        if (shard.tree.root, shard.tree.owner, shard.pool) != (site.root, site.owner, site.pool) {
            return Err(damaged(site.head, "not the head that the catalog means"));
        }
        Ok(Shard { rollback: site.rollback, undone: site.undone, snapshots: site.snapshots, ..shard })
    }

    /// Reads the catalog's own shard back, of which its head says all.
    pub(crate) fn load_own(pages: &Pages, head: PageId) -> Result<Shard> {
        let page = pages.get(head)?;
        if page.kind() != KIND_HEAD {
            return Err(damaged(head, "not the head of a container"));
        }
        let (stored, _) = Head::ref_from_prefix(page.body()).map_err(|_| damaged(head, "a short head"))?;
        if stored.version.get() != HEAD_VERSION {
            return Err(damaged(head, "a head of an unknown version"));
        }
        // Sums of these must not overflow; no device has as many.
        if [stored.pages, stored.blocks, stored.punches].iter().any(|count| count.get() > u64::from(u32::MAX)) {
            return Err(damaged(head, "a head with counts beyond any device"));
        }
        let mut minors = Minors {
            next: stored.next.get() as usize % RECENT,
            settled: Epoch(stored.settled.get()),
            max: Epoch(stored.max_epoch.get()),
            ..Minors::default()
        };
        for (slot, (epoch, minor)) in stored.epochs.iter().zip(&stored.minors).enumerate() {
            minors.recent[slot] = (Epoch(epoch.get()), minor.get());
        }
        Ok(Shard {
            id: ContainerId::from_bytes(stored.container),
            pool: PoolId::from_bytes(stored.pool),
            head,
            tree: Tree { root: PageId(stored.root.get()), owner: stored.owner.get(), pages: stored.pages.get() },
            blocks: stored.blocks.get(),
            punches: stored.punches.get(),
            snapshots: Vec::new(),
            horizon: Epoch(stored.horizon.get()),
            aggregated: Epoch(stored.aggregated.get()),
            rollback: None,
            undone: Epoch::ZERO,
            coalesced: Epoch(stored.coalesced.get()),
            counter: stored.counter.get(),
            pass: None,
            walk: None,
            discard_from: Vec::new(),
            is_held: false,
            minors,
            flags: RefCell::default(),
        })
    }

    /// What the catalog is to know of the shard.
    pub(crate) fn site(&self) -> Site {
        let (root, owner, snapshots) = (self.tree.root, self.tree.owner, self.snapshots.clone());
        Site { head: self.head, root, owner, pool: self.pool, rollback: self.rollback, undone: self.undone, snapshots }
    }

    /// Pages of the shard, head included.
    pub(crate) fn pages(&self) -> u64 {
        self.tree.pages + 1
    }

    pub(crate) fn max_epoch(&self) -> Epoch {
        self.minors.max
    }

    /// The version of an operation at `epoch`, were it to come now.
    ///
    /// # Errors
    /// `EpochFull`; `Forgotten` below the horizon; `RollingBack`; `Invalid` for an epoch that is none.
    #[inline]
    pub(crate) fn next_version(&self, epoch: Epoch) -> Result<Version> {
        if epoch == Epoch::ZERO || epoch == Epoch::MAX {
            return Err(Error::Invalid("an operation needs an epoch of its own, neither 0 nor the highest"));
        }
        if epoch <= self.horizon {
            return Err(Error::Forgotten { at: epoch, horizon: self.horizon });
        }
        if let Some(to) = self.rollback {
            return Err(Error::RollingBack { to });
        }
        Ok(Version { epoch, minor: self.minors.next_at(epoch)? })
    }

    /// Notes that an operation took `version`, and writes what changed to the head.
    #[inline]
    pub(crate) fn applied(&mut self, pages: &mut Pages, version: Version) -> Result<()> {
        let noted = self.minors.note(version).map(|slot| (slot, self.minors.recent[slot]));
        let head = self.save(pages)?;
        if let Some((slot, (epoch, minor))) = noted {
            head.epochs[slot] = epoch.0.into();
            head.minors[slot] = minor.into();
        }
        Ok(())
    }

    /// Reads the page of the head, so that noting a change there cannot fail.
    #[inline]
    pub(crate) fn touch(&self, pages: &Pages) -> Result<()> {
        Ok(pages.get(self.head).map(drop)?)
    }

    /// Writes the whole head.
    pub(crate) fn save_all(&self, pages: &mut Pages) -> Result<()> {
        let head = self.save(pages)?;
        for (slot, (epoch, minor)) in self.minors.recent.iter().enumerate() {
            head.epochs[slot] = epoch.0.into();
            head.minors[slot] = (*minor).into();
        }
        Ok(())
    }

    #[inline]
    fn save<'a>(&self, pages: &'a mut Pages) -> Result<&'a mut Head> {
        let (head, _) = Head::mut_from_prefix(pages.get_mut(self.head)?.body_mut())
            .map_err(|_| damaged(self.head, "a short head"))?;
        head.version = HEAD_VERSION.into();
        head.root = self.tree.root.0.into();
        head.container = self.id.to_bytes();
        head.pool = self.pool.to_bytes();
        head.pages = self.tree.pages.into();
        head.blocks = self.blocks.into();
        head.max_epoch = self.minors.max.0.into();
        head.punches = self.punches.into();
        head.settled = self.minors.settled.0.into();
        head.next = (self.minors.next as u32).into();
        head.owner = self.tree.owner.into();
        head.counter = self.counter.into();
        head.horizon = self.horizon.0.into();
        head.aggregated = self.aggregated.0.into();
        head.coalesced = self.coalesced.0.into();
        Ok(head)
    }

    /// Whether two images of a head agree. For `check`.
    pub(crate) fn same_counters(&self, other: &Shard) -> bool {
        (self.id, self.pool, self.tree, self.blocks, self.punches)
            == (other.id, other.pool, other.tree, other.blocks, other.punches)
            && self.minors == other.minors
            && (self.horizon, self.aggregated, self.coalesced) == (other.horizon, other.aggregated, other.coalesced)
    }

    /// Whether anything in the object with key prefix `object` was ever punched.
    pub(crate) fn is_flagged(&self, pages: &Pages, object: &[u8]) -> Result<bool> {
        if self.punches == 0 {
            return Ok(false);
        }
        let mut probe = [0; OBJECT_BYTES + 2];
        probe[..OBJECT_BYTES].copy_from_slice(&object[..OBJECT_BYTES]);
        probe[OBJECT_BYTES..].copy_from_slice(&[LIFE, OBJECT_FLAG]);
        let name: [u8; OBJECT_BYTES] = *probe.first_chunk().expect("the probe begins with it");
        if let Some(&known) = self.flags.borrow().get(&name) {
            return Ok(known);
        }
        let found = self.tree.get(pages, &probe)?.is_some();
        let mut flags = self.flags.borrow_mut();
        if flags.len() >= FLAGS_MAX {
            flags.clear();
        }
        flags.insert(name, found);
        Ok(found)
    }

    /// Notes that something in the object with key prefix `object` is punched: a pass in the middle of it
    /// must know, for it may have gone past the place.
    pub(crate) fn note_punch(&mut self, object: &[u8]) {
        self.forget_flag(object);
        if let Some(pass) = self.pass.as_mut().filter(|pass| pass.from.starts_with(object)) {
            pass.carry.has_punch = true;
        }
    }

    /// Forgets what is cached of an object's flag, which is about to change.
    pub(crate) fn forget_flag(&self, object: &[u8]) {
        if let Some(name) = object.first_chunk::<OBJECT_BYTES>() {
            self.flags.borrow_mut().remove(name);
        }
    }

    /// The moment that a read at `at` sees.
    ///
    /// # Errors
    /// `Forgotten`: below the horizon, and no snapshot.
    #[inline]
    pub(crate) fn moment(&self, at: Epoch) -> Result<Epoch> {
        if at < self.horizon && self.snapshots.binary_search(&at).is_err() {
            return Err(Error::Forgotten { at, horizon: self.horizon });
        }
        Ok(self.rollback.map_or(at, |to| at.min(to)))
    }

    /// The history that a lost head told of ends: what was before `newest` is read at snapshots only, and which minors
    /// were given up to there is forgotten.
    pub(crate) fn end_history(&mut self, newest: Epoch) {
        self.horizon = self.horizon.max(newest);
        self.minors.max = self.minors.max.max(newest);
        self.minors.settled = self.minors.settled.max(newest);
    }

    /// A record of this epoch was found. Its head may say anything, even that the epoch is forgotten and yet to come.
    pub(crate) fn raise_max_epoch(&mut self, found: Epoch) {
        self.minors.max = self.minors.max.max(found);
    }

    /// The version of a change that a leader took at an epoch of its own: the same on every member, whatever came there
    /// before it, and wherever horizons are.
    ///
    /// # Errors
    /// `RollingBack`; `Invalid` for an epoch that is none.
    pub(crate) fn leaders_version(&self, epoch: Epoch) -> Result<Version> {
        if epoch == Epoch::ZERO || epoch == Epoch::MAX {
            return Err(Error::Invalid("an operation needs an epoch of its own, neither 0 nor the highest"));
        }
        self.at_rest()?;
        Ok(Version { epoch, minor: 0 })
    }

    /// A record of this version came from another target.
    pub(crate) fn came(&mut self, version: Version) {
        self.minors.note(version);
        self.look_again_from(version.epoch);
    }

    /// Something of this epoch comes after passes may have gone by it.
    pub(crate) fn look_again_from(&mut self, epoch: Epoch) {
        let before = Epoch(epoch.0.saturating_sub(1));
        self.aggregated = self.aggregated.min(before);
        self.coalesced = self.coalesced.min(before);
        (self.pass, self.walk) = (None, None);
    }

    /// # Errors
    /// `RollingBack`: some of what is there is gone for readers.
    pub(crate) fn at_rest(&self) -> Result<()> {
        self.rollback.map_or(Ok(()), |to| Err(Error::RollingBack { to }))
    }

    /// Whether something may have become invisible since the last pass.
    pub(crate) fn wants_aggregation(&self) -> bool {
        !self.is_held && self.rollback.is_none() && self.aggregated < self.horizon && self.aggregated < self.max_epoch()
    }

    /// Whether something that is aggregated may be joined.
    pub(crate) fn wants_coalescing(&self) -> bool {
        !self.is_held
            && self.rollback.is_none()
            && self.coalesced < self.aggregated
            && self.coalesced < self.max_epoch()
    }

    /// The first moment at or after `epoch` that can be read once all before `horizon` is forgotten but
    /// the snapshots.
    #[inline]
    pub(crate) fn retained(&self, epoch: Epoch, horizon: Epoch) -> Epoch {
        let first = self.snapshots.partition_point(|snapshot| *snapshot < epoch);
        let horizon = horizon.max(epoch);
        self.snapshots.get(first).map_or(horizon, |snapshot| horizon.min(*snapshot))
    }
}

/// Orders operations at one epoch: the highest minor given at each recent epoch.
///
/// An epoch above all others starts at 0 without a look. One that is not remembered, but lies above
/// every epoch ever forgotten, was never used. Of those below, nothing is known: they start high.
#[derive(PartialEq, Eq)]
struct Minors {
    recent: [(Epoch, u16); RECENT],
    next: usize,
    settled: Epoch,
    max: Epoch,
}

impl Default for Minors {
    fn default() -> Self {
        Minors { recent: [(Epoch::ZERO, 0); RECENT], next: 0, settled: Epoch::ZERO, max: Epoch::ZERO }
    }
}

impl Minors {
    #[inline]
    fn next_at(&self, epoch: Epoch) -> Result<u16> {
        if epoch > self.max {
            return Ok(0);
        }
        match self.recent.iter().find(|(known, _)| *known == epoch) {
            Some((_, minor)) => minor.checked_add(1).ok_or(Error::EpochFull(epoch)),
            None if epoch > self.settled => Ok(0),
            None => Ok(FORGOTTEN_MINOR),
        }
    }

    /// Returns the slot that changed, if one did.
    #[inline]
    fn note(&mut self, version: Version) -> Option<usize> {
        if version.epoch <= self.max
            && let Some(slot) = self.recent.iter().position(|(known, _)| *known == version.epoch)
        {
            // A commit brings a minor that was given at its prepare; others came since.
            self.recent[slot].1 = self.recent[slot].1.max(version.minor);
            return Some(slot);
        }
        if version.epoch <= self.settled && version.minor < FORGOTTEN_MINOR {
            // Prepared before its epoch was forgotten. Noted now, the next minor of the epoch would be one
            // that was already given.
            return None;
        }
        self.max = self.max.max(version.epoch);
        let slot = self.next;
        self.settled = self.settled.max(self.recent[slot].0);
        self.recent[slot] = (version.epoch, version.minor);
        self.next = (slot + 1) % RECENT;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minors_rise_at_one_epoch_and_start_high_once_forgotten() {
        let mut minors = Minors::default();
        let mut give = |epoch: u64| {
            let minor = minors.next_at(Epoch(epoch)).unwrap();
            minors.note(Version { epoch: Epoch(epoch), minor });
            minor
        };
        assert_eq!([give(10), give(10), give(12), give(11), give(11), give(10)], [0, 1, 0, 0, 1, 2]);
        for epoch in 100..100 + RECENT as u64 {
            assert_eq!(give(epoch), 0);
        }
        assert_eq!(give(99), 0, "above every forgotten epoch");
        assert_eq!([give(10), give(10)], [FORGOTTEN_MINOR, FORGOTTEN_MINOR + 1]);
    }

    #[test]
    fn a_shard_reads_back_from_its_head() {
        let mut pages = Pages::in_memory(1 << 20).unwrap();
        let id = ContainerId::from_bytes([3; 16]);
        let mut shard = Shard::create(&mut pages, id, PoolId::from_bytes([4; 16]), 9).unwrap();
        shard.snapshots = vec![Epoch(4), Epoch(7)];
        shard.blocks = 5;
        shard.save_all(&mut pages).unwrap();
        shard.applied(&mut pages, Version { epoch: Epoch(8), minor: 1 }).unwrap();
        let back = Shard::load(&pages, shard.site()).unwrap();
        assert_eq!((back.id, back.pool, back.tree, back.blocks), (shard.id, shard.pool, shard.tree, 5));
        assert_eq!(back.snapshots, shard.snapshots);
        assert_eq!(back.next_version(Epoch(8)).unwrap().minor, 2);
        let retained = |epoch| back.retained(Epoch(epoch), Epoch(9));
        assert_eq!([1, 4, 5, 7, 8, 9, 12].map(retained), [4, 4, 7, 7, 9, 9, 12].map(Epoch));
        assert_eq!(back.retained(Epoch(5), Epoch(6)), Epoch(6), "a snapshot beyond the horizon is not the first");
        let wrong = [
            Site { head: shard.tree.root, ..shard.site() },
            Site { root: shard.head, ..shard.site() },
            Site { owner: 8, ..shard.site() },
            Site { pool: PoolId::from_bytes([5; 16]), ..shard.site() },
        ];
        assert!(wrong.into_iter().all(|site| Shard::load(&pages, site).is_err()));
    }

    #[test]
    fn a_head_has_its_golden_bytes() {
        let mut pages = Pages::in_memory(1 << 20).unwrap();
        let id = ContainerId::from_bytes([3; 16]);
        let mut shard = Shard::create(&mut pages, id, PoolId::from_bytes([4; 16]), 9).unwrap();
        (shard.blocks, shard.punches) = (5, 6);
        (shard.horizon, shard.aggregated) = (Epoch(3), Epoch(2));
        shard.coalesced = Epoch(1);
        shard.save_all(&mut pages).unwrap();
        shard.applied(&mut pages, Version { epoch: Epoch(8), minor: 1 }).unwrap();
        let mut golden = [0; PAGE_BODY_BYTES];
        let mut put = |at: usize, bytes: &[u8]| golden[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[1]);
        put(4, &shard.tree.root.0.to_le_bytes());
        put(8, &[3; 16]);
        put(24, &[4; 16]);
        for (at, byte) in [(40, 1), (48, 5), (56, 8), (64, 6), (80, 1), (88, 9), (92, 9), (96, 3), (104, 2), (112, 1)] {
            put(at, &[byte]);
        }
        put(120, &[8]);
        put(632, &[1]);
        assert!(pages.get(shard.head).unwrap().body() == &golden);
    }
}

//! Blocks of metadata and data: which are free, and when a freed one may be used again.
//!
//! ```text
//!              reserve            commit (record appended)           release(lsn)
//!   FREE -----------------> RESERVED -----------------> ALLOCATED -----------------> QUARANTINED
//!    ^  <----- cancel ---------+                            ^                              |
//!    |                         pages of a checkpoint -------+                              |
//!    +------------ lsn durable, no pin from before, no checkpoint from before -------------+
//! ```
//!
//! # Always true
//! 1. allocated + free + fenced + quarantined + reserved = capacity (K8).
//! 2. A block leaves quarantine only when the record that freed it is durable, no reader's pin is older
//!    than the release (K9), and no checkpoint runs that began before it: recovery from that checkpoint
//!    replays the release, and would free a page that had taken the block meanwhile.
//! 3. `image` is the state as of the last freeze: the state that a checkpoint writes.
//! 4. When pages have a region of their own, pages lie only there, and bulk only in the other.
//! 5. Behind the border of a fence nothing is taken. What is free there, or becomes free, is *fenced*: neither free
//!    nor allocated, until the border has passed it on its way up or the blocks go.
//!
//! # Not here
//! How a fence goes up and down (`fence`), who owns a block (`check` in `store`), and how the bitmap lies on the
//! device (`bitmap`).

pub(crate) mod bitmap;
mod fence;
mod free;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bitmap::Bitmap;
use fence::Fence;
pub(crate) use fence::{NoRoom, Survey};
use free::FreeIndex;

use crate::error::{Corrupt, Error, Fault, Place, Result};
use crate::log::{Lsn, Reserve};
use crate::page::PAGE_BYTES;
use crate::region::BLOCK_BYTES;
use crate::signal::Waiters;

/// Blocks of a page.
pub(crate) const PAGE_BLOCKS: u32 = (PAGE_BYTES / BLOCK_BYTES) as u32;

/// A bulk reservation has no more pieces than this: each costs its owner an address and a device
/// transfer. When free space is more broken than that, the request is refused as `NoSpace`.
pub const PIECES_MAX: usize = 16;

/// Largest bulk reservation.
pub const BULK_BYTES_MAX: u64 = 1 << 30;

/// Bulk stays out of the first 1/16 of the region while it can, so that pages lie together there.
const PAGE_ZONE_PART: u32 = 16;

/// Of the capacity, one part in this many is left to `Reserve::Critical`: the pages that deleting dirties.
const CRITICAL_PART: u64 = 64;
const CRITICAL_PAGES_MIN: u64 = 16;
const CRITICAL_PAGES_MAX: u64 = 16 << 10;

/// Extents that become free in one step: each takes its place among the free runs, by block and by size.
pub(crate) const SLICE_FREED: usize = 256;

/// Which blocks there are, and what they may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    /// First allocatable block; those before hold superblocks and bitmap.
    pub(crate) first: u32,
    /// Bulk lies from here on, and pages before; 0 when they share all.
    pub(crate) bulk: u32,
    /// All blocks.
    pub(crate) blocks: u32,
}

impl Area {
    /// The end of the blocks that pages may take.
    pub(crate) fn page_end(&self) -> u32 {
        if self.bulk == 0 { self.blocks } else { self.bulk }
    }

    /// Whether `extent` lies in one part, whatever it is to hold.
    pub(crate) fn contains(&self, extent: Extent) -> bool {
        let is_within = extent.blocks > 0 && extent.block >= self.first && extent.end() <= self.blocks as u64;
        is_within && (extent.block >= self.page_end() || extent.end() <= self.page_end() as u64)
    }

    /// Whether `extent` lies where bulk may.
    pub(crate) fn is_bulk(&self, extent: Extent) -> bool {
        self.contains(extent) && extent.block >= self.bulk
    }
}

/// A run of blocks, all of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    pub block: u32,
    pub blocks: u32,
}

impl Extent {
    pub fn bytes(&self) -> u64 {
        self.blocks as u64 * BLOCK_BYTES as u64
    }

    pub(crate) fn end(&self) -> u64 {
        self.block as u64 + self.blocks as u64
    }
}

/// A change of what is allocated, in log order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Allocated(Extent),
    Released(Extent),
}

/// Where every block of metadata and data is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceUse {
    /// What can be allocated at all: the regions without superblocks and bitmap.
    pub capacity: u64,
    /// Of it, what only pages can take: the metadata region, if there is one.
    pub metadata: u64,
    pub allocated: u64,
    pub free: u64,
    /// Nobody's, and not to be had: they lie behind a fence, or behind one that was lifted and is not all gone.
    pub fenced: u64,
    /// Freed, and soon free.
    pub quarantined: u64,
    /// Set aside for writes under way.
    pub reserved: u64,
}

/// The allocator of one store.
pub(crate) struct Space {
    area: Area,
    live: Bitmap,
    /// What the running or next checkpoint writes.
    image: Bitmap,
    /// Changes since the last freeze.
    changes: Vec<Change>,
    /// Free blocks that pages may take, and bulk too unless it has its own.
    free: FreeIndex,
    /// Free blocks that only bulk may take.
    bulk: FreeIndex,
    fence: Fence,
    /// Blocks behind the border of the fence that are nobody's.
    fenced: FreeIndex,
    quarantine: VecDeque<Quarantined>,
    quarantined: u64,
    reserved: u64,
    allocated: u64,
    /// Freezes so far, and how many of their checkpoints are done.
    freezes: u64,
    finished: u64,
    pins: Rc<RefCell<Pins>>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Records are applied again: released blocks are free at once, doing a thing twice is fine.
    Replay,
    Live,
}

struct Quarantined {
    extent: Extent,
    lsn: Lsn,
    /// Pins of this generation and before may still read it.
    generation: u64,
    freezes: u64,
}

#[derive(Default)]
struct Pins {
    /// Counts releases.
    generation: u64,
    /// Pins held, by the generation in which they were taken.
    held: BTreeMap<u64, u32>,
    /// Woken when a pin is dropped: its blocks may be free now.
    relieved: Rc<Waiters>,
}

/// Keeps every block that is allocated now from being reused, until it is dropped.
pub struct PinGuard {
    pins: Rc<RefCell<Pins>>,
    generation: u64,
}

impl Clone for PinGuard {
    fn clone(&self) -> PinGuard {
        *self.pins.borrow_mut().held.entry(self.generation).or_insert(0) += 1;
        PinGuard { pins: self.pins.clone(), generation: self.generation }
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        let mut pins = self.pins.borrow_mut();
        let count = pins.held.get_mut(&self.generation).expect("a guard is counted while it lives");
        *count -= 1;
        if *count == 0 {
            pins.held.remove(&self.generation);
            pins.relieved.wake();
        }
    }
}

impl std::fmt::Debug for PinGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinGuard({})", self.generation)
    }
}

impl Space {
    /// The allocator of `area`, whose allocated blocks are those of `image`.
    pub(crate) fn new(area: Area, image: Bitmap) -> Space {
        let (mut free, mut bulk) = (FreeIndex::default(), FreeIndex::default());
        for (index, from, end) in [(&mut free, area.first, area.page_end()), (&mut bulk, area.page_end(), area.blocks)]
        {
            let mut at = from;
            while let Some(run) = image.next_clear_run(at, end) {
                index.insert(run);
                at = run.block + run.blocks;
            }
        }
        let allocated = (area.blocks - area.first) as u64 - free.blocks() - bulk.blocks();
        Space {
            area,
            live: image.clone(),
            image,
            changes: Vec::new(),
            free,
            bulk,
            fence: Fence::Down,
            fenced: FreeIndex::default(),
            quarantine: VecDeque::new(),
            quarantined: 0,
            reserved: 0,
            allocated,
            freezes: 0,
            finished: 0,
            pins: Rc::default(),
            mode: Mode::Replay,
        }
    }

    /// Recovery is over: from now on freed blocks go through quarantine.
    pub(crate) fn go_live(&mut self) {
        self.mode = Mode::Live;
    }

    /// Sets blocks for `bytes` aside, in as few pieces as free space allows.
    ///
    /// `page_demand` is what the next checkpoint may need, in pages; it is never touched.
    ///
    /// # Errors
    /// `NoSpace`, `TooLarge`.
    pub(crate) fn reserve(&mut self, bytes: u64, page_demand: u64) -> Result<Vec<Extent>> {
        if bytes > BULK_BYTES_MAX {
            return Err(Error::TooLarge { bytes, bytes_max: BULK_BYTES_MAX });
        }
        let wanted = bytes.div_ceil(BLOCK_BYTES as u64).max(1) as u32;
        let no_space = |space: &Space| Error::NoSpace {
            wanted: bytes,
            free: space.free_for_bulk(page_demand) * BLOCK_BYTES as u64,
        };
        if wanted as u64 > self.free_for_bulk(page_demand) {
            return Err(no_space(self));
        }
        let Area { first, blocks, .. } = self.area;
        let (index, zone_end) = match self.area.bulk {
            0 => (&mut self.free, first + (blocks - first) / PAGE_ZONE_PART),
            _ => (&mut self.bulk, 0),
        };
        let mut pieces = Vec::with_capacity(1);
        let mut left = wanted;
        while left > 0 {
            let piece = match index.best_fit(left, zone_end) {
                Some(extent) => extent,
                None if pieces.len() + 1 < PIECES_MAX => index.largest().unwrap_or(Extent { block: 0, blocks: 0 }),
                None => Extent { block: 0, blocks: 0 },
            };
            if piece.blocks == 0 {
                pieces.into_iter().for_each(|piece| index.insert(piece));
                return Err(no_space(self));
            }
            let piece = Extent { block: piece.block, blocks: piece.blocks.min(left) };
            assert!(index.take(piece), "a free run contains its part");
            left -= piece.blocks;
            pieces.push(piece);
        }
        self.reserved += wanted as u64;
        Ok(pieces)
    }

    /// Gives a reservation back.
    pub(crate) fn cancel(&mut self, extent: Extent) {
        self.reserved -= extent.blocks as u64;
        self.insert_free(extent);
    }

    /// A reservation is named by an appended record: it is allocated.
    pub(crate) fn commit(&mut self, extent: Extent) {
        self.reserved -= extent.blocks as u64;
        self.allocate(extent);
    }

    /// Replay: a record names `extent` as allocated. Saying it twice is fine.
    ///
    /// # Errors
    /// `Corrupt`: out of the region, or partly someone else's.
    pub(crate) fn mark_allocated(&mut self, extent: Extent) -> Result<()> {
        self.check_range(extent)?;
        if self.live.all_set(extent) {
            return Ok(());
        }
        if !self.index(extent).take(extent) {
            return Err(wrong(extent, "claimed by a record, but not free"));
        }
        self.allocate(extent);
        Ok(())
    }

    /// The record at `lsn` frees `extent`.
    ///
    /// # Errors
    /// `Corrupt`: out of the region, or not allocated.
    pub(crate) fn release(&mut self, extent: Extent, lsn: Lsn) -> Result<()> {
        self.check_range(extent)?;
        if !self.live.all_set(extent) {
            return match self.mode {
                Mode::Replay if self.live.all_clear(extent) => Ok(()),
                _ => Err(wrong(extent, "released, but not allocated")),
            };
        }
        self.live.clear(extent);
        self.changes.push(Change::Released(extent));
        self.allocated -= extent.blocks as u64;
        match self.mode {
            Mode::Replay => self.insert_free(extent),
            Mode::Live => {
                self.quarantined += extent.blocks as u64;
                let mut pins = self.pins.borrow_mut();
                let generation = pins.generation;
                pins.generation += 1;
                self.quarantine.push_back(Quarantined { extent, lsn, generation, freezes: self.freezes });
            }
        }
        Ok(())
    }

    /// Keeps what is allocated now readable while the guard lives.
    pub(crate) fn pin(&self) -> PinGuard {
        let mut pins = self.pins.borrow_mut();
        let generation = pins.generation;
        *pins.held.entry(generation).or_insert(0) += 1;
        drop(pins);
        PinGuard { pins: self.pins.clone(), generation }
    }

    /// Frees some of what may leave quarantine, now that the log is durable up to `durable`; `freed` hears of each.
    /// True: there may be more, call again.
    pub(crate) fn drain(&mut self, durable: Lsn, freed: &mut dyn FnMut(Extent)) -> bool {
        let oldest_pin = self.pins.borrow().held.keys().next().copied().unwrap_or(u64::MAX);
        for _ in 0..SLICE_FREED {
            // A pin taken in generation g was there before every release of generation >= g.
            let Some(front) = self.quarantine.front() else { return false };
            if front.lsn >= durable || front.generation >= oldest_pin || front.freezes > self.finished {
                return false;
            }
            let extent = front.extent;
            self.quarantine.pop_front();
            self.quarantined -= extent.blocks as u64;
            self.insert_free(extent);
            freed(extent);
        }
        true
    }

    /// Extents that wait to be free.
    pub(crate) fn quarantined_extents(&self) -> usize {
        self.quarantine.len()
    }

    /// A run of up to `pages` pages for a checkpoint; allocated at once.
    pub(crate) fn allocate_pages(&mut self, pages: u32) -> Option<Extent> {
        let run = self.free.lowest(pages * PAGE_BLOCKS)?;
        let blocks = run.blocks.min(pages * PAGE_BLOCKS) / PAGE_BLOCKS * PAGE_BLOCKS;
        if blocks == 0 {
            return None;
        }
        let extent = Extent { block: run.block, blocks };
        self.take_for_checkpoint(extent);
        Some(extent)
    }

    /// One block for a checkpoint.
    pub(crate) fn allocate_block(&mut self) -> Option<u32> {
        let extent = Extent { block: self.free.smallest()?.block, blocks: 1 };
        self.take_for_checkpoint(extent);
        Some(extent.block)
    }

    fn take_for_checkpoint(&mut self, extent: Extent) {
        assert!(self.free.take(extent), "a free run contains its part");
        self.live.set(extent);
        self.allocated += extent.blocks as u64;
    }

    /// A checkpoint is durable that no longer needs `extent`: it is free at once, no record names it and
    /// nobody reads pages but under the pool.
    pub(crate) fn free_from_checkpoint(&mut self, extent: Extent) {
        assert!(self.live.all_set(extent), "a page block was freed twice: {extent:?}");
        self.live.clear(extent);
        self.allocated -= extent.blocks as u64;
        self.insert_free(extent);
    }

    /// From now on there are `blocks` blocks; a durable checkpoint says so. What comes is free, or fenced while a
    /// fence stands or is on its way up.
    pub(crate) fn resize(&mut self, blocks: u32) {
        let old = self.area.blocks;
        if blocks < old {
            self.cut_off(blocks);
        }
        self.live.resize(blocks);
        self.area.blocks = blocks;
        if blocks > old {
            self.insert_free(Extent { block: old, blocks: blocks - old });
        }
    }

    /// Freezes the state for a checkpoint: the changes up to here, which its image must show.
    pub(crate) fn freeze(&mut self) -> Vec<Change> {
        assert_eq!(self.freezes, self.finished, "one checkpoint at a time");
        self.freezes += 1;
        std::mem::take(&mut self.changes)
    }

    /// The checkpoint of the last freeze is durable.
    pub(crate) fn finish(&mut self) {
        self.finished += 1;
        assert_eq!(self.freezes, self.finished);
    }

    /// Whoever waits for room waits here.
    pub(crate) fn relieved(&self) -> Rc<Waiters> {
        self.pins.borrow().relieved.clone()
    }

    pub(crate) fn image_mut(&mut self) -> &mut Bitmap {
        &mut self.image
    }

    pub(crate) fn live(&self) -> &Bitmap {
        &self.live
    }

    pub(crate) fn area(&self) -> Area {
        self.area
    }

    /// Whether recovery is over: released blocks go through quarantine.
    pub(crate) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    /// Whether changes wait for a checkpoint.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether a request may go on that dirties pages, when `page_demand` pages are owed to the next
    /// checkpoint already.
    #[inline]
    pub(crate) fn has_room(&self, reserve: Reserve, page_demand: u64) -> bool {
        let critical = match reserve {
            Reserve::Normal => self.critical_pages(),
            Reserve::Critical | Reserve::Promised { .. } => 0,
        };
        self.free.pages() >= page_demand + critical
    }

    pub(crate) fn usage(&self) -> SpaceUse {
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        SpaceUse {
            capacity: bytes((self.area.blocks - self.area.first) as u64),
            metadata: bytes(self.area.bulk.saturating_sub(self.area.first) as u64),
            allocated: bytes(self.allocated),
            free: bytes(self.free_blocks()),
            fenced: bytes(self.fenced.blocks()),
            quarantined: bytes(self.quarantined),
            reserved: bytes(self.reserved),
        }
    }

    /// Blocks that bulk may take now.
    pub(crate) fn free_for_bulk(&self, page_demand: u64) -> u64 {
        if self.area.bulk > 0 {
            return self.bulk.blocks();
        }
        let kept = page_demand + self.critical_pages();
        // Taking n blocks out of runs costs at most n / 2 + 1 places for pages in each run it touches.
        let pages = self.free.pages().saturating_sub(kept + PIECES_MAX as u64);
        self.free.blocks().min(pages * PAGE_BLOCKS as u64)
    }

    /// Blocks that bulk could have once what is in quarantine is free and pages need nothing.
    pub(crate) fn bulk_at_best(&self) -> u64 {
        self.quarantined + if self.area.bulk > 0 { self.bulk.blocks() } else { self.free.blocks() }
    }

    /// Blocks that pages may take now.
    pub(crate) fn free_for_pages(&self) -> u64 {
        self.free.pages() * PAGE_BLOCKS as u64
    }

    /// Asserts K8 and that free runs and the bitmap agree; returns what is wrong.
    ///
    /// # Errors
    /// `Corrupt(Block)`, with the first block that is.
    pub(crate) fn check(&self) -> Result<()> {
        let Area { first, blocks, .. } = self.area;
        let counted = self.live.count(Extent { block: first, blocks: blocks - first });
        assert_eq!(counted, self.allocated, "K8: allocated blocks are counted right");
        assert_eq!(
            self.allocated + self.free_blocks() + self.fenced.blocks() + self.quarantined + self.reserved,
            (blocks - first) as u64,
            "K8: every block is somewhere, once"
        );
        let quarantined: u64 = self.quarantine.iter().map(|entry| entry.extent.blocks as u64).sum();
        assert_eq!(quarantined, self.quarantined);
        self.check_fence();
        for run in self.free.runs().chain(self.bulk.runs()).chain(self.fenced.runs()) {
            if !self.live.all_clear(run) {
                return Err(wrong(run, "free and allocated"));
            }
        }
        Ok(())
    }

    /// The free blocks that `extent` belongs to.
    fn index(&mut self, extent: Extent) -> &mut FreeIndex {
        if extent.block < self.area.page_end() { &mut self.free } else { &mut self.bulk }
    }

    /// Gives free blocks to whoever may have them.
    fn insert_free(&mut self, extent: Extent) {
        let end = extent.end() as u32;
        let border = self.border().clamp(extent.block, end);
        if extent.block < border {
            self.index(extent).insert(Extent { blocks: border - extent.block, ..extent });
        }
        if border < end {
            self.fenced.insert(Extent { block: border, blocks: end - border });
        }
    }

    fn free_blocks(&self) -> u64 {
        self.free.blocks() + self.bulk.blocks()
    }

    fn allocate(&mut self, extent: Extent) {
        assert!(self.live.all_clear(extent), "K8: {extent:?} is allocated twice");
        self.live.set(extent);
        self.changes.push(Change::Allocated(extent));
        self.allocated += extent.blocks as u64;
    }

    fn critical_pages(&self) -> u64 {
        self.critical_pages_before(self.border())
    }

    /// What is kept when blocks from `end` on are not to be had.
    fn critical_pages_before(&self, end: u32) -> u64 {
        let end = self.area.page_end().min(end);
        let capacity = (end - self.area.first) as u64 / PAGE_BLOCKS as u64;
        (capacity / CRITICAL_PART).clamp(CRITICAL_PAGES_MIN.min(capacity / 8), CRITICAL_PAGES_MAX)
    }

    fn check_range(&self, extent: Extent) -> Result<()> {
        if !self.area.contains(extent) {
            return Err(wrong(extent, "outside the region"));
        }
        Ok(())
    }
}

pub(crate) fn wrong(extent: Extent, state: &'static str) -> Error {
    let place = Place::Bulk { block: extent.block };
    Corrupt { place, fault: Fault::Block { block: extent.block, state } }.into()
}

#[cfg(test)]
mod tests;

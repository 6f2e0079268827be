//! The buffer pool: pages in memory, within a budget.
//!
//! # Shape
//! `entries[id]` says where page `id` lies in memory; `owners[frame]` says whose a frame is. Changed
//! pages gather in a list per *generation*; a checkpoint freezes a generation in O(1) and writes it out
//! slice by slice while the owner goes on working.
//!
//! # Always true
//! 1. A frame touched in the current operation is not evicted: references handed out by [`Pages::get`]
//!    stay good until [`Pages::begin_op`], which needs the pool exclusively.
//! 2. Only clean frames are evicted; a changed page reaches the device by a checkpoint alone.
//! 3. A page changed while frozen keeps its frozen image until the checkpoint has copied it.
//!
//! # Not here
//! Where blocks come from (`space`), in which order a checkpoint writes (`checkpoint`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use super::frame::{Arena, Frame};
use super::freeze::{Frozen, Image};
use super::map::{CLEAN, Entry, FIRST_GENERATION, FREE, MAP_ENTRIES, NO_BLOCK, NO_FRAME, WRITING};
use crate::error::{Corrupt, Device, Error, Fault, FormatError, Place, Result};
use crate::page::{self, PAGE_BYTES, Page, PageId, Seal};

/// Fewest frames a pool works with: a descent, a split and a checkpoint slice at once.
pub const FRAMES_MIN: u32 = 64;

/// Past its budget a pool may grow to this many times the budget: one operation that touches many
/// pages, and frozen images while a checkpoint runs. It shrinks again at the end of a checkpoint.
const OVERSHOOT: u32 = 2;

/// Of the memory for pages, the stage may have one part in this many while pages do not need it.
const STAGE_MOST_PART: u32 = 2;
/// And one part in this many whatever pages need.
const STAGE_LEAST_PART: u32 = 16;

/// The memory that pages and the stage share, in frames. Whoever comes first may have it, within the bounds
/// above.
pub(crate) struct Memory {
    frames: u32,
    pages: Cell<u32>,
    stage: Cell<u32>,
}

impl Memory {
    pub(crate) fn new(frames: u32) -> Memory {
        Memory { frames, pages: Cell::new(0), stage: Cell::new(0) }
    }

    /// Frames the stage never goes beyond, but in a replay.
    pub(crate) fn stage_most(&self) -> u32 {
        self.frames / STAGE_MOST_PART
    }

    /// Frames the stage may have as things are; what it has already among them.
    #[inline]
    pub(crate) fn stage_room(&self) -> u32 {
        let left = self.frames.saturating_sub(self.pages.get());
        let least = self.frames / STAGE_LEAST_PART;
        left.max(least).max(self.stage.get()).min(self.stage_most())
    }

    /// The stage has so many frames now.
    pub(crate) fn set_stage(&self, frames: u32) {
        self.stage.set(frames);
    }

    pub(crate) fn stage(&self) -> u32 {
        self.stage.get()
    }

    /// Frames that pages try to stay within.
    fn page_room(&self) -> u32 {
        self.frames.saturating_sub(self.stage.get().max(self.frames / STAGE_LEAST_PART))
    }
}

/// Reads pages from their device.
pub(crate) struct Loader {
    pub(crate) device: Device,
    /// Fills pages, each from its block.
    pub(crate) read: Read,
}

pub(crate) type Read = Box<dyn Fn(&mut [(u64, &mut [u8])]) -> Vec<std::result::Result<(), Arc<str>>>>;

/// The pages of one store.
pub struct Pages {
    pub(super) entries: Vec<Entry>,
    pub(super) arena: Arena,
    /// State value of pages changed since the last freeze.
    pub(super) generation: u32,
    op: u32,
    /// Frames the pool and the stage try to stay within.
    budget: u32,
    memory: Rc<Memory>,
    /// CRC of the store's UUID, expected in every page.
    pub(super) store: u32,
    /// Sequence of the newest checkpoint, begun or done: no page on the device is younger.
    pub(super) checkpoint: u64,
    loader: Option<Loader>,
    frames: RefCell<Frames>,
    pub(super) owners: Vec<Cell<u32>>,
    free_ids: Vec<u32>,
    /// Pages changed in `generation`; may name one twice, or one freed since.
    pub(super) changed: Vec<u32>,
    /// Pages changed and not yet copied out, of both generations. Shared with the store, which looks at
    /// it while the owner holds the pool.
    pub(super) dirty: Rc<Cell<u64>>,
    live: u64,
    /// Whether a page read back is one of the owner's.
    judge: fn(&Page) -> bool,
    /// Map pages whose addresses changed since the last freeze.
    pub(super) map_changed: BTreeSet<u32>,
    /// Blocks of pages freed since the last freeze: needed by the newest checkpoint until the next.
    pub(super) dropped: Vec<u32>,
    pub(super) frozen: Option<Frozen>,
}

/// Frames not in use, and the clock hand. Behind a cell, because a load happens under `&self`.
struct Frames {
    free: Vec<Frame>,
    /// Frames ever used since the last shrink: those from here up are untouched.
    high: u32,
    hand: u32,
    /// Operation at which the hand last passed frame 0, and the time before.
    sweeps: [u32; 2],
    loads: u64,
    evictions: u64,
}

pub(super) const OWNER_NONE: u32 = u32::MAX;
pub(super) const OWNER_IMAGE: u32 = u32::MAX - 1;
/// Page ids end below the marks above.
pub(crate) const PAGES_MAX: u32 = u32::MAX - 16;

/// What a pool holds, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    pub pages: u64,
    pub dirty: u64,
    pub frames: u64,
    pub budget: u64,
    pub loads: u64,
    pub evictions: u64,
}

impl Pages {
    /// A pool over no device, for the owner's tests: nothing is ever evicted.
    pub fn in_memory(budget_bytes: usize) -> Result<Pages> {
        Pages::new(budget_bytes, 0, 0, None)
    }

    /// A pool of about `budget_bytes` of memory, that may grow to `frames_least` frames if it must.
    ///
    /// # Errors
    /// `Format(Device)`: the system refuses the address space.
    pub(crate) fn new(budget_bytes: usize, frames_least: u64, store: u32, loader: Option<Loader>) -> Result<Pages> {
        let budget = (budget_bytes / PAGE_BYTES).clamp(FRAMES_MIN as usize, (PAGES_MAX / OVERSHOOT) as usize) as u32;
        let frames = frames_least.clamp((budget * OVERSHOOT) as u64, PAGES_MAX as u64) as u32;
        let arena = Arena::reserve(frames).map_err(|error| FormatError::Device {
            region: "page memory".into(),
            cause: format!("{error}; lower the memory budget of the target").into(),
        })?;
        let frames = arena.frames() as usize;
        Ok(Pages {
            entries: Vec::new(),
            arena,
            generation: FIRST_GENERATION,
            op: 1,
            budget,
            memory: Rc::new(Memory::new(budget)),
            store,
            checkpoint: 0,
            loader,
            frames: RefCell::new(Frames { free: Vec::new(), high: 0, hand: 0, sweeps: [0, 0], loads: 0, evictions: 0 }),
            owners: vec![Cell::new(OWNER_NONE); frames],
            free_ids: Vec::new(),
            changed: Vec::new(),
            dirty: Rc::default(),
            live: 0,
            judge: |_| true,
            map_changed: BTreeSet::new(),
            dropped: Vec::new(),
            frozen: None,
        })
    }

    /// Sets what each page must pass when it is read from the device, after its checksum. An owner that
    /// trusts the inside of its pages checks them here, once a load, and nowhere else.
    pub fn set_judge(&mut self, judge: fn(&Page) -> bool) {
        self.judge = judge;
    }

    /// Ends the operation before, and begins the next: pages touched earlier may be evicted from now.
    /// Call it once per operation, and per step of a long scan.
    #[inline]
    pub fn begin_op(&mut self) {
        self.op = self.op.wrapping_add(1);
    }

    /// The page `id`, loaded when it is not in memory. It stays until the next [`Pages::begin_op`].
    ///
    /// Cost: a few ns when resident; else one device read of 8 KiB, done here and now.
    ///
    /// # Errors
    /// - `UnknownPage`: freed, or never allocated.
    /// - `Corrupt`, `Read`: the copy on the device is bad; other pages stay readable.
    /// - `NoMemory`: this operation touched too many pages.
    #[inline]
    pub fn get(&self, id: PageId) -> Result<&Page> {
        if let Some(entry) = self.entries.get(id.0 as usize) {
            let frame = entry.frame.get();
            if frame != NO_FRAME {
                entry.touched.set(self.op);
                // SAFETY: the frame belongs to `id`. A `&mut Page` needs `&mut self`, and the frame is
                // neither evicted nor reused before `begin_op` or another `&mut self` call, which the
                // borrow of `self` in the returned reference excludes.
                return Ok(unsafe { &*self.arena.page(frame) });
            }
        }
        self.load(id)
    }

    /// The page `id`, to change. Call only after the record of the change was appended, or while
    /// replaying it, and leave the page whole before the next await.
    ///
    /// Cost: as [`Pages::get`]; the first change of a page that a running checkpoint has frozen copies it.
    ///
    /// # Errors
    /// As [`Pages::get`].
    #[inline]
    pub fn get_mut(&mut self, id: PageId) -> Result<&mut Page> {
        let index = id.0 as usize;
        match self.entries.get(index) {
            Some(entry) if entry.state.get() == self.generation => entry.touched.set(self.op),
            _ => self.make_dirty(id)?,
        }
        let frame = self.entries[index].frame.get();
        // SAFETY: a dirty page has a frame of its own, and `&mut self` excludes every other reference.
        Ok(unsafe { &mut *self.arena.page(frame) })
    }

    /// Two different pages, both to change: for splits and merges.
    ///
    /// # Errors
    /// As [`Pages::get`].
    pub fn pair_mut(&mut self, first: PageId, second: PageId) -> Result<(&mut Page, &mut Page)> {
        assert_ne!(first, second, "a page is paired with itself");
        self.get_mut(first)?;
        self.get_mut(second)?;
        let (a, b) = (self.entries[first.0 as usize].frame.get(), self.entries[second.0 as usize].frame.get());
        assert!(a != b && a != NO_FRAME && b != NO_FRAME);
        // SAFETY: two live pages never share a frame (asserted), `get_mut` of the second did not move
        // the first (touched in this operation), and `&mut self` excludes every other reference.
        Ok(unsafe { (&mut *self.arena.page(a), &mut *self.arena.page(b)) })
    }

    /// A new page: body and kind all zero.
    ///
    /// # Errors
    /// `NoMemory`: no frame can be freed, see [`Pages::get`].
    pub fn allocate(&mut self) -> Result<PageId> {
        let frame = self.take_frame()?;
        let id = match self.free_ids.pop() {
            Some(id) => id,
            None => {
                assert!((self.entries.len() as u64) < PAGES_MAX as u64, "page ids are used up");
                self.entries.push(Entry::free());
                (self.entries.len() - 1) as u32
            }
        };
        let entry = &self.entries[id as usize];
        assert_eq!(entry.state.get(), FREE, "page {id} was free twice");
        entry.frame.set(frame);
        entry.touched.set(self.op);
        entry.state.set(self.generation);
        self.owners[frame as usize].set(id);
        // SAFETY: the frame was just taken from the free ones: nothing refers to it.
        let bytes = unsafe { &mut *self.arena.page(frame).cast::<[u8; PAGE_BYTES]>() };
        bytes.fill(0);
        bytes[4..8].copy_from_slice(&id.to_le_bytes());
        self.changed.push(id);
        self.dirty.set(self.dirty.get() + 1);
        self.live += 1;
        Ok(PageId(id))
    }

    /// Gives page `id` up. Its id may come back from [`Pages::allocate`] at once.
    ///
    /// # Errors
    /// `UnknownPage`: it was not allocated.
    pub fn free(&mut self, id: PageId) -> Result<()> {
        let entry = match self.entries.get(id.0 as usize) {
            Some(entry) if entry.state.get() != FREE => entry,
            _ => return Err(Error::UnknownPage(id)),
        };
        let (frame, block, state) = (entry.frame.get(), entry.block.get(), entry.state.get());
        let unwritten = self.frozen.as_ref().is_some_and(|frozen| state == frozen.generation);
        entry.frame.set(NO_FRAME);
        entry.block.set(NO_BLOCK);
        entry.state.set(FREE);
        if unwritten {
            // The running checkpoint still has to write the page: its frame becomes the image.
            self.owners[frame as usize].set(OWNER_IMAGE);
            let frozen = self.frozen.as_mut().expect("a frozen page has a running checkpoint");
            frozen.images.insert(id.0, Image { frame, ended: Some(block) });
        } else {
            if frame != NO_FRAME {
                self.return_frame(frame);
            }
            if state >= FIRST_GENERATION {
                self.dirty.set(self.dirty.get() - 1);
            }
            match self.frozen.as_mut() {
                Some(frozen) if frozen.images.contains_key(&id.0) => {
                    let image = frozen.images.get_mut(&id.0).expect("just found");
                    if image.ended.is_none() {
                        image.ended = Some(block);
                    }
                }
                running => {
                    if block != NO_BLOCK {
                        self.dropped.push(block);
                        if let Some(frozen) = running {
                            frozen.ended.entry(id.0).or_insert(block);
                        }
                    }
                }
            }
        }
        self.map_changed.insert(id.0 / MAP_ENTRIES as u32);
        self.free_ids.push(id.0);
        self.live -= 1;
        Ok(())
    }

    /// Asks the processor for the first `lines` cache lines of a page, when it is in memory.
    #[inline]
    pub fn prefetch(&self, id: PageId, lines: usize) {
        if let Some(entry) = self.entries.get(id.0 as usize) {
            let frame = entry.frame.get();
            if frame != NO_FRAME {
                prefetch_lines(self.arena.page(frame).cast::<u8>(), lines.min(PAGE_BYTES / 64));
            }
        }
    }

    /// Whether a get of `id` needs no device.
    pub fn is_resident(&self, id: PageId) -> bool {
        self.entries.get(id.0 as usize).is_some_and(|entry| entry.frame.get() != NO_FRAME)
    }

    /// What the pool holds now.
    pub fn usage(&self) -> PoolUse {
        let frames = self.frames.borrow();
        PoolUse {
            pages: self.live,
            dirty: self.dirty.get(),
            frames: (frames.high as usize - frames.free.len()) as u64,
            budget: self.budget as u64,
            loads: frames.loads,
            evictions: frames.evictions,
        }
    }

    /// Frames the pool may fill in service; as many may be needed to replay what happened then.
    pub(crate) fn frames_wanted(&self) -> u64 {
        (self.budget * OVERSHOOT) as u64
    }

    /// What the pool shares with the stage.
    pub(crate) fn memory(&self) -> Rc<Memory> {
        self.memory.clone()
    }

    /// The counter of changed pages, to be read beside a borrow of the pool.
    pub(crate) fn dirty_counter(&self) -> Rc<Cell<u64>> {
        self.dirty.clone()
    }

    /// Takes up the page map of a checkpoint: the block of every page id, in order.
    pub(crate) fn restore(&mut self, blocks: impl Iterator<Item = u32>, checkpoint: u64) {
        assert!(self.entries.is_empty());
        self.entries = blocks.map(Entry::on_device).collect();
        while self.entries.last().is_some_and(|entry| entry.state.get() == FREE) {
            self.entries.pop();
        }
        // Lowest id first, so that replay and a restart hand out the same ids.
        self.free_ids =
            (0..self.entries.len() as u32).rev().filter(|&id| self.entries[id as usize].state.get() == FREE).collect();
        self.live = (self.entries.len() - self.free_ids.len()) as u64;
        self.checkpoint = checkpoint;
    }

    /// Blocks of pages freed since the last freeze.
    pub(crate) fn dropped(&self) -> &[u32] {
        &self.dropped
    }

    /// The block of every page that has a copy on the device.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (PageId, u32)> + '_ {
        let written = self.entries.iter().enumerate().map(|(id, entry)| (PageId(id as u32), entry.block.get()));
        written.filter(|(_, block)| *block != NO_BLOCK)
    }

    /// As [`Pages::blocks`], from page `from` on.
    pub(crate) fn blocks_from(&self, from: PageId) -> impl Iterator<Item = (PageId, u32)> + '_ {
        let ids = (from.0..self.entries.len() as u32).map(PageId);
        ids.filter_map(|id| self.block_of(id).map(|block| (id, block)))
    }

    /// Where the copy of a page lies on the device, when it has one.
    pub(crate) fn block_of(&self, id: PageId) -> Option<u32> {
        self.entries.get(id.0 as usize).map(|entry| entry.block.get()).filter(|block| *block != NO_BLOCK)
    }

    /// Makes the next checkpoint write page `id` to a new place. One that it writes anyway stays as it is.
    ///
    /// # Errors
    /// As [`Pages::get`].
    pub(crate) fn move_page(&mut self, id: PageId) -> Result<()> {
        match self.entries.get(id.0 as usize).map(|entry| entry.state.get()) {
            Some(CLEAN | WRITING) => self.make_dirty(id),
            _ => Ok(()),
        }
    }

    /// Makes the next checkpoint write map page `index` to a new place.
    pub(crate) fn move_map(&mut self, index: u32) {
        self.map_changed.insert(index);
    }

    /// Sequence of the newest checkpoint, begun or done.
    pub(crate) fn newest(&self) -> u64 {
        self.checkpoint
    }

    /// Evicts clean pages until the pool is within its budget again, and gives the memory back.
    pub(crate) fn shrink(&mut self) {
        let frames = self.frames.get_mut();
        let room = self.memory.page_room();
        if frames.high <= room {
            return;
        }
        for frame in room..frames.high {
            let owner = self.owners[frame as usize].get();
            if owner < OWNER_IMAGE && self.entries[owner as usize].state.get() == CLEAN {
                self.entries[owner as usize].frame.set(NO_FRAME);
                self.owners[frame as usize].set(OWNER_NONE);
                frames.evictions += 1;
                frames.free.push(frame);
            }
        }
        let old = frames.high;
        while frames.high > room && self.owners[frames.high as usize - 1].get() == OWNER_NONE {
            frames.high -= 1;
        }
        let high = frames.high;
        self.memory.pages.set(high);
        frames.free.retain(|frame| *frame < high);
        frames.hand = 0;
        self.arena.discard(high, old - high);
    }

    pub(super) fn return_frame(&mut self, frame: Frame) {
        self.owners[frame as usize].set(OWNER_NONE);
        self.frames.get_mut().free.push(frame);
    }

    /// Every page id in use, in order.
    pub fn ids(&self) -> impl Iterator<Item = PageId> + '_ {
        self.entries.iter().enumerate().filter(|(_, e)| e.state.get() != FREE).map(|(i, _)| PageId(i as u32))
    }

    #[cold]
    fn load(&self, id: PageId) -> Result<&Page> {
        match self.entries.get(id.0 as usize) {
            Some(entry) if entry.state.get() != FREE => {}
            _ => return Err(Error::UnknownPage(id)),
        };
        let frame = self.take_frame()?;
        self.fill(&[(id, frame)]).pop().expect("an outcome for each page")?;
        // SAFETY: as in `get`.
        Ok(unsafe { &*self.arena.page(frame) })
    }

    /// Brings pages to memory that are not there, many reads at a time: for whoever knows what will be asked for.
    /// It takes no more than a quarter of the budget, from the first on. A page that cannot be read is left for
    /// [`Pages::get`] to tell.
    pub fn preload(&mut self, ids: &[PageId]) {
        let most = (self.budget / 4) as usize;
        let is_wanted = |id: &PageId| {
            let entry = self.entries.get(id.0 as usize);
            entry.is_some_and(|entry| entry.frame.get() == NO_FRAME && entry.state.get() == CLEAN)
        };
        let mut wanted: Vec<PageId> = ids.iter().copied().filter(is_wanted).take(most).collect();
        // As they lie on the device, so that neighbours are read together.
        wanted.sort_unstable_by_key(|id| (self.entries[id.0 as usize].block.get(), *id));
        wanted.dedup();
        let framed: Vec<_> = wanted.into_iter().map_while(|id| Some((id, self.take_frame().ok()?))).collect();
        for outcome in self.fill(&framed) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a page was not read ahead");
            }
        }
    }

    /// Reads pages into frames that nobody has, and verifies them; a frame whose page is not good is free again.
    fn fill(&self, framed: &[(PageId, Frame)]) -> Vec<Result<()>> {
        let loader = self.loader.as_ref().expect("a page without a frame comes from a device");
        let mut reads: Vec<(u64, &mut [u8])> = Vec::with_capacity(framed.len());
        for (id, frame) in framed {
            let entry = &self.entries[id.0 as usize];
            assert_eq!(entry.state.get(), CLEAN, "{id} has no frame, so it must be clean");
            // SAFETY: the frames were just taken from the free ones, each once: nothing refers to them.
            let bytes = unsafe { &mut *self.arena.page(*frame).cast::<[u8; PAGE_BYTES]>() };
            reads.push((entry.block.get().into(), bytes));
        }
        let outcomes = (loader.read)(&mut reads);
        drop(reads);
        let filled = framed.iter().zip(outcomes).map(|(&(id, frame), outcome)| {
            let entry = &self.entries[id.0 as usize];
            let place = Place::Page { page: id, block: entry.block.get() };
            let verified = outcome
                .map_err(|cause| Error::Read { place, device: loader.device, cause })
                .and_then(|()| self.verify(id, frame).map_err(|fault| Corrupt { place, fault }.into()));
            let mut frames = self.frames.borrow_mut();
            match verified {
                Ok(()) => {
                    frames.loads += 1;
                    entry.frame.set(frame);
                    entry.touched.set(self.op);
                    self.owners[frame as usize].set(id.0);
                }
                Err(_) => frames.free.push(frame),
            }
            verified
        });
        filled.collect()
    }

    /// Whether `frame`, which nobody refers to, holds page `id`.
    fn verify(&self, id: PageId, frame: Frame) -> std::result::Result<(), Fault> {
        let expected = Seal { page: id.0, kind: 0, lsn: 0, store: self.store, checkpoint: self.checkpoint };
        // SAFETY: as in `get`; the frame is nobody else's yet.
        let (bytes, page) = unsafe { (&*self.arena.page(frame).cast::<[u8; PAGE_BYTES]>(), &*self.arena.page(frame)) };
        page::verify(bytes, expected)?;
        if (self.judge)(page) { Ok(()) } else { Err(Fault::Contents) }
    }

    #[cold]
    fn make_dirty(&mut self, id: PageId) -> Result<()> {
        self.get(id)?;
        let entry = &self.entries[id.0 as usize];
        let state = entry.state.get();
        if self.frozen.as_ref().is_some_and(|frozen| state == frozen.generation) {
            let image = self.take_frame()?;
            let frame = self.entries[id.0 as usize].frame.get();
            // SAFETY: two different frames (one was just taken from the free ones), and `&mut self`
            // excludes references to either.
            unsafe { std::ptr::copy_nonoverlapping(self.arena.page(frame), self.arena.page(image), 1) };
            self.owners[image as usize].set(OWNER_IMAGE);
            let frozen = self.frozen.as_mut().expect("checked above");
            frozen.images.insert(id.0, Image { frame: image, ended: None });
        }
        // One more page to write: a clean one became dirty, or a frozen one will be written twice.
        self.dirty.set(self.dirty.get() + 1);
        self.entries[id.0 as usize].state.set(self.generation);
        self.changed.push(id.0);
        Ok(())
    }

    /// A free frame: an unused one, an evicted one, or, when all are dirty or in use, one past the budget.
    fn take_frame(&self) -> Result<Frame> {
        let mut frames = self.frames.borrow_mut();
        if let Some(frame) = frames.free.pop() {
            return Ok(frame);
        }
        if (frames.high < self.memory.page_room() || self.loader.is_none())
            && let Some(frame) = self.grow(&mut frames)
        {
            return Ok(frame);
        }
        if let Some(frame) = self.evict(&mut frames) {
            return Ok(frame);
        }
        self.grow(&mut frames).ok_or(Error::NoMemory { frames: self.arena.frames() as u64 })
    }

    fn grow(&self, frames: &mut Frames) -> Option<Frame> {
        let frame = frames.high;
        if frame >= self.arena.frames() {
            return None;
        }
        frames.high += 1;
        self.arena.expect(frames.high, self.memory.page_room().max(frames.high));
        self.memory.pages.set(frames.high);
        Some(frame)
    }

    /// Clock: takes the first clean frame not touched since the hand passed it last; failing that,
    /// any clean frame that the current operation does not use.
    fn evict(&self, frames: &mut Frames) -> Option<Frame> {
        for pass in 0..3 {
            for _ in 0..frames.high {
                let frame = frames.hand;
                frames.hand += 1;
                if frames.hand >= frames.high {
                    frames.hand = 0;
                    frames.sweeps = [self.op, frames.sweeps[0]];
                }
                let owner = self.owners[frame as usize].get();
                if owner >= OWNER_IMAGE {
                    continue;
                }
                let entry = &self.entries[owner as usize];
                let touched = entry.touched.get();
                let age = self.op.wrapping_sub(touched);
                let recent = age < self.op.wrapping_sub(frames.sweeps[1]).max(1);
                if entry.state.get() != CLEAN || age == 0 || (pass < 2 && recent) {
                    continue;
                }
                entry.frame.set(NO_FRAME);
                self.owners[frame as usize].set(OWNER_NONE);
                frames.evictions += 1;
                return Some(frame);
            }
        }
        None
    }
}

/// Asks the processor for bytes that will be read soon.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    prefetch_lines(bytes.as_ptr(), bytes.len().div_ceil(64));
}

#[inline]
fn prefetch_lines(start: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        // SAFETY: a prefetch is a hint and never faults; the address lies within the page anyway.
        unsafe {
            std::arch::x86_64::_mm_prefetch(start.add(line * 64).cast::<i8>(), std::arch::x86_64::_MM_HINT_T0);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, lines);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_it_was_written_and_ids_come_back() {
        let mut pages = Pages::in_memory(1 << 20).unwrap();
        let first = pages.allocate().unwrap();
        let second = pages.allocate().unwrap();
        pages.get_mut(first).unwrap().body_mut()[7] = 7;
        let (a, b) = pages.pair_mut(first, second).unwrap();
        b.body_mut()[0] = a.body()[7];
        b.set_kind(3);
        assert_eq!(pages.get(second).unwrap().body()[0], 7);
        assert_eq!(pages.get(second).unwrap().id(), second);
        pages.free(second).unwrap();
        assert_eq!(pages.get(second).err(), Some(Error::UnknownPage(second)));
        assert_eq!(pages.free(second).err(), Some(Error::UnknownPage(second)));
        assert_eq!(pages.allocate().unwrap(), second);
        assert_eq!((pages.get(second).unwrap().body()[0], pages.get(second).unwrap().kind()), (0, 0));
    }

    #[test]
    fn an_operation_larger_than_memory_is_refused() {
        let mut pages = Pages::in_memory(0).unwrap();
        let error = (0..1000).find_map(|_| pages.allocate().err());
        assert_eq!(error, Some(Error::NoMemory { frames: (FRAMES_MIN * OVERSHOOT) as u64 }));
    }
}

//! The stage: blocks of bulk data whose bytes are durable in the log, and wait in memory for a checkpoint to
//! write them to their place.
//!
//! # Shape
//! A table from block to *slot*, a buffer of one block. Slots grow with use, within a share of the memory that
//! pages have, and are used again: the steady state touches no fresh memory.
//!
//! ```text
//!              fill             freeze              finish
//!   PROMISED --------> WAITING --------> WRITING --------> CLEAN ---- evict ----> FREE
//!      |                  |                                  |
//!      | cancel           | release                          | forget
//!      v                  v             forget               v
//!     FREE             RELEASED -----------------------------> FREE
//! ```
//!
//! Waiting, writing and clean are told apart by the generation in which a slot was filled, so that a
//! checkpoint begins and ends in O(1).
//!
//! # Always true
//! 1. Until the block of a slot may be reused (`forget`), a slot that is not clean stays: a reader may have
//!    been told of the block, and the device does not have its bytes.
//! 2. A slot of a frozen generation is written, released or not: recovery from that checkpoint may find the
//!    block in use, when the record that released it was lost.
//! 3. What is not clean was staged since the beginning of the newest checkpoint that is durable, so that a
//!    replay needs no more slots than service did.
//!
//! # Not here
//! Who owns a block (`space`), and when its bytes are written (`checkpoint`).

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use rt::disk::IoBuf;

use crate::page::PAGE_BYTES;
use crate::pages::frame::Arena;
use crate::pages::pool::Memory;
use crate::region::BLOCK_BYTES;
use crate::space::Extent;

/// The shortest payload that gains by being staged: of shorter ones, three still share a page.
pub const STAGED_BYTES_MIN: usize = 2048;
/// The longest: one block.
pub const STAGED_BYTES_MAX: usize = BLOCK_BYTES;

/// Slots in a frame of memory.
pub(crate) const FRAME_SLOTS: u32 = (PAGE_BYTES / BLOCK_BYTES) as u32;

/// Slots that a search for one to evict looks at: bounds it. When none is found the value goes into the tree.
const PROBES: u32 = 1024;
/// Waiting slots sorted at once: some 300 us.
const SORTED_SLOTS: usize = 8192;
/// Blocks of one device write: some 60 us of copying.
const RUN_BLOCKS: usize = 128;

/// Number of a slot.
pub(crate) type Slot = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Filled, for a record that is about to be appended.
    Promised,
    /// Waiting, writing or clean: see [`Stage::condition`].
    Held {
        generation: u32,
    },
    /// Given up before a checkpoint wrote it: read by those who were told of it, and not written.
    Released,
}

/// Where the bytes of a held slot are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Only here and in the log.
    Waiting,
    /// The checkpoint under way writes them.
    Writing,
    /// On the device too, and no log is needed for them.
    Clean,
}

struct Entry {
    block: u32,
    state: State,
    /// Read since the hand passed.
    touched: Cell<bool>,
}

/// The staged blocks of one store.
pub(crate) struct Stage {
    memory: Rc<Memory>,
    /// Made with the first slot: a store that stages nothing pays nothing.
    arena: Option<Arena>,
    /// As many as the log can make necessary; only address space.
    slots_most: u32,
    slots: Vec<Entry>,
    free: Vec<Slot>,
    by_block: HashMap<u32, Slot, BuildHasherDefault<BlockHasher>>,
    /// Of slots filled since the last freeze.
    generation: u32,
    /// Slots of generations up to this one are clean.
    written: u32,
    /// Slots filled in `generation`; may name one twice, or one given up since.
    filled: Vec<Slot>,
    waiting: u32,
    writing: u32,
    /// Slots that cannot be evicted: promised, waiting, writing, released.
    kept: u32,
    hand: u32,
    /// Blocks set aside for the next payloads, so that they follow one another and are found at once.
    run: Option<Extent>,
}

/// What the stage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageUse {
    /// Blocks whose bytes are in memory.
    pub blocks: u64,
    /// Of them, those that the device does not have yet.
    pub unwritten: u64,
    /// Memory taken, out of the budget for pages.
    pub memory_bytes: u64,
}

/// What a checkpoint writes: the slots of the generation that it froze, in parts that are sorted.
#[derive(Default)]
pub(crate) struct Frozen {
    generation: u32,
    filled: Vec<Slot>,
    next: usize,
    /// In order of blocks, the lowest last.
    sorted: Vec<(u32, Slot)>,
}

impl Frozen {
    /// Whether there was anything to write.
    pub(crate) fn is_any(&self) -> bool {
        !self.filled.is_empty()
    }
}

impl Stage {
    /// A stage for a log of `log_bytes` that shares `memory` with the pages.
    pub(crate) fn new(memory: Rc<Memory>, log_bytes: u64) -> Stage {
        let replayed = log_bytes / STAGED_BYTES_MIN as u64;
        let slots_most = replayed.max(memory.stage_most() as u64 * FRAME_SLOTS as u64).min(u32::MAX as u64 / 2) as u32;
        Stage {
            memory,
            arena: None,
            slots_most,
            slots: Vec::new(),
            free: Vec::new(),
            by_block: HashMap::default(),
            generation: 1,
            written: 0,
            filled: Vec::new(),
            waiting: 0,
            writing: 0,
            kept: 0,
            hand: 0,
            run: None,
        }
    }

    /// Fills a slot with `bytes`, for a block that is still to be named; `None` when there is no room.
    pub(crate) fn promise(&mut self, bytes: &[u8]) -> Option<Slot> {
        let slot = self.take(false)?;
        self.write(slot, bytes);
        self.slots[slot as usize].state = State::Promised;
        self.kept += 1;
        Some(slot)
    }

    /// The record of a promised slot will not come.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        assert_eq!(self.slots[slot as usize].state, State::Promised);
        self.put_back(slot);
    }

    /// The record of a promised slot was appended, and says that it is `block`.
    pub(crate) fn fill(&mut self, slot: Slot, block: u32) {
        assert_eq!(self.slots[slot as usize].state, State::Promised);
        self.hold(slot, block);
    }

    /// Replay: a record says that `bytes` are `block`. Saying it twice is fine. False when memory is short.
    pub(crate) fn restage(&mut self, block: u32, bytes: &[u8]) -> bool {
        self.forget(Extent { block, blocks: 1 });
        let Some(slot) = self.take(true) else { return false };
        self.write(slot, bytes);
        self.kept += 1;
        self.hold(slot, block);
        true
    }

    /// Keeps a copy of what the device has at `block`, if there is memory that nothing else needs more.
    pub(crate) fn keep(&mut self, block: u32, bytes: &[u8]) {
        if self.by_block.contains_key(&block) {
            return;
        }
        let Some(slot) = self.take(false) else { return };
        self.write(slot, bytes);
        // Generation 0 is clean from the beginning.
        self.slots[slot as usize] = Entry { block, state: State::Held { generation: 0 }, touched: Cell::new(false) };
        self.by_block.insert(block, slot);
    }

    /// The bytes of a block, padded with zero, wherever else they are.
    #[inline]
    pub(crate) fn get(&self, block: u32) -> Option<&[u8; BLOCK_BYTES]> {
        let slot = *self.by_block.get(&block)?;
        self.slots[slot as usize].touched.set(true);
        Some(self.bytes(slot))
    }

    /// The bytes of a block that the device does not have yet.
    pub(crate) fn unwritten(&self, block: u32) -> Option<&[u8; BLOCK_BYTES]> {
        let slot = *self.by_block.get(&block)?;
        (self.condition(slot) != Some(Condition::Clean)).then(|| self.bytes(slot))
    }

    /// `extent` was given up by its owner: what of it waits need not be written.
    pub(crate) fn release(&mut self, extent: Extent) {
        self.each(extent, |stage, slot| {
            if stage.condition(slot) == Some(Condition::Waiting) {
                stage.slots[slot as usize].state = State::Released;
                stage.waiting -= 1;
            }
        });
    }

    /// `extent` may be reused: nobody asks for its former bytes any more.
    pub(crate) fn forget(&mut self, extent: Extent) {
        self.each(extent, |stage, slot| stage.drop_slot(slot));
    }

    /// Slots whose bytes only the log has.
    pub(crate) fn unwritten_count(&self) -> u64 {
        (self.waiting + self.writing) as u64
    }

    /// What it holds now.
    pub(crate) fn usage(&self) -> StageUse {
        StageUse {
            blocks: self.by_block.len() as u64,
            unwritten: self.unwritten_count(),
            memory_bytes: self.slots.len() as u64 * BLOCK_BYTES as u64,
        }
    }

    /// Whether a checkpoint should begin, so that the stage has room again in time.
    pub(crate) fn is_filling(&self) -> bool {
        self.waiting + self.writing > self.memory.stage_room() * FRAME_SLOTS / 2
    }

    /// A block of the run that was set aside for the stage.
    pub(crate) fn next_block(&mut self) -> Option<u32> {
        let run = self.run.as_mut()?;
        let block = run.block;
        (run.block, run.blocks) = (block + 1, run.blocks - 1);
        self.run = self.run.filter(|run| run.blocks > 0);
        Some(block)
    }

    /// Takes a new run up; the last one is used up.
    pub(crate) fn set_run(&mut self, run: Extent) {
        assert!(self.run.is_none() && run.blocks > 0);
        self.run = Some(run);
    }

    /// Gives what is left of the run back.
    pub(crate) fn take_run(&mut self) -> Option<Extent> {
        self.run.take()
    }

    /// What waits now is what the next checkpoint writes. O(1).
    pub(crate) fn freeze(&mut self) -> Frozen {
        assert_eq!(self.writing, 0, "one checkpoint at a time");
        let generation = self.generation;
        self.generation = generation.checked_add(1).expect("a checkpoint a second lasts for a century");
        self.writing = std::mem::take(&mut self.waiting);
        Frozen { generation, filled: std::mem::take(&mut self.filled), ..Frozen::default() }
    }

    /// The next neighbouring blocks of a frozen generation, copied: the first block, and their bytes.
    pub(crate) fn next_run(&self, frozen: &mut Frozen) -> Option<(u32, IoBuf)> {
        while frozen.sorted.is_empty() && frozen.next < frozen.filled.len() {
            let end = (frozen.next + SORTED_SLOTS).min(frozen.filled.len());
            let part = &frozen.filled[frozen.next..end];
            frozen.next = end;
            let held = State::Held { generation: frozen.generation };
            let entry = |slot: &Slot| self.slots.get(*slot as usize).filter(|entry| entry.state == held);
            frozen.sorted.extend(part.iter().filter_map(|slot| Some((entry(slot)?.block, *slot))));
            frozen.sorted.sort_unstable_by(|a, b| b.cmp(a));
            // A slot given up and filled again before the freeze is listed twice.
            frozen.sorted.dedup();
        }
        let &(first, _) = frozen.sorted.last()?;
        let follow = (first..).zip(frozen.sorted.iter().rev()).take(RUN_BLOCKS);
        let blocks = follow.take_while(|(expected, (block, _))| expected == block).count();
        let mut buffer = IoBuf::with_capacity(blocks * BLOCK_BYTES);
        for (_, slot) in frozen.sorted.drain(frozen.sorted.len() - blocks..).rev() {
            assert_eq!(self.condition(slot), Some(Condition::Writing), "frozen slots stay until the end");
            buffer.extend_from_slice(self.bytes(slot));
        }
        Some((first, buffer))
    }

    /// The checkpoint of the last freeze is durable.
    pub(crate) fn finish(&mut self) {
        self.kept -= std::mem::take(&mut self.writing);
        self.written = self.generation - 1;
        self.shrink();
    }

    fn condition(&self, slot: Slot) -> Option<Condition> {
        match self.slots[slot as usize].state {
            State::Held { generation } if generation <= self.written => Some(Condition::Clean),
            State::Held { generation } if generation < self.generation => Some(Condition::Writing),
            State::Held { .. } => Some(Condition::Waiting),
            State::Free | State::Promised | State::Released => None,
        }
    }

    /// A free slot: one given back, a new one within the share of memory, or a clean one.
    fn take(&mut self, is_needed: bool) -> Option<Slot> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.slots.len() as u32 + FRAME_SLOTS <= self.slots_most && (self.can_grow() || is_needed) {
            self.grow()?;
            return self.free.pop();
        }
        let slot = self.evictable()?;
        self.drop_slot(slot);
        self.free.pop()
    }

    fn can_grow(&self) -> bool {
        self.memory.stage() < self.memory.stage_room()
    }

    #[cold]
    fn grow(&mut self) -> Option<()> {
        if self.arena.is_none() {
            self.arena = Some(Arena::reserve(self.slots_most.div_ceil(FRAME_SLOTS)).ok()?);
        }
        for _ in 0..FRAME_SLOTS {
            self.free.push(self.slots.len() as Slot);
            self.slots.push(Entry { block: 0, state: State::Free, touched: Cell::new(false) });
        }
        let frames = self.slots.len() as u32 / FRAME_SLOTS;
        self.memory.set_stage(frames);
        self.arena.as_ref()?.expect(frames, self.memory.stage_room().max(frames));
        Some(())
    }

    /// Clock: the first clean slot that was not read since the hand passed it; failing that, any clean one.
    fn evictable(&mut self) -> Option<Slot> {
        let count = self.slots.len() as u32;
        if self.kept >= count {
            return None;
        }
        let mut second_best = None;
        for _ in 0..PROBES.min(count) {
            self.hand = (self.hand + 1) % count;
            if self.condition(self.hand) == Some(Condition::Clean) {
                if !self.slots[self.hand as usize].touched.replace(false) {
                    return Some(self.hand);
                }
                second_best.get_or_insert(self.hand);
            }
        }
        second_best
    }

    fn hold(&mut self, slot: Slot, block: u32) {
        let entry = &mut self.slots[slot as usize];
        (entry.block, entry.state) = (block, State::Held { generation: self.generation });
        entry.touched.set(false);
        self.waiting += 1;
        self.filled.push(slot);
        assert_eq!(self.by_block.insert(block, slot), None, "block {block} is staged twice");
    }

    /// Empties a slot that has a block.
    fn drop_slot(&mut self, slot: Slot) {
        match self.condition(slot) {
            Some(Condition::Clean) => self.kept += 1,
            Some(Condition::Writing) => panic!("a block is not reused before the checkpoint that writes it ends"),
            Some(Condition::Waiting) => self.waiting -= 1,
            None => {}
        }
        self.by_block.remove(&self.slots[slot as usize].block);
        self.put_back(slot);
    }

    /// A slot without a block, and not evictable, is free.
    fn put_back(&mut self, slot: Slot) {
        self.slots[slot as usize].state = State::Free;
        self.kept -= 1;
        self.free.push(slot);
    }

    /// Calls `act` for each slot of a block in `extent`.
    fn each(&mut self, extent: Extent, mut act: impl FnMut(&mut Stage, Slot)) {
        if self.by_block.is_empty() {
            return;
        }
        for block in extent.block..extent.block + extent.blocks {
            if let Some(&slot) = self.by_block.get(&block) {
                act(self, slot);
            }
        }
    }

    /// Gives back the memory that only a replay needed, as far as it lies at the end and is clean.
    fn shrink(&mut self) {
        let most = self.memory.stage_most() * FRAME_SLOTS;
        let before = self.slots.len() as u32;
        while self.slots.len() as u32 > most {
            let last = self.slots.len() as Slot - 1;
            match self.slots[last as usize].state {
                State::Free => {}
                _ if self.condition(last) == Some(Condition::Clean) => self.drop_slot(last),
                _ => break,
            }
            self.slots.pop();
        }
        // Whole frames only.
        while !(self.slots.len() as u32).is_multiple_of(FRAME_SLOTS) {
            self.slots.push(Entry { block: 0, state: State::Free, touched: Cell::new(false) });
        }
        let after = self.slots.len() as u32;
        if after < before {
            self.free = (0..after).filter(|slot| self.slots[*slot as usize].state == State::Free).collect();
            self.hand = 0;
            self.memory.set_stage(after / FRAME_SLOTS);
            let arena = self.arena.as_ref().expect("there were slots");
            arena.discard(after / FRAME_SLOTS, (before - after) / FRAME_SLOTS);
        }
    }

    fn bytes(&self, slot: Slot) -> &[u8; BLOCK_BYTES] {
        // SAFETY: the address lies in the arena, which only this stage has; its memory is zero or was written
        // through `write`, which needs the stage exclusively, so nobody changes it while `self` is borrowed.
        unsafe { &*self.address(slot) }
    }

    fn write(&mut self, slot: Slot, bytes: &[u8]) {
        assert!(bytes.len() <= BLOCK_BYTES, "a staged payload fits a block");
        // SAFETY: as in `bytes`, and `&mut self` excludes every other reference to slots.
        let all = unsafe { &mut *self.address(slot) };
        let (head, tail) = all.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        tail.fill(0);
    }

    fn address(&self, slot: Slot) -> *mut [u8; BLOCK_BYTES] {
        assert!((slot as usize) < self.slots.len());
        let arena = self.arena.as_ref().expect("there is a slot");
        let frame = arena.page(slot / FRAME_SLOTS).cast::<[u8; BLOCK_BYTES]>();
        // SAFETY: a frame has room for `FRAME_SLOTS` blocks, and the offset is below that.
        unsafe { frame.add((slot % FRAME_SLOTS) as usize) }
    }
}

/// Block numbers are mostly consecutive: one multiplication spreads them.
#[derive(Default)]
pub(crate) struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, block: u32) {
        let mixed = (self.0 ^ block as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stage with room for `slots` slots, and all the memory it may have.
    fn stage(slots: u32) -> Stage {
        Stage::new(Rc::new(Memory::new(slots)), 1 << 20)
    }

    fn put(stage: &mut Stage, block: u32) -> bool {
        let slot = stage.promise(&[block as u8; 3000]);
        slot.inspect(|slot| stage.fill(*slot, block)).is_some()
    }

    fn one(block: u32) -> Extent {
        Extent { block, blocks: 1 }
    }

    fn written(stage: &Stage, frozen: &mut Frozen) -> Vec<(u32, usize)> {
        std::iter::from_fn(|| stage.next_run(frozen)).map(|(block, bytes)| (block, bytes.len() / BLOCK_BYTES)).collect()
    }

    #[test]
    fn a_checkpoint_writes_what_waits_in_runs_and_leaves_it_to_be_read() {
        let mut stage = stage(64);
        for block in [9, 7, 8, 20, 30] {
            assert!(put(&mut stage, block));
        }
        stage.release(one(20));
        assert!(stage.unwritten(20).is_some(), "who was told of it may still read it");
        let mut frozen = stage.freeze();
        assert!(put(&mut stage, 10), "what comes later waits for the next");
        stage.release(one(30));
        assert_eq!(stage.unwritten_count(), 5);
        let first = stage.next_run(&mut frozen).unwrap();
        assert_eq!((first.0, first.1.len()), (7, 3 * BLOCK_BYTES));
        assert!(first.1[..3000].iter().all(|&byte| byte == 7) && first.1[3000..4096].iter().all(|&byte| byte == 0));
        // Its release may be lost, so it is written all the same.
        assert_eq!(written(&stage, &mut frozen), [(30, 1)]);
        stage.finish();
        assert_eq!(stage.unwritten_count(), 1);
        assert!(stage.unwritten(7).is_none() && stage.get(7).unwrap()[0] == 7);
        for block in [20, 30] {
            stage.forget(one(block));
            assert!(stage.get(block).is_none());
        }
        let mut frozen = stage.freeze();
        assert_eq!(written(&stage, &mut frozen), [(10, 1)]);
        stage.finish();
        assert_eq!(stage.unwritten_count(), 0);
    }

    #[test]
    fn a_full_stage_refuses_until_a_checkpoint_and_then_evicts_what_nobody_reads() {
        let mut stage = stage(64);
        let most = stage.memory.stage_most() * FRAME_SLOTS;
        let count = (0..).take_while(|block| put(&mut stage, *block)).count() as u32;
        assert_eq!(count, most);
        assert!(stage.is_filling());
        let mut frozen = stage.freeze();
        assert_eq!(written(&stage, &mut frozen).iter().map(|(_, blocks)| blocks).sum::<usize>() as u32, count);
        assert!(!put(&mut stage, 1000), "the log is needed for all of them until the checkpoint is durable");
        stage.finish();
        stage.get(1).unwrap();
        for block in 1000..1000 + count - 1 {
            assert!(put(&mut stage, block));
        }
        assert!(stage.get(1).is_some(), "the one that was read stayed longest");
        let usage = stage.usage();
        assert_eq!((usage.blocks, usage.memory_bytes), (count as u64, count as u64 * BLOCK_BYTES as u64));
    }

    /// Whatever comes in whatever order, a slot is somewhere once, and counts are right.
    #[test]
    fn slots_are_never_lost() {
        let mut stage = stage(64);
        let (mut blocks, mut released) = (Vec::new(), Vec::new());
        let mut frozen: Option<(Frozen, usize)> = None;
        let mut random = 5u64;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % bound
        };
        for step in 0..20_000u32 {
            match below(8) {
                0..=2 if put(&mut stage, step) => blocks.push(step),
                3 if step % 2 == 0 => {
                    stage.keep(step, &[1; 4096]);
                    if stage.by_block.contains_key(&step) {
                        blocks.push(step);
                    }
                }
                3 => {
                    let slot = stage.promise(&[1; 2100]);
                    slot.into_iter().for_each(|slot| stage.cancel(slot));
                }
                4 if !blocks.is_empty() => {
                    let block = blocks.swap_remove(below(blocks.len()));
                    stage.release(one(block));
                    released.push((block, frozen.is_some()));
                }
                5 if frozen.is_none() => frozen = Some((stage.freeze(), released.len())),
                6 => {
                    if let Some((mut all, _)) = frozen.take() {
                        written(&stage, &mut all);
                        stage.finish();
                        released.drain(..).for_each(|(block, _)| stage.forget(one(block)));
                    }
                }
                _ => {
                    if let Some((block, false)) = released.last().copied().filter(|_| frozen.is_none()) {
                        released.pop();
                        stage.forget(one(block));
                    }
                }
            }
            let count = |wanted: Condition| {
                (0..stage.slots.len() as u32).filter(|slot| stage.condition(*slot) == Some(wanted)).count() as u32
            };
            let free = stage.slots.iter().filter(|entry| entry.state == State::Free).count();
            assert_eq!((stage.waiting, stage.writing), (count(Condition::Waiting), count(Condition::Writing)));
            assert_eq!((free, stage.slots.len() - free), (stage.free.len(), stage.by_block.len()));
            assert_eq!(stage.kept + count(Condition::Clean), stage.by_block.len() as u32);
            assert!(stage.slots.len() as u32 <= stage.memory.stage_most() * FRAME_SLOTS);
        }
    }
}

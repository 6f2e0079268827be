//! A checkpoint: everything up to one log position, written to new places, then made the newest by one
//! superblock.
//!
//! ```text
//!  begin     freeze pages, space and root at log position C                       (one moment, O(1))
//!  Flush     wait until the log is durable up to C                                (K7)
//!  Stage     staged values to their blocks, a run at a time; a data region apart: sync
//!  Pages     changed pages to new blocks, a run at a time
//!  Map       map pages that name them, to new blocks
//!  Bitmap    changed bitmap pages, each into its other slot
//!  Root      the blob that names map and bitmap pages, to new blocks;             sync
//!  Copy 0    superblock, first copy;                                              sync
//!  Copy 1    superblock, second copy;                                             sync
//!  Free      the log is cut at C; blocks of the former checkpoint become free
//!  Drain     so does what waited for this checkpoint
//! ```
//!
//! Until Copy 0 is whole, the former checkpoint and the log after it say everything; nothing of theirs was
//! overwritten. After it, the new one does. So a crash anywhere is harmless.
//!
//! The order is decided here, step by step, without waiting; a driver does what each [`Step`] says. There
//! are two drivers: a task in service, and a plain loop at format, at a clean stop and in tests.

use std::collections::VecDeque;

use rt::disk::IoBuf;
use zerocopy::IntoBytes;

use crate::error::Failed;
use crate::log::Lsn;
use crate::page::{KIND_BITMAP, PAGE_BYTES, Seal, seal};
use crate::region::BLOCK_BYTES;
use crate::root::{self, Part, Root};
use crate::space::{Change, Extent, PAGE_BLOCKS, SLICE_FREED, bitmap};
use crate::stage;
use crate::store::Shared;
use crate::superblock::{Anchor, COPIES};

/// Pages copied in one step: some 50 us of copying and checksums, one device write of 512 KiB.
const SLICE_PAGES: usize = 64;
/// Bitmap changes applied in one step.
const SLICE_CHANGES: usize = 2048;

/// What the driver does before it asks for the next step.
pub(crate) enum Step {
    /// Wait until the log is durable up to here.
    Flush(Lsn),
    /// Write whole blocks of the region with the pages.
    Write {
        block: u32,
        buffer: IoBuf,
    },
    /// Sync that region.
    Sync,
    /// Write whole blocks of bulk data.
    WriteData {
        block: u32,
        buffer: IoBuf,
    },
    /// Sync the region with bulk data.
    SyncData,
    /// Let others run.
    Pause,
    Done,
}

enum Phase {
    Flush,
    Stage(stage::Frozen),
    Pages,
    /// Map pages left to write.
    Map(VecDeque<u32>),
    Bitmap(BitmapPhase),
    /// Root blocks left to write.
    Root(usize),
    /// Superblock copy to write next.
    Copy(u32),
    /// Superblock copy to sync next.
    SyncCopy(u32),
    Free,
    /// Steps left of freeing what waited for this checkpoint, at most.
    Drain(usize),
}

enum BitmapPhase {
    /// Changes up to the freeze left to apply.
    Changes(usize),
    Pages(VecDeque<u32>),
}

/// A checkpoint under way.
pub(crate) struct Checkpoint {
    lsn: Lsn,
    anchor: Anchor,
    root: Root,
    phase: Phase,
    changes: Vec<Change>,
    /// What was staged before the freeze.
    staged: stage::Frozen,
    /// Pages in the write that the driver is doing.
    copying: Vec<u32>,
    /// Blocks this checkpoint took, and those only the former one needs.
    taken: Vec<Extent>,
    given_up: Vec<Extent>,
    /// Both superblocks are durable.
    is_newest: bool,
    blob: Vec<u8>,
    root_blocks: Vec<u32>,
}

impl Checkpoint {
    /// Freezes the store as it is now.
    pub(crate) fn begin(shared: &Shared) -> Checkpoint {
        let lsn = shared.log.borrow_mut().boundary();
        let catalog = shared.catalog.borrow();
        let mut anchor = catalog.anchor;
        anchor.sequence += 1;
        anchor.checkpoint = lsn.0;
        anchor.log_start = anchor.incarnation;
        anchor.frames = shared.pages.borrow().frames_wanted();
        shared.end_run();
        // Behind the end of the run: a reservation would keep a fence from closing.
        anchor.data_bytes = shared.size_of_checkpoint();
        shared.pages.borrow_mut().freeze(anchor.sequence);
        let changes = shared.space.borrow_mut().freeze();
        let staged = shared.stage.borrow_mut().freeze();
        let mut root = Root { owner: catalog.owner.clone(), ..catalog.root.clone() };
        // Slot 1 as the present one of bitmap pages that come, as at format.
        let bitmaps = bitmap::page_count(shared.regions.blocks_with(anchor.data_bytes));
        root.bitmaps.resize(bitmaps as usize, Part { at: 1, crc: 0 });
        Checkpoint {
            lsn,
            anchor,
            root,
            phase: Phase::Flush,
            changes,
            staged,
            copying: Vec::new(),
            taken: Vec::new(),
            given_up: Vec::new(),
            is_newest: false,
            blob: Vec::new(),
            root_blocks: Vec::new(),
        }
    }

    /// What to do next, once the former step is done.
    ///
    /// # Errors
    /// `Failed`: no blocks left. The allocator keeps enough in reserve, so this is a bug, but one that
    /// must stop the store rather than the process.
    pub(crate) fn step(&mut self, shared: &Shared) -> Result<Step, Failed> {
        if !self.copying.is_empty() {
            shared.pages.borrow_mut().copied(&self.copying);
            self.copying.clear();
        }
        loop {
            match &mut self.phase {
                Phase::Flush => {
                    self.phase = Phase::Stage(std::mem::take(&mut self.staged));
                    return Ok(Step::Flush(self.lsn));
                }
                Phase::Stage(frozen) => {
                    if let Some((block, buffer)) = shared.stage.borrow().next_run(frozen) {
                        return Ok(Step::WriteData { block, buffer });
                    }
                    let is_any = frozen.is_any();
                    self.phase = Phase::Pages;
                    // One region has one sync, before the superblock.
                    if is_any && shared.regions.metadata.is_some() {
                        return Ok(Step::SyncData);
                    }
                }
                Phase::Pages => match self.write_pages(shared)? {
                    Some(step) => return Ok(step),
                    None => self.phase = Phase::Map(shared.pages.borrow_mut().frozen_map().into_iter().collect()),
                },
                Phase::Map(queue) => match queue.pop_front() {
                    Some(index) => {
                        if let Some(step) = self.write_map(shared, index)? {
                            return Ok(step);
                        }
                    }
                    None => {
                        self.place_root(shared)?;
                        self.phase = Phase::Bitmap(BitmapPhase::Changes(0));
                    }
                },
                Phase::Bitmap(BitmapPhase::Changes(next)) => {
                    let end = (*next + SLICE_CHANGES).min(self.changes.len());
                    let mut space = shared.space.borrow_mut();
                    for change in &self.changes[*next..end] {
                        match *change {
                            Change::Allocated(extent) => space.image_mut().set(extent),
                            Change::Released(extent) => space.image_mut().clear(extent),
                        }
                    }
                    *next = end;
                    if end == self.changes.len() {
                        space.image_mut().resize(shared.regions.blocks_with(self.anchor.data_bytes));
                        let changed = space.image_mut().take_changed();
                        self.phase = Phase::Bitmap(BitmapPhase::Pages(changed.into_iter().collect()));
                    }
                    return Ok(Step::Pause);
                }
                Phase::Bitmap(BitmapPhase::Pages(queue)) => match queue.pop_front() {
                    Some(index) => return Ok(self.write_bitmap(shared, index)),
                    None => {
                        // Map parts and bitmap parts are known now; their number was when blocks were placed.
                        self.blob = self.root.encode();
                        assert_eq!(root::block_count(self.blob.len()), self.root_blocks.len());
                        self.anchor.root_block = self.root_blocks[0];
                        self.anchor.root_bytes = self.blob.len() as u32;
                        self.anchor.root_crc = codec::crc32c(&self.blob);
                        self.phase = Phase::Root(0);
                    }
                },
                Phase::Root(index) => {
                    let Some(&block) = self.root_blocks.get(*index) else {
                        self.phase = Phase::Copy(0);
                        return Ok(Step::Sync);
                    };
                    let sequence = self.anchor.sequence;
                    let bytes = root::encode_block(&self.blob, *index, &self.root_blocks, shared.tag, sequence);
                    *index += 1;
                    return Ok(Step::Write { block, buffer: IoBuf::from_slice(bytes.as_bytes()) });
                }
                Phase::Copy(copy) => {
                    let copy = *copy;
                    let bytes = self.anchor.encode(copy);
                    self.phase = Phase::SyncCopy(copy);
                    return Ok(Step::Write { block: copy, buffer: IoBuf::from_slice(bytes.as_bytes()) });
                }
                Phase::SyncCopy(copy) => {
                    let next = *copy + 1;
                    self.phase = if next < COPIES { Phase::Copy(next) } else { Phase::Free };
                    return Ok(Step::Sync);
                }
                Phase::Free => {
                    if !self.is_newest {
                        self.become_newest(shared);
                    }
                    let mut space = shared.space.borrow_mut();
                    for extent in self.given_up.drain(self.given_up.len().saturating_sub(SLICE_FREED)..) {
                        space.free_from_checkpoint(extent);
                    }
                    if self.given_up.is_empty() {
                        space.finish();
                        self.phase = Phase::Drain(space.quarantined_extents() / SLICE_FREED + 1);
                    }
                    return Ok(Step::Pause);
                }
                Phase::Drain(left) => {
                    if *left > 0 && shared.drain() {
                        *left -= 1;
                        return Ok(Step::Pause);
                    }
                    shared.pages.borrow_mut().thaw();
                    return Ok(Step::Done);
                }
            }
        }
    }

    fn write_pages(&mut self, shared: &Shared) -> Result<Option<Step>, Failed> {
        assert!(shared.log.borrow().durable() >= self.lsn, "K7: no page goes before its log");
        let mut pages = shared.pages.borrow_mut();
        if self.copying.is_empty() {
            self.copying = pages.next_frozen(SLICE_PAGES);
        }
        if self.copying.is_empty() {
            return Ok(None);
        }
        let run =
            shared.space.borrow_mut().allocate_pages(self.copying.len() as u32).ok_or_else(|| no_blocks(shared))?;
        let count = (run.blocks / PAGE_BLOCKS) as usize;
        // A short run takes the first pages; the others wait their turn.
        let rest = self.copying.split_off(count);
        pages.put_back(&rest);
        let mut buffer = IoBuf::for_read(count * PAGE_BYTES);
        for (index, (&id, bytes)) in self.copying.iter().zip(buffer.chunks_exact_mut(PAGE_BYTES)).enumerate() {
            pages.copy_frozen(id, run.block + index as u32 * PAGE_BLOCKS, self.lsn.0, bytes);
        }
        self.taken.push(run);
        Ok(Some(Step::Write { block: run.block, buffer }))
    }

    fn write_map(&mut self, shared: &Shared, index: u32) -> Result<Option<Step>, Failed> {
        let maps = &mut self.root.maps;
        if maps.len() <= index as usize {
            maps.resize(index as usize + 1, Part { at: 0, crc: 0 });
        }
        let old = maps[index as usize].at;
        if old != 0 {
            self.given_up.push(Extent { block: old, blocks: PAGE_BLOCKS });
        }
        let mut buffer = IoBuf::for_read(PAGE_BYTES);
        if !shared.pages.borrow().copy_map(index, self.lsn.0, &mut buffer) {
            maps[index as usize] = Part { at: 0, crc: 0 };
            return Ok(None);
        }
        let run = shared.space.borrow_mut().allocate_pages(1).ok_or_else(|| no_blocks(shared))?;
        maps[index as usize] = Part { at: run.block, crc: stored_crc(&buffer) };
        self.taken.push(run);
        Ok(Some(Step::Write { block: run.block, buffer }))
    }

    /// Takes blocks for the root blob, whose length is known before its content. From here on this
    /// checkpoint takes no block any more, so the bitmap can be written.
    fn place_root(&mut self, shared: &Shared) -> Result<(), Failed> {
        let superseded = shared.pages.borrow_mut().superseded();
        self.given_up.extend(superseded.into_iter().map(|block| Extent { block, blocks: PAGE_BLOCKS }));
        let catalog = shared.catalog.borrow();
        self.given_up.extend(catalog.root_blocks.iter().map(|&block| Extent { block, blocks: 1 }));
        let mut space = shared.space.borrow_mut();
        for _ in 0..root::block_count(self.root.encode().len()) {
            let block = space.allocate_block().ok_or_else(|| no_blocks(shared))?;
            self.root_blocks.push(block);
            self.taken.push(Extent { block, blocks: 1 });
        }
        self.changes.extend(self.taken.drain(..).map(Change::Allocated));
        self.changes.extend(self.given_up.iter().copied().map(Change::Released));
        Ok(())
    }

    fn write_bitmap(&mut self, shared: &Shared, index: u32) -> Step {
        let part = &mut self.root.bitmaps[index as usize];
        let slot = 1 - part.at;
        let mut buffer = IoBuf::for_read(PAGE_BYTES);
        shared.space.borrow_mut().image_mut().store(index, &mut buffer);
        let checkpoint = self.anchor.sequence;
        seal(&mut buffer, Seal { page: index, kind: KIND_BITMAP, lsn: self.lsn.0, store: shared.tag, checkpoint });
        *part = Part { at: slot, crc: stored_crc(&buffer) };
        Step::Write { block: bitmap::slot_block(index, slot as u8), buffer }
    }

    /// Recovery begins here from now on.
    fn become_newest(&mut self, shared: &Shared) {
        self.is_newest = true;
        let mut catalog = shared.catalog.borrow_mut();
        catalog.anchor = self.anchor;
        catalog.root = std::mem::take(&mut self.root);
        catalog.root_blocks = std::mem::take(&mut self.root_blocks);
        shared.log.borrow_mut().truncate(self.lsn, self.anchor.sequence);
        // No log is needed any more for what was staged.
        shared.stage.borrow_mut().finish();
        shared.maps_moved.set(0);
        if self.anchor.data_bytes != shared.regions.data.bytes() {
            shared.regions.data.set_bytes(self.anchor.data_bytes);
            shared.space.borrow_mut().resize(shared.regions.blocks());
        }
    }
}

fn stored_crc(page: &[u8]) -> u32 {
    u32::from_le_bytes([page[0], page[1], page[2], page[3]])
}

#[cold]
fn no_blocks(shared: &Shared) -> Failed {
    Failed {
        device: shared.regions.page_device(),
        cause: "no blocks left for a checkpoint, in spite of the reserve".into(),
    }
}

const _: () = assert!(BLOCK_BYTES == 4096, "superblock copies and root links are one block each");

//! Resizing: the data region gets larger or smaller while the store is in service.
//!
//! # Growing
//! The file is extended, or the device was; then one checkpoint carries the new size. Blocks that come are free
//! when that checkpoint is durable, and not before: replay from an older superblock would meet them outside.
//!
//! # Shrinking
//! ```text
//! fence      from the new size on nothing is taken any more: its border comes down in steps
//! move       the owner moves its bulk data, move_pages and move_maps what is the store's own;
//!            what is freed waits for readers and checkpoints, as ever
//! cut        when nobody has a block behind the fence: one checkpoint with the smaller size
//! trim       only then the file is cut off
//! ```
//! A fence is memory only: a crash before the cut leaves the old size, and one behind it the new. Until the cut it
//! may be lifted at any time, also on its way down, and it is when a writer finds no room otherwise. It goes up in
//! steps too; a writer in need does as many as it needs, and what is left is done by whoever resizes.
//!
//! # Always true
//! 1. Every block that a superblock's pages and log name lies within the size that it says.
//! 2. The file is never shorter than the newest durable superblock says, nor the one before it.
//! 3. No request is refused for want of room while blocks are fenced and not about to be cut off: it is `Busy` until
//!    the last of them is lifted.
//!
//! # Not here
//! What bulk blocks belong to, and so moving them: `vos`. Metadata with a region of its own cannot be resized:
//! the blocks of data follow its blocks in the numbering.

use crate::error::{Device, Error, ResizeError, Result};
use crate::log::Reserve;
use crate::page::PageId;
use crate::recover::{data_bytes_max, data_bytes_min};
use crate::region::BLOCK_BYTES;
use crate::space::{Extent, NoRoom, PAGE_BLOCKS, Survey};
use crate::store::{Shared, Store};

/// Pages that one step of [`Store::move_pages`] goes past, and those it reads and changes.
const PAGES_LOOKED_AT: usize = 4096;
const PAGES_MOVED: usize = 16;
/// Free runs that the border of a fence passes in one step: each leaves two search trees and enters two others, which
/// is some microsecond when there are millions.
const SLICE_FENCED: usize = 256;
/// Free runs that one step of a question looks at: it only reads one tree.
const SLICE_SURVEYED: usize = 4096;
/// A file is extended in steps of so many bytes, so that others run in between.
const EXTEND_BYTES: u64 = 1 << 30;
/// Pages that a shared region needs behind superblocks and bitmap, to be one at all.
const BLOCKS_LEFT_MIN: u32 = 256;

/// Who says how large the file or device below the data region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// It is the region's own file: made longer, with its space reserved, and cut off.
    File,
    /// As `File`, but space is taken only as it fills.
    Thin,
    /// Somebody else: a device, or a file with other things in it.
    Device,
}

/// A data region that is being shrunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// Its size to be.
    pub bytes: u64,
    /// Bytes behind that which somebody still has; while the fence moves, those that its border has passed.
    pub held: u64,
}

impl Store {
    /// Size of the data region, by the newest checkpoint.
    pub fn data_bytes(&self) -> u64 {
        self.shared.regions.data.bytes()
    }

    /// Size that the data region can grow to: so far reaches the bitmap that was laid out with it.
    pub fn data_bytes_max(&self) -> u64 {
        data_bytes_max(&self.shared.regions, self.shared.catalog.borrow().anchor.bitmaps)
    }

    /// Grows the data region to `bytes`, in whole blocks. Does nothing when it has as many. Lifts a fence.
    ///
    /// # Errors
    /// - `Resize`: it cannot have that size, or the file cannot be extended. Nothing changed.
    /// - `Failed`, `Stopped`.
    pub async fn grow(&self, bytes: u64, backing: Backing) -> Result<()> {
        let shared = &*self.shared;
        shared.running()?;
        self.lift_fence();
        let bytes = whole_blocks(bytes);
        if bytes <= self.data_bytes() {
            return Ok(());
        }
        self.check_size(bytes)?;
        self.extend(bytes, backing).await?;
        // The length of the file before the superblock that relies on it.
        let data = &shared.regions.data;
        if self.is_started() {
            let limit = shared.watch.limit.get();
            data.sync(limit).await.map_err(|trouble| shared.failed_by(Device::Data, trouble))?;
        } else {
            data.sync_now().map_err(|cause| shared.fail(Device::Data, cause))?;
        }
        self.checkpoint_with(bytes).await
    }

    /// Begins to shrink the data region to `bytes`, in whole blocks: a fence is to stand there, and comes by
    /// [`Store::move_fence`]. An earlier one goes there from where it is.
    ///
    /// # Errors
    /// - `Resize(TooSmall | TooFull)`, with figures: it cannot be in any case. `Resize(UnderWay)`. Nothing changed.
    /// - `Failed`, `Stopped`.
    pub fn fence(&self, bytes: u64) -> Result<()> {
        let shared = &*self.shared;
        shared.running()?;
        let bytes = whole_blocks(bytes);
        self.check_size(bytes)?;
        if shared.space.borrow().is_sealed() {
            return Err(ResizeError::UnderWay.into());
        }
        if bytes >= self.data_bytes() {
            self.lift_fence();
            return Ok(());
        }
        let limit = shared.regions.blocks_with(bytes);
        // What is set aside for the stage counts as somebody's.
        shared.end_run();
        let demand = shared.page_demand();
        shared.space.borrow_mut().fence(limit, demand).map_err(too_full)
    }

    /// One step of a fence towards where it is to stand, or to be gone. True: there is more to do. False: it stands,
    /// or there is none: [`Store::fenced`] says which.
    ///
    /// Cost: bounded, some 0.3 ms when there are millions of free runs.
    ///
    /// # Errors
    /// - `Resize(TooFull)`, with figures: what is held has no room before it. It stays where it has come to, until a
    ///   later step finds that a checkpoint has made room, or it is lifted.
    /// - `Failed`, `Stopped`.
    pub fn move_fence(&self) -> Result<bool> {
        let shared = &*self.shared;
        shared.running()?;
        if shared.lift_some() {
            return Ok(shared.is_lifting());
        }
        let demand = shared.page_demand();
        shared.space.borrow_mut().move_border(slice_fenced(), demand).map_err(too_full)
    }

    /// Whether a fence was lifted, and [`Store::move_fence`] is to be called until it is gone.
    pub fn is_lifting(&self) -> bool {
        self.shared.is_lifting()
    }

    /// Whether the data region could get so many bytes now: what [`Store::grow`] and [`Store::fence`] with what
    /// follows would say, but for what the file or device says. A fence that stands or moves is left alone.
    ///
    /// Cost: that of sums; on a device whose free space is in many pieces and that is to be nearly full, a look at
    /// each piece, in bounded steps between which others run.
    ///
    /// # Errors
    /// As [`Store::fence`]; `Resize(TooLarge)`.
    pub async fn may_resize(&self, bytes: u64) -> Result<()> {
        let shared = &*self.shared;
        let bytes = whole_blocks(bytes);
        self.check_size(bytes)?;
        let mut survey = Survey::of(shared.regions.blocks_with(bytes));
        loop {
            shared.running()?;
            if shared.space.borrow().is_sealed() {
                return Err(ResizeError::UnderWay.into());
            }
            if bytes >= self.data_bytes() {
                return Ok(());
            }
            shared.end_run();
            let demand = shared.page_demand();
            let step = shared.space.borrow().survey(&mut survey, SLICE_SURVEYED, demand);
            if !step.map_err(too_full)? {
                return Ok(());
            }
            if self.is_started() {
                rt::yield_now().await;
            }
        }
    }

    /// Gives up shrinking: what is free behind the fence can be taken again, when [`Store::move_fence`] has lifted
    /// it, or as soon as somebody needs it. False when there was no fence, or it is too late.
    pub fn lift_fence(&self) -> bool {
        self.shared.space.borrow_mut().lift_fence()
    }

    /// What the data region is being shrunk to; `None` when it is not, or a writer needed the room.
    pub fn fenced(&self) -> Option<Fenced> {
        let space = self.shared.space.borrow();
        let limit = space.fence_at()?;
        let bytes = self.shared.regions.data_bytes_of(limit);
        Some(Fenced { bytes, held: space.held() * BLOCK_BYTES as u64 })
    }

    /// Whether a part of `extent` lies where the blocks are to go.
    pub fn is_behind_fence(&self, extent: Extent) -> bool {
        self.shared.space.borrow().fence_at().is_some_and(|limit| extent.end() > u64::from(limit))
    }

    /// Makes the next checkpoint move pages from `from` on that lie behind the fence, a few at a time. Returns where
    /// to go on, `None` after the last page.
    ///
    /// Cost: some device reads of 8 KiB, done here and now.
    ///
    /// # Errors
    /// - `Busy`: wait for [`Store::relieved`], then retry. `NoSpace`.
    /// - `Corrupt`, `Read`: a page that cannot be read cannot be moved.
    pub fn move_pages(&self, from: PageId) -> Result<Option<PageId>> {
        let some: Vec<(PageId, u32)> = self.pages_ref().blocks_from(from).take(PAGES_LOOKED_AT + 1).collect();
        let next = some.get(PAGES_LOOKED_AT).map(|(id, _)| *id);
        let mut moved = 0;
        for (id, block) in some.into_iter().take(PAGES_LOOKED_AT) {
            if !self.is_behind_fence(Extent { block, blocks: PAGE_BLOCKS }) {
                continue;
            }
            if moved == PAGES_MOVED {
                return Ok(Some(id));
            }
            // Where a moved page goes must be there; nothing that moves is more urgent than a write.
            self.admit(Reserve::Normal)?;
            let mut pages = self.pages();
            pages.begin_op();
            pages.move_page(id)?;
            moved += 1;
        }
        Ok(next)
    }

    /// Makes the next checkpoint move map pages that lie behind the fence, as many as there is room for. Does
    /// nothing while a checkpoint runs. (The root blob has new blocks by every checkpoint.)
    pub fn move_maps(&self) {
        let shared = &*self.shared;
        if shared.quiet().is_none() {
            return;
        }
        let maps: Vec<(u32, u32)> = {
            let catalog = shared.catalog.borrow();
            (0..)
                .zip(&catalog.root.maps)
                .filter(|(_, part)| part.at != 0)
                .map(|(index, part)| (index, part.at))
                .collect()
        };
        for (index, block) in maps {
            if !self.is_behind_fence(Extent { block, blocks: PAGE_BLOCKS }) {
                continue;
            }
            if !shared.space.borrow().has_room(Reserve::Normal, shared.page_demand() + 1) {
                return;
            }
            self.pages().move_map(index);
            shared.maps_moved.set(shared.maps_moved.get() + 1);
        }
    }

    /// Ends shrinking, when nobody has a block behind the fence: makes the smaller size durable, and cuts the file
    /// off if it is the region's own. False when it is too early, or the fence is gone.
    ///
    /// # Errors
    /// `Failed`, `Stopped`.
    pub async fn cut(&self, backing: Backing) -> Result<bool> {
        let Some(limit) = self.shared.space.borrow().sealable() else { return Ok(false) };
        let bytes = self.shared.regions.data_bytes_of(limit);
        self.checkpoint_with(bytes).await?;
        let is_cut = self.data_bytes() == bytes;
        if is_cut {
            self.trim(backing);
        }
        Ok(is_cut)
    }

    /// Gives the end of the region's own file back that no superblock speaks of: one is left behind by a crash
    /// between a cut and its end, or by growing that failed.
    pub fn trim(&self, backing: Backing) {
        let data = &self.shared.regions.data;
        let end = data.base + data.bytes();
        if backing == Backing::Device || data.disk.len().is_ok_and(|bytes| bytes <= end) {
            return;
        }
        if let Err(error) = data.disk.set_len(end) {
            tracing::warn!(%error, "a file keeps the end that was cut off");
        }
    }

    fn check_size(&self, bytes: u64) -> std::result::Result<(), ResizeError> {
        let regions = &self.shared.regions;
        let area = self.shared.space.borrow().area();
        let least = if area.bulk == 0 { regions.data_bytes_of(area.first + BLOCKS_LEFT_MIN) } else { 0 };
        let bytes_min = least.max(data_bytes_min(regions));
        let bytes_max = self.data_bytes_max();
        match bytes {
            _ if bytes < bytes_min => Err(ResizeError::TooSmall { bytes, bytes_min }),
            _ if bytes > bytes_max => Err(ResizeError::TooLarge { bytes, bytes_max }),
            _ => Ok(()),
        }
    }

    /// Sees to it that the file or device has the bytes.
    async fn extend(&self, bytes: u64, backing: Backing) -> Result<()> {
        let data = &self.shared.regions.data;
        let failed = |cause: &dyn std::fmt::Display| {
            Error::from(ResizeError::Extend { region: data.name(), cause: cause.to_string().into() })
        };
        let needed = data.base + bytes;
        let mut there = data.disk.len().map_err(|error| failed(&error))?;
        if backing == Backing::Device {
            let bytes = there.saturating_sub(data.base);
            let short = ResizeError::Device { region: data.name(), bytes, needed: needed - data.base };
            return if there < needed { Err(short.into()) } else { Ok(()) };
        }
        while there < needed {
            let step = needed.min(there + EXTEND_BYTES);
            let extended = match backing {
                Backing::Thin => data.disk.set_len(step),
                _ => data.disk.allocate(step),
            };
            if let Err(error) = extended {
                self.trim(backing);
                return Err(failed(&error));
            }
            there = step;
            if there < needed && self.is_started() {
                rt::yield_now().await;
            }
        }
        Ok(())
    }

    /// A checkpoint that carries the size, if it may.
    async fn checkpoint_with(&self, bytes: u64) -> Result<()> {
        self.shared.resize.set(Some(bytes));
        let done = self.checkpoint_now().await;
        self.shared.resize.set(None);
        done
    }
}

impl Shared {
    /// The size of the data region that a checkpoint which begins now carries.
    pub(crate) fn size_of_checkpoint(&self) -> u64 {
        let now = self.regions.data.bytes();
        match self.resize.get() {
            Some(bytes) if bytes > now => bytes,
            Some(bytes) if bytes < now && self.space.borrow_mut().seal_fence(self.regions.blocks_with(bytes)) => bytes,
            _ => now,
        }
    }

    /// For somebody who finds no room: lifts the fence, by one step. True when it did one: there may be room now, and
    /// more by the next while [`Shared::is_lifting`].
    pub(crate) fn lift_for_room(&self) -> bool {
        self.space.borrow_mut().lift_fence();
        self.lift_some()
    }

    /// One step of a fence that was lifted.
    pub(crate) fn lift_some(&self) -> bool {
        let mut space = self.space.borrow_mut();
        if !space.is_lifting() {
            return false;
        }
        space.raise(slice_fenced());
        drop(space);
        self.relieved.wake();
        true
    }

    pub(crate) fn is_lifting(&self) -> bool {
        self.space.borrow().is_lifting()
    }
}

fn slice_fenced() -> usize {
    // So that a small store has a middle, too.
    if rt::fault!("media.fence.slice") { 3 } else { SLICE_FENCED }
}

fn too_full(NoRoom { held, room }: NoRoom) -> Error {
    let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
    ResizeError::TooFull { held: bytes(held), room: bytes(room) }.into()
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
}

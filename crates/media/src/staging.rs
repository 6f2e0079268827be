//! Staged values: small bulk data whose bytes travel in the log record, so that an update costs one log write,
//! and no page and no data write.
//!
//! ```text
//! let mut staging = store.staging();
//! staging.add(bytes) -> block;                         as often as there are payloads worth it
//! append(kind, record with block and bytes) -> lsn;    one synchronous step: no await
//! staging.commit()                                     allocated, and readable at once
//! ```
//!
//! Whoever replays such a record says so with [`Store::restage`].

use std::cell::Ref;

use crate::error::{Device, Error, Failed, Result};
use crate::log::Lsn;
use crate::region::BLOCK_BYTES;
use crate::space::{Extent, PinGuard};
use crate::stage::{Slot, Stage};
use crate::store::{Shared, Store};

/// Blocks set aside at once for payloads to come: at most, and of what is free one part in so many.
const RUN_BLOCKS: u64 = 64;
const RUN_PART: u64 = 64;

/// Payloads on their way to the stage, for one record. Dropped before [`Staging::commit`], nothing happened.
pub struct Staging<'a> {
    shared: &'a Shared,
    first: Option<(u32, Slot)>,
    others: Vec<(u32, Slot)>,
}

impl Staging<'_> {
    /// Takes a payload of [`crate::STAGED_BYTES_MIN`] to [`crate::STAGED_BYTES_MAX`] bytes, and says which block
    /// it gets. `None`: memory or blocks are short, and it must go another way.
    ///
    /// Cost: a copy; never waits.
    pub fn add(&mut self, bytes: &[u8]) -> Option<u32> {
        let shared = self.shared;
        if !shared.is_running() || rt::fault!("media.stage") {
            return None;
        }
        let mut stage = shared.stage.borrow_mut();
        let Some(slot) = stage.promise(bytes) else {
            shared.want_checkpoint();
            return None;
        };
        let Some(block) = stage.next_block().or_else(|| shared.next_run(&mut stage)) else {
            stage.cancel(slot);
            return None;
        };
        match self.first {
            None => self.first = Some((block, slot)),
            Some(_) => self.others.push((block, slot)),
        }
        Some(block)
    }

    /// The record that names the blocks and has their bytes was appended: the blocks are the owner's.
    pub fn commit(mut self) {
        let taken = self.first.take().into_iter().chain(std::mem::take(&mut self.others));
        let (mut stage, mut space) = (self.shared.stage.borrow_mut(), self.shared.space.borrow_mut());
        for (block, slot) in taken {
            space.commit(Extent { block, blocks: 1 });
            stage.fill(slot, block);
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let Some(first) = self.first.take() else { return };
        let (mut stage, mut space) = (self.shared.stage.borrow_mut(), self.shared.space.borrow_mut());
        for (block, slot) in std::iter::once(first).chain(self.others.drain(..)) {
            stage.cancel(slot);
            space.cancel(Extent { block, blocks: 1 });
        }
        drop((stage, space));
        self.shared.relieved.wake();
    }
}

impl Store {
    /// Begins to stage payloads of one record.
    #[inline]
    pub fn staging(&self) -> Staging<'_> {
        Staging { shared: &self.shared, first: None, others: Vec::new() }
    }

    /// Replay: the record being applied says that `block` is allocated, and what its bytes are.
    ///
    /// # Errors
    /// - `Corrupt`: it cannot be allocated.
    /// - `Failed`: the system refuses memory.
    pub fn restage(&self, block: u32, bytes: &[u8]) -> Result<()> {
        if bytes.len() > BLOCK_BYTES {
            return Err(Error::TooLarge { bytes: bytes.len() as u64, bytes_max: BLOCK_BYTES as u64 });
        }
        let extent = Extent { block, blocks: 1 };
        let mut space = self.shared.space.borrow_mut();
        if !space.area().is_bulk(extent) {
            return Err(crate::space::wrong(extent, "staged outside the region"));
        }
        space.mark_allocated(extent)?;
        drop(space);
        let is_held = self.shared.stage.borrow_mut().restage(block, bytes);
        let no_memory = || Failed { device: Device::Log, cause: "no memory for the values that it holds".into() };
        is_held.then_some(()).ok_or_else(|| no_memory().into())
    }

    /// The bytes of a bulk value of one block, padded with zero, when they are in memory. They may be on the
    /// device as well; [`Store::bulk_read`] asks the device whenever it has them.
    ///
    /// Cost: some 20 ns; never waits.
    #[inline]
    pub fn staged(&self, extent: Extent) -> Option<Ref<'_, [u8; BLOCK_BYTES]>> {
        if extent.blocks != 1 {
            return None;
        }
        Ref::filter_map(self.shared.stage.borrow(), |stage| stage.get(extent.block)).ok()
    }
}

impl Store {
    /// Keeps the bytes of a bulk value of one block in memory, for the next reader. They were read from the device
    /// under `pin`, and verified.
    pub fn keep(&self, extent: Extent, bytes: &[u8], _pin: &PinGuard) {
        if extent.blocks == 1 && bytes.len() <= BLOCK_BYTES {
            // The pin keeps the block from being reused, so what was read is still what it holds.
            self.shared.stage.borrow_mut().keep(extent.block, bytes);
        }
    }
}

impl Shared {
    /// Sets a run of blocks aside for the stage, and takes the first.
    #[cold]
    fn next_run(&self, stage: &mut Stage) -> Option<u32> {
        let demand = self.page_demand();
        let mut space = self.space.borrow_mut();
        let blocks = (space.free_for_bulk(demand) / RUN_PART).clamp(1, RUN_BLOCKS);
        let mut pieces = space.reserve(blocks * BLOCK_BYTES as u64, demand).ok()?.into_iter();
        let first = pieces.next()?;
        pieces.for_each(|piece| space.cancel(piece));
        stage.set_run(first);
        stage.next_block()
    }

    /// Gives back what is left of the run that was set aside: when a checkpoint begins, so that a store at rest
    /// holds nothing back, and when somebody else finds no room.
    pub(crate) fn end_run(&self) {
        let run = self.stage.borrow_mut().take_run();
        run.into_iter().for_each(|run| self.space.borrow_mut().cancel(run));
    }

    /// The record at `lsn` gives `extent` up.
    pub(crate) fn release(&self, extent: Extent, lsn: Lsn) -> Result<()> {
        let (mut space, mut stage) = (self.space.borrow_mut(), self.stage.borrow_mut());
        space.release(extent, lsn)?;
        if space.is_live() {
            stage.release(extent)
        } else {
            stage.forget(extent)
        }
        Ok(())
    }

    /// Frees some of what may leave quarantine. True: there may be more, call again.
    pub(crate) fn drain(&self) -> bool {
        let durable = self.log.borrow().durable();
        let mut stage = self.stage.borrow_mut();
        self.space.borrow_mut().drain(durable, &mut |extent| stage.forget(extent))
    }
}

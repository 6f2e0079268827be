//! A store in service: the flusher and the checkpointer, and both of them as plain calls for stores whose tasks do
//! not run.
//!
//! # Not here
//! What a flush takes from the log (`log`), and in which order a checkpoint writes (`checkpoint`).

use std::rc::Rc;
use std::time::Duration;

use crate::checkpoint::{Checkpoint, Step};
use crate::error::{Device, Failed};
use crate::log::Lsn;
use crate::log::flush::FlushWork;
use crate::region::BLOCK_BYTES;
use crate::room::Synced;
use crate::store::{CHECKPOINT_INTERVAL, Durable, Phase, Shared};

/// How long what nobody waits for may stay off the device.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

impl Shared {
    pub(crate) fn flush_now(&self) -> std::result::Result<(), Failed> {
        self.not_failed()?;
        let taken = self.log.borrow_mut().take();
        let Some(work) = taken else { return Ok(()) };
        if self.bulk_unsynced.replace(false) {
            self.regions.data.sync_now().map_err(|cause| self.fail(Device::Data, cause))?;
        }
        let log = &self.regions.log;
        for (offset, bytes) in &work.writes {
            log.write_now(*offset, bytes).map_err(|cause| self.fail(Device::Log, cause))?;
        }
        log.sync_now().map_err(|cause| self.fail(Device::Log, cause))?;
        self.flushed(work);
        Ok(())
    }

    /// Whether a flush is a copy in memory: the log is mapped, and no bulk data must be synced before it.
    pub(crate) fn can_flush_inline(&self) -> bool {
        self.is_running()
            && self.regions.log.disk.is_mapped()
            && !self.bulk_unsynced.get()
            && !self.log.borrow().is_flushing()
    }

    async fn flush(&self) -> std::result::Result<(), Failed> {
        let limit = self.watch.limit.get();
        let taken = self.log.borrow_mut().take();
        let Some(mut work) = taken else { return Ok(()) };
        // Taken down before the sync begins: a bulk write that completes meanwhile belongs to a later record.
        if self.bulk_unsynced.replace(false) {
            self.regions.data.sync(limit).await.map_err(|trouble| self.failed_by(Device::Data, trouble))?;
        }
        let log = &self.regions.log;
        if let [(offset, slot)] = &mut work.writes[..] {
            let bytes = std::mem::take(slot);
            let (outcome, bytes) = self.write_with_room(Device::Log, log, *offset, bytes, Synced::Included).await;
            *slot = bytes;
            outcome?;
        } else {
            for (offset, slot) in &mut work.writes {
                let bytes = std::mem::take(slot);
                let (outcome, bytes) = self.write_with_room(Device::Log, log, *offset, bytes, Synced::Follows).await;
                *slot = bytes;
                outcome?;
            }
            log.sync(limit).await.map_err(|trouble| self.failed_by(Device::Log, trouble))?;
        }
        // A checkpoint may have failed in the meantime: then nothing more is acknowledged.
        self.not_failed()?;
        self.flushed(work);
        Ok(())
    }

    fn flushed(&self, work: FlushWork) {
        let wakers = self.log.borrow_mut().complete(work);
        self.drain();
        wakers.into_iter().for_each(std::task::Waker::wake);
        self.relieved.wake();
    }

    fn not_failed(&self) -> std::result::Result<(), Failed> {
        match &*self.phase.borrow() {
            Phase::Failed(failed) => Err(failed.clone()),
            _ => Ok(()),
        }
    }

    pub(crate) fn checkpoint_blocking(&self) -> std::result::Result<(), Failed> {
        self.not_failed()?;
        let mut checkpoint = self.begin_checkpoint();
        let (pages, device) = (self.regions.pages(), self.regions.page_device());
        loop {
            match checkpoint.step(self).inspect_err(|failed| self.fail_as(failed))? {
                Step::Flush(lsn) => {
                    self.flush_now()?;
                    assert!(self.log.borrow().durable() >= lsn);
                }
                Step::Write { block, buffer } => pages
                    .write_now(block as u64 * BLOCK_BYTES as u64, &buffer)
                    .map_err(|cause| self.fail(device, cause))?,
                Step::WriteData { block, buffer } => self
                    .regions
                    .data
                    .write_now(self.regions.bulk_offset(block), &buffer)
                    .map_err(|cause| self.fail(Device::Data, cause))?,
                Step::SyncData => self.regions.data.sync_now().map_err(|cause| self.fail(Device::Data, cause))?,
                Step::Sync => pages.sync_now().map_err(|cause| self.fail(device, cause))?,
                Step::Pause => {}
                Step::Done => break,
            }
        }
        self.end_checkpoint();
        Ok(())
    }

    async fn checkpoint(self: &Rc<Shared>) -> std::result::Result<(), Failed> {
        let mut checkpoint = self.begin_checkpoint();
        let (pages, device) = (self.regions.pages(), self.regions.page_device());
        let limit = self.watch.limit.get();
        loop {
            self.not_failed()?;
            match checkpoint.step(self).inspect_err(|failed| self.fail_as(failed))? {
                // Everything before `lsn` is durable when its last byte is.
                Step::Flush(Lsn(0)) => {}
                Step::Flush(lsn) => Durable { shared: self.clone(), lsn: Lsn(lsn.0 - 1) }.await?,
                Step::Write { block, buffer } => {
                    let at = block as u64 * BLOCK_BYTES as u64;
                    self.write_with_room(device, pages, at, buffer, Synced::Follows).await.0?;
                    rt::yield_now().await;
                }
                Step::WriteData { block, buffer } => {
                    let (data, at) = (&self.regions.data, self.regions.bulk_offset(block));
                    self.write_with_room(Device::Data, data, at, buffer, Synced::Follows).await.0?;
                    rt::yield_now().await;
                }
                Step::SyncData => {
                    self.regions.data.sync(limit).await.map_err(|trouble| self.failed_by(Device::Data, trouble))?
                }
                Step::Sync => pages.sync(limit).await.map_err(|trouble| self.failed_by(device, trouble))?,
                Step::Pause => rt::yield_now().await,
                Step::Done => break,
            }
        }
        self.end_checkpoint();
        Ok(())
    }

    fn begin_checkpoint(&self) -> Checkpoint {
        let mut counts = self.checkpoints.get();
        counts.begun += 1;
        self.checkpoints.set(counts);
        Checkpoint::begin(self)
    }

    fn end_checkpoint(&self) {
        let mut counts = self.checkpoints.get();
        counts.done += 1;
        self.checkpoints.set(counts);
        self.relieved.wake();
    }
}

/// The flusher: group commit. While one flush is under way, what comes gathers for the next. What nobody waits for goes
/// with what somebody does, or in a while.
pub(crate) async fn flush_always(shared: Rc<Shared>) {
    loop {
        let go_on = shared.flusher.until(|| match shared.is_over() {
            true => Some(false),
            false => shared.log.borrow().is_pending().then_some(true),
        });
        if !go_on.await {
            return;
        }
        let wanted = shared.flusher.until(|| (shared.is_over() || shared.log.borrow().wants_flush()).then_some(()));
        let _ = rt::timeout(FLUSH_INTERVAL, wanted).await;
        // Stopped or failed meanwhile, nothing more is written.
        if shared.is_over() || shared.flush().await.is_err() {
            return;
        }
    }
}

/// The checkpointer. Sleeps without a timer while nothing changes.
pub(crate) async fn checkpoint_always(shared: Rc<Shared>) {
    loop {
        shared
            .changed
            .until(|| (shared.is_over() || shared.is_changed() || shared.wants_checkpoint()).then_some(()))
            .await;
        let wanted = shared.wanted.until(|| (shared.is_over() || shared.wants_checkpoint()).then_some(()));
        // Either way it is time: wanted early, or the interval is over.
        let _ = rt::timeout(CHECKPOINT_INTERVAL, wanted).await;
        if shared.is_over() || shared.checkpoint().await.is_err() {
            return;
        }
    }
}

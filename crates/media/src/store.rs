//! The store of one target: pages, log, space and checkpoints behind one handle.
//!
//! # Life of an update
//! ```text
//! reserve(bytes) -> bulk_write(..).await ->                       bulk data, when there is any
//! pages().begin_op(); look; append(kind, record) -> lsn;          one synchronous step: no await
//! commit(reservation); pages().get_mut(..) ...;                   visible at once
//! durable(lsn).await                                              then answer
//! ```
//!
//! # Always true
//! 1. A record is durable only after the bulk data committed before it was appended.
//! 2. A page reaches the device only after the log up to its state is durable; the log is cut only where a
//!    checkpoint is durable (K7).
//! 3. Once a write or a sync has failed, or a device has not answered in time, nothing more is accepted or
//!    acknowledged.
//!
//! # Not here
//! What records and pages mean: `vos`.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rt::TaskSet;

use crate::error::{Device, Error, Failed, Result};
use crate::log::append::Log;
use crate::log::{Lsn, Reserve};
use crate::pages::pool::{Pages, PoolUse};
use crate::region::{BLOCK_BYTES, Cause, Regions, Trouble, TroubleKind};
use crate::root::{ROOT_BYTES_MAX, Root};
use crate::service;
use crate::signal::Waiters;
use crate::space::{Extent, PinGuard, Space, SpaceUse};
use crate::stage::{FRAME_SLOTS, Stage, StageUse};
use crate::superblock::{Anchor, store_name};
use crate::watch::{DeviceWatch, Watch};

/// A changed store is checkpointed at least this often: bounds what a restart has to replay.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Percent of the page budget that, once changed, calls for a checkpoint.
const DIRTY_CHECKPOINT_PERCENT: u64 = 50;
/// Percent of the page budget that, once changed, makes callers wait. The pool can grow to twice its
/// budget, so that what was admitted always finds room.
const DIRTY_BUSY_PERCENT: u64 = 85;

/// Pages that operations admitted together may dirty beyond those counted.
const OPERATION_PAGES: u64 = 32;

/// One target's store. Clones share it; it stops working when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Rc<Shared>,
    /// Flusher and checkpointer; aborted with the last clone.
    tasks: Rc<RefCell<TaskSet>>,
}

/// What the handle, the tasks and the futures share. All on one thread.
pub(crate) struct Shared {
    pub(crate) regions: Regions,
    pub(crate) watch: Rc<Watch>,
    /// CRC-32C of the store's UUID: marks every page.
    pub(crate) tag: u32,
    pub(crate) log: RefCell<Log>,
    pub(crate) pages: RefCell<Pages>,
    pub(crate) space: RefCell<Space>,
    pub(crate) stage: RefCell<Stage>,
    pub(crate) catalog: RefCell<Catalog>,
    pub(crate) phase: RefCell<Phase>,
    /// Fast answer to "is it running?": `phase` has the rest.
    running: Cell<bool>,
    dirty: Rc<Cell<u64>>,
    dirty_wanted: u64,
    dirty_max: u64,
    /// Pages that were promised: see [`Store::promise`].
    promised: Cell<u64>,
    /// Bulk data was written since the last sync of the data region.
    pub(crate) bulk_unsynced: Cell<bool>,
    /// The device on which something waits for room, and what was said of it.
    pub(crate) full: RefCell<Option<(Device, Cause)>>,
    /// It is being stopped: nobody waits for room.
    pub(crate) is_ending: Cell<bool>,
    /// Something was appended, or somebody waits for that.
    pub(crate) flusher: Waiters,
    /// Something changed that a checkpoint will write.
    pub(crate) changed: Waiters,
    /// A checkpoint is wanted now.
    pub(crate) wanted: Waiters,
    pub(crate) checkpoints: Cell<Counts>,
    /// Room was made, a checkpoint ended, or the store failed.
    pub(crate) relieved: Rc<Waiters>,
    /// Size that the data region is to get by the next checkpoint that may give it.
    pub(crate) resize: Cell<Option<u64>>,
    /// Map pages that the next checkpoint writes only to move them.
    pub(crate) maps_moved: Cell<u64>,
    /// A reservation was refused as `Busy` when `relieved` had seen so many changes.
    refused_at: Cell<Option<u64>>,
}

/// Checkpoints of this opening.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) begun: u64,
    pub(crate) done: u64,
    /// One must begin after this many have begun.
    requested: u64,
}

/// What the newest checkpoint says, and the owner's root for the next.
pub(crate) struct Catalog {
    pub(crate) anchor: Anchor,
    pub(crate) root: Root,
    pub(crate) root_blocks: Vec<u32>,
    pub(crate) owner: Vec<u8>,
}

/// ```text
///   RECOVERING --finish_recovery--> RUNNING --stop--> STOPPED
///        |                             |
///        +---------- device error -----+-----------> FAILED
/// ```
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Recovering,
    Running,
    Stopped,
    Failed(Failed),
}

/// What a store holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub space: SpaceUse,
    pub pages: PoolUse,
    pub stage: StageUse,
    /// Bytes of the log that wait for a checkpoint, of those it has.
    pub log_used: u64,
    pub log_bytes: u64,
    pub checkpoints: u64,
}

impl Store {
    pub(crate) fn assemble(
        regions: Regions,
        watch: Rc<Watch>,
        anchor: Anchor,
        log: Log,
        pages: Pages,
        space: Space,
        (root, root_blocks): (Root, Vec<u32>),
    ) -> Store {
        let budget = pages.usage().budget;
        let owner = root.owner.clone();
        let stage = Stage::new(pages.memory(), log.area());
        let shared = Shared {
            regions,
            watch,
            tag: codec::crc32c(&anchor.store),
            log: RefCell::new(log),
            dirty: pages.dirty_counter(),
            dirty_wanted: budget * DIRTY_CHECKPOINT_PERCENT / 100,
            dirty_max: budget * DIRTY_BUSY_PERCENT / 100,
            promised: Cell::default(),
            pages: RefCell::new(pages),
            stage: RefCell::new(stage),
            catalog: RefCell::new(Catalog { anchor, root, root_blocks, owner }),
            phase: RefCell::new(Phase::Recovering),
            running: Cell::new(false),
            bulk_unsynced: Cell::new(false),
            full: RefCell::default(),
            is_ending: Cell::new(false),
            flusher: Waiters::default(),
            changed: Waiters::default(),
            wanted: Waiters::default(),
            checkpoints: Cell::default(),
            relieved: space.relieved(),
            refused_at: Cell::new(None),
            resize: Cell::new(None),
            maps_moved: Cell::new(0),
            space: RefCell::new(space),
        };
        let shared = Rc::new(shared);
        shared.watch.guard(Rc::downgrade(&shared));
        Store { shared, tasks: Rc::default() }
    }

    /// The pages. Borrow them for one synchronous step and no longer: never across an await.
    #[inline]
    pub fn pages(&self) -> RefMut<'_, Pages> {
        self.shared.pages.borrow_mut()
    }

    /// The pages, to look only. As short as [`Store::pages`].
    #[inline]
    pub fn pages_ref(&self) -> Ref<'_, Pages> {
        self.shared.pages.borrow()
    }

    /// Appends a record whose payload is `parts` end to end, and returns its position. It is in the order
    /// of the log at once, and durable when [`Store::durable`] says so: soon, if somebody waits for it.
    ///
    /// Append before changing pages, in the same synchronous step: when this succeeds, there is room for
    /// the pages too, and only a failing page read can come in between (load what you need before).
    ///
    /// Cost: some 50 ns for 100 bytes; never waits.
    ///
    /// # Errors
    /// - `Busy`, `LogFull`: wait for [`Store::relieved`], then retry.
    /// - `NoSpace`: only deleting (`Reserve::Critical`) helps. `DiskFull`: only somebody who makes room does.
    /// - `TooLarge`; `Failed`, `Stopped`.
    #[inline]
    pub fn append(&self, kind: u16, parts: &[&[u8]], reserve: Reserve) -> Result<Lsn> {
        let shared = &*self.shared;
        shared.admit(reserve)?;
        let mut log = shared.log.borrow_mut();
        let appended = log.append(kind, parts, reserve);
        if log.wants_checkpoint() || shared.is_dirty() || appended.is_err() {
            shared.wanted.wake();
        }
        shared.changed.wake();
        shared.flusher.wake();
        appended
    }

    /// Whether an update may be made now: what [`Store::append`] checks first.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn admit(&self, reserve: Reserve) -> Result<()> {
        self.shared.admit(reserve)
    }

    /// Keeps room for `pages` more than are counted as changed: what was accepted and must not fail later. From now on that
    /// many, whatever was said before; only requests of [`Reserve::Promised`] may use them.
    #[inline]
    pub fn promise(&self, pages: u64) {
        self.shared.promised.set(pages);
    }

    /// Ready when the record at `lsn`, and so all before it, is durable.
    ///
    /// # Errors
    /// `Failed`: a device failed first; whether the record survives is unknown.
    pub fn durable(&self, lsn: Lsn) -> Durable {
        Durable { shared: self.shared.clone(), lsn }
    }

    /// Position up to which all records are durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.log.borrow().durable()
    }

    /// Position behind the last record.
    pub fn end_lsn(&self) -> Lsn {
        self.shared.log.borrow().end()
    }

    /// Largest payload of a record.
    pub fn record_bytes_max(&self) -> usize {
        self.shared.log.borrow().record_bytes_max()
    }

    /// Keeps `root` in the next checkpoint: what recovery gives back first. Set it whenever it changes; a
    /// checkpoint takes it as it is at its beginning.
    ///
    /// # Errors
    /// `TooLarge`: over [`ROOT_BYTES_MAX`].
    pub fn set_root(&self, root: &[u8]) -> Result<()> {
        if root.len() > ROOT_BYTES_MAX {
            return Err(Error::TooLarge { bytes: root.len() as u64, bytes_max: ROOT_BYTES_MAX as u64 });
        }
        let mut catalog = self.shared.catalog.borrow_mut();
        catalog.owner.clear();
        catalog.owner.extend_from_slice(root);
        Ok(())
    }

    /// The owner's root as last set, or as recovered.
    pub fn root(&self) -> Vec<u8> {
        self.shared.catalog.borrow().owner.clone()
    }

    /// Replay: the record being applied says that `extent` is allocated. In service a reservation is
    /// committed instead.
    ///
    /// # Errors
    /// `Corrupt`: it cannot be.
    pub fn mark_allocated(&self, extent: Extent) -> Result<()> {
        self.shared.space.borrow_mut().mark_allocated(extent)
    }

    /// The record at `lsn` gives `extent` up. It is reused when that is durable and no older pin is held.
    ///
    /// # Errors
    /// `Corrupt`: it is not allocated.
    pub fn release(&self, extent: Extent, lsn: Lsn) -> Result<()> {
        self.shared.release(extent, lsn)
    }

    /// Keeps all bulk data allocated now from being overwritten while the guard lives.
    pub fn pin(&self) -> PinGuard {
        self.shared.space.borrow().pin()
    }

    /// Whether callers should wait for [`Store::relieved`] before more updates.
    pub fn pressure(&self) -> bool {
        self.shared.pressure()
    }

    /// Ready when there is no pressure, or no hope. Needs the tasks of [`Store::start`].
    ///
    /// # Errors
    /// `Failed`, `Stopped`.
    pub async fn relieved(&self) -> Result<()> {
        let shared = &*self.shared;
        // A fence on its way up gives room by the step, and others run in between.
        while shared.is_lifting() {
            rt::yield_now().await;
            if !shared.pressure() || !shared.lift_some() {
                break;
            }
        }
        shared
            .relieved
            .until(|| {
                if let Err(error) = shared.running() {
                    return Some(Err(error));
                }
                while shared.drain() && shared.pressure() {}
                // A full disk relieves nobody: who waits is to be told.
                if shared.pressure() && shared.full.borrow().is_none() {
                    shared.wanted.wake();
                    return None;
                }
                Some(Ok(()))
            })
            .await
    }

    /// Starts the flusher and the checkpointer on this thread.
    pub fn start(&self) {
        let mut tasks = self.tasks.borrow_mut();
        assert_eq!(tasks.running(), 0, "a store is started once");
        tasks.spawn_local(service::flush_always(self.shared.clone()));
        tasks.spawn_local(service::checkpoint_always(self.shared.clone()));
    }

    /// Makes everything appended so far durable, blocking. For stores whose tasks do not run: benches,
    /// tests, recovery.
    ///
    /// # Errors
    /// `Failed`.
    pub fn flush_now(&self) -> Result<()> {
        Ok(self.shared.flush_now()?)
    }

    /// Makes a checkpoint of everything up to now, blocking. For stores whose tasks do not run.
    ///
    /// # Errors
    /// `Failed`.
    pub fn checkpoint_blocking(&self) -> Result<()> {
        self.shared.running()?;
        Ok(self.shared.checkpoint_blocking()?)
    }

    /// Makes a checkpoint of everything up to now; blocking if the tasks do not run.
    ///
    /// # Errors
    /// `Failed`, `Stopped`.
    pub async fn checkpoint_now(&self) -> Result<()> {
        let shared = &*self.shared;
        shared.running()?;
        if self.tasks.borrow().running() == 0 {
            return Ok(shared.checkpoint_blocking()?);
        }
        let target = shared.request_checkpoint();
        shared
            .relieved
            .until(|| match shared.running() {
                _ if shared.checkpoints.get().done >= target => Some(Ok(())),
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            })
            .await
    }

    /// Whether flusher and checkpointer run.
    pub(crate) fn is_started(&self) -> bool {
        self.tasks.borrow().running() > 0
    }

    /// Ends service: makes everything durable in a checkpoint, so that the next open replays nothing, and
    /// stops the tasks.
    ///
    /// # Errors
    /// `Failed`: what was acknowledged is in the log.
    pub async fn stop(&self) -> Result<()> {
        // Nobody waits for room now.
        self.shared.is_ending.set(true);
        self.shared.wanted.wake();
        self.checkpoint_now().await?;
        // Records may have come while it ran; they are in the log, and it is their last chance.
        let last = self.shared.log.borrow().end();
        if last > self.durable_lsn() && self.tasks.borrow().running() > 0 {
            self.durable(Lsn(last.0 - 1)).await?;
        }
        self.shared.set_phase(Phase::Stopped);
        self.tasks.borrow_mut().abort_all();
        self.write_closed()
    }

    /// What the store holds now.
    pub fn usage(&self) -> Usage {
        let log = self.shared.log.borrow();
        Usage {
            stage: self.shared.stage.borrow().usage(),
            space: self.shared.space.borrow().usage(),
            pages: self.shared.pages.borrow().usage(),
            log_used: log.used(),
            log_bytes: log.area(),
            checkpoints: self.shared.checkpoints.get().done,
        }
    }

    /// Bytes of bulk data that could be reserved now.
    pub fn free_for_bulk(&self) -> u64 {
        self.shared.space.borrow().free_for_bulk(self.shared.page_demand()) * BLOCK_BYTES as u64
    }

    /// UUID of the store.
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.catalog.borrow().anchor.store
    }

    /// Index of the target the store was made for.
    pub fn target(&self) -> u32 {
        self.shared.catalog.borrow().anchor.target
    }

    /// A device that has not answered for so long has failed. [`crate::IO_TIMEOUT`] until it is set.
    pub fn set_io_timeout(&self, limit: Duration) {
        self.shared.watch.limit.set(limit);
        self.shared.regions.each().for_each(|(_, region)| region.set_io_timeout(limit));
    }

    /// For other threads: whether this one is held up by a page that is read on the spot.
    pub fn watch(&self) -> DeviceWatch {
        self.shared.watch.device.clone()
    }

    /// The device failure that stopped the store, if one did.
    pub fn failure(&self) -> Option<Failed> {
        match &*self.shared.phase.borrow() {
            Phase::Failed(failed) => Some(failed.clone()),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", store_name(&self.uuid()))
    }
}

/// Waits for a record to be durable. See [`Store::durable`].
#[must_use = "nothing waits before it is awaited"]
pub struct Durable {
    pub(crate) shared: Rc<Shared>,
    pub(crate) lsn: Lsn,
}

impl Future for Durable {
    type Output = std::result::Result<(), Failed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Nothing to wait for: what has gathered goes to the medium at once, without a turn of the flusher.
        if self.shared.log.borrow().durable() <= self.lsn && self.shared.can_flush_inline() {
            let _ = self.shared.flush_now();
        }
        // Durable before failed: a record that made it is acknowledged whatever came after.
        if self.shared.log.borrow_mut().poll_durable(self.lsn, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.shared.flusher.wake();
        match &*self.shared.phase.borrow() {
            Phase::Failed(failed) => Poll::Ready(Err(failed.clone())),
            Phase::Stopped => Poll::Ready(Err(Failed { device: Device::Log, cause: "the store was stopped".into() })),
            Phase::Running | Phase::Recovering => Poll::Pending,
        }
    }
}

impl Shared {
    #[inline]
    fn admit(&self, reserve: Reserve) -> Result<()> {
        if !self.running.get() {
            self.running()?;
        }
        // Deleting goes on for longer, but not until the overshoot of memory is used up: an operation that runs
        // out of pages between its record and its end stops the store.
        let dirty_max = match reserve {
            Reserve::Normal => self.dirty_max,
            Reserve::Critical | Reserve::Promised { .. } => self.pages_budget(),
        };
        let dirty = self.dirty_frames();
        if dirty > dirty_max {
            self.wanted.wake();
            return Err(Error::Busy { dirty, frames: self.pages_budget() });
        }
        if !self.space.borrow().has_room(reserve, self.demand_for(reserve)) {
            self.no_room(reserve)?;
        }
        if reserve == Reserve::Normal {
            self.has_disk_room()?;
        }
        if reserve == Reserve::Normal && rt::fault!("media.room") {
            return Err(Error::NoSpace { wanted: PAGE_ROOM_BYTES, free: 0 });
        }
        Ok(())
    }

    /// What is left when space is short: `Busy` while a flush or a checkpoint may still make room; then the space
    /// behind a fence, by the step, and at once if it is being lifted already; then a refusal.
    #[cold]
    fn no_room(&self, reserve: Reserve) -> Result<()> {
        self.end_run();
        let is_coming = self.space.borrow().usage().quarantined > 0 || self.dirty.get() > 0;
        if (self.is_lifting() || !is_coming) && self.lift_for_room() {
            if self.space.borrow().has_room(reserve, self.demand_for(reserve)) {
                return Ok(());
            }
            if self.is_lifting() {
                return Err(self.busy());
            }
        }
        if is_coming {
            self.wanted.wake();
            return Err(self.busy());
        }
        let demand = self.demand_for(reserve) * crate::space::PAGE_BLOCKS as u64;
        let free = self.space.borrow().free_for_pages().saturating_sub(demand) * BLOCK_BYTES as u64;
        Err(Error::NoSpace { wanted: PAGE_ROOM_BYTES, free })
    }

    /// Pages that are spoken for: what the next checkpoint may have to write, and what is promised.
    #[inline]
    pub(crate) fn page_demand(&self) -> u64 {
        self.page_debt() + self.promised.get()
    }

    /// What a request of `reserve` must leave free.
    #[inline]
    fn demand_for(&self, reserve: Reserve) -> u64 {
        match reserve {
            Reserve::Normal | Reserve::Critical => self.page_demand(),
            Reserve::Promised { pages } => self.page_debt() + pages,
        }
    }

    /// Pages that the next checkpoint may have to write.
    #[inline]
    fn page_debt(&self) -> u64 {
        let catalog = self.catalog.borrow();
        let dirty = self.dirty.get();
        dirty
            + dirty.min(catalog.root.maps.len() as u64 + 1)
            + self.maps_moved.get()
            + catalog.root_blocks.len() as u64
            + OPERATION_PAGES
    }

    /// Frames of memory whose content only the log has.
    #[inline]
    fn dirty_frames(&self) -> u64 {
        self.dirty.get() + self.stage.borrow().unwritten_count().div_ceil(FRAME_SLOTS as u64)
    }

    /// Whether so much is dirty that a checkpoint should begin.
    #[inline]
    fn is_dirty(&self) -> bool {
        self.dirty_frames() > self.dirty_wanted || self.stage.borrow().is_filling()
    }

    pub(crate) fn want_checkpoint(&self) {
        self.wanted.wake();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.get()
    }

    fn pages_budget(&self) -> u64 {
        self.dirty_max * 100 / DIRTY_BUSY_PERCENT
    }

    fn pressure(&self) -> bool {
        let log = self.log.borrow();
        let space = self.space.borrow();
        let is_cramped = !space.has_room(crate::log::Reserve::Normal, self.page_demand())
            && (self.dirty.get() > 0 || space.usage().quarantined > 0);
        let is_refused = self.refused_at.get() == Some(self.relieved.changes());
        self.dirty_frames() > self.dirty_max || log.is_tight() || is_cramped || is_refused
    }

    /// A reservation is refused for now: whoever waits, waits for the next change at least.
    pub(crate) fn refuse_reservation(&self) -> Error {
        self.refused_at.set(Some(self.relieved.changes()));
        self.wanted.wake();
        self.busy()
    }

    pub(crate) fn busy(&self) -> Error {
        Error::Busy { dirty: self.dirty.get(), frames: self.pages_budget() }
    }

    /// # Errors
    /// Why the store does not run.
    #[cold]
    pub(crate) fn running(&self) -> Result<()> {
        match &*self.phase.borrow() {
            Phase::Running => Ok(()),
            Phase::Failed(failed) => Err(failed.clone().into()),
            Phase::Stopped => Err(Error::Stopped),
            Phase::Recovering => panic!("a store takes updates only after finish_recovery"),
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.running.set(matches!(phase, Phase::Running));
        *self.phase.borrow_mut() = phase;
        let waiting = match self.running.get() {
            true => Vec::new(),
            false => self.log.borrow_mut().wakers(u64::MAX),
        };
        waiting.into_iter().for_each(std::task::Waker::wake);
        for waiters in [&self.flusher, &self.changed, &self.wanted, &*self.relieved] {
            waiters.wake();
        }
    }

    /// Stops the store: a transfer failed, or never ended.
    pub(crate) fn failed_by(&self, device: Device, trouble: Trouble) -> Failed {
        if trouble.kind == TroubleKind::Hang {
            self.watch.refuse(device, &trouble.cause);
        }
        self.fail(device, trouble.cause)
    }

    /// Stops the store for good. The first failure is the one that counts.
    pub(crate) fn fail(&self, device: Device, cause: Cause) -> Failed {
        let failed = Failed { device, cause };
        self.fail_as(&failed);
        failed
    }

    pub(crate) fn fail_as(&self, failed: &Failed) {
        if !matches!(&*self.phase.borrow(), Phase::Failed(_)) {
            tracing::error!(device = %failed.device, cause = %failed.cause, "the store stops: its device failed");
            self.set_phase(Phase::Failed(failed.clone()));
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Failed(_) | Phase::Stopped)
    }

    /// How many checkpoints there were, when none is under way.
    pub(crate) fn quiet(&self) -> Option<u64> {
        let counts = self.checkpoints.get();
        (counts.begun == counts.done).then_some(counts.done)
    }

    pub(crate) fn request_checkpoint(&self) -> u64 {
        let mut counts = self.checkpoints.get();
        counts.requested = counts.begun + 1;
        self.checkpoints.set(counts);
        self.changed.wake();
        self.wanted.wake();
        counts.requested
    }

    /// Whether a checkpoint would write anything.
    pub(crate) fn is_changed(&self) -> bool {
        let log = self.log.borrow();
        log.end() > log.tail() || self.dirty.get() > 0 || self.space.borrow().is_changed()
    }

    pub(crate) fn wants_checkpoint(&self) -> bool {
        let counts = self.checkpoints.get();
        // When nothing changed, a checkpoint would relieve nothing.
        counts.requested > counts.begun
            || self.is_changed() && (self.log.borrow().wants_checkpoint() || self.is_dirty() || self.pressure())
    }
}

/// What an update of pages is taken to want, in a refusal's text.
const PAGE_ROOM_BYTES: u64 = crate::page::PAGE_BYTES as u64;

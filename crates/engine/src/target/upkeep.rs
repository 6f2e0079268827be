//! Upkeep: giving back the space of what nobody can see any more.
//!
//! Every container has a *horizon*: before it, only its snapshots can be read. It follows the clock at the
//! distance of the container's `retention`, in strides; behind it the store aggregates, and then joins small
//! extents. Upkeep sleeps while nothing is written, and works in small steps.
//!
//! # Budget
//! One task does all of it, one thing after another, so that there is one budget. While requests are served,
//! it gets a share of the time: it rests after a step, in proportion to what the step took. The less space is
//! free, the shorter the rest. A request that finds no room does not wait for that, it does upkeep itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use types::{ContainerId, Epoch, Error, Span};
use vos::Rewriting;

use super::{Target, is_pressure};

/// Steps of the store's upkeep between two pauses: well under a millisecond of the target's thread.
const STEPS: usize = 1;
/// Rests shorter than this are saved up: a timer is no finer.
const REST_MIN: Duration = Duration::from_millis(2);
/// Longest rest at once, however long a step took.
const REST_MAX: Duration = Duration::from_millis(500);
/// Pause before the next try while a snapshot is being made or the store is under pressure.
const PAUSE: Duration = Duration::from_millis(5);
/// A horizon moves at most this often: what is overwritten many times meanwhile is looked at once.
const STRIDE_MIN: Duration = Duration::from_secs(5);
/// Where a pool has members elsewhere, horizons keep this distance at least: a change that comes from a leader has an
/// epoch of a moment ago, and what comes below a horizon has to be looked at again.
const UNDER_WAY: Duration = Duration::from_secs(30);
/// Parts of the retention that a horizon may lie behind where it could be.
const STRIDES: u32 = 16;

/// What upkeep knows beside the store.
#[derive(Default)]
pub(super) struct Upkeep {
    /// How much history containers keep. The service tells; before that, all is kept.
    retention: RefCell<BTreeMap<ContainerId, Span>>,
    /// Something was written since the horizons were moved.
    is_written: Cell<bool>,
    /// There may be something to do.
    work: Notify,
    /// Requests served so far.
    served: Cell<u64>,
    /// Requests that were served when upkeep last looked, and the rest it owes them.
    seen: Cell<u64>,
    owed: Cell<Duration>,
}

impl Upkeep {
    /// Something was destroyed, rolled back, or let go.
    pub(super) fn wake(&self) {
        self.work.notify_one();
    }

    /// Something was written. Cost: a flag, except the first time after a rest.
    pub(super) fn written(&self) {
        if !self.is_written.replace(true) {
            self.work.notify_one();
        }
    }

    /// A request came.
    pub(super) fn served(&self) {
        self.served.set(self.served.get() + 1);
    }

    pub(super) fn served_so_far(&self) -> u64 {
        self.served.get()
    }

    pub(super) fn set_retention(&self, container: ContainerId, span: Span) {
        self.retention.borrow_mut().insert(container, span);
        self.written();
    }

    pub(super) fn forget(&self, container: ContainerId) {
        self.retention.borrow_mut().remove(&container);
    }
}

impl Target {
    /// Runs for the life of the target.
    pub(super) async fn upkeep(self: Rc<Self>) {
        loop {
            let began = rt::now();
            match self.some_upkeep().await {
                Ok(true) => self.rest(rt::now() - began).await,
                Ok(false) => self.wait_for_work().await,
                Err(error) if is_pressure(&error) => rt::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(target_index = %self.index, %error, "upkeep stopped: space is no longer given back");
                    return;
                }
            }
        }
    }

    /// Waits until there may be something to do: whoever wakes it has something now, a stride is over, or a
    /// scrub is due.
    async fn wait_for_work(&self) {
        let (stride, scrub, resize) = (self.next_stride(), self.scrubber.due(), self.resize_due());
        let woken = self.upkeep.work.notified();
        let holds = self.holds.due();
        let Some(pause) = stride.into_iter().chain(scrub).chain(resize).chain(holds).min() else { return woken.await };
        if rt::timeout(pause, woken).await.is_err() && stride == Some(pause) {
            self.advance().await;
        }
    }

    /// Does one thing; true when there may be more.
    async fn some_upkeep(&self) -> vos::Result<bool> {
        self.end_holds();
        // It takes turns with the rest, which makes room for it.
        if self.resize_takes_turn() && self.resize_some().await? {
            return Ok(true);
        }
        // The step that finds nothing more did something too, mostly.
        let was_wanted = self.store.borrow().wants_maintenance();
        if was_wanted {
            self.store.borrow_mut().maintain(STEPS)?;
            return Ok(true);
        }
        if self.join_extents().await? || self.scrub_some().await? {
            return Ok(true);
        }
        self.resize_some().await
    }

    /// Joins some small extents, or looks for some; true when there may be more.
    async fn join_extents(&self) -> vos::Result<bool> {
        let found = self.store.borrow_mut().plan_rewrite();
        let mut rewrite = match found {
            Ok(Rewriting::Nothing) => return Ok(false),
            Ok(Rewriting::Look) => return Ok(true),
            Ok(Rewriting::Found(rewrite)) => rewrite,
            // Joining needs room before it gives some back. It is tried again when something changes.
            Err(vos::Error::NoSpace { .. } | vos::Error::DeviceFull { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if let Err(error) = rewrite.copy(&self.media).await {
            if !matches!(error, vos::Error::Corrupt { .. }) {
                return Err(error);
            }
            // Left as it is, so that whoever reads it is told.
            tracing::error!(target_index = %self.index, %error, "small extents are not joined");
            return Ok(true);
        }
        loop {
            let swapped = self.store.borrow_mut().rewrite(&rewrite);
            match swapped {
                Err(error) if is_pressure(&error) => rt::sleep(PAUSE).await,
                Err(vos::Error::NoSpace { .. } | vos::Error::DeviceFull { .. }) => return Ok(false),
                swapped => return swapped.map(|_| true),
            }
        }
    }

    /// Lets requests go first after a step that took `spent`.
    async fn rest(&self, spent: Duration) {
        let served = self.upkeep.served.get();
        if self.upkeep.seen.replace(served) == served {
            self.upkeep.owed.set(Duration::ZERO);
            return rt::yield_now().await;
        }
        let space = self.media.usage().space;
        let owed = self.upkeep.owed.get() + spent * rest_factor(space.free, space.capacity);
        if owed < REST_MIN {
            self.upkeep.owed.set(owed);
            return rt::yield_now().await;
        }
        self.upkeep.owed.set(Duration::ZERO);
        rt::sleep(owed.min(REST_MAX)).await;
    }

    /// Does all upkeep that can be done now, for a request that found no room; true when it did something.
    ///
    /// # Errors
    /// `Busy` when the deadline passes; of the store.
    pub(super) async fn make_room(&self, container: ContainerId, deadline: rt::Instant) -> Result<bool, Error> {
        self.advance().await;
        let is_wanted = self.store.borrow().wants_maintenance();
        while rt::now() < deadline {
            let step = self.store.borrow_mut().maintain(STEPS);
            match step {
                Ok(true) => rt::yield_now().await,
                Ok(false) => break,
                Err(error) if is_pressure(&error) => self.relieved(deadline).await?,
                Err(error) => return Err(self.refusal(container, error)),
            }
        }
        Ok(is_wanted)
    }

    /// When the horizons should move next; `None` while nothing was written that a move could give back.
    fn next_stride(&self) -> Option<Duration> {
        if !self.upkeep.is_written.get() {
            return None;
        }
        let stride = |(id, span): (&ContainerId, &Span)| {
            let behind = self.store.borrow().is_behind(*id).unwrap_or(false);
            span.duration().filter(|_| behind).map(|kept| (kept / STRIDES).max(STRIDE_MIN))
        };
        let next = self.upkeep.retention.borrow().iter().filter_map(stride).min();
        self.upkeep.is_written.set(next.is_some());
        next
    }

    /// Moves every horizon as far as its container's retention lets it.
    async fn advance(&self) {
        // The clock is read before the hold is looked at: see `hold`.
        let mut now = self.hlc.now();
        while self.hold.is_held() {
            rt::sleep(PAUSE).await;
            now = self.hlc.now();
        }
        let mut store = self.store.borrow_mut();
        for (id, span) in &*self.upkeep.retention.borrow() {
            let Some(kept) = span.duration() else { continue };
            if !store.is_behind(*id).unwrap_or(false) {
                continue;
            }
            let is_shared = store.pool_of(*id).is_ok_and(|pool| self.groups.is_mapped(pool));
            let kept = if is_shared { kept.max(UNDER_WAY) } else { kept };
            let micros = now.micros().saturating_sub(kept.as_micros() as u64);
            let horizon = if kept.is_zero() { now } else { Epoch::from_micros(micros, 0) };
            if let Err(error) = store.advance(*id, horizon)
                && !is_pressure(&error)
            {
                tracing::warn!(target_index = %self.index, container = %id, %error, "history is not forgotten");
            }
        }
    }
}

/// How long upkeep rests for the time it took: a quarter of the time is its own while there is room, half
/// below a fifth of free space; below a tenth, it does not rest.
fn rest_factor(free: u64, capacity: u64) -> u32 {
    match free.saturating_mul(100) / capacity.max(1) {
        20.. => 3,
        10..20 => 1,
        _ => 0,
    }
}

//! Upkeep: giving back the space of what nobody can see any more.
//!
//! Every container has a *horizon*: before it, only its snapshots can be read. It follows the clock at the
//! distance of the container's `retention`, in strides; behind it the store aggregates. Upkeep sleeps while
//! nothing is written, and works in small steps, letting every waiting request go first between two of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use types::{ContainerId, Epoch, Error, Span};

use super::{Target, is_pressure};

/// Steps of the store's upkeep between two pauses: well under a millisecond of the target's thread.
const STEPS: usize = 1;
/// Pause before the next try while a snapshot is being made or the store is under pressure.
const PAUSE: Duration = Duration::from_millis(5);
/// A horizon moves at most this often: what is overwritten many times meanwhile is looked at once.
const STRIDE_MIN: Duration = Duration::from_secs(5);
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
            let step = self.store.borrow_mut().maintain(STEPS);
            match step {
                Ok(true) => rt::yield_now().await,
                Ok(false) => match self.next_stride() {
                    // Whoever wakes it has something to do now; else it is time for the next stride.
                    Some(pause) => {
                        if rt::timeout(pause, self.upkeep.work.notified()).await.is_err() {
                            self.advance().await;
                        }
                    }
                    None => self.upkeep.work.notified().await,
                },
                Err(error) if is_pressure(&error) => rt::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(target_index = %self.index, %error, "upkeep stopped: space is no longer given back");
                    return;
                }
            }
        }
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

//! Clocks and timers.
//!
//! [`Instant`] is monotonic and has no relation to the calendar; [`wall_micros`] is the calendar
//! and may jump. Neither may be compared between machines: that is what [`crate::Hlc`] is for.

use std::future::Future;
use std::ops::{Add, AddAssign, Sub};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::sim;

/// A point of monotonic time, in nanoseconds since some moment before the program began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(u64);

impl Instant {
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_micros(self) -> u64 {
        self.0 / 1000
    }

    /// Time passed since this instant; zero if it lies in the future.
    pub fn elapsed(self) -> Duration {
        now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates: an instant five centuries ahead is as good as never.
    fn add(self, step: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(step)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, step: Duration) {
        *self = *self + step;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, step: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(step)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero when `earlier` is in fact later.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

pub(crate) fn nanos(step: Duration) -> u64 {
    u64::try_from(step.as_nanos()).unwrap_or(u64::MAX)
}

/// Monotonic time. Cost on `os`: one vDSO call, some 25 ns.
#[inline]
pub fn now() -> Instant {
    if sim::is_active() {
        return Instant(sim::here().0.world().read_clock());
    }
    Instant(clock_nanos(libc::CLOCK_MONOTONIC))
}

/// The calendar: microseconds since 1970-01-01 UTC. In the simulator each node has its own skew.
#[inline]
pub fn wall_micros() -> u64 {
    if sim::is_active() {
        let (shared, place) = sim::here();
        return shared.world().wall_micros(place.node);
    }
    clock_nanos(libc::CLOCK_REALTIME) / 1000
}

fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a valid place for the kernel to write a timespec into.
    let outcome = unsafe { libc::clock_gettime(clock, &mut spec) };
    assert_eq!(outcome, 0, "clock_gettime knows the monotonic and the real-time clock");
    spec.tv_sec as u64 * 1_000_000_000 + spec.tv_nsec as u64
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    if sim::is_active() {
        return Sleep { inner: SleepInner::Sim(SimSleep::new(now() + duration)) };
    }
    Sleep { inner: SleepInner::Os(tokio::time::sleep(duration)) }
}

/// Waits until `deadline`; at once if it has passed.
pub fn sleep_until(deadline: Instant) -> Sleep {
    sleep(deadline - now())
}

/// The future of [`sleep`]. Dropping it cancels the timer.
#[must_use = "a Sleep does nothing unless awaited"]
pub struct Sleep {
    inner: SleepInner,
}

enum SleepInner {
    Os(tokio::time::Sleep),
    Sim(SimSleep),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: structural pinning: `inner` is never moved out of a pinned `Sleep`, `Sleep` has no
        // `Drop` of its own, and it is `Unpin` only if the variants are.
        match unsafe { &mut self.get_unchecked_mut().inner } {
            // SAFETY: as above; the reference comes from a pinned place.
            SleepInner::Os(sleep) => unsafe { Pin::new_unchecked(sleep) }.poll(cx),
            SleepInner::Sim(sleep) => sleep.poll(cx),
        }
    }
}

/// A timer of the simulator.
struct SimSleep {
    shared: Arc<sim::Shared>,
    deadline: Instant,
    /// The event that will wake the task, and the waker it will use.
    armed: Option<(sim::EventKey, Waker)>,
}

impl SimSleep {
    fn new(deadline: Instant) -> SimSleep {
        SimSleep { shared: sim::here().0, deadline, armed: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut world = self.shared.world();
        if world.read_clock() >= self.deadline.0 {
            return Poll::Ready(());
        }
        if let Some((key, waker)) = &self.armed {
            if waker.will_wake(cx.waker()) {
                return Poll::Pending;
            }
            world.cancel(*key);
        }
        let key = world.wake_at(self.deadline.0, cx.waker().clone());
        self.armed = Some((key, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some((key, _)) = self.armed.take() {
            self.shared.world().cancel(key);
        }
    }
}

/// The time given to [`timeout`] ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time allowed has run out")]
pub struct Elapsed;

/// Runs `future` for at most `limit`, then drops it. The future wins a tie.
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(limit) }
}

/// The future of [`timeout`].
#[must_use = "a Timeout does nothing unless awaited"]
pub struct Timeout<F> {
    future: F,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: structural pinning of both fields: neither is moved out, and `Timeout` has no
        // `Drop` of its own.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        if let Poll::Ready(output) = unsafe { Pin::new_unchecked(&mut this.future) }.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        // SAFETY: as above.
        unsafe { Pin::new_unchecked(&mut this.sleep) }.poll(cx).map(|()| Err(Elapsed))
    }
}

/// Lets the other ready tasks of this thread run, and the sockets and disks be looked at.
pub async fn yield_now() {
    if sim::is_active() {
        let mut has_yielded = false;
        return std::future::poll_fn(|cx| {
            if std::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
    tokio::task::yield_now().await;
}

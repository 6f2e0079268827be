//! The consensus library's idea of a runtime, over `rt`: its tasks, timers and chance come through the one door, so that a
//! cluster runs in the simulator, and the same seed gives the same trace. Channels are tokio's, which need no runtime.
//!
//! # One tick for all groups
//! Each replica has a clock in the library, which ticks five times a heartbeat, at moments of its own. Here all of a
//! machine's tick together, [`tick_every`] so often, so that an idle server of many groups wakes as often as one of one. Machines
//! tick at different moments: of two that miss the same leader, one stands for election before the other.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::rt as seam;
use tokio::sync;

/// What the library calls a runtime. Never made: all of it is associated functions.
#[derive(Debug)]
pub struct Runtime;

impl seam::AsyncRuntime for Runtime {
    type JoinError = rt::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = rt::JoinHandle<T>;
    type Sleep = rt::Sleep;
    type Instant = Instant;
    type TimeoutError = rt::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = rt::Timeout<T>;
    type ThreadLocalRng = Chance;
    type Mpsc = Channel;
    type Watch = Channel;
    type Oneshot = Channel;
    type Mutex<T: OptionalSend + 'static> = Mutex<T>;

    fn spawn<T>(future: T) -> rt::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        rt::spawn_local(future)
    }

    fn sleep(duration: Duration) -> rt::Sleep {
        rt::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> rt::Sleep {
        rt::sleep_until(on_grid(deadline.0, rt::now(), rt::machine_u64(), TICK.get()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(limit: Duration, future: F) -> rt::Timeout<F> {
        rt::timeout(limit, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> rt::Timeout<F> {
        rt::timeout(deadline.0 - rt::now(), future)
    }

    fn is_panic(error: &rt::JoinError) -> bool {
        matches!(error, rt::JoinError::Panicked { .. })
    }

    fn thread_rng() -> Chance {
        Chance
    }

    fn new(_threads: usize) -> Runtime {
        Runtime
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        rt::block_on(future)
    }
}

/// What ends sooner is no tick: the library gathers what it heard of the disk for a microsecond.
const SOON: Duration = Duration::from_millis(1);

thread_local! {
    /// Between ticks. The library makes its runtimes itself, so that none can be told.
    static TICK: Cell<Duration> = const { Cell::new(Duration::from_millis(200)) };
}

/// Replicas on this thread, which are all of a server's, tick so often from now on.
pub(crate) fn tick_every(tick: Duration) {
    TICK.set(tick.max(SOON));
}

/// The next moment at which this machine's replicas tick, at `deadline` or later; what is soon stays as it is.
fn on_grid(deadline: rt::Instant, now: rt::Instant, machine: u64, tick: Duration) -> rt::Instant {
    if deadline - now < SOON {
        return deadline;
    }
    let (step, at) = (tick.as_nanos() as u64, deadline.as_nanos());
    let past = (at % step + step - machine % step) % step;
    if past == 0 { deadline } else { deadline + Duration::from_nanos(step - past) }
}

/// A moment of `rt`'s clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(rt::Instant);

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, step: Duration) -> Instant {
        Instant(self.0 + step)
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
        Instant(self.0 - step)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, step: Duration) {
        *self = *self - step;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.0 - earlier.0
    }
}

impl seam::Instant for Instant {
    fn now() -> Instant {
        Instant(rt::now())
    }
}

/// Chance for election timeouts, from `rt`: seeded in the simulator.
pub struct Chance;

impl rand_core::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((rt::random_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rt::random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = rt::random_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

/// tokio's channels, as the library names their operations.
pub struct Channel;

pub struct MpscSender<T>(sync::mpsc::Sender<T>);
pub struct MpscReceiver<T>(sync::mpsc::Receiver<T>);
pub struct MpscWeakSender<T>(sync::mpsc::WeakSender<T>);
pub struct OneshotSender<T>(sync::oneshot::Sender<T>);
pub struct WatchSender<T>(sync::watch::Sender<T>);
pub struct WatchReceiver<T>(sync::watch::Receiver<T>);
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        MpscSender(self.0.clone())
    }
}

impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        MpscWeakSender(self.0.clone())
    }
}

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        WatchSender(self.0.clone())
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        WatchReceiver(self.0.clone())
    }
}

impl seam::Mpsc for Channel {
    type Sender<T: OptionalSend> = MpscSender<T>;
    type Receiver<T: OptionalSend> = MpscReceiver<T>;
    type WeakSender<T: OptionalSend> = MpscWeakSender<T>;

    fn channel<T: OptionalSend>(capacity: usize) -> (MpscSender<T>, MpscReceiver<T>) {
        let (sender, receiver) = sync::mpsc::channel(capacity);
        (MpscSender(sender), MpscReceiver(receiver))
    }
}

impl<T: OptionalSend> seam::MpscSender<Channel, T> for MpscSender<T> {
    async fn send(&self, message: T) -> Result<(), seam::SendError<T>> {
        self.0.send(message).await.map_err(|unsent| seam::SendError(unsent.0))
    }

    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.downgrade())
    }
}

impl<T: OptionalSend> seam::MpscReceiver<T> for MpscReceiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, seam::TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            sync::mpsc::error::TryRecvError::Empty => seam::TryRecvError::Empty,
            sync::mpsc::error::TryRecvError::Disconnected => seam::TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> seam::MpscWeakSender<Channel, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        self.0.upgrade().map(MpscSender)
    }
}

impl seam::Oneshot for Channel {
    type Sender<T: OptionalSend> = OneshotSender<T>;
    type Receiver<T: OptionalSend> = sync::oneshot::Receiver<T>;
    type ReceiverError = sync::oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (OneshotSender<T>, sync::oneshot::Receiver<T>) {
        let (sender, receiver) = sync::oneshot::channel();
        (OneshotSender(sender), receiver)
    }
}

impl<T: OptionalSend> seam::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

impl seam::Watch for Channel {
    type Sender<T: OptionalSend + openraft::OptionalSync> = WatchSender<T>;
    type Receiver<T: OptionalSend + openraft::OptionalSync> = WatchReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = sync::watch::Ref<'a, T>;

    fn channel<T: OptionalSend + openraft::OptionalSync>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let (sender, receiver) = sync::watch::channel(init);
        (WatchSender(sender), WatchReceiver(receiver))
    }
}

impl<T: OptionalSend + openraft::OptionalSync> seam::WatchSender<Channel, T> for WatchSender<T> {
    fn send(&self, value: T) -> Result<(), seam::watch::SendError<T>> {
        self.0.send(value).map_err(|unsent| seam::watch::SendError(unsent.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> sync::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> WatchReceiver<T> {
        WatchReceiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + openraft::OptionalSync> seam::WatchReceiver<Channel, T> for WatchReceiver<T> {
    async fn changed(&mut self) -> Result<(), seam::RecvError> {
        self.0.changed().await.map_err(|_| seam::RecvError(()))
    }

    fn borrow_watched(&self) -> sync::watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> sync::watch::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

impl<T: OptionalSend + 'static> seam::Mutex<T> for Mutex<T> {
    type Guard<'a> = sync::MutexGuard<'a, T>;

    fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    async fn lock(&self) -> sync::MutexGuard<'_, T> {
        self.0.lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Duration = Duration::from_millis(200);

    fn at(micros: u64) -> rt::Instant {
        rt::Instant::from_nanos(10_000_000_000 + micros * 1000)
    }

    #[test]
    fn ticks_of_a_machine_come_together_and_never_early() {
        for machine in [0, 1, 77_777_777, u64::MAX] {
            let mut moments = std::collections::BTreeSet::new();
            for deadline in (5000..1_005_000).step_by(777) {
                let tick = on_grid(at(deadline), at(0), machine, GRID);
                assert!(tick >= at(deadline) && tick < at(deadline) + GRID);
                moments.insert(tick);
            }
            assert!(moments.len() <= 6, "{} moments in five steps", moments.len());
        }
    }

    #[test]
    fn machines_tick_at_moments_of_their_own() {
        let tick = |machine| on_grid(at(5000), at(0), machine, GRID);
        assert_ne!(tick(1), tick(50_000_000));
        assert_eq!(tick(7), on_grid(tick(7), at(0), 7, GRID));
    }

    /// Rounded up, each write to a log would take as long as a tick.
    #[test]
    fn what_ends_at_once_is_not_put_off() {
        assert_eq!(on_grid(at(1), at(0), 5, GRID), at(1));
        assert_eq!(on_grid(at(0), at(9), 5, GRID), at(0));
    }
}

//! Hybrid logical clock: epochs that follow the calendar and never step back.
//!
//! # Always true
//! 1. Two calls of [`Hlc::now`] on clones of one clock never return the same epoch, nor an older
//!    one after a newer.
//! 2. After `observe(e)` succeeded, every later `now()` is greater than `e`.
//! 3. A peer can pull the clock at most [`EPSILON`] ahead of this machine's calendar.
//!
//! # Not here
//! Persistence: whoever recovers a store observes the newest epoch it finds there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use types::Epoch;

use crate::time::wall_micros;

/// How far apart the calendars of two machines may be. Beyond it a peer is refused: following it
/// would drag every clock of the system into the future, and nothing could bring them back.
pub const EPSILON: Duration = Duration::from_millis(50);

/// A cheap handle on one clock; clones share it.
#[derive(Clone, Default)]
pub struct Hlc {
    last: Arc<AtomicU64>,
}

/// The observed epoch lies too far in the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "clock offset: the peer's clock is {ahead_micros} us ahead of this machine's, more than the {} ms allowed; \
     synchronise both machines (chrony or ntpd)",
    EPSILON.as_millis()
)]
pub struct ClockOffset {
    /// How far the observed epoch is ahead of the local calendar.
    pub ahead_micros: u64,
}

impl Hlc {
    pub fn new() -> Hlc {
        Hlc::default()
    }

    /// A fresh epoch: the calendar, or the successor of the last one if the calendar stands behind.
    ///
    /// Cost: a clock read and an uncontended compare-and-swap.
    pub fn now(&self) -> Epoch {
        let wall = Epoch::from_micros(wall_micros(), 0).0;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = wall.max(last + 1);
            match self.last.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Epoch(next),
                Err(seen) => last = seen,
            }
        }
    }

    /// The newest epoch handed out or observed, without making a new one.
    pub fn last(&self) -> Epoch {
        Epoch(self.last.load(Ordering::Acquire))
    }

    /// Takes note of an epoch seen in a message.
    ///
    /// # Errors
    /// [`ClockOffset`] when it is more than [`EPSILON`] ahead; the clock is then unchanged.
    pub fn observe(&self, seen: Epoch) -> Result<(), ClockOffset> {
        let wall = wall_micros();
        let ahead_micros = seen.micros().saturating_sub(wall);
        if ahead_micros > EPSILON.as_micros() as u64 {
            return Err(ClockOffset { ahead_micros });
        }
        self.last.fetch_max(seen.0, Ordering::AcqRel);
        Ok(())
    }

    /// Takes note of an epoch found in our own durable state, however far ahead it lies.
    ///
    /// A calendar that was set back must not make a store reuse epochs it has already given out.
    pub fn recover(&self, durable: Epoch) {
        assert!(durable < Epoch::MAX, "MAX means latest and is never stored");
        self.last.fetch_max(durable.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_strictly_increase_across_threads() {
        let clock = Hlc::new();
        let mut all: Vec<Epoch> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let clock = clock.clone();
                    scope.spawn(move || (0..5_000).map(|_| clock.now()).collect::<Vec<_>>())
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| {
                    let own = thread.join().unwrap();
                    assert!(own.windows(2).all(|pair| pair[0] < pair[1]));
                    own
                })
                .collect()
        });
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn an_observed_epoch_is_passed_by_the_next() {
        let clock = Hlc::new();
        let ahead = Epoch::from_micros(wall_micros() + 20_000, 9);
        clock.observe(ahead).unwrap();
        assert!(clock.now() > ahead);
    }

    #[test]
    fn a_clock_too_far_ahead_is_refused() {
        let clock = Hlc::new();
        let before = clock.now();
        let error = clock.observe(Epoch::from_micros(wall_micros() + 200_000, 0)).unwrap_err();
        assert!(error.ahead_micros > 100_000);
        assert!(error.to_string().contains("synchronise"));
        assert!(clock.now().micros() < before.micros() + 100_000);
        assert!(clock.observe(Epoch::MAX).is_err());
    }

    #[test]
    fn recovery_accepts_what_a_peer_may_not_send() {
        let clock = Hlc::new();
        let ahead = Epoch::from_micros(wall_micros() + 3_600_000_000, 0);
        clock.recover(ahead);
        assert!(clock.now() > ahead);
    }
}

//! Hybrid logical clock: epochs that follow the calendar and never step back.
//!
//! A server's clock is [`Hlc::steady`]: it does not follow a calendar that is set to another time while the server runs, but
//! goes on at the pace of the monotonic clock, until somebody who has compared it with others says [`Hlc::follow`]; and it
//! stands still until [`Hlc::run`], and from [`Hlc::halt`] on, so that a calendar that is wrong leaves no epochs behind.
//!
//! # Always true
//! 1. Two calls of [`Hlc::now`] on clones of one clock never return the same epoch, nor an older
//!    one after a newer.
//! 2. After `observe(e)` succeeded on a clock that runs, every later `now()` is greater than `e`.
//! 3. A peer can pull the clock at most [`EPSILON`] ahead of this machine's calendar.
//! 4. A clock that stands moves by its own counter only: neither the calendar nor a peer pulls it.
//!
//! # Not here
//! Persistence: whoever recovers a store observes the newest epoch it finds there. Whether the calendar is right: who can
//! ask others decides (`engine::service::clock`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use types::Epoch;

use crate::time::{now, wall_micros};

/// How far apart the calendars of two machines may be. Beyond it a peer is refused: following it
/// would drag every clock of the system into the future, and nothing could bring them back.
pub const EPSILON: Duration = Duration::from_millis(50);
const EPSILON_MICROS: u64 = EPSILON.as_micros() as u64;

/// A cheap handle on one clock; clones share it.
#[derive(Clone, Default)]
pub struct Hlc {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    last: AtomicU64,
    is_halted: AtomicBool,
    /// How far the calendar was ahead of the monotonic clock when it was looked at last and had not been set; in
    /// microseconds. Zero: follow the calendar wherever it goes.
    lead: AtomicI64,
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
    /// A clock that follows the calendar, however that is set: a client's, who is refused when it is wrong.
    pub fn new() -> Hlc {
        Hlc::default()
    }

    /// A server's clock: it stands until [`Hlc::run`], and does not follow a calendar that is set.
    pub fn steady() -> Hlc {
        let clock = Hlc::new();
        clock.follow();
        clock.halt();
        clock
    }

    /// A fresh epoch: the calendar, or the successor of the last one if the calendar stands behind.
    ///
    /// Cost: a clock read, or two after an idle moment, and an uncontended compare-and-swap.
    pub fn now(&self) -> Epoch {
        let mut last = self.shared.last.load(Ordering::Relaxed);
        let calendar = match self.shared.is_halted.load(Ordering::Acquire) {
            true => 0,
            false => Epoch::from_micros(self.calendar(Epoch(last).micros()), 0).0,
        };
        loop {
            let next = calendar.max(last + 1);
            match self.shared.last.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Epoch(next),
                Err(seen) => last = seen,
            }
        }
    }

    /// The calendar in microseconds, but where it would be had nobody set it. `near`: a time at which it stood lately; no
    /// other clock is read when it still stands there.
    fn calendar(&self, near: u64) -> u64 {
        let wall = wall_micros();
        let lead = self.shared.lead.load(Ordering::Acquire);
        if lead == 0 || wall.abs_diff(near) <= EPSILON_MICROS / 2 {
            return wall;
        }
        let monotonic = now().as_micros();
        let held = monotonic.saturating_add_signed(lead);
        if wall.abs_diff(held) > EPSILON_MICROS {
            return held;
        }
        // It is adjusted a little, all the time. Who follows it right now has set another, and that one counts.
        let adjusted = wall as i64 - monotonic as i64;
        let _ = self.shared.lead.compare_exchange(lead, adjusted, Ordering::AcqRel, Ordering::Relaxed);
        wall
    }

    /// By how many microseconds the calendar was set ahead (or back) since it was followed last; zero for a little.
    pub fn step_micros(&self) -> i64 {
        let held = self.calendar(0);
        match wall_micros() as i64 - held as i64 {
            step if step.unsigned_abs() > EPSILON_MICROS => step,
            _ => 0,
        }
    }

    /// Goes by the calendar as it stands now.
    pub fn follow(&self) {
        // Never zero, for a calendar that counts from 1970 beside a clock that counts from the machine's start.
        let lead = (wall_micros() as i64 - now().as_micros() as i64).max(1);
        self.shared.lead.store(lead, Ordering::Release);
    }

    /// Stands still from now on.
    pub fn halt(&self) {
        self.shared.is_halted.store(true, Ordering::Release);
    }

    /// Whether it stands: what it gives is then no time.
    pub fn is_halted(&self) -> bool {
        self.shared.is_halted.load(Ordering::Acquire)
    }

    /// Goes by the calendar again, which is right.
    pub fn run(&self) {
        self.shared.is_halted.store(false, Ordering::Release);
    }

    /// The newest epoch handed out or observed, without making a new one.
    pub fn last(&self) -> Epoch {
        Epoch(self.shared.last.load(Ordering::Acquire))
    }

    /// Takes note of an epoch seen in a message. A clock that stands takes none, and refuses none: who has yet to learn the
    /// time must be able to ask for it.
    ///
    /// # Errors
    /// [`ClockOffset`] when it is more than [`EPSILON`] ahead; the clock is then unchanged.
    pub fn observe(&self, seen: Epoch) -> Result<(), ClockOffset> {
        if self.shared.is_halted.load(Ordering::Acquire) {
            return Ok(());
        }
        let ahead_micros = seen.micros().saturating_sub(self.calendar(self.last().micros()));
        if ahead_micros > EPSILON_MICROS {
            return Err(ClockOffset { ahead_micros });
        }
        self.shared.last.fetch_max(seen.0, Ordering::AcqRel);
        Ok(())
    }

    /// Takes note of an epoch found in our own durable state, however far ahead it lies.
    ///
    /// A calendar that was set back must not make a store reuse epochs it has already given out.
    pub fn recover(&self, durable: Epoch) {
        assert!(durable < Epoch::MAX, "MAX means latest and is never stored");
        self.shared.last.fetch_max(durable.0, Ordering::AcqRel);
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

    /// A server's clock: a calendar that jumps leaves no epochs behind, and one that is followed again finds nothing in its way.
    #[test]
    fn a_steady_clock_does_not_follow_a_calendar_that_is_set() {
        use crate::sim::{Sim, SimConfig};
        const HOUR: u64 = 3_600_000_000;
        let sim = Sim::new(SimConfig::seeded(1));
        let node = sim.node("server");
        sim.run(async move {
            let jumping = crate::sim::current().spawn_on(node, async move {
                let sim = crate::sim::current();
                let clock = Hlc::steady();
                assert!(clock.now().micros() < HOUR, "it stands");
                clock.observe(Epoch::from_micros(wall_micros() + HOUR, 0)).unwrap();
                assert!(clock.now().micros() < HOUR, "and takes nothing from others");
                clock.run();
                let before = clock.now().micros();
                for (skew, step) in [(HOUR as i64, true), (-(HOUR as i64), true), (20_000, false), (0, false)] {
                    sim.set_clock_skew(node, skew);
                    crate::sleep(Duration::from_secs(1)).await;
                    let (now, passed) = (clock.now().micros(), clock.step_micros());
                    assert!((before..before + 10_000_000).contains(&now), "{skew}: {}", now - before);
                    assert_eq!(passed.unsigned_abs() > HOUR / 2, step, "{skew}: {passed}");
                }
                sim.set_clock_skew(node, HOUR as i64);
                clock.follow();
                assert!(clock.now().micros() >= before + HOUR);
            });
            jumping.await.unwrap();
        });
    }
}

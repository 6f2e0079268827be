//! How much of a target's time goes into getting what it is to have.
//!
//! What counts is time in which this target works on it, not in which it waits for an answer: groups come beside one another,
//! and what has come of them is compared and kept one part at a time. After a part the target rests in proportion, if requests
//! came meanwhile; so all groups together keep to the pool's `rebuild_budget`, and with nothing else to do nobody rests.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use types::ContainerId;

use super::{GROUPS_UNDER_WAY, HOLD};
use crate::target::Target;

/// Rests shorter than this are saved up: a timer is no finer.
const REST_MIN: Duration = Duration::from_millis(2);
/// Longest rest at once: all groups that are under way have one each, well before a hold ends.
const REST_MAX: Duration = Duration::from_millis(HOLD.as_millis() as u64 / (2 * GROUPS_UNDER_WAY as u64));
/// The share of a pool that nobody knows of, in percent.
const BUDGET: u32 = 30;

#[derive(Default)]
pub(in crate::target) struct Pace {
    turn: Mutex<()>,
    /// Worked, and not rested for.
    worked: Cell<Duration>,
    /// Requests that had been served when it last rested, or found no reason to.
    seen: Cell<u64>,
}

impl Pace {
    /// Waits for its turn: parts are kept one at a time.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Does something that counts.
    pub(super) fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = rt::now();
        let done = work();
        self.spent(began.elapsed());
        done
    }

    pub(super) fn spent(&self, time: Duration) {
        self.worked.set(self.worked.get() + time);
    }

    /// How long to rest now, for `percent` of the time; `served` counts requests so far.
    fn rest(&self, percent: u32, served: u64) -> Duration {
        if self.seen.get() == served {
            self.worked.set(Duration::ZERO);
            return Duration::ZERO;
        }
        let rest = rest_of(self.worked.get(), percent);
        if rest < REST_MIN {
            return Duration::ZERO;
        }
        self.worked.set(Duration::ZERO);
        self.seen.set(served);
        rest.min(REST_MAX)
    }
}

impl Target {
    /// Lets requests go first for a while, if any came since the last time.
    pub(super) async fn give_way(&self, container: ContainerId) {
        let pool = self.store.borrow().pool_of(container).ok();
        let percent = pool.and_then(|pool| self.groups.budget(pool)).unwrap_or(BUDGET);
        match self.pace.rest(percent, self.upkeep.served_so_far()) {
            Duration::ZERO => rt::yield_now().await,
            rest => rt::sleep(rest).await,
        }
    }
}

/// The time that is left to requests when work of `spent` is to take `percent` of all.
fn rest_of(spent: Duration, percent: u32) -> Duration {
    let percent = percent.clamp(1, 100);
    spent * (100 - percent) / percent
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rest_leaves_to_requests_what_the_budget_does_not_take() {
        for (percent, rest_ms) in [(50, 10), (100, 0), (20, 40), (1, 990), (0, 990), (80, 2)] {
            let rest = rest_of(10 * MS, percent);
            assert_eq!(rest.as_millis(), rest_ms, "{percent} %");
        }
    }

    #[test]
    fn nobody_rests_while_no_request_comes() {
        let pace = Pace::default();
        pace.spent(100 * MS);
        assert_eq!(pace.rest(50, 0), Duration::ZERO);
        // And what was done then is not paid for later.
        pace.spent(10 * MS);
        assert_eq!(pace.rest(50, 1), 10 * MS);
        pace.spent(10 * MS);
        assert_eq!(pace.rest(50, 1), Duration::ZERO, "no other has come since");
    }

    #[test]
    fn what_several_groups_did_is_rested_for_together() {
        let pace = Pace::default();
        pace.spent(MS);
        assert_eq!(pace.rest(50, 1), Duration::ZERO, "too short for a timer");
        pace.spent(MS);
        assert_eq!(pace.rest(50, 2), 2 * MS, "and not forgotten");
        pace.spent(3600 * 1000 * MS);
        assert_eq!(pace.rest(50, 3), REST_MAX, "no longer than holds last");
    }
}

//! Widths of groups that targets of this server are asked to write, and that their pools do not have in use yet.
//!
//! A pool's state has the widths of which any group may hold data, so that healing asks only about these
//! (`service::healing`). A target that leads a group of another width tells here that it is wanted, and waits until the
//! state that it is told of has it; the pool's agent passes that on to the pool's leader. It happens once in a pool's life
//! for each class of objects that is as wide.
//!
//! ```text
//!   target: want ---> agent: report ---> leader: use widths ---> state ---> agent: satisfy; view ---> target: writes
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use types::PoolId;

/// What is wanted: shared by the control service and the targets of one server.
#[derive(Clone, Default)]
pub struct WantedWidths(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// At most as many a pool as there are widths.
    wanted: Mutex<BTreeSet<(PoolId, u32)>>,
    changed: Notify,
}

impl WantedWidths {
    /// Says that a width is wanted; again, that it still is.
    pub fn want(&self, pool: PoolId, width: u32) {
        if self.with(|wanted| wanted.insert((pool, width))) {
            self.0.changed.notify_waiters();
        }
    }

    /// What is wanted of a pool beside what it has in use, which is wanted no longer.
    pub fn of(&self, pool: PoolId, in_use: impl Fn(u32) -> bool) -> BTreeSet<u32> {
        self.with(|wanted| {
            wanted.retain(|(of, width)| *of != pool || !in_use(*width));
            wanted.range((pool, 0)..=(pool, u32::MAX)).map(|(_, width)| *width).collect()
        })
    }

    /// The pool is gone.
    pub fn forget(&self, pool: PoolId) {
        self.of(pool, |_| true);
    }

    /// Ends when something more is wanted, of any pool, from this call on.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeSet<(PoolId, u32)>) -> T) -> T {
        // Whoever panicked had changed all or nothing.
        f(&mut self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_so_until_the_pool_has_it_in_use() {
        let (one, two) = (PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16]));
        let widths = WantedWidths::default();
        [(one, 2), (one, 3), (two, 2), (one, 2)].into_iter().for_each(|(pool, width)| widths.want(pool, width));
        assert_eq!(widths.of(one, |_| false), BTreeSet::from([2, 3]));
        assert_eq!(widths.of(one, |width| width == 2), BTreeSet::from([3]));
        assert_eq!(widths.of(one, |_| false), BTreeSet::from([3]));
        assert_eq!(widths.of(two, |_| false), BTreeSet::from([2]), "another pool's");
        widths.forget(two);
        assert_eq!(widths.of(two, |_| false), BTreeSet::new());
    }
}

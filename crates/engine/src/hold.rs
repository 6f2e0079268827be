//! Holding back the horizons while a snapshot is being made.
//!
//! Behind a container's horizon only snapshots are kept. A new snapshot's epoch is chosen before the
//! targets hear of it, so between the two a target could move the horizon beyond it. The hold closes
//! that gap without a lock:
//!
//! - the service takes the hold, *then* reads the clock for the snapshot's epoch `s`;
//! - a target reads the clock for its horizon `h`, *then* looks at the hold, and moves without a pause.
//!
//! If the target saw no hold, the service reads `s` after that look, from the same clock: `h < s`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Shared by the control service and the targets of one server.
#[derive(Clone, Default)]
pub struct HorizonHold(Arc<AtomicU32>);

/// Horizons wait while one of these lives.
pub struct Held(Arc<AtomicU32>);

impl HorizonHold {
    pub fn take(&self) -> Held {
        self.0.fetch_add(1, Ordering::SeqCst);
        Held(self.0.clone())
    }

    pub fn is_held(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_lasts_until_its_last_holder_lets_go() {
        let hold = HorizonHold::default();
        assert!(!hold.is_held());
        let (one, two) = (hold.take(), hold.clone().take());
        drop(one);
        assert!(hold.is_held());
        drop(two);
        assert!(!hold.is_held());
    }
}

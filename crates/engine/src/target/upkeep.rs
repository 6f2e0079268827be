//! Upkeep: giving back the space of what nobody can see any more.
//!
//! Sleeps until something was hidden or destroyed; then works in small steps, letting every waiting
//! request go first between two of them.

use std::rc::Rc;
use std::time::Duration;

use super::{Target, is_pressure};

/// Steps of the store's upkeep between two pauses: well under a millisecond of the target's thread.
const STEPS: usize = 1;
/// Pause before the next try while a snapshot is being made or the store is under pressure.
const PAUSE: Duration = Duration::from_millis(5);

impl Target {
    /// Runs for the life of the target.
    pub(super) async fn upkeep(self: Rc<Self>) {
        loop {
            if self.hold.is_held() {
                rt::sleep(PAUSE).await;
                continue;
            }
            let step = self.store.borrow_mut().maintain(STEPS);
            match step {
                Ok(true) => rt::yield_now().await,
                Ok(false) => self.work.notified().await,
                Err(error) if is_pressure(&error) => rt::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(target_index = %self.index, %error, "upkeep stopped: space is no longer given back");
                    return;
                }
            }
        }
    }
}

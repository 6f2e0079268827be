//! Data that gets another home: what a target gives to those who are to have it, and how it gets what it is to have.
//!
//! ```text
//!   target that is to have a group             leader of the group
//!     pull  -- CopyList ----------------------->  which groups have data
//!   range by range, of what is here:
//!           -- CopyDigest --------------------->  hold the container; the same sum? then go on
//!           -- Copy: what is here ------------->  records that are missing, in order; what both have
//!      take out what is too much,                                                        (`serve`)
//!      store what is missing, durable
//!   of all:
//!           -- CopyDigest --------------------->  the same sum?
//!           -- CopyMemory --------------------->  which requests took effect                  (`memory`)
//! ```
//!
//! # Always true
//! 1. A group counts as here only when its sum over all that is decided is the leader's (K12: whoever serves has the data).
//! 2. All parts of a group are read, and taken in, under one hold of the container on either side; when a hold has ended
//!    meanwhile, the group is begun again.
//! 3. Whoever has a group remembers which of its requests took effect (K5).
//! 4. Nothing here waits without a bound, and a part is bounded.
//!
//! # Not here
//! Which groups a target is to have (`placement`), who is asked (`group`), and who hears of the end (`service`). What is
//! written meanwhile comes to both as to members of the group.

mod memory;
mod pace;
mod pull;
mod serve;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use types::ContainerId;

pub(super) use pace::Pace;
pub use pull::{Pulled, Source};

/// How long a container is held for somebody who copies, from his last request on.
const HOLD: Duration = Duration::from_secs(10);
/// How long room is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Groups of a pool that are got at the same time: one is written while the others are read and on their way. Each has two
/// parts in memory.
pub(super) const GROUPS_UNDER_WAY: usize = 4;

/// Containers that are held.
#[derive(Default)]
pub(super) struct Holds {
    table: RefCell<BTreeMap<ContainerId, Hold>>,
}

struct Hold {
    number: u64,
    until: rt::Instant,
}

impl Holds {
    /// Holds a container from now on, or for longer: the number of the hold, and whether it begins.
    fn renew(&self, container: ContainerId) -> (u64, bool) {
        let mut table = self.table.borrow_mut();
        let until = rt::now() + HOLD;
        match table.get_mut(&container) {
            Some(hold) => {
                hold.until = until;
                (hold.number, false)
            }
            None => {
                // Never that of an earlier hold, or of an earlier life.
                let number = rt::random_u64();
                table.insert(container, Hold { number, until });
                (number, true)
            }
        }
    }

    /// How long until the next hold ends; `None` when there is none.
    pub(super) fn due(&self) -> Option<Duration> {
        let now = rt::now();
        self.table.borrow().values().map(|hold| hold.until - now).min()
    }

    /// Ends what is over; returns whose.
    fn end(&self) -> Vec<ContainerId> {
        let now = rt::now();
        let mut table = self.table.borrow_mut();
        let over: Vec<ContainerId> = table.iter().filter(|(_, hold)| hold.until <= now).map(|(id, _)| *id).collect();
        table.retain(|id, _| !over.contains(id));
        over
    }
}

impl super::Target {
    /// Holds a container for a while; the number of the hold.
    fn hold(&self, container: ContainerId) -> Result<u64, types::Error> {
        let (number, begins) = self.holds.renew(container);
        if begins {
            let held = self.store.borrow_mut().hold(container, true);
            held.map_err(|error| self.refusal(container, error))?;
            // Upkeep has to wake when it ends.
            self.upkeep.wake();
        }
        Ok(number)
    }

    /// Lets containers go whose holds are over.
    pub(super) fn end_holds(&self) {
        for container in self.holds.end() {
            // It may be gone; then nothing is held.
            let _ = self.store.borrow_mut().hold(container, false);
        }
    }
}

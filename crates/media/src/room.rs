//! A file system without room has not failed.
//!
//! A store's regions may be files with holes, and files of others lie beside them: a write to a block that the store has
//! may find no room all the same. What was to be written then waits, and is written when there is room; nothing
//! behind it is, so that the order of the log and of a checkpoint stays what it was. Meanwhile whatever adds data is refused
//! ([`Error::DiskFull`]), everything acknowledged can be read, and who waits for what is in the log already goes on
//! waiting: it has been applied, and nobody can say that it did not happen.
//!
//! # Not here
//! Bulk data (`bulk`): its writer waits for it and is told, because nothing refers to it yet. A sync that finds no room: the
//! kernel has dropped what it could not write, which is a failure.

use std::time::Duration;

use rt::disk::IoBuf;

use crate::error::{Device, Error, Failed, Result};
use crate::region::{Cause, Region, Trouble, TroubleKind};
use crate::store::Shared;

/// How often a full disk is tried again.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// How a write becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synced {
    /// It is, when the write ends.
    Included,
    /// By a sync that follows.
    Follows,
}

impl Shared {
    /// Writes, as soon as there is room for it.
    pub(crate) async fn write_with_room(
        &self,
        device: Device,
        region: &Region,
        offset: u64,
        bytes: IoBuf,
        synced: Synced,
    ) -> (std::result::Result<(), Failed>, IoBuf) {
        let mut bytes = bytes;
        loop {
            let limit = self.watch.limit.get();
            let (outcome, back) = match synced {
                Synced::Included => region.write_durable(offset, bytes, limit).await,
                Synced::Follows => region.write(offset, bytes, limit).await,
            };
            bytes = back;
            match outcome {
                Ok(()) => {
                    self.note_room();
                    return (Ok(()), bytes);
                }
                Err(Trouble { cause, kind: TroubleKind::Full }) if !self.is_ending.get() => {
                    self.note_full(device, cause);
                    let over = self.wanted.until(|| (self.is_over() || self.is_ending.get()).then_some(()));
                    // Either way it is tried once more.
                    let _ = rt::timeout(LOOK_FOR_ROOM, over).await;
                }
                Err(trouble) => return (Err(self.failed_by(device, trouble)), bytes),
            }
        }
    }

    fn note_full(&self, device: Device, cause: Cause) {
        let mut full = self.full.borrow_mut();
        if full.is_none() {
            tracing::error!(%device, %cause, "a disk is full: the store takes nothing more until there is room");
            *full = Some((device, cause));
            drop(full);
            // Who waits to be relieved will not be: it is to be told.
            self.relieved.wake();
        }
    }

    fn note_room(&self) {
        if self.full.borrow_mut().take().is_some() {
            tracing::info!("there is room on the disk again");
            self.relieved.wake();
        }
    }

    /// # Errors
    /// `DiskFull`, as long as something waits for room.
    pub(crate) fn has_disk_room(&self) -> Result<()> {
        match &*self.full.borrow() {
            Some((device, cause)) => Err(Error::DiskFull { device: *device, cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

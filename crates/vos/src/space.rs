//! Bulk blocks between allocation and the tree, and what pools may use.

use std::cell::Cell;
use std::rc::Rc;

use types::PoolId;

use crate::request::BulkList;

/// A run of blocks of the data device.
pub use media::Extent as BulkExtent;

/// Blocks set aside for one payload, within the quota of its pool. Dropped before an update took it, it
/// gives them back.
#[derive(Debug)]
pub struct Reservation {
    pool: PoolId,
    bytes: u64,
    blocks: Blocks,
    /// Blocks that the pool's reservations hold together; this one's share is in it while `held`.
    reserved: Rc<Cell<u64>>,
    held: Cell<u64>,
}

#[derive(Debug)]
enum Blocks {
    Live(media::Reservation),
    /// Named by a log record that is being applied again.
    Replayed(BulkList),
}

impl Reservation {
    pub(crate) fn live(pool: PoolId, inner: media::Reservation, reserved: Rc<Cell<u64>>) -> Reservation {
        let held = inner.extents().iter().map(|piece| u64::from(piece.blocks)).sum();
        reserved.set(reserved.get() + held);
        Reservation { pool, bytes: inner.bytes(), blocks: Blocks::Live(inner), reserved, held: Cell::new(held) }
    }

    pub(crate) fn replayed(pieces: BulkList, bytes: u64) -> Reservation {
        Reservation {
            pool: PoolId::from_bytes([0; 16]),
            bytes,
            blocks: Blocks::Replayed(pieces),
            reserved: Rc::default(),
            held: Cell::new(0),
        }
    }

    /// Where the payload goes, in order.
    pub fn extents(&self) -> &[BulkExtent] {
        match &self.blocks {
            Blocks::Live(inner) => inner.extents(),
            Blocks::Replayed(pieces) => pieces,
        }
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// For [`media::Store::bulk_write`]. `None` for one read back from the log.
    pub fn media(&self) -> Option<&media::Reservation> {
        match &self.blocks {
            Blocks::Live(inner) => Some(inner),
            Blocks::Replayed(_) => None,
        }
    }

    /// The pool whose quota it counts against.
    pub(crate) fn pool(&self) -> PoolId {
        self.pool
    }

    /// An update took it already.
    pub(crate) fn is_taken(&self) -> bool {
        self.held.get() == 0
    }

    /// The blocks are the tree's from now on, and counted there.
    pub(crate) fn take(&self, media: &media::Store) {
        if let Blocks::Live(inner) = &self.blocks {
            media.commit(inner);
        }
        self.uncount();
    }

    fn uncount(&self) {
        self.reserved.set(self.reserved.get() - self.held.replace(0));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.uncount();
    }
}

//! Bulk blocks between allocation and the tree: reservations, and holds of readers.

use std::rc::Rc;

/// A run of blocks of the data device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BulkExtent {
    pub block: u32,
    pub blocks: u32,
}

/// Blocks set aside for one payload. Dropped before an update took it, it gives them back.
#[derive(Debug)]
pub struct Reservation {
    extents: crate::request::BulkList,
    bytes: u64,
}

impl Reservation {
    /// Where to write the payload, in order.
    pub fn extents(&self) -> &[BulkExtent] {
        &self.extents
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Keeps blocks from being reused while a reader may look at them.
#[derive(Clone, Debug)]
pub(crate) struct ReadHold(#[allow(dead_code)] Rc<()>);

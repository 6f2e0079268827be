//! Page store, write-ahead log and bulk extents of one target, with crash-proof recovery.
//!
//! One persistence model: pages in memory, a redo log on the fastest durable medium, checkpoints to the
//! data device, bulk data straight to the data device.
//!
//! # Shape
//! ```text
//!            append                  get / get_mut                  reserve / bulk_write
//!              |                          |                                 |
//!            [log] -- durable -->     [pages] -- checkpoint -->  [space]    |
//!              |                          |                         |       |
//!   log region | header | batches ... |   |   data region | superblocks | bitmap | pages, root, bulk |
//! ```
//! A [`Store`] lies in two [`Regions`], a file or a slice of a block device each. Start at [`Store::format`],
//! [`Store::open`], [`Store::append`].
//!
//! # What is assumed of the medium
//! As `rt::disk` says: nothing is durable before a sync; until then each 512-byte sector of a write may be
//! kept, lost or torn, in any order. Nothing is taken to be atomic. A sync that failed is never tried again.
//! A device that does not answer within [`IO_TIMEOUT`] failed: nobody waits for it longer.
//! A log may be mapped persistent memory; then the unit is a cache line, and a record is durable without a wait.
//! Found by checksum and by what each structure says of itself: flipped bits, torn, lost and misdirected
//! writes; not mended here, but by another replica.
//!
//! # Always true
//! - K6: after recovery the store holds a prefix of its records, at least all acknowledged ones; recovering
//!   twice is recovering once.
//! - K7: a page goes to the device after its log; the log is cut only behind a durable checkpoint.
//! - K8: allocated + free + fenced + quarantined + reserved = capacity, and every block has one owner.
//! - K9: a block is not rewritten while a reader, a pin or a checkpoint may still look at it.
//!
//! # Not here
//! What records and pages mean (`vos`), checksums of bulk data (`vos`), disks themselves (`rt`). No locks:
//! a store lives on one thread.

mod bulk;
mod check;
mod checkpoint;
mod error;
#[cfg(test)]
mod golden;
mod header;
mod inspect;
mod log;
mod page;
mod pages;
mod reconcile;
mod recover;
mod region;
mod resize;
mod room;
mod root;
mod scrub;
mod service;
mod signal;
mod space;
mod stage;
mod staging;
mod store;
mod superblock;
mod watch;

pub use bulk::{BulkSource, Reservation, pieces_of};
pub use error::{Corrupt, Device, Error, Failed, Fault, FormatError, Place, ResizeError, Result};
pub use header::{RegionHeader, decode_region_header};
pub use inspect::{CheckpointFacts, Glance};
pub use log::append::LOG_BYTES_MIN;
pub use log::record::{
    BATCH_HEADER_BYTES, BatchHeader, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, decode_batch_header,
    decode_record, verify_batch,
};
pub use log::scan::Record;
pub use log::{Lsn, Reserve};
pub use page::{PAGE_BODY_BYTES, PAGE_BYTES, PAGE_HEADER_BYTES, PAGE_VERSION, Page, PageHeader, PageId, decode_page};
pub use pages::map::{MAP_ENTRIES, MapPage};
pub use pages::pool::{FRAMES_MIN, Pages, PoolUse, prefetch};
pub use reconcile::{DIFFERENCES_MAX, Leaks, Reconciliation};
pub use recover::{DATA_BYTES_MAX, DATA_BYTES_MIN, Existing, Identity, Recovered, Recovery};
pub use region::{BLOCK_BYTES, IO_TIMEOUT, Region, Regions};
pub use resize::{Backing, Fenced};
pub use root::{ROOT_BYTES_MAX, Root, RootBlock, decode_root, decode_root_block};
pub use scrub::ScrubbedPages;
pub use space::bitmap::{BITMAP_BLOCKS, BitmapPage};
pub use space::{BULK_BYTES_MAX, Extent, PIECES_MAX, PinGuard, SpaceUse};
pub use stage::{STAGED_BYTES_MAX, STAGED_BYTES_MIN, StageUse};
pub use staging::Staging;
pub use store::{CHECKPOINT_INTERVAL, Durable, Store, Usage};
pub use superblock::{FORMAT_VERSION, Superblock, decode_superblock};
pub use watch::DeviceWatch;

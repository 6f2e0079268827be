//! Page store, write-ahead log and bulk extents of one target.

mod error;
mod page;
mod pages;

pub use error::{Corrupt, Device, Error, Failed, Fault, FormatError, Place, Result};
pub use page::{
    PAGE_BODY_BYTES, PAGE_BYTES, PAGE_HEADER_BYTES, PAGE_VERSION, Page, PageHeader, PageId, decode_page,
};
pub use pages::map::{MAP_ENTRIES, MapPage};
pub use pages::pool::{FRAMES_MIN, Pages, PoolUse};

/// Log sequence number: a byte position in the log since the store was created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

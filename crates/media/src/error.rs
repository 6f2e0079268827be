//! What can go wrong in a store, one variant for each thing the caller can do about it.

use std::fmt;
use std::sync::Arc;

use codec::checksum::Mismatch;

use crate::{Lsn, PageId};

/// The answer of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A write or a sync failed earlier, or a device did not answer: the store accepts nothing more. What was acknowledged is on
    /// the device. Restart the target after mending the device.
    #[error(transparent)]
    Failed(#[from] Failed),

    /// The store was stopped in good order; open it again.
    #[error("the store is stopped")]
    Stopped,

    /// This read failed; the store goes on. Try another replica.
    #[error("cannot read {place} from the {device} device: {cause}")]
    Read { place: Place, device: Device, cause: Arc<str> },

    /// Bytes on the device are not what was written. Other data stays readable.
    #[error("{0}")]
    Corrupt(#[from] Corrupt),

    /// A payload to be written is not what its checksums say: it was damaged on its way. Send it again.
    #[error("data arrived damaged: {0}")]
    Arrived(Mismatch),

    /// No page has this id: a reference to it is wrong.
    #[error("{0} does not exist")]
    UnknownPage(PageId),

    /// The data region is full. Deleting (`Reserve::Critical`) is still possible, and makes room.
    #[error("no space: {wanted} bytes wanted, {free} free")]
    NoSpace { wanted: u64, free: u64 },

    /// The file system beneath a device has no room, whatever the store's own allocation says. Nothing was written, and the store
    /// goes on: what is there can be read, and this is taken when there is room.
    #[error("the {device} device has no room: {cause}")]
    DiskFull { device: Device, cause: Arc<str> },

    /// The log has no room until a checkpoint finishes: wait for `Store::relieved`, then retry.
    #[error("the log is full: {used} of {bytes} bytes wait for a checkpoint")]
    LogFull { used: u64, bytes: u64 },

    /// More pages are changed in memory than the budget allows: wait for `Store::relieved`, then retry.
    #[error("too many changed pages in memory ({dirty} of {frames} frames) until a checkpoint finishes")]
    Busy { dirty: u64, frames: u64 },

    /// One operation touched more pages than fit in memory. Do it in smaller pieces, or raise the
    /// memory budget of the target.
    #[error("an operation needs more than {frames} pages in memory")]
    NoMemory { frames: u64 },

    /// A record, a root or a bulk request over its limit.
    #[error("{bytes} bytes where at most {bytes_max} are allowed")]
    TooLarge { bytes: u64, bytes_max: u64 },

    /// The data region cannot have that size; the text says why.
    #[error(transparent)]
    Resize(#[from] ResizeError),

    /// The region holds no store we can open; the text says which, why and what to do.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// The device that stopped a store, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {device} device failed: {cause}; the store takes no more work until it is restarted")]
pub struct Failed {
    pub device: Device,
    pub cause: Arc<str>,
}

/// Which of a store's regions, by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Log,
    /// Superblocks, bitmap and pages, when they have a region of their own.
    Metadata,
    /// Bulk data; and superblocks, bitmap and pages, unless they have a region of their own.
    Data,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Log => "log",
            Device::Metadata => "metadata",
            Device::Data => "data",
        })
    }
}

/// Where in a store something lies, as an operator would look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Superblock copy 0 or 1 of the region with the pages.
    Superblock { copy: u32 },
    /// Header block of the log region.
    LogHeader,
    /// Header block of a data region that holds no pages.
    DataHeader,
    /// A log batch or record that starts at `lsn`.
    Log { lsn: Lsn },
    /// A page of a tree.
    Page { page: PageId, block: u32 },
    /// A page of the page map.
    Map { index: u32, block: u32 },
    /// A page of the block bitmap.
    Bitmap { index: u32, block: u32 },
    /// A block of the root blob.
    Root { block: u32 },
    /// Bulk data.
    Bulk { block: u32 },
}

impl Place {
    /// Whether it is the header of a region: what it says can be derived from the superblock.
    pub fn is_header(&self) -> bool {
        matches!(self, Place::LogHeader | Place::DataHeader)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Superblock { copy } => write!(f, "superblock {copy}"),
            Place::LogHeader => f.write_str("the header of the log region"),
            Place::DataHeader => f.write_str("the header of the data region"),
            Place::Log { lsn } => write!(f, "log position {lsn}"),
            Place::Page { page, block } => write!(f, "{page} at block {block}"),
            Place::Map { index, block } => write!(f, "page map {index} at block {block}"),
            Place::Bitmap { index, block } => write!(f, "bitmap {index} at block {block}"),
            Place::Root { block } => write!(f, "root blob at block {block}"),
            Place::Bulk { block } => write!(f, "bulk data at block {block}"),
        }
    }
}

/// Bytes on a device that fail their check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("corruption of {place}: {fault}")]
pub struct Corrupt {
    pub place: Place,
    pub fault: Fault,
}

/// What is wrong with some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("checksum stored {stored:#010x}, computed {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    /// Valid bytes, but of something else: a misdirected or lost write.
    #[error("{field} is {stored}, expected {expected}")]
    Field { field: &'static str, stored: u64, expected: u64 },
    /// The checksum holds, but the owner of the page cannot have written this.
    #[error("contents that its owner never writes")]
    Contents,
    /// Fewer bytes than the format needs.
    #[error("{bytes} bytes where {expected} are needed")]
    Short { bytes: u64, expected: u64 },
    /// Acknowledged records follow this one, so it was once whole.
    #[error("unreadable, but acknowledged records follow at {later}")]
    Gap { later: Lsn },
    /// Two owners claim a block, or nobody claims an allocated one (K8).
    #[error("block {block} is {state}")]
    Block { block: u32, state: &'static str },
}

/// Why a data region cannot have a size, and what it could have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    #[error("{bytes} bytes are too few for a data region: it needs {bytes_min}")]
    TooSmall { bytes: u64, bytes_min: u64 },
    #[error("{bytes} bytes are too many: the region was made to grow to {bytes_max} at most")]
    TooLarge { bytes: u64, bytes_max: u64 },
    /// Delete something, or ask for more.
    #[error("it holds {held} bytes, and with that size there is room for {room}")]
    TooFull { held: u64, room: u64 },
    /// Give the device more first.
    #[error("{region} has {bytes} bytes where {needed} are needed")]
    Device { region: Arc<str>, bytes: u64, needed: u64 },
    /// Nothing changed.
    #[error("{region}: {cause}")]
    Extend { region: Arc<str>, cause: Arc<str> },
    /// Try again in a moment.
    #[error("the region is getting another size just now")]
    UnderWay,
    /// Writers needed the room: try again when there is more.
    #[error("writers needed the space that was to go")]
    Yielded,
}

/// Why a region cannot be opened or formatted, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{region} holds no store: format it first")]
    NotFormatted { region: Arc<str> },
    #[error("{region} already holds the store {store}: remove it, or format with force to destroy its data")]
    AlreadyFormatted { region: Arc<str>, store: Arc<str> },
    #[error(
        "both superblocks of {region} are unreadable ({first}; {second}): restore the region from a copy, or \
         format it with force and let the system rebuild its data"
    )]
    BothSuperblocks { region: Arc<str>, first: Fault, second: Fault },
    #[error("{region} has format version {version}, this program knows {known}: use the program that wrote it")]
    Version { region: Arc<str>, version: u32, known: u32 },
    #[error("{region} holds {found}, where {expected} is needed: put the devices back in their places")]
    Mismatch { region: Arc<str>, found: Arc<str>, expected: Arc<str> },
    #[error(
        "{region} holds nothing of this store, where {expected} is needed: attach the device that was there when \
         the store was made, or restore it from a copy"
    )]
    Missing { region: Arc<str>, expected: Arc<str> },
    #[error("{region} has {bytes} bytes where {needed} are needed")]
    TooSmall { region: Arc<str>, bytes: u64, needed: u64 },
    #[error("{region} has {bytes} bytes where at most {bytes_max} can be addressed: split it between targets")]
    TooLarge { region: Arc<str>, bytes: u64, bytes_max: u64 },
    #[error("{region}: {cause}")]
    Device { region: Arc<str>, cause: Arc<str> },
}

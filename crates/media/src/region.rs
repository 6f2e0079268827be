//! A region: the part of a file or block device that one store uses in one role: log, metadata or data.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rt::disk::{Disk, DiskError, IoBuf};

use crate::error::Device;

/// Bytes of a block: the unit of allocation, of direct I/O, and of what a store rewrites.
pub const BLOCK_BYTES: usize = 4096;

/// What an I/O error said, short enough to keep in an error and to clone with it.
pub(crate) type Cause = Arc<str>;

/// A range of a disk. Clones share the disk, and the size.
#[derive(Clone, Debug)]
pub struct Region {
    pub disk: Disk,
    /// First byte, a multiple of [`BLOCK_BYTES`].
    pub base: u64,
    bytes: Rc<Cell<u64>>,
}

/// The regions of a store. They may lie on one device.
///
/// Blocks have one numbering. With `metadata`, its blocks come first, and those of `data` follow, without the
/// header block that `data` then begins with.
#[derive(Clone, Debug)]
pub struct Regions {
    pub log: Region,
    /// Superblocks, bitmap and pages. Absent: they share `data` with bulk data.
    pub metadata: Option<Region>,
    pub data: Region,
}

impl Regions {
    /// The region with superblocks, bitmap and pages.
    pub(crate) fn pages(&self) -> &Region {
        self.metadata.as_ref().unwrap_or(&self.data)
    }

    /// What the region with the pages is called.
    pub(crate) fn page_device(&self) -> Device {
        match self.metadata {
            Some(_) => Device::Metadata,
            None => Device::Data,
        }
    }

    /// Every region with its role.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Device, &Region)> {
        let metadata = self.metadata.as_ref().map(|region| (Device::Metadata, region));
        [(Device::Log, &self.log)].into_iter().chain(metadata).chain([(Device::Data, &self.data)])
    }

    /// The first block of a data region that holds no pages; 0 when it does.
    pub(crate) fn bulk_start(&self) -> u32 {
        self.metadata.as_ref().map_or(0, |region| (region.bytes() / BLOCK_BYTES as u64) as u32)
    }

    /// All blocks, of metadata and data.
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks_with(self.data.bytes())
    }

    /// All blocks, were the data region of `bytes` bytes: whole blocks, a header at least if it begins with one.
    pub(crate) fn blocks_with(&self, bytes: u64) -> u32 {
        let header = u64::from(self.metadata.is_some());
        self.bulk_start() + (bytes / BLOCK_BYTES as u64 - header) as u32
    }

    /// Size of the data region that has `blocks` blocks in all, those of metadata included.
    pub(crate) fn data_bytes_of(&self, blocks: u32) -> u64 {
        let header = u64::from(self.metadata.is_some());
        (u64::from(blocks - self.bulk_start()) + header) * BLOCK_BYTES as u64
    }

    /// Where in the data region a block of bulk data begins.
    #[inline]
    pub(crate) fn bulk_offset(&self, block: u32) -> u64 {
        let block = match &self.metadata {
            Some(_) => block - self.bulk_start() + 1,
            None => block,
        };
        block as u64 * BLOCK_BYTES as u64
    }
}

impl Region {
    /// `bytes` bytes of `disk` from `base` on.
    pub fn new(disk: Disk, base: u64, bytes: u64) -> Region {
        Region { disk, base, bytes: Rc::new(Cell::new(bytes)) }
    }

    /// Its size. That of a data region changes when it is resized.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bytes.set(bytes);
    }

    /// The whole of a file or device at its present size.
    ///
    /// # Errors
    /// The size cannot be read.
    pub fn whole(disk: Disk) -> Result<Region, DiskError> {
        let bytes = disk.len()?;
        Ok(Region::new(disk, 0, bytes))
    }

    /// All of a file or device from `base` on: for opening, where the superblock says how much of it is the store's.
    ///
    /// # Errors
    /// The size cannot be read.
    pub fn from_base(disk: Disk, base: u64) -> Result<Region, DiskError> {
        let bytes = disk.len()?.saturating_sub(base);
        Ok(Region::new(disk, base, bytes))
    }

    /// How an operator knows the region.
    pub(crate) fn name(&self) -> Arc<str> {
        let path = self.disk.path();
        match self.base {
            0 => path.display().to_string().into(),
            base => format!("{} from byte {base}", path.display()).into(),
        }
    }

    pub(crate) fn read_now(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Cause> {
        self.check(offset, bytes.len());
        self.disk.read_now(self.base + offset, bytes).map_err(told)
    }

    /// As [`Disk::read_many_now`], at offsets in the region.
    pub(crate) fn read_many_now(&self, reads: &mut [(u64, &mut [u8])]) -> Vec<Result<(), Cause>> {
        for (offset, bytes) in reads.iter_mut() {
            self.check(*offset, bytes.len());
            *offset += self.base;
        }
        self.disk.read_many_now(reads).into_iter().map(|outcome| outcome.map_err(told)).collect()
    }

    pub(crate) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<(), Cause> {
        self.check(offset, bytes.len());
        self.disk.write_now(self.base + offset, bytes).map_err(told)
    }

    pub(crate) fn sync_now(&self) -> Result<(), Cause> {
        self.disk.sync_now().map_err(told)
    }

    /// As [`Disk::read`]; ends after `limit` in any case, without the buffer.
    pub(crate) async fn read(&self, offset: u64, buffer: IoBuf, limit: Duration) -> (Result<(), Trouble>, IoBuf) {
        self.check(offset, buffer.len());
        self.bounded("read", limit, self.disk.read(self.base + offset, buffer)).await
    }

    /// As [`Disk::write`]; ends after `limit` in any case, without the buffer.
    pub(crate) async fn write(&self, offset: u64, buffer: IoBuf, limit: Duration) -> (Result<(), Trouble>, IoBuf) {
        self.check(offset, buffer.len());
        self.bounded("write", limit, self.disk.write(self.base + offset, buffer)).await
    }

    /// As [`Disk::write_durable`]; ends after `limit` in any case, without the buffer.
    pub(crate) async fn write_durable(
        &self,
        offset: u64,
        buffer: IoBuf,
        limit: Duration,
    ) -> (Result<(), Trouble>, IoBuf) {
        self.check(offset, buffer.len());
        self.bounded("write", limit, self.disk.write_durable(self.base + offset, buffer)).await
    }

    /// As [`Disk::sync`]; ends after `limit` in any case.
    pub(crate) async fn sync(&self, limit: Duration) -> Result<(), Trouble> {
        let sync = async { (self.disk.sync().await, IoBuf::default()) };
        self.bounded("sync", limit, sync).await.0
    }

    /// A transfer that is given up may still take place; its buffer is then the kernel's until it has.
    async fn bounded(
        &self,
        operation: &'static str,
        limit: Duration,
        transfer: impl Future<Output = (io::Result<()>, IoBuf)>,
    ) -> (Result<(), Trouble>, IoBuf) {
        match rt::timeout(limit, transfer).await {
            Ok((outcome, buffer)) => (outcome.map_err(|error| Trouble { cause: told(error), is_hang: false }), buffer),
            Err(_) => {
                let cause = hung(operation, &self.name(), limit).into();
                (Err(Trouble { cause, is_hang: true }), IoBuf::default())
            }
        }
    }

    /// A transfer outside the region would hit a neighbour: our bug, never the medium's.
    fn check(&self, offset: u64, bytes: usize) {
        assert!(
            offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes()),
            "transfer of {bytes} bytes at {offset} leaves the region of {} bytes",
            self.bytes()
        );
    }
}

/// Why a transfer did not succeed.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) cause: Cause,
    /// The device did not answer at all.
    pub(crate) is_hang: bool,
}

/// What is said of a device that does not answer.
pub(crate) fn hung(operation: &str, path: &str, waited: Duration) -> String {
    format!("{operation} {path}: no answer for {:.1} s: the device hangs", waited.as_secs_f64())
}

fn told(error: impl std::fmt::Display) -> Cause {
    error.to_string().into()
}

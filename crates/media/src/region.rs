//! A region: the part of a file or block device that one store uses in one role: log, metadata or data.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
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
    /// How long an operation on the spot may take.
    limit: Rc<Cell<Duration>>,
    spot: Arc<Spot>,
}

/// Unless told otherwise, a device that has not answered for so long hangs. Longer than the worst that disks
/// do while they recover by themselves (retries of a bad sector, a path that fails over), and shorter than
/// what the callers of callers put up with.
pub const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// No operation on the spot is under way.
const IDLE: u64 = 0;

/// The operation on the spot that is under way on a region: it holds its thread up, so another one must see how long
/// it takes.
#[derive(Debug, Default)]
pub(crate) struct Spot {
    /// When it began, in nanoseconds of `rt::now`; [`IDLE`] when there is none. Written last, and read first.
    since: AtomicU64,
    operation: AtomicU8,
    /// What is said of the first that took longer than it may.
    late: OnceLock<Cause>,
}

impl Spot {
    /// What is under way, and since when.
    pub(crate) fn under_way(&self) -> Option<(&'static str, rt::Instant)> {
        let since = self.since.load(Ordering::Acquire);
        let operation = Operation::name_of(self.operation.load(Ordering::Relaxed));
        (since != IDLE).then(|| (operation, rt::Instant::from_nanos(since)))
    }

    pub(crate) fn late(&self) -> Option<&Cause> {
        self.late.get()
    }
}

/// What a device is asked to do on the spot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Read,
    Write,
    Sync,
    Reserve,
}

impl Operation {
    const NAMES: [&'static str; 4] = ["read", "write", "sync", "reserving space in"];

    fn name_of(number: u8) -> &'static str {
        Operation::NAMES.get(usize::from(number)).copied().unwrap_or("use of")
    }
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
        let (bytes, limit) = (Rc::new(Cell::new(bytes)), Rc::new(Cell::new(IO_TIMEOUT)));
        Region { disk, base, bytes, limit, spot: Arc::default() }
    }

    /// How long the device may take for an operation that is waited for on the spot, as those are that make a store or
    /// open it. One that takes longer counts as failed, whatever it did, and the next are refused.
    pub fn set_io_timeout(&self, limit: Duration) {
        self.limit.set(limit);
    }

    pub(crate) fn io_timeout(&self) -> Duration {
        self.limit.get()
    }

    pub(crate) fn spot(&self) -> Arc<Spot> {
        self.spot.clone()
    }

    /// Does `act` to the disk under the eyes of other threads; also says when it took too long. Mapped memory does not
    /// hang.
    pub(crate) fn on_the_spot<T>(&self, operation: Operation, act: impl FnOnce() -> T) -> (T, Option<Cause>) {
        if self.disk.is_mapped() {
            return (act(), None);
        }
        let began = rt::now();
        self.spot.operation.store(operation as u8, Ordering::Relaxed);
        self.spot.since.store(began.as_nanos().max(1), Ordering::Release);
        let outcome = act();
        self.spot.since.store(IDLE, Ordering::Release);
        let took = began.elapsed();
        let late = (took > self.limit.get()).then(|| {
            let cause: Cause = hung(Operation::name_of(operation as u8), &self.name(), took).into();
            self.spot.late.get_or_init(|| cause.clone());
            cause
        });
        (outcome, late)
    }

    fn in_time<E: std::fmt::Display>(
        &self,
        operation: Operation,
        act: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Cause> {
        // What hangs is not asked again: each answer would be waited for as long.
        if let Some(late) = self.spot.late() {
            return Err(late.clone());
        }
        match self.on_the_spot(operation, act) {
            (outcome, None) => outcome.map_err(told),
            (_, Some(late)) => Err(late),
        }
    }

    /// Reserves space up to the end of the region, when its file is shorter.
    pub(crate) fn allocate(&self) -> Result<(), Cause> {
        let end = self.base + self.bytes();
        let is_short = self.disk.len().map_err(told)? < end;
        if is_short { self.in_time(Operation::Reserve, || self.disk.allocate(end)) } else { Ok(()) }
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
        self.in_time(Operation::Read, || self.disk.read_now(self.base + offset, bytes))
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
        self.in_time(Operation::Write, || self.disk.write_now(self.base + offset, bytes))
    }

    pub(crate) fn sync_now(&self) -> Result<(), Cause> {
        self.in_time(Operation::Sync, || self.disk.sync_now())
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
        // What a sync could not write is gone from the kernel's memory, full disk or not: it cannot be tried again.
        self.bounded("sync", limit, sync).await.0.map_err(|trouble| match trouble.kind {
            TroubleKind::Full => Trouble { kind: TroubleKind::Failed, ..trouble },
            TroubleKind::Failed | TroubleKind::Hang => trouble,
        })
    }

    /// A transfer that is given up may still take place; its buffer is then the kernel's until it has.
    async fn bounded(
        &self,
        operation: &'static str,
        limit: Duration,
        transfer: impl Future<Output = (io::Result<()>, IoBuf)>,
    ) -> (Result<(), Trouble>, IoBuf) {
        match rt::timeout(limit, transfer).await {
            Ok((outcome, buffer)) => (outcome.map_err(Trouble::of), buffer),
            Err(_) => {
                let cause = hung(operation, &self.name(), limit).into();
                (Err(Trouble { cause, kind: TroubleKind::Hang }), IoBuf::default())
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
    pub(crate) kind: TroubleKind,
}

/// What sort of trouble it is: what is done about it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    Failed,
    /// The device did not answer at all.
    Hang,
    /// The file system has no room for what was to be written.
    Full,
}

impl Trouble {
    fn of(error: io::Error) -> Trouble {
        let kind = match error.kind() {
            // Some file systems write what fits, and say nothing more.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero => TroubleKind::Full,
            _ => TroubleKind::Failed,
        };
        Trouble { cause: told(error), kind }
    }
}

/// What is said of a device that does not answer.
pub(crate) fn hung(operation: &str, path: &str, waited: Duration) -> String {
    format!("{operation} {path}: no answer for {:.1} s: the device hangs", waited.as_secs_f64())
}

fn told(error: impl std::fmt::Display) -> Cause {
    error.to_string().into()
}

//! Disks: files, block devices and mapped persistent memory, read and written at offsets.
//!
//! # Shape
//! A [`Disk`] is a cheap handle on one open file. Synchronous calls (`read_now`, ...) block the
//! thread. Asynchronous ones take an owned [`IoBuf`] and give it back: on `os` through io_uring, or
//! by plain system calls on tmpfs and where io_uring is refused; in the simulator in virtual time.
//!
//! # What may be assumed of the medium
//! 1. Nothing is durable before a `sync` that began after the write had completed has returned. Until
//!    then each 512-byte sector of a write may be kept, lost or torn on a power cut, in any order.
//! 2. A dropped asynchronous write may or may not take place.
//! 3. Creating, renaming and removing files is durable when the call returns.
//! 4. Overlapping writes in flight at one time end in unspecified order.
//!
//! # Not here
//! Caching, checksums, allocation: `media`.

mod buffer;
mod error;
pub mod fs;
mod os;
mod pmem;
mod ring;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use buffer::{ALIGNMENT, IoBuf};
pub use error::DiskError;

use crate::sim;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenMode {
    /// Make the file if there is none.
    pub create: bool,
    /// Go around the page cache (O_DIRECT) where the file system allows it, for every transfer whose
    /// offset, length and address are multiples of [`ALIGNMENT`]. The others go through the cache.
    pub direct: bool,
    /// Refuse to share the file with any other opener that asks for this too.
    pub exclusive_lock: bool,
}

/// What a mapped file must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dax {
    /// On a file system that maps persistent memory directly, and promises that a line that left the caches
    /// is durable.
    Required,
    /// Any file. What is written survives the process, and a power cut only if the kernel wrote it back.
    Emulated,
}

/// Reads that [`Disk::read_many_now`] has under way at once.
const READERS: usize = 32;
/// Reads that it joins to one transfer at most,
const JOINED_READS_MAX: usize = 32;
/// and what it reads in vain between two of them: a device takes as long for it as for beginning anew.
const GAP_BYTES_MAX: u64 = 16 << 10;

/// An open file or block device. Clones share it; it closes (and unlocks) with the last of them.
#[derive(Clone)]
pub struct Disk {
    inner: DiskInner,
    /// Opened to look only: whatever would change the file is refused.
    is_read_only: bool,
}

#[derive(Clone)]
enum DiskInner {
    Os(Arc<os::OsFile>),
    Sim(Arc<sim::file::SimFile>),
    Mapped(Arc<pmem::Mapping>),
    /// Of the simulator; what tears is a cache line, and nothing is waited for.
    SimMapped(Arc<sim::file::SimFile>),
}

impl Disk {
    /// Opens the file or block device at `path` for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, `Locked`, `Full`, `Io`.
    pub fn open(path: impl AsRef<Path>, mode: OpenMode) -> Result<Disk, DiskError> {
        if sim::is_active() {
            let file = sim::file::SimFile::open(path.as_ref(), mode)?;
            return Ok(Disk { inner: DiskInner::Sim(Arc::new(file)), is_read_only: false });
        }
        let file = os::OsFile::open(path.as_ref(), mode)?;
        Ok(Disk { inner: DiskInner::Os(Arc::new(file)), is_read_only: false })
    }

    /// Opens the file or block device at `path` to look at it: nothing done with this handle changes a byte
    /// of it, and a sync does nothing. It can be locked.
    ///
    /// # Errors
    /// `NotFound`, `Io`. Of what would write, later: `Io` with `PermissionDenied`.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Disk, DiskError> {
        if sim::is_active() {
            let file = sim::file::SimFile::open(path.as_ref(), OpenMode::default())?;
            return Ok(Disk { inner: DiskInner::Sim(Arc::new(file)), is_read_only: true });
        }
        let file = os::OsFile::open_read_only(path.as_ref())?;
        Ok(Disk { inner: DiskInner::Os(Arc::new(file)), is_read_only: true })
    }

    /// Maps the file at `path`, which has its size already: transfers are copies, and a sync is a fence. All of
    /// them end at once.
    ///
    /// # Errors
    /// `NotFound`; `Io` with `Unsupported` when the file system does not do what `dax` asks.
    pub fn open_mapped(path: impl AsRef<Path>, dax: Dax) -> Result<Disk, DiskError> {
        let inner = match sim::is_active() {
            true => DiskInner::SimMapped(Arc::new(sim::file::SimFile::open_mapped(path.as_ref())?)),
            false => DiskInner::Mapped(Arc::new(pmem::Mapping::open(path.as_ref(), dax)?)),
        };
        Ok(Disk { inner, is_read_only: false })
    }

    /// True if transfers are copies in memory, so that there is nothing to wait for.
    pub fn is_mapped(&self) -> bool {
        matches!(self.inner, DiskInner::Mapped(_) | DiskInner::SimMapped(_))
    }

    /// Opens the block device at `path` so that nobody else can mount it or open it so, until the handle is
    /// dropped: whoever uses it as a part of something (a file system, a volume) asks for this. Other handles
    /// on it are not affected. `None`: it is a file, which nobody mounts by accident.
    ///
    /// # Errors
    /// `Locked`: it is mounted, or a part of something. `NotFound`, `Io`.
    pub fn claim_device(path: impl AsRef<Path>) -> Result<Option<Disk>, DiskError> {
        if sim::is_active() {
            return Ok(None);
        }
        let file = os::OsFile::claim_device(path.as_ref())?;
        Ok(file.map(|file| Disk { inner: DiskInner::Os(Arc::new(file)), is_read_only: true }))
    }

    fn may_change(&self, operation: &'static str) -> Result<(), DiskError> {
        if self.is_read_only {
            let cause = io::Error::new(io::ErrorKind::PermissionDenied, "it was opened for reading only");
            return Err(DiskError::new(operation, &self.path(), cause));
        }
        Ok(())
    }

    pub fn path(&self) -> PathBuf {
        match &self.inner {
            DiskInner::Os(file) => file.path.clone(),
            DiskInner::Sim(file) | DiskInner::SimMapped(file) => file.path.clone(),
            DiskInner::Mapped(file) => file.path.clone(),
        }
    }

    /// True if nothing outlives the power: tmpfs. And in the simulator, whose waits cost nothing.
    pub fn is_memory(&self) -> bool {
        match &self.inner {
            DiskInner::Os(file) => file.is_memory,
            DiskInner::Sim(_) | DiskInner::SimMapped(_) => true,
            // Outlives the power, or is taken to.
            DiskInner::Mapped(_) => false,
        }
    }

    /// True for a block device, false for a file.
    pub fn is_block_device(&self) -> bool {
        match &self.inner {
            DiskInner::Os(file) => file.is_device,
            DiskInner::Sim(_) | DiskInner::SimMapped(_) | DiskInner::Mapped(_) => false,
        }
    }

    /// The size in bytes, of a file or of a device.
    pub fn len(&self) -> Result<u64, DiskError> {
        match &self.inner {
            DiskInner::Os(file) => file.len(),
            DiskInner::Sim(file) | DiskInner::SimMapped(file) => file.len(),
            DiskInner::Mapped(file) => Ok(file.len()),
        }
    }

    /// True for a file that has no bytes yet.
    pub fn is_empty(&self) -> Result<bool, DiskError> {
        self.len().map(|len| len == 0)
    }

    /// Cuts or extends a file; what is added reads as zero. A block device only accepts its own size.
    pub fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.may_change("resize")?;
        match &self.inner {
            DiskInner::Os(file) => file.set_len(len),
            DiskInner::Sim(file) => file.set_len(len),
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => self.keep_len("resize", len, self.len()? == len),
        }
    }

    /// Makes the file at least `len` bytes long with space reserved for all of them, so that a later
    /// write in it cannot fail for lack of space. Where a file system cannot reserve, it only extends.
    ///
    /// # Errors
    /// `Full`.
    pub fn allocate(&self, len: u64) -> Result<(), DiskError> {
        self.may_change("allocate")?;
        match &self.inner {
            DiskInner::Os(file) => file.allocate(len),
            DiskInner::Sim(file) => file.allocate(len),
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => self.keep_len("allocate", len, len <= self.len()?),
        }
    }

    /// Gives the space of `range` back; it reads as zero afterwards. A file system that cannot do
    /// it leaves the bytes as they are, which is not an error.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.may_change("discard")?;
        match &self.inner {
            DiskInner::Os(file) => file.discard(offset, len),
            DiskInner::Sim(file) => file.discard(offset, len),
            // What is mapped keeps its space.
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => Ok(()),
        }
    }

    /// Fills `bytes` from `offset`, blocking.
    ///
    /// # Errors
    /// `Io` with `UnexpectedEof` when the file ends before that.
    pub fn read_now(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        match &self.inner {
            DiskInner::Os(file) => file.read_now(offset, bytes),
            DiskInner::Sim(file) | DiskInner::SimMapped(file) => file.read_now(offset, bytes),
            DiskInner::Mapped(file) => file.read_now(offset, bytes),
        }
    }

    /// Fills several buffers from several offsets, blocking until all are done: some at a time, for a device does
    /// many reads in little more than the time of one; and those that follow each other closely in one transfer. One
    /// after another where that would not help, and in the simulator. The outcomes, in order.
    pub fn read_many_now(&self, reads: &mut [(u64, &mut [u8])]) -> Vec<Result<(), DiskError>> {
        let in_order = |reads: &mut [(u64, &mut [u8])]| -> Vec<_> {
            reads.iter_mut().map(|(offset, bytes)| self.read_now(*offset, bytes)).collect()
        };
        if !matches!(self.inner, DiskInner::Os(_)) || self.is_memory() || reads.len() < READERS {
            return in_order(reads);
        }
        let runs: Vec<_> = reads.chunk_by_mut(is_near).flat_map(|run| run.chunks_mut(JOINED_READS_MAX)).collect();
        let mut outcomes: Vec<_> = runs.iter().map(|_| Vec::new()).collect();
        let left = std::sync::Mutex::new(runs.into_iter().zip(&mut outcomes));
        let read = || {
            loop {
                let next = left.lock().expect("taking the next read does not panic").next();
                let Some((run, outcomes)) = next else { return };
                *outcomes = match self.read_joined(run) {
                    true => run.iter().map(|_| Ok(())).collect(),
                    // Alone, so that a bad place costs only its own read.
                    false => in_order(run),
                };
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..READERS {
                // The kernel may refuse a thread: then fewer share the work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, read);
            }
            read();
        });
        outcomes.into_iter().flatten().collect()
    }

    /// Fills buffers that lie near each other by one transfer; false when it failed, or there is but one.
    fn read_joined(&self, run: &mut [(u64, &mut [u8])]) -> bool {
        let [(first, _), .., (last, tail)] = run else { return false };
        let (first, len) = (*first, (*last - *first) as usize + tail.len());
        let mut joined = IoBuf::for_read(len);
        let is_read = self.read_now(first, &mut joined).is_ok();
        if is_read {
            for (offset, bytes) in run {
                bytes.copy_from_slice(&joined[(*offset - first) as usize..][..bytes.len()]);
            }
        }
        is_read
    }

    /// Writes all of `bytes` at `offset`, blocking. Not durable before a sync.
    pub fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.may_change("write")?;
        match &self.inner {
            DiskInner::Os(file) => file.write_now(offset, bytes),
            DiskInner::Sim(file) | DiskInner::SimMapped(file) => file.write_now(offset, bytes),
            DiskInner::Mapped(file) => file.write_now(offset, bytes),
        }
    }

    /// Makes every write completed before this call durable, blocking.
    ///
    /// # Errors
    /// `Io`: what was written since the last successful sync may be lost, and a second sync that
    /// succeeds does not change that. Stop using the file.
    pub fn sync_now(&self) -> Result<(), DiskError> {
        if self.is_read_only {
            return Ok(());
        }
        match &self.inner {
            DiskInner::Os(file) => file.sync_now(),
            DiskInner::Sim(file) | DiskInner::SimMapped(file) => file.sync_now(),
            DiskInner::Mapped(file) => file.sync_now(),
        }
    }

    /// Fills `buffer` (its whole length) from `offset` and gives it back.
    ///
    /// # Errors
    /// The I/O error, naming the file and the operation; `UnexpectedEof` when the file ends before.
    pub async fn read(&self, offset: u64, mut buffer: IoBuf) -> (io::Result<()>, IoBuf) {
        match &self.inner {
            DiskInner::Os(file) => os::read(file, offset, buffer).await,
            DiskInner::Sim(file) => file.read(offset, buffer).await,
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => {
                (self.read_now(offset, &mut buffer).map_err(io::Error::from), buffer)
            }
        }
    }

    /// Writes all of `buffer` at `offset` and gives it back. Not durable before a sync.
    ///
    /// # Errors
    /// The I/O error, naming the file and the operation. A part may have been written.
    pub async fn write(&self, offset: u64, buffer: IoBuf) -> (io::Result<()>, IoBuf) {
        if let Err(error) = self.may_change("write") {
            return (Err(error.into()), buffer);
        }
        match &self.inner {
            DiskInner::Os(file) => os::write(file, offset, buffer).await,
            DiskInner::Sim(file) => file.write(offset, buffer).await,
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => {
                (self.write_now(offset, &buffer).map_err(io::Error::from), buffer)
            }
        }
    }

    /// Writes all of `buffer` at `offset`, durably, and gives it back. Says nothing of other writes: only
    /// [`Disk::sync`] makes them durable too.
    ///
    /// Cost: one operation, and one wake-up, where a write and a sync are two of each.
    ///
    /// # Errors
    /// As of [`Disk::write`], and those of a sync: stop using the file.
    pub async fn write_durable(&self, offset: u64, buffer: IoBuf) -> (io::Result<()>, IoBuf) {
        if let Err(error) = self.may_change("write") {
            return (Err(error.into()), buffer);
        }
        match &self.inner {
            DiskInner::Os(file) => os::write_durable(file, offset, buffer).await,
            DiskInner::Sim(file) => {
                let (outcome, buffer) = file.write(offset, buffer).await;
                match outcome {
                    Ok(()) => (file.sync().await, buffer),
                    Err(error) => (Err(error), buffer),
                }
            }
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => {
                let outcome = self.write_now(offset, &buffer).and_then(|()| self.sync_now());
                (outcome.map_err(io::Error::from), buffer)
            }
        }
    }

    /// Makes every write completed before this call durable.
    ///
    /// Cost: a worker thread of the kernel does it, which takes some 50 us more than
    /// [`Disk::sync_now`] but leaves this thread free to prepare the next group. With a single waiter
    /// and nothing else to do, block.
    ///
    /// # Errors
    /// See [`Disk::sync_now`].
    pub async fn sync(&self) -> io::Result<()> {
        if self.is_read_only {
            return Ok(());
        }
        match &self.inner {
            DiskInner::Os(file) => os::sync(file).await,
            DiskInner::Sim(file) => file.sync().await,
            DiskInner::Mapped(_) | DiskInner::SimMapped(_) => self.sync_now().map_err(io::Error::from),
        }
    }

    /// A mapped file has the length that it had when it was mapped.
    fn keep_len(&self, operation: &'static str, len: u64, is_kept: bool) -> Result<(), DiskError> {
        if is_kept {
            return Ok(());
        }
        let cause = io::Error::new(io::ErrorKind::InvalidInput, format!("it is mapped, and cannot become {len} bytes"));
        Err(DiskError::new(operation, &self.path(), cause))
    }

    /// Locks the file against every other opener that asks for the lock too, until the last clone of
    /// this handle is dropped or the process ends, in whatever way.
    ///
    /// # Errors
    /// `Locked`, with the process that holds it when the kernel tells.
    pub fn try_lock_exclusive(&self) -> Result<(), DiskError> {
        match &self.inner {
            DiskInner::Os(file) => file.try_lock_exclusive(),
            DiskInner::Sim(file) | DiskInner::SimMapped(file) => file.try_lock_exclusive(),
            DiskInner::Mapped(file) => file.try_lock_exclusive(),
        }
    }
}

/// Whether to read across what lies between: two reads of which the second begins soon behind the first.
fn is_near((offset, bytes): &(u64, &mut [u8]), next: &(u64, &mut [u8])) -> bool {
    let end = offset + bytes.len() as u64;
    next.0.checked_sub(end).is_some_and(|gap| gap <= GAP_BYTES_MAX)
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({})", self.path().display())
    }
}

//! Files of the operating system.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::Holder;
use super::ring::{self, Done, Kind};
use super::{ALIGNMENT, DiskError, IoBuf, OpenMode};

/// One open file.
pub(super) struct OsFile {
    pub(super) path: PathBuf,
    pub(super) is_memory: bool,
    pub(super) is_device: bool,
    /// Through the page cache. Takes any transfer.
    cached: File,
    /// Around it. Takes only aligned transfers; the kernel keeps the two views of the file equal.
    direct: Option<File>,
}

/// The magic number of tmpfs and ramfs in `statfs(2)`.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

impl OsFile {
    pub(super) fn open(path: &Path, mode: OpenMode) -> Result<OsFile, DiskError> {
        let failed = |source| DiskError::new("open", path, source);
        let mut options = File::options();
        options.read(true).write(true).create(mode.create).truncate(false);
        let is_new = mode.create && !path.exists();
        let cached = options.open(path).map_err(failed)?;
        if is_new {
            super::fs::sync_parent(path).map_err(failed)?;
        }
        let (is_memory, is_device) = nature(&cached).map_err(failed)?;
        if is_device {
            check_sectors(&cached).map_err(failed)?;
        }
        let direct = if mode.direct && !is_memory {
            // Refused by some file systems: then everything goes through the cache, only slower.
            options.create(false).custom_flags(libc::O_DIRECT).open(path).ok()
        } else {
            None
        };
        let file = OsFile { path: path.to_owned(), is_memory, is_device, cached, direct };
        if mode.exclusive_lock {
            file.try_lock_exclusive()?;
        }
        Ok(file)
    }

    /// Through the page cache, and with a descriptor that the kernel lets nobody write through.
    pub(super) fn open_read_only(path: &Path) -> Result<OsFile, DiskError> {
        let failed = |source| DiskError::new("open", path, source);
        let cached = File::options().read(true).open(path).map_err(failed)?;
        let (is_memory, is_device) = nature(&cached).map_err(failed)?;
        Ok(OsFile { path: path.to_owned(), is_memory, is_device, cached, direct: None })
    }

    /// See [`super::Disk::claim_device`].
    pub(super) fn claim_device(path: &Path) -> Result<Option<OsFile>, DiskError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EBUSY) => DiskError::Locked { path: path.to_owned(), holder: None },
            _ => DiskError::new("open", path, source),
        };
        if !std::fs::metadata(path).map_err(failed)?.file_type().is_block_device() {
            return Ok(None);
        }
        // Without O_CREAT, O_EXCL means this on block devices.
        let cached = File::options().read(true).custom_flags(libc::O_EXCL).open(path).map_err(failed)?;
        Ok(Some(OsFile { path: path.to_owned(), is_memory: false, is_device: true, cached, direct: None }))
    }

    /// A file that is none, for what a real one never does.
    #[cfg(test)]
    pub(super) fn for_test(cached: File) -> OsFile {
        OsFile { path: "test".into(), is_memory: false, is_device: false, cached, direct: None }
    }

    pub(super) fn len(&self) -> Result<u64, DiskError> {
        if self.is_device {
            // The metadata of a device says 0; its end is where seeking to the end leads. The shared
            // position does not matter: every transfer names its own offset.
            use std::io::{Seek, SeekFrom};
            return (&self.cached).seek(SeekFrom::End(0)).map_err(|error| self.failed("measure", error));
        }
        self.cached.metadata().map(|metadata| metadata.len()).map_err(|error| self.failed("measure", error))
    }

    pub(super) fn set_len(&self, len: u64) -> Result<(), DiskError> {
        if self.is_device && self.len()? == len {
            return Ok(());
        }
        self.cached.set_len(len).map_err(|error| self.failed("resize", error))
    }

    pub(super) fn allocate(&self, len: u64) -> Result<(), DiskError> {
        let present = self.len()?;
        if self.is_device && len <= present {
            return Ok(());
        }
        let Ok(len) = libc::off_t::try_from(len) else {
            return Err(self.failed("allocate", io::ErrorKind::FileTooLarge.into()));
        };
        // SAFETY: a plain system call on a descriptor that we own.
        let outcome = unsafe { libc::fallocate(self.cached.as_raw_fd(), 0, 0, len) };
        if outcome == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.set_len(present.max(len as u64)),
            error => Err(self.failed("allocate", error)),
        }
    }

    pub(super) fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a plain system call on a descriptor that we own.
        let outcome =
            unsafe { libc::fallocate(self.cached.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) };
        if outcome == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            error => Err(self.failed("discard", error)),
        }
    }

    pub(super) fn read_now(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.file_for(offset, bytes.as_ptr(), bytes.len())
            .read_exact_at(bytes, offset)
            .map_err(|error| self.failed("read", error))
    }

    pub(super) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file_for(offset, bytes.as_ptr(), bytes.len())
            .write_all_at(bytes, offset)
            .map_err(|error| self.failed("write", error))
    }

    pub(super) fn sync_now(&self) -> Result<(), DiskError> {
        self.cached.sync_data().map_err(|error| self.failed("sync", error))
    }

    pub(super) fn try_lock_exclusive(&self) -> Result<(), DiskError> {
        lock(&self.cached, &self.path)
    }

    /// The view of the file that can do this transfer.
    pub(super) fn file_for(&self, offset: u64, address: *const u8, len: usize) -> &File {
        match &self.direct {
            Some(direct) if (offset as usize | address.addr() | len).is_multiple_of(ALIGNMENT) => direct,
            _ => &self.cached,
        }
    }

    pub(super) fn sync_fd(&self) -> RawFd {
        self.cached.as_raw_fd()
    }

    pub(super) fn failed(&self, operation: &'static str, source: io::Error) -> DiskError {
        DiskError::new(operation, &self.path, source)
    }
}

/// How often a lock of this process itself is asked for again, and the pause between.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Locks a file against every other opener that asks for the lock. A file that this process has closed may be locked for a
/// moment longer: a child that another thread is starting has it open until it runs its program.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), DiskError> {
    for turn in 1.. {
        // SAFETY: a plain system call on a descriptor that is open.
        let outcome = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if outcome == 0 {
            break;
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => {
                let holder = lock_holder(file);
                // Nobody has it any more, or this process: that child, which may have gone on meanwhile.
                let may_pass = holder.as_ref().is_none_or(|holder| holder.pid == std::process::id());
                if !may_pass || turn >= LOCK_TRIES {
                    return Err(DiskError::Locked { path: path.to_owned(), holder });
                }
                std::thread::sleep(LOCK_PAUSE);
            }
            error => return Err(DiskError::new("lock", path, error)),
        }
    }
    Ok(())
}

/// Reads `/proc/locks`, whose lines are `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`.
fn lock_holder(file: &File) -> Option<Holder> {
    let inode = file.metadata().ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_ours = words.get(1) == Some(&"FLOCK") && words.get(5)?.rsplit(':').next() == Some(&inode);
        if is_ours { words.get(4)?.parse::<u32>().ok() } else { None }
    })?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder { pid, command: command.trim().to_owned() })
}

/// Whether a file lies in memory, and whether it is a block device. Anything but those and files is refused.
fn nature(file: &File) -> io::Result<(bool, bool)> {
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"));
    }
    let is_memory = kind.is_file() && matches!(file_system(file)?, TMPFS | RAMFS);
    Ok((is_memory, kind.is_block_device()))
}

/// Whether transfers that are multiples of [`ALIGNMENT`] are multiples of the device's logical sectors.
fn check_sectors(device: &File) -> io::Result<()> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, into `bytes`.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::BLKSSZGET, &mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match usize::try_from(bytes) {
        Ok(sector) if sector > 0 && ALIGNMENT.is_multiple_of(sector) => Ok(()),
        _ => {
            let text = format!("its sectors have {bytes} bytes, where {ALIGNMENT} must be a multiple: reformat it so");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

fn file_system(file: &File) -> io::Result<i64> {
    // SAFETY: all-zero bytes are a valid `statfs`.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `about` is a valid place for the kernel to write into.
    match unsafe { libc::fstatfs(file.as_raw_fd(), &mut about) } {
        0 => Ok(about.f_type),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) async fn read(file: &Arc<OsFile>, offset: u64, buffer: IoBuf) -> (io::Result<()>, IoBuf) {
    match start(Kind::Read, file, offset, buffer) {
        Ok(done) => finish(Kind::Read, file, done).await,
        Err(mut buffer) => (file.read_now(offset, &mut buffer).map_err(io::Error::from), buffer),
    }
}

pub(super) async fn write(file: &Arc<OsFile>, offset: u64, buffer: IoBuf) -> (io::Result<()>, IoBuf) {
    match start(Kind::Write, file, offset, buffer) {
        Ok(done) => finish(Kind::Write, file, done).await,
        Err(buffer) => (file.write_now(offset, &buffer).map_err(io::Error::from), buffer),
    }
}

pub(super) async fn write_durable(file: &Arc<OsFile>, offset: u64, buffer: IoBuf) -> (io::Result<()>, IoBuf) {
    match start(Kind::DurableWrite, file, offset, buffer) {
        Ok(done) => finish(Kind::DurableWrite, file, done).await,
        Err(buffer) => {
            let outcome = file.write_now(offset, &buffer).and_then(|()| file.sync_now());
            (outcome.map_err(io::Error::from), buffer)
        }
    }
}

pub(super) async fn sync(file: &Arc<OsFile>) -> io::Result<()> {
    match start(Kind::Sync, file, 0, IoBuf::default()) {
        Ok(done) => finish(Kind::Sync, file, done).await.0,
        Err(_) => file.sync_now().map_err(io::Error::from),
    }
}

/// Through the ring, unless the file is in memory: there a system call takes a microsecond, and a
/// ring would hand the copy to a kernel thread.
fn start(kind: Kind, file: &Arc<OsFile>, offset: u64, buffer: IoBuf) -> Result<oneshot::Receiver<Done>, IoBuf> {
    if file.is_memory { Err(buffer) } else { ring::start(kind, file, offset, buffer) }
}

async fn finish(kind: Kind, file: &OsFile, done: oneshot::Receiver<Done>) -> Done {
    let operation = match kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::DurableWrite => "write durably",
        Kind::Sync => "sync",
    };
    match done.await {
        Ok((outcome, buffer)) => (outcome.map_err(|error| file.failed(operation, error).into()), buffer),
        // The thread that drove the ring has ended.
        Err(_) => (Err(file.failed(operation, io::ErrorKind::BrokenPipe.into()).into()), IoBuf::default()),
    }
}

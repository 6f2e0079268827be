//! The local file system, on threads of its own.
//!
//! Calls to the kernel's file systems block; here they run on a few worker threads, so that the
//! thread that talks to the store never waits for a disk. This is the user's side of a copy: it is
//! not simulated, and is the one file of this crate that touches `std::fs` and threads.
#![allow(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use rt::disk::IoBuf;
use rustix::fs::{AtFlags, OFlags, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::inode::Timestamp;

/// Worker threads: enough to keep a disk's queue filled, few beside the cores of a small machine.
const WORKERS: usize = 4;
/// Names listed at once: bounds what a huge directory holds in memory.
const PAGE_ENTRIES: usize = 512;
/// Room for the names of all attributes of one file, and for one value: what Linux allows.
const XATTR_BYTES_MAX: usize = 65_536;

/// The local file system. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Local {
    workers: Arc<Workers>,
}

/// An open local file.
pub(crate) type LocalFile = fs::File;

/// What kind of thing a local name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalKind {
    File,
    Directory,
    Symlink,
    /// A socket, pipe or device: nothing a copy takes along.
    Special,
}

/// `lstat` of a local name.
#[derive(Clone, Debug)]
pub(crate) struct LocalStat {
    pub kind: LocalKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub bytes: u64,
    /// Bytes of disk in use: fewer than `bytes` when there are holes.
    pub allocated: u64,
    pub modified: Timestamp,
    pub accessed: Timestamp,
}

pub(crate) type Xattrs = Vec<(Vec<u8>, Bytes)>;

/// A directory being listed.
pub(crate) struct Listing {
    path: PathBuf,
    entries: fs::ReadDir,
}

/// What a file gets when its content is complete.
#[derive(Clone, Debug)]
pub(crate) struct Finish {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Timestamp,
    pub accessed: Timestamp,
    pub xattrs: Xattrs,
}

/// Attributes the destination did not take.
pub(crate) type Refused = Vec<Vec<u8>>;

/// Sum of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub bytes: u64,
}

impl Local {
    /// # Errors
    /// The kernel's, when it refuses threads.
    pub fn new() -> io::Result<Local> {
        let queue = Arc::new(Queue::default());
        let workers = Arc::new(Workers { queue: queue.clone() });
        for i in 0..WORKERS {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("local-files-{i}")).spawn(move || queue.work())?;
        }
        Ok(Local { workers })
    }

    /// Counts the tree at `path`, for a progress bar. Things that vanish meanwhile are not counted.
    pub async fn survey(&self, path: impl Into<PathBuf>) -> io::Result<Survey> {
        let path = path.into();
        self.run(move || survey(path)).await
    }

    /// With `follow`, of what a symbolic link leads to.
    pub(crate) async fn stat(&self, path: &Path, follow: bool) -> io::Result<LocalStat> {
        let path = path.to_owned();
        self.run(move || {
            let stat = if follow { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
            Ok(LocalStat::from(&stat))
        })
        .await
    }

    /// Opens a directory for listing; with its own attributes.
    pub(crate) async fn list(&self, path: &Path) -> io::Result<(Listing, LocalStat, Xattrs)> {
        let path = path.to_owned();
        self.run(move || {
            let stat = LocalStat::from(&fs::metadata(&path)?);
            let xattrs = path_xattrs(&path)?;
            Ok((Listing { entries: fs::read_dir(&path)?, path }, stat, xattrs))
        })
        .await
    }

    /// The next entries; none at the end. A name that vanishes meanwhile is left out.
    pub(crate) async fn next_page(&self, mut listing: Listing) -> io::Result<(Vec<(OsString, LocalStat)>, Listing)> {
        self.run(move || {
            let mut page = Vec::new();
            for entry in listing.entries.by_ref().take(PAGE_ENTRIES) {
                let name = entry?.file_name();
                match fs::symlink_metadata(listing.path.join(&name)) {
                    Ok(stat) => page.push((name, LocalStat::from(&stat))),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok((page, listing))
        })
        .await
    }

    /// The whole of a file that should have at most `bytes_max`; `None` if it has more. With what
    /// `fstat` says of the very file read.
    pub(crate) async fn read_small(
        &self,
        path: &Path,
        bytes_max: usize,
    ) -> io::Result<(Option<IoBuf>, LocalStat, Xattrs)> {
        let path = path.to_owned();
        self.run(move || {
            let (file, stat, xattrs) = open(&path)?;
            if stat.bytes > bytes_max as u64 {
                return Ok((None, stat, xattrs));
            }
            let content = read_at(&file, 0, stat.bytes as usize)?;
            Ok((Some(content), stat, xattrs))
        })
        .await
    }

    pub(crate) async fn open(&self, path: &Path) -> io::Result<(Arc<LocalFile>, LocalStat, Xattrs)> {
        let path = path.to_owned();
        self.run(move || open(&path).map(|(file, stat, xattrs)| (Arc::new(file), stat, xattrs))).await
    }

    /// Up to `len` bytes at `offset`; fewer at the end of the file.
    pub(crate) async fn read_at(&self, file: &Arc<LocalFile>, offset: u64, len: usize) -> io::Result<IoBuf> {
        let file = file.clone();
        self.run(move || read_at(&file, offset, len)).await
    }

    /// Where the file has data: stretches in order, holes between.
    pub(crate) async fn data_stretches(&self, file: &Arc<LocalFile>, bytes: u64) -> io::Result<Vec<(u64, u64)>> {
        let file = file.clone();
        self.run(move || data_stretches(&file, bytes)).await
    }

    pub(crate) async fn read_link(&self, path: &Path) -> io::Result<(PathBuf, Xattrs)> {
        let path = path.to_owned();
        self.run(move || Ok((fs::read_link(&path)?, path_xattrs(&path)?))).await
    }

    /// The attributes of a name; of a symbolic link itself.
    pub(crate) async fn xattrs(&self, path: &Path) -> io::Result<Xattrs> {
        let path = path.to_owned();
        self.run(move || path_xattrs(&path)).await
    }

    /// Makes a directory open to its owner alone, until it is finished; one that exists is taken.
    pub(crate) async fn make_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.run(move || match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match fs::symlink_metadata(&path)?.is_dir() {
                true => Ok(()),
                // A link is not followed: it could lead anywhere.
                false => Err(Errno::NOTDIR.into()),
            },
            outcome => outcome,
        })
        .await
    }

    pub(crate) async fn make_dirs(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.run(move || fs::create_dir_all(path)).await
    }

    pub(crate) async fn finish_dir(&self, path: &Path, finish: Finish) -> io::Result<Refused> {
        let path = path.to_owned();
        self.run(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())?;
            finish_open(&fs::File::from(directory), &finish)
        })
        .await
    }

    /// Makes a file with all its content and attributes, in the place of a file that is there.
    pub(crate) async fn write_small(&self, path: &Path, content: Bytes, finish: Finish) -> io::Result<Refused> {
        let path = path.to_owned();
        self.run(move || {
            let file = create(&path)?;
            file.write_all_at(&content, 0)?;
            finish_open(&file, &finish)
        })
        .await
    }

    /// Makes an empty file, in the place of a file that is there.
    pub(crate) async fn create(&self, path: &Path) -> io::Result<Arc<LocalFile>> {
        let path = path.to_owned();
        self.run(move || create(&path).map(Arc::new)).await
    }

    pub(crate) async fn write_at(&self, file: &Arc<LocalFile>, offset: u64, data: Bytes) -> io::Result<()> {
        let file = file.clone();
        self.run(move || file.write_all_at(&data, offset)).await
    }

    /// Sets size and attributes, last of all the times.
    pub(crate) async fn finish(&self, file: &Arc<LocalFile>, bytes: u64, finish: Finish) -> io::Result<Refused> {
        let file = file.clone();
        self.run(move || {
            file.set_len(bytes)?;
            finish_open(&file, &finish)
        })
        .await
    }

    pub(crate) async fn make_symlink(&self, path: &Path, target: PathBuf, finish: Finish) -> io::Result<Refused> {
        let path = path.to_owned();
        self.run(move || {
            match std::os::unix::fs::symlink(&target, &path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    make_way(&path)?;
                    std::os::unix::fs::symlink(&target, &path)?;
                }
                outcome => outcome?,
            }
            ignore_refusal(std::os::unix::fs::lchown(&path, Some(finish.uid), Some(finish.gid)))?;
            let mut refused = Refused::new();
            for (name, value) in &finish.xattrs {
                let set = rustix::fs::lsetxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty());
                note_refusal(set, name, &mut refused)?;
            }
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times(&finish), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(refused)
        })
        .await
    }

    /// Runs `work` on a worker.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (done, outcome) = oneshot::channel();
        self.workers.queue.push(Box::new(move || {
            // Whoever asked may have given up.
            let _ = done.send(work());
        }));
        outcome.await.unwrap_or_else(|_| Err(io::Error::other("a worker thread of the local file system panicked")))
    }
}

impl From<&fs::Metadata> for LocalStat {
    fn from(stat: &fs::Metadata) -> LocalStat {
        let kind = match stat.file_type() {
            t if t.is_file() => LocalKind::File,
            t if t.is_dir() => LocalKind::Directory,
            t if t.is_symlink() => LocalKind::Symlink,
            _ => LocalKind::Special,
        };
        LocalStat {
            kind,
            mode: stat.mode() & crate::inode::MODE_MASK,
            uid: stat.uid(),
            gid: stat.gid(),
            bytes: stat.size(),
            allocated: stat.blocks() * 512,
            modified: Timestamp::new(stat.mtime(), stat.mtime_nsec() as u32),
            accessed: Timestamp::new(stat.atime(), stat.atime_nsec() as u32),
        }
    }
}

/// Stops the threads when the last handle goes.
struct Workers {
    queue: Arc<Queue>,
}

/// Not bounded by itself: a copy has only so many files in flight.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    work: VecDeque<Box<dyn FnOnce() + Send>>,
    closed: bool,
}

impl Queue {
    fn push(&self, work: Box<dyn FnOnce() + Send>) {
        self.state.lock().expect("no panic while held").work.push_back(work);
        self.changed.notify_one();
    }

    fn work(&self) {
        loop {
            let mut state = self.state.lock().expect("no panic while held");
            let work = loop {
                match state.work.pop_front() {
                    Some(work) => break work,
                    None if state.closed => return,
                    None => state = self.changed.wait(state).expect("no panic while held"),
                }
            };
            drop(state);
            work();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.state.lock().expect("no panic while held").closed = true;
        self.queue.changed.notify_all();
    }
}

fn survey(path: PathBuf) -> io::Result<Survey> {
    let mut sum = Survey::default();
    let mut ahead = Vec::new();
    let mut count = |path: PathBuf, stat: &fs::Metadata, ahead: &mut Vec<PathBuf>| match LocalStat::from(stat).kind {
        LocalKind::File => {
            sum.files += 1;
            sum.bytes += stat.len();
        }
        LocalKind::Directory => {
            sum.directories += 1;
            ahead.push(path);
        }
        LocalKind::Symlink => sum.symlinks += 1,
        LocalKind::Special => {}
    };
    let stat = fs::metadata(&path)?;
    count(path, &stat, &mut ahead);
    while let Some(directory) = ahead.pop() {
        // What cannot be read is for the copy itself to report.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if let Ok(stat) = entry.metadata() {
                count(entry.path(), &stat, &mut ahead);
            }
        }
    }
    Ok(sum)
}

fn open(path: &Path) -> io::Result<(fs::File, LocalStat, Xattrs)> {
    // Not following a link: a file may have been replaced by one since it was listed. Not blocking:
    // or by a pipe that nobody writes to.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let stat = LocalStat::from(&file.metadata()?);
    let xattrs =
        xattrs_with(|into| rustix::fs::flistxattr(&file, into), |name, into| rustix::fs::fgetxattr(&file, name, into))?;
    Ok((file, stat, xattrs))
}

/// A file that shrinks meanwhile gives fewer bytes.
fn read_at(file: &fs::File, offset: u64, len: usize) -> io::Result<IoBuf> {
    let mut buffer = IoBuf::for_read(len);
    let mut got = 0;
    while got < len {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(got);
    Ok(buffer)
}

fn data_stretches(file: &fs::File, bytes: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut stretches = Vec::new();
    let mut at = 0;
    while at < bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system without holes: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(bytes).min(bytes);
        if end <= start {
            break;
        }
        stretches.push((start, end));
        at = end;
    }
    Ok(stretches)
}

fn path_xattrs(path: &Path) -> io::Result<Xattrs> {
    xattrs_with(|into| rustix::fs::llistxattr(path, into), |name, into| rustix::fs::lgetxattr(path, name, into))
}

fn xattrs_with(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&OsStr, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Xattrs> {
    // Most files have none or few.
    let mut few = [0; 512];
    let mut many = Vec::new();
    let names = match list(&mut few) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Xattrs::new()),
        Ok(bytes) => &few[..bytes],
        Err(Errno::RANGE) => {
            many.resize(XATTR_BYTES_MAX, 0);
            let bytes = list(&mut many)?;
            &many[..bytes]
        }
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Xattrs::new();
    let mut value = vec![0; XATTR_BYTES_MAX];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match get(OsStr::from_bytes(name), &mut value) {
            Ok(bytes) => xattrs.push((name.to_vec(), Bytes::copy_from_slice(&value[..bytes]))),
            // Removed meanwhile, or listed but not for us to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// A new file, open to its owner alone until it is finished.
fn create(path: &Path) -> io::Result<fs::File> {
    let create = || fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    match create() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            make_way(path)?;
            create()
        }
        outcome => outcome,
    }
}

/// Removes the file or link at `path`; never a directory, and never what a link leads to.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => Err(Errno::ISDIR.into()),
        false => fs::remove_file(path),
    }
}

fn finish_open(file: &fs::File, finish: &Finish) -> io::Result<Refused> {
    // The owner before the mode, which a change of owner would strip of its set-id bits; attributes
    // before the mode, which may forbid writing them; times last.
    ignore_refusal(std::os::unix::fs::fchown(file, Some(finish.uid), Some(finish.gid)))?;
    let mut refused = Refused::new();
    for (name, value) in &finish.xattrs {
        let set = rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty());
        note_refusal(set, name, &mut refused)?;
    }
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(finish.mode))?;
    rustix::fs::futimens(file, &times(finish))?;
    Ok(refused)
}

/// Only root may give files away; a copy by others owns what it makes.
fn ignore_refusal(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(1 | 22)) => Ok(()),
        outcome => outcome,
    }
}

fn note_refusal(outcome: Result<(), Errno>, name: &[u8], refused: &mut Refused) -> io::Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(
            Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE,
        ) => {
            refused.push(name.to_vec());
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn times(finish: &Finish) -> Timestamps {
    let spec = |time: Timestamp| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec(finish.accessed), last_modification: spec(finish.modified) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_attributes_are_listed_few_or_many() {
        let directory = tempfile::tempdir().unwrap();
        if rustix::fs::setxattr(directory.path(), "user.0", b"", XattrFlags::empty()).is_err() {
            return;
        }
        let mut expected = vec![(b"user.0".to_vec(), Bytes::new())];
        assert_eq!(path_xattrs(directory.path()).unwrap(), expected);
        for i in 1..8 {
            let name = format!("user.{i}{}", "n".repeat(100));
            rustix::fs::setxattr(directory.path(), &*name, name.as_bytes(), XattrFlags::empty()).unwrap();
            expected.push((name.clone().into_bytes(), name.into_bytes().into()));
        }
        assert_eq!(path_xattrs(directory.path()).unwrap(), expected);
    }

    #[test]
    fn holes_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = create(&directory.path().join("f")).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.set_len(3 << 20).unwrap();
        let stretches = data_stretches(&file, 3 << 20).unwrap();
        // A file system without holes says all is data.
        assert!(stretches == [(1 << 20, (1 << 20) + 4096)] || stretches == [(0, 3 << 20)], "{stretches:?}");
    }
}

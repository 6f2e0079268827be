//! Copying trees between a local file system and DFS, in either direction.
//!
//! # Shape
//! One list of jobs ([`crew`](crate::crew)), worked through by many at once: list a directory, copy
//! a file, finish a directory whose content is complete. A directory's times and, outside, its
//! permissions are set after its content. Small files take one read and one write whole; large ones
//! stream, several chunks in flight. The bytes in flight are bounded over all files together.
//!
//! # Always true
//! 1. A file appears in DFS whole, with all its attributes, or not at all.
//! 2. The first failure stops the copy and names the path. What was copied before stays, readable.
//! 3. Nothing follows a symbolic link inside a tree, on either side.
//!
//! # What is kept
//! Content, permissions, owner (outside: as far as the user may), times, symbolic links, extended
//! attributes, holes of large files. Not kept: hard links (each name becomes a file), and sockets,
//! pipes and devices, which are skipped, counted and named.

mod export;
mod import;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::path;

pub use export::copy_out;
pub use import::copy_in;
pub(crate) use import::pieces;

/// Says yes or no to a local path.
pub type PathFilter = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// Is told how far a copy is.
pub type ProgressCall = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// How a copy goes about it.
#[derive(Clone)]
pub struct CopyOptions {
    /// Files (and directories) worked on at once.
    pub files_in_flight: usize,
    /// Bytes of content held in memory at once, over all files.
    pub bytes_in_flight: usize,
    /// Leave files alone whose size and time of modification are the same on both sides.
    pub skip_unchanged: bool,
    /// Says which local paths below the source a copy in or a comparison leaves out, whole
    /// directories included. Paths begin as the source was given.
    pub exclude: Option<PathFilter>,
    /// Called after each file and each chunk of a large one, from the copying thread: be quick.
    pub progress: Option<ProgressCall>,
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions {
            files_in_flight: FILES_IN_FLIGHT,
            bytes_in_flight: BYTES_IN_FLIGHT,
            skip_unchanged: false,
            exclude: None,
            progress: None,
        }
    }
}

/// Enough to hide a round trip of a network behind the work on other files.
const FILES_IN_FLIGHT: usize = 64;
/// Enough to keep a fast device and a network busy; little beside the memory of any machine.
const BYTES_IN_FLIGHT: usize = 64 << 20;
/// Chunks of one file in flight.
pub(crate) const CHUNKS_PER_FILE: usize = 8;
/// Paths of skipped things remembered for the report.
const SKIPPED_PATHS_MAX: usize = 20;

/// How far a copy is.
#[derive(Clone, Debug)]
pub struct Progress<'a> {
    pub files: u64,
    pub bytes: u64,
    /// What is being copied.
    pub path: &'a Path,
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CopyReport {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub bytes: u64,
    /// Files left alone because they were the same.
    pub unchanged: u64,
    /// Sockets, pipes and devices.
    pub skipped: u64,
    /// The first of those.
    pub skipped_paths: Vec<String>,
    /// Extended attributes the destination did not take, and their names.
    pub xattrs_skipped: u64,
    pub xattr_names_skipped: Vec<String>,
    pub seconds: f64,
}

/// Counts of a copy under way.
pub(crate) struct Ledger {
    options: CopyOptions,
    began: rt::Instant,
    room: Semaphore,
    files: AtomicU64,
    directories: AtomicU64,
    symlinks: AtomicU64,
    bytes: AtomicU64,
    unchanged: AtomicU64,
    skipped: AtomicU64,
    xattrs_skipped: AtomicU64,
    names: Mutex<(Vec<String>, BTreeSet<String>)>,
}

/// Unit of the bound on bytes in flight.
const ROOM_UNIT: usize = 4096;

impl Ledger {
    pub(crate) fn new(options: &CopyOptions) -> Arc<Ledger> {
        Arc::new(Ledger {
            options: options.clone(),
            began: rt::now(),
            room: Semaphore::new(room_units(options.bytes_in_flight) as usize),
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            symlinks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            xattrs_skipped: AtomicU64::new(0),
            names: Mutex::default(),
        })
    }

    /// Waits until `bytes` more may be in memory. Held by nobody who waits for more of it.
    pub(crate) async fn room(&self, bytes: usize) -> SemaphorePermit<'_> {
        let units = room_units(bytes).min(room_units(self.options.bytes_in_flight));
        self.room.acquire_many(units).await.expect("never closed")
    }

    pub(crate) fn skip_unchanged(&self) -> bool {
        self.options.skip_unchanged
    }

    pub(crate) fn is_excluded(&self, path: &Path) -> bool {
        self.options.exclude.as_ref().is_some_and(|exclude| exclude(path))
    }

    pub(crate) fn file_done(&self, path: &Path) {
        self.files.fetch_add(1, Relaxed);
        self.tell(path);
    }

    pub(crate) fn unchanged(&self, path: &Path) {
        self.unchanged.fetch_add(1, Relaxed);
        self.tell(path);
    }

    pub(crate) fn bytes_done(&self, bytes: usize, path: &Path) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.tell(path);
    }

    pub(crate) fn directory_done(&self) {
        self.directories.fetch_add(1, Relaxed);
    }

    pub(crate) fn symlink_done(&self) {
        self.symlinks.fetch_add(1, Relaxed);
    }

    pub(crate) fn skipped(&self, path: &[u8]) {
        self.skipped.fetch_add(1, Relaxed);
        let mut names = self.names.lock().expect("no panic while held");
        if names.0.len() < SKIPPED_PATHS_MAX {
            names.0.push(path::readable(path));
        }
    }

    pub(crate) fn refused(&self, xattrs: Vec<Vec<u8>>) {
        if xattrs.is_empty() {
            return;
        }
        self.xattrs_skipped.fetch_add(xattrs.len() as u64, Relaxed);
        let mut names = self.names.lock().expect("no panic while held");
        names.1.extend(xattrs.iter().map(|name| path::readable(name)).take(SKIPPED_PATHS_MAX));
    }

    fn tell(&self, path: &Path) {
        if let Some(progress) = &self.options.progress {
            let files = self.files.load(Relaxed) + self.unchanged.load(Relaxed);
            progress(&Progress { files, bytes: self.bytes.load(Relaxed), path });
        }
    }

    pub(crate) fn report(&self) -> CopyReport {
        let names = self.names.lock().expect("no panic while held");
        CopyReport {
            files: self.files.load(Relaxed),
            directories: self.directories.load(Relaxed),
            symlinks: self.symlinks.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            unchanged: self.unchanged.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            skipped_paths: names.0.clone(),
            xattrs_skipped: self.xattrs_skipped.load(Relaxed),
            xattr_names_skipped: names.1.iter().cloned().collect(),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}

fn room_units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(ROOM_UNIT)).unwrap_or(u32::MAX >> 3).max(1)
}

/// Whether all of it is zero: a hole, if the file is to have holes.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In blocks, so that the compiler compares many bytes at once and data is told by its first.
    bytes.chunks(256).all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
}

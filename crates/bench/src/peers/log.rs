//! A bare log: a preallocated, pre-written file, `pwrite` and `fdatasync` by direct I/O.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::timed;

/// The least that a device writes whole.
const BLOCK_BYTES: usize = 4096;
const FILE_BYTES: usize = 64 << 20;
/// Longest append.
const APPEND_BYTES_MAX: usize = 1 << 20;

pub struct BareLog {
    file: File,
    /// Holds the longest append at an aligned address, `start` bytes in.
    buffer: Vec<u8>,
    start: usize,
    at: usize,
}

impl BareLog {
    pub fn create(directory: &Path) -> Result<BareLog> {
        let path = directory.join("bare-log");
        std::fs::write(&path, vec![0; FILE_BYTES]).with_context(|| format!("write {}", path.display()))?;
        // Not every file system takes O_DIRECT; the page cache is then part of both sides.
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(&path);
        let file = direct.or_else(|_| options.open(&path))?;
        file.sync_all()?;
        let buffer = vec![0x5a; APPEND_BYTES_MAX + BLOCK_BYTES];
        let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
        Ok(BareLog { file, buffer, start, at: 0 })
    }

    /// Durable appends of `bytes`, rounded up to blocks, a second, one after the other.
    pub fn rate(&mut self, bytes: usize, count: usize) -> Result<f64> {
        let bytes = bytes.next_multiple_of(BLOCK_BYTES);
        assert!(bytes <= APPEND_BYTES_MAX, "no bench appends more");
        let (seconds, outcome) = timed(|| (0..count).try_for_each(|_| self.append(bytes)));
        outcome?;
        Ok(count as f64 / seconds)
    }

    fn append(&mut self, bytes: usize) -> Result<()> {
        if self.at + bytes > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.buffer[self.start..self.start + bytes], self.at as u64)?;
        self.file.sync_data()?;
        self.at += bytes;
        Ok(())
    }
}

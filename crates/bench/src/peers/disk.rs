//! Raw transfers of 1 MiB by direct I/O, one after the other.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Result;

use crate::measure::timed;

const MIB: usize = 1 << 20;
const GIB: f64 = (1u32 << 30) as f64;
/// Direct I/O wants addresses at multiples of this.
const ALIGNMENT: usize = 4096;

pub struct BareDisk {
    file: File,
    buffer: Vec<u8>,
    /// Where the aligned MiB begins in `buffer`.
    start: usize,
    /// MiB in the file.
    count: usize,
}

impl BareDisk {
    /// A file of `count` MiB, written once.
    pub fn create(directory: &Path, count: usize) -> Result<BareDisk> {
        let mut disk = BareDisk::open(&directory.join("bare-disk"), count)?;
        disk.write_rate(count)?;
        Ok(disk)
    }

    /// GiB/s of writing `count` MiB where a file system keeps space that was never written.
    pub fn fresh_write_rate(directory: &Path, count: usize, together: usize) -> Result<f64> {
        let path = directory.join("fresh-disk");
        let mut disk = BareDisk::open(&path, count)?;
        rustix::fs::fallocate(&disk.file, rustix::fs::FallocateFlags::empty(), 0, (count * MIB) as u64)?;
        disk.file.sync_all()?;
        let rate = disk.write_rate(together)?;
        std::fs::remove_file(&path)?;
        Ok(rate)
    }

    fn open(path: &Path, count: usize) -> Result<BareDisk> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
        let file = direct.or_else(|_| options.open(path))?;
        let buffer = vec![0x5a; MIB + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        Ok(BareDisk { file, buffer, start, count })
    }

    /// GiB/s of writing the whole file, with an `fdatasync` after every `together` writes.
    pub fn write_rate(&mut self, together: usize) -> Result<f64> {
        let block = &self.buffer[self.start..self.start + MIB];
        let (seconds, outcome) = timed(|| {
            for n in 0..self.count {
                self.file.write_all_at(block, (n * MIB) as u64)?;
                if (n + 1) % together == 0 {
                    self.file.sync_data()?;
                }
            }
            self.file.sync_data()
        });
        outcome?;
        Ok((self.count * MIB) as f64 / GIB / seconds)
    }

    /// GiB/s of reading the whole file.
    pub fn read_rate(&mut self) -> Result<f64> {
        let block = &mut self.buffer[self.start..self.start + MIB];
        let (seconds, outcome) =
            timed(|| (0..self.count).try_for_each(|n| self.file.read_exact_at(block, (n * MIB) as u64)));
        outcome?;
        Ok((self.count * MIB) as f64 / GIB / seconds)
    }
}

//! A file mapped into memory: persistent memory behind a DAX file system, or any file that stands for it.
//!
//! A write copies past the caches, or through them and writes the lines back; a sync is a fence, after which
//! all of it is in the domain that outlives the power. No system call, no device round trip.
//!
//! # What may be assumed of the medium
//! As of any disk, with a cache line (64 bytes) where disks have a sector: until the fence, each line may be
//! kept or lost, in any order, and an 8-byte word is never torn.
//!
//! # Not here
//! Errors of the medium: memory that cannot be read stops the process (SIGBUS), and the next start says what
//! is unreadable by checksum. Device DAX (a character device): it has no files.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::RwLock;

use super::{Dax, DiskError};

/// What the caches hold and write back as a unit.
const LINE: usize = 64;

/// A mapped file. Its length is fixed while it is mapped.
pub(super) struct Mapping {
    pub(super) path: PathBuf,
    start: NonNull<u8>,
    len: usize,
    write_back: WriteBack,
    /// Clones of a disk may be on several threads: copies into the mapping exclude one another and copies
    /// out of it.
    guard: RwLock<()>,
    /// For its lock.
    file: File,
}

// SAFETY: the mapping belongs to nobody's thread, and all access goes through `guard`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// The instruction that writes a line back to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteBack {
    /// Writes back, and keeps the line.
    Clwb,
    /// Writes back and forgets it.
    ClflushOpt,
    /// As `ClflushOpt`, one after another.
    Clflush,
    /// No such instruction that we use: the kernel is asked.
    Msync,
}

impl Mapping {
    /// Maps the whole of the file at `path`.
    pub(super) fn open(path: &Path, dax: Dax) -> Result<Mapping, DiskError> {
        let failed = |source| DiskError::new("map", path, source);
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if !about.file_type().is_file() || about.len() == 0 {
            let text = "only a regular file that has its size already can be mapped";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let len = usize::try_from(about.len()).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        let flags = match dax {
            Dax::Required => libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
            Dax::Emulated => libc::MAP_SHARED,
        };
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let start = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(failed(match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EINVAL) if dax == Dax::Required => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "its file system does not map persistent memory directly: mount one with `-o dax` on a pmem \
                     device, or say `dax: emulated` for a trial",
                ),
                _ => error,
            }));
        }
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at address zero unasked");
        let (path, write_back, guard) = (path.to_owned(), write_back(), RwLock::default());
        Ok(Mapping { path, start, len, write_back, guard, file })
    }

    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(super) fn read_now(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        let from = self.range("read", offset, bytes.len())?;
        let _shared = self.guard.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: `range` checked that the source lies in the mapping; the guard keeps writers out; memory that
        // `bytes` holds exclusively is not the mapping's.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` on their way to the medium; [`Mapping::sync_now`] says that they are there.
    pub(super) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let to = self.range("write", offset, bytes.len())?;
        let _alone = self.guard.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: `range` checked that the destination lies in the mapping, and the guard keeps everybody else out.
        unsafe { self.copy_in(to, bytes) };
        Ok(())
    }

    /// Fences: whatever was written before is durable.
    pub(super) fn sync_now(&self) -> Result<(), DiskError> {
        let _alone = self.guard.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.write_back != WriteBack::Msync {
            fence();
            return Ok(());
        }
        // SAFETY: the range is that of the mapping.
        match unsafe { libc::msync(self.start.as_ptr().cast(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(DiskError::new("sync", &self.path, io::Error::last_os_error())),
        }
    }

    pub(super) fn try_lock_exclusive(&self) -> Result<(), DiskError> {
        super::os::lock(&self.file, &self.path)
    }

    /// # Safety
    /// `to..to + bytes.len()` lies in the mapping, and nobody else touches it meanwhile.
    unsafe fn copy_in(&self, to: *mut u8, bytes: &[u8]) {
        // Whole lines go past the caches; what is before and after goes through them.
        let head = to.align_offset(LINE).min(bytes.len());
        let lines = (bytes.len() - head) / LINE * LINE;
        let tail = head + lines;
        // SAFETY: all three parts lie in the caller's range, the middle one begins at a line and is whole lines,
        // and the source, a shared slice of ours, does not overlap the mapping.
        unsafe {
            self.copy_cached(to, &bytes[..head]);
            stream_lines(to.add(head), &bytes[head..tail]);
            self.copy_cached(to.add(tail), &bytes[tail..]);
        }
    }

    /// # Safety
    /// As of `copy_in`.
    unsafe fn copy_cached(&self, to: *mut u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        let first = to.addr() / LINE;
        let last = (to.addr() + bytes.len() - 1) / LINE;
        for line in first..=last {
            // Written back as a whole, wherever in it the address points; the first is `to` itself, for the
            // start of its line may lie before the caller's range.
            let at = if line == first { to } else { to.wrapping_add(line * LINE - to.addr()) };
            // SAFETY: the line holds a byte that was just written, so it is mapped.
            unsafe { write_line_back(self.write_back, at) };
        }
    }

    /// Where `len` bytes from `offset` lie.
    fn range(&self, operation: &'static str, offset: u64, len: usize) -> Result<*mut u8, DiskError> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len as u64);
        if end.is_none() {
            let kind = if operation == "read" { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
            return Err(DiskError::new(operation, &self.path, kind.into()));
        }
        // SAFETY: `offset` is at most the length of the mapping.
        Ok(unsafe { self.start.as_ptr().add(offset as usize) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping's, and nobody has a pointer into it any more.
        let outcome = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        assert_eq!(outcome, 0, "a mapping that was made can be unmade");
    }
}

#[cfg(target_arch = "x86_64")]
fn write_back() -> WriteBack {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // Leaf 7 says it in EBX: bit 24 clwb, bit 23 clflushopt. Every x86-64 has clflush.
    let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    match features {
        bits if bits & (1 << 24) != 0 => WriteBack::Clwb,
        bits if bits & (1 << 23) != 0 => WriteBack::ClflushOpt,
        _ => WriteBack::Clflush,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn write_back() -> WriteBack {
    WriteBack::Msync
}

/// # Safety
/// `at` is mapped, and the processor has the instruction.
#[cfg(target_arch = "x86_64")]
unsafe fn write_line_back(with: WriteBack, at: *mut u8) {
    use std::arch::asm;
    // SAFETY: the caller's promise; the instructions change no byte that the program can see.
    unsafe {
        match with {
            WriteBack::Clwb => asm!("clwb [{at}]", at = in(reg) at, options(nostack, preserves_flags)),
            WriteBack::ClflushOpt => asm!("clflushopt [{at}]", at = in(reg) at, options(nostack, preserves_flags)),
            WriteBack::Clflush => std::arch::x86_64::_mm_clflush(at),
            WriteBack::Msync => {}
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn write_line_back(_with: WriteBack, _at: *mut u8) {}

/// Copies whole lines past the caches.
///
/// # Safety
/// `to` begins at a line; `bytes` are whole lines, and as many bytes are mapped from `to` on, which nobody
/// else touches.
#[cfg(target_arch = "x86_64")]
unsafe fn stream_lines(to: *mut u8, bytes: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    for (index, piece) in bytes.chunks_exact(size_of::<__m128i>()).enumerate() {
        // SAFETY: the piece has the 16 bytes that are loaded, from any address; the destination is within the
        // caller's range, and a multiple of 16 because `to` is one of 64. The fence is `sync_now`'s.
        unsafe { _mm_stream_si128(to.cast::<__m128i>().add(index), _mm_loadu_si128(piece.as_ptr().cast())) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream_lines(to: *mut u8, bytes: &[u8]) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Orders everything before it into the domain that outlives the power.
#[cfg(target_arch = "x86_64")]
fn fence() {
    // SAFETY: every x86-64 has SSE.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
fn fence() {}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Whatever this processor is, it has the older instructions too: each must leave the bytes in place.
    #[test]
    fn every_instruction_that_this_processor_has_writes_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pmem");
        File::create(&path).unwrap().set_len(64 << 10).unwrap();
        let mut mapping = Mapping::open(&path, Dax::Emulated).unwrap();
        let best = write_back();
        let all = [WriteBack::Clwb, WriteBack::ClflushOpt, WriteBack::Clflush];
        let known = all.into_iter().skip_while(|with| *with != best);
        let mut expected = vec![0; 64 << 10];
        let mut tried = 0;
        for with in known {
            mapping.write_back = with;
            for (offset, len) in [(0, 64), (1, 62), (63, 2), (64, 4096), (100, 1), (4000, 5000), (65_472, 64), (7, 0)] {
                let bytes: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(tried)).collect();
                mapping.write_now(offset, &bytes).unwrap();
                mapping.sync_now().unwrap();
                expected[offset as usize..offset as usize + len].copy_from_slice(&bytes);
                tried += 1;
            }
        }
        assert!(tried >= 8);
        let mut found = vec![0; 64 << 10];
        mapping.read_now(0, &mut found).unwrap();
        assert!(found == expected);
        drop(mapping);
        assert!(std::fs::read(&path).unwrap() == expected, "and so they are in the file");
    }
}

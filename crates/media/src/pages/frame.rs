//! Frames: the memory that pages live in.
//!
//! One range of address space is reserved for all frames a pool may ever use, and memory comes to it
//! at first touch. So a frame is found by one multiplication, growing never moves a page, and the
//! kernel may back the range with huge pages (worth 12-17 % on a large tree).

use std::io;
use std::ptr::NonNull;

use crate::page::{PAGE_BYTES, Page};

/// Number of a frame in its arena.
pub(crate) type Frame = u32;

/// A reserved range of frames. Memory of frames never touched costs nothing.
pub(crate) struct Arena {
    base: NonNull<u8>,
    frames: u32,
    reserved_bytes: usize,
}

/// Alignment of the range: that of a huge page, or the kernel would not use any at its head.
const ALIGN_BYTES: usize = 2 << 20;

impl Arena {
    /// Reserves address space for `frames` frames.
    ///
    /// # Errors
    /// The operating system refuses (an address space limit).
    pub(crate) fn reserve(frames: u32) -> io::Result<Arena> {
        let bytes = (frames as usize * PAGE_BYTES).next_multiple_of(ALIGN_BYTES) + ALIGN_BYTES;
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no
        // memory of ours.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = raw as usize;
        let aligned = start.next_multiple_of(ALIGN_BYTES);
        let end = start + bytes;
        let kept = (frames as usize * PAGE_BYTES).next_multiple_of(ALIGN_BYTES);
        // SAFETY: both ranges are parts of the mapping just made that nothing refers to: the head
        // before the aligned base, and the tail behind the frames.
        unsafe {
            if aligned > start {
                libc::munmap(raw, aligned - start);
            }
            if end > aligned + kept {
                libc::munmap((aligned + kept) as *mut libc::c_void, end - aligned - kept);
            }
            // Advice only: a kernel without huge pages refuses, and that is fine.
            libc::madvise(aligned as *mut libc::c_void, kept, libc::MADV_HUGEPAGE);
        }
        let base = NonNull::new(aligned as *mut u8).expect("a mapping is never at address 0");
        Ok(Arena { base, frames, reserved_bytes: kept })
    }

    /// Frames in the range.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// The page in `frame`. Whoever dereferences it answers for aliasing.
    #[inline]
    pub(crate) fn page(&self, frame: Frame) -> *mut Page {
        debug_assert!(frame < self.frames);
        // SAFETY: `frame < self.frames`, so the offset stays inside the mapping.
        unsafe { self.base.as_ptr().add(frame as usize * PAGE_BYTES).cast::<Page>() }
    }

    /// Gives the memory of `frames` frames from `first` back to the system; they read as zero after.
    pub(crate) fn discard(&self, first: Frame, frames: u32) {
        assert!(first as u64 + frames as u64 <= self.frames as u64);
        if frames > 0 {
            // SAFETY: the range lies in the mapping, and the caller freed those frames: nothing refers
            // to them.
            unsafe {
                libc::madvise(self.page(first).cast(), frames as usize * PAGE_BYTES, libc::MADV_DONTNEED);
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every page reference borrows the pool that owns the arena.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.reserved_bytes);
        }
    }
}

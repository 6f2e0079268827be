//! Frames: the memory that pages live in.
//!
//! One range of address space is reserved for all frames a pool may ever use, and memory comes to it
//! as it is used. So a frame is found by one multiplication, growing never moves a page, and the
//! kernel may back the range with huge pages (worth 12-17 % on a large tree).

use std::cell::Cell;
use std::io;

use rt::memory::{HUGE_PAGE_BYTES, Reserved};

use crate::page::{PAGE_BYTES, Page};

/// Number of a frame in its arena.
pub(crate) type Frame = u32;

/// A reserved range of frames. Memory of frames never touched costs nothing.
pub(crate) struct Arena {
    memory: Reserved,
    frames: u32,
    /// Frames up to here have their memory, or will have it soon.
    warm: Cell<u32>,
}

/// Frames of a huge page.
const WARM_STEP: u32 = (HUGE_PAGE_BYTES / PAGE_BYTES) as u32;
/// Frames that are made ready ahead, at most: 32 MiB.
const WARM_MAX: u32 = 16 * WARM_STEP;

impl Arena {
    /// Reserves address space for `frames` frames.
    ///
    /// # Errors
    /// The operating system refuses (an address space limit).
    pub(crate) fn reserve(frames: u32) -> io::Result<Arena> {
        Ok(Arena { memory: Reserved::new(frames as usize * PAGE_BYTES)?, frames, warm: Cell::new(0) })
    }

    /// Frames in the range.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// The page in `frame`. Whoever dereferences it answers for aliasing.
    #[inline]
    pub(crate) fn page(&self, frame: Frame) -> *mut Page {
        debug_assert!(frame < self.frames);
        // SAFETY: `frame < self.frames`, so the offset stays inside the reservation.
        unsafe { self.memory.start().as_ptr().add(frame as usize * PAGE_BYTES).cast::<Page>() }
    }

    /// Frames up to `high` are in use, and the next ones soon: their memory is made ready, a quarter of what
    /// there is ahead, but none behind `most`.
    #[inline]
    pub(crate) fn expect(&self, high: Frame, most: Frame) {
        let wanted = high.saturating_add((high / 4).clamp(WARM_STEP, WARM_MAX)).min(most).min(self.frames);
        if wanted > self.warm.get() {
            self.warm_up_to(wanted);
        }
    }

    #[cold]
    fn warm_up_to(&self, wanted: Frame) {
        let from = self.warm.get();
        let to = wanted.next_multiple_of(WARM_STEP);
        self.warm.set(to);
        // One at a time, so that the next one to be used is soon there.
        for step in from / WARM_STEP..to / WARM_STEP {
            let start = step as usize * HUGE_PAGE_BYTES;
            self.memory.warm(start..start + HUGE_PAGE_BYTES);
        }
    }

    /// Gives the memory of `frames` frames from `first` back to the system; they read as zero after.
    pub(crate) fn discard(&self, first: Frame, frames: u32) {
        assert!(first as u64 + frames as u64 <= self.frames as u64);
        self.warm.set(self.warm.get().min(first / WARM_STEP * WARM_STEP));
        let start = first as usize * PAGE_BYTES;
        // SAFETY: the caller freed those frames: nothing refers to them.
        unsafe { self.memory.discard(start..start + frames as usize * PAGE_BYTES) };
    }
}

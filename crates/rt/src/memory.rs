//! Memory that is reserved at once and comes as it is used, without a wait if it is asked for ahead.
//!
//! The first touch of memory costs whoever touches it: the kernel clears the page, and under a hypervisor that
//! lends memory reluctantly a huge page takes milliseconds. [`Reserved::warm`] lets a thread beside pay for it.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use crate::sim;

/// Alignment of a reservation, and the unit in which it is warmed: a huge page.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Requests to warm that may wait; further ones are forgotten, for they are only hints.
const WARMINGS_MAX: usize = 256;

/// A range of address space, of zeros. Parts never touched take no memory.
#[derive(Debug)]
pub struct Reserved {
    /// Shared with warmings under way, so that what they touch is still ours.
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is an address and a length; nothing here reads or writes what lies in it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Reserved {
    /// Reserves at least `bytes` bytes, in whole huge pages; the kernel may use such.
    ///
    /// # Errors
    /// The kernel refuses: a limit of address space.
    pub fn new(bytes: usize) -> io::Result<Reserved> {
        let kept = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let asked = kept + HUGE_PAGE_BYTES;
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let raw = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
            libc::mmap(std::ptr::null_mut(), asked, protection, flags, -1, 0)
        };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let begin = raw as usize;
        let aligned = begin.next_multiple_of(HUGE_PAGE_BYTES);
        // SAFETY: both ranges are parts of the mapping just made that nothing refers to: the head before the aligned
        // start, and the tail behind what is kept.
        unsafe {
            if aligned > begin {
                libc::munmap(raw, aligned - begin);
            }
            if begin + asked > aligned + kept {
                libc::munmap((aligned + kept) as *mut libc::c_void, begin + asked - aligned - kept);
            }
            // Advice only: a kernel without huge pages refuses, and that is fine.
            libc::madvise(aligned as *mut libc::c_void, kept, libc::MADV_HUGEPAGE);
        }
        let start = NonNull::new(aligned as *mut u8).expect("a mapping is never at address 0");
        Ok(Reserved { mapping: Arc::new(Mapping { start, bytes: kept }) })
    }

    /// The first byte; [`Reserved::bytes`] of them may be read and written while this lives.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.start
    }

    /// Length of the range.
    pub fn bytes(&self) -> usize {
        self.mapping.bytes
    }

    /// Gives the memory of a range of whole small pages back to the system; it reads as zeros after.
    ///
    /// # Safety
    /// Nothing refers to what lies there.
    pub unsafe fn discard(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.bytes());
        if !range.is_empty() {
            // SAFETY: the range lies in the mapping, and the caller answers for references.
            unsafe {
                libc::madvise(self.mapping.start.as_ptr().add(range.start).cast(), range.len(), libc::MADV_DONTNEED);
            }
        }
    }

    /// Asks that memory be there for `range` before it is touched: a hint, that costs a message to a thread which
    /// all reservations share. Contents stay as they are. Nothing in the simulator.
    pub fn warm(&self, range: Range<usize>) {
        if sim::is_active() {
            return;
        }
        let range = range.start..range.end.min(self.bytes());
        if let Some(warmer) = warmer()
            && !range.is_empty()
        {
            // Full: then those who touch it wait, as they would have.
            let _ = warmer.try_send((self.mapping.clone(), range));
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the last that knew its address is gone.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.bytes);
        }
    }
}

type Warming = (Arc<Mapping>, Range<usize>);

/// The way to the thread that touches memory ahead; `None` when the kernel refused a thread.
fn warmer() -> Option<&'static SyncSender<Warming>> {
    static WARMER: OnceLock<Option<SyncSender<Warming>>> = OnceLock::new();
    WARMER
        .get_or_init(|| {
            let (sender, receiver) = sync_channel::<Warming>(WARMINGS_MAX);
            let run = move || {
                for (mapping, range) in receiver {
                    // SAFETY: the range lies in the mapping, which lives while this holds it. Populating writes nothing,
                    // so others may use what lies there meanwhile. A kernel that does not know how refuses.
                    unsafe {
                        let start = mapping.start.as_ptr().add(range.start);
                        libc::madvise(start.cast(), range.len(), libc::MADV_POPULATE_WRITE);
                    }
                }
            };
            std::thread::Builder::new().name("memory".into()).spawn(run).ok().map(|_| sender)
        })
        .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(memory: &Reserved, at: usize) -> *mut u8 {
        assert!(at < memory.bytes());
        // SAFETY: within the range.
        unsafe { memory.start().as_ptr().add(at) }
    }

    fn resident(memory: &Reserved, range: Range<usize>) -> usize {
        let mut pages = vec![0u8; range.len() / 4096];
        // SAFETY: the range lies in the mapping, and there is a byte for each of its pages.
        let outcome = unsafe { libc::mincore(byte(memory, range.start).cast(), range.len(), pages.as_mut_ptr()) };
        assert_eq!(outcome, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn memory_is_there_before_it_is_touched_and_keeps_what_was_written() {
        let memory = Reserved::new(3 * HUGE_PAGE_BYTES - 1).unwrap();
        assert_eq!(memory.bytes(), 3 * HUGE_PAGE_BYTES);
        assert_eq!(memory.start().as_ptr() as usize % HUGE_PAGE_BYTES, 0);
        let second = HUGE_PAGE_BYTES..2 * HUGE_PAGE_BYTES;
        // SAFETY: ours, and within.
        unsafe { byte(&memory, second.start + 7).write(9) };
        memory.warm(second.clone());
        // Behind the end there is nothing to warm; in the middle of it, half.
        memory.warm(3 * HUGE_PAGE_BYTES - 4096..9 * HUGE_PAGE_BYTES);
        while resident(&memory, second.clone()) < second.len() / 4096 {
            std::thread::yield_now();
        }
        // SAFETY: as above.
        assert_eq!(unsafe { byte(&memory, second.start + 7).read() }, 9);
        // SAFETY: nothing refers to it.
        unsafe { memory.discard(second.clone()) };
        // SAFETY: as above.
        assert_eq!(unsafe { byte(&memory, second.start + 7).read() }, 0);
    }

    /// A warming that is under way when its owner goes must not touch what comes to lie there.
    #[test]
    fn a_reservation_may_go_while_it_is_warmed() {
        for _ in 0..64 {
            let memory = Reserved::new(HUGE_PAGE_BYTES).unwrap();
            memory.warm(0..HUGE_PAGE_BYTES);
        }
    }
}

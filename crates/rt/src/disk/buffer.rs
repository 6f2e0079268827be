//! [`IoBuf`]: an owned, page-aligned buffer that the kernel may use while no one else does.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of a buffer's address and unit of its capacity: what O_DIRECT asks of any device.
pub const ALIGNMENT: usize = 4096;

/// Owned bytes at a 4096-aligned address, with capacity a multiple of 4096.
///
/// # Always true
/// 1. `len <= init <= capacity`, and the first `init` bytes are initialised.
/// 2. The `capacity` bytes from `start` are this buffer's alone: of an allocation of its own, or of its share of
///    `whole`.
pub struct IoBuf {
    start: NonNull<u8>,
    len: usize,
    init: usize,
    capacity: usize,
    /// Of a buffer that was split: the allocation that the parts share.
    whole: Option<Arc<Whole>>,
}

// SAFETY: an IoBuf owns its bytes, as a Vec<u8> does.
unsafe impl Send for IoBuf {}
// SAFETY: a shared IoBuf only gives out shared slices.
unsafe impl Sync for IoBuf {}

/// An allocation in parts. It is given back with the last of them.
struct Whole {
    start: NonNull<u8>,
    init: usize,
    capacity: usize,
}

// SAFETY: it is only memory to free; its bytes are reached through the parts, each of which owns its own.
unsafe impl Send for Whole {}
// SAFETY: as above.
unsafe impl Sync for Whole {}

impl Drop for Whole {
    fn drop(&mut self) {
        // As the one buffer that it was; the parts are gone.
        drop(IoBuf { start: self.start, len: 0, init: self.init, capacity: self.capacity, whole: None });
    }
}

impl IoBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> IoBuf {
        let capacity = round_up(len);
        if let Some(mut buffer) = pooled(capacity) {
            buffer.len = buffer.init.min(len);
            buffer.fill(0);
            buffer.resize(len);
            return buffer;
        }
        let start = match layout(capacity) {
            // SAFETY: the layout has a size above zero.
            Some(layout) => NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout)),
            None => dangling(),
        };
        IoBuf { start, len, init: capacity, capacity, whole: None }
    }

    /// `len` bytes of unspecified content (zero, or of a buffer this thread dropped before), for a
    /// read that overwrites all of them.
    ///
    /// Cost: no zeroing when the thread's pool has a buffer of the size.
    pub fn for_read(len: usize) -> IoBuf {
        match pooled(round_up(len)) {
            Some(mut buffer) => {
                buffer.len = buffer.init.min(len);
                buffer.resize(len);
                buffer
            }
            None => IoBuf::zeroed(len),
        }
    }

    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> IoBuf {
        let capacity = round_up(capacity);
        if let Some(buffer) = pooled(capacity) {
            return buffer;
        }
        let start = match layout(capacity) {
            // SAFETY: the layout has a size above zero.
            Some(layout) => NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout)),
            None => dangling(),
        };
        IoBuf { start, len: 0, init: 0, capacity, whole: None }
    }

    /// A copy of `bytes`.
    pub fn from_slice(bytes: &[u8]) -> IoBuf {
        let mut buffer = IoBuf::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shortens to `len` bytes; does nothing if they are fewer already.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Sets the length to `len`. Bytes beyond the former length are zero if they have never been
    /// written, else what was last in their place.
    pub fn resize(&mut self, len: usize) {
        self.reserve(len);
        if len > self.init {
            // SAFETY: `init..len` lies within the capacity, which `reserve` made large enough.
            unsafe { self.start.as_ptr().add(self.init).write_bytes(0, len - self.init) };
            self.init = len;
        }
        self.len = len;
    }

    /// Appends `bytes`, moving to a larger allocation when there is no room.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.len.checked_add(bytes.len()).expect("two slices in memory do not exceed the address space");
        self.reserve(end);
        // SAFETY: `len..end` lies within the capacity, and `bytes`, a shared slice, cannot overlap
        // memory we hold exclusively.
        unsafe { self.start.as_ptr().add(self.len).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.len = end;
        self.init = self.init.max(end);
    }

    /// Appends zero bytes up to the next multiple of `unit` (a direct write needs whole blocks).
    pub fn pad_to(&mut self, unit: usize) {
        let (old, new) = (self.len, self.len.next_multiple_of(unit));
        self.resize(new);
        self[old..].fill(0);
    }

    /// Cuts the buffer in two without a copy: keeps the bytes before `at`, and returns those from `at` on. The parts are
    /// each an [`IoBuf`]; their memory is freed with the last of them.
    ///
    /// # Panics
    /// When `at` is not a multiple of [`ALIGNMENT`], or lies beyond the end.
    pub fn split_off(&mut self, at: usize) -> IoBuf {
        assert!(at.is_multiple_of(ALIGNMENT) && at <= self.len, "a buffer of {} is cut at {at}", self.len);
        let IoBuf { start, len, init, capacity, .. } = *self;
        let whole = self.whole.get_or_insert_with(|| Arc::new(Whole { start, init, capacity })).clone();
        (self.len, self.init, self.capacity) = (at, at, at);
        // SAFETY: `at` lies within the capacity.
        let start = unsafe { start.add(at) };
        IoBuf { start, len: len - at, init: init - at, capacity: capacity - at, whole: Some(whole) }
    }

    /// Makes the capacity at least `needed`; doubles, so that appending costs amortised constant work.
    #[inline]
    fn reserve(&mut self, needed: usize) {
        if needed > self.capacity {
            self.grow(needed);
        }
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let mut larger = IoBuf::with_capacity(needed.max(self.capacity * 2));
        larger.extend_from_slice(self);
        *self = larger;
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised and ours.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and we hold the buffer exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for IoBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for IoBuf {
    fn default() -> IoBuf {
        IoBuf::with_capacity(0)
    }
}

impl Clone for IoBuf {
    fn clone(&self) -> IoBuf {
        IoBuf::from_slice(self)
    }
}

impl PartialEq for IoBuf {
    fn eq(&self, other: &IoBuf) -> bool {
        self[..] == other[..]
    }
}

impl Eq for IoBuf {}

/// Without a copy: the buffer is freed with the last of the `Bytes`.
impl From<IoBuf> for bytes::Bytes {
    fn from(buffer: IoBuf) -> bytes::Bytes {
        bytes::Bytes::from_owner(buffer)
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({} bytes)", self.len)
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        // A part: the memory goes with the last one.
        if self.whole.is_some() || keep(self) {
            return;
        }
        if let Some(layout) = layout(self.capacity) {
            // SAFETY: allocated with this very layout, and not used after.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

fn round_up(len: usize) -> usize {
    len.checked_next_multiple_of(ALIGNMENT).expect("a buffer smaller than the address space")
}

/// `None` for an empty buffer, which owns no memory.
fn layout(capacity: usize) -> Option<Layout> {
    let layout = Layout::from_size_align(capacity, ALIGNMENT).expect("a buffer smaller than half the address space");
    (capacity > 0).then_some(layout)
}

fn dangling() -> NonNull<u8> {
    NonNull::without_provenance(std::num::NonZero::new(ALIGNMENT).expect("4096 is not zero"))
}

/// Bytes of dropped buffers a thread keeps for reuse: a few bulk transfers' worth. A fresh 1 MiB
/// buffer costs some 100 us of page faults and zeroing, more than reading it from a disk.
const POOL_BYTES_MAX: usize = 8 << 20;

/// The largest buffer worth keeping.
const POOL_BUFFER_BYTES_MAX: usize = 1 << 20;

/// The largest number of buffers kept: bounds the search for a fitting one.
const POOL_BUFFERS_MAX: usize = 32;

struct Pool {
    buffers: Vec<IoBuf>,
    bytes: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { buffers: Vec::new(), bytes: 0 }) };
}

/// An empty buffer of exactly `capacity` from this thread's pool. Its `init` prefix keeps old bytes.
fn pooled(capacity: usize) -> Option<IoBuf> {
    if capacity == 0 || capacity > POOL_BUFFER_BYTES_MAX {
        return None;
    }
    // Fails only while the thread ends, after its pool was taken down.
    POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let found = pool.buffers.iter().rposition(|buffer| buffer.capacity == capacity)?;
        let mut buffer = pool.buffers.swap_remove(found);
        pool.bytes -= capacity;
        buffer.len = 0;
        Some(buffer)
    })
    .ok()
    .flatten()
}

/// Moves the memory of a buffer being dropped into the pool, if there is room. True if it did.
fn keep(buffer: &mut IoBuf) -> bool {
    let capacity = buffer.capacity;
    if capacity == 0 || capacity > POOL_BUFFER_BYTES_MAX {
        return false;
    }
    POOL.try_with(|pool| {
        // Borrowed already when the pool itself drops buffers.
        let Ok(mut pool) = pool.try_borrow_mut() else { return false };
        if pool.bytes + capacity > POOL_BYTES_MAX || pool.buffers.len() >= POOL_BUFFERS_MAX {
            return false;
        }
        pool.bytes += capacity;
        pool.buffers.push(IoBuf { start: buffer.start, len: 0, init: buffer.init, capacity, whole: None });
        true
    })
    .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_keep_their_bytes() {
        for len in [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1] {
            let zeroed = IoBuf::zeroed(len);
            assert_eq!(zeroed.len(), len);
            assert!(zeroed.iter().all(|&byte| byte == 0));
            assert!(len == 0 || zeroed.as_ptr().addr().is_multiple_of(ALIGNMENT));
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut copy = IoBuf::from_slice(&bytes);
            assert!(copy[..] == bytes[..] && copy.capacity().is_multiple_of(ALIGNMENT));
            copy.truncate(len / 2);
            assert_eq!(copy[..], bytes[..len / 2]);
        }
    }

    #[test]
    fn a_reused_buffer_is_zero_where_zero_is_promised() {
        for _ in 0..3 {
            let mut dirty = IoBuf::from_slice(&[0xaa; 5000]);
            dirty.extend_from_slice(&[0xbb; 3000]);
            drop(dirty);
            assert!(IoBuf::zeroed(8192).iter().all(|&byte| byte == 0));
            drop(IoBuf::from_slice(&[0xcc; 5000]));
            let mut padded = IoBuf::from_slice(&[1; 100]);
            padded.pad_to(512);
            assert!(padded.len() == 512 && padded[100..].iter().all(|&byte| byte == 0));
            assert_eq!(IoBuf::for_read(6000).len(), 6000);
        }
    }

    #[test]
    fn parts_are_buffers_and_the_last_one_gives_the_memory_back() {
        let bytes: Vec<u8> = (0..40_000).map(|i| (i / 100) as u8).collect();
        let mut first = IoBuf::from_slice(&bytes);
        let mut rest = first.split_off(8192);
        let mut last = rest.split_off(16384);
        assert!([&first, &rest, &last].iter().all(|part| part.as_ptr().addr().is_multiple_of(ALIGNMENT)));
        assert_eq!([&first[..], &rest, &last].concat(), bytes);
        // A full part that grows moves; what lies behind it is another's.
        rest.extend_from_slice(&[7; 100]);
        last.fill(9);
        assert_eq!((rest.len(), rest[16384..].to_vec()), (16484, vec![7; 100]));
        assert_eq!(first[..], bytes[..8192]);
        let address = first.as_ptr();
        drop((first, rest));
        assert!(IoBuf::with_capacity(40_960).as_ptr() != address, "one part is left");
        drop(last);
        assert_eq!(IoBuf::with_capacity(40_960).as_ptr(), address, "of the thread's pool again");
        assert_eq!(IoBuf::from_slice(&bytes).split_off(36_864).len(), 40_000 - 36_864);
    }

    #[test]
    fn growth_keeps_what_was_there() {
        let mut buffer = IoBuf::default();
        for i in 0..10_000u32 {
            buffer.extend_from_slice(&i.to_le_bytes());
        }
        assert!(buffer.chunks(4).enumerate().all(|(i, word)| word == (i as u32).to_le_bytes()));
        let bytes = bytes::Bytes::from(buffer);
        assert_eq!(bytes.len(), 40_000);
    }
}

//! Copies in memory.

use crate::measure::timed;

/// GiB/s of copying `bytes` at a time from and to buffers that together exceed the caches.
pub fn copy_rate(bytes: usize) -> f64 {
    const SPAN: usize = 256 << 20;
    let source = vec![1u8; SPAN];
    let mut target = vec![2u8; SPAN];
    let (seconds, ()) = timed(|| {
        for (from, to) in source.chunks(bytes).zip(target.chunks_mut(bytes)) {
            to.copy_from_slice(from);
            std::hint::black_box(to.first());
        }
    });
    SPAN as f64 / seconds / f64::from(1 << 30)
}

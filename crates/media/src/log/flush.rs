//! Flushing: what has gathered since the last flush is written and synced as one (group commit).
//!
//! While one flush is on its way to the device, new records gather for the next. The order that matters:
//! bulk data that a record names is synced before the record is written, and nobody is told that a record
//! is durable before the sync behind its write returned.

use std::task::{Context, Poll, Waker};

use rt::disk::IoBuf;
use zerocopy::IntoBytes;

use super::Lsn;
use super::append::Log;
use super::record::{BATCH_HEADER_BYTES, Batch};
use crate::region::BLOCK_BYTES;

/// Buffers kept for reuse: one gathers while one is written, and one for a wrap.
const SPARE_BUFFERS: usize = 3;

/// One flush: what to write, in order, then sync.
pub(crate) struct FlushWork {
    /// Offset in the log region, and whole blocks.
    pub(crate) writes: Vec<(u64, IoBuf)>,
    end: u64,
}

impl Log {
    /// Takes everything appended so far as the next flush; `None` when there is nothing.
    ///
    /// One flush at a time: the next only after [`Log::complete`].
    pub(crate) fn take(&mut self) -> Option<FlushWork> {
        assert!(self.in_flight.is_none(), "one flush at a time");
        let end = self.boundary().0;
        if self.sealed.is_empty() {
            return None;
        }
        let mut writes = Vec::with_capacity(self.sealed.len());
        while let Some(sealed) = self.sealed.pop_front() {
            let mut bytes = sealed.bytes;
            let header = Batch {
                lsn: sealed.base,
                length: bytes.len() as u32,
                incarnation: self.incarnation,
                durable: self.durable,
                checkpoint: self.sequence,
                store: self.store,
            };
            bytes[..BATCH_HEADER_BYTES].copy_from_slice(header.encode().as_bytes());
            bytes.pad_to(BLOCK_BYTES);
            let position = sealed.base % self.area;
            let room = (self.area - position) as usize;
            if bytes.len() > room {
                let rest = IoBuf::from_slice(&bytes[room..]);
                bytes.truncate(room);
                writes.push((offset(position), bytes));
                writes.push((offset(0), rest));
            } else {
                writes.push((offset(position), bytes));
            }
        }
        self.in_flight = Some(end);
        Some(FlushWork { writes, end })
    }

    /// The flush is durable: returns whom to wake.
    #[must_use]
    pub(crate) fn complete(&mut self, work: FlushWork) -> Vec<Waker> {
        assert_eq!(self.in_flight.take(), Some(work.end));
        assert!(self.durable < work.end);
        self.durable = work.end;
        for (_, mut buffer) in work.writes {
            if self.spare.len() < SPARE_BUFFERS {
                buffer.clear();
                self.spare.push(buffer);
            }
        }
        self.wakers(self.durable)
    }

    /// Takes the wakers of everybody who waits for a record before `end`.
    #[must_use]
    pub(crate) fn wakers(&mut self, end: u64) -> Vec<Waker> {
        self.waiters.extract_if(.., |(lsn, _)| *lsn < end).map(|(_, waker)| waker).collect()
    }

    /// Ready when the record at `lsn` is durable; else `cx` is woken when it is.
    pub(crate) fn poll_durable(&mut self, lsn: Lsn, cx: &Context<'_>) -> Poll<()> {
        if lsn.0 < self.durable {
            return Poll::Ready(());
        }
        // A future polled again for another reason must not be listed twice; waiters come in log order,
        // so it is found from the end.
        let known = self.waiters.iter().rev().take_while(|(waits, _)| *waits >= lsn.0);
        if !known.into_iter().any(|(waits, waker)| *waits == lsn.0 && waker.will_wake(cx.waker())) {
            self.waiters.push((lsn.0, cx.waker().clone()));
        }
        Poll::Pending
    }
}

/// Offset in the region of a position in the area.
pub(super) fn offset(position: u64) -> u64 {
    BLOCK_BYTES as u64 + position
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Reserve;
    use crate::log::record::{decode_batch_header, decode_record, verify_batch};

    fn log() -> Log {
        let mut log = Log::new((128 << 10) + BLOCK_BYTES as u64, *b"0123456789abcdef");
        log.resume(Lsn(0), Lsn(0), 4, 9);
        log
    }

    #[test]
    fn batch_has_its_golden_bytes() {
        let mut log = log();
        let first = log.append(0x0102, &[b"hello ", b"world"], Reserve::Normal).unwrap();
        let second = log.append(3, &[], Reserve::Normal).unwrap();
        assert_eq!((first, second), (Lsn(64), Lsn(64 + 40)));
        let work = log.take().unwrap();
        let [(offset, bytes)] = &work.writes[..] else { panic!("one batch is one write") };
        assert_eq!((*offset, bytes.len()), (BLOCK_BYTES as u64, BLOCK_BYTES));
        crate::golden::check("batch", &bytes[..160]);
        let header = decode_batch_header(bytes).unwrap();
        verify_batch(&header, bytes).unwrap();
        let (record, payload) = decode_record(&bytes[64..], 64, 4).unwrap();
        assert_eq!((record.kind.get(), payload), (0x0102, &b"hello world"[..]));
        for byte in 0..128 {
            let mut bytes = bytes.to_vec();
            bytes[byte] ^= 0x10;
            let whole =
                decode_batch_header(&bytes).map_err(|_| ()).and_then(|h| verify_batch(&h, &bytes).map_err(|_| ()));
            // Bytes 64 + 35 .. 64 + 40 pad the first record.
            assert!(whole.is_err() || (99..104).contains(&byte), "byte {byte}");
        }
    }

    #[test]
    fn a_batch_across_the_end_of_the_area_is_written_in_two_parts() {
        let mut log = log();
        let payload = [5; 5000];
        let mut lsn = 0;
        while lsn < 1 << 20 {
            lsn = log.append(1, &[&payload, &payload[..3000]], Reserve::Normal).unwrap().0;
            let work = log.take().unwrap();
            let length: usize = work.writes.iter().map(|(_, bytes)| bytes.len()).sum();
            assert_eq!(length, 2 * BLOCK_BYTES);
            assert!(work.writes.iter().all(|(at, bytes)| at + bytes.len() as u64 <= log.area + BLOCK_BYTES as u64));
            assert!(log.complete(work).is_empty());
            assert_eq!(log.durable(), Lsn(lsn + 2 * BLOCK_BYTES as u64 - 64));
            let end = log.boundary();
            log.truncate(end, 9);
            // Odd starts, so that the end of the area is met in the middle of a batch.
            if lsn % 7 == 0 {
                log.append(1, &[b"x"], Reserve::Normal).unwrap();
                let work = log.take().unwrap();
                let _ = log.complete(work);
            }
        }
    }
}

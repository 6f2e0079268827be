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

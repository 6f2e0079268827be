//! Appending: records go straight into the buffer that the next flush writes.

use std::collections::VecDeque;
use std::task::Waker;

use rt::disk::IoBuf;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::record::{BATCH_HEADER_BYTES, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, record_bytes};
use super::{Lsn, Reserve};
use crate::error::{Error, Result};
use crate::region::BLOCK_BYTES;

/// A buffer is sealed when the next record would make it longer than this: one device write.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// First capacity of a buffer: a busy moment's worth of small records.
const BUFFER_BYTES: usize = 64 << 10;

/// Smallest log region: the header block, and an area of several flushes beside the reserve.
pub const LOG_BYTES_MIN: u64 = 128 << 10;

/// Of the area, one part in this many is left to `Reserve::Critical`.
const CRITICAL_PART: u64 = 8;
/// And no more than this: thousands of deletes.
const CRITICAL_BYTES_MAX: u64 = 16 << 20;

/// Percent of the area in use at which a checkpoint is wanted.
const CHECKPOINT_PERCENT: u64 = 40;

/// Percent of what ordinary appends may use, from which on they should wait for the checkpoint.
const TIGHT_PERCENT: u64 = 85;

/// The log of one store, in memory.
pub(crate) struct Log {
    /// Bytes of the circular area: the region without its header block.
    pub(super) area: u64,
    record_bytes_max: usize,
    pub(super) store: [u8; 16],
    pub(super) incarnation: u32,
    /// Sequence of the superblock durable in both copies.
    pub(super) sequence: u64,
    /// Oldest position that recovery would need.
    tail: u64,
    /// Where `current` starts: the next batch.
    base: u64,
    /// The open batch, its header still blank; empty when there is none.
    current: IoBuf,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) in_flight: Option<u64>,
    pub(super) durable: u64,
    pub(super) waiters: Vec<(u64, Waker)>,
    pub(super) spare: Vec<IoBuf>,
}

/// A batch that takes no more records.
pub(super) struct Sealed {
    pub(super) base: u64,
    pub(super) bytes: IoBuf,
}

impl Log {
    /// A log whose records before `tail` are in a checkpoint, and whose next batch goes to `base`.
    pub(crate) fn new(region_bytes: u64, store: [u8; 16]) -> Log {
        let area = (region_bytes - BLOCK_BYTES as u64) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        Log {
            area,
            record_bytes_max: RECORD_BYTES_MAX.min((area / CRITICAL_PART) as usize),
            store,
            incarnation: 0,
            sequence: 0,
            tail: 0,
            base: 0,
            current: IoBuf::default(),
            sealed: VecDeque::new(),
            in_flight: None,
            durable: 0,
            waiters: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Takes up the line of a log read from the device: all before `end` is durable.
    pub(crate) fn resume(&mut self, tail: Lsn, end: Lsn, incarnation: u32, sequence: u64) {
        assert!(self.current.is_empty() && self.sealed.is_empty() && self.in_flight.is_none());
        assert!(tail <= end && end.0.is_multiple_of(BLOCK_BYTES as u64));
        (self.tail, self.base, self.durable) = (tail.0, end.0, end.0);
        (self.incarnation, self.sequence) = (incarnation, sequence);
    }

    /// Adds a record whose payload is `parts` end to end. It is durable when a flush took it.
    ///
    /// Cost: a copy and a CRC; allocates only when a buffer grows.
    ///
    /// # Errors
    /// - `TooLarge`: over [`RECORD_BYTES_MAX`], or an eighth of a small log.
    /// - `LogFull`: it would overwrite what no checkpoint holds, or leave too little for others.
    #[inline]
    pub(crate) fn append(&mut self, kind: u16, parts: &[&[u8]], reserve: Reserve) -> Result<Lsn> {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        if payload > self.record_bytes_max {
            return Err(Error::TooLarge { bytes: payload as u64, bytes_max: self.record_bytes_max as u64 });
        }
        let record = record_bytes(payload);
        if self.current.is_empty() || self.current.len() + record > BATCH_BYTES {
            self.open_batch();
        }
        let start = self.current.len();
        let end = start + record;
        if self.used_at(end) > self.limit(reserve) || rt::fault!("media.log.room") {
            return Err(self.full(start));
        }
        let lsn = self.base + start as u64;
        let mut header = RecordHeader {
            crc: U32::new(0),
            length: U32::new(payload as u32),
            lsn: U64::new(lsn),
            incarnation: U32::new(self.incarnation),
            kind: U16::new(kind),
            reserved: U16::new(0),
        };
        let buffer = &mut self.current;
        buffer.extend_from_slice(header.as_bytes());
        for part in parts {
            buffer.extend_from_slice(part);
        }
        let written = buffer.len();
        header.crc.set(codec::crc32c(&buffer[start + 4..written]));
        buffer[start..start + 4].copy_from_slice(header.crc.as_bytes());
        buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES][..end - written]);
        Ok(Lsn(lsn))
    }

    /// Where the next record of a new batch would go: everything appended lies before.
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.base + self.current.len() as u64)
    }

    /// Closes the open batch, so that the end of the log is a batch boundary, and returns it.
    pub(crate) fn boundary(&mut self) -> Lsn {
        if !self.current.is_empty() {
            let bytes = std::mem::take(&mut self.current);
            let base = self.base;
            self.base += bytes.len().next_multiple_of(BLOCK_BYTES) as u64;
            self.sealed.push_back(Sealed { base, bytes });
        }
        Lsn(self.base)
    }

    /// A checkpoint holds everything before `tail`: that part of the area may be overwritten.
    pub(crate) fn truncate(&mut self, tail: Lsn, sequence: u64) {
        assert!(self.tail <= tail.0 && tail.0 <= self.durable, "K7: the log is cut where it is durable");
        (self.tail, self.sequence) = (tail.0, sequence);
    }

    /// All records before this position are durable.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }

    pub(crate) fn tail(&self) -> Lsn {
        Lsn(self.tail)
    }

    /// Bytes of the area that wait for a checkpoint.
    pub(crate) fn used(&self) -> u64 {
        self.used_at(self.current.len())
    }

    pub(crate) fn area(&self) -> u64 {
        self.area
    }

    /// Whether so much is in use that a checkpoint should begin.
    #[inline]
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.base - self.tail > self.area / 100 * CHECKPOINT_PERCENT
    }

    /// Whether an ordinary append may be refused soon.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() > self.limit(Reserve::Normal) / 100 * TIGHT_PERCENT
    }

    /// Whether there is anything to flush.
    pub(crate) fn is_pending(&self) -> bool {
        !self.current.is_empty() || !self.sealed.is_empty()
    }

    /// Whether a flush is to begin at once: somebody waits for what has gathered, or a batch is full.
    pub(crate) fn wants_flush(&self) -> bool {
        !self.sealed.is_empty() || (!self.current.is_empty() && !self.waiters.is_empty())
    }

    /// Whether a flush is under way.
    pub(crate) fn is_flushing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Largest payload this log takes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }

    fn used_at(&self, length: usize) -> u64 {
        self.base + length.next_multiple_of(BLOCK_BYTES) as u64 - self.tail
    }

    fn limit(&self, reserve: Reserve) -> u64 {
        match reserve {
            Reserve::Normal => self.area - (self.area / CRITICAL_PART).min(CRITICAL_BYTES_MAX),
            Reserve::Critical | Reserve::Promised { .. } => self.area,
        }
    }

    /// A refusal must leave no batch without a record.
    #[cold]
    fn full(&mut self, start: usize) -> Error {
        if start == BATCH_HEADER_BYTES {
            self.current.clear();
        }
        Error::LogFull { used: self.used(), bytes: self.area }
    }

    #[cold]
    fn open_batch(&mut self) {
        self.boundary();
        let mut buffer = self.spare.pop().unwrap_or_else(|| IoBuf::with_capacity(BUFFER_BYTES));
        buffer.clear();
        buffer.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
        self.current = buffer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(area: u64) -> Log {
        let mut log = Log::new(area + BLOCK_BYTES as u64, *b"0123456789abcdef");
        log.resume(Lsn(0), Lsn(0), 1, 1);
        log
    }

    #[test]
    fn a_full_log_refuses_early_and_keeps_room_for_critical_records() {
        let mut log = log(128 << 10);
        let payload = [7u8; 1000];
        let mut normal = 0;
        let error = loop {
            match log.append(1, &[&payload], Reserve::Normal) {
                Ok(_) => normal += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::LogFull { .. }));
        assert_eq!(log.append(1, &[&payload], Reserve::Normal), Err(error));
        let mut critical = 0;
        while log.append(1, &[&payload], Reserve::Critical).is_ok() {
            critical += 1;
        }
        assert!(normal > 100 && critical > 10, "{normal} {critical}");
        assert!(log.used() <= log.area());
    }

    #[test]
    fn a_record_over_the_limit_is_refused() {
        let mut log = log(128 << 10);
        let payload = vec![0u8; 17 << 10];
        assert!(matches!(log.append(1, &[&payload], Reserve::Critical), Err(Error::TooLarge { .. })));
        assert!(!log.is_pending());
        assert!(log.append(1, &[&payload[..log.record_bytes_max()]], Reserve::Critical).is_ok());
    }

    #[test]
    fn a_refused_first_record_leaves_no_empty_batch() {
        let mut log = log(128 << 10);
        let payload = [7u8; 1000];
        while log.append(1, &[&payload], Reserve::Critical).is_ok() {}
        log.boundary();
        assert!(log.append(1, &[&payload], Reserve::Critical).is_err());
        assert!(log.current.is_empty());
    }
}

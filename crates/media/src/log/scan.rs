//! Reading the log back: the batches from the checkpoint to the end.
//!
//! The log ends at the first place that holds no valid batch of the line. That place is either the torn
//! tail of a crash, which nobody was told is durable, or damage to something acknowledged. They are told
//! apart by looking ahead: each batch says up to where the log was known durable when it was written, so a
//! later batch that says "durable beyond this place" proves that it was whole once. Writes of one flush may
//! reach the device in any order, so a later batch alone proves nothing. Of a store that was closed the superblock says
//! where the log ends: nothing is looked for behind that, and all before it was durable.

use super::Lsn;
use super::flush::offset;
use super::record::{BATCH_HEADER_BYTES, BatchHeader, decode_batch_header, decode_record, record_bytes, verify_batch};
use crate::error::{Corrupt, Device, Error, Fault, Place, Result};
use crate::page::field;
use crate::region::{BLOCK_BYTES, Region};

/// Bytes read at a time while looking ahead.
const LOOK_AHEAD_BYTES: usize = 1 << 20;

/// A record read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub lsn: Lsn,
    pub kind: u16,
    pub payload: &'a [u8],
}

/// Walks the log from a checkpoint.
pub(crate) struct Scanner {
    region: Region,
    area: u64,
    store: [u8; 16],
    start: u64,
    /// Where the next batch should be.
    position: u64,
    /// No batch from here on may be of an earlier incarnation: such a one was cut off by a recovery.
    incarnation: u32,
    sequence: u64,
    /// Where the store was closed; 0: it was not.
    closed: u64,
    /// The present batch, from its header on.
    batch: Vec<u8>,
    batch_lsn: u64,
    batch_length: usize,
    cursor: usize,
    ended: bool,
}

impl Scanner {
    /// Begins at `start`, with what the superblock says of incarnation and sequence, and of where the log was `closed`.
    pub(crate) fn new(
        region: Region,
        area: u64,
        store: [u8; 16],
        start: Lsn,
        incarnation: u32,
        sequence: u64,
        closed: u64,
    ) -> Scanner {
        Scanner {
            region,
            area,
            store,
            start: start.0,
            position: start.0,
            incarnation,
            sequence,
            closed,
            batch: Vec::new(),
            batch_lsn: 0,
            batch_length: 0,
            cursor: 0,
            ended: false,
        }
    }

    /// The next record; `None` at the end of the log.
    ///
    /// # Errors
    /// - `Corrupt`: acknowledged records cannot be read; the place is the first of them.
    /// - `Read`: the device fails.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        if self.cursor >= self.batch_length && !self.next_batch()? {
            return Ok(None);
        }
        let lsn = self.batch_lsn + self.cursor as u64;
        let bytes = &self.batch[self.cursor..self.batch_length];
        let (header, payload) = decode_record(bytes, lsn, self.incarnation)
            .expect("the batch was verified with all its records when it was read");
        self.cursor += record_bytes(payload.len());
        Ok(Some(Record { lsn: Lsn(lsn), kind: header.kind.get(), payload }))
    }

    /// Where the next batch goes once `next_record` returned `None`.
    pub(crate) fn end(&self) -> Option<Lsn> {
        self.ended.then_some(Lsn(self.position))
    }

    /// The log ends here, whatever follows.
    pub(crate) fn give_up(&mut self) {
        self.cursor = self.batch_length;
        self.ended = true;
    }

    fn next_batch(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let fault = match self.read_batch()? {
            Ok(header) => {
                if header.checkpoint.get() > self.sequence {
                    // Written after a superblock that is gone now: the one we opened lies too far back.
                    let fault = field("sequence", self.sequence, header.checkpoint.get());
                    return Err(Corrupt { place: Place::Superblock { copy: 0 }, fault }.into());
                }
                self.incarnation = header.incarnation.get();
                self.batch_lsn = self.position;
                self.batch_length = header.length.get() as usize;
                self.cursor = BATCH_HEADER_BYTES;
                self.position += padded(&header);
                return Ok(true);
            }
            Err(fault) => fault,
        };
        if let Some(later) = self.acknowledged_beyond()? {
            tracing::error!(position = self.position, %fault, later, "the log is damaged before its end");
            let place = Place::Log { lsn: Lsn(self.position) };
            return Err(Corrupt { place, fault: Fault::Gap { later: Lsn(later) } }.into());
        }
        self.ended = true;
        Ok(false)
    }

    /// Reads the batch at `position` whole; the inner error says why there is none.
    fn read_batch(&mut self) -> Result<std::result::Result<BatchHeader, Fault>> {
        let left = self.start + self.area - self.position;
        if left < BLOCK_BYTES as u64 {
            return Ok(Err(field("room", left, BLOCK_BYTES as u64)));
        }
        self.fill(self.position, BLOCK_BYTES)?;
        let header = match decode_batch_header(&self.batch).and_then(|header| self.belongs(&header, self.position)) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        if padded(&header) > left {
            return Ok(Err(field("batch length", padded(&header), left)));
        }
        self.fill(self.position, padded(&header) as usize)?;
        // The first block was read twice: a device that answers differently must not slip through.
        Ok(decode_batch_header(&self.batch)
            .and_then(|again| if again == header { Ok(header) } else { Err(field("batch header", 1, 0)) })
            .and_then(|header| verify_batch(&header, &self.batch).map(|()| header).map_err(|(_, fault)| fault)))
    }

    fn belongs(&self, header: &BatchHeader, position: u64) -> std::result::Result<BatchHeader, Fault> {
        if header.lsn.get() != position {
            return Err(field("batch lsn", header.lsn.get(), position));
        }
        if header.store != self.store {
            return Err(field("batch store", 0, 1));
        }
        if header.incarnation.get() < self.incarnation {
            return Err(field("batch incarnation", header.incarnation.get().into(), self.incarnation.into()));
        }
        Ok(*header)
    }

    /// Position of a batch beyond the present place which proves that the place was durable; or that of the end.
    fn acknowledged_beyond(&mut self) -> Result<Option<u64>> {
        if self.closed > 0 && self.position <= self.closed {
            return Ok(Some(self.closed).filter(|closed| self.position < *closed));
        }
        let end = self.start + self.area;
        let mut position = self.position + BLOCK_BYTES as u64;
        while position < end {
            let chunk = (LOOK_AHEAD_BYTES as u64).min(end - position) as usize;
            self.fill(position, chunk)?;
            for (index, block) in self.batch.chunks_exact(BLOCK_BYTES).enumerate() {
                let at = position + (index * BLOCK_BYTES) as u64;
                let header = decode_batch_header(block).and_then(|header| self.belongs(&header, at));
                if header.is_ok_and(|header| header.durable.get() > self.position) {
                    return Ok(Some(at));
                }
            }
            position += chunk as u64;
        }
        Ok(None)
    }

    /// Reads `bytes` from `position` on into `batch`, around the end of the area.
    fn fill(&mut self, position: u64, bytes: usize) -> Result<()> {
        self.batch.resize(bytes, 0);
        let at = position % self.area;
        let first = bytes.min((self.area - at) as usize);
        let (head, rest) = self.batch.split_at_mut(first);
        let outcome = self.region.read_now(offset(at), head).and_then(|()| match rest.is_empty() {
            true => Ok(()),
            false => self.region.read_now(offset(0), rest),
        });
        outcome.map_err(|cause| Error::Read { place: Place::Log { lsn: Lsn(position) }, device: Device::Log, cause })
    }
}

fn padded(header: &BatchHeader) -> u64 {
    (header.length.get() as usize).next_multiple_of(BLOCK_BYTES) as u64
}

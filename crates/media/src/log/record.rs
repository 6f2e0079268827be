//! Bytes of the log: batches, and the records in them. The header block is a [`crate::RegionHeader`].
//!
//! ```text
//! region:  | header block | circular area: position = lsn % area bytes ...                      |
//! batch:   | batch header 64 | record | record | ... | zero to the end of the block |
//! record:  | record header 24 | payload | zero to a multiple of 8 |
//! ```
//!
//! A batch is what one flush wrote: it starts at a block boundary, whole blocks long, so a durable block is
//! never rewritten. It counts as a whole or not at all.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Fault;
use crate::page::field;
use crate::region::BLOCK_BYTES;

/// Largest payload of one record. A compound update is split by its client long before.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
pub const BATCH_HEADER_BYTES: usize = 64;
pub const RECORD_HEADER_BYTES: usize = 24;
/// Records start at multiples of this.
pub const RECORD_ALIGN: usize = 8;
/// No batch is longer: a full buffer, or one largest record alone.
pub(crate) const BATCH_LENGTH_MAX: usize = RECORD_BYTES_MAX + BLOCK_BYTES;

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"FLbt");

/// Batch header. 64 bytes, little-endian. Ours.
///
/// | offset | bytes | field       | meaning                                                         |
/// |-------:|------:|-------------|-----------------------------------------------------------------|
/// |      0 |     4 | crc         | CRC-32C of bytes 4..64                                          |
/// |      4 |     4 | magic       | `b"FLbt"`                                                       |
/// |      8 |     8 | lsn         | log position of this header                                     |
/// |     16 |     4 | length      | bytes to the end of the last record, this header included       |
/// |     20 |     4 | incarnation | of the store when it was written                                |
/// |     24 |     8 | durable     | log position up to which all was known durable                  |
/// |     32 |     8 | checkpoint  | sequence of the superblock that was then durable in both copies |
/// |     40 |    16 | store       | UUID                                                            |
/// |     56 |     4 | version     | 1                                                               |
/// |     60 |     4 | reserved    | zero                                                            |
///
/// Guards against: older bytes at the same place (lsn); a batch of before a crash that was cut off and
/// then overtaken (incarnation); acknowledged records lost in the middle (durable), a lost superblock
/// (checkpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BatchHeader {
    pub crc: U32,
    pub magic: U32,
    pub lsn: U64,
    pub length: U32,
    pub incarnation: U32,
    pub durable: U64,
    pub checkpoint: U64,
    pub store: [u8; 16],
    pub version: U32,
    pub reserved: U32,
}
const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER_BYTES);
const _: () = assert!(offset_of!(BatchHeader, lsn) == 8);
const _: () = assert!(offset_of!(BatchHeader, durable) == 24);
const _: () = assert!(offset_of!(BatchHeader, store) == 40);

/// Record header. 24 bytes, little-endian. Ours.
///
/// | offset | bytes | field       | meaning                                        |
/// |-------:|------:|-------------|------------------------------------------------|
/// |      0 |     4 | crc         | CRC-32C of bytes 4..24 and of the payload      |
/// |      4 |     4 | length      | bytes of payload                               |
/// |      8 |     8 | lsn         | log position of this header                    |
/// |     16 |     4 | incarnation | as in the batch                                |
/// |     20 |     2 | kind        | the owner's                                    |
/// |     22 |     2 | reserved    | zero                                           |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RecordHeader {
    pub crc: U32,
    pub length: U32,
    pub lsn: U64,
    pub incarnation: U32,
    pub kind: U16,
    pub reserved: U16,
}
const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES);
const _: () = assert!(offset_of!(RecordHeader, lsn) == 8);
const _: () = assert!(offset_of!(RecordHeader, kind) == 20);

/// Bytes a record with `payload` bytes takes in a batch.
#[inline]
pub(crate) const fn record_bytes(payload: usize) -> usize {
    (RECORD_HEADER_BYTES + payload).next_multiple_of(RECORD_ALIGN)
}

/// What goes into a batch header besides constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) lsn: u64,
    pub(crate) length: u32,
    pub(crate) incarnation: u32,
    pub(crate) durable: u64,
    pub(crate) checkpoint: u64,
    pub(crate) store: [u8; 16],
}

impl Batch {
    pub(crate) fn encode(&self) -> BatchHeader {
        let mut header = BatchHeader {
            crc: U32::new(0),
            magic: U32::new(BATCH_MAGIC),
            lsn: U64::new(self.lsn),
            length: U32::new(self.length),
            incarnation: U32::new(self.incarnation),
            durable: U64::new(self.durable),
            checkpoint: U64::new(self.checkpoint),
            store: self.store,
            version: U32::new(1),
            reserved: U32::new(0),
        };
        header.crc.set(codec::crc32c(&header.as_bytes()[4..]));
        header
    }
}

/// Reads a batch header from the start of `bytes` and verifies its checksum and limits.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes.
pub fn decode_batch_header(bytes: &[u8]) -> Result<BatchHeader, Fault> {
    let (header, _) = BatchHeader::read_from_prefix(bytes)
        .map_err(|_| Fault::Short { bytes: bytes.len() as u64, expected: BATCH_HEADER_BYTES as u64 })?;
    if header.magic.get() != BATCH_MAGIC {
        return Err(field("batch magic", header.magic.get().into(), BATCH_MAGIC.into()));
    }
    let computed = codec::crc32c(&header.as_bytes()[4..]);
    if computed != header.crc.get() {
        return Err(Fault::Checksum { stored: header.crc.get(), computed });
    }
    if header.version.get() != 1 {
        return Err(field("batch version", header.version.get().into(), 1));
    }
    let length = header.length.get() as usize;
    if !(BATCH_HEADER_BYTES + RECORD_HEADER_BYTES..=BATCH_LENGTH_MAX).contains(&length) {
        return Err(field("batch length", length as u64, BATCH_LENGTH_MAX as u64));
    }
    Ok(header)
}

/// Reads the record at the start of `bytes`, which must be the one at `lsn` of `incarnation`.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes.
pub fn decode_record(bytes: &[u8], lsn: u64, incarnation: u32) -> Result<(RecordHeader, &[u8]), Fault> {
    let (header, rest) = RecordHeader::read_from_prefix(bytes)
        .map_err(|_| Fault::Short { bytes: bytes.len() as u64, expected: RECORD_HEADER_BYTES as u64 })?;
    let length = header.length.get() as usize;
    if length > RECORD_BYTES_MAX || length > rest.len() {
        return Err(field("record length", length as u64, rest.len().min(RECORD_BYTES_MAX) as u64));
    }
    let computed = codec::crc32c(&bytes[4..RECORD_HEADER_BYTES + length]);
    if computed != header.crc.get() {
        return Err(Fault::Checksum { stored: header.crc.get(), computed });
    }
    if header.lsn.get() != lsn {
        return Err(field("record lsn", header.lsn.get(), lsn));
    }
    if header.incarnation.get() != incarnation {
        return Err(field("record incarnation", header.incarnation.get().into(), incarnation.into()));
    }
    Ok((header, &rest[..length]))
}

/// Verifies every record of a batch whose header was decoded from the start of `bytes`.
///
/// # Errors
/// Offset in the batch, and the [`Fault`] there; never panics, whatever the bytes.
pub fn verify_batch(header: &BatchHeader, bytes: &[u8]) -> Result<(), (usize, Fault)> {
    let length = header.length.get() as usize;
    if bytes.len() < length {
        return Err((0, Fault::Short { bytes: bytes.len() as u64, expected: length as u64 }));
    }
    let mut offset = BATCH_HEADER_BYTES;
    while offset < length {
        // An LSN close to the end of 64 bits is not reachable; wrapping only keeps rubbish from panicking.
        let lsn = header.lsn.get().wrapping_add(offset as u64);
        let (record, _) =
            decode_record(&bytes[offset..length], lsn, header.incarnation.get()).map_err(|fault| (offset, fault))?;
        offset += record_bytes(record.length.get() as usize);
    }
    match offset == length {
        true => Ok(()),
        false => Err((offset, field("batch length", length as u64, offset as u64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_formats_have_their_golden_bytes() {
        let store = *b"0123456789abcdef";
        let batch =
            Batch { lsn: 0x5000, length: 0x123, incarnation: 4, durable: 0x4000, checkpoint: 9, store }.encode();
        crate::golden::check("batch_header", batch.as_bytes());
        assert_eq!(decode_batch_header(batch.as_bytes()), Ok(batch));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let store = *b"0123456789abcdef";
        let batch = Batch { lsn: 0x5000, length: 0x123, incarnation: 4, durable: 0x4000, checkpoint: 9, store };
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            let mut bytes = batch.encode().as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_batch_header(&bytes).is_err(), "batch bit {bit}");
        }
    }
}

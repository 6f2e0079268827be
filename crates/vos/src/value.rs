//! What the tree stores under a key: payloads, and the counts of extents.
//!
//! Values, little-endian. Ours.
//!
//! | record     | bytes                                                          |
//! |------------|----------------------------------------------------------------|
//! | punch      | none                                                           |
//! | hole       | count 8                                                        |
//! | array data | count 8, record bytes 4, payload                               |
//! | single     | payload                                                        |
//!
//! | payload | bytes                                                                           |
//! |---------|---------------------------------------------------------------------------------|
//! | inline  | form 1 = 1, checksums 4 each, the bytes                                         |
//! | bulk    | form 1 = 2, bytes 8, extents 2, extents (block 4, blocks 4) each, checksums 4 each |
//!
//! A staged value is a bulk value of one block: the tree does not tell where its bytes are for the moment.
//!
//! An inline payload of `n` bytes has `ceil(n / 32768)` checksums: one, or none when it is empty.

use codec::checksum::chunk_count;
use smallvec::SmallVec;
use types::VALUE_BYTES_MAX;

use crate::key::COMPOSITE_BYTES_MAX;
use crate::node::{self, Value};
use crate::request::{BulkList, Checksums, INLINE_BYTES_MAX, Payload, Source};
use crate::space::BulkExtent;

/// Most runs of blocks that one payload may be scattered over. With its checksums and two longest keys
/// it still fits a page.
pub(crate) const EXTENTS_PER_PAYLOAD_MAX: usize = media::PIECES_MAX;

// The longest key with the longest value is one record of a leaf, and two longest keys fit an inner node.
const _: () = assert!(COMPOSITE_BYTES_MAX + DATA_HEAD_BYTES + 5 + INLINE_BYTES_MAX <= node::RECORD_BYTES_MAX);
const BULK_BYTES_MAX: usize = 11 + 8 * EXTENTS_PER_PAYLOAD_MAX + 4 * chunk_count(VALUE_BYTES_MAX);
const _: () = assert!(COMPOSITE_BYTES_MAX + DATA_HEAD_BYTES + BULK_BYTES_MAX <= node::RECORD_BYTES_MAX);
const _: () = assert!(2 * (COMPOSITE_BYTES_MAX + node::CHILD_BYTES) <= node::RECORD_BYTES_MAX - 64);

const INLINE: u8 = 1;
const BULK: u8 = 2;
/// Bytes of `count | record bytes`.
const DATA_HEAD_BYTES: usize = 12;

/// Space for the head of a value: all of it except inline bytes.
pub(crate) type Head = SmallVec<[u8; 64]>;

/// A stored payload, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored<'a> {
    Inline { checksums: &'a [u8], bytes: &'a [u8] },
    Bulk { bytes: u64, extents: &'a [u8], checksums: &'a [u8] },
}

impl Stored<'_> {
    /// Payload bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Stored::Inline { bytes, .. } => bytes.len() as u64,
            Stored::Bulk { bytes, .. } => *bytes,
        }
    }

    /// The blocks it lies in; none when it is inline.
    pub(crate) fn blocks(&self) -> BulkList {
        match self {
            Stored::Inline { .. } => BulkList::new(),
            Stored::Bulk { extents, .. } => read_extents(extents),
        }
    }

    /// One for each chunk.
    pub(crate) fn checksums(&self) -> Checksums {
        match self {
            Stored::Inline { checksums, .. } | Stored::Bulk { checksums, .. } => read_checksums(checksums),
        }
    }

    /// The run of blocks it lies in, when there is just one.
    #[inline]
    pub(crate) fn lone_extent(&self) -> Option<BulkExtent> {
        match self {
            Stored::Bulk { extents, .. } => <&[u8; 8]>::try_from(*extents).ok().map(read_extent),
            Stored::Inline { .. } => None,
        }
    }

    /// A source for the byte range `part`; inline bytes are appended to `inline`.
    pub(crate) fn source(&self, part: std::ops::Range<u64>, inline: &mut Vec<u8>) -> Source {
        match *self {
            Stored::Inline { checksums, bytes } => {
                let start = inline.len();
                inline.extend_from_slice(bytes);
                Source::Inline { payload: start..inline.len(), checksums: read_checksums(checksums), part }
            }
            Stored::Bulk { bytes, extents, checksums } => {
                Source::Bulk { extents: read_extents(extents), bytes, checksums: read_checksums(checksums), part }
            }
        }
    }
}

/// Appends the head of a payload; the inline bytes, which follow it, are returned.
pub(crate) fn payload_head<'a>(payload: &Payload<'a>, head: &mut Head) -> &'a [u8] {
    match *payload {
        Payload::Inline { bytes, checksums } => {
            head.push(INLINE);
            push_checksums(head, checksums);
            bytes
        }
        Payload::Staged { block, bytes, checksums } => {
            bulk_head(head, bytes.len() as u64, &[BulkExtent { block, blocks: 1 }], checksums);
            &[]
        }
        Payload::Bulk { at, bytes, checksums } => {
            bulk_head(head, bytes, at.extents(), checksums);
            &[]
        }
    }
}

fn bulk_head(head: &mut Head, bytes: u64, extents: &[BulkExtent], checksums: &[u32]) {
    head.push(BULK);
    head.extend_from_slice(&bytes.to_le_bytes());
    head.extend_from_slice(&(extents.len() as u16).to_le_bytes());
    for extent in extents {
        head.extend_from_slice(&extent.block.to_le_bytes());
        head.extend_from_slice(&extent.blocks.to_le_bytes());
    }
    push_checksums(head, checksums);
}

fn push_checksums(head: &mut Head, checksums: &[u32]) {
    checksums.iter().for_each(|checksum| head.extend_from_slice(&checksum.to_le_bytes()));
}

/// Appends what goes before the payload of array data.
pub(crate) fn data_head(head: &mut Head, count: u64, record_bytes: u32) {
    head.extend_from_slice(&count.to_le_bytes());
    head.extend_from_slice(&record_bytes.to_le_bytes());
}

/// The value of a hole of `count` records.
pub(crate) fn hole(count: &[u8; 8]) -> Value<'_> {
    Value { head: count, tail: &[] }
}

/// Reads a payload; `None` when the bytes are none.
pub(crate) fn read_payload(bytes: &[u8]) -> Option<Stored<'_>> {
    let (&form, rest) = bytes.split_first()?;
    match form {
        INLINE if rest.is_empty() => Some(Stored::Inline { checksums: &[], bytes: &[] }),
        INLINE => {
            let (checksums, bytes) = rest.split_at_checked(4)?;
            (!bytes.is_empty() && bytes.len() <= INLINE_BYTES_MAX).then_some(Stored::Inline { checksums, bytes })
        }
        BULK => {
            let (head, rest) = rest.split_at_checked(10)?;
            let bytes = u64::from_le_bytes(*head.first_chunk()?);
            let count = usize::from(u16::from_le_bytes([head[8], head[9]]));
            let (extents, checksums) = rest.split_at_checked(count * 8)?;
            if bytes == 0 || bytes > VALUE_BYTES_MAX as u64 || checksums.len() != chunk_count(bytes as usize) * 4 {
                return None;
            }
            Some(Stored::Bulk { bytes, extents, checksums })
        }
        _ => None,
    }
}

/// Array data taken apart: count, record bytes, payload.
pub(crate) fn read_data(bytes: &[u8]) -> Option<(u64, u32, Stored<'_>)> {
    let (head, payload) = bytes.split_at_checked(DATA_HEAD_BYTES)?;
    let count = u64::from_le_bytes(*head.first_chunk()?);
    let record_bytes = u32::from_le_bytes(*head.last_chunk()?);
    let payload = read_payload(payload)?;
    (count.checked_mul(u64::from(record_bytes)) == Some(payload.len())).then_some((count, record_bytes, payload))
}

/// Record count of array data or of a hole.
pub(crate) fn read_count(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk()?)).filter(|&count| count > 0)
}

/// Blocks that a value refers to, whatever it is; nothing for one that cannot be read.
pub(crate) fn blocks_of(record: crate::key::Record, value: &[u8]) -> BulkList {
    let payload = match record {
        crate::key::Record::Single(_) => read_payload(value),
        crate::key::Record::Array { hole: false, .. } => read_data(value).map(|(_, _, payload)| payload),
        _ => None,
    };
    match payload {
        Some(Stored::Bulk { extents, .. }) => read_extents(extents),
        _ => BulkList::new(),
    }
}

pub(crate) fn read_checksums(bytes: &[u8]) -> Checksums {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

fn read_extents(bytes: &[u8]) -> BulkList {
    bytes.as_chunks::<8>().0.iter().map(read_extent).collect()
}

fn read_extent(bytes: &[u8; 8]) -> BulkExtent {
    BulkExtent {
        block: u32::from_le_bytes(*bytes.first_chunk().expect("eight bytes")),
        blocks: u32::from_le_bytes(*bytes.last_chunk().expect("eight bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(payload: &Payload<'_>, array: Option<(u64, u32)>) -> String {
        let mut head = Head::new();
        if let Some((count, record_bytes)) = array {
            data_head(&mut head, count, record_bytes);
        }
        let tail = payload_head(payload, &mut head);
        head.iter().chain(tail).map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn values_have_their_golden_bytes() {
        let inline = Payload::Inline { bytes: b"xyz", checksums: &[0x0a0b_0c0d] };
        assert_eq!(bytes_of(&inline, None), "010d0c0b0a78797a");
        assert_eq!(bytes_of(&Payload::Inline { bytes: b"", checksums: &[] }, None), "01");
        assert_eq!(bytes_of(&inline, Some((3, 1))), "030000000000000001000000010d0c0b0a78797a");
        let pieces = [BulkExtent { block: 5, blocks: 2 }, BulkExtent { block: 0x100, blocks: 7 }];
        let at = crate::space::Reservation::replayed(BulkList::from_slice(&pieces), 36_864);
        let bulk = Payload::Bulk { at: &at, bytes: 36_864, checksums: &[1, 2] };
        assert_eq!(bytes_of(&bulk, None), "0200900000000000000200050000000200000000010000070000000100000002000000");
        let staged = Payload::Staged { block: 5, bytes: &[7; 3000], checksums: &[1] };
        assert_eq!(bytes_of(&staged, None), "02b80b00000000000001000500000001000000 01000000".replace(' ', ""));
        assert_eq!(
            (hole(&9u64.to_le_bytes()).head, read_count(&9u64.to_le_bytes())),
            (&[9, 0, 0, 0, 0, 0, 0, 0][..], Some(9))
        );
    }
}

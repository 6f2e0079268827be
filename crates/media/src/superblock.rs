//! The superblock: who the store is, and which checkpoint is its newest.
//!
//! Two copies, in blocks 0 and 1 of the region with the pages: metadata, or data when there is no such region. At rest both say the same. A checkpoint syncs what
//! they will point at, writes copy 0, syncs, writes copy 1, syncs; only then is anything reused that the
//! former checkpoint needs. So a crash leaves one copy whole, and rot of one copy at rest loses nothing.
//! Opening rewrites both before anything else is written: first the copy that was not chosen.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::{Device, Fault};
use crate::page::{PAGE_BYTES, field};
use crate::region::BLOCK_BYTES;

/// Version of the whole format of a store.
pub const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"FLMEDIA\x01";
/// Copies of the superblock.
pub(crate) const COPIES: u32 = 2;

/// Superblock: blocks 0 and 1 of the region with the pages. 4096 bytes, little-endian. Ours, not upstream's.
///
/// | offset | bytes | field         | meaning                                                          |
/// |-------:|------:|---------------|------------------------------------------------------------------|
/// |      0 |     8 | magic         | `b"FLMEDIA\x01"`                                                 |
/// |      8 |     4 | crc           | CRC-32C of bytes 12..4096                                        |
/// |     12 |     4 | version       | 1                                                                |
/// |     16 |    16 | store         | UUID, bytes in text order                                        |
/// |     32 |     4 | target        | index of the target in its engine                                |
/// |     36 |     4 | copy          | 0 or 1: the block it was written for                             |
/// |     40 |     4 | block_bytes   | 4096                                                             |
/// |     44 |     4 | page_bytes    | 8192                                                             |
/// |     48 |     8 | sequence      | +1 per rewrite; the larger valid copy wins                       |
/// |     56 |     8 | checkpoint    | log position: the pages hold every record before it              |
/// |     64 |     8 | data_bytes    | size of the data region                                          |
/// |     72 |     8 | log_bytes     | size of the log region                                           |
/// |     80 |     4 | incarnation   | +1 per open; the newest log batches carry it                     |
/// |     84 |     4 | root_block    | first block of the root blob                                     |
/// |     88 |     4 | root_bytes    | length of the root blob                                          |
/// |     92 |     4 | root_crc      | CRC-32C of the root blob                                         |
/// |     96 |     8 | frames        | page frames the store may have filled; recovery must have as many |
/// |    104 |     4 | log_start     | incarnation at the checkpoint: no log batch behind carries less  |
/// |    108 |     8 | metadata_bytes | size of the metadata region; 0: pages share the data region    |
/// |    116 |     4 | bitmaps       | bitmap pages that have room before the first block: so far a region can grow |
/// |    120 |     8 | closed        | log position: the store was closed there, and not opened since; 0: it was not closed |
/// |    128 |  3968 | reserved      | zero                                                             |
///
/// Guards against: torn write (crc), stale copy (sequence), misdirected write (copy), wrong device (store).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Superblock {
    pub magic: [u8; 8],
    pub crc: U32,
    pub version: U32,
    pub store: [u8; 16],
    pub target: U32,
    pub copy: U32,
    pub block_bytes: U32,
    pub page_bytes: U32,
    pub sequence: U64,
    pub checkpoint: U64,
    pub data_bytes: U64,
    pub log_bytes: U64,
    pub incarnation: U32,
    pub root_block: U32,
    pub root_bytes: U32,
    pub root_crc: U32,
    pub frames: U64,
    pub log_start: U32,
    pub metadata_bytes: U64,
    pub bitmaps: U32,
    pub closed: U64,
    pub reserved: [u8; 3968],
}
const _: () = assert!(size_of::<Superblock>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(Superblock, store) == 16);
const _: () = assert!(offset_of!(Superblock, sequence) == 48);
const _: () = assert!(offset_of!(Superblock, log_bytes) == 72);
const _: () = assert!(offset_of!(Superblock, root_crc) == 92);
const _: () = assert!(offset_of!(Superblock, metadata_bytes) == 108);
const _: () = assert!(offset_of!(Superblock, bitmaps) == 116);
const _: () = assert!(offset_of!(Superblock, closed) == 120);
const _: () = assert!(offset_of!(Superblock, reserved) == 128);

/// What a superblock says, without the constants and checks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) store: [u8; 16],
    pub(crate) target: u32,
    pub(crate) sequence: u64,
    pub(crate) checkpoint: u64,
    pub(crate) data_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) incarnation: u32,
    pub(crate) root_block: u32,
    pub(crate) root_bytes: u32,
    pub(crate) root_crc: u32,
    pub(crate) frames: u64,
    pub(crate) log_start: u32,
    /// 0: pages share the data region.
    pub(crate) metadata_bytes: u64,
    pub(crate) bitmaps: u32,
    /// The log ends there, and nothing behind it needs to be looked at; 0: that is not known.
    pub(crate) closed: u64,
}

impl Anchor {
    /// The bytes of copy `copy`.
    pub(crate) fn encode(&self, copy: u32) -> Superblock {
        let mut block = Superblock::new_zeroed();
        block.magic = MAGIC;
        block.version.set(FORMAT_VERSION);
        block.store = self.store;
        block.target.set(self.target);
        block.copy.set(copy);
        block.block_bytes.set(BLOCK_BYTES as u32);
        block.page_bytes.set(PAGE_BYTES as u32);
        block.sequence.set(self.sequence);
        block.checkpoint.set(self.checkpoint);
        block.data_bytes.set(self.data_bytes);
        block.log_bytes.set(self.log_bytes);
        block.incarnation.set(self.incarnation);
        block.root_block.set(self.root_block);
        block.root_bytes.set(self.root_bytes);
        block.root_crc.set(self.root_crc);
        block.frames.set(self.frames);
        block.log_start.set(self.log_start);
        block.metadata_bytes.set(self.metadata_bytes);
        block.bitmaps.set(self.bitmaps);
        block.closed.set(self.closed);
        block.crc.set(codec::crc32c(&block.as_bytes()[12..]));
        block
    }

    /// The role of the region that the superblock lies in.
    pub(crate) fn device(&self) -> Device {
        if self.metadata_bytes == 0 { Device::Data } else { Device::Metadata }
    }

    /// Whose `device` a region is, as an operator would say it.
    pub(crate) fn owner(&self, device: Device) -> String {
        format!("the {device} of target {} of store {}", self.target, store_name(&self.store))
    }

    pub(crate) fn of(block: &Superblock) -> Anchor {
        Anchor {
            store: block.store,
            target: block.target.get(),
            sequence: block.sequence.get(),
            checkpoint: block.checkpoint.get(),
            data_bytes: block.data_bytes.get(),
            log_bytes: block.log_bytes.get(),
            incarnation: block.incarnation.get(),
            root_block: block.root_block.get(),
            root_bytes: block.root_bytes.get(),
            root_crc: block.root_crc.get(),
            frames: block.frames.get(),
            log_start: block.log_start.get(),
            metadata_bytes: block.metadata_bytes.get(),
            bitmaps: block.bitmaps.get(),
            closed: block.closed.get(),
        }
    }
}

/// Reads and verifies copy `copy` of a superblock.
///
/// The version is checked last, so that a whole superblock of another version can be told from rubbish:
/// it answers `Field { field: "version", .. }`.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes.
pub fn decode_superblock(bytes: &[u8], copy: u32) -> Result<Superblock, Fault> {
    let short = || Fault::Short { bytes: bytes.len() as u64, expected: BLOCK_BYTES as u64 };
    let block = Superblock::read_from_bytes(bytes).map_err(|_| short())?;
    if block.magic != MAGIC {
        let number = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        return Err(field("magic", number(block.magic), number(MAGIC)));
    }
    let computed = codec::crc32c(&bytes[12..]);
    if computed != block.crc.get() {
        return Err(Fault::Checksum { stored: block.crc.get(), computed });
    }
    for (name, stored, expected) in [
        ("version", block.version.get(), FORMAT_VERSION),
        ("copy", block.copy.get(), copy),
        ("block_bytes", block.block_bytes.get(), BLOCK_BYTES as u32),
        ("page_bytes", block.page_bytes.get(), PAGE_BYTES as u32),
    ] {
        if stored != expected {
            return Err(field(name, stored.into(), expected.into()));
        }
    }
    Ok(block)
}

/// Whether the block was never a superblock of any version: all that tells a fresh device from a
/// damaged one.
pub(crate) fn is_blank(bytes: &[u8]) -> bool {
    bytes.len() < 8 || bytes[..7] != MAGIC[..7]
}

/// UUID text of a store.
pub(crate) fn store_name(store: &[u8; 16]) -> std::sync::Arc<str> {
    let hex: String = store.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor() -> Anchor {
        Anchor {
            store: *b"0123456789abcdef",
            target: 3,
            sequence: 0x1122,
            checkpoint: 0x3000,
            data_bytes: 1 << 30,
            log_bytes: 1 << 26,
            incarnation: 7,
            root_block: 99,
            root_bytes: 1234,
            root_crc: 0xdead_beef,
            frames: 4096,
            log_start: 5,
            metadata_bytes: 1 << 28,
            bitmaps: 17,
            closed: 0x4000,
        }
    }

    #[test]
    fn superblock_has_its_golden_bytes() {
        crate::golden::check("superblock", &anchor().encode(1).as_bytes()[..128]);
        let block = anchor().encode(1);
        assert_eq!(Anchor::of(&decode_superblock(block.as_bytes(), 1).unwrap()), anchor());
    }

    #[test]
    fn every_flipped_bit_of_a_superblock_is_found() {
        let block = anchor().encode(0);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut bytes = block.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_superblock(&bytes, 0).is_err(), "bit {bit}");
        }
        assert!(decode_superblock(block.as_bytes(), 1).is_err(), "written for the other copy");
        assert!(decode_superblock(&block.as_bytes()[1..], 0).is_err());
        assert!(decode_superblock(&[], 0).is_err());
    }
}

//! The root blob: where a checkpoint's map and bitmap pages lie, and what the owner wants back first.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::Fault;
use crate::page::field;
use crate::region::BLOCK_BYTES;

/// Most bytes the owner may keep in a checkpoint (`Store::set_root`).
pub const ROOT_BYTES_MAX: usize = 1024;

const MAGIC: u32 = u32::from_le_bytes(*b"FLro");
const PAYLOAD_BYTES: usize = BLOCK_BYTES - 32;
/// A blob is no longer: bounds what a rotten length can make us read. Enough for a region of 16 TiB.
pub(crate) const BLOB_BYTES_MAX: usize = 64 << 20;

/// Root block: one link of the chain that holds the root blob. 4096 bytes, little-endian. Ours.
///
/// | offset | bytes | field      | meaning                                             |
/// |-------:|------:|------------|-----------------------------------------------------|
/// |      0 |     4 | crc        | CRC-32C of bytes 4..4096                            |
/// |      4 |     4 | magic      | `b"FLro"`                                           |
/// |      8 |     4 | store      | CRC-32C of the store's UUID                         |
/// |     12 |     4 | index      | of the block in the chain, from 0                   |
/// |     16 |     8 | checkpoint | sequence of the checkpoint that wrote it            |
/// |     24 |     4 | next       | block of the next link; 0 in the last               |
/// |     28 |     4 | length     | bytes of the blob in this block                     |
/// |     32 |  4064 | payload    | the blob's part, then zero                          |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RootBlock {
    pub crc: U32,
    pub magic: U32,
    pub store: U32,
    pub index: U32,
    pub checkpoint: U64,
    pub next: U32,
    pub length: U32,
    pub payload: [u8; PAYLOAD_BYTES],
}
const _: () = assert!(size_of::<RootBlock>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(RootBlock, checkpoint) == 16);
const _: () = assert!(offset_of!(RootBlock, payload) == 32);

/// A map or bitmap page of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Map page: its block, 0 for one that names no page. Bitmap page: its slot, 0 or 1.
    pub at: u32,
    /// Checksum of the page, as its header has it: an older page that was valid once does not pass.
    pub crc: u32,
}

/// The root blob, decoded. On the device, little-endian, all fields of 4 bytes unless said:
///
/// | bytes     | meaning                                                    |
/// |----------:|------------------------------------------------------------|
/// |         4 | version: 1                                                 |
/// |         4 | length of the owner's root                                 |
/// |         4 | number of map pages                                        |
/// |         4 | number of bitmap pages                                     |
/// |   1 each  | the owner's root                                           |
/// |   8 each  | map pages: block (0: none), crc                            |
/// |   8 each  | bitmap pages: slot, crc                                    |
///
/// Its length and CRC-32C are in the superblock.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Root {
    pub owner: Vec<u8>,
    pub maps: Vec<Part>,
    pub bitmaps: Vec<Part>,
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let counts = [1, self.owner.len() as u32, self.maps.len() as u32, self.bitmaps.len() as u32];
        let mut bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
        bytes.extend_from_slice(&self.owner);
        for part in self.maps.iter().chain(&self.bitmaps) {
            bytes.extend_from_slice(&part.at.to_le_bytes());
            bytes.extend_from_slice(&part.crc.to_le_bytes());
        }
        assert!(bytes.len() <= BLOB_BYTES_MAX);
        bytes
    }
}

/// Reads a root blob.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes.
pub fn decode_root(bytes: &[u8]) -> Result<Root, Fault> {
    let short = |expected: usize| Fault::Short { bytes: bytes.len() as u64, expected: expected as u64 };
    let (counts, rest) = <[U32; 4]>::read_from_prefix(bytes).map_err(|_| short(16))?;
    let [version, owner, maps, bitmaps] = counts.map(|count| count.get() as usize);
    if version != 1 {
        return Err(field("root version", version as u64, 1));
    }
    if owner > ROOT_BYTES_MAX {
        return Err(field("root length", owner as u64, ROOT_BYTES_MAX as u64));
    }
    let expected = owner as u64 + (maps as u64 + bitmaps as u64) * 8;
    if rest.len() as u64 != expected {
        return Err(Fault::Short { bytes: rest.len() as u64, expected });
    }
    let (owner, parts) = rest.split_at(owner);
    let mut parts = parts.chunks_exact(8).map(|part| Part {
        at: u32::from_le_bytes([part[0], part[1], part[2], part[3]]),
        crc: u32::from_le_bytes([part[4], part[5], part[6], part[7]]),
    });
    let maps = parts.by_ref().take(maps).collect();
    Ok(Root { owner: owner.to_vec(), maps, bitmaps: parts.collect() })
}

/// How many blocks a blob of `bytes` takes.
pub(crate) fn block_count(bytes: usize) -> usize {
    bytes.div_ceil(PAYLOAD_BYTES).max(1)
}

/// The link `index` of the chain in `blocks` that holds `blob`.
pub(crate) fn encode_block(blob: &[u8], index: usize, blocks: &[u32], store: u32, checkpoint: u64) -> RootBlock {
    let part = blob.chunks(PAYLOAD_BYTES).nth(index).unwrap_or(&[]);
    let mut block = RootBlock::new_zeroed();
    block.magic.set(MAGIC);
    block.store.set(store);
    block.index.set(index as u32);
    block.checkpoint.set(checkpoint);
    block.next.set(blocks.get(index + 1).copied().unwrap_or(0));
    block.length.set(part.len() as u32);
    block.payload[..part.len()].copy_from_slice(part);
    block.crc.set(codec::crc32c(&block.as_bytes()[4..]));
    block
}

/// Reads one link of the chain and verifies it.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes.
pub fn decode_root_block(bytes: &[u8]) -> Result<RootBlock, Fault> {
    let block = RootBlock::read_from_bytes(bytes)
        .map_err(|_| Fault::Short { bytes: bytes.len() as u64, expected: BLOCK_BYTES as u64 })?;
    let computed = codec::crc32c(&bytes[4..]);
    if computed != block.crc.get() {
        return Err(Fault::Checksum { stored: block.crc.get(), computed });
    }
    if block.magic.get() != MAGIC {
        return Err(field("root magic", block.magic.get().into(), MAGIC.into()));
    }
    if block.length.get() as usize > PAYLOAD_BYTES {
        return Err(field("root block length", block.length.get().into(), PAYLOAD_BYTES as u64));
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root {
            owner: b"catalog at page 7".to_vec(),
            maps: vec![Part { at: 100, crc: 0x11 }, Part { at: 0, crc: 0 }],
            bitmaps: vec![Part { at: 1, crc: 0x22 }],
        }
    }

    #[test]
    fn root_has_its_golden_bytes() {
        let blob = root().encode();
        crate::golden::check("root_blob", &blob);
        assert_eq!(decode_root(&blob), Ok(root()));
        let block = encode_block(&blob, 0, &[55], 0xabcd, 3);
        crate::golden::check("root_block", &block.as_bytes()[..128]);
        assert_eq!(decode_root_block(block.as_bytes()), Ok(block));
    }

    #[test]
    fn rubbish_is_no_root() {
        let blob = root().encode();
        for cut in 0..blob.len() {
            assert!(decode_root(&blob[..cut]).is_err(), "{cut}");
        }
        for byte in 0..16 {
            let mut bytes = blob.clone();
            bytes[byte] ^= 0x80;
            assert!(decode_root(&bytes).is_err(), "{byte}");
        }
        assert!(decode_root_block(&[0; BLOCK_BYTES]).is_err());
        assert!(decode_root_block(&[]).is_err());
    }
}

//! The header of a region: whose it is, and in which role. What the superblock is for the region with the
//! pages, this is for the others, so that devices that changed places are noticed before anything is read
//! from them, or written to them.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::{Device, Fault};
use crate::page::field;
use crate::region::BLOCK_BYTES;
use crate::superblock::store_name;

const MAGIC: [u8; 8] = *b"FLREGHD\x01";

/// Role of a log region.
const ROLE_LOG: u32 = 1;
/// Role of a region that holds bulk data and nothing else.
const ROLE_DATA: u32 = 2;

/// Region header: block 0 of the log region, and of the data region when pages have a region of their own.
/// 4096 bytes, little-endian. Ours. Written once, at format; how large the region is, the superblock says.
///
/// | offset | bytes | field    | meaning                                 |
/// |-------:|------:|----------|-----------------------------------------|
/// |      0 |     8 | magic    | `b"FLREGHD\x01"`                        |
/// |      8 |     4 | crc      | CRC-32C of bytes 12..4096               |
/// |     12 |     4 | version  | 1                                       |
/// |     16 |    16 | store    | UUID of the store the region belongs to |
/// |     32 |     4 | target   | index of the target in its engine       |
/// |     36 |     4 | role     | 1: log, 2: data                         |
/// |     40 |  4056 | reserved | zero                                    |
///
/// Guards against: a device of another store (store), of another target (target), or in another's place
/// (role).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionHeader {
    pub magic: [u8; 8],
    pub crc: U32,
    pub version: U32,
    pub store: [u8; 16],
    pub target: U32,
    pub role: U32,
    pub reserved: [u8; 4056],
}
const _: () = assert!(size_of::<RegionHeader>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(RegionHeader, store) == 16);
const _: () = assert!(offset_of!(RegionHeader, role) == 36);
const _: () = assert!(offset_of!(RegionHeader, reserved) == 40);

impl RegionHeader {
    /// Whose region this is, as an operator would say it.
    pub(crate) fn owner(&self) -> String {
        let role = match self.role.get() {
            ROLE_LOG => "log",
            _ => "data",
        };
        format!("the {role} of target {} of store {}", self.target, store_name(&self.store))
    }
}

/// The header of a region that is `device` for a store.
pub(crate) fn encode_region_header(store: [u8; 16], target: u32, device: Device) -> RegionHeader {
    let mut header = RegionHeader::new_zeroed();
    header.magic = MAGIC;
    header.version.set(1);
    header.store = store;
    header.target.set(target);
    header.role.set(role(device));
    header.crc.set(codec::crc32c(&header.as_bytes()[12..]));
    header
}

/// What a header calls `device`.
pub(crate) fn role(device: Device) -> u32 {
    match device {
        Device::Log => ROLE_LOG,
        Device::Data => ROLE_DATA,
        Device::Metadata => unreachable!("the region with the pages begins with a superblock"),
    }
}

/// Reads and verifies the header block of a region.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes. `Field { field: "magic", .. }`: it never was one.
pub fn decode_region_header(bytes: &[u8]) -> Result<RegionHeader, Fault> {
    let header = RegionHeader::read_from_bytes(bytes)
        .map_err(|_| Fault::Short { bytes: bytes.len() as u64, expected: BLOCK_BYTES as u64 })?;
    if header.magic != MAGIC {
        return Err(field("magic", u64::from_le_bytes(header.magic), u64::from_le_bytes(MAGIC)));
    }
    let computed = codec::crc32c(&bytes[12..]);
    if computed != header.crc.get() {
        return Err(Fault::Checksum { stored: header.crc.get(), computed });
    }
    if header.version.get() != 1 {
        return Err(field("region header version", header.version.get().into(), 1));
    }
    if ![ROLE_LOG, ROLE_DATA].contains(&header.role.get()) {
        return Err(field("role", header.role.get().into(), ROLE_LOG.into()));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn region_header_has_its_golden_bytes() {
        let header = encode_region_header(STORE, 3, Device::Data);
        crate::golden::check("region_header", &header.as_bytes()[..64]);
        assert_eq!(decode_region_header(header.as_bytes()), Ok(header));
        assert_eq!(header.owner(), "the data of target 3 of store 30313233-3435-3637-3839-616263646566");
    }

    #[test]
    fn every_flipped_bit_of_a_region_header_is_found() {
        let header = encode_region_header(STORE, 3, Device::Log);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut bytes = header.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_region_header(&bytes).is_err(), "bit {bit}");
        }
        assert!(decode_region_header(&header.as_bytes()[1..]).is_err());
    }
}

//! A page: 8 KiB, of which the first 32 bytes are the store's and the rest its owner's.

use std::fmt;
use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Fault;

/// Bytes of a page. A format parameter: recorded in the superblock, checked at open.
pub const PAGE_BYTES: usize = 8192;
/// The store's part at the head of a page.
pub const PAGE_HEADER_BYTES: usize = 32;
/// The owner's part.
pub const PAGE_BODY_BYTES: usize = PAGE_BYTES - PAGE_HEADER_BYTES;
/// Version of the page header below.
pub const PAGE_VERSION: u16 = 1;

/// Kinds from here up are the store's own pages; owners use the kinds below.
pub(crate) const KIND_MAP: u16 = 0xff01;
pub(crate) const KIND_BITMAP: u16 = 0xff02;

/// Logical page number. It stays while the page moves on the device. 0 is a valid page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageId(pub u32);

impl PageId {
    /// No page: for links that lead nowhere.
    pub const NONE: PageId = PageId(u32::MAX);
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// Page header: the first 32 bytes of every page on the device. Little-endian. Ours, not upstream's.
///
/// | offset | bytes | field      | meaning                                                     |
/// |-------:|------:|------------|-------------------------------------------------------------|
/// |      0 |     4 | crc        | CRC-32C of bytes 4..8192                                    |
/// |      4 |     4 | page       | page id; index in its area for map and bitmap pages         |
/// |      8 |     8 | lsn        | the page holds every record before this log position        |
/// |     16 |     2 | kind       | owner's; 0xff01 map, 0xff02 bitmap                          |
/// |     18 |     2 | version    | 1                                                           |
/// |     20 |     4 | store      | CRC-32C of the store's UUID                                 |
/// |     24 |     8 | checkpoint | sequence of the checkpoint that wrote it                    |
///
/// Sealed when a checkpoint copies the page out; in memory crc, lsn and checkpoint are stale.
/// Guards against: torn write, flipped bit (crc); misdirected write (page, store); lost write, and an
/// old superblock leading to younger pages (checkpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PageHeader {
    pub crc: U32,
    pub page: U32,
    pub lsn: U64,
    pub kind: U16,
    pub version: U16,
    pub store: U32,
    pub checkpoint: U64,
}
const _: () = assert!(size_of::<PageHeader>() == PAGE_HEADER_BYTES);
const _: () = assert!(offset_of!(PageHeader, page) == 4);
const _: () = assert!(offset_of!(PageHeader, lsn) == 8);
const _: () = assert!(offset_of!(PageHeader, kind) == 16);
const _: () = assert!(offset_of!(PageHeader, store) == 20);
const _: () = assert!(offset_of!(PageHeader, checkpoint) == 24);

/// One page in memory.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Page {
    header: PageHeader,
    body: [u8; PAGE_BODY_BYTES],
}
const _: () = assert!(size_of::<Page>() == PAGE_BYTES);

impl Page {
    /// The owner's bytes.
    #[inline]
    pub fn body(&self) -> &[u8; PAGE_BODY_BYTES] {
        &self.body
    }

    /// The owner's bytes, to change.
    #[inline]
    pub fn body_mut(&mut self) -> &mut [u8; PAGE_BODY_BYTES] {
        &mut self.body
    }

    /// The owner's mark of what the page is. 0 in a new page.
    #[inline]
    pub fn kind(&self) -> u16 {
        self.header.kind.get()
    }

    /// Sets the owner's mark; kinds from `0xff00` up are the store's.
    pub fn set_kind(&mut self, kind: u16) {
        assert!(kind < 0xff00, "page kind {kind:#x} is the store's");
        self.header.kind.set(kind);
    }

    /// The id this page was allocated or loaded under.
    pub fn id(&self) -> PageId {
        PageId(self.header.page.get())
    }
}

/// What a page must be to belong here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub(crate) page: u32,
    pub(crate) kind: u16,
    pub(crate) lsn: u64,
    pub(crate) store: u32,
    pub(crate) checkpoint: u64,
}

/// Writes the header of the page in `bytes` and its checksum last.
pub(crate) fn seal(bytes: &mut [u8], seal: Seal) {
    assert_eq!(bytes.len(), PAGE_BYTES);
    let mut header = PageHeader {
        crc: U32::new(0),
        page: U32::new(seal.page),
        lsn: U64::new(seal.lsn),
        kind: U16::new(seal.kind),
        version: U16::new(PAGE_VERSION),
        store: U32::new(seal.store),
        checkpoint: U64::new(seal.checkpoint),
    };
    bytes[..PAGE_HEADER_BYTES].copy_from_slice(header.as_bytes());
    header.crc.set(codec::crc32c(&bytes[4..]));
    bytes[..4].copy_from_slice(header.crc.as_bytes());
}

/// Reads the header of a page image and verifies its length, checksum and version.
///
/// # Errors
/// The first [`Fault`]; never panics, whatever the bytes.
pub fn decode_page(bytes: &[u8]) -> Result<PageHeader, Fault> {
    if bytes.len() != PAGE_BYTES {
        return Err(Fault::Short { bytes: bytes.len() as u64, expected: PAGE_BYTES as u64 });
    }
    let (header, _) = PageHeader::read_from_prefix(bytes)
        .map_err(|_| Fault::Short { bytes: bytes.len() as u64, expected: PAGE_BYTES as u64 })?;
    let computed = codec::crc32c(&bytes[4..]);
    if header.crc.get() != computed {
        return Err(Fault::Checksum { stored: header.crc.get(), computed });
    }
    if header.version.get() != PAGE_VERSION {
        return Err(field("page version", header.version.get().into(), PAGE_VERSION.into()));
    }
    Ok(header)
}

/// Verifies that the page in `bytes` is the one `expected` names, and no younger than its checkpoint.
pub(crate) fn verify(bytes: &[u8], expected: Seal) -> Result<PageHeader, Fault> {
    let header = decode_page(bytes)?;
    if header.store.get() != expected.store {
        return Err(field("store", header.store.get().into(), expected.store.into()));
    }
    if header.page.get() != expected.page {
        return Err(field("page", header.page.get().into(), expected.page.into()));
    }
    if header.checkpoint.get() > expected.checkpoint {
        return Err(field("checkpoint", header.checkpoint.get(), expected.checkpoint));
    }
    let own = header.kind.get() >= 0xff00;
    if (own || expected.kind >= 0xff00) && header.kind.get() != expected.kind {
        return Err(field("page kind", header.kind.get().into(), expected.kind.into()));
    }
    Ok(header)
}

pub(crate) fn field(field: &'static str, stored: u64, expected: u64) -> Fault {
    Fault::Field { field, stored, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..PAGE_BYTES).map(|at| at as u8).collect();
        seal(&mut bytes, Seal { page: 9, kind: 5, lsn: 0x4000, store: 0xabcd, checkpoint: 3 });
        bytes
    }

    #[test]
    fn page_has_its_golden_bytes() {
        crate::golden::check("page_header", &sealed()[..64]);
        let header = decode_page(&sealed()).unwrap();
        assert_eq!((header.page.get(), header.kind.get(), header.lsn.get()), (9, 5, 0x4000));
    }

    #[test]
    fn every_flipped_bit_of_a_page_is_found() {
        let mut bytes = sealed();
        for bit in (0..PAGE_BYTES * 8).filter(|bit| bit / 8 < 64 || bit % 97 == 0) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode_page(&bytes), Err(Fault::Checksum { .. })), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(decode_page(&bytes[1..]).is_err() && decode_page(&[]).is_err());
    }

    /// A whole page in the wrong place: each part of its header is compared with what is expected there.
    #[test]
    fn a_page_of_somewhere_else_is_refused() {
        let expected = Seal { page: 9, kind: 5, lsn: 0, store: 0xabcd, checkpoint: 3 };
        assert!(verify(&sealed(), expected).is_ok());
        assert!(verify(&sealed(), Seal { checkpoint: 4, ..expected }).is_ok(), "older is fine");
        for wrong in [
            Seal { page: 8, ..expected },
            Seal { store: 1, ..expected },
            Seal { checkpoint: 2, ..expected },
            Seal { kind: KIND_MAP, ..expected },
        ] {
            assert!(matches!(verify(&sealed(), wrong), Err(Fault::Field { .. })), "{wrong:?}");
        }
    }
}

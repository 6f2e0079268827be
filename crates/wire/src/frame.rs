//! The frame: what crosses a link in one piece.
//!
//! Header, body (one message), bulk data, in that order and without padding. The header and the
//! body are covered by checksums of their own; bulk data is covered by the data checksums in the
//! body, which travel with the value from the client to the disk and back.

use codec::crc32c;
use types::Epoch;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 64;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"DAOr";
/// Longest body: headers of the largest request, or a page of a listing.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Most bulk data in one frame: one value, padded by a checksum chunk at each end.
pub const BULK_BYTES_MAX: usize = types::VALUE_BYTES_MAX + 2 * types::CHECKSUM_CHUNK_BYTES;

/// What changed when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    /// First release.
    V1 = 1,
}

impl Version {
    /// The newest this program speaks.
    pub const NEWEST: Version = Version::V1;
    /// The oldest it still understands.
    pub const OLDEST: Version = Version::V1;
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First from the caller: versions and the service wanted. Body: `hello::Hello`.
    Hello = 1,
    /// First from the server: what was agreed. Body: `hello::Welcome`.
    Welcome = 2,
    /// Body: the message of the opcode.
    Request = 3,
    /// Body: the answer to the request with the same id.
    Response = 4,
    /// Answer to the request with the same id, in place of a response. Body: `types::Error`.
    Failure = 5,
    /// The sender closes the link and says why. Body: `types::Error`. Nothing follows.
    Goodbye = 6,
}

impl Kind {
    fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            1 => Kind::Hello,
            2 => Kind::Welcome,
            3 => Kind::Request,
            4 => Kind::Response,
            5 => Kind::Failure,
            6 => Kind::Goodbye,
            _ => return None,
        })
    }
}

/// A frame's header, decoded and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// The message in a request's body; repeated in its answer. See [`crate::Opcode`].
    pub opcode: u16,
    /// Chosen by the caller, unique among its requests under way on this link.
    pub request: u64,
    /// The sender's clock when it sent this.
    pub clock: Epoch,
    /// With `sequence`, names the request for ever, so that a repeat has no second effect.
    pub session: u64,
    pub sequence: u64,
    /// Milliseconds the caller will still wait; 0 in answers.
    pub deadline_ms: u32,
    pub body_bytes: u32,
    pub bulk_bytes: u32,
    pub body_crc: u32,
}

/// Header bytes: 64, little-endian. Ours, not upstream's.
///
/// | offset | bytes | field       | meaning                                            |
/// |-------:|------:|-------------|----------------------------------------------------|
/// |      0 |     4 | magic       | `b"DAOr"`                                          |
/// |      4 |     1 | version     | [`Version`] of the frame and the body              |
/// |      5 |     1 | kind        | [`Kind`]                                           |
/// |      6 |     2 | opcode      | [`crate::Opcode`]                                  |
/// |      8 |     8 | request     | id of the request on this link                     |
/// |     16 |     8 | clock       | sender's epoch                                     |
/// |     24 |     8 | session     | caller's session                                   |
/// |     32 |     8 | sequence    | number of the request within the session           |
/// |     40 |     4 | deadline_ms | time left, 0 in answers                            |
/// |     44 |     4 | body_bytes  | at most [`BODY_BYTES_MAX`]                         |
/// |     48 |     4 | bulk_bytes  | at most [`BULK_BYTES_MAX`]                         |
/// |     52 |     4 | body_crc    | CRC-32C of the body                                |
/// |     56 |     4 | reserved    | zero, and checked                                  |
/// |     60 |     4 | header_crc  | CRC-32C of the 60 bytes before it                  |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    opcode: U16,
    request: U64,
    clock: U64,
    session: U64,
    sequence: U64,
    deadline_ms: U32,
    body_bytes: U32,
    bulk_bytes: U32,
    body_crc: U32,
    reserved: U32,
    header_crc: U32,
}
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(RawHeader, deadline_ms) == 40);
const _: () = assert!(std::mem::offset_of!(RawHeader, header_crc) == 60);

/// Why bytes are not a frame. The link is of no more use after any of these: where the next frame
/// starts is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("{0} bytes where a frame header of {HEADER_BYTES} was expected")]
    Short(usize),
    #[error("not a DAOS frame: it begins with {0:02x?}")]
    Magic([u8; 4]),
    #[error("frame version {0} is not understood: this program speaks {oldest} to {newest}", oldest = Version::OLDEST as u8, newest = Version::NEWEST as u8)]
    Version(u8),
    #[error("frame header checksum: stored {stored:#010x}, computed {computed:#010x}")]
    HeaderChecksum { stored: u32, computed: u32 },
    #[error("frame body checksum: stored {stored:#010x}, computed {computed:#010x}")]
    BodyChecksum { stored: u32, computed: u32 },
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    #[error("frame {part} of {bytes} bytes is over the limit of {limit}")]
    TooLong { part: &'static str, bytes: u32, limit: usize },
    #[error("reserved bytes of the frame header are not zero")]
    Reserved,
}

/// Judges the first four bytes of a frame, before the rest of its header is here.
///
/// # Errors
/// `Magic`; `Short` with fewer than four bytes.
pub fn check_magic(bytes: &[u8]) -> Result<(), FrameError> {
    match bytes.first_chunk() {
        Some(&MAGIC) => Ok(()),
        Some(&other) => Err(FrameError::Magic(other)),
        None => Err(FrameError::Short(bytes.len())),
    }
}

impl Header {
    /// The header as bytes, with its checksum.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut raw = RawHeader {
            magic: MAGIC,
            version: Version::NEWEST as u8,
            kind: self.kind as u8,
            opcode: self.opcode.into(),
            request: self.request.into(),
            clock: self.clock.0.into(),
            session: self.session.into(),
            sequence: self.sequence.into(),
            deadline_ms: self.deadline_ms.into(),
            body_bytes: self.body_bytes.into(),
            bulk_bytes: self.bulk_bytes.into(),
            body_crc: self.body_crc.into(),
            reserved: 0.into(),
            header_crc: 0.into(),
        };
        raw.header_crc = crc32c(&raw.as_bytes()[..60]).into();
        zerocopy::transmute!(raw)
    }

    /// Checks and reads a header.
    ///
    /// The checksum is judged before any field, so that noise is called noise; only magic and
    /// version come first, because another program or another version may sum otherwise.
    pub fn decode(bytes: &[u8]) -> Result<Header, FrameError> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| FrameError::Short(bytes.len()))?;
        check_magic(&raw.magic)?;
        if !(Version::OLDEST as u8..=Version::NEWEST as u8).contains(&raw.version) {
            return Err(FrameError::Version(raw.version));
        }
        let computed = crc32c(&raw.as_bytes()[..60]);
        if computed != raw.header_crc.get() {
            return Err(FrameError::HeaderChecksum { stored: raw.header_crc.get(), computed });
        }
        if raw.reserved.get() != 0 {
            return Err(FrameError::Reserved);
        }
        for (part, bytes, limit) in
            [("body", raw.body_bytes.get(), BODY_BYTES_MAX), ("bulk data", raw.bulk_bytes.get(), BULK_BYTES_MAX)]
        {
            if bytes as usize > limit {
                return Err(FrameError::TooLong { part, bytes, limit });
            }
        }
        Ok(Header {
            kind: Kind::from_code(raw.kind).ok_or(FrameError::Kind(raw.kind))?,
            opcode: raw.opcode.get(),
            request: raw.request.get(),
            clock: Epoch(raw.clock.get()),
            session: raw.session.get(),
            sequence: raw.sequence.get(),
            deadline_ms: raw.deadline_ms.get(),
            body_bytes: raw.body_bytes.get(),
            bulk_bytes: raw.bulk_bytes.get(),
            body_crc: raw.body_crc.get(),
        })
    }

    /// Checks a body against the header it came with.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameError> {
        let computed = crc32c(body);
        if computed == self.body_crc {
            Ok(())
        } else {
            Err(FrameError::BodyChecksum { stored: self.body_crc, computed })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            kind: Kind::Request,
            opcode: 0x0201,
            request: 7,
            clock: Epoch(0x1122_3344_5566_7788),
            session: 3,
            sequence: 9,
            deadline_ms: 5000,
            body_bytes: 10,
            bulk_bytes: 4096,
            body_crc: crc32c(b"0123456789"),
        }
    }

    #[test]
    fn header_round_trips() {
        let header = sample();
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(header.check_body(b"0123456789"), Ok(()));
        assert!(header.check_body(b"0123456788").is_err());
    }

    #[test]
    fn header_bytes_are_golden() {
        let golden = include_bytes!("../golden/v1/frame_header");
        assert_eq!(&sample().encode(), golden);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = sample().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&torn).is_err(), "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes[..63]), Err(FrameError::Short(63)));
    }

    #[test]
    fn oversize_parts_are_refused_before_anything_is_allocated() {
        let header = Header { bulk_bytes: BULK_BYTES_MAX as u32 + 1, ..sample() };
        assert!(matches!(Header::decode(&header.encode()), Err(FrameError::TooLong { part: "bulk data", .. })));
        let header = Header { body_bytes: u32::MAX, ..sample() };
        assert!(matches!(Header::decode(&header.encode()), Err(FrameError::TooLong { part: "body", .. })));
    }
}

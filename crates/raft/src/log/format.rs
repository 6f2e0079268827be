//! The bytes of a replica's log: a header, then frames of records.
//!
//! A frame is what one durable write appends: whole [`ALIGNMENT`] units, so that a torn write never touches what was
//! durable before it. Frames are numbered, and one is written only when the one before is durable. So at most the last
//! may be torn, and a damaged one with a good one behind it is damage.
//!
//! | kind | record    | body, in the encoding of [`crate::kinds`] |
//! |-----:|-----------|---|
//! |    1 | vote      | vote |
//! |    2 | committed | `Option` of a log id |
//! |    3 | entry     | entry |
//! |    4 | truncate  | `Option` of a log id: the entries behind it are gone |
//! |    5 | purge     | log id: the entries up to it are in a snapshot |

use std::mem::{offset_of, size_of};

use types::Rank;
use wire::{DecodeError, Reader, Wire};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::kinds::{
    Entry, GroupId, LogId, Vote, decode_entry, decode_log_id, decode_option, decode_vote, encode_entry, encode_log_id,
    encode_option, encode_vote,
};

/// Frames begin at multiples of this: the unit in which a device tears.
pub const ALIGNMENT: usize = 512;

const MAGIC: [u8; 8] = *b"RAFTLOG\x01";
const FRAME_MAGIC: [u8; 4] = *b"RAfr";

/// Header of a log: its first 512 bytes, little-endian. Ours.
///
/// | offset | bytes | field       | meaning                                            |
/// |-------:|------:|-------------|----------------------------------------------------|
/// |      0 |     8 | magic       | `b"RAFTLOG\x01"`                                   |
/// |      8 |     4 | crc         | CRC-32C of bytes 12..512                           |
/// |     12 |     4 | version     | 1                                                  |
/// |     16 |    16 | group       | the group's UUID                                   |
/// |     32 |     4 | rank        | whose log it is                                    |
/// |     36 |     4 | zero        | 0                                                  |
/// |     40 |     8 | incarnation | drawn for each file; its frames carry it           |
/// |     48 |   464 | reserved    | zero                                               |
///
/// Guards against: another group's or rank's log, frames of an older file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct LogHeader {
    pub magic: [u8; 8],
    pub crc: U32,
    pub version: U32,
    pub group: [u8; 16],
    pub rank: U32,
    pub zero: U32,
    pub incarnation: U64,
    pub reserved: [u8; 464],
}
const _: () = assert!(size_of::<LogHeader>() == ALIGNMENT);
const _: () = assert!(offset_of!(LogHeader, group) == 16);
const _: () = assert!(offset_of!(LogHeader, incarnation) == 40);

/// Header of a frame, little-endian. Records follow it; then zeros up to the alignment.
///
/// | offset | bytes | field         | meaning                                          |
/// |-------:|------:|---------------|--------------------------------------------------|
/// |      0 |     4 | crc           | CRC-32C of bytes 4..40                           |
/// |      4 |     4 | magic         | `b"RAfr"`                                        |
/// |      8 |     8 | incarnation   | the file's                                       |
/// |     16 |     8 | number        | from 0, one more for each frame of the file      |
/// |     24 |     4 | payload_bytes | of the records                                   |
/// |     28 |     4 | payload_crc   | CRC-32C of the records                           |
/// |     32 |     4 | records       | how many                                         |
/// |     36 |     4 | zero          | 0                                                |
///
/// A record: `u32` length of what follows, `u8` kind, body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FrameHeader {
    pub crc: U32,
    pub magic: [u8; 4],
    pub incarnation: U64,
    pub number: U64,
    pub payload_bytes: U32,
    pub payload_crc: U32,
    pub records: U32,
    pub zero: U32,
}
const _: () = assert!(size_of::<FrameHeader>() == 40);
const _: () = assert!(offset_of!(FrameHeader, payload_bytes) == 24);
pub const FRAME_HEADER_BYTES: usize = size_of::<FrameHeader>();

/// One thing that happened to a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Vote(Vote),
    Committed(Option<LogId>),
    Entry(Entry),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// Why bytes are not the log, or frame, they were taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it ends {missing} bytes early")]
    Short { missing: usize },
    #[error("it does not begin like a log")]
    Magic,
    #[error("checksum: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("it has version {found}; this release reads 1")]
    Version { found: u32 },
    #[error("it has another incarnation")]
    Incarnation,
    #[error("frame {found} stands in the place of {expected}")]
    Number { found: u64, expected: u64 },
    #[error("a record cannot be read: {0}")]
    Record(#[from] DecodeError),
    #[error("{0}")]
    Order(&'static str),
}

pub fn encode_header(group: GroupId, rank: Rank, incarnation: u64) -> LogHeader {
    let mut header = LogHeader::new_zeroed();
    header.magic = MAGIC;
    header.version.set(1);
    header.group = group.0;
    header.rank.set(rank.0);
    header.incarnation.set(incarnation);
    header.crc.set(codec::crc32c(&header.as_bytes()[12..]));
    header
}

/// Reads the header of a log; any bytes are safe.
///
/// # Errors
/// The first [`Fault`].
pub fn decode_header(bytes: &[u8]) -> Result<LogHeader, Fault> {
    let missing = size_of::<LogHeader>().saturating_sub(bytes.len());
    let (header, _) = LogHeader::read_from_prefix(bytes).map_err(|_| Fault::Short { missing })?;
    if header.magic != MAGIC {
        return Err(Fault::Magic);
    }
    check_crc(header.crc.get(), &header.as_bytes()[12..])?;
    match header.version.get() {
        1 => Ok(header),
        found => Err(Fault::Version { found }),
    }
}

fn check_crc(stored: u32, bytes: &[u8]) -> Result<(), Fault> {
    let computed = codec::crc32c(bytes);
    if stored == computed { Ok(()) } else { Err(Fault::Checksum { stored, computed }) }
}

/// Adds one record to a payload.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend([0; 4]);
    match record {
        Record::Vote(vote) => {
            out.push(1);
            encode_vote(vote, out);
        }
        Record::Committed(id) => {
            out.push(2);
            encode_option(id.as_ref(), out, encode_log_id);
        }
        Record::Entry(entry) => {
            out.push(3);
            encode_entry(entry, out);
        }
        Record::Truncate(id) => {
            out.push(4);
            encode_option(id.as_ref(), out, encode_log_id);
        }
        Record::Purge(id) => {
            out.push(5);
            encode_log_id(id, out);
        }
    }
    let length = u32::try_from(out.len() - at - 4).expect("a record is far below 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let mut from = Reader::new(bytes);
    let record = match u8::decode(&mut from)? {
        1 => Record::Vote(decode_vote(&mut from)?),
        2 => Record::Committed(decode_option(&mut from, decode_log_id)?),
        3 => Record::Entry(decode_entry(&mut from)?),
        4 => Record::Truncate(decode_option(&mut from, decode_log_id)?),
        5 => Record::Purge(decode_log_id(&mut from)?),
        other => return Err(DecodeError::Unknown { what: "a record's kind", value: other.into() }),
    };
    match from.left() {
        0 => Ok(record),
        extra => Err(DecodeError::Long { extra }),
    }
}

/// A whole frame around a payload of `records` records.
pub fn encode_frame(incarnation: u64, number: u64, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = FrameHeader::new_zeroed();
    header.magic = FRAME_MAGIC;
    header.incarnation.set(incarnation);
    header.number.set(number);
    header.payload_bytes.set(u32::try_from(payload.len()).expect("a frame is far below 4 GiB"));
    header.payload_crc.set(codec::crc32c(payload));
    header.records.set(records);
    header.crc.set(codec::crc32c(&header.as_bytes()[4..]));
    let mut frame = header.as_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
    frame
}

/// Reads the frame that `bytes` begin with: its header, its records, and its length with the padding. Any bytes are safe.
///
/// # Errors
/// The first [`Fault`]. `Record`: the checksums hold, and yet it was not written by us.
pub fn decode_frame(bytes: &[u8]) -> Result<(FrameHeader, Vec<Record>, usize), Fault> {
    let missing = FRAME_HEADER_BYTES.saturating_sub(bytes.len());
    let (header, rest) = FrameHeader::read_from_prefix(bytes).map_err(|_| Fault::Short { missing })?;
    if header.magic != FRAME_MAGIC {
        return Err(Fault::Magic);
    }
    check_crc(header.crc.get(), &header.as_bytes()[4..])?;
    let length = header.payload_bytes.get() as usize;
    let payload = rest.get(..length).ok_or(Fault::Short { missing: length.saturating_sub(rest.len()) })?;
    check_crc(header.payload_crc.get(), payload)?;
    let mut from = Reader::new(payload);
    let mut records = Vec::new();
    while from.left() > 0 {
        records.push(decode_record(from.counted()?)?);
    }
    if records.len() != header.records.get() as usize {
        return Err(Fault::Order("a frame counts its records wrongly"));
    }
    let whole = (FRAME_HEADER_BYTES + length).next_multiple_of(ALIGNMENT);
    Ok((header, records, whole))
}

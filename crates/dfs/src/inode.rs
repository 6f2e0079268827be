//! The inode record: what a directory entry knows of its file, in 128 bytes.
//!
//! The record is the byte array under akey `i` of the entry's dkey, so that a change of mode or
//! times writes only the bytes it changes and two such changes never undo each other. The store
//! checksums it; the record carries none of its own.

use types::{Epoch, ObjectClass, ObjectId};

/// Seconds and nanoseconds since 1970; negative seconds are before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    pub seconds: i64,
    /// Below 1,000,000,000; counts forward even before 1970.
    pub nanos: u32,
}

impl Timestamp {
    pub const fn new(seconds: i64, nanos: u32) -> Timestamp {
        Timestamp { seconds, nanos }
    }

    pub const fn from_micros(micros: u64) -> Timestamp {
        Timestamp { seconds: (micros / 1_000_000) as i64, nanos: (micros % 1_000_000) as u32 * 1000 }
    }

    /// The calendar, from `rt`.
    pub fn now() -> Timestamp {
        Timestamp::from_micros(rt::wall_micros())
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    File = 1,
    Directory = 2,
    Symlink = 3,
}

/// Permission bits, with set-user-id, set-group-id and sticky.
pub const MODE_MASK: u32 = 0o7777;

/// The bytes of a record.
pub(crate) const INODE_BYTES: usize = 128;

/// Version of the record. A reader refuses versions it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Version {
    /// First release.
    V1 = 1,
}

/// The entry is being renamed away: akey `m` says where to. See `rename`.
pub(crate) const MOVING: u8 = 1;
/// The entry came here by a rename: akey `f` says from where. See `rename`.
pub(crate) const ARRIVED: u8 = 2;

/// Inode record, version 1. 128 bytes, little-endian. Ours, not upstream's.
///
/// | offset | bytes | field  | meaning                                                          |
/// |-------:|------:|--------|------------------------------------------------------------------|
/// |      0 |     2 | version| see [`Version`]                                                  |
/// |      2 |     1 | kind   | [`Kind`]: 1 file, 2 directory, 3 symlink                         |
/// |      3 |     1 | flags  | 1 [`MOVING`], 2 [`ARRIVED`]; 4 is kept for the first hard link, which gives the record a place of its own |
/// |      4 |     4 | mode   | permission bits, at most 0o7777                                  |
/// |      8 |     4 | uid    |                                                                  |
/// |     12 |     4 | gid    |                                                                  |
/// |     16 |    16 | oid    | object with the content, big-endian; the identity of the file    |
/// |     32 |     4 | nlink  | 1                                                                |
/// |     36 |     4 | class  | class id; of a directory: of files made in it, 0 for the default |
/// |     40 |     8 | size   | bytes of a symlink's target; else 0 (a file's size is its array's)|
/// |     48 |     8 | chunk  | bytes a chunk; of a directory: for files made in it, 0 = default |
/// |     56 |    12 | mtime  | i64 seconds, u32 nanoseconds                                     |
/// |     68 |    12 | atime  | as set; reads do not move it                                     |
/// |     80 |     8 | seen   | last write of the object that `mtime` accounts for               |
/// |     88 |    12 | ctime  |                                                                  |
/// |    100 |    12 | birth  |                                                                  |
/// |    112 |     1 | xattrs | 1: there may be extended attributes, 0: there are none           |
/// |    113 |    15 | -      | zero                                                             |
///
/// The time of last modification is `mtime`, unless the object was written after `seen`: then it
/// is the time of that write. So writing data never touches the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    pub kind: Kind,
    pub flags: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub oid: ObjectId,
    pub nlink: u32,
    pub class: Option<ObjectClass>,
    pub size: u64,
    pub chunk_bytes: u64,
    pub mtime: Timestamp,
    pub atime: Timestamp,
    pub seen: Epoch,
    pub ctime: Timestamp,
    pub birth: Timestamp,
    /// There may be extended attributes.
    pub has_xattrs: bool,
}

const FLAGS: usize = 3;
const MODE: usize = 4;
const UID: usize = 8;
const GID: usize = 12;
const OID: usize = 16;
const NLINK: usize = 32;
const CLASS: usize = 36;
const SIZE: usize = 40;
const CHUNK: usize = 48;
const MTIME: usize = 56;
const ATIME: usize = 68;
const SEEN: usize = 80;
const CTIME: usize = 88;
const BIRTH: usize = 100;
const XATTRS: usize = 112;
const RESERVED: usize = 113;
const TIME_BYTES: usize = 12;

const _: () = assert!(OID + 16 == NLINK && SIZE + 8 == CHUNK && CHUNK + 8 == MTIME);
const _: () = assert!(MTIME + TIME_BYTES == ATIME && ATIME + TIME_BYTES == SEEN && SEEN + 8 == CTIME);
const _: () = assert!(
    CTIME + TIME_BYTES == BIRTH
        && BIRTH + TIME_BYTES == XATTRS
        && XATTRS + 1 == RESERVED
        && RESERVED + 15 == INODE_BYTES
);

/// Why bytes are not an inode record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a record of {bytes} bytes where {expected} were expected")]
    Length { bytes: usize, expected: usize },
    #[error("the {field} of the record is {value}, which this release does not know")]
    Unknown { field: &'static str, value: u64 },
}

impl Inode {
    pub(crate) fn encode(&self) -> [u8; INODE_BYTES] {
        let mut bytes = [0; INODE_BYTES];
        bytes[0..2].copy_from_slice(&(Version::V1 as u16).to_le_bytes());
        bytes[2] = self.kind as u8;
        bytes[FLAGS] = self.flags;
        put_u32(&mut bytes, MODE, self.mode);
        put_u32(&mut bytes, UID, self.uid);
        put_u32(&mut bytes, GID, self.gid);
        bytes[OID..NLINK].copy_from_slice(&self.oid.to_bytes());
        put_u32(&mut bytes, NLINK, self.nlink);
        put_u32(&mut bytes, CLASS, self.class.map_or(0, ObjectClass::id));
        put_u64(&mut bytes, SIZE, self.size);
        put_u64(&mut bytes, CHUNK, self.chunk_bytes);
        bytes[MTIME..ATIME].copy_from_slice(&time_bytes(self.mtime));
        bytes[ATIME..SEEN].copy_from_slice(&time_bytes(self.atime));
        put_u64(&mut bytes, SEEN, self.seen.0);
        bytes[CTIME..BIRTH].copy_from_slice(&time_bytes(self.ctime));
        bytes[BIRTH..XATTRS].copy_from_slice(&time_bytes(self.birth));
        bytes[XATTRS] = u8::from(self.has_xattrs);
        bytes
    }

    /// # Errors
    /// [`RecordError`] for anything `encode` does not make.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Inode, RecordError> {
        let Ok(bytes) = <&[u8; INODE_BYTES]>::try_from(bytes) else {
            return Err(RecordError::Length { bytes: bytes.len(), expected: INODE_BYTES });
        };
        let version = u16::from_le_bytes([bytes[0], bytes[1]]);
        known("version", version.into(), version == Version::V1 as u16)?;
        let kind = match bytes[2] {
            1 => Kind::File,
            2 => Kind::Directory,
            3 => Kind::Symlink,
            other => return Err(RecordError::Unknown { field: "kind", value: other.into() }),
        };
        let flags = bytes[FLAGS];
        known("flags", flags.into(), flags & !(MOVING | ARRIVED) == 0)?;
        let mode = u32_at(bytes, MODE);
        known("mode", mode.into(), mode & !MODE_MASK == 0)?;
        let oid: [u8; 16] = bytes[OID..NLINK].try_into().expect("sixteen bytes");
        let oid = ObjectId::from_bytes(oid);
        known("object id", oid.hi, oid.kind().is_some() && oid.class().is_some())?;
        let class = match u32_at(bytes, CLASS) {
            0 => None,
            id => {
                let class = ObjectClass::from_parts((id >> 24) as u8, id as u16).filter(|class| class.id() == id);
                Some(class.ok_or(RecordError::Unknown { field: "class", value: id.into() })?)
            }
        };
        let chunk_bytes = u64_at(bytes, CHUNK);
        // A file without a chunk size could not be read at all; of a directory it is a wish.
        known(
            "chunk size",
            chunk_bytes,
            crate::superblock::is_chunk(chunk_bytes) || kind != Kind::File && chunk_bytes == 0,
        )?;
        known("mark of attributes", bytes[XATTRS].into(), bytes[XATTRS] <= 1)?;
        known("reserved part", 1, bytes[RESERVED..] == [0; INODE_BYTES - RESERVED])?;
        Ok(Inode {
            kind,
            flags,
            mode,
            uid: u32_at(bytes, UID),
            gid: u32_at(bytes, GID),
            oid,
            nlink: u32_at(bytes, NLINK),
            class,
            size: u64_at(bytes, SIZE),
            chunk_bytes,
            mtime: time_at(bytes, MTIME)?,
            atime: time_at(bytes, ATIME)?,
            seen: Epoch(u64_at(bytes, SEEN)),
            ctime: time_at(bytes, CTIME)?,
            birth: time_at(bytes, BIRTH)?,
            has_xattrs: bytes[XATTRS] == 1,
        })
    }

    /// When the content last changed, given the last write of its object.
    pub(crate) fn modified(&self, last_write: Epoch) -> Timestamp {
        match last_write > self.seen {
            true => Timestamp::from_micros(last_write.micros()),
            false => self.mtime,
        }
    }
}

/// A change of some fields: pieces of the record, by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    pub pieces: Vec<(usize, Vec<u8>)>,
}

impl Patch {
    pub(crate) fn mode(self, mode: u32) -> Patch {
        self.with(MODE, &(mode & MODE_MASK).to_le_bytes())
    }

    pub(crate) fn uid(self, uid: u32) -> Patch {
        self.with(UID, &uid.to_le_bytes())
    }

    pub(crate) fn gid(self, gid: u32) -> Patch {
        self.with(GID, &gid.to_le_bytes())
    }

    /// With the last write it accounts for.
    pub(crate) fn mtime(self, mtime: Timestamp, seen: Epoch) -> Patch {
        self.with(MTIME, &time_bytes(mtime)).with(SEEN, &seen.0.to_le_bytes())
    }

    pub(crate) fn atime(self, atime: Timestamp) -> Patch {
        self.with(ATIME, &time_bytes(atime))
    }

    pub(crate) fn ctime(self, ctime: Timestamp) -> Patch {
        self.with(CTIME, &time_bytes(ctime))
    }

    /// Extended attributes may exist from now on.
    pub(crate) fn has_xattrs(self) -> Patch {
        self.with(XATTRS, &[1])
    }

    pub(crate) fn flags(self, flags: u8) -> Patch {
        self.with(FLAGS, &[flags])
    }

    fn with(mut self, offset: usize, bytes: &[u8]) -> Patch {
        self.pieces.push((offset, bytes.to_vec()));
        self
    }
}

fn known(field: &'static str, value: u64, holds: bool) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(RecordError::Unknown { field, value }) }
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn time_bytes(time: Timestamp) -> [u8; TIME_BYTES] {
    let mut bytes = [0; TIME_BYTES];
    bytes[..8].copy_from_slice(&time.seconds.to_le_bytes());
    bytes[8..].copy_from_slice(&time.nanos.to_le_bytes());
    bytes
}

fn time_at(bytes: &[u8], at: usize) -> Result<Timestamp, RecordError> {
    let nanos = u32_at(bytes, at + 8);
    known("time", nanos.into(), nanos < 1_000_000_000)?;
    Ok(Timestamp { seconds: u64_at(bytes, at) as i64, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ObjectType;

    fn sample() -> Inode {
        Inode {
            kind: Kind::File,
            flags: ARRIVED,
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            oid: ObjectId::new(ObjectType::ArrayByte, ObjectClass::SX, 7, 0x0102_0304),
            nlink: 1,
            class: Some(ObjectClass::SX),
            size: 0,
            chunk_bytes: 1 << 20,
            mtime: Timestamp::new(-1, 999_999_999),
            atime: Timestamp::new(2, 3),
            seen: Epoch(0x1122_3344_5566_7788),
            ctime: Timestamp::new(0x0506, 7),
            birth: Timestamp::new(8, 9),
            has_xattrs: true,
        }
    }

    fn from_hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn golden_bytes_of_an_inode() {
        let golden = from_hex(include_str!("../golden/v1/inode.hex"));
        assert_eq!(sample().encode().to_vec(), golden);
        assert_eq!(Inode::decode(&golden), Ok(sample()));
    }

    #[test]
    fn every_record_reads_back() {
        let directory = Inode { kind: Kind::Directory, class: None, chunk_bytes: 0, flags: 0, ..sample() };
        let symlink = Inode { kind: Kind::Symlink, class: None, chunk_bytes: 0, size: 11, ..sample() };
        for inode in [sample(), directory, symlink] {
            assert_eq!(Inode::decode(&inode.encode()), Ok(inode));
        }
    }

    #[test]
    fn any_bytes_decode_to_a_record_or_a_reason() {
        let mut rng = rt::Rng::seeded(1);
        for length in [0, 1, 127, 129] {
            assert!(matches!(Inode::decode(&vec![0; length]), Err(RecordError::Length { .. })));
        }
        for _ in 0..20_000 {
            let mut bytes = sample().encode();
            for _ in 0..=rng.below(4) {
                bytes[rng.below(INODE_BYTES as u64) as usize] = rng.next_u64() as u8;
            }
            if let Ok(inode) = Inode::decode(&bytes) {
                assert_eq!(inode.encode(), bytes, "what decodes encodes to the same bytes");
            }
        }
    }

    #[test]
    fn a_patch_changes_its_fields_and_no_other() {
        let patch = Patch::default()
            .mode(0o600)
            .uid(1)
            .gid(2)
            .mtime(Timestamp::new(3, 4), Epoch(5))
            .atime(Timestamp::new(6, 7))
            .ctime(Timestamp::new(8, 9))
            .flags(MOVING);
        let mut bytes = sample().encode();
        for (offset, piece) in &patch.pieces {
            bytes[*offset..offset + piece.len()].copy_from_slice(piece);
        }
        let expected = Inode {
            mode: 0o600,
            uid: 1,
            gid: 2,
            mtime: Timestamp::new(3, 4),
            seen: Epoch(5),
            atime: Timestamp::new(6, 7),
            ctime: Timestamp::new(8, 9),
            flags: MOVING,
            ..sample()
        };
        assert_eq!(Inode::decode(&bytes), Ok(expected));
    }

    #[test]
    fn a_write_after_the_times_were_set_moves_the_modification_time() {
        let inode = Inode { seen: Epoch::from_micros(10_000_000, 0), ..sample() };
        assert_eq!(inode.modified(Epoch::from_micros(10_000_000, 0)), inode.mtime);
        assert_eq!(inode.modified(Epoch::from_micros(12_000_001, 0)), Timestamp::new(12, 1000));
    }
}

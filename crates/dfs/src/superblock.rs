//! The superblock: what a container says of itself as a file system.
//!
//! It is one value (akey `superblock`) on the same dkey `/` of the reserved object 0 that holds the
//! root directory's own entry. Both are written by one conditional update, so of two clients that
//! mount a fresh container one formats it and the other finds it formatted.

use types::{ObjectClass, ObjectId, ObjectType};

use crate::inode::{put_u32, put_u64, u32_at, u64_at};

/// How a fresh container is formatted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DfsOptions {
    /// Bytes of a file in one chunk: a power of two from 4 KiB to 16 MiB.
    pub chunk_bytes: u64,
    /// Class of files whose size is not known when they are made, or is larger than a chunk.
    pub file_class: ObjectClass,
    /// Class of files known to fit one chunk: fewer places to ask for their size.
    pub small_file_class: ObjectClass,
    /// Class of directories. One group keeps a directory's names in order and cheap to list.
    pub directory_class: ObjectClass,
    /// Permission bits and owner of the root directory.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Default for DfsOptions {
    fn default() -> DfsOptions {
        DfsOptions {
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            file_class: ObjectClass::SX,
            small_file_class: ObjectClass::S1,
            directory_class: ObjectClass::S1,
            mode: 0o755,
            uid: 0,
            gid: 0,
        }
    }
}

pub const CHUNK_BYTES_DEFAULT: u64 = 1 << 20;
/// Below this a chunk's own cost in the store outweighs its data.
const CHUNK_BYTES_MIN: u64 = 4096;
/// A chunk is written by one request.
const CHUNK_BYTES_MAX: u64 = types::VALUE_BYTES_MAX as u64;

/// Whether a file may have chunks of `bytes`.
pub(crate) fn is_chunk(bytes: u64) -> bool {
    bytes.is_power_of_two() && (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes)
}

/// The reserved object with the superblock and the root's entry. Its class cannot be read anywhere, and follows from
/// the container: [`SUPERBLOCK_CLASS`] with the copies that its redundancy factor wants.
pub(crate) fn superblock_oid(class: ObjectClass) -> ObjectId {
    ObjectId::new(ObjectType::MultiLexical, class, 0, 0)
}

/// The root directory of a file system with directories of `class`.
pub(crate) fn root_oid(class: ObjectClass) -> ObjectId {
    ObjectId::new(ObjectType::MultiLexical, class, 1, 0)
}

/// Before copies: one group, as for any other directory.
pub(crate) const SUPERBLOCK_CLASS: ObjectClass = ObjectClass::S1;
pub(crate) const SUPERBLOCK_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"DFS-ROOT";

/// Version of the file system's format: of this record, of entries, of what the reserved objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Version {
    /// First release.
    V1 = 1,
}

/// Superblock record, version 1. 64 bytes, little-endian. Ours, not upstream's.
///
/// | offset | bytes | field           | meaning                                             |
/// |-------:|------:|-----------------|-----------------------------------------------------|
/// |      0 |     8 | magic           | `b"DFS-ROOT"`                                       |
/// |      8 |     4 | version         | see [`Version`]                                     |
/// |     12 |     4 | features        | bits a reader must know or refuse; none yet         |
/// |     16 |     8 | chunk           | default bytes of a chunk                            |
/// |     24 |     4 | file class      | class id                                            |
/// |     28 |     4 | small class     | class id                                            |
/// |     32 |     4 | directory class | class id                                            |
/// |     36 |    28 | -               | zero                                                |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub chunk_bytes: u64,
    pub file_class: ObjectClass,
    pub small_file_class: ObjectClass,
    pub directory_class: ObjectClass,
}

const CHUNK: usize = 16;
const FILE_CLASS: usize = 24;
const SMALL_CLASS: usize = 28;
const DIRECTORY_CLASS: usize = 32;
const RESERVED: usize = 36;
const _: () = assert!(RESERVED + 28 == SUPERBLOCK_BYTES);

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, 8, Version::V1 as u32);
        put_u64(&mut bytes, CHUNK, self.chunk_bytes);
        put_u32(&mut bytes, FILE_CLASS, self.file_class.id());
        put_u32(&mut bytes, SMALL_CLASS, self.small_file_class.id());
        put_u32(&mut bytes, DIRECTORY_CLASS, self.directory_class.id());
        bytes
    }

    /// # Errors
    /// In words, for an administrator: what is wrong, or too new.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Superblock, String> {
        if bytes.len() != SUPERBLOCK_BYTES || bytes[..8] != MAGIC {
            return Err("its superblock is not one: was the container written by something else?".into());
        }
        let (version, features) = (u32_at(bytes, 8), u32_at(bytes, 12));
        if version != Version::V1 as u32 || features != 0 {
            return Err(format!(
                "its superblock has version {version}, features {features:#x}; this release knows version 1: use a newer release"
            ));
        }
        let chunk_bytes = u64_at(bytes, CHUNK);
        if !is_chunk(chunk_bytes) {
            return Err(format!("its superblock has chunks of {chunk_bytes} bytes"));
        }
        let class = |at| {
            let id = u32_at(bytes, at);
            let class = ObjectClass::from_parts((id >> 24) as u8, id as u16).filter(|class| class.id() == id);
            class.ok_or_else(|| format!("its superblock names the unknown object class {id:#x}"))
        };
        if bytes[RESERVED..] != [0; SUPERBLOCK_BYTES - RESERVED] {
            return Err("its superblock has bytes where zeros should be".into());
        }
        Ok(Superblock {
            chunk_bytes,
            file_class: class(FILE_CLASS)?,
            small_file_class: class(SMALL_CLASS)?,
            directory_class: class(DIRECTORY_CLASS)?,
        })
    }
}

impl From<&DfsOptions> for Superblock {
    fn from(options: &DfsOptions) -> Superblock {
        Superblock {
            chunk_bytes: options.chunk_bytes,
            file_class: options.file_class,
            small_file_class: options.small_file_class,
            directory_class: options.directory_class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_superblock() {
        let superblock = Superblock::from(&DfsOptions::default());
        let golden = [
            &b"DFS-ROOT"[..],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 16, 0, 0, 0, 0, 0],
            &[0xff, 0xff, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1],
            &[0; 28],
        ]
        .concat();
        assert_eq!(superblock.encode().to_vec(), golden);
        assert_eq!(Superblock::decode(&golden), Ok(superblock));
    }

    #[test]
    fn a_wrong_or_newer_superblock_is_refused_in_words() {
        let good = Superblock::from(&DfsOptions::default()).encode();
        assert!(Superblock::decode(&good[..63]).is_err());
        for (at, word) in [(0, "not one"), (8, "newer"), (12, "newer"), (17, "chunks"), (27, "class"), (63, "zeros")] {
            let mut bytes = good;
            bytes[at] ^= 0x7e;
            let error = Superblock::decode(&bytes).unwrap_err();
            assert!(error.contains(word), "byte {at}: {error}");
        }
    }
}

//! The records of a placement group, from one target to another: what a rebuild carries, and what a target that is no
//! member any more drops.
//!
//! # Shape
//! ```text
//!   source: copy_out <---- fingerprints of what it has ------------ target: prints
//!                    ----- records with keys, versions and all ----> copy_in; what the source has not: take_out
//!           digest   ------------- the same? ----------------------> digest
//!   (a target that left)  drop_group, step by step
//! ```
//! A stored record says by its key whose it is and when it was written, so records of several hands may come in any order,
//! and twice: what a target gets as a member and what it gets as a copy unite to what the group has.
//!
//! A record's *fingerprint* is 64 bits of its key, length and checksums. By them a target that has something already gets
//! what it lacks, and hears what it has too much: whatever the reason is, an absence, what only one of the two has aggregated
//! or joined, or changes that nobody else has committed.
//!
//! # What a carrier must see to
//! - Both containers are *held* ([`crate::Store::hold`]) from the first part to the last digest: what aggregation takes away
//!   behind the one who copies, or joins before him, would be missing at the other; and a punch that has come without what
//!   it hides would be taken for useless.
//! - Changes of earlier terms are decided at the source before it begins; later ones reach both as members.
//!
//! # Always true
//! 1. Nothing comes in that a rollback has undone: parts say which rollback their source knows, and a target that knows of
//!    another refuses them.
//! 2. Each call looks at a bounded number of records, and says where to go on.
//!
//! # Not here
//! The bytes of bulk values (`media`, by the blocks that a part names, under a pin); undecided changes.

use media::Pages;
use types::{Epoch, Extent};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{self, COMPOSITE_BYTES_MAX, LIFE, OBJECT_BYTES, OBJECT_FLAG, Version};
use crate::node::Value;
use crate::request::{BulkList, Checksums, Payload};
use crate::shard::Shard;
use crate::update::{self, Scratch};
use crate::value::{self, Stored};
use crate::view::unreadable;

/// What a stored record holds; `P` is where its payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopiedValue<P> {
    /// Of an object, a dkey or an akey.
    Punch,
    /// Records of an array that were punched.
    Hole {
        count: u64,
    },
    Single(P),
    /// Records of an array.
    Data {
        count: u64,
        record_bytes: u32,
        payload: P,
    },
}

impl<P> CopiedValue<P> {
    /// The same with its payload as `to` makes it.
    pub fn map<'a, Q>(&'a self, to: impl FnOnce(&'a P) -> Q) -> CopiedValue<Q> {
        match self {
            CopiedValue::Punch => CopiedValue::Punch,
            CopiedValue::Hole { count } => CopiedValue::Hole { count: *count },
            CopiedValue::Single(payload) => CopiedValue::Single(to(payload)),
            CopiedValue::Data { count, record_bytes, payload } => {
                CopiedValue::Data { count: *count, record_bytes: *record_bytes, payload: to(payload) }
            }
        }
    }

    pub fn payload(&self) -> Option<&P> {
        match self {
            CopiedValue::Punch | CopiedValue::Hole { .. } => None,
            CopiedValue::Single(payload) | CopiedValue::Data { payload, .. } => Some(payload),
        }
    }
}

/// A payload as the source has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopiedPayload {
    Inline {
        bytes: Vec<u8>,
        checksums: Checksums,
    },
    /// In these blocks, as long as a pin lives that was taken before the call.
    Bulk {
        blocks: BulkList,
        bytes: u64,
        checksums: Checksums,
    },
}

/// A stored record of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Composite key, version and all.
    pub key: Vec<u8>,
    pub value: CopiedValue<CopiedPayload>,
}

/// A part of a placement group: records with these keys, written up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub group: u32,
    /// First key; `None`: the group's first.
    pub from: Option<&'a [u8]>,
    /// First key behind it; `None`: to the group's end.
    pub end: Option<&'a [u8]>,
    pub upto: Epoch,
}

impl Span<'_> {
    /// What the keys of the group begin with.
    ///
    /// # Errors
    /// `Invalid`: it is not within its group.
    pub(crate) fn prefix(&self) -> Result<[u8; 4]> {
        let prefix = self.group.to_be_bytes();
        match [self.from, self.end].into_iter().flatten().all(|key| key.starts_with(&prefix)) {
            true => Ok(prefix),
            false => Err(Error::Invalid("a part of a placement group begins and ends in the group")),
        }
    }

    /// Whether a key is no longer within it.
    pub(crate) fn is_behind(&self, key: &[u8]) -> bool {
        self.end.is_some_and(|end| key >= end)
    }

    /// Whether a stored record is of it, whose key is.
    pub(crate) fn counts(&self, record: key::Record) -> bool {
        record.version().is_some_and(|version| version.epoch <= self.upto)
    }
}

/// What a target has of a span, record by record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prints {
    /// Key and fingerprint, in the order of the keys.
    pub found: Vec<(Vec<u8>, u64)>,
    /// Where the next look begins; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// Some records of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPart {
    /// Those that the asker has not.
    pub records: Vec<Copied>,
    /// Fingerprints of those that it has.
    pub same: Vec<u64>,
    /// Where the next part begins; `None` at the end.
    pub next: Option<Vec<u8>>,
    /// The source forgot history before it: the target's horizon must not be lower.
    pub horizon: Epoch,
    /// When the latest rollback that the source knows was asked for.
    pub undone: Epoch,
}

/// A stored record that comes.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub key: &'a [u8],
    pub value: CopiedValue<Payload<'a>>,
}

impl Incoming<'_> {
    /// What its key says of it; `None` when key and value do not belong together, or are none.
    pub(crate) fn check(&self) -> Option<Version> {
        let place = Some(self.key).filter(|key| key.len() <= COMPOSITE_BYTES_MAX).and_then(key::Place::read)?;
        for level in [key::DKEY, key::AKEY].into_iter().filter(|level| place.ends[*level] > 0) {
            key::read_key(&self.key[place.ends[level - 1]..])?;
        }
        let stored = key::read_record(self.key)?;
        let version = stored.version().filter(|v| v.epoch > Epoch::ZERO && v.epoch < Epoch::MAX)?;
        let fits =
            |count: u64, class: u8, start: u64| key::class_of(count) == class && Extent::new(start, count).is_valid();
        let is_sound = match (stored, &self.value) {
            (
                key::Record::ObjectPunch(_) | key::Record::DkeyPunch(_) | key::Record::AkeyPunch(_),
                CopiedValue::Punch,
            ) => true,
            (key::Record::Array { hole: true, class, start, .. }, CopiedValue::Hole { count }) => {
                fits(*count, class, start)
            }
            (key::Record::Single(_), CopiedValue::Single(payload)) => update::check_payload(payload).is_ok(),
            (
                key::Record::Array { hole: false, class, start, .. },
                CopiedValue::Data { count, record_bytes, payload },
            ) => {
                fits(*count, class, start)
                    && *record_bytes > 0
                    && count.checked_mul(u64::from(*record_bytes)) == Some(payload.len())
                    && update::check_payload(payload).is_ok()
            }
            _ => false,
        };
        is_sound.then_some(version)
    }
}

impl<'a> Incoming<'a> {
    pub(crate) fn reservation(&self) -> Option<&'a crate::space::Reservation> {
        match self.value.payload() {
            Some(Payload::Bulk { at, .. }) => Some(*at),
            _ => None,
        }
    }

    /// The flag that goes with a punch.
    pub(crate) fn flag(&self) -> Option<Vec<u8>> {
        let object = self.key.get(..OBJECT_BYTES)?;
        matches!(self.value, CopiedValue::Punch).then(|| [object, &[LIFE, OBJECT_FLAG]].concat())
    }
}

/// A stored value, out of the tree; `None` when it cannot be read.
pub(crate) fn copied(record: key::Record, bytes: &[u8]) -> Option<CopiedValue<CopiedPayload>> {
    let payload = |stored: Stored<'_>| match stored {
        Stored::Inline { bytes, .. } => CopiedPayload::Inline { bytes: bytes.to_vec(), checksums: stored.checksums() },
        Stored::Bulk { bytes, .. } => {
            CopiedPayload::Bulk { blocks: stored.blocks(), bytes, checksums: stored.checksums() }
        }
    };
    Some(match record {
        key::Record::ObjectFlag => return None,
        key::Record::ObjectPunch(_) | key::Record::DkeyPunch(_) | key::Record::AkeyPunch(_) => CopiedValue::Punch,
        key::Record::Single(_) => CopiedValue::Single(payload(value::read_payload(bytes)?)),
        key::Record::Array { hole: true, .. } => CopiedValue::Hole { count: value::read_count(bytes)? },
        key::Record::Array { hole: false, .. } => {
            let (count, record_bytes, stored) = value::read_data(bytes)?;
            CopiedValue::Data { count, record_bytes, payload: payload(stored) }
        }
    })
}

/// A number that two records have in common when they are the same, wherever their bytes lie: key, kind, length and
/// checksums. `key` is scratch afterwards.
pub(crate) fn fingerprint(key: &mut Vec<u8>, value: &CopiedValue<CopiedPayload>) -> u64 {
    push_identity(key, value);
    codec::checksum::crc64(key)
}

fn push_identity(out: &mut Vec<u8>, value: &CopiedValue<CopiedPayload>) {
    match value {
        CopiedValue::Punch => {}
        CopiedValue::Hole { count } => out.extend_from_slice(&count.to_le_bytes()),
        CopiedValue::Single(_) => out.push(0),
        CopiedValue::Data { count, record_bytes, .. } => {
            out.extend_from_slice(&count.to_le_bytes());
            out.extend_from_slice(&record_bytes.to_le_bytes());
        }
    }
    let (len, checksums) = match value.payload() {
        None => return,
        Some(CopiedPayload::Inline { bytes, checksums }) => (bytes.len() as u64, checksums),
        Some(CopiedPayload::Bulk { bytes, checksums, .. }) => (*bytes, checksums),
    };
    out.extend_from_slice(&len.to_le_bytes());
    checksums.iter().for_each(|checksum| out.extend_from_slice(&checksum.to_le_bytes()));
}

/// Does a logged copy. The same when done again.
pub(crate) fn apply_copy<'a>(
    shard: &mut Shard,
    pages: &mut Pages,
    records: impl Iterator<Item = Incoming<'a>>,
    scratch: &mut Scratch,
) -> Result<()> {
    for record in records {
        let version = record.check().ok_or_else(|| unreadable("a record that was copied"))?;
        scratch.key.clear();
        scratch.key.extend_from_slice(record.key);
        let mut head = value::Head::new();
        match &record.value {
            CopiedValue::Punch => {
                let empty = Value { head: &[], tail: &[] };
                let is_known = shard.tree.insert(pages, record.key, empty, version.epoch.0)?;
                shard.punches += u64::from(!is_known);
                if let Some(flag) = record.flag() {
                    shard.note_punch(&record.key[..OBJECT_BYTES]);
                    shard.tree.insert(pages, &flag, empty, 0)?;
                }
            }
            CopiedValue::Hole { count } => {
                shard.tree.insert(pages, record.key, value::hole(&count.to_le_bytes()), version.epoch.0)?;
            }
            CopiedValue::Single(payload) => {
                let spot = shard.tree.locate(pages, record.key)?;
                update::put(shard, pages, spot, version, payload, &mut head, scratch)?;
            }
            CopiedValue::Data { count, record_bytes, payload } => {
                value::data_head(&mut head, *count, *record_bytes);
                let spot = shard.tree.locate(pages, record.key)?;
                update::put(shard, pages, spot, version, payload, &mut head, scratch)?;
            }
        }
        shard.came(version);
    }
    shard.save_all(pages)
}

/// Keys of the first records of a group, its flags included.
pub(crate) fn first_records(shard: &Shard, pages: &Pages, group: u32, limit: u32) -> Result<Vec<Vec<u8>>> {
    let (prefix, mut keys) = (group.to_be_bytes(), Vec::new());
    let mut cursor = Cursor::at(&shard.tree, pages, &prefix)?;
    for _ in 0..limit {
        if !cursor.starts_with(&prefix) {
            break;
        }
        let mut key = Vec::new();
        cursor.key().copy_to(&mut key);
        keys.push(key);
        cursor.next()?;
    }
    Ok(keys)
}

/// Does a logged step of dropping a group.
pub(crate) fn apply_drop(
    shard: &mut Shard,
    pages: &mut Pages,
    group: u32,
    limit: u32,
    freed: &mut BulkList,
) -> Result<()> {
    let keys = first_records(shard, pages, group, limit)?;
    apply_take_out(shard, pages, &keys, freed)
}

/// Does a logged taking out. The same when done again.
pub(crate) fn apply_take_out(
    shard: &mut Shard,
    pages: &mut Pages,
    keys: &[impl AsRef<[u8]>],
    freed: &mut BulkList,
) -> Result<()> {
    for key in keys {
        let key = key.as_ref();
        let stored = key::read_record(key);
        shard.forget_flag(key);
        let was_there = update::remove(shard, pages, key, freed)?;
        if was_there && stored.is_some_and(|record| !record.is_value() && record.version().is_some()) {
            shard.punches = shard.punches.saturating_sub(1);
        }
    }
    (shard.pass, shard.walk) = (None, None);
    shard.save_all(pages)
}

//! Writing: what an update needs before it is logged, and what it does to the tree after.

use codec::checksum::chunk_count;
use media::{BLOCK_BYTES, Pages};
use types::{
    AKEYS_PER_REQUEST_MAX, Conditions, EXTENTS_PER_AKEY_MAX, Epoch, Extent, KEY_BYTES_MAX, Key, VALUE_BYTES_MAX,
};

use crate::error::{Error, Result};
use crate::key::{self, BEYOND, DATA, SINGLE, Version};
use crate::node::Value;
use crate::request::{AkeyWrite, BulkList, INLINE_BYTES_MAX, Payload, Update, ValueWrite};
use crate::shard::Shard;
use crate::tree::Spot;
use crate::value::{self, Head};
use crate::view::{View, compose};

/// Buffers that operations share, so that none of them allocates.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) old: Vec<u8>,
    pub(crate) log: Vec<u8>,
    /// Blocks that the present operation frees.
    pub(crate) freed: BulkList,
}

/// Checks all of a request that needs no look into the tree. Returns the records it will write.
pub(crate) fn validate(update: &Update<'_>) -> Result<usize> {
    check_key(update.dkey)?;
    if update.akeys.is_empty() || update.akeys.len() > AKEYS_PER_REQUEST_MAX {
        return Err(Error::Invalid("an update names between 1 and 256 akeys"));
    }
    if let [AkeyWrite { akey, value: ValueWrite::Single(payload) }] = update.akeys {
        check_key(akey)?;
        check_payload(payload)?;
        return Ok(1);
    }
    let mut records = 0;
    let mut bytes = 0;
    for write in update.akeys {
        check_key(write.akey)?;
        match &write.value {
            ValueWrite::Single(payload) => {
                check_payload(payload)?;
                records += 1;
                bytes += payload.len();
            }
            ValueWrite::Array { record_bytes, extents } => {
                check_extents(&mut extents.iter().map(|(extent, _)| *extent))?;
                for (extent, payload) in *extents {
                    check_payload(payload)?;
                    if *record_bytes == 0 || extent.count.checked_mul((*record_bytes).into()) != Some(payload.len()) {
                        return Err(Error::Invalid("a payload is as long as its extent's records, of at least a byte"));
                    }
                    bytes += payload.len();
                }
                records += extents.len();
            }
        }
    }
    if bytes > VALUE_BYTES_MAX as u64 {
        return Err(Error::Invalid("the values of one update are at most 16 MiB"));
    }
    if !are_distinct(&mut update.akeys.iter().map(|write| write.akey)) {
        return Err(Error::Invalid("an update names each akey once"));
    }
    Ok(records)
}

pub(crate) fn check_key(key: &Key) -> Result<()> {
    match key {
        Key::Integer(_) => Ok(()),
        Key::Bytes(bytes) if bytes.len() > KEY_BYTES_MAX => Err(Error::KeyTooLong { bytes: bytes.len() }),
        Key::Bytes(bytes) if bytes.is_empty() => Err(Error::Invalid("a key has at least one byte")),
        Key::Bytes(_) => Ok(()),
    }
}

/// Valid, not too many, and apart from one another: which of two at the same version is newer would be
/// nobody's to say.
pub(crate) fn check_extents(extents: &mut dyn Iterator<Item = Extent>) -> Result<()> {
    let mut all: Vec<Extent> = extents.take(EXTENTS_PER_AKEY_MAX + 1).collect();
    if all.is_empty() || all.len() > EXTENTS_PER_AKEY_MAX {
        return Err(Error::Invalid("a request names between 1 and 1024 extents of an akey"));
    }
    if !all.iter().all(|extent| extent.is_valid()) {
        return Err(Error::Invalid("an extent is not empty and ends within the index limit"));
    }
    all.sort_unstable();
    if all.windows(2).any(|pair| pair[0].end() > pair[1].start) {
        return Err(Error::Invalid("extents of one akey in one request do not overlap"));
    }
    Ok(())
}

pub(crate) fn are_distinct(keys: &mut dyn Iterator<Item = &Key>) -> bool {
    let mut all: Vec<&Key> = keys.collect();
    all.sort_unstable();
    all.windows(2).all(|pair| pair[0] != pair[1])
}

pub(crate) fn check_payload(payload: &Payload<'_>) -> Result<()> {
    let (len, checksums) = match *payload {
        Payload::Inline { bytes, checksums } => {
            if bytes.len() > INLINE_BYTES_MAX {
                return Err(Error::Invalid("an inline payload is at most 4096 bytes: larger ones go to bulk blocks"));
            }
            (bytes.len(), checksums)
        }
        Payload::Staged { .. } => return Err(Error::Invalid("what is staged is the store's choice")),
        Payload::Bulk { at, bytes, checksums } => {
            let room: u64 = at.extents().iter().map(|piece| u64::from(piece.blocks) * BLOCK_BYTES as u64).sum();
            if bytes == 0 || bytes > room || bytes > VALUE_BYTES_MAX as u64 {
                return Err(Error::Invalid("a bulk payload fits its reservation and is at most 16 MiB"));
            }
            (bytes as usize, checksums)
        }
    };
    if checksums.len() != chunk_count(len) {
        return Err(Error::Invalid("a payload has one checksum for each 32 KiB"));
    }
    Ok(())
}

/// Checks what depends on the tree: conditions, and the record sizes of arrays. A lone single value gets
/// its place found on the way, so that it costs one descent.
pub(crate) fn plan(
    shard: &Shard,
    pages: &Pages,
    version: Version,
    update: &Update<'_>,
    key: &mut Vec<u8>,
) -> Result<Option<Spot>> {
    let condition = update.conditions != Conditions::None;
    if condition {
        check_conditions(
            shard,
            pages,
            version.epoch,
            (update.group, update.oid, Some(update.dkey)),
            &mut update.akeys.iter().map(|write| write.akey),
            update.conditions,
        )?;
    }
    if let [AkeyWrite { akey, value: ValueWrite::Single(_) }] = update.akeys {
        compose(key, update.group, update.oid, update.dkey, akey);
        key.push(SINGLE);
        key::push_version(key, version);
        return Ok(Some(shard.tree.locate(pages, key)?));
    }
    for write in update.akeys {
        if let ValueWrite::Array { record_bytes, .. } = write.value {
            let (dkey_end, akey_end) = compose(key, update.group, update.oid, update.dkey, write.akey);
            let view = View::open(shard, pages, key, version.epoch)?;
            let hidden = view.hidden_akey(&key[..dkey_end], &key[..akey_end])?;
            match view.size_in_life(&key[..dkey_end], &key[..akey_end], hidden)? {
                Some(stored) if stored != record_bytes => {
                    return Err(Error::RecordSize { stored, given: record_bytes });
                }
                _ => {}
            }
        }
    }
    // After the record is logged, nothing may fail.
    touch(shard, pages, version, update, key)?;
    Ok(None)
}

/// Reads every page that [`apply`] will change.
pub(crate) fn touch(
    shard: &Shard,
    pages: &Pages,
    version: Version,
    update: &Update<'_>,
    key: &mut Vec<u8>,
) -> Result<()> {
    for write in update.akeys {
        let (_, akey_end) = compose(key, update.group, update.oid, update.dkey, write.akey);
        match write.value {
            ValueWrite::Single(_) => {
                key.push(SINGLE);
                key::push_version(key, version);
                shard.tree.locate(pages, key)?;
            }
            ValueWrite::Array { extents, .. } => {
                for (extent, _) in extents {
                    key.truncate(akey_end);
                    key::push_extent(key, DATA, *extent);
                    key::push_version(key, version);
                    shard.tree.locate(pages, key)?;
                }
            }
        }
    }
    Ok(())
}

/// Evaluates conditions at `at`. Without a dkey they ask for the object.
pub(crate) fn check_conditions(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey): (u32, types::ObjectId, Option<&Key>),
    akeys: &mut dyn Iterator<Item = &Key>,
    conditions: Conditions,
) -> Result<()> {
    let mut key = Vec::new();
    key::push_object(&mut key, group, oid);
    let view = View::open(shard, pages, &key, at)?;
    match conditions {
        Conditions::None => Ok(()),
        Conditions::DkeyInsert | Conditions::DkeyExists => {
            let exists = match dkey {
                None => view.object_visible(&key)?,
                Some(dkey) => {
                    key::push_key(&mut key, dkey);
                    view.dkey_visible(&key)?
                }
            };
            match (conditions, exists) {
                (Conditions::DkeyInsert, true) => Err(Error::Exists),
                (Conditions::DkeyExists, false) => Err(Error::NotFound),
                _ => Ok(()),
            }
        }
        Conditions::AkeyInsert | Conditions::AkeyExists => {
            let Some(dkey) = dkey else { return Ok(()) };
            key::push_key(&mut key, dkey);
            let dkey_end = key.len();
            let above = view.hidden_below(&key, view.hidden)?;
            for akey in akeys {
                key.truncate(dkey_end);
                key::push_key(&mut key, akey);
                match (conditions, view.akey_visible(&key, above)?) {
                    (Conditions::AkeyInsert, true) => return Err(Error::Exists),
                    (Conditions::AkeyExists, false) => return Err(Error::NotFound),
                    _ => {}
                }
            }
            Ok(())
        }
    }
}

/// Does a logged update to the tree. The same for a request and for a record read back.
pub(crate) fn apply(
    shard: &mut Shard,
    pages: &mut Pages,
    version: Version,
    update: &Update<'_>,
    mut spot: Option<Spot>,
    scratch: &mut Scratch,
) -> Result<()> {
    for write in update.akeys {
        match &write.value {
            ValueWrite::Single(payload) => {
                let spot = match spot.take() {
                    // The key in `scratch` is still the one `plan` made.
                    Some(spot) => spot,
                    None => {
                        compose(&mut scratch.key, update.group, update.oid, update.dkey, write.akey);
                        scratch.key.push(SINGLE);
                        key::push_version(&mut scratch.key, version);
                        shard.tree.locate(pages, &scratch.key)?
                    }
                };
                let mut head = Head::new();
                put(shard, pages, spot, version, payload, &mut head, scratch)?;
            }
            ValueWrite::Array { record_bytes, extents } => {
                let (_, akey_end) = compose(&mut scratch.key, update.group, update.oid, update.dkey, write.akey);
                for (extent, payload) in *extents {
                    scratch.key.truncate(akey_end);
                    key::push_extent(&mut scratch.key, DATA, *extent);
                    key::push_version(&mut scratch.key, version);
                    let spot = shard.tree.locate(pages, &scratch.key)?;
                    let mut head = Head::new();
                    value::data_head(&mut head, extent.count, *record_bytes);
                    put(shard, pages, spot, version, payload, &mut head, scratch)?;
                }
            }
        }
    }
    shard.applied(pages, version)
}

/// Inserts a payload at the key in `scratch`, and counts its blocks.
pub(crate) fn put(
    shard: &mut Shard,
    pages: &mut Pages,
    spot: Spot,
    version: Version,
    payload: &Payload<'_>,
    head: &mut Head,
    scratch: &mut Scratch,
) -> Result<()> {
    let tail = value::payload_head(payload, head);
    let value = Value { head, tail };
    let replaced = shard.tree.insert_at(pages, spot, &scratch.key, value, version.epoch.0, &mut scratch.old)?;
    if replaced {
        let old = key::read_record(&scratch.key).map(|record| value::blocks_of(record, &scratch.old));
        for piece in old.unwrap_or_default() {
            shard.blocks = shard.blocks.saturating_sub(piece.blocks.into());
            scratch.freed.push(piece);
        }
    }
    shard.blocks += match payload {
        Payload::Inline { .. } => 0,
        Payload::Staged { .. } => 1,
        Payload::Bulk { at, .. } => at.extents().iter().map(|piece| u64::from(piece.blocks)).sum(),
    };
    Ok(())
}

/// Removes the record at exactly `key`, and frees its blocks.
pub(crate) fn remove(shard: &mut Shard, pages: &mut Pages, key: &[u8], freed: &mut BulkList) -> Result<bool> {
    let spot = shard.tree.locate(pages, key)?;
    if !spot.found {
        return Ok(false);
    }
    let value = crate::node::value(crate::tree::body(pages, spot.leaf)?, spot.index);
    for piece in key::read_record(key).map(|record| value::blocks_of(record, value)).unwrap_or_default() {
        shard.blocks = shard.blocks.saturating_sub(piece.blocks.into());
        freed.push(piece);
    }
    shard.tree.remove_at(pages, &spot)?;
    Ok(true)
}

/// First key after everything below `prefix`.
pub(crate) fn beyond(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    end.push(BEYOND);
    end
}

//! Reading: a plan of where the bytes are.

use std::cell::Ref;

use media::Pages;
use types::{AKEYS_PER_REQUEST_MAX, EXTENTS_PER_AKEY_MAX, Epoch, Extent, Key, ObjectId};

use crate::error::{Error, Result};
use crate::key::{self, SINGLE, VERSION_BYTES, Version};
use crate::node;
use crate::request::{AkeyPlan, AkeyRead, FetchPlan, Piece, ReadWhat, Source, ValueRead};
use crate::shard::Shard;
use crate::space::BulkExtent;
use crate::tree;
use crate::update::Scratch;
use crate::value::{self, Stored};
use crate::view::{View, compose, unreadable};

/// Most payload that one fetch gathers from the tree, in bytes: bounds the answer's memory.
const INLINE_BYTES_PER_FETCH_MAX: usize = 64 << 20;

/// Plans a read of `akeys` under `dkey`.
pub(crate) fn fetch(
    media: &media::Store,
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey): (u32, ObjectId, &Key),
    akeys: &[AkeyRead<'_>],
    key: &mut Vec<u8>,
) -> Result<FetchPlan> {
    if akeys.len() > AKEYS_PER_REQUEST_MAX {
        return Err(Error::Invalid("a fetch names at most 256 akeys"));
    }
    let mut plan = FetchPlan { akeys: Vec::with_capacity(akeys.len()), ..FetchPlan::default() };
    key.clear();
    key::push_object(key, group, oid);
    let view = View::open(shard, pages, key, at)?;
    key::push_key(key, dkey);
    let dkey_end = key.len();
    let above = view.hidden_below(key, view.hidden)?;
    for read in akeys {
        key.truncate(dkey_end);
        key::push_key(key, read.akey);
        let hidden = view.hidden_below(key, above)?;
        let mut found = match read.what {
            ReadWhat::Single => single(&view, key, hidden, &mut plan.inline)?,
            ReadWhat::Array(extents) => array(&view, key, hidden, extents, &mut plan.inline)?,
        };
        found.pieces.iter_mut().for_each(|piece| from_stage(media, &mut piece.source, &mut plan.inline));
        plan.akeys.push(found);
        if plan.inline.len() > INLINE_BYTES_PER_FETCH_MAX {
            return Err(Error::Invalid("a fetch answers at most 64 MiB of small values: ask for less at once"));
        }
    }
    Ok(plan)
}

/// Answers a value of one block from memory when it is there, so that nobody waits for a device.
fn from_stage(media: &media::Store, source: &mut Source, inline: &mut Vec<u8>) {
    let Source::Bulk { extents, bytes, checksums, part } = source else { return };
    let [extent] = extents[..] else { return };
    if let Some(payload) = staged(media, extent, *bytes) {
        let start = inline.len();
        inline.extend_from_slice(&payload);
        let (checksums, part) = (std::mem::take(checksums), part.clone());
        *source = Source::Inline { payload: start..inline.len(), checksums, part };
    }
}

/// The bytes of a bulk value in `extent`, when that is one block and in memory.
#[inline]
fn staged(media: &media::Store, extent: BulkExtent, bytes: u64) -> Option<Ref<'_, [u8]>> {
    Ref::filter_map(media.staged(extent)?, |block| block.get(..bytes as usize)).ok()
}

fn single(view: &View<'_>, akey: &[u8], hidden: Version, inline: &mut Vec<u8>) -> Result<AkeyPlan> {
    let Some((_, value)) = view.single(akey, hidden)? else {
        return Ok(AkeyPlan::default());
    };
    let stored = value::read_payload(value).ok_or_else(|| unreadable("a single value"))?;
    let source = stored.source(0..stored.len(), inline);
    let pieces = vec![Piece { extent: Extent::new(0, 1), source }];
    Ok(AkeyPlan { record_bytes: stored.len() as u32, pieces })
}

fn array(view: &View<'_>, akey: &[u8], hidden: Version, extents: &[Extent], inline: &mut Vec<u8>) -> Result<AkeyPlan> {
    if extents.len() > EXTENTS_PER_AKEY_MAX || !extents.iter().all(|extent| extent.is_valid()) {
        return Err(Error::Invalid("a fetch names at most 1024 extents, none empty or beyond the index limit"));
    }
    let mut plan = AkeyPlan::default();
    for extent in extents {
        let mut sweep = view.sweep(akey, hidden, extent.start, extent.end())?;
        let mut position = extent.start;
        while let Some((start, end, top)) = sweep.next_data()? {
            if position < start {
                plan.pieces.push(hole(position, start));
            }
            position = end;
            let (_, record_bytes, stored) = value::read_data(top.value).ok_or_else(|| unreadable("array data"))?;
            if plan.record_bytes != 0 && plan.record_bytes != record_bytes {
                return Err(unreadable("an array with records of two sizes"));
            }
            plan.record_bytes = record_bytes;
            let size = u64::from(record_bytes);
            let part = (start - top.start) * size..(end - top.start) * size;
            plan.pieces.push(Piece { extent: Extent::new(start, end - start), source: stored.source(part, inline) });
        }
        if position < extent.end() {
            plan.pieces.push(hole(position, extent.end()));
        }
    }
    if plan.record_bytes == 0 {
        // Nothing but holes: say whether the array has records elsewhere.
        plan.record_bytes = view.record_bytes(akey, hidden)?;
    }
    Ok(plan)
}

/// Adjacent holes are one.
fn hole(from: u64, to: u64) -> Piece {
    Piece { extent: Extent::new(from, to - from), source: Source::Hole }
}

impl FetchPlan {
    /// Whether some piece lies in bulk blocks.
    pub(crate) fn names_bulk(&self) -> bool {
        self.akeys.iter().flat_map(|akey| &akey.pieces).any(|piece| matches!(piece.source, Source::Bulk { .. }))
    }
}

/// One single value that is in memory, copied into `out`. One descent, unless the object was ever punched.
#[inline]
pub(crate) fn value(
    media: &media::Store,
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey, akey): (u32, ObjectId, &Key, &Key),
    key: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<ValueRead> {
    let (dkey_end, akey_end) = compose(key, group, oid, dkey, akey);
    key.push(SINGLE);
    key::push_version(key, Version::latest(at));
    let (leaf, index) = shard.tree.leaf(pages, key)?;
    value_at(media, shard, pages, at, key, (dkey_end, akey_end), leaf, index, out)
}

/// As [`value`], from the place in a leaf where the newest version belongs.
#[allow(clippy::too_many_arguments)]
fn value_at(
    media: &media::Store,
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    key: &[u8],
    (dkey_end, akey_end): (usize, usize),
    leaf: &node::Body,
    index: usize,
    out: &mut Vec<u8>,
) -> Result<ValueRead> {
    out.clear();
    let prefix = &key[..akey_end + 1];
    let (found, value);
    if index < node::count(leaf) {
        found = node::key(leaf, index);
        value = node::value(leaf, index);
    } else {
        // The next record is the first of another leaf.
        let cursor = crate::cursor::Cursor::at(&shard.tree, pages, key)?;
        found = cursor.key();
        value = cursor.value();
    }
    if found.len() != prefix.len() + VERSION_BYTES || !found.starts_with(prefix) {
        return Ok(ValueRead::Absent);
    }
    let version = found.last::<VERSION_BYTES>().map(Version::from_bytes).unwrap_or_default();
    if shard.punches > 0 {
        let view = View::open(shard, pages, key, at)?;
        if version <= view.hidden_akey(&key[..dkey_end], &key[..akey_end])? {
            return Ok(ValueRead::Absent);
        }
    }
    match value::read_payload(value).ok_or_else(|| unreadable("a single value"))? {
        Stored::Inline { checksums, bytes } => {
            out.extend_from_slice(bytes);
            Ok(ValueRead::Inline { checksums: value::read_checksums(checksums) })
        }
        stored @ Stored::Bulk { bytes, checksums, .. } => {
            match stored.lone_extent().and_then(|extent| staged(media, extent, bytes)) {
                Some(payload) => {
                    out.extend_from_slice(&payload);
                    Ok(ValueRead::Inline { checksums: value::read_checksums(checksums) })
                }
                None => Ok(ValueRead::Bulk),
            }
        }
    }
}

/// Several such values with interleaved descents: see [`crate::Store::fetch_values`].
pub(crate) fn values(
    media: &media::Store,
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    places: &[(u32, ObjectId, &Key, &Key)],
    scratch: &mut Scratch,
    each: &mut dyn FnMut(usize, ValueRead, &[u8]),
) -> Result<()> {
    let Scratch { key, log: one, old: out, .. } = scratch;
    key.clear();
    let mut ends = Vec::with_capacity(places.len());
    for (group, oid, dkey, akey) in places {
        let start = key.len();
        let (dkey_end, akey_end) = compose(one, *group, *oid, dkey, akey);
        one.push(SINGLE);
        key::push_version(one, Version::latest(at));
        key.extend_from_slice(one);
        ends.push((start, dkey_end, akey_end, key.len()));
    }
    let keys: Vec<&[u8]> = ends.iter().map(|&(start, _, _, end)| &key[start..end]).collect();
    let mut leaves = Vec::new();
    shard.tree.locate_leaves(pages, &keys, &mut leaves)?;
    for (i, (key, leaf)) in keys.iter().zip(leaves).enumerate() {
        let leaf = tree::body(pages, leaf)?;
        let index = match node::search(leaf, key) {
            Ok(index) | Err(index) => index,
        };
        let (_, dkey_end, akey_end, _) = ends[i];
        let read = value_at(media, shard, pages, at, key, (dkey_end, akey_end), leaf, index, out)?;
        each(i, read, out);
    }
    Ok(())
}

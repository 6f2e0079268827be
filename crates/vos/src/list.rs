//! Listing what is visible: objects, dkeys, akeys, extents. Each list goes on after any entry of it.

use media::Pages;
use types::{Epoch, Extent, Key, ObjectId};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{self, OBJECT_BYTES};
use crate::request::{ListedAkey, ListedExtent, ListedObject, Listing};
use crate::shard::Shard;
use crate::update::beyond;
use crate::value;
use crate::view::{Children, View, decode_child, unreadable};

/// Most entries of one answer: bounds the time on the target's thread.
pub const LIST_MAX: usize = 4096;

struct Page<T> {
    entries: Vec<T>,
    limit: usize,
}

impl<T> Page<T> {
    fn new(limit: usize) -> Result<Page<T>> {
        if limit == 0 {
            return Err(Error::Invalid("a list has room for at least one entry"));
        }
        Ok(Page { entries: Vec::new(), limit: limit.min(LIST_MAX) })
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit
    }

    fn end(self, more: bool) -> Listing<T> {
        Listing { entries: self.entries, more }
    }
}

pub(crate) fn objects(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    after: Option<ListedObject>,
    limit: usize,
) -> Result<Listing<ListedObject>> {
    let mut page = Page::new(limit)?;
    let mut probe = Vec::new();
    if let Some(after) = after {
        key::push_object(&mut probe, after.group, after.oid);
        probe = beyond(&probe);
    }
    let mut cursor = Cursor::at(&shard.tree, pages, &probe)?;
    while cursor.is_valid() {
        if page.is_full() {
            return Ok(page.end(true));
        }
        cursor.key().copy_to(&mut probe);
        let (group, oid) = key::read_object(&probe).ok_or_else(|| unreadable("an object id"))?;
        probe.truncate(OBJECT_BYTES);
        if View::open(shard, pages, &probe, at)?.object_visible(&probe)? {
            page.entries.push(ListedObject { group, oid });
        }
        cursor.seek(&beyond(&probe))?;
    }
    Ok(page.end(false))
}

pub(crate) fn dkeys(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid): (u32, ObjectId),
    after: Option<&Key>,
    limit: usize,
) -> Result<Listing<Key>> {
    let mut page = Page::new(limit)?;
    let mut object = Vec::new();
    key::push_object(&mut object, group, oid);
    let view = View::open(shard, pages, &object, at)?;
    let mut children = Children::below(&view, &object, after)?;
    while let Some(dkey) = children.key()? {
        if page.is_full() {
            return Ok(page.end(true));
        }
        if children.shows(&view, &dkey) || view.dkey_visible(&dkey)? {
            page.entries.push(decode_child(&dkey, OBJECT_BYTES)?);
        }
        children.pass(&dkey)?;
    }
    Ok(page.end(false))
}

pub(crate) fn akeys(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey): (u32, ObjectId, &Key),
    after: Option<&Key>,
    limit: usize,
) -> Result<Listing<ListedAkey>> {
    let mut page = Page::new(limit)?;
    let mut prefix = Vec::new();
    key::push_object(&mut prefix, group, oid);
    let view = View::open(shard, pages, &prefix, at)?;
    key::push_key(&mut prefix, dkey);
    let above = view.hidden_below(&prefix, view.hidden)?;
    let mut children = Children::below(&view, &prefix, after)?;
    while let Some(akey) = children.key()? {
        if page.is_full() {
            return Ok(page.end(true));
        }
        let hidden = view.hidden_below(&akey, above)?;
        let single = view.single(&akey, hidden)?.is_some();
        let record_bytes = view.record_bytes(&akey, hidden)?;
        if single || record_bytes > 0 {
            page.entries.push(ListedAkey { akey: decode_child(&akey, prefix.len())?, single, record_bytes });
        }
        children.pass(&akey)?;
    }
    Ok(page.end(false))
}

pub(crate) fn extents(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey, akey): (u32, ObjectId, &Key, &Key),
    within: Extent,
    limit: usize,
) -> Result<Listing<ListedExtent>> {
    let mut page = Page::new(limit)?;
    if !within.is_valid() {
        return Err(Error::Invalid("an extent is not empty and ends within the index limit"));
    }
    let mut prefix = Vec::new();
    key::push_object(&mut prefix, group, oid);
    let view = View::open(shard, pages, &prefix, at)?;
    key::push_key(&mut prefix, dkey);
    let above = view.hidden_below(&prefix, view.hidden)?;
    key::push_key(&mut prefix, akey);
    let hidden = view.hidden_below(&prefix, above)?;
    let mut sweep = view.sweep(&prefix, hidden, within.start, within.end())?;
    while let Some((start, end, top)) = sweep.next_data()? {
        if page.is_full() {
            return Ok(page.end(true));
        }
        let (_, record_bytes, _) = value::read_data(top.value).ok_or_else(|| unreadable("array data"))?;
        page.entries.push(ListedExtent {
            extent: Extent::new(start, end - start),
            epoch: top.version.epoch,
            record_bytes,
        });
    }
    Ok(page.end(false))
}

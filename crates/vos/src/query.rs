//! Questions about the shape of an object: its highest keys, the ends of its arrays, its last change.

use media::{PageId, Pages};
use types::{Epoch, Key, ObjectId};

use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{self, BYTES, DATA, INTEGER, Version};
use crate::list::Array;
use crate::node;
use crate::request::{ArrayEnd, ArrayTail, Edge};
use crate::shard::Shard;
use crate::tree::{self, child_of};
use crate::update::beyond;
use crate::value;
use crate::view::{Children, View, decode_child, unreadable};

/// First window of indices looked at from the end of an array; each next is twice as long.
const WINDOW_FIRST: u64 = 1 << 12;

/// Highest epoch up to `at` of any record of the object, punches included.
pub(crate) fn max_write(shard: &Shard, pages: &Pages, at: Epoch, group: u32, oid: ObjectId) -> Result<Option<Epoch>> {
    let mut from = Vec::new();
    key::push_object(&mut from, group, oid);
    let to = beyond(&from);
    let mut best = 0;
    highest(pages, shard.tree.root, None, at, &from, &to, &mut best)?;
    Ok((best > 0).then_some(Epoch(best)))
}

/// Looks below `id` for records in `from..to`, and only where the noted epochs promise more than `best`.
fn highest(
    pages: &Pages,
    id: PageId,
    promised: Option<u64>,
    at: Epoch,
    from: &[u8],
    to: &[u8],
    best: &mut u64,
) -> Result<()> {
    if promised.is_some_and(|promised| promised <= *best) {
        return Ok(());
    }
    let body = tree::body(pages, id)?;
    if node::is_leaf(body) {
        let (Ok(first) | Err(first)) = node::search(body, from);
        let (Ok(last) | Err(last)) = node::search(body, to);
        let mut key = Vec::new();
        for index in first..last {
            node::key(body, index).copy_to(&mut key);
            let version = key::read_record(&key).ok_or_else(|| unreadable("a key"))?.version();
            let epoch = version.unwrap_or(Version::NEVER).epoch;
            if epoch <= at {
                *best = (*best).max(epoch.0);
            }
        }
        return Ok(());
    }
    let last = node::search_child(body, to);
    // From the end: the newest is found sooner where keys grow with time.
    for index in (node::search_child(body, from)..=last).rev() {
        let promised = node::child(body, index).map(|(_, epoch)| epoch);
        if promised.is_some_and(|promised| promised > *best) {
            let (child, _) = child_of(pages, id, body, index)?;
            highest(pages, child, promised, at, from, to, best)?;
        }
    }
    Ok(())
}

/// The lowest or highest integer child of `owner` that `visible` accepts.
fn edge<'a>(
    view: &View<'a>,
    owner: &[u8],
    edge: Edge,
    mut visible: impl FnMut(&[u8]) -> Result<bool>,
) -> Result<Option<u64>> {
    let mut children = Children::below(view, owner, None)?;
    if edge == Edge::Highest {
        let mut end = owner.to_vec();
        end.push(BYTES);
        if !children.back_from(&end)? {
            return Ok(None);
        }
    }
    while children.read_of_kind(INTEGER)? {
        if visible(children.key())? {
            return match decode_child(children.key(), owner.len())? {
                Key::Integer(n) => Ok(Some(n)),
                Key::Bytes(_) => Err(unreadable("an integer key")),
            };
        }
        match edge {
            Edge::Lowest => children.pass()?,
            Edge::Highest => {
                if !children.back()? {
                    break;
                }
            }
        }
    }
    Ok(None)
}

pub(crate) fn dkey(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid): (u32, ObjectId),
    which: Edge,
) -> Result<Option<u64>> {
    let mut object = Vec::new();
    key::push_object(&mut object, group, oid);
    let view = View::open(shard, pages, &object, at)?;
    edge(&view, &object, which, |dkey| view.dkey_visible(dkey))
}

pub(crate) fn akey(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey): (u32, ObjectId, &Key),
    which: Edge,
) -> Result<Option<u64>> {
    let mut prefix = Vec::new();
    key::push_object(&mut prefix, group, oid);
    let view = View::open(shard, pages, &prefix, at)?;
    key::push_key(&mut prefix, dkey);
    let above = view.hidden_below(&prefix, view.hidden)?;
    edge(&view, &prefix, which, |akey| view.akey_visible(akey, above))
}

/// End of the array under one dkey and akey.
pub(crate) fn array(shard: &Shard, pages: &Pages, at: Epoch, place: (u32, ObjectId, &Key, &Key)) -> Result<ArrayEnd> {
    let array = Array::open(shard, pages, at, place)?;
    array_end(&array.view, &array.akey, array.hidden)
}

/// The highest integer dkey whose `akey` holds records.
pub(crate) fn array_tail(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, akey): (u32, ObjectId, &Key),
) -> Result<Option<ArrayTail>> {
    let mut object = Vec::new();
    key::push_object(&mut object, group, oid);
    let view = View::open(shard, pages, &object, at)?;
    let mut found = ArrayEnd::default();
    let dkey = edge(&view, &object, Edge::Highest, |dkey| {
        let above = view.hidden_below(dkey, view.hidden)?;
        let mut prefix = dkey.to_vec();
        key::push_key(&mut prefix, akey);
        found = array_end(&view, &prefix, view.hidden_below(&prefix, above)?)?;
        Ok(found.end > 0)
    })?;
    Ok(dkey.map(|dkey| ArrayTail { dkey, end: found.end, record_bytes: found.record_bytes }))
}

/// Walks windows of indices down from the highest that any extent may reach, until one shows data.
fn array_end(view: &View<'_>, akey: &[u8], hidden: Version) -> Result<ArrayEnd> {
    let mut top = reach(view, akey)?;
    let mut window = WINDOW_FIRST;
    while top > 0 {
        let from = top.saturating_sub(window);
        let mut sweep = view.sweep(akey, hidden, from, top)?;
        let mut last = None;
        while let Some((_, end, found)) = sweep.next_data()? {
            last = Some((end, found.value));
        }
        if let Some((end, value)) = last {
            let (_, record_bytes, _) = value::read_data(value).ok_or_else(|| unreadable("array data"))?;
            return Ok(ArrayEnd { end, record_bytes });
        }
        top = from;
        window = window.saturating_mul(2);
    }
    Ok(ArrayEnd::default())
}

/// An index at or after the end of every extent of data, of any version.
fn reach(view: &View<'_>, akey: &[u8]) -> Result<u64> {
    let mut probe = akey.to_vec();
    probe.push(DATA);
    let mut end = View::data_end(akey);
    let mut cursor = Cursor::at(view.tree, view.pages, &end)?;
    let mut reach = 0u64;
    // From the highest class down: the last extent of each reaches at most a class's length beyond its start.
    while cursor.seek_before(&end)? && cursor.starts_with(&probe) {
        let tail = cursor.key().last::<18>().ok_or_else(|| unreadable("an extent"))?;
        let class = cursor.key().after::<1>(probe.len()).ok_or_else(|| unreadable("an extent"))?[0];
        let start = u64::from_be_bytes(*tail.first_chunk().expect("eight of eighteen"));
        reach = reach.max(start.saturating_add(1 << class.min(63)));
        end.truncate(akey.len());
        end.extend_from_slice(&[DATA, class]);
    }
    Ok(reach.min(types::ARRAY_INDEX_MAX))
}

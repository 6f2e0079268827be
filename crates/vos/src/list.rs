//! Listing what is visible: objects, dkeys, akeys, extents, from either end. Each list goes on at any place.
//!
//! # Always true
//! 1. A call looks at a bounded number of things, visible or not; when it stops early, it says where to go on.
//! 2. Where a list goes on is a place in the order, not a position: what comes and goes elsewhere does not
//!    move it.

use std::collections::VecDeque;

use media::Pages;
use types::{Epoch, Extent, Key, ObjectId};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::extents::Candidate;
use crate::key::{self, OBJECT_BYTES, Version};
use crate::request::{Direction, ListPart, ListedAkey, ListedExtent, ListedObject, Listing};
use crate::shard::Shard;
use crate::update::beyond;
use crate::value;
use crate::view::{Children, View, decode_child, unreadable};

/// Most entries of one answer.
pub const LIST_MAX: usize = 4096;
/// Most things that one call looks at: bounds the time on the target's thread, when few of many are visible.
const LOOKED_MAX: usize = 4 * LIST_MAX;

/// An answer in the making.
struct Part<T, A> {
    entries: Vec<T>,
    limit: usize,
    looked: usize,
    /// What was looked at last.
    last: Option<A>,
}

impl<T, A> Part<T, A> {
    fn new(limit: usize) -> Result<Part<T, A>> {
        if limit == 0 {
            return Err(Error::Invalid("a list has room for at least one entry"));
        }
        Ok(Part { entries: Vec::new(), limit: limit.min(LIST_MAX), looked: 0, last: None })
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit || self.looked >= LOOKED_MAX
    }

    /// Something was looked at.
    fn passed(&mut self) {
        self.looked += 1;
    }

    /// It ended early: go on after `last`.
    fn go_on(self, last: A) -> Listing<T, A> {
        Listing { entries: self.entries, next: Some(last) }
    }

    fn end(self) -> Listing<T, A> {
        Listing { entries: self.entries, next: None }
    }
}

pub(crate) fn objects(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    part: ListPart<'_, ListedObject>,
) -> Result<Listing<ListedObject>> {
    let mut answer = Part::new(part.limit)?;
    let mut probe = Vec::new();
    if let Some(after) = part.after {
        key::push_object(&mut probe, after.group, after.oid);
    }
    let is_forward = part.direction == Direction::Forward;
    let mut cursor = match (is_forward, part.after) {
        (true, None) => Cursor::at(&shard.tree, pages, &probe)?,
        (true, Some(_)) => Cursor::at(&shard.tree, pages, &beyond(&probe))?,
        (false, None) => Cursor::before(&shard.tree, pages, &[key::BEYOND; OBJECT_BYTES + 1])?,
        (false, Some(_)) => Cursor::before(&shard.tree, pages, &probe)?,
    };
    while cursor.is_valid() {
        if let Some(last) = answer.last.filter(|_| answer.is_full()) {
            return Ok(answer.go_on(last));
        }
        cursor.key().copy_to(&mut probe);
        let (group, oid) = key::read_object(&probe).ok_or_else(|| unreadable("an object id"))?;
        probe.truncate(OBJECT_BYTES);
        let object = ListedObject { group, oid };
        if View::open(shard, pages, &probe, at)?.object_visible(&probe)? {
            answer.entries.push(object);
        }
        answer.passed();
        answer.last = Some(object);
        if is_forward {
            cursor.seek(&beyond(&probe))?;
        } else {
            cursor.seek_before(&probe)?;
        }
    }
    Ok(answer.end())
}

/// Goes over the children of `owner`, and has `each` look at them; where to go on, when it stopped early.
fn children<T>(
    view: &View<'_>,
    owner: &[u8],
    part: ListPart<'_, Key>,
    mut each: impl FnMut(&Children<'_>) -> Result<Option<T>>,
) -> Result<Listing<T, Key>> {
    let mut answer = Part::<T, ()>::new(part.limit)?;
    let is_forward = part.direction == Direction::Forward;
    let mut children =
        if is_forward { Children::below(view, owner, part.after)? } else { Children::down(view, owner, part.after)? };
    let mut last: Vec<u8> = Vec::new();
    while children.read()? {
        if answer.is_full() {
            return Ok(Listing { entries: answer.entries, next: Some(decode_child(&last, owner.len())?) });
        }
        answer.entries.extend(each(&children)?);
        answer.passed();
        last.clear();
        last.extend_from_slice(children.key());
        if is_forward {
            children.pass()?;
        } else if !children.back()? {
            break;
        }
    }
    Ok(Listing { entries: answer.entries, next: None })
}

pub(crate) fn dkeys(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid): (u32, ObjectId),
    part: ListPart<'_, Key>,
) -> Result<Listing<Key>> {
    let mut object = Vec::new();
    key::push_object(&mut object, group, oid);
    let view = View::open(shard, pages, &object, at)?;
    children(&view, &object, part, |children| {
        let is_visible = children.shows_dkey(&view) || view.dkey_visible(children.key())?;
        is_visible.then(|| decode_child(children.key(), OBJECT_BYTES)).transpose()
    })
}

pub(crate) fn akeys(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    (group, oid, dkey): (u32, ObjectId, &Key),
    part: ListPart<'_, Key>,
) -> Result<Listing<ListedAkey, Key>> {
    let mut prefix = Vec::new();
    key::push_object(&mut prefix, group, oid);
    let view = View::open(shard, pages, &prefix, at)?;
    key::push_key(&mut prefix, dkey);
    let above = view.hidden_below(&prefix, view.hidden)?;
    children(&view, &prefix, part, |children| {
        let akey = children.key();
        let hidden = view.hidden_below(akey, above)?;
        let single = view.single(akey, hidden)?.is_some();
        let record_bytes = view.record_bytes(akey, hidden)?;
        let is_visible = single || record_bytes > 0;
        let entry = || Ok(ListedAkey { akey: decode_child(akey, prefix.len())?, single, record_bytes });
        is_visible.then(entry).transpose()
    })
}

/// An array as it stood at an epoch.
pub(crate) struct Array<'a> {
    pub(crate) view: View<'a>,
    /// Key prefix.
    pub(crate) akey: Vec<u8>,
    /// Newest version that punches hide.
    pub(crate) hidden: Version,
}

impl<'a> Array<'a> {
    pub(crate) fn open(
        shard: &'a Shard,
        pages: &'a Pages,
        at: Epoch,
        (group, oid, dkey, akey): (u32, ObjectId, &Key, &Key),
    ) -> Result<Array<'a>> {
        let mut prefix = Vec::new();
        key::push_object(&mut prefix, group, oid);
        let view = View::open(shard, pages, &prefix, at)?;
        key::push_key(&mut prefix, dkey);
        let above = view.hidden_below(&prefix, view.hidden)?;
        key::push_key(&mut prefix, akey);
        let hidden = view.hidden_below(&prefix, above)?;
        Ok(Array { view, akey: prefix, hidden })
    }

    /// Hands the visible runs of `from..until` out, in order, until `each` says stop.
    fn runs(&self, from: u64, until: u64, mut each: impl FnMut(u64, u64, Candidate<'_>) -> Result<bool>) -> Result<()> {
        let mut sweep = self.view.sweep(&self.akey, self.hidden, from, until)?;
        while let Some((start, end, top)) = sweep.next_data()? {
            if !each(start, end, top)? {
                break;
            }
        }
        Ok(())
    }
}

fn listed(start: u64, end: u64, top: Candidate<'_>) -> Result<ListedExtent> {
    let (_, record_bytes, _) = value::read_data(top.value).ok_or_else(|| unreadable("array data"))?;
    Ok(ListedExtent { extent: Extent::new(start, end - start), epoch: top.version.epoch, record_bytes })
}

fn check_within(within: Extent) -> Result<()> {
    if within.is_valid() {
        return Ok(());
    }
    Err(Error::Invalid("an extent is not empty and ends within the index limit"))
}

pub(crate) fn extents(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    place: (u32, ObjectId, &Key, &Key),
    within: Extent,
    limit: usize,
) -> Result<Listing<ListedExtent, Extent>> {
    let mut answer = Part::new(limit)?;
    check_within(within)?;
    let array = Array::open(shard, pages, at, place)?;
    array.runs(within.start, within.end(), |start, end, top| {
        if answer.is_full() {
            answer.last = Some(Extent::new(start, within.end() - start));
            return Ok(false);
        }
        answer.entries.push(listed(start, end, top)?);
        Ok(true)
    })?;
    Ok(match answer.last {
        Some(left) => answer.go_on(left),
        None => answer.end(),
    })
}

/// From the end: looks at a window that ends where `within` does, and makes it wider until there are runs
/// enough in it, or narrower while there are too many.
pub(crate) fn extents_back(
    shard: &Shard,
    pages: &Pages,
    at: Epoch,
    place: (u32, ObjectId, &Key, &Key),
    within: Extent,
    limit: usize,
) -> Result<Listing<ListedExtent, Extent>> {
    let mut answer: Part<ListedExtent, Extent> = Part::new(limit)?;
    check_within(within)?;
    let array = Array::open(shard, pages, at, place)?;
    // A window of `narrow` records has too few runs, one of `wide` too many to look at.
    let (mut narrow, mut wide) = (0, within.count);
    let mut width = (limit as u64).min(within.count);
    loop {
        let from = within.end() - width;
        let mut runs = VecDeque::new();
        let mut looked = 0;
        array.runs(from, within.end(), |start, end, top| {
            looked += 1;
            if runs.len() > answer.limit {
                runs.pop_front();
            }
            runs.push_back(listed(start, end, top)?);
            Ok(looked < LOOKED_MAX)
        })?;
        if looked >= LOOKED_MAX && width > narrow + 1 {
            wide = width;
            width = narrow + (wide - narrow) / 2;
            continue;
        }
        // A run at the edge of the window may begin before it.
        let is_whole = |run: &ListedExtent| run.extent.start > from || from == within.start;
        let whole = runs.iter().filter(|run| is_whole(run)).count();
        if whole < answer.limit && width < wide.min(within.count) {
            narrow = width;
            width = if wide < within.count { narrow + (wide - narrow).div_ceil(2) } else { width.saturating_mul(8) };
            width = width.min(within.count);
            continue;
        }
        let skipped = runs.len() - whole.min(answer.limit);
        answer.entries.extend(runs.into_iter().skip(skipped).rev());
        let lowest = answer.entries.last().map_or(from, |run| run.extent.start);
        let is_all = from == within.start && skipped == 0;
        return Ok(match is_all || lowest == within.start {
            true => answer.end(),
            false => answer.go_on(Extent::new(within.start, lowest - within.start)),
        });
    }
}

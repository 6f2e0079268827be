//! What changed in a container between two moments.
//!
//! # Shape
//! Whatever differs was written or punched between the two, so only records of that span lead to akeys that
//! may differ; inner nodes note the highest epoch below them, and what did not change is not read. An akey so
//! found is read at both moments and compared.
//!
//! Cost: proportional to what changed; below a punch, to what it hides.
//!
//! # Always true
//! Both moments are retained, and aggregation keeps what tells them apart (`aggregate`).

use media::Pages;
use types::{Epoch, Extent, Key, ObjectId};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::extents::{Candidate, Sweep};
use crate::key::{self, AKEY, DKEY, OBJECT, OBJECT_BYTES, Place, Record, Version};
use crate::list::LIST_MAX;
use crate::shard::Shard;
use crate::update::beyond;
use crate::value;
use crate::view::{View, decode_child, read_place, unreadable};

/// Changed extents of one akey that are told apart; beyond, all between the first and the last is compared.
const RANGES_MAX: usize = 64 << 10;

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Added,
    Removed,
    Modified,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub group: u32,
    pub oid: ObjectId,
    pub dkey: Key,
    pub akey: Key,
    /// Records of the array; `None`: the single value.
    pub extent: Option<Extent>,
    pub kind: Kind,
}

/// Where a comparison goes on. Stays good whatever is written meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffAnchor {
    /// Composite key of an akey, or the first key to look at.
    key: Vec<u8>,
    /// What was compared of it already: nothing (0), or its single value and the array before `done - 1`.
    done: u64,
}

impl DiffAnchor {
    /// As bytes, for a message.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.done.to_le_bytes()[..], &self.key].concat()
    }

    /// `None` when the bytes are no anchor.
    pub fn from_bytes(bytes: &[u8]) -> Option<DiffAnchor> {
        let (done, key) = bytes.split_first_chunk::<8>()?;
        (key.len() <= key::COMPOSITE_BYTES_MAX + 1)
            .then(|| DiffAnchor { key: key.to_vec(), done: u64::from_le_bytes(*done) })
    }
}

/// Some of the differences between the moments `from` and `to`, and where to go on.
pub(crate) fn diff(
    shard: &Shard,
    pages: &Pages,
    (from, to): (Epoch, Epoch),
    after: Option<&DiffAnchor>,
    limit: usize,
) -> Result<(Vec<Difference>, Option<DiffAnchor>)> {
    if from >= to || limit == 0 {
        return Err(Error::Invalid(
            "a comparison goes from an earlier moment to a later one, and has room for an entry",
        ));
    }
    let mut walk = Walk { shard, pages, from, to, limit: limit.min(LIST_MAX), found: Vec::new(), first: 0 };
    let next = walk.run(after)?;
    Ok((walk.found, next))
}

struct Walk<'a> {
    shard: &'a Shard,
    pages: &'a Pages,
    from: Epoch,
    to: Epoch,
    limit: usize,
    found: Vec<Difference>,
    /// First entry of the akey at hand.
    first: usize,
}

impl Walk<'_> {
    fn run(&mut self, after: Option<&DiffAnchor>) -> Result<Option<DiffAnchor>> {
        let start = after.map_or(&[][..], |after| &after.key);
        let mut cursor = Cursor::at(&self.shard.tree, self.pages, start)?;
        let mut place = Place::default();
        // Owners of the present place that were punched between the moments.
        let mut punched = [false; 3];
        if start.is_empty() {
            cursor.seek_changed(self.from.0)?;
        }
        let mut key = Vec::new();
        // Records looked at without a find, so that an answer comes in time.
        let mut looked = 0;
        while cursor.is_valid() {
            cursor.key().copy_to(&mut key);
            let next = read_place(&key)?;
            let shared = place.shared(&next);
            place = next;
            self.look_for_punches(&place, shared, &mut punched)?;
            looked += 1;
            if self.found.len() >= self.limit || looked > 16 * LIST_MAX {
                return Ok(Some(DiffAnchor { key, done: 0 }));
            }
            let version = key::read_record(&key).ok_or_else(|| unreadable("a key"))?.version();
            let is_between = version.is_some_and(|v| v.epoch > self.from && v.epoch <= self.to);
            if place.ends[AKEY] > 0 && (is_between || punched != [false; 3]) {
                let done = after.filter(|after| after.key == place.owner(AKEY)).map_or(0, |after| after.done);
                if let Some(done) = self.compare(&place, done, punched != [false; 3])? {
                    return Ok(Some(DiffAnchor { key: place.owner(AKEY).to_vec(), done }));
                }
                cursor.seek(&beyond(place.owner(AKEY)))?;
            } else if punched[OBJECT] || punched[DKEY] {
                cursor.next()?;
            } else {
                cursor.next_changed(self.from.0)?;
            }
        }
        Ok(None)
    }

    fn look_for_punches(&self, place: &Place, shared: usize, punched: &mut [bool; 3]) -> Result<()> {
        if shared == 3 {
            return Ok(());
        }
        punched[shared..].fill(false);
        if place.ends[OBJECT] == 0 {
            return Ok(());
        }
        let view = View::open(self.shard, self.pages, place.owner(OBJECT), self.to)?;
        for level in (shared..3).filter(|&level| place.ends[level] > 0) {
            let newest = match level {
                OBJECT => view.hidden,
                _ => view.hidden_below(place.owner(level), Version::NEVER)?,
            };
            punched[level] = newest.epoch > self.from;
        }
        Ok(())
    }

    /// Compares what is left of an akey; how much is done when the answer is full.
    fn compare(&mut self, place: &Place, done: u64, is_punched: bool) -> Result<Option<u64>> {
        let (dkey, akey) = (place.owner(DKEY), place.owner(AKEY));
        let before = View::open(self.shard, self.pages, akey, self.from)?;
        let after = View::open(self.shard, self.pages, akey, self.to)?;
        let (hidden_before, hidden_after) = (before.hidden_akey(dkey, akey)?, after.hidden_akey(dkey, akey)?);
        self.first = self.found.len();
        if done == 0 {
            let old = before.single(akey, hidden_before)?.map(|(version, _)| version);
            let new = after.single(akey, hidden_after)?.map(|(version, _)| version);
            if let Some(kind) = kind_of(old, new) {
                self.push(place, None, kind)?;
            }
        }
        for (start, end) in self.ranges(akey, is_punched)? {
            let start = start.max(done.saturating_sub(1));
            if start >= end {
                continue;
            }
            let mut old = Runs::new(before.sweep(akey, hidden_before, start, end)?)?;
            let mut new = Runs::new(after.sweep(akey, hidden_after, start, end)?)?;
            let mut at = start;
            while let Some(next) = old.next_edge(at).into_iter().chain(new.next_edge(at)).min() {
                if let Some(kind) = kind_of(old.top(at), new.top(at)) {
                    if self.found.len() >= self.limit && !self.joins(at, kind) {
                        return Ok(Some(at + 1));
                    }
                    self.push(place, Some(Extent::new(at, next - at)), kind)?;
                }
                at = next;
                old.pass(at)?;
                new.pass(at)?;
            }
        }
        Ok(None)
    }

    /// Ranges of indices of an akey that may differ, ascending and apart.
    fn ranges(&self, akey: &[u8], is_punched: bool) -> Result<Vec<(u64, u64)>> {
        if is_punched {
            return Ok(vec![(0, u64::MAX)]);
        }
        let mut ranges = Vec::new();
        let mut key = Vec::new();
        let mut cursor = Cursor::at(&self.shard.tree, self.pages, akey)?;
        while cursor.starts_with(akey) {
            cursor.key().copy_to(&mut key);
            if let Some(Record::Array { start, version, .. }) = key::read_record(&key)
                && version.epoch > self.from
                && version.epoch <= self.to
            {
                let count = value::read_count(cursor.value()).ok_or_else(|| unreadable("an extent"))?;
                ranges.push((start, start.saturating_add(count)));
                if ranges.len() >= RANGES_MAX {
                    join(&mut ranges);
                    if ranges.len() > RANGES_MAX / 2
                        && let (Some(first), Some(last)) = (ranges.first(), ranges.last())
                    {
                        ranges = vec![(first.0, last.1)];
                    }
                }
            }
            cursor.next_changed(self.from.0)?;
        }
        join(&mut ranges);
        Ok(ranges)
    }

    /// Whether what is at index `at` goes on the last entry.
    fn joins(&self, at: u64, kind: Kind) -> bool {
        let last = self.found[self.first..].last();
        last.is_some_and(|last| last.kind == kind && last.extent.is_some_and(|extent| extent.end() == at))
    }

    fn push(&mut self, place: &Place, extent: Option<Extent>, kind: Kind) -> Result<()> {
        if let Some(added) = extent
            && self.joins(added.start, kind)
            && let Some(last) = self.found.last_mut()
            && let Some(extent) = &mut last.extent
        {
            extent.count += added.count;
            return Ok(());
        }
        let (group, oid) = key::read_object(&place.key).ok_or_else(|| unreadable("an object id"))?;
        let dkey = decode_child(place.owner(DKEY), OBJECT_BYTES)?;
        let akey = decode_child(place.owner(AKEY), place.ends[DKEY])?;
        self.found.push(Difference { group, oid, dkey, akey, extent, kind });
        Ok(())
    }
}

fn kind_of<T: PartialEq>(old: Option<T>, new: Option<T>) -> Option<Kind> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(Kind::Added),
        (Some(_), None) => Some(Kind::Removed),
        (Some(old), Some(new)) => (old != new).then_some(Kind::Modified),
    }
}

/// Sorts ranges and makes one of those that touch.
fn join(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        if touches {
            last.1 = last.1.max(next.1);
        }
        touches
    });
}

/// Runs of visible data, one at a time.
struct Runs<'a> {
    sweep: Sweep<'a>,
    current: Option<(u64, u64, Candidate<'a>)>,
}

impl<'a> Runs<'a> {
    fn new(mut sweep: Sweep<'a>) -> Result<Runs<'a>> {
        let current = sweep.next_data()?;
        Ok(Runs { sweep, current })
    }

    /// What is visible at `at`: the version and extent it comes from.
    fn top(&self, at: u64) -> Option<(Version, u64)> {
        self.current.filter(|(start, _, _)| *start <= at).map(|(_, _, top)| (top.version, top.start))
    }

    /// First index after `at` where this may change.
    fn next_edge(&self, at: u64) -> Option<u64> {
        self.current.map(|(start, end, _)| if start > at { start } else { end })
    }

    /// Moves to the run at or after `at`.
    fn pass(&mut self, at: u64) -> Result<()> {
        while self.current.is_some_and(|(_, end, _)| end <= at) {
            self.current = self.sweep.next_data()?;
        }
        Ok(())
    }
}

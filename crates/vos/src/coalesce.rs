//! Coalescing: many small extents of an array become few large ones, and what is covered of a large one
//! gives its blocks back.
//!
//! # What may be joined
//! Two extents whose versions have the same first retained moment are seen together or not at all: between
//! them nothing can be read. So what is on top at that moment may be written anew as one extent, with the
//! newest version of its parts. Where a part is not on top, something newer of the same moment covers it,
//! so nothing older appears when the part goes. Versions of different moments are never joined (K17).
//!
//! # Shape
//! A [`Walk`] follows what was written since the last one, as aggregation does, and behind it: only what is
//! aggregated already. Around each record it looks at a *region*, an aligned mebibyte, at the record's
//! moment. Extents that lie within the region whole, and are small or mostly covered, are parts; each run of
//! them without a gap becomes an extent. All of a region's parts go in one step, so none is left that a
//! newer, joined one should cover.
//!
//! ```text
//! look -> Coalesce: parts, runs -> blocks reserved -> copy().await: read, verify, write
//!      -> Store::coalesce: parts still there? -> log record -> parts out, runs in
//! ```
//!
//! # Not here
//! When to do it: the engine. An extent that reaches out of its region is left alone, unless it was just
//! written; in time it is covered whole.

use std::collections::BTreeMap;

use media::Pages;
use types::{ContainerId, Epoch, Extent};

use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::{self, AKEY, DATA, DKEY, OBJECT, Place, Record, Version};
use crate::request::Source;
use crate::shard::{Shard, Walk};
use crate::value;
use crate::view::{View, read_place, unreadable};

/// What is joined at most: as much as a file's chunk holds.
const REGION_BYTES: u64 = 1 << 20;
/// Extents from this size on stay as they are, unless more than half of one is covered: reading it costs
/// little more than a part of a larger one would.
const LARGE_BYTES: u64 = 128 << 10;
/// Pieces that are looked at together: bounds the time of a step, and the size of its record.
const PIECES_MAX: usize = 512;
/// Extents out of sight that one look goes past; what is behind them is looked at next.
const PATIENCE: u32 = 1024;
/// Records that a step goes past.
const RECORDS_PER_STEP: u32 = 256;

/// What a step of a walk came to.
pub(crate) enum Looked {
    Found(Plan),
    More,
    End,
}

/// What may be joined in a region.
pub(crate) struct Plan {
    /// Key prefix.
    pub(crate) akey: Vec<u8>,
    pub(crate) record_bytes: u32,
    /// What goes.
    pub(crate) parts: Vec<(Extent, Version)>,
    /// What comes.
    pub(crate) runs: Vec<PlannedRun>,
    /// Inline payloads that sources of runs name.
    pub(crate) inline: Vec<u8>,
}

/// An extent to be made.
pub(crate) struct PlannedRun {
    pub(crate) extent: Extent,
    /// The newest of its parts.
    pub(crate) version: Version,
    /// Its bytes, in order.
    pub(crate) sources: Vec<Source>,
}

/// One step: looks at some records, and at one region at most.
pub(crate) fn look(shard: &Shard, pages: &Pages, walk: &mut Walk) -> Result<Looked> {
    let mut cursor = Cursor::at(&shard.tree, pages, &walk.from)?;
    if walk.from.is_empty() {
        cursor.seek_changed(walk.since.0)?;
    }
    let mut key = Vec::new();
    for _ in 0..RECORDS_PER_STEP {
        if !cursor.is_valid() {
            return Ok(Looked::End);
        }
        cursor.key().copy_to(&mut key);
        if let Some(Record::Array { hole: false, class, start, version }) = key::read_record(&key)
            && walk.since < version.epoch
            && version.epoch <= walk.until
        {
            let place = read_place(&key)?;
            let moment = shard.retained(version.epoch, walk.until);
            if (walk.akey.as_slice(), walk.class) != (place.owner(AKEY), class) {
                (walk.akey, walk.class) = (place.owner(AKEY).to_vec(), class);
                walk.seen.clear();
            }
            let seen = walk.seen.get(&moment).copied().unwrap_or(0);
            if start >= seen {
                let (count, record_bytes, _) =
                    value::read_data(cursor.value()).ok_or_else(|| unreadable("array data"))?;
                let within = region(start, count, record_bytes, seen);
                let (plan, end) = Region { shard, pages, place: &place, moment, walk, record_bytes }.plan(within)?;
                // The same record again: the region may have ended before it.
                walk.from.clone_from(&key);
                walk.seen.insert(moment, end);
                return Ok(plan.map_or(Looked::More, Looked::Found));
            }
        }
        cursor.next_changed(walk.since.0)?;
    }
    if !cursor.is_valid() {
        return Ok(Looked::End);
    }
    cursor.key().copy_to(&mut walk.from);
    Ok(Looked::More)
}

/// The aligned region around an extent, from `seen` on.
fn region(start: u64, count: u64, record_bytes: u32, seen: u64) -> std::ops::Range<u64> {
    let span = (REGION_BYTES / u64::from(record_bytes.max(1))).max(1);
    let end = start.saturating_add(count).checked_next_multiple_of(span).unwrap_or(u64::MAX);
    (start / span * span).max(seen)..end
}

struct Region<'a> {
    shard: &'a Shard,
    pages: &'a Pages,
    place: &'a Place,
    moment: Epoch,
    walk: &'a Walk,
    record_bytes: u32,
}

/// A visible piece of an extent.
struct Seen<'a> {
    start: u64,
    end: u64,
    of: (u64, Version),
    value: &'a [u8],
}

/// An extent that is on top somewhere in a region.
struct Top {
    end: u64,
    /// Records of it that can be seen.
    visible: u64,
}

impl<'a> Region<'a> {
    /// What to join in `within`, and up to where was looked.
    fn plan(&self, within: std::ops::Range<u64>) -> Result<(Option<Plan>, u64)> {
        let (pieces, end) = self.pieces(within.clone())?;
        let mut tops: BTreeMap<(u64, Version), Top> = BTreeMap::new();
        for piece in &pieces {
            let count = value::read_count(piece.value).ok_or_else(|| unreadable("an extent"))?;
            let top = tops.entry(piece.of).or_insert(Top { end: piece.of.0.saturating_add(count), visible: 0 });
            top.visible += piece.end - piece.start;
        }
        tops.retain(|of, top| self.is_part(*of, top, within.start..end));
        let mut runs: Vec<Vec<&Seen<'a>>> = Vec::new();
        let mut room = 0;
        for piece in pieces.iter().filter(|piece| tops.contains_key(&piece.of)) {
            let bytes = self.bytes(piece.end - piece.start);
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|last| last.end == piece.start) && bytes <= room => {
                    run.push(piece);
                    room -= bytes;
                }
                _ => {
                    runs.push(vec![piece]);
                    room = REGION_BYTES.saturating_sub(bytes);
                }
            }
        }
        // What would only be written as it is stays.
        runs.retain(|run| {
            let [only] = run[..] else { return true };
            let whole = tops.get(&only.of).is_some_and(|top| (top.end, only.of.0) == (only.end, only.start));
            if whole {
                tops.remove(&only.of);
            }
            !whole
        });
        let stored: u64 = tops.iter().map(|(of, top)| top.end - of.0).sum();
        let kept: u64 = runs.iter().flatten().map(|piece| piece.end - piece.start).sum();
        if runs.is_empty() || tops.len() < 2 * runs.len() && stored < 2 * kept {
            return Ok((None, end));
        }
        let mut inline = Vec::new();
        let runs = runs.iter().map(|run| self.planned(run, &mut inline)).collect::<Result<_>>()?;
        let parts = tops.iter().map(|(of, top)| (Extent::new(of.0, top.end - of.0), of.1)).collect();
        let akey = self.place.owner(AKEY).to_vec();
        Ok((Some(Plan { akey, record_bytes: self.record_bytes, parts, runs, inline }), end))
    }

    /// The visible data of a region, as far as one step looks, and how far that is.
    fn pieces(&self, within: std::ops::Range<u64>) -> Result<(Vec<Seen<'a>>, u64)> {
        let view = View::open(self.shard, self.pages, self.place.owner(OBJECT), self.moment)?;
        let akey = self.place.owner(AKEY);
        let hidden = view.hidden_akey(self.place.owner(DKEY), akey)?;
        let mut sweep = view.sweep_in_parts(akey, hidden, within.start, within.end, PATIENCE)?;
        let mut pieces = Vec::new();
        while let Some((start, end, top)) = sweep.next_data()? {
            if pieces.len() >= PIECES_MAX {
                return Ok((pieces, start));
            }
            pieces.push(Seen { start, end, of: (top.start, top.version), value: top.value });
        }
        Ok((pieces, sweep.stalled().unwrap_or(within.end)))
    }

    fn bytes(&self, records: u64) -> u64 {
        records.saturating_mul(self.record_bytes.into())
    }

    /// Whether an extent may be rewritten: whole in the region, of the region's moment, and small or mostly
    /// covered.
    fn is_part(&self, of: (u64, Version), top: &Top, within: std::ops::Range<u64>) -> bool {
        let stored = top.end - of.0;
        of.0 >= within.start
            && top.end <= within.end
            && of.1.epoch <= self.walk.until
            && self.shard.retained(of.1.epoch, self.walk.until) == self.moment
            && (self.bytes(stored) < LARGE_BYTES || top.visible * 2 < stored)
    }

    fn planned(&self, run: &[&Seen<'a>], inline: &mut Vec<u8>) -> Result<PlannedRun> {
        let mut planned = PlannedRun {
            extent: Extent::new(run[0].start, run[run.len() - 1].end - run[0].start),
            version: Version::NEVER,
            sources: Vec::with_capacity(run.len()),
        };
        for piece in run {
            let (_, record_bytes, stored) = value::read_data(piece.value).ok_or_else(|| unreadable("array data"))?;
            if record_bytes != self.record_bytes {
                return Err(unreadable("an array with records of two sizes"));
            }
            planned.version = planned.version.max(piece.of.1);
            let part = self.bytes(piece.start - piece.of.0)..self.bytes(piece.end - piece.of.0);
            planned.sources.push(stored.source(part, inline));
        }
        Ok(planned)
    }
}

/// The first container that has something to look at, and its walk.
pub(crate) fn next<'a>(shards: impl Iterator<Item = &'a Shard>) -> Option<ContainerId> {
    shards.filter(|shard| shard.wants_coalescing()).min_by_key(|shard| shard.coalesced).map(|shard| shard.id)
}

/// The key of an array extent.
pub(crate) fn extent_key(akey: &[u8], extent: Extent, version: Version) -> Vec<u8> {
    let mut key = akey.to_vec();
    key::push_extent(&mut key, DATA, extent);
    key::push_version(&mut key, version);
    key
}

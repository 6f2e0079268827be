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
//! moment. Extents that lie within the look whole, and are small or mostly covered, are *parts*; each run of
//! them without a gap becomes an extent. All of a look's parts go in one step, so none is left that a
//! newer, joined one should cover.
//!
//! Others of the same moment are *guests*: what can be seen of them between parts is copied along, and they stay,
//! below the run, because their versions are older than its. So a large extent under many small ones does not
//! keep these apart, and neither does one that reaches out of the look. A run copies no more bytes of guests
//! than of parts, where a part counts for a block at least, and never more than a checksum chunk at a time.
//! A guest that the swap would leave with nothing on top goes with the parts.
//!
//! ```text
//! look -> Coalesce: parts, guests, runs -> blocks reserved -> copy().await: read, verify, write
//!      -> Store::coalesce: parts still there, guests still seen? -> log record -> parts out, runs in
//! ```
//!
//! # Always true
//! 1. A step leaves no extent that nobody can see: of a guest that stays, a place is known where it is on top,
//!    and looked at again in the step that swaps. A guest of which that is not found out in a bounded time is none.
//! 2. Joining ends. Take the number of pieces that can be seen of the array at the moment, and then the bytes
//!    stored. A step that is worth it removes twice as many extents as come, or halves the bytes. In the
//!    first case each run becomes one piece of several: of every extent that goes it has a piece at least, and of
//!    guests it may cut the first and the last, which counts for nothing. So there are fewer pieces. In the other
//!    there are no more, for nothing that was covered appears, and fewer bytes. Neither can go on for ever.
//!
//! # Not here
//! When to do it: the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use media::Pages;
use types::{ContainerId, Epoch, Extent};

use crate::cursor::Cursor;
use crate::error::Result;
use crate::extents::Sweep;
use crate::key::{self, AKEY, DATA, DKEY, OBJECT, Place, Record, Version};
use crate::request::Source;
use crate::shard::{Shard, Walk};
use crate::value;
use crate::view::{View, read_place, unreadable};

/// Records that a step goes past.
const RECORDS_PER_STEP: u32 = 256;
/// Guests of one look: each costs a look at the rest of it, and one more when extents are swapped.
const GUESTS_MAX: usize = 64;

/// How much of an array a step of the walk over small extents looks at, and what is small.
///
/// The defaults are what a target uses. Tests take smaller ones, so that a few records meet every edge.
#[derive(Clone, Copy, Debug)]
pub struct JoinLimits {
    /// What is joined at most: as much as a file's chunk holds.
    pub region_bytes: u64,
    /// Extents from this size on stay as they are, unless more than half of one is covered: reading it costs
    /// little more than a part of a larger one would.
    pub large_bytes: u64,
    /// Bytes of guests that each part pays for at least: what any device writes for it anyway.
    pub part_bytes: u64,
    /// Bytes of guests between two parts: reading more than these from where they are costs little.
    pub gap_bytes: u64,
    /// Pieces that are looked at together: bounds the time of a step, and the size of its record.
    pub pieces: usize,
    /// Extents out of sight that one look goes past; what is behind them is looked at next.
    pub patience: u32,
    /// Runs that one look goes past to learn where its guests can be seen.
    pub judged: usize,
}

impl Default for JoinLimits {
    fn default() -> Self {
        JoinLimits {
            region_bytes: 1 << 20,
            large_bytes: 128 << 10,
            part_bytes: media::BLOCK_BYTES as u64,
            gap_bytes: types::CHECKSUM_CHUNK_BYTES as u64,
            pieces: 512,
            patience: PATIENCE,
            judged: 1024,
        }
    }
}

const PATIENCE: u32 = 1024;

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
    /// Of what stays below the runs.
    pub(crate) witnesses: Vec<Witness>,
    /// What comes.
    pub(crate) runs: Vec<PlannedRun>,
    /// Inline payloads that sources of runs name.
    pub(crate) inline: Vec<u8>,
}

/// A place where a guest is on top, outside of the runs that cover the rest of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    of: Of,
    index: u64,
}

impl Witness {
    /// Whether the guest is still on top there, at the first moment that can be read now.
    pub(crate) fn is_true(&self, shard: &Shard, pages: &Pages, akey: &[u8]) -> Result<bool> {
        let moment = shard.retained(self.of.1.epoch, shard.horizon);
        let sight = Sight::open(shard, pages, &read_place(akey)?, moment, PATIENCE)?;
        Ok(matches!(sight.find(self.of, self.index..self.index.saturating_add(1), &mut 1)?, Found::At(_)))
    }
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
pub(crate) fn look(shard: &Shard, pages: &Pages, walk: &mut Walk, limits: &JoinLimits) -> Result<Looked> {
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
            // Not what was the horizon when the walk began: nobody reads there any more.
            let moment = shard.retained(version.epoch, shard.horizon);
            if (walk.akey.as_slice(), walk.class) != (place.owner(AKEY), class) {
                (walk.akey, walk.class) = (place.owner(AKEY).to_vec(), class);
                walk.seen.clear();
            }
            let seen = walk.seen.get(&moment).copied().unwrap_or(0);
            if start >= seen {
                let (count, record_bytes, _) =
                    value::read_data(cursor.value()).ok_or_else(|| unreadable("array data"))?;
                let within = region(start, count, (limits.region_bytes / u64::from(record_bytes.max(1))).max(1), seen);
                let region = Region { shard, pages, place: &place, moment, walk, record_bytes, limits };
                let (plan, end) = region.plan(within)?;
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

/// The aligned region of `span` records around an extent, from `seen` on.
fn region(start: u64, count: u64, span: u64, seen: u64) -> Range<u64> {
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
    limits: &'a JoinLimits,
}

/// Start and version: tells the extents of an akey apart that can be seen.
type Of = (u64, Version);

/// A visible piece of an extent.
struct Seen<'a> {
    start: u64,
    end: u64,
    of: Of,
    value: &'a [u8],
}

/// An extent that is on top somewhere in a look.
struct Top {
    end: u64,
    /// Records of it that can be seen.
    visible: u64,
    role: Role,
}

/// What becomes of an extent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It goes, and runs stand for what is seen of it.
    Part,
    /// It may be copied where it lies between parts; with a place outside of the look where it is seen, if there
    /// is one.
    Guest(Option<u64>),
    Stays,
}

/// Pieces that become one extent.
struct Draft<'p, 'a> {
    pieces: Vec<&'p Seen<'a>>,
    /// Pieces of parts among them.
    parts: usize,
    /// The newest of its parts.
    version: Version,
    bytes: u64,
    /// Bytes of guests that it may still take in.
    credit: u64,
}

impl<'p, 'a> Draft<'p, 'a> {
    /// The same behind a run and a gap, which it can pay.
    fn behind(self, before: Option<Draft<'p, 'a>>, gap: Gap<'p, 'a>) -> Draft<'p, 'a> {
        let nothing = || Draft { pieces: Vec::new(), parts: 0, version: Version::NEVER, bytes: 0, credit: 0 };
        let Draft { mut pieces, parts, version, bytes, credit } = before.unwrap_or_else(nothing);
        pieces.extend(gap.pieces);
        pieces.extend(self.pieces);
        Draft {
            pieces,
            parts: parts + self.parts,
            version: version.max(self.version),
            bytes: bytes.saturating_add(gap.bytes).saturating_add(self.bytes),
            credit: credit.saturating_add(self.credit).saturating_sub(gap.bytes),
        }
    }
}

/// Pieces of guests, one at the other.
#[derive(Default)]
struct Gap<'p, 'a> {
    pieces: Vec<&'p Seen<'a>>,
    bytes: u64,
    version: Version,
}

impl<'a> Region<'a> {
    /// What to join in `within`, and up to where was looked.
    fn plan(&self, within: Range<u64>) -> Result<(Option<Plan>, u64)> {
        let sight = Sight::open(self.shard, self.pages, self.place, self.moment, self.limits.patience)?;
        let (pieces, end) = self.pieces(&sight, within.clone())?;
        let mut tops = self.tops(&sight, &pieces, within.start..end)?;
        let mut runs = self.runs(&pieces, &tops);
        for run in runs.iter_mut().filter(|run| run.parts == 1) {
            // Nothing is joined: guests would be copied for nothing.
            run.pieces.retain(|piece| tops.get(&piece.of).is_some_and(|top| top.role == Role::Part));
        }
        // What would only be written as it is stays.
        runs.retain(|run| {
            let [only] = run.pieces[..] else { return true };
            let is_whole = |top: &Top| (top.end, only.of.0) == (only.end, only.start);
            tops.get_mut(&only.of).filter(|top| is_whole(top)).map(|top| top.role = Role::Stays).is_none()
        });
        let witnesses = judge(&pieces, &mut tops, &runs);
        tops.retain(|_, top| top.role == Role::Part);
        let stored: u64 = tops.iter().map(|(of, top)| top.end - of.0).sum();
        let kept: u64 = runs.iter().flat_map(|run| &run.pieces).map(|piece| piece.end - piece.start).sum();
        if runs.is_empty() || tops.len() < 2 * runs.len() && stored < 2 * kept {
            return Ok((None, end));
        }
        let mut inline = Vec::new();
        let runs = runs.iter().map(|run| self.planned(run, &mut inline)).collect::<Result<_>>()?;
        let parts = tops.iter().map(|(of, top)| (Extent::new(of.0, top.end - of.0), of.1)).collect();
        let akey = self.place.owner(AKEY).to_vec();
        Ok((Some(Plan { akey, record_bytes: self.record_bytes, parts, witnesses, runs, inline }), end))
    }

    /// The visible data of a region, as far as one step looks, and how far that is.
    fn pieces(&self, sight: &Sight<'a>, within: Range<u64>) -> Result<(Vec<Seen<'a>>, u64)> {
        let mut sweep = sight.sweep(within.clone())?;
        let mut pieces: Vec<Seen<'a>> = Vec::new();
        let mut steps = 0;
        while let Some((start, end, top)) = sweep.next_data()? {
            let of = (top.start, top.version);
            steps += 1;
            if steps > 2 * self.limits.pieces {
                return Ok((pieces, start));
            }
            if let Some(last) = pieces.last_mut().filter(|last| last.end == start && last.of == of) {
                // A run that came in parts.
                last.end = end;
                continue;
            }
            if pieces.len() >= self.limits.pieces {
                return Ok((pieces, start));
            }
            pieces.push(Seen { start, end, of, value: top.value });
        }
        Ok((pieces, sweep.stalled().unwrap_or(within.end)))
    }

    /// The extents that pieces are of, and what may become of each.
    fn tops(&self, sight: &Sight<'a>, pieces: &[Seen<'a>], within: Range<u64>) -> Result<BTreeMap<Of, Top>> {
        let mut tops: BTreeMap<Of, Top> = BTreeMap::new();
        for piece in pieces {
            let count = value::read_count(piece.value).ok_or_else(|| unreadable("an extent"))?;
            let end = piece.of.0.saturating_add(count);
            let top = tops.entry(piece.of).or_insert(Top { end, visible: 0, role: Role::Stays });
            top.visible += piece.end - piece.start;
        }
        let (mut guests, mut budget) = (0, self.limits.judged);
        for (of, top) in &mut tops {
            let epoch = of.1.epoch;
            if epoch > self.walk.until || self.shard.retained(epoch, self.shard.horizon) != self.moment {
                continue;
            }
            let stored = top.end - of.0;
            let is_whole = of.0 >= within.start && top.end <= within.end;
            if is_whole && (self.bytes(stored) < self.limits.large_bytes || top.visible * 2 < stored) {
                top.role = Role::Part;
            } else if guests < GUESTS_MAX {
                guests += 1;
                // Behind the look first: there it was not joined yet.
                let mut found = Found::Nowhere;
                for beside in [within.end.max(of.0)..top.end, of.0..within.start.min(top.end)] {
                    if found == Found::Nowhere && !beside.is_empty() {
                        found = sight.find(*of, beside, &mut budget)?;
                    }
                }
                top.role = match found {
                    Found::At(index) => Role::Guest(Some(index)),
                    Found::Nowhere => Role::Guest(None),
                    Found::Unknown => Role::Stays,
                };
            }
        }
        Ok(tops)
    }

    /// Parts one at the other, with the guests between them that are worth it.
    fn runs<'p>(&self, pieces: &'p [Seen<'a>], tops: &BTreeMap<Of, Top>) -> Vec<Draft<'p, 'a>> {
        let mut runs: Vec<Draft<'p, 'a>> = Vec::new();
        // The run that may go on, and what lies behind it or before the next.
        let mut open: Option<Draft<'p, 'a>> = None;
        let mut gap = Gap::default();
        let mut end = None;
        for piece in pieces {
            let role = tops.get(&piece.of).map_or(Role::Stays, |top| top.role);
            if end != Some(piece.start) || role == Role::Stays {
                self.close(&mut runs, open.take(), std::mem::take(&mut gap));
            }
            end = Some(piece.end);
            let bytes = self.bytes(piece.end - piece.start);
            match role {
                Role::Stays => {}
                Role::Guest(_) => {
                    gap.pieces.push(piece);
                    gap.bytes = gap.bytes.saturating_add(bytes);
                    gap.version = gap.version.max(piece.of.1);
                }
                Role::Part => {
                    let part = Draft {
                        pieces: vec![piece],
                        parts: 1,
                        version: piece.of.1,
                        bytes,
                        credit: bytes.max(self.limits.part_bytes),
                    };
                    let between = std::mem::take(&mut gap);
                    let before = open.take();
                    open = Some(if self.can_join(before.as_ref(), &between, &part) {
                        part.behind(before, between)
                    } else {
                        runs.extend(before);
                        part
                    });
                }
            }
        }
        self.close(&mut runs, open, gap);
        runs
    }

    /// Whether a run (or none), what lies behind it, and a part become one.
    fn can_join(&self, before: Option<&Draft<'_, 'a>>, gap: &Gap<'_, 'a>, part: &Draft<'_, 'a>) -> bool {
        let of_before = |what: fn(&Draft<'_, 'a>) -> u64| before.map_or(0, what);
        let bytes = of_before(|run| run.bytes).saturating_add(gap.bytes).saturating_add(part.bytes);
        let credit = of_before(|run| run.credit).saturating_add(part.credit);
        let version = before.map_or(part.version, |run| run.version.max(part.version));
        bytes <= self.limits.region_bytes && self.fits(gap, credit, version)
    }

    /// Ends a run, with what lies behind it, if that is worth it.
    fn close<'p>(&self, runs: &mut Vec<Draft<'p, 'a>>, run: Option<Draft<'p, 'a>>, gap: Gap<'p, 'a>) {
        let Some(mut run) = run else { return };
        let has_room = run.bytes.saturating_add(gap.bytes) <= self.limits.region_bytes;
        if has_room && self.fits(&gap, run.credit, run.version) {
            run.pieces.extend(gap.pieces);
        }
        runs.push(run);
    }

    /// Whether a run of this version that can pay `credit` takes a gap in. Of the same version is not older: the
    /// guest, which stays, and the run could not be told apart.
    fn fits(&self, gap: &Gap<'_, 'a>, credit: u64, version: Version) -> bool {
        gap.pieces.is_empty() || gap.bytes <= credit.min(self.limits.gap_bytes) && gap.version < version
    }

    fn bytes(&self, records: u64) -> u64 {
        records.saturating_mul(self.record_bytes.into())
    }

    fn planned(&self, run: &Draft<'_, 'a>, inline: &mut Vec<u8>) -> Result<PlannedRun> {
        let (Some(first), Some(last)) = (run.pieces.first(), run.pieces.last()) else {
            unreachable!("a run has a part");
        };
        let mut planned = PlannedRun {
            extent: Extent::new(first.start, last.end - first.start),
            version: run.version,
            sources: Vec::with_capacity(run.pieces.len()),
        };
        for piece in &run.pieces {
            let (_, record_bytes, stored) = value::read_data(piece.value).ok_or_else(|| unreadable("array data"))?;
            if record_bytes != self.record_bytes {
                return Err(unreadable("an array with records of two sizes"));
            }
            let part = self.bytes(piece.start - piece.of.0)..self.bytes(piece.end - piece.of.0);
            planned.sources.push(stored.source(part, inline));
        }
        Ok(planned)
    }
}

/// Says of each guest that runs copy where it can still be seen; one that could be seen nowhere becomes a part.
fn judge(pieces: &[Seen<'_>], tops: &mut BTreeMap<Of, Top>, runs: &[Draft<'_, '_>]) -> Vec<Witness> {
    let copied: BTreeSet<u64> = runs.iter().flat_map(|run| &run.pieces).map(|piece| piece.start).collect();
    // Outside of the runs: a place in the look for each, and whether a run has a piece of it.
    let mut left: BTreeMap<Of, (Option<u64>, bool)> = BTreeMap::new();
    for piece in pieces {
        let (seen, is_copied) = left.entry(piece.of).or_default();
        match copied.contains(&piece.start) {
            true => *is_copied = true,
            false => *seen = Some(piece.start),
        }
    }
    let mut witnesses = Vec::new();
    for (of, top) in tops {
        let Role::Guest(outside) = top.role else { continue };
        match left.get(of) {
            Some((inside, true)) => match outside.or(*inside) {
                Some(index) => witnesses.push(Witness { of: *of, index }),
                None => top.role = Role::Part,
            },
            _ => top.role = Role::Stays,
        }
    }
    witnesses
}

/// An array as it stands at a moment, for looks of bounded cost.
struct Sight<'a> {
    view: View<'a>,
    akey: Vec<u8>,
    hidden: Version,
    patience: u32,
}

/// Whether something is on top.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    At(u64),
    Nowhere,
    /// Nowhere as far as was looked.
    Unknown,
}

impl<'a> Sight<'a> {
    fn open(shard: &'a Shard, pages: &'a Pages, place: &Place, at: Epoch, patience: u32) -> Result<Sight<'a>> {
        let view = View::open(shard, pages, place.owner(OBJECT), at)?;
        let akey = place.owner(AKEY).to_vec();
        let hidden = view.hidden_akey(place.owner(DKEY), &akey)?;
        Ok(Sight { view, akey, hidden, patience })
    }

    fn sweep(&self, within: Range<u64>) -> Result<Sweep<'a>> {
        self.view.sweep_in_parts(&self.akey, self.hidden, within.start, within.end, self.patience)
    }

    /// The first index in `within` where `of` is on top, as far as `budget` runs go.
    fn find(&self, of: Of, within: Range<u64>, budget: &mut usize) -> Result<Found> {
        let mut sweep = self.sweep(within)?;
        while let Some((start, _, top)) = sweep.next()? {
            if (top.start, top.version) == of && !top.hole {
                return Ok(Found::At(start));
            }
            match budget.checked_sub(1) {
                Some(left) => *budget = left,
                None => return Ok(Found::Unknown),
            }
        }
        Ok(if sweep.stalled().is_some() { Found::Unknown } else { Found::Nowhere })
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

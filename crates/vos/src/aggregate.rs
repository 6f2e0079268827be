//! Aggregation: removes the versions that no retained moment can see, a step at a time.
//!
//! # What may go
//! A container can be read at its snapshots, and at every moment from its *horizon* on. Whatever is not
//! visible at the first of these at or after its own epoch is visible at none of them: what hides it there
//! hides it ever after. That one rule covers single values, extents, holes, and what punches hide. A hole
//! also goes when nothing older is left below it, and a punch when nothing older is left in its scope.
//!
//! # Shape
//! A pass looks at what was written in `since..=until` and at what lies under it. Inner nodes note the
//! highest epoch below them, so what did not change is not read: the tree itself is the queue of what is to
//! be done. A step looks at a bounded number of records and hands a [`Carry`] to the next. Both are in its
//! log record, so that doing a step again removes the same.
//!
//! # Always true
//! 1. A read at a retained moment answers the same before and after a step (K17).
//! 2. Nothing is written at or before the horizon, so what a pass has looked at stays as it was.
//!
//! # Not here
//! When to do it, and where the horizon lies: the engine.

use std::collections::BTreeSet;

use media::Pages;
use types::{ContainerId, Epoch};

use crate::cursor::Cursor;
use crate::error::Result;
use crate::extents::{Candidate, Merge};
use crate::key::{
    self, AKEY, DATA, DKEY, HOLE, LIFE, OBJECT, OBJECT_BYTES, OBJECT_FLAG, OBJECT_PUNCH, Place, Record, VERSION_BYTES,
    Version, push_extent,
};
use crate::request::BulkList;
use crate::shard::{Below, Carry, InPass, NONE_KEPT, Shard};
use crate::update;
use crate::value;
use crate::view::{View, read_place, unreadable};

/// Covered extents that one look at a run goes past.
const PATIENCE: u32 = 64;
/// Punches of one owner that are looked at together. What is left of more waits for the next pass.
const PUNCHES_MAX: usize = 256;

/// One step of a pass over a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AggregateStep {
    pub(crate) container: ContainerId,
    /// What is in order up to here already.
    pub(crate) since: Epoch,
    /// The horizon of the pass.
    pub(crate) until: Epoch,
    /// Records to look at, about.
    pub(crate) limit: u32,
    pub(crate) carry: Carry,
    /// First key to look at; empty for the first of all.
    pub(crate) from: Vec<u8>,
}

/// Does a step: removes what it finds, and notes where to go on.
pub(crate) fn apply(shard: &mut Shard, pages: &mut Pages, step: &AggregateStep, freed: &mut BulkList) -> Result<()> {
    let mut pass = Pass {
        shard,
        pages,
        step,
        carry: step.carry.clone(),
        place: Place::default(),
        is_flagged: false,
        punched: [false; 3],
        hidden: None,
        gone: BTreeSet::new(),
        looked: 0,
    };
    let next = pass.run()?;
    let gone = pass.gone;
    for key in &gone {
        match key::read_record(key) {
            Some(Record::ObjectFlag) => shard.forget_flag(key),
            Some(Record::ObjectPunch(_) | Record::DkeyPunch(_) | Record::AkeyPunch(_)) => {
                shard.punches = shard.punches.saturating_sub(1);
            }
            _ => {}
        }
        update::remove(shard, pages, key, freed)?;
    }
    if next.is_none() {
        shard.aggregated = step.until;
    }
    shard.pass = next.map(|(from, carry)| InPass { since: step.since, until: step.until, from, carry });
    shard.save_all(pages)
}

struct Pass<'a> {
    shard: &'a Shard,
    pages: &'a Pages,
    step: &'a AggregateStep,
    carry: Carry,
    place: Place,
    /// Something in the object was ever punched.
    is_flagged: bool,
    /// A punch of the object, dkey, akey lies in the pass's span: all below it is judged.
    punched: [bool; 3],
    /// What punches hide of the akey at the moment asked for last.
    hidden: Option<(Epoch, Version)>,
    /// Keys to be removed.
    gone: BTreeSet<Vec<u8>>,
    looked: u32,
}

impl Pass<'_> {
    fn run(&mut self) -> Result<Option<(Vec<u8>, Carry)>> {
        let since = self.step.since.0;
        let mut cursor = Cursor::at(&self.shard.tree, self.pages, &self.step.from)?;
        let mut passed = false;
        if self.step.from.is_empty() {
            passed = cursor.seek_changed(since)?;
        } else {
            // The record that was here may be gone; what is known is of its owners all the same.
            let place = read_place(&self.step.from)?;
            self.enter(&place, OBJECT, false)?;
            self.place = place;
        }
        let mut key = Vec::new();
        if cursor.is_valid() {
            cursor.key().copy_to(&mut key);
        }
        if key != self.step.from {
            self.carry.below = None;
        }
        while cursor.is_valid() {
            cursor.key().copy_to(&mut key);
            self.move_to(read_place(&key)?, passed)?;
            if self.looked >= self.step.limit || !self.look_one(cursor.value())? {
                return Ok(Some((std::mem::take(&mut self.place.key), self.carry.clone())));
            }
            passed = if self.carry.is_changed || self.punched != [false; 3] {
                cursor.next()?;
                false
            } else {
                cursor.next_changed(since)?
            };
            if passed {
                // Some of these owners was not looked at.
                self.carry.kept = [Version::NEVER; 3];
            }
        }
        self.leave(OBJECT)?;
        Ok(None)
    }

    fn look_one(&mut self, value: &[u8]) -> Result<bool> {
        self.looked += 1;
        self.look(value)
    }

    /// Comes to the record of `place`: leaves owners behind, and enters others.
    fn move_to(&mut self, place: Place, passed: bool) -> Result<()> {
        let shared = self.place.shared(&place);
        if shared < 3 {
            self.leave(shared)?;
            self.enter(&place, shared, true)?;
            if passed {
                self.carry.kept[shared..].fill(Version::NEVER);
            }
        }
        self.place = place;
        Ok(())
    }

    /// Learns of the owners of `place` from `level` down; `is_fresh`: nothing was seen of them yet.
    fn enter(&mut self, place: &Place, level: usize, is_fresh: bool) -> Result<()> {
        self.hidden = None;
        self.punched[level..].fill(false);
        if is_fresh {
            self.carry.kept[level..].fill(NONE_KEPT);
            self.carry.has_punch &= level > OBJECT;
            (self.carry.is_changed, self.carry.newer) = (false, Epoch::ZERO);
        }
        if level == OBJECT {
            self.is_flagged = place.ends[OBJECT] > 0 && self.shard.is_flagged(self.pages, place.owner(OBJECT))?;
        }
        if self.is_flagged {
            let view = View::open(self.shard, self.pages, place.owner(OBJECT), self.step.until)?;
            for level in (level..3).filter(|&level| place.ends[level] > 0) {
                let newest = match level {
                    OBJECT => view.hidden,
                    _ => view.hidden_below(place.owner(level), Version::NEVER)?,
                };
                self.punched[level] = newest.epoch > self.step.since;
            }
        }
        Ok(())
    }

    /// Comes to the end of the owners from `level` down: punches that hide nothing any more go.
    fn leave(&mut self, level: usize) -> Result<()> {
        if !self.is_flagged {
            return Ok(());
        }
        for level in (level..3).rev().filter(|&level| self.place.ends[level] > 0) {
            let kept = self.carry.kept[level];
            let punches: Vec<_> =
                self.punches(self.place.owner(level), level)?.take(PUNCHES_MAX).collect::<Result<_>>()?;
            self.looked += punches.len() as u32;
            let mut is_bare = punches.len() < PUNCHES_MAX;
            for (key, version) in punches {
                if version.epoch <= self.step.until && kept != Version::NEVER && kept > version {
                    self.gone.insert(key);
                } else {
                    is_bare = false;
                }
            }
            if level > OBJECT {
                self.carry.has_punch |= !is_bare;
            } else if is_bare && !self.carry.has_punch && kept != Version::NEVER {
                self.gone.insert([self.place.owner(OBJECT), &[LIFE, OBJECT_FLAG]].concat());
            }
        }
        Ok(())
    }

    /// The punches of an owner, newest first: keys and versions.
    fn punches(&self, owner: &[u8], level: usize) -> Result<impl Iterator<Item = Result<(Vec<u8>, Version)>>> {
        let life: &[u8] = if level == OBJECT { &[LIFE, OBJECT_PUNCH] } else { &[LIFE] };
        let prefix = [owner, life].concat();
        let mut cursor = Cursor::at(&self.shard.tree, self.pages, &prefix)?;
        Ok(std::iter::from_fn(move || {
            if !cursor.starts_with(&prefix) {
                return None;
            }
            let mut key = Vec::new();
            cursor.key().copy_to(&mut key);
            let version = cursor.key().last::<VERSION_BYTES>().map(Version::from_bytes);
            let found = version.map(|version| (key, version)).ok_or_else(|| unreadable("a punch"));
            Some(cursor.next().and(found))
        }))
    }

    /// Judges the record at the present place; false when there is more below it than a step looks at.
    fn look(&mut self, value: &[u8]) -> Result<bool> {
        let record = key::read_record(&self.place.key).ok_or_else(|| unreadable("a key"))?;
        let Some(version) = record.version().filter(|_| record.is_value()) else {
            return Ok(true);
        };
        let changed = version.epoch > self.step.since;
        let is_gone = match record {
            _ if self.gone.contains(&self.place.key) => true,
            _ if version.epoch > self.step.until => false,
            Record::Array { hole, start, .. } => {
                let count = value::read_count(value).ok_or_else(|| unreadable("an extent"))?;
                let end = start.checked_add(count).ok_or_else(|| unreadable("an extent"))?;
                let top = Candidate { start, end, version, hole, value };
                if self.is_punched(version)? {
                    true
                } else if !changed {
                    false
                } else if let Some(uncovers_nothing) = self.uncovers_nothing(top)? {
                    uncovers_nothing
                } else {
                    return Ok(false);
                }
            }
            _ => {
                let moment = self.shard.retained(version.epoch, self.step.until);
                let newer = self.carry.newer;
                (changed || self.carry.is_changed) && newer > Epoch::ZERO && newer <= moment
                    || self.is_punched(version)?
            }
        };
        if matches!(record, Record::Single(_)) {
            self.carry.newer = version.epoch;
        }
        self.carry.is_changed |= changed;
        if is_gone {
            self.gone.insert(self.place.key.clone());
        } else {
            self.carry.kept.iter_mut().for_each(|kept| *kept = (*kept).min(version));
        }
        Ok(true)
    }

    /// Whether a punch in the pass's span hides `version` wherever it could be seen.
    fn is_punched(&mut self, version: Version) -> Result<bool> {
        if self.punched == [false; 3] {
            return Ok(false);
        }
        let moment = self.shard.retained(version.epoch, self.step.until);
        Ok(version <= self.hidden_at(moment)?)
    }

    /// Newest version of the akey that punches hide at `moment`.
    fn hidden_at(&mut self, moment: Epoch) -> Result<Version> {
        if !self.is_flagged {
            return Ok(Version::NEVER);
        }
        if let Some((_, hidden)) = self.hidden.filter(|(known, _)| *known == moment) {
            return Ok(hidden);
        }
        let view = View::open(self.shard, self.pages, self.place.owner(OBJECT), moment)?;
        let hidden = view.hidden_akey(self.place.owner(DKEY), self.place.owner(AKEY))?;
        self.hidden = Some((moment, hidden));
        Ok(hidden)
    }

    /// Looks at every extent below one that was written in the pass's span. True when `top` is a hole with
    /// nothing left below: then it can go itself. `None` when that is more than a step looks at: the carry says
    /// where to go on.
    fn uncovers_nothing(&mut self, top: Candidate<'_>) -> Result<Option<bool>> {
        let akey = self.place.owner(AKEY).to_vec();
        let tree = &self.shard.tree;
        let going_on = self.carry.below.take();
        let mut below = match &going_on {
            None => Merge::all(tree, self.pages, &akey, top.start, top.end)?,
            Some(below) => Merge::all_from(tree, self.pages, &akey, below.stop, top.end)?,
        };
        let mut is_bare = going_on.as_ref().is_none_or(|below| below.is_bare);
        while let Some(extent) = below.peek() {
            if self.looked >= self.step.limit {
                self.carry.below = Some(Below { stop: extent.stop(), index: extent.start, is_bare });
                return Ok(None);
            }
            self.looked += 1;
            below.take()?;
            let mut key = akey.clone();
            let place = types::Extent { start: extent.start, count: extent.end - extent.start };
            push_extent(&mut key, if extent.hole { HOLE } else { DATA }, place);
            key::push_version(&mut key, extent.version);
            if extent.version >= top.version || extent.end <= top.start || self.gone.contains(&key) {
                continue;
            }
            let from = going_on.as_ref().filter(|below| below.stop == extent.stop()).map_or(extent.start, |b| b.index);
            match self.is_seen(&akey, extent, from)? {
                Seen::Yes => is_bare &= extent.hole,
                Seen::No => drop(self.gone.insert(key)),
                Seen::UpTo(index) => {
                    self.carry.below = Some(Below { stop: extent.stop(), index, is_bare });
                    return Ok(None);
                }
            }
        }
        Ok(Some(top.hole && is_bare))
    }

    /// Whether some of `extent`, from `from` on, is on top at the first moment that can be read.
    fn is_seen(&mut self, akey: &[u8], extent: Candidate<'_>, from: u64) -> Result<Seen> {
        let moment = self.shard.retained(extent.version.epoch, self.step.until);
        let hidden = self.hidden_at(moment)?;
        if extent.version <= hidden {
            return Ok(Seen::No);
        }
        let view = View::open(self.shard, self.pages, &akey[..OBJECT_BYTES], moment)?;
        let mut sweep = view.sweep_in_parts(akey, hidden, from, extent.end, PATIENCE)?;
        while let Some((_, end, top)) = sweep.next()? {
            if (top.version, top.start) == (extent.version, extent.start) {
                return Ok(Seen::Yes);
            }
            self.looked += 1;
            if self.looked >= self.step.limit && end < extent.end {
                return Ok(Seen::UpTo(end));
            }
        }
        Ok(sweep.stalled().map_or(Seen::No, Seen::UpTo))
    }
}

/// Whether an extent can be seen.
enum Seen {
    Yes,
    No,
    /// Not up to here; there is more of it than a step looks at.
    UpTo(u64),
}

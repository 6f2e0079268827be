//! Reading an array: of the extents that overlap, which is on top where.
//!
//! # Shape
//! Extents lie in the tree by length class, then start, then newest first. A [`Merge`] brings the classes
//! together in order of start; a [`Sweep`] walks along the indices and answers, piece by piece, which
//! version is the newest there.
//!
//! # Not here
//! Which versions are hidden by punches of keys: the caller says up to which version (`view`).

use std::cmp::Ordering;
use std::ops::Range;

use media::Pages;
use smallvec::SmallVec;
use types::Epoch;

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key::{self, DATA, HOLE, Version};
use crate::tree::Tree;
use crate::value;

/// Versions skipped one by one before a new descent is cheaper.
const STEPS_MAX: u32 = 8;

/// A stored extent that may be visible.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) version: Version,
    pub(crate) hole: bool,
    pub(crate) value: &'a [u8],
}

/// Where a merge over all extents stopped: at this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) start: u64,
    pub(crate) hole: bool,
    pub(crate) class: u8,
    pub(crate) version: Version,
}

impl Candidate<'_> {
    pub(crate) fn stop(&self) -> Stop {
        let Candidate { start, end, version, hole, .. } = *self;
        Stop { start, hole, class: key::class_of(end - start), version }
    }
}

/// Extents of one kind and class, in order of start.
struct Stream<'a> {
    cursor: Cursor<'a>,
    hole: bool,
    class: u8,
    current: Option<Candidate<'a>>,
    /// Nothing is known of it from this start on: too much lay in the way.
    stalled: Option<u64>,
}

impl Stream<'_> {
    fn is_open(&self) -> bool {
        self.current.is_some() || self.stalled.is_some()
    }
}

/// All extents of an akey that overlap a range and are visible by version, in order of start.
pub(crate) struct Merge<'a> {
    akey: SmallVec<[u8; 64]>,
    /// First index asked for, and the one after the last.
    from: u64,
    until: u64,
    at: Epoch,
    hidden: Version,
    /// Versions that newer ones of the same place cover come too, and what begins before the range and does not
    /// reach it.
    all: bool,
    /// Extents that cannot be seen which one look goes past.
    patience: u32,
    streams: SmallVec<[Stream<'a>; 2]>,
}

impl<'a> Merge<'a> {
    /// Extents of the akey with key prefix `akey` that touch `from..until`, are not newer than `at`, and
    /// newer than `hidden`. Some that others cover are left out.
    pub(crate) fn new(
        tree: &Tree,
        pages: &'a Pages,
        akey: &[u8],
        from: u64,
        until: u64,
        at: Epoch,
        hidden: Version,
    ) -> Result<Merge<'a>> {
        Merge::open(tree, pages, akey, from..until, at, hidden, false, u32::MAX)
    }

    /// The same, but it stops where a look would have to go past more than `patience` extents that cannot be
    /// seen: see [`Merge::stalled`].
    pub(crate) fn patient(
        tree: &Tree,
        pages: &'a Pages,
        akey: &[u8],
        range: Range<u64>,
        at: Epoch,
        hidden: Version,
        patience: u32,
    ) -> Result<Merge<'a>> {
        Merge::open(tree, pages, akey, range, at, hidden, false, patience)
    }

    /// As [`Merge::all`], from `place` on: an extent that such a merge came to, which need not be there any more.
    pub(crate) fn all_from(tree: &Tree, pages: &'a Pages, akey: &[u8], place: Stop, until: u64) -> Result<Merge<'a>> {
        let mut merge = Merge::open(tree, pages, akey, 0..until, Epoch::MAX, Version::NEVER, true, u32::MAX)?;
        let mut streams = std::mem::take(&mut merge.streams);
        for stream in &mut streams {
            let probe = match (stream.hole, stream.class).cmp(&(place.hole, place.class)) {
                // In order of start, then kind and class: what begins where the place does was met here.
                Ordering::Less => merge.probe(stream, place.start.saturating_add(1), None),
                Ordering::Equal => merge.probe(stream, place.start, Some(place.version)),
                Ordering::Greater => merge.probe(stream, place.start, None),
            };
            stream.cursor.seek(&probe)?;
            merge.load(stream)?;
        }
        streams.retain(|stream| stream.is_open());
        merge.streams = streams;
        Ok(merge)
    }

    /// Every extent of the akey that touches `from..until`, covered or not; and some that do not touch it. No
    /// look goes past anything, so that the caller can count.
    pub(crate) fn all(tree: &Tree, pages: &'a Pages, akey: &[u8], from: u64, until: u64) -> Result<Merge<'a>> {
        Merge::open(tree, pages, akey, from..until, Epoch::MAX, Version::NEVER, true, u32::MAX)
    }

    #[allow(clippy::too_many_arguments)]
    fn open(
        tree: &Tree,
        pages: &'a Pages,
        akey: &[u8],
        Range { start: from, end: until }: Range<u64>,
        at: Epoch,
        hidden: Version,
        all: bool,
        patience: u32,
    ) -> Result<Merge<'a>> {
        let akey_of = SmallVec::from_slice(akey);
        let mut merge = Merge { akey: akey_of, from, until, at, hidden, all, patience, streams: SmallVec::new() };
        let mut probe = akey.to_vec();
        probe.push(DATA);
        let mut cursor = Cursor::at(tree, pages, &probe)?;
        while cursor.starts_with(akey) {
            let Some((kind, class)) = cursor.key().after::<2>(akey.len()).map(|[kind, class]| (kind, class)) else {
                return Err(foreign());
            };
            if (kind != DATA && kind != HOLE) || class > 63 {
                return Err(foreign());
            }
            let mut stream = Stream { cursor: cursor.clone(), hole: kind == HOLE, class, current: None, stalled: None };
            let first = key::first_start(class, from);
            if first > 0 {
                probe.truncate(akey.len());
                probe.extend_from_slice(&[kind, class]);
                probe.extend_from_slice(&first.to_be_bytes());
                stream.cursor.seek(&probe)?;
            }
            merge.load(&mut stream)?;
            if stream.is_open() {
                merge.streams.push(stream);
            }
            probe.truncate(akey.len());
            probe.extend_from_slice(&[kind, class + 1]);
            cursor.seek(&probe)?;
        }
        Ok(merge)
    }

    /// Whether any of the extents is a hole.
    pub(crate) fn has_holes(&self) -> bool {
        self.streams.iter().any(|stream| stream.hole)
    }

    /// The next extent, without taking it.
    pub(crate) fn peek(&self) -> Option<Candidate<'a>> {
        self.streams[self.first()?].current
    }

    /// The stream with the next extent: in order of start, then kind and class.
    fn first(&self) -> Option<usize> {
        let starts = self.streams.iter().enumerate();
        let starts = starts.filter_map(|(i, s)| s.current.map(|c| ((c.start, s.hole, s.class), i)));
        let (place, index) = starts.min()?;
        self.stalled().is_none_or(|stalled| place.0 < stalled).then_some(index)
    }

    /// Where it stopped, when it lost patience: nothing is known from here on.
    pub(crate) fn stalled(&self) -> Option<u64> {
        self.streams.iter().filter_map(|stream| stream.stalled).min()
    }

    /// Takes the next extent.
    pub(crate) fn take(&mut self) -> Result<Option<Candidate<'a>>> {
        let Some(index) = self.first() else { return Ok(None) };
        let mut stream = self.streams.swap_remove(index);
        let taken = stream.current.take();
        stream.cursor.next()?;
        if let Some(taken) = taken {
            self.skip_covered(&mut stream, taken)?;
        }
        self.load(&mut stream)?;
        if stream.is_open() {
            self.streams.push(stream);
        }
        Ok(taken)
    }

    /// Moves over older versions of the same place when none can reach beyond `taken`.
    fn skip_covered(&self, stream: &mut Stream<'a>, taken: Candidate<'a>) -> Result<()> {
        if self.all || stream.class > 62 || taken.end - taken.start < 1 << stream.class {
            return Ok(());
        }
        let mut steps = 0;
        while let Some((start, _)) = self.place(stream)? {
            if start != taken.start {
                break;
            }
            steps += 1;
            if steps > STEPS_MAX {
                return stream.cursor.seek(&self.probe(stream, start + 1, None));
            }
            stream.cursor.next()?;
        }
        Ok(())
    }

    /// Loads the first candidate at or after the cursor.
    fn load(&self, stream: &mut Stream<'a>) -> Result<()> {
        stream.current = None;
        let (mut steps, mut passed) = (0, 0);
        while let Some((start, version)) = self.place(stream)? {
            if start >= self.until {
                break;
            }
            let newer = version.epoch > self.at;
            if newer || version <= self.hidden {
                passed += 1;
                // Not before the range: the next look would begin there again.
                if passed > self.patience && start > self.from {
                    stream.stalled = Some(start);
                    break;
                }
                steps += 1;
                if steps <= STEPS_MAX {
                    stream.cursor.next()?;
                } else {
                    steps = 0;
                    let target = if newer {
                        self.probe(stream, start, Some(Version::latest(self.at)))
                    } else {
                        self.probe(stream, start + 1, None)
                    };
                    stream.cursor.seek(&target)?;
                }
                continue;
            }
            let value = stream.cursor.value();
            let count = value::read_count(value).ok_or_else(foreign)?;
            let end = start.checked_add(count).ok_or_else(foreign)?;
            if end > self.from || self.all {
                stream.current = Some(Candidate { start, end, version, hole: stream.hole, value });
                break;
            }
            stream.cursor.next()?;
        }
        Ok(())
    }

    /// Start and version of the record under the cursor, while it is of this stream.
    fn place(&self, stream: &Stream<'a>) -> Result<Option<(u64, Version)>> {
        if !stream.cursor.starts_with(&self.akey) {
            return Ok(None);
        }
        let key = stream.cursor.key();
        if key.after::<2>(self.akey.len()) != Some([kind_of(stream.hole), stream.class]) {
            return Ok(None);
        }
        let tail = key.last::<18>().filter(|_| key.len() == self.akey.len() + 20).ok_or_else(foreign)?;
        let start = u64::from_be_bytes(*tail.first_chunk().expect("eight of eighteen"));
        Ok(Some((start, Version::from_bytes(*tail.last_chunk().expect("ten of eighteen")))))
    }

    fn probe(&self, stream: &Stream<'a>, start: u64, version: Option<Version>) -> SmallVec<[u8; 96]> {
        let mut probe = SmallVec::from_slice(&self.akey);
        probe.extend_from_slice(&[kind_of(stream.hole), stream.class]);
        probe.extend_from_slice(&start.to_be_bytes());
        if let Some(version) = version {
            probe.extend_from_slice(&version.to_bytes());
        }
        probe
    }
}

fn kind_of(hole: bool) -> u8 {
    if hole { HOLE } else { DATA }
}

#[cold]
fn foreign() -> Error {
    Error::Corrupt { place: "an array's extents".into(), fault: "a record that is no extent".into() }
}

/// Walks along an array and says what is on top.
pub(crate) struct Sweep<'a> {
    merge: Merge<'a>,
    /// Covered extents that one step goes past; then the run on top of them is given in parts.
    patience: u32,
    /// Extents that reach beyond `position`.
    open: SmallVec<[Candidate<'a>; 4]>,
    position: u64,
    /// It lost patience with holes here.
    stalled: Option<u64>,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(merge: Merge<'a>) -> Sweep<'a> {
        let position = merge.from;
        Sweep { merge, patience: u32::MAX, open: SmallVec::new(), position, stalled: None }
    }

    /// As [`Sweep::new`], for those who may not look at much at once: a run may come in parts, so that no step
    /// goes past more extents that it covers, or more holes, than the merge has patience; and the end may not be the
    /// end, see [`Sweep::stalled`].
    pub(crate) fn in_parts(merge: Merge<'a>) -> Sweep<'a> {
        Sweep { patience: merge.patience, ..Sweep::new(merge) }
    }

    /// Where it ended early, if it did.
    pub(crate) fn stalled(&self) -> Option<u64> {
        self.merge.stalled().into_iter().chain(self.stalled).min()
    }

    /// The next run of indices, `start..end`, with the extent on top of it; runs that nothing covers are
    /// left out.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, u64, Candidate<'a>)>> {
        loop {
            let position = self.position;
            let until = self.merge.stalled().unwrap_or(self.merge.until);
            if position >= until {
                return Ok(None);
            }
            self.open.retain(|c| c.end > position);
            let next = self.merge.peek();
            let Some(top) = self.open.iter().copied().max_by_key(|c| c.version) else {
                let Some(candidate) = self.merge.take()? else { return Ok(None) };
                self.position = position.max(candidate.start);
                self.open.push(candidate);
                continue;
            };
            if next.is_some_and(|next| next.start <= position) {
                let candidate = self.merge.take()?;
                self.open.extend(candidate);
                continue;
            }
            let mut end = top.end.min(until);
            let mut passed = 0;
            while let Some(next) = self.merge.peek().filter(|next| next.start < end) {
                if next.version > top.version || passed >= self.patience && next.start > position {
                    end = next.start;
                    break;
                }
                passed += 1;
                let candidate = self.merge.take()?;
                // What ends under the present top is never seen.
                self.open.extend(candidate.filter(|c| c.end > end));
            }
            self.position = end;
            return Ok(Some((position, end, top)));
        }
    }

    /// The next run of data; holes are left out too.
    pub(crate) fn next_data(&mut self) -> Result<Option<(u64, u64, Candidate<'a>)>> {
        for _ in 0..self.patience {
            match self.next()? {
                Some((_, _, top)) if top.hole => {}
                found => return Ok(found),
            }
        }
        // At least one was passed: whoever goes on from here is further.
        self.stalled = Some(self.position);
        Ok(None)
    }
}

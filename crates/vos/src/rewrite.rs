//! Rewriting extents: bytes that are stored already get a better place. The data of a [`Rewrite`] is copied
//! while the store goes on; the step that swaps the extents is one log record, and happens only when
//! everything is still as it was.
//!
//! # Not here
//! What is worth it: `coalesce`.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use codec::checksum;
use media::{Pages, PinGuard};
use rt::disk::IoBuf;
use types::{ContainerId, Extent};

use crate::coalesce::{Plan, Witness, extent_key};
use crate::error::Result;
use crate::key::{self, Record, Version};
use crate::request::{BulkList, INLINE_BYTES_MAX, Payload, Source};
use crate::shard::Shard;
use crate::space::Reservation;
use crate::update::{self, Scratch};
use crate::value;
use crate::verified::{Reader, verify};
use crate::view::unreadable;

/// What there is to rewrite.
#[derive(Debug)]
pub enum Rewriting {
    /// Nothing, until more history is aggregated.
    Nothing,
    /// Call again: there may be more.
    Look,
    /// Copy it, then give it to [`crate::Store::rewrite`].
    Found(Rewrite),
}

/// Extents of an akey that others will stand for.
#[derive(Debug)]
pub struct Rewrite {
    pub(crate) container: ContainerId,
    /// Key prefix.
    pub(crate) akey: Vec<u8>,
    pub(crate) record_bytes: u32,
    /// What goes.
    pub(crate) parts: Vec<(Extent, Version)>,
    /// Of what stays below what comes.
    witnesses: Vec<Witness>,
    /// What comes.
    pub(crate) runs: Vec<Run>,
    inline: Vec<u8>,
    /// Keeps what is read as it is.
    pin: PinGuard,
}

/// An extent that comes.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) extent: Extent,
    pub(crate) version: Version,
    sources: Vec<Source>,
    bytes: u64,
    /// Where its data goes; `None`: into the tree.
    at: Option<Reservation>,
    /// The bytes for the tree.
    inline: IoBuf,
    checksums: Vec<u32>,
}

impl Run {
    pub(crate) fn payload(&self) -> Payload<'_> {
        match &self.at {
            Some(at) => Payload::Bulk { at, bytes: self.bytes, checksums: &self.checksums },
            None => Payload::Inline { bytes: &self.inline, checksums: &self.checksums },
        }
    }

    pub(crate) fn reservation(&self) -> Option<&Reservation> {
        self.at.as_ref()
    }
}

impl Rewrite {
    /// Sets blocks aside for what `plan` makes.
    ///
    /// # Errors
    /// Of `reserve`.
    pub(crate) fn new(
        container: ContainerId,
        plan: Plan,
        pin: PinGuard,
        mut reserve: impl FnMut(u64) -> Result<Reservation>,
    ) -> Result<Rewrite> {
        let mut runs = Vec::with_capacity(plan.runs.len());
        for run in plan.runs {
            let bytes = run.extent.count * u64::from(plan.record_bytes);
            let at = if bytes > INLINE_BYTES_MAX as u64 { Some(reserve(bytes)?) } else { None };
            let (extent, version, sources) = (run.extent, run.version, run.sources);
            runs.push(Run { extent, version, sources, bytes, at, inline: IoBuf::default(), checksums: Vec::new() });
        }
        let Plan { akey, record_bytes, parts, witnesses, inline, .. } = plan;
        Ok(Rewrite { container, akey, record_bytes, parts, witnesses, runs, inline, pin })
    }

    /// Bytes that are written.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    /// Extents that go, and that come for them.
    pub fn counts(&self) -> (usize, usize) {
        (self.parts.len(), self.runs.len())
    }

    /// Reads, verifies and writes the data, while the store goes on.
    ///
    /// # Errors
    /// `Corrupt`: stored bytes do not match their checksums; `Media`.
    pub async fn copy(&mut self, media: &media::Store) -> Result<()> {
        let reader = Reader { media, pin: &self.pin, is_blocking: false };
        transfer(reader, &self.inline, &mut self.runs).await
    }

    /// As [`Rewrite::copy`], blocking. For stores whose tasks do not run.
    ///
    /// # Errors
    /// As [`Rewrite::copy`].
    pub fn copy_now(&mut self, media: &media::Store) -> Result<()> {
        let reader = Reader { media, pin: &self.pin, is_blocking: true };
        run_now(transfer(reader, &self.inline, &mut self.runs))
    }

    /// Whether everything that goes is still there, and what stays below would still be seen. Reads every page
    /// that the swap will change.
    pub(crate) fn is_current(&self, shard: &Shard, pages: &Pages) -> Result<bool> {
        for (extent, version) in &self.parts {
            let found = shard.tree.get(pages, &extent_key(&self.akey, *extent, *version))?;
            if found.and_then(value::read_count) != Some(extent.count) {
                return Ok(false);
            }
        }
        for witness in &self.witnesses {
            if !witness.is_true(shard, pages, &self.akey)? {
                return Ok(false);
            }
        }
        for run in &self.runs {
            shard.tree.locate(pages, &extent_key(&self.akey, run.extent, run.version))?;
        }
        Ok(true)
    }
}

/// Swaps extents of an akey. The same when done again, on the same tree.
pub(crate) fn apply<'a>(
    shard: &mut Shard,
    pages: &mut Pages,
    akey: &[u8],
    parts: &[(Extent, Version)],
    record_bytes: u32,
    runs: impl Iterator<Item = (Extent, Version, Payload<'a>)>,
    scratch: &mut Scratch,
) -> Result<()> {
    // Out before in: one that comes may have the place of one that goes.
    for (extent, version) in parts {
        update::remove(shard, pages, &extent_key(akey, *extent, *version), &mut scratch.freed)?;
    }
    for (extent, version, payload) in runs {
        scratch.key = extent_key(akey, extent, version);
        let spot = shard.tree.locate(pages, &scratch.key)?;
        let mut head = value::Head::new();
        value::data_head(&mut head, extent.count, record_bytes);
        update::put(shard, pages, spot, version, &payload, &mut head, scratch)?;
    }
    shard.save_all(pages)
}

/// Puts a payload in place of the one at exactly `key`, which has the same bytes; nothing, when none is there.
pub(crate) fn apply_mend(
    shard: &mut Shard,
    pages: &mut Pages,
    key: &[u8],
    payload: &Payload<'_>,
    scratch: &mut Scratch,
) -> Result<()> {
    let mut head = value::Head::new();
    match (key::read_record(key), shard.tree.get(pages, key)?) {
        (Some(Record::Single(_)), Some(_)) => {}
        (Some(Record::Array { hole: false, .. }), Some(old)) => {
            let (count, record_bytes, _) = value::read_data(old).ok_or_else(|| unreadable("array data"))?;
            value::data_head(&mut head, count, record_bytes);
        }
        _ => return Ok(()),
    }
    let version = key::read_record(key).and_then(Record::version).unwrap_or_default();
    scratch.key = key.to_vec();
    let spot = shard.tree.locate(pages, key)?;
    update::put(shard, pages, spot, version, payload, &mut head, scratch)?;
    shard.save_all(pages)
}

const CHUNK: u64 = types::CHECKSUM_CHUNK_BYTES as u64;

/// Whole chunks of a value, verified.
struct Recent {
    extents: BulkList,
    whole: Range<u64>,
    bytes: IoBuf,
}

impl Recent {
    fn has(&self, extents: &BulkList, chunks: &Range<u64>) -> bool {
        self.extents == *extents && self.whole.start <= chunks.start && chunks.end <= self.whole.end
    }
}

/// Fills runs with the bytes of their sources.
async fn transfer(reader: Reader<'_>, inline: &[u8], runs: &mut [Run]) -> Result<()> {
    // The piece after the next is often of the same chunk: of what lies under many small extents.
    let mut recent: Option<Recent> = None;
    for run in runs {
        let mut bytes = IoBuf::with_capacity(run.bytes as usize);
        for source in &run.sources {
            match source {
                Source::Hole => unreachable!("runs have no holes"),
                Source::Inline { payload, checksums, part } => {
                    let value = &inline[payload.clone()];
                    verify(value, checksums)?;
                    bytes.extend_from_slice(&value[part.start as usize..part.end as usize]);
                }
                Source::Bulk { extents, bytes: all, checksums, part } => {
                    let whole = part.start / CHUNK * CHUNK..part.end.next_multiple_of(CHUNK).min(*all);
                    if !recent.as_ref().is_some_and(|recent| recent.has(extents, &whole)) {
                        let read = reader.part(extents, *all, checksums, whole.clone()).await?;
                        recent = Some(Recent { extents: extents.clone(), whole, bytes: read });
                    }
                    let recent = recent.as_ref().expect("just read");
                    let from = |at: u64| (at - recent.whole.start) as usize;
                    bytes.extend_from_slice(&recent.bytes[from(part.start)..from(part.end)]);
                }
            }
        }
        run.checksums = checksum::of_chunks(&bytes);
        match &run.at {
            None => run.inline = bytes,
            Some(at) => write(reader, at, 0, bytes).await?,
        }
    }
    Ok(())
}

/// Writes a payload, or the part of one from byte `offset` on, to its reservation.
pub(crate) async fn write(reader: Reader<'_>, at: &Reservation, offset: u64, bytes: IoBuf) -> Result<()> {
    let at = at.media().expect("a reservation just made");
    if reader.is_blocking {
        Ok(reader.media.bulk_write_now(at, offset, &bytes)?)
    } else {
        Ok(reader.media.bulk_write(at, offset, bytes.into(), None).await?)
    }
}

/// Runs what waits for nothing.
pub(crate) fn run_now<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("blocking transfers wait for nothing"),
    }
}

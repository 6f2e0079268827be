//! Bulk data: straight between the caller's buffers and the data region, beside pages and log.
//!
//! A payload is written in *strips*: each is copied (when it must be), compared with its checksums and handed to
//! the device before the next one is looked at. So it is touched while it lies in the processor's cache, a device
//! works on one strip while the next is summed, and a large payload does not hold the thread up.

use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use codec::checksum::{self, CHECKSUM_CHUNK_BYTES, Mismatch};
use rt::disk::IoBuf;

use crate::error::{Device, Error, Place, Result};
use crate::region::{BLOCK_BYTES, Regions, TroubleKind};
use crate::space::{Extent, PinGuard};
use crate::store::{Shared, Store};

/// Blocks set aside for one payload. Dropped before [`Store::commit`] took it, it gives them back, once
/// no write into them is under way.
pub struct Reservation {
    held: Rc<Held>,
    bytes: u64,
}

/// Shared by the reservation and the writes into it.
struct Held {
    shared: Rc<Shared>,
    extents: Vec<Extent>,
    committed: std::cell::Cell<bool>,
}

impl Reservation {
    /// Where the payload goes, in order.
    pub fn extents(&self) -> &[Extent] {
        &self.held.extents
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({} bytes in {:?})", self.bytes, self.held.extents)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.committed.get() {
            let mut space = self.shared.space.borrow_mut();
            for extent in &self.extents {
                space.cancel(*extent);
            }
            drop(space);
            self.shared.relieved.wake();
        }
    }
}

/// Bytes of a payload that are summed and written at a time, where a write is a copy in memory: they stay in a
/// processor's second cache, and do not hold the thread up for more than some 50 us.
const STRIP_BYTES: usize = 128 << 10;
/// The same for a device. Summed bytes need not stay near, and with smaller strips a file system that maps each
/// apart made two thirds of this one's rate.
const DEVICE_STRIP_BYTES: usize = 1 << 20;
const _: () = assert!(STRIP_BYTES.is_multiple_of(CHECKSUM_CHUNK_BYTES) && STRIP_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(DEVICE_STRIP_BYTES.is_multiple_of(STRIP_BYTES));

/// Bytes to be written.
pub enum BulkSource {
    /// Written from where they are.
    Owned(IoBuf),
    /// A part of something larger, at any address: copied.
    Shared(Bytes),
}

impl From<IoBuf> for BulkSource {
    fn from(buffer: IoBuf) -> BulkSource {
        BulkSource::Owned(buffer)
    }
}

impl From<Bytes> for BulkSource {
    fn from(bytes: Bytes) -> BulkSource {
        BulkSource::Shared(bytes)
    }
}

impl BulkSource {
    fn len(&self) -> usize {
        match self {
            BulkSource::Owned(buffer) => buffer.len(),
            BulkSource::Shared(bytes) => bytes.len(),
        }
    }

    /// Takes the next bytes, at most `most`.
    fn strip(&mut self, most: usize) -> IoBuf {
        let bytes = self.len().min(most);
        match self {
            BulkSource::Owned(buffer) if bytes == buffer.len() => std::mem::take(buffer),
            BulkSource::Owned(buffer) => {
                let rest = buffer.split_off(bytes);
                std::mem::replace(buffer, rest)
            }
            BulkSource::Shared(shared) => IoBuf::from_slice(&shared.split_to(bytes)),
        }
    }
}

impl Store {
    /// Sets blocks for a payload of `bytes` aside, in one piece or a few.
    ///
    /// # Errors
    /// - `Busy`: a flush or a checkpoint may make room: wait for [`Store::relieved`], then retry.
    /// - `NoSpace`: full, or free space is in too small pieces. Deleting helps.
    /// - `TooLarge`, `Failed`, `Stopped`.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.shared.running()?;
        let shared = &self.shared;
        if rt::fault!("media.reserve") {
            return Err(Error::NoSpace { wanted: bytes, free: 0 });
        }
        let demand = shared.page_demand();
        let mut reserved = shared.space.borrow_mut().reserve(bytes, demand);
        if let Err(Error::NoSpace { .. }) = reserved {
            while shared.drain() {}
            shared.end_run();
            reserved = shared.space.borrow_mut().reserve(bytes, demand);
            if let Err(Error::NoSpace { wanted, .. }) = reserved {
                // A flush or a checkpoint frees what is in quarantine, and a checkpoint what is kept for
                // changed pages. Only when that could do is it worth the wait.
                let is_coming = || {
                    let space = shared.space.borrow();
                    (space.usage().quarantined > 0 || shared.is_changed())
                        && wanted <= space.bulk_at_best() * BLOCK_BYTES as u64
                };
                // Who writes comes before a fence.
                if (shared.is_lifting() || !is_coming()) && shared.lift_for_room() {
                    reserved = shared.space.borrow_mut().reserve(bytes, demand);
                    if reserved.is_err() && shared.is_lifting() {
                        return Err(shared.busy());
                    }
                }
                if reserved.is_err() && is_coming() {
                    return Err(shared.refuse_reservation());
                }
            }
        }
        let held = Held { shared: self.shared.clone(), extents: reserved?, committed: Default::default() };
        Ok(Reservation { held: Rc::new(held), bytes })
    }

    /// The record that names the reservation was appended: its blocks are the owner's. Call it in the same
    /// synchronous step as the append, after every write into it has succeeded.
    pub fn commit(&self, reservation: &Reservation) {
        assert!(!reservation.held.committed.replace(true), "a reservation is committed once");
        let mut space = self.shared.space.borrow_mut();
        for extent in reservation.extents() {
            space.commit(*extent);
        }
    }

    /// Writes `payload` at `offset` of the reservation, by direct I/O. The tail of the last block is
    /// padded with zero. It is durable with the record that names it.
    ///
    /// With `checksums`, one for each chunk, no byte goes to the device that does not agree with them; what
    /// lies before it in the payload may have gone, into blocks that nobody reads.
    ///
    /// Dropping the future does not stop the write; the blocks stay reserved until it ends.
    ///
    /// # Errors
    /// `Arrived`: the payload is not what its checksums say. `DiskFull`: nothing happened; try again when there is room.
    /// `Failed`: the device refused, and the store takes no more work.
    pub fn bulk_write(
        &self,
        reservation: &Reservation,
        offset: u64,
        payload: BulkSource,
        checksums: Option<Vec<u32>>,
    ) -> impl Future<Output = Result<()>> + use<> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "bulk writes start at a block");
        let held = reservation.held.clone();
        let room: u64 = held.extents.iter().map(Extent::bytes).sum();
        let bytes = payload.len().next_multiple_of(BLOCK_BYTES) as u64;
        assert!(offset + bytes <= room, "a bulk write leaves its reservation");
        // A task of its own, for a write that outlives its caller must keep the blocks reserved: the
        // kernel would else overwrite whoever got them next.
        let task = rt::spawn_local(held.write(offset, payload, checksums));
        async move { task.await.unwrap_or(Err(Error::Stopped)) }
    }

    /// Writes as [`Store::bulk_write`], blocking. For stores whose tasks do not run.
    ///
    /// # Errors
    /// `Failed`.
    pub fn bulk_write_now(&self, reservation: &Reservation, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "bulk writes start at a block");
        let mut buffer = IoBuf::from_slice(bytes);
        buffer.pad_to(BLOCK_BYTES);
        let shared = &self.shared;
        shared.running()?;
        for (at, range) in spans(&shared.regions, reservation.extents(), offset, buffer.len()) {
            shared.regions.data.write_now(at, &buffer[range]).map_err(|cause| shared.fail(Device::Data, cause))?;
        }
        shared.bulk_unsynced.set(true);
        Ok(())
    }

    /// Reads `bytes` bytes from `offset` of `extent`, by direct I/O; those that a checkpoint has yet to write,
    /// from the stage. `pin` must be from before the extent
    /// could be released: taken with the plan that named it.
    ///
    /// # Errors
    /// `Read`: the device failed, for this read only. `Corrupt`: the extent is not in the region. `Failed`:
    /// the device hangs.
    pub fn bulk_read(
        &self,
        extent: Extent,
        offset: u64,
        bytes: usize,
        pin: PinGuard,
    ) -> impl Future<Output = Result<IoBuf>> + 'static {
        let shared = self.shared.clone();
        async move {
            let window = Window::of(&shared, extent, offset, bytes)?;
            if let Some(unwritten) = shared.unwritten(extent, offset, bytes) {
                return Ok(unwritten);
            }
            if let Some(cause) = shared.watch.refusal(Device::Data) {
                return Err(read_error(extent, cause));
            }
            let buffer = IoBuf::for_read(window.length);
            let (outcome, buffer) = shared.regions.data.read(window.at, buffer, shared.watch.limit.get()).await;
            drop(pin);
            outcome.map_err(|trouble| match trouble.kind {
                TroubleKind::Hang => shared.failed_by(Device::Data, trouble).into(),
                TroubleKind::Failed | TroubleKind::Full => read_error(extent, trouble.cause),
            })?;
            Ok(window.cut(buffer))
        }
    }

    /// Reads as [`Store::bulk_read`], blocking.
    ///
    /// # Errors
    /// As [`Store::bulk_read`].
    pub fn bulk_read_now(&self, extent: Extent, offset: u64, bytes: usize) -> Result<IoBuf> {
        let window = Window::of(&self.shared, extent, offset, bytes)?;
        if let Some(unwritten) = self.shared.unwritten(extent, offset, bytes) {
            return Ok(unwritten);
        }
        let mut buffer = IoBuf::for_read(window.length);
        self.shared.regions.data.read_now(window.at, &mut buffer).map_err(|cause| read_error(extent, cause))?;
        Ok(window.cut(buffer))
    }
}

impl Shared {
    /// Bytes that the device does not have yet.
    fn unwritten(&self, extent: Extent, offset: u64, bytes: usize) -> Option<IoBuf> {
        let stage = self.stage.borrow();
        let block = if extent.blocks == 1 { stage.unwritten(extent.block)? } else { return None };
        Some(IoBuf::from_slice(&block[offset as usize..][..bytes]))
    }
}

impl Held {
    async fn write(self: Rc<Held>, offset: u64, mut payload: BulkSource, checksums: Option<Vec<u32>>) -> Result<()> {
        let shared = &self.shared;
        shared.running()?;
        let (given, expected) = (checksums.as_ref().map(Vec::len), checksum::chunk_count(payload.len()));
        if let Some(given) = given.filter(|given| *given != expected) {
            return Err(Error::Arrived(Mismatch::Count { expected, given }));
        }
        let mut chunks = checksums.as_deref().unwrap_or_default();
        let most = if shared.regions.data.disk.is_memory() { STRIP_BYTES } else { DEVICE_STRIP_BYTES };
        let (mut at, mut under_way) = (offset, Vec::new());
        while payload.len() > 0 {
            let mut strip = payload.strip(most);
            if checksums.is_some() {
                let (of_strip, rest) = chunks.split_at(checksum::chunk_count(strip.len()));
                let before = expected - chunks.len();
                checksum::verify_chunks(&strip, of_strip)
                    .map_err(|mismatch| Error::Arrived(mismatch.behind(before)))?;
                chunks = rest;
            }
            strip.pad_to(BLOCK_BYTES);
            let strip_at = at;
            at += strip.len() as u64;
            for (place, range) in spans(&shared.regions, &self.extents, strip_at, strip.len()) {
                let rest = strip.split_off(range.len());
                let piece = std::mem::replace(&mut strip, rest);
                under_way.push(rt::spawn_local(self.clone().write_piece(place, piece)));
            }
            if payload.len() > 0 {
                // The device begins while the next strip is summed.
                rt::yield_now().await;
            }
        }
        let mut outcome = Ok(());
        for write in under_way {
            outcome = outcome.and(write.await.unwrap_or(Err(Error::Stopped)));
        }
        // Set after the writes have completed: a sync that began before does not cover them.
        shared.bulk_unsynced.set(true);
        outcome
    }

    async fn write_piece(self: Rc<Held>, at: u64, piece: IoBuf) -> Result<()> {
        let shared = &self.shared;
        shared.running()?;
        let (outcome, _) = shared.regions.data.write(at, piece, shared.watch.limit.get()).await;
        outcome.map_err(|trouble| match trouble.kind {
            // Nothing refers to it yet: it is as if it had never come.
            TroubleKind::Full => Error::DiskFull { device: Device::Data, cause: trouble.cause },
            TroubleKind::Failed | TroubleKind::Hang => shared.failed_by(Device::Data, trouble).into(),
        })
    }
}

/// The parts of bytes `range` of a payload that lies in `extents`, end to end: extent, offset in it, bytes.
pub fn pieces_of(extents: &[Extent], range: std::ops::Range<u64>) -> impl Iterator<Item = (Extent, u64, usize)> + '_ {
    let mut start = 0;
    extents.iter().filter_map(move |extent| {
        let (first, last) = (start.max(range.start), (start + extent.bytes()).min(range.end));
        let offset = first.saturating_sub(start);
        start += extent.bytes();
        (first < last).then(|| (*extent, offset, (last - first) as usize))
    })
}

/// The parts of `offset..offset + bytes` of a payload in `extents`: byte in the region, range of the part.
fn spans<'a>(
    regions: &'a Regions,
    extents: &'a [Extent],
    offset: u64,
    bytes: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> + 'a {
    let (from, to) = (offset, offset + bytes as u64);
    let mut start = 0;
    extents.iter().filter_map(move |extent| {
        let (first, last) = (start.max(from), (start + extent.bytes()).min(to));
        let at = regions.bulk_offset(extent.block) + first.saturating_sub(start);
        start += extent.bytes();
        (first < last).then(|| (at, (first - from) as usize..(last - from) as usize))
    })
}

/// The whole blocks around a range of bytes.
struct Window {
    at: u64,
    length: usize,
    head: usize,
    bytes: usize,
}

impl Window {
    fn of(shared: &Shared, extent: Extent, offset: u64, bytes: usize) -> Result<Window> {
        let end = offset.saturating_add(bytes as u64);
        if end > extent.bytes() || !shared.space.borrow().area().is_bulk(extent) {
            return Err(crate::space::wrong(extent, "read outside the region or the extent"));
        }
        let head = offset % BLOCK_BYTES as u64;
        let length = (head as usize + bytes).next_multiple_of(BLOCK_BYTES);
        let at = shared.regions.bulk_offset(extent.block) + offset - head;
        Ok(Window { at, length, head: head as usize, bytes })
    }

    fn cut(&self, mut buffer: IoBuf) -> IoBuf {
        if self.head > 0 {
            buffer.copy_within(self.head..self.head + self.bytes, 0);
        }
        buffer.truncate(self.bytes);
        buffer
    }
}

fn read_error(extent: Extent, cause: std::sync::Arc<str>) -> Error {
    Error::Read { place: Place::Bulk { block: extent.block }, device: Device::Data, cause }
}

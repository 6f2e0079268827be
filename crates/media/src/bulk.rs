//! Bulk data: straight between the caller's buffers and the data region, beside pages and log.

use std::future::Future;
use std::rc::Rc;

use rt::disk::IoBuf;

use crate::error::{Device, Error, Place, Result};
use crate::region::{BLOCK_BYTES, Regions};
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
                let space = shared.space.borrow();
                let is_coming = space.usage().quarantined > 0 || shared.is_changed();
                if is_coming && wanted <= space.bulk_at_best() * BLOCK_BYTES as u64 {
                    return Err(shared.refuse_reservation());
                }
                drop(space);
                // Who writes comes before a fence.
                if shared.lift_fence() {
                    reserved = shared.space.borrow_mut().reserve(bytes, demand);
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

    /// Writes `buffer` at `offset` of the reservation, by direct I/O. The tail of the last block is
    /// padded with zero. It is durable with the record that names it.
    ///
    /// Dropping the future does not stop the write; the blocks stay reserved until it ends.
    ///
    /// # Errors
    /// `Failed`: the device refused, and the store takes no more work.
    pub fn bulk_write(
        &self,
        reservation: &Reservation,
        offset: u64,
        mut buffer: IoBuf,
    ) -> impl Future<Output = (Result<()>, IoBuf)> + 'static {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "bulk writes start at a block");
        let length = buffer.len();
        buffer.pad_to(BLOCK_BYTES);
        let held = reservation.held.clone();
        let room: u64 = held.extents.iter().map(Extent::bytes).sum();
        assert!(offset + buffer.len() as u64 <= room, "a bulk write leaves its reservation");
        // A task of its own, for a write that outlives its caller must keep the blocks reserved: the
        // kernel would else overwrite whoever got them next.
        let task = rt::spawn_local(async move {
            let (outcome, mut buffer) = held.write(offset, buffer).await;
            buffer.truncate(length);
            (outcome, buffer)
        });
        async move { task.await.unwrap_or_else(|_| (Err(Error::Stopped), IoBuf::default())) }
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
            outcome.map_err(|trouble| match trouble.is_hang {
                true => shared.failed_by(Device::Data, trouble).into(),
                false => read_error(extent, trouble.cause),
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
    async fn write(&self, offset: u64, mut buffer: IoBuf) -> (Result<()>, IoBuf) {
        let shared = &self.shared;
        if let Err(error) = shared.running() {
            return (Err(error), buffer);
        }
        let limit = shared.watch.limit.get();
        let spans: Vec<_> = spans(&shared.regions, &self.extents, offset, buffer.len()).collect();
        let mut outcome = Ok(());
        if let [(at, _)] = spans[..] {
            (outcome, buffer) = shared.regions.data.write(at, buffer, limit).await;
        } else {
            for (at, range) in spans {
                outcome = shared.regions.data.write(at, IoBuf::from_slice(&buffer[range]), limit).await.0;
                if outcome.is_err() {
                    break;
                }
            }
        }
        // Set after the write has completed: a sync that began before does not cover it.
        shared.bulk_unsynced.set(true);
        (outcome.map_err(|trouble| shared.failed_by(Device::Data, trouble).into()), buffer)
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

//! Making a store, and finding it again.
//!
//! Opening reads the newest superblock, the root blob, the map and the bitmap, and hands the owner the
//! records after the checkpoint, in order. Until [`Store::finish_recovery`] nothing is written, so a
//! recovery that is cut off and done again does exactly the same (K6).
//!
//! What was found must not change under us: both regions are synced first, for records that only lay in the
//! device's cache count from now on. And the incarnation goes up before anything new is written: a batch
//! behind the end we found, left over from before, can never join the line again.

use std::rc::Rc;

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Corrupt, Device, Error, Fault, FormatError, Place, Result};
use crate::header::{decode_region_header, encode_region_header, role};
use crate::log::Lsn;
use crate::log::append::{LOG_BYTES_MIN, Log};
use crate::log::scan::{Record, Scanner};
use crate::page::{self, KIND_BITMAP, KIND_MAP, PAGE_BYTES, Seal, field};
use crate::pages::map::{MAP_ENTRIES, MapPage};
use crate::pages::pool::Pages;
use crate::region::{BLOCK_BYTES, Region, Regions};
use crate::root::{BLOB_BYTES_MAX, Part, Root, block_count, decode_root, decode_root_block};
use crate::space::bitmap::{BITMAP_BLOCKS, Bitmap, first_allocatable, page_count, pages_to_keep, slot_block};
use crate::space::{Area, Extent, PAGE_BLOCKS, Space};
use crate::store::{Phase, Store};
use crate::superblock::{Anchor, COPIES, FORMAT_VERSION, decode_superblock, is_blank, store_name};
use crate::watch::{Watch, loader};

/// Smallest data region: superblocks, a bitmap page, and room for a few hundred pages.
pub const DATA_BYTES_MIN: u64 = 2 << 20;
/// Largest data region: what 32-bit block numbers address, 16 TiB.
pub const DATA_BYTES_MAX: u64 = (u32::MAX as u64 - 1) * BLOCK_BYTES as u64;

/// A log up to this size is written in full at format: the first write into space that a file system only
/// reserved costs several times a rewrite.
const PREWRITE_BYTES_MAX: u64 = 128 << 20;
const PREWRITE_CHUNK: usize = 1 << 20;

/// Whether formatting may destroy a store that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Destroy,
}

/// Who a new store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UUID, bytes in text order.
    pub store: [u8; 16],
    /// Index of the target in its engine.
    pub target: u32,
}

/// The records to apply after opening, oldest first.
pub struct Recovery {
    /// The owner's root, as of the checkpoint.
    pub root: Vec<u8>,
    scanner: Scanner,
    /// Reads the same records, some time before.
    ahead: Scanner,
    records: u64,
    /// Superblock copies to rewrite, the one not relied on first.
    rewrite: [u32; COPIES as usize],
}

/// What a recovery did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Records applied again.
    pub records: u64,
    pub from: Lsn,
    pub to: Lsn,
}

impl Recovery {
    /// The next record to apply; `None` when there are no more.
    ///
    /// # Errors
    /// - `Corrupt`: acknowledged records cannot be read. Restore the log, or rebuild the target.
    /// - `Read`: the device fails.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        let next = self.scanner.next_record()?;
        self.records += next.is_some() as u64;
        Ok(next)
    }

    /// The record after the last that this gave, to know early what will be applied. `None`: there are no more, or
    /// one cannot be read, which [`Recovery::next_record`] will tell.
    pub fn look_ahead(&mut self) -> Option<Record<'_>> {
        self.ahead.next_record().unwrap_or_default()
    }

    /// Ends the log where it could not be read: what follows is given up. For repair, when an operator says
    /// so, and for looking.
    pub fn give_up(&mut self) {
        self.scanner.give_up();
    }

    /// Where the log ends; `None` before the last record was asked for.
    pub fn end(&self) -> Option<Lsn> {
        self.scanner.end()
    }
}

impl Store {
    /// Makes an empty store in `regions` and opens it. `budget_bytes` is for pages in memory.
    ///
    /// A file that is shorter than its region is extended, with its space reserved.
    ///
    /// # Errors
    /// `Format`: there is a store already, a region is too small or too large, or a device fails.
    pub fn format(regions: Regions, identity: Identity, budget_bytes: usize, existing: Existing) -> Result<Store> {
        let regions = trim(regions)?;
        for (_, region) in regions.each() {
            // A file that has its size already was made so on purpose: thin, for a store that shall take
            // space only as it fills.
            region.allocate().map_err(|cause| device_error(region, cause))?;
        }
        if existing == Existing::Refuse {
            regions.each().try_for_each(|(_, region)| refuse_existing(region))?;
        }
        let device = |region: &Region, cause| Error::from(device_error(region, cause));
        let (pages, page_device) = (regions.pages(), regions.page_device());
        // First of all the old superblocks go: half a format must not look like the old store.
        pages.write_now(0, &[0; BLOCK_BYTES * COPIES as usize]).map_err(|cause| device(pages, cause))?;
        pages.sync_now().map_err(|cause| device(pages, cause))?;
        let log_region = &regions.log;
        if log_region.bytes() <= PREWRITE_BYTES_MAX && !log_region.disk.is_memory() {
            let zeros = rt::disk::IoBuf::zeroed(PREWRITE_CHUNK);
            for offset in (0..log_region.bytes()).step_by(PREWRITE_CHUNK) {
                let length = (log_region.bytes() - offset).min(PREWRITE_CHUNK as u64) as usize;
                log_region.write_now(offset, &zeros[..length]).map_err(|cause| device(log_region, cause))?;
            }
        }
        for (role, region) in regions.each().filter(|(role, _)| *role != page_device) {
            let header = encode_region_header(identity.store, identity.target, role);
            let block = rt::disk::IoBuf::from_slice(header.as_bytes());
            region.write_now(0, &block).and_then(|()| region.sync_now()).map_err(|cause| device(region, cause))?;
        }

        let page_blocks = (regions.pages().bytes() / BLOCK_BYTES as u64) as u32;
        let bitmaps = pages_to_keep(regions.blocks(), page_blocks);
        let area = area(&regions, bitmaps);
        let mut image = Bitmap::new(area.blocks);
        image.set(Extent { block: 0, blocks: area.first });
        image.touch_all();
        let mut space = Space::new(area, image);
        space.go_live();
        let anchor = Anchor {
            store: identity.store,
            target: identity.target,
            sequence: 0,
            checkpoint: 0,
            data_bytes: regions.data.bytes(),
            log_bytes: regions.log.bytes(),
            incarnation: 1,
            root_block: 0,
            root_bytes: 0,
            root_crc: 0,
            frames: 0,
            log_start: 1,
            metadata_bytes: regions.metadata.as_ref().map_or(0, Region::bytes),
            bitmaps,
            closed: 0,
        };
        // Slot 1 as the present one, so that the first checkpoint writes slot 0.
        let bitmaps = vec![Part { at: 1, crc: 0 }; page_count(area.blocks) as usize];
        let root = Root { bitmaps, ..Root::default() };
        let watch = Rc::new(Watch::new(page_device, pages));
        let pages = Pages::new(budget_bytes, 0, codec::crc32c(&identity.store), Some(loader(&watch, pages)))?;
        let mut log = Log::new(regions.log.bytes(), identity.store);
        log.resume(Lsn(0), Lsn(0), anchor.incarnation, anchor.sequence);
        let store = Store::assemble(regions, watch, anchor, log, pages, space, (root, Vec::new()));
        store.shared.checkpoint_blocking()?;
        store.shared.set_phase(Phase::Running);
        Ok(store)
    }

    /// Opens the store in `regions`. Apply what [`Recovery`] gives, then call [`Store::finish_recovery`];
    /// until then the store only replays.
    ///
    /// # Errors
    /// - `Format`: no store, another version, or both superblocks damaged; the text says what to do.
    /// - `Corrupt`, `Read`: something that everything else hangs on is unreadable.
    pub fn open(regions: Regions, budget_bytes: usize) -> Result<(Store, Recovery)> {
        let names: Vec<_> = regions.each().map(|(device, region)| (device, region.name())).collect();
        Store::open_judged(regions, budget_bytes, &mut |corrupt| {
            let device = match corrupt.place {
                Place::LogHeader => Device::Log,
                Place::DataHeader => Device::Data,
                _ => return Err(corrupt.into()),
            };
            // Nothing there rather than something damaged: the wrong device, or a new one.
            let Fault::Field { field: "magic", .. } = corrupt.fault else { return Err(corrupt.into()) };
            let (_, region) = names.iter().find(|(named, _)| *named == device).expect("every store has both");
            Err(FormatError::Missing { region: region.clone(), expected: format!("the {device}").into() }.into())
        })
    }

    /// Opens as [`Store::open`], and goes on without the headers of log and data, and without bitmap pages that cannot be read: their blocks count as free. `judge` hears of
    /// each, and may refuse. Before such a store takes updates it must be mended ([`Store::mend_space`],
    /// [`Store::write_headers`]).
    pub(crate) fn open_judged(
        regions: Regions,
        budget_bytes: usize,
        judge: &mut dyn FnMut(Corrupt) -> Result<()>,
    ) -> Result<(Store, Recovery)> {
        for (_, region) in regions.each() {
            region.sync_now().map_err(|cause| device_error(region, cause))?;
        }
        let (mut anchor, rewrite) = read_anchor(&regions)?;
        // Whatever is written from here on says nothing of it.
        let closed = std::mem::take(&mut anchor.closed);
        check_roles(&regions, &anchor, judge)?;
        let regions = fit(regions, &anchor)?;
        let tag = codec::crc32c(&anchor.store);
        let area = area(&regions, anchor.bitmaps);
        let device = regions.page_device();
        let reader = Reader { region: regions.pages(), device, tag, area, sequence: anchor.sequence };
        let (root, root_blocks) = reader.root(&anchor)?;
        let image = reader.bitmap(&root, judge)?;
        let addresses = reader.map(&root)?;
        let watch = Rc::new(Watch::new(device, regions.pages()));
        let mut pages = Pages::new(budget_bytes, anchor.frames, tag, Some(loader(&watch, regions.pages())))?;
        pages.restore(addresses.into_iter(), anchor.sequence);
        let space = Space::new(area, image);
        let log = Log::new(anchor.log_bytes, anchor.store);
        let (start, area) = (Lsn(anchor.checkpoint), log.area());
        let scanner = || {
            let (incarnation, sequence) = (anchor.log_start, anchor.sequence);
            Scanner::new(regions.log.clone(), area, anchor.store, start, incarnation, sequence, closed)
        };
        let (scanner, ahead) = (scanner(), scanner());
        let recovery = Recovery { root: root.owner.clone(), scanner, ahead, records: 0, rewrite };
        Ok((Store::assemble(regions, watch, anchor, log, pages, space, (root, root_blocks)), recovery))
    }

    /// Recovery is over: every record was applied. From here on the store takes updates.
    ///
    /// # Errors
    /// `Failed`: the superblock cannot be written.
    pub fn finish_recovery(&self, recovery: Recovery) -> Result<Recovered> {
        let shared = &*self.shared;
        let end = recovery.scanner.end().expect("recovery ends after the last record was asked for");
        let mut anchor = shared.catalog.borrow().anchor;
        let from = Lsn(anchor.checkpoint);
        anchor.incarnation += 1;
        anchor.sequence += 1;
        self.write_anchor(&anchor, recovery.rewrite)?;
        shared.catalog.borrow_mut().anchor = anchor;
        shared.log.borrow_mut().resume(from, end, anchor.incarnation, anchor.sequence);
        shared.space.borrow_mut().go_live();
        shared.set_phase(Phase::Running);
        Ok(Recovered { records: recovery.records, from, to: end })
    }

    /// Writes that the log ends here, so that the next open need not look for more behind it; if all of it is durable, and no
    /// checkpoint was broken off, whose writes may still be on their way.
    ///
    /// # Errors
    /// `Failed`: the superblock cannot be written.
    pub(crate) fn write_closed(&self) -> Result<()> {
        let (end, counts) = (self.shared.log.borrow().end(), self.shared.checkpoints.get());
        if self.shared.log.borrow().durable() < end || counts.begun > counts.done {
            return Ok(());
        }
        let mut anchor = self.shared.catalog.borrow().anchor;
        anchor.sequence += 1;
        anchor.closed = end.0;
        self.write_anchor(&anchor, [0, 1])
    }

    /// Writes both superblocks, one after the other: one of them is whole at any time.
    fn write_anchor(&self, anchor: &Anchor, order: [u32; 2]) -> Result<()> {
        let shared = &*self.shared;
        let (pages, device) = (shared.regions.pages(), shared.regions.page_device());
        for copy in order {
            let bytes = rt::disk::IoBuf::from_slice(anchor.encode(copy).as_bytes());
            pages
                .write_now(copy as u64 * BLOCK_BYTES as u64, &bytes)
                .and_then(|()| pages.sync_now())
                .map_err(|cause| shared.fail(device, cause))?;
        }
        Ok(())
    }
}

fn device_error(region: &Region, cause: impl ToString) -> FormatError {
    FormatError::Device { region: region.name(), cause: cause.to_string().into() }
}

/// Whole blocks, and sizes we can work with.
fn trim(regions: Regions) -> std::result::Result<Regions, FormatError> {
    let Regions { log, metadata, data } = &regions;
    // What pages need is the same wherever they lie.
    let data_bytes_min = data_bytes_min(&regions);
    let metadata_bytes = metadata.as_ref().map_or(0, Region::bytes);
    let data_bytes_max = DATA_BYTES_MAX.saturating_sub(metadata_bytes);
    let mut all = vec![(log, LOG_BYTES_MIN, u64::MAX)];
    all.extend(metadata.iter().map(|region| (region, DATA_BYTES_MIN, DATA_BYTES_MAX)));
    all.push((data, data_bytes_min, data_bytes_max));
    for (region, needed, bytes_max) in all {
        assert!(region.base.is_multiple_of(BLOCK_BYTES as u64), "regions start at a block");
        region.set_bytes(region.bytes() / BLOCK_BYTES as u64 * BLOCK_BYTES as u64);
        let (name, bytes) = (region.name(), region.bytes());
        if bytes < needed {
            return Err(FormatError::TooSmall { region: name, bytes, needed });
        }
        if bytes > bytes_max {
            return Err(FormatError::TooLarge { region: name, bytes, bytes_max });
        }
    }
    Ok(regions)
}

/// The blocks of a store in `regions`, with room for `bitmaps` bitmap pages.
fn area(regions: &Regions, bitmaps: u32) -> Area {
    Area { first: first_allocatable(bitmaps), bulk: regions.bulk_start(), blocks: regions.blocks() }
}

/// Refuses to format over anything of ours, in whatever role.
fn refuse_existing(region: &Region) -> std::result::Result<(), FormatError> {
    let mut block = rt::disk::IoBuf::zeroed(BLOCK_BYTES);
    for copy in 0..COPIES {
        region.read_now(copy as u64 * BLOCK_BYTES as u64, &mut block).map_err(|cause| device_error(region, cause))?;
        if !is_blank(&block) {
            // Damaged or not, somebody's data may hang on it.
            let store = decode_superblock(&block, copy).map_or("(damaged)".into(), |block| store_name(&block.store));
            return Err(FormatError::AlreadyFormatted { region: region.name(), store });
        }
        if let Ok(header) = decode_region_header(&block) {
            return Err(FormatError::AlreadyFormatted { region: region.name(), store: store_name(&header.store) });
        }
    }
    Ok(())
}

/// The newest superblock, and the order in which to rewrite the copies.
fn read_anchor(regions: &Regions) -> Result<(Anchor, [u32; 2])> {
    let data = regions.pages();
    let needed = DATA_BYTES_MIN;
    if data.bytes() < COPIES as u64 * BLOCK_BYTES as u64 {
        return Err(FormatError::TooSmall { region: data.name(), bytes: data.bytes(), needed }.into());
    }
    let mut copies = Vec::with_capacity(COPIES as usize);
    let mut blank = true;
    let mut stranger = None;
    for copy in 0..COPIES {
        let mut block = rt::disk::IoBuf::zeroed(BLOCK_BYTES);
        let read = data.read_now(copy as u64 * BLOCK_BYTES as u64, &mut block);
        if let Err(cause) = &read {
            tracing::warn!(copy, %cause, "a superblock cannot be read");
        }
        blank &= read.is_ok() && is_blank(&block);
        stranger = stranger.or(decode_region_header(&block).ok());
        copies.push(decode_superblock(&block, copy));
    }
    if let Some(header) = stranger.filter(|_| blank) {
        let expected = format!("the {} of a target", regions.page_device()).into();
        return Err(FormatError::Mismatch { region: data.name(), found: header.owner().into(), expected }.into());
    }
    if blank {
        return Err(FormatError::NotFormatted { region: data.name() }.into());
    }
    match (&copies[0], &copies[1]) {
        (Ok(first), Ok(second)) if second.sequence.get() > first.sequence.get() => Ok((Anchor::of(second), [0, 1])),
        (Ok(first), second) => {
            if let Err(fault) = second {
                tracing::warn!(%fault, "superblock 1 is damaged: going on with superblock 0");
            }
            Ok((Anchor::of(first), [1, 0]))
        }
        (Err(fault), Ok(second)) => {
            tracing::warn!(%fault, "superblock 0 is damaged: going on with superblock 1");
            Ok((Anchor::of(second), [0, 1]))
        }
        (Err(Fault::Field { field: "version", stored, .. }), Err(_))
        | (Err(_), Err(Fault::Field { field: "version", stored, .. })) => {
            let (region, version) = (data.name(), *stored as u32);
            Err(FormatError::Version { region, version, known: FORMAT_VERSION }.into())
        }
        (Err(first), Err(second)) => {
            Err(FormatError::BothSuperblocks { region: data.name(), first: *first, second: *second }.into())
        }
    }
}

/// The regions at the sizes that the superblock says; files and devices may be larger.
fn fit(regions: Regions, anchor: &Anchor) -> Result<Regions> {
    let Regions { log, metadata, data } = &regions;
    let mut all = vec![(log, anchor.log_bytes, LOG_BYTES_MIN, u64::MAX)];
    let data_bytes_min = data_bytes_min(&regions);
    all.extend(metadata.iter().map(|region| (region, anchor.metadata_bytes, DATA_BYTES_MIN, DATA_BYTES_MAX)));
    all.push((data, anchor.data_bytes, data_bytes_min, DATA_BYTES_MAX.saturating_sub(anchor.metadata_bytes)));
    for (region, needed, bytes_min, bytes_max) in all {
        // A superblock with a valid checksum and such a size is not ours, whatever else it is.
        if !needed.is_multiple_of(BLOCK_BYTES as u64) || !(bytes_min..=bytes_max).contains(&needed) {
            return Err(
                Corrupt { place: Place::Superblock { copy: 0 }, fault: field("bytes", needed, bytes_min) }.into()
            );
        }
        if region.bytes() < needed {
            return Err(FormatError::TooSmall { region: region.name(), bytes: region.bytes(), needed }.into());
        }
        region.set_bytes(needed);
    }
    let bitmaps = anchor.bitmaps;
    let needed = page_count(regions.blocks());
    let page_blocks = regions.pages().bytes() / BLOCK_BYTES as u64;
    if !(needed..=page_count(u32::MAX)).contains(&bitmaps) || u64::from(first_allocatable(bitmaps)) >= page_blocks {
        let fault = field("bitmaps", bitmaps.into(), needed.into());
        return Err(Corrupt { place: Place::Superblock { copy: 0 }, fault }.into());
    }
    Ok(regions)
}

/// The smallest data region: bulk alone needs its header and something behind it.
pub(crate) fn data_bytes_min(regions: &Regions) -> u64 {
    if regions.metadata.is_some() { 2 * BLOCK_BYTES as u64 } else { DATA_BYTES_MIN }
}

/// The largest data region that a bitmap of `bitmaps` pages covers.
pub(crate) fn data_bytes_max(regions: &Regions, bitmaps: u32) -> u64 {
    let metadata_bytes = regions.metadata.as_ref().map_or(0, Region::bytes);
    let blocks = (u64::from(bitmaps) * u64::from(BITMAP_BLOCKS)).min(u64::from(u32::MAX - 1));
    regions.data_bytes_of(blocks as u32).min(DATA_BYTES_MAX.saturating_sub(metadata_bytes))
}

/// Whether every region is of the superblock's store, and in its role. `judge` hears of damaged headers.
fn check_roles(regions: &Regions, anchor: &Anchor, judge: &mut dyn FnMut(Corrupt) -> Result<()>) -> Result<()> {
    let page_device = regions.page_device();
    if anchor.device() != page_device {
        let region = regions.pages().name();
        let (found, expected) = (anchor.owner(anchor.device()).into(), anchor.owner(page_device).into());
        return Err(FormatError::Mismatch { region, found, expected }.into());
    }
    for (device, region) in regions.each().filter(|(device, _)| *device != page_device) {
        let bytes = if device == Device::Log { anchor.log_bytes } else { anchor.data_bytes };
        match check_header(device, region, bytes, anchor) {
            Err(Error::Corrupt(corrupt)) => judge(corrupt)?,
            checked => checked?,
        }
    }
    Ok(())
}

fn check_header(device: Device, region: &Region, bytes: u64, anchor: &Anchor) -> Result<()> {
    if region.bytes() < BLOCK_BYTES as u64 {
        return Err(FormatError::TooSmall { region: region.name(), bytes: region.bytes(), needed: bytes }.into());
    }
    let place = if device == Device::Log { Place::LogHeader } else { Place::DataHeader };
    let mut block = rt::disk::IoBuf::zeroed(BLOCK_BYTES);
    region.read_now(0, &mut block).map_err(|cause| Error::Read { place, device, cause })?;
    let mismatch = |found: String| {
        let expected = anchor.owner(device).into();
        Err(FormatError::Mismatch { region: region.name(), found: found.into(), expected }.into())
    };
    if let Ok(superblock) = decode_superblock(&block, 0) {
        let other = Anchor::of(&superblock);
        return mismatch(other.owner(other.device()));
    }
    let header = decode_region_header(&block).map_err(|fault| Corrupt { place, fault })?;
    if (header.store, header.target.get(), header.role.get()) != (anchor.store, anchor.target, role(device)) {
        return mismatch(header.owner());
    }
    Ok(())
}

/// Reads what a superblock points at.
struct Reader<'a> {
    region: &'a Region,
    device: Device,
    tag: u32,
    area: Area,
    sequence: u64,
}

impl Reader<'_> {
    fn root(&self, anchor: &Anchor) -> Result<(Root, Vec<u32>)> {
        let length = anchor.root_bytes as usize;
        let place = Place::Root { block: anchor.root_block };
        if length > BLOB_BYTES_MAX {
            return Err(Corrupt { place, fault: field("root_bytes", length as u64, BLOB_BYTES_MAX as u64) }.into());
        }
        let mut blob = Vec::with_capacity(length);
        let mut blocks = Vec::new();
        let mut next = anchor.root_block;
        for index in 0..block_count(length) as u32 {
            let place = Place::Root { block: next };
            let bytes = self.read(next, BLOCK_BYTES, place)?;
            let link = decode_root_block(&bytes)
                .and_then(|link| match (link.store.get(), link.index.get()) {
                    (store, _) if store != self.tag => Err(field("store", store.into(), self.tag.into())),
                    (_, stored) if stored != index => Err(field("root index", stored.into(), index.into())),
                    _ => Ok(link),
                })
                .map_err(|fault| Corrupt { place, fault })?;
            blob.extend_from_slice(&link.payload[..link.length.get() as usize]);
            blocks.push(next);
            next = link.next.get();
        }
        if blob.len() != length {
            return Err(Corrupt { place, fault: field("root_bytes", blob.len() as u64, length as u64) }.into());
        }
        let computed = codec::crc32c(&blob);
        if computed != anchor.root_crc {
            return Err(Corrupt { place, fault: Fault::Checksum { stored: anchor.root_crc, computed } }.into());
        }
        let root = decode_root(&blob).map_err(|fault| Corrupt { place, fault })?;
        let expected = page_count(self.area.blocks) as usize;
        if root.bitmaps.len() != expected {
            return Err(Corrupt { place, fault: field("bitmaps", root.bitmaps.len() as u64, expected as u64) }.into());
        }
        // Ids are reused, so there are no more of them than pages were ever alive at once.
        // At once, and at any time: the region may have been larger.
        let reach = u64::from(anchor.bitmaps) * u64::from(BITMAP_BLOCKS);
        let maps_max = reach as usize / MAP_ENTRIES + 2;
        if root.maps.len() > maps_max {
            return Err(Corrupt { place, fault: field("maps", root.maps.len() as u64, maps_max as u64) }.into());
        }
        Ok((root, blocks))
    }

    fn bitmap(&self, root: &Root, judge: &mut dyn FnMut(Corrupt) -> Result<()>) -> Result<Bitmap> {
        let mut bitmap = Bitmap::new(self.area.blocks);
        for (index, part) in (0..).zip(&root.bitmaps) {
            let block = slot_block(index, (part.at & 1) as u8);
            let place = Place::Bitmap { index, block };
            match self.part(block, place, index, KIND_BITMAP, part.crc) {
                Ok(bytes) => bitmap.load(index, &bytes),
                Err(Error::Corrupt(corrupt)) => {
                    judge(corrupt)?;
                    bitmap.touch_page(index);
                }
                Err(other) => return Err(other),
            }
        }
        // What lies before is no page's to say, whether it could be read or not.
        if !bitmap.all_set(Extent { block: 0, blocks: self.area.first }) {
            bitmap.set(Extent { block: 0, blocks: self.area.first });
        }
        Ok(bitmap)
    }

    fn map(&self, root: &Root) -> Result<Vec<u32>> {
        let mut addresses = Vec::with_capacity(root.maps.len() * MAP_ENTRIES);
        for (index, part) in (0..).zip(&root.maps) {
            if part.at == 0 {
                addresses.resize(addresses.len() + MAP_ENTRIES, 0);
                continue;
            }
            let place = Place::Map { index, block: part.at };
            let bytes = self.part(part.at, place, index, KIND_MAP, part.crc)?;
            let page = MapPage::ref_from_bytes(&bytes).expect("a page has the size of a map page");
            for block in &page.blocks {
                let block = block.get();
                if block != 0 {
                    self.check(block, PAGE_BLOCKS, place)?;
                }
                addresses.push(block);
            }
        }
        Ok(addresses)
    }

    /// A map or bitmap page: valid, and the very one that the root names.
    fn part(&self, block: u32, place: Place, index: u32, kind: u16, crc: u32) -> Result<Vec<u8>> {
        let bytes = self.read(block, PAGE_BYTES, place)?;
        let expected = Seal { page: index, kind, lsn: 0, store: self.tag, checkpoint: self.sequence };
        let header = page::verify(&bytes, expected).map_err(|fault| Corrupt { place, fault })?;
        if header.crc.get() != crc {
            let fault = Fault::Checksum { stored: header.crc.get(), computed: crc };
            return Err(Corrupt { place, fault }.into());
        }
        Ok(bytes)
    }

    fn read(&self, block: u32, bytes: usize, place: Place) -> Result<Vec<u8>> {
        if !matches!(place, Place::Bitmap { .. }) {
            self.check(block, (bytes / BLOCK_BYTES) as u32, place)?;
        }
        let mut buffer = vec![0; bytes];
        self.region.read_now(block as u64 * BLOCK_BYTES as u64, &mut buffer).map_err(|cause| Error::Read {
            place,
            device: self.device,
            cause,
        })?;
        Ok(buffer)
    }

    fn check(&self, block: u32, blocks: u32, place: Place) -> Result<()> {
        if block < self.area.first || block as u64 + blocks as u64 > self.area.page_end() as u64 {
            return Err(Corrupt { place, fault: Fault::Block { block, state: "outside the region" } }.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rt::disk::{Disk, OpenMode};
    use rt::sim::{Sim, SimConfig};

    use super::*;
    use crate::checkpoint::{Checkpoint, Step};
    use crate::log::Reserve;

    fn on_a_machine(life: impl FnOnce() + 'static) {
        let sim = Sim::new(SimConfig::seeded(1));
        let node = sim.node("target");
        sim.run(async move { rt::sim::current().spawn_on(node, async move { life() }).await.unwrap() });
    }

    fn regions() -> Regions {
        let disk = |path| Disk::open(path, OpenMode { create: true, ..OpenMode::default() }).unwrap();
        Regions {
            log: Region::new(disk("/log"), 0, LOG_BYTES_MIN),
            metadata: None,
            data: Region::new(disk("/data"), 0, DATA_BYTES_MIN),
        }
    }

    fn format() -> Store {
        Store::format(regions(), Identity { store: [7; 16], target: 0 }, 0, Existing::Refuse).unwrap()
    }

    fn reopen() -> (Store, Vec<Vec<u8>>) {
        let (store, mut recovery) = Store::open(regions(), 0).unwrap();
        let mut payloads = Vec::new();
        while let Some(record) = recovery.next_record().unwrap() {
            payloads.push(record.payload.to_vec());
        }
        store.finish_recovery(recovery).unwrap();
        (store, payloads)
    }

    /// Two batches in one flush; the first is lost, the second reaches the device. Recovery ends before
    /// both. A batch of the next life takes the place of the first, and the second, though whole and in its
    /// place, must not follow it.
    #[test]
    fn a_batch_from_before_a_recovery_never_joins_the_line_again() {
        on_a_machine(|| {
            let store = format();
            store.append(1, &[b"acknowledged"], Reserve::Normal).unwrap();
            store.flush_now().unwrap();
            store.append(1, &[b"lost"], Reserve::Normal).unwrap();
            store.shared.log.borrow_mut().boundary();
            store.append(1, &[b"kept"], Reserve::Normal).unwrap();
            let work = store.shared.log.borrow_mut().take().unwrap();
            let [_, (offset, kept)] = &work.writes[..] else { panic!("two batches") };
            store.shared.regions.log.write_now(*offset, kept).unwrap();
            drop(store);
            let (store, payloads) = reopen();
            assert_eq!(payloads, [b"acknowledged"]);
            store.append(1, &[b"new"], Reserve::Normal).unwrap();
            store.flush_now().unwrap();
            drop(store);
            assert_eq!(reopen().1, [&b"acknowledged"[..], b"new"]);
        });
    }

    /// The last batch of a log proves nothing of itself, and nothing comes behind it: rotten, it was taken for the torn end of a
    /// crash, although it had been acknowledged. Of a store that was closed it is known.
    #[test]
    fn the_last_batch_of_a_closed_store_is_missed() {
        on_a_machine(|| {
            let store = format();
            for payload in [&b"first"[..], b"last"] {
                store.append(1, &[payload], Reserve::Normal).unwrap();
                store.flush_now().unwrap();
            }
            store.write_closed().unwrap();
            drop(store);
            let block = 2 * BLOCK_BYTES as u64;
            let mut last = vec![0; BLOCK_BYTES];
            regions().log.read_now(block, &mut last).unwrap();
            let rot = |bytes: &[u8]| regions().log.write_now(block, &rt::disk::IoBuf::from_slice(bytes)).unwrap();
            rot(&[0; BLOCK_BYTES]);
            let (_, mut recovery) = Store::open(regions(), 0).unwrap();
            assert_eq!(recovery.next_record().unwrap().unwrap().payload, b"first");
            assert!(matches!(recovery.next_record(), Err(Error::Corrupt(Corrupt { fault: Fault::Gap { .. }, .. }))));
            // Whole again, it is read, and whoever opens writes that the store is not closed any more.
            rot(&last);
            assert_eq!(reopen().1, [&b"first"[..], b"last"]);
            assert_eq!(read_anchor(&regions()).unwrap().0.closed, 0);
            rot(&[0; BLOCK_BYTES]);
            assert_eq!(reopen().1, [b"first"]);
        });
    }

    /// At no moment may a crash find both superblocks half written, or one that points at what is not
    /// durable.
    #[test]
    fn superblocks_are_written_one_at_a_time_behind_what_they_name() {
        on_a_machine(|| {
            let store = format();
            store.pages().allocate().unwrap();
            let mut staging = store.staging();
            staging.add(&[7; 3000]).unwrap();
            store.append(1, &[b"a staged value"], Reserve::Normal).unwrap();
            staging.commit();
            let mut checkpoint = Checkpoint::begin(&store.shared);
            let mut steps = Vec::new();
            loop {
                match checkpoint.step(&store.shared).unwrap() {
                    Step::Flush(_) => {
                        store.flush_now().unwrap();
                        steps.push("flush".to_owned());
                    }
                    Step::Write { block, .. } if block < COPIES => steps.push(format!("superblock {block}")),
                    Step::Write { .. } if steps.last().is_some_and(|last| last == "write") => {}
                    Step::Write { .. } => steps.push("write".to_owned()),
                    Step::WriteData { .. } => steps.push("data".to_owned()),
                    Step::SyncData => steps.push("sync of data".to_owned()),
                    Step::Sync => steps.push("sync".to_owned()),
                    Step::Pause => {}
                    Step::Done => break,
                }
            }
            assert_eq!(steps, ["flush", "data", "write", "sync", "superblock 0", "sync", "superblock 1", "sync"]);
        });
    }
}

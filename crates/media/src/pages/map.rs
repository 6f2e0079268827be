//! The page map: for each page id, where the page lies on the device and in memory.
//!
//! In memory one 16-byte entry an id, so that a page is found by one array index. On the device the
//! block addresses alone, in map pages of [`MAP_ENTRIES`] ids each, written to a new place whenever a
//! checkpoint changed one of theirs.

use std::cell::Cell;
use std::mem::size_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::frame::Frame;
use crate::page::{PAGE_BODY_BYTES, PAGE_BYTES, PageHeader};

/// Ids a map page covers.
pub const MAP_ENTRIES: usize = PAGE_BODY_BYTES / 4;

/// No frame holds the page.
pub(crate) const NO_FRAME: Frame = u32::MAX;
/// The page was never written. Block 0 is a superblock, so it is free to mean this.
pub(crate) const NO_BLOCK: u32 = 0;

/// State of an entry. Values from `FIRST_GENERATION` up mean: changed in that generation and not yet
/// copied out by a checkpoint.
///
/// ```text
///            allocate              get_mut           copied out           write done
///   FREE ---------------> dirty(g) <------- CLEAN   dirty(g) ---> WRITING ----------> CLEAN
///    ^                       |                 ^                    |
///    +------- free ----------+---- evict/load -+--- get_mut: dirty -+
/// ```
pub(crate) const FREE: u32 = 0;
/// Equal to its copy on the device: may be evicted.
pub(crate) const CLEAN: u32 = 1;
/// Copied into a write that has not finished: unchanged since, but not to be evicted.
pub(crate) const WRITING: u32 = 2;
/// The first dirty generation.
pub(crate) const FIRST_GENERATION: u32 = 16;

/// One page id.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Frame that holds the page, or `NO_FRAME`.
    pub(crate) frame: Cell<Frame>,
    /// Operation that last touched it.
    pub(crate) touched: Cell<u32>,
    /// Block of its newest copy on the device, or `NO_BLOCK`.
    pub(crate) block: Cell<u32>,
    pub(crate) state: Cell<u32>,
}
const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    pub(crate) fn free() -> Entry {
        Entry { frame: Cell::new(NO_FRAME), touched: Cell::new(0), block: Cell::new(NO_BLOCK), state: Cell::new(FREE) }
    }

    pub(crate) fn on_device(block: u32) -> Entry {
        let entry = Entry::free();
        if block != NO_BLOCK {
            entry.block.set(block);
            entry.state.set(CLEAN);
        }
        entry
    }
}

/// Map page: addresses of 2040 consecutive page ids. 8192 bytes, little-endian. Ours.
///
/// | offset | bytes | field  | meaning                                                             |
/// |-------:|------:|--------|---------------------------------------------------------------------|
/// |      0 |    32 | header | [`PageHeader`]: kind 0xff01, page = index of the map page           |
/// |     32 |  8160 | blocks | block of page id `index * 2040 + i`, 2 blocks long; 0 = no such page |
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MapPage {
    pub header: PageHeader,
    pub blocks: [U32; MAP_ENTRIES],
}
const _: () = assert!(size_of::<MapPage>() == PAGE_BYTES);
const _: () = assert!(std::mem::offset_of!(MapPage, blocks) == 32);

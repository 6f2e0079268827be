//! Who owns which block: what is referenced, compared with what is allocated, block by block (K8).
//!
//! `check` asks whether they agree; an inspector wants to know all the places where they do not, and a
//! repair makes them agree.

use std::collections::BTreeMap;

use crate::error::{Corrupt, Fault, Place, Result};
use crate::log::Lsn;
use crate::page::PageId;
use crate::space::bitmap::Bitmap;
use crate::space::{Extent, PAGE_BLOCKS, Space, SpaceUse};
use crate::store::{Phase, Store};

/// Differences listed one by one; beyond them only sums are kept.
pub const DIFFERENCES_MAX: usize = 1024;

/// What a repair does with blocks that nobody refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaks {
    Free,
    /// Some references could not be read: what looks leaked may be somebody's.
    Keep,
}

/// All blocks of a store, by who refers to them. Sums are in blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciliation {
    /// What the allocator says, in bytes.
    pub space: SpaceUse,
    /// Referenced by pages; and, of these, by pages given up that the newest checkpoint still names.
    pub pages: u64,
    pub dropped: u64,
    /// Referenced by page map and root blob.
    pub map: u64,
    pub root: u64,
    /// Referenced by bulk values.
    pub bulk: u64,
    /// Allocated, and nobody's: in all, and the first runs of them.
    pub leaked_blocks: u64,
    pub leaked: Vec<Extent>,
    /// References that cannot hold: in all, and the first of them.
    pub conflicts: u64,
    pub conflicting: Vec<(Extent, Corrupt)>,
}

impl Reconciliation {
    /// Every reference is to allocated blocks of its own, and nothing else is allocated.
    pub fn agrees(&self) -> bool {
        self.leaked_blocks == 0 && self.conflicts == 0
    }

    /// The first difference.
    pub(crate) fn first(&self) -> Option<Corrupt> {
        let leak = |extent: &Extent| {
            let block = extent.block;
            Corrupt { place: Place::Bulk { block }, fault: Fault::Block { block, state: LEAKED } }
        };
        self.conflicting.first().map(|(_, corrupt)| *corrupt).or_else(|| self.leaked.first().map(leak))
    }
}

const LEAKED: &str = "allocated, but nobody's";
/// A reference to blocks that are free: they could be given to somebody else.
const UNALLOCATED: &str = "used, but not allocated";
const TWICE: &str = "used twice";
const OUTSIDE: &str = "outside the region";

/// References being gathered.
struct Claims<'a> {
    space: &'a Space,
    owned: Bitmap,
    conflicts: u64,
    conflicting: Vec<(Extent, Corrupt)>,
    /// Blocks referenced and free.
    unallocated: Vec<Extent>,
}

impl Claims<'_> {
    fn claim(&mut self, extent: Extent, place: Place) -> u64 {
        if !self.space.area().contains(extent) {
            self.note(extent, place, OUTSIDE);
            return 0;
        }
        if !self.space.live().all_set(extent) {
            self.note(extent, place, UNALLOCATED);
            self.unallocated.push(extent);
        }
        if !self.owned.all_clear(extent) {
            self.note(extent, place, TWICE);
        }
        self.owned.set(extent);
        extent.blocks as u64
    }

    fn note(&mut self, extent: Extent, place: Place, state: &'static str) {
        self.conflicts += 1;
        if self.conflicting.len() < DIFFERENCES_MAX {
            self.conflicting.push((extent, Corrupt { place, fault: Fault::Block { block: extent.block, state } }));
        }
    }
}

impl Store {
    /// Compares all references to blocks with what is allocated. `bulk` must be every extent that the
    /// owner's trees name. Call it while no checkpoint runs.
    ///
    /// # Errors
    /// `Corrupt(Block)`: a block is free and allocated at once.
    pub fn reconcile(&self, bulk: impl IntoIterator<Item = Extent>) -> Result<Reconciliation> {
        Ok(self.compare(bulk)?.0)
    }

    /// Makes the allocator agree with the references: takes what is referenced and free, and gives leaked
    /// blocks back if `leaks` says so. For a store whose recovery is not finished; the next checkpoint makes
    /// it durable. Returns blocks given back, and blocks taken. Blocks with two owners stay as they are.
    ///
    /// # Errors
    /// As [`Store::reconcile`].
    ///
    /// # Panics
    /// When the store is in service: readers may hold what nobody refers to any more.
    pub fn mend_space(&self, bulk: impl IntoIterator<Item = Extent>, leaks: Leaks) -> Result<(u64, u64)> {
        assert!(matches!(&*self.shared.phase.borrow(), Phase::Recovering), "only a store at rest is mended");
        let (_, owned, unallocated) = self.compare(bulk)?;
        let mut space = self.shared.space.borrow_mut();
        let (mut given, mut taken) = (0, 0);
        for extent in unallocated {
            for block in extent.block..extent.block + extent.blocks {
                let one = Extent { block, blocks: 1 };
                if space.live().all_clear(one) {
                    space.mark_allocated(one)?;
                    taken += 1;
                }
            }
        }
        if leaks == Leaks::Keep {
            return Ok((0, taken));
        }
        for run in leaked_runs(&space, &owned) {
            given += run.blocks as u64;
            // While records are replayed, what is released is free at once: no checkpoint of ours needs it,
            // and the one on the device is replaced as a whole.
            space.release(run, Lsn(0))?;
            self.shared.stage.borrow_mut().forget(run);
        }
        Ok((given, taken))
    }

    fn compare(&self, bulk: impl IntoIterator<Item = Extent>) -> Result<(Reconciliation, Bitmap, Vec<Extent>)> {
        let space = self.shared.space.borrow();
        let pages = self.shared.pages.borrow();
        let catalog = self.shared.catalog.borrow();
        space.check()?;
        let mut claims = Claims {
            space: &space,
            owned: Bitmap::new(space.area().blocks),
            conflicts: 0,
            conflicting: Vec::new(),
            unallocated: Vec::new(),
        };
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        let mut add = |kind, blocks| *sums.entry(kind).or_insert(0) += blocks;
        for (page, block) in pages.blocks() {
            add("pages", claims.claim(Extent { block, blocks: PAGE_BLOCKS }, Place::Page { page, block }));
        }
        for &block in pages.dropped() {
            let place = Place::Page { page: PageId::NONE, block };
            add("dropped", claims.claim(Extent { block, blocks: PAGE_BLOCKS }, place));
        }
        for (index, part) in (0..).zip(&catalog.root.maps) {
            if part.at != 0 {
                let place = Place::Map { index, block: part.at };
                add("map", claims.claim(Extent { block: part.at, blocks: PAGE_BLOCKS }, place));
            }
        }
        for &block in &catalog.root_blocks {
            add("root", claims.claim(Extent { block, blocks: 1 }, Place::Root { block }));
        }
        for extent in bulk {
            add("bulk", claims.claim(extent, Place::Bulk { block: extent.block }));
        }
        let Claims { owned, conflicts, conflicting, unallocated, .. } = claims;
        let (mut leaked, mut leaked_blocks) = (Vec::new(), 0);
        for run in leaked_runs(&space, &owned) {
            leaked_blocks += run.blocks as u64;
            if leaked.len() < DIFFERENCES_MAX {
                leaked.push(run);
            }
        }
        let sum = |kind| sums.get(kind).copied().unwrap_or(0);
        let found = Reconciliation {
            space: space.usage(),
            pages: sum("pages"),
            dropped: sum("dropped"),
            map: sum("map"),
            root: sum("root"),
            bulk: sum("bulk"),
            leaked_blocks,
            leaked,
            conflicts,
            conflicting,
        };
        Ok((found, owned, unallocated))
    }
}

/// Runs of blocks that are allocated, and nobody's.
fn leaked_runs(space: &Space, owned: &Bitmap) -> Vec<Extent> {
    let mut runs = Vec::new();
    let area = space.area();
    let mut at = area.first;
    while let Some(gap) = owned.next_clear_run(at, area.blocks) {
        let end = gap.block + gap.blocks;
        let mut from = gap.block;
        while let Some(run) = space.live().next_set_run(from, end) {
            from = run.block + run.blocks;
            // A run is of one region: what lies across the border is two.
            let border = area.page_end().clamp(run.block, from);
            let parts = [(run.block, border), (border, from)].into_iter().filter(|(start, end)| start < end);
            runs.extend(parts.map(|(start, end)| Extent { block: start, blocks: end - start }));
        }
        at = end;
    }
    runs
}

//! Walking a whole store and asserting what must hold of its space (K8).

use crate::error::{Corrupt, Error, Fault, Place, Result};
use crate::page::PageId;
use crate::space::bitmap::Bitmap;
use crate::space::{Extent, PAGE_BLOCKS, SpaceUse};
use crate::store::Store;

impl Store {
    /// Checks that every allocated block has exactly one owner: a page, the map, the root blob, or one of
    /// `bulk`, which must be every extent that the owner's tree names. Returns the sums.
    ///
    /// Call it while no checkpoint runs (with the tasks stopped, or right after `checkpoint_now`).
    ///
    /// # Errors
    /// `Corrupt(Block)`: the first block with no owner, or with two.
    pub fn check(&self, bulk: impl IntoIterator<Item = Extent>) -> Result<SpaceUse> {
        let space = self.shared.space.borrow();
        let pages = self.shared.pages.borrow();
        let catalog = self.shared.catalog.borrow();
        space.check()?;
        let mut owned = Bitmap::new(space.blocks());
        let mut claim = |extent: Extent, place: Place| {
            let fault = |state| Error::from(Corrupt { place, fault: Fault::Block { block: extent.block, state } });
            if extent.block < space.first() || extent.end() > space.blocks() as u64 {
                return Err(fault("outside the region"));
            }
            if !space.live().all_set(extent) {
                return Err(fault("used, but not allocated"));
            }
            if !owned.all_clear(extent) {
                return Err(fault("used twice"));
            }
            owned.set(extent);
            Ok(())
        };
        for (page, block) in pages.blocks() {
            claim(Extent { block, blocks: PAGE_BLOCKS }, Place::Page { page, block })?;
        }
        for &block in pages.dropped() {
            claim(Extent { block, blocks: PAGE_BLOCKS }, Place::Page { page: PageId::NONE, block })?;
        }
        for (index, part) in (0..).zip(&catalog.root.maps) {
            if part.at != 0 {
                claim(Extent { block: part.at, blocks: PAGE_BLOCKS }, Place::Map { index, block: part.at })?;
            }
        }
        for &block in &catalog.root_blocks {
            claim(Extent { block, blocks: 1 }, Place::Root { block })?;
        }
        for extent in bulk {
            claim(extent, Place::Bulk { block: extent.block })?;
        }
        let whole = Extent { block: space.first(), blocks: space.blocks() - space.first() };
        if owned.count(whole) != space.live().count(whole) {
            let lost = (space.first()..space.blocks()).find(|&block| {
                !owned.all_set(Extent { block, blocks: 1 }) && space.live().all_set(Extent { block, blocks: 1 })
            });
            let block = lost.expect("the counts differ, and every owned block is allocated");
            let fault = Fault::Block { block, state: "allocated, but nobody's" };
            return Err(Corrupt { place: Place::Bulk { block }, fault }.into());
        }
        Ok(space.usage())
    }

    /// Reads every page and verifies it, and returns the first that is bad, if any.
    ///
    /// # Errors
    /// `Corrupt`, `Read`, with the place.
    pub fn check_pages(&self) -> Result<u64> {
        let ids: Vec<PageId> = self.pages_ref().ids().collect();
        for &id in &ids {
            let mut pages = self.pages();
            pages.begin_op();
            pages.get(id)?;
        }
        Ok(ids.len() as u64)
    }
}

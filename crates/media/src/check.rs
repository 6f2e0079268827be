//! Walking a whole store and asserting what must hold of its space (K8).

use crate::error::Result;
use crate::page::PageId;
use crate::space::{Extent, SpaceUse};
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
        let found = self.reconcile(bulk)?;
        match found.first() {
            Some(corrupt) => Err(corrupt.into()),
            None => Ok(found.space),
        }
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

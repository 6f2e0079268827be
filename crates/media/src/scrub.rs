//! Scrubbing pages: what lies on the device is read and verified before anybody needs it.
//!
//! A page that is damaged on the device, and whole in memory, is written to a new place by the next
//! checkpoint. One that is only on the device is lost; whoever owns it must derive it from elsewhere.
//!
//! # Not here
//! Bulk data: who refers to it knows its checksums.

use rt::disk::IoBuf;

use crate::error::{Corrupt, Error, Place, Result};
use crate::page::{PAGE_BYTES, PageId, Seal, verify};
use crate::region::{BLOCK_BYTES, TroubleKind};
use crate::store::Store;

/// What a part of a scrub found.
#[derive(Debug, Default)]
pub struct ScrubbedPages {
    /// Pages that were read and verified.
    pub pages: u64,
    /// The damaged ones, and whether each is whole in memory, so that the next checkpoint mends it.
    pub damaged: Vec<(Error, bool)>,
    /// Where to go on; `None` after the last page.
    pub next: Option<PageId>,
}

impl Store {
    /// Reads the next `limit` pages from `from` on that have a copy on the device, and verifies them; fewer when
    /// a checkpoint comes in between.
    ///
    /// # Errors
    /// `Failed`, `Stopped`. What is wrong with a page is part of the answer.
    pub async fn scrub_pages(&self, from: PageId, limit: usize) -> Result<ScrubbedPages> {
        let shared = &self.shared;
        let device = shared.regions.page_device();
        let some: Vec<(PageId, u32)> = self.pages_ref().blocks_from(from).take(limit + 1).collect();
        let mut found = ScrubbedPages { next: some.get(limit).map(|(id, _)| *id), ..ScrubbedPages::default() };
        for (id, block) in some.into_iter().take(limit) {
            shared.running()?;
            let at = u64::from(block) * BLOCK_BYTES as u64;
            let before = shared.quiet();
            let limit = shared.watch.limit.get();
            let (outcome, buffer) = shared.regions.pages().read(at, IoBuf::for_read(PAGE_BYTES), limit).await;
            if before.is_none() || shared.quiet() != before {
                // Where a checkpoint puts a page is known before it is there: come again.
                found.next = Some(id);
                return Ok(found);
            }
            let mut pages = self.pages();
            // Written anew meanwhile: what was read is nobody's any more.
            if pages.block_of(id) != Some(block) {
                continue;
            }
            found.pages += 1;
            let expected = Seal { page: id.0, kind: 0, lsn: 0, store: shared.tag, checkpoint: pages.newest() };
            let place = Place::Page { page: id, block };
            let damage = match outcome {
                Err(trouble) if trouble.kind == TroubleKind::Hang => {
                    return Err(shared.failed_by(device, trouble).into());
                }
                Err(trouble) => Error::Read { place, device, cause: trouble.cause },
                Ok(()) => match verify(&buffer, expected) {
                    Ok(_) => continue,
                    Err(fault) => Error::Corrupt(Corrupt { place, fault }),
                },
            };
            let is_mended = pages.is_resident(id);
            if is_mended {
                pages.begin_op();
                pages.get_mut(id)?;
                drop(pages);
                shared.request_checkpoint();
            }
            found.damaged.push((damage, is_mended));
        }
        Ok(found)
    }
}

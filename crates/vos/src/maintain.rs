//! Making room: removes what punches hide, and what destroyed containers held, a step at a time.
//!
//! Each step is a log record of its own, small, and the same when done again on the same state; so a crash
//! between two steps, or in one, loses nothing and leaks nothing.

use media::Pages;

use crate::catalog::{Catalog, Reclaim};
use crate::commit;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key;
use crate::record::ReclaimStep;
use crate::request::BulkList;
use crate::update;
use crate::value;

/// Records that one step of a reclaim looks at: bounds the time on the target's thread to well under a
/// millisecond when they are in memory.
pub(crate) const RECORDS_PER_STEP: u32 = 256;
/// Leaves that one step frees of a destroyed container.
pub(crate) const LEAVES_PER_STEP: u32 = 16;

/// Where the reclaim in progress stands. Forgotten in a crash: it then starts over, and finds less.
#[derive(Default)]
pub(crate) struct Progress {
    key: Vec<u8>,
    from: Vec<u8>,
}

/// What to do next.
pub(crate) enum Step {
    Free { owner: u32, leaves: u32 },
    Reclaim(ReclaimStep),
    Nothing,
}

/// Chooses the next step: destroyed containers first, they free most.
pub(crate) fn next(catalog: &Catalog, progress: &mut Progress) -> Result<Step> {
    if let Some(&owner) = catalog.garbage.keys().next() {
        return Ok(Step::Free { owner, leaves: LEAVES_PER_STEP });
    }
    let Some(key) = catalog.pending.first() else {
        return Ok(Step::Nothing);
    };
    if *key != progress.key {
        *progress = Progress { key: key.clone(), from: Vec::new() };
    }
    let Some(Reclaim { container, scope, version }) = Reclaim::read(key) else {
        return Err(Error::Corrupt { place: "the catalog".into(), fault: "a reclaim that cannot be read".into() });
    };
    let from = progress.from.clone();
    Ok(Step::Reclaim(ReclaimStep { container, version, limit: RECORDS_PER_STEP, scope, from }))
}

impl Progress {
    /// The step just done ended before `next`, or came to the end.
    pub(crate) fn advance(&mut self, next: Option<Vec<u8>>) {
        match next {
            Some(next) => self.from = next,
            None => *self = Progress::default(),
        }
    }
}

/// Frees some leaves of a destroyed container, and at last its root and head.
pub(crate) fn apply_free(
    catalog: &mut Catalog,
    pages: &mut Pages,
    owner: u32,
    leaves: u32,
    freed: &mut BulkList,
) -> Result<()> {
    if commit::drop_remains(catalog, pages, owner, leaves, freed)? {
        return Ok(());
    }
    let Some(shard) = catalog.garbage.get_mut(&owner) else {
        return Ok(());
    };
    let (pages_before, blocks_before) = (shard.pages(), shard.blocks);
    let mut more = true;
    for _ in 0..leaves {
        let first = freed.len();
        let mut key = Vec::new();
        more = shard.tree.drop_first_leaf(pages, |found, bytes| {
            found.copy_to(&mut key);
            freed.extend(key::read_record(&key).map(|record| value::blocks_of(record, bytes)).unwrap_or_default());
        })?;
        let blocks: u64 = freed[first..].iter().map(|piece| u64::from(piece.blocks)).sum();
        shard.blocks = shard.blocks.saturating_sub(blocks);
        if !more {
            break;
        }
    }
    shard.save_all(pages)?;
    let (pool, pages_after, blocks_after) = (shard.pool, shard.pages(), shard.blocks);
    if let Some(pool) = catalog.pools.get_mut(&pool) {
        pool.pages = pool.pages + pages_after - pages_before;
        pool.blocks = pool.blocks + blocks_after - blocks_before;
    }
    if !more {
        catalog.end_garbage(pages, owner)?;
    }
    Ok(())
}

/// Removes, among the next records of the scope, values older than the punch that no snapshot sees.
/// Returns where to go on, or `None` at the end of the scope.
pub(crate) fn apply_reclaim(
    catalog: &mut Catalog,
    pages: &mut Pages,
    step: &ReclaimStep,
    freed: &mut BulkList,
) -> Result<Option<Vec<u8>>> {
    if catalog.shard(step.container).is_err() {
        // The container went in the meantime, with all it held.
        catalog.end_reclaim(pages, step.container, &step.scope, step.version, false)?;
        return Ok(None);
    }
    let (next, held) = catalog.with_shard(step.container, |shard| {
        let start = if step.from.is_empty() { &step.scope } else { &step.from };
        let (mut gone, mut next, mut held) = (Vec::new(), None, false);
        let mut key = Vec::new();
        let mut cursor = Cursor::at(&shard.tree, pages, start)?;
        let mut seen = 0;
        while cursor.starts_with(&step.scope) {
            cursor.key().copy_to(&mut key);
            if seen >= step.limit {
                next = Some(key.clone());
                break;
            }
            seen += 1;
            match key::read_record(&key).filter(|record| record.is_value()).and_then(key::Record::version) {
                Some(version) if version < step.version => {
                    if shard.snapshot_within(version.epoch, step.version.epoch) {
                        held = true;
                    } else {
                        gone.push(key.clone());
                    }
                }
                _ => {}
            }
            cursor.next()?;
        }
        for key in &gone {
            update::remove(shard, pages, key, freed)?;
        }
        shard.save_all(pages)?;
        Ok((next, held))
    })?;
    if next.is_none() {
        // Steps before this one may have left something behind too: an answer from the whole scope needs
        // no memory of them.
        let held = held || still_held(catalog, pages, step)?;
        catalog.end_reclaim(pages, step.container, &step.scope, step.version, held)?;
    }
    Ok(next)
}

/// Whether anything older than the punch is left in its scope.
fn still_held(catalog: &Catalog, pages: &Pages, step: &ReclaimStep) -> Result<bool> {
    let shard = catalog.shard(step.container)?;
    if shard.snapshots.is_empty() || step.from.is_empty() {
        return Ok(false);
    }
    // Snapshots may hold any part of it; only the age of one would tell, so it stays in the list.
    Ok(shard.snapshots.iter().any(|snapshot| *snapshot < step.version.epoch)
        && Cursor::at(&shard.tree, pages, &step.scope)?.starts_with(&step.scope))
}

//! Making room, a step at a time: what destroyed containers held, what a rollback undoes, what nobody can
//! see any more.
//!
//! Each step is a log record of its own, small, and the same when done again on the same state; so a crash
//! between two steps, or in one, loses nothing and leaks nothing.

use media::Pages;
use types::Epoch;

use crate::aggregate::AggregateStep;
use crate::catalog::Catalog;
use crate::commit;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key;
use crate::record::Record;
use crate::request::BulkList;
use crate::shard::{Carry, Shard};
use crate::update;
use crate::value;

/// Records that one step looks at: bounds the time on the target's thread to well under a millisecond
/// when they are in memory.
pub(crate) const RECORDS_PER_STEP: u32 = 256;
/// Leaves that one step frees of a destroyed container.
pub(crate) const LEAVES_PER_STEP: u32 = 16;

/// Chooses the next step: destroyed containers first, they free most; then rollbacks, somebody waits for
/// them; then the pass under way, and then the container whose last pass is longest ago.
pub(crate) fn next(catalog: &Catalog) -> Option<Record<'static>> {
    if let Some(owner) = remains(catalog).next() {
        return Some(Record::Free { owner, leaves: LEAVES_PER_STEP });
    }
    let limit = RECORDS_PER_STEP;
    if let Some(shard) = catalog.shards.values().find(|shard| shard.rollback.is_some()) {
        return Some(Record::Discard { container: shard.id, limit, from: shard.discard_from.clone() });
    }
    let behind = catalog.shards.values().filter(|shard| shard.wants_aggregation());
    let shard = behind.min_by_key(|shard| (shard.pass.is_none(), shard.aggregated))?;
    let (since, until, carry, from) = match &shard.pass {
        Some(pass) => (pass.since, pass.until, pass.carry.clone(), pass.from.clone()),
        None => (shard.aggregated, shard.horizon, Carry::default(), Vec::new()),
    };
    Some(Record::Aggregate(AggregateStep { container: shard.id, since, until, limit, carry, from }))
}

/// Destroyed containers of which something can be freed.
fn remains(catalog: &Catalog) -> impl Iterator<Item = u32> {
    let ready = catalog.garbage.iter().filter(|(_, shard)| !commit::awaits_decision(catalog, shard));
    ready.map(|(owner, _)| *owner)
}

/// Whether anything is left to do.
pub(crate) fn is_wanted(catalog: &Catalog) -> bool {
    remains(catalog).next().is_some()
        || catalog.shards.values().any(|shard| shard.rollback.is_some() || shard.wants_aggregation())
}

/// Frees some leaves of a destroyed container, and at last its root and head.
pub(crate) fn apply_free(
    catalog: &mut Catalog,
    pages: &mut Pages,
    owner: u32,
    leaves: u32,
    freed: &mut BulkList,
) -> Result<()> {
    if commit::drop_remains(catalog, pages, owner, freed)? {
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

/// The container goes back to `to`: what is later is out of sight at once.
pub(crate) fn apply_rollback(shard: &mut Shard, pages: &mut Pages, to: Epoch, asked: Epoch) -> Result<()> {
    (shard.rollback, shard.undone) = (Some(to), asked);
    shard.snapshots.retain(|snapshot| *snapshot <= to);
    shard.pass = None;
    shard.discard_from.clear();
    shard.save_all(pages)
}

/// Removes some of what was written after the moment that the container goes back to. When all is gone, the
/// container is itself again.
pub(crate) fn apply_discard(
    shard: &mut Shard,
    pages: &mut Pages,
    limit: u32,
    from: &[u8],
    freed: &mut BulkList,
) -> Result<()> {
    let Some(to) = shard.rollback else {
        return Ok(());
    };
    let (mut gone, mut next) = (Vec::new(), None);
    let mut key = Vec::new();
    let mut cursor = Cursor::at(&shard.tree, pages, from)?;
    cursor.seek_changed(to.0)?;
    for looked in 0.. {
        if !cursor.is_valid() {
            break;
        }
        cursor.key().copy_to(&mut key);
        if looked >= limit {
            next = Some(key.clone());
            break;
        }
        if let Some(record) = key::read_record(&key)
            && record.version().is_some_and(|version| version.epoch > to)
        {
            gone.push(key.clone());
            shard.punches = shard.punches.saturating_sub(u64::from(!record.is_value()));
        }
        cursor.next_changed(to.0)?;
    }
    for key in &gone {
        update::remove(shard, pages, key, freed)?;
    }
    if next.is_none() {
        shard.rollback = None;
    }
    shard.discard_from = next.unwrap_or_default();
    shard.save_all(pages)
}

//! What prepare, commit and abort do: to the catalog, where intents live, and to the tree at last.
//!
//! Entries of the catalog's tree. Ours.
//!
//! | key                                                                   | value                     |
//! |-----------------------------------------------------------------------|---------------------------|
//! | 04, tree 4 BE, group 4 BE, interval 4 BE, round 4 BE, number 8 BE, part 4 BE | 3900 bytes (the last part: fewer) of the prepare record |
//!
//! # Space
//! A prepare is admitted as its update would be, and that much of the quota stays taken until it is decided.
//! Its commit asks for no admission. On the device it may fill more pages than it frees (two parts share a page, and
//! a long inline value takes one of its own), so that much is kept free for it: `media` takes it for spoken for.

use std::collections::BTreeMap;

use media::Pages;
use types::PoolId;

use crate::catalog::{Catalog, INTENT, Pool, unreadable};
use crate::cursor::each_record;
use crate::error::{Error, Result};
use crate::intent::{Intent, give_back};
use crate::key::Version;
use crate::punch;
use crate::record::{self, Record, kind};
use crate::request::{BulkList, ChangeId, ChangeState, Op, Origin};
use crate::shard::Shard;
use crate::standing;
use crate::update::{self, Scratch};

/// Bytes of a part: two parts and their keys fill a page.
pub(crate) const PART_BYTES: usize = 3900;
/// Bytes of the key of a part.
const PART_KEY_BYTES: usize = 29;
fn part_key(owner: u32, change: ChangeId, part: u32) -> Vec<u8> {
    let mut key = [&[INTENT][..], &owner.to_be_bytes()].concat();
    standing::push_change_key(&mut key, change);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Reads standings and intents back; every shard is loaded already. An intent that cannot be read does not hide the
/// standings.
pub(crate) fn load(catalog: &mut Catalog, pages: &mut Pages) -> Result<()> {
    catalog.standings = standing::load(&catalog.own, pages)?;
    let shards = catalog.shards.values().chain(catalog.garbage.values());
    let pools: BTreeMap<u32, PoolId> = shards.map(|shard| (shard.tree.owner, shard.pool)).collect();
    let mut take_up = |owner: u32, bytes: &[u8]| {
        let Some((change, intent)) = decode(bytes) else { return Err(unreadable("an intent")) };
        let Some(pool) = pools.get(&owner) else { return Err(unreadable("an intent of no container")) };
        count(&mut catalog.pools, *pool, &intent, true);
        let pool = Some(*pool).filter(|pool| catalog.pools.contains_key(pool));
        catalog.intents.insert(pool, owner, change, intent);
        Ok(())
    };
    // The record of one change at a time.
    let mut current: Option<(u32, Vec<u8>)> = None;
    each_record(&catalog.own.tree, pages, &[INTENT], |_, key, value| {
        let owner = key.get(1..5).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
        let part = key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        let (Some(owner), Some(part), PART_KEY_BYTES) = (owner, part, key.len()) else {
            return Err(unreadable("an intent"));
        };
        if part == 0
            && let Some((owner, bytes)) = current.replace((owner, Vec::new()))
        {
            take_up(owner, &bytes)?;
        }
        let Some((_, bytes)) = &mut current else { return Err(unreadable("an intent")) };
        bytes.extend_from_slice(value);
        Ok(())
    })?;
    current.map_or(Ok(()), |(owner, bytes)| take_up(owner, &bytes))
}

/// The table's view of a stored prepare record.
pub(crate) fn decode(bytes: &[u8]) -> Option<(ChangeId, Intent)> {
    let (origin, record) = record::decode(kind::PREPARE, bytes)?;
    let Record::Prepare { change, .. } = &record else { return None };
    let mut intent = intent_of(origin, &record)?;
    intent.parts = bytes.len().div_ceil(PART_BYTES) as u32;
    Some((*change, intent))
}

/// The table's view of a prepare record, but for its parts.
pub(crate) fn intent_of(origin: Origin, record: &Record<'_>) -> Option<Intent> {
    let Record::Prepare { container, note, version, ops, .. } = record else { return None };
    let mut intent = Intent::new(*container, *version, origin, note);
    ops.iter().for_each(|op| op.with(|op| intent.add(op)));
    Some(intent)
}

/// The prepare record of an intent, from its parts.
pub(crate) fn stored(catalog: &Catalog, pages: &Pages, owner: u32, change: ChangeId, parts: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in 0..parts {
        let found = catalog.own.tree.get(pages, &part_key(owner, change, part))?;
        bytes.extend_from_slice(found.ok_or_else(|| unreadable("an intent"))?);
    }
    Ok(bytes)
}

/// Adds an intent to what its pool uses, or takes it away.
fn count(pools: &mut BTreeMap<PoolId, Pool>, pool: PoolId, intent: &Intent, is_new: bool) {
    let Some(pool) = pools.get_mut(&pool) else { return };
    let (pages, blocks) = (intent.quota_pages(), intent.block_count());
    if is_new {
        (pool.intent_pages, pool.intent_blocks) = (pool.intent_pages + pages, pool.intent_blocks + blocks);
    } else {
        pool.intent_pages = pool.intent_pages.saturating_sub(pages);
        pool.intent_blocks = pool.intent_blocks.saturating_sub(blocks);
    }
}

/// Reads every page that keeping or dropping an intent changes, so that nothing fails once it is logged.
pub(crate) fn touch_parts(catalog: &Catalog, pages: &Pages, owner: u32, change: ChangeId, parts: u32) -> Result<()> {
    (0..parts).try_for_each(|part| catalog.own.tree.locate(pages, &part_key(owner, change, part)).map(drop))
}

/// Reads every page that deciding a change alters; of a commit, those of its operations too.
pub(crate) fn touch_decision(
    catalog: &Catalog,
    pages: &Pages,
    pool: PoolId,
    change: ChangeId,
    is_commit: bool,
) -> Result<()> {
    standing::touch_outcome(catalog, pages, pool, change)?;
    let Some((owner, intent)) = catalog.intents.find(pool, change) else { return Ok(()) };
    let bytes = stored(catalog, pages, owner, change, intent.parts)?;
    if !is_commit {
        return Ok(());
    }
    let Some((origin, Record::Prepare { version, ops, .. })) = record::decode(kind::PREPARE, &bytes) else {
        return Err(Error::Corrupt { place: format!("intent {change}"), fault: "cannot be read".into() });
    };
    catalog.touch_session(pages, origin)?;
    let Some(shard) = living(catalog, owner, intent) else { return Ok(()) };
    shard.touch(pages)?;
    let mut key = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let version = Version { minor: version.minor.saturating_add(index as u16), ..version };
        op.with(|op| match op {
            Op::Update(update) => update::touch(shard, pages, version, update, &mut key),
            Op::Punch(punch) => punch::touch(shard, pages, version, punch),
        })?;
    }
    Ok(())
}

/// Does a logged prepare: keeps the record, and takes its versions. `bytes` is the record.
pub(crate) fn apply_prepare(
    catalog: &mut Catalog,
    pages: &mut Pages,
    container: types::ContainerId,
    change: ChangeId,
    mut intent: Intent,
    bytes: &[u8],
) -> Result<()> {
    let shard = catalog.shard(container)?;
    let (owner, pool) = (shard.tree.owner, shard.pool);
    if catalog.intents.find(pool, change).is_some() {
        return Err(unreadable("a second prepare of a change"));
    }
    intent.parts = bytes.len().div_ceil(PART_BYTES) as u32;
    for (part, bytes) in bytes.chunks(PART_BYTES).enumerate() {
        catalog.put(pages, &part_key(owner, change, part as u32), bytes)?;
    }
    catalog.own.save_all(pages)?;
    let last = intent.last();
    catalog.with_shard(container, |shard| shard.applied(pages, last))?;
    count(&mut catalog.pools, pool, &intent, true);
    catalog.intents.insert(Some(pool), owner, change, intent);
    Ok(())
}

/// Does a logged commit: all operations, in one step. Of a container that is being destroyed, nothing is left to do but
/// to give its blocks back. Now the request took effect.
pub(crate) fn apply_commit(
    catalog: &mut Catalog,
    pages: &mut Pages,
    pool: PoolId,
    change: ChangeId,
    scratch: &mut Scratch,
) -> Result<()> {
    let found = catalog.intents.find(pool, change);
    let (owner, intent) = found.ok_or_else(|| unreadable("a commit of nothing prepared"))?;
    let (version, parts, origin) = (intent.version, intent.parts, intent.origin);
    let container = living(catalog, owner, intent).map(|shard| shard.id);
    let bytes = stored(catalog, pages, owner, change, parts)?;
    let Some((_, Record::Prepare { ops, .. })) = record::decode(kind::PREPARE, &bytes) else {
        return Err(unreadable("an intent"));
    };
    let dropped = drop_intent(catalog, pages, owner, pool, change)?;
    match container {
        Some(container) => {
            catalog.with_shard(container, |shard| {
                // A leader's change may be older than what this target has forgotten already.
                if version.epoch <= shard.horizon {
                    shard.look_again_from(version.epoch);
                }
                Ok(())
            })?;
            for (index, op) in ops.iter().enumerate() {
                let version = Version { minor: version.minor.saturating_add(index as u16), ..version };
                op.with(|op| match op {
                    Op::Update(update) => catalog
                        .with_shard(container, |shard| update::apply(shard, pages, version, update, None, scratch)),
                    Op::Punch(punch) => {
                        catalog.with_shard(container, |shard| punch::apply(shard, pages, version, punch, scratch))
                    }
                })?;
            }
        }
        None => dropped.iter().for_each(|intent| give_back(intent, &mut scratch.freed)),
    }
    standing::note(catalog, pages, pool, change, ChangeState::Committed { epoch: version.epoch })?;
    catalog.note(pages, origin, version.epoch)
}

/// Does a logged abort, of a change that may never have been prepared here: its prepare must not come later.
pub(crate) fn apply_abort(
    catalog: &mut Catalog,
    pages: &mut Pages,
    pool: PoolId,
    change: ChangeId,
    freed: &mut BulkList,
) -> Result<()> {
    let owner = catalog.intents.find(pool, change).map(|(owner, _)| owner);
    if let Some(owner) = owner
        && let Some(intent) = drop_intent(catalog, pages, owner, pool, change)?
    {
        give_back(&intent, freed);
    }
    standing::note(catalog, pages, pool, change, ChangeState::Aborted)
}

/// Reads every page that a step of forgetting changes.
pub(crate) fn touch_forget(catalog: &Catalog, pages: &Pages, pool: PoolId, upto: ChangeId) -> Result<()> {
    if let Some((owner, first, parts)) = first_undecided(catalog, pool, upto) {
        touch_parts(catalog, pages, owner, first, parts)?;
    }
    standing::touch_first(catalog, pages, pool, upto.group)
}

fn first_undecided(catalog: &Catalog, pool: PoolId, upto: ChangeId) -> Option<(u32, ChangeId, u32)> {
    let (first, intent) = catalog.intents.of_group(pool, upto.group).next().filter(|(first, _)| *first <= upto)?;
    let (owner, _) = catalog.intents.find(pool, first)?;
    Some((owner, first, intent.parts))
}

/// Does a logged step of forgetting: an undecided change goes, or else some outcomes; with the last of them the mark
/// moves. A group's last conceivable change is nobody's mark: who forgets up to it leaves.
pub(crate) fn apply_forget(
    catalog: &mut Catalog,
    pages: &mut Pages,
    pool: PoolId,
    upto: ChangeId,
    freed: &mut BulkList,
) -> Result<()> {
    match first_undecided(catalog, pool, upto) {
        Some((owner, first, _)) => {
            let dropped = drop_intent(catalog, pages, owner, pool, first)?;
            dropped.iter().for_each(|intent| give_back(intent, freed));
        }
        None => standing::forget_first(catalog, pages, pool, upto)?,
    }
    match standing::has_upto(catalog, pool, upto) || upto.number == u64::MAX {
        true => Ok(()),
        false => standing::apply_settle(catalog, pages, pool, upto),
    }
}

/// The container of an intent, unless it is being destroyed.
pub(crate) fn living<'a>(catalog: &'a Catalog, owner: u32, intent: &Intent) -> Option<&'a Shard> {
    catalog.shards.get(&intent.container).filter(|shard| shard.tree.owner == owner)
}

fn drop_intent(
    catalog: &mut Catalog,
    pages: &mut Pages,
    owner: u32,
    pool: PoolId,
    change: ChangeId,
) -> Result<Option<Intent>> {
    let Some(intent) = catalog.intents.remove(pool, owner, change) else { return Ok(None) };
    for part in 0..intent.parts {
        catalog.own.tree.remove(pages, &part_key(owner, change, part))?;
    }
    count(&mut catalog.pools, pool, &intent, false);
    catalog.own.save_all(pages)?;
    Ok(Some(intent))
}

/// Whether the remains of a destroyed container wait: somebody has still to decide its changes, and must find what
/// became of them. Not where the whole pool is gone.
pub(crate) fn awaits_decision(catalog: &Catalog, remains: &Shard) -> bool {
    catalog.pools.contains_key(&remains.pool) && catalog.intents.of(remains.tree.owner).next().is_some()
}

/// One step of forgetting the changes of a container whose pool is gone. False when none is left.
pub(crate) fn drop_remains(catalog: &mut Catalog, pages: &mut Pages, owner: u32, freed: &mut BulkList) -> Result<bool> {
    let Some(pool) = catalog.garbage.get(&owner).map(|shard| shard.pool) else { return Ok(false) };
    let Some(change) = catalog.intents.of(owner).next().map(|(change, _)| change) else { return Ok(false) };
    let intent = drop_intent(catalog, pages, owner, pool, change)?;
    intent.iter().for_each(|intent| give_back(intent, freed));
    Ok(true)
}

/// Compares intents with what the catalog keeps, and counters with their sums; lists their blocks.
pub(crate) fn check(
    catalog: &Catalog,
    pages: &mut Pages,
    bulk: &mut Vec<crate::BulkExtent>,
    problems: &mut Vec<String>,
) {
    let mut sums = BTreeMap::<PoolId, (u64, u64)>::new();
    for (owner, change, intent) in catalog.intents.all() {
        bulk.extend_from_slice(&intent.blocks);
        let mut problem = |text: &str| problems.push(format!("intent {change} of tree {owner}: {text}"));
        let mut shards = catalog.shards.values().chain(catalog.garbage.values());
        match shards.find(|shard| shard.tree.owner == owner) {
            None => problem("belongs to no container"),
            Some(shard) => {
                let sum = sums.entry(shard.pool).or_default();
                *sum = (sum.0 + intent.quota_pages(), sum.1 + intent.block_count());
                if intent.version.epoch > shard.max_epoch() {
                    problem("its epoch is beyond the highest");
                }
                if catalog.standings.state(shard.pool, change) != ChangeState::Unknown {
                    problem("was decided before");
                }
                let named = catalog.intents.find(shard.pool, change).map(|(owner, _)| owner);
                if named != catalog.pools.contains_key(&shard.pool).then_some(owner) {
                    problem("is not found by its name");
                }
            }
        }
        pages.begin_op();
        match stored(catalog, pages, owner, change, intent.parts).map(|bytes| decode(&bytes)) {
            Ok(Some((id, kept))) if id == change && kept == *intent => {}
            Ok(_) => problem("is kept as something else"),
            Err(error) => problem(&error.to_string()),
        }
    }
    for (id, pool) in &catalog.pools {
        if (pool.intent_pages, pool.intent_blocks) != sums.get(id).copied().unwrap_or_default() {
            problems.push(format!("pool {id}: what its intents hold is miscounted"));
        }
    }
    if !catalog.intents.is_consistent() {
        problems.push("the index of intents does not list what they touch".into());
    }
}

#[cold]
pub(crate) fn wrong_state(change: ChangeId, state: ChangeState) -> Error {
    Error::ChangeState { change, state }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Term;

    #[test]
    fn entries_have_their_golden_bytes() {
        let term = Term { interval: 0x0102, round: 0x0304 };
        let key = part_key(9, ChangeId { group: 7, term, number: 0x0506 }, 1);
        let golden = [4, 0, 0, 0, 9, 0, 0, 0, 7, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 5, 6, 0, 0, 0, 1];
        assert_eq!(key, golden);
        assert_eq!(key.len(), PART_KEY_BYTES);
    }
}

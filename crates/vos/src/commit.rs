//! What prepare, commit and abort do: to the catalog, where intents live, and to the tree at last.
//!
//! Entries of the catalog's tree, little-endian values. Ours.
//!
//! | key                                            | value                                              |
//! |------------------------------------------------|----------------------------------------------------|
//! | 04, tree 4 BE, session 8 BE, seq 8 BE, part 4 BE | 3900 bytes (the last part: fewer) of the prepare record |
//! | 05, tree 4 BE, slot 2 BE                       | state 1, number 8, session 8, seq 8, epoch 8       |
//!
//! State 1 is committed, 2 aborted. The slot of an outcome is its number modulo 1024, so that a new one
//! takes the place of the oldest.
//!
//! # Space
//! A prepare is admitted as its update would be, and that much of the quota stays taken until it is decided.
//! Its commit frees the pages of the parts and fills about as many, and asks for no admission.

use std::collections::BTreeMap;

use media::Pages;
use types::{Epoch, PoolId, SessionId};

use crate::catalog::{Catalog, INTENT, OUTCOME, unreadable};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::intent;
use crate::intent::{Intent, OUTCOMES_MAX, Outcomes, give_back};
use crate::key::{self, DATA, HOLE, LIFE, OBJECT_BYTES, SINGLE, Version};
use crate::punch;
use crate::record::{self, Record, kind};
use crate::request::{BulkList, Op, TxId, TxState};
use crate::update::{self, Scratch};

/// Bytes of a part: two parts and their keys fill a page.
pub(crate) const PART_BYTES: usize = 3900;
/// Pages that a change may add beyond one for each record: a split on every level.
pub(crate) const SPLIT_PAGES: u64 = 4;

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;
const OUTCOME_BYTES: usize = 33;

/// Pages of quota that an intent takes until it is decided.
pub(crate) fn pages_of(intent: &Intent) -> u64 {
    intent.records + SPLIT_PAGES
}

fn part_key(owner: u32, tx: TxId, part: u32) -> Vec<u8> {
    let mut key = vec![INTENT];
    key.extend_from_slice(&owner.to_be_bytes());
    key.extend_from_slice(&tx.session.0.to_be_bytes());
    key.extend_from_slice(&tx.seq.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn outcome_key(owner: u32, number: u64) -> Vec<u8> {
    let slot = (number % OUTCOMES_MAX) as u16;
    [&[OUTCOME][..], &owner.to_be_bytes(), &slot.to_be_bytes()].concat()
}

fn outcome_value(number: u64, tx: TxId, state: TxState) -> Vec<u8> {
    let (code, epoch) = match state {
        TxState::Committed { epoch } => (COMMITTED, epoch),
        _ => (ABORTED, Epoch::ZERO),
    };
    let fields = [number, tx.session.0, tx.seq, epoch.0];
    std::iter::once(code).chain(fields.into_iter().flat_map(u64::to_le_bytes)).collect()
}

fn read_outcome(value: &[u8]) -> Option<(u64, TxId, TxState)> {
    let value: &[u8; OUTCOME_BYTES] = value.try_into().ok()?;
    let (fields, _) = value[1..].as_chunks::<8>();
    let field = |at: usize| fields.get(at).map(|bytes| u64::from_le_bytes(*bytes));
    let tx = TxId { session: SessionId(field(1)?), seq: field(2)? };
    let state = match value[0] {
        COMMITTED => TxState::Committed { epoch: Epoch(field(3)?) },
        ABORTED => TxState::Aborted,
        _ => return None,
    };
    Some((field(0)?, tx, state))
}

/// Reads intents and outcomes back; every shard is loaded already.
pub(crate) fn load(catalog: &mut Catalog, pages: &Pages) -> Result<()> {
    let mut found: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut cursor = Cursor::at(&catalog.own.tree, pages, &[INTENT])?;
    while cursor.starts_with(&[INTENT]) {
        let mut key = Vec::new();
        cursor.key().copy_to(&mut key);
        let owner = key.get(1..5).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
        let part = key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        let (Some(owner), Some(part), 25) = (owner, part, key.len()) else { return Err(unreadable("an intent")) };
        if part == 0 {
            found.push((owner, Vec::new()));
        }
        let Some((_, bytes)) = found.last_mut() else { return Err(unreadable("an intent")) };
        bytes.extend_from_slice(cursor.value());
        cursor.next()?;
    }
    let shards = catalog.shards.values().chain(catalog.garbage.values());
    let pools: BTreeMap<u32, PoolId> = shards.map(|shard| (shard.tree.owner, shard.pool)).collect();
    for (owner, bytes) in found {
        let Some((tx, intent)) = decode(&bytes) else { return Err(unreadable("an intent")) };
        let Some(pool) = pools.get(&owner) else { return Err(unreadable("an intent of no container")) };
        count(catalog, *pool, &intent, true);
        catalog.intents.insert(owner, tx, intent);
    }
    let mut outcomes: Vec<(u32, u64, TxId, TxState)> = Vec::new();
    let mut cursor = Cursor::at(&catalog.own.tree, pages, &[OUTCOME])?;
    while cursor.starts_with(&[OUTCOME]) {
        let mut key = Vec::new();
        cursor.key().copy_to(&mut key);
        let owner = key.get(1..5).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
        let (Some(owner), Some((number, tx, state))) = (owner, read_outcome(cursor.value())) else {
            return Err(unreadable("the outcome of a transaction"));
        };
        outcomes.push((owner, number, tx, state));
        cursor.next()?;
    }
    outcomes.sort_unstable_by_key(|(owner, number, _, _)| (*owner, *number));
    for (owner, number, tx, state) in outcomes {
        catalog.intents.outcomes.entry(owner).or_default().restore(number, tx, state);
    }
    Ok(())
}

/// The table's view of a stored prepare record.
pub(crate) fn decode(bytes: &[u8]) -> Option<(TxId, Intent)> {
    let (_, Record::Prepare { tx, version, ops, .. }) = record::decode(kind::PREPARE, bytes)? else { return None };
    let mut intent = Intent::new(version, &mut std::iter::empty());
    ops.iter().for_each(|op| op.with(|op| intent.add(op)));
    intent.parts = bytes.len().div_ceil(PART_BYTES) as u32;
    Some((tx, intent))
}

/// The prepare record of an intent, from its parts.
pub(crate) fn stored(catalog: &Catalog, pages: &Pages, owner: u32, tx: TxId, parts: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in 0..parts {
        let found = catalog.own.tree.get(pages, &part_key(owner, tx, part))?;
        bytes.extend_from_slice(found.ok_or_else(|| unreadable("an intent"))?);
    }
    Ok(bytes)
}

/// Adds an intent to what its pool uses, or takes it away.
fn count(catalog: &mut Catalog, pool: PoolId, intent: &Intent, is_new: bool) {
    let Some(pool) = catalog.pools.get_mut(&pool) else { return };
    let (pages, blocks) = (pages_of(intent), intent.block_count());
    if is_new {
        (pool.intent_pages, pool.intent_blocks) = (pool.intent_pages + pages, pool.intent_blocks + blocks);
    } else {
        pool.intent_pages = pool.intent_pages.saturating_sub(pages);
        pool.intent_blocks = pool.intent_blocks.saturating_sub(blocks);
    }
}

/// Reads every page that keeping or dropping an intent changes, so that nothing fails once it is logged.
pub(crate) fn touch_parts(catalog: &Catalog, pages: &Pages, owner: u32, tx: TxId, parts: u32) -> Result<()> {
    (0..parts).try_for_each(|part| catalog.own.tree.locate(pages, &part_key(owner, tx, part)).map(drop))?;
    let next = catalog.intents.outcomes.get(&owner).map_or(0, |outcomes| outcomes.first() + outcomes.len() as u64);
    catalog.own.tree.locate(pages, &outcome_key(owner, next)).map(drop)
}

/// Reads every page that the commit of `intent` changes.
pub(crate) fn touch_tree(catalog: &Catalog, pages: &Pages, container: types::ContainerId, i: &Intent) -> Result<()> {
    let shard = catalog.shard(container)?;
    for touch in &i.touches {
        let look = |rest: &[u8], extent: Option<(u8, types::Extent)>| {
            let mut key = [&touch.place, rest].concat();
            if let Some((kind, extent)) = extent {
                key::push_extent(&mut key, kind, extent);
            }
            key::push_version(&mut key, touch.version);
            shard.tree.locate(pages, &key).map(drop)
        };
        match &touch.change {
            intent::Change::Punch => look(&[LIFE], None)?,
            intent::Change::Single => look(&[SINGLE], None)?,
            intent::Change::Array { extents, .. } => {
                extents.iter().try_for_each(|extent| look(&[], Some((DATA, *extent))))?;
            }
            intent::Change::Holes(extents) => {
                extents.iter().try_for_each(|extent| look(&[], Some((HOLE, *extent))))?;
            }
        }
        if touch.is_removal() {
            shard.tree.locate(pages, &[&touch.place[..OBJECT_BYTES], &[LIFE]].concat())?;
        }
    }
    Ok(())
}

/// Does a logged prepare: keeps the record, and takes its versions. `bytes` is the record.
pub(crate) fn apply_prepare(
    catalog: &mut Catalog,
    pages: &mut Pages,
    container: types::ContainerId,
    tx: TxId,
    mut intent: Intent,
    bytes: &[u8],
) -> Result<()> {
    let shard = catalog.shard(container)?;
    let (owner, pool) = (shard.tree.owner, shard.pool);
    if catalog.intents.get(owner, tx).is_some() {
        return Err(unreadable("a second prepare of a transaction"));
    }
    intent.parts = bytes.len().div_ceil(PART_BYTES) as u32;
    for (part, bytes) in bytes.chunks(PART_BYTES).enumerate() {
        catalog.put(pages, &part_key(owner, tx, part as u32), bytes)?;
    }
    catalog.own.save_all(pages)?;
    let last = intent.last();
    catalog.with_shard(container, |shard| shard.applied(pages, last))?;
    count(catalog, pool, &intent, true);
    catalog.intents.insert(owner, tx, intent);
    Ok(())
}

/// Does a logged commit: all operations, in one step.
pub(crate) fn apply_commit(
    catalog: &mut Catalog,
    pages: &mut Pages,
    container: types::ContainerId,
    tx: TxId,
    scratch: &mut Scratch,
) -> Result<()> {
    let shard = catalog.shard(container)?;
    let (owner, pool) = (shard.tree.owner, shard.pool);
    let intent = catalog.intents.get(owner, tx).ok_or_else(|| unreadable("a commit of nothing prepared"))?;
    let (version, parts) = (intent.version, intent.parts);
    let bytes = stored(catalog, pages, owner, tx, parts)?;
    let Some((_, Record::Prepare { ops, .. })) = record::decode(kind::PREPARE, &bytes) else {
        return Err(unreadable("an intent"));
    };
    drop_intent(catalog, pages, owner, pool, tx)?;
    for (index, op) in ops.iter().enumerate() {
        let version = Version { minor: version.minor.saturating_add(index as u16), ..version };
        op.with(|op| match op {
            Op::Update(update) => {
                catalog.with_shard(container, |shard| update::apply(shard, pages, version, update, None, scratch))
            }
            Op::Punch(punch) => {
                catalog.with_shard(container, |shard| punch::apply(shard, pages, version, punch, scratch))
            }
        })?;
    }
    note_outcome(catalog, pages, owner, tx, TxState::Committed { epoch: version.epoch })
}

/// Does a logged abort, of a transaction that may never have prepared here: its prepare must not come later.
pub(crate) fn apply_abort(
    catalog: &mut Catalog,
    pages: &mut Pages,
    container: types::ContainerId,
    tx: TxId,
    freed: &mut BulkList,
) -> Result<()> {
    let shard = catalog.shard(container)?;
    let (owner, pool) = (shard.tree.owner, shard.pool);
    if let Some(intent) = drop_intent(catalog, pages, owner, pool, tx)? {
        give_back(&intent, freed);
    }
    note_outcome(catalog, pages, owner, tx, TxState::Aborted)
}

fn drop_intent(catalog: &mut Catalog, pages: &mut Pages, owner: u32, pool: PoolId, tx: TxId) -> Result<Option<Intent>> {
    let Some(intent) = catalog.intents.remove(owner, tx) else { return Ok(None) };
    for part in 0..intent.parts {
        catalog.own.tree.remove(pages, &part_key(owner, tx, part))?;
    }
    count(catalog, pool, &intent, false);
    catalog.own.save_all(pages)?;
    Ok(Some(intent))
}

fn note_outcome(catalog: &mut Catalog, pages: &mut Pages, owner: u32, tx: TxId, state: TxState) -> Result<()> {
    let number = catalog.intents.outcomes.entry(owner).or_default().note(tx, state);
    catalog.put(pages, &outcome_key(owner, number), &outcome_value(number, tx, state))?;
    catalog.own.save_all(pages)
}

/// One step of forgetting the transactions of a destroyed container: an intent, or up to `limit` outcomes.
/// False when none is left.
pub(crate) fn drop_remains(
    catalog: &mut Catalog,
    pages: &mut Pages,
    owner: u32,
    limit: u32,
    freed: &mut BulkList,
) -> Result<bool> {
    let Some(pool) = catalog.garbage.get(&owner).map(|shard| shard.pool) else { return Ok(false) };
    let first = catalog.intents.of(owner).next().map(|(tx, _)| tx);
    if let Some(tx) = first {
        let intent = drop_intent(catalog, pages, owner, pool, tx)?;
        intent.iter().for_each(|intent| give_back(intent, freed));
        return Ok(true);
    }
    let mut dropped = false;
    for _ in 0..limit {
        let first = catalog.intents.outcomes.get(&owner).map_or(0, Outcomes::first);
        if !catalog.intents.outcomes.get_mut(&owner).is_some_and(Outcomes::drop_first) {
            catalog.intents.outcomes.remove(&owner);
            break;
        }
        catalog.own.tree.remove(pages, &outcome_key(owner, first))?;
        dropped = true;
    }
    if dropped {
        catalog.own.save_all(pages)?;
    }
    Ok(dropped)
}

/// Compares intents with what the catalog keeps, and counters with their sums; lists their blocks.
pub(crate) fn check(catalog: &Catalog, pages: &Pages, bulk: &mut Vec<crate::BulkExtent>, problems: &mut Vec<String>) {
    let mut sums = BTreeMap::<PoolId, (u64, u64)>::new();
    for (owner, tx, intent) in catalog.intents.all() {
        bulk.extend_from_slice(&intent.blocks);
        let mut problem = |text: &str| problems.push(format!("intent {tx} of tree {owner}: {text}"));
        let mut shards = catalog.shards.values().chain(catalog.garbage.values());
        match shards.find(|shard| shard.tree.owner == owner) {
            None => problem("belongs to no container"),
            Some(shard) => {
                let sum = sums.entry(shard.pool).or_default();
                *sum = (sum.0 + pages_of(intent), sum.1 + intent.block_count());
                if intent.version.epoch > shard.max_epoch() {
                    problem("its epoch is beyond the highest");
                }
            }
        }
        match stored(catalog, pages, owner, tx, intent.parts).map(|bytes| decode(&bytes)) {
            Ok(Some((id, kept))) if id == tx && kept == *intent => {}
            Ok(_) => problem("is kept as something else"),
            Err(error) => problem(&error.to_string()),
        }
        if catalog.intents.outcomes.get(&owner).is_some_and(|outcomes| outcomes.state(tx).is_some()) {
            problem("was decided before");
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
pub(crate) fn wrong_state(tx: TxId, state: TxState) -> Error {
    Error::TxState { tx, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_their_golden_bytes() {
        let tx = TxId { session: SessionId(0x0102), seq: 0x0304 };
        let key = [4, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 1];
        assert_eq!(part_key(9, tx, 1), key);
        assert_eq!(outcome_key(9, OUTCOMES_MAX + 0x0102), [5, 0, 0, 0, 9, 1, 2]);
        let value = outcome_value(7, tx, TxState::Committed { epoch: Epoch(8) });
        let mut golden = [0; OUTCOME_BYTES];
        for (at, byte) in [(0, 1), (1, 7), (9, 2), (10, 1), (17, 4), (18, 3), (25, 8)] {
            golden[at] = byte;
        }
        assert_eq!(value, golden);
        assert_eq!(read_outcome(&value), Some((7, tx, TxState::Committed { epoch: Epoch(8) })));
        let aborted = outcome_value(7, tx, TxState::Aborted);
        assert_eq!(read_outcome(&aborted), Some((7, tx, TxState::Aborted)));
        assert_eq!(read_outcome(&aborted[1..]), None);
    }
}

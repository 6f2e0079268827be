//! What a target knows of the placement groups of its pools: whose leader it follows, and how their changes ended,
//! until every member knows.
//!
//! Entries of the catalog's tree, little-endian values. Ours.
//!
//! | key                                                             | value                                            |
//! |-----------------------------------------------------------------|--------------------------------------------------|
//! | 05, pool 16, group 4 BE, interval 4 BE, round 4 BE, number 8 BE | state 1, epoch 8: how a change ended             |
//! | 07, pool 16, group 4 BE                                         | term 8, settled: term 8, number 8                |
//!
//! State 1 is committed, 2 aborted (its epoch is zero). A term is its interval 4 and its round 4.
//!
//! # Always true
//! 1. An outcome is kept until its change is settled, so that nobody who asks what became of it meets one who has
//!    forgotten; what is settled has no outcome (K2).
//! 2. Terms and settled marks only grow.

use std::collections::BTreeMap;

use media::Pages;
use types::{Epoch, PoolId};

use crate::catalog::{Catalog, OUTCOME, STANDING, unreadable};
use crate::cursor::each_record;
use crate::error::Result;
use crate::request::{ChangeId, ChangeState, Term};
use crate::shard::Shard;

/// Most outcomes and undecided changes of a target: what memory can take.
pub(crate) const OUTCOMES_MAX: usize = 16 << 10;
/// Outcomes that one step of settling forgets.
const SETTLE_STEP: usize = 128;

/// Outcomes that one step of forgetting takes.
const FORGET_STEP: usize = 64;

const COMMITTED: u8 = 1;
const ABORTED: u8 = 2;
const POOL_BYTES: usize = 16;
const CHANGE_BYTES: usize = 20;
const OUTCOME_BYTES: usize = 9;
const STANDING_BYTES: usize = 24;

/// A group's leader and mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) term: Term,
    pub(crate) settled: ChangeId,
}

/// Standings of all groups of a target.
#[derive(Default)]
pub(crate) struct Table {
    marks: BTreeMap<(PoolId, u32), Mark>,
    outcomes: BTreeMap<(PoolId, ChangeId), ChangeState>,
}

impl Table {
    pub(crate) fn mark(&self, pool: PoolId, group: u32) -> Mark {
        let fresh = Mark { settled: ChangeId { group, ..ChangeId::default() }, ..Mark::default() };
        self.marks.get(&(pool, group)).copied().unwrap_or(fresh)
    }

    /// How a change ended, as far as that is known here.
    pub(crate) fn state(&self, pool: PoolId, change: ChangeId) -> ChangeState {
        match self.outcomes.get(&(pool, change)) {
            Some(state) => *state,
            None if change <= self.mark(pool, change.group).settled => ChangeState::Settled,
            None => ChangeState::Unknown,
        }
    }

    pub(crate) fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// Outcomes of one group that are not settled, in order.
    pub(crate) fn decided(&self, pool: PoolId, group: u32) -> impl Iterator<Item = (ChangeId, ChangeState)> {
        let first = ChangeId { group, ..ChangeId::default() };
        let all = self.outcomes.range((pool, first)..);
        all.take_while(move |((of, change), _)| *of == pool && change.group == group)
            .map(|((_, change), state)| (*change, *state))
    }

    /// How far towards `change` the next step of settling goes.
    pub(crate) fn next_settled(&self, pool: PoolId, change: ChangeId) -> ChangeId {
        let mut passed = self.decided(pool, change.group).map(|(decided, _)| decided).take_while(|c| *c <= change);
        passed.nth(SETTLE_STEP - 1).unwrap_or(change)
    }

    /// Whether a group has a leader or a mark.
    pub(crate) fn is_marked(&self, pool: PoolId, group: u32) -> bool {
        self.marks.contains_key(&(pool, group))
    }

    /// Groups of a pool of which anything is known.
    pub(crate) fn groups(&self, pool: PoolId) -> Vec<u32> {
        let marked = self.marks.range((pool, 0)..=(pool, u32::MAX)).map(|((_, group), _)| *group);
        let outcomes = self.outcomes.range((pool, ChangeId::default())..).take_while(|((of, _), _)| *of == pool);
        let mut groups: Vec<u32> = marked.chain(outcomes.map(|((_, change), _)| change.group)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

/// Appends a change as keys have it: sorted by group, then as its leaders took them.
pub(crate) fn push_change_key(key: &mut Vec<u8>, change: ChangeId) {
    [change.group, change.term.interval, change.term.round]
        .iter()
        .for_each(|n| key.extend_from_slice(&n.to_be_bytes()));
    key.extend_from_slice(&change.number.to_be_bytes());
}

fn outcome_key(pool: PoolId, change: ChangeId) -> Vec<u8> {
    let mut key = [&[OUTCOME][..], &pool.to_bytes()].concat();
    push_change_key(&mut key, change);
    key
}

fn mark_key(pool: PoolId, group: u32) -> Vec<u8> {
    [&[STANDING][..], &pool.to_bytes(), &group.to_be_bytes()].concat()
}

fn outcome_value(state: ChangeState) -> [u8; OUTCOME_BYTES] {
    let (code, epoch) = match state {
        ChangeState::Committed { epoch } => (COMMITTED, epoch),
        _ => (ABORTED, Epoch::ZERO),
    };
    let mut value = [code; OUTCOME_BYTES];
    value[1..].copy_from_slice(&epoch.0.to_le_bytes());
    value
}

fn mark_value(mark: Mark) -> Vec<u8> {
    let Mark { term, settled } = mark;
    let words = [term.interval, term.round, settled.term.interval, settled.term.round];
    words.into_iter().flat_map(u32::to_le_bytes).chain(settled.number.to_le_bytes()).collect()
}

fn read_outcome(key: &[u8], value: &[u8]) -> Option<(PoolId, ChangeId, ChangeState)> {
    let (pool, change) = key.split_first_chunk::<POOL_BYTES>()?;
    let change: &[u8; CHANGE_BYTES] = change.try_into().ok()?;
    let word = |at: usize| Some(u32::from_be_bytes(*change.get(at..)?.first_chunk()?));
    let term = Term { interval: word(4)?, round: word(8)? };
    let number = u64::from_be_bytes(*change.last_chunk()?);
    let value: &[u8; OUTCOME_BYTES] = value.try_into().ok()?;
    let epoch = Epoch(u64::from_le_bytes(*value.last_chunk()?));
    let state = match value[0] {
        COMMITTED => ChangeState::Committed { epoch },
        ABORTED => ChangeState::Aborted,
        _ => return None,
    };
    Some((PoolId::from_bytes(*pool), ChangeId { group: word(0)?, term, number }, state))
}

fn read_mark(key: &[u8], value: &[u8]) -> Option<(PoolId, u32, Mark)> {
    let (pool, group) = key.split_first_chunk::<POOL_BYTES>()?;
    let group = u32::from_be_bytes(group.try_into().ok()?);
    let value: &[u8; STANDING_BYTES] = value.try_into().ok()?;
    let (words, _) = value.as_chunks::<4>();
    let word = |at: usize| words.get(at).map(|bytes| u32::from_le_bytes(*bytes));
    let term = |at| Some(Term { interval: word(at)?, round: word(at + 1)? });
    let settled = ChangeId { group, term: term(2)?, number: u64::from_le_bytes(*value.last_chunk()?) };
    Some((PoolId::from_bytes(*pool), group, Mark { term: term(0)?, settled }))
}

/// Reads the standings back.
pub(crate) fn load(own: &Shard, pages: &mut Pages) -> Result<Table> {
    let mut table = Table::default();
    each_record(&own.tree, pages, &[OUTCOME], |_, key, value| {
        let found = read_outcome(&key[1..], value).ok_or_else(|| unreadable("the outcome of a change"))?;
        table.outcomes.insert((found.0, found.1), found.2);
        Ok(())
    })?;
    each_record(&own.tree, pages, &[STANDING], |_, key, value| {
        let found = read_mark(&key[1..], value).ok_or_else(|| unreadable("the standing of a placement group"))?;
        table.marks.insert((found.0, found.1), found.2);
        Ok(())
    })?;
    Ok(table)
}

/// Reads the page that an outcome will be noted in.
pub(crate) fn touch_outcome(catalog: &Catalog, pages: &Pages, pool: PoolId, change: ChangeId) -> Result<()> {
    catalog.own.tree.locate(pages, &outcome_key(pool, change)).map(drop)
}

/// Reads every page that a new mark of a group changes.
pub(crate) fn touch_mark(catalog: &Catalog, pages: &Pages, pool: PoolId, mark: Mark) -> Result<()> {
    let group = mark.settled.group;
    let gone = catalog.standings.decided(pool, group).take_while(|(change, _)| *change <= mark.settled);
    for (change, _) in gone {
        touch_outcome(catalog, pages, pool, change)?;
    }
    catalog.own.tree.locate(pages, &mark_key(pool, group)).map(drop)
}

/// Notes how a change ended.
pub(crate) fn note(
    catalog: &mut Catalog,
    pages: &mut Pages,
    pool: PoolId,
    change: ChangeId,
    state: ChangeState,
) -> Result<()> {
    catalog.standings.outcomes.insert((pool, change), state);
    catalog.put(pages, &outcome_key(pool, change), &outcome_value(state))?;
    catalog.own.save_all(pages)
}

/// Does a logged adopt.
pub(crate) fn apply_adopt(c: &mut Catalog, pages: &mut Pages, pool: PoolId, group: u32, term: Term) -> Result<()> {
    let mark = c.standings.mark(pool, group);
    apply_mark(c, pages, pool, Mark { term: mark.term.max(term), ..mark })
}

/// Does a logged settle.
pub(crate) fn apply_settle(c: &mut Catalog, pages: &mut Pages, pool: PoolId, change: ChangeId) -> Result<()> {
    let mark = c.standings.mark(pool, change.group);
    apply_mark(c, pages, pool, Mark { settled: mark.settled.max(change), ..mark })
}

/// Keeps a group's mark, and forgets what it passes.
fn apply_mark(catalog: &mut Catalog, pages: &mut Pages, pool: PoolId, mark: Mark) -> Result<()> {
    let group = mark.settled.group;
    let gone: Vec<ChangeId> =
        catalog.standings.decided(pool, group).map(|(change, _)| change).take_while(|c| *c <= mark.settled).collect();
    for change in gone {
        catalog.standings.outcomes.remove(&(pool, change));
        catalog.own.tree.remove(pages, &outcome_key(pool, change))?;
    }
    catalog.standings.marks.insert((pool, group), mark);
    catalog.put(pages, &mark_key(pool, group), &mark_value(mark))?;
    catalog.own.save_all(pages)
}

/// Whether anything is known of changes of a group up to `change`.
pub(crate) fn has_upto(catalog: &Catalog, pool: PoolId, change: ChangeId) -> bool {
    let undecided = catalog.intents.of_group(pool, change.group).next().map(|(first, _)| first);
    let decided = catalog.standings.decided(pool, change.group).next().map(|(first, _)| first);
    undecided.into_iter().chain(decided).any(|first| first <= change)
}

/// Reads every page that forgetting some outcomes of a group changes, and moving its mark.
pub(crate) fn touch_first(catalog: &Catalog, pages: &Pages, pool: PoolId, group: u32) -> Result<()> {
    for (change, _) in catalog.standings.decided(pool, group).take(FORGET_STEP) {
        touch_outcome(catalog, pages, pool, change)?;
    }
    catalog.own.tree.locate(pages, &mark_key(pool, group)).map(drop)
}

/// Forgets some outcomes of a group, the first ones up to `change`.
pub(crate) fn forget_first(catalog: &mut Catalog, pages: &mut Pages, pool: PoolId, change: ChangeId) -> Result<()> {
    let decided = catalog.standings.decided(pool, change.group).map(|(known, _)| known);
    let gone: Vec<ChangeId> = decided.take_while(|known| *known <= change).take(FORGET_STEP).collect();
    for known in gone {
        catalog.standings.outcomes.remove(&(pool, known));
        catalog.own.tree.remove(pages, &outcome_key(pool, known))?;
    }
    catalog.own.save_all(pages)
}

/// Does a logged leave.
pub(crate) fn apply_leave(catalog: &mut Catalog, pages: &mut Pages, pool: PoolId, group: u32) -> Result<()> {
    if catalog.standings.marks.remove(&(pool, group)).is_some() {
        catalog.own.tree.remove(pages, &mark_key(pool, group))?;
    }
    catalog.own.save_all(pages)
}

/// What is known of a pool's groups, up to `most` entries, by their keys.
fn some(catalog: &Catalog, pool: PoolId, most: usize) -> (Vec<ChangeId>, Vec<u32>) {
    let Table { marks, outcomes } = &catalog.standings;
    let decided = outcomes.range((pool, ChangeId::default())..).take_while(|((of, _), _)| *of == pool);
    let changes: Vec<ChangeId> = decided.map(|((_, change), _)| *change).take(most).collect();
    let marked = marks.range((pool, 0)..=(pool, u32::MAX)).map(|((_, group), _)| *group);
    let groups = marked.take(most - changes.len()).collect();
    (changes, groups)
}

/// Forgets up to `most` entries of a pool that is being destroyed; returns how many there were.
pub(crate) fn forget_some(catalog: &mut Catalog, pages: &mut Pages, pool: PoolId, most: usize) -> Result<usize> {
    let (changes, groups) = some(catalog, pool, most);
    for change in &changes {
        catalog.standings.outcomes.remove(&(pool, *change));
        catalog.own.tree.remove(pages, &outcome_key(pool, *change))?;
    }
    for group in &groups {
        catalog.standings.marks.remove(&(pool, *group));
        catalog.own.tree.remove(pages, &mark_key(pool, *group))?;
    }
    Ok(changes.len() + groups.len())
}

/// Reads every page that [`forget_some`] changes.
pub(crate) fn touch_some(catalog: &Catalog, pages: &Pages, pool: PoolId, most: usize) -> Result<()> {
    let (changes, groups) = some(catalog, pool, most);
    changes.into_iter().try_for_each(|change| touch_outcome(catalog, pages, pool, change))?;
    groups.into_iter().try_for_each(|group| catalog.own.tree.locate(pages, &mark_key(pool, group)).map(drop))
}

/// Compares what is kept with what memory has.
pub(crate) fn check(catalog: &Catalog, pages: &mut Pages, problems: &mut Vec<String>) {
    let known = &catalog.standings;
    match load(&catalog.own, pages) {
        Ok(kept) if kept.marks == known.marks && kept.outcomes == known.outcomes => {}
        Ok(_) => problems.push("standings of placement groups are kept as something else".into()),
        Err(error) => problems.push(error.to_string()),
    }
    for (pool, change) in known.outcomes.keys() {
        if *change <= known.mark(*pool, change.group).settled {
            problems.push(format!("pool {pool}: the outcome of change {change} is kept, which is settled"));
        }
        if !catalog.pools.contains_key(pool) {
            problems.push(format!("change {change} is of pool {pool}, which is not there"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_their_golden_bytes() {
        let (pool, term) = (PoolId::from_bytes([7; 16]), Term { interval: 0x0102, round: 0x0304 });
        let change = ChangeId { group: 9, term, number: 0x0506 };
        let name = [0, 0, 0, 9, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 5, 6];
        let key = outcome_key(pool, change);
        assert_eq!(key, [&[5][..], &[7; 16], &name].concat());
        let committed = ChangeState::Committed { epoch: Epoch(0x0708) };
        assert_eq!(outcome_value(committed), [1, 8, 7, 0, 0, 0, 0, 0, 0]);
        assert_eq!(outcome_value(ChangeState::Aborted), [2, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_outcome(&key[1..], &outcome_value(committed)), Some((pool, change, committed)));
        assert_eq!(read_outcome(&key[2..], &outcome_value(committed)), None);
        assert_eq!(read_outcome(&key[1..], &[3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        let mark = Mark { term: Term { interval: 0x0a0b, round: 1 }, settled: change };
        let key = mark_key(pool, 9);
        assert_eq!(key, [&[7][..], &[7; 16], &[0, 0, 0, 9]].concat());
        let value = mark_value(mark);
        assert_eq!(value, [0x0b, 0x0a, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 4, 3, 0, 0, 6, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_mark(&key[1..], &value), Some((pool, 9, mark)));
        assert_eq!(read_mark(&key[1..], &value[1..]), None);
    }

    #[test]
    fn what_is_settled_is_known_to_be_and_what_is_above_is_not() {
        let (pool, mut table) = (PoolId::from_bytes([7; 16]), Table::default());
        let change = |interval, number| ChangeId { group: 3, term: Term { interval, round: 0 }, number };
        table.marks.insert((pool, 3), Mark { term: Term::default(), settled: change(2, 5) });
        table.outcomes.insert((pool, change(2, 6)), ChangeState::Aborted);
        assert_eq!(table.state(pool, change(1, 99)), ChangeState::Settled);
        assert_eq!(table.state(pool, change(2, 5)), ChangeState::Settled);
        assert_eq!(table.state(pool, change(2, 6)), ChangeState::Aborted);
        assert_eq!(table.state(pool, change(2, 7)), ChangeState::Unknown);
        assert_eq!(table.state(pool, ChangeId { group: 4, ..change(1, 1) }), ChangeState::Unknown);
        assert_eq!(table.decided(pool, 3).count(), 1);
        assert_eq!(table.groups(pool), [3]);
    }
}

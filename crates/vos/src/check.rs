//! Walks a store and says what breaks an invariant. Used by tests, the simulator and `ddb`.

use std::collections::BTreeSet;

use media::{PageId, Pages, SpaceUse};

use crate::catalog::Catalog;
use crate::commit;
use crate::key;
use crate::node;
use crate::request::BulkList;
use crate::shard::Shard;
use crate::tree::{Tree, body};
use crate::value;

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Empty when all invariants hold.
    pub problems: Vec<String>,
    /// Records of all containers, and pages of everything.
    pub records: u64,
    pub pages: u64,
    /// Of the records of live containers: single values and extents of data.
    pub values: u64,
    pub space: Option<SpaceUse>,
}

impl Report {
    /// # Panics
    /// When an invariant is broken; says which. For tests.
    pub fn expect_clean(&self) {
        assert!(self.problems.is_empty(), "broken invariants: {:#?}", self.problems);
    }
}

/// Walks every tree of a store: its nodes, its records, its counters; and compares all pages and bulk
/// blocks that are referenced with those that are allocated (K8).
pub(crate) fn store(media: &media::Store, catalog: &Catalog) -> Report {
    let mut report = Report::default();
    let mut bulk = Vec::new();
    let mut owned = BTreeSet::new();
    {
        let mut pages = media.pages();
        pages.begin_op();
        for (tree, head, shard) in catalog.trees() {
            let mut blocks = 0u64;
            let mut facts = Facts::default();
            let walk = walk(tree, &pages, |key, value| {
                if let Some(shard) = shard {
                    facts.look(shard, key, value, &mut report.problems);
                    for piece in key::read_record(key).map_or(BulkList::new(), |r| value::blocks_of(r, value)) {
                        blocks += u64::from(piece.blocks);
                        bulk.push(piece);
                    }
                }
            });
            report.problems.extend(walk.problems);
            report.records += if shard.is_some() { walk.records } else { 0 };
            for page in walk.pages.into_iter().chain([head.0]) {
                if !owned.insert(page) {
                    report.problems.push(format!("page {page} has two owners"));
                }
            }
            let Some(shard) = shard else { continue };
            if shard.blocks != blocks {
                report.problems.push(format!("{}: {} blocks counted, {blocks} found", shard.id, shard.blocks));
            }
            let live = catalog.shards.contains_key(&shard.id) && !catalog.garbage.contains_key(&tree.owner);
            if live {
                report.values += facts.values;
                facts.end(shard, &mut report.problems);
            }
            match Shard::load(&pages, head) {
                Ok(stored) if stored.same_counters(shard) => {}
                Ok(_) => report.problems.push(format!("{}: the head is not what memory says", shard.id)),
                Err(error) => report.problems.push(format!("{}: {error}", shard.id)),
            }
        }
        commit::check(catalog, &pages, &mut bulk, &mut report.problems);
        for id in pages.ids() {
            if !owned.contains(&id.0) {
                report.problems.push(format!("{id} is allocated, but nobody's"));
            }
        }
        report.pages = owned.len() as u64;
    }
    for (id, pool) in &catalog.pools {
        let members = catalog.shards.values().chain(catalog.garbage.values()).filter(|shard| shard.pool == *id);
        let (pages, blocks) = members.fold((0, 0), |(p, b), shard| (p + shard.pages(), b + shard.blocks));
        if (pool.pages, pool.blocks) != (pages, blocks) {
            report.problems.push(format!(
                "pool {id}: {} pages and {} blocks counted, its containers have {pages} and {blocks}",
                pool.pages, pool.blocks
            ));
        }
    }
    match media.check(bulk) {
        Ok(space) => report.space = Some(space),
        Err(error) => report.problems.push(format!("space: {error}")),
    }
    report
}

/// What the records of a container must agree on.
#[derive(Default)]
struct Facts {
    punches: u64,
    values: u64,
    /// Object prefix of the latest flag.
    flag: Option<Vec<u8>>,
    max_epoch: u64,
}

impl Facts {
    fn look(&mut self, shard: &Shard, key: &[u8], value: &[u8], problems: &mut Vec<String>) {
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        let mut problem = |text: &str| problems.push(format!("{}: {text}, at key {}", shard.id, hex(key)));
        let Some(record) = key::read_record(key) else {
            problem("a key that cannot be read");
            return;
        };
        if let Some(version) = record.version() {
            self.max_epoch = self.max_epoch.max(version.epoch.0);
        }
        match record {
            key::Record::ObjectFlag => self.flag = Some(key[..key::OBJECT_BYTES].to_vec()),
            key::Record::ObjectPunch(_) | key::Record::DkeyPunch(_) | key::Record::AkeyPunch(_) => {
                self.punches += 1;
                if self.flag.as_deref() != Some(&key[..key::OBJECT_BYTES]) {
                    problem("a punch in an object without the flag");
                }
                if !value.is_empty() {
                    problem("a punch with a value");
                }
            }
            key::Record::Single(_) if value::read_payload(value).is_none() => problem("a single value that is none"),
            key::Record::Single(_) => self.values += 1,
            key::Record::Array { hole, class, start, .. } => {
                self.values += u64::from(!hole);
                let count = if hole {
                    value::read_count(value).filter(|_| value.len() == 8)
                } else {
                    value::read_data(value).map(|(count, _, _)| count)
                };
                match count {
                    Some(count) if key::class_of(count) == class => {
                        if !types::Extent::new(start, count).is_valid() {
                            problem("an extent beyond the index limit");
                        }
                    }
                    Some(_) => problem("an extent of another class than its key says"),
                    None => problem("an extent that cannot be read"),
                }
            }
        }
    }

    fn end(&self, shard: &Shard, problems: &mut Vec<String>) {
        if self.punches != shard.punches {
            problems.push(format!("{}: {} punches counted, {} found", shard.id, shard.punches, self.punches));
        }
        if self.max_epoch > shard.max_epoch().0 {
            problems.push(format!("{}: epoch {} found beyond the highest", shard.id, self.max_epoch));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(64).map(|b| format!("{b:02x}")).collect()
}

/// Problems listed before a check gives up.
const PROBLEMS_MAX: usize = 32;

/// What a walk over one tree found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) pages: BTreeSet<u32>,
    pub(crate) records: u64,
    pub(crate) problems: Vec<String>,
}

/// Visits every record of `tree` in order and checks its nodes: layout, heads, prefixes, order within
/// and between pages, separators, levels, highest epochs.
pub(crate) fn walk(tree: &Tree, pages: &Pages, mut visit: impl FnMut(&[u8], &[u8])) -> Walk {
    let mut walk = Walk::default();
    let mut last = None;
    descend(tree, pages, tree.root, None, None, None, &mut walk, &mut last, &mut visit);
    if walk.problems.is_empty() && walk.pages.len() as u64 != tree.pages {
        walk.problems.push(format!("tree {}: {} pages counted, {} noted", tree.owner, walk.pages.len(), tree.pages));
    }
    walk
}

/// Returns the highest epoch in the subtree.
#[allow(clippy::too_many_arguments)]
fn descend(
    tree: &Tree,
    pages: &Pages,
    id: PageId,
    level: Option<u8>,
    low: Option<&[u8]>,
    high: Option<&[u8]>,
    walk: &mut Walk,
    last: &mut Option<Vec<u8>>,
    visit: &mut impl FnMut(&[u8], &[u8]),
) -> u64 {
    if walk.problems.len() >= PROBLEMS_MAX {
        return 0;
    }
    if !walk.pages.insert(id.0) {
        walk.problems.push(format!("{id} is referenced twice"));
        return 0;
    }
    let body = match body(pages, id) {
        Ok(body) => body,
        Err(error) => {
            walk.problems.push(error.to_string());
            return 0;
        }
    };
    let mut problem = |text: String| walk.problems.push(format!("tree {}, {id}: {text}", tree.owner));
    if let Some(text) = node::verify(body) {
        problem(text);
        return 0;
    }
    if node::owner(body) != tree.owner {
        problem(format!("belongs to tree {}", node::owner(body)));
    }
    if level.is_some_and(|level| level != node::level(body)) {
        problem(format!("is on level {}, its parent expects {level:?}", node::level(body)));
        return 0;
    }
    if pages.get(id).is_ok_and(|page| page.kind() != node::KIND_NODE) {
        problem("is not marked as a node".into());
    }
    let count = node::count(body);
    if count == 0 && level.is_some() {
        problem("is empty".into());
    }
    let mut key = Vec::new();
    if node::is_leaf(body) {
        for index in 0..count {
            node::key(body, index).copy_to(&mut key);
            if low.is_some_and(|low| &key[..] < low) || high.is_some_and(|high| &key[..] >= high) {
                walk.problems.push(format!("tree {}, {id}: record {index} is outside its separators", tree.owner));
            }
            if last.as_ref().is_some_and(|last| *last >= key) {
                walk.problems.push(format!("tree {}, {id}: record {index} is not above the one before", tree.owner));
            }
            visit(&key, node::value(body, index));
            walk.records += 1;
            *last = Some(key.clone());
        }
        return node::max_epoch(body);
    }
    let mut highest = 0;
    for index in 0..count {
        let Some((child, epoch)) = node::child(body, index) else { continue };
        let bound = |at: usize| {
            let mut bytes = Vec::new();
            node::key(body, at).copy_to(&mut bytes);
            bytes
        };
        let own = (index > 0).then(|| bound(index));
        let next = (index + 1 < count).then(|| bound(index + 1));
        let below = descend(
            tree,
            pages,
            PageId(child),
            node::level(body).checked_sub(1),
            own.as_deref().or(low),
            next.as_deref().or(high),
            walk,
            last,
            visit,
        );
        if below > epoch {
            walk.problems.push(format!("tree {}, {id}: child {index} holds epoch {below}, noted {epoch}", tree.owner));
        }
        highest = highest.max(epoch);
    }
    highest
}

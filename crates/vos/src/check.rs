//! Walks a store and says what breaks an invariant. Used by tests, the simulator and `ddb`.
//!
//! A survey visits every page of every tree once, copying each, so that a store larger than memory can be
//! surveyed; then it compares all references to blocks with what is allocated. It changes nothing, and goes
//! on after whatever it finds.

use std::collections::{BTreeMap, BTreeSet};

use media::{Extent, PageId, Pages, Reconciliation, SpaceUse};
use types::{ContainerId, PoolId};

use crate::catalog::Catalog;
use crate::commit;
use crate::error::Error;
use crate::finding::{Finding, FindingKind, Findings};
use crate::key::{self, Version};
use crate::naming::place_of;
use crate::node::{self, Body};
use crate::request::BulkList;
use crate::shard::Shard;
use crate::standing;
use crate::tree::Tree;
use crate::value::{self, Stored};

/// Findings listed unless somebody asks for more.
const FINDINGS_MAX: usize = 32;
/// Records that a repair removes in one pass.
const BAD_RECORDS_MAX: usize = 100_000;

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Read every value and verify its checksums.
    pub data: bool,
    /// Findings to list; all are counted.
    pub findings_max: usize,
}

impl Default for CheckOptions {
    fn default() -> CheckOptions {
        CheckOptions { data: false, findings_max: FINDINGS_MAX }
    }
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Empty when all invariants hold; at most as many as were asked for.
    pub findings: Vec<Finding>,
    /// How many there were.
    pub findings_total: u64,
    /// Records of all containers, and pages of everything.
    pub records: u64,
    pub pages: u64,
    /// Of the records of live containers: single values and extents of data.
    pub values: u64,
    /// Values whose checksums were verified, and their bytes.
    pub verified: u64,
    pub verified_bytes: u64,
    /// Some pages could not be read: what they refer to looks leaked.
    pub is_partial: bool,
    pub space: Option<SpaceUse>,
    pub reconciliation: Option<Reconciliation>,
    /// What each container says it has, and has.
    pub containers: Vec<ContainerCount>,
}

/// Sums of a container, as its head has them and as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerCount {
    pub container: ContainerId,
    pub pool: PoolId,
    /// It is being destroyed.
    pub is_remains: bool,
    pub records: u64,
    /// Tree and head pages: counted, found.
    pub pages: [u64; 2],
    /// Bulk blocks: counted, found.
    pub blocks: [u64; 2],
    /// Punch records: counted, found.
    pub punches: [u64; 2],
}

impl Report {
    /// # Panics
    /// When an invariant is broken; says which. For tests.
    pub fn expect_clean(&self) {
        assert!(self.findings.is_empty(), "broken invariants: {:#?}", self.findings);
    }
}

/// All that a survey learns; a repair needs more of it than a report says.
pub(crate) struct Survey {
    pub(crate) report: Report,
    /// Every extent that a value names.
    pub(crate) bulk: Vec<Extent>,
    /// Pages that belong to something.
    pub(crate) owned: BTreeSet<u32>,
    /// What the heads should say, by the number of the tree.
    pub(crate) truths: BTreeMap<u32, Truth>,
    pub(crate) bad: Vec<BadRecord>,
}

/// What a tree really holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Truth {
    pub(crate) pages: u64,
    pub(crate) blocks: u64,
    pub(crate) punches: u64,
    pub(crate) newest: Version,
    /// Every page of it could be read, so the rest is the truth.
    pub(crate) is_whole: bool,
}

/// A record that should not be there.
pub(crate) struct BadRecord {
    pub(crate) owner: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) kind: FindingKind,
}

/// Walks every tree of a store: its nodes, its records, its counters; and compares all pages and bulk
/// blocks that are referenced with those that are allocated (K8).
pub(crate) fn store(media: &media::Store, catalog: &Catalog, options: CheckOptions) -> Report {
    survey(media, catalog, options).report
}

pub(crate) fn survey(media: &media::Store, catalog: &Catalog, options: CheckOptions) -> Survey {
    let mut survey = Survey {
        report: Report::default(),
        bulk: Vec::new(),
        owned: BTreeSet::new(),
        truths: BTreeMap::new(),
        bad: Vec::new(),
    };
    let mut found = Findings::up_to(options.findings_max);
    {
        let mut pages = media.pages();
        for (tree, head, shard) in catalog.trees() {
            survey_tree(&mut survey, &mut found, media, &mut pages, (tree, head, shard), options.data, catalog);
        }
        let mut faults = Vec::new();
        commit::check(catalog, &mut pages, &mut survey.bulk, &mut faults);
        standing::check(catalog, &mut pages, &mut faults);
        faults.into_iter().for_each(|fault| found.add(FindingKind::Catalog, None, "changes", fault));
        let mut faults = Vec::new();
        catalog.sessions.check(&catalog.own, &mut pages, &mut survey.owned, &mut faults);
        faults.into_iter().for_each(|(name, fault)| found.add(FindingKind::Session, None, name, fault));
        for id in pages.ids() {
            if !survey.owned.contains(&id.0) {
                found.add(FindingKind::OrphanPage, None, id.to_string(), "allocated, but nobody's");
            }
        }
        survey.report.pages = survey.owned.len() as u64;
    }
    for (id, pool) in &catalog.pools {
        let members = catalog.shards.values().chain(catalog.garbage.values()).filter(|shard| shard.pool == *id);
        let (pages, blocks) = members.fold((0, 0), |(p, b), shard| (p + shard.pages(), b + shard.blocks));
        if (pool.pages, pool.blocks) != (pages, blocks) {
            let fault = format!(
                "{} pages and {} blocks counted, its containers have {pages} and {blocks}",
                pool.pages, pool.blocks
            );
            found.add(FindingKind::Counter, None, format!("pool {id}"), fault);
        }
    }
    match media.reconcile(survey.bulk.iter().copied()) {
        Ok(space) => {
            for (extent, corrupt) in &space.conflicting {
                let place = format!("{}, {} blocks", corrupt.place, extent.blocks);
                found.add(FindingKind::Block, None, place, corrupt.fault.to_string());
            }
            for run in &space.leaked {
                let place = format!("blocks {}..{}", run.block, u64::from(run.block) + u64::from(run.blocks));
                found.add(FindingKind::Leak, None, place, "allocated, but nobody's");
            }
            survey.report.space = Some(space.space);
            survey.report.reconciliation = Some(space);
        }
        Err(error) => found.add(FindingKind::Block, None, "the block space", error.to_string()),
    }
    survey.report.findings = found.listed;
    survey.report.findings_total = found.total;
    survey
}

fn survey_tree(
    survey: &mut Survey,
    found: &mut Findings,
    media: &media::Store,
    pages: &mut Pages,
    (tree, head, shard): (&Tree, PageId, Option<&Shard>),
    data: bool,
    catalog: &Catalog,
) {
    let mut facts = Facts::default();
    let mut blocks = 0;
    let mut records = Findings::up_to(found.room());
    let walk = walk_up_to(found.room(), tree, pages, |key, value| {
        let Some(shard) = shard else { return };
        let mut bad = |kind, fault: String| {
            records.add(kind, Some(shard.id), place_of(key), fault);
            if survey.bad.len() < BAD_RECORDS_MAX {
                survey.bad.push(BadRecord { owner: tree.owner, key: key.to_vec(), kind });
            }
        };
        match facts.look(key, value) {
            Ok(()) => {}
            Err((kind, fault)) => bad(kind, fault.into()),
        }
        let Some(record) = key::read_record(key) else { return };
        for piece in value::blocks_of(record, value) {
            blocks += u64::from(piece.blocks);
            survey.bulk.push(piece);
        }
        if data && let Some(payload) = payload_of(record, value) {
            survey.report.verified += 1;
            survey.report.verified_bytes += payload.len();
            if let Err(fault) = verify_payload(media, payload) {
                bad(FindingKind::Value, fault);
            }
        }
    });
    let container = shard.map(|shard| shard.id);
    let is_whole = !walk.is_partial;
    survey.report.is_partial |= walk.is_partial;
    found.extend(walk.findings, container);
    found.extend(records, container);
    let node_pages = walk.pages.len() as u64;
    for page in walk.pages.into_iter().chain([head.0]) {
        if !survey.owned.insert(page) {
            found.add(FindingKind::Structure, container, format!("page {page}"), "has two owners");
        }
    }
    let truth = Truth { pages: node_pages, blocks, punches: facts.punches, newest: facts.newest, is_whole };
    survey.truths.insert(tree.owner, truth);
    let Some(shard) = shard else {
        if is_whole && tree.pages != node_pages {
            let fault = format!("{} tree pages counted, {node_pages} found", tree.pages);
            found.add(FindingKind::Counter, None, "the catalog", fault);
        }
        return;
    };
    survey.report.records += walk.records;
    let is_remains = catalog.garbage.contains_key(&tree.owner);
    survey.report.values += if is_remains { 0 } else { facts.values };
    survey.report.containers.push(ContainerCount {
        container: shard.id,
        pool: shard.pool,
        is_remains,
        records: walk.records,
        pages: [shard.pages(), node_pages + 1],
        blocks: [shard.blocks, blocks],
        punches: [shard.punches, facts.punches],
    });
    if is_whole {
        compare_counters(found, shard, &truth, is_remains);
    }
    match catalog.is_entered(pages, shard) {
        Ok(true) => {}
        Ok(false) => found.add(FindingKind::Counter, container, "its entry", "is not what memory says"),
        Err(error) => found.add_error(FindingKind::Catalog, container, "its entry", &error),
    }
    match Shard::load_own(pages, head) {
        Ok(stored) if stored.same_counters(shard) => {}
        Ok(_) => found.add(FindingKind::Counter, container, head.to_string(), "the head is not what memory says"),
        Err(error) => found.add_error(FindingKind::Catalog, container, &head.to_string(), &error),
    }
}

fn compare_counters(found: &mut Findings, shard: &Shard, truth: &Truth, is_remains: bool) {
    let mut differ = |what: &str, counted: u64, there: u64| {
        if counted != there {
            let fault = format!("{counted} {what} counted, {there} found");
            found.add(FindingKind::Counter, Some(shard.id), "its head", fault);
        }
    };
    differ("tree pages", shard.tree.pages, truth.pages);
    differ("blocks", shard.blocks, truth.blocks);
    if !is_remains {
        differ("punches", shard.punches, truth.punches);
        if truth.newest.epoch > shard.max_epoch() {
            let fault = format!("epoch {} found beyond the highest, {}", truth.newest.epoch, shard.max_epoch());
            found.add(FindingKind::Counter, Some(shard.id), "its head", fault);
        }
    }
}

/// What the records of a container must agree on.
#[derive(Default)]
struct Facts {
    punches: u64,
    values: u64,
    /// Object prefix of the latest flag.
    flag: Option<Vec<u8>>,
    newest: Version,
}

impl Facts {
    /// What is wrong with a record. `Structure` when it is one, but not where it stands.
    fn look(&mut self, key: &[u8], value: &[u8]) -> Result<(), (FindingKind, &'static str)> {
        let bad = |fault| Err((FindingKind::Record, fault));
        let Some(record) = key::read_record(key) else {
            return bad("a key that cannot be read");
        };
        if let Some(version) = record.version() {
            self.newest = self.newest.max(version);
        }
        match record {
            key::Record::ObjectFlag => self.flag = Some(key[..key::OBJECT_BYTES].to_vec()),
            key::Record::ObjectPunch(_) | key::Record::DkeyPunch(_) | key::Record::AkeyPunch(_) => {
                self.punches += 1;
                if !value.is_empty() {
                    return bad("a punch with a value");
                }
                if self.flag.as_deref() != Some(&key[..key::OBJECT_BYTES]) {
                    return Err((FindingKind::Structure, "a punch in an object without the flag"));
                }
            }
            key::Record::Single(_) if value::read_payload(value).is_none() => {
                return bad("a single value that is none");
            }
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
                            return bad("an extent beyond the index limit");
                        }
                    }
                    Some(_) => return bad("an extent of another class than its key says"),
                    None => return bad("an extent that cannot be read"),
                }
            }
        }
        Ok(())
    }
}

/// The payload of a record that has one.
pub(crate) fn payload_of(record: key::Record, value: &[u8]) -> Option<Stored<'_>> {
    match record {
        key::Record::Single(_) => value::read_payload(value),
        key::Record::Array { hole: false, .. } => value::read_data(value).map(|(_, _, payload)| payload),
        _ => None,
    }
}

/// Reads a payload, from its blocks if it lies there.
pub(crate) fn read_payload(media: &media::Store, blocks: &BulkList, bytes: u64) -> media::Result<Vec<u8>> {
    let mut payload = Vec::new();
    for extent in blocks {
        let left = (bytes - payload.len() as u64).min(extent.bytes());
        payload.extend_from_slice(&media.bulk_read_now(*extent, 0, left as usize)?);
    }
    Ok(payload)
}

fn verify_payload(media: &media::Store, payload: Stored<'_>) -> Result<(), String> {
    let verify = |bytes: &[u8], checksums: &[u8]| {
        codec::checksum::verify_chunks(bytes, &value::read_checksums(checksums)).map_err(|bad| bad.to_string())
    };
    match payload {
        Stored::Inline { checksums, bytes } => verify(bytes, checksums),
        Stored::Bulk { bytes, checksums, .. } => {
            let blocks = payload.blocks();
            let places: Vec<String> = blocks.iter().map(|e| format!("{}+{}", e.block, e.blocks)).collect();
            let named = |fault: String| format!("{fault}; its bytes lie in blocks {}", places.join(", "));
            let read = read_payload(media, &blocks, bytes).map_err(|error| named(error.to_string()))?;
            verify(&read, checksums).map_err(named)
        }
    }
}

/// What a walk over one tree found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) pages: BTreeSet<u32>,
    pub(crate) records: u64,
    pub(crate) findings: Findings,
    /// Some pages could not be read.
    pub(crate) is_partial: bool,
}

/// Visits every record of `tree` in order and checks its nodes: layout, heads, prefixes, order within
/// and between pages, separators, levels, highest epochs.
#[cfg(test)]
pub(crate) fn walk(tree: &Tree, pages: &mut Pages, visit: impl FnMut(&[u8], &[u8])) -> Walk {
    let mut walk = walk_up_to(FINDINGS_MAX, tree, pages, visit);
    if !walk.is_partial && walk.pages.len() as u64 != tree.pages {
        let fault = format!("{} pages counted, {} noted", walk.pages.len(), tree.pages);
        walk.findings.add(FindingKind::Counter, None, format!("tree {}", tree.owner), fault);
    }
    walk
}

fn walk_up_to(limit: usize, tree: &Tree, pages: &mut Pages, visit: impl FnMut(&[u8], &[u8])) -> Walk {
    let walk = Walk { findings: Findings::up_to(limit), ..Walk::default() };
    let mut walker = Walker { tree: *tree, pages, walk, last: None, visit };
    walker.descend(tree.root, None, &[], None);
    walker.walk
}

struct Walker<'a, V> {
    tree: Tree,
    pages: &'a mut Pages,
    walk: Walk,
    last: Option<Vec<u8>>,
    visit: V,
}

impl<V: FnMut(&[u8], &[u8])> Walker<'_, V> {
    fn note(&mut self, kind: FindingKind, id: PageId, fault: String) {
        self.walk.findings.add(kind, None, format!("tree {}, {id}", self.tree.owner), fault);
    }

    /// A copy of a node, so that its page may leave memory while its children are visited.
    fn read(&mut self, id: PageId) -> Result<(Box<Body>, u16), Error> {
        self.pages.begin_op();
        let page = self.pages.get(id)?;
        Ok((Box::new(*page.body()), page.kind()))
    }

    /// Visits the subtree at `id`, whose keys lie from `low` on and before `high`; returns the highest epoch
    /// in it.
    fn descend(&mut self, id: PageId, level: Option<u8>, low: &[u8], high: Option<&[u8]>) -> u64 {
        if !self.walk.pages.insert(id.0) {
            self.note(FindingKind::Structure, id, "is referenced twice".into());
            return 0;
        }
        let (body, kind) = match self.read(id) {
            Ok(read) => read,
            Err(error) => {
                self.walk.is_partial = true;
                self.walk.pages.remove(&id.0);
                let (place, fault) = match error {
                    Error::Corrupt { place, fault } => (place, fault),
                    other => (id.to_string(), other.to_string()),
                };
                let lost = format!("{fault}; it held records {}", range_of(low, high));
                self.walk.findings.add(FindingKind::Page, None, place, lost);
                return 0;
            }
        };
        if let Some(text) = node::verify(&body) {
            self.walk.is_partial = true;
            self.note(FindingKind::Page, id, format!("{text}; it held records {}", range_of(low, high)));
            return 0;
        }
        if node::owner(&body) != self.tree.owner {
            self.note(FindingKind::Structure, id, format!("belongs to tree {}", node::owner(&body)));
        }
        if level.is_some_and(|level| level != node::level(&body)) {
            self.walk.is_partial = true;
            let text = format!("is on level {}, its parent expects {level:?}", node::level(&body));
            self.note(FindingKind::Structure, id, text);
            return 0;
        }
        if kind != node::KIND_NODE {
            self.note(FindingKind::Structure, id, "is not marked as a node".into());
        }
        if node::count(&body) == 0 && level.is_some() {
            self.note(FindingKind::Structure, id, "is empty".into());
        }
        if node::is_leaf(&body) { self.leaf(id, &body, low, high) } else { self.inner(id, &body, low, high) }
    }

    fn leaf(&mut self, id: PageId, body: &Body, low: &[u8], high: Option<&[u8]>) -> u64 {
        let mut key = Vec::new();
        for index in 0..node::count(body) {
            node::key(body, index).copy_to(&mut key);
            if &key[..] < low || high.is_some_and(|high| &key[..] >= high) {
                self.note(FindingKind::Structure, id, format!("record {index} is outside its separators"));
            }
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                self.note(FindingKind::Structure, id, format!("record {index} is not above the one before"));
            }
            (self.visit)(&key, node::value(body, index));
            self.walk.records += 1;
            self.last = Some(key.clone());
        }
        node::max_epoch(body)
    }

    fn inner(&mut self, id: PageId, body: &Body, low: &[u8], high: Option<&[u8]>) -> u64 {
        let count = node::count(body);
        let bound = |at: usize| {
            let mut bytes = Vec::new();
            node::key(body, at).copy_to(&mut bytes);
            bytes
        };
        let mut highest = 0;
        for index in 0..count {
            let Some((child, epoch)) = node::child(body, index) else { continue };
            let own = (index > 0).then(|| bound(index));
            let next = (index + 1 < count).then(|| bound(index + 1));
            let level = node::level(body).checked_sub(1);
            let below = self.descend(PageId(child), level, own.as_deref().unwrap_or(low), next.as_deref().or(high));
            if below > epoch {
                self.note(FindingKind::Structure, id, format!("child {index} holds epoch {below}, noted {epoch}"));
            }
            highest = highest.max(epoch);
        }
        highest
    }
}

/// The keys between two separators, for a person.
pub(crate) fn range_of(low: &[u8], high: Option<&[u8]>) -> String {
    match high {
        Some(high) => format!("from {} up to {}", place_of(low), place_of(high)),
        None => format!("from {} on", place_of(low)),
    }
}

//! Taking damage out: heads and pages that cannot be read, and putting back what only they led to.
//!
//! A head that cannot be read is made anew: the catalog knows where the tree is, and what the tree does not tell.
//!
//! A page that cannot be read is cut out of its parent; the records it held are lost. When it was an inner
//! node, the pages below it are whole but nobody's: their records are put back where they belong, one by one.
//!
//! # Not here
//! Counters and blocks, which are wrong afterwards: `repair` counts them anew.

use std::collections::{BTreeMap, BTreeSet};

use media::{PageId, Pages};
use types::ContainerId;

use crate::catalog::{CATALOG_OWNER, Catalog, Unread};
use crate::check::range_of;
use crate::error::{Error, Result};
use crate::key;
use crate::node::{self, Body, KIND_NODE, Value};
use crate::shard::Shard;
use crate::tree::Tree;

/// A page that was cut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) container: Option<ContainerId>,
    /// Where it was, and what was wrong with it.
    pub(crate) place: String,
    pub(crate) fault: String,
    /// The keys between the separators around it.
    pub(crate) range: String,
}

/// What came back from pages that nobody led to any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PutBack {
    /// Records put back, by the number of their tree.
    pub(crate) records: BTreeMap<u32, u64>,
    pub(crate) pages: u64,
}

/// An unreadable node, and how to get there.
struct Gap {
    /// Inner nodes from the root down, with the child taken at each.
    path: Vec<(PageId, usize)>,
    id: PageId,
    range: String,
    error: Error,
}

/// Makes the head of a container anew from what its entry says; remains of one when it has no name. Answers with
/// the number of its tree; `None`, with nothing done, when the entry contradicts others.
pub(crate) fn rebuild(catalog: &mut Catalog, pages: &mut Pages, lost: &Unread) -> Result<Option<u32>> {
    let Some(site) = &lost.site else { return Ok(None) };
    let is_number = site.owner != CATALOG_OWNER && site.owner <= catalog.own.counter;
    if !is_number || catalog.shard_of_tree(site.owner).is_some() {
        return Ok(None);
    }
    pages.begin_op();
    // One that can be read is somebody's, or nobody's: `put_back` finds out.
    if pages.get(site.head).is_err() {
        give_up(pages, site.head)?;
    }
    let id = lost.container.unwrap_or(ContainerId::from_bytes([0; 16]));
    let shard = Shard::rebuild(pages, id, site)?;
    catalog.adopt(pages, lost.container, shard)?;
    Ok(Some(site.owner))
}

/// Cuts every page that cannot be read out of the trees of all containers. The catalog's own tree is not
/// touched: it was read already.
///
/// Cost: every page of the store is read, and those of a damaged tree once more for each page cut out of it.
pub(crate) fn cut_unreadable(catalog: &mut Catalog, pages: &mut Pages) -> Result<Vec<Cut>> {
    let owners: Vec<u32> = catalog.trees().filter_map(|(tree, _, shard)| shard.map(|_| tree.owner)).collect();
    let mut cuts = Vec::new();
    for &owner in &owners {
        let Some(shard) = catalog.shard_of_tree(owner) else { continue };
        let mut has_moved = false;
        while let Some(gap) = first_gap(&shard.tree, pages, &owners) {
            let container = Some(shard.id);
            let (place, fault) = match gap.error {
                Error::Corrupt { place, fault } => (place, fault),
                other => (gap.id.to_string(), other.to_string()),
            };
            cuts.push(Cut { container, place, fault, range: gap.range });
            let root = shard.tree.root;
            detach(&mut shard.tree, pages, &gap.path, gap.id)?;
            shard.save_all(pages)?;
            has_moved |= shard.tree.root != root;
        }
        if has_moved {
            catalog.enter_tree(pages, owner)?;
        }
    }
    Ok(cuts)
}

/// The first node, in key order, that cannot be read, that is referenced a second time, or that is another
/// tree's.
fn first_gap(tree: &Tree, pages: &mut Pages, owners: &[u32]) -> Option<Gap> {
    let mut search = Search { pages, owner: tree.owner, owners, path: Vec::new(), seen: BTreeSet::new() };
    search.below(tree.root, None, &[], None)
}

struct Search<'a> {
    pages: &'a mut Pages,
    owner: u32,
    /// Numbers of all trees.
    owners: &'a [u32],
    path: Vec<(PageId, usize)>,
    seen: BTreeSet<u32>,
}

impl Search<'_> {
    fn below(&mut self, id: PageId, level: Option<u8>, low: &[u8], high: Option<&[u8]>) -> Option<Gap> {
        let body = match self.judge(id, level) {
            Ok(body) => body,
            Err(error) => return Some(Gap { path: self.path.clone(), id, range: range_of(low, high), error }),
        };
        if node::is_leaf(&body) {
            return None;
        }
        let bound = |at: usize| {
            let mut bytes = Vec::new();
            node::key(&body, at).copy_to(&mut bytes);
            bytes
        };
        for index in 0..node::count(&body) {
            let (child, _) = node::child(&body, index)?;
            let own = (index > 0).then(|| bound(index));
            let next = (index + 1 < node::count(&body)).then(|| bound(index + 1));
            self.path.push((id, index));
            let level = node::level(&body).checked_sub(1);
            let found = self.below(PageId(child), level, own.as_deref().unwrap_or(low), next.as_deref().or(high));
            if found.is_some() {
                return found;
            }
            self.path.pop();
        }
        None
    }

    /// The node, if it belongs where it was found.
    fn judge(&mut self, id: PageId, level: Option<u8>) -> Result<Box<Body>> {
        let wrong = |fault: String| Err(Error::Corrupt { place: id.to_string(), fault });
        if !self.seen.insert(id.0) {
            return wrong("referenced twice".into());
        }
        let body = read_node(self.pages, id)?;
        if level.is_some_and(|level| level != node::level(&body)) {
            return wrong("on the wrong level".into());
        }
        // A number that is no tree's says nothing; one that is another's says that the reference is wrong.
        let owner = node::owner(&body);
        if owner != self.owner && self.owners.contains(&owner) {
            return wrong(format!("belongs to tree {owner}"));
        }
        Ok(body)
    }
}

/// A copy of a node, so that its page may leave memory while its children are looked at.
fn read_node(pages: &mut Pages, id: PageId) -> Result<Box<Body>> {
    pages.begin_op();
    let page = pages.get(id)?;
    if page.kind() != KIND_NODE {
        return Err(Error::Corrupt { place: id.to_string(), fault: "not a node of a tree".into() });
    }
    Ok(Box::new(*page.body()))
}

/// Takes `id` out of its parent, and parents that are left empty out of theirs. A tree whose root goes gets a
/// new one, an empty leaf. Pages that can be read are not given up: `put_back` looks at them.
fn detach(tree: &mut Tree, pages: &mut Pages, path: &[(PageId, usize)], id: PageId) -> Result<()> {
    pages.begin_op();
    if pages.get(id).is_err() {
        give_up(pages, id)?;
    }
    let Some((&(parent, index), above)) = path.split_last() else {
        *tree = Tree::create(pages, tree.owner)?;
        return Ok(());
    };
    let body = pages.get_mut(parent)?.body_mut();
    node::remove(body, index);
    if node::count(body) == 0 { detach(tree, pages, above, parent) } else { Ok(()) }
}

fn give_up(pages: &mut Pages, id: PageId) -> Result<()> {
    match pages.free(id) {
        // A reference to a page that does not exist.
        Err(media::Error::UnknownPage(_)) => Ok(()),
        freed => Ok(freed?),
    }
}

/// Takes the pages that belong to nothing apart: records of leaves go back into their trees, unless those
/// have them already; then the pages are given up. Pages of unknown trees are given up only if `all` says
/// that every tree is known.
pub(crate) fn put_back(catalog: &mut Catalog, pages: &mut Pages, owned: &BTreeSet<u32>, all: bool) -> Result<PutBack> {
    let orphans: Vec<PageId> = pages.ids().filter(|id| !owned.contains(&id.0)).collect();
    let mut done = PutBack::default();
    for id in orphans {
        let body = read_node(pages, id).ok();
        let owner = body.as_ref().map(|body| node::owner(body));
        let shard = owner.filter(|owner| *owner != 0).and_then(|owner| catalog.shard_of_tree(owner));
        let Some(shard) = shard else {
            if all {
                give_up(pages, id)?;
                done.pages += 1;
            }
            continue;
        };
        give_up(pages, id)?;
        done.pages += 1;
        let Some(body) = body.filter(|body| node::is_leaf(body)) else { continue };
        let mut found = Vec::new();
        for index in 0..node::count(&body) {
            pages.begin_op();
            node::key(&body, index).copy_to(&mut found);
            let Some(record) = key::read_record(&found) else { continue };
            let spot = shard.tree.locate(pages, &found)?;
            if spot.found {
                continue;
            }
            let value = Value { head: node::value(&body, index), tail: &[] };
            let epoch = record.version().map_or(0, |version| version.epoch.0);
            shard.tree.insert_at(pages, spot, &found, value, epoch, &mut Vec::new())?;
            *done.records.entry(shard.tree.owner).or_insert(0) += 1;
        }
        shard.save_all(pages)?;
    }
    Ok(done)
}

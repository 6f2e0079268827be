//! Walks a store and says what breaks an invariant. Used by tests, the simulator and `ddb`.

use std::collections::BTreeSet;

use media::{PageId, Pages};

use crate::node;
use crate::tree::{Tree, body};

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

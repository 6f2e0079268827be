//! An ordered B+tree over the pages of a store: insert, remove, and how pages split and merge.
//!
//! # Shape
//! The root keeps its page for the life of the tree; when it splits, its contents move to a child.
//! Nothing else refers to a page but its parent: neighbours are found through the path.
//!
//! # Always true
//! 1. A child's keys lie at or above its own separator and below the next one.
//! 2. An inner record's epoch is at least that of every record below it.
//! 3. A path names pages of levels that fall by one: a damaged child pointer ends a descent with an
//!    error instead of a loop.
//!
//! # Not here
//! What keys and values mean (`key`, `value`); which versions are visible (`life`, `fetch`).

use media::{Page, PageId, Pages};
use smallvec::SmallVec;

use crate::error::{Error, Result};
use crate::node::{self, Body, KIND_NODE, KeyRef, Value};

/// Cache lines asked for ahead of a visit: the header and the slots a bisection looks at first.
const PREFETCH_LINES: usize = 8;

/// A tree, by its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: PageId,
    /// Number stamped into each of its nodes.
    pub(crate) owner: u32,
    /// Nodes. From the device, where it may be wrong: it never decides anything, and never overflows.
    pub(crate) pages: u64,
}

/// Inner nodes from the root down, with the child taken at each.
pub(crate) type Path = SmallVec<[(PageId, u16); 8]>;

/// Where a key is, or belongs.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) path: Path,
    pub(crate) leaf: PageId,
    pub(crate) index: usize,
    pub(crate) found: bool,
}

impl Tree {
    /// A new tree: one empty leaf.
    pub(crate) fn create(pages: &mut Pages, owner: u32) -> Result<Tree> {
        let root = new_node(pages)?;
        node::init(pages.get_mut(root)?.body_mut(), 0, owner, &[]);
        Ok(Tree { root, owner, pages: 1 })
    }

    /// Levels above the leaves.
    pub(crate) fn height(&self, pages: &Pages) -> Result<usize> {
        Ok(usize::from(node::level(body(pages, self.root)?)))
    }

    /// Finds the place of `key`. Changes nothing, so that a request can be refused after it.
    #[inline]
    pub(crate) fn locate(&self, pages: &Pages, key: &[u8]) -> Result<Spot> {
        let mut path = Path::new();
        let mut id = self.root;
        let mut body = body(pages, id)?;
        while !node::is_leaf(body) {
            let index = node::search_child(body, key);
            let next = child_of(pages, id, body, index)?;
            path.push((id, index as u16));
            (id, body) = next;
        }
        let (index, found) = match node::search(body, key) {
            Ok(index) => (index, true),
            Err(index) => (index, false),
        };
        Ok(Spot { path, leaf: id, index, found })
    }

    /// The leaf where `key` belongs, and the position in it: for readers, who need no path.
    #[inline]
    pub(crate) fn leaf<'a>(&self, pages: &'a Pages, key: &[u8]) -> Result<(&'a Body, usize)> {
        let mut id = self.root;
        let mut body = body(pages, id)?;
        while !node::is_leaf(body) {
            (id, body) = child_of(pages, id, body, node::search_child(body, key))?;
        }
        match node::search(body, key) {
            Ok(index) | Err(index) => Ok((body, index)),
        }
    }

    /// Finds the places of several keys, descending level by level, so that the cache misses of one
    /// overlap those of the others.
    pub(crate) fn locate_leaves(&self, pages: &Pages, keys: &[&[u8]], out: &mut Vec<PageId>) -> Result<()> {
        out.clear();
        out.resize(keys.len(), self.root);
        for level in (1..=self.height(pages)?).rev() {
            for (key, id) in keys.iter().zip(out.iter_mut()) {
                *id = child_towards(pages, level, *id, key)?;
                pages.prefetch(*id, PREFETCH_LINES);
            }
        }
        Ok(())
    }

    /// Brings the leaves of several keys to memory, and the pages on the way: those of a level together.
    pub(crate) fn preload_leaves(&self, pages: &mut Pages, keys: &[Vec<u8>]) -> Result<()> {
        let mut ids = vec![self.root; keys.len()];
        for level in (1..=self.height(pages)?).rev() {
            for (key, id) in keys.iter().zip(ids.iter_mut()) {
                // Nothing is held from one key to the next, so that any number of pages may be gone through.
                pages.begin_op();
                *id = child_towards(pages, level, *id, key)?;
            }
            pages.preload(&ids);
        }
        Ok(())
    }

    /// Inserts `key`, or replaces its value, at the place found by [`Tree::locate`] just before.
    /// `old` receives the value replaced, if any.
    ///
    /// # Errors
    /// Only of memory: every page on the way was read by `locate`, in the same operation.
    pub(crate) fn insert_at(
        &mut self,
        pages: &mut Pages,
        mut spot: Spot,
        key: &[u8],
        value: Value<'_>,
        epoch: u64,
        old: &mut Vec<u8>,
    ) -> Result<bool> {
        let mut replaced = false;
        loop {
            for &(page, index) in &spot.path {
                node::raise_child_epoch(pages.get_mut(page)?.body_mut(), usize::from(index), epoch);
            }
            let body = pages.get_mut(spot.leaf)?.body_mut();
            if spot.found {
                replaced = true;
                old.clear();
                old.extend_from_slice(node::value(body, spot.index));
                if node::overwrite(body, spot.index, value) {
                    node::raise_max_epoch(body, epoch);
                    return Ok(true);
                }
                node::remove(body, spot.index);
            }
            if node::make_room(body, key, value.len()) {
                node::insert(body, spot.index, key, value);
                node::raise_max_epoch(body, epoch);
                return Ok(replaced);
            }
            self.split_leaf(pages, &spot, key)?;
            spot = self.locate(pages, key)?;
        }
    }

    /// Locates and inserts.
    pub(crate) fn insert(&mut self, pages: &mut Pages, key: &[u8], value: Value<'_>, epoch: u64) -> Result<bool> {
        let spot = self.locate(pages, key)?;
        self.insert_at(pages, spot, key, value, epoch, &mut Vec::new())
    }

    /// The value of `key`.
    pub(crate) fn get<'a>(&self, pages: &'a Pages, key: &[u8]) -> Result<Option<&'a [u8]>> {
        let spot = self.locate(pages, key)?;
        Ok(if spot.found { Some(node::value(body(pages, spot.leaf)?, spot.index)) } else { None })
    }

    /// Removes `key`; false when it was not there.
    pub(crate) fn remove(&mut self, pages: &mut Pages, key: &[u8]) -> Result<bool> {
        let spot = self.locate(pages, key)?;
        if spot.found {
            self.remove_at(pages, &spot)?;
        }
        Ok(spot.found)
    }

    /// Removes the record found at `spot`, and pages that it leaves empty or sparse.
    pub(crate) fn remove_at(&mut self, pages: &mut Pages, spot: &Spot) -> Result<()> {
        let body = pages.get_mut(spot.leaf)?.body_mut();
        node::remove(body, spot.index);
        if node::count(body) == 0 {
            self.unlink(pages, &spot.path, spot.leaf)
        } else if node::is_sparse(body) {
            self.merge(pages, &spot.path, spot.leaf)
        } else {
            Ok(())
        }
    }

    /// Removes the first leaf with all its records, which `each` gets to see; false when the tree is an
    /// empty leaf, which stays.
    pub(crate) fn drop_first_leaf(
        &mut self,
        pages: &mut Pages,
        mut each: impl FnMut(KeyRef<'_>, &[u8]),
    ) -> Result<bool> {
        let mut path = Path::new();
        let mut id = self.root;
        let mut current = body(pages, id)?;
        while !node::is_leaf(current) {
            let next = child_of(pages, id, current, 0)?;
            path.push((id, 0));
            (id, current) = next;
        }
        for index in 0..node::count(current) {
            each(node::key(current, index), node::value(current, index));
        }
        if path.is_empty() {
            let any = node::count(current) > 0;
            let owner = self.owner;
            node::init(pages.get_mut(id)?.body_mut(), 0, owner, &[]);
            return Ok(any);
        }
        self.unlink(pages, &path, id)?;
        Ok(true)
    }

    /// Gives up the root, when nothing else is left.
    pub(crate) fn destroy(self, pages: &mut Pages) -> Result<()> {
        if self.pages != 1 {
            return Err(damaged(self.root, "a tree whose count of pages is wrong"));
        }
        Ok(pages.free(self.root)?)
    }

    fn split_leaf(&mut self, pages: &mut Pages, spot: &Spot, key: &[u8]) -> Result<()> {
        let Some((&(parent, index), above)) = spot.path.split_last() else {
            return self.grow(pages);
        };
        let mut separator = Vec::new();
        let at = node::split_point(body(pages, spot.leaf)?, spot.index, key, &mut separator);
        if !node::make_room(pages.get_mut(parent)?.body_mut(), &separator, node::CHILD_BYTES) {
            return self.split_inner(pages, above, parent);
        }
        let right = new_node(pages)?;
        let (left_page, right_page) = pages.pair_mut(spot.leaf, right)?;
        node::split(left_page.body_mut(), right_page.body_mut(), at, key);
        self.link(pages, parent, usize::from(index) + 1, &separator, right)
    }

    fn split_inner(&mut self, pages: &mut Pages, above: &[(PageId, u16)], id: PageId) -> Result<()> {
        let Some((&(parent, index), above)) = above.split_last() else {
            return self.grow(pages);
        };
        let mut separator = Vec::new();
        let at = node::split_point_inner(body(pages, id)?, &mut separator);
        if !node::make_room(pages.get_mut(parent)?.body_mut(), &separator, node::CHILD_BYTES) {
            return self.split_inner(pages, above, parent);
        }
        let right = new_node(pages)?;
        let (left_page, right_page) = pages.pair_mut(id, right)?;
        node::split(left_page.body_mut(), right_page.body_mut(), at, &[]);
        self.link(pages, parent, usize::from(index) + 1, &separator, right)
    }

    /// Makes `page` child `index` of `parent`, which has room.
    fn link(&mut self, pages: &mut Pages, parent: PageId, index: usize, separator: &[u8], page: PageId) -> Result<()> {
        let epoch = node::highest_epoch(body(pages, page)?);
        let value = node::child_value(page.0, epoch);
        node::insert(pages.get_mut(parent)?.body_mut(), index, separator, Value { head: &value, tail: &[] });
        self.pages += 1;
        Ok(())
    }

    /// Moves the contents of the root to a new child, so that it can split.
    fn grow(&mut self, pages: &mut Pages) -> Result<()> {
        let child = new_node(pages)?;
        let (root, below) = pages.pair_mut(self.root, child)?;
        *below.body_mut() = *root.body();
        let value = node::child_value(child.0, node::highest_epoch(root.body()));
        let level = node::level(root.body()) + 1;
        node::init(root.body_mut(), level, self.owner, &[]);
        node::insert(root.body_mut(), 0, &[], Value { head: &value, tail: &[] });
        self.pages += 1;
        Ok(())
    }

    /// Takes the empty node `id` out of the tree.
    fn unlink(&mut self, pages: &mut Pages, path: &[(PageId, u16)], id: PageId) -> Result<()> {
        let Some((&(parent, index), above)) = path.split_last() else {
            // The root stays; without children it is a leaf again.
            node::init(pages.get_mut(id)?.body_mut(), 0, self.owner, &[]);
            return Ok(());
        };
        pages.free(id)?;
        // Saturating, here and below: the count comes from a head that may be damaged; `check` compares it.
        self.pages = self.pages.saturating_sub(1);
        let body = pages.get_mut(parent)?.body_mut();
        node::remove(body, usize::from(index));
        if node::count(body) == 0 { self.unlink(pages, above, parent) } else { self.shrink(pages) }
    }

    /// Merges the sparse node `id` with a neighbour under the same parent, if both fit one page. A neighbour that cannot be
    /// read stays as it is: nobody has looked at it before the change was logged, and a sparse node is no fault.
    fn merge(&mut self, pages: &mut Pages, path: &[(PageId, u16)], id: PageId) -> Result<()> {
        let Some((&(parent, index), above)) = path.split_last() else {
            return Ok(());
        };
        let index = usize::from(index);
        let parent_body = body(pages, parent)?;
        let right_index = if index + 1 < node::count(parent_body) { index + 1 } else { index };
        if right_index == 0 {
            return Ok(());
        }
        let (left, right) = (right_index - 1, right_index);
        let neighbours = (child_of(pages, parent, parent_body, left), child_of(pages, parent, parent_body, right));
        let (Ok((left, left_body)), Ok((right, right_body))) = neighbours else {
            return Ok(());
        };
        debug_assert!(left == id || right == id);
        let mut separator = Vec::new();
        node::key(parent_body, right_index).copy_to(&mut separator);
        // A damaged parent may name one child twice.
        if left == right || !node::should_merge(left_body, right_body, separator.len()) {
            return Ok(());
        }
        let (left_page, right_page) = pages.pair_mut(left, right)?;
        node::merge(left_page.body_mut(), right_page.body(), &separator);
        let epoch = node::highest_epoch(left_page.body());
        pages.free(right)?;
        self.pages = self.pages.saturating_sub(1);
        let parent_body = pages.get_mut(parent)?.body_mut();
        node::remove(parent_body, right_index);
        node::raise_child_epoch(parent_body, right_index - 1, epoch);
        if node::is_sparse(parent_body) {
            self.merge(pages, above, parent)?;
        }
        self.shrink(pages)
    }

    /// Moves a lone child's contents up into the root, unless it cannot be read: then it stays a child.
    fn shrink(&mut self, pages: &mut Pages) -> Result<()> {
        loop {
            let root = body(pages, self.root)?;
            if node::is_leaf(root) || node::count(root) != 1 {
                return Ok(());
            }
            let Ok((child, _)) = child_of(pages, self.root, root, 0) else {
                return Ok(());
            };
            let (root, below) = pages.pair_mut(self.root, child)?;
            *root.body_mut() = *below.body();
            pages.free(child)?;
            self.pages = self.pages.saturating_sub(1);
        }
    }
}

fn new_node(pages: &mut Pages) -> Result<PageId> {
    let id = pages.allocate()?;
    pages.get_mut(id)?.set_kind(KIND_NODE);
    Ok(id)
}

#[inline]
pub(crate) fn body(pages: &Pages, id: PageId) -> Result<&Body> {
    Ok(Page::body(pages.get(id)?))
}

/// The child of the inner node `id`, which must be of `level`, that `key` belongs to.
fn child_towards(pages: &Pages, level: usize, id: PageId, key: &[u8]) -> Result<PageId> {
    let body = body(pages, id)?;
    if usize::from(node::level(body)) != level {
        return Err(damaged(id, "a child on the wrong level"));
    }
    let (child, _) = node::child(body, node::search_child(body, key))
        .ok_or_else(|| damaged(id, "an inner node without children"))?;
    Ok(PageId(child))
}

/// Child `index` of the inner node `id`, one level below it.
#[inline]
pub(crate) fn child_of<'a>(pages: &'a Pages, id: PageId, inner: &Body, index: usize) -> Result<(PageId, &'a Body)> {
    let Some((child, _)) = node::child(inner, index) else {
        return Err(damaged(id, "an inner node without children"));
    };
    let child = PageId(child);
    pages.prefetch(child, PREFETCH_LINES);
    let below = body(pages, child)?;
    if node::level(below).checked_add(1) != Some(node::level(inner)) {
        return Err(damaged(child, "a child on the wrong level"));
    }
    Ok((child, below))
}

#[cold]
pub(crate) fn damaged(id: PageId, fault: &str) -> Error {
    Error::Corrupt { place: id.to_string(), fault: fault.to_string() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::check;
    use crate::cursor::Cursor;

    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = self.0 ^ (self.0 >> 29);
            x.wrapping_mul(0xbf58476d1ce4e5b9) >> 16
        }
        fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }
    }

    fn verify(tree: &Tree, pages: &mut Pages, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut found = Vec::new();
        let walk = check::walk(tree, pages, |key, value| found.push((key.to_vec(), value.to_vec())));
        assert_eq!(walk.findings.listed, []);
        assert_eq!(walk.pages.len() as u64, tree.pages);
        assert_eq!(pages.usage().pages, tree.pages, "no page is lost");
        assert!(found.iter().map(|(k, v)| (k, v)).eq(model.iter()));
    }

    /// Keys of very different lengths, sequential and random runs, values up to half a page, ranges
    /// removed until the tree is empty again.
    fn random_operations(seed: u64, steps: usize) {
        let mut random = Random(seed);
        let mut pages = Pages::in_memory(64 << 20).unwrap();
        let mut tree = Tree::create(&mut pages, 7).unwrap();
        let mut model = BTreeMap::new();
        let mut counter = 0u64;
        let long = random.below(3) == 0;
        for step in 0..steps {
            let key = match random.below(4) {
                0 => {
                    counter += 1;
                    [&b"run"[..], &counter.to_be_bytes()].concat()
                }
                1 if long => {
                    let mut key = vec![random.below(3) as u8; random.below(3100) as usize];
                    key.extend_from_slice(&random.below(50).to_be_bytes());
                    key
                }
                2 => vec![random.below(3) as u8; random.below(9) as usize + 1],
                _ => (random.below(500) << 20).to_le_bytes().to_vec(),
            };
            match random.below(10) {
                0..=5 => {
                    let len = if random.below(20) == 0 { random.below(4200) } else { random.below(100) };
                    let value = vec![step as u8; len as usize];
                    let replaced =
                        tree.insert(&mut pages, &key, Value { head: &value, tail: b"t" }, random.below(1000)).unwrap();
                    let old = model.insert(key, [&value[..], b"t"].concat());
                    assert_eq!(replaced, old.is_some());
                }
                6 | 7 => assert_eq!(tree.remove(&mut pages, &key).unwrap(), model.remove(&key).is_some()),
                8 if random.below(50) == 0 => {
                    let end = [&key[..], &[0xff; 4]].concat();
                    let range: Vec<_> = model.range(key..end).map(|(k, _)| k.clone()).collect();
                    for key in range {
                        assert!(tree.remove(&mut pages, &key).unwrap());
                        model.remove(&key);
                    }
                }
                _ => {
                    let mut cursor = Cursor::at(&tree, &pages, &key).unwrap();
                    let mut got = Vec::new();
                    for (k, v) in model.range(key.clone()..).take(5) {
                        cursor.key().copy_to(&mut got);
                        assert_eq!((&got, cursor.value()), (k, &v[..]));
                        cursor.next().unwrap();
                    }
                    let before = model.range(..key.clone()).next_back();
                    assert_eq!(cursor.seek_before(&key).unwrap(), before.is_some());
                    if let Some((k, _)) = before {
                        cursor.key().copy_to(&mut got);
                        assert_eq!(&got, k);
                    }
                    cursor.seek(&key).unwrap();
                    assert_eq!(cursor.is_valid(), model.range(key..).next().is_some());
                }
            }
            if step % 512 == 0 {
                verify(&tree, &mut pages, &model);
            }
        }
        verify(&tree, &mut pages, &model);
        while random.below(200) > 0 && tree.drop_first_leaf(&mut pages, |_, _| {}).unwrap() {
            let walk = check::walk(&tree, &mut pages, |_, _| {});
            assert_eq!(walk.findings.listed, []);
        }
        while tree.drop_first_leaf(&mut pages, |_, _| {}).unwrap() {}
        tree.destroy(&mut pages).unwrap();
        assert_eq!(pages.usage().pages, 0);
    }

    #[test]
    fn random_operations_agree_with_a_sorted_map() {
        for seed in 0..24 {
            random_operations(seed, 4000);
        }
    }

    /// Fuzzing planted bytes in a page, with the right checksum: a walk down by seeking before each key that it found then
    /// went round for ever.
    #[test]
    fn leaves_in_the_wrong_order_are_refused_and_not_walked_for_ever() {
        let mut pages = Pages::in_memory(64 << 20).unwrap();
        let mut tree = Tree::create(&mut pages, 1).unwrap();
        for n in 0..1000u64 {
            tree.insert(&mut pages, &n.to_be_bytes(), Value { head: &[1; 60], tail: &[] }, 1).unwrap();
        }
        pages.begin_op();
        let root = pages.get_mut(tree.root).unwrap().body_mut();
        assert!(!node::is_leaf(root));
        let from = node::value_at(root, 5);
        for child in [1, 2] {
            let to = node::value_at(root, child);
            root.copy_within(from..from + 4, to);
        }
        let (mut key, mut steps) = (900u64.to_be_bytes().to_vec(), 0);
        let mut cursor = Cursor::at(&tree, &pages, &key).unwrap();
        while let Ok(true) = cursor.seek_before(&key) {
            cursor.key().copy_to(&mut key);
            steps += 1;
            assert!(steps <= 1000, "each step passes a record");
        }
        assert!(steps < 900, "the fault is met after {steps} steps");
        assert!(matches!(cursor.seek_before(&key), Err(Error::Corrupt { .. })));
    }

    /// The leftmost leaf splits on keys below every separator there is.
    #[test]
    fn descending_keys_keep_the_order() {
        let mut pages = Pages::in_memory(64 << 20).unwrap();
        let mut tree = Tree::create(&mut pages, 1).unwrap();
        let mut model = BTreeMap::new();
        for n in (0..20_000u32).rev() {
            tree.insert(&mut pages, &n.to_be_bytes(), Value { head: &[1; 60], tail: &[] }, 1).unwrap();
            model.insert(n.to_be_bytes().to_vec(), vec![1; 60]);
        }
        verify(&tree, &mut pages, &model);
    }

    #[test]
    fn ascending_keys_fill_pages() {
        let mut pages = Pages::in_memory(64 << 20).unwrap();
        let mut tree = Tree::create(&mut pages, 1).unwrap();
        for n in 0..20_000u64 {
            let key = [&[9; 24][..], &n.to_be_bytes()].concat();
            tree.insert(&mut pages, &key, Value { head: &[1; 64], tail: &[] }, n).unwrap();
        }
        let bytes = tree.pages * 8192 / 20_000;
        assert!(bytes < 84, "{bytes} bytes a record of 64");
        for n in 0..20_000u64 {
            let key = [&[9; 24][..], &n.to_be_bytes()].concat();
            assert!(tree.remove(&mut pages, &key).unwrap());
        }
        assert_eq!((tree.pages, pages.usage().pages), (1, 1));
    }

    #[test]
    fn leaves_are_found_in_batches() {
        let mut pages = Pages::in_memory(64 << 20).unwrap();
        let mut tree = Tree::create(&mut pages, 1).unwrap();
        let keys: Vec<_> = (0..5000u64).map(|n| n.wrapping_mul(0x9e3779b97f4a7c15).to_be_bytes()).collect();
        for key in &keys {
            tree.insert(&mut pages, key, Value { head: &[0; 50], tail: &[] }, 1).unwrap();
        }
        let keys: Vec<&[u8]> = keys.iter().map(|k| &k[..]).collect();
        let mut leaves = Vec::new();
        tree.locate_leaves(&pages, &keys, &mut leaves).unwrap();
        for (key, leaf) in keys.iter().zip(leaves) {
            assert_eq!(tree.locate(&pages, key).unwrap().leaf, leaf);
        }
    }
}

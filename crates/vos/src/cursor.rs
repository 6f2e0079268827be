//! A place in a tree that moves: seek, forward, back.
//!
//! A cursor borrows the pages, so the tree cannot change under it; a scan that outlives one call keeps
//! a key, and seeks again.

use media::{PageId, Pages};

use crate::error::{Error, Result};
use crate::node::{self, Body, KeyRef};
use crate::tree::{Path, Tree, body, child_of};

/// Cache lines of a page with its header and the slots of some 60 records.
const HEAD_LINES: usize = 8;

/// Records that [`each_record`] visits before the pages seen so far may go.
const RECORDS_PER_STEP: usize = 32;

/// Visits every record whose key begins with `prefix`, in steps: there may be more of them than page memory holds.
///
/// # Errors
/// Of `each`, and of reading.
pub(crate) fn each_record(
    tree: &Tree,
    pages: &mut Pages,
    prefix: &[u8],
    mut each: impl FnMut(&Pages, &[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut key = prefix.to_vec();
    loop {
        pages.begin_op();
        let mut cursor = Cursor::at(tree, pages, &key)?;
        for _ in 0..RECORDS_PER_STEP {
            if !cursor.starts_with(prefix) {
                return Ok(());
            }
            cursor.key().copy_to(&mut key);
            each(pages, &key, cursor.value())?;
            cursor.next()?;
        }
        // The first key behind the last one seen.
        key.push(0);
    }
}

/// A place between or on the records of a tree.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    tree: Tree,
    pages: &'a Pages,
    path: Path,
    leaf: &'a Body,
    /// `count` when past the last record.
    index: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor on the first record at or after `key`.
    pub(crate) fn at(tree: &Tree, pages: &'a Pages, key: &[u8]) -> Result<Cursor<'a>> {
        let mut cursor =
            Cursor { tree: *tree, pages, path: Path::new(), leaf: body(pages, tree.root)?, index: usize::MAX };
        cursor.descend(key)?;
        cursor.settle()?;
        cursor.forward_of(key)?;
        Ok(cursor)
    }

    /// Not past the end.
    #[inline]
    pub(crate) fn is_valid(&self) -> bool {
        self.index < node::count(self.leaf)
    }

    /// Key of the record under the cursor; empty past the end.
    #[inline]
    pub(crate) fn key(&self) -> KeyRef<'a> {
        if self.is_valid() { node::key(self.leaf, self.index) } else { KeyRef { prefix: &[], suffix: &[] } }
    }

    #[inline]
    pub(crate) fn value(&self) -> &'a [u8] {
        if self.is_valid() { node::value(self.leaf, self.index) } else { &[] }
    }

    /// The page that the cursor is in, and its place there.
    #[inline]
    pub(crate) fn leaf(&self) -> (&'a Body, usize) {
        (self.leaf, self.index)
    }

    /// Moves to a record of the page that the cursor is in.
    #[inline]
    pub(crate) fn move_within(&mut self, index: usize) {
        debug_assert!(index < node::count(self.leaf), "a record of this page");
        self.index = index;
    }

    /// Whether a record is here and its key begins with `prefix`.
    #[inline]
    pub(crate) fn starts_with(&self, prefix: &[u8]) -> bool {
        self.is_valid() && node::key(self.leaf, self.index).starts_with(prefix)
    }

    /// Moves to the first record at or after `key`. Cheap when it is in the same leaf.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        let count = node::count(self.leaf);
        if count > 0 {
            // A place strictly inside the leaf is proof; at either end the answer may lie elsewhere.
            let index = match node::search(self.leaf, key) {
                Ok(index) | Err(index) => index,
            };
            if index > 0 && index < count {
                self.index = index;
                return self.forward_of(key);
            }
        }
        self.descend(key)?;
        self.settle()?;
        self.forward_of(key)
    }

    /// At the last record before `key`; past the end when there is none.
    pub(crate) fn before(tree: &'a Tree, pages: &'a Pages, key: &[u8]) -> Result<Cursor<'a>> {
        let mut cursor = Cursor::at(tree, pages, key)?;
        cursor.seek_before(key)?;
        Ok(cursor)
    }

    /// Moves to the last record before `key`; false, and past the end, when there is none.
    pub(crate) fn seek_before(&mut self, key: &[u8]) -> Result<bool> {
        self.descend(key)?;
        let found = self.back()?;
        if found && !self.key().is_below(key) { Err(out_of_order()) } else { Ok(found) }
    }

    /// Refuses a record that sorts before `key`, which was sought. Who seeks again and again, each time beyond what was
    /// found, would never come to an end in a page whose records are not in order.
    #[inline]
    fn forward_of(&self, key: &[u8]) -> Result<()> {
        if self.is_valid() && self.key().is_below(key) { Err(out_of_order()) } else { Ok(()) }
    }

    /// Moves to the next record.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        self.index += 1;
        if self.index < node::count(self.leaf) { Ok(()) } else { self.settle() }
    }

    /// Moves to the next record; from the end of a leaf, only to one whose leaf may hold an epoch above
    /// `since`. True when leaves were passed over.
    ///
    /// Cost: what is older is never read; only inner nodes on the way are.
    pub(crate) fn next_changed(&mut self, since: u64) -> Result<bool> {
        self.index += 1;
        if self.index < node::count(self.leaf) { Ok(false) } else { self.turn_changed(since) }
    }

    /// Leaves the present leaf, when it holds no epoch above `since`, for the next that may. True when
    /// leaves were passed over.
    pub(crate) fn seek_changed(&mut self, since: u64) -> Result<bool> {
        if node::max_epoch(self.leaf) > since {
            return Ok(false);
        }
        self.turn_changed(since)?;
        Ok(true)
    }

    /// Moves to the first record of the next leaf that may hold an epoch above `since`, or past the end.
    fn turn_changed(&mut self, since: u64) -> Result<bool> {
        let mut passed = false;
        while let Some((id, index)) = self.path.pop() {
            let inner = body(self.pages, id)?;
            let Some(mut take) = changed_child(inner, usize::from(index) + 1, since) else {
                passed |= usize::from(index) + 1 < node::count(inner);
                continue;
            };
            passed |= take > usize::from(index) + 1;
            let (mut id, mut current) = (id, inner);
            loop {
                let (child, below) = child_of(self.pages, id, current, take)?;
                self.path.push((id, take as u16));
                (id, current) = (child, below);
                if node::is_leaf(current) {
                    (self.leaf, self.index) = (current, 0);
                    self.settle()?;
                    return Ok(passed);
                }
                // What a node notes may be higher than what is left below it: then go on beside it.
                let Some(next) = changed_child(current, 0, since) else { break };
                passed |= next > 0;
                take = next;
            }
            passed = true;
        }
        self.index = node::count(self.leaf);
        Ok(passed)
    }

    /// Moves to the record before; false, and past the end, when there is none.
    pub(crate) fn back(&mut self) -> Result<bool> {
        while self.index == 0 {
            if !self.turn(false)? {
                self.index = node::count(self.leaf);
                return Ok(false);
            }
        }
        self.index -= 1;
        Ok(true)
    }

    fn descend(&mut self, key: &[u8]) -> Result<()> {
        self.path.clear();
        let mut id = self.tree.root;
        let mut current = body(self.pages, id)?;
        while !node::is_leaf(current) {
            let index = node::search_child(current, key);
            let next = child_of(self.pages, id, current, index)?;
            self.path.push((id, index as u16));
            (id, current) = next;
        }
        self.leaf = current;
        self.index = match node::search(current, key) {
            Ok(index) | Err(index) => index,
        };
        Ok(())
    }

    /// Moves from the end of a leaf to the next record, if there is one.
    fn settle(&mut self) -> Result<()> {
        while self.index >= node::count(self.leaf) {
            if !self.turn(true)? {
                self.index = node::count(self.leaf);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Moves to the first place of the next leaf, or the place after the last record of the leaf
    /// before; false, and unmoved, when there is none.
    fn turn(&mut self, forward: bool) -> Result<bool> {
        for depth in (0..self.path.len()).rev() {
            let (id, index) = self.path[depth];
            let inner = body(self.pages, id)?;
            let next = if forward { usize::from(index) + 1 } else { usize::from(index).wrapping_sub(1) };
            if next >= node::count(inner) {
                continue;
            }
            self.path.truncate(depth);
            let mut id: PageId = id;
            let mut current = inner;
            let mut take = next;
            while !node::is_leaf(current) {
                let below = child_of(self.pages, id, current, take)?;
                self.path.push((id, take as u16));
                (id, current) = below;
                take = if forward { 0 } else { node::count(current).saturating_sub(1) };
            }
            self.leaf = current;
            self.index = if forward { 0 } else { node::count(current) };
            self.prefetch_beside(forward);
            return Ok(true);
        }
        Ok(false)
    }

    /// Asks for the head of the leaf beside this one, if it is in memory: who turns a leaf over will turn the next, too.
    #[inline]
    fn prefetch_beside(&self, forward: bool) {
        let Some(&(id, index)) = self.path.last() else { return };
        let Ok(inner) = body(self.pages, id) else { return };
        let beside = usize::from(index).wrapping_add_signed(if forward { 1 } else { -1 });
        if beside < node::count(inner)
            && let Some((leaf, _)) = node::child(inner, beside)
        {
            self.pages.prefetch(PageId(leaf), HEAD_LINES);
        }
    }
}

#[cold]
fn out_of_order() -> Error {
    Error::Corrupt {
        place: "a page of the tree".into(),
        fault: "records that are not in the order of their keys".into(),
    }
}

/// The first child at or after `from` that notes an epoch above `since`.
fn changed_child(inner: &Body, from: usize, since: u64) -> Option<usize> {
    (from..node::count(inner)).find(|&index| node::child(inner, index).is_some_and(|(_, epoch)| epoch > since))
}

//! Rename: moving an entry to another name, in place of what may stand there.
//!
//! # Steps
//! 1. Mark the source as moving, with its destination.
//! 2. Write the whole entry at the destination, with where it came from: one update, which also
//!    takes the place of a file that stood there.
//! 3. Remove the source.
//! 4. Free what was replaced.
//!
//! The move happens at step 2. A crash after step 1 leaves a mark that means nothing, since the
//! destination does not hold the file; after step 2, a dead name at the source, which every reader
//! takes for absent (see `entry`); after step 3, an object nothing refers to. A dead name could come
//! back to life if the file went on from its destination: so whoever moves, replaces or removes an
//! entry that arrived by a rename first makes sure its source is gone (`settle`).

use std::path::Path;

use types::Conditions;

use crate::create::TRIES_MAX;
use crate::dir::{Dir, Place, Walked, bytes_of};
use crate::error::{Reason, Result};
use crate::inode::{Kind, Timestamp};
use crate::locks::Hold;
use crate::path;

impl Dir {
    /// Moves the entry `from` to the name `to`, replacing a file by a file or an empty directory
    /// by a directory. Seen by everyone as one step. Symbolic links at the end of either path are
    /// moved and replaced, not followed.
    ///
    /// # Errors
    /// Those of `rename(2)`: `Invalid` for a directory into itself, `NotEmpty`, `IsDirectory`, ...
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from, to) = (bytes_of(from.as_ref()), bytes_of(to.as_ref()));
        let mut tries = TRIES_MAX;
        loop {
            match self.rename_once(from, to).await {
                Err(Reason::Contended) if tries > 0 => tries -= 1,
                outcome => return outcome.map_err(|reason| blame(reason, from, to)),
            }
        }
    }

    async fn rename_once(&self, from: &[u8], to: &[u8]) -> Result<(), Reason> {
        let mount = &self.mount;
        mount.writable()?;
        let ends = (self.walk_to_last(from).await?, self.walk_to_last(to).await?);
        let (Walked::Name(mut source), Walked::Name(mut goal)) = ends else {
            return Err(Reason::Busy("'.', '..' and '/' cannot be renamed"));
        };
        source.inode = mount.inode(source.spot()).await?;
        goal.inode = mount.inode(goal.spot()).await?;
        let moving = source.inode.as_ref().ok_or(Reason::NotFound)?;
        if moving.kind != Kind::Directory && (source.trailing_slash || goal.trailing_slash) {
            return Err(Reason::NotDirectory);
        }
        // Two directories moved into each other at once would leave the tree.
        let changes_parent = moving.kind == Kind::Directory && source.parent.oid != goal.parent.oid;
        let _moves = if changes_parent { Some(mount.locks.moves().await) } else { None };
        if moving.kind == Kind::Directory && goal.parent.is_within(moving.oid) {
            return Err(Reason::Invalid("a directory cannot be moved into itself"));
        }
        if goal.inode.as_ref().is_some_and(|old| source.parent.is_within(old.oid)) {
            return Err(Reason::NotEmpty);
        }
        let mut holds = vec![(source.parent.oid, Hold::Shared), (goal.parent.oid, Hold::Shared)];
        holds.extend(goal.inode.as_ref().filter(|old| old.kind == Kind::Directory).map(|old| (old.oid, Hold::Alone)));
        let names = [(source.parent.oid, &*source.name), (goal.parent.oid, &*goal.name)];
        let _held = mount.locks.take(&holds, &names).await;
        if mount.locks.is_removed(goal.parent.oid) {
            return Err(Reason::NotFound);
        }
        self.rename_held(&source, &goal).await
    }

    async fn rename_held(&self, source: &Place, goal: &Place) -> Result<(), Reason> {
        let mount = &self.mount;
        let (from, to) = (source.spot(), goal.spot());
        let seen = source.inode.as_ref().expect("the caller looked");
        // What was seen before the locks may have changed since.
        let mut whole =
            mount.whole(from).await?.filter(|whole| whole.inode.oid == seen.oid).ok_or(Reason::Contended)?;
        let old = mount.inode(to).await?;
        if old.as_ref().map(|old| old.oid) != goal.inode.as_ref().map(|old| old.oid) {
            return Err(Reason::Contended);
        }
        if from == to {
            return Ok(());
        }
        if let Some(old) = &old {
            mount.check_replaceable(old, &whole.inode).await?;
            mount.settle(to, old).await?;
        }
        mount.settle(from, &whole.inode).await?;
        mount.mark_moving(from, whole.inode.flags, to).await?;
        whole.inode.ctime = Timestamp::now();
        let conditions = if old.is_some() { Conditions::DkeyExists } else { Conditions::DkeyInsert };
        match mount.write(to, &whole, Some(from), conditions).await {
            // Another client's name came or went: the mark means nothing, and the next try rewrites it.
            Err(Reason::Exists | Reason::NotFound) => return Err(Reason::Contended),
            outcome => outcome?,
        };
        match mount.erase(from).await {
            Ok(()) | Err(Reason::NotFound) => {}
            Err(reason) => return Err(reason),
        }
        match &old {
            Some(old) => {
                if old.kind == Kind::Directory {
                    mount.locks.note_removed(old.oid);
                }
                mount.clear_replaced(to, &whole.inode, old).await
            }
            None => Ok(()),
        }
    }
}

/// A failed rename names both ends.
fn blame(reason: Reason, from: &[u8], to: &[u8]) -> crate::DfsError {
    crate::DfsError { reason, path: format!("{} -> {}", path::readable(from), path::readable(to)) }
}

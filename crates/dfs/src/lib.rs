//! A POSIX namespace in a container: directories, files, symbolic links, extended attributes.
//!
//! # Shape
//! - A *directory* is an object with one dkey per name. The inode lies in the entry itself, beside a
//!   symlink's target and the extended attributes ([`entry`], [`inode`]): looking a name up fetches
//!   all there is to know, and an entry changes in one update.
//! - A *file* is a byte-array object in chunks; its size is the array's. Writing data does not touch
//!   the entry: the time of modification follows from the object's last write.
//! - The *superblock* and the root's own entry lie in a reserved object ([`superblock`]).
//!
//! [`Dfs`] is a mounted file system, [`Dir`] a directory in it with all calls that start from a
//! path, [`File`] an open file, [`Draft`] a file that has no name yet. [`copy`] and [`compare`] work
//! on whole trees, between here and a local file system.
//!
//! # Always true
//! 1. The living names form a tree, after a crash at any point: of an operation's requests those up
//!    to some point took effect.
//! 2. What a crash leaves at worst is an object that no name refers to.
//! 3. What a call acknowledged is durable.
//!
//! # Steps and crash windows
//! Each row's steps are single requests, each atomic. "Nothing" means that a crash there leaves
//! nothing to see.
//!
//! | call               | steps                                                | a crash between leaves        |
//! |--------------------|------------------------------------------------------|-------------------------------|
//! | format             | superblock and root entry, if absent                 | -                             |
//! | create, mkdir, symlink | entry with all its attributes, if absent         | -                             |
//! | create_with, publish | data; entry with all its attributes                | an object without a name      |
//! | ... replacing      | data; entry over the old one; sweep old attributes; old content | objects or bytes without a name |
//! | unlink             | name; content                                        | an object without a name      |
//! | rmdir              | name (if empty); what is left in the object          | -                             |
//! | rename             | mark; entry at its goal; source; what was replaced   | nothing, a dead name (read as absent), or an object without a name: see [`rename`] |
//! | write              | each chunk touched                                   | some chunks written           |
//! | truncate           | whole chunks beyond; the boundary chunk              | a size between                |
//! | chmod, utimens ... | the bytes of the inode that change                   | -                             |
//! | set xattr          | attribute and time of change together                | -                             |
//! | remove xattr       | attribute; time of change                            | the old time of change        |
//!
//! # Races with other clients
//! Calls of one mount that touch the same names take turns ([`locks`]). Between clients each single
//! request is guarded by a condition (an insert by absence, a change by existence), so no client
//! overwrites a name it took for absent. Not yet guarded, until the store's transactions arrive: a
//! file made in a directory while another client removes that directory (`rmdir` looks again and
//! undoes itself, which leaves a window of one request), two clients moving directories into each
//! other, and content written under a name another client is replacing.
//!
//! # Not here
//! Hard links (the inode has its room for them), unlinked files that stay readable while open,
//! permission checks (the store's rights are the container's), locks of files, caching.
//!
//! # Source
//! The ideas of DAOS `src/client/dfs`; the format is ours, and the rename is new.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as dfs;

pub mod compare;
pub mod copy;
mod create;
mod crew;
mod dir;
mod entry;
mod error;
mod file;
mod inode;
mod list;
mod local;
mod locks;
#[cfg(test)]
mod memory;
mod path;
mod remove;
mod rename;
mod stat;
mod store;
mod superblock;
#[cfg(test)]
mod tests;
mod xattr;

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use client::Container;
use types::{Code, Conditions, Key, Layout, ObjectId};

pub use compare::compare;
pub use copy::{CopyOptions, CopyReport, PathFilter, Progress, ProgressCall, copy_in, copy_out};
pub use create::{Attributes, Draft, IfExists};
pub use dir::{Dir, Follow};
pub use entry::{XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX};
pub use error::{DfsError, Reason, Result};
pub use file::{FILE_BYTES_MAX, File, OpenOptions};
pub use inode::{Kind, MODE_MASK, Timestamp};
pub use list::{DirEntry, PAGE_ENTRIES_MAX, Page};
pub use local::{Local, Survey};
pub use path::{LINKS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};
pub use stat::{Changes, Metadata, Statfs};
pub use superblock::{CHUNK_BYTES_DEFAULT, DfsOptions};
pub use xattr::SetXattr;

use dir::{Node, ROOT_NAME};
use entry::inode_akey;
use error::At;
use locks::Locks;
use store::{Read, Store, Write};
use superblock::{SUPERBLOCK_BYTES, SUPERBLOCK_CLASS, Superblock, is_chunk, root_oid, superblock_oid};

/// A mounted file system: its root directory, and so every call on paths. Cheap to clone; clones
/// share the mount's locks.
#[derive(Clone)]
pub struct Dfs {
    root: Dir,
}

/// What all handles of one mount share.
pub(crate) struct Mount {
    pub store: Store,
    pub superblock: Superblock,
    pub locks: Locks,
    /// User and group of new entries that do not say.
    pub owner: (u32, u32),
}

impl Dfs {
    /// Mounts a container, which may be a view of a snapshot. A fresh POSIX container is formatted,
    /// with the defaults; of clients that race to do so one does, and all agree.
    ///
    /// # Errors
    /// `Invalid` for a container of another layout; `Damaged` for one with another superblock, or a
    /// snapshot from before the first mount.
    pub async fn mount(container: Container) -> Result<Dfs> {
        Dfs::format(container, &DfsOptions::default()).await
    }

    /// Mounts a container; if it is fresh, it is formatted as `options` say. One that is formatted
    /// already keeps its format.
    ///
    /// # Errors
    /// As for [`Dfs::mount`].
    pub async fn format(container: Container, options: &DfsOptions) -> Result<Dfs> {
        let info = container.info().await.at(b"/")?;
        if info.layout != Layout::Posix {
            return Err(
                Reason::Invalid("the container is not of layout POSIX: create one with `--type POSIX`").at(b"/")
            );
        }
        Dfs::mount_store(Store::Container(container), options).await
    }

    async fn mount_store(store: Store, options: &DfsOptions) -> Result<Dfs> {
        let superblock = match read_superblock(&store).await.at(b"/")? {
            Some(superblock) => superblock,
            None if store.is_read_only() => {
                return Err(
                    Reason::Damaged("there was no file system yet when this snapshot was taken".into()).at(b"/")
                );
            }
            None => format_store(&store, options).await.at(b"/")?,
        };
        let root = Arc::new(Node::root(root_oid(superblock.directory_class), reserved(&store)));
        let owner = (options.uid, options.gid);
        let mount = Arc::new(Mount { store, superblock, locks: Locks::new(), owner });
        Ok(Dfs { root: Dir { mount, node: root } })
    }

    /// Bytes a chunk of new files.
    pub fn chunk_bytes(&self) -> u64 {
        self.root.mount.superblock.chunk_bytes
    }

    pub fn is_read_only(&self) -> bool {
        self.root.mount.store.is_read_only()
    }
}

impl Deref for Dfs {
    type Target = Dir;
    fn deref(&self) -> &Dir {
        &self.root
    }
}

impl Mount {
    pub(crate) fn writable(&self) -> Result<(), Reason> {
        match self.store.is_read_only() {
            true => Err(Reason::ReadOnly),
            false => Ok(()),
        }
    }
}

fn superblock_akey() -> Key {
    Key::literal("superblock")
}

/// The object with the superblock of the file system in `store`.
fn reserved(store: &Store) -> ObjectId {
    superblock_oid(store.redundant(SUPERBLOCK_CLASS))
}

async fn read_superblock(store: &Store) -> Result<Option<Superblock>, Reason> {
    let dkey = Key::new(ROOT_NAME).expect("a name");
    let values = store.fetch(reserved(store), &dkey, vec![(superblock_akey(), Read::Single)]).await?;
    values[0].as_deref().map(Superblock::decode).transpose().map_err(Reason::Damaged)
}

/// Writes superblock and root in one update, or reads those of another client that was faster.
async fn format_store(store: &Store, options: &DfsOptions) -> Result<Superblock, Reason> {
    if !is_chunk(options.chunk_bytes) {
        return Err(Reason::Invalid("the chunk size is a power of two from 4 KiB to 16 MiB"));
    }
    let options = &DfsOptions {
        file_class: store.redundant(options.file_class),
        small_file_class: store.redundant(options.small_file_class),
        directory_class: store.redundant(options.directory_class),
        ..options.clone()
    };
    let superblock = Superblock::from(options);
    let now = Timestamp::now();
    let root = inode::Inode {
        kind: Kind::Directory,
        flags: 0,
        mode: options.mode & MODE_MASK,
        uid: options.uid,
        gid: options.gid,
        oid: root_oid(options.directory_class),
        nlink: 1,
        class: None,
        size: 0,
        chunk_bytes: 0,
        mtime: now,
        atime: now,
        seen: types::Epoch::ZERO,
        ctime: now,
        birth: now,
        has_xattrs: false,
    };
    let record: [u8; SUPERBLOCK_BYTES] = superblock.encode();
    let writes = vec![
        (superblock_akey(), Write::Single(Bytes::copy_from_slice(&record))),
        (inode_akey(), Write::Ranges(vec![(0, Bytes::copy_from_slice(&root.encode()))])),
    ];
    let dkey = Key::new(ROOT_NAME).expect("a name");
    match store.update(reserved(store), &dkey, Conditions::DkeyInsert, writes).await {
        Ok(_) => Ok(superblock),
        Err(error) if error.code == Code::Exists => {
            let theirs = read_superblock(store).await?;
            theirs.ok_or_else(|| Reason::Damaged("the container has a root directory but no superblock".into()))
        }
        Err(error) => Err(error.into()),
    }
}

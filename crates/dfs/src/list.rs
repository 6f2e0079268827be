//! Listing a directory, a page at a time.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use types::{Key, ObjectId};

use crate::Mount;
use crate::dir::{Dir, Follow, bytes_of};
use crate::entry::Spot;
use crate::error::{At, Reason, Result};
use crate::inode::{Inode, Kind};
use crate::path;
use crate::stat::Metadata;

/// Most entries of one page.
pub const PAGE_ENTRIES_MAX: usize = 1024;
/// Entries of a page looked at together: enough to hide the round trips, few beside what a server
/// grants one client.
const LOOKS_MAX: usize = 32;

/// A name in a directory, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    /// From [`Dir::read_dir`] the size of a file is not asked for, and 0; see [`Dir::read_dir_plus`].
    pub metadata: Metadata,
    pub(crate) inode: Inode,
}

/// Part of a listing.
#[derive(Clone, Debug)]
pub struct Page {
    pub entries: Vec<DirEntry>,
    /// Where to go on; `None` at the end.
    pub next: Option<OsString>,
}

impl DirEntry {
    pub(crate) fn name_bytes(&self) -> &[u8] {
        self.name.as_bytes()
    }
}

impl Dir {
    /// Entries of the directory at `path` after the name `after`, at most `limit` of them.
    ///
    /// Names come in byte order when directories have one group (the default). A listing in pages
    /// sees every entry that is there throughout; of those that come and go meanwhile, some.
    ///
    /// Cost: a request a page, and one an entry, many at once.
    pub async fn read_page(&self, path: impl AsRef<Path>, after: Option<&OsStr>, limit: usize) -> Result<Page> {
        let path = bytes_of(path.as_ref());
        let page = async {
            let node = self.walk_to_directory(path).await?;
            let after = after.filter(|name| path::is_name(name.as_bytes())).map(OsStr::as_bytes);
            self.mount.page(node.oid, after, limit).await
        };
        page.await.at(path)
    }

    /// All entries of the directory at `path`, in the order of their names.
    pub async fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        let path = path.as_ref();
        let directory = self.open_dir(path).await?;
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let page = self.mount.page(directory.node.oid, after.as_deref(), PAGE_ENTRIES_MAX).await;
            let page = page.at(bytes_of(path))?;
            entries.extend(page.entries);
            match page.next {
                Some(next) => after = Some(next.into_vec()),
                None => break,
            }
        }
        entries.sort_by(|a: &DirEntry, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Like [`Self::read_dir`], with sizes and times of modification.
    pub async fn read_dir_plus(&self, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        let path = path.as_ref();
        let entries = self.read_dir(path).await?;
        let measured = stream::iter(entries).map(|mut entry| async {
            entry.metadata = self.mount.metadata(&entry.inode).await?;
            Ok::<_, Reason>(entry)
        });
        measured.buffered(LOOKS_MAX).try_collect().await.at(bytes_of(path))
    }

    /// Where the symbolic link at `path` leads.
    pub async fn readlink(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = bytes_of(path.as_ref());
        let read = async {
            let found = self.find(path, Follow::No).await?;
            match found.inode.kind {
                Kind::Symlink => self.mount.target(found.spot()).await,
                _ => Err(Reason::Invalid("not a symbolic link")),
            }
        };
        let target = read.await.at(path)?;
        Ok(PathBuf::from(OsString::from_vec(target.to_vec())))
    }
}

impl Mount {
    /// A page of the living entries of a directory.
    pub(crate) async fn page(&self, directory: ObjectId, after: Option<&[u8]>, limit: usize) -> Result<Page, Reason> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let after = after.map(|name| Key::new(name).expect("names have 1 to 255 bytes"));
        let (keys, more) = self.store.list_dkeys(directory, after, limit).await?;
        let last = match more {
            true => keys.last().and_then(name_of).map(|name| OsStr::from_bytes(name).to_owned()),
            false => None,
        };
        let names = keys.into_iter().filter(|key| name_of(key).is_some());
        let looks = stream::iter(names).map(|key| async move {
            let name = name_of(&key).expect("filtered above");
            let inode = self.inode(Spot { directory, name }).await?;
            let name = OsStr::from_bytes(name).to_owned();
            Ok::<_, Reason>(inode.map(|inode| DirEntry {
                name,
                metadata: Metadata::new(&inode, Default::default()),
                inode,
            }))
        });
        let looked: Vec<Option<DirEntry>> = looks.buffered(LOOKS_MAX).try_collect().await?;
        Ok(Page { entries: looked.into_iter().flatten().collect(), next: last })
    }

    /// Whether a directory has no living name in it.
    pub(crate) async fn is_empty(&self, directory: ObjectId) -> Result<bool, Reason> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            // Dead names of crashed renames are rare: the first look nearly always answers.
            let page = self.page(directory, after.as_deref(), 4).await?;
            match (page.entries.is_empty(), page.next) {
                (false, _) => return Ok(false),
                (true, None) => return Ok(true),
                (true, Some(next)) => after = Some(next.into_vec()),
            }
        }
    }
}

/// The dkey as a name; `None` for what no call of ours writes.
fn name_of(key: &Key) -> Option<&[u8]> {
    match key {
        Key::Bytes(bytes) if path::is_name(bytes) => Some(bytes),
        _ => None,
    }
}

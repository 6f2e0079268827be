//! What is known of an entry: `stat`, and the calls that change it.

use std::path::Path;

use types::{Epoch, ObjectClass, ObjectId};

use crate::dir::{Dir, Follow, Found, bytes_of};
use crate::error::{At, Reason, Result};
use crate::inode::{Inode, Kind, Patch, Timestamp};
use crate::store::Measure;
use crate::{Dfs, Mount};

/// An entry as `stat` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub kind: Kind,
    /// Permission bits, without the type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of a file or of a symlink's target; of a directory, 0.
    pub size: u64,
    /// Of a directory: when a name in it last came, went or changed.
    pub modified: Timestamp,
    pub accessed: Timestamp,
    pub changed: Timestamp,
    pub created: Timestamp,
    pub links: u32,
    /// The object with the content; the identity of the file.
    pub oid: ObjectId,
    pub chunk_bytes: u64,
    pub class: Option<ObjectClass>,
}

/// What to change of an entry; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub accessed: Option<Timestamp>,
    pub modified: Option<Timestamp>,
}

/// Space of the pool under the file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    pub total: u64,
    pub free: u64,
    pub chunk_bytes: u64,
    pub name_bytes_max: usize,
}

impl Metadata {
    /// A 64-bit number of the file, for faces that need one: the object's id folded.
    pub fn number(&self) -> u64 {
        self.oid.lo ^ (self.oid.hi << 32) ^ (self.oid.hi & 0xffff_ffff)
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The `st_mode` of Linux: type and permissions.
    pub fn st_mode(&self) -> u32 {
        let kind = match self.kind {
            Kind::File => 0o100_000,
            Kind::Directory => 0o040_000,
            Kind::Symlink => 0o120_000,
        };
        kind | self.mode
    }

    pub(crate) fn new(inode: &Inode, measure: Measure) -> Metadata {
        Metadata {
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: match inode.kind {
                Kind::File => measure.bytes,
                Kind::Symlink => inode.size,
                Kind::Directory => 0,
            },
            modified: inode.modified(measure.last_write),
            accessed: inode.atime,
            changed: inode.ctime.max(Timestamp::from_micros(measure.last_write.micros())),
            created: inode.birth,
            links: inode.nlink,
            oid: inode.oid,
            chunk_bytes: inode.chunk_bytes,
            class: inode.class,
        }
    }
}

impl Dir {
    /// The entry at `path`, following symbolic links. Cost: the walk, and a request for the size.
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.stat_following(bytes_of(path.as_ref()), Follow::Yes).await
    }

    /// The entry at `path` itself, even when it is a symbolic link.
    pub async fn lstat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.stat_following(bytes_of(path.as_ref()), Follow::No).await
    }

    /// Like [`Self::lstat`], but an absent entry is no error.
    pub async fn lookup(&self, path: impl AsRef<Path>) -> Result<Option<Metadata>> {
        match self.lstat(path).await {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if matches!(error.reason, Reason::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.change(path, Follow::Yes, Changes { mode: Some(mode), ..Changes::default() }).await
    }

    pub async fn chown(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(path, Follow::Yes, Changes { uid, gid, ..Changes::default() }).await
    }

    pub async fn utimens(
        &self,
        path: impl AsRef<Path>,
        accessed: Option<Timestamp>,
        modified: Option<Timestamp>,
    ) -> Result<()> {
        self.change(path, Follow::Yes, Changes { accessed, modified, ..Changes::default() }).await
    }

    /// Changes any of mode, owner and times, in one update that touches nothing else.
    pub async fn change(&self, path: impl AsRef<Path>, follow: Follow, changes: Changes) -> Result<()> {
        let path = bytes_of(path.as_ref());
        let change = async {
            self.mount.writable()?;
            let found = self.find(path, follow).await?;
            self.mount.apply(&found, changes).await
        };
        change.await.at(path)
    }

    async fn stat_following(&self, path: &[u8], follow: Follow) -> Result<Metadata> {
        let stat = async {
            let found = self.find(path, follow).await?;
            self.mount.metadata(&found.inode).await
        };
        stat.await.at(path)
    }
}

impl Dfs {
    /// Space of the pool.
    pub async fn statfs(&self) -> Result<Statfs> {
        let (total, free) = self.mount.store.space().await.at(b"/")?;
        let chunk_bytes = self.mount.superblock.chunk_bytes;
        Ok(Statfs { total, free, chunk_bytes, name_bytes_max: crate::path::NAME_BYTES_MAX })
    }
}

impl Mount {
    pub(crate) async fn metadata(&self, inode: &Inode) -> Result<Metadata, Reason> {
        Ok(Metadata::new(inode, self.measure(inode).await?))
    }

    /// Size and last write of what the entry stands for.
    pub(crate) async fn measure(&self, inode: &Inode) -> Result<Measure, Reason> {
        match inode.kind {
            Kind::Symlink => Ok(Measure { bytes: 0, last_write: Epoch::ZERO }),
            Kind::Directory => Ok(self.store.measure(inode.oid, None).await?),
            Kind::File => Ok(self.store.measure(inode.oid, Some(inode.chunk_bytes)).await?),
        }
    }

    async fn apply(&self, found: &Found, changes: Changes) -> Result<(), Reason> {
        let mut patch = Patch::default();
        if let Some(mode) = changes.mode {
            if found.inode.kind == Kind::Symlink {
                return Err(Reason::NotSupported("a symbolic link has no permissions of its own"));
            }
            patch = patch.mode(mode);
        }
        if let Some(uid) = changes.uid {
            patch = patch.uid(uid);
        }
        if let Some(gid) = changes.gid {
            patch = patch.gid(gid);
        }
        if let Some(time) = changes.accessed {
            patch = patch.atime(checked(time)?);
        }
        if let Some(time) = changes.modified {
            let seen = self.measure(&found.inode).await?.last_write;
            patch = patch.mtime(checked(time)?, seen);
        }
        if patch == Patch::default() {
            return Ok(());
        }
        self.patch(found.spot(), patch.ctime(Timestamp::now())).await
    }
}

pub(crate) fn checked(time: Timestamp) -> Result<Timestamp, Reason> {
    match time.nanos < 1_000_000_000 {
        true => Ok(time),
        false => Err(Reason::Invalid("nanoseconds are below 1,000,000,000")),
    }
}

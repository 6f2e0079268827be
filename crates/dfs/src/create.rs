//! New entries: files whole or empty, directories, symbolic links.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rt::disk::IoBuf;
use types::{Conditions, Epoch, ObjectClass, ObjectId, ObjectType};

use crate::dir::{Dir, Node, Place, bytes_of};
use crate::entry::{Spot, Whole, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX};
use crate::error::{At, Reason, Result};
use crate::inode::{Inode, Kind, MODE_MASK, Timestamp};
use crate::locks::{Guards, Hold};
use crate::path::{PATH_BYTES_MAX, Step};
use crate::stat::checked;
use crate::{Mount, path};

/// How often a call tries again when another client removes or makes the same name meanwhile.
pub(crate) const TRIES_MAX: usize = 8;

/// What a new entry starts with.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// `None`: the mount's owner.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// `None`: now.
    pub accessed: Option<Timestamp>,
    pub modified: Option<Timestamp>,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Bytes)>,
}

/// What to do when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    Fail,
    /// Takes the place of a file or symbolic link, at once; never of a directory.
    Replace,
}

/// A file that has content but no name yet.
///
/// Nobody sees it until [`Draft::publish`] gives it its name with all its attributes, in one
/// update: so a file appears whole or not at all. A draft dropped unpublished leaves an object that
/// nothing refers to; [`Draft::discard`] removes it.
pub struct Draft {
    mount: Arc<Mount>,
    oid: ObjectId,
    class: ObjectClass,
    chunk_bytes: u64,
    /// The latest epoch among its writes; [`UNKNOWN`] when one did not tell.
    written: AtomicU64,
}

/// Above every epoch a write returns.
const UNKNOWN: u64 = u64::MAX;

impl Attributes {
    pub fn mode(mode: u32) -> Attributes {
        Attributes { mode, ..Attributes::default() }
    }
}

impl Dir {
    /// Makes the file `path` with `data` and all its attributes; it appears whole or not at all.
    ///
    /// Cost: the walk to its directory, one write of the data (one a chunk), one update.
    pub async fn create_with(
        &self,
        path: impl AsRef<Path>,
        attributes: &Attributes,
        data: impl Into<Bytes>,
        if_exists: IfExists,
    ) -> Result<()> {
        let path = bytes_of(path.as_ref());
        let data = data.into();
        let draft = self.draft(Some(data.len() as u64)).await.at(path)?;
        if !data.is_empty()
            && let Err(reason) = draft.put(0, data).await
        {
            draft.discard().await;
            return Err(reason.at(path));
        }
        draft.publish_at(self, path, attributes, if_exists).await.at(path)
    }

    /// Starts a file without a name. `bytes`: its size, where known; small files get the class for
    /// small files. Cost: usually no request, ids are handed out in ranges.
    pub async fn draft(&self, bytes: Option<u64>) -> Result<Draft, Reason> {
        self.mount.writable()?;
        let (class, chunk_bytes) = self.mount.shape(&self.node, bytes);
        let oid = self.mount.store.new_object(ObjectType::ArrayByte, class).await?;
        Ok(Draft { mount: self.mount.clone(), oid, class, chunk_bytes, written: AtomicU64::new(0) })
    }

    /// Makes the directory `path`.
    pub async fn mkdir(&self, path: impl AsRef<Path>, mode: u32) -> Result<Dir> {
        self.mkdir_with(path, &Attributes::mode(mode)).await
    }

    /// Makes the directory `path` with all its attributes, in one update.
    pub async fn mkdir_with(&self, path: impl AsRef<Path>, attributes: &Attributes) -> Result<Dir> {
        let path = bytes_of(path.as_ref());
        let mkdir = async {
            self.mount.writable()?;
            let place = self.fresh(path).await?;
            let class = self.mount.superblock.directory_class;
            let oid = self.mount.store.new_object(ObjectType::MultiLexical, class).await?;
            let entry = self.mount.new_entry(Kind::Directory, oid, attributes)?;
            let _held = self.mount.hold(&place).await?;
            self.mount.write(place.spot(), &entry, None, Conditions::DkeyInsert).await?;
            Ok(self.at(Node::child(&place.parent, &place.name, &entry.inode)))
        };
        mkdir.await.map_err(|reason: Reason| reason.at(path))
    }

    /// Makes the directory `path` and those above it, where they are missing.
    pub async fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<Dir> {
        let whole = bytes_of(path.as_ref());
        let steps = path::parse(whole).at(whole)?;
        let mut at = if steps.absolute { self.root() } else { self.clone() };
        for step in steps.steps {
            at = match step {
                Step::Stay => at,
                Step::Up => at.at(at.node.parent.clone().unwrap_or_else(|| at.node.clone())),
                Step::Name(name) => at.ensure_dir(&name, mode).await.at(whole)?,
            };
        }
        Ok(at)
    }

    /// Makes the symbolic link `path` that leads to `target`, which need not exist.
    pub async fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        self.symlink_with(target, path, &Attributes::mode(0o777), IfExists::Fail).await
    }

    pub async fn symlink_with(
        &self,
        target: impl AsRef<Path>,
        path: impl AsRef<Path>,
        attributes: &Attributes,
        if_exists: IfExists,
    ) -> Result<()> {
        let (target, path) = (bytes_of(target.as_ref()), bytes_of(path.as_ref()));
        let symlink = async {
            self.mount.writable()?;
            match target.len() {
                0 => return Err(Reason::NotFound),
                PATH_BYTES_MAX.. if target.len() > PATH_BYTES_MAX => return Err(Reason::NameTooLong),
                _ if target.contains(&0) => return Err(Reason::Invalid("a path has no NUL byte")),
                _ => {}
            }
            let place = self.fresh(path).await?;
            if place.trailing_slash {
                let taken = self.mount.inode(place.spot()).await?.is_some();
                return Err(if taken { Reason::Exists } else { Reason::NotFound });
            }
            let oid = self.mount.store.new_object(ObjectType::ArrayByte, ObjectClass::S1).await?;
            let mut entry = self.mount.new_entry(Kind::Symlink, oid, attributes)?;
            entry.inode.size = target.len() as u64;
            entry.target = Some(Bytes::copy_from_slice(target));
            let _held = self.mount.hold(&place).await?;
            self.mount.put_entry(place.spot(), &entry, if_exists).await
        };
        symlink.await.at(path)
    }

    /// The root directory.
    pub fn root(&self) -> Dir {
        let mut node = self.node.clone();
        while let Some(parent) = node.parent.clone() {
            node = parent;
        }
        self.at(node)
    }

    async fn ensure_dir(&self, name: &[u8], mode: u32) -> Result<Dir, Reason> {
        match self.walk_to_directory(name).await {
            Ok(node) => return Ok(self.at(node)),
            Err(Reason::NotFound) => {}
            Err(reason) => return Err(reason),
        }
        let name = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        match self.mkdir(name, mode).await {
            Ok(dir) => Ok(dir),
            // Another client made it first; or it is a symbolic link that leads nowhere.
            Err(error) if matches!(error.reason, Reason::Exists) => {
                match self.walk_to_directory(bytes_of(name)).await {
                    Ok(node) => Ok(self.at(node)),
                    Err(Reason::NotFound) => Err(Reason::Exists),
                    Err(reason) => Err(reason),
                }
            }
            Err(error) => Err(error.reason),
        }
    }
}

impl Draft {
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Writes `data` at `offset`. May be called many times at once.
    pub async fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), Reason> {
        self.put(offset, data.into()).await
    }

    /// Like [`Self::write`], from a buffer that is given away: without a copy if it lies in one chunk.
    pub async fn write_buf(&self, offset: u64, data: IoBuf) -> Result<(), Reason> {
        self.written.store(UNKNOWN, Ordering::Relaxed);
        Ok(self.mount.store.write_buf(self.oid, self.chunk_bytes, offset, data).await?)
    }

    async fn put(&self, offset: u64, data: Bytes) -> Result<(), Reason> {
        let epoch = self.mount.store.write(self.oid, self.chunk_bytes, offset, data).await?;
        self.written.fetch_max(epoch.0, Ordering::Relaxed);
        Ok(())
    }

    /// Cuts or extends the content to `bytes`; what was not written reads as zeros.
    pub async fn set_size(&self, bytes: u64) -> Result<(), Reason> {
        self.written.store(UNKNOWN, Ordering::Relaxed);
        Ok(self.mount.store.set_size(self.oid, self.chunk_bytes, bytes).await?)
    }

    /// Gives the file its name. Fails without a trace: the draft is discarded then.
    pub async fn publish(
        self,
        directory: &Dir,
        path: impl AsRef<Path>,
        attributes: &Attributes,
        if_exists: IfExists,
    ) -> Result<()> {
        let path = bytes_of(path.as_ref());
        self.publish_at(directory, path, attributes, if_exists).await.at(path)
    }

    /// Removes the content. Failing that leaves an object nothing refers to, and is not reported:
    /// whoever discards has something worse to report.
    pub async fn discard(self) {
        let _ = self.mount.store.punch_object(self.oid).await;
    }

    async fn publish_at(
        self,
        directory: &Dir,
        path: &[u8],
        attributes: &Attributes,
        if_exists: IfExists,
    ) -> Result<(), Reason> {
        let publish = async {
            let place = directory.fresh(path).await?;
            if place.trailing_slash {
                return Err(Reason::IsDirectory);
            }
            let mut entry = self.mount.new_entry(Kind::File, self.oid, attributes)?;
            entry.inode.class = Some(self.class);
            entry.inode.chunk_bytes = self.chunk_bytes;
            entry.inode.seen = match self.written.load(Ordering::Relaxed) {
                UNKNOWN => self.mount.measure(&entry.inode).await?.last_write,
                epoch => Epoch(epoch),
            };
            let _held = self.mount.hold(&place).await?;
            self.mount.put_entry(place.spot(), &entry, if_exists).await
        };
        match publish.await {
            Ok(()) => Ok(()),
            Err(reason) => {
                // After a failure nobody is sure of (a lost link, say) the name may be there after all.
                let unsure = matches!(&reason, Reason::Store(error) if error.is_transient());
                if !unsure {
                    self.discard().await;
                }
                Err(reason)
            }
        }
    }
}

impl Mount {
    /// Class and chunk size of a new file in a directory.
    pub(crate) fn shape(&self, directory: &Node, bytes: Option<u64>) -> (ObjectClass, u64) {
        let chunk_bytes = directory.chunk_bytes.unwrap_or(self.superblock.chunk_bytes);
        let small = bytes.is_some_and(|bytes| bytes <= chunk_bytes);
        let default = if small { self.superblock.small_file_class } else { self.superblock.file_class };
        (directory.class.unwrap_or(default), chunk_bytes)
    }

    /// The locks of a call that makes or removes a name.
    pub(crate) async fn hold(&self, place: &Place) -> Result<Guards<'_>, Reason> {
        let directory = place.parent.oid;
        let held = self.locks.take(&[(directory, Hold::Shared)], &[(directory, &place.name)]).await;
        match self.locks.is_removed(directory) {
            true => Err(Reason::NotFound),
            false => Ok(held),
        }
    }

    pub(crate) fn new_entry(&self, kind: Kind, oid: ObjectId, attributes: &Attributes) -> Result<Whole, Reason> {
        if attributes.xattrs.len() > XATTRS_MAX {
            return Err(Reason::AttributeCount(XATTRS_MAX));
        }
        for (name, value) in &attributes.xattrs {
            check_xattr(name, value)?;
        }
        let now = Timestamp::now();
        let inode = Inode {
            kind,
            flags: 0,
            mode: attributes.mode & MODE_MASK,
            uid: attributes.uid.unwrap_or(self.owner.0),
            gid: attributes.gid.unwrap_or(self.owner.1),
            oid,
            nlink: 1,
            class: None,
            size: 0,
            chunk_bytes: 0,
            mtime: checked(attributes.modified.unwrap_or(now))?,
            atime: checked(attributes.accessed.unwrap_or(now))?,
            seen: Epoch::ZERO,
            ctime: now,
            birth: now,
            has_xattrs: !attributes.xattrs.is_empty(),
        };
        let xattrs = attributes.xattrs.iter().map(|(name, value)| (name.as_slice().into(), value.clone())).collect();
        Ok(Whole { inode, target: None, xattrs })
    }

    /// Inserts an entry, or puts it in the place of a file. The name's lock is held.
    pub(crate) async fn put_entry(&self, spot: Spot<'_>, entry: &Whole, if_exists: IfExists) -> Result<(), Reason> {
        for _ in 0..TRIES_MAX {
            match self.write(spot, entry, None, Conditions::DkeyInsert).await {
                Ok(_) => return Ok(()),
                Err(Reason::Exists) if if_exists == IfExists::Replace => {}
                Err(reason) => return Err(reason),
            }
            let Some(old) = self.inode(spot).await? else { continue };
            if old.kind == Kind::Directory {
                return Err(Reason::IsDirectory);
            }
            self.settle(spot, &old).await?;
            match self.write(spot, entry, None, Conditions::DkeyExists).await {
                Ok(_) => return self.clear_replaced(spot, &entry.inode, &old).await,
                Err(Reason::NotFound) => {}
                Err(reason) => return Err(reason),
            }
        }
        Err(Reason::Contended)
    }

    /// Frees what the file `old` leaves behind after `new` took its place at `spot`.
    pub(crate) async fn clear_replaced(&self, spot: Spot<'_>, new: &Inode, old: &Inode) -> Result<(), Reason> {
        if old.oid == new.oid {
            return Ok(());
        }
        if old.has_xattrs {
            self.sweep(spot, new).await?;
        }
        self.free(old).await
    }

    /// Frees the content of an entry that has lost its name.
    pub(crate) async fn free(&self, inode: &Inode) -> Result<(), Reason> {
        match inode.kind {
            Kind::Symlink => Ok(()),
            Kind::File | Kind::Directory => Ok(self.store.punch_object(inode.oid).await?),
        }
    }
}

pub(crate) fn check_xattr(name: &[u8], value: &[u8]) -> Result<(), Reason> {
    if name.is_empty() || name.contains(&0) {
        return Err(Reason::Invalid("an attribute's name has at least one byte and no NUL"));
    }
    if name.len() > XATTR_NAME_BYTES_MAX || value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(Reason::AttributeTooBig);
    }
    Ok(())
}

//! Open files: bytes at any offset.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rt::disk::IoBuf;
use types::{ARRAY_INDEX_MAX, Conditions, ObjectType};

use crate::create::{Attributes, TRIES_MAX};
use crate::dir::{Dir, Follow, Walked, bytes_of};
use crate::entry::Spot;
use crate::error::{At, Reason, Result};
use crate::inode::{Inode, Kind};
use crate::stat::Metadata;
use crate::{IfExists, Mount, path};

/// Largest file, in bytes.
pub const FILE_BYTES_MAX: u64 = ARRAY_INDEX_MAX;

/// How to open a file; like `std::fs::OpenOptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    follow: Follow,
    mode: u32,
}

/// An open file. Cheap to clone; clones share nothing but the file.
///
/// What a write acknowledged is durable: there is nothing to flush. Removing the file's name
/// removes its content, also under an open handle.
#[derive(Clone)]
pub struct File {
    mount: Arc<Mount>,
    inode: Inode,
    options: OpenOptions,
    /// As opened, for errors.
    path: Arc<[u8]>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            read: true,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            follow: Follow::Yes,
            mode: 0o644,
        }
    }
}

impl OpenOptions {
    /// For reading, until more is asked.
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }
    pub fn read(mut self, yes: bool) -> OpenOptions {
        self.read = yes;
        self
    }
    pub fn write(mut self, yes: bool) -> OpenOptions {
        self.write = yes;
        self
    }
    /// Writes go to the end of the file. Not atomic between clients.
    pub fn append(mut self, yes: bool) -> OpenOptions {
        self.append = yes;
        self.write |= yes;
        self
    }
    pub fn truncate(mut self, yes: bool) -> OpenOptions {
        self.truncate = yes;
        self
    }
    /// Makes the file when it is absent.
    pub fn create(mut self, yes: bool) -> OpenOptions {
        self.create = yes;
        self
    }
    /// Makes the file, and fails when the name is taken, be it by a symbolic link.
    pub fn create_new(mut self, yes: bool) -> OpenOptions {
        self.create_new = yes;
        self
    }
    /// Whether a symbolic link at the end of the path is followed; if not, it is an error (`Loop`).
    pub fn follow(mut self, follow: Follow) -> OpenOptions {
        self.follow = follow;
        self
    }
    /// Permission bits of a file made by this.
    pub fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }
}

impl Dir {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// `IsDirectory` for a directory: those are opened by [`Dir::open_dir`].
    pub async fn open(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        let path = bytes_of(path.as_ref());
        let inode = self.open_inode(path, options).await.at(path)?;
        let file = File { mount: self.mount.clone(), inode, options: options.clone(), path: path.into() };
        if options.truncate && options.write {
            file.truncate(0).await?;
        }
        Ok(file)
    }

    /// Opens `path` for reading and writing: made when absent, emptied when there.
    pub async fn create(&self, path: impl AsRef<Path>) -> Result<File> {
        self.open(path, &OpenOptions::new().write(true).create(true).truncate(true)).await
    }

    /// The whole content of the file at `path`, which should fit memory.
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let file = self.open(path, &OpenOptions::new()).await?;
        let mut content = vec![0; usize::try_from(file.size().await?).unwrap_or(usize::MAX)];
        let got = file.read_into(0, &mut content).await?;
        content.truncate(got);
        Ok(content)
    }

    /// Makes or replaces the file at `path`, whole: see [`Dir::create_with`].
    pub async fn write(&self, path: impl AsRef<Path>, data: impl Into<Bytes>) -> Result<()> {
        self.create_with(path, &Attributes::mode(0o644), data, IfExists::Replace).await
    }

    async fn open_inode(&self, path: &[u8], options: &OpenOptions) -> Result<Inode, Reason> {
        if options.write {
            self.mount.writable()?;
        }
        if (options.create || options.create_new) && path.ends_with(b"/") {
            // No file can have this name: but first, what is wrong on the way there.
            self.walk_to_last(path).await?;
            return Err(Reason::IsDirectory);
        }
        for _ in 0..TRIES_MAX {
            let place = if options.create_new {
                self.mount.writable()?;
                self.fresh(path).await?
            } else {
                match self.walk(path, options.follow).await? {
                    Walked::Node(_) => return Err(Reason::IsDirectory),
                    Walked::Name(place) => place,
                }
            };
            match &place.inode {
                Some(inode) => match inode.kind {
                    Kind::File => return Ok(inode.clone()),
                    Kind::Directory => return Err(Reason::IsDirectory),
                    Kind::Symlink => return Err(Reason::Loop),
                },
                None if !options.create && !options.create_new => return Err(Reason::NotFound),
                None => {}
            }
            self.mount.writable()?;
            let (class, chunk_bytes) = self.mount.shape(&place.parent, None);
            let oid = self.mount.store.new_object(ObjectType::ArrayByte, class).await?;
            let mut entry = self.mount.new_entry(Kind::File, oid, &Attributes::mode(options.mode))?;
            entry.inode.class = Some(class);
            entry.inode.chunk_bytes = chunk_bytes;
            let _held = self.mount.hold(&place).await?;
            let spot = Spot { directory: place.parent.oid, name: &place.name };
            match self.mount.write(spot, &entry, None, Conditions::DkeyInsert).await {
                Ok(_) => return Ok(entry.inode),
                Err(Reason::Exists) if !options.create_new => {}
                Err(reason) => return Err(reason),
            }
        }
        Err(Reason::Contended)
    }
}

impl File {
    /// Up to `len` bytes from `offset`; fewer at the end of the file, none beyond it.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.check_read()?;
        let Some(len) = room(offset, len) else { return Ok(Bytes::new()) };
        self.mount.store.read(self.inode.oid, self.inode.chunk_bytes, offset, len).await.at(&self.path)
    }

    /// Fills `buffer` from `offset`; returns how many bytes there were.
    pub async fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.check_read()?;
        let Some(len) = room(offset, buffer.len()) else { return Ok(0) };
        let into = &mut buffer[..len];
        self.mount.store.read_into(self.inode.oid, self.inode.chunk_bytes, offset, into).await.at(&self.path)
    }

    /// Writes all of `data` at `offset`; the file grows as needed, and a gap reads as zeros.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_bytes(offset, Bytes::copy_from_slice(data)).await
    }

    /// Like [`Self::write`], from a buffer that is given away: without a copy if it lies in one chunk.
    pub async fn write_buf(&self, offset: u64, data: IoBuf) -> Result<()> {
        let Some(offset) = self.write_offset(offset, data.len()).await? else { return Ok(()) };
        self.mount.store.write_buf(self.inode.oid, self.inode.chunk_bytes, offset, data).await.at(&self.path)
    }

    /// Like [`Self::write`], from bytes that can be shared.
    pub async fn write_bytes(&self, offset: u64, data: Bytes) -> Result<()> {
        let Some(offset) = self.write_offset(offset, data.len()).await? else { return Ok(()) };
        self.mount.store.write(self.inode.oid, self.inode.chunk_bytes, offset, data).await.at(&self.path)?;
        Ok(())
    }

    /// Where a write goes: `offset`, or with `append` the end. `None`: there is nothing to write.
    async fn write_offset(&self, offset: u64, bytes: usize) -> Result<Option<u64>> {
        self.check_write()?;
        if bytes == 0 {
            return Ok(None);
        }
        let offset = if self.options.append { self.size().await? } else { offset };
        match room(offset, bytes) == Some(bytes) {
            true => Ok(Some(offset)),
            false => Err(Reason::FileTooBig.at(&self.path)),
        }
    }

    /// Cuts the file to `bytes`, or extends it with zeros.
    pub async fn truncate(&self, bytes: u64) -> Result<()> {
        self.check_write()?;
        if bytes > FILE_BYTES_MAX {
            return Err(Reason::FileTooBig.at(&self.path));
        }
        self.mount.store.set_size(self.inode.oid, self.inode.chunk_bytes, bytes).await.at(&self.path)
    }

    /// Bytes in the file. Cost: a request to each target of the file's class.
    pub async fn size(&self) -> Result<u64> {
        Ok(self.mount.measure(&self.inode).await.at(&self.path)?.bytes)
    }

    /// As it was opened, with size and time of modification of now.
    pub async fn stat(&self) -> Result<Metadata> {
        self.mount.metadata(&self.inode).await.at(&self.path)
    }

    fn check_read(&self) -> Result<()> {
        match self.options.read {
            true => Ok(()),
            false => Err(Reason::BadHandle("reading").at(&self.path)),
        }
    }

    fn check_write(&self) -> Result<()> {
        match self.options.write {
            true => Ok(()),
            false => Err(Reason::BadHandle("writing").at(&self.path)),
        }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({}, object {})", path::readable(&self.path), self.inode.oid)
    }
}

/// How much of `len` bytes from `offset` lies within the largest file; `None` beyond it.
fn room(offset: u64, len: usize) -> Option<usize> {
    let room = FILE_BYTES_MAX.checked_sub(offset)?;
    Some(len.min(usize::try_from(room).unwrap_or(usize::MAX)))
}

//! From DFS to the local file system; from a snapshot's view as well.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};

use super::import::pieces;
use super::{CHUNKS_PER_FILE, CopyOptions, CopyReport, Ledger, is_zero};
use crate::crew::{self, Crew};
use crate::dir::{Node, bytes_of};
use crate::entry::Spot;
use crate::error::{At, DfsError, Reason, Result};
use crate::inode::Inode;
use crate::list::PAGE_ENTRIES_MAX;
use crate::local::{Finish, Local, LocalKind, Xattrs};
use crate::{Dir, Follow, Kind, Metadata};

/// Copies the file or directory `source`, seen from `from`, to the local `destination`.
///
/// A directory's content goes into the directory `destination`, made with those above it if it is
/// missing. A file goes to `destination` itself, or under its own name into a directory that is
/// there. Files in the way are replaced, directories merged, nothing is written through a link.
///
/// # Errors
/// Of either side, with the path: the first stops the copy.
pub async fn copy_out(
    from: &Dir,
    source: impl AsRef<Path>,
    local: &Local,
    destination: impl AsRef<Path>,
    options: &CopyOptions,
) -> Result<CopyReport> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    let ledger = Ledger::new(options);
    let copy = Arc::new(Export { local: local.clone(), ledger: ledger.clone() });
    let found = from.find(bytes_of(source), Follow::Yes).await.at(bytes_of(source))?;
    let inode = &found.inode;
    match inode.kind {
        Kind::Directory => {
            local.make_dirs(destination).await.at(bytes_of(destination))?;
            let directory = from.open_dir(source).await?;
            let xattrs = directory.mount.xattrs(found.spot(), inode).await.at(bytes_of(source))?;
            let finish = copy.finish_of(&directory, inode, xattrs).await.at(bytes_of(source))?;
            let (path, to) = (source.to_owned(), destination.to_owned());
            let top = Arc::new(Entered { parent: None, from: directory, path, to, finish, left: 1.into() });
            let work = |job, crew| work(copy.clone(), job, crew);
            crew::run(vec![Job::Next(top, None)], options.files_in_flight.max(1), work).await?;
        }
        Kind::File | Kind::Symlink => {
            let to = match local.stat(destination, true).await {
                Ok(stat) if stat.kind == LocalKind::Directory => match source.file_name() {
                    Some(name) => destination.join(name),
                    None => return Err(Reason::IsDirectory.at(bytes_of(destination))),
                },
                _ => destination.to_owned(),
            };
            copy.file(from, found.spot(), inode, &to).await.at(bytes_of(source))?;
        }
    }
    Ok(ledger.report())
}

struct Export {
    local: Local,
    ledger: Arc<Ledger>,
}

/// A directory being copied.
struct Entered {
    parent: Option<Arc<Entered>>,
    from: Dir,
    path: PathBuf,
    to: PathBuf,
    finish: Finish,
    /// Jobs in it that are not done, and one for its listing.
    left: AtomicUsize,
}

enum Job {
    Enter(Arc<Entered>, PathBuf, Inode),
    /// List on, after this name.
    Next(Arc<Entered>, Option<Vec<u8>>),
    File(Arc<Entered>, PathBuf, Inode),
    Symlink(Arc<Entered>, PathBuf, Inode),
    /// All in it is done.
    Finish(Arc<Entered>),
}

impl Entered {
    fn done(self: &Arc<Entered>, crew: &Crew<Job>) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            crew.push(Job::Finish(self.clone()));
        }
    }

    fn spot<'a>(&self, name: &'a Path) -> Spot<'a> {
        Spot { directory: self.from.node.oid, name: bytes_of(name) }
    }
}

async fn work(copy: Arc<Export>, job: Job, crew: Crew<Job>) -> Result<(), DfsError> {
    match job {
        Job::Enter(parent, name, inode) => {
            let (path, to) = (parent.path.join(&name), parent.to.join(&name));
            let xattrs = parent.from.mount.xattrs(parent.spot(&name), &inode).await.at(bytes_of(&path))?;
            let from = parent.from.at(Node::child(&parent.from.node, bytes_of(&name), &inode));
            copy.local.make_dir(&to).await.at(bytes_of(&to))?;
            let finish = copy.finish_of(&from, &inode, xattrs).await.at(bytes_of(&path))?;
            let entered = Entered { parent: Some(parent), from, path, to, finish, left: 1.into() };
            crew.push(Job::Next(Arc::new(entered), None));
        }
        Job::Next(directory, after) => {
            let mount = &directory.from.mount;
            let page = mount.page(directory.from.node.oid, after.as_deref(), PAGE_ENTRIES_MAX).await;
            let page = page.at(bytes_of(&directory.path))?;
            let at_end = page.next.is_none();
            if let Some(next) = page.next {
                // Before the entries in the list, so done after them: the list stays short.
                crew.push(Job::Next(directory.clone(), Some(next.into_vec())));
            }
            for entry in page.entries {
                let name = PathBuf::from(entry.name);
                directory.left.fetch_add(1, Ordering::AcqRel);
                crew.push(match entry.inode.kind {
                    Kind::Directory => Job::Enter(directory.clone(), name, entry.inode),
                    Kind::File => Job::File(directory.clone(), name, entry.inode),
                    Kind::Symlink => Job::Symlink(directory.clone(), name, entry.inode),
                });
            }
            // Only now: the last thing done in a directory finishes it.
            if at_end {
                directory.done(&crew);
            }
        }
        Job::File(directory, name, inode) => {
            let (path, to) = (directory.path.join(&name), directory.to.join(&name));
            copy.file(&directory.from, directory.spot(&name), &inode, &to).await.at(bytes_of(&path))?;
            directory.done(&crew);
        }
        Job::Symlink(directory, name, inode) => {
            let (path, to) = (directory.path.join(&name), directory.to.join(&name));
            let mount = &directory.from.mount;
            let (target, xattrs) =
                future::try_join(mount.target(directory.spot(&name)), mount.xattrs(directory.spot(&name), &inode))
                    .await
                    .at(bytes_of(&path))?;
            let finish = copy.finish_of(&directory.from, &inode, xattrs).await.at(bytes_of(&path))?;
            let target = PathBuf::from(std::ffi::OsStr::from_bytes(&target));
            let refused = copy.local.make_symlink(&to, target, finish).await.at(bytes_of(&to))?;
            copy.ledger.refused(refused);
            copy.ledger.symlink_done();
            directory.done(&crew);
        }
        Job::Finish(directory) => {
            let finished = copy.local.finish_dir(&directory.to, directory.finish.clone()).await;
            copy.ledger.refused(finished.at(bytes_of(&directory.to))?);
            copy.ledger.directory_done();
            if let Some(parent) = &directory.parent {
                parent.done(&crew);
            }
        }
    }
    Ok(())
}

impl Export {
    async fn file(&self, from: &Dir, spot: Spot<'_>, inode: &Inode, to: &Path) -> Result<(), Reason> {
        let mount = &from.mount;
        let (metadata, xattrs) = future::try_join(mount.metadata(inode), mount.xattrs(spot, inode)).await?;
        let bytes = metadata.size;
        if self.ledger.skip_unchanged() && self.is_unchanged(&metadata, to).await {
            self.ledger.unchanged(to);
            return Ok(());
        }
        let finish = finish(&metadata, xattrs);
        if bytes <= inode.chunk_bytes {
            let _room = self.ledger.room(bytes as usize).await;
            let content = match bytes {
                0 => Bytes::new(),
                _ => mount.store.read(inode.oid, inode.chunk_bytes, 0, bytes as usize).await?,
            };
            let refused = self.local.write_small(to, content, finish).await?;
            self.ledger.refused(refused);
            self.ledger.bytes_done(bytes as usize, to);
        } else {
            let file = self.local.create(to).await?;
            let copied = stream::iter(pieces(0, bytes, inode.chunk_bytes)).map(Ok::<_, Reason>);
            copied
                .try_for_each_concurrent(CHUNKS_PER_FILE, |(start, len)| {
                    let file = &file;
                    async move {
                        let _room = self.ledger.room(len).await;
                        let data = mount.store.read(inode.oid, inode.chunk_bytes, start, len).await?;
                        if !is_zero(&data) {
                            self.local.write_at(file, start, data).await?;
                        }
                        self.ledger.bytes_done(len, to);
                        Ok(())
                    }
                })
                .await?;
            let refused = self.local.finish(&file, bytes, finish).await?;
            self.ledger.refused(refused);
        }
        self.ledger.file_done(to);
        Ok(())
    }

    async fn is_unchanged(&self, metadata: &Metadata, to: &Path) -> bool {
        let there = self.local.stat(to, false).await;
        there.is_ok_and(|there| {
            there.kind == LocalKind::File && there.bytes == metadata.size && there.modified == metadata.modified
        })
    }

    async fn finish_of(&self, from: &Dir, inode: &Inode, xattrs: Vec<(Box<[u8]>, Bytes)>) -> Result<Finish, Reason> {
        Ok(finish(&from.mount.metadata(inode).await?, xattrs))
    }
}

fn finish(metadata: &Metadata, xattrs: Vec<(Box<[u8]>, Bytes)>) -> Finish {
    let mut xattrs: Xattrs = xattrs.into_iter().map(|(name, value)| (name.into_vec(), value)).collect();
    xattrs.sort();
    Finish {
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        modified: metadata.modified,
        accessed: metadata.accessed,
        xattrs,
    }
}

//! From the local file system into DFS.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use rt::disk::IoBuf;

use super::{CHUNKS_PER_FILE, CopyOptions, CopyReport, Ledger};
use crate::create::Draft;
use crate::crew::{self, Crew};
use crate::dir::bytes_of;
use crate::error::{At, DfsError, Reason, Result};
use crate::local::{Listing, Local, LocalFile, LocalKind, LocalStat, Xattrs};
use crate::{Attributes, Changes, Dir, Follow, IfExists, Kind, SetXattr};

/// Copies the local file or directory `source` to `destination`, seen from `into`.
///
/// A directory's content goes into the directory `destination`, which is made with those above it
/// if it is missing; names in it that are not in the source stay. A file goes to `destination`
/// itself, or under its own name into a directory that is there.
///
/// # Errors
/// Of either side, with the path: the first stops the copy.
pub async fn copy_in(
    local: &Local,
    source: impl AsRef<Path>,
    into: &Dir,
    destination: impl AsRef<Path>,
    options: &CopyOptions,
) -> Result<CopyReport> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    let ledger = Ledger::new(options);
    let copy = Arc::new(Import { local: local.clone(), ledger: ledger.clone() });
    let stat = local.stat(source, true).await.at(bytes_of(source))?;
    match stat.kind {
        LocalKind::Directory => {
            let directory = into.mkdir_all(destination, stat.mode).await?;
            let (listing, stat, xattrs) = local.list(source).await.at(bytes_of(source))?;
            let top = copy.enter(None, source.to_owned(), directory, stat, xattrs).await?;
            let work = |job, crew| work(copy.clone(), job, crew);
            crew::run(vec![Job::Next(top, listing)], options.files_in_flight.max(1), work).await?;
        }
        LocalKind::File => {
            let (directory, name) = file_place(source, into, destination).await?;
            copy.file(&directory, Path::new(&name), source, &stat).await?;
        }
        LocalKind::Symlink | LocalKind::Special => {
            return Err(Reason::NotSupported("a socket, pipe or device is not copied").at(bytes_of(source)));
        }
    }
    Ok(ledger.report())
}

/// Directory and name for a file: the destination itself, or one under the file's own name in it.
async fn file_place(source: &Path, into: &Dir, destination: &Path) -> Result<(Dir, PathBuf)> {
    let own = || source.file_name().map(PathBuf::from).ok_or_else(|| Reason::IsDirectory.at(bytes_of(source)));
    match into.stat(destination).await {
        Ok(stat) if stat.is_dir() => Ok((into.open_dir(destination).await?, own()?)),
        Ok(_) => Ok((into.clone(), destination.to_owned())),
        Err(error) if matches!(error.reason, Reason::NotFound) => Ok((into.clone(), destination.to_owned())),
        Err(error) => Err(error),
    }
}

struct Import {
    local: Local,
    ledger: Arc<Ledger>,
}

/// A directory being copied.
struct Entered {
    parent: Option<Arc<Entered>>,
    from: PathBuf,
    to: Dir,
    stat: LocalStat,
    /// Jobs in it that are not done, and one for its listing.
    left: AtomicUsize,
}

enum Job {
    /// Make and list a directory.
    Enter(Arc<Entered>, PathBuf),
    Next(Arc<Entered>, Listing),
    File(Arc<Entered>, PathBuf, LocalStat),
    Symlink(Arc<Entered>, PathBuf, LocalStat),
    /// All in it is done.
    Finish(Arc<Entered>),
}

impl Entered {
    fn done(self: &Arc<Entered>, crew: &Crew<Job>) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            crew.push(Job::Finish(self.clone()));
        }
    }
}

async fn work(copy: Arc<Import>, job: Job, crew: Crew<Job>) -> Result<(), DfsError> {
    match job {
        Job::Enter(parent, name) => {
            let from = parent.from.join(&name);
            let (listing, stat, xattrs) = copy.local.list(&from).await.at(bytes_of(&from))?;
            let attributes = attributes(&stat, xattrs.clone());
            let (to, xattrs) = match parent.to.mkdir_with(&name, &attributes).await {
                Ok(made) => (made, Xattrs::new()),
                Err(error) if matches!(error.reason, Reason::Exists) => {
                    let there = parent.to.lstat(&name).await?;
                    if there.kind != Kind::Directory {
                        return Err(Reason::NotDirectory.at(bytes_of(&from)));
                    }
                    (parent.to.open_dir(&name).await?, xattrs)
                }
                Err(error) => return Err(DfsError { path: crate::path::readable(bytes_of(&from)), ..error }),
            };
            let entered = copy.enter(Some(parent), from, to, stat, xattrs).await?;
            crew.push(Job::Next(entered, listing));
        }
        Job::Next(directory, listing) => {
            let (page, listing) = copy.local.next_page(listing).await.at(bytes_of(&directory.from))?;
            match page.is_empty() {
                true => directory.done(&crew),
                // Before the entries in the list, so done after them: the list stays short.
                false => crew.push(Job::Next(directory.clone(), listing)),
            }
            for (name, stat) in page {
                let name = PathBuf::from(name);
                if copy.ledger.is_excluded(&directory.from.join(&name)) {
                    continue;
                }
                directory.left.fetch_add(1, Ordering::AcqRel);
                match stat.kind {
                    LocalKind::Directory => crew.push(Job::Enter(directory.clone(), name)),
                    LocalKind::File => crew.push(Job::File(directory.clone(), name, stat)),
                    LocalKind::Symlink => crew.push(Job::Symlink(directory.clone(), name, stat)),
                    LocalKind::Special => {
                        copy.ledger.skipped(bytes_of(&directory.from.join(&name)));
                        directory.done(&crew);
                    }
                }
            }
        }
        Job::File(directory, name, stat) => {
            copy.file(&directory.to, &name, &directory.from.join(&name), &stat).await?;
            directory.done(&crew);
        }
        Job::Symlink(directory, name, stat) => {
            let from = directory.from.join(&name);
            let (target, xattrs) = copy.local.read_link(&from).await.at(bytes_of(&from))?;
            let made = directory.to.symlink_with(&target, &name, &attributes(&stat, xattrs), IfExists::Replace).await;
            made.map_err(|error| error.reason).at(bytes_of(&from))?;
            copy.ledger.symlink_done();
            directory.done(&crew);
        }
        Job::Finish(directory) => {
            let changes = Changes {
                mode: Some(directory.stat.mode),
                uid: Some(directory.stat.uid),
                gid: Some(directory.stat.gid),
                accessed: Some(directory.stat.accessed),
                modified: Some(directory.stat.modified),
            };
            directory.to.change(".", Follow::Yes, changes).await.map_err(|e| e.reason).at(bytes_of(&directory.from))?;
            copy.ledger.directory_done();
            if let Some(parent) = &directory.parent {
                parent.done(&crew);
            }
        }
    }
    Ok(())
}

impl Import {
    /// Adds `xattrs` to a directory that was there already.
    async fn enter(
        &self,
        parent: Option<Arc<Entered>>,
        from: PathBuf,
        to: Dir,
        stat: LocalStat,
        xattrs: Xattrs,
    ) -> Result<Arc<Entered>> {
        for (name, value) in xattrs {
            to.set_xattr(".", Follow::Yes, name, value, SetXattr::Any)
                .await
                .map_err(|e| e.reason)
                .at(bytes_of(&from))?;
        }
        Ok(Arc::new(Entered { parent, from, to, stat, left: 1.into() }))
    }

    async fn file(&self, to: &Dir, name: &Path, from: &Path, listed: &LocalStat) -> Result<()> {
        if self.ledger.skip_unchanged() && self.is_unchanged(to, name, listed).await? {
            self.ledger.unchanged(from);
            return Ok(());
        }
        let chunk_bytes = to.mount.shape(&to.node, None).1;
        // A file that grows after it was listed is found out when it is opened.
        if listed.bytes <= chunk_bytes {
            let _room = self.ledger.room(listed.bytes as usize).await;
            let (content, stat, xattrs) =
                self.local.read_small(from, listed.bytes as usize).await.at(bytes_of(from))?;
            if let Some(content) = content {
                return self.small(to, name, from, &stat, xattrs, content).await;
            }
        }
        self.large(to, name, from).await.at_path(from)
    }

    async fn is_unchanged(&self, to: &Dir, name: &Path, listed: &LocalStat) -> Result<bool> {
        let there = to.lookup(name).await?;
        Ok(there.is_some_and(|there| {
            there.kind == Kind::File && there.size == listed.bytes && there.modified == listed.modified
        }))
    }

    async fn small(
        &self,
        to: &Dir,
        name: &Path,
        from: &Path,
        stat: &LocalStat,
        xattrs: Xattrs,
        content: IoBuf,
    ) -> Result<()> {
        let bytes = content.len();
        let attributes = attributes(stat, xattrs);
        to.create_with(name, &attributes, Bytes::from(content), IfExists::Replace).await.at_path(from)?;
        self.ledger.bytes_done(bytes, from);
        self.ledger.file_done(from);
        Ok(())
    }

    async fn large(&self, to: &Dir, name: &Path, from: &Path) -> Result<()> {
        let (file, stat, xattrs) = self.local.open(from).await.at(bytes_of(from))?;
        let draft = to.draft(Some(stat.bytes)).await.at(bytes_of(from))?;
        match self.stream(&draft, &file, &stat, from).await {
            Ok(()) => draft.publish(to, name, &attributes(&stat, xattrs), IfExists::Replace).await?,
            Err(error) => {
                draft.discard().await;
                return Err(error);
            }
        }
        self.ledger.file_done(from);
        Ok(())
    }

    /// Content of a large file, chunk by chunk, holes left out.
    async fn stream(&self, draft: &Draft, file: &Arc<LocalFile>, stat: &LocalStat, from: &Path) -> Result<()> {
        let stretches = match stat.allocated < stat.bytes {
            true => self.local.data_stretches(file, stat.bytes).await.at(bytes_of(from))?,
            false => vec![(0, stat.bytes)],
        };
        let data_end = stretches.last().map_or(0, |(_, end)| *end);
        let chunk_bytes = draft.chunk_bytes();
        let pieces = stretches.into_iter().flat_map(|(start, end)| pieces(start, end, chunk_bytes));
        let copied = stream::iter(pieces).map(|(start, len)| async move {
            let _room = self.ledger.room(len).await;
            let data = self.local.read_at(file, start, len).await.at(bytes_of(from))?;
            let got = data.len();
            if got > 0 {
                draft.write_buf(start, data).await.at(bytes_of(from))?;
            }
            self.ledger.bytes_done(got, from);
            Ok::<_, DfsError>(start + got as u64)
        });
        let end =
            copied.buffer_unordered(CHUNKS_PER_FILE).try_fold(0, |end, at| async move { Ok(end.max(at)) }).await?;
        // A hole at the end has nothing written in it; a file that shrank ends where it ended.
        match end == data_end && data_end < stat.bytes {
            true => draft.set_size(stat.bytes).await.at(bytes_of(from)),
            false => Ok(()),
        }
    }
}

/// `start..end` cut where chunks end.
pub(crate) fn pieces(start: u64, end: u64, chunk_bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let piece_end = (at / chunk_bytes + 1).saturating_mul(chunk_bytes).min(end);
        let piece = (at, (piece_end - at) as usize);
        at = piece_end;
        Some(piece)
    })
}

fn attributes(stat: &LocalStat, xattrs: Xattrs) -> Attributes {
    Attributes {
        mode: stat.mode,
        uid: Some(stat.uid),
        gid: Some(stat.gid),
        accessed: Some(stat.accessed),
        modified: Some(stat.modified),
        xattrs,
    }
}

/// An error of a copy names the local path, where the user can look.
trait AtPath<T> {
    fn at_path(self, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for Result<T> {
    fn at_path(self, path: &Path) -> Result<T> {
        self.map_err(|error| error.reason.at(OsStr::as_bytes(path.as_os_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_chunks_do() {
        let of = |start, end| pieces(start, end, 100).collect::<Vec<_>>();
        assert_eq!(of(0, 250), [(0, 100), (100, 100), (200, 50)]);
        assert_eq!(of(150, 260), [(150, 50), (200, 60)]);
        assert_eq!(of(7, 7), []);
    }
}

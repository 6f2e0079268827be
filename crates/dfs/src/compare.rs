//! Comparing a local tree with one in DFS: what differs, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, future, stream};

use crate::copy::{CHUNKS_PER_FILE, CopyOptions, Ledger, pieces};
use crate::crew::{self, Crew};
use crate::dir::{Node, bytes_of};
use crate::entry::Spot;
use crate::error::{At, DfsError, Reason, Result};
use crate::inode::Inode;
use crate::local::{Local, LocalKind, LocalStat, Xattrs};
use crate::{Dir, Follow, Kind};

/// Differences kept; beyond, they are only counted.
pub const DIFFERENCES_MAX: usize = 1000;

/// What comparing two trees found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// The first of them, in no particular order.
    pub differences: Vec<Difference>,
    /// All of them.
    pub difference_count: u64,
    /// Compared, with bytes of content.
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub bytes: u64,
    /// Local sockets, pipes and devices, which no copy takes along.
    pub skipped: u64,
    pub seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Below the two roots.
    pub path: PathBuf,
    pub what: What,
}

/// In which way two entries differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    OnlyLocal,
    OnlyDfs,
    Kind,
    Mode {
        local: u32,
        dfs: u32,
    },
    Modified,
    Bytes {
        local: u64,
        dfs: u64,
    },
    /// The first byte that differs.
    Content {
        at: u64,
    },
    Target,
    Xattr {
        name: Vec<u8>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", crate::path::readable(bytes_of(&self.path)))?;
        match &self.what {
            What::OnlyLocal => f.write_str("only in the local tree"),
            What::OnlyDfs => f.write_str("only in DFS"),
            What::Kind => f.write_str("a different kind of thing"),
            What::Mode { local, dfs } => write!(f, "permissions {local:o} and {dfs:o}"),
            What::Modified => f.write_str("modified at different times"),
            What::Bytes { local, dfs } => write!(f, "{local} and {dfs} bytes"),
            What::Content { at } => write!(f, "content differs from byte {at}"),
            What::Target => f.write_str("the link leads elsewhere"),
            What::Xattr { name } => write!(f, "attribute {} differs", crate::path::readable(name)),
        }
    }
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.difference_count == 0
    }
}

/// Compares the local tree at `here` with that at `there`, seen from `from`: names, kinds, contents,
/// permissions, times of modification, link targets and extended attributes. Nothing is changed.
///
/// # Errors
/// When either side cannot be read; a difference is no error.
pub async fn compare(
    local: &Local,
    here: impl AsRef<Path>,
    from: &Dir,
    there: impl AsRef<Path>,
    options: &CopyOptions,
) -> Result<Comparison> {
    let (here, there) = (here.as_ref(), there.as_ref());
    let ledger = Ledger::new(options);
    let compare = Arc::new(Compare { local: local.clone(), ledger: ledger.clone(), found: Mutex::default() });
    let stat = local.stat(here, true).await.at(bytes_of(here))?;
    let found = from.find(bytes_of(there), Follow::Yes).await.at(bytes_of(there))?;
    match (stat.kind, found.inode.kind) {
        (LocalKind::Directory, Kind::Directory) => {
            let directory = from.open_dir(there).await?;
            let pair = Pair { path: PathBuf::new(), here: here.to_owned(), there: directory };
            let xattrs = local.xattrs(here).await.at(bytes_of(here))?;
            compare
                .attributes(&pair.path, &stat, &pair.there, found.spot(), &found.inode, xattrs)
                .await
                .at(bytes_of(there))?;
            let work = |pair, crew| directories(compare.clone(), pair, crew);
            crew::run(vec![Job::Directory(Arc::new(pair))], options.files_in_flight.max(1), work).await?;
        }
        (LocalKind::File, Kind::File) => {
            let name = here.file_name().map(PathBuf::from).unwrap_or_default();
            compare.file(&name, here, &stat, from, found.spot(), &found.inode).await?;
        }
        _ => compare.note(here.to_owned(), What::Kind),
    }
    Ok(compare.comparison())
}

struct Compare {
    local: Local,
    ledger: Arc<Ledger>,
    found: Mutex<(Vec<Difference>, u64)>,
}

/// Two directories of the same name.
struct Pair {
    path: PathBuf,
    here: PathBuf,
    there: Dir,
}

enum Job {
    Directory(Arc<Pair>),
    Entry(Box<Met>),
}

/// A name that both directories have.
struct Met {
    pair: Arc<Pair>,
    name: PathBuf,
    stat: LocalStat,
    inode: Inode,
}

async fn directories(compare: Arc<Compare>, job: Job, crew: Crew<Job>) -> Result<(), DfsError> {
    match job {
        Job::Directory(pair) => {
            compare.ledger.directory_done();
            let (listing, _, _) = compare.local.list(&pair.here).await.at(bytes_of(&pair.here))?;
            let (mut listing, mut here) = (listing, BTreeMap::new());
            loop {
                let (page, rest) = compare.local.next_page(listing).await.at(bytes_of(&pair.here))?;
                if page.is_empty() {
                    break;
                }
                here.extend(page.into_iter().filter(|(name, _)| !compare.ledger.is_excluded(&pair.here.join(name))));
                listing = rest;
            }
            for entry in pair.there.read_dir(".").await? {
                let path = pair.path.join(&entry.name);
                match here.remove(&entry.name) {
                    None => compare.note(path, What::OnlyDfs),
                    Some(stat) => {
                        let (pair, name) = (pair.clone(), PathBuf::from(entry.name));
                        crew.push(Job::Entry(Box::new(Met { pair, name, stat, inode: entry.inode })));
                    }
                }
            }
            for (name, stat) in here {
                match stat.kind {
                    LocalKind::Special => compare.ledger.skipped(bytes_of(&pair.here.join(&name))),
                    _ => compare.note(pair.path.join(&name), What::OnlyLocal),
                }
            }
            Ok(())
        }
        Job::Entry(met) => compare.entry(&met, &crew).await,
    }
}

impl Compare {
    async fn entry(&self, met: &Met, crew: &Crew<Job>) -> Result<()> {
        let Met { pair, name, stat, inode } = met;
        let (path, here) = (pair.path.join(name), pair.here.join(name));
        let spot = Spot { directory: pair.there.node.oid, name: bytes_of(name) };
        let mount = &pair.there.mount;
        match (stat.kind, inode.kind) {
            (LocalKind::File, Kind::File) => self.file(&path, &here, stat, &pair.there, spot, inode).await,
            (LocalKind::Directory, Kind::Directory) => {
                let xattrs = self.local.xattrs(&here).await.at(bytes_of(&here))?;
                self.attributes(&path, stat, &pair.there, spot, inode, xattrs).await.at(bytes_of(&path))?;
                let there = pair.there.at(Node::child(&pair.there.node, bytes_of(name), inode));
                crew.push(Job::Directory(Arc::new(Pair { path, here, there })));
                Ok(())
            }
            (LocalKind::Symlink, Kind::Symlink) => {
                let (target, xattrs) = self.local.read_link(&here).await.at(bytes_of(&here))?;
                if mount.target(spot).await.at(bytes_of(&path))? != target.as_os_str().as_bytes() {
                    self.note(path.clone(), What::Target);
                }
                self.ledger.symlink_done();
                self.attributes(&path, stat, &pair.there, spot, inode, xattrs).await.at(bytes_of(&path))
            }
            _ => {
                self.note(path, What::Kind);
                Ok(())
            }
        }
    }

    /// Permissions, time of modification, attributes; not of symbolic links, which have none.
    async fn attributes(
        &self,
        path: &Path,
        stat: &LocalStat,
        there: &Dir,
        spot: Spot<'_>,
        inode: &Inode,
        here: Xattrs,
    ) -> Result<(), Reason> {
        let (metadata, xattrs) = future::try_join(there.mount.metadata(inode), there.mount.xattrs(spot, inode)).await?;
        if inode.kind != Kind::Symlink && stat.mode != metadata.mode {
            self.note(path.to_owned(), What::Mode { local: stat.mode, dfs: metadata.mode });
        }
        if stat.modified != metadata.modified {
            self.note(path.to_owned(), What::Modified);
        }
        let mut there: BTreeMap<Vec<u8>, _> =
            xattrs.into_iter().map(|(name, value)| (name.into_vec(), value)).collect();
        for (name, value) in here {
            if there.remove(&name) != Some(value) {
                self.note(path.to_owned(), What::Xattr { name });
            }
        }
        there.into_keys().for_each(|name| self.note(path.to_owned(), What::Xattr { name }));
        Ok(())
    }

    async fn file(
        &self,
        path: &Path,
        here: &Path,
        stat: &LocalStat,
        there: &Dir,
        spot: Spot<'_>,
        inode: &Inode,
    ) -> Result<()> {
        let (file, _, xattrs) = self.local.open(here).await.at(bytes_of(here))?;
        self.attributes(path, stat, there, spot, inode, xattrs).await.at(bytes_of(path))?;
        let bytes = there.mount.measure(inode).await.at(bytes_of(path))?.bytes;
        self.ledger.file_done(here);
        if bytes != stat.bytes {
            self.note(path.to_owned(), What::Bytes { local: stat.bytes, dfs: bytes });
            return Ok(());
        }
        let (file, store) = (&file, &there.mount.store);
        let compared = stream::iter(pieces(0, bytes, inode.chunk_bytes)).map(|(start, len)| async move {
            // Once here, once there.
            let _room = self.ledger.room(2 * len).await;
            let ours = async { self.local.read_at(file, start, len).await.at(bytes_of(here)) };
            let theirs = async { store.read(inode.oid, inode.chunk_bytes, start, len).await.at(bytes_of(path)) };
            let (ours, theirs) = future::try_join(ours, theirs).await?;
            self.ledger.bytes_done(len, here);
            Ok::<_, DfsError>(first_difference(&ours, &theirs).map(|at| start + at as u64))
        });
        let mut compared = compared.buffered(CHUNKS_PER_FILE);
        while let Some(difference) = compared.try_next().await? {
            if let Some(at) = difference {
                self.note(path.to_owned(), What::Content { at });
                break;
            }
        }
        Ok(())
    }

    fn note(&self, path: PathBuf, what: What) {
        let mut found = self.found.lock().expect("no panic while held");
        found.1 += 1;
        if found.0.len() < DIFFERENCES_MAX {
            found.0.push(Difference { path, what });
        }
    }

    fn comparison(&self) -> Comparison {
        let (report, found) = (self.ledger.report(), self.found.lock().expect("no panic while held"));
        Comparison {
            differences: found.0.clone(),
            difference_count: found.1,
            files: report.files,
            directories: report.directories,
            symlinks: report.symlinks,
            bytes: report.bytes,
            skipped: report.skipped,
            seconds: report.seconds,
        }
    }
}

fn first_difference(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    if ours == theirs {
        return None;
    }
    let differs = ours.iter().zip(theirs).position(|(a, b)| a != b);
    Some(differs.unwrap_or(ours.len().min(theirs.len())))
}

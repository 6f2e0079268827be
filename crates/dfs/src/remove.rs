//! Removing names, and what they stood for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use types::{Conditions, ObjectId};

use crate::Mount;
use crate::crew::{self, Crew};
use crate::dir::{Dir, Place, Walked, bytes_of};
use crate::entry::Spot;
use crate::error::{At, DfsError, Reason, Result};
use crate::inode::{Inode, Kind};
use crate::list::PAGE_ENTRIES_MAX;
use crate::locks::Hold;
use crate::path;

impl Dir {
    /// Removes the file or symbolic link at `path`, with its content.
    ///
    /// # Errors
    /// `IsDirectory` for a directory.
    pub async fn unlink(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = bytes_of(path.as_ref());
        let unlink = async {
            self.mount.writable()?;
            let place = self.place(path, |_| Reason::IsDirectory).await?;
            match &place.inode {
                None => Err(Reason::NotFound),
                Some(inode) if inode.kind == Kind::Directory => Err(Reason::IsDirectory),
                Some(_) if place.trailing_slash => Err(Reason::NotDirectory),
                Some(_) => self.mount.unlink(place.spot()).await,
            }
        };
        unlink.await.at(path)
    }

    /// Removes the empty directory at `path`.
    pub async fn rmdir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = bytes_of(path.as_ref());
        let rmdir = async {
            self.mount.writable()?;
            let place = self.place(path, no_name_to_remove).await?;
            match &place.inode {
                None => Err(Reason::NotFound),
                Some(inode) if inode.kind == Kind::Directory => self.mount.rmdir(&place, inode.oid).await,
                Some(_) => Err(Reason::NotDirectory),
            }
        };
        rmdir.await.at(path)
    }

    /// Removes what is at `path`, and if it is a directory, all in it. Returns how many names went.
    ///
    /// From the leaves up, so that what a crash leaves is a smaller tree. The root itself stays.
    pub async fn remove_tree(&self, path: impl AsRef<Path>) -> Result<u64> {
        let path = bytes_of(path.as_ref());
        self.mount.writable().at(path)?;
        if let Walked::Node(node) = self.walk_to_last(path).await.at(path)?
            && node.parent.is_none()
        {
            return self.remove_below(node.oid, path).await;
        }
        let place = self.place(path, no_name_to_remove).await.at(path)?;
        let inode = place.inode.as_ref().ok_or(Reason::NotFound).at(path)?;
        if inode.kind != Kind::Directory {
            self.mount.unlink(place.spot()).await.at(path)?;
            return Ok(1);
        }
        let below = self.remove_below(inode.oid, path).await?;
        self.mount.rmdir(&place, inode.oid).await.at(path)?;
        Ok(below + 1)
    }

    /// Empties a directory.
    async fn remove_below(&self, directory: ObjectId, path: &[u8]) -> Result<u64> {
        let removed = Arc::new(AtomicU64::new(0));
        let top = Arc::new(Doomed { oid: directory, path: path.into(), parent: None, name: [].into(), left: 1.into() });
        let first = vec![Job::List(top)];
        crew::run(first, REMOVALS_MAX, |job, crew| remove_step(self.mount.clone(), removed.clone(), job, crew)).await?;
        Ok(removed.load(Ordering::Relaxed))
    }
}

/// What `rmdir(2)` says of a path that ends in no name.
fn no_name_to_remove(last: &[u8]) -> Reason {
    match last {
        b".." => Reason::NotEmpty,
        b"/" => Reason::Busy("the root stays"),
        _ => Reason::Invalid("a directory is not removed by the name '.'"),
    }
}

/// Removals in flight at once.
const REMOVALS_MAX: usize = 64;

/// A directory being emptied.
struct Doomed {
    oid: ObjectId,
    path: Box<[u8]>,
    parent: Option<Arc<Doomed>>,
    name: Box<[u8]>,
    /// Jobs below that are not done, and one for the listing.
    left: AtomicUsize,
}

enum Job {
    List(Arc<Doomed>),
    Unlink(Arc<Doomed>, Box<[u8]>),
    /// All below is gone.
    Rmdir(Arc<Doomed>),
}

impl Doomed {
    /// Something below is done; the last one frees the directory for its own removal.
    fn done(self: &Arc<Doomed>, crew: &Crew<Job>) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 && self.parent.is_some() {
            crew.push(Job::Rmdir(self.clone()));
        }
    }
}

async fn remove_step(mount: Arc<Mount>, removed: Arc<AtomicU64>, job: Job, crew: Crew<Job>) -> Result<(), DfsError> {
    match job {
        Job::List(directory) => {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = mount.page(directory.oid, after.as_deref(), PAGE_ENTRIES_MAX).await.at(&directory.path)?;
                for entry in page.entries {
                    directory.left.fetch_add(1, Ordering::AcqRel);
                    let name: Box<[u8]> = entry.name_bytes().into();
                    match entry.inode.kind {
                        Kind::Directory => crew.push(Job::List(Arc::new(Doomed {
                            oid: entry.inode.oid,
                            path: path::join(&directory.path, &name).into(),
                            parent: Some(directory.clone()),
                            name,
                            left: 1.into(),
                        }))),
                        _ => crew.push(Job::Unlink(directory.clone(), name)),
                    }
                }
                match page.next {
                    Some(next) => after = Some(std::os::unix::ffi::OsStringExt::into_vec(next)),
                    None => break,
                }
            }
            directory.done(&crew);
        }
        Job::Unlink(directory, name) => {
            match mount.unlink(Spot { directory: directory.oid, name: &name }).await {
                // Someone else was faster: it is gone all the same.
                Ok(()) | Err(Reason::NotFound) => {}
                Err(reason) => return Err(reason.at(&path::join(&directory.path, &name))),
            }
            removed.fetch_add(1, Ordering::Relaxed);
            directory.done(&crew);
        }
        Job::Rmdir(directory) => {
            let parent = directory.parent.as_ref().expect("the top is left to the caller");
            let spot = Spot { directory: parent.oid, name: &directory.name };
            match mount.rmdir_at(spot, directory.oid).await {
                Ok(()) | Err(Reason::NotFound) => {}
                Err(reason) => return Err(reason.at(&directory.path)),
            }
            removed.fetch_add(1, Ordering::Relaxed);
            parent.done(&crew);
        }
    }
    Ok(())
}

impl Mount {
    /// First the name, then the content: a crash between leaves an object nothing refers to.
    pub(crate) async fn unlink(&self, spot: Spot<'_>) -> Result<(), Reason> {
        let inode = {
            let _held = self.locks.take(&[(spot.directory, Hold::Shared)], &[(spot.directory, spot.name)]).await;
            let inode = self.inode(spot).await?.ok_or(Reason::NotFound)?;
            if inode.kind == Kind::Directory {
                return Err(Reason::IsDirectory);
            }
            self.settle(spot, &inode).await?;
            self.erase(spot).await?;
            inode
        };
        self.free(&inode).await
    }

    async fn rmdir(&self, place: &Place, directory: ObjectId) -> Result<(), Reason> {
        self.rmdir_at(place.spot(), directory).await
    }

    /// Looks, removes the name, looks again, and puts the name back if another client has made
    /// something in the directory meanwhile.
    async fn rmdir_at(&self, spot: Spot<'_>, directory: ObjectId) -> Result<(), Reason> {
        let holds = [(spot.directory, Hold::Shared), (directory, Hold::Alone)];
        let _held = self.locks.take(&holds, &[(spot.directory, spot.name)]).await;
        let whole = self.whole(spot).await?.ok_or(Reason::NotFound)?;
        if whole.inode.kind != Kind::Directory || whole.inode.oid != directory {
            return Err(Reason::Contended);
        }
        if !self.is_empty(directory).await? {
            return Err(Reason::NotEmpty);
        }
        self.settle(spot, &whole.inode).await?;
        self.erase(spot).await?;
        self.locks.note_removed(directory);
        if !self.is_empty(directory).await? {
            self.write(spot, &whole, None, Conditions::DkeyInsert).await?;
            self.locks.note_restored(directory);
            return Err(Reason::NotEmpty);
        }
        self.free(&whole.inode).await
    }

    /// Whether a rename may put something else in the place of this entry: not of a directory with
    /// names in it. The directory's lock is held.
    pub(crate) async fn check_replaceable(&self, old: &Inode, new: &Inode) -> Result<(), Reason> {
        match (new.kind == Kind::Directory, old.kind == Kind::Directory) {
            (true, false) => Err(Reason::NotDirectory),
            (false, true) => Err(Reason::IsDirectory),
            (false, false) => Ok(()),
            (true, true) => match self.is_empty(old.oid).await? {
                true => Ok(()),
                false => Err(Reason::NotEmpty),
            },
        }
    }
}

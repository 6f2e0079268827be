//! Directory handles, and the walk from a path to an entry.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use types::{ObjectClass, ObjectId};

use crate::Mount;
use crate::entry::Spot;
use crate::error::{At, Reason, Result};
use crate::inode::{Inode, Kind};
use crate::path::{self, LINKS_MAX, Step};

/// A directory, and everything that can be named from it.
///
/// Relative paths start here, absolute ones at the root. The handle knows the directory's object
/// and the directories above it as they were when it was opened: a call through it costs no walk
/// from the root, and keeps meaning the same directory after a rename. Cheap to clone.
#[derive(Clone)]
pub struct Dir {
    pub(crate) mount: Arc<Mount>,
    pub(crate) node: Arc<Node>,
}

/// A directory on the way from the root.
pub(crate) struct Node {
    pub parent: Option<Arc<Node>>,
    /// The object that its own entry stands in: the directory above, or the reserved object with the superblock.
    home: ObjectId,
    pub name: Box<[u8]>,
    pub oid: ObjectId,
    /// Class and chunk size of files made here, where the directory has its own.
    pub class: Option<ObjectClass>,
    pub chunk_bytes: Option<u64>,
}

/// Whether a symbolic link at the end of a path is followed. Those on the way always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Yes,
    No,
}

/// Which names a walk fetches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    AtAll,
    NotAtLast,
}

/// Where a walk ended.
pub(crate) enum Walked {
    /// At a directory by other means than its name: `/`, `.`, `..`.
    Node(Arc<Node>),
    Name(Place),
}

/// A name in a directory that exists; whether the name does is another matter.
pub(crate) struct Place {
    pub parent: Arc<Node>,
    pub name: Box<[u8]>,
    pub inode: Option<Inode>,
    /// The path ended in `/`.
    pub trailing_slash: bool,
}

/// An entry that exists.
pub(crate) struct Found {
    directory: ObjectId,
    name: Box<[u8]>,
    pub inode: Inode,
}

impl Node {
    /// The root, `oid`, whose own entry stands in the object `home`.
    pub(crate) fn root(oid: ObjectId, home: ObjectId) -> Node {
        Node { parent: None, home, name: ROOT_NAME.into(), oid, class: None, chunk_bytes: None }
    }

    pub(crate) fn child(parent: &Arc<Node>, name: &[u8], inode: &Inode) -> Arc<Node> {
        Arc::new(Node {
            parent: Some(parent.clone()),
            home: parent.oid,
            name: name.into(),
            oid: inode.oid,
            class: inode.class.or(parent.class),
            chunk_bytes: Some(inode.chunk_bytes).filter(|bytes| *bytes > 0).or(parent.chunk_bytes),
        })
    }

    /// Where the directory's own entry stands.
    pub(crate) fn spot(&self) -> Spot<'_> {
        Spot { directory: self.home, name: &self.name }
    }

    /// Whether `oid` is this directory or one above it.
    pub(crate) fn is_within(&self, oid: ObjectId) -> bool {
        let mut at = Some(self);
        while let Some(node) = at {
            if node.oid == oid {
                return true;
            }
            at = node.parent.as_deref();
        }
        false
    }
}

/// The dkey of the root's own entry, in the reserved object.
pub(crate) const ROOT_NAME: &[u8] = b"/";

impl Place {
    pub(crate) fn spot(&self) -> Spot<'_> {
        Spot { directory: self.parent.oid, name: &self.name }
    }
}

impl Found {
    pub(crate) fn spot(&self) -> Spot<'_> {
        Spot { directory: self.directory, name: &self.name }
    }
}

pub(crate) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

impl Dir {
    /// Opens the directory at `path`, following symbolic links.
    pub async fn open_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        let path = bytes_of(path.as_ref());
        let node = self.walk_to_directory(path).await.at(path)?;
        Ok(Dir { mount: self.mount.clone(), node })
    }

    /// The directory's object.
    pub fn object_id(&self) -> ObjectId {
        self.node.oid
    }

    pub(crate) fn at(&self, node: Arc<Node>) -> Dir {
        Dir { mount: self.mount.clone(), node }
    }

    pub(crate) async fn walk_to_directory(&self, path: &[u8]) -> Result<Arc<Node>, Reason> {
        match self.walk(path, Follow::Yes).await? {
            Walked::Node(node) => Ok(node),
            Walked::Name(place) => match &place.inode {
                None => Err(Reason::NotFound),
                Some(inode) if inode.kind == Kind::Directory => Ok(Node::child(&place.parent, &place.name, inode)),
                Some(_) => Err(Reason::NotDirectory),
            },
        }
    }

    /// The entry at `path`, which must exist.
    pub(crate) async fn find(&self, path: &[u8], follow: Follow) -> Result<Found, Reason> {
        match self.walk(path, follow).await? {
            Walked::Node(node) => {
                let inode = self.mount.inode(node.spot()).await?.ok_or(Reason::NotFound)?;
                let Spot { directory, name } = node.spot();
                Ok(Found { directory, name: name.into(), inode })
            }
            Walked::Name(place) => {
                let inode = place.inode.ok_or(Reason::NotFound)?;
                Ok(Found { directory: place.parent.oid, name: place.name, inode })
            }
        }
    }

    /// The name at the end of `path` itself and what is there, for calls that remove names: a link
    /// is not followed, not even before a `/`.
    ///
    /// # Errors
    /// As given by `of_no_name` when the path ends in `.` or `..` or is `/`.
    pub(crate) async fn place(&self, path: &[u8], of_no_name: impl Fn(&[u8]) -> Reason) -> Result<Place, Reason> {
        match self.walk_to_last(path).await? {
            Walked::Node(_) => {
                Err(of_no_name(path.rsplit(|b| *b == b'/').find(|piece| !piece.is_empty()).unwrap_or(b"/")))
            }
            Walked::Name(mut place) => {
                place.inode = self.mount.inode(place.spot()).await?;
                Ok(place)
            }
        }
    }

    /// The name at the end of `path`, not looked at: for calls that insert it under the condition
    /// that it is new, and so need no look. `inode` is absent.
    pub(crate) async fn fresh(&self, path: &[u8]) -> Result<Place, Reason> {
        match self.walk_to_last(path).await? {
            Walked::Node(_) => Err(Reason::Exists),
            Walked::Name(place) => Ok(place),
        }
    }

    /// Walks to the last name of `path`, and does not look at it.
    pub(crate) async fn walk_to_last(&self, path: &[u8]) -> Result<Walked, Reason> {
        self.walk_until(path, Follow::No, Look::NotAtLast).await
    }

    /// Walks `path`. Everything before its last name exists and is a directory, or it fails.
    ///
    /// Cost: a request a name, and one more for each symbolic link.
    pub(crate) async fn walk(&self, path: &[u8], follow: Follow) -> Result<Walked, Reason> {
        self.walk_until(path, follow, Look::AtAll).await
    }

    async fn walk_until(&self, path: &[u8], follow: Follow, look: Look) -> Result<Walked, Reason> {
        let parsed = path::parse(path)?;
        let mut trailing_slash = parsed.trailing_slash;
        let mut at = if parsed.absolute { self.root_node() } else { self.node.clone() };
        // What is still to be walked, the next step last.
        let mut ahead: Vec<Step> = parsed.steps.into_iter().rev().collect();
        let mut links = 0;
        while let Some(step) = ahead.pop() {
            let name = match step {
                Step::Stay => continue,
                Step::Up => {
                    at = at.parent.clone().unwrap_or(at);
                    continue;
                }
                Step::Name(name) => name,
            };
            let last = ahead.is_empty();
            if last && look == Look::NotAtLast {
                return Ok(Walked::Name(Place { parent: at, name, inode: None, trailing_slash }));
            }
            let spot = Spot { directory: at.oid, name: &name };
            let inode = self.mount.inode(spot).await?;
            match inode.as_ref().map(|inode| inode.kind) {
                Some(Kind::Directory) if !last => at = Node::child(&at, &name, inode.as_ref().expect("seen")),
                Some(Kind::Symlink) if !last || follow == Follow::Yes || trailing_slash => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Reason::Loop);
                    }
                    let target = path::parse(&self.mount.target(spot).await?)?;
                    if target.absolute {
                        at = self.root_node();
                    }
                    trailing_slash |= last && target.trailing_slash;
                    ahead.extend(target.steps.into_iter().rev());
                }
                None if !last => return Err(Reason::NotFound),
                Some(Kind::File | Kind::Symlink) if !last => return Err(Reason::NotDirectory),
                Some(Kind::File) if trailing_slash => return Err(Reason::NotDirectory),
                _ => return Ok(Walked::Name(Place { parent: at, name, inode, trailing_slash })),
            }
        }
        Ok(Walked::Node(at))
    }

    fn root_node(&self) -> Arc<Node> {
        let mut at = &self.node;
        while let Some(parent) = &at.parent {
            at = parent;
        }
        at.clone()
    }
}

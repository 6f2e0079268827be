//! Paths into a target: `/POOL/CONTAINER/OBJECT/DKEY/AKEY`.
//!
//! A part is a name, as `ls` shows it (a label does for a UUID), or an index in brackets, `[0]`, counted as
//! `ls` counts. Several targets may number differently; names mean the same everywhere.

use std::collections::BTreeMap;
use std::str::FromStr;

use control::offline::Labels;
use types::{Code, ContainerId, Error, PoolId};
use vos::{Branch, Child, ListedObject, Store};

use super::at_rest::unreadable;

/// Pools, containers, objects, dkeys, akeys, versions.
const PARTS_MAX: usize = 6;
const LEVELS: [&str; PARTS_MAX] = ["pool", "container", "object", "dkey", "akey", "version"];

/// A path as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Index(usize),
    Name(String),
}

/// What a path names on one target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Located {
    pub(crate) pool: Option<PoolId>,
    pub(crate) container: Option<ContainerId>,
    pub(crate) branch: Branch,
    /// Of the records of an akey.
    pub(crate) version: Option<usize>,
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Path, String> {
        let part = |text: &str| match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(index) => index.parse().map(Part::Index).map_err(|_| format!("'{text}' is not an index such as [0]")),
            None => Ok(Part::Name(text.to_string())),
        };
        let parts = text.split('/').filter(|part| !part.is_empty()).map(part).collect::<Result<Vec<_>, _>>()?;
        if parts.len() > PARTS_MAX {
            return Err(format!("'{text}' has {} parts: {} is the deepest", parts.len(), LEVELS[PARTS_MAX - 1]));
        }
        Ok(Path { parts })
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("/");
        }
        self.parts.iter().try_for_each(|part| match part {
            Part::Index(index) => write!(f, "/[{index}]"),
            Part::Name(name) => write!(f, "/{name}"),
        })
    }
}

impl Path {
    /// How many parts it has.
    pub(crate) fn depth(&self) -> usize {
        self.parts.len()
    }

    /// Finds what the path names on a target.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a name that is none; `BadFormat` when the way there cannot be read.
    pub(crate) fn locate(&self, store: &mut Store, labels: &Labels) -> Result<Located, Error> {
        let mut found = Located::default();
        for (level, part) in self.parts.iter().enumerate() {
            let is_there = match level {
                0 => {
                    let pools = store.pools();
                    found.pool = part.choose(&pools, &labels.pools);
                    found.pool.is_some()
                }
                1 => {
                    let containers = found.pool.map(|pool| store.containers(pool)).unwrap_or_default();
                    found.container = part.choose(&containers, &labels.containers);
                    found.container.is_some()
                }
                5 => {
                    let Part::Index(index) = part else {
                        let text = format!("'{self}': a version is named by its index, such as [0]");
                        return Err(Error::new(Code::Invalid, text));
                    };
                    found.version = Some(*index);
                    true
                }
                _ => self.descend(store, &mut found, part)?,
            };
            if !is_there {
                let text = format!("no {} '{part}' in {}", LEVELS[level], Path { parts: self.parts[..level].to_vec() });
                return Err(Error::new(Code::NotFound, text).remedy("list what is there with `ddb STORAGE ls PATH`"));
            }
        }
        Ok(found)
    }

    /// Goes one part further below a container; false when there is no such thing.
    fn descend(&self, store: &mut Store, found: &mut Located, part: &Part) -> Result<bool, Error> {
        let container = found.container.expect("the parts before named one");
        let invalid = |why: String| Error::new(Code::Invalid, format!("'{self}': {why}"));
        let child = match (part, found.branch.object) {
            (Part::Index(index), _) => nth_child(store, container, &found.branch, *index)?,
            (Part::Name(name), None) => {
                let (group, oid) = vos::read_object_name(name).map_err(invalid)?;
                match group {
                    Some(group) => Some(Child::Object(ListedObject { group, oid })),
                    None => find_object(store, container, |object| object.oid == oid)?,
                }
            }
            (Part::Name(name), Some(_)) => Some(Child::Key(vos::read_key_name(name).map_err(invalid)?)),
        };
        match child {
            None => return Ok(false),
            Some(Child::Object(object)) => found.branch.object = Some(object),
            Some(Child::Key(key)) if found.branch.dkey.is_none() => found.branch.dkey = Some(key),
            Some(Child::Key(key)) => found.branch.akey = Some(key),
        }
        let children = store.stored_children(container, &found.branch, None, 1).map_err(|e| unreadable(&e))?;
        let records = store.stored_records(container, &found.branch, None, 1).map_err(|e| unreadable(&e))?;
        Ok(!children.entries.is_empty() || !records.entries.is_empty())
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Name(name) => f.write_str(name),
        }
    }
}

impl Part {
    /// The one of `all` that is meant: by index, by UUID or by label.
    fn choose<T: Copy + Ord + std::fmt::Display>(&self, all: &[T], labels: &BTreeMap<T, String>) -> Option<T> {
        match self {
            Part::Index(index) => all.get(*index).copied(),
            Part::Name(name) => {
                let by_id = all.iter().find(|one| one.to_string().eq_ignore_ascii_case(name));
                by_id.or_else(|| all.iter().find(|one| labels.get(one) == Some(name))).copied()
            }
        }
    }
}

/// Children asked for at once.
const STEP: usize = 1024;

/// Calls `each` with the children of a branch in order, until it says stop.
///
/// # Errors
/// `BadFormat`, when the tree cannot be read.
pub(crate) fn each_child(
    store: &mut Store,
    container: ContainerId,
    branch: &Branch,
    mut each: impl FnMut(Child) -> bool,
) -> Result<(), Error> {
    let mut last: Option<Child> = None;
    loop {
        let part = store.stored_children(container, branch, last.as_ref(), STEP).map_err(|e| unreadable(&e))?;
        last = part.next;
        if !part.entries.into_iter().all(&mut each) || last.is_none() {
            return Ok(());
        }
    }
}

fn nth_child(store: &mut Store, container: ContainerId, branch: &Branch, n: usize) -> Result<Option<Child>, Error> {
    let (mut left, mut found) = (n, None);
    each_child(store, container, branch, |child| {
        if left == 0 {
            found = Some(child);
            return false;
        }
        left -= 1;
        true
    })?;
    Ok(found)
}

fn find_object(
    store: &mut Store,
    container: ContainerId,
    is: impl Fn(ListedObject) -> bool,
) -> Result<Option<Child>, Error> {
    let mut found = None;
    each_child(store, container, &Branch::default(), |child| {
        if matches!(child, Child::Object(object) if is(object)) {
            found = Some(child);
            return false;
        }
        true
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_names_and_indices() {
        let path: Path = "/tank/[2]/1.2:0//#7/v".parse().unwrap();
        assert_eq!((path.depth(), path.to_string().as_str()), (5, "/tank/[2]/1.2:0/#7/v"));
        assert_eq!("".parse::<Path>().unwrap(), Path::default());
        assert_eq!("/".parse::<Path>().unwrap().to_string(), "/");
        assert!("/[x]".parse::<Path>().unwrap_err().contains("index"));
        assert!("/a/b/c/d/e/f/g".parse::<Path>().unwrap_err().contains("deepest"));
    }
}

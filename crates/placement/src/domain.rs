//! Fault domains: what fails together, as a path, and the tree that the paths of a pool make.
//!
//! Below the root lie the domains of the paths, level by level, below the lowest the servers (ranks)
//! and below these their targets. All paths of a pool are equally deep.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use types::Rank;

use crate::map::PoolMap;

/// Most parts of a path: site, hall, row, rack, chassis, server, and two to spare.
pub const PATH_PARTS_MAX: usize = 8;
/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 255;

/// Where a server stands, from the largest domain to the machine: `/dc1/rack3/host7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultPath(String);

/// The text is not a fault path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a fault path: write one to {PATH_PARTS_MAX} names, a slash before each, such as /rack3/host7, \
     in at most {PATH_BYTES_MAX} bytes"
)]
pub struct PathError(pub String);

impl FaultPath {
    /// The path of a server of which nothing is known: it fails by itself.
    pub fn of_rank(rank: Rank) -> FaultPath {
        FaultPath(format!("/server{rank}"))
    }

    /// Names from the largest domain down.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0[1..].split('/')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FaultPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<FaultPath, PathError> {
        let parts = text.strip_prefix('/').map(|rest| rest.split('/'));
        let right = parts.is_some_and(|mut parts| {
            parts.clone().count() <= PATH_PARTS_MAX && parts.all(|part| !part.is_empty() && part.trim() == part)
        });
        match right && text.len() <= PATH_BYTES_MAX {
            true => Ok(FaultPath(text.into())),
            false => Err(PathError(text.into())),
        }
    }
}

impl fmt::Display for FaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a domain in its tree; the root is 0.
pub(crate) type DomainId = u32;
pub(crate) const ROOT: DomainId = 0;

/// The domains of a pool map, and which of them each target stands in.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// Levels between the root and the targets.
    depth: usize,
    /// `depth` domains a target, the largest first.
    above: Vec<DomainId>,
    /// By domain: the domains in it, or, at the lowest level, positions of the targets in it.
    children: Vec<Vec<u32>>,
}

impl Tree {
    pub(crate) fn new(map: &PoolMap) -> Tree {
        let depth = map.servers().first().map_or(0, |server| server.path.parts().count()) + 1;
        let mut known: BTreeMap<(DomainId, &str), DomainId> = BTreeMap::new();
        let mut children: Vec<Vec<u32>> = vec![Vec::new()];
        let mut of_server: Vec<Vec<DomainId>> = Vec::with_capacity(map.servers().len());
        for server in map.servers() {
            let mut domains = Vec::with_capacity(depth);
            let mut parent = ROOT;
            // Below the paths every server is a domain of its own: two may stand on one machine.
            for part in server.path.parts().map(Some).chain([None]) {
                let fresh = children.len() as DomainId;
                let child = part.map_or(fresh, |part| *known.entry((parent, part)).or_insert(fresh));
                if child == fresh {
                    children.push(Vec::new());
                    children[parent as usize].push(child);
                }
                domains.push(child);
                parent = child;
            }
            of_server.push(domains);
        }
        let mut above = Vec::with_capacity(map.targets().len() * depth);
        for (position, target) in map.targets().iter().enumerate() {
            let domains = &of_server[target.server as usize];
            above.extend_from_slice(domains);
            children[domains[depth - 1] as usize].push(position as u32);
        }
        Tree { depth, above, children }
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    pub(crate) fn domain_count(&self) -> usize {
        self.children.len()
    }

    /// The domains that a target stands in, the largest first, without the root.
    pub(crate) fn above(&self, target: u32) -> &[DomainId] {
        let start = target as usize * self.depth;
        &self.above[start..start + self.depth]
    }

    /// Domains in a domain, or the targets in one of the lowest.
    pub(crate) fn children(&self, domain: DomainId) -> &[u32] {
        &self.children[domain as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_names_with_slashes() {
        let path: FaultPath = "/dc1/rack3/host7".parse().unwrap();
        assert_eq!(path.parts().collect::<Vec<_>>(), ["dc1", "rack3", "host7"]);
        assert_eq!(FaultPath::of_rank(Rank(7)).to_string(), "/server7");
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        for wrong in ["", "/", "rack", "/a//b", "/a/", "/ a", "/1/2/3/4/5/6/7/8/9", &long] {
            assert!(wrong.parse::<FaultPath>().is_err(), "{wrong}");
        }
    }
}

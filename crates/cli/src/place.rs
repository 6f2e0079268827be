//! Where files are: a local path, or a path in a container.

use std::path::PathBuf;
use std::str::FromStr;

const SCHEME: &str = "daos://";

/// A path within a container: `daos://pool/container/path`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DaosPath {
    pub(crate) pool: String,
    pub(crate) container: String,
    /// Starts with a slash, ends without one unless it is the root.
    pub(crate) path: String,
}

impl FromStr for DaosPath {
    type Err = String;

    fn from_str(text: &str) -> Result<DaosPath, String> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| explain(text))?;
        // `daos:///pool/...` is how some URL libraries print an empty host.
        let mut parts = rest.trim_start_matches('/').splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(pool), Some(container), path) if !pool.is_empty() && !container.is_empty() => {
                Ok(DaosPath::new(pool, container, path.unwrap_or("")))
            }
            _ => Err(explain(text)),
        }
    }
}

fn explain(text: &str) -> String {
    format!("'{text}' does not name a place in a container; write daos://pool/container/path")
}

impl DaosPath {
    pub(crate) fn new(pool: &str, container: &str, path: &str) -> DaosPath {
        let path = format!("/{}", path.trim_matches('/'));
        DaosPath { pool: pool.to_string(), container: container.to_string(), path }
    }

    /// From `daos://pool/container/path`, or the same as two or three words.
    pub(crate) fn from_words(words: &[String]) -> Result<DaosPath, String> {
        match words {
            [url] => url.parse(),
            [pool, container] => Ok(DaosPath::new(pool, container, "")),
            [pool, container, path] => Ok(DaosPath::new(pool, container, path)),
            _ => Err(explain(&words.join(" "))),
        }
    }

    /// The last name of the path; the root has none.
    pub(crate) fn name(&self) -> Option<&str> {
        self.path.rsplit('/').next().filter(|n| !n.is_empty())
    }

    /// The place called `name` in this directory.
    pub(crate) fn join(&self, name: &str) -> DaosPath {
        DaosPath { path: format!("{}/{name}", self.path.trim_end_matches('/')), ..self.clone() }
    }
}

impl std::fmt::Display for DaosPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}/{}{}", self.pool, self.container, self.path)
    }
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    Local(PathBuf),
    Daos(DaosPath),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        match text {
            "" => Err("a path is empty".to_string()),
            _ if text.starts_with("daos:") => text.parse().map(Place::Daos),
            _ => Ok(Place::Local(text.into())),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Local(path) => path.display().fmt(f),
            Place::Daos(path) => path.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_container_reads_back() {
        for (text, path, shown) in [
            ("daos://tank/files", "/", "daos://tank/files/"),
            ("daos://tank/files/", "/", "daos://tank/files/"),
            ("daos://tank/files/a/b/", "/a/b", "daos://tank/files/a/b"),
        ] {
            let place: DaosPath = text.parse().unwrap();
            assert_eq!((place.path.as_str(), place.to_string().as_str()), (path, shown));
        }
        assert_eq!("daos://t/c/a/b".parse::<DaosPath>().unwrap().name(), Some("b"));
        assert_eq!("daos://t/c".parse::<DaosPath>().unwrap().name(), None);
        assert_eq!("daos://t/c".parse::<DaosPath>().unwrap().join("x").path, "/x");
    }

    #[test]
    fn half_a_place_is_explained() {
        for text in ["daos://tank", "daos://", "daos:///", "tank/files"] {
            assert!(text.parse::<DaosPath>().unwrap_err().contains("daos://pool/container/path"), "{text}");
        }
        assert_eq!("/tmp/x".parse::<Place>().unwrap(), Place::Local("/tmp/x".into()));
        assert!("daos:/tank/x/y".parse::<Place>().is_err());
    }
}

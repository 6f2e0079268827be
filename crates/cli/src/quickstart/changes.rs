//! Changing and deleting files after the snapshot, and looking at both versions.

use std::path::Path;

use dfs::{Dfs, OpenOptions};
use types::{Code, Error};

use crate::failure::{self, Result};
use crate::transfer::SurveyedFile;

/// How many files are changed, and how many deleted, where there are enough.
const TOUCHED_MAX: usize = 3;
/// Only files up to this many bytes: they are read whole.
const TOUCHED_BYTES_MAX: u64 = 1 << 20;

/// Files that differ between the snapshot and now, relative to the run's directory.
pub(super) struct Touched {
    pub(super) changed: Vec<String>,
    pub(super) deleted: Vec<String>,
}

impl Touched {
    pub(super) fn count(&self) -> usize {
        self.changed.len() + self.deleted.len()
    }
}

/// Changes some of `files` below `root` and deletes some others.
pub(super) async fn make(dfs: &Dfs, source: &Path, root: &str, files: &[SurveyedFile]) -> Result<Touched> {
    let touched = choose(files);
    for name in &touched.changed {
        let path = format!("{root}/{name}");
        let old = std::fs::read(source.join(name)).map_err(|e| failure::local("read", &source.join(name), &e))?;
        let text = format!("changed by daos quickstart; {} bytes before\n", old.len());
        let file = dfs.open(&path, &OpenOptions::new().write(true).truncate(true)).await.map_err(Error::from)?;
        file.write(0, text.as_bytes()).await.map_err(Error::from)?;
    }
    for name in &touched.deleted {
        dfs.unlink(format!("{root}/{name}")).await.map_err(Error::from)?;
    }
    Ok(touched)
}

/// The files nearest to the root first, as those are the ones a person knows.
fn choose(files: &[SurveyedFile]) -> Touched {
    let mut candidates: Vec<&SurveyedFile> =
        files.iter().filter(|f| (1..=TOUCHED_BYTES_MAX).contains(&f.bytes)).collect();
    candidates.sort_by_key(|f| (f.name.matches('/').count(), f.name.starts_with('.'), f.name.clone()));
    let each = TOUCHED_MAX.min(candidates.len().div_ceil(2));
    let names = |part: &[&SurveyedFile]| part.iter().map(|f| f.name.clone()).collect();
    let (changed, rest) = candidates.split_at(each);
    Touched { changed: names(changed), deleted: names(&rest[..TOUCHED_MAX.min(rest.len())]) }
}

/// Fails unless `now` shows the changes and `then`, the snapshot, has the source's contents.
pub(super) async fn check(now: &Dfs, then: &Dfs, source: &Path, root: &str, touched: &Touched) -> Result<()> {
    for name in touched.changed.iter().chain(&touched.deleted) {
        let path = format!("{root}/{name}");
        let original = std::fs::read(source.join(name)).map_err(|e| failure::local("read", &source.join(name), &e))?;
        let kept = then.read(&path).await.map_err(Error::from)?;
        if kept != original {
            return Err(broken(format!("the snapshot does not have the old content of {name}")).into());
        }
        let current = match now.lookup(&path).await.map_err(Error::from)? {
            Some(_) => Some(now.read(&path).await.map_err(Error::from)?),
            None => None,
        };
        let expected_gone = touched.deleted.contains(name);
        if current.is_none() != expected_gone || current == Some(original) {
            return Err(broken(format!("the container does not show the change of {name}")).into());
        }
    }
    Ok(())
}

fn broken(text: String) -> Error {
    Error::new(Code::Mismatch, text).remedy("this should not happen: please report it, with the output of --debug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_near_the_root_are_chosen_and_none_twice() {
        let file = |name: &str, bytes| SurveyedFile { name: name.into(), bytes };
        let files = [file("a/b", 1), file("z", 5), file(".git", 9), file("empty", 0), file("large", 1 << 30)];
        let touched = choose(&files);
        assert_eq!((touched.changed, touched.deleted), (vec!["z".into(), ".git".into()], vec!["a/b".to_string()]));
        assert_eq!(choose(&[file("only", 3)]).count(), 1);
        assert_eq!(choose(&[]).count(), 0);
    }
}

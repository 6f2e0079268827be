//! Trees between a container and the local file system: looked over, copied, compared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs::{CopyOptions, CopyReport, Dfs, Local};
use indicatif::ProgressBar;
use types::{Code, Error};
use walkdir::WalkDir;

use crate::failure::{self, Failure, Result};

/// A directory with this file in it holds what can be made again (bford.info/cachedir).
const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What a local tree holds, before it is copied.
pub(crate) struct Survey {
    pub(crate) files: Vec<SurveyedFile>,
    pub(crate) bytes: u64,
    /// Directories left out: absolute, without symbolic links.
    pub(crate) excluded: Arc<BTreeSet<PathBuf>>,
}

pub(crate) struct SurveyedFile {
    /// Relative to the tree, with slashes.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Looks over the tree at `source`, leaving out `data` (a system does not store itself), what is in `others`, and
/// directories tagged as caches, such as cargo's `target`. Files whose names are not UTF-8 are
/// counted but not named.
pub(crate) fn survey(source: &Path, data: &Path, others: &[&str]) -> Result<Survey> {
    let root = source.canonicalize().map_err(|e| failure::local("read", source, &e))?;
    if !root.is_dir() {
        return Err(failure::local("copy", source, &std::io::ErrorKind::NotADirectory.into()));
    }
    let data = whereabouts(data);
    if data.as_ref().is_some_and(|data| root.starts_with(data)) {
        let text = format!("{} lies in the system's own directory", source.display());
        return Err(Error::new(Code::Invalid, text).remedy("name another SOURCE_DIR, or another --path").into());
    }
    let mut survey = Survey { files: Vec::new(), bytes: 0, excluded: Arc::default() };
    // On the first run it is not there yet; when the copy begins, it is.
    let others = others.iter().filter_map(|other| whereabouts(Path::new(other)));
    let mut excluded: BTreeSet<PathBuf> = data.into_iter().chain(others).filter(|out| out.starts_with(&root)).collect();
    excluded.remove(&root);
    let mut walk = WalkDir::new(&root).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|e| unreadable(source, &e))?;
        if entry.file_type().is_dir() && entry.depth() > 0 {
            if excluded.contains(entry.path()) || is_cache(entry.path()) {
                excluded.insert(entry.path().to_path_buf());
                walk.skip_current_dir();
            }
        } else if entry.file_type().is_file() {
            let bytes = entry.metadata().map_err(|e| unreadable(source, &e))?.len();
            survey.bytes += bytes;
            if let Some(name) = entry.path().strip_prefix(&root).ok().and_then(Path::to_str) {
                survey.files.push(SurveyedFile { name: name.to_string(), bytes });
            }
        }
    }
    survey.excluded = Arc::new(excluded);
    Ok(survey)
}

/// The absolute path, without symbolic links, of something that may not exist yet.
fn whereabouts(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        // Joining nothing would leave a slash at the end.
        there.canonicalize().ok().map(|real| if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    })
}

fn is_cache(directory: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; CACHE_SIGNATURE.len()];
    let read = std::fs::File::open(directory.join(CACHE_TAG)).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == CACHE_SIGNATURE
}

fn unreadable(source: &Path, error: &walkdir::Error) -> Failure {
    let path = error.path().unwrap_or(source);
    match error.io_error() {
        Some(cause) => failure::local("read", path, cause),
        None => Failure::Failed(Error::new(Code::Io, format!("cannot read {}: {error}", path.display()))),
    }
}

/// Bytes of the files at `source`, for a progress bar.
pub(crate) async fn size(source: &Path) -> Result<u64> {
    let survey = local()?.survey(source).await.map_err(|e| failure::local("read", source, &e))?;
    Ok(survey.bytes)
}

/// Copies the local `source` to `destination`; a directory's content into that directory.
/// Directories in `excluded` stay out.
pub(crate) async fn copy_in(
    files: &Dfs,
    source: &Path,
    destination: &str,
    excluded: &Arc<BTreeSet<PathBuf>>,
    bar: &ProgressBar,
) -> Result<CopyReport> {
    copy_in_watched(files, source, destination, excluded, bar, |_| {}).await
}

/// As [`copy_in`]; `watch` is told the bytes that are there, as they come, in the midst of the copy.
pub(crate) async fn copy_in_watched(
    files: &Dfs,
    source: &Path,
    destination: &str,
    excluded: &Arc<BTreeSet<PathBuf>>,
    bar: &ProgressBar,
    watch: impl Fn(u64) + Send + Sync + 'static,
) -> Result<CopyReport> {
    let source = source.canonicalize().map_err(|e| failure::local("read", source, &e))?;
    let bar_too = bar.clone();
    let progress = Arc::new(move |progress: &dfs::Progress<'_>| {
        bar_too.set_position(progress.bytes);
        watch(progress.bytes);
    });
    let options = CopyOptions { progress: Some(progress), ..options(bar, excluded) };
    let report = dfs::copy_in(&local()?, source, files, destination, &options).await.map_err(Error::from)?;
    Ok(report)
}

/// Copies `source` out to the local `destination`; a directory's content into that directory.
pub(crate) async fn copy_out(files: &Dfs, source: &str, destination: &Path, bar: &ProgressBar) -> Result<CopyReport> {
    let options = options(bar, &Arc::default());
    let report = dfs::copy_out(files, source, &local()?, destination, &options).await.map_err(Error::from)?;
    Ok(report)
}

/// Reads everything below `there` back and compares it with the local `here`.
pub(crate) async fn verify(
    files: &Dfs,
    here: &Path,
    there: &str,
    excluded: &Arc<BTreeSet<PathBuf>>,
    bar: &ProgressBar,
) -> Result<dfs::compare::Comparison> {
    let here = here.canonicalize().map_err(|e| failure::local("read", here, &e))?;
    let options = options(bar, excluded);
    let comparison = dfs::compare(&local()?, here, files, there, &options).await.map_err(Error::from)?;
    Ok(comparison)
}

/// Megabytes a second.
pub(crate) fn rate(bytes: u64, seconds: f64) -> f64 {
    // A clock too coarse to see a small copy must not make it infinitely fast.
    const SECONDS_MIN: f64 = 1e-6;
    bytes as f64 / 1e6 / seconds.max(SECONDS_MIN)
}

fn options(bar: &ProgressBar, excluded: &Arc<BTreeSet<PathBuf>>) -> CopyOptions {
    let (bar, excluded) = (bar.clone(), excluded.clone());
    CopyOptions {
        progress: Some(Arc::new(move |progress| bar.set_position(progress.bytes))),
        exclude: Some(Arc::new(move |path: &Path| excluded.contains(path))),
        ..CopyOptions::default()
    }
}

fn local() -> Result<Local> {
    Ok(Local::new().map_err(|e| {
        Error::new(Code::NoMemory, format!("cannot start threads for local files: {}", failure::reason(&e)))
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survey_leaves_out_caches_and_the_systems_own_data() {
        let at = tempfile::tempdir().unwrap();
        for directory in ["src", "target/debug", "data/target-0", ".git", "elsewhere"] {
            std::fs::create_dir_all(at.path().join(directory)).unwrap();
        }
        for file in ["src/a", "target/debug/b", "data/log", ".git/c", "elsewhere/d"] {
            std::fs::write(at.path().join(file), "four").unwrap();
        }
        std::fs::write(at.path().join("target").join(CACHE_TAG), CACHE_SIGNATURE).unwrap();
        let elsewhere = at.path().join("elsewhere");
        let survey = survey(at.path(), &at.path().join("data"), &[elsewhere.to_str().unwrap(), "/"]).unwrap();
        let names: Vec<&str> = survey.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!((names, survey.bytes, survey.excluded.len()), (vec![".git/c", "src/a"], 8, 3));
    }

    #[test]
    fn a_system_does_not_store_itself() {
        let at = tempfile::tempdir().unwrap();
        assert!(survey(at.path(), at.path(), &[]).is_err());
        assert!(survey(&at.path().join("absent"), at.path(), &[]).is_err());
    }
}

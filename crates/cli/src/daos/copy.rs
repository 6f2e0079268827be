//! `daos filesystem copy`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dfs::{CopyReport, Dfs};
use serde_json::json;
use types::{ByteSize, Code, Error};

use crate::failure::{self, Failure, Result};
use crate::mount::mount;
use crate::output::Outcome;
use crate::place::{DaosPath, Place};
use crate::progress;
use crate::session::Session;
use crate::table::count;
use crate::transfer;

#[derive(Args, Debug)]
#[command(
    override_usage = "daos filesystem copy [OPTIONS] <SOURCE> <DESTINATION>\n       daos filesystem copy [OPTIONS] -s <SOURCE> -d <DESTINATION>"
)]
pub(crate) struct Copy {
    /// What to copy: a local path, or daos://POOL/CONTAINER/PATH
    #[arg(value_name = "SOURCE", required_unless_present = "src", requires = "to")]
    from: Option<Place>,
    /// Where to: the same forms
    #[arg(value_name = "DESTINATION", required_unless_present = "dst")]
    to: Option<Place>,
    /// What to copy, said with an option
    #[arg(short, long, value_name = "SOURCE", conflicts_with = "from", requires = "dst")]
    src: Option<Place>,
    /// Where to, said with an option
    #[arg(short, long, value_name = "DESTINATION", conflicts_with = "to", requires = "src")]
    dst: Option<Place>,
    /// Copy out of a snapshot, by name or epoch
    #[arg(long, value_name = "SNAPSHOT")]
    snap: Option<String>,
    /// Directories are always copied whole
    #[arg(short, long, hide = true)]
    recursive: bool,
}

impl Copy {
    pub(crate) async fn run(&self, session: &Session, json: bool) -> Result<Outcome> {
        let source = self.from.as_ref().or(self.src.as_ref());
        let destination = self.to.as_ref().or(self.dst.as_ref());
        let (Some(source), Some(destination)) = (source, destination) else {
            return Err(Failure::usage("a copy needs a source and a destination", "see `daos filesystem copy --help`"));
        };
        let (copied, reached) = match (source, destination) {
            (Place::Local(from), Place::Daos(to)) => {
                if self.snap.is_some() {
                    return Err(Failure::usage("--snap is for copies out of a container", "leave it out"));
                }
                copy_in(session, from, to, json).await?
            }
            (Place::Daos(from), Place::Local(to)) => copy_out(session, from, self.snap.as_deref(), to, json).await?,
            (Place::Local(_), Place::Local(_)) => {
                let remedy = "write one of them as daos://POOL/CONTAINER/PATH";
                return Err(Failure::usage("neither side of the copy is in a container", remedy));
            }
            (Place::Daos(_), Place::Daos(_)) => {
                let error = Error::new(Code::NotSupported, "copying between containers is not supported yet");
                return Err(error.remedy("copy out to a local directory, then in").into());
            }
        };
        Ok(told(source, &reached, &copied))
    }
}

/// As `cp -r`: into a directory that is there, else under the name given.
async fn copy_in(session: &Session, from: &Path, to: &DaosPath, json: bool) -> Result<(CopyReport, String)> {
    let kind = std::fs::metadata(from).map_err(|e| failure::local("read", from, &e))?;
    let files = mount(session, to, None).await?;
    let mut target = to.clone();
    let there = files.lookup(&to.path).await.map_err(Error::from)?;
    if there.is_some_and(|found| found.is_dir()) {
        // `.` and `/` have no name of their own: their contents go in.
        if let Some(name) = from.file_name() {
            let name = name.to_str().ok_or_else(|| unreadable(from))?;
            target = to.join(name);
        }
    }
    let total = if kind.is_dir() { transfer::size(from).await? } else { kind.len() };
    let bar = progress::bar("copy in", total, json);
    let copied = transfer::copy_in(&files, from, &target.path, &Arc::default(), &bar).await;
    bar.finish_and_clear();
    Ok((copied?, target.to_string()))
}

async fn copy_out(
    session: &Session,
    from: &DaosPath,
    snapshot: Option<&str>,
    to: &Path,
    json: bool,
) -> Result<(CopyReport, String)> {
    let files: Dfs = mount(session, from, snapshot).await?;
    files.stat(&from.path).await.map_err(Error::from)?;
    let mut target: PathBuf = to.to_path_buf();
    if to.is_dir() {
        target.extend(from.name());
    }
    let bar = progress::spinner("copy out", json);
    let copied = transfer::copy_out(&files, &from.path, &target, &bar).await;
    bar.finish_and_clear();
    Ok((copied?, target.display().to_string()))
}

fn unreadable(path: &Path) -> Failure {
    let text = format!("the name of {} is not UTF-8", path.display());
    Failure::Failed(Error::new(Code::Invalid, text).remedy("give the destination a name of its own"))
}

fn told(source: &Place, destination: &str, copied: &CopyReport) -> Outcome {
    let mut text = format!(
        "copied {}, {} and {}: {} in {:.2} s ({:.0} MB/s)\nto {destination}\n",
        count(copied.files, "file"),
        if copied.directories == 1 { "1 directory".to_string() } else { format!("{} directories", copied.directories) },
        count(copied.symlinks, "link"),
        ByteSize(copied.bytes),
        copied.seconds,
        transfer::rate(copied.bytes, copied.seconds),
    );
    for path in &copied.skipped_paths {
        text.push_str(&format!("left out: {path}: a socket, pipe or device\n"));
    }
    let more = copied.skipped - copied.skipped_paths.len() as u64;
    if more > 0 {
        text.push_str(&format!("left out: {more} more\n"));
    }
    if copied.xattrs_skipped > 0 {
        let names = copied.xattr_names_skipped.join(", ");
        text.push_str(&format!(
            "not taken by the destination: {}: {names}\n",
            count(copied.xattrs_skipped, "attribute")
        ));
    }
    let response = json!({
        "source": source.to_string(),
        "destination": destination,
        "copy_stats": {
            "num_dirs": copied.directories,
            "num_files": copied.files,
            "num_links": copied.symlinks,
        },
        "bytes": copied.bytes,
        "seconds": copied.seconds,
        "skipped": copied.skipped,
        "skipped_paths": copied.skipped_paths,
        "xattrs_skipped": copied.xattrs_skipped,
    });
    Outcome::new(response, text)
}

//! `daos quickstart`: in one command, what the whole thing is for.
//!
//! # Steps
//! 1. Open a system: embedded in a directory, or a server started for the occasion ([`child`]).
//! 2. Make a pool and a POSIX container, unless they are there from the last run.
//! 3. Copy the source into a new directory `run-N`; read everything back and compare.
//! 4. Take a snapshot `run-N`; change and delete some files; show that the snapshot has the old ones.
//! 5. Tell what happened, and what to try next ([`summary`]).
//!
//! Nothing here is special: every step is what the other commands do.

mod changes;
mod child;
mod summary;

use std::path::{Path, PathBuf};

use ::daos::EmbeddedOptions;
use clap::Args;
use client::{Container, ContainerSpec};
use dfs::Dfs;
use types::{ByteSize, Code, Error, Layout};

use crate::failure::{self, Failure, Result};
use crate::mount;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::place::DaosPath;
use crate::session::{Session, holds_a_system};
use crate::transfer;
use child::Child;
use summary::{Report, Teller};

const POOL: &str = "quickstart";
const CONTAINER: &str = "files";
const DIRECTORY_DEFAULT: &str = "./daos-data";
/// Storage of a new system: this much beside the source, which is stored with room for some more
/// runs.
const STORAGE_BYTES_MIN: u64 = 2 << 30;
const RUNS_WORTH: u64 = 4;
/// The pool's share of the system's storage, in percent: the rest is for a pool of the user's own.
const POOL_PERCENT: u64 = 75;

#[derive(Args, Debug)]
pub(crate) struct Quickstart {
    /// Directory to copy [default: this repository, when run in it]
    source: Option<PathBuf>,
    /// Where the system keeps its data; another run continues with it
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT)]
    path: PathBuf,
    /// Go through a daos_server, started now and stopped at the end
    // The global option of the same name takes an address; before `quickstart` it still does.
    #[arg(id = "server", long, num_args = 0, default_missing_value = "")]
    server: Option<String>,
}

/// How this run reaches its system.
enum Way {
    Embedded,
    /// A server of our own.
    Child,
    /// A server that runs already.
    Running(String),
}

impl Quickstart {
    pub(crate) async fn run(self, system: &SystemOptions, json: bool) -> Result<Outcome> {
        let way = match self.server.as_deref() {
            None => Way::Embedded,
            Some("") => Way::Child,
            Some(address) => Way::Running(address.to_string()),
        };
        let path = system.embedded.clone().unwrap_or(self.path);
        let source = match self.source {
            Some(source) => source,
            None => workspace()?,
        };
        let tree = transfer::survey(&source, &path)?;
        let teller = Teller::new(json);
        teller.title(&source, &tree);

        let bytes = storage_bytes(tree.bytes, &path, &way)?;
        let mut child = None;
        let session = match &way {
            Way::Embedded => {
                let options = EmbeddedOptions { bytes, ..EmbeddedOptions::default() };
                Session::embedded(&path, options).await?
            }
            Way::Child => {
                let mut started = Child::start(&path, bytes).await?;
                let session = started.connect().await;
                child = Some(started);
                session?
            }
            Way::Running(address) => Session::connect(address, system.sys_name.clone()).await?,
        };
        let report = tour(&session, &way, &path, &source, &tree, &teller).await;
        let closed = session.close().await;
        let stopped = match child {
            Some(child) => child.stop().await,
            None => Ok(()),
        };
        // What went wrong first is what the user should hear.
        let report = report?;
        closed?;
        stopped?;
        Ok(teller.summary(&report))
    }
}

/// This repository's own tree, if that is where we are.
fn workspace() -> Result<PathBuf> {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap_or_default();
    if manifest.contains("[workspace]") {
        return Ok(PathBuf::from("."));
    }
    let error = Error::new(Code::Invalid, "no directory to copy, and this is not the DAOS repository");
    Err(error.remedy("name one: daos quickstart SOURCE_DIR").into())
}

/// Storage for a new system; nothing for one that exists, which stays as it is.
fn storage_bytes(source: u64, path: &Path, way: &Way) -> Result<Option<u64>> {
    if holds_a_system(path) || matches!(way, Way::Running(_)) {
        return Ok(None);
    }
    let wanted = STORAGE_BYTES_MIN + source.saturating_mul(RUNS_WORTH);
    std::fs::create_dir_all(path).map_err(|e| failure::local("create", path, &e))?;
    let free = rt::disk::fs::free_space(path).map_err(|e| Error::new(Code::Io, e.to_string()))?;
    if wanted <= free {
        return Ok(Some(wanted));
    }
    let text = format!("{} has {} free; this needs {}", path.display(), ByteSize(free), ByteSize(wanted));
    Err(Error::new(Code::NoSpace, text).remedy("choose a smaller SOURCE_DIR, or another place with --path DIR").into())
}

/// Everything between opening the system and closing it.
async fn tour(
    session: &Session,
    way: &Way,
    path: &Path,
    source: &Path,
    tree: &transfer::Survey,
    teller: &Teller,
) -> Result<Report> {
    let is_new = ensure_pool(session).await?;
    let container = ensure_container(session).await?;
    let files = Dfs::mount(container.clone()).await.map_err(Error::from)?;
    let run = next_run(&container, &files).await?;
    let name = format!("run-{run}");
    teller.opened(way, path, is_new, run);
    room(session, tree.bytes).await?;

    let place = DaosPath::new(POOL, CONTAINER, &name);
    let bar = teller.bar("copy in", tree.bytes);
    let copied = transfer::copy_in(&files, source, &place.path, &tree.excluded, &bar).await;
    bar.finish_and_clear();
    let copied = copied?;
    teller.copied(&copied);

    let bar = teller.bar("read back", copied.bytes);
    let verified = transfer::verify(&files, source, &place.path, &tree.excluded, &bar).await;
    bar.finish_and_clear();
    let verified = verified?;
    if let Some(difference) = verified.differences.first() {
        let text = format!("what was read back differs from the source: {difference}");
        let remedy = "run it again: the file may have changed meanwhile; if not, report this";
        return Err(Error::new(Code::Mismatch, text).remedy(remedy).into());
    }
    teller.verified(&verified);

    let snapshot = container.create_snapshot(Some(&name)).await?;
    let touched = changes::make(&files, source, &place.path, &tree.files).await?;
    teller.changed(&name, &touched);
    let old = Dfs::mount(container.at(snapshot.epoch)).await.map_err(Error::from)?;
    changes::check(&files, &old, source, &place.path, &touched).await?;
    teller.intact(&touched);

    let info = session.pool_info(POOL).await?;
    Ok(Report {
        path: path.display().to_string(),
        source: source.display().to_string(),
        mode: if matches!(way, Way::Embedded) { "embedded" } else { "server" },
        pool: POOL.to_string(),
        container: CONTAINER.to_string(),
        directory: format!("/{name}"),
        snapshot: name.clone(),
        run,
        files: copied.files,
        directories: copied.directories,
        symlinks: copied.symlinks,
        bytes: copied.bytes,
        in_mb_s: transfer::rate(copied.bytes, copied.seconds),
        out_mb_s: transfer::rate(verified.bytes, verified.seconds),
        verified_files: verified.files,
        changed: touched.changed,
        deleted: touched.deleted,
        snapshot_intact: true,
        space_used: info.space.used,
        space_total: info.space.total,
        next: summary::suggestions(way, path, &name),
    })
}

/// Makes the pool unless it is there. Whether it is new.
async fn ensure_pool(session: &Session) -> Result<bool> {
    if session.pools().await?.iter().any(|pool| pool.label == POOL) {
        return Ok(false);
    }
    let devices = session.storage().await?.devices;
    let least = devices.iter().map(|d| d.total.saturating_sub(d.reserved)).min().unwrap_or(0);
    let bytes = least / 100 * POOL_PERCENT * devices.len() as u64;
    session.create_pool(POOL, bytes, Vec::new()).await?;
    Ok(true)
}

/// Makes the container unless it is there.
async fn ensure_container(session: &Session) -> Result<Container> {
    let pool = session.pool(POOL).await?;
    if let Some(info) = pool.containers().await?.iter().find(|c| c.label == CONTAINER) {
        let container = pool.container(CONTAINER).await?;
        // A run that ended right after making it may not have made its file system.
        mount::format(container.clone(), info).await?;
        return Ok(container);
    }
    let spec = ContainerSpec { layout: Layout::Posix, ..ContainerSpec::labelled(CONTAINER) };
    let info = pool.create_container(spec).await?;
    let container = pool.container(CONTAINER).await?;
    mount::format(container.clone(), &info).await?;
    Ok(container)
}

/// One more than any run that left a directory or a snapshot.
async fn next_run(container: &Container, files: &Dfs) -> Result<u64> {
    let number = |name: &str| name.strip_prefix("run-").and_then(|n| n.parse::<u64>().ok());
    let entries = files.read_dir("/").await.map_err(Error::from)?;
    let directories = entries.iter().filter_map(|e| number(&e.name.to_string_lossy())).max();
    let snapshots = container.snapshots().await?.iter().filter_map(|s| number(&s.name)).max();
    Ok(directories.max(snapshots).unwrap_or(0) + 1)
}

/// Fails early when the source cannot fit, rather than in the middle of the copy.
async fn room(session: &Session, bytes: u64) -> Result<()> {
    let space = session.pool_info(POOL).await?.space;
    let free = space.total.saturating_sub(space.used);
    if bytes <= free {
        return Ok(());
    }
    let text = format!("pool '{POOL}' has {} free, and the source has {}", ByteSize(free), ByteSize(bytes));
    let error = Error::new(Code::NoSpace, text);
    Err(Failure::Failed(error.remedy("start afresh in another place with --path DIR, or remove this one")))
}

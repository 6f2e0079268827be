//! `daos quickstart`: in one command, what the whole thing is for.
//!
//! # Steps
//! 1. Open a system: embedded in a directory, or a server started for the occasion ([`child`]), or several ([`cluster`]).
//! 2. Make a pool and a POSIX container, unless they are there from the last run.
//! 3. Copy the source into a new directory `run-N`; read everything back and compare.
//!    Of several servers, one is killed in the middle of the copy. What is read back, is read without it; then it is started
//!    again, gets what it missed, and everything is read once more.
//! 4. Take a snapshot `run-N`; change and delete some files; show that the snapshot has the old ones.
//! 5. Tell what happened, and what to try next ([`summary`]).
//!
//! Nothing here is special: every step is what the other commands do.

mod changes;
mod child;
mod cluster;
mod summary;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;

use ::daos::EmbeddedOptions;
use clap::Args;
use client::{Container, ContainerSpec};
use dfs::compare::Comparison;
use dfs::{CopyReport, Dfs};
use types::{ByteSize, Code, Error, Layout};

use crate::failure::{self, Failure, Result};
use crate::mount;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::place::DaosPath;
use crate::session::{Asks, Session, holds_a_system};
use crate::transfer;
use child::{Child, ChildOptions};
use cluster::Cluster;
use summary::{Lived, Report, Teller};

const POOL: &str = "quickstart";
const CONTAINER: &str = "files";
const DIRECTORY_DEFAULT: &str = "./daos-data";
/// Of several servers: another system, so another place.
const SERVERS_DIRECTORY_DEFAULT: &str = "./daos-servers";
/// Storage of a new system: this much beside the source, which is stored with room for some more runs. It is taken from the
/// file system at once.
const STORAGE_BYTES_MIN: u64 = 1 << 30;
/// Of each of several servers, for each of its targets.
const TARGET_BYTES_MIN: u64 = 256 << 20;
const RUNS_WORTH: u64 = 4;
/// What a file takes beside its bytes.
const FILE_BYTES: u64 = 4 << 10;
/// The pool's share of the system's storage, in percent: the rest is for a pool of the user's own.
const POOL_PERCENT: u64 = 75;

#[derive(Args, Debug)]
pub(crate) struct Quickstart {
    /// Directory to copy [default: this repository, when run in it]
    source: Option<PathBuf>,
    /// Where the system keeps its data; another run continues with it [default: ./daos-data; of several servers
    /// ./daos-servers]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Go through so many daos_servers, which keep copies of everything, and kill one of them meanwhile
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(2..=5), conflicts_with = "server")]
    servers: Option<u8>,
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
    /// Several of them.
    Cluster(usize),
    /// A server that runs already.
    Running(String),
}

impl Quickstart {
    pub(crate) async fn run(self, system: &SystemOptions, json: bool) -> Result<Outcome> {
        let way = match (self.servers, self.server.as_deref()) {
            (Some(count), _) => Way::Cluster(count.into()),
            (None, None) => Way::Embedded,
            (None, Some("")) => Way::Child,
            (None, Some(address)) => Way::Running(address.to_string()),
        };
        let default = if self.servers.is_some() { SERVERS_DIRECTORY_DEFAULT } else { DIRECTORY_DEFAULT };
        let path = system.embedded.clone().or(self.path).unwrap_or_else(|| default.into());
        let source = match self.source {
            Some(source) => source,
            None => workspace()?,
        };
        let tree = transfer::survey(&source, &path, &[DIRECTORY_DEFAULT, SERVERS_DIRECTORY_DEFAULT])?;
        let teller = Teller::new(json);
        teller.title(&source, &tree);

        let bytes = storage_bytes(&tree, &path, &way)?;
        let place = Place { way: &way, path: &path, source: &source, tree: &tree };
        let report = match &way {
            Way::Embedded => {
                let options = EmbeddedOptions { bytes, ..EmbeddedOptions::default() };
                let session = Session::embedded(&path, options).await?;
                let report = tour(&session, &place, None, &teller).await;
                finished(report, session.close().await)
            }
            Way::Running(address) => {
                let session = Session::connect(address, system.sys_name.clone(), Asks::Leader).await?;
                let report = tour(&session, &place, None, &teller).await;
                finished(report, session.close().await)
            }
            Way::Child => {
                let mut child = Child::start(&path, &ChildOptions { bytes, ..ChildOptions::default() })?;
                let report = unless_interrupted(async {
                    let session = child.connect().await?;
                    let report = tour(&session, &place, None, &teller).await;
                    finished(report, session.close().await)
                });
                let report = report.await;
                finished(report, child.stop().await)
            }
            Way::Cluster(count) => {
                let mut cluster = Cluster::prepare(&path, *count, bytes.unwrap_or(TARGET_BYTES_MIN))?;
                let report = unless_interrupted(async {
                    let session = cluster.start().await?;
                    let report = tour(&session, &place, Some(&mut cluster), &teller).await;
                    finished(report, session.close().await)
                });
                let report = report.await;
                finished(report, cluster.stop().await)
            }
        };
        Ok(teller.summary(&report?))
    }
}

/// What went wrong first is what the user should hear.
fn finished<T>(result: Result<T>, end: Result<()>) -> Result<T> {
    result.and_then(|value| end.map(|()| value))
}

/// Breaks off on SIGINT and SIGTERM, so that servers of ours are stopped and not left behind.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut work, mut stop) = (pin!(work), pin!(rt::stop_requested()));
    std::future::poll_fn(|context| {
        if let Poll::Ready(result) = work.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        stop.as_mut().poll(context).map(|_| {
            let error = Error::new(Code::Canceled, "interrupted; what was acknowledged is stored");
            Err(error.remedy("run it again: it goes on with what is there").into())
        })
    })
    .await
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
fn storage_bytes(source: &transfer::Survey, path: &Path, way: &Way) -> Result<Option<u64>> {
    let least = match way {
        Way::Cluster(count) => u64::from(cluster::targets_of_each(*count)) * TARGET_BYTES_MIN,
        Way::Embedded | Way::Child | Way::Running(_) => STORAGE_BYTES_MIN,
    };
    let one_run = source.bytes.saturating_add(source.files.len() as u64 * FILE_BYTES);
    let wanted = least.saturating_add(one_run.saturating_mul(RUNS_WORTH));
    let servers = match way {
        Way::Running(_) => return Ok(None),
        // A run that was broken off may have left some of them without storage.
        Way::Cluster(_) if cluster::servers_in(path) > 0 => return Ok(Some(wanted)),
        _ if cluster::servers_in(path) > 0 => {
            let text = format!("{} holds a system of several servers", path.display());
            let remedy = format!("go on with it by --servers {}, or choose another --path", cluster::servers_in(path));
            return Err(Error::new(Code::Invalid, text).remedy(remedy).into());
        }
        Way::Cluster(count) => *count as u64,
        _ if holds_a_system(path) => return Ok(None),
        _ => 1,
    };
    std::fs::create_dir_all(path).map_err(|e| failure::local("create", path, &e))?;
    let free = rt::disk::fs::free_space(path).map_err(|e| Error::new(Code::Io, e.to_string()))?;
    let needed = wanted.saturating_mul(servers);
    if needed <= free {
        return Ok(Some(wanted));
    }
    let text = format!("{} has {} free; this needs {}", path.display(), ByteSize(free), ByteSize(needed));
    Err(Error::new(Code::NoSpace, text).remedy("choose a smaller SOURCE_DIR, or another place with --path DIR").into())
}

/// What is copied, and to where.
struct Place<'a> {
    way: &'a Way,
    path: &'a Path,
    source: &'a Path,
    tree: &'a transfer::Survey,
}

/// Everything between opening the system and closing it.
async fn tour(session: &Session, at: &Place<'_>, mut cluster: Option<&mut Cluster>, teller: &Teller) -> Result<Report> {
    let Place { way, path, source, tree } = *at;
    let copies = cluster.as_ref().map_or(1, |cluster| cluster.copies());
    let is_new = ensure_pool(session).await?;
    if let Some(cluster) = &mut cluster {
        // A run that was broken off may have left one behind with less than the others.
        cluster.until_whole(session).await?;
    }
    let container = ensure_container(session, copies).await?;
    let files = Dfs::mount(container.clone()).await.map_err(Error::from)?;
    let run = next_run(&container, &files).await?;
    let name = format!("run-{run}");
    teller.opened(way, path, copies, is_new, run);
    room(session, tree.bytes, copies).await?;

    let directory = DaosPath::new(POOL, CONTAINER, &name).path;
    let (copied, killed) = match &mut cluster {
        None => (copy_in(&files, at, &directory, teller, |_| {}).await?, None),
        Some(cluster) => {
            let (ambush, watch) = cluster.ambush(tree.bytes);
            let copied = copy_in(&files, at, &directory, teller, watch).await?;
            (copied, Some(cluster.bury(&ambush, session).await?))
        }
    };
    let verified = match (&mut cluster, killed) {
        (Some(cluster), Some(killed)) => {
            teller.killed(&killed);
            teller.copied(&copied);
            let without = read_back(&files, at, &directory, teller).await?;
            teller.verified_without(&without, killed.rank);
            let seconds = cluster.bring_back(session).await?;
            teller.brought_back(killed.rank, seconds);
            let verified = read_back(&files, at, &directory, teller).await?;
            teller.verified(&verified);
            let lived = Lived {
                servers: cluster.count(),
                copies,
                killed_rank: killed.rank.0,
                killed_after_bytes: killed.after_bytes,
                verified_files_without: without.files,
                back_in_service_s: seconds,
            };
            (verified, Some(lived))
        }
        _ => {
            teller.copied(&copied);
            let verified = read_back(&files, at, &directory, teller).await?;
            teller.verified(&verified);
            (verified, None)
        }
    };
    let (verified, lived) = verified;

    let snapshot = container.create_snapshot(Some(&name)).await?;
    let touched = changes::make(&files, source, &directory, &tree.files).await?;
    teller.changed(&name, &touched);
    let old = Dfs::mount(container.at(snapshot.epoch)).await.map_err(Error::from)?;
    changes::check(&files, &old, source, &directory, &touched).await?;
    teller.intact(&touched);

    let info = session.pool_info(POOL).await?;
    Ok(Report {
        path: path.display().to_string(),
        source: source.display().to_string(),
        mode: match way {
            Way::Embedded => "embedded",
            Way::Child | Way::Running(_) => "server",
            Way::Cluster(_) => "servers",
        },
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
        lived,
        changed: touched.changed,
        deleted: touched.deleted,
        snapshot_intact: true,
        space_used: info.space.used,
        space_total: info.space.total,
        next: summary::suggestions(way, path, source, &name),
    })
}

/// Copies the source to `directory`; `watch` is told the bytes as they come.
async fn copy_in(
    files: &Dfs,
    at: &Place<'_>,
    directory: &str,
    teller: &Teller,
    watch: impl Fn(u64) + Send + Sync + 'static,
) -> Result<CopyReport> {
    let bar = teller.bar("copy in", at.tree.bytes);
    let copied = transfer::copy_in_watched(files, at.source, directory, &at.tree.excluded, &bar, watch).await;
    bar.finish_and_clear();
    copied
}

/// Reads everything in `directory` back.
///
/// # Errors
/// `Mismatch`: it differs from the source.
async fn read_back(files: &Dfs, at: &Place<'_>, directory: &str, teller: &Teller) -> Result<Comparison> {
    let bar = teller.bar("read back", at.tree.bytes);
    let verified = transfer::verify(files, at.source, directory, &at.tree.excluded, &bar).await;
    bar.finish_and_clear();
    let verified = verified?;
    match verified.differences.first() {
        None => Ok(verified),
        Some(difference) => {
            let text = format!("what was read back differs from the source: {difference}");
            let remedy = "run it again: the file may have changed meanwhile; if not, report this";
            Err(Error::new(Code::Mismatch, text).remedy(remedy).into())
        }
    }
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

/// Makes the container, with `copies` of everything, unless it is there.
async fn ensure_container(session: &Session, copies: u32) -> Result<Container> {
    let pool = session.pool(POOL).await?;
    if let Some(info) = pool.containers().await?.iter().find(|c| c.label == CONTAINER) {
        let container = pool.container(CONTAINER).await?;
        // A run that ended right after making it may not have made its file system.
        mount::format(container.clone(), info).await?;
        return Ok(container);
    }
    let properties = match copies {
        1 => Vec::new(),
        _ => vec![("rd_fac".to_string(), (copies - 1).to_string())],
    };
    let spec = ContainerSpec { layout: Layout::Posix, properties, ..ContainerSpec::labelled(CONTAINER) };
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
async fn room(session: &Session, bytes: u64, copies: u32) -> Result<()> {
    let bytes = bytes.saturating_mul(copies.into());
    let space = session.pool_info(POOL).await?.space;
    let free = space.total.saturating_sub(space.used);
    if bytes <= free {
        return Ok(());
    }
    let text = format!("pool '{POOL}' has {} free, and the source needs {}", ByteSize(free), ByteSize(bytes));
    let error = Error::new(Code::NoSpace, text);
    Err(Failure::Failed(error.remedy("start afresh in another place with --path DIR, or remove this one")))
}

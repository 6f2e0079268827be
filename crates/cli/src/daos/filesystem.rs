//! `daos filesystem`: files and directories of POSIX containers.

use std::os::unix::ffi::OsStrExt;

use clap::{Args, Subcommand};
use dfs::{Kind, Metadata, Timestamp};
use serde::Serialize;
use serde_json::json;
use types::{ByteSize, Code, Epoch, Error, VALUE_BYTES_MAX};

use super::copy::Copy;
use crate::encoded::Encoded;
use crate::failure::{Failure, Result};
use crate::mount::mount;
use crate::options::SystemOptions;
use crate::output::{Outcome, write_raw};
use crate::place::DaosPath;
use crate::session::{self, Missing, Session};
use crate::show::time;
use crate::table::{pairs, table};

/// How much of a file is read at a time.
const READ_BYTES: usize = 4 << 20;

/// A place in a container.
#[derive(Args, Debug)]
pub(crate) struct Where {
    /// daos://POOL/CONTAINER/PATH, or the three as words
    #[arg(value_name = "PLACE", required = true, num_args = 1..=3)]
    words: Vec<String>,
}

impl Where {
    fn path(&self) -> Result<DaosPath> {
        DaosPath::from_words(&self.words).map_err(|e| Failure::usage(e, "see `daos filesystem --help`"))
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Copy files and directories into a container, out of it, or between containers
    #[command(visible_alias = "cp")]
    Copy(Box<Copy>),
    /// List a directory
    Ls {
        #[command(flatten)]
        place: Where,
        /// Also show mode, owner, size and time
        #[arg(short, long)]
        long: bool,
        /// As it was at a snapshot, by name or epoch
        #[arg(long, value_name = "SNAPSHOT")]
        snap: Option<String>,
    },
    /// Print a file
    Cat {
        #[command(flatten)]
        place: Where,
        /// As it was at a snapshot, by name or epoch
        #[arg(long, value_name = "SNAPSHOT")]
        snap: Option<String>,
    },
    /// Remove a file, a symbolic link, or with -r a directory and all in it
    Rm {
        #[command(flatten)]
        place: Where,
        /// Also directories, with all in them
        #[arg(short, long)]
        recursive: bool,
    },
    /// Make a directory
    Mkdir {
        #[command(flatten)]
        place: Where,
        /// Also its parents; one that exists is no error
        #[arg(short, long)]
        parents: bool,
    },
    /// Show what is known of a file or directory
    Stat {
        #[command(flatten)]
        place: Where,
        /// As it was at a snapshot, by name or epoch
        #[arg(long, value_name = "SNAPSHOT")]
        snap: Option<String>,
    },
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions, json: bool) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| match &self {
            Verb::Copy(copy) => copy.run(session, json).await,
            Verb::Ls { place, long, snap } => list(session, &place.path()?, *long, snap.as_deref()).await,
            Verb::Cat { place, snap } => cat(session, &place.path()?, snap.as_deref(), json).await,
            Verb::Rm { place, recursive } => remove(session, &place.path()?, *recursive).await,
            Verb::Mkdir { place, parents } => {
                let place = place.path()?;
                let files = mount(session, &place, None).await?;
                match parents {
                    true => files.mkdir_all(&place.path, DIRECTORY_MODE).await,
                    false => files.mkdir(&place.path, DIRECTORY_MODE).await,
                }
                .map_err(Error::from)?;
                Ok(Outcome::new(json!({ "path": place.to_string() }), ""))
            }
            Verb::Stat { place, snap } => stat(session, &place.path()?, snap.as_deref()).await,
        })
        .await
    }
}

/// Permissions of directories made by hand.
const DIRECTORY_MODE: u32 = 0o755;

#[derive(Serialize)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    /// Where a symbolic link leads.
    target: Option<String>,
}

async fn list(session: &Session, place: &DaosPath, long: bool, snapshot: Option<&str>) -> Result<Outcome> {
    let files = mount(session, place, snapshot).await?;
    let found = files.stat(&place.path).await.map_err(Error::from)?;
    let mut entries = Vec::new();
    if found.is_dir() {
        for entry in files.read_dir_plus(&place.path).await.map_err(Error::from)? {
            let name = entry.name.to_string_lossy().into_owned();
            let target = match entry.metadata.kind {
                Kind::Symlink => {
                    let link = place.join(&name);
                    Some(files.readlink(&link.path).await.map_err(Error::from)?.display().to_string())
                }
                _ => None,
            };
            entries.push(line(name, &entry.metadata, target));
        }
    } else {
        entries.push(line(place.name().unwrap_or("/").to_string(), &found, None));
    }
    let text = if long {
        table(&["Mode", "Owner>", "Group>", "Size>", "Modified", "Name"], entries.iter().map(long_row).collect())
    } else {
        entries.iter().map(|e| format!("{}{}\n", e.name, if e.kind == "directory" { "/" } else { "" })).collect()
    };
    Ok(Outcome::new(json!({ "path": place.to_string(), "entries": entries }), text))
}

fn line(name: String, metadata: &Metadata, target: Option<String>) -> Entry {
    Entry {
        name,
        kind: kind(metadata.kind),
        mode: mode(metadata),
        uid: metadata.uid,
        gid: metadata.gid,
        size: metadata.size,
        mtime: timestamp(metadata.modified),
        target,
    }
}

fn long_row(entry: &Entry) -> Vec<String> {
    let name = match &entry.target {
        Some(target) => format!("{} -> {target}", entry.name),
        None => entry.name.clone(),
    };
    let letter = entry.kind.chars().next().filter(|c| *c != 'f').map_or('-', |c| if c == 's' { 'l' } else { c });
    let bits = u32::from_str_radix(&entry.mode, 8).unwrap_or(0);
    let size = ByteSize(entry.size).to_string();
    let when = entry.mtime.get(..19).unwrap_or_default().replace('T', " ");
    vec![format!("{letter}{}", permissions(bits)), entry.uid.to_string(), entry.gid.to_string(), size, when, name]
}

/// `rwxr-xr-x`.
fn permissions(bits: u32) -> String {
    (0..9).map(|i| if bits & (0o400 >> i) != 0 { char::from(b"rwx"[i % 3]) } else { '-' }).collect()
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    }
}

fn mode(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.mode)
}

/// RFC 3339. Before 1970 shows as 1970: nothing here was written then.
fn timestamp(time_of: Timestamp) -> String {
    let micros = u64::try_from(time_of.seconds).unwrap_or(0) * 1_000_000 + u64::from(time_of.nanos) / 1000;
    time(Epoch::from_micros(micros, 0))
}

async fn cat(session: &Session, place: &DaosPath, snapshot: Option<&str>, json: bool) -> Result<Outcome> {
    let files = mount(session, place, snapshot).await?;
    let file = files.open(&place.path, &dfs::OpenOptions::new()).await.map_err(Error::from)?;
    let size = file.size().await.map_err(Error::from)?;
    if json && size > VALUE_BYTES_MAX as u64 {
        let error = Error::new(Code::ValueTooBig, format!("{place}: {} is too much for JSON", ByteSize(size)));
        return Err(error.remedy("leave --json out, or use `daos filesystem copy`").into());
    }
    let mut content = Vec::new();
    let mut offset = 0;
    loop {
        let piece = file.read(offset, READ_BYTES).await.map_err(Error::from)?;
        if piece.is_empty() {
            break;
        }
        offset += piece.len() as u64;
        if json { content.extend_from_slice(&piece) } else { write_raw(&piece)? }
    }
    let Encoded { value, encoding } = Encoded::new(&content);
    Ok(Outcome::new(json!({ "path": place.to_string(), "bytes": offset, "value": value, "encoding": encoding }), ""))
}

async fn remove(session: &Session, place: &DaosPath, recursive: bool) -> Result<Outcome> {
    let files = mount(session, place, None).await?;
    let found = files.lstat(&place.path).await.map_err(Error::from)?;
    match (found.is_dir(), recursive) {
        (true, false) => {
            let error = Error::new(Code::Invalid, format!("{place} is a directory"));
            return Err(error.remedy("use -r to remove it with all in it").into());
        }
        (true, true) => drop(files.remove_tree(&place.path).await.map_err(Error::from)?),
        (false, _) => files.unlink(&place.path).await.map_err(Error::from)?,
    }
    Ok(Outcome::new(json!({ "path": place.to_string() }), ""))
}

async fn stat(session: &Session, place: &DaosPath, snapshot: Option<&str>) -> Result<Outcome> {
    let files = mount(session, place, snapshot).await?;
    let found = files.lstat(&place.path).await.map_err(Error::from)?;
    let target = match found.kind {
        Kind::Symlink => {
            let target = files.readlink(&place.path).await.map_err(Error::from)?;
            Some(String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned())
        }
        _ => None,
    };
    let class = found.class.map_or(String::new(), |class| class.to_string());
    let response = json!({
        "path": place.to_string(),
        "type": kind(found.kind),
        "mode": mode(&found),
        "uid": found.uid,
        "gid": found.gid,
        "size": found.size,
        "links": found.links,
        "mtime": timestamp(found.modified),
        "atime": timestamp(found.accessed),
        "ctime": timestamp(found.changed),
        "birth": timestamp(found.created),
        "oid": found.oid.to_string(),
        "chunk_size": found.chunk_bytes,
        "object_class": class,
        "target": target,
    });
    let mut rows = vec![
        ("Path", place.to_string()),
        ("Type", kind(found.kind).to_string()),
        ("Size", format!("{} ({})", found.size, ByteSize(found.size))),
        ("Mode", format!("{} {}", mode(&found), permissions(found.mode))),
        ("Owner", format!("{}:{}", found.uid, found.gid)),
        ("Modified", timestamp(found.modified)),
        ("Changed", timestamp(found.changed)),
        ("Created", timestamp(found.created)),
        ("Object", found.oid.to_string()),
    ];
    if found.kind == Kind::File {
        rows.push(("Class", format!("{class}, chunks of {}", ByteSize(found.chunk_bytes))));
    }
    rows.extend(target.map(|target| ("Target", target)));
    Ok(Outcome::new(response, pairs(&rows)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_ls_prints_them() {
        assert_eq!((permissions(0o755).as_str(), permissions(0o640).as_str()), ("rwxr-xr-x", "rw-r-----"));
    }
}

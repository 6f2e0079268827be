//! The same random calls on a directory of the host and on a `Dfs`: results and trees must agree.
//!
//! Shared by this crate's tests (store in memory) and those of `daos` (a whole system).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dfs::{Dfs, Dir, Follow, Kind, OpenOptions, SetXattr, Timestamp};
use rt::Rng;

/// One call, on a path relative to the root.
#[derive(Debug, Clone)]
pub enum Call {
    Mkdir(String, u32),
    MkdirAll(String),
    Write { path: String, offset: u64, bytes: usize, seed: u64 },
    CreateNew(String),
    Append { path: String, bytes: usize, seed: u64 },
    Truncate(String, u64),
    Unlink(String),
    Rmdir(String),
    Rename(String, String),
    Symlink(String, String),
    Readlink(String),
    Chmod(String, u32),
    Utimens(String, i64, u32),
    Read(String, u64, usize),
    Stat(String),
    Lstat(String),
    List(String),
    SetXattr { path: String, name: &'static str, value: String, how: SetXattr },
    RemoveXattr(String, &'static str),
    RemoveTree(String),
}

/// What a call gave: an errno, or something to compare.
pub type Outcome = Result<String, i32>;

/// A random path: few names, so that calls meet.
pub fn path(rng: &mut Rng) -> String {
    const NAMES: [&str; 7] = ["a", "b", "c", "d", "é", "a b", "x.tar"];
    let mut path = String::new();
    for i in 0..=rng.below(3) {
        if i > 0 {
            path.push('/');
        }
        match rng.below(40) {
            0 => path.push_str(".."),
            1 => path.push('.'),
            n => path.push_str(NAMES[n as usize % NAMES.len()]),
        }
    }
    if rng.chance(0.03) {
        path.push('/');
    }
    path
}

impl Call {
    pub fn random(rng: &mut Rng) -> Call {
        const XATTRS: [&str; 3] = ["user.one", "user.two", "user.three"];
        let at = path(rng);
        match rng.below(34) {
            0..=3 => Call::Mkdir(at, [0o755, 0o700, 0o1777, 0o500][rng.below(4) as usize]),
            4 => Call::MkdirAll(at),
            5..=8 => {
                let offset = [0, 0, 1, 4096, 100_000, 1 << 20][rng.below(6) as usize];
                let bytes = [0, 1, 10, 4095, 4097, 70_000][rng.below(6) as usize];
                Call::Write { path: at, offset, bytes, seed: rng.next_u64() }
            }
            9..=10 => Call::CreateNew(at),
            11 => Call::Append { path: at, bytes: rng.below(300) as usize, seed: rng.next_u64() },
            12 => Call::Truncate(at, [0, 1, 5, 4096, 50_000, 1 << 20, (1 << 20) + 1][rng.below(7) as usize]),
            13..=14 => Call::Unlink(at),
            15..=16 => Call::Rmdir(at),
            17..=21 => Call::Rename(at, path(rng)),
            22..=23 => {
                let target = match rng.below(4) {
                    0 => format!("../{}", path(rng)),
                    _ => path(rng),
                };
                Call::Symlink(target, at)
            }
            24 => Call::Readlink(at),
            25 => Call::Chmod(at, [0o644, 0o755, 0o600, 0o4711, 0o000][rng.below(5) as usize]),
            26 => Call::Utimens(at, rng.below(2_000_000_000) as i64, rng.below(1_000_000_000) as u32),
            27 => Call::Read(at, rng.below(5000), rng.below(200_000) as usize),
            28 => Call::Stat(at),
            29 => Call::Lstat(at),
            30 => Call::List(at),
            31..=32 => Call::SetXattr {
                path: at,
                name: XATTRS[rng.below(3) as usize],
                value: "v".repeat(rng.below(40) as usize),
                how: [SetXattr::Any, SetXattr::Any, SetXattr::Create, SetXattr::Replace][rng.below(4) as usize],
            },
            _ if rng.chance(0.5) => Call::RemoveXattr(at, XATTRS[rng.below(3) as usize]),
            _ => Call::RemoveTree(at),
        }
    }

    pub async fn on_dfs(&self, fs: &Dir) -> Outcome {
        let done = |outcome: dfs::Result<()>| outcome.map(|()| String::new());
        let outcome = match self {
            Call::Mkdir(path, mode) => fs.mkdir(path, *mode).await.map(|_| String::new()),
            Call::MkdirAll(path) => fs.mkdir_all(path, 0o755).await.map(|_| String::new()),
            Call::Write { path, offset, bytes, seed } => {
                let options = OpenOptions::new().write(true).create(true);
                match fs.open(path, &options).await {
                    Ok(file) => done(file.write(*offset, &content(*bytes, *seed)).await),
                    Err(error) => Err(error),
                }
            }
            Call::CreateNew(path) => {
                let options = OpenOptions::new().write(true).create_new(true);
                fs.open(path, &options).await.map(|_| String::new())
            }
            Call::Append { path, bytes, seed } => match fs.open(path, &OpenOptions::new().append(true)).await {
                Ok(file) => done(file.write(0, &content(*bytes, *seed)).await),
                Err(error) => Err(error),
            },
            Call::Truncate(path, bytes) => match fs.open(path, &OpenOptions::new().write(true)).await {
                Ok(file) => done(file.truncate(*bytes).await),
                Err(error) => Err(error),
            },
            Call::Unlink(path) => done(fs.unlink(path).await),
            Call::Rmdir(path) => done(fs.rmdir(path).await),
            Call::Rename(from, to) => done(fs.rename(from, to).await),
            Call::Symlink(target, path) => done(fs.symlink(target, path).await),
            Call::Readlink(path) => fs.readlink(path).await.map(|target| target.display().to_string()),
            Call::Chmod(path, mode) => done(fs.chmod(path, *mode).await),
            Call::Utimens(path, seconds, nanos) => {
                let time = Timestamp::new(*seconds, *nanos);
                match fs.utimens(path, Some(time), Some(time)).await {
                    Ok(()) => fs.stat(path).await.map(|stat| format!("{:?}", stat.modified)),
                    Err(error) => Err(error),
                }
            }
            Call::Read(path, offset, len) => match fs.open(path, &OpenOptions::new()).await {
                Ok(file) => file.read(*offset, *len).await.map(|bytes| digest(&bytes)),
                Err(error) => Err(error),
            },
            Call::Stat(path) => fs.stat(path).await.map(|stat| shown(stat.kind, stat.mode, stat.size)),
            Call::Lstat(path) => fs.lstat(path).await.map(|stat| shown(stat.kind, stat.mode, stat.size)),
            Call::List(path) => fs.read_dir(path).await.map(|entries| {
                let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
                names.sort();
                format!("{names:?}")
            }),
            Call::SetXattr { path, name, value, how } => done(fs.set_xattr(path, Follow::Yes, name, value, *how).await),
            Call::RemoveXattr(path, name) => done(fs.remove_xattr(path, Follow::Yes, name).await),
            Call::RemoveTree(path) => match is_plain(path) {
                true => fs.remove_tree(path).await.map(|_| String::new()),
                false => Ok(String::new()),
            },
        };
        outcome.map_err(|error| error.errno())
    }

    pub fn on_host(&self, root: &Path) -> Outcome {
        use std::fs;
        let at = |path: &str| host_path(root, path);
        let done = |outcome: std::io::Result<()>| outcome.map(|()| String::new());
        let outcome = match self {
            Call::Mkdir(path, mode) => fs::create_dir(at(path)).and_then(|()| {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
                Ok(String::new())
            }),
            Call::MkdirAll(path) => done(host_mkdir_all(root, path)),
            Call::Write { path, offset, bytes, seed } => {
                let file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o644)
                    .open(at(path));
                file.and_then(|file| file.write_all_at(&content(*bytes, *seed), *offset)).map(|()| String::new())
            }
            Call::CreateNew(path) => {
                let options = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(at(path));
                options.map(|_| String::new())
            }
            Call::Append { path, bytes, seed } => {
                let file = fs::OpenOptions::new().append(true).read(true).open(at(path));
                file.and_then(|mut file| std::io::Write::write_all(&mut file, &content(*bytes, *seed)))
                    .map(|()| String::new())
            }
            Call::Truncate(path, bytes) => {
                let file = fs::OpenOptions::new().read(true).write(true).open(at(path));
                file.and_then(|file| file.set_len(*bytes)).map(|()| String::new())
            }
            Call::Unlink(path) => done(rustix::fs::unlink(at(path)).map_err(Into::into)),
            Call::Rmdir(path) => done(rustix::fs::rmdir(at(path)).map_err(Into::into)),
            Call::Rename(from, to) => done(fs::rename(at(from), at(to))),
            Call::Symlink(target, path) => done(std::os::unix::fs::symlink(target, at(path))),
            Call::Readlink(path) => fs::read_link(at(path)).map(|target| target.display().to_string()),
            Call::Chmod(path, mode) => done(fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))),
            Call::Utimens(path, seconds, nanos) => {
                let time = rustix::fs::Timespec { tv_sec: *seconds, tv_nsec: i64::from(*nanos) };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                let set = rustix::fs::utimensat(rustix::fs::CWD, at(path), &times, rustix::fs::AtFlags::empty());
                set.map(|()| format!("{:?}", Timestamp::new(*seconds, *nanos))).map_err(Into::into)
            }
            Call::Read(path, offset, len) => host_read(&at(path), *offset, *len),
            Call::Stat(path) => fs::metadata(at(path)).map(|stat| host_shown(&stat)),
            Call::Lstat(path) => fs::symlink_metadata(at(path)).map(|stat| host_shown(&stat)),
            Call::List(path) => fs::read_dir(at(path)).map(|entries| {
                let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                format!("{names:?}")
            }),
            Call::SetXattr { path, name, value, how } => {
                let flags = match how {
                    SetXattr::Any => rustix::fs::XattrFlags::empty(),
                    SetXattr::Create => rustix::fs::XattrFlags::CREATE,
                    SetXattr::Replace => rustix::fs::XattrFlags::REPLACE,
                };
                done(rustix::fs::setxattr(at(path), *name, value.as_bytes(), flags).map_err(Into::into))
            }
            Call::RemoveXattr(path, name) => done(rustix::fs::removexattr(at(path), *name).map_err(Into::into)),
            Call::RemoveTree(path) => match is_plain(path) {
                true => done(host_remove_tree(&at(path))),
                false => Ok(String::new()),
            },
        };
        outcome.map_err(|error| error.raw_os_error().unwrap_or(-1))
    }
}

fn is_plain(path: &str) -> bool {
    !path.ends_with('/') && path.split('/').all(|piece| piece != "." && piece != "..")
}

fn host_path(root: &Path, path: &str) -> PathBuf {
    // `Path::join` would drop a trailing `/.`, which means something to the kernel.
    let mut joined = root.as_os_str().to_owned();
    joined.push("/");
    joined.push(path);
    PathBuf::from(joined)
}

fn host_mkdir_all(root: &Path, path: &str) -> std::io::Result<()> {
    let mut at = root.as_os_str().to_owned();
    for piece in path.split('/').filter(|piece| !piece.is_empty()) {
        at.push("/");
        at.push(piece);
        match std::fs::metadata(&at) {
            Ok(stat) if stat.is_dir() => {}
            Ok(_) => return Err(std::io::Error::from_raw_os_error(20)),
            Err(error) if error.raw_os_error() == Some(2) => std::fs::create_dir(&at)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn host_remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path)?.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    }
}

fn host_read(path: &Path, offset: u64, len: usize) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::from_raw_os_error(21));
    }
    let (mut buffer, mut got) = (vec![0; len], 0);
    while got < len {
        match file.read_at(&mut buffer[got..], offset + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    Ok(digest(&buffer[..got]))
}

fn host_shown(stat: &std::fs::Metadata) -> String {
    let kind = match stat.file_type() {
        t if t.is_dir() => Kind::Directory,
        t if t.is_symlink() => Kind::Symlink,
        _ => Kind::File,
    };
    shown(kind, stat.permissions().mode() & 0o7777, stat.len())
}

fn shown(kind: Kind, mode: u32, size: u64) -> String {
    match kind {
        Kind::Directory => format!("directory {mode:o}"),
        Kind::Symlink => format!("symlink {size}"),
        Kind::File => format!("file {mode:o} {size}"),
    }
}

pub fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; bytes];
    Rng::seeded(seed).fill(&mut content);
    content
}

fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    format!("{} bytes {sum:x}", bytes.len())
}

/// Path to everything that must agree of the entry there.
pub type Tree = BTreeMap<Vec<u8>, String>;

pub async fn dfs_tree(fs: &Dfs) -> Tree {
    let mut tree = Tree::new();
    let mut ahead = vec![PathBuf::from("/")];
    while let Some(directory) = ahead.pop() {
        for entry in fs.read_dir_plus(&directory).await.expect("a directory lists") {
            let path = directory.join(&entry.name);
            let stat = fs.lstat(&path).await.expect("a listed name is there");
            assert_eq!(stat, entry.metadata, "a listing tells what stat tells");
            let mut line = shown(stat.kind, stat.mode, stat.size);
            match stat.kind {
                Kind::Directory => ahead.push(path.clone()),
                Kind::Symlink => line += &format!(" -> {}", fs.readlink(&path).await.unwrap().display()),
                Kind::File => line += &format!(" {}", digest(&fs.read(&path).await.unwrap())),
            }
            for (name, value) in fs.xattrs(&path, Follow::No).await.unwrap() {
                line += &format!(" {}={:?}", String::from_utf8_lossy(&name), value);
            }
            tree.insert(path.strip_prefix("/").unwrap().as_os_str().as_bytes().to_vec(), line);
        }
    }
    tree
}

pub fn host_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut ahead = vec![root.to_path_buf()];
    while let Some(directory) = ahead.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let mut line = host_shown(&stat);
            if stat.is_dir() {
                ahead.push(path.clone());
            } else if stat.is_symlink() {
                line += &format!(" -> {}", std::fs::read_link(&path).unwrap().display());
            } else {
                line += &format!(" {}", digest(&std::fs::read(&path).unwrap()));
            }
            for (name, value) in host_xattrs(&path) {
                line += &format!(" {name}={:?}", bytes::Bytes::from(value));
            }
            tree.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), line);
        }
    }
    tree
}

fn host_xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let bytes = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..bytes].split(|b| *b == 0).filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let bytes = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(bytes);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

/// Whether the host's file system under `root` keeps user attributes.
pub fn host_has_xattrs(root: &Path) -> bool {
    rustix::fs::setxattr(root, "user.probe", b"1", rustix::fs::XattrFlags::empty()).is_ok()
}

/// Runs `calls` random calls of `seed` on both and compares each outcome, and the trees now and then.
pub async fn run(fs: &Dfs, host: &Path, seed: u64, calls: usize) {
    // Well below the root: there `..` of the root is the root, on the host it is not.
    const BASE: &str = "r/r/r/r/r/r/r/r";
    let at = fs.mkdir_all(BASE, 0o755).await.unwrap();
    let host_at = host.join(BASE);
    std::fs::create_dir_all(&host_at).unwrap();
    for depth in (1..=8).map(|n| &BASE[..2 * n - 1]) {
        std::fs::set_permissions(host.join(depth), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut rng = Rng::seeded(seed);
    let xattrs = host_has_xattrs(host);
    let mut told = Vec::new();
    for i in 0..calls {
        let call = Call::random(&mut rng);
        if !xattrs && matches!(call, Call::SetXattr { .. } | Call::RemoveXattr(..)) {
            continue;
        }
        let expected = call.on_host(&host_at);
        let found = call.on_dfs(&at).await;
        told.push(format!("{call:?} = {expected:?}"));
        let recent = || told[told.len().saturating_sub(25)..].join("\n");
        assert_eq!(found, expected, "seed {seed}, call {i}: {call:?}\n{}", recent());
        if i % 50 == 49 || i + 1 == calls {
            assert_eq!(dfs_tree(fs).await, host_tree(host), "seed {seed}, after call {i}\n{}", recent());
        }
    }
}

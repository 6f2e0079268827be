//! Directories and whole small files. All of it blocks; none of it is for the data path.
//!
//! Whatever these calls change is durable when they return.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::DiskError;
use crate::sim;

/// Makes the directory and those above it; fine if it is there.
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<(), DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::create_dir_all(path);
    }
    let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    let create = || {
        fs::create_dir_all(path)?;
        missing.iter().rev().try_for_each(|made| sync_parent(made))
    };
    create().map_err(|error| DiskError::new("create", path, error))
}

/// True if anything has this name.
pub fn exists(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::exists(path);
    }
    path.exists()
}

/// The content of a file.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::read_file(path);
    }
    fs::read(path).map_err(|error| DiskError::new("read", path, error))
}

/// Replaces the content of a file, or creates it: after a crash there is the old content or the
/// new, whole. One writer a file: the draft beside it, `<path>.new`, is shared.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::write_atomic(path, bytes);
    }
    let replace = || {
        // Always the same name, so that a crash leaves at most one draft, which the next call replaces.
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_parent(path)
    };
    replace().map_err(|error| DiskError::new("write", path, error))
}

/// Makes durable what lies under a name, whoever wrote it: a process that was killed may have got as far as writing, and
/// what it wrote is there to be read, and gone after a power cut.
pub fn sync(path: impl AsRef<Path>) -> Result<(), DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        // There names are durable at once.
        return super::Disk::open(path, super::OpenMode::default())?.sync_now();
    }
    let sync = || {
        File::open(path)?.sync_all()?;
        sync_parent(path)
    };
    sync().map_err(|error| DiskError::new("sync", path, error))
}

pub fn remove_file(path: impl AsRef<Path>) -> Result<(), DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::remove_file(path);
    }
    fs::remove_file(path).and_then(|()| sync_parent(path)).map_err(|error| DiskError::new("remove", path, error))
}

/// Removes a directory with everything in it.
pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<(), DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::remove_dir_all(path);
    }
    fs::remove_dir_all(path).and_then(|()| sync_parent(path)).map_err(|error| DiskError::new("remove", path, error))
}

/// The paths of what a directory holds, sorted.
pub fn read_dir(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::read_dir(path);
    }
    let list = || {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        entries.sort();
        Ok(entries)
    };
    list().map_err(|error| DiskError::new("list", path, error))
}

/// Bytes that this user may still write to the file system that holds `path`.
pub fn free_space(path: impl AsRef<Path>) -> Result<u64, DiskError> {
    let path = path.as_ref();
    if sim::is_active() {
        return sim::file::free_space(path);
    }
    let measure = || {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: all-zero bytes are a valid `statvfs`.
        let mut about: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `name` ends in a zero byte, and `about` is a valid place to write into.
        match unsafe { libc::statvfs(name.as_ptr(), &mut about) } {
            0 => Ok(about.f_bavail.saturating_mul(about.f_frsize)),
            _ => Err(io::Error::last_os_error()),
        }
    };
    measure().map_err(|error| DiskError::new("measure", path, error))
}

/// Makes the entry `path` of its directory durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

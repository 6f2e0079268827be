//! [`DiskError`]: what went wrong, with which file, in which operation.

use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Correct the path, or create the file.
    #[error("{operation} {}: there is no such file or directory", path.display())]
    NotFound { operation: &'static str, path: PathBuf },
    /// Stop the other process, or use another path.
    #[error("{} is in use by {}; stop it or use another path", path.display(), holder_text(.holder))]
    Locked { path: PathBuf, holder: Option<Holder> },
    /// Free space or use a larger disk.
    #[error("{operation} {}: no space is left on the disk", path.display())]
    Full { operation: &'static str, path: PathBuf },
    /// The rest: look at `source`.
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

/// The process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its command name, empty if the kernel does not tell.
    pub command: String,
}

fn holder_text(holder: &Option<Holder>) -> String {
    match holder {
        Some(Holder { pid, command }) if *pid == std::process::id() => {
            format!("this very process ({command}, pid {pid})")
        }
        Some(Holder { pid, command }) => format!("process {pid} ({command})"),
        None => "another process".to_owned(),
    }
}

impl DiskError {
    /// Sorts an error of the kernel into the variants.
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> DiskError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => DiskError::NotFound { operation, path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full { operation, path },
            _ => DiskError::Io { operation, path, source },
        }
    }

    pub fn kind(&self) -> io::ErrorKind {
        match self {
            DiskError::NotFound { .. } => io::ErrorKind::NotFound,
            DiskError::Locked { .. } => io::ErrorKind::ResourceBusy,
            DiskError::Full { .. } => io::ErrorKind::StorageFull,
            DiskError::Io { source, .. } => source.kind(),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            DiskError::NotFound { path, .. }
            | DiskError::Locked { path, .. }
            | DiskError::Full { path, .. }
            | DiskError::Io { path, .. } => path,
        }
    }
}

/// Keeps the kind, and the whole text.
impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

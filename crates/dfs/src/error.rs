//! What can go wrong, in the words and numbers of POSIX, with the path it went wrong at.
//!
//! Inside the crate functions fail with a [`Reason`]; the call that knows the path makes it a
//! [`DfsError`]. A failure of the store below keeps its own error whole, cause and remedy.

use std::fmt;
use std::sync::Arc;

use types::{Code, Error};

use crate::path;

/// A failed call: why, and at which path.
#[derive(Clone, Debug)]
pub struct DfsError {
    pub reason: Reason,
    /// As the caller gave it, or as found on the way; readable, not necessarily exact bytes.
    pub path: String,
}

pub type Result<T, E = DfsError> = std::result::Result<T, E>;

/// Why a call failed: one variant per errno a caller reacts to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Reason {
    #[error("no such file or directory")]
    NotFound,
    #[error("exists already")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("name or path too long: names have up to 255 bytes, paths up to 4095")]
    NameTooLong,
    #[error("too many symbolic links on the way (more than 40): do they form a circle?")]
    Loop,
    #[error("read-only file system: a snapshot cannot change")]
    ReadOnly,
    #[error("in use: {0}")]
    Busy(&'static str),
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("not opened for this: {0}")]
    BadHandle(&'static str),
    #[error("no such extended attribute")]
    NoAttribute,
    #[error("extended attribute too large: names have up to 255 bytes, values up to 65536")]
    AttributeTooBig,
    #[error("too many extended attributes: at most {0} on one file")]
    AttributeCount(usize),
    #[error("file too large")]
    FileTooBig,
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// Bytes of the file system are not what they should be; its other files stay readable.
    #[error("damaged file system: {0}")]
    Damaged(String),
    /// Another client kept changing the same name. Worth another try.
    #[error("the name keeps changing under this call: try again")]
    Contended,
    /// The store's own error.
    #[error("{0}")]
    Store(Error),
    /// The local file system's, while copying or comparing.
    #[error("local file system: {0}")]
    Local(Arc<std::io::Error>),
}

impl Reason {
    /// Names the place.
    pub(crate) fn at(self, path: &[u8]) -> DfsError {
        DfsError { reason: self, path: path::readable(path) }
    }

    /// The Linux errno number, for shells, FUSE and libc faces.
    pub fn errno(&self) -> i32 {
        match self {
            Reason::NotFound => 2,
            Reason::BadHandle(_) => 9,
            Reason::Contended => 11,
            Reason::Busy(_) => 16,
            Reason::Exists => 17,
            Reason::NotDirectory => 20,
            Reason::IsDirectory => 21,
            Reason::Invalid(_) => 22,
            Reason::FileTooBig => 27,
            Reason::AttributeCount(_) => 28,
            Reason::ReadOnly => 30,
            Reason::AttributeTooBig => 34,
            Reason::NameTooLong => 36,
            Reason::NotEmpty => 39,
            Reason::Loop => 40,
            Reason::NoAttribute => 61,
            Reason::NotSupported(_) => 95,
            Reason::Damaged(_) => 117,
            Reason::Store(error) => store_errno(error.code),
            Reason::Local(error) => error.raw_os_error().unwrap_or(5),
        }
    }

    fn code(&self) -> Code {
        match self {
            Reason::NotFound | Reason::NoAttribute => Code::NotFound,
            Reason::Exists => Code::Exists,
            Reason::ReadOnly => Code::NoPermission,
            Reason::NotSupported(_) => Code::NotSupported,
            Reason::Damaged(_) => Code::BadFormat,
            Reason::Contended => Code::Again,
            Reason::NotEmpty | Reason::Busy(_) => Code::Busy,
            Reason::AttributeTooBig | Reason::AttributeCount(_) | Reason::FileTooBig => Code::Overflow,
            Reason::NotDirectory
            | Reason::IsDirectory
            | Reason::NameTooLong
            | Reason::Loop
            | Reason::Invalid(_)
            | Reason::BadHandle(_) => Code::Invalid,
            Reason::Store(error) => error.code,
            Reason::Local(_) => Code::Io,
        }
    }
}

impl From<Error> for Reason {
    fn from(error: Error) -> Reason {
        Reason::Store(error)
    }
}

impl From<std::io::Error> for Reason {
    fn from(error: std::io::Error) -> Reason {
        Reason::Local(Arc::new(error))
    }
}

impl DfsError {
    pub fn errno(&self) -> i32 {
        self.reason.errno()
    }
}

impl fmt::Display for DfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl std::error::Error for DfsError {}

/// For commands, which speak the system's error: the number of the kind, the words with the path.
impl From<DfsError> for Error {
    fn from(error: DfsError) -> Error {
        match error.reason {
            Reason::Store(inner) => Error { message: format!("{}: {}", error.path, inner.message), ..inner },
            reason => Error::new(reason.code(), format!("{}: {reason}", error.path)),
        }
    }
}

fn store_errno(code: Code) -> i32 {
    match code {
        Code::NoPermission => 1,
        Code::NotFound => 2,
        Code::Again | Code::InProgress | Code::Restart | Code::Overload => 11,
        Code::NoMemory => 12,
        Code::Busy => 16,
        Code::Exists => 17,
        Code::Invalid => 22,
        Code::NoSpace => 28,
        Code::NotSupported => 95,
        Code::TimedOut => 110,
        Code::Unreachable | Code::NoService | Code::ShuttingDown => 113,
        Code::Quota => 122,
        Code::Canceled => 125,
        _ => 5,
    }
}

/// Attaches the path to a [`Reason`] on its way out.
pub(crate) trait At<T> {
    fn at(self, path: &[u8]) -> Result<T>;
}

impl<T, R: Into<Reason>> At<T> for std::result::Result<T, R> {
    fn at(self, path: &[u8]) -> Result<T> {
        self.map_err(|reason| reason.into().at(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path_and_keeps_the_stores_words() {
        let full = Error::new(Code::NoSpace, "pool 'tank' is full").remedy("delete something");
        let error = Reason::from(full).at(b"/a\x07b");
        assert_eq!(error.errno(), 28);
        assert_eq!(error.to_string(), "/a\\x07b: pool 'tank' is full: delete something [DER_NOSPACE(-1007)]");
        let system = Error::from(error);
        assert_eq!(system.code, Code::NoSpace);
        assert_eq!(system.message, "/a\\x07b: pool 'tank' is full");
        assert_eq!(system.remedy.as_deref(), Some("delete something"));
    }
}

//! Why a command ended without doing what was asked.

use std::io;

use types::{Code, Error};

/// A command's failure, by what the program does about it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Asked wrongly: status 2.
    Usage(Error),
    /// Asked well, and failed: status 1.
    Failed(Error),
    /// Whoever read our output went away (`daos kv list ... | head`): stop, and say nothing.
    ReaderGone,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure to use the command as it is meant.
    pub(crate) fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure::Usage(Error::new(Code::Invalid, message).remedy(remedy))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

/// A local file or directory that could not be used. Names what was tried and on which path.
pub(crate) fn local(action: &str, path: &std::path::Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::NoPermission,
        io::ErrorKind::AlreadyExists => Code::Exists,
        io::ErrorKind::StorageFull => Code::NoSpace,
        _ => Code::Io,
    };
    let failure = Error::new(code, format!("cannot {action} {}: {}", path.display(), reason(error)));
    Failure::Failed(match code {
        Code::NotFound => failure.remedy("check the path"),
        Code::NoPermission => failure.remedy("choose a path you may use, or change its permissions"),
        Code::NoSpace => failure.remedy("free some space on that file system"),
        _ => failure,
    })
}

/// The operating system's words without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = words.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Failing to write to stdout.
pub(crate) fn stdout(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::Failed(Error::new(Code::Io, format!("cannot write to stdout: {}", reason(&error)))),
    }
}

//! What can go wrong, one variant for each next move of the caller.

use std::path::PathBuf;

use types::Rank;

use crate::kinds::Peer;

/// Why a group could not be made, opened, dictated or removed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is a replica in the directory: open it.
    #[error("{} holds a replica already; open it, or remove it first", path.display())]
    Exists { path: PathBuf },
    /// There is none: create or join.
    #[error("{} holds no replica; create a group or join one", path.display())]
    Missing { path: PathBuf },
    /// Another group's, another rank's, or another machine's files.
    #[error("{} belongs to {found}, not to {expected}; check the configured path", path.display())]
    Foreign { path: PathBuf, found: String, expected: String },
    /// What was durable does not read as it was written. Another replica's copy is whole.
    #[error("{} is damaged: {cause}; remove this replica from its group and join it anew, or restore the file", path.display())]
    Corrupt { path: PathBuf, cause: String },
    /// It is open already, here or in another process.
    #[error(transparent)]
    Disk(#[from] rt::disk::DiskError),
    /// Something of the configuration cannot be.
    #[error("the configuration of the group cannot be: {0}")]
    Config(String),
    /// The replica stopped while it was opened.
    #[error("the replica stopped while it was opened: {0}")]
    Stopped(String),
}

/// Why a command has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was done. Ask the leader; if it is not known, ask again in a moment.
    #[error("this replica does not lead{}", .leader.as_ref().map(|l| format!("; {l} does")).unwrap_or_default())]
    NotLeader { leader: Option<Peer> },
    /// Nothing was done. Wait, then ask again.
    #[error("too many requests are under way")]
    Busy,
    /// Nothing was done, for nothing can be written here. Make room: the replica goes on by itself.
    #[error("the disk that the service keeps its log on is full")]
    Full,
    /// Nothing was done, and cannot be.
    #[error("a command of {bytes} bytes is larger than {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// It may take effect or not. Repeat it with the same session and number, to learn which.
    #[error("the outcome is not known: {cause}")]
    Unknown { cause: String },
    /// It is a repeat of a request that was answered long ago. Nothing was done now.
    #[error("the answer to this request is forgotten")]
    Forgotten,
    /// It was done, and its response is too large, or the caller cannot read it: versions do not fit.
    #[error("it was done, but its response cannot be read")]
    Unreadable,
    /// This replica has stopped; look at the cause and open it again.
    #[error("the replica has stopped: {cause}")]
    Stopped { cause: String },
}

/// Why the state could not be read as of now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader; if it is not known, ask again in a moment.
    #[error("this replica does not lead{}", .leader.as_ref().map(|l| format!("; {l} does")).unwrap_or_default())]
    NotLeader { leader: Option<Peer> },
    #[error("too many requests are under way")]
    Busy,
    /// No majority confirmed in time that this replica still leads. Ask again.
    #[error("no majority answers")]
    NoMajority,
    #[error("the replica has stopped: {cause}")]
    Stopped { cause: String },
}

/// Why the members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this replica does not lead{}", .leader.as_ref().map(|l| format!("; {l} does")).unwrap_or_default())]
    NotLeader { leader: Option<Peer> },
    /// Another change is under way, or the leader is new and has committed nothing yet. Ask again in a moment.
    #[error("another change of the members is under way")]
    InProgress,
    /// Add it first.
    #[error("rank {0} is no member of the group")]
    NoMember(Rank),
    #[error("the members cannot be these: {0}")]
    Invalid(String),
    /// Nothing was begun. Ask again in a moment, or for others.
    #[error("of the {voters} that are to vote {answering} answer")]
    Silent { answering: usize, voters: usize },
    /// It may take effect or not: look at the members, then ask again if need be.
    #[error("the outcome is not known: {cause}")]
    Unknown { cause: String },
    #[error("the replica has stopped: {cause}")]
    Stopped { cause: String },
}

//! What can go wrong in a versioned store, one variant for each thing the caller can do about it.

use types::{ContainerId, Epoch, PoolId};

use crate::request::{ChangeId, ChangeState, Term};

/// The answer of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request took no effect. No variant leaves half a request behind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no pool {0} on this target")]
    NoPool(PoolId),
    #[error("no container {0} on this target")]
    NoContainer(ContainerId),
    #[error("pool {0} exists on this target")]
    PoolExists(PoolId),
    #[error("container {0} exists on this target")]
    ContainerExists(ContainerId),

    /// A condition asked for absence.
    #[error("the key exists")]
    Exists,
    /// A condition asked for existence.
    #[error("the key does not exist")]
    NotFound,

    /// The pool's share of this target is used up, but for what is kept back for rebuilds (`reserve`, beside `quota`): delete
    /// something, or raise the quota.
    #[error("pool {pool} has no room: {used} of {quota} bytes used, {wanted} more wanted")]
    NoSpace { pool: PoolId, used: u64, quota: u64, reserve: u64, wanted: u64 },
    /// The device under all pools is full: delete something, or give the target more space.
    #[error("the target's device has no room: {wanted} bytes wanted, {free} free")]
    DeviceFull { wanted: u64, free: u64 },

    /// All records of an array have one size; to change it, punch the akey first.
    #[error("the array's records have {stored} bytes, not {given}")]
    RecordSize { stored: u32, given: u32 },
    #[error("a key of {bytes} bytes is longer than {}", types::KEY_BYTES_MAX)]
    KeyTooLong { bytes: usize },
    /// The request breaks a limit or contradicts itself; the text says which.
    #[error("{0}")]
    Invalid(&'static str),
    /// More than 65,535 modifications at one epoch: take a new epoch.
    #[error("epoch {0} holds as many modifications as it can")]
    EpochFull(Epoch),

    /// History before the horizon is gone but for snapshots: read a snapshot, or a moment at or after it.
    #[error("epoch {at} is no longer kept: the container's history reaches back to {horizon}, and to its snapshots")]
    Forgotten { at: Epoch, horizon: Epoch },
    /// The container is going back to an earlier moment: try again when that is done.
    #[error("the container is being rolled back to epoch {to}")]
    RollingBack { to: Epoch },
    /// An uncommitted change decides the answer: learn how it ends, then retry at the same epoch.
    #[error("the uncommitted change {change} decides the answer")]
    InProgress { change: ChangeId },
    /// The order of epochs forbids it: start over at an epoch above this one.
    #[error("epoch {above} is taken by a conflicting operation: start over above it")]
    Restart { above: Epoch },
    /// The change is in a state from which this is no step; `state` says what became of it.
    #[error("change {change} cannot do that: it is {state:?}")]
    ChangeState { change: ChangeId, state: ChangeState },
    /// The target follows a later leader of the placement group.
    #[error("the placement group has a later leader, of term {}.{}", known.interval, known.round)]
    OldTerm { known: Term },
    /// As many uncommitted changes as a target keeps: wait until some are decided.
    #[error("the target keeps as many uncommitted changes as it can: wait until some are decided")]
    IntentsFull,

    /// Stored bytes are not what was written. `place` says where; other data stays readable.
    #[error("corruption at {place}: {fault}")]
    Corrupt { place: String, fault: String },
    /// An earlier operation failed between its log record and its pages. Restart the target: recovery
    /// repeats the operation from the log.
    #[error("the store stopped after a failure in mid-operation: restart the target to recover")]
    Stopped,
    /// The page store refused: too busy, log full, device failed. See [`media::Error`] for the reaction.
    #[error(transparent)]
    Media(media::Error),
}

impl From<media::Error> for Error {
    fn from(error: media::Error) -> Error {
        match error {
            media::Error::Corrupt(corrupt) => {
                Error::Corrupt { place: corrupt.place.to_string(), fault: corrupt.fault.to_string() }
            }
            media::Error::NoSpace { wanted, free } => Error::DeviceFull { wanted, free },
            other => Error::Media(other),
        }
    }
}

//! Snapshots: the state as of one log id, in a file; and the half of the state machine that the library drives.

use std::cell::RefCell;
use std::io;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use rt::disk::fs;
use tokio::sync::watch;
use wire::Wire;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::OpenError;
use crate::kinds::{Answer, GroupId, LogId, SnapshotMeta, StoredMembership, Types};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::log::Room;
use crate::machine::{Replicated, StateMachine};

const FILE: &str = "snapshot";
const MAGIC: [u8; 8] = *b"RAFTSNP\x01";

/// Header of a snapshot's file, little-endian; the body follows (see [`crate::machine`]). Ours.
///
/// | offset | bytes | field    | meaning                        |
/// |-------:|------:|----------|--------------------------------|
/// |      0 |     8 | magic    | `b"RAFTSNP\x01"`               |
/// |      8 |     4 | crc      | CRC-32C of bytes 12..48        |
/// |     12 |     4 | version  | 1                              |
/// |     16 |    16 | group    | the group's UUID               |
/// |     32 |     8 | bytes    | of the body                    |
/// |     40 |     4 | body_crc | CRC-32C of the body            |
/// |     44 |     4 | zero     | 0                              |
///
/// Written beside the old one and renamed: there is always a whole one, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct SnapshotHeader {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    group: [u8; 16],
    bytes: U64,
    body_crc: U32,
    zero: U32,
}
const _: () = assert!(size_of::<SnapshotHeader>() == 48);
const _: () = assert!(offset_of!(SnapshotHeader, bytes) == 32);

pub(crate) fn encode_file(group: GroupId, body: &[u8]) -> Vec<u8> {
    let mut header = SnapshotHeader::new_zeroed();
    header.magic = MAGIC;
    header.version.set(1);
    header.group = group.0;
    header.bytes.set(body.len() as u64);
    header.body_crc.set(codec::crc32c(body));
    header.crc.set(codec::crc32c(&header.as_bytes()[12..]));
    [header.as_bytes(), body].concat()
}

/// Reads the file of a snapshot: its group and its body. Any bytes are safe.
///
/// # Errors
/// What is wrong, in words.
pub fn decode_file(file: &[u8]) -> Result<(GroupId, &[u8]), String> {
    let (header, body) = SnapshotHeader::read_from_prefix(file).map_err(|_| "it is too short")?;
    if header.magic != MAGIC {
        return Err("it does not begin like a snapshot".to_string());
    }
    let computed = codec::crc32c(&header.as_bytes()[12..]);
    if header.crc.get() != computed {
        return Err(format!("checksum of its header: stored {:#010x}, computed {computed:#010x}", header.crc.get()));
    }
    if header.version.get() != 1 {
        return Err(format!("it has version {}; this release reads 1", header.version.get()));
    }
    if header.bytes.get() != body.len() as u64 {
        return Err(format!("it has {} bytes where {} were written", body.len(), header.bytes.get()));
    }
    let computed = codec::crc32c(body);
    if header.body_crc.get() != computed {
        return Err(format!("checksum: stored {:#010x}, computed {computed:#010x}", header.body_crc.get()));
    }
    Ok((GroupId(header.group), body))
}

/// The newest snapshot of a replica, from its file.
///
/// # Errors
/// `Corrupt`, `Foreign`, `Disk`.
pub(crate) fn load<S: StateMachine>(
    directory: &Path,
    group: GroupId,
) -> Result<Option<(Replicated<S>, Body)>, OpenError> {
    let path = directory.join(FILE);
    if !fs::exists(&path) {
        return Ok(None);
    }
    // As with the log: what it replaces is purged for its sake.
    fs::sync(&path)?;
    let file = fs::read(&path)?;
    let (owner, body) = decode_file(&file).map_err(|cause| OpenError::Corrupt { path: path.clone(), cause })?;
    if owner != group {
        return Err(OpenError::Foreign { path, found: format!("group {owner}"), expected: format!("group {group}") });
    }
    let state = Replicated::from_bytes(body)
        .map_err(|error| OpenError::Corrupt { path, cause: format!("it is no state of {}: {error}", S::NAME) })?;
    Ok(Some((state, Rc::new(body.to_vec()))))
}

/// Removes what another life of a replica left.
pub(crate) fn remove(directory: &Path) -> Result<(), OpenError> {
    let path = directory.join(FILE);
    if fs::exists(&path) {
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// The body of a snapshot.
pub(crate) type Body = Rc<Vec<u8>>;
type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Body>;

/// The newest snapshot: its file and a copy in memory, to be sent.
struct Newest {
    path: PathBuf,
    group: GroupId,
    current: Option<(SnapshotMeta, Body)>,
    room: Room,
}

/// Stores a snapshot, as soon as there is room, unless a newer one is there by then.
async fn store(newest: &RefCell<Newest>, meta: &SnapshotMeta, body: &Body) -> io::Result<()> {
    let (path, room) = {
        let newest = newest.borrow();
        (newest.path.clone(), newest.room.clone())
    };
    room.until_done(&path, || {
        let mut newest = newest.borrow_mut();
        match newest.current.as_ref().is_some_and(|(known, _)| known.last_log_id > meta.last_log_id) {
            true => Ok(()),
            false => newest.store(meta.clone(), Rc::clone(body)),
        }
    })
    .await
}

impl Newest {
    fn store(&mut self, meta: SnapshotMeta, body: Body) -> io::Result<()> {
        if body.len() > SNAPSHOT_BYTES_MAX {
            let words = format!("a snapshot of {} bytes is larger than {SNAPSHOT_BYTES_MAX}", body.len());
            return Err(io::Error::other(words));
        }
        fs::write_atomic(&self.path, &encode_file(self.group, &body))
            .map_err(|error| io::Error::new(error.kind(), error))?;
        self.current = Some((meta, body));
        Ok(())
    }
}

/// The state machine as the library drives it.
pub(crate) struct Driven<S> {
    state: Rc<RefCell<Replicated<S>>>,
    /// Told of every change of the state.
    changed: watch::Sender<()>,
    newest: Rc<RefCell<Newest>>,
}

impl<S: StateMachine> Driven<S> {
    pub(crate) fn new(
        directory: &Path,
        group: GroupId,
        state: Rc<RefCell<Replicated<S>>>,
        changed: watch::Sender<()>,
        snapshot: Option<Body>,
        room: Room,
    ) -> Driven<S> {
        let current = snapshot.map(|body| (state.borrow().meta(), body));
        Driven {
            state,
            changed,
            newest: Rc::new(RefCell::new(Newest { path: directory.join(FILE), group, current, room })),
        }
    }
}

/// A snapshot being made: the state as it was when it was asked for.
pub(crate) struct Builder {
    newest: Rc<RefCell<Newest>>,
    meta: SnapshotMeta,
    body: Body,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Body;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        // One from the leader may have overtaken it; the file never goes back.
        store(&self.newest, &self.meta, &self.body).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Rc::clone(&self.body) })
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Driven<S> {
    type SnapshotData = Body;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.state.borrow();
        Ok((state.applied, state.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer: Answer = self.state.borrow_mut().apply(entry).map_err(io::Error::other)?;
            if let Some(responder) = responder {
                responder.send(answer);
            }
            self.changed.send_replace(());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.state.borrow();
        Builder { newest: Rc::clone(&self.newest), meta: state.meta(), body: Rc::new(state.to_bytes()) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, body: Body) -> Result<(), io::Error> {
        let state = Replicated::from_bytes(&body).map_err(io::Error::other)?;
        if state.meta() != *meta {
            return Err(io::Error::other("a snapshot is not of the log id it came with"));
        }
        store(&self.newest, meta, &body).await?;
        *self.state.borrow_mut() = state;
        self.changed.send_replace(());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let newest = self.newest.borrow();
        Ok(newest.current.clone().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

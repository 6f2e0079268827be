//! The durable log of one replica: vote, commitment and entries, in one file.
//!
//! # Shape
//! [`Kept`] is what the log says, all of it in memory: snapshots keep it short. Whoever adds to it changes `Kept` at once
//! and puts the record into a queue; one task writes what has gathered there as one frame, with one sync, and then tells
//! all who wait (group commit). Reading is reading memory.
//!
//! When purging has made the file much longer than what it must say, the same task replaces it, atomically, by one that
//! says the same.
//!
//! # Always true
//! 1. Nobody is told that something is durable before it is.
//! 2. What a recovered log says is a prefix of the records in their order, with all that somebody was told of; and is durable.
//! 3. After the first failure of the disk, nothing is durable any more, and everybody is told.
//! 4. A disk that is full has not failed: what was to be written waits, and so does everybody, until there is room ([`Room`]).
//!    Nothing is written behind what did not fit, so that it may be torn by a power cut, and no more.
//!
//! # Not here
//! The bytes ([`format`]); snapshots.

#[cfg(test)]
mod crash;
pub mod format;
pub mod kept;

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use rt::disk::{Disk, IoBuf, OpenMode, fs};
use tokio::sync::{Notify, oneshot};
use types::Rank;

use self::format::{Fault, Record, encode_frame, encode_record};
use self::kept::{Found, Kept, read_log};
use crate::error::OpenError;
use crate::kinds::{Entry, GroupId, LogId, Types, Vote, entry_bytes};
use crate::limits::{APPEND_BYTES_MAX, LOG_SLACK_BYTES};

const FILE: &str = "log";
/// How often it is looked whether a full disk has room again.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(500);

/// Whether there is room on the disk of a replica, as far as its last write says. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Room {
    shared: Rc<RoomShared>,
}

#[derive(Default)]
struct RoomShared {
    is_full: Cell<bool>,
    changed: Notify,
}

/// The disk has no room, or what we may use of it has none.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Room {
    pub(crate) fn is_full(&self) -> bool {
        self.shared.is_full.get()
    }

    /// Waits until the disk is full.
    pub(crate) async fn until_full(&self) {
        while !self.is_full() {
            self.shared.changed.notified().await;
        }
    }

    /// Does something that needs room, again and again until there is some. Other errors, and success, end it.
    pub(crate) async fn until_done<T>(&self, path: &Path, mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match what() {
                Err(error) if is_full(&error) => self.wait(path).await,
                done => {
                    self.note_room(path);
                    return done;
                }
            }
        }
    }

    /// Something found no room: waits a while.
    async fn wait(&self, path: &Path) {
        if !self.shared.is_full.replace(true) {
            tracing::error!(
                path = %path.display(),
                "the disk is full: this replica stands still, and neither votes nor takes commands; make room, and it goes on by itself"
            );
            self.shared.changed.notify_waiters();
        }
        rt::sleep(LOOK_FOR_ROOM).await;
    }

    /// Something found room.
    fn note_room(&self, path: &Path) {
        if self.shared.is_full.replace(false) {
            tracing::info!(path = %path.display(), "there is room again: this replica goes on");
            self.shared.changed.notify_waiters();
        }
    }
}

/// A handle on a replica's log. Clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    inner: Rc<Inner>,
}

struct Inner {
    path: PathBuf,
    group: GroupId,
    rank: Rank,
    state: RefCell<State>,
    /// Something was put into the queue.
    queued: Notify,
    room: Room,
    slack_bytes: Cell<u64>,
}

struct State {
    kept: Kept,
    file: File,
    queue: Queue,
    /// Why nothing is durable any more.
    failed: Option<String>,
}

struct File {
    disk: Disk,
    incarnation: u64,
    frames: u64,
    end: u64,
}

/// What is in `Kept` and not yet in the file.
#[derive(Default)]
struct Queue {
    payload: Vec<u8>,
    records: u32,
    waiting: Vec<Waiting>,
}

enum Waiting {
    Library(IOFlushed<Types>),
    Us(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn tell(self, outcome: io::Result<()>) {
        match self {
            Waiting::Library(callback) => callback.io_completed(outcome),
            // Who does not wait any more need not know.
            Waiting::Us(sender) => drop(sender.send(outcome)),
        }
    }
}

pub(crate) fn exists(directory: &Path) -> bool {
    fs::exists(directory.join(FILE))
}

/// Whose log lies in a directory.
///
/// # Errors
/// `Missing`, `Corrupt`, `Disk`.
pub(crate) fn owner(directory: &Path) -> Result<(GroupId, Rank), OpenError> {
    let found = look(directory)?;
    Ok((GroupId(found.header.group), Rank(found.header.rank.get())))
}

/// What a log says; the file stays as it is.
///
/// # Errors
/// `Missing`, `Foreign`, `Corrupt`, `Disk`.
pub(crate) fn read(directory: &Path, group: GroupId, rank: Rank) -> Result<Found, OpenError> {
    let found = look(directory)?;
    let owner = (GroupId(found.header.group), Rank(found.header.rank.get()));
    if owner != (group, rank) {
        let name = |(group, rank): (GroupId, Rank)| format!("rank {rank} of group {group}");
        let path = directory.join(FILE);
        return Err(OpenError::Foreign { path, found: name(owner), expected: name((group, rank)) });
    }
    Ok(found)
}

fn look(directory: &Path) -> Result<Found, OpenError> {
    let path = directory.join(FILE);
    let bytes = match fs::read(&path) {
        Err(rt::disk::DiskError::NotFound { .. }) => return Err(OpenError::Missing { path: directory.to_owned() }),
        read => read?,
    };
    read_log(&bytes).map_err(|(at, fault)| corrupt(&path, at, &fault))
}

impl Log {
    /// Makes the log of a replica that has none: durable when this returns.
    pub(crate) fn create(directory: &Path, group: GroupId, rank: Rank) -> Result<Log, OpenError> {
        let path = directory.join(FILE);
        let kept = Kept::default();
        let file = write_file(&path, group, rank, &kept)?;
        Ok(Log::of(path, group, rank, kept, file))
    }

    /// Reads a log back, and cuts off what a crash has torn.
    ///
    /// # Errors
    /// `Missing`, `Foreign`, `Corrupt`, `Disk`.
    pub(crate) fn open(directory: &Path, group: GroupId, rank: Rank) -> Result<Log, OpenError> {
        let path = directory.join(FILE);
        if exists(directory) {
            // What a killed process wrote is read, and counts as kept: it must not go with the power.
            fs::sync(&path)?;
        }
        let found = read(directory, group, rank)?;
        let kept = found.kept;
        let file = match found.torn {
            0 => {
                let disk = Disk::open(&path, OpenMode::default())?;
                let incarnation = found.header.incarnation.get();
                File { disk, incarnation, frames: found.frames, end: found.end as u64 }
            }
            torn => {
                tracing::info!(path = %path.display(), torn, "cutting off a write that the last crash tore");
                write_file(&path, group, rank, &kept)?
            }
        };
        Ok(Log::of(path, group, rank, kept, file))
    }

    fn of(path: PathBuf, group: GroupId, rank: Rank, kept: Kept, file: File) -> Log {
        let state = RefCell::new(State { kept, file, queue: Queue::default(), failed: None });
        Log {
            inner: Rc::new(Inner {
                path,
                group,
                rank,
                state,
                queued: Notify::new(),
                room: Room::default(),
                slack_bytes: Cell::new(LOG_SLACK_BYTES),
            }),
        }
    }

    /// Lets the file be rewritten sooner.
    #[cfg(test)]
    fn set_slack(&self, bytes: u64) {
        self.inner.slack_bytes.set(bytes);
    }

    pub(crate) fn room(&self) -> &Room {
        &self.inner.room
    }

    pub(crate) fn look<R>(&self, at: impl FnOnce(&Kept) -> R) -> R {
        at(&self.inner.state.borrow().kept)
    }

    /// Lets records happen now. If somebody waits for it, they are made durable, and it is told.
    fn put(&self, records: impl IntoIterator<Item = Record>, waiting: Option<Waiting>) -> io::Result<()> {
        let mut state = self.inner.state.borrow_mut();
        let outcome = records.into_iter().try_for_each(|record| state.put(record));
        match (outcome, waiting) {
            (Ok(()), None) => {}
            (Ok(()), Some(waiting)) => {
                state.queue.waiting.push(waiting);
                self.inner.queued.notify_one();
            }
            (Err(cause), waiting) => {
                if let Some(waiting) = waiting {
                    waiting.tell(Err(io::Error::other(cause.clone())));
                }
                return Err(io::Error::other(cause));
            }
        }
        Ok(())
    }

    /// Lets a record happen now, durable with whatever is made durable next. For what a restart can do without.
    fn put_lazily(&self, record: Record) -> io::Result<()> {
        self.put([record], None)
    }

    async fn put_durably(&self, record: Record) -> io::Result<()> {
        let (sender, told) = oneshot::channel();
        self.put([record], Some(Waiting::Us(sender)))?;
        told.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// The task that makes things durable. Runs until it is dropped.
    pub(crate) async fn run(self) {
        loop {
            self.inner.queued.notified().await;
            while let Some((step, waiting)) = self.next_step() {
                let outcome = match step {
                    Step::Append { disk, at, frame } => self.append(&disk, at, &frame).await,
                    Step::Done(outcome) => outcome,
                };
                let failed = self.note(outcome);
                for waiting in waiting {
                    waiting.tell(failed.clone().map_or(Ok(()), |cause| Err(io::Error::other(cause))));
                }
            }
        }
    }

    /// Writes a frame where it belongs, as soon as there is room.
    async fn append(&self, disk: &Disk, at: u64, frame: &[u8]) -> io::Result<()> {
        loop {
            match disk.write_durable(at, IoBuf::from_slice(frame)).await.0 {
                Err(error) if is_full(&error) => self.inner.room.wait(&self.inner.path).await,
                done => {
                    self.inner.room.note_room(&self.inner.path);
                    return done;
                }
            }
        }
    }

    /// Takes the queue. `None`: nobody wants anything.
    fn next_step(&self) -> Option<(Step, Vec<Waiting>)> {
        let mut state = self.inner.state.borrow_mut();
        let state = &mut *state;
        let queue = std::mem::take(&mut state.queue);
        if queue.records == 0 && queue.waiting.is_empty() {
            return None;
        }
        if queue.records == 0 || state.failed.is_some() {
            return Some((Step::Done(Ok(())), queue.waiting));
        }
        if state.file.end > 2 * state.kept.bytes() as u64 + self.inner.slack_bytes.get() {
            // What was queued is in `kept`, and so in the new file.
            let Inner { path, group, rank, .. } = &*self.inner;
            match write_file(path, *group, *rank, &state.kept) {
                // A new file needs room beside the old one: that goes on.
                Err(rt::disk::DiskError::Full { .. }) => {
                    let more = 2 * self.inner.slack_bytes.get().max(state.file.end);
                    tracing::warn!(path = %path.display(), "no room to make the log shorter: it gets longer meanwhile");
                    self.inner.slack_bytes.set(more);
                }
                written => {
                    self.inner.slack_bytes.set(self.inner.slack_bytes.get().min(LOG_SLACK_BYTES));
                    let written = written.map(|file| state.file = file);
                    return Some((Step::Done(written.map_err(io::Error::other)), queue.waiting));
                }
            }
        }
        let file = &mut state.file;
        let frame = encode_frame(file.incarnation, file.frames, queue.records, &queue.payload);
        let step = Step::Append { disk: file.disk.clone(), at: file.end, frame };
        if let Step::Append { frame, .. } = &step {
            file.frames += 1;
            file.end += frame.len() as u64;
        }
        Some((step, queue.waiting))
    }

    /// Notes how a write ended, and says why nothing is durable any more, if so.
    fn note(&self, outcome: io::Result<()>) -> Option<String> {
        let mut state = self.inner.state.borrow_mut();
        if let Err(error) = outcome {
            tracing::error!(path = %self.inner.path.display(), %error, "the log cannot be written any more");
            state.failed.get_or_insert(error.to_string());
        }
        state.failed.clone()
    }

    /// Replaces the file by one that says what `change` makes of the log. For a replica that does not run.
    pub(crate) fn rewrite(&self, change: impl IntoIterator<Item = Record>) -> Result<(), OpenError> {
        let mut state = self.inner.state.borrow_mut();
        for record in change {
            state.kept.apply(record).map_err(|fault| corrupt(&self.inner.path, 0, &fault))?;
        }
        state.file = write_file(&self.inner.path, self.inner.group, self.inner.rank, &state.kept)?;
        Ok(())
    }
}

/// What the task does next.
enum Step {
    Append {
        disk: Disk,
        at: u64,
        frame: Vec<u8>,
    },
    /// It is done, or nothing had to be.
    Done(io::Result<()>),
}

impl State {
    /// # Errors
    /// Why nothing is durable any more.
    fn put(&mut self, record: Record) -> Result<(), String> {
        if let Some(cause) = &self.failed {
            return Err(cause.clone());
        }
        let at = self.queue.payload.len();
        encode_record(&record, &mut self.queue.payload);
        match self.kept.apply(record) {
            Ok(()) => {
                self.queue.records += 1;
                Ok(())
            }
            // The library does not ask for this. A log that cannot be read back would be worse than a stop.
            Err(fault) => {
                self.queue.payload.truncate(at);
                let cause = format!("a record that cannot follow: {fault}");
                self.failed = Some(cause.clone());
                Err(cause)
            }
        }
    }
}

fn corrupt(path: &Path, at: usize, fault: &Fault) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), cause: format!("at byte {at}: {fault}") }
}

/// Replaces the file by one that says `kept`, durably.
fn write_file(path: &Path, group: GroupId, rank: Rank, kept: &Kept) -> Result<File, rt::disk::DiskError> {
    let incarnation = rt::random_u64();
    let (bytes, frames) = kept.to_file(group, rank, incarnation);
    fs::write_atomic(path, &bytes)?;
    let disk = Disk::open(path, OpenMode::default())?;
    Ok(File { disk, incarnation, frames, end: bytes.len() as u64 })
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        Ok(self.look(|kept| kept.from(start).take_while(|e| range.contains(&e.log_id.index)).cloned().collect()))
    }

    /// As many as fit into one message.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.look(|kept| {
            let mut bytes = 0;
            let fits = |entry: &&Entry| {
                let is_first = bytes == 0;
                bytes += entry_bytes(entry);
                entry.log_id.index < end && (is_first || bytes <= APPEND_BYTES_MAX)
            };
            kept.from(start).take_while(fits).cloned().collect()
        }))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.look(|kept| kept.vote))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(self.look(|kept| LogState { last_purged_log_id: kept.purged, last_log_id: kept.last() }))
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.put_durably(Record::Vote(*vote)).await
    }

    /// Not waited for: a restart that knows less of what is committed learns it again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.put_lazily(Record::Committed(committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.look(|kept| kept.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.put(entries.into_iter().map(Record::Entry), Some(Waiting::Library(callback)))
    }

    /// Waited for: a snapshot may be installed over what is cut off, and nothing be appended behind it for hours. With
    /// the snapshot and the old entries after a power cut, the library would call the log corrupted.
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.put_durably(Record::Truncate(last)).await
    }

    /// Not waited for: after a crash the entries are there again, beside the snapshot.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.put_lazily(Record::Purge(upto))
    }
}

//! The content of simulated disks, what a power cut leaves of it, and recording for crash
//! enumeration.
//!
//! # Shape
//! A [`Volume`] is the directory tree of one node. Each file has two images, what reads see and what
//! is durable, and between them the pending changes in order. A sync moves the changes that had
//! completed before it began into the durable image. A power cut picks, with dice, what each
//! 512-byte sector becomes: its durable content or any of the pending ones, or a torn mixture.
//!
//! A [`Recorder`] notes each change and sync of one volume. From it the volume as of any event can be
//! rebuilt, crashed with any seed, and installed in a fresh simulation:
//!
//! ```
//! use rt::disk::{Disk, OpenMode};
//! use rt::sim::{Sim, SimConfig};
//!
//! let sim = Sim::new(SimConfig::seeded(1));
//! let node = sim.node("server");
//! let recorder = sim.record(node);
//! sim.run(async {
//!     let sim = rt::sim::current();
//!     sim.spawn_on(node, async {
//!         let disk = Disk::open("/f", OpenMode { create: true, ..OpenMode::default() }).unwrap();
//!         disk.write_now(0, b"hello").unwrap();
//!         disk.sync_now().unwrap();
//!     })
//!     .await
//!     .unwrap();
//! });
//! let mut replay = recorder.replay();
//! loop {
//!     for seed in 0..3 {
//!         let again = Sim::new(SimConfig::seeded(seed));
//!         let node = again.node("server");
//!         again.install(node, &replay.power_cut(seed));
//!         // ... recover on `node` and check ...
//!     }
//!     if !replay.step() {
//!         break;
//!     }
//! }
//! ```
//!
//! # Not here
//! Metadata that is lost: creating, removing and replacing files is durable at once, only lengths
//! are not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::random::Rng;

/// What a device writes as a unit, in most cases: see [`TORN_ONE_IN`].
const SECTOR: usize = 512;

/// What persistent memory writes as a unit, in most cases, and what is never torn.
const LINE: usize = 64;
const WORD: usize = 8;

/// One in so many sectors hit by a power cut is torn inside, old behind new.
const TORN_ONE_IN: u64 = 16;

const PAGE: usize = 4096;

/// The bytes of a file. Copies share pages.
#[derive(Clone, Default, Debug)]
pub(super) struct Image {
    pub(super) len: u64,
    /// Pages that were never written are zero and absent.
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Image {
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (page, within, piece) in pieces(offset, bytes.len()) {
            let target = &mut bytes[piece.clone()];
            match self.pages.get(&page) {
                Some(content) => target.copy_from_slice(&content[within..within + piece.len()]),
                None => target.fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, piece) in pieces(offset, bytes.len()) {
            let content = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(content)[within..within + piece.len()].copy_from_slice(&bytes[piece]);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let touched: Vec<u64> =
            self.pages.range(offset / PAGE as u64..end.div_ceil(PAGE as u64)).map(|(&page, _)| page).collect();
        for page in touched {
            let start = page * PAGE as u64;
            let from = offset.saturating_sub(start) as usize;
            let to = (end - start).min(PAGE as u64) as usize;
            if (from, to) == (0, PAGE) {
                self.pages.remove(&page);
            } else if let Some(content) = self.pages.get_mut(&page) {
                Arc::make_mut(content)[from..to].fill(0);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        self.zero(len, u64::MAX - len);
        self.len = len;
    }

    fn flip_bit(&mut self, bit: u64) {
        let mut byte = [0];
        self.read(bit / 8, &mut byte);
        let len = self.len;
        self.write(bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
        self.len = len;
    }
}

/// Splits a byte range at page ends: page number, offset in it, range of the caller's bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let count = (PAGE - within).min(len - done);
        let piece = done..done + count;
        done += count;
        Some((at / PAGE as u64, within, piece))
    })
}

/// A change of one file that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Zero { offset: u64, len: u64 },
    SetLen(u64),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, bytes } => image.write(*offset, bytes),
            Change::Zero { offset, len } => image.zero(*offset, *len),
            Change::SetLen(len) => image.set_len(*len),
        }
    }

    /// The bytes it may alter in a file that is now as in `image`.
    fn range(&self, image: &Image) -> (u64, u64) {
        match self {
            Change::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Change::Zero { offset, len } => (*offset, (*len).min(image.len.saturating_sub(*offset))),
            Change::SetLen(_) => (0, 0),
        }
    }
}

#[derive(Clone, Debug)]
struct Pending {
    id: ChangeId,
    change: Change,
    /// The call that made it has not returned yet, so no sync may count on it.
    is_in_flight: bool,
}

pub(super) type ChangeId = u64;

/// One file.
#[derive(Clone, Default, Debug)]
pub(super) struct File {
    live: Image,
    durable: Image,
    pending: Vec<Pending>,
    /// Mapped persistent memory: what tears is a cache line, and in it a word is whole.
    is_mapped: bool,
}

impl File {
    pub(super) fn live(&self) -> &Image {
        &self.live
    }

    fn begin(&mut self, id: ChangeId, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(Pending { id, change, is_in_flight: true });
    }

    pub(super) fn complete(&mut self, id: ChangeId) {
        if let Some(pending) = self.pending.iter_mut().rev().find(|pending| pending.id == id) {
            pending.is_in_flight = false;
        }
    }

    /// The changes that a sync beginning now will cover, in order.
    pub(super) fn completed(&self) -> Vec<ChangeId> {
        self.pending.iter().filter(|pending| !pending.is_in_flight).map(|pending| pending.id).collect()
    }

    /// Makes the changes in `covered` durable.
    fn sync(&mut self, covered: &[ChangeId]) {
        let File { durable, pending, .. } = self;
        pending.retain(|pending| {
            let is_covered = covered.binary_search(&pending.id).is_ok();
            if is_covered {
                pending.change.apply(durable);
            }
            !is_covered
        });
    }

    /// Forgets that changes are pending without making them durable: the next power cut undoes them.
    pub(super) fn forget(&mut self, lost: impl Fn(ChangeId) -> bool) {
        self.pending.retain(|pending| !lost(pending.id));
    }

    fn flip_bit(&mut self, bit: u64) {
        self.live.flip_bit(bit);
        self.durable.flip_bit(bit);
    }

    /// What is there when the power returns.
    fn power_cut(&mut self, rng: &mut Rng) {
        let mut image = self.durable.clone();
        match rng.below(8) {
            // The device had written nothing yet, or everything, or it kept the order.
            0 => {}
            1 => image = self.live.clone(),
            2 | 3 => {
                let kept = rng.between(0, self.pending.len() as u64) as usize;
                self.pending[..kept].iter().for_each(|pending| pending.change.apply(&mut image));
            }
            _ => image = self.shuffled(rng),
        }
        *self = File { live: image.clone(), durable: image, ..File::default() };
    }

    /// Each sector takes any of the contents it has had since it was last durable.
    fn shuffled(&self, rng: &mut Rng) -> Image {
        let (unit, whole) = if self.is_mapped { (LINE, WORD) } else { (SECTOR, 1) };
        // File systems order changes of length among themselves: those up to `lengths` have happened.
        let lengths = rng.between(0, self.pending.len() as u64) as usize;
        let mut len = self.durable.len;
        let mut image = self.durable.clone();
        // The file as it was seen after each change, and how many contents each sector has had.
        let mut seen = self.durable.clone();
        let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
        for (index, pending) in self.pending.iter().enumerate() {
            let (offset, count) = pending.change.range(&seen);
            pending.change.apply(&mut seen);
            if index < lengths {
                len = seen.len;
                if let Change::SetLen(len) = pending.change {
                    image.set_len(len);
                }
            }
            if count == 0 {
                continue;
            }
            for sector in offset / unit as u64..(offset + count).div_ceil(unit as u64) {
                let version = versions.entry(sector).or_insert(0);
                *version += 1;
                // Reservoir sampling: in the end every content had the same chance.
                if rng.below(*version + 1) == 0 {
                    let mut new = [0; SECTOR];
                    seen.read(sector * unit as u64, &mut new[..unit]);
                    let kept = match rng.below(TORN_ONE_IN) {
                        0 => rng.below((unit / whole) as u64) as usize * whole,
                        _ => unit,
                    };
                    image.write(sector * unit as u64, &new[..kept]);
                }
            }
        }
        image.set_len(len);
        image
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct FileId(u64);

/// The directory tree of one node.
#[derive(Clone, Debug)]
pub struct Volume {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, FileId>,
    /// Also those without a name that someone may still have open.
    files: BTreeMap<FileId, File>,
    files_made: u64,
    changes_made: u64,
    capacity: u64,
}

/// One thing that happened to a volume.
#[derive(Clone, Debug)]
pub(super) enum DeviceEvent {
    MakeDir(PathBuf),
    Create(PathBuf),
    /// Durable at once: see `fs::write_atomic`.
    Replace(PathBuf, Arc<[u8]>),
    Remove(PathBuf),
    Begin(FileId, Change),
    Synced(FileId, Vec<ChangeId>),
    /// It is persistent memory from now on, until the power is cut.
    Map(FileId),
}

impl Volume {
    pub(super) fn new(capacity: u64) -> Volume {
        let dirs = BTreeSet::from([PathBuf::from("/"), PathBuf::new()]);
        let (names, files) = (BTreeMap::new(), BTreeMap::new());
        Volume { dirs, names, files, files_made: 0, changes_made: 0, capacity }
    }

    /// Makes `event` happen. Every change of a volume goes through here, so that a recording of the
    /// events says all.
    pub(super) fn apply(&mut self, event: &DeviceEvent) {
        match event {
            DeviceEvent::MakeDir(path) => {
                self.dirs.extend(path.ancestors().map(Path::to_owned));
            }
            DeviceEvent::Create(path) => {
                self.create(path);
            }
            DeviceEvent::Replace(path, bytes) => {
                let id = self.create(path);
                let mut image = Image::default();
                image.write(0, bytes);
                self.files.insert(id, File { live: image.clone(), durable: image, ..File::default() });
            }
            DeviceEvent::Remove(path) => {
                self.names.retain(|name, _| !name.starts_with(path));
                self.dirs.retain(|dir| !dir.starts_with(path));
            }
            DeviceEvent::Map(file) => {
                self.files.get_mut(file).expect("a file that was made").is_mapped = true;
            }
            DeviceEvent::Begin(file, change) => {
                self.changes_made += 1;
                let id = self.changes_made;
                self.files.get_mut(file).expect("a file that was made").begin(id, change.clone());
            }
            DeviceEvent::Synced(file, covered) => {
                self.files.get_mut(file).expect("a file that was made").sync(covered);
            }
        }
    }

    fn create(&mut self, path: &Path) -> FileId {
        self.files_made += 1;
        let id = FileId(self.files_made);
        self.names.insert(path.to_owned(), id);
        self.files.insert(id, File::default());
        id
    }

    /// The number of the change that `Begin` made last.
    pub(super) fn last_change(&self) -> ChangeId {
        self.changes_made
    }

    pub(super) fn find(&self, path: &Path) -> Option<FileId> {
        self.names.get(path).copied()
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.dirs.contains(path)
    }

    pub(super) fn file(&self, id: FileId) -> &File {
        self.files.get(&id).expect("a file that was made")
    }

    pub(super) fn file_mut(&mut self, id: FileId) -> &mut File {
        self.files.get_mut(&id).expect("a file that was made")
    }

    /// The names directly in a directory, sorted.
    pub(super) fn list(&self, dir: &Path) -> Vec<PathBuf> {
        let all = self.names.keys().chain(&self.dirs);
        let mut found: Vec<PathBuf> = all.filter(|path| path.parent() == Some(dir)).cloned().collect();
        found.sort();
        found
    }

    pub(super) fn used(&self) -> u64 {
        self.names.values().map(|id| self.file(*id).live.len).sum()
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    pub(super) fn flip_bit(&mut self, path: &Path, bit: u64) {
        let id = self.find(path).unwrap_or_else(|| panic!("flip a bit of {}: there is no such file", path.display()));
        self.file_mut(id).flip_bit(bit);
    }

    /// Cuts the power: see the module's header.
    pub(super) fn power_cut(&mut self, rng: &mut Rng) {
        self.forget_nameless();
        self.files.values_mut().for_each(|file| file.power_cut(rng));
    }

    /// The process dies and the kernel lives: it carries out what it was asked to.
    pub(super) fn process_ends(&mut self) {
        self.forget_nameless();
        for file in self.files.values_mut() {
            file.pending.iter_mut().for_each(|pending| pending.is_in_flight = false);
        }
    }

    /// Files without a name vanish with their last user.
    fn forget_nameless(&mut self) {
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        self.files.retain(|id, _| named.contains(id));
    }
}

/// Notes what happens to the disks of one node: [`super::Sim::record`].
#[derive(Clone)]
pub struct Recorder {
    start: Arc<Volume>,
    events: Arc<Mutex<Vec<DeviceEvent>>>,
}

impl Recorder {
    pub(super) fn new(start: Volume) -> Recorder {
        Recorder { start: Arc::new(start), events: Arc::default() }
    }

    pub(super) fn note(&self, event: DeviceEvent) {
        self.lock().push(event);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<DeviceEvent>> {
        self.events.lock().expect("no code panics while it holds the recording")
    }

    /// How many device events there have been. Note it when an operation is acknowledged: the
    /// operation must survive a power cut after that many events or more.
    pub fn events(&self) -> usize {
        self.lock().len()
    }

    /// Goes through the recording from its start, event by event.
    pub fn replay(&self) -> Replay {
        Replay { recorder: self.clone(), volume: (*self.start).clone(), done: 0 }
    }

    /// The disks after `events` device events and then a power cut, `seed` deciding what becomes of
    /// the unsynced writes. For many of them in order, [`Recorder::replay`] costs less.
    pub fn power_cut(&self, events: usize, seed: u64) -> Volume {
        let mut replay = self.replay();
        while replay.done < events && replay.step() {}
        replay.power_cut(seed)
    }
}

/// A recording being gone through.
pub struct Replay {
    recorder: Recorder,
    volume: Volume,
    done: usize,
}

impl Replay {
    /// How many events have happened.
    pub fn events(&self) -> usize {
        self.done
    }

    /// Lets the next event happen; false if there is none.
    pub fn step(&mut self) -> bool {
        let event = self.recorder.lock().get(self.done).cloned();
        if let Some(event) = &event {
            self.volume.apply(event);
            self.done += 1;
        }
        event.is_some()
    }

    /// The disks if the power failed now, `seed` deciding what becomes of the unsynced writes.
    pub fn power_cut(&self, seed: u64) -> Volume {
        let mut volume = self.volume.clone();
        volume.power_cut(&mut Rng::seeded(seed));
        volume
    }

    /// The disks if the process died now: nothing is lost.
    pub fn kill(&self) -> Volume {
        let mut volume = self.volume.clone();
        volume.process_ends();
        volume
    }
}

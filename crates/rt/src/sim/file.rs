//! Files and directories as seen by the programs of a simulated node: what [`crate::disk`] calls.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::disk::{Change, ChangeId, DeviceEvent, FileId, Recorder, Volume};
use super::executor::here;
use super::world::{Place, Shared, World};
use super::{DiskFault, NodeId};
use crate::disk::{DiskError, IoBuf, OpenMode};
use crate::fault::When;
use crate::time::nanos;

/// The disks of one node, and what a test has in store for them.
pub(super) struct NodeDisk {
    pub(super) volume: Volume,
    pub(super) recorder: Option<Recorder>,
    /// By handle number.
    locks: Vec<(FileId, u64)>,
    faults: Vec<(PathBuf, DiskFault, When)>,
    handles_made: u64,
}

impl NodeDisk {
    pub(super) fn new(volume: Volume) -> NodeDisk {
        NodeDisk { volume, recorder: None, locks: Vec::new(), faults: Vec::new(), handles_made: 0 }
    }

    pub(super) fn apply(&mut self, event: DeviceEvent) {
        self.volume.apply(&event);
        if let Some(recorder) = &self.recorder {
            recorder.note(event);
        }
    }

    pub(super) fn add_fault(&mut self, path: &Path, fault: DiskFault, when: When) {
        self.faults.push((normal(path), fault, when));
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn unlock_all(&mut self) {
        self.locks.clear();
    }
}

/// What the dice and the armed faults say to one operation.
struct Fate {
    takes: u64,
    fails: Option<io::ErrorKind>,
    is_lie: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
}

impl Kind {
    fn verb(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Sync => "sync",
        }
    }
}

fn fate(world: &mut World, node: NodeId, path: &Path, kind: Kind) -> Fate {
    let timing = match kind {
        Kind::Read => &world.config.disk.read,
        Kind::Write => &world.config.disk.write,
        Kind::Sync => &world.config.disk.sync,
    };
    let (low, high) = (nanos(*timing.start()), nanos(*timing.end()));
    let mut fate = Fate { takes: world.disk_rng.between(low, high), fails: None, is_lie: false };
    let mut faults = std::mem::take(&mut world.node_mut(node).disk.faults);
    for (prefix, fault, when) in &mut faults {
        let concerns = match fault {
            DiskFault::ReadError => kind == Kind::Read,
            DiskFault::WriteError | DiskFault::Full => kind == Kind::Write,
            DiskFault::SyncError | DiskFault::LostSync => kind == Kind::Sync,
            DiskFault::Stall(_) => true,
        };
        if !concerns || !path.starts_with(&*prefix) || !when.strikes(|| world.disk_rng.next_u64()) {
            continue;
        }
        match fault {
            DiskFault::ReadError | DiskFault::WriteError | DiskFault::SyncError => {
                fate.fails = Some(io::ErrorKind::Other);
            }
            DiskFault::Full => fate.fails = Some(io::ErrorKind::StorageFull),
            DiskFault::LostSync => fate.is_lie = true,
            DiskFault::Stall(time) => fate.takes += nanos(*time),
        }
    }
    world.node_mut(node).disk.faults = faults;
    fate
}

fn device_error(kind: io::ErrorKind) -> io::Error {
    match kind {
        io::ErrorKind::Other => io::Error::other("input/output error (injected)"),
        kind => kind.into(),
    }
}

fn dead() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the simulated process is dead")
}

/// One open file of a simulated node. Unlocks when dropped.
pub(crate) struct SimFile {
    shared: Arc<Shared>,
    place: Place,
    file: FileId,
    handle: u64,
    pub(crate) path: PathBuf,
}

impl SimFile {
    pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<SimFile, DiskError> {
        let (shared, place) = here();
        let path = normal(path);
        let failed = |kind: io::ErrorKind| DiskError::new("open", &path, kind.into());
        let mut world = shared.world();
        if !world.is_alive(place) {
            return Err(DiskError::new("open", &path, dead()));
        }
        let disk = &mut world.node_mut(place.node).disk;
        let file = match disk.volume.find(&path) {
            Some(file) => file,
            None if disk.volume.is_dir(&path) => return Err(failed(io::ErrorKind::IsADirectory)),
            None if !mode.create || !has_parent(&disk.volume, &path) => return Err(failed(io::ErrorKind::NotFound)),
            None => {
                disk.apply(DeviceEvent::Create(path.clone()));
                disk.volume.find(&path).expect("just created")
            }
        };
        disk.handles_made += 1;
        let handle = disk.handles_made;
        drop(world);
        let opened = SimFile { shared, place, file, handle, path };
        if mode.exclusive_lock {
            opened.try_lock_exclusive()?;
        }
        Ok(opened)
    }

    /// As persistent memory, which tears at cache lines.
    pub(crate) fn open_mapped(path: &Path) -> Result<SimFile, DiskError> {
        let mapped = SimFile::open(path, OpenMode::default())?;
        mapped.with_disk("map", |disk| {
            disk.apply(DeviceEvent::Map(mapped.file));
            Ok(())
        })?;
        Ok(mapped)
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> DiskError {
        DiskError::new(operation, &self.path, error)
    }

    /// Runs `act` on the disk, unless the process that opened the file is dead.
    fn with_disk<R>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut NodeDisk) -> io::Result<R>,
    ) -> Result<R, DiskError> {
        let mut world = self.shared.world();
        if !world.is_alive(self.place) {
            return Err(self.failed(operation, dead()));
        }
        world.note(3, self.handle);
        act(&mut world.node_mut(self.place.node).disk).map_err(|error| self.failed(operation, error))
    }

    pub(crate) fn len(&self) -> Result<u64, DiskError> {
        self.with_disk("measure", |disk| Ok(disk.volume.file(self.file).live().len))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.with_disk("resize", |disk| {
            self.change(disk, Change::SetLen(len)).map(|id| disk.volume.file_mut(self.file).complete(id))
        })
    }

    pub(crate) fn allocate(&self, len: u64) -> Result<(), DiskError> {
        if len <= self.len()? { Ok(()) } else { self.set_len(len) }
    }

    pub(crate) fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.with_disk("discard", |disk| {
            self.change(disk, Change::Zero { offset, len }).map(|id| disk.volume.file_mut(self.file).complete(id))
        })
    }

    /// Begins a change, if there is room for it.
    fn change(&self, disk: &mut NodeDisk, change: Change) -> io::Result<ChangeId> {
        let present = disk.volume.file(self.file).live().len;
        let end = match &change {
            Change::Write { offset, bytes } => offset.checked_add(bytes.len() as u64),
            Change::Zero { .. } => Some(0),
            Change::SetLen(len) => Some(*len),
        };
        let end = end.filter(|&end| end <= i64::MAX as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        if end.saturating_sub(present) > disk.volume.free() && end > present {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.apply(DeviceEvent::Begin(self.file, change));
        Ok(disk.volume.last_change())
    }

    pub(crate) fn read_now(&self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.block(Kind::Read)?;
        self.with_disk("read", |disk| fill(disk.volume.file(self.file), offset, bytes))
    }

    pub(crate) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.block(Kind::Write)?;
        self.with_disk("write", |disk| {
            self.change(disk, Change::Write { offset, bytes: bytes.into() })
                .map(|id| disk.volume.file_mut(self.file).complete(id))
        })
    }

    pub(crate) fn sync_now(&self) -> Result<(), DiskError> {
        let fate = self.fate(Kind::Sync)?;
        let covered = self.with_disk("sync", |disk| Ok(disk.volume.file(self.file).completed()))?;
        let mut world = self.shared.world();
        world.pass(fate.takes);
        self.finish_sync(&mut world, covered, &fate).map_err(|error| self.failed("sync", error))
    }

    fn fate(&self, kind: Kind) -> Result<Fate, DiskError> {
        let mut world = self.shared.world();
        if !world.is_alive(self.place) {
            return Err(self.failed(kind.verb(), dead()));
        }
        Ok(fate(&mut world, self.place.node, &self.path, kind))
    }

    /// A synchronous transfer: time passes, and an armed fault strikes.
    fn block(&self, kind: Kind) -> Result<(), DiskError> {
        let fate = self.fate(kind)?;
        self.shared.world().pass(fate.takes);
        match fate.fails {
            Some(error) => Err(self.failed(kind.verb(), device_error(error))),
            None => Ok(()),
        }
    }

    fn finish_sync(&self, world: &mut World, covered: Vec<ChangeId>, fate: &Fate) -> io::Result<()> {
        finish_sync(world, self.place.node, self.file, covered, fate)
    }

    pub(crate) async fn read(&self, offset: u64, mut buffer: IoBuf) -> (io::Result<()>, IoBuf) {
        let fate = match self.fate(Kind::Read) {
            Ok(fate) => fate,
            Err(error) => return (Err(error.into()), buffer),
        };
        // A read changes nothing, so it may as well take place at its end, in the caller's hands.
        self.pass(fate.takes).await;
        let outcome = match fate.fails {
            Some(error) => Err(self.failed("read", device_error(error))),
            None => self.with_disk("read", |disk| fill(disk.volume.file(self.file), offset, &mut buffer)),
        };
        (outcome.map_err(io::Error::from), buffer)
    }

    /// Begins at once; ends by itself even if this future is dropped.
    pub(crate) async fn write(&self, offset: u64, buffer: IoBuf) -> (io::Result<()>, IoBuf) {
        let begun = self.fate(Kind::Write).and_then(|fate| match fate.fails {
            Some(_) => Ok((fate, None)),
            None => {
                let change = Change::Write { offset, bytes: buffer[..].into() };
                self.with_disk("write", |disk| self.change(disk, change)).map(|id| (fate, Some(id)))
            }
        });
        let (fate, id) = match begun {
            Ok(begun) => begun,
            Err(error) => return (Err(error.into()), buffer),
        };
        let (place, file) = (self.place, self.file);
        self.later(fate.takes, move |world| {
            if let Some(id) = id
                && world.is_alive(place)
            {
                world.node_mut(place.node).disk.volume.file_mut(file).complete(id);
            }
        })
        .await;
        let outcome = fate.fails.map_or(Ok(()), |error| Err(self.failed("write", device_error(error)).into()));
        (outcome, buffer)
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        let fate = self.fate(Kind::Sync)?;
        let covered = self.with_disk("sync", |disk| Ok(disk.volume.file(self.file).completed()))?;
        let (place, file) = (self.place, self.file);
        let outcome = self
            .later(fate.takes, move |world| {
                if world.is_alive(place) { finish_sync(world, place.node, file, covered, &fate) } else { Err(dead()) }
            })
            .await;
        outcome.map_err(|error| self.failed("sync", error).into())
    }

    /// Runs `end` after `takes` nanoseconds, whether or not anybody still waits for it.
    async fn later<R: Send + 'static>(&self, takes: u64, end: impl FnOnce(&mut World) -> R + Send + 'static) -> R {
        let (done, result) = oneshot::channel();
        {
            let mut world = self.shared.world();
            let at = world.peek_now() + takes;
            world.call_at(at, move |shared| {
                let value = end(&mut shared.world());
                let _ = done.send(value);
            });
        }
        result.await.expect("a scheduled event takes place while its simulation runs")
    }

    async fn pass(&self, takes: u64) {
        crate::time::sleep(Duration::from_nanos(takes)).await;
    }

    pub(crate) fn try_lock_exclusive(&self) -> Result<(), DiskError> {
        let is_ours = self.with_disk("lock", |disk| {
            let holder = disk.locks.iter().find(|(file, _)| *file == self.file).map(|(_, handle)| *handle);
            if holder.is_none() {
                disk.locks.push((self.file, self.handle));
            }
            Ok(holder.is_none_or(|holder| holder == self.handle))
        })?;
        if is_ours { Ok(()) } else { Err(DiskError::Locked { path: self.path.clone(), holder: None }) }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = self.shared.world();
        if world.is_alive(self.place) {
            world.node_mut(self.place.node).disk.locks.retain(|(_, handle)| *handle != self.handle);
        }
    }
}

fn fill(file: &super::disk::File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    let end = offset.checked_add(bytes.len() as u64);
    if end.is_none_or(|end| end > file.live().len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.live().read(offset, bytes);
    Ok(())
}

fn finish_sync(world: &mut World, node: NodeId, file: FileId, covered: Vec<ChangeId>, fate: &Fate) -> io::Result<()> {
    if let Some(error) = fate.fails {
        // As kernels do: what could not be written is marked clean, so a later sync will not try
        // again. The dice say which changes that concerns; the others did reach the device.
        let saved: Vec<ChangeId> = covered.iter().copied().filter(|_| world.disk_rng.chance(0.5)).collect();
        let disk = &mut world.node_mut(node).disk;
        disk.apply(DeviceEvent::Synced(file, saved.clone()));
        disk.volume.file_mut(file).forget(|id| covered.contains(&id));
        return Err(device_error(error));
    }
    if !fate.is_lie {
        world.node_mut(node).disk.apply(DeviceEvent::Synced(file, covered));
    }
    Ok(())
}

/// The path with "." and doubled or trailing slashes gone, as the tree spells it.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|component| !matches!(component, Component::CurDir)).collect()
}

fn has_parent(volume: &Volume, path: &Path) -> bool {
    path.parent().is_some_and(|parent| volume.is_dir(parent))
}

/// Runs `act` on the current node's disks, for the calls of `disk::fs`.
fn on_tree<R>(
    operation: &'static str,
    path: &Path,
    act: impl FnOnce(&mut NodeDisk, &Path) -> Result<R, io::ErrorKind>,
) -> Result<R, DiskError> {
    let (shared, place) = here();
    let path = normal(path);
    let mut world = shared.world();
    if !world.is_alive(place) {
        return Err(DiskError::new(operation, &path, dead()));
    }
    let outcome = act(&mut world.node_mut(place.node).disk, &path);
    outcome.map_err(|kind| DiskError::new(operation, &path, kind.into()))
}

pub(crate) fn create_dir_all(path: &Path) -> Result<(), DiskError> {
    on_tree("create", path, |disk, path| {
        if path.ancestors().any(|above| disk.volume.find(above).is_some()) {
            return Err(io::ErrorKind::NotADirectory);
        }
        if !disk.volume.is_dir(path) {
            disk.apply(DeviceEvent::MakeDir(path.to_owned()));
        }
        Ok(())
    })
}

pub(crate) fn exists(path: &Path) -> bool {
    on_tree("look up", path, |disk, path| Ok(disk.volume.find(path).is_some() || disk.volume.is_dir(path)))
        .unwrap_or(false)
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DiskError> {
    on_tree("read", path, |disk, path| {
        let file = disk.volume.find(path).ok_or(io::ErrorKind::NotFound)?;
        let image = disk.volume.file(file).live();
        let mut bytes = vec![0; image.len as usize];
        image.read(0, &mut bytes);
        Ok(bytes)
    })
}

pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    on_tree("write", path, |disk, path| {
        if disk.volume.is_dir(path) {
            return Err(io::ErrorKind::IsADirectory);
        }
        if !has_parent(&disk.volume, path) {
            return Err(io::ErrorKind::NotFound);
        }
        if bytes.len() as u64 > disk.volume.free() {
            return Err(io::ErrorKind::StorageFull);
        }
        disk.apply(DeviceEvent::Replace(path.to_owned(), bytes.into()));
        Ok(())
    })
}

pub(crate) fn remove_file(path: &Path) -> Result<(), DiskError> {
    on_tree("remove", path, |disk, path| {
        disk.volume.find(path).ok_or(io::ErrorKind::NotFound)?;
        disk.apply(DeviceEvent::Remove(path.to_owned()));
        Ok(())
    })
}

pub(crate) fn remove_dir_all(path: &Path) -> Result<(), DiskError> {
    on_tree("remove", path, |disk, path| {
        if !disk.volume.is_dir(path) {
            return Err(io::ErrorKind::NotFound);
        }
        disk.apply(DeviceEvent::Remove(path.to_owned()));
        Ok(())
    })
}

pub(crate) fn read_dir(path: &Path) -> Result<Vec<PathBuf>, DiskError> {
    on_tree("list", path, |disk, path| {
        if disk.volume.is_dir(path) { Ok(disk.volume.list(path)) } else { Err(io::ErrorKind::NotFound) }
    })
}

pub(crate) fn free_space(path: &Path) -> Result<u64, DiskError> {
    on_tree("measure", path, |disk, _| Ok(disk.volume.free()))
}

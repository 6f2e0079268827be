//! Opening a target: its regions, its store, its thread.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use media::{Backing, Device, DeviceWatch, Existing, Identity, Region, Regions};
use net::Limits;
use rt::Hlc;
use rt::disk::{Dax, Disk, DiskError, OpenMode};
use tokio::sync::oneshot;
use types::{Code, Error, TargetIndex};
use uuid::Uuid;

use super::Target;
use super::group::Groups;
use super::order::{TargetHandle, channel};
use super::resize::Resizer;
use crate::hold::HorizonHold;
use crate::sessions::Sessions;
use crate::widths::WantedWidths;

/// A part of a file or device.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    pub path: PathBuf,
    pub base: u64,
    pub bytes: u64,
    /// Take space from the file system only as the region fills. Cheap to make; a file system that
    /// fills up meanwhile stops the target.
    pub thin: bool,
    /// The file is the region's alone: it is made longer and shorter with it.
    pub own_file: bool,
    pub medium: Medium,
}

impl RegionConfig {
    pub(super) fn backing(&self) -> Backing {
        match (self.own_file, self.thin) {
            (false, _) => Backing::Device,
            (true, true) => Backing::Thin,
            (true, false) => Backing::File,
        }
    }
}

/// How a region is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// By reads, writes and syncs.
    #[default]
    Disk,
    /// Persistent memory, mapped: for logs.
    Pmem,
    /// Any file, mapped as if it were.
    EmulatedPmem,
}

/// Where one target keeps its data, and how much memory it may use.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    pub index: TargetIndex,
    /// Names the target's store, so that a foreign or swapped device is noticed.
    pub store: Uuid,
    pub log: RegionConfig,
    /// Pages; absent: they share `data`.
    pub metadata: Option<RegionConfig>,
    /// Its bytes are what it is to have: a target that starts with another size gets this one in service.
    pub data: RegionConfig,
    /// Bytes of the page pool.
    pub memory: u64,
    /// A device that has not answered for so long has failed.
    pub io_timeout: Duration,
    /// Make the store anew, whatever the regions hold.
    pub format: bool,
}

/// What all targets of a server share.
#[derive(Clone)]
pub struct Shared {
    pub hlc: Hlc,
    pub hold: HorizonHold,
    pub widths: WantedWidths,
    pub limits: Limits,
    pub incarnation: u64,
    /// For what leaders of placement groups ask their members.
    pub lease: Duration,
}

/// Starts a target's thread and waits until its store is recovered.
///
/// # Errors
/// `Io` when a region cannot be opened; `BadFormat` when what it holds is not this target's store; `TimedOut` when a
/// device hangs: the target's thread may then wait for it for as long as the process lives.
pub async fn start(config: TargetConfig, shared: Shared) -> Result<(TargetHandle, rt::ThreadHandle<()>), Error> {
    let index = config.index;
    let io_timeout = config.io_timeout;
    let (handle, queues) = channel(index);
    let (opened, ready) = oneshot::channel();
    let watches = Watches::default();
    let seen = watches.clone();
    let thread = rt::spawn_thread(&format!("target-{index}"), move || async move {
        let target = match open(config, &shared, &watches).await {
            Ok(target) => target,
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        let _ = opened.send(Ok(target.media.watch()));
        let mut tasks = rt::TaskSet::new();
        tasks.spawn_local(target.clone().upkeep());
        target.carry_out(queues, shared.limits, shared.incarnation).await;
    })
    .map_err(|e| Error::new(Code::NoMemory, format!("cannot start a thread for target {index}: {e}")))?;
    let gone = |_| Error::new(Code::ShuttingDown, format!("target {index} ended while it was starting"));
    let mut ready = ready;
    let watch = loop {
        match rt::timeout(LOOK_EVERY, &mut ready).await {
            Ok(opened) => break opened.map_err(gone)??,
            // The target's thread waits for its device, and nothing can call it back.
            Err(_) => match seen.get().and_then(|all| all.iter().find_map(|watch| watch.held_up(io_timeout))) {
                Some(text) => return Err(hangs(index, &text)),
                None => continue,
            },
        }
    };
    handle.opened(watch, io_timeout);
    Ok((handle, thread))
}

/// The regions of a target that is being opened, for the thread that waits for it.
pub(super) type Watches = Arc<OnceLock<Vec<DeviceWatch>>>;

/// How often to look whether a target that is being opened is held up.
const LOOK_EVERY: Duration = Duration::from_millis(250);

fn hangs(index: TargetIndex, text: &str) -> Error {
    Error::new(Code::TimedOut, format!("target {index}: {text}"))
        .remedy("look after the device, then start the server again (`io_timeout` says how long one may take)")
}

pub(super) async fn open(config: TargetConfig, shared: &Shared, watches: &Watches) -> Result<Rc<Target>, Error> {
    let index = config.index;
    let io_timeout = config.io_timeout;
    let resizer = Resizer::new(config.data.bytes, config.data.backing());
    let (store, media) = open_watched(config, watches)?;
    media.set_io_timeout(io_timeout);
    // A calendar that was set back must not bring epochs that were used, or are forgotten.
    for id in store.pools().into_iter().flat_map(|pool| store.containers(pool)) {
        let info = store.container_info(id).map_err(|e| Error::new(Code::BadFormat, e.to_string()))?;
        shared.hlc.recover(info.max_epoch.max(info.horizon));
    }
    let mut store = store;
    store.start_clock(shared.hlc.now());
    media.start();
    Ok(Rc::new(Target {
        index,
        store: RefCell::new(store),
        media,
        hlc: shared.hlc.clone(),
        hold: shared.hold.clone(),
        widths: shared.widths.clone(),
        sessions: Sessions::default(),
        upkeep: Default::default(),
        holds: Default::default(),
        pace: Default::default(),
        scrubber: Default::default(),
        resizer,
        groups: Groups::new(shared.hlc.clone(), shared.lease),
    }))
}

/// Opens (or makes) a target's store and brings it up to date from its log.
///
/// # Errors
/// As [`start`]; `TimedOut`, when a device answers after more than its time.
pub fn open_store(config: TargetConfig) -> Result<(vos::Store, media::Store), Error> {
    open_watched(config, &Watches::default())
}

/// Opens as [`open_store`], under the eyes of whoever has `watches`.
fn open_watched(config: TargetConfig, watches: &Watches) -> Result<(vos::Store, media::Store), Error> {
    let index = config.index;
    let opened = open_regions(config, watches);
    // Whatever it said was late: the device is to be looked after before it holds a store.
    match watches.get().and_then(|all| all.iter().find_map(DeviceWatch::was_late)) {
        Some(text) => Err(hangs(index, &text)),
        None => opened,
    }
}

fn open_regions(config: TargetConfig, watches: &Watches) -> Result<(vos::Store, media::Store), Error> {
    let index = config.index;
    let open = |role, region: &RegionConfig| open_region(index, role, region, config.format);
    let regions = Regions {
        log: open("log", &config.log)?,
        metadata: config.metadata.as_ref().map(|region| open("metadata", region)).transpose()?,
        data: open("data", &config.data)?,
    };
    let all = [(Device::Log, Some(&regions.log)), (Device::Metadata, regions.metadata.as_ref())];
    let all = all.into_iter().chain([(Device::Data, Some(&regions.data))]);
    let all = all.filter_map(|(device, region)| Some((device, region?)));
    let look = |(device, region): (Device, &Region)| {
        region.set_io_timeout(config.io_timeout);
        DeviceWatch::new(device, region)
    };
    let _ = watches.set(all.map(look).collect());
    let memory = usize::try_from(config.memory).unwrap_or(usize::MAX);
    let bad = |cause: &dyn std::fmt::Display| Error::new(Code::BadFormat, format!("target {index}: {cause}"));
    if config.format {
        let identity = Identity { store: *config.store.as_bytes(), target: index.0 };
        // A start that stopped in mid-format comes here again: nothing was stored yet.
        let media = media::Store::format(regions, identity, memory, Existing::Destroy).map_err(|e| bad(&e))?;
        let store = vos::Store::format(media.clone()).map_err(|e| bad(&e))?;
        return Ok((store, media));
    }
    let (media, recovery) = media::Store::open(regions, memory).map_err(|e| bad(&e))?;
    if (media.uuid(), media.target()) != (*config.store.as_bytes(), index.0) {
        let text = format!("it holds target {} of another store", media.target());
        return Err(bad(&text).remedy("put the devices back in their places"));
    }
    let (store, recovered) = vos::Store::recover(media.clone(), recovery, &mut |_, _| ()).map_err(|e| bad(&e))?;
    for session in store.unreadable_sessions() {
        tracing::error!(target_index = %index, session = session.0, "what a session did cannot be read: its requests are refused");
    }
    if recovered.records > 0 {
        tracing::info!(target_index = %index, records = recovered.records, "recovered from the log");
    }
    Ok((store, media))
}

fn open_region(index: TargetIndex, role: &str, config: &RegionConfig, format: bool) -> Result<Region, Error> {
    let io = |e: DiskError| {
        let error = Error::new(Code::Io, format!("the {role} of target {index}: {e}"));
        match e {
            DiskError::NotFound { .. } => error.remedy("attach the device, or put the file back where it was"),
            _ => error,
        }
    };
    // What is missing is only made when all is made: an empty file in its place would hide that it is gone.
    let mode = OpenMode { create: format, direct: true, exclusive_lock: false };
    let mut disk = Disk::open(&config.path, mode).map_err(io)?;
    let end = config.base + config.bytes;
    if format && config.thin && disk.len().map_err(io)? < end {
        disk.set_len(end).map_err(io)?;
    }
    let dax = match config.medium {
        Medium::Disk => None,
        Medium::Pmem => Some(Dax::Required),
        Medium::EmulatedPmem => Some(Dax::Emulated),
    };
    if let Some(dax) = dax {
        // Reserved before it is mapped: a store into a hole that the file system cannot fill kills the process.
        if format {
            disk.allocate(end).map_err(io)?;
        }
        disk = Disk::open_mapped(&config.path, dax).map_err(io)?;
    }
    // How much of what there is belongs to a store that exists, its superblock says: it may be on its way to another
    // size.
    if !format {
        return Region::from_base(disk, config.base).map_err(io);
    }
    Ok(Region::new(disk, config.base, config.bytes))
}

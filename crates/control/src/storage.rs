//! Storage: who owns a directory or a device, and which part of it each target gets.
//!
//! # Shape
//! ```text
//!   <path>/lock            held for the life of the server
//!   <path>/storage.json    what was laid out: written before the targets are formatted (phase
//!                          "formatting"), and again when they are (phase "ready")
//!   <path>/service/        the control service's documents
//!   <path>/target-<n>/log, data       or regions of the devices named in the layout
//! ```
//!
//! # Always true
//! 1. One server at a time: the lock file, and on devices the store's own identity.
//! 2. A layout that exists is used as it is; settings that contradict it are an error that says so,
//!    never a reformat.
//! 3. A stop in mid-format is carried on by the next start; nothing was stored yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::target::open::{RegionConfig, TargetConfig};
use rt::disk::{Disk, DiskError, OpenMode, fs};
use serde::{Deserialize, Serialize};
use types::{ByteSize, Code, Error, TargetIndex};
use uuid::Uuid;
use wire::control::DeviceKind;

use crate::config::{BYTES_PER_TARGET_MIN, Config, Storage, default_bytes};

/// Log of one target: a share of its bytes, within these bounds.
const LOG_SHARE: u64 = 16;
const LOG_BYTES_MIN: u64 = 16 << 20;
const LOG_BYTES_MAX: u64 = 128 << 20;
/// Regions begin and end at multiples of this.
const ALIGNMENT: u64 = 1 << 20;

/// What was laid out. Durable as JSON in `storage.json`, version 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    version: u32,
    pub(crate) phase: Phase,
    pub(crate) store: Uuid,
    pub(crate) targets: Vec<TargetLayout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Formatting,
    Ready,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetLayout {
    /// Relative paths are below the storage directory, so that it can be moved.
    pub(crate) log: RegionLayout,
    pub(crate) data: RegionLayout,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionLayout {
    pub(crate) path: PathBuf,
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) thin: bool,
}

/// Storage that this process owns until it drops it.
pub struct Owned {
    directory: PathBuf,
    layout: Layout,
    io_timeout: Duration,
    _lock: Disk,
}

impl Owned {
    /// Takes the storage of `config`, laying it out if it is new.
    ///
    /// # Errors
    /// `Busy` when another process has it; `NoSpace` when it is too small; `Mismatch` when it was
    /// laid out otherwise than `config` says.
    pub fn take(config: &Config) -> Result<Owned, Error> {
        let directory = match &config.storage {
            Storage::Directory { path, .. } => path,
            Storage::Devices { metadata, .. } => metadata,
        };
        fs::create_dir_all(directory).map_err(io)?;
        let lock = lock(directory)?;
        let file = directory.join("storage.json");
        let layout = if fs::exists(&file) {
            let layout = read_layout(&file)?;
            agree(&layout, config, directory)?;
            layout
        } else {
            let layout = new_layout(config, directory)?;
            write_layout(&file, &layout)?;
            layout
        };
        Ok(Owned { directory: directory.clone(), layout, io_timeout: config.io_timeout, _lock: lock })
    }

    /// Where the control service keeps its documents.
    pub fn service_directory(&self) -> PathBuf {
        self.directory.join("service")
    }

    /// The targets, each with an even share of `memory`.
    ///
    /// # Errors
    /// `Io`, when a target's directory cannot be made.
    pub fn targets(&self, memory: u64) -> Result<Vec<TargetConfig>, Error> {
        let count = self.layout.targets.len() as u64;
        let mut targets = Vec::new();
        for (index, target) in self.layout.targets.iter().enumerate() {
            targets.push(TargetConfig {
                index: TargetIndex(index as u32),
                store: self.layout.store,
                log: self.region(&target.log)?,
                data: self.region(&target.data)?,
                memory: memory / count,
                io_timeout: self.io_timeout,
                format: self.layout.phase == Phase::Formatting,
            });
        }
        Ok(targets)
    }

    /// Path and kind of each target's data.
    pub fn devices(&self) -> Vec<(String, DeviceKind)> {
        let kind = |path: &Path| match Disk::open(path, OpenMode::default()) {
            Ok(disk) if disk.is_memory() => DeviceKind::Memory,
            Ok(disk) if disk.is_block_device() => DeviceKind::Block,
            _ => DeviceKind::File,
        };
        let device = |target: &TargetLayout| {
            let path = self.directory.join(&target.data.path);
            (path.display().to_string(), kind(&path))
        };
        self.layout.targets.iter().map(device).collect()
    }

    /// Says that every target is formatted.
    ///
    /// # Errors
    /// `Io`.
    pub fn formatted(&mut self) -> Result<(), Error> {
        if self.layout.phase == Phase::Formatting {
            self.layout.phase = Phase::Ready;
            write_layout(&self.directory.join("storage.json"), &self.layout)?;
        }
        Ok(())
    }

    fn region(&self, region: &RegionLayout) -> Result<RegionConfig, Error> {
        // An absolute path, a device's, stays itself under `join`.
        let path = self.directory.join(&region.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        Ok(RegionConfig { path, base: region.base, bytes: region.bytes, thin: region.thin })
    }
}

pub(crate) fn io(error: DiskError) -> Error {
    Error::new(Code::Io, error.to_string())
}

fn lock(directory: &Path) -> Result<Disk, Error> {
    let mode = OpenMode { create: true, direct: false, exclusive_lock: true };
    Disk::open(directory.join("lock"), mode).map_err(|error| match error {
        DiskError::Locked { holder, .. } => {
            let by = holder.map_or("another process".to_string(), |h| format!("process {} ({})", h.pid, h.command));
            Error::new(Code::Busy, format!("the storage at {} is in use by {by}", directory.display()))
                .remedy("stop that process, or choose another path")
        }
        other => io(other),
    })
}

fn new_layout(config: &Config, directory: &Path) -> Result<Layout, Error> {
    let count = u64::from(config.targets);
    let too_small = |bytes: u64, place: &str| {
        let least = ByteSize(BYTES_PER_TARGET_MIN);
        let text = format!("{} of {place} are too few for {count} targets", ByteSize(bytes));
        Error::new(Code::NoSpace, text)
            .remedy(format!("each target needs at least {least}: give more room, or use fewer targets"))
    };
    let mut targets = Vec::new();
    match &config.storage {
        Storage::Directory { bytes, .. } => {
            let free = fs::free_space(directory).map_err(io)?;
            // A size that nobody asked for must not be taken from the user's disk at once.
            let thin = bytes.is_none();
            let bytes = bytes.unwrap_or_else(|| default_bytes(free));
            if bytes > free {
                let text =
                    format!("{} do not fit at {}: {} are free", ByteSize(bytes), directory.display(), ByteSize(free));
                return Err(Error::new(Code::NoSpace, text).remedy("choose a smaller size or another path"));
            }
            let share = align_down(bytes / count);
            if share < BYTES_PER_TARGET_MIN {
                return Err(too_small(bytes, &directory.display().to_string()));
            }
            for index in 0..config.targets {
                let log_bytes = log_bytes(share);
                let path = |name: &str| PathBuf::from(format!("target-{index}")).join(name);
                targets.push(TargetLayout {
                    log: RegionLayout { path: path("log"), base: 0, bytes: log_bytes, thin: false },
                    data: RegionLayout { path: path("data"), base: 0, bytes: share - log_bytes, thin },
                });
            }
        }
        Storage::Devices { paths, .. } => {
            let devices = paths.len() as u64;
            for index in 0..count {
                let path = &paths[(index % devices) as usize];
                let disk = Disk::open(path, OpenMode::default()).map_err(io)?;
                let bytes = disk.len().map_err(io)?;
                // How many targets this device carries, and which of them this one is.
                let sharing = count / devices + u64::from(index % devices < count % devices);
                let share = align_down(bytes / sharing);
                if share < BYTES_PER_TARGET_MIN {
                    return Err(too_small(bytes, &path.display().to_string()));
                }
                let base = (index / devices) * share;
                let log_bytes = log_bytes(share);
                targets.push(TargetLayout {
                    log: RegionLayout { path: path.clone(), base, bytes: log_bytes, thin: false },
                    data: RegionLayout {
                        path: path.clone(),
                        base: base + log_bytes,
                        bytes: share - log_bytes,
                        thin: false,
                    },
                });
            }
        }
    }
    Ok(Layout { version: 1, phase: Phase::Formatting, store: rt::random_uuid(), targets })
}

fn log_bytes(share: u64) -> u64 {
    align_down((share / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX))
}

fn align_down(bytes: u64) -> u64 {
    bytes / ALIGNMENT * ALIGNMENT
}

/// A layout is for ever: what the settings say about new storage must not contradict it.
fn agree(layout: &Layout, config: &Config, directory: &Path) -> Result<(), Error> {
    let has = layout.targets.len();
    if config.targets_chosen && has != config.targets as usize {
        let text = format!("the storage at {} has {has} targets, not {}", directory.display(), config.targets);
        return Err(Error::new(Code::Mismatch, text).remedy("leave `targets` out to use what is there"));
    }
    Ok(())
}

pub(crate) fn read_layout(file: &Path) -> Result<Layout, Error> {
    let bytes = fs::read(file).map_err(io)?;
    decode_layout(&bytes).map_err(|why| {
        Error::new(Code::BadFormat, format!("{}: {why}", file.display()))
            .remedy("restore the file from a copy; the data of the targets is not touched")
    })
}

fn decode_layout(bytes: &[u8]) -> Result<Layout, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let layout: Layout = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match layout.version {
        1 if !layout.targets.is_empty() => Ok(layout),
        1 => Err("it names no target".to_string()),
        other => Err(format!("it has version {other}; this release reads 1")),
    }
}

fn write_layout(file: &Path, layout: &Layout) -> Result<(), Error> {
    let json = serde_json::to_vec_pretty(layout).expect("a layout holds only strings and numbers");
    fs::write_atomic(file, &json).map_err(io)
}

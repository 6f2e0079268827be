//! Storage: who owns a directory or a device, and which part of it each target gets.
//!
//! # Shape
//! ```text
//!   <path>/lock            held for the life of the server
//!   <path>/storage.json    what was laid out: written before the targets are formatted (phase
//!                          "formatting"), and again when they are (phase "ready")
//!   <path>/service/        the control service's documents
//!   <path>/target-<n>/log, data       or regions of the devices and directories named in the layout
//! ```
//!
//! # Always true
//! 1. One server at a time: the lock file; block devices are claimed from the kernel.
//! 2. A layout that exists is used as it is; settings that contradict it are an error that says so,
//!    never a reformat.
//! 3. How large the data of each target is to be, the layout says; how large it is, the target itself. The two differ
//!    while a target is being resized, over any number of restarts.
//! 4. A stop in mid-format is carried on by the next start; nothing was stored yet.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::target::open::{RegionConfig, TargetConfig};
use rt::disk::{Disk, DiskError, OpenMode, fs};
use types::{Code, Error, TargetIndex};
use wire::control::DeviceKind;

use crate::config::{Config, Storage};
use crate::device;
use crate::layout::{
    Layout, Phase, RegionLayout, TargetLayout, agree, is_own_file, new_layout, read_layout, resized, write_layout,
};

/// Pages in memory are at most this part of a target's data, if they lie there, too.
const PAGES_SHARE: u64 = 4;

/// Storage that this process owns until it drops it.
pub struct Owned {
    directory: PathBuf,
    layout: RefCell<Layout>,
    io_timeout: Duration,
    /// Keep block devices from being mounted while they are ours.
    _claims: Vec<Disk>,
    _lock: Disk,
}

impl Owned {
    /// Takes the storage of `config`, laying it out if it is new.
    ///
    /// # Errors
    /// `Busy` when another process has it, or a device is mounted; `NoSpace` when it is too small; `Mismatch`
    /// when it was laid out otherwise than `config` says; `Exists` when a device holds something.
    pub fn take(config: &Config) -> Result<Owned, Error> {
        let directory = match &config.storage {
            Storage::Directory { path, .. } => path,
            Storage::Devices { directory, .. } => directory,
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
            if !config.force {
                layout.paths(directory).iter().try_for_each(|path| device::refuse_foreign(path))?;
            }
            write_layout(&file, &layout)?;
            layout
        };
        let claims = device::claim(&layout.paths(directory))?;
        let io_timeout = config.io_timeout;
        Ok(Owned {
            directory: directory.clone(),
            layout: RefCell::new(layout),
            io_timeout,
            _claims: claims,
            _lock: lock,
        })
    }

    /// Where the control service keeps its documents.
    pub fn service_directory(&self) -> PathBuf {
        self.directory.join("service")
    }

    /// The targets, each with an even share of `memory`; of less, where its pages would leave pools too little of a small device.
    ///
    /// # Errors
    /// `Io`, when a target's directory cannot be made.
    pub fn targets(&self, memory: u64) -> Result<Vec<TargetConfig>, Error> {
        let layout = self.layout.borrow();
        let count = layout.targets.len() as u64;
        let mut targets = Vec::new();
        for (index, target) in layout.targets.iter().enumerate() {
            let own_file = is_own_file(&target.data, index as u64);
            targets.push(TargetConfig {
                index: TargetIndex(index as u32),
                store: layout.store,
                log: self.region(&target.log)?,
                metadata: target.metadata.as_ref().map(|region| self.region(region)).transpose()?,
                data: RegionConfig { own_file, ..self.region(&target.data)? },
                memory: match target.metadata {
                    Some(_) => memory / count,
                    // What a checkpoint may have to write is kept from pools.
                    None => (memory / count).min(target.data.bytes / PAGES_SHARE),
                },
                io_timeout: self.io_timeout,
                format: layout.phase == Phase::Formatting,
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
        self.layout.borrow().targets.iter().map(device).collect()
    }

    /// Says that every target is formatted.
    ///
    /// # Errors
    /// `Io`.
    pub fn formatted(&self) -> Result<(), Error> {
        let mut layout = self.layout.borrow().clone();
        if layout.phase == Phase::Formatting {
            layout.phase = Phase::Ready;
            self.change(layout)?;
        }
        Ok(())
    }

    /// Makes a layout durable, and takes it up.
    fn change(&self, layout: Layout) -> Result<(), Error> {
        write_layout(&self.directory.join("storage.json"), &layout)?;
        *self.layout.borrow_mut() = layout;
        Ok(())
    }

    fn region(&self, region: &RegionLayout) -> Result<RegionConfig, Error> {
        let config = region.config(&self.directory);
        if let Some(parent) = config.path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        Ok(config)
    }
}

impl engine::service::Layout for Owned {
    fn plan(&self, bytes: Option<u64>) -> Result<Vec<u64>, Error> {
        resized(&self.layout.borrow(), &self.directory, bytes)
    }

    fn keep(&self, wanted: &[u64]) -> Result<(), Error> {
        let mut layout = self.layout.borrow().clone();
        layout.targets.iter_mut().zip(wanted).for_each(|(target, bytes)| target.data.bytes = *bytes);
        self.change(layout)
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

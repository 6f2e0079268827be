//! The layout: which part of which file or device is which target's log, metadata and data.
//!
//! # Shape
//! Each role has a *source*: a directory, in which every target gets a file, or a row of devices, over which
//! targets are spread evenly, each with an even share. A role without a place of its own is cut from the
//! data's: the log from the front of each target's share; pages are not cut off at all, they mix with bulk.
//!
//! # Not here
//! Whether a device may be used (`device`), and what a store makes of its regions (`media`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use engine::target::open::{Medium, RegionConfig};
use rt::disk::{Disk, DiskError, OpenMode, fs};
use serde::{Deserialize, Serialize};
use types::{ByteSize, Code, Error};
use uuid::Uuid;

use crate::config::{self, BYTES_PER_TARGET_MIN, Config, Dax, Place, Storage, default_bytes};
use crate::storage::io;

/// Log of one target: a share of its bytes, within these bounds.
const LOG_SHARE: u64 = 16;
const LOG_BYTES_MIN: u64 = 16 << 20;
const LOG_BYTES_MAX: u64 = 128 << 20;
/// Of a device that is there for logs, a target takes no more: a log is empty again after each checkpoint.
const LOG_DEVICE_BYTES_MAX: u64 = 1 << 30;
/// Metadata in a directory of its own: such a share of the data, unless somebody says how much.
const METADATA_SHARE: u64 = 8;
const METADATA_BYTES_MIN: u64 = 16 << 20;
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
    /// Pages; absent: they share `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metadata: Option<RegionLayout>,
    /// Its bytes are what it is to have; how many it has, the target's superblock says.
    pub(crate) data: RegionLayout,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionLayout {
    pub(crate) path: PathBuf,
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    pub(crate) thin: bool,
    #[serde(default, skip_serializing_if = "RegionMedium::is_disk")]
    pub(crate) medium: RegionMedium,
}

impl RegionLayout {
    /// The region as a target opens it. An absolute path, a device's, is itself in any `directory`.
    pub(crate) fn config(&self, directory: &Path) -> RegionConfig {
        RegionConfig {
            path: directory.join(&self.path),
            base: self.base,
            bytes: self.bytes,
            thin: self.thin,
            own_file: false,
            medium: self.medium.into(),
        }
    }
}

/// How a region is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RegionMedium {
    #[default]
    Disk,
    Pmem,
    EmulatedPmem,
}

impl RegionMedium {
    fn is_disk(&self) -> bool {
        *self == RegionMedium::Disk
    }
}

impl From<RegionMedium> for Medium {
    fn from(medium: RegionMedium) -> Medium {
        match medium {
            RegionMedium::Disk => Medium::Disk,
            RegionMedium::Pmem => Medium::Pmem,
            RegionMedium::EmulatedPmem => Medium::EmulatedPmem,
        }
    }
}

impl TargetLayout {
    pub(crate) fn regions(&self) -> impl Iterator<Item = &RegionLayout> {
        [Some(&self.log), self.metadata.as_ref(), Some(&self.data)].into_iter().flatten()
    }
}

impl Layout {
    /// Every file and device, each once.
    pub(crate) fn paths(&self, directory: &Path) -> BTreeSet<PathBuf> {
        // An absolute path, a device's, stays itself under `join`.
        self.targets.iter().flat_map(TargetLayout::regions).map(|region| directory.join(&region.path)).collect()
    }
}

/// A layout for new storage.
///
/// # Errors
/// `NoSpace` when a place is too small; `Io` when it cannot be looked at; `Invalid` when it is not what the
/// configuration says.
pub(crate) fn new_layout(config: &Config, directory: &Path) -> Result<Layout, Error> {
    let count = u64::from(config.targets);
    let store = rt::random_uuid();
    let mut targets = Vec::new();
    for index in 0..count {
        let mut data = data_region(config, directory, index, count)?;
        // What a place of its own is measured by, where nothing else is said.
        let share = data.bytes;
        let log = match &config.log {
            Some(place) => {
                let most = LOG_DEVICE_BYTES_MAX;
                role_region("log", place, directory, Share { store, index, count }, log_bytes(share), LOG_BYTES_MIN)
                    .map(|region| RegionLayout { bytes: region.bytes.min(most), ..region })?
            }
            None => {
                let bytes = log_bytes(share);
                data.bytes -= bytes;
                match &config.storage {
                    Storage::Directory { .. } => {
                        let path = data.path.with_file_name("log");
                        RegionLayout { path, base: 0, bytes, thin: false, medium: RegionMedium::Disk }
                    }
                    Storage::Devices { .. } => {
                        let base = data.base;
                        data.base += bytes;
                        RegionLayout { base, bytes, thin: false, ..data.clone() }
                    }
                }
            }
        };
        let metadata = config.metadata.as_ref().map(|place| {
            let usual = align_down(share / METADATA_SHARE);
            let region =
                role_region("metadata", place, directory, Share { store, index, count }, usual, METADATA_BYTES_MIN)?;
            Ok::<_, Error>(RegionLayout { thin: data.thin, ..region })
        });
        targets.push(TargetLayout { log, metadata: metadata.transpose()?, data });
    }
    Ok(Layout { version: 1, phase: Phase::Formatting, store, targets })
}

/// The share of target `index` of the data's place, from which the log may yet be cut.
fn data_region(config: &Config, directory: &Path, index: u64, count: u64) -> Result<RegionLayout, Error> {
    let too_small = |bytes: u64, place: &Path| {
        let least = ByteSize(BYTES_PER_TARGET_MIN);
        let text = format!("{} of {} are too few for {count} targets", ByteSize(bytes), place.display());
        Error::new(Code::NoSpace, text)
            .remedy(format!("each target needs at least {least}: give more room, or use fewer targets"))
    };
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
                return Err(too_small(bytes, directory));
            }
            let path = own_file(index);
            Ok(RegionLayout { path, base: 0, bytes: share, thin, medium: RegionMedium::Disk })
        }
        Storage::Devices { paths, .. } => {
            let (path, bytes, sharing) = device_of(paths, index, count)?;
            let share = align_down(bytes / sharing);
            if share < BYTES_PER_TARGET_MIN {
                return Err(too_small(bytes, path));
            }
            let base = index / paths.len() as u64 * share;
            Ok(RegionLayout { path: path.clone(), base, bytes: share, thin: false, medium: RegionMedium::Disk })
        }
    }
}

/// Which share of a place: that of target `index` of `count`.
#[derive(Clone, Copy)]
struct Share {
    store: Uuid,
    index: u64,
    count: u64,
}

/// A share of a place that is there for one role. `usual` bytes where the place does not say how many.
fn role_region(
    role: &str,
    place: &Place,
    directory: &Path,
    share: Share,
    usual: u64,
    least: u64,
) -> Result<RegionLayout, Error> {
    let Share { store, index, count } = share;
    let number = place.paths.len() as u64;
    let path = directory.join(&place.paths[(index % number) as usize]);
    let medium = match place.medium {
        config::Medium::Pmem(Dax::Required) => RegionMedium::Pmem,
        config::Medium::Pmem(Dax::Emulated) => RegionMedium::EmulatedPmem,
        _ => RegionMedium::Disk,
    };
    let wanted = place.bytes.map(|bytes| align_down(bytes / count));
    let region = if fs::read_dir(&path).is_ok() {
        expect_medium(role, place, &path, false)?;
        let bytes = wanted.unwrap_or(usual);
        let free = fs::free_space(&path).map_err(io)?;
        let needed = bytes * sharing(index, count, number);
        if needed > free {
            let text =
                format!("{role}: {} do not fit at {}: {} are free", ByteSize(needed), path.display(), ByteSize(free));
            return Err(Error::new(Code::NoSpace, text).remedy("choose a smaller size or another path"));
        }
        // Servers may share the directory; each names its files by its store.
        let path = path.join(format!("{store}-target-{index}.{role}"));
        RegionLayout { path, base: 0, bytes, thin: false, medium }
    } else {
        let (_, bytes, _) = device_of(std::slice::from_ref(&path), 0, 1)?;
        let sharing = sharing(index, count, number);
        let is_block = Disk::open_read_only(&path).map_err(io)?.is_block_device();
        expect_medium(role, place, &path, is_block)?;
        let share = align_down(bytes / sharing);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > share) {
            let text = format!(
                "{role}: {} of {} are too few for {sharing} targets of {}",
                ByteSize(bytes),
                path.display(),
                ByteSize(wanted)
            );
            return Err(Error::new(Code::NoSpace, text).remedy("choose a smaller size, or leave it out"));
        }
        RegionLayout { path, base: index / number * share, bytes: wanted.unwrap_or(share), thin: false, medium }
    };
    if region.bytes < least {
        let text = format!("{role}: {} a target are too few", ByteSize(region.bytes));
        return Err(Error::new(Code::NoSpace, text).remedy(format!("give at least {}", ByteSize(least * count))));
    }
    Ok(region)
}

/// The device among `paths` that carries target `index`, its size, and how many targets it carries.
fn device_of(paths: &[PathBuf], index: u64, count: u64) -> Result<(&PathBuf, u64, u64), Error> {
    let number = paths.len() as u64;
    let path = &paths[(index % number) as usize];
    let bytes = Disk::open(path, OpenMode::default()).and_then(|disk| disk.len()).map_err(|error| match error {
        DiskError::NotFound { .. } => io(error)
            .remedy("name a block device, a directory, or a file that has its size already (`truncate -s 10G FILE`)"),
        other => io(other),
    })?;
    Ok((path, bytes, sharing(index, count, number)))
}

/// How many of `count` targets the device of target `index` carries, with `number` devices.
fn sharing(index: u64, count: u64, number: u64) -> u64 {
    count / number + u64::from(index % number < count % number)
}

/// The place is what the configuration says it is.
fn expect_medium(role: &str, place: &Place, path: &Path, is_block: bool) -> Result<(), Error> {
    let says = match place.medium {
        config::Medium::File if is_block => "a block device, not a file",
        config::Medium::Block if !is_block => "no block device",
        config::Medium::Pmem(_) if is_block => "a block device, which is not mapped; mount a DAX file system on it",
        _ => return Ok(()),
    };
    Err(Error::new(Code::Invalid, format!("{role}: {} is {says}", path.display()))
        .remedy("correct `medium` or the path"))
}

fn log_bytes(share: u64) -> u64 {
    align_down((share / LOG_SHARE).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX))
}

fn align_down(bytes: u64) -> u64 {
    bytes / ALIGNMENT * ALIGNMENT
}

/// The size of each target's data region, when all of them have `bytes` together; absent: what their devices have now.
///
/// # Errors
/// `Invalid`: it cannot be, with the reason; `NoSpace`: the file system or a device has not so much.
pub(crate) fn resized(layout: &Layout, directory: &Path, bytes: Option<u64>) -> Result<Vec<u64>, Error> {
    let share = bytes.map(|bytes| align_down(bytes / layout.targets.len() as u64));
    let mut wanted = Vec::with_capacity(layout.targets.len());
    let mut taken = 0;
    for (target, index) in layout.targets.iter().zip(0..) {
        let data = &target.data;
        if is_own_file(data, index) {
            let Some(share) = share else {
                let text = "the data lies in files, which have the size that they are given".to_string();
                return Err(Error::new(Code::Invalid, text).remedy("say how much: `dmg storage resize SIZE`"));
            };
            // Thin files, too: what is promised to pools should be there.
            taken += share.saturating_sub(data.bytes);
            wanted.push(share);
            continue;
        }
        let (_, device_bytes, _) = device_of(std::slice::from_ref(&directory.join(&data.path)), 0, 1)?;
        let regions = layout.targets.iter().flat_map(TargetLayout::regions);
        let behind = regions.filter(|region| region.path == data.path && region.base > data.base);
        // Up to there it may go again, after it was made smaller.
        let neighbour = behind.map(|region| region.base).min().filter(|base| *base < device_bytes);
        let room = neighbour.unwrap_or(device_bytes).saturating_sub(data.base);
        let share = share.unwrap_or(align_down(room));
        if let Some(base) = neighbour
            && share > room
        {
            let (file, end) = (data.path.display(), ByteSize(base));
            let text =
                format!("the data of target {index} cannot grow so far: another region follows it at {end} of {file}");
            return Err(Error::new(Code::Invalid, text).remedy("give each target a device of its own, in new storage"));
        }
        if share > room {
            let (has, end) = (ByteSize(device_bytes), ByteSize(data.base + share));
            let text = format!("{} has {has}, and target {index} would end at {end}", data.path.display());
            return Err(Error::new(Code::NoSpace, text).remedy("make the device larger first, or ask for less"));
        }
        wanted.push(share);
    }
    let free = fs::free_space(directory).map_err(io)?;
    if taken > free {
        let text =
            format!("{} more do not fit at {}: {} are free", ByteSize(taken), directory.display(), ByteSize(free));
        return Err(Error::new(Code::NoSpace, text).remedy("ask for less, or make room there"));
    }
    Ok(wanted)
}

/// Where the data of target `index` lies, when it has a file of its own.
fn own_file(index: u64) -> PathBuf {
    PathBuf::from(format!("target-{index}")).join("data")
}

/// Whether the region is a file of its own, which gets longer and shorter with it.
pub(crate) fn is_own_file(data: &RegionLayout, index: u64) -> bool {
    data.base == 0 && data.path == own_file(index)
}

/// A layout is for ever, but for the sizes of data: what the settings say about new storage must not contradict it.
///
/// # Errors
/// `Mismatch`, with what is there.
pub(crate) fn agree(layout: &Layout, config: &Config, directory: &Path) -> Result<(), Error> {
    let here = directory.display();
    let has = layout.targets.len();
    if config.targets_chosen && has != config.targets as usize {
        let text = format!("the storage at {here} has {has} targets, not {}", config.targets);
        return Err(Error::new(Code::Mismatch, text).remedy("leave `targets` out to use what is there"));
    }
    let data = match &config.storage {
        Storage::Devices { paths, .. } => Some(&paths[..]),
        Storage::Directory { .. } => None,
    };
    let of = |place: &'_ Option<Place>| place.as_ref().map(|place| place.paths.clone());
    type RegionOf = fn(&TargetLayout) -> Option<&RegionLayout>;
    let roles: [(&str, Option<Vec<PathBuf>>, RegionOf); 3] = [
        ("data", data.map(<[_]>::to_vec), |target| Some(&target.data)),
        ("log", of(&config.log), |target| Some(&target.log)),
        ("metadata", of(&config.metadata), |target| target.metadata.as_ref()),
    ];
    for (role, paths, region) in roles {
        let Some(paths) = paths else { continue };
        for (target, index) in layout.targets.iter().zip(0..) {
            let named = directory.join(&paths[index % paths.len()]);
            let (is_there, has) = match region(target) {
                Some(region) => {
                    let has = directory.join(&region.path);
                    (has == named || has.parent() == Some(&named), has.display().to_string())
                }
                None => (false, "the data".to_string()),
            };
            if !is_there {
                let text = format!(
                    "the storage at {here} has the {role} of target {index} with {has}, not on {}",
                    named.display()
                );
                return Err(Error::new(Code::Mismatch, text).remedy(format!(
                    "leave the place of the {role} out to use what is there; a device that only changed its name is \
                     told of in storage.json"
                )));
            }
        }
    }
    Ok(())
}

/// Reads a layout.
///
/// # Errors
/// `Io`; `BadFormat`, with what is wrong.
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

/// Writes a layout, whole or not at all.
///
/// # Errors
/// `Io`.
pub(crate) fn write_layout(file: &Path, layout: &Layout) -> Result<(), Error> {
    let json = serde_json::to_vec_pretty(layout).expect("a layout holds only strings and numbers");
    fs::write_atomic(file, &json).map_err(io)
}

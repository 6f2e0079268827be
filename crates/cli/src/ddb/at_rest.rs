//! Opening a target that no server runs.

use control::offline::{OfflineTarget, RegionConfig};
use media::{Corrupt, Glance, Recovery, Region, Regions};
use rt::disk::{Disk, DiskError, OpenMode};
use types::{Code, Error};
use vos::Opened;

/// Whether a target may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    /// For repair.
    Write,
}

/// A target opened to be looked at.
pub(crate) struct Looked {
    pub(crate) opened: Opened,
    /// Pages of the block bitmap, and the header of the log, that could not be read.
    pub(crate) damaged: Vec<Corrupt>,
}

/// The regions of a target.
///
/// # Errors
/// `NotFound`, `Io`; `Mismatch` when they end before they should.
pub(crate) fn regions(target: &OfflineTarget, access: Access) -> Result<Regions, Error> {
    let metadata = target.metadata.as_ref().map(|metadata| region(metadata, access)).transpose()?;
    // A data region may be on its way to another size; what there is of it, its superblock says.
    let data = RegionConfig { bytes: 0, ..target.data.clone() };
    Ok(Regions { log: region(&target.log, access)?, metadata, data: region(&data, access)? })
}

fn region(config: &RegionConfig, access: Access) -> Result<Region, Error> {
    let disk = match access {
        Access::ReadOnly => Disk::open_read_only(&config.path),
        Access::Write => Disk::open(&config.path, OpenMode::default()),
    };
    let io = |error: DiskError| Error::new(Code::Io, error.to_string()).remedy("check the path and its permissions");
    let disk = disk.map_err(io)?;
    let (has, needed) = (disk.len().map_err(io)?, config.base + config.bytes);
    if has < needed {
        let text = format!("{} has {has} bytes where {needed} are needed", config.path.display());
        return Err(Error::new(Code::Mismatch, text).remedy("restore the whole file from a copy"));
    }
    Region::from_base(disk, config.base).map_err(io)
}

/// The blocks that say who a target is.
///
/// # Errors
/// As [`regions`].
pub(crate) fn glance(target: &OfflineTarget) -> Result<Glance, Error> {
    Ok(media::Store::glance(&regions(target, Access::ReadOnly)?))
}

/// Opens the pages of a target; its log is still to be read.
///
/// # Errors
/// `BadFormat` when something that all else hangs on cannot be read; `Mismatch` for another's store.
pub(crate) fn open(
    target: &OfflineTarget,
    access: Access,
    memory: usize,
) -> Result<(media::Store, Recovery, Vec<Corrupt>), Error> {
    let regions = regions(target, access)?;
    let (media, recovery, damaged) = media::Store::open_damaged(regions, memory).map_err(|error| unreadable(&error))?;
    if (media.uuid(), media.target()) != (*target.store.as_bytes(), target.index.0) {
        let text = format!("it holds target {} of another store", media.target());
        return Err(Error::new(Code::Mismatch, text).remedy("put the devices back in their places"));
    }
    Ok((media, recovery, damaged))
}

/// Opens a target to look at it: its log is replayed in memory, and nothing is written.
///
/// # Errors
/// As [`open`].
pub(crate) fn look(target: &OfflineTarget, memory: usize) -> Result<Looked, Error> {
    let (media, recovery, damaged) = open(target, Access::ReadOnly, memory)?;
    let opened = vos::Store::inspect(media, recovery).map_err(|error| unreadable(&error))?;
    Ok(Looked { opened, damaged })
}

/// An error of the store as the user sees it.
pub(crate) fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::BadFormat, error.to_string())
        .remedy("see `ddb STORAGE check`; what nothing can be derived from has to come from a copy")
}

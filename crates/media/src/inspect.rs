//! Looking at a store that nobody runs, without changing a byte of it; and opening one that is damaged.
//!
//! An inspector opens its regions with `rt::disk::Disk::open_read_only`, replays the log in memory, and calls
//! [`Store::rest`] instead of `finish_recovery`: from then on the store answers reads and refuses the rest.

use zerocopy::IntoBytes;

use crate::error::{Corrupt, Fault, Result};
use crate::header::{RegionHeader, decode_region_header, encode_region_header};
use crate::log::Lsn;

use crate::recover::Recovery;
use crate::region::{BLOCK_BYTES, Region, Regions};
use crate::store::{Phase, Store};
use crate::superblock::{COPIES, Superblock, decode_superblock};

/// The blocks that say who a store is, as they lie on the device, each verified by itself.
#[derive(Debug)]
pub struct Glance {
    pub superblocks: Vec<std::result::Result<Superblock, String>>,
    pub log_header: std::result::Result<RegionHeader, String>,
    /// Of a data region that holds no pages; `None` for one that does.
    pub data_header: Option<std::result::Result<RegionHeader, String>>,
}

/// The checkpoint that a store was opened from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointFacts {
    pub sequence: u64,
    /// The log is replayed from here.
    pub checkpoint: Lsn,
    pub incarnation: u32,
    /// 0: pages share the data region.
    pub metadata_bytes: u64,
    pub data_bytes: u64,
    pub log_bytes: u64,
    pub root_block: u32,
    pub root_bytes: u32,
}

impl Store {
    /// Reads the blocks that say who the store in `regions` is. Needs no whole store.
    pub fn glance(regions: &Regions) -> Glance {
        let superblocks = (0..COPIES).map(|copy| {
            let block = read_block(regions.pages(), copy as u64)?;
            decode_superblock(&block, copy).map_err(|fault| fault.to_string())
        });
        let header = |region: &Region| {
            read_block(region, 0)
                .and_then(|block| decode_region_header(&block).map_err(|fault: Fault| fault.to_string()))
        };
        let data_header = regions.metadata.as_ref().map(|_| header(&regions.data));
        Glance { superblocks: superblocks.collect(), log_header: header(&regions.log), data_header }
    }

    /// Opens as [`Store::open`], but goes on without bitmap pages and without the headers of log and data, when they
    /// cannot be read; what could not is returned.
    ///
    /// The bitmap can be derived from what refers to blocks, the header from the superblock. Nothing else that
    /// opening reads can be derived from anything, so damage to that is an error here too. To go into service,
    /// such a store must be mended with [`Store::mend_space`] and [`Store::write_headers`] before
    /// `finish_recovery`.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_damaged(regions: Regions, budget_bytes: usize) -> Result<(Store, Recovery, Vec<Corrupt>)> {
        let mut found = Vec::new();
        let (store, recovery) = Store::open_judged(regions, budget_bytes, &mut |corrupt| {
            found.push(corrupt);
            Ok(())
        })?;
        Ok((store, recovery, found))
    }

    /// Writes the headers of log and data anew, from what the superblock says.
    ///
    /// # Errors
    /// `Failed`: the device refused.
    pub fn write_headers(&self) -> Result<()> {
        let anchor = self.shared.catalog.borrow().anchor;
        for (device, region) in self.shared.regions.each() {
            if device == self.shared.regions.page_device() {
                continue;
            }
            let header = encode_region_header(anchor.store, anchor.target, device);
            let written =
                region.write_now(0, &rt::disk::IoBuf::from_slice(header.as_bytes())).and_then(|()| region.sync_now());
            written.map_err(|cause| self.shared.fail(device, cause))?;
        }
        Ok(())
    }

    /// Ends a recovery that was for looking only: the store can be read, and takes nothing. Nothing is written.
    /// A log that was not read to its end is given up where reading stopped.
    pub fn rest(&self, mut recovery: Recovery) {
        if recovery.end().is_none() {
            recovery.give_up();
        }
        let end = recovery.end().expect("a log that was given up has an end");
        let anchor = self.shared.catalog.borrow().anchor;
        let from = Lsn(anchor.checkpoint);
        self.shared.log.borrow_mut().resume(from, end.max(from), anchor.incarnation, anchor.sequence);
        self.shared.set_phase(Phase::Stopped);
    }

    /// The checkpoint it was opened from, or the newest since.
    pub fn newest_checkpoint(&self) -> CheckpointFacts {
        let anchor = self.shared.catalog.borrow().anchor;
        CheckpointFacts {
            sequence: anchor.sequence,
            checkpoint: Lsn(anchor.checkpoint),
            incarnation: anchor.incarnation,
            metadata_bytes: anchor.metadata_bytes,
            data_bytes: anchor.data_bytes,
            log_bytes: anchor.log_bytes,
            root_block: anchor.root_block,
            root_bytes: anchor.root_bytes,
        }
    }
}

fn read_block(region: &Region, index: u64) -> std::result::Result<Vec<u8>, String> {
    let mut block = vec![0; BLOCK_BYTES];
    let end = (index + 1) * BLOCK_BYTES as u64;
    if region.bytes() < end {
        return Err(format!("the region has {} bytes where {end} are needed", region.bytes()));
    }
    match region.read_now(index * BLOCK_BYTES as u64, &mut block) {
        Ok(()) => Ok(block),
        Err(cause) => Err(cause.to_string()),
    }
}

//! Looking at a store that nobody runs, without changing a byte of it; and opening one that is damaged.
//!
//! An inspector opens its regions with `rt::disk::Disk::open_read_only`, replays the log in memory, and calls
//! [`Store::rest`] instead of `finish_recovery`: from then on the store answers reads and refuses the rest.

use zerocopy::IntoBytes;

use crate::error::{Corrupt, Device, Fault, Result};
use crate::log::Lsn;
use crate::log::record::{LogHeader, decode_log_header, encode_log_header};
use crate::recover::Recovery;
use crate::region::{BLOCK_BYTES, Region, Regions};
use crate::store::{Phase, Store};
use crate::superblock::{COPIES, Superblock, decode_superblock};

/// The blocks that say who a store is, as they lie on the device, each verified by itself.
#[derive(Debug)]
pub struct Glance {
    pub superblocks: Vec<std::result::Result<Superblock, String>>,
    pub log_header: std::result::Result<LogHeader, String>,
}

/// The checkpoint that a store was opened from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointFacts {
    pub sequence: u64,
    /// The log is replayed from here.
    pub checkpoint: Lsn,
    pub incarnation: u32,
    pub data_bytes: u64,
    pub log_bytes: u64,
    pub root_block: u32,
    pub root_bytes: u32,
}

impl Store {
    /// Reads the blocks that say who the store in `regions` is. Needs no whole store.
    pub fn glance(regions: &Regions) -> Glance {
        let superblocks = (0..COPIES).map(|copy| {
            let block = read_block(&regions.data, copy as u64)?;
            decode_superblock(&block, copy).map_err(|fault| fault.to_string())
        });
        let header = read_block(&regions.log, 0);
        let decoded = |block: Vec<u8>| decode_log_header(&block).map_err(|fault: Fault| fault.to_string());
        Glance { superblocks: superblocks.collect(), log_header: header.and_then(decoded) }
    }

    /// Opens as [`Store::open`], but goes on without bitmap pages and without the log's header, when they
    /// cannot be read; what could not is returned.
    ///
    /// The bitmap can be derived from what refers to blocks, the header from the superblock. Nothing else that
    /// opening reads can be derived from anything, so damage to that is an error here too. To go into service,
    /// such a store must be mended with [`Store::mend_space`] and [`Store::write_log_header`] before
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

    /// Writes the header of the log anew, from what the superblock says.
    ///
    /// # Errors
    /// `Failed`: the log device refused.
    pub fn write_log_header(&self) -> Result<()> {
        let anchor = self.shared.catalog.borrow().anchor;
        let header = rt::disk::IoBuf::from_slice(encode_log_header(anchor.store, anchor.log_bytes).as_bytes());
        let log = &self.shared.regions.log;
        let written = log.write_now(0, &header).and_then(|()| log.sync_now());
        Ok(written.map_err(|cause| self.shared.fail(Device::Log, cause))?)
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
    if region.bytes < end {
        return Err(format!("the region has {} bytes where {end} are needed", region.bytes));
    }
    match region.read_now(index * BLOCK_BYTES as u64, &mut block) {
        Ok(()) => Ok(block),
        Err(cause) => Err(cause.to_string()),
    }
}

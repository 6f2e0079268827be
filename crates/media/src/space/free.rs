//! Free runs of blocks, by place and by size.

use std::collections::{BTreeMap, BTreeSet};

use super::{Extent, PAGE_BLOCKS};

/// Runs looked at before a search settles for less than the best: bounds an allocation on a device
/// whose free space is in many pieces.
const PROBES: usize = 32;

/// All free blocks. Neighbouring runs are always one.
#[derive(Default)]
pub(super) struct FreeIndex {
    by_start: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    blocks: u64,
    /// How many pages would fit: single free blocks hold none.
    pages: u64,
}

impl FreeIndex {
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = Extent> + '_ {
        self.by_start.iter().map(|(&block, &blocks)| Extent { block, blocks })
    }

    /// The runs that begin at `from` or behind it.
    pub(super) fn runs_from(&self, from: u32) -> impl Iterator<Item = Extent> + '_ {
        self.by_start.range(from..).map(|(&block, &blocks)| Extent { block, blocks })
    }

    pub(super) fn first(&self) -> Option<Extent> {
        self.by_start.first_key_value().map(|(&block, &blocks)| Extent { block, blocks })
    }

    pub(super) fn last(&self) -> Option<Extent> {
        self.by_start.last_key_value().map(|(&block, &blocks)| Extent { block, blocks })
    }

    /// Adds a run, joining its neighbours.
    pub(super) fn insert(&mut self, extent: Extent) {
        let (mut block, mut end) = (extent.block, extent.block + extent.blocks);
        if let Some((&start, &blocks)) = self.by_start.range(..block).next_back() {
            assert!(start + blocks <= block, "K8: {extent:?} is freed twice");
            if start + blocks == block {
                self.remove(start, blocks);
                block = start;
            }
        }
        if let Some((&start, &blocks)) = self.by_start.range(extent.block..).next() {
            assert!(start >= end, "K8: {extent:?} is freed twice");
            if start == end {
                self.remove(start, blocks);
                end = start + blocks;
            }
        }
        self.add(block, end - block);
    }

    /// Takes `extent` out; false when it is not all free.
    pub(super) fn take(&mut self, extent: Extent) -> bool {
        let Some((&start, &blocks)) = self.by_start.range(..=extent.block).next_back() else { return false };
        let (end, run_end) = (extent.end(), start as u64 + blocks as u64);
        if end > run_end {
            return false;
        }
        self.remove(start, blocks);
        if start < extent.block {
            self.add(start, extent.block - start);
        }
        if end < run_end {
            self.add(end as u32, (run_end - end) as u32);
        }
        true
    }

    /// The smallest run of at least `blocks`, from `zone_end` on if there is one: its part there.
    pub(super) fn best_fit(&self, blocks: u32, zone_end: u32) -> Option<Extent> {
        let mut fitting = self.by_size.range((blocks, 0)..).map(|&(blocks, block)| Extent { block, blocks });
        let first = fitting.clone().next()?;
        let beyond = fitting.by_ref().take(PROBES).find_map(|run| {
            let start = run.block.max(zone_end);
            (start as u64 + blocks as u64 <= run.end())
                .then(|| Extent { block: start, blocks: (run.end() - start as u64) as u32 })
        });
        let behind_zone = || {
            // The largest run often reaches over the end of the zone, and is last of many.
            let run = self.largest()?;
            let start = run.block.max(zone_end);
            (start as u64 + blocks as u64 <= run.end())
                .then(|| Extent { block: start, blocks: (run.end() - start as u64) as u32 })
        };
        beyond.or_else(behind_zone).or(Some(first))
    }

    pub(super) fn largest(&self) -> Option<Extent> {
        self.by_size.last().map(|&(blocks, block)| Extent { block, blocks })
    }

    pub(super) fn smallest(&self) -> Option<Extent> {
        self.by_size.first().map(|&(blocks, block)| Extent { block, blocks })
    }

    /// The first run that holds `blocks`, among the first few; else the largest that holds a page.
    pub(super) fn lowest(&self, blocks: u32) -> Option<Extent> {
        let fitting = self.runs().take(PROBES).find(|run| run.blocks >= blocks);
        fitting.or_else(|| self.largest()).filter(|run| run.blocks >= PAGE_BLOCKS)
    }

    fn add(&mut self, block: u32, blocks: u32) {
        self.by_start.insert(block, blocks);
        self.by_size.insert((blocks, block));
        self.blocks += blocks as u64;
        self.pages += (blocks / PAGE_BLOCKS) as u64;
    }

    fn remove(&mut self, block: u32, blocks: u32) {
        self.by_start.remove(&block);
        self.by_size.remove(&(blocks, block));
        self.blocks -= blocks as u64;
        self.pages -= (blocks / PAGE_BLOCKS) as u64;
    }
}

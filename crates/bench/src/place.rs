//! Directories to measure in: one on a disk, one in memory; gone when dropped.

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::measure::Plan;

/// Where files lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Memory,
    Disk,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::Memory => "tmpfs",
            Place::Disk => "disk",
        }
    }

    /// A new empty directory there.
    pub fn directory(self, plan: &Plan) -> Result<TempDir> {
        let parent: &Path = match self {
            Place::Memory => &plan.memory,
            Place::Disk => &plan.disk,
        };
        tempfile::Builder::new()
            .prefix("daos-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("a directory in {}", parent.display()))
    }
}

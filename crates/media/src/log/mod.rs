//! The write-ahead log: a circular region of batches of records.
//!
//! A position in it, an [`Lsn`], is a byte offset since the store was created; it never repeats. The region
//! holds the last `area` bytes of that line.

pub(crate) mod append;
pub(crate) mod flush;
pub(crate) mod record;
pub(crate) mod scan;

use std::fmt;

/// Log sequence number: a byte position in the log since the store was created. It names a record by
/// where its header starts; 0 is no record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How far into a full log and a full device a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Anything that adds data: refused early, so that there is room left for the others.
    Normal,
    /// What makes room: deleting.
    Critical,
    /// What was accepted before, and must not fail now (committing something prepared): it may take so many of the pages
    /// that were kept for it.
    Promised { pages: u64 },
}

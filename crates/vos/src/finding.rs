//! What is wrong with a store, one finding a place.

use std::fmt;

use types::ContainerId;

/// One thing that is not as it must be, where it is, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: FindingKind,
    /// The container it belongs to, when it belongs to one.
    pub container: Option<ContainerId>,
    /// A page, a log position, blocks, or the path of a record.
    pub place: String,
    pub fault: String,
}

/// What kind of thing, and so what a repair can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A copy of the superblock, or the header of the log. Written anew from the other copy.
    Superblock,
    /// A page of the block bitmap. Derived anew from what refers to blocks.
    Bitmap,
    /// Acknowledged records of the log cannot be read.
    Log,
    /// A record of the log could not be applied.
    Replay,
    /// The catalog, or the head of a container: nothing below can be reached. A head is made anew from what the
    /// catalog knows of its container, unless that cannot be read either.
    Catalog,
    /// A page of a tree cannot be read: its records are lost.
    Page,
    /// A page that is no tree's.
    OrphanPage,
    /// Nodes that contradict one another, but can be read. Not repaired.
    Structure,
    /// A record whose key or value is none.
    Record,
    /// A value whose bytes are not those its checksums promise.
    Value,
    /// What a session did cannot be read, or is not what memory says: its requests are refused, and may run again after
    /// a repair.
    Session,
    /// A sum that is not what it sums.
    Counter,
    /// Blocks allocated, and nobody's.
    Leak,
    /// Blocks referenced that are free, or somebody else's too, or outside the device.
    Block,
}

impl FindingKind {
    /// One word, for tables and programs.
    pub const fn name(self) -> &'static str {
        match self {
            FindingKind::Superblock => "superblock",
            FindingKind::Bitmap => "bitmap",
            FindingKind::Log => "log",
            FindingKind::Replay => "replay",
            FindingKind::Catalog => "catalog",
            FindingKind::Page => "page",
            FindingKind::OrphanPage => "orphan-page",
            FindingKind::Structure => "structure",
            FindingKind::Record => "record",
            FindingKind::Value => "value",
            FindingKind::Session => "session",
            FindingKind::Counter => "counter",
            FindingKind::Leak => "leak",
            FindingKind::Block => "block",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        if let Some(container) = self.container {
            write!(f, "container {container}, ")?;
        }
        write!(f, "{}: {}", self.place, self.fault)
    }
}

/// Findings up to a limit, and how many there were in all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) listed: Vec<Finding>,
    pub(crate) total: u64,
    limit: usize,
}

impl Findings {
    pub(crate) fn up_to(limit: usize) -> Findings {
        Findings { listed: Vec::new(), total: 0, limit }
    }

    pub(crate) fn add(
        &mut self,
        kind: FindingKind,
        container: Option<ContainerId>,
        place: impl Into<String>,
        fault: impl Into<String>,
    ) {
        self.total += 1;
        if self.listed.len() < self.limit {
            self.listed.push(Finding { kind, container, place: place.into(), fault: fault.into() });
        }
    }

    /// How many more are listed.
    pub(crate) fn room(&self) -> usize {
        self.limit - self.listed.len()
    }

    /// Takes over what was found in `container`, counting also what was not listed.
    pub(crate) fn extend(&mut self, others: Findings, container: Option<ContainerId>) {
        self.total += others.total;
        let room = self.room();
        self.listed.extend(others.listed.into_iter().take(room).map(|finding| Finding { container, ..finding }));
    }

    /// Adds an error: its place when it has one, else `place`.
    pub(crate) fn add_error(
        &mut self,
        kind: FindingKind,
        container: Option<ContainerId>,
        place: &str,
        error: &crate::Error,
    ) {
        match error {
            crate::Error::Corrupt { place: at, fault } if at == place => self.add(kind, container, place, fault),
            crate::Error::Corrupt { place: at, fault } => {
                self.add(kind, container, place, format!("{fault}, at {at}"));
            }
            other => self.add(kind, container, place, other.to_string()),
        }
    }
}

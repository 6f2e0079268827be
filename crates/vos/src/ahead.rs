//! Reading ahead in recovery: records are applied in order, each in a few places of its tree, and one page read after
//! another would take minutes where the device could do many at once. So the log is read some thousand records
//! ahead, and the pages that these will want are read together.
//!
//! It is a hint: what it misses, or cannot read, is read when a record is applied.
//!
//! # Not here
//! Punches, upkeep and transactions: there are few of them behind a checkpoint.

use std::collections::BTreeMap;

use media::Recovery;
use types::ContainerId;

use crate::catalog::Catalog;
use crate::key::{self, DATA, SINGLE, Version};
use crate::record::{self, Record};
use crate::request::{Update, ValueWrite};
use crate::view::compose;

/// Records that are looked at together, when memory allows: the more, the more of their pages are neighbours.
const WINDOW_MAX: u64 = 256 << 10;
/// Bytes of keys that are held for it: long keys, or many in a record, make the window shorter.
const KEY_BYTES_MAX: usize = 32 << 20;

/// How far it has read ahead of what is applied.
#[derive(Default)]
pub(crate) struct Ahead {
    records: u64,
    is_over: bool,
}

impl Ahead {
    /// Call it before each record is applied.
    pub(crate) fn step(&mut self, media: &media::Store, catalog: &Catalog, recovery: &mut Recovery) {
        if self.records > 0 || self.is_over {
            self.records = self.records.saturating_sub(1);
            return;
        }
        let usage = media.pages_ref().usage();
        // Once nearly all there is lies in memory, looking for the rest costs more than it spares: the log is read twice.
        if usage.pages.saturating_sub(usage.frames) <= usage.pages / 16 {
            self.is_over = true;
            return;
        }
        let window = WINDOW_MAX.min(usage.budget / 8).max(1);
        let mut wanted: BTreeMap<ContainerId, Vec<Vec<u8>>> = BTreeMap::new();
        let mut key_bytes = 0;
        while self.records < window && key_bytes < KEY_BYTES_MAX && !self.is_over {
            match recovery.look_ahead() {
                None => self.is_over = true,
                Some(found) => {
                    self.records += 1;
                    if let Some((_, Record::Update { container, version, update })) =
                        record::decode(found.kind, found.payload)
                    {
                        let keys = wanted.entry(container).or_default();
                        let before = keys.len();
                        update.with(|update| places(update, version, keys));
                        key_bytes += keys[before..].iter().map(|key| key.len() + size_of::<Vec<u8>>()).sum::<usize>();
                    }
                }
            }
        }
        for (container, keys) in wanted {
            // Not there yet: one of the records creates it.
            let Ok(shard) = catalog.shard(container) else { continue };
            // A page that cannot be read is told of when a record wants it.
            let _ = shard.tree.preload_leaves(&mut media.pages(), &keys);
        }
        self.records = self.records.saturating_sub(1);
    }
}

/// Appends the keys of what `update` writes.
fn places(update: &Update<'_>, version: Version, keys: &mut Vec<Vec<u8>>) {
    for write in update.akeys {
        let mut place = Vec::new();
        compose(&mut place, update.group, update.oid, update.dkey, write.akey);
        match write.value {
            ValueWrite::Single(_) => place.push(SINGLE),
            ValueWrite::Array { extents, .. } => {
                for (extent, _) in extents {
                    let mut key = place.clone();
                    key::push_extent(&mut key, DATA, *extent);
                    key::push_version(&mut key, version);
                    keys.push(key);
                }
                continue;
            }
        }
        key::push_version(&mut place, version);
        keys.push(place);
    }
}

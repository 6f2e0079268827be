//! Freezing: the pool's part in a checkpoint.
//!
//! A freeze takes the list of changed pages and starts a new generation; that is all, whatever their
//! number. Each frozen page is then copied out once, as it was at the freeze: from its frame if it was
//! not touched since, else from the image that was kept when it was.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::frame::Frame;
use super::map::{CLEAN, MAP_ENTRIES, NO_BLOCK, WRITING};
use super::pool::Pages;
use crate::page::{KIND_MAP, PAGE_BYTES, PAGE_HEADER_BYTES, Seal, seal};

/// The state a running checkpoint writes.
pub(super) struct Frozen {
    pub(super) generation: u32,
    queue: Vec<u32>,
    next: usize,
    pub(super) images: BTreeMap<u32, Image>,
    /// Pages freed since the freeze, with the block the checkpoint's map must still show.
    pub(super) ended: BTreeMap<u32, u32>,
    map_changed: BTreeSet<u32>,
    /// Blocks that only the checkpoint before this one needs.
    superseded: Vec<u32>,
}

/// A frozen page that was changed or freed before the checkpoint copied it.
pub(super) struct Image {
    pub(super) frame: Frame,
    /// Block of its copy in the previous checkpoint, when the page itself was freed since.
    pub(super) ended: Option<u32>,
}

impl Pages {
    /// Freezes the pages as they are now, for the checkpoint `sequence`. O(1).
    pub(crate) fn freeze(&mut self, sequence: u64) {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        self.frozen = Some(Frozen {
            generation: self.generation,
            queue: std::mem::take(&mut self.changed),
            next: 0,
            images: BTreeMap::new(),
            ended: BTreeMap::new(),
            map_changed: std::mem::take(&mut self.map_changed),
            superseded: std::mem::take(&mut self.dropped),
        });
        self.generation = self.generation.checked_add(1).expect("a checkpoint a second lasts for a century");
        self.checkpoint = sequence;
    }

    /// The next frozen pages to copy out, up to `pages_max`. Each must then go to [`Pages::copy_frozen`].
    pub(crate) fn next_frozen(&mut self, pages_max: usize) -> Vec<u32> {
        let frozen = self.frozen.as_mut().expect("a checkpoint runs");
        let mut ids = Vec::with_capacity(pages_max.min(frozen.queue.len() - frozen.next));
        while ids.len() < pages_max && frozen.next < frozen.queue.len() {
            let id = frozen.queue[frozen.next];
            frozen.next += 1;
            let is_frozen =
                self.entries[id as usize].state.get() == frozen.generation || frozen.images.contains_key(&id);
            // A page freed and allocated again before the freeze is listed twice.
            if is_frozen && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Takes back the last of the ids that `next_frozen` gave: there was no room for them yet.
    pub(crate) fn put_back(&mut self, ids: &[u32]) {
        let frozen = self.frozen.as_mut().expect("a checkpoint runs");
        // Ids skipped in between are not frozen any more, so it does not matter that they are overwritten.
        frozen.next -= ids.len();
        frozen.queue[frozen.next..][..ids.len()].copy_from_slice(ids);
    }

    /// Copies frozen page `id` into `out`, sealed, as its new copy at `block`.
    pub(crate) fn copy_frozen(&mut self, id: u32, block: u32, lsn: u64, out: &mut [u8]) {
        let frozen = self.frozen.as_mut().expect("a checkpoint runs");
        let entry = &self.entries[id as usize];
        let image = frozen.images.remove(&id);
        let frame = match &image {
            Some(image) => image.frame,
            None => {
                assert_eq!(entry.state.get(), frozen.generation, "page {id} is not frozen");
                entry.frame.get()
            }
        };
        // SAFETY: the frame holds the frozen page or its image, and `&mut self` excludes a reference
        // that could change it.
        let bytes = unsafe { &*self.arena.page(frame).cast::<[u8; PAGE_BYTES]>() };
        out.copy_from_slice(bytes);
        let kind = u16::from_le_bytes([out[16], out[17]]);
        seal(out, Seal { page: id, kind, lsn, store: self.store, checkpoint: self.checkpoint });
        let old = match image {
            Some(Image { ended: Some(old), .. }) => {
                // The page lives on in this checkpoint alone: the next one gives its block up.
                frozen.ended.insert(id, block);
                self.dropped.push(block);
                old
            }
            Some(Image { ended: None, .. }) => entry.block.replace(block),
            None => {
                entry.state.set(WRITING);
                entry.block.replace(block)
            }
        };
        if old != NO_BLOCK {
            frozen.superseded.push(old);
        }
        frozen.map_changed.insert(id / MAP_ENTRIES as u32);
        if image.is_some() {
            self.return_frame(frame);
        }
        self.dirty.set(self.dirty.get() - 1);
    }

    /// The copies of `ids` are on the device: those not changed since may be evicted.
    pub(crate) fn copied(&mut self, ids: &[u32]) {
        for &id in ids {
            let entry = &self.entries[id as usize];
            if entry.state.get() == WRITING {
                entry.state.set(CLEAN);
            }
        }
    }

    /// Map pages that the checkpoint must write, once all frozen pages are copied out.
    pub(crate) fn frozen_map(&mut self) -> BTreeSet<u32> {
        let frozen = self.frozen.as_mut().expect("a checkpoint runs");
        assert!(frozen.next == frozen.queue.len() && frozen.images.is_empty(), "every frozen page is copied");
        std::mem::take(&mut frozen.map_changed)
    }

    /// Writes map page `index`, as of the freeze, into `out`; false when it names no page at all.
    pub(crate) fn copy_map(&self, index: u32, lsn: u64, out: &mut [u8]) -> bool {
        let frozen = self.frozen.as_ref().expect("a checkpoint runs");
        let first = index as usize * MAP_ENTRIES;
        let mut any = false;
        for (i, bytes) in out[PAGE_HEADER_BYTES..].chunks_exact_mut(4).enumerate() {
            let id = first + i;
            let now = self.entries.get(id).map_or(NO_BLOCK, |entry| entry.block.get());
            let block = frozen.ended.get(&(id as u32)).copied().unwrap_or(now);
            any |= block != NO_BLOCK;
            bytes.copy_from_slice(U32::new(block).as_bytes());
        }
        seal(out, Seal { page: index, kind: KIND_MAP, lsn, store: self.store, checkpoint: self.checkpoint });
        any
    }

    /// Blocks of page copies that only the former checkpoint needs.
    pub(crate) fn superseded(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.frozen.as_mut().expect("a checkpoint runs").superseded)
    }

    /// The checkpoint is durable.
    pub(crate) fn thaw(&mut self) {
        let frozen = self.frozen.take().expect("a checkpoint runs");
        assert!(frozen.images.is_empty() && frozen.superseded.is_empty());
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Map;

    use super::*;
    use crate::page::{PageId, decode_page};

    #[test]
    fn map_page_has_its_golden_bytes() {
        let mut pages = Pages::in_memory(1 << 20).unwrap();
        for block in [100, 102, 104] {
            let id = pages.allocate().unwrap();
            assert_eq!(id.0, (block - 100) / 2);
        }
        pages.free(PageId(1)).unwrap();
        pages.freeze(3);
        let mut out = vec![0; PAGE_BYTES];
        for id in pages.next_frozen(10) {
            pages.copy_frozen(id, 100 + id * 2, 0x4000, &mut out);
        }
        assert!(pages.copy_map(0, 0x4000, &mut out));
        crate::golden::check("map_page", &out[..96]);
        assert!(!pages.copy_map(1, 0x4000, &mut out), "an empty map page");
    }

    /// Whatever happens to pages while a checkpoint copies them, it writes them as they were at the freeze,
    /// its map names exactly those, and no block is forgotten or given up twice.
    #[test]
    fn a_checkpoint_writes_what_was_frozen() {
        let mut pages = Pages::in_memory(1 << 22).unwrap();
        // What the device holds, by block; and which blocks are taken.
        let mut device: Map<u32, Vec<u8>> = Map::new();
        let mut live: Map<u32, u8> = Map::new();
        let mut random = 7u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % bound
        };
        for round in 1..60 {
            let frozen_state = live.clone();
            pages.freeze(round);
            let mut written = Vec::new();
            loop {
                for _ in 0..below(12) {
                    let pick = live.keys().copied().nth(below(live.len().max(1) as u64) as usize);
                    match (below(6), pick) {
                        (0 | 1, _) if live.len() < 200 => {
                            let id = pages.allocate().unwrap();
                            pages.get_mut(id).unwrap().body_mut()[0] = round as u8;
                            assert_eq!(live.insert(id.0, round as u8), None);
                        }
                        (2, Some(id)) => {
                            pages.free(PageId(id)).unwrap();
                            live.remove(&id);
                        }
                        (_, Some(id)) => {
                            let value = below(255) as u8;
                            pages.get_mut(PageId(id)).unwrap().body_mut()[0] = value;
                            live.insert(id, value);
                        }
                        _ => {}
                    }
                }
                let batch = pages.next_frozen(5);
                if batch.is_empty() {
                    break;
                }
                let kept = batch.len().min(1 + below(5) as usize);
                pages.put_back(&batch[kept..]);
                for &id in &batch[..kept] {
                    let block = (1..).find(|block| !device.contains_key(block)).unwrap();
                    let mut out = vec![0; PAGE_BYTES];
                    pages.copy_frozen(id, block, 1, &mut out);
                    assert_eq!(decode_page(&out).unwrap().page.get(), id);
                    device.insert(block, out);
                    written.push(block);
                }
                pages.copied(&batch[..kept]);
            }
            pages.frozen_map();
            let mut map = vec![0; PAGE_BYTES];
            pages.copy_map(0, 1, &mut map);
            let mut named = Map::new();
            for (id, bytes) in (0u32..).zip(map[32..].chunks(4)) {
                let block = u32::from_le_bytes(bytes.try_into().unwrap());
                if block != NO_BLOCK {
                    named.insert(id, device[&block][PAGE_HEADER_BYTES]);
                }
            }
            assert_eq!(named, frozen_state, "round {round}");
            for block in pages.superseded() {
                assert!(device.remove(&block).is_some(), "given up twice");
            }
            pages.thaw();
            // Every block is a live page's, or will be given up with the next checkpoint.
            let owned: BTreeSet<u32> =
                pages.blocks().map(|(_, block)| block).chain(pages.dropped().iter().copied()).collect();
            assert_eq!(owned.len(), pages.blocks().count() + pages.dropped().len());
            assert_eq!(owned, device.keys().copied().collect());
            for (id, value) in &live {
                assert_eq!(pages.get(PageId(*id)).unwrap().body()[0], *value);
            }
        }
    }
}

//! A bit a block, in memory and on the device.
//!
//! On the device the bitmap is a row of pages at the head of the data region, two slots for each. A
//! checkpoint writes a changed page into the slot that the former checkpoint does not use, so the area
//! needs no allocation of its own, and a torn bitmap page never counts. The row has room for more pages than the
//! blocks need at first: a region grows as far as its bitmap can.

use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Extent, PAGE_BLOCKS};
use crate::page::{PAGE_BODY_BYTES, PAGE_BYTES, PageHeader};
use crate::superblock::COPIES;

const WORDS: usize = PAGE_BODY_BYTES / 8;
/// Blocks a bitmap page covers: 255 MiB of data.
pub const BITMAP_BLOCKS: u32 = (WORDS * 64) as u32;

/// Bitmap page: one bit for each of 65280 consecutive blocks. 8192 bytes, little-endian. Ours.
///
/// | offset | bytes | field  | meaning                                                             |
/// |-------:|------:|--------|---------------------------------------------------------------------|
/// |      0 |    32 | header | [`PageHeader`]: kind 0xff02, page = index of the bitmap page        |
/// |     32 |  8160 | words  | bit `i % 64` of word `i / 64`: block `index * 65280 + i` is in use  |
///
/// Slot `s` (0 or 1) of page `index` lies at block `2 + (index * 2 + s) * 2`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BitmapPage {
    pub header: PageHeader,
    pub words: [U64; WORDS],
}
const _: () = assert!(size_of::<BitmapPage>() == PAGE_BYTES);
const _: () = assert!(offset_of!(BitmapPage, words) == 32);

/// Bitmap pages that a region of `blocks` blocks needs.
pub(crate) fn page_count(blocks: u32) -> u32 {
    blocks.div_ceil(BITMAP_BLOCKS)
}

/// Block where slot `slot` of bitmap page `index` lies.
pub(crate) fn slot_block(index: u32, slot: u8) -> u32 {
    COPIES + (index * 2 + slot as u32) * PAGE_BLOCKS
}

/// Times its first size that a region can grow to, while the bitmap stays small.
const REACH: u64 = 16;
/// The bitmap's row takes no more than one part in this many, unless the blocks there are need more.
const ROW_PART: u64 = 64;

/// Bitmap pages to keep room for, in a new region of `page_blocks` blocks that are the pages' out of `blocks`.
pub(crate) fn pages_to_keep(blocks: u32, page_blocks: u32) -> u32 {
    let wanted = (u64::from(blocks) * REACH).div_ceil(u64::from(BITMAP_BLOCKS));
    let affordable = u64::from(page_blocks) / ROW_PART / u64::from(2 * PAGE_BLOCKS);
    let most = u64::from(page_count(u32::MAX));
    wanted.min(affordable).min(most).max(u64::from(page_count(blocks))) as u32
}

/// First block behind superblocks and a bitmap with room for `bitmaps` pages.
pub(crate) fn first_allocatable(bitmaps: u32) -> u32 {
    slot_block(bitmaps, 0)
}

/// Bits of a whole region, and which of its pages changed.
#[derive(Clone)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    changed: BTreeSet<u32>,
}

impl Bitmap {
    /// All clear.
    pub(crate) fn new(blocks: u32) -> Bitmap {
        Bitmap { words: vec![0; page_count(blocks) as usize * WORDS], changed: BTreeSet::new() }
    }

    /// Makes it cover `blocks` blocks: those that come are clear, those that go must be.
    pub(crate) fn resize(&mut self, blocks: u32) {
        let (old, new) = ((self.words.len() / WORDS) as u32, page_count(blocks));
        let from = u64::from(blocks).min(self.words.len() as u64 * 64);
        let beyond = (self.words.len() as u64 * 64 - from) as u32;
        if beyond > 0 {
            let beyond = Extent { block: blocks, blocks: beyond };
            assert!(self.all_clear(beyond), "blocks that go are nobody's");
        }
        self.words.resize(new as usize * WORDS, 0);
        self.changed.extend(old..new);
        self.changed.retain(|page| *page < new);
    }

    pub(crate) fn set(&mut self, extent: Extent) {
        self.touch(extent);
        for_words(extent, |word, mask| self.words[word] |= mask);
    }

    pub(crate) fn clear(&mut self, extent: Extent) {
        self.touch(extent);
        for_words(extent, |word, mask| self.words[word] &= !mask);
    }

    pub(crate) fn all_set(&self, extent: Extent) -> bool {
        let mut all = true;
        for_words(extent, |word, mask| all &= self.words[word] & mask == mask);
        all
    }

    pub(crate) fn all_clear(&self, extent: Extent) -> bool {
        let mut all = true;
        for_words(extent, |word, mask| all &= self.words[word] & mask == 0);
        all
    }

    pub(crate) fn count(&self, extent: Extent) -> u64 {
        let mut count = 0;
        for_words(extent, |word, mask| count += (self.words[word] & mask).count_ones() as u64);
        count
    }

    /// The first run of clear bits in `from..end`.
    pub(crate) fn next_clear_run(&self, from: u32, end: u32) -> Option<Extent> {
        let start = self.seek(from, end, false)?;
        let stop = self.seek(start, end, true).unwrap_or(end);
        Some(Extent { block: start, blocks: stop - start })
    }

    /// The first run of set bits in `from..end`.
    pub(crate) fn next_set_run(&self, from: u32, end: u32) -> Option<Extent> {
        let start = self.seek(from, end, true)?;
        let stop = self.seek(start, end, false).unwrap_or(end);
        Some(Extent { block: start, blocks: stop - start })
    }

    /// Counts page `index` as changed: its copy on the device cannot be read.
    pub(crate) fn touch_page(&mut self, index: u32) {
        self.changed.insert(index);
    }

    /// Counts every page as changed: a new region has none on the device.
    pub(crate) fn touch_all(&mut self) {
        self.changed = (0..(self.words.len() / WORDS) as u32).collect();
    }

    /// Pages changed since they were last taken.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// Copies the bits of page `index` into the body of a page.
    pub(crate) fn store(&self, index: u32, page: &mut [u8]) {
        let words = &self.words[index as usize * WORDS..][..WORDS];
        for (bytes, word) in page[crate::page::PAGE_HEADER_BYTES..].chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Takes the bits of page `index` from a page.
    pub(crate) fn load(&mut self, index: u32, page: &[u8]) {
        let words = &mut self.words[index as usize * WORDS..][..WORDS];
        for (bytes, word) in page[crate::page::PAGE_HEADER_BYTES..].chunks_exact(8).zip(words) {
            *word = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
    }

    /// The first bit from `from` on that is `set`.
    fn seek(&self, from: u32, end: u32, set: bool) -> Option<u32> {
        let mut at = from;
        while at < end {
            let word = self.words[at as usize / 64];
            let wanted = if set { word } else { !word } >> (at % 64);
            if wanted != 0 {
                let found = at + wanted.trailing_zeros();
                return (found < end).then_some(found);
            }
            at = (at / 64 + 1).checked_mul(64)?;
        }
        None
    }

    fn touch(&mut self, extent: Extent) {
        for page in extent.block / BITMAP_BLOCKS..=(extent.end() - 1) as u32 / BITMAP_BLOCKS {
            self.changed.insert(page);
        }
    }
}

/// Calls `each` with the words that hold bits of `extent`, and which of their bits.
fn for_words(extent: Extent, mut each: impl FnMut(usize, u64)) {
    let mut at = extent.block as u64;
    let end = extent.end();
    while at < end {
        let bit = at % 64;
        let bits = (64 - bit).min(end - at);
        let mask = if bits == 64 { u64::MAX } else { ((1 << bits) - 1) << bit };
        each((at / 64) as usize, mask);
        at += bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{KIND_BITMAP, Seal, seal};

    #[test]
    fn bitmap_page_has_its_golden_bytes() {
        let mut bitmap = Bitmap::new(BITMAP_BLOCKS + 100);
        bitmap.set(Extent { block: 0, blocks: 6 });
        bitmap.set(Extent { block: 60, blocks: 70 });
        bitmap.set(Extent { block: BITMAP_BLOCKS + 1, blocks: 2 });
        let mut page = vec![0; PAGE_BYTES];
        bitmap.store(0, &mut page);
        seal(&mut page, Seal { page: 0, kind: KIND_BITMAP, lsn: 0x4000, store: 0xabcd, checkpoint: 3 });
        crate::golden::check("bitmap_page", &page[..96]);
        let mut again = Bitmap::new(BITMAP_BLOCKS + 100);
        again.load(0, &page);
        bitmap.store(1, &mut page);
        again.load(1, &page);
        assert_eq!(again.words, bitmap.words);
        assert_eq!(bitmap.take_changed().into_iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(page_count(BITMAP_BLOCKS + 100), 2);
        assert_eq!((slot_block(0, 0), slot_block(0, 1), slot_block(1, 0)), (2, 4, 6));
    }

    #[test]
    fn runs_are_found_across_words_and_ends() {
        let mut bitmap = Bitmap::new(1000);
        bitmap.set(Extent { block: 0, blocks: 10 });
        bitmap.set(Extent { block: 100, blocks: 400 });
        bitmap.set(Extent { block: 999, blocks: 1 });
        let mut runs = Vec::new();
        let mut at = 0;
        while let Some(run) = bitmap.next_clear_run(at, 1000) {
            runs.push((run.block, run.blocks));
            at = run.block + run.blocks;
        }
        assert_eq!(runs, [(10, 90), (500, 499)]);
        assert_eq!(bitmap.next_clear_run(999, 1000), None);
        assert_eq!(bitmap.count(Extent { block: 0, blocks: 1000 }), 411);
        assert!(bitmap.all_set(Extent { block: 100, blocks: 400 }) && !bitmap.all_set(Extent { block: 99, blocks: 2 }));
        assert!(
            bitmap.all_clear(Extent { block: 10, blocks: 90 }) && !bitmap.all_clear(Extent { block: 98, blocks: 3 })
        );
    }
}

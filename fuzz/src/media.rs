//! Durable formats of `media`: superblock, root, log, pages.

use ::media::{BLOCK_BYTES, PAGE_BYTES};
use codec::crc32c;

/// `data`, cut or filled with zeros to `bytes`.
fn sized(data: &[u8], bytes: usize) -> Vec<u8> {
    let mut image = data[..data.len().min(bytes)].to_vec();
    image.resize(bytes, 0);
    image
}

/// Writes the checksum of everything behind it at `at`.
fn seal(image: &mut [u8], at: usize, until: usize) {
    let crc = crc32c(&image[at + 4..until]);
    image[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn superblock(data: &[u8]) {
    let Some((&copy, data)) = data.split_first() else { return };
    let _ = ::media::decode_superblock(data, u32::from(copy & 1));
    let mut image = sized(data, BLOCK_BYTES);
    image[..8].copy_from_slice(b"FLMEDIA\x01");
    seal(&mut image, 8, BLOCK_BYTES);
    if let Ok(block) = ::media::decode_superblock(&image, u32::from(copy & 1)) {
        assert_eq!(block.crc.get().to_le_bytes(), image[8..12]);
    }
}

/// The root blob, which its superblock's checksum covers, and one block of its chain.
pub(crate) fn root(data: &[u8]) {
    let _ = ::media::decode_root(data);
    let mut image = sized(data, BLOCK_BYTES);
    seal(&mut image, 0, BLOCK_BYTES);
    let _ = ::media::decode_root_block(&image);
}

/// A log header, a batch header, and the records behind it, each with a right checksum.
pub(crate) fn log(data: &[u8]) {
    let _ = ::media::decode_region_header(data);
    let mut image = sized(data, BLOCK_BYTES);
    image[..8].copy_from_slice(b"FLLOGHD\x01");
    seal(&mut image, 8, BLOCK_BYTES);
    let _ = ::media::decode_region_header(&image);

    let mut batch = data.to_vec();
    if batch.len() < ::media::BATCH_HEADER_BYTES {
        return;
    }
    batch[4..8].copy_from_slice(b"FLbt");
    seal(&mut batch, 0, ::media::BATCH_HEADER_BYTES);
    let Ok(header) = ::media::decode_batch_header(&batch) else { return };
    let _ = ::media::verify_batch(&header, &batch);
    seal_records(&mut batch, header.lsn.get(), header.incarnation.get());
    let _ = ::media::verify_batch(&header, &batch);
}

/// Gives every record that fits its place in the log and its checksum.
fn seal_records(batch: &mut [u8], lsn: u64, incarnation: u32) {
    let mut at = ::media::BATCH_HEADER_BYTES;
    while at + ::media::RECORD_HEADER_BYTES <= batch.len() {
        let record = &mut batch[at..];
        let Some(length) = record[4..8].first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize) else { return };
        let Some(end) = ::media::RECORD_HEADER_BYTES.checked_add(length).filter(|end| *end <= record.len()) else {
            return;
        };
        record[8..16].copy_from_slice(&lsn.wrapping_add(at as u64).to_le_bytes());
        record[16..20].copy_from_slice(&incarnation.to_le_bytes());
        seal(record, 0, end);
        at += end.next_multiple_of(8);
    }
}

pub(crate) fn page(data: &[u8]) {
    let _ = ::media::decode_page(data);
    let mut image = sized(data, PAGE_BYTES);
    seal(&mut image, 0, PAGE_BYTES);
    let _ = ::media::decode_page(&image);
}

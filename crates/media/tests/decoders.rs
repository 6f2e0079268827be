//! Decoders take any bytes without a panic: random ones, and whole structures with some bytes changed.

use media::{
    BLOCK_BYTES, PAGE_BYTES, decode_batch_header, decode_page, decode_record, decode_region_header, decode_root,
    decode_root_block, decode_superblock, verify_batch,
};
use proptest::prelude::*;

fn decode_all(bytes: &[u8]) {
    let _ = decode_superblock(bytes, 0);
    let _ = decode_region_header(bytes);
    let _ = decode_page(bytes);
    let _ = decode_root(bytes);
    let _ = decode_root_block(bytes);
    let _ = decode_record(bytes, 64, 1);
    if let Ok(header) = decode_batch_header(bytes) {
        let _ = verify_batch(&header, bytes);
    }
}

/// CRCs made to fit, so that what lies behind the checksum is reached too.
fn with_valid_crc(bytes: &mut [u8], at: usize, from: usize, to: usize) {
    if bytes.len() >= to {
        let crc = codec::crc32c(&bytes[from..to]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn magic(name: &str) -> &'static [u8] {
    match name {
        "superblock" => b"FLMEDIA\x01",
        "log" => b"FLREGHD\x01",
        _ => b"",
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_decode_to_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_all(&bytes);
    }

    #[test]
    fn rubbish_behind_a_valid_checksum_decodes_to_an_error_too(
        head in prop::collection::vec(any::<u8>(), 128),
        small in any::<bool>(),
        kind in 0..6usize,
    ) {
        let mut bytes = vec![0; if kind == 2 { PAGE_BYTES } else { BLOCK_BYTES }];
        bytes[..128].copy_from_slice(&head);
        if small {
            // Small numbers pass more comparisons than random ones.
            bytes.iter_mut().skip(4).step_by(4).for_each(|byte| *byte &= 3);
            (1..32).for_each(|word| bytes[word * 4 + 1..word * 4 + 4].fill(0));
        }
        match kind {
            0 => { bytes[..8].copy_from_slice(magic("superblock")); with_valid_crc(&mut bytes, 8, 12, BLOCK_BYTES) }
            1 => { bytes[..8].copy_from_slice(magic("log")); with_valid_crc(&mut bytes, 8, 12, BLOCK_BYTES) }
            2 => with_valid_crc(&mut bytes, 0, 4, PAGE_BYTES),
            3 => { bytes[4..8].copy_from_slice(b"FLro"); with_valid_crc(&mut bytes, 0, 4, BLOCK_BYTES) }
            4 => { bytes[4..8].copy_from_slice(b"FLbt"); bytes[56] = 1; with_valid_crc(&mut bytes, 0, 4, 64) }
            _ => {
                let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
                with_valid_crc(&mut bytes, 0, 4, (24usize.saturating_add(length)).min(BLOCK_BYTES))
            }
        }
        decode_all(&bytes);
    }
}

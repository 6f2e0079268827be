//! CRC-32C of bytes, and of values chunk by chunk.
//!
//! A value carries one checksum per [`CHECKSUM_CHUNK_BYTES`] of payload, so that a read of a part
//! verifies only the chunks it touches.

use crc_fast::CrcAlgorithm;
pub use types::CHECKSUM_CHUNK_BYTES;

/// CRC-32C of `bytes`. Memory speed from about 1 KiB up.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-64/NVME of `bytes`: where 32 bits are too few to tell many things apart.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// CRC-32C of `parts` laid end to end, without copying them together.
pub fn crc32c_append(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize() as u32
}

/// How many checksums a payload of `bytes` carries.
pub const fn chunk_count(bytes: usize) -> usize {
    bytes.div_ceil(CHECKSUM_CHUNK_BYTES)
}

/// The checksums of a payload, one per chunk, in order.
pub fn of_chunks(payload: &[u8]) -> Vec<u32> {
    payload.chunks(CHECKSUM_CHUNK_BYTES).map(crc32c).collect()
}

/// A chunk did not match what was promised of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The number of checksums is not that of the payload's chunks.
    Count { expected: usize, given: usize },
    /// Chunk `chunk` (from 0) reads as `computed` where `stored` was promised.
    Chunk { chunk: usize, stored: u32, computed: u32 },
}

impl Mismatch {
    /// The same, of a payload in which `chunks` chunks lie before those that were verified.
    pub fn behind(self, chunks: usize) -> Mismatch {
        match self {
            Mismatch::Chunk { chunk, stored, computed } => Mismatch::Chunk { chunk: chunk + chunks, stored, computed },
            count => count,
        }
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mismatch::Count { expected, given } => write!(f, "{given} checksums for {expected} chunks"),
            Mismatch::Chunk { chunk, stored, computed } => {
                write!(f, "checksum of chunk {chunk}: stored {stored:#010x}, computed {computed:#010x}")
            }
        }
    }
}

/// Verifies every chunk of `payload`.
///
/// # Errors
/// The first [`Mismatch`].
pub fn verify_chunks(payload: &[u8], checksums: &[u32]) -> Result<(), Mismatch> {
    let expected = chunk_count(payload.len());
    if checksums.len() != expected {
        return Err(Mismatch::Count { expected, given: checksums.len() });
    }
    for (chunk, (bytes, &stored)) in payload.chunks(CHECKSUM_CHUNK_BYTES).zip(checksums).enumerate() {
        let computed = crc32c(bytes);
        if computed != stored {
            return Err(Mismatch::Chunk { chunk, stored, computed });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value every CRC-32C agrees on (RFC 3720's family).
    #[test]
    fn crc32c_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_append(&[b"1234", b"", b"56789"]), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn a_flipped_bit_is_found_in_its_chunk() {
        let mut payload = vec![7u8; CHECKSUM_CHUNK_BYTES * 2 + 5];
        let checksums = of_chunks(&payload);
        assert_eq!(checksums.len(), 3);
        assert_eq!(verify_chunks(&payload, &checksums), Ok(()));
        payload[CHECKSUM_CHUNK_BYTES + 9] ^= 1;
        assert!(matches!(verify_chunks(&payload, &checksums), Err(Mismatch::Chunk { chunk: 1, .. })));
        assert!(matches!(verify_chunks(&payload, &checksums[..2]), Err(Mismatch::Count { expected: 3, given: 2 })));
    }
}

//! Pure functions over byte slices: checksums now; erasure code, compression and encryption later.
//!
//! # Not here
//! Where a checksum is stored and who compares it: `media` for pages and log, `vos` for values,
//! `client` and `engine` for data on its way.
//!
//! # Source
//! CRC-32C (Castagnoli), RFC 3720 appendix B.4; the hardware paths are the `crc-fast` crate's.
#![forbid(unsafe_code)]

pub mod checksum;

pub use checksum::{crc32c, crc32c_append};

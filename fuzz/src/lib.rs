//! Fuzz targets: every decoder of bytes that come from a disk, a peer or a user; and sequences of operations on a
//! store, against its model.
//!
//! # Shape
//! A target is a function from bytes to nothing; it fails by panicking. Bytes behind a checksum are
//! sealed first, since noise that a checksum refuses reaches no decoder. What decodes must encode to
//! the same bytes again, where the format promises that.
//!
//! # Not here
//! Mutation, time, corpora: `bin/guided.rs` (libFuzzer) and `bin/unguided.rs` (a loop) bring them;
//! `cargo xtask fuzz` runs them.
#![forbid(unsafe_code)]

mod media;
mod messages;
mod operations;
mod raft;
#[path = "../../crates/vos/tests/rig/mod.rs"]
mod rig;
mod store;

use codec::crc32c;
use wire::frame;

/// Every target, by the name that `cargo xtask fuzz` takes.
#[rustfmt::skip]
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("frame", frame_header),
    ("message", messages::any),
    ("superblock", media::superblock),
    ("root", media::root),
    ("log", media::log),
    ("page", media::page),
    ("raft-log", raft::log),
    ("raft-message", raft::message),
    ("raft-snapshot", raft::snapshot),
    ("store-record", store::record),
    ("store-page", store::page),
    ("store-describe", store::describe),
    ("store-operations", operations::any),
    ("store-anchors", store::anchors),
];

/// The target called `name`.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

/// A frame header as it came, and again with a right checksum.
fn frame_header(data: &[u8]) {
    let as_it_came = frame::Header::decode(data);
    if let Ok(header) = as_it_came {
        assert_eq!(header.encode()[..], data[..frame::HEADER_BYTES], "what decodes encodes to the same bytes");
    }
    let Some(mut sealed) = data.first_chunk::<{ frame::HEADER_BYTES }>().copied() else { return };
    sealed[..4].copy_from_slice(&frame::MAGIC);
    sealed[4] = frame::Version::NEWEST as u8;
    let crc = crc32c(&sealed[..60]);
    sealed[60..].copy_from_slice(&crc.to_le_bytes());
    if let Ok(header) = frame::Header::decode(&sealed) {
        assert_eq!(header.encode(), sealed, "what decodes encodes to the same bytes");
        // A verdict either way; the point is that any body may be asked about.
        let _ = header.check_body(&data[frame::HEADER_BYTES..]);
    }
}

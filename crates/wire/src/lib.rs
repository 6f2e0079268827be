//! What is said between programs: frames, messages, their bytes and their versions.
//!
//! A *frame* ([`frame`]) is a fixed header, a body and bulk data. The body is one *message*
//! ([`data`], [`control`], [`group`], [`hello`], [`peer`]) in the field encoding of [`encoding`]. Bulk data is payload
//! that messages refer to by offset; it is never parsed.
//!
//! # Always true
//! 1. Decoding never panics and never allocates more than the bytes it was given allow.
//! 2. A message that decodes encodes to the same bytes again.
//! 3. Every message has golden bytes in `golden/v1`; a change of layout is a new version.
//!
//! # Not here
//! Sockets, retries, credits (`net`); what an operation means (`object`, `engine`).
#![forbid(unsafe_code)]

pub mod control;
pub mod copy;
pub mod data;
pub mod encoding;
pub mod frame;
pub mod group;
pub mod hello;
pub mod membership;
pub mod opcode;
pub mod peer;

pub use encoding::{DecodeError, Reader, Wire};
pub use opcode::Opcode;

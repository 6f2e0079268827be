#![forbid(unsafe_code)]
//! (not yet written)

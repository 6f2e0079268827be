//! What the product is measured against, in the same run: other stores, bare system calls, bare
//! ping-pongs.

pub mod disk;
pub mod fjall;
pub mod log;
pub mod memory;
pub mod pingpong;
pub mod redb;

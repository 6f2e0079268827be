//! Pages in memory, and where each lies on the device.

pub(crate) mod frame;
pub(crate) mod freeze;
pub(crate) mod map;
pub(crate) mod pool;

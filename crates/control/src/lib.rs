//! The server as a program: configuration, storage, listening, life and death.
//!
//! # Shape
//! - [`config`]: the server's YAML file and its defaults.
//! - [`storage`]: directories and devices, cut into the regions of targets (`layout`, `device`); one server at
//!   a time.
//! - [`offline`]: the same storage for an inspector, when no server has it.
//! - [`server`]: a listening server, from start to SIGTERM.
//! - [`embedded`]: the same server inside a client's process, on an in-process link.
//!
//! # Not here
//! What requests mean (`engine`); commands and their output (`cli`).

#![forbid(unsafe_code)]

pub mod config;
mod device;
pub mod embedded;
mod layout;
pub mod offline;
pub mod recovery;
pub mod server;
pub mod storage;

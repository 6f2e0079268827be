//! The commands: `daos`, `dmg`, `daos_server`, `ddb`, and what they share.
//!
//! A command is a clap struct with a `run` that returns an [`output::Outcome`]: the JSON response
//! and the text a person reads. [`program`] parses, runs and prints, in one place for all four.
//!
//! # Shape
//! ```text
//!   program ── parse ──> daos | dmg | daos_server ── session ──> daos::System
//!      │           └───> ddb ── storage at rest ──> media, vos
//!      └────── print <── Outcome { response, text, fault }  or  Failure { cause, remedy }
//! ```
//!
//! # Always true
//! 1. With `--json` exactly one JSON object goes to stdout, whatever happens.
//! 2. Exit status: 0 done, 1 failed, 2 asked wrongly. A reader that goes away is no failure.
//! 3. A failure says its cause and, where there is one, its remedy. Never a backtrace.
//!
//! # Not here
//! What operations mean (`client`, `dfs`), configuration keys (`control`).
#![forbid(unsafe_code)]

mod acl;
pub mod daos;
pub mod daos_server;
pub mod ddb;
pub mod dmg;
mod encoded;
mod failure;
mod manual;
mod mount;
mod options;
mod output;
mod place;
mod program;
mod progress;
mod properties;
mod quickstart;
mod session;
mod show;
mod table;
mod transfer;

pub use program::{Program, main};

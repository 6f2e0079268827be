//! `daos`: the user's commands.

mod acl;
mod attributes;
mod container;
mod copy;
mod filesystem;
mod kv;
mod object;
mod pool;
mod snapshots;
mod system;

use clap::{Parser, Subcommand};

use crate::failure::Result;
use crate::options::{PrintOptions, SystemOptions};
use crate::output::Outcome;
use crate::program::{ManualVerb, Program, version};
use crate::quickstart::Quickstart;

pub(crate) use acl::Owner;
pub(crate) use container::Named;

/// Store, version and give back data in DAOS: key-value objects, arrays, and files.
///
/// Pools and containers are named by label or UUID. New here? Try `daos quickstart`.
#[derive(Parser, Debug)]
#[command(name = "daos", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Daos {
    #[command(flatten)]
    pub(crate) print: PrintOptions,
    #[command(flatten)]
    system: SystemOptions,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// See DAOS store, version, verify and give back a directory tree
    Quickstart(Quickstart),
    /// Pools: space reserved for data
    #[command(subcommand)]
    Pool(pool::Verb),
    /// Containers: datasets within a pool, and their snapshots
    #[command(subcommand, visible_alias = "cont")]
    Container(container::Verb),
    /// Files and directories in a POSIX container
    #[command(subcommand, visible_alias = "fs")]
    Filesystem(filesystem::Verb),
    /// Keys and values in a container
    #[command(subcommand)]
    Kv(kv::Verb),
    /// Single objects: where they lie, what keys they have
    #[command(subcommand, visible_alias = "obj")]
    Object(object::Verb),
    /// The system at large
    #[command(subcommand, visible_alias = "sys")]
    System(system::Verb),
    /// Show the version
    Version,
    #[command(flatten)]
    Manual(ManualVerb),
}

impl Daos {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let json = self.print.json;
        match self.verb {
            Verb::Quickstart(quickstart) => quickstart.run(&self.system, json).await,
            Verb::Pool(verb) => verb.run(&self.system).await,
            Verb::Container(verb) => verb.run(&self.system).await,
            Verb::Filesystem(verb) => verb.run(&self.system, json).await,
            Verb::Kv(verb) => verb.run(&self.system, json).await,
            Verb::Object(verb) => verb.run(&self.system).await,
            Verb::System(verb) => verb.run(&self.system).await,
            Verb::Version => Ok(version(Program::Daos)),
            Verb::Manual(verb) => verb.run(Program::Daos),
        }
    }
}

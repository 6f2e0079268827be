//! `dmg`: the administrator's commands.

mod acl;
mod container;
mod pool;
mod rebuild;
mod server;
mod storage;
mod system;
mod targets;

use clap::{Parser, Subcommand};

use crate::failure::Result;
use crate::options::{PrintOptions, SystemOptions};
use crate::output::Outcome;
use crate::program::{ManualVerb, Program, version};

pub(crate) use pool::query as query_pool;

/// Administer a DAOS system: its pools, its storage, its servers.
#[derive(Parser, Debug)]
#[command(name = "dmg", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Dmg {
    #[command(flatten)]
    pub(crate) print: PrintOptions,
    #[command(flatten)]
    system: SystemOptions,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// The servers of the system
    #[command(subcommand, visible_alias = "sys")]
    System(system::Verb),
    /// What each server does for itself
    #[command(subcommand, visible_alias = "srv")]
    Server(server::Verb),
    /// Create, list, resize and destroy pools; choose their servers and targets
    #[command(subcommand)]
    Pool(pool::Verb),
    /// Whose containers are
    #[command(subcommand, visible_alias = "cont")]
    Container(container::Verb),
    /// What the servers store on, and how much
    #[command(subcommand, visible_alias = "sto")]
    Storage(storage::Verb),
    /// Show the version
    Version,
    #[command(flatten)]
    Manual(ManualVerb),
}

impl Dmg {
    pub(crate) async fn run(self) -> Result<Outcome> {
        match self.verb {
            Verb::System(verb) => verb.run(&self.system).await,
            Verb::Server(verb) => verb.run(&self.system).await,
            Verb::Pool(verb) => verb.run(&self.system, self.print.json).await,
            Verb::Container(verb) => verb.run(&self.system).await,
            Verb::Storage(verb) => verb.run(&self.system).await,
            Verb::Version => Ok(version(Program::Dmg)),
            Verb::Manual(verb) => verb.run(Program::Dmg),
        }
    }
}

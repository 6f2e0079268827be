//! `daos pool`.

use clap::Subcommand;

use crate::dmg::query_pool;
use crate::failure::Result;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::session::{self, Missing};
use crate::show;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// List pools
    #[command(visible_alias = "ls")]
    List {
        /// Also show UUIDs
        #[arg(short, long)]
        verbose: bool,
        /// Accepted for upstream's scripts; lists always show usage
        #[arg(short, long, hide = true)]
        no_query: bool,
    },
    /// Show one pool: space, targets, containers
    Query {
        /// Label or UUID
        pool: String,
    },
    /// List the containers of a pool
    #[command(visible_alias = "list-cont")]
    ListContainers {
        /// Label or UUID
        pool: String,
        /// Also show UUIDs
        #[arg(short, long)]
        verbose: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| match &self {
            Verb::List { verbose, no_query: _ } => {
                let none = "no pools yet: create one with `dmg pool create POOL --size 1GB`";
                let (response, text) = show::pools(&session.pools().await?, *verbose, none);
                Ok(Outcome::new(response, text))
            }
            Verb::Query { pool } => query_pool(session, pool).await,
            Verb::ListContainers { pool, verbose } => super::container::list(session, pool, *verbose).await,
        })
        .await
    }
}

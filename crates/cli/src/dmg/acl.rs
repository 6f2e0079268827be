//! `dmg pool *-acl`: who may do what with a pool.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::{AclChange, OwnedAcl};
use types::{Ace, AclOf, Error, Principal};

use crate::acl;
use crate::failure::Result;
use crate::output::Outcome;
use crate::session::Session;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the access control list, which is kept and not enforced yet
    #[command(name = "get-acl")]
    Get {
        /// Label or UUID
        pool: String,
        /// Write it to a file instead
        #[arg(short = 'O', long, value_name = "FILE")]
        outfile: Option<PathBuf>,
        /// Also when the file exists
        #[arg(short, long, requires = "outfile")]
        force: bool,
        /// Say each entry in words, too
        #[arg(short, long)]
        verbose: bool,
    },
    /// Replace the access control list, which is kept and not enforced yet
    #[command(name = "overwrite-acl")]
    Overwrite {
        /// Label or UUID
        pool: String,
        /// File of entries: A:[G]:PRINCIPAL:PERMISSIONS, one a line
        #[arg(short, long, value_name = "FILE")]
        acl_file: PathBuf,
    },
    /// Add entries to the access control list, or change those there are; it is kept and not enforced yet
    #[command(name = "update-acl")]
    Update(Update),
    /// Delete an entry of the access control list, which is kept and not enforced yet
    #[command(name = "delete-acl")]
    Delete {
        /// Label or UUID
        pool: String,
        /// Whose: u:USER@, g:GROUP@, or OWNER@, GROUP@ or EVERYONE@ as such
        #[arg(short, long, value_parser = acl::principal)]
        principal: Principal,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Label or UUID
    pool: String,
    /// File of entries: A:[G]:PRINCIPAL:PERMISSIONS, one a line
    #[arg(short, long, value_name = "FILE", required_unless_present = "entry", conflicts_with = "entry")]
    acl_file: Option<PathBuf>,
    /// Entries: A::bob@:rw[,A:G:admins@:rwcd...]
    #[arg(short, long, value_name = "ENTRIES", value_parser = acl::entry, value_delimiter = ',')]
    entry: Vec<Ace>,
}

impl Verb {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome> {
        match self {
            Verb::Get { pool, outfile, force, verbose } => {
                let found = known(session, pool, session.pool_acl(pool).await).await?;
                acl::shown(&found, outfile.as_deref(), *force, *verbose)
            }
            Verb::Overwrite { pool, acl_file } => {
                change(session, pool, AclChange::Overwrite { acl: acl::read(acl_file, AclOf::Pool)? }).await
            }
            Verb::Update(Update { pool, acl_file, entry }) => {
                let acl = acl::entries(acl_file.as_deref(), entry, AclOf::Pool)?;
                change(session, pool, AclChange::Update { acl }).await
            }
            Verb::Delete { pool, principal } => {
                // That there is no such pool, and no such entry, has one number: the pool first.
                known(session, pool, session.pool_acl(pool).await).await?;
                let deleted = session.change_pool_acl(pool, AclChange::Delete { principal: principal.clone() }).await?;
                Ok(acl::outcome(&deleted))
            }
        }
    }
}

async fn change(session: &Session, pool: &str, change: AclChange) -> Result<Outcome> {
    let changed = known(session, pool, session.change_pool_acl(pool, change).await).await?;
    Ok(acl::outcome(&changed))
}

/// An unknown pool is answered with the nearest known one.
async fn known(session: &Session, pool: &str, result: std::result::Result<OwnedAcl, Error>) -> Result<OwnedAcl> {
    match result {
        Ok(found) => Ok(found),
        Err(error) => Err(session.pool_error(error, pool).await),
    }
}

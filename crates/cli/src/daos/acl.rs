//! `daos container *-acl`, `set-owner`: whose a container is, and who may do what with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::AclChange;
use serde_json::json;
use types::{Ace, AclOf, Principal, PrincipalName};

use super::container::Named;
use crate::acl;
use crate::failure::Result;
use crate::output::Outcome;
use crate::session::Session;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the access control list, which is kept and not enforced yet
    GetAcl {
        #[command(flatten)]
        named: Named,
        /// Write it to a file instead
        #[arg(short = 'O', long, value_name = "FILE")]
        outfile: Option<PathBuf>,
        /// Also when the file exists
        #[arg(short, long, requires = "outfile")]
        force: bool,
        /// Say each entry in words, too
        #[arg(short = 'V', long)]
        verbose: bool,
    },
    /// Replace the access control list, which is kept and not enforced yet
    #[command(visible_alias = "replace")]
    OverwriteAcl {
        #[command(flatten)]
        named: Named,
        /// File of entries: A:[G]:PRINCIPAL:PERMISSIONS, one a line
        #[arg(short = 'f', long, value_name = "FILE")]
        acl_file: PathBuf,
    },
    /// Add entries to the access control list, or change those there are; it is kept and not enforced yet
    UpdateAcl {
        #[command(flatten)]
        named: Named,
        /// File of entries: A:[G]:PRINCIPAL:PERMISSIONS, one a line
        #[arg(short = 'f', long, value_name = "FILE", required_unless_present = "entry", conflicts_with = "entry")]
        acl_file: Option<PathBuf>,
        /// Entries: A::bob@:rw[,A:G:admins@:rwdt...]
        #[arg(short, long, value_name = "ENTRIES", value_parser = acl::entry, value_delimiter = ',')]
        entry: Vec<Ace>,
    },
    /// Delete an entry of the access control list, which is kept and not enforced yet
    DeleteAcl {
        #[command(flatten)]
        named: Named,
        /// Whose: u:USER@, g:GROUP@, or OWNER@, GROUP@ or EVERYONE@ as such
        #[arg(short = 'P', long, value_parser = acl::principal)]
        principal: Principal,
    },
    /// Give the container another owner, or owner's group
    #[command(visible_alias = "chown")]
    SetOwner {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        owner: Owner,
        /// Accepted for upstream's scripts; whether there is such a user is never looked up here
        #[arg(long, hide = true)]
        no_check: bool,
    },
}

/// Whose a container is to be.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Owner {
    /// The new owner: bob@
    #[arg(short, long, value_name = "USER", value_parser = acl::name)]
    user: Option<PrincipalName>,
    /// The new owner's group: admins@
    #[arg(short, long, value_name = "GROUP", value_parser = acl::name)]
    group: Option<PrincipalName>,
}

impl Owner {
    pub(crate) async fn set(&self, named: &Named, session: &Session) -> Result<Outcome> {
        named.open(session).await?.set_owner(self.user.clone(), self.group.clone()).await?;
        let whom = [("user", &self.user), ("group", &self.group)];
        let whom: Vec<String> =
            whom.into_iter().filter_map(|(kind, name)| Some(format!("{kind} {}", name.as_ref()?))).collect();
        Ok(Outcome::new(json!(null), format!("container {} belongs to {} now", named.container, whom.join(", "))))
    }
}

impl Verb {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome> {
        let (named, change) = match self {
            Verb::GetAcl { named, outfile, force, verbose } => {
                let found = named.open(session).await?.acl().await?;
                return acl::shown(&found, outfile.as_deref(), *force, *verbose);
            }
            Verb::SetOwner { named, owner, no_check: _ } => return owner.set(named, session).await,
            Verb::OverwriteAcl { named, acl_file } => {
                (named, AclChange::Overwrite { acl: acl::read(acl_file, AclOf::Container)? })
            }
            Verb::UpdateAcl { named, acl_file, entry } => {
                (named, AclChange::Update { acl: acl::entries(acl_file.as_deref(), entry, AclOf::Container)? })
            }
            Verb::DeleteAcl { named, principal } => (named, AclChange::Delete { principal: principal.clone() }),
        };
        Ok(acl::outcome(&named.open(session).await?.change_acl(change).await?))
    }
}

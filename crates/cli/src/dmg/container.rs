//! `dmg container`.

use clap::{Args, Subcommand};

use crate::daos::{Named, Owner};
use crate::failure::Result;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::session::{self, Missing};

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Give a container another owner, or owner's group
    SetOwner(SetOwner),
}

#[derive(Args, Debug)]
pub(crate) struct SetOwner {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    owner: Owner,
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        let Verb::SetOwner(SetOwner { named, owner }) = self;
        session::with(system, Missing::Refuse, async |session| owner.set(&named, session).await).await
    }
}

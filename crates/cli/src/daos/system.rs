//! `daos system`.

use clap::Subcommand;
use serde_json::json;

use crate::failure::Result;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::session::{self, Missing};
use crate::show;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the system's name, release and servers
    Query,
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        let Verb::Query = self;
        session::with(system, Missing::Refuse, async |session| {
            let info = session.info().await?;
            let ranks: Vec<_> = info
                .members
                .iter()
                .map(|m| json!({ "rank": m.rank.0, "uri": m.address, "targets": m.targets }))
                .collect();
            let text = format!("System {}, release {}\n\n{}", info.name, info.release, show::members(&info));
            Ok(Outcome::new(json!({ "system_name": info.name, "release": info.release, "rank_uris": ranks }), text))
        })
        .await
    }
}

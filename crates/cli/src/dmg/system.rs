//! `dmg system`.

use clap::Subcommand;
use serde_json::json;

use crate::failure::Result;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::session::{self, Missing};
use crate::show;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the servers, their state and their targets
    Query {
        /// Also show UUIDs
        #[arg(short, long)]
        verbose: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        let Verb::Query { verbose } = self;
        session::with(system, Missing::Refuse, async |session| {
            let info = session.info().await?;
            let members: Vec<_> = info
                .members
                .iter()
                .map(|m| {
                    json!({
                        "rank": m.rank.0,
                        "uuid": member_uuid(&m.uuid.0),
                        "addr": m.address,
                        "state": show::member_state(&m.state),
                        "fault_domain": m.fault_domain,
                        "targets": m.targets,
                    })
                })
                .collect();
            let mut text = format!("System {}, release {}\n\n{}", info.name, info.release, show::members(&info));
            if verbose {
                for member in &info.members {
                    text.push_str(&format!("Rank {}: {}\n", member.rank, member_uuid(&member.uuid.0)));
                }
            }
            Ok(Outcome::new(json!({ "name": info.name, "release": info.release, "members": members }), text))
        })
        .await
    }
}

fn member_uuid(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).map(|uuid| uuid.to_string()).unwrap_or_default()
}

//! `dmg server`.

use clap::Subcommand;
use serde_json::json;
use types::{Error, Rank};

use crate::failure::Result;
use crate::options::{LogMasks, Numbers, SystemOptions};
use crate::output::Outcome;
use crate::session;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Change what servers log, until they end
    #[command(visible_alias = "slm")]
    SetLogmasks {
        /// LEVEL[,module=LEVEL...]: ERR, WARN, INFO, DEBUG, TRACE or OFF [default: what they logged at their start]
        #[arg(short, long, value_name = "MASKS")]
        masks: Option<LogMasks>,
        /// Ranks: 2,5-7 [default: all]
        #[arg(short, long, value_name = "RANKS")]
        ranks: Option<Numbers>,
    },
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        let Verb::SetLogmasks { masks, ranks } = self;
        session::with_any(system, async |session| {
            let ranks = ranks.into_iter().flat_map(|ranks| ranks.0).map(Rank).collect();
            let masks = masks.map(|masks| masks.0).unwrap_or_default();
            Ok(outcome(&session.set_log_masks(ranks, &masks).await?))
        })
        .await
    }
}

fn outcome(servers: &[(Rank, Option<Error>)]) -> Outcome {
    let row = |(rank, error): &(Rank, Option<Error>)| json!({ "rank": rank.0, "error": error.as_ref().map(ToString::to_string) });
    let line = |(rank, error): &(Rank, Option<Error>)| match error {
        None => format!("Rank {rank}: set\n"),
        Some(error) => format!("Rank {rank}: {}\n", error.message),
    };
    let text: String = servers.iter().map(line).collect();
    let fault = servers.iter().find_map(|(_, error)| error.clone());
    Outcome::new(json!({ "ranks": servers.iter().map(row).collect::<Vec<_>>() }), text).with_fault(fault)
}

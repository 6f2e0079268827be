//! `dmg system`.

use clap::{Args, Subcommand};
use serde_json::json;
use types::{Code, Error, Rank, Span};

use crate::failure::Result;
use crate::options::{Names, Pairs, SystemOptions};
use crate::output::Outcome;
use crate::session::{self, Missing, Session};
use crate::show;
use crate::table::table;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the servers, their state and their targets
    Query {
        /// Also show UUIDs
        #[arg(short, long)]
        verbose: bool,
    },
    /// Show which rank leads the system's service, and which ranks keep it
    LeaderQuery,
    /// Make a token with which one server may join: `daos_server start --join ADDRESS --token TOKEN`
    Token {
        /// How long it may wait to be used: 30m, 2h, 7d
        #[arg(long, value_name = "TIME", default_value = "1h")]
        expires: Span,
    },
    /// Keep ranks out until `clear-exclude`
    Exclude {
        #[command(flatten)]
        ranks: Ranks,
    },
    /// Let excluded ranks come back
    ClearExclude {
        #[command(flatten)]
        ranks: Ranks,
    },
    /// Set attributes of the system
    SetAttr {
        /// key:value[,key:value...]
        attributes: Pairs,
    },
    /// Show attributes of the system
    GetAttr {
        /// key[,key...]; left out: all
        names: Option<Names>,
    },
    /// Remove attributes of the system
    DelAttr {
        /// key[,key...]
        names: Names,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Ranks {
    /// Ranks: 2,5-7
    #[arg(short, long, value_name = "RANKS", value_parser = rank_list)]
    ranks: RankList,
}

#[derive(Clone, Debug)]
struct RankList(Vec<Rank>);

/// Most ranks that one command names: a slip of the hand (`1-4000000000`) is no list.
const RANKS_MAX: u32 = 65_536;

fn rank_list(text: &str) -> std::result::Result<RankList, String> {
    let wrong = || format!("'{text}' is no list of ranks; write 2,5-7");
    let mut ranks = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        if last < first || last - first >= RANKS_MAX {
            return Err(wrong());
        }
        ranks.extend((first..=last).map(Rank));
    }
    Ok(RankList(ranks))
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| match self {
            Verb::Query { verbose } => query(session, verbose).await,
            Verb::LeaderQuery => {
                let info = session.info().await?;
                let leader = info.leader.map_or("nobody".to_string(), |rank| format!("rank {rank}"));
                let voters: Vec<u32> = info.voters.iter().map(|rank| rank.0).collect();
                let kept = voters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let response = json!({ "current_leader": info.leader.map(|rank| rank.0), "replicas": voters });
                Ok(Outcome::new(response, format!("Leader: {leader}\nKept by ranks: {kept}\n")))
            }
            Verb::Token { expires } => {
                let seconds = expires.duration().map_or(u64::MAX, |time| time.as_secs());
                let token = session.create_token(seconds).await?;
                let response = json!({ "token": token.token, "seconds": token.seconds });
                Ok(Outcome::new(response, format!("{}\n", token.token)))
            }
            Verb::Exclude { ranks } => {
                session.exclude(ranks.ranks.0, true).await?;
                Ok(Outcome::new(json!(null), "Excluded\n"))
            }
            Verb::ClearExclude { ranks } => {
                session.exclude(ranks.ranks.0, false).await?;
                Ok(Outcome::new(json!(null), "They may come back\n"))
            }
            Verb::SetAttr { attributes } => {
                session.set_attributes(attributes.0).await?;
                Ok(Outcome::new(json!(null), "Set\n"))
            }
            Verb::GetAttr { names } => {
                let mut found = session.attributes().await?;
                if let Some(Names(names)) = names {
                    if let Some(missing) = names.iter().find(|name| !found.iter().any(|(known, _)| known == *name)) {
                        return Err(Error::new(Code::NotFound, format!("the system has no attribute '{missing}'"))
                            .remedy("list them with `dmg system get-attr`")
                            .into());
                    }
                    found.retain(|(known, _)| names.contains(known));
                }
                let rows = found.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
                let response: serde_json::Map<_, _> =
                    found.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
                Ok(Outcome::new(json!(response), table(&["Name", "Value"], rows)))
            }
            Verb::DelAttr { names } => {
                let removed = names.0.into_iter().map(|name| (name, String::new())).collect();
                session.set_attributes(removed).await?;
                Ok(Outcome::new(json!(null), "Removed\n"))
            }
        })
        .await
    }
}

async fn query(session: &Session, verbose: bool) -> Result<Outcome> {
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
    let leader = info.leader.map_or(String::new(), |rank| format!(", led by rank {rank}"));
    let mut text = format!("System {}, release {}{leader}\n\n{}", info.name, info.release, show::members(&info));
    if verbose {
        for member in &info.members {
            text.push_str(&format!("Rank {}: {}\n", member.rank, member_uuid(&member.uuid.0)));
        }
    }
    Ok(Outcome::new(json!({ "name": info.name, "release": info.release, "members": members }), text))
}

fn member_uuid(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).map(|uuid| uuid.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_a_list_with_ranges() {
        let ranks = |text| rank_list(text).map(|list| list.0.iter().map(|rank| rank.0).collect::<Vec<_>>());
        assert_eq!(ranks("2, 5-7"), Ok(vec![2, 5, 6, 7]));
        for wrong in ["", "x", "3-", "7-5", "0-4000000000"] {
            assert!(ranks(wrong).is_err(), "{wrong}");
        }
    }
}

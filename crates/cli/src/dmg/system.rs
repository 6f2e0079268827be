//! `dmg system`.

use clap::{Args, Subcommand};
use serde_json::json;
use types::{Code, Error, Rank, Span, SystemProperty};
use wire::control::{PoolTargetsChanged, TargetChange};

use crate::failure::Result;
use crate::options::{Names, Numbers, Pairs, SystemOptions};
use crate::output::Outcome;
use crate::properties;
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
    /// Have ranks stop serving until `start`: their servers go on running, and keep their votes
    Stop {
        #[command(flatten)]
        ranks: SomeRanks,
    },
    /// Have stopped ranks serve again
    Start {
        #[command(flatten)]
        ranks: SomeRanks,
    },
    /// Drain ranks in all pools that they are in
    Drain {
        #[command(flatten)]
        ranks: Ranks,
    },
    /// Take ranks back in all pools that they were excluded from or drained in
    #[command(visible_alias = "reint")]
    Reintegrate {
        #[command(flatten)]
        ranks: Ranks,
    },
    /// Change properties of the system
    #[command(visible_alias = "setprop")]
    SetProp {
        /// key:value[,key:value...]
        properties: Pairs,
    },
    /// Show properties of the system
    #[command(visible_alias = "getprop")]
    GetProp {
        /// key[,key...]; left out: all
        names: Option<Names>,
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
    #[arg(short, long, value_name = "RANKS")]
    ranks: Numbers,
}

#[derive(Args, Debug)]
pub(crate) struct SomeRanks {
    /// Ranks: 2,5-7 [default: all]
    #[arg(short, long, value_name = "RANKS")]
    ranks: Option<Numbers>,
}

fn ranks(numbers: impl IntoIterator<Item = Numbers>) -> Vec<Rank> {
    numbers.into_iter().flat_map(|numbers| numbers.0).map(Rank).collect()
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
                let ranks = self::ranks([ranks.ranks]);
                session.exclude(ranks.clone(), true).await?;
                states(session, &ranks).await
            }
            Verb::ClearExclude { ranks } => {
                let ranks = self::ranks([ranks.ranks]);
                session.exclude(ranks.clone(), false).await?;
                states(session, &ranks).await
            }
            Verb::Stop { ranks } => {
                let ranks = self::ranks(ranks.ranks);
                session.stop_ranks(ranks.clone(), true).await?;
                states(session, &ranks).await
            }
            Verb::Start { ranks } => {
                let ranks = self::ranks(ranks.ranks);
                session.stop_ranks(ranks.clone(), false).await?;
                states(session, &ranks).await
            }
            Verb::Drain { ranks } => {
                let pools = session.change_ranks(TargetChange::Drain, self::ranks([ranks.ranks])).await?;
                Ok(in_pools(&pools, "draining"))
            }
            Verb::Reintegrate { ranks } => {
                let pools = session.change_ranks(TargetChange::Reintegrate, self::ranks([ranks.ranks])).await?;
                Ok(in_pools(&pools, "on their way back"))
            }
            Verb::SetProp { properties } => {
                session.set_properties(properties::checked(SystemProperty::TABLE, properties, false)?).await?;
                Ok(Outcome::new(json!(null), "Set\n"))
            }
            Verb::GetProp { names } => {
                let values = session.properties().await?;
                let (response, text) = properties::shown(SystemProperty::TABLE, &values, names.as_ref())?;
                Ok(Outcome::new(response, text))
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

/// How ranks stand now: these, or, of an empty list, all.
async fn states(session: &Session, ranks: &[Rank]) -> Result<Outcome> {
    let info = session.info().await?;
    let named: Vec<_> = info.members.iter().filter(|m| ranks.is_empty() || ranks.contains(&m.rank)).collect();
    let results: Vec<_> =
        named.iter().map(|m| json!({ "rank": m.rank.0, "state": show::member_state(&m.state) })).collect();
    let text: String = named.iter().map(|m| format!("Rank {}: {}\n", m.rank, show::member_state(&m.state))).collect();
    Ok(Outcome::new(json!({ "results": results }), text))
}

/// What became of ranks in the pools that they are in. It failed where one of the pools could not.
fn in_pools(pools: &[PoolTargetsChanged], done: &str) -> Outcome {
    let numbers = |pool: &PoolTargetsChanged| pool.ranks.iter().map(|rank| rank.0).collect::<Vec<_>>();
    let row = |pool: &PoolTargetsChanged| {
        let error = pool.trouble.as_ref().map(ToString::to_string);
        json!({ "pool": pool.label, "uuid": pool.id.to_string(), "ranks": numbers(pool), "error": error })
    };
    let line = |pool: &PoolTargetsChanged| {
        let ranks = numbers(pool).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let what = pool.trouble.as_ref().map_or(done, |error| error.message.as_str());
        format!("Pool {}, ranks {ranks}: {what}\n", pool.label)
    };
    let text = match pools.is_empty() {
        true => "no pool is on these ranks\n".to_string(),
        false => pools.iter().map(line).collect(),
    };
    let fault = pools.iter().find_map(|pool| {
        let error = pool.trouble.clone()?;
        Some(Error { message: format!("pool {}: {}", pool.label, error.message), ..error })
    });
    Outcome::new(json!({ "responses": pools.iter().map(row).collect::<Vec<_>>() }), text).with_fault(fault)
}

fn member_uuid(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).map(|uuid| uuid.to_string()).unwrap_or_default()
}

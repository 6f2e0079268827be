//! `dmg pool`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use types::{AclOf, ByteSize, Code, Error, PoolProperty, Rank};
use wire::control::{DeviceInfo, PoolServers};

use crate::failure::{Failure, Result};
use crate::options::{self, Names, Numbers, Pairs, Share, SystemOptions};
use crate::output::Outcome;
use crate::properties;
use crate::session::{self, Missing, Session};
use crate::show;
use crate::table::count;

use super::{acl, rebuild, targets};

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Reserve space on every target and give it a name
    Create(Create),
    /// List pools
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one pool: space, targets, containers
    Query {
        /// Label or UUID
        pool: String,
        /// Show what changes of what is rebuilt, drained or on its way in, until nothing is: with --json an object each
        #[arg(short, long)]
        watch: bool,
    },
    /// Reserve more or less space for a pool
    Resize {
        /// Label or UUID
        pool: String,
        /// Size over all targets: 10GB, 5TiB
        #[arg(value_parser = options::size)]
        size: ByteSize,
    },
    /// Take targets out at once: what they hold is made anew from other copies
    Exclude(targets::Exclude),
    /// Take targets out when what they hold is elsewhere
    Drain(targets::Targets),
    /// Take targets back that were excluded or drained, or end a drain
    #[command(visible_alias = "reint")]
    Reintegrate(targets::Targets),
    /// Wait no longer for targets that are out: what nobody else has is lost, and their places are given to others
    GiveUp(targets::Targets),
    /// Give a pool more servers
    Extend(targets::Extend),
    /// Stop what is rebuilt, drained or on its way in, or go on with it
    #[command(subcommand)]
    Rebuild(rebuild::Verb),
    /// Show how targets of a rank stand, and their space
    QueryTargets(targets::Query),
    /// Delete a pool and give its space back
    Destroy(Destroy),
    /// Show properties
    #[command(visible_alias = "getprop")]
    GetProp {
        /// Label or UUID
        pool: String,
        /// Names: key[,key...]; all, if none
        properties: Option<Names>,
    },
    /// Change properties
    #[command(visible_alias = "setprop")]
    SetProp {
        /// Label or UUID
        pool: String,
        /// key:value[,key:value...]
        properties: Pairs,
    },
    #[command(flatten)]
    Acl(acl::Verb),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The new pool's label
    label: String,
    /// Size over all targets: 10GB, 5TiB, or a share of what is free: 50%
    #[arg(short = 'z', long, value_name = "SIZE")]
    size: Share,
    /// Properties: key:value[,key:value...]
    #[arg(short = 'P', long, value_name = "PROPERTIES")]
    properties: Option<Pairs>,
    /// Servers that it is made of: 2,5-7 [default: all]
    #[arg(short, long, value_name = "RANKS", conflicts_with = "nranks")]
    ranks: Option<Numbers>,
    /// How many servers it is made of: in as many fault domains as can be [default: all]
    #[arg(short = 'k', long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    nranks: Option<u32>,
    /// File of access control entries, A:[G]:PRINCIPAL:PERMISSIONS, one a line; they are kept and not enforced yet [default: the
    /// owner and the owner's group rw]
    #[arg(short, long, value_name = "FILE")]
    acl_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Also show UUIDs
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Accepted for upstream's scripts; lists always show usage
    #[arg(short, long, hide = true)]
    no_query: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Destroy {
    /// Label or UUID
    pool: String,
    /// Also with containers in it
    #[arg(short, long)]
    recursive: bool,
    /// Accepted for upstream's scripts; open handles never hold a pool back here
    #[arg(short, long, hide = true)]
    force: bool,
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions, json: bool) -> Result<Outcome> {
        match self {
            // The one command that makes an embedded system: an administrator's, and meant.
            Verb::Create(create) => session::with(system, Missing::Create, async |s| create.run(s).await).await,
            Verb::List(list) => {
                session::with(system, Missing::Refuse, async |session| {
                    let none = "no pools yet: create one with `dmg pool create POOL --size 1GB`";
                    let (response, text) = show::pools(&session.pools().await?, list.verbose, none);
                    Ok(Outcome::new(response, text))
                })
                .await
            }
            Verb::Query { pool, watch } => {
                session::with(system, Missing::Refuse, async |s| match watch {
                    true => rebuild::watch(s, &pool, json).await,
                    false => query(s, &pool).await,
                })
                .await
            }
            Verb::Rebuild(verb) => session::with(system, Missing::Refuse, async |s| verb.run(s, json).await).await,
            Verb::Resize { pool, size } => {
                session::with(system, Missing::Refuse, async |s| match s.resize_pool(&pool, size.0).await {
                    Ok(info) => {
                        let text = format!("pool {} has {} now", info.label, ByteSize(info.space.total));
                        Ok(Outcome::new(show::pool(&info).0, text))
                    }
                    Err(error) => Err(s.pool_error(error, &pool).await),
                })
                .await
            }
            Verb::Exclude(exclude) => session::with(system, Missing::Refuse, async |s| exclude.run(s).await).await,
            Verb::Drain(targets) => session::with(system, Missing::Refuse, async |s| targets.drain(s).await).await,
            Verb::Reintegrate(targets) => {
                session::with(system, Missing::Refuse, async |s| targets.reintegrate(s).await).await
            }
            Verb::GiveUp(targets) => session::with(system, Missing::Refuse, async |s| targets.give_up(s).await).await,
            Verb::Extend(extend) => session::with(system, Missing::Refuse, async |s| extend.run(s).await).await,
            Verb::QueryTargets(query) => session::with(system, Missing::Refuse, async |s| query.run(s).await).await,
            Verb::Acl(verb) => session::with(system, Missing::Refuse, async |s| verb.run(s).await).await,
            Verb::Destroy(destroy) => session::with(system, Missing::Refuse, async |s| destroy.run(s).await).await,
            Verb::GetProp { pool, properties } => {
                session::with(system, Missing::Refuse, async |s| get_properties(s, &pool, properties.as_ref()).await)
                    .await
            }
            Verb::SetProp { pool, properties } => {
                let checked = properties::checked(PoolProperty::TABLE, properties, false)?;
                session::with(system, Missing::Refuse, async |s| {
                    match s.set_pool_properties(&pool, checked.clone()).await {
                        Ok(()) => Ok(Outcome::new(json!(null), format!("properties of pool {pool} set"))),
                        Err(error) => Err(s.pool_error(error, &pool).await),
                    }
                })
                .await
            }
        }
    }
}

/// `pool query` of either program.
pub(crate) async fn query(session: &Session, pool: &str) -> Result<Outcome> {
    match session.pool_info(pool).await {
        Ok(info) => {
            let (response, text) = show::pool(&info);
            Ok(Outcome::new(response, text))
        }
        Err(error) => Err(session.pool_error(error, pool).await),
    }
}

impl Create {
    async fn run(&self, session: &Session) -> Result<Outcome> {
        types::Label::parse(&self.label).map_err(|e| Failure::usage(e.to_string(), "choose another label"))?;
        let properties = match self.properties.clone() {
            Some(pairs) => properties::checked(PoolProperty::TABLE, pairs, true)?,
            None => Vec::new(),
        };
        let acl = self.acl_file.as_deref().map(|path| crate::acl::read(path, AclOf::Pool)).transpose()?;
        let bytes = self.bytes(session).await?;
        let pool = session.create_pool_on(self.servers(), &self.label, bytes, properties, acl).await?;
        let ranks: Vec<u32> = pool.ranks.iter().map(|rank| rank.0).collect();
        let per_rank = pool.space.total / ranks.len().max(1) as u64;
        let response = json!({
            "uuid": pool.id.to_string(),
            "label": pool.label,
            "svc_ldr": pool.leader.map(|rank| rank.0),
            "svc_reps": pool.voters.iter().map(|rank| rank.0).collect::<Vec<_>>(),
            "tgt_ranks": ranks,
            "tier_bytes": [per_rank],
        });
        let text = format!(
            "pool {} created: {} on {} targets of {}\nUUID: {}",
            pool.label,
            ByteSize(pool.space.total),
            pool.targets,
            count(ranks.len() as u64, "server"),
            pool.id
        );
        Ok(Outcome::new(response, text))
    }

    fn servers(&self) -> PoolServers {
        match (&self.ranks, self.nranks) {
            (Some(Numbers(ranks)), _) => PoolServers::Ranks { ranks: ranks.iter().copied().map(Rank).collect() },
            (None, Some(count)) => PoolServers::Count { count },
            (None, None) => PoolServers::All,
        }
    }

    async fn bytes(&self, session: &Session) -> Result<u64> {
        let percent = match self.size {
            Share::Bytes(bytes) => return Ok(bytes),
            Share::Percent(percent) => u64::from(percent),
        };
        let servers = self.servers();
        let mut devices = session.storage().await?.devices;
        if let PoolServers::Ranks { ranks } = &servers {
            devices.retain(|device| ranks.contains(&device.rank));
        }
        // Space is reserved evenly, so the fullest target bounds what the others can give.
        let least = devices.iter().map(|d| d.total.saturating_sub(d.reserved)).min().unwrap_or(0);
        let free = least * targets_taken(&devices, &servers);
        match free / 100 * percent {
            0 => {
                let error = Error::new(Code::NoSpace, "no space is left to reserve");
                Err(error.remedy("destroy a pool, or give the server more storage").into())
            }
            bytes => Ok(bytes),
        }
    }
}

impl Destroy {
    async fn run(&self, session: &Session) -> Result<Outcome> {
        match session.destroy_pool(&self.pool, self.recursive).await {
            Ok(()) => Ok(Outcome::new(json!(null), format!("pool {} destroyed", self.pool))),
            Err(error) => Err(session.pool_error(error, &self.pool).await),
        }
    }
}

/// Targets of the servers that are taken; of so many that are not chosen yet, no more than any of them have.
fn targets_taken(devices: &[DeviceInfo], servers: &PoolServers) -> u64 {
    let mut by_rank: BTreeMap<Rank, u64> = BTreeMap::new();
    devices.iter().for_each(|device| *by_rank.entry(device.rank).or_default() += 1);
    match servers {
        PoolServers::Count { count } => {
            let mut fewest: Vec<u64> = by_rank.into_values().collect();
            fewest.sort_unstable();
            fewest.into_iter().take(*count as usize).sum()
        }
        PoolServers::All | PoolServers::Ranks { .. } => by_rank.into_values().sum(),
    }
}

async fn get_properties(session: &Session, pool: &str, wanted: Option<&Names>) -> Result<Outcome> {
    match session.pool_properties(pool).await {
        Ok(values) => {
            let (response, text) = properties::shown(PoolProperty::TABLE, &values, wanted)?;
            Ok(Outcome::new(response, text))
        }
        Err(error) => Err(session.pool_error(error, pool).await),
    }
}

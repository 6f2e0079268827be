//! `daos object`: where an object lies, and what it holds.

use clap::{Args, Subcommand};
use client::{Container, Direction, ObjectList, ShardInfo, ShardState};
use serde_json::json;
use types::{Code, Error, Key, ObjectId, Rank};

use super::container::Named;
use crate::failure::Result;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::session::{self, Missing, Session};
use crate::table::{pairs, table};

#[derive(Args, Debug)]
pub(crate) struct Which {
    #[command(flatten)]
    named: Named,
    /// The object's id: HI.LO
    #[arg(value_name = "HI.LO", value_parser = object_id, required_unless_present = "option")]
    oid: Option<ObjectId>,
    /// The same, said with an option
    #[arg(short = 'i', long = "oid", value_name = "HI.LO", value_parser = object_id, conflicts_with = "oid")]
    option: Option<ObjectId>,
}

fn object_id(text: &str) -> Result<ObjectId, String> {
    text.parse()
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show an object's type, class and layout over targets
    Query(Which),
    /// List an object's dkeys, or the akeys of one
    ListKeys {
        #[command(flatten)]
        which: Which,
        /// List the akeys of this dkey
        #[arg(long)]
        dkey: Option<String>,
        /// At most this many
        #[arg(short = 'n', long, value_name = "COUNT")]
        limit: Option<usize>,
        /// From the last key to the first
        #[arg(short, long)]
        reverse: bool,
    },
    /// List the objects of a container
    #[command(visible_alias = "ls")]
    List(Named),
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| match &self {
            Verb::Query(which) => query(session, which).await,
            Verb::ListKeys { which, dkey, limit, reverse } => {
                let direction = if *reverse { Direction::Backward } else { Direction::Forward };
                list_keys(session, which, dkey.as_deref(), limit.unwrap_or(usize::MAX), direction).await
            }
            Verb::List(named) => {
                let container = named.open(session).await?;
                let ObjectList { objects, unheard } = container.list_objects().await?;
                let row = |oid: &ObjectId| vec![oid.to_string(), kind(*oid), class(*oid)];
                let text = match objects.is_empty() {
                    true => "no objects".to_string(),
                    false => table(&["Object", "Type", "Class"], objects.iter().map(row).collect()),
                };
                let object =
                    |oid: &ObjectId| json!({ "oid": oid.to_string(), "type": kind(*oid), "class": class(*oid) });
                let listed = Outcome::new(json!({ "objects": objects.iter().map(object).collect::<Vec<_>>() }), text);
                Ok(listed.with_fault(unheard_of(&container, &unheard, "objects")))
            }
        })
        .await
    }
}

/// That what was told may lack something, for servers that are out.
pub(crate) fn unheard_of(container: &Container, unheard: &[Rank], what: &str) -> Option<Error> {
    let ranks = match unheard {
        [] => return None,
        [one] => format!("rank {one} is"),
        _ => format!("ranks {} are", unheard.iter().map(Rank::to_string).collect::<Vec<_>>().join(", ")),
    };
    let copies = container.redundancy_factor() + 1;
    let text =
        format!("{ranks} out: {what} with fewer than the {copies} copies that the container asks for may be missing");
    Some(Error::new(Code::Unreachable, text).remedy("see `dmg system query`, and start the server again"))
}

impl Which {
    async fn open(&self, session: &Session) -> Result<(ObjectId, client::Object)> {
        let oid = self.oid.or(self.option).unwrap_or_default();
        Ok((oid, self.named.open(session).await?.object(oid)))
    }
}

fn kind(oid: ObjectId) -> String {
    oid.kind().map_or_else(|| format!("unknown ({})", oid.hi >> 56), |kind| kind.name().to_string())
}

fn class(oid: ObjectId) -> String {
    oid.class().map_or_else(|| "unknown".to_string(), |class| class.to_string())
}

async fn query(session: &Session, which: &Which) -> Result<Outcome> {
    let (oid, object) = which.open(session).await?;
    let layout = object.layout()?;
    let shard = |s: &ShardInfo| {
        json!({
            "group": s.group,
            "copy": s.copy,
            "rank": s.rank.0,
            "target": s.target.0,
            "state": s.state.name(),
            "placement_group": s.placement_group,
        })
    };
    let shards: Vec<_> = layout.iter().map(shard).collect();
    let groups = layout.iter().map(|s| s.group).max().map_or(0, |last| last + 1);
    let facts =
        [("Object", oid.to_string()), ("Type", kind(oid)), ("Class", class(oid)), ("Groups", groups.to_string())];
    let text = format!("{}\n{}", pairs(&facts), layout_table(oid, &layout));
    let response =
        json!({ "oid": oid.to_string(), "type": kind(oid), "class": class(oid), "groups": groups, "shards": shards });
    Ok(Outcome::new(response, text))
}

/// Where copies lie; of what has one copy, which leads, it would be the same word in every line.
fn layout_table(oid: ObjectId, layout: &[ShardInfo]) -> String {
    let is_plain = oid.class().is_some_and(|class| class.redundancy().width() == 1)
        && layout.iter().all(|shard| shard.state == ShardState::Leading);
    let place = |s: &ShardInfo| [s.group, s.rank.0 as usize, s.target.0 as usize].map(|number| number.to_string());
    if is_plain {
        return table(&["Group>", "Rank>", "Target>"], layout.iter().map(|s| place(s).to_vec()).collect());
    }
    let row = |s: &ShardInfo| {
        let [group, rank, target] = place(s);
        vec![group, s.copy.to_string(), rank, target, s.state.name().to_string()]
    };
    table(&["Group>", "Copy>", "Rank>", "Target>", "State"], layout.iter().map(row).collect())
}

async fn list_keys(
    session: &Session,
    which: &Which,
    dkey: Option<&str>,
    limit: usize,
    direction: Direction,
) -> Result<Outcome> {
    let (oid, object) = which.open(session).await?;
    let dkey = dkey.map(|text| parse_key(oid, text)).transpose()?;
    let found = match &dkey {
        Some(dkey) => object.list_akeys_from(dkey, None, limit, direction).await?,
        None => object.dkeys_from(None, direction)?.next_page(limit).await?,
    };
    let keys: Vec<String> = found.iter().map(Key::to_string).collect();
    let level = if dkey.is_some() { "akey" } else { "dkey" };
    let text = if keys.is_empty() { format!("no {level}s") } else { keys.join("\n") };
    Ok(Outcome::new(json!({ "oid": oid.to_string(), "level": level, "keys": keys }), text))
}

/// A dkey as its object spells them: a number where dkeys are numbers.
fn parse_key(oid: ObjectId, text: &str) -> Result<Key> {
    match text.parse::<u64>() {
        Ok(number) if oid.kind().is_some_and(|kind| kind.dkey_is_integer()) => Ok(Key::from(number)),
        _ => Ok(Key::try_from(text).map_err(|e| types::Error::new(types::Code::Invalid, e.to_string()))?),
    }
}

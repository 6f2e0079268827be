//! `daos container *-snap`: versions of a container that stay.

use clap::Subcommand;
use client::Container;
use serde::Serialize;
use serde_json::json;
use types::{Epoch, Label};
use wire::control::SnapshotInfo;
use wire::data::{Difference, DifferenceKind};

use super::container::Named;
use super::object::unheard_of;
use crate::failure::{Failure, Result};
use crate::output::Outcome;
use crate::session::{Session, snapshot_error};
use crate::show::time;
use crate::table::table;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Keep the container as it is now
    #[command(visible_alias = "snap")]
    CreateSnap {
        #[command(flatten)]
        named: Named,
        /// A name for it; without one it is known by its epoch
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// The same, said with an option
        #[arg(short, long, value_name = "NAME", conflicts_with = "name")]
        snap: Option<String>,
    },
    /// List snapshots, oldest first
    #[command(visible_alias = "list-snap")]
    ListSnaps(Named),
    /// List what changed between two snapshots, or since one
    Diff {
        #[command(flatten)]
        named: Named,
        /// The earlier snapshot: name or epoch
        #[arg(value_name = "FROM")]
        from: String,
        /// The later one; without it, the container as it is now
        #[arg(value_name = "TO")]
        to: Option<String>,
    },
    /// Take the container back to a snapshot: everything written later is lost
    Rollback(Chosen),
    /// Let a snapshot go
    DestroySnap(Chosen),
}

/// A snapshot of a container, by name or epoch.
#[derive(clap::Args, Debug)]
pub(crate) struct Chosen {
    #[command(flatten)]
    named: Named,
    /// Name or epoch
    #[arg(value_name = "SNAPSHOT", required_unless_present_any = ["snap", "epc"])]
    snapshot: Option<String>,
    /// Its name
    #[arg(short, long, value_name = "NAME", conflicts_with = "snapshot")]
    snap: Option<String>,
    /// Its epoch
    #[arg(short, long, value_name = "EPOCH", conflicts_with_all = ["snapshot", "snap"])]
    epc: Option<Epoch>,
}

impl Chosen {
    fn text(&self) -> String {
        match (&self.snapshot, &self.snap, self.epc) {
            (Some(text), _, _) | (None, Some(text), _) => text.clone(),
            (None, None, epoch) => epoch.unwrap_or_default().to_string(),
        }
    }
}

/// Changes shown in a table; `--json` has all of them.
const SHOWN_MAX: usize = 1000;

/// One line of a comparison.
#[derive(Serialize)]
struct Change {
    kind: &'static str,
    oid: String,
    dkey: String,
    akey: String,
    /// First record and count; absent for a single value.
    records: Option<[u64; 2]>,
}

impl Change {
    fn new(found: Difference) -> Change {
        let kind = match found.kind {
            DifferenceKind::Added => "added",
            DifferenceKind::Removed => "removed",
            DifferenceKind::Modified => "modified",
        };
        let records = found.extent.map(|extent| [extent.start, extent.count]);
        Change { kind, oid: found.oid.to_string(), dkey: found.dkey.to_string(), akey: found.akey.to_string(), records }
    }

    fn row(&self) -> Vec<String> {
        let sign = match self.kind {
            "added" => "+",
            "removed" => "-",
            _ => "~",
        };
        let records = self.records.map_or("value".into(), |[first, count]| format!("{first}..{}", first + count));
        vec![sign.into(), self.oid.clone(), self.dkey.clone(), self.akey.clone(), records]
    }
}

async fn diff(container: &Container, from: &str, to: Option<&str>) -> Result<Outcome> {
    let later = match to {
        None => container.clone(),
        Some(name) => match container.at_snapshot(name).await {
            Ok(view) => view,
            Err(error) => return Err(snapshot_error(container, error, name).await),
        },
    };
    let earlier = match container.at_snapshot(from).await {
        Ok(view) => view.epoch().unwrap_or_default(),
        Err(error) => return Err(snapshot_error(container, error, from).await),
    };
    let mut changes = Vec::new();
    let unheard = later.diff(earlier, |found| changes.extend(found.into_iter().map(Change::new))).await?;
    let text = match changes.len() {
        0 => "no changes".to_string(),
        count => {
            let rows = changes.iter().take(SHOWN_MAX).map(Change::row).collect();
            let listed = table(&["", "Object", "Dkey", "Akey", "Records"], rows);
            match count.checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
                Some(more) => format!("{listed}\nand {more} more (see them with --json)"),
                None => listed,
            }
        }
    };
    let fault = unheard_of(container, &unheard, "changes of objects");
    Ok(Outcome::new(json!({ "changes": changes }), text).with_fault(fault))
}

#[derive(Serialize)]
struct Snapshot {
    epoch: u64,
    timestamp: String,
    name: String,
}

impl Snapshot {
    fn new(info: SnapshotInfo) -> Snapshot {
        Snapshot { epoch: info.epoch.0, timestamp: time(info.epoch), name: info.name }
    }
}

impl Verb {
    pub(crate) async fn run(&self, session: &Session) -> Result<Outcome> {
        match self {
            Verb::CreateSnap { named, name, snap } => {
                let name = name.as_deref().or(snap.as_deref());
                if let Some(name) = name {
                    Label::parse(name).map_err(|e| Failure::usage(e.to_string(), "choose another name"))?;
                }
                let info = named.open(session).await?.create_snapshot(name).await?;
                let text = match name {
                    Some(name) => format!("snapshot {name} created at epoch {}", info.epoch),
                    None => format!("snapshot created at epoch {}", info.epoch),
                };
                Ok(Outcome::new(Snapshot::new(info), text))
            }
            Verb::ListSnaps(named) => {
                let list = named.open(session).await?.snapshots().await?;
                let snapshots: Vec<Snapshot> = list.into_iter().map(Snapshot::new).collect();
                let row = |s: &Snapshot| vec![s.name.clone(), Epoch(s.epoch).to_string(), s.timestamp.clone()];
                let text = match snapshots.is_empty() {
                    true => "no snapshots".to_string(),
                    false => table(&["Name", "Epoch", "Taken"], snapshots.iter().map(row).collect()),
                };
                Ok(Outcome::new(snapshots, text))
            }
            Verb::Diff { named, from, to } => diff(&named.open(session).await?, from, to.as_deref()).await,
            Verb::Rollback(chosen) => {
                let (container, wanted) = (chosen.named.open(session).await?, chosen.text());
                match container.rollback(&wanted).await {
                    Ok(info) => {
                        let text = format!("container is back at snapshot {wanted} (epoch {})", info.epoch);
                        Ok(Outcome::new(Snapshot::new(info), text))
                    }
                    Err(error) => Err(snapshot_error(&container, error, &wanted).await),
                }
            }
            Verb::DestroySnap(chosen) => {
                let (container, wanted) = (chosen.named.open(session).await?, chosen.text());
                match container.destroy_snapshot(&wanted).await {
                    Ok(()) => Ok(Outcome::new(json!(null), format!("snapshot {wanted} destroyed"))),
                    Err(error) => Err(snapshot_error(&container, error, &wanted).await),
                }
            }
        }
    }
}

//! `ddb ls`: everything that is stored, level by level, whether it can still be seen or not.

use clap::Args;
use control::offline::OfflineTarget;
use serde_json::{Value, json};
use types::{ByteSize, Code, ContainerId, Error};
use vos::{Branch, Child, Store, Stored, StoredRecord, StoredValue};

use super::at_rest::{look, unreadable};
use super::info::some_damage;
use super::path::{Located, Path, each_child};
use super::{Part, Session};
use crate::failure::{Failure, Result};
use crate::output::Outcome;
use crate::table::table;

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// /POOL/CONTAINER/OBJECT/DKEY/AKEY, each by name, label or UUID, or by its index such as [0]
    #[arg(value_name = "PATH", default_value = "/")]
    path: Path,
    /// Show so many entries of each target
    #[arg(short, long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// Rows of a table, and the same for programs.
struct Listed {
    header: &'static [&'static str],
    rows: Vec<Vec<String>>,
    entries: Vec<Value>,
    more: bool,
}

impl Ls {
    pub(crate) fn run(self, session: &Session) -> Result<Outcome> {
        let mut missing = None;
        let mut found = false;
        let outcome = session.each(|target| match self.one(session, target) {
            Ok(part) => {
                found = true;
                Ok(part)
            }
            // A key is on one target of many: that the others do not have it is no failure.
            Err(Failure::Failed(error)) if error.code == Code::NotFound => {
                let part = Part {
                    target: target.index,
                    response: json!({ "target": target.index.0, "entries": [], "more": false }),
                    text: "not here\n".into(),
                    fault: None,
                };
                missing = Some(error);
                Ok(part)
            }
            Err(other) => Err(other),
        })?;
        match missing {
            Some(error) if !found => Err(error.into()),
            _ => Ok(outcome),
        }
    }

    fn one(&self, session: &Session, target: &OfflineTarget) -> Result<Part> {
        let mut looked = look(target, session.memory)?;
        let store = &mut looked.opened.store;
        let at = self.path.locate(store, &session.labels)?;
        let listed = match self.path.depth() {
            0 => pools(store, session),
            1 => containers(store, session, &at)?,
            2..=4 => branch(store, &at, self.limit)?,
            _ => versions(store, &at, self.limit)?,
        };
        let mut text = if listed.rows.is_empty() { "nothing\n".into() } else { table(listed.header, listed.rows) };
        if listed.more {
            text.push_str(&format!("... and more: --limit shows more than {}\n", self.limit));
        }
        let response = json!({
            "target": target.index.0,
            "path": self.path.to_string(),
            "entries": listed.entries,
            "more": listed.more,
        });
        let fault = (looked.opened.findings_total > 0).then(|| some_damage(target.index));
        Ok(Part { target: target.index, response, text, fault })
    }
}

fn pools(store: &Store, session: &Session) -> Listed {
    let (mut rows, mut entries) = (Vec::new(), Vec::new());
    for (index, pool) in store.pools().into_iter().enumerate() {
        let label = session.labels.pools.get(&pool).cloned().unwrap_or_default();
        let containers = store.containers(pool).len();
        let space = store.pool_space(pool).unwrap_or_default();
        rows.push(vec![
            format!("[{index}]"),
            pool.to_string(),
            label.clone(),
            containers.to_string(),
            ByteSize(space.quota).to_string(),
            ByteSize(space.used).to_string(),
        ]);
        entries.push(json!({
            "index": index, "uuid": pool.to_string(), "label": label, "containers": containers,
            "quota": space.quota, "used": space.used, "pages": space.pages, "bulk": space.bulk,
        }));
    }
    Listed { header: &["Index", "Pool", "Label", "Containers>", "Quota>", "Used>"], rows, entries, more: false }
}

fn containers(store: &Store, session: &Session, at: &Located) -> Result<Listed, Error> {
    let pool = at.pool.expect("a path of one part names a pool");
    let (mut rows, mut entries) = (Vec::new(), Vec::new());
    for (index, id) in store.containers(pool).into_iter().enumerate() {
        let info = store.container_info(id).map_err(|error| unreadable(&error))?;
        let label = session.labels.containers.get(&id).cloned().unwrap_or_default();
        rows.push(vec![
            format!("[{index}]"),
            id.to_string(),
            label.clone(),
            info.pages.to_string(),
            info.blocks.to_string(),
            info.snapshots.len().to_string(),
            info.max_epoch.to_string(),
        ]);
        let snapshots: Vec<u64> = info.snapshots.iter().map(|epoch| epoch.0).collect();
        entries.push(json!({
            "index": index, "uuid": id.to_string(), "label": label, "pages": info.pages, "blocks": info.blocks,
            "snapshots": snapshots, "max_epoch": info.max_epoch.0,
        }));
    }
    let header = &["Index", "Container", "Label", "Pages>", "Blocks>", "Snapshots>", "Newest epoch"];
    Ok(Listed { header, rows, entries, more: false })
}

/// Objects, dkeys or akeys; and before them the punches of what they belong to.
fn branch(store: &mut Store, at: &Located, limit: usize) -> Result<Listed, Error> {
    let container = at.container.expect("a path of two parts names a container");
    let (mut rows, mut entries, mut more) = (Vec::new(), Vec::new(), false);
    let own = store.stored_records(container, &at.branch, None, limit).map_err(|error| unreadable(&error))?;
    for record in own.entries.iter().filter(|record| record.what == Stored::Punch) {
        let (epoch, minor) = when(record);
        rows.push(vec![String::new(), "punch".into(), format!("@{epoch}.{minor}")]);
        entries.push(json!({ "kind": "punch", "epoch": epoch.0, "minor": minor }));
    }
    let kind = match (&at.branch.object, &at.branch.dkey) {
        (None, _) => "object",
        (Some(_), None) => "dkey",
        (Some(_), Some(_)) => "akey",
    };
    let mut index = 0;
    each_child(store, container, &at.branch, |child| {
        if index >= limit {
            more = true;
            return false;
        }
        let name = match &child {
            Child::Object(object) => vos::object_name(*object),
            Child::Key(key) => vos::key_name(key),
        };
        rows.push(vec![format!("[{index}]"), kind.into(), name.clone()]);
        entries.push(json!({ "index": index, "kind": kind, "name": name }));
        index += 1;
        true
    })?;
    Ok(Listed { header: &["Index", "Kind", "Name"], rows, entries, more: more || own.next.is_some() })
}

/// Every record of an akey: single values, extents, holes and punches, of every epoch.
fn versions(store: &mut Store, at: &Located, limit: usize) -> Result<Listed, Error> {
    let container = at.container.expect("a path of five parts names a container");
    let (mut rows, mut entries, mut more) = (Vec::new(), Vec::new(), false);
    each_record(store, container, &at.branch, |index, record| {
        if at.version.is_some_and(|wanted| wanted != index) {
            return true;
        }
        if rows.len() >= limit {
            more = true;
            return false;
        }
        rows.push(version_row(index, &record));
        entries.push(version_json(index, &record));
        true
    })?;
    let header = &["Index", "Kind", "Epoch", "Minor>", "Records", "Record bytes>", "Bytes>", "Where"];
    Ok(Listed { header, rows, entries, more })
}

/// Calls `each` with the records of an akey and their indices, until it says stop.
///
/// # Errors
/// `BadFormat`, when the tree cannot be read.
pub(crate) fn each_record(
    store: &mut Store,
    container: ContainerId,
    branch: &Branch,
    mut each: impl FnMut(usize, StoredRecord) -> bool,
) -> Result<(), Error> {
    let (mut index, mut last): (usize, Option<Vec<u8>>) = (0, None);
    loop {
        let part =
            store.stored_records(container, branch, last.as_deref(), 1024).map_err(|error| unreadable(&error))?;
        last = part.next;
        for record in part.entries {
            if !each(index, record) {
                return Ok(());
            }
            index += 1;
        }
        if last.is_none() {
            return Ok(());
        }
    }
}

fn when(record: &StoredRecord) -> (types::Epoch, u16) {
    record.version.map_or((types::Epoch::ZERO, 0), |version| (version.epoch, version.minor))
}

fn place(value: &StoredValue) -> String {
    if value.blocks.is_empty() {
        return "inline".into();
    }
    let runs: Vec<String> = value.blocks.iter().map(|run| format!("{}+{}", run.block, run.blocks)).collect();
    format!("blocks {}", runs.join(", "))
}

/// Kind, records, bytes of each, and the value, of a stored record.
fn taken_apart(record: &StoredRecord) -> (&'static str, Option<types::Extent>, Option<u32>, Option<&StoredValue>) {
    match &record.what {
        Stored::Flag => ("flag", None, None, None),
        Stored::Punch => ("punch", None, None, None),
        Stored::Single(value) => ("single", None, None, Some(value)),
        Stored::Array { extent, record_bytes, value } => ("array", Some(*extent), Some(*record_bytes), Some(value)),
        Stored::Hole(extent) => ("hole", Some(*extent), None, None),
        Stored::Unreadable => ("unreadable", None, None, None),
    }
}

fn version_row(index: usize, record: &StoredRecord) -> Vec<String> {
    let (epoch, minor) = when(record);
    let (kind, extent, record_bytes, value) = taken_apart(record);
    vec![
        format!("[{index}]"),
        kind.into(),
        epoch.to_string(),
        minor.to_string(),
        extent.map(|extent| format!("[{}..{})", extent.start, extent.end())).unwrap_or_default(),
        record_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
        value.map(|value| value.bytes.to_string()).unwrap_or_default(),
        value.map(place).unwrap_or_default(),
    ]
}

fn version_json(index: usize, record: &StoredRecord) -> Value {
    let (epoch, minor) = when(record);
    let (kind, extent, record_bytes, value) = taken_apart(record);
    let runs = |value: &StoredValue| -> Vec<Value> {
        value.blocks.iter().map(|run| json!({ "block": run.block, "blocks": run.blocks })).collect()
    };
    json!({
        "index": index,
        "kind": kind,
        "epoch": epoch.0,
        "minor": minor,
        "start": extent.map(|extent| extent.start),
        "count": extent.map(|extent| extent.count),
        "record_bytes": record_bytes,
        "bytes": value.map(|value| value.bytes),
        "blocks": value.map(runs),
        "checksums": value.map(|value| value.checksums.to_vec()),
    })
}

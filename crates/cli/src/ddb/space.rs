//! `ddb space`: what takes space, and whether what is allocated is what somebody refers to.

use control::offline::OfflineTarget;
use media::{BLOCK_BYTES, PAGE_BYTES, Reconciliation};
use serde_json::json;
use types::{ByteSize, Code, Error};
use vos::{CheckOptions, ContainerCount};

use super::at_rest::look;
use super::{Part, Session};
use crate::failure::Result;
use crate::output::Outcome;
use crate::table::{grouped, pairs, table};

pub(crate) fn run(session: &Session) -> Result<Outcome> {
    session.each(|target| one(session, target))
}

fn one(session: &Session, target: &OfflineTarget) -> Result<Part> {
    let looked = look(target, session.memory)?;
    let report = looked.opened.store.check_with(CheckOptions::default());
    let label = |row: &ContainerCount| match (session.labels.containers.get(&row.container), row.is_remains) {
        (_, true) => "(being destroyed)".to_string(),
        (Some(label), false) => label.clone(),
        (None, false) => String::new(),
    };
    let pool = |row: &ContainerCount| session.labels.pools.get(&row.pool).cloned().unwrap_or(row.pool.to_string());
    let rows = report.containers.iter().map(|row| {
        vec![
            pool(row),
            row.container.to_string(),
            label(row),
            grouped(row.records),
            differing(row.pages),
            differing(row.blocks),
            ByteSize(row.pages[1] * PAGE_BYTES as u64 + row.blocks[1] * BLOCK_BYTES as u64).to_string(),
        ]
    });
    let header = &["Pool", "Container", "Label", "Records>", "Pages>", "Blocks>", "Bytes>"];
    let mut text = if report.containers.is_empty() { String::new() } else { table(header, rows.collect()) + "\n" };
    let containers = report.containers.iter().map(|row| {
        json!({
            "pool": row.pool.to_string(), "container": row.container.to_string(), "label": label(row),
            "being_destroyed": row.is_remains, "records": row.records,
            "pages": { "counted": row.pages[0], "found": row.pages[1] },
            "blocks": { "counted": row.blocks[0], "found": row.blocks[1] },
        })
    });
    let containers: Vec<_> = containers.collect();
    let pools = looked.opened.store.pools().into_iter().map(|id| {
        let space = looked.opened.store.pool_space(id).unwrap_or_default();
        json!({
            "uuid": id.to_string(), "label": session.labels.pools.get(&id),
            "quota": space.quota, "used": space.used, "pages": space.pages, "bulk": space.bulk,
        })
    });
    let pools: Vec<_> = pools.collect();
    let mut fault = (report.findings_total + looked.opened.findings_total > 0).then(|| {
        Error::new(Code::BadFormat, format!("the space of target {} does not add up", target.index))
            .remedy("`ddb STORAGE check` says where, and `check --repair` mends it")
    });
    let mut response = json!({
        "target": target.index.0, "pools": pools, "containers": containers, "reconciliation": null,
    });
    match &report.reconciliation {
        Some(space) => {
            text.push_str(&pairs(&lines(space)));
            response["reconciliation"] = in_json(space);
        }
        None => {
            let error = Error::new(Code::BadFormat, "free space and the bitmap contradict each other");
            fault = fault.or(Some(error.remedy("`ddb STORAGE check --repair` derives the bitmap anew")));
        }
    }
    Ok(Part { target: target.index, response, text, fault })
}

/// A sum, and what it should be if that is something else.
fn differing([counted, found]: [u64; 2]) -> String {
    if counted == found { grouped(found) } else { format!("{} (counted {})", grouped(found), grouped(counted)) }
}

fn lines(space: &Reconciliation) -> Vec<(&'static str, String)> {
    let blocks = |blocks: u64| format!("{} blocks, {}", grouped(blocks), ByteSize(blocks * BLOCK_BYTES as u64));
    let bytes = |bytes: u64| blocks(bytes / BLOCK_BYTES as u64);
    vec![
        ("Capacity", bytes(space.space.capacity)),
        ("Allocated", bytes(space.space.allocated)),
        ("  Pages", blocks(space.pages)),
        ("  Pages until the next checkpoint", blocks(space.dropped)),
        ("  Page map and root", blocks(space.map + space.root)),
        ("  Values", blocks(space.bulk)),
        ("  Leaked", blocks(space.leaked_blocks)),
        ("Free", bytes(space.space.free)),
        ("Quarantined", bytes(space.space.quarantined)),
        ("References that cannot hold", grouped(space.conflicts)),
        ("Adds up", if space.agrees() { "yes" } else { "no" }.to_string()),
    ]
}

fn in_json(space: &Reconciliation) -> serde_json::Value {
    json!({
        "agrees": space.agrees(),
        "block_bytes": BLOCK_BYTES,
        "capacity": space.space.capacity,
        "allocated": space.space.allocated,
        "free": space.space.free,
        "quarantined": space.space.quarantined,
        "referenced_blocks": {
            "pages": space.pages, "dropped_pages": space.dropped, "map": space.map, "root": space.root,
            "values": space.bulk,
        },
        "leaked_blocks": space.leaked_blocks,
        "leaked": space.leaked.iter().map(|run| json!({ "block": run.block, "blocks": run.blocks })).collect::<Vec<_>>(),
        "conflicts": space.conflicts,
    })
}

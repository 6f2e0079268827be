//! `ddb info`: who a target is, and where its checkpoint and its log stand.

use control::offline::{OfflineTarget, RegionConfig};
use media::{Glance, RegionHeader, Superblock};
use serde_json::{Value, json};
use types::{ByteSize, Code, Error, TargetIndex};
use uuid::Uuid;

use super::at_rest::{glance, look};
use super::{Part, Session};
use crate::failure::Result;
use crate::output::Outcome;
use crate::table::{count, pairs};

pub(crate) fn run(session: &Session) -> Result<Outcome> {
    session.each(|target| one(session, target))
}

fn one(session: &Session, target: &OfflineTarget) -> Result<Part> {
    let glance = glance(target)?;
    let mut lines = vec![
        ("  Log", region_text(&target.log)),
        ("  Data", region_text(&target.data)),
        ("  Log header", header_text(&glance.log_header)),
    ];
    if let (Some(metadata), Some(header)) = (&target.metadata, &glance.data_header) {
        lines.insert(1, ("  Metadata", region_text(metadata)));
        lines.push(("  Data header", header_text(header)));
    }
    for (superblock, name) in glance.superblocks.iter().zip(["  Superblock 0", "  Superblock 1"]) {
        lines.push((name, superblock_text(superblock)));
    }
    let store = store_of(&glance).unwrap_or(target.store);
    lines.insert(0, ("  Store", store.to_string()));
    let mut response = json!({
        "target": target.index.0,
        "store": store.to_string(),
        "system": session.labels.system,
        "log": region_json(&target.log),
        "metadata": target.metadata.as_ref().map(region_json),
        "data": region_json(&target.data),
        "log_header": glance.log_header.as_ref().err(),
        "data_header": glance.data_header.as_ref().and_then(|header| header.as_ref().err()),
        "superblocks": glance.superblocks.iter().zip(0u32..).map(superblock_json).collect::<Vec<_>>(),
    });
    let fault = match look(target, session.memory) {
        Ok(looked) => {
            let opened = looked.opened;
            let at = opened.store.media().newest_checkpoint();
            let (from, to) = (at.checkpoint.0, opened.end.0.max(at.checkpoint.0));
            let usage = opened.store.media().usage();
            let pools = opened.store.pools();
            let containers: usize = pools.iter().map(|pool| opened.store.containers(*pool).len()).sum();
            lines.push(("  Checkpoint", format!("{}, incarnation {}", at.sequence, at.incarnation)));
            let records = opened.records + opened.failed;
            let range = format!("{from} to {to}: {} in {}", count(records, "record"), ByteSize(to - from));
            lines.push(("  Log to replay", range));
            lines.push((
                "  Holds",
                format!("{}, {}", count(pools.len() as u64, "pool"), count(containers as u64, "container")),
            ));
            let space = usage.space;
            let used = format!("{} of {} allocated", ByteSize(space.allocated), ByteSize(space.capacity));
            lines.push(("  Space", used));
            response["checkpoint"] = json!({ "sequence": at.sequence, "incarnation": at.incarnation });
            response["log_range"] = json!({ "from": from, "to": to, "records": records });
            response["pools"] = json!(pools.len());
            response["containers"] = json!(containers);
            response["space"] = json!({ "capacity": space.capacity, "allocated": space.allocated, "free": space.free });
            let total = opened.findings_total + looked.damaged.len() as u64 + damaged(&glance);
            (total > 0).then(|| some_damage(target.index))
        }
        Err(error) => {
            lines.push(("  Opening", format!("fails: {}", error.message)));
            response["error"] = json!(error.message);
            Some(error)
        }
    };
    Ok(Part { target: target.index, response, text: pairs(&lines), fault })
}

/// How many of the blocks that say who a target is are damaged.
pub(crate) fn damaged(glance: &Glance) -> u64 {
    let superblocks = glance.superblocks.iter().filter(|copy| copy.is_err()).count();
    let headers = [Some(&glance.log_header), glance.data_header.as_ref()];
    (superblocks + headers.into_iter().flatten().filter(|header| header.is_err()).count()) as u64
}

/// Whoever only looks learns that there is more to see.
pub(crate) fn some_damage(target: TargetIndex) -> Error {
    Error::new(Code::BadFormat, format!("parts of target {target} cannot be read"))
        .remedy("`ddb STORAGE check` names them")
}

fn store_of(glance: &Glance) -> Option<Uuid> {
    glance.superblocks.iter().flatten().next().map(|block| Uuid::from_bytes(block.store))
}

fn header_text(header: &std::result::Result<RegionHeader, String>) -> String {
    header.as_ref().map_or_else(|fault| format!("damaged: {fault}"), |_| "good".into())
}

fn region_text(region: &RegionConfig) -> String {
    let from = if region.base == 0 { String::new() } else { format!(" from byte {}", region.base) };
    format!("{}{from}, {}", region.path.display(), ByteSize(region.bytes))
}

fn region_json(region: &RegionConfig) -> Value {
    json!({ "path": region.path.display().to_string(), "base": region.base, "bytes": region.bytes })
}

fn superblock_text(superblock: &std::result::Result<Superblock, String>) -> String {
    match superblock {
        Ok(block) => format!(
            "sequence {}, checkpoint at log position {}, incarnation {}, format {}",
            block.sequence, block.checkpoint, block.incarnation, block.version
        ),
        Err(fault) => format!("damaged: {fault}"),
    }
}

fn superblock_json((superblock, copy): (&std::result::Result<Superblock, String>, u32)) -> Value {
    match superblock {
        Ok(block) => json!({
            "copy": copy,
            "fault": null,
            "version": block.version.get(),
            "target": block.target.get(),
            "sequence": block.sequence.get(),
            "checkpoint": block.checkpoint.get(),
            "incarnation": block.incarnation.get(),
            "metadata_bytes": block.metadata_bytes.get(),
            "data_bytes": block.data_bytes.get(),
            "log_bytes": block.log_bytes.get(),
            "root_block": block.root_block.get(),
            "root_bytes": block.root_bytes.get(),
        }),
        Err(fault) => json!({ "copy": copy, "fault": fault }),
    }
}

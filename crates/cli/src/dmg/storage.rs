//! `dmg storage`.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use types::ByteSize;
use wire::control::{DeviceInfo, DeviceKind};

use crate::failure::Result;
use crate::options::{self, SystemOptions};
use crate::output::Outcome;
use crate::session::{self, Missing};
use crate::table::table;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show devices and how much of them is reserved and used
    Query(Query),
    /// Give the data of all targets another size, while they serve
    Resize {
        /// Size of the data in all: 10GB, 5TiB; left out: what the devices have now
        #[arg(value_parser = options::size)]
        size: Option<ByteSize>,
    },
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Query {
    #[command(subcommand)]
    view: Option<View>,
}

/// Upstream asks for one or the other; both are in one table here.
#[derive(Subcommand, Debug)]
enum View {
    /// The same as without it
    ListDevices,
    /// The same as without it
    Usage,
}

#[derive(Serialize)]
struct Device {
    rank: u32,
    target: u32,
    path: String,
    kind: &'static str,
    state: &'static str,
    failure: Option<String>,
    total_bytes: u64,
    reserved_bytes: u64,
    avail_bytes: u64,
    used_bytes: u64,
    log_bytes: u64,
    scrubs: u64,
    scrubbed_values: u64,
    scrubbed_pages: u64,
    damaged: u64,
    mended: u64,
    damage: Vec<String>,
    data_bytes: u64,
    wanted_bytes: u64,
    moved_bytes: u64,
    held_bytes: u64,
    resize_trouble: Option<String>,
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| {
            let storage = match &self {
                Verb::Query(Query { view: _ }) => session.storage().await?,
                Verb::Resize { size } => session.resize_storage(size.map(|size| size.0)).await?,
            };
            let devices: Vec<Device> = storage.devices.into_iter().map(device).collect();
            let rows = devices.iter().map(row).collect();
            let mut text = table(
                &["Rank>", "Target>", "Kind", "Total>", "Reserved>", "Free>", "Used>", "Log>", "State", "Path"],
                rows,
            );
            for failed in devices.iter().filter(|d| d.failure.is_some()) {
                let reason = failed.failure.as_deref().unwrap_or_default();
                text.push_str(&format!("\nTarget {} of rank {} has failed: {reason}\n", failed.target, failed.rank));
            }
            devices.iter().filter_map(resizing).for_each(|line| text.push_str(&line));
            for damaged in devices.iter().filter(|d| d.damaged > 0) {
                let Device { rank, target, damaged: places, mended, .. } = damaged;
                text.push_str(&format!(
                    "\nScrubbing found {places} damaged places on target {target} of rank {rank}, and mended {mended}:\n"
                ));
                damaged.damage.iter().for_each(|place| text.push_str(&format!("  {place}\n")));
            }
            Ok(Outcome::new(json!({ "devices": devices }), text))
        })
        .await
    }
}

fn device(info: DeviceInfo) -> Device {
    Device {
        rank: info.rank.0,
        target: info.target.0,
        path: info.path,
        kind: match info.kind {
            DeviceKind::File => "file",
            DeviceKind::Block => "block",
            DeviceKind::Memory => "memory",
        },
        state: if info.failure.is_none() { "NORMAL" } else { "FAULTY" },
        failure: info.failure,
        total_bytes: info.total,
        reserved_bytes: info.reserved,
        avail_bytes: info.total.saturating_sub(info.reserved),
        used_bytes: info.used,
        log_bytes: info.log_bytes,
        scrubs: info.scrubs,
        scrubbed_values: info.scrubbed_values,
        scrubbed_pages: info.scrubbed_pages,
        damaged: info.damaged,
        mended: info.mended,
        damage: info.damage,
        data_bytes: info.data_bytes,
        wanted_bytes: info.wanted_bytes,
        moved_bytes: info.moved_bytes,
        held_bytes: info.held_bytes,
        resize_trouble: info.resize_trouble,
    }
}

/// What is said of a target that is getting another size, or cannot.
fn resizing(device: &Device) -> Option<String> {
    let Device { rank, target, data_bytes, wanted_bytes, moved_bytes, held_bytes, .. } = device;
    if data_bytes == wanted_bytes {
        return None;
    }
    let (now, wanted) = (ByteSize(*data_bytes), ByteSize(*wanted_bytes));
    let (moved, held) = (ByteSize(*moved_bytes), ByteSize(*held_bytes));
    let mut line = format!("\nThe data of target {target} of rank {rank} goes from {now} to {wanted}: ");
    match &device.resize_trouble {
        Some(trouble) => line.push_str(&format!("held up: {trouble}\n")),
        None => line.push_str(&format!("{moved} moved, {held} to go\n")),
    }
    Some(line)
}

fn row(device: &Device) -> Vec<String> {
    vec![
        device.rank.to_string(),
        device.target.to_string(),
        device.kind.to_string(),
        ByteSize(device.total_bytes).to_string(),
        ByteSize(device.reserved_bytes).to_string(),
        ByteSize(device.avail_bytes).to_string(),
        ByteSize(device.used_bytes).to_string(),
        ByteSize(device.log_bytes).to_string(),
        device.state.to_string(),
        device.path.clone(),
    ]
}

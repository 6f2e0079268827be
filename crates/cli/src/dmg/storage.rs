//! `dmg storage`.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use types::ByteSize;
use wire::control::{DeviceInfo, DeviceKind};

use crate::failure::Result;
use crate::options::SystemOptions;
use crate::output::Outcome;
use crate::session::{self, Missing};
use crate::table::table;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show devices and how much of them is reserved and used
    Query(Query),
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
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions) -> Result<Outcome> {
        let Verb::Query(Query { view: _ }) = self;
        session::with(system, Missing::Refuse, async |session| {
            let storage = session.storage().await?;
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
    }
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

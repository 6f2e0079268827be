//! Pools and containers as commands show them. `dmg` and `daos` print the same facts alike.
//!
//! Field names are upstream's.

use serde::Serialize;
use types::{ByteSize, Epoch, Rank};
use wire::control::{ContainerInfo, PoolInfo, RebuildState, SystemInfo};

use crate::table::{pairs, table};

/// `pool query`.
#[derive(Serialize)]
struct PoolView {
    uuid: String,
    label: String,
    state: &'static str,
    version: u32,
    total_targets: u32,
    active_targets: u32,
    disabled_targets: u32,
    num_containers: u32,
    ranks: Vec<u32>,
    /// Of these: they do not say what the pool uses there.
    dead_ranks: Vec<u32>,
    /// None while the pool's service changes its leader.
    svc_ldr: Option<u32>,
    svc_reps: Vec<u32>,
    rebuild: Rebuild,
    tier_stats: Vec<TierStats>,
}

/// Data on its way to who is to have it.
#[derive(Serialize)]
struct Rebuild {
    status: i32,
    state: &'static str,
    groups: u64,
    groups_left: u64,
    records: u64,
    bytes: u64,
    /// Records that were there already.
    records_same: u64,
    /// Left out while nothing is known.
    seconds_left: Option<u64>,
    /// Ranks that are out and may have what nobody else has.
    awaited_ranks: Vec<u32>,
}

/// Space of a pool, over all its targets, in bytes.
#[derive(Serialize)]
struct TierStats {
    media_type: &'static str,
    total: u64,
    free: u64,
    min: u64,
    max: u64,
    mean: u64,
    used_metadata: u64,
    used_data: u64,
}

fn free(pool: &PoolInfo) -> u64 {
    pool.space.total.saturating_sub(pool.space.used)
}

fn state(pool: &PoolInfo) -> &'static str {
    match pool.has_answered() {
        false => "Unreachable",
        true if pool.disabled_targets == 0 => "Ready",
        true => "Degraded",
    }
}

/// Upstream's names; it has none for a rebuild that waits for servers that are out, or for an administrator.
fn rebuild_state(pool: &PoolInfo) -> &'static str {
    match pool.rebuild.state {
        RebuildState::Idle => "idle",
        RebuildState::Busy => "busy",
        RebuildState::Waiting => "waiting",
        RebuildState::Stopped => "stopped",
    }
}

/// The rebuild in a line, and whom to bring back.
pub(crate) fn rebuild(pool: &PoolInfo) -> String {
    let rebuild = &pool.rebuild;
    let came = format!(
        "{} placement groups came ({} in {} records, beside {} that were there), {} are known to be missing",
        rebuild.groups,
        ByteSize(rebuild.bytes),
        rebuild.records,
        rebuild.same,
        rebuild.left
    );
    let left = rebuild.seconds_left.map_or(String::new(), |seconds| format!(", about {seconds} s left"));
    let ranks: Vec<String> = rebuild.awaited.iter().map(ToString::to_string).collect();
    let awaited = match ranks.len() {
        0 => String::new(),
        1 => format!("; what only rank {} has waits for it", ranks[0]),
        _ => format!("; what only ranks {} have waits for them", ranks.join(", ")),
    };
    match rebuild.state {
        RebuildState::Idle => format!("idle{awaited}"),
        RebuildState::Busy => format!("busy: {came}{left}{awaited}"),
        RebuildState::Stopped => {
            format!("stopped: {came}{awaited}; go on with `dmg pool rebuild start {}`", pool.label)
        }
        RebuildState::Waiting => format!("waiting{awaited}: bring one back, or see `dmg pool give-up`"),
    }
}

/// The servers of a pool, and which of them do not answer.
fn ranks(pool: &PoolInfo) -> String {
    let list = |ranks: &[Rank]| ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match pool.silent_ranks.is_empty() {
        true => list(&pool.ranks),
        false => format!("{}; no answer from {}", list(&pool.ranks), list(&pool.silent_ranks)),
    }
}

/// Share of `total` in whole percent, rounded up so that a little is not nothing.
fn percent(part: u64, total: u64) -> u64 {
    if total == 0 { 0 } else { (u128::from(part) * 100).div_ceil(u128::from(total)) as u64 }
}

/// How unevenly free space lies over targets: upstream's measure, in percent of a target's share.
fn imbalance(pool: &PoolInfo) -> u64 {
    let share = pool.space.total / u64::from(pool.targets.max(1));
    (pool.free_max.saturating_sub(pool.free_min) * 100).checked_div(share).unwrap_or(0)
}

pub(crate) fn pool(info: &PoolInfo) -> (serde_json::Value, String) {
    let targets = u64::from(info.targets.max(1));
    let view = PoolView {
        uuid: info.id.to_string(),
        label: info.label.clone(),
        state: state(info),
        version: info.map_version,
        total_targets: info.targets,
        active_targets: info.targets.saturating_sub(info.disabled_targets),
        disabled_targets: info.disabled_targets,
        num_containers: info.containers,
        ranks: info.ranks.iter().map(|rank| rank.0).collect(),
        dead_ranks: info.silent_ranks.iter().map(|rank| rank.0).collect(),
        svc_ldr: info.leader.map(|rank| rank.0),
        svc_reps: info.voters.iter().map(|rank| rank.0).collect(),
        rebuild: Rebuild {
            status: 0,
            state: rebuild_state(info),
            groups: info.rebuild.groups,
            groups_left: info.rebuild.left,
            records: info.rebuild.records,
            bytes: info.rebuild.bytes,
            records_same: info.rebuild.same,
            seconds_left: info.rebuild.seconds_left,
            awaited_ranks: info.rebuild.awaited.iter().map(|rank| rank.0).collect(),
        },
        tier_stats: vec![TierStats {
            media_type: "data",
            total: info.space.total,
            free: free(info),
            min: info.free_min,
            max: info.free_max,
            mean: free(info) / targets,
            used_metadata: info.space.metadata,
            used_data: info.space.data,
        }],
    };
    let space = &info.space;
    let text = format!(
        "Pool {}, {}, state {}\n{}",
        info.label,
        info.id,
        state(info),
        pairs(&[
            (
                "  Targets",
                format!("{} ({} disabled), map version {}", info.targets, info.disabled_targets, info.map_version)
            ),
            ("  Ranks", ranks(info)),
            ("  Rebuild", rebuild(info)),
            ("  Containers", info.containers.to_string()),
            ("  Size", ByteSize(space.total).to_string()),
            (
                "  Used",
                format!(
                    "{} ({}%): {} data, {} metadata",
                    ByteSize(space.used),
                    percent(space.used, space.total),
                    ByteSize(space.data),
                    ByteSize(space.metadata)
                )
            ),
            (
                "  Free",
                format!(
                    "{} (a target has {} to {})",
                    ByteSize(free(info)),
                    ByteSize(info.free_min),
                    ByteSize(info.free_max)
                )
            ),
        ])
    );
    (serde_json::to_value(view).expect("a view is plain"), text)
}

#[derive(Serialize)]
struct PoolLine {
    uuid: String,
    label: String,
    state: &'static str,
    svc_reps: Vec<u32>,
    targets_total: u32,
    targets_disabled: u32,
    /// None, as all that only the pool's service knows, when that does not answer.
    containers: Option<u32>,
    usage: Vec<Usage>,
    rebuild_state: Option<&'static str>,
}

#[derive(Serialize)]
struct Usage {
    tier_name: &'static str,
    size: u64,
    free: Option<u64>,
    imbalance: Option<u64>,
}

#[derive(Serialize)]
struct PoolLines {
    status: i32,
    pools: Vec<PoolLine>,
}

/// `pool list`. `verbose` adds UUIDs to the text.
pub(crate) fn pools(list: &[PoolInfo], verbose: bool, none: &str) -> (serde_json::Value, String) {
    fn known<T>(pool: &PoolInfo, fact: T) -> Option<T> {
        pool.has_answered().then_some(fact)
    }
    let line = |p: &PoolInfo| PoolLine {
        uuid: p.id.to_string(),
        label: p.label.clone(),
        state: state(p),
        svc_reps: p.voters.iter().map(|rank| rank.0).collect(),
        targets_total: p.targets,
        targets_disabled: p.disabled_targets,
        containers: known(p, p.containers),
        usage: vec![Usage {
            tier_name: "DATA",
            size: p.space.total,
            free: known(p, free(p)),
            imbalance: known(p, imbalance(p)),
        }],
        rebuild_state: known(p, rebuild_state(p)),
    };
    let lines = PoolLines { status: 0, pools: list.iter().map(line).collect() };
    let row = |p: &PoolInfo| {
        let mut row = vec![p.label.clone()];
        if verbose {
            row.push(p.id.to_string());
        }
        let or_unknown = |fact: String| known(p, fact).unwrap_or("?".to_string());
        row.extend([
            ByteSize(p.space.total).to_string(),
            state(p).to_string(),
            or_unknown(format!("{}%", percent(p.space.used, p.space.total))),
            or_unknown(format!("{}%", imbalance(p))),
            format!("{}/{}", p.disabled_targets, p.targets),
            or_unknown(p.containers.to_string()),
        ]);
        row
    };
    let mut header = vec!["Pool"];
    if verbose {
        header.push("UUID");
    }
    header.extend(["Size>", "State", "Used>", "Imbalance>", "Disabled>", "Containers>"]);
    let text = if list.is_empty() { none.to_string() } else { table(&header, list.iter().map(row).collect()) };
    (serde_json::to_value(lines).expect("lines are plain"), text)
}

/// `container query` and `container create`.
#[derive(Serialize)]
struct ContainerView {
    pool_uuid: String,
    container_uuid: String,
    container_label: String,
    container_type: String,
    redundancy_factor: u32,
    num_snapshots: u32,
    latest_snapshot: u64,
    object_class: String,
    chunk_size: u64,
    health: String,
    /// Wall time of creation, RFC 3339.
    created: String,
}

/// The value of property `name`, or nothing.
fn property<'a>(info: &'a ContainerInfo, name: &str) -> &'a str {
    info.properties.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}

/// Whether nothing asks for more than one copy of a container's objects.
pub(crate) fn has_one_copy(info: &ContainerInfo) -> bool {
    property(info, "rd_fac") == "0" && property(info, "oclass").is_empty()
}

pub(crate) fn container(info: &ContainerInfo) -> (serde_json::Value, String) {
    let chunk = property(info, "chunk_size").parse::<ByteSize>().unwrap_or_default();
    let view = ContainerView {
        pool_uuid: info.pool.to_string(),
        container_uuid: info.id.to_string(),
        container_label: info.label.clone(),
        container_type: info.layout.to_string(),
        redundancy_factor: property(info, "rd_fac").parse().unwrap_or(0),
        num_snapshots: info.snapshots,
        latest_snapshot: info.latest_snapshot.0,
        object_class: property(info, "oclass").to_string(),
        chunk_size: chunk.0,
        health: property(info, "status").to_string(),
        created: time(info.created),
    };
    let snapshots = match info.snapshots {
        0 => "0".to_string(),
        n => format!("{n}, the latest at {}", time(info.latest_snapshot)),
    };
    let text = pairs(&[
        ("Container", if info.label.is_empty() { "(no label)".to_string() } else { info.label.clone() }),
        ("UUID", info.id.to_string()),
        ("Pool", info.pool.to_string()),
        ("Type", info.layout.to_string()),
        ("Health", view.health.clone()),
        ("Redundancy factor", view.redundancy_factor.to_string()),
        ("Snapshots", snapshots),
        ("Created", view.created.clone()),
    ]);
    (serde_json::to_value(view).expect("a view is plain"), text)
}

#[derive(Serialize)]
struct ContainerLine {
    uuid: String,
    label: String,
    #[serde(rename = "type")]
    layout: String,
    num_snapshots: u32,
}

/// `container list`. `verbose` adds UUIDs to the text.
pub(crate) fn containers(list: &[ContainerInfo], verbose: bool, none: &str) -> (serde_json::Value, String) {
    let line = |c: &ContainerInfo| ContainerLine {
        uuid: c.id.to_string(),
        label: c.label.clone(),
        layout: c.layout.to_string(),
        num_snapshots: c.snapshots,
    };
    let lines: Vec<ContainerLine> = list.iter().map(line).collect();
    let row = |c: &ContainerInfo| {
        let mut row = vec![c.label.clone()];
        // One without a label can be named by its UUID only.
        if verbose || list.iter().any(|c| c.label.is_empty()) {
            row.push(c.id.to_string());
        }
        row.extend([c.layout.to_string(), c.snapshots.to_string(), time(c.created)]);
        row
    };
    let mut header = vec!["Container"];
    if verbose || list.iter().any(|c| c.label.is_empty()) {
        header.push("UUID");
    }
    header.extend(["Type", "Snapshots>", "Created"]);
    let text = if list.is_empty() { none.to_string() } else { table(&header, list.iter().map(row).collect()) };
    (serde_json::to_value(lines).expect("lines are plain"), text)
}

/// `system query`: one line a member.
pub(crate) fn members(info: &SystemInfo) -> String {
    let has_trouble = info.members.iter().any(|m| m.trouble.is_some());
    let row = |m: &wire::control::Member| {
        let mut row = vec![
            m.rank.to_string(),
            member_state(&m.state).to_string(),
            m.targets.to_string(),
            m.address.clone(),
            m.fault_domain.clone(),
        ];
        if has_trouble {
            row.push(m.trouble.as_ref().map(ToString::to_string).unwrap_or_default());
        }
        row
    };
    let rows = info.members.iter().map(row).collect();
    let mut header = vec!["Rank>", "State", "Targets>", "Address", "Fault domain"];
    if has_trouble {
        header.push("Reason");
    }
    table(&header, rows)
}

pub(crate) fn member_state(state: &wire::control::MemberState) -> &'static str {
    match state {
        wire::control::MemberState::Joined => "joined",
        wire::control::MemberState::Stopped => "stopped",
        wire::control::MemberState::Excluded => "excluded",
        wire::control::MemberState::AdminExcluded => "adminexcluded",
    }
}

/// The wall time of an epoch: `2026-03-01T12:00:00.123456Z`.
pub(crate) fn time(epoch: Epoch) -> String {
    const DAY: u64 = 86_400;
    let seconds = epoch.micros() / 1_000_000;
    let (year, month, day) = date(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", epoch.micros() % 1_000_000)
}

/// The Gregorian date `days` after 1970-01-01. Counts years from March, so that the leap day is the
/// last of its year (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_shows_its_wall_time() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_772_366_400, "2026-03-01T12:00:00.000000Z"),
        ] {
            assert_eq!(time(Epoch::from_micros(seconds * 1_000_000, 5)), text);
        }
    }

    #[test]
    fn a_little_used_is_not_nothing() {
        assert_eq!((percent(0, 10), percent(1, 1000), percent(5, 10), percent(1, 0)), (0, 1, 50, 0));
    }
}

//! Pool maps in messages.
//!
//! # Shape
//! ```text
//!   placement::PoolMap, addresses --to_message---> wire::control::PoolMap --from_message--> the same, checked
//!   MapDelta, addresses           --delta_to_message--> PoolMapDelta      --delta_from_message--> the same
//! ```
//! A message says what holds of neighbours once: a pool of a thousand servers in service is a thousand servers and one
//! [`StandingRun`].
//!
//! # Always true
//! Whatever a peer sends is an error or a map to place with; neither panics, nor takes more memory than a map may
//! ([`placement::STANDINGS_MAX`]).

use placement::{CameFrom, MapDelta, MapParts, PoolMap, STANDINGS_MAX, Server, Standing, TargetState};
use types::{Code, Error, PoolId, Rank, Result};
use wire::control::{self, MapServer, PoolMapDelta, StandingRun};

/// A pool map out of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressedMap {
    pub map: PoolMap,
    /// Where each of the map's servers answers, in their order; empty where nobody knows.
    pub addresses: Vec<String>,
}

/// A delta out of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressedDelta {
    pub delta: MapDelta,
    /// Where each of the delta's servers answers, in their order.
    pub addresses: Vec<String>,
}

/// The message that carries `map`. `address`: where a server answers, empty where nobody knows.
pub fn to_message(id: PoolId, label: &str, map: &PoolMap, address: impl Fn(Rank) -> String) -> control::PoolMap {
    let MapParts { version, floor, pg_count, origin, servers, standings } = map.parts();
    let servers = servers.iter().map(|server| server_to_message(server, &address)).collect();
    control::PoolMap { id, label: label.into(), version, floor, pg_count, origin, servers, standings: runs(&standings) }
}

/// The map that a message carries.
///
/// # Errors
/// `Protocol`: it carries none.
pub fn from_message(message: &control::PoolMap) -> Result<AddressedMap> {
    let found = || -> std::result::Result<PoolMap, String> {
        let control::PoolMap { version, floor, pg_count, origin, .. } = *message;
        let servers = message.servers.iter().map(server_from_message).collect::<std::result::Result<_, _>>()?;
        let standings = standings(&message.standings)?;
        let parts = MapParts { version, floor, pg_count, origin, servers, standings };
        PoolMap::from_parts(parts).map_err(|error| error.to_string())
    };
    let map = found().map_err(|cause| wrong(&format!("the map of pool '{}' cannot be one: {cause}", message.label)))?;
    Ok(AddressedMap { map, addresses: addresses(&message.servers) })
}

/// The message that carries `delta`.
pub fn delta_to_message(delta: &MapDelta, address: impl Fn(Rank) -> String) -> PoolMapDelta {
    let servers = delta.servers.iter().map(|server| server_to_message(server, &address)).collect();
    PoolMapDelta { from: delta.from, to: delta.to, servers, standings: runs(&delta.standings) }
}

/// The delta that a message carries. Whether it fits a map is for [`PoolMap::advance`] to say.
///
/// # Errors
/// `Protocol`: it carries none.
pub fn delta_from_message(message: &PoolMapDelta) -> Result<AddressedDelta> {
    let found = || -> std::result::Result<MapDelta, String> {
        let servers = message.servers.iter().map(server_from_message).collect::<std::result::Result<_, _>>()?;
        Ok(MapDelta { from: message.from, to: message.to, servers, standings: standings(&message.standings)? })
    };
    let delta = found().map_err(|cause| wrong(&format!("a change of a pool map cannot be one: {cause}")))?;
    Ok(AddressedDelta { delta, addresses: addresses(&message.servers) })
}

fn wrong(what: &str) -> Error {
    Error::new(Code::Protocol, what).remedy("check the server's address, and that all servers are of one release")
}

fn addresses(servers: &[MapServer]) -> Vec<String> {
    servers.iter().map(|server| server.address.clone()).collect()
}

fn server_to_message(server: &Server, address: &impl Fn(Rank) -> String) -> MapServer {
    let Server { rank, path, targets, weight } = server;
    let (address, fault_path) = (address(*rank), path.as_str().into());
    MapServer { rank: *rank, address, fault_path, targets: *targets, weight: *weight }
}

fn server_from_message(server: &MapServer) -> std::result::Result<Server, String> {
    let path = server.fault_path.parse().map_err(|error: placement::PathError| error.to_string())?;
    Ok(Server { rank: server.rank, path, targets: server.targets, weight: server.weight })
}

/// `standings`, those of one target together and oldest first, as runs: first what is said first of every target,
/// then what is said next.
fn runs(standings: &[(u32, Standing)]) -> Vec<StandingRun> {
    let mut layered: Vec<(u32, u32, &Standing)> = Vec::with_capacity(standings.len());
    for (position, standing) in standings {
        let layer = match layered.last() {
            Some(&(layer, last, _)) if last == *position => layer + 1,
            _ => 0,
        };
        layered.push((layer, *position, standing));
    }
    layered.sort_by_key(|&(layer, position, _)| (layer, position));
    let continues = |a: &(u32, u32, &Standing), b: &(u32, u32, &Standing)| (a.0, a.1 + 1, a.2) == (b.0, b.1, b.2);
    let run = |run: &[(u32, u32, &Standing)]| {
        let (_, first, &Standing { since, state, left, joined, served }) = run[0];
        StandingRun { first, count: run.len() as u32, since, state: state_to_message(state), left, joined, served }
    };
    layered.chunk_by(continues).map(run).collect()
}

/// By position, and of one target in the order of the runs.
fn standings(runs: &[StandingRun]) -> std::result::Result<Vec<(u32, Standing)>, String> {
    let count: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    if count > STANDINGS_MAX as u64 {
        return Err(format!("it says {count} things of its targets: at most {STANDINGS_MAX} are supported"));
    }
    let mut standings = Vec::with_capacity(count as usize);
    for &StandingRun { first, count, since, state, left, joined, served } in runs {
        let end = first.checked_add(count).ok_or("it names a position beyond all")?;
        let standing = Standing { since, state: state_from_message(state), left, joined, served };
        standings.extend((first..end).map(|position| (position, standing)));
    }
    standings.sort_by_key(|&(position, _)| position);
    Ok(standings)
}

/// A target's state, as messages say it.
pub fn state_to_message(state: TargetState) -> control::TargetState {
    match state {
        TargetState::New => control::TargetState::New,
        TargetState::Up(CameFrom::New) => control::TargetState::UpFromNew,
        TargetState::Up(CameFrom::Down) => control::TargetState::UpFromDown,
        TargetState::Up(CameFrom::DownOut) => control::TargetState::UpFromDownOut,
        TargetState::UpIn => control::TargetState::UpIn,
        TargetState::Down => control::TargetState::Down,
        TargetState::Up(CameFrom::Away) => control::TargetState::UpFromAway,
        TargetState::Away => control::TargetState::Away,
        TargetState::DownOut => control::TargetState::DownOut,
        TargetState::Drain => control::TargetState::Drain,
    }
}

fn state_from_message(state: control::TargetState) -> TargetState {
    match state {
        control::TargetState::New => TargetState::New,
        control::TargetState::UpFromNew => TargetState::Up(CameFrom::New),
        control::TargetState::UpFromDown => TargetState::Up(CameFrom::Down),
        control::TargetState::UpFromDownOut => TargetState::Up(CameFrom::DownOut),
        control::TargetState::UpIn => TargetState::UpIn,
        control::TargetState::Down => TargetState::Down,
        control::TargetState::UpFromAway => TargetState::Up(CameFrom::Away),
        control::TargetState::Away => TargetState::Away,
        control::TargetState::DownOut => TargetState::DownOut,
        control::TargetState::Drain => TargetState::Drain,
    }
}

//! The pool map: servers and their targets, what is said of each, and how that changed lately.
//!
//! # Shape
//! A list of servers and a list of targets that only grow; a *position* is an index into the latter, and
//! a target keeps its own for good. Each target has its [`Standing`]s, newest last, each with the
//! version that brought it: so the map of version 9 knows the maps 1 to 8 as well, back to its
//! *floor*. That is what makes layouts comparable without anybody storing them.
//!
//! # Always true
//! 1. A change gives the version that follows, whatever number of targets it touches (INV-L4).
//! 2. Whoever applies the same changes, or the deltas made from them, has an equal map.
//! 3. Failures are dealt with in the order in which they came, and before wanted changes: see
//!    [`PoolMap::apply`]. Only so is everything where a finished change says it is.
//!
//! # Not here
//! What follows from a map ([`crate::Layout`]). The bytes of a map: `wire` has them, and `object` makes them of
//! [`MapParts`].

use std::collections::{BTreeMap, BTreeSet};

use types::{Rank, TargetIndex};

use crate::domain::FaultPath;
use crate::state::{CameFrom, Event, Refused, TargetState};

mod parts;

pub use parts::MapParts;

/// Placement groups per target: enough that load evens out, few enough that a listing by group is
/// cheap.
pub const PGS_PER_TARGET: u32 = 64;
/// Most targets of one pool: 64 servers in each of a thousand racks, 16 targets each.
pub const TARGETS_MAX: usize = 1 << 20;
/// Greatest weight of a target: keeps the line of all targets below 2^39.
pub const WEIGHT_MAX: u32 = 1 << 18;
/// Versions that a map looks back: who is farther behind fetches the map. A burst of failures makes one
/// version a server, so this is a bad hour; each costs a comparison when an interval is asked for.
pub const HISTORY_MAX: u32 = 64;
/// Standings that a map keeps before it looks back less far: a map in which every one of a million targets changes
/// again and again stays below a hundred megabytes, at whoever is sent it, too.
pub const STANDINGS_MAX: usize = 4 * TARGETS_MAX;
/// Most placement groups of a pool: their number and a width fit in 32 bits ([`crate::GroupNumber`]). Beyond a quarter
/// of a million targets there are fewer than [`PGS_PER_TARGET`].
pub const PG_COUNT_MAX: u32 = 1 << 24;

/// The number of placement groups of a pool that starts with `targets`: a power of two, at least 64.
pub fn pg_count(targets: usize) -> u32 {
    let targets = u32::try_from(targets.clamp(1, TARGETS_MAX)).expect("clamped to a million");
    (targets * PGS_PER_TARGET).next_power_of_two().min(PG_COUNT_MAX)
}

/// A server of a pool, with its targets `0..targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub rank: Rank,
    pub path: FaultPath,
    pub targets: u32,
    /// The share of each of its targets relative to others, above zero.
    pub weight: u32,
}

/// One target of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub rank: Rank,
    pub index: TargetIndex,
    pub weight: u32,
    /// Index of its server in [`PoolMap::servers`].
    pub server: u32,
    /// Oldest first, never empty: the first is what held at the floor, or made it known.
    standings: Vec<Standing>,
}

/// What the map says of a target, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub since: u32,
    pub state: TargetState,
    /// The version at which it began to leave, zero if it does not: replacements are found in this
    /// order, so that a later failure does not change what an earlier one brought about. Upstream's
    /// `fseq`.
    pub left: u32,
    /// The version at which it was taken in, zero if it is new: later ones take from earlier ones, and not the
    /// other way round. Upstream's `in_ver`.
    pub joined: u32,
    /// Of one that does not serve, the last version at which it did; zero: it serves, or never did. Of several that are out,
    /// the one that served last has all that they have, however long ago that was.
    pub served: u32,
}

/// Servers and targets of a pool, at one version and at those before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMap {
    version: u32,
    /// The oldest version it knows about.
    floor: u32,
    pg_count: u32,
    /// Targets that the pool was made of: they come first, and decide for good how objects spread.
    origin: u32,
    servers: Vec<Server>,
    targets: Vec<Target>,
}

/// A change of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Servers become known; their targets are new.
    Add(Vec<Server>),
    /// Something happened to targets, by position; to each at most once.
    Happen(Vec<(u32, Event)>),
}

/// What leads from one version of a map to a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDelta {
    pub from: u32,
    pub to: u32,
    pub servers: Vec<Server>,
    /// By position, and oldest first.
    pub standings: Vec<(u32, Standing)>,
}

/// Why there is no such map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("pool map {version} has no targets")]
    Empty { version: u32 },
    #[error("pool map {version} would have {targets} targets: at most {TARGETS_MAX} are supported")]
    TooMany { version: u32, targets: usize },
    #[error("pool map {version} names target {index} of rank {rank} twice")]
    Twice { version: u32, rank: Rank, index: TargetIndex },
    #[error("pool map {version} gives the targets of rank {rank} weight {weight}: 1 to {WEIGHT_MAX} are possible")]
    Weight { version: u32, rank: Rank, weight: u32 },
    /// Levels of domains are compared, so all paths need the same.
    #[error("rank {rank} has the fault path {path}, which is not as deep as those of the other servers")]
    Depth { rank: Rank, path: FaultPath },
    #[error("pool map {version} has no target at position {position}")]
    NoTarget { version: u32, position: u32 },
    #[error("target {index} of rank {rank}: {refused}")]
    Refused { rank: Rank, index: TargetIndex, refused: Refused },
    /// Finish the rebuild of what failed before, in the same change at the latest, or its return.
    #[error("target {index} of rank {rank} is down, or on its way back from there: that is dealt with first")]
    FailureFirst { rank: Rank, index: TargetIndex },
    /// Bring it back, or give it up, first.
    #[error("what only target {index} of rank {rank} has waits for it, and might be taken from it: it comes first")]
    Awaited { rank: Rank, index: TargetIndex },
    #[error("nobody is in service who could take what target {index} of rank {rank} has")]
    Last { rank: Rank, index: TargetIndex },
    /// Finish all wanted changes together.
    #[error("target {index} of rank {rank} is {state}: wanted changes of a pool finish together")]
    Together { rank: Rank, index: TargetIndex, state: TargetState },
    #[error("a delta from map version {from} to {to} does not fit map version {version}")]
    Version { version: u32, from: u32, to: u32 },
    #[error("what leads to map version {to} is not in order, or not possible, at position {position}")]
    Disordered { to: u32, position: u32 },
    /// Whoever sent or stored it does not keep maps as this crate does.
    #[error("pool map {version} {what}")]
    Impossible { version: u32, what: &'static str },
}

impl Standing {
    /// When it served last, if it is `state` from version `since` on.
    fn served_before(self, since: u32, state: TargetState) -> u32 {
        match (self.state.serves(), state.serves()) {
            (_, true) => 0,
            (true, false) => since - 1,
            (false, false) => self.served,
        }
    }
}

impl Target {
    /// What the map says of it now.
    pub fn standing(&self) -> Standing {
        *self.standings.last().expect("a target has a standing from the start")
    }

    pub fn state(&self) -> TargetState {
        self.standing().state
    }

    /// What map `version` said of it; `None` if it did not know it. Not for versions below the floor.
    pub fn standing_at(&self, version: u32) -> Option<Standing> {
        let later = self.standings.partition_point(|standing| standing.since <= version);
        self.standings[..later].last().copied()
    }
}

impl PoolMap {
    /// The first map of a pool, all targets in service.
    ///
    /// # Errors
    /// [`MapError`]: nothing, too much, twice the same, or a server that does not fit.
    pub fn create(servers: Vec<Server>) -> Result<PoolMap, MapError> {
        let mut map = PoolMap::empty(1);
        map.add(servers, TargetState::UpIn)?;
        map.close()
    }

    fn empty(version: u32) -> PoolMap {
        PoolMap { version, floor: version, pg_count: 0, origin: 0, servers: Vec::new(), targets: Vec::new() }
    }

    fn close(mut self) -> Result<PoolMap, MapError> {
        let version = self.version;
        if self.targets.is_empty() {
            return Err(MapError::Empty { version });
        }
        self.origin = self.targets.len() as u32;
        self.pg_count = pg_count(self.targets.len());
        Ok(self)
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    /// The oldest version that this map knows about.
    pub fn floor(&self) -> u32 {
        self.floor
    }

    /// Placement groups: the same for the whole life of a pool.
    pub fn pg_count(&self) -> u32 {
        self.pg_count
    }

    /// Targets that the pool was made of; they come first.
    pub fn origin(&self) -> u32 {
        self.origin
    }

    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The position of a target.
    pub fn position(&self, rank: Rank, index: TargetIndex) -> Option<u32> {
        self.targets.iter().position(|target| (target.rank, target.index) == (rank, index)).map(|p| p as u32)
    }

    /// Positions of a server's targets.
    pub fn positions_of(&self, rank: Rank) -> impl Iterator<Item = u32> {
        let found = move |(position, target): (usize, &Target)| (target.rank == rank).then_some(position as u32);
        self.targets.iter().enumerate().filter_map(found)
    }

    /// Fault domains of the lowest level (machines) with targets that are, or were, in service: as many shards of a group
    /// can be kept apart.
    pub fn domain_count(&self) -> usize {
        let known = self.targets.iter().filter(|target| target.state() != TargetState::New);
        known.map(|target| &self.servers[target.server as usize].path).collect::<BTreeSet<_>>().len()
    }

    /// Makes a change, and returns the version after it: the next, or this one if nothing changed.
    ///
    /// Rules beyond those of each target ([`TargetState::after`]):
    /// - *Failures in their order.* A target's rebuild finishes after those of targets that failed before it.
    ///   Replacements are chosen in this order, and an earlier choice counts for a later one.
    /// - *Wanted changes together, and after failures.* What drains, extends or comes back from
    ///   [`TargetState::DownOut`] or [`TargetState::Away`] arrives in one change, while nothing is down or on its way back from there.
    ///   Each alone would give a layout that nobody moved data for.
    /// - *Who drains leaves somebody behind* who is in service.
    /// - *Nobody takes what is awaited.* While a target is [`TargetState::Away`], or on its way back from there, no
    ///   other arrives that might take its places (what only it has is not to be had), or leave places to it. Those
    ///   are who is new, and who left, or began to leave, before; so of several that are away, who left last comes back
    ///   first.
    ///
    /// Cost: a walk over the targets.
    ///
    /// # Errors
    /// [`MapError`]; the map is as it was.
    pub fn apply(&mut self, change: &Change) -> Result<u32, MapError> {
        match change {
            Change::Add(servers) if servers.is_empty() => return Ok(self.version),
            Change::Add(servers) => {
                let mut next = PoolMap { version: self.version + 1, ..self.clone() };
                next.add(servers.clone(), TargetState::New)?;
                *self = next;
            }
            Change::Happen(events) => {
                let changed = self.standings_after(events)?;
                if changed.is_empty() {
                    return Ok(self.version);
                }
                self.check_order(&changed)?;
                self.version += 1;
                for (position, standing) in changed {
                    self.targets[position as usize].standings.push(standing);
                }
            }
        }
        self.forget();
        Ok(self.version)
    }

    /// What leads from `version` to this one; `None` if it is older than the floor, or newer than this.
    pub fn delta_since(&self, version: u32) -> Option<MapDelta> {
        if version < self.floor || version > self.version {
            return None;
        }
        let mut standings = Vec::new();
        let mut servers = BTreeSet::new();
        for (position, target) in self.targets.iter().enumerate() {
            if target.standing_at(version).is_none() {
                servers.insert(target.server);
            }
            let newer = target.standings.iter().filter(|standing| standing.since > version);
            standings.extend(newer.map(|&standing| (position as u32, standing)));
        }
        let servers = servers.into_iter().map(|server| self.servers[server as usize].clone()).collect();
        Some(MapDelta { from: version, to: self.version, servers, standings })
    }

    /// Takes the map to the version that a delta leads to.
    ///
    /// # Errors
    /// [`MapError`]: it does not start here, or was not made by [`PoolMap::delta_since`]. The map is as it was.
    pub fn advance(&mut self, delta: &MapDelta) -> Result<(), MapError> {
        let MapDelta { from, to, .. } = *delta;
        if from != self.version || to < from {
            return Err(MapError::Version { version: self.version, from, to });
        }
        parts::check_version(to)?;
        // As many as there is something said of: a count alone makes no targets.
        let new: u64 = delta.servers.iter().map(|server| u64::from(server.targets)).sum();
        if new > delta.standings.len() as u64 {
            return Err(MapError::Impossible { version: to, what: "says nothing of some targets" });
        }
        let mut next = PoolMap { version: to, ..self.clone() };
        let known = next.targets.len();
        next.add(delta.servers.clone(), TargetState::New)?;
        // Their first standing says when they became known, and comes with the delta.
        next.targets[known..].iter_mut().for_each(|target| target.standings.clear());
        for &(position, standing) in &delta.standings {
            if standing.since <= from {
                return Err(MapError::Disordered { to, position });
            }
            next.append(position, standing)?;
        }
        if let Some(unknown) = next.targets.iter().position(|target| target.standings.is_empty()) {
            return Err(MapError::Disordered { to, position: unknown as u32 });
        }
        next.forget();
        *self = next;
        Ok(())
    }

    /// The versions at which something changed, newest first, down to the floor.
    pub(crate) fn versions(&self) -> Vec<u32> {
        let all = self.targets.iter().flat_map(|target| &target.standings).map(|standing| standing.since);
        let mut versions: BTreeSet<u32> = all.filter(|&since| since > self.floor).collect();
        versions.insert(self.floor);
        versions.into_iter().rev().collect()
    }

    fn add(&mut self, servers: Vec<Server>, state: TargetState) -> Result<(), MapError> {
        let version = self.version;
        let more: u64 = servers.iter().map(|server| u64::from(server.targets)).sum();
        self.check_count(self.targets.len().saturating_add(usize::try_from(more).unwrap_or(usize::MAX)))?;
        let mut ranks: BTreeSet<Rank> = self.servers.iter().map(|server| server.rank).collect();
        for server in servers {
            let Server { rank, weight, targets, .. } = server;
            if !ranks.insert(rank) {
                return Err(MapError::Twice { version, rank, index: TargetIndex(0) });
            }
            if weight == 0 || weight > WEIGHT_MAX {
                return Err(MapError::Weight { version, rank, weight });
            }
            let depth = |server: &Server| server.path.parts().count();
            if self.servers.first().is_some_and(|first| depth(first) != depth(&server)) {
                return Err(MapError::Depth { rank, path: server.path });
            }
            let at = self.servers.len() as u32;
            self.servers.push(server);
            (0..targets).for_each(|index| self.push(rank, TargetIndex(index), weight, at, state));
        }
        Ok(())
    }

    fn push(&mut self, rank: Rank, index: TargetIndex, weight: u32, server: u32, state: TargetState) {
        let joined = if state == TargetState::New { 0 } else { self.version };
        let standings = vec![Standing { since: self.version, state, left: 0, joined, served: 0 }];
        self.targets.push(Target { rank, index, weight, server, standings });
    }

    fn check_count(&self, targets: usize) -> Result<(), MapError> {
        match targets > TARGETS_MAX {
            true => Err(MapError::TooMany { version: self.version, targets }),
            false => Ok(()),
        }
    }

    /// What the events make of the targets they happen to, without those they change nothing for.
    fn standings_after(&self, events: &[(u32, Event)]) -> Result<BTreeMap<u32, Standing>, MapError> {
        let since = self.version + 1;
        let mut changed = BTreeMap::new();
        for &(position, event) in events {
            let target =
                self.targets.get(position as usize).ok_or(MapError::NoTarget { version: self.version, position })?;
            let Target { rank, index, .. } = *target;
            let old = target.standing();
            let after = old.state.after(event).map_err(|refused| MapError::Refused { rank, index, refused })?;
            let Some(state) = after else { continue };
            let left = match (old.state, state) {
                // Who failed is last in the order, even if it was leaving before: who takes over for others stays.
                (_, TargetState::Down) | (_, TargetState::Drain) => since,
                // Back in, or not in yet.
                (_, TargetState::UpIn | TargetState::New) => 0,
                (_, TargetState::Away | TargetState::DownOut | TargetState::Up(_)) => old.left,
            };
            let joined = match state {
                TargetState::New => 0,
                TargetState::Up(CameFrom::New) => since,
                _ => old.joined,
            };
            let served = old.served_before(since, state);
            if changed.insert(position, Standing { since, state, left, joined, served }).is_some() {
                return Err(MapError::Twice { version: since, rank, index });
            }
        }
        Ok(changed)
    }

    /// Failures first and in their order, wanted changes together, awaited ones before who might take their places: see
    /// [`PoolMap::apply`].
    fn check_order(&self, changed: &BTreeMap<u32, Standing>) -> Result<(), MapError> {
        let after = |position: usize| {
            let old = self.targets[position].standing();
            (old, changed.get(&(position as u32)).copied().unwrap_or(old))
        };
        let (mut rebuilt, mut arrived) = (0, false);
        // Who left before this, or was never there, changes who has places: when it arrives, and when it is on its way.
        let (mut arriving, mut coming) = (u32::MAX, u32::MAX);
        for &position in changed.keys() {
            let (old, new) = after(position as usize);
            match (old.state, new.state) {
                (TargetState::Down, TargetState::Away) => rebuilt = rebuilt.max(old.left),
                (TargetState::Drain, TargetState::DownOut)
                | (TargetState::Up(CameFrom::New | CameFrom::Away | CameFrom::DownOut), TargetState::UpIn) => {
                    (arrived, arriving) = (true, arriving.min(old.left));
                }
                (TargetState::Away | TargetState::DownOut, TargetState::Up(_)) => coming = coming.min(old.left),
                _ => {}
            }
        }
        let drains = |position: &u32| {
            let (old, new) = after(*position as usize);
            new.state == TargetState::Drain || (old.state, new.state) == (TargetState::Drain, TargetState::DownOut)
        };
        let stays = |position| after(position).1.state == TargetState::UpIn;
        if let Some(last) = changed.keys().find(|position| drains(position))
            && !(0..self.targets.len()).any(stays)
        {
            let Target { rank, index, .. } = self.targets[*last as usize];
            return Err(MapError::Last { rank, index });
        }
        for (position, target) in self.targets.iter().enumerate() {
            let (old, new) = after(position);
            let Target { rank, index, .. } = *target;
            match old.state {
                // What failed before and comes back at the same moment is not where the rebuild took it for.
                TargetState::Down if arrived || (old.left <= rebuilt && new.state != TargetState::Away) => {
                    return Err(MapError::FailureFirst { rank, index });
                }
                // It may be about to get what is moved, and would have it without serving it.
                TargetState::Up(CameFrom::Down) if arrived => return Err(MapError::FailureFirst { rank, index }),
                TargetState::Down if old.left > coming => return Err(MapError::Awaited { rank, index }),
                TargetState::Away | TargetState::Up(CameFrom::Away) if old.left > coming.min(arriving) => {
                    return Err(MapError::Awaited { rank, index });
                }
                // Who changes his mind at the same moment does not arrive, either.
                TargetState::Drain if arrived && new.state != TargetState::DownOut => {
                    return Err(MapError::Together { rank, index, state: new.state });
                }
                TargetState::Up(CameFrom::New | CameFrom::Away | CameFrom::DownOut)
                    if arrived && new.state != TargetState::UpIn =>
                {
                    return Err(MapError::Together { rank, index, state: new.state });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Raises the floor, and drops what lies below it.
    fn forget(&mut self) {
        self.floor = self.floor.max(self.version.saturating_sub(HISTORY_MAX));
        loop {
            let floor = self.floor;
            for target in &mut self.targets {
                let old = target.standings.iter().skip(1).take_while(|standing| standing.since <= floor).count();
                target.standings.drain(..old);
            }
            let kept: usize = self.targets.iter().map(|target| target.standings.len()).sum();
            if kept <= STANDINGS_MAX {
                return;
            }
            self.floor += 1;
        }
    }
}

#[cfg(test)]
mod tests;

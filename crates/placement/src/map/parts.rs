//! A map taken apart and put together: what others store and send of it, and trust from nobody.

use super::{HISTORY_MAX, MapError, PG_COUNT_MAX, PoolMap, STANDINGS_MAX, Server, Standing, pg_count};
use crate::state::{CameFrom, Event, TargetState};

/// Greatest version that is believed: at one a second, a lifetime; and the next one is always there.
const VERSION_MAX: u32 = u32::MAX / 2;

/// All that a [`PoolMap`] holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapParts {
    pub version: u32,
    pub floor: u32,
    pub pg_count: u32,
    pub origin: u32,
    /// In the order in which they came: their targets, one server's after the other's, have positions 0, 1, ...
    pub servers: Vec<Server>,
    /// By position, and oldest first; of every target.
    pub standings: Vec<(u32, Standing)>,
}

impl PoolMap {
    pub fn parts(&self) -> MapParts {
        let PoolMap { version, floor, pg_count, origin, .. } = *self;
        let of = |(position, target): (usize, &super::Target)| {
            let standings: Vec<_> = target.standings.iter().map(|&standing| (position as u32, standing)).collect();
            standings
        };
        let standings = self.targets.iter().enumerate().flat_map(of).collect();
        MapParts { version, floor, pg_count, origin, servers: self.servers.clone(), standings }
    }

    /// The map that has these parts. Whatever they say, it is refused or it is a map that can be used.
    ///
    /// Not judged: whether what is said of several targets could come about together. Layouts of a map that broke the
    /// rules of [`PoolMap::apply`] are of no use, and do no harm.
    ///
    /// Cost: memory in proportion to the parts.
    ///
    /// # Errors
    /// [`MapError`]: there can be no such map.
    pub fn from_parts(parts: MapParts) -> Result<PoolMap, MapError> {
        let MapParts { version, floor, pg_count: pgs, origin, servers, standings } = parts;
        let impossible = |what| Err(MapError::Impossible { version, what });
        check_version(version)?;
        if floor == 0 || floor > version || version - floor > HISTORY_MAX {
            return impossible("does not look back to a version that it can know");
        }
        if !pgs.is_power_of_two() || !(pg_count(1)..=PG_COUNT_MAX).contains(&pgs) {
            return impossible("has a number of placement groups that no pool has");
        }
        if standings.len() > STANDINGS_MAX {
            return impossible("says more of its targets than can be");
        }
        // Every target has a standing: a count of targets is believed as far as there is something said of them.
        let targets: u64 = servers.iter().map(|server| u64::from(server.targets)).sum();
        if targets > standings.len() as u64 {
            return impossible("says nothing of some targets");
        }
        if origin == 0 || u64::from(origin) > targets {
            return impossible("was not made of targets that it has");
        }
        let mut map = PoolMap { floor, pg_count: pgs, origin, ..PoolMap::empty(version) };
        map.add(servers, TargetState::New)?;
        map.targets.iter_mut().for_each(|target| target.standings.clear());
        for (position, standing) in standings {
            let first = map.targets.get(position as usize).is_some_and(|target| target.standings.is_empty());
            // What lies below the floor has been forgotten, but for what held there.
            if !first && standing.since <= floor {
                return Err(MapError::Disordered { to: version, position });
            }
            map.append(position, standing)?;
        }
        match map.targets.iter().position(|target| target.standings.is_empty()) {
            Some(unknown) => Err(MapError::Disordered { to: version, position: unknown as u32 }),
            None => Ok(map),
        }
    }

    /// Says something more of a target that was taken from a peer or a store, at the map's version at the latest.
    pub(super) fn append(&mut self, position: u32, standing: Standing) -> Result<(), MapError> {
        let (version, floor) = (self.version, self.floor);
        let target = self.targets.get_mut(position as usize).ok_or(MapError::NoTarget { version, position })?;
        let follows = match target.standings.last() {
            Some(last) => {
                let Standing { since, state, served, .. } = standing;
                last.since < since && leads_to(last.state, state) && last.served_before(since, state) == served
            }
            // What came after the floor came as new; at the floor and before it may have gone any way.
            None => standing.since <= floor || standing.state == TargetState::New,
        };
        if !follows || standing.since > version || !is_possible(standing) {
            return Err(MapError::Disordered { to: version, position });
        }
        target.standings.push(standing);
        Ok(())
    }
}

pub(super) fn check_version(version: u32) -> Result<(), MapError> {
    match (1..=VERSION_MAX).contains(&version) {
        true => Ok(()),
        false => Err(MapError::Impossible { version, what: "has a version that no map has" }),
    }
}

fn leads_to(old: TargetState, new: TargetState) -> bool {
    Event::ALL.iter().any(|&event| old.after(event) == Ok(Some(new)))
}

/// Whether a target can have this said of it: see how [`PoolMap::apply`] makes standings.
fn is_possible(standing: Standing) -> bool {
    let Standing { since, state, left, joined, served } = standing;
    let was_in = (1..=since).contains(&joined);
    let has_served = (joined..since).contains(&served);
    match state {
        TargetState::New => left == 0 && joined == 0 && served == 0,
        TargetState::Up(CameFrom::New) => left == 0 && joined == since && served == 0,
        TargetState::UpIn => left == 0 && was_in && served == 0,
        TargetState::Drain => left == since && was_in && served == 0,
        TargetState::Down => left == since && was_in && has_served,
        TargetState::Away
        | TargetState::DownOut
        | TargetState::Up(CameFrom::Down | CameFrom::Away | CameFrom::DownOut) => {
            (1..=since).contains(&left) && was_in && joined <= left && has_served
        }
    }
}

#[cfg(test)]
mod tests {
    use types::Rank;

    use super::*;
    use crate::{Change, Layout};

    fn map() -> PoolMap {
        let server = |rank: u32| Server {
            rank: Rank(rank),
            path: format!("/host{rank}").parse().unwrap(),
            targets: 2,
            weight: 1,
        };
        let mut map = PoolMap::create((0..3).map(server).collect()).unwrap();
        map.apply(&Change::Happen(vec![(1, Event::Exclude)])).unwrap();
        map.apply(&Change::Add(vec![server(3)])).unwrap();
        map.apply(&Change::Happen(vec![(6, Event::Extend), (7, Event::Extend)])).unwrap();
        map
    }

    #[test]
    fn a_map_is_its_parts() {
        let map = map();
        assert_eq!(PoolMap::from_parts(map.parts()), Ok(map));
    }

    #[test]
    fn parts_that_no_map_has_are_refused() {
        let whole = map().parts();
        let refused = |why: &str, change: &dyn Fn(&mut MapParts)| {
            let mut parts = whole.clone();
            change(&mut parts);
            assert!(PoolMap::from_parts(parts).is_err(), "{why}");
        };
        refused("version 0", &|parts| parts.version = 0);
        refused("a version that could not go on", &|parts| (parts.version, parts.floor) = (u32::MAX, u32::MAX));
        refused("a floor above the version", &|parts| parts.floor = 5);
        refused("no floor", &|parts| parts.floor = 0);
        refused("looks back too far", &|parts| parts.version = 1 + HISTORY_MAX + 1);
        refused("an odd number of groups", &|parts| parts.pg_count = 500);
        refused("too few groups", &|parts| parts.pg_count = 32);
        refused("too many groups", &|parts| parts.pg_count = 2 * PG_COUNT_MAX);
        refused("made of nothing", &|parts| parts.origin = 0);
        refused("made of more than there is", &|parts| parts.origin = 9);
        refused("a target without a standing", &|parts| parts.standings.truncate(9));
        refused("a position that is not there", &|parts| parts.standings[0].0 = 8);
        refused("millions of targets out of nothing", &|parts| parts.servers[0].targets = 1 << 19);
        refused("a rank twice", &|parts| parts.servers[1].rank = Rank(0));
        refused("no weight", &|parts| parts.servers[1].weight = 0);
        refused("two that hold at the floor", &|parts| parts.standings[2].1.since = 1);
        refused("from the future", &|parts| parts.standings[0].1.since = 5);
        refused("a step that there is not", &|parts| parts.standings[2].1.state = TargetState::DownOut);
        refused("down, and never left", &|parts| parts.standings[2].1.left = 0);
        refused("down, and never served", &|parts| parts.standings[2].1.served = 0);
        refused("served after it left", &|parts| parts.standings[2].1.served = 2);
        refused("in, and served only before", &|parts| parts.standings[0].1.served = 1);
        refused("in, and never came", &|parts| parts.standings[0].1.joined = 0);
        refused("came after the floor, and was in at once", &|parts| {
            parts.standings.remove(7);
        });
    }

    /// Whatever is let in can be placed with: nothing that a peer says brings a layout down.
    #[test]
    fn what_is_not_refused_gives_layouts() {
        let mut state = 1u64;
        let mut below = move |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let out =
            |since: u32, state| Standing { since, state, left: since, joined: 1, served: since.saturating_sub(1) };
        let (whole, mut taken) = (map().parts(), 0);
        for _ in 0..20_000 {
            let mut parts = whole.clone();
            for _ in 0..=below(3) {
                let (at, value) = (below(parts.standings.len() as u64) as usize, below(6) as u32);
                let standing = &mut parts.standings[at].1;
                match below(13) {
                    0 => standing.since = value,
                    1 => standing.left = value,
                    2 => standing.joined = value,
                    3 => standing.state = TargetState::ALL[below(10) as usize],
                    12 => standing.served = value,
                    4 => *standing = out(value, TargetState::Down),
                    5 => *standing = out(value, TargetState::DownOut),
                    6 => {
                        *standing = Standing {
                            state: TargetState::New,
                            left: 0,
                            joined: 0,
                            served: 0,
                            ..out(value, TargetState::New)
                        }
                    }
                    7 => parts.floor = value,
                    8 => parts.version = value + 1,
                    9 => parts.origin = value + 1,
                    10 => parts.pg_count = 32 << value,
                    _ => parts.servers[0].targets = value,
                }
            }
            let Ok(map) = PoolMap::from_parts(parts) else { continue };
            taken += 1;
            let layout = Layout::new(map);
            for pg in [0, 17, layout.pg_count() - 1] {
                let slots = layout.slots(pg, 5);
                assert!(slots.len() <= 5);
                layout.interval(pg, 3);
                layout.leader(pg, 2);
            }
        }
        assert!(taken > 1000, "{taken} maps of 20000 were let in");
    }
}

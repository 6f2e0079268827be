//! Placement at sizes that nobody has at hand: how even it is, and what moves when something changes.
//!
//! No simulated time and no faults: a pool map of so many servers, and what its layouts say. Placement groups are
//! independent of each other, so that large pools are judged by a part of theirs.
//!
//! [`detection`]: how soon the death of a server is known; [`fan_out`]: how a change of the map reaches everybody;
//! [`rebuild`]: what healing takes.

pub mod detection;
pub mod fan_out;
pub mod rebuild;

use std::collections::BTreeSet;

use placement::{Change, Event, FaultPath, Layout, MapError, PoolMap, Server};
use types::Rank;

/// Slots that are looked at: three copies.
pub const SLOTS: usize = 3;

/// A pool of equal racks of equal servers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub racks: u32,
    pub servers_per_rack: u32,
    pub targets_per_server: u32,
}

/// How even a layout is.
#[derive(Clone, Debug)]
pub struct Balance {
    /// Slots of the fullest target, relative to the mean.
    pub slots: f64,
    /// Placement groups that the busiest target leads, relative to the mean.
    pub led: f64,
    /// The same of servers.
    pub server_slots: f64,
    /// Distinct sets of servers that hold all slots of a placement group: so many ways of losing data.
    pub copysets: usize,
    /// Other servers that one server shares placement groups with: as many take part in its rebuild.
    pub partners: usize,
}

/// Slots that changed hands, and what could not be avoided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub slots: u64,
    /// What the failed held, or what the new ones' share is by weight.
    pub optimum: f64,
}

impl Moved {
    pub fn ratio(self) -> f64 {
        self.slots as f64 / self.optimum
    }
}

impl Shape {
    pub fn servers(self) -> u32 {
        self.racks * self.servers_per_rack
    }

    fn server(self, rank: u32) -> Server {
        let path = format!("/rack{}/host{rank}", rank / self.servers_per_rack);
        let path: FaultPath = path.parse().expect("a path of two names");
        Server { rank: Rank(rank), path, targets: self.targets_per_server, weight: 1 }
    }

    /// The pool of this shape, all in service.
    ///
    /// # Errors
    /// [`MapError::TooMany`].
    pub fn map(self) -> Result<PoolMap, MapError> {
        PoolMap::create((0..self.servers()).map(|rank| self.server(rank)).collect())
    }

    /// Every slot of every placement group, once: what a table of the layout would cost. Gives the number of them.
    pub fn walk(self, layout: &Layout) -> u64 {
        (0..layout.pg_count()).map(|pg| layout.slots(pg, SLOTS).len() as u64).sum()
    }

    pub fn balance(self, layout: &Layout) -> Balance {
        let mut slots = vec![0u32; layout.map().targets().len()];
        let mut led = slots.clone();
        let mut sets = Vec::with_capacity(layout.pg_count() as usize);
        let mut partners = BTreeSet::new();
        for pg in 0..layout.pg_count() {
            let members: Vec<u32> = layout.slots(pg, SLOTS).iter().filter_map(|slot| slot.serving).collect();
            members.iter().for_each(|&member| slots[member as usize] += 1);
            led[members[0] as usize] += 1;
            let mut servers: Vec<u32> = members.iter().map(|member| member / self.targets_per_server).collect();
            servers.sort_unstable();
            if servers.contains(&0) {
                partners.extend(servers.iter().copied().filter(|&server| server != 0));
            }
            // A million servers would fit.
            sets.push(servers.iter().fold(0u64, |set, &server| set << 20 | u64::from(server)));
        }
        sets.sort_unstable();
        sets.dedup();
        let by_server: Vec<u32> =
            slots.chunks(self.targets_per_server as usize).map(|targets| targets.iter().sum()).collect();
        let uneven = |counts: &[u32]| {
            let mean = counts.iter().map(|&n| f64::from(n)).sum::<f64>() / counts.len() as f64;
            f64::from(counts.iter().copied().max().unwrap_or(0)) / mean
        };
        Balance {
            slots: uneven(&slots),
            led: uneven(&led),
            server_slots: uneven(&by_server),
            copysets: sets.len(),
            partners: partners.len(),
        }
    }

    /// One server fails and is rebuilt elsewhere.
    ///
    /// # Errors
    /// [`MapError`]: never for shapes of more than one server.
    pub fn failure(self, before: &Layout, sample: u32) -> Result<Moved, MapError> {
        let mut map = before.map().clone();
        let failed = |event| Change::Happen((0..self.targets_per_server).map(|target| (target, event)).collect());
        map.apply(&failed(Event::Exclude))?;
        map.apply(&failed(Event::Rebuilt))?;
        let hers = |target: u32| target < self.targets_per_server;
        let (slots, held, _) = difference(before, &Layout::new(map), sample, hers);
        Ok(Moved { slots, optimum: held as f64 })
    }

    /// `servers` more join: in a rack of their own, or the last one grows.
    ///
    /// # Errors
    /// [`MapError::TooMany`].
    pub fn growth(self, before: &Layout, servers: u32, own_rack: bool, sample: u32) -> Result<Moved, MapError> {
        let mut map = before.map().clone();
        let first = map.targets().len() as u32;
        let more = self.servers()..self.servers() + servers;
        let place = |rank| match own_rack {
            true => self.server(rank),
            false => Server { path: last_rack(self, rank), ..self.server(rank) },
        };
        map.apply(&Change::Add(more.map(place).collect()))?;
        let new = first..map.targets().len() as u32;
        for event in [Event::Extend, Event::Extended] {
            map.apply(&Change::Happen(new.clone().map(|target| (target, event)).collect()))?;
        }
        let (slots, _, all) = difference(before, &Layout::new(map), sample, |_| false);
        let share = f64::from(servers) / f64::from(self.servers() + servers);
        Ok(Moved { slots, optimum: all as f64 * share })
    }
}

fn last_rack(shape: Shape, rank: u32) -> FaultPath {
    format!("/rack{}/host{rank}", shape.racks - 1).parse().expect("a path of two names")
}

/// Slots that changed hands, slots that were held by whom `counts` says, and slots in all, in `sample` placement
/// groups or all.
fn difference(before: &Layout, after: &Layout, sample: u32, counts: impl Fn(u32) -> bool) -> (u64, u64, u64) {
    let (mut moved, mut held, mut all) = (0, 0, 0);
    for pg in 0..before.pg_count().min(sample) {
        for (was, is) in before.slots(pg, SLOTS).iter().zip(after.slots(pg, SLOTS)) {
            all += 1;
            held += u64::from(was.serving.is_some_and(&counts));
            moved += u64::from(was.serving != is.serving);
        }
    }
    (moved, held, all)
}

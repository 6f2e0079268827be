//! One version of the pool map, and whom to ask by it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use net::Address;
use placement::{CameFrom, GroupNumber, Layout as Placement, PlaceError, Placed, PoolMap, TargetState};
use types::{Code, Error, ObjectClass, ObjectId, Rank, Redundancy, Result, TargetIndex};

use crate::link::{Link, Links};

/// One version of the pool map, ready for use.
pub(crate) struct View {
    placement: Placement,
    /// Servers with targets that have failed, and whose data is not yet elsewhere.
    failed_servers: usize,
    /// Where servers answer, in the order of the map, as text and as what can be made of it.
    texts: Vec<String>,
    addresses: Vec<Option<Address>>,
    /// By position in the map, the links to targets that somebody has asked for.
    links: Vec<OnceLock<Arc<Link>>>,
    leaders: Leaders,
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Who leads a placement group, at a width.
    Leader { pg: u32, width: usize },
    /// Whoever serves it: what is read is closed, so all have the same. `lot` spreads clients over them.
    Any { pg: u32, width: usize, lot: u64 },
    /// A target, by position in the map.
    Target { position: u32 },
}

/// What a target has of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ShardState {
    /// It has the data and decides changes.
    Leading,
    /// It has the data.
    Serving,
    /// It gets writes, and is being filled.
    Filling,
    /// It has data, and does not answer.
    Lost,
}

impl ShardState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            ShardState::Leading => "leading",
            ShardState::Serving => "serving",
            ShardState::Filling => "filling",
            ShardState::Lost => "lost",
        }
    }
}

impl View {
    pub(crate) fn new(map: PoolMap, texts: Vec<String>) -> View {
        let addresses = texts.iter().map(|text| text.parse().ok()).collect();
        let links = map.targets().iter().map(|_| OnceLock::new()).collect();
        let failed = map.targets().iter().filter(|target| has_failed(target.state(), usize::MAX));
        let failed_servers = failed.map(|target| target.server).collect::<BTreeSet<_>>().len();
        let (placement, leaders) = (Placement::new(map), Leaders::default());
        View { placement, failed_servers, texts, addresses, links, leaders }
    }

    pub(crate) fn version(&self) -> u32 {
        self.placement.version()
    }

    pub(crate) fn map(&self) -> &PoolMap {
        self.placement.map()
    }

    /// Where servers answer, in the order of the map; empty where nobody knows.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().flatten()
    }

    pub(crate) fn name(&self, position: u32) -> (Rank, TargetIndex) {
        let target = &self.map().targets()[position as usize];
        (target.rank, target.index)
    }

    /// What there is to spread objects over.
    pub(crate) fn spread(&self) -> types::Spread {
        types::Spread { domains: self.placement.domain_count(), targets: self.map().origin() as usize }
    }

    /// Which placement groups an object lies in; by every version.
    ///
    /// # Errors
    /// `Invalid`: its class cannot be placed in this pool. `NotSupported`: it is made of cells, which nothing here
    /// writes yet.
    pub(crate) fn place(&self, oid: ObjectId) -> Result<Placed> {
        oid.class().map_or(Ok(()), |class| self.admits_class(class))?;
        let unplaced = |error: PlaceError| {
            Error::new(Code::Invalid, error.to_string()).remedy("use an id that this system gave out")
        };
        self.placement.place(oid).map_err(unplaced)
    }

    /// # Errors
    /// As for [`View::place`].
    pub(crate) fn admits_class(&self, class: ObjectClass) -> Result<()> {
        let possible = || {
            let fits = |redundancy: &Redundancy| {
                matches!(redundancy, Redundancy::Replicas { .. }) && redundancy.width() <= self.placement.domain_count()
            };
            let widest = ObjectClass::redundancies().filter(fits).max_by_key(|redundancy| redundancy.width());
            widest.and_then(|redundancy| ObjectClass::of(redundancy, class.groups())).unwrap_or(ObjectClass::SX)
        };
        self.placement.admits_class(class).map_err(|error| {
            let remedy = format!("use {} or a class with fewer copies, or add servers to the pool", possible());
            Error::new(Code::Invalid, error.to_string()).remedy(remedy)
        })?;
        match class.redundancy() {
            Redundancy::Replicas { .. } => Ok(()),
            Redundancy::Erasure { .. } => {
                let what = format!("class {class} is erasure-coded, which this release does not write yet");
                Err(Error::new(Code::NotSupported, what).remedy(format!("use copies: {}", possible())))
            }
        }
    }

    /// Who is to be asked, in this order: the first, and those who may know as well.
    ///
    /// # Errors
    /// `Unreachable`: there is nobody at present.
    pub(crate) fn candidates(&self, to: To) -> Result<Candidates> {
        match to {
            To::Leader { pg, width } => {
                self.leader(pg, width).map(Candidates::One).ok_or_else(|| self.all_out(pg, width))
            }
            To::Any { pg, width, lot } => {
                let slots = self.placement.slots(pg, width);
                let leader = self.placement.leader_among(&slots).ok_or_else(|| self.all_out(pg, width))?;
                let serving: Vec<u32> = slots.iter().filter_map(|slot| slot.serving).collect();
                let first = serving[(lot.wrapping_add(pg.into()) % serving.len() as u64) as usize];
                let mut order = vec![first, leader];
                order.extend(serving);
                Ok(Candidates::Some(order))
            }
            To::Target { position } => match self.serves(position) {
                true => Ok(Candidates::One(position)),
                false => Err(self.down(position)),
            },
        }
    }

    fn leader(&self, pg: u32, width: usize) -> Option<u32> {
        self.leaders.get(GroupNumber::new(pg, width), || self.placement.leader(pg, width))
    }

    /// A target's link.
    ///
    /// # Errors
    /// `Unreachable`: nobody knows where its server answers.
    pub(crate) fn link(&self, links: &Links, position: u32) -> Result<Arc<Link>> {
        let Some(slot) = self.links.get(position as usize) else { return Err(self.down(position)) };
        if let Some(link) = slot.get() {
            return Ok(link.clone());
        }
        let target = &self.map().targets()[position as usize];
        let address = self.addresses.get(target.server as usize).and_then(Option::as_ref);
        let address = address.ok_or_else(|| {
            Error::new(Code::Unreachable, format!("nobody knows where server {} answers", target.rank))
                .remedy("see `dmg system query`, and start the server again")
        })?;
        Ok(slot.get_or_init(|| links.target(address, target.index.0)).clone())
    }

    /// The target has data of its own, and answers.
    pub(crate) fn serves(&self, position: u32) -> bool {
        self.map().targets().get(position as usize).is_some_and(|target| target.state().serves())
    }

    /// The targets to ask when everything is to be found that is stored with `copies`: those that serve; and, where
    /// more servers have failed than copies make up for, the failed ones, which are then waited for.
    pub(crate) fn witnesses(&self, copies: usize) -> Vec<u32> {
        (0..self.map().targets().len() as u32).filter(|position| self.is_witness(*position, copies)).collect()
    }

    pub(crate) fn is_witness(&self, position: u32, copies: usize) -> bool {
        let state = self.map().targets().get(position as usize).map(placement::Target::state);
        let is_needed = copies == 1 || self.failed_servers >= copies;
        state.is_some_and(|state| state.serves() || (has_failed(state, copies) && is_needed))
    }

    /// Servers with failed targets that are no witnesses: of what is stored with fewer copies, they may have the only one.
    pub(crate) fn unheard(&self, copies: usize) -> BTreeSet<Rank> {
        let positions = 0..self.map().targets().len() as u32;
        let is_unheard = |position: &u32| {
            has_failed(self.map().targets()[*position as usize].state(), 1) && !self.is_witness(*position, copies)
        };
        positions.filter(is_unheard).map(|position| self.name(position).0).collect()
    }

    /// The target that leads a group. For telling apart what several hold.
    pub(crate) fn leads(&self, position: u32, pg: u32, width: usize) -> bool {
        self.leader(pg, width) == Some(position)
    }

    /// Whether requests for a placement group stay in this process.
    pub(crate) fn is_local(&self, pg: u32, width: usize) -> bool {
        let leader = self.leader(pg, width);
        let server = leader.map(|position| self.map().targets()[position as usize].server as usize);
        let address = server.and_then(|server| self.addresses.get(server)).and_then(Option::as_ref);
        matches!(address, Some(Address::Mem(_)))
    }

    /// Who has what of a placement group: slot, target and its part in it.
    pub(crate) fn shards(&self, pg: u32, width: usize) -> Vec<(usize, u32, ShardState)> {
        let slots = self.placement.slots(pg, width);
        let leader = self.placement.leader_among(&slots);
        let of = |(at, slot): (usize, &placement::Slot)| {
            let serving = slot.serving.map(|target| match Some(target) == leader {
                true => (at, target, ShardState::Leading),
                false => (at, target, ShardState::Serving),
            });
            let lost = slot.lost.map(|target| (at, target, ShardState::Lost));
            let filling = |target: Option<u32>| target.map(|target| (at, target, ShardState::Filling));
            [serving, lost, filling(slot.substitute), filling(slot.joining)].into_iter().flatten()
        };
        slots.iter().enumerate().flat_map(of).collect()
    }

    fn down(&self, position: u32) -> Error {
        let (rank, index) = match self.map().targets().get(position as usize) {
            Some(target) => (target.rank, target.index),
            None => return Error::new(Code::Again, "the pool has changed while its targets were walked over"),
        };
        Error::new(Code::Unreachable, format!("target {index} of server {rank} is down"))
            .remedy("see `dmg system query`, and start the server again")
    }

    /// Why an answer of a target is not waited for any longer.
    pub(crate) fn excluded(&self, position: u32) -> Error {
        let (rank, index) = self.name(position);
        Error::new(Code::Unreachable, format!("target {index} of server {rank} was excluded before it answered"))
            .remedy("see `dmg system query`, and start the server again")
    }

    fn all_out(&self, pg: u32, width: usize) -> Error {
        let mut ranks: Vec<Rank> = self.placement.awaited(pg, width).map(|position| self.name(position).0).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let named: Vec<String> = ranks.iter().map(Rank::to_string).collect();
        let (copies, ranks) = match width {
            1 => ("the only copy", "rank"),
            _ => ("every copy", "ranks"),
        };
        let what = format!("{copies} of placement group {pg} is out: {ranks} {}", named.join(", "));
        Error::new(Code::Unreachable, what)
            .remedy("bring one of them back (`dmg system query` shows them), or restore the data from elsewhere")
    }
}

/// What is stored with `copies` may be there, and nowhere else.
fn has_failed(state: TargetState, copies: usize) -> bool {
    match state {
        TargetState::Down | TargetState::Up(CameFrom::Down) => true,
        // What had copies is elsewhere by now.
        TargetState::Away | TargetState::Up(CameFrom::Away) => copies == 1,
        _ => false,
    }
}

/// Leaders that were asked for lately: working one out takes several allocations, and most requests go to few groups.
struct Leaders {
    /// Group number above, position below; [`Leaders::NONE`] is no group's.
    slots: Box<[AtomicU64; Leaders::COUNT]>,
}

impl Leaders {
    const COUNT: usize = 1024;
    const NONE: u64 = u64::MAX;

    fn get(&self, group: GroupNumber, find: impl FnOnce() -> Option<u32>) -> Option<u32> {
        let number = u64::from(group.as_u32());
        // Groups of an object have numbers near each other, and those of a width the same last byte.
        let slot = &self.slots[(group.pg() as usize ^ (group.width() << 7)) % Leaders::COUNT];
        let known = slot.load(Ordering::Relaxed);
        if known >> 32 == number && known != Leaders::NONE {
            return Some(known as u32);
        }
        let found = find()?;
        slot.store(number << 32 | u64::from(found), Ordering::Relaxed);
        Some(found)
    }
}

impl Default for Leaders {
    fn default() -> Leaders {
        Leaders { slots: Box::new(std::array::from_fn(|_| AtomicU64::new(Leaders::NONE))) }
    }
}

/// Who may answer a request.
pub(crate) enum Candidates {
    One(u32),
    /// In this order, some perhaps twice.
    Some(Vec<u32>),
}

impl Candidates {
    /// The `turn`-th of them that is another one.
    pub(crate) fn get(&self, turn: usize) -> Option<u32> {
        match self {
            Candidates::One(only) => (turn == 0).then_some(*only),
            Candidates::Some(order) => {
                let fresh = |at: &usize| !order[..*at].contains(&order[*at]);
                (0..order.len()).filter(fresh).nth(turn).map(|at| order[at])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use placement::{Change, Event, FaultPath, Server};

    use super::*;

    fn view(map: &PoolMap) -> View {
        let texts = map.servers().iter().map(|server| format!("mem://server{}", server.rank)).collect();
        View::new(map.clone(), texts)
    }

    #[test]
    fn leaders_that_are_remembered_are_those_of_the_layout() {
        let server = |rank| Server { rank: Rank(rank), path: FaultPath::of_rank(Rank(rank)), targets: 8, weight: 1 };
        let mut map = PoolMap::create((0..8).map(server).collect()).unwrap();
        map.apply(&Change::Happen(map.positions_of(Rank(3)).map(|p| (p, Event::Exclude)).collect())).unwrap();
        let (view, layout) = (view(&map), Placement::new(map));
        assert!(layout.pg_count() as usize > Leaders::COUNT, "groups get in each other's way");
        for _ in 0..2 {
            for pg in 0..layout.pg_count() {
                for width in [1, 2, 3] {
                    let found = view.candidates(To::Leader { pg, width }).ok().and_then(|found| found.get(0));
                    assert_eq!(found, layout.leader(pg, width), "{pg}/{width}");
                }
            }
        }
    }

    #[test]
    fn each_who_may_know_is_asked_once_and_the_leader_second() {
        let some = Candidates::Some(vec![7, 3, 3, 7, 5]);
        assert_eq!((0..4).map(|turn| some.get(turn)).collect::<Vec<_>>(), [Some(7), Some(3), Some(5), None]);
        let one = Candidates::One(4);
        assert_eq!((one.get(0), one.get(1)), (Some(4), None));
    }
}

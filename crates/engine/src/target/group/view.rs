//! A pool's map as one target sees it: where its groups are, and how to get there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use net::Address;
use placement::{GroupNumber, Layout, PoolMap, TargetState};
use types::{Code, Error, Rank, TargetIndex};
use wire::peer::Placing;

use crate::replication::{Peer, Seat};

/// Reigns remembered for one version of a map; beyond, they are worked out again.
const REIGNS_MAX: usize = 16 << 10;

/// What targets get of what they are to have and have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heal {
    /// All of it.
    All,
    /// Not for what failed, unless something else is under way, too: the pool is to bear that as it is.
    Wanted,
    /// Nothing: an administrator stopped it.
    Nothing,
}

impl Heal {
    /// Targets work at what is under way by this map, or at what it left behind.
    pub fn goes_on(self, map: &PoolMap) -> bool {
        let mut under_way =
            map.targets().iter().map(|target| target.state()).filter(|state| state.in_change()).peekable();
        match self {
            Heal::All => true,
            Heal::Wanted => under_way.peek().is_none() || under_way.any(|state| state != TargetState::Down),
            Heal::Nothing => under_way.peek().is_none(),
        }
    }
}

/// What a target needs to know of its pool: told by the service, newer ones in place of older ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    pub map: PoolMap,
    /// Widths of groups that may be written. In one state with the map: who goes by an older map knows none that came later.
    pub widths: BTreeSet<u32>,
    pub heal: Heal,
    /// The share of its time that a target may spend on getting what it is to have while requests come, in percent from 1 to 100.
    pub budget: u32,
    /// Where the pool's servers listen.
    pub addresses: BTreeMap<Rank, Address>,
    /// The server that the target is part of.
    pub rank: Rank,
}

/// Who leads a group, and who is a member.
#[derive(Debug)]
pub(super) struct Reign {
    pub(super) since: u32,
    pub(super) leader: Option<Peer>,
    pub(super) seats: Vec<Seat>,
    /// Members that have all data.
    pub(super) whole: Vec<Peer>,
}

impl Reign {
    pub(super) fn has(&self, peer: Peer) -> bool {
        self.member_since(peer).is_some()
    }

    /// The version since which a target has been a member without a break; zero: as long as the map can tell.
    pub(super) fn member_since(&self, peer: Peer) -> Option<u32> {
        self.seats.iter().find(|seat| seat.peer == peer).map(|seat| seat.since)
    }
}

/// A pool's map, made ready.
pub(super) struct View {
    layout: Layout,
    pub(super) widths: BTreeSet<u32>,
    heal: Heal,
    pub(super) budget: u32,
    addresses: BTreeMap<Rank, Address>,
    pub(super) me: Peer,
    reigns: RefCell<BTreeMap<u32, Rc<Reign>>>,
}

impl View {
    pub(super) fn new(view: PoolView, target: TargetIndex) -> View {
        let me = Peer { rank: view.rank, target };
        View {
            layout: Layout::new(view.map),
            widths: view.widths,
            heal: view.heal,
            budget: view.budget,
            addresses: view.addresses,
            me,
            reigns: RefCell::default(),
        }
    }

    /// What other servers compare with theirs.
    ///
    /// Cost: a walk over the targets of the map.
    pub(super) fn placing(&self) -> Placing {
        Placing { version: self.version(), digest: self.layout.digest() }
    }

    pub(super) fn version(&self) -> u32 {
        self.layout.version()
    }

    /// The pool has targets beside this one.
    pub(super) fn has_others(&self) -> bool {
        self.layout.map().targets().len() > 1
    }

    /// Nothing is on its way from anybody to anybody.
    pub(super) fn is_settled(&self) -> bool {
        !self.layout.map().targets().iter().any(|target| target.state().in_change())
    }

    /// This target failed, and what only it had waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        let mut own = self.layout.map().targets().iter().filter(|target| self.is_me(target.rank, target.index));
        own.any(|target| target.state() == TargetState::Away)
    }

    fn is_me(&self, rank: Rank, target: TargetIndex) -> bool {
        Peer { rank, target } == self.me
    }

    /// There is something to be done about what is under way, or about what it left behind.
    pub(super) fn goes_on(&self) -> bool {
        self.heal.goes_on(self.layout.map())
    }

    /// Other targets that are in service.
    pub(super) fn others(&self) -> Vec<Peer> {
        let targets = self.layout.map().targets().iter().filter(|target| target.state().serves());
        let peers = targets.map(|target| Peer { rank: target.rank, target: target.index });
        peers.filter(|peer| *peer != self.me).collect()
    }

    pub(super) fn address(&self, peer: Peer) -> Option<&Address> {
        self.addresses.get(&peer.rank)
    }

    /// The reign over a group by this version.
    ///
    /// # Errors
    /// `Invalid`: the pool has no such group.
    pub(super) fn reign(&self, number: u32) -> Result<Rc<Reign>, Error> {
        if let Some(reign) = self.reigns.borrow().get(&number) {
            return Ok(reign.clone());
        }
        let known = GroupNumber::from_u32(number).filter(|group| group.pg() < self.layout.pg_count());
        let Some(group) = known else {
            let text = format!("the pool has no placement group {number:#x}");
            return Err(Error::new(Code::Invalid, text).remedy("refresh the pool map"));
        };
        let found = self.layout.reign(group.pg(), group.width());
        let peer = |position: u32| {
            let target = &self.layout.map().targets()[position as usize];
            Peer { rank: target.rank, target: target.index }
        };
        let seat = |member: &placement::Membership| Seat { peer: peer(member.position), since: member.since };
        let whole = found.members.iter().filter(|member| member.is_whole);
        let reign = Rc::new(Reign {
            since: found.since,
            leader: found.leader.map(peer),
            seats: found.members.iter().map(seat).collect(),
            whole: whole.map(|member| peer(member.position)).collect(),
        });
        let mut reigns = self.reigns.borrow_mut();
        if reigns.len() >= REIGNS_MAX {
            reigns.clear();
        }
        reigns.insert(number, reign.clone());
        Ok(reign)
    }
}

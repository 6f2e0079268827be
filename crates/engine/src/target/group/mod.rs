//! Placement groups on a target: the driver of [`crate::replication`].
//!
//! # Shape
//! - [`view`]: the pool's map: who leads a group, who is a member, where they are.
//! - [`Group`]: one group here: its member, its lease, and its leader while this target leads.
//! - [`lead`]: does what the leader's machine wants done: asks, sends, tells, answers.
//! - [`write`], [`read`]: requests of clients. [`follow`]: what leaders want of this target.
//! - [`fill`]: gets what members that came are to have; [`progress`]: how far that is.
//! - [`peers`]: links to other targets; [`message`]: the bytes.
//!
//! A group comes to be when it is first asked for, or when the map comes and the store knows it. Groups of width one
//! have a leader and nobody else: they are not here, requests go the straight way.
//!
//! # Always true
//! 1. A step of a machine, and what it does to the store, is one call without a wait. Whoever hears of it waits until
//!    it is on the device.
//! 2. A map is never replaced by an older one.
//! 3. Whoever waits for a member, a map or a lease has a deadline, but for a request whose change is under way: it is
//!    answered when that is decided, or when somebody else leads (K5: run again, it would be a second change).
//!
//! # Not here
//! How a group's data is copied (`rebuild`). Who decides maps (`service`).

mod fill;
mod follow;
mod lead;
mod message;
mod peers;
mod progress;
mod read;
mod view;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use rt::{Hlc, Instant};
use tokio::sync::Notify;
use types::{Code, ContainerId, Epoch, Error, PoolId};
use wire::data::Place;
use wire::peer::Placing;

pub(super) use self::lead::Kind;
use self::lead::Lead;
use self::peers::Peers;
pub use self::view::{Heal, PoolView};
use self::view::{Reign, View};
pub(super) use self::write::Wanted;
use super::ledger::{GroupLedger, restore};
use super::{Target, is_pressure};
use crate::replication::{Grants, Member, Peer, Term};

/// How long a request waits for a map that its sender has already, and a member for one that its leader has.
const MAP_PATIENCE: Duration = Duration::from_secs(2);
/// How long who asks for a list of groups waits for those that do not serve yet: less than it waits for the answer.
const SERVING_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries of what another target did not do.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// How often a member with undecided changes reminds a leader that has not asked it.
const WAKE_EVERY: Duration = Duration::from_secs(1);

/// Containers of pools that left a target that it remembers: those of sixteen pools that have as many as can be.
const ELSEWHERE_MAX: usize = 64 << 10;

/// All groups of a target.
pub(super) struct Groups {
    views: RefCell<BTreeMap<PoolId, Rc<View>>>,
    /// Pools in which nobody else has a part, as the service said since the start.
    alone: RefCell<BTreeSet<PoolId>>,
    /// Containers that this target had, and that others have.
    elsewhere: RefCell<BTreeSet<ContainerId>>,
    /// All pools here are such.
    all_alone: Cell<bool>,
    /// Grows with the groups that its pools' maps place here.
    groups: RefCell<BTreeMap<(PoolId, u32), Rc<Group>>>,
    /// Told when a map is replaced.
    mapped: Notify,
    peers: Peers,
    /// Grows with the pools.
    fills: RefCell<BTreeMap<PoolId, Rc<fill::Fill>>>,
    /// An earlier life of the target may have granted leases until then.
    opened: Instant,
    /// For what leaders here ask their members.
    lease: Duration,
}

/// One group.
pub(super) struct Group {
    pool: PoolId,
    /// As requests and the store name it.
    number: u32,
    member: RefCell<Member>,
    grants: RefCell<Grants>,
    /// While this target leads it.
    lead: RefCell<Option<Lead>>,
    /// What the leader said: up to here everything is decided, and done here.
    closed: Cell<Epoch>,
    /// Counts requests, to name them.
    requests: Cell<u64>,
    /// Interval and round that others know, and this target's store does not.
    interval: Cell<u32>,
    round: Cell<u32>,
    /// The newest term of which this target knows, from leading, that its leader served.
    served: Cell<Term>,
    /// Told when anything moved that somebody may wait for.
    moved: Notify,
}

/// Lends the operation of a request in the form that stores take.
pub(super) type Lend<'a> = dyn Fn(&mut dyn FnMut(&vos::Op<'_>)) + 'a;

/// Where a request about an object goes on.
pub(super) enum Door {
    /// Straight to the store: there is one copy.
    Single,
    Lead(Rc<Group>),
    /// This target follows; if it has all data, it may answer for what is long decided.
    Follow {
        group: Rc<Group>,
        is_whole: bool,
    },
}

impl Groups {
    pub(super) fn new(clock: Hlc, lease: Duration) -> Groups {
        Groups {
            views: RefCell::default(),
            alone: RefCell::default(),
            elsewhere: RefCell::default(),
            all_alone: Cell::new(false),
            groups: RefCell::default(),
            mapped: Notify::new(),
            peers: Peers::new(clock),
            fills: RefCell::default(),
            opened: rt::now(),
            lease,
        }
    }

    fn view(&self, pool: PoolId) -> Option<Rc<View>> {
        self.views.borrow().get(&pool).cloned()
    }

    /// A pool leaves this target, and goes on elsewhere. Not durable: who asks for a container of it after this process has
    /// ended hears that there is none.
    pub(super) fn moved_out(&self, containers: &[ContainerId]) {
        let mut elsewhere = self.elsewhere.borrow_mut();
        if elsewhere.len() + containers.len() > ELSEWHERE_MAX {
            elsewhere.clear();
        }
        elsewhere.extend(containers);
    }

    pub(super) fn moved_in(&self, container: ContainerId) {
        self.elsewhere.borrow_mut().remove(&container);
    }

    pub(super) fn is_elsewhere(&self, container: ContainerId) -> bool {
        self.elsewhere.borrow().contains(&container)
    }

    /// When all leaders here next do what each does `every` so often: at the same moment.
    fn next_turn(&self, every: Duration) -> Instant {
        let (now, every) = (rt::now(), every.as_nanos());
        let since = (now - self.opened).as_nanos();
        now + Duration::from_nanos((every - since % every) as u64)
    }

    /// The share of its time that this target may spend on getting data of a pool while requests come, in percent.
    pub(super) fn budget(&self, pool: PoolId) -> Option<u32> {
        self.view(pool).map(|view| view.budget)
    }

    /// Others may hold copies of the pool's data.
    pub(super) fn is_mapped(&self, pool: PoolId) -> bool {
        self.views.borrow().get(&pool).is_some_and(|view| view.has_others())
    }

    /// What the service says of a pool, of all that the target has.
    pub(super) fn set_alone(&self, pool: PoolId, is_alone: bool, pools: &[PoolId]) {
        let mut alone = self.alone.borrow_mut();
        match is_alone {
            true => alone.insert(pool),
            false => alone.remove(&pool),
        };
        self.all_alone.set(pools.iter().all(|pool| alone.contains(pool)));
        self.mapped.notify_waiters();
    }

    /// The pool is gone; `left`: those that the target still has.
    pub(super) fn forget(&self, pool: PoolId, left: &[PoolId]) {
        self.views.borrow_mut().remove(&pool);
        {
            let mut alone = self.alone.borrow_mut();
            alone.remove(&pool);
            self.all_alone.set(left.iter().all(|pool| alone.contains(pool)));
        }
        self.fills.borrow_mut().remove(&pool);
        self.mapped.notify_waiters();
        let mut groups = self.groups.borrow_mut();
        for group in groups.values().filter(|group| group.pool == pool) {
            group.abdicate();
        }
        groups.retain(|(of, _), _| *of != pool);
    }
}

impl Target {
    /// Takes a pool's map, and does what follows from it: begins to lead, ceases to, leaves.
    pub(super) fn set_map(self: &Rc<Self>, pool: PoolId, view: PoolView) -> Result<Placing, Error> {
        let before = self.groups.view(pool);
        if let Some(before) = before.as_ref().filter(|before| view.map.version() < before.version()) {
            return Ok(before.placing());
        }
        let known = self.store.borrow().groups(pool);
        let stored = known.map_err(|e| self.refusal(types::ContainerId::from_bytes([0; 16]), e))?;
        let view = Rc::new(View::new(view, self.index));
        if let Some(before) = before {
            let stays = view.others();
            let gone = before.others().into_iter().filter(|peer| !stays.contains(peer));
            gone.for_each(|peer| self.groups.peers.part_from(&before, peer));
        }
        self.groups.views.borrow_mut().insert(pool, view.clone());
        self.groups.mapped.notify_waiters();
        let here: Vec<u32> = {
            let groups = self.groups.groups.borrow();
            groups.range((pool, 0)..=(pool, u32::MAX)).map(|((_, number), _)| *number).collect()
        };
        let mut numbers = stored;
        numbers.extend(here);
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            if let Err(error) = self.look_at(&view, pool, number) {
                tracing::error!(target_index = %self.index, %pool, group = number, %error, "a group is not served");
            }
        }
        self.begin_to_fill(pool);
        Ok(view.placing())
    }

    /// Waits until this target knows a map.
    ///
    /// # Errors
    /// `Again`: it has not come.
    pub(super) async fn knows_map(&self, pool: PoolId, version: u32, deadline: Instant) -> Result<(), Error> {
        self.view_of(pool, version, deadline).await.map(drop)
    }

    /// Groups of a pool that this target leads and does not serve, by a map at least as new as `version`: in all others
    /// that it leads, what earlier reigns left behind is decided. Those that are about to serve get a moment for it, all
    /// together.
    ///
    /// # Errors
    /// `Again`: no map so new has come.
    pub(super) async fn unserved(
        self: &Rc<Self>,
        pool: PoolId,
        version: u32,
        deadline: Instant,
    ) -> Result<BTreeSet<u32>, Error> {
        self.view_of(pool, version, deadline).await?;
        let until = deadline.min(rt::now() + SERVING_PATIENCE);
        let led: Vec<Rc<Group>> = {
            let groups = self.groups.groups.borrow();
            let of_pool = groups.range((pool, 0)..=(pool, u32::MAX)).map(|(_, group)| group);
            of_pool.filter(|group| group.lead.borrow().is_some()).cloned().collect()
        };
        let mut unserved = BTreeSet::new();
        for group in led {
            if let Err(error) = self.serving(&group, until).await {
                tracing::debug!(target_index = %self.index, %pool, group = group.number, %error, "a group is not served");
                unserved.insert(group.number);
            }
        }
        Ok(unserved)
    }

    /// Waits until this target leads a group and serves it, no change with an epoch up to `upto` is under way or will be, and
    /// it has done itself what it had decided before. A member may be ahead of its leader's own: what it has committed, and
    /// is not here, would be taken from it.
    ///
    /// # Errors
    /// `Stale`: it does not lead it; `Again`.
    pub(super) async fn leads(self: &Rc<Self>, place: &Place, upto: Epoch, deadline: Instant) -> Result<(), Error> {
        let door = self.door(place, deadline).await?;
        self.reached(upto, deadline).await?;
        let group = match door {
            Door::Single => return self.still_single(place),
            Door::Lead(group) => group,
            Door::Follow { .. } => return Err(self.not_leader(place)),
        };
        self.serving(&group, deadline).await?;
        while group.lead.borrow().as_ref().is_some_and(|lead| !lead.is_closed(upto)) {
            group.moves(deadline, "a change that is to be copied has yet to be decided").await?;
        }
        while group.lead.borrow().as_ref().is_some_and(Lead::is_behind) {
            group.moves(deadline, "its leader has yet to do what it decided").await?;
        }
        self.serving(&group, deadline).await
    }

    /// What the map makes of a group that this target knows.
    fn look_at(self: &Rc<Self>, view: &Rc<View>, pool: PoolId, number: u32) -> Result<(), Error> {
        let reign = view.reign(number)?;
        let group = self.group(pool, number)?;
        if reign.leader == Some(view.me) {
            self.lead(&group, view, &reign);
            return Ok(());
        }
        group.abdicate();
        if has_lost(&reign, view.me) {
            drop(rt::spawn_local(self.clone().leave(group)));
        } else if !group.member.borrow().report().prepared.is_empty() {
            drop(rt::spawn_local(self.clone().wake_leader(group, view.version())));
        }
        Ok(())
    }

    /// The group of that number here, as the store has it when nobody asked before.
    fn group(&self, pool: PoolId, number: u32) -> Result<Rc<Group>, Error> {
        if let Some(group) = self.groups.groups.borrow().get(&(pool, number)) {
            return Ok(group.clone());
        }
        let restored = restore(&self.store.borrow(), pool, number);
        let member = restored.map_err(|e| self.refusal(types::ContainerId::from_bytes([0; 16]), e))?;
        // Who left a group knows nothing of it, and may have followed anybody before.
        let followed = if member.term() == Term::default() { Grants::ANY } else { member.term() };
        let group = Rc::new(Group {
            pool,
            number,
            member: RefCell::new(member),
            grants: RefCell::new(Grants::begin(self.groups.opened, followed)),
            served: Cell::default(),
            lead: RefCell::default(),
            closed: Cell::new(Epoch::ZERO),
            requests: Cell::new(0),
            interval: Cell::new(0),
            round: Cell::new(0),
            moved: Notify::new(),
        });
        self.groups.groups.borrow_mut().insert((pool, number), group.clone());
        Ok(group)
    }

    /// Forgets a group that has no seat for this target, unless a newer map says otherwise meanwhile: when the leases that it
    /// granted there are over, of which it knows nothing any more then.
    async fn leave(self: Rc<Self>, group: Rc<Group>) {
        loop {
            let until = group.grants.borrow().over();
            rt::sleep(until - rt::now()).await;
            let is_lost = match self.groups.view(group.pool) {
                Some(view) => view.reign(group.number).is_ok_and(|reign| has_lost(&reign, view.me)),
                None => false,
            };
            if !is_lost {
                return;
            }
            let left = group.step(&self, |member, ledger| member.leave(ledger));
            match left {
                Ok(_) => {
                    self.groups.groups.borrow_mut().remove(&(group.pool, group.number));
                    return;
                }
                Err(error) if is_pressure(&error) => rt::sleep(RETRY_MAX).await,
                Err(error) => {
                    tracing::warn!(target_index = %self.index, group = group.number, %error, "a group is not forgotten");
                    return;
                }
            }
        }
    }

    /// The map that whoever sent this goes by, or a newer one.
    ///
    /// # Errors
    /// `Again`: it has not come.
    async fn view_of(&self, pool: PoolId, version: u32, deadline: Instant) -> Result<Rc<View>, Error> {
        match self.groups.view(pool).filter(|view| view.version() >= version) {
            Some(view) => Ok(view),
            None => Box::pin(self.await_view(pool, version, deadline)).await,
        }
    }

    async fn await_view(&self, pool: PoolId, version: u32, deadline: Instant) -> Result<Rc<View>, Error> {
        let until = deadline.min(rt::now() + MAP_PATIENCE);
        loop {
            let mapped = self.groups.mapped.notified();
            let known = match self.groups.view(pool) {
                Some(view) if view.version() >= version => return Ok(view),
                Some(view) => format!("pool map {}", view.version()),
                None => "no pool map yet".to_string(),
            };
            if rt::timeout(until - rt::now(), mapped).await.is_err() {
                let text =
                    format!("target {} has {known}, and waits for map {version} that the request names", self.index);
                return Err(Error::new(Code::Again, text).remedy("try again in a moment"));
            }
        }
    }

    /// As [`Target::view_of`]; `None`: nobody else has a part in the pool, and there is no map.
    async fn view_unless_alone(
        &self,
        pool: PoolId,
        version: u32,
        deadline: Instant,
    ) -> Result<Option<Rc<View>>, Error> {
        let until = deadline.min(rt::now() + MAP_PATIENCE);
        // Whoever knows another map than the first knows that there are others by now.
        while version > 1 || !self.groups.alone.borrow().contains(&pool) {
            let mapped = self.groups.mapped.notified();
            if self.groups.view(pool).is_some() || Box::pin(rt::timeout(until - rt::now(), mapped)).await.is_err() {
                return self.view_of(pool, version, deadline).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Where a request about an object goes on.
    ///
    /// # Errors
    /// `Stale`: who holds the group changed since the sender's map, or this target is not it. `Again`; `Invalid`;
    /// `NotFound`.
    pub(super) async fn door(self: &Rc<Self>, place: &Place, deadline: Instant) -> Result<Door, Error> {
        if self.groups.all_alone.get() {
            return Ok(Door::Single);
        }
        let pool = self.store.borrow().pool_of(place.container).map_err(|e| self.refusal(place.container, e))?;
        // A target that has just started, and was told nothing yet, does not know who has what: it must not take for its own
        // what others may have by now.
        let Some(view) = self.view_unless_alone(pool, place.map_version, deadline).await? else {
            return Ok(Door::Single);
        };
        let reign = view.reign(place.group)?;
        if place.map_version < reign.since || !reign.has(view.me) {
            return Err(stale(&view, place.map_version));
        }
        let is_leader = reign.leader == Some(view.me);
        if reign.seats.len() == 1 && placement::GroupNumber::from_u32(place.group).is_some_and(|g| g.width() == 1) {
            return if is_leader { Ok(Door::Single) } else { Err(stale(&view, place.map_version)) };
        }
        let group = self.group(pool, place.group)?;
        if !is_leader {
            return Ok(Door::Follow { group, is_whole: reign.whole.contains(&view.me) });
        }
        self.lead(&group, &view, &reign);
        Ok(Door::Lead(group))
    }
}

impl Target {
    /// A request that went straight on may still do so: the group has one holder, which is this target.
    ///
    /// # Errors
    /// `Again`: the map came while the request waited for something.
    pub(super) fn still_single(&self, place: &Place) -> Result<(), Error> {
        if self.groups.all_alone.get() {
            return Ok(());
        }
        let pool = self.store.borrow().pool_of(place.container).map_err(|e| self.refusal(place.container, e))?;
        if self.groups.alone.borrow().contains(&pool) {
            return Ok(());
        }
        let Some(view) = self.groups.view(pool) else { return Err(lead::undone()) };
        let reign = view.reign(place.group)?;
        match reign.leader == Some(view.me) && reign.seats.len() == 1 {
            true => Ok(()),
            false => Err(lead::undone()),
        }
    }

    /// The refusal of a request that only a leader may do.
    pub(super) fn not_leader(&self, place: &Place) -> Error {
        let pool = self.store.borrow().pool_of(place.container);
        match pool.ok().and_then(|pool| self.groups.view(pool)) {
            Some(view) => stale(&view, place.map_version),
            None => lead::undone(),
        }
    }
}

/// A target has no seat in a group, and somebody else decides there. While nobody does, whatever it remembers may be all that
/// there is of what was acknowledged.
fn has_lost(reign: &Reign, me: Peer) -> bool {
    reign.leader.is_some() && !reign.has(me)
}

/// The refusal of a request that was sent by an old map, or to the wrong target.
fn stale(view: &View, known: u32) -> Error {
    let text = format!(
        "target {} does not lead this placement group: the request goes by pool map {known}, the map is at version {}",
        view.me,
        view.version()
    );
    Error::new(Code::Stale, text).remedy("refresh the pool map")
}

impl Group {
    /// One step of this target's member; the answer may leave when the log is durable up to there.
    fn step<'w, T, E>(
        &self,
        target: &Target,
        step: impl for<'a> FnOnce(&mut Member, &mut GroupLedger<'a, 'w>) -> Result<T, E>,
    ) -> Result<(T, media::Lsn), E> {
        let mut store = target.store.borrow_mut();
        let mut ledger = GroupLedger::new(&mut store, self.pool, self.number);
        let done = step(&mut self.member.borrow_mut(), &mut ledger)?;
        Ok((done, ledger.lsn()))
    }

    /// Another leads, or nobody does: whoever waits for a change here has to ask elsewhere what became of it.
    fn abdicate(&self) {
        let lead = self.lead.borrow_mut().take();
        lead.inspect(|lead| self.note_served(lead));
        self.moved.notify_waiters();
    }

    fn note_served(&self, lead: &Lead) {
        self.served.set(self.served.get().max(lead.served()));
    }

    /// Something with the leader, as long as it is that of `term`.
    fn with_lead<T>(&self, term: Term, f: impl FnOnce(&mut Lead) -> T) -> Option<T> {
        self.lead.borrow_mut().as_mut().filter(|lead| lead.term() == term).map(f)
    }

    /// Waits until something moves, or the deadline.
    ///
    /// # Errors
    /// `Again`.
    async fn moves(&self, deadline: Instant, what: &str) -> Result<(), Error> {
        Box::pin(rt::timeout(deadline - rt::now(), self.moved.notified())).await.map_err(|_| {
            Error::new(Code::Again, format!("placement group {:#x}: {what}", self.number))
                .remedy("try again in a moment")
        })
    }
}

/// Doubles, up to a bound.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(RETRY_MAX)
}

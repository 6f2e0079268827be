//! On every server: making its targets agree with what the states say, as often as it takes.
//!
//! The agent looks at the replica here, compares it with what it told the targets, orders what differs, and reports to the
//! leader how far it got. It asks nobody's leave: orders are idempotent, and the state is what a majority has agreed to.
//! Only what removes data waits until the state here is known to be up to date, for a state that is behind knows less.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use net::Address;
use placement::{PoolMap, TargetState};
use raft::{Group, GroupId, StateMachine};
use rt::disk::fs;
use types::{Code, ContainerId, Epoch, Error, PoolId, Rank, Span};
use wire::control::PoolName;
use wire::encoding::Bytes;
use wire::peer::{self as msg, Filling, Placing};
use wire::{Opcode, Wire};

use super::Service;
use super::pool::{Container, PoolState, Rollback};
use super::route::Call;
use super::slot::{Followed, Followers, Slot, open_group};
use super::system::Phase;
use crate::hold::Held;
use crate::target::order::{Done, Order, PoolShare, PoolView};
use crate::target::parse;

/// How soon what failed, or was not reported, is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long to sleep when there is nothing to do; the replica wakes the agent.
const IDLE: Duration = Duration::from_secs(10);
/// How long a report may take.
const REPORT_MAX: Duration = Duration::from_secs(2);
/// How long a pool's service has to say whether this server has a part in it.
const PART_MAX: Duration = Duration::from_secs(5);
/// How long a replica that is to go may still be in use.
const LET_GO: Duration = Duration::from_secs(5);

/// What this server's targets were told of a pool since the start.
#[derive(Default)]
struct Told {
    share: Option<PoolShare>,
    map: Option<PoolView>,
    placing: Placing,
    containers: BTreeMap<ContainerId, ToldContainer>,
    /// What no state knows was removed.
    is_swept: bool,
}

#[derive(Default)]
struct ToldContainer {
    exists: bool,
    kept: Option<(Vec<Epoch>, Span)>,
    rollback: Option<Rollback>,
    held: Option<Held>,
}

impl Service {
    /// Opens the replicas that lie here and that the state, as far as it is known, wants.
    pub(super) async fn open_pools(self: &Rc<Self>) -> Result<(), Error> {
        for id in self.pool_directories()? {
            let row = self.system.group.local(|system| system.pools.get(&id).map(|row| (row.phase, row.maker)));
            match row {
                Some((Phase::Creating, maker)) => self.open_pool(id, maker == self.rank).await?,
                Some((Phase::Ready, _)) => self.open_pool(id, false).await?,
                // It is removed, or opened, when the state is known to be up to date.
                Some((Phase::Destroying, _)) | None => {}
            }
        }
        Ok(())
    }

    /// Pools of which a replica lies here.
    fn pool_directories(&self) -> Result<BTreeSet<PoolId>, Error> {
        let entries = fs::read_dir(self.config.directory.join("pools"));
        let entries = entries.map_err(|e| Error::new(Code::Io, e.to_string()))?;
        Ok(entries.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// Opens or makes the replica of a pool's service, and starts what works with it.
    async fn open_pool(self: &Rc<Self>, id: PoolId, is_maker: bool) -> Result<(), Error> {
        let directory = self.config.directory.join("pools").join(id.to_string());
        let me = raft::Peer { rank: self.rank, address: raft::Address(self.config.address.clone()) };
        let group = GroupId(id.to_bytes());
        let empty = PoolState::empty(id);
        let config = self.config.detection.replicas();
        let group = open_group(&directory, group, me, empty, &self.peers, is_maker, config).await?;
        group.may_lead(self.clock.is_right());
        let slot = Rc::new(Slot::new(group));
        self.pools.borrow_mut().insert(id, Rc::clone(&slot));
        let mut tasks = slot.tasks.borrow_mut();
        tasks.spawn_local(self.clone().subscribe_to_pool(id, Rc::clone(&slot)));
        tasks.spawn_local(self.clone().follow_pool(id, Rc::clone(&slot)));
        tasks.spawn_local(self.clone().drive_pool(id, Rc::clone(&slot)));
        Ok(())
    }

    /// Every pool of the state as it was at the start, or came later, was made to agree here once.
    pub(super) fn is_settled(&self) -> bool {
        let version = self.system.group.local(|system| system.version);
        let pools = self.pools.borrow();
        self.is_current.get() && self.followed.get() == version && pools.values().all(|slot| slot.is_settled.get())
    }

    /// Follows the system's state: which pools there are.
    pub(super) async fn follow_system(self: Rc<Self>) {
        while !self.is_current.get() {
            rt::sleep(Duration::from_millis(5)).await;
        }
        let mut watch = self.system.group.watch();
        let (mut last, mut sent) = (Followed::default(), None);
        loop {
            self.learn_addresses();
            let version = self.system.group.local(|system| system.version);
            if last.version != version || !last.trouble.is_empty() {
                let mut trouble: Vec<_> =
                    self.serve_or_not().await.err().map(|error| (None, error)).into_iter().collect();
                trouble.extend(self.follow_rows().await);
                for (_, error) in &trouble {
                    tracing::warn!(%error, "the pools here are not as the system wants them");
                }
                last = Followed { version, trouble, ..Followed::default() };
                self.followed.set(version);
                // What the leaders of pools do follows from it, too.
                for slot in self.pools.borrow().values() {
                    slot.reported.notify_waiters();
                }
                sent = None;
            }
            let reign = self.reign(&self.system);
            if sent.is_none() || sent != reign {
                sent = self.report(&self.system, self.system_group(), &last).await.then_some(reign).flatten();
            }
            let pause = if sent.is_none() || !last.trouble.is_empty() { AGAIN } else { IDLE };
            if let Ok(None) = rt::timeout(pause, watch.changed()).await {
                return;
            }
        }
    }

    /// Makes the replicas and pools here those that the system's state names.
    async fn follow_rows(self: &Rc<Self>) -> Vec<(Option<ContainerId>, Error)> {
        let mut trouble = Vec::new();
        let rows: Vec<_> = self.system.group.local(|system| {
            let mine = system.pools.iter().filter(|(_, row)| row.servers.contains(&self.rank));
            mine.map(|(id, row)| (*id, row.phase, row.maker)).collect()
        });
        for &(id, phase, maker) in &rows {
            let known = self.pools.borrow().contains_key(&id);
            let outcome = match phase {
                Phase::Creating if !known => self.open_pool(id, maker == self.rank).await,
                Phase::Ready if !known => self.open_pool(id, false).await,
                Phase::Creating | Phase::Ready => Ok(()),
                Phase::Destroying => self.remove_pool(id, false).await,
            };
            trouble.extend(outcome.err().map(|error| (None, error)));
        }
        let wanted: BTreeSet<PoolId> = rows.iter().map(|(id, ..)| *id).collect();
        let mut strays: BTreeSet<PoolId> = self.pools.borrow().keys().copied().collect();
        match self.pool_directories() {
            Ok(here) => strays.extend(here),
            Err(error) => trouble.push((None, error)),
        }
        for held in self.tell(|done| Order::Holdings { done }).await {
            match held {
                Ok(held) => strays.extend(held.pools.into_iter().map(|(id, _)| id)),
                Err(error) => trouble.push((None, error)),
            }
        }
        for id in strays.difference(&wanted) {
            // Who goes by an older map may still ask for it here.
            let is_elsewhere = self.system.group.local(|system| system.pools.contains_key(id));
            if is_elsewhere {
                match self.has_part(*id).await {
                    Ok(false) => {}
                    Ok(true) => continue,
                    Err(error) => {
                        trouble.push((None, error));
                        continue;
                    }
                }
            }
            tracing::warn!(pool = %id, is_elsewhere, "removing a pool that the system does not have here");
            trouble.extend(self.remove_pool(*id, is_elsewhere).await.err().map(|error| (None, error)));
        }
        trouble
    }

    /// Whether this server has a part in a pool whose row does not name it: that it left may have been said long ago, and late to
    /// arrive, and it may have come back since. The pool's service knows; its leader has the row name the server again.
    async fn has_part(self: &Rc<Self>, id: PoolId) -> Result<bool, Error> {
        let asked = PoolName { pool: id.to_string() }.to_bytes();
        let answer = self.route(Call::own(Opcode::PoolConnect, asked, rt::now() + PART_MAX)).await?;
        let map = object::map::from_message(&parse(&answer)?)?.map;
        let is_in = map.positions_of(self.rank).any(|p| map.targets()[p as usize].state() != TargetState::DownOut);
        // That it is wanted back is not in the map.
        let slot = self.pools.borrow().get(&id).cloned();
        let is_wanted = slot.is_some_and(|slot| {
            slot.group.local(|pool| {
                pool.map().is_some_and(|known| known.version() >= map.version()) && pool.has_part(self.rank)
            })
        });
        Ok(is_in || is_wanted)
    }

    /// Removes a pool from the targets here, and its replica. `is_elsewhere`: others have it.
    async fn remove_pool(&self, id: PoolId, is_elsewhere: bool) -> Result<(), Error> {
        self.widths.forget(id);
        // The agent first: it would make the pool anew.
        let slot = self.pools.borrow_mut().remove(&id);
        if let Some(slot) = slot {
            slot.tasks.borrow_mut().abort_all();
            slot.ending.send_replace(true);
            let mut slot = slot;
            let until = rt::now() + LET_GO;
            loop {
                match Rc::try_unwrap(slot) {
                    Ok(slot) => break slot.shutdown().await,
                    Err(shared) if rt::now() < until => slot = shared,
                    Err(_) => break tracing::warn!(pool = %id, "its replica is still in use"),
                }
                rt::sleep(Duration::from_millis(1)).await;
            }
        }
        for outcome in self.tell(|done| Order::DestroyPool { id, is_elsewhere, done }).await {
            outcome?;
        }
        let directory = self.config.directory.join("pools").join(id.to_string());
        Group::<PoolState>::erase(&directory).map_err(|e| Error::new(Code::Io, e.to_string()))
    }

    /// Follows a pool's state: its share of the targets, and its containers.
    pub(super) async fn follow_pool(self: Rc<Self>, id: PoolId, slot: Rc<Slot<PoolState>>) {
        self.catch_up(&slot, GroupId(id.to_bytes())).await;
        let mut watch = slot.group.watch();
        let (mut told, mut last, mut sent) = (Told::default(), Followed::default(), None);
        loop {
            let version = slot.group.local(|pool| pool.version);
            if last.version != version || !last.trouble.is_empty() || self.has_moved(&slot, &told) {
                let trouble = self.follow_containers(id, &slot, &mut told).await;
                for (container, error) in &trouble {
                    tracing::warn!(pool = %id, ?container, %error, "the targets do not agree with the pool's state");
                }
                last = Followed { version, trouble, placing: told.placing, ..last };
                slot.is_settled.set(last.trouble.is_empty());
                sent = None;
            } else if version == 0 {
                // Nobody made it yet.
                slot.is_settled.set(true);
            }
            let (filling, is_filling) = self.filling(id, &slot).await;
            if last.filling != filling {
                last.filling = filling;
                sent = None;
            }
            let wanted = self.widths.changed();
            let widths = slot.group.local(|pool| self.widths.of(id, |width| pool.widths.contains_key(&width)));
            if last.widths != widths {
                last.widths = widths;
                sent = None;
            }
            let reign = self.reign(&slot);
            if sent.is_none() || sent != reign {
                sent = self.report(&slot, GroupId(id.to_bytes()), &last).await.then_some(reign).flatten();
            }
            let pause = if sent.is_none() || !last.trouble.is_empty() || is_filling { AGAIN } else { IDLE };
            let changed = std::pin::pin!(watch.changed());
            let wanted = std::pin::pin!(wanted);
            if let Ok(Either::Left((None, _))) = rt::timeout(pause, select(changed, wanted)).await {
                return;
            }
        }
    }

    /// How far each target here has got with what it is to have, and whether they still work at it; nothing when nothing
    /// is on its way. What the pool is to bear as it is, nobody works at: the state changes when that ends.
    async fn filling(&self, pool: PoolId, slot: &Slot<PoolState>) -> (Vec<Filling>, bool) {
        let changing = slot.group.local(|pool| {
            let map = pool.map().filter(|map| is_changing(map))?;
            Some((map.version(), pool.heal().goes_on(map)))
        });
        let Some((version, goes_on)) = changing else { return (Vec::new(), false) };
        let filling = self.tell(|done| Order::Filling { pool, done }).await;
        let filling: Vec<Filling> = filling.into_iter().map(Result::unwrap_or_default).collect();
        let is_filling = goes_on && filling.iter().any(|filling| filling.version != version);
        (filling, is_filling)
    }

    /// Waits until the replica here knows all that was answered before.
    async fn catch_up<S: StateMachine>(&self, slot: &Slot<S>, group: GroupId) {
        let mut watch = slot.group.watch();
        let rank_that_leads = || slot.group.standing().leader.map(|leader| leader.rank);
        loop {
            let leader = rank_that_leads();
            if slot.confirm().await.is_ok() {
                return;
            }
            if let Some(leader) = leader.filter(|leader| *leader != self.rank) {
                let nothing = Followed::default();
                // One that follows no more, or is far behind, asks again: there may be another leader.
                if let Some(applied) = self.send_report(leader, group, &nothing).await
                    && slot.follows(applied, REPORT_MAX).await
                {
                    return;
                }
            }
            // A server that is alone elects itself within a millisecond.
            let another_leads = async { while rank_that_leads() == leader && watch.changed().await.is_some() {} };
            let _ = rt::timeout(Duration::from_millis(50), another_leads).await;
        }
    }

    /// Tells the targets what differs from what they were told.
    async fn follow_containers(
        &self,
        id: PoolId,
        slot: &Slot<PoolState>,
        told: &mut Told,
    ) -> Vec<(Option<ContainerId>, Error)> {
        let state = slot.group.local(Clone::clone);
        let share = state.share();
        if told.share != Some(share) {
            for outcome in self.tell(|done| Order::SetPool { id, share, done }).await {
                if let Err(error) = outcome {
                    return vec![(None, error)];
                }
            }
            told.share = Some(share);
        }
        let mut trouble = Vec::new();
        // Before the map: who is a member by it is sent changes of them, and may not refuse these for want of a container.
        for (&container, wanted) in &state.containers {
            let known = told.containers.entry(container).or_default();
            if let Err(error) = self.make_container(id, container, wanted, known).await {
                trouble.push((Some(container), error));
            }
        }
        let is_ready = |(id, _): &(Option<ContainerId>, Error)| {
            id.and_then(|id| state.containers.get(&id)).is_some_and(|container| container.phase == Phase::Ready)
        };
        // Others have it already. Of one that is being made nobody is sent anything.
        if trouble.iter().any(is_ready) {
            return trouble;
        }
        if let Err(error) = self.tell_map(id, &state, told).await {
            trouble.push((None, error));
            return trouble;
        }
        let mut gone: BTreeSet<ContainerId> =
            told.containers.keys().filter(|known| !state.containers.contains_key(known)).copied().collect();
        if !told.is_swept {
            match self.strays(id, &state).await {
                Ok(strays) => gone.extend(strays),
                Err(error) => return vec![(None, error)],
            }
        }
        for container in gone {
            match self.destroy_container_here(container).await {
                Ok(()) => drop(told.containers.remove(&container)),
                Err(error) => trouble.push((Some(container), error)),
            }
        }
        told.is_swept = trouble.is_empty();
        for (&container, wanted) in &state.containers {
            let known = told.containers.entry(container).or_default();
            if (known.exists || wanted.phase == Phase::Destroying)
                && let Err(error) = self.follow_container(container, wanted, known).await
            {
                trouble.push((Some(container), error));
            }
        }
        trouble
    }

    /// Tells the targets who holds what, and where they are.
    async fn tell_map(&self, pool: PoolId, state: &PoolState, told: &mut Told) -> Result<(), Error> {
        let Some(map) = state.map().filter(|_| !state.is_alone()) else { return Ok(()) };
        let (heal, budget, addresses) = (state.heal(), state.rebuild_budget(), self.addresses_of(state));
        let widths = state.widths.keys().copied().collect();
        let view = PoolView { map: map.clone(), widths, heal, budget, addresses, rank: self.rank };
        if told.map.as_ref() == Some(&view) {
            return Ok(());
        }
        for placing in self.tell(|done| Order::SetMap { pool, view: view.clone(), done }).await {
            told.placing = placing?;
        }
        told.map = Some(view);
        Ok(())
    }

    /// Where the pool's servers are, as far as it is known here.
    fn addresses_of(&self, pool: &PoolState) -> BTreeMap<Rank, Address> {
        let ranks = pool.servers().iter().map(|server| server.rank);
        ranks.filter_map(|rank| Some((rank, self.peers.address(rank)?.parse().ok()?))).collect()
    }

    /// Whether some server of a pool answers elsewhere than the targets were told.
    fn has_moved(&self, slot: &Slot<PoolState>, told: &Told) -> bool {
        let known = told.map.as_ref().map(|view| &view.addresses);
        known.is_some_and(|known| slot.group.local(|pool| self.addresses_of(pool)) != *known)
    }

    /// Makes a container on the targets, if it is to be there and is not.
    async fn make_container(
        &self,
        pool: PoolId,
        id: ContainerId,
        wanted: &Container,
        told: &mut ToldContainer,
    ) -> Result<(), Error> {
        if wanted.phase != Phase::Destroying && !told.exists {
            self.tell_all(|done| Order::CreateContainer { pool, id, done }).await?;
            told.exists = true;
        }
        Ok(())
    }

    /// Has the targets agree with what is wanted of a container that is there, or is to go.
    async fn follow_container(
        &self,
        id: ContainerId,
        wanted: &Container,
        told: &mut ToldContainer,
    ) -> Result<(), Error> {
        if wanted.phase == Phase::Destroying {
            told.held = None;
            if told.exists || told.kept.is_none() {
                self.destroy_container_here(id).await?;
                told.exists = false;
                // Not again at every change.
                told.kept = Some(Default::default());
            }
            return Ok(());
        }
        // Before anything else: what is told next may let a horizon move.
        if wanted.is_held && told.held.is_none() {
            told.held = Some(self.hold.take());
        }
        if let Some(Rollback { to, asked }) = wanted.rollback.filter(|rollback| told.rollback != Some(*rollback)) {
            self.tell_all(|done| Order::Rollback { id, to, asked, done }).await?;
            told.rollback = wanted.rollback;
        }
        let kept = (wanted.snapshots.keys().copied().collect::<Vec<_>>(), wanted.retention());
        if told.kept.as_ref() != Some(&kept) {
            let (snapshots, retention) = &kept;
            self.tell_all(|done| Order::Keep { id, snapshots: snapshots.clone(), retention: *retention, done }).await?;
            told.kept = Some(kept);
        }
        // After the snapshot that it was for is kept.
        if !wanted.is_held {
            told.held = None;
        }
        Ok(())
    }

    async fn destroy_container_here(&self, id: ContainerId) -> Result<(), Error> {
        self.tell_all(|done| Order::DestroyContainer { id, done }).await
    }

    /// Containers of a pool on the targets that its state does not know: the far side of a destroy cut short.
    async fn strays(&self, pool: PoolId, state: &PoolState) -> Result<BTreeSet<ContainerId>, Error> {
        let mut strays = BTreeSet::new();
        for held in self.tell(|done| Order::Holdings { done }).await {
            let here = held?.pools.into_iter().filter(|(id, _)| *id == pool).flat_map(|(_, containers)| containers);
            strays.extend(here.filter(|id| !state.containers.contains_key(id)));
        }
        for container in &strays {
            tracing::warn!(%container, "removing a container that its pool does not know");
        }
        Ok(strays)
    }

    /// Asks all targets here at once; the answers come in their order.
    pub(super) async fn tell<T>(&self, order: impl Fn(Done<T>) -> Order) -> Vec<Result<T, Error>> {
        join_all(self.targets.iter().map(|target| target.ask(&order))).await
    }

    pub(super) async fn tell_all(&self, order: impl Fn(Done<()>) -> Order) -> Result<(), Error> {
        self.tell(order).await.into_iter().collect()
    }

    /// Who leads, in one life and one term of it: who leads again after a restart remembers no reports.
    fn reign<S: StateMachine>(&self, slot: &Slot<S>) -> Option<(Rank, u64, u64)> {
        let standing = slot.group.standing();
        let leader = standing.leader?.rank;
        let life = self.system.group.local(|system| system.members.get(&leader).map(|member| member.incarnation));
        Some((leader, standing.term, life.unwrap_or(0)))
    }

    /// In which life of this server it is, and which moment of it.
    fn moment(&self) -> (u64, u64) {
        (self.incarnation(), rt::now().as_micros())
    }

    /// Says how far this server has followed a state. True if the leader knows.
    async fn report<S: StateMachine + Followers>(&self, slot: &Slot<S>, group: GroupId, followed: &Followed) -> bool {
        slot.hear(self.rank, Followed { said: self.moment(), ..followed.clone() });
        match slot.group.standing().leader.map(|leader| leader.rank) {
            None => false,
            Some(leader) if leader == self.rank => true,
            Some(leader) => self.send_report(leader, group, followed).await.is_some(),
        }
    }

    async fn send_report(&self, leader: Rank, group: GroupId, followed: &Followed) -> Option<u64> {
        let Followed { version, placing, filling, widths, trouble, .. } = followed.clone();
        let said = self.moment();
        let (group, widths) = (Bytes(group.0.to_vec()), widths.into_iter().collect());
        let report = msg::Report { group, rank: self.rank, said, version, placing, filling, widths, trouble };
        let answer = self.peers.ask(leader, Opcode::Report, report.to_bytes(), REPORT_MAX).await;
        let body = answer.inspect_err(|error| tracing::debug!(%leader, %error, "a report was not heard")).ok()?;
        msg::Reported::from_bytes(&body).ok().map(|reported| reported.applied)
    }

    /// A server's report.
    ///
    /// # Errors
    /// `Again`: this server does not lead the group.
    pub(super) async fn reported(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let report: msg::Report = parse(body)?;
        let id = super::route::group_id(&report.group.0)?;
        let msg::Report { said, version, placing, filling, trouble, .. } = report;
        let widths = report.widths.into_iter().collect();
        let followed = Followed { said, version, placing, filling, widths, trouble };
        let applied = if id == self.system_group() {
            hear(&self.system, report.rank, followed).await?
        } else {
            let slot = self.pools.borrow().get(&PoolId::from_bytes(id.0)).cloned();
            let slot = slot.ok_or_else(|| Error::new(Code::Again, "there is no such group here"))?;
            hear(&slot, report.rank, followed).await?
        };
        Ok(msg::Reported { applied }.to_bytes())
    }
}

/// Whether something is on its way.
fn is_changing(map: &PoolMap) -> bool {
    map.targets().iter().any(|target| target.state().in_change())
}

async fn hear<S: StateMachine + Followers>(slot: &Slot<S>, rank: Rank, followed: Followed) -> Result<u64, Error> {
    slot.confirm().await.map_err(|error| Error::new(Code::Again, error.to_string()))?;
    slot.hear(rank, followed);
    Ok(slot.group.applied())
}

//! At the leader: saying that what was wanted is done, and tending the group.
//!
//! What to do is a pure function of the state and of what was reported ([`next_steps`]); each step is proposed for the
//! leader's term, so that of a reign that is over nothing comes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use placement::Event;
use types::{ContainerId, Error, PoolId, Rank};

use super::life::ALONE;
use super::pool::{PoolCommand, PoolState, WIDTHS};
use super::slot::{Followed, Slot, Wanted};
use super::system::{Phase, PoolRow, SystemCommand, SystemState};
use super::{Service, healing};
use crate::target::order::Heal;

/// How often a leader looks whether something is to be done, unless it is woken.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it looks although nothing has changed that it knows of: who follows its log may have caught up.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// What the leader knows of those who follow a state.
pub(super) struct Heard<'a> {
    /// Who counts: members that are up.
    pub(super) up: &'a BTreeSet<Rank>,
    pub(super) reports: &'a BTreeMap<Rank, Followed>,
}

/// How far a change has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All who are up have done it.
    Done,
    /// They have not yet.
    Waiting(Vec<Rank>),
    /// Somebody cannot.
    Stuck(Rank, Error),
}

impl Heard<'_> {
    /// How far the change that came with `version` is, of a container or of the pool itself.
    pub(super) fn progress(&self, version: u64, about: Option<ContainerId>) -> Progress {
        let mut waiting = Vec::new();
        for rank in self.up {
            match self.reports.get(rank).filter(|followed| followed.version >= version) {
                None => waiting.push(*rank),
                Some(followed) => {
                    // Trouble with the pool itself is in everybody's way.
                    let mut troubles = followed.trouble.iter();
                    if let Some((_, error)) = troubles.find(|(what, _)| what.is_none() || *what == about) {
                        return Progress::Stuck(*rank, error.clone());
                    }
                }
            }
        }
        if waiting.is_empty() { Progress::Done } else { Progress::Waiting(waiting) }
    }
}

/// What the state of a pool says next, after what was reported.
pub(super) fn next_steps(pool: &PoolState, heard: &Heard<'_>) -> Vec<PoolCommand> {
    let mut steps = Vec::new();
    // First: a request waits for it.
    let wanted: BTreeSet<u32> = heard.reports.values().flat_map(|followed| &followed.widths).copied().collect();
    let is_new = |width: &u32| WIDTHS.contains(width) && !pool.widths.contains_key(width);
    let widths: Vec<u32> = wanted.into_iter().filter(is_new).collect();
    if !widths.is_empty() {
        steps.push(PoolCommand::UseWidths { widths });
    }
    for (&id, container) in &pool.containers {
        let progress = || heard.progress(container.since, Some(id));
        match container.phase {
            Phase::Creating => match progress() {
                Progress::Done => steps.push(PoolCommand::ContainerCreated { id }),
                // Half a container helps nobody.
                Progress::Stuck(_, error) => {
                    steps.push(PoolCommand::DestroyContainer { id, trouble: Some(error) });
                }
                Progress::Waiting(_) => {}
            },
            Phase::Destroying => {
                if progress() == Progress::Done {
                    steps.push(PoolCommand::ContainerDestroyed { id });
                }
            }
            Phase::Ready => {
                if let Some(rollback) = container.rollback
                    && progress() == Progress::Done
                {
                    steps.push(PoolCommand::RolledBack { id, asked: rollback.asked });
                }
            }
        }
    }
    steps
}

/// What the map says next, after what the system knows of the pool's servers. `is_served`: somebody serves each of its
/// groups that have copies.
pub(super) fn map_steps(
    pool: &PoolState,
    system: &SystemState,
    reports: &BTreeMap<Rank, Followed>,
    is_served: bool,
) -> Vec<PoolCommand> {
    let Some(map) = pool.map() else { return Vec::new() };
    let rebuild = system.self_heal().pool_rebuild;
    if rebuild == pool.is_rebuild_off {
        return vec![PoolCommand::FollowPolicy { rebuild }];
    }
    let means = |rank: Rank, event: Event| {
        let mut targets = (0..).zip(map.targets()).filter(|(_, target)| target.rank == rank);
        targets.any(|(position, target)| pool.may_happen(event, target.state(), position))
    };
    let is_wanted_back = |rank| map.positions_of(rank).any(|position| pool.wanted_back.contains(&position));
    let may_lose = may_lose(pool, system);
    let (mut lost, mut back, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for rank in map.servers().iter().map(|server| server.rank) {
        match system.is_joined(rank) {
            false if may_lose && means(rank, Event::Exclude) => lost.push(rank),
            true if !healing::returning(map, &[rank], &pool.kept_out, &pool.wanted_back).is_empty()
                && (!is_wanted_back(rank) || is_prepared(pool, reports.get(&rank))) =>
            {
                back.push(rank);
            }
            true if means(rank, Event::Extend)
                && !healing::is_awaiting(map)
                && is_prepared(pool, reports.get(&rank)) =>
            {
                new.push(rank);
            }
            _ => {}
        }
    }
    // One a turn: the second is decided by the map that the first makes.
    let version = map.version();
    match (lost.is_empty(), back.is_empty(), new.is_empty()) {
        (false, _, _) => vec![PoolCommand::Exclude { version, ranks: lost }],
        (true, false, _) => vec![PoolCommand::Reintegrate { version, ranks: back }],
        (true, true, false) => vec![PoolCommand::Extend { version, ranks: new }],
        (true, true, true) => {
            // Nothing that an administrator stopped comes to an end, either: it is as it was when he wants it again.
            if pool.heal() == Heal::Nothing {
                return Vec::new();
            }
            let is_full = |rank| reports.get(&rank).is_some_and(|followed| followed.is_full(version));
            let returned = healing::returned(map, &pool.given_up, &pool.kept_out);
            if let Some(rank) = returned.filter(|rank| is_full(*rank)) {
                return vec![PoolCommand::Reintegrated { version, ranks: vec![rank] }];
            }
            let is_ready = is_served && pool.heal() == Heal::All;
            let what = healing::finished(map, &pool.given_up, &pool.drained, is_full, is_ready);
            what.map(|what| PoolCommand::Finish { version, what }).into_iter().collect()
        }
    }
}

/// Whether servers that do not take part are excluded from the pool: if its policy and the system's say so, and anybody is left to
/// go on.
/// When a whole system is stopped nobody writes, so that nobody misses anything.
fn may_lose(pool: &PoolState, system: &SystemState) -> bool {
    let is_wanted = pool.self_heal().exclude && system.self_heal().pool_exclude;
    is_wanted && pool.servers().iter().any(|server| system.is_joined(server.rank))
}

/// Whether the targets of a server that is new to the pool have all made their shares of it, and its containers.
fn is_prepared(pool: &PoolState, report: Option<&Followed>) -> bool {
    report.is_some_and(|report| report.version >= pool.version && report.trouble.is_empty())
}

/// What the system's row of a pool says next of its servers: who is to have a part again is in it, and who has none goes when
/// it is no replica of the pool's service any more (`replicas`).
fn row_steps(
    id: PoolId,
    pool: &PoolState,
    row: &PoolRow,
    system: &SystemState,
    replicas: &BTreeSet<Rank>,
) -> Option<SystemCommand> {
    let known = pool.servers().iter().map(|server| server.rank);
    let is_missing = |rank: &Rank| !row.servers.contains(rank) && pool.has_part(*rank) && system.is_joined(*rank);
    let back: Vec<Rank> = known.filter(is_missing).collect();
    if !back.is_empty() {
        return Some(SystemCommand::ExtendPool { id, servers: back });
    }
    let is_gone = |rank: &&Rank| !pool.has_part(**rank) && !replicas.contains(rank);
    let gone: Vec<Rank> = row.servers.iter().filter(is_gone).copied().collect();
    (!gone.is_empty()).then_some(SystemCommand::ShrinkPool { id, servers: gone })
}

/// The servers that the system's row of a pool names, and its map does not know yet.
fn added(pool: &PoolState, row: &PoolRow, system: &SystemState) -> Option<PoolCommand> {
    let known: BTreeSet<Rank> = pool.servers().iter().map(|server| server.rank).collect();
    let new: Vec<Rank> = row.servers.iter().copied().filter(|rank| !known.contains(rank)).collect();
    let servers = pool_servers(system, &new);
    (!servers.is_empty()).then_some(PoolCommand::AddServers { servers })
}

impl Service {
    /// Servers that have a part in a pool, and are up.
    pub(super) fn up(&self, pool: &PoolState) -> BTreeSet<Rank> {
        let ranks = pool.servers().iter().map(|server| server.rank).filter(|rank| pool.has_part(*rank));
        self.system.group.local(|system| ranks.filter(|rank| system.is_joined(*rank)).collect())
    }

    /// How soon to look again, though nothing is heard of: who is lost, and who follows the log, shows with time. Of a server
    /// that is alone everything is heard of.
    fn look_every(&self) -> Duration {
        if self.others().is_empty() { ALONE } else { LOOK_EVERY }
    }

    /// Drives a pool whenever the replica here leads.
    pub(super) async fn drive_pool(self: Rc<Self>, id: PoolId, slot: Rc<Slot<PoolState>>) {
        let mut watch = slot.group.watch();
        let mut seen = None;
        loop {
            let reported = slot.reported.notified();
            if let Some(term) = slot.reign() {
                let now = (term, slot.group.applied(), slot.heard.get(), self.system.group.applied());
                let is_idle = seen.is_some_and(|(at, what): (rt::Instant, _)| what == now && at.elapsed() < TEND_EVERY)
                    && slot.is_tended.get();
                seen = if is_idle { seen } else { Some((rt::now(), now)) };
                if is_idle {
                    // The metrics of the replica change with every heartbeat.
                } else if let Err(error) = self.drive_pool_once(id, &slot, term).await {
                    tracing::debug!(pool = %id, %error, "a step of the pool's leader");
                    // Not at once: that it was tried may be all that has changed.
                    rt::sleep(LOOK_EVERY).await;
                    continue;
                }
                let changed = std::pin::pin!(watch.changed());
                let reported = std::pin::pin!(reported);
                // Either, or a while: all mean the same, to look again.
                let _ = rt::timeout(self.look_every(), select(changed, reported)).await;
            } else if watch.changed().await.is_none() {
                return;
            }
        }
    }

    async fn drive_pool_once(&self, id: PoolId, slot: &Slot<PoolState>, term: u64) -> Result<(), Error> {
        let Some(row) = self.system.group.local(|system| system.pools.get(&id).cloned()) else { return Ok(()) };
        if row.phase == Phase::Destroying {
            return Ok(());
        }
        if !slot.group.local(PoolState::is_created) {
            let servers = self.system.group.local(|system| pool_servers(system, &row.servers));
            let PoolRow { label, bytes_per_target, properties, acl, .. } = row;
            let create = PoolCommand::Create { label, bytes_per_target, servers, properties, acl };
            slot.propose(Some(term), None, &create).await??;
            return Ok(());
        }
        let state = slot.snapshot();
        let up = self.up(&state);
        slot.compare_placing(self.rank);
        let (mut steps, made) = {
            let heard = Heard { up: &up, reports: &slot.reports.borrow() };
            (next_steps(&state, &heard), heard.progress(1, None))
        };
        let is_served = self.is_served(&state).await;
        {
            let reports = slot.reports.borrow();
            steps.extend(self.system.group.local(|system| added(&state, &row, system)));
            steps.extend(self.system.group.local(|system| map_steps(&state, system, &reports, is_served)));
        }
        for step in steps {
            tracing::info!(pool = %id, ?step, "the pool's leader goes on");
            slot.propose(Some(term), None, &step).await??;
        }
        self.let_go_of_orphans(slot, &state, term).await?;
        let living = self.living();
        let here = row.servers.iter().copied().filter(|rank| state.has_part(*rank));
        let wanted = self.system.group.local(|system| wanted(system, here, &living));
        let members = slot.group.members();
        if !wanted.contains_key(&self.rank) && members.voters.iter().any(|rank| wanted.contains_key(rank)) {
            // Who stays does the rest.
            slot.hand_over(self.rank).await;
            return Ok(());
        }
        let tended = slot.tend(&wanted).await;
        if row.phase == Phase::Creating {
            match made {
                // A pool that whoever asked was told of does not go with the one server that made it.
                Progress::Done if slot.is_tended.get() => {
                    self.tell_system(None, SystemCommand::PoolCreated { id }).await?;
                }
                Progress::Stuck(_, error) => {
                    let destroy = SystemCommand::DestroyPool { id, trouble: Some(error) };
                    self.tell_system(None, destroy).await?;
                }
                Progress::Done | Progress::Waiting(_) => {
                    tracing::debug!(pool = %id, ?made, members = ?slot.group.members(), "the pool is being made");
                }
            }
        }
        let replicas: BTreeSet<Rank> = members.addresses.keys().chain(&members.voters).copied().collect();
        let step = self.system.group.local(|system| row_steps(id, &state, &row, system, &replicas));
        if let Some(step) = step.filter(|_| members.is_settled && row.phase == Phase::Ready) {
            tracing::info!(pool = %id, ?step, "the pool's leader goes on");
            self.tell_system(None, step).await?;
        }
        tended
    }

    /// Ends holds for snapshots that nobody makes any more: their leader lost its office between hold and snapshot.
    async fn let_go_of_orphans(&self, slot: &Slot<PoolState>, state: &PoolState, term: u64) -> Result<(), Error> {
        // Whoever makes one has the lock.
        let Ok(_change) = slot.changes.try_lock() else { return Ok(()) };
        for (&id, _) in state.containers.iter().filter(|(_, container)| container.is_held) {
            if slot.group.local(|pool| pool.containers.get(&id).is_some_and(|container| container.is_held)) {
                slot.propose(Some(term), None, &PoolCommand::LetGo { id }).await??;
            }
        }
        Ok(())
    }

    /// Drives the system whenever the replica here leads.
    pub(super) async fn drive_system(self: Rc<Self>) {
        let mut watch = self.system.group.watch();
        loop {
            let reported = self.system.reported.notified();
            if let Some(term) = self.system.reign() {
                if let Err(error) = self.drive_system_once(term).await {
                    tracing::debug!(%error, "a step of the system's leader");
                    rt::sleep(LOOK_EVERY).await;
                    continue;
                }
                let changed = std::pin::pin!(watch.changed());
                let reported = std::pin::pin!(reported);
                let _ = rt::timeout(self.look_every(), select(changed, reported)).await;
            } else if watch.changed().await.is_none() {
                return;
            }
        }
    }

    async fn drive_system_once(&self, term: u64) -> Result<(), Error> {
        let system = self.system.snapshot();
        let mut steps = Vec::new();
        for (&id, row) in system.pools.iter().filter(|(_, row)| row.phase == Phase::Destroying) {
            let up: BTreeSet<Rank> = row.servers.iter().copied().filter(|rank| system.is_joined(*rank)).collect();
            let reports = self.system.reports.borrow();
            if (Heard { up: &up, reports: &reports }).progress(row.since, None) == Progress::Done {
                steps.push(SystemCommand::PoolDestroyed { id });
            }
        }
        let mut lost = self.lost(&system);
        // A majority of the voters has to agree that they are dead, so that most of them live. Who hears of so few hears badly
        // itself, and decides it at a moment at which it hears better, of those that it is wrong about.
        let (voters, living) = (self.system.group.members().voters, self.living());
        if voters.intersection(&living).count() <= voters.len() / 2 {
            lost.retain(|(rank, _)| !voters.contains(rank));
        }
        if !system.self_heal().exclude {
            lost.clear();
        }
        steps.extend(lost.into_iter().map(|(rank, incarnation)| {
            tracing::warn!(%rank, "it is taken for dead, and excluded");
            SystemCommand::Lost { rank, incarnation }
        }));
        for step in steps {
            self.system.propose(Some(term), None, &step).await??;
        }
        self.system.tend(&wanted(&system, system.members.keys().copied(), &self.living())).await
    }

    /// Waits until all who are up have done what came with `version`.
    ///
    /// # Errors
    /// Of a server that cannot; `TimedOut`, with who has not done it yet.
    pub(super) async fn done(
        &self,
        slot: &Slot<PoolState>,
        version: u64,
        about: Option<ContainerId>,
        until: rt::Instant,
    ) -> Result<(), Error> {
        loop {
            let reported = slot.reported.notified();
            let up = slot.group.local(|pool| self.up(pool));
            let progress = Heard { up: &up, reports: &slot.reports.borrow() }.progress(version, about);
            match progress {
                Progress::Done => return Ok(()),
                Progress::Stuck(_, error) => return Err(error),
                Progress::Waiting(ranks) if rt::now() >= until => {
                    let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
                    let text = format!("it is decided, but ranks {} have not done it yet", ranks.join(", "));
                    return Err(Error::new(types::Code::TimedOut, text)
                        .remedy("see `dmg system query`; it is done when they answer again"));
                }
                Progress::Waiting(_) => {}
            }
            let pause = LOOK_EVERY.min(until - rt::now());
            let _ = rt::timeout(pause, reported).await;
        }
    }

    /// A command of the system, wherever it is led.
    ///
    /// # Errors
    /// Of the command; `Again` when nobody leads.
    pub(super) async fn tell_system(
        &self,
        request: Option<raft::Request>,
        command: SystemCommand,
    ) -> Result<super::system::SystemDone, Error> {
        if self.system.reign().is_some() {
            return self.system.propose(None, request, &command).await?;
        }
        let leader = self.system.group.standing().leader.map(|leader| leader.rank);
        let leader = leader.ok_or_else(|| Error::new(types::Code::Again, "nobody leads the system at the moment"))?;
        self.propose_at(leader, request, command).await
    }

    /// A command of the system, at a rank that may lead it.
    ///
    /// # Errors
    /// Of the command; `Again` when it is not reached or does not lead.
    pub(super) async fn propose_at(
        &self,
        leader: Rank,
        request: Option<raft::Request>,
        command: SystemCommand,
    ) -> Result<super::system::SystemDone, Error> {
        use wire::Wire;
        let message = wire::peer::Propose {
            group: wire::encoding::Bytes(self.system_group().0.to_vec()),
            request: request.map(|request| (request.session.0, request.number)),
            command: wire::encoding::Bytes(command.to_bytes()),
        };
        let asked = self.peers.ask(leader, wire::Opcode::Propose, message.to_bytes(), Duration::from_secs(5)).await;
        let body = asked.map_err(|error| match error {
            net::CallError::Refused(error) => error,
            error => Error::new(types::Code::Again, error.to_string()),
        })?;
        let done: Result<super::system::SystemDone, Error> = crate::target::parse(&body)?;
        done
    }

    /// Another server's command for the system.
    pub(super) async fn proposed(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        use wire::Wire;
        let message: wire::peer::Propose = crate::target::parse(body)?;
        if super::route::group_id(&message.group.0)? != self.system_group() {
            return Err(Error::new(types::Code::Protocol, "only commands of the system come from other servers"));
        }
        let command: SystemCommand = crate::target::parse(&message.command.0)?;
        let request =
            message.request.map(|(session, number)| raft::Request { session: types::SessionId(session), number });
        let done = self.system.propose(None, request, &command).await?;
        Ok(done.to_bytes())
    }
}

/// Servers of a pool as the system has them when the pool is made.
fn pool_servers(system: &SystemState, ranks: &[Rank]) -> Vec<super::pool::PoolServer> {
    let server = |rank: &Rank| {
        let member = system.members.get(rank)?;
        let (fault_path, targets) = (member.fault_path.clone(), member.targets);
        Some(super::pool::PoolServer { rank: *rank, fault_path, targets, weight: 1 })
    };
    ranks.iter().filter_map(server).collect()
}

/// Who may vote in a group: of `ranks`, those that the system knows. Of the stopped, those that live go on voting: they
/// are needed to be started again.
fn wanted(system: &SystemState, ranks: impl Iterator<Item = Rank>, living: &BTreeSet<Rank>) -> BTreeMap<Rank, Wanted> {
    // Numbers of the largest domains: replicas stand in as many of them as there are.
    let domains: BTreeSet<&str> = system.members.values().map(|member| top_domain(&member.fault_path)).collect();
    let domains: BTreeMap<&str, u64> = domains.into_iter().zip(0..).collect();
    let number = |path: &str| domains.get(top_domain(path)).copied().unwrap_or(0);
    let want = |rank: Rank| {
        let member = system.members.get(&rank)?;
        let (address, domain) = (member.address.clone(), number(&member.fault_path));
        let is_there = system.is_joined(rank) || (system.is_stopped(rank) && living.contains(&rank));
        Some((rank, Wanted { address, domain, is_there }))
    };
    ranks.filter_map(want).collect()
}

/// The largest thing that fails together with a server there.
fn top_domain(path: &str) -> &str {
    path.split('/').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use placement::{CameFrom, Target, TargetState};
    use raft::StateMachine;
    use types::{Code, Epoch, Layout};
    use wire::control::TargetChange;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 16])
    }

    fn pool() -> PoolState {
        let mut pool = PoolState::empty(PoolId::from_bytes([9; 16]));
        let server = |rank| super::super::pool::PoolServer {
            rank: Rank(rank),
            fault_path: format!("/server{rank}"),
            targets: 2,
            weight: 1,
        };
        let servers = vec![server(0), server(1)];
        let create =
            PoolCommand::Create { label: "tank".into(), bytes_per_target: 1, servers, properties: vec![], acl: None };
        pool.apply(create).unwrap();
        let create = PoolCommand::CreateContainer {
            id: id(1),
            label: None,
            layout: Layout::Posix,
            created: Epoch(5),
            properties: vec![],
            attributes: vec![],
            acl: None,
        };
        pool.apply(create).unwrap();
        pool
    }

    fn followed(version: u64, trouble: Option<(Option<ContainerId>, &str)>) -> Followed {
        let trouble = trouble.map(|(what, text)| (what, Error::new(Code::NoSpace, text)));
        Followed { version, trouble: trouble.into_iter().collect(), ..Followed::default() }
    }

    /// Reports of ranks 0 and 1, of which `up` count, and what the leader then says of the container.
    #[test]
    fn the_leader_says_done_when_all_who_are_up_have_done_it() {
        let pool = pool();
        let version = pool.version;
        let full = Error::new(Code::NoSpace, "full");
        let created = vec![PoolCommand::ContainerCreated { id: id(1) }];
        let given_up = vec![PoolCommand::DestroyContainer { id: id(1), trouble: Some(full.clone()) }];
        type Case<'a> = (&'a [u32], Option<Followed>, Option<Followed>, &'a Vec<PoolCommand>);
        let cases: [Case; 7] = [
            (&[0], Some(followed(version, None)), None, &created),
            (&[0, 1], Some(followed(version, None)), None, &vec![]),
            (&[0, 1], Some(followed(version, None)), Some(followed(version - 1, None)), &vec![]),
            (&[0, 1], Some(followed(version, None)), Some(followed(version + 3, None)), &created),
            (&[0, 1], None, Some(followed(version, Some((Some(id(1)), "full")))), &given_up),
            (&[0], Some(followed(version, Some((Some(id(2)), "full")))), None, &created),
            (&[0], Some(followed(version, Some((None, "full")))), None, &given_up),
        ];
        for (number, (up, first, second, steps)) in cases.into_iter().enumerate() {
            let reports: BTreeMap<Rank, Followed> =
                [(Rank(0), first), (Rank(1), second)].into_iter().filter_map(|(r, f)| Some((r, f?))).collect();
            let up = up.iter().copied().map(Rank).collect();
            assert_eq!(next_steps(&pool, &Heard { up: &up, reports: &reports }), *steps, "case {number}");
        }
    }

    #[test]
    fn a_rollback_is_over_when_all_have_gone_back() {
        let mut pool = pool();
        pool.apply(PoolCommand::ContainerCreated { id: id(1) }).unwrap();
        let rollback = super::super::pool::Rollback { to: Epoch(5), asked: Epoch(9) };
        pool.apply(PoolCommand::Rollback { id: id(1), rollback }).unwrap();
        let up = BTreeSet::from([Rank(0)]);
        let steps = |version| {
            let reports = BTreeMap::from([(Rank(0), followed(version, None))]);
            next_steps(&pool, &Heard { up: &up, reports: &reports })
        };
        assert_eq!(steps(pool.version - 1), vec![]);
        assert_eq!(steps(pool.version), vec![PoolCommand::RolledBack { id: id(1), asked: Epoch(9) }]);
    }

    /// Server 10 and on are rank 0 and on.
    fn join(server: u8, incarnation: u64, token: Option<u8>) -> SystemCommand {
        SystemCommand::Join {
            server: types::ServerId::from_bytes([server; 16]),
            token: token.map(|n| wire::encoding::Bytes32([n; 32])),
            address: format!("mem://{server}"),
            fault_path: String::new(),
            targets: 2,
            incarnation,
            now: 1,
        }
    }

    /// A system of `count` servers that are all there.
    fn system_of(count: u8) -> SystemState {
        let mut system = SystemState::empty();
        for n in 0..count {
            let hash = wire::encoding::Bytes32([n; 32]);
            system.apply(SystemCommand::AddToken { hash, expires: 100, now: 1 }).unwrap();
            system.apply(join(10 + n, 1, Some(n))).unwrap();
        }
        system
    }

    fn targets(change: TargetChange, rank: u32, indices: &[u32]) -> PoolCommand {
        let indices = indices.iter().copied().map(types::TargetIndex).collect();
        PoolCommand::ChangeTargets { change, ranks: vec![Rank(rank)], indices, force: true }
    }

    fn lose(system: &mut SystemState, rank: u32) {
        system.apply(SystemCommand::Lost { rank: Rank(rank), incarnation: 1 }).unwrap();
    }

    /// The system's policy says it for all pools, and theirs for each.
    #[test]
    fn the_systems_policy_keeps_pools_from_what_theirs_would_do() {
        let (mut pool, mut system) = (pool(), system_of(2));
        let say = |system: &mut SystemState, policy: &str| {
            let values = vec![("self_heal".to_string(), policy.to_string())];
            system.apply(SystemCommand::SetProperties { values })
        };
        let steps = |pool: &PoolState, system: &SystemState| map_steps(pool, system, &BTreeMap::new(), true);
        assert_eq!((pool.heal(), steps(&pool, &system)), (Heal::All, vec![]));
        assert!(say(&mut system, "exclude,rebuild").is_err_and(|error| error.code == types::Code::Invalid));
        say(&mut system, "exclude").unwrap();
        lose(&mut system, 1);
        let (follow, version) = (PoolCommand::FollowPolicy { rebuild: false }, pool.version);
        assert_eq!(steps(&pool, &system), vec![follow.clone()]);
        pool.apply(follow).unwrap();
        assert_eq!((pool.heal(), pool.version), (Heal::Wanted, version + 1), "targets must hear of it");
        assert_eq!(steps(&pool, &system), [], "the dead one stays in");
        say(&mut system, "exclude;pool_exclude").unwrap();
        assert_eq!(steps(&pool, &system), [PoolCommand::Exclude { version: 1, ranks: vec![Rank(1)] }]);
        say(&mut system, "exclude;pool_exclude;pool_rebuild").unwrap();
        assert_eq!(steps(&pool, &system), [PoolCommand::FollowPolicy { rebuild: true }]);
    }

    #[test]
    fn the_policy_says_whether_the_dead_are_excluded() {
        for (policy, is_excluded) in [
            ("exclude;rebuild", true),
            ("exclude", true),
            ("rebuild", false),
            ("none", false),
            ("delay_rebuild", false),
        ] {
            let (mut pool, mut system) = (pool(), system_of(2));
            lose(&mut system, 1);
            let values = vec![("self_heal".to_string(), policy.to_string())];
            pool.apply(PoolCommand::SetProperties { values }).unwrap();
            let expected = is_excluded.then_some(PoolCommand::Exclude { version: 1, ranks: vec![Rank(1)] });
            assert_eq!(map_steps(&pool, &system, &BTreeMap::new(), true), Vec::from_iter(expected), "{policy}");
        }
    }

    /// Of a system that is stopped as a whole nobody misses anything; of one that goes on, who is stopped does.
    #[test]
    fn who_is_stopped_is_excluded_when_somebody_goes_on() {
        let (pool, mut system) = (pool(), system_of(3));
        let stop = |ranks: &[u32]| SystemCommand::Stop { ranks: ranks.iter().copied().map(Rank).collect(), stop: true };
        system.apply(stop(&[1])).unwrap();
        let exclude = PoolCommand::Exclude { version: 1, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&pool, &system, &BTreeMap::new(), true), [exclude]);
        // Rank 2 goes on, and is not in the pool.
        system.apply(stop(&[0])).unwrap();
        assert_eq!(map_steps(&pool, &system, &BTreeMap::new(), true), []);
    }

    #[test]
    fn what_an_administrator_keeps_out_does_not_come_back_by_itself() {
        let (mut pool, mut system) = (pool(), system_of(2));
        let nobody = BTreeMap::new();
        pool.apply(targets(TargetChange::Exclude, 1, &[0])).unwrap();
        assert_eq!(map_steps(&pool, &system, &nobody, true), [], "its server lives");
        // The server dies and is back: only the other of its targets returns.
        lose(&mut system, 1);
        let out = PoolCommand::Exclude { version: 2, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&pool, &system, &nobody, true), vec![out.clone()]);
        pool.apply(out).unwrap();
        system.apply(join(11, 2, None)).unwrap();
        let back = PoolCommand::Reintegrate { version: 3, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&pool, &system, &nobody, true), vec![back.clone()]);
        pool.apply(back).unwrap();
        let states =
            |pool: &PoolState| pool.map().unwrap().targets()[2..].iter().map(Target::state).collect::<Vec<_>>();
        assert_eq!(states(&pool), [TargetState::Down, TargetState::Up(CameFrom::Down)]);
        pool.apply(targets(TargetChange::Reintegrate, 1, &[])).unwrap();
        assert_eq!(states(&pool), [TargetState::Up(CameFrom::Down); 2]);
    }

    #[test]
    fn a_server_that_the_row_names_is_added_and_takes_its_part_when_its_shares_are_made() {
        let (mut pool, system) = (pool(), system_of(4));
        let row = |servers: &[u32]| PoolRow {
            label: "tank".into(),
            bytes_per_target: 1,
            phase: Phase::Ready,
            since: 1,
            servers: servers.iter().copied().map(Rank).collect(),
            maker: Rank(0),
            properties: vec![],
            trouble: None,
            acl: None,
        };
        assert_eq!(added(&pool, &row(&[0, 1]), &system), None);
        let servers = pool_servers(&system, &[Rank(3), Rank(2)]);
        let add = added(&pool, &row(&[0, 1, 3, 2]), &system).unwrap();
        assert_eq!(add, PoolCommand::AddServers { servers });
        pool.apply(add.clone()).unwrap();
        let once = pool.clone();
        pool.apply(add).unwrap();
        assert_eq!(pool, once, "a repeat changes nothing");
        assert_eq!(added(&pool, &row(&[0, 1, 3, 2]), &system), None);
        let version = pool.version;
        let extend = |ranks: &[u32]| {
            let ranks = ranks.iter().copied().map(Rank).collect();
            vec![PoolCommand::Extend { version: 2, ranks }]
        };
        let of_a_container = followed(version, Some((Some(id(1)), "full")));
        type Case<'a> = (Option<Followed>, Option<Followed>, Vec<PoolCommand>);
        let cases: [Case; 5] = [
            (None, None, vec![]),
            (Some(followed(version - 1, None)), None, vec![]),
            (Some(followed(version, Some((None, "full")))), Some(followed(version, None)), extend(&[2])),
            // It would be sent changes of it.
            (Some(of_a_container), None, vec![]),
            (Some(followed(version, None)), Some(followed(version + 1, None)), extend(&[3, 2])),
        ];
        for (number, (third, second, steps)) in cases.into_iter().enumerate() {
            let reports =
                [(Rank(3), third), (Rank(2), second)].into_iter().filter_map(|(r, f)| Some((r, f?))).collect();
            assert_eq!(map_steps(&pool, &system, &reports, true), steps, "case {number}");
        }
        // One that an administrator excluded before it came stays new.
        pool.apply(targets(TargetChange::Exclude, 3, &[])).unwrap();
        let reports = BTreeMap::from([(Rank(3), followed(pool.version, None))]);
        assert_eq!(map_steps(&pool, &system, &reports, true), []);
    }

    #[test]
    fn the_map_follows_who_is_there() {
        let (mut pool, mut system) = (pool(), system_of(2));
        let nobody = BTreeMap::new();
        assert_eq!(map_steps(&pool, &system, &nobody, true), vec![]);
        system.apply(SystemCommand::Lost { rank: Rank(1), incarnation: 1 }).unwrap();
        let exclude = PoolCommand::Exclude { version: 1, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&pool, &system, &nobody, true), vec![exclude.clone()]);
        pool.apply(exclude).unwrap();
        assert_eq!(map_steps(&pool, &system, &nobody, true), vec![]);
        system.apply(join(11, 2, None)).unwrap();
        let back = PoolCommand::Reintegrate { version: 2, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&pool, &system, &nobody, true), vec![back.clone()]);
        pool.apply(back).unwrap();
        let full = |versions: &[u32]| {
            let filling = |&version| wire::peer::Filling { version, ..wire::peer::Filling::default() };
            Followed { filling: versions.iter().map(filling).collect(), ..Followed::default() }
        };
        let said = |versions: &[u32]| BTreeMap::from([(Rank(1), full(versions))]);
        for not_all in [nobody, said(&[]), said(&[3, 2]), said(&[2, 2])] {
            assert_eq!(map_steps(&pool, &system, &not_all, true), vec![]);
        }
        let whole = PoolCommand::Reintegrated { version: 3, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&pool, &system, &said(&[3, 3]), true), vec![whole.clone()]);
        // One that was out before may lack what the one that left last has, and waits for it.
        let out = |version, rank| PoolCommand::Exclude { version, ranks: vec![Rank(rank)] };
        let back = |version, rank| PoolCommand::Reintegrate { version, ranks: vec![Rank(rank)] };
        let by_both = |n: u32| -> BTreeMap<_, _> { (0..2).map(|rank| (Rank(rank), full(&[n; 2]))).collect() };
        let mut other = pool.clone();
        other.apply(out(3, 0)).unwrap();
        system.apply(SystemCommand::Lost { rank: Rank(0), incarnation: 1 }).unwrap();
        assert_eq!(map_steps(&other, &system, &by_both(4), false), vec![]);
        system.apply(join(10, 2, None)).unwrap();
        other.apply(back(4, 0)).unwrap();
        let first = PoolCommand::Reintegrated { version: 5, ranks: vec![Rank(0)] };
        assert_eq!(map_steps(&other, &system, &by_both(5), false), vec![first.clone()]);
        other.apply(first).unwrap();
        let second = PoolCommand::Reintegrated { version: 6, ranks: vec![Rank(1)] };
        assert_eq!(map_steps(&other, &system, &by_both(6), false), vec![second]);
        // One that left on its way in did not serve then, and waits for the one that did.
        let mut twice = pool.clone();
        twice.apply(out(3, 0)).unwrap();
        twice.apply(out(4, 1)).unwrap();
        twice.apply(back(5, 1)).unwrap();
        assert_eq!(map_steps(&twice, &system, &by_both(6), false), vec![back(6, 0)]);
        twice.apply(back(6, 0)).unwrap();
        let first = PoolCommand::Reintegrated { version: 7, ranks: vec![Rank(0)] };
        assert_eq!(map_steps(&twice, &system, &by_both(7), false), vec![first]);
        pool.apply(whole).unwrap();
        assert_eq!(map_steps(&pool, &system, &said(&[4, 4]), true), vec![]);
    }
}

//! Coming into the system, staying in it, and noticing who does not.
//!
//! A server says that it is there at each start: where it answers, and in which incarnation. It does so again when the state
//! says that it is excluded, for then it was taken for dead. Who lives is found out by all servers together
//! (`net::membership`); only the system's leader draws conclusions, as commands.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all, select};
use net::CallError;
use net::membership::{Event, Life, Membership};
use tokio::sync::Notify;
use types::{Code, Error, Rank};
use wire::control::MemberState;
use wire::encoding::Bytes;
use wire::peer as msg;
use wire::{Opcode, Wire};

use super::book;
use super::clock;
use super::control::hash;
use super::identity::{Kept, Place};
use super::peers::Peers;
use super::system::{SystemCommand, SystemDone, SystemState};
use super::{Service, ServiceConfig};
use crate::target::parse;

/// How long a new server looks for somebody who lets it in.
const PLACE_PATIENCE: Duration = Duration::from_secs(60);
/// How long one server may take to answer that.
const ASK_MAX: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(300);
/// After a refusal that only an administrator can change.
const REFUSED_AGAIN: Duration = Duration::from_secs(5);
/// Whom this server has never heard of since it started counts as dead only after this: it may be about to say hello.
const GRACE: Duration = Duration::from_secs(5);
/// How often servers that are not heard of are greeted.
const GREET_EVERY: Duration = Duration::from_secs(1);
/// How many of these at once: they tell of each other, and thousands need not greet one that is late.
const GREETED_MAX: usize = 16;
/// How often a change of where the others are is made durable, at most.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// Who asks for the time before it has a rank.
const NOBODY: Rank = Rank(u32::MAX);
/// How long a server that is alone sleeps, unless something changes.
pub(super) const ALONE: Duration = Duration::from_secs(10);
/// How often a server looks whether its replicas have room. What is full for less is nobody else's concern.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(2);
const GOSSIP_MAX: Duration = Duration::from_secs(1);

/// What this server heard of who lives.
#[derive(Default)]
pub(super) struct Heard {
    membership: RefCell<Option<Membership>>,
    /// Who lived at some time since this server began to listen, and in which incarnation: that one is heard of no more
    /// says nothing of the next.
    seen: RefCell<BTreeSet<(Rank, u64)>>,
    /// Since when who is not heard of is not, and in which incarnation.
    missing: RefCell<BTreeMap<(Rank, u64), rt::Instant>>,
    began: Cell<Option<rt::Instant>>,
    came: Notify,
    /// What the system was told stands in this server's way, and what was applied here by then.
    withdrawn: Cell<Option<(Code, u64)>>,
}

impl Heard {
    fn now(&self) -> Duration {
        self.began.get().map_or(Duration::ZERO, rt::Instant::elapsed)
    }
}

/// Asks for a place in the system that the configuration names, and keeps it.
///
/// # Errors
/// Why there is none; `Unreachable`: nobody answers.
pub(super) async fn ask_for_a_place(
    config: &ServiceConfig,
    peers: &Peers,
    kept: &mut Kept,
    targets: u32,
) -> Result<(), Error> {
    let wanted = config.join.clone().unwrap_or_default();
    if wanted.addresses.is_empty() {
        let text = "this server has no place in a system yet, and is not told where to ask for one";
        return Err(Error::new(Code::Invalid, text).remedy("start it with `--join ADDRESS --token TOKEN`"));
    }
    let join = msg::Join {
        server: kept.identity.server,
        rank: None,
        token: wanted.token,
        address: config.address.clone(),
        fault_path: config.fault_path.clone(),
        targets,
        incarnation: kept.identity.incarnation,
    };
    let until = rt::now() + PLACE_PATIENCE;
    let mut last = None;
    while rt::now() < until {
        for address in &wanted.addresses {
            let asked = match check_clock(peers, address).await {
                Ok(()) => peers.call(address, Opcode::Join, join.to_bytes(), ASK_MAX).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(body) => {
                    let joined: msg::Joined = parse(&body)?;
                    let place =
                        Place { system: joined.system, name: joined.name, rank: joined.rank, is_founder: false };
                    // Before the place: a server that has one and knows nobody says hello to nobody, ever.
                    book::keep(&book::path(&config.directory), &book::Book { entries: joined.addresses })?;
                    tracing::info!(rank = %place.rank, system = %place.name, "joined");
                    return kept.change(|identity| identity.place = Some(place));
                }
                Err(CallError::Refused(error)) if !error.is_transient() => return Err(error),
                Err(error) => {
                    if last.is_none() {
                        tracing::warn!(%address, %error, "this server is not let in yet; it goes on asking for a minute");
                    }
                    last = Some(error);
                }
            }
        }
        rt::sleep(AGAIN).await;
    }
    let cause = last.map(|error| error.to_string()).unwrap_or_default();
    Err(Error::new(Code::Unreachable, format!("no server of the system lets this one in: {cause}"))
        .remedy("check the address, and that the servers there run"))
}

/// Compares this server's clock with that of the one that is asked for a place.
///
/// # Errors
/// `ClockOffset`; or it does not answer, and nothing is known.
async fn check_clock(peers: &Peers, address: &str) -> Result<(), CallError> {
    let body = msg::Gossip { from: NOBODY, address: None, message: Bytes(Vec::new()) }.to_bytes();
    let sent = rt::now();
    let answer = peers.call(address, Opcode::Gossip, body, GOSSIP_MAX).await?;
    match clock::ahead_of(sent, &answer) {
        Some(ahead_micros) => Err(CallError::Refused(clock::clock_off(ahead_micros))),
        None => Ok(()),
    }
}

impl Service {
    fn join_message(&self) -> msg::Join {
        let kept = self.kept.borrow();
        msg::Join {
            server: kept.identity.server,
            rank: Some(self.rank),
            token: String::new(),
            address: self.config.address.clone(),
            fault_path: self.config.fault_path.clone(),
            targets: self.targets.len() as u32,
            incarnation: kept.identity.incarnation,
        }
    }

    /// In which life this server is.
    pub(super) fn incarnation(&self) -> u64 {
        self.kept.borrow().identity.incarnation
    }

    /// Keeps this server in the system, from its start to its end.
    pub(super) async fn come_in(self: Rc<Self>) {
        let mut watch = self.system.group.watch();
        loop {
            if !self.is_out() {
                if let Ok(None) = rt::timeout(REFUSED_AGAIN, watch.changed()).await {
                    return;
                }
                continue;
            }
            if !self.clock.is_right() || self.is_full() {
                // One that is told and hangs keeps nobody: most often the clock is compared long before.
                let greeted = join(self.greet_told(), pending::<()>());
                let _ = rt::timeout(GREET_EVERY, select(pin!(self.clock_changes()), pin!(greeted))).await;
                continue;
            }
            let pause = match self.say_hello().await {
                Ok(()) => continue,
                Err(error) if error.code == Code::NoPermission => {
                    tracing::warn!(%error, "this server may not take part");
                    REFUSED_AGAIN
                }
                Err(error) => {
                    tracing::debug!(%error, "nobody hears that this server is here");
                    AGAIN
                }
            };
            rt::sleep(pause).await;
        }
    }

    /// Tells whoever this server is told to ask where it answers. When all have moved, nobody is where anybody knows, and there are
    /// neither votes nor others to compare a clock with until they are greeted at their new places.
    async fn greet_told(&self) {
        let Some(join) = &self.config.join else { return };
        let address = Some((self.incarnation(), self.config.address.clone()));
        let body = msg::Gossip { from: self.rank, address, message: Bytes(Vec::new()) }.to_bytes();
        let told = join.addresses.iter().take(GREETED_MAX).filter(|told| **told != self.config.address);
        let greetings = told.map(async |told| {
            if let Err(error) = self.peers.call(told, Opcode::Gossip, body.clone(), GOSSIP_MAX).await {
                tracing::debug!(%told, %error, "nobody is greeted there");
            }
        });
        join_all(greetings).await;
    }

    /// True if the system does not know that this server is there.
    fn is_out(&self) -> bool {
        let incarnation = self.kept.borrow().identity.incarnation;
        let is_in = self.system.group.local(|system| {
            system.members.get(&self.rank).is_some_and(|member| {
                // Who was stopped is known to be there, and waits until it is started.
                member.incarnation == incarnation
                    && matches!(member.state, MemberState::Joined | MemberState::Stopped)
                    && member.address == self.config.address
            })
        });
        !is_in || !self.is_current.get()
    }

    async fn say_hello(&self) -> Result<(), Error> {
        self.renew()?;
        let applied = match self.system.confirm().await {
            Ok(_) => {
                self.enter_system().await?;
                self.system.group.applied()
            }
            Err(_) => self.ask_around().await?,
        };
        let until = rt::now() + ASK_MAX;
        while self.system.group.applied() < applied {
            if rt::now() > until {
                return Err(Error::new(Code::TimedOut, "the system's state does not come here"));
            }
            rt::sleep(Duration::from_millis(5)).await;
        }
        if !self.is_current.replace(true) {
            self.compare_fault_path();
        }
        Ok(())
    }

    /// Says so when the configuration has this server in another place than the system.
    fn compare_fault_path(&self) {
        let path = self.system.group.local(|system| Some(system.members.get(&self.rank)?.fault_path.clone()));
        let (Some(stands), wanted) = (path, &self.config.fault_path) else { return };
        if !wanted.is_empty() && *wanted != stands {
            tracing::warn!(
                "fault_path {wanted} is not taken: rank {} stays at {stands}, by which pools placed their data, or the path is not as \
                 deep as those of the others; drain it from all pools first, and restart it",
                self.rank
            );
        }
    }

    /// Who was taken for dead goes on as another.
    fn renew(&self) -> Result<(), Error> {
        let incarnation = self.kept.borrow().identity.incarnation;
        let is_dead = self.system.group.local(|system| {
            let me = system.members.get(&self.rank);
            me.is_some_and(|me| me.incarnation >= incarnation && me.state != MemberState::Joined)
        });
        if is_dead {
            tracing::warn!(rank = %self.rank, "this server was excluded: it says that it is here");
            self.kept.borrow_mut().change(|identity| identity.incarnation += 1)?;
            *self.life.membership.borrow_mut() = None;
        }
        Ok(())
    }

    /// Tells whoever answers that this server is here; gives what the leader had applied then.
    async fn ask_around(&self) -> Result<u64, Error> {
        let leader = self.system.group.standing().leader.map(|leader| leader.rank);
        let leader = leader.filter(|leader| *leader != self.rank).and_then(|leader| self.peers.address(leader));
        let voters = self.system.group.voters().into_iter().filter(|rank| *rank != self.rank);
        let mut others = self.peers.addresses(self.rank);
        // In no order: thousands that start at once do not all ask the same.
        for last in (1..others.len()).rev() {
            others.swap(last, rt::random_u64() as usize % (last + 1));
        }
        let others = voters.filter_map(|rank| self.peers.address(rank)).chain(others);
        let told = self.config.join.iter().flat_map(|join| join.addresses.clone());
        let body = self.join_message().to_bytes();
        let mut last = Error::new(Code::Unreachable, "this server knows no other");
        for address in leader.into_iter().chain(others).chain(told) {
            match self.peers.call(&address, Opcode::Join, body.clone(), ASK_MAX).await {
                Ok(body) => {
                    let joined: msg::Joined = parse(&body)?;
                    for (rank, incarnation, address) in &joined.addresses {
                        self.peers.learn(*rank, *incarnation, address);
                    }
                    return Ok(joined.applied);
                }
                Err(error) => last = error.into(),
            }
            // Somebody may have heard, and this server leads by now.
            if self.system.reign().is_some() {
                break;
            }
        }
        Err(last)
    }

    /// Has the system, which is led here, know that this server is there.
    pub(super) async fn enter_system(&self) -> Result<(), Error> {
        let join = self.join_message();
        self.take_in(&join).await.map(drop)
    }

    async fn take_in(&self, join: &msg::Join) -> Result<Rank, Error> {
        let command = SystemCommand::Join {
            server: join.server,
            token: (!join.token.is_empty()).then(|| hash(&join.token)),
            address: join.address.clone(),
            fault_path: join.fault_path.clone(),
            targets: join.targets,
            incarnation: join.incarnation,
            now: rt::wall_micros(),
        };
        match self.system.propose(None, None, &command).await?? {
            SystemDone::Rank { rank } => Ok(rank),
            _ => Err(Error::new(Code::Protocol, "joining gave no rank")),
        }
    }

    /// A server joins, or is back: as the system's leader.
    pub(super) async fn admit(&self, join: msg::Join) -> Result<Vec<u8>, Error> {
        if join.address.parse::<net::Address>().is_err() {
            return Err(Error::new(Code::Invalid, format!("'{}' is no address", join.address)));
        }
        let rank = self.take_in(&join).await?;
        self.peers.learn(rank, join.incarnation, &join.address);
        let addresses = self
            .system
            .group
            .local(|system| system.members.iter().map(|(rank, m)| (*rank, m.incarnation, m.address.clone())).collect());
        let joined = msg::Joined {
            system: types::SystemId::from_bytes(self.system_group().0),
            name: self.system_name(),
            rank,
            applied: self.system.group.applied(),
            addresses,
        };
        Ok(joined.to_bytes())
    }

    /// Remembers where a server says it is, before the state says so: there may be nobody to lead until it is found.
    pub(super) fn note_address(&self, join: &msg::Join) {
        let rank = self.system.group.local(|system| system.rank_of(join.server));
        if let Some(rank) = rank.filter(|rank| *rank != self.rank) {
            self.peers.learn(rank, join.incarnation, &join.address);
        }
    }

    /// Has the system know that this server cannot take part, and why. Whoever leads is asked, and as this server may not know who
    /// that is, everybody.
    ///
    /// # Errors
    /// Nobody who leads has heard it.
    pub(super) async fn withdraw(&self, trouble: Error) -> Result<(), Error> {
        let is_known = self.system.group.local(|system| {
            system.members.get(&self.rank).is_some_and(|me| match me.state {
                MemberState::Joined => false,
                MemberState::Excluded => me.trouble.as_ref().is_some_and(|known| known.code == trouble.code),
                // Whatever is wrong with it: an administrator wants it out.
                MemberState::Stopped | MemberState::AdminExcluded => true,
            })
        });
        // A replica that stands still does not hear what came of it.
        let now = Some((trouble.code, self.system.group.applied()));
        if is_known || self.life.withdrawn.get() == now {
            return Ok(());
        }
        let incarnation = self.kept.borrow().identity.incarnation;
        let command = SystemCommand::Withdraw { rank: self.rank, incarnation, trouble };
        let mut told = self.tell_system(None, command.clone()).await.map(drop);
        for other in self.known_others() {
            if told.is_ok() {
                break;
            }
            told = self.propose_at(other, None, command.clone()).await.map(drop);
        }
        self.life.withdrawn.set(now.filter(|_| told.is_ok()));
        told
    }

    /// Whether one of the replicas here stands still for want of room.
    fn is_full(&self) -> bool {
        self.system.group.is_full() || self.pools.borrow().values().any(|slot| slot.group.is_full())
    }

    /// Withdraws this server when one of its replicas stands still because the disk is full: what is decided meanwhile would
    /// wait for what its targets do about it. When there is room, its replicas learn that it is out, and it says hello.
    pub(super) async fn watch_room(self: Rc<Self>) {
        loop {
            rt::sleep(LOOK_FOR_ROOM).await;
            if self.is_full() {
                let full =
                    Error::new(Code::NoSpace, "the disk that the server keeps the services' replicas on is full");
                let full = full.remedy("make room there; the server goes on by itself");
                if let Err(error) = self.withdraw(full).await {
                    tracing::debug!(%error, "nobody hears that the disk here is full");
                }
            }
        }
    }

    /// Takes the addresses of the others from the state.
    pub(super) fn learn_addresses(&self) {
        self.system.group.local(|system| {
            for (rank, member) in system.members.iter().filter(|(rank, _)| **rank != self.rank) {
                self.peers.learn(*rank, member.incarnation, &member.address);
            }
        });
    }

    /// Keeps where the others are, for the next start; not at every change, when a whole system comes up.
    pub(super) async fn keep_addresses(self: Rc<Self>) {
        let path = book::path(&self.config.directory);
        let mut kept = book::read(&path);
        loop {
            let pause = if self.others().is_empty() { ALONE } else { KEEP_EVERY };
            rt::sleep(pause).await;
            let known = book::Book { entries: self.peers.entries(self.rank) };
            if known == kept {
                continue;
            }
            match book::keep(&path, &known) {
                Ok(()) => kept = known,
                Err(error) => tracing::debug!(%error, "where the others are is not kept"),
            }
        }
    }

    /// Takes part in finding out who lives.
    pub(super) async fn watch_life(self: Rc<Self>) {
        let mut sending = rt::TaskSet::new();
        let mut greeted = None;
        let mut watch = self.system.group.watch();
        loop {
            let came = self.life.came.notified();
            let others = self.others();
            if others.is_empty() || !self.is_current.get() {
                // Nobody to listen to: whoever comes is a member first, which changes the state.
                let pause = if self.is_current.get() { ALONE } else { GREET_EVERY / 4 };
                // Others may take this server for one of them all the same; what it would answer is out of date by then.
                if let Some(membership) = &mut *self.life.membership.borrow_mut() {
                    membership.take_messages();
                }
                if let Ok(None) = rt::timeout(pause, watch.changed()).await {
                    return;
                }
                continue;
            }
            let (messages, living, next) = {
                let mut membership = self.life.membership.borrow_mut();
                let membership = membership.get_or_insert_with(|| self.begin_to_listen(others.len()));
                membership.resize(others.len() + 1);
                let now = self.life.now();
                membership.tick(now);
                if greeted.is_none_or(|at: rt::Instant| at.elapsed() >= GREET_EVERY) {
                    let living: BTreeSet<Rank> = membership.living().map(|life| life.rank).collect();
                    let mut silent: Vec<Life> =
                        others.iter().filter(|life| !living.contains(&life.rank)).copied().collect();
                    for _ in 0..GREETED_MAX.min(silent.len()) {
                        let life = silent.swap_remove(rt::random_u64() as usize % silent.len());
                        membership.join(now, life);
                    }
                    greeted = Some(rt::now());
                }
                for event in membership.take_events() {
                    // The leader draws conclusions.
                    self.system.reported.notify_waiters();
                    if let Event::Up(life) = event {
                        self.peers.heard_of(life.rank);
                        self.life.seen.borrow_mut().insert((life.rank, life.start));
                    }
                    tracing::debug!(me = %self.rank, ?event, "who lives");
                }
                let next = membership.next().map_or(GREET_EVERY, |at| at.saturating_sub(now));
                let messages = membership.take_messages();
                let living: BTreeSet<Rank> = match messages.is_empty() {
                    true => BTreeSet::new(),
                    false => membership.living().map(|life| life.rank).collect(),
                };
                (messages, living, next)
            };
            for (to, message) in messages {
                let address = (!living.contains(&to.rank)).then(|| (self.incarnation(), self.config.address.clone()));
                let body = msg::Gossip { from: self.rank, address, message: Bytes(message) }.to_bytes();
                // One that is lost is nothing bad.
                let me = Rc::clone(&self);
                sending.spawn_local(async move {
                    let sent = rt::now();
                    if let Ok(answer) = me.peers.ask(to.rank, Opcode::Gossip, body, GOSSIP_MAX).await {
                        me.note_clock(to.rank, sent, &answer);
                    }
                });
            }
            let _ = rt::timeout(next.min(GREET_EVERY), came).await;
        }
    }

    fn begin_to_listen(&self, others: usize) -> Membership {
        self.life.began.set(Some(rt::now()));
        self.life.seen.borrow_mut().clear();
        self.life.missing.borrow_mut().clear();
        let start = self.kept.borrow().identity.incarnation;
        let me = Life { rank: self.rank, start, renewed: 0 };
        Membership::new(me, &self.config.detection.membership(), others + 1, rt::random_u64())
    }

    /// The other servers that the state counts as there; those that were stopped live, too.
    pub(super) fn others(&self) -> Vec<Life> {
        let life =
            |(rank, member): (Rank, &super::system::Member)| Life { rank, start: member.incarnation, renewed: 0 };
        self.system.group.local(|system| {
            let members = system.members.iter().map(|(rank, member)| (*rank, member));
            let there =
                members.filter(|(_, member)| matches!(member.state, MemberState::Joined | MemberState::Stopped));
            there.filter(|(rank, _)| *rank != self.rank).map(life).collect()
        })
    }

    /// The other servers, as far as this one knows: those of [`Service::others`]; if there are none, or no state is here yet, all of
    /// which it ever heard. Without them a server that starts would take itself for one that is alone, when all others were out
    /// in what it knew last.
    pub(super) fn known_others(&self) -> BTreeSet<Rank> {
        let mut others: BTreeSet<Rank> = match self.system.group.local(|system| system.members.contains_key(&self.rank))
        {
            true => self.others().into_iter().map(|life| life.rank).collect(),
            false => BTreeSet::new(),
        };
        if others.is_empty() {
            others.extend(self.system.group.local(|system| system.members.keys().copied().collect::<Vec<_>>()));
            others.extend(self.peers.ranks());
            others.remove(&self.rank);
        }
        others
    }

    /// This server's vote alone is the system's majority.
    pub(super) fn decides(&self) -> bool {
        self.system.group.voters().iter().eq([&self.rank])
    }

    /// Who lives, as far as this server heard, itself included.
    pub(super) fn living(&self) -> BTreeSet<Rank> {
        let membership = self.life.membership.borrow();
        let others = membership.iter().flat_map(|membership| membership.living().map(|life| life.rank));
        others.chain([self.rank]).collect()
    }

    pub(super) fn take_gossip(&self, gossip: msg::Gossip) -> Result<Vec<u8>, Error> {
        let received = rt::wall_micros();
        if let Some((incarnation, address)) =
            gossip.address.filter(|_| gossip.from != self.rank && gossip.from != NOBODY)
        {
            self.peers.learn(gossip.from, incarnation, &address);
        }
        self.peers.heard_of(gossip.from);
        if !gossip.message.0.is_empty() {
            // Before this server listens there is nothing to be told.
            if let Some(membership) = &mut *self.life.membership.borrow_mut() {
                membership.handle(self.life.now(), &gossip.message.0);
            }
            self.life.came.notify_one();
        }
        Ok(msg::Gossiped { received, answered: rt::wall_micros() }.to_bytes())
    }

    /// Who counts as there and is not, as far as this server heard: ranks and incarnations.
    pub(super) fn lost(&self, system: &SystemState) -> Vec<(Rank, u64)> {
        let membership = self.life.membership.borrow();
        let Some(membership) = &*membership else { return Vec::new() };
        let living: BTreeSet<Rank> = membership.living().map(|life| life.rank).collect();
        let is_there = |rank, incarnation| system.joined().any(|(r, m)| (r, m.incarnation) == (rank, incarnation));
        let mut missing = self.life.missing.borrow_mut();
        missing.retain(|(rank, incarnation), _| !living.contains(rank) && is_there(*rank, *incarnation));
        let mut seen = self.life.seen.borrow_mut();
        seen.retain(|(rank, incarnation)| living.contains(rank) || is_there(*rank, *incarnation));
        let mut lost = Vec::new();
        for (rank, member) in system.joined().filter(|(rank, _)| *rank != self.rank && !living.contains(rank)) {
            let life = (rank, member.incarnation);
            let since = *missing.entry(life).or_insert_with(rt::now);
            if seen.contains(&life) || since.elapsed() > GRACE {
                lost.push(life);
            }
        }
        lost
    }
}

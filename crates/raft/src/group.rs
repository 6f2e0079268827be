//! [`Group`]: one replica of a replicated service, and all that a service and a server ask of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{Either, select};
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, Fatal, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::OneshotResponder;
use openraft::rt::{Instant as _, WatchReceiver as _};
use openraft::{ChangeMembers, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use rt::disk::{Disk, fs};
use tokio::sync::{Semaphore, watch};
use types::Rank;
use wire::Wire;
use wire::peer::LogId;

use self::hand_over::{HandingOver, lead_with_room, resign};
use crate::error::{ChangeError, OpenError, ProposeError, ReadError};
use crate::kinds::{Address, Answer, Command, GroupId, Leading, Peer, Request, Types};
use crate::limits::{
    ADDRESS_BYTES_MAX, APPEND_ENTRIES_MAX, COMMAND_BYTES_MAX, Config, IN_FLIGHT_MAX, MEMBERS_MAX, VOTERS_MAX,
};
use crate::log::{self, Log};
use crate::machine::{Replicated, StateMachine};
use crate::network::{Network, Peers};
use crate::news::{Subscription, Told};
use crate::runtime::{WatchReceiver, tick_every};
use crate::snapshot::{self, Driven};

mod files;
mod hand_over;
mod receive;
mod subscribe;

pub use self::files::{AtRest, Dictated, at_rest, look_at};
use self::files::{Files, last_members, read_files};
use self::receive::Incoming;

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows and does not vote.
    Learner,
    Follower,
    Candidate,
    Leader,
    /// It does nothing any more.
    Stopped,
}

/// How a replica stands, at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub role: Role,
    /// Grows with every election; a leader is the only one of its term.
    pub term: u64,
    pub leader: Option<Peer>,
    /// Index of the last entry that the state includes.
    pub applied: Option<u64>,
}

/// Who belongs to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// While the voters change, those of before and after together.
    pub voters: BTreeSet<Rank>,
    /// Voters and learners, and where they are reached.
    pub addresses: BTreeMap<Rank, Address>,
    /// The last change is committed.
    pub is_settled: bool,
}

/// One replica of a replicated service. Not `Send`: it lives on the thread of its service.
///
/// Dropping it stops the replica as a crash would; [`Group::shutdown`] does it in good order.
pub struct Group<S: StateMachine> {
    me: Peer,
    id: GroupId,
    config: Config,
    raft: Raft<Types, Driven<S>>,
    state: Rc<RefCell<Replicated<S>>>,
    /// What was told here while this replica was no voter.
    subscription: RefCell<Subscription<S>>,
    /// Of `state` and `subscription`.
    changed: watch::Sender<()>,
    /// A whole state that subscribers are told.
    told: RefCell<Option<Told>>,
    log: Log,
    in_flight: Semaphore,
    /// The snapshot that is coming in.
    incoming: RefCell<Option<Incoming>>,
    /// The applied index at which a snapshot was last asked for because of bytes.
    relieved: Cell<u64>,
    /// Whether it may stand for election.
    may_lead: Cell<bool>,
    /// When a leader was heard of last.
    heard: Cell<rt::Instant>,
    handing_over: Rc<HandingOver>,
    _flusher: rt::TaskSet,
    _lock: Disk,
}

impl<S: StateMachine> Group<S> {
    /// Makes a new group of which this replica is the only voter, in a directory without one.
    ///
    /// `machine` is the state before the first command; every replica of the group begins with the same.
    ///
    /// # Errors
    /// `Exists`, `Disk`, `Config`. After a crash in here, it may be called again; `Exists` then says that it was nearly
    /// done, and [`Group::open`] goes on.
    pub async fn create(
        directory: &Path,
        id: GroupId,
        me: Peer,
        machine: S,
        peers: Rc<dyn Peers>,
        config: Config,
    ) -> Result<Group<S>, OpenError> {
        fs::create_dir_all(directory)?;
        let files = Files::lock(directory)?;
        let log = files.fresh_log(id, me.rank)?;
        let group = Group::start(files, id, me.clone(), Replicated::new(machine), None, log, peers, config).await?;
        match group.raft.initialize(BTreeMap::from([(me.rank, me.address)])).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(group),
            Err(RaftError::APIError(error)) => Err(OpenError::Stopped(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(OpenError::Stopped(error.to_string())),
        }
    }

    /// Makes a replica that knows nothing yet, in a directory without one: the leader finds it once it is a member.
    ///
    /// # Errors
    /// As of [`Group::create`].
    pub async fn join(
        directory: &Path,
        id: GroupId,
        me: Peer,
        machine: S,
        peers: Rc<dyn Peers>,
        config: Config,
    ) -> Result<Group<S>, OpenError> {
        fs::create_dir_all(directory)?;
        let files = Files::lock(directory)?;
        let log = files.fresh_log(id, me.rank)?;
        Group::start(files, id, me, Replicated::new(machine), None, log, peers, config).await
    }

    /// Opens a replica that was made before. `machine` is the same as then.
    ///
    /// # Errors
    /// `Missing`, `Foreign`, `Corrupt`, `Disk`, `Config`.
    pub async fn open(
        directory: &Path,
        id: GroupId,
        me: Peer,
        machine: S,
        peers: Rc<dyn Peers>,
        config: Config,
    ) -> Result<Group<S>, OpenError> {
        if !log::exists(directory) {
            return Err(OpenError::Missing { path: directory.to_owned() });
        }
        let files = Files::lock(directory)?;
        let (log, state, snapshot) = read_files(directory, id, me.rank, machine)?;
        Group::start(files, id, me, state, snapshot, log, peers, config).await
    }

    #[expect(clippy::too_many_arguments, reason = "the three ways in gather here")]
    async fn start(
        files: Files,
        id: GroupId,
        me: Peer,
        state: Replicated<S>,
        snapshot: Option<snapshot::Body>,
        log: Log,
        peers: Rc<dyn Peers>,
        config: Config,
    ) -> Result<Group<S>, OpenError> {
        check_address(&me.address).map_err(OpenError::Config)?;
        let settings = settings(&config)?;
        let mut flusher = rt::TaskSet::new();
        flusher.spawn_local(log.clone().run());
        tick_every(config.tick);
        let is_alone = last_members(&log, &state.members).voter_ids().eq([me.rank]);
        let state = Rc::new(RefCell::new(state));
        let changed = watch::Sender::new(());
        let room = log.room().clone();
        let driven = Driven::new(&files.directory, id, Rc::clone(&state), changed.clone(), snapshot, room);
        let network = Network { peers, group: id, me: me.rank };
        let raft = Raft::new(me.rank, Arc::new(settings), network, log.clone(), driven)
            .await
            .map_err(|error| OpenError::Stopped(error.to_string()))?;
        // Who votes alone need not wait for anybody: the library would, for a tick of its clock.
        if is_alone {
            let _ = raft.trigger().elect(false).await;
        }
        flusher.spawn_local(tick_for_others(me.rank, raft.clone()));
        let handing_over = Rc::new(HandingOver::default());
        flusher.spawn_local(lead_with_room(me.rank, raft.clone(), log.room().clone(), Rc::clone(&handing_over)));
        flusher.spawn_local(resign(raft.clone(), log.clone(), Rc::clone(&handing_over), 3 * config.election_max));
        Ok(Group {
            me,
            id,
            config,
            raft,
            state,
            subscription: RefCell::new(Subscription::new()),
            changed,
            told: RefCell::new(None),
            log,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            incoming: RefCell::new(None),
            relieved: Cell::new(0),
            may_lead: Cell::new(true),
            heard: Cell::new(rt::now()),
            handing_over,
            _flusher: flusher,
            _lock: files.lock,
        })
    }

    pub fn me(&self) -> &Peer {
        &self.me
    }

    /// Has a command applied, once it is committed, and gives its response. With `request`, a repeat gets the first response.
    ///
    /// Cost: one durable write here and one round trip with a durable write to a majority; many at once share them.
    /// Dropping the future leaves the outcome open.
    ///
    /// # Errors
    /// [`ProposeError`] says after each whether something was done. `Unknown`: a repeat with the same request tells.
    pub async fn propose(&self, request: Option<Request>, command: &S::Command) -> Result<S::Response, ProposeError> {
        self.propose_in(None, request, command).await
    }

    /// As [`Group::propose`], if this replica leads in `term`: what was decided from the state of that reign.
    ///
    /// # Errors
    /// `NotLeader` too when it leads again, in another term.
    pub async fn propose_as(
        &self,
        term: u64,
        request: Option<Request>,
        command: &S::Command,
    ) -> Result<S::Response, ProposeError> {
        self.propose_in(Some(term), request, command).await
    }

    async fn propose_in(
        &self,
        term: Option<u64>,
        request: Option<Request>,
        command: &S::Command,
    ) -> Result<S::Response, ProposeError> {
        let bytes = command.to_bytes();
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: bytes.len(), limit: COMMAND_BYTES_MAX });
        }
        // What is taken now would be done when there is room, and nobody would be told.
        if self.log.room().is_full() {
            let voters = self.members().voters;
            return Err(match voters.len() {
                0 | 1 => ProposeError::Full,
                _ => ProposeError::NotLeader { leader: None },
            });
        }
        let _permit = self.in_flight.try_acquire().map_err(|_| ProposeError::Busy)?;
        self.relieve().await;
        let (responder, answer) = OneshotResponder::new_pair();
        let mut write = self.raft.write(Command { request, bytes }).responder(responder);
        if let Some(term) = term {
            write = write.with_leader(Leading::new(term));
        }
        let outcome = rt::timeout(self.config.patience, async {
            write.await.map_err(|error| ProposeError::Stopped { cause: error.to_string() })?;
            answer.await.map_err(|_| ProposeError::Unknown { cause: "the replica stopped".into() })
        });
        let written = match outcome.await {
            Ok(outcome) => outcome?,
            Err(rt::Elapsed) => return Err(ProposeError::Unknown { cause: "no majority answers".into() }),
        };
        let answer = written.map_err(|error| match error {
            ClientWriteError::ForwardToLeader(to) => ProposeError::NotLeader { leader: self.leader(to) },
            ClientWriteError::LogEntryDiscarded(_) => {
                ProposeError::Unknown { cause: "the leader changed before it was committed".into() }
            }
            other => ProposeError::Unknown { cause: other.to_string() },
        })?;
        match answer.data {
            Answer::Response(bytes) => S::Response::from_bytes(&bytes).map_err(|_| ProposeError::Unreadable),
            Answer::Forgotten => Err(ProposeError::Forgotten),
            Answer::Nothing | Answer::TooLarge => Err(ProposeError::Unreadable),
        }
    }

    /// Looks at the state, which includes every command that was answered, by whomever, before this was called.
    ///
    /// Cost: one round trip to a majority, without a write.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read<R>(&self, look: impl FnOnce(&S) -> R) -> Result<R, ReadError> {
        let _permit = self.in_flight.try_acquire().map_err(|_| ReadError::Busy)?;
        let stopped = |error: Fatal<Types>| ReadError::Stopped { cause: error.to_string() };
        let confirmed = rt::timeout(self.config.patience, async {
            let reader = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
            let reader = reader.map_err(|error| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
                    ReadError::NotLeader { leader: self.leader(to) }
                }
                RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoMajority,
                RaftError::Fatal(error) => stopped(error),
            })?;
            reader.await_ready(&self.raft).await.map(drop).map_err(stopped)
        });
        match confirmed.await {
            Ok(Ok(())) => Ok(self.local(look)),
            Ok(Err(error)) => Err(error),
            Err(rt::Elapsed) => Err(ReadError::NoMajority),
        }
    }

    /// Looks at the state as it is known here, which may be behind: this replica's, or what was told since.
    pub fn local<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        let replica = self.state.borrow();
        match self.subscription.borrow().copy().filter(|copy| Some(copy.at) > replica.log_id()) {
            Some(copy) => look(&copy.machine),
            None => look(&replica.machine),
        }
    }

    /// The response of a request that this replica knows to have taken effect. Behind a [`Group::read`], `None` says that none
    /// has, as long as the session is remembered.
    pub fn recall(&self, request: Request) -> Option<S::Response> {
        let known = self.state.borrow().recall(request)?;
        S::Response::from_bytes(&known).ok()
    }

    /// Index of the last entry that the state here includes.
    pub fn applied(&self) -> u64 {
        self.log_id().map_or(0, |id| id.index)
    }

    /// The last entry that the state here includes.
    pub fn log_id(&self) -> Option<LogId> {
        self.state.borrow().log_id().max(self.subscription.borrow().copy().map(|copy| copy.at))
    }

    /// As the library says it, or else as it was told here.
    fn leader(&self, to: ForwardToLeader<Types>) -> Option<Peer> {
        leader(to).or_else(|| self.standing().leader).filter(|leader| leader.rank != self.me.rank)
    }

    /// A replica whose disk is full stands still: it may have been replaced as a leader, and not know.
    pub fn standing(&self) -> Standing {
        let standing = standing(&self.raft.metrics().borrow_watched());
        match standing.role {
            Role::Learner | Role::Candidate | Role::Follower if !self.is_fed() => {
                let subscription = self.subscription.borrow();
                // Addresses are not told here: whoever asks knows them.
                let told = subscription.leader.map(|rank| Peer { rank, address: Address(String::new()) });
                let (applied, term) = (self.log_id().map(|id| id.index), subscription.term);
                match subscription.term >= standing.term || told.is_some() {
                    true => Standing { role: standing.role, term, leader: told, applied },
                    false => Standing { applied, ..standing },
                }
            }
            Role::Leader if self.log.room().is_full() && self.members().voters.len() > 1 => {
                Standing { role: Role::Follower, leader: None, ..standing }
            }
            _ => standing,
        }
    }

    /// Whether the disk is full, so that this replica stands still.
    pub fn is_full(&self) -> bool {
        self.log.room().is_full()
    }

    /// True if this replica leads in `term`, as far as it knows: what a reconciler asks before each step. What must not
    /// happen in another reign goes through [`Group::propose_as`].
    pub fn is_leader(&self, term: u64) -> bool {
        let standing = self.standing();
        standing.role == Role::Leader && standing.term == term
    }

    /// Tells of changes of the [`Standing`].
    pub fn watch(&self) -> Watch {
        Watch { metrics: self.raft.metrics(), changed: self.changed.subscribe() }
    }

    /// Who votes, as far as is known here: by consensus, or as was told.
    pub fn voters(&self) -> BTreeSet<Rank> {
        let told = self.subscription.borrow().voters.clone();
        if self.is_fed() || told.is_empty() { self.members().voters } else { told }
    }

    /// As consensus has it here: of a replica that is not fed by it, who belonged to the group once.
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        Members {
            voters: membership.voter_ids().collect(),
            addresses: membership.membership().nodes().map(|(rank, address)| (*rank, address.clone())).collect(),
            is_settled: metrics.membership_config == metrics.committed_membership_config,
        }
    }

    /// Entries that `rank` lacks, as far as this leader knows. `None`: it does not lead, or `rank` has nothing yet.
    pub fn lag(&self, rank: Rank) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let has = (*metrics.replication.as_ref()?.get(&rank)?)?;
        Some(metrics.last_log_index.unwrap_or(0).saturating_sub(has.index))
    }

    /// Of `ranks`, those that answered this leader lately: within the time after which they would look for another. `None`: it does
    /// not lead.
    fn answering(&self, ranks: &BTreeSet<Rank>) -> Option<usize> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref()?;
        let is_recent = |rank: &&Rank| {
            let last = heard.get(*rank).copied().flatten();
            **rank == self.me.rank || last.is_some_and(|last| last.elapsed() <= self.config.election_max)
        };
        Some(ranks.iter().filter(is_recent).count())
    }

    /// Makes a replica, which has joined or will, a learner: it gets the log, and does not vote. Fine if it is a member.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, peer: &Peer) -> Result<(), ChangeError> {
        check_address(&peer.address).map_err(ChangeError::Invalid)?;
        let members = self.members();
        if members.addresses.get(&peer.rank) == Some(&peer.address) {
            return Ok(());
        }
        if members.addresses.len() >= MEMBERS_MAX {
            return Err(ChangeError::Invalid(format!("a group has at most {MEMBERS_MAX} members")));
        }
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(peer.rank, peer.address.clone())])), true).await
    }

    /// Makes exactly these members vote; those that voted before become learners. Both majorities, of before and after,
    /// agree to it. Wait until [`Group::lag`] is small before a learner votes: the group waits for it else.
    ///
    /// What is begun cannot be taken back: the leader decides nothing more until both majorities agree. So it is not begun while
    /// most of `voters` are silent, whoever else is there.
    ///
    /// # Errors
    /// [`ChangeError`]; `Silent`: ask again in a moment.
    pub async fn set_voters(&self, voters: &BTreeSet<Rank>) -> Result<(), ChangeError> {
        if voters.is_empty() || voters.len() > VOTERS_MAX {
            return Err(ChangeError::Invalid(format!("a group has 1 to {VOTERS_MAX} voters")));
        }
        // One that does not lead is refused below.
        if let Some(answering) = self.answering(voters) {
            let members = self.members();
            if let Some(stranger) = voters.iter().find(|rank| !members.addresses.contains_key(rank)) {
                return Err(ChangeError::NoMember(*stranger));
            }
            if answering <= voters.len() / 2 {
                return Err(ChangeError::Silent { answering, voters: voters.len() });
            }
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters.clone()), true).await
    }

    /// Removes a replica from the group. Fine if it is no member. A leader may remove itself: it hands over.
    ///
    /// # Errors
    /// [`ChangeError`]; `Invalid` for the last voter.
    pub async fn remove(&self, rank: Rank) -> Result<(), ChangeError> {
        let members = self.members();
        if !members.addresses.contains_key(&rank) {
            return Ok(());
        }
        match members.voters.contains(&rank) {
            true if members.voters.len() == 1 => Err(ChangeError::Invalid("a group keeps one voter".into())),
            // In one go: a leader that took its vote first would not be there to remove itself.
            true => self.change(ChangeMembers::RemoveVoters(BTreeSet::from([rank])), false).await,
            false => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([rank])), true).await,
        }
    }

    async fn change(&self, change: ChangeMembers<Rank, Address>, retain: bool) -> Result<(), ChangeError> {
        // A leader that has removed itself leads on for a moment, until the others know. It may change nothing more: the
        // library asserts that who changes members is one.
        if !self.members().addresses.contains_key(&self.me.rank) {
            return Err(ChangeError::NotLeader { leader: None });
        }
        let changed = match rt::timeout(self.config.patience, self.raft.change_membership(change, retain)).await {
            Ok(changed) => changed,
            Err(rt::Elapsed) => return Err(ChangeError::Unknown { cause: "no majority answers".into() }),
        };
        changed.map(drop).map_err(|error| match error {
            RaftError::Fatal(error) => ChangeError::Stopped { cause: error.to_string() },
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => ChangeError::NotLeader { leader: leader(to) },
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                    ChangeError::InProgress
                }
                ChangeMembershipError::LearnerNotFound(missing) => ChangeError::NoMember(missing.node_id),
                other => ChangeError::Invalid(other.to_string()),
            },
            RaftError::APIError(other) => ChangeError::Unknown { cause: other.to_string() },
        })
    }

    /// Whether this replica may stand for election when nobody leads. One that leads goes on: see [`Group::hand_over`]. One that
    /// votes alone is elected when it starts, by nobody's leave.
    pub fn may_lead(&self, may: bool) {
        self.may_lead.set(may);
        self.raft.runtime_config().elect(may);
    }

    /// Asks `rank` to lead from now on; it does so when it has the whole log. Before a planned stop, so that nobody waits
    /// for an election timeout. Watch the [`Standing`] to see it happen.
    pub async fn hand_over(&self, rank: Rank) {
        self.handing_over.begin(&self.raft, rank).await;
    }

    /// Makes a snapshot soon, and shortens the log behind it.
    pub async fn shorten(&self) {
        let _ = self.raft.trigger().snapshot().await;
    }

    /// Stops the replica in good order. Its files can be opened again when this returns.
    pub async fn shutdown(self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "the replica did not stop in good order");
        }
    }
}

fn check_address(address: &Address) -> Result<(), String> {
    match address.0.len() {
        0..=ADDRESS_BYTES_MAX => Ok(()),
        bytes => Err(format!("an address of {bytes} bytes is longer than {ADDRESS_BYTES_MAX}")),
    }
}

/// Lets the library's clock stand while this replica is all there is of its group, and leads: it would wake 50 times a second, to
/// look whether somebody is to be told that it does. Standing, it wakes nobody; it goes on before anybody is a member.
async fn tick_for_others<S: StateMachine>(me: Rank, raft: Raft<Types, Driven<S>>) {
    let mut metrics = raft.metrics();
    loop {
        let is_alone = {
            let metrics = metrics.borrow_and_update();
            let members = metrics.membership_config.membership();
            metrics.state == ServerState::Leader && members.nodes().map(|(rank, _)| *rank).eq([me])
        };
        raft.runtime_config().tick(!is_alone);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn settings(config: &Config) -> Result<openraft::Config, OpenError> {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let settings = openraft::Config {
        cluster_name: "daos".into(),
        heartbeat_interval: millis(config.heartbeat),
        election_timeout_min: millis(config.election_min),
        election_timeout_max: millis(config.election_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
        max_in_snapshot_log_to_keep: config.kept_entries,
        replication_lag_threshold: config.snapshot_entries + config.kept_entries,
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: 60_000,
        api_channel_size: Some(2 * IN_FLIGHT_MAX as u64),
        // A replica that was cut off does not depose a leader when it comes back.
        enable_pre_vote: Some(true),
        // A leader that comes back after a restart asks for votes like everybody.
        enable_leader_restore: Some(false),
        backoff: "100ms 100ms 100ms".into(),
        ..openraft::Config::default()
    };
    settings.validate().map_err(|error| OpenError::Config(error.to_string()))
}

fn leader(to: ForwardToLeader<Types>) -> Option<Peer> {
    Some(Peer { rank: to.leader_id?, address: to.leader_node? })
}

fn standing(metrics: &RaftMetrics<Types>) -> Standing {
    let role = match (&metrics.running_state, metrics.state) {
        (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
        (Ok(()), ServerState::Learner) => Role::Learner,
        (Ok(()), ServerState::Follower) => Role::Follower,
        (Ok(()), ServerState::Candidate) => Role::Candidate,
        (Ok(()), ServerState::Leader) => Role::Leader,
    };
    let address = |rank: Rank| metrics.membership_config.membership().get_node(&rank).cloned();
    let leader = metrics.current_leader.and_then(|rank| Some(Peer { rank, address: address(rank)? }));
    Standing { role, term: metrics.current_term, leader, applied: metrics.last_applied.map(|id| id.index) }
}

/// Tells of changes of a replica's [`Standing`]. Changes that follow each other quickly are told as one.
pub struct Watch {
    metrics: WatchReceiver<RaftMetrics<Types>>,
    changed: watch::Receiver<()>,
}

impl Watch {
    pub fn standing(&self) -> Standing {
        standing(&self.metrics.borrow_watched())
    }

    /// Waits for something to change, of the replica or of what is told here. `None`: the replica is gone.
    pub async fn changed(&mut self) -> Option<Standing> {
        {
            let metrics = pin!(self.metrics.changed());
            let told = pin!(self.changed.changed());
            match select(metrics, told).await {
                Either::Left((changed, _)) => changed.ok()?,
                Either::Right((changed, _)) => changed.ok()?,
            }
        }
        Some(standing(&self.metrics.borrow_and_update()))
    }
}

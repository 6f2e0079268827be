//! One replica of a service here, and what its leader must know beside the state.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use raft::{
    Candidate, ChangeError, Config, Group, GroupId, OpenError, Peer, ProposeError, ReadError, Request, Role,
    StateMachine, choose_spare, choose_voters,
};
use tokio::sync::{Mutex, Notify, watch};
use types::{Code, ContainerId, Error, Rank};
use wire::peer::{Filling, LogId, Placing};

use super::peers::{GroupPeers, Peers};
use super::pool::PoolState;
use super::system::SystemState;

/// Voters wanted of a group: it bears two failures.
const VOTERS_WANTED: usize = 5;
/// How long a majority may take to confirm that this replica leads.
const CONFIRM_MAX: Duration = Duration::from_secs(1);
/// A learner that lacks more entries than this does not vote yet: the group would wait for it.
const LAG_MAX: u64 = 64;
/// A server that is to vote has the log after so long, or somebody else is tried; it is tried again after the second.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);
const LATE_FOR: Duration = Duration::from_secs(120);

/// How far a server has followed a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// In which life of the server, and at which moment of its monotonic clock.
    pub(super) said: (u64, u64),
    pub(super) version: u64,
    /// By what its targets place the pool's data.
    pub(super) placing: Placing,
    /// How far each of its targets has got with what it is to have, while something is on its way.
    pub(super) filling: Vec<Filling>,
    /// Widths that its targets want in use.
    pub(super) widths: BTreeSet<u32>,
    /// What stood in its way: with a container, or with all of it.
    pub(super) trouble: Vec<(Option<ContainerId>, Error)>,
}

impl Followed {
    /// All its targets have what they are to have by that version of the pool's map.
    pub(super) fn is_full(&self, version: u32) -> bool {
        !self.filling.is_empty() && self.filling.iter().all(|filling| filling.version == version)
    }

    /// By the same map, its targets place otherwise than those of `other`.
    fn disagrees(&self, other: &Followed) -> bool {
        let (mine, theirs) = (self.placing, other.placing);
        mine.version == theirs.version && mine.version != 0 && mine.digest != theirs.digest
    }

    /// Takes another report in its place, unless that was so long under way that this one was said later. True if it did.
    fn replace(&mut self, other: Followed) -> bool {
        let is_newer = other.said >= self.said;
        if is_newer {
            *self = other;
        }
        is_newer
    }
}

/// A state, as far as it says whose reports count.
pub(super) trait Followers {
    /// A server that has to do what the state says, or had to.
    fn has_follower(&self, rank: Rank) -> bool;
}

impl Followers for SystemState {
    fn has_follower(&self, rank: Rank) -> bool {
        self.members.contains_key(&rank)
    }
}

impl Followers for PoolState {
    fn has_follower(&self, rank: Rank) -> bool {
        self.servers().iter().any(|server| server.rank == rank)
    }
}

/// A replica, the lock of its one change at a time, and the reports of those who follow it.
pub(super) struct Slot<S: StateMachine> {
    pub(super) group: Rc<Group<S>>,
    pub(super) changes: Mutex<()>,
    /// By rank, of servers that the state knows. True whoever leads: what was followed stays so.
    pub(super) reports: RefCell<BTreeMap<Rank, Followed>>,
    /// Something was reported, so many times.
    pub(super) reported: Notify,
    pub(super) heard: Cell<u64>,
    /// The state as it was looked at last, and the last command that it had in.
    looked: RefCell<Option<(Option<LogId>, Rc<S>)>>,
    /// This server's targets once agreed with the state, since the start.
    pub(super) is_settled: Cell<bool>,
    /// The replica is about to be closed: nobody is to wait for news of it.
    pub(super) ending: watch::Sender<bool>,
    /// Learners that are to vote, and since when they are waited for.
    awaited: RefCell<BTreeMap<Rank, rt::Instant>>,
    /// The members of the group were what they should be when it was looked at last. Until then it is looked at often: a
    /// service that is not redundant yet dies with its leader.
    pub(super) is_tended: Cell<bool>,
    pub(super) tasks: RefCell<rt::TaskSet>,
}

impl<S: StateMachine> Slot<S> {
    pub(super) fn new(group: Group<S>) -> Slot<S> {
        Slot {
            group: Rc::new(group),
            changes: Mutex::default(),
            reports: RefCell::default(),
            reported: Notify::new(),
            heard: Cell::new(0),
            looked: RefCell::default(),
            is_settled: Cell::new(false),
            ending: watch::Sender::new(false),
            awaited: RefCell::default(),
            is_tended: Cell::new(false),
            tasks: RefCell::default(),
        }
    }

    /// The term in which this replica leads, if it does.
    pub(super) fn reign(&self) -> Option<u64> {
        let standing = self.group.standing();
        (standing.role == Role::Leader).then_some(standing.term)
    }

    /// The term of this reign, once a majority has confirmed that it goes on; whoever asks then sees all that was answered.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) async fn confirm(&self) -> Result<u64, ReadError> {
        self.confirm_within(CONFIRM_MAX).await
    }

    /// As [`Slot::confirm`], for who has less time.
    pub(super) async fn confirm_within(&self, within: Duration) -> Result<u64, ReadError> {
        // A leader that has lost its majority finds out in its own, longer, time; who asks can look elsewhere meanwhile.
        rt::timeout(within.min(CONFIRM_MAX), self.group.read(|_| ())).await.unwrap_or(Err(ReadError::NoMajority))?;
        self.reign().ok_or(ReadError::NotLeader { leader: None })
    }

    pub(super) async fn propose(
        &self,
        term: Option<u64>,
        request: Option<Request>,
        command: &S::Command,
    ) -> Result<S::Response, Error> {
        let proposed = match term {
            Some(term) => self.group.propose_as(term, request, command).await,
            None => self.group.propose(request, command).await,
        };
        proposed.map_err(not_proposed)
    }

    /// Waits until the state here answers.
    ///
    /// # Errors
    /// `TimedOut`; `ShuttingDown`: the replica has stopped.
    pub(super) async fn wait<R>(&self, until: rt::Instant, mut look: impl FnMut(&S) -> Option<R>) -> Result<R, Error> {
        let mut watch = self.group.watch();
        loop {
            if let Some(found) = self.group.local(&mut look) {
                return Ok(found);
            }
            match rt::timeout(until - rt::now(), watch.changed()).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(Error::new(Code::ShuttingDown, "the service has stopped")),
                Err(_) => {
                    return Err(Error::new(Code::TimedOut, "it is under way, and not done yet").remedy("try again"));
                }
            }
        }
    }

    /// Waits until as much is applied here, or for so long. False when it took longer.
    pub(super) async fn follows(&self, applied: u64, patience: Duration) -> bool {
        let until = rt::now() + patience;
        while self.group.applied() < applied && rt::now() < until {
            rt::sleep(Duration::from_millis(5)).await;
        }
        self.group.applied() >= applied
    }

    /// Takes note of a report. One of a server that the state does not know says nothing about it: that server reports again when
    /// it has a part.
    pub(super) fn hear(&self, rank: Rank, followed: Followed)
    where
        S: Followers,
    {
        if !self.group.local(|state| state.has_follower(rank)) {
            return;
        }
        let mut reports = self.reports.borrow_mut();
        if reports.entry(rank).or_default().replace(followed) {
            self.heard.set(self.heard.get() + 1);
            self.reported.notify_waiters();
        }
    }

    /// Of servers that place otherwise than this one by the same map nothing that they report counts, and whoever waits for them
    /// hears why.
    pub(super) fn compare_placing(&self, me: Rank) {
        let mut reports = self.reports.borrow_mut();
        let Some(mine) = reports.get(&me).cloned() else { return };
        for (rank, other) in reports.iter_mut().filter(|(_, other)| other.disagrees(&mine)) {
            let Placing { version, digest } = other.placing;
            let text = format!(
                "rank {rank} places data otherwise than rank {me} by map {version}: digest {digest:016x}, not {:016x}",
                mine.placing.digest
            );
            if other.trouble.iter().all(|(_, known)| known.message != text) {
                tracing::error!("{text}");
                let remedy = "run the same release on all servers, and restart that one";
                other.trouble.push((None, Error::new(Code::Mismatch, text).remedy(remedy)));
            }
            other.filling.clear();
        }
    }

    /// The whole state as it is now, to be looked at across waits. Cost: a copy, when a command came in since the last time.
    pub(super) fn snapshot(&self) -> Rc<S>
    where
        S: Clone,
    {
        let applied = self.group.log_id();
        let mut looked = self.looked.borrow_mut();
        match &*looked {
            Some((known, state)) if *known == applied => Rc::clone(state),
            _ => {
                let state = Rc::new(self.group.local(S::clone));
                *looked = Some((applied, Rc::clone(&state)));
                state
            }
        }
    }

    /// Brings the members of the group nearer to what they should be: of `wanted`, those that are there and fail apart vote, and
    /// nobody else is a member, but one beside an only voter. Who is to vote is a learner first, until it has the log. One step at
    /// a time.
    ///
    /// # Errors
    /// `Again`, why it was not done: wait before the next turn. That it was tried is news of the replica by itself.
    pub(super) async fn tend(&self, wanted: &BTreeMap<Rank, Wanted>) -> Result<(), Error> {
        self.tend_once(wanted)
            .await
            .map_err(|why| Error::new(Code::Again, format!("the members stay as they are: {why}")))
    }

    async fn tend_once(&self, wanted: &BTreeMap<Rank, Wanted>) -> Result<(), ChangeError> {
        let members = self.group.members();
        self.is_tended.set(false);
        if !members.is_settled {
            return Ok(());
        }
        let has_log = |rank: &Rank| {
            members.voters.contains(rank)
                || (members.addresses.contains_key(rank) && self.group.lag(*rank).is_some_and(|lag| lag <= LAG_MAX))
        };
        let late = self.late(&members.addresses.keys().copied().filter(|rank| !has_log(rank)).collect());
        let candidates = |may_vote: &dyn Fn(&Rank) -> bool| -> Vec<Candidate> {
            let candidate = |(rank, want): (&Rank, &Wanted)| Candidate {
                rank: *rank,
                domain: want.domain,
                is_available: want.is_there && may_vote(rank),
            };
            wanted.iter().map(candidate).collect()
        };
        let is_member = |rank: &Rank| members.addresses.contains_key(rank);
        let possible = candidates(&|rank| !late.contains(rank));
        let best = choose_voters(&possible, &members.voters, VOTERS_WANTED);
        let spare = choose_spare(&possible, &best, is_member);
        let new: Vec<&Rank> = best.iter().chain(&spare).filter(|rank| !is_member(rank)).collect();
        if !new.is_empty() {
            let mut added = Ok(());
            for rank in new {
                let Some(want) = wanted.get(rank) else { continue };
                let peer = Peer { rank: *rank, address: raft::Address(want.address.clone()) };
                added = added.and(self.group.add_learner(&peer).await);
            }
            return added;
        }
        let voters = choose_voters(&candidates(&has_log), &members.voters, VOTERS_WANTED);
        if voters != members.voters {
            return self.group.set_voters(&voters).await;
        }
        let is_idle = |rank: &&Rank| !voters.contains(rank) && !best.contains(rank) && spare != Some(**rank);
        if let Some(gone) = members.addresses.keys().find(is_idle) {
            return self.group.remove(*gone).await;
        }
        let is_spare_ready = spare.is_none_or(|rank| has_log(&rank) || late.contains(&rank));
        self.is_tended.set(best == voters && is_spare_ready);
        Ok(())
    }

    /// Of these learners, those that were waited for in vain: others are to be tried, and they again some time later.
    fn late(&self, learners: &BTreeSet<Rank>) -> BTreeSet<Rank> {
        let mut awaited = self.awaited.borrow_mut();
        awaited.retain(|rank, since| {
            let age = since.elapsed();
            age < LATE_FOR && (learners.contains(rank) || age >= CATCH_UP_MAX)
        });
        for rank in learners {
            awaited.entry(*rank).or_insert_with(rt::now);
        }
        awaited.iter().filter(|(_, since)| since.elapsed() >= CATCH_UP_MAX).map(|(rank, _)| *rank).collect()
    }

    /// Has another voter lead, if this replica does.
    pub(super) async fn hand_over(&self, me: Rank) {
        let heirs: BTreeSet<Rank> = self.group.members().voters.into_iter().filter(|rank| *rank != me).collect();
        if self.reign().is_none() {
            return;
        }
        let Some(heir) = heirs.iter().min_by_key(|rank| self.group.lag(**rank).unwrap_or(u64::MAX)) else { return };
        self.group.hand_over(*heir).await;
        for _ in 0..20 {
            if self.reign().is_none() {
                return;
            }
            rt::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Closes the replica in good order, if nobody uses it any more.
    pub(super) async fn shutdown(self) {
        self.tasks.borrow_mut().abort_all();
        drop(self.tasks);
        let mut group = self.group;
        for _ in 0..1000 {
            match Rc::try_unwrap(group) {
                Ok(group) => return group.shutdown().await,
                Err(shared) => group = shared,
            }
            rt::sleep(Duration::from_millis(1)).await;
        }
        tracing::warn!("a request still uses a replica; it stops as a crash would stop it");
    }
}

/// A server that may vote in a group.
pub(super) struct Wanted {
    pub(super) address: String,
    /// What fails together with it.
    pub(super) domain: u64,
    pub(super) is_there: bool,
}

/// Opens the replica in a directory; makes one if there is none: the group's first, or one that waits for the leader.
///
/// # Errors
/// `Io`; `BadFormat`: it is damaged, or another's.
pub(super) async fn open_group<S: StateMachine + Clone>(
    directory: &Path,
    id: GroupId,
    me: Peer,
    machine: S,
    peers: &Rc<Peers>,
    is_first: bool,
    config: Config,
) -> Result<Group<S>, Error> {
    let way = || -> Rc<dyn raft::Peers> { Rc::new(GroupPeers { peers: Rc::clone(peers), group: id }) };
    let open = async |me: Peer, machine: S| Group::open(directory, id, me, machine, way(), config.clone()).await;
    let made = match is_first {
        // What is there and was never used, before a crash, is made anew; what was used is opened.
        true => match Group::create(directory, id, me.clone(), machine.clone(), way(), config.clone()).await {
            Err(OpenError::Exists { .. }) => open(me, machine).await,
            created => created,
        },
        false => match open(me.clone(), machine.clone()).await {
            Err(OpenError::Missing { .. }) => Group::join(directory, id, me, machine, way(), config.clone()).await,
            opened => opened,
        },
    };
    made.map_err(|error| match &error {
        OpenError::Corrupt { .. } | OpenError::Foreign { .. } => Error::new(Code::BadFormat, error.to_string())
            .remedy("restore the directory from a copy; the data of the targets is not touched"),
        _ => Error::new(Code::Io, error.to_string()),
    })
}

/// Why a command has no response, as who asked should hear it.
fn not_proposed(error: ProposeError) -> Error {
    let text = error.to_string();
    match error {
        ProposeError::NotLeader { .. } => Error::new(Code::Again, text),
        ProposeError::Full => Error::new(Code::NoSpace, text)
            .remedy("make room on the disk of the server's directory; it goes on by itself"),
        ProposeError::Busy => Error::new(Code::Overload, text).remedy("try again in a moment"),
        ProposeError::TooLarge { .. } => Error::new(Code::ValueTooBig, text).remedy("ask for less at once"),
        ProposeError::Unknown { .. } => Error::new(Code::TimedOut, text).remedy("try again"),
        ProposeError::Forgotten => {
            Error::new(Code::Uncertain, text).remedy("look at what it was to change, and decide anew")
        }
        ProposeError::Unreadable => Error::new(Code::Protocol, text).remedy("run the same release on all servers"),
        ProposeError::Stopped { .. } => {
            Error::new(Code::Io, text).remedy("look at the server's log, then restart the server")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_places_otherwise_by_the_same_map_disagrees() {
        let places = |version, digest| Followed { placing: Placing { version, digest }, ..Followed::default() };
        assert!(places(7, 1).disagrees(&places(7, 2)));
        for (one, other) in [((7, 1), (7, 1)), ((7, 1), (8, 2)), ((0, 0), (7, 1)), ((0, 1), (0, 2))] {
            assert!(!places(one.0, one.1).disagrees(&places(other.0, other.1)), "{one:?} {other:?}");
        }
    }

    /// "Half of it is here" was sent, its link hung, "all of it is here" came by another: and then the first one, late. The
    /// leader went by that, the server had nothing new to say, and a drain hung until another led.
    #[test]
    fn a_report_that_was_long_under_way_replaces_no_later_one() {
        let report = |said, version| Followed { said, version, ..Followed::default() };
        let mut known = Followed::default();
        assert!(known.replace(report((3, 20), 10)));
        assert!(!known.replace(report((3, 19), 10)));
        assert!(!known.replace(report((2, 90), 11)), "of an earlier life");
        assert!(known.replace(report((4, 1), 9)), "a server that starts anew begins anew");
        assert_eq!(known, report((4, 1), 9));
    }
}

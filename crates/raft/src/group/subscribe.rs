//! The state of a group where nobody votes: what a voter tells, and what becomes of it here ([`crate::news`]).

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::rt::WatchReceiver as _;
use tokio::sync::watch;
use types::Rank;
use wire::DecodeError;
use wire::peer::{LogId, Newer};

use super::{Group, Role, standing};
use crate::machine::{StateMachine, plain};
use crate::news::{self, Taken};

/// Leaders say something several times in it.
const SILENCE_MAX: Duration = Duration::from_secs(2);

impl<S: StateMachine> Group<S> {
    /// Whether consensus brings everything here: this replica votes, and hears of who leads. All others subscribe. Who was cut
    /// off may have heard who leads since, and not that it votes no more: nobody sends it anything.
    pub fn is_fed(&self) -> bool {
        let standing = standing(&self.raft.metrics().borrow_watched());
        let is_led = match standing.role {
            Role::Leader => true,
            Role::Follower => standing.leader.is_some() && self.heard.get().elapsed() < SILENCE_MAX,
            _ => false,
        };
        is_led && !self.log.room().is_full()
    }

    /// What became of the state since `have`, and who leads now, for a server that subscribes. `part`: of a whole state, it has so
    /// many bytes. `None`: consensus does not reach this replica, and it may not know what is new.
    ///
    /// Cost: some commands are copied; a whole state is encoded once for many.
    pub fn told(&self, have: Option<LogId>, part: Option<(LogId, u64)>) -> Option<Newer> {
        if !self.is_fed() {
            return None;
        }
        let replica = self.state.borrow();
        let encode = || replica.machine.to_bytes();
        Some(news::newer(&replica.recent, &mut self.told.borrow_mut(), replica.log_id(), encode, have, part))
    }

    /// Whether this replica has more than `have`; what it was told itself it does not tell.
    pub fn has_news(&self, have: Option<LogId>) -> bool {
        self.state.borrow().log_id() > have
    }

    /// What to ask a voter for: the state that is known here, and the part of a whole one that is wanted next.
    pub fn wanted(&self) -> (Option<LogId>, Option<(LogId, u64)>) {
        (self.log_id(), self.subscription.borrow().part())
    }

    /// Takes what a voter told: who votes, who leads in which term, and what became of the state since `asked`, which
    /// [`Group::wanted`] said then. Consensus may have brought more meanwhile: then it is to be asked again.
    ///
    /// # Errors
    /// It cannot be read; the whole state is wanted next.
    pub fn take_news(
        &self,
        voters: BTreeSet<Rank>,
        leader: Option<Rank>,
        term: u64,
        asked: Option<LogId>,
        newer: Newer,
    ) -> Result<Taken, DecodeError> {
        let replica = self.state.borrow();
        let mut subscription = self.subscription.borrow_mut();
        let before = (subscription.leader, subscription.term, subscription.voters.clone());
        if !matches!(newer, Newer::Unknown) || subscription.term <= term {
            (subscription.leader, subscription.term, subscription.voters) = (leader, term, voters);
        }
        let taken = subscription.take((replica.log_id(), &replica.machine), asked, newer);
        if taken == Ok(Taken::State) || before != (subscription.leader, subscription.term, subscription.voters.clone())
        {
            self.changed.send_replace(());
        }
        taken
    }

    /// Whether others have decided, later than anything that this replica has, that it votes no more: it was away meanwhile. It is
    /// not to stand for election then ([`Group::may_lead`]).
    pub fn is_left(&self) -> bool {
        let subscription = self.subscription.borrow();
        let last = self.log.look(|kept| kept.last()).map(plain);
        let is_later = subscription.copy().is_some_and(|copy| Some(copy.at) > last);
        is_later && !subscription.voters.contains(&self.me.rank)
    }

    /// Lets what was told here go, when the replica has all of it: it votes again.
    pub fn forget_news(&self) {
        let mut subscription = self.subscription.borrow_mut();
        if self.state.borrow().log_id() >= subscription.copy().map(|copy| copy.at) {
            subscription.forget();
        }
    }

    /// Tells of changes of the state here, and of what was told of it.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

//! Leaders that want somebody else to lead.
//!
//! The library's leader that hands over takes nothing more and says nothing more: it goes when it hears of the next. But the next may
//! have no reason to speak to it, when it could not be reached at first and is no member any more; then it led nobody, for
//! ever. So after a while it resigns: it votes for its heir in the next term, as if it had been asked, which any
//! replica may do at any time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::VoteRequest;
use openraft::{Raft, ServerState, Vote};
use tokio::sync::Notify;
use types::Rank;

use crate::kinds::Types;
use crate::log::{Log, Room};
use crate::machine::StateMachine;
use crate::snapshot::Driven;

/// How long a leader whose disk is full waits for the one it asked to lead, before it asks again.
const AGAIN: Duration = Duration::from_secs(2);

/// To whom this replica hands over, and in which term it did lead.
#[derive(Default)]
pub(super) struct HandingOver {
    to: Cell<Option<(u64, Rank)>>,
    begun: Notify,
}

impl HandingOver {
    /// Asks `heir` to lead.
    pub(super) async fn begin<S: StateMachine>(&self, raft: &Raft<Types, Driven<S>>, heir: Rank) {
        let term = raft.metrics().borrow_watched().current_term;
        self.to.set(Some((term, heir)));
        self.begun.notify_one();
        // A replica that has stopped leads no more.
        let _ = raft.trigger().transfer_leader(heir).await;
    }
}

/// Ends the office of a leader that handed over and heard of no other since.
pub(super) async fn resign<S: StateMachine>(
    raft: Raft<Types, Driven<S>>,
    log: Log,
    handing_over: Rc<HandingOver>,
    patience: Duration,
) {
    loop {
        handing_over.begun.notified().await;
        rt::sleep(patience).await;
        let Some((term, heir)) = handing_over.to.take() else { continue };
        let is_stuck = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.state == ServerState::Leader && metrics.current_term == term
        };
        if is_stuck {
            tracing::info!(term, %heir, "a leader that handed over resigns: it hears of no other");
            let last = log.look(|kept| kept.last());
            // Stopped, it leads no more, either.
            let _ = raft.vote(VoteRequest::new(Vote::new(term + 1, heir), last)).await;
        }
    }
}

/// Has somebody else lead when the disk here is full: the log of a leader would grow in memory, and what it must write to be one
/// waits.
pub(super) async fn lead_with_room<S: StateMachine>(
    me: Rank,
    raft: Raft<Types, Driven<S>>,
    room: Room,
    handing_over: Rc<HandingOver>,
) {
    loop {
        room.until_full().await;
        let heir = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters = metrics.membership_config.voter_ids();
            let known = metrics.replication.as_ref();
            let has = |rank: &Rank| known.and_then(|known| known.get(rank).copied().flatten());
            voters.filter(|rank| *rank != me && metrics.state == ServerState::Leader).max_by_key(has)
        };
        if let Some(heir) = heir {
            handing_over.begin(&raft, heir).await;
        }
        rt::sleep(AGAIN).await;
    }
}

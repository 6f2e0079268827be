//! What other replicas say to this one.

use std::rc::Rc;

use openraft::raft::AppendEntriesResponse;
use wire::Wire;

use super::Group;
use crate::limits::LOG_BYTES_MAX;
use crate::machine::{Replicated, StateMachine};
use crate::message::{Body, Message, Part, Refusal, Stored};
use crate::network::refuse;

/// Parts of a snapshot that have come in.
pub(super) struct Incoming {
    /// The first part without its bytes: later ones must agree with it.
    about: Part,
    bytes: Vec<u8>,
}

impl<S: StateMachine> Group<S> {
    /// Answers a peer's message. Any bytes are safe.
    pub async fn handle(&self, bytes: &[u8]) -> Vec<u8> {
        let Ok(message) = Message::decode(bytes) else {
            return refuse(None, self.me.rank, self.id, Refusal::Unreadable);
        };
        if (message.to, message.group) != (self.me.rank, self.id) {
            return refuse(Some(&message), self.me.rank, self.id, Refusal::Misdirected);
        }
        // Not to be left to the library: it would wait for its disk, with the message, and with all that come after it.
        if self.log.room().is_full() {
            return refuse(Some(&message), self.me.rank, self.id, Refusal::Full);
        }
        // Votes, and all that a leader sends, are for whoever sends them: believed of another, they would make a leader
        // that nobody elected.
        if message.body.vote().is_some_and(|vote| vote.leader_id.voted_for != message.from) {
            return refuse(Some(&message), self.me.rank, self.id, Refusal::Unreadable);
        }
        let from = message.from;
        let body = match message.body {
            Body::Append(append) => {
                self.relieve().await;
                let appended = self.raft.append_entries(append).await;
                // One whose term is over is no leader to be heard of.
                if !matches!(appended, Err(_) | Ok(AppendEntriesResponse::HigherVote(_))) {
                    self.heard.set(rt::now());
                }
                appended.map(Body::Appended).map_err(|_| Refusal::Stopped)
            }
            Body::Vote(ask) => self.raft.vote(ask).await.map(Body::Voted).map_err(|_| Refusal::Stopped),
            Body::PreVote(ask) => self.raft.pre_vote(ask).await.map(Body::Voted).map_err(|_| Refusal::Stopped),
            Body::Snapshot(part) => {
                self.heard.set(rt::now());
                self.take_part(part).await.map(Body::Stored)
            }
            // Whoever hands over does not know, and looks for another heir.
            Body::TakeOver { .. } if !self.may_lead.get() => Ok(Body::Taken(false)),
            Body::TakeOver { vote, to, last } => {
                let ask = openraft::raft::TransferLeaderRequest::new(vote, to, last);
                let taken = self.raft.handle_transfer_leader(ask).await;
                taken.map(|taken| Body::Taken(taken.is_ok())).map_err(|_| Refusal::Stopped)
            }
            Body::Appended(_) | Body::Voted(_) | Body::Stored(_) | Body::Taken(_) | Body::Refused(_) => {
                Err(Refusal::Unreadable)
            }
        };
        let body = body.unwrap_or_else(Body::Refused);
        Message { from: self.me.rank, to: from, group: self.id, body }.encode()
    }

    /// Takes a part of a snapshot, and the snapshot when it is whole.
    async fn take_part(&self, part: Part) -> Result<Stored, Refusal> {
        let Some((about, bytes)) = self.gather(part)? else {
            let so_far = self.incoming.borrow().as_ref().map_or(0, |incoming| incoming.bytes.len());
            return Ok(Stored::Next(so_far as u64));
        };
        // Read before it is installed: an error behind this point would stop the replica.
        let state = Replicated::<S>::from_bytes(&bytes).map_err(|_| Refusal::Unreadable)?;
        if state.meta() != about.meta {
            return Err(Refusal::Unreadable);
        }
        let snapshot = openraft::Snapshot { meta: about.meta, snapshot: Rc::new(bytes) };
        let installed = self.raft.install_full_snapshot(about.vote, snapshot).await;
        installed.map(|installed| Stored::Whole(installed.vote)).map_err(|_| Refusal::Stopped)
    }

    /// Adds a part to those that are here; gives them all when none is missing.
    fn gather(&self, part: Part) -> Result<Option<(Part, Vec<u8>)>, Refusal> {
        let mut incoming = self.incoming.borrow_mut();
        let Part { vote, meta, total, offset, bytes } = part;
        let about = Part { vote, meta, total, offset: 0, bytes: Vec::new() };
        // The first part once more, of the same: it was lost, or its answer was. What is here stays.
        if offset == 0 && incoming.as_ref().is_none_or(|here| here.about != about) {
            *incoming = Some(Incoming { about: about.clone(), bytes: Vec::new() });
        }
        let Some(here) = incoming.as_mut().filter(|here| here.about == about) else { return Ok(None) };
        if offset != here.bytes.len() as u64 {
            return Ok(None);
        }
        here.bytes.extend_from_slice(&bytes);
        match here.bytes.len() as u64 == total {
            true => Ok(incoming.take().map(|here| (here.about, here.bytes))),
            // A part that brings nothing would never end.
            false if bytes.is_empty() => Err(Refusal::Unreadable),
            false => Ok(None),
        }
    }

    /// Asks for a snapshot when few but large entries have made the log long.
    pub(super) async fn relieve(&self) {
        let applied = self.state.borrow().applied.map_or(0, |id| id.index);
        let is_long = self.log.look(|kept| kept.bytes()) > LOG_BYTES_MAX;
        if is_long && applied > self.relieved.get() + self.config.kept_entries {
            self.relieved.set(applied);
            self.shorten().await;
        }
    }
}

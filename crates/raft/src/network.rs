//! The way to the other replicas: the library's questions as our messages, over whatever the server calls its peers with.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use types::Rank;

use crate::kinds::{Address, GroupId, Peer, Types, Vote};
use crate::limits::SNAPSHOT_PART_BYTES;
use crate::message::{Body, Message, Part, Refusal, Stored};
use crate::snapshot;

/// A call of a peer under way.
pub type Calling<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, CallError>> + 'a>>;

/// Why a peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not answer: {cause}")]
pub struct CallError {
    pub cause: String,
}

/// How a replica calls the others. The server implements it over `net`; the other end gives the bytes to
/// [`crate::Group::handle`] and sends back what that returns.
///
/// Messages may be lost, repeated and late; a group then gets slower and nothing worse. A call needs no deadline of its own:
/// it is dropped when its time is over.
pub trait Peers: 'static {
    fn call<'a>(&'a self, peer: &'a Peer, message: Vec<u8>) -> Calling<'a>;
}

/// A part of a snapshot, or a run of entries, may take so long; longer, and the peer counts as unreachable for now.
const BULK_LIMIT: Duration = Duration::from_secs(1);
/// How often a receiver may ask for another part than the next before the transfer starts over with the library's backoff.
const STEPS_BACK_MAX: u32 = 3;

/// Makes a [`Link`] to any peer.
pub(crate) struct Network {
    pub(crate) peers: Rc<dyn Peers>,
    pub(crate) group: GroupId,
    pub(crate) me: Rank,
}

/// The way to one peer.
pub(crate) struct Link {
    peers: Rc<dyn Peers>,
    group: GroupId,
    me: Rank,
    peer: Peer,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: Rank, node: &Address) -> Link {
        let peer = Peer { rank: target, address: node.clone() };
        Link { peers: Rc::clone(&self.peers), group: self.group, me: self.me, peer }
    }
}

impl Link {
    /// # Errors
    /// `Unreachable`, upon which the library waits a little before it tries again.
    async fn ask(&self, body: Body, limit: Duration) -> Result<Body, RPCError<Types>> {
        let unreachable = |words: String| RPCError::Unreachable(Unreachable::from_string(words));
        let message = Message { from: self.me, to: self.peer.rank, group: self.group, body }.encode();
        let bytes = match rt::timeout(limit, self.peers.call(&self.peer, message)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(rt::Elapsed) => return Err(unreachable(format!("{} does not answer in time", self.peer))),
        };
        let answer = Message::decode(&bytes).map_err(|error| unreachable(format!("{}: {error}", self.peer)))?;
        if (answer.from, answer.to, answer.group) != (self.peer.rank, self.me, self.group) {
            return Err(unreachable(format!("the answer of {} is not for us", self.peer)));
        }
        match answer.body {
            Body::Refused(refusal) => Err(unreachable(format!("{} refuses: {refusal}", self.peer))),
            body => Ok(body),
        }
    }

    fn strange(&self) -> RPCError<Types> {
        RPCError::Network(NetworkError::from_string(format!("{} answers another question", self.peer)))
    }

    async fn ask_for_vote(&self, body: Body, option: &RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        // Not less than the library waits itself: behind an answer stands a durable write, and a round that misses it is
        // lost (decision 0019).
        match self.ask(body, option.hard_ttl()).await? {
            Body::Voted(voted) => Ok(voted),
            _ => Err(self.strange()),
        }
    }

    /// Sends a snapshot part by part; the receiver says from where to go on.
    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, RPCError<Types>> {
        let (meta, bytes) = (snapshot.meta, snapshot.snapshot);
        let (mut offset, mut steps_back) = (0, 0);
        loop {
            let end = bytes.len().min(offset + SNAPSHOT_PART_BYTES);
            let part = Part {
                vote,
                meta: meta.clone(),
                total: bytes.len() as u64,
                offset: offset as u64,
                bytes: bytes[offset..end].to_vec(),
            };
            match self.ask(Body::Snapshot(part), BULK_LIMIT).await? {
                Body::Stored(Stored::Whole(vote)) => return Ok(vote),
                Body::Stored(Stored::Next(next)) => {
                    let next = usize::try_from(next).ok().filter(|next| *next < bytes.len());
                    let Some(next) = next else { return Err(self.strange()) };
                    if next <= offset {
                        steps_back += 1;
                    }
                    if steps_back > STEPS_BACK_MAX {
                        return Err(self.strange());
                    }
                    offset = next;
                }
                _ => return Err(self.strange()),
            }
        }
    }
}

type Snapshot = SnapshotOf<Types, snapshot::Body>;

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = snapshot::Body;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let (has_previous, is_heartbeat) = (append.prev_log_id.is_some(), append.entries.is_empty());
        let limit = if is_heartbeat { option.soft_ttl() } else { BULK_LIMIT };
        match self.ask(Body::Append(append), limit).await? {
            // Nothing can conflict with the beginning; the library would stumble over such an answer.
            Body::Appended(AppendEntriesResponse::Conflict) if !has_previous => Err(self.strange()),
            Body::Appended(appended) => Ok(appended),
            _ => Err(self.strange()),
        }
    }

    async fn vote(
        &mut self,
        ask: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Body::Vote(ask), &option).await
    }

    async fn pre_vote(
        &mut self,
        ask: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(Body::PreVote(ask), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        match select(pin!(cancel), pin!(self.send_snapshot(vote, snapshot))).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((sent, _)) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        ask: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = Body::TakeOver { vote: *ask.from_leader(), to: *ask.to_node_id(), last: ask.last_log_id().copied() };
        match self.ask(body, option.soft_ttl()).await? {
            Body::Taken(true) => Ok(Ok(())),
            Body::Taken(false) => Err(RPCError::Network(NetworkError::from_string("the peer does not take over"))),
            _ => Err(self.strange()),
        }
    }
}

/// The answer to a message that nobody here can take.
pub(crate) fn refuse(message: Option<&Message>, me: Rank, group: GroupId, refusal: Refusal) -> Vec<u8> {
    let to = message.map_or(me, |message| message.from);
    let group = message.map_or(group, |message| message.group);
    Message { from: me, to, group, body: Body::Refused(refusal) }.encode()
}

//! The way to the other servers: their addresses, a link to each, and calls over it.
//!
//! # Always true
//! 1. A call is made once; whether to repeat it is the caller's.
//! 2. A link that answers nothing for a while is given up, and the next call opens another: it may lead to a machine that
//!    is no more. What is under way on it goes on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use net::{Address, CallError, Caller, Connection};
use raft::{Calling, GroupId, Peer};
use rt::Hlc;
use types::{Code, Error, Rank, SessionId};
use wire::encoding::Bytes;
use wire::hello::Service;
use wire::{Opcode, Wire, peer as msg};

/// How long a link may take to open.
const OPEN_MAX: Duration = Duration::from_secs(1);
/// A link that has answered nothing for so long, though something was asked, is in doubt.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long a message between replicas may be under way; the library has its own, shorter limits.
const CONSENSUS_MAX: Duration = Duration::from_secs(5);
/// Links kept; servers that moved leave some behind.
const LINES_MAX: usize = 1024;

/// Everyone this server talks to.
pub(super) struct Peers {
    caller: Caller,
    sequence: Cell<u64>,
    /// Where each rank was heard of last, in which incarnation.
    book: RefCell<BTreeMap<Rank, (u64, String)>>,
    lines: RefCell<BTreeMap<String, Rc<Line>>>,
}

/// The link to one address, with or without a connection at the moment.
#[derive(Default)]
struct Line {
    connection: RefCell<Option<Connection>>,
    /// Held by the one who opens.
    opening: tokio::sync::Mutex<()>,
    /// Since when it owes an answer, any.
    silent_since: Cell<Option<rt::Instant>>,
}

impl Peers {
    pub(super) fn new(system: String, clock: Hlc) -> Rc<Peers> {
        let caller = Caller { session: SessionId(rt::random_u64()), system, clock };
        Rc::new(Peers { caller, sequence: Cell::new(1), book: RefCell::default(), lines: RefCell::default() })
    }

    /// A rank answers there since this incarnation; what is known of a later one stays.
    pub(super) fn learn(&self, rank: Rank, incarnation: u64, address: &str) {
        let mut book = self.book.borrow_mut();
        let known = book.get(&rank);
        if known.is_some_and(|(since, known)| *since > incarnation || known == address) {
            return;
        }
        if let Some((_, before)) = book.insert(rank, (incarnation, address.to_string())) {
            self.lines.borrow_mut().remove(&before);
        }
    }

    pub(super) fn address(&self, rank: Rank) -> Option<String> {
        self.book.borrow().get(&rank).map(|(_, address)| address.clone())
    }

    /// Where all others are.
    pub(super) fn addresses(&self, except: Rank) -> Vec<String> {
        self.book
            .borrow()
            .iter()
            .filter(|(rank, _)| **rank != except)
            .map(|(_, (_, address))| address.clone())
            .collect()
    }

    /// Asks a rank.
    ///
    /// # Errors
    /// `Unreachable` when nobody knows where it is.
    pub(super) async fn ask(
        &self,
        rank: Rank,
        opcode: Opcode,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        match self.address(rank) {
            Some(address) => self.call(&address, opcode, body, within).await,
            None => {
                let text = format!("nobody has said yet where rank {rank} answers");
                Err(CallError::Refused(Error::new(Code::Unreachable, text)))
            }
        }
    }

    /// Asks whoever answers at an address.
    pub(super) async fn call(
        &self,
        address: &str,
        opcode: Opcode,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let line = self.line(address);
        let connection = self.open(address, &line, within).await?;
        let sequence = self.sequence.replace(self.sequence.get() + 1);
        line.silent_since.set(line.silent_since.get().or(Some(rt::now())));
        let answer = connection.call(opcode, sequence, body, None, within).await;
        match &answer {
            Ok(_) | Err(CallError::Refused(_)) => line.silent_since.set(None),
            Err(_) => *line.connection.borrow_mut() = None,
        }
        answer.map(|reply| reply.body.to_vec())
    }

    fn line(&self, address: &str) -> Rc<Line> {
        let mut lines = self.lines.borrow_mut();
        if lines.len() >= LINES_MAX && !lines.contains_key(address) {
            lines.pop_first();
        }
        Rc::clone(lines.entry(address.to_string()).or_default())
    }

    async fn open(&self, address: &str, line: &Line, within: Duration) -> Result<Connection, CallError> {
        if let Some(connection) = line.working() {
            return Ok(connection);
        }
        let _opening = line.opening.lock().await;
        if let Some(connection) = line.working() {
            return Ok(connection);
        }
        let to: Address = address
            .parse()
            .map_err(|error: net::AddressError| CallError::Refused(Error::new(Code::Invalid, error.to_string())))?;
        let connection = Connection::open(&to, Service::Control, &self.caller, within.min(OPEN_MAX)).await?;
        line.silent_since.set(None);
        *line.connection.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }
}

impl Line {
    fn working(&self) -> Option<Connection> {
        if self.silent_since.get().is_some_and(|since| since.elapsed() > SILENCE_MAX) {
            *self.connection.borrow_mut() = None;
        }
        self.connection.borrow().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}

/// The way of one group's messages.
pub(super) struct GroupPeers {
    pub(super) peers: Rc<Peers>,
    pub(super) group: GroupId,
}

impl raft::Peers for GroupPeers {
    fn call<'a>(&'a self, peer: &'a Peer, message: Vec<u8>) -> Calling<'a> {
        let body = msg::Consensus { group: Bytes(self.group.0.to_vec()), message: Bytes(message) }.to_bytes();
        Box::pin(async move {
            // The book is newer than what the group was told when the peer became a member.
            let address = self.peers.address(peer.rank).unwrap_or_else(|| peer.address.0.clone());
            let answer = self.peers.call(&address, Opcode::Consensus, body, CONSENSUS_MAX).await;
            answer.map_err(|error| raft::CallError { cause: error.to_string() })
        })
    }
}

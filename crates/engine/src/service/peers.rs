//! The way to the other servers: their addresses, a link to each, and calls over it.
//!
//! # Always true
//! 1. A call is made once; whether to repeat it is the caller's.
//! 2. A link that answers nothing for a while is given up, and the next call opens another: it may lead to a machine that
//!    is no more. What is under way on it goes on.
//! 3. To an address where nobody answers a link is tried again after a pause that doubles up to [`PAUSE_MAX`], by chance up to
//!    half of it less, whoever calls and however often. Whoever is heard of is tried at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use net::{Address, CallError, Caller, Connection};
use raft::{Calling, GroupId, Peer};
use rt::Hlc;
use tokio::sync::Notify;
use types::{Code, Error, Rank, SessionId};
use wire::encoding::Bytes;
use wire::hello::Service;
use wire::{Opcode, Wire, peer as msg};

/// How long a link may take to open.
const OPEN_MAX: Duration = Duration::from_secs(1);
/// Between the first and the second attempt to open one, and between any two.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// A server that is back and is heard of by nobody is reached so soon.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A link that has answered nothing for so long, though something was asked, is in doubt.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How long a message between replicas may be under way; the library has its own, shorter limits.
const CONSENSUS_MAX: Duration = Duration::from_secs(5);
/// Links kept, of which the one that was not used for longest goes; servers that moved leave some behind.
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
    opening: RefCell<Opening>,
    /// An attempt to open has ended.
    tried: Notify,
    /// Since when it owes an answer, any.
    silent_since: Cell<Option<rt::Instant>>,
    /// When it was last asked for.
    used: Cell<Option<rt::Instant>>,
}

/// How opening a link stands.
#[derive(Default)]
enum Opening {
    /// As far as is known, somebody answers there.
    #[default]
    Open,
    /// Somebody tries.
    Tried,
    /// Nobody answered, so many times in a row; not tried again before then.
    Paused { failures: u32, until: rt::Instant, cause: CallError },
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
        if known.is_some_and(|(since, known)| *since > incarnation || (*since == incarnation && known == address)) {
            return;
        }
        if let Some(line) = self.lines.borrow().get(address) {
            line.hurry();
        }
        if let Some((_, before)) = book.insert(rank, (incarnation, address.to_string()))
            && before != address
        {
            self.lines.borrow_mut().remove(&before);
        }
    }

    pub(super) fn address(&self, rank: Rank) -> Option<String> {
        self.book.borrow().get(&rank).map(|(_, address)| address.clone())
    }

    /// This rank was heard of: if it could not be reached before, it may be now.
    pub(super) fn heard_of(&self, rank: Rank) {
        let book = self.book.borrow();
        if let Some(line) = book.get(&rank).and_then(|(_, address)| self.lines.borrow().get(address).cloned()) {
            line.hurry();
        }
    }

    /// Where a rank answers, and since which incarnation.
    pub(super) fn entry(&self, rank: Rank) -> Option<(u64, String)> {
        self.book.borrow().get(&rank).cloned()
    }

    /// The same of all others.
    pub(super) fn entries(&self, except: Rank) -> Vec<(Rank, u64, String)> {
        let book = self.book.borrow();
        let others = book.iter().filter(|(rank, _)| **rank != except);
        others.map(|(rank, (incarnation, address))| (*rank, *incarnation, address.clone())).collect()
    }

    /// Everyone who was ever heard of, this server too.
    pub(super) fn ranks(&self) -> Vec<Rank> {
        self.book.borrow().keys().copied().collect()
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
        self.call(&self.find(rank)?, opcode, body, within).await
    }

    /// As [`Peers::ask`], of a rank that may take its time: that it is silent says nothing of the link.
    pub(super) async fn ask_patiently(
        &self,
        rank: Rank,
        opcode: Opcode,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        self.send(&self.find(rank)?, opcode, body, within, true).await
    }

    fn find(&self, rank: Rank) -> Result<String, CallError> {
        self.address(rank).ok_or_else(|| {
            let text = format!("nobody has said yet where rank {rank} answers");
            CallError::Refused(Error::new(Code::Unreachable, text))
        })
    }

    /// Asks whoever answers at an address.
    pub(super) async fn call(
        &self,
        address: &str,
        opcode: Opcode,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        self.send(address, opcode, body, within, false).await
    }

    async fn send(
        &self,
        address: &str,
        opcode: Opcode,
        body: Vec<u8>,
        within: Duration,
        may_wait: bool,
    ) -> Result<Vec<u8>, CallError> {
        let line = self.line(address);
        let connection = self.open(address, &line, within).await?;
        let sequence = self.sequence.replace(self.sequence.get() + 1);
        if !may_wait {
            line.silent_since.set(line.silent_since.get().or(Some(rt::now())));
        }
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
            // Each that gossips has a turn with every other: the links of consensus and of subscriptions are not to go for that.
            let idle = lines.iter().min_by_key(|(_, line)| line.used.get()).map(|(address, _)| address.clone());
            idle.into_iter().for_each(|address| drop(lines.remove(&address)));
        }
        let line = Rc::clone(lines.entry(address.to_string()).or_default());
        line.used.set(Some(rt::now()));
        line
    }

    /// A link that works. The attempt to open one is shared, and goes on when who waits for it does so no longer: else a link that
    /// takes longer to open than some wait would never be.
    async fn open(&self, address: &str, line: &Rc<Line>, within: Duration) -> Result<Connection, CallError> {
        let until = rt::now() + within.min(OPEN_MAX);
        loop {
            if let Some(connection) = line.working() {
                return Ok(connection);
            }
            let tried = line.tried.notified();
            if let Some(failures) = line.may_try()? {
                let to: Address = address.parse().map_err(|error: net::AddressError| {
                    CallError::Refused(Error::new(Code::Invalid, error.to_string()))
                })?;
                line.opening.replace(Opening::Tried);
                drop(rt::spawn_local(try_to_open(to, self.caller.clone(), Rc::clone(line), failures)));
            }
            if rt::timeout(until - rt::now(), tried).await.is_err() {
                let cause = format!("no answer within {} ms", within.as_millis());
                let text = format!("{address} cannot be reached: {cause}");
                return Err(address.parse().map_or_else(
                    |_| CallError::Refused(Error::new(Code::Unreachable, text)),
                    |address| CallError::Unreachable { address, cause },
                ));
            }
        }
    }
}

/// One attempt; how it ended is left with the line.
async fn try_to_open(to: Address, caller: Caller, line: Rc<Line>, failures: u32) {
    match Connection::open(&to, Service::Control, &caller, OPEN_MAX).await {
        Ok(connection) => {
            line.silent_since.set(None);
            *line.connection.borrow_mut() = Some(connection);
            line.opening.replace(Opening::Open);
        }
        Err(cause) => {
            let failures = failures.saturating_add(1);
            line.opening.replace(Opening::Paused { failures, until: rt::now() + pause(failures), cause });
        }
    }
    line.tried.notify_waiters();
}

/// How long to wait after so many failures, by chance: the servers of a system do not all try at once.
fn pause(failures: u32) -> Duration {
    let most = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
    most / 2 + Duration::from_nanos(rt::random_u64() % (most.as_nanos() as u64 / 2))
}

impl Line {
    /// Whether a link is to be tried now, after how many failures; `None`: somebody does so already.
    ///
    /// # Errors
    /// Why the last attempt failed, while it is too early for the next.
    fn may_try(&self) -> Result<Option<u32>, CallError> {
        match &*self.opening.borrow() {
            Opening::Open => Ok(Some(0)),
            Opening::Tried => Ok(None),
            Opening::Paused { until, cause, .. } if *until > rt::now() => Err(cause.clone()),
            Opening::Paused { failures, .. } => Ok(Some(*failures)),
        }
    }

    /// Whoever answers there was heard of: no pause, once. Who is heard and cannot be reached is not tried ever faster.
    fn hurry(&self) {
        if let Opening::Paused { until, .. } = &mut *self.opening.borrow_mut() {
            *until = rt::now();
        }
        self.tried.notify_waiters();
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use net::{Handler, Limits, Listener, Reply, Request};
    use rt::sim::{Sim, SimConfig};

    const SECOND: Duration = Duration::from_secs(1);

    struct Echo;

    impl Handler for Echo {
        async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
            Ok(Reply { body: request.body, bulk: None })
        }
    }

    /// Turns callers away for a minute, and then serves; counts who came until then.
    async fn come_back_late(attempts: Rc<Cell<u64>>) {
        let address = "mem://peer".parse().unwrap();
        let listener = Listener::bind(&address, "test", Hlc::new()).await.unwrap();
        let begun = rt::now();
        let mut links = rt::TaskSet::new();
        while let Some(incoming) = listener.accept().await {
            if begun.elapsed() < 60 * SECOND {
                attempts.set(attempts.get() + 1);
                incoming.refuse(Error::new(Code::ShuttingDown, "not yet")).await;
            } else {
                links.spawn_local(net::serve(incoming, Limits::default(), 1, Rc::new(Echo)));
            }
        }
    }

    /// Calls every 5 ms, from four tasks, for a minute and until somebody answers. Gives the attempts that were made within
    /// the minute, and how long after it the first call was answered.
    fn call_without_end(seed: u64, word_comes: bool) -> (u64, Duration) {
        let sim = Sim::new(SimConfig::seeded(seed));
        let (here, there) = (sim.node("here"), sim.node("there"));
        sim.run(async move {
            let sim = rt::sim::current();
            let attempts = Rc::new(Cell::new(0));
            let begun = rt::now();
            let _peer = sim.spawn_on(there, come_back_late(Rc::clone(&attempts)));
            let calling = sim.spawn_on(here, async move {
                let peers = Peers::new("test".into(), Hlc::new());
                peers.learn(Rank(1), 1, "mem://peer");
                let ask = || async {
                    loop {
                        match peers.ask(Rank(1), Opcode::Echo, vec![1], SECOND / 10).await {
                            Ok(_) => return begun.elapsed(),
                            Err(_) => rt::sleep(Duration::from_millis(5)).await,
                        }
                    }
                };
                let word = async {
                    rt::sleep(60 * SECOND + SECOND / 100).await;
                    if word_comes {
                        peers.heard_of(Rank(1));
                    }
                };
                let (a, b, c, d, ()) = tokio::join!(ask(), ask(), ask(), ask(), word);
                a.min(b).min(c).min(d)
            });
            let answered = calling.await.unwrap();
            (attempts.get(), answered.saturating_sub(60 * SECOND))
        })
    }

    /// Every call tried to open a link before, so that a dead server cost its peers 50 attempts a second and group.
    #[test]
    fn nobody_knocks_without_end_where_nobody_answers() {
        for seed in 0..5 {
            let (attempts, after) = call_without_end(seed, false);
            assert!((55..140).contains(&attempts), "seed {seed}: {attempts} in a minute");
            assert!(after <= PAUSE_MAX + SECOND / 10, "seed {seed}: {after:?}");
        }
    }

    #[test]
    fn who_is_heard_of_is_tried_at_once() {
        for seed in 0..5 {
            let (_, after) = call_without_end(seed, true);
            assert!(after < SECOND / 20, "seed {seed}: {after:?}");
        }
    }
}

//! The calling end of a link.
//!
//! # Shape
//! Three tasks, where the connection was opened: one writes what [`Outbox`] gathers, one reads answers
//! into [`Calls`], one (the keeper) ends calls at their deadlines. Callers touch only the outbox
//! and their slot, so they may be on any thread, and a call allocates nothing of its own.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use rt::disk::IoBuf;
use rt::{Hlc, Instant, JoinHandle};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError};
use types::{Code, Error, SessionId};
use wire::frame::{BODY_BYTES_MAX, BULK_BYTES_MAX, Header, Kind, Version};
use wire::hello::{Hello, Service, Welcome};
use wire::{Opcode, Wire};

use crate::calls::{Calls, Ending, Expiry};
use crate::link::{Arrival, Link, LinkError, LinkReader, LinkWriter};
use crate::outbox::{Batch, Bulk, Credits, Outbox};
use crate::{Address, CallError, Reply, metrics};

/// Longest body of a welcome or goodbye: names and sentences.
pub(crate) const GREETING_BYTES_MAX: u32 = 16 * 1024;

/// Request credits used of what a server offers: bounds the slots a server can make a caller keep.
const REQUEST_CREDITS_MAX: u32 = 64 * 1024;

/// Who calls: the same for all of a program's connections.
#[derive(Clone)]
pub struct Caller {
    /// A number drawn at random when the program (or its pool handle) started.
    pub session: SessionId,
    /// Name of the system meant, so that a wrong address is noticed; empty for whichever is there.
    pub system: String,
    /// The program's clock; it observes the server's.
    pub clock: Hlc,
}

/// A link to one service of one server. Clones share it; the last one dropped closes it.
///
/// Its tasks run where it was opened. Calls may come from any thread.
#[derive(Clone)]
pub struct Connection {
    line: Arc<Line>,
    /// Last, so that the tasks end after the last caller has gone.
    _owner: Arc<Owner>,
}

/// What callers and tasks share.
struct Line {
    address: Address,
    session: SessionId,
    clock: Hlc,
    incarnation: u64,
    system: String,
    outbox: Outbox,
    calls: Calls,
    /// Requests that may still be sent.
    requests: Semaphore,
    /// Bulk bytes that may still be sent.
    bulk: Semaphore,
    bulk_credits: u32,
    /// Wakes the keeper for an earlier deadline.
    sooner: Notify,
}

/// Ends the tasks when the last clone is dropped.
struct Owner {
    line: Arc<Line>,
    reader: JoinHandle<()>,
    keeper: JoinHandle<()>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Ends the writer, too. Nobody is left who waits for an answer.
        self.line.fail("the connection was dropped");
        self.reader.abort();
        self.keeper.abort();
    }
}

impl Connection {
    /// Connects and says hello, all within `within`.
    ///
    /// # Errors
    /// `Unreachable`: nobody listens, or not in time. `Refused`: another system's name, versions
    /// that do not meet, clocks too far apart, a server that is stopping. `Protocol`: not a server
    /// of ours.
    pub async fn open(
        to: &Address,
        service: Service,
        caller: &Caller,
        within: Duration,
    ) -> Result<Connection, CallError> {
        let greeting = async {
            let link = Link::connect(to).await.map_err(|error| unreachable(to, connect_cause(&error)))?;
            greet(link, to, service, caller).await
        };
        let (link, welcome) = rt::timeout(within, greeting)
            .await
            .unwrap_or_else(|_| Err(unreachable(to, format!("no answer within {} ms", within.as_millis()))))?;
        let line = Arc::new(Line {
            address: to.clone(),
            session: caller.session,
            clock: caller.clock.clone(),
            incarnation: welcome.incarnation,
            system: welcome.system,
            outbox: Outbox::new(&link),
            calls: Calls::new(welcome.request_credits as usize),
            requests: Semaphore::new(welcome.request_credits.min(REQUEST_CREDITS_MAX) as usize),
            bulk: Semaphore::new((welcome.bulk_credits as usize).min(Semaphore::MAX_PERMITS)),
            bulk_credits: welcome.bulk_credits,
            sooner: Notify::new(),
        });
        let (reader, writer) = link.split();
        rt::spawn(write_requests(line.clone(), writer));
        let owner = Arc::new(Owner {
            reader: rt::spawn(read_answers(line.clone(), reader)),
            keeper: rt::spawn(keep_deadlines(line.clone())),
            line: line.clone(),
        });
        Ok(Connection { line, _owner: owner })
    }

    /// Sends a request and waits for its answer, for at most `within`, waiting for credits included.
    ///
    /// `sequence` with the caller's session names the request; a repeat has to carry the same.
    /// Dropping the future is safe: an answer still to come is thrown away.
    ///
    /// # Errors
    /// See [`CallError`]. A body or bulk data beyond the frame's limits is `Refused` unsent.
    pub async fn call(
        &self,
        opcode: Opcode,
        sequence: u64,
        body: Vec<u8>,
        bulk: Option<IoBuf>,
        within: Duration,
    ) -> Result<Reply, CallError> {
        self.call_with(opcode, sequence, body, bulk.map(Bulk::Owned), within).await
    }

    /// As [`Connection::call`], with bulk data that others may be sent, too.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_with(
        &self,
        opcode: Opcode,
        sequence: u64,
        body: Vec<u8>,
        bulk: Option<Bulk>,
        within: Duration,
    ) -> Result<Reply, CallError> {
        let line = &*self.line;
        let bulk = bulk.filter(|bulk| !bulk.is_empty());
        let bulk_bytes = bulk.as_ref().map_or(0, |bulk| bulk.len());
        check_size("a request's body", body.len(), BODY_BYTES_MAX)?;
        check_size("a request's bulk data", bulk_bytes, BULK_BYTES_MAX)?;
        let now = rt::now();
        let deadline = now + within;

        let held = Credits { requests: 1, bulk: charge(bulk_bytes, line.bulk_credits) };
        let waited = line.acquire(held, deadline, within).await?;
        // The clock is read again only if there was a wait: this path counts in nanoseconds.
        let began = if waited { rt::now() } else { now };
        let (request, sooner) = line.calls.begin(held, began, deadline).map_err(|cause| line.unreachable(&cause))?;
        let mut ticket = Ticket { line, request, live: true };
        if sooner {
            line.sooner.notify_one();
        }
        let header = Header {
            kind: Kind::Request,
            opcode: opcode as u16,
            request,
            clock: line.clock.now(),
            session: line.session.0,
            sequence,
            deadline_ms: millis_left(deadline - began),
            body_bytes: body.len() as u32,
            bulk_bytes: bulk_bytes as u32,
            body_crc: codec::crc32c(&body),
        };
        // Refused only when the link has just gone down; then the call is broken, too, and says so.
        let _ = line.outbox.push(&header, &body, bulk, Credits::default());
        drop(body);

        match poll_fn(|cx| ticket.poll(cx)).await {
            Ending::Answered(answer) => answer.map_err(CallError::Refused),
            Ending::Expired => Err(line.timed_out(within)),
            Ending::Broken(cause) => Err(CallError::Lost { address: line.address.clone(), cause: cause.to_string() }),
        }
    }

    /// No further call will get through: open another connection.
    pub fn is_closed(&self) -> bool {
        self.line.requests.is_closed()
    }

    /// The server's start: another number after it was restarted.
    pub fn incarnation(&self) -> u64 {
        self.line.incarnation
    }

    /// Name of the system that the server belongs to.
    pub fn system(&self) -> &str {
        &self.line.system
    }

    pub fn address(&self) -> &Address {
        &self.line.address
    }
}

/// One call's hold on its slot.
struct Ticket<'a> {
    line: &'a Line,
    request: u64,
    live: bool,
}

impl Ticket<'_> {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Ending> {
        let outcome = self.line.calls.poll(self.request, cx);
        self.live = outcome.is_pending();
        outcome
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.live {
            self.line.calls.abandon(self.request);
        }
    }
}

impl Line {
    /// Takes credits for one request, waiting for them until `deadline`. True if it had to wait.
    async fn acquire(&self, wanted: Credits, deadline: Instant, within: Duration) -> Result<bool, CallError> {
        let (requests, mut waited) = self.acquire_some(&self.requests, wanted.requests, deadline, within).await?;
        if wanted.bulk > 0 {
            // The bound is a u32, and so is a charge.
            let (bulk, bulk_waited) = self.acquire_some(&self.bulk, wanted.bulk as u32, deadline, within).await?;
            bulk.forget();
            waited |= bulk_waited;
        }
        // From here on they come back with the answer.
        requests.forget();
        Ok(waited)
    }

    async fn acquire_some<'a>(
        &self,
        credits: &'a Semaphore,
        count: u32,
        deadline: Instant,
        within: Duration,
    ) -> Result<(SemaphorePermit<'a>, bool), CallError> {
        match credits.try_acquire_many(count) {
            Ok(permit) => return Ok((permit, false)),
            Err(TryAcquireError::Closed) => return Err(self.unreachable_now()),
            Err(TryAcquireError::NoPermits) => {}
        }
        match rt::timeout(deadline - rt::now(), credits.acquire_many(count)).await {
            Ok(Ok(permit)) => Ok((permit, true)),
            Ok(Err(_closed)) => Err(self.unreachable_now()),
            Err(_elapsed) => Err(self.timed_out(within)),
        }
    }

    /// Ends the link, for `cause`. Only the first cause counts.
    fn fail(&self, cause: &str) {
        if let Some(lost) = self.calls.fail(cause) {
            tracing::debug!(address = %self.address, cause, lost, "connection closed");
            metrics::CALLS_LOST.add(lost as u64);
        }
        self.requests.close();
        self.bulk.close();
        self.outbox.kill();
        self.sooner.notify_one();
    }

    fn unreachable_now(&self) -> CallError {
        match self.calls.down() {
            Some(cause) => self.unreachable(&cause),
            None => self.unreachable("the connection is closed"),
        }
    }

    fn unreachable(&self, cause: &str) -> CallError {
        unreachable(&self.address, cause.to_owned())
    }

    fn timed_out(&self, waited: Duration) -> CallError {
        metrics::CALLS_TIMED_OUT.add(1);
        CallError::TimedOut { address: self.address.clone(), waited }
    }
}

/// Fails the link when the task that holds this ends, whatever ends it: a task's own runtime may
/// go away under it, and callers on other threads must not wait for ever.
struct FailOnDrop(Arc<Line>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.fail("the connection's own tasks have ended");
    }
}

async fn write_requests(line: Arc<Line>, mut writer: LinkWriter) {
    let line = FailOnDrop(line);
    let mut batch = Batch::default();
    while line.0.outbox.take(&mut batch).await {
        if let Err(error) = writer.write(&mut batch).await {
            line.0.fail(&format!("sending failed: {error}"));
            return;
        }
    }
}

async fn read_answers(line: Arc<Line>, mut reader: LinkReader) {
    let line = FailOnDrop(line);
    let cause = loop {
        let admit = |header: &Header| match header.kind {
            Kind::Response | Kind::Failure | Kind::Goodbye => Ok(()),
            // Where the simulator doubles frames, the greeting comes once more.
            Kind::Welcome if matches!(line.0.address, Address::Mem(_)) => Ok(()),
            _ => Err(Error::new(Code::Protocol, format!("a server does not send a {:?}", header.kind))),
        };
        match reader.receive(admit).await {
            // All is agreed.
            Ok(Some(arrival)) if arrival.header.kind == Kind::Welcome => {}
            Ok(Some(arrival)) => match deliver(&line.0, arrival) {
                Ok(()) => {}
                Err(cause) => break cause,
            },
            Ok(None) => break "the server closed it".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    line.0.fail(&cause);
}

/// Hands an answer to its caller.
///
/// # Errors
/// Why the link has to end.
fn deliver(line: &Line, arrival: Arrival) -> Result<(), String> {
    let Arrival { header, body, bulk } = arrival;
    observe(&line.clock, &header).map_err(|error| error.to_string())?;
    let answer = match header.kind {
        Kind::Response => Ok(Reply { body, bulk }),
        Kind::Failure => {
            Err(Error::from_bytes(&body).map_err(|error| format!("a failure that cannot be read: {error}"))?)
        }
        _ => {
            return Err(match Error::from_bytes(&body) {
                Ok(reason) => format!("the server closed it: {reason}"),
                Err(_) => "the server closed it".to_owned(),
            });
        }
    };
    if let Some(returned) = line.calls.answer(header.request, answer) {
        line.requests.add_permits(returned.requests as usize);
        if returned.bulk > 0 {
            line.bulk.add_permits(returned.bulk as usize);
        }
    }
    Ok(())
}

/// Ends calls at their deadlines. One timer a link, not one a call: it is set to the earliest
/// deadline known and looks at all the slots when it fires. Without calls it is not set at all.
async fn keep_deadlines(line: Arc<Line>) {
    loop {
        let woken = line.sooner.notified();
        match line.calls.alarm() {
            None => woken.await,
            Some(alarm) => {
                // Whichever came first: the slots tell.
                let _ = select(pin!(rt::sleep_until(alarm)), pin!(woken)).await;
            }
        }
        match line.calls.expire(rt::now()) {
            Expiry::Next(_) => {}
            Expiry::Overdue => {
                line.fail("the server has not answered for long after a deadline");
                return;
            }
        }
    }
}

/// Says hello and hears the welcome.
async fn greet(mut link: Link, to: &Address, service: Service, caller: &Caller) -> Result<(Link, Welcome), CallError> {
    let hello = Hello {
        oldest: Version::OLDEST as u8,
        newest: Version::NEWEST as u8,
        service,
        session: caller.session.0,
        system: caller.system.clone(),
    };
    let protocol = |cause: String| CallError::Protocol { address: to.clone(), cause };
    let body = hello.to_bytes();
    let header = greeting_header(Kind::Hello, &body, &caller.clock, caller.session);
    // Failing to send may mean that the peer has said goodbye already: what it said tells more.
    let sent = link.send(&header, &body).await;
    let admit = |header: &Header| admit_greeting(header, Kind::Welcome);
    let arrival = match (link.receive(admit).await, sent) {
        (Ok(Some(arrival)), _) => arrival,
        (Ok(None), _) => return Err(unreachable(to, "it closed the link without a word".to_owned())),
        (Err(LinkError::Io(error)), _) | (Err(LinkError::Torn), Err(error)) => {
            return Err(unreachable(to, error.to_string()));
        }
        (Err(error), _) => return Err(protocol(error.to_string())),
    };
    if arrival.header.kind == Kind::Goodbye {
        let reason = Error::from_bytes(&arrival.body).map_err(|error| protocol(error.to_string()))?;
        return Err(CallError::Refused(reason));
    }
    observe(&caller.clock, &arrival.header).map_err(CallError::Refused)?;
    let welcome = Welcome::from_bytes(&arrival.body).map_err(|error| protocol(error.to_string()))?;
    if !(Version::OLDEST as u8..=Version::NEWEST as u8).contains(&welcome.version) {
        return Err(protocol(format!("it chose version {}, which was not offered", welcome.version)));
    }
    if !caller.system.is_empty() && welcome.system != caller.system {
        return Err(protocol(format!("it belongs to system '{}', not '{}'", welcome.system, caller.system)));
    }
    if welcome.request_credits == 0 {
        return Err(protocol("it grants no requests".to_owned()));
    }
    Ok((link, welcome))
}

/// Header of a hello, welcome or goodbye.
pub(crate) fn greeting_header(kind: Kind, body: &[u8], clock: &Hlc, session: SessionId) -> Header {
    Header {
        kind,
        opcode: 0,
        request: 0,
        clock: clock.now(),
        session: session.0,
        sequence: 0,
        deadline_ms: 0,
        body_bytes: body.len() as u32,
        bulk_bytes: 0,
        body_crc: codec::crc32c(body),
    }
}

/// Judges the first frame of a link: `wanted` or a goodbye, short, without bulk data.
pub(crate) fn admit_greeting(header: &Header, wanted: Kind) -> Result<(), Error> {
    let protocol = |text: String| Err(Error::new(Code::Protocol, text));
    if header.kind != wanted && header.kind != Kind::Goodbye {
        protocol(format!("the link begins with a {:?} instead of a {wanted:?}", header.kind))
    } else if header.body_bytes > GREETING_BYTES_MAX || header.bulk_bytes > 0 {
        protocol(format!(
            "a {:?} of {} bytes",
            header.kind,
            u64::from(header.body_bytes) + u64::from(header.bulk_bytes)
        ))
    } else {
        Ok(())
    }
}

/// Takes note of the clock in a frame.
///
/// # Errors
/// `ClockOffset`, for a peer too far ahead.
pub(crate) fn observe(clock: &Hlc, header: &Header) -> Result<(), Error> {
    // Most frames bring no news, and then the calendar need not be asked.
    if header.clock <= clock.last() {
        return Ok(());
    }
    clock.observe(header.clock).map_err(|offset| Error::new(Code::ClockOffset, offset.to_string()))
}

/// Bulk credits that a request with `bulk_bytes` takes of `credits`.
pub(crate) fn charge(bulk_bytes: usize, credits: u32) -> u64 {
    (bulk_bytes as u64).min(credits.into())
}

/// Milliseconds to tell the server, rounded up: it must not give up before the caller does.
fn millis_left(left: Duration) -> u32 {
    u32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn check_size(what: &str, bytes: usize, limit: usize) -> Result<(), CallError> {
    if bytes <= limit {
        return Ok(());
    }
    let error = Error::new(Code::Overflow, format!("{what} of {bytes} bytes is over the limit of {limit}"))
        .remedy("split it into several requests");
    Err(CallError::Refused(error))
}

fn unreachable(address: &Address, cause: String) -> CallError {
    CallError::Unreachable { address: address.clone(), cause }
}

/// The kernel's words, and for the common cases what they mean here.
fn connect_cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        _ => error.to_string(),
    }
}

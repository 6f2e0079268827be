//! The answering end of a link.
//!
//! # Shape
//! One task reads requests and starts a task for each; their answers gather in the [`Outbox`], which
//! one more task writes. Everything stays on the thread that called [`serve`].
//!
//! # Always true
//! 1. Every request admitted is answered once, even if its handler panics, unless the link ends.
//! 2. A request's credits come free when its answer is taken to be written, so what a caller can
//!    make the server hold is bounded even if it never reads.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, FutureExt, select};
use tokio::sync::{Notify, watch};
use types::{Code, Error, SessionId};
use wire::frame::{BODY_BYTES_MAX, BULK_BYTES_MAX, Header, Kind};
use wire::hello::Welcome;
use wire::{Opcode, Wire};

use crate::connection::{charge, greeting_header, observe};
use crate::link::{Arrival, Link, LinkReader, LinkWriter};
use crate::listener::{GOODBYE_TIMEOUT, Host, Stop, goodbye, say_goodbye, stopping, violation};
use crate::outbox::{Batch, Bulk, Credits, Outbox};
use crate::{Incoming, Limits, Reply, Request, metrics};

/// How long a welcome may take to be written: it is small, and the caller waits for it.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// What answers requests. One per thread; its futures stay on that thread.
pub trait Handler: 'static {
    /// Answers one request. Runs as a task of its own, beside those of other requests, and to its
    /// end even if the caller has gone.
    fn handle(self: Rc<Self>, request: Request) -> impl Future<Output = Result<Reply, Error>> + 'static;
}

/// Welcomes `incoming` and answers its requests until it leaves, misbehaves, or the listener stops.
///
/// Call it on the thread that shall do the work (it spawns local tasks). `incarnation` tells this
/// start of the server from the one before. Handlers still running at the end run on; their answers
/// are dropped. Dropping the future ends the link.
pub async fn serve<H: Handler>(incoming: Incoming, limits: Limits, incarnation: u64, handler: Rc<H>) {
    let Incoming { link, host, session, version, peer, mut stop, .. } = incoming;
    let Ok(mut link) = link.attach() else { return };
    if let Stop::By(_) = *stop.borrow() {
        say_goodbye(link, &host.clock, &stopping()).await;
        return;
    }
    if !welcome(&mut link, &host, session, version, limits, incarnation).await {
        return;
    }
    let _counted = Counted::new();
    let line = Rc::new(Line {
        outbox: Outbox::new(&link),
        host,
        session,
        limits,
        copies: link.copies_max(),
        under_way: Cell::new(Credits::default()),
        running: Cell::new(0),
        quiet: Notify::new(),
    });
    let _hangup = Hangup(line.clone());
    let (mut reader, writer) = link.split();
    let mut writing = rt::spawn_local(write_answers(line.clone(), writer));

    let end = {
        let reading = pin!(read_requests(&mut reader, &line, &handler));
        let stopped = pin!(stopped(&mut stop));
        match select(reading, select(stopped, &mut writing)).await {
            Either::Left((end, _)) => end,
            Either::Right((Either::Left((until, _)), _)) => End::Stopping(until),
            Either::Right((Either::Right(_), _)) => End::Left,
        }
    };
    let reason = match end {
        End::Left => return,
        End::Violation(reason) => {
            tracing::debug!(peer, %reason, "link closed");
            metrics::BAD_PEERS.add(1);
            reason
        }
        End::Stopping(until) => {
            // Past the bound their answers are dropped.
            let _ = rt::timeout(until - rt::now(), line.quiet()).await;
            stopping()
        }
    };
    let (header, body) = goodbye(&line.host.clock, &reason);
    if line.outbox.push(&header, &body, None, Credits::default()).is_ok() {
        line.outbox.close();
        if rt::timeout(GOODBYE_TIMEOUT, &mut writing).await.is_ok() {
            reader.linger().await;
        }
    }
}

/// Why a link ends.
enum End {
    /// The peer has gone, or does not take what it is sent.
    Left,
    Violation(Error),
    Stopping(rt::Instant),
}

/// What the tasks of one link share.
struct Line {
    outbox: Outbox,
    host: std::sync::Arc<Host>,
    session: SessionId,
    limits: Limits,
    /// How often one frame may arrive: twice, where the simulator doubles frames.
    copies: u32,
    /// Of requests read whose answers have not been taken to be written.
    under_way: Cell<Credits>,
    /// Handlers at work.
    running: Cell<u32>,
    /// Told when the last of them ends.
    quiet: Notify,
}

/// Ends the writer, whichever way `serve` ends.
struct Hangup(Rc<Line>);

impl Drop for Hangup {
    fn drop(&mut self) {
        self.0.outbox.kill();
    }
}

/// A link in the gauge.
struct Counted;

impl Counted {
    fn new() -> Counted {
        metrics::LINKS.add(1);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::LINKS.add(-1);
    }
}

/// Tells the caller what was agreed. False if it could not be told.
async fn welcome(
    link: &mut Link,
    host: &Host,
    session: SessionId,
    version: u8,
    limits: Limits,
    incarnation: u64,
) -> bool {
    let welcome = Welcome {
        version,
        request_credits: limits.request_credits.max(1),
        bulk_credits: limits.bulk_credits,
        incarnation,
        system: host.system.clone(),
    };
    let body = welcome.to_bytes();
    let header = greeting_header(Kind::Welcome, &body, &host.clock, session);
    matches!(rt::timeout(WELCOME_TIMEOUT, link.send(&header, &body)).await, Ok(Ok(())))
}

/// Resolves when the listener stops, never if it is dropped instead.
async fn stopped(stop: &mut watch::Receiver<Stop>) -> rt::Instant {
    loop {
        if let Stop::By(until) = *stop.borrow_and_update() {
            return until;
        }
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn write_answers(line: Rc<Line>, mut writer: LinkWriter) {
    let mut batch = Batch::default();
    while line.outbox.take(&mut batch).await {
        // Before the write: the caller may use a credit as soon as it has the answer.
        line.release(batch.released);
        if let Err(error) = writer.write(&mut batch).await {
            tracing::debug!(%error, "writing answers failed");
            line.outbox.kill();
            return;
        }
    }
}

async fn read_requests<H: Handler>(reader: &mut LinkReader, line: &Rc<Line>, handler: &Rc<H>) -> End {
    loop {
        match reader.receive(|header| line.admit(header)).await {
            Ok(Some(arrival)) if arrival.header.kind == Kind::Goodbye => return End::Left,
            // The greeting once more: all is agreed.
            Ok(Some(arrival)) if arrival.header.kind == Kind::Hello => {}
            Ok(Some(arrival)) => {
                if let Err(reason) = begin(line, handler, arrival) {
                    return End::Violation(reason);
                }
            }
            Ok(None) => return End::Left,
            Err(error) => return violation(&error).map_or(End::Left, End::Violation),
        }
    }
}

/// Starts the task of one request.
///
/// # Errors
/// Why the link has to end.
fn begin<H: Handler>(line: &Rc<Line>, handler: &Rc<H>, arrival: Arrival) -> Result<(), Error> {
    let Arrival { header, body, bulk } = arrival;
    observe(&line.host.clock, &header)?;
    metrics::REQUESTS.add(1);
    let answer = Answer::new(line, &header);
    let opcode = match Opcode::parse(header.opcode) {
        Ok(opcode) => opcode,
        Err(error) => {
            answer.send(Err(error));
            return Ok(());
        }
    };
    let request = Request {
        opcode,
        session: line.session,
        sequence: header.sequence,
        clock: header.clock,
        deadline: rt::now() + Duration::from_millis(header.deadline_ms.into()),
        body,
        bulk,
    };
    let future = handler.clone().handle(request);
    // Detached on purpose: a handler runs to its end whatever becomes of the link; `Answer` tells
    // the line when it has.
    // Not as a block that awaits it: that has room for it twice.
    drop(rt::spawn_local(future.map(|outcome| answer.send(outcome))));
    Ok(())
}

impl Line {
    /// Judges a frame by its header, and charges a request its credits.
    fn admit(&self, header: &Header) -> Result<(), Error> {
        let protocol = |text: String| Err(Error::new(Code::Protocol, text));
        match header.kind {
            Kind::Request => {}
            Kind::Goodbye => return Ok(()),
            Kind::Hello if self.copies > 1 => return Ok(()),
            other => return protocol(format!("a {other:?} where a request was expected")),
        }
        if header.session != self.session.0 {
            return protocol("a request of another session than the link's".to_owned());
        }
        let wanted = self.credits_of(header);
        let mut under_way = self.under_way.get();
        under_way.requests += wanted.requests;
        under_way.bulk += wanted.bulk;
        let Limits { request_credits, bulk_credits } = self.limits;
        if under_way.requests > request_credits.max(1).saturating_mul(self.copies) {
            return protocol(format!("more than the {} requests granted", request_credits.max(1)));
        }
        if under_way.bulk > u64::from(bulk_credits) * u64::from(self.copies) {
            return protocol(format!("more than the {bulk_credits} bulk bytes granted"));
        }
        self.under_way.set(under_way);
        Ok(())
    }

    fn credits_of(&self, header: &Header) -> Credits {
        Credits { requests: 1, bulk: charge(header.bulk_bytes as usize, self.limits.bulk_credits) }
    }

    fn release(&self, credits: Credits) {
        let Credits { requests, bulk } = self.under_way.get();
        self.under_way.set(Credits { requests: requests - credits.requests, bulk: bulk - credits.bulk });
    }

    /// Resolves when no handler is at work.
    async fn quiet(&self) {
        while self.running.get() > 0 {
            self.quiet.notified().await;
        }
    }
}

/// The duty to answer one request. Dropped without an answer (its handler panicked, or was aborted
/// with its thread), it answers that the request failed.
struct Answer {
    line: Rc<Line>,
    /// The answer's header: filled in when the answer is there.
    header: Header,
    held: Credits,
    given: bool,
}

impl Answer {
    fn new(line: &Rc<Line>, request: &Header) -> Answer {
        line.running.set(line.running.get() + 1);
        let header = Header { deadline_ms: 0, body_bytes: 0, bulk_bytes: 0, body_crc: 0, ..*request };
        Answer { line: line.clone(), header, held: line.credits_of(request), given: false }
    }

    fn send(mut self, outcome: Result<Reply, Error>) {
        self.give(outcome);
    }

    fn give(&mut self, outcome: Result<Reply, Error>) {
        self.given = true;
        match outcome.and_then(check_reply) {
            Ok(Reply { body, bulk }) => self.push(Kind::Response, &body, bulk),
            Err(error) => self.push(Kind::Failure, &error.to_bytes(), None),
        }
    }

    fn push(&mut self, kind: Kind, body: &[u8], bulk: Option<rt::disk::IoBuf>) {
        let bulk = bulk.filter(|bulk| !bulk.is_empty());
        self.header.kind = kind;
        self.header.clock = self.line.host.clock.now();
        self.header.body_bytes = body.len() as u32;
        self.header.bulk_bytes = bulk.as_ref().map_or(0, |bulk| bulk.len() as u32);
        self.header.body_crc = codec::crc32c(body);
        // Closed: the caller has gone, and nobody waits for this answer.
        let _ = self.line.outbox.push(&self.header, body, bulk.map(Bulk::Owned), self.held);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.given {
            self.give(Err(
                Error::new(Code::Misc, "the server failed while it handled the request").remedy("see the server's log")
            ));
        }
        self.line.running.set(self.line.running.get() - 1);
        if self.line.running.get() == 0 {
            self.line.quiet.notify_one();
        }
    }
}

/// Answers have the bounds of frames, too.
fn check_reply(reply: Reply) -> Result<Reply, Error> {
    let bulk_bytes = reply.bulk.as_ref().map_or(0, |bulk| bulk.len());
    if reply.body.len() <= BODY_BYTES_MAX && bulk_bytes <= BULK_BYTES_MAX {
        Ok(reply)
    } else {
        let text = format!("an answer of {} + {bulk_bytes} bytes does not fit in a frame", reply.body.len());
        Err(Error::new(Code::Overflow, text).remedy("ask for less at once"))
    }
}

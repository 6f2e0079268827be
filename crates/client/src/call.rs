//! One operation: the same request, tried until it is answered or its time is up.

use std::time::Duration;

use ::object::retry::{self, Failure, Next};
use ::object::update::UpdateMessage;
use net::{CallError, Reply};
use rt::disk::IoBuf;
use types::{Code, Error, Result};
use wire::opcode::Repeat;
use wire::{Opcode, Wire};

use crate::link::{Link, Links};

/// What one attempt sends.
pub(crate) struct Outgoing {
    pub(crate) body: Vec<u8>,
    pub(crate) bulk: Option<IoBuf>,
}

impl From<UpdateMessage> for Outgoing {
    fn from(message: UpdateMessage) -> Outgoing {
        Outgoing { body: message.body, bulk: message.bulk }
    }
}

impl Outgoing {
    pub(crate) fn message(message: &impl Wire) -> Outgoing {
        Outgoing { body: message.to_bytes(), bulk: None }
    }
}

/// What to do after a failed attempt, its pause being over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    SameMap,
    NewMap,
}

/// An operation under way: its number, its time, and what has happened to it so far.
pub(crate) struct Operation {
    opcode: Opcode,
    sequence: u64,
    started: rt::Instant,
    deadline: rt::Instant,
    /// Failures so far.
    before: retry::Before,
    /// Some attempt may have taken effect.
    unknown: bool,
    /// What a server said last of a service that has no leader: it knows more than a silence at the end of the time.
    no_service: Option<Error>,
}

impl Operation {
    pub(crate) fn new(links: &Links, opcode: Opcode, time: Duration) -> Operation {
        let started = rt::now();
        let sequence = links.next_sequence();
        Operation {
            opcode,
            sequence,
            started,
            deadline: started + time,
            before: Default::default(),
            unknown: false,
            no_service: None,
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline - rt::now()
    }

    /// How often it has failed so far.
    pub(crate) fn failures(&self) -> u32 {
        self.before.failures
    }

    /// Notes a failure after which somebody else is asked at once.
    pub(crate) fn passed_over(&mut self, failure: &Failure) {
        self.note(failure);
        tracing::debug!(opcode = self.opcode.name(), sequence = self.sequence, error = %failure.error(), "asking another");
    }

    fn note(&mut self, failure: &Failure) {
        self.unknown |= failure.is_unknown() && self.opcode.repeat() == Repeat::Once;
        if let Failure::Refused(error) = failure {
            self.no_service = (error.code == Code::NoService).then(|| error.clone());
        }
    }

    /// Sends once and waits for the answer, or for this attempt's share of the time.
    pub(crate) async fn attempt(&self, links: &Links, link: &Link, out: Outgoing) -> Result<Reply, Failure> {
        self.attempt_of(1, links, link, out).await
    }

    /// As [`Operation::attempt`], when `candidates`, this one among them, are to be asked in the time that is left: one that
    /// is dead must not take it all.
    pub(crate) async fn attempt_of(
        &self,
        candidates: usize,
        links: &Links,
        link: &Link,
        out: Outgoing,
    ) -> Result<Reply, Failure> {
        if links.is_closed() {
            return Err(Failure::Final(Error::new(Code::NoHandle, "the system was closed").remedy("open it again")));
        }
        let share = self.left() / u32::try_from(candidates).unwrap_or(u32::MAX).max(1);
        let limit = retry::attempt_limit(self.left()).min(share);
        let began = rt::now();
        let opened = link.connection(limit).await.map_err(|error| match failure_of(error) {
            // What was refused is the greeting, not the request.
            Failure::Refused(error) if error.code == Code::Protocol => Failure::Broken(error),
            // Nor is it an answer to an earlier attempt; others may have taken the target's place.
            Failure::Refused(error) if link.is_to_target() => Failure::Unreachable(error),
            failure => failure,
        });
        let (connection, generation) = opened?;
        let limit = limit.saturating_sub(began.elapsed());
        if limit.is_zero() {
            // The link is good, and the next attempt finds it open.
            let text = format!(
                "opening a link took {} ms, and no time was left to send the request",
                began.elapsed().as_millis()
            );
            let error = Error::new(Code::Unreachable, text).remedy("try again, or allow more time");
            return Err(Failure::Unreachable(error));
        }
        let answer = connection.call(self.opcode, self.sequence, out.body, out.bulk, limit).await;
        answer.map_err(|error| {
            // After a silence the link itself is in doubt; on a broken one there is no doubt.
            if matches!(error, CallError::Lost { .. } | CallError::TimedOut { .. } | CallError::Protocol { .. }) {
                link.forget(generation);
            }
            failure_of(error)
        })
    }

    /// Judges a failure: pauses and says how to go on, or gives the error to report.
    pub(crate) async fn after(&mut self, failure: Failure) -> Result<Again> {
        self.note(&failure);
        let next = retry::next(&failure, self.before, self.left(), rt::random_u64());
        self.before = self.before.and(&failure);
        let (again, pause) = match next {
            Next::Retry { after } => (Again::SameMap, after),
            Next::Refresh { after } => (Again::NewMap, after),
            Next::Fail => return Err(self.give_up(failure)),
        };
        tracing::debug!(
            opcode = self.opcode.name(),
            sequence = self.sequence,
            attempt = self.before.failures,
            ?pause,
            error = %failure.error(),
            "trying again"
        );
        if !pause.is_zero() {
            rt::sleep(pause).await;
        }
        Ok(again)
    }

    /// The error of an operation that ends here.
    pub(crate) fn give_up(&self, failure: Failure) -> Error {
        let failure = match (failure, &self.no_service) {
            (Failure::Unreachable(_) | Failure::Lost(_), Some(error)) => Failure::Refused(error.clone()),
            (failure, _) => failure,
        };
        // A final refusal is an answer to this very request, whichever attempt brought it; `Uncertain` says itself that
        // nobody knows.
        let is_answer = |error: &Error| !error.is_transient() && !matches!(error.code, Code::Stale | Code::ClockOffset);
        let answered = matches!(&failure, Failure::Refused(error) if is_answer(error));
        let attempts = if answered { 1 } else { self.before.failures.max(1) };
        retry::give_up(failure, attempts, self.started.elapsed(), self.unknown && !answered)
    }
}

fn failure_of(error: CallError) -> Failure {
    match error {
        CallError::Unreachable { .. } => Failure::Unreachable(error.into()),
        CallError::Lost { .. } | CallError::TimedOut { .. } => Failure::Lost(error.into()),
        CallError::Refused(error) => Failure::Refused(error),
        CallError::Protocol { .. } => Failure::Broken(error.into()),
    }
}

/// Decodes an answer.
pub(crate) fn decode<R: Wire>(opcode: Opcode, reply: &Reply) -> Result<R> {
    R::from_bytes(&reply.body).map_err(|error| {
        Error::new(Code::Protocol, format!("the answer to {} is not one: {error}", opcode.name()))
            .remedy("use a client and a server of the same release")
    })
}

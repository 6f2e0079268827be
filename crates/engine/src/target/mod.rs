//! One target: one thread, one store, the requests for its data.
//!
//! # Shape
//! A target's thread runs three kinds of task: links ([`net::serve`], which calls [`Target`] as
//! their handler), the queue of [`order`]s from the service, and upkeep (giving up what nobody can
//! see any more). All share the store through one `RefCell` that is never borrowed across an await:
//! plan, wait for bulk data, apply in one call, wait for durability, answer.
//!
//! # Not here
//! What a request means inside the store (`vos`), frames (`net`).

mod fetch;
mod group;
mod keys;
pub mod ledger;
#[cfg(test)]
mod machine;
pub mod open;
pub mod order;
mod orders;
mod punch;
pub mod rebuild;
pub mod recall;
mod resize;
mod scrub;
mod update;
mod upkeep;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use net::{Handler, Reply, Request};
use rt::Hlc;
use types::{Code, ContainerId, Error, TargetIndex};
use wire::data::Place;
use wire::opcode::Repeat;
use wire::{Opcode, Reader, Wire};

use self::group::{Door, Groups};
use self::resize::Resizer;
use self::scrub::Scrubber;
use self::upkeep::Upkeep;
use crate::hold::HorizonHold;
use crate::sessions::{Sessions, Turn};
use crate::widths::WantedWidths;

/// Fault point: a request has taken effect, and its answer stays away for longer than anybody waits.
pub const ANSWER_IS_LATE: &str = "engine.target.answer_is_late";
const LATE: Duration = Duration::from_secs(60);

/// A target, on its own thread.
pub struct Target {
    index: TargetIndex,
    store: RefCell<vos::Store>,
    /// The same media that the store keeps its data in: for waiting, and for bulk data.
    media: media::Store,
    hlc: Hlc,
    hold: HorizonHold,
    widths: WantedWidths,
    sessions: Sessions,
    upkeep: Upkeep,
    holds: rebuild::Holds,
    pace: rebuild::Pace,
    scrubber: Scrubber,
    resizer: Resizer,
    groups: Groups,
}

impl Target {
    /// Waits until the store takes changes again, or the caller has stopped waiting.
    ///
    /// # Errors
    /// `Busy`, when the deadline passes first.
    async fn relieved(&self, deadline: rt::Instant) -> Result<(), Error> {
        let left = deadline - rt::now();
        // Rare, so that it is no part of what every request's task has room for.
        match Box::pin(rt::timeout(left, self.media.relieved())).await {
            Ok(relieved) => relieved.map_err(|e| self.device_error(e)),
            Err(_) => {
                let text = format!("target {} is writing down changes and takes no more for now", self.index);
                Err(Error::new(Code::Busy, text).remedy("try again in a moment"))
            }
        }
    }

    /// Waits for what may mend a refusal: a checkpoint that is under way, or space that upkeep can give
    /// back (looked for once a request; `looked` remembers).
    ///
    /// # Errors
    /// The refusal, when nothing mends it.
    async fn mend(
        &self,
        error: vos::Error,
        container: ContainerId,
        deadline: rt::Instant,
        looked: &mut bool,
    ) -> Result<(), Error> {
        let is_full = matches!(error, vos::Error::NoSpace { .. } | vos::Error::DeviceFull { .. });
        if is_pressure(&error) {
            return self.relieved(deadline).await;
        }
        if is_full && !std::mem::replace(looked, true) && Box::pin(self.make_room(container, deadline)).await? {
            return Ok(());
        }
        Err(self.refusal(container, error))
    }

    /// Waits until everything up to `lsn` is on the device.
    async fn durable(&self, lsn: media::Lsn) -> Result<(), Error> {
        self.media.durable(lsn).await.map_err(|failed| self.device_error(failed.into()))
    }

    /// What the device did, as the user of a request hears it.
    fn device_error(&self, error: media::Error) -> Error {
        let text = format!("target {}: {error}", self.index);
        match error {
            media::Error::Failed(_) => Error::new(Code::Io, text).remedy(
                "look after the device (`dmg storage query` shows it), then restart the server: what was \
                 acknowledged is kept",
            ),
            media::Error::DiskFull { .. } => Error::new(Code::NoSpace, text).remedy(
                "make room in the file system that the target's files are on: it goes on by itself; what was acknowledged is \
                 kept, and can be read",
            ),
            _ => Error::new(Code::Io, text),
        }
    }
}

/// A request's message.
///
/// # Errors
/// `Protocol`, with what is wrong with the bytes.
pub(crate) fn parse<M: Wire>(body: &[u8]) -> Result<M, Error> {
    M::from_bytes(body).map_err(|e| Error::new(Code::Protocol, format!("the request does not decode: {e}")))
}

/// What a request that takes effect is about: the first field of its message.
///
/// # Errors
/// `Protocol`.
fn place_of(request: &Request) -> Result<Place, Error> {
    Place::decode(&mut Reader::new(&request.body))
        .map_err(|e| Error::new(Code::Protocol, format!("the request does not decode: {e}")))
}

impl Handler for Target {
    async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
        // Nothing has to make way for rebuilding.
        if !matches!(request.opcode, Opcode::Copy | Opcode::CopyDigest | Opcode::CopyList | Opcode::CopyMemory) {
            self.upkeep.served();
        }
        // A clock that stands takes no note of its callers': what is done now would lie before what they have seen.
        if self.hlc.last() < request.clock {
            let text = format!("target {} waits for the time: its server's clock is not known to be right", self.index);
            return Err(Error::new(Code::Again, text).remedy("try again in a moment"));
        }
        match request.opcode {
            Opcode::Echo => return Ok(Reply { body: request.body, bulk: request.bulk }),
            Opcode::Fetch => return self.fetch(request).await,
            Opcode::Copy => return Box::pin(self.copy(&request)).await,
            Opcode::Group => return self.follow(request).await,
            _ => {}
        }
        let (session, sequence) = (request.session, request.sequence);
        let body = match request.opcode.repeat() {
            Repeat::Harmless => self.answer(request, &Door::Single).await?,
            Repeat::Once => {
                // A refusal that sends its client elsewhere is not remembered as its answer.
                let door = self.door(&place_of(&request)?, request.deadline).await?;
                if matches!(door, Door::Follow { .. }) {
                    return Err(self.not_leader(&place_of(&request)?));
                }
                let body = match self.sessions.turn(session.0, sequence).await {
                    Turn::Ran(answer) => answer?,
                    Turn::First(run) => run.end(self.answer_once(request, &door).await)?,
                };
                if rt::fault!(ANSWER_IS_LATE) {
                    rt::sleep(LATE).await;
                }
                body
            }
        };
        Ok(Reply { body: body.into(), bulk: None })
    }
}

impl Target {
    /// Answers a request that takes effect once. It is recalled before anything can refuse it, for want of room or
    /// else: what took effect is not refused. Where it would take effect the store is asked again, for it may have learnt
    /// of it meanwhile.
    async fn answer_once(self: &Rc<Self>, request: Request, door: &Door) -> Result<Vec<u8>, Error> {
        let origin = vos::Origin { session: request.session, seq: request.sequence };
        match self.recall(origin).await? {
            Some(committed) => Ok(committed.to_bytes()),
            None => self.answer(request, door).await,
        }
    }

    async fn answer(self: &Rc<Self>, request: Request, door: &Door) -> Result<Vec<u8>, Error> {
        match request.opcode {
            Opcode::Update => Ok(self.update(request, door).await?.to_bytes()),
            Opcode::Punch => Ok(self.punch(request, door).await?.to_bytes()),
            Opcode::ListObjects => Ok(self.list_objects(&request)?.to_bytes()),
            Opcode::ListDkeys => Ok(Box::pin(self.list_dkeys(&request)).await?.to_bytes()),
            Opcode::ListAkeys => Ok(Box::pin(self.list_akeys(&request)).await?.to_bytes()),
            Opcode::ListExtents => Ok(Box::pin(self.list_extents(&request)).await?.to_bytes()),
            Opcode::Diff => Ok(self.diff(&request)?.to_bytes()),
            Opcode::CopyList => Ok(Box::pin(self.copy_list(&request)).await?.to_bytes()),
            Opcode::CopyMemory => Ok(Box::pin(self.copy_memory(&request)).await?.to_bytes()),
            Opcode::CopyDigest => Ok(Box::pin(self.copy_digest(&request)).await?.to_bytes()),
            Opcode::QueryKeys => Ok(Box::pin(self.query_keys(&request)).await?.to_bytes()),
            other => {
                let text = format!("{} is a request for the control service, not for a target", other.name());
                Err(Error::new(Code::Protocol, text))
            }
        }
    }

    /// The store's refusal, as its user sees it.
    fn refusal(&self, container: ContainerId, error: vos::Error) -> Error {
        let target = self.index;
        match error {
            vos::Error::NoPool(id) => Error::new(Code::NotFound, format!("no pool {id}")),
            vos::Error::NoContainer(_) if self.groups.is_elsewhere(container) => {
                Error::new(Code::Stale, format!("target {target} has no part in the container's pool any more"))
                    .remedy("refresh the pool map")
            }
            vos::Error::NoContainer(_) => Error::new(Code::NotFound, format!("no container {container}"))
                .remedy("it was destroyed, or never made"),
            vos::Error::PoolExists(_) | vos::Error::ContainerExists(_) => Error::new(Code::Exists, error.to_string()),
            vos::Error::Exists => Error::new(Code::Exists, "the key exists already"),
            vos::Error::NotFound => Error::new(Code::NotFound, "the key does not exist"),
            vos::Error::NoSpace { pool, used, quota, reserve, wanted } => {
                let kept = match reserve {
                    0 => String::new(),
                    _ => format!("; {} beside are kept for rebuilds (space_rb)", types::ByteSize(reserve)),
                };
                let lower = if reserve == 0 { "" } else { "lower space_rb (`dmg pool set-prop`), " };
                Error::new(
                    Code::NoSpace,
                    format!(
                        "pool {pool} is full: {} of its {} on target {target} are used, {} more were wanted{kept}",
                        types::ByteSize(used),
                        types::ByteSize(quota),
                        types::ByteSize(wanted)
                    ),
                )
                .remedy(format!("delete something, {lower}or create a larger pool"))
            }
            vos::Error::DeviceFull { wanted, free } => Error::new(
                Code::NoSpace,
                format!(
                    "the storage of target {target} is full: {} are free, {} were wanted",
                    types::ByteSize(free),
                    types::ByteSize(wanted)
                ),
            )
            .remedy("delete something, or give the server more storage"),
            vos::Error::RecordSize { .. } => {
                Error::new(Code::RecordSize, error.to_string()).remedy("punch the akey first to change it")
            }
            vos::Error::KeyTooLong { .. } => Error::new(Code::KeyTooBig, error.to_string()),
            vos::Error::Invalid(_) => Error::new(Code::Invalid, error.to_string()),
            vos::Error::EpochFull(_)
            | vos::Error::InProgress { .. }
            | vos::Error::Restart { .. }
            | vos::Error::IntentsFull => Error::new(Code::Again, error.to_string()),
            vos::Error::ChangeState { .. } | vos::Error::OldTerm { .. } => Error::new(Code::Invalid, error.to_string()),
            vos::Error::Forgotten { .. } => Error::new(Code::NotFound, error.to_string())
                .remedy("read a snapshot, or a later moment; the property `retention` says how much history is kept"),
            vos::Error::RollingBack { .. } => Error::new(Code::Busy, error.to_string()).remedy("try again in a moment"),
            vos::Error::Corrupt { .. } => Error::new(Code::Checksum, format!("target {target}: {error}"))
                .remedy("other data stays readable; restore this from a copy"),
            vos::Error::Stopped => Error::new(Code::Io, format!("target {target}: {error}"))
                .remedy("see the server's log, then restart it"),
            vos::Error::Media(media::Error::TooLarge { .. }) => Error::new(Code::ValueTooBig, error.to_string()),
            vos::Error::Media(error) => self.device_error(error),
        }
    }
}

/// The store asks for a pause: a checkpoint must finish first.
fn is_pressure(error: &vos::Error) -> bool {
    matches!(error, vos::Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. }))
}

#[cfg(test)]
mod tests {
    use types::Conditions;

    use super::*;
    use crate::target::machine::{Machine, request, simulated, update};

    /// The task of every request has room for the largest; it was moved several times for each, 9 KB of it, which was a sixth
    /// of what a put with copies cost, and four tenths of what a get did. What is large and rare is boxed where it is awaited.
    #[test]
    fn the_task_of_a_request_is_small() {
        simulated(async {
            let machine = Machine::new().await;
            let request = request(7, 1, Opcode::Update, update("k", "v", Conditions::None));
            let bytes = size_of_val(&machine.target.clone().handle(request));
            assert!(bytes <= 2560, "{bytes} bytes");
        });
    }
}

//! From any server to the one that answers: the leader of the service that a request is about.
//!
//! A request waits here, within its time, while nobody leads. Repeats reach the leader under the client's own name for
//! the request, so that however often and by whichever way they come, it takes effect once.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use net::{CallError, Request};
use raft::{GroupId, ReadError};
use types::{Code, Error, PoolId, Rank, SessionId};
use wire::opcode::Repeat;
use wire::peer as msg;
use wire::{Opcode, Reader, Wire, peer::HOPS_MAX};

use super::Service;
use super::pool::PoolState;
use super::slot::Slot;
use super::system::SystemState;
use crate::target::parse;

/// How long to wait before looking again for a leader.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The least time that a request is given at another server before it is sent again.
const FORWARD_MIN: Duration = Duration::from_secs(2);
/// Kept back of a request's time, to find out who is missing, and for the answer's way.
const WAY_BACK_MAX: Duration = Duration::from_secs(1);
/// How long to wait for each voter when it is asked whether it is there.
const PING: Duration = Duration::from_millis(500);

/// A client's request on its way.
pub(super) struct Call {
    pub(super) opcode: Opcode,
    pub(super) session: SessionId,
    pub(super) sequence: u64,
    pub(super) until: rt::Instant,
    /// Between that and the caller's own deadline.
    kept_back: Duration,
    hops: u8,
    pub(super) body: Bytes,
}

/// Whose request it is.
enum Scope {
    /// Whichever server was asked.
    Here,
    System,
    /// The pool's with this name.
    Pool(String),
}

/// Who answers a request, as far as this server knows.
enum Found {
    System { term: u64 },
    Pool { id: PoolId, slot: Rc<Slot<PoolState>>, term: u64 },
    At(Rank),
    Nobody,
}

impl Call {
    pub(super) fn of(request: Request) -> Call {
        let Request { opcode, session, sequence, deadline, body, .. } = request;
        let kept_back = way_back(deadline);
        Call { opcode, session, sequence, until: deadline - kept_back, kept_back, hops: 0, body }
    }

    /// A request of the server itself.
    pub(super) fn own(opcode: Opcode, body: Vec<u8>, until: rt::Instant) -> Call {
        let kept_back = WAY_BACK_MAX;
        Call { opcode, session: SessionId(0), sequence: 0, until, kept_back, hops: 0, body: body.into() }
    }

    pub(super) fn left(&self) -> Duration {
        self.until - rt::now()
    }

    pub(super) fn name(&self) -> Option<raft::Request> {
        super::named(self.session, self.sequence)
    }

    /// # Errors
    /// `Protocol`: the pool's name cannot be read.
    fn scope(&self) -> Result<Scope, Error> {
        Ok(match self.opcode {
            Opcode::StorageResize | Opcode::SetLogMasks | Opcode::Echo => Scope::Here,
            Opcode::SystemQuery
            | Opcode::SystemToken
            | Opcode::SystemExclude
            | Opcode::SystemStop
            | Opcode::SystemChangeTargets
            | Opcode::SystemSetAttributes
            | Opcode::SystemGetAttributes
            | Opcode::SystemSetProperties
            | Opcode::SystemGetProperties
            | Opcode::StorageQuery
            | Opcode::PoolCreate
            | Opcode::PoolList
            | Opcode::PoolDestroy
            | Opcode::Join => Scope::System,
            // All of them begin with it.
            _ => Scope::Pool(String::decode(&mut Reader::new(&self.body)).map_err(|error| {
                Error::new(Code::Protocol, format!("{} names no pool: {error}", self.opcode.name()))
            })?),
        })
    }
}

impl Service {
    /// Has a request answered, here or elsewhere.
    ///
    /// # Errors
    /// Of the request; `NoService` when nobody leads, with who is missing.
    pub(super) async fn route(self: &Rc<Self>, call: Call) -> Result<Vec<u8>, Error> {
        if call.opcode as u16 >> 8 == 2 {
            let text = format!("{} is a request for a target, not for the control service", call.opcode.name());
            return Err(Error::new(Code::Protocol, text));
        }
        let scope = call.scope()?;
        let mut last = None;
        loop {
            let outcome = match self.find(&scope, call.left()).await? {
                Found::System { term } => Some(self.once(&call, self.answer_for_system(&call, term)).await),
                Found::Pool { id, slot, term } => {
                    Some(self.once(&call, self.answer_for_pool(&call, id, &slot, term)).await)
                }
                Found::At(rank) if rank != self.rank && call.hops < HOPS_MAX => self.forward(&call, rank).await,
                Found::At(_) | Found::Nobody if matches!(scope, Scope::Here) => {
                    Some(self.once(&call, self.answer_here(&call)).await)
                }
                Found::At(_) | Found::Nobody => None,
            };
            match outcome {
                // Leadership went elsewhere meanwhile: whoever has it now knows what became of the command.
                Some(Err(error)) if matches!(error.code, Code::Again | Code::NoService | Code::Unreachable) => {
                    last = Some(error);
                }
                Some(outcome) => return outcome,
                None => {}
            }
            if call.left() <= LOOK_EVERY {
                return Err(self.no_leader(&scope, last, PING.min(call.kept_back / 2)).await);
            }
            rt::sleep(LOOK_EVERY).await;
        }
    }

    /// Runs a request once, however many of it come.
    async fn once(&self, call: &Call, work: impl Future<Output = Result<Vec<u8>, Error>>) -> Result<Vec<u8>, Error> {
        match call.opcode.repeat() {
            Repeat::Harmless => work.await,
            // What was forgotten with an earlier life, the service's state remembers.
            Repeat::Once => self.sessions.once(call.session.0, call.sequence, work).await,
        }
    }

    /// # Errors
    /// `NotFound`: there is no such pool.
    async fn find(&self, scope: &Scope, within: Duration) -> Result<Found, Error> {
        match scope {
            Scope::Here => Ok(Found::Nobody),
            Scope::System => Ok(match self.system.confirm_within(within).await {
                Ok(term) => Found::System { term },
                Err(why) => elsewhere(why),
            }),
            Scope::Pool(name) => self.find_pool_service(name, within).await,
        }
    }

    async fn find_pool_service(&self, name: &str, within: Duration) -> Result<Found, Error> {
        let Ok(id) = self.system.group.local(|system| system.find(name)) else {
            // It may be newer than what is known here.
            return match self.system.confirm_within(within).await {
                Ok(_) => match self.system.group.local(|system| system.find(name)) {
                    Ok(_) => Ok(Found::Nobody),
                    Err(error) => Err(error),
                },
                Err(why) => Ok(elsewhere(why)),
            };
        };
        let slot = self.pools.borrow().get(&id).cloned();
        let Some(slot) = slot else {
            // Somebody who has a replica knows who leads. Who was stopped goes on voting, and may be all that there is; and who
            // is out may be back before anybody says so.
            let others = self.system.group.local(|system| {
                let others = system.pools.get(&id).into_iter().flat_map(|row| row.servers.iter().copied());
                let others: Vec<Rank> = others.filter(|rank| *rank != self.rank).collect();
                let votes = |rank: &&Rank| system.is_joined(**rank) || system.is_stopped(**rank);
                let voting: Vec<Rank> = others.iter().filter(votes).copied().collect();
                if voting.is_empty() { others } else { voting }
            });
            let turn = rt::random_u64() as usize % others.len().max(1);
            return Ok(others.get(turn).map_or(Found::Nobody, |rank| Found::At(*rank)));
        };
        Ok(match slot.confirm_within(within).await {
            Ok(term) if slot.group.local(PoolState::is_created) => Found::Pool { id, slot, term },
            Ok(_) => Found::Nobody,
            Err(why) => elsewhere(why),
        })
    }

    /// `None`: it is not known what became of it there.
    async fn forward(&self, call: &Call, to: Rank) -> Option<Result<Vec<u8>, Error>> {
        let message = msg::Forward {
            session: call.session.0,
            sequence: call.sequence,
            opcode: call.opcode as u16,
            hops: call.hops + 1,
            body: wire::encoding::Bytes(call.body.to_vec()),
        };
        let within = (call.left() / 4).max(FORWARD_MIN).min(call.left());
        match self.peers.ask(to, Opcode::Forward, message.to_bytes(), within).await {
            Ok(body) => Some(Ok(body)),
            Err(CallError::Refused(error)) => Some(Err(match error.code {
                Code::ShuttingDown => Error { code: Code::Again, ..error },
                _ => error,
            })),
            Err(error) => {
                tracing::debug!(%to, %error, "a request was sent on and not answered");
                None
            }
        }
    }

    /// A request that another server sent on.
    pub(super) async fn forwarded(self: &Rc<Self>, request: &Request) -> Result<Vec<u8>, Error> {
        let message: msg::Forward = parse(&request.body)?;
        let kept_back = way_back(request.deadline);
        let call = Call {
            opcode: Opcode::parse(message.opcode)?,
            session: SessionId(message.session),
            sequence: message.sequence,
            until: request.deadline - kept_back,
            kept_back,
            hops: message.hops,
            body: message.body.0.into(),
        };
        self.route(call).await
    }

    /// Who is missing, in words. `ping`: how long each may take to say that it is there.
    async fn no_leader(&self, scope: &Scope, last: Option<Error>, ping: Duration) -> Error {
        // Whoever has a replica knows best who votes, and has said who is missing.
        if let Some(error) = last.as_ref().filter(|error| error.code == Code::NoService && error.remedy.is_some()) {
            return error.clone();
        }
        let (what, voters) = self.who_decides(scope);
        let pings = voters.iter().map(async |rank| {
            let is_me = *rank == self.rank;
            is_me || self.peers.ask(*rank, Opcode::Echo, Vec::new(), ping).await.is_ok()
        });
        let there = join_all(pings).await;
        no_leader(&what, &voters, &there, last)
    }

    /// A service as it is called, and who votes in it as far as is known here: of a pool that has no replica here, or one that
    /// has heard nothing yet, whoever has a part of it.
    fn who_decides(&self, scope: &Scope) -> (String, BTreeSet<Rank>) {
        let pool = match scope {
            Scope::Pool(name) => self.system.group.local(|system| system.find(name)).ok().map(|id| (name, id)),
            Scope::Here | Scope::System => None,
        };
        let Some((name, id)) = pool else {
            return ("the system".to_string(), self.system.group.voters());
        };
        let known = self.pools.borrow().get(&id).map(|slot| slot.group.voters()).filter(|voters| !voters.is_empty());
        let servers = || {
            let row = |system: &SystemState| system.pools.get(&id).map(|row| row.servers.iter().copied().collect());
            self.system.group.local(row).unwrap_or_default()
        };
        (format!("pool '{name}'"), known.unwrap_or_else(servers))
    }

    /// The replica that a group's id names.
    pub(super) async fn consensus(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let message: msg::Consensus = parse(body)?;
        let id = group_id(&message.group.0)?;
        if id == self.system_group() {
            return Ok(self.system.group.handle(&message.message.0).await);
        }
        let group = self.pools.borrow().get(&PoolId::from_bytes(id.0)).map(|slot| Rc::clone(&slot.group));
        match group {
            Some(group) => Ok(group.handle(&message.message.0).await),
            None => Err(Error::new(Code::NotFound, format!("rank {} has no replica of {id}", self.rank))),
        }
    }

    pub(super) fn system_group(&self) -> GroupId {
        let kept = self.kept.borrow();
        GroupId(kept.identity.place.as_ref().map_or([0; 16], |place| place.system.to_bytes()))
    }
}

pub(super) fn group_id(bytes: &[u8]) -> Result<GroupId, Error> {
    let id = bytes.try_into().map_err(|_| Error::new(Code::Protocol, "a group's id has 16 bytes"))?;
    Ok(GroupId(id))
}

fn elsewhere(why: ReadError) -> Found {
    match why {
        ReadError::NotLeader { leader: Some(leader) } => Found::At(leader.rank),
        ReadError::NotLeader { leader: None } | ReadError::Busy | ReadError::NoMajority | ReadError::Stopped { .. } => {
            Found::Nobody
        }
    }
}

/// How much of the time until then is kept back.
fn way_back(deadline: rt::Instant) -> Duration {
    ((deadline - rt::now()) / 8).min(WAY_BACK_MAX)
}

/// Why a service does not answer: of those who vote in it, these are `there`.
fn no_leader(what: &str, voters: &BTreeSet<Rank>, there: &[bool], last: Option<Error>) -> Error {
    let some = |wanted: bool| {
        let some = voters.iter().zip(there).filter(|(_, there)| **there == wanted).map(|(rank, _)| rank.to_string());
        some.collect::<Vec<_>>().join(", ")
    };
    let answer = there.iter().filter(|there| **there).count();
    if voters.is_empty() || answer * 2 > voters.len() {
        let cause = last.map_or("it has no leader at the moment".to_string(), |error| error.message);
        return Error::new(Code::NoService, format!("the service of {what} does not answer: {cause}"))
            .remedy("try again in a moment; `dmg system query` shows which ranks are there");
    }
    let who = if answer == 0 { "none answers".to_string() } else { format!("only {} answer", some(true)) };
    let words = format!("no quorum for {what}: of ranks {} {who}", list(voters));
    Error::new(Code::NoService, words).remedy(format!("bring ranks {} back", some(false)))
}

fn list<'a>(ranks: impl IntoIterator<Item = &'a Rank>) -> String {
    ranks.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a pool whose voters nobody here knew it was said "of ranks  only none answer: bring ranks  back"; and of one whose
    /// members were all gone, that the system has no leader.
    #[test]
    fn who_does_not_answer_is_named_and_whom_to_bring_back() {
        let ranks: BTreeSet<Rank> = [1, 2, 3].map(Rank).into();
        let said = |voters: &BTreeSet<Rank>, there: &[bool]| no_leader("pool 'tank'", voters, there, None);
        let some = said(&ranks, &[false, true, false]);
        assert_eq!(some.message, "no quorum for pool 'tank': of ranks 1, 2, 3 only 2 answer");
        assert_eq!(some.remedy.as_deref(), Some("bring ranks 1, 3 back"));
        let none = said(&ranks, &[false; 3]);
        assert_eq!(none.message, "no quorum for pool 'tank': of ranks 1, 2, 3 none answers");
        let unknown = said(&BTreeSet::new(), &[]);
        assert_eq!(unknown.message, "the service of pool 'tank' does not answer: it has no leader at the moment");
    }
}

//! What a target remembers of requests goes along with the groups that it gives: whoever leads one next tells a repeat
//! from a first (K5).
//!
//! Sessions are remembered by target, not by group, so a target's memory is asked for once, after the groups that it
//! gives: what takes effect in between comes to whoever is to have a group as to its member.
//!
//! What a source says is believed only as far as an honest store could say it. A session whose page cannot be read at the
//! source is named as such, and is the trouble of that session alone.

use std::rc::Rc;

use net::Request;
use types::{Code, ContainerId, Epoch, Error, PoolId, SessionId};
use vos::{Effects, Memory};
use wire::copy::{CopyMemoryRequest, CopyMemoryResponse, SessionEffects, SessionMemory};

use super::{PATIENCE, Source};
use crate::target::{Target, is_pressure, parse};

/// Sessions in one answer: of 256 effects with 16 bytes each.
const SESSIONS_MAX: usize = 64;

impl Target {
    /// What this target remembers, for another that got groups of a pool from it by that map.
    pub(in crate::target) async fn copy_memory(
        self: &Rc<Self>,
        request: &Request,
    ) -> Result<CopyMemoryResponse, Error> {
        let CopyMemoryRequest { pool, map_version, after } = parse(&request.body)?;
        self.knows_map(pool, map_version, request.deadline).await?;
        self.memory_behind(after)
    }

    pub(super) fn memory_behind(&self, after: Option<u64>) -> Result<CopyMemoryResponse, Error> {
        let found = self.store.borrow_mut().memories(after.map(SessionId), SESSIONS_MAX);
        let found = found.map_err(|error| self.forgetful(error))?;
        let next = found.last().filter(|_| found.len() == SESSIONS_MAX).map(|last| last.session.0);
        let out = |effects: Effects| SessionEffects { floor: effects.floor(), list: effects.list().to_vec() };
        let out = |Memory { session, effects }| SessionMemory { session: session.0, effects: effects.map(out) };
        Ok(CopyMemoryResponse { sessions: found.into_iter().map(out).collect(), next })
    }

    /// Remembers what a source does; durable when this returns.
    ///
    /// # Errors
    /// The source's; `Checksum`: what it says cannot be.
    pub(in crate::target) async fn take_memory(&self, source: &impl Source, pool: PoolId) -> Result<(), Error> {
        let (mut after, mut last) = (None, None);
        loop {
            let part = source.memory(CopyMemoryRequest { pool, map_version: 0, after }).await?;
            let next = part.next;
            let Some(memories) = checked(part, after, self.hlc.now()) else {
                return Err(Error::new(Code::Checksum, "what the source remembers of requests arrived damaged")
                    .remedy("it is tried again"));
            };
            for memory in memories {
                let deadline = rt::now() + PATIENCE;
                last = Some(loop {
                    let remembered = self.store.borrow_mut().remember(&memory);
                    match remembered {
                        Ok(lsn) => break lsn,
                        Err(error) if is_pressure(&error) => self.relieved(deadline).await?,
                        Err(error) => return Err(self.forgetful(error)),
                    }
                });
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        match last {
            Some(lsn) => self.durable(lsn).await,
            None => Ok(()),
        }
    }

    /// Of no container's.
    fn forgetful(&self, error: vos::Error) -> Error {
        self.refusal(ContainerId::from_bytes([0; 16]), error)
    }
}

/// A part of what a source remembers behind `after`, if an honest one could say so `now`.
fn checked(part: CopyMemoryResponse, after: Option<u64>, now: Epoch) -> Option<Vec<Memory>> {
    let numbers = || part.sessions.iter().map(|session| session.session);
    let is_ascending = after.into_iter().chain(numbers()).is_sorted_by(|one, next| one < next);
    // So that each answer leads further, and all of them together come to an end.
    let leads_on = part.next.is_none() || part.next == numbers().next_back();
    if part.sessions.len() > SESSIONS_MAX || !is_ascending || !leads_on {
        return None;
    }
    let memory = |SessionMemory { session, effects }| {
        let effects = match effects {
            Some(SessionEffects { floor, list }) => {
                let is_past = list.iter().all(|(_, epoch)| *epoch <= now);
                Some(Effects::new(floor, list).filter(|_| is_past)?)
            }
            None => None,
        };
        (session != 0).then_some(Memory { session: SessionId(session), effects })
    };
    part.sessions.into_iter().map(memory).collect()
}

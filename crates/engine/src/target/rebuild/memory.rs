//! What a target remembers of requests goes along with the groups that it gives: whoever leads one next tells a repeat
//! from a first (K5).
//!
//! Sessions are remembered by target, not by group, so a target's memory is asked for once, after all groups that it
//! gives: what takes effect in between comes to whoever is to have a group as to its member.

use std::rc::Rc;

use net::Request;
use types::{Code, ContainerId, Error, PoolId, SessionId};
use vos::Memory;
use wire::copy::{CopyMemoryRequest, CopyMemoryResponse, SessionMemory};

use super::{PATIENCE, Source};
use crate::target::{Target, is_pressure, parse};

/// Sessions in one answer: of 256 effects with 16 bytes each.
const SESSIONS_MAX: usize = 64;

impl Target {
    /// What this target remembers, for another that is to have groups of a pool. What older maps began is decided before.
    pub(in crate::target) async fn copy_memory(
        self: &Rc<Self>,
        request: &Request,
    ) -> Result<CopyMemoryResponse, Error> {
        let CopyMemoryRequest { pool, map_version, after } = parse(&request.body)?;
        self.all_serve(pool, map_version, request.deadline).await?;
        self.memory_behind(after)
    }

    pub(super) fn memory_behind(&self, after: Option<u64>) -> Result<CopyMemoryResponse, Error> {
        let found = self.store.borrow_mut().memories(after.map(SessionId), SESSIONS_MAX);
        let found = found.map_err(|error| self.forgetful(error))?;
        let next = found.last().filter(|_| found.len() == SESSIONS_MAX).map(|last| last.session.0);
        let out = |Memory { session, floor, effects }| SessionMemory { session: session.0, floor, effects };
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
            let is_behind = part.next.is_none_or(|next| after.is_none_or(|after| next > after));
            if !is_behind || part.sessions.iter().any(|session| session.effects.len() > vos::EFFECTS_MAX) {
                return Err(Error::new(Code::Checksum, "what the source remembers of requests arrived damaged")
                    .remedy("it is tried again"));
            }
            for SessionMemory { session, floor, effects } in part.sessions {
                let memory = Memory { session: SessionId(session), floor, effects };
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
            after = part.next;
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

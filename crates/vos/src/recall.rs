//! Asking a store what became of a request, and telling another's what became of those of a target whose work it takes
//! over.
//!
//! # Not here
//! How effects are noted: `sessions`.

use media::{Lsn, Reserve};
use types::{Epoch, SessionId};

use crate::error::Result;
use crate::record::Record;
use crate::request::{Origin, Recall};
use crate::sessions::{Memory, sessions_max};
use crate::store::Store;

impl Store {
    /// What became of a request, as far as effects go: one that was refused may run again. An effect may not
    /// be durable yet; it is when everything is that was appended so far.
    ///
    /// # Errors
    /// `Corrupt`: whether it took effect cannot be read.
    pub fn recall(&mut self, origin: Origin) -> Result<Recall> {
        let mut pages = self.media.pages();
        pages.begin_op();
        self.catalog.sessions.recall(&pages, origin)
    }

    /// The highest number of a session that took effect, of those remembered; 0 when there is none, and
    /// `u64::MAX` when that cannot be told.
    pub fn highest_effect(&self, session: SessionId) -> u64 {
        self.catalog.sessions.highest(session)
    }

    /// Sessions of which effects are remembered, ascending.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.catalog.sessions.sessions()
    }

    /// Sessions whose effects cannot be read, ascending: all their requests are to be refused.
    pub fn unreadable_sessions(&self) -> Vec<SessionId> {
        self.catalog.sessions.unread()
    }

    /// Effects remembered of a session, oldest first: number of the request, and epoch.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn effects(&mut self, session: SessionId) -> Result<Vec<(u64, Epoch)>> {
        let mut pages = self.media.pages();
        pages.begin_op();
        self.catalog.sessions.effects(&pages, session)
    }

    /// What this target knows of the first sessions behind `after`, for another that is to do its work: not more than
    /// `limit` of them, in order. A page that cannot be read is the trouble of its session alone.
    ///
    /// # Errors
    /// The device's.
    pub fn memories(&mut self, after: Option<SessionId>, limit: usize) -> Result<Vec<Memory>> {
        let sessions = &self.catalog.sessions;
        let mut next: Vec<SessionId> = sessions.sessions().into_iter().chain(sessions.unread()).collect();
        next.retain(|session| after.is_none_or(|after| *session > after));
        next.sort_unstable();
        next.truncate(limit);
        let mut pages = self.media.pages();
        next.into_iter()
            .map(|session| {
                pages.begin_op();
                sessions.memory(&pages, session)
            })
            .collect()
    }

    /// Remembers what took effect on another target, as if it had here. What is known already, or has no room beside
    /// sessions that did something later, costs no record; nor does what is known of a session that cannot be read here.
    ///
    /// # Errors
    /// `Media(LogFull)`: wait for `relieved`; `Corrupt`, of the catalog.
    pub fn remember(&mut self, memory: &Memory) -> Result<Lsn> {
        let is_known = {
            let mut pages = self.media.pages();
            pages.begin_op();
            self.catalog.sessions.knows(&pages, memory)?
        };
        if is_known {
            return Ok(self.last_lsn());
        }
        let (floor, effects) = memory.noted();
        let record = Record::Remember { floor, effects: effects.to_vec() };
        self.change(Origin { session: memory.session, seq: 0 }, Reserve::Normal, &record)
    }

    /// Most bytes of the device that memory of sessions takes; no pool pays for them.
    pub fn session_bytes_max(&self) -> u64 {
        sessions_max(self.media.usage().space.capacity) * media::PAGE_BYTES as u64
    }
}

//! Asking a store what became of a request.
//!
//! # Not here
//! How effects are noted: `sessions`.

use types::{Epoch, SessionId};

use crate::error::Result;
use crate::request::{Origin, Recall};
use crate::sessions::sessions_max;
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

    /// Most bytes of the device that memory of sessions takes; no pool pays for them.
    pub fn session_bytes_max(&self) -> u64 {
        sessions_max(self.media.usage().space.capacity) * media::PAGE_BYTES as u64
    }
}

//! The accepting end: an address, and the links that arrive there.

use std::time::Duration;

use rt::Hlc;
use types::SessionId;
use wire::hello::Service;

use crate::Address;

/// Listens at one address and reads the hellos of those who come.
pub struct Listener {}

/// Why an address cannot be listened at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Someone else answers there.
    #[error("{address} is in use by another program: stop it, or choose another address")]
    InUse { address: Address },
    #[error("cannot listen at {address}: {cause}")]
    Failed { address: Address, cause: String },
}

impl Listener {
    /// Starts to listen. A port of 0 takes a free one: see [`Listener::address`]. A unix socket left
    /// behind by a server that was killed is replaced; one that still answers is not.
    ///
    /// `system`: callers that name another are refused. `clock` observes theirs.
    pub async fn bind(_address: &Address, _system: &str, _clock: Hlc) -> Result<Listener, BindError> {
        unimplemented!()
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        unimplemented!()
    }

    /// The next caller whose hello was in order; `None` after [`Listener::stop`]. Cancel-safe.
    pub async fn accept(&self) -> Option<Incoming> {
        unimplemented!()
    }

    /// Stops accepting, lets the requests under way on its links finish for at most `within`, then
    /// says goodbye on each. Returns when all its links are closed.
    pub async fn stop(&self, _within: Duration) {
        unimplemented!()
    }
}

/// A caller that has said hello and waits to be served. May move to another thread first.
pub struct Incoming {}

impl Incoming {
    /// Which service it asks for.
    pub fn service(&self) -> &Service {
        unimplemented!()
    }

    pub fn session(&self) -> SessionId {
        unimplemented!()
    }

    /// Sends it away with `reason`, for example when it asks for a target that is not here.
    pub async fn refuse(self, _reason: types::Error) {
        unimplemented!()
    }
}

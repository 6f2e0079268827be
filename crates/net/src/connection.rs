//! The calling end of a link.

use std::time::Duration;

use rt::Hlc;
use rt::disk::IoBuf;
use types::SessionId;
use wire::Opcode;
use wire::hello::Service;

use crate::{Address, CallError, Reply};

/// Who calls: the same for all of a program's connections.
#[derive(Clone)]
pub struct Caller {
    /// A number drawn at random when the program (or its pool handle) started.
    pub session: SessionId,
    /// Name of the system meant, so that a wrong address is noticed.
    pub system: String,
    /// The program's clock; it observes the server's.
    pub clock: Hlc,
}

/// A link to one service of one server. Clones share it; the last one dropped closes it.
///
/// Its tasks run where it was opened. Calls may come from any thread.
#[derive(Clone)]
pub struct Connection {}

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// `Unreachable`: nobody listens, or not in time. `Refused`: another system's name, versions
    /// that do not meet, clocks too far apart, a server that is stopping. `Protocol`: not a server
    /// of ours.
    pub async fn open(
        _to: &Address,
        _service: Service,
        _caller: &Caller,
        _within: Duration,
    ) -> Result<Connection, CallError> {
        unimplemented!()
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
        _opcode: Opcode,
        _sequence: u64,
        _body: Vec<u8>,
        _bulk: Option<IoBuf>,
        _within: Duration,
    ) -> Result<Reply, CallError> {
        unimplemented!()
    }

    /// No further call will get through: open another connection.
    pub fn is_closed(&self) -> bool {
        unimplemented!()
    }

    /// The server's start: another number after it was restarted.
    pub fn incarnation(&self) -> u64 {
        unimplemented!()
    }

    pub fn address(&self) -> &Address {
        unimplemented!()
    }
}

//! What is asked and what is answered, as handlers and callers see it.

use bytes::Bytes;
use rt::disk::IoBuf;
use types::{Epoch, SessionId};
use wire::Opcode;

/// A request as it reached its server.
#[derive(Debug)]
pub struct Request {
    pub opcode: Opcode,
    /// With `sequence`, the request's name for ever: a repeat carries the same.
    pub session: SessionId,
    pub sequence: u64,
    /// The caller's clock when it sent this; ours has observed it.
    pub clock: Epoch,
    /// When the caller stops waiting, on this machine's monotonic clock.
    pub deadline: rt::Instant,
    /// The opcode's message, encoded.
    pub body: Bytes,
    pub bulk: Option<IoBuf>,
}

/// The answer to a request that was done.
#[derive(Debug, Default)]
pub struct Reply {
    /// The answer's message, encoded.
    pub body: Bytes,
    pub bulk: Option<IoBuf>,
}

impl Reply {
    /// A reply of one message without bulk data.
    pub fn message(message: &impl wire::Wire) -> Reply {
        Reply { body: message.to_bytes().into(), bulk: None }
    }
}

/// What one link's caller may have under way. Told to it in the welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests not yet answered; at least 1.
    pub request_credits: u32,
    /// Bulk bytes of requests not yet answered. One request with more counts as exactly this many,
    /// so it still gets through, alone.
    pub bulk_credits: u32,
}

impl Default for Limits {
    /// Deep enough that a client fills one target, small enough that a thousand idle links cost
    /// nothing and a busy one at most some 64 MiB.
    fn default() -> Limits {
        Limits { request_credits: 256, bulk_credits: 64 << 20 }
    }
}

//! Why a call has no answer, by what the caller can do next.

use std::time::Duration;

use types::{Code, Error};

use crate::Address;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent: safe to try again, here or elsewhere.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable { address: Address, cause: String },
    /// The link broke with the answer missing: whether the request took effect is unknown. Open
    /// another connection and repeat it with the same session and sequence.
    #[error("the link to {address} broke before the answer came: {cause}")]
    Lost { address: Address, cause: String },
    /// The deadline passed first; whether the request took effect, or will yet, is unknown. With
    /// time left elsewhere, repeat it with the same session and sequence.
    #[error("no answer from {address} within {} ms", waited.as_millis())]
    TimedOut { address: Address, waited: Duration },
    /// The server's answer: it did not do what was asked.
    #[error("{0}")]
    Refused(Error),
    /// The peer is not, or does not behave like, a server of this system. Repeating will not help.
    #[error("{address} does not speak as a DAOS server: {cause}")]
    Protocol { address: Address, cause: String },
}

impl CallError {
    /// Worth repeating with the same session and sequence: nobody has said no for good.
    pub fn is_transient(&self) -> bool {
        match self {
            CallError::Unreachable { .. } | CallError::Lost { .. } | CallError::TimedOut { .. } => true,
            CallError::Refused(error) => error.is_transient(),
            CallError::Protocol { .. } => false,
        }
    }
}

/// As a user sees it: with a number and a remedy.
impl From<CallError> for Error {
    fn from(error: CallError) -> Error {
        let text = error.to_string();
        match error {
            CallError::Refused(error) => error,
            CallError::Unreachable { .. } => Error::new(Code::Unreachable, text)
                .remedy("check that the server runs and that the address is the one it listens at"),
            CallError::Lost { .. } => Error::new(Code::Again, text).remedy("try again"),
            CallError::TimedOut { .. } => Error::new(Code::TimedOut, text)
                .remedy("try again, or allow more time; see whether the server is overloaded"),
            CallError::Protocol { .. } => Error::new(Code::Protocol, text)
                .remedy("check the address, and that client and server are of the same release"),
        }
    }
}

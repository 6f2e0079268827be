//! What is replicated: a service's state machine, the sessions beside it, and how far the log is applied.
//!
//! All of it is pure: the same entries give the same state and the same answers on every replica (K19).

use openraft::EntryPayload;
use wire::encoding::{Bytes, encode_bytes};
use wire::{DecodeError, Reader, Wire};

use crate::kinds::{
    Answer, Command, Entry, LogId, SnapshotMeta, StoredMembership, decode_log_id, decode_option, decode_stored,
    encode_log_id, encode_option, encode_stored,
};
use crate::limits::RESPONSE_BYTES_MAX;
use crate::sessions::{Known, Sessions};

/// A service's state and the commands that change it. Its encoding is what snapshots hold.
///
/// `apply` knows no clock, no chance and no I/O: what a command needs of the outside its proposer puts into it. A refusal is
/// a response too, and leaves the state as it was.
pub trait StateMachine: Wire + 'static {
    /// Names the machine in its snapshots, at most 32 bytes.
    const NAME: &'static str;
    type Command: Wire;
    /// At most [`crate::limits::RESPONSE_BYTES_MAX`] bytes.
    type Response: Wire;

    fn apply(&mut self, command: Self::Command) -> Self::Response;
}

/// A machine with what consensus must know beside it.
pub(crate) struct Replicated<S> {
    pub(crate) machine: S,
    pub(crate) applied: Option<LogId>,
    pub(crate) members: StoredMembership,
    sessions: Sessions,
}

impl<S: StateMachine> Replicated<S> {
    pub(crate) fn new(machine: S) -> Replicated<S> {
        Replicated { machine, applied: None, members: StoredMembership::default(), sessions: Sessions::default() }
    }

    /// Applies the next entry of the log.
    pub(crate) fn apply(&mut self, entry: Entry) -> Answer {
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Answer::Nothing,
            EntryPayload::Membership(members) => {
                self.members = StoredMembership::new(Some(entry.log_id), members);
                Answer::Nothing
            }
            EntryPayload::Normal(command) => self.apply_command(command),
        }
    }

    fn apply_command(&mut self, command: Command) -> Answer {
        match command.request.map(|request| self.sessions.look_up(request)) {
            Some(Known::Done(response)) => return Answer::Response(response),
            Some(Known::Forgotten) => return Answer::Forgotten,
            Some(Known::New) | None => {}
        }
        let Ok(readable) = S::Command::from_bytes(&command.bytes) else { return Answer::Unreadable };
        let response = self.machine.apply(readable).to_bytes();
        assert!(response.len() <= RESPONSE_BYTES_MAX, "a response of {} has {} bytes", S::NAME, response.len());
        if let Some(request) = command.request {
            self.sessions.remember(request, response.clone());
        }
        Answer::Response(response)
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.members.clone() }
    }
}

/// Body of a snapshot: counted name of the machine; `Option` of the last log id; `Option` of the log id of the
/// membership, and the membership (see [`crate::kinds`]); the sessions; the machine's state, counted.
impl<S: StateMachine> Wire for Replicated<S> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(S::NAME.as_bytes(), out);
        encode_option(self.applied.as_ref(), out, encode_log_id);
        encode_stored(&self.members, out);
        self.sessions.encode(out);
        encode_bytes(&self.machine.to_bytes(), out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Replicated<S>, DecodeError> {
        if String::decode(from)? != S::NAME {
            return Err(DecodeError::Invalid { what: "the name of the machine" });
        }
        let applied = decode_option(from, decode_log_id)?;
        let members = decode_stored(from)?;
        let sessions = Sessions::decode(from)?;
        let Bytes(state) = Wire::decode(from)?;
        Ok(Replicated { machine: S::from_bytes(&state)?, applied, members, sessions })
    }
}

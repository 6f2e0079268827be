//! What is replicated: a service's state machine, the sessions beside it, and how far the log is applied.
//!
//! All of it is pure: the same entries give the same state and the same answers on every replica (K19).

use openraft::EntryPayload;
use wire::encoding::{Bytes, encode_bytes};
use wire::{DecodeError, Reader, Wire};

use crate::kinds::{
    Answer, Command, Entry, LogId, Request, SnapshotMeta, StoredMembership, decode_log_id, decode_option,
    decode_stored, encode_log_id, encode_option, encode_stored,
};
use crate::limits::RESPONSE_BYTES_MAX;
use crate::recent::Recent;
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
    /// What took effect last, for who subscribes; not a part of snapshots.
    pub(crate) recent: Recent,
    sessions: Sessions,
}

impl<S: StateMachine> Replicated<S> {
    pub(crate) fn new(machine: S) -> Replicated<S> {
        let (recent, sessions) = (Recent::default(), Sessions::default());
        Replicated { machine, applied: None, members: StoredMembership::default(), recent, sessions }
    }

    /// Applies the next entry of the log.
    ///
    /// # Errors
    /// The machine cannot read the command: whoever proposed it is of another release. To skip it would be to have another
    /// state than those who can, so that this replica must stop.
    pub(crate) fn apply(&mut self, entry: Entry) -> Result<Answer, DecodeError> {
        let (answer, command) = match entry.payload {
            EntryPayload::Blank => (Answer::Nothing, None),
            EntryPayload::Membership(members) => {
                self.members = StoredMembership::new(Some(entry.log_id), members);
                (Answer::Nothing, None)
            }
            EntryPayload::Normal(command) => self.apply_command(command)?,
        };
        self.applied = Some(entry.log_id);
        self.recent.note(plain(entry.log_id), command);
        Ok(answer)
    }

    /// Gives the command, too, if it took effect now.
    fn apply_command(&mut self, command: Command) -> Result<(Answer, Option<Vec<u8>>), DecodeError> {
        match command.request.map(|request| self.sessions.look_up(request)) {
            Some(Known::Done(response)) => return Ok((Answer::Response(response), None)),
            Some(Known::Forgotten) => return Ok((Answer::Forgotten, None)),
            Some(Known::New) | None => {}
        }
        let response = self.machine.apply(S::Command::from_bytes(&command.bytes)?).to_bytes();
        let is_too_large = response.len() > RESPONSE_BYTES_MAX;
        let response = if is_too_large { Vec::new() } else { response };
        if let Some(request) = command.request {
            self.sessions.remember(request, response.clone());
        }
        Ok((if is_too_large { Answer::TooLarge } else { Answer::Response(response) }, Some(command.bytes)))
    }

    /// The response that is remembered of a request.
    pub(crate) fn recall(&self, request: Request) -> Option<Vec<u8>> {
        match self.sessions.look_up(request) {
            Known::Done(response) => Some(response),
            Known::New | Known::Forgotten => None,
        }
    }

    /// The last entry that the state includes.
    pub(crate) fn log_id(&self) -> Option<wire::peer::LogId> {
        self.applied.map(plain)
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
        let recent = Recent::behind(applied.map(plain));
        Ok(Replicated { machine: S::from_bytes(&state)?, applied, members, recent, sessions })
    }
}

/// As it is told to those who subscribe.
pub(crate) fn plain(id: LogId) -> wire::peer::LogId {
    wire::peer::LogId { term: id.leader_id.term, index: id.index }
}

/// The machine's state in the body of a snapshot (see [`crate::read_snapshot`]); any bytes are safe. For tools that look at
/// the files of a replica that does not run.
///
/// # Errors
/// What is wrong.
pub fn read_state<S: StateMachine>(body: &[u8]) -> Result<S, DecodeError> {
    Ok(Replicated::from_bytes(body)?.machine)
}

#[cfg(test)]
mod tests {
    use types::{Rank, SessionId};

    use super::*;
    use crate::kinds::{Address, Membership, log_id};

    /// Adds, and answers the sum; refuses to go beyond ten.
    #[derive(Debug, PartialEq)]
    struct Sum(u64);

    impl Wire for Sum {
        fn encode(&self, out: &mut Vec<u8>) {
            self.0.encode(out);
        }
        fn decode(from: &mut Reader<'_>) -> Result<Sum, DecodeError> {
            Wire::decode(from).map(Sum)
        }
    }

    impl StateMachine for Sum {
        const NAME: &'static str = "sum";
        type Command = u64;
        type Response = Option<u64>;
        fn apply(&mut self, add: u64) -> Option<u64> {
            let sum = self.0.checked_add(add).filter(|sum| *sum <= 10)?;
            self.0 = sum;
            Some(sum)
        }
    }

    fn command(index: u64, number: u64, bytes: Vec<u8>) -> Entry {
        let request = Some(Request { session: SessionId(5), number });
        Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(Command { request, bytes }) }
    }

    fn sample() -> Replicated<Sum> {
        let mut state = Replicated::new(Sum(0));
        let nodes = std::collections::BTreeMap::from([(Rank(1), Address("a".into()))]);
        let members = Membership::new(vec![[Rank(1)].into()], nodes).unwrap();
        state.apply(Entry { log_id: log_id(0, 0), payload: EntryPayload::Membership(members) }).unwrap();
        let first = state.apply(command(1, 1, 7u64.to_bytes())).unwrap();
        assert_eq!(first, Answer::Response(Some(7u64).to_bytes()));
        assert_eq!(state.apply(command(2, 1, 7u64.to_bytes())).unwrap(), first, "a repeat");
        let refusal = state.apply(command(3, 2, 7u64.to_bytes())).unwrap();
        assert_eq!(refusal, Answer::Response(None::<u64>.to_bytes()));
        assert!(state.apply(command(4, 3, vec![1])).is_err(), "of another release: it is not applied");
        state.apply(Entry { log_id: log_id(1, 4), payload: EntryPayload::Blank }).unwrap();
        assert_eq!((&state.machine, state.applied), (&Sum(7), Some(log_id(1, 4))));
        state
    }

    /// Version 1; a change of these bytes is a new version.
    #[test]
    fn a_snapshot_has_its_golden_bytes() {
        let body = sample().to_bytes();
        crate::golden::check("snapshot", &crate::snapshot::encode_file(crate::GroupId(*b"0123456789abcdef"), &body));
        let mut again = Replicated::<Sum>::from_bytes(&body).unwrap();
        assert_eq!(again.to_bytes(), body);
        assert_eq!(
            again.apply(command(5, 1, 7u64.to_bytes())).unwrap(),
            Answer::Response(Some(7u64).to_bytes()),
            "still a repeat"
        );
        assert_eq!(read_state::<Sum>(&body).unwrap(), Sum(7));
    }

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let file = crate::snapshot::encode_file(crate::GroupId(*b"0123456789abcdef"), &sample().to_bytes());
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(crate::read_snapshot(&bad).is_err(), "byte {at}");
            assert!(crate::read_snapshot(&file[..at]).is_err(), "cut at {at}");
        }
    }
}

//! Exactly once: the recent answers of each session, as a part of the replicated state.
//!
//! # Always true
//! 1. What is remembered follows from the log alone, so every replica remembers the same.
//! 2. A request that was applied is never applied again while its session is known: its answer is repeated, or it is
//!    said to be forgotten.
//! 3. Sessions and bytes are bounded; the session that was used longest ago, in the order of the log, goes first.
//!
//! A session that is not known starts with one of its first [`ANSWERS_PER_SESSION`] numbers. So an old session that was
//! evicted is told that it is forgotten, and is not taken for a new one.

use std::collections::BTreeMap;

use wire::encoding::{Bytes, encode_bytes};
use wire::{DecodeError, Reader, Wire};

use crate::kinds::Request;
use crate::limits::{ANSWER_BYTES_MAX, ANSWERS_PER_SESSION, SESSIONS_MAX};

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was not applied.
    New,
    /// It was, with this response.
    Done(Vec<u8>),
    /// It was, or may have been.
    Forgotten,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// When it was used last, in uses of all sessions.
    used: u64,
    /// Numbers up to this one are forgotten.
    floor: u64,
    answers: BTreeMap<u64, Vec<u8>>,
}

/// The answers of all sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    uses: u64,
    sessions: BTreeMap<u64, Session>,
    /// By last use: the next to go is the first.
    by_use: BTreeMap<u64, u64>,
    answer_bytes: usize,
}

impl Sessions {
    pub(crate) fn look_up(&self, request: Request) -> Known {
        let Some(session) = self.sessions.get(&request.session.0) else {
            return if request.number <= ANSWERS_PER_SESSION as u64 { Known::New } else { Known::Forgotten };
        };
        match session.answers.get(&request.number) {
            Some(answer) => Known::Done(answer.clone()),
            None if request.number <= session.floor => Known::Forgotten,
            None => Known::New,
        }
    }

    /// Remembers the answer of a request that was [`Known::New`].
    pub(crate) fn remember(&mut self, request: Request, answer: Vec<u8>) {
        self.uses += 1;
        let session = self.sessions.entry(request.session.0).or_default();
        self.by_use.remove(&session.used);
        session.used = self.uses;
        self.by_use.insert(self.uses, request.session.0);
        self.answer_bytes += answer.len();
        session.answers.insert(request.number, answer);
        while session.answers.len() > ANSWERS_PER_SESSION
            && let Some((number, answer)) = session.answers.pop_first()
        {
            session.floor = session.floor.max(number);
            self.answer_bytes -= answer.len();
        }
        while self.sessions.len() > SESSIONS_MAX || (self.answer_bytes > ANSWER_BYTES_MAX && self.sessions.len() > 1) {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            let Some(gone) = self.sessions.remove(&oldest) else { break };
            self.answer_bytes -= gone.answers.values().map(Vec::len).sum::<usize>();
        }
    }
}

/// `u64` uses; then a list of sessions: `u64` id, `u64` last use, `u64` floor, and a list of `u64` number and counted
/// answer.
impl Wire for Sessions {
    fn encode(&self, out: &mut Vec<u8>) {
        self.uses.encode(out);
        u32::try_from(self.sessions.len()).expect("sessions are bounded").encode(out);
        for (id, session) in &self.sessions {
            id.encode(out);
            session.used.encode(out);
            session.floor.encode(out);
            u32::try_from(session.answers.len()).expect("answers are bounded").encode(out);
            for (number, answer) in &session.answers {
                number.encode(out);
                encode_bytes(answer, out);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Sessions, DecodeError> {
        let invalid = DecodeError::Invalid { what: "the remembered sessions" };
        let mut all = Sessions { uses: Wire::decode(from)?, ..Sessions::default() };
        for _ in 0..u32::decode(from)? {
            let id = u64::decode(from)?;
            let mut session = Session { used: Wire::decode(from)?, floor: Wire::decode(from)?, ..Session::default() };
            for _ in 0..u32::decode(from)? {
                let number = u64::decode(from)?;
                let Bytes(answer) = Wire::decode(from)?;
                all.answer_bytes += answer.len();
                if session.answers.insert(number, answer).is_some() {
                    return Err(invalid);
                }
            }
            let is_fresh = session.used <= all.uses && all.by_use.insert(session.used, id).is_none();
            if !is_fresh || session.answers.len() > ANSWERS_PER_SESSION || all.sessions.insert(id, session).is_some() {
                return Err(invalid);
            }
        }
        if all.sessions.len() > SESSIONS_MAX {
            return Err(invalid);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use types::SessionId;

    use super::*;

    fn request(session: u64, number: u64) -> Request {
        Request { session: SessionId(session), number }
    }

    #[test]
    fn a_repeat_gets_the_first_answer_until_it_is_forgotten() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.look_up(request(1, 1)), Known::New);
        sessions.remember(request(1, 1), vec![7]);
        assert_eq!(sessions.look_up(request(1, 1)), Known::Done(vec![7]));
        for number in 2..=ANSWERS_PER_SESSION as u64 + 1 {
            sessions.remember(request(1, number), vec![]);
        }
        assert_eq!(sessions.look_up(request(1, 1)), Known::Forgotten);
        assert_eq!(sessions.look_up(request(1, 2)), Known::Done(vec![]));
        assert_eq!(sessions.look_up(request(1, 99)), Known::New);
    }

    /// Requests of one client may reach the log in another order than they were numbered.
    #[test]
    fn numbers_may_come_out_of_order() {
        let mut sessions = Sessions::default();
        sessions.remember(request(1, 3), vec![3]);
        assert_eq!(sessions.look_up(request(1, 2)), Known::New);
        sessions.remember(request(1, 2), vec![2]);
        assert_eq!(sessions.look_up(request(1, 3)), Known::Done(vec![3]));
    }

    #[test]
    fn the_session_used_longest_ago_goes_first_and_is_not_taken_for_a_new_one() {
        let mut sessions = Sessions::default();
        for number in 1..=20 {
            sessions.remember(request(0, number), vec![]);
        }
        for id in 1..SESSIONS_MAX as u64 {
            sessions.remember(request(id, 1), vec![]);
        }
        sessions.remember(request(1, 2), vec![]);
        sessions.remember(request(9_999_999, 1), vec![]);
        assert_eq!(sessions.look_up(request(0, 20)), Known::Forgotten, "evicted, and its number says so");
        assert_eq!(sessions.look_up(request(1, 1)), Known::Done(vec![]));
        sessions.remember(request(8_888_888, 1), vec![]);
        assert_eq!(sessions.look_up(request(1, 2)), Known::Done(vec![]), "it was used again");
        assert_eq!(
            sessions.look_up(request(2, 1)),
            Known::New,
            "the price of a bound: a short session may be forgotten"
        );
        assert_eq!(sessions.sessions.len(), SESSIONS_MAX);
        assert_eq!(Sessions::from_bytes(&sessions.to_bytes()), Ok(sessions));
    }

    #[test]
    fn bytes_of_answers_are_bounded() {
        let mut sessions = Sessions::default();
        for id in 0..100 {
            sessions.remember(request(id, 1), vec![0; 256 << 10]);
            assert!(sessions.answer_bytes <= ANSWER_BYTES_MAX);
        }
        assert_eq!(sessions.look_up(request(99, 1)), Known::Done(vec![0; 256 << 10]));
    }
}

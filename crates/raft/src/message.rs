//! What replicas say to each other. Ours, not the library's: checked and bounded, and no bytes from a peer panic (K23).
//!
//! # A message, little-endian
//! | offset | bytes | field   | meaning                              |
//! |-------:|------:|---------|--------------------------------------|
//! |      0 |     4 | magic   | `b"RAFT"`                            |
//! |      4 |     4 | crc     | CRC-32C of bytes 8 to the end        |
//! |      8 |     1 | version | 1                                    |
//! |      9 |     1 | kind    | of the body, see below               |
//! |     10 |     2 | zero    | 0                                    |
//! |     12 |     4 | from    | rank of the sender                   |
//! |     16 |     4 | to      | rank of the receiver                 |
//! |     20 |    16 | group   | the group's UUID                     |
//! |     36 |       | body    | in the encoding of [`crate::kinds`]  |
//!
//! | kind | body      | fields |
//! |-----:|-----------|--------|
//! |    1 | append    | vote, `Option` previous log id, `Option` committed log id, `u32` count, entries |
//! |    2 | vote      | vote, `Option` last log id, `bool` asked for by the leader |
//! |    3 | pre-vote  | as vote |
//! |    4 | snapshot  | vote, `Option` last log id, stored membership, `u64` bytes in all, `u64` offset, counted bytes |
//! |    5 | take over | vote, `u32` rank, `Option` last log id |
//! |  129 | appended  | `u8` 0 all; 1 up to `Option` log id; 2 conflict; 3 newer vote |
//! |  130 | voted     | vote, `bool` granted, `Option` last log id |
//! |  132 | stored    | `bool` whole; then vote, or `u64` the next offset |
//! |  133 | taken     | `bool` |
//! |  255 | refused   | `u8` 1 unreadable, 2 not its group or rank, 3 stopped |
//!
//! A request and its repeat have the same effect: the protocol is made for networks that repeat.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use types::Rank;
use wire::encoding::{Bytes, encode_bytes};
use wire::{DecodeError, Reader, Wire};

use crate::kinds::{
    GroupId, LogId, SnapshotMeta, Types, Vote, decode_entry, decode_log_id, decode_option, decode_stored, decode_vote,
    encode_entry, encode_log_id, encode_option, encode_stored, encode_vote,
};
use crate::limits::{APPEND_ENTRIES_MAX, MESSAGE_BYTES_MAX, SNAPSHOT_BYTES_MAX};

const MAGIC: [u8; 4] = *b"RAFT";
const VERSION: u8 = 1;

/// A message and who says it to whom.
#[derive(Debug)]
pub struct Message {
    pub from: Rank,
    pub to: Rank,
    pub group: GroupId,
    pub body: Body,
}

#[derive(Debug)]
pub enum Body {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(Part),
    TakeOver { vote: Vote, to: Rank, last: Option<LogId> },
    Appended(AppendEntriesResponse<Types>),
    Voted(VoteResponse<Types>),
    Stored(Stored),
    Taken(bool),
    Refused(Refusal),
}

impl Body {
    /// The vote of a candidate or leader who asks for something.
    pub(crate) fn vote(&self) -> Option<&Vote> {
        match self {
            Body::Append(append) => Some(&append.vote),
            Body::Vote(ask) | Body::PreVote(ask) => Some(&ask.vote),
            Body::Snapshot(part) => Some(&part.vote),
            Body::TakeOver { vote, .. } => Some(vote),
            Body::Appended(_) | Body::Voted(_) | Body::Stored(_) | Body::Taken(_) | Body::Refused(_) => None,
        }
    }
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub total: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// What came of a part.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// Go on from this offset.
    Next(u64),
    /// The snapshot is whole and installed, or the sender's vote is too old.
    Whole(Vote),
}

/// Why a peer does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it cannot read the message")]
    Unreadable = 1,
    #[error("it is not the replica that was meant")]
    Misdirected = 2,
    #[error("it has stopped")]
    Stopped = 3,
    #[error("its disk is full, and it stands still")]
    Full = 4,
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend(MAGIC);
        out.extend([0; 4]);
        out.extend([VERSION, self.body.kind(), 0, 0]);
        self.from.encode(&mut out);
        self.to.encode(&mut out);
        out.extend(self.group.0);
        self.body.encode(&mut out);
        let crc = codec::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a message; any bytes are safe.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::Long { extra: bytes.len() - MESSAGE_BYTES_MAX });
        }
        let mut from = Reader::new(bytes);
        if from.array()? != MAGIC {
            return Err(DecodeError::Invalid { what: "the beginning of a message" });
        }
        let crc = u32::decode(&mut from)?;
        if crc != codec::crc32c(&bytes[8..]) {
            return Err(DecodeError::Invalid { what: "a message's checksum" });
        }
        match from.array()? {
            [VERSION, kind, 0, 0] => {
                let (sender, to) = (Rank::decode(&mut from)?, Rank::decode(&mut from)?);
                let group = GroupId(from.array()?);
                let body = Body::decode(kind, &mut from)?;
                match from.left() {
                    0 => Ok(Message { from: sender, to, group, body }),
                    extra => Err(DecodeError::Long { extra }),
                }
            }
            [version, ..] => Err(DecodeError::Unknown { what: "a message's version", value: version.into() }),
        }
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Body::Append(_) => 1,
            Body::Vote(_) => 2,
            Body::PreVote(_) => 3,
            Body::Snapshot(_) => 4,
            Body::TakeOver { .. } => 5,
            Body::Appended(_) => 129,
            Body::Voted(_) => 130,
            Body::Stored(_) => 132,
            Body::Taken(_) => 133,
            Body::Refused(_) => 255,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Body::Append(append) => {
                encode_vote(&append.vote, out);
                encode_option(append.prev_log_id.as_ref(), out, encode_log_id);
                encode_option(append.leader_commit.as_ref(), out, encode_log_id);
                u32::try_from(append.entries.len()).expect("entries of a message are bounded").encode(out);
                append.entries.iter().for_each(|entry| encode_entry(entry, out));
            }
            Body::Vote(ask) | Body::PreVote(ask) => {
                encode_vote(&ask.vote, out);
                encode_option(ask.last_log_id.as_ref(), out, encode_log_id);
                ask.leadership_transfer.encode(out);
            }
            Body::Snapshot(part) => {
                encode_vote(&part.vote, out);
                encode_option(part.meta.last_log_id.as_ref(), out, encode_log_id);
                encode_stored(&part.meta.last_membership, out);
                part.total.encode(out);
                part.offset.encode(out);
                encode_bytes(&part.bytes, out);
            }
            Body::TakeOver { vote, to, last } => {
                encode_vote(vote, out);
                to.encode(out);
                encode_option(last.as_ref(), out, encode_log_id);
            }
            Body::Appended(AppendEntriesResponse::Success) => out.push(0),
            Body::Appended(AppendEntriesResponse::PartialSuccess(upto)) => {
                out.push(1);
                encode_option(upto.as_ref(), out, encode_log_id);
            }
            Body::Appended(AppendEntriesResponse::Conflict) => out.push(2),
            Body::Appended(AppendEntriesResponse::HigherVote(vote)) => {
                out.push(3);
                encode_vote(vote, out);
            }
            Body::Voted(voted) => {
                encode_vote(&voted.vote, out);
                voted.vote_granted.encode(out);
                encode_option(voted.last_log_id.as_ref(), out, encode_log_id);
            }
            Body::Stored(Stored::Next(offset)) => {
                false.encode(out);
                offset.encode(out);
            }
            Body::Stored(Stored::Whole(vote)) => {
                true.encode(out);
                encode_vote(vote, out);
            }
            Body::Taken(is_taken) => is_taken.encode(out),
            Body::Refused(refusal) => out.push(*refusal as u8),
        }
    }

    fn decode(kind: u8, from: &mut Reader<'_>) -> Result<Body, DecodeError> {
        Ok(match kind {
            1 => Body::Append(decode_append(from)?),
            2 => Body::Vote(decode_ask(from)?),
            3 => Body::PreVote(decode_ask(from)?),
            4 => Body::Snapshot(decode_part(from)?),
            5 => Body::TakeOver {
                vote: decode_vote(from)?,
                to: Wire::decode(from)?,
                last: decode_option(from, decode_log_id)?,
            },
            129 => Body::Appended(match u8::decode(from)? {
                0 => AppendEntriesResponse::Success,
                1 => AppendEntriesResponse::PartialSuccess(decode_option(from, decode_log_id)?),
                2 => AppendEntriesResponse::Conflict,
                3 => AppendEntriesResponse::HigherVote(decode_vote(from)?),
                other => return Err(DecodeError::Unknown { what: "an append's outcome", value: other.into() }),
            }),
            130 => {
                let (vote, granted) = (decode_vote(from)?, bool::decode(from)?);
                Body::Voted(VoteResponse::new(vote, decode_option(from, decode_log_id)?, granted))
            }
            132 => Body::Stored(match bool::decode(from)? {
                false => Stored::Next(Wire::decode(from)?),
                true => Stored::Whole(decode_vote(from)?),
            }),
            133 => Body::Taken(Wire::decode(from)?),
            255 => Body::Refused(match u8::decode(from)? {
                1 => Refusal::Unreadable,
                2 => Refusal::Misdirected,
                3 => Refusal::Stopped,
                4 => Refusal::Full,
                other => return Err(DecodeError::Unknown { what: "a refusal", value: other.into() }),
            }),
            other => return Err(DecodeError::Unknown { what: "a message's kind", value: other.into() }),
        })
    }
}

/// An append whose entries follow each other and the one before them: the library takes that for granted.
fn decode_append(from: &mut Reader<'_>) -> Result<AppendEntriesRequest<Types>, DecodeError> {
    let invalid = DecodeError::Invalid { what: "the entries of an append" };
    let vote = decode_vote(from)?;
    let prev_log_id: Option<LogId> = decode_option(from, decode_log_id)?;
    let leader_commit = decode_option(from, decode_log_id)?;
    let count = u32::decode(from)?;
    if u64::from(count) > APPEND_ENTRIES_MAX || !vote.committed {
        return Err(invalid);
    }
    let mut entries: Vec<crate::kinds::Entry> = Vec::new();
    let mut last = prev_log_id;
    for _ in 0..count {
        let entry = decode_entry(from)?;
        let id = entry.log_id;
        let follows = last.map_or(id.index == 0, |last| id.index == last.index + 1 && id.leader_id >= last.leader_id);
        if !follows || id.leader_id.term > vote.leader_id.term {
            return Err(invalid);
        }
        last = Some(id);
        entries.push(entry);
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn decode_ask(from: &mut Reader<'_>) -> Result<VoteRequest<Types>, DecodeError> {
    let vote = decode_vote(from)?;
    let mut ask = VoteRequest::new(vote, decode_option(from, decode_log_id)?);
    ask.leadership_transfer = Wire::decode(from)?;
    if vote.committed { Err(DecodeError::Invalid { what: "a request for a vote" }) } else { Ok(ask) }
}

fn decode_part(from: &mut Reader<'_>) -> Result<Part, DecodeError> {
    let vote = decode_vote(from)?;
    let last_log_id = decode_option(from, decode_log_id)?;
    let last_membership = decode_stored(from)?;
    let (total, offset) = <(u64, u64)>::decode(from)?;
    let Bytes(bytes) = Wire::decode(from)?;
    let end = offset.checked_add(bytes.len() as u64);
    let is_in_order = *last_membership.log_id() <= last_log_id
        && last_log_id.is_some_and(|last| last.leader_id.term <= vote.leader_id.term);
    if end.is_none_or(|end| end > total) || total > SNAPSHOT_BYTES_MAX as u64 || !is_in_order || !vote.committed {
        return Err(DecodeError::Invalid { what: "a part of a snapshot" });
    }
    Ok(Part { vote, meta: SnapshotMeta { last_log_id, last_membership }, total, offset, bytes })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::kinds::{Address, Command, Entry, Membership, StoredMembership, log_id};

    fn message(body: Body) -> Message {
        Message { from: Rank(1), to: Rank(2), group: GroupId(*b"0123456789abcdef"), body }
    }

    fn samples() -> Vec<(&'static str, Body)> {
        let vote = Vote::new_committed(3, Rank(1));
        let command = Command { request: None, bytes: b"do".to_vec() };
        let entries = vec![
            Entry { log_id: log_id(2, 8), payload: EntryPayload::Normal(command) },
            Entry { log_id: log_id(3, 9), payload: EntryPayload::Blank },
        ];
        let (prev_log_id, leader_commit) = (Some(log_id(2, 7)), Some(log_id(2, 8)));
        let ask = VoteRequest::new(Vote::new(4, Rank(1)), Some(log_id(3, 9)));
        let nodes: std::collections::BTreeMap<_, _> = [(Rank(1), Address("a".into()))].into();
        let members = Membership::new(vec![[Rank(1)].into()], nodes).unwrap();
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(3, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 0)), members),
        };
        vec![
            ("append", Body::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })),
            ("vote", Body::Vote(ask.clone())),
            ("pre_vote", Body::PreVote(ask)),
            ("snapshot", Body::Snapshot(Part { vote, meta, total: 9, offset: 4, bytes: b"part".to_vec() })),
            ("take_over", Body::TakeOver { vote, to: Rank(2), last: Some(log_id(3, 9)) }),
            ("appended", Body::Appended(AppendEntriesResponse::Success)),
            ("appended_partly", Body::Appended(AppendEntriesResponse::PartialSuccess(Some(log_id(3, 9))))),
            ("conflict", Body::Appended(AppendEntriesResponse::Conflict)),
            ("newer_vote", Body::Appended(AppendEntriesResponse::HigherVote(vote))),
            ("voted", Body::Voted(VoteResponse::new(vote, Some(log_id(3, 9)), true))),
            ("stored_next", Body::Stored(Stored::Next(8))),
            ("stored", Body::Stored(Stored::Whole(vote))),
            ("taken", Body::Taken(true)),
            ("refused", Body::Refused(Refusal::Misdirected)),
        ]
    }

    /// Version 1; a change of these bytes is a new version.
    #[test]
    fn messages_have_their_golden_bytes() {
        for (name, body) in samples() {
            let bytes = message(body).encode();
            crate::golden::check(&format!("message_{name}"), &bytes);
            assert_eq!(Message::decode(&bytes).unwrap().encode(), bytes, "{name}");
        }
    }

    #[test]
    fn a_damaged_message_is_refused() {
        for (name, body) in samples() {
            let good = message(body).encode();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x20;
                assert!(Message::decode(&bad).is_err(), "{name}, byte {at}");
                assert!(Message::decode(&good[..at]).is_err(), "{name} cut at {at}");
            }
        }
    }

    /// The library takes it for granted that the entries of an append follow each other.
    #[test]
    fn entries_with_a_gap_are_refused() {
        for (prev, ids) in [(None, vec![1]), (Some(7), vec![9]), (Some(7), vec![8, 10]), (Some(7), vec![7])] {
            let entry = |index: &u64| Entry { log_id: log_id(1, *index), payload: EntryPayload::Blank };
            let append = AppendEntriesRequest {
                vote: Vote::new_committed(1, Rank(1)),
                prev_log_id: prev.map(|index| log_id(1, index)),
                entries: ids.iter().map(entry).collect(),
                leader_commit: None,
            };
            assert!(Message::decode(&message(Body::Append(append)).encode()).is_err(), "{ids:?} behind {prev:?}");
        }
    }
}

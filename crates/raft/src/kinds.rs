//! The library's types, filled in with ours; and the bytes of those that are kept or sent.
//!
//! | thing      | bytes, in the encoding of [`wire`] |
//! |------------|---|
//! | log id     | `u64` term, `u64` index |
//! | vote       | `u64` term, `u32` rank voted for, `bool` whether a majority granted it |
//! | address    | counted UTF-8, at most 255 bytes |
//! | membership | `u8` number of voter sets (1, or 2 while the voters change), each `u8` count and ranks; then `u8` count of members, each `u32` rank and address, by ascending rank |
//! | command    | `Option` of session `u64` and number `u64`; counted bytes |
//! | entry      | log id; `u8` kind: 0 blank, 1 command, 2 membership; then that |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use openraft::EntryPayload;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_std};
use openraft::vote::RaftLeaderId;
use types::{Rank, SessionId};
use wire::encoding::{Bytes, encode_bytes};
use wire::{DecodeError, Reader, Wire};

use crate::limits::{ADDRESS_BYTES_MAX, COMMAND_BYTES_MAX, MEMBERS_MAX};
use crate::runtime::Runtime;

/// What the library is made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Command;
    type R = Answer;
    type NodeId = Rank;
    type Node = Address;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload<Command, Rank, Address>;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T: 'static> = OneshotResponder<Types, T>;
    type Batch<T: 'static> = InlineBatch<T>;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, Rank>;
pub(crate) type Leading = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<Leading>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Entry = openraft::Entry<Leading, EntryPayload<Command, Rank, Address>>;
pub(crate) type Membership = openraft::Membership<Rank, Address>;
pub(crate) type StoredMembership = openraft::StoredMembership<Leading, Rank, Address>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Leading, Rank, Address>;

/// Names a group: a pool's id, or the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a replica is reached, as [`crate::Peers`] understands it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Address(pub String);

/// A replica: who it is and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub rank: Rank,
    pub address: Address,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} at '{}'", self.rank, self.address.0)
    }
}

/// Names one request of a client, so that a repeat is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub session: SessionId,
    /// From 1, in the order of the session's requests.
    pub number: u64,
}

/// A command as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub request: Option<Request>,
    pub bytes: Vec<u8>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.bytes.len())
    }
}

/// What came of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was no command.
    Nothing,
    /// The response of the machine, now or the first time.
    Response(Vec<u8>),
    /// A repeat of a request whose answer is forgotten. Nothing was done now.
    Forgotten,
    /// It was done, and its response is too large to be kept.
    TooLarge,
}

/// Terms and indices are counted on from what a peer says: nobody honest gets here, and behind it is room to count.
const NUMBER_MAX: u64 = u64::MAX / 2;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Leading::new(term), index)
}

pub(crate) fn encode_log_id(id: &LogId, out: &mut Vec<u8>) {
    id.leader_id.term.encode(out);
    id.index.encode(out);
}

pub(crate) fn decode_log_id(from: &mut Reader<'_>) -> Result<LogId, DecodeError> {
    let (term, index) = Wire::decode(from)?;
    if index > NUMBER_MAX || term > NUMBER_MAX {
        return Err(DecodeError::Invalid { what: "a log id" });
    }
    Ok(log_id(term, index))
}

pub(crate) fn encode_option<T>(value: Option<&T>, out: &mut Vec<u8>, encode: impl FnOnce(&T, &mut Vec<u8>)) {
    value.is_some().encode(out);
    if let Some(value) = value {
        encode(value, out);
    }
}

pub(crate) fn decode_option<T>(
    from: &mut Reader<'_>,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    bool::decode(from)?.then(|| decode(from)).transpose()
}

pub(crate) fn encode_vote(vote: &Vote, out: &mut Vec<u8>) {
    vote.leader_id.term.encode(out);
    vote.leader_id.voted_for.encode(out);
    vote.committed.encode(out);
}

pub(crate) fn decode_vote(from: &mut Reader<'_>) -> Result<Vote, DecodeError> {
    let term = u64::decode(from)?;
    let rank = Rank::decode(from)?;
    if term > NUMBER_MAX {
        return Err(DecodeError::Invalid { what: "a term" });
    }
    match bool::decode(from)? {
        true => Ok(Vote::new_committed(term, rank)),
        false => Ok(Vote::new(term, rank)),
    }
}

fn encode_address(address: &Address, out: &mut Vec<u8>) {
    encode_bytes(address.0.as_bytes(), out);
}

fn decode_address(from: &mut Reader<'_>) -> Result<Address, DecodeError> {
    let address = String::decode(from)?;
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(DecodeError::Invalid { what: "an address" });
    }
    Ok(Address(address))
}

fn small(count: usize) -> u8 {
    u8::try_from(count).expect("members are counted when they are added")
}

pub(crate) fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    let sets = membership.get_joint_config();
    out.push(small(sets.len()));
    for set in sets {
        out.push(small(set.len()));
        set.iter().for_each(|rank| rank.encode(out));
    }
    out.push(small(membership.nodes().count()));
    for (rank, address) in membership.nodes() {
        rank.encode(out);
        encode_address(address, out);
    }
}

/// Reads a membership that may govern a group: voters are members, every set of them has one, and all stand in order, so that
/// there is one way to write each.
pub(crate) fn decode_membership(from: &mut Reader<'_>) -> Result<Membership, DecodeError> {
    let invalid = DecodeError::Invalid { what: "a membership" };
    let mut sets = Vec::new();
    for _ in 0..u8::decode(from)? {
        let mut set = BTreeSet::new();
        for _ in 0..u8::decode(from)? {
            let rank = Rank::decode(from)?;
            if set.last().is_some_and(|last| rank <= *last) {
                return Err(invalid);
            }
            set.insert(rank);
        }
        sets.push(set);
    }
    let mut members: BTreeMap<Rank, Address> = BTreeMap::new();
    for _ in 0..u8::decode(from)? {
        let (rank, address) = (Rank::decode(from)?, decode_address(from)?);
        if members.last_key_value().is_some_and(|(last, _)| rank <= *last) {
            return Err(invalid);
        }
        members.insert(rank, address);
    }
    match (sets.len(), members.len()) {
        (0, 0) => Ok(Membership::default()),
        (1..=2, 1..=MEMBERS_MAX) => Membership::new(sets, members).map_err(|_| invalid),
        _ => Err(invalid),
    }
}

pub(crate) fn encode_stored(stored: &StoredMembership, out: &mut Vec<u8>) {
    encode_option(stored.log_id().as_ref(), out, encode_log_id);
    encode_membership(stored.membership(), out);
}

pub(crate) fn decode_stored(from: &mut Reader<'_>) -> Result<StoredMembership, DecodeError> {
    let id = decode_option(from, decode_log_id)?;
    Ok(StoredMembership::new(id, decode_membership(from)?))
}

impl Wire for Request {
    fn encode(&self, out: &mut Vec<u8>) {
        self.session.0.encode(out);
        self.number.encode(out);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Request, DecodeError> {
        Ok(Request { session: SessionId(Wire::decode(from)?), number: Wire::decode(from)? })
    }
}

pub(crate) fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    encode_log_id(&entry.log_id, out);
    match &entry.payload {
        EntryPayload::Blank => out.push(0),
        EntryPayload::Normal(command) => {
            out.push(1);
            command.request.encode(out);
            encode_bytes(&command.bytes, out);
        }
        EntryPayload::Membership(membership) => {
            out.push(2);
            encode_membership(membership, out);
        }
    }
}

pub(crate) fn decode_entry(from: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let log_id = decode_log_id(from)?;
    let payload = match u8::decode(from)? {
        0 => EntryPayload::Blank,
        1 => {
            let request = Wire::decode(from)?;
            let Bytes(bytes) = Wire::decode(from)?;
            if bytes.len() > COMMAND_BYTES_MAX {
                return Err(DecodeError::Invalid { what: "a command's length" });
            }
            EntryPayload::Normal(Command { request, bytes })
        }
        2 => {
            let membership = decode_membership(from)?;
            if membership.get_joint_config().is_empty() {
                return Err(DecodeError::Invalid { what: "a membership" });
            }
            EntryPayload::Membership(membership)
        }
        other => return Err(DecodeError::Unknown { what: "an entry's kind", value: other.into() }),
    };
    Ok(Entry { log_id, payload })
}

/// What an entry takes in memory and in the log, about.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => 64 + command.bytes.len(),
        EntryPayload::Blank => 64,
        EntryPayload::Membership(membership) => 64 + 64 * membership.nodes().count(),
    }
}

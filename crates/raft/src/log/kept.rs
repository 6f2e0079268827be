//! What a log says: the pure half. Records change it, at work as at recovery, by the same function.

use std::cmp::Ordering;
use std::collections::VecDeque;

use types::Rank;
use zerocopy::IntoBytes;

use super::format::{
    ALIGNMENT, Fault, LogHeader, Record, decode_frame, decode_header, encode_frame, encode_header, encode_record,
};
use crate::kinds::{Entry, GroupId, LogId, Vote, entry_bytes};
use crate::limits::FRAME_BYTES;

/// Vote, commitment and entries of one replica.
///
/// # Always true
/// 1. Entries follow each other without a gap, from the one behind `purged`; their terms never fall.
/// 2. Votes never fall.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Kept {
    /// The index behind `purged`: that of the first entry, if there is one.
    pub fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    pub fn next_index(&self) -> u64 {
        self.first_index() + self.entries.len() as u64
    }

    pub fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// What the entries take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entries with indices from `start`, as far as they are here.
    pub fn from(&self, start: u64) -> impl Iterator<Item = &Entry> {
        let skip = start.saturating_sub(self.first_index());
        self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    /// Lets one record happen.
    ///
    /// # Errors
    /// `Order`: it cannot follow what was. Nothing has changed.
    pub fn apply(&mut self, record: Record) -> Result<(), Fault> {
        match record {
            Record::Vote(vote) => {
                if self.vote.is_some_and(|old| vote < old) {
                    return Err(Fault::Order("a vote is older than the one before it"));
                }
                self.vote = Some(vote);
            }
            Record::Committed(id) => self.committed = id,
            Record::Entry(entry) => {
                if entry.log_id.index != self.next_index() {
                    return Err(Fault::Order("an entry does not follow the one before it"));
                }
                if self.last().is_some_and(|last| entry.log_id.leader_id < last.leader_id) {
                    return Err(Fault::Order("an entry has an older term than the one before it"));
                }
                self.bytes += entry_bytes(&entry);
                self.entries.push_back(entry);
            }
            Record::Truncate(after) => {
                let end = after.map_or(0, |id| id.index + 1);
                if end < self.first_index() {
                    return Err(Fault::Order("entries that are in a snapshot are cut off"));
                }
                while self.next_index() > end {
                    self.forget(VecDeque::pop_back);
                }
            }
            Record::Purge(id) => {
                if self.purged.is_some_and(|purged| id.index < purged.index) {
                    return Err(Fault::Order("purged entries come back"));
                }
                // What is purged is in a snapshot. Entries that were not what it says have no place behind it.
                let contradicts = self.entries.iter().any(|entry| match entry.log_id.index.cmp(&id.index) {
                    Ordering::Less => false,
                    Ordering::Equal => entry.log_id != id,
                    Ordering::Greater => entry.log_id.leader_id < id.leader_id,
                });
                while self.entries.front().is_some_and(|entry| contradicts || entry.log_id.index <= id.index) {
                    self.forget(VecDeque::pop_front);
                }
                self.purged = Some(id);
            }
        }
        Ok(())
    }

    fn forget(&mut self, pop: impl FnOnce(&mut VecDeque<Entry>) -> Option<Entry>) {
        if let Some(entry) = pop(&mut self.entries) {
            self.bytes -= entry_bytes(&entry);
        }
    }

    /// The records that make this from nothing.
    fn records(&self) -> impl Iterator<Item = Record> {
        let purge = self.purged.map(Record::Purge);
        let vote = self.vote.map(Record::Vote);
        let committed = self.committed.map(|id| Record::Committed(Some(id)));
        let entries = self.entries.iter().cloned().map(Record::Entry);
        purge.into_iter().chain(vote).chain(committed).chain(entries)
    }

    /// A whole file that says this, and how many frames it has.
    pub fn to_file(&self, group: GroupId, rank: Rank, incarnation: u64) -> (Vec<u8>, u64) {
        let mut file = encode_header(group, rank, incarnation).as_bytes().to_vec();
        let (mut frames, mut count, mut payload) = (0, 0, Vec::new());
        let mut close = |payload: &mut Vec<u8>, count: &mut u32| {
            file.extend(encode_frame(incarnation, frames, *count, payload));
            frames += 1;
            payload.clear();
            *count = 0;
        };
        for record in self.records() {
            encode_record(&record, &mut payload);
            count += 1;
            if payload.len() >= FRAME_BYTES {
                close(&mut payload, &mut count);
            }
        }
        if count > 0 {
            close(&mut payload, &mut count);
        }
        (file, frames)
    }
}

/// A log as it was found.
#[derive(Debug)]
pub struct Found {
    pub header: LogHeader,
    pub kept: Kept,
    /// Frames that are whole, and where they end.
    pub frames: u64,
    pub end: usize,
    /// Bytes behind that: a write that was cut off.
    pub torn: usize,
}

/// Reads a whole log. A torn last frame, which nobody was told of, is left out; any bytes are safe.
///
/// # Errors
/// The first [`Fault`], and at which byte: something that was durable is not what it was.
pub fn read_log(file: &[u8]) -> Result<Found, (usize, Fault)> {
    let header = decode_header(file).map_err(|fault| (0, fault))?;
    let incarnation = header.incarnation.get();
    let mut found = Found { header, kept: Kept::default(), frames: 0, end: ALIGNMENT, torn: 0 };
    while found.end < file.len() {
        let at = found.end;
        let (frame, records, length) = match decode_frame(&file[at..]) {
            Ok(frame) => frame,
            // Both checksums hold: it is not torn, it is wrong.
            Err(fault @ (Fault::Record(_) | Fault::Order(_))) => return Err((at, fault)),
            Err(fault) => {
                if is_written_behind(file, at + ALIGNMENT, incarnation, found.frames) {
                    return Err((at, fault));
                }
                found.torn = file.len() - at;
                return Ok(found);
            }
        };
        if frame.incarnation.get() != incarnation {
            return Err((at, Fault::Incarnation));
        }
        if frame.number.get() != found.frames {
            return Err((at, Fault::Number { found: frame.number.get(), expected: found.frames }));
        }
        for record in records {
            found.kept.apply(record).map_err(|fault| (at, fault))?;
        }
        found.frames += 1;
        // The zeros behind the last payload may be cut off, and are not missed.
        found.end = (at + length).min(file.len().next_multiple_of(ALIGNMENT));
    }
    Ok(found)
}

/// True if a later frame than `number` is whole behind a damaged one: then that one was durable once.
fn is_written_behind(file: &[u8], start: usize, incarnation: u64, number: u64) -> bool {
    (start..file.len()).step_by(ALIGNMENT).any(|at| {
        // A payload may contain what looks like a frame (a log in a log): it has another incarnation.
        decode_frame(&file[at..])
            .is_ok_and(|(frame, ..)| frame.incarnation.get() == incarnation && frame.number.get() > number)
    })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use types::SessionId;

    use super::*;
    use crate::kinds::{Address, Command, Membership, Request, log_id};

    const GROUP: GroupId = GroupId(*b"0123456789abcdef");

    fn command(term: u64, index: u64) -> Record {
        let request = Some(Request { session: SessionId(0x11), number: 2 });
        let payload = EntryPayload::Normal(Command { request, bytes: b"command".to_vec() });
        Record::Entry(Entry { log_id: log_id(term, index), payload })
    }

    /// A leader that was cut off held entries that nobody else had; a snapshot of a later term went over them.
    #[test]
    fn what_contradicts_a_purge_goes_with_it() {
        let log = |upto: u64| {
            let mut kept = Kept::default();
            (0..=upto).for_each(|index| kept.apply(command(3, index)).unwrap());
            kept
        };
        let left = |mut kept: Kept, id| {
            kept.apply(Record::Purge(id)).unwrap();
            kept.from(0).map(|entry| entry.log_id.index).collect::<Vec<_>>()
        };
        assert_eq!(left(log(9), log_id(3, 6)), [7, 8, 9]);
        assert_eq!(left(log(9), log_id(5, 6)), [] as [u64; 0], "another entry was there");
        assert_eq!(left(log(9), log_id(5, 20)), [] as [u64; 0]);
        let mut kept = log(9);
        kept.apply(Record::Purge(log_id(5, 6))).unwrap();
        kept.apply(command(5, 7)).unwrap();
    }

    fn sample() -> Kept {
        let mut kept = Kept::default();
        let voters = [Rank(1), Rank(2)].into_iter().collect();
        let nodes: std::collections::BTreeMap<_, _> =
            [1, 2].map(|rank| (Rank(rank), Address(format!("host-{rank}")))).into();
        let members = Membership::new(vec![voters], nodes).unwrap();
        kept.apply(Record::Purge(log_id(2, 6))).unwrap();
        kept.apply(Record::Vote(Vote::new_committed(3, Rank(2)))).unwrap();
        let entry = Entry { log_id: log_id(2, 7), payload: EntryPayload::Membership(members) };
        kept.apply(Record::Entry(entry)).unwrap();
        kept.apply(command(3, 8)).unwrap();
        kept.apply(Record::Entry(Entry { log_id: log_id(3, 9), payload: EntryPayload::Blank })).unwrap();
        kept.apply(Record::Committed(Some(log_id(3, 8)))).unwrap();
        kept
    }

    /// Version 1; a change of these bytes is a new version.
    #[test]
    fn a_log_has_its_golden_bytes() {
        let (file, frames) = sample().to_file(GROUP, Rank(2), 0x0102_0304_0506_0708);
        assert_eq!((frames, file.len()), (1, 1024));
        crate::golden::check("log", &file);
        let found = read_log(&file).unwrap();
        assert_eq!(found.kept, sample());
        assert_eq!((found.frames, found.end, found.torn), (1, 1024, 0));
    }

    #[test]
    fn a_flipped_bit_is_never_believed() {
        let (mut file, _) = sample().to_file(GROUP, Rank(2), 5);
        let mut payload = Vec::new();
        encode_record(&command(3, 10), &mut payload);
        file.extend(encode_frame(5, 1, 1, &payload));
        for at in 0..1024 {
            let mut bad = file.clone();
            bad[at] ^= 4;
            let padding = decode_frame(&file[ALIGNMENT..]).unwrap().0.payload_bytes.get() as usize + 40 + ALIGNMENT;
            match read_log(&bad) {
                Ok(found) => assert!(at >= padding && found.frames == 2, "byte {at}"),
                Err((place, _)) => assert_eq!(place, if at < ALIGNMENT { 0 } else { ALIGNMENT }),
            }
        }
        // Of the last frame nobody can say whether it was torn or damaged: it is not believed.
        let mut bad = file.clone();
        bad[1024 + 50] ^= 4;
        assert_eq!(read_log(&bad).unwrap().torn, 512);
    }

    #[test]
    fn what_is_cut_off_is_a_torn_tail() {
        let (file, _) = sample().to_file(GROUP, Rank(2), 5);
        let payload = decode_frame(&file[ALIGNMENT..]).unwrap().0.payload_bytes.get() as usize;
        for end in ALIGNMENT..ALIGNMENT + 40 + payload {
            let found = read_log(&file[..end]).unwrap();
            assert_eq!((found.kept, found.torn), (Kept::default(), end - ALIGNMENT));
        }
        assert_eq!(read_log(&file[..end_of(payload)]).unwrap().kept, sample());
        assert!(read_log(&file[..ALIGNMENT - 1]).is_err());
    }

    fn end_of(payload: usize) -> usize {
        ALIGNMENT + 40 + payload
    }

    #[test]
    fn records_that_cannot_follow_are_refused() {
        let mut kept = sample();
        for bad in [
            command(3, 11),
            command(2, 10),
            Record::Vote(Vote::new(2, Rank(1))),
            Record::Truncate(Some(log_id(1, 3))),
            Record::Purge(log_id(2, 5)),
        ] {
            assert!(matches!(kept.apply(bad.clone()), Err(Fault::Order(_))), "{bad:?}");
        }
        assert_eq!(kept, sample());
        kept.apply(Record::Truncate(Some(log_id(2, 7)))).unwrap();
        kept.apply(command(4, 8)).unwrap();
        kept.apply(Record::Purge(log_id(5, 20))).unwrap();
        assert_eq!((kept.last(), kept.bytes(), kept.next_index()), (Some(log_id(5, 20)), 0, 21));
    }
}

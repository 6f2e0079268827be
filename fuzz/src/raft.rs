//! Durable formats and messages of `raft`: a replica's log, its snapshot, what a peer sends.

use ::raft::{GroupId, Message, StateMachine};
use codec::crc32c;
use types::Rank;
use wire::{DecodeError, Reader, Wire};

/// As it came; and as the records of a frame, then as a record of an entry, behind right checksums.
pub(crate) fn log(data: &[u8]) {
    read(data);
    let count = |payload: &[u8]| {
        let (mut at, mut count) = (0, 0u32);
        while let Some(length) = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
        {
            at += 4 + length as usize;
            count += 1;
        }
        count
    };
    read(&file(data, count(data)));
    let mut record = (data.len() as u32 + 1).to_le_bytes().to_vec();
    record.push(3);
    record.extend_from_slice(data);
    read(&file(&record, 1));
}

fn read(bytes: &[u8]) {
    let Ok(found) = ::raft::read_log(bytes) else { return };
    let (again, frames) = found.kept.to_file(GroupId(found.header.group), Rank(found.header.rank.get()), 9);
    let back = ::raft::read_log(&again).expect("what is written can be read");
    assert_eq!((back.kept, back.frames, back.torn), (found.kept, frames, 0));
}

/// A log of one frame with this payload.
fn file(payload: &[u8], records: u32) -> Vec<u8> {
    let mut file = vec![0; 512];
    file[..8].copy_from_slice(b"RAFTLOG\x01");
    file[12] = 1;
    let crc = crc32c(&file[12..]);
    file[8..12].copy_from_slice(&crc.to_le_bytes());
    let mut frame = vec![0; 40];
    frame[4..8].copy_from_slice(b"RAfr");
    frame[24..28].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame[28..32].copy_from_slice(&crc32c(payload).to_le_bytes());
    frame[32..36].copy_from_slice(&records.to_le_bytes());
    let crc = crc32c(&frame[4..40]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
    file.extend(frame);
    file.extend_from_slice(payload);
    file
}

/// As it came; and as kind and body behind a right beginning.
pub(crate) fn message(data: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(message) = Message::decode(bytes) {
            assert_eq!(message.encode(), bytes, "what decodes encodes to the same bytes");
        }
    };
    check(data);
    let Some((kind, body)) = data.split_first() else { return };
    let mut sealed = b"RAFT\0\0\0\0\x01".to_vec();
    sealed.push(*kind);
    sealed.resize(36, 0);
    sealed.extend_from_slice(body);
    let crc = crc32c(&sealed[8..]);
    sealed[4..8].copy_from_slice(&crc.to_le_bytes());
    check(&sealed);
}

/// As it came, and as a body.
pub(crate) fn snapshot(data: &[u8]) {
    let _ = ::raft::read_snapshot(data);
    let mut body = b"\x04\0\0\0blob".to_vec();
    body.extend_from_slice(data);
    let _ = ::raft::read_state::<Blob>(&body);
}

/// A machine whose state is some bytes.
struct Blob(String);

impl Wire for Blob {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Blob, DecodeError> {
        Wire::decode(from).map(Blob)
    }
}

impl StateMachine for Blob {
    const NAME: &'static str = "blob";
    type Command = String;
    type Response = ();
    fn apply(&mut self, command: String) {
        self.0 = command;
    }
}

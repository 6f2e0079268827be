//! Payloads in records: the bytes of a value, or where they lie, or both.
//!
//! | payload  | bytes                                                                  |
//! |----------|------------------------------------------------------------------------|
//! | 1 inline | length 4, checksums 4 each, bytes                                      |
//! | 2 bulk   | bytes 8, pieces 2, each block 4, blocks 4, checksums 4 each            |
//! | 3 staged | block 4, length 4, checksums 4 each, bytes; in an update (kind 1) only |
//!
//! A staged payload has 2048 to 4096 bytes. They belong to its block, whatever that holds on the device: a replay
//! puts them on the stage again.

use super::{Reader, push_checksums};
use crate::request::{BulkList, Checksums, INLINE_BYTES_MAX, Payload};
use crate::space::{BulkExtent, Reservation};
use crate::value::EXTENTS_PER_PAYLOAD_MAX;

const INLINE: u8 = 1;
const BULK: u8 = 2;
const STAGED: u8 = 3;

/// A payload read back; its bytes are the record's.
#[derive(Debug)]
pub(super) enum OwnedPayload<'a> {
    Inline { bytes: &'a [u8], checksums: Checksums },
    Bulk { at: Reservation, bytes: u64, checksums: Checksums },
    Staged { block: u32, bytes: &'a [u8], checksums: Checksums },
}

impl OwnedPayload<'_> {
    pub(super) fn reservation(&self) -> Option<&Reservation> {
        match self {
            OwnedPayload::Inline { .. } | OwnedPayload::Staged { .. } => None,
            OwnedPayload::Bulk { at, .. } => Some(at),
        }
    }

    pub(super) fn borrow(&self) -> Payload<'_> {
        match self {
            OwnedPayload::Inline { bytes, checksums } => Payload::Inline { bytes, checksums },
            OwnedPayload::Bulk { at, bytes, checksums } => Payload::Bulk { at, bytes: *bytes, checksums },
            OwnedPayload::Staged { block, bytes, checksums } => Payload::Staged { block: *block, bytes, checksums },
        }
    }
}

/// Writes a payload's head; returns the inline bytes that belong behind it.
pub(super) fn push_payload<'a>(out: &mut Vec<u8>, payload: &Payload<'a>) -> &'a [u8] {
    match *payload {
        Payload::Inline { bytes, checksums } => {
            out.push(INLINE);
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            push_checksums(out, checksums);
            bytes
        }
        Payload::Staged { block, bytes, checksums } => {
            out.push(STAGED);
            out.extend_from_slice(&block.to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            push_checksums(out, checksums);
            bytes
        }
        Payload::Bulk { at, bytes, checksums } => {
            out.push(BULK);
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(&(at.extents().len() as u16).to_le_bytes());
            for piece in at.extents() {
                out.extend_from_slice(&piece.block.to_le_bytes());
                out.extend_from_slice(&piece.blocks.to_le_bytes());
            }
            push_checksums(out, checksums);
            &[]
        }
    }
}

impl<'a> Reader<'a> {
    /// A payload of an update, which alone may be staged.
    pub(super) fn update_payload(&mut self) -> Option<OwnedPayload<'a>> {
        if self.0.first() != Some(&STAGED) {
            return self.payload();
        }
        let (_, block, len) = (self.u8()?, self.u32()?, self.u32()?);
        let checksums = self.checksums(len.into())?;
        let bytes = self.slice(len as usize)?;
        (media::STAGED_BYTES_MIN..=media::STAGED_BYTES_MAX).contains(&bytes.len()).then_some(OwnedPayload::Staged {
            block,
            bytes,
            checksums,
        })
    }

    /// A payload of anything else.
    pub(super) fn payload(&mut self) -> Option<OwnedPayload<'a>> {
        match self.u8()? {
            INLINE => {
                let len = self.u32()?;
                let checksums = self.checksums(len.into())?;
                let bytes = self.slice(len as usize)?;
                (bytes.len() <= INLINE_BYTES_MAX).then_some(OwnedPayload::Inline { bytes, checksums })
            }
            BULK => {
                let (bytes, count) = (self.u64()?, self.u16()?);
                if usize::from(count) > EXTENTS_PER_PAYLOAD_MAX || bytes == 0 {
                    return None;
                }
                let pieces = (0..count)
                    .map(|_| Some(BulkExtent { block: self.u32()?, blocks: self.u32()? }))
                    .collect::<Option<BulkList>>()?;
                let checksums = self.checksums(bytes)?;
                Some(OwnedPayload::Bulk { at: Reservation::replayed(pieces, bytes), bytes, checksums })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{Conditions, ContainerId, Epoch, Key, ObjectId, SessionId};

    use crate::key::Version;
    use crate::record::{Record, change, decode, encode_update, kind, rewrite};
    use crate::request::{AkeyWrite, ChangeId, Op, Origin, Payload, Prepare, Update, ValueWrite};

    /// Head, epoch, minor, group, oid; dkey; akeys; akey; single.
    const BEFORE: &str = concat!(
        "02010000000000000403000000000000c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0",
        "221100000000000033000700000000000000000000010000000000000002",
        "010900000000000000",
        "0100",
        "02010061",
        "01",
    );

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Block and bytes both; nothing but an update has such a payload, and not every length.
    #[test]
    fn a_staged_payload_has_these_bytes() {
        let bytes = [0x77; media::STAGED_BYTES_MIN];
        let (container, origin) =
            (ContainerId::from_bytes([0xc0; 16]), Origin { session: SessionId(0x0102), seq: 0x0304 });
        let (version, oid) = (Version { epoch: Epoch(0x1122), minor: 0x33 }, ObjectId { hi: 1, lo: 2 });
        let (dkey, akey) = (Key::from(9), Key::literal("a"));
        let value = ValueWrite::Single(Payload::Staged { block: 0x0506, bytes: &bytes, checksums: &[0xff] });
        let akeys = [AkeyWrite { akey: &akey, value }];
        let update = Update { group: 7, oid, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
        let mut out = Vec::new();
        let tail = encode_update(&mut out, container, version, origin, &update);
        assert_eq!(tail, bytes, "the bytes need no copy on their way to the log");
        out.extend_from_slice(tail);
        let fixed = [BEFORE, "030605000000080000ff000000"].concat();
        assert_eq!(hex(&out), fixed.clone() + &"77".repeat(bytes.len()));
        let (_, record) = decode(kind::UPDATE, &out).unwrap();
        let Record::Update { update, .. } = &record else { panic!("{record:?}") };
        assert!(update.is_staged());
        let mut again = Vec::new();
        update.with(|update| {
            let tail = encode_update(&mut again, container, version, origin, update).to_vec();
            again.extend_from_slice(&tail);
        });
        assert_eq!(again, out);
        let mut prepared = Vec::new();
        update.with(|update| {
            let ops = [Op::Update(*update)];
            let prepare = Prepare { change: ChangeId::default(), container, origin, note: &[], ops: &ops };
            change::encode_prepare(&mut prepared, version, &prepare)
        });
        assert!(decode(kind::PREPARE, &prepared).is_none());
        // A byte less than the least: of what is shorter, nothing is staged.
        let length = fixed.len() / 2 - 8;
        out[length..length + 4].copy_from_slice(&(bytes.len() as u32 - 1).to_le_bytes());
        out.pop();
        assert!(decode(kind::UPDATE, &out).is_none());
        let mut mend = Vec::new();
        let payload = Payload::Staged { block: 5, bytes: &bytes, checksums: &[1] };
        rewrite::encode_mend(&mut mend, container, b"key", &payload);
        assert!(decode(kind::MEND, &mend).is_none());
    }
}

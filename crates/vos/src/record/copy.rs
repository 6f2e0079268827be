//! Records of a placement group's data that comes from another target, or leaves this one.
//!
//! | kind    | bytes                                                                                 |
//! |---------|---------------------------------------------------------------------------------------|
//! | 17 copy | count 2; for each: key length 2, composite key, what is stored                         |
//! | 18 drop | group 4, limit 4                                                                      |
//! | 19 take out | count 2; for each: key length 2, composite key                                    |
//!
//! | what is stored | bytes                                                          |
//! |----------------|----------------------------------------------------------------|
//! | punch          | 0                                                              |
//! | hole           | 1, count 8                                                     |
//! | single value   | 2, payload                                                     |
//! | array data     | 3, count 8, record bytes 4, payload                            |

use types::ContainerId;

use super::payload::{OwnedPayload, push_payload};
use super::{Reader, Record, push_from, push_head};
use crate::copy::{CopiedValue, Incoming};
use crate::request::Origin;
use crate::space::Reservation;

const PUNCH: u8 = 0;
const HOLE: u8 = 1;
const SINGLE: u8 = 2;
const DATA: u8 = 3;

/// A stored record that was read back.
#[derive(Debug)]
pub(crate) struct OwnedIncoming<'a> {
    key: &'a [u8],
    value: CopiedValue<OwnedPayload<'a>>,
}

impl OwnedIncoming<'_> {
    pub(crate) fn borrow(&self) -> Incoming<'_> {
        Incoming { key: self.key, value: self.value.map(OwnedPayload::borrow) }
    }

    /// Blocks that come with it.
    pub(crate) fn reservation(&self) -> Option<&Reservation> {
        self.value.payload().and_then(OwnedPayload::reservation)
    }
}

/// Replaces `out` by the record of some records that come.
pub(crate) fn encode(out: &mut Vec<u8>, container: ContainerId, records: &[Incoming<'_>]) {
    push_head(out, Origin::default(), container.to_bytes());
    out.extend_from_slice(&(records.len() as u16).to_le_bytes());
    for Incoming { key, value } in records {
        push_from(out, key);
        let tail = match value {
            CopiedValue::Punch => {
                out.push(PUNCH);
                &[]
            }
            CopiedValue::Hole { count } => {
                out.push(HOLE);
                out.extend_from_slice(&count.to_le_bytes());
                &[][..]
            }
            CopiedValue::Single(payload) => {
                out.push(SINGLE);
                push_payload(out, payload)
            }
            CopiedValue::Data { count, record_bytes, payload } => {
                out.push(DATA);
                out.extend_from_slice(&count.to_le_bytes());
                out.extend_from_slice(&record_bytes.to_le_bytes());
                push_payload(out, payload)
            }
        };
        out.extend_from_slice(tail);
    }
}

pub(super) fn read<'a>(r: &mut Reader<'a>, container: ContainerId) -> Option<Record<'a>> {
    let records = (0..r.u16()?)
        .map(|_| {
            let len = r.u16()?;
            let key = r.slice(len.into())?;
            let value = match r.u8()? {
                PUNCH => CopiedValue::Punch,
                HOLE => CopiedValue::Hole { count: r.u64()? },
                SINGLE => CopiedValue::Single(r.payload()?),
                DATA => CopiedValue::Data { count: r.u64()?, record_bytes: r.u32()?, payload: r.payload()? },
                _ => return None,
            };
            let record = OwnedIncoming { key, value };
            record.borrow().check().is_some().then_some(record)
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Record::Copy { container, records })
}

/// The keys of records that go.
pub(super) fn read_keys<'a>(r: &mut Reader<'a>, container: ContainerId) -> Option<Record<'a>> {
    let keys = (0..r.u16()?)
        .map(|_| {
            let len = r.u16()?;
            r.slice(len.into())
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Record::TakeOut { container, keys })
}

#[cfg(test)]
mod tests {
    use types::{Epoch, Extent, Key, ObjectId};

    use super::*;
    use crate::key::{self, Version};
    use crate::record::{decode, kind};
    use crate::request::Payload;
    use crate::space::BulkExtent;

    #[test]
    fn a_copy_has_these_bytes() {
        let akey = |tail: &[u8]| {
            let mut key = Vec::new();
            key::push_object(&mut key, 0x0102, ObjectId { hi: 3, lo: 4 });
            key::push_key(&mut key, &Key::Integer(5));
            key::push_key(&mut key, &Key::Integer(6));
            key.extend_from_slice(tail);
            key::push_version(&mut key, Version { epoch: Epoch(0x11), minor: 0x33 });
            key
        };
        let mut extent = Vec::new();
        key::push_extent(&mut extent, key::DATA, Extent::new(7, 2));
        let at = Reservation::replayed(std::iter::once(BulkExtent { block: 8, blocks: 1 }).collect(), 4);
        let (single, data, punch) = (akey(&[key::SINGLE]), akey(&extent), akey(&[key::LIFE]));
        let records = [
            Incoming { key: &punch, value: CopiedValue::Punch },
            Incoming { key: &single, value: CopiedValue::Single(Payload::Inline { bytes: b"v", checksums: &[9] }) },
            Incoming {
                key: &data,
                value: CopiedValue::Data {
                    count: 2,
                    record_bytes: 2,
                    payload: Payload::Bulk { at: &at, bytes: 4, checksums: &[10] },
                },
            },
        ];
        let mut out = Vec::new();
        encode(&mut out, ContainerId::from_bytes([0xc0; 16]), &records);
        let part = |key: &[u8], rest: &[u8]| [&(key.len() as u16).to_le_bytes()[..], key, rest].concat();
        let golden = [
            vec![0; 16],
            vec![0xc0; 16],
            vec![3, 0],
            part(&punch, &[0]),
            part(&single, &[2, 1, 1, 0, 0, 0, 9, 0, 0, 0, b'v']),
            part(
                &data,
                &[
                    &[3][..],
                    &[2, 0, 0, 0, 0, 0, 0, 0],
                    &[2, 0, 0, 0],
                    &[2, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0],
                ]
                .concat(),
            ),
        ]
        .concat();
        assert_eq!(out, golden);
        let (_, back) = decode(kind::COPY, &out).unwrap();
        let Record::Copy { container, records } = &back else { panic!("{back:?}") };
        let mut again = Vec::new();
        encode(&mut again, *container, &records.iter().map(OwnedIncoming::borrow).collect::<Vec<_>>());
        assert_eq!(again, out);
        for end in 0..out.len() {
            assert!(decode(kind::COPY, &out[..end]).is_none());
        }
        for at in 34..out.len() {
            for bit in 0..8 {
                let mut bad = out.clone();
                bad[at] ^= 1 << bit;
                let _ = decode(kind::COPY, &bad);
            }
        }
    }
}

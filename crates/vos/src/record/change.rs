//! Records of changes that a placement group's members prepare: what one is, how it ended, and what all members know.
//!
//! | kind       | bytes, after the head of every record                                          |
//! |------------|--------------------------------------------------------------------------------|
//! | 20 prepare | change, note length 2, note, epoch 8, minor 2, ops 2, then each op             |
//! | 21 commit  | change (the head has the pool, and nobody as its origin: the prepare has that) |
//! | 22 abort   | change (likewise)                                                              |
//! | 23 adopt   | group 4, term (likewise)                                                       |
//! | 24 settle  | change: up to it (likewise)                                                    |
//! | 25 forget  | change: a step of it up to there (likewise)                                    |
//! | 26 leave   | group 4 (likewise)                                                             |
//!
//! | part   | bytes                                                                                     |
//! |--------|-------------------------------------------------------------------------------------------|
//! | term   | interval 4, round 4                                                                       |
//! | change | group 4, term, number 8                                                                   |
//! | op     | 1, an update as in kind 1 from its group on; or 2, a punch as in kind 2 from its group on |
//!
//! Op `i` has the epoch, and the minor plus `i`. A prepare record is also what the catalog keeps of an
//! intent, so a checkpoint needs no second format.

use types::ContainerId;

use super::{OwnedPunch, OwnedUpdate, Reader, Record, push_head, push_punch, push_update, push_version};
use crate::key::Version;
use crate::request::{ChangeId, NOTE_BYTES_MAX, Op, Prepare, Term};

const UPDATE: u8 = 1;
const PUNCH: u8 = 2;

/// Most operations of one change: bounds what a commit does without a pause.
pub(crate) const OPS_MAX: usize = 256;

/// One step of a change, read back.
#[derive(Debug)]
pub(crate) enum OwnedOp<'a> {
    Update(OwnedUpdate<'a>),
    Punch(OwnedPunch),
}

impl OwnedOp<'_> {
    /// Lends the operation in the form of a request.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&Op<'_>) -> T) -> T {
        match self {
            OwnedOp::Update(update) => update.with(|update| f(&Op::Update(*update))),
            OwnedOp::Punch(punch) => f(&Op::Punch(punch.borrow())),
        }
    }
}

pub(super) fn push_term(out: &mut Vec<u8>, term: Term) {
    out.extend_from_slice(&term.interval.to_le_bytes());
    out.extend_from_slice(&term.round.to_le_bytes());
}

pub(super) fn push_change(out: &mut Vec<u8>, change: ChangeId) {
    out.extend_from_slice(&change.group.to_le_bytes());
    push_term(out, change.term);
    out.extend_from_slice(&change.number.to_le_bytes());
}

pub(super) fn read_term(r: &mut Reader<'_>) -> Option<Term> {
    Some(Term { interval: r.u32()?, round: r.u32()? })
}

pub(super) fn read_change(r: &mut Reader<'_>) -> Option<ChangeId> {
    Some(ChangeId { group: r.u32()?, term: read_term(r)?, number: r.u64()? })
}

/// Replaces `out` by a prepare record.
pub(crate) fn encode_prepare(out: &mut Vec<u8>, version: Version, prepare: &Prepare<'_>) {
    push_head(out, prepare.origin, prepare.container.to_bytes());
    push_change(out, prepare.change);
    out.extend_from_slice(&(prepare.note.len() as u16).to_le_bytes());
    out.extend_from_slice(prepare.note);
    push_version(out, version);
    out.extend_from_slice(&(prepare.ops.len() as u16).to_le_bytes());
    for op in prepare.ops {
        match op {
            Op::Update(update) => {
                out.push(UPDATE);
                let tail = push_update(out, update);
                out.extend_from_slice(tail);
            }
            Op::Punch(punch) => {
                out.push(PUNCH);
                push_punch(out, punch);
            }
        }
    }
}

/// Reads a prepare record behind its head; `bytes` is all of it.
pub(super) fn read_prepare<'a>(r: &mut Reader<'a>, container: ContainerId, bytes: &'a [u8]) -> Option<Record<'a>> {
    let (change, length) = (read_change(r)?, usize::from(r.u16()?));
    let note = r.slice(length).filter(|note| note.len() <= NOTE_BYTES_MAX)?;
    let (version, count) = (r.version()?, r.u16()?);
    if count == 0 || usize::from(count) > OPS_MAX || version.minor.checked_add(count - 1).is_none() {
        return None;
    }
    let op = |_| match r.u8()? {
        // Until it is decided, an update keeps its payloads to itself.
        UPDATE => r.update().filter(|update| !update.is_staged()).map(OwnedOp::Update),
        PUNCH => r.punch().map(OwnedOp::Punch),
        _ => None,
    };
    let ops = (0..count).map(op).collect::<Option<Vec<_>>>()?;
    Some(Record::Prepare { container, change, note, version, ops, bytes })
}

#[cfg(test)]
mod tests {
    use types::{Conditions, Epoch, Key, ObjectId, PoolId, SessionId};

    use super::*;
    use crate::record::{decode, encode, kind};
    use crate::request::{AkeyWrite, Origin, Payload, Punch, PunchScope, Update, ValueWrite};

    const HEAD: &str = "02010000000000000403000000000000c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
    const ABOUT_POOL: &str = "00000000000000000000000000000000b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";
    const CHANGE: &str = "0500000006000000070000000800000000000000";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn container() -> ContainerId {
        ContainerId::from_bytes([0xc0; 16])
    }

    fn origin() -> Origin {
        Origin { session: SessionId(0x0102), seq: 0x0304 }
    }

    fn change() -> ChangeId {
        ChangeId { group: 5, term: Term { interval: 6, round: 7 }, number: 8 }
    }

    fn prepared() -> Vec<u8> {
        let (dkey, akey) = (Key::from(9), Key::literal("a"));
        let value = ValueWrite::Single(Payload::Inline { bytes: b"xyz", checksums: &[0xff] });
        let akeys = [AkeyWrite { akey: &akey, value }];
        let oid = ObjectId { hi: 1, lo: 2 };
        let conditions = Conditions::None;
        let ops = [
            Op::Punch(Punch { group: 7, oid, scope: PunchScope::Dkey(&dkey), conditions }),
            Op::Update(Update { group: 7, oid, dkey: &dkey, conditions, akeys: &akeys }),
        ];
        let mut out = Vec::new();
        let prepare = Prepare { change: change(), container: container(), origin: origin(), note: b"by", ops: &ops };
        encode_prepare(&mut out, Version { epoch: Epoch(0x1122), minor: 0x33 }, &prepare);
        out
    }

    #[test]
    fn change_records_have_these_bytes() {
        let out = prepared();
        let object = "070000000000000000000001".to_owned() + "0000000000000002";
        let expected = [
            HEAD,
            CHANGE,
            "02006279",
            "22110000000000003300",
            "0200",
            "02",
            &object,
            "02010900000000000000",
            "01",
            &object,
            "010900000000000000",
            "0100",
            "02010061",
            "010103000000ff00000078797a",
        ]
        .concat();
        assert_eq!(hex(&out), expected);
        let (back, record) = decode(kind::PREPARE, &out).unwrap();
        assert_eq!(back, origin());
        let Record::Prepare { container: id, change: found, note, version, ops, bytes } = &record else {
            panic!("{record:?}")
        };
        assert_eq!((*id, *found, *note, *bytes), (container(), change(), &b"by"[..], &out[..]));
        let mut again = Vec::new();
        ops[0].with(|punch| {
            ops[1].with(|update| {
                let ops = [*punch, *update];
                let prepare = Prepare { change: *found, container: *id, origin: back, note, ops: &ops };
                encode_prepare(&mut again, *version, &prepare)
            })
        });
        assert_eq!(again, out);
        let (pool, change) = (PoolId::from_bytes([0xb0; 16]), change());
        for (record, number, bytes) in [
            (Record::Commit { pool, change }, 21, CHANGE),
            (Record::Abort { pool, change }, 22, CHANGE),
            (Record::Adopt { pool, group: 5, term: change.term }, 23, &CHANGE[..24]),
            (Record::Settle { pool, change }, 24, CHANGE),
            (Record::Forget { pool, change }, 25, CHANGE),
            (Record::Leave { pool, group: 5 }, 26, &CHANGE[..8]),
        ] {
            let mut out = Vec::new();
            assert_eq!(encode(&mut out, Origin::default(), &record), number);
            assert_eq!(hex(&out), [ABOUT_POOL, bytes].concat());
            assert_eq!(format!("{:?}", decode(number, &out).unwrap().1), format!("{record:?}"));
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let whole = prepared();
        for end in 0..whole.len() {
            assert!(decode(kind::PREPARE, &whole[..end]).is_none());
        }
        let (mut out, mut state) = (whole.clone(), 7u64);
        for round in 0..50_000u64 {
            if round % 16 == 0 {
                out.clone_from(&whole);
            }
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = 32 + (state >> 33) as usize % (out.len() - 32);
            out[at] = (state >> 56) as u8 & if round % 2 == 0 { 3 } else { 0xff };
            let _ = decode((20 + round % 7) as u16, &out);
        }
    }
}

//! Records of transactions: what one prepared, and how it ended.
//!
//! | kind       | bytes, after the head of every record                                |
//! |------------|----------------------------------------------------------------------|
//! | 20 prepare | tx, epoch 8, minor 2, ops 2, then each op                            |
//! | 21 commit  | tx                                                                   |
//! | 22 abort   | tx                                                                   |
//!
//! | part | bytes                                                                          |
//! |------|--------------------------------------------------------------------------------|
//! | tx   | session 8, seq 8                                                               |
//! | op   | 1, an update as in kind 1 from its group on; or 2, a punch as in kind 2 from its group on |
//!
//! Op `i` has the epoch, and the minor plus `i`. A prepare record is also what the catalog keeps of an
//! intent, so a checkpoint needs no second format.

use types::{ContainerId, SessionId};

use super::{OwnedPunch, OwnedUpdate, Reader, Record, push_head, push_punch, push_update, push_version};
use crate::key::Version;
use crate::request::{Op, Origin, TxId};

const UPDATE: u8 = 1;
const PUNCH: u8 = 2;

/// Most operations of one transaction on one target: bounds what a commit does without a pause.
pub(crate) const OPS_MAX: usize = 256;

/// One step of a transaction, read back.
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

pub(crate) fn push_id(out: &mut Vec<u8>, tx: TxId) {
    out.extend_from_slice(&tx.session.0.to_le_bytes());
    out.extend_from_slice(&tx.seq.to_le_bytes());
}

pub(super) fn read_id(r: &mut Reader<'_>) -> Option<TxId> {
    Some(TxId { session: SessionId(r.u64()?), seq: r.u64()? })
}

/// Replaces `out` by a prepare record.
pub(crate) fn encode_prepare(
    out: &mut Vec<u8>,
    container: ContainerId,
    origin: Origin,
    tx: TxId,
    version: Version,
    ops: &[Op<'_>],
) {
    push_head(out, origin, container.to_bytes());
    push_id(out, tx);
    push_version(out, version);
    out.extend_from_slice(&(ops.len() as u16).to_le_bytes());
    for op in ops {
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
    let (tx, version, count) = (read_id(r)?, r.version()?, r.u16()?);
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
    Some(Record::Prepare { container, tx, version, ops, bytes })
}

#[cfg(test)]
mod tests {
    use types::{Conditions, Epoch, Key, ObjectId};

    use super::*;
    use crate::record::{decode, encode, kind};
    use crate::request::{AkeyWrite, Payload, Punch, PunchScope, Update, ValueWrite};

    const HEAD: &str = "02010000000000000403000000000000c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
    const TX: &str = "05000000000000000600000000000000";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn container() -> ContainerId {
        ContainerId::from_bytes([0xc0; 16])
    }

    fn origin() -> Origin {
        Origin { session: SessionId(0x0102), seq: 0x0304 }
    }

    fn tx() -> TxId {
        TxId { session: SessionId(5), seq: 6 }
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
        encode_prepare(&mut out, container(), origin(), tx(), Version { epoch: Epoch(0x1122), minor: 0x33 }, &ops);
        out
    }

    #[test]
    fn transaction_records_have_these_bytes() {
        let out = prepared();
        let object = "070000000000000000000001".to_owned() + "0000000000000002";
        let expected = [
            HEAD,
            TX,
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
        let Record::Prepare { container: id, tx: found, version, ops, bytes } = &record else { panic!("{record:?}") };
        assert_eq!((*id, *found, *bytes), (container(), tx(), &out[..]));
        let mut again = Vec::new();
        ops[0].with(|punch| {
            ops[1].with(|update| encode_prepare(&mut again, *id, back, *found, *version, &[*punch, *update]))
        });
        assert_eq!(again, out);
        for (record, number) in [
            (Record::Commit { container: container(), tx: tx() }, 21),
            (Record::Abort { container: container(), tx: tx() }, 22),
        ] {
            let mut out = Vec::new();
            assert_eq!(encode(&mut out, origin(), &record), number);
            assert_eq!(hex(&out), [HEAD, TX].concat());
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
            let _ = decode((20 + round % 3) as u16, &out);
        }
    }
}

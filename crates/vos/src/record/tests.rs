//! Records: their bytes, and what damaged ones are taken for.

use super::*;
use crate::extents::Stop;
use crate::request::BulkList;
use crate::space::{BulkExtent, Reservation};

fn origin() -> Origin {
    Origin { session: SessionId(0x0102), seq: 0x0304 }
}

fn container() -> ContainerId {
    ContainerId::from_bytes([0xc0; 16])
}

fn version() -> Version {
    Version { epoch: Epoch(0x1122), minor: 0x33 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `session seq id`, as every record begins.
const HEAD: &str = "02010000000000000403000000000000c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
/// `epoch minor group oid`, as requests go on.
const OBJECT: &str = "221100000000000033000700000000000000000000010000000000000002";

fn oid() -> ObjectId {
    ObjectId { hi: 1, lo: 2 }
}

#[test]
fn an_update_has_these_bytes() {
    let at = Reservation::replayed(BulkList::from_slice(&[BulkExtent { block: 5, blocks: 2 }]), 8192);
    let (dkey, first, second) = (Key::from(9), Key::literal("a"), Key::literal("b"));
    let extents = [(Extent::new(16, 2048), Payload::Bulk { at: &at, bytes: 8192, checksums: &[0xee] })];
    let akeys = [
        AkeyWrite { akey: &first, value: ValueWrite::Single(Payload::Inline { bytes: b"xyz", checksums: &[0xff] }) },
        AkeyWrite { akey: &second, value: ValueWrite::Array { record_bytes: 4, extents: &extents } },
    ];
    let update = Update { group: 7, oid: oid(), dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
    let mut out = Vec::new();
    let tail = encode_update(&mut out, container(), version(), origin(), &update).to_vec();
    out.extend_from_slice(&tail);
    let expected = [
        HEAD,
        OBJECT,
        "010900000000000000",
        "0200",
        "02010061",
        "01",
        "0103000000ff00000078797a",
        "02010062",
        "02040000000100",
        "10000000000000000008000000000000",
        "02002000000000000001000500000002000000ee000000",
    ]
    .concat();
    assert_eq!(hex(&out), expected);
    let (back, record) = decode(kind::UPDATE, &out).unwrap();
    assert_eq!(back, origin());
    let Record::Update { update, .. } = &record else { panic!("{record:?}") };
    let mut again = Vec::new();
    update.with(|update| {
        let tail = encode_update(&mut again, container(), version(), origin(), update).to_vec();
        again.extend_from_slice(&tail);
    });
    assert_eq!(again, out);
}

#[test]
fn punches_have_these_bytes() {
    let (dkey, akeys) = (Key::from(9), [Key::literal("a"), Key::from(3)]);
    let extents = [Extent::new(1, 2)];
    let cases = [
        (PunchScope::Object, "01"),
        (PunchScope::Dkey(&dkey), "02010900000000000000"),
        (PunchScope::Akeys(&dkey, &akeys), "030109000000000000000200020100610103000000000000 00"),
        (
            PunchScope::Extents { dkey: &dkey, akey: &akeys[0], extents: &extents },
            "04010900000000000000020100610100 0100000000000000 0200000000000000",
        ),
    ];
    for (scope, expected) in cases {
        let punch = Punch { group: 7, oid: oid(), scope, conditions: Conditions::None };
        let mut out = Vec::new();
        encode_punch(&mut out, container(), version(), origin(), &punch);
        assert_eq!(hex(&out), [HEAD, OBJECT, &expected.replace(' ', "")].concat());
        let (_, record) = decode(kind::PUNCH, &out).unwrap();
        let Record::Punch { punch, .. } = &record else { panic!("{record:?}") };
        let mut again = Vec::new();
        encode_punch(&mut again, container(), version(), origin(), &punch.borrow());
        assert_eq!(again, out);
    }
}

#[test]
fn the_other_records_have_these_bytes() {
    let pool = PoolId::from_bytes([0xc0; 16]);
    let stop = Stop { start: 4, hole: true, class: 5, version: version() };
    let below = Below { stop, index: 9, is_bare: true };
    let step = AggregateStep {
        container: container(),
        since: Epoch(6),
        until: Epoch(7),
        limit: 5,
        carry: Carry { kept: [version(); 3], newer: Epoch(8), has_punch: true, is_changed: true, below: Some(below) },
        from: vec![1, 2, 3],
    };
    let kept = "22110000000000003300".repeat(3);
    let below = "0400000000000000 01 05 22110000000000003300 0900000000000000 01";
    let aggregate =
        format!("0600000000000000 0700000000000000 05000000 {kept} 0800000000000000 07 {below} 0300 010203");
    let cases = [
        (Record::CreatePool { pool, quota: 0x10 }, 3, "1000000000000000"),
        (Record::DestroyPool { pool }, 4, ""),
        (Record::SetQuota { pool, quota: 0x10 }, 5, "1000000000000000"),
        (Record::CreateContainer { container: container(), pool }, 6, "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0"),
        (Record::DestroyContainer { container: container() }, 7, ""),
        (Record::SetSnapshots { container: container(), epochs: vec![Epoch(5)] }, 8, "010000000500000000000000"),
        (Record::Aggregate(step), 9, &aggregate),
        (Record::Advance { container: container(), horizon: Epoch(6) }, 11, "0600000000000000"),
        (
            Record::Rollback { container: container(), to: Epoch(6), asked: Epoch(7) },
            12,
            "0600000000000000 0700000000000000",
        ),
        (Record::Discard { container: container(), limit: 5, from: vec![9] }, 13, "05000000 0100 09"),
        (Record::Coalesced { container: container(), until: Epoch(6) }, 15, "0600000000000000"),
        (Record::Drop { container: container(), group: 7, limit: 5 }, 18, "07000000 05000000"),
        (Record::TakeOut { container: container(), keys: vec![&[1, 2], &[3]] }, 19, "0200 0200 0102 0100 03"),
    ];
    for (record, number, expected) in cases {
        let mut out = Vec::new();
        assert_eq!(encode(&mut out, origin(), &record), number);
        assert_eq!(hex(&out), [HEAD, &expected.replace(' ', "")].concat());
        let (_, back) = decode(number, &out).unwrap();
        assert_eq!(format!("{back:?}"), format!("{record:?}"));
    }
    let mut out = Vec::new();
    assert_eq!(encode(&mut out, Origin::default(), &Record::Free { owner: 3, leaves: 4 }), 10);
    assert_eq!(hex(&out[32..]), "0300000004000000");
    assert_eq!(encode(&mut out, origin(), &Record::Remember { floor: 6, effects: vec![(7, Epoch(5))] }), 27);
    assert_eq!(
        hex(&out),
        format!("{}{}0600000000000000010007000000000000000500000000000000", &HEAD[..32], "00".repeat(16))
    );
}

/// Cut, lengthened and changed records are declined or read as something else, without a panic.
#[test]
fn no_bytes_make_the_decoder_panic() {
    let mut out = Vec::new();
    let punch =
        Punch { group: 7, oid: oid(), scope: PunchScope::Dkey(&Key::literal("dkey")), conditions: Conditions::None };
    encode_punch(&mut out, container(), version(), origin(), &punch);
    for end in 0..out.len() {
        assert!(decode(kind::PUNCH, &out[..end]).is_none());
    }
    let mut state = 7u64;
    for round in 0..50_000u64 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (state >> 33) as usize % out.len();
        out[at] = (state >> 56) as u8 & if round % 2 == 0 { 3 } else { 0xff };
        let _ = decode((round % 28) as u16, &out);
    }
}

//! Small stories: what is written and punched when, and what is read when.

mod rig;

use rig::on_node;
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{AkeyRead, Direction, Error, ListPart, Origin, Punch, PunchScope, ReadWhat, Source, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };

fn id() -> ContainerId {
    rig::container(0)
}

fn store() -> Store {
    let mut store = rig::format(1 << 20, 16 << 20, 4 << 20);
    store.create_pool(rig::pool(0), 8 << 20, Origin::default()).unwrap();
    store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
    store
}

fn dkey() -> Key {
    Key::literal("d")
}

fn akey() -> Key {
    Key::literal("a")
}

fn write(store: &mut Store, epoch: u64, conditions: Conditions, akeys: &[(Key, Write)]) -> Result<(), Error> {
    rig::update(store, id(), Epoch(epoch), Origin::default(), (0, OID), &dkey(), conditions, akeys).map(drop)
}

fn punch(store: &mut Store, epoch: u64, scope: PunchScope<'_>, conditions: Conditions) -> Result<(), Error> {
    let punch = Punch { group: 0, oid: OID, scope, conditions };
    store.punch(id(), Epoch(epoch), Origin::default(), &punch).map(drop)
}

fn epoch(text: &str) -> u64 {
    text.split('@').nth(1).and_then(|e| e.split('=').next()).and_then(|e| e.parse().ok()).expect("an epoch after @")
}

fn read_single(store: &mut Store, at: u64) -> String {
    let (dkey, akey) = (dkey(), akey());
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
    let plan = store.fetch(id(), Epoch(at), 0, OID, &dkey, &reads, Conditions::None).unwrap();
    match rig::bytes_of(store, &plan, 0).pop() {
        Some((_, Some(bytes))) => String::from_utf8(bytes).unwrap(),
        _ => "-".to_string(),
    }
}

/// One akey with a single value. `w@1=a`: write `a` at epoch 1. Punches at an epoch: `p` of the akey, `P` of
/// the dkey, `O` of the object. Reads: `@2` gives the value, or `-`.
fn check(story: &str, reads: &[(&str, &str)]) {
    let (story, reads): (String, Vec<(u64, String)>) =
        (story.to_string(), reads.iter().map(|(at, value)| (epoch(at), value.to_string())).collect());
    on_node(1, move || {
        let mut store = store();
        let (dkey, akeys) = (dkey(), [akey()]);
        for step in story.split_whitespace() {
            let at = epoch(step);
            let done = match &step[..1] {
                "w" => {
                    let value = step.split('=').nth(1).expect("a value after =").as_bytes().to_vec();
                    write(&mut store, at, Conditions::None, &[(akey(), Write::Single(value))])
                }
                "p" => punch(&mut store, at, PunchScope::Akeys(&dkey, &akeys), Conditions::None),
                "P" => punch(&mut store, at, PunchScope::Dkey(&dkey), Conditions::None),
                "O" => punch(&mut store, at, PunchScope::Object, Conditions::None),
                _ => panic!("a step is one of w p P O: {step}"),
            };
            done.unwrap_or_else(|error| panic!("{step}: {error}"));
        }
        for (at, value) in reads {
            assert_eq!(read_single(&mut store, at), value, "{story} read @{at}");
            let listed = store.list_dkeys(id(), Epoch(at), 0, OID, ListPart::forward(None, 9)).unwrap().entries;
            assert_eq!(listed.is_empty(), value == "-", "{story} listed @{at}");
            let objects = store.list_objects(id(), Epoch(at), ListPart::forward(None, 9)).unwrap().entries;
            assert_eq!(objects.is_empty(), value == "-", "{story} objects @{at}");
        }
        store.check().expect_clean();
    });
}

#[test]
fn the_newest_version_at_or_before_the_epoch_is_read() {
    check("w@10=a w@20=b", &[("@9", "-"), ("@10", "a"), ("@19", "a"), ("@20", "b"), ("@99", "b")]);
    check("w@20=b w@10=a", &[("@10", "a"), ("@20", "b")]);
}

/// A punch hides older values; a later write starts a new life and does not revive the old one.
#[test]
fn write_after_punch_shows_only_the_new_value() {
    check("w@1=a p@2 w@3=b", &[("@1", "a"), ("@2", "-"), ("@3", "b")]);
    check("w@1=a P@2 w@3=b", &[("@1", "a"), ("@2", "-"), ("@3", "b")]);
    check("w@1=a O@2 w@3=b", &[("@1", "a"), ("@2", "-"), ("@3", "b")]);
}

#[test]
fn a_write_that_comes_late_stays_under_the_punch() {
    check("p@5 w@3=a", &[("@3", "a"), ("@4", "a"), ("@5", "-"), ("@9", "-")]);
    check("O@5 w@3=a w@7=b", &[("@4", "a"), ("@5", "-"), ("@7", "b")]);
}

#[test]
fn at_one_epoch_the_later_request_wins() {
    check("w@5=a w@5=b", &[("@4", "-"), ("@5", "b")]);
    check("w@5=a p@5", &[("@5", "-")]);
    check("p@5 w@5=a", &[("@5", "a")]);
    check("w@5=a O@5 w@5=b", &[("@5", "b")]);
    check("w@5=a w@7=x O@5 w@5=b", &[("@5", "b"), ("@7", "x")]);
}

#[test]
fn punches_of_every_level_count() {
    check(
        "w@1=a O@3 P@5 p@7 w@4=b w@6=c w@8=d",
        &[("@1", "a"), ("@3", "-"), ("@4", "b"), ("@5", "-"), ("@6", "c"), ("@7", "-"), ("@8", "d")],
    );
}

/// Runs of an array of one-byte records: `0-49:A` is records 0 to 49 with the value `A`.
fn runs(store: &mut Store, at: u64, until: u64) -> String {
    let (dkey, akey) = (dkey(), akey());
    let extents = [Extent::new(0, until)];
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&extents) }];
    let plan = store.fetch(id(), Epoch(at), 0, OID, &dkey, &reads, Conditions::None).unwrap();
    let mut out = Vec::new();
    for (extent, bytes) in rig::bytes_of(store, &plan, 0) {
        if let Some(bytes) = bytes {
            assert!(bytes.iter().all(|b| *b == bytes[0]));
            out.push(format!("{}-{}:{}", extent.start, extent.end() - 1, bytes[0] as char));
        }
    }
    out.join(" ")
}

fn array(store: &mut Store, at: u64, first: u64, last: u64, value: u8) {
    let extent = Extent::new(first, last - first + 1);
    let bytes = vec![value; extent.count as usize];
    write(store, at, Conditions::None, &[(akey(), Write::Array(1, vec![(extent, bytes)]))]).unwrap();
}

/// The worked example of the reference on extents: overlapping writes, a hole, a punch, a new life.
#[test]
fn a_read_composes_the_extents_that_are_visible_at_its_epoch() {
    on_node(1, || {
        let mut store = store();
        let (dkey, akeys) = (dkey(), [akey()]);
        array(&mut store, 10, 0, 99, b'A');
        array(&mut store, 20, 50, 149, b'B');
        let hole = [Extent::new(80, 10)];
        let scope = PunchScope::Extents { dkey: &dkey, akey: &akeys[0], extents: &hole };
        punch(&mut store, 25, scope, Conditions::None).unwrap();
        punch(&mut store, 30, PunchScope::Akeys(&dkey, &akeys), Conditions::None).unwrap();
        array(&mut store, 40, 60, 69, b'C');
        array(&mut store, 45, 65, 74, b'E');
        for (at, expected, end) in [
            (9, "", 0),
            (15, "0-99:A", 100),
            (20, "0-49:A 50-149:B", 150),
            (27, "0-49:A 50-79:B 90-149:B", 150),
            (35, "", 0),
            (42, "60-69:C", 70),
            (47, "60-64:C 65-74:E", 75),
        ] {
            assert_eq!(runs(&mut store, at, 200), expected, "@{at}");
            assert_eq!(store.query_array(id(), Epoch(at), 0, OID, &dkey, &akeys[0]).unwrap().end, end, "@{at}");
        }
        let listed = store.list_dkeys(id(), Epoch(35), 0, OID, ListPart::forward(None, 9)).unwrap().entries;
        assert!(listed.is_empty(), "a dkey whose values are all hidden is not listed");
        store.check().expect_clean();
    });
}

/// A hundred thousand records in one extent are found from any index, by their length class.
#[test]
fn a_long_extent_is_found_from_its_end() {
    on_node(1, || {
        let mut store = store();
        array(&mut store, 1, 0, 99_999, b'L');
        for n in 0..200 {
            array(&mut store, 2, 50_000 + n * 3, 50_000 + n * 3, b's');
        }
        let (dkey, akey) = (dkey(), akey());
        let extents = [Extent::new(99_998, 5)];
        let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&extents) }];
        let plan = store.fetch(id(), Epoch(5), 0, OID, &dkey, &reads, Conditions::None).unwrap();
        let shape: Vec<_> = plan.akeys[0].pieces.iter().map(|p| (p.extent, p.source == Source::Hole)).collect();
        assert_eq!(shape, [(Extent::new(99_998, 2), false), (Extent::new(100_000, 3), true)]);
        assert_eq!(
            store
                .list_extents(id(), Epoch(5), 0, OID, &dkey, &akey, Extent::new(0, 1 << 40), 4096, Direction::Forward)
                .unwrap()
                .entries
                .len(),
            401
        );
    });
}

#[test]
fn many_versions_of_one_extent_read_as_the_newest() {
    on_node(1, || {
        let mut store = store();
        for at in 1..=600 {
            array(&mut store, at, 16, 31, b'a' + (at % 26) as u8);
        }
        for at in [1, 2, 300, 599, 600] {
            assert_eq!(runs(&mut store, at, 64), format!("16-31:{}", (b'a' + (at % 26) as u8) as char));
        }
    });
}

#[test]
fn conditions_decide_before_anything_changes() {
    on_node(1, || {
        let mut store = store();
        let one = |value: &str| [(akey(), Write::Single(value.as_bytes().to_vec()))];
        assert_eq!(write(&mut store, 1, Conditions::DkeyExists, &one("a")), Err(Error::NotFound));
        assert_eq!(write(&mut store, 1, Conditions::AkeyExists, &one("a")), Err(Error::NotFound));
        write(&mut store, 1, Conditions::DkeyInsert, &one("a")).unwrap();
        assert_eq!(write(&mut store, 2, Conditions::DkeyInsert, &one("b")), Err(Error::Exists));
        assert_eq!(write(&mut store, 2, Conditions::AkeyInsert, &one("b")), Err(Error::Exists));
        // One akey exists, the other does not: neither is written.
        let two = [(akey(), Write::Single(b"b".to_vec())), (Key::literal("z"), Write::Single(b"b".to_vec()))];
        assert_eq!(write(&mut store, 2, Conditions::AkeyExists, &two), Err(Error::NotFound));
        assert_eq!(write(&mut store, 2, Conditions::AkeyInsert, &two), Err(Error::Exists));
        assert_eq!(read_single(&mut store, 5), "a");
        write(&mut store, 3, Conditions::AkeyExists, &one("c")).unwrap();
        assert_eq!(read_single(&mut store, 5), "c");
        let (dkey, akeys) = (dkey(), [akey(), Key::literal("z")]);
        let scope = PunchScope::Akeys(&dkey, &akeys);
        assert_eq!(punch(&mut store, 4, scope, Conditions::AkeyExists), Err(Error::NotFound));
        punch(&mut store, 4, PunchScope::Object, Conditions::DkeyExists).unwrap();
        assert_eq!(punch(&mut store, 5, PunchScope::Object, Conditions::DkeyExists), Err(Error::NotFound));
        let reads = [AkeyRead { akey: &akeys[0], what: ReadWhat::Single }];
        let gone = store.fetch(id(), Epoch(5), 0, OID, &dkey, &reads, Conditions::AkeyExists);
        assert_eq!(gone.unwrap_err(), Error::NotFound);
        assert!(store.fetch(id(), Epoch(3), 0, OID, &dkey, &reads, Conditions::AkeyExists).is_ok());
    });
}

#[test]
fn an_array_keeps_its_record_size_for_a_life() {
    on_node(1, || {
        let mut store = store();
        let records = |size: u32| [(akey(), Write::Array(size, vec![(Extent::new(0, 2), vec![1; size as usize * 2])]))];
        write(&mut store, 1, Conditions::None, &records(4)).unwrap();
        assert_eq!(write(&mut store, 2, Conditions::None, &records(8)), Err(Error::RecordSize { stored: 4, given: 8 }));
        let (dkey, akeys) = (dkey(), [akey()]);
        punch(&mut store, 3, PunchScope::Akeys(&dkey, &akeys), Conditions::None).unwrap();
        write(&mut store, 4, Conditions::None, &records(8)).unwrap();
        assert_eq!(
            write(&mut store, 2, Conditions::None, &records(8)),
            Err(Error::RecordSize { stored: 4, given: 8 }),
            "the first life had records of 4"
        );
        write(&mut store, 2, Conditions::None, &records(4)).unwrap();
    });
}

#[test]
fn requests_over_a_limit_are_refused_whole() {
    on_node(1, || {
        let mut store = store();
        let single = |len: usize| Write::Single(vec![0; len]);
        let invalid = |result: Result<(), Error>| matches!(result, Err(Error::Invalid(_)));
        assert!(invalid(write(&mut store, 1, Conditions::None, &[])));
        assert!(invalid(write(&mut store, 0, Conditions::None, &[(akey(), single(1))])), "epoch 0");
        assert!(invalid(write(&mut store, u64::MAX, Conditions::None, &[(akey(), single(1))])), "the last epoch");
        assert!(invalid(write(&mut store, 1, Conditions::None, &[(akey(), single(1)), (akey(), single(1))])));
        let overlap = vec![(Extent::new(0, 2), vec![0; 2]), (Extent::new(1, 2), vec![0; 2])];
        assert!(invalid(write(&mut store, 1, Conditions::None, &[(akey(), Write::Array(1, overlap))])));
        let short = vec![(Extent::new(0, 2), vec![0; 1])];
        assert!(invalid(write(&mut store, 1, Conditions::None, &[(akey(), Write::Array(1, short))])));
        let empty = vec![(Extent::new(0, 0), vec![])];
        assert!(invalid(write(&mut store, 1, Conditions::None, &[(akey(), Write::Array(1, empty))])));
        let beyond = vec![(Extent::new(u64::MAX >> 1, 1), vec![0])];
        assert!(invalid(write(&mut store, 1, Conditions::None, &[(akey(), Write::Array(1, beyond))])));
        let long = Key::Bytes(vec![0; 1025].into());
        assert_eq!(
            write(&mut store, 1, Conditions::None, &[(long, single(1))]),
            Err(Error::KeyTooLong { bytes: 1025 })
        );
        let many: Vec<_> = (0..257).map(|n| (Key::from(n), single(1))).collect();
        assert!(invalid(write(&mut store, 1, Conditions::None, &many)));
        assert_eq!(store.check().records, 0);
    });
}

/// A server that starts again repeats a rollback that may be done already, and waits until that is durable. It
/// once waited for the end of the log, which nothing ever made durable, and never came up (simulator, seed 1829).
#[test]
fn a_rollback_repeated_is_durable_when_the_first_is() {
    on_node(1, || {
        let mut store = store();
        store.set_snapshots(id(), &[Epoch(5)], Origin::default()).unwrap();
        let first = store.rollback(id(), Epoch(5), Epoch(9), Origin::default()).unwrap();
        let again = store.rollback(id(), Epoch(5), Epoch(9), Origin::default()).unwrap();
        assert!(first <= again);
        store.media().flush_now().unwrap();
        assert!(store.media().durable_lsn() > again);
    });
}

/// The longest keys, all zeros alternating, with the largest inline value: one record a page, still a tree.
#[test]
fn the_longest_keys_and_values_fit() {
    on_node(1, || {
        let mut store = store();
        let long = |last: u8| {
            let mut bytes: Vec<u8> = (0..1024).map(|i| (i % 2) as u8).collect();
            bytes[1023] = last;
            Key::new(bytes).unwrap()
        };
        for n in 0..40 {
            let value = Write::Single(rig::content(n, 290));
            let akeys = [(long(n as u8), value)];
            let origin = Origin::default();
            rig::update(&mut store, id(), Epoch(1), origin, (0, OID), &long(200), Conditions::None, &akeys).unwrap();
        }
        store.check().expect_clean();
        for n in 0..40 {
            let mut out = Vec::new();
            store.fetch_value(id(), Epoch(2), 0, OID, &long(200), &long(n as u8), &mut out).unwrap();
            assert_eq!(out, rig::content(n, 290));
        }
        punch(&mut store, 3, PunchScope::Object, Conditions::None).unwrap();
        store.advance(id(), Epoch(3)).unwrap();
        while store.maintain(1).unwrap() {}
        store.check().expect_clean();
        assert!(store.container_info(id()).unwrap().pages < 5);
    });
}

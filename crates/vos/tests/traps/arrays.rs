//! Arrays: extents at the end of the range, cuts across checksum chunks, holes over holes, rot underneath.

use types::{Conditions, Epoch, Extent, Key};
use vos::model::{Scope, Step, Write};
use vos::{AkeyRead, Branch, CheckOptions, Error, FindingKind, ListedObject, PunchScope, ReadWhat, Stored};

use super::{OID, akey, dkey, forget, id, prepare, punch, read, records, reopen, store, write_all};
use crate::rig::{self, on_node};

/// Index plus count overflowed. An extent that leaves the range of indices is refused by every call that
/// takes one.
#[test]
fn an_extent_beyond_the_last_index_is_refused_everywhere() {
    on_node(1, || {
        let mut store = store();
        let last = types::ARRAY_INDEX_MAX;
        for extent in [
            Extent::new(u64::MAX, 2),
            Extent::new(u64::MAX - 1, 1),
            Extent::new(2, u64::MAX),
            Extent::new(u64::MAX, u64::MAX),
            Extent::new(last, 1),
            Extent::new(1, last),
            Extent::new(3, 0),
        ] {
            let (dkey, akey) = (dkey(), akey());
            let invalid =
                |done: Result<(), Error>| assert!(matches!(done, Err(Error::Invalid(_))), "{extent:?}: {done:?}");
            let value = Write::Array(1, vec![(extent, vec![1])]);
            invalid(write_all(&mut store, 5, &dkey, &[(akey.clone(), value.clone())]));
            let extents = [extent];
            invalid(punch(&mut store, 5, PunchScope::Extents { dkey: &dkey, akey: &akey, extents: &extents }));
            let step = |scope| Step::Punch { object: (0, OID), scope, conditions: Conditions::None };
            invalid(prepare(&mut store, 1, 5, &[step(Scope::Extents(dkey.clone(), akey.clone(), vec![extent]))]));
            let akeys = vec![(akey.clone(), value)];
            let update = Step::Update { object: (0, OID), dkey: dkey.clone(), conditions: Conditions::None, akeys };
            invalid(prepare(&mut store, 1, 5, &[update]));
            let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&extents) }];
            invalid(store.fetch(id(), Epoch(5), 0, OID, &dkey, &reads, Conditions::None).map(drop));
            invalid(
                store.list_extents(id(), Epoch(5), 0, OID, &dkey, &akey, extent, 9, vos::Direction::Forward).map(drop),
            );
        }
        assert_eq!(store.check().records, 0);
        // The last record there can be.
        write_all(&mut store, 5, &dkey(), &[(akey(), Write::Array(1, vec![(Extent::new(last - 1, 1), vec![9])]))])
            .unwrap();
        assert_eq!(store.query_array(id(), Epoch(5), 0, OID, &dkey(), &akey()).unwrap().end, last);
    });
}

/// Several akeys in one request, the one in the middle empty: its neighbours were moved by one.
#[test]
fn an_empty_value_between_others_takes_nobodys_place() {
    on_node(2, || {
        let mut store = store();
        let sizes = [3usize, 0, 700, 0, 5];
        let akeys: Vec<_> =
            (0..).zip(sizes).map(|(n, len)| (Key::from(n), Write::Single(rig::content(n, len)))).collect();
        write_all(&mut store, 5, &dkey(), &akeys).unwrap();
        for round in 0..2 {
            let names: Vec<Key> = (0..5).map(Key::from).collect();
            let reads: Vec<_> = names.iter().map(|akey| AkeyRead { akey, what: ReadWhat::Single }).collect();
            let plan = store.fetch(id(), Epoch(5), 0, OID, &dkey(), &reads, Conditions::None).unwrap();
            for (n, len) in sizes.into_iter().enumerate() {
                let found = rig::bytes_of(&store, &plan, n).pop().and_then(|(_, bytes)| bytes);
                assert_eq!(found, Some(rig::content(n as u64, len)), "akey {n}, round {round}");
            }
            store = reopen(store);
        }
    });
}

/// Records of three bytes never end where a checksum chunk does. Cut anywhere, every part is verified with the
/// checksums of its whole value, inline and in blocks.
#[test]
fn a_cut_extent_verifies_whatever_its_chunks() {
    on_node(3, || {
        let mut store = store();
        let (record_bytes, count) = (3usize, 40_000u64);
        let mut flat = vec![None; count as usize];
        let mut states = Vec::new();
        let mut dice = rig::Dice(3);
        for epoch in 1..=12u64 {
            let (start, len) = if epoch == 1 {
                (0, count)
            } else {
                let start = dice.below(count - 1);
                (start, 1 + dice.below((count - start).min(if epoch % 2 == 0 { 90 } else { 25_000 })))
            };
            let bytes = rig::content(epoch, len as usize * record_bytes);
            for (n, record) in bytes.chunks(record_bytes).enumerate() {
                flat[start as usize + n] = Some(record.to_vec());
            }
            let value = Write::Array(record_bytes as u32, vec![(Extent::new(start, len), bytes)]);
            write_all(&mut store, epoch, &dkey(), &[(akey(), value)]).unwrap();
            states.push(flat.clone());
        }
        let compare = |store: &mut vos::Store, at: usize| {
            for (start, len) in [(0, count), (10_922, 2), (10_923, 1), (21_845, 3), (39_999, 1), (7, 12_345)] {
                let (dkey, akey, extents) = (dkey(), akey(), [Extent::new(start, len)]);
                let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&extents) }];
                let plan = store.fetch(id(), Epoch(at as u64), 0, OID, &dkey, &reads, Conditions::None).unwrap();
                let found: Vec<u8> =
                    rig::bytes_of(store, &plan, 0).into_iter().flat_map(|(_, bytes)| bytes.unwrap()).collect();
                let expected: Vec<u8> = states[at - 1][start as usize..(start + len) as usize]
                    .iter()
                    .flat_map(|record| record.clone().unwrap())
                    .collect();
                assert!(found == expected, "records {start}+{len} at {at}");
            }
        };
        (1..=12).for_each(|at| compare(&mut store, at));
        forget(&mut store, 11);
        [11, 12].into_iter().for_each(|at| compare(&mut store, at));
        let mut store = reopen(store);
        compare(&mut store, 12);
    });
}

/// Five times in a row removals were mended. Every order of two writes and three holes that overlap, read at every
/// epoch, and again once the past is forgotten.
#[test]
fn holes_over_holes_and_data_read_the_same_in_every_order() {
    let events: [(char, u64, u64); 5] = [('A', 0, 20), ('.', 2, 6), ('.', 6, 6), ('B', 5, 3), ('.', 0, 10)];
    let mut orders = vec![vec![]];
    for _ in 0..events.len() {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                let rest: Vec<usize> = (0..events.len()).filter(|n| !order.contains(n)).collect();
                rest.into_iter().map(move |n| [&order[..], &[n]].concat())
            })
            .collect();
    }
    assert_eq!(orders.len(), 120);
    on_node(4, move || {
        let mut store = store();
        for order in &orders {
            store.destroy_container(id(), vos::Origin::default()).unwrap();
            store.create_container(rig::pool(0), id(), vos::Origin::default()).unwrap();
            let mut flat = ['.'; 24];
            let mut states = vec![flat];
            for (epoch, n) in (1..).zip(order) {
                let (what, start, count) = events[*n];
                flat[start as usize..(start + count) as usize].fill(what);
                states.push(flat);
                let extent = Extent::new(start, count);
                if what == '.' {
                    let (dkey, akey, extents) = (dkey(), akey(), [extent]);
                    punch(&mut store, epoch, PunchScope::Extents { dkey: &dkey, akey: &akey, extents: &extents })
                        .unwrap();
                } else {
                    let value = Write::Array(1, vec![(extent, vec![what as u8; count as usize])]);
                    write_all(&mut store, epoch, &dkey(), &[(akey(), value)]).unwrap();
                }
            }
            for (at, state) in (0..).zip(&states) {
                assert_eq!(records(&mut store, at, 24), state.iter().collect::<String>(), "{order:?} @{at}");
            }
            forget(&mut store, 3);
            for (at, state) in (0..).zip(&states).skip(3) {
                let expected = state.iter().collect::<String>();
                assert_eq!(records(&mut store, at, 24), expected, "{order:?} @{at}, forgotten before 3");
            }
            forget(&mut store, 5);
            assert_eq!(
                records(&mut store, 5, 24),
                states[5].iter().collect::<String>(),
                "{order:?} forgotten before 5"
            );
        }
        store.check().expect_clean();
    });
}

/// A span in which only holes were made: what they hide goes, what a snapshot sees stays.
#[test]
fn a_span_with_nothing_but_holes_is_aggregated() {
    on_node(5, || {
        let mut store = store();
        let value = |c: u8| Write::Array(1, vec![(Extent::new(0, 400), vec![c; 400])]);
        write_all(&mut store, 1, &dkey(), &[(akey(), value(b'A'))]).unwrap();
        store.set_snapshots(id(), &[Epoch(1)], vos::Origin::default()).unwrap();
        forget(&mut store, 5);
        let (dkey, akey) = (dkey(), akey());
        for (n, epoch) in (6..10).enumerate() {
            let extents = [Extent::new(100 * n as u64, 100)];
            punch(&mut store, epoch, PunchScope::Extents { dkey: &dkey, akey: &akey, extents: &extents }).unwrap();
        }
        forget(&mut store, 20);
        assert_eq!(records(&mut store, 20, 400), ".".repeat(400));
        assert_eq!(records(&mut store, 1, 400), "A".repeat(400), "the snapshot keeps it");
        store.set_snapshots(id(), &[], vos::Origin::default()).unwrap();
        forget(&mut store, 21);
        assert_eq!(store.container_info(id()).unwrap().blocks, 0, "with the snapshot the data went");
        assert!(store.list_objects(id(), Epoch::MAX, vos::ListPart::forward(None, 1)).unwrap().entries.is_empty());
        store.check().expect_clean();
    });
}

/// Whether rot lost something was asked with the wrong edge of the extent that covers it. Here only a read that
/// needs the bytes meets them: who reads the newer version is not harmed, and the finding names the old one.
#[test]
fn rot_under_a_newer_extent_harms_nobody_who_reads_the_newer() {
    on_node(6, || {
        let mut store = store();
        let value =
            |c: u8, start, count: u64| Write::Array(1, vec![(Extent::new(start, count), vec![c; count as usize])]);
        write_all(&mut store, 1, &dkey(), &[(akey(), value(b'A', 10, 4096))]).unwrap();
        write_all(&mut store, 2, &dkey(), &[(akey(), value(b'B', 0, 8192))]).unwrap();
        store.media().checkpoint_blocking().unwrap();
        let branch =
            Branch { object: Some(ListedObject { group: 0, oid: OID }), dkey: Some(dkey()), akey: Some(akey()) };
        let stored = store.stored_records(id(), &branch, None, 9).unwrap().entries;
        let old = stored.iter().find(|record| record.version.unwrap().epoch == Epoch(1)).unwrap();
        let Stored::Array { value, .. } = &old.what else { panic!("data: {old:?}") };
        let at = u64::from(value.blocks[0].block) * media::BLOCK_BYTES as u64;
        let disk = rig::disk("/data");
        let mut block = vec![0; media::BLOCK_BYTES];
        disk.read_now(at, &mut block).unwrap();
        block[77] ^= 4;
        disk.write_now(at, &block).unwrap();
        assert_eq!(records(&mut store, 2, 8192), "B".repeat(8192));
        let (_, verified) = store.stored_bytes(id(), &old.key).unwrap().unwrap();
        assert!(verified.is_err(), "the old version is what rotted");
        let report = store.check_with(CheckOptions { data: true, findings_max: 9 });
        let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [FindingKind::Value]);
        assert!(report.findings[0].place.contains("@0x1."), "{}", report.findings[0]);
        // Forgotten, it is no loss at all.
        forget(&mut store, 2);
        store.check_with(CheckOptions { data: true, findings_max: 9 }).expect_clean();
        assert_eq!(read(&mut store, 2, &dkey()), None, "an array is no single value");
    });
}

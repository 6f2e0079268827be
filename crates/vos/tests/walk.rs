//! Walks over all records that can be seen. The random sequences compare walks with the model; here is what they
//! seldom meet.

mod rig;

use std::ops::ControlFlow;

use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{Error, KeyView, Origin, Store, WalkAnchor, WalkedValue};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };

fn store() -> Store {
    let mut store = rig::format(4 << 20, 16 << 20, 4 << 20);
    store.create_pool(pool(0), 8 << 20, Origin::default()).unwrap();
    store.create_container(pool(0), container(0), Origin::default()).unwrap();
    store
}

fn put(store: &mut Store, epoch: u64, dkey: &Key, write: Write) {
    let akeys = [(Key::literal("a"), write)];
    let (origin, conditions) = (Origin::default(), Conditions::None);
    rig::update(store, container(0), Epoch(epoch), origin, (0, OID), dkey, conditions, &akeys).unwrap();
}

fn single(epoch: u64) -> Write {
    Write::Single(epoch.to_le_bytes().to_vec())
}

/// Dkeys of a page's usual form: strings, some with zeros.
fn name(n: u64) -> Key {
    Key::new([&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..], b"key"].concat()).unwrap()
}

/// What a walk meets, in calls of `limit` records: dkeys, and epochs or records of arrays.
fn walked(store: &mut Store, at: Epoch, limit: usize) -> Vec<(Key, u64)> {
    let (mut met, mut after) = (Vec::new(), None);
    loop {
        let next = store.walk_records(container(0), at, after.as_ref(), limit, &mut |record| {
            assert_eq!((record.group, record.oid, record.akey), (0, OID, KeyView::Bytes(b"a")));
            met.push((
                record.dkey.to_key().unwrap(),
                match record.value {
                    WalkedValue::Single(value) => {
                        let bytes = value.inline().unwrap();
                        assert_eq!(bytes, record.version.epoch.0.to_le_bytes());
                        record.version.epoch.0
                    }
                    WalkedValue::Array { extent, .. } => extent.count,
                },
            ));
            ControlFlow::Continue(())
        });
        after = next.unwrap();
        if after.is_none() {
            return met;
        }
    }
}

/// Keys have from one to thirty versions, so that these lie over the edges of pages; of each the newest comes, once,
/// and at an earlier moment the one of that moment.
#[test]
fn one_version_of_each_key_is_met() {
    on_node(1, || {
        let mut store = store();
        let mut expected = Vec::new();
        let mut epoch = 0;
        let mut early = Vec::new();
        for n in 0..200 {
            epoch += 1;
            put(&mut store, epoch, &name(n), single(epoch));
            early.push((name(n), epoch));
        }
        let moment = Epoch(epoch);
        for n in 0..200 {
            for _ in 0..n % 30 {
                epoch += 1;
                put(&mut store, epoch, &name(n), single(epoch));
            }
            expected.push((name(n), if n % 30 == 0 { n + 1 } else { epoch }));
        }
        expected.sort();
        early.sort();
        for limit in [1, 7, 1000] {
            assert_eq!(walked(&mut store, Epoch::MAX, limit), expected, "{limit} at a time");
            assert_eq!(walked(&mut store, moment, limit), early, "{limit} at a time, earlier");
        }
    });
}

/// The records of an array begin with the same key as the single value beside it: they were taken for its older
/// versions. Sequence 29 of the random ones found it.
#[test]
fn the_array_beside_a_single_value_is_met() {
    on_node(1, || {
        let mut store = store();
        let mut expected = Vec::new();
        for n in 0..20 {
            put(&mut store, 2 * n + 1, &name(n), single(2 * n + 1));
            put(&mut store, 2 * n + 2, &name(n), Write::Array(1, vec![(Extent::new(n, 5), vec![1; 5])]));
            expected.extend([(name(n), 2 * n + 1), (name(n), 5)]);
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        for limit in [1, 3, 1000] {
            assert_eq!(walked(&mut store, Epoch::MAX, limit), expected, "{limit} at a time");
        }
    });
}

/// An anchor may come back from anybody: whatever its bytes, the walk answers or refuses.
#[test]
fn no_anchor_makes_a_walk_panic() {
    on_node(1, || {
        let mut store = store();
        for n in 0..50 {
            put(&mut store, 2 * n + 1, &name(n), single(2 * n + 1));
            put(&mut store, 2 * n + 2, &name(n), Write::Array(1, vec![(Extent::new(n, 5), vec![1; 5])]));
        }
        let mut first = None;
        let stop = &mut |_: &vos::WalkedRecord<'_>| ControlFlow::Break(());
        for _ in 0..3 {
            first = store.walk_records(container(0), Epoch::MAX, first.as_ref(), 9, stop).unwrap();
        }
        let good = first.unwrap().to_bytes();
        let mut dice = rig::Dice(5);
        for _ in 0..2000 {
            let mut bytes = good.clone();
            bytes.truncate(dice.below(good.len() as u64 + 1) as usize);
            for _ in 0..dice.below(4) {
                if !bytes.is_empty() {
                    let at = dice.below(bytes.len() as u64) as usize;
                    bytes[at] = dice.next() as u8;
                }
            }
            if let Some(anchor) = WalkAnchor::from_bytes(&bytes) {
                let _ = store.walk_records(container(0), Epoch::MAX, Some(&anchor), 3, stop);
            }
        }
        let refused = store.walk_records(container(0), Epoch::MAX, None, 0, stop);
        assert!(matches!(refused, Err(Error::Invalid(_))));
    });
}

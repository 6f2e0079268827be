//! Small extents become large ones: what it saves, and what it must leave alone.

mod rig;

use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{AkeyRead, Error, Origin, ReadWhat, Rewriting, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const KIB: u64 = 1 << 10;

fn store() -> Store {
    let mut store = rig::format(4 << 20, 64 << 20, 4 << 20);
    store.create_pool(pool(0), 48 << 20, Origin::default()).unwrap();
    store.create_container(pool(0), container(0), Origin::default()).unwrap();
    store
}

/// Writes `count` bytes from `start` on, of a content that tells who wrote them.
fn put(store: &mut Store, epoch: u64, start: u64, count: u64) {
    let bytes = rig::content(epoch, count as usize);
    let akeys = [(Key::literal("a"), Write::Array(1, vec![(Extent::new(start, count), bytes)]))];
    let written = rig::update(
        store,
        container(0),
        Epoch(epoch),
        Origin::default(),
        (0, OID),
        &Key::from(0),
        Conditions::None,
        &akeys,
    );
    written.unwrap();
}

/// Bytes `0..end` as they stood at `at`; holes are zeros.
fn read(store: &mut Store, at: Epoch, end: u64) -> Vec<u8> {
    let akey = Key::literal("a");
    let all = [Extent::new(0, end)];
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&all) }];
    let plan = store.fetch(container(0), at, 0, OID, &Key::from(0), &reads, Conditions::None).unwrap();
    let pieces = rig::bytes_of(store, &plan, 0).into_iter();
    pieces.flat_map(|(extent, bytes)| bytes.unwrap_or_else(|| vec![0; extent.count as usize])).collect()
}

fn forget(store: &mut Store, horizon: u64) {
    store.advance(container(0), Epoch(horizon)).unwrap();
    while store.maintain(4).unwrap() {}
}

fn extents(store: &Store) -> u64 {
    let report = store.check();
    report.expect_clean();
    report.values
}

fn bulk(store: &Store) -> u64 {
    store.pool_space(pool(0)).unwrap().bulk
}

#[test]
fn appended_bits_become_one_extent_in_bulk() {
    on_node(1, || {
        let mut store = store();
        for n in 0..1000 {
            put(&mut store, n + 1, n * 100, 100);
        }
        let before = read(&mut store, Epoch::MAX, 100_000);
        forget(&mut store, 1000);
        assert_eq!(extents(&store), 1000);
        let (gone, come) = rig::coalesce(&mut store).unwrap();
        assert!(gone >= 1000 && come <= 6, "{gone} became {come}");
        assert_eq!(extents(&store), 1, "joined again until one is left");
        assert_eq!(bulk(&store), 100_000u64.next_multiple_of(4096));
        assert!(read(&mut store, Epoch::MAX, 100_000) == before);
    });
}

/// Ten thousand writes at random over a mebibyte: a read of it names a handful of extents afterwards.
#[test]
fn a_mebibyte_of_ten_thousand_overlapping_extents_becomes_few() {
    on_node(1, || {
        let mut store = store();
        let mut dice = rig::Dice(7);
        for n in 0..10_000 {
            let count = 1 + dice.below(2048);
            put(&mut store, n + 1, dice.below((1 << 20) - count), count);
            if n % 1000 == 0 {
                store.media().checkpoint_blocking().unwrap();
            }
        }
        let before = read(&mut store, Epoch::MAX, 1 << 20);
        forget(&mut store, 10_000);
        let visible = extents(&store);
        rig::coalesce(&mut store).unwrap();
        let left = extents(&store);
        assert!(left * 200 < visible, "{left} extents are left of {visible}");
        assert!(read(&mut store, Epoch::MAX, 1 << 20) == before);
    });
}

#[test]
fn extents_on_both_sides_of_a_snapshot_are_not_joined() {
    on_node(1, || {
        let mut store = store();
        for n in 0..10 {
            put(&mut store, n + 1, n * 100, 100);
        }
        store.set_snapshots(container(0), &[Epoch(10)], Origin::default()).unwrap();
        for n in 0..5 {
            put(&mut store, n + 11, n * 200 + 50, 100);
        }
        let moments = [Epoch(10), Epoch::MAX];
        let before = moments.map(|at| read(&mut store, at, 1000));
        forget(&mut store, 20);
        rig::coalesce(&mut store).unwrap();
        assert_eq!(extents(&store), 1 + 5, "those of the snapshot are one, the later ones lie apart");
        assert!(moments.map(|at| read(&mut store, at, 1000)) == before);
        // The snapshot goes: now they can be seen together only.
        store.set_snapshots(container(0), &[], Origin::default()).unwrap();
        put(&mut store, 21, 1000, 1);
        forget(&mut store, 21);
        rig::coalesce(&mut store).unwrap();
        assert_eq!(extents(&store), 1);
        assert!(read(&mut store, Epoch::MAX, 1000) == before[1]);
    });
}

/// An extent of a mebibyte of which little can be seen gives the blocks of the rest back.
#[test]
fn a_large_extent_that_is_mostly_covered_is_trimmed() {
    on_node(1, || {
        let mut store = store();
        put(&mut store, 1, 0, 1024 * KIB);
        forget(&mut store, 1);
        rig::coalesce(&mut store).unwrap();
        put(&mut store, 2, 100 * KIB, 800 * KIB);
        assert_eq!(bulk(&store), 1824 * KIB);
        let before = read(&mut store, Epoch::MAX, 1024 * KIB);
        forget(&mut store, 2);
        assert_eq!(bulk(&store), 1824 * KIB, "each is seen somewhere");
        assert_eq!(rig::coalesce(&mut store).unwrap(), (1, 2), "what is seen of it, left and right");
        assert_eq!(bulk(&store), 1024 * KIB);
        assert!(read(&mut store, Epoch::MAX, 1024 * KIB) == before);
        assert_eq!(rig::coalesce(&mut store).unwrap(), (0, 0));
    });
}

/// A punched range stays a hole: what lies on both sides is not joined over it.
#[test]
fn a_hole_between_extents_stays() {
    on_node(1, || {
        let mut store = store();
        for n in 0..20 {
            put(&mut store, n + 1, n * 10, 10);
        }
        let scope =
            vos::PunchScope::Extents { dkey: &Key::from(0), akey: &Key::literal("a"), extents: &[Extent::new(95, 10)] };
        let punch = vos::Punch { group: 0, oid: OID, scope, conditions: Conditions::None };
        store.punch(container(0), Epoch(30), Origin::default(), &punch).unwrap();
        let before = read(&mut store, Epoch::MAX, 200);
        assert!(before[95..105] == [0; 10] && before[94] != 0);
        forget(&mut store, 30);
        assert_eq!(rig::coalesce(&mut store).unwrap(), (20, 2));
        assert!(read(&mut store, Epoch::MAX, 200) == before);
        assert_eq!(
            store.query_array(container(0), Epoch::MAX, 0, OID, &Key::from(0), &Key::literal("a")).unwrap().end,
            200
        );
    });
}

/// Between the look and the swap the container went back to before some of the parts: nothing is swapped, and
/// the blocks that were set aside come back.
#[test]
fn nothing_is_swapped_when_a_part_went_meanwhile() {
    on_node(1, || {
        let mut store = store();
        put(&mut store, 1, 0, 5000);
        store.set_snapshots(container(0), &[Epoch(1)], Origin::default()).unwrap();
        for n in 0..10 {
            put(&mut store, n + 2, 5000 + n * 1000, 1000);
        }
        forget(&mut store, 20);
        let rewrite = loop {
            if let Rewriting::Found(rewrite) = store.plan_rewrite().unwrap() {
                break rewrite;
            }
        };
        let mut rewrite = rewrite;
        rewrite.copy_now(&store.media().clone()).unwrap();
        store.rollback(container(0), Epoch(1), Epoch(30), Origin::default()).unwrap();
        assert_eq!(store.rewrite(&rewrite), Ok(None), "while it goes back");
        while store.maintain(1).unwrap() {}
        assert_eq!(store.rewrite(&rewrite), Ok(None), "and after");
        drop(rewrite);
        assert_eq!(extents(&store), 1);
        assert_eq!(bulk(&store), 8 * KIB);
    });
}

/// A part whose bytes were damaged on the device is not written anew with a fresh checksum: that would make
/// the damage look whole.
#[test]
fn damage_is_not_joined_into_something_that_looks_whole() {
    on_node(1, || {
        let mut store = store();
        for n in 0..10 {
            put(&mut store, n + 1, n * 5000, 5000);
        }
        forget(&mut store, 10);
        store.media().checkpoint_blocking().unwrap();
        // Each lies in bulk; the bytes of one are found on the device, and one is changed.
        let wanted = rig::content(4, 5000);
        rig::flip("/data", &wanted[..100]);
        let mut refused = 0;
        loop {
            match store.plan_rewrite().unwrap() {
                Rewriting::Nothing => break,
                Rewriting::Look => {}
                Rewriting::Found(mut rewrite) => match rewrite.copy_now(&store.media().clone()) {
                    Err(Error::Corrupt { .. }) => refused += 1,
                    done => panic!("{done:?}"),
                },
            }
        }
        assert_eq!(refused, 1);
        assert_eq!(extents(&store), 10);
    });
}

//! Small extents become large ones: what it saves, and what it must leave alone.

mod rig;

use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{AkeyRead, Branch, Error, Origin, ReadWhat, Rewriting, Store, Stored};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const KIB: u64 = 1 << 10;

fn store() -> Store {
    store_with(4 << 20)
}

fn store_with(memory_bytes: usize) -> Store {
    let mut store = rig::format(4 << 20, 64 << 20, memory_bytes);
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

/// Small writes at random over an extent of `base` bytes, as many as cover two and a half times of it; the last
/// epoch, and what should be read.
fn cover(store: &mut Store, base: u64, seed: u64) -> (u64, Vec<u8>) {
    const COUNT: u64 = 262;
    put(store, 1, 0, base);
    let mut wanted = rig::content(1, base as usize);
    let mut dice = rig::Dice(seed);
    let writes = base * 5 / 2 / COUNT;
    for n in 0..writes {
        let start = dice.below(base - COUNT);
        put(store, n + 2, start, COUNT);
        wanted[start as usize..(start + COUNT) as usize].copy_from_slice(&rig::content(n + 2, COUNT as usize));
        if n % 1000 == 0 {
            store.media().checkpoint_blocking().unwrap();
        }
    }
    (writes + 1, wanted)
}

/// A look sees 512 pieces of thousands, in none of which the extent below lies whole. What is seen of it is
/// copied along; once nothing is seen of it any more, it goes. It used to stay, and what was joined stayed apart
/// between its pieces: 765 extents.
#[test]
fn ten_thousand_extents_over_one_that_covers_all_become_few() {
    on_node(1, || {
        let mut store = store_with(32 << 20);
        let (last, wanted) = cover(&mut store, 1 << 20, 7);
        forget(&mut store, last);
        assert!(extents(&store) > 5000);
        rig::coalesce(&mut store).unwrap();
        let left = extents(&store);
        assert!(left <= 8, "{left} extents are left");
        assert!(bulk(&store) <= (1 << 20) + 8 * 4096, "the one below is gone");
        assert!(read(&mut store, Epoch::MAX, 1 << 20) == wanted);
    });
}

/// The extent below belongs to three regions: each is joined with what is seen of it there, and the last takes
/// it away.
#[test]
fn an_extent_of_many_regions_goes_once_all_of_it_is_joined_over() {
    on_node(1, || {
        let mut store = store_with(32 << 20);
        let (last, wanted) = cover(&mut store, 3 << 20, 9);
        forget(&mut store, last);
        rig::coalesce(&mut store).unwrap();
        let left = extents(&store);
        assert!(left <= 3 * 8, "{left} extents are left");
        assert!(bulk(&store) <= (3 << 20) + 24 * 4096, "the one below is gone");
        assert!(read(&mut store, Epoch::MAX, 3 << 20) == wanted);
    });
}

/// Of an extent that a snapshot sees nothing is copied into runs of what came later.
#[test]
fn an_extent_of_an_older_moment_is_no_guest() {
    on_node(1, || {
        let mut store = store();
        put(&mut store, 1, 0, 1024 * KIB);
        store.set_snapshots(container(0), &[Epoch(1)], Origin::default()).unwrap();
        for n in 0..100 {
            put(&mut store, n + 2, 1000 + n * 3000, 2000);
        }
        let moments = [Epoch(1), Epoch::MAX];
        let before = moments.map(|at| read(&mut store, at, 1024 * KIB));
        forget(&mut store, 200);
        assert_eq!(rig::coalesce(&mut store).unwrap(), (0, 0));
        // Without the snapshot they may be joined: what lies between them is small.
        store.set_snapshots(container(0), &[], Origin::default()).unwrap();
        put(&mut store, 201, 300 * KIB, 100);
        forget(&mut store, 201);
        let before = [before[0].clone(), read(&mut store, Epoch::MAX, 1024 * KIB)];
        rig::coalesce(&mut store).unwrap();
        assert!(extents(&store) <= 4, "{} are left", extents(&store));
        assert!(read(&mut store, Epoch::MAX, 1024 * KIB) == before[1]);
    });
}

/// Small writes far apart do not make upkeep copy what lies between them: that would write a mebibyte for each.
#[test]
fn a_few_writes_over_a_large_extent_do_not_copy_it() {
    on_node(1, || {
        let mut store = store();
        put(&mut store, 1, 0, 1024 * KIB);
        for n in 0..16 {
            put(&mut store, n + 2, n * 64 * KIB, 4 * KIB);
        }
        forget(&mut store, 100);
        assert_eq!(rig::coalesce(&mut store).unwrap(), (0, 0));
    });
}

/// What lies under small extents is verified like them: damage below them is not copied into something whole.
#[test]
fn damage_of_a_guest_is_not_joined_into_something_that_looks_whole() {
    on_node(1, || {
        let mut store = store();
        put(&mut store, 1, 0, 256 * KIB);
        for n in 0..60 {
            put(&mut store, n + 2, 1000 + n * 4000, 2500);
        }
        forget(&mut store, 100);
        store.media().checkpoint_blocking().unwrap();
        rig::flip("/data", &rig::content(1, 256 << 10)[..100]);
        let before = extents(&store);
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
        assert!(refused > 0);
        assert_eq!(extents(&store), before);
    });
}

/// Between the look and the swap, the only other place where a guest was seen is written to and forgotten: after
/// the swap, nobody would see the guest, and nobody would look for it.
#[test]
fn nothing_is_swapped_when_a_guest_would_not_be_seen_any_more() {
    on_node(1, || {
        let mut store = store();
        put(&mut store, 1, 0, 512 * KIB);
        for n in 0..60 {
            put(&mut store, n + 2, n * 4000, 3000);
        }
        forget(&mut store, 100);
        let mut rewrite = loop {
            if let Rewriting::Found(rewrite) = store.plan_rewrite().unwrap() {
                break rewrite;
            }
        };
        assert_eq!(rewrite.counts(), (60, 1), "the large one stays for what follows");
        rewrite.copy_now(&store.media().clone()).unwrap();
        put(&mut store, 101, 230 * KIB, 282 * KIB);
        let before = read(&mut store, Epoch::MAX, 512 * KIB);
        forget(&mut store, 101);
        assert_eq!(store.rewrite(&rewrite), Ok(None));
        drop(rewrite);
        rig::coalesce(&mut store).unwrap();
        assert!(read(&mut store, Epoch::MAX, 512 * KIB) == before);
        assert_eq!(bulk(&store), (58 + 71) * 4 * KIB, "now it went with the others");
        assert_eq!(extents(&store), 2);
    });
}

/// Each step leaves fewer pieces to be seen, or as many and fewer bytes; so joining ends. Nothing that can be
/// read changes, and nothing stays that nobody can see. With limits so small that looks end everywhere.
#[test]
fn every_step_leaves_less_and_reads_the_same() {
    let (mut steps, mut guests) = (0, 0);
    for seed in 0..100 {
        let (more, with_guests) = on_node(seed, move || random_joins(seed));
        (steps, guests) = (steps + more, guests + with_guests);
    }
    assert!(steps > 500 && guests > 100, "{steps} steps, {guests} copied guests");
}

/// Indices that random writes go to.
const SPAN: u64 = 3000;

fn random_joins(seed: u64) -> (usize, usize) {
    let mut store = store();
    let mut dice = rig::Dice(seed);
    let limits = rig::tight_limits(&mut dice);
    store.set_join_limits(limits);
    let (mut epoch, mut snapshots) = (0, Vec::new());
    let (mut steps, mut guests) = (0, 0);
    for _ in 0..4 {
        for _ in 0..10 + dice.below(60) {
            epoch += 1;
            let count = *dice.pick(&[5, 20, 20, 100, 700, SPAN]);
            let count = 1 + dice.below(count);
            let extent = Extent::new(dice.below(SPAN - count + 1), count);
            match dice.below(12) {
                0 => hide(&mut store, epoch, extent),
                _ => put(&mut store, epoch, extent.start, extent.count),
            }
            if dice.chance(40) {
                snapshots.push(Epoch(epoch));
                store.set_snapshots(container(0), &snapshots, Origin::default()).unwrap();
            }
        }
        if dice.chance(3) && !snapshots.is_empty() {
            snapshots.swap_remove(dice.below(snapshots.len() as u64) as usize);
            store.set_snapshots(container(0), &snapshots, Origin::default()).unwrap();
        }
        forget(&mut store, epoch);
        let moments: Vec<Epoch> = snapshots.iter().copied().chain([Epoch(epoch)]).collect();
        let before: Vec<_> = moments.iter().map(|at| read(&mut store, *at, SPAN)).collect();
        let mut left = Left::of(&mut store, &moments);
        loop {
            let mut rewrite = match store.plan_rewrite().unwrap() {
                Rewriting::Nothing => break,
                Rewriting::Look => continue,
                Rewriting::Found(rewrite) => rewrite,
            };
            rewrite.copy_now(&store.media().clone()).unwrap();
            store.rewrite(&rewrite).unwrap().expect("nothing came between");
            let now = Left::of(&mut store, &moments);
            assert!((now.pieces, now.bytes) < (left.pieces, left.bytes), "step {steps} of {limits:?}");
            assert_eq!(now.unseen, 0, "step {steps} of {limits:?}");
            guests += usize::from(now.bytes + 16 > left.bytes && now.pieces + 1 < left.pieces);
            left = now;
            steps += 1;
        }
        store.check().expect_clean();
        let after: Vec<_> = moments.iter().map(|at| read(&mut store, *at, SPAN)).collect();
        assert!(before == after, "{limits:?}");
    }
    (steps, guests)
}

fn hide(store: &mut Store, epoch: u64, extent: Extent) {
    let extents = [extent];
    let scope = vos::PunchScope::Extents { dkey: &Key::from(0), akey: &Key::literal("a"), extents: &extents };
    let punch = vos::Punch { group: 0, oid: OID, scope, conditions: Conditions::None };
    store.punch(container(0), Epoch(epoch), Origin::default(), &punch).unwrap();
}

/// What is stored of an array, as one looks at it record by record.
struct Left {
    /// Pieces that can be seen, at all moments together.
    pieces: usize,
    bytes: u64,
    /// Extents of data that are on top nowhere.
    unseen: usize,
}

impl Left {
    fn of(store: &mut Store, moments: &[Epoch]) -> Left {
        let object = vos::ListedObject { group: 0, oid: OID };
        let branch = Branch { object: Some(object), dkey: Some(Key::from(0)), akey: Some(Key::literal("a")) };
        let stored = store.stored_records(container(0), &branch, None, vos::LIST_MAX).unwrap();
        assert!(stored.next.is_none());
        let mut records: Vec<(vos::Version, Extent, bool)> = Vec::new();
        for record in stored.entries {
            match record.what {
                Stored::Array { extent, .. } => records.push((record.version.unwrap(), extent, true)),
                Stored::Hole(extent) => records.push((record.version.unwrap(), extent, false)),
                other => panic!("{other:?}"),
            }
        }
        records.sort_by_key(|(version, ..)| *version);
        let mut left = Left { pieces: 0, bytes: 0, unseen: 0 };
        let mut seen = vec![false; records.len()];
        for at in moments {
            let mut on_top = vec![None; SPAN as usize];
            for (index, (version, extent, _)) in records.iter().enumerate() {
                if version.epoch <= *at {
                    on_top[extent.start as usize..extent.end() as usize].fill(Some(index));
                }
            }
            on_top.iter().flatten().for_each(|index| seen[*index] = true);
            let pieces = on_top.chunk_by(|a, b| a == b).filter(|piece| piece[0].is_some_and(|top| records[top].2));
            left.pieces += pieces.count();
        }
        for ((_, extent, is_data), seen) in records.iter().zip(seen).filter(|((_, _, is_data), _)| *is_data) {
            assert!(is_data);
            left.bytes += extent.count;
            left.unseen += usize::from(!seen);
        }
        left
    }
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

/// A thousand holes between two extents are gone past in steps, none of which goes past more than it has patience for.
#[test]
fn holes_are_gone_past_in_steps() {
    const HOLES: u64 = 1000;
    const PATIENCE: u32 = 16;
    on_node(1, || {
        let mut store = store();
        // What the holes hide is there for a snapshot, so they are there too.
        put(&mut store, 3, 200, 20 * HOLES);
        store.set_snapshots(container(0), &[Epoch(5)], Origin::default()).unwrap();
        put(&mut store, 6, 0, 100);
        put(&mut store, 7, 100, 100);
        put(&mut store, 8, 200 + 20 * HOLES, 100);
        put(&mut store, 9, 300 + 20 * HOLES, 100);
        for n in 0..HOLES {
            hide(&mut store, 10 + n, Extent::new(200 + 20 * n, 20));
        }
        let end = 400 + 20 * HOLES;
        let before = read(&mut store, Epoch::MAX, end);
        store.advance(container(0), Epoch(5000)).unwrap();
        while store.maintain(4).unwrap() {}
        store.set_join_limits(vos::JoinLimits { patience: PATIENCE, ..vos::JoinLimits::default() });
        let (mut looks, mut found) = (0, 0);
        loop {
            match store.plan_rewrite().unwrap() {
                vos::Rewriting::Nothing => break,
                vos::Rewriting::Look => looks += 1,
                vos::Rewriting::Found(mut rewrite) => {
                    found += 1;
                    rewrite.copy_now(&store.media().clone()).unwrap();
                    assert!(store.rewrite(&rewrite).unwrap().is_some());
                }
            }
        }
        assert!(found >= 2, "both pairs are joined: {found}");
        assert!(looks as u64 >= HOLES / u64::from(PATIENCE) - 2, "{looks} looks");
        assert!(read(&mut store, Epoch::MAX, end) == before);
        assert!(read(&mut store, Epoch(5), 200 + 20 * HOLES)[200..] == rig::content(3, 20 * HOLES as usize));
        store.check().expect_clean();
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

//! When the data region shrinks, values move: they read the same, whoever asks, and over any restart.

mod rig;

use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{AkeyRead, Error, Origin, ReadWhat, Scrub, ScrubbedValue, Scrubbing, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const DATA_BYTES: u64 = 16 << 20;
const SMALL: u64 = 8 << 20;
const QUOTA: u64 = 14 << 20;

fn store() -> Store {
    let mut store = rig::format(1 << 20, DATA_BYTES, 4 << 20);
    store.create_pool(pool(0), QUOTA, Origin::default()).unwrap();
    store.create_container(pool(0), container(0), Origin::default()).unwrap();
    store
}

fn put(store: &mut Store, epoch: u64, dkey: u64, write: Write) -> Result<(), Error> {
    let (origin, object) = (Origin::default(), (0, OID));
    let akeys = [(Key::literal("v"), write)];
    rig::update(store, container(0), Epoch(epoch), origin, object, &Key::from(dkey), Conditions::None, &akeys)?;
    Ok(())
}

/// Values of 20 KB and 70 KB under 60 dkeys, and an array extent under each, behind what is removed then.
fn filled() -> Store {
    let mut store = store();
    for dkey in 100..200 {
        put(&mut store, 1, dkey, Write::Single(rig::content(dkey, 70_000))).unwrap();
    }
    for dkey in 0..60 {
        let len = [20_000, 70_000][dkey as usize % 2];
        put(&mut store, 1 + dkey, dkey, Write::Single(rig::content(dkey, len))).unwrap();
        let extent = Extent::new(dkey, 10_000);
        put(&mut store, 100 + dkey, dkey, Write::Array(2, vec![(extent, rig::content(dkey + 500, 20_000))])).unwrap();
    }
    for dkey in (0..60).filter(|dkey| dkey % 3 == 0).chain(100..200) {
        put(&mut store, 300, dkey, Write::Single(vec![1])).unwrap();
    }
    store.advance(container(0), Epoch(300)).unwrap();
    while store.maintain(4).unwrap() {}
    store
}

fn read(store: &mut Store, dkey: u64) -> Vec<u8> {
    let akey = Key::literal("v");
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
    let plan = store.fetch(container(0), Epoch::MAX, 0, OID, &Key::from(dkey), &reads, Conditions::None).unwrap();
    rig::bytes_of(store, &plan, 0).remove(0).1.unwrap()
}

fn verify(store: &mut Store) {
    for dkey in 0..60 {
        let len = [20_000, 70_000][dkey as usize % 2];
        let expected = if dkey % 3 == 0 { vec![1] } else { rig::content(dkey, len) };
        assert!(read(store, dkey) == expected, "dkey {dkey}");
        let akey = Key::literal("v");
        let extents = [Extent::new(dkey, 10_000)];
        let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&extents) }];
        let plan = store.fetch(container(0), Epoch::MAX, 0, OID, &Key::from(dkey), &reads, Conditions::None).unwrap();
        let bytes = rig::bytes_of(store, &plan, 0).remove(0).1.unwrap();
        assert!(bytes == rig::content(dkey + 500, 20_000), "array under dkey {dkey}");
    }
    store.check().expect_clean();
}

/// The first value behind the fence.
fn first_fenced(store: &mut Store) -> Option<ScrubbedValue> {
    let mut walk = Scrub::default();
    loop {
        match store.find_fenced(&mut walk).unwrap() {
            Scrubbing::Look => {}
            Scrubbing::End => return None,
            Scrubbing::Value(found) => return Some(found),
            Scrubbing::Damaged(damage) => panic!("{damage:?}"),
        }
    }
}

#[test]
fn a_store_that_shrank_reads_the_same_and_counts_the_same() {
    on_node(1, || {
        let mut store = filled();
        verify(&mut store);
        let before = store.pool_space(pool(0)).unwrap();
        store.media().checkpoint_blocking().unwrap();
        rig::fence(store.media(), SMALL).unwrap();
        assert!(first_fenced(&mut store).is_some(), "there is something to move");
        store.media().lift_fence();
        assert!(rig::resize(&mut store, SMALL).unwrap());
        assert_eq!((store.media().data_bytes(), rig::disk("/data").len().unwrap()), (SMALL, SMALL));
        verify(&mut store);
        assert_eq!(store.pool_space(pool(0)).unwrap().bulk, before.bulk);
        store.media().flush_now().unwrap();
        drop(store);
        let (mut store, _, _) = rig::open(4 << 20).unwrap();
        verify(&mut store);
        assert!(rig::resize(&mut store, DATA_BYTES).unwrap());
        put(&mut store, 400, 0, Write::Single(rig::content(3, 70_000))).unwrap();
        store.media().flush_now().unwrap();
        drop(store);
        let (mut store, _, _) = rig::open(4 << 20).unwrap();
        assert!(read(&mut store, 0) == rig::content(3, 70_000));
        store.check().expect_clean();
    });
}

/// Moved half way, by the log alone: no checkpoint has seen it.
#[test]
fn what_was_moved_is_moved_after_a_restart_and_the_fence_is_gone() {
    on_node(1, || {
        let mut store = filled();
        store.media().checkpoint_blocking().unwrap();
        rig::fence(store.media(), SMALL).unwrap();
        assert!(rig::move_values(&mut store).unwrap());
        assert!(first_fenced(&mut store).is_none());
        store.media().flush_now().unwrap();
        drop(store);
        let (mut store, recovered, _) = rig::open(4 << 20).unwrap();
        assert!(recovered.records > 0);
        assert_eq!((store.media().fenced(), store.media().data_bytes()), (None, DATA_BYTES));
        verify(&mut store);
        rig::fence(store.media(), SMALL).unwrap();
        assert!(first_fenced(&mut store).is_none(), "nothing is moved twice");
    });
}

#[test]
fn a_value_that_cannot_be_read_is_not_moved_and_its_place_is_named() {
    on_node(1, || {
        let mut store = filled();
        store.media().checkpoint_blocking().unwrap();
        rig::fence(store.media(), SMALL).unwrap();
        rig::flip("/data", &rig::content(59, 70_000)[66_000..66_064]);
        let mut walk = Scrub::default();
        let mut moved = 0;
        let (error, place) = loop {
            let Scrubbing::Value(found) = store.find_fenced(&mut walk).unwrap() else { continue };
            let place = found.place();
            let mend = store.plan_move(found).unwrap();
            match mend.write_now(&store.media().clone()) {
                Ok(()) => moved += u32::from(store.mend(&mend).unwrap().is_some()),
                Err(error) => break (error, place),
            }
        };
        assert!(matches!(&error, Error::Corrupt { place: named, .. } if named.ends_with(&place)), "{error}");
        assert!(moved > 10 && place.contains("59"), "{moved} {place}");
        assert_eq!(store.media().usage().space.reserved, 0);
        store.check().expect_clean();
    });
}

#[test]
fn a_value_that_changed_while_it_was_copied_is_left_as_it_is() {
    on_node(1, || {
        let mut store = filled();
        store.media().checkpoint_blocking().unwrap();
        rig::fence(store.media(), SMALL).unwrap();
        let found = first_fenced(&mut store).unwrap();
        let mend = store.plan_move(found).unwrap();
        mend.write_now(&store.media().clone()).unwrap();
        store.destroy_container(container(0), Origin::default()).unwrap();
        assert_eq!(store.mend(&mend), Ok(None));
        drop(mend);
        store.check().expect_clean();
    });
}

/// Moving takes nothing from the pool, and nobody is refused for it.
#[test]
fn values_of_a_full_pool_move() {
    on_node(1, || {
        let mut store = filled();
        let used = store.pool_space(pool(0)).unwrap().used;
        store.set_quota(pool(0), used, Origin::default()).unwrap();
        assert!(matches!(put(&mut store, 500, 3, Write::Single(rig::content(1, 9000))), Err(Error::NoSpace { .. })));
        assert!(rig::resize(&mut store, SMALL).unwrap());
        verify(&mut store);
    });
}

/// The blocks of a transaction stay where they are until it is decided.
#[test]
fn a_transaction_that_is_not_decided_holds_the_end_and_lets_it_go_after() {
    on_node(1, || {
        let mut store = filled();
        let akeys = vec![(Key::literal("v"), Write::Single(rig::content(9, 3 << 20)))];
        let object = (0, OID);
        let step = vos::model::Step::Update { object, dkey: Key::from(77), conditions: Conditions::None, akeys };
        rig::with_steps(&mut store, container(0), &[step], &[], &mut |store, ops| {
            rig::prepare(store, 1, container(0), 600, ops)
        })
        .unwrap();
        let bytes = 10 << 20;
        store.media().checkpoint_blocking().unwrap();
        rig::fence(store.media(), bytes).unwrap();
        let held = store.media().fenced().unwrap().held;
        assert!(held > 1 << 20, "{held}");
        assert!(!rig::resize(&mut store, bytes).unwrap(), "it is not decided");
        verify(&mut store);
        rig::commit(&mut store, 1).unwrap();
        assert!(rig::resize(&mut store, bytes).unwrap());
        assert!(read(&mut store, 77) == rig::content(9, 3 << 20));
        verify(&mut store);
    });
}

/// A fence comes down by a few runs at a time, and between any two steps somebody stores a value: who finds no room is
/// served from behind the fence, until there is none behind it.
#[test]
fn who_finds_no_room_while_a_fence_comes_down_is_served() {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
    let node = sim.node("target");
    sim.run(async move {
        rt::sim::current().arm("media.fence.slice", rt::fault::When::Chance(1.0));
        let body = async move {
            let mut written = Vec::new();
            for is_fenced in [false, true] {
                ["/log", "/data"].into_iter().for_each(|path| _ = rt::disk::fs::remove_file(path));
                let mut store = filled();
                store.set_quota(pool(0), 64 << 20, Origin::default()).unwrap();
                store.media().checkpoint_blocking().unwrap();
                if is_fenced {
                    store.media().fence(SMALL).unwrap();
                }
                let (mut count, mut was_fenced, mut lifted) = (0, 0, 0);
                loop {
                    match put(&mut store, 1000 + count, 1000 + count, Write::Single(rig::content(count, 90_000))) {
                        Ok(()) => count += 1,
                        Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                            store.media().checkpoint_blocking().unwrap();
                        }
                        Err(error) => {
                            let space = store.media().usage().space;
                            assert!(
                                matches!(error, Error::DeviceFull { .. }) && space.fenced == 0,
                                "{error} {space:?}"
                            );
                            break;
                        }
                    }
                    lifted += u32::from(was_fenced > 0 && store.media().fenced().is_none());
                    was_fenced = store.media().fenced().map_or(0, |_| store.media().usage().space.fenced);
                    if store.media().fenced().is_some() {
                        let moved = store.media().move_fence();
                        let is_full = |e: &media::Error| matches!(e, media::Error::Resize(_));
                        assert!(moved.as_ref().err().is_none_or(is_full), "{moved:?}");
                    }
                }
                assert_eq!(lifted, u32::from(is_fenced), "somebody needed what was fenced");
                verify(&mut store);
                for key in 0..count {
                    assert!(read(&mut store, 1000 + key) == rig::content(key, 90_000), "value {key}");
                }
                written.push(count);
            }
            assert!(written[0] > 50 && written[1] + 2 >= written[0], "{written:?}");
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
}

/// No room before the fence for a value that must move: the fence goes, and all is as it was.
#[test]
fn a_shrink_that_runs_out_of_room_gives_up_and_loses_nothing() {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
    let node = sim.node("target");
    sim.run(async move {
        let body = async move {
            for skip in [0, 3, 7] {
                let mut store = if skip == 0 { filled() } else { rig::open(4 << 20).unwrap().0 };
                rt::sim::current().arm("media.reserve", rt::fault::When::Count { skip, times: 1 });
                let before = store.media().data_bytes();
                assert!(!rig::resize(&mut store, SMALL).unwrap());
                assert_eq!((store.media().fenced(), store.media().data_bytes()), (None, before));
                verify(&mut store);
                store.media().flush_now().unwrap();
            }
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
}

//! A data region that grows and shrinks while its store is in service.

mod ledger;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use ledger::{Action, Dice, Ledger, Model, Op};
use media::{Backing, DATA_BYTES_MIN, Error, PageId, ResizeError};
use rt::sim::{NodeId, Sim, SimConfig};

const LOG_BYTES: u64 = 256 << 10;
const DATA_BYTES: u64 = 4 << 20;
const BUDGET: usize = 1 << 20;

fn on_a_machine<F: Future<Output = ()> + 'static>(life: impl FnOnce(Sim, NodeId, Rc<RefCell<Model>>) -> F + 'static) {
    let sim = Sim::new(SimConfig::seeded(21));
    let node = sim.node("target");
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(node, life(sim.clone(), node, Rc::default())).await.unwrap();
    });
}

fn bulk(key: u32, bytes: u32) -> Op {
    Op { key, action: Action::Bulk(bytes) }
}

fn file_bytes() -> u64 {
    ledger::disk("/data").len().unwrap()
}

/// Writes bulk until the store refuses; returns how many values it took.
async fn fill(ledger: &Ledger, model: &RefCell<Model>, keys: std::ops::Range<u32>) -> u32 {
    let mut written = 0;
    for key in keys {
        match ledger.submit_now(&bulk(key, 32 << 10), model) {
            Ok(_) => written += 1,
            Err(Error::Busy { .. } | Error::LogFull { .. }) => ledger.store.checkpoint_now().await.unwrap(),
            Err(Error::NoSpace { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    written
}

#[test]
fn a_region_that_grew_takes_more_and_opens_with_its_new_size() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        let before = fill(&ledger, &model, 0..900).await;
        assert!((60..140).contains(&before), "{before}");
        ledger.resize(8 << 20, &model).await.unwrap();
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (8 << 20, 8 << 20));
        let more = fill(&ledger, &model, 300..900).await;
        assert!((100..160).contains(&more), "{more}");
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
        let capacity = ledger.store.usage().space.capacity;
        ledger.store.flush_now().unwrap();
        drop(ledger);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        assert_eq!((ledger.store.data_bytes(), ledger.store.usage().space.capacity), (8 << 20, capacity));
        ledger.verify(&model.borrow(), count);
    });
}

/// The bitmap has one page for the first 255 MiB; what comes has others, which were kept room for.
#[test]
fn a_region_grows_over_several_bitmap_pages_and_back() {
    on_a_machine(|_, _, model| async move {
        let (small, large) = (100 << 20, 900 << 20);
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, small), BUDGET);
        ledger.submit_now(&bulk(1, 9000), &model).unwrap();
        for bytes in [large, small, large - 4096, large, small] {
            ledger.resize(bytes, &model).await.unwrap();
            ledger.submit_now(&bulk(2, 9000), &model).unwrap();
            let capacity = ledger.store.usage().space.capacity;
            assert!(capacity < bytes && capacity > bytes - (1 << 20), "{capacity} of {bytes}");
            let count = ledger.applied();
            ledger.verify(&model.borrow(), count);
            ledger.store.flush_now().unwrap();
            drop(Ledger::open(BUDGET).unwrap());
        }
    });
}

#[test]
fn a_region_grows_no_further_than_its_bitmap_reaches_and_the_refusal_says_how_far() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 64 << 20), BUDGET);
        let most = ledger.store.data_bytes_max();
        assert!(most >= 16 * (64 << 20), "{most}");
        let refused = ledger.resize(most + 4096, &model).await;
        let wanted = ResizeError::TooLarge { bytes: most + 4096, bytes_max: most };
        assert_eq!(refused, Err(Error::Resize(wanted)));
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (64 << 20, 64 << 20));
        ledger.store.grow(most, Backing::Thin).await.unwrap();
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (most, most));
        ledger.verify(&model.borrow(), 0);
        drop(ledger);
        drop(Ledger::open(BUDGET).unwrap());
    });
}

#[test]
fn a_region_on_a_device_grows_only_as_far_as_the_device() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        let refused = ledger.store.grow(5 << 20, Backing::Device).await;
        assert!(matches!(refused, Err(Error::Resize(ResizeError::Device { bytes: DATA_BYTES, .. }))), "{refused:?}");
        ledger::disk("/data").set_len(6 << 20).unwrap();
        ledger.store.grow(5 << 20, Backing::Device).await.unwrap();
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (5 << 20, 6 << 20));
        ledger.fence(3 << 20).await.unwrap();
        while !ledger.store.cut(Backing::Device).await.unwrap() {
            ledger.store.move_pages(PageId(0)).unwrap();
            ledger.store.checkpoint_now().await.unwrap();
        }
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (3 << 20, 6 << 20), "the device stays as it is");
        ledger.verify(&model.borrow(), 0);
    });
}

#[test]
fn a_file_system_without_room_refuses_growing_and_nothing_changes() {
    on_a_machine(|sim, node, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        sim.set_disk_bytes(node, 6 << 20);
        let refused = ledger.resize(64 << 20, &model).await;
        assert!(matches!(refused, Err(Error::Resize(ResizeError::Extend { .. }))), "{refused:?}");
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (DATA_BYTES, DATA_BYTES));
        ledger.submit_now(&bulk(1, 9000), &model).unwrap();
        ledger.verify(&model.borrow(), 1);
    });
}

/// Pages, map, root and bulk all lie behind the fence at first.
#[test]
fn a_region_shrinks_with_all_it_holds_while_writes_go_on() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 16 << 20), BUDGET);
        ledger.store.start();
        let mut dice = Dice(5);
        for _ in 0..1500 {
            let op = dice.op(400, 30 << 10);
            while let Err(error) = ledger.submit(&op, &model).await {
                assert!(matches!(error, Error::Busy { .. } | Error::LogFull { .. }), "{error}");
                ledger.store.relieved().await.unwrap();
            }
        }
        ledger.store.checkpoint_now().await.unwrap();
        let writer = {
            let (ledger, model) = (ledger.clone(), model.clone());
            rt::spawn_local(async move {
                for _ in 0..300 {
                    let op = dice.op(400, 30 << 10);
                    while let Err(error) = ledger.submit(&op, &model).await {
                        assert!(matches!(error, Error::Busy { .. } | Error::LogFull { .. }), "{error}");
                        ledger.store.relieved().await.unwrap();
                    }
                }
            })
        };
        ledger.resize(10 << 20, &model).await.unwrap();
        writer.await.unwrap();
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (10 << 20, 10 << 20));
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
        ledger.store.stop().await.unwrap();
        drop(ledger);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        assert_eq!(ledger.store.data_bytes(), 10 << 20);
        ledger.verify(&model.borrow(), count);
    });
}

#[test]
fn shrinking_a_region_that_is_too_full_is_refused_with_figures_and_changes_nothing() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 8 << 20), BUDGET);
        let mut last = Vec::new();
        for key in 0..150 {
            ledger.submit_now(&bulk(key, 32 << 10), &model).unwrap();
            if key % 40 == 0 {
                ledger.store.checkpoint_now().await.unwrap();
                last.push(ledger.store.usage().space.free);
            }
        }
        ledger.store.checkpoint_now().await.unwrap();
        let before = ledger.store.usage().space;
        let Err(Error::Resize(ResizeError::TooFull { held, room })) = ledger.store.fence(3 << 20) else { panic!() };
        assert!(room < held && held < 8 << 20, "{held} {room}");
        assert_eq!(before.allocated, held, "all that is held must have room");
        assert_eq!((ledger.store.fenced(), ledger.store.usage().space), (None, before));
        let Err(Error::Resize(ResizeError::TooSmall { bytes_min, .. })) = ledger.store.fence(4096) else { panic!() };
        assert!((DATA_BYTES_MIN..=2 * DATA_BYTES_MIN).contains(&bytes_min), "{bytes_min}");
        ledger.verify(&model.borrow(), 150);
    });
}

/// K8 while a fence stands: what is free behind it is neither free nor allocated.
#[test]
fn fenced_blocks_are_counted_and_come_back_when_the_fence_is_lifted() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 8 << 20), BUDGET);
        let before = ledger.store.usage().space;
        ledger.fence(4 << 20).await.unwrap();
        let space = ledger.store.usage().space;
        assert_eq!((space.fenced + space.free, space.capacity), (before.free, before.capacity));
        assert!(space.fenced > 3 << 20, "{space:?}");
        ledger.verify(&model.borrow(), 0);
        ledger.fence(6 << 20).await.unwrap();
        assert!(ledger.store.usage().space.fenced < 3 << 20, "another fence takes its place");
        ledger.verify(&model.borrow(), 0);
        assert!(ledger.lift_fence() && !ledger.lift_fence());
        assert_eq!(ledger.store.usage().space, before);
        ledger.verify(&model.borrow(), 0);
    });
}

/// A fence is there for whoever wants the region smaller; who stores something comes first.
#[test]
fn a_writer_that_finds_no_room_before_a_fence_lifts_it() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 8 << 20), BUDGET);
        ledger.fence(3 << 20).await.unwrap();
        let written = fill(&ledger, &model, 0..900).await;
        assert!(written > 180, "{written} values of 32 KiB in 8 MiB");
        assert_eq!(ledger.store.fenced(), None);
        assert!(!ledger.store.cut(Backing::File).await.unwrap());
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
    });
}

/// A fence comes down in steps of a few runs.
fn slowly() {
    rt::sim::current().arm("media.fence.slice", rt::fault::When::Chance(1.0));
}

/// Leaves free space in pieces of 12 KiB, and returns the next operation number's keys that are left.
async fn break_up(ledger: &Ledger, model: &RefCell<Model>) {
    for key in 0..300 {
        while let Err(error) = ledger.submit_now(&bulk(key, 12 << 10), model) {
            assert!(matches!(error, Error::Busy { .. } | Error::LogFull { .. }), "{error}");
            ledger.store.checkpoint_now().await.unwrap();
        }
    }
    for key in (0..300).filter(|key| key % 3 > 0) {
        ledger.submit_now(&Op { key, action: Action::Delete }, model).unwrap();
    }
    ledger.store.checkpoint_now().await.unwrap();
    ledger.store.checkpoint_now().await.unwrap();
}

/// Nobody is refused while a block is fenced, wherever the border is: what a store takes in all is what it takes
/// without a fence.
#[test]
fn a_store_takes_as_much_as_ever_when_a_fence_is_on_its_way() {
    on_a_machine(|_, _, model| async move {
        slowly();
        let mut taken = Vec::new();
        for steps in [0, 1, 7, 20, 1000] {
            ["/log", "/data"].into_iter().for_each(|path| _ = rt::disk::fs::remove_file(path));
            *model.borrow_mut() = Model::default();
            let ledger = Ledger::format(ledger::regions(LOG_BYTES, 8 << 20), BUDGET);
            break_up(&ledger, &model).await;
            if steps > 0 {
                ledger.store.fence(4 << 20).unwrap();
            }
            for _ in 1..steps {
                ledger.store.move_fence().unwrap();
            }
            let mut written = 0;
            for key in 300..900 {
                let was_fenced = ledger.store.fenced().is_some();
                match ledger.submit_now(&bulk(key, 32 << 10), &model) {
                    Ok(_) => written += 1,
                    Err(Error::Busy { .. } | Error::LogFull { .. }) => {
                        if !ledger.store.is_lifting() {
                            ledger.store.checkpoint_now().await.unwrap();
                        }
                        continue;
                    }
                    Err(Error::NoSpace { .. }) => {
                        assert_eq!((ledger.store.usage().space.fenced, ledger.store.fenced()), (0, None));
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
                // Whoever resizes goes on with what it does.
                if was_fenced && ledger.store.fenced().is_some() {
                    let moved = ledger.store.move_fence();
                    assert!(matches!(moved, Ok(_) | Err(Error::Resize(ResizeError::TooFull { .. }))), "{moved:?}");
                }
            }
            assert!(!ledger.store.is_lifting() && ledger.store.fenced().is_none());
            let count = ledger.applied();
            ledger.verify(&model.borrow(), count);
            taken.push(written);
        }
        assert!(taken[0] > 100, "{taken:?}");
        assert!(taken.iter().all(|written| written + 3 >= taken[0]), "{taken:?}");
    });
}

/// The same for what needs pages alone: small values.
#[test]
fn pages_find_room_behind_a_fence_that_comes_down() {
    on_a_machine(|_, _, model| async move {
        slowly();
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 6 << 20), BUDGET);
        break_up(&ledger, &model).await;
        ledger.store.fence(3 << 20).unwrap();
        (0..4).for_each(|_| _ = ledger.store.move_fence().unwrap());
        // All that a bulk value may take before the border, so that the fence stays.
        let room = ledger.store.free_for_bulk();
        let held: Vec<_> = (0..room / 4096 / 8).map_while(|_| ledger.store.reserve(8 * 4096).ok()).collect();
        assert!(held.len() > 20 && ledger.store.fenced().is_some(), "{} of {room}", held.len());
        let (mut key, mut behind) = (300, 0);
        while key < 900 {
            match ledger.submit_now(&Op { key, action: Action::Inline(7) }, &model) {
                Ok(_) => key += 4,
                Err(Error::Busy { .. } | Error::LogFull { .. }) => {
                    if !ledger.store.is_lifting() {
                        ledger.store.checkpoint_now().await.unwrap();
                    }
                }
                Err(error) => panic!("{error} at {key}, {:?}", ledger.store.usage().space),
            }
            behind += u32::from(ledger.store.fenced().is_none());
        }
        assert!(behind > 0, "{:?}", ledger.store.usage().space);
        drop(held);
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
    });
}

/// Several writers at once, and whoever resizes puts the fence up again and again: all are served, and none waits for
/// anybody but the others.
#[test]
fn writers_who_run_out_of_room_while_a_fence_comes_down_are_served() {
    on_a_machine(|_, _, model| async move {
        slowly();
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 10 << 20), BUDGET);
        break_up(&ledger, &model).await;
        ledger.store.start();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (ledger, model) = (ledger.clone(), model.clone());
                rt::spawn_local(async move {
                    for key in 0..70 {
                        let op = bulk(300 + writer * 70 + key, 32 << 10);
                        while let Err(error) = ledger.submit(&op, &model).await {
                            assert!(matches!(error, Error::Busy { .. } | Error::LogFull { .. }), "{error}");
                            ledger.store.relieved().await.unwrap();
                        }
                        rt::sleep(std::time::Duration::from_millis(1)).await;
                    }
                })
            })
            .collect();
        let (mut put, mut yielded) = (0, 0);
        while writers.iter().any(|writer| !writer.is_finished()) {
            let bytes = [4 << 20, 7 << 20, 8 << 20, 9 << 20][put % 4];
            if ledger.store.fenced().is_none() {
                let _ = ledger.store.fence(bytes);
                put += 1;
            }
            for _ in 0..5 {
                let _ = ledger.store.move_fence();
                rt::sleep(std::time::Duration::from_millis(1)).await;
            }
            yielded += u32::from(ledger.store.fenced().is_none());
        }
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(put > 4 && yielded > 0, "{put} {yielded}");
        ledger.lift_fence();
        ledger.store.checkpoint_now().await.unwrap();
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
    });
}

/// The question that is asked of every target first: it neither puts a fence up nor takes one down.
#[test]
fn asking_whether_a_size_may_be_changes_nothing() {
    on_a_machine(|_, _, model| async move {
        slowly();
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 8 << 20), BUDGET);
        break_up(&ledger, &model).await;
        let store = &ledger.store;
        let sizes: Vec<u64> = (8..36).map(|part| part << 18).collect();
        let mut fits = Vec::new();
        for &bytes in &sizes {
            fits.push(store.may_resize(bytes).await);
        }
        assert!(fits[0].is_err() && fits[20].is_ok(), "{fits:?}");
        assert!(fits.windows(2).all(|pair| pair[0].is_err() || pair[1].is_ok()), "more is never worse: {fits:?}");
        store.fence(5 << 20).unwrap();
        for steps in [0, 9, 1000] {
            (0..steps).for_each(|_| _ = store.move_fence().unwrap());
            let before = (store.usage().space, store.fenced());
            for (&bytes, fits) in sizes.iter().zip(&fits) {
                assert_eq!(&store.may_resize(bytes).await, fits, "{bytes} after {steps} steps");
                assert_eq!((store.usage().space, store.fenced()), before);
            }
        }
        for (&bytes, fits) in sizes.iter().zip(&fits) {
            let stands = ledger.fence(bytes).await;
            let is_near =
                matches!(&stands, Err(Error::Resize(ResizeError::TooFull { held, room })) if held - room <= 128 << 10);
            let stands = stands.is_ok() || bytes >= 8 << 20;
            assert!(stands == fits.is_ok() || is_near, "{bytes}: {stands} {fits:?}");
        }
    });
}

/// Page ids are not given back, so the page map of a region that was large is larger than a small one would have.
#[test]
fn a_region_that_was_large_and_full_of_pages_opens_when_it_is_small() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 128 << 20), 64 << 20);
        let ids: Vec<PageId> = (0..7000).map(|_| ledger.store.pages().allocate().unwrap()).collect();
        ledger.store.checkpoint_now().await.unwrap();
        ids[..6999].iter().for_each(|id| ledger.store.pages().free(*id).unwrap());
        ledger.store.checkpoint_now().await.unwrap();
        ledger.resize(4 << 20, &model).await.unwrap();
        assert_eq!(ledger.store.data_bytes(), 4 << 20);
        drop(ledger);
        let (ledger, _) = Ledger::open(64 << 20).unwrap();
        ledger.verify(&model.borrow(), 0);
    });
}

/// A crash between the cut and the end of the file, or growing that failed late.
#[test]
fn a_file_that_is_longer_than_its_region_opens_and_is_trimmed() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        ledger.submit_now(&bulk(1, 9000), &model).unwrap();
        ledger.store.flush_now().unwrap();
        drop(ledger);
        ledger::disk("/data").set_len(9 << 20).unwrap();
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        ledger.verify(&model.borrow(), 1);
        ledger.store.trim(Backing::Device);
        assert_eq!(file_bytes(), 9 << 20);
        ledger.store.trim(Backing::File);
        assert_eq!((ledger.store.data_bytes(), file_bytes()), (DATA_BYTES, DATA_BYTES));
    });
}

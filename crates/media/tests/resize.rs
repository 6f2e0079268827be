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
        ledger.store.fence(3 << 20).unwrap();
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
        assert!(held > room && held < 8 << 20, "{held} {room}");
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
        ledger.store.fence(4 << 20).unwrap();
        let space = ledger.store.usage().space;
        assert_eq!((space.fenced + space.free, space.capacity), (before.free, before.capacity));
        assert!(space.fenced > 3 << 20, "{space:?}");
        ledger.verify(&model.borrow(), 0);
        ledger.store.fence(6 << 20).unwrap();
        assert!(ledger.store.usage().space.fenced < 3 << 20, "another fence takes its place");
        ledger.verify(&model.borrow(), 0);
        assert!(ledger.store.lift_fence() && !ledger.store.lift_fence());
        assert_eq!(ledger.store.usage().space, before);
        ledger.verify(&model.borrow(), 0);
    });
}

/// A fence is there for whoever wants the region smaller; who stores something comes first.
#[test]
fn a_writer_that_finds_no_room_before_a_fence_lifts_it() {
    on_a_machine(|_, _, model| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 8 << 20), BUDGET);
        ledger.store.fence(3 << 20).unwrap();
        let written = fill(&ledger, &model, 0..900).await;
        assert!(written > 180, "{written} values of 32 KiB in 8 MiB");
        assert_eq!(ledger.store.fenced(), None);
        assert!(!ledger.store.cut(Backing::File).await.unwrap());
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
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

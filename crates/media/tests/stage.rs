//! Staged values: written by a checkpoint and not before, read from memory until then, bounded, and never in
//! the way of anything else.

mod ledger;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use ledger::{Action, Dice, Ledger, Model, Op};
use media::{BLOCK_BYTES, Device, Error, Extent, PAGE_BYTES, Reserve};
use rt::fault::When;
use rt::sim::{DiskFault, Sim, SimConfig};

const LOG_BYTES: u64 = 1 << 20;
const METADATA_BYTES: u64 = media::DATA_BYTES_MIN;
const DATA_BYTES: u64 = 4 << 20;
const BUDGET: usize = 1 << 20;

fn on_a_machine<F: Future<Output = ()> + 'static>(life: impl FnOnce() -> F + 'static) {
    let sim = Sim::new(SimConfig::seeded(41));
    let node = sim.node("target");
    sim.run(async move { rt::sim::current().spawn_on(node, life()).await.unwrap() });
}

fn staged(key: u32) -> Op {
    Op { key, action: Action::Staged(3000) }
}

fn delete(key: u32) -> Op {
    Op { key, action: Action::Delete }
}

/// The blocks of the data device as they are.
fn on_the_device(path: &str, extent: Extent, first: u32) -> Vec<u8> {
    let mut block = rt::disk::IoBuf::zeroed(BLOCK_BYTES);
    ledger::disk(path).read_now(u64::from(extent.block - first) * BLOCK_BYTES as u64, &mut block).unwrap();
    block.to_vec()
}

#[test]
fn a_staged_value_reaches_the_device_with_the_checkpoint_and_one_that_went_before_never() {
    on_a_machine(|| async {
        let model = RefCell::default();
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        for key in 0..10 {
            ledger.submit_now(&staged(key), &model).unwrap();
        }
        let contents = ledger.contents().unwrap();
        let went = contents[&3].2[0];
        let former = ledger.store.bulk_read_now(went, 0, 3000).unwrap();
        ledger.submit_now(&delete(3), &model).unwrap();
        ledger.store.flush_now().unwrap();
        let stage = ledger.store.usage().stage;
        assert_eq!((stage.blocks, stage.unwritten), (9, 9), "nobody read the one that went");
        assert_eq!(ledger.store.usage().space.quarantined, 0);
        assert!(contents.values().all(|(_, _, extents)| on_the_device("/data", extents[0], 0) == [0; BLOCK_BYTES]));
        ledger.verify(&model.borrow(), 11);
        ledger.store.checkpoint_blocking().unwrap();
        assert!(on_the_device("/data", went, 0)[..3000] != former[..] && ledger.store.staged(went).is_none());
        for (_, _, extents) in ledger.contents().unwrap().into_values() {
            let staged = ledger.store.staged(extents[0]).map(|block| block.to_vec());
            assert_eq!(staged, Some(on_the_device("/data", extents[0], 0)));
        }
        assert_eq!(ledger.store.usage().stage.unwritten, 0);
        assert_eq!(ledger.store.usage().space.reserved, 0, "a store at rest holds no blocks back");
        ledger.verify(&model.borrow(), 11);
        drop(ledger);
        let (ledger, recovered) = Ledger::open(BUDGET).unwrap();
        assert_eq!((recovered.records, ledger.store.usage().stage.blocks), (0, 0));
        ledger.verify(&model.borrow(), 11);
    });
}

/// Whoever was told of a block reads it, though it was given up and will never be on the device.
#[test]
fn a_reader_of_a_value_that_went_before_its_checkpoint_still_gets_it() {
    on_a_machine(|| async {
        let model = RefCell::default();
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        ledger.store.start();
        ledger.submit(&staged(1), &model).await.unwrap();
        let extent = ledger.contents().unwrap()[&1].2[0];
        let pin = ledger.store.pin();
        let before = ledger.store.bulk_read(extent, 0, 3000, pin.clone()).await.unwrap();
        let lsn = ledger.submit(&delete(1), &model).await.unwrap();
        ledger.store.durable(lsn).await.unwrap();
        ledger.store.checkpoint_now().await.unwrap();
        for key in 10..200 {
            ledger.submit(&staged(key), &model).await.unwrap();
        }
        ledger.store.checkpoint_now().await.unwrap();
        assert!(ledger.store.bulk_read(extent, 100, 2900, pin.clone()).await.unwrap()[..] == before[100..]);
        assert!(ledger.contents().unwrap().values().all(|(_, _, extents)| extents[0] != extent));
        assert_eq!(on_the_device("/data", extent, 0), [0; BLOCK_BYTES]);
        drop(pin);
        ledger.store.relieved().await.unwrap();
        assert!(ledger.store.staged(extent).is_none());
        ledger.store.check(ledger.contents().unwrap().into_values().flat_map(|(_, _, extents)| extents)).unwrap();
    });
}

/// Memory for pages and for the stage together stay within the budget; what was evicted comes from the device.
#[test]
fn a_tiny_budget_evicts_staged_values_and_loses_none() {
    for budget in [0, 1 << 20, 2 << 20] {
        on_a_machine(move || async move {
            let model = RefCell::default();
            let ledger = Ledger::format(ledger::regions(8 << 20, 16 << 20), budget);
            let mut dice = Dice(3);
            for round in 0..3 {
                for key in 0..ledger::KEYS_MAX {
                    let op = Op { key, action: Action::Staged(2100 + dice.below(1000) as u32) };
                    while let Err(error) = ledger.submit_now(&op, &model) {
                        assert!(matches!(error, Error::Busy { .. } | Error::LogFull { .. }), "{error}");
                        ledger.store.checkpoint_blocking().unwrap();
                    }
                    let usage = ledger.store.usage();
                    let bytes = usage.pages.frames * PAGE_BYTES as u64 + usage.stage.memory_bytes;
                    let most = usage.pages.budget * PAGE_BYTES as u64;
                    assert!(bytes <= most, "round {round}: {usage:?}");
                    if key % 100 == 0 {
                        ledger.store.checkpoint_blocking().unwrap();
                    }
                }
            }
            let stage = ledger.store.usage().stage;
            assert!(stage.blocks > 0 && stage.blocks < ledger::KEYS_MAX as u64, "{stage:?}");
            ledger.verify(&model.borrow(), ledger::KEYS_MAX as u64 * 3);
        });
    }
}

/// Replay needs as much of the stage as service did, whatever the budget is now; the next checkpoint gives it
/// back.
#[test]
fn a_smaller_budget_still_recovers_what_was_staged() {
    on_a_machine(|| async {
        let model = RefCell::default();
        let ledger = Ledger::format(ledger::regions(8 << 20, 16 << 20), 16 << 20);
        for key in 0..800 {
            ledger.submit_now(&staged(key), &model).unwrap();
        }
        ledger.store.flush_now().unwrap();
        drop(ledger);
        for _ in 0..2 {
            let (ledger, _) = Ledger::open(0).unwrap();
            assert_eq!(ledger.store.usage().stage.unwritten, 800);
            ledger.verify(&model.borrow(), 800);
        }
        let (ledger, _) = Ledger::open(0).unwrap();
        assert!(ledger.store.pressure());
        assert!(matches!(ledger.store.append(7, &[b"x"], Reserve::Normal), Err(Error::Busy { .. })));
        ledger.store.checkpoint_blocking().unwrap();
        let usage = ledger.store.usage();
        assert!(!ledger.store.pressure());
        assert!(usage.stage.memory_bytes <= usage.pages.budget * PAGE_BYTES as u64 / 2, "{usage:?}");
        ledger.verify(&model.borrow(), 800);
        ledger.submit_now(&staged(801), &model).unwrap();
        ledger.verify(&model.borrow(), 801);
    });
}

/// Without a free block nothing is staged, and nothing is refused for it.
#[test]
fn a_full_data_device_stages_nothing() {
    on_a_machine(|| async {
        let ledger = Ledger::format(ledger::apart(LOG_BYTES, METADATA_BYTES, 16 * BLOCK_BYTES as u64), BUDGET);
        let store = &ledger.store;
        let all = store.reserve(15 * BLOCK_BYTES as u64).unwrap();
        let mut staging = store.staging();
        assert_eq!(staging.add(&[1; 3000]), None);
        drop(all);
        let blocks: Vec<u32> = std::iter::from_fn(|| staging.add(&[1; 3000])).collect();
        assert_eq!(blocks.len(), 15, "the last block can be staged");
        assert!(store.reserve(BLOCK_BYTES as u64).is_err());
        drop(staging);
        assert_eq!(store.usage().space.reserved, 0);
        // What the stage keeps for values to come is given to whoever needs it.
        let mut staging = store.staging();
        staging.add(&[1; 3000]).unwrap();
        assert!(store.reserve(14 * BLOCK_BYTES as u64).is_ok());
        drop(staging);
        store.check([]).unwrap();
    });
}

/// The device with bulk data hangs or fails in each write and sync of a checkpoint that writes staged values:
/// that device is named, and everything acknowledged is there after a restart.
#[test]
fn a_data_device_that_fails_under_a_checkpoint_loses_no_staged_value() {
    let faults = [DiskFault::Stall(std::time::Duration::from_secs(86_400)), DiskFault::WriteError];
    for (fault, skip) in faults.into_iter().flat_map(|fault| (0..3).map(move |skip| (fault, skip))) {
        let sim = Sim::new(SimConfig::seeded(17));
        let node = sim.node("target");
        sim.run(async move {
            let sim = rt::sim::current();
            let model = Rc::new(RefCell::new(Model::default()));
            let noted = model.clone();
            let machine = sim.clone();
            let first = async move {
                let ledger = Ledger::format(ledger::apart(LOG_BYTES, METADATA_BYTES, DATA_BYTES), BUDGET);
                ledger.store.start();
                for key in (0..60).chain([70, 80]) {
                    let lsn = ledger.submit(&staged(key), &noted).await.unwrap();
                    ledger.store.durable(lsn).await.unwrap();
                    // So that there is more than one run of blocks.
                    if key == 30 {
                        ledger.submit(&delete(29), &noted).await.unwrap();
                    }
                }
                machine.disk_fault(node, "/data", fault, When::Count { skip, times: u64::MAX });
                match ledger.store.checkpoint_now().await {
                    Err(Error::Failed(failed)) => {
                        assert_eq!(failed.device, Device::Data);
                        assert!(failed.cause.contains("/data"), "{}", failed.cause);
                        assert!(ledger.store.staging().add(&[1; 3000]).is_none());
                    }
                    Err(error) => panic!("{error}"),
                    Ok(()) => assert!(skip > 1, "a run on each side of the gap, and a sync"),
                }
            };
            sim.spawn_on(node, first).await.unwrap();
            sim.crash(node);
            sim.clear_disk_faults(node);
            let second = async move {
                let (ledger, _) = Ledger::open(BUDGET).unwrap();
                ledger.verify(&model.borrow(), 63);
                ledger.store.checkpoint_blocking().unwrap();
                ledger.verify(&model.borrow(), 63);
            };
            sim.restart(node, second).await.unwrap();
        });
    }
}

/// A record that says nonsense is corrupt, and nothing worse.
#[test]
fn blocks_that_cannot_be_staged_are_refused() {
    on_a_machine(|| async {
        let ledger = Ledger::format(ledger::apart(LOG_BYTES, METADATA_BYTES, DATA_BYTES), BUDGET);
        drop(ledger);
        let (store, _recovery) = media::Store::open(ledger::whole(), BUDGET).unwrap();
        for block in [0, 10, u32::MAX] {
            assert!(matches!(store.restage(block, &[1; 3000]), Err(Error::Corrupt(_))), "{block}");
        }
        assert!(matches!(store.restage(600, &[1; 5000]), Err(Error::TooLarge { .. })));
        store.restage(600, &[1; 3000]).unwrap();
        store.restage(600, &[2; 3000]).unwrap();
        assert_eq!(store.bulk_read_now(Extent { block: 600, blocks: 1 }, 0, 3).unwrap()[..], [2; 3]);
    });
}

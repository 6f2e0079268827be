//! A store in service: bounds, back-pressure, eviction, quarantine, timed checkpoints.

mod ledger;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use ledger::{Action, Dice, Ledger, Model, Op};
use media::{CHECKPOINT_INTERVAL, Error, FRAMES_MIN, PAGE_BYTES, Reserve};
use rt::disk::IoBuf;
use rt::sim::{Sim, SimConfig};

fn on_a_machine<F: Future<Output = ()> + 'static>(life: impl FnOnce() -> F + 'static) {
    let sim = Sim::new(SimConfig::seeded(12));
    let node = sim.node("target");
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(node, async move { life().await }).await.unwrap();
    });
}

const LOG_BYTES: u64 = 1 << 20;
const DATA_BYTES: u64 = 16 << 20;

#[test]
fn pages_beyond_the_memory_budget_read_back_the_same() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), FRAMES_MIN as usize * PAGE_BYTES);
        ledger.store.start();
        let mut dice = Dice(3);
        for _ in 0..4000 {
            let op = dice.op(ledger::KEYS_MAX, 20 << 10);
            while let Err(error) = ledger.submit(&op, &model).await {
                assert!(matches!(error, Error::Busy { .. } | Error::LogFull { .. }), "{error}");
                ledger.store.relieved().await.unwrap();
            }
        }
        ledger.store.checkpoint_now().await.unwrap();
        ledger.verify(&model.borrow(), 4000);
        let usage = ledger.store.usage();
        assert!(usage.pages.evictions > 200 && usage.pages.loads > 200, "{usage:?}");
        assert!(usage.pages.frames <= usage.pages.budget, "the pool shrinks back: {usage:?}");
        ledger.store.stop().await.unwrap();
        drop(ledger);
        let (ledger, recovered) = Ledger::open(FRAMES_MIN as usize * PAGE_BYTES).unwrap();
        assert_eq!(recovered.records, 0, "a clean stop leaves nothing to replay");
        ledger.verify(&model.borrow(), 4000);
    });
}

/// A record that somebody waits for is on the device at once, with all before it; one that nobody waits for is in a while.
#[test]
fn nobody_waits_for_a_flush_in_vain_and_no_record_waits_for_ever() {
    on_a_machine(|| async {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), 1 << 20);
        ledger.store.start();
        let append = || ledger.store.append(1, &[b"record"], Reserve::Normal).unwrap();
        let began = rt::now();
        let (first, second) = (append(), append());
        rt::sleep(Duration::from_millis(20)).await;
        assert!(ledger.store.durable_lsn() <= first, "nobody waits for it");
        ledger.store.durable(second).await.unwrap();
        assert!(rt::now() - began < Duration::from_millis(60));
        let last = append();
        rt::sleep(Duration::from_millis(300)).await;
        assert!(ledger.store.durable_lsn() > last);
    });
}

#[test]
fn recovering_twice_is_recovering_once() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), 1 << 20);
        let mut dice = Dice(4);
        for step in 0..500 {
            ledger.submit_now(&dice.op(300, 20 << 10), &model).unwrap();
            if step == 200 {
                ledger.store.checkpoint_blocking().unwrap();
            }
        }
        ledger.store.flush_now().unwrap();
        drop(ledger);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (ledger, recovered) = Ledger::open(1 << 20).unwrap();
            ledger.verify(&model.borrow(), 500);
            seen.push((recovered, ledger.store.usage().space, ledger.contents().unwrap()));
        }
        assert!(seen.iter().all(|life| *life == seen[0]));
        assert_eq!(seen[0].0.records, 299);
    });
}

#[test]
fn an_idle_store_is_checkpointed_once_and_then_sleeps() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), 1 << 20);
        ledger.store.start();
        let before = ledger.store.usage().checkpoints;
        let op = Op { key: 1, action: Action::Inline(1) };
        let lsn = ledger.submit(&op, &model).await.unwrap();
        ledger.store.durable(lsn).await.unwrap();
        assert_eq!(ledger.store.usage().checkpoints, before);
        rt::sleep(CHECKPOINT_INTERVAL * 20).await;
        let usage = ledger.store.usage();
        assert_eq!((usage.checkpoints, usage.log_used, usage.pages.dirty), (before + 1, 0, 0));
    });
}

#[test]
fn a_full_device_refuses_puts_allows_deletes_and_recovers_its_room() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 4 << 20), 1 << 20);
        ledger.store.start();
        let put = |key| Op { key, action: Action::Bulk(40_000) };
        let submit = async |op: Op| loop {
            match ledger.submit(&op, &model).await {
                Ok(lsn) => return ledger.store.durable(lsn).await.map_err(Error::from),
                Err(Error::Busy { .. } | Error::LogFull { .. }) => ledger.store.relieved().await.unwrap(),
                Err(error) => return Err(error),
            }
        };
        let mut stored = 0;
        let error = loop {
            match submit(put(stored)).await {
                Ok(()) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert!(stored > 70, "{stored} values of 40 kB in 4 MiB");
        let count = ledger.applied();
        ledger.store.checkpoint_now().await.unwrap();
        ledger.verify(&model.borrow(), count);
        for round in 0..5 {
            for key in 0..stored / 2 {
                submit(Op { key, action: Action::Delete }).await.unwrap();
            }
            // A little less than before: at the very brim, room depends on how free space is broken up.
            for key in 0..stored / 2 - 3 {
                submit(put(key)).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
        }
        ledger.store.checkpoint_now().await.unwrap();
        let count = ledger.applied();
        ledger.verify(&model.borrow(), count);
    });
}

#[test]
fn a_pinned_extent_keeps_its_bytes_and_returns_after() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, 4 << 20), 1 << 20);
        ledger.store.start();
        let lsn = ledger.submit(&Op { key: 1, action: Action::Bulk(1 << 20) }, &model).await.unwrap();
        ledger.store.durable(lsn).await.unwrap();
        let extents = ledger.contents().unwrap()[&1].2.clone();
        let pin = ledger.store.pin();
        let before = ledger.store.bulk_read(extents[0], 5, 1000, pin.clone()).await.unwrap();
        let lsn = ledger.submit(&Op { key: 1, action: Action::Delete }, &model).await.unwrap();
        ledger.store.durable(lsn).await.unwrap();
        ledger.store.checkpoint_now().await.unwrap();
        assert_eq!(ledger.store.usage().space.quarantined, 1 << 20);
        // Everything that can be had is taken and overwritten.
        let mut taken = Vec::new();
        while let Ok(reservation) = ledger.store.reserve(64 << 10) {
            ledger.store.bulk_write(&reservation, 0, IoBuf::from_slice(&[0xee; 64 << 10]).into(), None).await.unwrap();
            taken.push(reservation);
        }
        let after = ledger.store.bulk_read(extents[0], 5, 1000, pin.clone()).await.unwrap();
        assert!(before == after);
        assert!(matches!(ledger.store.reserve(512 << 10), Err(Error::Busy { .. })), "room is on its way");
        let waiting = ledger.store.clone();
        let waiter = rt::spawn_local(async move {
            loop {
                match waiting.reserve(512 << 10) {
                    Ok(reservation) => return reservation.bytes(),
                    Err(Error::Busy { .. }) => waiting.relieved().await.unwrap(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        rt::sleep(CHECKPOINT_INTERVAL * 2).await;
        assert!(!waiter.is_finished());
        drop(pin);
        assert_eq!(waiter.await.unwrap(), 512 << 10);
        drop(taken);
        assert_eq!(ledger.store.usage().space.reserved, 0);
        ledger.store.check([]).unwrap();
    });
}

#[test]
fn a_write_outlives_its_dropped_future_and_keeps_its_blocks_until_then() {
    on_a_machine(|| async {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), 1 << 20);
        ledger.store.start();
        let reservation = ledger.store.reserve(1 << 20).unwrap();
        drop(ledger.store.bulk_write(&reservation, 0, IoBuf::zeroed(1 << 20).into(), None));
        drop(reservation);
        assert_eq!(ledger.store.usage().space.reserved, 1 << 20, "the write is under way");
        rt::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(ledger.store.usage().space.reserved, 0);
        ledger.store.check([]).unwrap();
    });
}

#[test]
fn a_log_without_a_checkpoint_fills_and_refuses_before_it_overwrites() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(media::LOG_BYTES_MIN, DATA_BYTES), 1 << 20);
        let mut dice = Dice(9);
        let error = loop {
            let op = Op { key: dice.below(50) as u32, action: Action::Inline(7) };
            if let Err(error) = ledger.submit_now(&op, &model) {
                break error;
            }
            if dice.below(20) == 0 {
                ledger.store.flush_now().unwrap();
            }
        };
        assert!(matches!(error, Error::LogFull { .. }), "{error}");
        assert!(ledger.store.pressure());
        let mut deletes = 0;
        while ledger.submit_now(&Op { key: deletes % 50, action: Action::Delete }, &model).is_ok() {
            deletes += 1;
        }
        assert!(deletes > 50, "room was kept for {deletes} deletes");
        ledger.store.flush_now().unwrap();
        let count = ledger.applied();
        drop(ledger);
        let (ledger, _) = Ledger::open(1 << 20).unwrap();
        ledger.verify(&model.borrow(), count);
        assert!(ledger.store.append(7, &[b"x"], Reserve::Critical).is_err(), "it is as full as it was");
        ledger.store.checkpoint_blocking().unwrap();
        assert!(!ledger.store.pressure());
        ledger.submit_now(&Op { key: 1, action: Action::Inline(1) }, &model).unwrap();
    });
}

/// A pool that had 4 MiB is opened with the least: replay needs as many frames as service did.
#[test]
fn a_smaller_budget_still_recovers() {
    on_a_machine(|| async {
        let model = Rc::new(RefCell::new(Model::default()));
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), 4 << 20);
        for key in 0..ledger::KEYS_MAX {
            ledger.submit_now(&Op { key, action: Action::Inline(1) }, &model).unwrap();
        }
        ledger.store.flush_now().unwrap();
        drop(ledger);
        let (ledger, _) = Ledger::open(0).unwrap();
        assert!(ledger.store.usage().pages.frames > FRAMES_MIN as u64 * 2);
        ledger.store.checkpoint_blocking().unwrap();
        assert!(ledger.store.usage().pages.frames <= FRAMES_MIN as u64);
        ledger.verify(&model.borrow(), ledger::KEYS_MAX as u64);
    });
}

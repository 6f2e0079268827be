//! A device that hangs has failed: whoever waits is told in bounded time which device and for how long, the
//! store takes no more work, and nothing acknowledged is lost.

mod ledger;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use ledger::{Action, Ledger, Model, Op};
use media::{Device, Error, IO_TIMEOUT, Reserve};
use rt::fault::When;
use rt::sim::{DiskFault, NodeId, Sim, SimConfig};

const LOG_BYTES: u64 = 256 << 10;
const DATA_BYTES: u64 = 4 << 20;
const BUDGET: usize = 512 << 10;
const FOR_EVER: DiskFault = DiskFault::Stall(Duration::from_secs(86_400));

/// Runs `first`, cuts the power, and runs `second` on what is left.
fn across_a_power_cut<F, G>(first: impl FnOnce(Sim, NodeId) -> F + 'static, second: impl FnOnce() -> G + 'static)
where
    F: Future<Output = ()> + 'static,
    G: Future<Output = ()> + 'static,
{
    let sim = Sim::new(SimConfig::seeded(17));
    let node = sim.node("target");
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(node, first(sim.clone(), node)).await.unwrap();
        sim.crash(node);
        sim.clear_disk_faults(node);
        sim.restart(node, second()).await.unwrap();
    });
}

fn inline(key: u32, value: u64) -> Op {
    Op { key, action: Action::Inline(value) }
}

/// The error of the first of `ops` that is not acknowledged, and how long it took; `acknowledged` counts.
async fn first_failure(
    ledger: &Ledger,
    model: &RefCell<Model>,
    ops: impl Iterator<Item = Op>,
    acknowledged: &RefCell<u64>,
) -> (Error, Duration) {
    for op in ops {
        let began = rt::now();
        let outcome = match ledger.submit(&op, model).await {
            Ok(lsn) => ledger.store.durable(lsn).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => *acknowledged.borrow_mut() = ledger.applied(),
            Err(error) => return (error, began.elapsed()),
        }
    }
    panic!("the device that hangs was not met");
}

fn names(error: &Error, device: Device, path: &str) {
    assert!(matches!(error, Error::Failed(failed) if failed.device == device), "{error}");
    let text = error.to_string();
    for part in [&format!("{device} device"), path, "30.0 s", "hangs", "restart"] {
        assert!(text.contains(part), "'{part}' in: {text}");
    }
}

/// Each of log and data hangs in each of its operations: its write, or its sync.
#[test]
fn a_device_that_hangs_stops_the_store_and_loses_nothing_acknowledged() {
    for (path, device) in [("/log", Device::Log), ("/data", Device::Data)] {
        for skip in 0..4 {
            let model = Rc::new(RefCell::new(Model::default()));
            let acknowledged = Rc::new(RefCell::new(0));
            let (noted, counted) = (model.clone(), acknowledged.clone());
            let first = move |sim: Sim, node| async move {
                let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
                ledger.store.start();
                for key in 0..30 {
                    let lsn = ledger.submit(&inline(key, 5), &noted).await.unwrap();
                    ledger.store.durable(lsn).await.unwrap();
                    *counted.borrow_mut() = ledger.applied();
                }
                sim.disk_fault(node, path, FOR_EVER, When::Count { skip, times: u64::MAX });
                let bulk = (0..40).map(|key| Op { key, action: Action::Bulk(5000) });
                let (error, took) = first_failure(&ledger, &noted, bulk, &counted).await;
                names(&error, device, path);
                assert!(took < IO_TIMEOUT * 2, "{took:?}");
                // Nobody waits any more, and nothing more is taken.
                let began = rt::now();
                assert_eq!(ledger.store.failure().unwrap().device, device);
                assert!(ledger.store.append(1, &[b"x"], Reserve::Critical).is_err());
                assert!(ledger.store.relieved().await.is_err());
                assert!(ledger.store.checkpoint_now().await.is_err());
                assert!(ledger.store.stop().await.is_err());
                assert!(ledger.store.reserve(9000).is_err());
                assert!(began.elapsed() < Duration::from_secs(1));
            };
            let second = move || async move {
                let (ledger, _) = Ledger::open(BUDGET).unwrap();
                let owed = *acknowledged.borrow();
                assert!(ledger.applied() >= owed && owed >= 30, "{} of {owed}", ledger.applied());
                ledger.verify(&model.borrow(), ledger.applied());
            };
            across_a_power_cut(first, second);
        }
    }
}

/// A checkpoint that hangs in any of its writes and syncs is told to those who wait for it; the one before
/// it and the log say everything.
#[test]
fn a_checkpoint_that_hangs_fails_the_store() {
    for skip in 0..10 {
        let model = Rc::new(RefCell::new(Model::default()));
        let noted = model.clone();
        let first = move |sim: Sim, node| async move {
            let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
            ledger.store.start();
            for key in 0..30 {
                let lsn = ledger.submit(&inline(key, 6), &noted).await.unwrap();
                ledger.store.durable(lsn).await.unwrap();
            }
            sim.disk_fault(node, "/data", FOR_EVER, When::Count { skip, times: u64::MAX });
            let began = rt::now();
            match ledger.store.checkpoint_now().await {
                Err(error) => {
                    names(&error, Device::Data, "/data");
                    assert!(began.elapsed() < IO_TIMEOUT * 2);
                }
                Ok(()) => assert!(skip > 5, "a checkpoint has at least 6 operations"),
            }
        };
        let second = move || async move {
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            assert_eq!(ledger.applied(), 30);
            ledger.verify(&model.borrow(), 30);
        };
        across_a_power_cut(first, second);
    }
}

/// A page is read on the spot, which holds the thread up. The one who wanted it gets it, late; the store
/// does not go on with such a device.
#[test]
fn a_read_that_hangs_fails_the_store() {
    let model = Rc::new(RefCell::new(Model::default()));
    let noted = model.clone();
    let first = move |sim: Sim, node| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        for key in 0..160 {
            ledger.submit_now(&inline(key, 1), &noted).unwrap();
        }
        ledger.submit_now(&Op { key: 3, action: Action::Bulk(9000) }, &noted).unwrap();
        ledger.store.checkpoint_blocking().unwrap();
        let extent = ledger.contents().unwrap()[&3].2[0];
        drop(ledger);
        // Bulk data, which is waited for.
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        sim.disk_fault(node, "/data", FOR_EVER, When::Chance(1.0));
        let began = rt::now();
        let error = ledger.store.bulk_read(extent, 0, 4096, ledger.store.pin()).await.err().unwrap();
        names(&error, Device::Data, "/data");
        assert!(began.elapsed() < IO_TIMEOUT + Duration::from_secs(1));
        let again = rt::now();
        assert!(ledger.store.bulk_read(extent, 0, 4096, ledger.store.pin()).await.is_err());
        assert!(ledger.contents().is_err(), "no page is read on the spot either");
        assert!(again.elapsed() < Duration::from_secs(1), "what hangs is not asked again");
        sim.clear_disk_faults(node);
        drop(ledger);
        // A page.
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        ledger.store.set_io_timeout(Duration::from_secs(2));
        let slow = DiskFault::Stall(Duration::from_secs(3));
        sim.disk_fault(node, "/data", slow, When::Count { skip: 0, times: 1 });
        let _ = ledger.contents();
        let failed = ledger.store.failure().unwrap();
        assert_eq!(failed.device, Device::Data);
        assert!(failed.cause.contains("/data: no answer for 3.0 s"), "{failed}");
        assert!(ledger.submit_now(&inline(1, 1), &RefCell::default()).is_err());
    };
    let second = move || async move {
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        ledger.verify(&model.borrow(), 161);
    };
    across_a_power_cut(first, second);
}

/// How long each of the operations on the spot below takes that hangs.
const LONG: Duration = Duration::from_secs(100);

/// Formats with the `skip`-th operation on `path` hanging, and all after it; whether one did.
fn format_hangs(path: &'static str, skip: u64) -> bool {
    let sim = Sim::new(SimConfig::seeded(17));
    let node = sim.node("target");
    sim.run(async move {
        let format = async move {
            let regions = ledger::regions(LOG_BYTES, DATA_BYTES);
            let fault = When::Count { skip, times: u64::MAX };
            rt::sim::current().disk_fault(node, path, DiskFault::Stall(LONG), fault);
            let began = rt::now();
            let identity = media::Identity { store: [1; 16], target: 0 };
            let Err(error) = media::Store::format(regions, identity, BUDGET, media::Existing::Destroy) else {
                assert_eq!(began.elapsed().as_secs(), 0);
                return false;
            };
            let text = error.to_string();
            assert!(text.contains(path) && text.contains("100.0 s") && text.contains("hangs"), "{text}");
            assert_eq!(began.elapsed().as_secs(), LONG.as_secs(), "one is waited for, no more");
            true
        };
        rt::sim::current().spawn_on(node, format).await.unwrap()
    })
}

/// Making a store waits for its devices on the spot. The first answer that comes too late ends it, and says whose it
/// was.
#[test]
fn a_format_ends_with_the_first_operation_that_hangs() {
    for (path, least) in [("/log", 2), ("/data", 6)] {
        let met = (0..).take_while(|skip| format_hangs(path, *skip)).count();
        assert!(met >= least, "{path} is waited for {met} times");
    }
}

/// So does opening one, up to the last superblock that recovery writes; and then nothing was lost.
#[test]
fn a_recovery_ends_with_the_first_operation_that_hangs() {
    let mut ended = [0, 0];
    for (n, path) in ["/log", "/data"].into_iter().enumerate() {
        for skip in 0..40 {
            let (hung, seen) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(0)));
            let (met, model) = (hung.clone(), Rc::new(RefCell::new(Model::default())));
            let (noted, counted) = (model.clone(), seen.clone());
            let first = move |sim: Sim, node| async move {
                let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
                for key in 0..60 {
                    ledger.submit_now(&inline(key, 1), &noted).unwrap();
                }
                ledger.store.checkpoint_blocking().unwrap();
                for key in 0..20 {
                    ledger.submit_now(&inline(key, 2), &noted).unwrap();
                }
                ledger.store.flush_now().unwrap();
                drop(ledger);
                sim.disk_fault(node, path, DiskFault::Stall(LONG), When::Count { skip, times: u64::MAX });
                let began = rt::now();
                let opened = Ledger::open(BUDGET);
                let waited = began.elapsed().as_secs();
                match opened.and_then(|(ledger, _)| ledger.store.failure().map_or(Ok(()), |failed| Err(failed.into())))
                {
                    Ok(()) => assert_eq!(waited, 0, "nothing hung"),
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.contains(path) && text.contains("100.0 s") && text.contains("hangs"), "{text}");
                        assert_eq!(waited, LONG.as_secs(), "one is waited for, no more");
                        *met.borrow_mut() += 1;
                    }
                }
                *counted.borrow_mut() += 1;
            };
            let second = move || async move {
                let (ledger, _) = Ledger::open(BUDGET).unwrap();
                ledger.verify(&model.borrow(), 80);
            };
            across_a_power_cut(first, second);
            assert_eq!(*seen.borrow(), 1);
            ended[n] += *hung.borrow();
        }
    }
    assert!(ended[0] >= 2 && ended[1] >= 6, "headers, log; superblocks, bitmap, map, pages: {ended:?}");
}

#[test]
fn a_device_that_is_slow_within_the_limit_is_waited_for() {
    let model = Rc::new(RefCell::new(Model::default()));
    let noted = model.clone();
    let first = move |sim: Sim, node| async move {
        let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
        ledger.store.start();
        let slow = DiskFault::Stall(IO_TIMEOUT / 3);
        sim.disk_fault(node, "/", slow, When::Chance(0.5));
        for key in 0..20 {
            let lsn = ledger.submit(&Op { key, action: Action::Bulk(5000) }, &noted).await.unwrap();
            ledger.store.durable(lsn).await.unwrap();
        }
        ledger.store.checkpoint_now().await.unwrap();
        assert_eq!(ledger.store.failure(), None);
    };
    let second = move || async move {
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        ledger.verify(&model.borrow(), 20);
    };
    across_a_power_cut(first, second);
}

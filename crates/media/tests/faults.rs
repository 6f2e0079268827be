//! Devices that fail, and bytes that rot: found, named with their place, and nothing else lost.

mod ledger;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use ledger::{Action, Ledger, Model, Op};
use media::{
    BLOCK_BYTES, Corrupt, Device, Error, Existing, Fault, FormatError, Identity, PAGE_BYTES, Place, Reserve, Store,
    decode_batch_header, decode_page, decode_root_block,
};
use rt::fault::When;
use rt::sim::{DiskFault, NodeId, Sim, SimConfig};

const LOG_BYTES: u64 = 256 << 10;
const DATA_BYTES: u64 = 4 << 20;
const BUDGET: usize = 512 << 10;

/// Runs `life` on a machine of its own, with the outside world's handles.
fn on_a_machine<F: Future<Output = ()> + 'static>(life: impl FnOnce(Sim, NodeId) -> F + 'static) {
    let sim = Sim::new(SimConfig::seeded(11));
    let node = sim.node("target");
    sim.run(async move {
        let sim = rt::sim::current();
        sim.spawn_on(node, life(sim.clone(), node)).await.unwrap();
    });
}

fn inline(key: u32, value: u64) -> Op {
    Op { key, action: Action::Inline(value) }
}

/// A store of 40 pages in a checkpoint, and 3 flushed batches after it.
fn prepared(model: &RefCell<Model>) {
    let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
    for key in 0..160 {
        ledger.submit_now(&inline(key, key as u64), model).unwrap();
    }
    ledger.submit_now(&Op { key: 3, action: Action::Bulk(9000) }, model).unwrap();
    ledger.store.checkpoint_blocking().unwrap();
    for value in 0..3 {
        ledger.submit_now(&inline(7, value), model).unwrap();
        ledger.store.flush_now().unwrap();
    }
}

fn corrupt_place(error: &Error) -> Option<Place> {
    match error {
        Error::Corrupt(Corrupt { place, .. }) => Some(*place),
        _ => None,
    }
}

/// Offsets in `/data` of the blocks for which `is` says so.
fn blocks_where(bytes: usize, is: impl Fn(&[u8]) -> bool) -> Vec<u64> {
    let disk = ledger::disk("/data");
    let mut image = vec![0; DATA_BYTES as usize];
    disk.read_now(0, &mut image).unwrap();
    (0..DATA_BYTES)
        .step_by(BLOCK_BYTES)
        .filter(|&at| image.get(at as usize..at as usize + bytes).is_some_and(&is))
        .collect()
}

#[test]
fn one_rotten_superblock_is_mended_two_are_reported() {
    on_a_machine(|sim, node| async move {
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        for copy in [0, 1] {
            sim.flip_bit(node, "/data", (copy * BLOCK_BYTES as u64 + 50) * 8);
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            ledger.verify(&model.borrow(), 164);
        }
        for copy in [0, 1] {
            sim.flip_bit(node, "/data", (copy * BLOCK_BYTES as u64 + 50) * 8);
        }
        let error = Ledger::open(BUDGET).err().unwrap();
        assert!(matches!(error, Error::Format(FormatError::BothSuperblocks { .. })), "{error}");
        assert!(error.to_string().contains("/data") && error.to_string().contains("format"), "{error}");
    });
}

#[test]
fn a_flipped_bit_in_a_page_is_named_and_the_others_stay_readable() {
    on_a_machine(|sim, node| async move {
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        let is_page =
            |bytes: &[u8]| decode_page(bytes).is_ok_and(|header| header.kind.get() == 5 && header.page.get() == 9);
        let at = *blocks_where(PAGE_BYTES, is_page).last().unwrap();
        sim.flip_bit(node, "/data", (at + 5000) * 8 + 3);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        // Read ahead of need, all but the bad one come, and any that are nobody's are no harm.
        let some: Vec<_> = [30, 5, 9, 5, 10, 4000].map(media::PageId).to_vec();
        ledger.store.pages().preload(&some);
        let resident: Vec<bool> = some.iter().map(|id| ledger.store.pages_ref().is_resident(*id)).collect();
        assert_eq!(resident, [true, true, false, true, true, false]);
        let mut bad = Vec::new();
        for page in 0..40 {
            let mut pages = ledger.store.pages();
            pages.begin_op();
            if let Err(error) = pages.get(media::PageId(page)).map(|_| ()) {
                assert!(matches!(error, Error::Corrupt(Corrupt { fault: Fault::Checksum { .. }, .. })), "{error}");
                bad.push(corrupt_place(&error).unwrap());
            }
        }
        assert_eq!(bad, [Place::Page { page: media::PageId(9), block: (at / BLOCK_BYTES as u64) as u32 }]);
        assert!(ledger.store.check_pages().is_err());
        // The store goes on.
        ledger.submit_now(&inline(100, 1), &model).unwrap();
        ledger.store.flush_now().unwrap();
    });
}

#[test]
fn a_flipped_bit_in_map_bitmap_or_root_is_named_at_open() {
    on_a_machine(|sim, node| async move {
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        let of_kind = |kind: u16| {
            let at = blocks_where(PAGE_BYTES, |bytes| decode_page(bytes).is_ok_and(|h| h.kind.get() == kind));
            // Older copies may lie around: the newest is the one in use.
            at.into_iter().max_by_key(|&at| {
                let mut bytes = vec![0; PAGE_BYTES];
                ledger::disk("/data").read_now(at, &mut bytes).unwrap();
                decode_page(&bytes).unwrap().checkpoint.get()
            })
        };
        let roots = blocks_where(BLOCK_BYTES, |bytes| decode_root_block(bytes).is_ok_and(|h| h.checkpoint.get() == 2));
        let places = [of_kind(0xff01).unwrap(), of_kind(0xff02).unwrap(), roots[0]];
        for (at, name) in places.into_iter().zip(["map", "bitmap", "root"]) {
            let bit = (at + 2000) * 8;
            sim.flip_bit(node, "/data", bit);
            let error = Ledger::open(BUDGET).err().unwrap();
            let block = (at / BLOCK_BYTES as u64) as u32;
            let expected = match name {
                "map" => Place::Map { index: 0, block },
                "bitmap" => Place::Bitmap { index: 0, block },
                _ => Place::Root { block },
            };
            assert_eq!(corrupt_place(&error), Some(expected), "{error}");
            sim.flip_bit(node, "/data", bit);
        }
        Ledger::open(BUDGET).unwrap().0.verify(&model.borrow(), 164);
    });
}

/// Damage in the middle of acknowledged records is an error with its place, not a shorter log. The last
/// batch cannot be told from a torn one: nothing after it says that it was whole.
#[test]
fn a_damaged_log_is_an_error_unless_it_is_the_torn_end() {
    on_a_machine(|sim, node| async move {
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        let disk = ledger::disk("/log");
        let mut image = vec![0; LOG_BYTES as usize];
        disk.read_now(0, &mut image).unwrap();
        let batches: Vec<(u64, u64)> = (0..LOG_BYTES)
            .step_by(BLOCK_BYTES)
            .filter_map(|at| Some((at, decode_batch_header(&image[at as usize..]).ok()?.lsn.get())))
            .collect();
        let [.., second, third, last] = batches[..] else { panic!("{batches:?}") };
        for offset in [0, 30, 64, 80, 100] {
            for (at, lsn) in [second, third] {
                let bit = (at + offset) * 8 + 1;
                sim.flip_bit(node, "/log", bit);
                let error = Ledger::open(BUDGET).err().unwrap();
                assert_eq!(corrupt_place(&error), Some(Place::Log { lsn: media::Lsn(lsn) }), "{error}");
                sim.flip_bit(node, "/log", bit);
            }
        }
        sim.flip_bit(node, "/log", (last.0 + 80) * 8);
        let (ledger, recovered) = Ledger::open(BUDGET).unwrap();
        ledger.verify(&model.borrow(), 163);
        assert_eq!(recovered.to.0, last.1);
    });
}

#[test]
fn a_log_of_another_store_is_refused() {
    on_a_machine(|sim, node| async move {
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        let mut regions = ledger::regions(LOG_BYTES, DATA_BYTES);
        regions.data.disk = ledger::disk("/other");
        let identity = Identity { store: [9; 16], target: 0 };
        let error = Store::format(regions.clone(), identity, BUDGET, Existing::Refuse).err().unwrap();
        assert!(matches!(error, Error::Format(FormatError::AlreadyFormatted { .. })), "the log is taken: {error}");
        regions.log.disk = ledger::disk("/log2");
        drop(Store::format(regions.clone(), identity, BUDGET, Existing::Refuse).unwrap());
        regions.log.disk = ledger::disk("/log");
        let error = Store::open(regions, BUDGET).err().unwrap();
        assert!(matches!(error, Error::Format(FormatError::Mismatch { .. })), "{error}");
        sim.flip_bit(node, "/log", 100);
        assert_eq!(corrupt_place(&Ledger::open(BUDGET).err().unwrap()), Some(Place::LogHeader));
    });
}

#[test]
fn formatting_over_a_store_needs_force_and_an_empty_file_is_no_store() {
    on_a_machine(|_, _| async move {
        let regions = ledger::regions(LOG_BYTES, DATA_BYTES);
        for region in [&regions.log, &regions.data] {
            region.disk.set_len(region.bytes()).unwrap();
        }
        let error = Store::open(regions.clone(), BUDGET).err().unwrap();
        assert!(matches!(error, Error::Format(FormatError::NotFormatted { .. })), "{error}");
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        let identity = Identity { store: [9; 16], target: 0 };
        let error = Store::format(regions.clone(), identity, BUDGET, Existing::Refuse).err().unwrap();
        assert!(matches!(error, Error::Format(FormatError::AlreadyFormatted { .. })), "{error}");
        let store = Store::format(regions.clone(), identity, BUDGET, Existing::Destroy).unwrap();
        assert_eq!((store.uuid(), store.target(), store.root()), ([9; 16], 0, vec![]));
        drop(store);
        let (_, mut recovery) = Store::open(regions, BUDGET).unwrap();
        assert_eq!(recovery.next_record().unwrap(), None, "the old log does not count");
        let small = ledger::regions(media::LOG_BYTES_MIN - 1, DATA_BYTES);
        let error = Store::format(small, identity, BUDGET, Existing::Destroy).err().unwrap();
        assert!(matches!(error, Error::Format(FormatError::TooSmall { .. })), "{error}");
    });
}

/// Whatever fails: the store stops, says which device, acknowledges nothing more, and after the device is
/// mended everything acknowledged is there.
#[test]
fn a_failing_device_stops_the_store_and_loses_nothing_acknowledged() {
    let faults = [
        ("/log", DiskFault::WriteError, Device::Log),
        ("/log", DiskFault::SyncError, Device::Log),
        ("/data", DiskFault::WriteError, Device::Data),
        ("/data", DiskFault::SyncError, Device::Data),
    ];
    for (path, fault, device) in faults {
        on_a_machine(move |sim, node| async move {
            let model = Rc::new(RefCell::new(Model::default()));
            let ledger = Ledger::format(ledger::regions(LOG_BYTES, DATA_BYTES), BUDGET);
            ledger.store.start();
            let mut acknowledged = 0;
            for key in 0..50 {
                let lsn = ledger.submit(&inline(key, 5), &model).await.unwrap();
                ledger.store.durable(lsn).await.unwrap();
                acknowledged += 1;
            }
            sim.disk_fault(node, path, fault, When::Chance(1.0));
            let mut failure = None;
            for key in 0..50 {
                let op = Op { key, action: Action::Bulk(5000) };
                let outcome = match ledger.submit(&op, &model).await {
                    Ok(lsn) => ledger.store.durable(lsn).await.map_err(Error::from),
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(()) => acknowledged = ledger.applied(),
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            let failure = failure.expect("the fault was met");
            assert!(matches!(&failure, Error::Failed(failed) if failed.device == device), "{failure}");
            assert_eq!(ledger.store.failure().unwrap().device, device);
            assert!(ledger.store.append(1, &[b"x"], Reserve::Critical).is_err());
            assert!(ledger.store.relieved().await.is_err());
            assert!(ledger.store.checkpoint_now().await.is_err());
            assert!(ledger.store.stop().await.is_err());
            sim.clear_disk_faults(node);
            drop(ledger);
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            assert!(ledger.applied() >= acknowledged, "{} of {acknowledged}", ledger.applied());
            let count = ledger.applied();
            ledger.verify(&model.borrow(), count);
        });
    }
}

#[test]
fn a_failing_checkpoint_stops_the_store_and_the_former_one_counts() {
    for skip in 0..30 {
        on_a_machine(move |sim, node| async move {
            let model = Rc::new(RefCell::new(Model::default()));
            prepared(&model);
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            for key in 0..90 {
                ledger.submit_now(&inline(key, 77), &model).unwrap();
            }
            ledger.store.flush_now().unwrap();
            sim.disk_fault(node, "/data", DiskFault::WriteError, When::Count { skip, times: 1 });
            let outcome = ledger.store.checkpoint_blocking();
            sim.clear_disk_faults(node);
            drop(ledger);
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            ledger.verify(&model.borrow(), 254);
            assert!(outcome.is_err() || skip > 3);
        });
    }
}

#[test]
fn a_page_that_cannot_be_read_fails_that_read_only() {
    on_a_machine(|sim, node| async move {
        let model = Rc::new(RefCell::new(Model::default()));
        prepared(&model);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        sim.disk_fault(node, "/data", DiskFault::ReadError, When::Chance(1.0));
        let error = ledger.contents().err().unwrap();
        assert!(matches!(error, Error::Read { place: Place::Page { .. }, device: Device::Data, .. }), "{error}");
        sim.clear_disk_faults(node);
        ledger.verify(&model.borrow(), 164);
        ledger.submit_now(&inline(1, 1), &model).unwrap();
    });
}

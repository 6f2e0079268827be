//! Log, metadata and data, each on a device of its own: what lies where, and what happens when devices
//! change places.

mod ledger;

use std::cell::RefCell;
use std::future::Future;

use ledger::{Action, Ledger, Model, Op};

use media::{BLOCK_BYTES, Device, Error, Existing, FormatError, Identity, Region, Regions, Reserve, Store};
use rt::disk::{Disk, OpenMode};
use rt::fault::When;
use rt::sim::{DiskFault, Sim, SimConfig};

const LOG_BYTES: u64 = 256 << 10;
const METADATA_BYTES: u64 = media::DATA_BYTES_MIN;
const DATA_BYTES: u64 = 1 << 20;
const BUDGET: usize = 512 << 10;

fn on_a_machine<F: Future<Output = ()> + 'static>(life: impl FnOnce() -> F + 'static) {
    let sim = Sim::new(SimConfig::seeded(31));
    let node = sim.node("target");
    sim.run(async move { rt::sim::current().spawn_on(node, life()).await.unwrap() });
}

fn bulk(key: u32) -> Op {
    Op { key, action: Action::Bulk(9000) }
}

/// A store on three devices, with some of everything in it.
fn prepared(model: &RefCell<Model>) {
    let ledger = Ledger::format(ledger::apart(LOG_BYTES, METADATA_BYTES, DATA_BYTES), BUDGET);
    for key in 0..100 {
        ledger.submit_now(&Op { key, action: Action::Inline(7) }, model).unwrap();
    }
    for key in 0..20 {
        ledger.submit_now(&bulk(key), model).unwrap();
    }
    ledger.store.checkpoint_blocking().unwrap();
    ledger.submit_now(&bulk(50), model).unwrap();
    ledger.store.flush_now().unwrap();
}

#[test]
fn pages_lie_on_the_metadata_device_and_bulk_on_the_data_device() {
    on_a_machine(|| async {
        let model = RefCell::default();
        prepared(&model);
        let (ledger, recovered) = Ledger::open(BUDGET).unwrap();
        assert_eq!(recovered.records, 1);
        ledger.verify(&model.borrow(), 121);
        let usage = ledger.store.usage().space;
        let bitmap = 6 * BLOCK_BYTES as u64;
        assert_eq!(usage.metadata, METADATA_BYTES - bitmap);
        assert_eq!(usage.capacity, usage.metadata + DATA_BYTES - BLOCK_BYTES as u64, "a header, and the rest is bulk");
        // Only data is bulk: as much as fits there and no more, however empty metadata is.
        let mut reserved = Vec::new();
        while let Ok(reservation) = ledger.store.reserve(64 << 10) {
            reserved.push(reservation);
        }
        let free = DATA_BYTES - BLOCK_BYTES as u64 - 21 * 12288;
        assert_eq!(reserved.len() as u64, free / (64 << 10));
        let border = (METADATA_BYTES / BLOCK_BYTES as u64) as u32;
        assert!(reserved.iter().flat_map(|r| r.extents()).all(|extent| extent.block >= border));
        drop(reserved);
        // What is on the data device are the values, and the header.
        let mut image = vec![0; DATA_BYTES as usize];
        ledger::disk("/data").read_now(0, &mut image).unwrap();
        assert_eq!(&image[..8], b"FLREGHD\x01");
        let pages = image.chunks_exact(media::PAGE_BYTES).filter(|page| media::decode_page(page).is_ok());
        assert_eq!(pages.count(), 0);
    });
}

/// Metadata that is full stops updates, though data has room, and deleting is still possible.
#[test]
fn metadata_that_is_full_is_no_space_and_deleting_helps() {
    on_a_machine(|| async {
        let model = RefCell::default();
        let ledger = Ledger::format(ledger::apart(LOG_BYTES, METADATA_BYTES, DATA_BYTES), 4 << 20);
        let mut refused = None;
        for key in 0..ledger::KEYS_MAX {
            match ledger.submit_now(&Op { key, action: Action::Inline(1) }, &model) {
                Ok(_) => {}
                Err(Error::Busy { .. } | Error::LogFull { .. }) => ledger.store.checkpoint_blocking().unwrap(),
                Err(error) => {
                    refused = Some((key, error));
                    break;
                }
            }
        }
        let (key, error) = refused.expect("2 MiB of pages do not hold all keys twice");
        assert!(matches!(error, Error::NoSpace { free, .. } if free < 1 << 20), "{error}");
        assert!(ledger.store.free_for_bulk() > 900 << 10, "data has room");
        for key in 0..key {
            if ledger.submit_now(&Op { key, action: Action::Delete }, &model).is_err() {
                ledger.store.checkpoint_blocking().unwrap();
            }
        }
        ledger.store.checkpoint_blocking().unwrap();
        ledger.verify(&model.borrow(), ledger.applied());
    });
}

/// Three more stores' worth of devices, of the same store UUID and of another.
fn others() {
    for (suffix, store, target) in [("-1", ledger::STORE, 4), ("-2", [9; 16], 3)] {
        let disk = |path: &str| ledger::disk(&format!("{path}{suffix}"));
        let regions = Regions {
            log: Region::new(disk("/log"), 0, LOG_BYTES),
            metadata: Some(Region::new(disk("/metadata"), 0, METADATA_BYTES)),
            data: Region::new(disk("/data"), 0, DATA_BYTES),
        };
        let store = Store::format(regions, Identity { store, target }, BUDGET, Existing::Refuse).unwrap();
        store.append(1, &[b"somebody else's"], Reserve::Normal).unwrap();
        store.flush_now().unwrap();
    }
}

fn open(log: &str, metadata: Option<&str>, data: &str) -> Result<(), Error> {
    let region = |path| Region::whole(Disk::open(path, OpenMode::default()).unwrap()).unwrap();
    let regions = Regions { log: region(log), metadata: metadata.map(region), data: region(data) };
    Store::open(regions, BUDGET).map(|_| ())
}

#[test]
fn devices_that_changed_places_are_refused_and_named() {
    on_a_machine(|| async {
        let model = RefCell::default();
        prepared(&model);
        others();
        ledger::disk("/new").set_len(METADATA_BYTES).unwrap();
        let (log, metadata, data) = ("/log", Some("/metadata"), "/data");
        let mine = "of target 3 of store 30313233-3435-3637-3839-616263646566";
        // What is opened, the device that is wrong, and what is said of it.
        let cases = [
            ("/log-1", metadata, data, "/log-1", "the log of target 4"),
            ("/log-2", metadata, data, "/log-2", "the log of target 3 of store 09090909"),
            (log, Some("/metadata-1"), data, "/log", "target 4 of store 3031"),
            (log, metadata, "/data-1", "/data-1", "the data of target 4"),
            (log, metadata, "/data-2", "/data-2", "the data of target 3 of store 09090909"),
            // Roles mixed up.
            (data, metadata, log, "/data", "the data of target 3"),
            (log, Some("/data"), "/metadata", "/data", "the data of target 3"),
            (log, Some("/log"), data, "/log", "the log of target 3"),
            ("/metadata", metadata, data, "/metadata", "the metadata of target 3"),
            // A role that was there is gone, or is new.
            (log, None, "/metadata", "/metadata", "the metadata of target 3"),
            (log, None, data, "/data", "the data of target 3"),
        ];
        for (log, metadata, data, device, says) in cases {
            let error = open(log, metadata, data).unwrap_err();
            assert!(matches!(error, Error::Format(FormatError::Mismatch { .. })), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(device) && text.contains(says), "'{device}', '{says}' in: {text}");
            assert!(text.contains("put the devices back"), "{text}");
        }
        for (log, metadata, data, role) in
            [("/new", metadata, data, "log"), (log, metadata, "/new", "data"), (log, Some("/new"), data, "")]
        {
            let text = open(log, metadata, data).unwrap_err().to_string();
            assert!(text.starts_with("/new holds no") && text.contains(role), "{text}");
        }
        // And nothing was written by any of it.
        Ledger::open(BUDGET).unwrap().0.verify(&model.borrow(), 121);
        open(log, metadata, data).unwrap();
        assert!(open("/log-1", Some("/metadata-1"), "/data-1").is_ok());
        let text = open("/log-1", metadata, data).unwrap_err().to_string();
        assert!(text.contains(mine), "what is needed is named too: {text}");
    });
}

#[test]
fn nothing_of_ours_is_formatted_over_without_force_in_any_role() {
    on_a_machine(|| async {
        prepared(&RefCell::default());
        let fresh = |path: &str| Region::new(ledger::disk(path), 0, METADATA_BYTES);
        for taken in ["/log", "/metadata", "/data"] {
            for role in [Device::Log, Device::Metadata, Device::Data] {
                let pick = |this: Device, other: &str| {
                    if this == role { Region::whole(ledger::disk(taken)).unwrap() } else { fresh(other) }
                };
                let regions = Regions {
                    log: pick(Device::Log, "/fresh-1"),
                    metadata: Some(pick(Device::Metadata, "/fresh-2")),
                    data: pick(Device::Data, "/fresh-3"),
                };
                let identity = Identity { store: [5; 16], target: 0 };
                let outcome = Store::format(regions, identity, BUDGET, Existing::Refuse);
                // A log device is too small for metadata, which is said first.
                let error = outcome.err().unwrap();
                let is_refused = matches!(
                    &error,
                    Error::Format(FormatError::AlreadyFormatted { .. } | FormatError::TooSmall { .. })
                );
                assert!(is_refused && error.to_string().starts_with(taken), "{error}");
            }
        }
    });
}

/// A file system without room has not failed: the checkpoint waits for room, with the log behind it; what adds data is refused, and
/// taken again when there is room. Once, that took a restart.
#[test]
fn a_checkpoint_waits_for_room_and_updates_are_refused_meanwhile() {
    on_a_machine(|| async {
        let model = RefCell::default();
        prepared(&model);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        let ledger = std::rc::Rc::new(ledger);
        ledger.store.start();
        let lsn = ledger.submit(&bulk(3), &model).await.unwrap();
        ledger.store.durable(lsn).await.unwrap();
        let node = rt::sim::current_node();
        rt::sim::current().disk_fault(node, "/metadata", DiskFault::Full, When::Chance(1.0));
        let checkpoint = rt::spawn_local({
            let ledger = ledger.clone();
            async move { ledger.store.checkpoint_now().await }
        });
        rt::sleep(std::time::Duration::from_secs(5)).await;
        assert!(!checkpoint.is_finished());
        let refused = ledger.store.admit(media::Reserve::Normal).unwrap_err();
        assert!(matches!(refused, Error::DiskFull { device: Device::Metadata, .. }), "{refused}");
        assert!(ledger.store.admit(media::Reserve::Critical).is_ok(), "what makes room is taken");
        ledger.contents().expect("all can be read");
        rt::sim::current().clear_disk_faults(node);
        checkpoint.await.unwrap().expect("there is room again");
        let lsn = ledger.submit(&bulk(4), &model).await.unwrap();
        ledger.store.durable(lsn).await.unwrap();
        drop(ledger);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        ledger.contents().expect("what was acknowledged is there");
    });
}

/// The device that fails is the one that is named.
#[test]
fn a_metadata_device_that_fails_or_hangs_is_named() {
    let stall = DiskFault::Stall(std::time::Duration::from_secs(3600));
    for fault in [DiskFault::WriteError, DiskFault::SyncError, stall] {
        on_a_machine(move || async move {
            let model = RefCell::default();
            prepared(&model);
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            ledger.store.start();
            ledger.contents().expect("all pages are in memory from here on");
            rt::sim::current().disk_fault(rt::sim::current_node(), "/metadata", fault, When::Chance(1.0));
            let lsn = ledger.submit(&bulk(3), &model).await.unwrap();
            ledger.store.durable(lsn).await.expect("an update needs log and data only");
            let error = ledger.store.checkpoint_now().await.unwrap_err();
            assert!(matches!(&error, Error::Failed(failed) if failed.device == Device::Metadata), "{error}");
            assert!(error.to_string().contains("the metadata device failed"), "{error}");
            assert!(error.to_string().contains("/metadata"), "{error}");
            rt::sim::current().clear_disk_faults(rt::sim::current_node());
            drop(ledger);
            let (ledger, _) = Ledger::open(BUDGET).unwrap();
            ledger.verify(&model.borrow(), 122);
        });
    }
    on_a_machine(|| async {
        let model = RefCell::default();
        prepared(&model);
        let (ledger, _) = Ledger::open(BUDGET).unwrap();
        rt::sim::current().disk_fault(rt::sim::current_node(), "/metadata", DiskFault::ReadError, When::Chance(1.0));
        let error = ledger.contents().err().unwrap();
        assert!(error.to_string().contains("from the metadata device: read /metadata"), "{error}");
    });
}

//! A log in mapped memory, on real files: durable without a wait, and there again when the mapping is gone.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use media::{Existing, Identity, Region, Regions, Reserve, Store};
use rt::disk::{Dax, Disk, OpenMode};

const LOG_BYTES: u64 = 1 << 20;
const DATA_BYTES: u64 = 4 << 20;
const BUDGET: usize = 512 << 10;

fn disk(path: &Path) -> Disk {
    Disk::open(path, OpenMode { create: true, ..OpenMode::default() }).unwrap()
}

fn regions(dir: &Path) -> Regions {
    disk(&dir.join("log")).allocate(LOG_BYTES).unwrap();
    let log = Disk::open_mapped(dir.join("log"), Dax::Emulated).unwrap();
    Regions {
        log: Region::whole(log).unwrap(),
        metadata: None,
        data: Region::new(disk(&dir.join("data")), 0, DATA_BYTES),
    }
}

fn format(dir: &Path) -> Store {
    let identity = Identity { store: [7; 16], target: 0 };
    Store::format(regions(dir), identity, BUDGET, Existing::Refuse).unwrap()
}

/// Every record after the checkpoint, and the store.
fn reopen(regions: Regions) -> (Store, Vec<Vec<u8>>) {
    let (store, mut recovery) = Store::open(regions, BUDGET).unwrap();
    let mut records = Vec::new();
    while let Some(record) = recovery.next_record().unwrap() {
        records.push(record.payload.to_vec());
    }
    store.finish_recovery(recovery).unwrap();
    (store, records)
}

/// A temporary directory, and one in memory where there is one.
fn places() -> Vec<tempfile::TempDir> {
    let shm = Path::new("/dev/shm");
    let memory = shm.is_dir().then(|| tempfile::tempdir_in(shm).unwrap());
    if memory.is_none() {
        eprintln!("skipped in part: no /dev/shm");
    }
    [tempfile::tempdir().unwrap()].into_iter().chain(memory).collect()
}

#[test]
fn a_record_is_durable_at_the_first_look_and_outlives_the_mapping() {
    for dir in places() {
        let store = format(dir.path());
        let mut appended = Vec::new();
        for length in [0, 1, 63, 64, 65, 1000, 4096, 100_000] {
            let payload: Vec<u8> = (0..length).map(|n: usize| (n * 7 + length) as u8).collect();
            let lsn = store.append(1, &[&payload], Reserve::Normal).unwrap();
            appended.push(payload);
            // No tasks run: nobody but the one who waits can have written it.
            let mut context = Context::from_waker(Waker::noop());
            assert_eq!(pin!(store.durable(lsn)).poll(&mut context), Poll::Ready(Ok(())));
            assert!(store.durable_lsn() > lsn);
        }
        store.append(1, &[b"nobody waited for this one"], Reserve::Normal).unwrap();
        drop(store);
        let (store, records) = reopen(regions(dir.path()));
        assert_eq!(records, appended);
        drop(store);
        // The file says the same to whoever reads it as a file.
        let plain = Regions { log: Region::whole(disk(&dir.path().join("log"))).unwrap(), ..regions(dir.path()) };
        assert_eq!(reopen(plain).1, appended);
    }
}

/// With the tasks running: many at once, bulk data among them, around the end of the log, with checkpoints.
#[test]
fn a_mapped_log_serves_many_writers() {
    for dir in places() {
        rt::block_on(async {
            let store = format(dir.path());
            store.start();
            let task_set = (0..8u8).map(|writer| {
                let store = store.clone();
                async move {
                    for step in 0..60u32 {
                        let reservation = (step % 4 == 0).then(|| store.reserve(5000).unwrap());
                        if let Some(reservation) = &reservation {
                            let buffer = rt::disk::IoBuf::from_slice(&[writer; 5000]);
                            store.bulk_write(reservation, 0, buffer.into(), None).await.unwrap();
                        }
                        let payload = [writer; 3000];
                        let lsn = loop {
                            match store.append(1, &[&payload], Reserve::Normal) {
                                Ok(lsn) => break lsn,
                                Err(_) => store.relieved().await.unwrap(),
                            }
                        };
                        // Given back rather than kept: blocks are not what this is about.
                        drop(reservation);
                        store.durable(lsn).await.unwrap();
                    }
                }
            });
            let tasks: Vec<_> = task_set.map(rt::spawn_local).collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert!(store.end_lsn().0 > LOG_BYTES, "it went round");
            let lsn = store.append(2, &[b"last"], Reserve::Normal).unwrap();
            store.durable(lsn).await.unwrap();
        });
        let (_, records) = reopen(regions(dir.path()));
        assert_eq!(records.last().unwrap(), b"last");
    }
}

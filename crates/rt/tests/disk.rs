//! What every disk must do, whichever way its bytes go: io_uring, system calls, tmpfs, the simulator.

use std::future::Future;
use std::path::Path;
use std::task::{Context, Poll, Waker};

use rt::disk::{Dax, Disk, DiskError, IoBuf, OpenMode, fs};

const CREATE: OpenMode = OpenMode { create: true, direct: false, exclusive_lock: false };
const DIRECT: OpenMode = OpenMode { create: true, direct: true, exclusive_lock: false };

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rt::Rng::seeded(seed).fill(&mut bytes);
    bytes
}

/// The whole contract, in a directory of one's own.
async fn check_disk(dir: &Path) {
    check_transfers(&dir.join("cached"), CREATE).await;
    check_transfers(&dir.join("direct"), DIRECT).await;
    check_many_at_once(&dir.join("many")).await;
    check_dropped_operations(&dir.join("dropped")).await;
    check_lock(&dir.join("locked"));
    check_read_only(&dir.join("looked-at")).await;
    check_errors(dir).await;
    check_fs(dir);
}

async fn check_transfers(path: &Path, mode: OpenMode) {
    let disk = Disk::open(path, mode).unwrap();
    assert_eq!(disk.path(), path);
    assert!(disk.is_empty().unwrap());
    // Aligned and not, small and large, inside the file and beyond its end.
    for (round, (offset, len)) in
        [(0, 4096), (4096, 8192), (100, 17), (12_288, 1 << 20), (1_000_001, 70_000), (3 << 20, 1)]
            .into_iter()
            .enumerate()
    {
        let bytes = pattern(round as u64, len);
        let (outcome, buffer) = disk.write(offset, IoBuf::from_slice(&bytes)).await;
        outcome.unwrap();
        assert!(buffer[..] == bytes[..], "the buffer comes back as it was");
        let (outcome, buffer) = disk.read(offset, IoBuf::for_read(len)).await;
        outcome.unwrap();
        assert!(buffer[..] == bytes[..]);
        let mut again = vec![0; len];
        disk.read_now(offset, &mut again).unwrap();
        assert!(again == bytes);
        again.reverse();
        let (outcome, buffer) = disk.write_durable(offset, IoBuf::from_slice(&again)).await;
        outcome.unwrap();
        assert!(buffer[..] == again[..]);
        let (outcome, buffer) = disk.read(offset, IoBuf::for_read(len)).await;
        outcome.unwrap();
        assert!(buffer[..] == again[..]);
        again.rotate_left(len / 3);
        disk.write_now(offset, &again).unwrap();
        let (outcome, buffer) = disk.read(offset, IoBuf::for_read(len)).await;
        outcome.unwrap();
        assert!(buffer[..] == again[..], "both ways see one file");
    }
    assert_eq!(disk.len().unwrap(), (3 << 20) + 1);
    disk.sync().await.unwrap();
    disk.sync_now().unwrap();

    let (outcome, buffer) = disk.read(3 << 20, IoBuf::for_read(4096)).await;
    assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(buffer.len(), 4096);
    let error = disk.read_now(1 << 40, &mut [0; 1]).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");

    disk.set_len(8192).unwrap();
    disk.set_len(20_000).unwrap();
    let mut tail = [1; 11_808];
    disk.read_now(8192, &mut tail).unwrap();
    assert!(tail.iter().all(|&byte| byte == 0), "what was cut off does not come back");
    disk.allocate(100_000).unwrap();
    assert_eq!(disk.len().unwrap(), 100_000);
    disk.allocate(10).unwrap();
    assert_eq!(disk.len().unwrap(), 100_000);
    disk.write_now(0, &[7; 8192]).unwrap();
    disk.discard(0, 8192).unwrap();
    let (outcome, buffer) = disk.read(0, IoBuf::zeroed(0)).await;
    outcome.unwrap();
    assert!(buffer.is_empty());
    assert_eq!(Disk::open(path, OpenMode::default()).unwrap().len().unwrap(), 100_000);
}

async fn check_many_at_once(path: &Path) {
    const BLOCKS: u64 = 1000;
    let disk = Disk::open(path, DIRECT).unwrap();
    let mut tasks = rt::TaskSet::new();
    for block in 0..BLOCKS {
        let disk = disk.clone();
        tasks.spawn(async move {
            let bytes = pattern(block, 4096);
            let (outcome, _) = disk.write(block * 4096, IoBuf::from_slice(&bytes)).await;
            outcome.unwrap();
            if block % 100 == 0 {
                disk.sync().await.unwrap();
            }
            let (outcome, buffer) = disk.read(block * 4096, IoBuf::zeroed(4096)).await;
            outcome.unwrap();
            assert!(buffer[..] == bytes[..]);
        });
    }
    tasks.finish().await.unwrap();
    assert_eq!(disk.len().unwrap(), BLOCKS * 4096);
    // In any order, some far from each other and some near, with one that lies beyond the end.
    let backwards: Vec<u64> = (0..=BLOCKS).rev().collect();
    let forwards: Vec<u64> = (0..=BLOCKS).collect();
    let gaps: Vec<u64> = (0..=BLOCKS).filter(|n| n % 50 < 30 && n % 3 != 1 || *n == BLOCKS).collect();
    for wanted in [backwards, forwards, gaps] {
        let mut buffers: Vec<IoBuf> = wanted.iter().map(|_| IoBuf::zeroed(4096)).collect();
        let mut reads: Vec<_> =
            wanted.iter().zip(&mut buffers).map(|(block, at)| (block * 4096, &mut at[..])).collect();
        let outcomes = disk.read_many_now(&mut reads);
        assert_eq!(outcomes.len(), wanted.len());
        for ((block, outcome), buffer) in wanted.iter().zip(outcomes).zip(&buffers) {
            assert_eq!(outcome.is_ok(), *block < BLOCKS, "block {block}");
            assert!(*block == BLOCKS || buffer[..] == pattern(*block, 4096)[..]);
        }
    }
}

/// Starts operations, drops them unfinished, and uses as much memory as it can get in their place: a
/// read that completed into a freed buffer would show in it.
async fn check_dropped_operations(path: &Path) {
    let disk = Disk::open(path, DIRECT).unwrap();
    disk.write_now(0, &[0xaa; 1 << 20]).unwrap();
    disk.sync_now().unwrap();
    for round in 0..50 {
        for _ in 0..20 {
            let mut reading = Box::pin(disk.read(0, IoBuf::zeroed(65_536)));
            let _ = reading.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if round % 2 == 0 {
                rt::yield_now().await;
            }
        }
        let mine: Vec<IoBuf> = (0..20).map(|_| IoBuf::zeroed(65_536)).collect();
        for _ in 0..5 {
            rt::yield_now().await;
        }
        assert!(mine.iter().all(|buffer| buffer.iter().all(|&byte| byte == 0)));
    }
    // Bystanders are still served.
    let (outcome, buffer) = disk.read(4096, IoBuf::zeroed(4096)).await;
    outcome.unwrap();
    assert!(buffer.iter().all(|&byte| byte == 0xaa));
}

fn check_lock(path: &Path) {
    let exclusive = OpenMode { create: true, direct: false, exclusive_lock: true };
    let held = Disk::open(path, exclusive).unwrap();
    let error = Disk::open(path, exclusive).unwrap_err();
    assert!(matches!(error, DiskError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by"), "{error}");
    let clone = held.clone();
    drop(held);
    assert!(Disk::open(path, exclusive).is_err());
    drop(clone);
    Disk::open(path, exclusive).unwrap();
}

/// What was opened to look at is read, measured and locked, and stays as it is.
async fn check_read_only(path: &Path) {
    Disk::open(path, CREATE).unwrap().write_now(0, &[7; 4096]).unwrap();
    let disk = Disk::open_read_only(path).unwrap();
    let mut bytes = [0; 4096];
    disk.read_now(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
    let refused = disk.write_now(0, &[8; 4096]).unwrap_err();
    assert!(refused.to_string().contains("for reading only"), "{refused}");
    assert!(
        disk.write(0, IoBuf::zeroed(4096)).await.0.is_err()
            && disk.write_durable(0, IoBuf::zeroed(4096)).await.0.is_err()
    );
    assert!(disk.set_len(1).is_err() && disk.allocate(1 << 30).is_err() && disk.discard(0, 4096).is_err());
    disk.sync_now().unwrap();
    disk.try_lock_exclusive().unwrap();
    assert!(Disk::open(path, OpenMode { exclusive_lock: true, ..CREATE }).is_err(), "the lock holds");
    disk.read_now(0, &mut bytes).unwrap();
    assert_eq!((bytes, disk.len().unwrap()), ([7; 4096], 4096));
    assert!(Disk::open_read_only(path.with_extension("none")).is_err(), "nothing is made");
}

async fn check_errors(dir: &Path) {
    let missing = Disk::open(dir.join("missing"), OpenMode::default()).unwrap_err();
    assert!(matches!(missing, DiskError::NotFound { .. }), "{missing}");
    assert!(Disk::open(dir.join("no/such/dir"), CREATE).is_err());
    assert!(Disk::open(dir, OpenMode::default()).is_err(), "a directory is no disk");
}

fn check_fs(dir: &Path) {
    let deep = dir.join("a/b/c");
    assert!(!fs::exists(&deep));
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(&deep).unwrap();
    assert!(fs::exists(&deep));
    let file = deep.join("f");
    fs::write_atomic(&file, b"one").unwrap();
    fs::write_atomic(&file, b"and two").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"and two");
    fs::write_atomic(deep.join("e"), b"").unwrap();
    assert_eq!(fs::read_dir(&deep).unwrap(), [deep.join("e"), file.clone()]);
    assert_eq!(fs::read_dir(dir.join("a")).unwrap(), [dir.join("a/b")]);
    fs::remove_file(&file).unwrap();
    assert!(matches!(fs::remove_file(&file), Err(DiskError::NotFound { .. })));
    assert!(matches!(fs::read(&file), Err(DiskError::NotFound { .. })));
    fs::remove_dir_all(dir.join("a")).unwrap();
    assert!(!fs::exists(&deep));
    assert!(matches!(fs::read_dir(&deep), Err(DiskError::NotFound { .. })));
    assert!(fs::free_space(dir).unwrap() > 0);
}

#[test]
fn a_file_system_conforms_through_the_ring() {
    // In the target directory: /tmp may be a tmpfs, which would not use the ring.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    rt::block_on(check_disk(dir.path()));
}

/// Without a current-thread runtime there is no ring, and the same calls are plain system calls.
#[test]
fn a_file_system_conforms_through_system_calls() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(check_disk(dir.path()));
}

#[test]
fn tmpfs_conforms_and_says_that_it_is_memory() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    rt::block_on(check_disk(dir.path()));
    assert!(Disk::open(dir.path().join("m"), DIRECT).unwrap().is_memory());
}

#[test]
fn the_simulated_disk_conforms() {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
    sim.run(check_disk(Path::new("/")));
}

#[test]
fn a_ring_survives_its_runtime() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("f");
    for round in 0..3u8 {
        rt::block_on(async {
            let disk = Disk::open(&path, DIRECT).unwrap();
            disk.write(0, IoBuf::from_slice(&[round; 4096])).await.0.unwrap();
            // Left in flight when the runtime goes.
            let mut late = Box::pin(disk.read(0, IoBuf::zeroed(4096)));
            let _ = late.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            rt::yield_now().await;
            let (outcome, buffer) = disk.read(0, IoBuf::zeroed(4096)).await;
            outcome.unwrap();
            assert!(buffer.iter().all(|&byte| byte == round));
        });
    }
}

#[test]
fn an_operation_moved_to_another_thread_still_completes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    rt::block_on(async {
        let disk = Disk::open(dir.path().join("f"), DIRECT).unwrap();
        disk.write(0, IoBuf::from_slice(&[9; 4096])).await.0.unwrap();
        let also = disk.clone();
        let mut reading = Box::pin(async move { also.read(0, IoBuf::zeroed(4096)).await });
        assert!(matches!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        let other = rt::spawn_thread("other", move || reading).unwrap();
        let (outcome, buffer) = other.await.unwrap();
        outcome.unwrap();
        assert!(buffer.iter().all(|&byte| byte == 9));
    });
}

/// As any disk within its length; no file system in memory is one that persistent memory could be behind.
#[test]
fn a_mapped_file_conforms_within_its_length() {
    let shm = Path::new("/dev/shm");
    let dirs = [Some(tempfile::tempdir().unwrap()), shm.is_dir().then(|| tempfile::tempdir_in(shm).unwrap())];
    for dir in dirs.into_iter().flatten() {
        let path = dir.path().join("mapped");
        assert!(matches!(Disk::open_mapped(&path, Dax::Emulated), Err(DiskError::NotFound { .. })));
        let file = Disk::open(&path, CREATE).unwrap();
        assert!(Disk::open_mapped(&path, Dax::Emulated).is_err(), "an empty file");
        file.allocate(1 << 20).unwrap();
        let disk = Disk::open_mapped(&path, Dax::Emulated).unwrap();
        assert!(disk.is_mapped() && !disk.is_block_device() && disk.path() == path);
        assert_eq!(disk.len().unwrap(), 1 << 20);
        rt::block_on(async {
            for (round, (offset, len)) in
                [(0, 4096), (1, 17), (63, 66), (4096, 500_000), ((1 << 20) - 1, 1)].into_iter().enumerate()
            {
                let bytes = pattern(round as u64, len);
                let (outcome, buffer) = disk.write_durable(offset, IoBuf::from_slice(&bytes)).await;
                outcome.unwrap();
                assert!(buffer[..] == bytes[..]);
                let (outcome, buffer) = disk.read(offset, IoBuf::for_read(len)).await;
                outcome.unwrap();
                assert!(buffer[..] == bytes[..]);
                let mut plain = vec![0; len];
                file.read_now(offset, &mut plain).unwrap();
                assert!(plain == bytes, "the file has it too");
            }
            let (outcome, _) = disk.read((1 << 20) - 1, IoBuf::for_read(2)).await;
            assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
            assert!(disk.write((1 << 20) - 1, IoBuf::from_slice(&[1, 2])).await.0.is_err());
            assert!(disk.write(u64::MAX, IoBuf::from_slice(&[1])).await.0.is_err());
            disk.sync().await.unwrap();
        });
        assert!(disk.set_len(1 << 19).is_err() && disk.allocate(2 << 20).is_err());
        disk.allocate(1 << 20).unwrap();
        disk.try_lock_exclusive().unwrap();
        assert!(matches!(file.try_lock_exclusive(), Err(DiskError::Locked { .. })));
    }
    if shm.is_dir() {
        let dir = tempfile::tempdir_in(shm).unwrap();
        let path = dir.path().join("not-pmem");
        Disk::open(&path, CREATE).unwrap().allocate(4096).unwrap();
        let error = Disk::open_mapped(&path, Dax::Required).unwrap_err();
        assert!(error.to_string().contains("dax: emulated"), "{error}");
    }
}

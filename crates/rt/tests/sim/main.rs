//! The simulator: determinism, virtual time, nodes that die, disks that forget, a network that loses.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rt::disk::{Disk, IoBuf, OpenMode, fs};
use rt::fault::When;
use rt::mem::{self, Frame, LinkError, MemLink};
use rt::sim::{self, DiskFault, Sim, SimConfig};
use rt::{Hlc, Instant};

mod network;

const CREATE: OpenMode = OpenMode { create: true, direct: false, exclusive_lock: false };
const MS: Duration = Duration::from_millis(1);

fn frame(text: &str) -> Frame {
    Frame { head: Bytes::copy_from_slice(text.as_bytes()), bulk: None }
}

/// A small cluster doing a bit of everything; what it computes and the digest of how.
fn busy_world(seed: u64) -> (u64, Vec<u8>) {
    let mut config = SimConfig::seeded(seed);
    config.network.drop = 0.1;
    config.network.duplicate = 0.1;
    let sim = Sim::new(config);
    let server = sim.node("server");
    let order = sim.run(async {
        let sim = sim::current();
        sim.spawn_on(server, async {
            let mut listener = mem::listen("server").unwrap();
            let disk = Disk::open("/log", CREATE).unwrap();
            let mut tasks = rt::TaskSet::new();
            let mut end = 0;
            while let Ok(mut link) = listener.accept().await {
                let disk = disk.clone();
                let offset = end;
                end += 1000;
                tasks.spawn(async move {
                    while let Some(frame) = link.recv().await {
                        disk.write(offset, IoBuf::from_slice(&frame.head)).await.0.unwrap();
                        disk.sync().await.unwrap();
                        let _ = link.send(frame).await;
                    }
                });
            }
        });
        rt::sleep(MS).await;
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let clients: Vec<_> = (0..5u8)
            .map(|client| {
                let order = Rc::clone(&order);
                rt::spawn_local(async move {
                    let mut link = mem::connect("server").await.unwrap();
                    for _ in 0..20 {
                        rt::sleep(Duration::from_micros(rt::random_u64() % 500)).await;
                        link.send(frame(&rt::random_uuid().to_string())).await.unwrap();
                        let _ = rt::timeout(10 * MS, link.recv()).await;
                        order.borrow_mut().push(client);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        order.take()
    });
    (sim.trace_hash(), order)
}

#[test]
fn the_same_seed_gives_the_same_trace_and_others_differ() {
    let runs: Vec<_> = (0..20).map(busy_world).collect();
    for (seed, run) in runs.iter().enumerate() {
        assert_eq!(*run, busy_world(seed as u64), "seed {seed}");
    }
    let traces: BTreeSet<u64> = runs.iter().map(|run| run.0).collect();
    let orders: BTreeSet<&[u8]> = runs.iter().map(|run| &run.1[..]).collect();
    assert_eq!((traces.len(), orders.len()), (20, 20));
}

#[test]
fn a_day_passes_at_once() {
    let sim = Sim::new(SimConfig::seeded(1));
    sim.run(async {
        let (start, wall) = (rt::now(), rt::wall_micros());
        rt::sleep(Duration::from_secs(86_400)).await;
        let passed = rt::now() - start;
        assert!(passed >= Duration::from_secs(86_400) && passed < Duration::from_secs(86_401));
        assert!(rt::wall_micros() - wall >= 86_400_000_000);
    });
    assert!(sim.elapsed() >= Duration::from_secs(86_400));
}

#[test]
fn timers_fire_in_order_and_can_be_cancelled() {
    Sim::new(SimConfig::seeded(2)).run(async {
        let start = rt::now();
        assert_eq!(rt::timeout(5 * MS, std::future::pending::<()>()).await, Err(rt::Elapsed));
        assert!(rt::now() >= start + 5 * MS);
        assert_eq!(rt::timeout(Duration::from_secs(3600), async { 1 }).await, Ok(1));
        rt::sleep_until(start).await;
        rt::sleep_until(start + 7 * MS).await;
        assert!(rt::now() - start < 8 * MS, "the timer of the hour is gone");
        // A loop that waits for time to pass ends, although nothing else happens.
        while rt::now() < start + 9 * MS {
            rt::yield_now().await;
        }
        while rt::now() < start + 9 * MS + Duration::from_micros(20) {}
    });
}

#[test]
#[should_panic(expected = "the simulation is stuck")]
fn a_deadlock_is_found() {
    Sim::new(SimConfig::seeded(3)).run(std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "time limit")]
fn an_endless_run_is_found() {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(60), ..SimConfig::seeded(3) });
    sim.run(async {
        rt::spawn(async {
            loop {
                rt::sleep(Duration::from_secs(1)).await;
            }
        });
        std::future::pending::<()>().await;
    });
}

#[test]
#[should_panic(expected = "a bug in a task")]
fn a_panic_in_a_task_fails_the_run() {
    Sim::new(SimConfig::seeded(4)).run(async {
        rt::spawn(async { panic!("a bug in a task") });
        rt::sleep(MS).await;
    });
}

#[test]
fn tasks_are_joined_aborted_and_owned() {
    struct OnDrop(Arc<AtomicU64>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let sim = Sim::new(SimConfig::seeded(5));
    sim.run(async {
        let drops = Arc::new(AtomicU64::new(0));
        assert_eq!(rt::spawn(async { 3 }).await, Ok(3));
        let thread = rt::spawn_thread("t", || async {
            let local = Rc::new(Cell::new(1));
            rt::sleep(MS).await;
            local.get()
        });
        assert_eq!(thread.unwrap().await, Ok(1));

        let guard = OnDrop(Arc::clone(&drops));
        let task = rt::spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await
        });
        rt::sleep(MS).await;
        task.abort();
        assert_eq!(task.await, Err(rt::JoinError::Cancelled));
        assert_eq!(drops.load(Relaxed), 1);

        let mut set = rt::TaskSet::new();
        for _ in 0..100 {
            let guard = OnDrop(Arc::clone(&drops));
            set.spawn(async move {
                rt::sleep(MS).await;
                drop(guard);
            });
        }
        set.finish().await.unwrap();
        assert_eq!(drops.load(Relaxed), 101);
        let mut set = rt::TaskSet::new();
        let guard = OnDrop(Arc::clone(&drops));
        set.spawn_local(async move {
            let _guard = guard;
            std::future::pending().await
        });
        drop(set);
        rt::sleep(MS).await;
        assert_eq!(drops.load(Relaxed), 102);
    });
}

#[test]
fn a_node_dies_with_all_its_tasks_and_returns_with_its_disks() {
    let sim = Sim::new(SimConfig::seeded(6));
    let node = sim.node("n");
    sim.run(async {
        let sim = sim::current();
        let beats = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&beats);
        let parent = sim.spawn_on(node, async move {
            assert_eq!(sim::current_node(), node);
            let disk = Disk::open("/f", OpenMode { exclusive_lock: true, ..CREATE }).unwrap();
            disk.write_now(0, b"kept").unwrap();
            disk.sync_now().unwrap();
            rt::spawn(async move {
                assert_eq!(sim::current_node(), node, "children live where their parents do");
                loop {
                    counter.fetch_add(1, Relaxed);
                    rt::sleep(MS).await;
                }
            });
            std::future::pending::<()>().await;
        });
        rt::sleep(10 * MS).await;
        assert!(beats.load(Relaxed) >= 9);
        sim.crash(node);
        assert!(!sim.is_up(node));
        assert_eq!(parent.await, Err(rt::JoinError::Cancelled));
        assert_eq!(sim.spawn_on(node, async {}).await, Err(rt::JoinError::Cancelled));
        let before = beats.load(Relaxed);
        rt::sleep(10 * MS).await;
        assert_eq!(beats.load(Relaxed), before);
        let found = sim.restart(node, async {
            // The lock died with the process.
            Disk::open("/f", OpenMode { exclusive_lock: true, ..CREATE }).unwrap();
            fs::read("/f").unwrap()
        });
        assert_eq!(found.await.unwrap(), b"kept");

        // A task may pull the plug of its own node.
        let suicide = sim.spawn_on(node, async move {
            sim::current().crash(node);
            std::future::pending::<()>().await;
        });
        assert_eq!(suicide.await, Err(rt::JoinError::Cancelled));
    });
}

/// The conformance test of real disks, as far as it concerns the simulated one too.
#[test]
fn a_simulated_disk_behaves_like_a_file() {
    Sim::new(SimConfig::seeded(7)).run(async {
        assert!(fs::read_dir("/").unwrap().is_empty());
        assert!(Disk::open("/a/f", CREATE).is_err());
        fs::create_dir_all("/a/b").unwrap();
        let disk = Disk::open("/a/b/f", CREATE).unwrap();
        assert!(disk.is_memory());
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
        for offset in [0, 4096, 1_000_001] {
            let (outcome, buffer) = disk.write(offset, IoBuf::from_slice(&bytes)).await;
            outcome.unwrap();
            let (outcome, buffer) = disk.read(offset, IoBuf::zeroed(buffer.len())).await;
            outcome.unwrap();
            assert!(buffer[..] == bytes[..]);
        }
        assert_eq!(disk.len().unwrap(), 1_070_001);
        let mut hole = [1; 1000];
        disk.read_now(500_000, &mut hole).unwrap();
        assert_eq!(hole, [0; 1000]);
        let error = disk.read_now(1_070_000, &mut [0; 2]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        disk.set_len(5000).unwrap();
        disk.set_len(9000).unwrap();
        let mut tail = [1; 4000];
        disk.read_now(5000, &mut tail).unwrap();
        assert_eq!(tail, [0; 4000]);
        disk.allocate(10_000).unwrap();
        disk.discard(0, 100).unwrap();
        let mut head = [1; 101];
        disk.read_now(0, &mut head).unwrap();
        assert_eq!((head[99], head[100]), (0, 100));
        fs::write_atomic("/a/g", b"two").unwrap();
        assert_eq!(fs::read("/a/./g").unwrap(), b"two");
        assert_eq!(fs::read_dir("/a").unwrap(), [std::path::Path::new("/a/b"), "/a/g".as_ref()]);
        let exclusive = OpenMode { exclusive_lock: true, ..CREATE };
        let held = Disk::open("/a/g", exclusive).unwrap();
        assert!(Disk::open("/a/g", exclusive).is_err());
        drop(held);
        Disk::open("/a/g", exclusive).unwrap();
        fs::remove_dir_all("/a").unwrap();
        assert!(!fs::exists("/a/b/f") && Disk::open("/a/b/f", OpenMode::default()).is_err());
        // Unlinked, but open.
        disk.write_now(0, b"x").unwrap();
    });
}

/// What a power cut leaves of a file that held `old` durably, `new` synced over a part of it, and
/// `newest` unsynced over another.
fn surviving(seed: u64) -> Vec<u8> {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("n");
    sim.run(async {
        let sim = sim::current();
        let task = sim.spawn_on(node, async {
            let disk = Disk::open("/f", CREATE).unwrap();
            disk.write(0, IoBuf::from_slice(&[1; 16_384])).await.0.unwrap();
            disk.sync().await.unwrap();
            disk.write_now(4096, &[2; 4096]).unwrap();
            disk.sync().await.unwrap();
            disk.write_now(8192, &[3; 4096]).unwrap();
            disk.write(12_288, IoBuf::from_slice(&[4; 8192])).await.0.unwrap();
            begin(disk.write(0, IoBuf::from_slice(&[5; 512]))).await;
        });
        task.await.unwrap();
        sim.crash(node);
        sim.restart(node, async { fs::read("/f").unwrap() }).await.unwrap()
    })
}

/// Polls a future once and drops it.
async fn begin(future: impl Future) {
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
}

#[test]
fn a_sync_does_not_cover_a_write_in_flight() {
    let lost = (0..50).filter(|&seed| {
        let sim = Sim::new(SimConfig::seeded(seed));
        let node = sim.node("n");
        sim.run(async {
            let sim = sim::current();
            let body = async {
                let disk = Disk::open("/f", CREATE).unwrap();
                disk.write_now(0, &[1; 512]).unwrap();
                begin(disk.write(0, IoBuf::from_slice(&[2; 512]))).await;
                // Begins before the write has ended, although it ends after it.
                disk.sync().await.unwrap();
            };
            sim.spawn_on(node, body).await.unwrap();
            sim.crash(node);
            let bytes = sim.restart(node, async { fs::read("/f").unwrap() }).await.unwrap();
            assert!(bytes.iter().all(|&byte| byte == 1 || byte == 2));
            bytes != [2; 512]
        })
    });
    assert!((5..45).contains(&lost.count()));
}

#[test]
fn a_simulation_leaves_no_memory_behind() {
    struct Owner(Arc<()>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            // Calls into the simulation even as it goes.
            assert!(Arc::strong_count(&self.0) > 0);
            &[1, 2, 3]
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            rt::now();
        }
    }
    let token = Arc::new(());
    let mut config = SimConfig::seeded(16);
    config.network.drop = 0.5;
    let sim = Sim::new(config);
    let node = sim.node("n");
    sim.run(async {
        sim::current().spawn_on(node, async {
            let mut listener = mem::listen("s").unwrap();
            let _unread = listener.accept().await.unwrap();
            let _unaccepted = listener;
            std::future::pending::<()>().await;
        });
        rt::sleep(MS).await;
        let link = mem::connect("s").await.unwrap();
        for _ in 0..40 {
            link.send(Frame { head: Bytes::from_owner(Owner(Arc::clone(&token))), bulk: None }).await.unwrap();
        }
        rt::spawn(rt::sleep(Duration::from_secs(1)));
        let _second = mem::connect("s").await.unwrap();
        link.send(Frame { head: Bytes::from_owner(Owner(Arc::clone(&token))), bulk: None }).await.unwrap();
    });
    assert!(Arc::strong_count(&token) > 1);
    drop(sim);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
#[should_panic(expected = "only yield to each other")]
fn a_livelock_is_found() {
    Sim::new(SimConfig::seeded(17)).run(async {
        loop {
            rt::yield_now().await;
        }
    });
}

#[test]
fn a_power_cut_tears_what_was_not_synced_and_nothing_else() {
    let mut seen = BTreeSet::new();
    let (mut torn, mut reordered, mut short) = (0, 0, 0);
    for seed in 0..300 {
        let bytes = surviving(seed);
        assert!(bytes[512..4096].iter().all(|&byte| byte == 1), "seed {seed}");
        assert!(bytes[4096..8192].iter().all(|&byte| byte == 2), "seed {seed}");
        assert!((16_384..=20_480).contains(&bytes.len()), "seed {seed}");
        assert!(bytes[..512].iter().all(|&byte| byte == 1 || byte == 5));
        assert!(bytes[8192..12_288].iter().all(|&byte| byte == 1 || byte == 3));
        let kept: Vec<bool> = bytes[8192..12_288].chunks(512).map(|sector| sector[0] == 3).collect();
        torn += usize::from(bytes[8192..12_288].chunks(512).any(|sector| sector[0] != sector[511]));
        reordered += usize::from(bytes[12_288] == 4 && !kept[0]);
        short += usize::from(bytes.len() < 20_480);
        seen.insert(kept);
    }
    assert!(seen.len() > 30, "{} different outcomes", seen.len());
    assert!(torn > 5 && reordered > 20 && short > 20, "{torn} {reordered} {short}");
}

#[test]
fn a_killed_process_loses_nothing_it_wrote() {
    for seed in 0..20 {
        let sim = Sim::new(SimConfig::seeded(seed));
        let node = sim.node("n");
        sim.run(async {
            let sim = sim::current();
            let writer =
                sim.spawn_on(node, async { Disk::open("/f", CREATE).unwrap().write_now(0, &[7; 9000]).unwrap() });
            writer.await.unwrap();
            sim.kill(node);
            let sync = sim.restart(node, async { Disk::open("/f", CREATE).unwrap().sync_now().unwrap() });
            sync.await.unwrap();
            sim.crash(node);
            let bytes = sim.restart(node, async { fs::read("/f").unwrap() }).await.unwrap();
            assert_eq!(bytes, [7; 9000]);
        });
    }
}

#[test]
fn every_event_of_a_recording_can_be_the_last() {
    let sim = Sim::new(SimConfig::seeded(8));
    let node = sim.node("n");
    let recorder = sim.record(node);
    let marks = Arc::new(std::sync::Mutex::new(Vec::new()));
    sim.run(async {
        let (recorder, marks) = (recorder.clone(), Arc::clone(&marks));
        let work = async move {
            fs::create_dir_all("/d").unwrap();
            let disk = Disk::open("/d/log", CREATE).unwrap();
            for entry in 0..20u8 {
                disk.write(u64::from(entry) * 700, IoBuf::from_slice(&[entry + 1; 700])).await.0.unwrap();
                disk.sync().await.unwrap();
                // Acknowledged: it must survive a power cut after this many events.
                marks.lock().unwrap().push(recorder.events());
            }
            fs::write_atomic("/d/done", b"yes").unwrap();
        };
        sim::current().spawn_on(node, work).await.unwrap();
    });
    let marks = marks.lock().unwrap().clone();
    let mut replay = recorder.replay();
    let mut unsynced_survived = false;
    loop {
        let acknowledged = marks.iter().filter(|&&mark| mark <= replay.events()).count();
        for seed in 0..10 {
            let again = Sim::new(SimConfig::seeded(seed));
            let node = again.node("n");
            again.install(node, &replay.power_cut(seed));
            let bytes = again.run(async {
                let read = async { fs::read("/d/log").unwrap_or_default() };
                sim::current().spawn_on(node, read).await.unwrap()
            });
            for entry in 0..acknowledged {
                assert_eq!(bytes[entry * 700..][..700], [entry as u8 + 1; 700], "after {} events", replay.events());
            }
            unsynced_survived |= bytes.len() > acknowledged * 700;
        }
        if !replay.step() {
            break;
        }
    }
    assert!(unsynced_survived);
    assert_eq!(replay.events(), recorder.events());
    let last = recorder.power_cut(usize::MAX, 1);
    let again = Sim::new(SimConfig::seeded(0));
    let node = again.node("n");
    again.install(node, &last);
    again.run(async {
        sim::current().spawn_on(node, async { assert_eq!(fs::read("/d/done").unwrap(), b"yes") }).await.unwrap();
    });
}

#[test]
fn disks_fail_as_told() {
    let sim = Sim::new(SimConfig::seeded(9));
    let node = sim.node("n");
    sim.run(async {
        let sim = sim::current();
        let body = async move {
            let sim = sim::current();
            fs::create_dir_all("/d").unwrap();
            let disk = Disk::open("/d/f", CREATE).unwrap();
            disk.write_now(0, &[1; 1024]).unwrap();
            disk.sync_now().unwrap();

            sim.disk_fault(node, "/d", DiskFault::ReadError, When::Count { skip: 1, times: 1 });
            let mut bytes = [0; 4];
            disk.read_now(0, &mut bytes).unwrap();
            let error = disk.read(0, IoBuf::zeroed(4)).await.0.unwrap_err();
            assert!(error.to_string().contains("/d/f"), "{error}");
            disk.read_now(0, &mut bytes).unwrap();

            sim.disk_fault(node, "/d/f", DiskFault::Full, When::ONCE);
            let error = disk.write(0, IoBuf::zeroed(4)).await.0.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

            sim.disk_fault(node, "/", DiskFault::Stall(Duration::from_secs(5)), When::ONCE);
            let start = rt::now();
            disk.write(0, IoBuf::from_slice(&[2; 4])).await.0.unwrap();
            assert!(start.elapsed() >= Duration::from_secs(5));

            sim.disk_fault(node, "/other", DiskFault::WriteError, When::Chance(1.0));
            disk.write_now(0, &[3; 4]).unwrap();
            sim.disk_fault(node, "/d", DiskFault::WriteError, When::Chance(1.0));
            assert!(disk.write_now(0, &[4; 4]).is_err());
            sim.clear_disk_faults(node);

            sim.flip_bit(node, "/d/f", 8 * 100 + 3);
            disk.read_now(100, &mut bytes).unwrap();
            assert_eq!(bytes, [1 ^ 8, 1, 1, 1]);

            sim.set_disk_bytes(node, 2000);
            assert_eq!(fs::free_space("/").unwrap(), 2000 - 1024);
            assert_eq!(disk.write_now(1024, &[1; 1000]).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            assert_eq!(disk.allocate(2001).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
            disk.allocate(2000).unwrap();
            disk.sync_now().unwrap();

            sim.disk_fault(node, "/", DiskFault::SyncError, When::ONCE);
            disk.write_now(0, &[9; 4]).unwrap();
            assert!(disk.sync().await.is_err());
            disk.sync().await.unwrap();
        };
        sim.spawn_on(node, body).await.unwrap();
    });
}

#[test]
fn a_lying_sync_loses_what_it_promised() {
    let lost = (0..50).filter(|&seed| {
        let sim = Sim::new(SimConfig::seeded(seed));
        let node = sim.node("n");
        sim.run(async {
            let sim = sim::current();
            sim.disk_fault(node, "/", DiskFault::LostSync, When::ONCE);
            let body = async {
                let disk = Disk::open("/f", CREATE).unwrap();
                disk.write_now(0, &[1; 512]).unwrap();
                disk.sync_now().unwrap();
            };
            sim.spawn_on(node, body).await.unwrap();
            sim.crash(node);
            sim.restart(node, async { fs::read("/f").unwrap() }).await.unwrap() != [1; 512]
        })
    });
    assert!((10..50).contains(&lost.count()));
}

#[test]
fn each_node_has_its_own_calendar() {
    let sim = Sim::new(SimConfig::seeded(13));
    let (ahead, behind) = (sim.node("ahead"), sim.node("behind"));
    sim.set_clock_skew(ahead, 30_000);
    sim.set_clock_skew(behind, -30_000);
    sim.run(async {
        let sim = sim::current();
        let fast = sim.spawn_on(ahead, async { Hlc::new().now() }).await.unwrap();
        let observe = move || async move {
            let clock = Hlc::new();
            clock.observe(fast).map(|()| assert!(clock.now() > fast))
        };
        observe().await.unwrap();
        let error = sim.spawn_on(behind, observe()).await.unwrap().unwrap_err();
        assert!((50_000..70_000).contains(&error.ahead_micros), "{error}");
    });
}

#[test]
fn fault_points_belong_to_their_simulation() {
    let sim = Sim::new(SimConfig::seeded(14));
    sim.arm("sim.test", When::Chance(0.5));
    assert!((0..100).all(|_| !rt::fault!("sim.test")));
    sim.run(async {
        let struck = (0..1000).filter(|_| rt::fault!("sim.test")).count();
        assert!((400..600).contains(&struck));
        rt::fault::disarm("sim.test");
        assert!(!rt::fault!("sim.test"));
    });
}

/// The promises of the crate's header about what may cross threads.
#[test]
fn handles_are_send() {
    fn check<T: Send>() {}
    check::<rt::JoinHandle<u8>>();
    check::<rt::ThreadHandle<u8>>();
    check::<rt::Sleep>();
    check::<Instant>();
    check::<Disk>();
    check::<IoBuf>();
    check::<MemLink>();
    check::<mem::MemListener>();
    check::<rt::stream::Stream>();
    fn shared<T: Sync>() {}
    shared::<Disk>();
    fn future(_: impl Send) {}
    let disk = || -> Disk { unreachable!() };
    if false {
        let disk = disk();
        future(disk.read(0, IoBuf::default()));
        future(disk.write(0, IoBuf::default()));
        future(disk.sync());
        future(mem::connect("x"));
        future(rt::yield_now());
        future(rt::timeout(MS, rt::sleep(MS)));
    }
}

#[test]
fn streams_are_refused() {
    Sim::new(SimConfig::seeded(15)).run(async {
        let error = rt::stream::Stream::connect_tcp("127.0.0.1:1").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    });
}

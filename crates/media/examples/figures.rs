//! Prints what the store costs beside the bare device: `cargo run --release -p media --example figures -- DIR`.

use std::time::Duration;

use media::{Existing, Identity, PAGE_BYTES, PageId, Region, Regions, Reserve, Store};
use rt::disk::{Disk, IoBuf, OpenMode};

const RECORD_BYTES: usize = 130;
const BUDGET: usize = 512 << 20;

fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "/dev/shm".to_owned());
    rt::block_on(async move {
        append_rate(&directory);
        page_get();
        for _ in 0..3 {
            durable(&directory).await;
        }
        checkpoint(&directory).await;
    });
}

fn open(directory: &str, name: &str) -> Disk {
    let mode = OpenMode { create: true, direct: true, exclusive_lock: false };
    Disk::open(format!("{directory}/{name}"), mode).expect("the directory can be written")
}

fn store(directory: &str, log_bytes: u64) -> Store {
    let log = Region::new(open(directory, "figures.log"), 0, log_bytes);
    let data = Region::new(open(directory, "figures.data"), 0, 4 << 30);
    let identity = Identity { store: [7; 16], target: 0 };
    Store::format(Regions { log, metadata: None, data }, identity, BUDGET, Existing::Destroy)
        .expect("the store can be made")
}

fn each(what: &str, count: u64, took: Duration) {
    let nanos = took.as_nanos() as f64 / count as f64;
    println!("{what:<58} {nanos:>10.1} ns  {:>12.0} /s", 1e9 / nanos);
}

fn append_rate(directory: &str) {
    let store = store(directory, 256 << 20);
    let payload = [7u8; RECORD_BYTES];
    for round in 0..5 {
        let count = 200_000;
        let start = rt::now();
        for _ in 0..count {
            store.append(1, &[&payload], Reserve::Normal).expect("the log has room");
        }
        let appended = rt::now() - start;
        store.flush_now().expect("the device works");
        let flushed = rt::now() - start;
        store.checkpoint_blocking().expect("the device works");
        if round > 0 {
            each("append 130 B", count, appended);
            each("append 130 B with its share of one flush", count, flushed);
        }
    }
}

fn page_get() {
    for (count, what) in [(512u32, "4 MiB"), (32 << 10, "256 MiB")] {
        let mut pages = media::Pages::in_memory(BUDGET).expect("memory");
        let ids: Vec<PageId> = (0..count).map(|_| pages.allocate().expect("memory")).collect();
        let rounds = 20_000_000u64;
        let mut at = 1u32;
        let mut sum = 0u64;
        let start = rt::now();
        for _ in 0..rounds {
            at = at.wrapping_mul(1664525).wrapping_add(1013904223);
            let page = pages.get(ids[(at >> 8) as usize & (count as usize - 1)]).expect("resident");
            sum += page as *const media::Page as u64;
        }
        each(&format!("page get, random of {what} (address only)"), rounds, rt::now() - start);
        let start = rt::now();
        for _ in 0..rounds {
            at = at.wrapping_mul(1664525).wrapping_add(1013904223);
            sum += pages.get(ids[(at >> 8) as usize & (count as usize - 1)]).expect("resident").body()[40] as u64;
        }
        each(&format!("page get, random of {what}, and one byte of it"), rounds, rt::now() - start);
        std::hint::black_box(sum);
    }
}

async fn durable(directory: &str) {
    let bare = open(directory, "figures.bare");
    let block = IoBuf::zeroed(4096);
    let mut whole = IoBuf::zeroed(1 << 20);
    whole.fill(1);
    for chunk in 0..64u64 {
        bare.write_now(chunk << 20, &whole).expect("the device works");
    }
    bare.sync_now().expect("the device works");
    let count = 2000u64;
    let start = rt::now();
    for index in 0..count {
        bare.write_now(index * 4096, &block).expect("the device works");
        bare.sync_now().expect("the device works");
    }
    each("bare write of 4 KiB + fdatasync", count, rt::now() - start);

    let store = store(directory, 64 << 20);
    let payload = [7u8; RECORD_BYTES];
    let start = rt::now();
    for _ in 0..count {
        store.append(1, &[&payload], Reserve::Normal).expect("the log has room");
        store.flush_now().expect("the device works");
    }
    each("append + flush_now, depth 1", count, rt::now() - start);
    store.start();
    let start = rt::now();
    for _ in 0..count {
        let lsn = store.append(1, &[&payload], Reserve::Normal).expect("the log has room");
        store.durable(lsn).await.expect("the device works");
    }
    each("append + durable, depth 1", count, rt::now() - start);
    for depth in [16u64, 256] {
        let each_does = 200_000 / 256;
        let start = rt::now();
        let tasks: Vec<_> = (0..depth)
            .map(|_| {
                let store = store.clone();
                rt::spawn_local(async move {
                    for _ in 0..each_does {
                        let lsn = loop {
                            match store.append(1, &[&[7u8; RECORD_BYTES]], Reserve::Normal) {
                                Ok(lsn) => break lsn,
                                Err(_) => store.relieved().await.expect("the device works"),
                            }
                        };
                        store.durable(lsn).await.expect("the device works");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        each(&format!("append + durable, depth {depth}"), depth * each_does, rt::now() - start);
    }
    store.stop().await.expect("the device works");
}

/// The longest time the thread is kept from others while a checkpoint of many pages runs.
async fn checkpoint(directory: &str) {
    let store = store(directory, 64 << 20);
    store.start();
    let count = 24_000;
    for _ in 0..count {
        let mut pages = store.pages();
        pages.begin_op();
        let id = pages.allocate().expect("memory");
        pages.get_mut(id).expect("resident").body_mut()[0] = 1;
    }
    let other = rt::spawn_local(async {
        let (mut worst, mut last) = (Duration::ZERO, rt::now());
        loop {
            rt::yield_now().await;
            let now = rt::now();
            worst = worst.max(now - last);
            last = now;
            WORST.with(|cell| cell.set(worst));
        }
    });
    let start = rt::now();
    store.checkpoint_now().await.expect("the device works");
    let took = rt::now() - start;
    other.abort();
    let bytes = count as f64 * PAGE_BYTES as f64;
    println!(
        "checkpoint of {count} pages: {took:.1?}, {:.2} GiB/s, longest pause {:.1?}",
        bytes / took.as_secs_f64() / (1u64 << 30) as f64,
        WORST.with(std::cell::Cell::get)
    );
    store.stop().await.expect("the device works");
}

thread_local! {
    static WORST: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

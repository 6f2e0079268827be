//! Three server processes, of which one dies and comes back: how fast its copies are made anew elsewhere, how fast it is
//! brought up to date, and what is left to clients meanwhile.
//!
//! # Shape
//! With two copies on three servers, the two that live stand in for the third: all that it had is copied. With three, nobody
//! can; when it is back, it compares what it has with what the others have, and gets what it missed.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use client::{RebuildState, TargetChange};
use types::Rank;

use crate::cluster::{Cluster, POOL, SERVERS, all, clients, new_kv};
use crate::figure::{Figure, Samples, Unit};
use crate::measure::{Chance, Plan, key, timed};
use crate::place::Place;

const BENCH: &str = "rebuild";
/// What is stored when a server dies, to be copied: values, and bytes of each.
const COPIED: [(usize, usize); 2] = [(512, 1 << 20), (32_768, 4 << 10)];
/// What is stored when a server dies that comes back.
const STORED: (usize, usize) = (16_384, 16 << 10);
/// Clients that fill, and that go on while data is on its way.
const FOREGROUND: usize = 16;
/// How long their rate is measured with nothing else to do.
const CALM: Duration = Duration::from_secs(5);

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Memory.directory(plan)?;
    let mut cluster = Cluster::three(directory.path(), &[])?;
    let mut figures = Vec::new();
    for stored in COPIED {
        figures.extend(copies_made_anew(plan, &mut cluster, directory.path(), stored)?);
    }
    figures.extend(return_of_one(plan, &mut cluster, directory.path())?);
    Ok(figures)
}

/// What a server had is copied by the others when an administrator excludes it: with nothing else to do, and with clients
/// that go on. A dead one would be excluded seconds after its death, and nobody hears at which moment.
fn copies_made_anew(
    plan: &Plan,
    cluster: &mut Cluster,
    directory: &Path,
    (values, bytes): (usize, usize),
) -> Result<Vec<Figure>> {
    let [mut alone, mut beside, mut raw, mut calm, mut meanwhile] = std::array::from_fn(|_| Samples::default());
    let victim = SERVERS - 1;
    for round in 0..plan.rounds.min(3) {
        for is_busy in [false, true] {
            let name = format!("anew-{bytes}-{round}-{is_busy}");
            let object = fill(cluster, &name, 1, (values, bytes))?;
            let mib = held(cluster, victim)? / f64::from(1u32 << 20);
            let puts = Arc::new(AtomicU64::new(0));
            let over = Arc::new(AtomicBool::new(false));
            let clients = is_busy.then(|| foreground(cluster, &name, object, puts.clone(), over.clone()));
            if is_busy {
                std::thread::sleep(CALM / 5);
            }
            let before = puts.load(Ordering::Acquire);
            let (seconds, done) = timed(|| {
                change(cluster, TargetChange::Exclude, victim)?;
                until_idle(cluster)
            });
            done?;
            let rate = |seconds: f64, before: u64| (puts.load(Ordering::Acquire) - before) as f64 / seconds;
            match clients {
                None => {
                    alone.push(mib / seconds);
                    raw.push(mib / raw_copy(directory, (mib * f64::from(1u32 << 20)) as usize)?);
                }
                Some(clients) => {
                    beside.push(mib / seconds);
                    meanwhile.push(rate(seconds, before));
                    let before = puts.load(Ordering::Acquire);
                    std::thread::sleep(CALM);
                    calm.push(rate(CALM.as_secs_f64(), before));
                    over.store(true, Ordering::Release);
                    clients.join().expect("clients do not panic")?;
                }
            }
            change(cluster, TargetChange::Reintegrate, victim)?;
            cluster.until_whole(POOL)?;
            rt::block_on(async { drop_container(cluster, &name).await })?;
        }
    }
    let size = if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
    let figure = |what: String, unit, samples| Figure::new(BENCH, what, unit, samples);
    Ok(vec![
        figure(format!("copies of {size} made anew, nothing else to do"), Unit::MibPerSecond, alone)
            .beside("raw copy", raw),
        figure(format!("copies of {size} made anew, {FOREGROUND} clients"), Unit::MibPerSecond, beside),
        figure(format!("put 64 B depth {FOREGROUND} meanwhile"), Unit::PerSecond, meanwhile).beside("afterwards", calm),
    ])
}

/// Bytes that a server's target uses of the pool.
fn held(cluster: &Cluster, server: usize) -> Result<f64> {
    rt::block_on(async {
        let targets = cluster.connect().await?.query_targets(POOL, Rank(server as u32), Vec::new()).await?;
        Ok(targets.iter().filter_map(|target| target.space.as_ref()).map(|space| space.used as f64).sum())
    })
}

fn change(cluster: &Cluster, change: TargetChange, server: usize) -> Result<()> {
    rt::block_on(async {
        let system = cluster.connect().await?;
        system.change_targets(POOL, change, vec![Rank(server as u32)], Vec::new(), false).await?;
        anyhow::Ok(())
    })
}

fn until_idle(cluster: &Cluster) -> Result<()> {
    cluster.until("lost copies to be made anew", async |system| {
        Ok(system.pool_info(POOL).await?.rebuild.state == RebuildState::Idle)
    })
}

async fn drop_container(cluster: &Cluster, name: &str) -> Result<()> {
    Ok(cluster.connect().await?.pool(POOL).await?.destroy_container(name).await?)
}

/// A new container that bears so many failures, with so many values; which object they are in.
fn fill(cluster: &Cluster, name: &str, failures: usize, (values, bytes): (usize, usize)) -> Result<client::ObjectId> {
    rt::block_on(async {
        let container = cluster.container(POOL, name, failures).await?;
        let object = new_kv(&container).await?.object().id();
        let mut tasks = Vec::new();
        for (task, kv) in clients(&cluster.addresses(), name, object, FOREGROUND).await?.into_iter().enumerate() {
            tasks.push(rt::spawn(async move {
                let mut value = vec![0; bytes];
                Chance::new(task as u64).fill(&mut value);
                for n in 0..values / FOREGROUND {
                    kv.put(&key(task + n * FOREGROUND), &value).await?;
                }
                anyhow::Ok(())
            }));
        }
        all(tasks).await?;
        anyhow::Ok(object)
    })
}

/// A server that was dead gets everything again: how fast, and what is left to clients meanwhile.
fn return_of_one(plan: &Plan, cluster: &mut Cluster, directory: &Path) -> Result<Vec<Figure>> {
    let (values, bytes) = STORED;
    let [mut rebuilt, mut raw, mut calm, mut meanwhile] = std::array::from_fn(|_| Samples::default());
    for round in 0..plan.rounds.min(3) {
        let name = format!("return-{round}");
        let kv = fill(cluster, &name, SERVERS - 1, STORED)?;
        let victim = SERVERS - 1;
        cluster.kill(victim)?;
        cluster.until_missed(POOL)?;
        let puts = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let clients = foreground(cluster, &name, kv, puts.clone(), over.clone());
        let rate = |seconds: f64, before: u64| (puts.load(Ordering::Acquire) - before) as f64 / seconds;
        let before = puts.load(Ordering::Acquire);
        std::thread::sleep(CALM);
        calm.push(rate(CALM.as_secs_f64(), before));
        let before = puts.load(Ordering::Acquire);
        let (seconds, back) = timed(|| cluster.start_again(victim).and_then(|()| cluster.until_whole(POOL)));
        meanwhile.push(rate(seconds, before));
        over.store(true, Ordering::Release);
        clients.join().expect("clients do not panic")?;
        back?;
        let mib = (values * bytes) as f64 / f64::from(1u32 << 20);
        rebuilt.push(mib / seconds);
        raw.push(mib / raw_copy(directory, values * bytes)?);
    }
    Ok(vec![
        Figure::new(BENCH, "server back until it has all its data and serves", Unit::MibPerSecond, rebuilt)
            .beside("raw copy", raw),
        Figure::new(
            BENCH,
            format!("put 64 B depth {FOREGROUND} while a server gets its data"),
            Unit::PerSecond,
            meanwhile,
        )
        .beside("before, with the server dead", calm),
    ])
}

fn foreground(
    cluster: &Cluster,
    container: &str,
    object: client::ObjectId,
    puts: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> std::thread::JoinHandle<Result<()>> {
    let (addresses, container) = (cluster.addresses(), container.to_string());
    std::thread::spawn(move || {
        rt::block_on(async move {
            let tasks = clients(&addresses, &container, object, FOREGROUND).await?.into_iter().enumerate();
            let tasks = tasks.map(|(task, kv)| {
                let (puts, over) = (puts.clone(), over.clone());
                rt::spawn(async move {
                    // Beside what is stored already: that is to come back as it is.
                    for n in STORED.0.. {
                        if over.load(Ordering::Acquire) {
                            break;
                        }
                        kv.put(&key(task + n * FOREGROUND), &[7; 64]).await?;
                        puts.fetch_add(1, Ordering::AcqRel);
                    }
                    anyhow::Ok(())
                })
            });
            all(tasks.collect()).await
        })
    })
}

/// Seconds for writing so many bytes, reading them, writing them elsewhere, and syncing that: less the first write.
fn raw_copy(directory: &Path, bytes: usize) -> Result<f64> {
    let (from, to) = (directory.join("raw-from"), directory.join("raw-to"));
    let mut content = vec![0; 1 << 20];
    let mut file = std::fs::File::create(&from)?;
    for n in 0..bytes.div_ceil(content.len()) {
        Chance::new(n as u64).fill(&mut content);
        file.write_all(&content)?;
    }
    file.sync_all()?;
    let (seconds, copied) = timed(|| std::fs::copy(&from, &to).and_then(|_| std::fs::File::open(&to)?.sync_all()));
    copied?;
    for gone in [from, to] {
        std::fs::remove_file(gone)?;
    }
    Ok(seconds)
}

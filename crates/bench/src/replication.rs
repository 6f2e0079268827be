//! Three server processes of one target each: what copies cost, how long a death is felt, how fast copies come back.
//!
//! # Shape
//! All servers and the client share this machine, so rates say less than the processor time of all servers together, and
//! each is told beside what it is without copies, in the same rounds. Storage lies in memory: what a disk costs is in the
//! chapter `server`, and three logs on one disk would measure that disk.
//!
//! # Not here
//! Rounds of network and log on the critical path: a test counts them (`engine/tests/groups`).

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use client::{Container, Kv, ObjectType};

use crate::cluster::Cluster;
use crate::drive::{get, put};
use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Chance, Plan, key, timed};
use crate::place::Place;

const BENCH: &str = "replication";
const SERVERS: usize = 3;
const SETTINGS: [&str; 6] = ["--targets", "1", "--size", "3GiB", "--parent", ""];
const POOL: &str = "bench";
const POOL_BYTES: u64 = 6 << 30;
const FAILURES: [usize; 3] = [0, 1, 2];
/// Value size, depth, operations a round.
const ROWS: [(usize, usize, usize); 4] = [(64, 1, 2_000), (64, 64, 30_000), (4096, 1, 2_000), (4096, 64, 15_000)];
/// What is stored when a server dies, to be copied: values, and bytes of each.
const STORED: (usize, usize) = (16_384, 16 << 10);
/// Clients that go on while a server comes back.
const FOREGROUND: usize = 16;
/// How long their rate is measured with nothing else to do.
const CALM: Duration = Duration::from_secs(5);
/// The longest wait for a put that succeeds again.
const FELT_MAX: Duration = Duration::from_secs(60);

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Memory.directory(plan)?;
    let process = std::process::id().to_string();
    let mut settings = SETTINGS;
    settings[5] = &process;
    let mut cluster = Cluster::start(directory.path(), SERVERS, &settings)?;
    cluster.create_pool(POOL, POOL_BYTES)?;
    let mut figures = Vec::new();
    for row in ROWS {
        figures.extend(copies(plan, &cluster, row)?);
    }
    figures.extend(deaths(plan, &mut cluster)?);
    figures.extend(return_of_one(plan, &mut cluster, directory.path())?);
    Ok(figures)
}

/// Samples of puts and gets, and of processor time for each.
#[derive(Default)]
struct Costs {
    puts: Samples,
    gets: Samples,
    put_us: Samples,
    get_us: Samples,
}

/// A measurement: its name, its unit, and where it stands.
type Pick = (&'static str, Unit, fn(&Costs) -> &Samples);

/// Rates and processor time with no, one and two copies more, in turns.
fn copies(plan: &Plan, cluster: &Cluster, (bytes, depth, count): (usize, usize, usize)) -> Result<Vec<Figure>> {
    let mut costs: [Costs; FAILURES.len()] = Default::default();
    rt::block_on(async {
        let mut stores = Vec::new();
        for failures in FAILURES {
            let container = cluster.container(POOL, &format!("copies-{bytes}-{depth}-{failures}"), failures).await?;
            stores.push(new_kv(&container).await?);
        }
        for kv in &stores {
            put(kv, bytes, depth, count / 4).await?;
        }
        for _ in 0..plan.rounds {
            for (kv, costs) in stores.iter().zip(&mut costs) {
                let before = cluster.processor_seconds()?;
                costs.puts.push(put(kv, bytes, depth, count).await?);
                let between = cluster.processor_seconds()?;
                costs.gets.push(get(kv, bytes, depth, count).await?);
                let after = cluster.processor_seconds()?;
                costs.put_us.push((between - before) * 1e6 / count as f64);
                costs.get_us.push((after - between) * 1e6 / count as f64);
            }
        }
        for kv in &stores {
            kv.destroy().await?;
        }
        anyhow::Ok(())
    })?;
    let mut figures = Vec::new();
    let pick: [Pick; 4] = [
        ("put", Unit::PerSecond, |costs| &costs.puts),
        ("get", Unit::PerSecond, |costs| &costs.gets),
        ("put, processor of all servers", Unit::Microseconds, |costs| &costs.put_us),
        ("get, processor of all servers", Unit::Microseconds, |costs| &costs.get_us),
    ];
    for (what, unit, samples) in pick {
        for (failures, costs_of) in FAILURES.iter().zip(&costs) {
            let name = format!("{what}, {bytes} B depth {depth}, rd_fac {failures}");
            let figure = Figure::new(BENCH, name, unit, samples(costs_of).clone());
            figures.push(match failures {
                0 => figure,
                _ => figure.beside("rd_fac 0", samples(&costs[0]).clone()),
            });
        }
    }
    Ok(figures)
}

/// From kill -9 of the server that leads the services, and a third of the groups, until a client that puts on and on has
/// its next success, in the group that is worst off; and until a pool's service takes a change.
fn deaths(plan: &Plan, cluster: &mut Cluster) -> Result<Vec<Figure>> {
    let (mut data, mut service) = (Samples::default(), Samples::default());
    for round in 0..plan.rounds {
        let victim = cluster.leader()?;
        let beat = Beat::start(cluster, round)?;
        let calls = Changes::start(cluster)?;
        std::thread::sleep(Duration::from_secs(1));
        let died = cluster.kill(victim)?;
        data.push(beat.felt(died)?.as_secs_f64() * 1e6);
        service.push(calls.felt(died)?.as_secs_f64() * 1e6);
        cluster.until_missed(POOL)?;
        cluster.start_again(victim)?;
        cluster.until_whole(POOL)?;
    }
    let figure = |name: &str, samples| Figure::new(BENCH, name, Unit::Microseconds, samples);
    Ok(vec![
        figure("kill -9 of the leader until every group takes puts again", data).budget(Budget::Ceiling(3e6)),
        figure("kill -9 of the leader until the pool's service takes changes again", service)
            .budget(Budget::Ceiling(3e6)),
    ])
}

/// The last success of a task: when it was asked for and when it was answered, in microseconds since the beginning.
#[derive(Default)]
struct Success {
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Success {
    /// Of what was asked for so long after the beginning.
    fn note(&self, asked: Duration, began: Instant) {
        // In this order: who reads it meanwhile finds a success that took too long, and no success that there was not.
        self.answered.store(began.elapsed().as_micros() as u64, Ordering::Release);
        self.asked.store(asked.as_micros() as u64, Ordering::Release);
    }
}

/// A client that does something on and on, on a thread of its own, and notes when each of its tasks succeeded last.
struct Watched {
    /// For each task.
    last: Arc<Vec<Success>>,
    began: Instant,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Watched {
    /// The longest that any task had to wait after `at` for the success of what it asked for after `at`: what was answered
    /// right then had been done before.
    fn felt(mut self, at: Instant) -> Result<Duration> {
        let since = (at - self.began).as_micros() as u64;
        let mut firsts = vec![None; self.last.len()];
        let deadline = Instant::now() + FELT_MAX;
        while firsts.iter().any(Option::is_none) {
            if self.over.load(Ordering::Acquire) {
                break;
            }
            anyhow::ensure!(Instant::now() < deadline, "no success for {FELT_MAX:?}");
            for (first, last) in firsts.iter_mut().zip(&*self.last) {
                if first.is_none() && last.asked.load(Ordering::Acquire) > since {
                    *first = Some(last.answered.load(Ordering::Acquire).saturating_sub(since));
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.over.store(true, Ordering::Release);
        self.thread.take().context("it is ended once")?.join().expect("clients do not panic")?;
        Ok(Duration::from_micros(firsts.into_iter().flatten().max().unwrap_or(0)))
    }
}

/// Puts to keys that lie in many groups.
struct Beat;

impl Beat {
    const TASKS: usize = 32;

    fn start(cluster: &Cluster, round: usize) -> Result<Watched> {
        let name = format!("beat-{round}");
        let addresses = cluster.addresses();
        let object = rt::block_on(async {
            let container = cluster.container(POOL, &name, SERVERS - 1).await?;
            anyhow::Ok(new_kv(&container).await?.object().id())
        })?;
        watch(Beat::TASKS, move |last, began, over| async move {
            let tasks =
                clients(&addresses, &name, object, Beat::TASKS).await?.into_iter().enumerate().map(|(task, kv)| {
                    let (last, over) = (last.clone(), over.clone());
                    rt::spawn(async move {
                        while !over.load(Ordering::Acquire) {
                            let asked = began.elapsed();
                            // One that fails ends the others, too.
                            kv.put(&key(task), b"beat").await.inspect_err(|_| over.store(true, Ordering::Release))?;
                            last[task].note(asked, began);
                        }
                        anyhow::Ok(())
                    })
                });
            all(tasks.collect()).await
        })
    }
}

/// Changes of a pool's property, one after the other.
struct Changes;

impl Changes {
    fn start(cluster: &Cluster) -> Result<Watched> {
        let addresses = cluster.addresses();
        watch(1, move |last, began, over| async move {
            let system = client::System::connect(&addresses, Default::default()).await?;
            for days in (1..=30).cycle() {
                if over.load(Ordering::Acquire) {
                    break;
                }
                let asked = began.elapsed();
                system.set_pool_properties(POOL, vec![("scrub_freq".into(), format!("{days}d"))]).await?;
                last[0].note(asked, began);
            }
            Ok(())
        })
    }
}

fn watch<F: Future<Output = Result<()>>>(
    tasks: usize,
    work: impl FnOnce(Arc<Vec<Success>>, Instant, Arc<AtomicBool>) -> F + Send + 'static,
) -> Result<Watched> {
    let last: Arc<Vec<Success>> = Arc::new((0..tasks).map(|_| Success::default()).collect());
    let (began, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let theirs = (last.clone(), over.clone());
    let thread = std::thread::spawn(move || rt::block_on(work(theirs.0, began, theirs.1)));
    let watched = Watched { last, began, over, thread: Some(thread) };
    let deadline = Instant::now() + FELT_MAX;
    while watched.last.iter().any(|last| last.answered.load(Ordering::Acquire) == 0) {
        anyhow::ensure!(Instant::now() < deadline, "the clients do not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(watched)
}

/// A server that was dead gets everything again: how fast, and what is left to clients meanwhile.
fn return_of_one(plan: &Plan, cluster: &mut Cluster, directory: &Path) -> Result<Vec<Figure>> {
    let (values, bytes) = STORED;
    let [mut rebuilt, mut raw, mut calm, mut meanwhile] = std::array::from_fn(|_| Samples::default());
    for round in 0..plan.rounds.min(3) {
        let name = format!("return-{round}");
        let kv = rt::block_on(async {
            let container = cluster.container(POOL, &name, SERVERS - 1).await?;
            let kv = new_kv(&container).await?;
            let object = kv.object().id();
            let mut tasks = Vec::new();
            for (task, kv) in clients(&cluster.addresses(), &name, object, FOREGROUND).await?.into_iter().enumerate() {
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
        })?;
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

/// So many clients, each with a session of its own, as programs have: what a session may have under way when a leader dies
/// is bounded by what targets remember of it.
async fn clients(
    addresses: &[client::Address],
    container: &str,
    object: client::ObjectId,
    count: usize,
) -> Result<Vec<Kv>> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let pool = client::System::connect(addresses, Default::default()).await?.pool(POOL).await?;
        all.push(pool.container(container).await?.kv(object));
    }
    Ok(all)
}

async fn all(tasks: Vec<rt::JoinHandle<Result<()>>>) -> Result<()> {
    for task in tasks {
        task.await.context("a client ended early")??;
    }
    Ok(())
}

/// Of the class that the container's redundancy asks for.
async fn new_kv(container: &Container) -> Result<Kv> {
    Ok(container.kv(container.new_object(ObjectType::KvHashed, None).await?))
}

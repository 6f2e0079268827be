//! Three server processes, of which one dies: how long that is felt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::{Cluster, POOL, SERVERS, all, clients, new_kv};
use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Plan, key};
use crate::place::Place;

const BENCH: &str = "failover";
/// How long it may be felt, in microseconds.
const FELT: f64 = 3e6;
const FELT_TUNED: f64 = 1e6;
const TUNED: &str = "failure_detection: 500ms\n";
/// The longest wait for a put that succeeds again.
const FELT_MAX: Duration = Duration::from_secs(60);

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Memory.directory(plan)?;
    let mut figures = deaths(plan, &mut Cluster::three(directory.path(), &[])?, "", FELT)?;
    let directory = Place::Memory.directory(plan)?;
    let settings = directory.path().join("tuned.yml");
    std::fs::write(&settings, TUNED)?;
    let settings = ["-o", settings.to_str().context("a directory whose name is no text")?];
    figures.extend(deaths(plan, &mut Cluster::three(directory.path(), &settings)?, ", tuned", FELT_TUNED)?);
    Ok(figures)
}

/// From kill -9 of the server that leads the services, and a third of the groups, until a client that puts on and on has
/// its next success, in the group that is worst off; and until a pool's service takes a change.
fn deaths(plan: &Plan, cluster: &mut Cluster, how: &str, felt: f64) -> Result<Vec<Figure>> {
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
    let figure = |what: &str, samples| {
        let name = format!("kill -9 of the leader until {what} again{how}");
        Figure::new(BENCH, &name, Unit::Microseconds, samples).budget(Budget::Ceiling(felt))
    };
    Ok(vec![figure("every group takes puts", data), figure("the pool's service takes changes", service)])
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

//! Echoes through `net` against bare ping-pongs of the same kind, on the same threads.
//!
//! # Shape
//! The server is one thread with a listener and an echoing handler, as a target is. Each round opens a
//! connection, warms it, and keeps `depth` calls under way. The bare side sends the same payload with
//! neither header nor checksum. Twice: with the scheduler's choice of cores, where waking the other
//! core is most of the cost, and with both ends on one core, where the program is.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use net::{Address, Caller, Connection, Handler, Limits, Listener, Reply, Request};
use rt::disk::IoBuf;
use tokio::sync::oneshot;
use types::{Error, SessionId};
use wire::Opcode;
use wire::hello::Service;

use crate::figure::{Budget, Figure, Unit};
use crate::measure::{Plan, timed};
use crate::peers::memory;
use crate::peers::pingpong::{self, Kind};
use crate::place::Place;

const SYSTEM: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;
const GIB: f64 = (1u32 << 30) as f64;

struct Echo;

impl Handler for Echo {
    async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
        Ok(Reply { body: request.body, bulk: request.bulk })
    }
}

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    figures.extend(small(plan, "two cores", &[1, 16, 64])?);
    figures.extend(on_one_core(|| small(plan, "one core", &[1, 64]))?);
    figures.extend(bulk(plan)?);
    Ok(figures)
}

/// 64 B there and back.
fn small(plan: &Plan, cores: &str, depths: &[usize]) -> Result<Vec<Figure>> {
    const BYTES: usize = 64;
    let directory = Place::Memory.directory(plan)?;
    let mut figures = Vec::new();
    for kind in Kind::ALL {
        let server = Server::start(kind, directory.path())?;
        for &depth in depths {
            let count = if depth == 1 { 10_000 } else { 100_000 };
            let [ours, bare] = plan.in_turns([&mut || server.rate(depth, count, Load::Body(BYTES)), &mut || {
                pingpong::rate(kind, BYTES, depth, count, directory.path())
            }])?;
            // The budgets: at depth 1 at most twice the time of a bare one, and a rate at depth 64 over TCP.
            let budget = match (kind, depth) {
                (_, 1) => Some(Budget::Times(0.5)),
                (Kind::Tcp, 64) => Some(Budget::Floor(300_000.0)),
                _ => None,
            };
            let name = format!("echo 64 B {} depth {depth}, {cores}", kind.name());
            let mut figure = Figure::new("rpc", name, Unit::PerSecond, ours).beside("bare ping-pong", bare);
            figure.budget = budget;
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// 1 MiB of bulk data there and back, four under way; rates count one direction.
fn bulk(plan: &Plan) -> Result<Vec<Figure>> {
    const DEPTH: usize = 4;
    const COUNT: usize = 256;
    let directory = Place::Memory.directory(plan)?;
    let mut figures = Vec::new();
    for kind in Kind::ALL {
        let server = Server::start(kind, directory.path())?;
        let gib = |rate: f64| rate * MIB as f64 / GIB;
        let [ours, bare, copy] = plan.in_turns([
            &mut || Ok(gib(server.rate(DEPTH, COUNT, Load::Bulk(MIB))?)),
            &mut || Ok(gib(pingpong::rate(kind, MIB, DEPTH, COUNT, directory.path())?)),
            &mut || Ok(memory::copy_rate(MIB)),
        ])?;
        let name = format!("bulk echo 1 MiB {} depth {DEPTH}", kind.name());
        let figure = Figure::new("rpc", name, Unit::GibPerSecond, ours);
        // Over channels nothing is copied on either side: a copy in memory is the fairer measure.
        figures.push(match kind {
            Kind::Mem => figure.beside("copy in memory", copy).budget(Budget::Times(0.9)),
            _ => figure.beside("bare ping-pong", bare).beside("copy in memory", copy).budget(Budget::Times(0.9)),
        });
    }
    Ok(figures)
}

/// What a call carries.
#[derive(Clone, Copy)]
enum Load {
    Body(usize),
    Bulk(usize),
}

/// An echoing server on a thread of its own; ends when dropped.
struct Server {
    address: Address,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<rt::ThreadHandle<Result<()>>>,
}

impl Server {
    fn start(kind: Kind, directory: &std::path::Path) -> Result<Server> {
        let address = match kind {
            Kind::Mem => Address::Mem("bench-echo".into()),
            Kind::Unix => Address::Unix(directory.join("echo.sock")),
            Kind::Tcp => Address::Tcp("127.0.0.1:0".into()),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, bound) = std::sync::mpsc::channel();
        let thread = rt::spawn_thread("bench-echo", move || async move {
            let listener = Listener::bind(&address, SYSTEM, rt::Hlc::new()).await?;
            ready.send(listener.address().clone())?;
            let accept = async {
                let handler = Rc::new(Echo);
                while let Some(incoming) = listener.accept().await {
                    rt::spawn_local(net::serve(incoming, Limits::default(), 1, handler.clone()));
                }
            };
            tokio::select! {
                biased;
                () = accept => {}
                _ = stopped => {}
            }
            listener.stop(Duration::from_millis(100)).await;
            Ok(())
        })?;
        let address = bound.recv().context("the echoing server did not start")?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Calls a second, over a connection of its own.
    fn rate(&self, depth: usize, count: usize, load: Load) -> Result<f64> {
        rt::block_on(async {
            let caller = Caller { session: SessionId(7), system: SYSTEM.into(), clock: rt::Hlc::new() };
            let connection = Connection::open(&self.address, Service::Control, &caller, PATIENCE).await?;
            calls(&connection, depth, count / 10 + 1, load).await?;
            let start = std::time::Instant::now();
            calls(&connection, depth, count, load).await?;
            Ok(count as f64 / start.elapsed().as_secs_f64())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its figures are taken; how it ended no longer matters.
            let _ = rt::block_on(thread);
        }
    }
}

/// `count` calls, `depth` at a time: as many tasks, each calling in turn.
async fn calls(connection: &Connection, depth: usize, count: usize, load: Load) -> Result<()> {
    let tasks: Vec<_> = (0..depth)
        .map(|task| {
            let connection = connection.clone();
            let share = count / depth + usize::from(task < count % depth);
            rt::spawn(async move {
                let mut kept = match load {
                    Load::Body(_) => None,
                    Load::Bulk(bytes) => Some(IoBuf::zeroed(bytes)),
                };
                for n in 0..share {
                    let body = match load {
                        Load::Body(bytes) => vec![7; bytes],
                        Load::Bulk(_) => Vec::new(),
                    };
                    let sequence = (task * count + n) as u64;
                    let reply = connection.call(Opcode::Echo, sequence, body, kept.take(), PATIENCE).await?;
                    // The same buffer goes out again, as a client's pool of buffers would have it.
                    kept = reply.bulk;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.context("a caller ended early")??;
    }
    Ok(())
}

/// Runs `work` with this thread, and those it starts, on one core.
fn on_one_core<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|&core| before.is_set(core)).context("no core to run on")?;
    one.set(first);
    sched_setaffinity(None, &one)?;
    let (_, outcome) = timed(work);
    sched_setaffinity(None, &before)?;
    outcome
}

//! Key-value and array operations through a server process with one target, over TCP loopback.
//!
//! # Shape
//! One client thread, `depth` tasks, each waiting for its answer before it asks again. The server's
//! storage lies on tmpfs or on the disk; every update is durable there before it is answered.

use anyhow::{Context, Result};
use client::{Array, ArrayShape, Container, IoBuf, Kv, ObjectClass, ObjectType};

use crate::drive::{get, in_tasks, put};
use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::Plan;
use crate::peers::log::BareLog;
use crate::peers::pingpong::{self, Kind};
use crate::place::Place;
use crate::process::ServerProcess;

const POOL_BYTES: u64 = 6 << 30;
const MIB: usize = 1 << 20;
const GIB: f64 = (1u32 << 30) as f64;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for place in [Place::Memory, Place::Disk] {
        let directory = place.directory(plan)?;
        let server = ServerProcess::start(directory.path(), &["--targets", "1", "--size", "8GiB"])?;
        let bench = Bench { plan, place, directory: directory.path() };
        rt::block_on(async {
            let container = server.container(POOL_BYTES).await?;
            figures.extend(bench.small(&container).await?);
            figures.extend(bench.large(&container).await?);
            anyhow::Ok(())
        })?;
    }
    Ok(figures)
}

struct Bench<'a> {
    plan: &'a Plan,
    place: Place,
    directory: &'a std::path::Path,
}

/// What a row of the table is about: value size, depth, operations a round, DAOS's published put and get.
type Row = (usize, usize, usize, Option<(f64, f64)>);

const ROWS: [Row; 4] = [
    (64, 1, 4_000, Some((18_800.0, 30_000.0))),
    (64, 64, 60_000, Some((27_700.0, 59_600.0))),
    (64, 256, 100_000, None),
    (4096, 64, 30_000, Some((23_000.0, 47_000.0))),
];

impl Bench<'_> {
    async fn small(&self, container: &Container) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (bytes, depth, count, daos) in ROWS {
            let kv = new_kv(container).await?;
            let mut puts = Samples::default();
            let mut gets = Samples::default();
            let mut bare_appends = Samples::default();
            let mut bare_messages = Samples::default();
            put(&kv, bytes, depth, count / 4).await?;
            for _ in 0..self.plan.rounds {
                puts.push(put(&kv, bytes, depth, count).await?);
                gets.push(get(&kv, bytes, depth, count).await?);
                bare_messages.push(self.bare_messages(bytes, depth, count)?);
                if depth == 1 {
                    bare_appends.push(self.bare_appends()?);
                }
            }
            let on = self.place.name();
            let mut put = self.figure(format!("kv put {bytes} B depth {depth}, log on {on}"), puts);
            let mut get = self.figure(format!("kv get {bytes} B depth {depth}, log on {on}"), gets);
            if depth == 1 {
                put = put.beside("bare append + fdatasync", bare_appends);
            }
            put = put.beside("bare ping-pong", bare_messages.clone());
            get = get.beside("bare ping-pong", bare_messages);
            if let (Some((daos_put, daos_get)), Place::Memory) = (daos, self.place) {
                put = put.beside_published("DAOS", daos_put, daos_put);
                get = get.beside_published("DAOS", daos_get, daos_get);
            }
            (put.budget, get.budget) = match (self.place, bytes, depth) {
                (Place::Memory, 64, 64) => (Some(Budget::Floor(140_000.0)), Some(Budget::Floor(300_000.0))),
                // At most 1.3 times as long as a bare append.
                (Place::Disk, 64, 1) => (Some(Budget::Times(1.0 / 1.3)), None),
                (Place::Disk, 64, 256) => (Some(Budget::Floor(100_000.0)), None),
                _ => (None, None),
            };
            figures.extend([put, get]);
            kv.destroy().await?;
        }
        Ok(figures)
    }

    fn figure(&self, name: String, samples: Samples) -> Figure {
        Figure::new("server", name, Unit::PerSecond, samples)
    }

    /// On a thread of its own, for this one is inside a runtime.
    fn bare_messages(&self, bytes: usize, depth: usize, count: usize) -> Result<f64> {
        let run = || pingpong::rate(Kind::Tcp, bytes, depth, count, self.directory);
        std::thread::scope(|scope| scope.spawn(run).join().expect("the ping-pong does not panic"))
    }

    fn bare_appends(&self) -> Result<f64> {
        let mut log = BareLog::create(self.directory)?;
        log.rate(1, 2_000)
    }

    async fn large(&self, container: &Container) -> Result<Vec<Figure>> {
        const DEPTH: usize = 4;
        const COUNT: usize = 512;
        let array = new_array(container).await?;
        let mut writes = Samples::default();
        let mut reads = Samples::default();
        for _ in 0..self.plan.rounds {
            writes.push(write(&array, DEPTH, COUNT).await?);
            reads.push(read(&array, DEPTH, COUNT).await?);
        }
        array.destroy().await?;
        let on = self.place.name();
        let figure = |verb: &str, samples| {
            Figure::new(
                "server",
                format!("array {verb} 1 MiB depth {DEPTH}, data on {on}"),
                Unit::GibPerSecond,
                samples,
            )
        };
        let (mut write, mut read) = (figure("write", writes), figure("read", reads));
        if self.place == Place::Memory {
            write = write.beside_published("DAOS", 0.73, 0.73);
            read = read.beside_published("DAOS", 1.7, 1.7);
        }
        Ok(vec![write, read])
    }
}

pub async fn new_kv(container: &Container) -> Result<Kv> {
    let class: ObjectClass = "S1".parse().ok().context("class S1")?;
    Ok(container.kv(container.new_object(ObjectType::KvHashed, Some(class)).await?))
}

async fn new_array(container: &Container) -> Result<Array> {
    let oid = container.new_object(ObjectType::ArrayByte, None).await?;
    Ok(container.array(oid, ArrayShape::default()))
}

/// GiB a second.
async fn write(array: &Array, depth: usize, count: usize) -> Result<f64> {
    let rate = in_tasks(depth, count, |task, share| {
        let array = array.clone();
        async move {
            for n in 0..share {
                let mut buffer = IoBuf::zeroed(MIB);
                buffer[..8].copy_from_slice(&(n as u64).to_le_bytes());
                array.write_buf(((task + n * depth) * MIB) as u64, buffer).await?;
            }
            anyhow::Ok(())
        }
    })
    .await?;
    Ok(rate * MIB as f64 / GIB)
}

async fn read(array: &Array, depth: usize, count: usize) -> Result<f64> {
    let rate = in_tasks(depth, count, |task, share| {
        let array = array.clone();
        async move {
            for n in 0..share {
                let bytes = array.read(((task + n * depth) * MIB) as u64, MIB as u64).await?;
                anyhow::ensure!(bytes.len() == MIB, "a chunk came back with {} bytes", bytes.len());
            }
            anyhow::Ok(())
        }
    })
    .await?;
    Ok(rate * MIB as f64 / GIB)
}

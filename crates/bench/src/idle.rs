//! A server that nobody asks anything, and the memory of one that holds data.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use client::{ArrayShape, Container, IoBuf, ObjectType};

use crate::drive::in_tasks;
use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Chance, Plan, key};
use crate::place::Place;
use crate::process::ServerProcess;

const WATCHED: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;
/// Half of the data as large array chunks, half as values that stay in the tree.
const CHUNKS: usize = 512;
const VALUE_BYTES: usize = 4000;
const VALUES: usize = 512 * MIB / VALUE_BYTES;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Disk.directory(plan)?;
    // Default settings, but for where its data lies.
    let server = ServerProcess::start(directory.path(), &["--size", "8GiB"])?;
    let empty = idle(&server)?;
    let started = server.memory_mib("VmRSS")?;
    rt::block_on(async { fill(&server.container(4 << 30).await?).await })?;
    let peak = server.memory_mib("VmHWM")?;
    let held = server.memory_mib("VmRSS")?;
    let full = idle(&server)?;
    let one = |name: &str, unit, value: f64| Figure::new("idle", name, unit, Samples::from_iter([value]));
    Ok(vec![
        one("processor, empty server", Unit::Percent, empty).budget(Budget::Ceiling(0.2)),
        one("processor, after 1 GiB of writes", Unit::Percent, full).budget(Budget::Ceiling(0.2)),
        one("memory, empty server", Unit::Mib, started),
        one("memory, 1 GiB stored", Unit::Mib, held).budget(Budget::Ceiling(512.0)),
        one("memory, peak while writing 1 GiB", Unit::Mib, peak).budget(Budget::Ceiling(512.0)),
    ])
}

/// Percent of one core over some seconds, once the work that was left has been done.
fn idle(server: &ServerProcess) -> Result<f64> {
    // Two checkpoint intervals.
    thread::sleep(Duration::from_secs(12));
    let before = server.processor_seconds()?;
    thread::sleep(WATCHED);
    Ok((server.processor_seconds()? - before) / WATCHED.as_secs_f64() * 100.0)
}

async fn fill(container: &Container) -> Result<()> {
    let array = container.array(container.new_object(ObjectType::ArrayByte, None).await?, ArrayShape::default());
    in_tasks(4, CHUNKS, |task, share| {
        let array = array.clone();
        async move {
            for n in 0..share {
                array.write_buf(((task + n * 4) * MIB) as u64, IoBuf::zeroed(MIB)).await?;
            }
            Ok(())
        }
    })
    .await?;
    let kv = container.kv(container.new_object(ObjectType::KvHashed, None).await?);
    let mut value = vec![0; VALUE_BYTES];
    Chance::new(5).fill(&mut value);
    in_tasks(64, VALUES, |task, share| {
        let (kv, value) = (kv.clone(), value.clone());
        async move {
            for n in 0..share {
                kv.put(&key(task + n * 64), &value).await?;
            }
            Ok(())
        }
    })
    .await?;
    Ok(())
}

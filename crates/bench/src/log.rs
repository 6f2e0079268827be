//! Durable appends to the write-ahead log, one at a time and many at once, against bare ones.
//!
//! # Shape
//! A record of 150 bytes is what an update of a 64 B value leaves in the log. `depth` tasks on the
//! store's thread append and wait, as the requests of a target do. The bare log writes the bytes that
//! `depth` such records fill, rounded up to blocks, with one `pwrite` and one `fdatasync`.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use media::{Error, Existing, Identity, Region, Regions, Reserve, Store};
use rt::disk::{Disk, OpenMode};

use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::Plan;
use crate::peers::log::BareLog;
use crate::place::Place;

const RECORD_BYTES: usize = 150;
/// Bytes a record takes with its header, rounded up to where the next may start.
const RECORD_SPAN: usize = 176;
/// Written in full when the store is made, as the bare log's file is.
const LOG_BYTES: u64 = 128 << 20;
const DATA_BYTES: u64 = 64 << 20;
const PAGES_BYTES: usize = 16 << 20;
/// Kind of a record that nobody reads back.
const KIND: u16 = 1;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for place in [Place::Disk, Place::Memory] {
        let directory = place.directory(plan)?;
        figures.extend(rt::block_on(measure(plan, place, directory.path()))?);
    }
    Ok(figures)
}

async fn measure(plan: &Plan, place: Place, directory: &Path) -> Result<Vec<Figure>> {
    let store = new_store(directory)?;
    store.start();
    let mut bare = BareLog::create(directory)?;
    let mut figures = Vec::new();
    for (depth, count) in [(1, 3_000), (64, 60_000), (256, 100_000)] {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for _ in 0..plan.rounds {
            ours.push(rate(&store, depth, count).await?);
            theirs.push(bare.rate(depth * RECORD_SPAN, count / depth)? * depth as f64);
        }
        let name = format!("durable append, {depth} waiting, {}", place.name());
        let mut figure = Figure::new("log", name, Unit::PerSecond, ours).beside("bare pwrite + fdatasync", theirs);
        figure.budget = match (place, depth) {
            // At most 1.3 times as long.
            (Place::Disk, 1) => Some(Budget::Times(1.0 / 1.3)),
            (Place::Disk, 256) => Some(Budget::Floor(100_000.0)),
            _ => None,
        };
        figures.push(figure);
    }
    store.stop().await?;
    Ok(figures)
}

/// A store in two files.
fn new_store(directory: &Path) -> Result<Store> {
    Ok(Store::format(
        Regions {
            log: region(directory, "log", LOG_BYTES)?,
            metadata: None,
            data: region(directory, "data", DATA_BYTES)?,
        },
        Identity { store: *b"bench-log-store!", target: 0 },
        PAGES_BYTES,
        Existing::Refuse,
    )?)
}

/// A file of `bytes`, opened as a server opens it.
fn region(directory: &Path, name: &str, bytes: u64) -> Result<Region> {
    let mode = OpenMode { create: true, direct: true, exclusive_lock: true };
    let disk = Disk::open(directory.join(name), mode)?;
    Ok(Region::new(disk, 0, bytes))
}

/// Appends a second, each waited for.
async fn rate(store: &Store, depth: usize, count: usize) -> Result<f64> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..depth)
        .map(|task| {
            let store = store.clone();
            let share = count / depth + usize::from(task < count % depth);
            rt::spawn_local(async move {
                for _ in 0..share {
                    append(&store).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.context("a task ended early")??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

async fn append(store: &Store) -> Result<()> {
    let record = [0x5a; RECORD_BYTES];
    loop {
        match store.append(KIND, &[&record], Reserve::Normal) {
            Ok(lsn) => return Ok(store.durable(lsn).await?),
            // A checkpoint is making room.
            Err(Error::Busy { .. } | Error::LogFull { .. }) => store.relieved().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

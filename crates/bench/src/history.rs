//! What versions cost: keys with a long history, arrays written in pieces, differences, upkeep, recovery, and the
//! bytes that reach the device.
//!
//! # Shape
//! The store alone, on one thread, on tmpfs; what is written to a device is counted on the disk. Each figure
//! stands beside the same work without the history, so that the ratio says what history costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use media::Regions;
use types::{Conditions, Epoch, Extent, Key};
use vos::{AkeyRead, AkeyWrite, Origin, Payload, ReadWhat, Rewriting, Source, Update, ValueWrite};

use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Chance, Plan, timed};
use crate::place::Place;
use crate::store::{CONTAINER, Sizes, Vos, region};
use crate::workload::Engine;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = types::CHECKSUM_CHUNK_BYTES as u64;
const GIB: f64 = (1u32 << 30) as f64;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = depths(plan)?;
    figures.extend(arrays(plan)?);
    figures.extend(differences(plan)?);
    figures.push(recovery(plan)?);
    figures.extend(written(plan)?);
    figures.extend(latencies(plan)?);
    Ok(figures)
}

fn sizes(megabytes: u64) -> Sizes {
    Sizes { log: 256 << 20, data: megabytes << 20, pages: (megabytes << 19) as usize }
}

fn numbered(n: usize) -> Key {
    Key::from(n as u64)
}

/// Fetches of the latest value of keys that have 1, 10 and 1000 versions, in one store.
fn depths(plan: &Plan) -> Result<Vec<Figure>> {
    const KEYS: usize = 1000;
    const FETCHES: usize = 300_000;
    let directory = Place::Memory.directory(plan)?;
    let mut vos = Vos::create(directory.path(), sizes(2048))?;
    let depths = [1, 10, 1000];
    for (group, versions) in depths.into_iter().enumerate() {
        for version in 0..versions {
            for key in 0..KEYS {
                vos.update(&numbered(group << 32 | key), &[version as u8; 64])?;
            }
        }
    }
    let mut rates: [Samples; 3] = Default::default();
    for round in 0..=plan.rounds {
        for (group, samples) in rates.iter_mut().enumerate() {
            let mut chance = Chance::new(5);
            let keys: Vec<Key> = (0..FETCHES).map(|_| numbered(group << 32 | chance.below(KEYS))).collect();
            let (seconds, read) = timed(|| vos.read(&keys));
            anyhow::ensure!(read? == FETCHES * 64, "a key was lost");
            // The first round brings pages into caches.
            if round > 0 {
                samples.push(FETCHES as f64 / seconds);
            }
        }
    }
    let shallow = rates[0].clone();
    let figure = |(versions, samples): (usize, Samples)| {
        let name = format!("fetch 64 B, latest of {versions} versions a key, {KEYS} keys");
        let figure = Figure::new("history", name, Unit::PerSecond, samples);
        if versions == 1 { figure } else { figure.beside("1 version a key", shallow.clone()) }
    };
    Ok(depths.into_iter().zip(rates).map(figure).collect())
}

/// Reads of 1 MiB that was written as 1, 100 and 10,000 overlapping extents; before and after upkeep joined them.
fn arrays(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut whole: Option<Samples> = None;
    for count in [1, 100, 10_000] {
        let directory = Place::Memory.directory(plan)?;
        let mut vos = Vos::create(directory.path(), sizes(512))?;
        let mut chance = Chance::new(3);
        for n in 0..count {
            // Two and a half times as much as the array holds, so that they overlap; the first covers all.
            let length = if n == 0 { MIB } else { (MIB * 5 / 2 / count).max(1) };
            let start = if n == 0 { 0 } else { chance.below((MIB - length) as usize) as u64 };
            write_extent(&mut vos, start, length)?;
        }
        let name = |when: &str| format!("read 1 MiB of {count} extents, {when}");
        let before: Samples = (0..plan.rounds).map(|_| read_rate(&mut vos)).collect::<Result<_>>()?;
        let beside = |figure: Figure, whole: &Option<Samples>| match whole {
            Some(whole) => figure.beside("of 1 extent", whole.clone()),
            None => figure,
        };
        figures.push(beside(Figure::new("history", name("as written"), Unit::GibPerSecond, before.clone()), &whole));
        if count == 1 {
            whole = Some(before);
            continue;
        }
        let (seconds, joined) = timed(|| tidy(&mut vos));
        let (records, gone, come) = joined?;
        eprintln!("  {count} extents: {records} records before, {gone} became {come}, in {seconds:.3} s");
        let after: Samples = (0..plan.rounds).map(|_| read_rate(&mut vos)).collect::<Result<_>>()?;
        figures.push(beside(Figure::new("history", name("joined"), Unit::GibPerSecond, after), &whole));
    }
    Ok(figures)
}

fn write_extent(vos: &mut Vos, start: u64, length: u64) -> Result<()> {
    vos.epoch += 1;
    let bytes = vec![vos.epoch as u8; length as usize];
    let checksums = codec::checksum::of_chunks(&bytes);
    let reservation = match length as usize > vos::INLINE_BYTES_MAX {
        true => Some(vos.store.reserve_bulk(CONTAINER, length)?),
        false => None,
    };
    let payload = match &reservation {
        None => Payload::Inline { bytes: &bytes, checksums: &checksums },
        Some(at) => {
            let live = at.media().context("a reservation that was just made")?;
            vos.store.media().bulk_write_now(live, 0, &bytes)?;
            Payload::Bulk { at, bytes: length, checksums: &checksums }
        }
    };
    let extents = [(Extent::new(start, length), payload)];
    let akeys = [AkeyWrite { akey: &vos.akey, value: ValueWrite::Array { record_bytes: 1, extents: &extents } }];
    let (oid, dkey) = (vos.object, numbered(1));
    let update = Update { group: 0, oid, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
    loop {
        match vos.store.update(CONTAINER, Epoch(vos.epoch), Origin::default(), &update) {
            Err(vos::Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                vos.store.media().checkpoint_blocking()?;
            }
            done => return Ok(done.map(drop)?),
        }
    }
}

/// GiB/s of reading the array, checksums included, as a target answers a request.
fn read_rate(vos: &mut Vos) -> Result<f64> {
    const READS: usize = 50;
    let start = Instant::now();
    for _ in 0..READS {
        let extents = [Extent::new(0, MIB)];
        let reads = [AkeyRead { akey: &vos.akey, what: ReadWhat::Array(&extents) }];
        let dkey = numbered(1);
        let plan = vos.store.fetch(CONTAINER, Epoch::MAX, 0, vos.object, &dkey, &reads, Conditions::None)?;
        let mut bytes = 0;
        for piece in plan.akeys.iter().flat_map(|akey| &akey.pieces) {
            bytes += match &piece.source {
                Source::Hole => bail!("the array has no holes"),
                Source::Inline { payload, checksums, part } => {
                    whole(&plan.inline[payload.clone()], checksums)?;
                    part.end - part.start
                }
                Source::Bulk { extents, bytes, checksums, part } => {
                    // Whole chunks, for only these can be verified.
                    let (first, last) = (part.start / CHUNK, part.end.div_ceil(CHUNK));
                    let mut read = Vec::with_capacity(((last - first) * CHUNK) as usize);
                    let chunks = first * CHUNK..(last * CHUNK).min(*bytes);
                    for (extent, offset, length) in media::pieces_of(extents, chunks) {
                        read.extend_from_slice(&vos.store.media().bulk_read_now(extent, offset, length)?);
                    }
                    whole(&read, &checksums[first as usize..last as usize])?;
                    part.end - part.start
                }
            };
        }
        anyhow::ensure!(bytes == MIB, "{bytes} bytes came back");
    }
    Ok(READS as f64 * MIB as f64 / GIB / start.elapsed().as_secs_f64())
}

fn whole(bytes: &[u8], checksums: &[u32]) -> Result<()> {
    codec::checksum::verify_chunks(bytes, checksums).map_err(|mismatch| anyhow::anyhow!("{mismatch}"))
}

/// All upkeep there is; records before, and extents that went and came.
fn tidy(vos: &mut Vos) -> Result<(u64, usize, usize)> {
    vos.store.advance(CONTAINER, Epoch(vos.epoch))?;
    settle(vos, 16)?;
    let records = vos.store.check().values;
    let (mut gone, mut come) = (0, 0);
    let media = vos.store.media().clone();
    loop {
        match vos.store.plan_rewrite()? {
            Rewriting::Nothing => return Ok((records, gone, come)),
            Rewriting::Look => {}
            Rewriting::Found(mut rewrite) => {
                rewrite.copy_now(&media)?;
                vos.store.rewrite(&rewrite)?;
                let (went, came) = rewrite.counts();
                (gone, come) = (gone + went, come + came);
            }
        }
    }
}

/// Steps of upkeep until nothing is left to do.
fn settle(vos: &mut Vos, steps: usize) -> Result<()> {
    loop {
        match vos.store.maintain(steps) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(vos::Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                vos.store.media().checkpoint_blocking()?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Differences of two moments when little and when much changed, beside a scan of everything; and the removal of
/// what was overwritten.
fn differences(plan: &Plan) -> Result<Vec<Figure>> {
    const RECORDS: usize = 200_000;
    let (mut few, mut many, mut scans, mut forgotten) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let directory = Place::Memory.directory(plan)?;
        let mut vos = Vos::create(directory.path(), sizes(1024))?;
        (0..RECORDS).try_for_each(|n| vos.update(&numbered(n), &[1; 64]))?;
        let mut chance = Chance::new(9);
        for (changed, samples) in [(200, &mut few), (100_000, &mut many)] {
            let from = Epoch(vos.epoch);
            (0..changed).try_for_each(|_| vos.update(&numbered(chance.below(RECORDS)), &[2; 64]))?;
            let (seconds, found) = timed(|| count_differences(&mut vos, from));
            anyhow::ensure!((1..=changed).contains(&found?), "what changed was found");
            samples.push(changed as f64 / seconds);
        }
        let (seconds, scanned) = timed(|| vos.scan());
        scans.push(scanned? as f64 / seconds);
        vos.store.advance(CONTAINER, Epoch(vos.epoch))?;
        let (seconds, done) = timed(|| settle(&mut vos, 1));
        done?;
        anyhow::ensure!(vos.store.check().values == RECORDS as u64, "one version of each key is kept");
        forgotten.push((RECORDS + 100_200) as f64 / seconds);
    }
    let name = |changed: &str| format!("diff, changes found, {changed} of 200 k records changed");
    Ok(vec![
        Figure::new("history", name("200"), Unit::PerSecond, few).beside("ordered scan", scans.clone()),
        Figure::new("history", name("100 k"), Unit::PerSecond, many).beside("ordered scan", scans),
        Figure::new("history", "aggregation, records looked at, 1 of 3 goes", Unit::PerSecond, forgotten),
    ])
}

fn count_differences(vos: &mut Vos, from: Epoch) -> Result<usize> {
    let (mut count, mut after) = (0, None);
    loop {
        let (found, next) = vos.store.diff(CONTAINER, from, Epoch::MAX, after.as_ref(), 1024)?;
        count += found.len();
        match next {
            None => return Ok(count),
            next => after = next,
        }
    }
}

/// Records a second that opening replays, when none was checkpointed; beside doing the updates.
fn recovery(plan: &Plan) -> Result<Figure> {
    const RECORDS: usize = 500_000;
    let (mut replays, mut updates) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let directory = Place::Memory.directory(plan)?;
        let sizes = || Sizes { log: 512 << 20, data: 1 << 30, pages: 1 << 30 };
        let mut vos = Vos::create(directory.path(), sizes())?;
        vos.store.media().checkpoint_blocking()?;
        let key = |n| Key::new(crate::measure::key(n).to_vec()).expect("16 bytes are a key");
        let (seconds, done) = timed(|| (0..RECORDS).try_for_each(|n| vos.update(&key(n), &[1; 64])));
        done?;
        updates.push(RECORDS as f64 / seconds);
        vos.store.media().flush_now()?;
        drop(vos);
        let sizes = sizes();
        let regions = Regions {
            log: region(directory.path(), "log", sizes.log)?,
            metadata: None,
            data: region(directory.path(), "data", sizes.data)?,
        };
        let (seconds, opened) = timed(|| {
            let (media, recovery) = media::Store::open(regions, sizes.pages)?;
            anyhow::Ok(vos::Store::recover(media, recovery, &mut |_, _| ())?)
        });
        let (_, recovered) = opened?;
        anyhow::ensure!(recovered.records >= RECORDS as u64, "{} records were replayed", recovered.records);
        replays.push(recovered.records as f64 / seconds);
    }
    let figure = Figure::new("history", "recovery, 64 B records replayed", Unit::PerSecond, replays);
    Ok(figure.beside("doing the updates", updates).budget(Budget::Floor(600_000.0)))
}

/// Bytes that reach the disk for each byte that is written, checkpoints included: keys in random order over a
/// store that is much larger than what changes between two checkpoints.
fn written(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (bytes, records, updates) in [(64usize, 200_000, 400_000), (4096, 10_000, 20_000), (1 << 20, 64, 128)] {
        let directory = Place::Disk.directory(plan)?;
        let mut times = Samples::default();
        let mut vos = Vos::create(directory.path(), Sizes { log: 64 << 20, data: 3 << 30, pages: 1 << 30 })?;
        let value = vec![7; bytes];
        let write = |vos: &mut Vos, key: usize| match bytes > vos::INLINE_BYTES_MAX {
            true => write_extent(vos, 0, bytes as u64),
            false => vos.update(&numbered(key), &value),
        };
        (0..records).try_for_each(|n| write(&mut vos, n))?;
        vos.store.media().checkpoint_blocking()?;
        let mut chance = Chance::new(21);
        for _ in 0..plan.rounds.min(3) {
            let before = device_bytes()?;
            for n in 0..updates {
                write(&mut vos, chance.below(records))?;
                if n % 256 == 0 {
                    vos.store.media().flush_now()?;
                }
            }
            vos.store.media().checkpoint_blocking()?;
            times.push((device_bytes()? - before) as f64 / (updates * bytes) as f64);
            vos.store.advance(CONTAINER, Epoch(vos.epoch))?;
            settle(&mut vos, 16)?;
            vos.store.media().checkpoint_blocking()?;
        }
        let name = format!("bytes written for each byte, updates of {bytes} B in groups of 256, {records} records");
        figures.push(Figure::new("history", name, Unit::Times, times));
    }
    Ok(figures)
}

/// Bytes that this process had written to devices so far.
fn device_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io").context("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
    Ok(line.parse()?)
}

/// What this thread has used of the processor: what others take from it is not counted.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The longest time that a loop which only looks at its clock is charged with, in four seconds: what the machine
/// puts on anybody.
fn longest_of_nothing() -> Duration {
    let begun = Instant::now();
    let (mut longest, mut used) = (Duration::ZERO, processor_time());
    while begun.elapsed() < Duration::from_secs(4) {
        let now = processor_time();
        longest = longest.max(now.saturating_sub(std::mem::replace(&mut used, now)));
    }
    longest
}

/// Times of single operations at a third of the rate that the store can do, with checkpoints; and with upkeep of what
/// is overwritten meanwhile.
fn latencies(plan: &Plan) -> Result<Vec<Figure>> {
    const RECORDS: usize = 100_000;
    let mut figures = Vec::new();
    for upkeep in [false, true] {
        let directory = Place::Memory.directory(plan)?;
        let mut vos = Vos::create(directory.path(), sizes(2048))?;
        (0..RECORDS).try_for_each(|n| vos.update(&numbered(n), &[1; 64]))?;
        let media = vos.store.media().clone();
        media.flush_now()?;
        let machine = longest_of_nothing();
        let mut chance = Chance::new(31);
        let (mut updates, mut fetches) = (Vec::new(), Vec::new());
        let mut longest: BTreeMap<&str, Duration> = BTreeMap::new();
        rt::block_on(async {
            media.start();
            let gap = Duration::from_micros(4);
            let begun = Instant::now();
            let mut turn = 0u32;
            // Processor time until here is not one operation's.
            let mut used = processor_time();
            let mut done = |what: &'static str| {
                let now = processor_time();
                let longest = longest.entry(what).or_default();
                *longest = now.saturating_sub(std::mem::replace(&mut used, now)).max(*longest);
            };
            while begun.elapsed() < Duration::from_secs(4) {
                turn += 1;
                let due = begun + gap * turn;
                // Ahead of the schedule: others may run, as between two requests.
                while Instant::now() < due {
                    // Refused while a checkpoint makes room: then it waits, as a target's upkeep does.
                    if upkeep && turn.is_multiple_of(8) && vos.store.maintain(1) == Ok(false) {
                        vos.store.advance(CONTAINER, Epoch(vos.epoch))?;
                    }
                    done("step of upkeep");
                    rt::yield_now().await;
                    done("turn of the checkpoint");
                }
                let key = numbered(chance.below(RECORDS));
                if turn.is_multiple_of(2) {
                    while vos.store.pressure() {
                        media.relieved().await?;
                    }
                    vos.update(&key, &[2; 64])?;
                    updates.push(due.elapsed());
                    done("update");
                } else {
                    vos.read(std::slice::from_ref(&key))?;
                    fetches.push(due.elapsed());
                    done("fetch");
                }
            }
            media.stop().await?;
            anyhow::Ok(())
        })?;
        let with = if upkeep { "with upkeep and checkpoints" } else { "with checkpoints" };
        for (what, times) in [("update", &mut updates), ("fetch", &mut fetches)] {
            times.sort_unstable();
            for (name, part) in [("p50", 50), ("p99", 99)] {
                let time = times[times.len() * part / 100].as_secs_f64() * 1e6;
                let name = format!("{what} 64 B at 250 k/s, {name}, {with}");
                figures.push(Figure::new("history", name, Unit::Microseconds, [time].into_iter().collect()));
            }
        }
        for (what, time) in longest {
            let name = format!("longest {what}, in processor time, {with}");
            let time = [time.as_secs_f64() * 1e6].into_iter().collect();
            let mut figure = Figure::new("history", name, Unit::Microseconds, time)
                .beside("a loop that does nothing", [machine.as_secs_f64() * 1e6].into_iter().collect());
            figure.budget = Some(Budget::Ceiling(1000.0));
            figures.push(figure);
        }
    }
    Ok(figures)
}

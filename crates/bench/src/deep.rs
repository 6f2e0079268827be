//! A store of many million small records: what a fetch costs when its tree no longer fits any cache, and how long
//! such a store takes to come back.
//!
//! Pages lie on the disk and, all of them, in memory; the log lies in memory. After the restart nothing does, so
//! that records are replayed over pages that must be read first.

use anyhow::Result;
use types::{Epoch, Key};

use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Chance, Plan, key, timed};
use crate::place::Place;
use crate::store::{CONTAINER, Sizes, Vos, region};

/// Fetches of each kind.
const FETCHES: usize = 2_000_000;
const BATCH: usize = 8;
/// Updates behind the last checkpoint: what the checkpoint interval lets gather at 200,000 a second.
const REPLAYED: usize = 1_000_000;
const VALUE_BYTES: usize = 64;

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let sizes: &[usize] = if plan.full { &[10, 50] } else { &[1] };
    let mut figures = Vec::new();
    for millions in sizes {
        figures.extend(one(plan, *millions)?);
    }
    Ok(figures)
}

fn random_key(n: usize) -> Key {
    Key::new(key(n).to_vec()).expect("16 bytes are a key")
}

fn one(plan: &Plan, millions: usize) -> Result<Vec<Figure>> {
    let records = millions * 1_000_000;
    let (on_disk, in_memory) = (Place::Disk.directory(plan)?, Place::Memory.directory(plan)?);
    let sizes = || Sizes {
        log: 1 << 30,
        data: (records * 600).max(1 << 30) as u64,
        // Twice what the records take, so that growing never evicts.
        pages: (records * 240).max(1 << 30),
    };
    let mut figures = Vec::new();
    let mut figure = |what: &str, unit, value: f64, budget| {
        let name = format!("{what}, {millions} M records of {VALUE_BYTES} B");
        let mut figure = Figure::new("deep", name, unit, Samples::from_iter([value]));
        figure.budget = budget;
        figures.push(figure);
    };
    let least = |rate: [f64; 2]| match millions {
        1 => None,
        10 => Some(Budget::Floor(rate[0])),
        _ => Some(Budget::Floor(rate[1])),
    };

    let mut vos = Vos::create_in(in_memory.path(), on_disk.path(), sizes())?;
    let value = [7; VALUE_BYTES];
    let (seconds, loaded) = timed(|| (0..records).try_for_each(|n| vos.update(&random_key(n), &value)));
    loaded?;
    figure("update in random order", Unit::PerSecond, records as f64 / seconds, least([300_000.0, 0.0]));
    vos.store.media().checkpoint_blocking()?;
    let pages = vos.store.container_info(CONTAINER)?.pages as f64 * media::PAGE_BYTES as f64;
    let bytes = pages / records as f64 - (VALUE_BYTES + 16) as f64;
    figure("bytes a record beyond key and value", Unit::Bytes, bytes, Some(Budget::Ceiling(130.0)));

    let mut chance = Chance::new(11);
    let keys: Vec<Key> = (0..FETCHES).map(|_| random_key(chance.below(records))).collect();
    let object = vos.object;
    let akey = vos.akey.clone();
    let (seconds, found) = timed(|| {
        keys.iter().try_fold(0usize, |sum, key| {
            vos.store.fetch_value(CONTAINER, Epoch::MAX, 0, object, key, &akey, &mut vos.out)?;
            anyhow::Ok(sum + vos.out.len())
        })
    });
    anyhow::ensure!(found? == FETCHES * VALUE_BYTES, "records are lost");
    figure("fetch, warm", Unit::PerSecond, FETCHES as f64 / seconds, least([700_000.0, 0.0]));
    let (seconds, found) = timed(|| {
        keys.chunks(BATCH).try_fold(0usize, |mut sum, batch| {
            let places: Vec<_> = batch.iter().map(|key| (0, object, key, &akey)).collect();
            vos.store.fetch_values(CONTAINER, Epoch::MAX, &places, &mut |_, _, bytes| sum += bytes.len())?;
            anyhow::Ok(sum)
        })
    });
    anyhow::ensure!(found? == FETCHES * VALUE_BYTES, "records are lost");
    let name = format!("fetch in batches of {BATCH}, warm");
    figure(&name, Unit::PerSecond, FETCHES as f64 / seconds, least([1_200_000.0, 0.0]));

    let again = REPLAYED.min(records);
    let (seconds, done) = timed(|| (0..again).try_for_each(|_| vos.update(&random_key(chance.below(records)), &value)));
    done?;
    figure("new version in random order", Unit::PerSecond, again as f64 / seconds, least([200_000.0, 0.0]));
    vos.store.media().flush_now()?;
    drop(vos);

    let sizes = sizes();
    let regions = media::Regions {
        log: region(in_memory.path(), "log", sizes.log)?,
        metadata: None,
        data: region(on_disk.path(), "data", sizes.data)?,
    };
    let (opening, opened) = timed(|| media::Store::open(regions, sizes.pages));
    let (media, recovery) = opened?;
    let (replaying, recovered) = timed(|| vos::Store::recover(media, recovery, &mut |_, _| ()));
    let (_, recovered) = recovered?;
    figure("opening, before replay", Unit::Microseconds, opening * 1e6, None);
    let rate = recovered.records as f64 / replaying;
    figure("records replayed over pages on disk", Unit::PerSecond, rate, None);
    figure("until in service again", Unit::Microseconds, (opening + replaying) * 1e6, None);
    Ok(figures)
}

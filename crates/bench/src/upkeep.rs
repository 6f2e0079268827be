//! What requests get while a server gives history back, beside the same requests when all history is kept.
//!
//! One container keeps no history, the other all of it; the same keys of either are overwritten for a while, in
//! turns. In the first, every overwritten version is aggregated within seconds.

use std::time::{Duration, Instant};

use anyhow::Result;
use client::Kv;

use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Chance, Plan, key};
use crate::place::Place;
use crate::process::ServerProcess;
use crate::server::new_kv;

const KEYS: usize = 50_000;
const DEPTH: usize = 64;
const BYTES: usize = 64;
/// Long enough for several strides of a horizon.
const ROUND: Duration = Duration::from_secs(15);

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Memory.directory(plan)?;
    let server = ServerProcess::start(directory.path(), &["--targets", "1", "--size", "6GiB"])?;
    rt::block_on(async {
        let (mut given_back, mut kept) = (Samples::default(), Samples::default());
        let (mut reads, mut reads_kept) = (Samples::default(), Samples::default());
        // Containers of their own for each round: history that was kept must not weigh on the next.
        for round in 0..plan.rounds.min(3) {
            for (retention, puts, gets) in [("forever", &mut kept, &mut reads_kept), ("0", &mut given_back, &mut reads)]
            {
                let name = format!("round-{round}-{retention}");
                let container = server.container_named(&name, 4 << 30, &[("retention", retention)]).await?;
                let kv = new_kv(&container).await?;
                let (put, get) = overwrite(&kv).await?;
                puts.push(put);
                gets.push(get);
                server.destroy_pool(&name).await?;
                // What was in it is removed as upkeep too, which is not the next one's.
                rt::sleep(ROUND / 2).await;
            }
        }
        let figure = |what: &str, samples| {
            let name = format!("{what} {BYTES} B depth {DEPTH}, overwritten versions given back");
            Figure::new("upkeep", name, Unit::PerSecond, samples)
        };
        let mut put = figure("kv put", given_back).beside("all versions kept", kept);
        let mut get = figure("kv get, among as many puts,", reads).beside("all versions kept", reads_kept);
        (put.budget, get.budget) = (Some(Budget::Times(0.7)), Some(Budget::Times(0.7)));
        Ok(vec![put, get])
    })
}

/// Puts for one round, then puts and gets in turns for another; puts and gets a second.
async fn overwrite(kv: &Kv) -> Result<(f64, f64)> {
    let mut value = vec![0; BYTES];
    Chance::new(3).fill(&mut value);
    for first in (0..KEYS).step_by(DEPTH) {
        let puts = (first..KEYS.min(first + DEPTH)).map(|n| {
            let (kv, value) = (kv.clone(), value.clone());
            rt::spawn(async move { kv.put(&key(n), &value).await })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await??;
        }
    }
    let puts = for_a_round(kv, &value, false).await?;
    let gets = for_a_round(kv, &value, true).await?;
    Ok((puts, gets))
}

async fn for_a_round(kv: &Kv, value: &[u8], reads: bool) -> Result<f64> {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..DEPTH)
        .map(|task| {
            let (kv, value) = (kv.clone(), value.to_vec());
            rt::spawn(async move {
                let mut chance = Chance::new(task as u64 * 2 + 101);
                let mut count = 0usize;
                while begun.elapsed() < ROUND {
                    kv.put(&key(chance.below(KEYS)), &value).await?;
                    if reads {
                        kv.get(&key(chance.below(KEYS))).await?;
                    }
                    count += 1;
                }
                anyhow::Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

//! Three server processes of one target each: what copies cost.
//!
//! # Shape
//! All servers and the client share this machine, so rates say less than the processor time of all servers together, and
//! each is told beside what it is without copies, in the same rounds.
//!
//! # Not here
//! Rounds of network and log on the critical path: a test counts them (`engine/tests/groups`).

use anyhow::Result;

use crate::cluster::{Cluster, POOL, new_kv};
use crate::drive::{get, put};
use crate::figure::{Figure, Samples, Unit};
use crate::measure::Plan;
use crate::place::Place;

const BENCH: &str = "replication";
const FAILURES: [usize; 3] = [0, 1, 2];
/// Value size, depth, operations a round.
const ROWS: [(usize, usize, usize); 4] = [(64, 1, 2_000), (64, 64, 30_000), (4096, 1, 2_000), (4096, 64, 15_000)];

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let directory = Place::Memory.directory(plan)?;
    let cluster = Cluster::three(directory.path(), &[])?;
    let mut figures = Vec::new();
    for row in ROWS {
        figures.extend(copies(plan, &cluster, row)?);
    }
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

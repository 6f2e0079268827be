//! Many seeds, over all processors: what `cargo xtask sim` runs.
//!
//! `SIM_SEEDS`: how many; `SIM_FIRST`: from which on; `SIM_SCENARIO`: of one scenario only. Every seed is run with
//! every scenario. `SIM_LOG=info,engine=debug` shows how far a run is, and what its servers log, with the virtual time. What
//! fails is said at once, with the command that runs it again, and the others go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::{SCENARIOS, Scenario, Totals, report, run};

/// Virtual seconds since the run began. Not by the clock: to read it takes time, and a run that is logged would be another.
pub(crate) struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        match rt::sim::is_active() {
            true => write!(line, "{:>11.6}", rt::sim::current().elapsed().as_secs_f64()),
            false => write!(line, "{:>11}", "-"),
        }
    }
}

/// Lines of progress.
const STEPS: u64 = 20;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, and not '{text}'")),
        Err(_) => otherwise,
    }
}

fn chosen() -> Vec<&'static Scenario> {
    let Ok(wanted) = std::env::var("SIM_SCENARIO") else { return SCENARIOS.to_vec() };
    let found: Vec<_> = SCENARIOS.into_iter().filter(|scenario| scenario.plan.name == wanted).collect();
    let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.plan.name).collect();
    assert!(!found.is_empty(), "no scenario '{wanted}'; there are {}", names.join(", "));
    found
}

#[test]
#[ignore = "a campaign takes as long as one likes: cargo xtask sim"]
fn campaign() {
    if let Ok(filter) = std::env::var("SIM_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_timer(VirtualTime).with_ansi(false).init();
    }
    let (first, seeds, scenarios) = (number("SIM_FIRST", 0), number("SIM_SEEDS", 10), chosen());
    let count = seeds * scenarios.len() as u64;
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let totals: Vec<Mutex<Totals>> = scenarios.iter().map(|_| Mutex::default()).collect();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Relaxed);
                    if turn >= count {
                        return;
                    }
                    let (seed, which) = (first + turn / scenarios.len() as u64, turn as usize % scenarios.len());
                    match std::panic::catch_unwind(|| run(scenarios[which], seed)) {
                        Ok(report) => totals[which].lock().expect("adding does not panic").add(&report),
                        Err(_) => {
                            let name = scenarios[which].plan.name;
                            let again = format!("cargo xtask sim --scenario {name} --first {seed} --seeds 1");
                            println!("FAILED: {again}");
                            failed.lock().expect("pushing does not panic").push(again);
                        }
                    }
                    if (turn + 1) % (count / STEPS).max(1) == 0 {
                        println!("{} of {count} runs, {} s", turn + 1, began.elapsed().as_secs());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("the threads are done");
    let (mut runs, mut faults, mut answered, mut unanswered) = (0, 0, 0, 0);
    for (scenario, totals) in scenarios.iter().zip(totals) {
        let totals = totals.into_inner().expect("the threads are done");
        report(scenario, &totals);
        (runs, faults) = (runs + totals.runs, faults + u64::from(totals.harm.total()));
        (answered, unanswered) = (answered + totals.answered, unanswered + totals.unanswered);
    }
    println!(
        "{runs} of {count} runs survived, with {faults} faults; {answered} requests answered, {unanswered} not; {} s",
        began.elapsed().as_secs()
    );
    assert!(failed.is_empty(), "{} runs failed:\n{}", failed.len(), failed.join("\n"));
}

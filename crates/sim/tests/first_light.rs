//! One server and its clients under crashes, partitions, loss and duplication of messages.
//!
//! `SIM_SEEDS=n` runs n seeds (200 by default), `SIM_SEED=s` the one seed s.

use sim::scenario;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs every seed, and says which one failed.
fn campaign(seeds: impl Iterator<Item = u64>) {
    let (mut runs, mut crashes, mut partitions) = (0, 0, 0);
    for seed in seeds {
        let report = std::panic::catch_unwind(|| scenario::run(seed)).unwrap_or_else(|_| {
            panic!("seed {seed} failed: replay it with SIM_SEED={seed} cargo test -p sim --test first_light")
        });
        runs += 1;
        crashes += report.faults.crashes.get();
        partitions += report.faults.partitions.get();
    }
    println!("{runs} seeds survived, with {crashes} crashes and {partitions} partitions");
}

#[test]
fn acknowledged_writes_survive_crashes_and_a_bad_network() {
    match number("SIM_SEED") {
        Some(seed) => campaign(std::iter::once(seed)),
        None => campaign(0..number("SIM_SEEDS").unwrap_or(200)),
    }
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    for seed in [1, 77] {
        assert_eq!(scenario::run(seed).trace, scenario::run(seed).trace, "seed {seed}");
    }
    assert_ne!(scenario::run(1).trace, scenario::run(2).trace);
}

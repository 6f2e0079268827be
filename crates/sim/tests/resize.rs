//! The targets' data grows and shrinks under load, crashes and restarts.
//!
//! `SIM_SEEDS=n` runs n seeds (30 by default), `SIM_SEED=s` the one seed s.

use sim::resize;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn everything_is_there_whatever_size_its_device_got_meanwhile() {
    let seeds = number("SIM_SEED").map_or(0..number("SIM_SEEDS").unwrap_or(30), |seed| seed..seed + 1);
    let (mut runs, mut crashes, mut taken, mut refused, mut moved) = (0, 0, 0, 0, 0);
    for seed in seeds {
        let report = std::panic::catch_unwind(|| resize::run(seed)).unwrap_or_else(|_| {
            panic!("seed {seed} failed: replay it with SIM_SEED={seed} cargo test -p sim --test resize")
        });
        runs += 1;
        crashes += report.faults.crashes.get();
        taken += report.resizes[0];
        refused += report.resizes[1];
        moved += report.moved;
    }
    println!("{runs} seeds survived: {crashes} crashes, {taken} sizes taken, {refused} refused, {moved} bytes moved");
    assert!(taken > runs && moved > 0, "it was exercised");
}

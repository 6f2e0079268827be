//! Requests take effect once, over crashes of the server between effect and answer (K5).
//!
//! `SIM_SEEDS=n` runs n seeds (200 by default), `SIM_SEED=s` the one seed s.

use sim::once;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn a_request_takes_effect_once_whatever_becomes_of_the_server() {
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(200),
    };
    let (mut runs, mut crashes, mut recalled, mut values) = (0, 0, 0, 0);
    for seed in seeds {
        let report = std::panic::catch_unwind(|| once::run(seed)).unwrap_or_else(|_| {
            panic!("seed {seed} failed: replay it with SIM_SEED={seed} cargo test -p sim --test exactly_once")
        });
        runs += 1;
        crashes += report.faults.crashes.get();
        recalled += report.recalled;
        values += report.values;
    }
    println!("{runs} seeds survived, with {crashes} crashes, {values} values and {recalled} answers recalled");
    assert!(runs < 20 || recalled > runs, "the scenario reaches what it is about");
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    assert_eq!(once::run(1).trace, once::run(1).trace);
}

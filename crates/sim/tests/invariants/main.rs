//! The invariants of the design that clusters must keep, each attacked by a scenario of its own; and every run of every
//! scenario is judged by all of them (`sim::verdict`).
//!
//! | | invariant | scenario |
//! |---|---|---|
//! | K1 | what is acknowledged is not lost | `k1_durable` |
//! | K2 | committed by all or by none | `k2_all_or_none` |
//! | K5 | once | `k5_once` |
//! | K10 | everything is decided | `k10_decided` |
//! | K12 | copies fail apart | `k12_apart` |
//! | K13 | targets change by the table, and serve when they are whole | `k13_by_the_table` |
//! | K14 | who is replaced has no say | `k14_one_leader` |
//! | K15 | filling what returns survives whatever happens meanwhile | `k15_filling` |
//! | K18 | what was read stays so | `k18_repeatable` |
//! | K19 | replicas of services are equal | `k19_services` |
//! | K21 | everything ends in time | `k21_in_time` |
//! | K24 | what is told to stop stops | `k24_stops` |
//! | 5. | whose clock is off decides nothing | `clock_off` |
//! | 5. | so it is with more servers than vote | `wide` |
//!
//! `cargo test -p sim --test invariants` runs some seeds of each. `cargo xtask sim` runs campaigns; one seed again:
//! `cargo xtask sim --scenario NAME --first SEED --seeds 1`.

mod campaign;
mod clock_off;
mod k10_decided;
mod k12_apart;
mod k13_by_the_table;
mod k14_one_leader;
mod k15_filling;
mod k18_repeatable;
mod k19_services;
mod k1_durable;
mod k21_in_time;
mod k24_stops;
mod k2_all_or_none;
mod k5_once;
mod regressions;
mod wide;

use sim::trial::{self, Evidence, Plan, Report};
use sim::verdict;

/// A way to attack an invariant.
struct Scenario {
    plan: Plan,
    /// What the scenario is about, beyond what is asked of every run.
    judge: fn(&Evidence),
    /// Whether so many runs, added up, did what the scenario is about.
    reached: fn(&Totals) -> bool,
}

const SCENARIOS: [&Scenario; 14] = [
    &k1_durable::SCENARIO,
    &k2_all_or_none::SCENARIO,
    &k5_once::SCENARIO,
    &k10_decided::SCENARIO,
    &k12_apart::SCENARIO,
    &k13_by_the_table::SCENARIO,
    &k14_one_leader::SCENARIO,
    &k15_filling::SCENARIO,
    &k18_repeatable::SCENARIO,
    &k19_services::SCENARIO,
    &k21_in_time::SCENARIO,
    &k24_stops::SCENARIO,
    &clock_off::SCENARIO,
    &wide::SCENARIO,
];

/// Of several runs.
#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    harm: sim::nemesis::cluster::Harm,
    answered: u64,
    unanswered: u64,
    maps: u64,
    slowest_healing: std::time::Duration,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.harm.add(&report.harm);
        self.answered += report.answered;
        self.unanswered += report.unanswered;
        self.maps += report.maps;
        self.slowest_healing = self.slowest_healing.max(report.healing);
    }

    fn done(&self, fault: sim::nemesis::cluster::Fault) -> u64 {
        self.harm.acts.get(&fault).copied().unwrap_or(0).into()
    }
}

/// Runs one seed. Panics on a broken promise, with the command that does so again.
fn run(scenario: &Scenario, seed: u64) -> Report {
    let name = scenario.plan.name;
    let attempt = std::panic::catch_unwind(|| {
        trial::run(seed, &scenario.plan, |evidence| {
            verdict::all(evidence);
            (scenario.judge)(evidence);
        })
    });
    attempt.unwrap_or_else(|_| {
        panic!("{name}: seed {seed} failed. Again: cargo xtask sim --scenario {name} --first {seed} --seeds 1")
    })
}

/// What CI runs of each scenario: a run takes seconds, most of them for the consensus of the servers.
const CI_SEEDS: u64 = 8;
/// Of fewer runs chance decides what they reach.
const RUNS_TO_JUDGE: u64 = 8;

fn check(scenario: &Scenario) {
    let mut totals = Totals::default();
    (0..CI_SEEDS).for_each(|seed| totals.add(&run(scenario, seed)));
    report(scenario, &totals);
}

/// Says what was done. Panics when that was not what the scenario is about.
fn report(scenario: &Scenario, totals: &Totals) {
    let name = scenario.plan.name;
    println!("{name}: {totals:?}");
    assert!(totals.harm.total() > 0 && totals.answered > 0 || totals.runs == 0, "{name}: nothing happened");
    assert!(totals.runs < RUNS_TO_JUDGE || (scenario.reached)(totals), "{name} is too kind: {totals:?}");
}

#[test]
fn a_seed_is_a_story_told_the_same_each_time() {
    assert_eq!(run(&k1_durable::SCENARIO, 3).trace, run(&k1_durable::SCENARIO, 3).trace);
}

/// The log of a run read the clock for each line, which takes time there: two failing seeds passed as soon as they were looked at.
#[test]
fn a_run_that_is_logged_is_the_same_run() {
    let logger = tracing_subscriber::fmt().with_env_filter("info,engine=debug,openraft=warn");
    let logger = logger.with_timer(campaign::VirtualTime).with_writer(std::io::sink).finish();
    let logged = tracing::subscriber::with_default(logger, || run(&k1_durable::SCENARIO, 3).trace);
    assert_eq!(logged, run(&k1_durable::SCENARIO, 3).trace);
}

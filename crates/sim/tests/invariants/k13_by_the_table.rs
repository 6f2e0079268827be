//! K13: the map of a pool goes from version to version as the table of states has it, never back; and a target counts as in
//! only when it holds what the others hold.
//!
//! *To break it*: servers are taken for dead, excluded by hand and taken back while others are, too; those that bring them
//! up to date die over it; who leads the pool changes.
//! *Checked*: every two maps that were told agree on what both know, every step is one of the table, and the stores of
//! all targets that are in service in the end hold the same.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k13_by_the_table",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 2, operations: 15, pause_ms: 400, commands: 0 },
        menu: Menu {
            faults: &[(Fault::Exclude, 4), (Fault::Kill, 3), (Fault::Hang, 2), (Fault::PowerCut, 2)],
            victims_max: 2,
            pause: Duration::from_millis(800),
            long_one_in: 2,
        },
    },
    judge: |_| {},
    reached: |totals| totals.maps > 4 * totals.runs && totals.done(Fault::Exclude) > 0,
};

#[test]
fn targets_go_by_the_table_and_serve_when_they_are_whole() {
    super::check(&SCENARIO);
}

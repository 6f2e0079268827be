//! K18: what was read of a moment stays so: nothing is written before it any more, though those who remember that it was
//! read restart, forget or are replaced.
//!
//! *To break it*: clients read at moments that are hardly over, or not yet, while others write; leaders restart and change
//! right afterwards; clocks differ by almost as much as is borne.
//! *Checked*: in the end every such read gives what it gave.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k18_repeatable",
        servers: 3..=4,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 4, operations: 25, pause_ms: 80, commands: 0 },
        menu: Menu {
            faults: &[(Fault::Kill, 4), (Fault::PowerCut, 2), (Fault::Skew, 4), (Fault::Hang, 2)],
            victims_max: 2,
            pause: Duration::from_millis(250),
            long_one_in: 8,
        },
    },
    judge: |evidence| assert!(!evidence.ledger.looks.is_empty(), "somebody looks back"),
    reached: |totals| totals.done(Fault::Skew) > totals.runs,
};

#[test]
fn what_was_read_stays_so() {
    super::check(&SCENARIO);
}

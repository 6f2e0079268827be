//! K2: a change takes effect only when all members of its group have prepared it, and no two members differ on how it ended.
//!
//! *To break it*: links between servers part, also one way, and lose and repeat frames, so that prepares, confirmations and
//! decisions reach some members and others not; leaders die with changes under way.
//! *Checked*: at rest, the stores of all members of every group hold the same versions of the same values; what one store
//! remembers as committed, none remembers as aborted.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k2_all_or_none",
        servers: 3..=4,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 3..=3,
        load: Load { clients: 3, operations: 20, pause_ms: 150, commands: 0 },
        menu: Menu {
            faults: &[
                (Fault::Partition, 3),
                (Fault::OneWay, 4),
                (Fault::BadNetwork, 4),
                (Fault::Kill, 2),
                (Fault::PowerCut, 2),
            ],
            victims_max: 2,
            pause: Duration::from_millis(300),
            long_one_in: 12,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::OneWay) > totals.runs,
};

#[test]
fn all_members_commit_a_change_or_none() {
    super::check(&SCENARIO);
}

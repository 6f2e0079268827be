//! K10: whatever is prepared is decided within seconds once its members can be reached, whether somebody asks or not.
//!
//! *To break it*: servers hang, are cut off and die while changes are under way, so that leaders, members and deciders
//! change in the middle; then all is well, and most groups are asked for nothing any more.
//! *Checked*: four seconds after the cluster healed no store holds a change that waits.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k10_decided",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 3..=3,
        load: Load { clients: 4, operations: 14, pause_ms: 120, commands: 0 },
        menu: Menu {
            faults: &[(Fault::Hang, 4), (Fault::Isolate, 3), (Fault::PowerCut, 3), (Fault::BadNetwork, 2)],
            victims_max: 2,
            pause: Duration::from_millis(300),
            long_one_in: 6,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::Hang) > totals.runs && totals.unanswered > 0,
};

#[test]
fn nothing_stays_undecided() {
    super::check(&SCENARIO);
}

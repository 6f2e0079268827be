//! K12: the copies of a placement group lie in distinct fault domains as long as there are enough; a layout follows from the
//! map alone; and a change moves nothing of groups that it does not concern.
//!
//! *To break it*: servers in three racks, of which some fail, are excluded, and return, in every order.
//! *Checked*: by every map that any server told, while all went on.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k12_apart",
        servers: 4..=5,
        domains: Domains::Racks(3),
        detection: sim::cluster::usual,
        copies: 2..=2,
        load: Load { clients: 2, operations: 10, pause_ms: 500, commands: 0 },
        menu: Menu {
            faults: &[(Fault::Kill, 3), (Fault::Exclude, 3), (Fault::Isolate, 2)],
            victims_max: 2,
            pause: Duration::from_millis(900),
            long_one_in: 2,
        },
    },
    judge: |_| {},
    reached: |totals| totals.maps > 4 * totals.runs,
};

#[test]
fn copies_lie_apart_by_every_map() {
    super::check(&SCENARIO);
}

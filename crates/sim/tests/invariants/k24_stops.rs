//! K24: a server that is told to stop stops, within a bound, from whatever state: requests under way, disks that are slow, a
//! network that loses what is said, others that are gone.
//!
//! *To break it*: servers are stopped in order at any time, also two at once, with all that going on.
//! *Checked*: none takes longer than half a minute; nothing is lost by it.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k24_stops",
        servers: 3..=4,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 3, operations: 15, pause_ms: 250, commands: 2 },
        menu: Menu {
            faults: &[
                (Fault::Stop, 6),
                (Fault::SlowDisk, 2),
                (Fault::Partition, 2),
                (Fault::BadNetwork, 2),
                (Fault::Hang, 1),
            ],
            victims_max: 3,
            pause: Duration::from_millis(400),
            long_one_in: 5,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::Stop) > totals.runs,
};

#[test]
fn a_server_that_is_told_to_stop_stops() {
    super::check(&SCENARIO);
}

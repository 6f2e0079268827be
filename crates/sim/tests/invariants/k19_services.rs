//! K19: replicas of the system's and the pools' services that applied the same commands are equal, byte for byte, and what
//! their leaders have done outside is done once.
//!
//! *To break it*: leaders change under commands; replicas fall behind, lose power, and catch up.
//! *Checked*: the encoded states of all replicas are equal at rest; containers that an administrator was told are there.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k19_services",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=2,
        load: Load { clients: 1, operations: 5, pause_ms: 500, commands: 6 },
        menu: Menu {
            faults: &[
                (Fault::Kill, 3),
                (Fault::PowerCut, 3),
                (Fault::Partition, 2),
                (Fault::OneWay, 2),
                (Fault::Exclude, 1),
                (Fault::Stop, 1),
            ],
            victims_max: 2,
            pause: Duration::from_millis(700),
            long_one_in: 4,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::Kill) > totals.runs / 2,
};

#[test]
fn replicas_of_services_are_equal() {
    super::check(&SCENARIO);
}

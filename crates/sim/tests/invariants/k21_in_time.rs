//! K21: every request ends by its deadline, answered or not, and nothing that waits grows without bound.
//!
//! *To break it*: more clients than servers have room for, slow and full disks, servers that hang with requests in hand, links
//! that swallow what they are given.
//! *Checked*: no request takes longer than its deadline and the second that its last attempt may; all is answered again
//! when all is well. The bounds of queues themselves are asserted where the queues are (`rt::mem`, `net`, `engine`).

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k21_in_time",
        servers: 3..=3,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 8, operations: 10, pause_ms: 30, commands: 1 },
        menu: Menu {
            faults: &[
                (Fault::SlowDisk, 4),
                (Fault::FullDisk, 2),
                (Fault::Hang, 3),
                (Fault::Partition, 2),
                (Fault::ClientCut, 2),
                (Fault::BadNetwork, 1),
            ],
            victims_max: 3,
            pause: Duration::from_millis(200),
            long_one_in: 3,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::SlowDisk) > totals.runs / 2 && totals.unanswered > 0,
};

#[test]
fn every_request_ends_by_its_deadline() {
    super::check(&SCENARIO);
}

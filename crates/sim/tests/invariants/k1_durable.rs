//! K1: a write that was acknowledged can be read at its epoch, whatever fails afterwards, as long as disks come back.
//!
//! *To break it*: servers lose power with writes that are not synced, one at a time and all at once; some stay away until
//! they are excluded and return to be filled; disks are slow and file systems full; the network loses, repeats and delays.
//! *Checked*: clients read back what they were told while it goes on; in the end, everything that was acknowledged is read
//! at its epoch, and is in the stores of all members.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k1_durable",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 3, operations: 20, pause_ms: 250, commands: 1 },
        menu: Menu {
            faults: &[
                (Fault::PowerCut, 6),
                (Fault::Kill, 2),
                (Fault::Blackout, 2),
                (Fault::BadNetwork, 2),
                (Fault::SlowDisk, 2),
                (Fault::FullDisk, 1),
            ],
            victims_max: 2,
            pause: Duration::from_millis(600),
            long_one_in: 4,
        },
    },
    judge: |evidence| assert!(evidence.ledger.acknowledged.len() > 5, "somebody gets something done"),
    reached: |totals| totals.done(Fault::PowerCut) > totals.runs && totals.done(Fault::Blackout) > 0,
};

#[test]
fn what_was_acknowledged_survives_power_cuts_and_full_disks() {
    super::check(&SCENARIO);
}

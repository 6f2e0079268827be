//! K5: a request takes effect once at most, however often it is sent and to whomever, and a repeat gets the first answer.
//!
//! *To break it*: frames come twice, answers get lost on the way to clients, which repeat what they asked; leaders die
//! between what they did and saying so, and others take over.
//! *Checked*: keys that one client alone inserts and removes, under conditions, are never refused; no value has two versions,
//! in any store; what was answered has the epoch of the answer; the same of containers that come and go.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k5_once",
        servers: 3..=4,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 3, operations: 20, pause_ms: 150, commands: 3 },
        menu: Menu {
            faults: &[(Fault::BadNetwork, 4), (Fault::ClientCut, 4), (Fault::Kill, 4), (Fault::Stop, 2)],
            victims_max: 2,
            pause: Duration::from_millis(350),
            long_one_in: 8,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::ClientCut) > totals.runs && totals.done(Fault::Kill) > totals.runs,
};

#[test]
fn a_request_takes_effect_once_whoever_leads() {
    super::check(&SCENARIO);
}

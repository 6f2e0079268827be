//! More servers than vote: of six to nine, up to five decide for the system and for a pool, and the others learn what became of it.
//! Everything that holds of small clusters holds of these.
//!
//! *To break it*: those who vote die and are replaced by those who did not, who knew the state by what they were told; all lose
//! power at once, and who has no vote begins with nothing but addresses; servers go out and come back meanwhile. How long a silence
//! means death each server has an idea of its own of, and so of leases and elections.
//! *Checked*: by all; who votes and who does not end with the same states.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "wide",
        servers: 6..=9,
        domains: Domains::Racks(3),
        detection: sim::cluster::mixed,
        copies: 2..=3,
        load: Load { clients: 3, operations: 12, pause_ms: 400, commands: 3 },
        menu: Menu {
            faults: &[
                (Fault::Kill, 4),
                (Fault::PowerCut, 3),
                (Fault::Isolate, 2),
                (Fault::OneWay, 1),
                (Fault::Blackout, 1),
                (Fault::Exclude, 2),
                (Fault::Hang, 1),
                (Fault::BadNetwork, 1),
                (Fault::Stop, 1),
                (Fault::WrongClock, 1),
            ],
            victims_max: 3,
            pause: Duration::from_millis(700),
            long_one_in: 2,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::Kill) > totals.runs / 2 && u64::from(totals.harm.long) > totals.runs,
};

#[test]
fn many_servers_of_which_few_vote() {
    super::check(&SCENARIO);
}

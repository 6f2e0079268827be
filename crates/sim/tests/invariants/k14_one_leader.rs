//! K14: who was replaced as a group's leader neither answers nor changes anything once the next one does.
//!
//! *To break it*: servers are cut off from all others while clients still reach them; they hang while they are replaced, and go
//! on as if nothing were; clocks are off, a little or by seconds. Clients meet on few keys, and go by old maps.
//! *Checked*: for what all clients saw of every single key there is an order that respects time.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k14_one_leader",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 4, operations: 18, pause_ms: 250, commands: 0 },
        menu: Menu {
            faults: &[
                (Fault::Isolate, 4),
                (Fault::Hang, 4),
                (Fault::Skew, 2),
                (Fault::WrongClock, 1),
                (Fault::OneWay, 2),
            ],
            victims_max: 2,
            pause: Duration::from_millis(500),
            long_one_in: 3,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::Isolate) > totals.runs && totals.maps > 3 * totals.runs,
};

#[test]
fn who_was_replaced_has_no_say() {
    super::check(&SCENARIO);
}

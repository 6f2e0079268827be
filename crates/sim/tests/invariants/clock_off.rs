//! Section 5 of the design: a server whose clock is off is fenced, and what it did before, and does after, fits in with what
//! the others do: no write is lost (K1), and every key has an order that respects time (K14).
//!
//! *To break it*: clocks are set ahead and back by tenths of a second, seconds and hours, of servers that run and of servers
//! that start; others lose power, hang, or hear nobody meanwhile; clocks that count as right differ by almost as much as is borne.
//! *Checked*: by all; in the end all servers are back, and their epochs are not ahead: clients are refused else.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "clock_off",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 4, operations: 20, pause_ms: 200, commands: 2 },
        menu: Menu {
            faults: &[
                (Fault::WrongClock, 6),
                (Fault::Skew, 2),
                (Fault::PowerCut, 1),
                (Fault::Hang, 1),
                (Fault::Isolate, 1),
            ],
            victims_max: 2,
            pause: Duration::from_millis(500),
            long_one_in: 2,
        },
    },
    judge: |_| {},
    reached: |totals| totals.done(Fault::WrongClock) > totals.runs,
};

#[test]
fn whose_clock_is_off_decides_nothing() {
    super::check(&SCENARIO);
}

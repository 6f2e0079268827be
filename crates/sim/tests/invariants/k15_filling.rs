//! K15: bringing a server up to date that returns converges, whoever dies or changes over it, and shows nothing unfinished.
//!
//! *To break it*: servers stay away until they are excluded and come back; those that fill them, those that are filled and
//! those that lead the pool die, hang and lose frames meanwhile, again and again.
//! *Checked*: all are in service in bounded time, and hold the same. Not here: rebuilding elsewhere and giving up, which a
//! test of their own shows.

use std::time::Duration;

use sim::cluster::Domains;
use sim::nemesis::cluster::{Fault, Menu};
use sim::trial::Plan;
use sim::work::Load;

use super::Scenario;

pub(crate) const SCENARIO: Scenario = Scenario {
    plan: Plan {
        name: "k15_filling",
        servers: 3..=5,
        domains: Domains::Servers,
        detection: sim::cluster::usual,
        copies: 2..=3,
        load: Load { clients: 2, operations: 18, pause_ms: 400, commands: 0 },
        menu: Menu {
            faults: &[
                (Fault::Kill, 4),
                (Fault::PowerCut, 4),
                (Fault::Hang, 1),
                (Fault::BadNetwork, 2),
                (Fault::Stop, 1),
            ],
            victims_max: 2,
            pause: Duration::from_millis(900),
            long_one_in: 2,
        },
    },
    judge: |_| {},
    reached: |totals| u64::from(totals.harm.long) > totals.runs && totals.maps > 4 * totals.runs,
};

#[test]
fn who_returns_is_filled_whatever_happens_meanwhile() {
    super::check(&SCENARIO);
}

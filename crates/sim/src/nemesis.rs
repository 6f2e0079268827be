//! What goes wrong: the server dies and comes back, the network parts and heals.
//!
//! Loss, duplication and delay of messages are on all the time; see the scenario's configuration.

pub mod cluster;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::Rng;
use rt::sim::NodeId;

use crate::scenario::{ServerNode, restart_server};

/// Counts of faults done, for the report of a campaign.
#[derive(Default, Debug)]
pub struct Faults {
    pub crashes: Cell<u32>,
    pub partitions: Cell<u32>,
}

/// Does harm until told to stop; then leaves everything whole.
pub async fn torment(server: ServerNode, clients: Vec<NodeId>, mut dice: Rng, stop: Rc<Cell<bool>>) -> Faults {
    let faults = Faults::default();
    while !stop.get() {
        rt::sleep(Duration::from_millis(100 + dice.below(2_000))).await;
        if stop.get() {
            break;
        }
        let sim = rt::sim::current();
        if dice.below(3) < 2 {
            match dice.below(2) {
                0 => sim.kill(server.node),
                _ => sim.crash(server.node),
            }
            faults.crashes.set(faults.crashes.get() + 1);
            rt::sleep(Duration::from_millis(10 + dice.below(1_000))).await;
            restart_server(&server);
        } else {
            let client = clients[dice.below(clients.len() as u64) as usize];
            sim.partition(client, server.node);
            faults.partitions.set(faults.partitions.get() + 1);
            rt::sleep(Duration::from_millis(50 + dice.below(3_000))).await;
            sim.heal(client, server.node);
        }
    }
    faults
}

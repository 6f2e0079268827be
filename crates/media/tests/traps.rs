//! Traps of logs and devices that the other files do not tell: see `docs/traps.md`.

mod ledger;

use std::cell::RefCell;
use std::rc::Rc;

use ledger::{Action, Ledger, Model, Op};
use media::{BLOCK_BYTES, LOG_BYTES_MIN};
use rt::sim::{Sim, SimConfig};

const DATA_BYTES: u64 = 4 << 20;
const BUDGET: usize = 1 << 20;

/// A log that ended exactly where its area does went on behind it. Reopened at every batch of several rounds, the
/// last of a round included, it has every record, and takes the next at the beginning.
#[test]
fn a_log_that_ends_exactly_at_its_end_goes_on_at_its_beginning() {
    let sim = Sim::new(SimConfig::seeded(3));
    let node = sim.node("target");
    sim.run(async move {
        let body = async move {
            let model = Rc::new(RefCell::new(Model::default()));
            let area = LOG_BYTES_MIN - BLOCK_BYTES as u64;
            drop(Ledger::format(ledger::regions(LOG_BYTES_MIN, DATA_BYTES), BUDGET));
            let (mut exact, mut rounds) = (0, 0);
            for step in 0..3 * area / BLOCK_BYTES as u64 + 7 {
                let (ledger, _) = Ledger::open(BUDGET).unwrap();
                ledger.verify(&model.borrow(), step);
                let op = Op { key: step as u32 % 50, action: Action::Inline(step) };
                if ledger.submit_now(&op, &model).is_err() {
                    ledger.store.checkpoint_blocking().unwrap();
                    ledger.submit_now(&op, &model).unwrap();
                }
                ledger.store.flush_now().unwrap();
                let end = ledger.store.end_lsn().0;
                // A batch ends at a block; the next begins behind it, here at the first block of the area.
                exact += usize::from(end.next_multiple_of(BLOCK_BYTES as u64).is_multiple_of(area));
                rounds = rounds.max(end / area);
            }
            assert!(exact >= 1 && rounds >= 2, "{exact} exact ends in {rounds} rounds");
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
}

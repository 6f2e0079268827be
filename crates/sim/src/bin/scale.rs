//! Prints what placement does in pools of 100, 1,000 and 10,000 servers: `cargo run --release -p sim --bin scale`.
#![forbid(unsafe_code)]

use std::time::Instant;

use placement::{Layout, MapError};
use sim::scale::Shape;

/// Placement groups that differences are taken over: a per cent is exact to a hundredth.
const SAMPLE: u32 = 1 << 19;

fn main() -> Result<(), MapError> {
    println!(
        "| servers | PGs | map and layout | all slots | fullest target, leader, server | copysets | partners \
         | failed server | server more | rack more |"
    );
    println!("|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|");
    for racks in [5, 50, 500] {
        let shape = Shape { racks, servers_per_rack: 20, targets_per_server: 8 };
        let start = Instant::now();
        let layout = Layout::new(shape.map()?);
        let made = start.elapsed();
        let start = Instant::now();
        shape.walk(&layout);
        let walked = start.elapsed();
        let balance = shape.balance(&layout);
        println!(
            "| {} | {} | {:.1} ms | {:.2} s | {:.2}, {:.2}, {:.2} | {} | {} | {:.3} | {:.3} | {:.3} |",
            shape.servers(),
            layout.pg_count(),
            made.as_secs_f64() * 1e3,
            walked.as_secs_f64(),
            balance.slots,
            balance.led,
            balance.server_slots,
            balance.copysets,
            balance.partners,
            shape.failure(&layout, SAMPLE)?.ratio(),
            shape.growth(&layout, 1, false, SAMPLE)?.ratio(),
            shape.growth(&layout, 20, true, SAMPLE)?.ratio(),
        );
    }
    Ok(())
}

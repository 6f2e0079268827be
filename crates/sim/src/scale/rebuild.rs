//! What healing after the loss of a server or a target takes: who copies what to whom, and how long that is.
//!
//! Every placement group of the lost is copied by who leads it now to who stands in (`placement::plan`). All copies run at once; each
//! target reads and writes at a stated rate, so the busiest one says when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use placement::{Change, Event, Layout, MapError};

use super::{SLOTS, Shape};

/// What every target holds, and the rate at which it copies, in and out, each.
#[derive(Clone, Copy, Debug)]
pub struct Assumed {
    pub target_bytes: u64,
    pub bytes_per_second: u64,
}

/// What it takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Healing {
    pub moves: u64,
    /// Targets that read, and that write.
    pub sources: usize,
    pub destinations: usize,
    /// Groups that nobody has a copy of.
    pub lost: u64,
    /// Of planning, on one processor.
    pub planning: Duration,
    /// Of copying, by the busiest target.
    pub copying: Duration,
}

/// Plans what is to be done when so many targets of the first server are lost.
///
/// # Errors
/// [`MapError`]: never for shapes of more than one server.
pub fn heal(
    shape: Shape,
    before: &Layout,
    targets: u32,
    assumed: Assumed,
    clock: impl Fn() -> Instant,
) -> Result<Healing, MapError> {
    let begun = clock();
    let mut map = before.map().clone();
    map.apply(&Change::Happen(
        (0..targets.min(shape.targets_per_server)).map(|target| (target, Event::Exclude)).collect(),
    ))?;
    let after = Layout::new(map);
    let (mut reads, mut writes): (BTreeMap<u32, u64>, BTreeMap<u32, u64>) = Default::default();
    let mut healing = Healing::default();
    for found in Layout::plan(before, &after, SLOTS) {
        healing.moves += 1;
        match found.survivors.first() {
            Some(source) => {
                *reads.entry(*source).or_default() += 1;
                *writes.entry(found.to).or_default() += 1;
            }
            None => healing.lost += 1,
        }
    }
    healing.planning = clock() - begun;
    (healing.sources, healing.destinations) = (reads.len(), writes.len());
    let busiest = reads.values().chain(writes.values()).max().copied().unwrap_or(0);
    // What a target holds lies in its slots, evenly.
    let slots = healing.moves as f64 / f64::from(targets);
    let bytes = busiest as f64 * assumed.target_bytes as f64 / slots.max(1.0);
    healing.copying = Duration::from_secs_f64(bytes / assumed.bytes_per_second as f64);
    Ok(healing)
}

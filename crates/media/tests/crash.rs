//! Crash enumeration: the power fails after every single device event of a recorded run, unsynced writes
//! are kept, lost, torn and reordered; the store is opened again and must hold a prefix of the operations,
//! at least every acknowledged one, whole (K6), with every block owned once (K8).

mod ledger;

use std::cell::RefCell;
use std::rc::Rc;

use ledger::{Action, Dice, Ledger, Model, Op};
use rt::sim::disk::Volume;
use rt::sim::{Sim, SimConfig};

const LOG_BYTES: u64 = 256 << 10;
const BUDGET: usize = 512 << 10;

/// How the recorded run is shaped.
#[derive(Clone, Copy)]
struct Run {
    seed: u64,
    keys: u32,
    writers: u32,
    ops_each: u32,
    /// Every so many operations, a checkpoint is asked for.
    checkpoint_every: u32,
    is_log_mapped: bool,
    /// 0: pages share the data device.
    metadata_bytes: u64,
    data_bytes: u64,
    bulk_bytes_max: u64,
    /// Staged values, and bulk that may take the same blocks.
    is_staged: bool,
    /// Sizes that the data region gets one after another while the writers write.
    sizes: &'static [u64],
    /// Fences move in steps of a few runs.
    is_fence_slow: bool,
}

/// A roomy device and small values.
const ROOMY: Run = Run {
    seed: 0,
    keys: 0,
    writers: 0,
    ops_each: 0,
    checkpoint_every: 0,
    is_log_mapped: false,
    metadata_bytes: 0,
    data_bytes: 4 << 20,
    bulk_bytes_max: 20 << 10,
    is_staged: false,
    sizes: &[],
    is_fence_slow: false,
};

/// Records `run` and returns the recording with its model.
fn record(run: Run) -> (rt::sim::disk::Recorder, Model) {
    let sim = Sim::new(SimConfig::seeded(run.seed));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let model = Rc::new(RefCell::new(Model::default()));
    let (noted, recording) = (model.clone(), recorder.clone());
    sim.run(async move {
        let sim = rt::sim::current();
        if run.is_fence_slow {
            sim.arm("media.fence.slice", rt::fault::When::Chance(1.0));
        }
        let task = sim.spawn_on(node, async move {
            let regions = match run.metadata_bytes {
                0 if run.is_log_mapped => ledger::mapped(LOG_BYTES, run.data_bytes),
                0 => ledger::regions(LOG_BYTES, run.data_bytes),
                metadata_bytes => ledger::apart(LOG_BYTES, metadata_bytes, run.data_bytes),
            };
            let ledger = Ledger::format(regions, BUDGET);
            ledger.store.start();
            let writers: Vec<_> = (0..run.writers)
                .map(|writer| {
                    let (ledger, model, recording) = (ledger.clone(), noted.clone(), recording.clone());
                    rt::spawn_local(async move {
                        let mut dice = Dice(run.seed << 8 | writer as u64);
                        for step in 1..=run.ops_each {
                            let mut op = match run.is_staged {
                                true => dice.staged_op(run.keys),
                                false => dice.op(run.keys, run.bulk_bytes_max),
                            };
                            let lsn = loop {
                                match ledger.submit(&op, &model).await {
                                    Ok(lsn) => break lsn,
                                    Err(media::Error::Busy { .. } | media::Error::LogFull { .. }) => {
                                        ledger.store.relieved().await.unwrap()
                                    }
                                    Err(media::Error::NoSpace { .. }) => op.action = Action::Delete,
                                    Err(error) => panic!("{error}"),
                                }
                            };
                            let number = ledger.applied();
                            ledger.store.durable(lsn).await.unwrap();
                            model.borrow_mut().acknowledged.push((recording.events(), number));
                            if step % run.checkpoint_every == 0 {
                                ledger.store.checkpoint_now().await.unwrap();
                            }
                        }
                    })
                })
                .collect();
            if !run.sizes.is_empty() {
                noted.borrow_mut().sizes.push((0, 0, run.data_bytes));
            }
            for &bytes in run.sizes {
                let asked = recording.events();
                ledger.resize(bytes, &noted).await.unwrap();
                assert_eq!(ledger.store.data_bytes(), bytes);
                noted.borrow_mut().sizes.push((asked, recording.events(), bytes));
            }
            for writer in writers {
                writer.await.unwrap();
            }
            // Blocks are compared while no checkpoint runs: one may have been asked for last.
            ledger.store.checkpoint_now().await.unwrap();
            // What moving did is acknowledged by it, too.
            let number = ledger.applied();
            noted.borrow_mut().acknowledged.push((recording.events(), number));
            let count = ledger.applied();
            ledger.verify(&noted.borrow(), count);
        });
        task.await.unwrap();
    });
    let model = Rc::try_unwrap(model).ok().expect("the run is over").into_inner();
    (recorder, model)
}

/// Opens the store on `volume` and checks it; then goes on, and survives a second cut.
fn recover(volume: &Volume, model: &Model, owed: u64, seed: u64, second_life: bool) -> u64 {
    recover_with(volume, model, owed, &[], seed, second_life)
}

/// As [`recover`]; the data region has one of `sizes`, if there are any.
fn recover_with(volume: &Volume, model: &Model, owed: u64, sizes: &[u64], seed: u64, second_life: bool) -> u64 {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("target");
    sim.install(node, volume);
    let recorder = sim.record(node);
    // Handed in and out whole: tasks of the simulator own what they use.
    let ops = Rc::new(RefCell::new(Model { ops: model.ops.clone(), ..Model::default() }));
    let sizes = sizes.to_vec();
    let shared = ops.clone();
    let recording = recorder.clone();
    let kept = sim.run(async move {
        let sim = rt::sim::current();
        let life = sim.spawn_on(node, async move {
            let (ledger, _) = match Ledger::open(BUDGET) {
                Ok(opened) => opened,
                // A cut during format leaves no store, and nothing was promised.
                Err(media::Error::Format(_) | media::Error::Corrupt(_)) if owed == 0 => return 0,
                Err(error) => panic!("{error}"),
            };
            let kept = ledger.applied();
            assert!(kept >= owed, "{kept} operations are left of {owed} acknowledged ones");
            ledger.verify(&shared.borrow(), kept);
            let bytes = ledger.store.data_bytes();
            assert!(sizes.is_empty() || sizes.contains(&bytes), "{bytes} bytes, not one of {sizes:?}");
            // Whoever looked has seen them: they must not vanish any more.
            shared.borrow_mut().acknowledged.push((recording.events(), kept));
            if second_life {
                shared.borrow_mut().ops.truncate(kept as usize);
                let mut dice = Dice(seed);
                for step in 0..12 {
                    let mut op = dice.op(40, 20 << 10);
                    while let Err(error) = ledger.submit_now(&op, &shared) {
                        match error {
                            media::Error::NoSpace { .. } => op.action = Action::Delete,
                            media::Error::LogFull { .. } | media::Error::Busy { .. } => {
                                ledger.store.checkpoint_blocking().unwrap();
                            }
                            error => panic!("{error}"),
                        }
                    }
                    if step % 3 == 0 {
                        ledger.store.flush_now().unwrap();
                        let count = ledger.applied();
                        shared.borrow_mut().acknowledged.push((recording.events(), count));
                    }
                    if step == 7 && seed.is_multiple_of(2) {
                        ledger.store.checkpoint_blocking().unwrap();
                    }
                }
            }
            kept
        });
        life.await.unwrap()
    });
    if second_life && kept > 0 {
        let model = Rc::try_unwrap(ops).ok().expect("the run is over").into_inner();
        let mut dice = Dice(seed ^ 0x5eed);
        let events = dice.below(recorder.events() as u64 + 1) as usize;
        // The first life's acknowledged operations are owed still.
        let owed = model.owed(events).max(owed);
        recover(&recorder.power_cut(events, seed), &model, owed, seed + 1, false);
    }
    kept
}

fn enumerate(run: Run, seeds: u64) {
    let (recorder, model) = record(run);
    let mut replay = recorder.replay();
    let (mut cuts, mut furthest) = (0, 0);
    loop {
        let events = replay.events();
        let owed = model.owed(events);
        for seed in 0..seeds {
            let seed = events as u64 * seeds + seed;
            let second_life = seed.is_multiple_of(5);
            let sizes = model.sizes_at(events);
            let volume = replay.power_cut(seed);
            furthest = recover_with(&volume, &model, owed, &sizes, seed, second_life).max(furthest);
            cuts += 1;
        }
        if events.is_multiple_of(7) {
            recover(&replay.kill(), &model, owed, events as u64, true);
        }
        if !replay.step() {
            break;
        }
    }
    println!("{cuts} cuts, {} operations, {furthest} kept at most", model.ops.len());
    assert_eq!(furthest, model.ops.len() as u64, "after the last event everything is there");
}

#[test]
fn every_acknowledged_write_survives_a_power_cut_after_any_device_event() {
    enumerate(Run { seed: 1, keys: 40, writers: 3, ops_each: 40, checkpoint_every: 13, ..ROOMY }, 12);
}

/// One writer, a checkpoint after nearly every operation: each step of a checkpoint is cut many times.
#[test]
fn a_power_cut_in_any_step_of_a_checkpoint_is_harmless() {
    enumerate(Run { seed: 2, keys: 24, writers: 1, ops_each: 24, checkpoint_every: 2, ..ROOMY }, 12);
}

/// Many writers at once: flushes of several batches, and records that wait for bulk data.
#[test]
fn group_commit_acknowledges_nothing_early() {
    enumerate(Run { seed: 3, keys: 200, writers: 16, ops_each: 12, checkpoint_every: 9, ..ROOMY }, 20);
}

/// Pages and bulk take each other's blocks as soon as they may, and not before.
#[test]
fn a_power_cut_on_a_nearly_full_device_is_harmless() {
    for seed in [4, 5] {
        let run = Run { seed, keys: 60, writers: 4, ops_each: 40, checkpoint_every: 3, ..ROOMY };
        enumerate(Run { data_bytes: media::DATA_BYTES_MIN, bulk_bytes_max: 60 << 10, ..run }, 3);
    }
}

/// The log in persistent memory, of which a power cut leaves any of the cache lines that were under way.
#[test]
fn a_power_cut_over_a_mapped_log_is_harmless() {
    let mapped = Run { is_log_mapped: true, ..ROOMY };
    enumerate(Run { seed: 8, keys: 40, writers: 3, ops_each: 40, checkpoint_every: 13, ..mapped }, 12);
    enumerate(Run { seed: 9, keys: 200, writers: 16, ops_each: 12, checkpoint_every: 9, ..mapped }, 8);
}

/// Log, pages and bulk on three devices, of which a power cut leaves each in a state of its own.
#[test]
fn a_power_cut_over_three_devices_is_harmless() {
    let run = Run { seed: 6, keys: 40, writers: 3, ops_each: 40, checkpoint_every: 5, ..ROOMY };
    let apart = Run { metadata_bytes: media::DATA_BYTES_MIN, data_bytes: 1 << 20, ..run };
    enumerate(apart, 6);
    let full = Run { data_bytes: 160 << 10, bulk_bytes_max: 60 << 10, ..apart };
    enumerate(Run { seed: 7, checkpoint_every: 3, ..full }, 3);
}

/// Values that are staged, overwritten and deleted before, during and after the checkpoint that writes them,
/// and whose blocks others take, by the stage and by direct writes: on one device, on three, and where blocks
/// are so few that each is reused at once.
#[test]
fn a_power_cut_over_staged_values_is_harmless() {
    let staged = Run { is_staged: true, keys: 12, ..ROOMY };
    enumerate(Run { seed: 10, writers: 3, ops_each: 30, checkpoint_every: 7, ..staged }, 8);
    enumerate(Run { seed: 11, writers: 1, ops_each: 40, checkpoint_every: 2, ..staged }, 8);
    let apart = Run { metadata_bytes: media::DATA_BYTES_MIN, data_bytes: 20 * 4096, ..staged };
    enumerate(Run { seed: 12, writers: 2, ops_each: 40, checkpoint_every: 3, ..apart }, 8);
    enumerate(Run { seed: 13, writers: 4, ops_each: 20, checkpoint_every: 2, is_log_mapped: true, ..staged }, 4);
}

/// The data region grows and shrinks while writers write: a power cut leaves it the size it had or the one it was to
/// get, everything is within it, and no acknowledged write is lost.
#[test]
fn a_power_cut_while_the_data_region_is_resized_is_harmless() {
    let run = Run { seed: 10, keys: 60, writers: 2, ops_each: 60, checkpoint_every: 9, ..ROOMY };
    let sizes = &[6 << 20, 3 << 20, 8 << 20, 5 << 19, 4 << 20];
    enumerate(Run { sizes, ..run }, 4);
    enumerate(Run { seed: 11, sizes, bulk_bytes_max: 60 << 10, ..run }, 2);
}

/// As above, and the fence is long on its way: power is cut while it goes down.
#[test]
fn a_power_cut_while_a_fence_comes_down_is_harmless() {
    let run = Run { seed: 15, keys: 90, writers: 3, ops_each: 50, checkpoint_every: 9, is_fence_slow: true, ..ROOMY };
    enumerate(Run { sizes: &[6 << 20, 3 << 20, 8 << 20, 5 << 19, 4 << 20], ..run }, 3);
}

/// As above, with staged values: what only the log has lies behind a fence too, and moves or goes before the cut.
#[test]
fn a_power_cut_while_a_region_with_staged_values_is_resized_is_harmless() {
    let run = Run { seed: 14, keys: 30, writers: 2, ops_each: 50, checkpoint_every: 9, is_staged: true, ..ROOMY };
    enumerate(Run { sizes: &[6 << 20, 3 << 20, 8 << 20, 5 << 19, 4 << 20], ..run }, 4);
}

/// As above, with pages on a device of their own: only bulk moves.
#[test]
fn a_power_cut_while_a_data_region_without_pages_is_resized_is_harmless() {
    let run = Run { seed: 12, keys: 60, writers: 2, ops_each: 60, checkpoint_every: 9, ..ROOMY };
    let apart = Run { metadata_bytes: media::DATA_BYTES_MIN, data_bytes: 2 << 20, ..run };
    enumerate(Run { sizes: &[3 << 20, 3 << 19, 4 << 20, 2 << 20], ..apart }, 4);
}

/// The log goes round several times, with a checkpoint each.
#[test]
fn a_log_that_wraps_recovers() {
    let sim = Sim::new(SimConfig::seeded(5));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let model = Rc::new(RefCell::new(Model::default()));
    let (noted, recording) = (model.clone(), recorder.clone());
    sim.run(async move {
        let sim = rt::sim::current();
        let life = sim.spawn_on(node, async move {
            let ledger = Ledger::format(ledger::regions(media::LOG_BYTES_MIN, 4 << 20), BUDGET);
            let area = ledger.store.usage().log_bytes;
            let mut dice = Dice(5);
            while ledger.store.end_lsn().0 < area * 3 {
                // Several records a flush, of odd sizes, so that batches lie across the end of the area.
                for _ in 0..1 + dice.below(200) {
                    let op = Op { key: dice.below(100) as u32, action: Action::Inline(dice.below(99)) };
                    match ledger.submit_now(&op, &noted) {
                        Ok(_) => {}
                        Err(media::Error::LogFull { .. }) => ledger.store.checkpoint_blocking().unwrap(),
                        Err(error) => panic!("{error}"),
                    }
                }
                ledger.store.flush_now().unwrap();
                let count = ledger.applied();
                noted.borrow_mut().acknowledged.push((recording.events(), count));
            }
        });
        life.await.unwrap();
    });
    let model = Rc::try_unwrap(model).ok().expect("the run is over").into_inner();
    let mut replay = recorder.replay();
    loop {
        let events = replay.events();
        for seed in 0..4 {
            let seed = events as u64 * 4 + seed;
            recover(&replay.power_cut(seed), &model, model.owed(events), seed, seed.is_multiple_of(3));
        }
        if !replay.step() {
            break;
        }
    }
}

//! Crash enumeration: the power fails after every device event of a recorded run, unsynced writes are kept,
//! lost, torn and reordered; the store is recovered and must hold a prefix of the operations, at least every
//! acknowledged one, whole (K1, K6, K17), with every invariant in place (K8). Recovering again gives the same.

mod rig;

use std::cell::RefCell;
use std::rc::Rc;

use media::Lsn;
use rig::{Generator, Model, Op, Outcome, compare_at, compare_lists, submit};
use rt::sim::disk::{Recorder, Volume};
use rt::sim::{Sim, SimConfig};
use types::{Conditions, Epoch, Extent};
use vos::model::Step;
use vos::{Error, Store};

const LOG_BYTES: u64 = 256 << 10;
const DATA_BYTES: u64 = 8 << 20;
const MEMORY_BYTES: usize = 2 << 20;
const POOL_BYTES: u64 = 4 << 20;

/// What was done, where in the log, and what was owed when.
#[derive(Default)]
struct Script {
    /// Operations that took effect, with the position of their (last) record.
    ops: Vec<(Op, Lsn)>,
    /// `(device events so far, operations acknowledged)`.
    acknowledged: Vec<(usize, usize)>,
    /// From this operation on, history below snapshots is forgotten.
    forgets_from: Option<usize>,
}

impl Script {
    fn owed(&self, events: usize) -> usize {
        self.acknowledged.iter().take_while(|(at, _)| *at <= events).map(|(_, count)| *count).max().unwrap_or(0)
    }

    /// The model after the first `count` operations.
    fn model(&self, count: usize) -> Model {
        let mut model = Model::default();
        for (op, _) in &self.ops[..count] {
            assert_eq!(model.apply(op), Outcome::Done, "only operations that took effect are noted");
        }
        model
    }
}

/// Does one operation to the store, waiting for room when it must, and notes it.
fn act(store: &mut Store, op: Op, script: &mut Script, model: &mut Model) {
    let expected = model.apply(&op);
    let (found, lsn) = loop {
        match submit(store, &op, script.ops.len() as u64 + 1) {
            Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                store.media().checkpoint_blocking().unwrap()
            }
            done => break done.unwrap_or_else(|error| panic!("{op:?}: {error}")),
        }
    };
    assert_eq!(found, expected, "{op:?}");
    if matches!(op, Op::Maintain(_)) && script.forgets_from.is_none() {
        script.forgets_from = Some(script.ops.len());
    }
    if let Some(lsn) = lsn {
        script.ops.push((op, lsn));
    }
}

/// Leaves out snapshots of what is forgotten.
fn recent_snapshots(op: Op, generator: &Generator) -> Op {
    match op {
        Op::Snapshots(c, epochs) => {
            Op::Snapshots(c, epochs.into_iter().filter(|epoch| epoch.0 >= generator.newest()).collect())
        }
        op => op,
    }
}

fn settle(store: &Store, script: &mut Script, recorder: &Recorder) {
    store.media().flush_now().unwrap();
    script.acknowledged.push((recorder.events(), script.ops.len()));
}

/// Every kind of record, and checkpoints in between.
fn record(seed: u64, steps: u64) -> (Recorder, Script) {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let (recording, script) = (recorder.clone(), Rc::new(RefCell::new(Script::default())));
    let noted = script.clone();
    sim.run(async move {
        let body = async move {
            let script = &mut *noted.borrow_mut();
            let mut model = Model::default();
            let mut generator = Generator::new(seed);
            generator.containers = 2;
            (generator.in_order, generator.usual_sizes) = (true, true);
            let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
            store.media().checkpoint_blocking().unwrap();
            act(&mut store, Op::CreatePool(0, POOL_BYTES), script, &mut model);
            act(&mut store, Op::CreatePool(1, POOL_BYTES), script, &mut model);
            act(&mut store, Op::CreateContainer(0, 0), script, &mut model);
            act(&mut store, Op::CreateContainer(1, 1), script, &mut model);
            for step in 1..=steps {
                // A new epoch each, so that forgetting leaves no doubt about which reads stay whole.
                while generator.epoch() == Epoch(generator.newest()) && generator.dice.chance(2) {}
                let op = recent_snapshots(generator.op().in_pools(), &generator);
                act(&mut store, op, script, &mut model);
                if step % 3 == 0 {
                    settle(&store, script, &recording);
                }
                if step % 11 == 0 {
                    act(&mut store, Op::Maintain(generator.past()), script, &mut model);
                    act(&mut store, Op::Coalesce, script, &mut model);
                }
                if step % 14 == 0 {
                    let bytes = if step % 28 == 0 { DATA_BYTES } else { DATA_BYTES / 2 };
                    act(&mut store, Op::Resize(bytes), script, &mut model);
                }
                if step % 9 == 0 {
                    store.media().checkpoint_blocking().unwrap();
                    script.acknowledged.push((recording.events(), script.ops.len()));
                }
            }
            act(&mut store, Op::DestroyPool(1), script, &mut model);
            settle(&store, script, &recording);
            act(&mut store, Op::Maintain(generator.past()), script, &mut model);
            settle(&store, script, &recording);
            compare_at(&mut store, &model, generator.objects, Epoch::MAX);
            store.check().expect_clean();
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
    (recorder, Rc::try_unwrap(script).ok().expect("the run is over").into_inner())
}

/// Recovers from `volume` and compares; returns how many operations are there, and a digest of what is.
fn recover(volume: &Volume, script: &Script, owed: usize, seed: u64, again: bool) -> (usize, String) {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("target");
    sim.install(node, volume);
    let ops = script.ops.clone();
    let forgets_from = script.forgets_from;
    let found = sim.run(async move {
        let body = async move {
            let opened = rig::open(MEMORY_BYTES);
            let (mut store, recovered, seen) = match opened {
                Ok(opened) => opened,
                // A cut during format leaves no store, and nothing was promised.
                Err(Error::Media(media::Error::Format(_)) | Error::Corrupt { .. }) if owed == 0 => {
                    return (0, String::new());
                }
                Err(error) => panic!("{error}"),
            };
            let kept = ops.iter().take_while(|(_, lsn)| *lsn < recovered.to).count();
            assert!(kept >= owed, "{kept} operations are left of {owed} acknowledged ones");
            let script = Script { ops, ..Script::default() };
            // What was replayed names its requests, in order.
            let replayed: Vec<u64> = seen.iter().map(|(_, origin)| origin.seq).collect();
            let asked = script.ops[..kept].iter().zip(1..).filter(|((op, _), _)| op.has_origin()).map(|(_, seq)| seq);
            let asked: Vec<u64> = asked.collect();
            assert!(asked.ends_with(&replayed), "{replayed:?} of {asked:?}");
            store.check().expect_clean();
            let mut model = script.model(kept);
            for (id, (_, container)) in &mut model.containers {
                container.horizon = store.container_info(*id).unwrap().horizon;
            }
            compare_lists(&mut store, &model);
            compare_at(&mut store, &model, 3, Epoch::MAX);
            let newest = model.containers.keys().map(|c| store.container_info(*c).unwrap().max_epoch.0).max();
            if forgets_from.is_none_or(|from| kept < from) {
                for at in 0..=newest.unwrap_or(0) {
                    compare_at(&mut store, &model, 3, Epoch(at));
                }
            }
            for (id, (owner, container)) in &model.containers {
                for at in container.snapshots.clone() {
                    let mut pinned = Model::default();
                    pinned.containers.insert(*id, (*owner, container.clone()));
                    compare_at(&mut store, &pinned, 3, at);
                }
            }
            // It goes on: new work, and what deleting left behind.
            let digest = format!("{kept} {:?}", store.check().records);
            if !again {
                let (mut script, mut model) = (script, model);
                let mut generator = Generator::new(seed);
                (generator.in_order, generator.usual_sizes) = (true, true);
                let horizons = model.containers.keys().map(|c| store.container_info(*c).unwrap().horizon.0);
                let newest = newest.into_iter().chain(horizons).max();
                while generator.newest() <= newest.unwrap_or(0) {
                    generator.epoch();
                }
                script.ops.truncate(kept);
                for _ in 0..6 {
                    let op = recent_snapshots(generator.op().in_pools(), &generator);
                    act(&mut store, op, &mut script, &mut model);
                }
                act(&mut store, Op::Maintain(generator.past()), &mut script, &mut model);
                act(&mut store, Op::Coalesce, &mut script, &mut model);
                compare_at(&mut store, &model, 3, Epoch::MAX);
                store.check().expect_clean();
            }
            (kept, digest)
        };
        rt::sim::current().spawn_on(node, body).await.unwrap()
    });
    if again {
        // K6: what recovery left on the device recovers to the same.
        let once_more = recover(&sim.volume(node), script, owed, seed, false);
        if found.0 > 0 {
            assert_eq!(once_more, found);
        }
    }
    found
}

fn enumerate(seed: u64, steps: u64, cuts: u64) {
    let (recorder, script) = record(seed, steps);
    let mut replay = recorder.replay();
    let mut furthest = 0;
    loop {
        let events = replay.events();
        for cut in 0..cuts {
            let cut = events as u64 * cuts + cut;
            let volume = replay.power_cut(cut);
            furthest = recover(&volume, &script, script.owed(events), cut, cut.is_multiple_of(3)).0.max(furthest);
        }
        if events % 5 == 0 {
            recover(&replay.kill(), &script, script.owed(events), events as u64, false);
        }
        if !replay.step() {
            break;
        }
    }
    println!("seed {seed}: {} device events, {} operations", recorder.events(), script.ops.len());
    assert_eq!(furthest, script.ops.len(), "after the last event everything is there");
}

#[test]
fn every_acknowledged_operation_survives_a_power_cut_after_any_device_event() {
    // More of them: VOS_CRASHES=40.
    let seeds = std::env::var("VOS_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        enumerate(seed, 60, 2);
    }
}

/// Prepare, commit and abort with bulk data, each followed by a flush, with checkpoints between any two: cut
/// anywhere, a transaction is whole or undecided, and never half done (K1, K2, K8, K10).
#[test]
fn a_transaction_survives_a_power_cut_between_any_two_of_its_records() {
    let sim = Sim::new(SimConfig::seeded(11));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let (recording, script) = (recorder.clone(), Rc::new(RefCell::new(Script::default())));
    let noted = script.clone();
    sim.run(async move {
        let body = async move {
            let script = &mut *noted.borrow_mut();
            let mut model = Model::default();
            let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
            let prepare = |change: u64, epoch| {
                let akeys = vec![
                    (rig::akeys()[0].clone(), vos::model::Write::Single(rig::content(change, 9000))),
                    (rig::akeys()[1].clone(), vos::model::Write::Single(rig::content(change, 4000))),
                ];
                let (object, conditions) = (rig::object(change % 2), Conditions::None);
                let scope = vos::model::Scope::Dkey(rig::dkeys()[1].clone());
                let steps = vec![
                    Step::Update { object, dkey: rig::dkeys()[0].clone(), conditions, akeys: akeys.clone() },
                    Step::Punch { object, scope, conditions },
                    Step::Update { object, dkey: rig::dkeys()[1].clone(), conditions, akeys },
                ];
                Op::Prepare { change, container: 0, epoch: Epoch(epoch), steps }
            };
            act(&mut store, Op::CreatePool(0, POOL_BYTES), script, &mut model);
            act(&mut store, Op::CreateContainer(0, 0), script, &mut model);
            for (checkpoint, base) in [(usize::MAX, 0), (0, 10), (1, 20), (2, 30)] {
                let ops = [
                    prepare(base + 1, base + 1),
                    prepare(base + 2, base + 2),
                    Op::Commit(base + 1),
                    Op::Abort(base + 2),
                    Op::Abort(base + 9),
                    Op::Adopt(base + 3),
                    Op::Settle(base + 1),
                    prepare(base + 3, base + 3),
                ];
                for (number, op) in ops.into_iter().enumerate() {
                    act(&mut store, op, script, &mut model);
                    settle(&store, script, &recording);
                    if number == checkpoint {
                        store.media().checkpoint_blocking().unwrap();
                    }
                }
            }
            act(&mut store, Op::DestroyContainer(0), script, &mut model);
            settle(&store, script, &recording);
            act(&mut store, Op::Maintain(Epoch(40)), script, &mut model);
            settle(&store, script, &recording);
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
    let script = Rc::try_unwrap(script).ok().expect("the run is over").into_inner();
    let mut replay = recorder.replay();
    loop {
        let events = replay.events();
        for cut in 0..2 {
            let cut = events as u64 * 2 + cut;
            recover(&replay.power_cut(cut), &script, script.owed(events), cut, cut.is_multiple_of(2));
        }
        if !replay.step() {
            break;
        }
    }
}

/// A sparse history with a big object: aggregation and free steps are cut between and within.
#[test]
fn deferred_deletion_survives_a_power_cut_between_any_two_steps() {
    let (recorder, script) = {
        let sim = Sim::new(SimConfig::seeded(9));
        let node = sim.node("target");
        let recorder = sim.record(node);
        let (recording, script) = (recorder.clone(), Rc::new(RefCell::new(Script::default())));
        let noted = script.clone();
        sim.run(async move {
            let body = async move {
                let script = &mut *noted.borrow_mut();
                let mut model = Model::default();
                let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
                act(&mut store, Op::CreatePool(0, POOL_BYTES), script, &mut model);
                for container in 0..2 {
                    act(&mut store, Op::CreateContainer(0, container), script, &mut model);
                    for n in 0..1500u64 {
                        let akeys = vec![(rig::akeys()[0].clone(), vos::model::Write::Single(rig::content(n, 200)))];
                        let op = Op::Update {
                            container,
                            epoch: Epoch(n + 1),
                            object: n % 2,
                            dkey: rig::dkeys()[n as usize % 7].clone(),
                            conditions: Conditions::None,
                            akeys,
                        };
                        act(&mut store, op, script, &mut model);
                    }
                }
                settle(&store, script, &recording);
                store.media().checkpoint_blocking().unwrap();
                let scope = vos::model::Scope::Object;
                let punch =
                    Op::Punch { container: 0, epoch: Epoch(9000), object: 1, scope, conditions: Conditions::None };
                act(&mut store, punch, script, &mut model);
                act(&mut store, Op::DestroyContainer(1), script, &mut model);
                script.forgets_from = Some(script.ops.len() - 1);
                store.advance(rig::container(0), Epoch(9000)).unwrap();
                settle(&store, script, &recording);
                let mut steps = 0;
                while store.maintain(1).unwrap() {
                    settle(&store, script, &recording);
                    steps += 1;
                    if steps % 4 == 0 {
                        store.media().checkpoint_blocking().unwrap();
                    }
                }
                assert!(steps > 4, "{steps} steps");
                settle(&store, script, &recording);
            };
            rt::sim::current().spawn_on(node, body).await.unwrap();
        });
        (recorder, Rc::try_unwrap(script).ok().expect("the run is over").into_inner())
    };
    let mut replay = recorder.replay();
    while script.owed(replay.events()) < script.ops.len() && replay.step() {}
    loop {
        let events = replay.events();
        for cut in 0..2 {
            let cut = events as u64 * 2 + cut;
            recover(&replay.power_cut(cut), &script, script.owed(events), cut, cut.is_multiple_of(2));
        }
        if !replay.step() {
            break;
        }
    }
}

/// Small extents before and after a snapshot are joined, inline and in bulk, with a flush or a checkpoint
/// between any two steps: cut anywhere, every record reads as it did, and no block is lost or owned twice
/// (K8, K17).
#[test]
fn joining_extents_survives_a_power_cut_between_any_two_steps() {
    let sim = Sim::new(SimConfig::seeded(13));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let (recording, script) = (recorder.clone(), Rc::new(RefCell::new(Script::default())));
    let noted = script.clone();
    sim.run(async move {
        let body = async move {
            let script = &mut *noted.borrow_mut();
            let mut model = Model::default();
            let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
            act(&mut store, Op::CreatePool(0, POOL_BYTES), script, &mut model);
            act(&mut store, Op::CreateContainer(0, 0), script, &mut model);
            for n in 0..160u64 {
                if n == 80 {
                    act(&mut store, Op::Snapshots(0, vec![Epoch(n)]), script, &mut model);
                }
                // Records of one akey add up to bulk, those of the other stay inline.
                let (akey, count) = if n % 2 == 0 { (0, 400) } else { (1, 3) };
                let extent = Extent::new(n / 2 % 31 * count, count + n % 3);
                let bytes = rig::content(n, extent.count as usize * 2);
                let akeys = vec![(rig::akeys()[akey].clone(), vos::model::Write::Array(2, vec![(extent, bytes)]))];
                let (dkey, conditions) = (rig::dkeys()[0].clone(), Conditions::None);
                let op = Op::Update { container: 0, epoch: Epoch(n + 1), object: 0, dkey, conditions, akeys };
                act(&mut store, op, script, &mut model);
            }
            settle(&store, script, &recording);
            store.media().checkpoint_blocking().unwrap();
            // Looks end in the middle of what is there: some extents are copied and stay, some go at last.
            store.set_join_limits(vos::JoinLimits { large_bytes: 1500, pieces: 6, ..vos::JoinLimits::default() });
            script.forgets_from = Some(script.ops.len());
            store.advance(rig::container(0), Epoch(200)).unwrap();
            while store.maintain(1).unwrap() {
                settle(&store, script, &recording);
            }
            let (mut swaps, mut gone) = (0, 0);
            loop {
                match store.plan_rewrite().unwrap() {
                    vos::Rewriting::Nothing => break,
                    vos::Rewriting::Look => {}
                    vos::Rewriting::Found(mut rewrite) => {
                        rewrite.copy_now(&store.media().clone()).unwrap();
                        store.rewrite(&rewrite).unwrap().expect("nothing came between");
                        (swaps, gone) = (swaps + 1, gone + rewrite.counts().0);
                    }
                }
                settle(&store, script, &recording);
                if swaps % 2 == 1 {
                    store.media().checkpoint_blocking().unwrap();
                }
            }
            assert!(swaps >= 4 && gone > 60, "{swaps} swaps, {gone} extents joined");
            settle(&store, script, &recording);
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
    let script = Rc::try_unwrap(script).ok().expect("the run is over").into_inner();
    let mut replay = recorder.replay();
    while script.owed(replay.events()) < script.ops.len() && replay.step() {}
    loop {
        let events = replay.events();
        for cut in 0..3 {
            let cut = events as u64 * 3 + cut;
            recover(&replay.power_cut(cut), &script, script.owed(events), cut, cut.is_multiple_of(2));
        }
        if !replay.step() {
            break;
        }
    }
}

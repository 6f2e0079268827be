//! Random operation sequences against the model: everything that can be read, at every epoch, agrees.
//!
//! `VOS_SEQUENCES=5000` runs more, on `VOS_THREADS` threads (one a processor); `VOS_SEED=17` runs one.

mod rig;

use std::sync::atomic::{AtomicU64, Ordering};

use rig::{Generator, Model, Op, compare_at, compare_diff, compare_lists, on_node, submit};
use types::Epoch;
use vos::{ListPart, Store};

const SEQUENCES: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn seeds() -> std::ops::Range<u64> {
    match number("VOS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VOS_SEQUENCES").unwrap_or(SEQUENCES),
    }
}

fn step(store: &mut Store, model: &mut Model, op: &Op, seq: u64) {
    let expected = model.apply(op);
    let (found, _) = submit(store, op, seq).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    assert_eq!(found, expected, "{op:?}");
}

/// One sequence: history stays whole, so any epoch can be compared. One seed in eight compares all of them, the others
/// some: an hour shows more as eight times the sequences.
fn sequence(seed: u64) {
    let mut store = rig::format(1 << 20, 16 << 20, 4 << 20);
    let mut model = Model::default();
    let mut generator = Generator::new(seed);
    step(&mut store, &mut model, &Op::CreatePool(0, 8 << 20), 0);
    for container in 0..generator.containers {
        step(&mut store, &mut model, &Op::CreateContainer(0, container), 0);
    }
    let steps = 20 + generator.dice.below(60);
    for seq in 1..=steps {
        let op = generator.op();
        step(&mut store, &mut model, &op, seq);
        if generator.dice.chance(20) {
            let at = Epoch(generator.dice.below(generator.newest() + 2));
            compare_at(&mut store, &model, generator.objects, at);
        }
        if generator.dice.chance(25) {
            store.media().checkpoint_blocking().unwrap();
        }
        another_size(&mut store, &mut model, &mut generator);
    }
    let newest = generator.newest();
    for at in (0..=newest + 1).map(Epoch).chain([Epoch::MAX]) {
        if seed.is_multiple_of(8) || at.0 >= newest || generator.dice.chance(8) {
            compare_at(&mut store, &model, generator.objects, at);
        }
    }
    for _ in 0..4 {
        let (from, to) = (generator.dice.below(generator.newest()), 1 + generator.dice.below(generator.newest() + 1));
        let limit = *generator.dice.pick(&[1, 3, 1000]);
        if from < to {
            compare_diff(&mut store, &model, generator.objects, Epoch(from), Epoch(to), limit);
        }
    }
    compare_lists(&mut store, &model);
    for (id, (_, container)) in &model.containers {
        for number in 0..generator.objects {
            let (group, oid) = rig::object(number);
            let found = store.object_max_write(*id, group, oid).unwrap();
            assert_eq!(found, container.max_write((group, oid)), "last write of object {number} of {id}");
        }
    }
    store.check().expect_clean();
    forget(&mut store, &mut model, generator);
}

/// From here on history is forgotten: what is retained still agrees, and nothing else can be read.
fn forget(store: &mut Store, model: &mut Model, mut generator: Generator) {
    generator.in_order = true;
    let joins = generator.dice.chance(2);
    let mut joined = 0;
    if generator.dice.chance(2) {
        // So small that looks end, and extents reach out of them, among few records.
        store.set_join_limits(rig::tight_limits(&mut generator.dice));
    }
    for seq in 0..20 {
        if seq % 5 == 0 {
            let horizon = generator.past();
            step(store, model, &Op::Maintain(horizon), seq);
            compare_kept(store, model, generator.objects, joined);
            if joins && generator.dice.chance(2) {
                joined += rig::coalesce(store).unwrap().1;
                compare_kept(store, model, generator.objects, joined);
            }
            if generator.dice.chance(4) {
                go_back(store, model, &mut generator);
            }
        }
        // A new epoch each, above all before: older ones no longer read as they did.
        generator.epoch();
        let op = match generator.op() {
            Op::Snapshots(container, epochs) => {
                Op::Snapshots(container, epochs.into_iter().filter(|epoch| epoch.0 >= generator.newest()).collect())
            }
            op => op,
        };
        step(store, model, &op, seq);
        another_size(store, model, &mut generator);
        if generator.dice.chance(6) {
            // Leaves a pass unfinished, for the next operations to meet.
            store.maintain(1).unwrap();
            let _ = store.plan_rewrite().unwrap();
        }
    }
    let horizon = Epoch(generator.newest());
    step(store, model, &Op::Maintain(horizon), 99);
    if joins {
        joined += rig::coalesce(store).unwrap().1;
    }
    compare_kept(store, model, generator.objects, joined);
}

/// Now and then the data region shrinks or grows: nobody sees it, and every block is accounted for (K8).
fn another_size(store: &mut Store, model: &mut Model, generator: &mut Generator) {
    if !generator.dice.chance(12) {
        return;
    }
    let bytes = 3 * (1 << 20) + generator.dice.below(24 << 20) / 4096 * 4096;
    step(store, model, &Op::Resize(bytes), 70);
    compare_at(store, model, generator.objects, Epoch::MAX);
    store.check().expect_clean();
}

/// Takes a container back to some moment that is retained; what readers see meanwhile agrees too.
fn go_back(store: &mut Store, model: &mut Model, generator: &mut Generator) {
    let container = generator.dice.below(u64::from(generator.containers)) as u8;
    let Some((_, state)) = model.containers.get(&rig::container(container)) else { return };
    if let Some(change) = state.prepared.keys().next() {
        let refused = store.rollback(rig::container(container), Epoch(1), Epoch(1 << 40), vos::Origin::default());
        assert_eq!(refused, Err(vos::Error::InProgress { change: *change }));
        return;
    }
    let kept: Vec<Epoch> = state.snapshots.iter().copied().chain([state.horizon]).collect();
    let to = *generator.dice.pick(&kept);
    if to == Epoch::ZERO {
        return;
    }
    // Nothing above it is taken, so that the epochs to come are above it too.
    let asked = Epoch(generator.newest());
    generator.skip();
    let undone = Op::Rollback { container, to, asked };
    step(store, model, &undone, 50);
    compare_at(store, model, generator.objects, Epoch::MAX);
    while store.maintain(1).unwrap() {
        if generator.dice.chance(3) {
            compare_at(store, model, generator.objects, Epoch::MAX);
        }
    }
    store.check().expect_clean();
    // Asked again, it undoes nothing.
    let end = store.media().end_lsn();
    submit(store, &undone, 51).unwrap();
    assert_eq!(store.media().end_lsn(), end);
}

/// Everything that is retained reads as it did, nothing else can be read, and no value is kept that nobody
/// can see. `joined`: how many extents joining has made so far.
fn compare_kept(store: &mut Store, model: &Model, objects: u64, joined: usize) {
    let report = store.check();
    report.expect_clean();
    let needed: usize = model.containers.values().map(|(_, c)| c.clone().forget(c.horizon)).sum();
    let kept = report.values;
    // Extents that were joined are fewer; one that was cut where something covers it is more, by what was made of it.
    let is_right = match joined {
        0 => kept == needed as u64,
        _ => kept <= (needed + joined) as u64,
    };
    assert!(is_right, "{kept} values kept, {needed} needed, {joined} made by joining");
    for (id, (pool, container)) in &model.containers {
        let horizon = container.horizon;
        assert_eq!(store.container_info(*id).unwrap().horizon, horizon);
        let mut alone = Model::default();
        alone.containers.insert(*id, (*pool, container.clone()));
        let mut moments = container.snapshots.clone();
        moments.extend([horizon, Epoch(horizon.0 + 1), Epoch::MAX]);
        moments.sort();
        moments.dedup();
        for (index, at) in moments.iter().enumerate().filter(|(_, at)| **at > Epoch::ZERO) {
            compare_at(store, &alone, objects, *at);
            for to in &moments[index + 1..] {
                compare_diff(store, &alone, objects, *at, *to, 7);
            }
        }
        for at in (1..horizon.0).map(Epoch).filter(|at| !moments.contains(at)) {
            assert_eq!(
                store.list_objects(*id, at, ListPart::forward(None, 1)).unwrap_err(),
                vos::Error::Forgotten { at, horizon }
            );
        }
    }
}

#[test]
fn random_sequences_agree_with_the_model() {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = number("VOS_THREADS").unwrap_or(processors).max(1);
    // Some seeds take much longer than others: each thread takes the next that nobody has.
    let (range, taken) = (seeds(), AtomicU64::new(0));
    let work = || {
        while let Some(seed) = range.clone().nth(taken.fetch_add(1, Ordering::Relaxed) as usize) {
            let outcome = std::panic::catch_unwind(|| on_node(seed, move || sequence(seed)));
            if outcome.is_err() {
                panic!("sequence {seed} failed: run it alone with VOS_SEED={seed}");
            }
            if seed % 1000 == 999 {
                println!("{} sequences", seed + 1);
            }
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    println!("seeds {:?} agree with the model", seeds());
}

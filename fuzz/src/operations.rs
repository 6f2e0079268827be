//! Sequences of operations on a store of `vos`, chosen byte by byte, against the model: with checkpoints, restarts and
//! upkeep wherever the bytes say so.
//!
//! # Shape
//! The first byte of a step says what it is; the following ones are its arguments. Epochs rise, so that what is
//! forgotten stays without doubt. The store lives in the simulator, on empty disks of its own.

use types::{Conditions, Epoch, Extent, Key};
use vos::model::{Scope, Step, Write};
use vos::{Error, Store};

use crate::rig::{self, Model, Op, compare_at, compare_lists, submit};

const OBJECTS: u64 = 3;
/// Steps of one input; more of them teach nothing new.
const STEPS_MAX: u64 = 150;
const MEMORY_BYTES: usize = 2 << 20;

pub(crate) fn any(data: &[u8]) {
    let data = data.to_vec();
    rig::on_node(1, move || run(&mut Bytes(&data)));
}

/// Takes the input apart from its front; behind its end there are zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u64 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        u64::from(*first)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()].clone()
    }
}

/// What the next operations are about.
struct Now {
    epoch: u64,
    seq: u64,
}

fn run(bytes: &mut Bytes<'_>) {
    let mut store = rig::format(256 << 10, 8 << 20, MEMORY_BYTES);
    let (mut model, mut now) = (Model::default(), Now { epoch: 1, seq: 0 });
    for op in [Op::CreatePool(0, 4 << 20), Op::CreateContainer(0, 0)] {
        act(&mut store, &mut model, &op, &mut now);
    }
    while !bytes.0.is_empty() && now.seq < STEPS_MAX {
        match bytes.next() % 16 {
            0..=5 => {
                now.epoch += bytes.next() % 3;
                let (object, dkey, akeys) = update(bytes, now.seq);
                let (container, epoch, conditions) = (0, Epoch(now.epoch), conditions(bytes));
                act(
                    &mut store,
                    &mut model,
                    &Op::Update { container, epoch, object, dkey, conditions, akeys },
                    &mut now,
                );
            }
            6 | 7 => {
                now.epoch += bytes.next() % 3;
                let (object, scope) = (bytes.next() % OBJECTS, scope(bytes));
                let (container, epoch, conditions) = (0, Epoch(now.epoch), conditions(bytes));
                act(&mut store, &mut model, &Op::Punch { container, epoch, object, scope, conditions }, &mut now);
            }
            8 => {
                now.epoch += 1;
                let steps = (0..1 + bytes.next() % 3).map(|n| step(bytes, now.seq + n)).collect();
                let (change, epoch) = (bytes.next() % 16, Epoch(now.epoch));
                act(&mut store, &mut model, &Op::Prepare { change, container: 0, epoch, steps }, &mut now);
            }
            9 => act(&mut store, &mut model, &Op::Commit(bytes.next() % 16), &mut now),
            10 => {
                let (which, change) = (bytes.next() % 4, bytes.next() % 16);
                let op = match which {
                    0 => Op::Settle(change),
                    1 => Op::Adopt(change),
                    _ => Op::Abort(change),
                };
                act(&mut store, &mut model, &op, &mut now);
            }
            11 => snapshots(bytes, &mut store, &mut model, &mut now),
            12 => {
                // What came at this epoch stays; from here on it is a new one.
                let horizon = Epoch(now.epoch);
                act(&mut store, &mut model, &Op::Maintain(horizon), &mut now);
                now.epoch += 1;
            }
            13 => go_back(bytes, &mut store, &mut model, &mut now),
            14 => store.media().checkpoint_blocking().expect("the device is sound"),
            _ => {
                store.media().flush_now().expect("the device is sound");
                drop(store);
                store = rig::open(MEMORY_BYTES).expect("what was written opens").0;
                compare_at(&mut store, &model, OBJECTS, Epoch::MAX);
            }
        }
    }
    compare_lists(&mut store, &model);
    compare_at(&mut store, &model, OBJECTS, Epoch::MAX);
    for (id, (pool, container)) in &model.containers {
        let mut alone = Model::default();
        alone.containers.insert(*id, (*pool, container.clone()));
        for at in container.snapshots.iter().chain([&container.horizon]).filter(|at| **at > Epoch::ZERO) {
            compare_at(&mut store, &alone, OBJECTS, *at);
        }
    }
    store.check().expect_clean();
}

/// Does `op` to both. What has no room is left out of both.
fn act(store: &mut Store, model: &mut Model, op: &Op, now: &mut Now) {
    now.seq += 1;
    let mut trial = model.clone();
    let expected = trial.apply(op);
    loop {
        match submit(store, op, now.seq) {
            Ok((found, _)) => {
                assert_eq!(found, expected, "{op:?}");
                *model = trial;
                return;
            }
            Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                store.media().checkpoint_blocking().expect("the device is sound");
            }
            Err(Error::NoSpace { .. } | Error::DeviceFull { .. } | Error::IntentsFull) => return,
            Err(error) => panic!("{op:?}: {error}"),
        }
    }
}

fn conditions(bytes: &mut Bytes<'_>) -> Conditions {
    Conditions::from_code(bytes.next() as u8 % 16).unwrap_or_default()
}

fn update(bytes: &mut Bytes<'_>, seed: u64) -> (u64, Key, Vec<(Key, Write)>) {
    let (object, dkey) = (bytes.next() % OBJECTS, bytes.pick(&rig::dkeys()));
    let first = bytes.next() as usize % rig::akeys().len();
    let last = (first + 1 + bytes.next() as usize % 2).min(rig::akeys().len());
    let write = |akey: &Key, bytes: &mut Bytes<'_>| {
        let (form, length) = (bytes.next(), bytes.next());
        if form % 2 == 0 {
            // Up to some hundred bytes inline, and up to some blocks.
            let length = if length < 200 { length } else { (length - 199) * 150 };
            return Write::Single(rig::content(seed, length as usize));
        }
        let record_bytes = 1 + akey.len() as u32 % 3;
        let count = if length < 200 { 1 + length % 24 } else { 100 + length };
        let content = rig::content(seed, count as usize * record_bytes as usize);
        Write::Array(record_bytes, vec![(Extent::new(form / 2 % 48, count), content)])
    };
    let akeys = rig::akeys()[first..last].iter().map(|akey| (akey.clone(), write(akey, bytes))).collect();
    (object, dkey, akeys)
}

fn scope(bytes: &mut Bytes<'_>) -> Scope {
    let (dkey, akey) = (bytes.pick(&rig::dkeys()), bytes.pick(&rig::akeys()));
    match bytes.next() % 5 {
        0 => Scope::Object,
        1 => Scope::Dkey(dkey),
        2 => Scope::Akeys(dkey, vec![akey]),
        _ => {
            let (start, count) = (bytes.next() % 48, 1 + bytes.next() % 40);
            Scope::Extents(dkey, akey, vec![Extent::new(start, count)])
        }
    }
}

fn step(bytes: &mut Bytes<'_>, seed: u64) -> Step {
    let conditions = Conditions::None;
    if bytes.next() % 3 == 0 {
        return Step::Punch { object: rig::object(bytes.next() % OBJECTS), scope: scope(bytes), conditions };
    }
    let (object, dkey, akeys) = update(bytes, seed);
    Step::Update { object: rig::object(object), dkey, conditions, akeys }
}

/// Keeps some of the snapshots there are, and takes one now.
fn snapshots(bytes: &mut Bytes<'_>, store: &mut Store, model: &mut Model, now: &mut Now) {
    let Some((_, container)) = model.containers.get(&rig::container(0)) else { return };
    let mut kept: Vec<Epoch> = container.snapshots.iter().copied().filter(|_| bytes.next() % 2 == 0).collect();
    kept.push(Epoch(now.epoch));
    act(store, model, &Op::Snapshots(0, kept), now);
    // Nothing more is written at a moment that is kept.
    now.epoch += 1;
}

/// Takes the container back to a moment that is kept.
fn go_back(bytes: &mut Bytes<'_>, store: &mut Store, model: &mut Model, now: &mut Now) {
    let Some((_, container)) = model.containers.get(&rig::container(0)) else { return };
    let kept: Vec<Epoch> =
        container.snapshots.iter().copied().chain([container.horizon]).filter(|at| *at > Epoch::ZERO).collect();
    if kept.is_empty() || !container.prepared.is_empty() {
        return;
    }
    let (to, asked) = (bytes.pick(&kept), Epoch(now.epoch));
    act(store, model, &Op::Rollback { container: 0, to, asked }, now);
    now.epoch += 1;
    while store.maintain(4).expect("a rollback comes to its end") {}
}

//! Fault campaigns: bits that flip, room that is refused, reads that fail, each at every place of a scripted life
//! of a store; the invariants are asked after every step.
//!
//! # Always true
//! A request takes effect whole or not at all, and a refusal hinders nothing later (K8, K10, K11, K17). A read gives
//! the bytes that were written, or an error that says where (K3, K9). Whatever is on the device, nothing panics (K23).
//!
//! # Long form
//! `VOS_FAULTS=40` runs so many times as much; `VOS_SEED=17` runs one seed. `cargo xtask campaign` does both.

mod rig;

use codec::checksum;
use media::Lsn;
use rig::{Generator, Model, Op, compare_at, compare_diff, compare_lists, on_node, submit};
use rt::fault::When;
use rt::sim::disk::Volume;
use rt::sim::{DiskFault, Sim, SimConfig, current_node};
use types::{Conditions, ContainerId, Epoch, Extent};
use vos::model::{self, Scope, Write};
use vos::{AkeyRead, CheckOptions, Error, FetchPlan, ReadWhat, Source, Store};

const LOG_BYTES: u64 = 256 << 10;
const DATA_BYTES: u64 = 8 << 20;
const MEMORY_BYTES: usize = 2 << 20;
const OBJECTS: u64 = 3;
/// Indices of arrays that are read one by one.
const SPAN: u64 = 48;
/// Flipped bits in the short form.
const FLIPS: u64 = 250;
/// Random lives in the short form, beside the scripted one.
const LIVES: u64 = 1;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The seeds of a campaign whose short form has `count`.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match number("VOS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * number("VOS_FAULTS").unwrap_or(1),
    }
}

/// Runs `body` with each seed, and says which one failed.
fn campaign(count: u64, body: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in seeds(count) {
        if std::panic::catch_unwind(|| body(seed)).is_err() {
            panic!("seed {seed} failed: run it alone with VOS_SEED={seed}");
        }
    }
}

/// A life with every kind of request: seed 0 is scripted, the others are random.
fn life(seed: u64) -> Vec<Op> {
    let mut ops = vec![Op::CreatePool(0, 4 << 20), Op::CreatePool(1, 2 << 20)];
    ops.extend([Op::CreateContainer(0, 0), Op::CreateContainer(1, 1)]);
    if seed == 0 {
        ops.extend(rig::script(0, 1));
    } else {
        let mut generator = Generator::new(seed);
        (generator.in_order, generator.usual_sizes, generator.containers) = (true, true, 2);
        for step in 1..40 {
            generator.epoch();
            generator.skip();
            ops.push(match generator.op().in_pools() {
                Op::Snapshots(c, _) => Op::Snapshots(c, vec![Epoch(generator.newest())]),
                op => op,
            });
            if step % 10 == 0 {
                ops.push(Op::Maintain(generator.past()));
            }
        }
    }
    ops.push(Op::DestroyPool(1));
    ops
}

/// Whether `error` only says that there is no room, now or at all.
fn is_refusal(error: &Error) -> bool {
    let waits = matches!(error, Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. }));
    waits || matches!(error, Error::NoSpace { .. } | Error::DeviceFull { .. })
}

/// Deleting and deciding, which space never stops.
fn makes_room(op: &Op) -> bool {
    !matches!(op, Op::CreatePool(..) | Op::CreateContainer(..) | Op::Update { .. } | Op::Prepare { .. })
}

/// Everything that is kept reads as the model says, and the books agree.
fn compare_all(store: &mut Store, model: &Model, newest: u64) {
    compare_lists(store, model);
    compare_at(store, model, OBJECTS, Epoch::MAX);
    for (id, (pool, container)) in &model.containers {
        let mut alone = Model::default();
        alone.containers.insert(*id, (*pool, container.clone()));
        let moments = container.snapshots.iter().copied().chain([container.horizon]).filter(|at| *at > Epoch::ZERO);
        for at in moments {
            compare_at(store, &alone, OBJECTS, at);
            if at.0 < newest {
                compare_diff(store, &alone, OBJECTS, at, Epoch::MAX, 5);
            }
        }
    }
    store.check().expect_clean();
}

fn newest(ops: &[Op]) -> u64 {
    let epochs = ops.iter().map(|op| match op {
        Op::Update { epoch, .. } | Op::Punch { epoch, .. } | Op::Prepare { epoch, .. } => epoch.0,
        _ => 0,
    });
    epochs.max().unwrap_or(0)
}

/// Does a life with the `skip`-th question for room at `point` answered "no", once or from then on. Returns how
/// many were.
fn refused(seed: u64, point: &str, skip: u64, times: u64) -> u64 {
    let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
    let (mut model, mut refusals, ops) = (Model::default(), 0, life(seed));
    rt::fault::arm(point, When::Count { skip, times });
    for (seq, op) in (1..).zip(&ops) {
        let before = (store.media().end_lsn(), store.pools().first().map(|p| store.pool_space(*p).unwrap()));
        let mut trial = model.clone();
        let expected = trial.apply(op);
        let mut done = submit(&mut store, op, seq);
        if let Err(error) = &done {
            refusals += 1;
            assert!(is_refusal(error), "{op:?}: {error}");
            assert!(point == "media.log.room" || !makes_room(op), "{op:?} needs no room: {error}");
            store.check().expect_clean();
            if !matches!(op, Op::Maintain(_)) {
                let after = (store.media().end_lsn(), store.pools().first().map(|p| store.pool_space(*p).unwrap()));
                assert_eq!(after, before, "{op:?} left something behind");
                compare_at(&mut store, &model, OBJECTS, Epoch::MAX);
            }
            if times == 1 {
                done = submit(&mut store, op, seq);
            } else if makes_room(op) {
                // A log that is full for ever: nothing more can happen until it is relieved.
                rt::fault::disarm(point);
                done = submit(&mut store, op, seq);
                rt::fault::arm(point, When::Count { skip: 0, times });
            } else {
                continue;
            }
        }
        let (found, _) = done.unwrap_or_else(|error| panic!("{op:?}: {error}"));
        assert_eq!(found, expected, "{op:?}");
        model = trial;
    }
    rt::fault::disarm(point);
    compare_all(&mut store, &model, newest(&ops));
    // Relieved, it takes what it refused, and after a restart it is the same.
    let op = Op::CreateContainer(0, 9);
    assert_eq!(submit(&mut store, &op, 1000).unwrap().0, model.apply(&op));
    store.media().flush_now().unwrap();
    drop(store);
    let (mut store, _, _) = rig::open(MEMORY_BYTES).unwrap();
    compare_all(&mut store, &model, newest(&ops));
    refusals
}

/// How many values are staged in a life; with `is_refusing`, how many are nevertheless.
fn staged(seed: u64, is_refusing: bool) -> u64 {
    let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
    if is_refusing {
        rt::fault::arm("media.stage", When::Count { skip: 0, times: u64::MAX });
    }
    let (mut count, mut model) = (0, Model::default());
    let blocks = |store: &Store| store.media().usage().stage.unwritten;
    for (seq, op) in (1..).zip(&life(seed)) {
        let before = blocks(&store);
        assert_eq!(submit(&mut store, op, seq).unwrap().0, model.apply(op), "{op:?}");
        count += blocks(&store).saturating_sub(before);
    }
    rt::fault::disarm("media.stage");
    count
}

/// The stage refuses, each of its questions once and from then on: values go another way, and every answer is the same.
#[test]
fn a_stage_without_room_changes_no_answer() {
    let total = std::sync::atomic::AtomicU64::new(0);
    campaign(1 + 5 * LIVES, |seed| {
        let asked = on_node(seed, move || staged(seed, false));
        total.fetch_add(asked, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(on_node(seed, move || staged(seed, true)), 0);
        for skip in 0..asked {
            for times in [1, u64::MAX] {
                assert_eq!(on_node(seed, move || refused(seed, "media.stage", skip, times)), 0, "it is no refusal");
            }
        }
        println!("life {seed}: {asked} values staged");
    });
    assert!(number("VOS_SEED").is_some() || total.into_inner() > 3, "values are staged");
}

/// Every question for room is answered "no", one after the other: once, and from then on. Deleting and deciding go
/// on all the same; what was refused left nothing, and is done when it is asked again.
#[test]
fn a_refused_allocation_leaves_nothing_and_hinders_nothing() {
    campaign(1, |seed| {
        let mut total = 0;
        for point in ["media.reserve", "media.room", "media.log.room", "vos.quota"] {
            for times in [1, u64::MAX] {
                let mut places = 0;
                while on_node(seed, move || refused(seed, point, places, times)) > 0 {
                    places += 1;
                }
                // Of a random life, not each asks for everything that often.
                assert!(places > 3 || seed > 0, "{point} is asked");
                total += places;
            }
        }
        println!("life {seed}: {total} refusals");
    });
}

/// What came back when everything was asked for.
#[derive(Default)]
struct Told {
    right: u64,
    errors: Vec<String>,
}

/// Asks for all there is at `at`. Every answer must be right; errors are gathered.
fn ask(store: &mut Store, model: &Model, at: Epoch, told: &mut Told) {
    for (id, (_, model)) in &model.containers {
        note(told, store.list_objects(*id, at, vos::ListPart::forward(None, 99)), |list| {
            let found: Vec<_> = list.entries.iter().map(|o| (o.group, o.oid)).collect();
            assert_eq!(found, model.objects(at), "objects of {id} at {at}");
        });
        for object in (0..OBJECTS).map(rig::object) {
            note(told, store.list_dkeys(*id, at, object.0, object.1, vos::ListPart::forward(None, 99)), |list| {
                assert_eq!(list.entries, model.dkeys(at, object), "dkeys of {object:?} at {at}");
            });
            ask_object(store, *id, model, object, at, told);
        }
    }
}

fn ask_object(
    store: &mut Store,
    id: ContainerId,
    model: &model::Container,
    object: model::Object,
    at: Epoch,
    told: &mut Told,
) {
    for (dkey, akey) in rig::dkeys().into_iter().flat_map(|d| rig::akeys().into_iter().map(move |a| (d.clone(), a))) {
        let what = format!("{akey} of {dkey} of {object:?} at {at}");
        let span = [Extent::new(0, SPAN)];
        let reads =
            [AkeyRead { akey: &akey, what: ReadWhat::Single }, AkeyRead { akey: &akey, what: ReadWhat::Array(&span) }];
        let plan = match store.fetch(id, at, object.0, object.1, &dkey, &reads, Conditions::None) {
            Ok(plan) => plan,
            Err(error) => {
                told.errors.push(error.to_string());
                continue;
            }
        };
        match bytes_of(store, &plan, 0) {
            Ok(mut pieces) => {
                let found = pieces.pop().and_then(|(_, bytes)| bytes);
                assert_eq!(found.as_deref(), model.single(at, object, &dkey, &akey), "{what}");
                told.right += 1;
            }
            Err(error) => told.errors.push(error),
        }
        let Ok(pieces) = bytes_of(store, &plan, 1).map_err(|error| told.errors.push(error)) else { continue };
        let size = plan.akeys[1].record_bytes as usize;
        for (extent, bytes) in pieces {
            for i in 0..extent.count {
                let expected = model.record(at, object, &dkey, &akey, extent.start + i).map(|(_, _, bytes)| bytes);
                let found = bytes.as_ref().map(|bytes| &bytes[i as usize * size..(i as usize + 1) * size]);
                assert_eq!(found, expected, "record {} of {what}", extent.start + i);
            }
        }
        told.right += 1;
    }
}

fn note<T>(told: &mut Told, answer: Result<T, Error>, right: impl FnOnce(T)) {
    match answer {
        Ok(answer) => {
            right(answer);
            told.right += 1;
        }
        Err(error) => told.errors.push(error.to_string()),
    }
}

/// Records, and their bytes; a hole has none.
type Part = (Extent, Option<Vec<u8>>);

/// The bytes a plan names; an error when the device or a checksum says so, as a client would see it.
fn bytes_of(store: &Store, plan: &FetchPlan, akey: usize) -> Result<Vec<Part>, String> {
    let mut found = Vec::new();
    for piece in &plan.akeys[akey].pieces {
        let (payload, checksums, part) = match &piece.source {
            Source::Hole => {
                found.push((piece.extent, None));
                continue;
            }
            Source::Inline { payload, checksums, part } => (plan.inline[payload.clone()].to_vec(), checksums, part),
            Source::Bulk { extents, bytes, checksums, part } => {
                let mut payload = Vec::new();
                for extent in extents {
                    let read = store.media().bulk_read_now(*extent, 0, extent.bytes() as usize);
                    payload.extend_from_slice(&read.map_err(|error| error.to_string())?);
                }
                payload.truncate(*bytes as usize);
                (payload, checksums, part)
            }
        };
        checksum::verify_chunks(&payload, checksums).map_err(|error| format!("bulk data: checksum {error:?}"))?;
        found.push((piece.extent, Some(payload[part.start as usize..part.end as usize].to_vec())));
    }
    Ok(found)
}

/// A closed store, what was done to it, and where in the log.
#[derive(Clone)]
struct Closed {
    volume: Volume,
    ops: Vec<(Op, Lsn)>,
    /// Operations before the last batch of the log.
    settled: usize,
    /// Blocks of `/log` and of `/data` that hold anything.
    used: [Vec<u64>; 2],
}

impl Closed {
    /// The model after the first `count` operations.
    fn model(&self, count: usize) -> Model {
        let mut model = Model::default();
        for (op, _) in &self.ops[..count] {
            model.apply(op);
        }
        model
    }
}

/// A life, with a checkpoint in its middle and a batch for each operation after it.
fn closed(seed: u64) -> Closed {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("target");
    let (ops, settled, used) = sim.run(async move {
        let body = async move {
            let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
            let (mut model, mut done, mut settled) = (Model::default(), Vec::new(), 0);
            let ops = life(seed);
            for (seq, op) in (1..).zip(&ops[..ops.len() - 1]) {
                assert_eq!(submit(&mut store, op, seq).unwrap().0, model.apply(op), "{op:?}");
                // Refused ones too: for the model they are nothing, again.
                done.push((op.clone(), Lsn(store.media().end_lsn().0 - 1)));
                if seq as usize == ops.len() * 2 / 3 {
                    store.media().checkpoint_blocking().unwrap();
                } else if seq as usize > ops.len() * 2 / 3 && store.media().end_lsn() != store.media().durable_lsn() {
                    settled = done.len() - 1;
                    store.media().flush_now().unwrap();
                }
            }
            compare_all(&mut store, &model, newest(&ops));
            drop(store);
            let used = ["/log", "/data"].map(|path| {
                let disk = rig::disk(path);
                let mut bytes = vec![0; disk.len().unwrap() as usize];
                disk.read_now(0, &mut bytes).unwrap();
                let blocks = bytes.chunks(media::BLOCK_BYTES).enumerate();
                blocks.filter(|(_, block)| block.iter().any(|b| *b != 0)).map(|(n, _)| n as u64).collect::<Vec<_>>()
            });
            (done, settled, used)
        };
        rt::sim::current().spawn_on(node, body).await.unwrap()
    });
    Closed { volume: sim.volume(node), ops, settled, used }
}

/// Opens the store and asks for everything; returns the operations it has, `None` when it does not open.
fn open_and_ask(closed: &Closed, told: &mut Told) -> Option<(Store, Model, usize)> {
    let (mut store, recovered) = match rig::open(MEMORY_BYTES) {
        Ok((store, recovered, _)) => (store, recovered),
        Err(error) => {
            told.errors.push(error.to_string());
            return None;
        }
    };
    let kept = closed.ops.iter().take_while(|(_, lsn)| *lsn < recovered.to).count();
    let model = closed.model(kept);
    ask(&mut store, &model, Epoch::MAX, told);
    let moments: Vec<Epoch> =
        model.containers.values().flat_map(|(_, container)| container.snapshots.clone()).collect();
    for (id, (pool, container)) in &model.containers {
        let mut alone = Model::default();
        alone.containers.insert(*id, (*pool, container.clone()));
        moments.iter().filter(|at| container.snapshots.contains(at)).for_each(|at| ask(&mut store, &alone, *at, told));
    }
    Some((store, model, kept))
}

/// One bit of a closed store is inverted, mostly where something is. Whoever asks gets the right bytes, or an error
/// with a place; only the last batch of the log may be taken for torn. Work after it goes on or says why not.
#[test]
fn a_flipped_bit_anywhere_is_found_or_harmless() {
    let lives: Vec<Closed> = (0..=LIVES).map(closed).collect();
    let totals = std::sync::Mutex::new([0u64; 4]);
    let lives = std::panic::AssertUnwindSafe(&lives);
    let flips = std::panic::AssertUnwindSafe(&totals);
    campaign(FLIPS, move |seed| {
        let lives = &lives;
        let closed = &lives[(seed % (1 + LIVES)) as usize];
        let mut dice = rig::Dice(seed);
        let file = dice.below(3).min(1) as usize;
        let block = if dice.chance(8) {
            dice.below([LOG_BYTES, DATA_BYTES][file] / media::BLOCK_BYTES as u64)
        } else {
            *dice.pick(&closed.used[file])
        };
        // The heads of blocks have the most structure.
        let byte = if dice.chance(3) { dice.below(96) } else { dice.below(media::BLOCK_BYTES as u64) };
        let bit = (block * media::BLOCK_BYTES as u64 + byte) * 8 + dice.below(8);
        let path = ["/log", "/data"][file];
        let closed = closed.clone();
        let sim = Sim::new(SimConfig::seeded(seed));
        let node = sim.node("target");
        sim.install(node, &closed.volume);
        sim.flip_bit(node, path, bit);
        let told = sim.run(async move {
            let body = async move {
                let (mut told, all) = (Told::default(), closed.ops.len());
                let Some((mut store, mut model, kept)) = open_and_ask(&closed, &mut told) else {
                    return (told, false);
                };
                let is_torn = kept < all;
                assert!(
                    !is_torn || (path == "/log" && kept >= closed.settled),
                    "{kept} of {all} are left: {path} {bit}"
                );
                let report = store.check_with(CheckOptions { data: true, findings_max: 10 });
                assert!(
                    told.errors.is_empty() || !report.findings.is_empty(),
                    "what a reader meets is found by a check: {:?}",
                    told.errors
                );
                assert!(report.findings.iter().all(|finding| !finding.place.is_empty()));
                for epoch in 500..510 {
                    let akeys = vec![(rig::akeys()[0].clone(), Write::Single(rig::content(epoch, 600)))];
                    let (dkey, conditions) = (rig::dkeys()[epoch as usize % 7].clone(), Conditions::None);
                    let op = Op::Update {
                        container: 0,
                        epoch: Epoch(epoch),
                        object: epoch % OBJECTS,
                        dkey,
                        conditions,
                        akeys,
                    };
                    match submit(&mut store, &op, epoch) {
                        Ok(_) => drop(model.apply(&op)),
                        Err(error) => told.errors.push(error.to_string()),
                    }
                }
                ask(&mut store, &model, Epoch::MAX, &mut told);
                let _ = store.maintain(100);
                (told, is_torn)
            };
            rt::sim::current().spawn_on(node, body).await.unwrap()
        });
        let (told, is_torn) = told;
        for error in &told.errors {
            let has_place =
                ["block", "log position", "region", "superblock", "bulk data", "/data", "/log", "mid-operation"];
            assert!(has_place.iter().any(|place| error.contains(place)), "no place in: {error}");
        }
        let mut totals = flips.lock().unwrap();
        totals[0] += 1;
        totals[1] += u64::from(!told.errors.is_empty());
        totals[2] += u64::from(is_torn);
        totals[3] += told.right;
    });
    let [flips, found, torn, right] = *totals.lock().unwrap();
    println!("{flips} flipped bits: {found} found, {torn} taken for a torn end; {right} right answers");
    assert!(number("VOS_SEED").is_some() || (found > flips / 10 && found < flips), "{found} of {flips} mattered");
}

/// The `skip`-th read of a device fails, once, while a store is opened and used in little memory. Returns whether
/// it did.
fn failed_read(closed: &Closed, path: &'static str, skip: u64) -> bool {
    let fault =
        |times| rt::sim::current().disk_fault(current_node(), path, DiskFault::ReadError, When::Count { skip, times });
    let names_device = |error: &Error| {
        let said = error.to_string();
        let device = if path == "/log" { ["log", "/log"] } else { ["data", "/data"] };
        assert!(device.iter().any(|name| said.contains(name)), "{path} is not in: {said}");
    };
    let mut struck = false;
    fault(1);
    let opened = rig::open(0);
    if let Err(error) = &opened {
        names_device(error);
        struck = true;
    }
    let mut store = opened.map_or_else(|_| rig::open(0).unwrap().0, |(store, _, _)| store);
    let mut model = closed.model(closed.ops.len());
    let mut told = Told::default();
    ask(&mut store, &model, Epoch::MAX, &mut told);
    let mut retry = |store: &mut Store, model: &mut Model, op: &Op, seq| {
        let expected = model.apply(op);
        let found = submit(store, op, seq).or_else(|error| {
            names_device(&error);
            struck = true;
            submit(store, op, seq)
        });
        match found {
            Ok((found, _)) => assert_eq!(found, expected, "{op:?}"),
            Err(Error::Stopped) => panic!("{op:?} failed between its record and its pages"),
            Err(error) => panic!("{op:?}: {error}"),
        }
    };
    for n in 0..6u64 {
        let akeys = vec![(rig::akeys()[n as usize % 5].clone(), Write::Single(rig::content(n, 100)))];
        let (dkey, conditions) = (rig::dkeys()[n as usize].clone(), Conditions::None);
        let (epoch, object) = (Epoch(600 + n), n % OBJECTS);
        let scope = Scope::Dkey(dkey.clone());
        retry(&mut store, &mut model, &Op::Update { container: 0, epoch, object, dkey, conditions, akeys }, n);
        retry(&mut store, &mut model, &Op::Punch { container: 0, epoch, object, scope, conditions }, 50 + n);
    }
    retry(&mut store, &mut model, &Op::Maintain(Epoch(602)), 99);
    told.errors.iter().for_each(|error| assert!(error.contains("data device"), "{error}"));
    struck |= !told.errors.is_empty();
    rt::sim::current().clear_disk_faults(current_node());
    compare_all(&mut store, &model, 605);
    struck
}

/// Each read of each device fails, one after the other: opening, reading, writing, upkeep. The error names the
/// device, asked again everything is there, and what was refused took no effect.
#[test]
fn a_read_that_fails_names_its_device_and_harms_nothing() {
    campaign(1 + LIVES, |seed| {
        let mut total = 0;
        let closed = closed(seed);
        for path in ["/log", "/data"] {
            let (mut struck, mut quiet) = (0, 0);
            // A second superblock, a second look at a torn end, or the read that another was only ahead of, answers for
            // the first: some failures pass unseen.
            for skip in 0.. {
                if quiet == 48 {
                    break;
                }
                quiet += 1;
                let sim = Sim::new(SimConfig::seeded(seed));
                let node = sim.node("target");
                sim.install(node, &closed.volume);
                let closed = closed.clone();
                let is_struck = sim.run(async move {
                    let body = async move { failed_read(&closed, path, skip) };
                    rt::sim::current().spawn_on(node, body).await.unwrap()
                });
                if is_struck {
                    (struck, quiet) = (struck + 1, 0);
                }
            }
            assert!(struck > 2, "{path} is read");
            total += struck;
        }
        println!("life {seed}: {total} failed reads");
    });
}

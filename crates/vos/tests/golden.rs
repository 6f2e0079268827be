//! Images of stores that earlier programs wrote: they open, and hold what was written.
//!
//! `golden/v1/store.image` is a store with every kind of page and of log record: a checkpoint, and behind it a log in
//! which each kind is to be replayed. `UPDATE_GOLDEN=1 cargo test -p vos --test golden` writes it anew; once a version
//! is released, its image stays as it is, and a new version gets a directory of its own.
//!
//! # The file
//! For `/log`, then `/data`: length 8, runs 4, then each run: offset 8, length 4, bytes. What lies between runs is
//! zero. Little-endian.

mod rig;

use std::collections::BTreeSet;
use std::path::PathBuf;

use rig::{Model, Op, Outcome, compare_at, compare_diff, compare_lists, on_node, submit};
use types::{Conditions, Epoch, Extent};
use vos::model::{Step, Write};
use vos::{Error, Store};

const MEMORY_BYTES: usize = 2 << 20;
const OBJECTS: u64 = 3;
const UNDECIDED: u64 = 150;
/// Content of the value that is damaged and mended.
const MENDED: u64 = 9000;
/// Content of a value that is staged.
const STAGED: u64 = 9001;
/// Fewer zeros than this do not end a run.
const GAP_BYTES: usize = 24;
const IMAGE_BYTES_MAX: usize = 200 << 10;

/// What the image's store went through before its checkpoint and after it. One change is left undecided.
fn life() -> (Vec<Op>, Vec<Op>) {
    let mut before = vec![Op::CreatePool(0, 4 << 20), Op::CreateContainer(0, 0)];
    before.extend(rig::script(0, 4));
    let mut after = vec![Op::CreatePool(1, 1 << 20), Op::CreateContainer(1, 1), Op::CreateContainer(0, 2)];
    let update = |container, epoch| Op::Update {
        container,
        epoch: Epoch(epoch),
        object: 0,
        dkey: rig::dkeys()[0].clone(),
        conditions: Conditions::None,
        akeys: vec![(rig::akeys()[0].clone(), Write::Single(rig::content(epoch, 1000)))],
    };
    after.extend([update(1, 1), update(2, 2)]);
    after.extend(rig::script(100, 4));
    after.extend([Op::DestroyContainer(2), Op::DestroyPool(1)]);
    let write = |epoch, akey: usize, write| Op::Update {
        container: 0,
        epoch: Epoch(epoch),
        object: 2,
        dkey: rig::dkeys()[3].clone(),
        conditions: Conditions::None,
        akeys: vec![(rig::akeys()[akey].clone(), write)],
    };
    let part = |n| write(117, 3, Write::Array(2, vec![(Extent::new(n * 3, 3), rig::content(n, 6))]));
    after.extend((0..4).map(part));
    after.extend([Op::Maintain(Epoch(117)), Op::Coalesce, update(0, 120)]);
    after.push(write(120, 4, Write::Single(rig::content(MENDED, 5000))));
    after.push(write(120, 2, Write::Single(rig::content(STAGED, 2100))));
    let Op::Update { container, epoch, object, dkey, conditions, akeys } = update(0, 121) else { unreachable!() };
    let steps = vec![Step::Update { object: rig::object(object), dkey, conditions, akeys }];
    after.push(Op::Prepare { change: UNDECIDED, container, epoch, steps });
    (before, after)
}

fn expected() -> Model {
    let (mut model, (before, after)) = (Model::default(), life());
    for op in before.iter().chain(&after) {
        assert_eq!(model.apply(op), Outcome::Done, "{op:?}");
    }
    model
}

/// Both files of a store that went through `life`.
fn make() -> [Vec<u8>; 2] {
    let mut store = rig::format(256 << 10, 4 << 20, MEMORY_BYTES);
    let (before, after) = life();
    let act = |store: &mut Store, seq: usize, op: &Op| match submit(store, op, seq as u64) {
        Err(Error::Media(error)) => panic!("{op:?}: the log of the image has no room: {error}"),
        done => assert_eq!(done.unwrap().0, Outcome::Done, "{op:?}"),
    };
    before.iter().enumerate().for_each(|(seq, op)| act(&mut store, seq, op));
    store.media().checkpoint_blocking().unwrap();
    after.iter().enumerate().for_each(|(seq, op)| act(&mut store, 100 + seq, op));
    mend(&mut store);
    store.media().flush_now().unwrap();
    drop(store);
    ["/log", "/data"].map(|path| {
        let disk = rig::disk(path);
        let mut bytes = vec![0; disk.len().unwrap() as usize];
        disk.read_now(0, &mut bytes).unwrap();
        bytes
    })
}

/// A value is damaged on the device, found by scrubbing, and mended.
fn mend(store: &mut Store) {
    let wanted = rig::content(MENDED, 5000);
    rig::flip("/data", &wanted[..64]);
    let mut scrub = vos::Scrub::default();
    let damage = loop {
        match store.scrub(&mut scrub).unwrap() {
            vos::Scrubbing::Value(value) => match value.verify_now(&store.media().clone()).unwrap() {
                Some(damage) => break damage,
                None => continue,
            },
            vos::Scrubbing::Look => continue,
            other => panic!("{other:?}"),
        }
    };
    let mend = store.plan_mend(&damage, &wanted).unwrap();
    mend.write_now(&store.media().clone()).unwrap();
    store.mend(&mend).unwrap().expect("it is still there");
}

fn encode(file: &[u8], out: &mut Vec<u8>) {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in file.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        match runs.last_mut() {
            Some((_, end)) if at - *end < GAP_BYTES => *end = at + 1,
            _ => runs.push((at, at + 1)),
        }
    }
    out.extend_from_slice(&(file.len() as u64).to_le_bytes());
    out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
    for (start, end) in runs {
        out.extend_from_slice(&(start as u64).to_le_bytes());
        out.extend_from_slice(&((end - start) as u32).to_le_bytes());
        out.extend_from_slice(&file[start..end]);
    }
}

fn decode(image: &mut &[u8]) -> Vec<u8> {
    fn take<'a>(image: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (head, rest) = image.split_at(length);
        *image = rest;
        head
    }
    let number = |image: &mut &[u8], bytes: usize| {
        take(image, bytes).iter().rev().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let mut file = vec![0; number(image, 8)];
    for _ in 0..number(image, 4) {
        let (start, length) = (number(image, 8), number(image, 4));
        file[start..start + length].copy_from_slice(take(image, length));
    }
    file
}

fn place() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1/store.image")
}

/// The files of version 1; made anew when that is asked for.
fn image() -> [Vec<u8>; 2] {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let files = on_node(1, make);
        let mut image = Vec::new();
        files.iter().for_each(|file| encode(file, &mut image));
        assert!(image.len() <= IMAGE_BYTES_MAX, "an image of {} bytes", image.len());
        std::fs::create_dir_all(place().parent().unwrap()).unwrap();
        // Beside it first: the tests of this file run at the same time.
        let beside = place().with_extension(format!("{:?}", std::thread::current().id()));
        std::fs::write(&beside, &image).unwrap();
        std::fs::rename(&beside, place()).unwrap();
    }
    let bytes = std::fs::read(place()).expect("UPDATE_GOLDEN=1 makes the image");
    let mut rest = &bytes[..];
    let files = [decode(&mut rest), decode(&mut rest)];
    assert!(rest.is_empty(), "the image ends with its second file");
    files
}

/// Puts the files on this machine's disks.
fn install([log, data]: [Vec<u8>; 2]) {
    for (path, bytes) in [("/log", log), ("/data", data)] {
        let disk = rig::disk(path);
        disk.write_now(0, &bytes).unwrap();
        disk.sync_now().unwrap();
    }
}

fn compare(store: &mut Store, model: &Model) {
    compare_lists(store, model);
    compare_at(store, model, OBJECTS, Epoch::MAX);
    for (id, (pool, container)) in &model.containers {
        let mut alone = Model::default();
        alone.containers.insert(*id, (*pool, container.clone()));
        for at in container.snapshots.iter().chain([&container.horizon]).filter(|at| **at > Epoch::ZERO) {
            compare_at(store, &alone, OBJECTS, *at);
            compare_diff(store, &alone, OBJECTS, *at, Epoch::MAX, 7);
        }
    }
    store.check().expect_clean();
}

#[test]
fn a_store_of_version_1_opens_and_holds_what_was_written() {
    let files = image();
    on_node(2, move || {
        install(files);
        let mut model = expected();
        let (mut store, recovered, seen) = rig::open(MEMORY_BYTES).unwrap();
        assert!(seen.len() > 20 && recovered.to > recovered.from, "its log was replayed");
        compare(&mut store, &model);
        // It goes on as a store of now, and is one.
        let decided = Op::Commit(UNDECIDED);
        for op in [decided, Op::Maintain(Epoch(119)), Op::Snapshots(0, vec![])].into_iter().chain(rig::script(200, 4)) {
            assert_eq!(submit(&mut store, &op, 900).unwrap().0, model.apply(&op), "{op:?}");
        }
        store.media().checkpoint_blocking().unwrap();
        drop(store);
        compare(&mut rig::open(MEMORY_BYTES).unwrap().0, &model);
    });
}

/// The image is worth keeping: what is to be replayed has every kind of record, and its pages every kind of page.
#[test]
fn the_image_has_every_kind_of_record() {
    let files = image();
    on_node(3, move || {
        install(files);
        let regions = media::Regions {
            metadata: None,
            log: media::Region::whole(rig::disk("/log")).unwrap(),
            data: media::Region::whole(rig::disk("/data")).unwrap(),
        };
        let (_media, mut recovery) = media::Store::open(regions, MEMORY_BYTES).unwrap();
        let (mut kinds, mut staged) = (BTreeSet::new(), 0);
        while let Some(record) = recovery.next_record().unwrap() {
            let described = vos::describe_record(record.kind, record.payload);
            assert_ne!(described.name, "unreadable");
            staged += usize::from(described.text.contains("staged for block"));
            kinds.insert(record.kind);
        }
        let all: BTreeSet<u16> = (1..=16).chain(20..=24).collect();
        assert!(staged > 0, "a value is to be put on the stage again");
        assert_eq!(kinds, all, "kinds 1 to 16 and 20 to 24 of the table in record.rs");
    });
}

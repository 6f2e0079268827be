//! A whole store of `vos` on damaged ground: log records and pages that are not what it wrote, but carry
//! right checksums.
//!
//! # Shape
//! A small store with every kind of record is made once. Each run starts from its files, plants the
//! input, opens it, and uses what opens: nothing may panic, and nothing may loop.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use media::{Existing, Identity, Region, Regions, Reserve};
use rt::disk::{Disk, OpenMode};
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectClass, ObjectId, ObjectType, PoolId, SessionId};
use vos::{
    AkeyRead, AkeyWrite, Branch, ChangeId, DiffAnchor, Edge, ListedObject, Op, Origin, Party, Payload, Prepare, Punch,
    PunchScope, ReadScope, ReadWhat, Store, Term, TxId, Update, ValueWrite, WalkAnchor, WalkedRecord,
};

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const CONTAINER: ContainerId = ContainerId::from_bytes([2; 16]);
const LOG_BYTES: u64 = 128 << 10;
const DATA_BYTES: u64 = 4 << 20;
const PAGES_BYTES: usize = 4 << 20;
/// Enough for an inner node above some leaves.
const KEYS: u64 = 300;
/// Steps of maintenance after which something must have come to an end.
const STEPS_MAX: usize = 100;

/// The files of the small store.
struct Files {
    log: Vec<u8>,
    data: Vec<u8>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    write(&Files { log: Vec::new(), data: Vec::new() });
    let identity = Identity { store: *b"fuzz-vos-store!!", target: 0 };
    let media = media::Store::format(regions(), identity, PAGES_BYTES, Existing::Destroy).expect("format");
    let mut store = Store::format(media).expect("format");
    fill(&mut store).expect("a healthy store takes updates");
    store.media().flush_now().expect("flush");
    store.media().checkpoint_blocking().expect("checkpoint");
    drop(store);
    let [log, data] = paths().map(|path| std::fs::read(path).expect("the store's files are there"));
    Files { log, data }
});

/// Records planted behind those of the store: kind 1, length 2, payload, again and again.
pub(crate) fn record(data: &[u8]) {
    write(&FILES);
    let Some(store) = open() else { unreachable!("the small store opens") };
    let mut rest = data;
    while let Some((&[kind, low, high], payload)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(payload.len());
        let (payload, next) = payload.split_at(length);
        rest = next;
        if store.media().append(u16::from(kind), &[payload], Reserve::Critical).is_err() {
            break;
        }
    }
    let _ = store.media().flush_now();
    drop(store);
    if let Some(mut store) = open() {
        use_all(&mut store);
    }
}

/// A record in words: kind 1, then its bytes. What cannot be read says so; what can says what.
pub(crate) fn describe(data: &[u8]) {
    let Some((&kind, payload)) = data.split_first() else { return };
    let entry = vos::describe_record(u16::from(kind), payload);
    assert!(!entry.name.is_empty());
    let is_readable = entry.name != "unreadable";
    assert!(!is_readable || payload.len() >= 32, "every record has a head");
    assert!(entry.text.lines().count() <= 1, "one line: {}", entry.text);
    // Cut anywhere, it is another record or none; any answer will do.
    for cut in [payload.len() / 2, payload.len().saturating_sub(1)] {
        let _ = vos::describe_record(u16::from(kind), &payload[..cut]);
    }
}

thread_local! {
    /// The small store, open for those who only read.
    static READ: RefCell<Store> = RefCell::new({
        write(&FILES);
        open().expect("the small store opens")
    });
}

/// Anchors that a walk and a list of differences over the small store give, in bytes.
static ANCHORS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (mut walked, mut differences, mut all) = (None, None, Vec::new());
    let read = |store: &RefCell<Store>| {
        let store = &mut *store.borrow_mut();
        loop {
            let each = &mut |_: &WalkedRecord<'_>| ControlFlow::Continue(());
            walked = store.walk_records(CONTAINER, Epoch::MAX, walked.as_ref(), 9, each).expect("it is whole");
            let Some(anchor) = &walked else { break };
            all.push(anchor.to_bytes());
        }
        loop {
            let part = store.diff(CONTAINER, Epoch(1100), Epoch::MAX, differences.as_ref(), 9);
            differences = part.expect("it is whole").1;
            let Some(anchor) = &differences else { break };
            all.push(anchor.to_bytes());
        }
    };
    READ.with(read);
    assert!(all.len() > 40, "{} anchors", all.len());
    all
});

/// Where a walk, a list of differences or a listing of records is to go on, as a client says: any bytes, or those of an
/// anchor that was given, changed. What is an anchor encodes to the same bytes, goes on from there, and comes to an end.
pub(crate) fn anchors(data: &[u8]) {
    let Some((&[which, how], rest)) = data.split_first_chunk() else { return };
    let mut bytes = match usize::from(which).checked_sub(100) {
        Some(which) => ANCHORS[which % ANCHORS.len()].clone(),
        None => rest.to_vec(),
    };
    if which >= 100 {
        for change in rest.chunks_exact(3) {
            let at = usize::from(change[0]) % (bytes.len() + 1);
            match change[1] % 3 {
                0 if at < bytes.len() => bytes[at] ^= change[2],
                1 => bytes.insert(at, change[2]),
                _ => bytes.truncate(at.max(1)),
            }
        }
    }
    READ.with(|store| go_on(&mut store.borrow_mut(), &bytes, how));
}

fn go_on(store: &mut Store, bytes: &[u8], how: u8) {
    let at = if how & 1 == 0 { Epoch::MAX } else { Epoch(1100) };
    let limit = 50 + usize::from(how);
    if let Some(anchor) = WalkAnchor::from_bytes(bytes) {
        assert_eq!(anchor.to_bytes(), bytes, "what decodes encodes to the same bytes");
        let mut after = Some(anchor);
        for step in 0.. {
            assert!(step < STEPS_MAX, "a walk comes to an end");
            let each = &mut |_: &WalkedRecord<'_>| ControlFlow::Continue(());
            after = store.walk_records(CONTAINER, at, after.as_ref(), limit, each).unwrap_or(None);
            if after.is_none() {
                break;
            }
        }
    }
    if let Some(anchor) = DiffAnchor::from_bytes(bytes) {
        assert_eq!(anchor.to_bytes(), bytes, "what decodes encodes to the same bytes");
        let mut after = Some(anchor);
        for step in 0.. {
            assert!(step < STEPS_MAX, "a list of differences comes to an end");
            after = store.diff(CONTAINER, Epoch(1100), Epoch::MAX, after.as_ref(), limit).map_or(None, |part| part.1);
            if after.is_none() {
                break;
            }
        }
    }
    // Stored records go on after the key of one.
    let object = Branch { object: Some(ListedObject { group: 0, oid: object() }), ..Branch::default() };
    let _ = store.stored_records(CONTAINER, &object, Some(bytes), limit);
    let _ = store.stored_bytes(CONTAINER, bytes);
}

/// Bytes planted in one page: which page 2, offset 2, the bytes.
pub(crate) fn page(data: &[u8]) {
    let Some((&[low, high, at_low, at_high], bytes)) = data.split_first_chunk() else { return };
    write(&FILES);
    let Some(store) = open() else { unreachable!("the small store opens") };
    {
        let mut pages = store.media().pages();
        pages.begin_op();
        let ids: Vec<_> = pages.ids().collect();
        let id = ids[usize::from(u16::from_le_bytes([low, high])) % ids.len()];
        let Ok(page) = pages.get_mut(id) else { return };
        let body = page.body_mut();
        let at = usize::from(u16::from_le_bytes([at_low, at_high])) % body.len();
        let length = bytes.len().min(body.len() - at);
        body[at..at + length].copy_from_slice(&bytes[..length]);
    }
    let _ = store.media().checkpoint_blocking();
    drop(store);
    if let Some(mut store) = open() {
        use_all(&mut store);
    }
}

fn object() -> ObjectId {
    let class: ObjectClass = "S1".parse().expect("a class");
    ObjectId::new(ObjectType::MultiHashed, class, 0, 7)
}

/// Single values, arrays, holes, punches, a snapshot.
fn fill(store: &mut Store) -> vos::Result<()> {
    let origin = Origin::default();
    store.create_pool(POOL, DATA_BYTES, origin)?;
    store.create_container(POOL, CONTAINER, origin)?;
    let (single, array) = (Key::literal("single"), Key::literal("array"));
    for n in 0..KEYS {
        let dkey = if n % 2 == 0 { Key::from(n) } else { Key::new(n.to_be_bytes()).expect("eight bytes") };
        let value = vec![n as u8; 1 + n as usize % 100];
        let payload = Payload::Inline { bytes: &value, checksums: &[n as u32] };
        let extents = [(Extent { start: n * 10, count: value.len() as u64 }, payload)];
        let akeys = [
            AkeyWrite { akey: &single, value: ValueWrite::Single(payload) },
            AkeyWrite { akey: &array, value: ValueWrite::Array { record_bytes: 1, extents: &extents } },
        ];
        let update = Update { group: 0, oid: object(), dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
        store.update(CONTAINER, Epoch(1000 + n), origin, &update)?;
        if n % 50 == 0 {
            let scope = PunchScope::Extents { dkey: &dkey, akey: &array, extents: &[Extent { start: 0, count: 5 }] };
            let punch = Punch { group: 0, oid: object(), scope, conditions: Conditions::None };
            store.punch(CONTAINER, Epoch(1000 + n), origin, &punch)?;
        }
    }
    store.set_snapshots(CONTAINER, &[Epoch(1100)], origin)?;
    let scope = PunchScope::Dkey(&Key::Integer(4));
    let punch = Punch { group: 0, oid: object(), scope, conditions: Conditions::None };
    store.punch(CONTAINER, Epoch(5000), origin, &punch)?;
    // Changes in every state; one intent has several parts.
    let value = vec![9; 4096];
    let payload = Payload::Inline { bytes: &value, checksums: &[9] };
    let akeys = [AkeyWrite { akey: &single, value: ValueWrite::Single(payload) }];
    let dkeys = [Key::from(0), Key::from(1), Key::from(2)];
    let ops = dkeys
        .each_ref()
        .map(|dkey| Op::Update(Update { group: 0, oid: object(), dkey, conditions: Conditions::None, akeys: &akeys }));
    for number in 1..=4 {
        let count = if number == 3 { ops.len() } else { 1 };
        store.prepare(&prepare(number, &ops[..count]), Epoch(5000 + number))?;
    }
    store.prepare(&prepare(5, &[Op::Punch(punch)]), Epoch(5005))?;
    store.commit(POOL, change(1))?;
    store.abort(POOL, change(2))?;
    store.settle_upto(POOL, change(1))?;
    store.adopt(POOL, 0, Term { interval: 2, round: 1 })?;
    Ok(())
}

fn change(number: u64) -> ChangeId {
    ChangeId { group: 0, term: Term { interval: 1, round: 1 }, number }
}

fn prepare<'a>(number: u64, ops: &'a [Op<'a>]) -> Prepare<'a> {
    Prepare { change: change(number), container: CONTAINER, origin: Origin::default(), note: b"by whom", ops }
}

/// Every question and a few changes; any answer will do.
fn use_all(store: &mut Store) {
    let (single, array) = (Key::literal("single"), Key::literal("array"));
    let everything = Extent { start: 0, count: 1 << 20 };
    for container in store.pools().into_iter().flat_map(|pool| store.containers(pool)).collect::<Vec<_>>() {
        for at in [Epoch(1100), Epoch::MAX] {
            let _ = store.list_objects(container, at, vos::ListPart::forward(None, 10));
            for group in [0, 1] {
                let _ = store.list_dkeys(container, at, group, object(), vos::ListPart::forward(None, 1000));
                let _ = store.query_dkey(container, at, group, object(), Edge::Highest);
                let _ = store.query_array_tail(container, at, group, object(), &array);
            }
            for dkey in [Key::from(0), Key::from(4), Key::new(7u64.to_be_bytes()).expect("eight bytes")] {
                let extents = [everything];
                let reads = [
                    AkeyRead { akey: &single, what: ReadWhat::Single },
                    AkeyRead { akey: &array, what: ReadWhat::Array(&extents) },
                ];
                let _ = store.fetch(container, at, 0, object(), &dkey, &reads, Conditions::None);
                let _ = store.list_akeys(container, at, 0, object(), &dkey, vos::ListPart::forward(None, 10));
                let _ = store.list_extents(
                    container,
                    at,
                    0,
                    object(),
                    &dkey,
                    &array,
                    everything,
                    10,
                    vos::Direction::Backward,
                );
            }
        }
        let dkey = Key::from(2);
        let payload = Payload::Inline { bytes: b"after", checksums: &[1] };
        let akeys = [AkeyWrite { akey: &single, value: ValueWrite::Single(payload) }];
        let update = Update { group: 0, oid: object(), dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
        let _ = store.update(container, Epoch(1 << 40), Origin::default(), &update);
        let punch = Punch { group: 0, oid: object(), scope: PunchScope::Object, conditions: Conditions::None };
        let _ = store.punch(container, Epoch(1 << 41), Origin::default(), &punch);
        store.start_clock(Epoch(1 << 40));
        let party = Party::certain(TxId { session: SessionId(3), seq: 8 }, Epoch(1 << 42));
        let _ = store.admit_read(&party, container, &ReadScope::Object { group: 0, oid: object() });
        let ops = [Op::Update(update), Op::Punch(punch)];
        let next = ChangeId { term: Term { interval: 3, round: 1 }, ..change(9) };
        let _ = store.prepare_in(&party, &Prepare { change: next, container, ..prepare(9, &ops) });
    }
    for pool in store.pools() {
        for group in store.groups(pool).unwrap_or_default() {
            let Ok(standing) = store.standing(pool, group) else { continue };
            let _ = store.adopt(pool, group, Term { interval: u32::MAX, round: 1 });
            for (index, undecided) in standing.prepared.iter().enumerate() {
                let change = undecided.change;
                let _ = store.resolve(pool, change);
                let _ = if index % 2 == 0 { store.commit(pool, change) } else { store.abort(pool, change) };
            }
            let last = standing.prepared.last().map_or(standing.settled, |undecided| undecided.change);
            let _ = store.settle_upto(pool, last);
        }
    }
    let _ = store.check();
    let _ = store.maintain(STEPS_MAX);
    let _ = store.check();
}

fn open() -> Option<Store> {
    let (media, recovery) = media::Store::open(regions(), PAGES_BYTES).ok()?;
    Store::recover(media, recovery, &mut |_, _| {}).ok().map(|(store, _)| store)
}

/// Where the files are: in memory, if `FUZZ_SCRATCH` says where.
fn paths() -> [PathBuf; 2] {
    let directory = std::env::var_os("FUZZ_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
    ["log", "data"].map(|name| directory.join(format!("fuzz-{name}-{}", std::process::id())))
}

fn write(files: &Files) {
    for (path, bytes) in paths().iter().zip([&files.log, &files.data]) {
        std::fs::write(path, bytes).expect("the scratch directory takes files");
    }
}

fn regions() -> Regions {
    let region = |path: &PathBuf, bytes| {
        let mode = OpenMode { create: true, direct: false, exclusive_lock: false };
        Region::new(Disk::open(path, mode).expect("a scratch file opens"), 0, bytes)
    };
    let [log, data] = paths();
    Regions { log: region(&log, LOG_BYTES), metadata: None, data: region(&data, DATA_BYTES) }
}

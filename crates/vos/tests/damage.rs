//! Damage, one kind a test: it is found and named with its place, the rest stays readable, and what can be
//! mended is mended. And looking changes nothing.

mod rig;

use std::collections::BTreeMap;

use media::{BLOCK_BYTES, PAGE_BYTES, Region, Regions, decode_page};
use rig::{container, on_node, pool};
use rt::disk::Disk;
use types::{Conditions, Epoch, Key, ObjectId, SessionId};
use vos::model::{Step, Write};
use vos::{
    Branch, CheckOptions, Child, Error, FindingKind, ListPart, ListedObject, Opened, Origin, Punch, PunchScope, Recall,
    RepairOptions, Repaired, Store, Stored,
};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const LOG_BYTES: u64 = 1 << 20;
const DATA_BYTES: u64 = 16 << 20;
const NODE: u16 = 1;
const HEAD: u16 = 2;
const SESSION: u16 = 3;
const CLOSELY: CheckOptions = CheckOptions { data: true, findings_max: 100 };

fn put(store: &mut Store, c: u8, n: u64, epoch: u64, len: usize) {
    let akeys = [(Key::literal("v"), Write::Single(rig::content(n, len)))];
    // A session for each container, so that there is something to be forgotten.
    let (dkey, origin) = (Key::from(n), Origin { session: SessionId(u64::from(c) + 1), seq: n });
    rig::update(store, container(c), Epoch(epoch), origin, (0, OID), &dkey, Conditions::None, &akeys).unwrap();
}

/// What `n` holds in container `c`, when it can be read.
fn get(store: &mut Store, c: u8, n: u64, len: usize) -> Result<bool, Error> {
    let mut out = Vec::new();
    store.fetch_value(container(c), Epoch::MAX, 0, OID, &Key::from(n), &Key::literal("v"), &mut out)?;
    Ok(out == rig::content(n, len))
}

/// Two containers in a checkpoint: 0 has `count` small values and three large ones, 1 has ten small ones.
/// Then `later` happens, and the store is left without a stop.
fn prepared(count: u64, later: impl FnOnce(&mut Store)) {
    let mut store = rig::format(LOG_BYTES, DATA_BYTES, 4 << 20);
    store.create_pool(pool(0), 12 << 20, Origin::default()).unwrap();
    for c in 0..2 {
        store.create_container(pool(0), container(c), Origin::default()).unwrap();
    }
    for n in 0..count {
        put(&mut store, 0, n, 1, 100);
        if n % 500 == 499 {
            store.media().checkpoint_blocking().unwrap();
        }
    }
    for n in 0..3 {
        put(&mut store, 0, 1_000_000 + n, 1, 20_000);
    }
    for n in 0..10 {
        put(&mut store, 1, n, 1, 100);
    }
    store.media().checkpoint_blocking().unwrap();
    later(&mut store);
    store.media().flush_now().unwrap();
}

fn regions(open: impl Fn(&str) -> Disk) -> Regions {
    Regions { log: Region::whole(open("/log")).unwrap(), metadata: None, data: Region::whole(open("/data")).unwrap() }
}

fn image() -> (Vec<u8>, Vec<u8>) {
    let whole = |path| {
        let disk = rig::disk(path);
        let mut bytes = vec![0; disk.len().unwrap() as usize];
        disk.read_now(0, &mut bytes).unwrap();
        bytes
    };
    (whole("/log"), whole("/data"))
}

/// Opens to look, and proves that nothing changed.
fn look() -> Opened {
    let before = image();
    let regions = regions(|path| Disk::open_read_only(path).unwrap());
    let (media, recovery, bitmaps) = media::Store::open_damaged(regions, 1 << 20).unwrap();
    assert!(bitmaps.is_empty());
    let opened = Store::inspect(media, recovery).unwrap();
    opened.store.check_with(CLOSELY);
    assert!(before == image(), "looking changed something");
    opened
}

fn kinds(opened: &Opened) -> Vec<FindingKind> {
    let mut kinds: Vec<_> = opened.store.check_with(CLOSELY).findings.iter().map(|f| f.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

fn repair(drop_corrupt: bool) -> Repaired {
    let (media, recovery, bitmaps) = media::Store::open_damaged(regions(rig::disk), 1 << 20).unwrap();
    let options = RepairOptions { check: CLOSELY, drop_corrupt, rewrite: false };
    Store::repair(media, recovery, &bitmaps, options).unwrap()
}

/// A repaired store is clean, and opens as any other; once more there is nothing to do.
fn reopened(repaired: &Repaired) -> Store {
    assert!(repaired.is_written && repaired.refused.is_none(), "{repaired:?}");
    repaired.left.as_ref().unwrap().expect_clean();
    let again = repair(false);
    assert!(!again.is_written && again.mended.is_empty(), "{again:?}");
    let (store, _, _) = rig::open(1 << 20).unwrap();
    store.check().expect_clean();
    store
}

/// The newest copy of each page of `kind`: its place in `/data` and its bytes.
fn pages(kind: u16) -> BTreeMap<u32, (u64, Vec<u8>)> {
    let mut newest: BTreeMap<u32, (u64, u64, Vec<u8>)> = BTreeMap::new();
    let (_, data) = image();
    for at in (0..data.len() - PAGE_BYTES).step_by(BLOCK_BYTES) {
        let bytes = &data[at..at + PAGE_BYTES];
        let Ok(header) = decode_page(bytes) else { continue };
        let age = header.checkpoint.get();
        if header.kind.get() == kind && newest.get(&header.page.get()).is_none_or(|(known, ..)| *known < age) {
            newest.insert(header.page.get(), (age, at as u64, bytes.to_vec()));
        }
    }
    newest.into_iter().map(|(id, (_, at, bytes))| (id, (at, bytes))).collect()
}

/// Nodes on `level` of the tree that has the most of them.
fn nodes(level: u8) -> Vec<(u64, Vec<u8>)> {
    let mut trees: BTreeMap<u32, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for (at, bytes) in pages(NODE).into_values().filter(|(_, bytes)| bytes[32 + 1] == level) {
        let owner = u32::from_le_bytes(bytes[32 + 24..][..4].try_into().unwrap());
        trees.entry(owner).or_default().push((at, bytes));
    }
    trees.into_values().max_by_key(Vec::len).unwrap()
}

fn flip(path: &str, at: u64) {
    let disk = rig::disk(path);
    let mut block = vec![0; BLOCK_BYTES];
    let start = at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    disk.read_now(start, &mut block).unwrap();
    block[(at - start) as usize] ^= 0x10;
    disk.write_now(start, &block).unwrap();
    disk.sync_now().unwrap();
}

#[test]
fn looking_replays_the_log_in_memory_and_changes_nothing() {
    on_node(1, || {
        prepared(50, |store| {
            put(store, 0, 7, 2, 200);
            put(store, 1, 11, 2, 9000);
            let punch =
                Punch { group: 0, oid: OID, scope: PunchScope::Dkey(&Key::from(3)), conditions: Conditions::None };
            store.punch(container(0), Epoch(3), Origin::default(), &punch).unwrap();
        });
        let mut opened = look();
        assert_eq!((opened.records, opened.failed, &opened.findings[..]), (3, 0, &[][..]));
        opened.store.check_with(CLOSELY).expect_clean();
        assert!(get(&mut opened.store, 0, 7, 200).unwrap() && !get(&mut opened.store, 0, 3, 100).unwrap());
        let refused = opened.store.create_pool(pool(1), 1 << 20, Origin::default()).unwrap_err();
        assert!(matches!(refused, Error::Media(media::Error::Stopped)), "{refused}");
        // Everything that is stored is listed, whether it is visible or not.
        let store = &mut opened.store;
        let objects = store.stored_children(container(0), &Branch::default(), None, 10).unwrap().entries;
        let object = ListedObject { group: 0, oid: OID };
        assert_eq!(objects, [Child::Object(object)]);
        let mut branch = Branch { object: Some(object), ..Branch::default() };
        let mut dkeys = Vec::new();
        loop {
            let part = store.stored_children(container(0), &branch, dkeys.last(), 7).unwrap();
            dkeys.extend(part.entries);
            if part.next.is_none() {
                break;
            }
        }
        assert_eq!((dkeys.len(), &dkeys[3]), (53, &Child::Key(Key::from(3))));
        branch.dkey = Some(Key::from(3));
        let punches = store.stored_records(container(0), &branch, None, 10).unwrap().entries;
        assert_eq!(punches.iter().map(|r| &r.what).collect::<Vec<_>>(), [&Stored::Punch]);
        branch.dkey = Some(Key::from(7));
        branch.akey = Some(Key::literal("v"));
        let versions = store.stored_records(container(0), &branch, None, 10).unwrap().entries;
        let epochs: Vec<u64> = versions.iter().map(|record| record.version.unwrap().epoch.0).collect();
        assert_eq!(epochs, [2, 1], "newest first");
        let one = store.stored_records(container(0), &branch, Some(&versions[0].key), 10).unwrap().entries;
        assert_eq!(one, versions[1..]);
        let (bytes, verified) = store.stored_bytes(container(0), &versions[1].key).unwrap().unwrap();
        assert_eq!((bytes, verified), (rig::content(7, 100), Ok(())));
    });
}

#[test]
fn a_leaf_that_rots_is_named_cut_out_and_all_else_is_there() {
    on_node(1, || {
        prepared(1000, |store| put(store, 0, 2_000_000, 2, 100));
        let leaves = nodes(0);
        let (at, _) = &leaves[leaves.len() / 2];
        flip("/data", at + 4000);
        let mut opened = look();
        let report = opened.store.check_with(CLOSELY);
        let place = format!("at block {}", at / BLOCK_BYTES as u64);
        let page = report.findings.iter().find(|f| f.kind == FindingKind::Page).unwrap();
        assert!(page.place.contains(&place) && page.fault.contains("records from /1.2:0/#"), "{page}");
        assert_eq!(page.container, Some(container(0)));
        let lost: Vec<u64> = (0..1000).filter(|n| get(&mut opened.store, 0, *n, 100).is_err()).collect();
        assert!(!lost.is_empty() && lost.len() < 100 && lost.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{lost:?}");
        assert!((0..10).all(|n| get(&mut opened.store, 1, n, 100).unwrap()), "the neighbour is as it was");
        assert!(get(&mut opened.store, 0, 2_000_000, 100).unwrap(), "and the log was replayed");
        drop(opened);
        let repaired = repair(false);
        assert!(repaired.mended.iter().any(|m| m.kind == FindingKind::Page && m.deed.starts_with("lost:")));
        assert!(repaired.mended.iter().any(|m| m.kind == FindingKind::Counter), "the head counts one page less");
        let mut store = reopened(&repaired);
        for n in 0..1000 {
            assert_eq!(get(&mut store, 0, n, 100).unwrap(), !lost.contains(&n), "{n}");
        }
        assert!(get(&mut store, 0, 2_000_000, 100).unwrap());
        lost.iter().for_each(|n| put(&mut store, 0, *n, 9, 100));
        store.check().expect_clean();
    });
}

/// The pages below a root that rots are whole; nobody leads to them any more.
#[test]
fn records_below_a_damaged_inner_page_are_put_back() {
    on_node(1, || {
        prepared(1000, |store| put(store, 0, 5, 2, 50));
        let inner = nodes(1);
        assert_eq!(inner.len(), 1, "the root is the only inner page");
        flip("/data", inner[0].0 + 77);
        assert_eq!(look().failed, 1, "the record in the log has no tree to go to");
        let repaired = repair(false);
        let back = repaired.mended.iter().find(|m| m.deed.contains("put back") && m.kind == FindingKind::OrphanPage);
        assert!(back.is_some_and(|m| m.deed.starts_with("1003 records")), "{:?}", repaired.mended);
        let mut store = reopened(&repaired);
        assert!((0..1000).all(|n| n == 5 || get(&mut store, 0, n, 100).unwrap()));
        assert!(get(&mut store, 0, 5, 50).unwrap());
        assert_eq!(store.check_with(CLOSELY).verified, 1014, "all but the version in the log, twice, and container 1");
    });
}

#[test]
fn a_value_that_rots_is_found_by_its_checksum_and_dropped_only_when_asked() {
    on_node(1, || {
        prepared(20, |_| ());
        let mut opened = look();
        let branch = Branch {
            object: Some(ListedObject { group: 0, oid: OID }),
            dkey: Some(Key::from(1_000_001)),
            akey: Some(Key::literal("v")),
        };
        let records = opened.store.stored_records(container(0), &branch, None, 10).unwrap().entries;
        let Stored::Single(value) = &records[0].what else { panic!("a single value: {records:?}") };
        let block = value.blocks[0].block;
        drop(opened);
        flip("/data", u64::from(block) * BLOCK_BYTES as u64 + 5000);
        let opened = look();
        opened.store.check().expect_clean();
        let report = opened.store.check_with(CLOSELY);
        let [found] = &report.findings[..] else { panic!("one finding: {:?}", report.findings) };
        assert_eq!((found.kind, found.container), (FindingKind::Value, Some(container(0))));
        assert!(found.place.starts_with("/1.2:0/#1000001/v single @0x1."), "{found}");
        assert!(found.fault.contains(&format!("blocks {block}+5")), "{found}");
        drop(opened);
        let untouched = repair(false);
        assert!(!untouched.is_written, "nothing but the value is wrong");
        let repaired = repair(true);
        assert!(repaired.mended.iter().any(|m| m.kind == FindingKind::Leak && m.deed.starts_with("5 blocks")));
        let mut store = reopened(&repaired);
        assert!((0..20).all(|n| get(&mut store, 0, n, 100).unwrap()));
        assert_eq!(store.check_with(CLOSELY).verified, 32);
    });
}

#[test]
fn counters_that_are_wrong_are_counted_anew() {
    on_node(1, || {
        prepared(300, |store| put(store, 0, 3, 2, 100));
        for (at, mut bytes) in pages(HEAD).into_values().filter(|(_, bytes)| bytes[32 + 8] == 1) {
            // Container 0: pages, blocks and punches of its head, and its highest epoch.
            for (offset, wrong) in [(40, 2u8), (48, 3), (64, 9), (56, 0)] {
                bytes[32 + offset] = wrong;
            }
            let crc = codec::crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            rig::disk("/data").write_now(at, &bytes).unwrap();
        }
        let opened = look();
        assert_eq!(kinds(&opened), [FindingKind::Counter]);
        let count = opened.store.check().containers[0];
        assert_eq!((count.blocks, count.punches), ([3, 15], [9, 0]));
        drop(opened);
        let repaired = repair(false);
        let deeds: Vec<&str> = repaired.mended.iter().map(|m| m.deed.as_str()).collect();
        assert!(
            deeds.contains(&"3 blocks counted: now 15") && deeds.contains(&"9 punches counted: now 0"),
            "{deeds:?}"
        );
        let mut store = reopened(&repaired);
        put(&mut store, 0, 4, 3, 100);
        assert!(get(&mut store, 0, 3, 100).unwrap());
        let space = store.pool_space(pool(0)).unwrap();
        assert_eq!(space.bulk, 15 * BLOCK_BYTES as u64);
    });
}

#[test]
fn a_bitmap_that_rots_is_derived_anew() {
    on_node(1, || {
        prepared(200, |store| put(store, 1, 50, 2, 9000));
        let (at, _) = pages(0xff02).remove(&0).unwrap();
        flip("/data", at + 100);
        assert!(rig::open(1 << 20).is_err(), "a server does not start on it");
        let regions = regions(|path| Disk::open_read_only(path).unwrap());
        let (media, recovery, bitmaps) = media::Store::open_damaged(regions, 1 << 20).unwrap();
        assert_eq!(bitmaps.len(), 1);
        let mut opened = Store::inspect(media, recovery).unwrap();
        assert!(get(&mut opened.store, 0, 7, 100).unwrap(), "everything can be read");
        drop(opened);
        let repaired = repair(false);
        assert!(repaired.mended.iter().any(|m| m.kind == FindingKind::Bitmap));
        let mut store = reopened(&repaired);
        (300..400).for_each(|n| put(&mut store, 0, n, 3, 9000));
        assert!(store.check_with(CLOSELY).findings.is_empty(), "no block was given out twice");
    });
}

#[test]
fn a_log_with_a_gap_is_cut_only_when_asked() {
    on_node(1, || {
        prepared(20, |store| {
            for n in 0..4 {
                put(store, 0, 100 + n, 2, 100);
                store.media().flush_now().unwrap();
            }
        });
        let end = look().end.0;
        // Four batches of a block each; the second.
        let area = LOG_BYTES - BLOCK_BYTES as u64;
        let second = (end - 3 * BLOCK_BYTES as u64) % area + BLOCK_BYTES as u64;
        flip("/log", second + 200);
        let mut opened = look();
        let [found] = &opened.findings[..] else { panic!("one finding: {:?}", opened.findings) };
        assert_eq!(found.kind, FindingKind::Log);
        assert_eq!(found.place, format!("log position {}", end - 3 * BLOCK_BYTES as u64));
        assert!(get(&mut opened.store, 0, 100, 100).unwrap() && !get(&mut opened.store, 0, 101, 100).unwrap());
        drop(opened);
        let before = image();
        let refused = repair(false);
        assert!(refused.refused.is_some_and(|why| why.contains("log")) && before == image());
        let repaired = repair(true);
        assert!(repaired.mended.iter().any(|m| m.kind == FindingKind::Log && m.deed.starts_with("lost:")));
        let mut store = reopened(&repaired);
        assert!(get(&mut store, 0, 100, 100).unwrap() && !get(&mut store, 0, 103, 100).unwrap());
    });
}

/// A walk needs the pages of one way down, not all there are.
#[test]
fn a_store_larger_than_memory_is_checked() {
    on_node(1, || {
        prepared(12_000, |store| put(store, 0, 7, 2, 100));
        let opened = |budget| {
            let regions = regions(|path| Disk::open_read_only(path).unwrap());
            let (media, recovery, _) = media::Store::open_damaged(regions, budget).unwrap();
            Store::inspect(media, recovery).unwrap()
        };
        let looked = opened(0);
        let report = looked.store.check_with(CLOSELY);
        report.expect_clean();
        let usage = looked.store.media().usage().pages;
        assert!(report.pages > 2 * usage.frames && usage.evictions > 0, "{} pages, {usage:?}", report.pages);
    });
}

/// Two damages that repair did not come to rest from: a head that calls forgotten what is newer than its newest epoch
/// (which was raised again and again, to no effect), and records outside their separators (removed where they are not).
#[test]
fn repair_comes_to_rest_where_it_did_not() {
    [1264, 234].into_iter().for_each(damage_and_repair);
}

/// Whatever the bytes, nothing panics: not looking, not checking, not repairing, and not a second time. Some
/// pages are sealed again after they were changed, so that only what they say is wrong.
#[test]
fn random_damage_never_panics_and_repair_comes_to_rest() {
    // More of them: DAMAGE_SEEDS=5000. One alone: DAMAGE_SEED=1264.
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = number("DAMAGE_SEED").map_or(0..number("DAMAGE_SEEDS").unwrap_or(150), |seed| seed..seed + 1);
    seeds.for_each(damage_and_repair);
}

fn damage_and_repair(seed: u64) {
    on_node(seed, move || {
        let mut dice = rig::Dice(seed);
        prepared(400 + dice.below(400), |store| {
            for n in 0..20 {
                put(store, (n % 2) as u8, n, 2, 50 + 500 * (n as usize % 3));
                store.media().flush_now().unwrap();
            }
            let punch = Punch { group: 0, oid: OID, scope: PunchScope::Object, conditions: Conditions::None };
            store.punch(container(1), Epoch(3), Origin::default(), &punch).unwrap();
            store.destroy_container(container(1), Origin::default()).unwrap();
            store.maintain(1).unwrap();
        });
        for _ in 0..1 + dice.below(3) {
            damage(&mut dice);
        }
        let before = image();
        let mut is_open = false;
        let regions = regions(|path| Disk::open_read_only(path).unwrap());
        if let Ok((media, recovery, _)) = media::Store::open_damaged(regions, 1 << 20)
            && let Ok(mut opened) = Store::inspect(media, recovery)
        {
            is_open = true;
            opened.store.check_with(CLOSELY);
            let store = &mut opened.store;
            for c in store.containers(pool(0)) {
                let _ = store.stored_children(c, &Branch::default(), None, 100);
                let _ = store.list_dkeys(c, Epoch::MAX, 0, OID, ListPart::forward(None, 100));
            }
        }
        assert!(before == image(), "seed {seed}: looking changed something");
        let mut was_written = false;
        for _ in 0..if is_open { 2 } else { 0 } {
            let (media, recovery, bitmaps) = media::Store::open_damaged(self::regions(rig::disk), 1 << 20).unwrap();
            let options = RepairOptions { check: CLOSELY, drop_corrupt: true, rewrite: false };
            let repaired = match Store::repair(media, recovery, &bitmaps, options) {
                Ok(repaired) => repaired,
                Err(error) => {
                    println!("seed {seed}: {error}");
                    assert!(!matches!(error, Error::Invalid(_)), "seed {seed}: {error}");
                    break;
                }
            };
            assert!(!(was_written && repaired.is_written), "seed {seed}: not at rest: {:?}", repaired.mended);
            was_written = repaired.is_written;
            if let Some(left) = repaired.left.filter(|left| left.findings_total > 0) {
                println!("seed {seed}: {} left: {}", left.findings_total, left.findings[0]);
            }
        }
        if let Ok((mut store, _, _)) = rig::open(1 << 20) {
            store.check();
            let _ = store.maintain(100);
        }
    });
}

/// Flips a few bits of one page, of the log, or of anything.
fn damage(dice: &mut rig::Dice) {
    let (kind, reseal) = (*dice.pick(&[NODE, HEAD, SESSION, 0xff02]), dice.chance(2));
    match dice.below(6) {
        0 => flip("/log", dice.below(100_000)),
        1 => flip("/data", dice.below(DATA_BYTES / 4)),
        _ => {
            let all: Vec<_> = pages(kind).into_values().collect();
            if all.is_empty() {
                return;
            }
            let (at, mut bytes) = dice.pick(&all).clone();
            for _ in 0..1 + dice.below(4) {
                // Where most of the structure is, or anywhere.
                let room = if dice.chance(2) { 128 } else { PAGE_BYTES as u64 - 32 };
                bytes[32 + dice.below(room) as usize] ^= 1 << dice.below(8);
            }
            if reseal && kind != 0xff02 {
                let crc = codec::crc32c(&bytes[4..]);
                bytes[..4].copy_from_slice(&crc.to_le_bytes());
            }
            rig::disk("/data").write_now(at, &bytes).unwrap();
            rig::disk("/data").sync_now().unwrap();
        }
    }
}

/// A store that cannot tell which requests it did must not serve as if none were: it tells of that session's that
/// it cannot, and serves the others. A repair forgets the session.
#[test]
fn a_session_whose_page_rots_is_named_and_forgotten_alone() {
    on_node(1, || {
        prepared(100, |store| put(store, 1, 20, 2, 100));
        let (at, _) = pages(SESSION).into_values().find(|(_, bytes)| bytes[32 + 8] == 1).unwrap();
        flip("/data", at + 500);
        let origin = |session, seq| Origin { session: SessionId(session), seq };
        let (mut store, _, _) = rig::open(1 << 20).unwrap();
        assert_eq!([5, 5000].map(|seq| store.recall(origin(1, seq)).unwrap()), [Recall::Unreadable; 2]);
        assert_eq!(store.recall(origin(2, 20)).unwrap(), Recall::Done(Epoch(2)));
        put(&mut store, 0, 200, 3, 100);
        store.media().checkpoint_blocking().unwrap();
        assert_eq!(store.recall(origin(1, 200)).unwrap(), Recall::Unreadable);
        drop(store);
        let opened = look();
        assert!(!opened.is_blind, "no data depends on it");
        assert_eq!(opened.findings[0].kind, FindingKind::Session, "{:?}", opened.findings);
        drop(opened);
        let repaired = repair(false);
        let lost: Vec<_> = repaired.mended.iter().filter(|mended| mended.kind == FindingKind::Session).collect();
        assert_eq!((lost.len(), &lost[0].place[..]), (1, "session 0000000000000001"));
        let mut store = reopened(&repaired);
        assert_eq!(store.sessions(), [SessionId(2)]);
        assert_eq!(store.recall(origin(1, 5)).unwrap(), Recall::Never);
        assert_eq!(store.recall(origin(2, 20)).unwrap(), Recall::Done(Epoch(2)));
        assert!(get(&mut store, 0, 5, 100).unwrap(), "the data is there");
    });
}

/// Destroys the newest copy of the heads of containers `which`.
fn lose_heads(which: &[u8]) {
    for c in which {
        let (at, _) = pages(HEAD).into_values().find(|(_, bytes)| bytes[32 + 8] == c + 1).unwrap();
        flip("/data", at + 500);
    }
}

/// The container cannot be reached, so its blocks must not be taken for leaked. The catalog knows where its tree
/// is, and its snapshots: a repair finds all of it again.
#[test]
fn a_container_without_its_head_is_named_and_found_again_whole() {
    on_node(1, || {
        let mut space = None;
        prepared(100, |store| {
            put(store, 0, 7, 5, 200);
            store.set_snapshots(container(0), &[Epoch(2), Epoch(4)], Origin::default()).unwrap();
            store.media().checkpoint_blocking().unwrap();
            put(store, 0, 8, 6, 200);
            put(store, 1, 20, 2, 100);
            space = Some(store.pool_space(pool(0)).unwrap());
        });
        lose_heads(&[0]);
        assert!(rig::open(1 << 20).is_err(), "a server does not start on it");
        let mut opened = look();
        assert!(opened.is_blind);
        assert_eq!((opened.findings[0].kind, opened.findings[0].container), (FindingKind::Catalog, Some(container(0))));
        assert!(get(&mut opened.store, 1, 20, 100).unwrap(), "the other is there");
        drop(opened);
        let repaired = repair(false);
        let told: Vec<_> = repaired.mended.iter().filter(|m| m.kind == FindingKind::Catalog).collect();
        let [told] = &told[..] else { panic!("one head: {:?}", repaired.mended) };
        assert_eq!((told.container, &told.place[..]), (Some(container(0)), "its head"));
        assert!(told.deed.starts_with("lost: what was seen before epoch 0x5, but at snapshots"), "{told:?}");
        let mut store = reopened(&repaired);
        assert_eq!(store.pool_space(pool(0)).unwrap(), space.unwrap());
        assert!((0..100).filter(|n| ![7, 8].contains(n)).all(|n| get(&mut store, 0, n, 100).unwrap()));
        let versions = 100 + 3 + 2 + 10 + 1;
        assert_eq!(store.check_with(CLOSELY).verified, versions, "large values and old ones among them");
        assert!(get(&mut store, 0, 7, 200).unwrap() && get(&mut store, 0, 8, 200).unwrap());
        let info = store.container_info(container(0)).unwrap();
        assert_eq!((info.snapshots, info.horizon, info.max_epoch), (vec![Epoch(2), Epoch(4)], Epoch(5), Epoch(6)));
        // What a snapshot saw can be seen; of what lay between, nobody knows whether it is still whole.
        let at = |store: &mut Store, epoch| {
            let mut out = Vec::new();
            let (dkey, akey) = (Key::from(7), Key::literal("v"));
            store.fetch_value(container(0), Epoch(epoch), 0, OID, &dkey, &akey, &mut out).map(|_| out)
        };
        assert_eq!(at(&mut store, 4).unwrap(), rig::content(7, 100));
        assert!(matches!(at(&mut store, 3), Err(Error::Forgotten { .. })));
        while store.maintain(100).unwrap() {}
        assert_eq!(at(&mut store, 4).unwrap(), rig::content(7, 100), "upkeep knows of the snapshots");
        put(&mut store, 0, 9, 7, 200);
        assert!(get(&mut store, 0, 9, 200).unwrap());
        store.check_with(CLOSELY).expect_clean();
    });
}

/// Nothing but leaves is left of the tree: they name it by its number, and the catalog knows whose that is.
#[test]
fn what_leaves_hold_is_found_again_without_heads_and_inner_pages() {
    on_node(1, || {
        prepared(1000, |store| put(store, 1, 20, 2, 100));
        let (inner, leaves) = (nodes(1), nodes(0));
        assert_eq!(inner.len(), 1);
        flip("/data", inner[0].0 + 77);
        let (at, bytes) = &leaves[leaves.len() / 2];
        flip("/data", at + 4000);
        let lost = u64::from(u16::from_le_bytes([bytes[32 + 2], bytes[32 + 3]]));
        lose_heads(&[0, 1]);
        let repaired = repair(false);
        let heads: Vec<_> = repaired.mended.iter().filter(|m| m.kind == FindingKind::Catalog).collect();
        assert_eq!(heads.iter().map(|m| m.container).collect::<Vec<_>>(), [Some(container(0)), Some(container(1))]);
        let back = repaired.mended.iter().find(|m| m.deed.contains("put back") && m.kind == FindingKind::OrphanPage);
        assert_eq!(back.unwrap().deed, format!("{} records put back", 1003 - lost));
        let mut store = reopened(&repaired);
        let there = (0..1000).filter(|n| get(&mut store, 0, *n, 100).unwrap()).count() as u64;
        assert_eq!(there, 1000 - lost);
        assert_eq!(store.check_with(CLOSELY).verified, 1003 - lost + 11);
        assert!((0..10).all(|n| get(&mut store, 1, n, 100).unwrap()) && get(&mut store, 1, 20, 100).unwrap());
    });
}

/// A container that is being deleted goes on being deleted, and one that goes back goes on going back.
#[test]
fn what_was_under_way_goes_on_under_a_head_made_anew() {
    on_node(1, || {
        let mut before = 0;
        prepared(400, |store| {
            before = store.check().pages;
            store.destroy_container(container(1), Origin::default()).unwrap();
            (0..400).for_each(|n| put(store, 0, n, 10 + n, 200));
            store.rollback(container(0), Epoch(1), Epoch(500), Origin::default()).unwrap();
            store.media().checkpoint_blocking().unwrap();
            // In the log: steps of both.
            (0..3).for_each(|_| assert!(store.maintain(1).unwrap()));
        });
        lose_heads(&[0, 1]);
        let repaired = repair(false);
        assert!(repaired.mended.iter().any(|m| m.container.is_none() && m.deed.contains("a deleted container")));
        let mut store = reopened(&repaired);
        while store.maintain(100).unwrap() {}
        assert!((0..400).all(|n| get(&mut store, 0, n, 100).unwrap()));
        assert_eq!(store.containers(pool(0)), [container(0)]);
        assert!(store.remains().is_empty());
        let again = store.rollback(container(0), Epoch(1), Epoch(500), Origin::default());
        assert_eq!(again, Ok(store.last_lsn()), "it was done");
        store.check_with(CLOSELY).expect_clean();
    });
}

#[test]
fn a_change_stays_prepared_over_the_loss_of_the_head() {
    on_node(1, || {
        prepared(10, |store| {
            let value = rig::content(77, 100);
            let step = Step::Update {
                object: (0, OID),
                dkey: Key::from(77),
                conditions: Conditions::None,
                akeys: vec![(Key::literal("v"), Write::Single(value))],
            };
            rig::with_steps(store, container(0), &[step], &[], &mut |store, ops| {
                rig::prepare(store, 1, container(0), 20, ops)
            })
            .unwrap();
            store.media().checkpoint_blocking().unwrap();
        });
        lose_heads(&[0]);
        let mut store = reopened(&repair(false));
        assert!(store.container_info(container(0)).unwrap().max_epoch >= Epoch(20), "its epoch is taken");
        rig::commit(&mut store, 1).unwrap();
        assert!(get(&mut store, 0, 77, 100).unwrap());
        store.check_with(CLOSELY).expect_clean();
    });
}

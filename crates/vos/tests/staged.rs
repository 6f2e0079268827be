//! Staged values: long inline payloads that get blocks at once and reach them with a checkpoint. Whatever reads,
//! counts or checks bulk values finds ordinary ones, before, during and after.

mod rig;

use codec::checksum;
use media::{BLOCK_BYTES, Extent as Blocks, STAGED_BYTES_MIN};
use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::{Step, Write};
use vos::{
    AkeyRead, AkeyWrite, Branch, CheckOptions, Error, INLINE_BYTES_MAX, ListedObject, Origin, Payload, ReadWhat, Scrub,
    Scrubbing, Source, Store, Stored, Update, ValueRead, ValueWrite,
};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const QUOTA: u64 = 8 << 20;
const MEMORY_BYTES: usize = 4 << 20;
const BLOCK: u64 = BLOCK_BYTES as u64;

fn store(quota: u64) -> Store {
    let mut store = rig::format(1 << 20, 16 << 20, MEMORY_BYTES);
    store.create_pool(pool(0), quota, Origin::default()).unwrap();
    store.create_container(pool(0), container(0), Origin::default()).unwrap();
    store.media().checkpoint_blocking().unwrap();
    store
}

fn akey() -> Key {
    Key::literal("v")
}

fn value(n: u64, len: usize) -> Vec<u8> {
    rig::content(n, len)
}

/// Writes a single value, as it arrives inline.
fn put(store: &mut Store, n: u64, epoch: u64, len: usize) -> Result<(), Error> {
    let bytes = value(n, len);
    let (dkey, akey, checksums) = (Key::from(n), akey(), checksum::of_chunks(&bytes));
    let single = ValueWrite::Single(Payload::Inline { bytes: &bytes, checksums: &checksums });
    let akeys = [AkeyWrite { akey: &akey, value: single }];
    let update = Update { group: 0, oid: OID, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
    store.update(container(0), Epoch(epoch), Origin::default(), &update).map(drop)
}

/// The blocks of each record of `n`, newest first.
fn blocks(store: &mut Store, n: u64) -> Vec<Vec<Blocks>> {
    let object = ListedObject { group: 0, oid: OID };
    let branch = Branch { object: Some(object), dkey: Some(Key::from(n)), akey: Some(akey()) };
    let records = store.stored_records(container(0), &branch, None, 2000).unwrap().entries;
    let value = |stored| match stored {
        Stored::Single(value) | Stored::Array { value, .. } => value.blocks.to_vec(),
        other => panic!("{other:?}"),
    };
    records.into_iter().map(|record| value(record.what)).collect()
}

/// How `n` is answered: whether from memory, and with the right bytes both ways.
fn is_in_memory(store: &mut Store, n: u64, len: usize) -> bool {
    let (dkey, akey, mut out) = (Key::from(n), akey(), Vec::new());
    let quick = store.fetch_value(container(0), Epoch::MAX, 0, OID, &dkey, &akey, &mut out).unwrap();
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
    let plan = store.fetch(container(0), Epoch::MAX, 0, OID, &dkey, &reads, Conditions::None).unwrap();
    assert_eq!(rig::bytes_of(store, &plan, 0)[0].1.as_deref(), Some(&value(n, len)[..]));
    let is_planned = matches!(plan.akeys[0].pieces[0].source, Source::Inline { .. });
    match quick {
        ValueRead::Absent => panic!("value {n} is absent"),
        ValueRead::Bulk => assert!(!is_planned && plan.pin.is_some()),
        ValueRead::Inline { ref checksums } => {
            assert!(is_planned && plan.pin.is_none(), "nothing is read, so nothing is pinned");
            assert_eq!(out, value(n, len));
            checksum::verify_chunks(&out, checksums).unwrap();
        }
    }
    let mut batch = Vec::new();
    store
        .fetch_values(container(0), Epoch::MAX, &[(0, OID, &dkey, &akey)], &mut |_, read, bytes| {
            batch.push((read, bytes.to_vec()));
        })
        .unwrap();
    assert_eq!(batch[0].0, quick);
    is_planned
}

/// Which lengths are staged, and that quota and blocks are counted as they are taken.
#[test]
fn values_from_the_threshold_on_are_staged_and_counted_as_bulk() {
    on_node(1, || {
        let mut store = store(QUOTA);
        let lens = [0, 1, STAGED_BYTES_MIN - 1, STAGED_BYTES_MIN, 3000, INLINE_BYTES_MAX];
        for (n, len) in (0..).zip(lens) {
            put(&mut store, n, 1 + n, len).unwrap();
            let is_staged = len >= STAGED_BYTES_MIN;
            assert_eq!(blocks(&mut store, n)[0].len(), usize::from(is_staged), "{len} bytes");
            assert!(is_in_memory(&mut store, n, len));
        }
        assert_eq!(store.pool_space(pool(0)).unwrap().bulk, 3 * BLOCK);
        assert_eq!(store.container_info(container(0)).unwrap().blocks, 3);
        assert_eq!(store.media().usage().stage.unwritten, 3);
        store.check().expect_clean();
        // Another version has a block of its own, and forgetting the older one gives that one's back.
        put(&mut store, 4, 9, 3000).unwrap();
        assert_eq!(store.container_info(container(0)).unwrap().blocks, 4);
        store.advance(container(0), Epoch(9)).unwrap();
        while store.maintain(4).unwrap() {}
        assert_eq!(store.pool_space(pool(0)).unwrap().bulk, 3 * BLOCK);
        assert_eq!(store.media().usage().stage.unwritten, 3, "what went is not written");
        store.check().expect_clean();
    });
}

/// From the stage, from the log, from the stage after a checkpoint, and from the device.
#[test]
fn a_staged_value_is_read_wherever_it_is() {
    on_node(1, || {
        let mut store = store(QUOTA);
        for n in 0..100 {
            put(&mut store, n, 1 + n, 2048 + n as usize * 20).unwrap();
        }
        store.media().flush_now().unwrap();
        drop(store);
        for _ in 0..2 {
            let (mut store, recovered, _) = rig::open(MEMORY_BYTES).unwrap();
            assert_eq!(recovered.records, 100);
            assert!((0..100).all(|n| is_in_memory(&mut store, n, 2048 + n as usize * 20)));
            store.check().expect_clean();
        }
        let (mut store, ..) = rig::open(MEMORY_BYTES).unwrap();
        store.media().checkpoint_blocking().unwrap();
        assert_eq!(store.media().usage().stage.unwritten, 0);
        assert!((0..100).all(|n| is_in_memory(&mut store, n, 2048 + n as usize * 20)));
        drop(store);
        let (mut store, ..) = rig::open(MEMORY_BYTES).unwrap();
        assert!((0..100).all(|n| !is_in_memory(&mut store, n, 2048 + n as usize * 20)));
        // Whoever has read one may leave it for the next.
        let (extent, pin) = (blocks(&mut store, 7)[0][0], store.media().pin());
        store.media().keep(extent, &value(7, 2048 + 140), &pin);
        assert!((0..100).all(|n| is_in_memory(&mut store, n, 2048 + n as usize * 20) == (n == 7)));
        store.check().expect_clean();
    });
}

/// Several akeys and extents at once, some long and some short; a part of a staged extent is read.
#[test]
fn an_update_of_many_payloads_stages_the_long_ones() {
    on_node(1, || {
        let mut store = store(QUOTA);
        let (dkey, lens) = (Key::from(1), [3000, 10, 4096, 2047, 2048]);
        let data: Vec<_> = (0..).zip(lens).map(|(n, len)| (n * 10_000, value(n, len))).collect();
        let checksums: Vec<_> = data.iter().map(|(_, bytes)| checksum::of_chunks(bytes)).collect();
        let extents: Vec<_> = data
            .iter()
            .zip(&checksums)
            .map(|((start, bytes), checksums)| {
                (Extent::new(*start, bytes.len() as u64), Payload::Inline { bytes, checksums })
            })
            .collect();
        let (akey, other) = (akey(), Key::literal("other"));
        let akeys = [
            AkeyWrite { akey: &akey, value: ValueWrite::Array { record_bytes: 1, extents: &extents } },
            AkeyWrite { akey: &other, value: ValueWrite::Single(extents[0].1) },
        ];
        let update = Update { group: 0, oid: OID, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
        store.update(container(0), Epoch(1), Origin::default(), &update).unwrap();
        assert_eq!(blocks(&mut store, 1).iter().filter(|blocks| !blocks.is_empty()).count(), 3);
        assert_eq!(store.container_info(container(0)).unwrap().blocks, 4);
        for checkpointed in [false, true] {
            let within = [Extent::new(20_100, 500)];
            let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&within) }];
            let plan = store.fetch(container(0), Epoch::MAX, 0, OID, &dkey, &reads, Conditions::None).unwrap();
            let pieces = rig::bytes_of(&store, &plan, 0);
            assert_eq!(pieces, [(within[0], Some(value(2, 4096)[100..600].to_vec()))]);
            store.check().expect_clean();
            if !checkpointed {
                store.media().checkpoint_blocking().unwrap();
            }
        }
    });
}

/// Quota, memory and blocks that are short send a value into the tree, and refuse nothing.
#[test]
fn without_room_a_value_goes_into_the_tree() {
    on_node(1, || {
        let mut store = store(QUOTA);
        put(&mut store, 0, 1, 3000).unwrap();
        // An update of one value is admitted with five pages; a block more does not fit.
        let used = store.pool_space(pool(0)).unwrap().used;
        store.set_quota(pool(0), used + 5 * media::PAGE_BYTES as u64, Origin::default()).unwrap();
        put(&mut store, 1, 2, 3000).unwrap();
        assert!(blocks(&mut store, 0)[0].len() == 1 && blocks(&mut store, 1)[0].is_empty());
        store.set_quota(pool(0), QUOTA, Origin::default()).unwrap();
        rt::sim::current().arm("media.stage", rt::fault::When::Chance(1.0));
        put(&mut store, 2, 3, 3000).unwrap();
        rt::sim::current().disarm("media.stage");
        assert!(blocks(&mut store, 2)[0].is_empty());
        // All of the stage: what comes more is inline, until a checkpoint.
        let mut inline = 0;
        for n in 3..1000 {
            match put(&mut store, n, 1 + n, 2500) {
                Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                    store.media().checkpoint_blocking().unwrap();
                    put(&mut store, n, 1 + n, 2500).unwrap();
                }
                done => done.unwrap(),
            }
            inline += usize::from(blocks(&mut store, n)[0].is_empty());
        }
        assert!(inline < 900, "{inline} of 1000 found no room");
        store.check().expect_clean();
        store.media().checkpoint_blocking().unwrap();
        drop(store);
        let (mut store, ..) = rig::open(MEMORY_BYTES).unwrap();
        for n in 0..1000 {
            is_in_memory(&mut store, n, if n < 3 { 3000 } else { 2500 });
        }
    });
}

/// What is prepared keeps its payloads to itself, and so does what it commits.
#[test]
fn a_transaction_stages_nothing() {
    on_node(1, || {
        let mut store = store(QUOTA);
        // A content that the rig leaves inline.
        let seed = (0..).find(|seed| !value(*seed, 3000)[0].is_multiple_of(4)).unwrap();
        let akeys = vec![(akey(), Write::Single(value(seed, 3000)))];
        let step = Step::Update { object: (0, OID), dkey: Key::from(seed), conditions: Conditions::None, akeys };
        rig::with_steps(&mut store, container(0), &[step], &[], &mut |store, ops| {
            rig::prepare(store, 1, container(0), 5, ops)
        })
        .unwrap();
        rig::commit(&mut store, 1).unwrap();
        assert_eq!(blocks(&mut store, seed), [vec![]]);
        assert!(is_in_memory(&mut store, seed, 3000));
        assert_eq!(store.media().usage().stage.blocks, 0);
    });
}

/// A block is the store's to choose.
#[test]
fn nobody_can_ask_for_a_staged_payload() {
    on_node(1, || {
        let mut store = store(QUOTA);
        let (dkey, akey, bytes) = (Key::from(1), akey(), [1; 3000]);
        let single = ValueWrite::Single(Payload::Staged { block: 7, bytes: &bytes, checksums: &[1] });
        let akeys = [AkeyWrite { akey: &akey, value: single }];
        let update = Update { group: 0, oid: OID, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
        let refused = store.update(container(0), Epoch(1), Origin::default(), &update);
        assert!(matches!(refused, Err(Error::Invalid(_))));
        let refused = rig::prepare(&mut store, 1, container(0), 1, &[vos::Op::Update(update)]);
        assert!(matches!(refused, Err(Error::Invalid(_))));
    });
}

fn scrub(store: &mut Store) -> (usize, u64) {
    let (mut scrub, mut found) = (Scrub::default(), 0);
    loop {
        match store.scrub(&mut scrub).unwrap() {
            Scrubbing::End => return (found, scrub.values),
            Scrubbing::Look => {}
            Scrubbing::Damaged(_) => found += 1,
            Scrubbing::Value(value) => {
                found += usize::from(value.verify_now(&store.media().clone()).unwrap().is_some());
            }
        }
    }
}

/// Before the checkpoint, a scrub reads the only copy there is, which is in memory. After it, the one on the
/// device, though memory has another: that is what a restart will find.
#[test]
fn a_scrub_reads_the_stage_and_then_the_device() {
    on_node(1, || {
        let mut store = store(QUOTA);
        (0..10).for_each(|n| put(&mut store, n, 1 + n, 3000).unwrap());
        assert_eq!(scrub(&mut store), (0, 10));
        assert_eq!(store.check_with(CheckOptions { data: true, findings_max: 10 }).verified, 10);
        store.media().checkpoint_blocking().unwrap();
        assert_eq!(scrub(&mut store), (0, 10));
        rig::flip("/data", &value(4, 3000));
        assert!(is_in_memory(&mut store, 4, 3000), "whoever reads has the one in memory");
        assert_eq!(scrub(&mut store), (1, 10));
        assert_eq!(store.check_with(CheckOptions { data: true, findings_max: 10 }).findings.len(), 1);
    });
}

/// An inspector replays the log in memory, and sees staged values whole, without a byte written.
#[test]
fn an_inspector_of_an_unclean_store_reads_staged_values() {
    on_node(1, || {
        let mut store = store(QUOTA);
        (0..10).for_each(|n| put(&mut store, n, 1 + n, 4096).unwrap());
        store.media().flush_now().unwrap();
        drop(store);
        let open = |path| media::Region::whole(rt::disk::Disk::open_read_only(path).unwrap()).unwrap();
        let regions = media::Regions { log: open("/log"), metadata: None, data: open("/data") };
        let (media, recovery, damaged) = media::Store::open_damaged(regions, 1 << 20).unwrap();
        assert!(damaged.is_empty());
        let mut opened = Store::inspect(media, recovery).unwrap();
        let report = opened.store.check_with(CheckOptions { data: true, findings_max: 10 });
        report.expect_clean();
        assert_eq!(report.verified, 10);
        let object = ListedObject { group: 0, oid: OID };
        let branch = Branch { object: Some(object), dkey: Some(Key::from(3)), akey: Some(akey()) };
        let record = opened.store.stored_records(container(0), &branch, None, 1).unwrap().entries.remove(0);
        let (bytes, verified) = opened.store.stored_bytes(container(0), &record.key).unwrap().unwrap();
        assert!(verified.is_ok() && bytes == value(3, 4096));
    });
}

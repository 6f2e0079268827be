//! Scrubbing finds what is damaged before anybody reads it, and a copy of the bytes mends it.

mod rig;

use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{AkeyRead, Damage, Error, Origin, ReadWhat, Scrub, Scrubbing, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };

fn store() -> Store {
    let mut store = rig::format(1 << 20, 16 << 20, 4 << 20);
    store.create_pool(pool(0), 8 << 20, Origin::default()).unwrap();
    for n in 0..2 {
        store.create_container(pool(0), container(n), Origin::default()).unwrap();
    }
    store
}

fn put(store: &mut Store, n: u8, epoch: u64, dkey: u64, write: Write) {
    let (origin, object) = (Origin::default(), (0, OID));
    let akeys = [(Key::literal("v"), write)];
    rig::update(store, container(n), Epoch(epoch), origin, object, &Key::from(dkey), Conditions::None, &akeys).unwrap();
}

/// Values of both kinds, inline and in bulk, in two containers, some in two versions.
fn fill(store: &mut Store) -> u64 {
    let mut values = 0;
    for n in 0..2 {
        for dkey in 0..40 {
            let len = [10, 200, 5000, 70_000][dkey as usize % 4];
            let seed = u64::from(n) * 1000 + dkey;
            put(store, n, 1 + dkey, dkey, Write::Single(rig::content(seed, len)));
            let extent = Extent::new(dkey, len as u64 / 2);
            put(store, n, 100 + dkey, dkey, Write::Array(2, vec![(extent, rig::content(seed + 500, len))]));
            values += 2;
        }
        put(store, n, 200, 2, Write::Single(rig::content(7, 9)));
        values += 1;
    }
    values
}

/// A whole scrub: what was found, and how many values were looked at.
fn scrub(store: &mut Store) -> (Vec<Damage>, u64) {
    let (mut scrub, mut found) = (Scrub::default(), Vec::new());
    loop {
        match store.scrub(&mut scrub).unwrap() {
            Scrubbing::End => return (found, scrub.values),
            Scrubbing::Look => {}
            Scrubbing::Damaged(damage) => found.push(damage),
            Scrubbing::Value(value) => found.extend(value.verify_now(&store.media().clone()).unwrap()),
        }
    }
}

fn single(store: &mut Store, dkey: u64) -> Vec<u8> {
    let akey = Key::literal("v");
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
    let plan = store.fetch(container(1), Epoch::MAX, 0, OID, &Key::from(dkey), &reads, Conditions::None).unwrap();
    rig::bytes_of(store, &plan, 0).remove(0).1.unwrap()
}

#[test]
fn a_whole_store_passes_and_every_value_is_read() {
    on_node(1, || {
        let mut store = store();
        assert_eq!(scrub(&mut store), (vec![], 0));
        let values = fill(&mut store);
        assert_eq!(scrub(&mut store), (vec![], values));
    });
}

#[test]
fn a_flipped_bit_is_found_named_and_mended_with_the_right_bytes_only() {
    on_node(1, || {
        let mut store = store();
        fill(&mut store);
        // A single value of 70,000 bytes, in its third chunk; and an array extent.
        let (value, array) = (rig::content(1007, 70_000), rig::content(1507, 70_000));
        rig::flip("/data", &value[66_000..66_064]);
        rig::flip("/data", &array[100..164]);
        let (found, _) = scrub(&mut store);
        assert_eq!(found.len(), 2);
        for damage in &found {
            assert_eq!(damage.container, container(1));
            assert!(damage.place.contains('7') && damage.fault.contains("checksum"), "{damage:?}");
            assert!(store.is_damaged(damage).unwrap());
        }
        let damage = |single: bool| found.iter().find(|d| d.place.contains("single") == single).unwrap();
        for (damage, bytes) in [(damage(true), &value), (damage(false), &array)] {
            let mut wrong = bytes.clone();
            wrong[3] ^= 1;
            assert!(matches!(store.plan_mend(damage, &wrong), Err(Error::Corrupt { .. })));
            assert!(matches!(store.plan_mend(damage, &bytes[1..]), Err(Error::Invalid(_))));
            let mend = store.plan_mend(damage, bytes).unwrap();
            mend.write_now(&store.media().clone()).unwrap();
            assert!(store.mend(&mend).unwrap().is_some());
            assert!(!store.is_damaged(damage).unwrap());
            assert_eq!(store.mend(&mend), Ok(None), "done already");
        }
        assert!(single(&mut store, 7) == value);
        assert_eq!(scrub(&mut store).0, vec![]);
        store.check().expect_clean();
        // From the log, too.
        store.media().flush_now().unwrap();
        drop(store);
        let (mut store, _, _) = rig::open(4 << 20).unwrap();
        store.check().expect_clean();
        assert!(single(&mut store, 7) == value);
        assert_eq!(scrub(&mut store).0, vec![]);
    });
}

/// A value that went between being found and being mended is not brought back.
#[test]
fn what_was_removed_meanwhile_is_not_mended() {
    on_node(1, || {
        let mut store = store();
        fill(&mut store);
        let value = rig::content(1007, 70_000);
        rig::flip("/data", &value[..64]);
        let (found, _) = scrub(&mut store);
        let mend = store.plan_mend(&found[0], &value).unwrap();
        mend.write_now(&store.media().clone()).unwrap();
        put(&mut store, 1, 300, 7, Write::Single(vec![1]));
        store.advance(container(1), Epoch(300)).unwrap();
        while store.maintain(4).unwrap() {}
        assert_eq!(store.mend(&mend), Ok(None));
        drop(mend);
        assert_eq!(single(&mut store, 7), [1]);
        store.check().expect_clean();
    });
}

/// A page that is damaged on the device, and whole in memory, gets a new place by the next checkpoint.
#[test]
fn a_damaged_page_that_is_in_memory_is_written_anew() {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
    let node = sim.node("target");
    sim.run(async move {
        let body = async move {
            let mut store = store();
            fill(&mut store);
            store.media().checkpoint_blocking().unwrap();
            let media = store.media().clone();
            let clean = media.scrub_pages(media::PageId(0), 1000).await.unwrap();
            assert!(clean.pages > 3 && clean.damaged.is_empty() && clean.next.is_none(), "{clean:?}");
            // In parts, it is the same.
            let (mut pages, mut from) = (0, Some(media::PageId(0)));
            while let Some(at) = from {
                let part = media.scrub_pages(at, 2).await.unwrap();
                (pages, from) = (pages + part.pages, part.next);
            }
            assert_eq!(pages, clean.pages);
            // A leaf holds this value, near its key.
            rig::flip("/data", &rig::content(1, 200));
            let found = media.scrub_pages(media::PageId(0), 1000).await.unwrap();
            let [(error, is_mended)] = &found.damaged[..] else { panic!("{found:?}") };
            assert!(matches!(error, media::Error::Corrupt(_)) && *is_mended, "{error}");
            store.media().checkpoint_blocking().unwrap();
            let again = media.scrub_pages(media::PageId(0), 1000).await.unwrap();
            assert!(again.damaged.is_empty(), "{again:?}");
            drop((store, media));
            let (store, _, _) = rig::open(4 << 20).unwrap();
            store.check().expect_clean();
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
}

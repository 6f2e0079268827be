//! Pools, quotas, and the room that deleting makes.

mod rig;

use rig::{container, on_node, pool};
use types::{Conditions, ContainerId, Epoch, Key, ObjectId, PoolId};
use vos::model::Write;
use vos::{Error, ListPart, Origin, Punch, PunchScope, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const QUOTA: u64 = 2 << 20;

fn store(quota: u64) -> Store {
    let mut store = rig::format(1 << 20, 16 << 20, 4 << 20);
    store.create_pool(pool(0), quota, Origin::default()).unwrap();
    store.create_container(pool(0), container(0), Origin::default()).unwrap();
    store
}

fn put(store: &mut Store, n: u64, epoch: u64, len: usize) -> Result<(), Error> {
    let akeys = [(Key::literal("v"), Write::Single(rig::content(n, len)))];
    let origin = Origin::default();
    rig::update(store, container(0), Epoch(epoch), origin, (0, OID), &Key::from(n), Conditions::None, &akeys).map(drop)
}

fn punch_object(store: &mut Store, epoch: u64) {
    let punch = Punch { group: 0, oid: OID, scope: PunchScope::Object, conditions: Conditions::None };
    store.punch(container(0), Epoch(epoch), Origin::default(), &punch).unwrap();
}

fn used(store: &Store) -> u64 {
    store.pool_space(pool(0)).unwrap().used
}

/// Fills the pool with values of `len` bytes until it says no; returns how many went in.
fn fill(store: &mut Store, epoch: u64, len: usize) -> u64 {
    for n in 0.. {
        match put(store, n, epoch, len) {
            Ok(()) => {}
            Err(Error::NoSpace { pool: named, used, quota, wanted, .. }) => {
                assert_eq!((named, quota), (pool(0), QUOTA));
                assert!(used <= quota && used + wanted > quota);
                return n;
            }
            Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                store.media().checkpoint_blocking().unwrap();
                put(store, n, epoch, len).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

/// Forgets all before `horizon`, and gives its space back.
fn forget(store: &mut Store, horizon: u64) {
    store.advance(container(0), Epoch(horizon)).unwrap();
    while store.maintain(4).unwrap() {}
}

/// A full pool names itself and its space, loses nothing, and deleting makes room at once.
#[test]
fn a_full_pool_refuses_and_deleting_makes_room() {
    for len in [100, 290, 5000, 40_000] {
        on_node(1, move || {
            let mut store = store(QUOTA);
            let count = fill(&mut store, 1, len);
            assert!(count * len as u64 > QUOTA / 3, "{count} values of {len} fit");
            assert!(used(&store) <= QUOTA && used(&store) > QUOTA * 8 / 10);
            let listed = (0..count).step_by(7).all(|n| {
                store
                    .list_akeys(container(0), Epoch(9), 0, OID, &Key::from(n), ListPart::forward(None, 9))
                    .unwrap()
                    .entries
                    .len()
                    == 1
            });
            assert!(listed, "everything acknowledged stays readable");
            punch_object(&mut store, 2);
            forget(&mut store, 2);
            store.check().expect_clean();
            assert!(used(&store) < 64 << 10, "{} bytes are left of a punched object", used(&store));
            assert!(fill(&mut store, 3, len) * 10 >= count * 9, "the room can be used again");
            store.check().expect_clean();
        });
    }
}

#[test]
fn a_snapshot_keeps_what_a_punch_hides_until_it_goes() {
    on_node(1, || {
        let mut store = store(QUOTA);
        for n in 0..200 {
            put(&mut store, n, 1, 1000).unwrap();
        }
        store.set_snapshots(container(0), &[Epoch(5)], Origin::default()).unwrap();
        for n in 0..200 {
            put(&mut store, n, 6, 1000).unwrap();
        }
        let full = used(&store);
        punch_object(&mut store, 7);
        forget(&mut store, 7);
        let half = used(&store);
        assert!(half < full * 2 / 3, "what no snapshot sees is gone: {full} -> {half}");
        let mut out = Vec::new();
        for n in 0..200 {
            let plan =
                store.list_akeys(container(0), Epoch(5), 0, OID, &Key::from(n), ListPart::forward(None, 9)).unwrap();
            assert_eq!(plan.entries.len(), 1, "the snapshot still has value {n}");
            store.fetch_value(container(0), Epoch(7), 0, OID, &Key::from(n), &Key::literal("v"), &mut out).unwrap();
            assert!(out.is_empty());
        }
        store.set_snapshots(container(0), &[], Origin::default()).unwrap();
        while store.maintain(1).unwrap() {}
        assert!(used(&store) < 64 << 10);
        store.check().expect_clean();
    });
}

#[test]
fn a_destroyed_container_gives_everything_back() {
    on_node(1, || {
        let mut store = store(QUOTA);
        let empty = used(&store);
        for n in 0..100 {
            put(&mut store, n, 1, 1000).unwrap();
            put(&mut store, n, 2, 20).unwrap();
        }
        store.destroy_container(container(0), Origin::default()).unwrap();
        assert_eq!(put(&mut store, 1, 3, 1), Err(Error::NoContainer(container(0))));
        // The name is free at once, while the old one is still being taken apart.
        store.create_container(pool(0), container(0), Origin::default()).unwrap();
        put(&mut store, 1, 1, 1000).unwrap();
        store.check().expect_clean();
        while store.maintain(1).unwrap() {
            store.check().expect_clean();
        }
        store.destroy_container(container(0), Origin::default()).unwrap();
        while store.maintain(1).unwrap() {}
        assert_eq!(used(&store) + empty, empty);
        store.check().expect_clean();
    });
}

#[test]
fn a_destroyed_pool_takes_its_containers_along() {
    on_node(1, || {
        let mut store = store(QUOTA);
        for n in 0..50 {
            put(&mut store, n, 1, 1000).unwrap();
        }
        store.destroy_pool(pool(0), Origin::default()).unwrap();
        assert_eq!(store.pool_space(pool(0)), Err(Error::NoPool(pool(0))));
        assert_eq!((store.pools(), store.containers(pool(0))), (Vec::<PoolId>::new(), vec![]));
        store.create_pool(pool(0), QUOTA, Origin::default()).unwrap();
        assert_eq!(used(&store), 0, "the new pool does not pay for the old one");
        store.media().checkpoint_blocking().unwrap();
        while store.maintain(1).unwrap() {}
        let report = store.check();
        report.expect_clean();
        assert!(report.pages <= 3, "only the catalog is left: {} pages", report.pages);
    });
}

/// Reservations count against the quota while they are held, and a refused update gives them back.
/// The heads of all its containers were written in one operation: a pool of two thousand containers could not be destroyed
/// with little page memory, and stopped the store.
#[test]
fn a_pool_of_many_containers_is_destroyed_in_steps() {
    on_node(9, || {
        let mut store = rig::format(1 << 20, 64 << 20, 4 << 20);
        store.create_pool(pool(0), 48 << 20, Origin::default()).unwrap();
        for n in 0..2500u128 {
            let container = ContainerId::from_bytes(n.to_be_bytes());
            while let Err(error) = store.create_container(pool(0), container, Origin::default()) {
                assert!(
                    matches!(error, Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })),
                    "{error}"
                );
                store.media().checkpoint_blocking().unwrap();
            }
        }
        while let Err(error) = store.destroy_pool(pool(0), Origin::default()) {
            assert!(matches!(error, Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })), "{error}");
            store.media().checkpoint_blocking().unwrap();
            store.check().expect_clean();
        }
        assert!(store.pools().is_empty() && store.containers(pool(0)).is_empty());
        store.media().checkpoint_blocking().unwrap();
        store.check().expect_clean();
    });
}

#[test]
fn a_reservation_is_given_back_when_it_is_not_used() {
    on_node(1, || {
        let mut store = store(QUOTA);
        let before = used(&store);
        let reservation = store.reserve_bulk(container(0), 1 << 20).unwrap();
        assert_eq!(used(&store), before + (1 << 20));
        assert!(matches!(store.reserve_bulk(container(0), 1 << 20), Err(Error::NoSpace { .. })));
        drop(reservation);
        assert_eq!(used(&store), before);
        put(&mut store, 1, 1, 9000).unwrap();
        let held = used(&store);
        let akeys = [(Key::literal("v"), Write::Single(vec![1; 9000]))];
        let refused = rig::update(
            &mut store,
            container(0),
            Epoch(2),
            Origin::default(),
            (0, OID),
            &Key::from(1),
            Conditions::AkeyInsert,
            &akeys,
        );
        assert_eq!(refused, Err(Error::Exists));
        assert_eq!(used(&store), held);
        store.check().expect_clean();
    });
}

#[test]
fn pools_and_containers_have_one_name_each() {
    on_node(1, || {
        let mut store = store(QUOTA);
        let origin = Origin::default();
        assert_eq!(store.create_pool(pool(0), 1, origin), Err(Error::PoolExists(pool(0))));
        assert_eq!(store.create_container(pool(1), container(3), origin), Err(Error::NoPool(pool(1))));
        let exists = store.create_container(pool(0), container(0), origin);
        assert_eq!(exists, Err(Error::ContainerExists(container(0))));
        assert_eq!(store.destroy_container(container(3), origin), Err(Error::NoContainer(container(3))));
        store.set_quota(pool(0), 3 << 20, origin).unwrap();
        assert_eq!(store.pool_space(pool(0)).unwrap().quota, 3 << 20);
    });
}

//! Lists: answers that are exactly full, and anchors in a tree that changes meanwhile.

use types::{Epoch, Extent, Key};
use vos::model::Write;
use vos::{ListedObject, PunchScope};

use super::{OID, akey, dkey, forget, id, list, punch, store, write, write_all};
use crate::rig::on_node;

/// An answer with room for exactly what is there used to lose the last entry, or to promise one more.
#[test]
fn a_list_that_is_exactly_full_loses_and_promises_nothing() {
    on_node(1, || {
        let mut store = store();
        let keys: Vec<Key> = (0..6).map(Key::from).collect();
        for (n, key) in (0..).zip(&keys) {
            write(&mut store, 1, key, b"value");
            let akeys = [(key.clone(), Write::Array(1, vec![(Extent::new(10 * n, 3), vec![7; 3])]))];
            write_all(&mut store, 2, &dkey(), &akeys).unwrap();
            let extents = [(Extent::new(10 * n, 3), vec![n as u8; 3])];
            write_all(&mut store, 3 + n, &Key::from(99), &[(akey(), Write::Array(1, extents.to_vec()))]).unwrap();
        }
        let whole = Extent::new(0, 1 << 40);
        for limit in 1..=8 {
            assert_eq!(list(&mut store, 99, limit, |_, _| ()).len(), 8, "dkeys, {limit} at once");
            let akeys =
                store.list_akeys(id(), Epoch(99), 0, OID, &dkey(), vos::ListPart::forward(None, limit)).unwrap();
            assert_eq!(akeys.entries.iter().map(|entry| entry.akey.clone()).collect::<Vec<_>>(), keys[..limit.min(6)]);
            assert!(akeys.next.is_some() || limit >= 6, "akeys, {limit} at once");
            let rest = store
                .list_akeys(id(), Epoch(99), 0, OID, &dkey(), vos::ListPart::forward(keys.get(limit - 1), 9))
                .unwrap();
            let expected = if limit <= 6 { 6 - limit } else { 6 };
            assert_eq!(rest.entries.len(), expected, "after {limit}");
            let runs = store
                .list_extents(id(), Epoch(99), 0, OID, &Key::from(99), &akey(), whole, limit, vos::Direction::Forward)
                .unwrap();
            assert_eq!(runs.entries.len(), limit.min(6));
            assert!(runs.next.is_some() || limit >= 6, "extents, {limit} at once");
        }
        // Beyond what there is, no more is promised.
        let objects = store.list_objects(id(), Epoch(99), vos::ListPart::forward(None, 2)).unwrap();
        assert_eq!((objects.entries.len(), objects.next), (1, None));
        let last = ListedObject { group: 0, oid: OID };
        assert!(
            store.list_objects(id(), Epoch(99), vos::ListPart::forward(Some(&last), 1)).unwrap().entries.is_empty()
        );
        let beyond = store.list_dkeys(id(), Epoch(99), 0, OID, vos::ListPart::forward(Some(&dkey()), 1)).unwrap();
        assert_eq!((beyond.entries.len(), beyond.next), (0, None));
    });
}

/// The record under the cursor was removed between two parts of a list. An anchor here is a key, not a place in
/// a tree: it need not exist any more.
#[test]
fn a_list_goes_on_where_its_last_entry_was_removed() {
    on_node(2, || {
        let mut store = store();
        let keys: Vec<Key> = (0..40).map(Key::from).collect();
        keys.iter().for_each(|key| write(&mut store, 1, key, &[5; 200]));
        let mut epoch = 10;
        let listed = list(&mut store, u64::MAX, 1, |store, last| {
            epoch += 1;
            punch(store, epoch, PunchScope::Dkey(last)).unwrap();
            forget(store, epoch);
        });
        assert_eq!(listed, keys);
        assert_eq!(store.check().values, 1, "all but the last went while they were listed");
        store.check().expect_clean();
    });
}

/// Between two parts of a list the tree grows by a level, and shrinks to its root again.
#[test]
fn an_anchor_outlives_the_growth_and_the_shrinking_of_the_tree() {
    on_node(3, || {
        let mut store = store();
        let keys: Vec<Key> = (0..20).map(|n| Key::from(n * 1000)).collect();
        keys.iter().for_each(|key| write(&mut store, 1, key, &[5; 50]));
        let pages = |store: &vos::Store| store.container_info(id()).unwrap().pages;
        let (mut round, mut most) = (0, 0);
        let listed = list(&mut store, u64::MAX, 3, |store, _| {
            round += 1;
            let epoch = 10 * round;
            // At both sides of the anchor, and gone again before the next part.
            let filler = || (0..2000u64).map(|n| Key::from(n * 10 + 1));
            filler().for_each(|key| write(store, epoch, &key, &[6; 100]));
            most = most.max(pages(store));
            for key in filler() {
                punch(store, epoch + 1, PunchScope::Dkey(&key))
                    .or_else(|_| {
                        store.media().checkpoint_blocking().unwrap();
                        punch(store, epoch + 1, PunchScope::Dkey(&key))
                    })
                    .unwrap();
            }
            forget(store, epoch + 1);
        });
        assert_eq!(listed, keys);
        assert!(most > 20 && pages(&store) < most / 4, "{most} pages, then {}", pages(&store));
        store.check().expect_clean();
    });
}

//! Lists, part by part: bounded whatever is hidden, from either end, and steady while things come and go.

mod rig;

use rig::{container, on_node, pool};
use types::{Conditions, Epoch, Extent, Key, ObjectId};
use vos::model::Write;
use vos::{Direction, ListPart, ListedExtent, ListedObject, Origin, Punch, PunchScope, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };

fn store() -> Store {
    let mut store = rig::format(16 << 20, 64 << 20, 16 << 20);
    store.create_pool(pool(0), 48 << 20, Origin::default()).unwrap();
    store.create_container(pool(0), container(0), Origin::default()).unwrap();
    store
}

fn put(store: &mut Store, epoch: u64, dkey: u64, write: Write) {
    let akeys = [(Key::literal("a"), write)];
    let (origin, object) = (Origin::default(), (0, OID));
    rig::update(store, container(0), Epoch(epoch), origin, object, &Key::from(dkey), Conditions::None, &akeys).unwrap();
}

fn punch(store: &mut Store, epoch: u64, dkey: u64) {
    let scope = PunchScope::Dkey(&Key::from(dkey));
    let punch = Punch { group: 0, oid: OID, scope, conditions: Conditions::None };
    store.punch(container(0), Epoch(epoch), Origin::default(), &punch).unwrap();
}

fn dkeys(store: &mut Store, part: ListPart<'_, Key>) -> (Vec<Key>, Option<Key>) {
    let listed = store.list_dkeys(container(0), Epoch::MAX, 0, OID, part).unwrap();
    (listed.entries, listed.next)
}

/// One key can be seen behind twenty thousand that were punched: no call looks at all of them, and the answer
/// that found nothing says where to go on.
#[test]
fn a_list_looks_at_a_bounded_number_of_hidden_keys() {
    for direction in [Direction::Forward, Direction::Backward] {
        on_node(1, move || {
            let mut store = store();
            let seen = if direction == Direction::Forward { 20_000 } else { 0 };
            for dkey in 0..=20_000 {
                put(&mut store, 1, dkey, Write::Single(vec![1]));
                if dkey != seen {
                    punch(&mut store, 2, dkey);
                }
                if store.pressure() {
                    store.media().checkpoint_blocking().unwrap();
                }
            }
            let (found, next) = dkeys(&mut store, ListPart { after: None, limit: 10, direction });
            assert!(found.is_empty() && next.is_some());
            let (found, next) = dkeys(&mut store, ListPart { after: next.as_ref(), limit: 10, direction });
            assert_eq!((found, next), (vec![Key::from(seen)], None));
        });
    }
}

/// Between two parts keys come and go, even the one where the list goes on: what stays is met once.
#[test]
fn a_list_goes_on_at_a_key_that_is_gone() {
    for direction in [Direction::Forward, Direction::Backward] {
        on_node(1, move || {
            let mut store = store();
            for dkey in 0..100 {
                put(&mut store, 1, dkey * 10, Write::Single(vec![1]));
            }
            let (mut all, mut next, mut epoch) = (Vec::new(), None, 2);
            loop {
                let part = ListPart { after: next.as_ref(), limit: 7, direction };
                let (found, go_on) = dkeys(&mut store, part);
                all.extend(found);
                let Some(Key::Integer(at)) = go_on else { break };
                // The place itself goes, for good; others come right before and behind it.
                punch(&mut store, epoch, at);
                store.advance(container(0), Epoch(epoch)).unwrap();
                while store.maintain(8).unwrap() {}
                put(&mut store, epoch + 1, at + 1, Write::Single(vec![2]));
                put(&mut store, epoch + 1, at.saturating_sub(1), Write::Single(vec![2]));
                epoch += 2;
                next = go_on;
            }
            if direction == Direction::Backward {
                all.reverse();
            }
            assert!(all.is_sorted() && all.windows(2).all(|pair| pair[0] != pair[1]), "each once, in order");
            let old = all.iter().filter(|key| matches!(key, Key::Integer(n) if n % 10 == 0)).count();
            assert_eq!(old, 100, "what was there from the beginning is met");
        });
    }
}

#[test]
fn objects_are_listed_from_either_end_without_a_snapshot() {
    on_node(1, || {
        let mut store = store();
        for lo in 0..50 {
            let akeys = [(Key::literal("a"), Write::Single(vec![1]))];
            let object = ((lo % 3) as u32, ObjectId { hi: 9, lo });
            let (origin, dkey) = (Origin::default(), Key::from(0));
            rig::update(&mut store, container(0), Epoch(1), origin, object, &dkey, Conditions::None, &akeys).unwrap();
        }
        let mut from = |direction| {
            let (mut all, mut after): (Vec<ListedObject>, Option<ListedObject>) = (Vec::new(), None);
            loop {
                let part = ListPart { after: after.as_ref(), limit: 4, direction };
                let listed = store.list_objects(container(0), Epoch::MAX, part).unwrap();
                all.extend(listed.entries);
                match listed.next {
                    None => return all,
                    next => after = next,
                }
            }
        };
        let (all, mut back) = (from(Direction::Forward), from(Direction::Backward));
        back.reverse();
        assert_eq!(all, back);
        assert!(all.len() == 50 && all.is_sorted());
    });
}

/// Dense and sparse parts, one extent that is longer than any window, and a far away end.
#[test]
fn extents_are_listed_from_the_end_however_they_lie() {
    on_node(1, || {
        let mut store = store();
        let mut expected = Vec::new();
        let mut write = |store: &mut Store, start: u64, count: u64| {
            put(
                store,
                1 + expected.len() as u64,
                0,
                Write::Array(1, vec![(Extent::new(start, count), vec![7; count as usize])]),
            );
            expected.push(Extent::new(start, count));
        };
        for n in 0..3000 {
            write(&mut store, n * 2, 1);
        }
        write(&mut store, 10_000, 100_000);
        for n in 0..50 {
            write(&mut store, (1 << 40) + n * n * 1000, 3);
        }
        for limit in [1, 7, 4096] {
            let (mut found, mut left): (Vec<ListedExtent>, _) = (Vec::new(), Some(Extent::new(0, 1 << 61)));
            while let Some(within) = left {
                let (dkey, akey) = (Key::from(0), Key::literal("a"));
                let part = store
                    .list_extents(container(0), Epoch::MAX, 0, OID, &dkey, &akey, within, limit, Direction::Backward)
                    .unwrap();
                assert!(part.entries.len() <= limit);
                found.extend(part.entries);
                left = part.next;
            }
            found.reverse();
            let found: Vec<Extent> = found.into_iter().map(|run| run.extent).collect();
            assert!(found == expected, "with {limit} at once: {} of {}", found.len(), expected.len());
        }
    });
}

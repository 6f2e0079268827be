//! Who exists when: punches and creations at one epoch, out of order, and undecided.

use types::{Conditions, Epoch};
use vos::model::{Scope, Step, Write};
use vos::{AkeyWrite, ChangeState, Error, Origin, Party, Payload, PunchScope, Store, Update, ValueWrite};

use super::{OID, abort, akey, commit, dkey, forget, id, prepare, punch, read, reopen, store, write};
use crate::rig::{self, on_node};

fn create(bytes: &[u8]) -> Step {
    let akeys = vec![(akey(), Write::Single(bytes.to_vec()))];
    Step::Update { object: (0, OID), dkey: dkey(), conditions: Conditions::None, akeys }
}

fn hide(scope: Scope) -> Step {
    Step::Punch { object: (0, OID), scope, conditions: Conditions::None }
}

fn scopes() -> [Scope; 3] {
    [Scope::Object, Scope::Dkey(dkey()), Scope::Akeys(dkey(), vec![akey()])]
}

/// Parent and child change at the same epoch of one transaction: only the order of its steps tells which came
/// first. Asked again after aggregation and after a restart.
#[test]
fn a_transaction_may_punch_and_create_in_either_order() {
    for (case, scope) in scopes().into_iter().enumerate() {
        on_node(case as u64, move || {
            let both = || [hide(scope.clone()), create(b"new")];
            let orders: [(Vec<Step>, Option<&[u8]>); 4] = [
                (both().to_vec(), Some(b"new")),
                (both().into_iter().rev().collect(), None),
                (vec![create(b"a"), hide(scope.clone()), create(b"b")], Some(b"b")),
                (vec![hide(scope.clone()), create(b"a"), hide(scope.clone())], None),
            ];
            let mut store = store();
            for (n, (steps, expected)) in (1..).zip(orders) {
                let epoch = 10 * n;
                write(&mut store, epoch - 1, &dkey(), b"old");
                prepare(&mut store, n, epoch, &steps).unwrap();
                assert_eq!(read(&mut store, epoch, &dkey()).as_deref(), Some(&b"old"[..]));
                commit(&mut store, n).unwrap();
                for round in 0..3 {
                    let what = format!("{scope:?}, order {n}, round {round}");
                    assert_eq!(read(&mut store, epoch, &dkey()).as_deref(), expected, "{what}");
                    let objects =
                        store.list_objects(id(), Epoch(epoch), vos::ListPart::forward(None, 9)).unwrap().entries;
                    assert_eq!(objects.len(), usize::from(expected.is_some()), "{what}");
                    if round == 0 {
                        forget(&mut store, epoch);
                    } else {
                        store = reopen(store);
                    }
                }
            }
            store.check().expect_clean();
        });
    }
}

/// A punch below a creation must not hide it, whichever comes first; and what came before it stays hidden.
#[test]
fn a_punch_that_comes_late_hides_only_what_is_older() {
    for scope in scopes() {
        on_node(1, move || {
            let mut store = store();
            let (dkey, akeys) = (dkey(), [akey()]);
            write(&mut store, 3, &dkey, b"early");
            write(&mut store, 10, &dkey, b"late");
            let scope = match &scope {
                Scope::Object => PunchScope::Object,
                Scope::Dkey(_) => PunchScope::Dkey(&dkey),
                _ => PunchScope::Akeys(&dkey, &akeys),
            };
            punch(&mut store, 5, scope).unwrap();
            for (at, expected) in
                [(4, Some(&b"early"[..])), (5, None), (9, None), (10, Some(b"late")), (99, Some(b"late"))]
            {
                assert_eq!(read(&mut store, at, &dkey).as_deref(), expected, "{scope:?} @{at}");
            }
            forget(&mut store, 9);
            assert_eq!(read(&mut store, 9, &dkey), None);
            assert_eq!(read(&mut store, 10, &dkey).as_deref(), Some(&b"late"[..]));
            store.check().expect_clean();
        });
    }
}

/// Aggregation removed a key whose only visible future was a creation that nobody had decided yet.
#[test]
fn aggregation_leaves_the_key_of_an_undecided_creation_alone() {
    for decided in [true, false] {
        on_node(2, move || {
            let mut store = store();
            write(&mut store, 1, &dkey(), &[1; 2000]);
            punch(&mut store, 2, PunchScope::Dkey(&dkey())).unwrap();
            prepare(&mut store, 1, 10, &[create(b"coming")]).unwrap();
            forget(&mut store, 50);
            assert_eq!(store.container_info(id()).unwrap().horizon, Epoch(9), "below what is undecided");
            assert_eq!(store.check().values, 0, "what is hidden for ever went all the same");
            let mut store = reopen(store);
            if decided {
                commit(&mut store, 1).unwrap();
            } else {
                abort(&mut store, 1).unwrap();
            }
            forget(&mut store, 50);
            assert_eq!(read(&mut store, 50, &dkey()).as_deref(), decided.then_some(&b"coming"[..]));
            let punches: u64 = store.check().containers.iter().map(|count| count.punches[1]).sum();
            assert_eq!(punches, 0, "the punch hides nothing any more");
        });
    }
}

/// A conditional write between a punch and a creation that both wait: the one below it decides.
#[test]
fn a_condition_between_two_undecided_events_waits_for_the_lower() {
    on_node(3, || {
        let mut store = store();
        write(&mut store, 5, &dkey(), b"old");
        prepare(&mut store, 1, 10, &[hide(Scope::Dkey(dkey()))]).unwrap();
        prepare(&mut store, 2, 20, &[create(b"new")]).unwrap();
        let insert = |store: &mut Store, epoch| {
            let (dkey, akey) = (dkey(), akey());
            let checksums = codec::checksum::of_chunks(b"x");
            let value = ValueWrite::Single(Payload::Inline { bytes: b"x", checksums: &checksums });
            let akeys = [AkeyWrite { akey: &akey, value }];
            let update = Update { group: 0, oid: OID, dkey: &dkey, conditions: Conditions::DkeyInsert, akeys: &akeys };
            let party = Party::certain(rig::tx(100 + epoch), Epoch(epoch));
            store.update_in(&party, id(), Origin::default(), &update).map(drop)
        };
        assert_eq!(insert(&mut store, 15), Err(Error::InProgress { change: rig::change(1) }));
        assert_eq!(insert(&mut store, 9), Err(Error::Exists), "below both nothing is open");
        commit(&mut store, 1).unwrap();
        assert_eq!(insert(&mut store, 25), Err(Error::InProgress { change: rig::change(2) }));
        commit(&mut store, 2).unwrap();
        assert_eq!(insert(&mut store, 25), Err(Error::Exists));
        assert!(matches!(insert(&mut store, 15), Err(Error::Restart { above }) if above >= Epoch(25)), "25 was told");
    });
}

/// A leader that was replaced aborts what the new one has run again: it names the run, and that one is decided.
#[test]
fn an_abort_that_arrives_late_finds_its_transaction_committed() {
    on_node(4, || {
        let mut store = store();
        prepare(&mut store, 1, 10, &[create(b"first run")]).unwrap();
        abort(&mut store, 1).unwrap();
        prepare(&mut store, 2, 11, &[create(b"second run")]).unwrap();
        abort(&mut store, 1).unwrap();
        assert_eq!(store.resolve(rig::pool(0), rig::change(2)).unwrap(), ChangeState::Prepared { epoch: Epoch(11) });
        commit(&mut store, 2).unwrap();
        let state = ChangeState::Committed { epoch: Epoch(11) };
        assert_eq!(abort(&mut store, 2), Err(Error::ChangeState { change: rig::change(2), state }));
        let mut store = reopen(store);
        assert_eq!(abort(&mut store, 2), Err(Error::ChangeState { change: rig::change(2), state }));
        assert_eq!(read(&mut store, 11, &dkey()).as_deref(), Some(&b"second run"[..]));
        store.check().expect_clean();
    });
}

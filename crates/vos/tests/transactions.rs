//! Transactions on one target: what prepare keeps, what commit and abort do, and what it costs whom.

mod rig;

use rig::{on_node, with_steps};
use types::{Conditions, ContainerId, Epoch, Extent, Key};
use vos::model::{Scope, Step, Write};
use vos::{AkeyRead, ChangeState, Error, Origin, Punch, PunchScope, ReadWhat, Store, Term};

const DATA: u64 = 16 << 20;

fn id() -> ContainerId {
    rig::container(0)
}

fn store() -> Store {
    let mut store = rig::format(1 << 20, DATA, 4 << 20);
    store.create_pool(rig::pool(0), 8 << 20, Origin::default()).unwrap();
    store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
    store
}

fn dkey() -> Key {
    Key::literal("d")
}

fn akey() -> Key {
    Key::literal("a")
}

fn single(value: &[u8]) -> Step {
    let akeys = vec![(akey(), Write::Single(value.to_vec()))];
    Step::Update { object: rig::object(0), dkey: dkey(), conditions: Conditions::None, akeys }
}

fn array(record_bytes: u32) -> Step {
    let bytes = vec![1; 4 * record_bytes as usize];
    let akeys = vec![(akey(), Write::Array(record_bytes, vec![(Extent::new(0, 4), bytes)]))];
    Step::Update { object: rig::object(0), dkey: dkey(), conditions: Conditions::None, akeys }
}

fn punch(scope: Scope) -> Step {
    Step::Punch { object: rig::object(0), scope, conditions: Conditions::None }
}

fn prepare(store: &mut Store, tx: u64, epoch: u64, steps: &[Step]) -> Result<(), Error> {
    with_steps(store, id(), steps, &[], &mut |store, ops| rig::prepare(store, tx, id(), epoch, ops)).map(drop)
}

fn commit(store: &mut Store, tx: u64) -> Result<(), Error> {
    rig::commit(store, tx).map(drop)
}

fn abort(store: &mut Store, tx: u64) -> Result<(), Error> {
    rig::abort(store, tx).map(drop)
}

/// A plain update of one step.
fn update(store: &mut Store, epoch: u64, step: &Step) -> Result<(), Error> {
    let Step::Update { object, dkey, conditions, akeys } = step else { panic!("an update") };
    rig::update(store, id(), Epoch(epoch), Origin::default(), *object, dkey, *conditions, akeys).map(drop)
}

fn read(store: &mut Store, at: u64) -> Option<Vec<u8>> {
    let (group, oid) = rig::object(0);
    let (dkey, akey) = (dkey(), akey());
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
    let plan = store.fetch(id(), Epoch(at), group, oid, &dkey, &reads, Conditions::None).unwrap();
    rig::bytes_of(store, &plan, 0).pop().and_then(|(_, bytes)| bytes)
}

fn reopen(store: Store) -> Store {
    store.media().flush_now().unwrap();
    drop(store);
    let store = rig::open(4 << 20).unwrap().0;
    store.check().expect_clean();
    store
}

#[test]
fn nobody_sees_a_prepared_change_and_everybody_a_committed_one() {
    on_node(1, || {
        let mut store = store();
        update(&mut store, 5, &single(b"old")).unwrap();
        prepare(&mut store, 1, 10, &[punch(Scope::Dkey(dkey())), single(b"new"), single(b"newer")]).unwrap();
        for at in [10, 11, u64::MAX] {
            assert_eq!(read(&mut store, at).as_deref(), Some(&b"old"[..]));
        }
        let (group, oid) = rig::object(0);
        assert_eq!(store.object_max_write(id(), group, oid).unwrap(), Some(Epoch(5)));
        store.advance(id(), Epoch(12)).unwrap();
        while store.maintain(1).unwrap() {}
        assert_eq!(store.resolve(rig::pool(0), rig::change(1)).unwrap(), ChangeState::Prepared { epoch: Epoch(10) });
        assert_eq!(store.oldest_intent(id()).unwrap(), Some(Epoch(10)));
        commit(&mut store, 1).unwrap();
        assert_eq!(read(&mut store, 9).as_deref(), Some(&b"old"[..]));
        assert_eq!(read(&mut store, 10).as_deref(), Some(&b"newer"[..]), "the last operation is the newest");
        assert_eq!(store.oldest_intent(id()).unwrap(), None);
        store.check().expect_clean();
    });
}

/// K2. A decision stays, may be repeated, and outlives a restart, before a checkpoint and after.
#[test]
fn a_decision_is_made_once() {
    on_node(2, || {
        let mut store = store();
        for tx in 1..=4 {
            prepare(&mut store, tx, 10 + tx, &[single(&[tx as u8])]).unwrap();
        }
        commit(&mut store, 1).unwrap();
        abort(&mut store, 2).unwrap();
        // An abort overtook this one's prepare.
        abort(&mut store, 9).unwrap();
        for round in 0..3 {
            assert_eq!(
                store.resolve(rig::pool(0), rig::change(1)).unwrap(),
                ChangeState::Committed { epoch: Epoch(11) }
            );
            for tx in [2, 9] {
                assert_eq!(store.resolve(rig::pool(0), rig::change(tx)).unwrap(), ChangeState::Aborted);
                assert!(matches!(commit(&mut store, tx), Err(Error::ChangeState { state: ChangeState::Aborted, .. })));
                assert!(matches!(prepare(&mut store, tx, 30, &[single(b"x")]), Err(Error::ChangeState { .. })));
                abort(&mut store, tx).unwrap();
            }
            commit(&mut store, 1).unwrap();
            assert!(matches!(abort(&mut store, 1), Err(Error::ChangeState { .. })));
            assert!(matches!(prepare(&mut store, 3, 30, &[single(b"x")]), Err(Error::ChangeState { .. })));
            assert!(matches!(commit(&mut store, 99), Err(Error::ChangeState { state: ChangeState::Unknown, .. })));
            let prepared = [(rig::change(4), Epoch(14)), (rig::change(3), Epoch(13))];
            assert_eq!(store.prepared(id()).unwrap(), prepared);
            if round == 1 {
                store.media().checkpoint_blocking().unwrap();
            }
            store = reopen(store);
        }
        commit(&mut store, 3).unwrap();
        abort(&mut store, 4).unwrap();
        assert_eq!(read(&mut store, 99), Some(vec![3]));
        store.check().expect_clean();
    });
}

/// Quota and blocks of an intent are taken from prepare until it is decided, across restarts; neither
/// decision asks for room.
#[test]
fn an_intent_holds_its_space_until_it_is_decided() {
    on_node(3, || {
        let mut store = store();
        let space = |store: &Store| store.pool_space(rig::pool(0)).unwrap();
        let before = space(&store);
        let big = single(&vec![7; 40_000]);
        prepare(&mut store, 1, 10, std::slice::from_ref(&big)).unwrap();
        prepare(&mut store, 2, 11, std::slice::from_ref(&big)).unwrap();
        let held = space(&store);
        assert_eq!(held.bulk - before.bulk, 2 * 40_960);
        assert!(held.used >= before.used + 2 * 40_960);
        store.media().checkpoint_blocking().unwrap();
        let mut store = reopen(store);
        assert_eq!(space(&store), held);
        store.set_quota(rig::pool(0), 1, Origin::default()).unwrap();
        assert!(matches!(prepare(&mut store, 3, 12, &[single(b"x")]), Err(Error::NoSpace { .. })));
        abort(&mut store, 2).unwrap();
        assert_eq!(space(&store).bulk - before.bulk, 40_960);
        commit(&mut store, 1).unwrap();
        let after = space(&store);
        assert_eq!(after.bulk - before.bulk, 40_960, "the tree's now");
        assert_eq!(read(&mut store, 10), Some(vec![7; 40_000]));
        store.check().expect_clean();
        let store = reopen(store);
        assert_eq!(space(&store), after);
    });
}

/// A device that is full to the last refuses updates and prepares; what was prepared can be decided.
#[test]
fn commit_and_abort_find_room_on_a_full_device() {
    on_node(4, || {
        let mut store = rig::format(1 << 20, 6 << 20, 4 << 20);
        store.create_pool(rig::pool(0), 1 << 30, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        let (mut tx, mut epoch) = (0, 10);
        let mut refused = 0;
        while refused < 3 {
            (tx, epoch) = (tx + 1, epoch + 1);
            let step = single(&vec![tx as u8; if tx % 3 == 0 { 20_000 } else { 200 }]);
            let done =
                if tx % 2 == 0 { prepare(&mut store, tx, epoch, &[step]) } else { update(&mut store, epoch, &step) };
            match done {
                Ok(()) => {}
                Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                    store.media().checkpoint_blocking().unwrap();
                }
                Err(Error::DeviceFull { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let all = store.prepared(id()).unwrap();
        assert!(all.len() > 50);
        for (tx, _) in all {
            loop {
                let done =
                    if tx.number % 4 == 0 { abort(&mut store, tx.number) } else { commit(&mut store, tx.number) };
                match done {
                    Ok(()) => break,
                    Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                        store.media().checkpoint_blocking().unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        store.check().expect_clean();
    });
}

/// Does `what`, waiting where the store asks for it.
fn patiently(store: &mut Store, mut what: impl FnMut(&mut Store) -> Result<(), Error>) -> Result<(), Error> {
    loop {
        match what(store) {
            Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                store.media().checkpoint_blocking().unwrap();
            }
            done => return done,
        }
    }
}

/// An inline value of 4 KiB under a dkey of its own.
fn long_value(n: u64) -> Step {
    let mut value = rig::content(n, 4096);
    // The rig leaves those to the tree.
    value[0] |= 1;
    let akeys = vec![(akey(), Write::Single(value))];
    Step::Update { object: rig::object(0), dkey: Key::from(n), conditions: Conditions::None, akeys }
}

/// More undecided changes than page memory holds were read back in one operation, in which no page may go: the store
/// could not be opened any more.
#[test]
fn a_store_opens_with_more_undecided_changes_than_memory_holds() {
    on_node(11, || {
        let mut store = rig::format(1 << 20, 320 << 20, 4 << 20);
        store.create_pool(rig::pool(0), 1 << 40, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        const CHANGES: u64 = 4000;
        for n in 1..=CHANGES {
            patiently(&mut store, |store| prepare(store, n, 10 + n, &[long_value(n)])).unwrap();
        }
        store.media().checkpoint_blocking().unwrap();
        let mut store = reopen(store);
        assert_eq!(store.prepared(id()).unwrap().len() as u64, CHANGES);
        for n in 1..=CHANGES {
            patiently(&mut store, |store| commit(store, n)).unwrap();
        }
        // So many outcomes are settled and forgotten in steps, and a pool with as many is destroyed.
        let mut store = reopen(store);
        patiently(&mut store, |store| store.settle_upto(rig::pool(0), rig::change(3)).map(drop)).unwrap();
        assert_eq!(store.resolve(rig::pool(0), rig::change(3)).unwrap(), ChangeState::Settled);
        store.check().expect_clean();
        patiently(&mut store, |store| store.destroy_pool(rig::pool(0), Origin::default()).map(drop)).unwrap();
        assert!(store.pools().is_empty());
        reopen(store);
    });
}

/// An intent is a page or two; its commit changes a leaf for each key that it names. What was admitted beside it, deletes
/// too, must leave room for as many: else the checkpoint after the commit had none, and the target failed.
#[test]
fn commits_of_scattered_keys_find_room_on_a_device_that_is_full() {
    on_node(12, || {
        let mut store = rig::format(1 << 20, 24 << 20, 4 << 20);
        store.create_pool(rig::pool(0), 1 << 30, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        let put = |n: u64, bytes: usize| {
            let akeys = vec![(akey(), Write::Single(rig::content(n, bytes)))];
            Step::Update { object: rig::object(0), dkey: Key::from(n), conditions: Conditions::None, akeys }
        };
        for n in 0..1600 {
            patiently(&mut store, |store| update(store, 5, &put(n * 10, 1500))).unwrap();
        }
        let changes = |from: u64| (0..240).map(|n| put((n * 6 + from) * 10 + 3, 8)).collect::<Vec<_>>();
        for n in 1..=3 {
            patiently(&mut store, |store| prepare(store, n, 10 + n, &changes(n))).unwrap();
        }
        // Until nothing fits any more, deletes neither.
        let (mut filled, mut deleted) = (0, 0);
        while let Ok(()) = patiently(&mut store, |store| update(store, 1000, &put(20_000 + filled, 1500))) {
            filled += 1;
        }
        for n in 0..100 {
            let ((group, oid), dkey) = (rig::object(0), Key::from(n * 77));
            let punch = Punch { group, oid, scope: PunchScope::Dkey(&dkey), conditions: Conditions::None };
            let delete = |store: &mut Store| store.punch(id(), Epoch(2000), Origin::default(), &punch).map(drop);
            deleted += u64::from(patiently(&mut store, delete).is_ok());
        }
        assert!(filled > 50 && deleted > 10, "{filled} values and {deleted} deletes beside");
        for n in 1..=3 {
            patiently(&mut store, |store| commit(store, n)).unwrap();
        }
        store.media().checkpoint_blocking().unwrap();
        store.check().expect_clean();
        reopen(store);
    });
}

/// A change that only deletes makes room, so that neither quota nor what is kept for commits stands in its way.
#[test]
fn a_change_that_only_deletes_is_prepared_in_a_full_pool() {
    on_node(13, || {
        let mut store = store();
        update(&mut store, 5, &single(b"old")).unwrap();
        store.set_quota(rig::pool(0), 1, Origin::default()).unwrap();
        let both = [punch(Scope::Dkey(dkey())), single(b"new")];
        assert!(matches!(prepare(&mut store, 1, 10, &both), Err(Error::NoSpace { .. })));
        prepare(&mut store, 2, 11, &[punch(Scope::Dkey(dkey()))]).unwrap();
        commit(&mut store, 2).unwrap();
        assert_eq!(read(&mut store, 11), None);
        store.check().expect_clean();
    });
}

/// Somebody has still to decide the changes of a destroyed container, and finds them (K10). Then they give back what they
/// hold, whichever way they end.
#[test]
fn changes_of_a_destroyed_container_wait_for_their_decision() {
    on_node(5, || {
        let mut store = store();
        let free = |store: &Store| store.check().space.unwrap().allocated;
        store.media().checkpoint_blocking().unwrap();
        let before = free(&store);
        for tx in 1..=5 {
            prepare(&mut store, tx, 10 + tx, &[single(&[tx as u8; 30_000])]).unwrap();
        }
        abort(&mut store, 5).unwrap();
        store.destroy_container(id(), Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        store = reopen(store);
        assert!(!store.maintain(1).unwrap(), "nothing can be freed yet");
        assert_eq!(store.standing(rig::pool(0), 0).unwrap().prepared.len(), 2);
        assert!(matches!(prepare(&mut store, 2, 30, &[single(b"x")]), Err(Error::ChangeState { .. })));
        commit(&mut store, 1).unwrap();
        abort(&mut store, 2).unwrap();
        store = reopen(store);
        commit(&mut store, 3).unwrap();
        commit(&mut store, 4).unwrap();
        assert_eq!(store.resolve(rig::pool(0), rig::change(4)).unwrap(), ChangeState::Committed { epoch: Epoch(14) });
        assert_eq!(read(&mut store, 99), None, "the container of that name is another one");
        store.check().expect_clean();
        while store.maintain(1).unwrap() {
            store.check().expect_clean();
        }
        store.media().checkpoint_blocking().unwrap();
        store.media().checkpoint_blocking().unwrap();
        assert!(free(&store) <= before + 4 * 8192, "{} then {}", before, free(&store));
        let space = store.pool_space(rig::pool(0)).unwrap();
        assert_eq!(space.bulk, 0);
    });
}

/// Nobody decides the changes of a pool that is gone: they go with it, and what was known of its groups.
#[test]
fn a_destroyed_pool_takes_its_changes_along() {
    on_node(10, || {
        let mut store = store();
        for tx in 1..=4 {
            prepare(&mut store, tx, 10 + tx, &[single(&[tx as u8; 30_000])]).unwrap();
        }
        commit(&mut store, 1).unwrap();
        store.adopt(rig::pool(0), 7, Term { interval: 3, round: 1 }).unwrap();
        store.destroy_pool(rig::pool(0), Origin::default()).unwrap();
        store.create_pool(rig::pool(0), 8 << 20, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        store = reopen(store);
        assert!(store.groups(rig::pool(0)).unwrap().is_empty());
        assert_eq!(store.resolve(rig::pool(0), rig::change(1)).unwrap(), ChangeState::Unknown);
        prepare(&mut store, 2, 50, &[single(b"of the new pool")]).unwrap();
        while store.maintain(1).unwrap() {
            store.check().expect_clean();
        }
        commit(&mut store, 2).unwrap();
        assert_eq!(read(&mut store, 50).as_deref(), Some(&b"of the new pool"[..]));
        store.check().expect_clean();
    });
}

/// Of a target that was away: others decided without it. What it forgets, it gives back, in steps that a restart may part.
#[test]
fn a_member_that_was_away_forgets_and_one_that_left_knows_nothing() {
    on_node(12, || {
        let mut store = store();
        let pool = rig::pool(0);
        for tx in 1..=200 {
            prepare(&mut store, tx * 2, 10 + tx, &[single(&[tx as u8; 3000])]).unwrap();
            if tx % 3 == 0 {
                abort(&mut store, tx * 2).unwrap();
            }
        }
        store.adopt(pool, 0, Term { interval: 0, round: 60 }).unwrap();
        let steps = |mut store: Store, one: &mut dyn FnMut(&mut Store) -> bool| {
            let mut count = 0;
            while one(&mut store) {
                count += 1;
                store.check().expect_clean();
                if count % 40 == 7 {
                    store = reopen(store);
                }
            }
            (store, count)
        };
        let (mut store, taken) = steps(store, &mut |store| store.forget_upto(pool, rig::change(300)).unwrap().1);
        assert!(taken > 90, "one undecided change a step: {taken}");
        let standing = store.standing(pool, 0).unwrap();
        assert_eq!(standing.settled, rig::change(300));
        assert!(standing.prepared.iter().all(|undecided| undecided.change > rig::change(300)));
        assert!(standing.prepared.len() > 20 && standing.decided.len() > 10);
        assert!(matches!(prepare(&mut store, 300, 999, &[single(b"late")]), Err(Error::ChangeState { .. })));
        let (mut store, _) = steps(store, &mut |store| store.leave_group(pool, 0).unwrap().1);
        store.media().checkpoint_blocking().unwrap();
        store = reopen(store);
        assert!(store.groups(pool).unwrap().is_empty());
        assert_eq!(store.resolve(pool, rig::change(2)).unwrap(), ChangeState::Unknown);
        let end = store.media().end_lsn();
        assert!(!store.leave_group(pool, 0).unwrap().1 && store.media().end_lsn() == end);
        assert_eq!(store.oldest_intent(id()).unwrap(), None);
        assert_eq!(read(&mut store, u64::MAX), None, "nothing of it took effect");
    });
}

/// A member that lacks what the leader judged by keeps the change all the same.
#[test]
fn what_the_leader_judged_is_not_judged_again() {
    on_node(13, || {
        let mut store = store();
        update(&mut store, 5, &array(8)).unwrap();
        let steps = [array(4)];
        assert!(matches!(prepare(&mut store, 2, 10, &steps), Err(Error::RecordSize { .. })));
        with_steps(&mut store, id(), &steps, &[], &mut |store, ops| {
            let (change, origin, note) = (rig::change(2), Origin::default(), rig::note(2));
            let wanted = vos::Prepare { change, container: id(), origin, note: &note, ops };
            store.prepare_judged(&wanted, Epoch(10))
        })
        .unwrap();
        abort(&mut store, 2).unwrap();
        let insert = Step::Update {
            object: rig::object(0),
            dkey: dkey(),
            conditions: Conditions::DkeyInsert,
            akeys: vec![(Key::literal("b"), Write::Single(b"new".to_vec()))],
        };
        assert!(matches!(prepare(&mut store, 4, 11, std::slice::from_ref(&insert)), Err(Error::Exists)));
        with_steps(&mut store, id(), &[insert], &[], &mut |store, ops| {
            let (change, origin, note) = (rig::change(4), Origin::default(), rig::note(4));
            let wanted = vos::Prepare { change, container: id(), origin, note: &note, ops };
            store.prepare_judged(&wanted, Epoch(11))
        })
        .unwrap();
        commit(&mut store, 4).unwrap();
        store = reopen(store);
        assert_eq!(store.oldest_intent(id()).unwrap(), None);
    });
}

/// What a leader that begins finds at a member, across restarts, before a checkpoint and after.
#[test]
fn a_group_s_standing_survives_and_only_grows() {
    on_node(11, || {
        let mut store = store();
        let (pool, term) = (rig::pool(0), |interval, round| Term { interval, round });
        for tx in [2, 4, 10, 3] {
            prepare(&mut store, tx, 10 + tx, &[single(&[tx as u8])]).unwrap();
        }
        commit(&mut store, 2).unwrap();
        abort(&mut store, 4).unwrap();
        store.adopt(pool, 0, term(0, 1)).unwrap();
        assert!(matches!(store.adopt(pool, 0, Term::default()), Err(Error::OldTerm { .. })));
        assert!(matches!(prepare(&mut store, 6, 40, &[single(b"x")]), Err(Error::OldTerm { .. })), "of round 0");
        for round in 0..3 {
            let standing = store.standing(pool, 0).unwrap();
            assert_eq!(standing.term, term(0, 1));
            let prepared: Vec<_> = standing.prepared.iter().map(|undecided| undecided.change).collect();
            assert_eq!(prepared, [rig::change(10)]);
            assert_eq!(standing.prepared[0].note, rig::note(10));
            let committed = ChangeState::Committed { epoch: Epoch(12) };
            assert_eq!(standing.decided, [(rig::change(2), committed), (rig::change(4), ChangeState::Aborted)]);
            assert_eq!(store.groups(pool).unwrap(), [0, 1]);
            if round == 1 {
                store.media().checkpoint_blocking().unwrap();
            }
            store = reopen(store);
        }
        assert!(matches!(store.settle_upto(pool, rig::change(10)), Err(Error::ChangeState { .. })), "10 is undecided");
        store.settle_upto(pool, rig::change(4)).unwrap();
        for round in 0..3 {
            let standing = store.standing(pool, 0).unwrap();
            assert_eq!((standing.settled, standing.decided), (rig::change(4), vec![]));
            for tx in [2, 4] {
                assert_eq!(store.resolve(pool, rig::change(tx)).unwrap(), ChangeState::Settled);
                assert!(matches!(prepare(&mut store, tx, 40, &[single(b"x")]), Err(Error::ChangeState { .. })));
            }
            abort(&mut store, 4).unwrap();
            assert!(matches!(commit(&mut store, 2), Err(Error::ChangeState { state: ChangeState::Settled, .. })));
            let end = store.media().end_lsn();
            store.settle_upto(pool, rig::change(2)).unwrap();
            store.adopt(pool, 0, term(0, 1)).unwrap();
            assert_eq!(store.media().end_lsn(), end, "a mark that it has");
            if round == 1 {
                store.media().checkpoint_blocking().unwrap();
            }
            store = reopen(store);
        }
        store.check().expect_clean();
    });
}

/// A record size is promised at prepare: what would break the promise waits.
#[test]
fn record_sizes_hold_across_undecided_transactions() {
    on_node(6, || {
        let mut store = store();
        prepare(&mut store, 1, 10, &[array(4)]).unwrap();
        assert!(matches!(update(&mut store, 12, &array(8)), Err(Error::InProgress { .. })));
        assert!(matches!(prepare(&mut store, 2, 12, &[array(8)]), Err(Error::InProgress { .. })));
        update(&mut store, 12, &array(4)).unwrap();
        commit(&mut store, 1).unwrap();
        assert_eq!(update(&mut store, 13, &array(8)), Err(Error::RecordSize { stored: 4, given: 8 }));
        // A new life, in one transaction with its end.
        prepare(&mut store, 3, 20, &[punch(Scope::Akeys(dkey(), vec![akey()])), array(8), array(8)]).unwrap();
        assert!(matches!(update(&mut store, 22, &array(8)), Err(Error::InProgress { .. })), "if 3 is aborted, wrong");
        commit(&mut store, 3).unwrap();
        update(&mut store, 22, &array(8)).unwrap();
        assert_eq!(
            prepare(&mut store, 4, 30, &[punch(Scope::Object), array(2), array(4)]),
            Err(Error::RecordSize { stored: 2, given: 4 })
        );
        assert_eq!(store.resolve(rig::pool(0), rig::change(4)).unwrap(), ChangeState::Unknown);
        store.check().expect_clean();
    });
}

/// Commits come late: other operations of the epoch, and many epochs, came since.
#[test]
fn a_late_commit_keeps_its_place_in_the_order() {
    on_node(7, || {
        let mut store = store();
        prepare(&mut store, 1, 10, &[single(b"first"), single(b"second")]).unwrap();
        update(&mut store, 10, &single(b"third")).unwrap();
        commit(&mut store, 1).unwrap();
        assert_eq!(read(&mut store, 10).as_deref(), Some(&b"third"[..]));
        prepare(&mut store, 2, 20, &[single(b"early")]).unwrap();
        for epoch in 21..=190 {
            update(&mut store, epoch, &single(&epoch.to_le_bytes())).unwrap();
        }
        update(&mut store, 20, &single(b"later")).unwrap();
        commit(&mut store, 2).unwrap();
        assert_eq!(read(&mut store, 20).as_deref(), Some(&b"later"[..]));
        update(&mut store, 20, &single(b"last")).unwrap();
        assert_eq!(read(&mut store, 20).as_deref(), Some(&b"last"[..]));
        assert_eq!(read(&mut store, 190), Some(190u64.to_le_bytes().to_vec()));
        store.check().expect_clean();
    });
}

/// A punch came while a transaction below it waited: the horizon waits for the transaction, and then what the
/// punch hides of it goes.
#[test]
fn what_a_later_punch_hides_of_a_commit_is_removed() {
    on_node(8, || {
        let mut store = store();
        prepare(&mut store, 1, 10, &[single(&[1; 20_000])]).unwrap();
        let (group, oid) = rig::object(0);
        let hide = vos::Punch { group, oid, scope: vos::PunchScope::Object, conditions: Conditions::None };
        store.punch(id(), Epoch(20), Origin::default(), &hide).unwrap();
        store.advance(id(), Epoch(30)).unwrap();
        while store.maintain(1).unwrap() {}
        assert_eq!(store.container_info(id()).unwrap().horizon, Epoch(9));
        commit(&mut store, 1).unwrap();
        assert_eq!(store.container_info(id()).unwrap().blocks, 5);
        store.advance(id(), Epoch(30)).unwrap();
        while store.maintain(1).unwrap() {}
        assert_eq!(store.container_info(id()).unwrap().blocks, 0);
        store.check().expect_clean();
    });
}

#[test]
fn requests_over_a_limit_are_refused_whole() {
    on_node(9, || {
        // Each holds room for its commit.
        let mut store = rig::format(1 << 20, 256 << 20, 8 << 20);
        store.create_pool(rig::pool(0), 1 << 40, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        assert!(matches!(prepare(&mut store, 1, 10, &[]), Err(Error::Invalid(_))));
        assert!(matches!(prepare(&mut store, 1, 10, &vec![single(b"x"); 257]), Err(Error::Invalid(_))));
        assert!(matches!(prepare(&mut store, 1, 0, &[single(b"x")]), Err(Error::Invalid(_))));
        let mut refused = None;
        for tx in 1..5000 {
            match prepare(&mut store, tx, 10, &[single(b"x")]) {
                Ok(()) => {}
                Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                    store.media().checkpoint_blocking().unwrap();
                }
                Err(Error::IntentsFull) => {
                    refused = Some(tx);
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let refused = refused.expect("the table is full at some time");
        let some = store.prepared(id()).unwrap()[0].0;
        abort(&mut store, some.number).unwrap();
        prepare(&mut store, refused, 10, &[single(b"x")]).unwrap();
        store.check().expect_clean();
    });
}

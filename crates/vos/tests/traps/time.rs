//! Epochs at the ends of their range, many changes at one of them, and what a restart must not forget.

use types::{Conditions, Epoch, Key};
use vos::model::{Step, Write};
use vos::{AkeyWrite, Error, Op, Origin, Party, Payload, Punch, PunchScope, ReadScope, Store, Update, ValueWrite};

use super::{OID, akey, commit, dkey, forget, id, prepare, punch, read, reopen, store, write};
use crate::rig::{self, on_node};

/// Updates one inline value as `party`.
fn update_in(store: &mut Store, party: &Party, container: types::ContainerId) -> Result<(), Error> {
    let (dkey, akey) = (dkey(), akey());
    let checksums = codec::checksum::of_chunks(b"x");
    let value = ValueWrite::Single(Payload::Inline { bytes: b"x", checksums: &checksums });
    let akeys = [AkeyWrite { akey: &akey, value }];
    let update = Update { group: 0, oid: OID, dkey: &dkey, conditions: Conditions::None, akeys: &akeys };
    store.update_in(party, container, Origin::default(), &update).map(drop)
}

fn party(tx: u64, epoch: u64) -> Party {
    Party::certain(rig::tx(tx), Epoch(epoch))
}

fn scope() -> ReadScope<'static> {
    ReadScope::Object { group: 0, oid: OID }
}

/// Asked for the last epoch within a transaction, an ancestor's query crashed. Epoch 0 and the last one are
/// moments to read at, on every path, and no moments to write at.
#[test]
fn the_first_and_the_last_epoch_are_read_and_never_written() {
    on_node(1, || {
        let mut store = store();
        write(&mut store, 7, &dkey(), b"seven");
        let update = |akeys| Step::Update { object: (0, OID), dkey: dkey(), conditions: Conditions::None, akeys };
        for epoch in [Epoch::ZERO, Epoch::MAX] {
            let invalid = |done: Result<(), Error>| assert!(matches!(done, Err(Error::Invalid(_))), "{done:?}");
            let value = vec![(akey(), Write::Single(b"x".to_vec()))];
            invalid(super::write_all(&mut store, epoch.0, &dkey(), &value));
            invalid(punch(&mut store, epoch.0, PunchScope::Object));
            invalid(prepare(&mut store, 1, epoch.0, &[update(value)]));
            invalid(update_in(&mut store, &party(2, epoch.0), id()));
            let whole = Punch { group: 0, oid: OID, scope: PunchScope::Object, conditions: Conditions::None };
            invalid(store.punch_in(&party(2, epoch.0), id(), Origin::default(), &whole).map(drop));
            let ops = [Op::Punch(whole)];
            let (change, origin) = (rig::change(2), Origin::default());
            let wanted = vos::Prepare { change, container: id(), origin, note: &[], ops: &ops };
            invalid(store.prepare_in(&party(2, epoch.0), &wanted).map(drop));
            invalid(store.rollback(id(), Epoch::ZERO, epoch, Origin::default()).map(drop));
            assert_eq!(store.advance(id(), epoch).unwrap(), None, "no horizon at {epoch}");
            // A transaction has an epoch of its own. Who is in none asks without being admitted.
            invalid(store.admit_read(&party(3, epoch.0), id(), &scope()));
            invalid(store.admit_read(&party(3, epoch.0), id(), &ReadScope::Container));
            let there = epoch == Epoch::MAX;
            assert_eq!(read(&mut store, epoch.0, &dkey()).is_some(), there);
            assert_eq!(
                store.list_objects(id(), epoch, vos::ListPart::forward(None, 9)).unwrap().entries.len(),
                usize::from(there)
            );
            assert_eq!(store.query_array(id(), epoch, 0, OID, &dkey(), &akey()).unwrap().end, 0);
            assert_eq!(store.object_max_write_at(id(), epoch, 0, OID).unwrap(), there.then_some(Epoch(7)));
        }
        let (changed, _) = store.diff(id(), Epoch::ZERO, Epoch::MAX, None, 9).unwrap();
        assert_eq!(changed.len(), 1, "all there is was added since the beginning");
        // The highest epoch that is one.
        write(&mut store, u64::MAX - 1, &dkey(), b"last");
        assert_eq!(read(&mut store, u64::MAX, &dkey()).as_deref(), Some(&b"last"[..]));
        assert_eq!(read(&mut store, u64::MAX - 2, &dkey()).as_deref(), Some(&b"seven"[..]));
        store.check().expect_clean();
    });
}

/// Operations of one epoch are numbered with 16 bits. The number never wraps: a wrapped one would sort the
/// newest change below the oldest.
#[test]
fn an_epoch_that_is_full_says_so_and_the_next_goes_on() {
    on_node(2, || {
        let mut store = rig::format(8 << 20, 64 << 20, 32 << 20);
        store.create_pool(rig::pool(0), 48 << 20, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        for n in 0..65_534u64 {
            write(&mut store, 5, &Key::from(n % 7), &n.to_le_bytes());
        }
        let step = |n: u64| {
            let akeys = vec![(akey(), Write::Single(n.to_le_bytes().to_vec()))];
            Step::Update { object: (0, OID), dkey: Key::from(3), conditions: Conditions::None, akeys }
        };
        let refused = prepare(&mut store, 1, 5, &[step(1), step(2), step(3)]);
        assert_eq!(refused, Err(Error::EpochFull(Epoch(5))), "a transaction fits whole or not at all");
        for n in 65_534..65_536u64 {
            write(&mut store, 5, &Key::from(3), &n.to_le_bytes());
        }
        let value = [(akey(), Write::Single(vec![0]))];
        assert_eq!(super::write_all(&mut store, 5, &Key::from(3), &value), Err(Error::EpochFull(Epoch(5))));
        assert_eq!(punch(&mut store, 5, PunchScope::Object), Err(Error::EpochFull(Epoch(5))));
        assert_eq!(read(&mut store, 5, &Key::from(3)), Some(65_535u64.to_le_bytes().to_vec()));
        store.media().checkpoint_blocking().unwrap();
        let mut store = reopen(store);
        assert_eq!(super::write_all(&mut store, 5, &Key::from(3), &value), Err(Error::EpochFull(Epoch(5))));
        prepare(&mut store, 2, 6, &[step(1), step(2), step(3)]).unwrap();
        commit(&mut store, 2).unwrap();
        assert_eq!(read(&mut store, 6, &Key::from(3)), Some(3u64.to_le_bytes().to_vec()));
    });
}

/// M-2 across a restart: what was read before is not known any more, so everything may have been (K18).
#[test]
fn a_restart_between_a_read_and_a_write_forgets_no_read() {
    on_node(3, || {
        let mut store = store();
        write(&mut store, 5, &dkey(), b"old");
        store.admit_read(&party(1, 20), id(), &scope()).unwrap();
        let mut store = reopen(store);
        // Until the clock is known, nobody can be told.
        assert!(matches!(update_in(&mut store, &party(2, 10), id()), Err(Error::Restart { .. })));
        store.start_clock(Epoch(30));
        assert_eq!(update_in(&mut store, &party(2, 10), id()), Err(Error::Restart { above: Epoch(30) }));
        assert_eq!(update_in(&mut store, &party(3, 21), id()), Err(Error::Restart { above: Epoch(30) }));
        update_in(&mut store, &party(4, 31), id()).unwrap();
        assert_eq!(read(&mut store, 30, &dkey()).as_deref(), Some(&b"old"[..]), "who read at 20 reads it again");
    });
}

/// A clock that was set back while the server was down: what is acknowledged keeps its place above everything
/// that the clock would now choose.
#[test]
fn a_clock_set_back_does_not_put_new_writes_below_old_ones() {
    on_node(4, || {
        let mut store = store();
        write(&mut store, 1000, &dkey(), b"newest");
        forget(&mut store, 900);
        let mut store = reopen(store);
        let info = store.container_info(id()).unwrap();
        assert_eq!((info.max_epoch, info.horizon), (Epoch(1000), Epoch(900)), "what the clock has to pass");
        let value = [(akey(), Write::Single(b"late".to_vec()))];
        let refused = super::write_all(&mut store, 500, &dkey(), &value);
        assert_eq!(refused, Err(Error::Forgotten { at: Epoch(500), horizon: Epoch(900) }));
        super::write_all(&mut store, 950, &dkey(), &value).unwrap();
        assert_eq!(read(&mut store, u64::MAX, &dkey()).as_deref(), Some(&b"newest"[..]));
        assert_eq!(read(&mut store, 999, &dkey()).as_deref(), Some(&b"late"[..]));
    });
}

/// Read marks of different pools shared one table of hashes, and met there.
#[test]
fn readers_in_one_pool_hold_up_no_writer_in_another() {
    on_node(5, || {
        let mut store = store();
        let other = rig::container(1);
        store.create_pool(rig::pool(1), 4 << 20, Origin::default()).unwrap();
        store.create_container(rig::pool(1), other, Origin::default()).unwrap();
        store.set_read_marks(2);
        for n in 0..200 {
            store.admit_read(&party(n, 20 + n), id(), &ReadScope::Object { group: n as u32, oid: OID }).unwrap();
        }
        update_in(&mut store, &party(900, 10), other).unwrap();
        // Where the readers were, marks were dropped: the bound is higher than need be, and never lower.
        assert!(
            matches!(update_in(&mut store, &party(901, 10), id()), Err(Error::Restart { above }) if above >= Epoch(20))
        );
    });
}

/// A transaction that reads and then writes the same does not conflict with itself; another one does.
#[test]
fn a_transaction_writes_what_it_read_itself() {
    on_node(6, || {
        let mut store = store();
        write(&mut store, 5, &dkey(), b"old");
        let (own, other) = (party(1, 20), party(2, 20));
        store.admit_read(&own, id(), &scope()).unwrap();
        assert!(matches!(update_in(&mut store, &other, id()), Err(Error::Restart { .. })));
        update_in(&mut store, &own, id()).unwrap();
        assert_eq!(read(&mut store, 20, &dkey()).as_deref(), Some(&b"x"[..]));
    });
}

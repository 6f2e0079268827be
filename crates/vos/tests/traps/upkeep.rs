//! Upkeep: passes that others interrupt, plans that outlive what they name, pools too small for anything.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use media::{Existing, Identity};
use rt::sim::{Sim, SimConfig};
use types::{Conditions, Epoch, Extent, Key};
use vos::model::{Scope, Step, Write};
use vos::{AkeyRead, Error, Origin, PunchScope, ReadWhat, Store};

use super::{MEMORY_BYTES, OID, akey, commit, dkey, forget, id, prepare, punch, read, reopen, store, upkeep, write};
use crate::rig::{self, on_node};

/// K9. A fetch named blocks, aggregation freed them, and a new write took them before the transfer began. The
/// plan's pin keeps them, however full the device gets; without it they are used again.
#[test]
fn a_plan_outlives_the_aggregation_of_what_it_names() {
    on_node(1, || {
        let mut store = store();
        store.set_quota(rig::pool(0), 1 << 30, Origin::default()).unwrap();
        let old = rig::content(1, 2 << 20);
        write(&mut store, 1, &dkey(), &old);
        let (dkey, akey) = (dkey(), akey());
        let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
        let plan = store.fetch(id(), Epoch(1), 0, OID, &dkey, &reads, Conditions::None).unwrap();
        write(&mut store, 2, &dkey, b"small");
        forget(&mut store, 2);
        assert_eq!(store.container_info(id()).unwrap().blocks, 0, "nobody can see it any more");
        // Full is also what only the end of the plan could make room for.
        let fill = |store: &mut Store, epoch| {
            for written in 0.. {
                let value = [(akey.clone(), Write::Single(vec![0xee; 256 << 10]))];
                let dkey = Key::from(written);
                let put = |store: &mut Store| {
                    let origin = Origin::default();
                    rig::update(store, id(), Epoch(epoch), origin, (0, OID), &dkey, Conditions::None, &value)
                };
                let done = put(store).or_else(|_| {
                    store.media().checkpoint_blocking().unwrap();
                    put(store)
                });
                match done {
                    Ok(_) => {}
                    Err(Error::DeviceFull { .. } | Error::Media(media::Error::Busy { .. })) => return written,
                    Err(error) => panic!("{error}"),
                }
            }
            unreachable!("no device takes everything")
        };
        let pinned = fill(&mut store, 3);
        store.media().checkpoint_blocking().unwrap();
        assert_eq!(rig::bytes_of(&store, &plan, 0).pop().unwrap().1.unwrap(), old);
        drop(plan);
        for _ in 0..2 {
            store.media().checkpoint_blocking().unwrap();
        }
        let after = fill(&mut store, 4);
        assert!(pinned > 20 && after >= 6, "{pinned} values, and {after} more in what the plan held");
        store.check().expect_clean();
    });
}

/// A snapshot is taken while a pass is in the middle of the container.
#[test]
fn a_snapshot_taken_between_two_steps_of_a_pass_keeps_what_it_sees() {
    for interrupted_after in [0, 1, 3, 7] {
        on_node(2, move || {
            let mut store = store();
            let keys: Vec<Key> = (0..600).map(Key::from).collect();
            for epoch in 1..=3u64 {
                keys.iter().for_each(|key| write(&mut store, epoch, key, &[epoch as u8; 60]));
            }
            store.advance(id(), Epoch(3)).unwrap();
            for _ in 0..interrupted_after {
                upkeep(&mut store, 1);
            }
            keys.iter().for_each(|key| write(&mut store, 5, key, &[5; 60]));
            store.set_snapshots(id(), &[Epoch(3), Epoch(5)], Origin::default()).unwrap();
            keys.iter().for_each(|key| write(&mut store, 7, key, &[7; 60]));
            forget(&mut store, 9);
            for at in [3, 5, 9] {
                let expected = if at == 9 { 7 } else { at as u8 };
                let wrong = keys.iter().filter(|key| read(&mut store, at, key) != Some(vec![expected; 60])).count();
                assert_eq!(wrong, 0, "@{at}, interrupted after {interrupted_after} steps");
            }
            assert_eq!(store.check().values, 3 * 600, "and nothing else was kept");
            store.check().expect_clean();
        });
    }
}

/// Removals were gathered in memory without a bound. A pass here takes a bounded number of records a step; and
/// punches, which no fullness refuses, wait for a checkpoint before their changed pages are more than memory
/// holds. (They once did not, and the store stopped in the middle of one. And a step once looked at all that lies
/// below one long extent at once: with 50,000 holes it ran out of memory behind its log record, and so did every
/// restart.)
#[test]
fn fifty_thousand_holes_are_aggregated_in_little_memory() {
    on_node(3, || {
        let mut store = rig::format(4 << 20, 32 << 20, 0);
        store.create_pool(rig::pool(0), 24 << 20, Origin::default()).unwrap();
        store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
        let (dkey, akey) = (dkey(), akey());
        super::write_all(
            &mut store,
            1,
            &dkey,
            &[(akey.clone(), Write::Array(1, vec![(Extent::new(0, 100_000), vec![b'A'; 100_000])]))],
        )
        .unwrap();
        for n in 0..500u64 {
            let extents: Vec<Extent> = (0..100).map(|m| Extent::new((n * 100 + m) * 2, 1)).collect();
            while let Err(error) =
                punch(&mut store, 2 + n, PunchScope::Extents { dkey: &dkey, akey: &akey, extents: &extents })
            {
                assert!(
                    matches!(error, Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })),
                    "{error}"
                );
                store.media().checkpoint_blocking().unwrap();
            }
        }
        store.media().checkpoint_blocking().unwrap();
        forget(&mut store, 550);
        let runs = records_of(&mut store, 550);
        assert_eq!(runs, 50_000, "every other record");
        store.media().flush_now().unwrap();
        drop(store);
        let mut store = rig::open(0).unwrap().0;
        assert_eq!(records_of(&mut store, 550), 50_000);
        let usage = store.media().usage().pages;
        assert!(usage.evictions > 0, "the pass ran in less memory than it has pages: {usage:?}");
        punch(&mut store, 600, PunchScope::Object).unwrap();
        forget(&mut store, 600);
        assert_eq!(store.check().records, 0);
        store.check().expect_clean();
    });
}

/// Visible runs of the one array.
fn records_of(store: &mut Store, at: u64) -> usize {
    let (mut from, mut count) = (0, 0);
    loop {
        let within = Extent::new(from, 100_000 - from);
        let part = store
            .list_extents(id(), Epoch(at), 0, OID, &dkey(), &akey(), within, 1000, vos::Direction::Forward)
            .unwrap();
        count += part.entries.len();
        match part.entries.last() {
            Some(last) if part.next.is_some() && last.extent.end() < 100_000 => from = last.extent.end(),
            _ => return count,
        }
    }
}

/// A discard with nothing to discard span for ever.
#[test]
fn upkeep_with_nothing_to_do_comes_to_rest() {
    on_node(4, || {
        let mut store = store();
        let rest = |store: &mut Store, what: &str| {
            let steps = (1..).find(|_| !store.maintain(1).unwrap()).unwrap();
            assert!(steps <= 10 && !store.wants_maintenance(), "{what}: {steps} steps");
            let end = store.media().end_lsn();
            assert!(!store.maintain(100).unwrap());
            assert_eq!(store.media().end_lsn(), end, "{what}: at rest it writes nothing");
        };
        rest(&mut store, "an empty store");
        store.advance(id(), Epoch(5)).unwrap();
        rest(&mut store, "a horizon over nothing");
        store.rollback(id(), Epoch(5), Epoch(9), Origin::default()).unwrap();
        rest(&mut store, "a rollback of nothing");
        write(&mut store, 10, &dkey(), b"x");
        store.rollback(id(), Epoch(9), Epoch(12), Origin::default()).unwrap();
        rest(&mut store, "a rollback of one value");
        store.set_snapshots(id(), &[Epoch(20)], Origin::default()).unwrap();
        store.set_snapshots(id(), &[], Origin::default()).unwrap();
        rest(&mut store, "a snapshot that came and went");
        store.check().expect_clean();
    });
}

/// A pool goes while a pass, a rollback and a transaction are in the middle of its container.
#[test]
fn a_pool_destroyed_in_the_middle_of_upkeep_gives_everything_back() {
    for case in 0..3 {
        on_node(case, move || {
            let mut store = store();
            for epoch in 1..=3u64 {
                (0..600).for_each(|n| write(&mut store, epoch, &Key::from(n), &[epoch as u8; 100]));
            }
            let akeys = vec![(akey(), Write::Single(vec![1; 30_000]))];
            let object = (0, OID);
            let step = Step::Update { object, dkey: dkey(), conditions: Conditions::None, akeys };
            match case {
                0 => drop(store.advance(id(), Epoch(3)).unwrap()),
                1 => drop(store.rollback(id(), Epoch(1), Epoch(9), Origin::default()).unwrap()),
                _ => prepare(&mut store, 1, 10, &[step, hide()]).unwrap(),
            }
            upkeep(&mut store, 2);
            store.destroy_pool(rig::pool(0), Origin::default()).unwrap();
            assert!(matches!(commit(&mut store, 1), Err(Error::NoPool(_))));
            let mut store = reopen(store);
            while upkeep(&mut store, 1) {
                store.check().expect_clean();
            }
            let report = store.check();
            report.expect_clean();
            assert!(report.records == 0 && report.pages <= 3, "{} records, {} pages", report.records, report.pages);
        });
    }
}

fn hide() -> Step {
    Step::Punch { object: (0, OID), scope: Scope::Object, conditions: Conditions::None }
}

/// A checkpoint is under way, on its task, while the pool it writes pages of is destroyed and made again.
#[test]
fn a_pool_destroyed_while_a_checkpoint_runs_stays_destroyed() {
    let sim = Sim::new(SimConfig::seeded(7));
    let node = sim.node("target");
    let was_running = Rc::new(Cell::new(0));
    let counted = was_running.clone();
    sim.run(async move {
        let body = async move {
            let mut store = store();
            for round in 0..20u64 {
                (0..50).for_each(|n| write(&mut store, round + 1, &Key::from(n), &[round as u8; 900]));
                let media = store.media().clone();
                let task = rt::spawn_local(async move { media.checkpoint_now().await });
                for _ in 0..round {
                    rt::sleep(Duration::from_micros(5)).await;
                }
                counted.set(counted.get() + usize::from(!task.is_finished()));
                store.destroy_pool(rig::pool(0), Origin::default()).unwrap();
                store.create_pool(rig::pool(0), 8 << 20, Origin::default()).unwrap();
                store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
                store.maintain(3).unwrap();
                task.await.unwrap().unwrap();
                store = reopen(store);
                assert_eq!(read(&mut store, 99, &Key::from(0)), None, "round {round}");
                while upkeep(&mut store, 8) {}
                store.check().expect_clean();
            }
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
    assert!(was_running.get() >= 1, "the checkpoint was running in {} rounds", was_running.get());
}

/// Sums of what is held for a pool of a few pages went below zero. At every size from nothing up: what fits is
/// whole, what does not is refused, deleting works, and the books agree.
#[test]
fn a_pool_of_a_few_pages_refuses_and_its_books_agree() {
    on_node(8, || {
        let mut store = rig::format(1 << 20, 16 << 20, MEMORY_BYTES);
        let mut fitted = Vec::new();
        for pages in 0..24u64 {
            let quota = pages * 4096;
            store.create_pool(rig::pool(0), quota, Origin::default()).unwrap();
            let made = store.create_container(rig::pool(0), id(), Origin::default());
            let mut count = 0;
            if made.is_ok() {
                for n in 0..200u64 {
                    let value = [(akey(), Write::Single(rig::content(n, 200 + 300 * (n as usize % 2))))];
                    match super::write_all(&mut store, 1, &Key::from(n), &value) {
                        Ok(()) => count += 1,
                        Err(Error::NoSpace { used, quota: named, wanted, .. }) => {
                            assert!(named == quota && used <= quota && used + wanted > quota);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    let space = store.pool_space(rig::pool(0)).unwrap();
                    assert!(space.used <= quota && space.used == space.pages + space.bulk, "{space:?}");
                }
                punch(&mut store, 2, PunchScope::Object).unwrap();
                forget(&mut store, 2);
                store.check().expect_clean();
            } else {
                assert!(matches!(made, Err(Error::NoSpace { .. })) && pages < 8, "{made:?} with {pages} blocks");
            }
            fitted.push(count);
            store.destroy_pool(rig::pool(0), Origin::default()).unwrap();
            while upkeep(&mut store, 8) {}
            store.check().expect_clean();
        }
        assert!(fitted[0] == 0 && fitted[23] > 20, "{fitted:?}");
    });
}

/// A file of an earlier life was taken for memory of this one: made anew over an old store, a store has nothing
/// of it, not even from its log.
#[test]
fn a_store_formatted_over_an_old_one_sees_nothing_of_it() {
    for identity in [*b"another store!!!", *b"0123456789abcdeF"] {
        on_node(9, move || {
            let mut old = store();
            for n in 0..200 {
                write(&mut old, 1 + n, &Key::from(n), &[1; 500]);
                old.media().flush_now().unwrap();
            }
            drop(old);
            let identity = Identity { store: identity, target: 0 };
            let media =
                media::Store::format(rig::regions(1 << 20, 16 << 20), identity, MEMORY_BYTES, Existing::Destroy)
                    .unwrap();
            let new = Store::format(media).unwrap();
            // Before and after the first batch of its own, which lies where an old one began.
            let mut new = reopen(new);
            assert!(new.pools().is_empty());
            new.create_pool(rig::pool(1), 1 << 20, Origin::default()).unwrap();
            let new = reopen(new);
            assert_eq!(new.pools(), [rig::pool(1)]);
        });
    }
}

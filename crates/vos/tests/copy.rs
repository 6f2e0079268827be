//! Placement groups that go from one store to another: what a rebuild does to both.

mod rig;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use rig::{Generator, Model, Op, Outcome, compare_at, container, on_node, pool, submit};
use rt::sim::disk::{Recorder, Volume};
use rt::sim::{Sim, SimConfig};
use types::{Conditions, ContainerId, Epoch};
use vos::{CopiedPayload, CopiedValue, CopyPart, Error, Incoming, Origin, Payload, Reservation, Span, Store};

const GROUPS: [u32; 2] = [0, 1];

fn id() -> ContainerId {
    container(0)
}

fn with_container(mut store: Store) -> Store {
    store.create_pool(pool(0), 8 << 20, Origin::default()).unwrap();
    store.create_container(pool(0), id(), Origin::default()).unwrap();
    store
}

fn first() -> Store {
    with_container(rig::format(1 << 20, 16 << 20, 4 << 20))
}

fn second() -> Store {
    with_container(rig::format_second(1 << 20, 16 << 20, 4 << 20))
}

fn model() -> Model {
    let mut model = Model::default();
    model.apply(&Op::CreatePool(0, 8 << 20));
    model.apply(&Op::CreateContainer(0, 0));
    model
}

/// An operation on data, done to the model and to the leader's store; what it has found to hold is done by the others too.
fn work(leader: &mut Store, others: &mut [&mut Store], model: &mut Model, generator: &mut Generator, seq: u64) {
    let mut op = if generator.dice.chance(4) { generator.punch(0) } else { generator.update(0) };
    let expected = model.apply(&op);
    assert_eq!(submit(leader, &op, seq).unwrap().0, expected, "{op:?}");
    if let Op::Update { conditions, .. } | Op::Punch { conditions, .. } = &mut op {
        *conditions = Conditions::None;
    }
    for store in others.iter_mut().filter(|_| expected == Outcome::Done) {
        assert_eq!(submit(store, &op, seq).unwrap().0, expected, "{op:?}");
    }
}

fn whole(group: u32) -> Span<'static> {
    Span { group, from: None, end: None, upto: Epoch::MAX }
}

/// Every part of a group, as a carrier gets them who has nothing of it.
fn parts(store: &mut Store, group: u32) -> Vec<CopyPart> {
    let (mut parts, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let span = Span { from: after.as_deref(), ..whole(group) };
        let part = store.copy_out(id(), &span, &BTreeSet::new()).unwrap();
        after.clone_from(&part.next);
        parts.push(part);
        if after.is_none() {
            return parts;
        }
    }
}

/// Reads a part's bulk values from its source, and takes it in at the target.
fn carry(source: &Store, target: &mut Store, part: &CopyPart) -> Result<(), Error> {
    if part.records.is_empty() {
        return Ok(());
    }
    let mut reservations: Vec<Option<Reservation>> = Vec::new();
    for record in &part.records {
        reservations.push(match record.value.payload() {
            Some(CopiedPayload::Bulk { blocks, bytes, .. }) => {
                let read = rig::read_blocks(source, blocks, *bytes);
                let at = target.reserve_bulk(id(), *bytes)?;
                target.media().bulk_write_now(at.media().unwrap(), 0, &read)?;
                Some(at)
            }
            _ => None,
        });
    }
    let incoming: Vec<Incoming<'_>> = std::iter::zip(&part.records, &reservations)
        .map(|(record, at)| Incoming {
            key: &record.key,
            value: record.value.map(|payload| match (payload, at) {
                (CopiedPayload::Bulk { bytes, checksums, .. }, Some(at)) => {
                    Payload::Bulk { at, bytes: *bytes, checksums }
                }
                (CopiedPayload::Inline { bytes, checksums }, _) => Payload::Inline { bytes, checksums },
                (CopiedPayload::Bulk { .. }, None) => unreachable!("a bulk value has a reservation"),
            }),
        })
        .collect();
    target.copy_in(id(), part.undone, &incoming).map(drop)
}

fn digest(store: &mut Store, group: u32, upto: Epoch) -> u64 {
    let (mut sum, mut after) = (0u64, None::<Vec<u8>>);
    loop {
        let (part, next) = store.digest(id(), &Span { from: after.as_deref(), upto, ..whole(group) }).unwrap();
        sum = sum.wrapping_add(part);
        after = next;
        if after.is_none() {
            return sum;
        }
    }
}

fn compare_all(store: &mut Store, model: &Model, generator: &Generator) {
    for at in (0..=generator.newest() + 1).map(Epoch).chain([Epoch::MAX]) {
        compare_at(store, model, generator.objects, at);
    }
    store.check().expect_clean();
}

/// Parts come in any order, some twice, while both stores go on as members: the copy has every moment of the original.
#[test]
fn a_copy_has_every_moment_of_the_original() {
    for seed in 0..20 {
        on_node(seed, move || {
            let (mut source, mut target, mut model) = (first(), second(), model());
            let mut generator = Generator::new(seed);
            // Whose data is not whole cannot judge sizes, as it cannot judge conditions.
            generator.usual_sizes = true;
            for seq in 1..40 + generator.dice.below(60) {
                work(&mut source, &mut [], &mut model, &mut generator, seq);
            }
            for store in [&mut source, &mut target] {
                store.hold(id(), true).unwrap();
            }
            let before = Epoch(generator.newest());
            let mut all: Vec<CopyPart> = GROUPS.iter().flat_map(|group| parts(&mut source, *group)).collect();
            // As single records, so that their order is shuffled too.
            all = all
                .into_iter()
                .flat_map(|part| {
                    let CopyPart { records, same, next: _, horizon, undone } = part;
                    records.into_iter().map(move |one| CopyPart {
                        records: vec![one],
                        same: same.clone(),
                        next: None,
                        horizon,
                        undone,
                    })
                })
                .collect();
            for at in (1..all.len()).rev() {
                all.swap(at, generator.dice.below(at as u64 + 1) as usize);
            }
            generator.in_order = true;
            for (seq, part) in all.iter().enumerate() {
                carry(&source, &mut target, part).unwrap();
                if generator.dice.chance(5) {
                    carry(&source, &mut target, part).unwrap();
                }
                if generator.dice.chance(8) && generator.newest() < 60 {
                    // Each at a moment of its own, as members take them.
                    generator.skip();
                    work(&mut source, &mut [&mut target], &mut model, &mut generator, 1000 + seq as u64);
                }
            }
            for group in GROUPS {
                for upto in [before, Epoch(generator.newest())] {
                    assert_eq!(digest(&mut source, group, upto), digest(&mut target, group, upto), "group {group}");
                }
            }
            compare_all(&mut target, &model, &generator);
            // What nobody can see any more goes on both, at last.
            let horizon = Epoch(generator.newest());
            for store in [&mut source, &mut target] {
                store.hold(id(), false).unwrap();
                store.advance(id(), horizon).unwrap();
                while store.maintain(4).unwrap() {}
                compare_at(store, &model, generator.objects, Epoch::MAX);
                store.check().expect_clean();
            }
        });
    }
}

/// A digest tells a store that lacks one record, or has one more, from a whole one.
#[test]
fn a_digest_misses_no_record() {
    on_node(100, || {
        let (mut source, mut model) = (first(), model());
        let mut generator = Generator::new(7);
        for seq in 1..80 {
            work(&mut source, &mut [], &mut model, &mut generator, seq);
        }
        let whole = parts(&mut source, 0);
        let records: Vec<_> = whole.iter().flat_map(|part| part.records.clone()).collect();
        let upto = Epoch(generator.newest());
        let wanted = digest(&mut source, 0, upto);
        let mut target = second();
        assert!(records.len() > 20);
        for left_out in (0..records.len()).step_by(5) {
            let some: Vec<_> =
                records.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, r)| r.clone()).collect();
            carry(&source, &mut target, &CopyPart { records: some, ..whole[0].clone() }).unwrap();
            assert_ne!(digest(&mut target, 0, upto), wanted, "without record {left_out}");
            while target.drop_group(id(), 0).unwrap() {}
        }
    });
}

/// What came, what went, and what was there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Matched {
    came: usize,
    went: usize,
    same: usize,
}

/// Makes a group of `target` what it is in `source`, `most` of its own records at a time, as far as it was written up to `upto`.
fn make_same(source: &mut Store, target: &mut Store, group: u32, upto: Epoch, most: usize) -> Matched {
    let (mut matched, mut from) = (Matched::default(), None::<Vec<u8>>);
    loop {
        let here = target.prints(id(), &Span { from: from.as_deref(), upto, ..whole(group) }, most).unwrap();
        let span = Span { from: from.as_deref(), end: here.next.as_deref(), upto, ..whole(group) };
        let known: BTreeSet<u64> = here.found.iter().map(|(_, print)| *print).collect();
        let part = source.copy_out(id(), &span, &known).unwrap();
        let is_of = |key: &[u8]| part.next.as_deref().is_none_or(|next| key < next);
        let (same, excess): (Vec<_>, Vec<_>) =
            here.found.iter().filter(|(key, _)| is_of(key)).partition(|(_, print)| part.same.contains(print));
        matched.same += same.len();
        matched.went += excess.len();
        matched.came += part.records.len();
        let excess: Vec<&[u8]> = excess.iter().map(|(key, _)| &key[..]).collect();
        if !excess.is_empty() {
            target.take_out(id(), part.undone, &excess).unwrap();
        }
        if target.container_info(id()).unwrap().horizon < part.horizon {
            target.advance(id(), part.horizon).unwrap();
        }
        carry(source, target, &part).unwrap();
        from = part.next.or(here.next);
        if from.is_none() {
            return matched;
        }
    }
}

/// Who was out for a while gets what it missed and nothing else, though the others have forgotten, meanwhile, what newer
/// versions hid; and what only it has goes: changes that nobody else committed, of whatever epoch.
#[test]
fn who_was_out_gets_what_it_lacks_and_loses_what_only_it_has() {
    let mut all = Matched::default();
    for seed in 200..212 {
        let told = Rc::new(RefCell::new(Matched::default()));
        let tell = told.clone();
        on_node(seed, move || {
            let (mut source, mut target, mut model) = (first(), second(), model());
            let mut generator = Generator::new(seed);
            (generator.in_order, generator.usual_sizes) = (true, true);
            for seq in 1..80 {
                work(&mut source, &mut [&mut target], &mut model, &mut generator, seq);
            }
            generator.skip();
            // Whose changes nobody else has: the model of the group does not.
            let mut lonely = Generator::new(seed + 1000);
            (lonely.in_order, lonely.usual_sizes) = (true, true);
            while lonely.newest() + 5 < generator.newest() {
                lonely.skip();
            }
            for seq in 0..generator.dice.below(20) {
                let mut op = if lonely.dice.chance(4) { lonely.punch(0) } else { lonely.update(0) };
                if let Op::Update { conditions, .. } | Op::Punch { conditions, .. } = &mut op {
                    *conditions = Conditions::None;
                }
                let _ = submit(&mut target, &op, 5000 + seq);
            }
            for seq in 80..90 {
                work(&mut source, &mut [], &mut model, &mut generator, seq);
            }
            let upto = Epoch(generator.newest().max(lonely.newest()));
            // Either has forgotten some of what nobody can see, as far as it came.
            let forgets = seed % 3 == 0;
            for store in [&mut source, &mut target] {
                if forgets && generator.dice.chance(2) {
                    store.advance(id(), Epoch(generator.newest())).unwrap();
                    for _ in 0..generator.dice.below(4) {
                        store.maintain(1).unwrap();
                    }
                }
                store.hold(id(), true).unwrap();
            }
            let most = 1 + generator.dice.below(40) as usize;
            let mut sum = Matched::default();
            for group in GROUPS {
                let Matched { came, went, same } = make_same(&mut source, &mut target, group, upto, most);
                sum = Matched { came: sum.came + came, went: sum.went + went, same: sum.same + same };
                assert_eq!(
                    digest(&mut source, group, Epoch::MAX),
                    digest(&mut target, group, Epoch::MAX),
                    "seed {seed}"
                );
                let again = make_same(&mut source, &mut target, group, upto, most);
                assert_eq!((again.came, again.went), (0, 0), "seed {seed}");
            }
            let horizon = target.container_info(id()).unwrap().horizon;
            for at in (horizon.0..=generator.newest() + 1).step_by(9).map(Epoch).chain([Epoch::MAX]) {
                compare_at(&mut target, &model, generator.objects, at);
            }
            target.check().expect_clean();
            if !forgets {
                *tell.borrow_mut() = sum;
            }
        });
        let Matched { came, went, same } = *told.borrow();
        all = Matched { came: all.came + came, went: all.went + went, same: all.same + same };
    }
    // Of ninety operations ten were missed, and some more were undone.
    assert!(all.same > 4 * all.came && all.came > 100 && all.went > 50, "{all:?}");
}

/// What is written after the moment of the comparison comes to both as to members of the group: it is not touched.
#[test]
fn what_comes_later_is_nobodys_business() {
    on_node(221, || {
        let (mut source, mut target, mut model) = (first(), second(), model());
        let mut generator = Generator::new(3);
        generator.in_order = true;
        for seq in 1..60 {
            work(&mut source, &mut [], &mut model, &mut generator, seq);
        }
        let upto = Epoch(generator.newest());
        generator.skip();
        let mut later = model.clone();
        for seq in 60..80 {
            work(&mut target, &mut [], &mut later, &mut generator, seq);
        }
        let before: BTreeSet<Vec<u8>> = keys(&mut target);
        for group in GROUPS {
            make_same(&mut source, &mut target, group, upto, 7);
        }
        assert!(keys(&mut target).is_superset(&before));
        assert!(keys(&mut target).is_superset(&keys(&mut source)));
    });
}

/// A target that leaves a group has nothing of it, and everything of the others.
#[test]
fn a_group_is_dropped_and_comes_again() {
    on_node(222, || {
        let (mut source, mut target, mut model) = (first(), second(), model());
        let mut generator = Generator::new(9);
        generator.in_order = true;
        for seq in 1..90 {
            work(&mut source, &mut [&mut target], &mut model, &mut generator, seq);
        }
        let kept = digest(&mut target, 1, Epoch::MAX);
        let used = target.pool_space(pool(0)).unwrap().bulk;
        while target.drop_group(id(), 0).unwrap() {}
        assert_eq!((digest(&mut target, 0, Epoch::MAX), digest(&mut target, 1, Epoch::MAX)), (0, kept));
        assert!(target.pool_space(pool(0)).unwrap().bulk <= used);
        target.check().expect_clean();
        for part in parts(&mut source, 0) {
            carry(&source, &mut target, &part).unwrap();
        }
        compare_all(&mut target, &model, &generator);
    });
}

/// A container that is held keeps what it would give up else: a punch that came before what it hides is not useless.
#[test]
fn nothing_is_aggregated_while_a_container_is_held() {
    on_node(300, || {
        let (mut source, mut model) = (first(), model());
        let mut generator = Generator::new(3);
        for seq in 1..80 {
            work(&mut source, &mut [], &mut model, &mut generator, seq);
        }
        let before = digest(&mut source, 0, Epoch::MAX);
        source.hold(id(), true).unwrap();
        source.advance(id(), Epoch(generator.newest())).unwrap();
        assert!(!source.maintain(100).unwrap());
        assert_eq!(digest(&mut source, 0, Epoch::MAX), before);
        source.hold(id(), false).unwrap();
        while source.maintain(4).unwrap() {}
        assert_ne!(digest(&mut source, 0, Epoch::MAX), before);
        source.check().expect_clean();
    });
}

/// What a rollback undid does not come back by a copy that was read before.
#[test]
fn a_copy_from_before_a_rollback_is_refused() {
    on_node(301, || {
        let (mut source, mut target, mut model) = (first(), second(), model());
        let mut generator = Generator::new(5);
        generator.in_order = true;
        for seq in 1..60 {
            work(&mut source, &mut [], &mut model, &mut generator, seq);
        }
        let old = parts(&mut source, 0);
        let (to, asked) = (Epoch(3), Epoch(generator.newest() + 5));
        for store in [&mut source, &mut target] {
            store.rollback(id(), to, asked, Origin::default()).unwrap();
        }
        assert!(matches!(source.copy_out(id(), &whole(0), &BTreeSet::new()), Err(Error::RollingBack { .. })));
        assert!(matches!(carry(&source, &mut target, &old[0]), Err(Error::RollingBack { .. })));
        for store in [&mut source, &mut target] {
            while store.maintain(4).unwrap() {}
        }
        assert!(matches!(carry(&source, &mut target, &old[0]), Err(Error::Invalid(_))));
        for part in GROUPS.iter().flat_map(|group| parts(&mut source, *group)).collect::<Vec<_>>() {
            carry(&source, &mut target, &part).unwrap();
        }
        for group in GROUPS {
            assert_eq!(digest(&mut source, group, Epoch::MAX), digest(&mut target, group, Epoch::MAX));
        }
        target.check().expect_clean();
    });
}

/// A punch came as a copy while it was prepared here, and then was committed: it was counted twice, and a count that is too
/// high makes every read look for punches. (Found by campaigns with servers that return.)
#[test]
fn a_punch_that_comes_as_a_copy_and_as_a_change_counts_once() {
    on_node(303, || {
        let (mut source, mut target) = (first(), second());
        let (group, oid) = rig::object(0);
        let dkey = types::Key::from(7);
        let punch = vos::Punch { group, oid, scope: vos::PunchScope::Dkey(&dkey), conditions: Conditions::None };
        let term = vos::Term { interval: 1, round: 0 };
        let change = vos::ChangeId { group, term, number: 1 };
        let ops = [vos::Op::Punch(punch)];
        let wanted = vos::Prepare { change, container: id(), origin: Origin::default(), note: &[1], ops: &ops };
        for store in [&mut source, &mut target] {
            store.prepare_judged(&wanted, Epoch(5)).unwrap();
        }
        source.commit(pool(0), change).unwrap();
        for part in parts(&mut source, group) {
            assert_eq!(part.records.len(), 1);
            carry(&source, &mut target, &part).unwrap();
        }
        target.commit(pool(0), change).unwrap();
        assert_eq!(digest(&mut source, group, Epoch::MAX), digest(&mut target, group, Epoch::MAX));
        target.check().expect_clean();
    });
}

/// What comes from a peer is looked at before it is believed.
#[test]
fn what_is_no_record_is_refused() {
    on_node(302, || {
        let (mut source, mut target, mut model) = (first(), second(), model());
        let mut generator = Generator::new(11);
        for seq in 1..60 {
            work(&mut source, &mut [], &mut model, &mut generator, seq);
        }
        let whole = parts(&mut source, 0);
        let mut refused = 0;
        for record in whole.iter().flat_map(|part| &part.records) {
            let value = || match &record.value {
                CopiedValue::Single(_) => CopiedValue::Hole { count: 1 },
                _ => CopiedValue::Single(Payload::Inline { bytes: b"x", checksums: &[1] }),
            };
            for cut in 0..record.key.len() {
                let one = [Incoming { key: &record.key[..cut], value: CopiedValue::Punch }];
                refused += u64::from(matches!(target.copy_in(id(), Epoch::ZERO, &one), Err(Error::Invalid(_))));
            }
            let one = [Incoming { key: &record.key, value: value() }];
            assert!(matches!(target.copy_in(id(), Epoch::ZERO, &one), Err(Error::Invalid(_))));
        }
        assert!(refused > 100);
        target.check().expect_clean();
    });
}

/// What was acknowledged after how many device events: records that must be there, and whether dropping has begun.
#[derive(Default)]
struct Script {
    copied: Vec<(usize, BTreeSet<Vec<u8>>)>,
    /// From then on it takes records out, and drops the rest.
    dropped_from: usize,
}

fn keys(store: &mut Store) -> BTreeSet<Vec<u8>> {
    let all = GROUPS.iter().flat_map(|group| parts(store, *group)).collect::<Vec<_>>();
    all.into_iter().flat_map(|part| part.records).map(|record| record.key).collect()
}

fn record_copying() -> (Recorder, Script) {
    let sim = Sim::new(SimConfig::seeded(400));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let (recording, script) = (recorder.clone(), Rc::new(RefCell::new(Script::default())));
    let noted = script.clone();
    sim.run(async move {
        let body = async move {
            let script = &mut *noted.borrow_mut();
            let (mut source, mut target, mut model) = (first(), second(), model());
            let mut generator = Generator::new(21);
            for seq in 1..40 {
                work(&mut source, &mut [], &mut model, &mut generator, seq);
            }
            source.media().checkpoint_blocking().unwrap();
            target.media().checkpoint_blocking().unwrap();
            script.copied.push((recording.events(), BTreeSet::new()));
            let all: Vec<CopyPart> = GROUPS.iter().flat_map(|group| parts(&mut source, *group)).collect();
            let records = all.iter().flat_map(|part| part.records.clone()).collect::<Vec<_>>();
            for (step, some) in records.chunks(9).enumerate() {
                carry(&source, &mut target, &CopyPart { records: some.to_vec(), ..all[0].clone() }).unwrap();
                target.media().flush_now().unwrap();
                script.copied.push((recording.events(), keys(&mut target)));
                if step % 3 == 2 {
                    target.media().checkpoint_blocking().unwrap();
                }
            }
            script.dropped_from = recording.events();
            let excess: Vec<Vec<u8>> = keys(&mut target).into_iter().step_by(3).collect();
            for some in excess.chunks(8) {
                let some: Vec<&[u8]> = some.iter().map(|key| &key[..]).collect();
                target.take_out(id(), Epoch::ZERO, &some).unwrap();
                target.media().flush_now().unwrap();
            }
            assert!(keys(&mut target).is_disjoint(&excess.into_iter().collect()));
            while target.drop_group(id(), 0).unwrap() {
                target.media().flush_now().unwrap();
            }
            target.media().checkpoint_blocking().unwrap();
            target.check().expect_clean();
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
    (recorder, Rc::try_unwrap(script).ok().expect("the run is over").into_inner())
}

/// Opens both after a cut: what was acknowledged is there, and the copy can be completed.
fn complete(volume: &Volume, owed: BTreeSet<Vec<u8>>, seed: u64) {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("target");
    sim.install(node, volume);
    sim.run(async move {
        let body = async move {
            let (mut source, mut target) = (rig::open(4 << 20).unwrap().0, rig::open_second(4 << 20).unwrap().0);
            target.check().expect_clean();
            assert!(keys(&mut target).is_superset(&owed), "an acknowledged part is whole");
            for part in GROUPS.iter().flat_map(|group| parts(&mut source, *group)).collect::<Vec<_>>() {
                carry(&source, &mut target, &part).unwrap();
            }
            for group in GROUPS {
                assert_eq!(digest(&mut source, group, Epoch::MAX), digest(&mut target, group, Epoch::MAX));
            }
            target.check().expect_clean();
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
}

/// The power fails after any device event of a copy, of taking records out, or of dropping a group: no block is lost or given twice (K8), what was
/// acknowledged is there (K1), and who goes on ends with the same as the source.
#[test]
fn a_copy_that_is_cut_off_anywhere_is_completed() {
    let (recorder, script) = record_copying();
    let mut replay = recorder.replay();
    let begun = script.copied[0].0;
    loop {
        let events = replay.events();
        if events >= begun {
            let owed = script.copied.iter().rev().find(|(at, _)| *at <= events).map(|(_, keys)| keys.clone());
            let owed = owed.filter(|_| events < script.dropped_from).unwrap_or_default();
            complete(&replay.power_cut(events as u64), owed, events as u64);
        }
        if !replay.step() {
            break;
        }
    }
}

//! What sessions remember, against what must be so.

use super::*;
use crate::catalog::Catalog;

const RING: u64 = EFFECTS_MAX as u64;

fn origin(session: u64, seq: u64) -> Origin {
    Origin { session: SessionId(session), seq }
}

fn catalog() -> (Pages, Catalog) {
    let mut pages = Pages::in_memory(1 << 20).unwrap();
    let (catalog, _) = Catalog::create(&mut pages).unwrap();
    (pages, catalog)
}

/// What a store that was opened now would know.
fn loaded(pages: &mut Pages, catalog: &Catalog) -> Table {
    let mut table = Table::default();
    table.load(&catalog.own, pages, &mut |_, _, error| Err(error)).unwrap();
    table
}

fn faults(pages: &mut Pages, catalog: &Catalog) -> Vec<(String, String)> {
    let (mut owned, mut faults) = (BTreeSet::new(), Vec::new());
    catalog.sessions.check(&catalog.own, pages, &mut owned, &mut faults);
    assert!(!faults.is_empty() || owned.len() == catalog.sessions.rings.len());
    faults
}

#[test]
fn a_page_has_its_golden_bytes() {
    let (mut pages, mut catalog) = catalog();
    for n in 0..RING + 2 {
        catalog.note(&mut pages, origin(0x0102, 0x0300 + n), Epoch(0x0500 + n)).unwrap();
    }
    let id = catalog.sessions.rings[&0x0102].page;
    let mut golden = [0; PAGE_BODY_BYTES];
    let mut put = |at: usize, value: u64| golden[at..at + 8].copy_from_slice(&value.to_le_bytes());
    for (at, value) in [(0, 1), (8, 0x0102), (16, RING + 2), (24, 0x0302), (32, 0x0500 + RING + 1)] {
        put(at, value);
    }
    for n in 2..RING + 2 {
        let at = 48 + (n % RING) as usize * 16;
        put(at, 0x0300 + n);
        put(at + 8, 0x0500 + n);
    }
    let page = pages.get(id).unwrap();
    assert_eq!((page.kind(), page.body() == &golden), (3, true));
    let key = [6, 0, 0, 0, 0, 0, 0, 1, 2];
    assert_eq!(catalog.own.tree.get(&pages, &key).unwrap(), Some(&id.0.to_le_bytes()[..]));
}

#[test]
fn an_effect_is_remembered_until_a_page_full_of_others_has_come() {
    let (mut pages, mut catalog) = catalog();
    // Numbers of one session reach a target with gaps, and not quite in order.
    for seq in [3, 9, 5] {
        catalog.note(&mut pages, origin(7, seq), Epoch(seq * 10)).unwrap();
    }
    let recall = |pages: &Pages, table: &Table, seq| table.recall(pages, origin(7, seq)).unwrap();
    for table in [&catalog.sessions, &loaded(&mut pages, &catalog)] {
        assert_eq!(recall(&pages, table, 5), Recall::Done(Epoch(50)));
        assert_eq!([4, 10].map(|seq| recall(&pages, table, seq)), [Recall::Never; 2]);
        assert_eq!(table.recall(&pages, origin(8, 3)).unwrap(), Recall::Never, "another session");
    }
    for seq in 100..100 + RING - 2 {
        catalog.note(&mut pages, origin(7, seq), Epoch(seq)).unwrap();
    }
    for table in [&catalog.sessions, &loaded(&mut pages, &catalog)] {
        assert_eq!([1, 3].map(|seq| recall(&pages, table, seq)), [Recall::Forgotten; 2]);
        assert_eq!(recall(&pages, table, 4), Recall::Never, "only 3 has left");
        assert_eq!(recall(&pages, table, 9), Recall::Done(Epoch(90)));
    }
    assert_eq!(faults(&mut pages, &catalog), []);
}

#[test]
fn a_request_without_a_session_leaves_nothing() {
    let (mut pages, mut catalog) = catalog();
    let before = pages.usage().pages;
    catalog.note(&mut pages, Origin::default(), Epoch(1)).unwrap();
    assert_eq!(
        (pages.usage().pages, catalog.sessions.recall(&pages, Origin::default()).unwrap()),
        (before, Recall::Never)
    );
}

#[test]
fn the_session_used_longest_ago_gives_its_page_to_a_new_one() {
    let (mut pages, mut catalog) = catalog();
    let empty = pages.usage().pages;
    for session in 1..=SESSIONS_MIN {
        catalog.note(&mut pages, origin(session, 1), Epoch(session)).unwrap();
    }
    catalog.note(&mut pages, origin(1, 2), Epoch(50)).unwrap();
    assert_eq!(pages.usage().pages, empty + SESSIONS_MIN);
    catalog.note(&mut pages, origin(99, 1), Epoch(60)).unwrap();
    assert_eq!(pages.usage().pages, empty + SESSIONS_MIN, "one came, one went");
    let back = loaded(&mut pages, &catalog);
    assert_eq!(back.rings, catalog.sessions.rings);
    assert_eq!(back.newest, catalog.sessions.newest);
    assert!(!back.rings.contains_key(&2) && back.rings.contains_key(&1) && back.rings.contains_key(&99));
    assert_eq!(faults(&mut pages, &catalog), []);
}

#[test]
fn damage_is_found_and_what_cannot_be_read_is_forgotten_alone() {
    let (mut pages, mut catalog) = catalog();
    for session in 1..=3 {
        catalog.note(&mut pages, origin(session, 1), Epoch(session)).unwrap();
    }
    let page = catalog.sessions.rings[&2].page;
    pages.get_mut(page).unwrap().body_mut()[8] = 9;
    assert_eq!(faults(&mut pages, &catalog).len(), 1);
    let mut bad = Vec::new();
    let mut table = Table::default();
    table
        .load(&catalog.own, &mut pages, &mut |name, session, _| {
            bad.push((name, session));
            Ok(())
        })
        .unwrap();
    assert_eq!(bad, [("session 0000000000000002".to_string(), Some(SessionId(2)))]);
    assert_eq!((table.rings.len(), table.unread.len()), (2, 1));
    assert_eq!(table.forget_unread(&mut catalog.own, &mut pages).unwrap(), ["session 0000000000000002"]);
    catalog.sessions = table;
    assert_eq!(faults(&mut pages, &catalog), []);
}

/// It is refused, not done again: whatever the number, before a restart or after it. Others push it out at last.
#[test]
fn of_a_session_whose_page_is_damaged_nothing_is_told_until_it_is_forgotten() {
    let (mut pages, mut catalog) = catalog();
    for session in 1..=3 {
        catalog.note(&mut pages, origin(session, 5), Epoch(session)).unwrap();
    }
    let page = catalog.sessions.rings[&2].page;
    pages.get_mut(page).unwrap().body_mut()[8] = 9;
    for _ in 0..2 {
        let mut table = Table::default();
        table.load(&catalog.own, &mut pages, &mut |_, _, _| Ok(())).unwrap();
        catalog.sessions = table;
        let told = [1, 5, 6, u64::MAX].map(|seq| catalog.sessions.recall(&pages, origin(2, seq)).unwrap());
        assert_eq!(told, [Recall::Unreadable; 4]);
        assert_eq!([2, 3].map(|session| catalog.sessions.highest(SessionId(session))), [u64::MAX, 5]);
        assert_eq!(catalog.sessions.recall(&pages, origin(3, 5)).unwrap(), Recall::Done(Epoch(3)));
        // A record of it in the log, at replay.
        catalog.touch_session(&pages, origin(2, 7)).unwrap();
        catalog.note(&mut pages, origin(2, 7), Epoch(70)).unwrap();
        assert_eq!(catalog.sessions.recall(&pages, origin(2, 7)).unwrap(), Recall::Unreadable);
        assert_eq!(faults(&mut pages, &catalog).len(), 1);
    }
    for session in 10..10 + SESSIONS_MIN {
        catalog.note(&mut pages, origin(session, 1), Epoch(session)).unwrap();
        assert!(catalog.sessions.len() as u64 <= SESSIONS_MIN);
    }
    assert!(catalog.sessions.unread.is_empty());
    assert_eq!(catalog.sessions.recall(&pages, origin(2, 5)).unwrap(), Recall::Never);
    assert_eq!(faults(&mut pages, &catalog), []);
}

/// A target that takes over another's work knows what that knew, and mixes it with what it knows itself.
#[test]
fn what_another_target_remembers_is_learnt_once() {
    let ((mut from, mut theirs), (mut to, mut ours)) = (catalog(), catalog());
    for seq in [9_000].into_iter().chain((1..=300).rev()) {
        theirs.note(&mut from, origin(7, seq), Epoch(seq)).unwrap();
    }
    ours.note(&mut to, origin(7, 310_000), Epoch(310_000)).unwrap();
    let memory = theirs.sessions.memory(&from, SessionId(7)).unwrap();
    let told = memory.effects.as_ref().unwrap();
    assert_eq!((told.floor, told.list.len()), (46, UNDER_WAY_MAX), "others are too old to come again");
    assert!(!ours.sessions.knows(&to, &memory).unwrap());
    for _ in 0..2 {
        ours.learn(&mut to, memory.session, told.floor, &told.list).unwrap();
        for table in [&ours.sessions, &loaded(&mut to, &ours)] {
            assert!(table.knows(&to, &memory).unwrap());
            let told = [46, 300, 9_000, 310_000].map(|seq| table.recall(&to, origin(7, seq)).unwrap());
            assert_eq!(told, [46, 300, 9_000, 310_000].map(|seq| Recall::Done(Epoch(seq))));
            let told = [45, 301, 310_001].map(|seq| table.recall(&to, origin(7, seq)).unwrap());
            assert_eq!(told, [Recall::Forgotten, Recall::Never, Recall::Never]);
        }
        assert_eq!(ours.sessions.effects(&to, SessionId(7)).unwrap().len(), UNDER_WAY_MAX + 1, "each once");
    }
    // Of more than there is room for, the highest stay, whoever's they are and whenever they came.
    let more: Vec<(u64, Epoch)> = (20_000..20_300).map(|seq| (seq, Epoch(seq))).collect();
    ours.learn(&mut to, SessionId(7), 0, &more).unwrap();
    ours.note(&mut to, origin(7, 301), Epoch(301)).unwrap();
    for table in [&ours.sessions, &loaded(&mut to, &ours)] {
        let told = [96, 97, 301, 20_299, 310_000].map(|seq| table.recall(&to, origin(7, seq)).unwrap());
        assert_eq!(told[1..], [97, 301, 20_299, 310_000].map(|seq| Recall::Done(Epoch(seq))));
        assert_eq!(told[0], Recall::Forgotten, "its place was taken");
    }
    assert_eq!(faults(&mut to, &ours), []);
}

/// What a record of what somebody else tells does.
fn learn(pages: &mut Pages, catalog: &mut Catalog, memory: &Memory) {
    let (floor, effects) = memory.noted();
    catalog.learn(pages, memory.session, floor, effects).unwrap();
}

/// One page that cannot be read made its session's memory unreadable at all targets, by way of a floor that each
/// believed and passed on. It is said in so many words now, and whoever gets a group from there cannot tell either; who
/// gets what another target has learnt of others hears of these as before.
#[test]
fn of_a_session_that_cannot_be_read_elsewhere_nothing_is_told_here_and_others_are_as_they_were() {
    let ((mut from, mut theirs), (mut to, mut ours)) = (catalog(), catalog());
    for session in 7..=9 {
        theirs.note(&mut from, origin(session, 5), Epoch(session)).unwrap();
    }
    ours.note(&mut to, origin(9, 6), Epoch(10)).unwrap();
    // One that could not be read when the store was opened, and one that rots now.
    let ring = theirs.sessions.rings.remove(&8).unwrap();
    theirs.sessions.unread.insert(8, Unread { page: Some(ring.page), newest: ring.newest });
    from.get_mut(theirs.sessions.rings[&9].page).unwrap().body_mut()[8] = 1;
    let told = [7, 8, 9].map(|session| theirs.sessions.memory(&from, SessionId(session)).unwrap());
    assert_eq!(told.each_ref().map(|memory| memory.effects.is_some()), [true, false, false]);
    for memory in &told {
        assert!(!ours.sessions.knows(&to, memory).unwrap());
        learn(&mut to, &mut ours, memory);
        assert!(ours.sessions.knows(&to, memory).unwrap());
    }
    for table in [&ours.sessions, &loaded(&mut to, &ours)] {
        assert_eq!(table.recall(&to, origin(7, 5)).unwrap(), Recall::Done(Epoch(7)));
        assert_eq!(table.recall(&to, origin(7, 6)).unwrap(), Recall::Never);
        for session in [8, 9] {
            let told = [1, 6, 900, u64::MAX].map(|seq| table.recall(&to, origin(session, seq)).unwrap());
            assert_eq!((told, table.highest(SessionId(session))), ([Recall::Unreadable; 4], u64::MAX));
            assert_eq!(table.memory(&to, SessionId(session)).unwrap().effects, None, "nor is it told on");
        }
    }
    assert_eq!(faults(&mut to, &ours), []);
    // Here, a page that has become unreadable learns nothing, and stops nobody from learning of others.
    to.get_mut(ours.sessions.rings[&7].page).unwrap().body_mut()[8] = 1;
    let more = Memory { session: SessionId(7), effects: Effects::new(0, vec![(5, Epoch(7)), (6, Epoch(11))]) };
    assert!(ours.sessions.knows(&to, &more).unwrap());
}

/// A client that numbers its requests downwards hears that nobody can tell: no list of effects would be true.
#[test]
fn what_is_told_of_a_session_is_all_from_its_floor_on_or_nothing() {
    for lie in [(1, vec![]), (8, vec![(7, Epoch(1))]), (0, vec![(7, Epoch(1)), (7, Epoch(1))])] {
        assert_eq!(Effects::new(lie.0, lie.1), None);
    }
    assert_eq!(Effects::new(0, (0..=RING).map(|seq| (seq, Epoch(1))).collect()), None, "more than a page holds");
    let (mut pages, mut catalog) = catalog();
    for seq in (1..=RING + 1).rev() {
        catalog.note(&mut pages, origin(7, seq), Epoch(1)).unwrap();
    }
    assert_eq!(catalog.sessions.memory(&pages, SessionId(7)).unwrap().effects, None);
}

/// A session goes on, as far as this target knows a member's; others tell of as many as there is room for that are over,
/// again and again. It was pushed out, for what is learnt counted as new, and its request was done twice. (K5)
#[test]
fn what_others_tell_of_sessions_that_are_over_displaces_none_that_goes_on() {
    let (mut pages, mut catalog) = catalog();
    catalog.note(&mut pages, origin(7, 10), Epoch(1000)).unwrap();
    let over =
        |session: u64| Memory { session: SessionId(session), effects: Effects::new(0, vec![(1, Epoch(session))]) };
    for session in 100..100 + 3 * SESSIONS_MIN {
        learn(&mut pages, &mut catalog, &over(session));
        assert!(catalog.sessions.knows(&pages, &over(session)).unwrap(), "it would cost no record again");
    }
    assert_eq!(catalog.sessions.recall(&pages, origin(7, 10)).unwrap(), Recall::Done(Epoch(1000)));
    // Those that did something last are known, and the next that does something displaces another of them.
    catalog.note(&mut pages, origin(8, 1), Epoch(1001)).unwrap();
    for table in [&catalog.sessions, &loaded(&mut pages, &catalog)] {
        let known: Vec<u64> = table.sessions().iter().map(|session| session.0).collect();
        let last = 100 + 3 * SESSIONS_MIN;
        assert_eq!(known, [7, 8].into_iter().chain(last - SESSIONS_MIN + 2..last).collect::<Vec<_>>());
    }
    // What did something before all of them does not come in; what did something since does.
    learn(&mut pages, &mut catalog, &over(9));
    learn(&mut pages, &mut catalog, &over(2000));
    let told = [9, 2000].map(|session| catalog.sessions.recall(&pages, origin(session, 1)).unwrap());
    assert_eq!(told, [Recall::Never, Recall::Done(Epoch(2000))]);
    assert_eq!(faults(&mut pages, &catalog), []);
}

/// Whatever the bytes, reading a page ends with an answer or a refusal (K23).
#[test]
fn foreign_bytes_are_no_danger() {
    let (mut pages, mut catalog) = catalog();
    catalog.note(&mut pages, origin(1, 1), Epoch(1)).unwrap();
    let page = catalog.sessions.rings[&1].page;
    let (mut dice, mut whole) = (1u64, 0);
    for round in 0..200 {
        for byte in pages.get_mut(page).unwrap().body_mut().iter_mut().skip(if round % 2 == 0 { 16 } else { 0 }) {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (dice >> 56) as u8;
        }
        // Counts of a store that has run for long, as often as impossible ones.
        if round % 4 == 0 {
            [23, 39].iter().for_each(|at| pages.get_mut(page).unwrap().body_mut()[*at] = 0);
        }
        if let Ok(ring) = Ring::load(&pages, page, 1) {
            whole += 1;
            catalog.sessions.rings.insert(1, ring);
            catalog.sessions.recall(&pages, origin(1, ring.highest)).unwrap();
            catalog.note(&mut pages, origin(1, dice), Epoch(dice)).unwrap();
        }
        // The head of the page, for the next round.
        let body = pages.get_mut(page).unwrap().body_mut();
        body[..16].fill(0);
        (body[0], body[8]) = (1, 1);
    }
    assert!((50..100).contains(&whole), "{whole} of 200 could be read");
}

//! What clients saw of single keys, and whether one after another can explain it.
//!
//! The tests of placement groups (`engine/tests/groups`) include this file: they lie below this crate.

use std::collections::{BTreeMap, BTreeSet};

use rt::Instant;

/// One operation: from when to when, and what it did.
#[derive(Clone, Debug)]
pub struct Event {
    began: Instant,
    /// `None`: nobody knows whether it happened, or when.
    ended: Option<Instant>,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Read(Option<String>),
    /// `None`: a removal.
    Write(Option<String>),
}

impl Event {
    pub fn read(began: Instant, value: Option<String>) -> Event {
        Event { began, ended: Some(rt::now()), what: What::Read(value) }
    }

    pub fn write(began: Instant, value: impl Into<Option<String>>, is_known: bool) -> Event {
        Event { began, ended: is_known.then(rt::now), what: What::Write(value.into()) }
    }
}

/// By group and key.
#[derive(Default)]
pub struct Histories(BTreeMap<(u32, String), Vec<Event>>);

impl Histories {
    pub fn note(&mut self, group: u32, key: &str, event: Event) {
        self.0.entry((group, key.to_string())).or_default().push(event);
    }

    /// # Errors
    /// The key whose history cannot be put in an order.
    pub fn check(&self) -> Result<(), String> {
        for ((group, key), events) in &self.0 {
            assert!(events.len() <= 128, "few enough for a mask");
            if !is_linearizable(events) {
                return Err(format!("group {group:#x}, {key}: no order explains {events:#?}"));
            }
        }
        Ok(())
    }
}

/// Tries all orders in which an operation comes before those that began after its end (Wing and Gong), and none twice.
fn is_linearizable(events: &[Event]) -> bool {
    let known = events.iter().enumerate().filter(|(_, event)| event.ended.is_some());
    let goal = known.fold(0u128, |mask, (at, _)| mask | 1 << at);
    let mut seen: BTreeSet<(u128, Option<usize>)> = BTreeSet::new();
    // What was done so far, and which write came last.
    let mut open = vec![(0u128, None::<usize>)];
    while let Some((done, last)) = open.pop() {
        if done & goal == goal {
            return true;
        }
        if !seen.insert((done, last)) {
            continue;
        }
        let left = || events.iter().enumerate().filter(move |(at, _)| done & 1 << at == 0);
        let first_end = left().filter_map(|(_, event)| event.ended).min();
        for (at, event) in left() {
            if first_end.is_some_and(|end| event.began > end) {
                continue;
            }
            let value = last.and_then(|at: usize| match &events[at].what {
                What::Write(value) => value.as_deref(),
                What::Read(_) => unreachable!("a write came last"),
            });
            match &event.what {
                What::Write(_) => open.push((done | 1 << at, Some(at))),
                What::Read(seen) if seen.as_deref() == value => open.push((done | 1 << at, last)),
                What::Read(_) => {}
            }
        }
    }
    false
}

#[test]
fn the_checker_finds_what_no_order_explains() {
    let at = |n: u64| Instant::from_nanos(n);
    let write = |value: &str, from, to: Option<u64>| Event {
        began: at(from),
        ended: to.map(at),
        what: What::Write(Some(value.into())),
    };
    let remove = |from, to| Event { began: at(from), ended: Some(at(to)), what: What::Write(None) };
    let read = |value: Option<&str>, from, to| Event {
        began: at(from),
        ended: Some(at(to)),
        what: What::Read(value.map(Into::into)),
    };
    assert!(is_linearizable(&[write("a", 1, Some(2)), read(Some("a"), 3, 4)]));
    assert!(!is_linearizable(&[write("a", 1, Some(2)), read(None, 3, 4)]), "lost");
    assert!(is_linearizable(&[write("a", 1, None), read(None, 3, 4), read(Some("a"), 5, 6)]));
    assert!(!is_linearizable(&[write("a", 1, None), read(Some("a"), 3, 4), read(None, 5, 6)]), "back again");
    assert!(is_linearizable(&[write("a", 1, Some(2)), remove(3, 4), read(None, 5, 6)]));
    assert!(!is_linearizable(&[write("a", 1, Some(2)), remove(3, 4), read(Some("a"), 5, 6)]), "not removed");
    let both = [write("a", 1, Some(9)), write("b", 1, Some(9))];
    let reads = |first, second| [read(Some(first), 2, 3), read(Some(second), 10, 11)];
    assert!(is_linearizable(&[&both[..], &reads("a", "b")].concat()));
    let thrice = [&both[..], &reads("a", "b"), &[read(Some("a"), 12, 13)]].concat();
    assert!(!is_linearizable(&thrice), "written twice");
}

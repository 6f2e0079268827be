//! What clients saw, and whether one list explains it: the oracle.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rt::Instant;

/// What clients asked for and were told.
#[derive(Default)]
pub struct History {
    appends: RefCell<Vec<Appended>>,
    reads: RefCell<Vec<Read>>,
}

struct Appended {
    item: u64,
    begun: Instant,
    may_have_happened: bool,
    answer: Option<(Instant, u64)>,
}

struct Read {
    begun: Instant,
    seen: Option<(Instant, Vec<u64>)>,
}

impl History {
    pub fn begin(&self, item: u64) -> usize {
        let append = Appended { item, begun: rt::now(), may_have_happened: false, answer: None };
        self.appends.borrow_mut().push(append);
        self.appends.borrow().len() - 1
    }

    pub fn may_have_happened(&self, at: usize) {
        self.appends.borrow_mut()[at].may_have_happened = true;
    }

    pub fn answered(&self, at: usize, place: u64) {
        self.appends.borrow_mut()[at].answer = Some((rt::now(), place));
    }

    pub fn begin_read(&self) -> usize {
        self.reads.borrow_mut().push(Read { begun: rt::now(), seen: None });
        self.reads.borrow().len() - 1
    }

    pub fn saw(&self, at: usize, items: Vec<u64>) {
        self.reads.borrow_mut()[at].seen = Some((rt::now(), items));
    }

    pub fn answers(&self) -> usize {
        self.appends.borrow().iter().filter(|append| append.answer.is_some()).count()
    }

    pub fn reads(&self) -> usize {
        self.reads.borrow().iter().filter(|read| read.seen.is_some()).count()
    }

    /// Appends to a list answer their places, so the final list is the order in which they took effect, and a history is
    /// linearizable if and only if that order respects time:
    ///
    /// 1. nothing is in the list twice, or without having been asked for, or although it was refused;
    /// 2. what was answered stands at the answered place;
    /// 3. what was answered before another began stands before it;
    /// 4. a read saw a beginning of the list, with all that was answered before it began, and nothing begun after its end.
    pub fn check(&self, seed: u64, list: &[u64]) {
        let mut places = BTreeMap::new();
        for (place, item) in list.iter().enumerate() {
            assert!(places.insert(*item, place as u64).is_none(), "seed {seed}: {item:#x} was applied twice");
        }
        let appends = self.appends.borrow();
        // Per place: when it began, at the latest when it was answered.
        let mut by_place = BTreeMap::new();
        for append in appends.iter() {
            let place = places.remove(&append.item);
            match (append.answer, place) {
                (Some((_, answered)), place) => {
                    assert_eq!(
                        place,
                        Some(answered),
                        "seed {seed}: {:#x} was answered and is lost or moved",
                        append.item
                    );
                }
                (None, Some(_)) => {
                    assert!(append.may_have_happened, "seed {seed}: {:#x} was refused and took effect", append.item);
                }
                (None, None) => {}
            }
            if let Some(place) = place {
                by_place.insert(place, append);
            }
        }
        assert!(places.is_empty(), "seed {seed}: nobody asked for {places:?}");

        // From the end: the earliest answer among later places must not be before this one began.
        let mut earliest_answer: Option<Instant> = None;
        for (place, append) in by_place.iter().rev() {
            if let Some(earliest) = earliest_answer {
                assert!(
                    earliest >= append.begun,
                    "seed {seed}: place {place} was taken after a later one was answered"
                );
            }
            if let Some((answered, _)) = append.answer {
                earliest_answer = Some(earliest_answer.map_or(answered, |earliest| earliest.min(answered)));
            }
        }

        for read in self.reads.borrow().iter() {
            let Some((ended, seen)) = &read.seen else { continue };
            assert!(list.starts_with(seen), "seed {seed}: a read saw {seen:x?}, which the list never was");
            for (place, append) in &by_place {
                let is_seen = *place < seen.len() as u64;
                let was_answered = append.answer.is_some_and(|(answered, _)| answered < read.begun);
                assert!(is_seen || !was_answered, "seed {seed}: a read missed place {place}, answered before it began");
                assert!(!is_seen || append.begun < *ended, "seed {seed}: a read saw what was not yet asked for");
            }
        }
    }
}

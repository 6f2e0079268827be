//! Plans: what has to be copied, and what may go, between two versions of a map.

use crate::layout::{Layout, Slot};

/// A slot that a target is to be filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub pg: u32,
    pub slot: usize,
    /// Who is to have it, a position in the map.
    pub to: u32,
    /// Who has the same slot; a copy of it is enough.
    pub source: Option<u32>,
    /// Who serves the other slots, in order: they have other copies, or the cells to compute it from.
    pub survivors: Vec<u32>,
    /// Somebody is lost: this restores redundancy, and goes before moves that were merely wanted.
    pub urgent: bool,
}

/// A slot that a target holds in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub pg: u32,
    pub slot: usize,
    /// Whose it was, a position in the map.
    pub from: u32,
}

impl Layout {
    /// What is to be copied in a placement group as things stand: all that is being filled.
    pub fn moves(&self, pg: u32, count: usize) -> Vec<Move> {
        let slots = self.slots(pg, count);
        (0..slots.len()).flat_map(|slot| moves_of(pg, slot, &slots)).collect()
    }

    /// What is to be copied because of what changed since `before`, in the order of the groups: who gets writes of
    /// a slot now and did not then. Worked out as it is asked for.
    ///
    /// # Panics
    /// If the two are not of one pool: groups would not match.
    pub fn plan<'a>(before: &'a Layout, after: &'a Layout, count: usize) -> impl Iterator<Item = Move> + 'a {
        assert_eq!(before.pg_count(), after.pg_count(), "two versions of one pool's map");
        after.pgs().flat_map(move |pg| {
            let old = before.slots(pg, count);
            let had = move |slot: usize, to: u32| old.get(slot).is_some_and(|slot| slot.writers().any(|had| had == to));
            after.moves(pg, count).into_iter().filter(move |found| !had(found.slot, found.to))
        })
    }

    /// What nobody needs any more where it was `before`: data of slots whose targets have no part in them now.
    /// Targets that were lost are not named.
    ///
    /// # Panics
    /// As [`Layout::plan`].
    pub fn releases<'a>(before: &'a Layout, after: &'a Layout, count: usize) -> impl Iterator<Item = Release> + 'a {
        assert_eq!(before.pg_count(), after.pg_count(), "two versions of one pool's map");
        after.pgs().flat_map(move |pg| {
            let now = after.slots(pg, count);
            let holds = move |slot: usize, from| {
                now.get(slot).is_some_and(|slot| slot.writers().chain(slot.lost).any(|w| w == from))
            };
            let old = before.slots(pg, count).into_iter().enumerate();
            old.flat_map(move |(slot, old)| old.writers().map(move |from| Release { pg, slot, from }))
                .filter(move |found| !holds(found.slot, found.from))
        })
    }
}

fn moves_of(pg: u32, slot: usize, slots: &[Slot]) -> impl Iterator<Item = Move> {
    let this = slots[slot];
    let others = slots.iter().enumerate().filter(move |(other, _)| *other != slot);
    let survivors: Vec<u32> = others.filter_map(|(_, other)| other.serving).collect();
    let urgent = this.substitute.map(|to| (to, true));
    urgent.into_iter().chain(this.joining.map(|to| (to, false))).map(move |(to, urgent)| Move {
        pg,
        slot,
        to,
        source: this.serving,
        survivors: survivors.clone(),
        urgent,
    })
}

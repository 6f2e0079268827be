//! The fence of a shrink: blocks behind it are nobody's to take, and go when nobody has one.
//!
//! # Shape
//! A fence is to stand at a *limit*. Its *border* goes there in steps, each of a bounded number of free runs, because
//! a large region has millions of them:
//!
//! ```text
//!    first                limit            border                      blocks
//!      |  free and held     |  free and held  |  fenced and held          |
//!                           <------ falling --'-- rising ----------------->
//!
//!            put                      at its limit, and room          seal: nothing is held behind it
//!   Down -----------> Falling ------------------------------> Up ------------------------------> Sealed
//!    ^                 ^   |  ^------------- put ------------ |                                     |
//!    |    at its limit |   | put farther up, lift             | put farther up, lift                |
//!    |                 |   v                                  |                                     |
//!    +--- at the end - Rising <-------------------------------+                                     |
//!    ^------------------------------------- cut: the blocks are gone -------------------------------+
//! ```
//!
//! # Always true
//! 1. Free runs lie before the border, and fenced ones behind it. K8 holds after each step.
//! 2. The border never falls so far that pages owed to the next checkpoint have no room before it.
//! 3. Blocks are sealed only with the border at the limit, and nobody's.
//! 4. A fence that is lifted is gone after finitely many steps: each takes the border up, whatever is freed meanwhile.
//!
//! # Does it fit?
//! What somebody has, wherever it lies, must have room before the limit: for that, sums are enough, and they are
//! known at any time. Only one thing depends on places: a free run with an odd number of blocks holds a page less
//! than its blocks would. So what cannot fit in any case is refused at once ([`Space::fence`]); the rest is decided
//! when the border arrives, for it has parted the runs then; and who only asks counts odd runs ([`Survey`]), also in
//! steps.

use super::{Extent, FreeIndex, PAGE_BLOCKS, Reserve, Space};

/// Where the blocks shall end, on the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    Down,
    /// On its way to `limit`, or there and not yet found to have room before it.
    Falling {
        border: u32,
        limit: u32,
    },
    Up(u32),
    /// On its way up to `limit`, where it is to stand, or to be gone.
    Rising {
        border: u32,
        limit: Option<u32>,
    },
    /// A checkpoint without the blocks from here on is under way.
    Sealed(u32),
}

/// What happens to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It is to stand here.
    Put(u32),
    /// It is to be gone.
    Lift,
    /// Its border is here now.
    Reached(u32),
    /// What is held has room before it.
    Fits,
    Seal,
    Cut,
}

impl Fence {
    /// Where it is after `event`, when blocks end at `end`; `None`: that cannot be done to it now.
    fn after(self, event: Event, end: u32) -> Option<Fence> {
        let put = |border: u32, limit: u32| match border < limit {
            true => Fence::Rising { border, limit: Some(limit) },
            false => Fence::Falling { border, limit },
        };
        match (self, event) {
            (Fence::Down, Event::Put(limit)) => Some(put(end, limit)),
            (Fence::Falling { border, .. } | Fence::Rising { border, .. } | Fence::Up(border), Event::Put(limit)) => {
                Some(put(border, limit))
            }
            (
                Fence::Falling { border, .. } | Fence::Rising { border, limit: Some(_) } | Fence::Up(border),
                Event::Lift,
            ) => Some(Fence::Rising { border, limit: None }),
            (Fence::Falling { limit, .. }, Event::Reached(border)) => Some(Fence::Falling { border, limit }),
            (Fence::Rising { limit: None, .. }, Event::Reached(border)) if border == end => Some(Fence::Down),
            (Fence::Rising { limit: Some(limit), .. }, Event::Reached(border)) if border == limit => {
                Some(Fence::Falling { border, limit })
            }
            (Fence::Rising { limit, .. }, Event::Reached(border)) => Some(Fence::Rising { border, limit }),
            (Fence::Falling { border, limit }, Event::Fits) if border == limit => Some(Fence::Up(limit)),
            (Fence::Up(limit), Event::Seal) => Some(Fence::Sealed(limit)),
            (Fence::Sealed(_), Event::Cut) => Some(Fence::Down),
            _ => None,
        }
    }
}

/// Why a fence cannot stand where it is to, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// What somebody has, wherever it lies: allocated, reserved or in quarantine.
    pub(crate) held: u64,
    /// How much there could be before the fence, beside what is kept for pages.
    pub(crate) room: u64,
}

/// A question: would a fence have room before it? Asked in steps, of a space that may change meanwhile.
pub(crate) struct Survey {
    limit: u32,
    /// Runs that begin before this have been looked at, and of them so many are odd.
    at: u32,
    odd: u64,
}

impl Survey {
    pub(crate) fn of(limit: u32) -> Survey {
        Survey { limit, at: 0, odd: 0 }
    }
}

impl Space {
    /// Puts a fence up, to stand at block `limit`; one that stands or moves goes there instead. Its border moves by
    /// [`Space::move_border`].
    ///
    /// Cost: none that grows with the space.
    ///
    /// # Errors
    /// What is held does not fit before it in any case. Nothing changed.
    ///
    /// # Panics
    /// When the blocks behind a fence are going already.
    pub(crate) fn fence(&mut self, limit: u32, page_demand: u64) -> Result<(), NoRoom> {
        assert!((self.first_divided()..self.area.blocks).contains(&limit), "a fence stands between blocks");
        self.refuse_beyond(self.room_at_most(limit, page_demand))?;
        let is_put = self.happens(Event::Put(limit));
        assert!(is_put, "blocks that go are not fenced anew");
        Ok(())
    }

    /// Begins to take the fence away, unless the blocks behind it are going already; true when there was one.
    pub(crate) fn lift_fence(&mut self) -> bool {
        self.happens(Event::Lift)
    }

    /// One step of the border towards where it is to be, past `runs_most` free runs at most. True: there is more to
    /// do.
    ///
    /// # Errors
    /// What is held does not fit before the fence. It stays where it has come to, until room is made or it is lifted.
    pub(crate) fn move_border(&mut self, runs_most: usize, page_demand: u64) -> Result<bool, NoRoom> {
        match self.fence {
            Fence::Down | Fence::Up(_) | Fence::Sealed(_) => Ok(false),
            Fence::Rising { .. } => Ok(self.raise(runs_most)),
            Fence::Falling { limit, .. } => {
                self.refuse_beyond(self.room_at_most(limit, page_demand))?;
                self.lower(limit, runs_most, page_demand)?;
                // Room only gets less on the way: behind each free block one that is held is passed, mostly.
                self.refuse_beyond(self.room(page_demand))?;
                Ok(!self.happens(Event::Fits))
            }
        }
    }

    /// As [`Space::move_border`], of a fence that is on its way up; it needs no room.
    pub(crate) fn raise(&mut self, runs_most: usize) -> bool {
        let Fence::Rising { limit, .. } = self.fence else { return false };
        let end = limit.unwrap_or(self.area.blocks);
        for _ in 0..runs_most {
            let Some(run) = self.fenced.first().filter(|run| run.block < end) else { break };
            let run = Extent { blocks: run.blocks.min(end - run.block), ..run };
            assert!(self.fenced.take(run), "a free run contains its part");
            self.index(run).insert(run);
        }
        let border = self.fenced.first().map_or(end, |run| run.block.min(end));
        self.happens(Event::Reached(border));
        self.fence != Fence::Down
    }

    /// Whether the fence is on its way up and will be gone.
    pub(crate) fn is_lifting(&self) -> bool {
        matches!(self.fence, Fence::Rising { limit: None, .. })
    }

    /// Whether the blocks behind the fence are going, and it cannot be lifted.
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.fence, Fence::Sealed(_))
    }

    /// Where the fence stands or is to stand.
    pub(crate) fn fence_at(&self) -> Option<u32> {
        match self.fence {
            Fence::Down | Fence::Rising { limit: None, .. } => None,
            Fence::Falling { limit, .. } | Fence::Rising { limit: Some(limit), .. } => Some(limit),
            Fence::Up(limit) | Fence::Sealed(limit) => Some(limit),
        }
    }

    /// From here on nothing is taken: the end of all blocks when there is no fence.
    pub(super) fn border(&self) -> u32 {
        match self.fence {
            Fence::Down => self.area.blocks,
            Fence::Falling { border, .. } | Fence::Rising { border, .. } => border,
            Fence::Up(limit) | Fence::Sealed(limit) => limit,
        }
    }

    /// Blocks behind the border that somebody still has: allocated, reserved or in quarantine.
    pub(crate) fn held(&self) -> u64 {
        u64::from(self.area.blocks - self.border()) - self.fenced.blocks()
    }

    /// Where the blocks can be cut off: the fence stands, and nobody has a block behind it.
    pub(crate) fn sealable(&self) -> Option<u32> {
        match self.fence {
            Fence::Up(limit) => Some(limit).filter(|_| self.held() == 0),
            _ => None,
        }
    }

    /// A checkpoint begins that leaves out the blocks from `limit` on; false when it may not.
    pub(crate) fn seal_fence(&mut self, limit: u32) -> bool {
        self.sealable() == Some(limit) && self.happens(Event::Seal)
    }

    /// The blocks from `limit` on are gone, and the fence with them.
    pub(super) fn cut_off(&mut self, limit: u32) {
        assert!(self.fence == Fence::Sealed(limit) && self.held() == 0, "blocks that go are nobody's");
        self.happens(Event::Cut);
        self.fenced = FreeIndex::default();
    }

    /// One step of `survey`, past `runs_most` free runs at most. True: there is more to look at. A fence that stands
    /// or moves is left alone. What it says is exact but for a few pages, while nothing changes.
    ///
    /// # Errors
    /// What is held would not fit.
    pub(crate) fn survey(&self, survey: &mut Survey, runs_most: usize, page_demand: u64) -> Result<bool, NoRoom> {
        let (held, room) = (self.held_in_all(), self.room_at_most(survey.limit, page_demand));
        let all_odd = self.odd_runs();
        if held + all_odd <= room {
            return Ok(false);
        }
        let mut runs = self.free.runs_from(survey.at).chain(self.fenced.runs_from(survey.at));
        let mut left = runs_most;
        // Room that odd runs take is known only as they are met.
        while held + survey.odd <= room {
            let Some(run) = runs.next().filter(|run| run.block < survey.limit) else { return Ok(false) };
            if left == 0 {
                return Ok(true);
            }
            left -= 1;
            survey.at = run.block + 1;
            survey.odd += u64::from(run.blocks.min(survey.limit - run.block) % PAGE_BLOCKS);
        }
        Err(NoRoom { held, room: room.saturating_sub(survey.odd) })
    }

    /// Asserts that blocks lie on their sides of the border.
    pub(super) fn check_fence(&self) {
        let border = u64::from(self.border());
        assert!(border <= u64::from(self.area.blocks), "a fence stands between blocks");
        let mut free = self.free.runs().chain(self.bulk.runs());
        assert!(free.all(|run| run.end() <= border), "free blocks lie before a fence");
        assert!(self.fenced.runs().all(|run| u64::from(run.block) >= border), "fenced blocks lie behind it");
        match self.fence {
            Fence::Down => assert_eq!(self.fenced.blocks(), 0),
            Fence::Falling { border, limit } => assert!(border >= limit),
            Fence::Rising { border, limit } => assert!(limit.is_none_or(|limit| border <= limit)),
            Fence::Up(_) => {}
            Fence::Sealed(_) => assert_eq!(self.held(), 0, "blocks that go are nobody's"),
        }
    }

    /// False when `event` cannot happen to the fence as it is.
    fn happens(&mut self, event: Event) -> bool {
        let next = self.fence.after(event, self.area.blocks);
        self.fence = next.unwrap_or(self.fence);
        next.is_some()
    }

    /// Takes the border down, past free runs.
    fn lower(&mut self, limit: u32, runs_most: usize, page_demand: u64) -> Result<(), NoRoom> {
        let is_shared = self.area.bulk == 0;
        for _ in 0..runs_most {
            let Some(run) = self.divided().last().filter(|run| run.end() > u64::from(limit)) else { break };
            let block = run.block.max(limit);
            let part = Extent { block, blocks: (run.end() - u64::from(block)) as u32 };
            assert!(self.divided_mut().take(part), "a free run contains its part");
            self.fenced.insert(part);
            self.happens(Event::Reached(block));
            if is_shared && !self.has_room(Reserve::Normal, page_demand) {
                // One too many: the next checkpoint takes what it is owed from before the border.
                let refusal = NoRoom { held: self.held_in_all(), room: self.room(page_demand) };
                assert!(self.fenced.take(part), "it was put there");
                self.free.insert(part);
                self.settle_border(limit);
                return Err(refusal);
            }
        }
        self.settle_border(limit);
        Ok(())
    }

    /// The border of a falling fence is where free runs end, or at its limit.
    fn settle_border(&mut self, limit: u32) {
        let border = self.divided().last().map_or(limit, |run| (run.end() as u32).max(limit));
        self.happens(Event::Reached(border));
    }

    fn refuse_beyond(&self, room: u64) -> Result<(), NoRoom> {
        let held = self.held_in_all();
        if held > room { Err(NoRoom { held, room }) } else { Ok(()) }
    }

    /// How much can be held before the border, with what is held there.
    fn room(&self, page_demand: u64) -> u64 {
        let lacking = match self.area.bulk {
            0 => (page_demand + self.critical_pages()).saturating_sub(self.free.pages()),
            _ => 0,
        };
        let room = self.held_in_all() - self.held() + self.free_for_bulk(page_demand);
        room.saturating_sub(lacking * u64::from(PAGE_BLOCKS))
    }

    /// How much can be held before `limit` at most: if no free run were odd.
    fn room_at_most(&self, limit: u32, page_demand: u64) -> u64 {
        let blocks = u64::from(limit.saturating_sub(self.first_divided()));
        let kept = match self.area.bulk {
            0 => page_demand + self.critical_pages_before(limit),
            _ => 0,
        };
        blocks.saturating_sub(kept * u64::from(PAGE_BLOCKS))
    }

    /// Of the blocks on either side of a fence, those that somebody has.
    fn held_in_all(&self) -> u64 {
        u64::from(self.area.blocks - self.first_divided()) - self.divided().blocks() - self.fenced.blocks()
    }

    /// Free runs that hold a page less than their blocks would, on either side of a fence.
    fn odd_runs(&self) -> u64 {
        let odd = |index: &FreeIndex| index.blocks() - index.pages() * u64::from(PAGE_BLOCKS);
        if self.area.bulk == 0 { odd(&self.free) + odd(&self.fenced) } else { 0 }
    }

    /// The first block that a fence can part from others: pages that have a region of their own stay.
    fn first_divided(&self) -> u32 {
        self.area.first.max(self.area.bulk)
    }

    /// Free blocks before the border, of those that a fence parts.
    fn divided(&self) -> &FreeIndex {
        if self.area.bulk == 0 { &self.free } else { &self.bulk }
    }

    fn divided_mut(&mut self) -> &mut FreeIndex {
        if self.area.bulk == 0 { &mut self.free } else { &mut self.bulk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state and every event, with blocks that end at 90.
    #[test]
    fn these_are_all_the_ways_of_a_fence() {
        let (down, up, sealed) = (Fence::Down, Fence::Up(40), Fence::Sealed(40));
        let falling = |border, limit| Fence::Falling { border, limit };
        let rising = |border, limit| Fence::Rising { border, limit };
        let moves = [
            (down, Event::Put(40), falling(90, 40)),
            (falling(60, 40), Event::Put(50), falling(60, 50)),
            (falling(60, 40), Event::Put(70), rising(60, Some(70))),
            (falling(60, 40), Event::Lift, rising(60, None)),
            (falling(60, 40), Event::Reached(45), falling(45, 40)),
            (falling(40, 40), Event::Reached(40), falling(40, 40)),
            (falling(40, 40), Event::Put(40), falling(40, 40)),
            (falling(40, 40), Event::Put(50), rising(40, Some(50))),
            (falling(40, 40), Event::Lift, rising(40, None)),
            (falling(40, 40), Event::Fits, up),
            (up, Event::Put(30), falling(40, 30)),
            (up, Event::Put(40), falling(40, 40)),
            (up, Event::Put(50), rising(40, Some(50))),
            (up, Event::Lift, rising(40, None)),
            (up, Event::Seal, sealed),
            (rising(40, Some(70)), Event::Put(30), falling(40, 30)),
            (rising(40, Some(70)), Event::Put(60), rising(40, Some(60))),
            (rising(40, Some(70)), Event::Lift, rising(40, None)),
            (rising(40, Some(70)), Event::Reached(50), rising(50, Some(70))),
            (rising(40, Some(70)), Event::Reached(70), falling(70, 70)),
            (rising(40, None), Event::Put(30), falling(40, 30)),
            (rising(40, None), Event::Put(60), rising(40, Some(60))),
            (rising(40, None), Event::Reached(50), rising(50, None)),
            (rising(40, None), Event::Reached(90), down),
            (sealed, Event::Cut, down),
        ];
        let states = [down, falling(60, 40), falling(40, 40), up, rising(40, Some(70)), rising(40, None), sealed];
        let events = [30, 40, 50, 60, 70].map(Event::Put).into_iter();
        let events = events.chain([40, 45, 50, 70, 90].map(Event::Reached));
        let events = events.chain([Event::Lift, Event::Fits, Event::Seal, Event::Cut]);
        let mut met = 0;
        for (state, event) in states.into_iter().flat_map(|state| events.clone().map(move |event| (state, event))) {
            let known = moves.iter().find(|(from, by, _)| (*from, *by) == (state, event));
            met += usize::from(known.is_some());
            match (known, state.after(event, 90)) {
                (Some((_, _, to)), after) => assert_eq!(after, Some(*to), "{state:?} {event:?}"),
                // The table names some of the places that there are, not all.
                (None, Some(_)) => assert!(
                    matches!(
                        (state, event),
                        (_, Event::Put(_)) | (Fence::Falling { .. } | Fence::Rising { .. }, Event::Reached(_))
                    ),
                    "{state:?} {event:?}"
                ),
                (None, None) => {}
            }
        }
        assert_eq!(met, moves.len());
    }
}

//! Facts about the allocator.

use super::*;

const BLOCKS: u32 = 1 << 16;

fn space() -> Space {
    let mut space = Space::new(Area { first: 6, bulk: 0, blocks: BLOCKS }, Bitmap::new(BLOCKS));
    space.go_live();
    space
}

#[test]
fn freed_blocks_wait_for_the_log_and_for_readers() {
    let mut space = space();
    let before = space.usage().free;
    let extent = space.reserve(1 << 20, 0).unwrap()[0];
    space.commit(extent);
    let pin = space.pin();
    space.release(extent, Lsn(100)).unwrap();
    let later = space.pin();
    space.drain(Lsn(100), &mut |_| {});
    assert_eq!(space.usage().quarantined, 1 << 20, "the record at 100 is not durable yet");
    space.drain(Lsn(101), &mut |_| {});
    assert_eq!(space.usage().quarantined, 1 << 20, "a reader may hold it");
    drop(pin.clone());
    drop(pin);
    space.drain(Lsn(101), &mut |_| {});
    assert_eq!(space.usage().free, before, "a pin from after the release does not matter");
    drop(later);
    space.check().unwrap();
}

#[test]
fn what_is_freed_during_a_checkpoint_waits_for_its_end() {
    let mut space = space();
    let extent = space.reserve(8192, 0).unwrap()[0];
    space.commit(extent);
    space.freeze();
    space.release(extent, Lsn(100)).unwrap();
    space.drain(Lsn(200), &mut |_| {});
    assert_eq!(space.usage().quarantined, 8192);
    space.finish();
    space.drain(Lsn(200), &mut |_| {});
    assert_eq!(space.usage().quarantined, 0);
    space.check().unwrap();
}

#[test]
fn releasing_twice_or_outside_is_an_error() {
    let mut space = space();
    let extent = space.reserve(4096, 0).unwrap()[0];
    assert!(space.release(extent, Lsn(1)).is_err(), "only reserved");
    space.commit(extent);
    space.release(extent, Lsn(1)).unwrap();
    for bad in [
        extent,
        Extent { block: 0, blocks: 1 },
        Extent { block: BLOCKS - 1, blocks: 2 },
        Extent { block: u32::MAX, blocks: u32::MAX },
        Extent { block: 10, blocks: 0 },
    ] {
        assert!(space.release(bad, Lsn(2)).is_err(), "{bad:?}");
        assert!(space.mark_allocated(bad).is_err() || bad == extent, "{bad:?}");
    }
}

#[test]
fn replay_may_say_a_thing_twice() {
    let mut space = Space::new(Area { first: 6, bulk: 0, blocks: BLOCKS }, Bitmap::new(BLOCKS));
    let extent = Extent { block: 5000, blocks: 7 };
    for _ in 0..2 {
        space.mark_allocated(extent).unwrap();
    }
    for _ in 0..2 {
        space.release(extent, Lsn(1)).unwrap();
    }
    space.mark_allocated(extent).unwrap();
    assert!(space.mark_allocated(Extent { block: 5003, blocks: 10 }).is_err(), "half of it is taken");
    assert_eq!(space.usage().allocated, 7 * 4096);
    space.check().unwrap();
}

#[test]
fn broken_space_gives_several_pieces_and_then_refuses() {
    let mut space = space();
    let mut held = Vec::new();
    while let Ok(pieces) = space.reserve(512 << 10, 0) {
        held.extend(pieces);
    }
    held.sort();
    let holes: Vec<Extent> = held.iter().copied().step_by(2).collect();
    for hole in &holes {
        space.cancel(*hole);
    }
    let pieces = space.reserve(6 << 20, 0).unwrap();
    assert!(pieces.len() > 1 && pieces.len() <= PIECES_MAX, "{}", pieces.len());
    assert_eq!(pieces.iter().map(Extent::bytes).sum::<u64>(), 6 << 20);
    let free = space.usage().free;
    assert!(matches!(space.reserve(24 << 20, 0), Err(Error::NoSpace { .. })));
    assert_eq!(space.usage().free, free, "a refusal keeps nothing");
    space.check().unwrap();
}

/// Random requests against a plain list of who owns each block.
#[test]
fn no_block_ever_has_two_owners() {
    let mut space = space();
    let mut owned: Vec<Extent> = Vec::new();
    let mut pages: Vec<Extent> = Vec::new();
    let mut owner = vec![false; BLOCKS as usize];
    let mut random = 0x51abu64;
    for step in 0..20_000u64 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let pick = (random >> 33) as usize;
        let taken: Vec<Extent> = match pick % 5 {
            0 | 1 => space.reserve(((pick >> 3) % (1 << 20)) as u64 + 1, 8).unwrap_or_default(),
            2 => {
                let got: Vec<Extent> = space.allocate_pages((pick >> 3) as u32 % 64 + 1).into_iter().collect();
                pages.extend(&got);
                got
            }
            3 if !pages.is_empty() => {
                let extent = pages.swap_remove((pick >> 3) % pages.len());
                space.free_from_checkpoint(extent);
                (extent.block..extent.block + extent.blocks).for_each(|block| owner[block as usize] = false);
                Vec::new()
            }
            _ if !owned.is_empty() => {
                let extent = owned.swap_remove((pick >> 3) % owned.len());
                space.release(extent, Lsn(step)).unwrap();
                space.drain(Lsn(step + 1), &mut |_| {});
                (extent.block..extent.block + extent.blocks).for_each(|block| owner[block as usize] = false);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for extent in taken {
            for block in extent.block..extent.block + extent.blocks {
                assert!(!std::mem::replace(&mut owner[block as usize], true), "block {block} at step {step}");
            }
            if !pages.contains(&extent) {
                space.commit(extent);
                owned.push(extent);
            }
        }
        if step % 500 == 0 {
            space.check().unwrap();
        }
    }
}

/// A space of `blocks` blocks in which `is_held` says what is allocated.
fn space_of(area: Area, is_held: impl Fn(u32) -> bool) -> Space {
    let mut image = Bitmap::new(area.blocks);
    let held = (area.first..area.blocks).filter(|block| is_held(*block));
    held.for_each(|block| image.set(Extent { block, blocks: 1 }));
    let mut space = Space::new(area, image);
    space.go_live();
    space
}

/// Steps until the border is where it is to be.
fn settle(space: &mut Space, slice: usize, demand: u64) -> std::result::Result<(), NoRoom> {
    while space.move_border(slice, demand)? {}
    Ok(())
}

/// 262144 free runs, half of them behind the limit: no step touches more than its slice.
#[test]
fn a_fence_moves_no_more_runs_in_a_step_than_its_slice() {
    const SLICE: usize = 512;
    let area = Area { first: 8, bulk: 0, blocks: 1 << 20 };
    let limit = 1 << 19;
    let mut space = space_of(area, |block| block % 4 == 0);
    let before = space.usage();
    let runs = |space: &Space| (space.free.runs().count(), space.fenced.runs().count());
    let all = runs(&space).0;
    assert!(all > 260_000);

    space.fence(limit, 8).unwrap();
    assert_eq!(runs(&space), (all, 0), "putting it up moves nothing");
    let (mut steps, mut fenced) = (0, 0);
    while space.move_border(SLICE, 8).unwrap() {
        let now = runs(&space);
        assert!(now.1 - fenced <= SLICE && now.0 + now.1 == all, "{now:?} after {fenced}");
        (steps, fenced) = (steps + 1, now.1);
        if steps % 50 == 0 {
            space.check().unwrap();
        }
    }
    let behind = (1 << 19) / 4;
    assert_eq!((steps, runs(&space)), (255, (all - behind, behind)), "each step does its part");
    assert_eq!((space.sealable(), space.fence_at()), (None, Some(limit)));
    space.check().unwrap();

    assert!(space.lift_fence());
    let (mut steps, mut free) = (0, runs(&space).0);
    assert_eq!(runs(&space).1, behind, "lifting begins with nothing");
    while space.raise(SLICE) {
        let now = runs(&space);
        assert!(now.0 - free <= SLICE && now.0 > free && now.0 + now.1 == all, "{now:?} after {free}");
        (steps, free) = (steps + 1, now.0);
        if steps % 50 == 0 {
            space.check().unwrap();
        }
    }
    assert_eq!((steps, runs(&space), space.usage()), (255, (all, 0), before));

    let mut survey = Survey::of(limit);
    while space.survey(&mut survey, SLICE, 8).unwrap() {}
    space.check().unwrap();
}

#[test]
fn a_fence_goes_where_it_was_sent_last_from_where_it_is() {
    let area = Area { first: 8, bulk: 0, blocks: 4000 };
    let mut space = space_of(area, |block| block % 10 == 0);
    let free = space.usage().free;
    let steps = |space: &mut Space, count: u32| {
        for _ in 0..count {
            space.move_border(7, 8).unwrap();
            space.check().unwrap();
        }
    };
    space.fence(2000, 8).unwrap();
    steps(&mut space, 5);
    let halfway = space.border();
    assert!((3000..3900).contains(&halfway), "{halfway}");
    // Lifted while it falls: first it goes up a little, then down again from there.
    assert!(space.lift_fence() && !space.lift_fence());
    assert_eq!((space.fence_at(), space.is_lifting(), space.border()), (None, true, halfway));
    steps(&mut space, 2);
    let up = space.border();
    assert!(up > halfway && up < 4000);
    space.fence(2500, 8).unwrap();
    assert_eq!(space.border(), up);
    settle(&mut space, 7, 8).unwrap();
    assert_eq!((space.border(), space.fence), (2500, Fence::Up(2500)));
    // Another one farther down, then one farther up than that has come.
    space.fence(1500, 8).unwrap();
    steps(&mut space, 3);
    let border = space.border();
    assert!((1600..2500).contains(&border), "{border}");
    space.fence(3501, 8).unwrap();
    steps(&mut space, 1);
    assert_eq!(space.fence_at(), Some(3501));
    settle(&mut space, 7, 8).unwrap();
    assert_eq!((space.border(), space.fence), (3501, Fence::Up(3501)));
    space.check().unwrap();
    assert!(space.lift_fence());
    settle(&mut space, 7, 8).unwrap();
    assert_eq!((space.fence, space.usage().free), (Fence::Down, free));
}

/// Blocks that come while a fence moves are behind its border: they are fenced, and free when it has passed them.
#[test]
fn a_space_that_grows_while_a_fence_moves_has_all_its_blocks_in_the_end() {
    let area = Area { first: 8, bulk: 0, blocks: 4000 };
    for is_lifted in [false, true] {
        let mut space = space_of(area, |block| block % 10 == 0);
        space.fence(2000, 8).unwrap();
        for _ in 0..5 {
            space.move_border(7, 8).unwrap();
        }
        if is_lifted {
            space.lift_fence();
            space.raise(7);
        }
        let (border, before) = (space.border(), space.usage());
        space.resize(5000);
        space.check().unwrap();
        let after = space.usage();
        assert_eq!((after.free, after.fenced), (before.free, before.fenced + 1000 * 4096));
        assert_eq!(space.border(), border);
        space.lift_fence();
        settle(&mut space, 7, 8).unwrap();
        assert_eq!((space.fence, space.usage().fenced), (Fence::Down, 0));
        assert_eq!(space.usage().free, before.free + before.fenced + 1000 * 4096);
        space.check().unwrap();
    }
}

/// What one look at all runs would say of a fence: the pieces before it are enough for what is held behind it.
fn fits(space: &Space, limit: u32, demand: u64) -> bool {
    let Area { first, bulk, blocks } = space.area;
    let held = space.live.count(Extent { block: limit, blocks: blocks - limit });
    let (mut free, mut pages, mut at) = (0, 0, first.max(bulk));
    while let Some(run) = space.live.next_clear_run(at, limit) {
        (free, pages) = (free + u64::from(run.blocks), pages + u64::from(run.blocks / PAGE_BLOCKS));
        at = run.block + run.blocks;
    }
    if bulk > 0 {
        return held <= free;
    }
    let kept = demand + space.critical_pages_before(limit);
    let usable = pages.saturating_sub(kept + PIECES_MAX as u64) * u64::from(PAGE_BLOCKS);
    held <= free.min(usable) && pages >= kept
}

/// The answer that comes with the border is that of one look at everything; who only asks hears the same but for a
/// few pages.
#[test]
fn a_fence_that_comes_in_steps_stands_where_one_look_at_everything_lets_it() {
    let mut random = 0xfe4ceu64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % bound
    };
    let (mut up, mut refused, mut late, mut close) = (0, 0, 0, 0);
    for _ in 0..3000 {
        let bulk = if below(4) == 0 { 200 } else { 0 };
        let area = Area { first: 8, bulk, blocks: 1000 + below(2000) as u32 };
        let (percent, longest) = (below(100), 1 + below(12));
        let mut held = vec![false; area.blocks as usize];
        let mut at = 0;
        while at < held.len() {
            let (is_held, count) = (below(100) < percent, 1 + below(longest) as usize);
            held.iter_mut().skip(at).take(count).for_each(|block| *block = is_held);
            at += count;
        }
        let mut space = space_of(area, |block| held[block as usize]);
        let least = space.area.first.max(bulk) + 100;
        // Near the edge, for there it is decided.
        let in_all = held[area.first.max(bulk) as usize..].iter().filter(|held| **held).count() as u64;
        let edge = u64::from(area.first.max(bulk)) + in_all + below(300);
        let limit = (edge as u32).clamp(least, area.blocks - 1);
        let (demand, slice) = (below(60), 1 + below(20) as usize);
        let expected = fits(&space, limit, demand);
        if below(3) == 0 && space.fence(limit + below(u64::from(area.blocks - limit)) as u32, 0).is_ok() {
            for _ in 0..below(10) {
                let _ = space.move_border(slice, 0);
            }
        }
        let (before, fence) = (space.usage(), space.fence);
        let mut survey = Survey::of(limit);
        let asked = loop {
            match space.survey(&mut survey, slice, demand) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(no_room) => break Err(no_room),
            }
        };
        assert_eq!((space.usage(), space.fence), (before, fence), "a question changes nothing");
        let put = space.fence(limit, demand);
        let outcome = put.and_then(|()| settle(&mut space, slice, demand));
        space.check().unwrap();
        assert_eq!(outcome.is_ok(), expected, "{outcome:?} of {limit} in {area:?}");
        assert!(put.is_err() || (space.fence == Fence::Up(limit)) == expected);
        match (outcome, asked) {
            (Ok(()), asked) => assert_eq!(asked, Ok(()), "limit {limit} in {area:?}"),
            (Err(NoRoom { held, room }), asked) => {
                assert!((held > room || held == 0) && held == in_all, "{held} {room} {in_all}");
                let margin = PIECES_MAX as u64 * u64::from(PAGE_BLOCKS) + 1;
                assert!(asked.is_err() || held - room <= margin, "{held} {room}, and it was said to fit");
                close += u32::from(asked.is_ok());
            }
        }
        (up, refused) = (up + u32::from(expected), refused + u32::from(put.is_err()));
        late += u32::from(put.is_ok() && !expected);
        space.lift_fence();
        settle(&mut space, slice, demand).unwrap();
        assert_eq!((space.usage().fenced, space.fence), (0, Fence::Down));
    }
    assert!(up > 300 && refused > 100 && late > 100 && close > 0, "{up} {refused} {late} {close}");
}

/// Random requests and resizes: after each, every block is somewhere, once.
#[test]
fn every_block_is_somewhere_once_while_fences_come_and_go() {
    for (seed, bulk) in [(1, 0), (2, 0), (3, 300), (4, 0), (5, 300)] {
        let mut walk = Walk::new(seed, Area { first: 8, bulk, blocks: 2000 });
        for step in 0..12_000 {
            walk.step();
            walk.verify(step);
        }
        let Walk { stood, stopped, cut, grown, .. } = walk;
        assert!(stood > 20 && cut > 5 && grown > 5, "{stood} {cut} {grown}");
        assert!(bulk > 0 || stopped > 0, "{stopped}");
    }
}

/// A space, and who has its blocks.
struct Walk {
    space: Space,
    random: u64,
    lsn: u64,
    reserved: Vec<Extent>,
    owned: Vec<Extent>,
    pages: Vec<Extent>,
    /// Fences that came to stand, steps that stopped for want of room, and sizes that were had.
    stood: u32,
    stopped: u32,
    cut: u32,
    grown: u32,
}

impl Walk {
    const DEMAND: u64 = 12;

    fn new(seed: u64, area: Area) -> Walk {
        let space = space_of(area, |_| false);
        let (reserved, owned, pages) = (Vec::new(), Vec::new(), Vec::new());
        Walk { space, random: seed, lsn: 0, reserved, owned, pages, stood: 0, stopped: 0, cut: 0, grown: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % bound
    }

    fn pick(&mut self, list: fn(&mut Walk) -> &mut Vec<Extent>) -> Option<Extent> {
        let pick = self.below(1 << 20) as usize;
        let list = list(self);
        (!list.is_empty()).then(|| list.swap_remove(pick % list.len()))
    }

    fn step(&mut self) {
        match self.below(17) {
            0 | 1 => {
                let bytes = 1 + self.below(40 * 4096);
                let taken = self.space.reserve(bytes, Walk::DEMAND).unwrap_or_default();
                self.took(&taken);
                self.reserved.extend(taken);
            }
            2 | 3 => {
                let count = self.below(6) as u32;
                let taken = match count {
                    0 => self.space.allocate_block().map(|block| Extent { block, blocks: 1 }),
                    count => self.space.allocate_pages(count),
                };
                self.took(taken.as_slice());
                self.pages.extend(taken);
            }
            4 => self.pick(|walk| &mut walk.reserved).into_iter().for_each(|extent| self.space.cancel(extent)),
            5 | 6 => {
                if let Some(extent) = self.pick(|walk| &mut walk.reserved) {
                    self.space.commit(extent);
                    self.owned.push(extent);
                }
            }
            7 | 8 => self.pick(|walk| &mut walk.owned).into_iter().for_each(|extent| self.release(extent)),
            9 => self.pick(|walk| &mut walk.pages).into_iter().for_each(|e| self.space.free_from_checkpoint(e)),
            10 => _ = self.space.drain(Lsn(self.lsn), &mut |_| {}),
            11 if self.below(6) == 0 => self.fence(),
            12..=14 => self.move_border(),
            15 if self.below(12) == 0 => _ = self.space.lift_fence(),
            15 if self.below(12) == 0 && self.space.area.blocks < 3500 => {
                let more = 1 + self.below(500) as u32;
                self.space.resize(self.space.area.blocks + more);
                self.grown += 1;
            }
            16 if self.below(10) == 0 => self.cut(),
            _ => {}
        }
    }

    /// Nothing is taken behind the border.
    fn took(&self, taken: &[Extent]) {
        let border = u64::from(self.space.border());
        assert!(taken.iter().all(|extent| extent.end() <= border), "{taken:?} behind {border}");
    }

    fn release(&mut self, extent: Extent) {
        self.space.release(extent, Lsn(self.lsn)).unwrap();
        self.lsn += 1;
    }

    fn fence(&mut self) {
        let least = self.space.area.first.max(self.space.area.bulk) + 400;
        let limit = least + self.below(u64::from(self.space.area.blocks - least)) as u32;
        let before = (self.space.usage(), self.space.fence);
        if self.space.fence(limit, Walk::DEMAND).is_err() {
            assert_eq!((self.space.usage(), self.space.fence), before, "a refusal changes nothing");
        }
    }

    fn move_border(&mut self) {
        let (fence, had_room) = (self.space.fence, self.space.has_room(Reserve::Normal, Walk::DEMAND));
        let slice = 1 + self.below(5) as usize;
        let moved = self.space.move_border(slice, Walk::DEMAND);
        assert!(moved.is_ok() || matches!(self.space.fence, Fence::Falling { .. }));
        let has_room = self.space.has_room(Reserve::Normal, Walk::DEMAND);
        assert!(has_room || !had_room, "the next checkpoint has its room: {fence:?}");
        self.stopped += u32::from(moved.is_err());
        self.stood += u32::from(fence != self.space.fence && matches!(self.space.fence, Fence::Up(_)));
    }

    /// What lies behind a fence moves away, and the blocks go.
    fn cut(&mut self) {
        let Some(limit) = self.space.fence_at() else { return };
        let is_behind = |extent: &mut Extent| extent.end() > u64::from(limit);
        for extent in self.reserved.extract_if(.., is_behind).collect::<Vec<_>>() {
            self.space.cancel(extent);
        }
        for extent in self.owned.extract_if(.., is_behind).collect::<Vec<_>>() {
            self.release(extent);
        }
        for extent in self.pages.extract_if(.., is_behind).collect::<Vec<_>>() {
            self.space.free_from_checkpoint(extent);
        }
        while self.space.drain(Lsn(self.lsn), &mut |_| {}) {}
        let is_up = self.space.fence == Fence::Up(limit);
        assert_eq!(self.space.seal_fence(limit), is_up, "only with the border at its limit");
        if is_up {
            assert!(!self.space.lift_fence() && !self.space.move_border(5, 0).unwrap(), "it is too late");
            self.space.resize(limit);
            self.cut += 1;
        }
    }

    fn verify(&self, step: u32) {
        self.space.check().unwrap();
        let mut owners = vec![0u8; self.space.area.blocks as usize];
        let quarantined: Vec<Extent> = self.space.quarantine.iter().map(|entry| entry.extent).collect();
        let free = self.space.free.runs().chain(self.space.bulk.runs()).chain(self.space.fenced.runs());
        let held = self.reserved.iter().chain(&self.owned).chain(&self.pages).chain(&quarantined).copied();
        for extent in free.chain(held) {
            owners[extent.block as usize..extent.end() as usize].iter_mut().for_each(|owners| *owners += 1);
        }
        let first = self.space.area.first as usize;
        let wrong = owners[first..].iter().position(|owners| *owners != 1);
        assert_eq!(wrong, None, "a block behind the first has no owner or two, after step {step}");
    }
}

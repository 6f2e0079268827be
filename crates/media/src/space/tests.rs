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

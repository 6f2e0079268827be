//! A scripted life of a store, for tests that disturb it at every step and for images that are kept.

use types::{Conditions, Epoch, Extent};
use vos::model::{Scope, Step, Write};

use super::{Op, akeys, content, dkeys, object};

/// A life of container 0: every kind of request once at least, at epochs behind `base`, with changes numbered
/// from it too. Large values are `smaller` times smaller.
pub fn script(base: u64, smaller: usize) -> Vec<Op> {
    let (dkeys, akeys, conditions) = (dkeys(), akeys(), Conditions::None);
    let single = |n: u64, len| Write::Single(content(n, len / smaller));
    let array =
        |n: u64, start, count: u64| Write::Array(1, vec![(Extent::new(start, count), content(n, count as usize))]);
    let update = |epoch, object, dkey: usize, akeys| Op::Update {
        container: 0,
        epoch: Epoch(base + epoch),
        object,
        dkey: dkeys[dkey].clone(),
        conditions,
        akeys,
    };
    let punch =
        |epoch, object, scope| Op::Punch { container: 0, epoch: Epoch(base + epoch), object, scope, conditions };
    let step = |n: u64| {
        let akeys = vec![(akeys[0].clone(), single(n, 9000)), (akeys[1].clone(), single(n + 1, 50))];
        let hide = Step::Punch { object: object(1), scope: Scope::Dkey(dkeys[1].clone()), conditions };
        vec![Step::Update { object: object(0), dkey: dkeys[0].clone(), conditions, akeys }, hide]
    };
    let prepare = |change, epoch| Op::Prepare { change, container: 0, epoch: Epoch(base + epoch), steps: step(change) };
    vec![
        update(1, 0, 0, vec![(akeys[0].clone(), single(1, 40)), (akeys[1].clone(), single(2, 700))]),
        update(2, 1, 1, vec![(akeys[2].clone(), array(3, 0, 40))]),
        update(3, 1, 1, vec![(akeys[2].clone(), array(4, 10, 2000)), (akeys[3].clone(), single(5, 0))]),
        update(4, 2, 3, vec![(akeys[4].clone(), single(6, 20_000))]),
        punch(5, 1, Scope::Extents(dkeys[1].clone(), akeys[2].clone(), vec![Extent::new(5, 10)])),
        Op::Snapshots(0, vec![Epoch(base + 5)]),
        update(6, 0, 0, vec![(akeys[0].clone(), single(7, 5000))]),
        punch(7, 0, Scope::Akeys(dkeys[0].clone(), vec![akeys[1].clone()])),
        punch(8, 2, Scope::Object),
        prepare(base + 1, 9),
        prepare(base + 2, 10),
        Op::Maintain(Epoch(base + 8)),
        Op::Commit(base + 1),
        Op::Abort(base + 2),
        Op::Snapshots(0, vec![Epoch(base + 5), Epoch(base + 11)]),
        update(12, 2, 5, vec![(akeys[2].clone(), array(8, 30, 600))]),
        update(13, 2, 5, vec![(akeys[0].clone(), single(9, 3000))]),
        Op::Rollback { container: 0, to: Epoch(base + 11), asked: Epoch(base + 14) },
        Op::Maintain(Epoch(base + 11)),
        update(15, 0, 2, vec![(akeys[1].clone(), single(10, 40_000))]),
        prepare(base + 3, 16),
        Op::SetQuota(0, 3 << 20),
        update(17, 2, 6, vec![(akeys[2].clone(), array(11, 0, 48))]),
        Op::Commit(base + 3),
        Op::Adopt(base + 3),
        Op::Settle(base + 2),
        Op::Snapshots(0, vec![Epoch(base + 17)]),
        Op::Maintain(Epoch(base + 16)),
    ]
}

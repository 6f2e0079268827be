//! Compares all that can be read of a store with its model.

use std::collections::BTreeSet;
use std::fmt::Arguments;
use std::ops::ControlFlow;

use codec::checksum;
use types::{Conditions, ContainerId, Epoch, Extent, Key};
use vos::model::{self, Object};
use vos::{
    AkeyRead, ChangeId, ChangeState, Difference, Direction, Edge, Kind, ListPart, ListedExtent, ListedObject, Listing,
    ReadWhat, Store, Term, Undecided, ValueRead, Version, WalkedValue,
};

use super::{BULK_FROM, Model, SPAN, akeys, bytes_of, dkeys, object, pool};

/// Compares all that can be read of every container at `at`.
pub fn compare_at(store: &mut Store, model: &Model, objects: u64, at: Epoch) {
    for (id, (_, model)) in &model.containers {
        compare_container(store, *id, model, objects, at);
    }
}

pub fn compare_lists(store: &mut Store, model: &Model) {
    assert_eq!(store.pools(), model.pools.keys().copied().collect::<Vec<_>>());
    for pool in model.pools.keys() {
        let expected: Vec<_> = model.containers.iter().filter(|(_, (p, _))| p == pool).map(|(c, _)| *c).collect();
        assert_eq!(store.containers(*pool), expected);
        assert_eq!(store.pool_space(*pool).unwrap().quota, model.pools[pool]);
    }
    for (id, (_, model)) in &model.containers {
        assert_eq!(store.container_info(*id).unwrap().snapshots, model.snapshots);
        let expected: Vec<_> = model.prepared.iter().map(|(change, (version, _))| (*change, version.epoch)).collect();
        assert_eq!(store.prepared(*id).unwrap(), expected, "prepared in {id}");
        assert_eq!(store.oldest_intent(*id).unwrap(), expected.iter().map(|(_, epoch)| *epoch).min());
    }
    if model.pools.contains_key(&pool(0)) {
        compare_changes(store, model);
    }
}

fn compare_changes(store: &mut Store, model: &Model) {
    let marked = model.terms.iter().filter(|(_, term)| **term > Term::default()).map(|(group, _)| *group);
    let groups: BTreeSet<u32> =
        marked.chain(model.settled.keys().copied()).chain(model.changes.keys().map(|change| change.group)).collect();
    assert_eq!(store.groups(pool(0)).unwrap(), groups.iter().copied().collect::<Vec<_>>());
    for group in groups {
        let standing = store.standing(pool(0), group).unwrap();
        assert_eq!(standing.term, model.terms.get(&group).copied().unwrap_or_default());
        let fresh = ChangeId { group, ..ChangeId::default() };
        assert_eq!(standing.settled, model.settled.get(&group).copied().unwrap_or(fresh));
        let mut found = standing.decided;
        found.extend(standing.prepared.into_iter().map(|Undecided { change, epoch, note }| {
            assert_eq!(note, super::note(change.number));
            (change, ChangeState::Prepared { epoch })
        }));
        found.sort_unstable_by_key(|(change, _)| *change);
        let expected = model.changes.iter().filter(|(change, _)| change.group == group);
        assert_eq!(found, expected.map(|(change, state)| (*change, *state)).collect::<Vec<_>>(), "group {group}");
    }
}

fn compare_container(store: &mut Store, id: ContainerId, model: &model::Container, objects: u64, at: Epoch) {
    let what = format_args!("container {id} at {at}");
    let list = |part: ListPart<'_, ListedObject>| store.list_objects(id, at, part).unwrap();
    let listed: Vec<Object> = all_of(list, 2).iter().map(|o| (o.group, o.oid)).collect();
    assert_eq!(listed, model.objects(at), "objects of {what}");
    compare_walk(store, id, model, at, what);
    for number in 0..objects {
        compare_object(store, id, model, object(number), at, format_args!("object {number} of {what}"));
    }
}

/// What a walk meets of an akey: its single value, or how many records of its array.
type Met = (Object, Key, Key, Option<u64>);

/// Walks over everything, in parts of sizes that differ, and compares every byte.
fn compare_walk(store: &mut Store, id: ContainerId, model: &model::Container, at: Epoch, what: Arguments<'_>) {
    let mut met: Vec<Met> = Vec::new();
    let (mut after, mut part) = (None, at.0 % 1000);
    loop {
        part += 1;
        // Every other part ends because the visitor has enough.
        let (limit, enough) = if part % 2 == 0 { (1 + part as usize % 5, 1000) } else { (1000, 1 + part as usize % 7) };
        let mut found = Vec::new();
        let next = store.walk_records(id, at, after.as_ref(), limit, &mut |record| {
            let (value, piece) = match record.value {
                WalkedValue::Single(value) => (value, None),
                WalkedValue::Array { extent, record_bytes, value, skip } => (value, Some((extent, record_bytes, skip))),
            };
            let keys = (record.dkey.to_key().unwrap(), record.akey.to_key().unwrap());
            let inline = value.inline().map(<[u8]>::to_vec);
            let object = (record.group, record.oid);
            found.push((object, keys, record.version, inline, value.blocks(), value.len(), value.checksums(), piece));
            if found.len() >= enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let next = next.unwrap();
        assert!(found.len() <= limit.min(enough), "{what}");
        for (object, (dkey, akey), version, inline, blocks, len, checksums, piece) in found {
            let what = format_args!("akey {akey} of dkey {dkey} of {object:?} of {what}");
            let mut bytes = inline.unwrap_or_default();
            for extent in blocks {
                bytes.extend_from_slice(&store.media().bulk_read_now(extent, 0, extent.bytes() as usize).unwrap());
            }
            bytes.truncate(len as usize);
            checksum::verify_chunks(&bytes, &checksums).unwrap();
            let Some((extent, record_bytes, skip)) = piece else {
                assert_eq!(Some(&bytes[..]), model.single(at, object, &dkey, &akey), "{what}");
                assert_eq!(Some(version), model.single_version(at, object, &dkey, &akey), "{what}");
                met.push((object, dkey, akey, None));
                continue;
            };
            for index in 0..extent.count {
                let (_, size, known) =
                    model.record(at, object, &dkey, &akey, extent.start + index).unwrap_or_else(|| panic!("{what}"));
                assert_eq!(size, record_bytes, "{what}");
                let first = (skip + index * u64::from(size)) as usize;
                assert_eq!(&bytes[first..first + size as usize], known, "record {} of {what}", extent.start + index);
            }
            match met.last_mut() {
                Some((o, d, a, Some(records))) if (&*o, &*d, &*a) == (&object, &dkey, &akey) => {
                    *records += extent.count
                }
                _ => met.push((object, dkey, akey, Some(extent.count))),
            }
        }
        match next {
            Some(anchor) => after = vos::WalkAnchor::from_bytes(&anchor.to_bytes()),
            None => break,
        }
    }
    let mut expected: Vec<Met> = Vec::new();
    for object in model.objects(at) {
        for dkey in model.dkeys(at, object) {
            for (akey, is_single, record_bytes) in model.akeys(at, object, &dkey) {
                if is_single {
                    expected.push((object, dkey.clone(), akey.clone(), None));
                }
                if record_bytes > 0 {
                    let edges = model.edges(object, &dkey, &akey);
                    let runs =
                        edges.windows(2).filter(|pair| model.record(at, object, &dkey, &akey, pair[0]).is_some());
                    let records = runs.map(|pair| pair[1] - pair[0]).sum();
                    expected.push((object, dkey.clone(), akey, Some(records)));
                }
            }
        }
    }
    assert_eq!(met, expected, "a walk over {what}");
}

fn compare_object(
    store: &mut Store,
    id: ContainerId,
    model: &model::Container,
    object: Object,
    at: Epoch,
    what: Arguments<'_>,
) {
    let (group, oid) = object;
    let listed = all_of(|part: ListPart<'_, Key>| store.list_dkeys(id, at, group, oid, part).unwrap(), 3);
    assert_eq!(listed, model.dkeys(at, object), "dkeys of {what}");
    let integers: Vec<u64> =
        listed.iter().filter_map(|k| if let Key::Integer(n) = k { Some(*n) } else { None }).collect();
    assert_eq!(store.query_dkey(id, at, group, oid, Edge::Lowest).unwrap(), integers.first().copied(), "{what}");
    assert_eq!(store.query_dkey(id, at, group, oid, Edge::Highest).unwrap(), integers.last().copied(), "{what}");
    for akey in &akeys() {
        let tail = store.query_array_tail(id, at, group, oid, akey).unwrap();
        let expected = integers.iter().rev().find_map(|n| {
            let (end, size) = model.array_end(at, object, &Key::from(*n), akey);
            (end > 0).then_some((*n, end, size))
        });
        assert_eq!(tail.map(|t| (t.dkey, t.end, t.record_bytes)), expected, "tail of {akey} in {what}");
    }
    for dkey in &dkeys() {
        let what = format_args!("dkey {dkey} of {what}");
        let all = all_of(|part: ListPart<'_, Key>| store.list_akeys(id, at, group, oid, dkey, part).unwrap(), 2);
        let listed: Vec<Key> = all.iter().map(|a| a.akey.clone()).collect();
        let kinds: Vec<_> = all.into_iter().map(|a| (a.akey, a.single, a.record_bytes)).collect();
        assert_eq!(kinds, model.akeys(at, object, dkey), "akeys of {what}");
        let integers: Vec<u64> =
            listed.iter().filter_map(|k| if let Key::Integer(n) = k { Some(*n) } else { None }).collect();
        let lowest = store.query_akey(id, at, group, oid, dkey, Edge::Lowest).unwrap();
        let highest = store.query_akey(id, at, group, oid, dkey, Edge::Highest).unwrap();
        assert_eq!((lowest, highest), (integers.first().copied(), integers.last().copied()), "{what}");
        for akey in &akeys() {
            compare_akey(store, id, model, object, dkey, akey, at, format_args!("akey {akey} of {what}"));
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn compare_akey(
    store: &mut Store,
    id: ContainerId,
    model: &model::Container,
    object: Object,
    dkey: &Key,
    akey: &Key,
    at: Epoch,
    what: Arguments<'_>,
) {
    let (group, oid) = object;
    let end = store.query_array(id, at, group, oid, dkey, akey).unwrap();
    assert_eq!((end.end, end.record_bytes), model.array_end(at, object, dkey, akey), "end of {what}");
    let span = [Extent::new(0, SPAN / 2), Extent::new(SPAN / 2, SPAN / 2)];
    let reads = [AkeyRead { akey, what: ReadWhat::Single }, AkeyRead { akey, what: ReadWhat::Array(&span) }];
    let plan = store.fetch(id, at, group, oid, dkey, &reads, Conditions::None).unwrap();
    let single = bytes_of(store, &plan, 0).into_iter().next().and_then(|(_, bytes)| bytes);
    assert_eq!(single.as_deref(), model.single(at, object, dkey, akey), "single value of {what}");
    let mut quick = Vec::new();
    match store.fetch_value(id, at, group, oid, dkey, akey, &mut quick).unwrap() {
        ValueRead::Absent => assert_eq!(single, None, "quick {what}"),
        ValueRead::Inline { checksums } => {
            checksum::verify_chunks(&quick, &checksums).unwrap();
            assert_eq!(single.as_ref(), Some(&quick), "quick {what}");
        }
        ValueRead::Bulk => assert!(single.is_some_and(|s| s.len() >= BULK_FROM), "quick {what}"),
    }
    let mut index = 0;
    for (extent, bytes) in bytes_of(store, &plan, 1) {
        assert_eq!(extent.start, index, "pieces of {what} follow one another");
        for i in 0..extent.count {
            let expected = model.record(at, object, dkey, akey, index + i).map(|(_, _, bytes)| bytes);
            let size = plan.akeys[1].record_bytes as usize;
            let found = bytes.as_ref().map(|bytes| &bytes[i as usize * size..(i as usize + 1) * size]);
            assert_eq!(found, expected, "record {} of {what}", index + i);
        }
        index = extent.end();
    }
    assert_eq!(index, SPAN);
    compare_extents(store, id, model, object, dkey, akey, at, what);
}

/// A whole list, part by part; from the other end it is the same.
fn all_of<T: PartialEq + std::fmt::Debug, A>(
    mut list: impl FnMut(ListPart<'_, A>) -> Listing<T, A>,
    limit: usize,
) -> Vec<T> {
    let mut from = |direction: Direction| {
        let (mut all, mut next, mut is_first) = (Vec::new(), None, true);
        while is_first || next.is_some() {
            let part = list(ListPart { after: next.as_ref(), limit, direction });
            assert!(part.entries.len() <= limit);
            all.extend(part.entries);
            (next, is_first) = (part.next, false);
        }
        all
    };
    let all = from(Direction::Forward);
    let mut back = from(Direction::Backward);
    back.reverse();
    assert_eq!(back, all, "the same list from the end");
    all
}

/// All visible runs, wherever they lie.
#[allow(clippy::too_many_arguments)]
fn compare_extents(
    store: &mut Store,
    id: ContainerId,
    model: &model::Container,
    object: Object,
    dkey: &Key,
    akey: &Key,
    at: Epoch,
    what: Arguments<'_>,
) {
    let (group, oid) = object;
    let mut list = |direction: Direction| {
        let (mut found, mut left): (Vec<ListedExtent>, _) = (Vec::new(), Some(Extent::new(0, 1 << 62)));
        while let Some(within) = left {
            let part = store.list_extents(id, at, group, oid, dkey, akey, within, 4, direction).unwrap();
            assert!(part.entries.len() <= 4);
            found.extend(part.entries);
            left = part.next;
        }
        found
    };
    let found = list(Direction::Forward);
    let mut back = list(Direction::Backward);
    back.reverse();
    assert_eq!(back, found, "extents of {what} from the end");
    // Cut both at every edge, and compare run by run. What was joined may begin and end in the middle of an extent of
    // which a piece was copied along.
    let mut edges = model.edges(object, dkey, akey);
    edges.extend(found.iter().flat_map(|run| [run.extent.start, run.extent.end()]));
    edges.sort_unstable();
    edges.dedup();
    let mut expected = Vec::new();
    for pair in edges.windows(2) {
        if let Some((version, size, _)) = model.record(at, object, dkey, akey, pair[0]) {
            expected.push((pair[0], pair[1], size, version.epoch));
        }
    }
    let mut cut = Vec::new();
    for run in &found {
        let mut start = run.extent.start;
        for &edge in edges.iter().filter(|&&e| e > run.extent.start && e < run.extent.end()) {
            cut.push((start, edge, run.record_bytes, run.epoch));
            start = edge;
        }
        cut.push((start, run.extent.end(), run.record_bytes, run.epoch));
    }
    assert_eq!(cut.len(), expected.len(), "extents of {what}: {cut:?} for {expected:?}");
    for (run, known) in cut.iter().zip(&expected) {
        assert_eq!((run.0, run.1, run.2), (known.0, known.1, known.2), "extents of {what}");
        // Joined extents have the newest epoch of their parts; nothing can be read between these.
        let between = |at: &Epoch| known.3 <= *at && *at < run.3;
        let joined = known.3 < run.3 && run.3 <= model.horizon && !model.snapshots.iter().any(between);
        assert!(run.3 == known.3 || joined, "epochs of extents of {what}: {run:?} for {known:?}");
    }
}

/// Compares what differs between two moments.
pub fn compare_diff(store: &mut Store, model: &Model, objects: u64, from: Epoch, to: Epoch, limit: usize) {
    for (id, (_, model)) in &model.containers {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (some, next) = store.diff(*id, from, to, after.as_ref(), limit).unwrap();
            assert!(some.len() <= limit);
            found.extend(some);
            match next {
                // Through bytes, as a client would bring it back.
                Some(anchor) => after = vos::DiffAnchor::from_bytes(&anchor.to_bytes()),
                None => break,
            }
        }
        let what = format_args!("container {id} from {from} to {to}, {limit} at once");
        assert_eq!(runs_of(found), expected_diff(model, objects, from, to), "{what}");
    }
}

/// Object, dkey, akey; where (`None`: the single value); how.
type Run = (Object, Key, Key, Option<(u64, u64)>, Kind);

/// Entries in order, those that touch made one.
fn runs_of(found: impl IntoIterator<Item = Difference>) -> Vec<Run> {
    let run = |d: Difference| ((d.group, d.oid), d.dkey, d.akey, d.extent.map(|e| (e.start, e.end())), d.kind);
    let mut runs: Vec<Run> = found.into_iter().map(run).collect();
    runs.sort();
    runs.dedup_by(|next, last| match (next.3, &mut last.3) {
        (Some((start, end)), Some(before))
            if (&next.0, &next.1, &next.2, next.4) == (&last.0, &last.1, &last.2, last.4) && before.1 == start =>
        {
            before.1 = end;
            true
        }
        _ => false,
    });
    runs
}

fn expected_diff(model: &model::Container, objects: u64, from: Epoch, to: Epoch) -> Vec<Run> {
    let kind = |old: Option<Version>, new: Option<Version>| match (old, new) {
        (None, Some(_)) => Some(Kind::Added),
        (Some(_), None) => Some(Kind::Removed),
        (old, new) => (old != new).then_some(Kind::Modified),
    };
    let mut found = Vec::new();
    for object in (0..objects).map(object) {
        for (dkey, akey) in dkeys().into_iter().flat_map(|d| akeys().into_iter().map(move |a| (d.clone(), a))) {
            let mut push = |extent, kind: Option<Kind>| {
                let entry = |kind| Difference {
                    group: object.0,
                    oid: object.1,
                    dkey: dkey.clone(),
                    akey: akey.clone(),
                    extent,
                    kind,
                };
                found.extend(kind.map(entry));
            };
            let single = |at| model.single_version(at, object, &dkey, &akey);
            push(None, kind(single(from), single(to)));
            for edge in model.edges(object, &dkey, &akey).windows(2) {
                let top = |at| model.record(at, object, &dkey, &akey, edge[0]).map(|(version, _, _)| version);
                push(Some(Extent::new(edge[0], edge[1] - edge[0])), kind(top(from), top(to)));
            }
        }
    }
    runs_of(found)
}

//! What the map takes and refuses.

use super::*;

fn server(rank: u32, path: &str, targets: u32) -> Server {
    Server { rank: Rank(rank), path: path.parse().unwrap(), targets, weight: 1 }
}

fn map(servers: u32, targets: u32) -> PoolMap {
    PoolMap::create((0..servers).map(|rank| server(rank, &format!("/host{rank}"), targets)).collect()).unwrap()
}

fn happen(map: &mut PoolMap, event: Event, positions: &[u32]) -> Result<u32, MapError> {
    map.apply(&Change::Happen(positions.iter().map(|&position| (position, event)).collect()))
}

#[test]
fn placement_groups_are_a_power_of_two_and_about_64_a_target() {
    let counts: Vec<u32> = [0, 1, 2, 3, 4, 5, 16].map(pg_count).into();
    assert_eq!(counts, [64, 64, 128, 256, 256, 512, 1024]);
    assert_eq!([1 << 18, TARGETS_MAX].map(pg_count), [PG_COUNT_MAX; 2]);
}

#[test]
fn a_bad_map_says_what_is_wrong_with_it() {
    assert_eq!(PoolMap::create(vec![]), Err(MapError::Empty { version: 1 }));
    let twice = PoolMap::create(vec![server(1, "/a", 1), server(1, "/b", 1)]).unwrap_err();
    assert_eq!(twice.to_string(), "pool map 1 names target 0 of rank 1 twice");
    let weightless = Server { weight: 0, ..server(1, "/a", 1) };
    assert!(matches!(PoolMap::create(vec![weightless]), Err(MapError::Weight { .. })));
    let uneven = PoolMap::create(vec![server(1, "/rack/a", 1), server(2, "/b", 1)]).unwrap_err();
    assert_eq!(uneven.to_string(), "rank 2 has the fault path /b, which is not as deep as those of the other servers");
    assert!(matches!(PoolMap::create(vec![server(1, "/a", u32::MAX)]), Err(MapError::TooMany { .. })));
}

#[test]
fn positions_count_targets_whatever_their_ranks_are() {
    let mut map = PoolMap::create(vec![server(900, "/a", 2), server(7, "/b", 1)]).unwrap();
    map.apply(&Change::Add(vec![server(3, "/c", 1)])).unwrap();
    let names: Vec<_> = map.targets().iter().map(|target| (target.rank.0, target.index.0)).collect();
    assert_eq!(names, [(900, 0), (900, 1), (7, 0), (3, 0)]);
    assert_eq!(map.position(Rank(7), TargetIndex(0)), Some(2));
    assert_eq!(map.positions_of(Rank(3)).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_change_is_one_version_whatever_number_of_targets_it_touches() {
    let mut map = map(2, 8);
    assert_eq!(happen(&mut map, Event::Exclude, &[0, 1, 2, 3, 4, 5, 6, 7]), Ok(2));
    assert_eq!(happen(&mut map, Event::Exclude, &[0, 1]), Ok(2), "it has happened already");
}

#[test]
fn a_refused_change_leaves_the_map_as_it_was() {
    let mut map = map(2, 2);
    let before = map.clone();
    let refused = map.apply(&Change::Happen(vec![(0, Event::Exclude), (1, Event::Drained)])).unwrap_err();
    assert_eq!(refused.to_string(), "target 1 of rank 0: event 'drained' means nothing to a target that is up-in");
    assert!(matches!(happen(&mut map, Event::Exclude, &[4]), Err(MapError::NoTarget { position: 4, .. })));
    assert!(matches!(happen(&mut map, Event::Exclude, &[1, 1]), Err(MapError::Twice { .. })));
    assert_eq!(map, before);
}

#[test]
fn rebuilds_finish_in_the_order_of_the_failures() {
    let mut map = map(4, 1);
    happen(&mut map, Event::Exclude, &[2]).unwrap();
    happen(&mut map, Event::Exclude, &[0]).unwrap();
    let early = happen(&mut map, Event::Rebuilt, &[0]);
    assert_eq!(early, Err(MapError::FailureFirst { rank: Rank(2), index: TargetIndex(0) }));
    assert_eq!(happen(&mut map.clone(), Event::Rebuilt, &[2]), Ok(4));
    assert_eq!(happen(&mut map.clone(), Event::Rebuilt, &[0, 2]), Ok(4));
    let slips_away = map.apply(&Change::Happen(vec![(0, Event::Rebuilt), (2, Event::Reintegrate)]));
    assert!(matches!(slips_away, Err(MapError::FailureFirst { .. })));
}

#[test]
fn wanted_changes_finish_together_and_after_failures() {
    let mut map = map(4, 1);
    map.apply(&Change::Add(vec![server(9, "/host9", 1)])).unwrap();
    happen(&mut map, Event::Extend, &[4]).unwrap();
    happen(&mut map, Event::Drain, &[1]).unwrap();
    let alone = happen(&mut map, Event::Extended, &[4]);
    assert!(matches!(alone, Err(MapError::Together { rank: Rank(1), .. })));
    let gives_up = map.apply(&Change::Happen(vec![(4, Event::Extended), (1, Event::Cancel)]));
    assert!(matches!(gives_up, Err(MapError::Together { rank: Rank(1), .. })));
    happen(&mut map, Event::Exclude, &[0]).unwrap();
    let arrive = Change::Happen(vec![(4, Event::Extended), (1, Event::Drained)]);
    assert!(matches!(map.apply(&arrive), Err(MapError::FailureFirst { rank: Rank(0), .. })));
    happen(&mut map, Event::Rebuilt, &[0]).unwrap();
    // What only it had might be drawn for the new one.
    assert!(matches!(map.apply(&arrive), Err(MapError::Awaited { rank: Rank(0), .. })));
    happen(&mut map, Event::GiveUp, &[0]).unwrap();
    assert_eq!(map.apply(&arrive), Ok(8));
}

#[test]
fn a_target_that_was_away_comes_back_alone_or_with_those_that_drain() {
    let mut map = map(4, 1);
    happen(&mut map, Event::Exclude, &[0]).unwrap();
    happen(&mut map, Event::Rebuilt, &[0]).unwrap();
    happen(&mut map, Event::Drain, &[1]).unwrap();
    happen(&mut map, Event::Reintegrate, &[0]).unwrap();
    let alone = happen(&mut map, Event::Reintegrated, &[0]);
    assert!(matches!(alone, Err(MapError::Together { rank: Rank(1), .. })));
    let both = Change::Happen(vec![(0, Event::Reintegrated), (1, Event::Drained)]);
    assert_eq!(map.apply(&both), Ok(6));
}

/// Random histories found it: of two that were away, the first to fail came back first, and was drawn for a group that
/// only the other had, in place of one that had been given up meanwhile.
#[test]
fn of_those_that_are_away_who_left_last_comes_back_first() {
    let mut map = map(5, 1);
    for target in [0, 1] {
        happen(&mut map, Event::Exclude, &[target]).unwrap();
        happen(&mut map, Event::Rebuilt, &[target]).unwrap();
    }
    let first = happen(&mut map, Event::Reintegrate, &[0]);
    assert!(matches!(first, Err(MapError::Awaited { rank: Rank(1), .. })));
    happen(&mut map, Event::Reintegrate, &[1]).unwrap();
    happen(&mut map, Event::Reintegrated, &[1]).unwrap();
    happen(&mut map, Event::Reintegrate, &[0]).unwrap();
    happen(&mut map, Event::Reintegrated, &[0]).unwrap();
    assert!(map.targets().iter().all(|target| target.state() == TargetState::UpIn));
}

#[test]
fn a_target_that_comes_back_before_it_is_rebuilt_finishes_by_itself() {
    let mut map = map(4, 1);
    happen(&mut map, Event::Drain, &[1]).unwrap();
    happen(&mut map, Event::Exclude, &[0]).unwrap();
    happen(&mut map, Event::Reintegrate, &[0]).unwrap();
    assert_eq!(happen(&mut map, Event::Reintegrated, &[0]), Ok(5));
}

#[test]
fn a_delta_leads_to_the_same_map_and_a_wrong_one_is_refused() {
    let mut map = map(3, 2);
    let first = map.clone();
    happen(&mut map, Event::Exclude, &[1]).unwrap();
    map.apply(&Change::Add(vec![server(9, "/host9", 2)])).unwrap();
    happen(&mut map, Event::Extend, &[6, 7]).unwrap();
    let delta = map.delta_since(1).unwrap();
    let mut follower = first.clone();
    follower.advance(&delta).unwrap();
    assert_eq!(follower, map);
    assert_eq!(map.delta_since(5), None);
    assert!(matches!(follower.advance(&delta), Err(MapError::Version { version: 4, from: 1, to: 4 })));

    let with = |standings: Vec<(u32, Standing)>| MapDelta { standings, ..delta.clone() };
    let standing = |since| Standing { since, state: TargetState::Down, left: since, joined: 1, served: since - 1 };
    for (wrong, why) in [
        (with(vec![]), "new targets without a standing"),
        (with(vec![(99, standing(2))]), "no such target"),
        (with(vec![(0, standing(1))]), "not after the map"),
        (with(vec![(0, standing(5))]), "after the delta"),
        (with(vec![(0, standing(3)), (0, standing(2))]), "backwards"),
        (MapDelta { servers: vec![server(9, "/host9", 1 << 19)], ..delta.clone() }, "targets out of nothing"),
        (MapDelta { to: u32::MAX, ..delta.clone() }, "a version that no map has"),
    ] {
        let mut follower = first.clone();
        assert!(follower.advance(&wrong).is_err(), "{why}");
        assert_eq!(follower, first, "{why}");
    }
}

#[test]
fn a_map_forgets_what_is_older_than_its_history() {
    let mut map = map(3, 1);
    let mut follower = map.clone();
    for _ in 0..HISTORY_MAX {
        happen(&mut map, Event::Drain, &[1]).unwrap();
        happen(&mut map, Event::Cancel, &[1]).unwrap();
        follower.advance(&map.delta_since(follower.version()).unwrap()).unwrap();
    }
    assert_eq!(follower, map);
    assert_eq!(map.floor(), map.version() - HISTORY_MAX);
    assert_eq!(map.targets()[1].standings.len(), HISTORY_MAX as usize + 1);
    assert_eq!(map.delta_since(map.floor() - 1), None);
    assert!(map.delta_since(map.floor()).is_some());
}

//! Where slots are, in maps that are written down.

use std::collections::BTreeSet;

use types::Rank;

use super::*;
use crate::FaultPath;
use crate::map::{Change, Server};
use crate::state::Event;

fn server(rank: u32, path: &str, targets: u32) -> Server {
    Server { rank: Rank(rank), path: path.parse().unwrap(), targets, weight: 1 }
}

/// `racks` of `hosts` with `targets` each.
fn racks(racks: u32, hosts: u32, targets: u32) -> Vec<Server> {
    let path = |rank: u32| format!("/rack{}/host{rank}", rank / hosts);
    (0..racks * hosts).map(|rank| server(rank, &path(rank), targets)).collect()
}

fn layout(servers: Vec<Server>) -> Layout {
    Layout::new(PoolMap::create(servers).unwrap())
}

fn happen(layout: &Layout, event: Event, positions: &[u32]) -> Layout {
    let mut map = layout.map().clone();
    map.apply(&Change::Happen(positions.iter().map(|&position| (position, event)).collect())).unwrap();
    Layout::new(map)
}

fn serving(slots: &[Slot]) -> Vec<u32> {
    slots.iter().filter_map(|slot| slot.serving).collect()
}

/// How many slots each target serves.
fn load(layout: &Layout, count: usize) -> Vec<u32> {
    let mut load = vec![0; layout.map().targets().len()];
    layout.pgs().flat_map(|pg| serving(&layout.slots(pg, count))).for_each(|target| load[target as usize] += 1);
    load
}

#[test]
fn slots_stand_in_distinct_racks_then_distinct_hosts_then_distinct_targets() {
    for (r, h, t, count) in [(4, 2, 2, 4), (3, 3, 1, 5), (2, 2, 2, 8), (1, 3, 4, 7), (5, 1, 1, 5), (2, 1, 3, 5)] {
        let layout = layout(racks(r, h, t));
        for pg in layout.pgs() {
            let members = serving(&layout.slots(pg, count));
            assert_eq!(members.len(), count.min((r * h * t) as usize));
            let count_by = |size: u32| {
                let mut counts = vec![0u32; (r * h * t / size) as usize];
                members.iter().for_each(|m| counts[(m / size) as usize] += 1);
                counts
            };
            for size in [h * t, t, 1] {
                let counts = count_by(size);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{r}x{h}x{t}: {members:?}");
            }
        }
    }
}

#[test]
fn unequal_racks_are_filled_as_far_as_they_go() {
    let mut servers = vec![server(0, "/small/host0", 1)];
    servers.extend((1..6).map(|rank| server(rank, &format!("/big/host{rank}"), 2)));
    let layout = layout(servers);
    for pg in layout.pgs() {
        let members = serving(&layout.slots(pg, 6));
        let distinct: BTreeSet<u32> = members.iter().copied().collect();
        assert_eq!((members.len(), distinct.len(), distinct.contains(&0)), (6, 6, true), "{members:?}");
    }
}

/// Domains of one target among a thousand are rarely drawn: then the tree is searched.
#[test]
fn a_rack_that_draws_hardly_meet_is_found_nevertheless() {
    let mut servers = racks(2, 40, 8);
    servers.push(server(999, "/tiny/host", 1));
    let layout = layout(servers);
    for pg in 0..200 {
        assert!(serving(&layout.slots(pg, 3)).contains(&640));
    }
}

#[test]
fn two_servers_on_one_machine_are_one_domain() {
    let servers = (0..8).map(|rank| server(rank, &format!("/host{}", rank / 2), 2)).collect();
    let layout = layout(servers);
    assert_eq!(layout.map().domain_count(), 4);
    for pg in layout.pgs() {
        let hosts: BTreeSet<u32> = serving(&layout.slots(pg, 4)).iter().map(|target| target / 4).collect();
        assert_eq!(hosts.len(), 4);
    }
}

#[test]
fn load_is_even_and_follows_weight() {
    let mut servers = racks(4, 2, 4);
    let spread = load(&layout(servers.clone()), 3);
    let mean = spread.iter().sum::<u32>() as f64 / spread.len() as f64;
    assert!(spread.iter().all(|&n| (f64::from(n) / mean - 1.0).abs() < 0.30), "{spread:?}");
    servers[0].weight = 3;
    let spread = load(&layout(servers), 1);
    let (heavy, light): (u32, u32) = (spread[..4].iter().sum(), spread[4..].iter().sum());
    assert!((f64::from(heavy) / f64::from(light) - 3.0 / 7.0).abs() < 0.06, "{heavy} {light}");
}

#[test]
fn a_target_that_is_down_is_substituted_and_nobody_else_moves() {
    let before = layout(racks(4, 2, 2));
    let after = happen(&before, Event::Exclude, &[5]);
    let out = happen(&after, Event::Rebuilt, &[5]);
    for pg in before.pgs() {
        let (was, is, then) = (before.slots(pg, 3), after.slots(pg, 3), out.slots(pg, 3));
        for slot in 0..3 {
            if was[slot].serving != Some(5) {
                assert_eq!((was[slot], was[slot]), (is[slot], then[slot]));
                continue;
            }
            let substitute = is[slot].substitute.unwrap();
            assert_eq!(is[slot], Slot { lost: Some(5), substitute: Some(substitute), ..Slot::default() });
            assert_eq!(then[slot], Slot { serving: Some(substitute), ..Slot::default() });
            assert_eq!(after.leader(pg, 3), is.iter().find_map(|slot| slot.serving));
        }
    }
}

#[test]
fn a_draining_target_serves_but_does_not_lead_and_others_join() {
    let before = layout(racks(4, 2, 2));
    let after = happen(&before, Event::Drain, &[5]);
    for pg in before.pgs() {
        let is = after.slots(pg, 3);
        for slot in is.iter().filter(|slot| slot.serving == Some(5)) {
            assert!(slot.joining.is_some() && slot.lost.is_none() && slot.substitute.is_none());
            assert_ne!(after.leader(pg, 3), Some(5));
            assert_eq!(after.leader(pg, 1), is[0].serving);
        }
    }
}

/// Upstream's map ignores the failure of a draining target, and goes on reading from it.
#[test]
fn a_draining_target_that_fails_is_lost_and_substituted() {
    let after = happen(&happen(&layout(racks(4, 2, 2)), Event::Drain, &[5]), Event::Exclude, &[5]);
    let lost = after.pgs().flat_map(|pg| after.slots(pg, 3)).filter(|slot| slot.lost == Some(5));
    assert!(lost.clone().count() > 0);
    assert!(lost.into_iter().all(|slot| slot.serving.is_none() && slot.substitute.is_some()));
}

#[test]
fn with_every_target_down_there_is_no_leader_and_no_substitute() {
    let layout = happen(&layout(racks(1, 2, 1)), Event::Exclude, &[0, 1]);
    let slots = layout.slots(0, 2);
    assert!(slots.iter().all(|slot| slot.serving.is_none() && slot.substitute.is_none() && slot.lost.is_some()));
    assert_eq!(layout.leader(0, 2), None);
}

#[test]
fn an_old_map_is_good_enough_where_nothing_changed() {
    let before = layout(racks(4, 2, 2));
    let after = happen(&before, Event::Exclude, &[5]);
    let (mut taken, mut refused) = (0, 0);
    for pg in after.pgs() {
        let touched = before.slots(pg, 3).iter().any(|slot| slot.serving == Some(5));
        match after.admit(pg, 3, 1) {
            Ok(()) => taken += usize::from(!touched),
            Err(stale) => {
                assert_eq!(stale, Stale { pg, known: 1, interval: 2, version: 2 });
                refused += usize::from(touched);
            }
        }
        assert_eq!((after.interval(pg, 3), after.admit(pg, 3, 2)), (1 + u32::from(touched), Ok(())));
    }
    assert_eq!(taken + refused, after.pg_count() as usize);
    assert!(refused > 0 && taken > refused);
}

/// Numbers of groups and slots come with requests.
#[test]
fn a_group_that_does_not_exist_has_no_slots_and_admits_nobody() {
    let layout = layout(racks(2, 1, 1));
    assert_eq!((layout.slots(layout.pg_count(), 2), layout.leader(u32::MAX, 2)), (Vec::new(), None));
    assert!(layout.admit(layout.pg_count(), 2, 99).is_err());
    assert_eq!(layout.slots(0, usize::MAX).len(), 2);
}

/// The smallest growth is the usual one. Choosing everything anew, as if the new server had always been there, moved
/// half as much again as it had to: who lost a neighbour took the place that became free.
#[test]
fn a_fourth_server_takes_its_quarter_and_nobody_else_moves() {
    let before = layout(racks(3, 1, 4));
    let mut map = before.map().clone();
    map.apply(&Change::Add(vec![server(3, "/rack3/host3", 4)])).unwrap();
    let new = [12, 13, 14, 15];
    let during = happen(&Layout::new(map), Event::Extend, &new);
    let after = happen(&during, Event::Extended, &new);
    let (mut all, mut moved) = (0, 0);
    for pg in before.pgs() {
        let (was, mid, is) = (before.slots(pg, 3), during.slots(pg, 3), after.slots(pg, 3));
        for ((was, mid), is) in was.iter().zip(&mid).zip(&is) {
            all += 1;
            if was.serving != is.serving {
                moved += 1;
                assert!(is.serving.unwrap() >= 12, "{was:?} {is:?}");
                assert_eq!((mid.serving, mid.joining), (was.serving, is.serving));
            }
        }
        assert_eq!(serving(&is).iter().map(|target| target / 4).collect::<BTreeSet<u32>>().len(), 3);
    }
    let share = f64::from(moved) / f64::from(all);
    assert!((0.22..0.28).contains(&share), "{moved} of {all}");
}

/// Each generation takes from those before it; the oldest must not be left with more, nor the newest with less.
#[test]
fn a_pool_that_grew_server_by_server_is_as_even_as_one_that_was_made_so() {
    let mut map = PoolMap::create(racks(4, 1, 2)).unwrap();
    for rank in 4..16 {
        let first = map.targets().len() as u32;
        map.apply(&Change::Add(vec![server(rank, &format!("/rack{}/host{rank}", rank % 6), 2)])).unwrap();
        for event in [Event::Extend, Event::Extended] {
            map.apply(&Change::Happen(vec![(first, event), (first + 1, event)])).unwrap();
        }
    }
    let servers: Vec<u32> = load(&Layout::new(map), 2).chunks(2).map(|targets| targets.iter().sum()).collect();
    let mean = servers.iter().sum::<u32>() / 16;
    assert!(servers.iter().all(|&load| load.abs_diff(mean) * 100 < mean * 45), "{mean}: {servers:?}");
    let (old, new): (u32, u32) = (servers[..4].iter().sum(), servers[12..].iter().sum());
    assert!(old.abs_diff(new) * 100 < old * 20, "{servers:?}");
}

#[test]
fn slots_do_not_depend_on_how_many_are_asked_for() {
    let layout = happen(&layout(racks(4, 2, 4)), Event::Exclude, &[1, 9]);
    for pg in 0..200 {
        let home: Vec<_> = layout.slots(pg, 8).iter().map(|slot| slot.serving.or(slot.lost)).collect();
        for count in 1..8 {
            let narrow: Vec<_> = layout.slots(pg, count).iter().map(|slot| slot.serving.or(slot.lost)).collect();
            assert_eq!(narrow, home[..count]);
        }
    }
}

#[test]
fn digests_tell_maps_apart() {
    let one = layout(racks(2, 2, 2));
    assert_eq!(one.digest(), layout(racks(2, 2, 2)).digest());
    assert_ne!(one.digest(), layout(racks(2, 2, 3)).digest());
    assert_ne!(one.digest(), happen(&one, Event::Exclude, &[0]).digest());
}

/// Golden: if this fails, every stored object has moved.
#[test]
fn the_layout_is_golden() {
    let layout = happen(&layout(racks(3, 2, 2)), Event::Exclude, &[4]);
    let found: Vec<Vec<Slot>> = (0..6).map(|pg| layout.slots(pg, 4)).collect();
    let text: Vec<String> = found.iter().map(|slots| slots.iter().map(show).collect::<Vec<_>>().join(" ")).collect();
    let golden: Vec<&str> = include_str!("../../golden/layout.txt").lines().collect();
    assert_eq!(text, golden, "\n{}", text.join("\n"));
    let named = |rank, targets| server(rank, FaultPath::of_rank(Rank(rank)).as_str(), targets);
    let flat = Layout::new(PoolMap::create(vec![named(0, 2), named(1, 1)]).unwrap());
    assert_eq!([layout.digest(), flat.digest()], DIGESTS, "{:#x} {:#x}", layout.digest(), flat.digest());
}
const DIGESTS: [u64; 2] = [0x6400_e093_6e87_8705, 0xfe2e_06ea_4706_adcb];

fn show(slot: &Slot) -> String {
    let place = |mark: &str, place: Option<u32>| place.map_or(String::new(), |target| format!("{mark}{target}"));
    place("", slot.serving) + &place("!", slot.lost) + &place("+", slot.substitute) + &place(">", slot.joining)
}

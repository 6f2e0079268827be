//! A reign: who leads a placement group, who is a member, and since when.
//!
//! # Since when
//! A map looks back to its floor. What held there already began at some version before: of a member with all its data
//! that is as good as ever, and it says zero; of one that is being filled, the map still knows the change that made it
//! one. So a member that was away and came back is told from one that always was there.

use crate::layout::{Layout, Slot};
use crate::state::TargetState;

/// Who leads a placement group, and who is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The version since which leader and members are these, or the floor of the map if that was before. No two leaders
    /// of a group have the same.
    pub since: u32,
    /// Position of who leads; `None`: nobody serves.
    pub leader: Option<u32>,
    /// In the order of their slots.
    pub members: Vec<Membership>,
}

/// A member of a placement group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// In the map.
    pub position: u32,
    /// The version since which it has been a member without a break, as far as anybody served; zero if it was when the
    /// memory of the map begins.
    pub since: u32,
    /// It has all data of before. Others are being filled.
    pub is_whole: bool,
}

impl Layout {
    /// Who leads the first `count` slots of a placement group, and who is a member, by this version of the map.
    ///
    /// Cost: the group is worked out once for each version of the map's memory.
    pub fn reign(&self, pg: u32, count: usize) -> Reign {
        let now = self.slots(pg, count);
        let leader = self.leader_among(&now);
        let mut members: Vec<Membership> = Vec::with_capacity(now.len());
        for slot in &now {
            for position in slot.writers() {
                if members.iter().all(|member| member.position != position) {
                    let is_whole = now.iter().any(|slot| slot.serving == Some(position));
                    members.push(Membership { position, since: 0, is_whole });
                }
            }
        }
        let mut since = None;
        let mut unsettled: Vec<usize> = (0..members.len()).collect();
        let mut newer = self.version();
        for (version, slots) in self.history(pg, count) {
            if since.is_none() && (self.leader_at(version, &slots) != leader || !same(&now, &slots)) {
                since = Some(newer);
            }
            // While nobody serves, nothing is decided: who was out then has missed nothing, and whatever it remembers counts.
            let is_idle = slots.iter().all(|slot| slot.serving.is_none());
            unsettled.retain(|&index| {
                let is_member = slots.iter().any(|slot| slot.writers().any(|p| p == members[index].position));
                if is_idle {
                    return true;
                }
                if !is_member {
                    members[index].since = newer;
                }
                is_member
            });
            newer = version;
        }
        for index in unsettled {
            if !members[index].is_whole {
                members[index].since = self.filled_since(&now, members[index].position);
            }
        }
        Reign { since: since.unwrap_or(self.map().floor()), leader, members }
    }

    /// The change because of which a member is being filled, as far as it is still known.
    fn filled_since(&self, slots: &[Slot], position: u32) -> u32 {
        let standing = |position: u32| self.map().targets()[position as usize].standing();
        let own = standing(position);
        if matches!(own.state, TargetState::Up(_)) {
            return own.since;
        }
        let slot = slots.iter().find(|slot| slot.substitute == Some(position) || slot.joining == Some(position));
        let replaced = slot.and_then(|slot| slot.lost.or(slot.serving));
        replaced.map_or(self.map().floor(), |replaced| standing(replaced).left.max(1))
    }
}

fn same(a: &[Slot], b: &[Slot]) -> bool {
    let members = |slot: &Slot| Slot { lost: None, ..*slot };
    a.len() == b.len() && a.iter().map(members).eq(b.iter().map(members))
}

#[cfg(test)]
mod tests {
    use types::Rank;

    use super::*;
    use crate::{Change, Event, FaultPath, HISTORY_MAX, PoolMap, Server};

    const COPIES: usize = 3;

    fn servers(ranks: std::ops::Range<u32>) -> Vec<Server> {
        ranks.map(|r| Server { rank: Rank(r), path: FaultPath::of_rank(Rank(r)), targets: 1, weight: 1 }).collect()
    }

    fn happen(map: &mut PoolMap, event: Event, position: u32) -> Layout {
        map.apply(&Change::Happen(vec![(position, event)])).unwrap();
        Layout::new(map.clone())
    }

    fn since(reign: &Reign, position: u32) -> Option<(u32, bool)> {
        let member = reign.members.iter().find(|member| member.position == position)?;
        Some((member.since, member.is_whole))
    }

    #[test]
    fn who_was_away_is_a_member_since_it_came_back_and_the_others_ever() {
        let mut map = PoolMap::create(servers(0..3)).unwrap();
        let first = Layout::new(map.clone()).reign(5, COPIES);
        assert_eq!(first.since, 1);
        assert!(first.members.iter().all(|member| member.since == 0 && member.is_whole));
        let gone = first.leader.unwrap();
        let without = happen(&mut map, Event::Exclude, gone).reign(5, COPIES);
        assert_eq!((without.since, without.members.len()), (2, 2));
        assert_ne!(without.leader, Some(gone));
        let back = happen(&mut map, Event::Reintegrate, gone).reign(5, COPIES);
        assert_eq!((back.since, back.leader, since(&back, gone)), (3, without.leader, Some((3, false))));
        let whole = happen(&mut map, Event::Reintegrated, gone).reign(5, COPIES);
        assert_eq!((whole.since, whole.leader, since(&whole, gone)), (4, Some(gone), Some((3, true))));
        assert!(whole.members.iter().filter(|member| member.position != gone).all(|member| member.since == 0));
    }

    /// Of two copies one was out, then the other, too. The one that served last comes back, and what it had prepared, and
    /// acknowledged, is all that there is of it: it must not be told to forget what others decided meanwhile, for nobody did.
    #[test]
    fn who_was_away_while_nobody_served_has_missed_nothing() {
        let mut map = PoolMap::create(servers(0..2)).unwrap();
        let first = Layout::new(map.clone()).reign(5, 2);
        let last = first.leader.unwrap();
        let other = 1 - last;
        happen(&mut map, Event::Exclude, other);
        let out = happen(&mut map, Event::Exclude, last).reign(5, 2);
        assert_eq!((out.leader, out.members.len()), (None, 0));
        happen(&mut map, Event::Reintegrate, other);
        happen(&mut map, Event::Reintegrate, last);
        let back = happen(&mut map, Event::Reintegrated, last).reign(5, 2);
        assert_eq!((back.leader, since(&back, last)), (Some(last), Some((0, true))));
        // The other has missed what this one decided alone.
        assert_eq!(since(&back, other), Some((3, false)));
    }

    /// Nobody else takes its places: only who leads is another.
    #[test]
    fn a_reign_ends_when_another_leads_though_the_members_are_the_same() {
        let mut map = PoolMap::create(servers(0..3)).unwrap();
        let first = Layout::new(map.clone()).reign(5, COPIES);
        let drained = happen(&mut map, Event::Drain, first.leader.unwrap()).reign(5, COPIES);
        assert_ne!(drained.leader, first.leader);
        assert_eq!(drained.since, 2);
        assert!(drained.members.iter().all(|member| member.since == 0));
    }

    /// The map forgets; a member that is being filled must not become one that always was there, and one that always
    /// was must not become a new one.
    #[test]
    fn what_a_map_has_forgotten_makes_nobody_new_and_nobody_whole() {
        let mut map = PoolMap::create(servers(0..6)).unwrap();
        let first = Layout::new(map.clone()).reign(5, COPIES);
        let gone = first.leader.unwrap();
        let excluded = happen(&mut map, Event::Exclude, gone).reign(5, COPIES);
        let substitute = excluded.members.iter().find(|member| !member.is_whole).unwrap().position;
        assert_eq!(since(&excluded, substitute), Some((2, false)));
        let of_group = |position: &u32| excluded.members.iter().any(|m| m.position == *position) || *position == gone;
        let elsewhere = (0..6).find(|position| !of_group(position)).unwrap();
        for _ in 0..HISTORY_MAX {
            happen(&mut map, Event::Drain, elsewhere);
            happen(&mut map, Event::Cancel, elsewhere);
        }
        let later = Layout::new(map.clone()).reign(5, COPIES);
        assert!(map.floor() > 2 && later.since >= map.floor());
        for member in &excluded.members {
            let known = since(&later, member.position).unwrap();
            assert_eq!(known, (if member.is_whole { 0 } else { 2 }, member.is_whole));
        }
    }
}

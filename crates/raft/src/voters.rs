//! Which replicas should vote: a pure choice.

use std::collections::{BTreeMap, BTreeSet};

use types::Rank;

use crate::limits::VOTERS_MAX;

/// A server that may hold a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub rank: Rank,
    /// What fails together with it.
    pub domain: u64,
    /// It is reached, and not on its way out.
    pub is_available: bool,
}

/// Chooses the voters of a group: an odd number, 1, 3 or 5 (but who votes stays), at most `wanted`, in as many fault domains as possible. Who votes
/// already goes on when that costs no domain; lower ranks come first. Without any available candidate, `current` stays. Whoever
/// is away, and a candidate, keeps its vote when nobody takes its place and the others need as many for a majority without it:
/// nothing would be won, and who is taken for dead may be the one that answers.
///
/// The same arguments give the same choice everywhere.
pub fn choose_voters(candidates: &[Candidate], current: &BTreeSet<Rank>, wanted: usize) -> BTreeSet<Rank> {
    let mut by_domain: BTreeMap<u64, Vec<(bool, Rank)>> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| candidate.is_available) {
        let is_new = !current.contains(&candidate.rank);
        by_domain.entry(candidate.domain).or_default().push((is_new, candidate.rank));
    }
    // The best of each domain stand in the first round, the second best in the next.
    let mut order: Vec<(usize, bool, Rank)> = Vec::new();
    for members in by_domain.values_mut() {
        members.sort_unstable();
        members.dedup();
        order.extend(members.iter().enumerate().map(|(round, (is_new, rank))| (round, *is_new, *rank)));
    }
    order.sort_unstable();
    let count = order.len().min(wanted.clamp(1, VOTERS_MAX));
    if count == 0 {
        return current.clone();
    }
    // An even number needs as many for a majority as the next odd one, and bears no more failures than the last. But who
    // votes and is there is not sent away for it: it has what was acknowledged, which would be on fewer disks.
    let staying = order.iter().take(count).filter(|(_, is_new, _)| !is_new).count();
    let is_odd_one_new = staying < count;
    let count = count - usize::from(count.is_multiple_of(2) && is_odd_one_new);
    let chosen: BTreeSet<Rank> = order.into_iter().take(count).map(|(_, _, rank)| rank).collect();
    let majority = |voters: &BTreeSet<Rank>| voters.len() / 2 + 1;
    let is_candidate = |rank: &Rank| candidates.iter().any(|candidate| candidate.rank == *rank);
    let keeps = chosen.is_subset(current) && majority(&chosen) == majority(current) && current.iter().all(is_candidate);
    if keeps && current.len() <= wanted { current.clone() } else { chosen }
}

/// Who has the log beside an only voter, and decides nothing: what was answered is on a second disk then, and can be had from
/// there should the first be lost for good. Members stay; of others, who fails apart and has a lower rank comes first. Nobody, where
/// more than one vote.
pub fn choose_spare(
    candidates: &[Candidate],
    voters: &BTreeSet<Rank>,
    is_member: impl Fn(&Rank) -> bool,
) -> Option<Rank> {
    let domains: BTreeSet<u64> =
        candidates.iter().filter(|one| voters.contains(&one.rank)).map(|one| one.domain).collect();
    let others =
        candidates.iter().filter(|one| !voters.contains(&one.rank) && (one.is_available || is_member(&one.rank)));
    let order = |one: &&Candidate| (!one.is_available, domains.contains(&one.domain), !is_member(&one.rank), one.rank);
    others.min_by_key(order).map(|one| one.rank).filter(|_| voters.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool on two ranks had its service on one of them: when that disk was lost, the data was whole on the other, and nothing
    /// there knew of it.
    #[test]
    fn an_only_voter_has_somebody_beside_it() {
        let spare = |available: &[(u32, u64)], away: &[(u32, u64)], voters: &[u32], member: Option<u32>| {
            let candidate =
                |is_available| move |&(rank, domain): &(u32, u64)| Candidate { rank: Rank(rank), domain, is_available };
            let all: Vec<_> = available.iter().map(candidate(true)).chain(away.iter().map(candidate(false))).collect();
            let voters = voters.iter().copied().map(Rank).collect();
            choose_spare(&all, &voters, |rank| Some(rank.0) == member).map(|rank| rank.0)
        };
        assert_eq!(spare(&[(0, 0)], &[], &[0], None), None, "there is nobody");
        assert_eq!(spare(&[(0, 0), (1, 1)], &[], &[0], None), Some(1));
        assert_eq!(spare(&[(0, 0), (1, 0), (2, 2)], &[], &[0], None), Some(2), "it fails apart");
        assert_eq!(spare(&[(0, 0), (1, 1), (2, 2)], &[], &[0], Some(2)), Some(2), "who has the log stays");
        assert_eq!(spare(&[(0, 0)], &[(1, 1)], &[0], Some(1)), Some(1), "also while it is away");
        assert_eq!(spare(&[(0, 0)], &[(1, 1)], &[0], None), None, "who is away does not begin");
        assert_eq!(spare(&[(0, 0), (2, 2)], &[(1, 1)], &[0], Some(1)), Some(2));
        assert_eq!(spare(&[(0, 0), (1, 1), (2, 2)], &[], &[0, 1, 2], None), None);
    }

    fn check(available: &[(u32, u64)], current: &[u32], wanted: usize, chosen: &[u32]) {
        let candidates: Vec<_> = available
            .iter()
            .map(|&(rank, domain)| Candidate { rank: Rank(rank), domain, is_available: true })
            .collect();
        let ranks = |ranks: &[u32]| ranks.iter().map(|rank| Rank(*rank)).collect::<BTreeSet<_>>();
        assert_eq!(choose_voters(&candidates, &ranks(current), wanted), ranks(chosen));
    }

    #[test]
    fn voters_are_an_odd_number_in_different_domains() {
        check(&[(0, 0)], &[], 3, &[0]);
        check(&[(0, 0), (1, 1)], &[], 3, &[0]);
        check(&[(0, 0), (1, 1), (2, 2), (3, 3)], &[], 5, &[0, 1, 2]);
        check(&[(0, 0), (1, 0), (2, 0), (3, 1), (4, 2)], &[], 3, &[0, 3, 4]);
        check(&[(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)], &[], 9, &[0, 1, 2, 3, 4]);
    }

    #[test]
    fn who_votes_goes_on_unless_it_costs_a_domain() {
        check(&[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], &[2, 3, 4], 3, &[2, 3, 4]);
        check(&[(0, 0), (1, 1), (2, 2), (3, 2)], &[2, 3], 3, &[0, 1, 2]);
        check(&[(1, 1)], &[0, 1, 2], 3, &[1]);
        check(&[(0, 0), (2, 2)], &[0, 1, 2], 3, &[0, 2]);
        check(&[(0, 0), (3, 3)], &[0, 1, 2], 3, &[0]);
        check(&[], &[0, 1, 2], 3, &[0, 1, 2]);
    }

    #[test]
    fn who_is_away_keeps_its_vote_while_that_costs_nothing() {
        let choose = |away: &[u32], others: &[u32], current: &[u32]| {
            let all = away.iter().chain(others).map(|rank| Candidate {
                rank: Rank(*rank),
                domain: u64::from(*rank),
                is_available: others.contains(rank),
            });
            let current = current.iter().copied().map(Rank).collect();
            choose_voters(&all.collect::<Vec<_>>(), &current, 5).into_iter().map(|rank| rank.0).collect::<Vec<_>>()
        };
        assert_eq!(choose(&[1], &[0, 2], &[0, 1, 2]), [0, 1, 2], "two of three decide, as two of two would");
        assert_eq!(choose(&[1, 2], &[0], &[0, 1, 2]), [0], "one that is there decides alone");
        assert_eq!(choose(&[3, 4], &[0, 1, 2], &[0, 1, 2, 3, 4]), [0, 1, 2], "two of three, not three of five");
        assert_eq!(choose(&[1], &[0, 2, 3], &[0, 1, 2]), [0, 2, 3], "somebody takes its place");
    }
}

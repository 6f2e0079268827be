//! Which servers a new pool is made of. Pure.

use std::collections::{BTreeMap, BTreeSet};

use types::{Code, Error, Rank};
use wire::control::PoolServers;

use super::system::SystemState;

/// The servers that are wanted, in the order of their ranks.
///
/// # Errors
/// `NotFound`: a rank that the system does not have. `Invalid`: one that does not take part, or fewer than are wanted.
/// `Again`: nobody has joined yet.
pub(super) fn choose(system: &SystemState, wanted: &PoolServers) -> Result<Vec<Rank>, Error> {
    let joined: Vec<Rank> = system.joined().map(|(rank, _)| rank).collect();
    if joined.is_empty() {
        return Err(Error::new(Code::Again, "no server has joined yet").remedy("try again in a moment"));
    }
    match wanted {
        PoolServers::All => Ok(joined),
        PoolServers::Ranks { ranks } if ranks.is_empty() => {
            Err(Error::new(Code::Invalid, "no rank is named").remedy("name some: `--ranks 1,3`"))
        }
        PoolServers::Ranks { ranks } => {
            system.check_joined(ranks)?;
            let mut ranks = ranks.clone();
            ranks.sort();
            ranks.dedup();
            Ok(ranks)
        }
        PoolServers::Count { count } => {
            let count = *count as usize;
            if count == 0 || count > joined.len() {
                let text = format!("a pool on {count} servers: {} take part", joined.len());
                return Err(Error::new(Code::Invalid, text).remedy("ask for 1 or more, and no more than take part"));
            }
            Ok(spread(system, joined, count))
        }
    }
}

/// Whether servers fail apart in as many ways as a pool's redundancy factor needs.
///
/// # Errors
/// `Invalid`.
pub(super) fn check_redundancy(
    system: &SystemState,
    servers: &[Rank],
    properties: &[(String, String)],
) -> Result<(), Error> {
    let asked = properties.iter().find(|(name, _)| matches!(name.as_str(), "rd_fac" | "rf"));
    // What is no number is refused with all else that is.
    let factor = asked.and_then(|(_, value)| value.parse::<usize>().ok());
    let path = |rank: &Rank| system.members.get(rank).map(|member| &member.fault_path);
    let domains = servers.iter().map(path).collect::<BTreeSet<_>>().len();
    match factor {
        Some(factor) if factor >= domains => {
            let (needed, most) = (factor.saturating_add(1), domains.saturating_sub(1));
            let text = format!(
                "redundancy factor {factor} needs {needed} fault domains, and the pool's servers are in {domains}"
            );
            Err(Error::new(Code::Invalid, text)
                .remedy(format!("use rd_fac:{most} or less, or servers that fail apart (`fault_path`)")))
        }
        _ => Ok(()),
    }
}

/// `count` of the servers, in as many of the largest fault domains as can be, then of those below, and so on; of equals,
/// those that the fewest pools are on.
///
/// Cost: a walk over the servers for each one chosen.
fn spread(system: &SystemState, mut left: Vec<Rank>, count: usize) -> Vec<Rank> {
    // Every domain that a server is in, the largest first: `/rack1`, `/rack1/host2`.
    let domains = |rank: &Rank| -> Vec<&str> {
        let path = system.members.get(rank).map_or("", |member| member.fault_path.as_str());
        let ends = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at);
        ends.chain([path.len()]).map(|end| &path[..end]).collect()
    };
    let pools_on = |rank: &Rank| system.pools.values().filter(|row| row.servers.contains(rank)).count();
    let load: BTreeMap<Rank, usize> = left.iter().map(|rank| (*rank, pools_on(rank))).collect();
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen = Vec::with_capacity(count);
    for _ in 0..count {
        let crowd = |rank: &Rank| -> Vec<usize> {
            domains(rank).into_iter().map(|domain| used.get(domain).copied().unwrap_or(0)).collect()
        };
        let best = (0..left.len()).min_by_key(|at| (crowd(&left[*at]), load[&left[*at]], left[*at]));
        let Some(best) = best else { break };
        let rank = left.remove(best);
        domains(&rank).into_iter().for_each(|domain| *used.entry(domain).or_default() += 1);
        chosen.push(rank);
    }
    chosen.sort();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::system::{Phase, PoolRow, SystemCommand};
    use raft::StateMachine;
    use types::{PoolId, ServerId};
    use wire::encoding::Bytes32;

    /// A system with a server in each of these places.
    fn system(places: &[&str]) -> SystemState {
        let mut system = SystemState::empty();
        for (n, place) in (1..).zip(places) {
            let hash = Bytes32([n; 32]);
            system.apply(SystemCommand::AddToken { hash, expires: 100, now: 1 }).unwrap();
            let join = SystemCommand::Join {
                server: ServerId::from_bytes([n; 16]),
                token: Some(hash),
                address: format!("mem://{n}"),
                fault_path: place.to_string(),
                targets: 2,
                incarnation: 1,
                now: 1,
            };
            system.apply(join).unwrap();
        }
        system
    }

    fn pool_on(system: &mut SystemState, n: u8, ranks: &[u32]) {
        let row = PoolRow {
            label: format!("pool-{n}"),
            bytes_per_target: 1,
            phase: Phase::Ready,
            since: 1,
            servers: ranks.iter().copied().map(Rank).collect(),
            maker: Rank(ranks[0]),
            properties: vec![],
            trouble: None,
            acl: None,
        };
        system.pools.insert(PoolId::from_bytes([n; 16]), row);
    }

    #[test]
    fn a_pool_on_some_servers_is_spread_over_racks_and_then_over_hosts() {
        let system = system(&["/r1/a", "/r1/a", "/r1/b", "/r2/c", "/r2/d", "/r3/e"]);
        let chosen = |count| choose(&system, &PoolServers::Count { count }).unwrap();
        let ranks = |ranks: &[u32]| ranks.iter().copied().map(Rank).collect::<Vec<_>>();
        assert_eq!(chosen(1), ranks(&[0]));
        assert_eq!(chosen(3), ranks(&[0, 3, 5]));
        assert_eq!(chosen(4), ranks(&[0, 2, 3, 5]), "a second in rack 1 is on the other host");
        assert_eq!(chosen(6), ranks(&[0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn of_equals_those_with_the_fewest_pools_are_taken() {
        let mut system = system(&["/a", "/b", "/c"]);
        pool_on(&mut system, 1, &[0, 1]);
        assert_eq!(choose(&system, &PoolServers::Count { count: 1 }), Ok(vec![Rank(2)]));
        pool_on(&mut system, 2, &[2, 1]);
        assert_eq!(choose(&system, &PoolServers::Count { count: 2 }), Ok(vec![Rank(0), Rank(2)]));
    }

    #[test]
    fn servers_that_are_not_there_are_refused_by_name() {
        let mut system = system(&["/a", "/b", "/c"]);
        system.apply(SystemCommand::Stop { ranks: vec![Rank(2)], stop: true }).unwrap();
        let error = |wanted: PoolServers| {
            let error = choose(&system, &wanted).unwrap_err();
            assert!(error.remedy.is_some(), "{error}");
            (error.code, error.message)
        };
        let named = |ranks: &[u32]| PoolServers::Ranks { ranks: ranks.iter().copied().map(Rank).collect() };
        assert_eq!(choose(&system, &named(&[1, 0, 1])), Ok(vec![Rank(0), Rank(1)]));
        assert_eq!(choose(&system, &PoolServers::All), Ok(vec![Rank(0), Rank(1)]));
        assert_eq!(error(named(&[])).0, Code::Invalid);
        assert_eq!(error(named(&[0, 9])), (Code::NotFound, "no rank 9".into()));
        assert_eq!(error(named(&[2])), (Code::Invalid, "rank 2 does not take part at the moment".into()));
        for count in [0, 3] {
            assert_eq!(error(PoolServers::Count { count }).0, Code::Invalid, "{count}");
        }
    }
}

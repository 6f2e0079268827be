//! Most servers of a system are lost for good, with their storage: those that are left go on when an operator says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use control::offline::Offline;
use control::recovery::Service;
use engine::service::JoinConfig;
use types::{Code, Error, Rank};
use wire::control::{ContainerInfo, ContainerName, MemberState, PoolCreate, PoolInfo, SystemInfo, Token, TokenCreate};
use wire::{Opcode, Wire};

use super::{Cluster, POOL_BYTES, address, container, form, is_out, once, pool, run, seeds, states_of};

/// Something with the storage of a server that is down.
async fn at_rest<T: 'static>(cluster: &Cluster, number: u32, what: impl FnOnce(&Offline) -> T + 'static) -> T {
    let look = async move { what(&Offline::take(Path::new("/daos")).expect("no server has it")) };
    cluster.sim.restart(cluster.node(number).node, look).await.expect("the node is up")
}

/// A system of `count` servers with a pool on all and a container, all of which have come to rest; and their power cut.
async fn before(cluster: &Cluster, count: u32) -> ContainerInfo {
    form(cluster, count).await;
    let all: Vec<u32> = (0..count).collect();
    let voters = if count == 2 { 1 } else { count as usize };
    cluster.settle("all vote", &all, |info| info.voters.len() == voters).await;
    let big = PoolCreate { bytes: u64::from(count) * POOL_BYTES, ..pool("tank") };
    cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
    let made = cluster.ask(&all, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
    cluster.pool_settles("all are in", &all, |info| info.disabled_targets == 0).await;
    cluster.agree(&all).await;
    // What all know may still be on its way to some disks; and nobody waits for the disk of a server without a vote, which gets
    // what a message that was lost had in it when the next link is there.
    rt::sleep(Duration::from_secs(if voters == 1 { 6 } else { 1 })).await;
    all.iter().for_each(|number| cluster.crash(*number));
    made
}

/// What was there before is there, the lost are out, and commands work.
async fn goes_on(cluster: &Cluster, left: &[u32], made: &ContainerInfo, lost: &BTreeSet<Rank>) {
    let name = ContainerName { pool: "tank".into(), container: "box".into() };
    let seen: ContainerInfo = cluster.ask(left, (0, 0), Opcode::ContainerQuery, &name).await.unwrap();
    assert_eq!(seen.id, made.id);
    let again: ContainerInfo = cluster.ask(left, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
    assert_eq!(again.id, made.id, "K5: a repeat over all that");
    cluster.ask::<ContainerInfo>(left, (7, 3), Opcode::ContainerCreate, &container("crate")).await.unwrap();
    for number in lost.iter().map(|rank| rank.0) {
        let is_gone = |info: &SystemInfo| info.members[number as usize].state != MemberState::Joined;
        cluster.settle("the lost are excluded", left, is_gone).await;
        cluster.map_settles(left, move |map| states_of(map, number).into_iter().all(is_out)).await;
    }
}

/// Two of three are lost. The third refuses, says why, and goes on alone when it is told to; two new servers join, and vote.
#[test]
fn one_of_three_goes_on_alone_when_it_is_told_to() {
    for seed in seeds(3) {
        run(seed, async move |cluster: Cluster| {
            let made = before(&cluster, 3).await;
            let left = (seed % 3) as u32;
            let lost: BTreeSet<Rank> = (0..3).map(Rank).filter(|rank| rank.0 != left).collect();
            // Whatever its operator believes: with one lost there is a majority, and nothing is done.
            let one: BTreeSet<Rank> = lost.iter().copied().take(1).collect();
            let refused: Vec<Error> = at_rest(&cluster, left, move |offline| {
                let (replicas, faults) = offline.replicas().unwrap();
                assert_eq!((replicas.len(), faults), (2, vec![]), "the system's, and the pool's");
                assert_eq!(replicas[0].service, Service::System);
                let tried = replicas.iter().flat_map(|replica| {
                    [offline.dictate(replica, &one).map(drop).unwrap_err(), offline.forget(replica, &one).unwrap_err()]
                });
                tried.collect()
            })
            .await;
            assert!(refused.iter().all(|error| error.code == Code::Busy), "{refused:?}");
            // Without help it serves nobody.
            let nobody = cluster.start(left, None).await;
            if nobody.is_ok() {
                let asked = once(&cluster, left, 7, 3, Opcode::ContainerCreate, container("crate").to_bytes());
                let asked = asked.await.unwrap_err();
                assert!(asked.is_transient(), "{asked}");
                cluster.crash(left);
            }
            let gone = lost.clone();
            at_rest(&cluster, left, move |offline| {
                for replica in offline.replicas().unwrap().0 {
                    let refused = offline.forget(&replica, &gone).unwrap_err();
                    assert_eq!(refused.code, Code::Invalid, "nobody else has it: {refused}");
                    let dictated = offline.dictate(&replica, &gone).unwrap();
                    assert_eq!(dictated.voters, (0..3).map(Rank).collect());
                    assert!(offline.dictate(&replica, &gone).is_ok(), "what was read before may be told again");
                }
                for replica in offline.replicas().unwrap().0 {
                    assert_eq!(replica.voters(), BTreeSet::from([Rank(left)]));
                    assert_eq!(
                        offline.dictate(&replica, &gone).unwrap_err().code,
                        Code::Busy,
                        "it is its own majority"
                    );
                }
            })
            .await;
            cluster.start(left, None).await.unwrap();
            goes_on(&cluster, &[left], &made, &lost).await;
            for number in [3, 4] {
                let token = (9, u64::from(number));
                let token: Token =
                    cluster.ask(&[left], token, Opcode::SystemToken, &TokenCreate { seconds: 60 }).await.unwrap();
                let join = JoinConfig { addresses: vec![address(left)], token: token.token };
                cluster.start(number, Some(join)).await.unwrap();
            }
            let new = [left, 3, 4];
            cluster.settle("the new ones vote", &new, |info| info.voters == new.map(Rank)).await;
        });
    }
}

/// Of two servers one decides, and it is the one that is lost: the other has all that was answered, and goes on when it is told to.
/// Every replica there but an empty one was said to have a majority, once, and the data was out of reach for good.
#[test]
fn of_two_the_one_that_never_decided_goes_on_when_it_is_told_to() {
    for seed in seeds(3) {
        run(seed, async move |cluster: Cluster| {
            let made = before(&cluster, 2).await;
            let lost = BTreeSet::from([Rank(0)]);
            let gone = lost.clone();
            at_rest(&cluster, 1, move |offline| {
                let (replicas, faults) = offline.replicas().unwrap();
                assert_eq!((replicas.len(), faults), (2, vec![]));
                for replica in replicas {
                    let voters = replica.voters();
                    assert_eq!(voters.len(), 1, "seed {seed}: {:?}", replica.service);
                    if voters == BTreeSet::from([Rank(1)]) {
                        // A pool's service may be there anyhow.
                        continue;
                    }
                    let refused = offline.forget(&replica, &gone).unwrap_err();
                    assert_eq!(refused.code, Code::Invalid, "nobody else has it: {refused}");
                    offline.dictate(&replica, &gone).unwrap();
                }
            })
            .await;
            cluster.start(1, None).await.unwrap();
            goes_on(&cluster, &[1], &made, &lost).await;
        });
    }
}

/// Three of five are lost. Of the two that are left the one that got furthest speaks, the other forgets what it had, be it the one
/// that made the system; both have the same in the end (K19).
#[test]
fn two_of_five_go_on_together_and_one_of_them_speaks() {
    for seed in seeds(3) {
        run(seed, async move |cluster: Cluster| {
            let made = before(&cluster, 5).await;
            // The one that made the system, and another.
            let left = [0, 1 + (seed % 4) as u32];
            let lost: BTreeSet<Rank> = (0..5).filter(|number| !left.contains(number)).map(Rank).collect();
            let mut furthest = BTreeMap::new();
            for number in left {
                let replicas = at_rest(&cluster, number, |offline| offline.replicas().unwrap().0).await;
                for replica in replicas.iter().filter(|replica| replica.without(&lost).is_some()) {
                    let best = furthest.entry(replica.service).or_insert((replica.at_rest.last, number));
                    *best = (*best).max((replica.at_rest.last, number));
                }
            }
            for number in left {
                let (gone, furthest) = (lost.clone(), furthest.clone());
                at_rest(&cluster, number, move |offline| {
                    for replica in offline.replicas().unwrap().0.iter().filter(|one| one.without(&gone).is_some()) {
                        match furthest[&replica.service].1 == number {
                            true => drop(offline.dictate(replica, &gone).unwrap()),
                            false => offline.forget(replica, &gone).unwrap(),
                        }
                    }
                })
                .await;
            }
            for number in left {
                cluster.start(number, None).await.unwrap();
            }
            goes_on(&cluster, &left, &made, &lost).await;
            cluster.agree(&left).await;
        });
    }
}

//! Groups that grow and shrink while clients work, and a group whose majority is gone.

mod rig;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use raft::{ChangeError, Group, OpenError, Request, Role};
use rig::{Cluster, DIRECTORY, GROUP, List, config, dice, ms, peer, run, seeds};
use types::Rank;

fn ranks(ranks: impl IntoIterator<Item = u32>) -> BTreeSet<Rank> {
    ranks.into_iter().map(Rank).collect()
}

/// Appends as fast as they are answered, until told to stop.
fn work(cluster: &Cluster, is_over: &Rc<Cell<bool>>) -> rt::JoinHandle<()> {
    let (cluster, is_over) = (cluster.clone(), Rc::clone(is_over));
    rt::spawn_local(async move {
        let session = cluster.session();
        let mut number = 0;
        while !is_over.get() {
            number += 1;
            cluster.append(Request { session, number }, Duration::from_secs(20)).await.expect("no majority ever fails");
            cluster.look(Duration::from_secs(20)).await;
        }
    })
}

/// Grows to `voters`, each new one a learner first, as a service would.
async fn set_voters(cluster: &Cluster, voters: impl IntoIterator<Item = u32>) {
    let voters = ranks(voters);
    for rank in &voters {
        cluster
            .settle("a learner", async || {
                let leader = cluster.leader()?;
                leader.add_learner(&peer(rank.0)).await.ok()?;
                leader.lag(*rank).filter(|lag| *lag < 10)
            })
            .await;
    }
    cluster
        .settle("the voters", async || {
            cluster.leader()?.set_voters(&voters).await.ok()?;
            let members = cluster.leader()?.members();
            (members.voters == voters && members.is_settled).then_some(())
        })
        .await;
}

async fn drop_learners(cluster: &Cluster) {
    cluster
        .settle("only voters", async || {
            let leader = cluster.leader()?;
            let members = leader.members();
            for rank in members.addresses.keys().filter(|rank| !members.voters.contains(rank)) {
                leader.remove(*rank).await.ok()?;
            }
            Some(())
        })
        .await;
}

#[test]
fn a_group_grows_to_five_and_shrinks_to_one_while_clients_work() {
    for seed in seeds(6) {
        run(seed, async |cluster: Cluster| {
            cluster.create(0).await;
            let is_over = Rc::new(Cell::new(false));
            let worker = work(&cluster, &is_over);
            for count in [2, 3, 4, 5] {
                cluster.join(count - 1).await;
                set_voters(&cluster, 0..count).await;
                rt::sleep(ms(dice(300))).await;
            }
            for count in [3, 1] {
                set_voters(&cluster, 0..count).await;
                drop_learners(&cluster).await;
                for gone in count..5 {
                    cluster.crash(gone);
                }
                rt::sleep(ms(dice(300))).await;
            }
            is_over.set(true);
            worker.await.expect("the worker does not panic");
            let members = cluster.leader().expect("one is left").members();
            assert_eq!(members.addresses.into_keys().collect::<BTreeSet<_>>(), ranks([0]));
            cluster.check().await;
        });
    }
}

#[test]
fn a_change_survives_crashes_of_members_in_its_midst() {
    for seed in seeds(6) {
        run(seed, async |cluster: Cluster| {
            cluster.of(3).await;
            let is_over = Rc::new(Cell::new(false));
            let worker = work(&cluster, &is_over);
            for rank in [3, 4] {
                cluster.join(rank).await;
            }
            let changing = {
                let cluster = cluster.clone();
                rt::spawn_local(async move { set_voters(&cluster, [2, 3, 4]).await })
            };
            for _ in 0..4 {
                rt::sleep(ms(dice(150))).await;
                let victim = dice(5) as u32;
                cluster.crash(victim);
                rt::sleep(ms(dice(300))).await;
                cluster.open(victim).await;
            }
            changing.await.expect("the change comes about");
            is_over.set(true);
            worker.await.expect("the worker does not panic");
            drop_learners(&cluster).await;
            (0..2).for_each(|gone| cluster.crash(gone));
            cluster.check().await;
        });
    }
}

#[test]
fn a_leader_may_remove_itself() {
    run(3, async |cluster: Cluster| {
        cluster.of(3).await;
        let old = cluster.leader().expect("it was just made");
        old.remove(old.me().rank).await.expect("the others agree");
        cluster
            .settle("another leader", async || cluster.leader().filter(|leader| leader.me().rank != old.me().rank))
            .await;
        cluster.crash(old.me().rank.0);
        assert_eq!(cluster.leader().expect("it is there").members().voters.len(), 2);
        drop(old);
        cluster.check().await;
    });
}

/// Found by `a_change_survives_crashes_of_members_in_its_midst`: a leader that votes no more removed itself, and in the
/// moment that it led on removed another. In the library an assertion failed, which stopped the replica.
#[test]
fn a_leader_that_removed_itself_changes_nothing_more() {
    run(8, async |cluster: Cluster| {
        cluster.of(4).await;
        let leader = cluster.leader().expect("it was just made");
        let me = leader.me().rank;
        let others: Vec<u32> = (0..4).filter(|rank| Rank(*rank) != me).collect();
        leader.set_voters(&ranks(others.iter().copied())).await.expect("all are there");
        leader.remove(me).await.expect("it still leads");
        let refused = leader.add_learner(&peer(9)).await;
        assert_eq!(refused, Err(ChangeError::NotLeader { leader: None }));
        drop(leader);
        cluster.crash(me.0);
        cluster.check().await;
    });
}

#[test]
fn what_cannot_be_is_refused() {
    run(4, async |cluster: Cluster| {
        cluster.of(3).await;
        let leader = cluster.leader().expect("it was just made");
        assert_eq!(leader.set_voters(&ranks([0, 1, 9])).await, Err(ChangeError::NoMember(Rank(9))));
        assert!(matches!(leader.set_voters(&ranks([])).await, Err(ChangeError::Invalid(_))));
        assert!(matches!(leader.set_voters(&ranks(0..7)).await, Err(ChangeError::Invalid(_))));
        assert_eq!(leader.remove(Rank(9)).await, Ok(()));
        let follower = cluster.groups().into_iter().find(|group| group.me() != leader.me()).expect("two follow");
        assert_eq!(
            follower.set_voters(&ranks([0])).await,
            Err(ChangeError::NotLeader { leader: Some(leader.me().clone()) })
        );
    });
}

/// Found by packets that were lost (`cli/tests/cluster`): for a moment the system took the server that answered for dead, and the
/// one that did not for alive. The pool's leader was to have the second vote with it and not the first, began that, and decided nothing any
/// more, though two of three were there: what is begun needs both majorities, and is not taken back.
#[test]
fn who_is_silent_is_not_made_half_of_a_majority() {
    for seed in seeds(6) {
        run(seed, async |cluster: Cluster| {
            cluster.of(3).await;
            let leader = cluster.leader().expect("it was just made");
            let me = leader.me().rank.0;
            let [silent, _] = [(me + 1) % 3, (me + 2) % 3];
            cluster.isolate(silent);
            rt::sleep(config().election_max * 2).await;
            let refused = leader.set_voters(&ranks([me, silent])).await;
            assert_eq!(refused, Err(ChangeError::Silent { answering: 1, voters: 2 }));
            let session = cluster.session();
            cluster.append(Request { session, number: 1 }, ms(3000)).await.expect("two of three are there");
            cluster.heal();
            drop(leader);
            cluster.check().await;
        });
    }
}

/// The majority is gone: one survivor speaks for the group, with all that it knew, and others join anew.
#[test]
fn one_survivor_dictates_and_keeps_what_it_had() {
    for seed in seeds(6) {
        run(seed, async move |cluster: Cluster| {
            cluster.of(3).await;
            let session = cluster.session();
            for number in 1..=30 + dice(30) {
                cluster.append(Request { session, number }, ms(3000)).await.expect("nothing fails yet");
            }
            // A follower that has all: what was answered before this moment is not lost.
            let had = cluster.check().await;
            (0..3).for_each(|rank| cluster.crash(rank));
            let survivor = dice(3) as u32;
            let dictate = async move { Group::dictate(Path::new(DIRECTORY), GROUP, peer(survivor), List::default()) };
            let dictated = cluster.sim.restart(cluster.node(survivor), dictate).await.expect("the node is up");
            let dictated = dictated.expect("its files are whole");
            assert_eq!(dictated.voters, ranks(0..3));
            assert!(dictated.last >= had.len() as u64, "{dictated:?}");
            cluster.open(survivor).await;
            let kept = cluster.check().await;
            assert!(kept.starts_with(&had), "seed {seed}");
            let leader = cluster.leader().expect("it leads itself");
            assert!(leader.standing().term >= dictated.term);
            assert_eq!(leader.members().voters, ranks([survivor]));
            for rank in [3, 4] {
                cluster.join(rank).await;
            }
            set_voters(&cluster, [survivor, 3, 4]).await;
            cluster.check().await;
        });
    }
}

#[test]
fn a_replica_that_never_got_anything_does_not_dictate() {
    run(5, async |cluster: Cluster| {
        cluster.join(1).await;
        cluster.crash(1);
        let dictated = cluster
            .sim
            .restart(cluster.node(1), async {
                let path = Path::new(DIRECTORY);
                let missing = Group::dictate(Path::new("/nothing"), GROUP, peer(1), List::default());
                assert!(matches!(missing, Err(OpenError::Missing { .. })));
                Group::dictate(path, GROUP, peer(1), List::default())
            })
            .await;
        assert!(matches!(dictated.expect("the node is up"), Err(OpenError::Config(_))));
    });
}

/// A reconciler asks before each step whether its reign goes on; what it proposes in a reign that is over does nothing.
#[test]
fn who_decides_for_an_old_term_is_fenced() {
    run(6, async |cluster: Cluster| {
        cluster.of(3).await;
        let old = cluster.leader().expect("it was just made");
        let (rank, term) = (old.me().rank, old.standing().term);
        assert!(old.is_leader(term));
        old.propose_as(term, None, &rig::Append::of(1)).await.expect("it leads");
        let heir = (0..3).map(Rank).find(|other| *other != rank).expect("two follow");
        let mut watch = old.watch();
        old.hand_over(heir).await;
        while watch.standing().role == Role::Leader {
            watch.changed().await.expect("it runs");
        }
        assert!(!old.is_leader(term));
        cluster.settle("the heir leads", async || cluster.leader().filter(|group| group.me().rank == heir)).await;
        cluster
            .settle("and back", async || {
                cluster.leader()?.hand_over(rank).await;
                rt::sleep(ms(100)).await;
                cluster.leader().filter(|group| group.me().rank == rank)
            })
            .await;
        assert!(old.standing().term > term);
        let late = old.propose_as(term, None, &rig::Append::of(2)).await;
        assert!(matches!(late, Err(raft::ProposeError::NotLeader { .. })), "{late:?}");
        assert_eq!(old.read(|list| list.items.clone()).await, Ok(vec![1]));
    });
}

/// A leader handed over, and heard of no other: cut off at that moment, it was no member any more when it could be reached
/// again, so nobody spoke to it. It counted itself as leader for ever, and a server that led its system's service so never
/// heard that it had been excluded. (Seed 12021 of the simulator's `k14_one_leader`)
#[test]
fn a_leader_that_handed_over_and_is_forgotten_leads_no_more() {
    run(5, async move |cluster: Cluster| {
        cluster.of(3).await;
        let old = cluster.leader().expect("it was just made");
        let rank = old.me().rank;
        let heir = (0..3).map(Rank).find(|other| *other != rank).expect("two follow");
        // Else it tries again to tell them of entries, and hears who leads.
        rt::sleep(ms(2000)).await;
        cluster.isolate(rank.0);
        old.hand_over(heir).await;
        let leader =
            cluster.settle("another leads", async || cluster.leader().filter(|group| group.me().rank != rank)).await;
        cluster
            .settle("it is no member", async || {
                cluster.leader()?.remove(rank).await.ok()?;
                (!leader.members().addresses.contains_key(&rank)).then_some(())
            })
            .await;
        cluster.heal();
        cluster.settle("it leads no more", async || (old.standing().role != Role::Leader).then_some(())).await;
    });
}

//! Groups of 1, 3 and 5 replicas under crashes, cuts, losses and repeats: what clients saw is what one list explains.
//! `RAFT_SEEDS=n` runs more seeds, `RAFT_FIRST=s` begins at seed `s`.

mod rig;

use std::cell::Cell;
use std::rc::Rc;

use raft::{Message, ProposeError, Request};
use rig::{Append, Cluster, dice, ms, run, seeds};

/// Clients that append and read until `is_over`.
fn clients(cluster: &Cluster, count: usize, is_over: &Rc<Cell<bool>>) -> Vec<rt::JoinHandle<()>> {
    let client = |_| {
        let (cluster, is_over) = (cluster.clone(), Rc::clone(is_over));
        rt::spawn_local(async move {
            let session = cluster.session();
            let mut number = 0;
            while !is_over.get() {
                number += 1;
                match dice(4) {
                    0 => drop(cluster.look(ms(3000)).await),
                    _ => drop(cluster.append(Request { session, number }, ms(4000)).await),
                }
                rt::sleep(ms(dice(60))).await;
            }
        })
    };
    (0..count).map(client).collect()
}

/// One thing that goes wrong.
fn go_wrong(cluster: &Cluster, count: u32) {
    let rank = dice(count.into()) as u32;
    let other = dice(count.into()) as u32;
    match dice(10) {
        0 | 1 if cluster.is_up(rank) => cluster.crash(rank),
        2 if cluster.is_up(rank) => cluster.kill(rank),
        3 => cluster.isolate(rank),
        4 | 5 => cluster.cut(rank, other),
        6 => cluster.net.lost_percent.set(dice(30)),
        7 => cluster.net.repeated_percent.set(dice(30)),
        8 => cluster.net.delay_max_us.set(dice(40_000)),
        _ => cluster.heal(),
    }
}

async fn life(cluster: Cluster, count: u32) {
    cluster.of(count).await;
    let is_over = Rc::new(Cell::new(false));
    let clients = clients(&cluster, 3, &is_over);
    for _ in 0..40 {
        rt::sleep(ms(dice(600))).await;
        go_wrong(&cluster, count);
        for rank in 0..count {
            if !cluster.is_up(rank) && dice(3) == 0 {
                cluster.open(rank).await;
            }
        }
    }
    is_over.set(true);
    cluster.heal();
    for rank in 0..count {
        if !cluster.is_up(rank) {
            cluster.open(rank).await;
        }
    }
    for client in clients {
        client.await.expect("clients do not panic");
    }
    cluster.check().await;
    if std::env::var_os("RAFT_SEEDS").is_some() {
        let (answers, reads) = (cluster.history.answers(), cluster.history.reads());
        println!("seed {}: {answers} appends, {reads} reads, {:?}", cluster.sim.seed(), cluster.sim.elapsed());
    }
}

#[test]
fn one_replica_keeps_what_it_answered() {
    for seed in seeds(6) {
        run(seed, |cluster| life(cluster, 1));
    }
}

#[test]
fn three_replicas_are_one_list_whatever_fails() {
    for seed in seeds(12) {
        run(seed, |cluster| life(cluster, 3));
    }
}

#[test]
fn five_replicas_are_one_list_whatever_fails() {
    for seed in seeds(6) {
        run(seed, |cluster| life(cluster, 5));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2] {
        let [first, second] = [(); 2].map(|()| run(seed, |cluster| life(cluster, 3)));
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run(3, |cluster| life(cluster, 1)), run(4, |cluster| life(cluster, 1)));
}

/// Without faults, an append is a round trip and two writes.
#[test]
fn a_healthy_group_answers_in_milliseconds() {
    run(7, async |cluster: Cluster| {
        cluster.of(3).await;
        let begun = rt::now();
        let session = cluster.session();
        for number in 1..=100 {
            cluster.append(Request { session, number }, ms(1000)).await.expect("nothing fails");
        }
        let each = begun.elapsed() / 100;
        assert!(each < ms(70), "{each:?}");
        assert_eq!(cluster.check().await.len(), 101);
    });
}

/// A replica that was away for long gets a snapshot, in parts, and goes on from there.
#[test]
fn a_replica_that_was_away_gets_a_snapshot() {
    run(9, async |cluster: Cluster| {
        cluster.of(3).await;
        cluster.crash(2);
        let session = cluster.session();
        for number in 1..=200 {
            cluster.append(Request { session, number }, ms(2000)).await.expect("two of three are there");
        }
        cluster.open(2).await;
        assert_eq!(cluster.check().await.len(), 201);
        cluster.crash(2);
        cluster.open(2).await;
        assert!(
            cluster.group(2).expect("it is up").local(|list| list.items.len()) > 150,
            "the snapshot is its own now"
        );
        cluster.check().await;
    });
}

/// Large commands, a large snapshot in parts, and a network that loses some of them. The rig checks the size of each message.
#[test]
fn large_commands_and_snapshots_pass_a_network_that_loses() {
    for seed in seeds(2) {
        run(seed, async |cluster: Cluster| {
            cluster.of(3).await;
            cluster.crash(2);
            cluster.net.lost_percent.set(10);
            let session = cluster.session();
            for number in 1..=30 {
                let request = Request { session, number };
                cluster.append_large(request, ms(20_000), 200 << 10).await.expect("two of three are there");
            }
            cluster.open(2).await;
            cluster
                .settle("the snapshot", async || {
                    let items = cluster.group(2)?.local(|list| list.ballast.len());
                    (items >= 20 * (200 << 10)).then_some(())
                })
                .await;
            cluster.heal();
            assert_eq!(cluster.check().await.len(), 31);
        });
    }
}

/// What is proposed at once shares writes, and beyond the bound is refused, not queued.
#[test]
fn proposals_at_once_share_their_writes_and_are_bounded() {
    run(11, async |cluster: Cluster| {
        cluster.of(3).await;
        let leader = cluster.leader().expect("it was just made");
        let begun = rt::now();
        let proposals = (0..400).map(|item| {
            let leader = Rc::clone(&leader);
            rt::spawn_local(async move { leader.propose(None, &Append::of(item)).await })
        });
        let (mut done, mut refused) = (0, 0);
        for proposal in proposals.collect::<Vec<_>>() {
            match proposal.await.expect("it does not panic") {
                Ok(_) => done += 1,
                Err(ProposeError::Busy) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((done, refused), (256, 144));
        assert!(begun.elapsed() < ms(60), "256 commands took {:?}", begun.elapsed());
        let huge = Append { item: 1, ballast: vec![0; 300 << 10] };
        assert!(matches!(leader.propose(None, &huge).await, Err(ProposeError::TooLarge { .. })));
    });
}

/// Bytes that no replica would send are refused, and the group goes on.
#[test]
fn noise_from_a_peer_is_refused() {
    run(12, async |cluster: Cluster| {
        cluster.of(3).await;
        let group = cluster.group(1).expect("it is up");
        let mut noise = rt::Rng::seeded(5);
        for length in 0..500 {
            let mut bytes = vec![0; length];
            noise.fill(&mut bytes);
            let answer = Message::decode(&group.handle(&bytes).await).expect("an answer is a message");
            assert!(format!("{:?}", answer.body).contains("Unreadable"));
        }
        // A good answer is no question, and a message for somebody else is not for us.
        let good = group.handle(&[]).await;
        let answer = Message::decode(&group.handle(&good).await).expect("an answer is a message");
        assert!(format!("{:?}", answer.body).contains("Unreadable"));
        let other = cluster.group(2).expect("it is up").handle(&good).await;
        let answer = Message::decode(&other).expect("an answer is a message");
        assert!(format!("{:?}", answer.body).contains("Misdirected"));
        drop(group);
        cluster.check().await;
    });
}

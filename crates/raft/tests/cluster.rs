//! Groups of 1, 3 and 5 replicas under crashes, cuts, losses and repeats: what clients saw is what one list explains.
//! `RAFT_SEEDS=n` runs more seeds, `RAFT_FIRST=s` begins at seed `s`.

mod rig;

use std::cell::Cell;
use std::rc::Rc;

use raft::Request;
use rig::{Cluster, dice, ms, run, seeds};

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

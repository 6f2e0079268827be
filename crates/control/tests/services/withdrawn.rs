//! Servers that cannot take part for a while, and say why: their clocks are off, or their disks are full.

use std::time::Duration;

use engine::service::JoinConfig;
use rt::fault::When;
use rt::sim::DiskFault;
use types::{Code, Rank};
use wire::control::{
    ContainerInfo, ContainerName, MemberState, PoolCreate, PoolInfo, SnapshotCreate, SnapshotInfo, SystemInfo,
    TargetState, Token, TokenCreate,
};
use wire::{Opcode, Wire};

use super::{
    Cluster, PATIENCE, POOL_BYTES, address, answered, container, form, is_out, link_to_target, once, pool, run, seeds,
    serves, states, states_of,
};

/// A system of three servers with a pool on all of them; of these its leader, or another, to whom something happens, and the
/// two that are left.
async fn three_with_a_victim(cluster: &Cluster, is_leader: bool) -> (u32, Vec<u32>) {
    form(cluster, 3).await;
    let all = [0, 1, 2];
    cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
    let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
    cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
    let info = cluster.settle("a leader", &all, |info| info.leader.is_some()).await;
    let leader = info.leader.expect("looked for").0;
    let victim = if is_leader { leader } else { (leader + 1) % 3 };
    (victim, all.into_iter().filter(|number| *number != victim).collect())
}

/// Sets a server's calendar so far ahead (or back) of true time.
fn set_clock(cluster: &Cluster, number: u32, seconds: i64) {
    cluster.sim.set_clock_skew(cluster.node(number).node, seconds * 1_000_000);
}

/// Waits until the system says that a server's clock is off, and its targets answer as much.
async fn is_fenced(cluster: &Cluster, number: u32, to: &[u32]) {
    let begun = rt::now();
    let is_said = |info: &SystemInfo| {
        let member = &info.members[number as usize];
        member.state == MemberState::Excluded
            && member.trouble.as_ref().is_some_and(|trouble| trouble.code == Code::ClockOffset)
    };
    let info = cluster.settle("its clock is off", to, is_said).await;
    assert_ne!(info.leader, Some(Rank(number)), "it leads nobody");
    let refused = loop {
        match link_to_target(cluster, number).await.unwrap_err() {
            // What is lost of a greeting is not sent again.
            error if error.code == Code::Unreachable && begun.elapsed() < PATIENCE => {}
            error => break error,
        }
    };
    assert_eq!(refused.code, Code::ClockOffset, "{refused}");
    assert!(refused.to_string().contains("set the clock"), "{refused}");
}

/// The clock of a server jumps, whichever it is, while it runs: by seconds or an hour, ahead or back. It serves nobody, says why,
/// and is back soon after its clock is right, however far that was; nobody else is touched.
#[test]
fn a_server_whose_clock_jumps_is_fenced_until_it_is_right() {
    for (seed, seconds) in [(1, 3), (2, -3), (3, 3600), (4, -3600)] {
        run(seed, async move |cluster: Cluster| {
            let all = [0, 1, 2];
            let (victim, left) = three_with_a_victim(&cluster, seed % 2 == 0).await;
            set_clock(&cluster, victim, seconds);
            is_fenced(&cluster, victim, &left).await;
            // It answers for the system, if not for data; and so it stays.
            cluster.ask::<SystemInfo>(&[victim], (0, 0), Opcode::SystemQuery, &()).await.unwrap();
            cluster.map_settles(&left, |map| states_of(map, victim).into_iter().all(is_out)).await;
            rt::sleep(Duration::from_secs(30)).await;
            is_fenced(&cluster, victim, &left).await;
            cluster.ask::<ContainerInfo>(&left, (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
            set_clock(&cluster, victim, 0);
            let begun = rt::now();
            cluster.settle("it is back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            cluster.map_settles(&all, |map| states_of(map, victim) == [TargetState::UpIn; 2]).await;
            assert!(serves(&cluster, victim).await);
            cluster.agree(&all).await;
        });
    }
}

/// A server that starts with a wrong clock leaves no epochs of it behind; one that has no place yet gets none.
#[test]
fn a_server_that_starts_with_a_wrong_clock_waits_until_it_is_right() {
    for (seed, seconds) in [(1, 7200), (2, -20)] {
        run(seed, async move |cluster: Cluster| {
            form(&cluster, 3).await;
            let all = [0, 1, 2];
            cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
            let big = PoolCreate { bytes: 3 * POOL_BYTES, ..pool("tank") };
            cluster.ask::<PoolInfo>(&all, (7, 1), Opcode::PoolCreate, &big).await.unwrap();
            cluster.crash(1);
            set_clock(&cluster, 1, seconds);
            cluster.start(1, None).await.unwrap();
            is_fenced(&cluster, 1, &[0, 2]).await;
            set_clock(&cluster, 1, 0);
            cluster.settle("it is back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
            cluster.map_settles(&all, |map| states_of(map, 1) == [TargetState::UpIn; 2]).await;
            assert!(serves(&cluster, 1).await, "a client is not refused: its epochs are not ahead");
            let token: Token =
                cluster.ask(&all, (9, 9), Opcode::SystemToken, &TokenCreate { seconds: 60 }).await.unwrap();
            let join = JoinConfig { addresses: vec![address(0)], token: token.token };
            let node = cluster.sim.node("server-3");
            cluster.sim.set_clock_skew(node, seconds * 1_000_000);
            let refused = cluster.start(3, Some(join.clone())).await.unwrap_err();
            assert_eq!(refused.code, Code::ClockOffset, "{refused}");
            cluster.crash(3);
            cluster.sim.set_clock_skew(node, 0);
            cluster.start(3, Some(join)).await.unwrap();
            cluster.settle("it is in", &all, |info| states(info) == [MemberState::Joined; 4]).await;
        });
    }
}

/// A calendar was set while nobody answered and what others had said was old: that nobody could judge it woke the server again and
/// again, and it did nothing else any more. It goes on by the time that was right, and is fenced once it hears of the others.
#[test]
fn a_calendar_that_is_set_while_nobody_answers_keeps_nobody_busy() {
    for (seed, seconds) in [(1, 3600), (2, -3600)] {
        run(seed, async move |cluster: Cluster| {
            let all = [0, 1, 2];
            let (victim, left) = three_with_a_victim(&cluster, seed % 2 == 0).await;
            let node = |number: u32| cluster.node(number).node;
            left.iter().for_each(|other| cluster.sim.partition(node(victim), node(*other)));
            // Readings count for a minute.
            rt::sleep(Duration::from_secs(70)).await;
            set_clock(&cluster, victim, seconds);
            rt::sleep(Duration::from_secs(70)).await;
            assert!(serves(&cluster, victim).await, "nobody said that it is wrong");
            left.iter().for_each(|other| cluster.sim.heal(node(victim), node(*other)));
            is_fenced(&cluster, victim, &left).await;
            set_clock(&cluster, victim, 0);
            cluster.settle("it is back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
            cluster.map_settles(&all, |map| states_of(map, victim) == [TargetState::UpIn; 2]).await;
            assert!(serves(&cluster, victim).await);
            cluster.agree(&all).await;
        });
    }
}

/// The only other server is stopped, and off. Who starts beside it waits for its time in vain, and takes its own clock for right:
/// its services went on, and the clock that its targets go by stood for ever.
#[test]
fn a_server_that_nobody_tells_the_time_goes_by_its_own() {
    run(1, async |cluster: Cluster| {
        form(&cluster, 2).await;
        cluster.settle("both are in", &[0], |info| states(info) == [MemberState::Joined; 2]).await;
        let here = PoolCreate { servers: super::on(&[0]), ..pool("tank") };
        cluster.ask::<PoolInfo>(&[0], (7, 1), Opcode::PoolCreate, &here).await.unwrap();
        cluster.ask::<ContainerInfo>(&[0], (7, 2), Opcode::ContainerCreate, &container("box")).await.unwrap();
        cluster.ask::<()>(&[0], (7, 3), Opcode::SystemStop, &super::stop(&[1], true)).await.unwrap();
        cluster.crash(1);
        cluster.crash(0);
        cluster.start(0, None).await.unwrap();
        assert!(serves(&cluster, 0).await);
        let info = cluster.settle("it leads", &[0], |info| info.leader.is_some()).await;
        assert_eq!(states(&info), [MemberState::Joined, MemberState::Stopped], "it counts, and says nothing");
        let snapshot = async |number: u64| {
            let name = format!("s{number}");
            let wanted = SnapshotCreate { pool: "tank".into(), container: "box".into(), name };
            cluster.ask::<SnapshotInfo>(&[0], (7, number), Opcode::SnapshotCreate, &wanted).await.unwrap().epoch
        };
        let first = snapshot(4).await;
        let pause = Duration::from_secs(10);
        rt::sleep(pause).await;
        let second = snapshot(5).await;
        assert!(second.micros() - first.micros() >= pause.as_micros() as u64, "{first} {second}: the clock stands");
    });
}

/// All are started at once, and nobody knows yet whose clock is right: those who agree go on without the one who is off.
#[test]
fn a_system_that_starts_as_a_whole_finds_out_whose_clock_is_wrong() {
    run(3, async move |cluster: Cluster| {
        form(&cluster, 3).await;
        let all = [0, 1, 2];
        cluster.settle("three voters", &all, |info| info.voters.len() == 3).await;
        for number in all {
            cluster.crash(number);
        }
        set_clock(&cluster, 0, -600);
        for number in all {
            cluster.start(number, None).await.unwrap();
        }
        is_fenced(&cluster, 0, &[1, 2]).await;
        set_clock(&cluster, 0, 0);
        cluster.settle("it is back", &all, |info| states(info) == [MemberState::Joined; 3]).await;
    });
}

/// Fills the disk that a server's services are on, or makes room.
fn fill_disk(cluster: &Cluster, number: u32, is_full: bool) {
    let node = cluster.node(number).node;
    match is_full {
        true => cluster.sim.disk_fault(node, "/daos/service", DiskFault::Full, When::Chance(1.0)),
        false => cluster.sim.clear_disk_faults(node),
    }
}

/// A full disk stops a replica, and no longer than it is full: of one server of three, whichever, commands go on; of two, nothing
/// is decided; when there is room, all go on without a restart, and nothing that was answered is lost (K1, K19).
#[test]
fn a_full_disk_stops_a_replica_until_there_is_room() {
    for seed in seeds(4) {
        run(seed, async move |cluster: Cluster| {
            let all = [0, 1, 2];
            let (full, left) = three_with_a_victim(&cluster, seed % 2 == 0).await;
            fill_disk(&cluster, full, true);
            let is_out = |info: &SystemInfo| {
                let member = &info.members[full as usize];
                member.trouble.as_ref().is_some_and(|trouble| trouble.code == Code::NoSpace)
            };
            // The first who writes finds out; of a request that is lost on its way nobody does, so it is repeated.
            let begun = rt::now();
            loop {
                answered(&cluster, left[0], (7, 10), Opcode::ContainerCreate, container("one-0").to_bytes()).await.ok();
                rt::sleep(Duration::from_secs(3)).await;
                if is_out(&cluster.ask(&left, (0, 0), Opcode::SystemQuery, &()).await.unwrap()) {
                    break;
                }
                assert!(begun.elapsed() < super::PATIENCE, "seed {seed}: it says that its disk is full");
            }
            let mut labels = Vec::new();
            for n in 0..6u64 {
                let label = format!("one-{n}");
                let begun = rt::now();
                cluster
                    .ask::<ContainerInfo>(&left, (7, 10 + n), Opcode::ContainerCreate, &container(&label))
                    .await
                    .unwrap();
                assert!(begun.elapsed() < Duration::from_secs(20), "{label}: {:?}", begun.elapsed());
                labels.push(label);
            }
            fill_disk(&cluster, left[0], true);
            let begun = rt::now();
            while begun.elapsed() < Duration::from_secs(30) {
                let at = left[1];
                let asked =
                    once(&cluster, at, 7, 30, Opcode::SystemToken, TokenCreate { seconds: 60 }.to_bytes()).await;
                assert!(asked.is_err() || begun.elapsed() < Duration::from_secs(3), "who is left has no majority");
            }
            for number in [full, left[0]] {
                fill_disk(&cluster, number, false);
            }
            cluster.ask::<ContainerInfo>(&all, (7, 31), Opcode::ContainerCreate, &container("two")).await.unwrap();
            labels.push("two".into());
            cluster.settle("all are there", &all, |info| states(info) == [MemberState::Joined; 3]).await;
            for label in labels {
                let name = ContainerName { pool: "tank".into(), container: label };
                cluster.ask::<ContainerInfo>(&all, (0, 0), Opcode::ContainerQuery, &name).await.unwrap();
            }
            cluster.agree(&all).await;
        });
    }
}

/// Who is alone says what is the matter, and goes on.
#[test]
fn a_server_alone_with_a_full_disk_says_so() {
    run(1, async |cluster: Cluster| {
        cluster.start(0, None).await.unwrap();
        cluster.ask::<PoolInfo>(&[0], (7, 1), Opcode::PoolCreate, &pool("tank")).await.unwrap();
        fill_disk(&cluster, 0, true);
        let begun = rt::now();
        let refused = loop {
            let number = 2 + begun.elapsed().as_millis() as u64;
            match once(&cluster, 0, 7, number, Opcode::ContainerCreate, container("box").to_bytes()).await {
                Err(error) if error.code == Code::NoSpace => break error,
                other => assert!(other.is_err() && begun.elapsed() < Duration::from_secs(30), "{other:?}"),
            }
        };
        assert!(refused.to_string().contains("make room on the disk"), "{refused}");
        fill_disk(&cluster, 0, false);
        // It finds out by itself.
        rt::sleep(Duration::from_secs(1)).await;
        cluster.ask::<ContainerInfo>(&[0], (9, 1), Opcode::ContainerCreate, &container("crate")).await.unwrap();
    });
}

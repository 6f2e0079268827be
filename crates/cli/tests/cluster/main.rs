//! Several servers as real processes, and what real processes meet: they are killed, they hang, their disks are full,
//! their network is cut. Clients write and read all the while. Whatever was acknowledged is there, no read is wrong, and in
//! the end all targets are in service again.
//!
//! What needs a network of its own runs where this process may make network namespaces, and is left out elsewhere, which it
//! says.

#[path = "../support/mod.rs"]
#[allow(unused_imports)]
mod support;

mod at_rest;
mod cables;
mod disk;
mod network;
mod servers;
mod workload;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use at_rest::AtRest;
use cables::Faults;
use client::Code;
use disk::SmallDisk;
use network::Network;
use servers::Servers;
use workload::{Workload, open};

/// Puts that are to succeed in each state of the system.
const PUTS: u64 = 150;
/// How often servers may be killed with something undecided.
const MEETINGS: usize = 5;

/// One test at a time: each has three servers, and the machine perhaps two cores.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// All is read once more by a new client, when all targets are in service.
fn all_is_there(servers: &Servers, workload: Workload, copies: usize) -> std::sync::Arc<workload::Oracle> {
    servers.until_whole();
    workload.until_more(PUTS);
    let oracle = workload.stop();
    rt::block_on(async {
        let kv = open(&servers.addresses(), copies).await.expect("all servers are there");
        oracle.verify(&kv).await;
    });
    oracle
}

/// All servers are killed, and each has everything in its own storage: there are as many copies as servers.
fn each_has_all(servers: &mut Servers, oracle: &workload::Oracle) {
    for _ in 0..MEETINGS {
        (0..servers.count()).for_each(|number| servers.kill(number));
        let all: Vec<AtRest> = (0..servers.count()).map(|number| AtRest::read(servers.storage(number))).collect();
        if all.iter().all(|one| one.undecided == 0) {
            all.iter()
                .enumerate()
                .for_each(|(number, one)| oracle.check_copy(&format!("server {number}"), &one.values));
            return;
        }
        // They were killed between an answer to a client and its notice to a member: its copy is prepared, and not yet said
        // to be one. When they are back, the leaders say so.
        (0..servers.count()).for_each(|number| servers.start_again(number));
        servers.until_whole();
    }
    panic!("{MEETINGS} times something was undecided, though nobody wrote");
}

/// Each server dies once, the leader of the services first, while clients write. No error reaches them. As each of them
/// is the one that others rely on later, what a server gets when it is back must be all that it is to have.
#[test]
fn kill_9_of_each_server_in_turn_loses_nothing_and_no_client_notices() {
    let _alone = alone();
    let at = tempfile::tempdir().unwrap();
    let mut servers = Servers::on_loopback(at.path(), 3, 3);
    let workload = Workload::start(servers.addresses(), 3);
    let first = servers.leader();
    for turn in 0..3 {
        let victim = (first + turn) % 3;
        servers.kill(victim);
        workload.until_more(PUTS);
        servers.until_missed();
        servers.start_again(victim);
        servers.until_whole();
        workload.until_more(PUTS);
    }
    all_is_there(&servers, workload, 3).check_no_failures();
}

/// A server that hangs holds nobody up for longer than it takes to find out, and when it wakes it answers nobody from what
/// it knew: not even a client that was asleep as long, and takes it for the leader.
#[test]
fn a_server_that_hangs_blocks_nobody_and_does_not_wake_with_old_answers() {
    let _alone = alone();
    let at = tempfile::tempdir().unwrap();
    let servers = Servers::on_loopback(at.path(), 3, 3);
    let workload = Workload::start(servers.addresses(), 3);
    let victim = servers.leader();
    rt::block_on(async {
        let sleeper = open(&servers.addresses(), 3).await.unwrap();
        workload.oracle().verify(&sleeper).await;
        let story = || {
            servers.hang(victim);
            workload.until_more(PUTS);
            servers.until_missed();
            workload.until_more(PUTS);
            servers.wake(victim);
        };
        // Elsewhere: it keeps this thread, and so the client, from doing anything.
        std::thread::scope(|scope| scope.spawn(story).join()).expect("the others go on");
        workload.oracle().verify(&sleeper).await;
    });
    all_is_there(&servers, workload, 3).check_no_failures();
}

/// A client fills the pool. It is told so; whatever was acknowledged is there, on every copy, and others go on as soon as
/// there is room again.
#[test]
fn a_pool_that_is_full_says_so_and_loses_nothing() {
    const BYTES: usize = 1 << 20;
    let _alone = alone();
    let at = tempfile::tempdir().unwrap();
    let servers = Servers::on_loopback(at.path(), 3, 3);
    let workload = Workload::start(servers.addresses(), 3);
    rt::block_on(async {
        let kv = open(&servers.addresses(), 3).await.unwrap();
        let content = |n: usize| format!("{n};").repeat(BYTES).into_bytes()[..BYTES].to_vec();
        let name = |n: usize| format!("filler-{n}");
        let mut stored = Vec::new();
        let refused = loop {
            match kv.put(name(stored.len()).as_str(), &content(stored.len())).await {
                Ok(_) => stored.push(name(stored.len())),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.code, Code::NoSpace, "{refused}");
        assert!(refused.remedy.is_some() && stored.len() > 20, "after {} values: {refused}", stored.len());
        for (n, name) in stored.iter().enumerate() {
            let read = kv.get(name.as_str()).await.unwrap();
            assert!(read.as_deref() == Some(&content(n)[..]), "{name} is not what was stored");
        }
        for name in &stored {
            kv.remove(name.as_str()).await.unwrap();
        }
    });
    let oracle = all_is_there(&servers, workload, 3);
    let others = oracle.failures_but(&[Code::NoSpace]);
    assert!(others.is_empty(), "{} errors that are about something else, the first: {}", others.len(), others[0]);
}

/// The file system below the leader of the services is full: its storage has its room, but nothing more can be noted of the
/// system and of its pools there. Data is read and written as before; what is asked of the services is done by the others, or
/// refused. When there is room again and the server was started again, it is one of them again.
#[test]
fn a_leader_whose_file_system_is_full_is_no_harm_to_data() {
    const CONTAINERS: u32 = 3;
    let _alone = alone();
    let at = tempfile::tempdir().unwrap();
    let storage: Vec<_> = (0..3).map(|number| at.path().join(format!("storage-{number}"))).collect();
    // The first leads until something happens to it.
    let Some(small) = SmallDisk::mount(&storage[0], 700 << 20) else { return };
    let mut servers = Servers::start(at.path(), servers::Loopback, &storage, 3);
    let workload = Workload::start(servers.addresses(), 3);
    let victim = servers.leader();
    small.fill();
    let mut made = 0;
    for n in 0..CONTAINERS {
        let create = async |system: &client::System| {
            let pool = system.pool(servers::POOL).await?;
            pool.create_container(client::ContainerSpec::labelled(&format!("more-{n}"))).await
        };
        made += u32::from(servers.try_ask(create).is_ok());
        workload.until_more(PUTS);
    }
    // To see with --nocapture; that any is made is not promised.
    println!("{made} of {CONTAINERS} containers were made while the file system of server {victim} was full");
    small.empty();
    if !servers.has_ended(0) {
        servers.kill(0);
    }
    servers.start_again(0);
    all_is_there(&servers, workload, 3).check_no_failures();
}

/// The targets' files of one server have holes, and the file system below them is full. What would touch them is refused, or done
/// by the others, once the server has said that it cannot go on; whatever was acknowledged is read. When there is room again it
/// goes on by itself.
#[test]
fn targets_whose_file_system_is_full_go_on_when_there_is_room() {
    const BYTES: usize = 1 << 20;
    let _alone = alone();
    let at = tempfile::tempdir().unwrap();
    let storage: Vec<_> = (0..3).map(|number| at.path().join(format!("storage-{number}"))).collect();
    // Not the first: who leads has a story of its own.
    let victim = 2;
    let Some(small) = SmallDisk::mount(&storage[victim], 1 << 30) else { return };
    let mut servers = Servers::start_sparse(at.path(), servers::Loopback, &storage, 3, Some(victim));
    let workload = Workload::start(servers.addresses(), 3);
    small.fill();
    let content = |n: usize| format!("{n};").repeat(BYTES).into_bytes()[..BYTES].to_vec();
    let (stored, refused) = rt::block_on(async {
        let kv = open(&servers.addresses(), 3).await.unwrap();
        let (mut stored, mut refused) = (Vec::new(), 0);
        // More than lies in blocks that the files have.
        for n in 0..48 {
            match kv.put(format!("filler-{n}").as_str(), &content(n)).await {
                Ok(_) => stored.push(n),
                Err(error) => {
                    assert_eq!(error.code, Code::NoSpace, "{error}");
                    refused += 1;
                }
            }
        }
        for n in &stored {
            let read = kv.get(format!("filler-{n}").as_str()).await.unwrap();
            assert!(read.as_deref() == Some(&content(*n)[..]), "filler-{n} is not what was stored");
        }
        workload.oracle().verify(&kv).await;
        (stored, refused)
    });
    let out = servers.out_of_service();
    // To see with --nocapture; how many of each is not promised.
    println!("{} values were stored and {refused} refused; {out} targets were out of service", stored.len());
    assert!(refused > 0 || out > 0, "nobody found out that there is no room");
    small.empty();
    let oracle = all_is_there(&servers, workload, 3);
    assert!(!servers.has_ended(victim), "nobody started it again");
    let others = oracle.failures_but(&[Code::NoSpace]);
    assert!(others.is_empty(), "{} errors that are about something else, the first: {}", others.len(), others[0]);
    rt::block_on(async {
        let kv = open(&servers.addresses(), 3).await.unwrap();
        for n in stored {
            let read = kv.get(format!("filler-{n}").as_str()).await.unwrap();
            assert!(read.as_deref() == Some(&content(n)[..]), "filler-{n} is not what was stored");
        }
        kv.put("after", &content(0)).await.unwrap();
    });
}

/// The server that leads is cut off from all, clients too, for as long as it takes to be excluded and longer. The others
/// go on; it comes back as one that has to catch up.
#[test]
fn a_leader_that_is_cut_off_is_replaced_and_comes_back() {
    let _alone = alone();
    let Some(network) = Network::make(3, "a partition") else { return };
    let at = tempfile::tempdir().unwrap();
    let servers = on_network(at.path(), &network);
    let workload = Workload::start(servers.addresses(), 3);
    let victim = servers.leader();
    network.cut(victim);
    workload.until_more(PUTS);
    servers.until_missed();
    workload.until_more(PUTS);
    network.mend(victim);
    all_is_there(&servers, workload, 3).check_no_failures();
}

/// One server does not reach another, which reaches it; a third reaches both. What is written then may get no answer, as
/// long as nobody is taken for dead; it is never answered wrongly, and when the way is there again all is well.
#[test]
fn a_way_that_is_cut_in_one_direction_makes_nothing_wrong() {
    let _alone = alone();
    let Some(network) = Network::make(3, "a partition in one direction") else { return };
    let at = tempfile::tempdir().unwrap();
    let servers = on_network(at.path(), &network);
    let workload = Workload::start(servers.addresses(), 3);
    let first = servers.leader();
    for (from, to) in [(first, (first + 1) % 3), ((first + 2) % 3, first)] {
        network.silence(from, to);
        // Longer than it takes to suspect somebody, and to find him dead.
        std::thread::sleep(Duration::from_secs(5));
        network.let_speak(from, to);
        workload.until_more(PUTS);
        servers.until_whole();
    }
    all_is_there(&servers, workload, 3);
}

/// All the time packets are lost, doubled and late; and meanwhile the server that leads dies, and comes back. Everything takes
/// longer, and nothing else happens: no client hears of it, in the end all are in service, and each copy is whole.
#[test]
fn packets_that_are_lost_cost_time_only() {
    let _alone = alone();
    let Some(network) = Network::make_of_cables(0x1055, 3, "loss of packets") else { return };
    let at = tempfile::tempdir().unwrap();
    let mut servers = on_network(at.path(), &network);
    let workload = Workload::start(servers.addresses(), 3);
    network.set_faults(Faults { lost: 30, doubled: 10, late: 20 });
    workload.until_more(PUTS);
    network.set_faults(Faults { lost: 100, doubled: 10, late: 20 });
    let victim = servers.leader();
    servers.kill(victim);
    servers.until_excluded(victim);
    workload.until_more(PUTS / 5);
    servers.start_again(victim);
    workload.until_more(PUTS / 5);
    network.set_faults(Faults::default());
    let met = network.counts();
    let oracle = all_is_there(&servers, workload, 3);
    oracle.check_no_failures();
    each_has_all(&mut servers, &oracle);
    // To see with --nocapture.
    println!("{met:?}, and {} puts", oracle.puts());
    assert!(met.carried > 2000 && met.lost > 200 && met.doubled > 20 && met.late > 20, "{met:?}");
}

/// Every other packet of the server that leads is lost, and none of the others'. It is neither there nor gone; the others do
/// without it until its cable is whole again.
#[test]
fn a_leader_with_a_bad_cable_is_done_without() {
    let _alone = alone();
    let Some(network) = Network::make_of_cables(0xbad, 3, "a bad cable") else { return };
    let at = tempfile::tempdir().unwrap();
    let mut servers = on_network(at.path(), &network);
    let workload = Workload::start(servers.addresses(), 3);
    let victim = servers.leader();
    network.set_faults_of(victim, Faults { lost: 500, ..Faults::default() });
    workload.until_more(PUTS);
    servers.until_excluded(victim);
    workload.until_more(PUTS);
    network.set_faults_of(victim, Faults::default());
    let met = network.counts();
    let oracle = all_is_there(&servers, workload, 3);
    oracle.check_no_failures();
    each_has_all(&mut servers, &oracle);
    println!("{met:?}, and {} puts", oracle.puts());
    assert!(met.lost > 50, "{met:?}");
}

fn on_network(at: &std::path::Path, network: &std::sync::Arc<Network>) -> Servers {
    let storage: Vec<_> = (0..3).map(|number| at.join(format!("storage-{number}"))).collect();
    Servers::start(at, network::OnNetwork(network.clone()), &storage, 3)
}

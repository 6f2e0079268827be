//! What campaigns found, each with its story.

use std::time::Duration;

use client::{ContainerSpec, ObjectClass, ObjectType};
use rt::sim::{Sim, SimConfig};
use sim::cluster::Cluster;

use super::{
    clock_off, k1_durable, k5_once, k10_decided, k14_one_leader, k15_filling, k18_repeatable, k21_in_time, k24_stops,
    run, wide,
};

/// A server that had just started, and did not know its pool's map yet, took a write of an object with three copies for one of
/// a pool without copies: it acknowledged what it alone had. Its data gave way to that of the others, who had gone on
/// without it, and the write was gone. Seeds 0 and 2 of `k2_all_or_none` showed it. Now it waits for the map.
#[test]
fn a_server_that_has_no_map_yet_acknowledges_nothing_alone() {
    let sim = Sim::new(SimConfig { time_limit: Duration::from_secs(900), ..SimConfig::seeded(2) });
    sim.run(async {
        let sim = rt::sim::current();
        let cluster = Cluster::form(3).await;
        let system = cluster.connect(Duration::from_secs(60)).await;
        system.create_pool("tank", 3 * (200 << 20), Vec::new()).await.unwrap();
        let pool = system.pool("tank").await.unwrap();
        let spec = ContainerSpec { properties: vec![("rd_fac".into(), "2".into())], ..ContainerSpec::labelled("box") };
        pool.create_container(spec).await.unwrap();
        let container = pool.container("box").await.unwrap();
        let class: ObjectClass = "RP_3GX".parse().unwrap();
        let kv = container.kv(container.new_object(ObjectType::KvHashed, Some(class)).await.unwrap());
        kv.put("first", b"1").await.unwrap();
        rt::sleep(Duration::from_secs(10)).await;
        // It comes back and hears nobody: not the map, nor that it was excluded. The client still goes by the old map.
        cluster.crash(2);
        [0, 1].iter().for_each(|other| sim.partition(cluster.node(2), cluster.node(*other)));
        cluster.restart(2).await;
        for n in 0..30u64 {
            kv.put(n, &n.to_le_bytes()).await.unwrap();
        }
        sim.heal_all();
        let begun = rt::now();
        while system.pool_info("tank").await.unwrap().disabled_targets > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not come back");
            rt::sleep(Duration::from_millis(200)).await;
        }
        for n in 0..30u64 {
            assert_eq!(kv.get(n).await.unwrap().as_deref(), Some(&n.to_le_bytes()[..]), "K1: key {n}");
        }
    });
}

/// Of a group of three copies that all went out one after the other, the last to serve came back, and was told to forget what
/// others had decided without it. Nobody had; what it forgot was prepared everywhere, and acknowledged. (K1)
#[test]
fn the_last_that_served_does_not_forget_what_it_prepared() {
    run(&k24_stops::SCENARIO, 102);
}

/// A read waited for leases; meanwhile its leader began a new round, which knew nothing yet, and had nothing under way: so
/// the read was answered before what it should have seen was decided again. (K18)
#[test]
fn a_read_is_not_answered_by_a_leader_that_has_yet_to_learn() {
    run(&k10_decided::SCENARIO, 109);
}

/// A member committed a change, dropped it, and got all of its group from the leader, whose own disk was slow: it had decided
/// the change, and not done it yet. The sums agreed, for neither had it; the member led next. (K1, K18)
#[test]
fn what_a_leader_decided_is_in_the_copy_that_it_gives() {
    run(&k21_in_time::SCENARIO, 116);
}

/// A change of three akeys was under way for long; a later one of two of them was committed, read, and left the earlier one
/// beneath it: in no order is what was read right. Reads wait for what began before and meets what they read. (K4)
#[test]
fn a_change_under_way_does_not_slip_beneath_what_was_read() {
    for seed in [100, 104, 117] {
        run(&k21_in_time::SCENARIO, seed);
    }
    run(&k18_repeatable::SCENARIO, 106);
}

/// A member that got its group as a copy led it next, and did a client's repeat a second time: what its source remembered of
/// requests had not come along. (K5)
#[test]
fn who_takes_over_remembers_which_requests_took_effect() {
    run(&k1_durable::SCENARIO, 2018);
    run(&k14_one_leader::SCENARIO, 2028);
}

/// A server had just started, and its clock stood until it was compared: it took what was there up to that moment for all that
/// its leader had, got nothing, and served without it. Seed 0 of `k15_filling`, which runs anyway. (K2, K12)
#[test]
fn nothing_is_copied_up_to_the_time_of_a_clock_that_stands() {
    run(&k15_filling::SCENARIO, 0);
}

/// A server whose clock was found wrong let it stand, and took requests for the moment until its links were ended: without
/// a look at the times that came with them, so that writes got epochs before what their clients had seen. They lay beneath
/// others, unread. (K1, K2, K4)
#[test]
fn a_clock_that_stands_gives_no_epochs_before_what_clients_have_seen() {
    run(&k18_repeatable::SCENARIO, 4004);
    run(&k24_stops::SCENARIO, 4008);
    run(&k15_filling::SCENARIO, 4003);
}

/// A server without a vote died seconds after it had joined: it had kept its place, and not where anybody was. Told by nobody and
/// asking nobody, it stayed away for ever. (K5, and every cluster that heals)
#[test]
fn a_server_that_dies_right_after_it_joined_finds_the_others() {
    run(&k5_once::SCENARIO, 0);
}

/// A server without a vote began anew with a calendar that was an hour ahead. The state comes from others then, so that it knew
/// of none, and took itself for one that is alone, whose clock is right: its epochs were an hour ahead ever after, and everybody
/// refused them. Those whom it knew before are asked for the time.
#[test]
fn a_server_that_knows_nothing_yet_is_not_alone() {
    run(&clock_off::SCENARIO, 7008);
}

/// A server was taken for dead, and led a group yet to be written all the same. The other member knew that, had told who was to
/// take the place what it held, which was nothing, and then took a write from the old leader: it had never met the new one. The
/// write was acknowledged; who had taken the place led next, without it, and all others went by that. (K1, K14)
#[test]
fn who_knows_that_a_reign_is_over_takes_nothing_from_its_leader() {
    run(&k21_in_time::SCENARIO, 9032);
}

/// A server came back and had what its leader had, which was not serving yet: a change of the reign before was prepared and not
/// decided. The sums were the same, so the group counted as here; decided, the change went to those who had prepared it. Who
/// says a sum waits for what is undecided, as who sends records does. (K1, K12)
#[test]
fn a_group_is_not_compared_before_what_is_undecided_is_decided() {
    run(&k21_in_time::SCENARIO, 9022);
}

/// A server was fenced, with a calendar seven hours ahead; then another's was set to the same hour. Of three that counted, two agreed:
/// the first served again, and its epochs were hours ahead ever after. (Every cluster that heals)
#[test]
fn two_clocks_that_are_off_by_the_same_hour_are_not_right() {
    run(&clock_off::SCENARIO, 7031);
}

/// Servers that were never heard of again by a leader that had handed over (`raft::group`), that served after a while by a clock that
/// nobody had compared, that took themselves for alone because all others were out, and one that did a command twice
/// (`raft::news`). Each has a test of its own where it was mended. (K19, and every cluster that heals)
#[test]
fn what_long_campaigns_found_heals() {
    for seed in [12014, 12057] {
        run(&clock_off::SCENARIO, seed);
    }
    for seed in [12021, 13035] {
        run(&k14_one_leader::SCENARIO, seed);
    }
    run(&wide::SCENARIO, 13047);
}

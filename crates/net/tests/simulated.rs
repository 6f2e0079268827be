//! Calls in the simulator, over a network that loses, doubles and delays frames, between machines
//! that die.

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::*;
use net::{Address, CallError, Connection, Limits, Listener, Reply, serve};
use rt::sim::{Sim, SimConfig};
use types::Code;
use wire::Opcode;
use wire::hello::Service;

const SECOND: Duration = Duration::from_secs(1);

fn address() -> Address {
    Address::Mem("server".into())
}

/// What the server of a simulation has seen: how often each sequence was handled.
type Seen = Rc<std::cell::RefCell<BTreeMap<u64, u32>>>;

/// A server on the node it is called on, which answers after a while, in any order.
async fn serve_forever(incarnation: u64, seen: Seen) {
    let handler = script(move |request| {
        *seen.borrow_mut().entry(request.sequence).or_default() += 1;
        async move {
            rt::sleep(Duration::from_micros(rt::random_u64() % 3000)).await;
            Ok(Reply { body: request.body, bulk: request.bulk })
        }
    });
    let listener = Listener::bind(&address(), SYSTEM, rt::Hlc::new()).await.unwrap();
    while let Some(incoming) = listener.accept().await {
        let limits = Limits { request_credits: 8, bulk_credits: 1 << 20 };
        drop(rt::spawn_local(serve(incoming, limits, incarnation, handler.clone())));
    }
}

async fn open_in(within: Duration) -> Result<Connection, CallError> {
    Connection::open(&address(), Service::Control, &caller(), within).await
}

/// How many calls ended how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    answered: u32,
    timed_out: u32,
    lost: u32,
    unreachable: u32,
}

/// Calls `count` times in each of four tasks, over a connection opened anew whenever it has closed.
async fn call_often(count: u64) -> Outcome {
    let outcome: Rc<Cell<Outcome>> = Rc::default();
    let link: Rc<tokio::sync::Mutex<Option<Connection>>> = Rc::default();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (outcome, link) = (outcome.clone(), link.clone());
            rt::spawn_local(async move {
                for number in 0..count {
                    let result = call_reopening(&link, task * count + number).await;
                    let mut sum = outcome.take();
                    match result {
                        Ok(()) => sum.answered += 1,
                        Err(CallError::TimedOut { .. }) => sum.timed_out += 1,
                        Err(CallError::Lost { .. }) => sum.lost += 1,
                        Err(CallError::Unreachable { .. }) => sum.unreachable += 1,
                        Err(other) => panic!("{other}"),
                    }
                    outcome.set(sum);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    outcome.take()
}

async fn call_reopening(link: &tokio::sync::Mutex<Option<Connection>>, sequence: u64) -> Result<(), CallError> {
    let connection = {
        let mut link = link.lock().await;
        if link.as_ref().is_none_or(|connection| connection.is_closed()) {
            *link = Some(open_in(SECOND).await?);
        }
        link.clone().expect("just opened")
    };
    let body = sequence.to_le_bytes().to_vec();
    let bulk = sequence.is_multiple_of(5).then(|| rt::disk::IoBuf::from_slice(&[sequence as u8; 5000]));
    let reply = connection.call(Opcode::Echo, sequence, body.clone(), bulk, SECOND).await?;
    assert_eq!(reply.body, body, "every caller gets its own answer");
    Ok(())
}

/// Runs `calls` x 4 calls over a network that drops and doubles.
fn run(seed: u64, drop: f64, duplicate: f64, calls: u64) -> (Outcome, BTreeMap<u64, u32>, u64) {
    let mut config = SimConfig::seeded(seed);
    config.network.drop = drop;
    config.network.duplicate = duplicate;
    let sim = Sim::new(config);
    let server = sim.node("server");
    let (outcome, seen) = sim.run(async {
        let sim = rt::sim::current();
        let seen = Seen::default();
        let _serving = sim.spawn_on(server, serve_forever(1, seen.clone()));
        let client = sim.node("client");
        let outcome = sim.spawn_on(client, call_often(calls)).await.unwrap();
        let seen = seen.borrow().clone();
        (outcome, seen)
    });
    (outcome, seen, sim.trace_hash())
}

#[test]
fn on_a_sound_network_every_call_is_answered_once() {
    let (outcome, seen, _) = run(1, 0.0, 0.0, 200);
    assert_eq!(outcome, Outcome { answered: 800, ..Outcome::default() });
    assert!(seen.len() == 800 && seen.values().all(|&times| times == 1));
}

#[test]
fn a_lost_frame_costs_its_call_and_no_other_the_answer() {
    for seed in 0..20 {
        let (outcome, seen, _) = run(seed, 0.03, 0.0, 50);
        assert!(outcome.answered >= 100, "seed {seed}: {outcome:?}");
        assert!(outcome.answered < 200, "seed {seed}: nothing was lost");
        assert!(seen.values().all(|&times| times == 1), "seed {seed}: net repeats nothing by itself");
    }
}

#[test]
fn a_doubled_request_may_reach_its_handler_twice_and_is_answered_once() {
    let mut repeats = 0;
    for seed in 0..20 {
        let (outcome, seen, _) = run(seed, 0.0, 0.05, 50);
        assert_eq!(outcome, Outcome { answered: 200, ..Outcome::default() }, "seed {seed}");
        repeats += seen.values().filter(|&&times| times > 1).count();
    }
    assert!(repeats > 0);
}

/// The greeting came twice, and its answer never: who asked was told of a protocol that nobody spoke, and told its user.
#[test]
fn a_doubled_greeting_changes_nothing() {
    for seed in 0..20 {
        let (outcome, seen, _) = run(seed, 0.0, 1.0, 50);
        assert_eq!(outcome, Outcome { answered: 200, ..Outcome::default() }, "seed {seed}");
        assert!(seen.values().all(|&times| times == 2), "seed {seed}");
        let (outcome, ..) = run(seed, 0.1, 1.0, 50);
        assert!(outcome.answered > 50, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<u64> = (0..5).map(|seed| run(seed, 0.02, 0.02, 30).2).collect();
    for (seed, trace) in traces.iter().enumerate() {
        assert_eq!(run(seed as u64, 0.02, 0.02, 30).2, *trace, "seed {seed}");
    }
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_crashed_server_costs_a_deadline_and_returns_as_another_incarnation() {
    for seed in 0..20 {
        let sim = Sim::new(SimConfig::seeded(seed));
        let server = sim.node("server");
        sim.run(async {
            let sim = rt::sim::current();
            let seen = Seen::default();
            let _first = sim.spawn_on(server, serve_forever(1, seen.clone()));
            rt::sleep(SECOND).await;
            let connection = open_in(SECOND).await.unwrap();
            assert_eq!(connection.incarnation(), 1);
            let calls: Vec<_> = (0..20)
                .map(|sequence| {
                    let connection = connection.clone();
                    rt::spawn(async move {
                        let body = vec![0; 8];
                        connection.call(Opcode::Echo, sequence, body, None, 5 * SECOND).await.map(drop)
                    })
                })
                .collect();
            rt::sleep(Duration::from_millis(1)).await;
            sim.crash(server);
            let began = rt::now();
            let mut failed = 0;
            for call in calls {
                failed += u32::from(call.await.unwrap().is_err());
            }
            assert!(failed > 0 && began.elapsed() <= 5 * SECOND, "seed {seed}");
            // Whether or not a reset came: silence has told.
            rt::sleep(SECOND).await;
            assert!(connection.is_closed(), "seed {seed}");
            let _second = sim.restart(server, serve_forever(2, seen.clone()));
            rt::sleep(SECOND).await;
            let connection = open_in(SECOND).await.unwrap();
            assert_eq!(connection.incarnation(), 2);
            assert_eq!(call(&connection, 99, b"back").await.unwrap(), &b"back"[..]);
        });
    }
}

#[test]
fn a_partition_is_noticed_and_survived() {
    let sim = Sim::new(SimConfig::seeded(3));
    let (server, client) = (sim.node("server"), sim.node("client"));
    sim.run(async {
        let sim = rt::sim::current();
        let _serving = sim.spawn_on(server, serve_forever(1, Seen::default()));
        let calling = sim.spawn_on(client, async move {
            rt::sleep(SECOND).await;
            let connection = open_in(SECOND).await.unwrap();
            call(&connection, 1, b"before").await.unwrap();
            rt::sim::current().partition(server, client);
            let began = rt::now();
            let cut = connection.call(Opcode::Echo, 2, vec![], None, SECOND).await;
            assert!(matches!(cut, Err(CallError::TimedOut { .. })), "{cut:?}");
            assert!(began.elapsed() < 2 * SECOND);
            rt::sleep(3 * SECOND).await;
            assert!(connection.is_closed());
            let reopened = open_in(SECOND).await.map(drop);
            assert!(matches!(reopened, Err(CallError::Unreachable { .. })), "{reopened:?}");
            rt::sim::current().heal_all();
            let connection = open_in(SECOND).await.unwrap();
            call(&connection, 3, b"after").await.unwrap();
        });
        calling.await.unwrap();
    });
}

#[test]
fn a_machine_whose_clock_is_off_is_fenced_at_hello_and_later() {
    let sim = Sim::new(SimConfig::seeded(4));
    let (server, client) = (sim.node("server"), sim.node("client"));
    sim.run(async {
        let sim = rt::sim::current();
        let _serving = sim.spawn_on(server, serve_forever(1, Seen::default()));
        let calling = sim.spawn_on(client, async move {
            rt::sleep(SECOND).await;
            let connection = open_in(SECOND).await.unwrap();
            // Ahead: the server refuses. Behind: the server is ahead, and the client refuses.
            for skew in [1_000_000, -1_000_000] {
                rt::sim::current().set_clock_skew(client, skew);
                let opened = open_in(SECOND).await.map(drop);
                let Err(CallError::Refused(reason)) = opened else { panic!("{opened:?}") };
                assert_eq!(reason.code, Code::ClockOffset);
            }
            rt::sim::current().set_clock_skew(client, 1_000_000);
            let late = call(&connection, 1, b"x").await.unwrap_err();
            assert!(late.to_string().contains("clock offset"), "{late}");
            rt::sim::current().set_clock_skew(client, 20_000);
            call(&open_in(SECOND).await.unwrap(), 2, b"within bounds").await.unwrap();
        });
        calling.await.unwrap();
    });
}

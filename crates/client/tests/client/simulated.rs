//! The client in the simulator: a network that loses frames and is cut for seconds.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use client::{Code, Conditions, Container, Kv, ObjectType};
use rt::sim::{Sim, SimConfig};

use crate::fake::Fake;

const TASKS: usize = 6;
const PUTS: usize = 40;

/// What became of the insertions of all tasks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    acknowledged: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// Inserts distinct keys in each of several tasks and reads each back.
async fn insert_many(container: Container) -> (Kv, Outcome) {
    let kv = container.kv(container.new_object(ObjectType::KvHashed, None).await.unwrap());
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let kv = kv.clone();
            rt::spawn_local(async move {
                let mut outcome = Outcome::default();
                for number in 0..PUTS {
                    let name = format!("{task}-{number}");
                    let value = name.repeat(if number.is_multiple_of(7) { 2000 } else { 1 });
                    match kv.put_if(Conditions::DkeyInsert, &name, value.as_bytes()).await {
                        Ok(_) => {
                            assert_eq!(kv.get(&name).await.unwrap().unwrap(), value.as_bytes());
                            outcome.acknowledged.insert(name);
                        }
                        // Never `Exists`: nobody else inserts this key.
                        Err(error) if error.code == Code::TimedOut => drop(outcome.unknown.insert(name)),
                        Err(error) => panic!("{name}: {error}"),
                    }
                }
                outcome
            })
        })
        .collect();
    let mut all = Outcome::default();
    for task in tasks {
        let Outcome { acknowledged, unknown } = task.await.unwrap();
        all.acknowledged.extend(acknowledged);
        all.unknown.extend(unknown);
    }
    (kv, all)
}

/// Returns the trace's hash, and how many updates arrived that had arrived before.
fn run(seed: u64) -> (u64, usize) {
    let mut config = SimConfig::seeded(seed);
    config.network.drop = [0.0, 0.003, 0.02][seed as usize % 3];
    config.network.duplicate = [0.0, 0.01][seed as usize % 2];
    let sim = Sim::new(config);
    let (server, user) = (sim.node("server"), sim.node("user"));
    let repeats = sim.run(async {
        let sim = rt::sim::current();
        let fake = Fake::new(3);
        sim.spawn_on(server, fake.clone().listen()).await.unwrap();
        let work = {
            let fake: Rc<Fake> = fake.clone();
            sim.spawn_on(user, async move { insert_many(fake.container().await).await })
        };
        // Cuts of a second or so, which a deadline of 30 s outlives.
        let cutting = rt::spawn_local(async move {
            let sim = rt::sim::current();
            loop {
                rt::sleep(Duration::from_millis(200 + sim.random_u64() % 5000)).await;
                sim.partition(server, user);
                rt::sleep(Duration::from_millis(sim.random_u64() % 1500)).await;
                sim.heal(server, user);
            }
        });
        let (kv, outcome) = work.await.unwrap();
        cutting.abort();
        sim.heal_all();
        assert_eq!(outcome.acknowledged.len() + outcome.unknown.len(), TASKS * PUTS);
        assert!(outcome.unknown.len() < TASKS, "seed {seed}: cuts this short are outlived: {:?}", outcome.unknown);
        let took_effect = fake.changes();
        assert!((outcome.acknowledged.len()..=TASKS * PUTS).contains(&took_effect), "seed {seed}: {took_effect}");
        let reader = sim.spawn_on(user, async move { kv.keys().await.unwrap() });
        let there: BTreeSet<String> = reader.await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(there.len(), took_effect, "seed {seed}: every key was inserted once");
        assert!(outcome.acknowledged.is_subset(&there), "seed {seed}");
        fake.seen(wire::Opcode::Update) as usize - took_effect
    });
    (sim.trace_hash(), repeats)
}

#[test]
fn acknowledged_writes_are_there_and_none_is_done_twice() {
    let repeats: usize = (0..24).map(|seed| run(seed).1).sum();
    assert!(repeats > 24, "the network was too kind to show anything: {repeats} repeats");
}

#[test]
fn a_seed_is_a_story_told_the_same_each_time() {
    assert_eq!(run(2), run(2));
    assert_ne!(run(2), run(5));
}

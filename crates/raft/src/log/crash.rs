//! The power fails after every device event of a random life: what is recovered is the log as it was after some record, not
//! before the last that somebody was told of.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use openraft::EntryPayload;
use rt::fault::When;
use rt::sim::disk::{Recorder, Volume};
use rt::sim::{DiskFault, Sim, SimConfig};

use super::*;
use crate::kinds::{Command, log_id};

const GROUP: GroupId = GroupId(*b"0123456789abcdef");
const DIRECTORY: &str = "/log-of-a-replica";

/// What is known from outside.
#[derive(Default)]
struct Model {
    /// The log after each record.
    states: Vec<Kept>,
    /// After so many device events, the log was durable as of this state.
    told: Vec<(usize, usize)>,
}

struct Life {
    log: Log,
    model: Rc<RefCell<Model>>,
    dice: rt::Rng,
    term: u64,
}

impl Life {
    /// One record that may follow, and whether it is waited for.
    fn next(&mut self) -> (Record, bool) {
        let (last, committed, vote) = self.log.look(|kept| (kept.last(), kept.committed, kept.vote));
        let next = last.map_or(0, |last| last.index + 1);
        let first = self.log.look(Kept::first_index);
        match self.dice.below(20) {
            0 => {
                self.term += 1;
                (Record::Vote(Vote::new(self.term, Rank(self.dice.below(3) as u32))), true)
            }
            1 | 2 => (Record::Committed(last.max(committed)), false),
            3 if next > first => {
                let keep = self.dice.between(first, next - 1);
                let after = keep.checked_sub(1).map(|index| {
                    self.log.look(|kept| kept.from(index).next().map(|e| e.log_id).filter(|id| id.index == index))
                });
                match after {
                    Some(Some(after)) => (Record::Truncate(Some(after)), false),
                    _ => (Record::Vote(vote.unwrap_or(Vote::new(self.term, Rank(0)))), true),
                }
            }
            4 | 5 => match last {
                Some(last) => (Record::Purge(last), false),
                None => (Record::Committed(None), false),
            },
            _ => {
                let bytes = vec![next as u8; self.dice.below(3000) as usize];
                let payload = EntryPayload::Normal(Command { request: None, bytes });
                (Record::Entry(Entry { log_id: log_id(self.term, next), payload }), self.dice.chance(0.7))
            }
        }
    }

    async fn live(mut self, recorder: Recorder, steps: usize) {
        self.model.borrow_mut().states.push(self.log.look(Clone::clone));
        let mut waiters = Vec::new();
        for _ in 0..steps {
            let (record, is_waited_for) = self.next();
            let (sender, told) = oneshot::channel();
            let waiting = is_waited_for.then_some(Waiting::Us(sender));
            self.log.put([record], waiting).expect("it may follow");
            let state = {
                let mut model = self.model.borrow_mut();
                model.states.push(self.log.look(Clone::clone));
                model.states.len() - 1
            };
            if is_waited_for {
                let (model, recorder) = (Rc::clone(&self.model), recorder.clone());
                waiters.push(rt::spawn_local(async move {
                    told.await.expect("the log runs").expect("the disk works");
                    model.borrow_mut().told.push((recorder.events(), state));
                }));
            }
            // Now and then everybody waits; else records gather.
            if self.dice.chance(0.4) {
                for waiter in waiters.drain(..) {
                    waiter.await.expect("waiters do not panic");
                }
            }
        }
        for waiter in waiters {
            waiter.await.expect("waiters do not panic");
        }
    }
}

fn record(seed: u64, steps: usize) -> (Recorder, Model) {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("replica");
    let model = Rc::new(RefCell::new(Model::default()));
    let noted = Rc::clone(&model);
    let recorder = sim.run(async move {
        let sim = rt::sim::current();
        let living = sim.spawn_on(node, async move {
            let sim = rt::sim::current();
            fs::create_dir_all(DIRECTORY).unwrap();
            let log = Log::create(Path::new(DIRECTORY), GROUP, Rank(1)).unwrap();
            log.set_slack(10_000);
            let recorder = sim.record(node);
            let running = rt::spawn_local(log.clone().run());
            Life { log, model: noted, dice: rt::Rng::seeded(seed), term: 1 }.live(recorder.clone(), steps).await;
            running.abort();
            recorder
        });
        living.await.unwrap()
    });
    (recorder, Rc::try_unwrap(model).ok().expect("the life is over").into_inner())
}

/// Opens the log on `volume`, goes on with it, and opens it again.
fn recover(volume: &Volume, what: &str) -> Kept {
    let sim = Sim::new(SimConfig::seeded(1));
    let node = sim.node("replica");
    sim.install(node, volume);
    let what = what.to_owned();
    sim.run(async move {
        let recovering = rt::sim::current().spawn_on(node, async move {
            let open = || Log::open(Path::new(DIRECTORY), GROUP, Rank(1)).unwrap_or_else(|e| panic!("{what}: {e}"));
            let log = open();
            let kept = log.look(Clone::clone);
            let running = rt::spawn_local(log.clone().run());
            let next = Record::Entry(Entry { log_id: log_id(1_000, kept.next_index()), payload: EntryPayload::Blank });
            log.put_durably(next).await.unwrap();
            running.abort();
            let again = open().look(Clone::clone);
            assert_eq!(again, log.look(Clone::clone), "{what}");
            kept
        });
        recovering.await.unwrap()
    })
}

fn check(seed: u64, steps: usize, cuts_each: u64) {
    let (recorder, model) = record(seed, steps);
    assert!(recorder.events() > steps / 4, "a life of {} events", recorder.events());
    let mut replay = recorder.replay();
    loop {
        let owed = model.told.iter().filter(|(at, _)| *at <= replay.events()).map(|(_, state)| *state).max();
        for cut in 0..cuts_each {
            let what = format!("seed {seed}, after {} events, cut {cut}", replay.events());
            let kept = recover(&replay.power_cut(cut), &what);
            let found = model.states[owed.unwrap_or(0)..].contains(&kept);
            assert!(found, "{what}: the log is none that it ever was since state {owed:?}");
        }
        if !replay.step() {
            break;
        }
    }
}

#[test]
fn every_power_cut_leaves_a_prefix_with_all_that_was_told() {
    for seed in 0..12 {
        check(seed, 200, 3);
    }
}

/// A process was killed between writing an entry and syncing it; the next found it, told the leader that it had it, and lost it
/// with the power. Seed 5011 of `k18_repeatable` showed it.
#[test]
fn what_is_found_after_a_kill_survives_a_power_cut() {
    let (recorder, _) = record(5, 200);
    let mut replay = recorder.replay();
    loop {
        let what = replay.events();
        let sim = Sim::new(SimConfig::seeded(what as u64));
        let node = sim.node("replica");
        sim.install(node, &replay.kill());
        sim.run(async move {
            let sim = rt::sim::current();
            let look = || async { Log::open(Path::new(DIRECTORY), GROUP, Rank(1)).unwrap().look(Clone::clone) };
            let found = sim.spawn_on(node, look()).await.unwrap();
            sim.crash(node);
            let kept = sim.restart(node, look()).await.unwrap();
            assert!(
                kept == found,
                "after {what} events: {} entries, and then {}",
                found.next_index(),
                kept.next_index()
            );
        });
        if !replay.step() {
            break;
        }
    }
}

/// After a failed write nobody is told that something is durable, ever again.
fn entry(index: u64) -> Record {
    Record::Entry(Entry { log_id: log_id(1, index), payload: EntryPayload::Blank })
}

/// A log with one entry, and the task that writes what comes.
async fn running_log() -> (Log, rt::JoinHandle<()>) {
    fs::create_dir_all(DIRECTORY).unwrap();
    let log = Log::create(Path::new(DIRECTORY), GROUP, Rank(1)).unwrap();
    let running = rt::spawn_local(log.clone().run());
    log.put_durably(entry(0)).await.unwrap();
    (log, running)
}

#[test]
fn a_disk_that_fails_stops_the_log() {
    for fault in [DiskFault::WriteError, DiskFault::SyncError] {
        let sim = Sim::new(SimConfig::seeded(3));
        let node = sim.node("replica");
        sim.run(async move {
            let sim = rt::sim::current();
            let living = sim.spawn_on(node, async move {
                let (log, running) = running_log().await;
                rt::sim::current().disk_fault(node, DIRECTORY, fault, When::Chance(1.0));
                log.put_durably(entry(1)).await.unwrap_err();
                rt::sim::current().clear_disk_faults(node);
                log.put_durably(entry(2)).await.unwrap_err();
                running.abort();
                let found = Log::open(Path::new(DIRECTORY), GROUP, Rank(1)).unwrap();
                assert!(found.look(|kept| kept.next_index()) >= 1, "{fault:?}");
            });
            living.await.unwrap();
        });
    }
}

/// A full disk ended a replica until its server was restarted. Now whoever waits is told when there is room; what fits into the
/// file as it is goes on when a new, shorter one does not.
#[test]
fn a_full_disk_stops_the_log_until_there_is_room() {
    for path in [DIRECTORY.to_string(), format!("{DIRECTORY}/{FILE}")] {
        let sim = Sim::new(SimConfig::seeded(3));
        let node = sim.node("replica");
        sim.run(async move {
            let sim = rt::sim::current();
            let living = sim.spawn_on(node, async move {
                let (log, running) = running_log().await;
                rt::sim::current().disk_fault(node, path, DiskFault::Full, When::Chance(1.0));
                let first = rt::spawn_local({
                    let log = log.clone();
                    async move { log.put_durably(entry(1)).await }
                });
                rt::sleep(Duration::from_secs(60)).await;
                assert!(log.room().is_full());
                let second = rt::spawn_local({
                    let log = log.clone();
                    async move { log.put_durably(entry(2)).await }
                });
                rt::sleep(Duration::from_secs(60)).await;
                assert!(!first.is_finished() && !second.is_finished(), "nobody is told what is not so");
                rt::sim::current().clear_disk_faults(node);
                first.await.unwrap().unwrap();
                second.await.unwrap().unwrap();
                assert!(!log.room().is_full());
                running.abort();
                let found = Log::open(Path::new(DIRECTORY), GROUP, Rank(1)).unwrap();
                assert_eq!(found.look(|kept| kept.next_index()), 3);
            });
            living.await.unwrap();
        });
    }
}

#[test]
fn a_foreign_or_damaged_log_says_so() {
    let sim = Sim::new(SimConfig::seeded(4));
    let node = sim.node("replica");
    sim.run(async move {
        let sim = rt::sim::current();
        let living = sim.spawn_on(node, async move {
            let path = Path::new(DIRECTORY);
            fs::create_dir_all(path).unwrap();
            assert!(matches!(Log::open(path, GROUP, Rank(1)), Err(OpenError::Missing { .. })));
            let log = Log::create(path, GROUP, Rank(1)).unwrap();
            let running = rt::spawn_local(log.clone().run());
            for index in 0..3 {
                let entry = Entry { log_id: log_id(1, index), payload: EntryPayload::Blank };
                log.put_durably(Record::Entry(entry)).await.unwrap();
            }
            running.abort();
            assert!(matches!(Log::open(path, GROUP, Rank(2)), Err(OpenError::Foreign { .. })));
            assert!(matches!(Log::open(path, GroupId([0; 16]), Rank(1)), Err(OpenError::Foreign { .. })));
            // The second of three frames: it was durable, or the third would not be there.
            rt::sim::current().flip_bit(node, path.join(FILE), (2 * 512 + 45) * 8);
            let Err(error) = Log::open(path, GROUP, Rank(1)) else { panic!("a damaged log opens") };
            let words = error.to_string();
            assert!(words.contains("at byte 1024: checksum") && words.contains("join it anew"), "{words}");
        });
        living.await.unwrap();
    });
}

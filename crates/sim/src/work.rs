//! What clients of a cluster do, and what they know of it afterwards.
//!
//! Three kinds of dkeys, each for another question:
//! - *shared*: one akey, which all clients write, remove and read: single-key histories ([`crate::history`]);
//! - *many*: three akeys, written some at a time and read all at a time: [`crate::serial`];
//! - *own*: inserted once under the condition that it is not there, and removed under the condition that it is, by one
//!   client alone: nothing may be refused (K5).
//!
//! Every value is written by one request only. A request that failed is *unknown*: it may have happened, or may yet.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use client::{AkeyQuery, AkeyUpdate, Container, Object, Pool, System};
use rt::{Instant, Rng};
use types::{Code, Conditions, Epoch, Error, Key, ObjectId};

use crate::cluster::Cluster;
use crate::history::{Event, Histories};
use crate::serial::{Transaction, What};
use crate::workload::{is_unknown, patiently};

/// Dkeys of each kind that all clients meet on.
const SHARED: u64 = 3;
const AKEYS: [&str; 3] = ["a", "b", "c"];
/// Later than the newest that is known of, by so many microseconds at most: a moment that may not be over.
const AHEAD_MICROS: u64 = 5_000;
/// Values of so many bytes travel beside the request, and lie in blocks.
const LARGE_BYTES: usize = 9_000;

/// How busy clients are.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: u64,
    /// Of each.
    pub operations: u64,
    /// Between two of one client, at most.
    pub pause_ms: u64,
    /// Requests of an administrator meanwhile.
    pub commands: u64,
}

/// How long a request of a client may take.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// What a write left behind that was answered.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub dkey: String,
    pub akeys: Vec<String>,
    pub epoch: Epoch,
}

/// What was found at a moment in the past.
#[derive(Clone, Debug)]
pub struct Look {
    pub dkey: String,
    pub akeys: Vec<String>,
    pub at: Epoch,
    pub found: Vec<Option<String>>,
}

/// What the clients of a run know.
#[derive(Default)]
pub struct Ledger {
    pub histories: Histories,
    pub transactions: Vec<Transaction>,
    /// By value.
    pub acknowledged: BTreeMap<String, Acknowledged>,
    /// Values that may have been written.
    pub unknown: BTreeSet<String>,
    pub looks: Vec<Look>,
    /// Own dkeys, and what they hold as far as that is known.
    pub own: BTreeMap<String, Option<String>>,
    /// Labels of containers that are there, as far as that is known.
    pub containers: BTreeSet<String>,
    /// Requests that were answered, and that were not.
    pub answered: u64,
    pub unanswered: u64,
    /// The longest that a request took.
    pub slowest: Duration,
}

impl Ledger {
    fn note<T>(&mut self, began: Instant, outcome: &Result<T, Error>) {
        self.slowest = self.slowest.max(began.elapsed());
        match outcome {
            Ok(_) => self.answered += 1,
            Err(_) => self.unanswered += 1,
        }
    }
}

/// Nothing is known of what became of it: besides what is so without faults of disks and clocks, what these are answered
/// with.
fn is_lost(error: &Error) -> bool {
    // `Stale`: whoever was asked last sent the client elsewhere, and its time was up.
    let may_be = matches!(error.code, Code::Io | Code::NoSpace | Code::DataLoss | Code::Stale);
    is_unknown(error) || is_undone(error) || may_be
}

/// It did not take effect: to its last attempt the way was barred, and no earlier one was sent.
fn is_undone(error: &Error) -> bool {
    error.code == Code::ClockOffset
}

/// Reads values under a dkey; in the order asked.
pub async fn read(object: &Object, dkey: &str, akeys: &[String]) -> Result<Vec<Option<String>>, Error> {
    let queries = akeys.iter().map(|akey| AkeyQuery::single(key(akey))).collect();
    let found = object.fetch(&key(dkey), Conditions::None, queries).await?;
    let text = |bytes: &client::Bytes| String::from_utf8_lossy(bytes).trim_end_matches('.').to_string();
    Ok(found.iter().map(|result| result.value().map(text)).collect())
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).expect("a short key")
}

/// Where a client works.
pub struct Place {
    pub container: Container,
    pub object: ObjectId,
}

impl Place {
    /// Opens what the setup made, from this node.
    pub async fn open(cluster: &Cluster, object: ObjectId) -> Place {
        let pool = patiently(|| async { open_pool(cluster).await }).await;
        Place { container: patiently(|| pool.container("box")).await, object }
    }

    pub fn now(&self) -> Object {
        self.container.object(self.object)
    }

    pub fn at(&self, epoch: Epoch) -> Object {
        self.container.at(epoch).object(self.object)
    }
}

async fn open_pool(cluster: &Cluster) -> Result<Pool, Error> {
    cluster.connect(DEADLINE).await.pool("tank").await
}

/// One client's share.
pub async fn work(number: u64, load: Load, place: Place, mut dice: Rng, ledger: Rc<RefCell<Ledger>>) {
    let mut worker = Worker { number, place, ledger, own: Vec::new() };
    for operation in 0..load.operations {
        rt::sleep(Duration::from_millis(dice.below(load.pause_ms + 1))).await;
        let name = format!("{number}.{operation}");
        match dice.below(14) {
            0..=1 => worker.write_shared(&name, &mut dice).await,
            2 => worker.remove_shared(&mut dice).await,
            3..=4 => worker.read_shared(&mut dice).await,
            5..=6 => worker.write_many(&name, &mut dice).await,
            7..=8 => worker.read_many(&mut dice).await,
            9 => worker.insert_own(&name).await,
            10 => worker.remove_own(&mut dice).await,
            11 => worker.read_what_was_told(&mut dice).await,
            _ => worker.look_back(&mut dice).await,
        }
    }
}

struct Worker {
    number: u64,
    place: Place,
    ledger: Rc<RefCell<Ledger>>,
    /// Dkeys that it inserted and has not removed.
    own: Vec<String>,
}

impl Worker {
    /// Writes one value to akeys of a dkey, together. True: it was answered.
    async fn write(&mut self, dkey: &str, akeys: &[String], value: &str, conditions: Conditions) -> bool {
        let mut bytes = value.as_bytes().to_vec();
        if value.ends_with('7') {
            bytes.resize(LARGE_BYTES, b'.');
        }
        let updates = akeys.iter().map(|akey| AkeyUpdate::single(key(akey), bytes.clone())).collect();
        let began = rt::now();
        let done = self.place.now().update(&key(dkey), conditions, updates).await;
        let mut ledger = self.ledger.borrow_mut();
        ledger.note(began, &done);
        match &done {
            Ok(epoch) => {
                let told = Acknowledged { dkey: dkey.into(), akeys: akeys.to_vec(), epoch: *epoch };
                ledger.acknowledged.insert(value.into(), told);
            }
            Err(error) if is_undone(error) => {}
            Err(error) if is_lost(error) => drop(ledger.unknown.insert(value.into())),
            Err(error) => panic!("K5: writing {dkey}, which may be written: {error}"),
        }
        done.is_ok()
    }

    async fn write_shared(&mut self, name: &str, dice: &mut Rng) {
        let dkey = shared(dice);
        let began = rt::now();
        let is_known = self.write(&dkey, &["v".into()], name, Conditions::None).await;
        self.note_single(&dkey, Event::write(began, name.to_string(), is_known));
    }

    async fn remove_shared(&mut self, dice: &mut Rng) {
        let dkey = shared(dice);
        let began = rt::now();
        let done = self.place.now().punch_akeys(&key(&dkey), &[key("v")], Conditions::None).await;
        self.ledger.borrow_mut().note(began, &done);
        if let Err(error) = &done {
            assert!(is_lost(error), "removing {dkey}: {error}");
        }
        self.note_single(&dkey, Event::write(began, None, done.is_ok()));
    }

    async fn read_shared(&mut self, dice: &mut Rng) {
        let dkey = shared(dice);
        let began = rt::now();
        if let Some(mut found) = self.read(&self.place.now(), &dkey, &["v".into()]).await {
            self.note_single(&dkey, Event::read(began, found.remove(0)));
        }
    }

    fn note_single(&self, dkey: &str, event: Event) {
        self.ledger.borrow_mut().histories.note(0, dkey, event);
    }

    async fn write_many(&mut self, name: &str, dice: &mut Rng) {
        let dkey = many(dice);
        let mask = 1 + dice.below(7);
        let akeys: Vec<String> = (0..3).filter(|bit| mask >> bit & 1 == 1).map(|bit| AKEYS[bit].into()).collect();
        let began = rt::now();
        let is_known = self.write(&dkey, &akeys, name, Conditions::None).await;
        self.note_transaction(dkey, began, is_known, What::Write(akeys, name.into()));
    }

    async fn read_many(&mut self, dice: &mut Rng) {
        let (dkey, akeys) = (many(dice), AKEYS.map(String::from));
        let began = rt::now();
        if let Some(found) = self.read(&self.place.now(), &dkey, &akeys).await {
            self.note_transaction(dkey, began, true, What::Read(akeys.into_iter().zip(found).collect()));
        }
    }

    fn note_transaction(&self, dkey: String, began: Instant, is_known: bool, what: What) {
        let ended = is_known.then(rt::now);
        self.ledger.borrow_mut().transactions.push(Transaction { client: self.number, dkey, began, ended, what });
    }

    async fn insert_own(&mut self, name: &str) {
        let dkey = format!("own {name}");
        if self.write(&dkey, &["v".into()], name, Conditions::DkeyInsert).await {
            self.ledger.borrow_mut().own.insert(dkey.clone(), Some(name.into()));
            self.own.push(dkey);
        }
    }

    async fn remove_own(&mut self, dice: &mut Rng) {
        if self.own.is_empty() {
            return;
        }
        let dkey = self.own.swap_remove(dice.below(self.own.len() as u64) as usize);
        let began = rt::now();
        let done = self.place.now().punch_dkeys(&[key(&dkey)], Conditions::DkeyExists).await;
        let mut ledger = self.ledger.borrow_mut();
        ledger.note(began, &done);
        match done {
            Ok(()) => drop(ledger.own.insert(dkey, None)),
            Err(error) if is_lost(&error) => drop(ledger.own.remove(&dkey)),
            Err(error) => panic!("K5: removing {dkey}, which is there: {error}"),
        }
    }

    /// Reads at the epoch of some write that was answered, whoever's it was: it is there (K1).
    async fn read_what_was_told(&mut self, dice: &mut Rng) {
        let told = {
            let ledger = self.ledger.borrow();
            let count = ledger.acknowledged.len() as u64;
            if count == 0 {
                return;
            }
            let picked = ledger.acknowledged.iter().nth(dice.below(count) as usize).expect("below the count");
            (picked.0.clone(), picked.1.clone())
        };
        let (value, Acknowledged { dkey, akeys, epoch }) = told;
        if let Some(found) = self.read(&self.place.at(epoch), &dkey, &akeys).await {
            let is_there = found.iter().all(|found| found.as_ref() == Some(&value));
            assert!(is_there, "K1: {dkey} at {epoch} holds {found:?}, and {value} was acknowledged");
        }
    }

    /// Reads at a moment that may not be over yet: nothing is written before it any more (K18).
    async fn look_back(&mut self, dice: &mut Rng) {
        let newest = self.ledger.borrow().acknowledged.values().map(|told| told.epoch).max();
        let Some(newest) = newest else { return };
        let at = Epoch::from_micros(newest.micros() + dice.below(AHEAD_MICROS), 0).max(newest);
        let (dkey, akeys) = match dice.below(2) {
            0 => (shared(dice), vec!["v".to_string()]),
            _ => (many(dice), AKEYS.map(String::from).to_vec()),
        };
        if let Some(found) = self.read(&self.place.at(at), &dkey, &akeys).await {
            self.ledger.borrow_mut().looks.push(Look { dkey, akeys, at, found });
        }
    }

    async fn read(&self, object: &Object, dkey: &str, akeys: &[String]) -> Option<Vec<Option<String>>> {
        let began = rt::now();
        let found = read(object, dkey, akeys).await;
        self.ledger.borrow_mut().note(began, &found);
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                assert!(is_lost(&error), "reading {dkey}: {error}");
                None
            }
        }
    }
}

fn shared(dice: &mut Rng) -> String {
    format!("shared {}", dice.below(SHARED))
}

fn many(dice: &mut Rng) -> String {
    format!("many {}", dice.below(SHARED))
}

/// An administrator's share: containers of labels that nobody else uses come and go.
pub async fn command(load: Load, system: System, mut dice: Rng, ledger: Rc<RefCell<Ledger>>) {
    for number in 0..load.commands {
        rt::sleep(Duration::from_millis(dice.below(1_500))).await;
        let pool = match system.pool("tank").await {
            Ok(pool) => pool,
            Err(error) => {
                assert!(is_lost(&error), "opening the pool: {error}");
                continue;
            }
        };
        let gone = ledger.borrow().containers.iter().next().cloned().filter(|_| dice.below(3) == 0);
        let began = rt::now();
        match gone {
            Some(label) => {
                let done = pool.destroy_container(&label).await;
                let mut ledger = ledger.borrow_mut();
                ledger.note(began, &done);
                ledger.containers.remove(&label);
                if let Err(error) = done {
                    assert!(is_lost(&error), "K5: removing container {label}, which is there: {error}");
                }
            }
            None => {
                let label = format!("crate-{number}");
                let done = pool.create_container(client::ContainerSpec::labelled(&label)).await;
                let mut ledger = ledger.borrow_mut();
                ledger.note(began, &done);
                match done {
                    Ok(_) => drop(ledger.containers.insert(label)),
                    Err(error) => assert!(is_lost(&error), "K5: container {label} is nobody else's: {error}"),
                }
            }
        }
    }
}

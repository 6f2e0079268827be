//! Writers that know what they wrote, readers that know what they must see.
//!
//! Each writer has keys of its own and puts numbered values to them, one after the other, so that of a key's value only
//! this can be said, and must: it is not older than the last that was acknowledged when a read began, and not newer than
//! the last that was begun when it ended. A put without an answer may have happened or not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use client::{Address, Code, Error, Kv, ObjectClass, ObjectId, ObjectType, System};

use crate::servers::{CONTAINER, POOL, until};

const WRITERS: u64 = 6;
const READERS: u64 = 2;
const KEYS: u64 = 12;
/// Between the puts of a writer. What they overwrite is kept for a while, and a fast machine would fill the pool with it.
const PAUSE: Duration = Duration::from_millis(10);

/// What writers and readers found out.
pub struct Oracle {
    /// By key: the newest value that was acknowledged, and the newest that was begun; from 1.
    acknowledged: Vec<AtomicU64>,
    begun: Vec<AtomicU64>,
    /// Puts that were acknowledged, and reads that were right.
    puts: AtomicU64,
    reads: AtomicU64,
    /// What was read and must not have been.
    wrong: Mutex<Vec<String>>,
    /// Puts and reads that got no answer, or a refusal.
    failures: Mutex<Vec<Error>>,
    stop: AtomicBool,
}

/// Clients at work, on a thread of their own.
pub struct Workload {
    oracle: Arc<Oracle>,
    thread: Option<JoinHandle<()>>,
}

fn object(copies: usize) -> ObjectId {
    let class: ObjectClass = match copies {
        1 => "SX",
        2 => "RP_2GX",
        _ => "RP_3GX",
    }
    .parse()
    .unwrap();
    ObjectId::new(ObjectType::KvLexical, class, 7, 7)
}

fn name(key: usize) -> String {
    format!("key-{key}")
}

/// The value of a number: some inline, some in blocks, some as bulk data.
fn value(key: usize, number: u64) -> Vec<u8> {
    let times = match number % 16 {
        0 => 1500,
        1..4 => 200,
        _ => 2,
    };
    format!("{number} of {key};").repeat(times).into_bytes()
}

/// The number of a value that is whole.
fn number(key: usize, bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: u64 = text.split_once(' ')?.0.parse().ok()?;
    (value(key, number) == bytes).then_some(number)
}

/// The store of the test's keys, by a client of its own.
pub async fn open(addresses: &[Address], copies: usize) -> client::Result<Kv> {
    let system = System::connect(addresses, Default::default()).await?;
    Ok(system.pool(POOL).await?.container(CONTAINER).await?.kv(object(copies)))
}

impl Oracle {
    fn new() -> Oracle {
        let zeros = || (0..WRITERS * KEYS).map(|_| AtomicU64::new(0)).collect();
        Oracle {
            acknowledged: zeros(),
            begun: zeros(),
            puts: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            wrong: Mutex::default(),
            failures: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Puts the next value of a key.
    async fn put(&self, kv: &Kv, key: usize) {
        let next = self.begun[key].load(Ordering::Acquire) + 1;
        self.begun[key].store(next, Ordering::Release);
        match kv.put(name(key).as_str(), &value(key, next)).await {
            Ok(_) => {
                self.acknowledged[key].store(next, Ordering::Release);
                self.puts.fetch_add(1, Ordering::AcqRel);
            }
            Err(error) => self.failures.lock().unwrap().push(error),
        }
    }

    /// Reads a key, and judges what it has. False: there was no answer.
    async fn read(&self, kv: &Kv, key: usize) -> bool {
        let least = self.acknowledged[key].load(Ordering::Acquire);
        let read = match kv.get(name(key).as_str()).await {
            Ok(read) => read,
            Err(error) => {
                self.failures.lock().unwrap().push(error);
                return false;
            }
        };
        let most = self.begun[key].load(Ordering::Acquire);
        let found = read.as_ref().map_or(Some(0), |bytes| number(key, bytes));
        match found {
            Some(found) if (least..=most).contains(&found) => drop(self.reads.fetch_add(1, Ordering::AcqRel)),
            Some(found) => {
                let text = format!("{} has value {found}, and must have {least} to {most}", name(key));
                self.wrong.lock().unwrap().push(text);
            }
            None => self.wrong.lock().unwrap().push(format!("{} has a value that nobody wrote", name(key))),
        }
        true
    }

    /// Reads all keys by a client; nothing may be wrong, and nothing without an answer.
    pub async fn verify(&self, kv: &Kv) {
        for key in 0..self.acknowledged.len() {
            let began = self.failures.lock().unwrap().len();
            let answered = self.read(kv, key).await;
            assert!(answered, "{} cannot be read: {}", name(key), self.failures.lock().unwrap()[began]);
        }
        self.check();
    }

    /// # Panics
    /// If anything that was read was wrong.
    pub fn check(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} wrong reads, the first: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    }

    /// One copy of all keys, when nobody writes any more: of each there is what was acknowledged last, or what was begun after.
    ///
    /// # Panics
    /// If anything else is there, of any key.
    pub fn check_copy(&self, whose: &str, copy: &BTreeMap<String, Vec<u8>>) {
        for key in 0..self.acknowledged.len() {
            let least = self.acknowledged[key].load(Ordering::Acquire);
            let most = self.begun[key].load(Ordering::Acquire);
            let found = copy.get(&name(key)).map_or(Some(0), |bytes| number(key, bytes));
            let is_right = found.is_some_and(|found| (least..=most).contains(&found));
            assert!(is_right, "{} of {whose} is value {found:?}, and must be {least} to {most}", name(key));
        }
        assert!(copy.len() <= self.acknowledged.len(), "{whose} has keys that nobody wrote");
    }

    /// # Panics
    /// If an error reached a client.
    pub fn check_no_failures(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} errors reached clients, the first: {}", failures.len(), failures[0]);
    }

    /// Errors that reached clients, other than `expected`.
    pub fn failures_but(&self, expected: &[Code]) -> Vec<Error> {
        let failures = self.failures.lock().unwrap();
        failures.iter().filter(|error| !expected.contains(&error.code)).cloned().collect()
    }

    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Acquire)
    }
}

impl Workload {
    /// Begins to write and read, in a container with `copies` of everything.
    pub fn start(addresses: Vec<Address>, copies: usize) -> Workload {
        let oracle = Arc::new(Oracle::new());
        let theirs = oracle.clone();
        let thread = std::thread::spawn(move || rt::block_on(work(theirs, addresses, copies)));
        let workload = Workload { oracle, thread: Some(thread) };
        workload.until_more(100);
        workload
    }

    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Waits until `count` more puts are acknowledged, and as many reads as there are keys were right.
    pub fn until_more(&self, count: u64) {
        let puts = self.oracle.puts() + count;
        let reads = self.oracle.reads.load(Ordering::Acquire) + WRITERS * KEYS / 2;
        until(&format!("{count} more puts to be acknowledged, and reads to be answered"), || {
            self.oracle.check();
            let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!is_over, "the clients have ended: {:?}", self.oracle.failures.lock().unwrap().last());
            self.oracle.puts() >= puts && self.oracle.reads.load(Ordering::Acquire) >= reads
        });
    }

    /// Ends it. What it found out stays.
    pub fn stop(mut self) -> Arc<Oracle> {
        self.oracle.stop.store(true, Ordering::Release);
        self.thread.take().expect("it is stopped once").join().expect("clients do not panic");
        self.oracle.check();
        self.oracle.clone()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.oracle.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A test that has failed already.
            let _ = thread.join();
        }
    }
}

async fn work(oracle: Arc<Oracle>, addresses: Vec<Address>, copies: usize) {
    let kv = open(&addresses, copies).await.expect("the system answers at the beginning");
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (oracle, kv) = (oracle.clone(), kv.clone());
        tasks.push(rt::spawn(async move {
            for n in 0.. {
                if oracle.stop.load(Ordering::Acquire) {
                    return;
                }
                oracle.put(&kv, (writer * KEYS + n % KEYS) as usize).await;
                rt::sleep(PAUSE).await;
            }
        }));
    }
    for reader in 0..READERS {
        // Another client, with a map of its own.
        let kv = open(&addresses, copies).await.expect("the system answers at the beginning");
        let oracle = oracle.clone();
        tasks.push(rt::spawn(async move {
            for n in reader.. {
                if oracle.stop.load(Ordering::Acquire) {
                    return;
                }
                oracle.read(&kv, (n * 7 % (WRITERS * KEYS)) as usize).await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("clients do not panic");
    }
}

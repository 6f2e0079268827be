//! What a client does: puts, removes, reads, array writes, snapshots, going back; all checked as it goes.

use std::collections::BTreeSet;
use std::time::Duration;

use client::{ArrayShape, Container, ContainerSpec, Pool, System, SystemOptions};
use rt::Rng;
use types::{Code, Epoch, Error, Key, ObjectType};

use crate::oracle::{Oracle, Outcome, Reading};
use crate::scenario::ADDRESS;

/// Operations of one client in one run.
const OPERATIONS: u64 = 60;
/// Keys a client writes.
const KEYS: u64 = 12;
/// How long a request may take, retries included. Longer than any fault lasts.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of the array that the model follows.
const ARRAY_BYTES: usize = 300_000;
const CHUNK_BYTES: u64 = 64 << 10;

/// What one client did and must still find at the end.
pub struct Witness {
    container: String,
    object: types::ObjectId,
    oracle: Oracle,
    array: types::ObjectId,
    model: ArrayModel,
    snapshots: Vec<Kept>,
}

/// A snapshot, and what was known when it was made.
#[derive(Clone)]
struct Kept {
    epoch: Epoch,
    oracle: Oracle,
    model: ArrayModel,
}

/// An array's bytes, and which of them an unanswered write may have touched.
#[derive(Clone)]
struct ArrayModel {
    bytes: Vec<u8>,
    doubtful: Vec<bool>,
    end: usize,
    end_is_known: bool,
}

/// Connects, retrying while the server is away.
pub async fn connect() -> System {
    let address = ADDRESS.parse().expect("a literal");
    let options = SystemOptions { deadline: PATIENCE, ..SystemOptions::default() };
    patiently(|| System::connect(std::slice::from_ref(&address), options.clone())).await
}

/// Repeats a request until it is answered. For what may be repeated.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Error>>>(mut request: impl FnMut() -> F) -> T {
    loop {
        match request().await {
            Ok(value) => return value,
            // A clock that is off is put right, as a server that is down is started.
            Err(error) if is_unknown(&error) || error.code == Code::ClockOffset => {
                rt::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("refused: {error}"),
        }
    }
}

/// The outcome of the request is not known. Anything else is an answer.
pub(crate) fn is_unknown(error: &Error) -> bool {
    error.is_transient() || matches!(error.code, Code::Canceled | Code::Uncertain)
}

fn outcome<T>(result: &Result<T, Error>) -> Outcome {
    match result {
        Ok(_) => Outcome::Acknowledged,
        Err(error) if is_unknown(error) => Outcome::Unknown,
        Err(error) => panic!("refused: {error}"),
    }
}

async fn open(pool: &Pool, name: &str) -> Container {
    patiently(|| pool.container(name)).await
}

/// Runs one client's share of the scenario.
pub async fn run(number: u64, mut dice: Rng) -> Witness {
    let system = connect().await;
    let pool = patiently(|| system.pool("tank")).await;
    let name = format!("client-{number}");
    // The answer to a creation may be lost: then it is there the second time.
    loop {
        match pool.create_container(ContainerSpec::labelled(&name)).await {
            Ok(_) => break,
            Err(error) if error.code == Code::Exists => break,
            Err(error) if is_unknown(&error) => {}
            Err(error) => panic!("refused: {error}"),
        }
    }
    let container = open(&pool, &name).await;
    let object = patiently(|| container.new_object(ObjectType::KvHashed, None)).await;
    let array = patiently(|| container.new_object(ObjectType::ArrayByte, None)).await;
    let mut witness = Witness {
        container: name,
        object,
        oracle: Oracle::default(),
        array,
        model: ArrayModel::new(),
        snapshots: Vec::new(),
    };
    for _ in 0..OPERATIONS {
        rt::sleep(Duration::from_millis(dice.below(60))).await;
        match dice.below(15) {
            0..=3 => witness.put(&container, &mut dice).await,
            4 => witness.remove(&container, &mut dice).await,
            5..=6 => witness.get(&container, &mut dice).await,
            7..=8 => witness.write_array(&container, &mut dice).await,
            9 => witness.read_array(&container, &mut dice).await,
            10 => witness.snapshot(&container).await,
            11 => witness.let_go(&container, &mut dice).await,
            12 => witness.compare(&container, &mut dice).await,
            13 if dice.below(2) == 0 => witness.go_back(&container, &mut dice).await,
            _ => witness.read_snapshot(&container, &mut dice).await,
        }
    }
    witness
}

impl Witness {
    fn key(dice: &mut Rng) -> String {
        format!("key-{}", dice.below(KEYS))
    }

    async fn put(&mut self, container: &Container, dice: &mut Rng) {
        let key = Witness::key(dice);
        if !self.oracle.is_known(&key) {
            return;
        }
        let length = if dice.below(4) == 0 { 4_000 + dice.below(60_000) } else { 1 + dice.below(200) };
        let value = bytes(dice, length as usize);
        let put = container.kv(self.object).put(key.as_str(), &value).await;
        self.oracle.wrote(&key, Some(value), outcome(&put));
    }

    async fn remove(&mut self, container: &Container, dice: &mut Rng) {
        let key = Witness::key(dice);
        if self.oracle.is_known(&key) {
            let removed = container.kv(self.object).remove(key.as_str()).await;
            self.oracle.wrote(&key, None, outcome(&removed));
        }
    }

    async fn get(&mut self, container: &Container, dice: &mut Rng) {
        let key = Witness::key(dice);
        match container.kv(self.object).get(key.as_str()).await {
            Ok(found) => self.oracle.judge(&key, &reading(found)).expect("K1"),
            Err(error) => assert!(is_unknown(&error), "reading {key}: {error}"),
        }
    }

    async fn write_array(&mut self, container: &Container, dice: &mut Rng) {
        let start = dice.below(ARRAY_BYTES as u64 - 1) as usize;
        let length = (1 + dice.below(100_000) as usize).min(ARRAY_BYTES - start);
        let data = bytes(dice, length);
        let written = self.open_array(container).write(start as u64, &data).await;
        self.model.wrote(start, &data, outcome(&written));
    }

    async fn read_array(&mut self, container: &Container, dice: &mut Rng) {
        let start = dice.below(ARRAY_BYTES as u64) as usize;
        let length = 1 + dice.below(ARRAY_BYTES as u64) as usize;
        match self.open_array(container).read(start as u64, length as u64).await {
            Ok(found) => self.model.judge(start, length, &found),
            Err(error) => assert!(is_unknown(&error), "reading the array: {error}"),
        }
    }

    fn open_array(&self, container: &Container) -> client::Array {
        container.array(self.array, ArrayShape { record_bytes: 1, chunk_records: CHUNK_BYTES })
    }

    async fn snapshot(&mut self, container: &Container) {
        // This client alone writes its keys, one after another: what it knows now is what the
        // snapshot holds (K17).
        match container.create_snapshot(None).await {
            Ok(snapshot) => {
                let (oracle, model) = (self.oracle.clone(), self.model.clone());
                self.snapshots.push(Kept { epoch: snapshot.epoch, oracle, model });
            }
            Err(error) => assert!(is_unknown(&error), "snapshot: {error}"),
        }
    }

    async fn read_snapshot(&mut self, container: &Container, dice: &mut Rng) {
        let Some(Kept { epoch, oracle, .. }) = self.pick(dice) else { return };
        let key = Witness::key(dice);
        match container.at(*epoch).kv(self.object).get(key.as_str()).await {
            Ok(found) => oracle.judge(&key, &reading(found)).expect("K3"),
            Err(error) => assert!(is_unknown(&error), "reading {key} at {epoch}: {error}"),
        }
    }

    fn pick(&self, dice: &mut Rng) -> Option<&Kept> {
        let count = self.snapshots.len() as u64;
        (count > 0).then(|| &self.snapshots[dice.below(count) as usize])
    }

    /// Destroys a snapshot: what it alone held may go, and nothing else.
    async fn let_go(&mut self, container: &Container, dice: &mut Rng) {
        let Some(epoch) = self.pick(dice).map(|kept| kept.epoch) else { return };
        // Done or not, it is no longer promised.
        self.snapshots.retain(|kept| kept.epoch != epoch);
        if let Err(error) = container.destroy_snapshot(&epoch.to_string()).await {
            assert!(is_unknown(&error) || error.code == Code::NotFound, "letting {epoch} go: {error}");
        }
    }

    /// Every key that surely changed since a snapshot is among the differences.
    async fn compare(&mut self, container: &Container, dice: &mut Rng) {
        let Some(Kept { epoch, oracle, .. }) = self.pick(dice) else { return };
        let mut changed = BTreeSet::new();
        let compared = container
            .diff(*epoch, |found| changed.extend(found.into_iter().filter(|d| d.oid == self.object).map(|d| d.dkey)))
            .await;
        match compared {
            Ok(_) => {
                for key in self.oracle.keys().filter(|key| self.oracle.differs(oracle, key)) {
                    let dkey = Key::new(key.as_bytes()).expect("a short key");
                    assert!(changed.contains(&dkey), "{key} changed since {epoch}, unnoticed");
                }
            }
            Err(error) => assert!(is_unknown(&error), "comparing with {epoch}: {error}"),
        }
    }

    /// Goes back to a snapshot: all of it comes back, and later snapshots are gone.
    async fn go_back(&mut self, container: &Container, dice: &mut Rng) {
        let Some(Kept { epoch, oracle, model }) = self.pick(dice).cloned() else { return };
        let done = container.rollback(&epoch.to_string()).await;
        self.oracle.went_back(&oracle, outcome(&done));
        self.model.went_back(&model, outcome(&done));
        self.snapshots.retain(|kept| kept.epoch <= epoch);
    }

    /// After the faults have stopped, everything promised is there (K1, K3, K17).
    pub async fn verify(&self, pool: &Pool) {
        let container = open(pool, &self.container).await;
        for key in (0..KEYS).map(|n| format!("key-{n}")) {
            let kv = container.kv(self.object);
            let found = patiently(|| kv.get(key.as_str())).await;
            self.oracle.judge(&key, &reading(found)).expect("K1 after healing");
        }
        let found = patiently(|| self.open_array_of(&container)).await;
        self.model.judge(0, ARRAY_BYTES, &found);
        for Kept { epoch, oracle, .. } in &self.snapshots {
            for key in oracle.keys() {
                let kv = container.at(*epoch).kv(self.object);
                let found = patiently(|| kv.get(key)).await;
                oracle.judge(key, &reading(found)).expect("K3 after healing");
            }
        }
    }

    async fn open_array_of(&self, container: &Container) -> Result<Vec<u8>, Error> {
        self.open_array(container).read(0, ARRAY_BYTES as u64).await.map(|bytes| bytes.to_vec())
    }
}

impl ArrayModel {
    fn new() -> ArrayModel {
        ArrayModel { bytes: vec![0; ARRAY_BYTES], doubtful: vec![false; ARRAY_BYTES], end: 0, end_is_known: true }
    }

    fn wrote(&mut self, start: usize, data: &[u8], outcome: Outcome) {
        let end = start + data.len();
        match outcome {
            Outcome::Acknowledged => {
                // A byte once in doubt stays so: the lost write may still arrive.
                self.bytes[start..end].copy_from_slice(data);
                self.end = self.end.max(end);
            }
            Outcome::Unknown => {
                self.doubtful[start..end].fill(true);
                self.end_is_known &= end <= self.end;
            }
        }
    }

    /// The container went back to where `then` was known. Bytes in doubt stay so: a lost write may still arrive.
    fn went_back(&mut self, then: &ArrayModel, outcome: Outcome) {
        let sure = outcome == Outcome::Acknowledged;
        for at in 0..ARRAY_BYTES {
            self.doubtful[at] |= then.doubtful[at] || !sure && self.bytes[at] != then.bytes[at];
            self.bytes[at] = then.bytes[at];
        }
        self.end_is_known &= then.end_is_known && (sure || self.end == then.end);
        self.end = if sure { then.end } else { self.end.min(then.end) };
    }

    fn judge(&self, start: usize, length: usize, found: &[u8]) {
        if self.end_is_known {
            let expected = self.end.min(start + length).saturating_sub(start);
            assert_eq!(found.len(), expected, "the array ends at {}", self.end);
        }
        let sure_end = self.end.min(start + length);
        assert!(found.len() >= sure_end.saturating_sub(start), "K1: the array lost its tail");
        for (at, byte) in found.iter().enumerate().map(|(n, byte)| (start + n, byte)) {
            let right = self.doubtful[at] || self.bytes[at] == *byte;
            assert!(right, "K1: byte {at} of the array reads as {byte} where {} was promised", self.bytes[at]);
        }
    }
}

fn reading(found: Option<impl AsRef<[u8]>>) -> Reading {
    found.map(|bytes| bytes.as_ref().to_vec())
}

fn bytes(dice: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    dice.fill(&mut bytes);
    bytes
}

//! The store workloads, the same for `vos` and for other stores.
//!
//! # Shape
//! [`Engine`] is what a store must do; [`Workload`] is how many records of what size, in batches.
//! Loading writes every key once in random order; fetches pick keys at random from what was loaded.

use anyhow::Result;
use types::Key;

use crate::measure::{Chance, key, timed};

/// A store under measurement.
pub trait Engine {
    fn name(&self) -> &'static str;

    /// Writes `value` under each key; durable on its medium when this returns.
    fn write(&mut self, keys: &[Key], value: &[u8]) -> Result<()>;

    /// Reads the value of each key and returns the bytes read, all copied out of the store.
    fn read(&mut self, keys: &[Key]) -> Result<usize>;

    /// Walks over every key in order and returns how many there were.
    fn scan(&mut self) -> Result<usize>;
}

#[derive(Clone, Copy)]
pub struct Workload {
    pub records: usize,
    pub value_bytes: usize,
    /// Updates that become durable together.
    pub batch: usize,
}

/// Rates of one store.
pub struct Rates {
    pub update: f64,
    pub fetch: f64,
    pub new_version: f64,
    pub scan: f64,
}

fn random_key(n: usize) -> Key {
    Key::new(key(n).to_vec()).expect("16 bytes are a key")
}

/// Keys that are prepared outside the measured time, a chunk at a time.
const CHUNK: usize = 4096;

impl Workload {
    /// Loads, fetches, updates again and scans `engine`; rates in operations a second.
    pub fn run(&self, engine: &mut dyn Engine) -> Result<Rates> {
        let value = self.value();
        let load = self.load(engine, 0)?;
        let reads = self.reads();
        let mut chance = Chance::new(11);
        // Once unmeasured: the first pass brings pages into caches.
        self.read(engine, reads, &mut chance)?;
        let fetch = self.read(engine, reads, &mut chance)?;
        let again = reads.min(self.records);
        let mut chance = Chance::new(13);
        let new_version = self.write(engine, &value, again, |_| chance.below(self.records))?;
        let (seconds, scanned) = timed(|| engine.scan());
        let scan = scanned? as f64 / seconds;
        Ok(Rates { update: load, fetch, new_version, scan })
    }

    /// Updates all records, with keys from the one of number `first` on; how many a second.
    pub fn load(&self, engine: &mut dyn Engine, first: usize) -> Result<f64> {
        self.write(engine, &self.value(), self.records, |n| first + n)
    }

    fn value(&self) -> Vec<u8> {
        let mut value = vec![0; self.value_bytes];
        Chance::new(7).fill(&mut value);
        value
    }

    /// Enough to take a good part of a second, not the whole of a large load.
    fn reads(&self) -> usize {
        self.records.clamp(1, if self.value_bytes > 65536 { 2048 } else { 1 << 20 })
    }

    fn write(
        &self,
        engine: &mut dyn Engine,
        value: &[u8],
        count: usize,
        mut pick: impl FnMut(usize) -> usize,
    ) -> Result<f64> {
        let mut spent = 0.0;
        let mut keys = Vec::with_capacity(CHUNK);
        let mut done = 0;
        while done < count {
            keys.clear();
            keys.extend((done..count.min(done + CHUNK)).map(|n| random_key(pick(n))));
            done += keys.len();
            let (seconds, outcome) = timed(|| keys.chunks(self.batch).try_for_each(|batch| engine.write(batch, value)));
            outcome?;
            spent += seconds;
        }
        Ok(count as f64 / spent)
    }

    fn read(&self, engine: &mut dyn Engine, count: usize, chance: &mut Chance) -> Result<f64> {
        let mut spent = 0.0;
        let mut keys = Vec::with_capacity(CHUNK);
        let mut done = 0;
        while done < count {
            keys.clear();
            keys.extend((done..count.min(done + CHUNK)).map(|_| random_key(chance.below(self.records))));
            done += keys.len();
            let (seconds, bytes) = timed(|| engine.read(&keys));
            assert_eq!(bytes?, keys.len() * self.value_bytes, "{} lost records", engine.name());
            spent += seconds;
        }
        Ok(count as f64 / spent)
    }
}

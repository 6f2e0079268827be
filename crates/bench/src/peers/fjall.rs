//! fjall: a log-structured merge tree. A batch is one write batch, durable by `SyncData`.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use types::Key;

use crate::workload::Engine;

/// As much memory as the store under measurement gets.
const CACHE_BYTES: u64 = 1 << 30;

pub struct Fjall {
    database: Database,
    records: Keyspace,
    out: Vec<u8>,
}

impl Fjall {
    pub fn create(directory: &Path) -> Result<Fjall> {
        let database = Database::builder(directory.join("fjall")).cache_size(CACHE_BYTES).open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Fjall { database, records, out: Vec::new() })
    }
}

impl Engine for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn write(&mut self, keys: &[Key], value: &[u8]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for key in keys {
            key.with_bytes(|key| batch.insert(&self.records, key, value));
        }
        batch.commit()?;
        Ok(())
    }

    fn read(&mut self, keys: &[Key]) -> Result<usize> {
        let mut bytes = 0;
        for key in keys {
            if let Some(value) = key.with_bytes(|key| self.records.get(key))? {
                self.out.clear();
                self.out.extend_from_slice(&value);
                bytes += self.out.len();
            }
        }
        Ok(bytes)
    }

    fn scan(&mut self) -> Result<usize> {
        let mut records = 0;
        for entry in self.records.iter() {
            let (key, value) = entry.into_inner()?;
            std::hint::black_box((key.len(), value.first()));
            records += 1;
        }
        Ok(records)
    }
}

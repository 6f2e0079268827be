//! redb: a copy-on-write B+tree. A batch is one transaction, durable at commit.

use std::path::Path;

use anyhow::Result;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use types::Key;

use crate::workload::Engine;

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

/// As much memory as the store under measurement gets.
const CACHE_BYTES: usize = 1 << 30;

pub struct Redb {
    database: Database,
    out: Vec<u8>,
}

impl Redb {
    pub fn create(directory: &Path) -> Result<Redb> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(directory.join("redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        Ok(Redb { database, out: Vec::new() })
    }
}

impl Engine for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn write(&mut self, keys: &[Key], value: &[u8]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for key in keys {
                key.with_bytes(|key| table.insert(key, value).map(drop))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&mut self, keys: &[Key]) -> Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut bytes = 0;
        for key in keys {
            if let Some(value) = key.with_bytes(|key| table.get(key))? {
                self.out.clear();
                self.out.extend_from_slice(value.value());
                bytes += self.out.len();
            }
        }
        Ok(bytes)
    }

    fn scan(&mut self) -> Result<usize> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut records = 0;
        for entry in table.iter()? {
            let (key, value) = entry?;
            std::hint::black_box((key.value().len(), value.value().first()));
            records += 1;
        }
        Ok(records)
    }
}

//! Tests of the whole crate on a store in memory.

mod calls;
mod crash;
#[path = "../../testing/oracle.rs"]
mod oracle;

use crate::memory::Memory;
use crate::store::Store;
use crate::{Dfs, DfsOptions, Result};

impl Dfs {
    pub(crate) async fn on_memory(memory: &Memory) -> Result<Dfs> {
        Dfs::mount_store(Store::Memory(memory.clone()), &DfsOptions::default()).await
    }
}

/// A fresh file system, and its store.
async fn fresh() -> (Memory, Dfs) {
    let memory = Memory::default();
    let fs = Dfs::on_memory(&memory).await.expect("a fresh container formats");
    (memory, fs)
}

#[test]
fn random_calls_do_what_they_do_on_the_host() {
    for seed in 0..30 {
        let host = tempfile::tempdir().unwrap();
        rt::block_on(async {
            let (_, fs) = fresh().await;
            oracle::run(&fs, host.path(), seed, 600).await;
        });
    }
}

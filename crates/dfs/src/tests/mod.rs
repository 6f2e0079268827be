//! Tests of the whole crate on a store in memory.

mod calls;
mod crash;
#[path = "../../testing/oracle.rs"]
mod oracle;
#[path = "../../testing/trees.rs"]
mod trees;

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

#[test]
fn a_tree_goes_in_and_comes_out_as_it_was() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        trees::goes_in_and_comes_out(&fs).await;
    });
}

#[test]
fn every_kind_of_difference_is_found() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        trees::differences_are_found(&fs).await;
    });
}

#[test]
fn what_cannot_be_copied_is_told() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        trees::the_rest_is_told(&fs).await;
    });
}

/// The store fails in the middle: the copy stops with its error, and what is there is whole.
#[test]
fn a_copy_cut_short_leaves_whole_files() {
    let source = tempfile::tempdir().unwrap();
    trees::make(source.path());
    rt::block_on(async {
        let local = crate::Local::new().unwrap();
        for cut in [0, 1, 5, 40, 100, 150] {
            let (memory, fs) = fresh().await;
            memory.cut_power_after(cut);
            let error = crate::copy_in(&local, source.path(), &fs, "/copy", &Default::default()).await.unwrap_err();
            assert!(error.to_string().ends_with("the power is gone [DER_UNREACH(-1006)]"), "{error}");
            memory.restore_power();
            if fs.lookup("/copy").await.unwrap().is_none() {
                continue;
            }
            let found = crate::compare(&local, source.path(), &fs, "/copy", &Default::default()).await.unwrap();
            for difference in found.differences {
                let unfinished_directory = source.path().join(&difference.path).is_dir();
                assert!(difference.what == crate::compare::What::OnlyLocal || unfinished_directory, "{difference}");
            }
        }
    });
}

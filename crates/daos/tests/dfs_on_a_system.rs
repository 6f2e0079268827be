//! A file system on a whole system: client, messages, engine, store and disk, in this process.

use std::path::Path;

use daos::dfs::{CopyOptions, Dfs, Local, compare, copy_in, copy_out};
use daos::{ContainerSpec, EmbeddedOptions, Layout, System};

#[path = "../../dfs/testing/oracle.rs"]
mod oracle;
#[path = "../../dfs/testing/trees.rs"]
mod trees;

const POOL_BYTES: u64 = 2 << 30;

/// A system in `directory` with a pool and a POSIX container, mounted.
async fn mounted(directory: &Path) -> (System, daos::Container, Dfs) {
    let options = EmbeddedOptions { targets: Some(2), ..EmbeddedOptions::default() };
    let system = System::embedded_with(directory, options).await.expect("a fresh directory takes a system");
    if system.pool("tank").await.is_err() {
        system.create_pool("tank", POOL_BYTES, vec![]).await.unwrap();
    }
    let pool = system.pool("tank").await.unwrap();
    if pool.container("files").await.is_err() {
        let spec = ContainerSpec { layout: Layout::Posix, ..ContainerSpec::labelled("files") };
        pool.create_container(spec).await.unwrap();
    }
    let container = pool.container("files").await.unwrap();
    let fs = Dfs::mount(container.clone()).await.unwrap();
    (system, container, fs)
}

fn on_a_system(test: impl AsyncFn(&Dfs)) {
    let directory = tempfile::tempdir().unwrap();
    daos::block_on(async {
        let (system, _, fs) = mounted(directory.path()).await;
        test(&fs).await;
        system.shutdown().await.unwrap();
    });
}

#[test]
fn random_calls_do_what_they_do_on_the_host() {
    for seed in 1000..1003 {
        let host = tempfile::tempdir().unwrap();
        on_a_system(async |fs| oracle::run(fs, host.path(), seed, 400).await);
    }
}

#[test]
fn a_tree_goes_in_and_comes_out_as_it_was() {
    on_a_system(async |fs| trees::goes_in_and_comes_out(fs).await);
}

#[test]
fn every_kind_of_difference_is_found() {
    on_a_system(async |fs| trees::differences_are_found(fs).await);
}

#[test]
fn what_cannot_be_copied_is_told() {
    on_a_system(async |fs| trees::the_rest_is_told(fs).await);
}

#[test]
fn a_snapshot_copies_out_the_old_tree() {
    let (directory, source, out) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    trees::make(source.path());
    daos::block_on(async {
        let (system, container, fs) = mounted(directory.path()).await;
        let (local, options) = (Local::new().unwrap(), CopyOptions::default());
        copy_in(&local, source.path(), &fs, "/tree", &options).await.unwrap();
        container.create_snapshot(Some("before")).await.unwrap();

        fs.write("/tree/size 1", "changed").await.unwrap();
        fs.remove_tree("/tree/d").await.unwrap();
        fs.rename("/tree/size 4096", "/tree/moved").await.unwrap();
        let file = fs.open("/tree/size 5242880", &daos::dfs::OpenOptions::new().write(true)).await.unwrap();
        file.truncate(17).await.unwrap();
        assert!(!compare(&local, source.path(), &fs, "/tree", &options).await.unwrap().is_same());

        let before = Dfs::mount(container.at_snapshot("before").await.unwrap()).await.unwrap();
        let found = compare(&local, source.path(), &before, "/tree", &options).await.unwrap();
        assert!(found.is_same(), "{:#?}", found.differences);
        copy_out(&before, "/tree", &local, out.path(), &options).await.unwrap();
        assert_eq!(oracle::host_tree(out.path()), oracle::host_tree(source.path()));
        assert_eq!(before.unlink("/tree/size 1").await.unwrap_err().errno(), 30);
        system.shutdown().await.unwrap();
    });
}

#[test]
fn what_was_copied_is_there_after_a_restart() {
    let (directory, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    trees::make(source.path());
    daos::block_on(async {
        let (local, options) = (Local::new().unwrap(), CopyOptions::default());
        let (system, _, fs) = mounted(directory.path()).await;
        copy_in(&local, source.path(), &fs, "/tree", &options).await.unwrap();
        fs.rename("/tree", "/moved").await.unwrap();
        fs.rename("/moved", "/tree").await.unwrap();
        system.shutdown().await.unwrap();
        drop((system, fs));

        let (system, _, fs) = mounted(directory.path()).await;
        let found = compare(&local, source.path(), &fs, "/tree", &options).await.unwrap();
        assert!(found.is_same(), "{:#?}", found.differences);
        assert!(fs.statfs().await.unwrap().free > 0);
        system.shutdown().await.unwrap();
    });
}

#[test]
fn a_container_of_another_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    daos::block_on(async {
        let (system, container, _) = mounted(directory.path()).await;
        container.pool().create_container(ContainerSpec::labelled("table")).await.unwrap();
        let table = container.pool().container("table").await.unwrap();
        let error = Dfs::mount(table).await.err().expect("it holds no files");
        assert!(error.to_string().contains("POSIX"), "{error}");
        system.shutdown().await.unwrap();
    });
}

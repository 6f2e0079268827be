//! The power goes after each request of each operation: what is left is a tree that lost nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use super::oracle::dfs_tree;
use crate::memory::Memory;
use crate::*;

type Operation = fn(Dfs) -> Pin<Box<dyn Future<Output = Result<()>>>>;

/// Files in `/` and `/d`, one with attributes, a symlink, directories empty and not.
async fn prepared() -> Memory {
    let memory = Memory::default();
    let fs = Dfs::on_memory(&memory).await.unwrap();
    let attributes = Attributes { xattrs: vec![(b"user.a".to_vec(), "1".into())], ..Attributes::mode(0o600) };
    fs.create_with("/f", &attributes, "content of f", IfExists::Fail).await.unwrap();
    fs.mkdir_all("/d/sub", 0o755).await.unwrap();
    fs.mkdir_all("/empty", 0o700).await.unwrap();
    fs.create_with("/d/g", &attributes, "content of g", IfExists::Fail).await.unwrap();
    fs.write("/d/sub/h", "content of h").await.unwrap();
    fs.symlink("d/g", "/link").await.unwrap();
    fs.write("/was", "moved").await.unwrap();
    fs.rename("/was", "/moved").await.unwrap();
    memory
}

/// Runs `operation` with the power cut after each number of changes, and gives each state left, and
/// how it would be before and after, to `check`.
async fn enumerate(operation: Operation, check: impl AsyncFn(&Memory, &Dfs, &oracle_tree::Tree, &oracle_tree::Tree)) {
    let base = prepared().await;
    let before = dfs_tree(&Dfs::on_memory(&base).await.unwrap()).await;
    let whole = base.fork();
    let fs = Dfs::on_memory(&whole).await.unwrap();
    let start = whole.changes();
    operation(fs.clone()).await.expect("the operation works with the power on");
    let steps = whole.changes() - start;
    let after = dfs_tree(&fs).await;
    for cut in 0..=steps {
        let memory = base.fork();
        let fs = Dfs::on_memory(&memory).await.unwrap();
        memory.cut_power_after(cut);
        let outcome = operation(fs).await;
        assert_eq!(outcome.is_ok(), cut == steps, "cut after {cut} of {steps}");
        memory.restore_power();
        let again = Dfs::on_memory(&memory).await.unwrap();
        is_a_tree(&again).await;
        check(&memory, &again, &before, &after).await;
    }
}

use super::oracle as oracle_tree;

/// No object has two names.
async fn is_a_tree(fs: &Dfs) {
    let mut seen = BTreeMap::new();
    let mut ahead = vec![PathBuf::from("/")];
    while let Some(directory) = ahead.pop() {
        for entry in fs.read_dir(&directory).await.unwrap() {
            let path = directory.join(&entry.name);
            if entry.metadata.is_dir() {
                ahead.push(path.clone());
            }
            if let Some(other) = seen.insert(entry.metadata.oid, path.clone()) {
                panic!("{} and {} are the same object", path.display(), other.display());
            }
        }
    }
}

/// The state is the one before or the one after, never another.
async fn all_or_nothing(operation: Operation) {
    enumerate(operation, async |_, fs, before, after| {
        let tree = dfs_tree(fs).await;
        assert!(tree == *before || tree == *after, "{tree:#?} is neither {before:#?} nor {after:#?}");
    })
    .await;
}

#[test]
fn every_call_on_names_happens_whole_or_not_at_all() {
    rt::block_on(async {
        let operations: [Operation; 20] = [
            |fs| Box::pin(async move { fs.mkdir("/new", 0o755).await.map(drop) }),
            |fs| Box::pin(async move { fs.write("/new", "fresh content").await }),
            |fs| Box::pin(async move { fs.write("/f", "other content").await }),
            |fs| Box::pin(async move { fs.write("/moved", "other content").await }),
            |fs| Box::pin(async move { fs.symlink("x", "/new").await }),
            |fs| Box::pin(async move { fs.unlink("/f").await }),
            |fs| Box::pin(async move { fs.unlink("/moved").await }),
            |fs| Box::pin(async move { fs.unlink("/link").await }),
            |fs| Box::pin(async move { fs.rmdir("/empty").await }),
            |fs| Box::pin(async move { fs.rename("/f", "/new").await }),
            |fs| Box::pin(async move { fs.rename("/f", "/d/g").await }),
            |fs| Box::pin(async move { fs.rename("/moved", "/f").await }),
            |fs| Box::pin(async move { fs.rename("/f", "/moved").await }),
            |fs| Box::pin(async move { fs.rename("/link", "/f").await }),
            |fs| Box::pin(async move { fs.rename("/f", "/link").await }),
            |fs| Box::pin(async move { fs.rename("/d", "/empty").await }),
            |fs| Box::pin(async move { fs.rename("/d", "/empty/d").await }),
            |fs| Box::pin(async move { fs.rename("/d/sub", "/sub").await }),
            |fs| Box::pin(async move { fs.chmod("/f", 0o4755).await }),
            |fs| Box::pin(async move { fs.set_xattr("/f", Follow::Yes, "user.a", "2", SetXattr::Any).await }),
        ];
        for operation in operations {
            all_or_nothing(operation).await;
        }
    });
}

/// A rename cut short must not come back later: not when the file goes on, is removed, or when
/// something new takes the old name.
#[test]
fn a_dead_name_stays_dead() {
    let follow_ups: [Operation; 5] = [
        |fs| Box::pin(async move { fs.rename("/new", "/further").await }),
        |fs| Box::pin(async move { fs.unlink("/new").await }),
        |fs| Box::pin(async move { fs.rename("/d/g", "/new").await }),
        |fs| Box::pin(async move { fs.write("/new", "replaced").await }),
        |fs| Box::pin(async move { fs.write("/f", "a new file under the old name").await }),
    ];
    rt::block_on(async {
        for (i, follow_up) in follow_ups.into_iter().enumerate() {
            enumerate(
                |fs| Box::pin(async move { fs.rename("/f", "/new").await }),
                async |_, fs, _, _| {
                    let arrived = fs.lookup("/new").await.unwrap().is_some();
                    assert_eq!(fs.lookup("/f").await.unwrap().is_none(), arrived, "exactly one of the names lives");
                    if !arrived {
                        return;
                    }
                    let oid = fs.stat("/new").await.unwrap().oid;
                    follow_up(fs.clone()).await.unwrap();
                    is_a_tree(fs).await;
                    match i {
                        4 => assert_eq!(fs.read("/f").await.unwrap(), b"a new file under the old name"),
                        _ => assert!(fs.lookup("/f").await.unwrap().is_none(), "follow-up {i} woke the dead name"),
                    }
                    if i == 0 || i == 4 {
                        let holder = if i == 0 { "/further" } else { "/new" };
                        let stat = fs.stat(holder).await.unwrap();
                        assert_eq!((stat.oid, fs.read(holder).await.unwrap()), (oid, b"content of f".to_vec()));
                    }
                },
            )
            .await;
        }
    });
}

#[test]
fn a_directory_of_dead_names_is_empty() {
    rt::block_on(async {
        enumerate(
            |fs| Box::pin(async move { fs.rename("/d/sub/h", "/h").await }),
            async |memory, fs, _, _| {
                if fs.lookup("/h").await.unwrap().is_some() {
                    fs.rmdir("/d/sub").await.expect("nothing lives there");
                    assert_eq!(fs.read("/h").await.unwrap(), b"content of h");
                }
                let _ = memory;
            },
        )
        .await;
    });
}

#[test]
fn a_removal_cut_short_leaves_a_smaller_tree() {
    rt::block_on(async {
        enumerate(
            |fs| Box::pin(async move { fs.remove_tree("/d").await.map(drop) }),
            async |_, fs, before, _| {
                let tree = dfs_tree(fs).await;
                assert!(tree.iter().all(|(path, line)| before.get(path) == Some(line)), "{tree:#?}");
            },
        )
        .await;
    });
}

/// What is left over at worst is an object without a name; and nothing that has a name is missing.
#[test]
fn no_name_leads_to_content_that_is_gone() {
    rt::block_on(async {
        enumerate(
            |fs| Box::pin(async move { fs.unlink("/f").await }),
            async |memory, fs, _, _| {
                let objects: BTreeSet<_> = memory.objects().into_iter().collect();
                if let Some(stat) = fs.lookup("/f").await.unwrap() {
                    assert!(objects.contains(&stat.oid));
                    assert_eq!(fs.read("/f").await.unwrap(), b"content of f");
                }
            },
        )
        .await;
    });
}

//! Calls one by one: what the oracle cannot ask of a host.

use super::fresh;
use crate::memory::Memory;
use crate::*;

fn errno<T>(outcome: Result<T>) -> i32 {
    outcome.map(|_| ()).map_err(|error| error.errno()).expect_err("the call should fail")
}

#[test]
fn two_mounts_of_a_fresh_container_agree() {
    rt::block_on(async {
        let memory = Memory::default();
        let (one, two) = futures_util::join!(Dfs::on_memory(&memory), Dfs::on_memory(&memory));
        let (one, two) = (one.unwrap(), two.unwrap());
        one.mkdir("/seen", 0o755).await.unwrap();
        assert!(two.stat("/seen").await.unwrap().is_dir());
        assert_eq!(memory.changes(), 3, "one format, one refused format, one directory");
    });
}

#[test]
fn a_file_made_whole_has_all_it_was_given() {
    rt::block_on(async {
        let (memory, fs) = fresh().await;
        let attributes = Attributes {
            mode: 0o640,
            uid: Some(7),
            gid: Some(8),
            accessed: Some(Timestamp::new(1, 2)),
            modified: Some(Timestamp::new(3, 4)),
            xattrs: vec![(b"user.a".to_vec(), "1".into()), (b"user.empty".to_vec(), "".into())],
        };
        let before = memory.changes();
        fs.create_with("/f", &attributes, "hello", IfExists::Fail).await.unwrap();
        assert_eq!(memory.changes() - before, 2, "one write of data, one of the entry");
        let stat = fs.stat("/f").await.unwrap();
        assert_eq!((stat.mode, stat.uid, stat.gid, stat.size), (0o640, 7, 8, 5));
        assert_eq!((stat.accessed, stat.modified), (Timestamp::new(1, 2), Timestamp::new(3, 4)));
        assert_eq!(fs.xattrs("/f", Follow::Yes).await.unwrap(), attributes.xattrs);
        assert_eq!(fs.read("/f").await.unwrap(), b"hello");
        assert_eq!(errno(fs.create_with("/f", &attributes, "other", IfExists::Fail).await), 17);
        assert_eq!(fs.read("/f").await.unwrap(), b"hello");
    });
}

#[test]
fn a_replaced_file_leaves_nothing_of_itself() {
    rt::block_on(async {
        let (memory, fs) = fresh().await;
        let old = Attributes { xattrs: vec![(b"user.old".to_vec(), "1".into())], ..Attributes::mode(0o600) };
        fs.create_with("/f", &old, "old content", IfExists::Fail).await.unwrap();
        fs.create_with("/f", &Attributes::mode(0o644), "new", IfExists::Replace).await.unwrap();
        assert_eq!(fs.read("/f").await.unwrap(), b"new");
        assert_eq!(fs.list_xattrs("/f", Follow::Yes).await.unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(memory.objects().len(), 3, "superblock, root, the new file");
        fs.mkdir("/d", 0o755).await.unwrap();
        assert_eq!(errno(fs.create_with("/d", &old, "", IfExists::Replace).await), 21);
        assert_eq!(memory.objects().len(), 3, "and no content of the refused one");
    });
}

#[test]
fn times_follow_writes_until_they_are_set_again() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        let file = fs.create("/f").await.unwrap();
        let old = Timestamp::new(1000, 0);
        fs.utimens("/f", None, Some(old)).await.unwrap();
        assert_eq!(fs.stat("/f").await.unwrap().modified, old);
        file.write(0, b"x").await.unwrap();
        assert!(fs.stat("/f").await.unwrap().modified > old);
        fs.utimens("/f", None, Some(old)).await.unwrap();
        assert_eq!(fs.stat("/f").await.unwrap().modified, old);
        fs.rename("/f", "/g").await.unwrap();
        assert_eq!(fs.stat("/g").await.unwrap().modified, old, "a rename keeps it");

        fs.mkdir("/d", 0o755).await.unwrap();
        fs.utimens("/d", None, Some(old)).await.unwrap();
        assert_eq!(fs.stat("/d").await.unwrap().modified, old);
        fs.write("/d/new", "").await.unwrap();
        assert!(fs.stat("/d").await.unwrap().modified > old, "a new name moves its directory's");
    });
}

#[test]
fn a_snapshot_reads_and_never_changes() {
    rt::block_on(async {
        let (memory, fs) = fresh().await;
        fs.write("/f", "before").await.unwrap();
        let snapshot = Dfs::on_memory(&memory.snapshot()).await.unwrap();
        fs.write("/f", "after").await.unwrap();
        assert_eq!(snapshot.read("/f").await.unwrap(), b"before");
        assert!(snapshot.is_read_only());
        for outcome in [
            errno(snapshot.write("/g", "").await),
            errno(snapshot.mkdir("/d", 0o755).await),
            errno(snapshot.unlink("/f").await),
            errno(snapshot.rename("/f", "/g").await),
            errno(snapshot.chmod("/f", 0o600).await),
            errno(snapshot.create("/f").await),
            errno(snapshot.remove_tree("/f").await),
        ] {
            assert_eq!(outcome, 30);
        }
        let empty = Memory::default().snapshot();
        assert!(Dfs::on_memory(&empty).await.is_err(), "a snapshot from before the first mount has no file system");
    });
}

#[test]
fn a_handle_keeps_meaning_its_directory() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        let dir = fs.mkdir_all("/a/b", 0o755).await.unwrap();
        fs.rename("/a", "/z").await.unwrap();
        dir.write("f", "here").await.unwrap();
        assert_eq!(fs.read("/z/b/f").await.unwrap(), b"here");
        assert_eq!(dir.read("../b/f").await.unwrap(), b"here");
        assert_eq!(dir.read("/z/b/../b/./f").await.unwrap(), b"here");
        dir.unlink("f").await.unwrap();
        fs.rmdir("/z/b").await.unwrap();
        assert_eq!(errno(dir.write("f", "lost?").await), 2);
    });
}

#[test]
fn links_that_form_a_circle_are_an_error() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        fs.symlink("b", "/a").await.unwrap();
        fs.symlink("a", "/b").await.unwrap();
        assert_eq!(errno(fs.stat("/a").await), 40);
        assert_eq!(fs.lstat("/a").await.unwrap().kind, Kind::Symlink);
        fs.write("/l0", "end").await.unwrap();
        for i in 1..=41 {
            fs.symlink(format!("l{}", i - 1), format!("/l{i}")).await.unwrap();
        }
        assert_eq!(fs.read("/l40").await.unwrap(), b"end");
        assert_eq!(errno(fs.read("/l41").await), 40);
    });
}

#[test]
fn a_directory_never_moves_below_itself() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        fs.mkdir_all("/a/b/c", 0o755).await.unwrap();
        assert_eq!(errno(fs.rename("/a", "/a/b/c/d").await), 22);
        assert_eq!(errno(fs.rename("/a", "/a/b").await), 22);
        fs.symlink("/a/b", "/s").await.unwrap();
        assert_eq!(errno(fs.rename("/a", "/s/x").await), 22);
        let error = fs.rename("/missing", "/x").await.unwrap_err();
        assert_eq!(error.to_string(), "/missing -> /x: no such file or directory");
    });
}

#[test]
fn a_listing_comes_in_pages_without_loss() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        let dir = fs.mkdir("/d", 0o755).await.unwrap();
        for i in 0..2500 {
            dir.open(format!("n{i:04}"), &OpenOptions::new().write(true).create_new(true)).await.unwrap();
        }
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = fs.read_page("/d", after.as_deref(), 100).await.unwrap();
            assert!(page.entries.len() <= 100);
            names.extend(page.entries.into_iter().map(|entry| entry.name.into_string().unwrap()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let expected: Vec<String> = (0..2500).map(|i| format!("n{i:04}")).collect();
        assert_eq!(names, expected);
        assert_eq!(fs.remove_tree("/d").await.unwrap(), 2501);
        assert!(fs.lookup("/d").await.unwrap().is_none());
    });
}

#[test]
fn limits_have_their_errors() {
    rt::block_on(async {
        let (_, fs) = fresh().await;
        assert_eq!(errno(fs.mkdir("n".repeat(256), 0o755).await), 36);
        fs.mkdir("n".repeat(255), 0o755).await.unwrap();
        assert_eq!(errno(fs.symlink("t".repeat(4096), "/s").await), 36);
        fs.symlink("t".repeat(4095), "/s").await.unwrap();
        fs.write("/f", "").await.unwrap();
        let set = |name: String, bytes: usize| {
            let fs = fs.clone();
            async move { fs.set_xattr("/f", Follow::Yes, name, vec![1; bytes], SetXattr::Any).await }
        };
        assert_eq!(errno(set("x".repeat(256), 1).await), 34);
        assert_eq!(errno(set("x".into(), 65_537).await), 34);
        for i in 0..XATTRS_MAX {
            set(format!("user.{i}"), 10).await.unwrap();
        }
        assert_eq!(errno(set("user.more".into(), 1).await), 28);
        set("user.5".into(), 65_536).await.unwrap();
        fs.rename("/f", "/g").await.unwrap();
        assert_eq!(fs.list_xattrs("/g", Follow::Yes).await.unwrap().len(), XATTRS_MAX);
        let file = fs.open("/g", &OpenOptions::new()).await.unwrap();
        assert_eq!(errno(file.write(0, b"x").await), 9);
    });
}

#[test]
fn calls_of_one_mount_on_one_name_take_turns() {
    rt::block_on(async {
        let (memory, fs) = fresh().await;
        fs.mkdir("/d", 0o755).await.unwrap();
        let mut rng = rt::Rng::seeded(3);
        for _ in 0..200 {
            let calls = (0..6).map(|i| {
                let (fs, kind) = (fs.clone(), rng.below(5));
                async move {
                    let _ = match kind {
                        0 => fs.write("/d/f", format!("{i}")).await,
                        1 => fs.unlink("/d/f").await,
                        2 => fs.rename("/d/f", "/d/g").await,
                        3 => fs.rename("/d/g", "/d/f").await,
                        _ => match fs.rmdir("/d").await {
                            Ok(()) => fs.mkdir("/d", 0o755).await.map(drop),
                            Err(error) => Err(error),
                        },
                    };
                }
            });
            futures_util::future::join_all(calls).await;
        }
        let _ = fs.remove_tree("/d").await;
        assert_eq!(memory.objects().len(), 1, "nothing is left but the superblock: no file was lost on the way");
    });
}

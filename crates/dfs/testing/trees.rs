//! A local tree of odd things, and what copying it must keep.
//!
//! Shared by this crate's tests (store in memory) and those of `daos` (a whole system).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use dfs::compare::What;
use dfs::{Attributes, CopyOptions, Dfs, Dir, IfExists, Local, Timestamp, compare, copy_in, copy_out};

use super::oracle::{content, host_has_xattrs, host_tree};

/// Sizes where something changes: pages, checksum chunks, file chunks.
const SIZES: [usize; 12] =
    [0, 1, 4095, 4096, 4097, 32_768, 32_769, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20, 5 << 20];

/// Makes the tree; returns its numbers of files, directories (with the root) and symbolic links.
pub fn make(root: &Path) -> (u64, u64, u64) {
    let (mut files, mut directories, mut symlinks) = (0, 1, 0);
    let mut file = |path: &Path, bytes: usize, mode: u32| {
        std::fs::write(path, content(bytes, files)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        set_time(path, Timestamp::new(1_000_000_000 + files as i64, 123_456_789));
        files += 1;
    };
    for bytes in SIZES {
        file(&root.join(format!("size {bytes}")), bytes, 0o644);
    }
    let odd: [&[u8]; 9] =
        [b" ", b"-rf", b"a\nb", b"\xff\xfe", "h\u{e9}llo \u{1f600}".as_bytes(), b"*?[", b"...", b"'\"\\", &[b'n'; 255]];
    for name in odd {
        file(&root.join(OsStr::from_bytes(name)), 10, 0o600);
    }
    for mode in [0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1666] {
        file(&root.join(format!("mode {mode:o}")), 5, mode);
    }
    for (path, mode) in [("empty dir", 0o755), ("d", 0o750), ("d/e", 0o2775), ("d/e/f", 0o1777), ("\u{fc}", 0o700)] {
        std::fs::create_dir(root.join(path)).unwrap();
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        directories += 1;
    }
    for i in 0..40 {
        file(&root.join(format!("d/e/{i}")), i * 100, 0o644);
    }
    file(&root.join("d/e/f/deep"), 100, 0o644);
    for (target, path) in [("size 1", "link"), ("../missing", "d/dangling"), ("/", "d/absolute"), (".", "\u{fc}/self")]
    {
        std::os::unix::fs::symlink(target, root.join(path)).unwrap();
        symlinks += 1;
    }
    // Holes: in the middle, and at the end.
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    sparse.write_all_at(b"middle", (3 << 20) + 5).unwrap();
    sparse.set_len(9 << 20).unwrap();
    let hole = std::fs::File::create(root.join("only a hole")).unwrap();
    hole.set_len((4 << 20) + 3).unwrap();
    files += 2;
    if host_has_xattrs(root) {
        let set = |path: &str, name: &str, value: &[u8]| {
            rustix::fs::setxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
        };
        set("size 1", "user.one", b"1");
        set("size 1", "user.empty", b"");
        set("size 5242880", "user.large", &[7; 2000]);
        set("d/e", "user.of a directory", b"\0\xff");
    }
    for path in ["d/e/f", "d/e", "d", "empty dir"] {
        set_time(&root.join(path), Timestamp::new(900_000_000, 5));
    }
    (files, directories, symlinks)
}

fn set_time(path: &Path, time: Timestamp) {
    let time = rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn modified(path: &Path) -> std::time::SystemTime {
    std::fs::symlink_metadata(path).unwrap().modified().unwrap()
}

/// A tree goes in and comes out again; nothing is lost on either way, and comparing tells.
pub async fn goes_in_and_comes_out(fs: &Dfs) {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, out) = (source.path(), out.path().join("new/place"));
    let (files, directories, symlinks) = make(source);
    let local = Local::new().unwrap();
    let options = CopyOptions::default();

    let report = copy_in(&local, source, fs, "/into/here", &options).await.unwrap();
    assert_eq!((report.files, report.directories, report.symlinks), (files, directories, symlinks));
    assert_eq!((report.skipped, report.xattrs_skipped), (0, 0));
    let found = compare(&local, source, fs, "/into/here", &options).await.unwrap();
    assert!(found.is_same(), "{:#?}", found.differences);
    assert_eq!((found.files, found.directories, found.symlinks), (files, directories, symlinks));

    let report = copy_out(fs, "/into/here", &local, &out, &options).await.unwrap();
    assert_eq!((report.files, report.directories, report.symlinks), (files, directories, symlinks));
    assert_eq!(host_tree(&out), host_tree(source));
    for path in ["size 0", "size 5242880", "d/e", "d/e/f", "link", "empty dir", ""] {
        assert_eq!(modified(&out.join(path)), modified(&source.join(path)), "time of '{path}'");
    }

    // Once more over what is there: the same again, and with `skip_unchanged` nothing to do.
    copy_out(fs, "/into/here", &local, &out, &options).await.unwrap();
    assert_eq!(host_tree(&out), host_tree(source));
    copy_in(&local, source, fs, "/into/here", &options).await.unwrap();
    let skip = CopyOptions { skip_unchanged: true, ..CopyOptions::default() };
    let report = copy_in(&local, source, fs, "/into/here", &skip).await.unwrap();
    assert_eq!((report.files, report.unchanged, report.bytes), (0, files, 0));
    let found = compare(&local, source, fs, "/into/here", &options).await.unwrap();
    assert!(found.is_same(), "{:#?}", found.differences);
}

/// Each way in which two trees can differ is found, and named.
pub async fn differences_are_found(fs: &Dfs) {
    let source = tempfile::tempdir().unwrap();
    let source = source.path();
    make(source);
    let (local, options) = (Local::new().unwrap(), CopyOptions::default());
    copy_in(&local, source, fs, "/copy", &options).await.unwrap();
    let copy: Dir = fs.open_dir("/copy").await.unwrap();

    let at = |path: &str| path.to_string();
    let mut expected = Vec::new();
    copy.unlink("size 1").await.unwrap();
    expected.push((at("size 1"), What::OnlyLocal));
    copy.symlink("x", "new").await.unwrap();
    expected.push((at("new"), What::OnlyDfs));
    copy.chmod("size 4096", 0o600).await.unwrap();
    expected.push((at("size 4096"), What::Mode { local: 0o644, dfs: 0o600 }));
    let stat = copy.stat("size 5242880").await.unwrap();
    let file = copy.open("size 5242880", &dfs::OpenOptions::new().write(true)).await.unwrap();
    let at_byte = (3 << 20) + 77;
    let byte = file.read(at_byte, 1).await.unwrap()[0];
    file.write(at_byte, &[byte ^ 1]).await.unwrap();
    copy.utimens("size 5242880", None, Some(stat.modified)).await.unwrap();
    expected.push((at("size 5242880"), What::Content { at: at_byte }));
    copy.utimens("d/e/f/deep", None, Some(Timestamp::new(5, 0))).await.unwrap();
    expected.push((at("d/e/f/deep"), What::Modified));
    copy.unlink("link").await.unwrap();
    copy.symlink("size 0", "link").await.unwrap();
    expected.push((at("link"), What::Target));
    expected.push((at("link"), What::Modified));
    copy.rmdir("empty dir").await.unwrap();
    copy.write("empty dir", "a file now").await.unwrap();
    expected.push((at("empty dir"), What::Kind));
    let stat = copy.stat("size 32768").await.unwrap();
    let file = copy.open("size 32768", &dfs::OpenOptions::new().write(true)).await.unwrap();
    file.truncate(32_767).await.unwrap();
    copy.utimens("size 32768", None, Some(stat.modified)).await.unwrap();
    expected.push((at("size 32768"), What::Bytes { local: 32_768, dfs: 32_767 }));
    copy.set_xattr("size 0", dfs::Follow::Yes, "user.more", "1", dfs::SetXattr::Any).await.unwrap();
    expected.push((at("size 0"), What::Xattr { name: b"user.more".to_vec() }));

    let found = compare(&local, source, fs, "/copy", &options).await.unwrap();
    // Directories' times follow what was done in them.
    let mut found: Vec<_> = found
        .differences
        .into_iter()
        .map(|difference| (difference.path.display().to_string(), difference.what))
        .filter(|(path, what)| !(matches!(path.as_str(), "" | "d/e/f") && *what == What::Modified))
        .collect();
    found.sort_by_key(|(path, what)| (path.clone(), format!("{what:?}")));
    expected.sort_by_key(|(path, what)| (path.clone(), format!("{what:?}")));
    assert_eq!(found, expected);
}

/// What is no file, directory or link stays out and is named; a file in a directory's place is an
/// error that names it; single files go where they are told.
pub async fn the_rest_is_told(fs: &Dfs) {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (local, options) = (Local::new().unwrap(), CopyOptions::default());
    let pipe = source.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    std::fs::create_dir(source.path().join("dir")).unwrap();
    std::fs::write(source.path().join("file"), "content").unwrap();
    let report = copy_in(&local, source.path(), fs, "/rest", &options).await.unwrap();
    assert_eq!((report.skipped, report.skipped_paths), (1, vec![pipe.display().to_string()]));
    assert!(compare(&local, source.path(), fs, "/rest", &options).await.unwrap().is_same());

    fs.rmdir("/rest/dir").await.unwrap();
    fs.write("/rest/dir", "in the way").await.unwrap();
    let error = copy_in(&local, source.path(), fs, "/rest", &options).await.unwrap_err();
    assert_eq!((error.errno(), error.path), (20, source.path().join("dir").display().to_string()));
    assert_eq!(fs.read("/rest/file").await.unwrap(), b"content");
    let error = copy_in(&local, source.path().join("missing"), fs, "/rest", &options).await.unwrap_err();
    assert_eq!(error.errno(), 2);

    copy_in(&local, source.path().join("file"), fs, "/rest", &options).await.unwrap();
    copy_in(&local, source.path().join("file"), fs, "/rest/renamed", &options).await.unwrap();
    assert_eq!(fs.read("/rest/renamed").await.unwrap(), b"content");
    copy_out(fs, "/rest/renamed", &local, out.path(), &options).await.unwrap();
    copy_out(fs, "/rest/renamed", &local, out.path().join("again"), &options).await.unwrap();
    assert_eq!(std::fs::read(out.path().join("renamed")).unwrap(), b"content");
    assert_eq!(std::fs::read(out.path().join("again")).unwrap(), b"content");

    // A link that lies where a directory is to be made is not followed out of the destination.
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), out.path().join("sub")).unwrap();
    fs.mkdir_all("/tree/sub", 0o755).await.unwrap();
    fs.create_with("/tree/sub/f", &Attributes::mode(0o644), "x", IfExists::Fail).await.unwrap();
    let error = copy_out(fs, "/tree", &local, out.path(), &options).await.unwrap_err();
    assert_eq!((error.errno(), error.path), (20, out.path().join("sub").display().to_string()));
    assert!(std::fs::read_dir(elsewhere.path()).unwrap().next().is_none());
}

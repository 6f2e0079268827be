//! `daos quickstart`, end to end.

mod support;

use std::path::Path;

use support::{DAOS, run_in, small_tree};

/// Runs each of the commands that the summary suggests, as written.
fn try_what_it_suggests(at: &Path, response: &serde_json::Value) {
    let next = response["next"].as_array().unwrap();
    assert_eq!(next.len(), 3, "{response}");
    for command in next {
        let command = command.as_str().unwrap();
        let output = std::process::Command::new("sh").args(["-c", command]).current_dir(at).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert!(!output.stdout.is_empty(), "{command} says nothing");
    }
}

#[test]
fn quickstart_works_twice_and_its_suggestions_work() {
    let at = tempfile::tempdir().unwrap();
    let tree = small_tree(at.path());
    // As cargo leaves it: what can be made again stays out.
    std::fs::create_dir(tree.join("target")).unwrap();
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n";
    std::fs::write(tree.join("target/CACHEDIR.TAG"), tag).unwrap();
    let first = run_in(at.path(), DAOS, &["quickstart", tree.to_str().unwrap(), "--json"]).ok().json();
    assert!(at.path().join("daos-data").is_dir());
    let response = &first["response"];
    assert_eq!((response["run"].as_u64(), response["snapshot_intact"].as_bool()), (Some(1), Some(true)), "{first}");
    assert_eq!(response["files"], response["verified_files"]);
    let listed =
        run_in(at.path(), DAOS, &["--embedded", "daos-data", "fs", "ls", "daos://quickstart/files/run-1"]).ok();
    assert!(listed.stdout.contains("src/") && !listed.stdout.contains("target"), "{}", listed.stdout);
    try_what_it_suggests(at.path(), response);

    let second = run_in(at.path(), DAOS, &["quickstart", tree.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!(second["response"]["run"].as_u64(), Some(2), "{second}");
    assert_ne!(second["response"]["snapshot"], response["snapshot"]);
    try_what_it_suggests(at.path(), &second["response"]);
}

/// The README's first command, in the directory it stands in: the system's data lies in the tree that is stored,
/// and is not there yet when the tree is looked over. It once stored itself until its pool was full.
#[test]
fn quickstart_does_not_store_its_own_data_on_the_first_run() {
    let at = tempfile::tempdir().unwrap();
    let tree = small_tree(at.path());
    for run in 1..=2 {
        let ran = run_in(&tree, DAOS, &["quickstart", ".", "--json"]).ok().json();
        assert_eq!(ran["response"]["run"].as_u64(), Some(run), "{ran}");
        assert_eq!(ran["response"]["files"], ran["response"]["verified_files"]);
        let run = format!("daos://quickstart/files/run-{run}");
        let listed = run_in(&tree, DAOS, &["--embedded", "daos-data", "fs", "ls", &run]).ok();
        assert!(listed.stdout.contains("src/") && !listed.stdout.contains("daos-data"), "{}", listed.stdout);
    }
}

#[test]
fn quickstart_for_people_ends_with_a_summary() {
    let at = tempfile::tempdir().unwrap();
    let tree = small_tree(at.path());
    let ran = run_in(at.path(), DAOS, &["quickstart", tree.to_str().unwrap(), "--path", "here"]).ok();
    for word in ["files", "MB/s", "snapshot", "Next"] {
        assert!(ran.stdout.contains(word), "{word} is not in {}", ran.stdout);
    }
    assert!(at.path().join("here").is_dir());
}

#[test]
fn quickstart_through_a_server_leaves_no_server_behind() {
    let at = tempfile::tempdir().unwrap();
    let tree = small_tree(at.path());
    let ran = run_in(at.path(), DAOS, &["quickstart", tree.to_str().unwrap(), "--server", "--json"]).ok().json();
    assert_eq!(ran["response"]["mode"], "server");
    try_what_it_suggests(at.path(), &ran["response"]);
    let again = run_in(at.path(), DAOS, &["quickstart", tree.to_str().unwrap(), "--server", "--json"]).ok().json();
    assert_eq!(again["response"]["run"].as_u64(), Some(2));
}

#[test]
fn quickstart_without_a_source_says_what_to_give() {
    let at = tempfile::tempdir().unwrap();
    run_in(at.path(), DAOS, &["quickstart"]).failed(1).says("remedy: ").says("SOURCE_DIR");
    run_in(at.path(), DAOS, &["quickstart", "absent"]).failed(1).says("absent");
    assert!(!at.path().join("daos-data").exists());
}

#[test]
fn quickstart_with_several_servers_loses_one_and_nothing_else() {
    let at = tempfile::tempdir().unwrap();
    let tree = small_tree(at.path());
    let arguments = ["quickstart", "--servers", "3", tree.to_str().unwrap(), "--json"];
    let ran = run_in(at.path(), DAOS, &arguments).ok().json();
    let response = &ran["response"];
    let number = |name: &str| response[name].as_u64().unwrap_or_else(|| panic!("{name} is not in {ran}"));
    assert_eq!((number("servers"), number("copies"), number("run")), (3, 3, 1));
    assert!((1..=number("bytes")).contains(&number("killed_after_bytes")), "it was not killed in the copy: {ran}");
    assert_eq!(number("verified_files_without"), number("files"));
    assert_eq!((number("verified_files"), response["mode"].as_str()), (number("files"), Some("servers")));
    // Another run among it.
    try_what_it_suggests(at.path(), response);
    no_server_is_left(&at.path().join("daos-servers"), 3);
    // Neither goes on with what is the other's.
    let path = ["--path", "daos-servers", tree.to_str().unwrap()];
    for options in [&["quickstart"][..], &["quickstart", "--server"], &["quickstart", "--servers", "2"]] {
        let words: Vec<&str> = options.iter().chain(&path).copied().collect();
        run_in(at.path(), DAOS, &words).failed(1).says("holds a system of").says("--servers 3");
    }
    run_in(at.path(), DAOS, &["quickstart", "--servers", "3", "--path", "tree", "tree/src"]).failed(1).says("--path");
    run_in(at.path(), DAOS, &["quickstart", "--servers", "1"]).failed(2);
}

/// Servers of a quickstart end with it, however it ends: asked to, with a word; killed, without one.
#[test]
fn quickstart_that_is_broken_off_leaves_no_server_and_goes_on_later() {
    let at = tempfile::tempdir().unwrap();
    let tree = small_tree(at.path());
    let data = at.path().join("daos-servers");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let mut command = std::process::Command::new(DAOS);
        command.args(["quickstart", "--servers", "2"]).arg(&tree).current_dir(at.path());
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        // The second joins when the first serves: it is in the middle of things.
        let begun = (0..2000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            data.join("server-1.sock").exists()
        });
        assert!(begun, "the second server is not started");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        match signal {
            rustix::process::Signal::INT => {
                assert!(output.status.code() == Some(1) && said.contains("interrupted"), "{:?}: {said}", output.status);
            }
            _ => assert!(output.status.code().is_none()),
        }
        no_server_is_left(&data, 2);
    }
    let ran = run_in(at.path(), DAOS, &["quickstart", "--servers", "2", tree.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!(ran["response"]["files"], ran["response"]["verified_files"]);
}

/// Their sockets go with them.
fn no_server_is_left(data: &Path, count: usize) {
    let is_there =
        || (0..count).any(|n| std::os::unix::net::UnixStream::connect(data.join(format!("server-{n}.sock"))).is_ok());
    let gone = (0..3000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        !is_there()
    });
    assert!(gone, "a server is left behind in {}", data.display());
}

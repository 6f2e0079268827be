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

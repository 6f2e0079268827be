//! Things asked wrongly, or at the wrong time: each gets a cause, a remedy, and nothing is lost.

mod support;

use std::path::Path;

use support::{DAOS, Reach, Server, run};

/// An embedded system with a pool `tank` of `size` and a POSIX container `files`.
fn system(at: &Path, size: &str) -> Reach {
    let reach = Reach::embedded(&at.join("system"));
    reach.dmg(&["pool", "create", "tank", "--size", size]).ok();
    reach.daos(&["container", "create", "tank", "files", "--type", "POSIX"]).ok();
    reach
}

#[test]
fn unknown_labels_suggest_the_nearest() {
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "256MiB");
    reach.daos(&["pool", "query", "tnak"]).failed(1).says("no pool 'tnak'").says("did you mean 'tank'?");
    reach.dmg(&["pool", "destroy", "tan"]).failed(1).says("did you mean 'tank'?");
    reach.daos(&["container", "query", "tank", "flies"]).failed(1).says("did you mean 'files'?");
    reach.daos(&["container", "destroy", "tank", "file"]).failed(1).says("did you mean 'files'?");
    reach.daos(&["kv", "get", "tank", "files", "nothing"]).failed(1).says("no key 'nothing'").says("remedy: ");
    reach.dmg(&["pool", "get-prop", "tank", "lable"]).failed(1).says("did you mean 'label'?");
    reach.daos(&["fs", "ls", "daos://tank/files/none"]).failed(1).says("/none");
}

#[test]
fn duplicate_labels_are_refused() {
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "256MiB");
    reach.dmg(&["pool", "create", "tank", "--size", "256MiB"]).failed(1).says("tank").says("DER_EXIST");
    reach.dmg(&["pool", "create", "tank", "--size", "100TB"]).failed(1).says("DER_EXIST");
    reach.daos(&["container", "create", "tank", "files"]).failed(1).says("files").says("DER_EXIST");
    reach.daos(&["container", "create-snap", "tank", "files", "one"]).ok();
    reach.daos(&["container", "create-snap", "tank", "files", "one"]).failed(1).says("one").says("DER_EXIST");
}

#[test]
fn more_copies_than_servers_are_refused_with_what_is_possible() {
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "256MiB");
    let create = |arguments: &[&str]| {
        let words: Vec<&str> = ["container", "create", "tank", "more"].iter().chain(arguments).copied().collect();
        reach.daos(&words)
    };
    let refused = create(&["--oclass", "RP_3GX"]).failed(1);
    refused.says("class RP_3GX needs 3 fault domains").says("the pool has 1").says("use SX");
    let refused = create(&["--properties", "rd_fac:2"]).failed(1);
    refused.says("redundancy factor 2 needs 3 fault domains, and the pool has 1").says("use rd_fac:0 or less");
    create(&["--properties", "oclass:RP_7GX"]).failed(1).says("'RP_7GX' is not an object class");
    create(&["--oclass", "S2"]).ok();
    reach.daos(&["kv", "put", "tank", "more", "key", "value"]).ok();
    let objects = reach.daos(&["object", "list", "tank", "more", "--json"]).ok().json();
    let oid = objects["response"]["objects"][0]["oid"].as_str().unwrap().to_string();
    reach.daos(&["object", "query", "tank", "more", &oid]).ok();
}

#[test]
fn a_pool_with_containers_is_destroyed_on_purpose_only() {
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "256MiB");
    reach.dmg(&["pool", "destroy", "tank"]).failed(1).says("--recursive");
    reach.dmg(&["pool", "destroy", "tank", "--recursive"]).ok();
}

#[test]
fn a_pool_larger_than_the_device_is_refused_and_reserves_nothing() {
    let at = tempfile::tempdir().unwrap();
    let server = Server::start(&at.path().join("storage"));
    let ran = server.reach().dmg(&["pool", "create", "huge", "--size", "100TB"]).failed(1);
    ran.says("DER_NOSPACE").says("remedy: ");
    server.reach().dmg(&["pool", "create", "tank", "--size", "80%"]).ok();
}

#[test]
fn one_process_at_a_time_opens_an_embedded_system() {
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "256MiB");
    // A put that waits for its value on stdin holds the system open.
    let mut holder = std::process::Command::new(DAOS)
        .args(&reach.0)
        .args(["kv", "put", "tank", "files", "key"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let refused = (0..200).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let ran = reach.daos(&["pool", "list"]);
        (ran.status != 0).then_some(ran)
    });
    drop(holder.stdin.take());
    holder.wait().unwrap();
    refused.expect("the second process is refused").failed(1).says("remedy: ").says("system");
    reach.daos(&["pool", "list"]).ok();
}

#[test]
fn a_path_without_a_system_stays_without_one() {
    let at = tempfile::tempdir().unwrap();
    let nowhere = at.path().join("nowhere");
    Reach::embedded(&nowhere).daos(&["pool", "list"]).failed(1).says("no embedded system").says("dmg --embedded");
    assert!(!nowhere.exists());
}

/// The pool fills in the middle of a copy. The error names the pool and the space, what was
/// acknowledged is readable, and deleting makes room.
#[test]
fn a_full_pool_in_mid_copy_says_so_and_deleting_makes_room() {
    const FILES: usize = 80;
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "64MiB");
    let source = at.path().join("much");
    std::fs::create_dir(&source).unwrap();
    for i in 0..FILES {
        let block: Vec<u8> = (0..1u32 << 18).flat_map(|n| (n ^ (i as u32) << 20).to_le_bytes()).collect();
        std::fs::write(source.join(format!("file-{i:02}")), block).unwrap();
    }
    let much = source.to_str().unwrap();
    let ran = reach.daos(&["fs", "copy", much, "daos://tank/files/much"]).failed(1);
    ran.says("tank").says("DER_NOSPACE").says("remedy: ");

    let listed = reach.daos(&["fs", "ls", "daos://tank/files/much", "--json"]).ok().json();
    let whole: Vec<String> = listed["response"]["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["size"] == 1 << 20)
        .map(|e| e["name"].as_str().unwrap().to_string())
        .collect();
    assert!(!whole.is_empty() && whole.len() < FILES, "{listed}");
    let out = at.path().join("out");
    for name in whole.iter().take(5) {
        reach.daos(&["fs", "copy", &format!("daos://tank/files/much/{name}"), out.to_str().unwrap()]).ok();
        assert!(std::fs::read(&out).unwrap() == std::fs::read(source.join(name)).unwrap(), "{name} differs");
        std::fs::remove_file(&out).unwrap();
    }
    reach.daos(&["fs", "rm", "-r", "daos://tank/files/much"]).ok();
    let small = source.join("file-00");
    for i in 0..10 {
        reach.daos(&["fs", "copy", small.to_str().unwrap(), &format!("daos://tank/files/again-{i}")]).ok();
    }
}

#[test]
fn keys_and_values_over_the_limit_are_refused() {
    let at = tempfile::tempdir().unwrap();
    let reach = system(at.path(), "256MiB");
    let long = "k".repeat(2000);
    reach.daos(&["kv", "put", "tank", "files", &long, "v"]).failed(1).says("DER_KEY2BIG");
    reach.daos(&["kv", "put", "tank", "files", "", "v"]).failed(1).says("at least one byte");
    let file = at.path().join("large");
    std::fs::File::create(&file).unwrap().set_len((16 << 20) + 1).unwrap();
    let ran = reach.daos(&["kv", "put", "tank", "files", "key", "--file", file.to_str().unwrap()]).failed(1);
    ran.says("DER_REC2BIG").says("remedy: ");
}

#[test]
fn help_and_mistyped_commands_are_kind() {
    let help = run(DAOS, &["--help"]).ok();
    assert!(help.stdout.contains("quickstart") && help.stdout.contains("filesystem"), "{}", help.stdout);
    run(DAOS, &["contaner", "list"]).failed(2).says("container");
    run(DAOS, &["pool", "query"]).failed(2).says("Usage");
    let version = run(DAOS, &["version"]).ok();
    assert!(version.stdout.starts_with("daos version "), "{}", version.stdout);
}

/// `daos ... | head -1` ends quietly.
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = std::process::Command::new(DAOS)
        .args(["completion", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn completions_and_man_pages_come_from_the_flag_table() {
    let at = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(DAOS, &["completion", shell]).ok().stdout.contains("quickstart"));
    }
    run(DAOS, &["manpage", "-o", at.path().to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(at.path().join("daos-filesystem-copy.1")).unwrap();
    assert!(page.contains("snap"), "{page}");
}

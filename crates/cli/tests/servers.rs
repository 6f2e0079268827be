//! Several servers, as an administrator sees them: real processes, and the commands.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{DDB, Ran, Reach, Server, run};

/// How long anything may take to come about before the test calls it lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A system of `count` servers, each with two targets; the first is rank 0.
fn system(at: &Path, count: u32) -> Vec<Server> {
    let first = Server::start(&at.join("storage0"));
    let mut servers = vec![first];
    for number in 1..count {
        let next = servers[0].start_joining(&at.join(format!("storage{number}")));
        servers.push(next);
    }
    servers
}

/// `dmg` with `--json`, and its response.
#[track_caller]
fn dmg(reach: &Reach, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    reach.dmg(&words).ok().json()["response"].clone()
}

/// Asks until the answer is as it is wanted.
#[track_caller]
fn until(reach: &Reach, words: &[&str], is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let answer = dmg(reach, words);
        if is_so(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{words:?}: {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The states of a rank's targets in the pool.
#[track_caller]
fn states_become(reach: &Reach, rank: &str, wanted: &[&str]) {
    until(reach, &["pool", "query-targets", "tank", "--rank", rank], |targets| {
        let states: Vec<_> =
            targets["infos"].as_array().unwrap().iter().map(|info| info["target_state"].clone()).collect();
        states == wanted
    });
}

#[track_caller]
fn refused(ran: Ran, cause: &str, remedy: &str) {
    ran.failed(1).says(cause).says(remedy);
}

/// A pool on one of two servers is given the other; what is drained there moves, and comes back.
#[test]
fn a_pool_grows_and_its_targets_come_and_go_as_an_administrator_wants_it() {
    let at = tempfile::tempdir().unwrap();
    let servers = system(at.path(), 2);
    let reach = servers[0].reach();
    let made = dmg(&reach, &["pool", "create", "tank", "--size", "128MiB", "--ranks", "0"]);
    assert_eq!(made["tgt_ranks"], json!([0]));
    refused(
        reach.dmg(&["pool", "create", "more", "--size", "128MiB", "--nranks", "3"]),
        "2 take part",
        "ask for 1 or more",
    );
    refused(
        reach.dmg(&["pool", "create", "more", "--size", "128MiB", "--ranks", "7"]),
        "no rank 7",
        "dmg system query",
    );
    reach.daos(&["container", "create", "tank", "data"]).ok();
    for key in ["one", "two", "three", "four", "five"] {
        reach.daos(&["kv", "put", "tank", "data", key, "value"]).ok();
    }

    refused(reach.dmg(&["pool", "extend", "tank", "--ranks", "5"]), "no rank 5", "dmg system query");
    refused(reach.dmg(&["pool", "extend", "tank", "--ranks", "0"]), "rank 0 is in pool 'tank' already", "reintegrate");
    refused(reach.dmg(&["pool", "exclude", "tnak", "--ranks", "0"]), "no pool 'tnak'", "did you mean 'tank'");
    let wider = dmg(&reach, &["pool", "extend", "tank", "--ranks", "1"]);
    assert_eq!((&wider["ranks"], &wider["total_targets"]), (&json!([0, 1]), &json!(4)));
    states_become(&reach, "1", &["up_in", "up_in"]);

    dmg(&reach, &["pool", "drain", "tank", "--ranks", "0", "--target-idx", "1"]);
    states_become(&reach, "0", &["up_in", "down_out"]);
    for key in ["one", "two", "three", "four", "five"] {
        let got = reach.daos(&["kv", "get", "tank", "data", key]).ok();
        assert_eq!(got.stdout.trim(), "value", "{key}");
    }
    refused(reach.dmg(&["pool", "reintegrate", "tank", "--ranks", "1"]), "it is in service", "nothing to do");
    refused(reach.dmg(&["pool", "exclude", "tank", "--ranks", "1"]), "data would be out of reach", "--force");
    let back = dmg(&reach, &["system", "reintegrate", "--ranks", "0"]);
    assert_eq!((&back["responses"][0]["pool"], &back["responses"][0]["error"]), (&json!("tank"), &Value::Null));
    states_become(&reach, "0", &["up_in", "up_in"]);
    for key in ["one", "two", "three", "four", "five"] {
        reach.daos(&["kv", "get", "tank", "data", key]).ok();
    }
}

/// What cannot be is said with its cause and what to do about it: ranks that there are not, and more copies than servers that
/// fail apart.
#[test]
fn ranks_that_there_are_not_and_copies_that_have_no_place_are_refused_with_a_remedy() {
    let at = tempfile::tempdir().unwrap();
    let servers = system(at.path(), 2);
    let reach = servers[0].reach();
    dmg(&reach, &["pool", "create", "tank", "--size", "128MiB"]);
    for words in [
        &["pool", "create", "more", "--size", "64MiB", "--ranks", "9"][..],
        &["pool", "extend", "tank", "--ranks", "9"],
        &["system", "exclude", "--ranks", "9"],
        &["system", "stop", "--ranks", "9"],
        &["system", "drain", "--ranks", "9"],
        &["server", "set-logmasks", "--masks", "INFO", "--ranks", "9"],
    ] {
        refused(reach.dmg(words), "no rank 9", "see `dmg system query`");
    }
    for words in [
        &["pool", "exclude", "tank", "--ranks", "9"][..],
        &["pool", "drain", "tank", "--ranks", "9"],
        &["pool", "reintegrate", "tank", "--ranks", "9"],
        &["pool", "give-up", "tank", "--ranks", "9"],
        &["pool", "query-targets", "tank", "--rank", "9"],
    ] {
        refused(reach.dmg(words), "rank 9 is not in pool 'tank'", "see `dmg pool query tank`");
    }
    refused(
        reach.dmg(&["pool", "create", "deep", "--size", "64MiB", "--properties", "rd_fac:2"]),
        "redundancy factor 2 needs 3 fault domains, and the pool's servers are in 2",
        "use rd_fac:1 or less, or servers that fail apart",
    );
    refused(
        reach.daos(&["container", "create", "tank", "deep", "--properties", "rd_fac:2"]),
        "redundancy factor 2 needs 3 fault domains, and the pool has 2",
        "use rd_fac:1 or less, or add servers to the pool",
    );
    refused(
        reach.daos(&["container", "create", "tank", "wide", "--properties", "oclass:RP_3G1"]),
        "RP_3G1 needs 3 fault domains",
        "remedy",
    );
    refused(
        reach.daos(&["container", "create", "tank", "thin", "--oclass", "S1", "--properties", "rd_fac:1"]),
        "objects of class S1 survive the loss of 0 fault domains, and rd_fac:1 promises more",
        "name class RP_2G1, or use rd_fac:0",
    );
    let quiet = reach.daos(&["container", "create", "tank", "copied", "--oclass", "RP_2G1"]).ok();
    assert!(!quiet.stdout.contains("one copy"), "{quiet:?}");
    // Nobody was asked, and it is for good.
    let told = reach.daos(&["container", "create", "tank", "single"]).ok();
    assert!(told.stdout.contains("rd_fac:1"), "{told:?}");
    reach.daos(&["kv", "put", "tank", "copied", "key", "value"]).ok();
    let objects = reach.daos(&["object", "list", "tank", "copied"]).ok().stdout;
    assert!(objects.contains("RP_2G1"), "{objects}");
    refused(
        reach.dmg(&["pool", "rebuild", "stop", "tank"]),
        "nothing is being rebuilt in pool 'tank'",
        "dmg pool set-prop tank self_heal:exclude",
    );
}

/// What is logged changes while a server runs, on all of them or on one, and comes back to what it was.
#[test]
fn log_masks_change_in_running_servers() {
    let at = tempfile::tempdir().unwrap();
    let mut servers = system(at.path(), 2);
    let reach = servers[0].reach();
    let set = dmg(&reach, &["server", "set-logmasks", "-m", "ERR,engine=INFO"]);
    assert_eq!(set["ranks"], json!([{ "rank": 0, "error": null }, { "rank": 1, "error": null }]));
    dmg(&reach, &["server", "set-logmasks", "-m", "OFF", "--ranks", "0"]);
    reach.dmg(&["server", "set-logmasks", "-m", "LOUD"]).failed(2).says("'LOUD' is no level");
    let (second, first) = (servers.pop().unwrap(), servers.pop().unwrap());
    let (_, log) = first.stop();
    assert!(log.contains("the log's masks were changed"), "{log}");
    assert!(!log.contains("stopped"), "it logs nothing any more: {log}");
    drop(second);
}

/// Of a rank that is stopped the others know; it is shown, and serves again when it is started.
#[test]
fn a_rank_is_stopped_and_started() {
    let at = tempfile::tempdir().unwrap();
    let servers = system(at.path(), 2);
    let reach = servers[0].reach();
    dmg(&reach, &["pool", "create", "tank", "--size", "256MiB"]);
    reach.daos(&["container", "create", "tank", "files", "--type", "POSIX", "--properties", "rd_fac:1"]).ok();
    let tree = support::small_tree(at.path());
    let copy = |to: &str| reach.daos(&["filesystem", "copy", tree.to_str().unwrap(), to]).ok();
    let read = |path: &str| {
        let ran = reach.daos(&["filesystem", "cat", path]).ok();
        assert_eq!(ran.stdout.trim(), "# A small tree", "{path}");
    };
    copy("daos://tank/files/before");
    let stopped = dmg(&reach, &["system", "stop", "--ranks", "1"]);
    assert_eq!(stopped["results"], json!([{ "rank": 1, "state": "stopped" }]));
    let pool = until(&reach, &["pool", "query", "tank"], |pool| pool["disabled_targets"] == 2);
    assert_eq!(pool["dead_ranks"], json!([1]));
    // The other has copies of all, and goes on.
    copy("daos://tank/files/meanwhile");
    read("daos://tank/files/before/README.md");
    refused(
        reach.dmg(&["pool", "reintegrate", "tank", "--ranks", "1"]),
        "rank 1 does not take part",
        "dmg system start --ranks 1",
    );
    let started = dmg(&servers[1].reach(), &["system", "start"]);
    assert_eq!(started["results"][1], json!({ "rank": 1, "state": "joined" }));
    states_become(&reach, "1", &["up_in", "up_in"]);
    // All of it, and all is as it was.
    let map = until(&reach, &["pool", "query", "tank"], |pool| pool["rebuild"]["state"] == "idle")["version"].clone();
    dmg(&reach, &["system", "stop"]);
    dmg(&reach, &["system", "start"]);
    read("daos://tank/files/before/README.md");
    read("daos://tank/files/meanwhile/README.md");
    assert_eq!(dmg(&reach, &["pool", "query", "tank"])["version"], map, "nobody was taken for lost");
}

/// Two of three servers are gone for good, their storage too. What is left refuses commands, says who is missing, and goes on by
/// itself when `ddb` is told; what had three copies is all there.
#[test]
fn the_last_of_three_servers_goes_on_when_ddb_is_told_that_the_others_are_lost() {
    let at = tempfile::tempdir().unwrap();
    let mut servers = system(at.path(), 3);
    let reach = servers[0].reach();
    until(&reach, &["system", "leader-query"], |info| info["replicas"].as_array().unwrap().len() == 3);
    dmg(&reach, &["pool", "create", "tank", "--size", "384MiB"]);
    reach.daos(&["container", "create", "tank", "data", "--properties", "rd_fac:2"]).ok();
    for key in ["one", "two", "three", "four", "five"] {
        reach.daos(&["kv", "put", "tank", "data", key, key]).ok();
    }
    // The last of them is on all disks.
    std::thread::sleep(Duration::from_secs(1));
    for number in [2, 1] {
        servers.remove(number).kill();
        std::fs::remove_dir_all(at.path().join(format!("storage{number}"))).unwrap();
    }
    let storage = at.path().join("storage0");
    let ddb = |words: &[&str]| run(DDB, &[&[storage.to_str().unwrap(), "services"], words].concat());
    refused(ddb(&[]), "is in use", "stop that process first");
    servers.remove(0).kill();

    let tells = |words: &[&str], told: &str| {
        let table = ddb(words).ok().stdout;
        let rows = ["system", "pool tank"].map(|name| table.lines().find(|line| line.contains(name)).unwrap());
        assert!(rows.iter().all(|row| row.contains(told)), "{told:?}: {table}");
    };
    refused(ddb(&["tnak"]), "no replica of a service 'tnak'", "lists those that are");
    tells(&["--lost", "1"], "has a majority");
    tells(&["--lost", "1,2"], "lost its majority; left: 0");
    tells(&["--lost", "1,2", "--dictate"], "dictates, in term");
    tells(&["--lost", "1,2"], "has a majority");

    let server = Server::start(&storage);
    let reach = server.reach();
    until(&reach, &["system", "query"], |info| {
        let members = info["members"].as_array().unwrap();
        members[1..].iter().all(|member| member["state"] != "joined")
    });
    for key in ["one", "two", "three", "four", "five"] {
        let got = reach.daos(&["kv", "get", "tank", "data", key]).ok();
        assert_eq!(got.stdout.trim(), key);
        reach.daos(&["kv", "put", "tank", "data", key, "anew"]).ok();
    }
    reach.daos(&["container", "create", "tank", "more"]).ok();
}

/// Two of three servers die. The third was said not to be there, with the remedy to start one, though it knew what is wrong: it
/// says that there is no quorum, and whom to bring back. What it does by itself it goes on doing.
#[test]
fn a_server_without_a_quorum_says_so_and_whom_to_bring_back() {
    let at = tempfile::tempdir().unwrap();
    let mut servers = system(at.path(), 3);
    let reach = servers[0].reach();
    until(&reach, &["system", "leader-query"], |info| info["replicas"].as_array().unwrap().len() == 3);
    for number in [2, 1] {
        servers.remove(number).kill();
    }
    for words in [&["system", "query"][..], &["pool", "list"]] {
        let ran = reach.dmg(words);
        assert!(!ran.stderr.contains("no server at"), "{ran:?}");
        refused(ran, "no quorum for the system: of ranks 0, 1, 2 only 0 answer", "bring ranks 1, 2 back");
    }
    let set = dmg(&reach, &["server", "set-logmasks", "-m", "ERR", "--ranks", "0"]);
    assert_eq!(set["ranks"], json!([{ "rank": 0, "error": null }]));
}

/// One of two servers dies, and with it all of a pool. The list of pools, and with it the answer to every mistyped name, took as
/// long as a request may, and was an error: it is there at once, with what the system knows of that pool. Asked for by name, the
/// pool is said to have no quorum, not the system.
#[test]
fn a_pool_that_nobody_reaches_hides_no_other() {
    const AT_ONCE: Duration = Duration::from_secs(10);
    let at = tempfile::tempdir().unwrap();
    let mut servers = system(at.path(), 2);
    let reach = servers[0].reach();
    dmg(&reach, &["pool", "create", "here", "--size", "128MiB", "--ranks", "0"]);
    dmg(&reach, &["pool", "create", "there", "--size", "128MiB", "--ranks", "1"]);
    servers.remove(1).kill();
    let quickly = |words: &[&str]| {
        let begun = Instant::now();
        let ran = reach.dmg(words);
        assert!(begun.elapsed() < AT_ONCE, "{words:?} took {:?}", begun.elapsed());
        ran
    };
    let ran = quickly(&["pool", "list", "--json"]).ok();
    support::checked("dmg-pool-list", &ran);
    let pools = ran.json()["response"]["pools"].clone();
    let told = |pool: &Value| [&pool["label"], &pool["state"], &pool["containers"]].map(Clone::clone);
    assert_eq!(told(&pools[0]), [json!("here"), json!("Ready"), json!(0)]);
    assert_eq!(told(&pools[1]), [json!("there"), json!("Unreachable"), Value::Null]);
    assert_eq!(pools[1]["usage"][0]["size"], 128 << 20);
    assert!(quickly(&["pool", "list"]).ok().stdout.contains("Unreachable"));
    refused(quickly(&["pool", "query", "heer"]), "no pool 'heer'", "did you mean 'here'");
    refused(quickly(&["pool", "destroy", "there"]), "does not say whether it holds containers", "--recursive");
    refused(
        reach.dmg(&["pool", "query", "there"]),
        "no quorum for pool 'there': of ranks 1 none answers",
        "bring ranks 1 back",
    );
}

/// All servers are stopped, and asked is one that has no part of the pool: it looked for the pool's service among those that
/// serve, found nobody, and said that the system has no leader.
#[test]
fn what_stopped_servers_know_is_told_by_any_of_them() {
    let at = tempfile::tempdir().unwrap();
    let servers = system(at.path(), 2);
    let reach = servers[0].reach();
    dmg(&reach, &["pool", "create", "there", "--size", "128MiB", "--ranks", "1"]);
    dmg(&reach, &["system", "stop"]);
    assert_eq!(dmg(&reach, &["pool", "query", "there"])["ranks"], json!([1]));
    refused(
        reach.dmg(&["pool", "create", "more", "--size", "128MiB"]),
        "an administrator stopped them",
        "dmg system start",
    );
}

/// A pool of which nearly all is kept for rebuilds was "full" with most of it free, and the only remedy a larger one.
#[test]
fn a_pool_that_keeps_room_for_rebuilds_says_so_when_it_is_full() {
    let at = tempfile::tempdir().unwrap();
    let server = Server::start(&at.path().join("storage"));
    let reach = server.reach();
    dmg(&reach, &["pool", "create", "tank", "--size", "128MiB"]);
    reach.daos(&["container", "create", "tank", "data"]).ok();
    dmg(&reach, &["pool", "set-prop", "tank", "space_rb:99"]);
    let value = at.path().join("value");
    std::fs::write(&value, vec![7; 900_000]).unwrap();
    refused(
        reach.daos(&["kv", "put", "tank", "data", "key", "--file", value.to_str().unwrap()]),
        "beside are kept for rebuilds (space_rb)",
        "lower space_rb (`dmg pool set-prop`)",
    );
}

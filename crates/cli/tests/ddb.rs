//! `ddb` on the storage of a server that was killed: it tells everything, changes nothing, finds every flipped
//! bit, and mends what can be mended.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use support::{DDB, Ran, Server, run};

const BLOCK: u64 = 4096;
/// A value that lies in blocks rather than in the tree.
const LARGE: usize = 20_000;

/// Storage whose server was killed while its log held records to replay.
struct Lab {
    at: tempfile::TempDir,
}

impl Lab {
    /// Two containers, values small and large, a snapshot, an overwrite and a punch.
    fn new() -> Lab {
        let lab = Lab { at: tempfile::tempdir().unwrap() };
        let server = Server::start(&lab.storage());
        let reach = server.reach();
        reach.dmg(&["pool", "create", "tank", "--size", "512MiB"]).ok();
        for container in ["notes", "other"] {
            reach.daos(&["container", "create", "tank", container]).ok();
        }
        reach.daos(&["kv", "put", "tank", "notes", "greeting", "hello"]).ok();
        reach.daos(&["kv", "put", "tank", "notes", "large", &"x".repeat(LARGE)]).ok();
        reach.daos(&["kv", "put", "tank", "other", "large", &"y".repeat(LARGE)]).ok();
        reach.daos(&["container", "create-snap", "tank", "notes", "monday"]).ok();
        reach.daos(&["kv", "put", "tank", "notes", "greeting", "goodbye"]).ok();
        reach.daos(&["kv", "del", "tank", "notes", "greeting"]).ok();
        server.kill();
        lab.log_something();
        lab
    }

    /// Place and bytes of the newest copy of each page of a target.
    fn newest_pages(&self, target: u64) -> Vec<(u64, Vec<u8>)> {
        let mut pages: BTreeMap<u32, (u64, u64, Vec<u8>)> = BTreeMap::new();
        let data = File::open(self.storage().join(format!("target-{target}/data"))).unwrap();
        let mut page = vec![0; 8192];
        for at in (0..64 << 20).step_by(BLOCK as usize) {
            data.read_exact_at(&mut page, at).unwrap();
            let Ok(header) = media::decode_page(&page) else { continue };
            let age = header.checkpoint.get();
            if pages.get(&header.page.get()).is_none_or(|(known, ..)| *known < age) {
                pages.insert(header.page.get(), (age, at, page.clone()));
            }
        }
        pages.into_values().map(|(_, at, page)| (at, page)).collect()
    }

    /// A checkpoint may have come just before the kill: then there would be nothing to replay.
    fn log_something(&self) {
        for attempt in 0..10 {
            let records = self.json(&["log"])["targets"].as_array().unwrap().clone();
            if records.iter().any(|target| target["records"].as_array().unwrap().len() >= 4) {
                return;
            }
            let server = Server::start(&self.storage());
            for n in 0..8 {
                server.reach().daos(&["kv", "put", "tank", "other", &format!("late-{attempt}-{n}"), "late"]).ok();
            }
            server.kill();
        }
        panic!("a checkpoint comes before every kill");
    }

    fn storage(&self) -> PathBuf {
        self.at.path().join("storage")
    }

    fn ddb(&self, arguments: &[&str]) -> Ran {
        let storage = self.storage();
        let all: Vec<&str> = [storage.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
        run(DDB, &all)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        self.envelope(arguments)["response"].clone()
    }

    #[track_caller]
    fn envelope(&self, arguments: &[&str]) -> Value {
        let words: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        self.ddb(&words).json()
    }

    /// Path and target of a key's value, whichever target has it.
    fn value_path(&self, container: &str, key: &str) -> (String, u64) {
        let object = self.entries(&format!("/tank/{container}"));
        for (target, objects) in object {
            for object in objects {
                let path = format!("/tank/{container}/{}/{key}/0", object["name"].as_str().unwrap());
                let ran = self.ddb(&["--target", &target.to_string(), "ls", &path]);
                if ran.status == 0 {
                    return (path, target);
                }
            }
        }
        panic!("no {key} in {container}");
    }

    fn entries(&self, path: &str) -> Vec<(u64, Vec<Value>)> {
        let listed = self.json(&["ls", path]);
        let targets = listed["targets"].as_array().unwrap().iter();
        targets.map(|t| (t["target"].as_u64().unwrap(), t["entries"].as_array().unwrap().clone())).collect()
    }

    /// Flips a bit of a target's `file`.
    fn flip(&self, target: u64, file: &str, at: u64) {
        let path = self.storage().join(format!("target-{target}")).join(file);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }

    /// Every file below the storage: when it was last written, how long it is, and a checksum of it.
    fn image(&self) -> BTreeMap<PathBuf, (SystemTime, u64, u32)> {
        let mut image = BTreeMap::new();
        for entry in walkdir::WalkDir::new(self.storage()).into_iter().map(Result::unwrap) {
            let facts = entry.metadata().unwrap();
            let crc = if facts.is_file() { checksum(entry.path()) } else { 0 };
            image.insert(entry.path().to_owned(), (facts.modified().unwrap(), facts.len(), crc));
        }
        image
    }
}

/// Of all bytes of a file, holes skipped: they are most of it.
fn checksum(path: &Path) -> u32 {
    let file = File::open(path).unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut crcs = Vec::new();
    let mut at = 0;
    loop {
        let read = file.read_at(&mut chunk, at).unwrap();
        if read == 0 {
            return codec::checksum::crc32c(&crcs);
        }
        if chunk[..read].iter().any(|byte| *byte != 0) {
            crcs.extend_from_slice(&at.to_le_bytes());
            crcs.extend_from_slice(&codec::checksum::crc32c(&chunk[..read]).to_le_bytes());
        }
        at += read as u64;
    }
}

fn findings(checked: &Value) -> Vec<&Value> {
    checked["targets"].as_array().unwrap().iter().flat_map(|t| t["findings"].as_array().unwrap()).collect()
}

#[test]
fn looking_at_killed_storage_tells_everything_and_changes_nothing() {
    let lab = Lab::new();
    let before = lab.image();
    let info = lab.json(&[]);
    let targets = info["targets"].as_array().unwrap();
    assert_eq!((targets.len(), &targets[0]["store"]), (2, &targets[1]["store"]));
    assert!(targets.iter().any(|t| t["log_range"]["records"].as_u64() >= Some(4)), "{info}");
    assert_eq!(targets[0]["superblocks"].as_array().unwrap().len(), 2);

    for (_, pools) in lab.entries("/") {
        assert_eq!(pools[0]["label"], "tank");
        assert!(lab.ddb(&["ls", "/[0]"]).ok().stdout.contains("notes"));
    }
    let (greeting, target) = lab.value_path("notes", "greeting");
    let target = target.to_string();
    let versions = lab.json(&["--target", &target, "ls", &greeting]);
    let versions = versions["targets"][0]["entries"].as_array().unwrap();
    let first = versions.last().unwrap();
    assert_eq!((&first["kind"], &first["bytes"]), (&"single".into(), &5.into()), "the snapshot keeps it: {versions:?}");
    let dkey = greeting.strip_suffix("/0").unwrap();
    let punched = lab.json(&["--target", &target, "ls", dkey]);
    assert_eq!(punched["targets"][0]["entries"][0]["kind"], "punch");

    // The value of then is there, and now there is none.
    let epoch = first["epoch"].to_string();
    assert_eq!(lab.ddb(&["dump", &greeting, "--epoch", &epoch]).ok().stdout, "hello");
    lab.ddb(&["dump", &greeting]).failed(1).says("nothing is visible");
    let (large, _) = lab.value_path("notes", "large");
    let out = lab.at.path().join("out");
    lab.ddb(&["dump", &large, "--out", out.to_str().unwrap()]).ok();
    assert_eq!(fs::read(&out).unwrap(), "x".repeat(LARGE).as_bytes());
    assert_eq!(lab.json(&["dump", &large])["value"], "x".repeat(LARGE));

    let log = lab.ddb(&["log"]).ok().stdout;
    assert!(log.contains("update, container") && log.contains("inline @0x"), "{log}");
    let space = lab.json(&["space"]);
    for target in space["targets"].as_array().unwrap() {
        assert_eq!(target["reconciliation"]["agrees"], true, "{target}");
        assert_eq!(target["containers"].as_array().unwrap().len(), 2);
    }
    let checked = lab.json(&["check", "--data"]);
    assert!(checked["targets"].as_array().unwrap().iter().all(|t| t["clean"] == true), "{checked}");
    // Nothing is wrong, so there is nothing to write either.
    lab.ddb(&["check", "--repair"]).ok();
    let one = lab.storage().join("target-1");
    assert!(!run(DDB, &[one.to_str().unwrap(), "info"]).ok().stdout.contains("Target 0"), "one target is one target");
    assert!(before == lab.image(), "looking changed something");

    let server = Server::start(&lab.storage());
    lab.ddb(&["info"]).failed(1).says("in use by").says("stop that process");
    assert_eq!(server.reach().daos(&["kv", "get", "tank", "notes", "large"]).ok().stdout.len(), LARGE);
}

#[test]
fn a_value_that_rots_is_named_and_can_be_dropped() {
    let lab = Lab::new();
    let (path, target) = lab.value_path("notes", "large");
    let listed = lab.json(&["--target", &target.to_string(), "ls", &path]);
    let block = listed["targets"][0]["entries"][0]["blocks"][0]["block"].as_u64().unwrap();
    lab.flip(target, "data", block * BLOCK + 7000);
    let before = lab.image();

    lab.ddb(&["check"]).ok();
    let told = lab.ddb(&["check", "--data"]);
    let text = told.stdout.clone();
    told.failed(1).says("1 fault found").says("--repair");
    let envelope = lab.envelope(&["check", "--data"]);
    assert_eq!((&envelope["status"], envelope["error"].is_string()), (&(-2022).into(), true));
    let found = findings(&envelope["response"]);
    let place = path.strip_prefix("/tank/notes").unwrap().strip_suffix("/0").unwrap();
    assert_eq!((found.len(), &found[0]["kind"], &found[0]["label"]), (1, &"value".into(), &"notes".into()));
    assert!(found[0]["place"].as_str().unwrap().starts_with(place), "{found:?}");
    assert!(text.contains(&format!("blocks {block}+5")), "{text}");

    // The bytes are there for who wants them, and the others are good.
    let dumped = lab.ddb(&["dump", &path]);
    assert_eq!((dumped.stdout.len(), dumped.status), (LARGE, 1));
    dumped.says("damaged");
    let (other, _) = lab.value_path("other", "large");
    assert_eq!(lab.ddb(&["dump", &other]).ok().stdout, "y".repeat(LARGE));
    assert!(before == lab.image(), "checking changed something");

    lab.ddb(&["check", "--data", "--repair"]).failed(1).says("--drop-corrupt");
    assert!(before == lab.image(), "and neither did a repair that could do nothing");
    let repaired = lab.json(&["check", "--data", "--repair", "--drop-corrupt"]);
    let mended = repaired["targets"][target as usize]["repair"]["mended"].as_array().unwrap();
    assert!(mended.iter().any(|m| m["kind"] == "value" && m["is_loss"] == true), "{repaired}");
    lab.ddb(&["check", "--data"]).ok();
    let server = Server::start(&lab.storage());
    let reach = server.reach();
    reach.daos(&["kv", "get", "tank", "notes", "large"]).failed(1);
    assert_eq!(reach.daos(&["kv", "get", "tank", "other", "large"]).ok().stdout.trim_end().len(), LARGE);
    reach.daos(&["kv", "put", "tank", "notes", "large", "again"]).ok();
}

#[test]
fn a_log_that_rots_is_named_and_a_superblock_is_written_anew() {
    let lab = Lab::new();
    let log = lab.json(&["log"]);
    let targets = log["targets"].as_array().unwrap();
    let (target, records) = targets
        .iter()
        .map(|t| (t["target"].as_u64().unwrap(), t["records"].as_array().unwrap()))
        .max_by_key(|(_, records)| records.len())
        .unwrap();
    let lsn = records[records.len() - 3]["lsn"].as_u64().unwrap();
    let bytes = fs::metadata(lab.storage().join(format!("target-{target}/log"))).unwrap().len();
    lab.flip(target, "log", BLOCK + (lsn + 30) % (bytes - BLOCK));
    lab.flip(1 - target, "data", BLOCK + 20);
    lab.flip(1 - target, "log", 50);

    let ran = lab.ddb(&["log"]);
    assert!(ran.stdout.contains("cannot be read further"), "{ran:?}");
    ran.failed(1).says("acknowledged records follow");
    let checked = lab.json(&["check"]);
    let found = findings(&checked);
    let kinds: Vec<&str> = found.iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"log"), "{found:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "superblock").count(), 2, "and the header of the log: {found:?}");
    let listed = lab.ddb(&["ls", "/tank"]);
    assert!(listed.stdout.contains("notes"), "the rest can be read: {listed:?}");
    listed.failed(1).says("check");

    // Superblock and header come back from the other superblock; the log is the operator's to give up.
    lab.ddb(&["check", "--repair"]).failed(1).says("--drop-corrupt");
    let kinds: Vec<String> =
        findings(&lab.json(&["check"])).iter().map(|f| f["kind"].as_str().unwrap().to_string()).collect();
    assert_eq!(kinds, ["log"]);
    lab.ddb(&["check", "--repair", "--drop-corrupt"]).ok();
    lab.ddb(&["check", "--data"]).ok();
    let server = Server::start(&lab.storage());
    assert_eq!(server.reach().daos(&["kv", "get", "tank", "notes", "large"]).ok().stdout.trim_end().len(), LARGE);
}

/// A page of a tree, found by what it says of itself: kind 1 is a node, and its newest copy counts.
#[test]
fn a_page_that_rots_is_cut_out_and_the_rest_serves_on() {
    let lab = Lab::new();
    // A start replays the log, and a stop writes everything to pages.
    let server = Server::start(&lab.storage());
    server.reach().daos(&["kv", "put", "tank", "other", "small", "still here"]).ok();
    server.stop();
    let (path, target) = lab.value_path("notes", "large");
    let pages = lab.newest_pages(target);
    // The leaf that holds the key: it is in there as text.
    // Trees are numbered as containers were made, and `notes` was the first.
    let leaf = |page: &[u8]| page[16] == 1 && page[56] == 1 && page.windows(5).any(|bytes| bytes == b"large");
    let (at, _) = pages.iter().find(|(_, page)| leaf(page)).unwrap();
    lab.flip(target, "data", at + 8000);
    let checked = lab.json(&["check"]);
    let found = findings(&checked);
    assert!(
        found.iter().any(|f| f["kind"] == "page"
            && f["label"] == "notes"
            && f["place"].as_str().unwrap().ends_with(&format!("at block {}", at / BLOCK))),
        "{found:?}"
    );
    lab.ddb(&["ls", &path]).failed(1);
    let (other, _) = lab.value_path("other", "large");
    assert_eq!(lab.ddb(&["dump", &other]).ok().stdout, "y".repeat(LARGE));
    let repaired = lab.json(&["check", "--repair"]);
    let mended = repaired["targets"][target as usize]["repair"]["mended"].as_array().unwrap();
    let losses: Vec<&str> =
        mended.iter().filter(|m| m["is_loss"] == true).map(|m| m["deed"].as_str().unwrap()).collect();
    assert!(losses.len() == 1 && losses[0].contains("records from"), "{mended:?}");
    assert!(mended.iter().any(|m| m["kind"] == "leak"), "its blocks are free again: {mended:?}");
    lab.ddb(&["check", "--data"]).ok();
    let server = Server::start(&lab.storage());
    let reach = server.reach();
    reach.daos(&["kv", "get", "tank", "notes", "large"]).failed(1);
    assert_eq!(reach.daos(&["kv", "get", "tank", "other", "small"]).ok().stdout.trim_end(), "still here");
    reach.daos(&["kv", "put", "tank", "notes", "large", "again"]).ok();
}

/// A server does not start on a container whose head cannot be read. A repair makes the head anew, says what that
/// costs, and the container serves on, its snapshot too.
#[test]
fn a_container_whose_head_rots_opens_again() {
    let lab = Lab::new();
    let server = Server::start(&lab.storage());
    server.reach().daos(&["kv", "put", "tank", "notes", "small", "still here"]).ok();
    server.stop();
    let (_, target) = lab.value_path("notes", "large");
    // Kind 2 is a head, and the tree of `notes` has number 1.
    let head = |page: &[u8]| page[16] == 2 && page[120] == 1;
    let (at, _) = lab.newest_pages(target).into_iter().find(|(_, page)| head(page)).unwrap();
    lab.flip(target, "data", at + 300);
    let checked = lab.json(&["check"]);
    assert!(findings(&checked).iter().any(|f| f["kind"] == "catalog" && f["label"] == "notes"), "{checked}");
    let repaired = lab.json(&["check", "--repair"]);
    let mended = repaired["targets"][target as usize]["repair"]["mended"].as_array().unwrap();
    let losses: Vec<_> = mended.iter().filter(|m| m["is_loss"] == true).collect();
    assert_eq!((losses.len(), &losses[0]["label"], &losses[0]["kind"]), (1, &"notes".into(), &"catalog".into()));
    assert!(losses[0]["deed"].as_str().unwrap().contains("but at snapshots"), "{losses:?}");
    lab.ddb(&["check", "--data"]).ok();
    let server = Server::start(&lab.storage());
    let reach = server.reach();
    assert_eq!(reach.daos(&["kv", "get", "tank", "notes", "large"]).ok().stdout.trim_end().len(), LARGE);
    assert_eq!(reach.daos(&["kv", "get", "tank", "notes", "small"]).ok().stdout.trim_end(), "still here");
    let then = reach.daos(&["kv", "get", "tank", "notes", "greeting", "--snap", "monday"]);
    assert_eq!(then.ok().stdout.trim_end(), "hello");
    reach.daos(&["kv", "put", "tank", "notes", "greeting", "again"]).ok();
}

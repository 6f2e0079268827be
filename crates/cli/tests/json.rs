//! Every command's JSON keeps its schema, embedded and against a server.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use support::{DAOS, DAOS_SERVER, DDB, DMG, Ran, Reach, Server, run, small_tree};

/// Runs commands and checks each against the schema of its name.
struct Checker {
    reach: Reach,
    seen: BTreeSet<String>,
}

impl Checker {
    /// Runs `arguments` of `program` with `--json`; `command` names the schema: `pool list`.
    #[track_caller]
    fn check(&mut self, program: &str, command: &str, arguments: &[&str]) -> Value {
        let words: Vec<&str> = command.split(' ').chain(arguments.iter().copied()).chain(["--json"]).collect();
        let ran = self.reach.run(program, &words);
        self.seen.insert(checked(program, command, &ran));
        ran.ok().json()["response"].clone()
    }

    #[track_caller]
    fn daos(&mut self, command: &str, arguments: &[&str]) -> Value {
        self.check(DAOS, command, arguments)
    }

    #[track_caller]
    fn dmg(&mut self, command: &str, arguments: &[&str]) -> Value {
        self.check(DMG, command, arguments)
    }
}

/// Checks one run against the schema of its command, and returns the schema's name.
#[track_caller]
fn checked(program: &str, command: &str, ran: &Ran) -> String {
    let envelope = ran.json();
    assert_eq!((&envelope["error"], &envelope["status"]), (&Value::Null, &json!(0)), "{command}: {ran:?}");
    let program = Path::new(program).file_name().unwrap().to_str().unwrap();
    let name = format!("{program}-{}", command.replace(' ', "-"));
    support::checked(&name, ran);
    name
}

/// Every command that needs a system, in an order in which each finds what it needs.
fn every_command(reach: Reach, at: &Path) -> BTreeSet<String> {
    let mut c = Checker { reach, seen: BTreeSet::new() };
    let tree = small_tree(at);
    let tree = tree.to_str().unwrap();

    let pool = c.dmg("pool create", &["tank", "--size", "512MiB"]);
    c.dmg("pool list", &[]);
    let queried = c.dmg("pool query", &["tank"]);
    assert_eq!(queried["uuid"], pool["uuid"]);
    c.dmg("pool query", &[pool["uuid"].as_str().unwrap()]);
    c.dmg("pool set-prop", &["tank", "space_rb:5"]);
    let properties = c.dmg("pool get-prop", &["tank", "space_rb"]);
    assert_eq!(properties[0]["value"], "5");
    c.dmg("system query", &[]);
    c.dmg("storage query", &[]);
    c.dmg("storage resize", &["3GiB"]);
    assert_eq!(c.dmg("pool resize", &["tank", "600MiB"])["tier_stats"][0]["total"], 600 << 20);
    administer(&mut c);
    permit(&mut c, at);
    c.daos("system query", &[]);
    c.daos("pool list", &[]);
    c.daos("pool query", &["tank"]);

    c.daos("container create", &["tank", "files", "--type", "POSIX", "--attrs", "owner:me"]);
    c.daos("container create", &["tank", "data", "--properties", "rd_fac:0"]);
    c.daos("container list", &["tank"]);
    c.daos("pool list-containers", &["tank"]);
    c.daos("container query", &["tank", "files"]);
    c.daos("container set-prop", &["tank", "data", "status:healthy"]);
    c.daos("container get-prop", &["tank", "data"]);
    c.daos("container set-attr", &["tank", "data", "colour:blue,size:large"]);
    let attributes = c.daos("container get-attr", &["tank", "data", "colour"]);
    assert_eq!(attributes, json!([{ "name": "colour", "value": "blue", "encoding": "text" }]));
    assert_eq!(c.daos("container list-attrs", &["tank", "data"]), json!(["colour", "size"]));
    c.daos("container del-attr", &["tank", "data", "size"]);

    c.daos("kv put", &["tank", "data", "greeting", "hello"]);
    c.daos("kv put", &["tank", "data", "other", "value"]);
    assert_eq!(c.daos("kv get", &["tank", "data", "greeting"])["value"], "hello");
    assert_eq!(c.daos("kv list", &["tank", "data"])["keys"], json!([{ "key": "greeting" }, { "key": "other" }]));
    c.daos("kv list", &["tank", "data", "--values"]);
    c.daos("container create-snap", &["tank", "data", "before"]);
    c.daos("kv del", &["tank", "data", "other"]);
    assert_eq!(c.daos("kv list", &["tank", "data"])["keys"].as_array().unwrap().len(), 1);
    assert_eq!(c.daos("kv get", &["tank", "data", "other", "--snap", "before"])["value"], "value");
    let objects = c.daos("object list", &["tank", "data"]);
    let oid = objects["objects"][0]["oid"].as_str().unwrap().to_string();
    c.daos("object query", &["tank", "data", &oid]);
    c.daos("object list-keys", &["tank", "data", &oid]);
    assert_eq!(c.daos("container list-snaps", &["tank", "data"])[0]["name"], "before");
    let changes = c.daos("container diff", &["tank", "data", "before"]);
    assert_eq!(changes["changes"].as_array().unwrap().len(), 1, "{changes}");
    assert_eq!((&changes["changes"][0]["kind"], &changes["changes"][0]["dkey"]), (&json!("removed"), &json!("other")));
    let back = c.daos("container rollback", &["tank", "data", "before"]);
    assert_eq!(back["name"], "before");
    assert_eq!(c.daos("kv list", &["tank", "data"])["keys"].as_array().unwrap().len(), 2);
    assert_eq!(c.daos("container diff", &["tank", "data", "before"])["changes"], json!([]));
    c.daos("kv put", &["tank", "data", "third", "value"]);
    c.daos("container set-prop", &["tank", "data", "retention:30m"]);
    c.daos("container destroy-snap", &["tank", "data", "before"]);

    let copied = c.daos("filesystem copy", &[tree, "daos://tank/files/"]);
    assert!(copied["copy_stats"]["num_files"].as_u64().unwrap() > 20, "{copied}");
    let listed = c.daos("filesystem ls", &["daos://tank/files/tree"]);
    let names: Vec<&str> = listed["entries"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["README.md", "large.bin", "run.sh", "src"]);
    assert_eq!(c.daos("filesystem cat", &["daos://tank/files/tree/README.md"])["value"], "# A small tree\n");
    c.daos("filesystem mkdir", &["daos://tank/files/new"]);
    let stat = c.daos("filesystem stat", &["daos://tank/files/tree/run.sh"]);
    assert_eq!((&stat["mode"], &stat["type"]), (&json!("0755"), &json!("file")));
    c.daos("filesystem rm", &["daos://tank/files/tree/README.md"]);
    let back = at.join("back");
    c.daos("filesystem copy", &["-s", "daos://tank/files/tree", "-d", back.to_str().unwrap()]);
    assert_eq!(std::fs::read(back.join("large.bin")).unwrap(), std::fs::read(format!("{tree}/large.bin")).unwrap());
    assert_eq!(std::fs::read_link(back.join("src/link")).unwrap(), Path::new("../README.md"));

    c.daos("container destroy", &["tank", "data"]);
    c.dmg("pool destroy", &["tank", "--recursive"]);
    assert_eq!(c.dmg("pool list", &[])["pools"], json!([]));
    // No pool is on the rank any more.
    assert_eq!(c.dmg("system drain", &["--ranks", "0"])["responses"], json!([]));
    assert_eq!(c.dmg("system reintegrate", &["--ranks", "0"])["responses"], json!([]));
    c.seen
}

/// Access control lists of a pool and of a container, which are made with one and get others.
fn permit(c: &mut Checker, at: &Path) {
    let file = at.join("acl");
    std::fs::write(&file, "# ours\nA:G:staff@:r\nA::OWNER@:wr\n").unwrap();
    let file = file.to_str().unwrap();
    c.dmg("pool create", &["held", "--size", "64MiB", "--acl-file", file, "--properties", "owner:ann@,group:staff@"]);
    c.daos("container create", &["held", "box", "--acl-file", file]);
    c.daos("container set-owner", &["held", "box", "--user", "ann", "--group", "staff@"]);
    c.dmg("container set-owner", &["held", "box", "--user", "bob@"]);
    let out = at.join("acl-out");
    let out = out.to_str().unwrap();
    let both: [(_, &str, &[&str], [&str; 3], _); 2] = [
        (DMG, "pool", &["held"], ["-O", "-a", "-p"], "ann@"),
        (DAOS, "container", &["held", "box"], ["-O", "-f", "-P"], "bob@"),
    ];
    for (program, kind, named, [outfile, acl_file, principal], owner) in both {
        let mut run = |verb: &str, more: &[&str]| {
            let answer = c.check(program, &format!("{kind} {verb}"), &[named, more].concat());
            assert_eq!((&answer["owner_user"], &answer["owner_group"]), (&json!(owner), &json!("staff@")));
            answer["entries"].clone()
        };
        assert_eq!(run("get-acl", &[]), json!(["A::OWNER@:rw", "A:G:staff@:r"]));
        let updated = run("update-acl", &["-e", "A:G:staff@:rw,A::mallory@:"]);
        assert_eq!(updated, json!(["A::OWNER@:rw", "A::mallory@:", "A:G:staff@:rw"]));
        assert_eq!(run("update-acl", &[acl_file, file]), json!(["A::OWNER@:rw", "A::mallory@:", "A:G:staff@:r"]));
        assert_eq!(run("delete-acl", &[principal, "u:mallory@"]), json!(["A::OWNER@:rw", "A:G:staff@:r"]));
        run("get-acl", &["--verbose", outfile, out, "--force"]);
        run("update-acl", &["-e", "A::EVERYONE@:r"]);
        assert_eq!(run("overwrite-acl", &[acl_file, out]), json!(["A::OWNER@:rw", "A:G:staff@:r"]));
    }
    c.dmg("pool destroy", &["held", "--recursive"]);
}

/// An administrator's commands, with a pool of their own.
fn administer(c: &mut Checker) {
    c.dmg("pool create", &["side", "--size", "128MiB", "--ranks", "0"]);
    let one = &["side", "--ranks", "0", "--target-idx", "1"];
    // So that there is something to be stopped.
    c.dmg("pool set-prop", &["side", "self_heal:exclude"]);
    let excluded = c.dmg("pool exclude", one);
    assert_eq!((&excluded["disabled_targets"], &excluded["ranks"]), (&json!(1), &json!([0])), "{excluded}");
    let targets = c.dmg("pool query-targets", &["side", "--rank", "0"]);
    assert_eq!(
        (&targets["infos"][0]["target_state"], &targets["infos"][0]["kept_out"]),
        (&json!("up_in"), &json!(false))
    );
    assert_eq!((&targets["infos"][1]["target_idx"], &targets["infos"][1]["kept_out"]), (&json!(1), &json!(true)));
    assert_eq!(c.dmg("pool rebuild stop", &["side"])["rebuild"]["state"], "stopped");
    c.dmg("pool rebuild start", &["side"]);
    c.dmg("pool give-up", one);
    c.dmg("pool reintegrate", one);
    let one = &["side", "--rank", "0", "--target-idx", "1"];
    assert_eq!(c.dmg("pool query-targets", one)["infos"][0]["kept_out"], false);
    while c.dmg("pool query-targets", one)["infos"][0]["target_state"] != "up_in" {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    c.dmg("pool drain", &["side", "--ranks", "0", "--target-idx", "0"]);
    // Lines of one object each, of which the last has all at its place; it was spread over many.
    let watched = c.reach.run(DMG, &["pool", "query", "side", "--watch", "--json"]).ok();
    let state = |line: &str| serde_json::from_str::<Value>(line).unwrap()["response"]["rebuild"]["state"].clone();
    let states: Vec<Value> = watched.stdout.lines().map(state).collect();
    let (last, before) = states.split_last().unwrap();
    assert!(last == "idle" && before.iter().all(|state| state == "busy"), "{states:?}");
    c.dmg("pool destroy", &["side"]);
    assert_eq!(c.dmg("system leader-query", &[]), json!({ "current_leader": 0, "replicas": [0] }));
    assert_eq!(c.dmg("system token", &["--expires", "90s"])["seconds"], 90);
    c.dmg("system set-prop", &["self_heal:exclude;pool_exclude"]);
    let properties = c.dmg("system get-prop", &[]);
    let values: Vec<_> = properties.as_array().unwrap().iter().map(|row| row["value"].clone()).collect();
    assert_eq!(values, ["daos_server", env!("CARGO_PKG_VERSION"), "exclude;pool_exclude"]);
    c.dmg("system get-prop", &["self_heal"]);
    c.dmg("system set-attr", &["site:north,rack:7"]);
    assert_eq!(c.dmg("system get-attr", &[]), json!({ "site": "north", "rack": "7" }));
    c.dmg("system del-attr", &["site"]);
    assert_eq!(c.dmg("system get-attr", &["rack"]), json!({ "rack": "7" }));
    c.dmg("server set-logmasks", &["--masks", "WARN,engine=DEBUG"]);
    c.dmg("server set-logmasks", &[]);
    assert_eq!(c.dmg("system stop", &["--ranks", "0"])["results"], json!([{ "rank": 0, "state": "stopped" }]));
    assert_eq!(c.dmg("system start", &[])["results"], json!([{ "rank": 0, "state": "joined" }]));
}

/// Commands that need a second server.
fn of_two_servers(at: &Path) -> BTreeSet<String> {
    let first = Server::start(&at.join("first"));
    let mut c = Checker { reach: first.reach(), seen: BTreeSet::new() };
    c.dmg("pool create", &["tank", "--size", "128MiB"]);
    let _second = first.start_joining(&at.join("second"));
    assert_eq!(c.dmg("pool extend", &["tank", "--ranks", "1"])["ranks"], json!([0, 1]));
    let out = c.dmg("system exclude", &["--ranks", "1"]);
    assert_eq!(out["results"], json!([{ "rank": 1, "state": "adminexcluded" }]));
    let back = c.dmg("system clear-exclude", &["--ranks", "1"]);
    assert_eq!(back["results"][0]["rank"], 1, "{back}");
    c.seen
}

/// Commands that need no system.
fn without_a_system(at: &Path) -> BTreeSet<String> {
    let at = &at.join("alone");
    std::fs::create_dir(at).unwrap();
    let file = at.join("daos_server.yml");
    std::fs::write(&file, "name: lab\ntargets: 2\nstorage:\n  path: /srv/daos\n").unwrap();
    let check = |program, command: &str, more: &[&str]| {
        let words: Vec<&str> = command.split(' ').chain(more.iter().copied()).chain(["--json"]).collect();
        checked(program, command, &run(program, &words).ok())
    };
    [
        check(DAOS, "version", &[]),
        check(DMG, "version", &[]),
        check(DAOS_SERVER, "version", &[]),
        check(DDB, "version", &[]),
        check(DAOS_SERVER, "config check", &[file.to_str().unwrap()]),
        check(DAOS, "quickstart", &[small_tree(at).to_str().unwrap(), "--path", at.join("quick").to_str().unwrap()]),
    ]
    .into()
}

/// Commands that look into storage at rest.
fn inspections(storage: &Path) -> BTreeSet<String> {
    let system = Reach::embedded(storage);
    system.dmg(&["pool", "create", "tank", "--size", "512MiB"]).ok();
    system.daos(&["container", "create", "tank", "data"]).ok();
    system.daos(&["kv", "put", "tank", "data", "greeting", "hello"]).ok();
    let storage = storage.to_str().unwrap();
    let inspect = |command: &str, more: &[&str]| {
        let words: Vec<&str> = [storage, command].into_iter().chain(more.iter().copied()).chain(["--json"]).collect();
        checked(DDB, command, &run(DDB, &words).ok())
    };
    for path in ["/", "/tank", "/tank/data"] {
        inspect("ls", &[path]);
    }
    let object = run(DDB, &[storage, "ls", "/tank/data", "--json"]).ok().json();
    let targets = object["response"]["targets"].as_array().unwrap().clone();
    let object = targets.iter().find_map(|target| target["entries"][0]["name"].as_str()).unwrap();
    let value = format!("/tank/data/{object}/greeting/[0]");
    [
        inspect("ls", &[&value]),
        inspect("dump", &[&value]),
        inspect("info", &[]),
        inspect("log", &[]),
        inspect("space", &[]),
        inspect("services", &[]),
        inspect("check", &["--data"]),
    ]
    .into()
}

#[test]
fn every_command_keeps_its_schema_embedded() {
    let at = tempfile::tempdir().unwrap();
    let system = at.path().join("system");
    let mut seen = every_command(Reach::embedded(&system), at.path());
    seen.append(&mut inspections(&system));
    seen.append(&mut of_two_servers(at.path()));
    seen.append(&mut without_a_system(at.path()));
    let schemas = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")).unwrap();
    let known: BTreeSet<String> =
        schemas.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string()).collect();
    assert_eq!(known, seen, "every schema belongs to a command that was run");
}

#[test]
fn every_command_keeps_its_schema_against_a_server() {
    let at = tempfile::tempdir().unwrap();
    let server = Server::start(&at.path().join("storage"));
    every_command(server.reach(), at.path());
}

/// A script that asks for JSON gets JSON, also when it asks wrongly.
#[test]
fn failures_are_json_too() {
    let at = tempfile::tempdir().unwrap();
    let nowhere = at.path().join("nowhere");
    let absent = run(DAOS, &["pool", "list", "--json", "--embedded", nowhere.to_str().unwrap()]);
    assert_eq!((absent.status, absent.json()["status"].as_i64()), (1, Some(-1005)), "{absent:?}");
    let wrong = run(DAOS, &["pool", "lst", "--json"]);
    assert_eq!((wrong.status, wrong.json()["status"].as_i64()), (2, Some(-1003)), "{wrong:?}");
    assert!(wrong.json()["response"].is_null());
}

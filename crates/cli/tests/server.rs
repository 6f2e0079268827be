//! The life of a server: start, stop, sudden death, and what it says when it cannot start.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::{DAOS, DAOS_SERVER, Server, run, run_in};

#[test]
fn a_server_stops_cleanly_on_sigterm_and_keeps_what_it_had() {
    let at = tempfile::tempdir().unwrap();
    let storage = at.path().join("storage");
    let server = Server::start(&storage);
    server.reach().dmg(&["pool", "create", "tank", "--size", "256MiB"]).ok();
    server.reach().daos(&["container", "create", "tank", "data"]).ok();
    server.reach().daos(&["kv", "put", "tank", "data", "key", "value"]).ok();
    let (status, log) = server.stop();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");

    let server = Server::start(&storage);
    assert_eq!(server.reach().daos(&["kv", "get", "tank", "data", "key"]).ok().stdout, "value");
}

/// Eight writers put as fast as they can; the server is killed among them. Every put that was
/// acknowledged is there after a restart, with its value.
#[test]
fn kill_9_in_a_stream_of_puts_loses_none_that_was_acknowledged() {
    const WRITERS: u64 = 8;
    const ACKNOWLEDGED_MIN: u64 = 2000;
    let at = tempfile::tempdir().unwrap();
    let storage = at.path().join("storage");
    let server = Server::start(&storage);
    server.reach().dmg(&["pool", "create", "tank", "--size", "512MiB"]).ok();
    server.reach().daos(&["container", "create", "tank", "data"]).ok();

    let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let counters = acknowledged.clone();
    let address: net::Address = server.address.parse().unwrap();
    let (killed, is_killed) = std::sync::mpsc::channel();
    let writing = std::thread::spawn(move || {
        rt::block_on(async move {
            let options = client::SystemOptions { deadline: std::time::Duration::from_secs(3), ..Default::default() };
            let system = client::System::connect(&[address], options).await.unwrap();
            let container = system.pool("tank").await.unwrap().container("data").await.unwrap();
            let kv = container.kv(object());
            let mut writers = Vec::new();
            for writer in 0..WRITERS {
                let (kv, counters) = (kv.clone(), counters.clone());
                writers.push(rt::spawn(async move {
                    for n in 0.. {
                        if kv.put(key(writer, n).as_str(), value(writer, n).as_bytes()).await.is_err() {
                            return;
                        }
                        counters[writer as usize].store(n + 1, Ordering::Release);
                    }
                }));
            }
            for writer in writers {
                writer.await.unwrap();
            }
        });
        killed.send(()).unwrap();
    });
    while acknowledged.iter().map(|n| n.load(Ordering::Acquire)).sum::<u64>() < ACKNOWLEDGED_MIN {
        assert!(is_killed.try_recv().is_err(), "the writers ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    server.kill();
    writing.join().unwrap();

    let server = Server::start(&storage);
    let address: net::Address = server.address.parse().unwrap();
    rt::block_on(async move {
        let system = client::System::connect(&[address], Default::default()).await.unwrap();
        let kv = system.pool("tank").await.unwrap().container("data").await.unwrap().kv(object());
        for (writer, count) in acknowledged.iter().enumerate() {
            for n in 0..count.load(Ordering::Acquire) {
                let got = kv.get(key(writer as u64, n).as_str()).await.unwrap();
                assert_eq!(got.as_deref(), Some(value(writer as u64, n).as_bytes()), "writer {writer}, put {n}");
            }
        }
    });
}

/// What lists say and whose a container is, over a restart; and what is refused, with the way to say it.
#[test]
fn access_control_lists_are_kept_and_nothing_is_refused_by_them_yet() {
    let at = tempfile::tempdir().unwrap();
    let storage = at.path().join("storage");
    let file = at.path().join("acl");
    std::fs::write(&file, "A::OWNER@:rwdtTaAo\nA::ann@:\n").unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start(&storage);
    let reach = server.reach();
    reach.dmg(&["pool", "create", "tank", "--size", "256MiB"]).ok();
    reach.daos(&["container", "create", "tank", "data", "--acl-file", file]).ok();
    reach.dmg(&["pool", "update-acl", "tank", "--entry", "A::ann@:r"]).ok();
    reach.daos(&["container", "set-owner", "tank", "data", "--user", "bob@"]).ok();
    let help = reach.daos(&["container", "overwrite-acl", "--help"]).ok().stdout;
    assert!(help.contains("not enforced"), "{help}");
    server.stop();

    let server = Server::start(&storage);
    let reach = server.reach();
    let kept = "# Kept, and not enforced yet: nobody proves who he is\n# Entries:\n";
    let pool = format!("# Owner: none\n# Owner Group: none\n{kept}A::OWNER@:rw\nA::ann@:r\nA:G:GROUP@:rw\n");
    assert_eq!(reach.dmg(&["pool", "get-acl", "tank"]).ok().stdout, pool);
    let container = format!("# Owner: bob@\n# Owner Group: none\n{kept}A::OWNER@:rwdtTaAo\nA::ann@:\n");
    assert_eq!(reach.daos(&["container", "get-acl", "tank", "data"]).ok().stdout, container);
    // To nobody is anything permitted here, and everybody does it.
    std::fs::write(file, "").unwrap();
    reach.daos(&["container", "overwrite-acl", "tank", "data", "--acl-file", file]).ok();
    reach.daos(&["kv", "put", "tank", "data", "key", "value"]).ok();

    let refused = |arguments: &[&str], status, cause: &str, remedy: &str| {
        let ran = if arguments[0] == "pool" { reach.dmg(arguments) } else { reach.daos(arguments) };
        ran.failed(status).says(cause).says(remedy);
    };
    refused(&["pool", "delete-acl", "tank", "-p", "u:eve@"], 1, "no entry for u:eve@", "get-acl");
    refused(&["pool", "delete-acl", "tnak", "-p", "u:eve@"], 1, "no pool 'tnak'", "'tank'");
    refused(&["pool", "delete-acl", "tank", "-p", "eve@"], 2, "no principal", "u:bob@");
    refused(&["pool", "update-acl", "tank", "-e", "A::eve@:rT"], 1, "cannot permit 'T'", "rwcdt");
    refused(&["pool", "update-acl", "tank", "-e", "U:S:eve@:r"], 2, "only A (allow)", "permit nothing");
    refused(&["container", "get-acl", "tank", "data", "-O", file], 1, "acl", "--force");
    refused(&["container", "set-owner", "tank", "data"], 2, "--user", "--help");
    refused(&["container", "set-prop", "tank", "data", "owner:eve@"], 1, "owner is changed with", "set-owner");
    assert_eq!(reach.dmg(&["pool", "get-acl", "tank"]).ok().stdout, pool);
    reach.dmg(&["pool", "delete-acl", "tank", "-p", "u:ann@"]).ok();
    assert!(!reach.dmg(&["pool", "get-acl", "tank"]).ok().stdout.contains("ann@"));
}

fn object() -> types::ObjectId {
    types::ObjectId::new(types::ObjectType::KvLexical, types::ObjectClass::SX, 7, 7)
}

fn key(writer: u64, n: u64) -> String {
    format!("{writer}-{n}")
}

/// Sizes on both sides of the threshold between the tree and the data device.
fn value(writer: u64, n: u64) -> String {
    format!("value {n} of {writer};").repeat(if n.is_multiple_of(50) { 600 } else { 1 + (n % 7) as usize })
}

#[test]
fn a_port_in_use_is_told_with_the_way_out() {
    let at = tempfile::tempdir().unwrap();
    let server = Server::start(&at.path().join("one"));
    let port = server.address.rsplit(':').next().unwrap();
    let other = at.path().join("two");
    let ran = run(DAOS_SERVER, &["start", "--port", port, "--size", "1GiB", "--storage", other.to_str().unwrap()]);
    ran.failed(1).says("in use").says("remedy: ");
}

#[test]
fn two_servers_do_not_share_storage() {
    let at = tempfile::tempdir().unwrap();
    let storage = at.path().join("storage");
    let _server = Server::start(&storage);
    let ran = run(DAOS_SERVER, &["start", "--port", "0", "--storage", storage.to_str().unwrap()]);
    ran.failed(1).says("storage").says("remedy: ");
}

#[test]
fn an_unknown_configuration_key_shows_line_and_suggestion() {
    let at = tempfile::tempdir().unwrap();
    let file = at.path().join("daos_server.yml");
    std::fs::write(&file, "name: lab\n# how many\ntargts: 4\n").unwrap();
    for arguments in [vec!["start", "-c"], vec!["start", "-o"], vec!["config", "check"]] {
        let mut words = arguments.clone();
        words.push(file.to_str().unwrap());
        let ran = run(DAOS_SERVER, &words).failed(1);
        ran.says("line 3").says("targts").says("targets");
    }
    let ran = run(DAOS_SERVER, &["start", "-o", "/nonexistent.yml"]).failed(1);
    ran.says("/nonexistent.yml").says("remedy: ");
}

#[test]
fn no_server_is_told_with_the_way_to_start_one() {
    let ran = run(DAOS, &["--server", "127.0.0.1:1", "pool", "list"]).failed(1);
    ran.says("no server at 127.0.0.1:1").says("daos_server start");
    run(DAOS, &["--server", "nonsense", "pool", "list"]).failed(2).says("nonsense");
    run(DAOS, &["--server", "h:1", "--embedded", "/x", "pool", "list"]).failed(2).says("exclude");
}

#[test]
fn of_several_servers_the_first_that_answers_is_asked() {
    let at = tempfile::tempdir().unwrap();
    let server = Server::start(&at.path().join("storage"));
    let several = format!("127.0.0.1:1, {}", server.address);
    run(DAOS, &["--server", &several, "pool", "list"]).ok();
    run(DAOS, &["--server", "127.0.0.1:1,elsewhere", "pool", "list"]).failed(2).says("'elsewhere' is no address");
}

#[test]
fn a_server_answers_on_a_unix_socket_and_by_environment() {
    let at = tempfile::tempdir().unwrap();
    let storage = at.path().join("storage");
    let socket = format!("unix://{}", at.path().join("s.sock").display());
    let file = at.path().join("daos_server.yml");
    std::fs::write(
        &file,
        format!("name: lab\nlisten: {socket}\ntargets: 1\nstorage: {{ path: {}, size: 1GiB }}\n", storage.display()),
    )
    .unwrap();
    let mut server = std::process::Command::new(DAOS_SERVER).args(["start", "-c"]).arg(&file).spawn().unwrap();
    let answered = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        run_in(at.path(), DAOS, &["--server", &socket, "system", "query"]).status == 0
    });
    let ran = std::process::Command::new(DAOS).args(["system", "query"]).env("DAOS_SERVER", &socket).output();
    let named = |name| run_in(at.path(), DAOS, &["--server", &socket, "--sys-name", name, "system", "query"]);
    let (right, wrong) = (named("lab"), named("other"));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(right.status, 0);
    assert!(wrong.status != 0 && wrong.stderr.contains("'lab', not 'other'"), "{}", wrong.stderr);
    assert!(answered && ran.unwrap().status.success());
}

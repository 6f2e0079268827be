//! Storage and pools that get another size while a server runs, over its death in the middle.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Server;

const MIB: u64 = 1 << 20;

fn devices(server: &Server) -> Vec<Value> {
    let queried = server.reach().dmg(&["storage", "query", "--json"]).ok().json();
    queried["response"]["devices"].as_array().unwrap().clone()
}

/// Waits until every target has the size that it is to have.
fn settled(server: &Server, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(100);
    loop {
        let devices = devices(server);
        assert!(devices.iter().all(|device| device["wanted_bytes"] == bytes / 2), "{devices:?}");
        if devices.iter().all(|device| device["data_bytes"] == bytes / 2) {
            return;
        }
        assert!(devices.iter().all(|device| device["resize_trouble"].is_null()), "{devices:?}");
        assert!(Instant::now() < deadline, "{devices:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn file_bytes(storage: &Path) -> u64 {
    (0..2).map(|target| std::fs::metadata(storage.join(format!("target-{target}/data"))).unwrap().len()).sum()
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Grown, filled to behind its later end, shrunk with a kill -9 in the middle, and everything is there.
#[test]
fn storage_grows_and_shrinks_under_a_server_that_is_killed_meanwhile() {
    let at = tempfile::tempdir().unwrap();
    let storage = at.path().join("storage");
    // Little memory for pages, so that little room is kept for copies of them.
    let config = at.path().join("daos_server.yml");
    std::fs::write(&config, "memory: 64MiB\n").unwrap();
    let start = || Server::start_with(&storage, &["-o", config.to_str().unwrap()]);
    let server = start();
    let reach = server.reach();
    settled(&server, file_bytes(&storage));
    let before = file_bytes(&storage);
    let grown = before + 512 * MIB;
    reach.dmg(&["storage", "resize", &grown.to_string()]).ok();
    settled(&server, grown);
    assert_eq!(file_bytes(&storage), grown);

    reach.dmg(&["pool", "create", "tank", "--size", "600MiB"]).ok();
    reach.daos(&["container", "create", "tank", "files", "--type", "POSIX", "--properties", "retention:0"]).ok();
    for (index, seed) in [("passing", 1), ("lasting", 2)] {
        let file = at.path().join(index);
        std::fs::write(&file, bytes(seed, 180 << 20)).unwrap();
        reach.daos(&["filesystem", "copy", file.to_str().unwrap(), "daos://tank/files/"]).ok();
    }
    reach.daos(&["filesystem", "rm", "daos://tank/files/passing"]).ok();
    // What was removed is given back in time.
    let deadline = Instant::now() + Duration::from_secs(100);
    while reach.dmg(&["pool", "resize", "tank", "260MiB"]).status != 0 {
        assert!(Instant::now() < deadline, "what was removed is still counted");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = reach.dmg(&["pool", "resize", "tank", "64MiB"]).failed(1);
    refused.says("its fullest target uses").says("give it at least");

    // What lasts lies behind what went; now the end of the files goes.
    let small = 360 * MIB;
    let refused = reach.dmg(&["storage", "resize", "256MiB"]).failed(1);
    refused.says("they have reserved").says("dmg pool resize");
    reach.dmg(&["storage", "resize", &small.to_string()]).ok();
    server.kill();
    let server = start();
    settled(&server, small);
    assert_eq!(file_bytes(&storage), small);
    let moved: u64 = devices(&server).iter().map(|device| device["moved_bytes"].as_u64().unwrap()).sum();
    assert!(moved > 0, "something lay behind the new end");
    let (status, log) = server.stop();
    assert_eq!(status, Some(0), "{log}");

    let server = start();
    settled(&server, small);
    let back = at.path().join("back");
    server.reach().daos(&["filesystem", "copy", "daos://tank/files/lasting", back.to_str().unwrap()]).ok();
    assert!(std::fs::read(&back).unwrap() == bytes(2, 180 << 20));
}

#[test]
fn sizes_that_cannot_be_are_refused_with_figures() {
    let at = tempfile::tempdir().unwrap();
    let server = Server::start(&at.path().join("storage"));
    let reach = server.reach();
    reach.dmg(&["storage", "resize"]).failed(1).says("files").says("storage resize SIZE");
    reach.dmg(&["storage", "resize", "900PiB"]).failed(1).says("are free");
    reach.dmg(&["pool", "create", "tank", "--size", "256MiB"]).ok();
    reach.dmg(&["pool", "resize", "tank", "900TiB"]).failed(1).says("does not fit").says("are free");
    reach.dmg(&["pool", "resize", "tank", "1MiB"]).failed(1).says("at least");
    reach.dmg(&["pool", "resize", "tnak", "1GiB"]).failed(1).says("did you mean 'tank'?");
}

/// Room for copies of all pages that fit in memory is kept from pools: of storage of 300 MB that was all but 9.
#[test]
fn storage_that_is_small_beside_the_memory_is_for_pools_all_the_same() {
    let at = tempfile::tempdir().unwrap();
    let config = at.path().join("daos_server.yml");
    std::fs::write(&config, "memory: 8GiB\n").unwrap();
    let storage = at.path().join("storage");
    let server = Server::start_with(&storage, &["-o", config.to_str().unwrap()]);
    let total: u64 = devices(&server).iter().map(|device| device["total_bytes"].as_u64().unwrap()).sum();
    assert!(total > file_bytes(&storage) * 2 / 3, "{total} of {} are for pools", file_bytes(&storage));
}

//! What size the data of each target may get: as much as its device has, up to its neighbour; and where it lies stays.

use engine::service::Layout;

use control::config::Config;
use control::storage::Owned;
use engine::target::open::open_store;
use rt::disk::{Disk, OpenMode};
use types::{Code, Error};

const MEMORY: u64 = 8 << 20;
const GIB: u64 = 1 << 30;
/// Two targets, each on a device of its own; or three, two of which share one.
const ALONE: &str = "targets: 2\nstorage: {path: /daos, devices: [/d/a, /d/b], log: [/d/log]}\n";
const SHARED: &str = "targets: 3\nstorage: {path: /daos, devices: [/d/a, /d/b], log: [/d/log]}\n";

/// Storage of `text` that was formatted, on devices of a GiB.
fn on_devices(text: &'static str, life: impl FnOnce(&Owned) + 'static) {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
    let node = sim.node("server");
    let life = async move {
        [("/d/a", GIB), ("/d/b", GIB), ("/d/log", 300 << 20)]
            .into_iter()
            .for_each(|(path, bytes)| set_len(path, bytes));
        let owned = Owned::take(&Config::parse(text).unwrap()).unwrap();
        open_all(&owned);
        owned.formatted().unwrap();
        life(&owned);
    };
    sim.run(async move { rt::sim::current().spawn_on(node, life).await.unwrap() });
}

fn set_len(path: &str, bytes: u64) {
    rt::disk::fs::create_dir_all("/d").unwrap();
    let disk = Disk::open(path, OpenMode { create: true, ..OpenMode::default() }).unwrap();
    disk.set_len(bytes).unwrap();
}

/// Opens every store, and says which size each is to have, and has.
fn open_all(owned: &Owned) -> Vec<(u64, u64)> {
    let open = |target: engine::target::open::TargetConfig| {
        let (store, media) = open_store(target.clone()).unwrap();
        assert!(store.check().findings.is_empty());
        (target.data.bytes, media.data_bytes())
    };
    owned.targets(MEMORY).unwrap().into_iter().map(open).collect()
}

fn refused(owned: &Owned, bytes: Option<u64>, code: Code, says: &[&str]) {
    let Error { code: found, message, remedy, .. } = owned.plan(bytes).unwrap_err();
    assert_eq!(found, code, "{message}");
    says.iter().for_each(|part| assert!(message.contains(part), "'{part}' in: {message}"));
    assert!(remedy.is_some());
}

#[test]
fn a_device_that_is_too_short_is_named_with_its_size() {
    on_devices(ALONE, |owned| {
        refused(owned, Some(4 * GIB), Code::NoSpace, &["/d/a has 1.07 GB", "target 0 would end at 2.15 GB"]);
        set_len("/d/a", 2 * GIB);
        refused(owned, Some(4 * GIB), Code::NoSpace, &["/d/b has 1.07 GB", "target 1 would end at 2.15 GB"]);
        set_len("/d/b", 2 * GIB);
        assert_eq!(owned.plan(Some(4 * GIB)), Ok(vec![2 * GIB; 2]));
        // Not a device: it is not there any more.
        rt::disk::fs::remove_file("/d/b").unwrap();
        assert_eq!(owned.plan(Some(GIB)).unwrap_err().code, Code::Io);
    });
}

#[test]
fn without_a_size_each_target_gets_all_that_its_device_has() {
    on_devices(ALONE, |owned| {
        assert_eq!(owned.plan(None), Ok(vec![GIB; 2]), "all that there is, it has");
        set_len("/d/b", GIB + (300 << 20) + 77);
        assert_eq!(owned.plan(None), Ok(vec![GIB, GIB + (300 << 20)]));
        set_len("/d/a", GIB / 2);
        assert_eq!(owned.plan(None).unwrap()[0], GIB / 2, "a device that is smaller than it was");
    });
}

/// What is planned is wanted by the layout from then on, over a restart; the store goes there in service.
#[test]
fn a_size_that_is_kept_is_wanted_by_the_next_life() {
    on_devices(ALONE, |owned| {
        set_len("/d/a", 2 * GIB);
        let wanted = owned.plan(None).unwrap();
        owned.keep(&wanted).unwrap();
        assert_eq!(open_all(owned), [(2 * GIB, GIB), (GIB, GIB)]);
        assert_eq!(owned.plan(None), Ok(wanted), "it is idempotent");
    });
}

/// A neighbour's region is nobody's to grow over. What lies before it is the target's own, also after it was smaller.
#[test]
fn a_target_grows_up_to_its_neighbour_and_no_further() {
    on_devices(SHARED, |owned| {
        set_len("/d/a", 2 * GIB);
        let all = vec![GIB / 2, GIB, 3 * GIB / 2];
        assert_eq!(owned.plan(None).as_ref(), Ok(&all), "the last one of the device gets what was added");
        refused(owned, Some(3 * GIB), Code::Invalid, &["target 0", "another region follows it at 537 MB of /d/a"]);
        owned.keep(&[GIB / 4, GIB / 4, GIB / 4]).unwrap();
        assert_eq!(owned.plan(None), Ok(all), "and back again");
        assert_eq!(owned.plan(Some(3 * (GIB / 2))), Ok(vec![GIB / 2; 3]));
        refused(owned, Some(3 * (GIB / 2) + (3 << 20)), Code::Invalid, &["target 0", "another region follows it"]);
        let places: Vec<_> =
            owned.targets(MEMORY).unwrap().iter().map(|t| (t.data.path.clone(), t.data.base)).collect();
        assert_eq!(places, [("/d/a".into(), 0), ("/d/b".into(), 0), ("/d/a".into(), GIB / 2)]);
    });
}

//! Where log, metadata and data of each target lie, as the configuration says; and devices that must not be
//! used.

use std::path::{Path, PathBuf};
use std::process::Command;

use control::config::{Config, Storage};
use control::storage::Owned;
use engine::target::open::{Medium, TargetConfig, open_store};
use rt::disk::{Disk, OpenMode};
use types::{Code, Error};

const MEMORY: u64 = 8 << 20;
const GIB: u64 = 1 << 30;

/// In the simulator, whose files are nobody else's.
fn on_a_node(life: impl FnOnce() + 'static) {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
    let node = sim.node("server");
    sim.run(async move { rt::sim::current().spawn_on(node, async move { life() }).await.unwrap() });
}

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

/// Takes the storage, and opens every store of it, as a server's start does; returns where they lie.
fn start(config: &Config) -> Result<Vec<TargetConfig>, Error> {
    let owned = Owned::take(config)?;
    let targets = owned.targets(MEMORY)?;
    for target in &targets {
        let (store, _) = open_store(target.clone())?;
        assert!(store.check().findings.is_empty());
    }
    owned.formatted()?;
    Ok(targets)
}

fn file(path: &str, bytes: u64) {
    rt::disk::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    let disk = Disk::open(path, OpenMode { create: true, ..OpenMode::default() }).unwrap();
    disk.set_len(bytes).unwrap();
}

const APART: &str =
    "targets: 3\nstorage: {path: /daos, devices: [/d/a, /d/b], log: [/d/log], metadata: {path: /meta, size: 192MiB}}\n";

fn apart() -> Config {
    for (path, bytes) in [("/d/a", GIB), ("/d/b", GIB), ("/d/log", 300 << 20)] {
        file(path, bytes);
    }
    rt::disk::fs::create_dir_all("/meta").unwrap();
    config(APART)
}

#[test]
fn each_role_lies_where_the_configuration_says() {
    on_a_node(|| {
        let config = apart();
        let targets = start(&config).unwrap();
        let place = |index: usize| {
            let TargetConfig { log, metadata, data, .. } = &targets[index];
            let metadata = metadata.as_ref().unwrap();
            assert_eq!(metadata.path.parent(), Some(Path::new("/meta")));
            assert_eq!((metadata.base, metadata.bytes), (0, 64 << 20));
            assert_eq!(
                (log.path.as_path(), log.base, log.bytes),
                (Path::new("/d/log"), (index as u64) * (100 << 20), 100 << 20)
            );
            (data.path.clone(), data.base, data.bytes)
        };
        // Two targets on the first device, one on the second, which has it whole.
        assert_eq!(place(0), ("/d/a".into(), 0, GIB / 2));
        assert_eq!(place(1), ("/d/b".into(), 0, GIB));
        assert_eq!(place(2), ("/d/a".into(), GIB / 2, GIB / 2));
        // Again, from what is there; and without saying it all again.
        let again = |config: &Config| start(config).unwrap().iter().map(|t| t.log.path.clone()).collect::<Vec<_>>();
        assert_eq!(again(&config), vec![PathBuf::from("/d/log"); 3]);
        assert_eq!(again(&self::config("storage: {path: /daos}")), vec![PathBuf::from("/d/log"); 3]);
    });
}

#[test]
fn one_directory_holds_everything_unless_told_otherwise() {
    on_a_node(|| {
        let config = Config {
            targets: 2,
            storage: Storage::Directory { path: "/daos".into(), bytes: Some(GIB) },
            ..Config::default()
        };
        let targets = start(&config).unwrap();
        assert_eq!(targets[1].log.path, Path::new("/daos/target-1/log"));
        assert_eq!(targets[1].data.path, Path::new("/daos/target-1/data"));
        assert_eq!(targets[1].log.bytes + targets[1].data.bytes, GIB / 2);
        assert!(targets[1].metadata.is_none());
    });
}

#[test]
fn storage_that_lies_elsewhere_than_the_configuration_says_is_refused() {
    on_a_node(|| {
        start(&apart()).unwrap();
        file("/d/other", GIB);
        for (from, to, says) in [
            ("[/d/log]", "[/d/other]", "the log of target 0 with /d/log, not on /d/other"),
            ("[/d/a, /d/b]", "[/d/a, /d/other]", "the data of target 1 with /d/b, not on /d/other"),
            ("path: /meta,", "path: /d,", "the metadata of target 0 with /meta/"),
            ("targets: 3", "targets: 2", "has 3 targets, not 2"),
        ] {
            let error = start(&config(&APART.replace(from, to))).err().unwrap();
            assert_eq!(error.code, Code::Mismatch, "{error}");
            assert!(error.message.contains(says), "'{says}' in: {error}");
            assert!(error.remedy.is_some());
        }
    });
}

#[test]
fn a_device_that_is_gone_or_in_anothers_place_is_named() {
    on_a_node(|| {
        start(&apart()).unwrap();
        // As if the devices had other names now: they are the same, but their paths in the layout are swapped.
        let layout = String::from_utf8(rt::disk::fs::read("/daos/storage.json").unwrap()).unwrap();
        let rename = |names: &[(&str, &str)]| {
            let renamed = names.iter().fold(layout.clone(), |text, (from, to)| text.replace(from, to));
            rt::disk::fs::write_atomic("/daos/storage.json", renamed.as_bytes()).unwrap();
            start(&config("storage: {path: /daos}"))
        };
        let error = rename(&[("/d/log", "/d/none")]).err().unwrap();
        assert!(error.message.contains("the log of target 0") && error.message.contains("/d/none"), "{error}");
        assert!(error.remedy.as_ref().unwrap().contains("attach the device"), "{error:?}");
        assert!(!rt::disk::fs::exists("/d/none"), "nothing was made in its place");
        file("/d/new", 300 << 20);
        let error = rename(&[("/d/log", "/d/new")]).err().unwrap();
        assert!(error.message.contains("/d/new holds nothing of this store"), "{error}");
        let error = rename(&[("/d/a", "/d/c"), ("/d/b", "/d/a"), ("/d/c", "/d/b")]).err().unwrap();
        assert!(error.message.contains("/d/b holds the data of target 1"), "{error}");
        assert!(error.message.contains("put the devices back"), "{error}");
        rename(&[]).unwrap();
    });
}

#[test]
fn places_that_are_too_small_or_not_there_are_refused_with_a_remedy() {
    on_a_node(|| {
        let _ = apart();
        file("/d/small", 20 << 20);
        for (from, to, code, says) in [
            ("[/d/log]", "[/d/small]", Code::NoSpace, "log: "),
            ("[/d/log]", "[/d/none]", Code::Io, "/d/none"),
            ("[/d/log]", "{path: /d/log, size: 600MiB}", Code::NoSpace, "too few"),
            ("[/d/log]", "{path: /d/log, medium: block}", Code::Invalid, "no block device"),
            ("size: 192MiB", "size: 4000GiB", Code::NoSpace, "do not fit at /meta"),
            ("size: 192MiB", "size: 3MiB", Code::NoSpace, "metadata: "),
            ("/d/b]", "/d/small]", Code::NoSpace, "/d/small"),
        ] {
            let error = start(&config(&APART.replace(from, to))).err().unwrap();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(says), "'{says}' in: {error}");
            assert!(error.remedy.is_some(), "{error}");
        }
        assert!(!rt::disk::fs::exists("/daos/storage.json"), "nothing was laid out");
    });
}

/// A file that holds a file system is as dear as a device that does.
#[test]
fn what_holds_something_is_not_laid_out_over_without_force() {
    on_a_node(|| {
        let config = apart();
        let image = Disk::open("/d/b", OpenMode::default()).unwrap();
        image.write_now(1080, &[0x53, 0xef]).unwrap();
        let error = start(&config).err().unwrap();
        assert_eq!(error.code, Code::Exists);
        assert!(error.message.contains("/d/b holds an ext"), "{error}");
        assert!(error.remedy.as_ref().unwrap().contains("--force"), "{error:?}");
        start(&Config { force: true, ..config.clone() }).unwrap();
        // And once it is ours, force changes nothing.
        let store = start(&config).unwrap()[0].store;
        assert_eq!(start(&Config { force: true, ..config }).unwrap()[0].store, store);
        // Another server that is given our devices.
        let other = self::config(&APART.replace("/daos", "/other"));
        let error = start(&other).err().unwrap();
        assert!(error.message.contains("holds storage of this system"), "{error}");
    });
}

/// The log of a server in persistent memory: in a directory, files for each target.
#[test]
fn a_log_may_be_mapped_persistent_memory() {
    on_a_node(|| {
        rt::disk::fs::create_dir_all("/pmem").unwrap();
        let config =
            config("targets: 2\nstorage: {path: /daos, size: 1GiB, log: {path: /pmem, size: 64MiB, medium: pmem}}\n");
        let targets = start(&config).unwrap();
        for target in &targets {
            assert_eq!((target.log.medium, target.log.bytes), (Medium::Pmem, 32 << 20));
            assert_eq!(target.log.path.parent(), Some(Path::new("/pmem")));
        }
        assert_ne!(targets[0].log.path, targets[1].log.path);
        assert_eq!(start(&config).unwrap()[1].log.medium, Medium::Pmem, "the layout remembers");
    });
    // A real file system that is none of persistent memory, and then the same as a trial.
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." }).unwrap();
    let text = |daos: &str, more: &str| {
        let (path, log) = (dir.path().join(daos), dir.path().display().to_string());
        config(&format!(
            "targets: 1\nstorage: {{path: {}, size: 160MiB, log: {{path: {log}, size: 16MiB, medium: pmem{more}}}}}\n",
            path.display()
        ))
    };
    let error = start(&text("strict", "")).err().unwrap();
    assert!(error.message.contains("the log of target 0") && error.message.contains("dax: emulated"), "{error}");
    let trial = text("trial", ", dax: emulated");
    assert_eq!(start(&trial).unwrap()[0].log.medium, Medium::EmulatedPmem);
    start(&trial).expect("it opens again");
}

/// A loop device of `bytes`, detached when dropped; `None` where that is not permitted.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn attach(image: &Path, bytes: u64, sector: Option<&str>) -> Option<Loop> {
        std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
        let mut losetup = Command::new("losetup");
        if let Some(sector) = sector {
            losetup.args(["--sector-size", sector]);
        }
        match losetup.args(["--find", "--show"]).arg(image).output() {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Loop { path })
            }
            Ok(output) => {
                eprintln!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: no losetup: {error}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// Real block devices. Says "skipped" and shows nothing where loop devices are not permitted.
#[test]
fn block_devices_are_used_whole_and_refused_when_they_are_somebodys() {
    let dir = tempfile::tempdir().unwrap();
    let Some(data) = Loop::attach(&dir.path().join("data"), 256 << 20, None) else { return };
    let Some(log) = Loop::attach(&dir.path().join("log"), 64 << 20, Some("4096")) else { return };
    let text = format!(
        "targets: 1\nstorage: {{path: {}, devices: [{}], log: {{path: {}, medium: block}}}}\n",
        dir.path().join("daos").display(),
        data.path.display(),
        log.path.display()
    );
    let config = config(&text);
    // A file system on it.
    let mkfs = Command::new("mkfs.ext4").arg("-q").arg(&data.path).output();
    if mkfs.is_ok_and(|output| output.status.success()) {
        let error = start(&config).err().unwrap();
        assert_eq!(error.code, Code::Exists, "{error}");
        assert!(error.message.contains("an ext2, ext3 or ext4 file system"), "{error}");
        // Mounted: not even by force.
        let point = dir.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        let mounted = Command::new("mount").arg(&data.path).arg(&point).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            let outcome = start(&Config { force: true, ..config.clone() });
            assert!(Command::new("umount").arg(&point).status().unwrap().success());
            let error = outcome.err().unwrap();
            assert_eq!(error.code, Code::Busy, "{error}");
            assert!(error.message.contains(data.path.to_str().unwrap()), "{error}");
        } else {
            eprintln!("skipped in part: mounting is not permitted");
        }
    } else {
        eprintln!("skipped in part: no mkfs.ext4");
    }
    let targets = start(&Config { force: true, ..config.clone() }).unwrap();
    assert_eq!((targets[0].data.bytes, targets[0].log.bytes), (256 << 20, 64 << 20), "their real sizes");
    // While it runs, nobody else gets the devices.
    let owned = Owned::take(&config).unwrap();
    assert!(matches!(Disk::claim_device(&log.path), Err(rt::disk::DiskError::Locked { .. })));
    assert!(owned.devices()[0].0.contains("loop"));
    drop(owned);
    assert!(Disk::claim_device(&log.path).unwrap().is_some());
    start(&config).expect("it opens again");
}

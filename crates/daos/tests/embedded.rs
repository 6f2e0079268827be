//! The whole way, from a handle to the disk and back, with the server in this process.

use std::future::Future;
use std::path::Path;

use daos::{
    Acl, AclChange, AclOf, AkeyQuery, AkeyUpdate, Array, ArrayShape, Bytes, Code, Conditions, Container, ContainerSpec,
    DeviceInfo, Direction, EmbeddedOptions, Extent, IoBuf, Key, Kv, ObjectClass, ObjectType, Result, System,
};

const POOL_BYTES: u64 = 512 << 20;

async fn open(path: &Path) -> Result<System> {
    let options = EmbeddedOptions { targets: Some(2), bytes: Some(1 << 30), memory: Some(64 << 20) };
    System::embedded_with(path, options).await
}

/// Runs `work` in a new container, then closes the system.
fn with_container<F: Future<Output = Result<()>>>(work: impl FnOnce(Container) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let system = open(directory.path()).await?;
        work(make_container(&system).await?).await?;
        system.shutdown().await
    });
    outcome.unwrap();
}

async fn make_container(system: &System) -> Result<Container> {
    system.create_pool("tank", POOL_BYTES, vec![]).await?;
    let pool = system.pool("tank").await?;
    pool.create_container(ContainerSpec::labelled("box")).await?;
    pool.container("box").await
}

async fn new_kv(container: &Container) -> Result<Kv> {
    Ok(container.kv(container.new_object(ObjectType::KvHashed, None).await?))
}

async fn new_array(container: &Container, shape: ArrayShape) -> Result<Array> {
    Ok(container.array(container.new_object(ObjectType::ArrayByte, None).await?, shape))
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let system = open(directory.path()).await?;
        let container = make_container(&system).await?;
        let (kv, array) = (new_kv(&container).await?, new_array(&container, ArrayShape::default()).await?);
        for i in 0..500 {
            kv.put(format!("key {i:04}"), format!("value {i}").as_bytes()).await?;
        }
        array.write(0, &pattern(5 << 20)).await?;
        let snapshot = container.create_snapshot(Some("before")).await?;
        kv.put("key 0007", b"changed").await?;
        let (kv, array) = (kv.object().id(), array.object().id());
        system.shutdown().await?;
        assert_eq!(container.info().await.unwrap_err().code, Code::NoHandle);

        let system = open(directory.path()).await?;
        let container = system.pool("tank").await?.container("box").await?;
        let store = container.kv(kv);
        assert_eq!(store.keys().await?.len(), 500);
        assert_eq!(store.get("key 0007").await?.unwrap(), &b"changed"[..]);
        assert_eq!(store.get("key 0008").await?.unwrap(), &b"value 8"[..]);
        let before = container.at_snapshot("before").await?;
        assert_eq!(before.epoch(), Some(snapshot.epoch));
        assert_eq!(before.kv(kv).get("key 0007").await?.unwrap(), &b"value 7"[..]);
        let array = container.array(array, ArrayShape::default());
        assert_eq!(array.size().await?, 5 << 20);
        assert!(array.read(0, 1 << 40).await? == pattern(5 << 20));
        let mut objects = [kv, array.object().id()];
        objects.sort();
        assert_eq!(container.list_objects().await?.objects, objects);
        // A new object does not get an old one's id.
        assert!(!objects.contains(&container.new_object(ObjectType::KvHashed, None).await?));
        system.shutdown().await
    });
    outcome.unwrap();
}

#[test]
fn one_process_at_a_time_has_it_open() {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let system = open(directory.path()).await?;
        let error = open(directory.path()).await.err().expect("it is open already");
        assert_eq!(error.code, Code::Busy, "{error}");
        system.shutdown().await?;
        open(directory.path()).await?.shutdown().await
    });
    outcome.unwrap();
}

/// The handles alone keep the server: the system's own may go.
#[test]
fn a_container_keeps_its_system_running() {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let kv = {
            let system = open(directory.path()).await?;
            new_kv(&make_container(&system).await?).await?
        };
        kv.put("a", b"1").await?;
        assert_eq!(kv.get("a").await?.unwrap(), &b"1"[..]);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn objects_hold_single_values_and_arrays_of_records() {
    with_container(|container| async move {
        let object = container.object(container.new_object(ObjectType::MultiHashed, None).await?);
        let (dkey, large) = (Key::literal("dkey"), Bytes::from(pattern(300_000)));
        let extents =
            vec![(Extent::new(5, 2), Bytes::from_static(b"aabb")), (Extent::new(0, 1), Bytes::from_static(b"zz"))];
        let akeys = vec![
            AkeyUpdate::single(Key::literal("small"), &b"tiny"[..]),
            AkeyUpdate::single(Key::literal("large"), large.clone()),
            AkeyUpdate::single(Key::from(5), &b""[..]),
            AkeyUpdate::array(Key::literal("array"), 2, extents),
        ];
        object.update(&dkey, Conditions::None, akeys).await?;
        let queries = vec![
            AkeyQuery::single(Key::literal("large")),
            AkeyQuery::array(Key::literal("array"), vec![Extent::new(0, 10)]),
            AkeyQuery::single(Key::literal("small")),
            AkeyQuery::single(Key::from(5)),
            AkeyQuery::single(Key::literal("absent")),
        ];
        let found = object.fetch(&dkey, Conditions::None, queries).await?;
        assert_eq!(found[0].value(), Some(&large));
        let pieces: Vec<_> = found[1].pieces.iter().map(|(e, b)| (e.start, e.count, b.as_deref())).collect();
        assert_eq!(pieces, [(0, 1, Some(&b"zz"[..])), (1, 4, None), (5, 2, Some(b"aabb")), (7, 3, None)]);
        assert_eq!(found[2].value().unwrap(), &b"tiny"[..]);
        assert_eq!(found[3].value(), Some(&Bytes::new()), "an empty value is a value");
        assert_eq!(found[4].value(), None);
        let names = [Key::from(5), Key::literal("array"), Key::literal("large"), Key::literal("small")];
        assert_eq!(object.akeys(&dkey).await?, names);
        let listed = object
            .list_extents(&dkey, &Key::literal("array"), Extent::new(0, 1 << 40), 100, Direction::Forward)
            .await?;
        assert_eq!(listed.extents.iter().map(|(e, _)| *e).collect::<Vec<_>>(), [Extent::new(0, 1), Extent::new(5, 2)]);

        object.punch_akeys(&dkey, &[Key::literal("large")], Conditions::AkeyExists).await?;
        object.punch_extents(&dkey, &Key::literal("array"), &[Extent::new(0, 6)], Conditions::None).await?;
        let queries = vec![
            AkeyQuery::single(Key::literal("large")),
            AkeyQuery::array(Key::literal("array"), vec![Extent::new(4, 4)]),
        ];
        let found = object.fetch(&dkey, Conditions::None, queries).await?;
        assert_eq!(found[0].value(), None);
        let pieces: Vec<_> = found[1].pieces.iter().map(|(e, b)| (e.start, e.count, b.as_deref())).collect();
        assert_eq!(pieces, [(4, 2, None), (6, 1, Some(&b"bb"[..])), (7, 1, None)]);
        object.punch().await?;
        assert_eq!(object.dkeys()?.collect().await?, []);
        Ok(())
    });
}

#[test]
fn conditions_are_judged_by_the_server() {
    with_container(|container| async move {
        let kv = new_kv(&container).await?;
        kv.put_if(Conditions::DkeyInsert, "a", b"1").await?;
        let error = kv.put_if(Conditions::DkeyInsert, "a", b"2").await.unwrap_err();
        assert_eq!(error.code, Code::Exists, "{error}");
        assert_eq!(kv.put_if(Conditions::DkeyExists, "b", b"2").await.unwrap_err().code, Code::NotFound);
        assert_eq!(kv.remove_if(Conditions::DkeyExists, "b").await.unwrap_err().code, Code::NotFound);
        kv.remove("b").await?;
        kv.remove("a").await?;
        assert_eq!(kv.get("a").await?, None);
        kv.put_if(Conditions::DkeyInsert, "a", b"3").await?;
        assert_eq!(kv.get("a").await?.unwrap(), &b"3"[..]);
        Ok(())
    });
}

#[test]
fn thousands_of_keys_are_listed_in_order() {
    with_container(|container| async move {
        let kv = container.kv(container.new_object(ObjectType::KvHashed, Some(ObjectClass::SX)).await?);
        let names: Vec<String> = (0..3000).map(|i| format!("key {i:05}")).collect();
        for name in &names {
            kv.put(name, b"v").await?;
        }
        let expected: Vec<Key> = names.iter().map(|name| Key::try_from(name.as_str()).unwrap()).collect();
        assert!(kv.keys().await? == expected);
        assert_eq!(kv.list(Some(&expected[9]), 20).await?, expected[10..30]);
        assert_eq!(kv.list(Some(&expected[2990]), 20).await?, expected[2991..]);
        let mut back = kv.cursor_from(Some(&expected[2500]), Direction::Backward)?.collect().await?;
        back.reverse();
        assert!(back == expected[..2500]);
        Ok(())
    });
}

#[test]
fn arrays_grow_shrink_and_have_holes() {
    with_container(|container| async move {
        let array = new_array(&container, ArrayShape { record_bytes: 1, chunk_records: 100 }).await?;
        let data = pattern(1000);
        assert_eq!(array.size().await?, 0);
        for size in [1000u64, 901, 900, 899, 850, 500, 401, 400, 1, 0] {
            array.write(0, &data).await?;
            array.set_size(size).await?;
            assert_eq!(array.size().await?, size);
            assert_eq!(array.read(0, 2000).await?, data[..size as usize]);
            array.set_size(1000).await?;
            let grown = array.read(0, 2000).await?;
            assert_eq!((grown.len(), &grown[..size as usize]), (1000, &data[..size as usize]));
            assert!(grown[size as usize..].iter().all(|&byte| byte == 0), "{size}");
        }
        for (start, count) in [(0, 10), (50, 100), (100, 100), (130, 555), (0, 999)] {
            array.write(0, &data).await?;
            array.punch(start, count).await?;
            let mut expected = data.clone();
            expected[start as usize..(start + count) as usize].fill(0);
            assert_eq!(array.read(0, 2000).await?, expected, "{start}+{count}");
        }
        array.destroy().await?;
        assert_eq!(array.size().await?, 0);
        Ok(())
    });
}

#[test]
fn large_writes_and_given_buffers_come_back_at_any_offset() {
    with_container(|container| async move {
        let array = new_array(&container, ArrayShape::default()).await?;
        let mut data = pattern(9 << 20);
        array.write(0, &data).await?;
        let patch = vec![0xee; 1_000_000];
        array.write_buf(1_500_000, IoBuf::from_slice(&patch)).await?;
        data[1_500_000..2_500_000].copy_from_slice(&patch);
        array.write_buf(5 << 20, IoBuf::from_slice(&patch)).await?;
        data[5 << 20..][..1_000_000].copy_from_slice(&patch);
        for (start, count) in
            [(0, 9 << 20), (1_499_999, 1_000_002), (32_767, 2), ((1 << 20) - 1, 2), (4_096_123, 3_000_000)]
        {
            assert!(array.read(start as u64, count as u64).await? == data[start..start + count], "{start}+{count}");
            let mut buffer = vec![0; count];
            assert_eq!(array.read_into(start as u64, &mut buffer).await?, count);
            assert!(buffer == data[start..start + count], "{start}+{count}");
        }
        Ok(())
    });
}

#[test]
fn a_full_pool_names_itself_and_loses_nothing() {
    with_container(|container| async move {
        let array = new_array(&container, ArrayShape::default()).await?;
        let chunk = pattern(4 << 20);
        let mut written = 0u64;
        let error = loop {
            match array.write(written, &chunk).await {
                Ok(()) => written += chunk.len() as u64,
                Err(error) => break error,
            }
            assert!(written <= POOL_BYTES, "more went in than the pool holds");
        };
        assert_eq!(error.code, Code::NoSpace, "{error}");
        assert!(error.message.contains("tank"), "{error}");
        for start in (0..written).step_by(chunk.len()) {
            assert!(array.read(start, chunk.len() as u64).await? == chunk, "at {start}");
        }
        Ok(())
    });
}

/// Old versions that nobody can see give their room back: without history to keep, a pool holds what it holds,
/// however often it is written. With history to keep it fills, and says so.
#[test]
fn overwriting_for_ever_fits_a_small_pool() {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let system = open(directory.path()).await?;
        system.create_pool("tank", 64 << 20, vec![]).await?;
        let pool = system.pool("tank").await?;
        for (label, retention, fits) in [("now", "0", true), ("history", "forever", false)] {
            pool.create_container(ContainerSpec::labelled(label)).await?;
            let container = pool.container(label).await?;
            container.set_properties(vec![("retention".into(), retention.into())]).await?;
            let (kv, array) = (new_kv(&container).await?, new_array(&container, ArrayShape::default()).await?);
            let mut written = Ok(());
            for round in 0..100u64 {
                written = array.write(0, &pattern(1 << 20)).await;
                kv.put("count", &round.to_le_bytes()).await?;
                if written.is_err() {
                    break;
                }
            }
            match written {
                Ok(()) => assert!(fits, "a hundred versions of 1 MiB are kept in 64 MiB"),
                Err(error) => assert!(!fits && error.code == Code::NoSpace, "{error}"),
            }
            assert_eq!(array.read(0, 1 << 20).await?.to_vec(), pattern(1 << 20));
            pool.destroy_container(label).await?;
        }
        system.shutdown().await
    });
    outcome.unwrap();
}

/// A bit that flips on the device, in data that nobody reads, is found by scrubbing, and what lies there is named.
#[test]
fn scrubbing_finds_what_nobody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let system = open(directory.path()).await?;
        system.create_pool("tank", 64 << 20, vec![("scrub_freq".into(), "1s".into())]).await?;
        let pool = system.pool("tank").await?;
        let id = pool.create_container(ContainerSpec::labelled("data")).await?.id;
        let array = new_array(&pool.container("data").await?, ArrayShape::default()).await?;
        array.write(0, &pattern(1 << 20)).await?;
        let healthy = wait_for_scrubs(&system, 1).await?;
        assert!(healthy.scrubbed_values > 0 && healthy.damaged == 0, "{healthy:?}");
        flip_a_bit(directory.path(), &pattern(1 << 20)[100_000..104_000]);
        // Passes went on while it was looked for; the one that is under way may be past it.
        let passed = wait_for_scrubs(&system, healthy.scrubs).await?.scrubs;
        let found = wait_for_scrubs(&system, passed + 2).await?;
        assert!(found.damaged > 0 && found.mended == 0, "{found:?}");
        assert!(found.damage[0].contains(&id.to_string()) && found.damage[0].contains("checksum"), "{found:?}");
        assert_eq!(array.read(0, 1 << 20).await.unwrap_err().code, Code::Checksum);
        system.set_pool_properties("tank", vec![("scrub_freq".into(), "forever".into())]).await?;
        system.shutdown().await
    });
    outcome.unwrap();
}

/// The target with most to tell, once it has scrubbed so often.
async fn wait_for_scrubs(system: &System, scrubs: u64) -> Result<DeviceInfo> {
    loop {
        let devices = system.storage().await?.devices;
        if devices.iter().all(|device| device.scrubs >= scrubs) {
            return Ok(devices.into_iter().max_by_key(|device| (device.damaged, device.scrubbed_values)).unwrap());
        }
        rt::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Changes a bit of `wanted`, in whichever file below `directory` it lies.
fn flip_a_bit(directory: &std::path::Path, wanted: &[u8]) {
    use std::os::unix::fs::FileExt;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            flip_a_bit(&path, wanted);
        } else if let Some(at) = std::fs::read(&path).unwrap().windows(wanted.len()).position(|part| part == wanted) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[wanted[0] ^ 4], at as u64).unwrap();
        }
    }
}

/// A snapshot is told apart from now, and gone back to.
#[test]
fn a_container_goes_back_to_a_snapshot() {
    with_container(|container| async move {
        let (kv, array) = (new_kv(&container).await?, new_array(&container, ArrayShape::default()).await?);
        for i in 0..300 {
            kv.put(format!("key {i:03}"), b"first").await?;
        }
        array.write(0, &pattern(3 << 20)).await?;
        let first = container.create_snapshot(Some("first")).await?;
        let count = async || -> Result<usize> {
            let mut count = 0;
            container.diff(first.epoch, |found| count += found.len()).await?;
            Ok(count)
        };
        assert_eq!(count().await?, 0);
        kv.put("key 000", b"second").await?;
        kv.put("new", b"second").await?;
        kv.remove("key 001").await?;
        array.write(100, b"something else").await?;
        container.create_snapshot(Some("second")).await?;
        assert_eq!(count().await?, 4, "three keys and one run of records");
        container.rollback("first").await?;
        assert_eq!(kv.get("key 000").await?.as_deref(), Some(&b"first"[..]));
        assert_eq!((kv.get("new").await?, count().await?), (None, 0));
        assert_eq!(array.read(0, 3 << 20).await?.to_vec(), pattern(3 << 20));
        assert_eq!(container.snapshots().await?.len(), 1, "the later snapshot is gone");
        // Writers wait until all is removed, and then go on.
        kv.put("new", b"third").await?;
        assert_eq!((kv.get("new").await?.as_deref(), count().await?), (Some(&b"third"[..]), 1));
        Ok(())
    });
}

#[test]
fn pools_and_containers_are_made_described_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let outcome: Result<()> = daos::block_on(async {
        let system = open(directory.path()).await?;
        assert_eq!(system.info().await?.members.len(), 1);
        assert_eq!(system.storage().await?.devices.len(), 2);
        let container = make_container(&system).await?;
        let error = system.create_pool("tank", POOL_BYTES / 2, vec![]).await.unwrap_err();
        assert_eq!(error.code, Code::Exists, "{error}");
        let error = system.create_pool("huge", 1 << 50, vec![]).await.unwrap_err();
        assert_eq!(error.code, Code::NoSpace, "{error}");
        let error = system.pool("tanc").await.err().unwrap();
        assert!(error.code == Code::NotFound && error.message.contains("tanc"), "{error}");

        container.set_attributes(vec![("colour".into(), Bytes::from_static(b"blue"))]).await?;
        assert_eq!(container.attribute_names().await?, ["colour"]);
        assert_eq!(container.attributes(&["colour"]).await?, [("colour".to_string(), Bytes::from_static(b"blue"))]);
        container.delete_attributes(&["colour"]).await?;
        assert_eq!(container.attributes(&[]).await?, []);
        container.set_properties(vec![("status".into(), "unclean".into())]).await?;
        assert!(container.properties().await?.contains(&("status".into(), "unclean".into())));

        assert_eq!(system.destroy_pool("tank", false).await.unwrap_err().code, Code::Busy);
        container.pool().destroy_container("box").await?;
        assert_eq!(container.pool().containers().await?, []);
        system.destroy_pool("tank", false).await?;
        assert_eq!(system.pools().await?, []);
        system.shutdown().await
    });
    outcome.unwrap();
}

#[test]
fn pools_and_containers_have_owners_and_access_control_lists() {
    with_container(async |container: Container| {
        let pool = container.pool();
        assert_eq!(pool.acl().await?.acl, AclOf::Pool.default_acl());
        let more: Acl = "A::ann@:rw\nA:G:staff@:r".parse()?;
        let changed = pool.change_acl(AclChange::Update { acl: more.clone() }).await?;
        assert_eq!(changed.acl, AclOf::Pool.default_acl().updated(&more)?);
        assert_eq!(pool.acl().await?, changed);

        let spec = ContainerSpec { acl: Some(more.clone()), ..ContainerSpec::labelled("crate") };
        pool.create_container(spec).await?;
        let other = pool.container("crate").await?;
        other.set_owner(Some("ann@".parse()?), None).await?;
        let held = other.change_acl(AclChange::Delete { principal: "g:staff@".parse()? }).await?;
        assert_eq!((held.owner.as_str(), held.acl.to_string().as_str()), ("ann@", "A::ann@:rw\n"));
        assert_eq!(other.acl().await?, held);
        assert_eq!(container.acl().await?.acl, AclOf::Container.default_acl());

        let error = other.set_owner(None, None).await.unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{error}");
        let wrong = "A::ann@:c".parse()?;
        let spec = ContainerSpec { acl: Some(wrong), ..ContainerSpec::labelled("chest") };
        let error = pool.create_container(spec).await.unwrap_err();
        assert!(error.code == Code::Invalid && error.message.contains("create containers"), "{error}");
        Ok(())
    });
}

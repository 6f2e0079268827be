//! Systems, pools, containers, snapshots.

use std::time::Duration;

use client::{Address, Code, ContainerSpec, ObjectClass, ObjectType, System, SystemOptions};

use crate::fake::{Fake, POOL};

fn is_send<T: Send>(value: T) -> T {
    value
}

#[test]
fn handles_and_futures_cross_threads() {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<System>();
    is_shared::<client::Pool>();
    is_shared::<client::Container>();
    is_shared::<client::Object>();
    is_shared::<client::Kv>();
    is_shared::<client::Array>();
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let container = fake.container().await;
        let oid = is_send(container.new_object(ObjectType::ArrayByte, None)).await.unwrap();
        let array = container.array(oid, client::ArrayShape::default());
        is_send(array.write(0, b"abc")).await.unwrap();
        is_send(array.write_buf(3, client::IoBuf::from_slice(b"def"))).await.unwrap();
        assert_eq!(is_send(array.read(0, 9)).await.unwrap(), &b"abcdef"[..]);
        is_send(array.read_into(0, &mut [0; 3])).await.unwrap();
        is_send(array.set_size(2)).await.unwrap();
        is_send(array.punch(0, 1)).await.unwrap();
        let kv = container.kv(oid);
        is_send(kv.list(None, 1)).await.unwrap();
        is_send(container.list_objects()).await.unwrap();
        is_send(container.snapshots()).await.unwrap();
    });
}

#[test]
fn labels_and_uuids_name_the_same_things() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let system = fake.connect().await;
        let pool = system.pool("tank").await.unwrap();
        assert_eq!((pool.id(), pool.label()), (POOL, "tank"));
        assert_eq!(system.pool(&POOL.to_string()).await.unwrap().id(), POOL);
        let made = pool.create_container(ContainerSpec::labelled("box")).await.unwrap();
        let container = pool.container(&made.id.to_string()).await.unwrap();
        assert_eq!((container.id(), container.label()), (made.id, "box"));
        let error = system.pool("tink").await.err().unwrap();
        assert_eq!(error.code, Code::NotFound);
        assert!(error.message.contains("tink") && error.remedy.is_some(), "{error}");
        let error = pool.container("bax").await.err().unwrap();
        assert!(error.message.contains("pool 'tank'") && error.message.contains("bax"), "{error}");
        let error = pool.create_container(ContainerSpec::labelled("box")).await.unwrap_err();
        assert_eq!(error.code, Code::Exists);
    });
}

#[test]
fn a_thing_in_use_is_an_answer_and_not_waited_for() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let system = fake.connect().await;
        let error = system.destroy_pool("tank", false).await.unwrap_err();
        assert_eq!((error.code, fake.seen(wire::Opcode::PoolDestroy)), (Code::Busy, 1));
        system.destroy_pool("tank", true).await.unwrap();
    });
}

#[test]
fn snapshots_keep_the_past_and_refuse_writes() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::KvHashed, None).await.unwrap();
        let kv = container.kv(oid);
        kv.put("a", b"old").await.unwrap();
        let snapshot = container.create_snapshot(Some("monday")).await.unwrap();
        kv.put("a", b"new").await.unwrap();
        kv.put("b", b"new").await.unwrap();
        for past in [
            container.at(snapshot.epoch),
            container.at_snapshot("monday").await.unwrap(),
            container.at_snapshot(&snapshot.epoch.to_string()).await.unwrap(),
        ] {
            let past_kv = past.kv(oid);
            assert_eq!(past_kv.get("a").await.unwrap().unwrap(), &b"old"[..]);
            assert_eq!(past_kv.get("b").await.unwrap(), None);
            assert_eq!(past_kv.keys().await.unwrap().len(), 1);
            assert_eq!(past_kv.put("a", b"x").await.unwrap_err().code, Code::NoPermission);
            assert_eq!(past_kv.remove("a").await.unwrap_err().code, Code::NoPermission);
            let array = past.array(oid, client::ArrayShape::default());
            assert_eq!(array.write(0, b"x").await.unwrap_err().code, Code::NoPermission);
            assert_eq!(array.set_size(1).await.unwrap_err().code, Code::NoPermission);
        }
        assert_eq!(kv.get("a").await.unwrap().unwrap(), &b"new"[..]);
        let error = container.at_snapshot("tuesday").await.err().unwrap();
        assert!(error.to_string().contains("it has monday"), "{error}");
    });
}

#[test]
fn object_ids_are_distinct_and_carry_type_and_class() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let one = fake.container().await;
        let two = fake.container().await;
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..1500 {
            ids.insert(one.new_object(ObjectType::MultiHashed, None).await.unwrap());
            ids.insert(two.new_object(ObjectType::KvHashed, Some(ObjectClass::S1)).await.unwrap());
        }
        assert_eq!(ids.len(), 3000);
        let oid = one.new_object(ObjectType::ArrayByte, None).await.unwrap();
        assert_eq!((oid.kind(), oid.class()), (Some(ObjectType::ArrayByte), Some(ObjectClass::SX)));
        let error = one.new_object(ObjectType::ArrayByte, Some("RP_2G1".parse().unwrap())).await.unwrap_err();
        assert!(error.message.contains("RP_2G1") && error.remedy.is_some(), "{error}");
    });
}

#[test]
fn the_first_server_that_answers_is_taken() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let addresses = [Address::Mem("nobody".into()), fake.address()];
        let system = System::connect(&addresses, SystemOptions::default()).await.unwrap();
        assert_eq!(system.info().await.unwrap().name, "daos_server");
    });
}

#[test]
fn no_server_is_said_soon_and_with_a_remedy() {
    rt::block_on(async {
        let options = SystemOptions { deadline: Duration::from_millis(100), ..SystemOptions::default() };
        let error = System::connect(&[Address::Mem("nobody".into())], options).await.err().unwrap();
        assert_eq!(error.code, Code::Unreachable);
        assert!(error.remedy.is_some(), "{error}");
        let error = System::connect(&[], SystemOptions::default()).await.err().unwrap();
        assert_eq!(error.code, Code::Invalid);
    });
}

#[test]
fn another_systems_name_is_noticed() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let options = SystemOptions { system: Some("other".into()), ..SystemOptions::default() };
        let error = System::connect(&[fake.address()], options).await.err().unwrap();
        assert!(error.message.contains("other"), "{error}");
        for named in [None, Some("daos_server".to_owned())] {
            let options = SystemOptions { system: named, ..SystemOptions::default() };
            System::connect(&[fake.address()], options).await.unwrap();
        }
    });
}

#[test]
fn a_closed_system_says_so_at_once() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let container = fake.container().await;
        let kv = container.kv(container.new_object(ObjectType::KvHashed, None).await.unwrap());
        kv.put("a", b"1").await.unwrap();
        container.pool().system().close();
        assert_eq!(kv.put("a", b"2").await.unwrap_err().code, Code::NoHandle);
        assert_eq!(container.info().await.unwrap_err().code, Code::NoHandle);
    });
}

//! Objects and key-value stores.

use client::{
    AkeyQuery, AkeyUpdate, Bytes, Code, Conditions, Direction, Epoch, Extent, IntoKey, Key, ObjectClass, ObjectType,
};

use crate::fake::Fake;

fn key(text: &'static str) -> Key {
    Key::literal(text)
}

#[test]
fn values_come_back_small_and_large() {
    rt::block_on(async {
        let fake = Fake::start(4).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::MultiHashed, None).await.unwrap();
        let object = container.object(oid);
        let large: Bytes = (0..200_000u32).map(|i| i as u8).collect::<Vec<_>>().into();
        let extents =
            vec![(Extent::new(5, 2), Bytes::from_static(b"aabb")), (Extent::new(0, 1), Bytes::from_static(b"zz"))];
        let akeys = vec![
            AkeyUpdate::single(key("small"), &b"tiny"[..]),
            AkeyUpdate::single(key("large"), large.clone()),
            AkeyUpdate::single(key("empty"), &b""[..]),
            AkeyUpdate::array(key("array"), 2, extents),
        ];
        let epoch = object.update(&key("d"), Conditions::None, akeys).await.unwrap();
        assert!(epoch > Epoch::ZERO);
        let queries = vec![
            AkeyQuery::single(key("large")),
            AkeyQuery::array(key("array"), vec![Extent::new(0, 10)]),
            AkeyQuery::single(key("small")),
            AkeyQuery::single(key("empty")),
            AkeyQuery::single(key("absent")),
        ];
        let found = object.fetch(&key("d"), Conditions::None, queries).await.unwrap();
        assert_eq!(found[0].value(), Some(&large));
        let pieces: Vec<_> = found[1].pieces.iter().map(|(e, b)| (e.start, e.count, b.as_deref())).collect();
        assert_eq!(pieces, [(0, 1, Some(&b"zz"[..])), (1, 4, None), (5, 2, Some(b"aabb")), (7, 3, None)]);
        assert_eq!(found[2].value().unwrap(), &b"tiny"[..]);
        assert_eq!(found[3].value(), Some(&Bytes::new()));
        assert_eq!(found[4].value(), None);
        assert_eq!(object.akeys(&key("d")).await.unwrap(), ["array", "empty", "large", "small"].map(key));
        let extents =
            object.list_extents(&key("d"), &key("array"), Extent::new(0, 100), 100, Direction::Forward).await.unwrap();
        assert_eq!(extents.extents.iter().map(|(e, _)| *e).collect::<Vec<_>>(), [Extent::new(0, 1), Extent::new(5, 2)]);
    });
}

#[test]
fn a_read_too_large_for_one_answer_is_split() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let container = fake.container().await;
        let object = container.object(container.new_object(ObjectType::MultiHashed, None).await.unwrap());
        let value = Bytes::from(vec![9; 7 << 20]);
        for akey in 0..5u64 {
            let akeys = vec![AkeyUpdate::single(akey.into(), value.clone())];
            object.update(&key("d"), Conditions::None, akeys).await.unwrap();
        }
        let queries = (0..5u64).map(|akey| AkeyQuery::single(akey.into())).collect();
        let found = object.fetch(&key("d"), Conditions::None, queries).await.unwrap();
        assert!(found.iter().all(|result| result.value() == Some(&value)));
    });
}

#[test]
fn conditions_reach_the_server_and_their_failures_the_user() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let container = fake.container().await;
        let kv = container.kv(container.new_object(ObjectType::KvHashed, None).await.unwrap());
        kv.put_if(Conditions::DkeyInsert, "a", b"1").await.unwrap();
        let error = kv.put_if(Conditions::DkeyInsert, "a", b"2").await.unwrap_err();
        assert_eq!(error.code, Code::Exists);
        assert!(error.message.contains("container 'box' in pool 'tank'"), "{error}");
        assert_eq!(kv.put_if(Conditions::DkeyExists, "b", b"2").await.unwrap_err().code, Code::NotFound);
        assert_eq!(kv.remove_if(Conditions::DkeyExists, "b").await.unwrap_err().code, Code::NotFound);
        kv.remove("b").await.unwrap();
        assert_eq!(kv.get("a").await.unwrap().unwrap(), &b"1"[..]);
        kv.remove("a").await.unwrap();
        assert_eq!(kv.get("a").await.unwrap(), None);
    });
}

#[test]
fn keys_are_listed_in_order_over_all_groups() {
    rt::block_on(async {
        let fake = Fake::start(4).await;
        let container = fake.container().await;
        let kv = container.kv(container.new_object(ObjectType::KvHashed, Some(ObjectClass::SX)).await.unwrap());
        let names: Vec<String> = (0..57).map(|i| format!("key {i:03}")).collect();
        for name in &names {
            kv.put(name, name.as_bytes()).await.unwrap();
        }
        let expected: Vec<Key> = names.iter().map(|name| name.into_key().unwrap()).collect();
        assert_eq!(kv.keys().await.unwrap(), expected);
        assert_eq!(kv.list(Some(&expected[9]), 20).await.unwrap(), expected[10..30]);
        assert_eq!(kv.list(Some(&expected[50]), 20).await.unwrap(), expected[51..]);
        let layout = kv.object().layout().unwrap();
        assert_eq!(layout.iter().map(|shard| shard.target).collect::<std::collections::BTreeSet<_>>().len(), 4);

        assert_eq!(container.list_objects().await.unwrap().objects, [kv.object().id()]);
        kv.destroy().await.unwrap();
        assert_eq!(kv.keys().await.unwrap(), []);
        assert_eq!(container.list_objects().await.unwrap().objects, []);
    });
}

#[test]
fn bad_requests_are_refused_before_anything_is_sent() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let container = fake.container().await;
        let kv = container.kv(container.new_object(ObjectType::KvHashed, None).await.unwrap());
        assert_eq!(kv.put("", b"x").await.unwrap_err().code, Code::Invalid);
        assert_eq!(kv.put("k".repeat(1025), b"x").await.unwrap_err().code, Code::KeyTooBig);
        let error = kv.put("k", &vec![0; (16 << 20) + 1]).await.unwrap_err();
        assert_eq!(error.code, Code::ValueTooBig);
        assert!(error.remedy.is_some());
        let integers = container.kv(container.new_object(ObjectType::KvUint64, None).await.unwrap());
        assert_eq!(integers.put("text", b"x").await.unwrap_err().code, Code::Invalid);
        integers.put(7, b"x").await.unwrap();
        assert_eq!(fake.changes(), 1);
    });
}

#[test]
fn query_keys_finds_the_ends_over_all_groups() {
    rt::block_on(async {
        let fake = Fake::start(4).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::DkeyUint64, Some(ObjectClass::SX)).await.unwrap();
        let object = container.object(oid);
        for (dkey, records) in [(3u64, 9u64), (90, 4), (41, 30)] {
            let akeys =
                vec![AkeyUpdate::array(key("a"), 1, vec![(Extent::new(0, records), vec![1; records as usize].into())])];
            object.update(&dkey.into(), Conditions::None, akeys).await.unwrap();
        }
        let ends = object.query_keys(None, Some(&key("a"))).await.unwrap();
        assert_eq!((ends.dkey_min, ends.dkey_max, ends.array_end, ends.record_bytes), (Some(3), Some(90), 4, 1));
        let ends = object.query_keys(Some(&41.into()), Some(&key("a"))).await.unwrap();
        assert_eq!(ends.array_end, 30);
    });
}

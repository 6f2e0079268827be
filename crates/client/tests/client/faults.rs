//! What the client does when answers are late, lost, damaged or refused.

use std::time::Duration;

use client::{Code, Conditions, ObjectType, SystemOptions};
use placement::Event;
use wire::Opcode;

use crate::fake::{Fake, Fault};

async fn kv(fake: &Fake) -> client::Kv {
    let container = fake.container().await;
    container.kv(container.new_object(ObjectType::KvHashed, None).await.unwrap())
}

#[test]
fn a_request_lost_before_it_was_done_is_done_once() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let kv = kv(&fake).await;
        kv.put("warm", b"").await.unwrap();
        fake.fail(Opcode::Update, Fault::BreakBefore);
        kv.put_if(Conditions::DkeyInsert, "a", b"1").await.unwrap();
        assert_eq!((fake.changes(), fake.seen(Opcode::Update)), (2, 3));
    });
}

/// Without the same number on the repeat, the insert would meet its own first success as `Exists`.
#[test]
fn a_request_whose_answer_was_lost_is_not_done_twice() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let kv = kv(&fake).await;
        for round in 0..5u64 {
            fake.fail(Opcode::Update, Fault::BreakAfter);
            fake.fail(Opcode::Update, Fault::BreakAfter);
            kv.put_if(Conditions::DkeyInsert, format!("key {round}"), b"1").await.unwrap();
        }
        assert_eq!((fake.changes(), fake.seen(Opcode::Update)), (5, 15));
    });
}

#[test]
fn control_requests_are_repeated_too() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let pool = fake.connect().await.pool("tank").await.unwrap();
        fake.fail(Opcode::ContainerCreate, Fault::BreakAfter);
        pool.create_container(client::ContainerSpec::labelled("one")).await.unwrap();
        fake.fail(Opcode::ContainerList, Fault::BreakBefore);
        assert_eq!(pool.containers().await.unwrap().len(), 1);
    });
}

#[test]
fn bulk_data_survives_a_broken_link() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let kv = kv(&fake).await;
        let value: Vec<u8> = (0..500_000u32).map(|i| (i % 251) as u8).collect();
        fake.fail(Opcode::Update, Fault::BreakBefore);
        fake.fail(Opcode::Fetch, Fault::BreakAfter);
        kv.put("big", &value).await.unwrap();
        assert_eq!(kv.get("big").await.unwrap().unwrap(), value);
    });
}

#[test]
fn transient_refusals_are_waited_out_and_final_ones_reported_at_once() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let kv = kv(&fake).await;
        for code in [Code::Busy, Code::Again, Code::Overload, Code::ShuttingDown] {
            fake.fail(Opcode::Update, Fault::Refuse(code));
        }
        kv.put("a", b"1").await.unwrap();
        assert_eq!(fake.seen(Opcode::Update), 5);
        fake.fail(Opcode::Update, Fault::Refuse(Code::NoSpace));
        let error = kv.put("b", b"1").await.unwrap_err();
        assert_eq!((error.code, fake.seen(Opcode::Update)), (Code::NoSpace, 6));
        assert!(!error.message.contains("attempts"), "{error}");
    });
}

#[test]
fn damaged_data_is_reported_with_its_place() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let kv = kv(&fake).await;
        for (name, value) in [("small", vec![1; 100]), ("large", vec![2; 100_000])] {
            kv.put(name, &value).await.unwrap();
            fake.fail(Opcode::Fetch, Fault::Corrupt);
            let error = kv.get(name).await.unwrap_err();
            assert_eq!(error.code, Code::Checksum);
            for part in
                [&format!("object {}", kv.object().id()), "'box'", "'tank'", &format!("dkey '{name}'"), "akey '0'"]
            {
                assert!(error.message.contains(part), "{error}");
            }
            assert_eq!(kv.get(name).await.unwrap().unwrap(), value);
        }
        fake.fail(Opcode::Fetch, Fault::Noise);
        assert_eq!(kv.get("small").await.unwrap_err().code, Code::Protocol);
    });
}

#[test]
fn a_stale_map_is_fetched_anew() {
    rt::block_on(async {
        let fake = Fake::start(4).await;
        let kv = kv(&fake).await;
        kv.put("a", b"1").await.unwrap();
        fake.renumber(5);
        kv.put("b", b"2").await.unwrap();
        assert_eq!((fake.seen(Opcode::PoolMapSince), fake.seen(Opcode::Update)), (1, 3));
        assert_eq!(kv.get("a").await.unwrap().unwrap(), &b"1"[..]);
        assert_eq!(fake.seen(Opcode::Fetch), 1);
    });
}

#[test]
fn a_target_that_is_down_is_waited_for() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        fake.happen(Event::Exclude, &[0]);
        let container = fake.container().await;
        let kv = container.kv(container.new_object(ObjectType::KvHashed, None).await.unwrap());
        let put = kv.put("a", b"1");
        let mend = async {
            rt::sleep(Duration::from_millis(50)).await;
            fake.happen(Event::Reintegrate, &[0]);
            fake.happen(Event::Reintegrated, &[0]);
        };
        futures_util::join!(put, mend).0.unwrap();
        assert_eq!(fake.changes(), 1);
    });
}

#[test]
fn silence_ends_at_the_deadline_and_says_that_nobody_knows() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::KvHashed, None).await.unwrap();
        let hasty = SystemOptions { deadline: Duration::from_millis(300), ..SystemOptions::default() };
        let pool = fake.connect_with(hasty).await.pool("tank").await.unwrap();
        let kv = pool.container("box").await.unwrap().kv(oid);
        fake.fail(Opcode::Update, Fault::Silence);
        let error = kv.put("a", b"1").await.unwrap_err();
        assert_eq!(error.code, Code::TimedOut);
        assert!(error.message.contains("whether it took effect is unknown"), "{error}");
        fake.fail(Opcode::Fetch, Fault::Silence);
        let error = kv.get("a").await.unwrap_err();
        assert_eq!(error.code, Code::TimedOut);
        assert!(!error.message.contains("unknown"), "a read changes nothing: {error}");
        kv.put("a", b"2").await.unwrap();
    });
}

#[test]
fn a_given_buffer_that_was_lost_is_reported_as_unknown() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::ArrayByte, None).await.unwrap();
        let array = container.array(oid, client::ArrayShape::default());
        fake.fail(Opcode::Update, Fault::BreakAfter);
        let error = array.write_buf(0, client::IoBuf::from_slice(&[1; 10_000])).await.unwrap_err();
        assert_eq!(error.code, Code::TimedOut);
        assert!(error.message.contains("unknown"), "{error}");
        fake.fail(Opcode::Update, Fault::BreakAfter);
        array.write(0, &[1; 10_000]).await.unwrap();
    });
}

#[test]
fn an_operation_that_is_dropped_harms_nobody() {
    rt::block_on(async {
        let fake = Fake::start(2).await;
        let container = fake.container().await;
        let oid = container.new_object(ObjectType::ArrayByte, None).await.unwrap();
        let array = container.array(oid, client::ArrayShape { record_bytes: 1, chunk_records: 100 });
        fake.fail(Opcode::Update, Fault::Silence);
        let write = array.write(0, &[1; 10_000]);
        assert!(rt::timeout(Duration::from_millis(50), write).await.is_err());
        array.write(0, &[2; 10_000]).await.unwrap();
        assert_eq!(array.read(0, 10_000).await.unwrap(), vec![2; 10_000]);
    });
}

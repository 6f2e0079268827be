//! Several servers: who is asked, and what happens when they come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use client::{Code, Container, ContainerSpec, Kv, ObjectClass, ObjectType, ShardState, System, SystemOptions};
use placement::Event;
use types::Rank;
use wire::Opcode;

use crate::fake::{Fake, Fault, Fence};

fn class(name: &str) -> ObjectClass {
    name.parse().unwrap()
}

async fn kv(container: &Container, name: &str) -> Kv {
    container.kv(container.new_object(ObjectType::KvHashed, Some(class(name))).await.unwrap())
}

fn hasty(deadline_ms: u64) -> SystemOptions {
    SystemOptions { deadline: Duration::from_millis(deadline_ms), ..SystemOptions::default() }
}

#[test]
fn a_new_leader_is_found_with_the_newer_map() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 2).await;
        let container = fake.container().await;
        let kv = kv(&container, "RP_3G1").await;
        kv.put("a", b"1").await.unwrap();
        let old = fake.leader_of(kv.object().id());
        // Who drains serves on, and does not lead.
        fake.happen(Event::Drain, &[old]);
        let new = fake.leader_of(kv.object().id());
        assert_ne!(old, new);
        kv.put("b", b"2").await.unwrap();
        assert_eq!(fake.ranks_asked(Opcode::Update), [old, old, new]);
        assert_eq!((fake.changes(), fake.seen(Opcode::PoolMapSince), fake.seen(Opcode::PoolConnect)), (2, 1, 1));
        assert_eq!(kv.get("a").await.unwrap().unwrap(), &b"1"[..]);
        assert_eq!(fake.ranks_asked(Opcode::Fetch), [new]);
    });
}

#[test]
fn a_leader_that_dies_is_replaced_and_nobody_hears_of_it() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let container = fake.container().await;
        let kv = kv(&container, "RP_2G1").await;
        kv.put("a", b"1").await.unwrap();
        let dead = fake.leader_of(kv.object().id());
        fake.stop(dead);
        let puts = async {
            kv.put("b", b"2").await.unwrap();
            assert_eq!(kv.get("a").await.unwrap().unwrap(), &b"1"[..]);
        };
        let exclude = async {
            rt::sleep(Duration::from_millis(100)).await;
            fake.happen(Event::Exclude, &[dead]);
        };
        futures_util::join!(puts, exclude);
        assert_eq!(fake.changes(), 2);
        assert_ne!(fake.leader_of(kv.object().id()), dead);
    });
}

/// The answer was lost with the leader: its successor is asked under the same number, and knows the answer.
#[test]
fn a_request_keeps_its_number_from_leader_to_leader() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let container = fake.container().await;
        let kv = kv(&container, "RP_3G1").await;
        kv.put("a", b"1").await.unwrap();
        let dead = fake.leader_of(kv.object().id());
        fake.fail(Opcode::Update, Fault::BreakAfter);
        let put = kv.put("b", b"2");
        let die = async {
            while fake.seen(Opcode::Update) < 2 {
                rt::yield_now().await;
            }
            rt::yield_now().await;
            fake.stop(dead);
            fake.happen(Event::Exclude, &[dead]);
        };
        futures_util::join!(put, die).0.unwrap();
        assert_eq!(fake.changes(), 2, "it took effect once");
    });
}

/// The answer was lost with the link, and whoever opened the next one was told that the server's clock is off: that was taken for
/// the answer to the request, which had long been done. It goes to the successor, and that one knows the answer.
#[test]
fn a_target_that_lets_nobody_in_has_not_answered() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let container = fake.container().await;
        let kv = kv(&container, "RP_3G1").await;
        kv.put("a", b"1").await.unwrap();
        let then = container.create_snapshot(None).await.unwrap().epoch;
        let oid = kv.object().id();
        let old = fake.leader_of(oid);
        fake.fenced.borrow_mut().insert(old, Fence::Targets);
        // What was is with others, too, and nobody waits for a map that says so.
        for _ in 0..16 {
            let past = fake.container().await.at(then).kv(oid);
            assert_eq!(past.get("a").await.unwrap().unwrap(), &b"1"[..]);
        }
        assert!(!fake.ranks_asked(Opcode::Fetch).contains(&old));
        assert_eq!(fake.seen(Opcode::PoolMapSince), 0);
        fake.fail(Opcode::Update, Fault::BreakAfter);
        let put = kv.put("b", b"2");
        let exclude = async {
            // It looks for a newer map more than once.
            while fake.seen(Opcode::PoolMapSince) < 2 {
                rt::yield_now().await;
            }
            fake.happen(Event::Exclude, &[old]);
        };
        futures_util::join!(put, exclude).0.unwrap();
        assert_ne!(fake.leader_of(oid), old);
        assert_eq!((fake.seen(Opcode::Update), fake.changes()), (3, 2), "it took effect once");
    });
}

/// Nobody takes its place before the time is up: a request that was sent may have been done, and one that never was has not;
/// neither was refused for a clock.
#[test]
fn who_is_let_in_nowhere_hears_whether_its_request_was_sent() {
    rt::block_on(async {
        let fake = Fake::start(1).await;
        let oid = kv(&fake.container().await, "S1").await.object().id();
        let pool = fake.connect_with(hasty(300)).await.pool("tank").await.unwrap();
        let kv = pool.container("box").await.unwrap().kv(oid);
        fake.fenced.borrow_mut().insert(0, Fence::All);
        let error = kv.put("a", b"1").await.unwrap_err();
        assert!(!error.message.contains("unknown"), "it was never sent: {error}");
        assert!(error.message.contains("clock is off") && error.message.contains("gave up after"), "{error}");
        fake.fenced.borrow_mut().clear();
        kv.put("a", b"1").await.unwrap();
        fake.fail(Opcode::Update, Fault::BreakAfter);
        fake.fail(Opcode::ContainerCreate, Fault::BreakAfter);
        fake.fenced.borrow_mut().insert(0, Fence::All);
        let to_a_target = kv.put("b", b"2").await.unwrap_err();
        fake.fenced.borrow_mut().clear();
        pool.containers().await.unwrap();
        fake.fenced.borrow_mut().insert(0, Fence::All);
        let to_a_service = pool.create_container(ContainerSpec::labelled("crate")).await.unwrap_err();
        for error in [to_a_target, to_a_service] {
            assert_eq!(error.code, Code::TimedOut, "{error}");
            assert!(error.message.contains("clock is off"), "{error}");
            assert!(error.message.contains("whether it took effect is unknown"), "{error}");
        }
        assert_eq!(fake.changes(), 2);
    });
}

#[test]
fn a_control_service_that_is_gone_has_others() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let both = [fake.address_of(0), fake.address_of(1)];
        let told = System::connect(&both, SystemOptions::default()).await.unwrap();
        // This one knows of the others only by the pool's map.
        let learned = System::connect(&[fake.address_of(0)], SystemOptions::default()).await.unwrap();
        let pool = learned.pool("tank").await.unwrap();
        fake.stop(0);
        told.info().await.unwrap();
        learned.info().await.unwrap();
        pool.create_container(ContainerSpec::labelled("box")).await.unwrap();
        // And what is no replica of the service passes the question on.
        fake.no_service.borrow_mut().insert(1);
        assert_eq!(pool.containers().await.unwrap().len(), 1);
    });
}

/// An address of old may be another system's by now, and that one would say that there is no such pool.
#[test]
fn another_system_at_an_address_of_old_is_passed_over() {
    rt::block_on(async {
        let fake = Fake::cluster(2, 1).await;
        let both = [fake.address_of(0), fake.address_of(1)];
        let system = System::connect(&both, SystemOptions::default()).await.unwrap();
        let pool = system.pool("tank").await.unwrap();
        fake.stop(0);
        rt::sleep(Duration::from_millis(10)).await;
        let address = fake.address_of(0);
        let listener = net::Listener::bind(&address, "other", rt::Hlc::new()).await.unwrap();
        let other = rt::spawn_local(async move { while listener.accept().await.is_some() {} });
        pool.create_container(ContainerSpec::labelled("box")).await.unwrap();
        other.abort();
    });
}

#[test]
fn the_only_copy_is_waited_for_while_its_server_restarts() {
    rt::block_on(async {
        let fake = Fake::cluster(2, 1).await;
        let container = fake.container().await;
        let kv = kv(&container, "S1").await;
        let only = fake.leader_of(kv.object().id());
        fake.stop(only);
        let back = async {
            rt::sleep(Duration::from_millis(200)).await;
            fake.clone().listen_as(only).await;
        };
        futures_util::join!(kv.put("a", b"1"), back).0.unwrap();
        assert_eq!(fake.changes(), 1);
    });
}

#[test]
fn with_every_copy_out_the_error_says_which() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let container = fake.container().await;
        let (two, one) = (kv(&container, "RP_2G1").await, kv(&container, "S1").await);
        let pool = fake.connect_with(hasty(300)).await.pool("tank").await.unwrap();
        let container = pool.container("box").await.unwrap();
        fake.happen(Event::Exclude, &[0, 1, 2]);
        let error = container.kv(two.object().id()).get("a").await.unwrap_err();
        assert_eq!(error.code, Code::Unreachable);
        assert!(error.message.contains("every copy of placement group"), "{error}");
        assert!(error.message.contains("is out: ranks "), "{error}");
        assert!(error.remedy.as_ref().is_some_and(|remedy| remedy.contains("bring one of them back")), "{error}");
        let error = container.kv(one.object().id()).put("a", b"1").await.unwrap_err();
        assert!(error.message.contains("the only copy of placement group"), "{error}");
        assert!(!error.message.contains("unknown"), "it was never sent: {error}");
        let shards = two.object().layout().unwrap();
        assert!(shards.iter().all(|shard| shard.state == ShardState::Leading || shard.state == ShardState::Serving));
        let shards = container.object(two.object().id()).layout().unwrap();
        assert!(shards.iter().all(|shard| shard.state == ShardState::Lost) && shards.len() == 2, "{shards:?}");
    });
}

#[test]
fn the_past_is_read_from_all_copies() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let container = fake.container().await;
        let live = kv(&container, "RP_3G1").await;
        live.put("a", b"old").await.unwrap();
        let then = container.create_snapshot(None).await.unwrap().epoch;
        live.put("a", b"new").await.unwrap();
        let (oid, mut asked) = (live.object().id(), BTreeSet::new());
        let mut readers = Vec::new();
        for _ in 0..24 {
            let container = fake.container().await;
            let past = container.at(then).kv(oid);
            assert_eq!(past.get("a").await.unwrap().unwrap(), &b"old"[..]);
            let ranks = fake.ranks_asked(Opcode::Fetch);
            assert_eq!(ranks.len(), 1);
            asked.extend(ranks);
            assert_eq!(container.kv(oid).get("a").await.unwrap().unwrap(), &b"new"[..]);
            assert_eq!(fake.ranks_asked(Opcode::Fetch), [fake.leader_of(oid)], "what is now, the leader says");
            readers.push(past);
        }
        assert_eq!(asked.len(), 3, "24 clients asked {asked:?}");

        // Who is not sure sends nobody away but to the leader.
        let leader = fake.leader_of(oid);
        fake.unsure.borrow_mut().extend((0..3).filter(|rank| *rank != leader));
        for past in &readers {
            assert_eq!(past.get("a").await.unwrap().unwrap(), &b"old"[..]);
            assert_eq!(fake.ranks_asked(Opcode::Fetch).last(), Some(&leader));
        }
        // And with the leader dead, nobody waits for a map that says so.
        fake.unsure.borrow_mut().clear();
        fake.stop(leader);
        for past in &readers {
            assert_eq!(past.get("a").await.unwrap().unwrap(), &b"old"[..]);
        }
        assert_eq!(fake.seen(Opcode::PoolMapSince), 0);
    });
}

#[test]
fn a_damaged_copy_of_the_past_has_others() {
    rt::block_on(async {
        let fake = Fake::cluster(2, 1).await;
        let container = fake.container().await;
        let live = kv(&container, "RP_2G1").await;
        live.put("a", b"old").await.unwrap();
        let past = container.at(container.create_snapshot(None).await.unwrap().epoch).kv(live.object().id());
        fake.fail(Opcode::Fetch, Fault::Refuse(Code::Checksum));
        assert_eq!(past.get("a").await.unwrap().unwrap(), &b"old"[..]);
        assert_eq!(fake.seen(Opcode::Fetch), 2);
        // What is not there is an answer, whoever gives it.
        fake.fail(Opcode::Fetch, Fault::Refuse(Code::NotFound));
        assert_eq!(past.get("a").await.unwrap_err().code, Code::NotFound);
        assert_eq!(fake.seen(Opcode::Fetch), 3);
    });
}

#[test]
fn objects_and_differences_are_told_once_each_and_by_those_who_are_there() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 2).await;
        let pool = fake.connect().await.pool("tank").await.unwrap();
        let spec = ContainerSpec { properties: vec![("rd_fac".into(), "1".into())], ..ContainerSpec::labelled("box") };
        pool.create_container(spec).await.unwrap();
        let container = pool.container("box").await.unwrap();
        let before = container.create_snapshot(None).await.unwrap().epoch;
        let mut made = BTreeSet::new();
        for n in 0..10u32 {
            let oid = container.new_object(ObjectType::KvHashed, None).await.unwrap();
            assert_eq!(oid.class(), Some(class("RP_2GX")));
            container.kv(oid).put(&*format!("key {n}"), b"1").await.unwrap();
            made.insert(oid);
        }
        let listed = || async { container.list_objects().await.unwrap().objects.into_iter().collect::<BTreeSet<_>>() };
        let told = || async {
            let mut told = Vec::new();
            let now = container.create_snapshot(None).await.unwrap().epoch;
            container.at(now).diff(before, |some| told.extend(some.into_iter().map(|one| one.oid))).await.unwrap();
            told.sort();
            told
        };
        let all: Vec<_> = made.iter().copied().collect();
        assert_eq!((listed().await, told().await), (made.clone(), all.clone()));
        fake.stop(1);
        fake.happen(Event::Exclude, &[1]);
        assert_eq!((listed().await, told().await), (made, all));
    });
}

/// An object has fewer copies than its container asks for, and its server is out: the list lacks it, and says that it may lack
/// something and whom to ask for it. It said nothing once.
#[test]
fn a_list_says_who_was_not_asked() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let pool = fake.connect().await.pool("tank").await.unwrap();
        let spec = ContainerSpec { properties: vec![("rd_fac".into(), "1".into())], ..ContainerSpec::labelled("box") };
        pool.create_container(spec).await.unwrap();
        let container = pool.container("box").await.unwrap();
        let before = container.create_snapshot(None).await.unwrap().epoch;
        let safe = container.new_object(ObjectType::KvHashed, None).await.unwrap();
        container.kv(safe).put("a", b"1").await.unwrap();
        let mut all = vec![safe];
        for n in 0..12 {
            let single = container.new_object(ObjectType::KvHashed, Some(class("S1"))).await.unwrap();
            container.kv(single).put(n, b"1").await.unwrap();
            all.push(single);
        }
        all.sort();
        let found = container.list_objects().await.unwrap();
        assert_eq!((&found.objects, &found.unheard[..]), (&all, &[][..]));
        fake.stop(2);
        fake.happen(Event::Exclude, &[2]);
        let found = container.list_objects().await.unwrap();
        assert!(found.objects.contains(&safe) && found.objects.len() < all.len(), "{found:?}");
        assert_eq!(found.unheard, [Rank(2)]);
        let now = container.create_snapshot(None).await.unwrap().epoch;
        assert_eq!(container.at(now).diff(before, |_| ()).await.unwrap(), [Rank(2)]);
    });
}

/// Two servers out, and one copy more than one: there may be objects that nobody tells of.
#[test]
fn a_listing_that_may_lack_something_is_no_listing() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let container = fake.container().await;
        kv(&container, "S1").await.put("a", b"1").await.unwrap();
        let pool = fake.connect_with(hasty(300)).await.pool("tank").await.unwrap();
        let container = pool.container("box").await.unwrap();
        fake.stop(2);
        fake.happen(Event::Exclude, &[2]);
        let error = container.list_objects().await.unwrap_err();
        assert!(error.message.contains("target 0 of server 2 is down"), "{error}");
    });
}

#[test]
fn redundancy_that_the_pool_cannot_give_is_refused_with_what_it_can() {
    rt::block_on(async {
        let fake = Fake::cluster(3, 1).await;
        let pool = fake.connect().await.pool("tank").await.unwrap();
        let create = |name: &str, value: &str| {
            let properties = vec![(name.to_string(), value.to_string())];
            pool.create_container(ContainerSpec { properties, ..ContainerSpec::labelled(value) })
        };
        let error = create("rd_fac", "3").await.unwrap_err();
        assert!(error.message.contains("redundancy factor 3 needs 4 fault domains, and the pool has 3"), "{error}");
        assert_eq!(error.remedy.as_deref(), Some("use rd_fac:2 or less, or add servers to the pool"));
        let error = create("oclass", "RP_4GX").await.unwrap_err();
        assert!(error.message.contains("class RP_4GX needs 4 fault domains"), "{error}");
        assert!(error.remedy.as_ref().is_some_and(|remedy| remedy.contains("use RP_3GX")), "{error}");
        assert_eq!(create("oclass", "EC_2P1GX").await.unwrap_err().code, Code::NotSupported);
        let error = create("oclass", "RP_7GX").await.unwrap_err();
        assert!(error.message.contains("'RP_7GX' is not an object class"), "{error}");
        assert_eq!(create("rf", "9").await.unwrap_err().code, Code::Invalid);
        assert_eq!(fake.seen(Opcode::ContainerCreate), 0);
        create("rd_fac", "2").await.unwrap();
        create("oclass", "RP_TINY").await.unwrap();
        create("oclass", "EC_TINY").await.unwrap();
        for (container, kind, chosen) in [
            ("2", ObjectType::ArrayByte, "RP_3GX"),
            ("2", ObjectType::MultiHashed, "RP_3G1"),
            ("RP_TINY", ObjectType::KvHashed, "RP_2G1"),
        ] {
            let oid = pool.container(container).await.unwrap().new_object(kind, None).await.unwrap();
            assert_eq!(oid.class(), Some(class(chosen)));
        }
        let cells = pool.container("EC_TINY").await.unwrap();
        assert_eq!(cells.new_object(ObjectType::KvHashed, None).await.unwrap_err().code, Code::NotSupported);

        let container = pool.container("2").await.unwrap();
        let error = container.new_object(ObjectType::KvHashed, Some(class("RP_4G1"))).await.unwrap_err();
        assert!(error.message.contains("class RP_4G1 needs 4 fault domains"), "{error}");
    });
}

//! Links between nodes: what is lost, doubled, cut and ended.

use super::*;

/// Echoes every frame on every link until its node dies.
async fn echo(name: &'static str) {
    let mut listener = mem::listen(name).unwrap();
    loop {
        let mut link = listener.accept().await.unwrap();
        rt::spawn(async move {
            while let Some(frame) = link.recv().await {
                if link.send(frame).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn echoed(link: &mut MemLink, text: &str) -> bool {
    link.send(frame(text)).await.unwrap();
    matches!(rt::timeout(50 * MS, link.recv()).await, Ok(Some(frame)) if frame.head == text)
}

#[test]
fn a_healthy_link_keeps_order_and_ends_after_the_last_frame() {
    let sim = Sim::new(SimConfig::seeded(10));
    let node = sim.node("n");
    sim.run(async {
        let server = sim::current().spawn_on(node, async {
            let mut listener = mem::listen("s").unwrap();
            assert!(matches!(mem::listen("s"), Err(LinkError::NameTaken { .. })));
            let mut link = listener.accept().await.unwrap();
            // Slower than the client: its sends wait for room.
            let mut got = Vec::new();
            while let Some(frame) = link.recv().await {
                rt::sleep(MS).await;
                got.push(u64::from_le_bytes(frame.head[..].try_into().unwrap()));
            }
            got
        });
        rt::sleep(MS).await;
        assert!(matches!(mem::connect("nobody").await, Err(LinkError::Refused { .. })));
        let link = mem::connect("s").await.unwrap();
        let start = rt::now();
        for i in 0..500u64 {
            link.send(Frame { head: Bytes::copy_from_slice(&i.to_le_bytes()), bulk: Some(IoBuf::zeroed(10)) })
                .await
                .unwrap();
        }
        assert!(start.elapsed() > 300 * MS, "the sender was held back");
        drop(link);
        assert_eq!(server.await.unwrap(), (0..500).collect::<Vec<_>>());
    });
}

#[test]
fn frames_are_dropped_and_doubled_as_often_as_told() {
    let mut config = SimConfig::seeded(11);
    (config.network.drop, config.network.duplicate) = (0.2, 0.3);
    let sim = Sim::new(config);
    let node = sim.node("n");
    sim.run(async {
        let server = sim::current().spawn_on(node, async {
            let mut listener = mem::listen("s").unwrap();
            let mut link = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while let Some(frame) = link.recv().await {
                got.push(u64::from_le_bytes(frame.head[..].try_into().unwrap()));
            }
            got
        });
        rt::sleep(MS).await;
        let link = mem::connect("s").await.unwrap();
        for i in 0..2000u64 {
            link.send(Frame { head: Bytes::copy_from_slice(&i.to_le_bytes()), bulk: None }).await.unwrap();
        }
        drop(link);
        let mut got = server.await.unwrap();
        assert!(got.is_sorted());
        let total = got.len();
        got.dedup();
        assert!((1500..1700).contains(&got.len()), "{}", got.len());
        assert!((400..560).contains(&(total - got.len())), "{}", total - got.len());
    });
}

#[test]
fn a_partition_swallows_frames_until_it_heals() {
    let sim = Sim::new(SimConfig::seeded(12));
    let node = sim.node("n");
    sim.run(async {
        let sim = sim::current();
        sim.spawn_on(node, echo("s"));
        rt::sleep(MS).await;
        let mut link = mem::connect("s").await.unwrap();
        assert!(echoed(&mut link, "before").await);
        let outside = sim::current_node();
        sim.partition(outside, node);
        assert!(!echoed(&mut link, "during").await);
        let start = rt::now();
        assert!(matches!(mem::connect("s").await, Err(LinkError::Unreachable { .. })));
        assert!(start.elapsed() > Duration::from_secs(1));
        sim.heal(node, outside);
        assert!(echoed(&mut link, "after").await);
        assert!(mem::connect("s").await.is_ok());
    });
}

/// What is sent one way is lost, and what is sent the other way arrives: a server that hears everybody, and whom
/// nobody hears.
#[test]
fn a_way_that_is_cut_leaves_the_other_one() {
    let sim = Sim::new(SimConfig::seeded(15));
    let node = sim.node("n");
    let heard = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = heard.clone();
    sim.run(async move {
        let sim = sim::current();
        sim.spawn_on(node, async move {
            let mut listener = mem::listen("s").unwrap();
            let mut link = listener.accept().await.unwrap();
            while let Some(frame) = link.recv().await {
                count.set(count.get() + 1);
                let _ = link.send(frame).await;
            }
        });
        rt::sleep(MS).await;
        let mut link = mem::connect("s").await.unwrap();
        assert!(echoed(&mut link, "before").await);
        let outside = sim::current_node();
        sim.cut(node, outside);
        assert!(!echoed(&mut link, "nobody answers").await);
        assert_eq!(heard.get(), 2, "it was heard");
        assert!(matches!(mem::connect("s").await, Err(LinkError::Unreachable { .. })), "no answer comes back");
        sim.heal(outside, node);
        sim.cut(outside, node);
        assert!(!echoed(&mut link, "nobody hears").await);
        assert_eq!(heard.get(), 2);
        sim.heal_all();
        assert!(echoed(&mut link, "after").await);
    });
}

/// A process that is stopped does nothing, and loses nothing: what came meanwhile is done when it goes on.
#[test]
fn a_paused_node_goes_on_with_what_came_meanwhile() {
    let sim = Sim::new(SimConfig::seeded(16));
    let node = sim.node("n");
    sim.run(async {
        let sim = sim::current();
        sim.spawn_on(node, echo("s"));
        rt::sleep(MS).await;
        let mut link = mem::connect("s").await.unwrap();
        assert!(echoed(&mut link, "before").await);
        sim.pause(node);
        let slept = sim.spawn_on(node, async { rt::sleep(MS).await });
        link.send(frame("during")).await.unwrap();
        assert!(rt::timeout(Duration::from_secs(5), link.recv()).await.is_err(), "it does nothing");
        assert!(!slept.is_finished(), "none of its tasks goes on");
        sim.resume(node);
        assert!(rt::timeout(Duration::from_secs(1), link.recv()).await.unwrap().is_some(), "and nothing is lost");
        slept.await.unwrap();
        // Its power may be cut while it stands still.
        sim.pause(node);
        sim.crash(node);
        sim.restart(node, echo("s"));
        rt::sleep(MS).await;
        let mut link = mem::connect("s").await.unwrap();
        assert!(echoed(&mut link, "another life").await);
    });
}

/// What a client with an open link sees when the server goes: the end of the link, or nothing.
fn sees_end(seed: u64, stop: impl Fn(&Sim, rt::sim::NodeId)) -> bool {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("n");
    sim.run(async {
        let sim = sim::current();
        sim.spawn_on(node, echo("s"));
        rt::sleep(MS).await;
        let mut link = mem::connect("s").await.unwrap();
        assert!(echoed(&mut link, "x").await);
        stop(&sim, node);
        let end = rt::timeout(Duration::from_secs(60), link.recv()).await;
        assert!(matches!(end, Ok(None) | Err(rt::Elapsed)));
        if end.is_err() {
            assert!(matches!(mem::connect("s").await, Err(LinkError::Unreachable { .. })));
            // Once the machine is on again, it does not know the link.
            sim.restart(node, echo("s"));
            let _ = link.send(frame("anyone?")).await;
            assert!(rt::timeout(Duration::from_secs(1), link.recv()).await.unwrap().is_none());
            assert_eq!(link.send(frame("anyone?")).await, Err(LinkError::Closed));
            assert!(mem::connect("s").await.is_ok());
        }
        end.is_ok()
    })
}

#[test]
fn a_crash_resets_links_or_leaves_them_hanging_and_a_kill_resets_them() {
    let resets = (0..40).filter(|&seed| sees_end(seed, Sim::crash)).count();
    assert!((5..35).contains(&resets), "{resets}");
    assert!((0..40).all(|seed| sees_end(seed, Sim::kill)));
}

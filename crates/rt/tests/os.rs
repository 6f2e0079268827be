//! Tasks, threads, timers and frame links on the operating system.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use rt::disk::IoBuf;
use rt::mem::{self, Frame, LINK_FRAMES_MAX, LinkError};

fn frame(number: u64) -> Frame {
    Frame { head: Bytes::copy_from_slice(&number.to_le_bytes()), bulk: Some(IoBuf::from_slice(&number.to_le_bytes())) }
}

#[test]
fn tasks_are_joined_aborted_and_owned() {
    rt::block_on(async {
        let local = Rc::new(3);
        assert_eq!(rt::spawn_local(async move { *local }).await, Ok(3));
        assert_eq!(rt::spawn(async { 4 }).await, Ok(4));
        let task = rt::spawn(std::future::pending::<()>());
        task.abort();
        assert_eq!(task.await, Err(rt::JoinError::Cancelled));

        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let mut set = rt::TaskSet::new();
        for _ in 0..100 {
            let alive = alive.clone();
            set.spawn(async move {
                let _alive = alive;
                std::future::pending().await
            });
        }
        drop(alive);
        rt::yield_now().await;
        assert_eq!(set.running(), 100);
        drop(set);
        assert_eq!(gone.recv().await, None, "every task of the set was dropped");
    });
}

#[test]
fn a_panic_is_told_to_who_waits() {
    rt::block_on(async {
        let error = rt::spawn(async { panic!("on purpose {}", 1) }).await.unwrap_err();
        assert!(matches!(error, rt::JoinError::Panicked { message } if message == "on purpose 1"));
        let thread = rt::spawn_thread("p", || async { panic!("in a thread") }).unwrap();
        let error: rt::JoinError = thread.await.unwrap_err();
        assert_eq!(error.to_string(), "the task panicked: in a thread");
    });
}

#[test]
fn a_thread_has_its_own_runtime_and_is_over_when_it_says_so() {
    rt::block_on(async {
        let held = std::sync::Arc::new(());
        let theirs = held.clone();
        let thread = rt::spawn_thread("worker", move || async move {
            // A task left behind: it is dropped with the thread's runtime, before the handle resolves.
            rt::spawn_local(async move {
                let _theirs = theirs;
                std::future::pending::<()>().await
            });
            rt::sleep(Duration::from_millis(1)).await;
            std::thread::current().name().map(str::to_owned)
        });
        assert_eq!(thread.unwrap().await.unwrap().as_deref(), Some("worker"));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    });
}

#[test]
fn time_limits_hold() {
    rt::block_on(async {
        let start = rt::now();
        assert_eq!(rt::timeout(Duration::from_millis(5), std::future::pending::<()>()).await, Err(rt::Elapsed));
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert_eq!(rt::timeout(Duration::ZERO, async { 1 }).await, Ok(1), "the future wins a tie");
        rt::sleep_until(start).await;
        let deadline = rt::now() + Duration::from_millis(3);
        rt::sleep_until(deadline).await;
        assert!(rt::now() >= deadline);
    });
}

#[test]
fn a_link_crosses_threads_and_ends_after_the_last_frame() {
    rt::block_on(async {
        let mut listener = mem::listen("os.link").unwrap();
        assert!(matches!(mem::listen("os.link"), Err(LinkError::NameTaken { .. })));
        let client = rt::spawn_thread("client", || async {
            let mut link = mem::connect("os.link").await.unwrap();
            for number in 0..1000 {
                link.send(frame(number)).await.unwrap();
            }
            link.recv().await.unwrap().head.len()
        });
        let (sender, mut receiver) = listener.accept().await.unwrap().split();
        for number in 0..1000 {
            let got = receiver.recv().await.unwrap();
            assert_eq!(got.head[..], number.to_string().parse::<u64>().unwrap().to_le_bytes());
            assert_eq!(got.bulk.unwrap()[..], got.head[..]);
        }
        sender.send(frame(0)).await.unwrap();
        assert_eq!(client.unwrap().await, Ok(8));
        assert!(receiver.recv().await.is_none());
        assert_eq!(sender.send(frame(0)).await, Err(LinkError::Closed));
        drop(listener);
        assert!(matches!(mem::connect("os.link").await, Err(LinkError::Refused { .. })));
        mem::listen("os.link").unwrap();
    });
}

#[test]
fn a_full_link_holds_its_sender_back() {
    rt::block_on(async {
        let mut listener = mem::listen("os.full").unwrap();
        let link = mem::connect("os.full").await.unwrap();
        let mut other = listener.accept().await.unwrap();
        for number in 0..LINK_FRAMES_MAX as u64 {
            link.send(frame(number)).await.unwrap();
        }
        let blocked = rt::timeout(Duration::from_millis(5), link.send(frame(99))).await;
        assert_eq!(blocked, Err(rt::Elapsed));
        other.recv().await.unwrap();
        link.send(frame(100)).await.unwrap();
    });
}

//! Calls and their answers, over every provider.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::*;
use futures_util::future::{FutureExt, join_all};
use net::{BindError, CallError, Connection, Limits, Listener, Reply, serve};
use rt::disk::IoBuf;
use tokio::sync::{Notify, Semaphore, oneshot};
use types::{Code, Epoch, Error, SessionId};
use wire::Opcode;
use wire::frame::{BODY_BYTES_MAX, BULK_BYTES_MAX};
use wire::hello::Service;

#[test]
fn what_is_sent_comes_back_whatever_its_size() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        let connection = server.connect().await;
        assert_eq!(connection.incarnation(), 77);
        let mut random = Random(1);
        for (body, bulk) in [
            (0, 0),
            (1, 0),
            (64, 0),
            (70_000, 0),
            (BODY_BYTES_MAX, 0),
            (0, 1),
            (64, 4096),
            (3, 1 << 20),
            (70_000, (1 << 20) + 1),
            (5, BULK_BYTES_MAX),
            (64, 0),
        ] {
            let (body, data) = (random.bytes(body), random.bytes(bulk));
            let bulk = (bulk > 0).then(|| IoBuf::from_slice(&data));
            let reply = connection.call(Opcode::Echo, 1, body.clone(), bulk, LONG).await.unwrap();
            assert!(reply.body == body);
            assert!(reply.bulk.as_deref().unwrap_or_default() == data);
        }
        let over = connection.call(Opcode::Echo, 1, vec![0; BODY_BYTES_MAX + 1], None, LONG).await;
        assert!(matches!(over, Err(CallError::Refused(Error { code: Code::Overflow, .. }))));
    });
}

/// The same bytes to several peers at once, from one place.
#[test]
fn bulk_data_that_is_shared_arrives_whole_everywhere() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        let (one, other) = (server.connect().await, server.connect().await);
        let data = bytes::Bytes::from(Random(2).bytes((1 << 20) + 3));
        let send = |connection: Connection| {
            let bulk = Some(net::Bulk::Shared(data.clone()));
            async move { connection.call_with(Opcode::Echo, 1, vec![7], bulk, LONG).await.unwrap() }
        };
        for reply in join_all([send(one), send(other)]).await {
            assert!(reply.bulk.is_some_and(|bulk| bulk[..] == data[..]));
        }
    });
}

#[test]
fn a_request_tells_its_handler_who_what_and_until_when() {
    each_provider(|address| async move {
        let handler = script(|request| async move {
            assert_eq!((request.opcode, request.session, request.sequence), (Opcode::Fetch, SessionId(9), 5));
            assert!(request.clock > Epoch::ZERO);
            let left = request.deadline - rt::now();
            assert!(left > Duration::from_secs(50) && left <= LONG);
            Err(Error::new(Code::NotFound, "no such thing").remedy("look elsewhere"))
        });
        let server = start(&address, Limits::default(), handler).await;
        let answer = server.connect().await.call(Opcode::Fetch, 5, vec![1], None, LONG).await;
        let expected = Error::new(Code::NotFound, "no such thing").remedy("look elsewhere");
        assert_eq!(answer.unwrap_err(), CallError::Refused(expected));
    });
}

#[test]
fn many_calls_share_few_credits_and_each_gets_its_own_answer() {
    each_provider(|address| async move {
        let limits = Limits { request_credits: 7, bulk_credits: 10_000 };
        let server = start(&address, limits, echo()).await;
        let connection = server.connect().await;
        let calls = (0..500u64).map(|number| {
            let connection = connection.clone();
            async move {
                let bulk = (number % 3 == 0).then(|| IoBuf::from_slice(&vec![number as u8; 4000]));
                let body = number.to_le_bytes().to_vec();
                let reply = connection.call(Opcode::Echo, number, body.clone(), bulk, LONG).await.unwrap();
                assert_eq!(reply.body, body);
                assert!(reply.bulk.is_none_or(|bulk| bulk[..] == vec![number as u8; 4000]));
            }
        });
        join_all(calls.map(rt::spawn)).await.into_iter().for_each(|outcome| outcome.unwrap());
    });
}

#[test]
fn answers_may_come_in_any_order() {
    each_provider(|address| async move {
        let gates: Rc<RefCell<Vec<oneshot::Sender<()>>>> = Rc::default();
        let handler = {
            let gates = gates.clone();
            script(move |request| {
                let (gate, opened) = oneshot::channel();
                gates.borrow_mut().push(gate);
                async move {
                    opened.await.unwrap();
                    Ok(Reply { body: request.body, bulk: None })
                }
            })
        };
        let server = start(&address, Limits::default(), handler).await;
        let connection = server.connect().await;
        let answered: Rc<RefCell<Vec<u8>>> = Rc::default();
        let calls: Vec<_> = (0..5u8)
            .map(|number| {
                let (connection, answered) = (connection.clone(), answered.clone());
                rt::spawn_local(async move {
                    let body = call(&connection, number.into(), &[number]).await.unwrap();
                    answered.borrow_mut().push(body[0]);
                })
            })
            .collect();
        wait_for(|| gates.borrow().len() == 5).await;
        for number in (0..5u8).rev() {
            let gate = gates.borrow_mut().pop().unwrap();
            gate.send(()).unwrap();
            wait_for(|| answered.borrow().last() == Some(&number)).await;
        }
        join_all(calls).await;
        assert_eq!(*answered.borrow(), [4, 3, 2, 1, 0]);
    });
}

/// The one credit of the link is held by a call that times out; it comes back with the late answer.
#[test]
fn a_late_answer_returns_the_credit_of_a_call_that_timed_out() {
    each_provider(|address| async move {
        let (gate, handler) = gated();
        let server = start(&address, Limits { request_credits: 1, bulk_credits: 10 }, handler).await;
        let connection = server.connect().await;
        let bulk = Some(IoBuf::from_slice(b"some"));
        let late = connection.call(Opcode::Echo, 1, vec![], bulk, Duration::from_millis(20)).await;
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        let waiting = connection.call(Opcode::Echo, 2, vec![], None, Duration::from_millis(20)).await;
        assert!(matches!(waiting, Err(CallError::TimedOut { .. })), "no credit is free: {waiting:?}");
        gate.notify_one();
        gate.notify_one();
        let bulk = Some(IoBuf::from_slice(&[1; 10]));
        connection.call(Opcode::Echo, 3, vec![], bulk, LONG).await.unwrap();
        assert!(!connection.is_closed());
    });
}

#[test]
fn a_dropped_call_returns_its_credits_with_its_answer() {
    each_provider(|address| async move {
        let server = start(&address, Limits { request_credits: 2, bulk_credits: 100 }, echo()).await;
        let connection = server.connect().await;
        for round in 0..200u64 {
            let bulk = Some(IoBuf::from_slice(&[round as u8; 60]));
            let mut doomed = Box::pin(connection.call(Opcode::Echo, round, vec![1], bulk, LONG));
            // Dropped before it is sent, when it has been sent, or while it waits for credits.
            if round % 3 > 0 {
                assert!(doomed.as_mut().now_or_never().is_none());
            }
            if round % 3 > 1 {
                rt::yield_now().await;
            }
        }
        let bulk = Some(IoBuf::from_slice(&[0; 100]));
        let reply = connection.call(Opcode::Echo, 1, b"last".to_vec(), bulk, LONG).await.unwrap();
        assert_eq!((&reply.body[..], reply.bulk.unwrap().len()), (&b"last"[..], 100));
    });
}

#[test]
fn callers_wait_at_the_request_credits() {
    each_provider(|address| async move {
        let (running, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let handler = {
            let (running, most) = (running.clone(), most.clone());
            script(move |_| {
                running.set(running.get() + 1);
                most.set(most.get().max(running.get()));
                let running = running.clone();
                async move {
                    for _ in 0..3 {
                        rt::yield_now().await;
                    }
                    running.set(running.get() - 1);
                    Ok(Reply::default())
                }
            })
        };
        let server = start(&address, Limits { request_credits: 4, bulk_credits: 0 }, handler).await;
        let connection = server.connect().await;
        let calls = (0..100).map(|number| call(&connection, number, b"x"));
        assert!(join_all(calls).await.iter().all(|outcome| outcome.is_ok()));
        assert!((2..=4).contains(&most.get()), "{} at once", most.get());
    });
}

#[test]
fn callers_wait_at_the_bulk_credits_and_a_larger_request_goes_alone() {
    each_provider(|address| async move {
        let (held, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let handler = {
            let (held, most) = (held.clone(), most.clone());
            script(move |request| {
                let bytes = request.bulk.map_or(0, |bulk| bulk.len());
                held.set(held.get() + bytes);
                most.set(most.get().max(held.get()));
                let held = held.clone();
                async move {
                    rt::yield_now().await;
                    held.set(held.get() - bytes);
                    Ok(Reply::default())
                }
            })
        };
        let server = start(&address, Limits { request_credits: 100, bulk_credits: 10_000 }, handler).await;
        let connection = server.connect().await;
        let send = |bytes: usize| {
            connection.call(Opcode::Echo, 1, vec![], Some(IoBuf::zeroed(bytes)), LONG).map(|reply| reply.map(drop))
        };
        let outcomes = join_all((0..50).map(|number| send(1000 + number * 100))).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_ok()));
        assert!(most.get() <= 10_000, "{} bytes at once", most.get());
        most.set(0);
        let outcomes = join_all([send(5000), send(1 << 20), send(5000)]).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_ok()));
        assert_eq!(most.get(), 1 << 20);
    });
}

#[test]
fn a_call_whose_server_goes_is_lost_and_the_next_is_not_sent() {
    each_provider(|address| async move {
        let (_gate, handler) = gated();
        let server = start(&address, Limits { request_credits: 2, bulk_credits: 0 }, handler).await;
        let connection = server.connect().await;
        // Two under way, one waiting for a credit.
        let calls: Vec<_> = (0..3)
            .map(|number| {
                let connection = connection.clone();
                rt::spawn(async move { call(&connection, number, b"x").await })
            })
            .collect();
        for _ in 0..20 {
            rt::yield_now().await;
        }
        drop(server);
        let outcomes: Vec<_> = join_all(calls).await.into_iter().map(|outcome| outcome.unwrap().unwrap_err()).collect();
        assert!(matches!(outcomes[0], CallError::Lost { .. }), "{outcomes:?}");
        assert!(matches!(outcomes[1], CallError::Lost { .. }), "{outcomes:?}");
        assert!(matches!(outcomes[2], CallError::Unreachable { .. }), "{outcomes:?}");
        assert!(connection.is_closed());
        assert!(matches!(call(&connection, 9, b"x").await, Err(CallError::Unreachable { .. })));
    });
}

#[test]
fn nobody_listening_is_unreachable() {
    each_provider(|address| async move {
        let nobody = match address {
            net::Address::Tcp(_) => "127.0.0.1:1".parse().unwrap(),
            other => other,
        };
        let error = open(&nobody).await.map(drop).unwrap_err();
        assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
        let error = Error::from(error);
        assert!(error.code == Code::Unreachable && error.remedy.is_some());
    });
}

#[test]
fn a_handler_that_panics_fails_its_request_only() {
    each_provider(|address| async move {
        let handler = script(|request| async move {
            assert!(&request.body[..] != b"panic", "as the test wants");
            Ok(Reply { body: request.body, bulk: None })
        });
        let server = start(&address, Limits { request_credits: 1, bulk_credits: 0 }, handler).await;
        let connection = server.connect().await;
        let answer = call(&connection, 1, b"panic").await;
        assert!(matches!(answer, Err(CallError::Refused(Error { code: Code::Misc, .. }))), "{answer:?}");
        assert_eq!(call(&connection, 2, b"fine").await.unwrap(), &b"fine"[..]);
    });
}

#[test]
fn handlers_finish_although_their_caller_has_gone() {
    each_provider(|address| async move {
        let (begun, finished) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let gate = Rc::new(Notify::new());
        let handler = {
            let (begun, finished, gate) = (begun.clone(), finished.clone(), gate.clone());
            script(move |_| {
                begun.set(begun.get() + 1);
                let (finished, gate) = (finished.clone(), gate.clone());
                async move {
                    gate.notified().await;
                    finished.set(finished.get() + 1);
                    Ok(Reply::default())
                }
            })
        };
        let server = start(&address, Limits::default(), handler).await;
        let connection = server.connect().await;
        let mut calls: Vec<_> = (0..3).map(|number| Box::pin(call(&connection, number, b"x"))).collect();
        calls.iter_mut().for_each(|call| assert!(call.as_mut().now_or_never().is_none()));
        wait_for(|| begun.get() == 3).await;
        drop(calls);
        drop(connection);
        check_passed(&server).await;
        gate.notify_waiters();
        wait_for(|| finished.get() == 3).await;
    });
}

#[test]
fn stopping_lets_running_requests_finish_and_says_goodbye() {
    each_provider(|address| async move {
        let (gate, handler) = gated();
        let server = start(&address, Limits::default(), handler).await;
        let connection = server.connect().await;
        let idle = server.connect().await;
        let running = {
            let connection = connection.clone();
            rt::spawn(async move { call(&connection, 1, b"running").await })
        };
        wait_for_request(&gate).await;
        let (stopped, answer) = futures_util::join!(server.listener.stop(LONG), async {
            wait_for(|| idle.is_closed()).await;
            let late = open(server.address()).await.map(drop).unwrap_err();
            assert!(late.is_transient(), "{late:?}");
            gate.notify_one();
            running.await.unwrap()
        });
        let () = stopped;
        assert_eq!(answer.unwrap(), &b"running"[..]);
        wait_for(|| connection.is_closed()).await;
        let after = call(&connection, 2, b"late").await.unwrap_err();
        assert!(after.to_string().contains("stopping"), "{after}");
        assert!(server.listener.accept().await.is_none());
        let again = Listener::bind(server.address(), SYSTEM, rt::Hlc::new()).await;
        assert!(again.is_ok(), "the address is free again");
    });
}

#[test]
fn stopping_does_not_wait_beyond_its_bound() {
    each_provider(|address| async move {
        let (gate, handler) = gated();
        let server = start(&address, Limits::default(), handler).await;
        let connection = server.connect().await;
        let stuck = rt::spawn(async move { call(&connection, 1, b"stuck").await });
        wait_for_request(&gate).await;
        server.listener.stop(Duration::from_millis(10)).await;
        let answer = stuck.await.unwrap();
        assert!(matches!(answer, Err(CallError::Lost { .. })), "{answer:?}");
    });
}

#[test]
fn a_link_is_served_on_the_thread_it_is_moved_to() {
    each_provider(|address| async move {
        let listener = Listener::bind(&address, SYSTEM, rt::Hlc::new()).await.unwrap();
        let opening = rt::spawn({
            let address = listener.address().clone();
            async move { open(&address).await.unwrap() }
        });
        let incoming = listener.accept().await.unwrap();
        assert_eq!((incoming.service(), incoming.session()), (&Service::Target { index: 2 }, SessionId(9)));
        let thread = rt::spawn_thread("target", move || async move {
            serve(incoming, Limits::default(), 1, echo()).await;
        });
        let connection: Connection = opening.await.unwrap();
        let calls = (0..100u64).map(|number| call(&connection, number, b"over there"));
        assert!(join_all(calls).await.iter().all(|answer| answer.as_ref().unwrap() == &b"over there"[..]));
        drop(connection);
        thread.unwrap().await.unwrap();
    });
}

#[test]
fn a_connection_is_used_from_other_threads() {
    each_provider(|address| async move {
        let server = start(&address, Limits { request_credits: 16, bulk_credits: 0 }, echo()).await;
        let connection = server.connect().await;
        let threads = (0..3u8).map(|thread| {
            let connection = connection.clone();
            rt::spawn_thread("caller", move || async move {
                for number in 0..100u8 {
                    let body = [thread, number];
                    assert_eq!(call(&connection, number.into(), &body).await.unwrap(), &body[..]);
                }
            })
            .unwrap()
        });
        join_all(threads.collect::<Vec<_>>()).await.into_iter().for_each(|outcome| outcome.unwrap());
    });
}

#[test]
fn a_caller_can_be_refused_for_the_service_it_wants() {
    each_provider(|address| async move {
        let listener = Listener::bind(&address, SYSTEM, rt::Hlc::new()).await.unwrap();
        let opening = open(listener.address());
        let refusing = async {
            let reason = Error::new(Code::NoService, "this server has 2 targets");
            listener.accept().await.unwrap().refuse(reason).await;
        };
        let (opened, ()) = futures_util::join!(opening, refusing);
        let Err(CallError::Refused(reason)) = opened.map(drop) else { panic!("refused") };
        assert_eq!(reason.code, Code::NoService);
    });
}

#[test]
fn an_address_in_use_is_told_from_one_that_cannot_be() {
    each_provider(|address| async move {
        let listener = Listener::bind(&address, SYSTEM, rt::Hlc::new()).await.unwrap();
        let again = Listener::bind(listener.address(), SYSTEM, rt::Hlc::new()).await.map(drop);
        assert_eq!(again, Err(BindError::InUse { address: listener.address().clone() }));
    });
    rt::block_on(async {
        for (text, remedy) in [("unix:///no/such/directory/s", "directory"), ("192.0.2.1:0", "of this machine")] {
            let error = Listener::bind(&text.parse().unwrap(), SYSTEM, rt::Hlc::new()).await.map(drop).unwrap_err();
            assert!(error.to_string().contains(remedy), "{error}");
        }
    });
}

#[test]
fn a_killed_servers_socket_file_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    rt::block_on(async {
        let server = start(&net::Address::Unix(path.clone()), Limits::default(), echo()).await;
        check_alive(server.address()).await;
    });
}

/// A handler whose answers wait until the gate is notified, one for each notification.
fn gated() -> (Rc<Gate>, Rc<Script>) {
    let gate = Rc::new(Gate { open: Semaphore::new(0), requests: Cell::new(0) });
    let handler = {
        let gate = gate.clone();
        script(move |request| {
            let gate = gate.clone();
            gate.requests.set(gate.requests.get() + 1);
            async move {
                gate.open.acquire().await.unwrap().forget();
                Ok(Reply { body: request.body, bulk: request.bulk })
            }
        })
    };
    (gate, handler)
}

struct Gate {
    open: Semaphore,
    requests: Cell<u32>,
}

impl Gate {
    fn notify_one(&self) {
        self.open.add_permits(1);
    }
}

async fn wait_for_request(gate: &Gate) {
    wait_for(|| gate.requests.get() > 0).await;
}

/// Gives the server's thread time to notice what happened before.
async fn check_passed(server: &Server) {
    drop(server.connect().await);
    for _ in 0..10 {
        rt::yield_now().await;
    }
}

async fn wait_for(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            rt::sleep(Duration::from_millis(1)).await;
        }
    };
    rt::timeout(LONG, waiting).await.expect("what the test waits for");
}

//! Peers that break the rules, leave at a bad moment, or are not what they seem.

mod common;

use std::time::Duration;

use common::*;
use futures_util::future::join_all;
use net::{CallError, Caller, Connection, Limits};
use rt::disk::IoBuf;
use types::{Code, Epoch, SessionId};
use wire::Wire;
use wire::frame::Kind;
use wire::hello::{Hello, Service};

#[test]
fn random_bytes_do_no_harm() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        for seed in 0..200 {
            let mut random = Random(seed);
            let mut raw = Raw::connect(server.address()).await;
            let mut greeted = false;
            if seed % 2 == 1 {
                raw.greet().await;
                greeted = true;
            }
            for _ in 0..random.below(4) {
                let mut bytes = noise(&mut random, greeted);
                let piece = random.below(bytes.len() + 1);
                let rest = bytes.split_off(piece);
                if !raw.send(&bytes).await || !raw.send(&rest).await {
                    break;
                }
            }
        }
        check_alive(server.address()).await;
    });
}

/// Plain noise, or a frame with something wrong in it.
fn noise(random: &mut Random, greeted: bool) -> Vec<u8> {
    if random.below(3) == 0 {
        let count = random.below(300);
        return random.bytes(count);
    }
    let count = random.below(100);
    let body = random.bytes(count);
    let header = wire::frame::Header {
        opcode: random.next() as u16,
        request: random.next() % 4,
        body_bytes: body.len() as u32,
        bulk_bytes: if random.below(4) == 0 { random.next() as u32 >> random.below(32) } else { 0 },
        body_crc: codec::crc32c(&body),
        ..header(if greeted { Kind::Request } else { Kind::Hello })
    };
    let mut bytes = [&header.encode()[..], &body].concat();
    if random.below(2) == 0 {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

#[test]
fn a_peer_that_speaks_something_else_is_told() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        let mut raw = Raw::connect(server.address()).await;
        // Shorter than a header over a stream: it waits for an answer before it says more.
        let text = if matches!(raw, Raw::Mem(_)) { "GET / HTTP/1.1\r\n".repeat(5) } else { "GET /\r\n\r\n".into() };
        assert!(raw.send(text.as_bytes()).await);
        let reason = raw.goodbye().await;
        assert_eq!(reason.code, Code::Protocol);
        assert!(reason.message.contains("not a DAOS frame"), "{reason}");
    });
}

#[test]
fn a_peer_of_another_version_or_system_is_told() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        for (hello, code, text, remedy) in [
            (
                Hello { oldest: 9, newest: 12, ..hello() },
                Code::Protocol,
                "versions 9 to 12, this server 1 to 1",
                "this server is the older one",
            ),
            (
                Hello { oldest: 0, newest: 0, ..hello() },
                Code::Protocol,
                "versions 0 to 0, this server 1 to 1",
                "install this server's release there",
            ),
            (Hello { oldest: 2, newest: 1, ..hello() }, Code::Protocol, "versions", "release"),
            (
                Hello { system: "other".into(), ..hello() },
                Code::Mismatch,
                "'test', not 'other'",
                "correct the address or the system's name",
            ),
        ] {
            let mut raw = Raw::connect(server.address()).await;
            raw.send_frame(header(Kind::Hello), &hello.to_bytes(), None).await;
            let reason = raw.goodbye().await;
            assert!(reason.code == code && reason.message.contains(text), "{reason}");
            assert!(reason.remedy.as_ref().is_some_and(|words| words.contains(remedy)), "{reason:?}");
        }
        // Who names no system means this one.
        let mut raw = Raw::connect(server.address()).await;
        let anyone = Hello { system: String::new(), ..hello() };
        raw.send_frame(header(Kind::Hello), &anyone.to_bytes(), None).await;
        assert_eq!(raw.receive().await.unwrap().0.kind, Kind::Welcome);
        // A newer caller that still speaks our version is welcome.
        let mut raw = Raw::connect(server.address()).await;
        let newer = Hello { oldest: 1, newest: 200, ..hello() };
        raw.send_frame(header(Kind::Hello), &newer.to_bytes(), None).await;
        assert_eq!(raw.receive().await.unwrap().0.kind, Kind::Welcome);
        // Frames of another version cannot even be read.
        let mut raw = Raw::connect(server.address()).await;
        let mut bytes = header(Kind::Hello).encode();
        bytes[4] = 9;
        raw.send(&bytes).await;
        let reason = raw.goodbye().await;
        assert!(reason.message.contains("version 9"), "{reason}");

        let caller = Caller { system: "other".into(), ..caller() };
        let opened = Connection::open(server.address(), Service::Control, &caller, LONG).await.map(drop);
        assert!(matches!(opened, Err(CallError::Refused(reason)) if reason.code == Code::Mismatch));
        check_alive(server.address()).await;
    });
}

#[test]
fn a_clock_too_far_ahead_is_refused_at_the_hello() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        let ahead = caller();
        ahead.clock.recover(Epoch::from_micros(rt::wall_micros() + 3_600_000_000, 0));
        let opened = Connection::open(server.address(), Service::Control, &ahead, LONG).await.map(drop);
        let Err(CallError::Refused(reason)) = opened else { panic!("{opened:?}") };
        assert_eq!(reason.code, Code::ClockOffset);
        assert!(reason.to_string().contains("synchronise"), "{reason}");
        check_alive(server.address()).await;
    });
}

#[test]
fn the_callers_clock_passes_the_servers() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        let (one, other) = (caller(), caller());
        one.clock.recover(Epoch::from_micros(rt::wall_micros() + 40_000, 0));
        let seen = one.clock.last();
        let first = Connection::open(server.address(), Service::Control, &one, LONG).await.unwrap();
        let second = Connection::open(server.address(), Service::Control, &other, LONG).await.unwrap();
        assert!(other.clock.now() > seen, "through the server");
        drop((first, second));
    });
}

#[test]
fn whoever_breaks_the_rules_is_sent_away() {
    each_provider(|address| async move {
        let limits = Limits { request_credits: 2, bulk_credits: 1000 };
        let stuck = script(|_| std::future::pending());
        let server = start(&address, limits, stuck).await;
        let request = header(Kind::Request);
        // Where frames may be doubled, the doubles are forgiven.
        let copies = if matches!(address, net::Address::Mem(_)) { 2 } else { 1 };
        let other_session = wire::frame::Header { session: 8, ..request };
        let late_clock = wire::frame::Header { clock: Epoch::MAX, ..request };
        let half = || Some(IoBuf::zeroed(600));
        for (frames, code, text) in [
            (vec![(request, None); 2 * copies + 1], Code::Protocol, "2 requests"),
            (vec![(request, half()); 2 * copies], Code::Protocol, "1000 bulk bytes"),
            (vec![(header(Kind::Welcome), None)], Code::Protocol, "Welcome"),
            (vec![(header(Kind::Response), None)], Code::Protocol, "Response"),
            (vec![(other_session, None)], Code::Protocol, "another session"),
            (vec![(late_clock, None)], Code::ClockOffset, "ahead"),
        ] {
            let mut raw = Raw::connect(server.address()).await;
            let welcome = raw.greet().await;
            assert_eq!((welcome.request_credits, welcome.bulk_credits), (2, 1000));
            for (header, bulk) in frames {
                raw.send_frame(header, b"body", bulk).await;
            }
            let reason = raw.goodbye().await;
            assert!(reason.code == code && reason.message.contains(text), "{reason}");
        }
    });
}

#[test]
fn a_damaged_frame_ends_its_link_with_the_reason() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        for (at, text) in [(20, "header checksum"), (66, "body checksum")] {
            let mut raw = Raw::connect(server.address()).await;
            raw.greet().await;
            let header =
                wire::frame::Header { body_bytes: 4, body_crc: codec::crc32c(b"body"), ..header(Kind::Request) };
            let mut bytes = [&header.encode()[..], b"body"].concat();
            bytes[at] ^= 4;
            raw.send(&bytes).await;
            let reason = raw.goodbye().await;
            assert!(reason.code == Code::Checksum && reason.message.contains(text), "{reason}");
        }
    });
}

#[test]
fn an_unknown_request_is_refused_and_the_link_goes_on() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        let mut raw = Raw::connect(server.address()).await;
        raw.greet().await;
        raw.send_frame(wire::frame::Header { opcode: 0x7777, ..header(Kind::Request) }, b"", None).await;
        let (answer, body) = raw.receive().await.unwrap();
        assert_eq!((answer.kind, answer.opcode, answer.request), (Kind::Failure, 0x7777, 1));
        assert_eq!(types::Error::from_bytes(&body).unwrap().code, Code::Protocol);
        raw.send_frame(header(Kind::Request), b"again", None).await;
        let (answer, body) = raw.receive().await.unwrap();
        assert_eq!((answer.kind, answer.deadline_ms, &body[..]), (Kind::Response, 0, &b"again"[..]));
    });
}

#[test]
fn a_caller_that_leaves_in_the_middle_of_its_bulk_data_does_no_harm() {
    each_provider(|address| async move {
        let server = start(&address, Limits::default(), echo()).await;
        for sent in [0, 1, 70_000, (1 << 20) - 1] {
            let mut raw = Raw::connect(server.address()).await;
            raw.greet().await;
            let header = wire::frame::Header { bulk_bytes: 1 << 20, ..header(Kind::Request) };
            raw.send(&header.encode()).await;
            if !matches!(raw, Raw::Mem(_)) {
                raw.send(&vec![1; sent]).await;
            }
        }
        check_alive(server.address()).await;
    });
}

/// Those who connect and say nothing are sent away in time, and hold up the others only until then.
#[test]
fn a_silent_caller_is_sent_away_and_blocks_nobody_for_long() {
    let directory = tempfile::tempdir().unwrap();
    rt::block_on(async {
        let silent = join_all(addresses(directory.path()).map(|address| async move {
            let server = start(&address, Limits::default(), echo()).await;
            let crowd = if matches!(address, net::Address::Mem(_)) { net::HALF_OPEN_MAX } else { 3 };
            let mut raws = join_all((0..crowd).map(|_| Raw::connect(server.address()))).await;
            // A piece of a header is no hello either.
            raws[1].send(b"DAOr").await;
            check_alive(server.address()).await;
            let reason = raws[0].goodbye().await;
            assert!(reason.code == Code::TimedOut && reason.message.contains("no hello"), "{reason}");
        }));
        silent.await;
    });
}

#[test]
fn a_server_that_is_none_of_ours_is_recognised() {
    rt::block_on(async {
        let listener = rt::stream::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = net::Address::Tcp(listener.local_addr().unwrap().to_string());
        let other = rt::spawn(async move {
            for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
                let (mut reader, mut writer) = listener.accept().await.unwrap().into_split();
                let mut bytes = [0; 4096];
                assert!(reader.read(&mut bytes).await.unwrap() > 0);
                writer.write_all(answer.as_bytes()).await.unwrap();
            }
            let _silent = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        });
        let error = open(&address).await.map(drop).unwrap_err();
        assert!(matches!(error, CallError::Protocol { .. }), "{error:?}");
        assert!(!error.is_transient());
        let error = open(&address).await.map(drop).unwrap_err();
        assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
        let within = Duration::from_millis(20);
        let error = Connection::open(&address, Service::Control, &caller(), within).await.map(drop).unwrap_err();
        assert!(matches!(&error, CallError::Unreachable { cause, .. } if cause.contains("20 ms")), "{error:?}");
        other.abort();
    });
}

#[test]
fn a_server_that_answers_nonsense_loses_its_link() {
    each_provider(|address| async move {
        let net::Address::Mem(name) = address else { return };
        let mut listener = rt::mem::listen(&name).unwrap();
        let serving = rt::spawn(async move {
            for nonsense in [Kind::Request, Kind::Failure] {
                let mut raw = Raw::Mem(listener.accept().await.unwrap());
                raw.receive().await.unwrap();
                let welcome = wire::hello::Welcome {
                    version: 1,
                    request_credits: 5,
                    bulk_credits: 0,
                    incarnation: 1,
                    system: SYSTEM.into(),
                };
                raw.send_frame(header(Kind::Welcome), &welcome.to_bytes(), None).await;
                let (asked, _) = raw.receive().await.unwrap();
                // An answer that nobody waits for is passed over.
                let stray = wire::frame::Header { request: asked.request ^ 1 << 40, ..header(Kind::Response) };
                raw.send_frame(stray, b"stray", None).await;
                raw.send_frame(wire::frame::Header { kind: nonsense, ..asked }, b"?", None).await;
                while raw.receive().await.is_some() {}
            }
        });
        for _ in 0..2 {
            let connection = open(&net::Address::Mem(name.clone())).await.unwrap();
            let answer = call(&connection, 1, b"hello?").await;
            assert!(matches!(answer, Err(CallError::Lost { .. })), "{answer:?}");
            assert!(connection.is_closed());
        }
        serving.await.unwrap();
    });
}

#[test]
fn a_session_is_the_hellos() {
    each_provider(|address| async move {
        let listener = net::Listener::bind(&address, SYSTEM, rt::Hlc::new()).await.unwrap();
        let mut raw = Raw::connect(listener.address()).await;
        raw.send_frame(header(Kind::Hello), &Hello { session: 1234, ..hello() }.to_bytes(), None).await;
        assert_eq!(listener.accept().await.unwrap().session(), SessionId(1234));
    });
}

//! How fast a request travels: `echo [tcp|unix|mem] [same|threads] [depth] [seconds] [bulk bytes]`.
//!
//! Prints the rate and the mean round trip of 64-byte echoes (with bulk data if asked for), and at
//! depth 1 those of a bare tokio ping-pong of the same kind and size beside it. `SPIN=50` lets links
//! spin for 50 us.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net::{Address, Caller, Connection, Handler, Limits, Listener, Reply, Request, serve};
use types::{Error, SessionId};
use wire::Opcode;
use wire::hello::Service;

struct Echo;

impl Handler for Echo {
    async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
        Ok(Reply { body: request.body, bulk: request.bulk })
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |index: usize, default: &str| args.get(index).cloned().unwrap_or(default.to_owned());
    let (provider, place) = (arg(0, "tcp"), arg(1, "same"));
    let depth: usize = arg(2, "1").parse().unwrap();
    let seconds: f64 = arg(3, "2").parse().unwrap();
    let bulk: usize = arg(4, "0").parse().unwrap();
    if let Some(micros) = std::env::var("SPIN").ok().and_then(|text| text.parse().ok()) {
        net::set_spin(Duration::from_micros(micros));
    }
    let address: Address = match provider.as_str() {
        "tcp" => "127.0.0.1:0".parse().unwrap(),
        "unix" => format!("unix:///tmp/net-echo-{}.sock", std::process::id()).parse().unwrap(),
        _ => "mem://echo".parse().unwrap(),
    };
    rt::block_on(async move {
        let (told, bound) = tokio::sync::oneshot::channel();
        let serving = async move {
            let listener = Listener::bind(&address, "bench", rt::Hlc::new()).await.unwrap();
            told.send(listener.address().clone()).unwrap();
            while let Some(incoming) = listener.accept().await {
                rt::spawn_local(serve(incoming, Limits::default(), 1, Rc::new(Echo)));
            }
        };
        if place == "same" {
            rt::spawn_local(serving);
        } else {
            drop(rt::spawn_thread("server", move || serving).unwrap());
        }
        let address = bound.await.unwrap();
        let caller = Caller { session: SessionId(1), system: "bench".into(), clock: rt::Hlc::new() };
        let connection = Connection::open(&address, Service::Control, &caller, Duration::from_secs(5)).await.unwrap();
        let done = Arc::new(AtomicU64::new(0));
        let began = rt::now();
        let end = began + Duration::from_secs_f64(seconds);
        let tasks: Vec<_> = (0..depth)
            .map(|_| {
                let (connection, done) = (connection.clone(), done.clone());
                rt::spawn(async move {
                    while rt::now() < end {
                        let body = vec![7; 64];
                        let payload = (bulk > 0).then(|| rt::disk::IoBuf::for_read(bulk));
                        let reply =
                            connection.call(Opcode::Echo, 1, body, payload, Duration::from_secs(5)).await.unwrap();
                        assert_eq!(reply.body.len(), 64);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let (count, time) = (done.load(Ordering::Relaxed), began.elapsed());
        let rate = count as f64 / time.as_secs_f64();
        print!("{provider} {place} depth {depth}: {rate:.0}/s, {:.2} us each", time.as_micros() as f64 / count as f64);
        if bulk > 0 {
            print!(", {:.2} GiB/s each way", rate * bulk as f64 / (1u64 << 30) as f64);
        }
        println!();
        if provider != "mem" && depth == 1 {
            let bare = bare_ping_pong(&provider, &place, seconds, 64.max(bulk)).await;
            println!("  bare ping-pong: {bare:.2} us each");
        }
    });
}

/// Mean round trip of `size` bytes over streams without anything of ours.
async fn bare_ping_pong(provider: &str, place: &str, seconds: f64, size: usize) -> f64 {
    use rt::stream::{Stream, TcpListener, UnixListener};
    let path = std::path::PathBuf::from(format!("/tmp/net-bare-{}.sock", std::process::id()));
    let (told, bound) = tokio::sync::oneshot::channel();
    let tcp = provider == "tcp";
    let at = path.clone();
    let serving = async move {
        let stream = if tcp {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap().to_string()).unwrap();
            listener.accept().await.unwrap()
        } else {
            let listener = UnixListener::bind(&at).unwrap();
            told.send(String::new()).unwrap();
            listener.accept().await.unwrap()
        };
        let (mut reader, mut writer) = stream.into_split();
        let mut bytes = vec![0; size];
        while reader.read_exact(&mut bytes).await.is_ok() && writer.write_all(&bytes).await.is_ok() {}
    };
    if place == "same" {
        rt::spawn_local(serving);
    } else {
        drop(rt::spawn_thread("bare", move || serving).unwrap());
    }
    let address = bound.await.unwrap();
    let stream = if tcp { Stream::connect_tcp(&address).await } else { Stream::connect_unix(&path).await };
    let (mut reader, mut writer) = stream.unwrap().into_split();
    let began = rt::now();
    let end = began + Duration::from_secs_f64(seconds);
    let (mut bytes, mut count) = (vec![0; size], 0u64);
    while rt::now() < end {
        writer.write_all(&bytes).await.unwrap();
        reader.read_exact(&mut bytes).await.unwrap();
        count += 1;
    }
    began.elapsed().as_nanos() as f64 / 1000.0 / count as f64
}

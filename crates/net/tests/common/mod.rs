//! A server for tests, and a peer that says whatever a test wants.
#![allow(dead_code)]

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use net::{Address, CallError, Caller, Connection, Handler, Limits, Listener, Reply, Request, serve};
use rt::disk::IoBuf;
use rt::mem::MemLink;
use rt::stream::{ReadHalf, Stream, WriteHalf};
use types::{Epoch, Error, SessionId};
use wire::frame::{HEADER_BYTES, Header, Kind};
use wire::hello::{Hello, Service, Welcome};
use wire::{Opcode, Wire};

pub const SYSTEM: &str = "test";
/// Long enough never to be reached in a test that passes.
pub const LONG: Duration = Duration::from_secs(60);

/// Runs `test` once over each provider, with a fresh address.
pub fn each_provider<F: Future<Output = ()>>(test: impl Fn(Address) -> F) {
    let directory = tempfile::tempdir().unwrap();
    for address in addresses(directory.path()) {
        println!("over {address}");
        rt::block_on(test(address));
    }
}

pub fn addresses(directory: &std::path::Path) -> [Address; 3] {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    [Address::Mem(format!("test-{count}")), Address::Unix(directory.join("s")), Address::Tcp("127.0.0.1:0".into())]
}

type Answering = Pin<Box<dyn Future<Output = Result<Reply, Error>>>>;

/// A handler made of a closure.
pub struct Script(Box<dyn Fn(Request) -> Answering>);

impl Handler for Script {
    fn handle(self: Rc<Self>, request: Request) -> impl Future<Output = Result<Reply, Error>> + 'static {
        (self.0)(request)
    }
}

pub fn script<F>(answer: impl Fn(Request) -> F + 'static) -> Rc<Script>
where
    F: Future<Output = Result<Reply, Error>> + 'static,
{
    Rc::new(Script(Box::new(move |request| Box::pin(answer(request)))))
}

pub fn echo() -> Rc<Script> {
    script(|request| async move { Ok(Reply { body: request.body, bulk: request.bulk }) })
}

pub struct Server {
    pub listener: Rc<Listener>,
    pub tasks: rt::TaskSet,
}

pub async fn start(address: &Address, limits: Limits, handler: Rc<impl Handler>) -> Server {
    let listener = Rc::new(Listener::bind(address, SYSTEM, rt::Hlc::new()).await.unwrap());
    let mut tasks = rt::TaskSet::new();
    tasks.spawn_local({
        let listener = listener.clone();
        async move {
            let mut links = rt::TaskSet::new();
            while let Some(incoming) = listener.accept().await {
                links.spawn_local(serve(incoming, limits, 77, handler.clone()));
            }
            links.finish().await.unwrap();
        }
    });
    Server { listener, tasks }
}

impl Server {
    pub fn address(&self) -> &Address {
        self.listener.address()
    }

    pub async fn connect(&self) -> Connection {
        open(self.address()).await.unwrap()
    }
}

pub fn caller() -> Caller {
    Caller { session: SessionId(9), system: SYSTEM.into(), clock: rt::Hlc::new() }
}

pub async fn open(address: &Address) -> Result<Connection, CallError> {
    Connection::open(address, Service::Target { index: 2 }, &caller(), LONG).await
}

pub async fn call(connection: &Connection, sequence: u64, body: &[u8]) -> Result<Bytes, CallError> {
    connection.call(Opcode::Echo, sequence, body.to_vec(), None, LONG).await.map(|reply| reply.body)
}

/// The server at `address` still works.
pub async fn check_alive(address: &Address) {
    let connection = open(address).await.unwrap();
    assert_eq!(call(&connection, 1, b"alive?").await.unwrap(), &b"alive?"[..]);
}

/// A link without manners.
pub enum Raw {
    Stream(ReadHalf, WriteHalf),
    Mem(MemLink),
}

impl Raw {
    pub async fn connect(address: &Address) -> Raw {
        let stream = match address {
            Address::Tcp(text) => Stream::connect_tcp(text).await,
            Address::Unix(path) => Stream::connect_unix(path).await,
            Address::Mem(name) => return Raw::Mem(rt::mem::connect(name).await.unwrap()),
        };
        let (reader, writer) = stream.unwrap().into_split();
        Raw::Stream(reader, writer)
    }

    /// Sends bytes as they are; on a mem link, as the head of one frame. False when nobody takes
    /// them any more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        match self {
            Raw::Stream(_, writer) => writer.write_all(bytes).await.is_ok(),
            Raw::Mem(link) => {
                let frame = rt::mem::Frame { head: Bytes::copy_from_slice(bytes), bulk: None };
                link.send(frame).await.is_ok()
            }
        }
    }

    pub async fn send_frame(&mut self, header: Header, body: &[u8], bulk: Option<IoBuf>) -> bool {
        let header = Header {
            body_bytes: body.len() as u32,
            bulk_bytes: bulk.as_ref().map_or(0, |bulk| bulk.len() as u32),
            body_crc: codec::crc32c(body),
            ..header
        };
        let head = [&header.encode(), body].concat();
        match (self, bulk) {
            (Raw::Mem(link), bulk) => link.send(rt::mem::Frame { head: head.into(), bulk }).await.is_ok(),
            (raw, None) => raw.send(&head).await,
            (raw, Some(bulk)) => raw.send(&head).await && raw.send(&bulk).await,
        }
    }

    /// The next frame without its bulk data; `None` when the link has ended.
    pub async fn receive(&mut self) -> Option<(Header, Bytes)> {
        match self {
            Raw::Stream(reader, _) => {
                let mut head = [0; HEADER_BYTES];
                reader.read_exact(&mut head).await.ok()?;
                let header = Header::decode(&head).unwrap();
                let mut rest = vec![0; (header.body_bytes + header.bulk_bytes) as usize];
                reader.read_exact(&mut rest).await.ok()?;
                rest.truncate(header.body_bytes as usize);
                Some((header, rest.into()))
            }
            Raw::Mem(link) => {
                let frame = link.recv().await?;
                Some((Header::decode(&frame.head).unwrap(), frame.head.slice(HEADER_BYTES..)))
            }
        }
    }

    pub async fn greet(&mut self) -> Welcome {
        let hello = hello();
        assert!(self.send_frame(header(Kind::Hello), &hello.to_bytes(), None).await);
        let (header, body) = self.receive().await.unwrap();
        assert_eq!(header.kind, Kind::Welcome);
        Welcome::from_bytes(&body).unwrap()
    }

    /// The next frame is a goodbye, and the last one; what it says.
    pub async fn goodbye(&mut self) -> Error {
        let (header, body) = self.receive().await.expect("a goodbye before the end");
        assert_eq!(header.kind, Kind::Goodbye);
        assert!(self.receive().await.is_none(), "nothing follows a goodbye");
        Error::from_bytes(&body).unwrap()
    }
}

pub fn hello() -> Hello {
    Hello { oldest: 1, newest: 1, service: Service::Control, session: 9, system: SYSTEM.into() }
}

/// A header to be completed by [`Raw::send_frame`].
pub fn header(kind: Kind) -> Header {
    Header {
        kind,
        opcode: Opcode::Echo as u16,
        request: 1,
        clock: Epoch::ZERO,
        session: 9,
        sequence: 1,
        deadline_ms: 10_000,
        body_bytes: 0,
        bulk_bytes: 0,
        body_crc: 0,
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

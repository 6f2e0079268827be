//! The accepting end: an address, and the links that arrive there.
//!
//! # Shape
//! One task accepts; each new link then has a task of its own that reads the hello, so that a caller
//! who says nothing keeps nobody waiting. A caller whose hello is in order becomes an [`Incoming`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rt::{Hlc, Instant, JoinHandle, TaskSet};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use types::{Code, Error, SessionId};
use wire::Wire;
use wire::frame::{FrameError, Header, Kind, Version};
use wire::hello::{Hello, Service};

use crate::connection::{admit_greeting, greeting_header, observe};
use crate::link::{Arrival, Detached, Link, LinkError};
use crate::{Address, metrics};

/// How long a caller may take to say hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Links whose hello is still being read. At the bound no more are accepted until one has spoken or
/// timed out; the kernel's backlog holds the others.
pub const HALF_OPEN_MAX: usize = 256;

/// Callers whose hello was read and whom `accept` has not fetched yet.
const WAITING_MAX: usize = 128;

/// Links of one listener. Each has buffers of some 100 KiB and a descriptor; beyond it callers are
/// told to come back later.
pub const LINKS_MAX: usize = 16 * 1024;

/// Pause after an accept that failed: out of descriptors, mostly, and more are not freed sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a goodbye may take to be written.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Listens at one address and reads the hellos of those who come.
///
/// Dropped, it stops listening; links that are being served go on.
pub struct Listener {
    address: Address,
    arrivals: Mutex<mpsc::Receiver<Incoming>>,
    accepting: JoinHandle<()>,
    /// What the links being served watch; each holds a receiver while it is up.
    stop: watch::Sender<Stop>,
}

/// Whether links shall go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    No,
    /// Take no more requests; those under way have until then.
    By(Instant),
}

/// Why an address cannot be listened at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Someone else answers there.
    #[error("{address} is in use by another program: stop it, or choose another address")]
    InUse { address: Address },
    #[error("cannot listen at {address}: {cause}; {remedy}")]
    Failed { address: Address, cause: String, remedy: &'static str },
}

impl Listener {
    /// Starts to listen. A port of 0 takes a free one: see [`Listener::address`]. A unix socket left
    /// behind by a server that was killed is replaced; one that still answers is not.
    ///
    /// `system`: callers that name another are refused (those that name none are not). `clock` observes theirs. The listener's
    /// tasks run on this thread.
    pub async fn bind(address: &Address, system: &str, clock: Hlc) -> Result<Listener, BindError> {
        let (acceptor, address) = Acceptor::bind(address).await.map_err(|error| bind_error(address, &error))?;
        let (arrived, arrivals) = mpsc::channel(WAITING_MAX);
        let (stop, stopped) = watch::channel(Stop::No);
        let door = Door { host: Arc::new(Host { system: system.to_owned(), clock }), arrived, stop: stopped };
        let accepting = rt::spawn(accept_links(acceptor, door));
        Ok(Listener { address, arrivals: Mutex::new(arrivals), accepting, stop })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next caller whose hello was in order; `None` after [`Listener::stop`]. Cancel-safe.
    pub async fn accept(&self) -> Option<Incoming> {
        self.arrivals.lock().await.recv().await
    }

    /// Stops accepting, lets the requests under way on its links finish for at most `within`, then
    /// says goodbye on each. Returns when all its links are closed, or soon after `within`.
    pub async fn stop(&self, within: Duration) {
        self.accepting.abort();
        self.stop.send_replace(Stop::By(rt::now() + within));
        // When `accept` is being waited in, it gets the last arrivals, whom `serve` sends away, and
        // then sees the end. Otherwise nobody will fetch them.
        if let Ok(mut arrivals) = self.arrivals.try_lock() {
            arrivals.close();
            while let Ok(incoming) = arrivals.try_recv() {
                incoming.refuse(stopping()).await;
            }
        }
        // A link that cannot even be told goodbye is not waited for.
        let _ = rt::timeout(within + 2 * GOODBYE_TIMEOUT, self.stop.closed()).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A caller that has said hello and waits to be served. May move to another thread first.
pub struct Incoming {
    pub(crate) link: Detached,
    pub(crate) host: Arc<Host>,
    pub(crate) session: SessionId,
    pub(crate) version: u8,
    pub(crate) peer: String,
    pub(crate) stop: watch::Receiver<Stop>,
    service: Service,
}

/// Who receives callers.
pub(crate) struct Host {
    pub system: String,
    pub clock: Hlc,
}

impl Incoming {
    /// Which service it asks for.
    pub fn service(&self) -> &Service {
        &self.service
    }

    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Who calls, for logs.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Sends it away with `reason`, for example when it asks for a target that is not here.
    pub async fn refuse(self, reason: Error) {
        if let Ok(link) = self.link.attach() {
            say_goodbye(link, &self.host.clock, &reason).await;
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("service", &self.service).field("peer", &self.peer).finish_non_exhaustive()
    }
}

enum Acceptor {
    Tcp(rt::stream::TcpListener),
    Unix(rt::stream::UnixListener),
    Mem(rt::mem::MemListener),
}

impl Acceptor {
    /// Also the address with the real port.
    async fn bind(address: &Address) -> io::Result<(Acceptor, Address)> {
        Ok(match address {
            Address::Tcp(text) => {
                let listener = rt::stream::TcpListener::bind(text).await?;
                let port = listener.local_addr()?.port();
                let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host);
                (Acceptor::Tcp(listener), Address::Tcp(format!("{host}:{port}")))
            }
            Address::Unix(path) => (Acceptor::Unix(rt::stream::UnixListener::bind(path)?), address.clone()),
            Address::Mem(name) => (Acceptor::Mem(rt::mem::listen(name)?), address.clone()),
        })
    }

    async fn accept(&mut self) -> io::Result<Link> {
        match self {
            Acceptor::Tcp(listener) => listener.accept().await.map(Link::over),
            Acceptor::Unix(listener) => listener.accept().await.map(Link::over),
            Acceptor::Mem(listener) => Ok(Link::Mem(listener.accept().await?)),
        }
    }
}

fn bind_error(address: &Address, error: &io::Error) -> BindError {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => return BindError::InUse { address: address.clone() },
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or a directory this user may write to",
        io::ErrorKind::NotFound => "create the socket's directory first",
        io::ErrorKind::AddrNotAvailable => "use an address of this machine, or 0.0.0.0 for all of them",
        _ => "check the address",
    };
    BindError::Failed { address: address.clone(), cause: error.to_string(), remedy }
}

/// What the tasks of a listener need.
#[derive(Clone)]
struct Door {
    host: Arc<Host>,
    arrived: mpsc::Sender<Incoming>,
    stop: watch::Receiver<Stop>,
}

async fn accept_links(mut acceptor: Acceptor, door: Door) {
    let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    // Ends with this task: a listener that stops leaves nobody half-open.
    let mut greeting = TaskSet::new();
    loop {
        let place = half_open.clone().acquire_owned().await.expect("this semaphore is never closed");
        match acceptor.accept().await {
            Ok(link) => greeting.spawn(greet(link, door.clone(), place)),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                rt::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hears a new link's hello, and passes it on or sends it away.
async fn greet(mut link: Link, door: Door, _place: OwnedSemaphorePermit) {
    let heard = rt::timeout(HELLO_TIMEOUT, link.receive(|header| admit_greeting(header, Kind::Hello))).await;
    let judged = match heard {
        Ok(Ok(Some(arrival))) => judge(arrival, &door.host),
        // Left without a word: a port scan, or a check that something listens.
        Ok(Ok(None)) => return,
        Ok(Err(error)) => match violation(&error) {
            Some(reason) => Err(reason),
            None => return,
        },
        Err(_elapsed) => Err(Error::new(Code::TimedOut, format!("no hello within {} s", HELLO_TIMEOUT.as_secs()))),
    };
    let judged = judged.and_then(|hello| match *door.stop.borrow() {
        Stop::By(_) => Err(stopping()),
        Stop::No if links(&door) > LINKS_MAX => {
            let error = Error::new(Code::Busy, format!("the server has {LINKS_MAX} links, as many as it takes"));
            Err(error.remedy("close connections that are not used, or try again later"))
        }
        Stop::No => Ok(hello),
    });
    match judged {
        Ok((hello, version)) => {
            let (peer, session) = (link.peer(), SessionId(hello.session));
            let Ok(link) = link.detach() else { return };
            let Door { host, arrived, stop } = door;
            let incoming = Incoming { link, host, session, version, peer, stop, service: hello.service };
            // Refused when the listener has just stopped; the caller sees the link close.
            let _ = arrived.send(incoming).await;
        }
        Err(reason) => {
            tracing::debug!(peer = link.peer(), %reason, "caller refused");
            metrics::REFUSED.add(1);
            say_goodbye(link, &door.host.clock, &reason).await;
        }
    }
}

/// Links that are up or being greeted: each holds the host, and so does the acceptor.
fn links(door: &Door) -> usize {
    Arc::strong_count(&door.host) - 1
}

/// Checks a hello; the version to speak.
fn judge(arrival: Arrival, host: &Host) -> Result<(Hello, u8), Error> {
    let Arrival { header, body, .. } = arrival;
    if header.kind == Kind::Goodbye {
        return Err(Error::new(Code::Canceled, "the caller said goodbye"));
    }
    let hello = Hello::from_bytes(&body)
        .map_err(|error| Error::new(Code::Protocol, format!("the hello cannot be read: {error}")))?;
    let (oldest, newest) = (Version::OLDEST as u8, Version::NEWEST as u8);
    let version = hello.newest.min(newest);
    if version < hello.oldest.max(oldest) {
        let text = format!(
            "the caller speaks versions {} to {}, this server {oldest} to {newest}",
            hello.oldest, hello.newest
        );
        let remedy = match hello.newest < oldest {
            true => "the caller is the older one: install this server's release there",
            false => "this server is the older one: install the caller's release here, or use one of this server's",
        };
        return Err(Error::new(Code::Protocol, text).remedy(remedy));
    }
    if !hello.system.is_empty() && hello.system != host.system {
        let text = format!("this server belongs to system '{}', not '{}'", host.system, hello.system);
        return Err(Error::new(Code::Mismatch, text).remedy("correct the address or the system's name"));
    }
    observe(&host.clock, &header)?;
    Ok((hello, version))
}

/// What to tell a peer whose link has failed so; `None` when there is nobody to tell.
pub(crate) fn violation(error: &LinkError) -> Option<Error> {
    let code = match error {
        LinkError::Io(_) | LinkError::Torn => return None,
        LinkError::NotAdmitted(reason) => return Some(reason.clone()),
        LinkError::Frame(FrameError::HeaderChecksum { .. } | FrameError::BodyChecksum { .. }) => Code::Checksum,
        LinkError::Frame(_) | LinkError::Lengths => Code::Protocol,
    };
    let remedy = match error {
        LinkError::Frame(FrameError::Magic(_)) => "check what connects to this port",
        LinkError::Frame(FrameError::Version(_)) => "use a client of the server's release",
        _ => "check the network between the machines, and that both run the same release",
    };
    Some(Error::new(code, error.to_string()).remedy(remedy))
}

pub(crate) fn stopping() -> Error {
    Error::new(Code::ShuttingDown, "the server is stopping").remedy("try again when it is back")
}

/// The frame of a goodbye.
pub(crate) fn goodbye(clock: &Hlc, reason: &Error) -> (Header, Vec<u8>) {
    let body = reason.to_bytes();
    (greeting_header(Kind::Goodbye, &body, clock, SessionId(0)), body)
}

/// Closes a link that has not been split, with the reason.
pub(crate) async fn say_goodbye(mut link: Link, clock: &Hlc, reason: &Error) {
    let (header, body) = goodbye(clock, reason);
    if let Ok(Ok(())) = rt::timeout(GOODBYE_TIMEOUT, link.send(&header, &body)).await {
        let (reader, writer) = link.split();
        drop(writer);
        reader.linger().await;
    }
}

//! Frame links by name: within one process on `os`, through the simulated network in the simulator.
//!
//! # Shape
//! A listener owns a name; connecting makes a pair of ends, each a sender and a receiver of
//! [`Frame`]s in order. On `os` a link is a bounded channel each way, usable across threads.
//!
//! # Always true
//! 1. At most [`LINK_FRAMES_MAX`] frames wait in one direction; `send` waits for room.
//! 2. On `os` nothing is lost, and the end of a link is seen after the last frame. In the simulator
//!    a frame may be delayed, dropped or doubled, and the end of a link may go unnoticed: use
//!    deadlines.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::disk::IoBuf;
use crate::sim::{self, net};

/// Frames in flight one way on one link. Enough to hide a thread's wake-up; small enough that a
/// stalled reader of 1 MiB bulk frames holds back 64 MiB and no more.
pub const LINK_FRAMES_MAX: usize = 64;

/// Connections waiting to be accepted on one name. More wait in `connect`.
pub(crate) const BACKLOG_MAX: usize = 128;

/// What travels on a link: a small head, and bulk data that is handed over without a copy.
#[derive(Debug, Default)]
pub struct Frame {
    pub head: Bytes,
    pub bulk: Option<IoBuf>,
}

/// Why a link cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Listen under another name, or stop the other listener.
    #[error("the name {name:?} is already listened to")]
    NameTaken { name: String },
    /// Start the server, or correct the name.
    #[error("nobody listens to the name {name:?}")]
    Refused { name: String },
    /// The network does not answer: try again later.
    #[error("no answer from {name:?}")]
    Unreachable { name: String },
    /// The other end is gone: connect again.
    #[error("the link is closed")]
    Closed,
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> io::Error {
        let kind = match error {
            LinkError::NameTaken { .. } => io::ErrorKind::AddrInUse,
            LinkError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            LinkError::Unreachable { .. } => io::ErrorKind::TimedOut,
            LinkError::Closed => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, error)
    }
}

static LISTENERS: Mutex<BTreeMap<String, mpsc::Sender<MemLink>>> = Mutex::new(BTreeMap::new());

/// Takes `name` until the listener is dropped.
///
/// # Errors
/// `NameTaken`.
pub fn listen(name: &str) -> Result<MemListener, LinkError> {
    if sim::is_active() {
        let inner = ListenerInner::Sim(net::listen(name)?);
        return Ok(MemListener { name: name.to_owned(), inner });
    }
    let (arrivals, accepted) = mpsc::channel(BACKLOG_MAX);
    let mut listeners = LISTENERS.lock().expect("no code panics while it holds the registry");
    if listeners.contains_key(name) {
        return Err(LinkError::NameTaken { name: name.to_owned() });
    }
    listeners.insert(name.to_owned(), arrivals);
    Ok(MemListener { name: name.to_owned(), inner: ListenerInner::Os(accepted) })
}

/// Makes a link to whoever listens to `name`.
///
/// # Errors
/// `Refused`; in the simulator also `Unreachable`.
pub async fn connect(name: &str) -> Result<MemLink, LinkError> {
    if sim::is_active() {
        return net::connect(name).await.map(of_sim);
    }
    let refused = || LinkError::Refused { name: name.to_owned() };
    let arrivals = {
        let listeners = LISTENERS.lock().expect("no code panics while it holds the registry");
        listeners.get(name).cloned().ok_or_else(refused)?
    };
    let (to_server, from_client) = mpsc::channel(LINK_FRAMES_MAX);
    let (to_client, from_server) = mpsc::channel(LINK_FRAMES_MAX);
    let theirs = MemLink {
        sender: MemSender { inner: SenderInner::Os(to_client) },
        receiver: MemReceiver { inner: ReceiverInner::Os(from_client) },
    };
    arrivals.send(theirs).await.map_err(|_| refused())?;
    Ok(MemLink {
        sender: MemSender { inner: SenderInner::Os(to_server) },
        receiver: MemReceiver { inner: ReceiverInner::Os(from_server) },
    })
}

fn of_sim((sender, receiver): (net::SimSender, net::SimReceiver)) -> MemLink {
    MemLink {
        sender: MemSender { inner: SenderInner::Sim(sender) },
        receiver: MemReceiver { inner: ReceiverInner::Sim(receiver) },
    }
}

/// Owns a name and accepts links to it.
pub struct MemListener {
    name: String,
    inner: ListenerInner,
}

enum ListenerInner {
    Os(mpsc::Receiver<MemLink>),
    Sim(net::SimListener),
}

impl MemListener {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next link. Cancel-safe.
    ///
    /// # Errors
    /// `Closed`, when the simulated node has been cut off.
    pub async fn accept(&mut self) -> Result<MemLink, LinkError> {
        match &mut self.inner {
            ListenerInner::Os(accepted) => accepted.recv().await.ok_or(LinkError::Closed),
            ListenerInner::Sim(listener) => listener.accept().await.map(of_sim),
        }
    }
}

impl Drop for MemListener {
    fn drop(&mut self) {
        match &self.inner {
            ListenerInner::Os(_) => {
                if let Ok(mut listeners) = LISTENERS.lock() {
                    listeners.remove(&self.name);
                }
            }
            ListenerInner::Sim(_) => {}
        }
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct MemLink {
    sender: MemSender,
    receiver: MemReceiver,
}

impl MemLink {
    /// See [`MemSender::send`].
    pub async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        self.sender.send(frame).await
    }

    /// See [`MemReceiver::recv`].
    pub async fn recv(&mut self) -> Option<Frame> {
        self.receiver.recv().await
    }

    pub fn split(self) -> (MemSender, MemReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half. Dropping it ends this direction.
pub struct MemSender {
    inner: SenderInner,
}

enum SenderInner {
    Os(mpsc::Sender<Frame>),
    Sim(net::SimSender),
}

impl MemSender {
    /// Sends one frame, waiting for room. Cancelled, it has not been sent.
    ///
    /// # Errors
    /// `Closed` when the other end is known to be gone. Success says nothing about arrival.
    pub async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        match &self.inner {
            SenderInner::Os(sender) => sender.send(frame).await.map_err(|_| LinkError::Closed),
            SenderInner::Sim(sender) => sender.send(frame).await,
        }
    }
}

/// The receiving half. Dropping it makes the peer's `send` fail.
pub struct MemReceiver {
    inner: ReceiverInner,
}

enum ReceiverInner {
    Os(mpsc::Receiver<Frame>),
    Sim(net::SimReceiver),
}

impl MemReceiver {
    /// The next frame; `None` when the link has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Frame> {
        match &mut self.inner {
            ReceiverInner::Os(receiver) => receiver.recv().await,
            ReceiverInner::Sim(receiver) => receiver.recv().await,
        }
    }

    /// The next frame if one is here already; `None` says nothing about the link's end.
    pub fn try_recv(&mut self) -> Option<Frame> {
        match &mut self.inner {
            ReceiverInner::Os(receiver) => receiver.try_recv().ok(),
            ReceiverInner::Sim(receiver) => receiver.try_recv(),
        }
    }
}

impl fmt::Debug for MemSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemSender")
    }
}

impl fmt::Debug for MemReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemReceiver")
    }
}

//! Frames waiting to be written to one link.
//!
//! Whoever has a frame encodes it into the outbox and goes on; the link's writing task takes all
//! that has gathered and writes it at once. So frames coalesce exactly as far as the writer is
//! behind, and a frame alone is written without delay.
//!
//! # Always true
//! The outbox has no bound of its own: each frame in it holds a credit of the link (a request on
//! the caller's side, an answer on the server's), and credits are bounded.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard};
use std::task::{Poll, Waker};

use bytes::Bytes;
use rt::disk::IoBuf;
use wire::frame::{HEADER_BYTES, Header};

use crate::link::Link;

/// Memory of an emptied batch is kept up to this size: the usual batch needs no allocation, and a
/// rare large one does not stay for the life of the link.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Bulk data on its way out.
#[derive(Clone, Debug)]
pub enum Bulk {
    Owned(IoBuf),
    /// Of several frames. Streams write it from where it is; who gets it over a mem link gets a copy.
    Shared(Bytes),
}

impl std::ops::Deref for Bulk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bulk::Owned(buffer) => buffer,
            Bulk::Shared(bytes) => bytes,
        }
    }
}

impl Bulk {
    fn into_owned(self) -> IoBuf {
        match self {
            Bulk::Owned(buffer) => buffer,
            Bulk::Shared(bytes) => IoBuf::from_slice(&bytes),
        }
    }
}

/// Frames in the form their link takes them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Stream: headers and bodies, one after another.
    pub bytes: Vec<u8>,
    /// Stream: bulk data, each to be written before `bytes[place..]`.
    pub bulks: Vec<(usize, Bulk)>,
    /// Mem: whole frames.
    pub frames: Vec<rt::mem::Frame>,
    /// Credits that the peer may use again once it has these frames.
    pub released: Credits,
}

/// An amount of credits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credits {
    pub requests: u32,
    pub bulk: u64,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.frames.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.bulks.clear();
        self.frames.clear();
        self.released = Credits::default();
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    kind: Kind,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stream,
    Mem,
}

#[derive(Debug)]
struct State {
    batch: Batch,
    /// The writing task, when it waits.
    writer: Option<Waker>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no more; what it has is still written.
    Closing,
    Dead,
}

/// The outbox takes no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl Outbox {
    pub(crate) fn new(link: &Link) -> Outbox {
        let kind = match link {
            Link::Stream { .. } => Kind::Stream,
            Link::Mem(_) => Kind::Mem,
        };
        Outbox { kind, state: Mutex::new(State { batch: Batch::default(), writer: None, phase: Phase::Open }) }
    }

    /// Appends a frame. `header` agrees with the parts. Never waits.
    pub(crate) fn push(
        &self,
        header: &Header,
        body: &[u8],
        bulk: Option<Bulk>,
        releases: Credits,
    ) -> Result<(), Closed> {
        debug_assert_eq!(header.body_bytes as usize, body.len());
        debug_assert_eq!(header.bulk_bytes as usize, bulk.as_ref().map_or(0, |bulk| bulk.len()));
        let head = header.encode();
        let writer = {
            let mut state = self.lock();
            if state.phase != Phase::Open {
                return Err(Closed);
            }
            let batch = &mut state.batch;
            match self.kind {
                Kind::Stream => {
                    batch.bytes.extend_from_slice(&head);
                    batch.bytes.extend_from_slice(body);
                    if let Some(bulk) = bulk {
                        batch.bulks.push((batch.bytes.len(), bulk));
                    }
                }
                Kind::Mem => {
                    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
                    bytes.extend_from_slice(&head);
                    bytes.extend_from_slice(body);
                    let bulk = bulk.map(Bulk::into_owned);
                    batch.frames.push(rt::mem::Frame { head: bytes.into(), bulk });
                }
            }
            batch.released.requests += releases.requests;
            batch.released.bulk += releases.bulk;
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        Ok(())
    }

    /// Waits for frames and moves them into `batch`, which is empty. False when there will be no
    /// more. Cancel-safe; for one task.
    pub(crate) async fn take(&self, batch: &mut Batch) -> bool {
        debug_assert!(batch.is_empty());
        poll_fn(|cx| {
            let mut state = self.lock();
            if !state.batch.is_empty() {
                std::mem::swap(&mut state.batch, batch);
                Poll::Ready(true)
            } else if state.phase == Phase::Open {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(false)
            }
        })
        .await
    }

    /// Takes no more frames; those waiting are written, then the writer ends.
    pub(crate) fn close(&self) {
        self.enter(Phase::Closing);
    }

    /// Drops the frames waiting and ends the writer.
    pub(crate) fn kill(&self) {
        self.enter(Phase::Dead);
    }

    fn enter(&self, phase: Phase) {
        let (writer, _dropped_unlocked) = {
            let mut state = self.lock();
            if state.phase != Phase::Dead {
                state.phase = phase;
            }
            let dropped = (state.phase == Phase::Dead).then(|| std::mem::take(&mut state.batch));
            (state.writer.take(), dropped)
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds an outbox")
    }
}

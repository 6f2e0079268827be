//! One frame link over each provider.
//!
//! # Shape
//! A [`Link`] is whole while hellos are said, may be [`Detached`] to change threads, and is then split
//! into a [`LinkReader`] and a [`LinkWriter`], each driven by one task.
//!
//! Over a stream, frames are parsed out of one read buffer; bulk data beyond what the buffer happens
//! to hold is read straight into its [`IoBuf`]. Over mem, a frame is handed over as it is.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::Bytes;
use rt::disk::IoBuf;
use rt::mem::{MemLink, MemReceiver, MemSender};
use rt::stream::{ReadHalf, StdStream, Stream, WriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use types::Error;
use wire::frame::{FrameError, HEADER_BYTES, Header};

use crate::Address;
use crate::outbox::Batch;
use crate::polling::Spinner;

/// Size of a stream's read buffer: some two hundred small frames in one system call. What is in it
/// of bulk data has to be copied once more, so it is not larger.
const READ_BUFFER_BYTES: usize = 32 * 1024;

/// What is missing of bulk data is read straight to its place if it is as much as this; less comes
/// through the buffer, with the frames after it, instead of by a system call of its own.
const DIRECT_READ_BYTES_MIN: usize = 16 * 1024;

/// Longest a write may make no end. A peer that reads nothing for so long is taken for dead, so
/// that the frames waiting for it do not hold memory for ever.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// How long, and for how many bytes, a link that was sent a goodbye is still drained. Closing with
/// bytes unread would make the kernel send a reset, which can overtake the goodbye.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 32 << 20;

/// A frame, read and checked.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub header: Header,
    pub body: Bytes,
    pub bulk: Option<IoBuf>,
}

/// Why nothing more can be read from a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the peer left in the middle of a frame")]
    Torn,
    #[error("the frame's header and its parts differ in length")]
    Lengths,
    /// The frame is sound, but not allowed now. The error is for the peer.
    #[error("{0}")]
    NotAdmitted(Error),
}

/// A link that one task has for itself.
#[derive(Debug)]
pub(crate) enum Link {
    Stream { stream: Stream, buffer: ReadBuffer },
    Mem(MemLink),
}

/// A link between two threads: belongs to no runtime.
#[derive(Debug)]
pub(crate) enum Detached {
    Stream { stream: StdStream, buffer: ReadBuffer },
    Mem(MemLink),
}

impl Detached {
    pub(crate) fn attach(self) -> io::Result<Link> {
        Ok(match self {
            Detached::Stream { stream, buffer } => Link::Stream { stream: Stream::from_std(stream)?, buffer },
            Detached::Mem(link) => Link::Mem(link),
        })
    }
}

impl Link {
    pub(crate) async fn connect(address: &Address) -> io::Result<Link> {
        match address {
            Address::Tcp(host) => Stream::connect_tcp(host).await.map(Link::over),
            Address::Unix(path) => Stream::connect_unix(path).await.map(Link::over),
            Address::Mem(name) => Ok(Link::Mem(rt::mem::connect(name).await?)),
        }
    }

    pub(crate) fn over(stream: Stream) -> Link {
        Link::Stream { stream, buffer: ReadBuffer::new() }
    }

    /// Who is at the other end, for logs.
    pub(crate) fn peer(&self) -> String {
        match self {
            Link::Stream { stream, .. } => stream.peer(),
            Link::Mem(_) => "mem".to_owned(),
        }
    }

    /// How many copies of one frame may arrive. A stream makes none; in the simulator a mem link
    /// does, and a caller must not be blamed for that.
    pub(crate) fn copies_max(&self) -> u32 {
        match self {
            Link::Stream { .. } => 1,
            Link::Mem(_) => 2,
        }
    }

    /// Writes one frame without bulk data.
    pub(crate) async fn send(&mut self, header: &Header, body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(body);
        match self {
            Link::Stream { stream: Stream::Tcp(stream), .. } => stream.write_all(&bytes).await,
            Link::Stream { stream: Stream::Unix(stream), .. } => stream.write_all(&bytes).await,
            Link::Mem(link) => Ok(link.send(rt::mem::Frame { head: bytes.into(), bulk: None }).await?),
        }
    }

    /// The next frame; `None` when the peer has left. `admit` judges its header before anything is
    /// allocated for it. Not cancel-safe.
    pub(crate) async fn receive(
        &mut self,
        admit: impl FnOnce(&Header) -> Result<(), Error>,
    ) -> Result<Option<Arrival>, LinkError> {
        match self {
            Link::Stream { stream, buffer } => read_frame(stream, buffer, admit).await,
            Link::Mem(link) => link.recv().await.map(|frame| unpack(frame, admit)).transpose(),
        }
    }

    pub(crate) fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Link::Stream { stream, buffer } => Detached::Stream { stream: stream.into_std()?, buffer },
            Link::Mem(link) => Detached::Mem(link),
        })
    }

    pub(crate) fn split(self) -> (LinkReader, LinkWriter) {
        match self {
            Link::Stream { stream, buffer } => {
                let (read, write) = stream.into_split();
                let source = Spinning { half: read, spinner: Spinner::default() };
                (LinkReader::Stream { source, buffer }, LinkWriter::Stream(write))
            }
            Link::Mem(link) => {
                let (sender, receiver) = link.split();
                (LinkReader::Mem(receiver), LinkWriter::Mem(sender))
            }
        }
    }
}

#[derive(Debug)]
pub(crate) enum LinkReader {
    Stream { source: Spinning, buffer: ReadBuffer },
    Mem(MemReceiver),
}

impl LinkReader {
    /// As [`Link::receive`].
    #[inline]
    pub(crate) async fn receive(
        &mut self,
        admit: impl FnOnce(&Header) -> Result<(), Error>,
    ) -> Result<Option<Arrival>, LinkError> {
        match self {
            LinkReader::Stream { source, buffer } => read_frame(source, buffer, admit).await,
            LinkReader::Mem(receiver) => receiver.recv().await.map(|frame| unpack(frame, admit)).transpose(),
        }
    }

    /// Waits, within bounds, until the peer has closed too. The writer is gone already.
    pub(crate) async fn linger(mut self) {
        if let LinkReader::Stream { source, buffer } = &mut self {
            let drain = async {
                let mut left = LINGER_BYTES;
                while let Ok(count @ 1..) = source.half.read(&mut buffer.bytes).await {
                    match left.checked_sub(count) {
                        Some(rest) => left = rest,
                        None => return,
                    }
                }
            };
            // However it ends, the link is over.
            let _ = rt::timeout(LINGER_TIME, drain).await;
        }
    }
}

#[derive(Debug)]
pub(crate) enum LinkWriter {
    Stream(WriteHalf),
    Mem(MemSender),
}

impl LinkWriter {
    /// Writes everything in `batch` and empties it, keeping its memory.
    ///
    /// # Errors
    /// The kernel's, or `TimedOut` for a peer that does not read.
    pub(crate) async fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        rt::timeout(WRITE_STALL_MAX, self.write_all(batch))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what it is sent")))
    }

    async fn write_all(&mut self, batch: &mut Batch) -> io::Result<()> {
        match self {
            LinkWriter::Stream(half) => {
                if batch.bulks.is_empty() {
                    half.write_all_vectored(&[IoSlice::new(&batch.bytes)]).await?;
                } else {
                    half.write_all_vectored(&slices(batch)).await?;
                }
            }
            LinkWriter::Mem(sender) => {
                for frame in batch.frames.drain(..) {
                    sender.send(frame).await?;
                }
            }
        }
        batch.clear();
        Ok(())
    }
}

/// The bytes of a batch in order: heads up to the place of a bulk, that bulk, and so on.
fn slices(batch: &Batch) -> Vec<IoSlice<'_>> {
    let mut slices = Vec::with_capacity(2 * batch.bulks.len() + 1);
    let mut done = 0;
    for (place, bulk) in &batch.bulks {
        slices.push(IoSlice::new(&batch.bytes[done..*place]));
        slices.push(IoSlice::new(bulk));
        done = *place;
    }
    slices.push(IoSlice::new(&batch.bytes[done..]));
    slices
}

/// A frame off a mem link, judged as one off a stream is.
fn unpack(frame: rt::mem::Frame, admit: impl FnOnce(&Header) -> Result<(), Error>) -> Result<Arrival, LinkError> {
    let header = Header::decode(&frame.head)?;
    admit(&header).map_err(LinkError::NotAdmitted)?;
    let body = frame.head.slice(HEADER_BYTES..);
    let bulk_bytes = frame.bulk.as_ref().map_or(0, |bulk| bulk.len());
    if body.len() != header.body_bytes as usize || bulk_bytes != header.bulk_bytes as usize {
        return Err(LinkError::Lengths);
    }
    header.check_body(&body)?;
    Ok(Arrival { header, body, bulk: frame.bulk.filter(|bulk| !bulk.is_empty()) })
}

/// Where a stream's bytes come from: the whole stream while hellos are said, its reading half after.
trait Source {
    /// At least one byte; 0 at the end. Cancel-safe.
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

impl Source for Stream {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => AsyncReadExt::read(stream, into).await,
            Stream::Unix(stream) => AsyncReadExt::read(stream, into).await,
        }
    }
}

/// A reading half that may look a few more times before it goes to sleep.
#[derive(Debug)]
pub(crate) struct Spinning {
    half: ReadHalf,
    spinner: Spinner,
}

impl Source for Spinning {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.spinner.is_on() { self.spinner.read(&mut self.half, into).await } else { self.half.read(into).await }
    }
}

/// Bytes read from a stream and not yet parsed: `bytes[start..end]`.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    fn new() -> ReadBuffer {
        ReadBuffer { bytes: vec![0; READ_BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
    }

    /// Moves what is held to the front of `into`; how much that was.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.end - self.start);
        into[..count].copy_from_slice(&self.bytes[self.start..self.start + count]);
        self.consume(count);
        count
    }

    /// Reads until at least `needed` bytes are held, at most the buffer's size. False at the end of
    /// the stream.
    async fn fill<S: Source>(&mut self, source: &mut S, needed: usize) -> io::Result<bool> {
        debug_assert!(needed <= self.bytes.len(), "a buffer is not asked for more than its size");
        while self.end - self.start < needed {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            } else if self.bytes.len() - self.start < needed {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match source.read(&mut self.bytes[self.end..]).await? {
                0 => return Ok(false),
                count => self.end += count,
            }
        }
        Ok(true)
    }
}

#[inline]
async fn read_frame<S: Source>(
    source: &mut S,
    buffer: &mut ReadBuffer,
    admit: impl FnOnce(&Header) -> Result<(), Error>,
) -> Result<Option<Arrival>, LinkError> {
    // The magic is judged as soon as it is here: someone who speaks another protocol is waiting for
    // an answer and will not send the rest of a header.
    if !buffer.fill(source, 4).await? {
        return if buffer.held().is_empty() { Ok(None) } else { Err(LinkError::Torn) };
    }
    if let Err(error @ FrameError::Magic(_)) = wire::frame::check_magic(buffer.held()) {
        return Err(error.into());
    }
    if !buffer.fill(source, HEADER_BYTES).await? {
        return Err(LinkError::Torn);
    }
    let header = Header::decode(buffer.held())?;
    admit(&header).map_err(LinkError::NotAdmitted)?;
    buffer.consume(HEADER_BYTES);

    let body_bytes = header.body_bytes as usize;
    let body = if body_bytes <= READ_BUFFER_BYTES {
        if !buffer.fill(source, body_bytes).await? {
            return Err(LinkError::Torn);
        }
        let body = Bytes::copy_from_slice(&buffer.held()[..body_bytes]);
        buffer.consume(body_bytes);
        body
    } else {
        let mut body = vec![0; body_bytes];
        read_exact(source, buffer, &mut body).await?;
        body.into()
    };
    header.check_body(&body)?;

    let bulk = match header.bulk_bytes as usize {
        0 => None,
        bulk_bytes => {
            let mut bulk = IoBuf::for_read(bulk_bytes);
            read_exact(source, buffer, &mut bulk).await?;
            Some(bulk)
        }
    };
    Ok(Some(Arrival { header, body, bulk }))
}

/// Fills `into`: from the buffer what it holds, directly what is much.
async fn read_exact<S: Source>(source: &mut S, buffer: &mut ReadBuffer, into: &mut [u8]) -> Result<(), LinkError> {
    let mut done = buffer.take(into);
    while into.len() - done >= DIRECT_READ_BYTES_MIN {
        match source.read(&mut into[done..]).await? {
            0 => return Err(LinkError::Torn),
            count => done += count,
        }
    }
    let rest = &mut into[done..];
    if !buffer.fill(source, rest.len()).await? {
        return Err(LinkError::Torn);
    }
    buffer.take(rest);
    Ok(())
}

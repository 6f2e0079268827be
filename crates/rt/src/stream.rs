//! Byte streams over TCP and Unix sockets.
//!
//! An accepted connection may move to the runtime of another thread: [`Stream::into_std`] there,
//! [`Stream::from_std`] here. TCP streams send small messages at once, and notice a peer whose
//! machine has died: an idle one within a minute, one that is being sent to within 30 s.
//!
//! # Not here
//! The simulator: simulated nodes talk over [`crate::mem`] links, and everything here is refused.
//! Frames: `net` makes them.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{tcp, unix};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// A connection that belongs to no runtime, on its way from one thread to another.
#[derive(Debug)]
pub enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Connects to `address`, "host:port".
    ///
    /// # Errors
    /// The kernel's or the resolver's.
    pub async fn connect_tcp(address: &str) -> io::Result<Stream> {
        refuse_in_simulator()?;
        let stream = tokio::net::TcpStream::connect(address).await?;
        tune(stream.as_raw_fd())?;
        Ok(Stream::Tcp(stream))
    }

    /// Connects to the Unix socket at `path`.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn connect_unix(path: &Path) -> io::Result<Stream> {
        refuse_in_simulator()?;
        Ok(Stream::Unix(tokio::net::UnixStream::connect(path).await?))
    }

    /// Detaches the connection from this thread's runtime.
    pub fn into_std(self) -> io::Result<StdStream> {
        match self {
            Stream::Tcp(stream) => stream.into_std().map(StdStream::Tcp),
            Stream::Unix(stream) => stream.into_std().map(StdStream::Unix),
        }
    }

    /// Attaches the connection to this thread's runtime.
    pub fn from_std(stream: StdStream) -> io::Result<Stream> {
        match stream {
            StdStream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                tune(stream.as_raw_fd())?;
                tokio::net::TcpStream::from_std(stream).map(Stream::Tcp)
            }
            StdStream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                tokio::net::UnixStream::from_std(stream).map(Stream::Unix)
            }
        }
    }

    /// Who is at the other end, for logs and messages.
    pub fn peer(&self) -> String {
        match self {
            Stream::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => format!("tcp {address}"),
                Err(_) => "tcp (gone)".to_owned(),
            },
            Stream::Unix(stream) => match stream.peer_cred() {
                Ok(user) => format!("unix pid {} uid {}", user.pid().unwrap_or(0), user.uid()),
                Err(_) => "unix (gone)".to_owned(),
            },
        }
    }

    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(stream) => {
                let fd = stream.as_raw_fd();
                let (read, write) = stream.into_split();
                (ReadHalf { fd, inner: ReadInner::Tcp(read) }, WriteHalf { inner: WriteInner::Tcp(write) })
            }
            Stream::Unix(stream) => {
                let fd = stream.as_raw_fd();
                let (read, write) = stream.into_split();
                (ReadHalf { fd, inner: ReadInner::Unix(read) }, WriteHalf { inner: WriteInner::Unix(write) })
            }
        }
    }
}

/// The reading half. The connection closes when both halves are gone.
#[derive(Debug)]
pub struct ReadHalf {
    /// The socket behind `inner`, which owns it and so keeps it open.
    fd: RawFd,
    inner: ReadInner,
}

#[derive(Debug)]
enum ReadInner {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

impl ReadHalf {
    /// Reads what there is, at least one byte; 0 means the peer has finished. Cancel-safe.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            ReadInner::Tcp(half) => half.read(buffer).await,
            ReadInner::Unix(half) => half.read(buffer).await,
        }
    }

    /// Fills `buffer`. Not cancel-safe: what was read before is lost.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer finishes before that.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match &mut self.inner {
            ReadInner::Tcp(half) => half.read_exact(buffer).await,
            ReadInner::Unix(half) => half.read_exact(buffer).await,
        }
        .map(|_| ())
    }

    /// Reads without waiting, by a system call each time. For spinning: tokio's own `try_read`
    /// answers from a cached readiness after the first miss, and would never see new data.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; then `read` waits.
    pub fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `fd` is open as long as `inner` lives, and the pointer and length describe one
        // writable slice.
        let got = unsafe { libc::recv(self.fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }
}

/// The writing half. Dropping it tells the peer that nothing more will come.
#[derive(Debug)]
pub struct WriteHalf {
    inner: WriteInner,
}

#[derive(Debug)]
enum WriteInner {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// Slices given to the kernel at once; its own limit is 1024.
const SLICES_PER_CALL: usize = 64;

impl WriteHalf {
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_vectored(&[IoSlice::new(bytes)]).await
    }

    /// Writes all the slices in order, in as few system calls as the kernel takes them. Not
    /// cancel-safe: a part may have been written.
    pub async fn write_all_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        // The first slice not wholly written, and how much of it was.
        let (mut first, mut offset) = (0, 0);
        loop {
            while first < slices.len() && offset == slices[first].len() {
                (first, offset) = (first + 1, 0);
            }
            if first == slices.len() {
                return Ok(());
            }
            let mut batch = [IoSlice::new(&[]); SLICES_PER_CALL];
            let count = (slices.len() - first).min(SLICES_PER_CALL);
            batch[0] = IoSlice::new(&slices[first][offset..]);
            for (place, slice) in batch[1..count].iter_mut().zip(&slices[first + 1..]) {
                *place = IoSlice::new(slice);
            }
            let mut written = match &mut self.inner {
                WriteInner::Tcp(half) => half.write_vectored(&batch[..count]).await?,
                WriteInner::Unix(half) => half.write_vectored(&batch[..count]).await?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while written > 0 {
                let step = written.min(slices[first].len() - offset);
                offset += step;
                written -= step;
                if written > 0 {
                    (first, offset) = (first + 1, 0);
                }
            }
        }
    }
}

/// Accepts TCP connections.
#[derive(Debug)]
pub struct TcpListener {
    inner: tokio::net::TcpListener,
}

impl TcpListener {
    /// Listens on `address`, "host:port"; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// `AddrInUse` and the kernel's others.
    pub async fn bind(address: &str) -> io::Result<TcpListener> {
        refuse_in_simulator()?;
        // tokio sets SO_REUSEADDR, so that a server restarted at once gets its port back.
        tokio::net::TcpListener::bind(address).await.map(|inner| TcpListener { inner })
    }

    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.inner.local_addr()
    }

    /// The next connection. Cancel-safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = self.inner.accept().await?;
        tune(stream.as_raw_fd())?;
        Ok(Stream::Tcp(stream))
    }
}

/// Accepts connections on a Unix socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixListener {
    inner: tokio::net::UnixListener,
    path: PathBuf,
}

impl UnixListener {
    /// Listens on a socket file at `path`. A file left behind by a dead process is replaced; to tell,
    /// one connection is made and dropped, so listeners must put up with connections that say nothing.
    ///
    /// # Errors
    /// `AddrInUse` when a live process listens there, and the kernel's others.
    pub fn bind(path: &Path) -> io::Result<UnixListener> {
        refuse_in_simulator()?;
        let inner = match tokio::net::UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                std::fs::remove_file(path)?;
                tokio::net::UnixListener::bind(path)?
            }
            other => other?,
        };
        Ok(UnixListener { inner, path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Cancel-safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        self.inner.accept().await.map(|(stream, _)| Stream::Unix(stream))
    }
}

/// True if `path` is a socket that nobody answers.
fn is_abandoned(path: &Path) -> bool {
    let connected = std::os::unix::net::UnixStream::connect(path);
    matches!(connected, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        // Gone already, or not ours to remove any more: either way nothing is left to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Sets the options of a TCP connection. See the head of this file for what they promise.
fn tune(socket: RawFd) -> io::Result<()> {
    for (level, option, value) in [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 30),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 30_000),
    ] {
        let value: libc::c_int = value;
        let pointer = (&raw const value).cast();
        // SAFETY: `pointer` points to an integer of the length given, which the kernel only reads.
        let outcome = unsafe { libc::setsockopt(socket, level, option, pointer, size_of_val(&value) as u32) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn refuse_in_simulator() -> io::Result<()> {
    if crate::sim::is_active() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the simulator has no sockets; use rt::mem links"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check_echo(client: Stream, server: Stream) {
        let (mut reader, mut writer) = server.into_split();
        let echo = crate::spawn(async move {
            let mut bytes = vec![0; 300_000];
            reader.read_exact(&mut bytes).await.unwrap();
            writer.write_all(&bytes).await.unwrap();
            assert_eq!(reader.read(&mut bytes).await.unwrap(), 0);
        });
        let (mut reader, mut writer) = client.into_split();
        // More slices than one call takes, some empty, so that partial writes end anywhere.
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let mut slices: Vec<IoSlice> = bytes.chunks(3000).map(IoSlice::new).collect();
        slices.insert(7, IoSlice::new(&[]));
        slices.push(IoSlice::new(&[]));
        let mut back = vec![0; bytes.len()];
        let (written, read) = tokio::join!(writer.write_all_vectored(&slices), reader.read_exact(&mut back));
        written.unwrap();
        read.unwrap();
        assert!(back == bytes);
        assert_eq!(reader.read_now(&mut back).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(writer);
        echo.await.unwrap();
    }

    #[test]
    fn tcp_carries_bytes_and_ends() {
        crate::block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (client, server) = tokio::join!(Stream::connect_tcp(&address), listener.accept());
            check_echo(client.unwrap(), server.unwrap()).await;
            assert_eq!(TcpListener::bind(&address).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        });
    }

    #[test]
    fn an_abandoned_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        crate::block_on(async {
            let listener = UnixListener::bind(&path).unwrap();
            assert_eq!(UnixListener::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            // The second bind knocked to see whether somebody lives here.
            drop(listener.accept().await.unwrap());
            let (client, server) = tokio::join!(Stream::connect_unix(&path), listener.accept());
            check_echo(client.unwrap(), server.unwrap()).await;
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_stream_moves_to_another_thread() {
        crate::block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (client, server) = tokio::join!(Stream::connect_tcp(&address), listener.accept());
            let moved = server.unwrap().into_std().unwrap();
            let thread = crate::spawn_thread("echo", move || async move {
                check_echo_server(Stream::from_std(moved).unwrap()).await
            });
            let (mut reader, mut writer) = client.unwrap().into_split();
            writer.write_all(b"hello").await.unwrap();
            let mut back = [0; 5];
            reader.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"hello");
            assert_eq!(thread.unwrap().await, Ok(5));
        });
    }

    async fn check_echo_server(stream: Stream) -> usize {
        let (mut reader, mut writer) = stream.into_split();
        let mut bytes = [0; 16];
        let count = reader.read(&mut bytes).await.unwrap();
        writer.write_all(&bytes[..count]).await.unwrap();
        count
    }
}

//! Bare ping-pongs: messages of a fixed size echoed by another thread, with nothing in between but
//! tokio and a socket (or a channel).
//!
//! # Shape
//! The echoing side runs on a thread of its own with its own current-thread runtime, as a target
//! does. The calling side keeps `depth` messages under way: each arrival lets one more go, and what
//! arrives together leaves together.

use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

/// A kind of link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Channels between two threads of one process.
    Mem,
    Unix,
    Tcp,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Mem, Kind::Unix, Kind::Tcp];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Mem => "mem",
            Kind::Unix => "unix",
            Kind::Tcp => "tcp",
        }
    }
}

/// Echoes `count` messages of `bytes` at `depth`; returns messages a second.
pub fn rate(kind: Kind, bytes: usize, depth: usize, count: usize, directory: &Path) -> Result<f64> {
    match kind {
        Kind::Mem => channels(bytes, depth, count),
        Kind::Unix => {
            let path = directory.join("pingpong");
            let _ = std::fs::remove_file(&path);
            let listener = std::os::unix::net::UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            let echo = move || async move {
                let (stream, _) = UnixListener::from_std(listener)?.accept().await?;
                echo(stream, bytes).await
            };
            let call = async || call(UnixStream::connect(&path).await?, bytes, depth, count).await;
            run(echo, call)
        }
        Kind::Tcp => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let echo = move || async move {
                let (stream, _) = TcpListener::from_std(listener)?.accept().await?;
                stream.set_nodelay(true)?;
                echo(stream, bytes).await
            };
            let call = async || {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                call(stream, bytes, depth, count).await
            };
            run(echo, call)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().build().context("a runtime")
}

/// Runs `echo` on a thread of its own and `call` on this one.
fn run<E: Future<Output = Result<()>>>(
    echo: impl FnOnce() -> E + Send,
    call: impl AsyncFnOnce() -> Result<f64>,
) -> Result<f64> {
    thread::scope(|scope| {
        let echoing = scope.spawn(|| runtime()?.block_on(async { echo().await }));
        let rate = runtime()?.block_on(call());
        echoing.join().expect("the echoing thread does not panic")?;
        rate
    })
}

/// Sends back whole messages as they come, until the caller hangs up.
async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: usize) -> Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = vec![0; bytes.max(64 << 10)];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(()),
            got => writer.write_all(&buffer[..got]).await?,
        }
    }
}

/// Sends as many messages as have a free slot in one write; every arrival frees its slot.
async fn call(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: usize, depth: usize, count: usize) -> Result<f64> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let slots = Semaphore::new(depth);
    let messages = vec![7; bytes * depth];
    let start = Instant::now();
    let send = async {
        let mut left = count;
        while left > 0 {
            slots.acquire().await?.forget();
            let more = slots.forget_permits((left - 1).min(depth - 1));
            left -= 1 + more;
            writer.write_all(&messages[..(1 + more) * bytes]).await?;
        }
        anyhow::Ok(())
    };
    let receive = async {
        let mut buffer = vec![0; bytes.max(64 << 10)];
        let mut received = 0;
        while received < count * bytes {
            let got = reader.read(&mut buffer).await?;
            anyhow::ensure!(got > 0, "the echoing side hung up");
            slots.add_permits((received + got) / bytes - received / bytes);
            received += got;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// The same over channels: the messages are buffers that change hands.
fn channels(bytes: usize, depth: usize, count: usize) -> Result<f64> {
    let (to_echo, mut arriving) = mpsc::channel::<Vec<u8>>(depth);
    let (to_caller, mut returning) = mpsc::channel::<Vec<u8>>(depth);
    let echo = move || async move {
        while let Some(message) = arriving.recv().await {
            if to_caller.send(message).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let call = async move || {
        let start = Instant::now();
        for _ in 0..depth.min(count) {
            to_echo.send(vec![7; bytes]).await?;
        }
        for done in 0..count {
            let message = returning.recv().await.context("the echoing side hung up")?;
            if done + depth < count {
                to_echo.send(message).await?;
            }
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    };
    run(echo, call)
}

//! A system inside the process, as one opens an SQLite file.
//!
//! It is the server of [`crate::server`], on a thread of its own, listening on an in-process link
//! instead of a socket. Same storage, same promises; a directory made so can be served by
//! `daos_server` later, and the other way round.

use std::path::{Path, PathBuf};

use net::Address;
use tokio::sync::oneshot;
use types::{Code, Error};

use crate::config::{Config, Storage};
use crate::server::Server;

/// What may be chosen when an embedded system is made. `None`: the server's default.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedOptions {
    pub targets: Option<u32>,
    /// Bytes of storage in all.
    pub bytes: Option<u64>,
    /// Bytes of memory for pages in all.
    pub memory: Option<u64>,
}

/// A running embedded system.
pub struct Embedded {
    address: Address,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<rt::ThreadHandle<Result<(), Error>>>,
}

/// Opens the system at `path`, making it if there is none.
///
/// # Errors
/// As [`Server::start`]; `Busy` when another process has it open.
pub async fn start(path: &Path, options: EmbeddedOptions) -> Result<Embedded, Error> {
    let address = Address::Mem(format!("embedded-{:016x}", rt::random_u64()));
    let config = config(path.to_path_buf(), options, address.clone());
    let (stop, stopped) = oneshot::channel();
    let (started, ready) = oneshot::channel();
    let thread = rt::spawn_thread("embedded", move || async move {
        let server = match Server::start(&config).await {
            Ok(server) => server,
            Err(error) => {
                let _ = started.send(Err(error));
                return Ok(());
            }
        };
        let _ = started.send(Ok(()));
        // Either way of waking means the same: told to stop, or forgotten.
        let _ = stopped.await;
        server.stop().await
    })
    .map_err(|e| Error::new(Code::NoMemory, format!("cannot start a thread: {e}")))?;
    let gone = |_| Error::new(Code::ShuttingDown, "the embedded system ended while it was starting");
    ready.await.map_err(gone)??;
    Ok(Embedded { address, stop: Some(stop), thread: Some(thread) })
}

impl Embedded {
    /// Where clients in this process reach it.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Writes everything down and closes. Dropping does the same without waiting.
    ///
    /// # Errors
    /// Of a target that could not write; what was acknowledged is in its log all the same.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stop.take();
        match self.thread.take() {
            Some(thread) => thread.await.map_err(|e| Error::new(Code::Misc, format!("the embedded system: {e}")))?,
            None => Ok(()),
        }
    }
}

fn config(path: PathBuf, options: EmbeddedOptions, address: Address) -> Config {
    let defaults = Config::default();
    Config {
        listen: vec![address],
        targets: options.targets.unwrap_or(defaults.targets),
        targets_chosen: options.targets.is_some(),
        storage: Storage::Directory { path, bytes: options.bytes },
        memory: options.memory.unwrap_or(defaults.memory),
        ..defaults
    }
}

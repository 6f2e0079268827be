//! A system, elsewhere or in this process.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex};

use client::{Address, Result, SystemOptions};
use control::embedded::{self, Embedded, EmbeddedOptions};

/// A connection to a system; derefs to [`client::System`], where its calls are.
///
/// An embedded system runs until [`System::shutdown`], or until the last handle on it or anything
/// in it is dropped.
#[derive(Clone)]
pub struct System {
    client: client::System,
    server: Option<Arc<Server>>,
}

/// The server in this process, until it is stopped.
struct Server {
    running: Mutex<Option<Embedded>>,
}

impl System {
    /// Connects to the first of `addresses` that answers.
    ///
    /// # Errors
    /// `Unreachable`: none answers. What a server says when it is of another system or release.
    pub async fn connect(addresses: &[Address], options: SystemOptions) -> Result<System> {
        Ok(System { client: client::System::connect(addresses, options).await?, server: None })
    }

    /// As [`System::connect`], also where no leader answers: for what a server does by itself.
    ///
    /// # Errors
    /// As [`System::connect`].
    pub async fn connect_to_any(addresses: &[Address], options: SystemOptions) -> Result<System> {
        Ok(System { client: client::System::connect_to_any(addresses, options).await?, server: None })
    }

    /// Opens the system in directory `path`, making it if there is none, with a server in this
    /// process. One process at a time can have it open.
    ///
    /// # Errors
    /// `Busy`: another process has it open. `Io`, `NoSpace`, `BadFormat`: of the directory.
    pub async fn embedded(path: impl AsRef<Path>) -> Result<System> {
        System::embedded_with(path, EmbeddedOptions::default()).await
    }

    /// As [`System::embedded`], with a choice of targets, storage and memory for a new system.
    ///
    /// # Errors
    /// As [`System::embedded`].
    pub async fn embedded_with(path: impl AsRef<Path>, options: EmbeddedOptions) -> Result<System> {
        let embedded = embedded::start(path.as_ref(), options).await?;
        let address = embedded.address().clone();
        let server = Arc::new(Server { running: Mutex::new(Some(embedded)) });
        let client = client::System::connect(&[address], SystemOptions::default()).await?;
        client.keep(server.clone());
        Ok(System { client, server: Some(server) })
    }

    /// Closes an embedded system: writes everything down and stops the server. Handles that are
    /// left fail from then on. Of a system elsewhere, does nothing.
    ///
    /// # Errors
    /// A target's that could not write; what was acknowledged is safe in its log all the same.
    pub async fn shutdown(&self) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let running = server.running.lock().expect("nothing panics while it holds the server").take();
        let stopped = match running {
            Some(embedded) => embedded.stop().await,
            None => Ok(()),
        };
        // After the server has finished what was under way; left open, handles would look for it in vain.
        self.client.close();
        stopped
    }
}

impl Deref for System {
    type Target = client::System;

    fn deref(&self) -> &client::System {
        &self.client
    }
}

//! A listening server, from start to its end.

use std::rc::Rc;
use std::time::Duration;

use engine::service::ServiceConfig;
use engine::{Engine, EngineConfig};
use net::{Address, BindError, Limits, Listener};
use rt::Hlc;
use types::{Code, Error};

use crate::config::Config;
use crate::storage::Owned;

/// How long requests under way may take to finish when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A running server. Lives on the thread that started it.
pub struct Server {
    listeners: Vec<Rc<Listener>>,
    engine: Rc<Engine>,
    accepting: rt::TaskSet,
    _storage: Rc<Owned>,
}

impl Server {
    /// Takes the storage, opens the targets, and listens.
    ///
    /// # Errors
    /// Of storage ([`Owned::take`]), targets, or addresses; each with cause and remedy.
    pub async fn start(config: &Config) -> Result<Server, Error> {
        // It stands until the service has compared the calendar with the other servers'.
        let hlc = Hlc::steady();
        let storage = Rc::new(Owned::take(config)?);
        // Listening comes first: a port in use is found before anything is formatted.
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = Listener::bind(address, &config.name, hlc.clone()).await.map_err(bind_error)?;
            listeners.push(Rc::new(listener));
        }
        let public = listeners.first().map(|l| l.address().to_string()).unwrap_or_default();
        let engine = Engine::start(EngineConfig {
            service: ServiceConfig {
                directory: storage.service_directory(),
                system_name: config.name.clone(),
                release: env!("CARGO_PKG_VERSION").to_string(),
                address: public,
                fault_path: config.fault_path.clone().unwrap_or_default(),
                devices: storage.devices(),
                layout: storage.clone(),
                detection: config.detection,
                join: config.join.clone(),
            },
            targets: storage.targets(config.memory)?,
            limits: Limits::default(),
            hlc,
        })
        .await?;
        storage.formatted()?;
        if engine.system_name() != config.name {
            let text = format!("this storage belongs to the system '{}', not '{}'", engine.system_name(), config.name);
            return Err(Error::new(Code::Mismatch, text).remedy("set `name` to the system's, or use other storage"));
        }
        let engine = Rc::new(engine);
        let mut accepting = rt::TaskSet::new();
        for listener in &listeners {
            accepting.spawn_local(accept(listener.clone(), engine.clone()));
        }
        Ok(Server { listeners, engine, accepting, _storage: storage })
    }

    /// Where it listens, real ports included.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(|l| l.address().clone()).collect()
    }

    /// The engine: for tests.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Lets requests under way finish, writes everything down, ends.
    ///
    /// # Errors
    /// Of a target that could not write; what was acknowledged is in its log all the same.
    pub async fn stop(self) -> Result<(), Error> {
        for listener in &self.listeners {
            listener.stop(STOP_PATIENCE).await;
        }
        // Each ends with its listener, and takes its links along.
        let _ = self.accepting.finish().await;
        match Rc::try_unwrap(self.engine) {
            Ok(engine) => engine.stop().await,
            Err(_) => unreachable!("only the accepting tasks share the engine, and they have ended"),
        }
    }
}

/// Runs a server in the foreground until SIGTERM or SIGINT.
///
/// # Errors
/// As [`Server::start`] and [`Server::stop`].
pub async fn run(config: Config) -> Result<(), Error> {
    let server = Server::start(&config).await?;
    for address in server.addresses() {
        tracing::info!(%address, system = config.name, targets = config.targets, "listening");
    }
    rt::stop_requested().await.map_err(|e| Error::new(Code::Misc, format!("cannot wait for signals: {e}")))?;
    tracing::info!("stopping");
    server.stop().await?;
    tracing::info!("stopped");
    Ok(())
}

async fn accept(listener: Rc<Listener>, engine: Rc<Engine>) {
    let mut links = rt::TaskSet::new();
    while let Some(incoming) = listener.accept().await {
        engine.serve(incoming, &mut links).await;
    }
}

fn bind_error(error: BindError) -> Error {
    match error {
        BindError::InUse { address } => Error::new(Code::Busy, format!("{address} is in use by another program"))
            .remedy("stop that program, or listen at another address"),
        BindError::Failed { address, cause, remedy } => {
            Error::new(Code::Io, format!("cannot listen at {address}: {cause}")).remedy(remedy)
        }
    }
}

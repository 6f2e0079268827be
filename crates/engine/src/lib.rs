//! The server's engine: targets that hold data, and the service that says what they hold.
//!
//! # Shape
//! - [`target`]: one target, one thread, one store: requests for data, and orders from the service.
//! - [`service`]: system, pools, containers, snapshots.
//! - [`sessions`]: a repeated request has one effect.
//! - [`Engine`]: all of a server's targets and its service; hands each link to the one it asks for.
//!
//! # Always true
//! 1. A target's store is touched by its thread only; everyone else sends it an [`target::order`].
//! 2. No await between validating a change and applying it.
//!
//! # Not here
//! Listening, configuration and processes (`control`); sockets and frames (`net`); placement of
//! keys on targets (the client's, by `placement`).

#![forbid(unsafe_code)]

pub mod detection;
pub mod hold;
pub mod replication;
pub mod service;
pub mod sessions;
pub mod target;
pub mod widths;

use std::rc::Rc;

use net::{Incoming, Limits};
use rt::Hlc;
use types::{Code, Error, Rank};
use wire::hello;

use hold::HorizonHold;
use service::{Service, ServiceConfig, Tasks};
use target::open::{Shared, TargetConfig};
use target::order::{Order, TargetHandle};
use widths::WantedWidths;

/// What an engine needs to start.
pub struct EngineConfig {
    pub service: ServiceConfig,
    /// At least one.
    pub targets: Vec<TargetConfig>,
    pub limits: Limits,
    pub hlc: Hlc,
}

/// A server's targets and its control service. Lives on the control thread.
pub struct Engine {
    service: Rc<Service>,
    tasks: Tasks,
    targets: Vec<TargetHandle>,
    threads: Vec<rt::ThreadHandle<()>>,
    limits: Limits,
    incarnation: u64,
}

impl Engine {
    /// Opens every target on a thread of its own, then the service, then makes the two agree.
    ///
    /// # Errors
    /// Of the first target that cannot be opened, or of the service's documents.
    pub async fn start(config: EngineConfig) -> Result<Engine, Error> {
        let (hold, widths) = (HorizonHold::default(), WantedWidths::default());
        let incarnation = rt::random_u64();
        let (hlc, limits) = (config.hlc.clone(), config.limits);
        let lease = config.service.detection.lease();
        let shared = Shared { hlc, hold: hold.clone(), widths: widths.clone(), limits, incarnation, lease };
        let opening = config.targets.into_iter().map(|target| target::open::start(target, shared.clone()));
        let mut targets = Vec::new();
        let mut threads = Vec::new();
        // All at once: each may have a log to replay.
        for opened in futures_util::future::join_all(opening).await {
            let (handle, thread) = opened?;
            targets.push(handle);
            threads.push(thread);
        }
        let (service, tasks) = Service::start(config.service, targets.clone(), config.hlc, hold, widths).await?;
        Ok(Engine { service, tasks, targets, threads, limits: config.limits, incarnation })
    }

    /// The name of the system this server belongs to.
    pub fn system_name(&self) -> String {
        self.service.system_name()
    }

    /// The server's rank in its system.
    pub fn rank(&self) -> Rank {
        self.service.rank()
    }

    /// The control services: for tests, and tools in this process.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Hands a link to the service it asked for. A link to the control service is served here, as
    /// a task of `links`.
    pub async fn serve(&self, incoming: Incoming, links: &mut rt::TaskSet) {
        match *incoming.service() {
            hello::Service::Control => {
                links.spawn_local(net::serve(incoming, self.limits, self.incarnation, self.service.clone()));
            }
            hello::Service::Target { index } => match self.targets.iter().find(|t| t.index.0 == index) {
                // All links come in by one door: none of them waits for a target.
                Some(target) => {
                    if let Err(refused) = target.serve(incoming) {
                        let (incoming, reason) = *refused;
                        links.spawn_local(incoming.refuse(reason));
                    }
                }
                None => {
                    let text = format!("this server has {} targets, no target {index}", self.targets.len());
                    incoming.refuse(Error::new(Code::NotFound, text).remedy("refresh the pool map")).await;
                }
            },
        }
    }

    /// Stops every target in order: what it has accepted is written, and a checkpoint makes the
    /// next start short.
    ///
    /// # Errors
    /// The first target's that could not write everything; the log still has all acknowledged.
    pub async fn stop(self) -> Result<(), Error> {
        // First: it gives the targets orders.
        self.service.stop(self.tasks).await;
        let stopping = self.targets.iter().map(|target| target.ask(|done| Order::Stop { done }));
        let stopped = futures_util::future::join_all(stopping).await;
        drop(self.targets);
        for thread in self.threads {
            // A thread that panicked has said so on stderr.
            let _ = thread.await;
        }
        stopped.into_iter().collect()
    }
}

//! Links: one connection per service of a server, opened when first needed and again when lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use net::{Address, CallError, Caller, Connection};
use wire::hello::Service;

use crate::window::Window;

/// The longest wait for a connection to open, before another address or attempt is given a chance.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// Everyone this client talks to.
pub(crate) struct Links {
    caller: Caller,
    /// Name of the system that was connected to first: addresses that are learned later, or used for long, may be
    /// another's by then.
    system: Arc<OnceLock<String>>,
    /// The number of the next request. One sequence for all links: a request keeps its number when
    /// it is repeated on another.
    next_sequence: AtomicU64,
    closed: AtomicBool,
    pub(crate) window: Window,
    /// Grows with the servers and targets of the system, which are few.
    links: Mutex<BTreeMap<Door, Arc<Link>>>,
}

/// A service of a server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Door {
    address: Address,
    /// `None`: the control service.
    target: Option<u32>,
}

impl Links {
    pub(crate) fn new(caller: Caller) -> Links {
        let (system, next_sequence, closed) = (Arc::default(), AtomicU64::new(1), AtomicBool::new(false));
        Links { caller, system, next_sequence, closed, window: Window::default(), links: Mutex::default() }
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells this client from others.
    pub(crate) fn lot(&self) -> u64 {
        self.caller.session.0
    }

    /// No request is sent from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut links = self.links.lock().expect("nothing panics while it holds the list of links");
        links.values().for_each(|link| link.lock().connection = None);
        links.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The link to a server's control service.
    pub(crate) fn control(&self, address: &Address) -> Arc<Link> {
        self.get(address, None)
    }

    /// The link to a target of a server.
    pub(crate) fn target(&self, address: &Address, index: u32) -> Arc<Link> {
        self.get(address, Some(index))
    }

    fn get(&self, address: &Address, target: Option<u32>) -> Arc<Link> {
        let mut links = self.links.lock().expect("nothing panics while it holds the list of links");
        let door = Door { address: address.clone(), target };
        let link = links.entry(door).or_insert_with(|| {
            let service = target.map_or(Service::Control, |index| Service::Target { index });
            let (address, caller, system) = (address.clone(), self.caller.clone(), self.system.clone());
            Arc::new(Link {
                address,
                service,
                caller,
                system,
                current: Mutex::default(),
                opening: tokio::sync::Mutex::new(()),
            })
        });
        link.clone()
    }
}

/// The way to one service, with or without a connection at the moment.
pub(crate) struct Link {
    address: Address,
    service: Service,
    caller: Caller,
    system: Arc<OnceLock<String>>,
    current: Mutex<Current>,
    /// Held by the one who opens, so that many waiting requests open one connection.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    /// Counts connections, so that a failure of an old one does not throw away a new one.
    generation: u64,
    connection: Option<Connection>,
}

impl Link {
    /// To a target, not to a control service.
    pub(crate) fn is_to_target(&self) -> bool {
        matches!(self.service, Service::Target { .. })
    }

    /// The connection, opened if there is none that works, and its generation for [`Link::forget`].
    pub(crate) async fn connection(&self, within: Duration) -> Result<(Connection, u64), CallError> {
        if let Some(found) = self.working() {
            return Ok(found);
        }
        let started = rt::now();
        let _opening = rt::timeout(within, self.opening.lock()).await.map_err(|_| CallError::Unreachable {
            address: self.address.clone(),
            cause: "another request is still connecting".into(),
        })?;
        if let Some(found) = self.working() {
            return Ok(found);
        }
        let left = within.saturating_sub(started.elapsed()).min(OPEN_MAX);
        let mut caller = self.caller.clone();
        if let (true, Some(name)) = (caller.system.is_empty(), self.system.get()) {
            caller.system.clone_from(name);
        }
        let connection = Connection::open(&self.address, self.service.clone(), &caller, left).await?;
        let _ = self.system.set(connection.system().to_owned());
        let mut current = self.lock();
        current.generation += 1;
        current.connection = Some(connection.clone());
        Ok((connection, current.generation))
    }

    fn working(&self) -> Option<(Connection, u64)> {
        let current = self.lock();
        let connection = current.connection.as_ref().filter(|connection| !connection.is_closed())?;
        Some((connection.clone(), current.generation))
    }

    /// Gives up the connection of `generation`: the next request opens another.
    pub(crate) fn forget(&self, generation: u64) {
        let mut current = self.lock();
        if current.generation == generation {
            current.connection = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().expect("nothing panics while it holds a connection slot")
    }
}

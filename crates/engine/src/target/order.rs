//! What the rest of the server asks of a target, as messages to its thread.
//!
//! Every order is idempotent: the services repeat them after a restart until what a target holds
//! agrees with what the service's state says.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use media::DeviceWatch;
use tokio::sync::{mpsc, oneshot};
use types::{Code, ContainerId, Epoch, Error, PoolId, Span, TargetIndex};
use wire::peer::{Filling, Placing};

pub use super::group::{Heal, PoolView};
pub use super::resize::ResizeReport;
pub use super::scrub::ScrubReport;

/// Orders waiting for a target's thread. They are rare; a queue this long means it is stuck, and
/// callers wait.
const ORDERS_MAX: usize = 64;

/// How long a query waits for a target. A query takes no time; a target that needs longer is stuck, and
/// whoever asks wants to hear which one, not to be stuck too.
const QUERY_PATIENCE: Duration = Duration::from_secs(5);

/// A message to a target's thread.
pub enum Order {
    /// Makes a pool's share, or changes it.
    SetPool {
        id: PoolId,
        share: PoolShare,
        done: Done<()>,
    },
    /// Removes a pool's data here. `is_elsewhere`: others have it, and who asks for it here is to ask them.
    DestroyPool {
        id: PoolId,
        is_elsewhere: bool,
        done: Done<()>,
    },
    /// Who holds what of a pool, and where they are; an older map than it has changes nothing. The answer is by what the target
    /// places from now on.
    SetMap {
        pool: PoolId,
        view: PoolView,
        done: Done<Placing>,
    },
    /// How far the target has got with what it is to have of a pool.
    Filling {
        pool: PoolId,
        done: Done<Filling>,
    },
    PoolSpace {
        id: PoolId,
        done: Done<PoolSpace>,
    },
    CreateContainer {
        pool: PoolId,
        id: ContainerId,
        done: Done<()>,
    },
    DestroyContainer {
        id: ContainerId,
        done: Done<()>,
    },
    /// What of a container's history stays readable.
    Keep {
        id: ContainerId,
        snapshots: Vec<Epoch>,
        retention: Span,
        done: Done<()>,
    },
    /// Undoes what was written after `to`; `asked` names the command, which may be repeated.
    Rollback {
        id: ContainerId,
        to: Epoch,
        asked: Epoch,
        done: Done<()>,
    },
    Holdings {
        done: Done<Holdings>,
    },
    Storage {
        done: Done<Storage>,
    },
    /// Whether the data region could get so many bytes, by what is known now.
    MayResize {
        bytes: u64,
        done: Done<()>,
    },
    /// Gives the data region so many bytes, in time. Another size, asked for later, takes its place.
    Resize {
        bytes: u64,
        done: Done<()>,
    },
    /// Write everything down and end.
    Stop {
        done: Done<()>,
    },
}

/// A message to a target about who is linked to it. Apart from orders, which may have to wait for a device: whoever is to be
/// let in or cut off does not wait behind them.
pub(super) enum LinkOrder {
    /// Whether the target answers whoever is linked to it. One that does not keeps its store open, and carries out orders.
    SetServing {
        /// What it answers instead; absent: it serves.
        refusal: Option<Error>,
        done: Done<()>,
    },
    /// A connection that said hello to this target; it is served here from now on.
    Serve { incoming: net::Incoming },
}

pub type Done<T> = oneshot::Sender<Result<T, Error>>;

/// What a pool may use of a target, and what it wants done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShare {
    /// In bytes.
    pub quota: u64,
    /// Of it, bytes that only self-healing may use.
    pub reserve: u64,
    /// How often its data is read and verified.
    pub scrub: Span,
    /// Nobody else has, or ever had, a part in it: there is no map to go by.
    pub is_alone: bool,
}

/// A pool's use of a target, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSpace {
    pub quota: u64,
    pub metadata: u64,
    pub data: u64,
    /// The target's device failed; it takes no changes.
    pub is_failed: bool,
}

/// What a target holds: compared with the services' state at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub pools: Vec<(PoolId, Vec<ContainerId>)>,
}

/// A target's own space, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// What pools can reserve. While the data region shrinks, of its size to be.
    pub capacity: u64,
    pub reserved: u64,
    pub used: u64,
    pub log_bytes: u64,
    pub failure: Option<String>,
    pub scrub: ScrubReport,
    pub resize: ResizeReport,
}

/// The sending end, for any thread.
#[derive(Clone)]
pub struct TargetHandle {
    pub index: TargetIndex,
    orders: mpsc::Sender<Order>,
    links: mpsc::Sender<LinkOrder>,
    /// Set once the target is open.
    device: Arc<OnceLock<Device>>,
}

/// A target's device as others see it, and how long it may take.
#[derive(Clone)]
struct Device {
    watch: DeviceWatch,
    limit: Duration,
}

/// The queues that a target's thread drains.
pub(super) struct Queues {
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) links: mpsc::Receiver<LinkOrder>,
}

/// The pair: the handle, and the queues behind it.
pub(super) fn channel(index: TargetIndex) -> (TargetHandle, Queues) {
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let (links, linked) = mpsc::channel(ORDERS_MAX);
    let handle = TargetHandle { index, orders, links, device: Arc::default() };
    (handle, Queues { orders: ordered, links: linked })
}

impl TargetHandle {
    /// Sends the order that `order` makes, and waits for its answer.
    ///
    /// # Errors
    /// The target's, or `ShuttingDown` when its thread has ended.
    pub async fn ask<T>(&self, order: impl FnOnce(Done<T>) -> Order) -> Result<T, Error> {
        let (done, answer) = oneshot::channel();
        self.send(order(done)).await?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Asks what takes a target no time, and waits no longer than for a moment.
    ///
    /// # Errors
    /// Of [`TargetHandle::ask`]; `TimedOut`, with what holds the target up if that is known.
    pub async fn query<T>(&self, order: impl FnOnce(Done<T>) -> Order) -> Result<T, Error> {
        match rt::timeout(QUERY_PATIENCE, self.ask(order)).await {
            Ok(answer) => answer,
            Err(_) => {
                let held_up = self.device.get().and_then(|device| device.watch.held_up(device.limit));
                let why = held_up.unwrap_or_else(|| format!("it has not answered for {} s", QUERY_PATIENCE.as_secs()));
                Err(Error::new(Code::TimedOut, format!("target {}: {why}", self.index))
                    .remedy("look after its device, then restart the server"))
            }
        }
    }

    /// The target is open, and its device may take `limit` to answer.
    pub(super) fn opened(&self, watch: DeviceWatch, limit: Duration) {
        let _ = self.device.set(Device { watch, limit });
    }

    async fn send(&self, order: Order) -> Result<(), Error> {
        self.orders.send(order).await.map_err(|_| self.gone())
    }

    /// Has the target answer whoever is linked to it, or refuse them all.
    ///
    /// # Errors
    /// `ShuttingDown` when its thread has ended.
    pub async fn set_serving(&self, refusal: Option<Error>) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let order = LinkOrder::SetServing { refusal, done };
        self.links.send(order).await.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Hands a link to the target, without waiting for it.
    ///
    /// # Errors
    /// The link again, and what to tell its caller: the target's thread has ended, or has not looked at its links for long.
    pub fn serve(&self, incoming: net::Incoming) -> Result<(), Box<(net::Incoming, Error)>> {
        match self.links.try_reserve() {
            Ok(place) => {
                place.send(LinkOrder::Serve { incoming });
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(())) => {
                let text = format!("target {} takes no links: its thread is held up", self.index);
                let reason = Error::new(Code::Busy, text).remedy("look after its device; the server's log says more");
                Err(Box::new((incoming, reason)))
            }
            Err(mpsc::error::TrySendError::Closed(())) => Err(Box::new((incoming, self.gone()))),
        }
    }

    fn gone(&self) -> Error {
        Error::new(Code::ShuttingDown, format!("target {} has stopped", self.index))
            .remedy("see the server's log for why, then restart it")
    }
}

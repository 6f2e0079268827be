//! How long a device may take: a device that hangs is a device that failed.
//!
//! Asynchronous transfers run under a timer. A page that is read on the spot holds the thread up, so nothing
//! on that thread can time it; another thread can, by a [`DeviceWatch`].
//!
//! # Not here
//! What a failure means for the store (`store`).

use std::cell::{Cell, RefCell};
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Device;
use crate::pages::pool::Loader;
use crate::region::{BLOCK_BYTES, Cause, Region, hung};
use crate::store::Shared;

/// Unless told otherwise, a device that has not answered for so long hangs. Longer than the worst that disks
/// do while they recover by themselves (retries of a bad sector, a path that fails over), and shorter than
/// what the callers of callers put up with.
pub const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// No read on the spot is under way.
const IDLE: u64 = 0;

/// Looks, from any thread, whether a store's thread is held up by its device.
#[derive(Clone, Debug)]
pub struct DeviceWatch {
    /// When the read under way began, in nanoseconds of `rt::now`; [`IDLE`] when there is none.
    since: Arc<AtomicU64>,
    device: Device,
    path: Arc<str>,
}

impl DeviceWatch {
    /// What is to be said of the device when the thread has waited for it longer than `limit`.
    pub fn held_up(&self, limit: Duration) -> Option<String> {
        let since = self.since.load(Ordering::Acquire);
        let waited = rt::now() - rt::Instant::from_nanos(since);
        (since != IDLE && waited > limit)
            .then(|| format!("the {} device failed: {}", self.device, hung("read", &self.path, waited)))
    }
}

/// The limit of one store, and its reads on the spot.
pub(crate) struct Watch {
    pub(crate) limit: Cell<Duration>,
    pub(crate) device: DeviceWatch,
    /// The device that hangs, and what was said of it: reads from it are refused, for each would be waited
    /// for as long again.
    hanging: RefCell<Option<(Device, Cause)>>,
    store: RefCell<Weak<Shared>>,
}

impl Watch {
    pub(crate) fn new(device: Device, region: &Region) -> Watch {
        let device = DeviceWatch { since: Arc::default(), device, path: region.name() };
        Watch { limit: Cell::new(IO_TIMEOUT), device, hanging: RefCell::default(), store: RefCell::default() }
    }

    /// The store to stop when a device hangs.
    pub(crate) fn guard(&self, store: Weak<Shared>) {
        *self.store.borrow_mut() = store;
    }

    /// A device was found to hang: nothing is read from it any more.
    pub(crate) fn refuse(&self, device: Device, cause: &Cause) {
        self.hanging.borrow_mut().get_or_insert_with(|| (device, cause.clone()));
    }

    /// Why reads from `device` are refused, if they are.
    pub(crate) fn refusal(&self, device: Device) -> Option<Cause> {
        self.hanging.borrow().as_ref().filter(|(hanging, _)| *hanging == device).map(|(_, cause)| cause.clone())
    }

    /// Reads whole blocks on the spot, by `read`.
    fn read_now<T>(&self, region: &Region, read: impl FnOnce() -> T) -> Result<T, Cause> {
        if let Some(cause) = self.refusal(self.device.device) {
            return Err(cause);
        }
        let began = rt::now();
        self.device.since.store(began.as_nanos(), Ordering::Release);
        let outcome = read();
        self.device.since.store(IDLE, Ordering::Release);
        let took = began.elapsed();
        if took > self.limit.get() {
            let cause: Cause = hung("read", &region.name(), took).into();
            self.refuse(self.device.device, &cause);
            if let Some(store) = self.store.borrow().upgrade() {
                store.fail(self.device.device, cause);
            }
        }
        Ok(outcome)
    }
}

/// Reads pages for the pool.
pub(crate) fn loader(watch: &std::rc::Rc<Watch>, region: &Region) -> Loader {
    let (watch, region) = (watch.clone(), region.clone());
    let device = watch.device.device;
    let read = Box::new(move |reads: &mut [(u64, &mut [u8])]| {
        reads.iter_mut().for_each(|(at, _)| *at *= BLOCK_BYTES as u64);
        match watch.read_now(&region, || region.read_many_now(reads)) {
            Ok(outcomes) => outcomes,
            Err(cause) => reads.iter().map(|_| Err(cause.clone())).collect(),
        }
    });
    Loader { device, read }
}

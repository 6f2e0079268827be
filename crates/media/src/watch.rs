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
use std::time::Duration;

use crate::error::Device;
use crate::pages::pool::Loader;
use crate::region::{BLOCK_BYTES, Cause, Operation, Region, Spot, hung};
use crate::store::Shared;

/// Looks, from any thread, whether the thread that uses a region is held up by its device.
#[derive(Clone, Debug)]
pub struct DeviceWatch {
    spot: Arc<Spot>,
    device: Device,
    path: Arc<str>,
}

impl DeviceWatch {
    /// Of a region, which has the role of `device`.
    pub fn new(device: Device, region: &Region) -> DeviceWatch {
        DeviceWatch { spot: region.spot(), device, path: region.name() }
    }

    /// What is to be said of the device when the thread has waited for it longer than `limit`.
    pub fn held_up(&self, limit: Duration) -> Option<String> {
        let (operation, since) = self.spot.under_way()?;
        let waited = rt::now() - since;
        (waited > limit).then(|| format!("the {} device failed: {}", self.device, hung(operation, &self.path, waited)))
    }

    /// What is to be said of the device when an operation on it took longer than it may.
    pub fn was_late(&self) -> Option<String> {
        self.spot.late().map(|cause| format!("the {} device failed: {cause}", self.device))
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
        let device = DeviceWatch::new(device, region);
        Watch { limit: Cell::new(region.io_timeout()), device, hanging: RefCell::default(), store: RefCell::default() }
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
        let (outcome, late) = region.on_the_spot(Operation::Read, read);
        if let Some(cause) = late {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A thread that waits for a device can say nothing. Whoever has its watch can.
    #[test]
    fn another_thread_sees_what_a_thread_waits_for() {
        let (ready, watch) = mpsc::channel();
        let (answer, asked) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            rt::block_on(async move {
                let file = tempfile::NamedTempFile::new().unwrap();
                let disk = rt::disk::Disk::open(file.path(), rt::disk::OpenMode::default()).unwrap();
                let region = Region::new(disk, 0, 0);
                region.set_io_timeout(Duration::ZERO);
                ready.send(DeviceWatch::new(Device::Log, &region)).unwrap();
                let (_, late) = region.on_the_spot(Operation::Sync, || asked.recv().unwrap());
                assert!(late.unwrap().contains("hangs"));
            });
        });
        let watch = watch.recv().unwrap();
        let told = loop {
            assert!(watch.was_late().is_none(), "it has not come back yet");
            if let Some(told) = watch.held_up(Duration::ZERO) {
                break told;
            }
            std::thread::yield_now();
        };
        assert!(told.starts_with("the log device failed: sync /") && told.contains("hangs"), "{told}");
        assert_eq!(watch.held_up(Duration::from_secs(1 << 40)), None);
        answer.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(watch.held_up(Duration::ZERO), None);
        assert!(watch.was_late().unwrap().starts_with("the log device failed: sync /"));
    }
}

//! Waiting for a fact about the store, on its one thread.
//!
//! Whoever may change the fact calls [`Waiters::wake`]; waiters look again. Nothing is lost in between:
//! looking and registering happen in one poll, and all of it on one thread.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

/// Tasks that wait for one kind of change.
#[derive(Default)]
pub(crate) struct Waiters {
    wakers: RefCell<Vec<Waker>>,
    changes: Cell<u64>,
}

impl Waiters {
    /// Waits until `look` answers.
    pub(crate) fn until<'a, T>(&'a self, mut look: impl FnMut() -> Option<T> + 'a) -> impl Future<Output = T> + 'a {
        poll_fn(move |cx| match look() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.register(cx.waker());
                Poll::Pending
            }
        })
    }

    /// Wakes everybody who waits.
    #[inline]
    pub(crate) fn wake(&self) {
        self.changes.set(self.changes.get() + 1);
        if !self.wakers.borrow().is_empty() {
            self.wake_waiting();
        }
    }

    /// How often `wake` was called: whether anything may have changed since a moment.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.get()
    }

    #[cold]
    fn wake_waiting(&self) {
        // Taken out first: a waker may run code that registers again.
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_iter().for_each(Waker::wake);
    }

    fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

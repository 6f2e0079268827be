//! How far requests that take effect may run ahead of the oldest of them that is not over.
//!
//! A target remembers the last few hundred effects of a session (`vos`, 507; another that takes over its work hears of the
//! last [`UNDER_WAY_MAX`]), and the service 1024 answers: of a request that is older than these nobody can tell whether it
//! ran. One that waits for a dead leader, while hundreds of others go on
//! elsewhere, would become so old. So the others wait for it, before that.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use types::UNDER_WAY_MAX;

/// Requests under way, of one session.
#[derive(Default)]
pub(crate) struct Window {
    inner: Mutex<Inner>,
    /// Told when the oldest is over.
    moved: Notify,
}

/// Of requests from the oldest that is not over on: whether they are.
#[derive(Default)]
struct Inner {
    oldest: u64,
    over: VecDeque<bool>,
}

/// A request's place; dropped when it is over.
pub(crate) struct Place<'a> {
    window: &'a Window,
    number: u64,
}

impl Window {
    /// Waits until the oldest request is near enough. Cost, mostly: a lock, twice a request.
    pub(crate) async fn enter(&self) -> Place<'_> {
        loop {
            let moved = self.moved.notified();
            {
                let mut inner = self.lock();
                if inner.over.len() < UNDER_WAY_MAX {
                    inner.over.push_back(false);
                    let number = inner.oldest + inner.over.len() as u64 - 1;
                    return Place { window: self, number };
                }
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the window")
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.window.lock();
        let at = (self.number - inner.oldest) as usize;
        inner.over[at] = true;
        let was_full = inner.over.len() == UNDER_WAY_MAX;
        while inner.over.front() == Some(&true) {
            inner.over.pop_front();
            inner.oldest += 1;
        }
        if was_full && inner.over.len() < UNDER_WAY_MAX {
            self.window.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn nobody_runs_far_ahead_of_the_oldest() {
        let window = Window::default();
        let enter = || window.enter().now_or_never();
        let oldest = enter().unwrap();
        let mut others: Vec<Place<'_>> = (1..UNDER_WAY_MAX).map(|_| enter().unwrap()).collect();
        assert!(enter().is_none());
        // That others are over is no help.
        others.drain(..UNDER_WAY_MAX / 2);
        assert!(enter().is_none());
        let mut waiting = Box::pin(window.enter());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(oldest);
        assert!(waiting.now_or_never().is_some());
        assert_eq!(window.lock().over.len(), UNDER_WAY_MAX / 2);
        others.clear();
        assert!(window.lock().over.is_empty());
    }
}

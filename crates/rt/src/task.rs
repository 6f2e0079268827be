//! Tasks: futures that run beside the one that spawned them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::sim;

/// Runs `future` as a task of the ambient runtime.
///
/// # Panics
/// Outside a runtime ([`crate::block_on`], [`crate::spawn_thread`], any tokio runtime, or a simulation).
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    if sim::is_active() {
        return JoinHandle::of_sim(sim::spawn_here(future));
    }
    JoinHandle { inner: JoinInner::Os(tokio::spawn(future)) }
}

/// Runs `future` as a task of this very thread, where it may hold what is not `Send`.
///
/// # Panics
/// Outside a thread of ours ([`crate::block_on`], [`crate::spawn_thread`]), a tokio `LocalSet`, or a simulation.
pub fn spawn_local<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    if sim::is_active() {
        return JoinHandle::of_sim(sim::spawn_here(future));
    }
    JoinHandle { inner: JoinInner::Os(tokio::task::spawn_local(future)) }
}

/// The way to wait for a task, or to abort it. Dropping it lets the task run on.
pub struct JoinHandle<T> {
    inner: JoinInner<T>,
}

enum JoinInner<T> {
    Os(tokio::task::JoinHandle<T>),
    Sim(sim::SimJoin<T>),
}

/// Why a task gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It was aborted, or its runtime (or simulated node) went away.
    #[error("the task was cancelled")]
    Cancelled,
    /// It panicked: a bug in it, told here so that the caller can stop in good order.
    #[error("the task panicked: {message}")]
    Panicked { message: String },
}

impl<T> JoinHandle<T> {
    pub(crate) fn of_sim(join: sim::SimJoin<T>) -> JoinHandle<T> {
        JoinHandle { inner: JoinInner::Sim(join) }
    }

    /// Drops the task's future at its next suspension. A task that has finished is not affected.
    pub fn abort(&self) {
        match &self.inner {
            JoinInner::Os(handle) => handle.abort(),
            JoinInner::Sim(join) => join.abort(),
        }
    }

    pub fn is_finished(&self) -> bool {
        match &self.inner {
            JoinInner::Os(handle) => handle.is_finished(),
            JoinInner::Sim(join) => join.is_finished(),
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.inner {
            JoinInner::Os(handle) => Pin::new(handle).poll(cx).map(|outcome| outcome.map_err(from_tokio)),
            JoinInner::Sim(join) => join.poll(cx),
        }
    }
}

fn from_tokio(error: tokio::task::JoinError) -> JoinError {
    match error.try_into_panic() {
        Ok(payload) => JoinError::Panicked { message: panic_message(payload.as_ref()) },
        Err(_) => JoinError::Cancelled,
    }
}

pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".to_owned())
}

/// Owns tasks: those still running when it is dropped are aborted.
#[derive(Default)]
pub struct TaskSet {
    tasks: Vec<JoinHandle<()>>,
    /// Finished tasks are swept out when the list reaches this length, so that a long-lived set
    /// costs amortised constant work a task and holds at most twice the living.
    sweep_at: usize,
}

/// The list is not swept below this many tasks: the walk would not pay.
const SWEEP_MIN: usize = 32;

impl TaskSet {
    pub fn new() -> TaskSet {
        TaskSet::default()
    }

    pub fn spawn(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        self.own(spawn(future));
    }

    pub fn spawn_local(&mut self, future: impl Future<Output = ()> + 'static) {
        self.own(spawn_local(future));
    }

    /// Adopts a task that already runs.
    pub fn own(&mut self, task: JoinHandle<()>) {
        if self.tasks.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.tasks.retain(|task| !task.is_finished());
            self.sweep_at = self.tasks.len() * 2;
        }
        self.tasks.push(task);
    }

    /// How many are still running.
    pub fn running(&self) -> usize {
        self.tasks.iter().filter(|task| !task.is_finished()).count()
    }

    pub fn abort_all(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// Waits until every task has ended. The first panic among them is returned, after all ended.
    pub async fn finish(mut self) -> Result<(), JoinError> {
        let mut outcome = Ok(());
        while let Some(task) = self.tasks.last_mut() {
            let ended = task.await;
            self.tasks.pop();
            if let (Ok(()), Err(error @ JoinError::Panicked { .. })) = (&outcome, ended) {
                outcome = Err(error);
            }
        }
        outcome
    }
}

impl Drop for TaskSet {
    fn drop(&mut self) {
        self.abort_all();
    }
}

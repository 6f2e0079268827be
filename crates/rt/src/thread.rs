//! Threads that run futures, and the `block_on` of a main function.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::sim;
use crate::task::{JoinError, JoinHandle, panic_message, spawn_local};

/// Runs `future` to its end on this thread, with a runtime of its own: tasks, timers, disks and
/// sockets work inside, `spawn_local` too. For mains and tests; the simulator has `Sim::run`.
///
/// # Panics
/// When called from within a runtime or a simulation, or when the kernel refuses an epoll instance.
pub fn block_on<F: Future>(future: F) -> F::Output {
    assert!(!sim::is_active(), "a simulation does not wait for the real world");
    let runtime = new_runtime().expect("an epoll instance and a few descriptors to start a runtime");
    runtime.block_on(future)
}

fn new_runtime() -> io::Result<tokio::runtime::LocalRuntime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())
}

/// Starts a thread called `name` that runs the future made by `make` to its end.
///
/// `make` runs on the new thread, so the future need not be `Send`. The handle resolves after the
/// future *and everything spawned on that thread* have been dropped: locks and sockets are free then.
/// Dropping the handle leaves the thread running.
///
/// In the simulator it is one more task of the same node.
///
/// # Errors
/// The kernel's, when it refuses another thread.
pub fn spawn_thread<T, Fut>(name: &str, make: impl FnOnce() -> Fut + Send + 'static) -> io::Result<ThreadHandle<T>>
where
    T: Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    if sim::is_active() {
        let task = spawn_local(async move { make().await });
        return Ok(ThreadHandle { inner: ThreadInner::Sim(task) });
    }
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| block_on(async move { make().await }));
        let result = std::panic::catch_unwind(run)
            .map_err(|payload| JoinError::Panicked { message: panic_message(payload.as_ref()) });
        // Nobody may be waiting any more; that is their choice.
        let _ = done.send(result);
    })?;
    Ok(ThreadHandle { inner: ThreadInner::Os(outcome) })
}

/// The way to wait for a thread. A future.
pub struct ThreadHandle<T> {
    inner: ThreadInner<T>,
}

enum ThreadInner<T> {
    Os(oneshot::Receiver<Result<T, JoinError>>),
    Sim(JoinHandle<T>),
}

impl<T> Future for ThreadHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.inner {
            ThreadInner::Os(outcome) => {
                Pin::new(outcome).poll(cx).map(|received| received.unwrap_or(Err(JoinError::Cancelled)))
            }
            ThreadInner::Sim(task) => Pin::new(task).poll(cx),
        }
    }
}

/// Resolves when the operator asks this process to stop (SIGTERM or SIGINT). Never in the simulator.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn stop_requested() -> io::Result<()> {
    if sim::is_active() {
        return std::future::pending().await;
    }
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Cores this process may use; at least 1.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

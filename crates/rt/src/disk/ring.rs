//! One io_uring a thread, fed and reaped by one task of the thread's runtime, the *driver*.
//!
//! # Shape
//! ```text
//!  start(op) -> waiting -> kernel -> reap -> oneshot to the caller
//!      |                    ^  |
//!      +-- wakes driver ----+  +-- eventfd wakes driver (epoll, beside the sockets)
//! ```
//! The driver runs after the tasks that were ready with it, so that what they start together is
//! submitted in one system call. Nothing runs, and no timer ticks, while no operation is in flight.
//!
//! # Always true
//! 1. An operation, with its buffer and its file, stays in `ops` from `start` until its completion
//!    has been reaped, whatever becomes of the caller's future or of the runtime.
//! 2. The ring is only ever touched by the thread that made it (`SINGLE_ISSUER`).
//! 3. At most [`IN_KERNEL_MAX`] operations are in the kernel; the others wait in order.
//!
//! # Not here
//! Multi-threaded tokio runtimes: there a task may change its thread, so `start` declines and the
//! caller falls back to system calls. Our own threads are all current-thread runtimes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use super::IoBuf;
use super::os::OsFile;

/// What a caller gets back.
pub(super) type Done = (io::Result<()>, IoBuf);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// A write and the sync of just what it wrote, in one operation.
    DurableWrite,
    Sync,
}

/// Operations in the kernel at once. This keeps a fast device busy (its best rate here came at 64);
/// more would only move the queue from our side to the kernel's.
const IN_KERNEL_MAX: usize = 128;

/// The longest transfer handed over at once; the kernel's limit is just below 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// At the end of a thread, transfers that nobody waits for any more get so long to end.
const LET_GO_MAX: Duration = Duration::from_secs(2);

/// `IORING_ENTER_GETEVENTS`, which the crate keeps to itself.
const ENTER_GETEVENTS: u32 = 1;

struct Op {
    kind: Kind,
    file: Arc<OsFile>,
    offset: u64,
    buffer: IoBuf,
    /// Bytes of the buffer that are transferred already.
    done: usize,
    reply: oneshot::Sender<Done>,
}

struct Ring {
    uring: IoUring,
    event: OwnedFd,
    ops: Vec<Option<Op>>,
    free: Vec<usize>,
    /// Indices of ops that are to be (re)submitted.
    waiting: VecDeque<usize>,
    in_kernel: usize,
    driver: Option<Driver>,
    /// Grows with each driver, so that one left in an abandoned runtime knows it has been replaced.
    generation: u64,
}

struct Driver {
    runtime: tokio::runtime::Id,
    /// `None` until its first turn, which comes by itself.
    waker: Option<Waker>,
}

enum State {
    Untried,
    Refused,
    Ready(Box<Ring>),
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::Untried) };
}

/// `DAOS_IO=syscall` in the environment turns io_uring off, for comparison and for diagnosis.
fn is_turned_off() -> bool {
    static OFF: OnceLock<bool> = OnceLock::new();
    *OFF.get_or_init(|| std::env::var_os("DAOS_IO").is_some_and(|value| value == "syscall"))
}

/// Hands an operation to this thread's ring, making the ring if this is the first.
///
/// `Err` gives the buffer back: there is no ring here, use a system call.
pub(super) fn start(
    kind: Kind,
    file: &Arc<OsFile>,
    offset: u64,
    buffer: IoBuf,
) -> Result<oneshot::Receiver<Done>, IoBuf> {
    if is_turned_off() {
        return Err(buffer);
    }
    let Ok(runtime) = Handle::try_current() else { return Err(buffer) };
    STATE.with_borrow_mut(|state| {
        if let State::Untried = state {
            *state = match Ring::new() {
                Ok(ring) => State::Ready(Box::new(ring)),
                Err(error) => {
                    tracing::info!(%error, "io_uring is refused; disks use plain system calls");
                    State::Refused
                }
            };
        }
        let State::Ready(ring) = state else { return Err(buffer) };
        if ring.ensure_driver(&runtime).is_err() {
            return Err(buffer);
        }
        let (reply, done) = oneshot::channel();
        ring.push(Op { kind, file: Arc::clone(file), offset, buffer, done: 0, reply });
        Ok(done)
    })
}

impl Ring {
    fn new() -> io::Result<Ring> {
        let entries = IN_KERNEL_MAX as u32;
        // Deferred task work: completions are processed when the driver asks, not by interrupting
        // whatever the thread is doing. Kernels before 6.1 do not know it.
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        // SAFETY: a plain system call.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Ring {
            uring,
            event,
            ops: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            in_kernel: 0,
            driver: None,
            generation: 0,
        })
    }

    /// Makes sure that the runtime we are called from drives this ring.
    fn ensure_driver(&mut self, runtime: &Handle) -> io::Result<()> {
        if self.driver.as_ref().is_some_and(|driver| driver.runtime == runtime.id()) {
            return Ok(());
        }
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Of its own, because the former driver's registration may still live in its runtime.
        // SAFETY: the descriptor belongs to the OwnedFd, which gives out the same open one until the
        // AsyncFd drops it.
        let event = unsafe { AsyncFd::register(self.event.try_clone()?)? };
        self.generation += 1;
        self.driver = Some(Driver { runtime: runtime.id(), waker: None });
        runtime.spawn(drive(event, self.generation));
        Ok(())
    }

    fn push(&mut self, op: Op) {
        let index = match self.free.pop() {
            Some(index) => {
                self.ops[index] = Some(op);
                index
            }
            None => {
                self.ops.push(Some(op));
                self.ops.len() - 1
            }
        };
        self.waiting.push_back(index);
        if let Some(waker) = self.driver.as_ref().and_then(|driver| driver.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Submits what waits, and collects what has completed.
    fn turn(&mut self, ended: &mut Vec<(oneshot::Sender<Done>, Done)>) {
        while self.in_kernel < IN_KERNEL_MAX {
            let Some(index) = self.waiting.pop_front() else { break };
            self.queue(index);
            self.in_kernel += 1;
        }
        if self.in_kernel > 0 {
            self.enter(0);
            self.reap(ended);
        }
    }

    /// Writes the entry of one operation into the submission queue.
    fn queue(&mut self, index: usize) {
        let op = self.ops[index].as_mut().expect("a waiting operation is kept until it is reaped");
        // The rest of a transfer that the kernel cut short; all of it in general.
        let rest = &mut op.buffer[op.done..];
        let len = rest.len().min(TRANSFER_BYTES_MAX);
        let offset = op.offset + op.done as u64;
        let start = rest.as_mut_ptr();
        let fd = types::Fd(match op.kind {
            Kind::Sync => op.file.sync_fd(),
            Kind::Read | Kind::Write | Kind::DurableWrite => op.file.file_for(offset, start, len).as_raw_fd(),
        });
        let entry = match op.kind {
            Kind::Read => opcode::Read::new(fd, start, len as u32).offset(offset).build(),
            Kind::Write => opcode::Write::new(fd, start, len as u32).offset(offset).build(),
            Kind::DurableWrite => {
                opcode::Write::new(fd, start, len as u32).offset(offset).rw_flags(libc::RWF_DSYNC).build()
            }
            Kind::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        // SAFETY: the buffer and the file named by the entry live in `ops` until the completion has
        // been reaped, and nobody else touches the buffer before that.
        unsafe { self.uring.submission().push(&entry.user_data(index as u64)) }
            .expect("the queue has a place for each operation allowed in the kernel");
    }

    /// Submits the queue, runs deferred completions, and waits for `at_least` of them.
    fn enter(&mut self, at_least: u32) {
        loop {
            let queued = self.uring.submission().len() as u32;
            // SAFETY: no argument is passed, and the queued entries are valid (see `queue`).
            let entered =
                unsafe { self.uring.submitter().enter::<libc::sigset_t>(queued, at_least, ENTER_GETEVENTS, None) };
            match entered.map_err(|error| (error.raw_os_error(), error)) {
                Ok(_) if self.uring.submission().is_empty() => return,
                // Short of some resource, the kernel takes fewer than there are, or none: again.
                Ok(_) | Err((Some(libc::EINTR | libc::EAGAIN), _)) => {}
                // Completions must be taken out first.
                Err((Some(libc::EBUSY), _)) => return,
                Err((_, error)) => panic!("io_uring_enter on a healthy ring: {error}"),
            }
        }
    }

    /// Waits for a completion, at most for `limit`.
    fn wait(&mut self, limit: Duration) {
        let limit = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&limit);
        match self.uring.submitter().submit_with_args(1, &arguments).map_err(|error| error.raw_os_error()) {
            Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            // Kernels before 5.11 know no limit.
            Err(_) => self.enter(1),
        }
    }

    fn reap(&mut self, ended: &mut Vec<(oneshot::Sender<Done>, Done)>) {
        let Ring { uring, ops, free, waiting, in_kernel, .. } = self;
        for completion in uring.completion() {
            let index = completion.user_data() as usize;
            *in_kernel -= 1;
            let op = ops[index].as_mut().expect("each operation completes once");
            match op.progress(completion.result()) {
                Progress::More => waiting.push_front(index),
                Progress::End(outcome) => {
                    let op = ops[index].take().expect("just looked at");
                    free.push(index);
                    ended.push((op.reply, (outcome, op.buffer)));
                }
            }
        }
    }
}

enum Progress {
    More,
    End(io::Result<()>),
}

impl Op {
    /// Takes note of one completion with `result`: a count of bytes, or a negative error number.
    fn progress(&mut self, result: i32) -> Progress {
        let (len, done) = (self.buffer.len(), self.done);
        match (self.kind, result) {
            (_, code) if code == -libc::EINTR || code == -libc::EAGAIN => Progress::More,
            // A direct read that met an unaligned end of file cannot go on from there.
            (Kind::Read, code) if code == -libc::EINVAL && done > 0 => {
                Progress::End(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            (_, code @ ..0) => Progress::End(Err(io::Error::from_raw_os_error(-code))),
            (Kind::Sync, _) => Progress::End(Ok(())),
            (_, 0) if done == len => Progress::End(Ok(())),
            (Kind::Read, 0) => Progress::End(Err(io::ErrorKind::UnexpectedEof.into())),
            (Kind::Write | Kind::DurableWrite, 0) => Progress::End(Err(io::ErrorKind::WriteZero.into())),
            (_, count) => {
                self.done += count as usize;
                assert!(self.done <= len, "the kernel transfers no more than it was asked for");
                if self.done == len { Progress::End(Ok(())) } else { Progress::More }
            }
        }
    }
}

/// What the driver does after looking at the ring.
enum Next {
    /// Another one has taken over.
    Stop,
    Wait,
    Turn,
}

/// The driver: turns the ring whenever an operation was started or has completed.
async fn drive(event: AsyncFd<OwnedFd>, generation: u64) {
    let mut ended = Vec::new();
    poll_fn(|cx: &mut Context<'_>| {
        loop {
            // Cleared before the completions are taken, so that none can slip in between unseen. (An
            // eventfd, because epoll on the ring itself never woke with deferred task work here.) The
            // counter is never read: each signal is a new edge for epoll whatever its value.
            let signalled = match event.poll_read_ready(cx) {
                Poll::Ready(Ok(mut ready)) => {
                    ready.clear_ready();
                    true
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => false,
            };
            let next = STATE.with_borrow_mut(|state| {
                let State::Ready(ring) = state else { return Next::Stop };
                if ring.generation != generation {
                    return Next::Stop;
                }
                let driver = ring.driver.as_mut().expect("a ring with a generation has a driver");
                if !driver.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    driver.waker = Some(cx.waker().clone());
                }
                // With every place in the kernel taken, only a completion makes room.
                if !signalled && (ring.waiting.is_empty() || ring.in_kernel == IN_KERNEL_MAX) {
                    return Next::Wait;
                }
                ring.turn(&mut ended);
                Next::Turn
            });
            for (reply, done) in ended.drain(..) {
                // Nobody waits any more: the buffer is dropped here, now that the kernel is done with it.
                let _ = reply.send(done);
            }
            match next {
                Next::Stop => return Poll::Ready(()),
                Next::Wait => return Poll::Pending,
                Next::Turn => {}
            }
        }
    })
    .await;
}

/// At the end of a thread: waits for the kernel to let go of the buffers. Not for ever: a device that hangs
/// must not keep the process from ending.
impl Drop for Ring {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        // Not `crate::now`: this thread's locals, which it looks at, are being dropped.
        let end = std::time::Instant::now() + LET_GO_MAX;
        while self.in_kernel > 0 {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                tracing::warn!(operations = self.in_kernel, "a device hangs: its buffers are left to the kernel");
                // The kernel may still read or fill them, so they are nobody else's ever again.
                std::mem::forget(std::mem::take(&mut self.ops));
                return;
            }
            self.wait(left);
            self.reap(&mut ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::os;

    /// A pipe that nobody writes to stands for a disk that does not answer.
    #[test]
    fn a_transfer_that_never_ends_neither_holds_its_caller_nor_its_thread() {
        let mut ends = [0; 2];
        // SAFETY: `ends` is a valid place for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: the kernel just gave us these descriptors.
        let [silent, _writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        let began = std::time::Instant::now();
        let thread = std::thread::spawn(move || {
            crate::block_on(async {
                let file = Arc::new(OsFile::for_test(silent.into()));
                // Where io_uring is refused, a system call holds the thread up, and nothing can be shown.
                if start(Kind::Sync, &file, 0, IoBuf::default()).is_err() {
                    eprintln!("skipped: io_uring is refused here");
                    return;
                }
                let read = os::read(&file, 0, IoBuf::zeroed(4096));
                let limit = Duration::from_millis(50);
                assert!(crate::timeout(limit, read).await.is_err(), "there is nothing to read");
            });
        });
        thread.join().unwrap();
        assert!(began.elapsed() < LET_GO_MAX * 3, "{:?}", began.elapsed());
    }
}

//! The tasks of a simulation, and the loop that runs them one at a time in seeded order.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::world::{Event, Place, Ready, Shared};
use super::{NodeId, Sim};
use crate::task::JoinError;

/// The number of the future given to `run`; spawned tasks count from one.
const MAIN: u64 = 0;

/// Polls without any event in between after which a run counts as hung: some ten seconds of virtual
/// time in which tasks did nothing but yield to each other.
const IDLE_POLLS_MAX: u64 = 10_000_000;

/// The part of a simulation that stays on its thread: futures need not be `Send`.
#[derive(Default)]
pub(super) struct Local {
    tasks: RefCell<BTreeMap<u64, Task>>,
    current: Cell<Option<Place>>,
}

struct Task {
    place: Place,
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wake: Arc<TaskWake>,
}

/// The waker of one task.
struct TaskWake {
    id: u64,
    is_ready: AtomicBool,
    is_aborted: AtomicBool,
    ready: Arc<Ready>,
}

impl TaskWake {
    fn new(id: u64, shared: &Arc<Shared>) -> Arc<TaskWake> {
        let (is_ready, is_aborted) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(TaskWake { id, is_ready, is_aborted, ready: Arc::clone(&shared.ready) })
    }
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ready.swap(true, Relaxed) {
            self.ready.lock().expect("pushing a number does not panic").push(self.id);
        }
    }
}

thread_local! {
    /// Apart from `CURRENT` so that `os` pays for one load.
    static IS_ACTIVE: Cell<bool> = const { Cell::new(false) };
    static CURRENT: RefCell<Option<Sim>> = const { RefCell::new(None) };
}

/// True on a thread that is inside [`Sim::run`].
#[inline]
pub fn is_active() -> bool {
    IS_ACTIVE.get()
}

pub(super) fn current() -> Option<Sim> {
    CURRENT.with_borrow(Clone::clone)
}

/// The simulation of this thread and where in it we run. Only when [`is_active`].
pub(crate) fn here() -> (Arc<Shared>, Place) {
    CURRENT.with_borrow(|current| {
        let sim = current.as_ref().expect("called where a simulation is active");
        (Arc::clone(&sim.shared), sim.local.place())
    })
}

impl Local {
    fn place(&self) -> Place {
        self.current.get().unwrap_or(Place { node: NodeId(0), life: 0 })
    }
}

/// Spawns on the current node.
pub(crate) fn spawn_here<T: 'static>(future: impl Future<Output = T> + 'static) -> SimJoin<T> {
    let sim = current().expect("called where a simulation is active");
    let place = sim.local.place();
    spawn_at(&sim, place, future)
}

/// Spawns at `place`. If that is dead (a destructor that spawns while its node goes down), the task
/// is cancelled before it begins.
pub(super) fn spawn_at<T: 'static>(sim: &Sim, place: Place, future: impl Future<Output = T> + 'static) -> SimJoin<T> {
    let slot = Arc::new(Slot { state: Mutex::new(SlotState { outcome: None, is_over: false, waker: None }) });
    let promise = Promise(Arc::clone(&slot));
    let (id, is_alive) = {
        let mut world = sim.shared.world();
        world.spawned += 1;
        (world.spawned, world.is_alive(place))
    };
    let wake = TaskWake::new(id, &sim.shared);
    if is_alive {
        let future = Box::pin(async move {
            // Declared first and so dropped last: the waiter hears after everything else is gone.
            let promise = promise;
            let value = future.await;
            promise.keep(value);
        });
        let task = Task { place, future: Some(future), wake: Arc::clone(&wake) };
        sim.local.tasks.borrow_mut().insert(id, task);
        wake.wake_by_ref();
    }
    SimJoin { slot, wake }
}

/// Where a task leaves its result.
struct Slot<T> {
    state: Mutex<SlotState<T>>,
}

struct SlotState<T> {
    outcome: Option<Result<T, JoinError>>,
    is_over: bool,
    waker: Option<Waker>,
}

impl<T> Slot<T> {
    fn settle(&self, outcome: Result<T, JoinError>) {
        let mut state = self.state.lock().expect("no code panics while it holds the slot");
        if state.is_over {
            return;
        }
        state.is_over = true;
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The task's side of the slot: dropped unkept, it tells of the cancellation.
struct Promise<T>(Arc<Slot<T>>);

impl<T> Promise<T> {
    fn keep(&self, value: T) {
        self.0.settle(Ok(value));
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.settle(Err(JoinError::Cancelled));
    }
}

pub(crate) struct SimJoin<T> {
    slot: Arc<Slot<T>>,
    wake: Arc<TaskWake>,
}

impl<T> SimJoin<T> {
    pub(crate) fn abort(&self) {
        self.wake.is_aborted.store(true, Relaxed);
        self.wake.wake_by_ref();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.slot.state.lock().expect("no code panics while it holds the slot").is_over
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
        let mut state = self.slot.state.lock().expect("no code panics while it holds the slot");
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        assert!(!state.is_over, "a JoinHandle is not polled after it gave its result");
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Marks the thread as being inside `sim` while it lives.
struct Entered<'a> {
    sim: &'a Sim,
}

impl<'a> Entered<'a> {
    fn new(sim: &'a Sim) -> Entered<'a> {
        assert!(!is_active(), "a simulation does not run inside another");
        CURRENT.set(Some(sim.clone()));
        IS_ACTIVE.set(true);
        Entered { sim }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let sim = self.sim;
        if std::thread::panicking() {
            let world = sim.shared.world();
            let place = sim.local.place();
            eprintln!(
                "simulation failed: seed {}, node {:?}, {:.6} s of virtual time, trace {:016x}",
                world.config.seed,
                world.nodes[place.node.0 as usize].name,
                world.elapsed_nanos() as f64 / 1e9,
                world.trace_hash(),
            );
        }
        // Tasks end with the run, while their destructors still find the simulation around them.
        sim.drop_tasks(|_| true);
        IS_ACTIVE.set(false);
        CURRENT.set(None);
    }
}

impl Sim {
    /// Runs `main` to its end in virtual time, with all the tasks of all the nodes beside it.
    ///
    /// `main` runs on a node of its own, "main", outside all others. Tasks still running at the end
    /// are dropped, and their processes count as killed; disks stay for a further `run`.
    ///
    /// # Panics
    /// When a task panics; when nothing can ever happen again but `main` has not ended; when the time
    /// limit of the configuration is reached. The seed is printed.
    pub fn run<F: Future>(&self, main: F) -> F::Output {
        let entered = Entered::new(self);
        let mut main = pin!(main);
        let wake = TaskWake::new(MAIN, &self.shared);
        wake.wake_by_ref();
        let waker = Waker::from(Arc::clone(&wake));
        let mut idle_polls = 0;
        let output = loop {
            idle_polls = if self.fire_due() { 0 } else { idle_polls + 1 };
            assert!(idle_polls < IDLE_POLLS_MAX, "the simulation hangs: its tasks only yield to each other");
            match self.choose() {
                None => self.advance(),
                Some(MAIN) => {
                    wake.is_ready.store(false, Relaxed);
                    self.local.current.set(Some(Place { node: NodeId(0), life: 0 }));
                    let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
                    self.local.current.set(None);
                    if let Poll::Ready(output) = polled {
                        break output;
                    }
                }
                Some(id) => self.poll_task(id),
            }
        };
        drop(entered);
        output
    }

    /// Picks any ready task: the order of the world is as bad as the seed makes it.
    fn choose(&self) -> Option<u64> {
        let mut ready = self.shared.ready.lock().expect("taking a number does not panic");
        if ready.is_empty() {
            return None;
        }
        let mut world = self.shared.world();
        // In order of their numbers, not of their wake-ups: `tokio::sync::watch` wakes its waiters in an
        // order of its own dice.
        ready.sort_unstable();
        let index = world.order.below(ready.len() as u64) as usize;
        let id = ready.remove(index);
        // A turn takes up to 2 us, so that tasks which only yield to each other do not stop time.
        let cost = world.order.below(2000);
        world.pass(cost);
        world.note(1, id);
        Some(id)
    }

    fn poll_task(&self, id: u64) {
        let place = self.local.tasks.borrow().get(&id).map(|task| task.place);
        if let Some(place) = place {
            let mut world = self.shared.world();
            let node = world.node_mut(place.node);
            if node.is_paused {
                // It stays ready, and so is not noted a second time.
                node.waiting.push(id);
                return;
            }
        }
        let Some((mut future, wake, place)) = self.local.tasks.borrow_mut().get_mut(&id).and_then(|task| {
            task.wake.is_ready.store(false, Relaxed);
            Some((task.future.take()?, Arc::clone(&task.wake), task.place))
        }) else {
            // Woken after it ended.
            return;
        };
        self.local.current.set(Some(place));
        let is_over = wake.is_aborted.load(Relaxed) || {
            let waker = Waker::from(Arc::clone(&wake));
            future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        };
        // A task may have crashed its own node.
        if is_over || !self.shared.world().is_alive(place) {
            self.local.tasks.borrow_mut().remove(&id);
            drop(future);
        } else if let Some(task) = self.local.tasks.borrow_mut().get_mut(&id) {
            task.future = Some(future);
        }
        self.local.current.set(None);
    }

    /// Lets everything happen whose time has come. True if there was anything.
    fn fire_due(&self) -> bool {
        let mut has_fired = false;
        loop {
            let event = {
                let mut world = self.shared.world();
                let trash = world.net.take_trash();
                if !trash.is_empty() {
                    drop(world);
                    drop(trash);
                    world = self.shared.world();
                }
                let now = world.peek_now();
                match world.events.first_entry() {
                    Some(first) if first.key().0 <= now => {
                        let (key, event) = first.remove_entry();
                        world.note(2, key.1);
                        event
                    }
                    _ => return has_fired,
                }
            };
            has_fired = true;
            match event {
                Event::Wake(waker) => waker.wake(),
                Event::Call(call) => call(&self.shared),
            }
        }
    }

    /// Nothing is ready: goes to the time of the next event.
    fn advance(&self) {
        let mut world = self.shared.world();
        let next = world.events.first_key_value().map(|(key, _)| key.0);
        let Some(next) = next else {
            drop(world);
            panic!("the simulation is stuck: every task waits for another, and no timer is set");
        };
        world.pass_until(next);
        let is_late = u128::from(world.elapsed_nanos()) > world.config.time_limit.as_nanos();
        drop(world);
        assert!(!is_late, "the simulation has reached its time limit and the main future has not ended");
    }

    /// Drops the tasks of the places that `is_doomed` picks, each with its node as the current one.
    pub(super) fn drop_tasks(&self, is_doomed: impl Fn(Place) -> bool) {
        loop {
            // One at a time: a destructor may spawn, or abort others.
            let doomed = {
                let mut tasks = self.local.tasks.borrow_mut();
                let found = tasks.iter().find(|(_, task)| is_doomed(task.place) && task.future.is_some());
                let Some((&id, _)) = found else { return };
                tasks.remove(&id)
            };
            if let Some(task) = doomed {
                let before = self.local.current.replace(Some(task.place));
                drop(task);
                self.local.current.set(before);
            }
        }
    }
}

/// A `Local` handle for `Sim`.
pub(super) fn new_local() -> Rc<Local> {
    Rc::default()
}

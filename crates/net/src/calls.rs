//! The calls under way on one connection.
//!
//! # Shape
//! A slot per call. Its number on the wire is the slot's index and, above it, a count that makes
//! every call's number different, so that a late or doubled answer finds nobody.
//!
//! ```text
//!            answer          caller polls
//!   Waiting --------> Answered --------> (free)
//!     |  \  link down
//!     |   `---------> Broken ----------> (free)
//!     |  deadline
//!     +-------------> Expired --+
//!     |  caller drops           v  answer, or the link ends
//!     `----------------------> Abandoned ------------------> (free)
//! ```
//!
//! # Always true
//! A call's credits come back exactly once: when its answer arrives. A link that ends takes its
//! credits with it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rt::Instant;
use slab::Slab;
use types::Error;

use crate::Reply;
use crate::outbox::Credits;

/// How long an answer may be overdue before its link is taken for broken. A server finishes what it
/// began even for a caller that gave up; one that stays silent for so much longer has lost the
/// request, and with it credits that only a new link brings back.
const OVERDUE_MAX: Duration = Duration::from_secs(10);

/// A link is taken for broken sooner when a call's deadline has passed, this long since it began,
/// and nothing whatever was answered in between: so it looks when a machine dies or a cable is
/// pulled, and nobody is left to close the link.
const SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Calls {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    slots: Slab<Slot>,
    /// Calls begun.
    count: u32,
    /// Answers heard.
    heard: u64,
    /// When the keeper looks next; `None`: it sleeps until told.
    alarm: Option<Instant>,
    /// Why the link is down, once it is.
    down: Option<Arc<str>>,
}

#[derive(Debug)]
struct Slot {
    count: u32,
    held: Credits,
    began: Instant,
    deadline: Instant,
    /// When the keeper has to look at it: the deadline, and after that when the link is judged.
    due: Instant,
    /// The table's count when the call began.
    heard: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Option<Waker>),
    Answered(Result<Reply, Error>),
    Expired,
    Broken,
    Abandoned,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ending {
    Answered(Result<Reply, Error>),
    Expired,
    Broken(Arc<str>),
}

/// What the keeper found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Look again then; `None`: when a call begins.
    Next(Option<Instant>),
    /// An answer is so long overdue that the link is worth no more.
    Overdue,
}

impl Calls {
    pub(crate) fn new(slots_max: usize) -> Calls {
        let slots = Slab::with_capacity(slots_max.min(1024));
        Calls { table: Mutex::new(Table { slots, count: 0, heard: 0, alarm: None, down: None }) }
    }

    /// Takes a slot for a call that begins `now`. The flag tells that the keeper has to be woken for the deadline.
    ///
    /// # Errors
    /// Why the link is down.
    pub(crate) fn begin(&self, held: Credits, now: Instant, deadline: Instant) -> Result<(u64, bool), Arc<str>> {
        let mut table = self.lock();
        if let Some(cause) = &table.down {
            return Err(cause.clone());
        }
        table.count = table.count.wrapping_add(1);
        let count = table.count;
        let heard = table.heard;
        let state = State::Waiting(None);
        let index = table.slots.insert(Slot { count, held, began: now, deadline, due: deadline, heard, state });
        let sooner = table.alarm.is_none_or(|alarm| deadline < alarm);
        if sooner {
            table.alarm = Some(deadline);
        }
        Ok((u64::from(count) << 32 | index as u64, sooner))
    }

    /// Delivers an answer; the credits that come back with it. `None`: nobody asked.
    pub(crate) fn answer(&self, request: u64, answer: Result<Reply, Error>) -> Option<Credits> {
        let (index, count) = (request as u32 as usize, (request >> 32) as u32);
        let (held, waker) = {
            let mut table = self.lock();
            table.heard += 1;
            let slot = table.slots.get_mut(index).filter(|slot| slot.count == count)?;
            let held = std::mem::take(&mut slot.held);
            match &mut slot.state {
                State::Waiting(waker) => {
                    let waker = waker.take();
                    slot.state = State::Answered(answer);
                    (held, waker)
                }
                // Too late for its caller, who has not looked yet.
                State::Expired => (held, None),
                State::Abandoned => {
                    table.slots.remove(index);
                    (held, None)
                }
                // Doubled on its way.
                State::Answered(_) | State::Broken => return None,
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(held)
    }

    /// Looks whether the call has ended; then its slot is no longer the caller's.
    pub(crate) fn poll(&self, request: u64, cx: &mut Context<'_>) -> Poll<Ending> {
        let index = request as u32 as usize;
        let mut table = self.lock();
        let slot = &mut table.slots[index];
        match &mut slot.state {
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Expired => {
                table.leave(index);
                Poll::Ready(Ending::Expired)
            }
            State::Answered(_) | State::Broken => match table.slots.remove(index).state {
                State::Answered(answer) => Poll::Ready(Ending::Answered(answer)),
                _ => Poll::Ready(Ending::Broken(table.down.clone().expect("a call breaks when its link goes down"))),
            },
            State::Abandoned => unreachable!("only the caller abandons, and it does not poll after"),
        }
    }

    /// The caller has gone.
    pub(crate) fn abandon(&self, request: u64) {
        self.lock().leave(request as u32 as usize);
    }

    /// Ends the calls whose deadline has come.
    pub(crate) fn expire(&self, now: Instant) -> Expiry {
        let mut wakers = Vec::new();
        let expiry = {
            let mut table = self.lock();
            let mut next = None::<Instant>;
            let mut overdue = false;
            let heard = table.heard;
            for (_, slot) in &mut table.slots {
                if matches!(slot.state, State::Answered(_) | State::Broken) {
                    continue;
                }
                if slot.due <= now
                    && let State::Waiting(waker) = &mut slot.state
                {
                    wakers.extend(waker.take());
                    slot.state = State::Expired;
                    slot.due = slot.silence_ends();
                }
                if slot.due <= now && slot.heard == heard {
                    overdue = true;
                } else if slot.due <= now {
                    overdue |= slot.deadline + OVERDUE_MAX <= now;
                    slot.due = slot.deadline + OVERDUE_MAX;
                }
                next = Some(next.map_or(slot.due, |next| next.min(slot.due)));
            }
            table.alarm = next;
            if overdue { Expiry::Overdue } else { Expiry::Next(next) }
        };
        wakers.into_iter().for_each(Waker::wake);
        expiry
    }

    /// When the keeper looks next.
    pub(crate) fn alarm(&self) -> Option<Instant> {
        self.lock().alarm
    }

    /// Ends every call: the link is down. How many were waiting; `None` if it was down before.
    pub(crate) fn fail(&self, cause: &str) -> Option<usize> {
        let mut wakers = Vec::new();
        let mut broken = 0;
        {
            let mut table = self.lock();
            if table.down.is_some() {
                return None;
            }
            table.down = Some(cause.into());
            table.slots.retain(|_, slot| match &mut slot.state {
                State::Waiting(waker) => {
                    wakers.extend(waker.take());
                    slot.state = State::Broken;
                    broken += 1;
                    true
                }
                State::Abandoned => false,
                State::Answered(_) | State::Expired | State::Broken => true,
            });
        }
        wakers.into_iter().for_each(Waker::wake);
        Some(broken)
    }

    /// Why the link is down; `None` while it is up.
    pub(crate) fn down(&self) -> Option<Arc<str>> {
        self.lock().down.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds the calls")
    }
}

impl Slot {
    /// When having heard nothing since it began means that the link is dead.
    fn silence_ends(&self) -> Instant {
        self.deadline.max(self.began + SILENCE_MAX)
    }
}

impl Table {
    /// Nobody waits for slot `index` any more: keeps it if its credits are still out.
    fn leave(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let answered = slot.held == Credits::default();
        if answered || self.down.is_some() || matches!(slot.state, State::Answered(_) | State::Broken) {
            self.slots.remove(index);
        } else {
            if matches!(slot.state, State::Waiting(_)) {
                slot.due = slot.silence_ends();
            }
            slot.state = State::Abandoned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Credits = Credits { requests: 1, bulk: 0 };
    const T: fn(u64) -> Instant = |secs| Instant::from_nanos(secs * 1_000_000_000);

    fn poll(calls: &Calls, request: u64) -> Poll<Ending> {
        calls.poll(request, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_comes_once_and_brings_the_credits_once() {
        let calls = Calls::new(4);
        let (request, _) = calls.begin(ONE, T(0), T(1)).unwrap();
        assert!(poll(&calls, request).is_pending());
        assert_eq!(calls.answer(request, Ok(Reply::default())), Some(ONE));
        assert_eq!(calls.answer(request, Ok(Reply::default())), None);
        assert!(matches!(poll(&calls, request), Poll::Ready(Ending::Answered(Ok(_)))));
        let (next, _) = calls.begin(ONE, T(0), T(1)).unwrap();
        assert_ne!(next, request);
        assert_eq!(calls.answer(request, Ok(Reply::default())), None, "a late answer finds nobody");
        assert!(poll(&calls, next).is_pending());
    }

    #[test]
    fn an_abandoned_call_keeps_its_credits_until_the_answer() {
        let calls = Calls::new(4);
        let (request, _) = calls.begin(ONE, T(0), T(1)).unwrap();
        calls.abandon(request);
        assert_eq!(calls.expire(T(2)), Expiry::Next(Some(T(3))));
        assert_eq!(calls.answer(request, Ok(Reply::default())), Some(ONE));
        assert_eq!(calls.expire(T(2)), Expiry::Next(None));
    }

    #[test]
    fn the_keeper_is_told_of_earlier_deadlines_only() {
        let calls = Calls::new(4);
        assert!(calls.begin(ONE, T(0), T(5)).unwrap().1);
        assert!(calls.begin(ONE, T(0), T(3)).unwrap().1);
        assert!(!calls.begin(ONE, T(0), T(4)).unwrap().1);
        assert_eq!(calls.alarm(), Some(T(3)));
    }

    #[test]
    fn a_link_silent_since_an_expired_call_began_is_dead() {
        let calls = Calls::new(4);
        let (soon, _) = calls.begin(ONE, T(0), T(1)).unwrap();
        let (late, _) = calls.begin(ONE, T(1), T(9)).unwrap();
        assert_eq!(calls.expire(T(1)), Expiry::Next(Some(T(3))));
        assert!(matches!(poll(&calls, soon), Poll::Ready(Ending::Expired)));
        assert!(poll(&calls, late).is_pending());
        assert_eq!(calls.expire(T(2)), Expiry::Next(Some(T(3))));
        assert_eq!(calls.expire(T(3)), Expiry::Overdue);
    }

    #[test]
    fn a_link_that_answers_others_may_be_late_with_one() {
        let calls = Calls::new(4);
        let (slow, _) = calls.begin(ONE, T(0), T(4)).unwrap();
        let (quick, _) = calls.begin(ONE, T(0), T(4)).unwrap();
        calls.answer(quick, Ok(Reply::default())).unwrap();
        assert_eq!(calls.expire(T(4)), Expiry::Next(Some(T(14))));
        assert!(matches!(poll(&calls, slow), Poll::Ready(Ending::Expired)));
        assert_eq!(calls.expire(T(13)), Expiry::Next(Some(T(14))));
        assert_eq!(calls.expire(T(14)), Expiry::Overdue, "but not for ever");
    }

    #[test]
    fn a_link_down_breaks_every_call_and_begins_no_other() {
        let calls = Calls::new(4);
        let (waiting, _) = calls.begin(ONE, T(0), T(5)).unwrap();
        let (dropped, _) = calls.begin(ONE, T(0), T(5)).unwrap();
        calls.abandon(dropped);
        assert_eq!(calls.fail("cut"), Some(1));
        assert_eq!(calls.fail("again"), None);
        assert!(matches!(poll(&calls, waiting), Poll::Ready(Ending::Broken(cause)) if &*cause == "cut"));
        assert_eq!(&*calls.begin(ONE, T(0), T(6)).unwrap_err(), "cut");
        assert_eq!(calls.lock().slots.len(), 0);
    }
}

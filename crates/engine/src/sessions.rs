//! Exactly once: a repeated request gets the first one's answer (K5).
//!
//! A client numbers its requests within a session and sends a request again, with the same number,
//! when it cannot know what became of it; a network may also deliver one twice. The service that
//! did the work remembers its answer and gives it again.
//!
//! # Shape
//! Per session: a window of answers by number. A number enters as `Running`; repeats that arrive
//! meanwhile wait for it. It becomes `Done`, unless the failure says that nothing happened and the
//! client should try again, in which case it is forgotten.
//!
//! # Always true
//! 1. At most one run of a number is under way.
//! 2. A number below the window is refused: whether it ran is no longer known.
//!
//! # Not here
//! What took effect unbeknown to this table: before the process began, in a run that left no answer, or at another
//! target that did this one's work before. A target's store remembers that, learns more at any time, and is asked in each
//! run (`target::recall`). Refusals took no effect: after a restart they may be run again. The control services have that
//! of their replicas (`raft`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::Notify;
use types::{Code, Error};

/// Answers remembered per session: more than a client has under way with all its links together.
const ANSWERS_MAX: usize = 1024;
const _: () = assert!(ANSWERS_MAX > types::UNDER_WAY_MAX);
/// Sessions remembered; the one used longest ago goes first. Together with `ANSWERS_MAX` and the
/// size of an answer (tens of bytes) this bounds the table.
const SESSIONS_MAX: usize = 4096;

type Answer = Result<Vec<u8>, Error>;

/// The recent requests of every client of one service.
#[derive(Default)]
pub struct Sessions {
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    sessions: BTreeMap<u64, Session>,
    /// Counts requests, to tell which session was used longest ago.
    turn: u64,
}

#[derive(Default)]
struct Session {
    slots: BTreeMap<u64, Slot>,
    /// Numbers below this have left the window.
    floor: u64,
    last_turn: u64,
}

enum Slot {
    Running(Rc<Notify>),
    Done(Answer),
}

/// The refusal of a request whose window has passed. Final: it cannot be told later either.
pub(crate) fn too_old(sequence: u64) -> Error {
    let text = format!("request {sequence} of this session is too old to tell whether it ran before");
    Error::new(Code::Uncertain, text).remedy("read what it was to write, and decide anew")
}

/// What to do with a request.
enum Entry {
    Run,
    Wait(Rc<Notify>),
    Answer(Answer),
}

impl Sessions {
    /// Runs `work` unless this request ran before, and answers it.
    pub async fn once(&self, session: u64, sequence: u64, work: impl Future<Output = Answer>) -> Answer {
        match self.turn(session, sequence).await {
            Turn::Ran(answer) => answer,
            Turn::First(run) => run.end(work.await),
        }
    }

    /// Whether a request is to run, or the answer of its first run; that one is waited for.
    ///
    /// Session 0 has no memory: its requests always run.
    pub async fn turn(&self, session: u64, sequence: u64) -> Turn<'_> {
        if session != 0 {
            loop {
                match self.enter(session, sequence) {
                    Entry::Answer(answer) => return Turn::Ran(answer),
                    Entry::Wait(done) => done.notified().await,
                    Entry::Run => break,
                }
            }
        }
        // Leaves the table right even if it is dropped without an end.
        Turn::First(Run { sessions: self, session, sequence, answer: None })
    }

    fn enter(&self, session: u64, sequence: u64) -> Entry {
        let table = &mut *self.table.borrow_mut();
        table.turn += 1;
        if !table.sessions.contains_key(&session) && table.sessions.len() >= SESSIONS_MAX {
            table.forget_oldest();
        }
        let known = table.sessions.entry(session).or_default();
        known.last_turn = table.turn;
        match known.slots.get(&sequence) {
            Some(Slot::Running(done)) => Entry::Wait(done.clone()),
            Some(Slot::Done(answer)) => Entry::Answer(answer.clone()),
            None if sequence < known.floor => Entry::Answer(Err(too_old(sequence))),
            None => {
                known.slots.insert(sequence, Slot::Running(Rc::new(Notify::new())));
                Entry::Run
            }
        }
    }

    fn leave(&self, session: u64, sequence: u64, answer: Option<Answer>) {
        let table = &mut *self.table.borrow_mut();
        let Some(known) = table.sessions.get_mut(&session) else { return };
        let slot = known.slots.remove(&sequence);
        // "Try again" and a dropped run mean the next arrival runs.
        if let Some(answer) = answer.filter(|a| !matches!(a, Err(e) if e.is_transient())) {
            known.slots.insert(sequence, Slot::Done(answer));
        }
        known.shrink();
        if let Some(Slot::Running(done)) = slot {
            done.notify_waiters();
        }
    }
}

impl Table {
    fn forget_oldest(&mut self) {
        let idle = self.sessions.iter().filter(|(_, s)| s.slots.values().all(|slot| matches!(slot, Slot::Done(_))));
        if let Some(oldest) = idle.min_by_key(|(_, s)| s.last_turn).map(|(id, _)| *id) {
            self.sessions.remove(&oldest);
        }
    }
}

impl Session {
    fn shrink(&mut self) {
        while self.slots.len() > ANSWERS_MAX {
            // A run under way stays; the window waits for it.
            let Some((&lowest, Slot::Done(_))) = self.slots.first_key_value() else { return };
            self.slots.remove(&lowest);
            self.floor = lowest + 1;
        }
    }
}

/// What becomes of a request that arrived.
pub enum Turn<'a> {
    /// It ran before.
    Ran(Answer),
    First(Run<'a>),
}

/// A run under way. Dropped without its end, it leaves the table as if it had not been.
pub struct Run<'a> {
    sessions: &'a Sessions,
    session: u64,
    sequence: u64,
    answer: Option<Answer>,
}

impl Run<'_> {
    /// Keeps the answer for repeats.
    pub fn end(mut self, answer: Answer) -> Answer {
        if self.session != 0 {
            self.answer = Some(answer.clone());
        }
        answer
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.sessions.leave(self.session, self.sequence, self.answer.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn run<T>(future: impl Future<Output = T>) -> T {
        rt::block_on(future)
    }

    #[test]
    fn a_repeat_gets_the_first_answer_and_has_no_effect() {
        run(async {
            let sessions = Sessions::default();
            let effects = Cell::new(0);
            for _ in 0..3 {
                let work = async {
                    effects.set(effects.get() + 1);
                    Ok(vec![effects.get()])
                };
                assert_eq!(sessions.once(7, 1, work).await, Ok(vec![1]));
            }
            assert_eq!(effects.get(), 1);
        });
    }

    #[test]
    fn a_repeat_waits_for_the_run_under_way() {
        run(async {
            let sessions = Sessions::default();
            let gate = Notify::new();
            let first = sessions.once(7, 1, async {
                gate.notified().await;
                Ok(vec![1])
            });
            let second = sessions.once(7, 1, async { Ok(vec![2]) });
            let open = async {
                rt::yield_now().await;
                gate.notify_one();
            };
            let (first, second, ()) = futures_util::join!(first, second, open);
            assert_eq!((first, second), (Ok(vec![1]), Ok(vec![1])));
        });
    }

    #[test]
    fn try_again_is_not_remembered_but_a_refusal_is() {
        run(async {
            let sessions = Sessions::default();
            let busy = Err(Error::new(Code::Busy, "later"));
            assert!(sessions.once(7, 1, async { busy }).await.is_err());
            assert_eq!(sessions.once(7, 1, async { Ok(vec![1]) }).await, Ok(vec![1]));
            let exists = Err(Error::new(Code::Exists, "there"));
            assert!(sessions.once(7, 2, async { exists }).await.is_err());
            assert_eq!(sessions.once(7, 2, async { Ok(vec![]) }).await.unwrap_err().code, Code::Exists);
        });
    }

    #[test]
    fn a_dropped_run_lets_the_repeat_run() {
        run(async {
            let sessions = Sessions::default();
            {
                let never = sessions.once(7, 1, std::future::pending());
                futures_util::pin_mut!(never);
                assert!(futures_util::poll!(never).is_pending());
            }
            assert_eq!(sessions.once(7, 1, async { Ok(vec![5]) }).await, Ok(vec![5]));
        });
    }

    #[test]
    fn the_window_is_bounded_and_what_left_it_is_refused() {
        run(async {
            let sessions = Sessions::default();
            for sequence in 0..=ANSWERS_MAX as u64 {
                sessions.once(7, sequence, async { Ok(vec![]) }).await.unwrap();
            }
            let refused = sessions.once(7, 0, async { Ok(vec![]) }).await.unwrap_err();
            assert!(refused.code == Code::Uncertain && !refused.is_transient(), "asked again, it is as old: {refused}");
            for session in 1..=SESSIONS_MAX as u64 + 10 {
                sessions.once(session, 0, async { Ok(vec![]) }).await.ok();
            }
            assert!(sessions.table.borrow().sessions.len() <= SESSIONS_MAX);
        });
    }
}

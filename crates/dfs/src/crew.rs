//! A crew working through a tree: many jobs at once, each of which may find more.
//!
//! Jobs found last are done first, so a walk goes deep before it goes wide and the list of what is
//! left stays short. The first failure ends the run.

use std::future::Future;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// The list of jobs, as a job sees it.
pub(crate) struct Crew<J> {
    ahead: Arc<Mutex<Vec<J>>>,
}

impl<J> Clone for Crew<J> {
    fn clone(&self) -> Crew<J> {
        Crew { ahead: self.ahead.clone() }
    }
}

impl<J> Crew<J> {
    /// Adds a job, to be done soon.
    pub(crate) fn push(&self, job: J) {
        self.ahead.lock().expect("no panic while held").push(job);
    }

    fn pop(&self) -> Option<J> {
        self.ahead.lock().expect("no panic while held").pop()
    }
}

/// Does `first`, and all jobs that come of it, at most `width` at once.
///
/// # Errors
/// The first failure of a job. Jobs in flight come to their own end first and no new ones begin: a
/// job dropped half way could not take back what it wrote.
pub(crate) async fn run<J, F, E>(first: Vec<J>, width: usize, work: impl Fn(J, Crew<J>) -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let crew = Crew { ahead: Arc::new(Mutex::new(first)) };
    let mut running = FuturesUnordered::new();
    let mut first_failure = None;
    loop {
        while first_failure.is_none()
            && running.len() < width
            && let Some(job) = crew.pop()
        {
            running.push(work(job, crew.clone()));
        }
        match running.next().await {
            Some(Ok(())) => {}
            Some(Err(failure)) => first_failure = first_failure.or(Some(failure)),
            None => return first_failure.map_or(Ok(()), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn every_job_found_is_done_and_no_more_at_once_than_the_crew_has_hands() {
        let (done, now, most) = (RefCell::new(0), RefCell::new(0), RefCell::new(0));
        let outcome: Result<(), ()> = rt::block_on(run(vec![6u32], 3, |depth, crew| {
            let (done, now, most) = (&done, &now, &most);
            async move {
                *now.borrow_mut() += 1;
                let most_now = (*now.borrow()).max(*most.borrow());
                *most.borrow_mut() = most_now;
                rt::yield_now().await;
                (0..depth).for_each(|_| crew.push(depth - 1));
                *done.borrow_mut() += 1;
                *now.borrow_mut() -= 1;
                Ok(())
            }
        }));
        assert_eq!(outcome, Ok(()));
        // 6 jobs find 5 each, and so on down: 1 + 6 + 30 + 120 + 360 + 720 + 720.
        assert_eq!((*done.borrow(), *most.borrow()), (1957, 3));
    }

    #[test]
    fn after_a_failure_jobs_in_flight_end_and_no_new_ones_begin() {
        let ended = RefCell::new(Vec::new());
        let outcome = rt::block_on(run(vec![4, 3, 2, 1], 3, |job, _| {
            let ended = &ended;
            async move {
                for _ in 0..job {
                    rt::yield_now().await;
                }
                ended.borrow_mut().push(job);
                if job == 1 { Err(job) } else { Ok(()) }
            }
        }));
        assert_eq!((outcome, ended.into_inner()), (Err(1), vec![1, 2, 3]));
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        let outcome =
            rt::block_on(run(vec![1, 2, 3], 1, |job, _| async move { if job == 2 { Err(job) } else { Ok(()) } }));
        assert_eq!(outcome, Err(2));
    }
}

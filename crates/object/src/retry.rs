//! What to do after an attempt failed: a pure function.

use std::time::Duration;

use types::{Code, Error, Result};

/// The first pause; each further one may be twice as long.
pub const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest pause: a server that restarts is found again within about this time.
pub const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The least time one attempt is given before it is repeated, if the deadline allows.
pub const ATTEMPT_MIN: Duration = Duration::from_secs(2);

/// Repeats for a peer that does not behave: enough to get over one damaged link, few enough to tell
/// the user of a wrong address at once.
pub const BROKEN_REPEATS_MAX: u32 = 3;

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Never sent.
    Unreachable(Error),
    /// Sent, and the answer will not come: it may have taken effect.
    Lost(Error),
    /// The server said no. It did not take effect.
    Refused(Error),
    /// The peer does not behave like a server of this system. A link that was damaged looks the same.
    Broken(Error),
    /// It cannot be tried again.
    Final(Error),
}

impl Failure {
    /// Nobody knows whether the request took effect.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Failure::Lost(_))
    }

    pub fn error(&self) -> &Error {
        match self {
            Failure::Unreachable(error)
            | Failure::Lost(error)
            | Failure::Refused(error)
            | Failure::Broken(error)
            | Failure::Final(error) => error,
        }
    }

    pub fn into_error(self) -> Error {
        match self {
            Failure::Unreachable(error)
            | Failure::Lost(error)
            | Failure::Refused(error)
            | Failure::Broken(error)
            | Failure::Final(error) => error,
        }
    }
}

/// How often an operation failed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    pub failures: u32,
    /// Of these, [`Failure::Broken`].
    pub broken: u32,
}

impl Before {
    /// As it is after one more.
    pub fn and(self, failure: &Failure) -> Before {
        let broken = u32::from(matches!(failure, Failure::Broken(_)));
        Before { failures: self.failures + 1, broken: self.broken + broken }
    }
}

/// The next move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same request again, with the same sequence number, after a pause.
    Retry { after: Duration },
    /// Fetch the pool map, then the same request again, after a pause.
    Refresh { after: Duration },
    /// Tell the caller.
    Fail,
}

/// Decides the next move after a failure, with `left` until the deadline.
///
/// `random` jitters the pause, so that clients that failed together do not come back together.
pub fn next(failure: &Failure, before: Before, left: Duration, random: u64) -> Next {
    let Before { failures: attempt, broken } = before;
    // The first look at a newer map costs nothing to try at once.
    let after = if matches!(failure, Failure::Refused(error) if error.code == Code::Stale) && attempt == 0 {
        Duration::ZERO
    } else {
        pause(attempt, random)
    };
    if after >= left {
        return Next::Fail;
    }
    match failure {
        // Who is gone, or about to go, may have a successor by now.
        Failure::Unreachable(_) | Failure::Lost(_) => Next::Refresh { after },
        Failure::Refused(error) => match error.code {
            Code::Stale | Code::Unreachable | Code::NoService | Code::ShuttingDown => Next::Refresh { after },
            // Busy for a moment, or not the one to ask: the second time it is worth a look.
            Code::Again if attempt > 0 => Next::Refresh { after },
            _ if error.is_transient() => Next::Retry { after },
            _ => Next::Fail,
        },
        Failure::Broken(_) if broken < BROKEN_REPEATS_MAX => Next::Retry { after },
        Failure::Broken(_) | Failure::Final(_) => Next::Fail,
    }
}

/// Whether somebody else who has the same data may answer where this one did not: it was not there, was not sure, or its
/// copy is damaged.
pub fn another_may_know(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(_) | Failure::Lost(_) | Failure::Broken(_) => true,
        Failure::Refused(error) => {
            error.is_transient() || matches!(error.code, Code::Stale | Code::Checksum | Code::DataLoss | Code::Io)
        }
        Failure::Final(_) => false,
    }
}

/// Between half and all of `PAUSE_MIN * 2^attempt`, at most [`PAUSE_MAX`].
fn pause(attempt: u32, random: u64) -> Duration {
    let full = PAUSE_MIN.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX);
    let nanos = full.as_nanos() as u64;
    Duration::from_nanos(nanos / 2 + random % (nanos / 2))
}

/// How long the `attempt`-th try may wait for its answer, with `left` until the deadline.
///
/// A lost answer gives no sign, so waiting for it to the end would leave no time to ask again; a
/// slow one should not be asked for twice. So a quarter of the time left, and never less than
/// [`ATTEMPT_MIN`] where there is that much.
pub fn attempt_limit(left: Duration) -> Duration {
    (left / 4).max(ATTEMPT_MIN).min(left)
}

/// The last failure as its user should see it, with the time spent and whether it may have taken
/// effect all the same.
pub fn give_up(failure: Failure, attempts: u32, spent: Duration, unknown: bool) -> Error {
    let mut error = failure.into_error();
    if attempts > 1 {
        error.message = format!("{} (gave up after {attempts} attempts in {} ms)", error.message, spent.as_millis());
    }
    if unknown {
        // Whatever the last attempt met, the answer to "was it done?" is that nobody knows.
        error.code = Code::TimedOut;
        error.message.push_str("; whether it took effect is unknown");
        error.remedy = Some("look at the data before repeating it".into());
    }
    error
}

/// A result with its place prefixed: `pool 'tank': ...`. A message that names it already stays.
pub fn located<T>(result: Result<T>, name: &str, place: impl FnOnce() -> String) -> Result<T> {
    result.map_err(|mut error| {
        if name.is_empty() || !error.message.contains(name) {
            error.message = format!("{}: {}", place(), error.message);
        }
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn refused(code: Code) -> Failure {
        Failure::Refused(Error::new(code, "no"))
    }

    /// Of many attempts, most to servers that were gone, one met a damaged link: the client gave up, with time left, as if
    /// nobody there spoke the protocol. A few broken ones are enough, not a few of all.
    #[test]
    fn transient_failures_are_retried_and_final_ones_are_not() {
        let lost = Failure::Lost(Error::new(Code::Again, "gone"));
        let unreachable = Failure::Unreachable(Error::new(Code::Unreachable, "gone"));
        for failure in [refused(Code::Busy), refused(Code::Again), refused(Code::Overload)] {
            assert!(matches!(next(&failure, Before::default(), LONG, 7), Next::Retry { .. }), "{failure:?}");
        }
        for failure in [lost, unreachable, refused(Code::ShuttingDown), refused(Code::NoService)] {
            assert!(matches!(next(&failure, Before::default(), LONG, 7), Next::Refresh { .. }), "{failure:?}");
        }
        assert!(matches!(
            next(&refused(Code::Again), Before { failures: 1, broken: 0 }, LONG, 7),
            Next::Refresh { .. }
        ));
        let broken = Failure::Broken(Error::new(Code::Protocol, "noise"));
        assert!(matches!(next(&broken, Before { failures: 20, broken: 0 }, LONG, 7), Next::Retry { .. }));
        assert_eq!(next(&broken, Before { failures: 20, broken: BROKEN_REPEATS_MAX }, LONG, 7), Next::Fail);
        let closed = Failure::Final(Error::new(Code::NoHandle, "closed"));
        // Of a request that is too old nobody can tell later either: its deadline is not waited for.
        let uncertain = refused(Code::Uncertain);
        for failure in [closed, refused(Code::NotFound), refused(Code::Exists), refused(Code::Checksum), uncertain] {
            assert_eq!(next(&failure, Before::default(), LONG, 7), Next::Fail, "{failure:?}");
        }
    }

    #[test]
    fn another_copy_is_asked_for_what_is_missing_or_damaged_and_not_for_an_answer() {
        let lost = Failure::Lost(Error::new(Code::Again, "gone"));
        for failure in [lost, refused(Code::Stale), refused(Code::Again), refused(Code::Checksum)] {
            assert!(another_may_know(&failure), "{failure:?}");
        }
        let closed = Failure::Final(Error::new(Code::NoHandle, "closed"));
        for failure in [closed, refused(Code::NotFound), refused(Code::Overflow), refused(Code::Invalid)] {
            assert!(!another_may_know(&failure), "{failure:?}");
        }
    }

    #[test]
    fn a_stale_map_is_refreshed_at_once_and_then_with_pauses() {
        assert_eq!(next(&refused(Code::Stale), Before::default(), LONG, 7), Next::Refresh { after: Duration::ZERO });
        assert!(
            matches!(next(&refused(Code::Stale), Before { failures: 1, broken: 0 }, LONG, 7), Next::Refresh { after } if after >= PAUSE_MIN)
        );
    }

    #[test]
    fn pauses_grow_are_jittered_and_bounded() {
        for attempt in 0..40 {
            for random in [0, 1, u64::MAX / 2, u64::MAX] {
                let after = pause(attempt, random);
                assert!((PAUSE_MIN / 2..=PAUSE_MAX).contains(&after));
            }
        }
        assert!(pause(3, 0) > pause(1, u64::MAX) && pause(3, 0) != pause(3, 1_000_003));
    }

    #[test]
    fn no_pause_outlives_the_deadline() {
        assert_eq!(
            next(&refused(Code::Busy), Before { failures: 30, broken: 0 }, Duration::from_millis(100), 0),
            Next::Fail
        );
        assert_eq!(attempt_limit(Duration::from_secs(30)), Duration::from_millis(7500));
        assert_eq!(attempt_limit(Duration::from_secs(4)), ATTEMPT_MIN);
        assert_eq!(attempt_limit(Duration::from_millis(10)), Duration::from_millis(10));
    }

    #[test]
    fn an_unknown_outcome_is_called_unknown() {
        let error = give_up(refused(Code::Busy), 3, Duration::from_secs(2), true);
        assert_eq!(error.code, Code::TimedOut);
        assert!(error.message.contains("3 attempts in 2000 ms") && error.message.contains("unknown"), "{error}");
        let error = give_up(refused(Code::NotFound), 1, Duration::ZERO, false);
        assert_eq!((error.code, error.message.as_str()), (Code::NotFound, "no"));
    }
}

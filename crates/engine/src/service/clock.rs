//! Whether this server's clock is right: compared with the other servers', and what follows when it is not.
//!
//! Every message of membership and its answer carry four times: when it was sent and when the answer came, by the
//! asker's monotonic clock; when it was received and answered, by the other's calendar. Between them lies how far the other's
//! calendar is ahead of our monotonic clock, as an interval that holds it whatever the network does. A calendar that is set is
//! seen at once, without asking anybody: the intervals stay as they are.
//!
//! # Shape
//! ```text
//!             most agree, or this server is alone              most are elsewhere, or some
//!  Starting ------------------------------------> Right ----> Off    are and our calendar was set
//!     |  nobody answers for PATIENCE,              ^  most agree |
//!     |  and its vote alone decides                |             |
//!     |                                            +-------------+
//!     +------ somebody disagrees, and no majority agrees --------^
//! ```
//! [`Clocks`] decides, pure; [`Service::keep_clock`] does what follows. Unless it is `Right`, the hybrid clock stands
//! ([`rt::Hlc::halt`]), the targets answer nobody, and the replicas here lead nothing; they follow and vote, which needs no
//! clock. The system is told, and counts the server as excluded; when its clock is right it says hello, like any that is back.
//!
//! # Always true
//! 1. A server whose calendar is beyond [`rt::EPSILON`] of what a majority of the others agree on hands out no epochs, once
//!    it knows; until then its epochs go on as if the calendar had not been set ([`rt::Hlc::steady`]).
//! 2. Nobody is fenced for what a minority says, unless that was right until our own calendar was set.
//! 3. Whom a majority of the others outvoted is right again when more than half of them say so: two that are off by the same are
//!    no majority of three.
//!
//! # Not here
//! Setting clocks: that is chrony's or ntpd's.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use rt::EPSILON;
use tokio::sync::{Mutex, Notify};
use types::{Code, Error, Rank};
use wire::encoding::Bytes;
use wire::peer as msg;
use wire::{Opcode, Wire};

use super::Service;
use crate::target::parse;

/// How long a server that starts looks for others to compare with, when nobody answers and it is the only one that votes: the system
/// could not even exclude the dead without it. Who needs others to decide anything needs them for this.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often others are asked for the time by whoever is not sure of his.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one may take to answer that.
const ASK_MAX: Duration = Duration::from_secs(1);
/// How long a reading counts: clocks that nobody adjusts drift apart by 3 ms in it.
const FRESH: Duration = Duration::from_secs(60);
/// A narrower reading is kept so long before a wider one takes its place.
const KEEP: Duration = Duration::from_secs(10);
/// A reading of a wider interval says nothing.
const WIDTH_MAX: i64 = 500_000;
/// In a system of more servers, so many stand for all.
const ENOUGH: usize = 8;
/// So many are asked at once: some may not answer, and thousands that start together do not all ask all.
const ASKED_MAX: usize = 2 * ENOUGH;

/// Whether the clock of this server is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not known yet, since this moment of the monotonic clock.
    Starting {
        since: u64,
    },
    Right,
    /// It is so many microseconds ahead of the others' (behind, if negative).
    Off {
        ahead_micros: i64,
    },
}

/// One question for the time and its answer, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// By the asker's monotonic clock.
    pub(super) sent: u64,
    pub(super) came: u64,
    /// By the other's calendar.
    pub(super) received: u64,
    pub(super) answered: u64,
}

/// What one exchange says: how far another's calendar is ahead of our monotonic clock is between `low` and `high`.
#[derive(Clone, Copy, Debug)]
struct Reading {
    low: i64,
    high: i64,
    at: u64,
}

/// What the readings say together.
enum Verdict {
    Right,
    /// A majority agrees on another time.
    Off(i64),
    /// Some have another time, and no majority agrees with them or with us.
    Disputed(i64),
    Unknown,
}

/// What this server knows of others' clocks.
#[derive(Debug)]
pub(super) struct Clocks {
    readings: BTreeMap<Rank, Reading>,
    standing: Standing,
    /// It is off, and a majority of the others said so.
    is_outvoted: bool,
}

/// How the clock stands, and whether epochs are to go by the calendar as it stands now, wherever it was set to: a majority
/// agrees with it, or there were no epochs yet to be kept from a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    standing: Standing,
    follows: bool,
}

impl Reading {
    fn of(exchange: Exchange) -> Option<Reading> {
        let signed = |micros: u64| i64::try_from(micros).ok();
        let low = signed(exchange.answered)?.checked_sub(signed(exchange.came)?)?;
        let high = signed(exchange.received)?.checked_sub(signed(exchange.sent)?)?;
        // One that was set meanwhile contradicts itself.
        let width = high.checked_sub(low)?;
        (exchange.received <= exchange.answered && (0..=WIDTH_MAX).contains(&width)).then_some(Reading {
            low,
            high,
            at: exchange.came,
        })
    }

    fn width(&self) -> i64 {
        self.high - self.low
    }

    fn middle(&self) -> i64 {
        self.low + self.width() / 2
    }

    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.at)
    }
}

impl Clocks {
    /// Of a server that starts at `now`, by its monotonic clock.
    pub(super) fn new(now: u64) -> Clocks {
        Clocks { readings: BTreeMap::new(), standing: Standing::Starting { since: now }, is_outvoted: false }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Takes note of an exchange with a rank. What another says of its clock is its word: nonsense is ignored.
    pub(super) fn note(&mut self, rank: Rank, exchange: Exchange) {
        let Some(new) = Reading::of(exchange) else { return };
        let keeps = self.readings.get(&rank).is_some_and(|old| {
            let contradicts = new.low > old.high || new.high < old.low;
            !contradicts && old.width() < new.width() && old.age(new.at) < micros(KEEP) as u64
        });
        if !keeps {
            self.readings.insert(rank, new);
        }
    }

    /// Decides anew. `now`: the monotonic clock, `lead`: how far our calendar is ahead of it; `step`: by how much it was set
    /// since it was right, if it was; `decides`: this server's vote alone is the system's majority.
    pub(super) fn judge(
        &mut self,
        now: u64,
        lead: i64,
        step: i64,
        others: &BTreeSet<Rank>,
        decides: bool,
    ) -> Judgement {
        self.readings.retain(|rank, reading| others.contains(rank) && reading.age(now) <= micros(FRESH) as u64);
        // Who is off must be nearer to be right again: else it would come and go.
        let bound = match self.standing {
            Standing::Off { .. } => micros(EPSILON) / 2,
            Standing::Starting { .. } | Standing::Right => micros(EPSILON),
        };
        let verdict = self.verdict(lead, bound, others.len());
        let follows = matches!(verdict, Verdict::Right) || self.standing != Standing::Right;
        self.is_outvoted = match verdict {
            Verdict::Right => false,
            Verdict::Off(_) => true,
            Verdict::Disputed(_) | Verdict::Unknown => self.is_outvoted,
        };
        self.standing = match (self.standing, verdict) {
            (_, Verdict::Right) => Standing::Right,
            (_, Verdict::Off(ahead_micros)) => Standing::Off { ahead_micros },
            (Standing::Right, Verdict::Disputed(ahead_micros)) if step != 0 => Standing::Off { ahead_micros },
            (Standing::Right, Verdict::Disputed(_) | Verdict::Unknown) => Standing::Right,
            (_, Verdict::Disputed(ahead_micros)) => Standing::Off { ahead_micros },
            (Standing::Starting { since }, Verdict::Unknown)
                if decides && now.saturating_sub(since) > micros(PATIENCE) as u64 =>
            {
                Standing::Right
            }
            (known, Verdict::Unknown) => known,
        };
        Judgement { standing: self.standing, follows }
    }

    fn verdict(&self, lead: i64, bound: i64, others: usize) -> Verdict {
        if others == 0 {
            return Verdict::Right;
        }
        // So far ahead is ours, of those whose whole interval is beyond the bound.
        let mut apart: Vec<i64> = Vec::new();
        for reading in self.readings.values() {
            if reading.low.saturating_sub(lead) > bound || reading.high.saturating_sub(lead) < -bound {
                apart.push(lead.saturating_sub(reading.middle()));
            }
        }
        apart.sort_unstable();
        let asked = if self.readings.len() >= ENOUGH { self.readings.len() } else { others };
        // Of these and this server.
        let majority = asked.div_ceil(2) + 1;
        // Who was outvoted is no witness for itself.
        let needed = if self.is_outvoted { asked / 2 + 1 } else { majority - 1 };
        if self.readings.len() - apart.len() >= needed {
            return Verdict::Right;
        }
        let together =
            |first: &i64| apart.iter().filter(|ahead| (0..=2 * bound).contains(&ahead.saturating_sub(*first))).count();
        let most = apart.iter().max_by_key(|first| together(first));
        match (most, apart.get(apart.len() / 2)) {
            (Some(first), _) if together(first) >= majority => Verdict::Off(*first),
            (_, Some(middle)) => Verdict::Disputed(*middle),
            _ => Verdict::Unknown,
        }
    }
}

fn micros(time: Duration) -> i64 {
    time.as_micros() as i64
}

/// How far our calendar is ahead of that of who answered just now, in microseconds, if it is surely beyond the bound.
pub(super) fn ahead_of(sent: rt::Instant, answer: &[u8]) -> Option<i64> {
    let msg::Gossiped { received, answered } = parse(answer).ok()?;
    let came = rt::now().as_micros();
    let mut clocks = Clocks::new(came);
    clocks.note(Rank(0), Exchange { sent: sent.as_micros(), came, received, answered });
    let lead = rt::wall_micros() as i64 - came as i64;
    match clocks.judge(came, lead, 0, &BTreeSet::from([Rank(0)]), false).standing {
        Standing::Off { ahead_micros } => Some(ahead_micros),
        Standing::Starting { .. } | Standing::Right => None,
    }
}

/// How far a clock is off, as an operator reads it, and what to do about it.
pub(super) fn clock_off(ahead_micros: i64) -> Error {
    let (size, way) = (ahead_micros.unsigned_abs(), if ahead_micros > 0 { "ahead of" } else { "behind" });
    let size = match size {
        0..1_000_000 => format!("{} ms", size / 1000),
        _ => format!("{}.{} s", size / 1_000_000, size / 100_000 % 10),
    };
    let text = format!("the server's clock is off by {size}: it is {way} the others'");
    Error::new(Code::ClockOffset, text).remedy("set the clock (chrony or ntpd); the server goes on by itself")
}

/// The clock of this server, and what its targets were told because of it.
pub(super) struct Clock {
    clocks: RefCell<Clocks>,
    /// The standing has changed.
    changed: Notify,
    /// What the targets answer instead of serving, as they were told last; held by the one who tells them.
    told: Mutex<Option<Option<Code>>>,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock {
            clocks: RefCell::new(Clocks::new(rt::now().as_micros())),
            changed: Notify::new(),
            told: Mutex::default(),
        }
    }

    pub(super) fn is_right(&self) -> bool {
        self.clocks.borrow().standing() == Standing::Right
    }
}

impl Service {
    /// Decides whether the clock is right, from what is known, and has the hybrid clock stand or run at once: nothing that
    /// waits comes between a change and that.
    pub(super) fn judge_clock(&self) -> Standing {
        let others = self.known_others();
        let step = self.hlc.step_micros();
        let now = rt::now().as_micros();
        let lead = rt::wall_micros() as i64 - now as i64;
        let mut clocks = self.clock.clocks.borrow_mut();
        let before = clocks.standing();
        let Judgement { standing, follows } = clocks.judge(now, lead, step, &others, self.decides());
        drop(clocks);
        match standing {
            Standing::Starting { .. } | Standing::Off { .. } => self.hlc.halt(),
            Standing::Right => {
                if follows {
                    self.hlc.follow();
                }
                self.hlc.run();
            }
        }
        if std::mem::discriminant(&before) != std::mem::discriminant(&standing) {
            self.clock.changed.notify_waiters();
            match standing {
                Standing::Starting { .. } => {}
                Standing::Right => tracing::info!(rank = %self.rank, "the clock is right"),
                Standing::Off { ahead_micros } => {
                    let error = clock_off(ahead_micros);
                    tracing::error!(rank = %self.rank, %error, "engine_clock_drift: this server serves nobody");
                }
            }
            self.may_lead(standing == Standing::Right);
        }
        standing
    }

    /// Notes how another's calendar stood in an exchange that began at `sent`.
    pub(super) fn note_clock(&self, rank: Rank, sent: rt::Instant, answer: &[u8]) {
        let Ok(msg::Gossiped { received, answered }) = parse(answer) else { return };
        let came = rt::now().as_micros();
        let exchange = Exchange { sent: sent.as_micros(), came, received, answered };
        self.clock.clocks.borrow_mut().note(rank, exchange);
        self.judge_clock();
    }

    /// Compares this server's clock with the others', as long as it runs, and acts upon it.
    pub(super) async fn keep_clock(self: Rc<Self>) {
        loop {
            let changed = self.clock.changed.notified();
            let standing = self.judge_clock();
            // Who must be told may take long to answer; a clock that was set meanwhile is not to wait for them.
            let mut changed = std::pin::pin!(changed);
            let outcome = tokio::select! {
                biased;
                outcome = self.act_on_clock(standing) => outcome,
                () = &mut changed => continue,
            };
            if let Err(error) = &outcome {
                tracing::debug!(%error, "what follows from the clock is not done yet");
            }
            if standing == Standing::Right && outcome.is_ok() {
                // Membership brings readings, and they wake this. Alone, a calendar that is set is followed sooner or later.
                let _ = rt::timeout(FRESH, changed).await;
                continue;
            }
            self.ask_for_time().await;
            // By how much it is off differs a little each time it is asked; only another kind of standing ends the pause.
            self.judge_clock();
            let _ = rt::timeout(ASK_EVERY, changed).await;
        }
    }

    /// Asks the others for the time, at once; of many, some.
    async fn ask_for_time(&self) {
        let mut others: Vec<Rank> = self.known_others().into_iter().collect();
        while others.len() > ASKED_MAX {
            others.swap_remove(rt::random_u64() as usize % others.len());
        }
        // Who is asked may know this server from where it was.
        let address = Some((self.incarnation(), self.config.address.clone()));
        let body = msg::Gossip { from: self.rank, address, message: Bytes(Vec::new()) }.to_bytes();
        let asking = others.into_iter().map(async |rank| {
            let body = body.clone();
            let sent = rt::now();
            if let Ok(answer) = self.peers.ask(rank, Opcode::Gossip, body, ASK_MAX).await {
                self.note_clock(rank, sent, &answer);
            }
        });
        futures_util::future::join_all(asking).await;
    }

    /// Does what follows, each part as often as it takes.
    pub(super) async fn act_on_clock(&self, standing: Standing) -> Result<(), Error> {
        self.serve_or_not().await?;
        if let Standing::Off { ahead_micros } = standing {
            self.hand_over().await;
            self.withdraw(clock_off(ahead_micros)).await?;
        }
        Ok(())
    }

    /// Whether the replicas here may stand for election.
    fn may_lead(&self, may: bool) {
        self.system.group.may_lead(may);
        for slot in self.pools.borrow().values() {
            slot.group.may_lead(may);
        }
    }

    /// Has the targets here serve, or tell whoever asks why they do not: the clock is not right, or an administrator
    /// wants it so. The replicas here go on in any case.
    pub(super) async fn serve_or_not(&self) -> Result<(), Error> {
        let mut told = self.clock.told.lock().await;
        let is_stopped = self.is_current.get() && self.system.group.local(|system| system.is_stopped(self.rank));
        let refusal = match self.clock.clocks.borrow().standing() {
            Standing::Right if is_stopped => {
                let stopped = Error::new(Code::ShuttingDown, format!("rank {} was stopped", self.rank));
                Some(stopped.remedy("let it serve again: `dmg system start`"))
            }
            Standing::Right => None,
            Standing::Off { ahead_micros } => Some(clock_off(ahead_micros)),
            Standing::Starting { .. } => {
                let starting = Error::new(Code::Again, "this server starts, and compares its clock with the others'");
                Some(starting.remedy("it serves as soon as some answer; `dmg system query` says who does"))
            }
        };
        let code = refusal.as_ref().map(|refusal| refusal.code);
        if *told != Some(code) {
            // Whoever calls may stop waiting when some have heard it and others have not.
            *told = None;
            let telling = self.targets.iter().map(|target| target.set_serving(refusal.clone()));
            futures_util::future::try_join_all(telling).await?;
            *told = Some(code);
            tracing::info!(rank = %self.rank, refusal = ?code, "whether the targets serve");
        }
        Ok(())
    }

    /// Waits until the clock is right, or may be.
    pub(super) async fn clock_changes(&self) {
        self.clock.changed.notified().await;
    }
}

#[cfg(test)]
mod tests;

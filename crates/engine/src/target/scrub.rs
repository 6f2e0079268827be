//! Scrubbing: what lies on the devices is read now and then, and compared with its checksums, so that damage
//! is known while there is a copy left to mend it from.
//!
//! # Shape
//! A part of upkeep, and the last in its order. A pass goes over all values, then over all pages. It begins when
//! the shortest `scrub_freq` of the target's pools has gone by since the last one began, and reads no faster than
//! [`BYTES_PER_SECOND`].
//!
//! # Always true
//! A value is called damaged only when it is still the container's after it was read.
//!
//! # Not here
//! Copies: with replication, [`vos::Store::plan_mend`] takes the bytes of another replica. Pages that are whole in
//! memory are mended by `media`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use media::PageId;
use types::{PoolId, Span};
use vos::{Damage, Scrub, Scrubbing};

use super::Target;

/// Bytes that a pass reads in a second, at most.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// Passes do not follow one another faster than this, whatever is asked for.
const PERIOD_MIN: Duration = Duration::from_secs(1);
/// Pages that one step reads.
const PAGES_PER_STEP: usize = 16;
/// The first pass begins this long after the start, at the latest: a server that is restarted often is
/// scrubbed too.
const FIRST_AFTER: Duration = Duration::from_secs(3600);
/// Damaged places that are counted.
const KNOWN_MAX: usize = 4096;
/// Places that a report names.
const PLACES_MAX: usize = 16;

/// What scrubbing found since the target was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Whole passes.
    pub passes: u64,
    pub values: u64,
    pub bytes: u64,
    pub pages: u64,
    /// Damaged places, and of these how many were mended.
    pub damaged: u64,
    pub mended: u64,
    /// The first of them, in words.
    pub places: Vec<String>,
}

/// Scrubbing of one target.
pub(super) struct Scrubber {
    state: RefCell<State>,
}

struct State {
    periods: BTreeMap<PoolId, Span>,
    /// When the last pass began, or the target.
    begun: rt::Instant,
    phase: Phase,
    report: ScrubReport,
    /// What is in the report: damage that stays is found in every pass.
    known: BTreeSet<String>,
    /// Not before this, for the rate's sake.
    paced: rt::Instant,
}

enum Phase {
    Idle,
    Values(Scrub),
    Pages(PageId),
}

impl Default for Scrubber {
    fn default() -> Self {
        let now = rt::now();
        let state = State {
            periods: BTreeMap::new(),
            begun: now,
            phase: Phase::Idle,
            report: ScrubReport::default(),
            known: BTreeSet::new(),
            paced: now,
        };
        Scrubber { state: RefCell::new(state) }
    }
}

impl Scrubber {
    pub(super) fn set_period(&self, pool: PoolId, period: Span) {
        self.state.borrow_mut().periods.insert(pool, period);
    }

    pub(super) fn forget(&self, pool: PoolId) {
        self.state.borrow_mut().periods.remove(&pool);
    }

    pub(super) fn report(&self) -> ScrubReport {
        self.state.borrow().report.clone()
    }

    /// How long until the next step; `None`: no pool wants any.
    pub(super) fn due(&self) -> Option<Duration> {
        let state = self.state.borrow();
        let period = state.periods.values().filter_map(|period| period.duration()).min()?.max(PERIOD_MIN);
        let next = match (&state.phase, state.report.passes) {
            (Phase::Idle, 0) => state.begun + period.min(FIRST_AFTER),
            (Phase::Idle, _) => state.begun + period,
            _ => state.paced,
        };
        let now = rt::now();
        Some(if next > now { next - now } else { Duration::ZERO })
    }
}

impl State {
    fn found(&mut self, place: String, is_mended: bool) {
        if self.known.len() >= KNOWN_MAX || !self.known.insert(place.clone()) {
            return;
        }
        self.report.damaged += 1;
        self.report.mended += u64::from(is_mended);
        if self.report.places.len() < PLACES_MAX {
            self.report.places.push(place);
        }
    }

    fn read(&mut self, bytes: u64) {
        self.paced = rt::now() + Duration::from_micros(bytes * 1_000_000 / BYTES_PER_SECOND);
    }
}

impl Target {
    /// One step of a pass, when one is due; true when it did something.
    pub(super) async fn scrub_some(&self) -> vos::Result<bool> {
        if self.scrubber.due() != Some(Duration::ZERO) {
            return Ok(false);
        }
        let phase = std::mem::replace(&mut self.scrubber.state.borrow_mut().phase, Phase::Idle);
        let next = match phase {
            Phase::Idle => {
                self.scrubber.state.borrow_mut().begun = rt::now();
                Phase::Values(Scrub::default())
            }
            Phase::Values(scrub) => self.scrub_values(scrub).await?,
            Phase::Pages(from) => self.scrub_pages(from).await?,
        };
        self.scrubber.state.borrow_mut().phase = next;
        Ok(true)
    }

    async fn scrub_values(&self, mut scrub: Scrub) -> vos::Result<Phase> {
        let (values, bytes) = (scrub.values, scrub.bytes);
        let step = self.store.borrow_mut().scrub(&mut scrub);
        let damage = match step {
            Ok(Scrubbing::Look) => None,
            Ok(Scrubbing::End) => return Ok(Phase::Pages(PageId(0))),
            Ok(Scrubbing::Damaged(damage)) => Some(damage),
            Ok(Scrubbing::Value(value)) => value.verify(&self.media).await?,
            // Pages are looked at later, and say which of them it is.
            Err(vos::Error::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some(damage) = damage
            && self.store.borrow_mut().is_damaged(&damage)?
        {
            self.report_damage(&damage);
        }
        let state = &mut *self.scrubber.state.borrow_mut();
        state.report.values += scrub.values - values;
        state.report.bytes += scrub.bytes - bytes;
        state.read(scrub.bytes - bytes);
        Ok(Phase::Values(scrub))
    }

    fn report_damage(&self, damage: &Damage) {
        let Damage { container, place, fault, .. } = damage;
        tracing::error!(target_index = %self.index, %container, place, fault, "a stored value is damaged");
        self.scrubber.state.borrow_mut().found(format!("container {container}, {place}: {fault}"), false);
    }

    async fn scrub_pages(&self, from: PageId) -> vos::Result<Phase> {
        let found = self.media.scrub_pages(from, PAGES_PER_STEP).await?;
        let state = &mut *self.scrubber.state.borrow_mut();
        state.report.pages += found.pages;
        for (error, is_mended) in found.damaged {
            tracing::error!(target_index = %self.index, %error, is_mended, "a page on the device is damaged");
            state.found(error.to_string(), is_mended);
        }
        // A step that found a checkpoint in its way comes again, a little later.
        state.read(found.pages.max(PAGES_PER_STEP as u64) * media::PAGE_BYTES as u64);
        Ok(match found.next {
            Some(next) => Phase::Pages(next),
            None => {
                state.report.passes += 1;
                Phase::Idle
            }
        })
    }
}

//! Upkeep of a store, in small steps: history is forgotten, what nobody can see goes, small extents are
//! joined.
//!
//! # Not here
//! When, and how much at once: the engine. Which versions go: `aggregate`; which extents are joined:
//! `coalesce`.

use media::Reserve;
use types::{ContainerId, Epoch};

use crate::coalesce::{self, JoinLimits, Looked};
use crate::error::Result;
use crate::intent::SPLIT_PAGES;
use crate::intent::oldest;
use crate::maintain;
use crate::record::{self, Record, kind};
use crate::request::Origin;
use crate::rewrite::{self, Rewrite, Rewriting, Run};
use crate::shard::Walk;
use crate::store::Store;
use media::Lsn;

impl Store {
    /// Forgets the history of a container before `horizon`, but for its snapshots: from now on it can be
    /// read there no more, nothing is written at or before it, and `maintain` gives space back. A horizon
    /// never goes back, and stays below transactions that are not decided.
    ///
    /// # Errors
    /// `NoContainer`; of the log.
    pub fn advance(&mut self, container: ContainerId, horizon: Epoch) -> Result<Option<Lsn>> {
        let shard = self.catalog.shard(container)?;
        let oldest = oldest(self.catalog.intents.of(shard.tree.owner));
        let horizon = oldest.map_or(horizon, |epoch| horizon.min(Epoch(epoch.0 - 1)));
        if horizon <= shard.horizon || horizon == Epoch::MAX {
            return Ok(None);
        }
        self.change(Origin::default(), Reserve::Critical, &Record::Advance { container, horizon }).map(Some)
    }

    /// Whether anything was written since the horizon was last advanced, so that advancing it again would
    /// give something back.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn is_behind(&self, container: ContainerId) -> Result<bool> {
        let shard = self.catalog.shard(container)?;
        Ok(shard.max_epoch() > shard.horizon)
    }

    /// Does up to `steps` small steps of deferred deletion (each well under a millisecond); true when more
    /// is left.
    ///
    /// # Errors
    /// `Media(LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn maintain(&mut self, steps: usize) -> Result<bool> {
        for _ in 0..steps {
            self.running()?;
            let Some(record) = maintain::next(&self.catalog) else {
                return Ok(false);
            };
            self.change(Origin::default(), Reserve::Critical, &record)?;
        }
        Ok(maintain::is_wanted(&self.catalog))
    }

    /// Changes what [`Store::plan_rewrite`] takes for small, and how much it looks at.
    pub fn set_join_limits(&mut self, limits: JoinLimits) {
        self.join_limits = limits;
    }

    /// Looks for small extents to join, a small step at a time; the answer is what to do next. Reserved
    /// blocks count against the pool's quota.
    ///
    /// # Errors
    /// `NoSpace`, `DeviceFull`, `Media(Busy)`: there is no room to join what was found; the next call finds it
    /// again. `Corrupt`.
    pub fn plan_rewrite(&mut self) -> Result<Rewriting> {
        self.running()?;
        let Some(container) = coalesce::next(self.catalog.shards.values()) else {
            return Ok(Rewriting::Nothing);
        };
        let Store { media, catalog, join_limits, .. } = self;
        let mut pages = media.pages();
        pages.begin_op();
        let (looked, until) = catalog.with_shard(container, |shard| {
            let (since, until) = (shard.coalesced, shard.aggregated);
            let mut walk = shard.walk.take().unwrap_or_else(|| Walk::new(since, until));
            let looked = coalesce::look(shard, &pages, &mut walk, join_limits)?;
            let until = walk.until;
            shard.walk = Some(walk);
            Ok((looked, until))
        })?;
        drop(pages);
        let plan = match looked {
            Looked::More => return Ok(Rewriting::Look),
            Looked::End => {
                self.change(Origin::default(), Reserve::Critical, &Record::Coalesced { container, until })?;
                return Ok(Rewriting::Look);
            }
            Looked::Found(plan) => plan,
        };
        let rewrite = Rewrite::new(container, plan, self.media.pin(), |bytes| self.reserve_bulk(container, bytes));
        if rewrite.is_err() {
            self.catalog.with_shard(container, |shard| {
                // Nothing came of it: look there again.
                shard.walk.iter_mut().for_each(|walk| walk.seen.clear());
                Ok(())
            })?;
        }
        rewrite.map(Rewriting::Found)
    }

    /// Swaps extents whose data was copied. Nothing happens when what should go is no longer as it was.
    ///
    /// # Errors
    /// `NoSpace`, `DeviceFull`; `Media(Busy | LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn rewrite(&mut self, rewrite: &Rewrite) -> Result<Option<Lsn>> {
        self.running()?;
        let Store { media, catalog, scratch, .. } = self;
        let Ok(shard) = catalog.shard(rewrite.container) else { return Ok(None) };
        let mut pages = media.pages();
        pages.begin_op();
        if shard.rollback.is_some() || !rewrite.is_current(shard, &pages)? {
            return Ok(None);
        }
        let wanted = (rewrite.runs.len() as u64 + SPLIT_PAGES) * media::PAGE_BYTES as u64;
        catalog.pool(shard.pool)?.admit(shard.pool, wanted)?;
        record::rewrite::encode(&mut scratch.log, rewrite);
        let lsn = media.append(kind::REWRITE, &[&scratch.log], Reserve::Normal)?;
        rewrite.runs.iter().filter_map(Run::reservation).for_each(|at| at.take(media));
        let Rewrite { akey, parts, record_bytes, .. } = rewrite;
        let runs = rewrite.runs.iter().map(|run| (run.extent, run.version, run.payload()));
        let done = catalog.with_shard(rewrite.container, |shard| {
            rewrite::apply(shard, &mut pages, akey, parts, *record_bytes, runs, scratch)
        });
        drop(pages);
        self.settle(lsn, done)?;
        Ok(Some(lsn))
    }

    /// Whether [`Store::maintain`] has something to do.
    pub fn wants_maintenance(&self) -> bool {
        maintain::is_wanted(&self.catalog)
    }
}

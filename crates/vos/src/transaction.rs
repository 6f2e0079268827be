//! Changes of placement groups on one target: prepare, then commit or abort. Who decides them is elsewhere.
//!
//! # What others see of an intent
//! - The plain calls of a store (`fetch`, `update`, lists) never see one: they answer from committed state.
//!   Whoever leads the group calls them when the intents in the way are known to be undecided.
//! - The checked calls (`admit_read`, `update_in`, `punch_in`, `prepare_in`) answer `InProgress` when an
//!   intent decides their answer.
//! - Record sizes are everybody's: an update that an intent may make wrong is `InProgress`.
//! - Maintenance never sees one. What it may not forget yet: nothing below [`Store::oldest_intent`] is final.

use media::{Lsn, Pages, Reserve};
use types::{ContainerId, Epoch, PoolId};

use crate::catalog::Catalog;
use crate::commit::{self, wrong_state};
use crate::error::{Error, Result};
use crate::intent::{Intent, oldest};
use crate::record::change::{OPS_MAX, encode_prepare};
use crate::record::{Record, kind};
use crate::request::{ChangeId, ChangeState, NOTE_BYTES_MAX, Op, Origin, Prepare, Standing, Term, Undecided, Update};
use crate::standing::{self, Mark, OUTCOMES_MAX};
use crate::store::{SMALL_RECORDS, Store, check_reservations, each_reservation};
use crate::{prepare, punch, update};

impl Store {
    /// Keeps the operations of a change beside the tree until it is decided; all of them or none. Conditions hold at
    /// `epoch` as committed, and after the operations before them. Knows no conflicts: see [`Store::prepare_in`].
    ///
    /// # Errors
    /// As [`Store::update`]; `ChangeState` when the change is known already; `OldTerm` when the target follows a later
    /// leader; `InProgress` when another change decides whether record sizes fit; `IntentsFull`.
    pub fn prepare(&mut self, wanted: &Prepare<'_>, epoch: Epoch) -> Result<Lsn> {
        self.keep(wanted, epoch, Judged::Here)
    }

    /// As [`Store::prepare`], of a change that the group's leader has judged: conditions and record sizes are what they
    /// were there, whatever is undecided or missing here. `epoch` is this change's alone, so that every member gives it
    /// the same version, in whatever order changes come.
    ///
    /// # Errors
    /// As [`Store::prepare`], but nothing of conditions and record sizes.
    pub fn prepare_judged(&mut self, wanted: &Prepare<'_>, epoch: Epoch) -> Result<Lsn> {
        self.keep(wanted, epoch, Judged::ByLeader)
    }

    fn keep(&mut self, wanted: &Prepare<'_>, epoch: Epoch, judged: Judged) -> Result<Lsn> {
        self.running()?;
        validate(wanted)?;
        let Prepare { change, container, origin, note, ops } = *wanted;
        let Store { media, catalog, scratch, .. } = self;
        let shard = catalog.shard(container)?;
        let (owner, pool) = (shard.tree.owner, shard.pool);
        match state(catalog, pool, change) {
            ChangeState::Unknown => {}
            state => return Err(wrong_state(change, state)),
        }
        let known = catalog.standings.mark(pool, change.group).term;
        if change.term < known {
            return Err(Error::OldTerm { known });
        }
        check_reservations(updates(ops), pool)?;
        let version = match judged {
            Judged::Here => shard.next_version(epoch)?,
            Judged::ByLeader => shard.leaders_version(epoch)?,
        };
        if version.minor.checked_add(ops.len() as u16).is_none() {
            return Err(Error::EpochFull(epoch));
        }
        let mut pages = media.pages();
        pages.begin_op();
        let mut intent = Intent::new(container, version, origin, note);
        for op in ops {
            if judged == Judged::Here {
                prepare::plan(shard, &pages, &catalog.intents, &intent, op)?;
            }
            intent.add(op);
        }
        encode_prepare(&mut scratch.log, version, wanted);
        let parts = scratch.log.len().div_ceil(commit::PART_BYTES) as u64;
        let changed = intent.records + parts;
        if changed > SMALL_RECORDS as u64 && changed * 2 > pages.usage().budget {
            return Err(Error::Invalid("the change is larger than the target's page memory can take at once"));
        }
        if !catalog.intents.has_room(intent.touches.len()) || !has_room_for_outcome(catalog) {
            return Err(Error::IntentsFull);
        }
        // As alone, deleting always finds room.
        let reserve = if updates(ops).next().is_some() { Reserve::Normal } else { Reserve::Critical };
        if reserve == Reserve::Normal {
            catalog.pool(pool)?.admit(pool, intent.quota_pages() * media::PAGE_BYTES as u64)?;
        }
        shard.touch(&pages)?;
        catalog.own.touch(&pages)?;
        commit::touch_parts(catalog, &pages, owner, change, parts as u32)?;
        media.promise(catalog.intents.promised() + intent.promised_pages());
        let logged = media.append(kind::PREPARE, &[&scratch.log], reserve);
        let lsn = logged.inspect_err(|_| media.promise(catalog.intents.promised()))?;
        for update in updates(ops) {
            each_reservation(update, &mut |reservation| reservation.take(media));
        }
        let done = commit::apply_prepare(catalog, &mut pages, container, change, intent, &scratch.log);
        drop(pages);
        self.settle(lsn, done)?;
        Ok(lsn)
    }

    /// Does what a change prepared, in one step; from now on its request took effect. Again, it does nothing; the answer
    /// is then a position behind the first commit. Always finds room, whatever the quota.
    ///
    /// # Errors
    /// `ChangeState` when it is neither prepared nor committed; `NoPool`; `Media(Busy | LogFull)`: wait for
    /// `relieved`; `Corrupt`: in the way.
    pub fn commit(&mut self, pool: PoolId, change: ChangeId) -> Result<Lsn> {
        self.running()?;
        let Store { media, catalog, .. } = self;
        catalog.pool(pool)?;
        let Some((_, intent)) = catalog.intents.find(pool, change) else {
            return match catalog.standings.state(pool, change) {
                ChangeState::Committed { .. } => Ok(self.last_lsn()),
                state => Err(wrong_state(change, state)),
            };
        };
        if intent.records > SMALL_RECORDS as u64
            && let Err(busy @ media::Error::Busy { .. }) = media.admit(Reserve::Normal)
            && media.pressure()
        {
            // A large one must not be the last straw for the pages in memory; it has time.
            return Err(busy.into());
        }
        let promised = Reserve::Promised { pages: intent.promised_pages() };
        let touch = |catalog: &Catalog, pages: &Pages| commit::touch_decision(catalog, pages, pool, change, true);
        self.decide(touch, promised, &Record::Commit { pool, change })
    }

    /// Logs and does what ends a change, or notes something of its group.
    fn decide(
        &mut self,
        touch: impl FnOnce(&Catalog, &Pages) -> Result<()>,
        reserve: Reserve,
        record: &Record<'_>,
    ) -> Result<Lsn> {
        let lsn = self.change_after(touch, Origin::default(), reserve, record)?;
        self.keep_promise();
        Ok(lsn)
    }

    /// Forgets what a change prepared, and gives its blocks back. One that is not known here is aborted all the
    /// same: should its prepare come late, it is refused.
    ///
    /// # Errors
    /// `ChangeState` when it is committed; `NoPool`; `IntentsFull`, for one that is not known: settle others first;
    /// `Media(LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn abort(&mut self, pool: PoolId, change: ChangeId) -> Result<Lsn> {
        self.running()?;
        let catalog = &self.catalog;
        catalog.pool(pool)?;
        match state(catalog, pool, change) {
            ChangeState::Aborted | ChangeState::Settled => return Ok(self.last_lsn()),
            state @ ChangeState::Committed { .. } => return Err(wrong_state(change, state)),
            ChangeState::Unknown if !has_room_for_outcome(catalog) => return Err(Error::IntentsFull),
            ChangeState::Prepared { .. } | ChangeState::Unknown => {}
        }
        let touch = |catalog: &Catalog, pages: &Pages| commit::touch_decision(catalog, pages, pool, change, false);
        self.decide(touch, Reserve::Promised { pages: 0 }, &Record::Abort { pool, change })
    }

    /// The target follows the leader of `term` from now on: changes of earlier terms are not prepared any more.
    /// A term that it has adopted before changes nothing.
    ///
    /// # Errors
    /// `OldTerm`; `NoPool`; `Media(LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn adopt(&mut self, pool: PoolId, group: u32, term: Term) -> Result<Lsn> {
        let mark = self.mark(pool, group)?;
        match term.cmp(&mark.term) {
            std::cmp::Ordering::Less => Err(Error::OldTerm { known: mark.term }),
            std::cmp::Ordering::Equal => Ok(self.last_lsn()),
            std::cmp::Ordering::Greater => {
                self.mark_to(pool, Mark { term, ..mark }, &Record::Adopt { pool, group, term })
            }
        }
    }

    /// Every member knows how the changes of a group ended, up to `change`: outcomes up to there are forgotten, in steps. A
    /// mark that is not above the one it has changes nothing.
    ///
    /// # Errors
    /// `ChangeState` when one of them waits here for its decision; `NoPool`; `Media(LogFull)`: wait for `relieved`;
    /// `Corrupt`.
    pub fn settle_upto(&mut self, pool: PoolId, change: ChangeId) -> Result<Lsn> {
        let mark = self.mark(pool, change.group)?;
        if change <= mark.settled {
            return Ok(self.last_lsn());
        }
        let first = self.catalog.intents.of_group(pool, change.group).next();
        if let Some((waiting, intent)) = first.filter(|(waiting, _)| *waiting <= change) {
            return Err(wrong_state(waiting, ChangeState::Prepared { epoch: intent.version.epoch }));
        }
        loop {
            let step = self.catalog.standings.next_settled(pool, change);
            let record = Record::Settle { pool, change: step };
            let lsn = self.mark_to(pool, Mark { settled: step, ..mark }, &record)?;
            if step == change {
                return Ok(lsn);
            }
        }
    }

    /// One step of forgetting what the target knows of a group's changes up to `change`, undecided ones included: it was
    /// no member meanwhile, others decided without it, and its data will be theirs. At last they count as settled. The
    /// flag says that there is more to do.
    ///
    /// # Errors
    /// `NoPool`; `Media(LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn forget_upto(&mut self, pool: PoolId, change: ChangeId) -> Result<(Lsn, bool)> {
        let mark = self.mark(pool, change.group)?;
        let has_more = standing::has_upto(&self.catalog, pool, change);
        if !has_more && change <= mark.settled {
            return Ok((self.last_lsn(), false));
        }
        let touch = |catalog: &Catalog, pages: &Pages| commit::touch_forget(catalog, pages, pool, change);
        let lsn = self.decide(touch, Reserve::Promised { pages: 0 }, &Record::Forget { pool, change })?;
        Ok((lsn, standing::has_upto(&self.catalog, pool, change)))
    }

    /// One step of forgetting a group that the target is no member of any more; the flag says that there is more to do.
    ///
    /// # Errors
    /// As [`Store::forget_upto`].
    pub fn leave_group(&mut self, pool: PoolId, group: u32) -> Result<(Lsn, bool)> {
        self.mark(pool, group)?;
        let last = ChangeId { group, term: Term { interval: u32::MAX, round: u32::MAX }, number: u64::MAX };
        match standing::has_upto(&self.catalog, pool, last) {
            true => Ok((self.forget_upto(pool, last)?.0, true)),
            false if !self.catalog.standings.is_marked(pool, group) => Ok((self.last_lsn(), false)),
            false => {
                let touch = |catalog: &Catalog, pages: &Pages| {
                    standing::touch_mark(catalog, pages, pool, catalog.standings.mark(pool, group))
                };
                let lsn = self.decide(touch, Reserve::Promised { pages: 0 }, &Record::Leave { pool, group })?;
                Ok((lsn, false))
            }
        }
    }

    fn mark(&self, pool: PoolId, group: u32) -> Result<Mark> {
        self.running()?;
        self.catalog.pool(pool)?;
        Ok(self.catalog.standings.mark(pool, group))
    }

    fn mark_to(&mut self, pool: PoolId, mark: Mark, record: &Record<'_>) -> Result<Lsn> {
        let touch = |catalog: &Catalog, pages: &Pages| standing::touch_mark(catalog, pages, pool, mark);
        self.decide(touch, Reserve::Promised { pages: 0 }, record)
    }

    /// What the target knows of a placement group: what a leader that begins asks every member.
    ///
    /// # Errors
    /// `NoPool`.
    pub fn standing(&self, pool: PoolId, group: u32) -> Result<Standing> {
        self.catalog.pool(pool)?;
        let Mark { term, settled } = self.catalog.standings.mark(pool, group);
        let undecided = |(change, intent): (ChangeId, &Intent)| Undecided {
            change,
            epoch: intent.version.epoch,
            note: intent.note.clone(),
        };
        let prepared = self.catalog.intents.of_group(pool, group).map(undecided).collect();
        Ok(Standing { term, settled, prepared, decided: self.catalog.standings.decided(pool, group).collect() })
    }

    /// The pool of a container.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn pool_of(&self, container: ContainerId) -> Result<PoolId> {
        self.catalog.shard(container).map(|shard| shard.pool)
    }

    /// Placement groups of a pool of which the target knows anything, ascending.
    ///
    /// # Errors
    /// `NoPool`.
    pub fn groups(&self, pool: PoolId) -> Result<Vec<u32>> {
        self.catalog.pool(pool)?;
        let mut groups = self.catalog.standings.groups(pool);
        groups.extend(self.catalog.intents.groups(pool));
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }

    /// What became of a change here.
    ///
    /// # Errors
    /// `NoPool`.
    pub fn resolve(&self, pool: PoolId, change: ChangeId) -> Result<ChangeState> {
        self.catalog.pool(pool)?;
        Ok(state(&self.catalog, pool, change))
    }

    /// Changes that wait for a decision, with their epochs.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn prepared(&self, container: ContainerId) -> Result<Vec<(ChangeId, Epoch)>> {
        let owner = self.catalog.shard(container)?.tree.owner;
        Ok(self.catalog.intents.of(owner).map(|(change, intent)| (change, intent.version.epoch)).collect())
    }

    /// The lowest epoch of an undecided change: below it, history is final. `None` when there is none.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn oldest_intent(&self, container: ContainerId) -> Result<Option<Epoch>> {
        let owner = self.catalog.shard(container)?.tree.owner;
        Ok(oldest(self.catalog.intents.of(owner)))
    }
}

/// Who has judged the conditions of a change, and its record sizes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    Here,
    ByLeader,
}

/// Refuses what breaks a limit, whatever the store holds.
pub(crate) fn validate(wanted: &Prepare<'_>) -> Result<()> {
    if wanted.ops.is_empty() || wanted.ops.len() > OPS_MAX {
        return Err(Error::Invalid("a change has between 1 and 256 operations on a target"));
    }
    if wanted.note.len() > NOTE_BYTES_MAX {
        return Err(Error::Invalid("the note of a change has at most 1024 bytes"));
    }
    wanted.ops.iter().try_for_each(|op| match op {
        Op::Update(update) => update::validate(update).map(drop),
        Op::Punch(punch) => punch::validate(punch),
    })
}

fn state(catalog: &Catalog, pool: PoolId, change: ChangeId) -> ChangeState {
    match catalog.intents.find(pool, change) {
        Some((_, intent)) => ChangeState::Prepared { epoch: intent.version.epoch },
        None => catalog.standings.state(pool, change),
    }
}

/// Whether one more change can be known: what is prepared will have an outcome.
fn has_room_for_outcome(catalog: &Catalog) -> bool {
    catalog.standings.outcomes() + catalog.intents.len() < OUTCOMES_MAX
}

fn updates<'a>(ops: &'a [Op<'a>]) -> impl Iterator<Item = &'a Update<'a>> {
    ops.iter().filter_map(|op| match op {
        Op::Update(update) => Some(update),
        Op::Punch(_) => None,
    })
}

//! Transactions on one target: prepare, then commit or abort. Those that span targets are led elsewhere.
//!
//! # What others see of an intent
//! - The plain calls of a store (`fetch`, `update`, lists) never see one: they answer from committed state.
//!   Whoever leads the transactions calls them when the intents in the way are known to be undecided.
//! - The checked calls (`admit_read`, `update_in`, `punch_in`, `prepare_in`) answer `InProgress` when an
//!   intent decides their answer.
//! - Record sizes are everybody's: an update that an intent may make wrong is `InProgress`.
//! - Maintenance never sees one. What it may not forget yet: nothing below [`Store::oldest_intent`] is final.

use media::{Lsn, Reserve};
use types::{ContainerId, Epoch};

use crate::commit::{self, wrong_state};
use crate::error::{Error, Result};
use crate::intent::{Intent, oldest};
use crate::record::tx::{OPS_MAX, encode_prepare};
use crate::record::{Record, kind};
use crate::request::{Op, Origin, TxId, TxState, Update};
use crate::store::{SMALL_RECORDS, Store, check_reservations, each_reservation};
use crate::{prepare, punch, update};

impl Store {
    /// Keeps `ops` beside the tree until `tx` is decided; all of them or none. Conditions hold at `epoch`
    /// as committed, and after the operations before them. Knows no conflicts: see [`Store::prepare_in`].
    ///
    /// # Errors
    /// As [`Store::update`]; `TxState` when the transaction is known already; `InProgress` when another one
    /// decides whether record sizes fit; `IntentsFull`.
    pub fn prepare(
        &mut self,
        tx: TxId,
        container: ContainerId,
        epoch: Epoch,
        origin: Origin,
        ops: &[Op<'_>],
    ) -> Result<Lsn> {
        self.running()?;
        if ops.is_empty() || ops.len() > OPS_MAX {
            return Err(Error::Invalid("a transaction has between 1 and 256 operations on a target"));
        }
        for op in ops {
            match op {
                Op::Update(update) => drop(update::validate(update)?),
                Op::Punch(punch) => punch::validate(punch)?,
            }
        }
        let Store { media, catalog, scratch, .. } = self;
        let shard = catalog.shard(container)?;
        let owner = shard.tree.owner;
        match catalog.intents.state(owner, tx) {
            TxState::Unknown => {}
            state => return Err(wrong_state(tx, state)),
        }
        check_reservations(updates(ops), shard.pool)?;
        let version = shard.next_version(epoch)?;
        if version.minor.checked_add(ops.len() as u16).is_none() {
            return Err(Error::EpochFull(epoch));
        }
        let mut pages = media.pages();
        pages.begin_op();
        let mut intent = Intent::new(version, &mut std::iter::empty());
        for op in ops {
            prepare::plan(shard, &pages, &catalog.intents, tx, &intent, op)?;
            intent.add(op);
        }
        encode_prepare(&mut scratch.log, container, origin, tx, version, ops);
        let parts = scratch.log.len().div_ceil(commit::PART_BYTES) as u64;
        let changed = intent.records + parts;
        if changed > SMALL_RECORDS as u64 && changed * 2 > pages.usage().budget {
            return Err(Error::Invalid("the transaction is larger than the target's page memory can take at once"));
        }
        if !catalog.intents.has_room(intent.touches.len()) {
            return Err(Error::IntentsFull);
        }
        let wanted = commit::pages_of(&intent) * media::PAGE_BYTES as u64;
        catalog.pool(shard.pool)?.admit(shard.pool, wanted)?;
        commit::touch_parts(catalog, &pages, owner, tx, parts as u32)?;
        catalog.touch_session(&pages, origin)?;
        let lsn = media.append(kind::PREPARE, &[&scratch.log], Reserve::Normal)?;
        for update in updates(ops) {
            each_reservation(update, &mut |reservation| reservation.take(media));
        }
        let done = commit::apply_prepare(catalog, &mut pages, container, tx, intent, &scratch.log)
            .and_then(|()| catalog.note(&mut pages, origin, version.epoch));
        drop(pages);
        self.settle(lsn, done)?;
        Ok(lsn)
    }

    /// Does what `tx` prepared, in one step. Again, it does nothing; the answer is then a position behind the
    /// first commit. Always finds room, whatever the quota.
    ///
    /// # Errors
    /// `TxState` when it is neither prepared nor committed; `NoContainer`; `Media(Busy | LogFull)`: wait for
    /// `relieved`; `Corrupt`: in the way.
    pub fn commit(&mut self, tx: TxId, container: ContainerId, origin: Origin) -> Result<Lsn> {
        self.running()?;
        let Store { media, catalog, .. } = self;
        let owner = catalog.shard(container)?.tree.owner;
        let intent = match catalog.intents.get(owner, tx) {
            Some(intent) => intent,
            None => match catalog.intents.state(owner, tx) {
                TxState::Committed { .. } => return Ok(self.last_lsn()),
                state => return Err(wrong_state(tx, state)),
            },
        };
        {
            let mut pages = media.pages();
            pages.begin_op();
            commit::touch_parts(catalog, &pages, owner, tx, intent.parts)?;
            commit::touch_tree(catalog, &pages, container, intent)?;
            let stored = commit::stored(catalog, &pages, owner, tx, intent.parts)?;
            if commit::decode(&stored).is_none() {
                return Err(Error::Corrupt { place: format!("intent {tx}"), fault: "cannot be read".into() });
            }
        }
        if intent.records > SMALL_RECORDS as u64
            && let Err(busy @ media::Error::Busy { .. }) = media.admit(Reserve::Normal)
            && media.pressure()
        {
            // A large one must not be the last straw for the pages in memory; it has time.
            return Err(busy.into());
        }
        self.change(origin, Reserve::Critical, &Record::Commit { container, tx })
    }

    /// Forgets what `tx` prepared, and gives its blocks back. One that is not known here is aborted all the
    /// same: should its prepare come late, it is refused.
    ///
    /// # Errors
    /// `TxState` when it is committed; `NoContainer`; `Media(LogFull)`: wait for `relieved`; `Corrupt`.
    pub fn abort(&mut self, tx: TxId, container: ContainerId, origin: Origin) -> Result<Lsn> {
        self.running()?;
        let Store { media, catalog, .. } = self;
        let owner = catalog.shard(container)?.tree.owner;
        match catalog.intents.state(owner, tx) {
            TxState::Aborted => return Ok(self.last_lsn()),
            state @ TxState::Committed { .. } => return Err(wrong_state(tx, state)),
            TxState::Prepared { .. } | TxState::Unknown => {}
        }
        {
            let mut pages = media.pages();
            pages.begin_op();
            let parts = catalog.intents.get(owner, tx).map_or(0, |intent| intent.parts);
            commit::touch_parts(catalog, &pages, owner, tx, parts)?;
        }
        self.change(origin, Reserve::Critical, &Record::Abort { container, tx })
    }

    /// What became of `tx` here. Outcomes are kept for the last 1024 transactions of a container.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn resolve(&self, tx: TxId, container: ContainerId) -> Result<TxState> {
        Ok(self.catalog.intents.state(self.catalog.shard(container)?.tree.owner, tx))
    }

    /// Transactions that wait for a decision, with their epochs.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn prepared(&self, container: ContainerId) -> Result<Vec<(TxId, Epoch)>> {
        let owner = self.catalog.shard(container)?.tree.owner;
        Ok(self.catalog.intents.of(owner).map(|(tx, intent)| (tx, intent.version.epoch)).collect())
    }

    /// The lowest epoch of an undecided transaction: below it, history is final. `None` when there is none.
    ///
    /// # Errors
    /// `NoContainer`.
    pub fn oldest_intent(&self, container: ContainerId) -> Result<Option<Epoch>> {
        let owner = self.catalog.shard(container)?.tree.owner;
        Ok(oldest(self.catalog.intents.of(owner)))
    }
}

fn updates<'a>(ops: &'a [Op<'a>]) -> impl Iterator<Item = &'a Update<'a>> {
    ops.iter().filter_map(|op| match op {
        Op::Update(update) => Some(update),
        Op::Punch(_) => None,
    })
}

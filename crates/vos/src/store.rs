//! One target's versioned store: the centre, which only dispatches.
//!
//! # Life of a change
//! Look (conditions, sizes, quota, every page on the way) -> append the log record -> apply it to the tree.
//! All in one call without a wait. What can be refused is refused before the record exists, so nothing is
//! ever half done; recovery calls the same `apply` functions with the records it reads back.

use media::{Lsn, Pages, Reserve};
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId, PoolId};

use crate::catalog::Catalog;
use crate::check::{self, Report};
use crate::coalesce::JoinLimits;
use crate::commit;
use crate::conflict::timestamps::Reads;
use crate::diff::{self, DiffAnchor, Difference};
use crate::error::{Error, Result};
use crate::intent::SPLIT_PAGES;
use crate::record::{self, Record, kind};
use crate::request::{
    AkeyRead, ArrayEnd, ArrayTail, ContainerInfo, Direction, Edge, FetchPlan, ListPart, ListedAkey, ListedExtent,
    ListedObject, Listing, Origin, Payload, PoolSpace, Punch, Update, ValueRead, ValueWrite,
};
use crate::shard::SNAPSHOTS_MAX;
use crate::space::Reservation;
use crate::update::{self, Scratch};
use crate::walk::{Visitor, WalkAnchor};
use crate::{aggregate, copy, fetch, list, maintain, node, prepare, punch, query, rewrite, staged, standing, walk};

/// Changes of more records than this must fit the page budget twice.
pub(crate) const SMALL_RECORDS: usize = 16;

/// One target's versioned store. Synchronous: no call waits for anything but page reads.
pub struct Store {
    pub(crate) media: media::Store,
    pub(crate) catalog: Catalog,
    pub(crate) scratch: Scratch,
    pub(crate) reads: Reads,
    pub(crate) join_limits: JoinLimits,
    /// A change failed after its record was logged: memory is behind the log, and only recovery mends it.
    is_stopped: bool,
}

impl Store {
    /// Makes an empty store on a freshly formatted `media` store.
    ///
    /// # Errors
    /// Of `media`.
    pub fn format(media: media::Store) -> Result<Store> {
        let mut pages = media.pages();
        pages.set_judge(node::is_whole);
        pages.begin_op();
        let (catalog, root) = Catalog::create(&mut pages)?;
        drop(pages);
        media.set_root(&root)?;
        Ok(Store::assemble(media, catalog, Epoch::ZERO))
    }

    pub(crate) fn assemble(media: media::Store, mut catalog: Catalog, read_before: Epoch) -> Store {
        catalog.sessions.set_capacity(media.usage().space.capacity);
        let reads = Reads::new(read_before);
        let (scratch, join_limits) = (Scratch::default(), JoinLimits::default());
        Store { media, catalog, scratch, reads, join_limits, is_stopped: false }
    }

    /// What it is made of, for those that look at all of it.
    pub(crate) fn parts_ref(&self) -> (&media::Store, &Catalog) {
        (&self.media, &self.catalog)
    }

    /// What it is made of, for repair.
    pub(crate) fn parts_mut(&mut self) -> (&media::Store, &mut Catalog) {
        (&self.media, &mut self.catalog)
    }

    /// The page store below: for bulk transfers, durability, pressure and checkpoints.
    pub fn media(&self) -> &media::Store {
        &self.media
    }

    /// Ready when the change that returned `lsn`, and all before it, is durable.
    pub fn durable(&self, lsn: Lsn) -> media::Durable {
        self.media.durable(lsn)
    }

    /// Whether callers should wait for [`media::Store::relieved`] before more updates.
    pub fn pressure(&self) -> bool {
        self.media.pressure()
    }

    // Pools and containers.

    /// # Errors
    /// `PoolExists`; of the log.
    pub fn create_pool(&mut self, pool: PoolId, quota_bytes: u64, origin: Origin) -> Result<Lsn> {
        if self.catalog.pools.contains_key(&pool) {
            return Err(Error::PoolExists(pool));
        }
        self.change(origin, Reserve::Normal, &Record::CreatePool { pool, quota: quota_bytes })
    }

    /// Destroys a pool and its containers, in steps of 128 of what it has. `maintain` then gives their space back. After
    /// an error or a crash on the way, the pool is there with what is left of it: destroy it again.
    ///
    /// # Errors
    /// `NoPool`; of the log.
    pub fn destroy_pool(&mut self, pool: PoolId, origin: Origin) -> Result<Lsn> {
        self.catalog.pool(pool)?;
        loop {
            let touch = |catalog: &Catalog, pages: &Pages| catalog.touch_destroy_pool(pages, pool);
            let lsn = self.change_after(touch, origin, Reserve::Critical, &Record::DestroyPool { pool })?;
            if !self.catalog.pools.contains_key(&pool) {
                return Ok(lsn);
            }
        }
    }

    /// A quota below what is used only stops growth.
    ///
    /// # Errors
    /// `NoPool`; of the log.
    pub fn set_quota(&mut self, pool: PoolId, quota_bytes: u64, origin: Origin) -> Result<Lsn> {
        self.catalog.pool(pool)?;
        self.change(origin, Reserve::Critical, &Record::SetQuota { pool, quota: quota_bytes })
    }

    /// Keeps `bytes` of a pool's quota for self-healing: updates get no room there. To be told anew after
    /// each start; does nothing when there is no such pool.
    pub fn set_reserve(&mut self, pool: PoolId, bytes: u64) {
        if let Some(pool) = self.catalog.pools.get_mut(&pool) {
            pool.reserve = bytes;
        }
    }

    /// Ascending.
    pub fn pools(&self) -> Vec<PoolId> {
        self.catalog.pools.keys().copied().collect()
    }

    /// # Errors
    /// `NoPool`.
    pub fn pool_space(&self, pool: PoolId) -> Result<PoolSpace> {
        Ok(self.catalog.pool(pool)?.space())
    }

    /// # Errors
    /// `NoPool`, `ContainerExists`, `NoSpace`; of the log.
    pub fn create_container(&mut self, pool: PoolId, container: ContainerId, origin: Origin) -> Result<Lsn> {
        let room = self.catalog.pool(pool)?;
        if self.catalog.shards.contains_key(&container) {
            return Err(Error::ContainerExists(container));
        }
        room.admit(pool, 2 * media::PAGE_BYTES as u64)?;
        self.change(origin, Reserve::Normal, &Record::CreateContainer { container, pool })
    }

    /// Destroys a container at once; `maintain` then gives its space back.
    ///
    /// # Errors
    /// `NoContainer`; of the log.
    pub fn destroy_container(&mut self, container: ContainerId, origin: Origin) -> Result<Lsn> {
        self.catalog.shard(container)?;
        self.change(origin, Reserve::Critical, &Record::DestroyContainer { container })
    }

    /// Containers of a pool, ascending.
    pub fn containers(&self, pool: PoolId) -> Vec<ContainerId> {
        self.catalog.shards.values().filter(|shard| shard.pool == pool).map(|shard| shard.id).collect()
    }

    /// # Errors
    /// `NoContainer`.
    pub fn container_info(&self, container: ContainerId) -> Result<ContainerInfo> {
        let shard = self.catalog.shard(container)?;
        Ok(ContainerInfo {
            id: shard.id,
            pool: shard.pool,
            pages: shard.pages(),
            blocks: shard.blocks,
            snapshots: shard.snapshots.clone(),
            max_epoch: shard.max_epoch(),
            horizon: shard.horizon,
        })
    }

    /// Replaces the set of epochs that stay readable as they are.
    ///
    /// # Errors
    /// `NoContainer`; `Invalid` for more than [`SNAPSHOTS_MAX`]; `Forgotten` for a new one below the
    /// horizon; of the log.
    pub fn set_snapshots(&mut self, container: ContainerId, epochs: &[Epoch], origin: Origin) -> Result<Lsn> {
        let shard = self.catalog.shard(container)?;
        epochs.iter().try_for_each(|epoch| shard.moment(*epoch).map(drop))?;
        let mut epochs = epochs.to_vec();
        epochs.sort_unstable();
        epochs.dedup();
        if epochs.len() > SNAPSHOTS_MAX {
            return Err(Error::Invalid("a container has at most 900 snapshots"));
        }
        self.change(origin, Reserve::Critical, &Record::SetSnapshots { container, epochs })
    }

    /// Takes a container back to `to`, a snapshot or a moment from the horizon on: what was written later
    /// is gone at once for readers, and later snapshots with it. Until `maintain` has removed it, nothing
    /// can be written. `asked` is the moment of the command. The same command again does nothing; the answer
    /// is then a position at or behind the first one's record.
    ///
    /// # Errors
    /// `NoContainer`; `Forgotten`: the moment is not kept; `Invalid`: no moment; `InProgress`: a change
    /// must be decided first; of the log.
    pub fn rollback(&mut self, container: ContainerId, to: Epoch, asked: Epoch, origin: Origin) -> Result<Lsn> {
        if to == Epoch::ZERO || to > asked || asked == Epoch::MAX {
            return Err(Error::Invalid("a container goes back to a moment before that of the command"));
        }
        let shard = self.catalog.shard(container)?;
        if asked <= shard.undone {
            return Ok(self.last_lsn());
        }
        if let Some((change, _)) = self.catalog.intents.of(shard.tree.owner).next() {
            return Err(Error::InProgress { change });
        }
        let to = shard.moment(to)?;
        self.change(origin, Reserve::Critical, &Record::Rollback { container, to, asked })
    }

    // Writing.

    /// Sets blocks aside for a payload of `bytes`, within the quota; drop the reservation to give them back.
    ///
    /// # Errors
    /// `NoContainer`, `NoSpace`, `DeviceFull`; `Media(Busy)`: wait for `relieved`.
    pub fn reserve_bulk(&mut self, container: ContainerId, bytes: u64) -> Result<Reservation> {
        let id = self.catalog.shard(container)?.pool;
        let pool = self.catalog.pool(id)?;
        let blocks = bytes.div_ceil(media::BLOCK_BYTES as u64) * media::BLOCK_BYTES as u64;
        pool.admit(id, blocks)?;
        Ok(Reservation::live(id, self.media.reserve(bytes)?, pool.reserved.clone()))
    }

    /// Writes values. They are visible to all later calls at once, and durable when `durable(lsn)` is ready.
    ///
    /// Cost: one descent for a lone single value; two for each record else.
    ///
    /// # Errors
    /// `NoContainer`, `Exists`, `NotFound` (conditions), `RecordSize`, `KeyTooLong`, `Invalid`, `EpochFull`,
    /// `NoSpace`, `DeviceFull`; `Media(Busy | LogFull)`: wait for `relieved`; `Corrupt`: in the way.
    pub fn update(&mut self, container: ContainerId, epoch: Epoch, origin: Origin, update: &Update<'_>) -> Result<Lsn> {
        self.running()?;
        let records = update::validate(update)?;
        let Store { media, catalog, scratch, .. } = self;
        let shard = catalog.shard(container)?;
        let version = shard.next_version(epoch)?;
        check_reservations([update], shard.pool)?;
        let mut pages = media.pages();
        pages.begin_op();
        if records > SMALL_RECORDS && records as u64 * 2 > pages.usage().budget {
            return Err(Error::Invalid("the update has more records than the target's page memory can take at once"));
        }
        let mut spot = update::plan(shard, &pages, version, update, &mut scratch.key);
        if !catalog.intents.is_empty() {
            spot = prepare::settle_sizes(&catalog.intents, shard.tree.owner, update, spot);
        }
        let spot = spot?;
        let wanted = (records as u64 + SPLIT_PAGES) * media::PAGE_BYTES as u64;
        catalog.pool(shard.pool)?.admit(shard.pool, wanted)?;
        shard.touch(&pages)?;
        catalog.touch_session(&pages, origin)?;
        let blocks = (records * media::BLOCK_BYTES) as u64;
        let room = staged::Room {
            in_quota: catalog.pool(shard.pool)?.admit(shard.pool, wanted + blocks).is_ok(),
            record_bytes_max: media.record_bytes_max(),
        };
        let (lsn, done) = staged::with(update, media.staging(), room, |update, staging| -> Result<_> {
            let tail = record::encode_update(&mut scratch.log, container, version, origin, update);
            let lsn = media.append(kind::UPDATE, &[&scratch.log, tail], Reserve::Normal)?;
            staging.commit();
            each_reservation(update, &mut |reservation| reservation.take(media));
            let done = catalog
                .with_shard(container, |shard| update::apply(shard, &mut pages, version, update, spot, scratch))
                .and_then(|()| catalog.note(&mut pages, origin, version.epoch));
            Ok((lsn, done))
        })?;
        drop(pages);
        self.settle(lsn, done)?;
        Ok(lsn)
    }

    /// Hides what is older. Always finds room, whatever the quota; `maintain` then gives space back.
    ///
    /// # Errors
    /// As [`Store::update`], but for space.
    pub fn punch(&mut self, container: ContainerId, epoch: Epoch, origin: Origin, punch: &Punch<'_>) -> Result<Lsn> {
        self.running()?;
        punch::validate(punch)?;
        let Store { media, catalog, scratch, .. } = self;
        let shard = catalog.shard(container)?;
        let version = shard.next_version(epoch)?;
        let mut pages = media.pages();
        pages.begin_op();
        punch::plan(shard, &pages, version, punch)?;
        shard.touch(&pages)?;
        catalog.touch_session(&pages, origin)?;
        record::encode_punch(&mut scratch.log, container, version, origin, punch);
        let lsn = media.append(kind::PUNCH, &[&scratch.log], Reserve::Critical)?;
        let done = catalog
            .with_shard(container, |shard| punch::apply(shard, &mut pages, version, punch, scratch))
            .and_then(|()| catalog.note(&mut pages, origin, version.epoch));
        drop(pages);
        self.settle(lsn, done)?;
        Ok(lsn)
    }

    // Reading.

    /// Plans a read of `akeys` under `dkey` as they stood at epoch `at`; `Epoch::MAX` means the latest.
    /// Nothing is read from bulk blocks here; they stay as they are while the plan's pin lives.
    ///
    /// # Errors
    /// `NoContainer`, `NotFound` (condition), `Invalid`, `Corrupt`.
    #[allow(clippy::too_many_arguments)]
    pub fn fetch(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        dkey: &Key,
        akeys: &[AkeyRead<'_>],
        conditions: Conditions,
    ) -> Result<FetchPlan> {
        let Store { media, catalog, scratch, .. } = self;
        let shard = catalog.shard(container)?;
        let at = shard.moment(at)?;
        let mut pages = media.pages();
        pages.begin_op();
        if conditions != Conditions::None {
            let mut names = akeys.iter().map(|read| read.akey);
            update::check_conditions(shard, &pages, at, (group, oid, Some(dkey)), &mut names, conditions)?;
        }
        let mut plan = fetch::fetch(media, shard, &pages, at, (group, oid, dkey), akeys, &mut scratch.key)?;
        if plan.names_bulk() {
            plan.pin = Some(media.pin());
        }
        Ok(plan)
    }

    /// The quick path: one single value that is in memory, copied into `out` (cleared first).
    ///
    /// # Errors
    /// `NoContainer`, `Corrupt`.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn fetch_value(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        dkey: &Key,
        akey: &Key,
        out: &mut Vec<u8>,
    ) -> Result<ValueRead> {
        let mut pages = self.media.pages();
        pages.begin_op();
        let shard = self.catalog.shard(container)?;
        let at = shard.moment(at)?;
        fetch::value(&self.media, shard, &pages, at, (group, oid, dkey, akey), &mut self.scratch.key, out)
    }

    /// The quick path for several values at once: their descents interleave, so that cache misses overlap
    /// (twice the rate on a cold tree, in batches of 8). `each` gets the index in `places` and the bytes.
    ///
    /// # Errors
    /// `NoContainer`, `Corrupt`; values before the failing one were delivered.
    pub fn fetch_values(
        &mut self,
        container: ContainerId,
        at: Epoch,
        places: &[(u32, ObjectId, &Key, &Key)],
        each: &mut dyn FnMut(usize, ValueRead, &[u8]),
    ) -> Result<()> {
        let mut pages = self.media.pages();
        pages.begin_op();
        let shard = self.catalog.shard(container)?;
        let at = shard.moment(at)?;
        fetch::values(&self.media, shard, &pages, at, places, &mut self.scratch, each)
    }

    /// Objects with anything visible, in order of group and id.
    ///
    /// # Errors
    /// Of all lists and queries: `NoContainer`, `Invalid`, `Corrupt`.
    pub fn list_objects(
        &mut self,
        container: ContainerId,
        at: Epoch,
        part: ListPart<'_, ListedObject>,
    ) -> Result<Listing<ListedObject>> {
        self.look(container, at, |shard, pages, at| list::objects(shard, pages, at, part))
    }

    /// Dkeys with anything visible: integers first, then bytes.
    pub fn list_dkeys(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        part: ListPart<'_, Key>,
    ) -> Result<Listing<Key>> {
        self.look(container, at, |shard, pages, at| list::dkeys(shard, pages, at, (group, oid), part))
    }

    /// Akeys with anything visible.
    pub fn list_akeys(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        dkey: &Key,
        part: ListPart<'_, Key>,
    ) -> Result<Listing<ListedAkey, Key>> {
        self.look(container, at, |shard, pages, at| list::akeys(shard, pages, at, (group, oid, dkey), part))
    }

    /// Visible runs of records `within` an extent; `next` is what is left of it.
    #[allow(clippy::too_many_arguments)]
    pub fn list_extents(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        dkey: &Key,
        akey: &Key,
        within: Extent,
        limit: usize,
        direction: Direction,
    ) -> Result<Listing<ListedExtent, Extent>> {
        self.look(container, at, |shard, pages, at| {
            let place = (group, oid, dkey, akey);
            match direction {
                Direction::Forward => list::extents(shard, pages, at, place, within, limit),
                Direction::Backward => list::extents_back(shard, pages, at, place, within, limit),
            }
        })
    }

    /// Hands everything that can be seen of a container at `at` to `each`, in the order of keys, from `after` on: at
    /// most `limit` records, and no more once it says stop. The answer is where to go on; `None` at the end. Whoever
    /// reads the blocks that a record names pins them before the call.
    ///
    /// Cost: a step of a cursor for each record and each older version, and a descent for each array.
    ///
    /// # Errors
    /// Of lists; records before the failing one were handed out.
    pub fn walk_records(
        &mut self,
        container: ContainerId,
        at: Epoch,
        after: Option<&WalkAnchor>,
        limit: usize,
        each: Visitor<'_>,
    ) -> Result<Option<WalkAnchor>> {
        self.look(container, at, |shard, pages, at| walk::walk(shard, pages, at, after, limit, each))
    }

    /// Highest epoch at which anything stored of the object was written or punched.
    pub fn object_max_write(&mut self, container: ContainerId, group: u32, oid: ObjectId) -> Result<Option<Epoch>> {
        self.object_max_write_at(container, Epoch::MAX, group, oid)
    }

    /// Highest epoch up to `at` at which anything stored of the object was written or punched: what a
    /// snapshot knows of it.
    ///
    /// Cost: that of [`Self::object_max_write`] when nothing was written since `at`, else up to a walk
    /// over the object's records.
    pub fn object_max_write_at(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
    ) -> Result<Option<Epoch>> {
        self.look(container, at, |shard, pages, at| query::max_write(shard, pages, at, group, oid))
    }

    /// Lowest or highest integer dkey that has something visible.
    pub fn query_dkey(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        edge: Edge,
    ) -> Result<Option<u64>> {
        self.look(container, at, |shard, pages, at| query::dkey(shard, pages, at, (group, oid), edge))
    }

    /// Lowest or highest integer akey under `dkey` that has something visible.
    pub fn query_akey(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        dkey: &Key,
        edge: Edge,
    ) -> Result<Option<u64>> {
        self.look(container, at, |shard, pages, at| query::akey(shard, pages, at, (group, oid, dkey), edge))
    }

    /// End of the array under one dkey and akey.
    pub fn query_array(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        dkey: &Key,
        akey: &Key,
    ) -> Result<ArrayEnd> {
        self.look(container, at, |shard, pages, at| query::array(shard, pages, at, (group, oid, dkey, akey)))
    }

    /// The highest integer dkey whose `akey` holds array records, and where they end.
    pub fn query_array_tail(
        &mut self,
        container: ContainerId,
        at: Epoch,
        group: u32,
        oid: ObjectId,
        akey: &Key,
    ) -> Result<Option<ArrayTail>> {
        self.look(container, at, |shard, pages, at| query::array_tail(shard, pages, at, (group, oid, akey)))
    }

    /// What differs between two moments that are retained, `from` before `to`; at most `limit` entries, and
    /// where to go on. `Epoch::MAX` means now.
    ///
    /// Cost: proportional to what changed.
    ///
    /// # Errors
    /// `NoContainer`, `Forgotten`, `Invalid`, `Corrupt`.
    pub fn diff(
        &mut self,
        container: ContainerId,
        from: Epoch,
        to: Epoch,
        after: Option<&DiffAnchor>,
        limit: usize,
    ) -> Result<(Vec<Difference>, Option<DiffAnchor>)> {
        let from = self.catalog.shard(container)?.moment(from)?;
        self.look(container, to, |shard, pages, to| diff::diff(shard, pages, (from, to), after, limit))
    }

    /// Walks everything and says what breaks an invariant; the report is empty when nothing does. Call it
    /// while no checkpoint runs.
    pub fn check(&self) -> Report {
        check::store(&self.media, &self.catalog, check::CheckOptions::default())
    }

    /// A position at or behind every record so far, and before the next: the answer of what was done before.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.media.end_lsn().0.saturating_sub(1))
    }

    pub(crate) fn running(&self) -> Result<()> {
        if self.is_stopped { Err(Error::Stopped) } else { Ok(()) }
    }

    #[inline]
    fn look<T>(
        &mut self,
        container: ContainerId,
        at: Epoch,
        read: impl FnOnce(&crate::shard::Shard, &Pages, Epoch) -> Result<T>,
    ) -> Result<T> {
        let mut pages = self.media.pages();
        pages.begin_op();
        let shard = self.catalog.shard(container)?;
        read(shard, &pages, shard.moment(at)?)
    }

    /// Logs and applies a change other than a request.
    pub(crate) fn change(&mut self, origin: Origin, reserve: Reserve, record: &Record<'_>) -> Result<Lsn> {
        self.change_after(|_, _| Ok(()), origin, reserve, record)
    }

    /// Logs and applies a change, after `touch` has read every page that it alters, in the same operation: so that it does
    /// not fail once it is logged.
    pub(crate) fn change_after(
        &mut self,
        touch: impl FnOnce(&Catalog, &Pages) -> Result<()>,
        origin: Origin,
        reserve: Reserve,
        record: &Record<'_>,
    ) -> Result<Lsn> {
        self.running()?;
        let number = record::encode(&mut self.scratch.log, origin, record);
        {
            let mut pages = self.media.pages();
            pages.begin_op();
            self.catalog.own.touch(&pages)?;
            touch(&self.catalog, &pages)?;
            self.catalog.touch_session(&pages, origin)?;
        }
        let lsn = self.media.append(number, &[&self.scratch.log], reserve)?;
        let done = self.apply(origin, record);
        self.settle(lsn, done)?;
        Ok(lsn)
    }

    pub(crate) fn apply(&mut self, origin: Origin, record: &Record<'_>) -> Result<()> {
        self.apply_record(origin, record)?;
        match record.effect() {
            Some(epoch) => self.catalog.note(&mut self.media.pages(), origin, epoch),
            None => Ok(()),
        }
    }

    fn apply_record(&mut self, origin: Origin, record: &Record<'_>) -> Result<()> {
        let Store { media, catalog, scratch, .. } = self;
        let mut pages = media.pages();
        let pages = &mut *pages;
        match record {
            Record::Update { container, version, update } => catalog.with_shard(*container, |shard| {
                update.with(|update| update::apply(shard, pages, *version, update, None, scratch))
            }),
            Record::Punch { container, version, punch } => {
                catalog.with_shard(*container, |shard| punch::apply(shard, pages, *version, &punch.borrow(), scratch))
            }
            Record::CreatePool { pool, quota } | Record::SetQuota { pool, quota } => {
                catalog.apply_create_pool(pages, *pool, *quota)
            }
            Record::DestroyPool { pool } => catalog.apply_destroy_pool(pages, *pool),
            Record::CreateContainer { container, pool } => catalog.apply_create_container(pages, *pool, *container),
            Record::DestroyContainer { container } => catalog.apply_destroy_container(pages, *container),
            Record::SetSnapshots { container, epochs } => catalog.apply_snapshots(pages, *container, epochs.clone()),
            Record::Advance { container, horizon } => catalog.with_shard(*container, |shard| {
                shard.horizon = shard.horizon.max(*horizon);
                shard.save_all(pages)
            }),
            Record::Rollback { container, to, asked } => {
                catalog.with_site(pages, *container, |shard, pages| maintain::apply_rollback(shard, pages, *to, *asked))
            }
            Record::Discard { container, limit, from } => catalog.with_site(pages, *container, |shard, pages| {
                maintain::apply_discard(shard, pages, *limit, from, &mut scratch.freed)
            }),
            Record::Aggregate(step) => {
                catalog.with_shard(step.container, |shard| aggregate::apply(shard, pages, step, &mut scratch.freed))
            }
            Record::Rewrite { container, rewrite } => catalog.with_shard(*container, |shard| {
                let (akey, parts) = (&rewrite.akey, &rewrite.parts);
                rewrite::apply(shard, pages, akey, parts, rewrite.record_bytes, rewrite.runs(), scratch)
            }),
            Record::Mend { container, mend } => catalog
                .with_shard(*container, |shard| rewrite::apply_mend(shard, pages, &mend.key, &mend.payload(), scratch)),
            Record::Coalesced { container, until } => catalog.with_shard(*container, |shard| {
                shard.coalesced = shard.coalesced.max(*until);
                shard.walk = None;
                shard.save_all(pages)
            }),
            Record::Copy { container, records } => catalog.with_shard(*container, |shard| {
                copy::apply_copy(shard, pages, records.iter().map(|record| record.borrow()), scratch)
            }),
            Record::Drop { container, group, limit } => catalog
                .with_shard(*container, |shard| copy::apply_drop(shard, pages, *group, *limit, &mut scratch.freed)),
            Record::TakeOut { container, keys } => {
                catalog.with_shard(*container, |shard| copy::apply_take_out(shard, pages, keys, &mut scratch.freed))
            }
            Record::Free { owner, leaves } => maintain::apply_free(catalog, pages, *owner, *leaves, &mut scratch.freed),
            Record::Prepare { container, change, bytes, .. } => match commit::intent_of(origin, record) {
                Some(intent) => commit::apply_prepare(catalog, pages, *container, *change, intent, bytes),
                None => unreachable!("a prepare record has an intent"),
            },
            Record::Commit { pool, change } => commit::apply_commit(catalog, pages, *pool, *change, scratch),
            Record::Abort { pool, change } => commit::apply_abort(catalog, pages, *pool, *change, &mut scratch.freed),
            Record::Adopt { pool, group, term } => standing::apply_adopt(catalog, pages, *pool, *group, *term),
            Record::Settle { pool, change } => standing::apply_settle(catalog, pages, *pool, *change),
            Record::Forget { pool, change } => commit::apply_forget(catalog, pages, *pool, *change, &mut scratch.freed),
            Record::Leave { pool, group } => standing::apply_leave(catalog, pages, *pool, *group),
            Record::Remember { floor, effects } => catalog.learn(pages, origin.session, *floor, effects),
        }
    }

    /// Ends a logged change: gives freed blocks back, or stops the store when the change failed.
    #[inline]
    pub(crate) fn settle(&mut self, lsn: Lsn, done: Result<()>) -> Result<()> {
        let done = match done {
            Ok(()) if self.scratch.freed.is_empty() => return Ok(()),
            Ok(()) => self.release_freed(lsn),
            failed => failed,
        };
        self.is_stopped |= done.is_err();
        done
    }

    /// Has `media` keep room for the commits of all intents.
    pub(crate) fn keep_promise(&self) {
        self.media.promise(self.catalog.intents.promised());
    }

    pub(crate) fn release_freed(&mut self, lsn: Lsn) -> Result<()> {
        for piece in self.scratch.freed.drain(..) {
            self.media.release(piece, lsn)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vos::Store on {:?}", self.media)
    }
}

pub(crate) fn each_payload<'a>(update: &Update<'a>, each: &mut dyn FnMut(&Payload<'a>)) {
    for write in update.akeys {
        match &write.value {
            ValueWrite::Single(payload) => each(payload),
            ValueWrite::Array { extents, .. } => extents.iter().for_each(|(_, payload)| each(payload)),
        }
    }
}

pub(crate) fn each_reservation(update: &Update<'_>, each: &mut dyn FnMut(&Reservation)) {
    each_payload(update, &mut |payload| {
        if let Payload::Bulk { at, .. } = payload {
            each(at);
        }
    });
}

/// Each reservation is of the container's pool, unused, and named once.
pub(crate) fn check_reservations<'a>(updates: impl IntoIterator<Item = &'a Update<'a>>, pool: PoolId) -> Result<()> {
    let (mut all, mut fresh) = (Vec::new(), true);
    for update in updates {
        each_reservation(update, &mut |reservation| {
            fresh &= reservation.pool() == pool && !reservation.is_taken();
            all.extend(reservation.extents().first().map(|piece| piece.block));
        });
    }
    all.sort_unstable();
    if !fresh || all.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Invalid("a bulk payload has a reservation of its own, of the container's pool"));
    }
    Ok(())
}

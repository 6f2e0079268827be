//! One target's versioned store: the centre, which only dispatches.

use media::Lsn;
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId, PoolId};

use crate::error::{Error, Result};
use crate::request::{
    AkeyRead, ArrayEnd, ArrayTail, ContainerInfo, Edge, FetchPlan, ListedAkey, ListedExtent, ListedObject, Listing,
    Origin, PoolSpace, Punch, Update, ValueRead,
};
use crate::space::Reservation;

/// Largest payload kept in the tree; larger ones go to bulk blocks first. A pool may choose less.
pub const INLINE_BYTES_MAX: usize = 4096;

/// One target's versioned store. Synchronous: no call waits for anything but page reads.
pub struct Store {
    pages: media::Pages,
}

impl Store {
    pub fn create_pool(&mut self, _pool: PoolId, _quota_bytes: u64, _origin: Origin) -> Result<Lsn> {
        Err(Error::Stopped)
    }
    /// Its containers must be gone.
    pub fn destroy_pool(&mut self, _pool: PoolId, _origin: Origin) -> Result<Lsn> {
        Err(Error::Stopped)
    }
    pub fn set_quota(&mut self, _pool: PoolId, _quota_bytes: u64, _origin: Origin) -> Result<Lsn> {
        Err(Error::Stopped)
    }
    pub fn pools(&self) -> Vec<PoolId> {
        Vec::new()
    }
    pub fn pool_space(&self, pool: PoolId) -> Result<PoolSpace> {
        Err(Error::NoPool(pool))
    }
    pub fn create_container(&mut self, _pool: PoolId, _container: ContainerId, _origin: Origin) -> Result<Lsn> {
        Err(Error::Stopped)
    }
    pub fn destroy_container(&mut self, _container: ContainerId, _origin: Origin) -> Result<Lsn> {
        Err(Error::Stopped)
    }
    pub fn containers(&self, _pool: PoolId) -> Vec<ContainerId> {
        Vec::new()
    }
    pub fn container_info(&self, container: ContainerId) -> Result<ContainerInfo> {
        Err(Error::NoContainer(container))
    }
    /// Replaces the set of epochs that stay readable.
    pub fn set_snapshots(&mut self, _container: ContainerId, _epochs: &[Epoch], _origin: Origin) -> Result<Lsn> {
        Err(Error::Stopped)
    }

    /// Sets blocks aside for a payload of `bytes`; drop the reservation to give them back.
    pub fn reserve_bulk(&mut self, _container: ContainerId, _bytes: u64) -> Result<Reservation> {
        Err(Error::Stopped)
    }
    /// Takes effect at once, for all later calls; durable when `durable(lsn)` resolves.
    pub fn update(&mut self, _container: ContainerId, _epoch: Epoch, _origin: Origin, _update: &Update) -> Result<Lsn> {
        Err(Error::Stopped)
    }
    pub fn punch(&mut self, _container: ContainerId, _epoch: Epoch, _origin: Origin, _punch: &Punch) -> Result<Lsn> {
        Err(Error::Stopped)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn fetch(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _dkey: &Key,
        _akeys: &[AkeyRead],
        _conditions: Conditions,
    ) -> Result<FetchPlan> {
        Err(Error::Stopped)
    }
    /// The quick path: one inline single value, copied into `out` (cleared first).
    #[allow(clippy::too_many_arguments)]
    pub fn fetch_value(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _dkey: &Key,
        _akey: &Key,
        _out: &mut Vec<u8>,
    ) -> Result<ValueRead> {
        Err(Error::Stopped)
    }

    pub fn list_objects(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _after: Option<ListedObject>,
        _limit: usize,
    ) -> Result<Listing<ListedObject>> {
        Err(Error::Stopped)
    }
    pub fn list_dkeys(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _after: Option<&Key>,
        _limit: usize,
    ) -> Result<Listing<Key>> {
        Err(Error::Stopped)
    }
    #[allow(clippy::too_many_arguments)]
    pub fn list_akeys(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _dkey: &Key,
        _after: Option<&Key>,
        _limit: usize,
    ) -> Result<Listing<ListedAkey>> {
        Err(Error::Stopped)
    }
    /// Visible runs from record `from`, ascending.
    #[allow(clippy::too_many_arguments)]
    pub fn list_extents(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _dkey: &Key,
        _akey: &Key,
        _within: Extent,
        _limit: usize,
    ) -> Result<Listing<ListedExtent>> {
        Err(Error::Stopped)
    }

    /// Highest epoch at which anything of the object was written or punched, up to `at`... of the
    /// latest state; `None` when nothing of it is stored.
    pub fn object_max_write(&mut self, _container: ContainerId, _group: u32, _oid: ObjectId) -> Result<Option<Epoch>> {
        Err(Error::Stopped)
    }
    /// Lowest or highest integer dkey that has something visible.
    pub fn query_dkey(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _edge: Edge,
    ) -> Result<Option<u64>> {
        Err(Error::Stopped)
    }
    /// Lowest or highest integer akey under `dkey` that has something visible.
    pub fn query_akey(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _dkey: &Key,
        _edge: Edge,
    ) -> Result<Option<u64>> {
        Err(Error::Stopped)
    }
    /// End of the array under one dkey and akey.
    pub fn query_array(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _dkey: &Key,
        _akey: &Key,
    ) -> Result<ArrayEnd> {
        Err(Error::Stopped)
    }
    /// The highest integer dkey whose `akey` holds array records, and where they end.
    pub fn query_array_tail(
        &mut self,
        _container: ContainerId,
        _at: Epoch,
        _group: u32,
        _oid: ObjectId,
        _akey: &Key,
    ) -> Result<Option<ArrayTail>> {
        Err(Error::Stopped)
    }

    /// Does up to `budget` pages' worth of deferred work; true when more is left.
    pub fn maintain(&mut self, _budget: usize) -> Result<bool> {
        Err(Error::Stopped)
    }

    /// What the page pool holds.
    pub fn page_use(&self) -> media::PoolUse {
        self.pages.usage()
    }
}

//! The pools and containers of a target, and the work that deleting left behind.
//!
//! A tree of its own, little-endian values. Ours. Keys:
//!
//! | key                                             | value      | meaning                               |
//! |-------------------------------------------------|------------|---------------------------------------|
//! | 01, pool 16                                     | quota 8    | a pool                                |
//! | 02, container 16                                | head 4     | a container: the page of its head     |
//! | 03, tree number 4 BE                            | head 4     | a container being destroyed           |
//! | 04, tree number 4 BE, tx, part 4 BE             | bytes      | part of an intent: see `commit`       |
//! | 05, tree number 4 BE, slot 2 BE                 | 33 bytes   | how a transaction ended: see `commit` |
//! | 06, session 8 BE                                | page 4     | what a session did: see `sessions`    |
//!
//! The root kept by `media` is `b"VOS1"` and the page id of the catalog's own head, 4 bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use media::{BLOCK_BYTES, PAGE_BYTES, PageId, Pages};
use types::{ContainerId, Epoch, PoolId};

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::intent::Table;
use crate::node::Value;
use crate::request::{Origin, PoolSpace};
use crate::sessions::{self, SESSION};
use crate::shard::Shard;
use crate::tree::Tree;

const POOL: u8 = 1;
const SHARD: u8 = 2;
const GARBAGE: u8 = 3;
pub(crate) const INTENT: u8 = 4;
pub(crate) const OUTCOME: u8 = 5;

const ROOT_MAGIC: [u8; 4] = *b"VOS1";
/// Number of the catalog's own tree.
const CATALOG_OWNER: u32 = 0;

/// A pool on this target.
pub(crate) struct Pool {
    pub(crate) quota: u64,
    /// Of it, bytes that updates leave alone. Told anew after each start.
    pub(crate) reserve: u64,
    /// Tree and head pages of its containers, those being destroyed included.
    pub(crate) pages: u64,
    /// Bulk blocks of their values.
    pub(crate) blocks: u64,
    /// Bulk blocks set aside for updates to come.
    pub(crate) reserved: Rc<Cell<u64>>,
    /// Pages that committing its intents may take, and blocks that they hold.
    pub(crate) intent_pages: u64,
    pub(crate) intent_blocks: u64,
}

impl Pool {
    fn new(quota: u64) -> Pool {
        Pool { quota, reserve: 0, pages: 0, blocks: 0, reserved: Rc::default(), intent_pages: 0, intent_blocks: 0 }
    }

    pub(crate) fn space(&self) -> PoolSpace {
        let pages = (self.pages + self.intent_pages) * PAGE_BYTES as u64;
        let bulk = (self.blocks + self.reserved.get() + self.intent_blocks) * BLOCK_BYTES as u64;
        PoolSpace { quota: self.quota, used: pages + bulk, pages, bulk }
    }

    /// # Errors
    /// `NoSpace`, when `wanted` more bytes do not fit.
    #[inline]
    pub(crate) fn admit(&self, pool: PoolId, wanted: u64) -> Result<()> {
        let PoolSpace { quota, used, .. } = self.space();
        let quota = quota.saturating_sub(self.reserve);
        if used.saturating_add(wanted) > quota || rt::fault!("vos.quota") {
            return Err(Error::NoSpace { pool, used, quota, wanted });
        }
        Ok(())
    }
}

/// All that a target holds, in memory, with the tree it is kept in.
pub(crate) struct Catalog {
    pub(crate) own: Shard,
    pub(crate) pools: BTreeMap<PoolId, Pool>,
    pub(crate) shards: BTreeMap<ContainerId, Shard>,
    /// Shards being destroyed, by the number of their tree.
    pub(crate) garbage: BTreeMap<u32, Shard>,
    pub(crate) intents: Table,
    pub(crate) sessions: sessions::Table,
}

fn pool_key(pool: PoolId) -> Vec<u8> {
    [&[POOL][..], &pool.to_bytes()].concat()
}

fn shard_key(container: ContainerId) -> Vec<u8> {
    [&[SHARD][..], &container.to_bytes()].concat()
}

fn garbage_key(owner: u32) -> Vec<u8> {
    [&[GARBAGE][..], &owner.to_be_bytes()].concat()
}

impl Catalog {
    /// An empty catalog, and the root to keep.
    pub(crate) fn create(pages: &mut Pages) -> Result<(Catalog, Vec<u8>)> {
        let none = ContainerId::from_bytes([0; 16]);
        let own = Shard::create(pages, none, PoolId::from_bytes([0; 16]), CATALOG_OWNER)?;
        let root = [&ROOT_MAGIC[..], &own.head.0.to_le_bytes()].concat();
        let catalog = Catalog {
            own,
            pools: BTreeMap::new(),
            shards: BTreeMap::new(),
            garbage: BTreeMap::new(),
            intents: Table::default(),
            sessions: sessions::Table::default(),
        };
        Ok((catalog, root))
    }

    /// Reads the catalog back from its root: the whole of it, and the head of every container.
    pub(crate) fn load(pages: &Pages, root: &[u8]) -> Result<Catalog> {
        Catalog::load_judged(pages, root, &mut |_, error| Err(error))
    }

    /// Reads the catalog back as [`Catalog::load`], and goes on without what cannot be read, if `judge` lets
    /// it: a container (named, when its entry tells), or an entry.
    pub(crate) fn load_judged(
        pages: &Pages,
        root: &[u8],
        judge: &mut dyn FnMut(Option<ContainerId>, Error) -> Result<()>,
    ) -> Result<Catalog> {
        let Some(head) = root.strip_prefix(&ROOT_MAGIC).and_then(|rest| <[u8; 4]>::try_from(rest).ok()) else {
            return Err(unreadable("the root"));
        };
        let own = Shard::load(pages, PageId(u32::from_le_bytes(head)))?;
        let mut catalog = Catalog {
            pools: BTreeMap::new(),
            shards: BTreeMap::new(),
            garbage: BTreeMap::new(),
            intents: Table::default(),
            sessions: sessions::Table::default(),
            own,
        };
        let mut key = Vec::new();
        let mut cursor = Cursor::at(&catalog.own.tree, pages, &[])?;
        while cursor.is_valid() {
            cursor.key().copy_to(&mut key);
            let entry = key.split_first().and_then(|(kind, id)| {
                let value = cursor.value();
                let head = || value.try_into().ok().map(|head| PageId(u32::from_le_bytes(head)));
                Some(match *kind {
                    POOL => {
                        Entry::Pool(PoolId::from_bytes(id.try_into().ok()?), u64::from_le_bytes(value.try_into().ok()?))
                    }
                    SHARD => Entry::Shard(head()?),
                    GARBAGE => Entry::Garbage(head()?),
                    INTENT | OUTCOME | SESSION => Entry::Other,
                    _ => return None,
                })
            });
            let container = key.strip_prefix(&[SHARD]).and_then(|id| id.try_into().ok()).map(ContainerId::from_bytes);
            match entry.ok_or_else(|| unreadable("an entry")) {
                Ok(entry) => catalog.take_up(pages, &key, entry).or_else(|error| judge(container, error))?,
                Err(error) => judge(container, error)?,
            }
            cursor.next()?;
        }
        Ok(catalog)
    }

    /// Puts an entry of the catalog's tree in its place in memory.
    fn take_up(&mut self, pages: &Pages, key: &[u8], entry: Entry) -> Result<()> {
        match entry {
            Entry::Pool(pool, quota) => drop(self.pools.insert(pool, Pool::new(quota))),
            Entry::Shard(head) => {
                let shard = Shard::load(pages, head)?;
                if key != shard_key(shard.id) {
                    return Err(unreadable("the head of another container"));
                }
                self.count(&shard);
                self.shards.insert(shard.id, shard);
            }
            Entry::Garbage(head) => {
                let shard = Shard::load(pages, head)?;
                self.count(&shard);
                self.garbage.insert(shard.tree.owner, shard);
            }
            // Read when all shards are known, by `commit` and `sessions`.
            Entry::Other => {}
        }
        Ok(())
    }

    /// Sums every pool anew, after its containers were mended.
    pub(crate) fn recount(&mut self) {
        for pool in self.pools.values_mut() {
            (pool.pages, pool.blocks) = (0, 0);
        }
        for shard in self.shards.values().chain(self.garbage.values()) {
            if let Some(pool) = self.pools.get_mut(&shard.pool) {
                pool.pages += shard.pages();
                pool.blocks += shard.blocks;
            }
        }
    }

    /// The shard whose tree has this number; that of the catalog itself is 0.
    pub(crate) fn shard_of_tree(&mut self, owner: u32) -> Option<&mut Shard> {
        if owner == CATALOG_OWNER {
            return Some(&mut self.own);
        }
        let live = self.shards.values_mut().find(|shard| shard.tree.owner == owner);
        live.or_else(|| self.garbage.get_mut(&owner))
    }

    fn count(&mut self, shard: &Shard) {
        if let Some(pool) = self.pools.get_mut(&shard.pool) {
            pool.pages += shard.pages();
            pool.blocks += shard.blocks;
        }
    }

    #[inline]
    pub(crate) fn shard(&self, container: ContainerId) -> Result<&Shard> {
        self.shards.get(&container).ok_or(Error::NoContainer(container))
    }

    pub(crate) fn pool(&self, pool: PoolId) -> Result<&Pool> {
        self.pools.get(&pool).ok_or(Error::NoPool(pool))
    }

    /// Runs `change` on a shard and keeps its pool's sums.
    #[inline]
    pub(crate) fn with_shard<T>(
        &mut self,
        container: ContainerId,
        change: impl FnOnce(&mut Shard) -> Result<T>,
    ) -> Result<T> {
        let shard = self.shards.get_mut(&container).ok_or(Error::NoContainer(container))?;
        let (pages, blocks) = (shard.pages(), shard.blocks);
        let done = change(shard);
        if let Some(pool) = self.pools.get_mut(&shard.pool) {
            pool.pages = pool.pages + shard.pages() - pages;
            pool.blocks = pool.blocks + shard.blocks - blocks;
        }
        done
    }

    pub(crate) fn apply_create_pool(&mut self, pages: &mut Pages, pool: PoolId, quota: u64) -> Result<()> {
        self.put(pages, &pool_key(pool), &quota.to_le_bytes())?;
        self.pools.entry(pool).or_insert_with(|| Pool::new(quota)).quota = quota;
        self.own.save_all(pages)
    }

    pub(crate) fn apply_destroy_pool(&mut self, pages: &mut Pages, pool: PoolId) -> Result<()> {
        let members: Vec<_> = self.shards.values().filter(|s| s.pool == pool).map(|s| s.id).collect();
        for container in members {
            self.apply_destroy_container(pages, container)?;
        }
        // A pool of the same name to come must not pay for the remains of this one.
        for shard in self.garbage.values_mut().filter(|shard| shard.pool == pool) {
            shard.pool = PoolId::from_bytes([0; 16]);
            shard.save_all(pages)?;
        }
        self.own.tree.remove(pages, &pool_key(pool))?;
        self.pools.remove(&pool);
        self.own.save_all(pages)
    }

    pub(crate) fn apply_create_container(
        &mut self,
        pages: &mut Pages,
        pool: PoolId,
        container: ContainerId,
    ) -> Result<()> {
        self.own.counter += 1;
        let shard = Shard::create(pages, container, pool, self.own.counter)?;
        self.put(pages, &shard_key(container), &shard.head.0.to_le_bytes())?;
        self.count(&shard);
        self.shards.insert(container, shard);
        self.own.save_all(pages)
    }

    pub(crate) fn apply_destroy_container(&mut self, pages: &mut Pages, container: ContainerId) -> Result<()> {
        let shard = self.shards.remove(&container).ok_or(Error::NoContainer(container))?;
        self.own.tree.remove(pages, &shard_key(container))?;
        self.put(pages, &garbage_key(shard.tree.owner), &shard.head.0.to_le_bytes())?;
        self.garbage.insert(shard.tree.owner, shard);
        self.own.save_all(pages)
    }

    pub(crate) fn apply_snapshots(
        &mut self,
        pages: &mut Pages,
        container: ContainerId,
        epochs: Vec<Epoch>,
    ) -> Result<()> {
        let shard = self.shards.get_mut(&container).ok_or(Error::NoContainer(container))?;
        // What only a dropped snapshot saw was overwritten after it: there the next sweep begins.
        if let Some(first) = shard.snapshots.iter().find(|epoch| epochs.binary_search(epoch).is_err()) {
            shard.aggregated = shard.aggregated.min(*first);
            shard.coalesced = shard.coalesced.min(*first);
            (shard.pass, shard.walk) = (None, None);
        }
        shard.snapshots = epochs;
        shard.save_all(pages)
    }

    /// The last page of a destroyed container is gone.
    pub(crate) fn end_garbage(&mut self, pages: &mut Pages, owner: u32) -> Result<()> {
        let shard = self.garbage.remove(&owner).ok_or_else(|| unreadable("a container being destroyed"))?;
        if let Some(pool) = self.pools.get_mut(&shard.pool) {
            pool.pages -= shard.pages();
            pool.blocks -= shard.blocks;
        }
        shard.tree.destroy(pages)?;
        pages.free(shard.head)?;
        self.own.tree.remove(pages, &garbage_key(owner))?;
        self.own.save_all(pages)
    }

    /// Entries of one kind, for `check`.
    pub(crate) fn trees(&self) -> impl Iterator<Item = (&Tree, PageId, Option<&Shard>)> {
        let own = std::iter::once((&self.own.tree, self.own.head, None));
        own.chain(self.shards.values().chain(self.garbage.values()).map(|shard| (&shard.tree, shard.head, Some(shard))))
    }

    /// Notes that a request took effect. Part of applying its record.
    #[inline]
    pub(crate) fn note(&mut self, pages: &mut Pages, origin: Origin, epoch: Epoch) -> Result<()> {
        self.sessions.note(&mut self.own, pages, origin, epoch)
    }

    /// Reads every page that noting the effect of a request changes.
    #[inline]
    pub(crate) fn touch_session(&self, pages: &Pages, origin: Origin) -> Result<()> {
        self.sessions.touch(&self.own, pages, origin)
    }

    pub(crate) fn put(&mut self, pages: &mut Pages, key: &[u8], value: &[u8]) -> Result<()> {
        self.own.tree.insert(pages, key, Value { head: value, tail: &[] }, 0)?;
        Ok(())
    }
}

enum Entry {
    Pool(PoolId, u64),
    Shard(PageId),
    Garbage(PageId),
    Other,
}

#[cold]
pub(crate) fn unreadable(what: &str) -> Error {
    Error::Corrupt { place: "the catalog".into(), fault: format!("{what} that cannot be read") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_their_golden_bytes() {
        let mut pages = Pages::in_memory(1 << 20).unwrap();
        let (mut catalog, root) = Catalog::create(&mut pages).unwrap();
        assert_eq!(root, [b"VOS1", &catalog.own.head.0.to_le_bytes()[..]].concat());
        let (pool, container) = (PoolId::from_bytes([7; 16]), ContainerId::from_bytes([8; 16]));
        catalog.apply_create_pool(&mut pages, pool, 0x0102).unwrap();
        catalog.apply_create_container(&mut pages, pool, container).unwrap();
        let head = catalog.shards[&container].head.0.to_le_bytes();
        let mut stored = Vec::new();
        let mut cursor = Cursor::at(&catalog.own.tree, &pages, &[]).unwrap();
        while cursor.is_valid() {
            let mut key = Vec::new();
            cursor.key().copy_to(&mut key);
            stored.push((key, cursor.value().to_vec()));
            cursor.next().unwrap();
        }
        let golden = [
            ([&[1][..], &[7; 16]].concat(), vec![2, 1, 0, 0, 0, 0, 0, 0]),
            ([&[2][..], &[8; 16]].concat(), head.to_vec()),
        ];
        assert_eq!(stored, golden);
        assert_eq!(garbage_key(0x0102), [3, 0, 0, 1, 2]);
    }
}

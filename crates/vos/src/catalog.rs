//! The pools and containers of a target, and the work that deleting left behind.
//!
//! A tree of its own, little-endian values. Ours. Keys:
//!
//! | key                                             | value      | meaning                               |
//! |-------------------------------------------------|------------|---------------------------------------|
//! | 01, pool 16                                     | quota 8    | a pool                                |
//! | 02, container 16                                | a site     | a container                           |
//! | 03, tree number 4 BE                            | a site     | a container being destroyed           |
//! | 04, tree number 4 BE, change 20, part 4 BE      | bytes      | part of an intent: see `commit`       |
//! | 05, pool 16, change 20                          | 9 bytes    | how a change ended: see `standing`    |
//! | 06, session 8 BE                                | page 4     | what a session did: see `sessions`    |
//! | 07, pool 16, placement group 4 BE               | 24 bytes   | its leader and mark: see `standing`   |
//!
//! A site is 44 bytes and a list: page of the container's head 4, root page of its tree 4, number of its tree 4, pool 16
//! (zero when it is gone), moment to which it is being taken back 8 (0: none), when the latest rollback was asked for 8;
//! snapshots 8 each, ascending. It has all that cannot be found out again from the tree, so that a head that cannot
//! be read is made anew; and it changes seldom.
//!
//! The root kept by `media` is `b"VOS1"` and the page id of the catalog's own head, 4 bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use media::{BLOCK_BYTES, PAGE_BYTES, PageId, Pages};
use types::{ContainerId, Epoch, PoolId, SessionId};

use crate::cursor::each_record;
use crate::error::{Error, Result};
use crate::intent::Table;
use crate::node::{RECORD_BYTES_MAX, Value};
use crate::request::{Origin, PoolSpace};
use crate::sessions::{self, SESSION};
use crate::shard::{SNAPSHOTS_MAX, Shard, Site};
use crate::standing;
use crate::tree::Tree;

const POOL: u8 = 1;
const SHARD: u8 = 2;
const GARBAGE: u8 = 3;
pub(crate) const INTENT: u8 = 4;
pub(crate) const OUTCOME: u8 = 5;
pub(crate) const STANDING: u8 = 7;

/// Bytes of a site before its snapshots.
const SITE_BYTES: usize = 44;
const _: () = assert!(17 + SITE_BYTES + 8 * SNAPSHOTS_MAX <= RECORD_BYTES_MAX);

/// Things that one step of destroying a pool takes; each is a page or two.
const DESTROY_STEP: usize = 128;

const ROOT_MAGIC: [u8; 4] = *b"VOS1";
/// Number of the catalog's own tree.
pub(crate) const CATALOG_OWNER: u32 = 0;

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
            return Err(Error::NoSpace { pool, used, quota, reserve: self.reserve, wanted });
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
    pub(crate) standings: standing::Table,
    pub(crate) sessions: sessions::Table,
}

/// An entry of the catalog that could not be taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Whose it is; `None` for anything else than a living container.
    pub(crate) container: Option<ContainerId>,
    /// What it says, when it is the head that cannot be read.
    pub(crate) site: Option<Site>,
}

fn encode_site(site: &Site) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SITE_BYTES + 8 * site.snapshots.len());
    [site.head.0, site.root.0, site.owner].iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes.extend_from_slice(&site.pool.to_bytes());
    let moments = [site.rollback.unwrap_or(Epoch::ZERO), site.undone];
    moments.iter().chain(&site.snapshots).for_each(|epoch| bytes.extend_from_slice(&epoch.0.to_le_bytes()));
    bytes
}

fn decode_site(bytes: &[u8]) -> Option<Site> {
    let (words, rest) = bytes.split_first_chunk::<12>()?;
    let (pool, moments) = rest.split_first_chunk::<16>()?;
    let (words, _) = words.as_chunks::<4>();
    let word = |at: usize| words.get(at).map(|bytes| u32::from_le_bytes(*bytes));
    let (moments, []) = moments.as_chunks::<8>() else { return None };
    let mut moments = moments.iter().map(|bytes| Epoch(u64::from_le_bytes(*bytes)));
    let (rollback, undone) = (moments.next()?, moments.next()?);
    let snapshots: Vec<Epoch> = moments.collect();
    if snapshots.len() > SNAPSHOTS_MAX || snapshots.windows(2).any(|pair| pair[0] >= pair[1]) {
        return None;
    }
    Some(Site {
        head: PageId(word(0)?),
        root: PageId(word(1)?),
        owner: word(2)?,
        pool: PoolId::from_bytes(*pool),
        rollback: Some(rollback).filter(|to| *to > Epoch::ZERO),
        undone,
        snapshots,
    })
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
            standings: standing::Table::default(),
            sessions: sessions::Table::default(),
        };
        Ok((catalog, root))
    }

    /// Reads the catalog back from its root: the whole of it, and the head of every container.
    pub(crate) fn load(pages: &mut Pages, root: &[u8]) -> Result<Catalog> {
        Catalog::load_judged(pages, root, &mut |_, error| Err(error))
    }

    /// Reads the catalog back as [`Catalog::load`], and goes on without what cannot be read, if `judge` lets
    /// it.
    pub(crate) fn load_judged(
        pages: &mut Pages,
        root: &[u8],
        judge: &mut dyn FnMut(Unread, Error) -> Result<()>,
    ) -> Result<Catalog> {
        let Some(head) = root.strip_prefix(&ROOT_MAGIC).and_then(|rest| <[u8; 4]>::try_from(rest).ok()) else {
            return Err(unreadable("the root"));
        };
        let own = Shard::load_own(pages, PageId(u32::from_le_bytes(head)))?;
        let mut catalog = Catalog {
            pools: BTreeMap::new(),
            shards: BTreeMap::new(),
            garbage: BTreeMap::new(),
            intents: Table::default(),
            standings: standing::Table::default(),
            sessions: sessions::Table::default(),
            own,
        };
        let tree = catalog.own.tree;
        each_record(&tree, pages, &[], |pages, key, value| {
            let entry = key.split_first().and_then(|(kind, id)| {
                Some(match *kind {
                    POOL => {
                        Entry::Pool(PoolId::from_bytes(id.try_into().ok()?), u64::from_le_bytes(value.try_into().ok()?))
                    }
                    SHARD => Entry::Shard(decode_site(value)?),
                    GARBAGE => Entry::Garbage(decode_site(value)?),
                    INTENT | OUTCOME | SESSION | STANDING => Entry::Other,
                    _ => return None,
                })
            });
            let container = key.strip_prefix(&[SHARD]).and_then(|id| id.try_into().ok()).map(ContainerId::from_bytes);
            match entry.ok_or_else(|| unreadable("an entry")) {
                Ok(entry) => {
                    let site = match &entry {
                        Entry::Shard(site) | Entry::Garbage(site) => Some(site.clone()),
                        Entry::Pool(..) | Entry::Other => None,
                    };
                    let taken_up = catalog.take_up(pages, key, entry);
                    taken_up.or_else(|error| judge(Unread { container, site }, error))
                }
                Err(error) => judge(Unread { container, site: None }, error),
            }
        })?;
        Ok(catalog)
    }

    /// Puts an entry of the catalog's tree in its place in memory.
    fn take_up(&mut self, pages: &Pages, key: &[u8], entry: Entry) -> Result<()> {
        match entry {
            Entry::Pool(pool, quota) => drop(self.pools.insert(pool, Pool::new(quota))),
            Entry::Shard(site) => {
                let shard = Shard::load(pages, site)?;
                if key != shard_key(shard.id) {
                    return Err(unreadable("the head of another container"));
                }
                self.count(&shard);
                self.shards.insert(shard.id, shard);
            }
            Entry::Garbage(site) => {
                let shard = Shard::load(pages, site)?;
                if key != garbage_key(shard.tree.owner) {
                    return Err(unreadable("the head of another container"));
                }
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

    /// One step of destroying a pool: up to [`DESTROY_STEP`] containers, remains of containers and notes of its placement
    /// groups go; when none is left, the pool.
    pub(crate) fn apply_destroy_pool(&mut self, pages: &mut Pages, pool: PoolId) -> Result<()> {
        let (members, remains) = self.to_destroy(pool);
        let mut left = DESTROY_STEP - members.len() - remains.len();
        for &(container, _) in &members {
            self.apply_destroy_container(pages, container)?;
        }
        for owner in members.into_iter().map(|(_, owner)| owner).chain(remains) {
            self.disown(pages, owner)?;
        }
        left -= standing::forget_some(self, pages, pool, left)?;
        if left > 0 {
            self.own.tree.remove(pages, &pool_key(pool))?;
            self.pools.remove(&pool);
        }
        self.own.save_all(pages)
    }

    /// Reads every page that the next step of destroying a pool changes.
    pub(crate) fn touch_destroy_pool(&self, pages: &Pages, pool: PoolId) -> Result<()> {
        let (members, remains) = self.to_destroy(pool);
        let left = DESTROY_STEP - members.len() - remains.len();
        for (container, owner) in members {
            self.shard(container)?.touch(pages)?;
            self.own.tree.locate(pages, &shard_key(container))?;
            self.own.tree.locate(pages, &garbage_key(owner))?;
        }
        for owner in remains {
            self.garbage.get(&owner).map_or(Ok(()), |shard| shard.touch(pages))?;
            self.own.tree.locate(pages, &garbage_key(owner))?;
        }
        standing::touch_some(self, pages, pool, left)?;
        self.own.tree.locate(pages, &pool_key(pool)).map(drop)
    }

    /// What the next step of destroying a pool takes: containers with their trees, and trees of containers that were
    /// destroyed before.
    fn to_destroy(&self, pool: PoolId) -> (Vec<(ContainerId, u32)>, Vec<u32>) {
        let live = self.shards.values().filter(|shard| shard.pool == pool).map(|shard| (shard.id, shard.tree.owner));
        let members: Vec<_> = live.take(DESTROY_STEP).collect();
        let dead = self.garbage.values().filter(|shard| shard.pool == pool).map(|shard| shard.tree.owner);
        let remains = dead.take(DESTROY_STEP - members.len()).collect();
        (members, remains)
    }

    /// The remains of a container are no pool's any more: one of the same name to come must not pay for them, and nobody
    /// decides their changes.
    fn disown(&mut self, pages: &mut Pages, owner: u32) -> Result<()> {
        let Some(shard) = self.garbage.get_mut(&owner) else { return Ok(()) };
        if let Some(pool) = self.pools.get_mut(&shard.pool) {
            pool.pages = pool.pages.saturating_sub(shard.pages());
            pool.blocks = pool.blocks.saturating_sub(shard.blocks);
            for (_, intent) in self.intents.of(owner) {
                pool.intent_pages = pool.intent_pages.saturating_sub(intent.quota_pages());
                pool.intent_blocks = pool.intent_blocks.saturating_sub(intent.block_count());
            }
        }
        self.intents.forget_names(shard.pool, owner);
        shard.pool = PoolId::from_bytes([0; 16]);
        shard.save_all(pages)?;
        enter(&mut self.own, pages, &garbage_key(owner), shard)
    }

    pub(crate) fn apply_create_container(
        &mut self,
        pages: &mut Pages,
        pool: PoolId,
        container: ContainerId,
    ) -> Result<()> {
        self.own.counter += 1;
        let shard = Shard::create(pages, container, pool, self.own.counter)?;
        enter(&mut self.own, pages, &shard_key(container), &shard)?;
        self.count(&shard);
        self.shards.insert(container, shard);
        Ok(())
    }

    pub(crate) fn apply_destroy_container(&mut self, pages: &mut Pages, container: ContainerId) -> Result<()> {
        let mut shard = self.shards.remove(&container).ok_or(Error::NoContainer(container))?;
        shard.snapshots.clear();
        self.own.tree.remove(pages, &shard_key(container))?;
        enter(&mut self.own, pages, &garbage_key(shard.tree.owner), &shard)?;
        self.garbage.insert(shard.tree.owner, shard);
        Ok(())
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
        shard.save_all(pages)?;
        enter(&mut self.own, pages, &shard_key(container), shard)
    }

    /// Runs `change` on a shard, as [`Catalog::with_shard`], and writes its entry anew: something of its site changes.
    pub(crate) fn with_site<T>(
        &mut self,
        pages: &mut Pages,
        container: ContainerId,
        change: impl FnOnce(&mut Shard, &mut Pages) -> Result<T>,
    ) -> Result<T> {
        let done = self.with_shard(container, |shard| change(shard, pages))?;
        let shard = self.shards.get(&container).ok_or(Error::NoContainer(container))?;
        enter(&mut self.own, pages, &shard_key(container), shard)?;
        Ok(done)
    }

    /// Takes in a container whose head was made anew; remains of one when it has no name.
    pub(crate) fn adopt(&mut self, pages: &mut Pages, container: Option<ContainerId>, shard: Shard) -> Result<()> {
        let owner = shard.tree.owner;
        match container {
            Some(id) => drop(self.shards.insert(id, shard)),
            None => drop(self.garbage.insert(owner, shard)),
        }
        self.enter_tree(pages, owner)
    }

    /// Writes the entry of the container with this tree anew, after a repair gave it another root.
    pub(crate) fn enter_tree(&mut self, pages: &mut Pages, owner: u32) -> Result<()> {
        if let Some(shard) = self.shards.values().find(|shard| shard.tree.owner == owner) {
            enter(&mut self.own, pages, &shard_key(shard.id), shard)?;
        }
        if let Some(shard) = self.garbage.get(&owner) {
            enter(&mut self.own, pages, &garbage_key(owner), shard)?;
        }
        Ok(())
    }

    /// Whether the entry of `shard` is what memory says. For `check`.
    pub(crate) fn is_entered(&self, pages: &Pages, shard: &Shard) -> Result<bool> {
        let is_live = self.shards.get(&shard.id).is_some_and(|live| live.tree.owner == shard.tree.owner);
        let key = if is_live { shard_key(shard.id) } else { garbage_key(shard.tree.owner) };
        Ok(self.own.tree.get(pages, &key)?.and_then(decode_site) == Some(shard.site()))
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

    /// Notes which requests of a session took effect on another target. Part of applying its record.
    pub(crate) fn learn(
        &mut self,
        pages: &mut Pages,
        session: SessionId,
        floor: u64,
        effects: &[(u64, Epoch)],
    ) -> Result<()> {
        self.sessions.learn(&mut self.own, pages, session, floor, effects)
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

fn enter(own: &mut Shard, pages: &mut Pages, key: &[u8], shard: &Shard) -> Result<()> {
    own.tree.insert(pages, key, Value { head: &encode_site(&shard.site()), tail: &[] }, 0)?;
    own.save_all(pages)
}

enum Entry {
    Pool(PoolId, u64),
    Shard(Site),
    Garbage(Site),
    Other,
}

#[cold]
pub(crate) fn unreadable(what: &str) -> Error {
    Error::Corrupt { place: "the catalog".into(), fault: format!("{what} that cannot be read") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Cursor;

    #[test]
    fn entries_have_their_golden_bytes() {
        let mut pages = Pages::in_memory(1 << 20).unwrap();
        let (mut catalog, root) = Catalog::create(&mut pages).unwrap();
        assert_eq!(root, [b"VOS1", &catalog.own.head.0.to_le_bytes()[..]].concat());
        let (pool, container) = (PoolId::from_bytes([7; 16]), ContainerId::from_bytes([8; 16]));
        catalog.apply_create_pool(&mut pages, pool, 0x0102).unwrap();
        catalog.apply_create_container(&mut pages, pool, container).unwrap();
        catalog.apply_snapshots(&mut pages, container, vec![Epoch(0x0405), Epoch(0x0605)]).unwrap();
        let gone = |shard: &mut Shard, _: &mut Pages| {
            (shard.rollback, shard.undone) = (Some(Epoch(0x0a09)), Epoch(0x0c0b));
            Ok(())
        };
        catalog.with_site(&mut pages, container, gone).unwrap();
        let shard = &catalog.shards[&container];
        let mut site = [shard.head.0, shard.tree.root.0, 1].map(u32::to_le_bytes).concat();
        site.extend([7; 16]);
        [[9, 10], [11, 12], [5, 4], [5, 6]].iter().for_each(|low| site.extend([low, &[0; 6][..]].concat()));
        let mut stored = Vec::new();
        let mut cursor = Cursor::at(&catalog.own.tree, &pages, &[]).unwrap();
        while cursor.is_valid() {
            let mut key = Vec::new();
            cursor.key().copy_to(&mut key);
            stored.push((key, cursor.value().to_vec()));
            cursor.next().unwrap();
        }
        let golden =
            [([&[1][..], &[7; 16]].concat(), vec![2, 1, 0, 0, 0, 0, 0, 0]), ([&[2][..], &[8; 16]].concat(), site)];
        assert_eq!(stored, golden);
        let site = &golden[1].1;
        assert_eq!(decode_site(site), Some(shard.site()));
        let descending = [&site[..SITE_BYTES], &[5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]].concat();
        let too_many = [&site[..SITE_BYTES], &(0..=900u64).flat_map(u64::to_le_bytes).collect::<Vec<_>>()].concat();
        for bad in [&site[1..], &site[..SITE_BYTES - 8], &descending, &too_many] {
            assert_eq!(decode_site(bad), None);
        }
        assert_eq!(garbage_key(0x0102), [3, 0, 0, 1, 2]);
    }
}

//! A small owner of a store, for tests: a table of keys in pages, with values inline or in bulk, driven by
//! records, and a model that says what it must hold after any number of them.
#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use media::{
    Backing, Error, Existing, Extent, Identity, Lsn, PageId, Record, Recovered, Region, Regions, Reserve, Staging,
    Store,
};
use rt::disk::{Dax, Disk, IoBuf, OpenMode};

pub const STORE: [u8; 16] = *b"0123456789abcdef";
/// Few slots a page, so that a few keys make many pages.
const SLOTS: u32 = 4;
const SLOT_BYTES: usize = 64;
const PAGES_MAX: usize = 240;
pub const KEYS_MAX: u32 = SLOTS * PAGES_MAX as u32;
const KIND: u16 = 7;

/// What an operation does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Inline(u64),
    Bulk(u32),
    /// Bulk whose bytes travel in the record, while there is room on the stage.
    Staged(u32),
    Delete,
}

#[derive(Clone, Debug)]
pub struct Op {
    pub key: u32,
    pub action: Action,
}

/// The operations in the order of the log, and when how many of them were acknowledged.
#[derive(Default)]
pub struct Model {
    pub ops: Vec<Op>,
    /// `(device events so far, operations acknowledged)`, ascending.
    pub acknowledged: Vec<(usize, u64)>,
    /// Sizes of the data region: the device events at which it was asked for and had, and its bytes.
    pub sizes: Vec<(usize, usize, u64)>,
}

impl Model {
    /// What the table holds after `count` operations: value, and the operation that wrote it.
    pub fn state(&self, count: u64) -> BTreeMap<u32, (u64, Action)> {
        let mut state = BTreeMap::new();
        for (number, op) in (1..).zip(&self.ops[..count as usize]) {
            match op.action {
                Action::Delete => state.remove(&op.key),
                Action::Staged(bytes) => state.insert(op.key, (number, Action::Bulk(bytes))),
                _ => state.insert(op.key, (number, op.action.clone())),
            };
        }
        state
    }

    /// Sizes that the data region may have after a power cut behind `events` device events.
    pub fn sizes_at(&self, events: usize) -> Vec<u64> {
        let had = self.sizes.iter().rposition(|(_, had, _)| *had <= events);
        let begun = self.sizes.iter().filter(|(asked, had, _)| *asked <= events && events < *had);
        had.map(|at| self.sizes[at].2).into_iter().chain(begun.map(|(_, _, bytes)| *bytes)).collect()
    }

    /// Operations that must survive a power cut after `events` device events.
    pub fn owed(&self, events: usize) -> u64 {
        self.acknowledged.iter().take_while(|(at, _)| *at <= events).map(|(_, count)| *count).max().unwrap_or(0)
    }
}

/// What a table holds: by key, the operation that wrote it, the value, and where its bulk lies.
pub type Contents = BTreeMap<u32, (u64, Action, Vec<Extent>)>;

/// The table of one store.
#[derive(Clone)]
pub struct Ledger {
    pub store: Store,
    table: Rc<RefCell<Table>>,
}

#[derive(Default)]
struct Table {
    applied: u64,
    pages: Vec<PageId>,
}

pub fn disk(path: &str) -> Disk {
    Disk::open(path, OpenMode { create: true, ..OpenMode::default() }).unwrap()
}

pub fn regions(log_bytes: u64, data_bytes: u64) -> Regions {
    Regions {
        log: Region::new(disk("/log"), 0, log_bytes),
        metadata: None,
        data: Region::new(disk("/data"), 0, data_bytes),
    }
}

/// Pages on a device of their own.
pub fn apart(log_bytes: u64, metadata_bytes: u64, data_bytes: u64) -> Regions {
    let metadata = Region::new(disk("/metadata"), 0, metadata_bytes);
    Regions { metadata: Some(metadata), ..regions(log_bytes, data_bytes) }
}

/// A log in mapped persistent memory.
pub fn mapped(log_bytes: u64, data_bytes: u64) -> Regions {
    let file = disk("/log.pmem");
    file.allocate(log_bytes).unwrap();
    drop(file);
    let data = Region::new(disk("/data"), 0, data_bytes);
    Regions {
        log: Region::whole(Disk::open_mapped("/log.pmem", Dax::Required).unwrap()).unwrap(),
        metadata: None,
        data,
    }
}

/// What there is, in its places.
pub fn whole() -> Regions {
    let region = |path| Region::whole(disk(path)).unwrap();
    if rt::disk::fs::exists("/log.pmem") {
        let log = Disk::open_mapped("/log.pmem", Dax::Required).unwrap();
        return Regions { log: Region::whole(log).unwrap(), metadata: None, data: region("/data") };
    }
    let metadata = rt::disk::fs::exists("/metadata").then(|| region("/metadata"));
    Regions { log: region("/log"), metadata, data: region("/data") }
}

impl Ledger {
    pub fn format(regions: Regions, budget: usize) -> Ledger {
        let identity = Identity { store: STORE, target: 3 };
        let store = Store::format(regions, identity, budget, Existing::Refuse).unwrap();
        Ledger { store, table: Rc::default() }
    }

    pub fn open(budget: usize) -> Result<(Ledger, Recovered), Error> {
        let (store, mut recovery) = Store::open(whole(), budget)?;
        let table = Table::decode(&recovery.root);
        let ledger = Ledger { store, table: Rc::new(RefCell::new(table)) };
        while let Some(record) = recovery.next_record()? {
            ledger.replay(record)?;
        }
        let recovered = ledger.store.finish_recovery(recovery)?;
        Ok((ledger, recovered))
    }

    /// Gives the data region another size, as an owner would: a value behind the fence is written once more.
    pub async fn resize(&self, bytes: u64, model: &RefCell<Model>) -> Result<(), Error> {
        if bytes >= self.store.data_bytes() {
            return self.store.grow(bytes, Backing::File).await;
        }
        self.fence(bytes).await.inspect_err(|_| _ = self.store.lift_fence())?;
        loop {
            for (key, (_, action, extents)) in self.contents()? {
                if extents.iter().any(|extent| self.store.is_behind_fence(*extent)) {
                    self.waiting(async || self.submit(&Op { key, action: action.clone() }, model).await).await?;
                }
            }
            let mut from = Some(PageId(0));
            while let Some(page) = from {
                from = self.waiting(async || self.store.move_pages(page)).await?;
            }
            self.store.move_maps();
            self.store.checkpoint_now().await?;
            if self.store.fenced().is_none() {
                return Err(media::ResizeError::Yielded.into());
            }
            if self.store.cut(Backing::File).await? {
                return Ok(());
            }
        }
    }

    /// Puts a fence up and waits until it stands. What comes in between runs in between.
    pub async fn fence(&self, bytes: u64) -> Result<(), Error> {
        self.store.fence(bytes)?;
        while self.store.move_fence()? {
            // Time for a write of others.
            rt::sleep(std::time::Duration::from_micros(100)).await;
        }
        match self.store.fenced() {
            Some(_) => Ok(()),
            None => Err(media::ResizeError::Yielded.into()),
        }
    }

    /// Lifts the fence, if there is one, and all that is behind it.
    pub fn lift_fence(&self) -> bool {
        let is_lifted = self.store.lift_fence();
        while self.store.move_fence().unwrap() {}
        is_lifted
    }

    /// Does something again for as long as the store is busy.
    async fn waiting<T>(&self, work: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match work().await {
                Err(Error::Busy { .. } | Error::LogFull { .. }) => self.store.checkpoint_now().await?,
                done => return done,
            }
        }
    }

    pub fn applied(&self) -> u64 {
        self.table.borrow().applied
    }

    /// Does `op` and returns its position; it is not durable yet.
    pub async fn submit(&self, op: &Op, model: &RefCell<Model>) -> Result<Lsn, Error> {
        let (staging, action, staged) = self.stage(op);
        let reservation = match action {
            Action::Bulk(bytes) => {
                let reservation = self.store.reserve(bytes as u64)?;
                // The number is not known yet: the content goes by key and length alone.
                let content = IoBuf::from_slice(&content(op.key, bytes));
                self.store.bulk_write(&reservation, 0, content.into(), None).await?;
                Some(reservation)
            }
            _ => None,
        };
        let extents = reservation.as_ref().map(|reservation| reservation.extents()).unwrap_or(&staged);
        let number = self.applied() + 1;
        let payload = encode(number, op.key, &action, extents);
        let reserve = if op.action == Action::Delete { Reserve::Critical } else { Reserve::Normal };
        self.load(op.key)?;
        // Two parts, as an owner would: a head and a body.
        let behind = bytes_behind(op.key, &action);
        let lsn = self.store.append(KIND, &[&payload[..8], &payload[8..], &behind], reserve)?;
        staging.commit();
        if let Some(reservation) = &reservation {
            self.store.commit(reservation);
        }
        self.apply(&payload, lsn)?;
        model.borrow_mut().ops.push(op.clone());
        Ok(lsn)
    }

    /// As `submit`, for stores whose tasks do not run.
    pub fn submit_now(&self, op: &Op, model: &RefCell<Model>) -> Result<Lsn, Error> {
        let (staging, action, staged) = self.stage(op);
        let reservation = match action {
            Action::Bulk(bytes) => {
                let reservation = self.store.reserve(bytes as u64)?;
                self.store.bulk_write_now(&reservation, 0, &content(op.key, bytes))?;
                Some(reservation)
            }
            _ => None,
        };
        let extents = reservation.as_ref().map(|reservation| reservation.extents()).unwrap_or(&staged);
        let payload = encode(self.applied() + 1, op.key, &action, extents);
        let reserve = if op.action == Action::Delete { Reserve::Critical } else { Reserve::Normal };
        self.load(op.key)?;
        let lsn = self.store.append(KIND, &[&payload, &bytes_behind(op.key, &action)], reserve)?;
        staging.commit();
        if let Some(reservation) = &reservation {
            self.store.commit(reservation);
        }
        self.apply(&payload, lsn)?;
        model.borrow_mut().ops.push(op.clone());
        Ok(lsn)
    }

    /// Puts a staged value on the stage; if that has no room, it is bulk as others. Returns what is done.
    fn stage(&self, op: &Op) -> (Staging<'_>, Action, Vec<Extent>) {
        let mut staging = self.store.staging();
        let Action::Staged(bytes) = op.action else { return (staging, op.action.clone(), Vec::new()) };
        match staging.add(&content(op.key, bytes)) {
            Some(block) => (staging, op.action.clone(), vec![Extent { block, blocks: 1 }]),
            None => (staging, Action::Bulk(bytes), Vec::new()),
        }
    }

    fn replay(&self, record: Record<'_>) -> Result<(), Error> {
        assert_eq!(record.kind, KIND);
        let (_, _, slot, extents) = decode(record.payload);
        for extent in extents {
            match slot[12] {
                3 => self.store.restage(extent.block, &record.payload[slot.len()..])?,
                _ => self.store.mark_allocated(extent)?,
            }
        }
        self.apply(record.payload, record.lsn)
    }

    /// Loads what `apply` will need, so that it cannot fail.
    fn load(&self, key: u32) -> Result<(), Error> {
        let mut pages = self.store.pages();
        pages.begin_op();
        match self.table.borrow().pages.get((key / SLOTS) as usize) {
            Some(&page) if page != PageId::NONE => pages.get(page).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn apply(&self, payload: &[u8], lsn: Lsn) -> Result<(), Error> {
        let (number, key, bytes, _) = decode(payload);
        let mut table = self.table.borrow_mut();
        assert_eq!(number, table.applied + 1, "records come in order, none is missing");
        table.applied = number;
        let mut pages = self.store.pages();
        pages.begin_op();
        let index = (key / SLOTS) as usize;
        if table.pages.len() <= index {
            table.pages.resize(index + 1, PageId::NONE);
        }
        if table.pages[index] == PageId::NONE {
            table.pages[index] = pages.allocate()?;
        }
        let id = table.pages[index];
        let page = pages.get_mut(id)?;
        page.set_kind(5);
        let slot = &mut page.body_mut()[(key % SLOTS) as usize * SLOT_BYTES..][..SLOT_BYTES];
        let old = decode(slot).3;
        slot.fill(0);
        if bytes[12] != 0 {
            slot[..bytes.len()].copy_from_slice(bytes);
        }
        let is_empty = page.body()[..SLOTS as usize * SLOT_BYTES].iter().all(|&byte| byte == 0);
        if is_empty {
            pages.free(id)?;
            table.pages[index] = PageId::NONE;
        }
        drop(pages);
        for extent in old {
            self.store.release(extent, lsn)?;
        }
        self.store.set_root(&table.encode())
    }

    /// Everything the table holds, read through pages and bulk.
    pub fn contents(&self) -> Result<Contents, Error> {
        let mut contents = BTreeMap::new();
        let ids = self.table.borrow().pages.clone();
        for (index, id) in (0u32..).zip(ids) {
            if id == PageId::NONE {
                continue;
            }
            let mut pages = self.store.pages();
            pages.begin_op();
            let body = pages.get(id)?.body();
            for slot in 0..SLOTS {
                let bytes = &body[slot as usize * SLOT_BYTES..][..SLOT_BYTES];
                if bytes.iter().any(|&byte| byte != 0) {
                    let (number, key, _, extents) = decode(bytes);
                    assert_eq!(key, index * SLOTS + slot);
                    contents.insert(key, (number, action(bytes), extents));
                }
            }
        }
        Ok(contents)
    }

    /// Asserts that the table is exactly what `count` operations of `model` make, that every value reads
    /// back, and that every block has one owner.
    pub fn verify(&self, model: &Model, count: u64) {
        assert_eq!(self.applied(), count);
        let contents = self.contents().unwrap();
        let found: BTreeMap<u32, (u64, Action)> =
            contents.iter().map(|(key, (number, action, _))| (*key, (*number, action.clone()))).collect();
        assert_eq!(found, model.state(count), "after {count} operations");
        for (key, (_, action, extents)) in &contents {
            if let Action::Bulk(bytes) = action {
                let mut read = Vec::new();
                for extent in extents {
                    let left = *bytes as usize - read.len();
                    let part = left.min(extent.bytes() as usize);
                    read.extend_from_slice(&self.store.bulk_read_now(*extent, 0, part).unwrap());
                    if let Some(staged) = self.store.staged(*extent) {
                        assert!(staged[..part] == read[..], "on the stage and on the device is the same");
                    }
                }
                assert!(read == content(*key, *bytes), "bulk of key {key}");
            }
        }
        let bulk: Vec<Extent> = contents.into_values().flat_map(|(_, _, extents)| extents).collect();
        self.store.check(bulk).unwrap();
    }
}

impl Table {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.applied.to_le_bytes().to_vec();
        self.pages.iter().for_each(|page| bytes.extend_from_slice(&page.0.to_le_bytes()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Table {
        if bytes.is_empty() {
            return Table::default();
        }
        let applied = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let pages = bytes[8..].chunks(4).map(|id| PageId(u32::from_le_bytes(id.try_into().unwrap()))).collect();
        Table { applied, pages }
    }
}

/// number 8 | key 4 | tag 1 | extents 1 | zero 2 | value or length 8 | extents 8 each. Slots hold the same.
/// Behind a record of tag 3 come the bytes.
fn encode(number: u64, key: u32, action: &Action, extents: &[Extent]) -> Vec<u8> {
    let (tag, value) = match *action {
        Action::Delete => (0, 0),
        Action::Inline(value) => (1, value),
        Action::Bulk(bytes) => (2, bytes as u64),
        Action::Staged(bytes) => (3, bytes as u64),
    };
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend_from_slice(&key.to_le_bytes());
    bytes.extend_from_slice(&[tag, extents.len() as u8, 0, 0]);
    bytes.extend_from_slice(&value.to_le_bytes());
    for extent in extents {
        bytes.extend_from_slice(&extent.block.to_le_bytes());
        bytes.extend_from_slice(&extent.blocks.to_le_bytes());
    }
    assert!(bytes.len() <= SLOT_BYTES, "the tests' bulk values have few pieces");
    bytes
}

fn decode(bytes: &[u8]) -> (u64, u32, &[u8], Vec<Extent>) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let extents = (0..bytes[13] as usize)
        .map(|index| Extent { block: word(24 + index * 8), blocks: word(28 + index * 8) })
        .collect::<Vec<_>>();
    (u64::from_le_bytes(bytes[..8].try_into().unwrap()), word(8), &bytes[..24 + extents.len() * 8], extents)
}

fn action(bytes: &[u8]) -> Action {
    let value = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    match bytes[12] {
        1 => Action::Inline(value),
        2 | 3 => Action::Bulk(value as u32),
        tag => panic!("tag {tag}"),
    }
}

/// What a record has behind its fields.
fn bytes_behind(key: u32, action: &Action) -> Vec<u8> {
    match *action {
        Action::Staged(bytes) => content(key, bytes),
        _ => Vec::new(),
    }
}

/// What a bulk value of `key` with `bytes` bytes holds.
fn content(key: u32, bytes: u32) -> Vec<u8> {
    (0..bytes)
        .map(|at| (key.wrapping_mul(31) ^ bytes.wrapping_mul(7) ^ at.wrapping_mul(13) ^ (at >> 8)) as u8)
        .collect()
}

/// Random operations over `keys` keys: mostly small values, some bulk, some deletes.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    /// As `op`: staged values, bulk of a block, and deletes.
    pub fn staged_op(&mut self, keys: u32) -> Op {
        let key = self.below(keys as u64) as u32;
        let action = match self.below(10) {
            0..=5 => Action::Staged((media::STAGED_BYTES_MIN as u64 + self.below(2049)) as u32),
            6..=7 => Action::Bulk(self.below(4096) as u32 + 1),
            _ => Action::Delete,
        };
        Op { key, action }
    }

    pub fn op(&mut self, keys: u32, bulk_bytes_max: u64) -> Op {
        let key = self.below(keys as u64) as u32;
        let action = match self.below(10) {
            0..=3 => Action::Inline(self.below(1 << 30)),
            4..=5 => Action::Bulk(self.below(bulk_bytes_max) as u32 + 1),
            6..=7 => Action::Staged((media::STAGED_BYTES_MIN as u64 + self.below(2049)) as u32),
            _ => Action::Delete,
        };
        Op { key, action }
    }
}

//! `vos` alone, on one thread, against redb, fjall and what DAOS's own store does.
//!
//! # Shape
//! [`Workload`] runs the same loads on each store, from empty, in turns.
//!
//! # Not here
//! Large values (`bulk`). Checksums of small ones: clients compute them and engines verify them; `server` measures
//! both.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use media::{Existing, Identity, Lsn, Region, Regions};
use rt::disk::{Disk, OpenMode};
use types::{Conditions, ContainerId, Epoch, Key, ObjectClass, ObjectId, ObjectType, PoolId, SessionId};
use vos::{
    AkeyWrite, ChangeId, ListPart, Op, Origin, Payload, Prepare, Term, Update, ValueRead, ValueWrite, WalkedValue,
};

use crate::figure::{Budget, Figure, Samples, Unit};
use crate::measure::{Plan, timed};
use crate::peers::fjall::Fjall;
use crate::peers::log::BareLog;
use crate::peers::redb::Redb;
use crate::place::Place;
use crate::workload::{Engine, Rates, Workload};

pub(crate) const POOL: PoolId = PoolId::from_bytes([1; 16]);
pub(crate) const CONTAINER: ContainerId = ContainerId::from_bytes([2; 16]);

pub fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for place in [Place::Memory, Place::Disk] {
        for value_bytes in [64, 4096] {
            figures.extend(small(plan, place, Workload { records: 100_000, value_bytes, batch: 256 })?);
        }
    }
    figures.push(staged_again(plan)?);
    figures.push(prepared(plan)?);
    if plan.full {
        let once = Plan { rounds: 1, ..plan.clone() };
        figures.extend(small(&once, Place::Memory, Workload { records: 10_000_000, value_bytes: 64, batch: 256 })?);
    }
    Ok(figures)
}

/// Rates of the three stores, a round a row.
#[derive(Default)]
struct Measured {
    update: Samples,
    fetch: Samples,
    new_version: Samples,
    scan: Samples,
}

impl Measured {
    fn push(&mut self, rates: Rates) {
        self.update.push(rates.update);
        self.fetch.push(rates.fetch);
        self.new_version.push(rates.new_version);
        self.scan.push(rates.scan);
    }
}

fn small(plan: &Plan, place: Place, workload: Workload) -> Result<Vec<Figure>> {
    let [mut ours, mut redb, mut fjall] = std::array::from_fn(|_| Measured::default());
    let (mut overhead, mut lists) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let directory = place.directory(plan)?;
        let mut vos = Vos::create(directory.path(), Sizes::of(workload))?;
        ours.push(workload.run(&mut vos)?);
        let (seconds, listed) = timed(|| vos.list());
        lists.push(listed? as f64 / seconds);
        overhead.push(vos.page_bytes()? / (2 * workload.records) as f64 - (workload.value_bytes + KEY_BYTES) as f64);
        drop((vos, directory));
        let directory = place.directory(plan)?;
        redb.push(workload.run(&mut Redb::create(directory.path())?)?);
        drop(directory);
        let directory = place.directory(plan)?;
        fjall.push(workload.run(&mut Fjall::create(directory.path())?)?);
    }
    let of = match workload.records {
        n if n >= 1_000_000 => format!("{} M", n / 1_000_000),
        n => format!("{} k", n / 1000),
    };
    let bytes = workload.value_bytes;
    let figure = |what: &str, pick: fn(&Measured) -> &Samples| {
        let name = format!("{what} {bytes} B, {of} records, {}", place.name());
        Figure::new("store", name, Unit::PerSecond, pick(&ours).clone())
            .beside("redb", pick(&redb).clone())
            .beside("fjall", pick(&fjall).clone())
    };
    let mut update = figure("update", |measured| &measured.update);
    let mut fetch = figure("fetch", |measured| &measured.fetch);
    let mut new_version = figure("new version", |measured| &measured.new_version);
    let mut scan = figure("ordered scan", |measured| &measured.scan);
    if place == Place::Memory && workload.records == 100_000 {
        let [daos_update, daos_fetch] = match bytes {
            64 => [(147_000.0, 176_000.0), (479_000.0, 727_000.0)],
            _ => [(121_000.0, 142_000.0), (498_000.0, 591_000.0)],
        };
        update = update.beside_published("DAOS", daos_update.0, daos_update.1);
        fetch = fetch.beside_published("DAOS", daos_fetch.0, daos_fetch.1);
    }
    if place == Place::Memory {
        let at_least = |rate| Some(Budget::Floor(rate));
        (update.budget, fetch.budget) = match (bytes, workload.records) {
            (64, 100_000) => (at_least(800_000.0), at_least(1_800_000.0)),
            (64, _) => (at_least(300_000.0), at_least(700_000.0)),
            _ => (at_least(300_000.0), at_least(1_000_000.0)),
        };
        if workload.records > 100_000 {
            new_version.budget = at_least(200_000.0);
        }
        if bytes == 64 {
            scan.budget = at_least(20_000_000.0);
        }
    }
    let name = format!("list of dkeys, {bytes} B, {of} records, {}", place.name());
    let list = Figure::new("store", name, Unit::PerSecond, lists).beside("redb, scan", redb.scan.clone());
    let mut figures = vec![update, fetch, new_version, scan, list];
    if bytes == 64 && place == Place::Memory {
        let name = format!("bytes a version beyond key and value, {of} keys written twice");
        figures.push(Figure::new("store", name, Unit::Bytes, overhead).budget(Budget::Ceiling(130.0)));
    }
    Ok(figures)
}

/// Updates of 4 KiB as a store does them that has been in service for a while: log and stage were filled once, and take
/// memory that was touched before.
fn staged_again(plan: &Plan) -> Result<Figure> {
    let workload = Workload { records: 100_000, value_bytes: 4096, batch: 256 };
    // The log goes round within the second half, and the stage has all the memory it may have before it.
    let sizes = || Sizes { log: 512 << 20, data: 2 << 30, pages: 800 << 20 };
    let mut ours = || {
        let directory = Place::Memory.directory(plan)?;
        let mut vos = Vos::create(directory.path(), sizes())?;
        workload.load(&mut vos, 0)?;
        vos.store.media().checkpoint_blocking()?;
        workload.load(&mut vos, workload.records)
    };
    let mut bare = || {
        let directory = Place::Memory.directory(plan)?;
        let together = 1 << 20;
        Ok(BareLog::create(directory.path())?.rate(together, 400)? * (together / workload.value_bytes) as f64)
    };
    let [ours, bare] = plan.in_turns([&mut ours, &mut bare])?;
    let name = "update 4096 B, tmpfs, log and memory used before";
    let figure = Figure::new("store", name, Unit::PerSecond, ours).budget(Budget::Floor(300_000.0));
    Ok(figure.beside("written to a file, and no more", bare))
}

/// Of what is measured: dkeys of 16 bytes.
const KEY_BYTES: usize = 16;

/// How large the files and the memory for pages are.
pub(crate) struct Sizes {
    pub(crate) log: u64,
    pub(crate) data: u64,
    pub(crate) pages: usize,
}

impl Sizes {
    /// Room for every version, and memory for every page, as the peers' caches have.
    fn of(workload: Workload) -> Sizes {
        let records = 2 * workload.records as u64;
        let version = workload.value_bytes as u64 + 200;
        Sizes {
            log: (records * (version + 64)).clamp(64 << 20, 2 << 30),
            data: (2 * records * version).max(256 << 20),
            pages: (records * version * 2).max(1 << 30) as usize,
        }
    }
}

/// A store with one container.
pub(crate) struct Vos {
    pub(crate) store: vos::Store,
    pub(crate) object: ObjectId,
    pub(crate) akey: Key,
    /// Epoch of the latest update; each has its own.
    pub(crate) epoch: u64,
    checksums: Vec<u32>,
    pub(crate) out: Vec<u8>,
}

impl Vos {
    pub(crate) fn create(directory: &Path, sizes: Sizes) -> Result<Vos> {
        Vos::create_in(directory, directory, sizes)
    }

    /// With log and data in directories of their own.
    pub(crate) fn create_in(log: &Path, data: &Path, sizes: Sizes) -> Result<Vos> {
        let regions =
            Regions { log: region(log, "log", sizes.log)?, metadata: None, data: region(data, "data", sizes.data)? };
        let identity = Identity { store: *b"bench-vos-store!", target: 0 };
        let media = media::Store::format(regions, identity, sizes.pages, Existing::Refuse)?;
        let mut store = vos::Store::format(media)?;
        store.create_pool(POOL, sizes.data, Origin::default())?;
        store.create_container(POOL, CONTAINER, Origin::default())?;
        let class: ObjectClass = "S1".parse().ok().context("class S1")?;
        let object = ObjectId::new(ObjectType::MultiHashed, class, 0, 1);
        Ok(Vos { store, object, akey: Key::literal("0"), epoch: 1 << 20, checksums: Vec::new(), out: Vec::new() })
    }

    pub(crate) fn update(&mut self, dkey: &Key, value: &[u8]) -> Result<()> {
        self.write_with(dkey, value, |store, epoch, origin, update| store.update(CONTAINER, epoch, origin, update))
    }

    /// Prepares an update of one dkey as a member of a placement group that follows its leader.
    fn prepare(&mut self, change: ChangeId, dkey: &Key, value: &[u8]) -> Result<()> {
        self.write_with(dkey, value, |store, epoch, origin, update| {
            let prepare = Prepare { change, container: CONTAINER, origin, note: &[], ops: &[Op::Update(*update)] };
            store.prepare_judged(&prepare, epoch)
        })
    }

    fn write_with(
        &mut self,
        dkey: &Key,
        value: &[u8],
        write: impl Fn(&mut vos::Store, Epoch, Origin, &Update<'_>) -> vos::Result<Lsn>,
    ) -> Result<()> {
        self.epoch += 1;
        if self.checksums.is_empty() {
            self.checksums = codec::checksum::of_chunks(value);
        }
        let payload = Payload::Inline { bytes: value, checksums: &self.checksums };
        let akeys = [AkeyWrite { akey: &self.akey, value: ValueWrite::Single(payload) }];
        let update = Update { group: 0, oid: self.object, dkey, conditions: Conditions::None, akeys: &akeys };
        loop {
            // As a client's: the store remembers that it was done.
            let origin = Origin { session: SessionId(1), seq: self.epoch };
            match write(&mut self.store, Epoch(self.epoch), origin, &update) {
                Ok(_) => return Ok(()),
                // No task makes checkpoints here, so it is done in the middle, and its time counts.
                Err(vos::Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                    self.store.media().checkpoint_blocking()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Bytes of the container's pages.
    fn page_bytes(&self) -> Result<f64> {
        Ok(self.store.container_info(CONTAINER)?.pages as f64 * media::PAGE_BYTES as f64)
    }
}

impl Vos {
    /// Lists all dkeys; how many there are.
    fn list(&mut self) -> Result<usize> {
        let mut keys = 0;
        let mut after = None;
        loop {
            let part = ListPart::forward(after.as_ref(), vos::LIST_MAX);
            let listed = self.store.list_dkeys(CONTAINER, Epoch::MAX, 0, self.object, part)?;
            keys += listed.entries.len();
            match listed.next {
                None => return Ok(keys),
                next => after = next,
            }
        }
    }
}

/// A store as the member of a placement group has it: every update is prepared, made durable, and then committed; now and
/// then all members know of all, and how changes ended is forgotten.
struct Member {
    vos: Vos,
    /// Changes so far.
    number: u64,
}

impl Member {
    /// Changes between two moments at which all members know of all.
    const UNSETTLED: u64 = 4096;

    fn last(&self) -> ChangeId {
        ChangeId { group: 3, term: Term { interval: 1, round: 1 }, number: self.number }
    }
}

impl Engine for Member {
    fn name(&self) -> &'static str {
        "a member"
    }

    fn write(&mut self, keys: &[Key], value: &[u8]) -> Result<()> {
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            self.number += 1;
            self.vos.prepare(self.last(), key, value)?;
            changes.push(self.last());
        }
        let last = self.last();
        let store = &mut self.vos.store;
        store.media().flush_now()?;
        for change in changes {
            store.commit(POOL, change)?;
        }
        if last.number.is_multiple_of(Self::UNSETTLED) {
            store.settle_upto(POOL, last)?;
        }
        Ok(())
    }

    fn read(&mut self, keys: &[Key]) -> Result<usize> {
        self.vos.read(keys)
    }

    fn scan(&mut self) -> Result<usize> {
        self.vos.scan()
    }
}

/// Updates of one of two or more copies, beside plain ones.
fn prepared(plan: &Plan) -> Result<Figure> {
    let workload = Workload { records: 256 << 10, value_bytes: 64, batch: 64 };
    let mut plain = || {
        let directory = Place::Memory.directory(plan)?;
        workload.load(&mut Vos::create(directory.path(), Sizes::of(workload))?, 0)
    };
    let mut member = || {
        let directory = Place::Memory.directory(plan)?;
        workload.load(&mut Member { vos: Vos::create(directory.path(), Sizes::of(workload))?, number: 0 }, 0)
    };
    let [plain, member] = plan.in_turns([&mut plain, &mut member])?;
    let figure = Figure::new("store", "update 64 B, prepared and committed, tmpfs", Unit::PerSecond, member);
    Ok(figure.beside("plain", plain))
}

impl Engine for Vos {
    fn name(&self) -> &'static str {
        "vos"
    }

    fn write(&mut self, keys: &[Key], value: &[u8]) -> Result<()> {
        for key in keys {
            self.update(key, value)?;
        }
        Ok(self.store.media().flush_now()?)
    }

    fn read(&mut self, keys: &[Key]) -> Result<usize> {
        let mut bytes = 0;
        for key in keys {
            let read = self.store.fetch_value(CONTAINER, Epoch::MAX, 0, self.object, key, &self.akey, &mut self.out)?;
            if let ValueRead::Inline { .. } = read {
                bytes += self.out.len();
            }
        }
        Ok(bytes)
    }

    fn scan(&mut self) -> Result<usize> {
        let mut records = 0;
        let mut after = None;
        loop {
            let next =
                self.store.walk_records(CONTAINER, Epoch::MAX, after.as_ref(), vos::LIST_MAX, &mut |record| {
                    if let WalkedValue::Single(value) = record.value {
                        std::hint::black_box((record.dkey, value.inline().map(|bytes| bytes.first())));
                        records += 1;
                    }
                    ControlFlow::Continue(())
                })?;
            match next {
                None => return Ok(records),
                next => after = next,
            }
        }
    }
}

/// A file of `bytes`, opened as a server opens it.
pub(crate) fn region(directory: &Path, name: &str, bytes: u64) -> Result<Region> {
    let mode = OpenMode { create: true, direct: true, exclusive_lock: true };
    Ok(Region::new(Disk::open(directory.join(name), mode)?, 0, bytes))
}

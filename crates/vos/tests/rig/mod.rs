//! A store and its model side by side, for tests: does the same operations to both, and compares all that
//! can be read.
#![allow(dead_code)]

mod compare;
mod expected;
mod life;
mod resize;

use codec::checksum;
use media::{Existing, Identity, Lsn, Recovered, Region, Regions};
use rt::disk::{Disk, IoBuf, OpenMode};
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId, PoolId, SessionId};
use vos::model::{Object, Refusal, Scope, Step, Write};
use vos::{
    AkeyWrite, ChangeId, Error, FetchPlan, JoinLimits, Origin, Payload, Prepare, Punch, PunchScope, Reservation,
    Rewriting, Source, Store, Term, TxId, Update, ValueWrite,
};

#[allow(unused_imports)]
pub use compare::{compare_at, compare_diff, compare_lists};
#[allow(unused_imports)]
pub use expected::{Model, Outcome};
#[allow(unused_imports)]
pub use life::script;
#[allow(unused_imports)]
pub use resize::{fence, move_values, resize};

/// Indices read one by one; some extents lie far beyond.
const SPAN: u64 = 48;
/// Payloads from this size on go to bulk blocks: small, so that few bytes test both ways.
const BULK_FROM: usize = 300;

/// Whether a payload gets blocks and is written before its update. Of those that the store may stage, most are
/// left to it.
fn is_bulk(bytes: &[u8]) -> bool {
    let can_stage = (media::STAGED_BYTES_MIN..=vos::INLINE_BYTES_MAX).contains(&bytes.len());
    let may_stage = can_stage && !bytes[0].is_multiple_of(4);
    bytes.len() >= BULK_FROM && !may_stage
}

/// A seeded source of choices.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

pub fn pool(n: u8) -> PoolId {
    PoolId::from_bytes([0xa0 + n; 16])
}

pub fn container(n: u8) -> ContainerId {
    ContainerId::from_bytes([n + 1; 16])
}

pub fn object(n: u64) -> Object {
    ((n % 2) as u32, ObjectId { hi: 7, lo: n })
}

pub fn dkeys() -> Vec<Key> {
    let bytes = |b: &[u8]| Key::new(b).unwrap();
    vec![Key::from(0), Key::from(7), Key::from(u64::MAX), bytes(b"a"), bytes(b"a\0"), bytes(b"\0\0"), bytes(&[9; 200])]
}

pub fn akeys() -> Vec<Key> {
    let bytes = |b: &[u8]| Key::new(b).unwrap();
    vec![Key::from(1), Key::from(2), bytes(b"x"), bytes(b"x\0y"), bytes(&[0; 130])]
}

/// Something to do to a store.
#[derive(Clone, Debug)]
pub enum Op {
    CreatePool(u8, u64),
    DestroyPool(u8),
    SetQuota(u8, u64),
    CreateContainer(u8, u8),
    DestroyContainer(u8),
    Snapshots(u8, Vec<Epoch>),
    Update {
        container: u8,
        epoch: Epoch,
        object: u64,
        dkey: Key,
        conditions: Conditions,
        akeys: Vec<(Key, Write)>,
    },
    Punch {
        container: u8,
        epoch: Epoch,
        object: u64,
        scope: Scope,
        conditions: Conditions,
    },
    Rollback {
        container: u8,
        to: Epoch,
        asked: Epoch,
    },
    /// Forgets history before the horizon, and removes what nobody can see.
    Maintain(Epoch),
    /// Joins small extents.
    Coalesce,
    /// Gives the data region so many bytes, if what it holds can be moved.
    Resize(u64),
    /// Changes are of pool 0; their numbers are those of [`change`].
    Prepare {
        change: u64,
        container: u8,
        epoch: Epoch,
        steps: Vec<Step>,
    },
    Commit(u64),
    Abort(u64),
    /// The target follows the leader in whose term this change is.
    Adopt(u64),
    /// Every member knows, up to this change of its group.
    Settle(u64),
}

impl Op {
    /// Whether its record names who asked: what only ends a change does not.
    pub fn has_origin(&self) -> bool {
        !matches!(self, Op::Commit(_) | Op::Abort(_) | Op::Adopt(_) | Op::Settle(_))
    }

    /// The same where each container has a pool of its own: changes are those of the first.
    pub fn in_pools(self) -> Op {
        match self {
            Op::CreateContainer(_, c) => Op::CreateContainer(c, c),
            Op::Prepare { change, epoch, steps, .. } => Op::Prepare { change, container: 0, epoch, steps },
            op => op,
        }
    }
}

pub fn tx(n: u64) -> TxId {
    TxId { session: SessionId(77), seq: n }
}

/// Changes of two groups in turns, whose leader begins anew after every eight.
pub fn change(n: u64) -> ChangeId {
    let term = Term { interval: (n >> 35) as u32, round: (n >> 3) as u32 };
    ChangeId { group: (n % 2) as u32, term, number: n }
}

/// What a change's leader notes beside it.
pub fn note(n: u64) -> Vec<u8> {
    content(n, (n % 40) as usize)
}

/// Prepares a change of nobody in particular.
pub fn prepare(
    store: &mut Store,
    n: u64,
    container: ContainerId,
    epoch: u64,
    ops: &[vos::Op<'_>],
) -> Result<Lsn, Error> {
    let (change, origin, note) = (change(n), Origin::default(), note(n));
    store.prepare(&Prepare { change, container, origin, note: &note, ops }, Epoch(epoch))
}

pub fn commit(store: &mut Store, n: u64) -> Result<Lsn, Error> {
    store.commit(pool(0), change(n))
}

pub fn abort(store: &mut Store, n: u64) -> Result<Lsn, Error> {
    store.abort(pool(0), change(n))
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

pub fn format(log_bytes: u64, data_bytes: u64, memory_bytes: usize) -> Store {
    format_on(regions(log_bytes, data_bytes), memory_bytes)
}

/// Another store beside the first.
pub fn format_second(log_bytes: u64, data_bytes: u64, memory_bytes: usize) -> Store {
    let (log, data) = (disk("/second-log"), disk("/second-data"));
    let regions =
        Regions { log: Region::new(log, 0, log_bytes), metadata: None, data: Region::new(data, 0, data_bytes) };
    format_on(regions, memory_bytes)
}

fn format_on(regions: Regions, memory_bytes: usize) -> Store {
    let identity = Identity { store: *b"0123456789abcdef", target: 0 };
    let media = media::Store::format(regions, identity, memory_bytes, Existing::Refuse).unwrap();
    Store::format(media).unwrap()
}

/// The store, what recovery says, and the origins it saw.
pub type Opened = (Store, Recovered, Vec<(Lsn, Origin)>);

pub fn open(memory_bytes: usize) -> Result<Opened, Error> {
    open_on("/log", "/data", memory_bytes)
}

/// The store of [`format_second`].
pub fn open_second(memory_bytes: usize) -> Result<Opened, Error> {
    open_on("/second-log", "/second-data", memory_bytes)
}

fn open_on(log: &str, data: &str, memory_bytes: usize) -> Result<Opened, Error> {
    let regions =
        Regions { log: Region::whole(disk(log)).unwrap(), metadata: None, data: Region::whole(disk(data)).unwrap() };
    let (media, recovery) = media::Store::open(regions, memory_bytes)?;
    let mut seen = Vec::new();
    let (store, recovered) = Store::recover(media, recovery, &mut |lsn, origin| seen.push((lsn, origin)))?;
    Ok((store, recovered, seen))
}

/// Changes a bit of `wanted`, where it lies on the disk `path`.
pub fn flip(path: &str, wanted: &[u8]) {
    let disk = disk(path);
    let mut all = IoBuf::for_read(disk.len().unwrap() as usize);
    disk.read_now(0, &mut all).unwrap();
    let at = all.windows(wanted.len()).position(|window| window == wanted).expect("the bytes are there");
    let block = at / 4096 * 4096;
    let mut bytes = IoBuf::from_slice(&all[block..block + 4096]);
    bytes[at - block] ^= 0x10;
    disk.write_now(block as u64, &bytes).unwrap();
}

/// Runs `body` on a machine of its own with empty disks.
pub fn on_node<T: 'static>(seed: u64, body: impl FnOnce() -> T + 'static) -> T {
    let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(seed));
    let node = sim.node("target");
    sim.run(async move { rt::sim::current().spawn_on(node, async move { body() }).await.unwrap() })
}

/// The bytes of a write: their own, so that a mix-up shows.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice(seed);
    (0..len).map(|_| dice.next() as u8).collect()
}

/// Operations at random: few objects, keys and indices, so that they meet.
pub struct Generator {
    pub dice: Dice,
    pub containers: u8,
    pub objects: u64,
    newest: u64,
    /// Epochs may fall behind the newest; not any more once `maintain` has forgotten history.
    pub in_order: bool,
    pub epochs_max: u64,
    /// Arrays of an akey have one record size: for tests that do not tell when one is forgotten.
    pub usual_sizes: bool,
    /// Number of the latest change that was prepared, whatever became of it.
    changes: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut dice = Dice(seed);
        let in_order = dice.chance(2);
        Generator {
            containers: 1 + dice.below(2) as u8,
            objects: 3,
            newest: 1,
            in_order,
            epochs_max: 24,
            usual_sizes: false,
            changes: dice.next() >> 1,
            dice,
        }
    }

    pub fn epoch(&mut self) -> Epoch {
        if self.in_order || self.dice.chance(3) {
            self.newest += self.dice.below(3);
        }
        let back = if self.in_order { 0 } else { self.dice.below(self.newest.min(6)) };
        Epoch(self.newest - back)
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Takes an epoch and leaves it unused.
    pub fn skip(&mut self) {
        self.newest += 1;
    }

    /// The last moment at which nothing more is written, when epochs come in order.
    pub fn past(&self) -> Epoch {
        Epoch(self.newest - 1)
    }

    pub fn op(&mut self) -> Op {
        let container = self.dice.below(u64::from(self.containers)) as u8;
        match self.dice.below(100) {
            0 => Op::Snapshots(
                container,
                (0..self.dice.below(4)).map(|back| Epoch(self.newest.saturating_sub(back).max(1))).collect(),
            ),
            1 if self.dice.chance(3) => Op::DestroyContainer(container),
            2 | 3 => Op::CreateContainer(0, container),
            4 if self.dice.chance(4) => Op::SetQuota(0, 1 << (24 + self.dice.below(4))),
            n if n < 12 => self.prepare(container),
            n if n < 22 => self.decide(),
            n if n < 40 => self.punch(container),
            _ => self.update(container),
        }
    }

    /// Up to four operations at one epoch. Only the first is conditional: what later ones may ask is told
    /// in `prepare`'s own test.
    fn prepare(&mut self, container: u8) -> Op {
        let epoch = self.epoch();
        self.changes += 1;
        let steps = (0..1 + self.dice.below(4))
            .map(|index| {
                let only = |conditions| if index == 0 { conditions } else { Conditions::None };
                let op = if self.dice.chance(3) { self.punch(container) } else { self.update(container) };
                match op {
                    Op::Update { object: o, dkey, conditions, akeys, .. } => {
                        Step::Update { object: object(o), dkey, conditions: only(conditions), akeys }
                    }
                    Op::Punch { object: o, scope, conditions, .. } => {
                        Step::Punch { object: object(o), scope, conditions: only(conditions) }
                    }
                    _ => unreachable!("an update or a punch"),
                }
            })
            .collect();
        Op::Prepare { change: self.changes, container, epoch, steps }
    }

    /// Decides one of the last changes, perhaps again, or one that never was; or lets some go.
    fn decide(&mut self) -> Op {
        let change = match self.dice.below(8) {
            0 => self.changes + 1000,
            back => self.changes.saturating_sub(back % 5),
        };
        match self.dice.below(16) {
            0..=8 => Op::Commit(change),
            9..=12 => Op::Abort(change),
            13 | 14 => Op::Settle(change.saturating_sub(4)),
            _ => Op::Adopt(change),
        }
    }

    fn conditions(&mut self) -> Conditions {
        if self.dice.chance(5) { Conditions::from_code(self.dice.below(5) as u8).unwrap() } else { Conditions::None }
    }

    pub fn update(&mut self, container: u8) -> Op {
        let epoch = self.epoch();
        let (object, dkey) = (self.dice.below(self.objects), self.dice.pick(&dkeys()).clone());
        let conditions = self.conditions();
        let mut all = akeys();
        let count = if self.dice.chance(3) { 1 + self.dice.below(3) } else { 1 };
        let akeys = (0..count)
            .map(|_| {
                let index = self.dice.below(all.len() as u64) as usize;
                let akey = all.swap_remove(index);
                (akey.clone(), self.write(&akey))
            })
            .collect();
        Op::Update { container, epoch, object, dkey, conditions, akeys }
    }

    fn write(&mut self, akey: &Key) -> Write {
        if self.dice.chance(3) {
            let len = match self.dice.below(8) {
                0 => 0,
                1 | 3 => 2000 + self.dice.below(2200),
                2 => 4096 + self.dice.below(9000),
                _ => self.dice.below(100),
            };
            return Write::Single(content(self.dice.next(), len as usize));
        }
        // Each akey has its record size; sometimes another is tried.
        let usual = 1 + akey.len() as u32 % 3;
        let record_bytes = if !self.usual_sizes && self.dice.chance(12) { usual + 1 } else { usual };
        let extents = self.extents(true);
        let extents = extents
            .into_iter()
            .map(|extent| (extent, content(self.dice.next(), (extent.count * u64::from(record_bytes)) as usize)))
            .collect();
        Write::Array(record_bytes, extents)
    }

    fn extents(&mut self, data: bool) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut at = 0;
        for _ in 0..1 + self.dice.below(3) {
            let start = at + self.dice.below(SPAN - 8);
            let count = match self.dice.below(12) {
                0 => 1,
                1 => 64 + self.dice.below(if data { 2000 } else { 1 << 40 }),
                2 => 16,
                _ => 1 + self.dice.below(20),
            };
            extents.push(Extent::new(start, count));
            at = start + count;
            if at > SPAN {
                break;
            }
        }
        if self.dice.chance(20) {
            extents.push(Extent::new((1 << 40) + at + self.dice.below(100), 1 + self.dice.below(5)));
        }
        extents
    }

    pub fn punch(&mut self, container: u8) -> Op {
        let epoch = self.epoch();
        let object = self.dice.below(self.objects);
        let conditions = self.conditions();
        let dkey = self.dice.pick(&dkeys()).clone();
        let scope = match self.dice.below(10) {
            0 => Scope::Object,
            1 | 2 => Scope::Dkey(dkey),
            3 | 4 => {
                let first = self.dice.below(4) as usize;
                Scope::Akeys(dkey, akeys()[first..first + 1 + self.dice.below(2) as usize].to_vec())
            }
            _ => Scope::Extents(dkey, self.dice.pick(&akeys()).clone(), self.extents(false)),
        };
        Op::Punch { container, epoch, object, scope, conditions }
    }
}

/// Does `op` to the store. Refusals by the model's rules are outcomes; anything else is an error.
pub fn submit(store: &mut Store, op: &Op, seq: u64) -> Result<(Outcome, Option<Lsn>), Error> {
    submit_as(store, op, Origin { session: SessionId(9), seq })
}

/// Does `op` as a request of somebody.
pub fn submit_as(store: &mut Store, op: &Op, origin: Origin) -> Result<(Outcome, Option<Lsn>), Error> {
    let end = store.media().end_lsn();
    let result = match op {
        Op::Prepare { change: n, container: c, epoch, steps } => {
            with_steps(store, container(*c), steps, &[], &mut |store, ops| {
                let (change, container, note) = (change(*n), container(*c), note(*n));
                store.prepare(&Prepare { change, container, origin, note: &note, ops }, *epoch)
            })
        }
        Op::Commit(n) => commit(store, *n),
        Op::Abort(n) => abort(store, *n),
        Op::Settle(n) => store.settle_upto(pool(0), change(*n)),
        Op::Adopt(n) => store.adopt(pool(0), change(*n).group, change(*n).term),
        Op::CreatePool(n, quota) => store.create_pool(pool(*n), *quota, origin),
        Op::DestroyPool(n) => store.destroy_pool(pool(*n), origin),
        Op::SetQuota(n, quota) => store.set_quota(pool(*n), *quota, origin),
        Op::CreateContainer(p, c) => store.create_container(pool(*p), container(*c), origin),
        Op::DestroyContainer(c) => store.destroy_container(container(*c), origin),
        Op::Snapshots(c, epochs) => store.set_snapshots(container(*c), epochs, origin),
        Op::Rollback { container: c, to, asked } => store.rollback(container(*c), *to, *asked, origin),
        Op::Maintain(horizon) => {
            for pool in store.pools() {
                for container in store.containers(pool) {
                    store.advance(container, *horizon)?;
                }
            }
            while store.maintain(1)? {}
            return Ok((Outcome::Done, None));
        }
        Op::Coalesce => {
            coalesce(store)?;
            return Ok((Outcome::Done, None));
        }
        Op::Resize(bytes) => {
            resize(store, *bytes)?;
            return Ok((Outcome::Done, None));
        }
        Op::Update { container: c, epoch, object: o, dkey, conditions, akeys } => {
            update(store, container(*c), *epoch, origin, object(*o), dkey, *conditions, akeys)
        }
        Op::Punch { container: c, epoch, object: o, scope, conditions } => {
            store.punch(container(*c), *epoch, origin, &lend_punch(object(*o), scope, *conditions))
        }
    };
    match result {
        // Said again, it takes no record.
        Ok(_) if !op.has_origin() && store.media().end_lsn() == end => Ok((Outcome::Done, None)),
        Ok(lsn) => Ok((Outcome::Done, Some(lsn))),
        Err(Error::NoPool(_) | Error::NoContainer(_)) => Ok((Outcome::Missing, None)),
        Err(Error::PoolExists(_) | Error::ContainerExists(_)) => Ok((Outcome::Present, None)),
        Err(Error::Exists) => Ok((Outcome::Refused(Refusal::Exists), None)),
        Err(Error::NotFound) => Ok((Outcome::Refused(Refusal::NotFound), None)),
        Err(Error::InProgress { .. }) => Ok((Outcome::Refused(Refusal::InProgress), None)),
        Err(Error::ChangeState { .. } | Error::OldTerm { .. }) => Ok((Outcome::Refused(Refusal::ChangeState), None)),
        Err(Error::RecordSize { stored, given }) => Ok((Outcome::Refused(Refusal::RecordSize { stored, given }), None)),
        Err(error) => Err(error),
    }
}

/// Limits of joining that a few hundred bytes reach.
pub fn tight_limits(dice: &mut Dice) -> JoinLimits {
    JoinLimits {
        region_bytes: *dice.pick(&[60, 200, 512, 1000, 4000]),
        large_bytes: *dice.pick(&[20, 50, 150, 400]),
        part_bytes: *dice.pick(&[1, 16, 64]),
        gap_bytes: *dice.pick(&[8, 64, 1000]),
        pieces: *dice.pick(&[2, 3, 8, 20, 512]),
        patience: *dice.pick(&[1, 4, 1024]),
        judged: *dice.pick(&[1, 8, 1024]),
    }
}

/// Joins all small extents that can be; returns how many went, and how many came for them.
pub fn coalesce(store: &mut Store) -> Result<(usize, usize), Error> {
    let (mut gone, mut come) = (0, 0);
    loop {
        match store.plan_rewrite()? {
            Rewriting::Nothing => return Ok((gone, come)),
            Rewriting::Look => {}
            Rewriting::Found(mut rewrite) => {
                rewrite.copy_now(&store.media().clone())?;
                assert!(store.rewrite(&rewrite)?.is_some(), "nothing came between");
                gone += rewrite.counts().0;
                come += rewrite.counts().1;
            }
        }
    }
}

fn lend_punch((group, oid): Object, scope: &Scope, conditions: Conditions) -> Punch<'_> {
    let scope = match scope {
        Scope::Object => PunchScope::Object,
        Scope::Dkey(dkey) => PunchScope::Dkey(dkey),
        Scope::Akeys(dkey, akeys) => PunchScope::Akeys(dkey, akeys),
        Scope::Extents(dkey, akey, extents) => PunchScope::Extents { dkey, akey, extents },
    };
    Punch { group, oid, scope, conditions }
}

/// What is done with the operations once they are put together.
pub type Then<'a> = &'a mut dyn FnMut(&mut Store, &[vos::Op<'_>]) -> Result<Lsn, Error>;

/// Puts `steps` together as requests, behind `before`, with bulk data written.
pub fn with_steps(
    store: &mut Store,
    container: ContainerId,
    steps: &[Step],
    before: &[vos::Op<'_>],
    then: Then<'_>,
) -> Result<Lsn, Error> {
    match steps.split_first() {
        None => then(store, before),
        Some((Step::Punch { object, scope, conditions }, rest)) => {
            let mut ops = before.to_vec();
            ops.push(vos::Op::Punch(lend_punch(*object, scope, *conditions)));
            with_steps(store, container, rest, &ops, then)
        }
        Some((Step::Update { object, dkey, conditions, akeys }, rest)) => {
            with_update(store, container, *object, dkey, *conditions, akeys, &mut |store, update| {
                let mut ops = before.to_vec();
                ops.push(vos::Op::Update(*update));
                with_steps(store, container, rest, &ops, then)
            })
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub fn update(
    store: &mut Store,
    container: ContainerId,
    epoch: Epoch,
    origin: Origin,
    object: Object,
    dkey: &Key,
    conditions: Conditions,
    akeys: &[(Key, Write)],
) -> Result<Lsn, Error> {
    with_update(store, container, object, dkey, conditions, akeys, &mut |store, update| {
        store.update(container, epoch, origin, update)
    })
}

pub fn with_update(
    store: &mut Store,
    container: ContainerId,
    (group, oid): Object,
    dkey: &Key,
    conditions: Conditions,
    akeys: &[(Key, Write)],
    then: &mut dyn FnMut(&mut Store, &Update<'_>) -> Result<Lsn, Error>,
) -> Result<Lsn, Error> {
    let mut placed: Vec<Vec<(Vec<u32>, Option<Reservation>)>> = Vec::new();
    for (_, write) in akeys {
        let values: Vec<&[u8]> = match write {
            Write::Single(bytes) => vec![bytes],
            Write::Array(_, extents) => extents.iter().map(|(_, bytes)| &bytes[..]).collect(),
        };
        let mut rows = Vec::new();
        for bytes in values {
            let reservation = if is_bulk(bytes) {
                let reservation = store.reserve_bulk(container, bytes.len() as u64)?;
                store.media().bulk_write_now(reservation.media().unwrap(), 0, bytes)?;
                Some(reservation)
            } else {
                None
            };
            rows.push((checksum::of_chunks(bytes), reservation));
        }
        placed.push(rows);
    }
    fn lend<'a>(bytes: &'a [u8], row: &'a (Vec<u32>, Option<Reservation>)) -> Payload<'a> {
        match &row.1 {
            Some(at) => Payload::Bulk { at, bytes: bytes.len() as u64, checksums: &row.0 },
            None => Payload::Inline { bytes, checksums: &row.0 },
        }
    }
    let extents: Vec<Vec<(Extent, Payload<'_>)>> = akeys
        .iter()
        .zip(&placed)
        .map(|((_, write), rows)| match write {
            Write::Single(_) => Vec::new(),
            Write::Array(_, extents) => {
                extents.iter().zip(rows).map(|((extent, bytes), row)| (*extent, lend(bytes, row))).collect()
            }
        })
        .collect();
    let writes: Vec<AkeyWrite<'_>> = akeys
        .iter()
        .zip(&placed)
        .zip(&extents)
        .map(|(((akey, write), rows), extents)| AkeyWrite {
            akey,
            value: match write {
                Write::Single(bytes) => ValueWrite::Single(lend(bytes, &rows[0])),
                Write::Array(record_bytes, _) => ValueWrite::Array { record_bytes: *record_bytes, extents },
            },
        })
        .collect();
    then(store, &Update { group, oid, dkey, conditions, akeys: &writes })
}

/// The bytes of a bulk value.
pub fn read_blocks(store: &Store, blocks: &[vos::BulkExtent], bytes: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for extent in blocks {
        all.extend_from_slice(&store.media().bulk_read_now(*extent, 0, extent.bytes() as usize).unwrap());
    }
    all.truncate(bytes as usize);
    all
}

/// The bytes a plan names, verified; holes are zeros.
pub fn bytes_of(store: &Store, plan: &FetchPlan, akey: usize) -> Vec<(Extent, Option<Vec<u8>>)> {
    plan.akeys[akey]
        .pieces
        .iter()
        .map(|piece| {
            let (payload, checksums, part) = match &piece.source {
                Source::Hole => return (piece.extent, None),
                Source::Inline { payload, checksums, part } => (plan.inline[payload.clone()].to_vec(), checksums, part),
                Source::Bulk { extents, bytes, checksums, part } => {
                    assert!(plan.pin.is_some(), "bulk is pinned");
                    (read_blocks(store, extents, *bytes), checksums, part)
                }
            };
            checksum::verify_chunks(&payload, checksums).unwrap();
            (piece.extent, Some(payload[part.start as usize..part.end as usize].to_vec()))
        })
        .collect()
}

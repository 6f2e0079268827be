//! Traps: stories that went wrong in the system this one follows, told to this one. The list of all of them, and
//! where each is told, is `docs/traps.md`.
//!
//! # Shape
//! One file a theme: `time` (epochs, restarts), `lives` (who exists when), `arrays` (extents, holes, cuts),
//! `lists` (anchors, full answers), `upkeep` (passes, plans, tiny pools, destroyed pools).

#[path = "../rig/mod.rs"]
mod rig;

mod arrays;
mod lists;
mod lives;
mod time;
mod upkeep;

use rig::with_steps;
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId};
use vos::model::{Step, Write};
use vos::{AkeyRead, Error, Origin, Punch, PunchScope, ReadWhat, Store};

const OID: ObjectId = ObjectId { hi: 1, lo: 2 };
const MEMORY_BYTES: usize = 4 << 20;

fn id() -> ContainerId {
    rig::container(0)
}

/// A pool of 8 MiB with one container.
fn store() -> Store {
    let mut store = rig::format(1 << 20, 16 << 20, MEMORY_BYTES);
    store.create_pool(rig::pool(0), 8 << 20, Origin::default()).unwrap();
    store.create_container(rig::pool(0), id(), Origin::default()).unwrap();
    store
}

fn dkey() -> Key {
    Key::literal("d")
}

fn akey() -> Key {
    Key::literal("a")
}

/// Writes to akeys of one dkey, waiting for room when the store asks for it.
fn write_all(store: &mut Store, epoch: u64, dkey: &Key, akeys: &[(Key, Write)]) -> Result<(), Error> {
    loop {
        let origin = Origin::default();
        match rig::update(store, id(), Epoch(epoch), origin, (0, OID), dkey, Conditions::None, akeys) {
            Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                store.media().checkpoint_blocking().unwrap();
            }
            done => return done.map(drop),
        }
    }
}

/// A single value.
fn write(store: &mut Store, epoch: u64, dkey: &Key, bytes: &[u8]) {
    write_all(store, epoch, dkey, &[(akey(), Write::Single(bytes.to_vec()))]).unwrap();
}

fn punch(store: &mut Store, epoch: u64, scope: PunchScope<'_>) -> Result<(), Error> {
    let punch = Punch { group: 0, oid: OID, scope, conditions: Conditions::None };
    store.punch(id(), Epoch(epoch), Origin::default(), &punch).map(drop)
}

/// The single value of `dkey`, when there is one.
fn read(store: &mut Store, at: u64, dkey: &Key) -> Option<Vec<u8>> {
    let akey = akey();
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Single }];
    let plan = store.fetch(id(), Epoch(at), 0, OID, dkey, &reads, Conditions::None).unwrap();
    rig::bytes_of(store, &plan, 0).pop().and_then(|(_, bytes)| bytes)
}

/// The array of one-byte records under `dkey`, with `.` for holes.
fn records(store: &mut Store, at: u64, until: u64) -> String {
    let (dkey, akey, extents) = (dkey(), akey(), [Extent::new(0, until)]);
    let reads = [AkeyRead { akey: &akey, what: ReadWhat::Array(&extents) }];
    let plan = store.fetch(id(), Epoch(at), 0, OID, &dkey, &reads, Conditions::None).unwrap();
    let mut out = String::new();
    for (extent, bytes) in rig::bytes_of(store, &plan, 0) {
        match bytes {
            Some(bytes) => out.extend(bytes.iter().map(|b| *b as char)),
            None => out.extend((0..extent.count).map(|_| '.')),
        }
    }
    out
}

/// Every dkey that has something visible, `limit` at a time, `between` called after each part.
fn list(store: &mut Store, at: u64, limit: usize, mut between: impl FnMut(&mut Store, &Key)) -> Vec<Key> {
    let mut listed: Vec<Key> = Vec::new();
    loop {
        let part = store.list_dkeys(id(), Epoch(at), 0, OID, vos::ListPart::forward(listed.last(), limit)).unwrap();
        assert!(part.entries.len() <= limit && (part.next.is_some() || part.entries.len() <= limit));
        let last = part.entries.last().cloned();
        listed.extend(part.entries);
        match last.filter(|_| part.next.is_some()) {
            Some(last) => between(store, &last),
            None => return listed,
        }
    }
}

fn prepare(store: &mut Store, tx: u64, epoch: u64, steps: &[Step]) -> Result<(), Error> {
    with_steps(store, id(), steps, &[], &mut |store, ops| rig::prepare(store, tx, id(), epoch, ops)).map(drop)
}

fn commit(store: &mut Store, tx: u64) -> Result<(), Error> {
    rig::commit(store, tx).map(drop)
}

fn abort(store: &mut Store, tx: u64) -> Result<(), Error> {
    rig::abort(store, tx).map(drop)
}

/// Forgets history before `horizon`, and does all upkeep there is.
fn forget(store: &mut Store, horizon: u64) {
    store.advance(id(), Epoch(horizon)).unwrap();
    while upkeep(store, 4) {}
}

/// Some steps of upkeep, waiting for room when the store asks for it; whether more is left.
fn upkeep(store: &mut Store, steps: usize) -> bool {
    loop {
        match store.maintain(steps) {
            Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                store.media().checkpoint_blocking().unwrap();
            }
            done => return done.unwrap(),
        }
    }
}

/// The process ends without a word, and another begins.
fn reopen(store: Store) -> Store {
    store.media().flush_now().unwrap();
    drop(store);
    let store = rig::open(MEMORY_BYTES).unwrap().0;
    store.check().expect_clean();
    store
}

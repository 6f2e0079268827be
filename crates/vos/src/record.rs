//! Log records: what the target was told to do, and where its bulk data lies.
//!
//! Every record begins with `session 8 | seq 8 | id 16` (container; pool for records of pools and placement groups). Then,
//! little-endian, ours:
//!
//! | kind                 | bytes                                                                       |
//! |----------------------|-----------------------------------------------------------------------------|
//! | 1 update             | epoch 8, minor 2, group 4, oid 16, dkey, akeys 2, then for each an akey write |
//! | 2 punch              | epoch 8, minor 2, group 4, oid 16, scope 1, then as the scope says          |
//! | 3 create pool        | quota 8                                                                     |
//! | 4 destroy pool       |                                                                             |
//! | 5 set quota          | quota 8                                                                     |
//! | 6 create container   | pool 16                                                                     |
//! | 7 destroy container  |                                                                             |
//! | 8 set snapshots      | count 4, epochs 8 each                                                      |
//! | 9 aggregate          | since 8, until 8, limit 4, carry, from                                      |
//! | 10 free              | tree 4, leaves 4                                                            |
//! | 11 advance           | horizon 8                                                                   |
//! | 12 rollback          | to 8, asked 8                                                               |
//! | 13 discard           | limit 4, from                                                               |
//! | 14 rewrite           | see `record/rewrite.rs`                                                     |
//! | 15 coalesced         | until 8                                                                     |
//! | 16 mend              | see `record/rewrite.rs`                                                     |
//! | 17 copy              | see `record/copy.rs`                                                        |
//! | 18 drop              | see `record/copy.rs`                                                        |
//! | 19 take out          | see `record/copy.rs`                                                        |
//! | 20 prepare           | change 20, note, epoch 8, minor 2, ops 2, then each op: see `record/change.rs` |
//! | 21 commit            | change 20                                                                   |
//! | 22 abort             | change 20                                                                   |
//! | 23 adopt             | group 4, term 8                                                             |
//! | 24 settle            | change 20                                                                   |
//! | 25 forget            | change 20                                                                   |
//! | 26 leave             | group 4                                                                     |
//! | 27 remember          | floor 8, count 2, for each number 8, epoch 8                                |
//!
//! | part       | bytes                                                                                   |
//! |------------|-----------------------------------------------------------------------------------------|
//! | key        | 1, integer 8; or 2, length 2, bytes                                                     |
//! | akey write | key, then 1, payload; or 2, record bytes 4, extents 2, each start 8, count 8, payload    |
//! | payload    | see `record/payload.rs`                                                                 |
//! | from       | length 2, composite key (empty: from the first)                                         |
//! | carry      | lowest version kept of object, dkey, akey: epoch 8, minor 2 each; newer 8; flags 1; below, if flag 4 |
//! | below      | start 8, hole 1, class 1, epoch 8, minor 2, index 8, bare 1                              |
//! | scope      | 1 object; 2 dkey: key; 3 akeys: key, count 2, keys; 4 extents: key, key, count 2, each start 8, count 8 |
//!
//! Conditions were checked before a record was written, so records carry none. The minor is recorded, so
//! that doing a record again gives the same keys.

pub(crate) mod change;
pub(crate) mod copy;
mod payload;
mod read;
pub(crate) mod rewrite;

use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId, PoolId, SessionId};

use self::payload::{OwnedPayload, push_payload};
use self::read::Reader;
use crate::aggregate::AggregateStep;
use crate::key::Version;
use crate::request::{AkeyWrite, ChangeId, Origin, Payload, Punch, PunchScope, Term, Update, ValueWrite};
use crate::shard::{Below, Carry};

/// Kind numbers, as in the table.
pub(crate) mod kind {
    pub(crate) const UPDATE: u16 = 1;
    pub(crate) const PUNCH: u16 = 2;
    pub(crate) const CREATE_POOL: u16 = 3;
    pub(crate) const DESTROY_POOL: u16 = 4;
    pub(crate) const SET_QUOTA: u16 = 5;
    pub(crate) const CREATE_CONTAINER: u16 = 6;
    pub(crate) const DESTROY_CONTAINER: u16 = 7;
    pub(crate) const SET_SNAPSHOTS: u16 = 8;
    pub(crate) const AGGREGATE: u16 = 9;
    pub(crate) const FREE: u16 = 10;
    pub(crate) const ADVANCE: u16 = 11;
    pub(crate) const ROLLBACK: u16 = 12;
    pub(crate) const DISCARD: u16 = 13;
    pub(crate) const REWRITE: u16 = 14;
    pub(crate) const COALESCED: u16 = 15;
    pub(crate) const MEND: u16 = 16;
    pub(crate) const COPY: u16 = 17;
    pub(crate) const DROP: u16 = 18;
    pub(crate) const TAKE_OUT: u16 = 19;
    pub(crate) const PREPARE: u16 = 20;
    pub(crate) const COMMIT: u16 = 21;
    pub(crate) const ABORT: u16 = 22;
    pub(crate) const ADOPT: u16 = 23;
    pub(crate) const SETTLE: u16 = 24;
    pub(crate) const FORGET: u16 = 25;
    pub(crate) const LEAVE: u16 = 26;
    pub(crate) const REMEMBER: u16 = 27;
}

const INTEGER: u8 = 1;
const BYTES: u8 = 2;
const SINGLE: u8 = 1;
const ARRAY: u8 = 2;

/// A record read back.
#[derive(Debug)]
pub(crate) enum Record<'a> {
    Update {
        container: ContainerId,
        version: Version,
        update: OwnedUpdate<'a>,
    },
    Punch {
        container: ContainerId,
        version: Version,
        punch: OwnedPunch,
    },
    CreatePool {
        pool: PoolId,
        quota: u64,
    },
    DestroyPool {
        pool: PoolId,
    },
    SetQuota {
        pool: PoolId,
        quota: u64,
    },
    CreateContainer {
        container: ContainerId,
        pool: PoolId,
    },
    DestroyContainer {
        container: ContainerId,
    },
    SetSnapshots {
        container: ContainerId,
        epochs: Vec<Epoch>,
    },
    Aggregate(AggregateStep),
    Free {
        owner: u32,
        leaves: u32,
    },
    Advance {
        container: ContainerId,
        horizon: Epoch,
    },
    Rollback {
        container: ContainerId,
        to: Epoch,
        asked: Epoch,
    },
    Discard {
        container: ContainerId,
        limit: u32,
        from: Vec<u8>,
    },
    Rewrite {
        container: ContainerId,
        rewrite: rewrite::OwnedRewrite<'a>,
    },
    Coalesced {
        container: ContainerId,
        until: Epoch,
    },
    Mend {
        container: ContainerId,
        mend: rewrite::OwnedMend<'a>,
    },
    Copy {
        container: ContainerId,
        records: Vec<copy::OwnedIncoming<'a>>,
    },
    Drop {
        container: ContainerId,
        group: u32,
        limit: u32,
    },
    TakeOut {
        container: ContainerId,
        keys: Vec<&'a [u8]>,
    },
    Prepare {
        container: ContainerId,
        change: ChangeId,
        note: &'a [u8],
        version: Version,
        ops: Vec<change::OwnedOp<'a>>,
        bytes: &'a [u8],
    },
    Commit {
        pool: PoolId,
        change: ChangeId,
    },
    Abort {
        pool: PoolId,
        change: ChangeId,
    },
    Adopt {
        pool: PoolId,
        group: u32,
        term: Term,
    },
    Settle {
        pool: PoolId,
        change: ChangeId,
    },
    Forget {
        pool: PoolId,
        change: ChangeId,
    },
    Leave {
        pool: PoolId,
        group: u32,
    },
    /// Requests of its origin's session took effect on another target.
    Remember {
        floor: u64,
        effects: Vec<(u64, Epoch)>,
    },
}

impl Record<'_> {
    /// The epoch at which its request took effect, for the answer; zero where it has none. Nothing for a prepare, which is
    /// no effect yet: its commit is; and for what took effect elsewhere.
    pub(crate) fn effect(&self) -> Option<Epoch> {
        match self {
            Record::Update { version, .. } | Record::Punch { version, .. } => Some(version.epoch),
            Record::Prepare { .. } | Record::Remember { .. } => None,
            _ => Some(Epoch::ZERO),
        }
    }
}

/// An update that owns its keys and borrows its bytes from the record.
#[derive(Debug)]
pub(crate) struct OwnedUpdate<'a> {
    group: u32,
    oid: ObjectId,
    dkey: Key,
    akeys: Vec<(Key, OwnedValue<'a>)>,
}

#[derive(Debug)]
enum OwnedValue<'a> {
    Single(OwnedPayload<'a>),
    Array(u32, Vec<(Extent, OwnedPayload<'a>)>),
}

impl OwnedUpdate<'_> {
    /// Whether some of its payloads are staged.
    fn is_staged(&self) -> bool {
        let is_staged = |payload: &OwnedPayload<'_>| matches!(payload, OwnedPayload::Staged { .. });
        self.akeys.iter().any(|(_, value)| match value {
            OwnedValue::Single(payload) => is_staged(payload),
            OwnedValue::Array(_, extents) => extents.iter().any(|(_, payload)| is_staged(payload)),
        })
    }

    /// Lends the update in the form of a request.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&Update<'_>) -> T) -> T {
        let extents: Vec<Vec<(Extent, Payload<'_>)>> = self
            .akeys
            .iter()
            .map(|(_, value)| match value {
                OwnedValue::Single(_) => Vec::new(),
                OwnedValue::Array(_, extents) => extents.iter().map(|(e, p)| (*e, p.borrow())).collect(),
            })
            .collect();
        let akeys: Vec<AkeyWrite<'_>> = self
            .akeys
            .iter()
            .zip(&extents)
            .map(|((akey, value), extents)| AkeyWrite {
                akey,
                value: match value {
                    OwnedValue::Single(payload) => ValueWrite::Single(payload.borrow()),
                    OwnedValue::Array(record_bytes, _) => ValueWrite::Array { record_bytes: *record_bytes, extents },
                },
            })
            .collect();
        f(&Update { group: self.group, oid: self.oid, dkey: &self.dkey, conditions: Conditions::None, akeys: &akeys })
    }
}

/// A punch that owns its keys.
#[derive(Debug)]
pub(crate) struct OwnedPunch {
    group: u32,
    oid: ObjectId,
    scope: OwnedScope,
}

#[derive(Debug)]
enum OwnedScope {
    Object,
    Dkey(Key),
    Akeys(Key, Vec<Key>),
    Extents(Key, Key, Vec<Extent>),
}

impl OwnedPunch {
    /// The punch in the form of a request.
    pub(crate) fn borrow(&self) -> Punch<'_> {
        let scope = match &self.scope {
            OwnedScope::Object => PunchScope::Object,
            OwnedScope::Dkey(dkey) => PunchScope::Dkey(dkey),
            OwnedScope::Akeys(dkey, akeys) => PunchScope::Akeys(dkey, akeys),
            OwnedScope::Extents(dkey, akey, extents) => PunchScope::Extents { dkey, akey, extents },
        };
        Punch { group: self.group, oid: self.oid, scope, conditions: Conditions::None }
    }
}

fn push_head(out: &mut Vec<u8>, origin: Origin, id: [u8; 16]) {
    out.clear();
    out.extend_from_slice(&origin.session.0.to_le_bytes());
    out.extend_from_slice(&origin.seq.to_le_bytes());
    out.extend_from_slice(&id);
}

fn push_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.epoch.0.to_le_bytes());
    out.extend_from_slice(&version.minor.to_le_bytes());
}

fn push_key(out: &mut Vec<u8>, key: &Key) {
    match key {
        Key::Integer(n) => {
            out.push(INTEGER);
            out.extend_from_slice(&n.to_le_bytes());
        }
        Key::Bytes(bytes) => {
            out.push(BYTES);
            out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

fn push_checksums(out: &mut Vec<u8>, checksums: &[u32]) {
    checksums.iter().for_each(|checksum| out.extend_from_slice(&checksum.to_le_bytes()));
}

fn push_extent(out: &mut Vec<u8>, extent: Extent) {
    out.extend_from_slice(&extent.start.to_le_bytes());
    out.extend_from_slice(&extent.count.to_le_bytes());
}

/// Replaces `out` by an update record but for its last inline bytes, which are returned: they need no
/// copy on their way to the log.
pub(crate) fn encode_update<'a>(
    out: &mut Vec<u8>,
    container: ContainerId,
    version: Version,
    origin: Origin,
    update: &Update<'a>,
) -> &'a [u8] {
    push_head(out, origin, container.to_bytes());
    push_version(out, version);
    push_update(out, update)
}

/// Appends an update from its group on, but for its last inline bytes, which are returned.
fn push_update<'a>(out: &mut Vec<u8>, update: &Update<'a>) -> &'a [u8] {
    out.extend_from_slice(&update.group.to_le_bytes());
    out.extend_from_slice(&update.oid.to_bytes());
    push_key(out, update.dkey);
    out.extend_from_slice(&(update.akeys.len() as u16).to_le_bytes());
    let mut tail: &[u8] = &[];
    for write in update.akeys {
        out.extend_from_slice(std::mem::take(&mut tail));
        push_key(out, write.akey);
        match &write.value {
            ValueWrite::Single(payload) => {
                out.push(SINGLE);
                tail = push_payload(out, payload);
            }
            ValueWrite::Array { record_bytes, extents } => {
                out.push(ARRAY);
                out.extend_from_slice(&record_bytes.to_le_bytes());
                out.extend_from_slice(&(extents.len() as u16).to_le_bytes());
                for (extent, payload) in *extents {
                    out.extend_from_slice(std::mem::take(&mut tail));
                    push_extent(out, *extent);
                    tail = push_payload(out, payload);
                }
            }
        }
    }
    tail
}

/// Replaces `out` by a punch record.
pub(crate) fn encode_punch(
    out: &mut Vec<u8>,
    container: ContainerId,
    version: Version,
    origin: Origin,
    punch: &Punch<'_>,
) {
    push_head(out, origin, container.to_bytes());
    push_version(out, version);
    push_punch(out, punch);
}

/// Appends a punch from its group on.
fn push_punch(out: &mut Vec<u8>, punch: &Punch<'_>) {
    out.extend_from_slice(&punch.group.to_le_bytes());
    out.extend_from_slice(&punch.oid.to_bytes());
    match punch.scope {
        PunchScope::Object => out.push(1),
        PunchScope::Dkey(dkey) => {
            out.push(2);
            push_key(out, dkey);
        }
        PunchScope::Akeys(dkey, akeys) => {
            out.push(3);
            push_key(out, dkey);
            out.extend_from_slice(&(akeys.len() as u16).to_le_bytes());
            akeys.iter().for_each(|akey| push_key(out, akey));
        }
        PunchScope::Extents { dkey, akey, extents } => {
            out.push(4);
            push_key(out, dkey);
            push_key(out, akey);
            out.extend_from_slice(&(extents.len() as u16).to_le_bytes());
            extents.iter().for_each(|extent| push_extent(out, *extent));
        }
    }
}

fn push_from(out: &mut Vec<u8>, from: &[u8]) {
    out.extend_from_slice(&(from.len() as u16).to_le_bytes());
    out.extend_from_slice(from);
}

/// Replaces `out` by a record of any other kind, and returns the kind.
pub(crate) fn encode(out: &mut Vec<u8>, origin: Origin, record: &Record<'_>) -> u16 {
    match record {
        Record::Update { .. }
        | Record::Punch { .. }
        | Record::Rewrite { .. }
        | Record::Mend { .. }
        | Record::Copy { .. }
        | Record::Prepare { .. } => {
            unreachable!("what carries data is encoded where the data is")
        }
        Record::Commit { pool, change }
        | Record::Abort { pool, change }
        | Record::Settle { pool, change }
        | Record::Forget { pool, change } => {
            push_head(out, origin, pool.to_bytes());
            change::push_change(out, *change);
            match record {
                Record::Commit { .. } => kind::COMMIT,
                Record::Abort { .. } => kind::ABORT,
                Record::Settle { .. } => kind::SETTLE,
                _ => kind::FORGET,
            }
        }
        Record::Leave { pool, group } => {
            push_head(out, origin, pool.to_bytes());
            out.extend_from_slice(&group.to_le_bytes());
            kind::LEAVE
        }
        Record::Remember { floor, effects } => {
            push_head(out, origin, [0; 16]);
            out.extend_from_slice(&floor.to_le_bytes());
            out.extend_from_slice(&(effects.len() as u16).to_le_bytes());
            for (seq, epoch) in effects {
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            kind::REMEMBER
        }
        Record::Adopt { pool, group, term } => {
            push_head(out, origin, pool.to_bytes());
            out.extend_from_slice(&group.to_le_bytes());
            change::push_term(out, *term);
            kind::ADOPT
        }
        Record::CreatePool { pool, quota } | Record::SetQuota { pool, quota } => {
            push_head(out, origin, pool.to_bytes());
            out.extend_from_slice(&quota.to_le_bytes());
            if matches!(record, Record::CreatePool { .. }) { kind::CREATE_POOL } else { kind::SET_QUOTA }
        }
        Record::DestroyPool { pool } => {
            push_head(out, origin, pool.to_bytes());
            kind::DESTROY_POOL
        }
        Record::CreateContainer { container, pool } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&pool.to_bytes());
            kind::CREATE_CONTAINER
        }
        Record::DestroyContainer { container } => {
            push_head(out, origin, container.to_bytes());
            kind::DESTROY_CONTAINER
        }
        Record::SetSnapshots { container, epochs } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&(epochs.len() as u32).to_le_bytes());
            epochs.iter().for_each(|epoch| out.extend_from_slice(&epoch.0.to_le_bytes()));
            kind::SET_SNAPSHOTS
        }
        Record::Aggregate(step) => {
            push_head(out, origin, step.container.to_bytes());
            for epoch in [step.since, step.until] {
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            out.extend_from_slice(&step.limit.to_le_bytes());
            let carry = &step.carry;
            carry.kept.iter().for_each(|version| push_version(out, *version));
            out.extend_from_slice(&carry.newer.0.to_le_bytes());
            out.push(
                u8::from(carry.has_punch) | u8::from(carry.is_changed) << 1 | u8::from(carry.below.is_some()) << 2,
            );
            if let Some(Below { stop, index, is_bare }) = &carry.below {
                out.extend_from_slice(&stop.start.to_le_bytes());
                out.extend_from_slice(&[u8::from(stop.hole), stop.class]);
                push_version(out, stop.version);
                out.extend_from_slice(&index.to_le_bytes());
                out.push(u8::from(*is_bare));
            }
            push_from(out, &step.from);
            kind::AGGREGATE
        }
        Record::Advance { container, horizon } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&horizon.0.to_le_bytes());
            kind::ADVANCE
        }
        Record::Rollback { container, to, asked } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&to.0.to_le_bytes());
            out.extend_from_slice(&asked.0.to_le_bytes());
            kind::ROLLBACK
        }
        Record::Discard { container, limit, from } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&limit.to_le_bytes());
            push_from(out, from);
            kind::DISCARD
        }
        Record::Coalesced { container, until } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&until.0.to_le_bytes());
            kind::COALESCED
        }
        Record::Drop { container, group, limit } => {
            push_head(out, origin, container.to_bytes());
            [group, limit].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            kind::DROP
        }
        Record::TakeOut { container, keys } => {
            push_head(out, origin, container.to_bytes());
            out.extend_from_slice(&(keys.len() as u16).to_le_bytes());
            keys.iter().for_each(|key| push_from(out, key));
            kind::TAKE_OUT
        }
        Record::Free { owner, leaves } => {
            push_head(out, origin, [0; 16]);
            out.extend_from_slice(&owner.to_le_bytes());
            out.extend_from_slice(&leaves.to_le_bytes());
            kind::FREE
        }
    }
}

/// Reads a record; `None` when the bytes are none. Never panics, whatever the bytes.
pub(crate) fn decode(kind: u16, bytes: &[u8]) -> Option<(Origin, Record<'_>)> {
    let mut r = Reader(bytes);
    let origin = Origin { session: SessionId(r.u64()?), seq: r.u64()? };
    let id = r.array::<16>()?;
    let (container, pool) = (ContainerId::from_bytes(id), PoolId::from_bytes(id));
    let record = match kind {
        kind::UPDATE => {
            let version = r.version()?;
            Record::Update { container, version, update: r.update()? }
        }
        kind::PUNCH => {
            let version = r.version()?;
            Record::Punch { container, version, punch: r.punch()? }
        }
        kind::CREATE_POOL => Record::CreatePool { pool, quota: r.u64()? },
        kind::DESTROY_POOL => Record::DestroyPool { pool },
        kind::SET_QUOTA => Record::SetQuota { pool, quota: r.u64()? },
        kind::CREATE_CONTAINER => Record::CreateContainer { container, pool: PoolId::from_bytes(r.array()?) },
        kind::DESTROY_CONTAINER => Record::DestroyContainer { container },
        kind::SET_SNAPSHOTS => {
            let count = r.u32()?;
            let epochs = (0..count).map(|_| r.u64().map(Epoch)).collect::<Option<_>>()?;
            Record::SetSnapshots { container, epochs }
        }
        kind::AGGREGATE => {
            let (since, until, limit) = (Epoch(r.u64()?), Epoch(r.u64()?), r.u32()?);
            let kept = [r.version()?, r.version()?, r.version()?];
            let (newer, flags) = (Epoch(r.u64()?), r.u8()?);
            let below = if flags & 4 != 0 { Some(r.below()?) } else { None };
            let carry = Carry { kept, newer, has_punch: flags & 1 != 0, is_changed: flags & 2 != 0, below };
            Record::Aggregate(AggregateStep { container, since, until, limit, carry, from: r.from()? })
        }
        kind::ADVANCE => Record::Advance { container, horizon: Epoch(r.u64()?) },
        kind::ROLLBACK => Record::Rollback { container, to: Epoch(r.u64()?), asked: Epoch(r.u64()?) },
        kind::DISCARD => Record::Discard { container, limit: r.u32()?, from: r.from()? },
        kind::FREE => Record::Free { owner: r.u32()?, leaves: r.u32()? },
        kind::REWRITE => rewrite::read(&mut r, container)?,
        kind::MEND => rewrite::read_mend(&mut r, container)?,
        kind::COALESCED => Record::Coalesced { container, until: Epoch(r.u64()?) },
        kind::COPY => copy::read(&mut r, container)?,
        kind::DROP => Record::Drop { container, group: r.u32()?, limit: r.u32()? },
        kind::TAKE_OUT => copy::read_keys(&mut r, container)?,
        kind::PREPARE => change::read_prepare(&mut r, container, bytes)?,
        kind::COMMIT => Record::Commit { pool, change: change::read_change(&mut r)? },
        kind::ABORT => Record::Abort { pool, change: change::read_change(&mut r)? },
        kind::ADOPT => Record::Adopt { pool, group: r.u32()?, term: change::read_term(&mut r)? },
        kind::SETTLE => Record::Settle { pool, change: change::read_change(&mut r)? },
        kind::FORGET => Record::Forget { pool, change: change::read_change(&mut r)? },
        kind::LEAVE => Record::Leave { pool, group: r.u32()? },
        kind::REMEMBER => {
            let (floor, count) = (r.u64()?, r.u16()?);
            let effects = (0..count).map(|_| Some((r.u64()?, Epoch(r.u64()?)))).collect::<Option<_>>()?;
            Record::Remember { floor, effects }
        }
        _ => return None,
    };
    r.0.is_empty().then_some((origin, record))
}

#[cfg(test)]
mod tests;

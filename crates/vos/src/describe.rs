//! Log records in words, for an inspector: one line each.

use types::{ContainerId, Epoch, Extent, PoolId};

use crate::naming::{hex, key_name, object_name, place_of};
use crate::record::{self, Record, kind};
use crate::request::{ListedObject, Origin, Payload, Punch, PunchScope, Update, ValueWrite};

/// Parts of a record that are spelled out; the rest is counted.
const PARTS_MAX: usize = 4;
/// Bytes shown of a record that cannot be read.
const HEX_MAX: usize = 32;

/// A log record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What was done, in a word or two; `unreadable` when the bytes are no record.
    pub name: &'static str,
    pub container: Option<ContainerId>,
    pub pool: Option<PoolId>,
    pub epoch: Option<Epoch>,
    /// Who asked; zero for the target's own work.
    pub origin: Origin,
    /// To what, in words.
    pub text: String,
}

/// Decodes a record of the log. Any bytes are safe.
pub fn describe_record(number: u16, payload: &[u8]) -> LogEntry {
    let Some((origin, record)) = record::decode(number, payload) else {
        let text = format!("kind {number}, {} bytes: 0x{}", payload.len(), hex(payload, HEX_MAX));
        return LogEntry {
            name: "unreadable",
            container: None,
            pool: None,
            epoch: None,
            origin: Origin::default(),
            text,
        };
    };
    let mut entry =
        LogEntry { name: name_of(number), container: None, pool: None, epoch: None, origin, text: String::new() };
    match &record {
        Record::Update { container, version, update } => {
            (entry.container, entry.epoch) = (Some(*container), Some(version.epoch));
            entry.text = format!("{} @{}.{}", update.with(update_text), version.epoch, version.minor);
        }
        Record::Punch { container, version, punch } => {
            (entry.container, entry.epoch) = (Some(*container), Some(version.epoch));
            entry.text = format!("{} @{}.{}", punch_text(&punch.borrow()), version.epoch, version.minor);
        }
        Record::CreatePool { pool, quota } | Record::SetQuota { pool, quota } => {
            entry.pool = Some(*pool);
            entry.text = format!("quota {quota} bytes");
        }
        Record::DestroyPool { pool } => entry.pool = Some(*pool),
        Record::CreateContainer { container, pool } => {
            (entry.container, entry.pool) = (Some(*container), Some(*pool));
        }
        Record::DestroyContainer { container } => entry.container = Some(*container),
        Record::SetSnapshots { container, epochs } => {
            entry.container = Some(*container);
            entry.text = some_of(epochs.iter().map(Epoch::to_string), epochs.len(), "no snapshot");
        }
        Record::Aggregate(step) => {
            entry.container = Some(step.container);
            let from = if step.from.is_empty() { String::new() } else { format!(", from {}", place_of(&step.from)) };
            entry.text =
                format!("about {} records, written after {} up to {}{from}", step.limit, step.since, step.until);
        }
        Record::Advance { container, horizon } => {
            (entry.container, entry.epoch) = (Some(*container), Some(*horizon));
            entry.text = format!("the horizon moves to {horizon}");
        }
        Record::Rollback { container, to, asked } => {
            (entry.container, entry.epoch) = (Some(*container), Some(*to));
            entry.text = format!("back to {to}, as asked for at {asked}");
        }
        Record::Discard { container, limit, from } => {
            entry.container = Some(*container);
            let from = if from.is_empty() { String::new() } else { format!(", from {}", place_of(from)) };
            entry.text = format!("up to {limit} records{from}");
        }
        Record::Rewrite { container, rewrite } => {
            entry.container = Some(*container);
            let (parts, runs) = (rewrite.parts.len(), rewrite.runs().count());
            entry.text = format!("{}: {parts} extents become {runs}", place_of(&rewrite.akey));
        }
        Record::Mend { container, mend } => {
            entry.container = Some(*container);
            entry.text = format!("{}: {} bytes written anew", place_of(&mend.key), mend.payload().len());
        }
        Record::Copy { container, records } => {
            entry.container = Some(*container);
            let first = records.first().map(|record| place_of(record.borrow().key)).unwrap_or_default();
            entry.text = format!("{} records from another target, from {first} on", records.len());
        }
        Record::Drop { container, group, limit } => {
            entry.container = Some(*container);
            entry.text = format!("up to {limit} records of placement group {group} go");
        }
        Record::TakeOut { container, keys } => {
            entry.container = Some(*container);
            let first = keys.first().map(|key| place_of(key)).unwrap_or_default();
            entry.text = format!("{} records go that others do not have, from {first} on", keys.len());
        }
        Record::Coalesced { container, until } => {
            (entry.container, entry.epoch) = (Some(*container), Some(*until));
            entry.text = format!("small extents are joined up to {until}");
        }
        Record::Prepare { container, change, version, ops, .. } => {
            (entry.container, entry.epoch) = (Some(*container), Some(version.epoch));
            entry.text = format!("change {change}: {} operations @{}.{}", ops.len(), version.epoch, version.minor);
        }
        Record::Commit { change, .. } | Record::Abort { change, .. } => entry.text = format!("change {change}"),
        Record::Adopt { group, term, .. } => {
            entry.text =
                format!("placement group {group}: its leader is that of term {}.{}", term.interval, term.round);
        }
        Record::Settle { change, .. } => entry.text = format!("every member knows how changes ended up to {change}"),
        Record::Forget { change, .. } => entry.text = format!("forget a part of what was known up to change {change}"),
        Record::Leave { group, .. } => entry.text = format!("be no member of placement group {group} any more"),
        Record::Remember { effects, .. } if effects.is_empty() => {
            entry.text = "nobody can tell which requests took effect elsewhere".into();
        }
        Record::Remember { floor, effects } => {
            entry.text = format!("{} requests took effect elsewhere, from {floor} on", effects.len());
        }
        other => entry.text = format!("{other:?}"),
    }
    entry
}

fn name_of(number: u16) -> &'static str {
    match number {
        kind::UPDATE => "update",
        kind::PUNCH => "punch",
        kind::CREATE_POOL => "create pool",
        kind::DESTROY_POOL => "destroy pool",
        kind::SET_QUOTA => "set quota",
        kind::CREATE_CONTAINER => "create container",
        kind::DESTROY_CONTAINER => "destroy container",
        kind::SET_SNAPSHOTS => "set snapshots",
        kind::AGGREGATE => "aggregate",
        kind::FREE => "free",
        kind::ADVANCE => "advance",
        kind::ROLLBACK => "roll back",
        kind::DISCARD => "discard",
        kind::REWRITE => "rewrite",
        kind::COALESCED => "coalesced",
        kind::MEND => "mend",
        kind::COPY => "copy",
        kind::DROP => "drop",
        kind::TAKE_OUT => "take out",
        kind::PREPARE => "prepare",
        kind::COMMIT => "commit",
        kind::ABORT => "abort",
        kind::ADOPT => "adopt",
        kind::SETTLE => "settle",
        kind::FORGET => "forget",
        kind::LEAVE => "leave",
        kind::REMEMBER => "remember",
        _ => "other",
    }
}

/// The first few of `parts`, and how many more there are.
fn some_of(parts: impl Iterator<Item = String>, count: usize, none: &str) -> String {
    if count == 0 {
        return none.into();
    }
    let mut text = parts.take(PARTS_MAX).collect::<Vec<_>>().join(", ");
    if count > PARTS_MAX {
        text.push_str(&format!(" and {} more", count - PARTS_MAX));
    }
    text
}

fn extent_text(extent: &Extent) -> String {
    format!("[{}..{})", extent.start, extent.start.saturating_add(extent.count))
}

fn payload_text(payload: &Payload<'_>) -> String {
    match payload {
        Payload::Inline { bytes, .. } => format!("{} bytes inline", bytes.len()),
        Payload::Staged { block, bytes, .. } => format!("{} bytes staged for block {block}", bytes.len()),
        Payload::Bulk { at, bytes, .. } => {
            let pieces = at.extents().iter().map(|piece| format!("{}+{}", piece.block, piece.blocks));
            format!("{bytes} bytes in blocks {}", some_of(pieces, at.extents().len(), "none"))
        }
    }
}

fn update_text(update: &Update<'_>) -> String {
    let object = object_name(ListedObject { group: update.group, oid: update.oid });
    let akeys = update.akeys.iter().map(|write| {
        let value = match &write.value {
            ValueWrite::Single(payload) => payload_text(payload),
            ValueWrite::Array { record_bytes, extents } => {
                let runs = extents
                    .iter()
                    .map(|(extent, payload)| format!("{} {}", extent_text(extent), payload_text(payload)));
                format!("records of {record_bytes} bytes: {}", some_of(runs, extents.len(), "none"))
            }
        };
        format!("{}: {value}", key_name(write.akey))
    });
    format!("/{object}/{} {}", key_name(update.dkey), some_of(akeys, update.akeys.len(), "nothing"))
}

fn punch_text(punch: &Punch<'_>) -> String {
    let object = object_name(ListedObject { group: punch.group, oid: punch.oid });
    match punch.scope {
        PunchScope::Object => format!("/{object}"),
        PunchScope::Dkey(dkey) => format!("/{object}/{}", key_name(dkey)),
        PunchScope::Akeys(dkey, akeys) => {
            format!("/{object}/{} {}", key_name(dkey), some_of(akeys.iter().map(key_name), akeys.len(), "nothing"))
        }
        PunchScope::Extents { dkey, akey, extents } => {
            let runs = extents.iter().map(extent_text);
            let runs = some_of(runs, extents.len(), "nothing");
            format!("/{object}/{}/{} {runs}", key_name(dkey), key_name(akey))
        }
    }
}

#[cfg(test)]
mod tests {
    use types::{Key, ObjectId, SessionId};

    use super::*;
    use crate::key::Version;
    use crate::request::AkeyWrite;

    #[test]
    fn a_record_is_one_line() {
        let (mut bytes, origin) = (Vec::new(), Origin { session: SessionId(9), seq: 3 });
        let container = ContainerId::from_bytes([1; 16]);
        let version = Version { epoch: Epoch(5), minor: 1 };
        let (dkey, akey) = (Key::literal("d"), Key::from(4));
        let value = ValueWrite::Single(Payload::Inline { bytes: b"xyz", checksums: &[1] });
        let akeys = [AkeyWrite { akey: &akey, value }];
        let oid = ObjectId { hi: 1, lo: 2 };
        let update = Update { group: 3, oid, dkey: &dkey, conditions: types::Conditions::None, akeys: &akeys };
        let tail = record::encode_update(&mut bytes, container, version, origin, &update).to_vec();
        bytes.extend(tail);
        let entry = describe_record(kind::UPDATE, &bytes);
        assert_eq!((entry.name, entry.container, entry.origin), ("update", Some(container), origin));
        assert_eq!(entry.text, "/1.2:3/d #4: 3 bytes inline @0x5.1");
        let value = ValueWrite::Single(Payload::Staged { block: 8, bytes: &[7; 3000], checksums: &[1] });
        let akeys = [AkeyWrite { akey: &akey, value }];
        let tail = record::encode_update(&mut bytes, container, version, origin, &Update { akeys: &akeys, ..update });
        bytes.extend(tail);
        assert_eq!(describe_record(kind::UPDATE, &bytes).text, "/1.2:3/d #4: 3000 bytes staged for block 8 @0x5.1");
        let scope = PunchScope::Akeys(&dkey, std::slice::from_ref(&akey));
        let punch = Punch { group: 3, oid, scope, conditions: types::Conditions::None };
        record::encode_punch(&mut bytes, container, version, origin, &punch);
        assert_eq!(describe_record(kind::PUNCH, &bytes).text, "/1.2:3/d #4 @0x5.1");
        let many = Record::SetSnapshots { container, epochs: (1..=6).map(Epoch).collect() };
        let number = record::encode(&mut bytes, origin, &many);
        assert_eq!(describe_record(number, &bytes).text, "0x1, 0x2, 0x3, 0x4 and 2 more");
        for cut in 0..bytes.len() {
            assert_eq!(describe_record(number, &bytes[..cut]).name, "unreadable");
        }
    }
}

//! Which payloads of an update are staged: long ones that arrived inline. They become bulk values of one block,
//! whose bytes travel in the log record and wait on media's stage for a checkpoint to write them.
//!
//! It is a choice, and cannot fail: without room on the stage, in blocks or in the quota a payload goes into
//! the tree. The log record says which it was.
//!
//! # Not here
//! The stage itself (`media`). Transactions: what is prepared keeps its payloads in its record.

use media::{STAGED_BYTES_MAX, STAGED_BYTES_MIN, Staging};
use types::Extent;

use crate::request::{AkeyWrite, INLINE_BYTES_MAX, Payload, Update, ValueWrite};

const _: () = assert!(INLINE_BYTES_MAX == STAGED_BYTES_MAX, "every long inline payload fits a block");

/// An update record up to its akeys, but for the dkey's own bytes.
const HEAD_BYTES_MOST: usize = 96;

/// What there is room for besides memory and blocks.
pub(crate) struct Room {
    /// In the quota of the pool, for a block for each record.
    pub(crate) in_quota: bool,
    /// In a log record.
    pub(crate) record_bytes_max: usize,
}

/// Lends `update` with what can be staged added to `staging`.
#[inline]
pub(crate) fn with<T>(
    update: &Update<'_>,
    mut staging: Staging<'_>,
    room: Room,
    then: impl FnOnce(&Update<'_>, Staging<'_>) -> T,
) -> T {
    if !room.in_quota {
        return then(update, staging);
    }
    if let [AkeyWrite { akey, value: ValueWrite::Single(payload) }] = update.akeys {
        let value = ValueWrite::Single(place(payload, &mut staging));
        return then(&Update { akeys: &[AkeyWrite { akey, value }], ..*update }, staging);
    }
    if record_bytes_most(update) <= room.record_bytes_max {
        return with_many(update, staging, then);
    }
    then(update, staging)
}

fn with_many<T>(update: &Update<'_>, mut staging: Staging<'_>, then: impl FnOnce(&Update<'_>, Staging<'_>) -> T) -> T {
    let extents: Vec<Vec<(Extent, Payload<'_>)>> = update
        .akeys
        .iter()
        .map(|write| match &write.value {
            ValueWrite::Single(_) => Vec::new(),
            ValueWrite::Array { extents, .. } => {
                extents.iter().map(|(extent, payload)| (*extent, place(payload, &mut staging))).collect()
            }
        })
        .collect();
    let akeys: Vec<AkeyWrite<'_>> = update
        .akeys
        .iter()
        .zip(&extents)
        .map(|(write, extents)| AkeyWrite {
            akey: write.akey,
            value: match &write.value {
                ValueWrite::Single(payload) => ValueWrite::Single(place(payload, &mut staging)),
                ValueWrite::Array { record_bytes, .. } => ValueWrite::Array { record_bytes: *record_bytes, extents },
            },
        })
        .collect();
    then(&Update { akeys: &akeys, ..*update }, staging)
}

/// What the record of an update takes at most, were all its payloads staged: a few bytes more than inline.
fn record_bytes_most(update: &Update<'_>) -> usize {
    let payload_bytes = |payload: &Payload<'_>| match payload {
        Payload::Inline { bytes, .. } | Payload::Staged { bytes, .. } => 32 + bytes.len(),
        Payload::Bulk { at, checksums, .. } => 32 + 8 * at.extents().len() + 4 * checksums.len(),
    };
    let value_bytes = |value: &ValueWrite<'_>| match value {
        ValueWrite::Single(payload) => payload_bytes(payload),
        ValueWrite::Array { extents, .. } => extents.iter().map(|(_, payload)| 16 + payload_bytes(payload)).sum(),
    };
    let akeys = update.akeys.iter().map(|write| 16 + write.akey.len() + value_bytes(&write.value));
    HEAD_BYTES_MOST + update.dkey.len() + akeys.sum::<usize>()
}

#[inline]
fn place<'a>(payload: &Payload<'a>, staging: &mut Staging<'_>) -> Payload<'a> {
    match *payload {
        Payload::Inline { bytes, checksums } if bytes.len() >= STAGED_BYTES_MIN => match staging.add(bytes) {
            Some(block) => Payload::Staged { block, bytes, checksums },
            None => *payload,
        },
        _ => *payload,
    }
}

//! What a change's operations need before they are logged as one: conditions and record sizes, with the
//! earlier operations of the same change and the intents of others in mind.
//!
//! A condition that depends on earlier operations of the change is answered where they alone decide it,
//! and refused else: nothing of the change is in the tree yet.

use media::Pages;
use types::Conditions;

use crate::error::{Error, Result};
use crate::intent::{Change, Intent, Table, Touch};
use crate::key::{self, Version};
use crate::request::{AkeyWrite, Op, PunchScope, Update, ValueWrite};
use crate::shard::Shard;
use crate::update::check_conditions;
use crate::view::View;

/// What earlier operations of a change made of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Untouched,
    Present,
    Absent,
    /// Some of what was there may be left.
    Unclear,
}

fn made(touches: &[Touch], place: &[u8]) -> Made {
    let mut made = Made::Untouched;
    for touch in touches {
        let (at_or_above, below) = (place.starts_with(&touch.place), touch.place.starts_with(place));
        made = match touch.change {
            _ if !at_or_above && !below => made,
            Change::Punch if at_or_above => Made::Absent,
            Change::Single | Change::Array { .. } => Made::Present,
            _ if made == Made::Absent => Made::Absent,
            Change::Punch | Change::Holes(_) => Made::Unclear,
        };
    }
    made
}

/// Whether a place exists by what the change did to it so far; `None` when that is nothing.
///
/// # Errors
/// `Invalid` when that alone does not tell.
pub(crate) fn own_existence(intent: &Intent, place: &[u8]) -> Result<Option<bool>> {
    match made(&intent.touches, place) {
        Made::Untouched => Ok(None),
        Made::Present => Ok(Some(true)),
        Made::Absent => Ok(Some(false)),
        Made::Unclear => {
            Err(Error::Invalid("a condition depends on what an earlier operation of the change leaves behind"))
        }
    }
}

/// Checks the next operation of a change, after those that `intent` already has.
pub(crate) fn plan(shard: &Shard, pages: &Pages, table: &Table, intent: &Intent, op: &Op<'_>) -> Result<()> {
    conditions(shard, pages, intent, op)?;
    match op {
        Op::Update(update) => {
            let own = sizes(shard, pages, intent, update);
            settle_sizes(table, shard.tree.owner, update, own)
        }
        Op::Punch(_) => Ok(()),
    }
}

fn conditions(shard: &Shard, pages: &Pages, intent: &Intent, op: &Op<'_>) -> Result<()> {
    let (group, oid, dkey, conditions) = match op {
        Op::Update(update) => (update.group, update.oid, Some(update.dkey), update.conditions),
        Op::Punch(punch) => {
            let dkey = match punch.scope {
                PunchScope::Object => None,
                PunchScope::Dkey(dkey) | PunchScope::Akeys(dkey, _) | PunchScope::Extents { dkey, .. } => Some(dkey),
            };
            (punch.group, punch.oid, dkey, punch.conditions)
        }
    };
    if conditions == Conditions::None {
        return Ok(());
    }
    let mut place = Vec::new();
    key::push_object(&mut place, group, oid);
    if let Some(dkey) = dkey {
        key::push_key(&mut place, dkey);
    }
    let object = (group, oid, dkey);
    let committed = |akeys: &[&types::Key]| {
        check_conditions(shard, pages, intent.version.epoch, object, &mut akeys.iter().copied(), conditions)
    };
    match conditions {
        Conditions::None => Ok(()),
        Conditions::DkeyInsert | Conditions::DkeyExists => match own_existence(intent, &place)? {
            None => committed(&[]),
            Some(exists) => judge(exists, conditions),
        },
        Conditions::AkeyInsert | Conditions::AkeyExists => {
            let len = place.len();
            named_akeys(op).into_iter().try_for_each(|akey| {
                place.truncate(len);
                key::push_key(&mut place, akey);
                match own_existence(intent, &place)? {
                    None => committed(&[akey]),
                    Some(exists) => judge(exists, conditions),
                }
            })
        }
    }
}

fn judge(exists: bool, conditions: Conditions) -> Result<()> {
    match (matches!(conditions, Conditions::DkeyInsert | Conditions::AkeyInsert), exists) {
        (true, true) => Err(Error::Exists),
        (false, false) => Err(Error::NotFound),
        _ => Ok(()),
    }
}

/// The akeys that conditions of an operation are about.
pub(crate) fn named_akeys<'a>(op: &Op<'a>) -> Vec<&'a types::Key> {
    match op {
        Op::Update(update) => update.akeys.iter().map(|write| write.akey).collect(),
        Op::Punch(punch) => match punch.scope {
            PunchScope::Akeys(_, akeys) => akeys.iter().collect(),
            PunchScope::Extents { akey, .. } => vec![akey],
            PunchScope::Object | PunchScope::Dkey(_) => Vec::new(),
        },
    }
}

/// Record sizes of an update against committed arrays and earlier operations of the change.
fn sizes(shard: &Shard, pages: &Pages, intent: &Intent, update: &Update<'_>) -> Result<()> {
    let mut object = Vec::new();
    key::push_object(&mut object, update.group, update.oid);
    let view = View::open(shard, pages, &object, intent.version.epoch)?;
    arrays(update).iter().try_for_each(|Array { dkey_end, akey, given }| {
        let (dkey_end, given) = (*dkey_end, *given);
        let dkey = &akey[..dkey_end];
        let punch = |touch: &&Touch| touch.change == Change::Punch && akey.starts_with(&touch.place);
        let punched = intent.touches.iter().filter(punch).map(|touch| touch.version).max();
        let hidden = view.hidden_akey(dkey, akey)?.max(punched.unwrap_or(Version::NEVER));
        let own = intent.touches.iter().filter(|touch| touch.place == *akey && touch.version > hidden);
        let own = own.filter_map(|touch| match touch.change {
            Change::Array { record_bytes, .. } => Some(record_bytes),
            _ => None,
        });
        let mut stored = view.size_in_life(dkey, akey, hidden)?.into_iter().chain(own);
        match stored.find(|stored| *stored != given) {
            Some(stored) => Err(Error::RecordSize { stored, given }),
            None => Ok(()),
        }
    })
}

/// An array write: its akey's key prefix, where the dkey ends in it, and the record size.
struct Array {
    dkey_end: usize,
    akey: Vec<u8>,
    given: u32,
}

fn arrays(update: &Update<'_>) -> Vec<Array> {
    let mut dkey = Vec::new();
    key::push_object(&mut dkey, update.group, update.oid);
    key::push_key(&mut dkey, update.dkey);
    let array = |write: &AkeyWrite<'_>| match write.value {
        ValueWrite::Array { record_bytes, .. } => {
            let mut akey = dkey.clone();
            key::push_key(&mut akey, write.akey);
            Some(Array { dkey_end: dkey.len(), akey, given: record_bytes })
        }
        ValueWrite::Single(_) => None,
    };
    update.akeys.iter().filter_map(array).collect()
}

/// What intents make of `planned`, the answer of the committed state about an update's record sizes: one
/// that may change them, or that was promised others, has to be decided first.
pub(crate) fn settle_sizes<T>(table: &Table, owner: u32, update: &Update<'_>, planned: Result<T>) -> Result<T> {
    let is_refused = match planned {
        Ok(_) => false,
        Err(Error::RecordSize { .. }) => true,
        other => return other,
    };
    let mut first = None;
    for Array { akey, given, .. } in arrays(update) {
        table.any_touch(owner, &akey, |change, touch| {
            let matters = match touch.change {
                Change::Punch => is_refused,
                Change::Array { record_bytes, .. } => !is_refused && record_bytes != given,
                _ => false,
            };
            if matters {
                first.get_or_insert(change);
            }
            first.is_some()
        });
    }
    match first {
        Some(change) => Err(Error::InProgress { change }),
        None => planned,
    }
}

#[cfg(test)]
mod tests {
    use types::Epoch;

    use super::*;

    /// Steps on one dkey: `w1` writes akey 1, `p1` punches it, `h1` punches records of it, `P` punches the
    /// dkey. Then what is known of the dkey and of akey 1.
    #[test]
    fn earlier_operations_decide_what_they_alone_can_know() {
        use Made::{Absent, Present, Unclear, Untouched};
        let cases = [
            ("", Untouched, Untouched),
            ("w1", Present, Present),
            ("w2", Present, Untouched),
            ("P", Absent, Absent),
            ("P w2", Present, Absent),
            ("P h1", Absent, Absent),
            ("p1", Unclear, Absent),
            ("h1", Unclear, Unclear),
            ("w2 p1", Unclear, Absent),
            ("p1 w1", Present, Present),
            ("w1 P", Absent, Absent),
        ];
        for (steps, dkey, akey) in cases {
            let touches: Vec<Touch> = steps
                .split_whitespace()
                .map(|step| {
                    let place = [&[9; 20][..], &[1, 0, 0, 0, 0, 0, 0, 0, 5]].concat();
                    let akey = step[1..].parse::<u8>().map(|n| [&place[..], &[1, 0, 0, 0, 0, 0, 0, 0, n]].concat());
                    let change = match &step[..1] {
                        "w" => Change::Single,
                        "h" => Change::Holes(Vec::new()),
                        _ => Change::Punch,
                    };
                    let version = Version { epoch: Epoch(1), minor: 0 };
                    Touch { place: akey.unwrap_or(place), version, change }
                })
                .collect();
            let place = [&[9; 20][..], &[1, 0, 0, 0, 0, 0, 0, 0, 5]].concat();
            let below = [&place[..], &[1, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
            assert_eq!((made(&touches, &place), made(&touches, &below)), (dkey, akey), "{steps}");
        }
    }
}

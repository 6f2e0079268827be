//! Hiding: what a punch needs before it is logged, and what it does to the tree after.

use media::Pages;
use types::{AKEYS_PER_REQUEST_MAX, Conditions};

use crate::error::{Error, Result};
use crate::key::{self, HOLE, LIFE, OBJECT_FLAG, OBJECT_PUNCH, Version};
use crate::node::Value;
use crate::request::{Punch, PunchScope};
use crate::shard::Shard;
use crate::update::{self, Scratch, are_distinct, check_conditions, check_extents, check_key};
use crate::value;

const EMPTY: Value<'static> = Value { head: &[], tail: &[] };

/// Checks all of a punch that needs no look into the tree.
pub(crate) fn validate(punch: &Punch<'_>) -> Result<()> {
    match punch.scope {
        PunchScope::Object => Ok(()),
        PunchScope::Dkey(dkey) => check_key(dkey),
        PunchScope::Akeys(dkey, akeys) => {
            check_key(dkey)?;
            akeys.iter().try_for_each(check_key)?;
            if akeys.is_empty() || akeys.len() > AKEYS_PER_REQUEST_MAX {
                return Err(Error::Invalid("a punch names between 1 and 256 akeys"));
            }
            if !are_distinct(&mut akeys.iter()) {
                return Err(Error::Invalid("a punch names each akey once"));
            }
            Ok(())
        }
        PunchScope::Extents { dkey, akey, extents } => {
            check_key(dkey)?;
            check_key(akey)?;
            check_extents(&mut extents.iter().copied())
        }
    }
}

/// Checks conditions, and reads every page that [`apply`] will change.
pub(crate) fn plan(shard: &Shard, pages: &Pages, version: Version, punch: &Punch<'_>) -> Result<()> {
    if punch.conditions != Conditions::None {
        let (dkey, akeys) = match &punch.scope {
            PunchScope::Object => (None, &[][..]),
            PunchScope::Dkey(dkey) => (Some(*dkey), &[][..]),
            PunchScope::Akeys(dkey, akeys) => (Some(*dkey), *akeys),
            PunchScope::Extents { dkey, akey, .. } => (Some(*dkey), std::slice::from_ref(*akey)),
        };
        let place = (punch.group, punch.oid, dkey);
        check_conditions(shard, pages, version.epoch, place, &mut akeys.iter(), punch.conditions)?;
    }
    touch(shard, pages, version, punch)
}

/// Reads every page that [`apply`] will change.
pub(crate) fn touch(shard: &Shard, pages: &Pages, version: Version, punch: &Punch<'_>) -> Result<()> {
    let (mut flag, mut looked) = (Vec::new(), Ok(()));
    key::push_object(&mut flag, punch.group, punch.oid);
    flag.extend_from_slice(&[LIFE, OBJECT_FLAG]);
    shard.tree.locate(pages, &flag)?;
    each_key(punch, version, &mut |key, _| {
        if looked.is_ok() {
            looked = shard.tree.locate(pages, key).map(drop);
        }
    });
    looked
}

/// Does a logged punch to the tree. The same for a request and for a record read back.
pub(crate) fn apply(
    shard: &mut Shard,
    pages: &mut Pages,
    version: Version,
    punch: &Punch<'_>,
    scratch: &mut Scratch,
) -> Result<()> {
    let mut keys = Vec::new();
    each_key(punch, version, &mut |key, count| keys.push((key.to_vec(), count)));
    let is_hole = matches!(punch.scope, PunchScope::Extents { .. });
    for (key, count) in &keys {
        let count = count.to_le_bytes();
        let value = if is_hole { value::hole(&count) } else { EMPTY };
        // Of a change that was prepared here, the record may have come before as a copy.
        let was_there = update::remove(shard, pages, key, &mut scratch.freed)?;
        shard.tree.insert(pages, key, value, version.epoch.0)?;
        shard.punches += u64::from(!is_hole && !was_there);
    }
    if !is_hole {
        let flag = &mut scratch.key;
        flag.clear();
        key::push_object(flag, punch.group, punch.oid);
        shard.note_punch(flag);
        flag.extend_from_slice(&[LIFE, OBJECT_FLAG]);
        shard.tree.insert(pages, flag, EMPTY, 0)?;
    }
    shard.applied(pages, version)
}

/// Calls `each` with every key the punch writes, and the record count of a hole.
fn each_key(punch: &Punch<'_>, version: Version, each: &mut dyn FnMut(&[u8], u64)) {
    let mut key = Vec::new();
    key::push_object(&mut key, punch.group, punch.oid);
    match punch.scope {
        PunchScope::Object => {
            key.extend_from_slice(&[LIFE, OBJECT_PUNCH]);
            key::push_version(&mut key, version);
            each(&key, 0);
        }
        PunchScope::Dkey(dkey) => {
            key::push_key(&mut key, dkey);
            key.push(LIFE);
            key::push_version(&mut key, version);
            each(&key, 0);
        }
        PunchScope::Akeys(dkey, akeys) => {
            key::push_key(&mut key, dkey);
            let len = key.len();
            for akey in akeys {
                key.truncate(len);
                key::push_key(&mut key, akey);
                key.push(LIFE);
                key::push_version(&mut key, version);
                each(&key, 0);
            }
        }
        PunchScope::Extents { dkey, akey, extents } => {
            key::push_key(&mut key, dkey);
            key::push_key(&mut key, akey);
            let len = key.len();
            for extent in extents {
                key.truncate(len);
                key::push_extent(&mut key, HOLE, *extent);
                key::push_version(&mut key, version);
                each(&key, extent.count);
            }
        }
    }
}

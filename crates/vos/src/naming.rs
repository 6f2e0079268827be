//! Names for what lies in a store, as an inspector prints and reads them.
//!
//! Every key has one name and every name is of one key, so that what a list shows can be typed back:
//!
//! | key                                             | name           |
//! |-------------------------------------------------|----------------|
//! | integer                                         | `#7`           |
//! | printable text without `/` that starts otherwise | the text       |
//! | any other bytes                                 | `0x00ff`       |
//!
//! An object's name is `HI.LO:GROUP`. A record's place is a path, `/HI.LO:GROUP/DKEY/AKEY`, then what it is.

use std::fmt::Write;

use types::{Key, ObjectId};

use crate::key::{self, LIFE, OBJECT_BYTES, Record, Version};
use crate::request::ListedObject;

/// Bytes of an unreadable key that are shown.
const HEX_MAX: usize = 64;

/// The name of a dkey or akey.
pub fn key_name(key: &Key) -> String {
    match key {
        Key::Integer(n) => format!("#{n}"),
        Key::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if is_plain(text) => text.to_string(),
            _ => format!("0x{}", hex(bytes, usize::MAX)),
        },
    }
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '/') && !["#", "[", "0x"].iter().any(|mark| text.starts_with(mark))
}

/// Reads what [`key_name`] wrote, or anything a person may type for it.
///
/// # Errors
/// What is wrong with the name.
pub fn read_key_name(text: &str) -> Result<Key, String> {
    if let Some(number) = text.strip_prefix('#') {
        return number.parse().map(Key::Integer).map_err(|_| format!("'{text}' is not # and a number"));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let pairs = digits.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        let bytes = pairs.collect::<Option<Vec<u8>>>();
        let bytes = bytes.ok_or_else(|| format!("'{text}' is not 0x and pairs of hexadecimal digits"))?;
        return Key::new(bytes).map_err(|error| error.to_string());
    }
    Key::try_from(text).map_err(|error| error.to_string())
}

/// The name of an object, with the placement group it is kept in.
pub fn object_name(object: ListedObject) -> String {
    format!("{}:{}", object.oid, object.group)
}

/// Reads an object's name; the group may be left out.
///
/// # Errors
/// What is wrong with the name.
pub fn read_object_name(text: &str) -> Result<(Option<u32>, ObjectId), String> {
    let (oid, group) = match text.split_once(':') {
        Some((oid, group)) => {
            (oid, Some(group.parse().map_err(|_| format!("'{text}': '{group}' is not a group's number"))?))
        }
        None => (text, None),
    };
    Ok((group, oid.parse()?))
}

/// Where a record lies, from its composite key, or from the front part of one: as much as can be read.
pub(crate) fn place_of(bytes: &[u8]) -> String {
    let mut name = String::new();
    let Some((group, oid)) = key::read_object(bytes) else {
        return if bytes.is_empty() { "/".into() } else { format!("/0x{}", hex(bytes, HEX_MAX)) };
    };
    let _ = write!(name, "/{}", object_name(ListedObject { group, oid }));
    let mut rest = &bytes[OBJECT_BYTES..];
    for _ in 0..2 {
        let Some((key, len)) = rest.first().filter(|first| **first != LIFE).and_then(|_| key::read_key(rest)) else {
            break;
        };
        let _ = write!(name, "/{}", key_name(&key));
        rest = &rest[len..];
    }
    match key::read_record(bytes) {
        Some(record) => name + " " + &record_name(record),
        None if rest.is_empty() => name,
        None => format!("{name}/0x{}", hex(rest, HEX_MAX)),
    }
}

/// What a record is: `single @0x5.0`, `array [0..8) @0x5.1`.
pub(crate) fn record_name(record: Record) -> String {
    let at = |version: Version| format!("@{}.{}", version.epoch, version.minor);
    match record {
        Record::ObjectFlag => "flag".into(),
        Record::ObjectPunch(v) | Record::DkeyPunch(v) | Record::AkeyPunch(v) => format!("punch {}", at(v)),
        Record::Single(v) => format!("single {}", at(v)),
        Record::Array { hole, start, version, .. } => {
            format!("{} from {start} {}", if hole { "hole" } else { "array" }, at(version))
        }
    }
}

pub(crate) fn hex(bytes: &[u8], limit: usize) -> String {
    bytes.iter().take(limit).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use types::Epoch;

    use super::*;

    #[test]
    fn every_key_has_one_name_and_it_reads_back() {
        let keys = [
            (Key::from(7), "#7"),
            (Key::literal("7"), "7"),
            (Key::literal("plain text"), "plain text"),
            (Key::literal("a/b"), "0x612f62"),
            (Key::literal("#7"), "0x2337"),
            (Key::literal("0x"), "0x3078"),
            (Key::literal("[1]"), "0x5b315d"),
            (Key::new([0u8, 255]).unwrap(), "0x00ff"),
        ];
        for (key, name) in keys {
            assert_eq!(key_name(&key), name);
            assert_eq!(read_key_name(name).unwrap(), key);
        }
        for bad in ["", "#x", "0x1", "0xzz"] {
            assert!(read_key_name(bad).is_err(), "{bad}");
        }
        let object = ListedObject { group: 3, oid: ObjectId { hi: 1, lo: 2 } };
        assert_eq!(read_object_name(&object_name(object)), Ok((Some(3), object.oid)));
        assert_eq!(read_object_name("1.2"), Ok((None, object.oid)));
        assert!(read_object_name("1").is_err() && read_object_name("1.2:x").is_err());
    }

    #[test]
    fn a_place_tells_as_much_as_its_key() {
        let mut bytes = Vec::new();
        assert_eq!(place_of(&bytes), "/");
        key::push_object(&mut bytes, 3, ObjectId { hi: 1, lo: 2 });
        assert_eq!(place_of(&bytes), "/1.2:3");
        key::push_key(&mut bytes, &Key::literal("d"));
        assert_eq!(place_of(&bytes), "/1.2:3/d");
        key::push_key(&mut bytes, &Key::from(4));
        bytes.push(key::SINGLE);
        assert_eq!(place_of(&bytes), "/1.2:3/d/#4/0x01");
        key::push_version(&mut bytes, Version { epoch: Epoch(5), minor: 1 });
        assert_eq!(place_of(&bytes), "/1.2:3/d/#4 single @0x5.1");
        for cut in 0..bytes.len() {
            place_of(&bytes[..cut]);
        }
    }
}

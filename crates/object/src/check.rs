//! What a user may ask: judged before anything is sent.

use types::{
    AKEYS_PER_REQUEST_MAX, Code, EXTENTS_PER_AKEY_MAX, Error, Extent, Key, ObjectId, ObjectType, Result,
    VALUE_BYTES_MAX,
};

use crate::{AkeyUpdate, NewValue};

/// A dkey must be of the kind the object's type says.
///
/// # Errors
/// `Invalid`: a byte string where integers are the rule.
pub fn dkey(oid: ObjectId, dkey: &Key) -> Result<()> {
    match (oid.kind(), dkey) {
        (Some(kind), Key::Bytes(_)) if kind.dkey_is_integer() => Err(wrong_kind("dkey", kind, dkey)),
        _ => Ok(()),
    }
}

/// An akey must be of the kind the object's type says.
///
/// # Errors
/// As [`dkey`].
pub fn akey(oid: ObjectId, akey: &Key) -> Result<()> {
    match (oid.kind(), akey) {
        (Some(kind), Key::Bytes(_)) if kind.akey_is_integer() => Err(wrong_kind("akey", kind, akey)),
        _ => Ok(()),
    }
}

fn wrong_kind(what: &str, kind: ObjectType, key: &Key) -> Error {
    Error::new(Code::Invalid, format!("{what} '{key}' is a byte string, and {} has integers", kind.name()))
        .remedy(format!("use an integer {what}, or an object of another type"))
}

/// The akeys of one update: at least one, no two alike, values within the limits of one request.
///
/// # Errors
/// `Invalid`, `ValueTooBig`, `RecordSize`.
pub fn updates(oid: ObjectId, akeys: &[AkeyUpdate]) -> Result<()> {
    akey_list(oid, akeys.iter().map(|update| &update.akey))?;
    let mut total = 0usize;
    for AkeyUpdate { akey, value } in akeys {
        let bytes = match value {
            NewValue::Single(value) => value.len(),
            NewValue::Array { record_bytes, extents } => array_value(akey, *record_bytes, extents)?,
        };
        total = total.saturating_add(bytes);
        if total > VALUE_BYTES_MAX {
            return Err(too_big(akey, total));
        }
    }
    Ok(())
}

fn too_big(akey: &Key, total: usize) -> Error {
    Error::new(
        Code::ValueTooBig,
        format!(
            "the update has {total} bytes of values up to akey '{akey}': one request carries at most {VALUE_BYTES_MAX}"
        ),
    )
    .remedy("write it in parts, or as an array, which is split for you")
}

/// Checks one array value; returns its bytes.
fn array_value(akey: &Key, record_bytes: u32, extents: &[(Extent, bytes::Bytes)]) -> Result<usize> {
    if record_bytes == 0 {
        return Err(Error::new(Code::RecordSize, format!("akey '{akey}': a record has at least one byte"))
            .remedy("punch the extents to remove records"));
    }
    extent_list(akey, extents.iter().map(|(extent, _)| *extent), extents.len())?;
    if extents.len() > EXTENTS_PER_AKEY_MAX {
        return Err(too_many_extents(akey, extents.len()));
    }
    let mut total = 0usize;
    for (extent, payload) in extents {
        let expected = u128::from(extent.count) * u128::from(record_bytes);
        if payload.len() as u128 != expected {
            return Err(Error::new(
                Code::Invalid,
                format!(
                    "akey '{akey}': {} bytes given for {} records of {record_bytes} bytes at {}, which take {expected}",
                    payload.len(),
                    extent.count,
                    extent.start,
                ),
            ));
        }
        total = total.saturating_add(payload.len());
    }
    Ok(total)
}

/// At least one extent, each valid, no two of them overlapping. Any order.
///
/// # Errors
/// `Invalid`.
pub fn extents(akey: &Key, extents: &[Extent]) -> Result<()> {
    extent_list(akey, extents.iter().copied(), extents.len())
}

/// As [`extents`], and few enough for one request.
///
/// # Errors
/// `Invalid`.
pub fn extents_of_request(akey: &Key, list: &[Extent]) -> Result<()> {
    extents(akey, list)?;
    if list.len() > EXTENTS_PER_AKEY_MAX { Err(too_many_extents(akey, list.len())) } else { Ok(()) }
}

fn too_many_extents(akey: &Key, count: usize) -> Error {
    Error::new(
        Code::Invalid,
        format!("akey '{akey}': {count} extents, and one request changes at most {EXTENTS_PER_AKEY_MAX}"),
    )
    .remedy("split the request")
}

fn extent_list(akey: &Key, extents: impl Iterator<Item = Extent> + Clone, count: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::new(Code::Invalid, format!("akey '{akey}': no extent given")));
    }
    if let Some(bad) = extents.clone().find(|extent| !extent.is_valid()) {
        return Err(Error::new(
            Code::Invalid,
            format!("akey '{akey}': {} records from {} are no extent", bad.count, bad.start),
        )
        .remedy("give at least one record, and stay below index 2^63 - 1"));
    }
    if count > 1 {
        let mut sorted: Vec<Extent> = extents.collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].end() > pair[1].start) {
            return Err(Error::new(
                Code::Invalid,
                format!(
                    "akey '{akey}': extents {}+{} and {}+{} overlap",
                    pair[0].start, pair[0].count, pair[1].start, pair[1].count
                ),
            ));
        }
    }
    Ok(())
}

/// The akeys one request names: at least one, at most 256, each of the right kind, no two alike.
///
/// # Errors
/// `Invalid`.
pub fn akey_list<'a>(oid: ObjectId, akeys: impl ExactSizeIterator<Item = &'a Key>) -> Result<()> {
    let count = akeys.len();
    if count == 0 {
        return Err(Error::new(Code::Invalid, "no akey given"));
    }
    if count > AKEYS_PER_REQUEST_MAX {
        return Err(Error::new(
            Code::Invalid,
            format!("{count} akeys, and one request changes at most {AKEYS_PER_REQUEST_MAX} together"),
        )
        .remedy("split the request, or use an array"));
    }
    let mut sorted = Vec::with_capacity(count);
    for key in akeys {
        akey(oid, key)?;
        sorted.push(key);
    }
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::new(Code::Invalid, format!("akey '{}' is named twice", pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use types::ObjectClass;

    use super::*;

    fn oid(kind: ObjectType) -> ObjectId {
        ObjectId::new(kind, ObjectClass::S1, 0, 1)
    }

    fn single(akey: &'static str, bytes: usize) -> AkeyUpdate {
        AkeyUpdate { akey: Key::literal(akey), value: NewValue::Single(vec![0; bytes].into()) }
    }

    fn array(record_bytes: u32, extents: &[(u64, u64, usize)]) -> AkeyUpdate {
        let extents = extents.iter().map(|&(s, c, n)| (Extent::new(s, c), Bytes::from(vec![0; n]))).collect();
        AkeyUpdate { akey: Key::literal("a"), value: NewValue::Array { record_bytes, extents } }
    }

    /// Each bad request, and the words its error must have.
    #[test]
    fn bad_updates_are_refused_with_the_reason() {
        let many = (0..257u64).map(|n| AkeyUpdate { akey: n.into(), value: NewValue::Single(Bytes::new()) }).collect();
        let cases: Vec<(Vec<AkeyUpdate>, Code, &str)> = vec![
            (vec![], Code::Invalid, "no akey"),
            (vec![single("a", 1), single("a", 1)], Code::Invalid, "named twice"),
            (many, Code::Invalid, "257 akeys"),
            (vec![single("a", VALUE_BYTES_MAX + 1)], Code::ValueTooBig, "at most 16777216"),
            (vec![single("a", VALUE_BYTES_MAX), single("b", 1)], Code::ValueTooBig, "akey 'b'"),
            (vec![array(0, &[(0, 1, 0)])], Code::RecordSize, "at least one byte"),
            (vec![array(4, &[])], Code::Invalid, "no extent"),
            (vec![array(4, &[(0, 0, 0)])], Code::Invalid, "no extent"),
            (vec![array(4, &[(0, 2, 7)])], Code::Invalid, "which take 8"),
            (vec![array(1, &[(u64::MAX, 2, 2)])], Code::Invalid, "no extent"),
            (vec![array(1, &[(5, 2, 2), (0, 6, 6)])], Code::Invalid, "overlap"),
        ];
        for (akeys, code, words) in cases {
            let error = updates(oid(ObjectType::MultiHashed), &akeys).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
        let good = [single("b", 0), array(4, &[(7, 1, 4), (0, 2, 8)])];
        updates(oid(ObjectType::MultiHashed), &good).unwrap();
    }

    #[test]
    fn integer_typed_objects_want_integer_keys() {
        let text = Key::literal("name");
        assert!(dkey(oid(ObjectType::ArrayByte), &text).is_err());
        assert!(akey(oid(ObjectType::ArrayByte), &text).is_ok());
        assert!(akey(oid(ObjectType::MultiUint64), &text).is_err());
        assert!(dkey(oid(ObjectType::MultiHashed), &Key::from(3)).is_ok());
    }
}

//! The field encoding: little-endian integers, counted strings and lists, tagged enums.
//!
//! | type | bytes |
//! |---|---|
//! | `u8 u16 u32 u64` | 1, 2, 4, 8, little-endian |
//! | `bool` | 1: 0 or 1, nothing else |
//! | `String`, `Bytes` | `u32` length, then that many bytes (UTF-8 for a string) |
//! | `Vec<T>` | `u32` count, then the items |
//! | `Option<T>` | `u8` 0 or 1, then the value |
//! | `Result<T, Error>` | `u8` 0 and the error, or 1 and the value |
//! | `BTreeMap<K, V>` | `u32` count, then keys and values, keys strictly ascending |
//! | `BTreeSet<T>` | `u32` count, then the items, strictly ascending |
//! | ids | 16 bytes, in text order |
//! | `Principal` | `u8` kind, upstream's (0 owner, 1 user, 2 owner's group, 3 group, 4 everyone), then the name of a user or group as a string |
//! | `Acl` | `u32` count, then principals, strictly ascending, each with `u16` of upstream's bits |
//! | structs | their fields in order; enums: a `u8` tag, then the variant's fields |

use std::collections::{BTreeMap, BTreeSet};

use types::{
    ACL_ENTRIES_MAX, Ace, Acl, Code, Conditions, ContainerId, Epoch, Error, Extent, Key, Label, Layout, ObjectId,
    Permissions, PoolId, Principal, PrincipalName, Rank, ServerId, SystemId, TargetIndex,
};

/// Why bytes are not the message they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("message ends {missing} bytes early")]
    Short { missing: usize },
    #[error("message has {extra} bytes too many")]
    Long { extra: usize },
    #[error("{what} has the unknown value {value}")]
    Unknown { what: &'static str, value: u64 },
    #[error("{what} is not valid")]
    Invalid { what: &'static str },
    #[error("a list of {count} does not fit in {left} bytes")]
    Count { count: usize, left: usize },
}

/// A value with an encoding.
pub trait Wire: Sized {
    fn encode(&self, out: &mut Vec<u8>);
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The whole message as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.encode(&mut out);
        out
    }

    /// The message that is exactly `bytes`.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        match reader.left() {
            0 => Ok(value),
            extra => Err(DecodeError::Long { extra }),
        }
    }
}

/// Takes fields off the front of a message.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .bytes
            .split_at_checked(count)
            .ok_or(DecodeError::Short { missing: count.saturating_sub(self.bytes.len()) })?;
        self.bytes = tail;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A counted run of bytes, borrowed.
    pub fn counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = u32::decode(self)? as usize;
        self.take(count)
    }
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl Wire for $t {
            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                from.array().map(<$t>::from_le_bytes)
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 i64);

impl Wire for () {
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Wire for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Unknown { what: "a yes-or-no", value: other.into() }),
        }
    }
}

impl Wire for String {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = from.counted()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid { what: "text" })
    }
}

/// Bytes that are not a list of messages: encoded in one copy.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Wire for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(&self.0, out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.counted().map(|bytes| Bytes(bytes.to_vec()))
    }
}

/// 32 bytes that are not counted: a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes32(pub [u8; 32]);

impl Wire for Bytes32 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.array().map(Bytes32)
    }
}

/// A counted run of bytes. Panics beyond 4 GiB, which no caller can reach: bodies are bounded.
pub fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    u32::try_from(bytes.len()).expect("a field is far below 4 GiB").encode(out);
    out.extend_from_slice(bytes);
}

impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a list is far below 4 Gi items").encode(out);
        self.iter().for_each(|item| item.encode(out));
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::decode(from)? as usize;
        // Every item takes a byte or more: a count beyond what is left is a lie, found before it
        // is believed with an allocation.
        if count > from.left() {
            return Err(DecodeError::Count { count, left: from.left() });
        }
        let mut items = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            items.push(T::decode(from)?);
        }
        Ok(items)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::decode(from)?.then(|| T::decode(from)).transpose()
    }
}

impl<T: Wire> Wire for Result<T, Error> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_ok().encode(out);
        match self {
            Ok(value) => value.encode(out),
            Err(error) => error.encode(out),
        }
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match bool::decode(from)? {
            true => T::decode(from).map(Ok),
            false => Error::decode(from).map(Err),
        }
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a map is far below 4 Gi items").encode(out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut map = BTreeMap::new();
        for _ in 0..u32::decode(from)? {
            let key = K::decode(from)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Invalid { what: "the order of a map" });
            }
            map.insert(key, V::decode(from)?);
        }
        Ok(map)
    }
}

impl<T: Wire + Ord> Wire for BTreeSet<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a set is far below 4 Gi items").encode(out);
        self.iter().for_each(|item| item.encode(out));
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut set = BTreeSet::new();
        for _ in 0..u32::decode(from)? {
            let item = T::decode(from)?;
            if set.last().is_some_and(|last| *last >= item) {
                return Err(DecodeError::Invalid { what: "the order of a set" });
            }
            set.insert(item);
        }
        Ok(set)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::decode(from)?, B::decode(from)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        self.2.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::decode(from)?, B::decode(from)?, C::decode(from)?))
    }
}

impl Wire for Key {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Key::Integer(n) => {
                out.push(1);
                n.encode(out);
            }
            Key::Bytes(bytes) => {
                out.push(2);
                encode_bytes(bytes, out);
            }
        }
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            1 => u64::decode(from).map(Key::Integer),
            2 => Key::new(from.counted()?).map_err(|_| DecodeError::Invalid { what: "a key's length" }),
            other => Err(DecodeError::Unknown { what: "a key's kind", value: other.into() }),
        }
    }
}

impl Wire for Extent {
    fn encode(&self, out: &mut Vec<u8>) {
        self.start.encode(out);
        self.count.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let extent = Extent::new(u64::decode(from)?, u64::decode(from)?);
        if extent.is_valid() { Ok(extent) } else { Err(DecodeError::Invalid { what: "an extent" }) }
    }
}

impl Wire for ObjectId {
    fn encode(&self, out: &mut Vec<u8>) {
        // By value: on a reference the trait's own `to_bytes` would be found first.
        out.extend_from_slice(&(*self).to_bytes());
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.array().map(ObjectId::from_bytes)
    }
}

macro_rules! ids {
    ($($t:ty)*) => {$(
        impl Wire for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                // By value: on a reference the trait's own `to_bytes` would be found first.
                out.extend_from_slice(&(*self).to_bytes());
            }
            fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                from.array().map(<$t>::from_bytes)
            }
        }
    )*};
}
ids!(PoolId ContainerId SystemId ServerId);

impl Wire for Epoch {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u64::decode(from).map(Epoch)
    }
}

impl Wire for Rank {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u32::decode(from).map(Rank)
    }
}

impl Wire for TargetIndex {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u32::decode(from).map(TargetIndex)
    }
}

impl Wire for Label {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_str().as_bytes(), out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Label::parse(&String::decode(from)?).map_err(|_| DecodeError::Invalid { what: "a label" })
    }
}

impl Wire for PrincipalName {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_str().as_bytes(), out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        PrincipalName::parse(&String::decode(from)?)
            .map_err(|_| DecodeError::Invalid { what: "the name of a principal" })
    }
}

impl Wire for Principal {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, name) = match self {
            Principal::Owner => (0, None),
            Principal::User(name) => (1, Some(name)),
            Principal::OwnerGroup => (2, None),
            Principal::Group(name) => (3, Some(name)),
            Principal::Everyone => (4, None),
        };
        out.push(kind);
        if let Some(name) = name {
            name.encode(out);
        }
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(from)? {
            0 => Principal::Owner,
            1 => Principal::User(Wire::decode(from)?),
            2 => Principal::OwnerGroup,
            3 => Principal::Group(Wire::decode(from)?),
            4 => Principal::Everyone,
            other => return Err(DecodeError::Unknown { what: "a principal's kind", value: other.into() }),
        })
    }
}

impl Wire for Permissions {
    fn encode(&self, out: &mut Vec<u8>) {
        self.bits().encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bits = u16::decode(from)?;
        Permissions::from_bits(bits).ok_or(DecodeError::Unknown { what: "a permission", value: bits.into() })
    }
}

impl Wire for Acl {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.entries().len()).expect("a list is bounded").encode(out);
        for Ace { principal, permissions } in self.entries() {
            principal.encode(out);
            permissions.encode(out);
        }
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let too_long = DecodeError::Invalid { what: "the size of an ACL" };
        let count = u32::decode(from)? as usize;
        if count > ACL_ENTRIES_MAX {
            return Err(too_long);
        }
        let mut entries: Vec<Ace> = Vec::new();
        for _ in 0..count {
            let ace = Ace { principal: Wire::decode(from)?, permissions: Wire::decode(from)? };
            if entries.last().is_some_and(|last| last.principal >= ace.principal) {
                return Err(DecodeError::Invalid { what: "the order of an ACL" });
            }
            entries.push(ace);
        }
        Acl::new(entries).map_err(|_| too_long)
    }
}

impl Wire for Layout {
    fn encode(&self, out: &mut Vec<u8>) {
        (*self as u16).encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = u16::decode(from)?;
        Layout::from_code(code).ok_or(DecodeError::Unknown { what: "a container's layout", value: code.into() })
    }
}

impl Wire for Conditions {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.code());
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = u8::decode(from)?;
        Conditions::from_code(code).ok_or(DecodeError::Unknown { what: "a condition", value: code.into() })
    }
}

impl Wire for Error {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.code as u32).encode(out);
        self.message.encode(out);
        self.remedy.encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = u32::decode(from)?;
        // A newer server may know more codes; the words still tell the user.
        let code = Code::from_number(number).unwrap_or(Code::Misc);
        Ok(Error { code, message: String::decode(from)?, remedy: Wire::decode(from)? })
    }
}

/// A struct or an enum with its encoding: fields in the order written, enums by their tag.
#[macro_export]
macro_rules! message {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)* }

        impl $crate::Wire for $name {
            #[allow(unused_variables)]
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::Wire::encode(&self.$field, out);)*
            }
            #[allow(unused_variables)]
            fn decode(from: &mut $crate::Reader<'_>) -> Result<Self, $crate::DecodeError> {
                Ok($name { $($field: $crate::Wire::decode(from)?,)* })
            }
        }
    };
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident $({ $($field:ident : $type:ty),* $(,)? })? = $tag:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant $({ $($field: $type,)* })?,)* }

        impl $crate::Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant $({ $($field,)* })? => {
                        out.push($tag);
                        $($($crate::Wire::encode($field, out);)*)?
                    })*
                }
            }
            fn decode(from: &mut $crate::Reader<'_>) -> Result<Self, $crate::DecodeError> {
                match <u8 as $crate::Wire>::decode(from)? {
                    $($tag => Ok($name::$variant $({ $($field: $crate::Wire::decode(from)?,)* })?),)*
                    other => Err($crate::DecodeError::Unknown { what: stringify!($name), value: other.into() }),
                }
            }
        }
    };
}
pub(crate) use message;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_checked_before_it_is_believed() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 8]);
        assert_eq!(Vec::<u64>::from_bytes(&bytes), Err(DecodeError::Count { count: u32::MAX as usize, left: 8 }));
        assert_eq!(Bytes::from_bytes(&bytes), Err(DecodeError::Short { missing: u32::MAX as usize - 8 }));
    }

    #[test]
    fn short_and_long_messages_are_refused() {
        assert_eq!(u64::from_bytes(&[0; 5]), Err(DecodeError::Short { missing: 3 }));
        assert_eq!(u64::from_bytes(&[0; 9]), Err(DecodeError::Long { extra: 1 }));
        assert!(matches!(bool::from_bytes(&[2]), Err(DecodeError::Unknown { .. })));
    }

    #[test]
    fn a_list_of_principals_is_in_order_and_known() {
        let acl: Acl = "A::OWNER@:rw\nA::ann@:r\nA::bob@:\nA:G:GROUP@:r\nA:G:ann@:d\nA::EVERYONE@:r".parse().unwrap();
        assert_eq!(Acl::from_bytes(&acl.to_bytes()), Ok(acl));
        let of = |entries: &[(u8, u16)]| {
            let bytes = (entries.len() as u32).to_le_bytes().to_vec();
            let bytes =
                entries.iter().fold(bytes, |bytes, (kind, bits)| [&bytes[..], &[*kind], &bits.to_le_bytes()].concat());
            Acl::from_bytes(&bytes)
        };
        assert!(of(&[(0, 3), (2, 3), (4, 511)]).is_ok());
        assert_eq!(of(&[(4, 3), (0, 3)]), Err(DecodeError::Invalid { what: "the order of an ACL" }));
        assert_eq!(of(&[(0, 3), (0, 3)]), Err(DecodeError::Invalid { what: "the order of an ACL" }));
        assert!(matches!(of(&[(5, 3)]), Err(DecodeError::Unknown { value: 5, .. })));
        assert!(matches!(of(&[(0, 512)]), Err(DecodeError::Unknown { value: 512, .. })));
        assert_eq!(Acl::from_bytes(&[255; 4]), Err(DecodeError::Invalid { what: "the size of an ACL" }));
        let no_name = [&[1, 0, 0, 0, 1][..], &Bytes(b"bob".to_vec()).to_bytes(), &[0, 0]].concat();
        assert!(matches!(Acl::from_bytes(&no_name), Err(DecodeError::Invalid { .. })));
    }

    #[test]
    fn keys_keep_their_kind() {
        for key in [Key::from(7), Key::try_from("name").unwrap(), Key::new(vec![0; 1024]).unwrap()] {
            assert_eq!(Key::from_bytes(&key.to_bytes()), Ok(key));
        }
        assert!(matches!(Key::from_bytes(&[2, 0, 0, 0, 0]), Err(DecodeError::Invalid { .. })));
    }

    /// The ids have a `to_bytes` of their own; the encoding once called itself instead, without end.
    #[test]
    fn ids_take_sixteen_bytes_in_text_order() {
        let bytes: Vec<u8> = (0..16).collect();
        let mut out = Vec::new();
        Wire::encode(&PoolId::from_bytes(bytes[..].try_into().unwrap()), &mut out);
        Wire::encode(&ContainerId::from_bytes(bytes[..].try_into().unwrap()), &mut out);
        Wire::encode(&ObjectId::from_bytes(bytes[..].try_into().unwrap()), &mut out);
        assert_eq!(out, bytes.repeat(3));
    }

    #[test]
    fn an_unknown_error_number_keeps_its_words() {
        let mut bytes = Error::new(Code::NotFound, "no such thing").remedy("look again").to_bytes();
        bytes[..4].copy_from_slice(&9999u32.to_le_bytes());
        let error = Error::from_bytes(&bytes).unwrap();
        assert_eq!((error.code, error.message.as_str()), (Code::Misc, "no such thing"));
    }
}

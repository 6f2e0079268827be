//! Who is who: pools, containers, objects, ranks, targets, sessions.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

use crate::class::{ObjectClass, ObjectType};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
            pub const fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A pool: space reserved on many targets.
    PoolId
);
uuid_id!(
    /// A container: a dataset in a pool.
    ContainerId
);

uuid_id!(
    /// A system: the servers that form it share it for good.
    SystemId
);
uuid_id!(
    /// A server, wherever it runs and whatever its rank: drawn when its storage was made.
    ServerId
);

/// One client's conversation with the system; its requests are numbered within it, so that a
/// repeat of one can be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

/// A server's number in the system map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u32);

/// A target's number on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TargetIndex(pub u32);

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for TargetIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object's 128-bit name. The top 32 bits of `hi` say what it is (type 8, redundancy 8, groups
/// 16); the other 96 belong to the caller. Source: `daos_obj.h`, values as facts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectId {
    pub hi: u64,
    pub lo: u64,
}

impl ObjectId {
    /// Stamps type and class into the caller's 96 bits (`hi` keeps its low 32).
    pub fn new(kind: ObjectType, class: ObjectClass, hi: u32, lo: u64) -> ObjectId {
        let stamp = (u64::from(kind.code()) << 56)
            | (u64::from(class.redundancy_code()) << 48)
            | (u64::from(class.groups()) << 32);
        ObjectId { hi: stamp | u64::from(hi), lo }
    }

    /// The object's type; `None` for a code this release does not know.
    pub fn kind(self) -> Option<ObjectType> {
        ObjectType::from_code((self.hi >> 56) as u8)
    }

    /// The object's class; `None` for a redundancy code this release does not know.
    pub fn class(self) -> Option<ObjectClass> {
        ObjectClass::from_parts((self.hi >> 48) as u8, (self.hi >> 32) as u16)
    }

    /// Big-endian, so that byte order is id order.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.hi.to_be_bytes());
        bytes[8..].copy_from_slice(&self.lo.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; 16]) -> ObjectId {
        let n = u128::from_be_bytes(bytes);
        ObjectId { hi: (n >> 64) as u64, lo: n as u64 }
    }
}

/// `HI.LO` in decimal, as upstream's tools print and read it.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.hi, self.lo)
    }
}
impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

impl FromStr for ObjectId {
    type Err = String;

    fn from_str(text: &str) -> Result<ObjectId, String> {
        let parsed =
            text.split_once('.').and_then(|(hi, lo)| Some(ObjectId { hi: hi.parse().ok()?, lo: lo.parse().ok()? }));
        parsed.ok_or_else(|| format!("'{text}' is not an object id: write it as HI.LO, two decimal numbers"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_id_tells_its_type_and_class() {
        let oid = ObjectId::new(ObjectType::ArrayByte, ObjectClass::SX, 5, 9);
        assert_eq!(oid.kind(), Some(ObjectType::ArrayByte));
        assert_eq!(oid.class(), Some(ObjectClass::SX));
        assert_eq!((oid.hi as u32, oid.lo), (5, 9));
        assert_eq!(ObjectId::from_bytes(oid.to_bytes()), oid);
        assert_eq!(oid.to_string().parse::<ObjectId>().unwrap(), oid);
    }

    #[test]
    fn byte_order_is_id_order() {
        let a = ObjectId { hi: 1, lo: u64::MAX };
        let b = ObjectId { hi: 2, lo: 0 };
        assert!(a < b && a.to_bytes() < b.to_bytes());
    }
}

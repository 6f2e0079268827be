//! Object types and classes: how an object's keys are ordered, and how it is spread and protected.
//!
//! Numbers are upstream's (`daos_obj.h`, `daos_obj_class.h`), because users store them in object ids.

mod automatic;
mod names;

use std::fmt;
use std::str::FromStr;

pub use automatic::{Chosen, Hints, Protection, REDUNDANCY_FACTOR_MAX, Spread, TooFewDomains, Width};
pub use names::SymbolicClass;

/// How an object's keys are compared, and which face it wears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ObjectType {
    MultiHashed = 0,
    Oit = 1,
    DkeyUint64 = 2,
    AkeyUint64 = 3,
    MultiUint64 = 4,
    DkeyLexical = 5,
    AkeyLexical = 6,
    MultiLexical = 7,
    KvHashed = 8,
    KvUint64 = 9,
    KvLexical = 10,
    Array = 11,
    ArrayAttr = 12,
    ArrayByte = 13,
    OitV2 = 14,
}

impl ObjectType {
    const ALL: [ObjectType; 15] = [
        ObjectType::MultiHashed,
        ObjectType::Oit,
        ObjectType::DkeyUint64,
        ObjectType::AkeyUint64,
        ObjectType::MultiUint64,
        ObjectType::DkeyLexical,
        ObjectType::AkeyLexical,
        ObjectType::MultiLexical,
        ObjectType::KvHashed,
        ObjectType::KvUint64,
        ObjectType::KvLexical,
        ObjectType::Array,
        ObjectType::ArrayAttr,
        ObjectType::ArrayByte,
        ObjectType::OitV2,
    ];

    pub const fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<ObjectType> {
        ObjectType::ALL.get(usize::from(code)).copied()
    }

    /// Upstream's name, as `daos object query` prints it.
    pub fn name(self) -> &'static str {
        match self {
            ObjectType::MultiHashed => "DAOS_OT_MULTI_HASHED",
            ObjectType::Oit => "DAOS_OT_OIT",
            ObjectType::DkeyUint64 => "DAOS_OT_DKEY_UINT64",
            ObjectType::AkeyUint64 => "DAOS_OT_AKEY_UINT64",
            ObjectType::MultiUint64 => "DAOS_OT_MULTI_UINT64",
            ObjectType::DkeyLexical => "DAOS_OT_DKEY_LEXICAL",
            ObjectType::AkeyLexical => "DAOS_OT_AKEY_LEXICAL",
            ObjectType::MultiLexical => "DAOS_OT_MULTI_LEXICAL",
            ObjectType::KvHashed => "DAOS_OT_KV_HASHED",
            ObjectType::KvUint64 => "DAOS_OT_KV_UINT64",
            ObjectType::KvLexical => "DAOS_OT_KV_LEXICAL",
            ObjectType::Array => "DAOS_OT_ARRAY",
            ObjectType::ArrayAttr => "DAOS_OT_ARRAY_ATTR",
            ObjectType::ArrayByte => "DAOS_OT_ARRAY_BYTE",
            ObjectType::OitV2 => "DAOS_OT_OIT_V2",
        }
    }

    /// Dkeys are 64-bit integers, compared as numbers.
    pub fn dkey_is_integer(self) -> bool {
        matches!(
            self,
            ObjectType::DkeyUint64
                | ObjectType::MultiUint64
                | ObjectType::KvUint64
                | ObjectType::Array
                | ObjectType::ArrayAttr
                | ObjectType::ArrayByte
        )
    }

    /// Records of one size under integer dkeys, of which the client makes one sequence.
    pub fn is_array(self) -> bool {
        matches!(self, ObjectType::Array | ObjectType::ArrayAttr | ObjectType::ArrayByte)
    }

    /// One value a dkey.
    pub fn is_kv(self) -> bool {
        matches!(self, ObjectType::KvHashed | ObjectType::KvUint64 | ObjectType::KvLexical)
    }

    /// Akeys are 64-bit integers, compared as numbers.
    pub fn akey_is_integer(self) -> bool {
        matches!(self, ObjectType::AkeyUint64 | ObjectType::MultiUint64)
    }
}

/// How one group of an object is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Redundancy {
    /// `copies` replicas; one means none.
    Replicas { copies: u8 },
    /// Erasure code of `data` + `parity` cells.
    Erasure { data: u8, parity: u8 },
}

impl Redundancy {
    /// Copies or cells of a group: slots of a placement group, and fault domains that it needs.
    pub const fn width(self) -> usize {
        match self {
            Redundancy::Replicas { copies } => copies as usize,
            Redundancy::Erasure { data, parity } => data as usize + parity as usize,
        }
    }

    /// How many of them may be lost.
    pub const fn tolerance(self) -> usize {
        match self {
            Redundancy::Replicas { copies } => copies as usize - 1,
            Redundancy::Erasure { parity, .. } => parity as usize,
        }
    }
}

/// Redundancy code, what it means, and the middle of its class name.
const REDUNDANCIES: &[(u8, Redundancy, &str)] = &[
    (1, Redundancy::Replicas { copies: 1 }, "S"),
    (8, Redundancy::Replicas { copies: 2 }, "RP_2G"),
    (9, Redundancy::Replicas { copies: 3 }, "RP_3G"),
    (10, Redundancy::Replicas { copies: 4 }, "RP_4G"),
    (11, Redundancy::Replicas { copies: 5 }, "RP_5G"),
    (12, Redundancy::Replicas { copies: 6 }, "RP_6G"),
    (13, Redundancy::Replicas { copies: 8 }, "RP_8G"),
    (14, Redundancy::Replicas { copies: 12 }, "RP_12G"),
    (15, Redundancy::Replicas { copies: 16 }, "RP_16G"),
    (16, Redundancy::Replicas { copies: 24 }, "RP_24G"),
    (17, Redundancy::Replicas { copies: 32 }, "RP_32G"),
    (18, Redundancy::Replicas { copies: 48 }, "RP_48G"),
    (19, Redundancy::Replicas { copies: 64 }, "RP_64G"),
    (20, Redundancy::Replicas { copies: 128 }, "RP_128G"),
    (32, Redundancy::Erasure { data: 2, parity: 1 }, "EC_2P1G"),
    (33, Redundancy::Erasure { data: 2, parity: 2 }, "EC_2P2G"),
    (34, Redundancy::Erasure { data: 4, parity: 1 }, "EC_4P1G"),
    (35, Redundancy::Erasure { data: 4, parity: 2 }, "EC_4P2G"),
    (36, Redundancy::Erasure { data: 8, parity: 1 }, "EC_8P1G"),
    (37, Redundancy::Erasure { data: 8, parity: 2 }, "EC_8P2G"),
    (38, Redundancy::Erasure { data: 16, parity: 1 }, "EC_16P1G"),
    (39, Redundancy::Erasure { data: 16, parity: 2 }, "EC_16P2G"),
    (40, Redundancy::Erasure { data: 4, parity: 3 }, "EC_4P3G"),
    (41, Redundancy::Erasure { data: 8, parity: 3 }, "EC_8P3G"),
    (42, Redundancy::Erasure { data: 16, parity: 3 }, "EC_16P3G"),
];

/// An object class: protection of one group, and how many groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectClass {
    code: u8,
    groups: u16,
}

impl ObjectClass {
    /// As many groups as the pool allows.
    pub const GROUPS_MAX: u16 = u16::MAX;
    /// One target, no redundancy.
    pub const S1: ObjectClass = ObjectClass { code: 1, groups: 1 };
    /// All targets, no redundancy.
    pub const SX: ObjectClass = ObjectClass { code: 1, groups: ObjectClass::GROUPS_MAX };

    /// The class of a redundancy code and a number of groups; `None` if either is not one.
    pub fn from_parts(code: u8, groups: u16) -> Option<ObjectClass> {
        let known = REDUNDANCIES.iter().any(|(c, _, _)| *c == code);
        (known && groups > 0).then_some(ObjectClass { code, groups })
    }

    /// The class of a redundancy and a number of groups; `None` if upstream has no code for the former, or there are
    /// no groups.
    pub fn of(redundancy: Redundancy, groups: u16) -> Option<ObjectClass> {
        let (code, _, _) = REDUNDANCIES.iter().find(|(_, known, _)| *known == redundancy)?;
        ObjectClass::from_parts(*code, groups)
    }

    /// Every redundancy that has a code.
    pub fn redundancies() -> impl Iterator<Item = Redundancy> {
        REDUNDANCIES.iter().map(|(_, redundancy, _)| *redundancy)
    }

    pub const fn redundancy_code(self) -> u8 {
        self.code
    }

    /// Number of groups; [`Self::GROUPS_MAX`] means as many as the pool allows.
    pub const fn groups(self) -> u16 {
        self.groups
    }

    pub fn redundancy(self) -> Redundancy {
        self.row().1
    }

    /// Upstream's 32-bit class id.
    pub fn id(self) -> u32 {
        (u32::from(self.code) << 24) | u32::from(self.groups)
    }

    fn row(self) -> &'static (u8, Redundancy, &'static str) {
        REDUNDANCIES.iter().find(|(c, _, _)| *c == self.code).expect("checked in from_parts")
    }
}

/// Upstream's name without the `OC_` prefix: `S1`, `SX`, `RP_2G1`, `EC_4P2GX`.
impl fmt::Display for ObjectClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.groups {
            ObjectClass::GROUPS_MAX => write!(f, "{}X", self.row().2),
            groups => write!(f, "{}{groups}", self.row().2),
        }
    }
}

/// The text is not the name of an object class.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not an object class: try S1, SX, RP_2G1 or EC_4P2GX")]
pub struct ClassError(pub String);

impl FromStr for ObjectClass {
    type Err = ClassError;

    /// Accepts the name with or without `OC_`, in either case.
    fn from_str(text: &str) -> Result<ObjectClass, ClassError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("OC_").unwrap_or(&upper);
        REDUNDANCIES
            .iter()
            .find_map(|(code, _, stem)| {
                let groups = match name.strip_prefix(stem)? {
                    "X" => ObjectClass::GROUPS_MAX,
                    digits => digits.parse().ok()?,
                };
                ObjectClass::from_parts(*code, groups)
            })
            .ok_or_else(|| ClassError(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_upstreams() {
        for (text, id) in [("S1", 0x0100_0001), ("SX", 0x0100_ffff), ("RP_2G1", 0x0800_0001), ("EC_4P2GX", 0x2300_ffff)]
        {
            let class: ObjectClass = text.parse().unwrap();
            assert_eq!((class.id(), class.to_string()), (id, text.to_string()));
        }
        assert_eq!("oc_rp_3g8".parse::<ObjectClass>().unwrap().to_string(), "RP_3G8");
        assert!("RP_7G1".parse::<ObjectClass>().is_err());
        assert!("S0".parse::<ObjectClass>().is_err());
    }
}

//! The choice of a class for an object whose user named none: from what the container promises, what the pool has, and
//! what the user hinted at.
//!
//! Upstream's tables (`src/object/obj_class.c`), with one difference: a redundancy factor that the pool has too few
//! fault domains for is met as far as it goes, and the answer says so. Upstream refuses, so that a system of three
//! servers cannot hold any object with its defaults.

use super::{ObjectClass, ObjectType, Redundancy};

/// What a pool has to spread objects over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// What can fail by itself: servers, or what the container's `rd_lvl` says.
    pub domains: usize,
    pub targets: usize,
}

/// How an object shall be protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// As the container's redundancy factor and the object's type have it.
    #[default]
    Default,
    /// Not at all, unless the container promises some.
    None,
    Copies,
    Cells,
}

/// How widely an object shall be spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    /// As wide as can be for arrays and key-value stores, one group for the rest.
    #[default]
    Default,
    /// One group.
    Tiny,
    /// A quarter of the targets, or 128.
    Regular,
    /// Half of the targets, or 256.
    High,
    /// 70 % of the targets, or 1024.
    Extreme,
    /// As wide as can be.
    Max,
}

/// What a user says of an object instead of naming its class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    pub protection: Protection,
    pub width: Width,
}

/// A class, and whether it is what was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub class: ObjectClass,
    /// Failures it survives.
    pub tolerates: usize,
    /// Failures it was to survive. More than `tolerates` when the pool has too few fault domains.
    pub promised: usize,
}

/// The pool has too few fault domains for what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs {needed} fault domains, and the pool has {domains}")]
pub struct TooFewDomains {
    pub what: &'static str,
    pub needed: usize,
    pub domains: usize,
}

/// Greatest redundancy factor (`rd_fac`).
pub const REDUNDANCY_FACTOR_MAX: usize = 4;

/// By failures to survive: cells, and the fault domains from which on they are used, widest first.
const CELLS: [&[(usize, u8, u8)]; 4] = [
    &[],
    &[(18, 16, 1), (10, 8, 1), (6, 4, 1), (3, 2, 1)],
    &[(20, 16, 2), (12, 8, 2), (8, 4, 2), (4, 2, 2)],
    &[(22, 16, 3), (14, 8, 3), (10, 4, 3)],
];

impl Hints {
    /// Upstream's hint bits (`DAOS_OCH_*`); `None` if a bit is unknown or two contradict.
    pub fn from_bits(bits: u16) -> Option<Hints> {
        let protection = match bits & 0x0f {
            0 | 1 => Protection::Default,
            2 => Protection::None,
            4 => Protection::Copies,
            8 => Protection::Cells,
            _ => return None,
        };
        let width = match bits & !0x0f {
            0 | 0x010 => Width::Default,
            0x020 => Width::Tiny,
            0x040 => Width::Regular,
            0x080 => Width::High,
            0x100 => Width::Extreme,
            0x200 => Width::Max,
            _ => return None,
        };
        Some(Hints { protection, width })
    }
}

impl ObjectClass {
    /// The class of an object whose user named none, in a container of redundancy factor `rd_fac` (at most
    /// [`REDUNDANCY_FACTOR_MAX`] counts).
    ///
    /// # Errors
    /// [`TooFewDomains`]: the pool has none, or a hint insists on what it cannot hold.
    pub fn automatic(rd_fac: usize, has: Spread, kind: ObjectType, hints: Hints) -> Result<Chosen, TooFewDomains> {
        let Spread { domains, .. } = has;
        let too_few = |what, needed| Err(TooFewDomains { what, needed, domains });
        if domains == 0 {
            return too_few("an object", 1);
        }
        let promised = rd_fac.min(REDUNDANCY_FACTOR_MAX);
        let tolerates = promised.min(domains - 1);
        let redundancy = match (tolerates, hints.protection) {
            (0, Protection::Cells) => cells(1, domains),
            (0, Protection::Copies) if domains >= 2 => Some(Redundancy::Replicas { copies: 2 }),
            (0, Protection::Copies) => return too_few("a second copy", 2),
            (0, _) => Some(Redundancy::Replicas { copies: 1 }),
            (_, Protection::Cells) => cells(tolerates, domains),
            (_, Protection::Copies | Protection::None) => Some(copies(tolerates)),
            (_, Protection::Default) if kind.is_array() => cells(tolerates, domains).or(Some(copies(tolerates))),
            (_, Protection::Default) => Some(copies(tolerates)),
        };
        let Some(redundancy) = redundancy else {
            let rows = CELLS.get(tolerates.max(1)).and_then(|rows| rows.last());
            return match rows {
                Some((needed, _, _)) => too_few("erasure code", *needed),
                // Nothing has four parities: copies it is, whatever the hint.
                None => Ok(chosen(copies(tolerates), promised, has, kind, hints)),
            };
        };
        Ok(chosen(redundancy, promised, has, kind, hints))
    }
}

fn chosen(redundancy: Redundancy, promised: usize, has: Spread, kind: ObjectType, hints: Hints) -> Chosen {
    let groups = groups(redundancy.width(), has.targets, kind, hints.width);
    let class = ObjectClass::of(redundancy, groups).expect("every row above has a class");
    Chosen { class, tolerates: redundancy.tolerance(), promised }
}

fn copies(tolerates: usize) -> Redundancy {
    Redundancy::Replicas { copies: tolerates as u8 + 1 }
}

/// The widest cells that survive so many failures in so many domains.
fn cells(tolerates: usize, domains: usize) -> Option<Redundancy> {
    let rows = CELLS.get(tolerates)?;
    let row = rows.iter().find(|(from, _, _)| domains >= *from);
    row.map(|&(_, data, parity)| Redundancy::Erasure { data, parity })
}

fn groups(slots: usize, targets: usize, kind: ObjectType, width: Width) -> u16 {
    let share = |least: usize, percent: usize| {
        let wanted = least.max(targets * percent / 100).min(targets);
        (wanted / slots).clamp(1, ObjectClass::GROUPS_MAX as usize - 1) as u16
    };
    match width {
        Width::Default if kind.is_array() || kind.is_kv() => ObjectClass::GROUPS_MAX,
        Width::Default | Width::Tiny => 1,
        Width::Regular => share(128, 25),
        Width::High => share(256, 50),
        Width::Extreme => share(1024, 70),
        Width::Max => ObjectClass::GROUPS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(rd_fac: usize, domains: usize, kind: ObjectType, protection: Protection) -> String {
        let has = Spread { domains, targets: domains * 8 };
        match ObjectClass::automatic(rd_fac, has, kind, Hints { protection, width: Width::Tiny }) {
            Ok(chosen) => chosen.class.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn copies_follow_the_redundancy_factor_as_far_as_there_are_domains() {
        for (rd_fac, domains, expected) in [
            (0, 9, "S1"),
            (1, 1, "S1"),
            (1, 2, "RP_2G1"),
            (3, 2, "RP_2G1"),
            (3, 3, "RP_3G1"),
            (3, 4, "RP_4G1"),
            (4, 9, "RP_5G1"),
            (9, 9, "RP_5G1"),
        ] {
            assert_eq!(
                class(rd_fac, domains, ObjectType::KvHashed, Protection::Default),
                expected,
                "{rd_fac} {domains}"
            );
        }
    }

    /// Upstream's thresholds.
    #[test]
    fn arrays_have_cells_where_there_are_domains_for_them() {
        for (rd_fac, rows) in [
            (1, &[(2, "RP_2G1"), (3, "EC_2P1G1"), (6, "EC_4P1G1"), (10, "EC_8P1G1"), (18, "EC_16P1G1")][..]),
            (2, &[(3, "RP_3G1"), (4, "EC_2P2G1"), (8, "EC_4P2G1"), (12, "EC_8P2G1"), (20, "EC_16P2G1")]),
            (3, &[(9, "RP_4G1"), (10, "EC_4P3G1"), (14, "EC_8P3G1"), (22, "EC_16P3G1")]),
            (4, &[(5, "RP_5G1"), (99, "RP_5G1")]),
        ] {
            for (domains, expected) in rows {
                let found = class(rd_fac, *domains, ObjectType::ArrayByte, Protection::Default);
                assert_eq!(found, *expected, "{rd_fac} {domains}");
            }
        }
    }

    #[test]
    fn a_hint_adds_what_the_container_does_not_promise_or_says_what_it_needs() {
        let kv = ObjectType::KvHashed;
        assert_eq!(class(0, 2, kv, Protection::Copies), "RP_2G1");
        assert_eq!(class(0, 1, kv, Protection::Copies), "a second copy needs 2 fault domains, and the pool has 1");
        assert_eq!(class(0, 6, kv, Protection::Cells), "EC_4P1G1");
        assert_eq!(class(0, 2, kv, Protection::Cells), "erasure code needs 3 fault domains, and the pool has 2");
        assert_eq!(class(3, 9, kv, Protection::Cells), "erasure code needs 10 fault domains, and the pool has 9");
        assert_eq!(class(4, 9, kv, Protection::Cells), "RP_5G1");
        assert_eq!(class(2, 9, kv, Protection::None), "RP_3G1");
        assert_eq!(class(2, 0, kv, Protection::None), "an object needs 1 fault domains, and the pool has 0");
    }

    #[test]
    fn a_reduced_promise_is_told() {
        let has = Spread { domains: 2, targets: 4 };
        let chosen = ObjectClass::automatic(3, has, ObjectType::KvHashed, Hints::default()).unwrap();
        assert_eq!((chosen.tolerates, chosen.promised, chosen.class.to_string()), (1, 3, "RP_2GX".into()));
    }

    #[test]
    fn width_follows_the_hint_and_the_type() {
        let has = Spread { domains: 500, targets: 4000 };
        let groups = |kind, width| {
            let hints = Hints { protection: Protection::Default, width };
            ObjectClass::automatic(1, has, kind, hints).unwrap().class.groups()
        };
        let kinds = [ObjectType::KvHashed, ObjectType::MultiHashed];
        assert_eq!(kinds.map(|kind| groups(kind, Width::Default)), [ObjectClass::GROUPS_MAX, 1]);
        let widths = [Width::Tiny, Width::Regular, Width::High, Width::Extreme, Width::Max];
        assert_eq!(widths.map(|width| groups(kinds[1], width)), [1, 500, 1000, 1400, ObjectClass::GROUPS_MAX]);
    }

    #[test]
    fn hints_are_upstreams_bits() {
        assert_eq!(Hints::from_bits(0), Some(Hints::default()));
        assert_eq!(Hints::from_bits(8 | 128), Some(Hints { protection: Protection::Cells, width: Width::High }));
        assert_eq!((Hints::from_bits(4 | 8), Hints::from_bits(32 | 64), Hints::from_bits(1024)), (None, None, None));
    }
}

//! Upstream's names: every class that `daos_obj_class.h` has a constant for, and the symbolic ones that stand for a
//! choice.

use super::automatic::{Chosen, Hints, Protection, Spread, TooFewDomains, Width};
use super::{ObjectClass, ObjectType, Redundancy};

/// Group counts that upstream has names for, besides X.
const GROUPS: [u16; 8] = [1, 2, 4, 6, 8, 12, 16, 32];

/// A name that stands for a choice: resolved when an object is made, and never part of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolicClass {
    /// Upstream's name, without `OC_`.
    pub name: &'static str,
    /// Upstream's number.
    pub id: u32,
    choice: Choice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// As hints would have it.
    Hinted(Protection, Width),
    /// As many copies as there are domains, for what is read by everybody and hardly written.
    ManyCopies(Width),
}

const fn hinted(name: &'static str, id: u32, protection: Protection, width: Width) -> SymbolicClass {
    SymbolicClass { name, id, choice: Choice::Hinted(protection, width) }
}

const fn many(name: &'static str, id: u32, width: Width) -> SymbolicClass {
    SymbolicClass { name, id, choice: Choice::ManyCopies(width) }
}

impl SymbolicClass {
    /// All of them, by number.
    pub const ALL: [SymbolicClass; 18] = [
        hinted("UNKNOWN", 0, Protection::Default, Width::Default),
        hinted("TINY", 51, Protection::Default, Width::Tiny),
        hinted("SMALL", 52, Protection::Default, Width::Regular),
        hinted("LARGE", 53, Protection::Default, Width::High),
        hinted("MAX", 54, Protection::Default, Width::Max),
        hinted("RP_TINY", 60, Protection::Copies, Width::Tiny),
        hinted("RP_SMALL", 61, Protection::Copies, Width::Regular),
        hinted("RP_LARGE", 62, Protection::Copies, Width::High),
        hinted("RP_MAX", 63, Protection::Copies, Width::Max),
        many("RP_SF_TINY", 70, Width::Tiny),
        many("RP_SF_SMALL", 71, Width::Regular),
        many("RP_SF_LARGE", 72, Width::High),
        many("RP_SF_MAX", 73, Width::Max),
        many("RP_XSF", 80, Width::Tiny),
        hinted("EC_TINY", 100, Protection::Cells, Width::Tiny),
        hinted("EC_SMALL", 101, Protection::Cells, Width::Regular),
        hinted("EC_LARGE", 102, Protection::Cells, Width::High),
        hinted("EC_MAX", 103, Protection::Cells, Width::Max),
    ];

    /// By upstream's name, with or without `OC_`, in either case.
    pub fn by_name(text: &str) -> Option<SymbolicClass> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("OC_").unwrap_or(&upper);
        SymbolicClass::ALL.into_iter().find(|class| class.name == name)
    }

    /// By upstream's number.
    pub fn by_id(id: u32) -> Option<SymbolicClass> {
        SymbolicClass::ALL.into_iter().find(|class| class.id == id)
    }

    /// The class that it stands for, for an object of this kind in this pool.
    ///
    /// # Errors
    /// [`TooFewDomains`], as for [`ObjectClass::automatic`].
    pub fn resolve(self, rd_fac: usize, has: Spread, kind: ObjectType) -> Result<Chosen, TooFewDomains> {
        match self.choice {
            Choice::Hinted(protection, width) => ObjectClass::automatic(rd_fac, has, kind, Hints { protection, width }),
            Choice::ManyCopies(width) => {
                let hints = Hints { protection: Protection::Default, width };
                let groups = ObjectClass::automatic(0, has, kind, hints)?.class.groups();
                let fit = |redundancy: &Redundancy| {
                    matches!(redundancy, Redundancy::Replicas { .. }) && redundancy.width() <= has.domains
                };
                let widest = ObjectClass::redundancies().filter(fit).max_by_key(|redundancy| redundancy.width());
                let redundancy = widest.expect("one copy fits where an object does");
                let groups = match groups {
                    ObjectClass::GROUPS_MAX => groups,
                    some => (usize::from(some) / redundancy.width()).max(1) as u16,
                };
                let class = ObjectClass::of(redundancy, groups).expect("a redundancy of the table");
                Ok(Chosen { class, tolerates: redundancy.tolerance(), promised: rd_fac })
            }
        }
    }
}

impl ObjectClass {
    /// Every class that upstream has a constant for, in the order of its header. Others are possible: `S3`.
    pub fn upstream() -> impl Iterator<Item = ObjectClass> {
        let groups = |redundancy: Redundancy| -> &'static [u16] {
            const WITH_MAX: [u16; 9] = {
                let mut all = [ObjectClass::GROUPS_MAX; 9];
                let mut at = 0;
                while at < GROUPS.len() {
                    all[at] = GROUPS[at];
                    at += 1;
                }
                all
            };
            match redundancy {
                // Nobody named 8 copies.
                Redundancy::Replicas { copies: 8 } => &[],
                Redundancy::Replicas { copies: 12.. } => &[1],
                _ => &WITH_MAX,
            }
        };
        ObjectClass::redundancies().flat_map(move |redundancy| {
            groups(redundancy).iter().filter_map(move |&groups| ObjectClass::of(redundancy, groups))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `daos_obj_class.h` has 179: these, and RESERVED.
    #[test]
    fn all_of_upstreams_names_are_there_and_read_back() {
        let classes: Vec<ObjectClass> = ObjectClass::upstream().collect();
        assert_eq!(classes.len() + SymbolicClass::ALL.len() + 1, 179);
        for class in &classes {
            assert_eq!(format!("OC_{class}").parse(), Ok(*class));
            assert_eq!(ObjectClass::from_parts((class.id() >> 24) as u8, class.id() as u16), Some(*class));
        }
        for class in SymbolicClass::ALL {
            assert_eq!(
                (SymbolicClass::by_name(class.name), SymbolicClass::by_id(class.id)),
                (Some(class), Some(class))
            );
            assert!(class.name.parse::<ObjectClass>().is_err(), "{} is no class of an object", class.name);
        }
    }

    #[test]
    fn numbers_are_upstreams() {
        for (name, id) in [
            ("S1", 0x0100_0001),
            ("S32", 0x0100_0020),
            ("SX", 0x0100_ffff),
            ("RP_2G1", 0x0800_0001),
            ("RP_6GX", 0x0c00_ffff),
            ("RP_12G1", 0x0e00_0001),
            ("RP_128G1", 0x1400_0001),
            ("EC_2P1G1", 0x2000_0001),
            ("EC_4P2GX", 0x2300_ffff),
            ("EC_16P2G8", 0x2700_0008),
            ("EC_4P3G6", 0x2800_0006),
            ("EC_16P3GX", 0x2a00_ffff),
        ] {
            let class: ObjectClass = name.parse().unwrap();
            assert_eq!((class.id(), class.to_string().as_str()), (id, name));
            assert!(ObjectClass::upstream().any(|listed| listed == class), "{name}");
        }
    }

    #[test]
    fn a_symbolic_class_stands_for_what_the_pool_allows() {
        let has = Spread { domains: 20, targets: 160 };
        let class = |name: &str, rd_fac| {
            let symbolic = SymbolicClass::by_name(name).unwrap();
            symbolic.resolve(rd_fac, has, ObjectType::ArrayByte).unwrap().class.to_string()
        };
        let names = ["UNKNOWN", "TINY", "OC_RP_TINY", "ec_max", "RP_XSF", "RP_SF_MAX", "RP_SF_SMALL"];
        let found = names.map(|name| class(name, 2));
        assert_eq!(found, ["EC_16P2GX", "EC_16P2G1", "RP_3G1", "EC_16P2GX", "RP_16G1", "RP_16GX", "RP_16G8"]);
        assert_eq!(class("TINY", 0), "S1");
    }
}

//! The number of a placement group as targets know it: with the width of the objects in it.

use std::fmt;

use crate::layout::SLOTS_MAX;
use crate::map::PG_COUNT_MAX;

/// A placement group at a width: `pg << 8 | width`.
///
/// Objects of different widths in one placement group have different members, substitutes and intervals, so at a target
/// they are groups of their own: each with its key range in the store, its leader and its history of changes. Requests
/// name the group so, and stores keep it so; all widths of a placement group are one key range.
///
/// The *width* is the number of slots of an object's class: 1 to [`SLOTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupNumber(u32);

const WIDTH_BITS: u32 = 8;
const _: () = assert!(SLOTS_MAX < 1 << WIDTH_BITS && PG_COUNT_MAX.leading_zeros() + 1 >= WIDTH_BITS);

impl GroupNumber {
    /// # Panics
    /// If there can be no such group: both come from a layout and a class.
    pub fn new(pg: u32, width: usize) -> GroupNumber {
        assert!(pg < PG_COUNT_MAX && (1..=SLOTS_MAX).contains(&width), "placement group {pg}, width {width}");
        GroupNumber(pg << WIDTH_BITS | width as u32)
    }

    /// What a request or a store names; `None` if it is no such number. Whether the pool has the group is for the
    /// layout to say.
    pub fn from_u32(number: u32) -> Option<GroupNumber> {
        let found = GroupNumber(number);
        (1..=SLOTS_MAX).contains(&found.width()).then_some(found)
    }

    pub fn as_u32(self) -> u32 {
        self.0
    }

    pub fn pg(self) -> u32 {
        self.0 >> WIDTH_BITS
    }

    pub fn width(self) -> usize {
        (self.0 & ((1 << WIDTH_BITS) - 1)) as usize
    }
}

impl fmt::Display for GroupNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pg(), self.width())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores hold these numbers: another meaning of the bits loses what is in them.
    #[test]
    fn a_number_is_the_group_and_then_the_width() {
        assert_eq!(GroupNumber::new(0x1234, 3).as_u32(), 0x12_3403);
        for (pg, width) in [(0, 1), (77, 3), (PG_COUNT_MAX - 1, SLOTS_MAX)] {
            let number = GroupNumber::from_u32(GroupNumber::new(pg, width).as_u32()).unwrap();
            assert_eq!((number.pg(), number.width()), (pg, width));
        }
        assert!(GroupNumber::new(1, SLOTS_MAX) < GroupNumber::new(2, 1), "a placement group is one range");
        for no_width in [0, 0x1200, 0x1281, u32::MAX] {
            assert_eq!(GroupNumber::from_u32(no_width), None);
        }
    }
}

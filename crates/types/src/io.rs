//! What one I/O names: extents of an array, conditions, and the limits of a request.

/// Checksums of values are computed per chunk of this many bytes.
pub const CHECKSUM_CHUNK_BYTES: usize = 32 * 1024;
/// Largest single value, and largest payload of one request, in bytes. It bounds what a server
/// holds in memory for one request.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Most akeys in one request: bounds the work done without a pause on a target's thread.
pub const AKEYS_PER_REQUEST_MAX: usize = 256;
/// Most extents of one akey in one request, for the same reason.
pub const EXTENTS_PER_AKEY_MAX: usize = 1024;
/// Most requests of one session that take effect and are under way, over all its links: counted from the oldest that is not
/// over, those behind it that are over among them. What clients keep to, and servers count on: who remembers that many
/// effects of a session, those with the highest numbers, remembers all whose requests may come again.
pub const UNDER_WAY_MAX: usize = 256;
/// Array indices end here, so that `start + count` never wraps.
pub const ARRAY_INDEX_MAX: u64 = u64::MAX >> 1;

/// `count` records of an array from index `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    pub start: u64,
    pub count: u64,
}

impl Extent {
    pub const fn new(start: u64, count: u64) -> Extent {
        Extent { start, count }
    }

    /// One past the last index.
    pub const fn end(self) -> u64 {
        self.start + self.count
    }

    /// Not empty, and within [`ARRAY_INDEX_MAX`].
    pub const fn is_valid(self) -> bool {
        self.count > 0 && self.start <= ARRAY_INDEX_MAX && self.count <= ARRAY_INDEX_MAX - self.start
    }

    /// The part both cover, if any.
    pub fn intersect(self, other: Extent) -> Option<Extent> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Extent::new(start, end - start))
    }
}

/// What must hold before an operation takes effect. All false: no condition.
///
/// Source: `DAOS_COND_*` in `daos_obj.h`. *Insert* asks for absence, *update*, *fetch* and *punch*
/// for existence, of the dkey or of each akey named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Conditions {
    #[default]
    None,
    /// The dkey must not exist.
    DkeyInsert,
    /// The dkey must exist (update, fetch, punch).
    DkeyExists,
    /// None of the akeys named may exist.
    AkeyInsert,
    /// Every akey named must exist.
    AkeyExists,
}

impl Conditions {
    pub const fn code(self) -> u8 {
        match self {
            Conditions::None => 0,
            Conditions::DkeyInsert => 1,
            Conditions::DkeyExists => 2,
            Conditions::AkeyInsert => 3,
            Conditions::AkeyExists => 4,
        }
    }

    pub const fn from_code(code: u8) -> Option<Conditions> {
        Some(match code {
            0 => Conditions::None,
            1 => Conditions::DkeyInsert,
            2 => Conditions::DkeyExists,
            3 => Conditions::AkeyInsert,
            4 => Conditions::AkeyExists,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_stay_below_the_limit() {
        assert!(Extent::new(0, 1).is_valid());
        assert!(!Extent::new(5, 0).is_valid());
        assert!(!Extent::new(u64::MAX, 2).is_valid());
        assert!(!Extent::new(ARRAY_INDEX_MAX, 1).is_valid());
        assert_eq!(Extent::new(0, 10).intersect(Extent::new(5, 10)), Some(Extent::new(5, 5)));
        assert_eq!(Extent::new(0, 5).intersect(Extent::new(5, 10)), None);
    }
}

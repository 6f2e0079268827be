//! Composite keys: what the tree sorts by. Byte order is the order of objects, keys and versions.
//!
//! ```text
//! group u32 BE | oid 16 | 00 | 00                             object flag: something in it was punched
//!                       | 00 | 01 | ~epoch 8 | ~minor 2       punch of the object
//!                       | dkey | 00 | ~epoch | ~minor         punch of the dkey
//!                              | akey | 00 | ~epoch | ~minor  punch of the akey
//!                                     | 01 | ~epoch | ~minor  single value
//!                                     | 02 | class | start 8 BE | ~epoch | ~minor  array data
//!                                     | 03 | class | start 8 BE | ~epoch | ~minor  array hole
//! dkey, akey = 01 | integer 8 BE
//!            | 02 | escaped bytes and their end
//! ```
//!
//! Newest versions come first, because epochs and minors are stored inverted. An owner's punches come
//! before its children.
//!
//! # Escaping
//! Only zeros are escaped, so that byte order is the order of the strings whatever their lengths. A
//! maximal run of `k` zeros becomes two bytes:
//!
//! | bytes         | meaning                                                        |
//! |---------------|----------------------------------------------------------------|
//! | `00 k`        | `k` (0..=126) zeros, then the string ends                      |
//! | `00 7f`       | 127 zeros; the run goes on, or ends here                       |
//! | `00 (ff - k)` | `k` (1..=126) zeros, then a byte that is not zero              |
//!
//! A string that ends sorts before one that goes on (`k < 7f`), more zeros sort before fewer
//! (`ff - k` falls as `k` grows), and both sort before any other byte. Worst growth: half, for zeros
//! that stand alone, and two bytes for the end.
//!
//! # Array classes
//! `class` is the logarithm of the record count, rounded up: an extent of class `c` that covers index
//! `i` starts after `i - 2^c`. So a read looks at one short range per class in use.

use types::{Epoch, Extent, KEY_BYTES_MAX, Key, ObjectId};

/// Bytes of `group | oid`.
pub(crate) const OBJECT_BYTES: usize = 20;
/// Bytes of `~epoch | ~minor`.
pub(crate) const VERSION_BYTES: usize = 10;
/// Longest encoded dkey or akey: tag, one and a half times the bytes, end.
pub(crate) const COMPONENT_BYTES_MAX: usize = 1 + KEY_BYTES_MAX + KEY_BYTES_MAX / 2 + 2;
/// Longest composite key.
pub(crate) const COMPOSITE_BYTES_MAX: usize = OBJECT_BYTES + 2 * COMPONENT_BYTES_MAX + 1 + 9 + VERSION_BYTES;

/// First byte after an owner's key: its own punches, before every child.
pub(crate) const LIFE: u8 = 0;
/// First byte of an integer dkey or akey.
pub(crate) const INTEGER: u8 = 1;
/// First byte of a byte-string dkey or akey.
pub(crate) const BYTES: u8 = 2;
/// After an akey: a single value.
pub(crate) const SINGLE: u8 = 1;
/// After an akey: records of an array.
pub(crate) const DATA: u8 = 2;
/// After an akey: a hole punched into an array.
pub(crate) const HOLE: u8 = 3;
/// Sorts after every child of an owner, and is itself none.
pub(crate) const BEYOND: u8 = 0xff;

/// Second byte of an object's own records: the flag.
pub(crate) const OBJECT_FLAG: u8 = 0;
/// Second byte of an object's own records: a punch.
pub(crate) const OBJECT_PUNCH: u8 = 1;

/// Code for 127 zeros.
const LONG_RUN: u8 = 0x7f;

/// When something was written: epoch, and order within the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    pub epoch: Epoch,
    pub minor: u16,
}

impl Version {
    /// Before everything that was ever written.
    pub(crate) const NEVER: Version = Version { epoch: Epoch::ZERO, minor: 0 };

    /// The last version a read at `epoch` sees.
    pub(crate) const fn latest(epoch: Epoch) -> Version {
        Version { epoch, minor: u16::MAX }
    }

    /// Inverted, so that newer sorts first.
    pub(crate) fn to_bytes(self) -> [u8; VERSION_BYTES] {
        let mut bytes = [0; VERSION_BYTES];
        bytes[..8].copy_from_slice(&(!self.epoch.0).to_be_bytes());
        bytes[8..].copy_from_slice(&(!self.minor).to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; VERSION_BYTES]) -> Version {
        let (mut epoch, mut minor) = ([0; 8], [0; 2]);
        epoch.copy_from_slice(&bytes[..8]);
        minor.copy_from_slice(&bytes[8..]);
        Version { epoch: Epoch(!u64::from_be_bytes(epoch)), minor: !u16::from_be_bytes(minor) }
    }
}

/// Appends `group | oid`.
#[inline]
pub(crate) fn push_object(out: &mut Vec<u8>, group: u32, oid: ObjectId) {
    out.extend_from_slice(&group.to_be_bytes());
    out.extend_from_slice(&oid.to_bytes());
}

/// Appends a dkey or akey.
#[inline]
pub(crate) fn push_key(out: &mut Vec<u8>, key: &Key) {
    match key {
        Key::Integer(n) => {
            out.push(INTEGER);
            out.extend_from_slice(&n.to_be_bytes());
        }
        Key::Bytes(bytes) => {
            out.push(BYTES);
            push_escaped(out, bytes);
        }
    }
}

fn push_escaped(out: &mut Vec<u8>, mut rest: &[u8]) {
    loop {
        let Some(zero) = find_zero(rest) else {
            out.extend_from_slice(rest);
            out.extend_from_slice(&[0, 0]);
            return;
        };
        out.extend_from_slice(&rest[..zero]);
        rest = &rest[zero..];
        let mut run = rest.iter().position(|&b| b != 0).unwrap_or(rest.len());
        rest = &rest[run..];
        while run >= usize::from(LONG_RUN) {
            out.extend_from_slice(&[0, LONG_RUN]);
            run -= usize::from(LONG_RUN);
        }
        if rest.is_empty() {
            out.extend_from_slice(&[0, run as u8]);
            return;
        }
        if run > 0 {
            out.extend_from_slice(&[0, 0xff - run as u8]);
        }
    }
}

/// Appends `~epoch | ~minor`.
#[inline]
pub(crate) fn push_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.to_bytes());
}

/// Appends `class | start` of an extent; `kind` ([`DATA`] or [`HOLE`]) goes before.
#[inline]
pub(crate) fn push_extent(out: &mut Vec<u8>, kind: u8, extent: Extent) {
    out.push(kind);
    out.push(class_of(extent.count));
    out.extend_from_slice(&extent.start.to_be_bytes());
}

/// Length class of an extent: the smallest `c` with `count <= 2^c`.
pub(crate) fn class_of(count: u64) -> u8 {
    // Counts beyond are no array's, but a damaged record may have one.
    count.max(1).checked_next_power_of_two().map_or(63, |power| power.trailing_zeros() as u8)
}

/// First start at which an extent of `class` may reach index `index`.
pub(crate) fn first_start(class: u8, index: u64) -> u64 {
    index.saturating_sub((1u64 << class.min(63)) - 1)
}

/// Position of the first zero.
#[inline]
pub(crate) fn find_zero(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // The lowest byte whose high bit is set is the first that borrowed: the first zero.
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&b| b == 0).map(|at| words.len() * 8 + at)
}

/// Length of the encoded dkey or akey at the head of `bytes`; `None` if there is none.
pub(crate) fn key_len(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        INTEGER => (bytes.len() >= 9).then_some(9),
        BYTES => Some(1 + string_len(bytes.get(1..)?)?),
        _ => None,
    }
}

/// Length of the escaped string at the head of `bytes`, its end included; `None` if it has none.
#[inline]
pub(crate) fn string_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += find_zero(bytes.get(at..)?)?;
        let code = *bytes.get(at + 1)?;
        at += 2;
        if code < LONG_RUN {
            return Some(at);
        }
    }
}

/// The dkey or akey at the head of `bytes` and its encoded length; `None` if there is none.
pub(crate) fn read_key(bytes: &[u8]) -> Option<(Key, usize)> {
    let len = key_len(bytes)?;
    match *bytes.first()? {
        INTEGER => {
            let mut n = [0; 8];
            n.copy_from_slice(bytes.get(1..9)?);
            Some((Key::Integer(u64::from_be_bytes(n)), len))
        }
        _ => {
            let escaped = bytes.get(1..len)?;
            if let Some(plain) = unescaped(escaped) {
                return Some((Key::new(plain).ok()?, len));
            }
            let mut plain = Vec::with_capacity(len);
            unescape(escaped, &mut plain)?;
            Some((Key::new(plain).ok()?, len))
        }
    }
}

/// The bytes of an escaped string, its end included, when they are as they were.
pub(crate) fn unescaped(escaped: &[u8]) -> Option<&[u8]> {
    let plain = escaped.strip_suffix(&[0, 0])?;
    find_zero(plain).is_none().then_some(plain)
}

/// Appends the bytes of an escaped string; `None` when it has no end.
pub(crate) fn unescape(escaped: &[u8], plain: &mut Vec<u8>) -> Option<()> {
    let mut rest = escaped;
    loop {
        let zero = find_zero(rest)?;
        plain.extend_from_slice(&rest[..zero]);
        let code = *rest.get(zero + 1)?;
        let run = if code <= LONG_RUN { code } else { 0xff - code };
        plain.resize(plain.len() + usize::from(run), 0);
        if code < LONG_RUN {
            return Some(());
        }
        rest = &rest[zero + 2..];
    }
}

/// `group` and `oid` at the head of a composite key.
pub(crate) fn read_object(bytes: &[u8]) -> Option<(u32, ObjectId)> {
    let (mut group, mut oid) = ([0; 4], [0; 16]);
    group.copy_from_slice(bytes.get(..4)?);
    oid.copy_from_slice(bytes.get(4..OBJECT_BYTES)?);
    Some((u32::from_be_bytes(group), ObjectId::from_bytes(oid)))
}

/// Levels of owners in a composite key.
pub(crate) const OBJECT: usize = 0;
pub(crate) const DKEY: usize = 1;
pub(crate) const AKEY: usize = 2;

/// A composite key, and where its object, dkey and akey end; zero where it has none.
#[derive(Clone, Default)]
pub(crate) struct Place {
    pub(crate) key: Vec<u8>,
    pub(crate) ends: [usize; 3],
}

impl Place {
    /// `None` when `key` is no composite key.
    pub(crate) fn read(key: &[u8]) -> Option<Place> {
        let mut ends = [0; 3];
        if key.len() > OBJECT_BYTES {
            ends[OBJECT] = OBJECT_BYTES;
            for level in DKEY..=AKEY {
                let rest = &key[ends[level - 1]..];
                if rest.first() == Some(&LIFE) {
                    break;
                }
                ends[level] = ends[level - 1] + key_len(rest)?;
            }
        }
        Some(Place { key: key.to_vec(), ends })
    }

    /// Key prefix of the owner on `level`; empty when there is none.
    pub(crate) fn owner(&self, level: usize) -> &[u8] {
        &self.key[..self.ends[level]]
    }

    /// Levels that both keys have in common, from the object down.
    pub(crate) fn shared(&self, other: &Place) -> usize {
        let same = |level: &usize| {
            self.ends[*level] > 0
                && self.ends[*level] == other.ends[*level]
                && self.owner(*level) == other.owner(*level)
        };
        (OBJECT..=AKEY).take_while(same).count()
    }
}

/// What a composite key names, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    ObjectFlag,
    ObjectPunch(Version),
    DkeyPunch(Version),
    AkeyPunch(Version),
    Single(Version),
    /// `hole`: a punched range rather than data.
    Array {
        hole: bool,
        class: u8,
        start: u64,
        version: Version,
    },
}

impl Record {
    /// When it was written; the flag was never.
    pub(crate) fn version(self) -> Option<Version> {
        match self {
            Record::ObjectFlag => None,
            Record::ObjectPunch(v) | Record::DkeyPunch(v) | Record::AkeyPunch(v) | Record::Single(v) => Some(v),
            Record::Array { version, .. } => Some(version),
        }
    }

    /// It holds a value or a hole, rather than telling of a life.
    pub(crate) fn is_value(self) -> bool {
        matches!(self, Record::Single(_) | Record::Array { .. })
    }
}

/// Takes a composite key apart; `None` when it is none.
pub(crate) fn read_record(key: &[u8]) -> Option<Record> {
    let rest = key.get(OBJECT_BYTES..)?;
    if rest.first() == Some(&LIFE) {
        return match *rest.get(1)? {
            OBJECT_FLAG if rest.len() == 2 => Some(Record::ObjectFlag),
            OBJECT_PUNCH => Some(Record::ObjectPunch(read_version(rest.get(2..)?)?)),
            _ => None,
        };
    }
    let rest = rest.get(key_len(rest)?..)?;
    if rest.first() == Some(&LIFE) {
        return Some(Record::DkeyPunch(read_version(rest.get(1..)?)?));
    }
    let rest = rest.get(key_len(rest)?..)?;
    match *rest.first()? {
        LIFE => Some(Record::AkeyPunch(read_version(rest.get(1..)?)?)),
        SINGLE => Some(Record::Single(read_version(rest.get(1..)?)?)),
        kind @ (DATA | HOLE) => {
            let (class, start, version) = read_extent_tail(rest.get(1..)?)?;
            Some(Record::Array { hole: kind == HOLE, class, start, version })
        }
        _ => None,
    }
}

/// `class | start | ~epoch | ~minor`, exactly.
pub(crate) fn read_extent_tail(bytes: &[u8]) -> Option<(u8, u64, Version)> {
    let class = *bytes.first()?;
    let mut start = [0; 8];
    start.copy_from_slice(bytes.get(1..9)?);
    Some((class, u64::from_be_bytes(start), read_version(bytes.get(9..)?)?))
}

/// `~epoch | ~minor`, exactly.
pub(crate) fn read_version(bytes: &[u8]) -> Option<Version> {
    Some(Version::from_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(key: &Key) -> Vec<u8> {
        let mut out = Vec::new();
        push_key(&mut out, key);
        out
    }

    /// Short strings over few bytes reach every pair of codes; long runs reach the 127 boundary.
    fn samples() -> Vec<Vec<u8>> {
        let alphabet = [0u8, 1, 0x7f, 0xff];
        let mut all: Vec<Vec<u8>> = vec![vec![]];
        let mut last = all.clone();
        for _ in 0..5 {
            last = last
                .iter()
                .flat_map(|s| alphabet.iter().map(move |b| s.iter().copied().chain([*b]).collect()))
                .collect();
            all.extend(last.iter().cloned());
        }
        all.remove(0);
        for run in [1, 2, 125, 126, 127, 128, 129, 253, 254, 255, 381, 1000] {
            for (head, tail) in [(&b""[..], &b""[..]), (b"a", b""), (b"", b"\x01"), (b"a", b"\xff"), (b"", b"\x01\0")] {
                all.push([head, &vec![0; run], tail].concat());
            }
        }
        all
    }

    #[test]
    fn the_first_zero_is_found_wherever_it_lies() {
        for len in 0..40 {
            for first in 0..=len {
                for fill in [1u8, 0x7f, 0x80, 0xff] {
                    let mut bytes = vec![fill; len];
                    bytes.iter_mut().skip(first).step_by(3).for_each(|byte| *byte = 0);
                    assert_eq!(find_zero(&bytes), bytes.iter().position(|&b| b == 0), "{bytes:?}");
                    bytes.iter_mut().skip(first + 1).for_each(|byte| *byte = byte.wrapping_add(1));
                    assert_eq!(find_zero(&bytes), bytes.iter().position(|&b| b == 0), "{bytes:?}");
                }
            }
        }
    }

    /// A count that no array has, from a damaged record: a class like any other, and no panic.
    #[test]
    fn every_count_has_a_class() {
        assert_eq!([0, 1, 2, 3, 1 << 62, (1 << 62) + 1, u64::MAX].map(class_of), [0, 0, 1, 2, 62, 63, 63]);
    }

    #[test]
    fn byte_strings_round_trip_within_half_as_much_again() {
        for plain in samples() {
            let key = Key::new(plain.clone()).unwrap();
            let encoded = encode(&key);
            assert!(encoded.len() <= 1 + plain.len() + plain.len() / 2 + 2, "{plain:?}");
            assert_eq!(read_key(&encoded), Some((key.clone(), encoded.len())));
            let followed = [&encoded[..], &[0, 5, 9]].concat();
            assert_eq!(read_key(&followed), Some((key, encoded.len())), "an end is found by itself");
        }
        let worst: Vec<u8> = (0..KEY_BYTES_MAX).map(|i| (i % 2) as u8).collect();
        assert!(encode(&Key::new(worst).unwrap()).len() <= COMPONENT_BYTES_MAX);
    }

    #[test]
    fn encoded_order_is_key_order() {
        let mut keys: Vec<Key> = samples().into_iter().map(|s| Key::new(s).unwrap()).collect();
        keys.extend([0, 1, 255, 256, u64::MAX].map(Key::Integer));
        keys.sort();
        keys.dedup();
        let encoded: Vec<_> = keys.iter().map(encode).collect();
        for (pair, keys) in encoded.windows(2).zip(keys.windows(2)) {
            assert!(pair[0] < pair[1], "{keys:?}");
            assert!(!pair[1].starts_with(&pair[0]), "{keys:?}: children of one must not mix with the other");
        }
    }

    #[test]
    fn newer_versions_come_first() {
        let order = [(u64::MAX, 3), (9, 2), (9, 1), (8, 0xffff), (0, 0)];
        let bytes: Vec<_> = order.iter().map(|&(e, minor)| Version { epoch: Epoch(e), minor }.to_bytes()).collect();
        assert!(bytes.is_sorted());
        assert_eq!(Version::from_bytes(bytes[1]), Version { epoch: Epoch(9), minor: 2 });
    }

    #[test]
    fn a_class_bounds_how_far_left_a_read_looks() {
        for (count, class) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 20, 20), (types::ARRAY_INDEX_MAX, 63)] {
            assert_eq!(class_of(count), class);
            let start = 1000u64;
            let last = start + count - 1;
            assert!(first_start(class, last) <= start, "the extent is found from its last index");
        }
        assert_eq!(first_start(0, 7), 7);
        assert_eq!(first_start(3, 7), 0);
    }

    /// Whatever the bytes, taking them apart answers or declines.
    #[test]
    fn no_bytes_make_the_decoders_panic() {
        let mut bytes = Vec::new();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.truncate((state >> 60) as usize * 3);
            bytes.push(((state >> 33) as u8) & [0xff, 3, 0x80][(state % 3) as usize]);
            let _ = (read_key(&bytes), read_record(&bytes), read_object(&bytes));
        }
    }

    #[test]
    fn keys_have_their_golden_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut object = Vec::new();
        push_object(&mut object, 7, ObjectId { hi: 1, lo: 2 });
        assert_eq!(hex(&object), "0000000700000000000000010000000000000002");
        let zeros = |n: usize| vec![0u8; n];
        let cases: [(Key, &str); 6] = [
            (Key::from(0x0102), "010000000000000102"),
            (Key::literal("ab"), "0261620000"),
            (Key::new(*b"a\0b").unwrap(), "026100fe620000"),
            (Key::new(*b"a\0").unwrap(), "02610001"),
            (Key::new(zeros(127)).unwrap(), "02007f0000"),
            (Key::new([zeros(130), b"a".to_vec()].concat()).unwrap(), "02007f00fc610000"),
        ];
        for (key, golden) in cases {
            assert_eq!(hex(&encode(&key)), golden, "{key:?}");
        }
        assert_eq!(hex(&Version { epoch: Epoch(1), minor: 2 }.to_bytes()), "fffffffffffffffefffd");
        assert_eq!(
            [LIFE, INTEGER, BYTES, SINGLE, DATA, HOLE, BEYOND, OBJECT_FLAG, OBJECT_PUNCH],
            [0, 1, 2, 1, 2, 3, 0xff, 0, 1]
        );
        let mut array = Vec::new();
        push_extent(&mut array, DATA, Extent::new(0x0a, 3));
        assert_eq!(hex(&array), "0202000000000000000a", "data, class, start");
    }
}

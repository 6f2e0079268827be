//! The bytes of every message, kept.
//!
//! `golden/v1/<name>` holds one sample of each message, of each variant of an enum, and of the frame
//! header. A test that fails here says that programs of this release would no longer understand
//! those of an earlier one: a change of layout is a new version, not a new golden file. Only a new
//! message is added, with `UPDATE_GOLDEN=1 cargo test -p wire --test golden`.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use types::{
    Acl, Code, Conditions, ContainerId, Epoch, Error, Extent, Key, Layout, ObjectId, PoolId, Principal, PrincipalName,
    Rank, ServerId, SystemId, TargetIndex,
};
use wire::control::*;
use wire::copy::*;
use wire::data::Direction;
use wire::data::*;
use wire::encoding::Bytes;
use wire::frame::{Header, Kind};
use wire::group::*;
use wire::hello::*;
use wire::membership::*;
use wire::{DecodeError, Wire};

use self::samples::samples;

mod samples;

/// Messages with an error in them.
const WITH_ERRORS: [&str; 8] = [
    "error",
    "group_response-refused",
    "report",
    "pool_targets_changed",
    "system_targets_changed",
    "log_masks_set",
    "member",
    "system_info",
];

/// What a test does with each sample.
trait Check {
    fn one<T: Wire + PartialEq + Debug>(&mut self, name: &str, sample: T);
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name))
        .unwrap_or_else(|error| panic!("golden/v1/{name}: {error}; make it with UPDATE_GOLDEN=1"))
}

/// Compares `bytes` with the golden ones, or writes them if the user asked for that.
fn check_golden(name: &str, bytes: &[u8]) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(directory().join(name), bytes).unwrap();
    }
    assert_eq!(bytes, golden(name), "golden/v1/{name}");
}

fn header() -> Header {
    Header {
        kind: Kind::Request,
        opcode: 0x0201,
        request: 7,
        clock: Epoch(0x1122_3344_5566_7788),
        session: 3,
        sequence: 9,
        deadline_ms: 5000,
        body_bytes: 10,
        bulk_bytes: 4096,
        body_crc: codec::crc32c(b"0123456789"),
    }
}

#[test]
fn the_header_keeps_its_bytes() {
    let bytes = header().encode();
    check_golden("frame_header", &bytes);
    assert_eq!(Header::decode(&bytes), Ok(header()));
}

#[test]
fn every_message_keeps_its_bytes() {
    struct Same;
    impl Check for Same {
        fn one<T: Wire + PartialEq + Debug>(&mut self, name: &str, sample: T) {
            check_golden(name, &sample.to_bytes());
            assert_eq!(T::from_bytes(&golden(name)).as_ref(), Ok(&sample), "{name}");
        }
    }
    samples(&mut Same);
}

#[test]
fn every_truncation_is_refused() {
    struct Cut;
    impl Check for Cut {
        fn one<T: Wire + PartialEq + Debug>(&mut self, name: &str, sample: T) {
            let bytes = sample.to_bytes();
            for length in 0..bytes.len() {
                assert!(T::from_bytes(&bytes[..length]).is_err(), "{name} cut to {length} bytes");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(T::from_bytes(&longer), Err(DecodeError::Long { extra: 1 }), "{name} with a byte more");
        }
    }
    samples(&mut Cut);
    let bytes = header().encode();
    for length in 0..bytes.len() {
        assert!(Header::decode(&bytes[..length]).is_err());
    }
}

/// Bytes gone wrong are refused or are another message; that one has exactly these bytes, too. They
/// never panic, and never make a list longer than they are.
#[test]
fn mutations_are_refused_or_mean_what_they_say() {
    struct Mutate(Random);
    impl Check for Mutate {
        fn one<T: Wire + PartialEq + Debug>(&mut self, name: &str, sample: T) {
            let bytes = sample.to_bytes();
            for _ in 0..2000 {
                let mutant = self.0.mutate(&bytes);
                if let Ok(message) = T::from_bytes(&mutant) {
                    // An error's number from a newer server becomes `Misc`: its words are what counts.
                    assert!(WITH_ERRORS.contains(&name) || message.to_bytes() == mutant, "{name}: {mutant:02x?}");
                }
            }
        }
    }
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    let mut mutate = Mutate(Random(seed));
    samples(&mut mutate);
    for _ in 0..20_000 {
        let mutant = mutate.0.mutate(&header().encode());
        if let Ok(decoded) = Header::decode(&mutant) {
            assert_eq!(decoded.encode()[..], mutant[..64]);
        }
    }
}

#[test]
fn every_message_has_a_sample() {
    struct Names(BTreeSet<String>);
    impl Check for Names {
        fn one<T: Wire + PartialEq + Debug>(&mut self, name: &str, _: T) {
            assert!(self.0.insert(name.to_owned()), "two samples called {name}");
        }
    }
    let mut names = Names(BTreeSet::from(["frame_header".to_owned()]));
    samples(&mut names);
    let mut expected = BTreeSet::from(["frame_header".to_owned(), "error".to_owned()]);
    let control = [include_str!("../../src/control.rs"), include_str!("../../src/hello.rs")];
    for source in control.into_iter().chain([
        include_str!("../../src/data.rs"),
        include_str!("../../src/membership.rs"),
        include_str!("../../src/group.rs"),
        include_str!("../../src/copy.rs"),
        include_str!("../../src/peer.rs"),
    ]) {
        expected.extend(declared(source));
    }
    assert_eq!(names.0, expected, "samples here and messages in src differ");
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, expected, "files in golden/v1 and messages in src differ");
}

/// Names of the messages that `source` declares: `struct_name`, and `enum_name-variant_name`.
fn declared(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for block in source.split("message! {").skip(1) {
        let block = &block[..block.find("\n}").expect("a message ends")];
        let named = |line: &str, key: &str| {
            let rest = line.trim().strip_prefix(key)?;
            Some(rest.split(|c: char| !c.is_alphanumeric()).next()?.to_owned())
        };
        if let Some(name) = block.lines().find_map(|line| named(line, "pub struct ")) {
            names.push(snake(&name));
            continue;
        }
        let name = block.lines().find_map(|line| named(line, "pub enum ")).expect("a struct or an enum");
        let variants = block.lines().filter(|line| line.trim().ends_with(',') && line.contains(" = "));
        names.extend(variants.map(|line| format!("{}-{}", snake(&name), snake(&named(line, "").unwrap()))));
    }
    assert!(!names.is_empty());
    names
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A few of: another byte, a flipped bit, an extreme count, a piece cut out, a piece doubled.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below(bytes.len() - at + 1);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = self.next() as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 if at + 4 <= bytes.len() => {
                    let extreme = [0, 1, 0x7fff_ffff, u32::MAX, u32::MAX - 3][self.below(5)];
                    bytes[at..at + 4].copy_from_slice(&extreme.to_le_bytes());
                }
                3 => drop(bytes.drain(at..end)),
                _ => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

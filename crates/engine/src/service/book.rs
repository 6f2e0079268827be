//! Where the servers of the system answered last: a small durable file, by which a server that starts finds others.
//!
//! Most servers have the system's state by subscription, in memory: after a start they have this, and ask whoever is in it. It
//! says nothing but where to ask; so one that is missing, old or damaged costs a search and nothing else.
//!
//! # File, version 1
//! One line of header, then [`Book`] in the encoding of [`wire`]: `daos-servers 1 <crc-32c of the rest, 8 hex digits>\n`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rt::disk::fs;
use types::{Code, Error, Rank};
use wire::{Wire, message};

use super::system::SystemState;

const FILE: &str = "servers";
const VERSION: u32 = 1;

message! {
    pub struct Book {
        /// Where each rank answers, since which incarnation.
        pub entries: Vec<(Rank, u64, String)>,
    }
}

pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// What was kept; nothing, if that cannot be read.
pub(super) fn read(path: &Path) -> Book {
    let nothing = Book { entries: Vec::new() };
    if !fs::exists(path) {
        return nothing;
    }
    let read = fs::read(path).map_err(|error| error.to_string());
    read.and_then(|bytes| decode(&bytes)).unwrap_or_else(|cause| {
        tracing::warn!(path = %path.display(), %cause, "where the other servers are is not known; it is found out");
        nothing
    })
}

/// # Errors
/// `Io`; what was kept before is kept still.
pub(super) fn keep(path: &Path, book: &Book) -> Result<(), Error> {
    fs::write_atomic(path, &encode(book))
        .map_err(|error| Error::new(Code::Io, format!("writing {}: {error}", path.display())))
}

/// Adds where the members of a system are to what is kept in `directory`; what is known of a later incarnation stays.
///
/// # Errors
/// `Io`.
pub fn keep_members(directory: &Path, system: &SystemState) -> Result<(), Error> {
    let path = path(directory);
    let known = read(&path).entries.into_iter().map(|(rank, incarnation, address)| (rank, (incarnation, address)));
    let mut entries: BTreeMap<Rank, (u64, String)> = known.collect();
    for (rank, member) in &system.members {
        let entry = entries.entry(*rank).or_insert_with(|| (0, String::new()));
        if entry.0 < member.incarnation {
            *entry = (member.incarnation, member.address.clone());
        }
    }
    let entries = entries.into_iter().map(|(rank, (incarnation, address))| (rank, incarnation, address));
    keep(&path, &Book { entries: entries.collect() })
}

fn encode(book: &Book) -> Vec<u8> {
    let body = book.to_bytes();
    let mut file = format!("daos-servers {VERSION} {:08x}\n", codec::crc32c(&body)).into_bytes();
    file.extend(body);
    file
}

/// Reads the file's bytes; any are safe.
///
/// # Errors
/// What is wrong, in words.
pub fn decode(bytes: &[u8]) -> Result<Book, String> {
    let end = bytes.iter().take(64).position(|b| *b == b'\n').ok_or("it has no header line")?;
    let (header, body) = (&bytes[..end], &bytes[end + 1..]);
    let expected = format!("daos-servers {VERSION} {:08x}", codec::crc32c(body));
    match header == expected.as_bytes() {
        true => Book::from_bytes(body).map_err(|error| error.to_string()),
        false => Err(format!("it begins with '{}' and not with '{expected}'", String::from_utf8_lossy(header))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Book {
        Book { entries: vec![(Rank(3), 7, "tcp://node3:10001".into())] }
    }

    /// Version 1; a change of these bytes is a new version.
    #[test]
    fn book_bytes_are_golden() {
        let file = encode(&sample());
        let body = b"\x01\0\0\0\x03\0\0\0\x07\0\0\0\0\0\0\0\x11\0\0\0tcp://node3:10001";
        let golden = [format!("daos-servers 1 {:08x}\n", codec::crc32c(body)).as_bytes(), body].concat();
        assert_eq!(String::from_utf8_lossy(&file), String::from_utf8_lossy(&golden));
        assert_eq!(decode(&file), Ok(sample()));
    }

    #[test]
    fn a_damaged_book_is_refused() {
        let good = encode(&sample());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
    }
}

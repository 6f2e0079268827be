//! Who this server is: a small durable file beside the services' replicas.
//!
//! # File, version 1
//! One line of header, then [`Identity`] in the encoding of [`wire`]:
//! `daos-server 1 <crc-32c of the rest, 8 hex digits>\n`
//!
//! Written before it matters: the server's id before it asks to join, so that a repeat is known to come from it; each
//! incarnation before anybody hears of it.

use std::path::{Path, PathBuf};

use rt::disk::fs;
use types::{Code, Error, Rank, ServerId, SystemId};
use wire::{Wire, message};

const FILE: &str = "identity";
const VERSION: u32 = 1;

message! {
    pub struct Identity {
        pub server: ServerId,
        /// Grows with every start.
        pub incarnation: u64,
        /// Absent until it has joined.
        pub place: Option<Place>,
    }
}

message! {
    /// A server's place in a system, which it keeps.
    pub struct Place {
        pub system: SystemId,
        pub name: String,
        pub rank: Rank,
        /// It made the system's first replica.
        pub is_founder: bool,
    }
}

/// The file, and what it says.
pub(super) struct Kept {
    path: PathBuf,
    pub(super) identity: Identity,
}

impl Kept {
    /// Reads the file, or makes a server that was not there before.
    ///
    /// # Errors
    /// `Io`; `BadFormat`: it is no identity, or damaged.
    pub(super) fn take(directory: &Path) -> Result<Kept, Error> {
        let path = directory.join(FILE);
        let identity = match fs::exists(&path) {
            false => Identity { server: ServerId(rt::random_uuid()), incarnation: 0, place: None },
            true => {
                let bytes = fs::sync(&path)
                    .and_then(|()| fs::read(&path))
                    .map_err(|e| Error::new(Code::Io, format!("reading {}: {e}", path.display())))?;
                decode(&bytes).map_err(|why| {
                    Error::new(Code::BadFormat, format!("{}: {why}", path.display()))
                        .remedy("restore the file from a copy; the data of the targets is not touched")
                })?
            }
        };
        Ok(Kept { path, identity })
    }

    /// Makes a change durable; it is as before if that fails.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), Error> {
        let mut identity = self.identity.clone();
        change(&mut identity);
        fs::write_atomic(&self.path, &encode(&identity))
            .map_err(|e| Error::new(Code::Io, format!("writing {}: {e}", self.path.display())))?;
        self.identity = identity;
        Ok(())
    }
}

/// Where a server that does not run keeps its replicas: it is not to make the system's first one again, when that is removed
/// because others go on without it.
///
/// # Errors
/// `Io`; `BadFormat`.
pub fn renounce(directory: &Path) -> Result<(), Error> {
    let mut kept = Kept::take(directory)?;
    match &kept.identity.place {
        Some(place) if place.is_founder => {
            kept.change(|identity| identity.place.iter_mut().for_each(|place| place.is_founder = false))
        }
        _ => Ok(()),
    }
}

fn encode(identity: &Identity) -> Vec<u8> {
    let body = identity.to_bytes();
    let mut file = format!("daos-server {VERSION} {:08x}\n", codec::crc32c(&body)).into_bytes();
    file.extend(body);
    file
}

/// Reads the file's bytes; any are safe.
///
/// # Errors
/// What is wrong, in words.
pub fn decode(bytes: &[u8]) -> Result<Identity, String> {
    let end = bytes.iter().take(64).position(|b| *b == b'\n').ok_or("it has no header line")?;
    let (header, body) = bytes.split_at(end);
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
    let body = body.get(1..).unwrap_or_default();
    let fields: Vec<&str> = header.split(' ').collect();
    let ["daos-server", version, crc] = fields[..] else {
        return Err("it is not the identity of a server".to_string());
    };
    if version != VERSION.to_string() {
        return Err(format!("it has version {version}; this release reads {VERSION}"));
    }
    let computed = format!("{:08x}", codec::crc32c(body));
    if crc != computed {
        return Err(format!("its checksum is {crc} but reads as {computed}"));
    }
    Identity::from_bytes(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        let place = Place {
            system: SystemId::from_bytes([5; 16]),
            name: "daos_server".into(),
            rank: Rank(3),
            is_founder: false,
        };
        Identity { server: ServerId::from_bytes([4; 16]), incarnation: 7, place: Some(place) }
    }

    /// Version 1; a change of these bytes is a new version.
    #[test]
    fn identity_bytes_are_golden() {
        let file = encode(&sample());
        let mut golden = b"daos-server 1 7a9a6fc2\n".to_vec();
        golden.extend([4; 16]);
        golden.extend([7, 0, 0, 0, 0, 0, 0, 0, 1]);
        golden.extend([5; 16]);
        golden.extend(b"\x0b\0\0\0daos_server\x03\0\0\0\0");
        assert_eq!(String::from_utf8_lossy(&file), String::from_utf8_lossy(&golden));
        assert_eq!(decode(&file), Ok(sample()));
    }

    #[test]
    fn a_damaged_identity_says_what_is_wrong() {
        let good = encode(&sample());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
    }
}

//! A replicated state machine, with one replica: the seam where consensus will come.
//!
//! A service's state changes only by [`Replica::propose`]. The machine's `apply` is pure: no clock,
//! no chance, no I/O, so that the same commands give the same state on every replica (K19). What a
//! command needs of the outside (an epoch, a new id) its proposer puts into it.
//!
//! Durability here: after each command the whole state is written to one document, atomically, and
//! only then is the command's answer given and the new state seen. The states are small (a pool's
//! is a few hundred bytes a container); a log of commands arrives with the replicas that need one.
//!
//! # Document, version 1
//! One line of header, then the state as JSON:
//! `daos-service 1 <machine> <crc-32c of the rest, 8 hex digits>\n`

use std::path::PathBuf;

use rt::disk::fs;
use serde::{Serialize, de::DeserializeOwned};
use types::{Code, Error};

/// A service's state and the commands that change it.
pub trait StateMachine: Serialize + DeserializeOwned + Clone {
    /// Names the machine in its document.
    const NAME: &'static str;
    type Command;
    type Output;

    /// Changes the state, or refuses and leaves it as it was.
    fn apply(&mut self, command: Self::Command) -> Result<Self::Output, Error>;
}

/// The only replica of a [`StateMachine`], kept in one document.
pub struct Replica<M> {
    path: PathBuf,
    state: M,
}

impl<M: StateMachine> Replica<M> {
    /// Starts a machine that has no document yet.
    ///
    /// # Errors
    /// `Io` when the document cannot be written.
    pub fn create(path: PathBuf, state: M) -> Result<Replica<M>, Error> {
        let replica = Replica { path, state };
        replica.write(&replica.state)?;
        Ok(replica)
    }

    /// Reads the document back.
    ///
    /// # Errors
    /// `Io` when it cannot be read; `BadFormat` when it is not a document of this machine, or its
    /// checksum does not hold.
    pub fn open(path: PathBuf) -> Result<Replica<M>, Error> {
        let bytes = fs::read(&path).map_err(|e| Error::new(Code::Io, format!("reading {}: {e}", path.display())))?;
        let state = decode_document(&bytes).map_err(|why| {
            Error::new(Code::BadFormat, format!("{}: {why}", path.display()))
                .remedy("restore the file from a copy; the data of the targets is not touched")
        })?;
        Ok(Replica { path, state })
    }

    pub fn state(&self) -> &M {
        &self.state
    }

    /// Applies a command and makes it durable. Cost: one small file written and synced.
    ///
    /// # Errors
    /// The machine's refusal, or `Io`; in both cases the state is as before.
    pub fn propose(&mut self, command: M::Command) -> Result<M::Output, Error> {
        let mut next = self.state.clone();
        let output = next.apply(command)?;
        self.write(&next)?;
        self.state = next;
        Ok(output)
    }

    /// Removes the document: the machine's life is over.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(|e| Error::new(Code::Io, format!("removing {}: {e}", self.path.display())))
    }

    fn write(&self, state: &M) -> Result<(), Error> {
        fs::write_atomic(&self.path, &encode_document(state))
            .map_err(|e| Error::new(Code::Io, format!("writing {}: {e}", self.path.display())))
    }
}

const VERSION: u32 = 1;

fn encode_document<M: StateMachine>(state: &M) -> Vec<u8> {
    let json = serde_json::to_vec_pretty(state).expect("states hold only strings, numbers and maps with string keys");
    let mut document = format!("daos-service {VERSION} {} {:08x}\n", M::NAME, codec::crc32c(&json)).into_bytes();
    document.extend(json);
    document
}

/// Reads a document; any bytes are safe.
pub fn decode_document<M: StateMachine>(bytes: &[u8]) -> Result<M, String> {
    let end = bytes.iter().take(128).position(|b| *b == b'\n').ok_or("it has no header line")?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| "its header is not text")?;
    let json = &bytes[end + 1..];
    let fields: Vec<&str> = header.split(' ').collect();
    let ["daos-service", version, machine, crc] = fields[..] else {
        return Err("it is not a service document".to_string());
    };
    if version != VERSION.to_string() {
        return Err(format!("it has version {version}; this release reads {VERSION}"));
    }
    if machine != M::NAME {
        return Err(format!("it belongs to '{machine}', not to '{}'", M::NAME));
    }
    let computed = format!("{:08x}", codec::crc32c(json));
    if crc != computed {
        return Err(format!("its checksum is {crc} but reads as {computed}"));
    }
    serde_json::from_slice(json).map_err(|e| format!("its contents are not a {}: {e}", M::NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
    struct Counter {
        count: u64,
    }

    impl StateMachine for Counter {
        const NAME: &'static str = "counter";
        type Command = u64;
        type Output = u64;
        fn apply(&mut self, add: u64) -> Result<u64, Error> {
            self.count += add;
            if self.count > 10 { Err(Error::new(Code::Quota, "full")) } else { Ok(self.count) }
        }
    }

    #[test]
    fn a_damaged_document_says_what_is_wrong() {
        let good = encode_document(&Counter { count: 3 });
        assert_eq!(decode_document::<Counter>(&good).unwrap(), Counter { count: 3 });
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode_document::<Counter>(&bad).is_err(), "byte {at}");
            assert!(decode_document::<Counter>(&good[..at]).is_err(), "cut at {at}");
        }
    }

    /// Version 1 of the document; a change of these bytes is a new version.
    #[test]
    fn document_bytes_are_golden() {
        let golden = "daos-service 1 counter 844b3411\n{\n  \"count\": 3\n}";
        assert_eq!(String::from_utf8(encode_document(&Counter { count: 3 })).unwrap(), golden);
    }
}

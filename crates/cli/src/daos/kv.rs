//! `daos kv`: keys and values, without a line of code.
//!
//! Every container has one key-value object that these commands use unless `--oid` names another.
//! Its id lies outside the range that containers hand out, so it meets no other object.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::{Direction, KeyCursor};
use serde_json::json;
use types::{Code, Error, Key, ObjectClass, ObjectId, ObjectType, VALUE_BYTES_MAX};

use crate::encoded::{Encoded, shown};
use crate::failure::{self, Failure, Result};
use crate::options::SystemOptions;
use crate::output::{Outcome, write_raw};
use crate::session::{self, Missing, Session};
use crate::table::count;

/// The high user bits of the default object: allocated ids have zeros there.
const DEFAULT_HI: u32 = u32::MAX;
/// How many keys are fetched at a time.
const LIST_PAGE: usize = 1024;
/// How much of a value one line of `list --values` shows, in bytes.
const SHOWN_BYTES: usize = 100;

/// Most copies that a class has.
const COPIES_MAX: usize = 6;

/// The object `daos kv` uses when none is named: keys in lexical order, of the container's class, if it names one that bears
/// what its redundancy factor promises; else over all targets, with as many copies as that asks for. By these properties
/// alone, which do not change: it is to be found again when the pool has grown.
fn default_object(oclass: &str, redundancy_factor: usize) -> ObjectId {
    let automatic = || match redundancy_factor {
        0 => ObjectClass::SX,
        factor => format!("RP_{}GX", (factor + 1).min(COPIES_MAX)).parse().unwrap_or(ObjectClass::SX),
    };
    let named = oclass.parse().ok().filter(|class: &ObjectClass| class.redundancy().tolerance() >= redundancy_factor);
    let class = named.unwrap_or_else(automatic);
    ObjectId::new(ObjectType::KvLexical, class, DEFAULT_HI, 0)
}

#[derive(Args, Debug)]
pub(crate) struct Store {
    /// Label or UUID of the pool
    pool: String,
    /// Label or UUID of the container
    container: String,
    /// Another key-value object than the container's own: HI.LO
    #[arg(short = 'i', long, value_name = "HI.LO", value_parser = object_id)]
    oid: Option<ObjectId>,
}

fn object_id(text: &str) -> Result<ObjectId, String> {
    text.parse()
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Store a value under a key
    Put {
        #[command(flatten)]
        store: Store,
        /// Text of up to 1024 bytes
        key: String,
        /// The value; neither it nor --file: read from stdin
        value: Option<String>,
        /// Read the value from a file
        #[arg(short, long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
    },
    /// Print the value of a key
    Get {
        #[command(flatten)]
        store: Store,
        /// Text of up to 1024 bytes
        key: String,
        /// Write the value to a file
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// As it was at a snapshot, by name or epoch
        #[arg(long, value_name = "SNAPSHOT")]
        snap: Option<String>,
    },
    /// Delete a key
    #[command(visible_alias = "rm")]
    Del {
        #[command(flatten)]
        store: Store,
        /// Text of up to 1024 bytes
        key: String,
    },
    /// List keys
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        store: Store,
        /// Only keys that start with this
        #[arg(short, long)]
        prefix: Option<String>,
        /// Also show values, after a tab
        #[arg(long)]
        values: bool,
        /// At most this many
        #[arg(short = 'n', long, value_name = "COUNT")]
        limit: Option<usize>,
        /// From the last key to the first
        #[arg(short, long)]
        reverse: bool,
        /// As it was at a snapshot, by name or epoch
        #[arg(long, value_name = "SNAPSHOT")]
        snap: Option<String>,
    },
}

impl Verb {
    pub(crate) async fn run(self, system: &SystemOptions, json: bool) -> Result<Outcome> {
        session::with(system, Missing::Refuse, async |session| match &self {
            Verb::Put { store, key, value, file } => {
                let name = parse_key(key)?;
                let value = match (value, file) {
                    (Some(text), _) => text.clone().into_bytes(),
                    (None, Some(path)) => {
                        let size = std::fs::metadata(path).map_err(|e| failure::local("read", path, &e))?.len();
                        check_size(size)?;
                        std::fs::read(path).map_err(|e| failure::local("read", path, &e))?
                    }
                    (None, None) => read_stdin()?,
                };
                check_size(value.len() as u64)?;
                store.open(session, None).await?.put(&name, &value).await?;
                let response = json!({ "key": key, "bytes": value.len() });
                Ok(Outcome::new(response, ""))
            }
            Verb::Get { store, key, output, snap } => {
                let value = store.open(session, snap.as_deref()).await?.get(&parse_key(key)?).await?;
                let value = value.ok_or_else(|| absent(store, key))?;
                match output {
                    Some(path) => std::fs::write(path, &value).map_err(|e| failure::local("write", path, &e))?,
                    None if json => {}
                    None => {
                        write_raw(&value)?;
                        if std::io::stdout().is_terminal() && !value.ends_with(b"\n") {
                            write_raw(b"\n")?;
                        }
                    }
                }
                let Encoded { value: text, encoding } = Encoded::new(&value);
                let response = json!({ "key": key, "bytes": value.len(), "value": text, "encoding": encoding });
                Ok(Outcome::new(response, ""))
            }
            Verb::Del { store, key } => {
                let name = parse_key(key)?;
                let object = store.open(session, None).await?;
                if object.get(&name).await?.is_none() {
                    return Err(absent(store, key).into());
                }
                object.remove(&name).await?;
                Ok(Outcome::new(json!({ "key": key }), ""))
            }
            Verb::List { store, prefix, values, limit, snap, reverse } => {
                let object = store.open(session, snap.as_deref()).await?;
                let direction = if *reverse { Direction::Backward } else { Direction::Forward };
                let cursor = object.cursor_from(None, direction)?;
                list(cursor, &object, prefix.as_deref(), *values, limit.unwrap_or(usize::MAX), json).await
            }
        })
        .await
    }
}

impl Store {
    async fn open(&self, session: &Session, snapshot: Option<&str>) -> Result<client::Kv> {
        let mut container = session.container(&self.pool, &self.container).await?;
        if let Some(name) = snapshot {
            container = match container.at_snapshot(name).await {
                Ok(view) => view,
                Err(error) => return Err(session::snapshot_error(&container, error, name).await),
            };
        }
        let own = || default_object(container.object_class(), container.redundancy_factor());
        Ok(container.kv(self.oid.unwrap_or_else(own)))
    }
}

/// Lists keys a page at a time; as text they are printed as they come, so that a long list starts
/// at once and needs no memory.
async fn list(
    mut cursor: KeyCursor,
    object: &client::Kv,
    prefix: Option<&str>,
    values: bool,
    limit: usize,
    json: bool,
) -> Result<Outcome> {
    let mut entries = Vec::new();
    let mut listed: usize = 0;
    loop {
        let page = cursor.next_page(LIST_PAGE).await?;
        if page.is_empty() {
            break;
        }
        let mut lines = String::new();
        let mut enough = false;
        for key in page {
            let text = key.to_string();
            if prefix.is_some_and(|p| !text.starts_with(p)) {
                continue;
            }
            if listed == limit {
                enough = true;
                break;
            }
            listed += 1;
            // A key deleted since the page was read has no value any more.
            let value = if values { Some(object.get(&key).await?.unwrap_or_default()) } else { None };
            match (json, value) {
                (true, Some(value)) => {
                    let Encoded { value, encoding } = Encoded::new(&value);
                    entries.push(json!({ "key": text, "value": value, "encoding": encoding }));
                }
                (true, None) => entries.push(json!({ "key": text })),
                (false, Some(value)) => lines.push_str(&format!("{text}\t{}\n", shown(&value, SHOWN_BYTES))),
                (false, None) => lines.push_str(&format!("{text}\n")),
            }
        }
        write_raw(lines.as_bytes())?;
        if enough {
            break;
        }
    }
    if !json && listed == 0 {
        eprintln!("{}", count(0, "key"));
    }
    Ok(Outcome::new(json!({ "keys": entries }), ""))
}

fn parse_key(text: &str) -> Result<Key> {
    Key::try_from(text).map_err(|e| {
        let code = match e {
            types::KeyError::Empty => Code::Invalid,
            types::KeyError::TooLong { .. } => Code::KeyTooBig,
        };
        Failure::Failed(Error::new(code, e.to_string()))
    })
}

fn absent(store: &Store, key: &str) -> Error {
    let remedy = format!("list keys with `daos kv list {} {}`", store.pool, store.container);
    Error::new(Code::NotFound, format!("no key '{key}'")).remedy(remedy)
}

fn check_size(bytes: u64) -> Result<()> {
    if bytes <= VALUE_BYTES_MAX as u64 {
        return Ok(());
    }
    let limit = types::ByteSize(VALUE_BYTES_MAX as u64);
    let error = Error::new(Code::ValueTooBig, format!("a value of {bytes} bytes is larger than the limit, {limit}"));
    Err(error.remedy("store it as a file: `daos filesystem copy` into a POSIX container").into())
}

fn read_stdin() -> Result<Vec<u8>> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Err(Failure::usage("no value given", "give it after the key, with --file, or on stdin"));
    }
    let mut value = Vec::new();
    // One byte past the limit is enough to know that it is too much.
    let read = input.lock().take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value);
    read.map_err(|e| Error::new(Code::Io, format!("cannot read stdin: {}", failure::reason(&e))))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was of class SX in every container: with `rd_fac:1`, what was put could not be read while a server was out.
    #[test]
    fn the_default_object_has_the_copies_that_its_container_asks_for() {
        for (factor, class) in [(0, "SX"), (1, "RP_2GX"), (2, "RP_3GX"), (5, "RP_6GX"), (9, "RP_6GX")] {
            assert_eq!(default_object("", factor).class(), class.parse().ok());
        }
    }

    /// Of `oclass` it took no notice: in a container of class RP_2G1, what was put had one copy.
    #[test]
    fn the_default_object_is_of_the_class_that_its_container_names() {
        for (named, factor, class) in [
            ("RP_2G1", 0, "RP_2G1"),
            ("RP_3G1", 2, "RP_3G1"),
            ("RP_2G1", 2, "RP_3GX"),
            // What a rule names changes as the pool grows.
            ("RP_XSF", 0, "SX"),
        ] {
            assert_eq!(default_object(named, factor).class(), class.parse().ok(), "{named} {factor}");
        }
    }
}

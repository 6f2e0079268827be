//! `ddb dump`: the bytes of a value, as they were at an epoch, or of one stored version.
//!
//! Every byte is verified against the checksums it was stored with. Bytes that fail are written all the
//! same, since they may be all there is, and the command says so and fails.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path as FilePath, PathBuf};

use clap::Args;
use control::offline::OfflineTarget;
use serde_json::{Value, json};
use types::{ByteSize, Code, Conditions, Epoch, Error, Extent};
use vos::{AkeyRead, Direction, FetchPlan, Piece, ReadWhat, Source, Store};

use super::Session;
use super::at_rest::{look, unreadable};
use super::ls::each_record;
use super::path::{Located, Path};
use crate::encoded::Encoded;
use crate::failure::{self, Failure, Result};
use crate::output::{Outcome, write_raw};

/// Holes of an array are written as zeros to stdout, up to this many bytes; a file keeps them as holes.
const STDOUT_BYTES_MAX: u64 = 1 << 30;
/// In JSON a value is one string, up to this many bytes.
const JSON_BYTES_MAX: u64 = 16 << 20;

#[derive(Args, Debug)]
pub(crate) struct Dump {
    /// /POOL/CONTAINER/OBJECT/DKEY/AKEY, and /[N] for version N of `ls`, as it is stored
    #[arg(value_name = "PATH")]
    path: Path,
    /// As it was at this epoch, decimal or 0x...; the newest otherwise
    #[arg(short, long, value_name = "E")]
    epoch: Option<Epoch>,
    /// File to write to, instead of stdout
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Bytes at offsets, in order.
enum Sink {
    File(File, PathBuf),
    Memory(Vec<u8>, u64),
}

impl Sink {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Sink::File(file, path) => {
                let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes));
                written.map_err(|error| failure::local("write to", path, &error))
            }
            Sink::Memory(all, limit) => {
                if offset + bytes.len() as u64 > *limit {
                    let text = format!("the value is longer than {}", ByteSize(*limit));
                    return Err(Error::new(Code::Overflow, text).remedy("write it to a file with --out").into());
                }
                // Bounded by the limit.
                all.resize(offset as usize, 0);
                all.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// What was written.
#[derive(Default)]
struct Written {
    kind: &'static str,
    bytes: u64,
    faults: Vec<String>,
}

impl Dump {
    pub(crate) fn run(self, session: &Session) -> Result<Outcome> {
        if self.path.depth() < 5 {
            let text = format!("'{}' does not name a value", self.path);
            return Err(Failure::usage(text, "a value is /POOL/CONTAINER/OBJECT/DKEY/AKEY: see `ddb STORAGE ls`"));
        }
        let mut missing = None;
        for target in &session.targets {
            match self.one(session, target) {
                // A key is on one target of many.
                Err(Failure::Failed(error)) if error.code == Code::NotFound => missing = Some(error),
                done => return done,
            }
        }
        Err(missing.map_or_else(|| Failure::usage("no target is meant", "leave --target out"), Failure::Failed))
    }

    fn one(&self, session: &Session, target: &OfflineTarget) -> Result<Outcome> {
        let mut looked = look(target, session.memory)?;
        let store = &mut looked.opened.store;
        let at = self.path.locate(store, &session.labels)?;
        let mut sink = match &self.out {
            Some(path) => {
                let file = File::create(path).map_err(|error| failure::local("create", path, &error))?;
                Sink::File(file, path.clone())
            }
            None => Sink::Memory(Vec::new(), if session.json { JSON_BYTES_MAX } else { STDOUT_BYTES_MAX }),
        };
        let written = match at.version {
            Some(index) => self.version(store, &at, index, &mut sink)?,
            None => self.visible(store, &at, &mut sink)?,
        };
        self.tell(session, target, sink, written)
    }

    /// One stored record, visible or not.
    fn version(&self, store: &mut Store, at: &Located, index: usize, sink: &mut Sink) -> Result<Written> {
        let container = at.container.expect("the path is deep enough");
        let mut found = None;
        each_record(store, container, &at.branch, |at, record| {
            found = (at == index).then_some(record);
            found.is_none()
        })?;
        let none = |text: String| Error::new(Code::NotFound, text).remedy("`ddb STORAGE ls PATH` shows the versions");
        let record = found.ok_or_else(|| none(format!("there is no version {index} at {}", self.path)))?;
        let stored = store.stored_bytes(container, &record.key).map_err(|error| unreadable(&error))?;
        let (bytes, verified) = stored.ok_or_else(|| none(format!("{} has no bytes", record.place)))?;
        sink.put(0, &bytes)?;
        let faults = verified.err().map(|fault| format!("{}: {fault}", record.place)).into_iter().collect();
        Ok(Written { kind: "version", bytes: bytes.len() as u64, faults })
    }

    /// What a reader at the epoch sees.
    fn visible(&self, store: &mut Store, at: &Located, sink: &mut Sink) -> Result<Written> {
        let container = at.container.expect("the path is deep enough");
        let (Some(object), Some(dkey), Some(akey)) = (at.branch.object, &at.branch.dkey, &at.branch.akey) else {
            unreachable!("a path of five parts names all of them")
        };
        let epoch = self.epoch.unwrap_or(Epoch::MAX);
        let fetch = |store: &mut Store, what: ReadWhat<'_>| {
            let reads = [AkeyRead { akey, what }];
            store.fetch(container, epoch, object.group, object.oid, dkey, &reads, Conditions::None)
        };
        let plan = fetch(store, ReadWhat::Single).map_err(|error| unreadable(&error))?;
        let mut written = Written::default();
        if let Some(piece) = plan.akeys.first().and_then(|akey| akey.pieces.first()) {
            let bytes = bytes_of(store, &plan, piece, &mut written.faults)?;
            sink.put(0, &bytes)?;
            return Ok(Written { kind: "single", bytes: bytes.len() as u64, ..written });
        }
        let mut left = Some(Extent::new(0, types::ARRAY_INDEX_MAX));
        let mut is_empty = true;
        while let Some(within) = left {
            let (group, oid) = (object.group, object.oid);
            let runs = store
                .list_extents(container, epoch, group, oid, dkey, akey, within, 1024, Direction::Forward)
                .map_err(|error| unreadable(&error))?;
            left = runs.next;
            for run in &runs.entries {
                let extents = [run.extent];
                let plan = fetch(store, ReadWhat::Array(&extents)).map_err(|error| unreadable(&error))?;
                for piece in plan.akeys.iter().flat_map(|akey| &akey.pieces) {
                    let bytes = bytes_of(store, &plan, piece, &mut written.faults)?;
                    let offset = piece.extent.start.saturating_mul(u64::from(run.record_bytes));
                    sink.put(offset, &bytes)?;
                    written.bytes = written.bytes.max(offset.saturating_add(bytes.len() as u64));
                }
                is_empty = false;
            }
        }
        if is_empty {
            let when = self.epoch.map_or("now".to_string(), |epoch| format!("at epoch {epoch}"));
            let text = format!("nothing is visible at {} {when}", self.path);
            let remedy = "`ddb STORAGE ls PATH` shows all versions; add /[N] to dump one of them";
            return Err(Error::new(Code::NotFound, text).remedy(remedy).into());
        }
        Ok(Written { kind: "array", ..written })
    }

    fn tell(&self, session: &Session, target: &OfflineTarget, sink: Sink, written: Written) -> Result<Outcome> {
        let fault = written.faults.first().map(|first| {
            let text = format!("{} parts of the value are damaged; the first: {first}", written.faults.len());
            Error::new(Code::Checksum, text).remedy("the bytes were written as they are; restore the value from a copy")
        });
        let mut response = json!({
            "target": target.index.0,
            "path": self.path.to_string(),
            "kind": written.kind,
            "bytes": written.bytes,
            "faults": written.faults,
        });
        let text = match sink {
            Sink::File(_, path) => {
                response["file"] = json!(path.display().to_string());
                told(&path, &written)
            }
            Sink::Memory(bytes, _) if session.json => {
                let Encoded { value, encoding } = Encoded::new(&bytes);
                response["value"] = Value::String(value);
                response["encoding"] = json!(encoding);
                String::new()
            }
            Sink::Memory(bytes, _) => {
                write_raw(&bytes)?;
                String::new()
            }
        };
        Ok(Outcome::new(response, text).with_fault(fault))
    }
}

fn told(path: &FilePath, written: &Written) -> String {
    format!("{} ({} bytes) written to {}", ByteSize(written.bytes), written.bytes, path.display())
}

/// The bytes of a piece, and what is wrong with them.
fn bytes_of(store: &Store, plan: &FetchPlan, piece: &Piece, faults: &mut Vec<String>) -> Result<Vec<u8>> {
    let (payload, checksums, part, place) = match &piece.source {
        Source::Hole => return Ok(Vec::new()),
        Source::Inline { payload, checksums, part } => {
            (plan.inline[payload.clone()].to_vec(), checksums, part, "in the tree".to_string())
        }
        Source::Bulk { extents, bytes, checksums, part } => {
            let mut payload = Vec::new();
            for extent in extents {
                let left = (bytes - payload.len() as u64).min(extent.bytes());
                let read = store.media().bulk_read_now(*extent, 0, left as usize);
                payload.extend_from_slice(&read.map_err(|error| unreadable(&error))?);
            }
            let first = extents.first().map_or(0, |extent| extent.block);
            (payload, checksums, part, format!("at block {first}"))
        }
    };
    if let Err(fault) = codec::checksum::verify_chunks(&payload, checksums) {
        faults.push(format!("records from {} {place}: {fault}", piece.extent.start));
    }
    Ok(payload[part.start as usize..part.end as usize].to_vec())
}

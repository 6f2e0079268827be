//! `ddb`: looks into the storage of a server that is not running, and mends it when asked.
//!
//! # Shape
//! [`at_rest`] opens a target: read-only, its log replayed in memory. [`path`] finds what a path names in it.
//! Each verb is a file: it answers for one target, and the answers of all are put together here.
//!
//! # Always true
//! Without `check --repair`, `services --dictate` or `services --forget` not a byte of the storage changes.

mod at_rest;
mod check;
mod dump;
mod info;
mod log;
mod ls;
mod path;
mod services;
mod space;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use control::offline::{Labels, Offline, OfflineTarget};
use serde_json::{Value, json};
use types::{ByteSize, Error, TargetIndex};

use crate::failure::{Failure, Result};
use crate::options::{PrintOptions, size};
use crate::output::Outcome;
use crate::program::{ManualVerb, Program, version};

/// Look into storage at rest: pools, containers, keys, versions, log, space. Mend it when asked.
#[derive(Parser, Debug)]
#[command(name = "ddb", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Ddb {
    #[command(flatten)]
    pub(crate) print: PrintOptions,
    /// Storage directory of a server or an embedded system, or a target-<n> in it
    #[arg(value_name = "STORAGE")]
    storage: Option<PathBuf>,
    /// Look at this target only
    #[arg(short, long, global = true, value_name = "N", help_heading = "Global options")]
    target: Option<u32>,
    /// Memory for pages of a target; a repair of much needs more
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, default_value = "256MiB",
        help_heading = "Global options")]
    memory: ByteSize,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Show superblocks, checkpoint and log range (what happens without a command)
    Info,
    /// List what a path holds: pools, containers, objects, dkeys, akeys, versions
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Write the bytes of a value
    #[command(visible_alias = "value_dump")]
    Dump(dump::Dump),
    /// Show the log records after the checkpoint, one a line
    Log(log::Log),
    /// Show what takes space, and whether it adds up
    Space,
    /// Verify everything; mend it when asked
    Check(check::Check),
    /// Show replicas of the system's and the pools' services; go on with what is left of them when most are lost
    Services(services::Services),
    /// Show the version
    Version,
    #[command(flatten)]
    Manual(ManualVerb),
}

/// What all verbs need.
pub(crate) struct Session {
    pub(crate) targets: Vec<OfflineTarget>,
    pub(crate) labels: Labels,
    pub(crate) storage: PathBuf,
    /// Bytes of the page pool of a target.
    pub(crate) memory: usize,
    /// The answer will be JSON.
    pub(crate) json: bool,
    /// Holds the lock.
    pub(crate) offline: Offline,
}

/// What a verb has to say of one target.
pub(crate) struct Part {
    pub(crate) target: TargetIndex,
    pub(crate) response: Value,
    pub(crate) text: String,
    pub(crate) fault: Option<Error>,
}

impl Ddb {
    pub(crate) fn run(self) -> Result<Outcome> {
        let verb = match self.verb {
            Some(Verb::Version) => return Ok(version(Program::Ddb)),
            Some(Verb::Manual(verb)) => return verb.run(Program::Ddb),
            verb => verb.unwrap_or(Verb::Info),
        };
        let Some(storage) = self.storage else {
            let remedy = "name the storage first: ddb STORAGE COMMAND, see `ddb --help`";
            return Err(Failure::usage("no storage is named", remedy));
        };
        let offline = Offline::take(&storage)?;
        let session = Session {
            targets: offline.targets(self.target.map(TargetIndex))?,
            labels: offline.labels(),
            storage,
            json: self.print.json,
            memory: usize::try_from(self.memory.0).unwrap_or(usize::MAX),
            offline,
        };
        match verb {
            Verb::Info => info::run(&session),
            Verb::Ls(verb) => verb.run(&session),
            Verb::Dump(verb) => verb.run(&session),
            Verb::Log(verb) => verb.run(&session),
            Verb::Space => space::run(&session),
            Verb::Check(verb) => verb.run(&session),
            Verb::Services(verb) => verb.run(&session),
            Verb::Version | Verb::Manual(_) => unreachable!("answered above, without storage"),
        }
    }
}

impl Session {
    /// Answers for every target meant, in one response. A target that cannot be opened is told of, and keeps
    /// none of the others from answering.
    fn each(&self, mut answer: impl FnMut(&OfflineTarget) -> Result<Part>) -> Result<Outcome> {
        let mut parts = Vec::new();
        for target in &self.targets {
            match answer(target) {
                Ok(part) => parts.push(part),
                Err(Failure::Failed(error)) => {
                    let response = json!({ "target": target.index.0, "error": error.message });
                    let text = format!("cannot be read: {}\n", error.message);
                    parts.push(Part { target: target.index, response, text, fault: Some(error) });
                }
                Err(other) => return Err(other),
            }
        }
        Ok(self.together(parts))
    }

    /// Puts the answers of targets together, and their faults; the remedy is that of the last.
    fn together(&self, parts: Vec<Part>) -> Outcome {
        let mut text = String::new();
        let several = self.targets.len() > 1;
        for part in &parts {
            if several {
                text.push_str(&format!("{}Target {}\n", if text.is_empty() { "" } else { "\n" }, part.target));
            }
            text.push_str(&part.text);
        }
        let (mut responses, mut fault): (Vec<Value>, Option<Error>) = (Vec::new(), None);
        for part in parts {
            responses.push(part.response);
            fault = match (fault, part.fault) {
                (Some(first), Some(next)) => Some(Error { message: first.message + "; " + &next.message, ..next }),
                (first, next) => first.or(next),
            };
        }
        let response = json!({ "storage": self.storage.display().to_string(), "targets": responses });
        Outcome::new(response, text).with_fault(fault)
    }
}

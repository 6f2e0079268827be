//! `daos_server`: the server's commands.

mod start;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use control::config::{Config, Dax, Medium, Place, Storage};
use serde_json::json;
use types::ByteSize;

use crate::failure::Result;
use crate::options::PrintOptions;
use crate::output::Outcome;
use crate::program::{ManualVerb, Program, version};
use crate::table::pairs;

/// Serve DAOS from this machine's files or block devices.
///
/// Needs no configuration: `daos_server start` keeps its data in ./daos-storage and answers on
/// 127.0.0.1:10001.
#[derive(Parser, Debug)]
#[command(name = "daos_server", version, arg_required_else_help = true, max_term_width = 100)]
pub struct DaosServer {
    #[command(flatten)]
    pub(crate) print: PrintOptions,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Serve in the foreground until SIGTERM or Ctrl-C; logs go to stderr
    Start(start::Start),
    /// Look at a configuration
    #[command(subcommand, visible_alias = "cfg")]
    Config(ConfigVerb),
    /// Show the version
    Version,
    #[command(flatten)]
    Manual(ManualVerb),
}

#[derive(Subcommand, Debug)]
enum ConfigVerb {
    /// Read a configuration file and show what it means
    Check { file: PathBuf },
}

impl DaosServer {
    pub(crate) fn run(self) -> Result<Outcome> {
        match self.verb {
            Verb::Start(start) => start.run(),
            Verb::Config(ConfigVerb::Check { file }) => Ok(shown(&Config::load(&file)?)),
            Verb::Version => Ok(version(Program::DaosServer)),
            Verb::Manual(verb) => verb.run(Program::DaosServer),
        }
    }
}

/// What a server with this configuration would do.
fn shown(config: &Config) -> Outcome {
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    let (place, size, devices) = match &config.storage {
        Storage::Directory { path, bytes } => (path, *bytes, Vec::new()),
        Storage::Devices { paths, directory } => {
            (directory, None, paths.iter().map(|p| p.display().to_string()).collect())
        }
    };
    let mut rows = vec![
        ("Name", config.name.clone()),
        ("Listens on", listen.join(", ")),
        ("Targets", config.targets.to_string()),
        ("Storage", place.display().to_string()),
    ];
    if devices.is_empty() {
        rows.push(("Size", size.map_or("80% of what is free".to_string(), |b| ByteSize(b).to_string())));
    } else {
        rows.push(("Devices", devices.join(", ")));
    }
    let places = [("Log", &config.log), ("Metadata", &config.metadata)];
    for (role, place) in places {
        rows.push((role, place.as_ref().map_or("with the data".to_string(), place_text)));
    }
    rows.push(("I/O timeout", format!("{} s", config.io_timeout.as_secs())));
    rows.push(("Memory", ByteSize(config.memory).to_string()));
    rows.push(("Failure detection", format!("{} ms", config.detection.silence().as_millis())));
    rows.push(("Fault domain", config.fault_path.clone().unwrap_or_else(|| "of its own".to_string())));
    if let Some(join) = &config.join {
        rows.push(("Joins", join.addresses.join(", ")));
    }
    let response = json!({
        "name": config.name,
        "listen": listen,
        "targets": config.targets,
        "storage": { "path": place.display().to_string(), "size": size, "devices": devices,
            "log": config.log.as_ref().map(place_json),
            "metadata": config.metadata.as_ref().map(place_json),
            "io_timeout_s": config.io_timeout.as_secs(),
        },
        "memory": config.memory,
        "fault_path": config.fault_path.as_deref().unwrap_or_default(),
        "failure_detection_ms": config.detection.silence().as_millis() as u64,
    });
    Outcome::new(response, pairs(&rows))
}

fn place_paths(place: &Place) -> Vec<String> {
    place.paths.iter().map(|path| path.display().to_string()).collect()
}

fn medium_name(medium: Medium) -> Option<&'static str> {
    match medium {
        Medium::Any => None,
        Medium::File => Some("file"),
        Medium::Block => Some("block"),
        Medium::Pmem(Dax::Required) => Some("pmem"),
        Medium::Pmem(Dax::Emulated) => Some("pmem, emulated"),
    }
}

fn place_text(place: &Place) -> String {
    let size = place.bytes.map(|bytes| format!(", {}", ByteSize(bytes))).unwrap_or_default();
    let medium = medium_name(place.medium).map(|name| format!(" ({name})")).unwrap_or_default();
    format!("{}{size}{medium}", place_paths(place).join(", "))
}

fn place_json(place: &Place) -> serde_json::Value {
    json!({ "path": place_paths(place), "size": place.bytes, "medium": medium_name(place.medium) })
}

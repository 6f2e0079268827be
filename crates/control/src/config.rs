//! `daos_server.yml`: what an administrator may say, and what is assumed when nothing is said.
//!
//! Every key has a default, so that an empty file, or none, is a working server. An unknown key is
//! an error with its line and the nearest known key: a setting that is silently ignored is worse.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use types::{ByteSize, Code, Error, Span};

/// Where a server listens unless told otherwise: this machine only.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:10001";
/// Where a server keeps its data unless told otherwise.
const DEFAULT_STORAGE: &str = "./daos-storage";
/// Memory for page pools of all targets together, unless told otherwise.
const DEFAULT_MEMORY: u64 = 256 << 20;
/// Storage of all targets together is this share of the free space, unless told otherwise.
const DEFAULT_SHARE_OF_FREE: f64 = 0.8;
/// Each target has a log and room for at least a small pool.
pub const BYTES_PER_TARGET_MIN: u64 = 128 << 20;
/// Below this a busy disk would count as a broken one; above, nobody would wait for it.
const IO_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const IO_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Bounds a slip of the hand (`targets: 1000`).
const TARGETS_MAX: u32 = 128;

/// A server's settings, all of them known.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The system's name; clients that mean another are refused.
    pub name: String,
    pub listen: Vec<net::Address>,
    pub targets: u32,
    /// Somebody said how many, so storage laid out otherwise is an error.
    pub targets_chosen: bool,
    pub storage: Storage,
    /// A device that has not answered for so long has failed.
    pub io_timeout: Duration,
    /// Bytes of all page pools together.
    pub memory: u64,
    pub fault_domain: String,
}

/// Where data lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    /// Files in a directory; `bytes` in all, by default a share of what is free.
    Directory { path: PathBuf, bytes: Option<u64> },
    /// Block devices or preallocated files, targets spread evenly over them; the directory holds
    /// the service's documents.
    Devices { paths: Vec<PathBuf>, metadata: PathBuf },
}

/// The file as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    name: Option<String>,
    listen: Option<Listen>,
    targets: Option<u32>,
    storage: Option<StorageFile>,
    memory: Option<String>,
    fault_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Listen {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StorageFile {
    path: Option<PathBuf>,
    size: Option<String>,
    devices: Option<Vec<PathBuf>>,
    io_timeout: Option<String>,
}

/// Keys of the file, and of its `storage` section: for suggestions.
const KEYS: &[&str] =
    &["name", "listen", "targets", "storage", "memory", "fault_path", "path", "size", "devices", "io_timeout"];

impl Default for Config {
    fn default() -> Config {
        resolve(File::default()).expect("the defaults are good")
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `Io` when it cannot be read; `Invalid`, with the line, when it says something unknown.
    pub fn load(path: &std::path::Path) -> Result<Config, Error> {
        let bytes = rt::disk::fs::read(path).map_err(|e| {
            Error::new(Code::Io, format!("cannot read the configuration: {e}"))
                .remedy("name an existing file, or start without one to use the defaults")
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::new(Code::Invalid, format!("{} is not UTF-8 text", path.display())))?;
        Config::parse(&text).map_err(|e| Error { message: format!("{}: {}", path.display(), e.message), ..e })
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Config, Error> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return resolve(File::default());
        }
        let file: File = serde_saphyr::from_str(text).map_err(|e| explain(text, &e.to_string()))?;
        resolve(file)
    }
}

/// The parser's complaint, with line and suggestion.
fn explain(text: &str, complaint: &str) -> Error {
    let first = complaint.lines().next().unwrap_or(complaint).trim();
    let unknown = first.split_once("unknown field `").and_then(|(_, rest)| rest.split('`').next());
    let Some(key) = unknown else {
        return Error::new(Code::Invalid, first.to_string()).remedy("see the example in the README");
    };
    let line = text.lines().position(|line| line.trim_start().trim_start_matches("- ").starts_with(&format!("{key}:")));
    let place = line.map(|n| format!("line {}: ", n + 1)).unwrap_or_default();
    let error = Error::new(Code::Invalid, format!("{place}unknown key '{key}'"));
    match types::nearest(key, KEYS.iter().copied()) {
        Some(nearest) => error.remedy(format!("did you mean '{nearest}'?")),
        None => error.remedy(format!("known keys are {}", KEYS.join(", "))),
    }
}

fn resolve(file: File) -> Result<Config, Error> {
    let invalid = |text: String| Error::new(Code::Invalid, text);
    let listen = match file.listen {
        None => vec![DEFAULT_LISTEN.to_string()],
        Some(Listen::One(one)) => vec![one],
        Some(Listen::Many(many)) => many,
    };
    let listen = listen
        .iter()
        .map(|text| text.parse().map_err(|e| invalid(format!("listen: {e}"))))
        .collect::<Result<Vec<net::Address>, Error>>()?;
    if listen.is_empty() {
        return Err(invalid("listen: at least one address is needed".to_string()));
    }
    let targets_chosen = file.targets.is_some();
    let targets = file.targets.unwrap_or_else(default_targets);
    if !(1..=TARGETS_MAX).contains(&targets) {
        return Err(invalid(format!("targets: {targets} is not between 1 and {TARGETS_MAX}"))
            .remedy("one target a core is a good start"));
    }
    let size = |name: &str, text: Option<String>| {
        text.map(|text| text.parse::<ByteSize>().map(|s| s.0).map_err(|e| invalid(format!("{name}: {e}")))).transpose()
    };
    let section = file.storage.unwrap_or_default();
    let path = section.path.unwrap_or_else(|| DEFAULT_STORAGE.into());
    let bytes = size("size", section.size)?;
    let io_timeout = match section.io_timeout {
        None => media::IO_TIMEOUT,
        Some(text) => {
            let span: Span = text.parse().map_err(|e| invalid(format!("io_timeout: {e}")))?;
            let limit = span.duration().filter(|limit| (IO_TIMEOUT_MIN..=IO_TIMEOUT_MAX).contains(limit));
            limit.ok_or_else(|| {
                invalid(format!("io_timeout: {text} is not between 1s and 1h"))
                    .remedy("a healthy disk may take seconds; 30s is a good start")
            })?
        }
    };
    let storage = match section.devices {
        None => Storage::Directory { path, bytes },
        Some(paths) if paths.is_empty() => return Err(invalid("devices: at least one is needed".to_string())),
        Some(paths) => Storage::Devices { paths, metadata: path },
    };
    Ok(Config {
        name: file.name.unwrap_or_else(|| "daos_server".to_string()),
        listen,
        targets,
        targets_chosen,
        storage,
        io_timeout,
        memory: size("memory", file.memory)?.unwrap_or(DEFAULT_MEMORY),
        fault_domain: file.fault_path.unwrap_or_else(|| "/localhost".to_string()),
    })
}

/// One target a core.
fn default_targets() -> u32 {
    rt::cores().min(TARGETS_MAX)
}

/// Storage of a directory whose size nobody chose: most of what is free.
pub fn default_bytes(free: u64) -> u64 {
    (free as f64 * DEFAULT_SHARE_OF_FREE) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_a_working_server() {
        for text in ["", "# only a comment\n", "\n\n"] {
            let config = Config::parse(text).unwrap();
            assert_eq!(config.listen[0].to_string(), format!("tcp://{DEFAULT_LISTEN}"));
            assert!(config.targets >= 1);
        }
    }

    #[test]
    fn everything_may_be_said() {
        let text = "name: lab\nlisten: [0.0.0.0:10001, unix:///run/daos.sock]\ntargets: 4\nmemory: 1GiB\nstorage:\n  path: /srv/daos\n  size: 100GB\n  io_timeout: 5s\nfault_path: /rack1/host2\n";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.name.as_str(), config.targets, config.memory), ("lab", 4, 1 << 30));
        assert_eq!(config.storage, Storage::Directory { path: "/srv/daos".into(), bytes: Some(100_000_000_000) });
        assert_eq!(config.io_timeout, Duration::from_secs(5));
        let text = "storage:\n  devices:\n    - /dev/sdb\n    - /dev/sdc\n";
        let Storage::Devices { paths, .. } = Config::parse(text).unwrap().storage else { panic!("devices were named") };
        assert_eq!(paths.len(), 2);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let error = Config::parse("name: lab\ntargts: 4\n").unwrap_err();
        assert!(error.message.contains("line 2") && error.message.contains("'targts'"), "{error}");
        assert_eq!(error.remedy.as_deref(), Some("did you mean 'targets'?"));
        let error = Config::parse("storage:\n  pth: /x\n").unwrap_err();
        assert!(error.message.contains("line 2"), "{error}");
        assert_eq!(error.remedy.as_deref(), Some("did you mean 'path'?"));
    }

    #[test]
    fn impossible_values_are_refused() {
        for text in [
            "targets: 0",
            "targets: 100000",
            "memory: lots",
            "listen: []",
            "listen: ftp://x",
            "targets: [1",
            "storage: {io_timeout: 0s}",
            "storage: {io_timeout: 2h}",
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}

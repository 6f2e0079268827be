//! `daos_server.yml`: what an administrator may say, and what is assumed when nothing is said.
//!
//! Every key has a default, so that an empty file, or none, is a working server. An unknown key is
//! an error with its line and the nearest known key: a setting that is silently ignored is worse.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use engine::detection::Detection;
pub use engine::service::JoinConfig;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
    /// Where logs lie; absent: with the data.
    pub log: Option<Place>,
    /// Where pages lie; absent: with the data.
    pub metadata: Option<Place>,
    /// Lay new storage out over whatever devices hold.
    pub force: bool,
    /// A device that has not answered for so long has failed.
    pub io_timeout: Duration,
    /// How soon a server that falls silent is taken for dead.
    pub detection: Detection,
    /// Bytes of all page pools together.
    pub memory: u64,
    /// What fails together with this server; absent: it fails by itself.
    pub fault_path: Option<String>,
    /// The system that a server without a place in one shall join.
    pub join: Option<JoinConfig>,
}

/// Where data lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Storage {
    /// Files in a directory; `bytes` in all, by default a share of what is free.
    Directory { path: PathBuf, bytes: Option<u64> },
    /// Block devices or preallocated files, targets spread evenly over them; the directory holds
    /// the service's documents.
    Devices { paths: Vec<PathBuf>, directory: PathBuf },
}

/// Where one role's regions lie, apart from the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Block devices, preallocated files, or directories to make files in; targets are spread evenly over
    /// them.
    pub paths: Vec<PathBuf>,
    /// Of all targets together; devices are used whole unless it is given.
    pub bytes: Option<u64>,
    pub medium: Medium,
}

/// How a place is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Medium {
    /// As whatever it is.
    #[default]
    Any,
    File,
    Block,
    /// Persistent memory, mapped; `Emulated`: any file, mapped as if it were.
    Pmem(Dax),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dax {
    /// The file system must promise that a store that left the caches is durable.
    Required,
    Emulated,
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
    failure_detection: Option<String>,
    join: Option<Listen>,
    token: Option<String>,
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
    log: Option<PlaceFile>,
    metadata: Option<PlaceFile>,
    io_timeout: Option<String>,
}

/// A role's place: a path, a list of them, or a section.
#[derive(Default)]
struct PlaceFile {
    path: Vec<PathBuf>,
    size: Option<String>,
    medium: Option<String>,
    dax: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceSection {
    path: OneOrMany,
    size: Option<String>,
    medium: Option<String>,
    dax: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// By hand, because serde's untagged enums forget what was wrong with each variant.
impl<'de> Deserialize<'de> for PlaceFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlaceFile, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = PlaceFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, a list of paths, or a section with `path`")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<PlaceFile, E> {
                Ok(PlaceFile { path: vec![path.into()], ..PlaceFile::default() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PlaceFile, A::Error> {
                let mut place = PlaceFile::default();
                while let Some(path) = list.next_element()? {
                    place.path.push(path);
                }
                Ok(place)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PlaceFile, A::Error> {
                let section = PlaceSection::deserialize(MapAccessDeserializer::new(map))?;
                let path = match section.path {
                    OneOrMany::One(path) => vec![path],
                    OneOrMany::Many(paths) => paths,
                };
                Ok(PlaceFile { path, size: section.size, medium: section.medium, dax: section.dax })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Keys of the file, and of its sections: for suggestions.
const KEYS: &[&str] = &[
    "name",
    "listen",
    "targets",
    "storage",
    "memory",
    "fault_path",
    "failure_detection",
    "join",
    "token",
    "path",
    "size",
    "devices",
    "log",
    "metadata",
    "medium",
    "dax",
    "io_timeout",
];

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
    // At the start of a line, or inside braces.
    let is_here = |line: &str| {
        line.split(['{', ',']).any(|part| part.trim_start().trim_start_matches("- ").starts_with(&format!("{key}:")))
    };
    let line = text.lines().position(is_here);
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
    let join = join(file.join, file.token)?;
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
    let detection = match file.failure_detection {
        None => Detection::default(),
        Some(text) => silence(&text).and_then(Detection::new).ok_or_else(|| {
            invalid(format!("failure_detection: {text} is not between 300ms and 1m"))
                .remedy("leave it out, or try 500ms on machines that have processors to spare")
        })?,
    };
    let storage = match section.devices {
        None => Storage::Directory { path, bytes },
        Some(paths) if paths.is_empty() => return Err(invalid("devices: at least one is needed".to_string())),
        Some(paths) => Storage::Devices { paths, directory: path },
    };
    let log = section.log.map(|log| place("log", log)).transpose()?;
    let metadata = section.metadata.map(|metadata| place("metadata", metadata)).transpose()?;
    if let Some(Place { medium: Medium::Pmem(_), .. }) = metadata {
        return Err(invalid("metadata: medium pmem is for the log".to_string()).remedy("leave `medium` out"));
    }
    roles_are_apart(&storage, &log, &metadata)?;
    Ok(Config {
        name: file.name.unwrap_or_else(|| "daos_server".to_string()),
        listen,
        targets,
        targets_chosen,
        storage,
        log,
        metadata,
        force: false,
        io_timeout,
        memory: size("memory", file.memory)?.unwrap_or(DEFAULT_MEMORY),
        fault_path: file.fault_path,
        detection,
        join,
    })
}

/// Whom to ask for a place, and with what.
fn join(addresses: Option<Listen>, token: Option<String>) -> Result<Option<JoinConfig>, Error> {
    let addresses = match addresses {
        None if token.is_none() => return Ok(None),
        None => {
            return Err(Error::new(Code::Invalid, "token goes with `join`")
                .remedy("say which server to ask: `join: host:port`"));
        }
        Some(Listen::One(one)) => vec![one],
        Some(Listen::Many(many)) => many,
    };
    for address in &addresses {
        address.parse::<net::Address>().map_err(|e| Error::new(Code::Invalid, format!("join: {e}")))?;
    }
    Ok(Some(JoinConfig { addresses, token: token.unwrap_or_default() }))
}

fn place(role: &str, file: PlaceFile) -> Result<Place, Error> {
    let invalid = |text: String| Error::new(Code::Invalid, format!("{role}: {text}"));
    if file.path.is_empty() {
        return Err(invalid("at least one path is needed".to_string()));
    }
    let bytes = file.size.map(|text| text.parse::<ByteSize>().map(|size| size.0)).transpose();
    let dax = match file.dax.as_deref() {
        None | Some("required") => Dax::Required,
        Some("emulated") => Dax::Emulated,
        Some(other) => {
            return Err(invalid(format!("dax: '{other}' is neither 'required' nor 'emulated'"))
                .remedy("'emulated' maps any file, for trials: what a power cut leaves of it is not known"));
        }
    };
    let medium = match file.medium.as_deref() {
        Some("pmem") => Medium::Pmem(dax),
        _ if file.dax.is_some() => {
            return Err(invalid("dax goes with `medium: pmem` only".to_string()).remedy("leave `dax` out"));
        }
        None => Medium::Any,
        Some("file") => Medium::File,
        Some("block") => Medium::Block,
        Some(other) => {
            return Err(invalid(format!("medium: '{other}' is not known"))
                .remedy("choose file, block or pmem, or leave it out"));
        }
    };
    Ok(Place { paths: file.path, bytes: bytes.map_err(|e| invalid(format!("size: {e}")))?, medium })
}

/// A device has one role: cutting one up for several is what leaving the others out does.
fn roles_are_apart(storage: &Storage, log: &Option<Place>, metadata: &Option<Place>) -> Result<(), Error> {
    let data: &[PathBuf] = match storage {
        Storage::Devices { paths, .. } => paths,
        Storage::Directory { .. } => &[],
    };
    let mut named = std::collections::BTreeMap::new();
    let paths = |place: &'_ Option<Place>| place.as_ref().map(|place| place.paths.clone()).unwrap_or_default();
    for (role, paths) in [("devices", data.to_vec()), ("log", paths(log)), ("metadata", paths(metadata))] {
        for path in paths {
            let text = match named.insert(path.clone(), role) {
                None => continue,
                Some(other) if other == role => format!("{} is named twice for {role}", path.display()),
                Some(other) => format!("{} is named for {other} and for {role}", path.display()),
            };
            return Err(Error::new(Code::Invalid, text).remedy(
                "give each role devices of its own, or leave `log` or `metadata` out to keep it with the data",
            ));
        }
    }
    Ok(())
}

/// One target a core.
fn default_targets() -> u32 {
    rt::cores().min(TARGETS_MAX)
}

/// Seconds and their parts: `500ms`, `2s`.
fn silence(text: &str) -> Option<Duration> {
    match text.trim().strip_suffix("ms") {
        Some(millis) => millis.trim_end().parse().ok().map(Duration::from_millis),
        None => text.parse::<Span>().ok()?.duration(),
    }
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
        let text = "name: lab\nlisten: [0.0.0.0:10001, unix:///run/daos.sock]\ntargets: 4\nmemory: 1GiB\nstorage:\n  path: /srv/daos\n  size: 100GB\n  io_timeout: 5s\nfault_path: /rack1/host2\nfailure_detection: 500 ms\n";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.name.as_str(), config.targets, config.memory), ("lab", 4, 1 << 30));
        assert_eq!(config.storage, Storage::Directory { path: "/srv/daos".into(), bytes: Some(100_000_000_000) });
        assert_eq!(config.io_timeout, Duration::from_secs(5));
        assert_eq!(Some(config.detection), Detection::new(Duration::from_millis(500)));
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
    fn each_role_may_have_a_place_of_its_own() {
        let text = "storage:\n  devices: [/dev/sdb, /dev/sdc]\n  metadata: [/dev/nvme0n1, /dev/nvme1n1]\n  log: {path: /mnt/pmem, size: 1GiB, medium: pmem}\n";
        let config = Config::parse(text).unwrap();
        let log = Place { paths: vec!["/mnt/pmem".into()], bytes: Some(1 << 30), medium: Medium::Pmem(Dax::Required) };
        assert_eq!(config.log, Some(log));
        assert_eq!(config.metadata.unwrap().paths.len(), 2);
        let config = Config::parse("storage:\n  log: /dev/sdd\n").unwrap();
        assert_eq!(config.log, Some(Place { paths: vec!["/dev/sdd".into()], bytes: None, medium: Medium::Any }));
        let config =
            Config::parse("storage:\n  log:\n    path: [/a, /b]\n    medium: pmem\n    dax: emulated\n").unwrap();
        assert_eq!(config.log.unwrap().medium, Medium::Pmem(Dax::Emulated));
    }

    #[test]
    fn what_is_wrong_with_a_role_is_said() {
        let cases = [
            ("storage: {log: {pth: /x}}", "line 1: unknown key 'pth'"),
            ("storage:\n  log:\n    path: /x\n    mdium: file\n", "line 4: unknown key 'mdium'"),
            ("storage: {log: {path: /x, medium: tape}}", "log: medium: 'tape' is not known"),
            ("storage: {log: {path: /x, dax: emulated}}", "dax goes with"),
            ("storage: {log: {path: /x, medium: pmem, dax: maybe}}", "'maybe' is neither"),
            ("storage: {metadata: {path: /x, medium: pmem}}", "pmem is for the log"),
            ("storage: {log: []}", "at least one path"),
            ("storage: {log: 5}", "a path, a list of paths"),
            ("storage: {devices: [/dev/a], log: /dev/a}", "/dev/a is named for devices and for log"),
            ("storage: {metadata: /dev/a, log: /dev/a}", "/dev/a is named for log and for metadata"),
            ("storage: {devices: [/dev/a, /dev/a]}", "/dev/a is named twice"),
        ];
        for (text, says) in cases {
            let error = Config::parse(text).unwrap_err();
            assert!(error.message.contains(says), "'{says}' in: {error}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for text in [
            "targets: 0",
            "targets: 100000",
            "memory: lots",
            "failure_detection: 299ms",
            "failure_detection: 61s",
            "failure_detection: 0s",
            "failure_detection: soon",
            "failure_detection: forever",
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

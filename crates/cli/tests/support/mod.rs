//! What system tests share: running the real programs, and servers that end with their test.
#![allow(dead_code)] // Each test binary uses its own part of this.

pub mod schema;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Storage of a test's server: small, so that nothing but the test takes time.
pub const STORAGE: &str = "1GiB";
/// How long anything may take to come about before the test calls it lost.
const PATIENCE: Duration = Duration::from_secs(30);

pub const DAOS: &str = env!("CARGO_BIN_EXE_daos");
pub const DMG: &str = env!("CARGO_BIN_EXE_dmg");
pub const DDB: &str = env!("CARGO_BIN_EXE_ddb");
pub const DAOS_SERVER: &str = env!("CARGO_BIN_EXE_daos_server");

/// The end of a program's run.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// Failed with `status`, a cause and no debris.
    #[track_caller]
    pub fn failed(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.stderr.contains("error: "), "{self:?}");
        for debris in ["panicked", "RUST_BACKTRACE", "Error {"] {
            assert!(!self.stderr.contains(debris), "{self:?}");
        }
        self
    }

    #[track_caller]
    pub fn says(&self, words: &str) -> &Ran {
        assert!(self.stderr.contains(words), "{words:?} is not in {self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Checks a run's response against the schema of this name.
#[track_caller]
pub fn checked(name: &str, ran: &Ran) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let schema: Value = serde_json::from_str(&text).unwrap();
    schema::validate(&schema, &ran.json()["response"]).unwrap_or_else(|e| panic!("{name}: {e}\n{}", ran.stdout));
}

/// Runs a program to its end. Its environment names no server.
pub fn run(program: &str, arguments: &[&str]) -> Ran {
    run_in(Path::new("."), program, arguments)
}

pub fn run_in(directory: &Path, program: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env_remove("DAOS_SERVER").env_remove("DAOS_LOG");
    Ran::new(command.stdin(Stdio::null()).output().expect("the program starts"))
}

/// How commands of a test reach their system.
#[derive(Clone)]
pub struct Reach(pub Vec<String>);

impl Reach {
    pub fn embedded(path: &Path) -> Reach {
        Reach(vec!["--embedded".into(), path.display().to_string()])
    }

    /// Runs `program`, the reach's options first.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Ran {
        let all: Vec<&str> = self.0.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        run(program, &all)
    }

    pub fn daos(&self, arguments: &[&str]) -> Ran {
        self.run(DAOS, arguments)
    }

    pub fn dmg(&self, arguments: &[&str]) -> Ran {
        self.run(DMG, arguments)
    }
}

/// A server of this test, ended with it.
pub struct Server {
    child: Child,
    pub address: String,
    /// What it logs, as far as it was read.
    log: BufReader<std::process::ChildStderr>,
}

impl Server {
    /// Starts a server on `storage` at a free port and waits until it answers.
    pub fn start(storage: &Path) -> Server {
        Server::start_with(storage, &[])
    }

    /// Starts one more server of this one's system.
    pub fn start_joining(&self, storage: &Path) -> Server {
        let token = self.reach().dmg(&["system", "token", "--json"]).ok().json()["response"]["token"].clone();
        let token = token.as_str().expect("a token is text");
        Server::start_with(storage, &["--join", self.address.trim_start_matches("tcp://"), "--token", token])
    }

    pub fn start_with(storage: &Path, options: &[&str]) -> Server {
        let mut command = Command::new(DAOS_SERVER);
        command.args(["start", "--size", STORAGE, "--targets", "2", "--port", "0", "--storage"]).arg(storage);
        command.args(options).env_remove("DAOS_LOG").env("NO_COLOR", "1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let start = said.len();
            if log.read_line(&mut said).unwrap() == 0 {
                panic!("the server ended before it listened: {said}");
            }
            if let Some((_, rest)) = said[start..].split_once("address=") {
                break rest.split_whitespace().next().unwrap().to_string();
            }
        };
        Server { child, address, log }
    }

    pub fn reach(&self) -> Reach {
        Reach(vec!["--server".into(), self.address.clone()])
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by process id.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the server is ours");
    }

    /// SIGKILL, and waits for the corpse.
    pub fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit status and the rest of the log.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not stop");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut log = String::new();
        while self.log.read_line(&mut log).unwrap_or(0) > 0 {}
        (status.code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small tree with everything a copy must preserve: files, a large file, an empty one, a
/// directory in a directory, a symlink, an executable.
pub fn small_tree(at: &Path) -> PathBuf {
    let root = at.join("tree");
    std::fs::create_dir_all(root.join("src/deep/deeper")).unwrap();
    std::fs::write(root.join("README.md"), "# A small tree\n").unwrap();
    std::fs::write(root.join("src/main.rs"), "fn main() {}\n").unwrap();
    std::fs::write(root.join("src/deep/deeper/empty"), "").unwrap();
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.to_le_bytes()).collect();
    std::fs::write(root.join("large.bin"), large).unwrap();
    for i in 0..20 {
        std::fs::write(root.join(format!("src/deep/file-{i:02}")), format!("file {i}\n").repeat(i * 50)).unwrap();
    }
    std::os::unix::fs::symlink("../README.md", root.join("src/link")).unwrap();
    let script = root.join("run.sh");
    std::fs::write(&script, "#!/bin/sh\necho hello\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    root
}

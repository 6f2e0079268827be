//! A `daos_server` for the length of a quickstart.
//!
//! It ends with this process, however that ends: it asks the kernel for a signal (`--parent`). It is in a process group of
//! its own, so that Ctrl-C reaches this process only, which then stops it in good order.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use types::{Code, Error};

use crate::failure::{self, Result};
use crate::session::{Asks, Session};

/// How long a server may take to answer, and to stop.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const POLL: Duration = Duration::from_millis(20);
/// How much of its log is shown when it ends too early, in lines.
const LOG_LINES: usize = 5;
/// The kernel's limit for a socket's path, with room for the name of ours.
pub(super) const SOCKET_DIRECTORY_BYTES_MAX: usize = 70;

/// A server process of ours. Dropped in the middle of something, it is killed: what it
/// acknowledged is durable.
pub(super) struct Child {
    process: std::process::Child,
    socket: PathBuf,
    log: Log,
}

/// Where a server's log goes.
enum Log {
    /// Gone with the server.
    Passing(PathBuf),
    Kept(PathBuf),
}

impl Log {
    fn path(&self) -> &Path {
        let (Log::Passing(path) | Log::Kept(path)) = self;
        path
    }
}

/// How a server is started.
#[derive(Default)]
pub(super) struct ChildOptions {
    /// Where it answers; `None`: on a socket that nobody else knows.
    pub(super) socket: Option<PathBuf>,
    /// Where its log goes, behind what is there; `None`: it is not kept.
    pub(super) log: Option<PathBuf>,
    /// Storage and targets, when it is laid out.
    pub(super) bytes: Option<u64>,
    pub(super) targets: Option<u32>,
    /// Where others of its system answer.
    pub(super) join: Vec<String>,
    /// With which it joins them for the first time.
    pub(super) token: Option<String>,
}

impl Child {
    /// Starts a server on `storage`, on a socket: no port can be in use.
    pub(super) fn start(storage: &Path, options: &ChildOptions) -> Result<Child> {
        let name = format!("daos-quickstart-{}-{:08x}", std::process::id(), rt::random_u64() as u32);
        let directory = short_directory();
        let socket = options.socket.clone().unwrap_or_else(|| directory.join(format!("{name}.sock")));
        let log = match &options.log {
            Some(path) => Log::Kept(path.clone()),
            None => Log::Passing(directory.join(format!("{name}.log"))),
        };
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log.path());
        let output = output.map_err(|e| failure::local("create", log.path(), &e))?;
        let program = std::env::current_exe().map_err(|e| Error::new(Code::Io, failure::reason(&e)))?;
        let mut command = Command::new(program);
        // One file is all our programs; the name says which to be.
        command.arg0("daos_server").arg("start").arg("--storage").arg(storage);
        command.arg("--listen").arg(address_of(&socket)).arg("--parent").arg(std::process::id().to_string());
        if let Some(bytes) = options.bytes {
            command.arg("--size").arg(bytes.to_string());
        }
        if let Some(targets) = options.targets {
            command.arg("--targets").arg(targets.to_string());
        }
        for address in &options.join {
            command.arg("--join").arg(address);
        }
        if let Some(token) = &options.token {
            command.arg("--token").arg(token);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).process_group(0);
        let process = command
            .spawn()
            .map_err(|e| Error::new(Code::Io, format!("cannot start daos_server: {}", failure::reason(&e))))?;
        Ok(Child { process, socket, log })
    }

    /// Connects, as soon as the server answers.
    pub(super) async fn connect(&mut self) -> Result<Session> {
        let address = self.address();
        let deadline = rt::now() + PATIENCE;
        loop {
            if self.socket.exists() {
                match Session::connect(&address, None, Asks::Leader).await {
                    Ok(session) => return Ok(session),
                    Err(error) if rt::now() > deadline || self.is_gone() => {
                        return Err(self.explain().unwrap_or(error));
                    }
                    Err(_) => {}
                }
            }
            if self.is_gone() || rt::now() > deadline {
                let silent = Error::new(Code::NoService, "daos_server did not start to answer");
                return Err(self.explain().unwrap_or(silent.into()));
            }
            rt::sleep(POLL).await;
        }
    }

    pub(super) fn address(&self) -> String {
        address_of(&self.socket)
    }

    /// Its process, until it is [`Child::buried`].
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// SIGTERM.
    pub(super) fn ask_to_stop(&self) {
        // A process that is gone already has a status all the same.
        let _ = kill_process(self.pid(), Signal::TERM);
    }

    /// After a SIGKILL that was sent: waits for the corpse.
    pub(super) fn buried(mut self) {
        // Killed again, in case nobody did.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// SIGTERM, and waits for the end.
    pub(super) async fn stop(mut self) -> Result<()> {
        let end = |text: String| Error::new(Code::Misc, text).remedy("see its log on stderr with --debug");
        self.ask_to_stop();
        let deadline = rt::now() + PATIENCE;
        while rt::now() < deadline {
            match self.process.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(end(format!("daos_server ended badly: {status}")).into()),
                Ok(None) => rt::sleep(POLL).await,
                Err(error) => return Err(end(format!("daos_server: {}", failure::reason(&error))).into()),
            }
        }
        Err(end("daos_server did not stop in time, and was killed".to_string()).into())
    }

    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Why the server ended, in its own words.
    pub(super) fn explain(&self) -> Option<failure::Failure> {
        let log = std::fs::read_to_string(self.log.path()).ok()?;
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let cause = lines.iter().rev().find_map(|line| line.strip_prefix("error: "));
        let remedy = lines.iter().rev().find_map(|line| line.strip_prefix("remedy: "));
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("; ");
        let text = cause.map(str::to_string).unwrap_or(tail);
        if text.is_empty() {
            return None;
        }
        let error = Error::new(Code::NoService, format!("daos_server did not start: {text}"));
        Some(failure::Failure::Failed(match remedy {
            Some(remedy) => error.remedy(remedy),
            None => error,
        }))
    }
}

/// A directory for temporary files whose path leaves room for the name of a socket.
pub(super) fn short_directory() -> PathBuf {
    let directory = std::env::temp_dir();
    if directory.as_os_str().len() > SOCKET_DIRECTORY_BYTES_MAX { PathBuf::from("/tmp") } else { directory }
}

pub(super) fn address_of(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

impl Drop for Child {
    fn drop(&mut self) {
        // All of these fail when there is nothing left to clean, which is well.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
        if let Log::Passing(log) = &self.log {
            let _ = std::fs::remove_file(log);
        }
    }
}

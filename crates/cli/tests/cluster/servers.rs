//! Server processes of one system: started, killed, stopped short, started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Address, ContainerSpec, MemberState, System};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::DAOS_SERVER;

/// How long anything may take to come about before the test calls it lost: a debug build on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);
/// Storage of each server: small, so that it is laid out at once.
const STORAGE: &str = "512MiB";
const POOL_BYTES: u64 = 300 << 20;
pub const POOL: &str = "tank";
pub const CONTAINER: &str = "data";
/// Lines of each server's log that are shown when a test fails.
const LOG_LINES: usize = 15;

/// Waits until `is_so`, and says what for when that is in vain.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}, in vain");
        std::thread::sleep(POLL);
    }
}

/// Where the servers of a test run, and how they reach each other.
pub trait Ground: Send + Sync {
    /// The command that runs `program` where server `number` is.
    fn command(&self, number: usize, program: &str) -> Command;
    /// Where server `number` listens. It may be another address each time that it starts.
    fn listen(&self, number: usize) -> String;
}

/// All on the loopback.
pub struct Loopback;

impl Ground for Loopback {
    fn command(&self, _: usize, program: &str) -> Command {
        Command::new(program)
    }

    fn listen(&self, _: usize) -> String {
        // A port that was free a moment ago is as good as free.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        format!("127.0.0.1:{port}")
    }
}

struct Process {
    child: Option<Child>,
    storage: PathBuf,
    /// Its files have holes, and take room when they are written.
    is_sparse: bool,
    log: PathBuf,
    address: String,
}

/// The servers of one test, ended with it.
pub struct Servers {
    ground: Box<dyn Ground>,
    processes: Vec<Process>,
}

impl Servers {
    /// A system of `count` servers with a pool on all, and in it a container with `copies` of everything. `storage`: where
    /// each keeps its data.
    pub fn start(at: &Path, ground: impl Ground + 'static, storage: &[PathBuf], copies: usize) -> Servers {
        Servers::start_sparse(at, ground, storage, copies, None)
    }

    /// The same; the targets' files of one server have holes.
    pub fn start_sparse(
        at: &Path,
        ground: impl Ground + 'static,
        storage: &[PathBuf],
        copies: usize,
        sparse: Option<usize>,
    ) -> Servers {
        let process = |(number, storage): (usize, &PathBuf)| Process {
            child: None,
            storage: storage.clone(),
            is_sparse: sparse == Some(number),
            log: at.join(format!("server-{number}.log")),
            address: String::new(),
        };
        let processes = storage.iter().enumerate().map(process).collect();
        let mut servers = Servers { ground: Box::new(ground), processes };
        for number in 0..storage.len() {
            let joined: Vec<String> = match number {
                0 => Vec::new(),
                _ => {
                    let token = servers.ask(async |system| system.create_token(600).await).token;
                    vec!["--join".into(), servers.processes[0].address.clone(), "--token".into(), token]
                }
            };
            servers.start_with(number, &joined);
            until(&format!("server {number} to be a member"), || servers.joined() == number + 1);
        }
        servers.ask(async |system| {
            system.create_pool(POOL, POOL_BYTES, Vec::new()).await?;
            let properties = vec![("rd_fac".to_string(), (copies - 1).to_string())];
            let spec = ContainerSpec { properties, ..ContainerSpec::labelled(CONTAINER) };
            system.pool(POOL).await?.create_container(spec).await
        });
        servers
    }

    /// The same, on the loopback and in `at`.
    pub fn on_loopback(at: &Path, count: usize, copies: usize) -> Servers {
        let storage: Vec<PathBuf> = (0..count).map(|number| at.join(format!("storage-{number}"))).collect();
        Servers::start(at, Loopback, &storage, copies)
    }

    pub fn count(&self) -> usize {
        self.processes.len()
    }

    /// Where a server keeps its data.
    pub fn storage(&self, number: usize) -> &Path {
        &self.processes[number].storage
    }

    /// Starts a server again, at whatever address it gets.
    pub fn start_again(&mut self, number: usize) {
        let others: Vec<String> = self
            .processes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .flat_map(|(_, process)| ["--join".to_string(), process.address.clone()])
            .collect();
        self.start_with(number, &others);
    }

    fn start_with(&mut self, number: usize, options: &[String]) {
        let address = self.ground.listen(number);
        let mut command = self.ground.command(number, DAOS_SERVER);
        let process = &mut self.processes[number];
        assert!(process.child.is_none(), "server {number} runs");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&process.log).unwrap();
        command.args(["start", "--targets", "2", "--listen", &address]);
        if !process.is_sparse {
            command.args(["--size", STORAGE]);
        }
        command.arg("--storage");
        // A test that is killed takes its servers along.
        command.arg(&process.storage).args(["--parent", &std::process::id().to_string()]).args(options);
        command.env_remove("DAOS_LOG").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        process.child = Some(command.spawn().unwrap());
        process.address = address;
        let address = &self.processes[number].address;
        until(&format!("server {number} to listen at {address}"), || std::net::TcpStream::connect(address).is_ok());
    }

    fn signal(&self, number: usize, signal: Signal) {
        let child = self.processes[number].child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("the server is ours");
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        let mut child = self.processes[number].child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP.
    pub fn hang(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    /// SIGCONT.
    pub fn wake(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    /// It has ended by itself.
    pub fn has_ended(&mut self, number: usize) -> bool {
        let child = self.processes[number].child.as_mut();
        let ended = child.is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended {
            self.processes[number].child = None;
        }
        ended
    }

    pub fn addresses(&self) -> Vec<Address> {
        self.processes
            .iter()
            .filter(|process| !process.address.is_empty())
            .map(|p| p.address.parse().unwrap())
            .collect()
    }

    /// Asks the system, by whichever server answers, again and again until it is done.
    #[track_caller]
    pub fn ask<T>(&self, question: impl AsyncFn(&System) -> client::Result<T>) -> T {
        let began = Instant::now();
        loop {
            let answer = self.try_ask(&question);
            match answer {
                Ok(answer) => return answer,
                Err(error) if error.is_transient() || error.code == client::Code::Unreachable => {
                    assert!(began.elapsed() < PATIENCE, "no answer in {PATIENCE:?}: {error}");
                }
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(POLL);
        }
    }

    /// Once.
    pub fn try_ask<T>(&self, question: impl AsyncFn(&System) -> client::Result<T>) -> client::Result<T> {
        let addresses = self.addresses();
        rt::block_on(async {
            let system = System::connect(&addresses, Default::default()).await?;
            question(&system).await
        })
    }

    fn joined(&self) -> usize {
        let info = self.ask(async |system| system.info().await);
        info.members.iter().filter(|member| member.state == MemberState::Joined).count()
    }

    /// Who leads the system's service.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        until("the system to have a leader", || {
            leader = self.ask(async |system| system.info().await).leader;
            leader.is_some()
        });
        leader.expect("just seen").0 as usize
    }

    /// Targets of the pool that are not in service.
    pub fn out_of_service(&self) -> u32 {
        self.ask(async |system| system.pool_info(POOL).await).disabled_targets
    }

    /// Waits until the pool has noticed that a server is gone.
    pub fn until_missed(&self) {
        until("the others to notice that a server is gone", || self.out_of_service() > 0);
    }

    /// Waits until the system does not count on a server any more.
    pub fn until_excluded(&self, number: usize) {
        until(&format!("server {number} to be excluded"), || {
            let info = self.ask(async |system| system.info().await);
            let is_it = |member: &&client::Member| member.rank.0 as usize == number;
            info.members.iter().find(is_it).is_some_and(|member| member.state == MemberState::Excluded)
        });
    }

    /// Waits until every target of the pool has all its data and serves.
    pub fn until_whole(&self) {
        until("all targets of the pool to be in service", || {
            self.out_of_service() == 0 && self.joined() == self.count()
        });
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (number, process) in self.processes.iter_mut().enumerate() {
            if let Some(mut child) = process.child.take() {
                // Also one that is stopped short.
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                let log = std::fs::read_to_string(&process.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- server {number}, the end of its log:");
                lines[lines.len().saturating_sub(LOG_LINES)..].iter().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

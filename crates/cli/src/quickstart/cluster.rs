//! Several `daos_server`s on this machine for the length of a quickstart, and what they are put through.
//!
//! # Shape
//! A directory a server, `server-0` and on; each answers on a socket whose name follows from its directory, so that the
//! others find it again at the next run. The first founds the system, each further one joins with a token. What is
//! there from a run before, finished or not, is gone on with: who is a member is asked of the system itself.
//!
//! # Not here
//! Processes one by one ([`super::child`]); what the copy is ([`super::tour`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::MemberState;
use net::Address;
use rustix::process::{Signal, kill_process};
use types::{Code, Error, Rank};

use super::POOL;
use super::child::{Child, ChildOptions, PATIENCE, POLL, SOCKET_DIRECTORY_BYTES_MAX, address_of, short_directory};
use crate::failure::{self, Result};
use crate::session::{Session, holds_a_system};

/// Copies of everything, where there are as many servers.
const COPIES_MAX: u32 = 3;
/// Targets of a server at most: one a core, shared by all servers.
const TARGETS_MAX: u32 = 4;
/// How long the system may take to bring a server that was out up to date, after which something is wrong.
const HEAL_PATIENCE: Duration = Duration::from_secs(600);
/// How long a token is good for, in seconds: much longer than a server takes to start.
const TOKEN_SECONDS: u64 = 600;
/// Who is killed: not the first, which may be the only one that keeps the system's state (of two).
const VICTIM: usize = 1;
/// The victim dies when one part of so many of the bytes is stored.
const KILL_AFTER_PART: u64 = 3;
/// Not reached: no bytes came.
const NEVER: u64 = u64::MAX;

/// Where the server of a number keeps its data.
pub(super) fn directory(path: &Path, number: usize) -> PathBuf {
    path.join(format!("server-{number}"))
}

/// The servers of one run. Dropped in the middle of something, all are killed.
pub(super) struct Cluster {
    path: PathBuf,
    sockets: Vec<PathBuf>,
    /// By number, which is the rank; `None`: it does not run.
    children: Vec<Option<Child>>,
    /// Which of them had no storage before this run.
    are_new: Vec<bool>,
    bytes: u64,
    targets: u32,
}

/// What a copy lived through.
pub(super) struct Killed {
    pub(super) rank: Rank,
    /// Bytes that were stored when it died.
    pub(super) after_bytes: u64,
}

/// The machine's cores are shared by all servers.
pub(super) fn targets_of_each(count: usize) -> u32 {
    (rt::cores() / count as u32).clamp(1, TARGETS_MAX)
}

impl Cluster {
    /// A system of `count` servers below `path`, each of which gets storage of `bytes` if it has none. Nothing runs yet.
    ///
    /// # Errors
    /// There is something else, or a system of another number of servers.
    pub(super) fn prepare(path: &Path, count: usize, bytes: u64) -> Result<Cluster> {
        check_directory(path, count)?;
        for number in 0..count {
            let directory = directory(path, number);
            std::fs::create_dir_all(&directory).map_err(|e| failure::local("create", &directory, &e))?;
        }
        let path = path.canonicalize().map_err(|e| failure::local("read", path, &e))?;
        let sockets = (0..count).map(|number| socket(&path, number)).collect();
        let are_new = (0..count).map(|number| !holds_a_system(&directory(&path, number))).collect();
        let targets = targets_of_each(count);
        Ok(Cluster { sockets, are_new, children: (0..count).map(|_| None).collect(), path, bytes, targets })
    }

    pub(super) fn count(&self) -> usize {
        self.children.len()
    }

    /// Copies of everything that is stored.
    pub(super) fn copies(&self) -> u32 {
        COPIES_MAX.min(self.count() as u32)
    }

    /// Starts all servers, has those that are no members yet join, and connects.
    pub(super) async fn start(&mut self) -> Result<Session> {
        for number in 0..self.count() {
            // One that has storage knows its system; of the others only the founder may start by itself.
            if number == 0 || !self.are_new[number] {
                self.start_one(number, None)?;
            }
        }
        let session = self.connect().await?;
        for number in 1..self.count() {
            let rank = Rank(number as u32);
            if !session.info().await?.members.iter().any(|member| member.rank == rank) {
                // One that a broken-off run left without a place asks in vain.
                if let Some(child) = self.children[number].take() {
                    child.buried();
                }
                let token = session.create_token(TOKEN_SECONDS).await?.token;
                self.start_one(number, Some(token))?;
            }
            self.until(PATIENCE, &format!("server {number} to come into the system"), async || {
                let joined = |member: &client::Member| member.rank == rank && member.state == MemberState::Joined;
                Ok(session.info().await?.members.iter().any(joined))
            })
            .await?;
        }
        Ok(session)
    }

    fn start_one(&mut self, number: usize, token: Option<String>) -> Result<()> {
        let is_new = self.are_new[number];
        let others = self.sockets.iter().enumerate().filter(|(other, _)| *other != number);
        let options = ChildOptions {
            socket: Some(self.sockets[number].clone()),
            log: Some(self.path.join(format!("server-{number}.log"))),
            bytes: is_new.then_some(self.bytes),
            targets: is_new.then_some(self.targets),
            // The founder has nobody to join. Later all are told of all: the directory may have been moved meanwhile.
            join: if is_new && number == 0 {
                Vec::new()
            } else {
                others.map(|(_, socket)| address_of(socket)).collect()
            },
            token,
        };
        self.children[number] = Some(Child::start(&directory(&self.path, number), &options)?);
        self.are_new[number] = false;
        Ok(())
    }

    /// Connects to whichever server answers first.
    async fn connect(&mut self) -> Result<Session> {
        let addresses: Vec<Address> = self.sockets.iter().map(|socket| Address::Unix(socket.clone())).collect();
        let deadline = rt::now() + PATIENCE;
        loop {
            self.all_run()?;
            match Session::connect_to(&addresses).await {
                Ok(session) => return Ok(session),
                Err(error) if rt::now() > deadline => return Err(error),
                Err(_) => rt::sleep(POLL).await,
            }
        }
    }

    /// Waits until `is_so`, while all servers run that were started.
    ///
    /// # Errors
    /// `TimedOut`, with `what` it waited for; a server's own words, when one has ended.
    async fn until(&mut self, patience: Duration, what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let deadline = rt::now() + patience;
        while !is_so().await? {
            self.all_run()?;
            if rt::now() > deadline {
                let text = format!("waited {} s for {what}, in vain", patience.as_secs());
                return Err(Error::new(Code::TimedOut, text)
                    .remedy("run it again: it goes on with what is there")
                    .into());
            }
            rt::sleep(POLL).await;
        }
        Ok(())
    }

    fn all_run(&mut self) -> Result<()> {
        for (number, child) in self.children.iter_mut().enumerate() {
            if let Some(ended) = child
                && ended.is_gone()
            {
                let silent = || Error::new(Code::NoService, format!("server {number} has ended without a word")).into();
                return Err(ended.explain().unwrap_or_else(silent));
            }
        }
        Ok(())
    }

    /// Waits until every target of the pool has its data and serves.
    pub(super) async fn until_whole(&mut self, session: &Session) -> Result<()> {
        self.until(HEAL_PATIENCE, "all targets of the pool to be in service", async || {
            Ok(session.pool_info(POOL).await?.disabled_targets == 0)
        })
        .await
    }

    /// What kills a server when a part of `bytes` is stored; to be told of each that comes.
    pub(super) fn ambush(&self, bytes: u64) -> (Ambush, impl Fn(u64) + Send + Sync + use<>) {
        let after = Arc::new(AtomicU64::new(NEVER));
        let threshold = bytes / KILL_AFTER_PART;
        let pid = self.children[VICTIM].as_ref().map(Child::pid);
        let ambush = Ambush { after: after.clone() };
        let watch = move |stored: u64| {
            let is_time = stored > threshold && after.load(Ordering::Acquire) == NEVER;
            // The process is ours and not waited for yet, so nobody else has its number.
            if is_time && after.compare_exchange(NEVER, stored, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
            }
        };
        (ambush, watch)
    }

    /// The server that was ambushed is dead; a source without bytes has not brought it about, so it dies here.
    pub(super) async fn bury(&mut self, ambush: &Ambush, session: &Session) -> Result<Killed> {
        let after_bytes = match ambush.after.load(Ordering::Acquire) {
            NEVER => 0,
            bytes => bytes,
        };
        if let Some(child) = self.children[VICTIM].take() {
            child.buried();
        }
        // The others have noticed before a write to it could succeed; it may have got none.
        self.until(PATIENCE, "the others to notice that a server is gone", async || {
            Ok(session.pool_info(POOL).await?.disabled_targets > 0)
        })
        .await?;
        Ok(Killed { rank: Rank(VICTIM as u32), after_bytes })
    }

    /// Starts the dead server again. Seconds until the pool is whole.
    pub(super) async fn bring_back(&mut self, session: &Session) -> Result<f64> {
        let began = rt::now();
        self.start_one(VICTIM, None)?;
        self.until_whole(session).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// Stops all servers; together, so that none finds the others gone.
    pub(super) async fn stop(mut self) -> Result<()> {
        let children: Vec<Child> = self.children.iter_mut().filter_map(Option::take).collect();
        children.iter().for_each(Child::ask_to_stop);
        let mut stopped = Ok(());
        for child in children {
            stopped = stopped.and(child.stop().await);
        }
        stopped
    }
}

/// A server that is to die in the middle of a copy.
pub(super) struct Ambush {
    after: Arc<AtomicU64>,
}

/// There is nothing in `path`, or a system of `count` servers.
fn check_directory(path: &Path, count: usize) -> Result<()> {
    let there = servers_in(path);
    let (what, remedy) = match there {
        0 if !holds_a_system(path) => return Ok(()),
        0 => (format!("{} holds something else", path.display()), "choose another place with --path DIR".to_string()),
        same if same == count => return Ok(()),
        other => (
            format!("{} holds a system of {other} servers, not {count}", path.display()),
            format!("go on with it by --servers {other}, or choose another place with --path DIR"),
        ),
    };
    Err(Error::new(Code::Invalid, what).remedy(remedy).into())
}

/// How many servers of a quickstart have their data in `path`.
pub(super) fn servers_in(path: &Path) -> usize {
    (0..).take_while(|number| directory(path, *number).is_dir()).count()
}

/// Beside the data where the kernel's limit on the length of its path lets it; else among temporary files.
fn socket(path: &Path, number: usize) -> PathBuf {
    if path.as_os_str().len() <= SOCKET_DIRECTORY_BYTES_MAX {
        return path.join(format!("server-{number}.sock"));
    }
    let name = codec::checksum::crc64(path.as_os_str().as_encoded_bytes());
    short_directory().join(format!("daos-quickstart-{name:016x}-{number}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_else_is_not_taken() {
        let at = tempfile::tempdir().unwrap();
        check_directory(&at.path().join("absent"), 3).unwrap();
        check_directory(at.path(), 3).unwrap();
        for number in 0..3 {
            std::fs::create_dir(directory(at.path(), number)).unwrap();
        }
        check_directory(at.path(), 3).unwrap();
        assert!(check_directory(at.path(), 2).is_err() && check_directory(at.path(), 4).is_err());
        std::fs::write(at.path().join("server-0/file"), "").unwrap();
        assert!(check_directory(&at.path().join("server-0"), 2).is_err());
    }

    #[test]
    fn a_socket_fits_into_an_address_and_is_found_again() {
        for path in [PathBuf::from("/short"), PathBuf::from(format!("/{}", "long".repeat(60)))] {
            let socket = socket(&path, 1);
            address_of(&socket).parse::<Address>().unwrap();
            assert_eq!(socket, super::socket(&path, 1));
            assert_ne!(socket, super::socket(&path, 2));
        }
    }
}

//! Several server processes that are one system, to be measured, killed and started again; and their clients.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Address, Container, ContainerSpec, Kv, ObjectType, System, SystemOptions};

use crate::process::ServerProcess;

/// Servers of the benches of copies, of one target each, and their pool. Storage lies in memory: what a disk costs is in the
/// chapter `server`, and three logs on one disk would measure that disk.
pub const SERVERS: usize = 3;
const SETTINGS: [&str; 5] = ["--targets", "1", "--size", "3GiB", "--parent"];
pub const POOL: &str = "bench";
const POOL_BYTES: u64 = 6 << 30;

/// How long anything may take to come about.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(10);
const TOKEN_SECONDS: u64 = 600;

pub struct Cluster {
    directories: Vec<PathBuf>,
    /// `None`: it is dead.
    servers: Vec<Option<ServerProcess>>,
    arguments: Vec<String>,
}

impl Cluster {
    /// Three servers with their data in `directory`, and a pool on all of them. `more`: arguments of all servers.
    pub fn three(directory: &Path, more: &[&str]) -> Result<Cluster> {
        let process = std::process::id().to_string();
        let settings: Vec<&str> = SETTINGS.into_iter().chain([&process[..]]).chain(more.iter().copied()).collect();
        let cluster = Cluster::start(directory, SERVERS, &settings)?;
        cluster.create_pool(POOL, POOL_BYTES)?;
        Ok(cluster)
    }

    /// A system of `count` servers in `directory`, each started with `arguments`.
    pub fn start(directory: &Path, count: usize, arguments: &[&str]) -> Result<Cluster> {
        let directories = (0..count).map(|number| directory.join(format!("server-{number}"))).collect();
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut cluster = Cluster { directories, servers: (0..count).map(|_| None).collect(), arguments };
        for number in 0..count {
            std::fs::create_dir(&cluster.directories[number])?;
            let joined = match number {
                0 => Vec::new(),
                _ => {
                    let token = cluster.ask(async |system| system.create_token(TOKEN_SECONDS).await)?.token;
                    vec!["--token".to_string(), token]
                }
            };
            cluster.begin(number, joined)?;
            let what = format!("server {number} to be a member");
            cluster.until(&what, async |system| Ok(system.info().await?.members.len() > number))?;
        }
        Ok(cluster)
    }

    fn begin(&mut self, number: usize, more: Vec<String>) -> Result<()> {
        let others = self.addresses().into_iter().flat_map(|address| ["--join".to_string(), address.to_string()]);
        let arguments: Vec<String> = self.arguments.iter().cloned().chain(others).chain(more).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.servers[number] = Some(ServerProcess::start(&self.directories[number], &arguments)?);
        Ok(())
    }

    /// Starts a dead one again.
    pub fn start_again(&mut self, number: usize) -> Result<()> {
        self.begin(number, Vec::new())
    }

    /// SIGKILL. The moment at which it was sent.
    pub fn kill(&mut self, number: usize) -> Result<Instant> {
        let server = self.servers[number].take().context("it runs")?;
        let at = Instant::now();
        server.kill()?;
        Ok(at)
    }

    /// Of those that run.
    pub fn addresses(&self) -> Vec<Address> {
        self.servers.iter().flatten().map(|server| server.address.clone()).collect()
    }

    /// Of all that run, so far.
    pub fn processor_seconds(&self) -> Result<f64> {
        self.servers.iter().flatten().map(ServerProcess::processor_seconds).sum()
    }

    pub async fn connect(&self) -> Result<System> {
        Ok(System::connect(&self.addresses(), SystemOptions::default()).await?)
    }

    fn ask<T>(&self, question: impl AsyncFn(&System) -> client::Result<T>) -> Result<T> {
        rt::block_on(async { Ok(question(&self.connect().await?).await?) })
    }

    /// Waits until the system says so. What it does not answer it has not said.
    pub fn until(&self, what: &str, is_so: impl AsyncFn(&System) -> client::Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !matches!(self.ask(&is_so), Ok(true)) {
            if began.elapsed() > PATIENCE {
                bail!("waited {} s for {what}, in vain", PATIENCE.as_secs());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits until every target of a pool has all its data and serves.
    pub fn until_whole(&self, pool: &str) -> Result<()> {
        self.until("all targets to be in service", async |system| {
            Ok(system.pool_info(pool).await?.disabled_targets == 0)
        })
    }

    /// Waits until the pool has noticed that a server is gone.
    pub fn until_missed(&self, pool: &str) -> Result<()> {
        self.until("a dead server to be missed", async |system| Ok(system.pool_info(pool).await?.disabled_targets > 0))
    }

    /// Who leads the system's service.
    pub fn leader(&self) -> Result<usize> {
        let info = self.ask(async |system| system.info().await)?;
        Ok(info.leader.context("the system has no leader")?.0 as usize)
    }

    pub fn create_pool(&self, name: &str, bytes: u64) -> Result<()> {
        self.ask(async |system| system.create_pool(name, bytes, Vec::new()).await).map(drop)
    }

    /// A new container that bears so many failures, by a client of its own.
    pub async fn container(&self, pool: &str, name: &str, failures: usize) -> Result<Container> {
        let pool = self.connect().await?.pool(pool).await?;
        let properties = vec![("rd_fac".to_string(), failures.to_string())];
        pool.create_container(ContainerSpec { properties, ..ContainerSpec::labelled(name) }).await?;
        Ok(pool.container(name).await?)
    }
}

/// So many clients, each with a session of its own, as programs have: what a session may have under way when a leader dies
/// is bounded by what targets remember of it.
pub async fn clients(
    addresses: &[Address],
    container: &str,
    object: client::ObjectId,
    count: usize,
) -> Result<Vec<Kv>> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let pool = System::connect(addresses, Default::default()).await?.pool(POOL).await?;
        all.push(pool.container(container).await?.kv(object));
    }
    Ok(all)
}

pub async fn all(tasks: Vec<rt::JoinHandle<Result<()>>>) -> Result<()> {
    for task in tasks {
        task.await.context("a client ended early")??;
    }
    Ok(())
}

/// Of the class that the container's redundancy asks for.
pub async fn new_kv(container: &Container) -> Result<Kv> {
    Ok(container.kv(container.new_object(ObjectType::KvHashed, None).await?))
}

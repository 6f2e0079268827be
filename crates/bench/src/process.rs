//! A server in a process of its own, and what the kernel says about it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Address, Container, ContainerSpec, System, SystemOptions};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ticks of `/proc/PID/stat` a second; fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// A program of this tree, built beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is not there: build it with `cargo build --release`, or run `cargo xtask bench`", path.display());
    }
    Ok(path)
}

/// A running `daos_server`; stopped when dropped.
pub struct ServerProcess {
    child: Child,
    pub address: Address,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts a server with `arguments` and its data in `directory`; ready when this returns.
    pub fn start(directory: &Path, arguments: &[&str]) -> Result<ServerProcess> {
        // A port that was free a moment ago is as good as free.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = directory.join("server.log");
        let child = Command::new(program("daos_server")?)
            .args(["start", "--storage"])
            .arg(directory.join("storage"))
            .args(["--port", &port.to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("daos_server")?;
        let address = Address::Tcp(format!("127.0.0.1:{port}"));
        let mut server = ServerProcess { child, address, log };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("daos_server ended ({status}): {}", self.said());
            }
            let answer = rt::block_on(System::connect(std::slice::from_ref(&self.address), options()));
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => bail!("{error}: {}", self.said()),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// SIGKILL, and waits for the corpse.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The end of what it wrote to its log.
    fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }

    /// A new container in a new pool of `bytes`.
    pub async fn container(&self, bytes: u64) -> Result<Container> {
        self.container_named("bench", bytes, &[]).await
    }

    /// A new container in a new pool of the same name.
    pub async fn container_named(&self, name: &str, bytes: u64, properties: &[(&str, &str)]) -> Result<Container> {
        let system = System::connect(std::slice::from_ref(&self.address), options()).await?;
        system.create_pool(name, bytes, Vec::new()).await?;
        let pool = system.pool(name).await?;
        let properties = properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        pool.create_container(ContainerSpec { properties, ..ContainerSpec::labelled(name) }).await?;
        Ok(pool.container(name).await?)
    }

    /// Destroys a pool with all that is in it.
    pub async fn destroy_pool(&self, name: &str) -> Result<()> {
        let system = System::connect(std::slice::from_ref(&self.address), options()).await?;
        Ok(system.destroy_pool(name, true).await?)
    }

    /// Seconds of processor time used so far.
    pub fn processor_seconds(&self) -> Result<f64> {
        let text = self.proc("stat")?;
        // The name in parentheses may hold spaces; user and system ticks are the 12th and 13th after it.
        let fields: Vec<&str> = text.rsplit_once(") ").context("/proc stat")?.1.split(' ').collect();
        let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).context("/proc stat");
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }

    /// MiB of memory: `VmRSS` now, `VmHWM` at most so far.
    pub fn memory_mib(&self, line: &str) -> Result<f64> {
        let text = self.proc("status")?;
        let value = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).context("/proc status")?;
        let kib: f64 = value.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }
}

fn options() -> SystemOptions {
    SystemOptions::default()
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

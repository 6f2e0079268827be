//! `daos_server start`: configuration from the file, then from the options, then serve.

use std::path::PathBuf;

use clap::Args;
use control::config::{Config, JoinConfig, Storage};
use serde_json::json;
use types::{ByteSize, Code, Error};

use crate::failure::{Failure, Result};
use crate::output::Outcome;

#[derive(Args, Debug)]
pub(crate) struct Start {
    /// Configuration file; options override it
    #[arg(short = 'o', short_alias = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Number of targets [default: one a core]
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=128))]
    targets: Option<u32>,
    /// Directory for data [default: ./daos-storage]
    #[arg(short, long, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// Storage of all targets together: 100GB [default: 80% of what is free]
    #[arg(long, value_name = "SIZE", value_parser = crate::options::size)]
    size: Option<ByteSize>,
    /// Address to answer on, host:port or unix:///path; may be repeated [default: 127.0.0.1:10001]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Lay new storage out over whatever its devices hold
    #[arg(long)]
    force: bool,
    /// Port to answer on, at the default address; 0: any free one
    #[arg(short, long, conflicts_with = "listen")]
    port: Option<u16>,
    /// A server of the system to join, host:port; may be repeated. For the first start; and when all servers have moved
    #[arg(long, value_name = "ADDR")]
    join: Vec<String>,
    /// What `dmg system token` gave, to join with
    #[arg(long, value_name = "TOKEN", requires = "join")]
    token: Option<String>,
    /// What fails together with this server: /rack3/host7 [default: it fails by itself]
    #[arg(long, value_name = "PATH")]
    fault_path: Option<String>,
    /// Stop when this process, which started it, ends
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

impl Start {
    pub(crate) fn run(self) -> Result<Outcome> {
        if let Some(parent) = self.parent {
            end_with(parent)?;
        }
        let config = self.configure()?;
        rt::block_on(control::server::run(config))?;
        Ok(Outcome::new(json!(null), ""))
    }

    /// The file's settings, or the defaults, with the options over them.
    fn configure(self) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        if let Some(targets) = self.targets {
            config.targets = targets;
            config.targets_chosen = true;
        }
        if let Some(path) = self.storage {
            let bytes = match config.storage {
                Storage::Directory { bytes, .. } => bytes,
                Storage::Devices { .. } => None,
            };
            config.storage = Storage::Directory { path, bytes };
        }
        if let Some(size) = self.size {
            match &mut config.storage {
                Storage::Directory { bytes, .. } => *bytes = Some(size.0),
                Storage::Devices { .. } => {
                    let error = Error::new(Code::Invalid, "--size does not go with devices");
                    return Err(error.remedy("leave it out: devices are used whole").into());
                }
            }
        }
        config.force = self.force;
        if let Some(port) = self.port {
            config.listen = vec![net::Address::Tcp(format!("127.0.0.1:{port}"))];
        }
        if !self.listen.is_empty() {
            let parse = |text: &String| {
                text.parse().map_err(|e: net::AddressError| {
                    Failure::usage(format!("--listen '{}': {}", e.text, e.why), "write host:port or unix:///path")
                })
            };
            config.listen = self.listen.iter().map(parse).collect::<Result<_>>()?;
        }
        if !self.join.is_empty() {
            for text in &self.join {
                text.parse::<net::Address>().map_err(|e: net::AddressError| {
                    Failure::usage(format!("--join '{}': {}", e.text, e.why), "write host:port or unix:///path")
                })?;
            }
            config.join = Some(JoinConfig { addresses: self.join, token: self.token.unwrap_or_default() });
        }
        if self.fault_path.is_some() {
            config.fault_path = self.fault_path;
        }
        Ok(config)
    }
}

/// Has the kernel send SIGTERM here when `parent` ends, in whatever way.
fn end_with(parent: u32) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|error| Error::new(Code::Misc, format!("cannot be told of the end of process {parent}: {error}")))?;
    // It may have ended before it could be asked for.
    let is_there = rustix::process::getppid().is_some_and(|pid| pid.as_raw_pid() as u32 == parent);
    if !is_there {
        return Err(
            Error::new(Code::ShuttingDown, format!("process {parent}, which started this server, is gone")).into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_the_defaults() {
        let start = Start {
            config: None,
            targets: Some(3),
            storage: Some("/x".into()),
            size: Some(ByteSize(7)),
            listen: Vec::new(),
            force: true,
            port: Some(0),
            join: vec!["node1:10001".into()],
            token: Some("t".into()),
            fault_path: None,
            parent: None,
        };
        let config = start.configure().unwrap();
        assert_eq!((config.targets, config.targets_chosen, config.force), (3, true, true));
        assert_eq!(config.storage, Storage::Directory { path: "/x".into(), bytes: Some(7) });
        assert_eq!(config.listen[0].to_string(), "tcp://127.0.0.1:0");
        let join = JoinConfig { addresses: vec!["node1:10001".into()], token: "t".into() };
        assert_eq!(config.join, Some(join));
    }
}

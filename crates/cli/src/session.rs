//! From global options to a system: the one place that knows how commands reach it.

use std::path::Path;

use ::daos::EmbeddedOptions;
use client::{Container, Pool, System};
use types::{Code, Error, nearest};

use crate::failure::{Failure, Result};
use crate::options::SystemOptions;

const SERVER_VARIABLE: &str = "DAOS_SERVER";
const SERVER_DEFAULT: &str = "127.0.0.1:10001";

/// Whether a command may make an embedded system where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A mistyped path must not become a new, empty system.
    Refuse,
    Create,
}

/// Whether a command needs whoever leads the system, or only a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Leader,
    AnyServer,
}

/// An open system, and what is worth knowing about how it was reached.
pub(crate) struct Session {
    system: ::daos::System,
}

impl std::ops::Deref for Session {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

/// Opens the system that `options` name, does `work` with it, and closes it again.
pub(crate) async fn with<T>(
    options: &SystemOptions,
    missing: Missing,
    work: impl AsyncFnOnce(&Session) -> Result<T>,
) -> Result<T> {
    finish(Session::open(options, missing, Asks::Leader).await?, work).await
}

/// As [`with`], for what servers do by themselves: also when they have no quorum.
pub(crate) async fn with_any<T>(options: &SystemOptions, work: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
    finish(Session::open(options, Missing::Refuse, Asks::AnyServer).await?, work).await
}

async fn finish<T>(session: Session, work: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
    let result = work(&session).await;
    let closed = session.close().await;
    // What went wrong first is what the user should hear.
    result.and_then(|value| closed.map(|()| value))
}

impl Session {
    pub(crate) async fn open(options: &SystemOptions, missing: Missing, asks: Asks) -> Result<Session> {
        match (&options.embedded, &options.server) {
            (Some(_), Some(_)) => Err(Failure::usage("--server and --embedded exclude each other", "give one of them")),
            (Some(path), None) => {
                if missing == Missing::Refuse {
                    existing(path)?;
                }
                Session::embedded(path, EmbeddedOptions::default()).await
            }
            (None, Some(address)) => Session::connect(address, options.sys_name.clone(), asks).await,
            (None, None) => {
                let address = std::env::var(SERVER_VARIABLE).ok().filter(|text| !text.is_empty());
                Session::connect(address.as_deref().unwrap_or(SERVER_DEFAULT), options.sys_name.clone(), asks).await
            }
        }
    }

    /// Opens the embedded system in `path`, making it by `options` if there is none.
    pub(crate) async fn embedded(path: &Path, options: EmbeddedOptions) -> Result<Session> {
        Ok(Session { system: ::daos::System::embedded_with(path, options).await? })
    }

    /// Connects to the first server of `address` (one, or several with commas between) that answers; with `system`, only
    /// if that is its system's name.
    pub(crate) async fn connect(address: &str, system: Option<String>, asks: Asks) -> Result<Session> {
        let parsed = addresses(address)?;
        let options = ::daos::SystemOptions { system, ..Default::default() };
        let connected = match asks {
            Asks::Leader => ::daos::System::connect(&parsed, options).await,
            Asks::AnyServer => ::daos::System::connect_to_any(&parsed, options).await,
        };
        let system = connected.map_err(|error| match error.code {
            // A server that has no quorum is one, and says whom to bring back.
            Code::Unreachable => Error::new(error.code, format!("no server at {address}"))
                .remedy("start one with `daos_server start`, name another with --server ADDR, or use --embedded DIR"),
            _ => error,
        })?;
        Ok(Session { system })
    }

    /// Connects to the first of `addresses`, all of one system, that answers.
    pub(crate) async fn connect_to(addresses: &[net::Address]) -> Result<Session> {
        Ok(Session { system: ::daos::System::connect(addresses, ::daos::SystemOptions::default()).await? })
    }

    pub(crate) async fn close(self) -> Result<()> {
        Ok(self.system.shutdown().await?)
    }

    /// The pool called `name`. An unknown name is answered with the nearest known one.
    pub(crate) async fn pool(&self, name: &str) -> Result<Pool> {
        match self.system.pool(name).await {
            Ok(pool) => Ok(pool),
            Err(error) => Err(self.pool_error(error, name).await),
        }
    }

    /// `error`, with a suggestion if it says that no pool is called `name` and has none itself.
    pub(crate) async fn pool_error(&self, error: Error, name: &str) -> Failure {
        if error.code != Code::NotFound || error.remedy.is_some() {
            return error.into();
        }
        let labels = self.system.pools().await.map(|pools| pools.into_iter().map(|p| p.label).collect());
        unknown("pool", name, labels.unwrap_or_default(), "list pools with `daos pool list`")
    }

    /// The container called `name` in the pool called `pool`.
    pub(crate) async fn container(&self, pool: &str, name: &str) -> Result<Container> {
        let pool = self.pool(pool).await?;
        match pool.container(name).await {
            Ok(container) => Ok(container),
            Err(error) => Err(container_error(&pool, error, name).await),
        }
    }
}

/// Addresses of servers of one system, with commas between.
fn addresses(text: &str) -> Result<Vec<net::Address>> {
    let parse = |text: &str| {
        text.parse().map_err(|e: net::AddressError| {
            Failure::usage(
                format!("'{}' is no address: {}", e.text, e.why),
                "write host:port or unix:///path, several with commas between",
            )
        })
    };
    text.split(',').map(str::trim).map(parse).collect()
}

/// Whether there may be an embedded system in `path`.
pub(crate) fn holds_a_system(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}

/// Fails if there is no embedded system in `path`.
fn existing(path: &Path) -> Result<()> {
    if holds_a_system(path) {
        return Ok(());
    }
    let error = Error::new(Code::NotFound, format!("no embedded system in {}", path.display()));
    let remedy = format!("create one with `dmg --embedded {} pool create POOL --size 1GB`", path.display());
    Err(error.remedy(remedy).into())
}

/// `error`, with a suggestion if it says that no container of `pool` is called `name`.
pub(crate) async fn container_error(pool: &Pool, error: Error, name: &str) -> Failure {
    if error.code != Code::NotFound {
        return error.into();
    }
    let labels = pool.containers().await.map(|list| list.into_iter().map(|c| c.label).collect());
    let remedy = format!("list containers with `daos container list {}`", pool.label());
    unknown("container", name, labels.unwrap_or_default(), &remedy)
}

/// `error`, with a suggestion if it says that no snapshot of `container` is called `name`.
pub(crate) async fn snapshot_error(container: &Container, error: Error, name: &str) -> Failure {
    if error.code != Code::NotFound {
        return error.into();
    }
    let names = container.snapshots().await.map(|list| list.into_iter().map(|s| s.name).collect());
    unknown("snapshot", name, names.unwrap_or_default(), "list snapshots with `daos container list-snaps`")
}

/// Nothing of this `kind` is called `name`; perhaps one of `known` was meant.
fn unknown(kind: &str, name: &str, known: Vec<String>, list: &str) -> Failure {
    let error = Error::new(Code::NotFound, format!("no {kind} '{name}'"));
    let near = nearest(name, known.iter().map(String::as_str).filter(|label| !label.is_empty()));
    let remedy = match near {
        Some(near) => format!("did you mean '{near}'? {list}"),
        None => list.to_string(),
    };
    Failure::Failed(error.remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_label_suggests_the_nearest() {
        let Failure::Failed(error) = unknown("pool", "tnak", vec!["".into(), "tank".into()], "list them") else {
            panic!("an unknown label is a failure");
        };
        assert_eq!(error.message, "no pool 'tnak'");
        assert_eq!(error.remedy.as_deref(), Some("did you mean 'tank'? list them"));
    }
}

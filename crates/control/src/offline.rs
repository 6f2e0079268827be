//! Storage of a server that is not running, for inspection: nothing is made, nothing is changed.
//!
//! The lock is held as a server holds it, so that no server can start meanwhile, and none that runs is
//! disturbed. What the control service knows (labels) is read from its replicas where they can be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::service::pool::PoolState;
use engine::service::system::SystemState;
pub use engine::target::open::RegionConfig;
use rt::disk::{Disk, DiskError, fs};
use types::{Code, ContainerId, Error, PoolId, TargetIndex};
use uuid::Uuid;

use crate::layout::{Layout, Phase, read_layout};
use crate::storage::io;

/// Storage held for looking at, until it is dropped.
pub struct Offline {
    directory: PathBuf,
    layout: Layout,
    /// The only target meant, when the path named one.
    only: Option<TargetIndex>,
    _lock: Disk,
}

/// Where a target keeps its data.
#[derive(Clone, Debug)]
pub struct OfflineTarget {
    pub index: TargetIndex,
    pub store: Uuid,
    pub log: RegionConfig,
    /// Pages; absent: they share `data`.
    pub metadata: Option<RegionConfig>,
    pub data: RegionConfig,
}

/// Labels, as far as the service's replicas can be read.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub system: Option<String>,
    pub pools: BTreeMap<PoolId, String>,
    pub containers: BTreeMap<ContainerId, String>,
    /// Replicas that could not be read, and why.
    pub faults: Vec<String>,
}

impl Offline {
    /// Takes the storage at `path`: its directory, or the directory of one of its targets.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Busy` when a process has it; `BadFormat` when the layout cannot be read.
    pub fn take(path: &Path) -> Result<Offline, Error> {
        let (directory, only) = locate(path)?;
        let lock = lock(&directory)?;
        let layout = read_layout(&directory.join("storage.json"))?;
        if layout.phase == Phase::Formatting {
            let text = format!("the storage at {} was never formatted to the end", directory.display());
            return Err(Error::new(Code::NotFound, text).remedy("start its server once; it holds no data yet"));
        }
        Ok(Offline { directory, layout, only, _lock: lock })
    }

    /// The targets meant; with `only`, that one.
    ///
    /// # Errors
    /// `NotFound` when there is no such target.
    pub fn targets(&self, only: Option<TargetIndex>) -> Result<Vec<OfflineTarget>, Error> {
        let count = self.layout.targets.len();
        let only = only.or(self.only);
        if let Some(index) = only.filter(|index| index.0 as usize >= count) {
            let text = format!("no target {index} at {}: it has {count}", self.directory.display());
            return Err(Error::new(Code::NotFound, text).remedy(format!("choose one from 0 to {}", count - 1)));
        }
        let all = self.layout.targets.iter().zip(0..).map(|(target, index)| OfflineTarget {
            index: TargetIndex(index),
            store: self.layout.store,
            log: target.log.config(&self.directory),
            metadata: target.metadata.as_ref().map(|region| region.config(&self.directory)),
            data: target.data.config(&self.directory),
        });
        Ok(all.filter(|target| only.is_none_or(|only| only == target.index)).collect())
    }

    /// Where the services' replicas lie.
    pub(crate) fn service_directory(&self) -> PathBuf {
        self.directory.join("service")
    }

    /// What the service calls its pools and containers.
    pub fn labels(&self) -> Labels {
        let mut labels = Labels::default();
        let service = self.service_directory();
        let system = match raft::look_at(&service.join("system"), SystemState::empty()) {
            Ok(system) => system,
            Err(fault) => {
                labels.faults.push(fault.to_string());
                return labels;
            }
        };
        labels.system = Some(system.name);
        for (id, row) in system.pools {
            labels.pools.insert(id, row.label);
            match raft::look_at(&service.join("pools").join(id.to_string()), PoolState::empty(id)) {
                Ok(pool) => labels
                    .containers
                    .extend(pool.containers.into_iter().filter_map(|(id, container)| Some((id, container.label?)))),
                Err(fault) => labels.faults.push(fault.to_string()),
            }
        }
        labels
    }
}

/// The storage directory that `path` means, and the target if it is one's.
fn locate(path: &Path) -> Result<(PathBuf, Option<TargetIndex>), Error> {
    let has_layout = |directory: &Path| fs::exists(directory.join("storage.json"));
    if has_layout(path) {
        return Ok((path.to_owned(), None));
    }
    let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("target-")?.parse().ok());
    // A relative `target-0` has the empty parent, which means here.
    let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    match (number, parent) {
        (Some(number), Some(parent)) if has_layout(parent) => Ok((parent.to_owned(), Some(TargetIndex(number)))),
        _ => Err(Error::new(Code::NotFound, format!("no storage at {}", path.display())).remedy(
            "name the directory that the server was started with (`--storage`, `--embedded`), or a target-<n> in it",
        )),
    }
}

fn lock(directory: &Path) -> Result<Disk, Error> {
    let lock = Disk::open_read_only(directory.join("lock")).map_err(io)?;
    match lock.try_lock_exclusive() {
        Ok(()) => Ok(lock),
        Err(DiskError::Locked { holder, .. }) => {
            let by = holder.map_or("another process".to_string(), |h| format!("process {} ({})", h.pid, h.command));
            Err(Error::new(Code::Busy, format!("the storage at {} is in use by {by}", directory.display()))
                .remedy("stop that process first: only storage at rest can be looked at"))
        }
        Err(other) => Err(io(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Storage};
    use crate::storage::Owned;

    /// In the simulator, whose files are nobody else's.
    fn on_a_node(life: impl FnOnce() + 'static) {
        let sim = rt::sim::Sim::new(rt::sim::SimConfig::seeded(1));
        let node = sim.node("server");
        sim.run(async move { rt::sim::current().spawn_on(node, async move { life() }).await.unwrap() });
    }

    #[test]
    fn storage_is_taken_by_its_directory_or_by_a_target_and_by_one_at_a_time() {
        on_a_node(|| {
            assert_eq!(Offline::take(Path::new("/none")).err().unwrap().code, Code::NotFound);
            let storage = Storage::Directory { path: "/daos".into(), bytes: Some(1 << 30) };
            let config = Config { targets: 2, storage, ..Config::default() };
            let owned = Owned::take(&config).unwrap();
            let busy = Offline::take(Path::new("/daos")).err().unwrap();
            assert_eq!(busy.code, Code::Busy);
            assert!(busy.remedy.unwrap().contains("stop"), "a server has it");
            owned.formatted().unwrap();
            drop(owned);
            let all = Offline::take(Path::new("/daos")).unwrap();
            assert_eq!(all.targets(None).unwrap().len(), 2);
            assert_eq!(all.targets(Some(TargetIndex(1))).unwrap()[0].index, TargetIndex(1));
            assert_eq!(all.targets(Some(TargetIndex(2))).err().unwrap().code, Code::NotFound);
            assert_eq!(all.labels().faults.len(), 1, "there is no service yet");
            assert_eq!(Owned::take(&config).err().unwrap().code, Code::Busy, "and no server starts meanwhile");
            drop(all);
            let one = Offline::take(Path::new("/daos/target-1")).unwrap();
            assert_eq!(one.targets(None).unwrap().len(), 1);
        });
    }
}

//! Queries: states and targets, told in messages.

use placement::{FaultPath, PoolMap, Server};
use types::{Code, ContainerProperty, Epoch, Error, PoolId, PoolProperty};
use wire::control as msg;
use wire::encoding::Bytes;

use super::pool::{Container, PoolState, all_properties};
use super::system::{Phase, unknown};
use super::{RANK, Service, uuid_bytes};
use crate::target::order::{Order, PoolSpace, Storage};

impl Service {
    pub(super) fn system_info(&self) -> msg::SystemInfo {
        let system = self.system.borrow();
        msg::SystemInfo {
            name: system.state().name.clone(),
            release: self.config.release.clone(),
            members: vec![msg::Member {
                rank: RANK,
                uuid: uuid_bytes(system.state().id),
                address: self.config.address.clone(),
                fault_domain: self.config.fault_domain.clone(),
                state: msg::MemberState::Joined,
                targets: self.targets.len() as u32,
            }],
        }
    }

    pub(super) async fn storage_info(&self) -> Result<msg::StorageInfo, Error> {
        let mut devices = Vec::with_capacity(self.targets.len());
        for (target, (path, kind)) in self.targets.iter().zip(&self.config.devices) {
            let storage = match target.query(|done| Order::Storage { done }).await {
                Ok(storage) => storage,
                // Nothing is known of it but this, which is what the operator asks for.
                Err(stuck) => Storage { failure: Some(stuck.message), ..Storage::default() },
            };
            devices.push(msg::DeviceInfo {
                rank: RANK,
                target: target.index,
                path: path.clone(),
                kind: kind.clone(),
                total: storage.capacity,
                reserved: storage.reserved,
                used: storage.used,
                log_bytes: storage.log_bytes,
                failure: storage.failure,
                scrubs: storage.scrub.passes,
                scrubbed_values: storage.scrub.values,
                scrubbed_pages: storage.scrub.pages,
                damaged: storage.scrub.damaged,
                mended: storage.scrub.mended,
                damage: storage.scrub.places,
                data_bytes: storage.resize.bytes,
                wanted_bytes: storage.resize.wanted,
                moved_bytes: storage.resize.moved,
                held_bytes: storage.resize.held,
                resize_trouble: storage.resize.trouble,
            });
        }
        Ok(msg::StorageInfo { devices })
    }

    pub(super) async fn pool_list(&self) -> Result<msg::PoolList, Error> {
        let ready: Vec<PoolId> = {
            let system = self.system.borrow();
            system.state().pools.iter().filter(|(_, row)| row.phase == Phase::Ready).map(|(id, _)| *id).collect()
        };
        let mut pools = Vec::with_capacity(ready.len());
        for id in ready {
            match self.pool_info(id).await {
                Ok(info) => pools.push(info),
                // Destroyed while the others were asked.
                Err(e) if e.code == Code::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        pools.sort_by(|a, b| a.label.cmp(&b.label));
        Ok(msg::PoolList { pools })
    }

    pub(super) async fn pool_info(&self, id: PoolId) -> Result<msg::PoolInfo, Error> {
        let mut shares: Vec<PoolSpace> = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            shares.push(match target.query(|done| Order::PoolSpace { id, done }).await {
                Err(stuck) if stuck.code == Code::TimedOut => PoolSpace { is_failed: true, ..PoolSpace::default() },
                answer => answer?,
            });
        }
        let sum = |field: fn(&PoolSpace) -> u64| shares.iter().map(field).sum::<u64>();
        let free = |s: &PoolSpace| s.quota.saturating_sub(s.metadata + s.data);
        let (metadata, data) = (sum(|s| s.metadata), sum(|s| s.data));
        self.with_pool(id, |pool| {
            let ready = pool.containers.values().filter(|c| c.phase == Phase::Ready).count();
            Ok(msg::PoolInfo {
                id,
                label: pool.label.clone(),
                map_version: pool.map_version,
                targets: pool.targets,
                disabled_targets: shares.iter().filter(|s| s.is_failed).count() as u32,
                containers: ready as u32,
                space: msg::Space { total: sum(|s| s.quota), used: metadata + data, metadata, data },
                free_min: shares.iter().map(free).min().unwrap_or(0),
                free_max: shares.iter().map(free).max().unwrap_or(0),
            })
        })
    }

    pub(super) fn pool_properties(&self, name: &str) -> Result<msg::Properties, Error> {
        self.with_pool(self.find_pool(name)?, |pool| {
            let mut values = all_properties(PoolProperty::TABLE, &pool.properties);
            set(&mut values, "label", &pool.label);
            Ok(msg::Properties { values })
        })
    }

    pub(super) fn pool_map(&self, name: &str) -> Result<msg::PoolMap, Error> {
        self.with_pool(self.find_pool(name)?, |pool| {
            let map = self.placement_map()?;
            Ok(object::map::to_message(pool.id, &pool.label, &map, |_| self.config.address.clone()))
        })
    }

    /// What changed in a pool's map since the version that somebody has.
    pub(super) fn pool_map_since(&self, name: &str, version: u32) -> Result<msg::PoolMapNews, Error> {
        let delta = self.placement_map()?.delta_since(version);
        match delta.map(|delta| object::map::delta_to_message(&delta, |_| self.config.address.clone())) {
            Some(delta) => self.find_pool(name).map(|_| msg::PoolMapNews::Delta { delta }),
            None => Ok(msg::PoolMapNews::Whole { map: self.pool_map(name)? }),
        }
    }

    /// All targets of this server, in service: there is no other one yet, and nothing happens to them.
    fn placement_map(&self) -> Result<PoolMap, Error> {
        let targets = self.targets.len() as u32;
        let server = Server { rank: RANK, path: FaultPath::of_rank(RANK), targets, weight: 1 };
        PoolMap::create(vec![server])
            .map_err(|error| Error::new(Code::Invalid, error.to_string()).remedy("give the server targets"))
    }

    pub(super) fn container_list(&self, pool: &str) -> Result<msg::ContainerList, Error> {
        self.with_pool(self.find_pool(pool)?, |pool| {
            let ready = pool.containers.iter().filter(|(_, c)| c.phase == Phase::Ready);
            let mut containers: Vec<_> = ready.map(|(id, c)| container_info(pool, *id, c)).collect();
            containers.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
            Ok(msg::ContainerList { containers })
        })
    }
}

pub(super) fn container_info(pool: &PoolState, id: types::ContainerId, container: &Container) -> msg::ContainerInfo {
    msg::ContainerInfo {
        pool: pool.id,
        id,
        label: container.label.clone().unwrap_or_default(),
        layout: container.layout(),
        created: container.created,
        snapshots: container.snapshots.len() as u32,
        latest_snapshot: container.snapshots.keys().next_back().copied().unwrap_or(Epoch::ZERO),
        properties: container_properties(container),
    }
}

pub(super) fn container_properties(container: &Container) -> Vec<(String, String)> {
    let mut values = all_properties(ContainerProperty::TABLE, &container.properties);
    set(&mut values, "label", container.label.as_deref().unwrap_or_default());
    set(&mut values, "layout_type", &container.layout);
    values
}

/// The attributes named, or all when none is.
pub(super) fn attributes(container: &Container, names: &[String]) -> Result<msg::Attributes, Error> {
    let pair = |(name, value): (&String, &super::pool::Hex)| (name.clone(), Bytes(value.0.clone()));
    if names.is_empty() {
        return Ok(msg::Attributes { attributes: container.attributes.iter().map(pair).collect() });
    }
    let wanted = names.iter().map(|name| {
        container.attributes.get_key_value(name).map(pair).ok_or_else(|| {
            let nearest = types::nearest(name, container.attributes.keys().map(String::as_str));
            unknown("attribute", name, nearest, "list attributes with `daos container list-attrs`")
        })
    });
    Ok(msg::Attributes { attributes: wanted.collect::<Result<_, _>>()? })
}

pub(super) fn snapshots(container: &Container) -> msg::SnapshotList {
    let info = |(epoch, name): (&Epoch, &String)| msg::SnapshotInfo { epoch: *epoch, name: name.clone() };
    msg::SnapshotList { snapshots: container.snapshots.iter().map(info).collect() }
}

/// Shows in a list of properties what the state holds elsewhere.
fn set(values: &mut [(String, String)], name: &str, value: &str) {
    if let Some(pair) = values.iter_mut().find(|(known, _)| known == name) {
        pair.1 = value.to_string();
    }
}

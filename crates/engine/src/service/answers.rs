//! Queries: states and targets, told in messages. What lies on other servers is gathered from them, within a time limit.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{self, join_all};
use futures_util::stream::{self, StreamExt};
use types::{Code, ContainerProperty, Epoch, Error, PoolId, PoolProperty, Rank, TargetIndex};
use wire::control as msg;
use wire::peer::{ServerSpace, ServerSpaceQuery, ServerStorage};
use wire::{Opcode, Wire};

use super::Service;
use super::pool::{Container, PoolState, all_properties};
use super::slot::Slot;
use super::system::{Phase, SystemState, unknown};
use crate::target::order::{Order, PoolSpace, Storage};

/// How long a server may take to say what lies on it; a target of its own takes less.
const GATHER_MAX: Duration = Duration::from_secs(6);
/// How long a list waits for one pool, and how many are asked at once.
const LISTED_MAX: Duration = Duration::from_secs(2);
const LISTED_AT_ONCE: usize = 128;

impl Service {
    pub(super) async fn server_storage(&self) -> ServerStorage {
        let mut devices = Vec::with_capacity(self.targets.len());
        for (target, (path, kind)) in self.targets.iter().zip(&self.config.devices) {
            let storage = match target.query(|done| Order::Storage { done }).await {
                Ok(storage) => storage,
                // Nothing is known of it but this, which is what the operator asks for.
                Err(stuck) => Storage { failure: Some(stuck.message), ..Storage::default() },
            };
            devices.push(device(self.rank, target.index, path, kind, storage));
        }
        ServerStorage { devices }
    }

    /// Devices of some servers; of those that do not answer, why.
    pub(super) async fn all_storage(&self, ranks: &[Rank]) -> Vec<(Rank, Result<Vec<msg::DeviceInfo>, Error>)> {
        let asked = ranks.iter().map(async |&rank| {
            if rank == self.rank {
                return (rank, Ok(self.server_storage().await.devices));
            }
            let answer = self.ask_server(rank, Opcode::ServerStorage, &()).await;
            (rank, answer.and_then(|storage: ServerStorage| its_own(rank, storage.devices)))
        });
        join_all(asked).await
    }

    pub(super) async fn ask_server<R: Wire>(
        &self,
        rank: Rank,
        opcode: Opcode,
        message: &impl Wire,
    ) -> Result<R, Error> {
        let body = self.peers.ask(rank, opcode, message.to_bytes(), GATHER_MAX).await.map_err(Error::from)?;
        crate::target::parse(&body)
    }

    pub(super) async fn storage_info(&self) -> Result<msg::StorageInfo, Error> {
        let ranks: Vec<Rank> = self.system.group.local(|system| system.members.keys().copied().collect());
        let mut devices = Vec::new();
        for (rank, answer) in self.all_storage(&ranks).await {
            match answer {
                Ok(found) => devices.extend(found),
                Err(error) => {
                    let failure = Some(format!("rank {rank} does not answer: {}", error.message));
                    let storage = Storage { failure, ..Storage::default() };
                    devices.push(device(rank, TargetIndex(0), "", &msg::DeviceKind::File, storage));
                }
            }
        }
        Ok(msg::StorageInfo { devices })
    }

    pub(super) async fn pool_list(self: &Rc<Self>, until: rt::Instant) -> Result<msg::PoolList, Error> {
        let ready: Vec<PoolId> = self.system.group.local(|system| {
            system.pools.iter().filter(|(_, row)| row.phase == Phase::Ready).map(|(id, _)| *id).collect()
        });
        // One that nobody leads must not hide the others, nor have them waited for.
        let asked = stream::iter(ready).map(async |id| {
            let known = || self.system.group.local(|system| unreachable(system, id));
            // So many did not answer that the list would come too late.
            if rt::now() >= until {
                return known();
            }
            match self.ask_pool(id, Opcode::PoolQuery, until.min(rt::now() + LISTED_MAX)).await {
                Ok(info) => Some(info),
                // Destroyed while the others were asked.
                Err(error) if error.code == Code::NotFound => None,
                Err(error) => {
                    tracing::debug!(pool = %id, %error, "it is listed by what the system knows");
                    known()
                }
            }
        });
        let mut pools: Vec<msg::PoolInfo> =
            asked.buffer_unordered(LISTED_AT_ONCE).filter_map(future::ready).collect().await;
        pools.sort_by(|a, b| a.label.cmp(&b.label));
        Ok(msg::PoolList { pools })
    }

    /// What a pool uses of the targets here, and which of them take no changes.
    pub(super) async fn server_space(&self, id: PoolId) -> Result<ServerSpace, Error> {
        let mut targets = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let share = match target.query(|done| Order::PoolSpace { id, done }).await {
                Err(stuck) if stuck.code == Code::TimedOut => PoolSpace { is_failed: true, ..PoolSpace::default() },
                answer => answer?,
            };
            let PoolSpace { quota, metadata, data, is_failed } = share;
            targets.push((msg::Space { total: quota, used: metadata + data, metadata, data }, is_failed));
        }
        Ok(ServerSpace { targets })
    }

    /// What a pool uses of all its targets, by server.
    pub(super) async fn all_spaces(
        &self,
        id: PoolId,
        slot: &Slot<PoolState>,
    ) -> Vec<(Rank, Result<Vec<(msg::Space, bool)>, Error>)> {
        let ranks: Vec<Rank> = slot.group.local(|pool| {
            pool.servers().iter().map(|server| server.rank).filter(|rank| pool.has_part(*rank)).collect()
        });
        let is_up = |rank| self.system.group.local(|system| system.is_joined(rank));
        let asked = ranks.into_iter().map(async |rank| {
            let answer = match rank {
                me if me == self.rank => self.server_space(id).await,
                gone if !is_up(gone) => Err(Error::new(Code::Unreachable, format!("rank {gone} is excluded"))),
                other => self.ask_server(other, Opcode::ServerSpace, &ServerSpaceQuery { pool: id }).await,
            };
            (rank, answer.map(|space| space.targets))
        });
        join_all(asked).await
    }

    pub(super) async fn pool_info(&self, id: PoolId, slot: &Slot<PoolState>) -> Result<msg::PoolInfo, Error> {
        let mut shares = Vec::new();
        // Targets that the map says are out, or not in yet, that failed, or whose servers do not answer.
        let mut disabled: BTreeSet<(Rank, u32)> = slot.group.local(|pool| {
            let targets = pool.map().map_or(&[][..], placement::PoolMap::targets).iter();
            targets.filter(|target| !target.state().serves()).map(|target| (target.rank, target.index.0)).collect()
        });
        let (mut ranks, mut silent_ranks) = (Vec::new(), Vec::new());
        let targets_of = |rank| {
            let servers = |pool: &PoolState| pool.servers().iter().find(|s| s.rank == rank).map_or(0, |s| s.targets);
            slot.group.local(servers)
        };
        for (rank, answer) in self.all_spaces(id, slot).await {
            ranks.push(rank);
            match answer {
                Ok(spaces) => {
                    let failed = spaces.iter().zip(0..).filter(|((_, is_failed), _)| *is_failed);
                    disabled.extend(failed.map(|(_, index)| (rank, index)));
                    shares.extend(spaces.into_iter().map(|(space, _)| space));
                }
                // Here it is an answer, from elsewhere there is none.
                Err(error) if rank == self.rank => return Err(error),
                Err(error) => {
                    tracing::debug!(%rank, %error, "it does not say what a pool uses");
                    disabled.extend((0..targets_of(rank)).map(|index| (rank, index)));
                    silent_ranks.push(rank);
                }
            }
        }
        let sum = |field: fn(&msg::Space) -> u64| shares.iter().map(field).sum::<u64>();
        let free = |space: &msg::Space| space.total.saturating_sub(space.used);
        let (metadata, data) = (sum(|s| s.metadata), sum(|s| s.data));
        let state = slot.group.local(Clone::clone);
        let reports = slot.reports.borrow().clone();
        let rebuild = self.rebuild(&state, reports).await;
        let (leader, voters) = (slot.group.standing().leader, slot.group.voters());
        Ok(slot.group.local(|pool| {
            let ready = pool.containers.values().filter(|c| c.phase == Phase::Ready).count();
            msg::PoolInfo {
                id,
                label: pool.label.clone(),
                map_version: pool.map().map_or(0, placement::PoolMap::version),
                targets: pool.targets(),
                disabled_targets: disabled.len() as u32,
                ranks,
                silent_ranks,
                containers: ready as u32,
                space: msg::Space { total: sum(|s| s.total), used: metadata + data, metadata, data },
                free_min: shares.iter().map(free).min().unwrap_or(0),
                free_max: shares.iter().map(free).max().unwrap_or(0),
                leader: leader.map(|leader| leader.rank),
                voters: voters.into_iter().collect(),
                rebuild,
            }
        }))
    }

    pub(super) fn pool_properties(&self, slot: &Slot<PoolState>) -> msg::Properties {
        slot.group.local(|pool| {
            let mut values = all_properties(PoolProperty::TABLE, &pool.properties);
            set(&mut values, "label", &pool.label);
            msg::Properties { values }
        })
    }

    pub(super) fn pool_map(&self, slot: &Slot<PoolState>) -> Result<msg::PoolMap, Error> {
        slot.group.local(|pool| {
            let map = pool.map().ok_or_else(|| Error::new(Code::Again, "the pool is being made"))?;
            Ok(object::map::to_message(pool.id, &pool.label, map, |rank| self.where_is(rank)))
        })
    }

    /// What changed in a pool's map since the version that somebody has.
    pub(super) fn pool_map_since(&self, slot: &Slot<PoolState>, version: u32) -> Result<msg::PoolMapNews, Error> {
        let delta = slot.group.local(|pool| pool.map().and_then(|map| map.delta_since(version)));
        // A delta tells of no new addresses: whoever has the newest map and cannot use it gets all of it.
        match delta.filter(|delta| delta.to > delta.from) {
            Some(delta) => {
                let delta = object::map::delta_to_message(&delta, |rank| self.where_is(rank));
                Ok(msg::PoolMapNews::Delta { delta })
            }
            None => Ok(msg::PoolMapNews::Whole { map: self.pool_map(slot)? }),
        }
    }

    fn where_is(&self, rank: Rank) -> String {
        self.peers.address(rank).unwrap_or_default()
    }
}

/// What a rank says of its devices, unless another answers at its address by now.
///
/// # Errors
/// `Unreachable`.
fn its_own(rank: Rank, devices: Vec<msg::DeviceInfo>) -> Result<Vec<msg::DeviceInfo>, Error> {
    match devices.iter().find(|device| device.rank != rank) {
        Some(other) => Err(Error::new(Code::Unreachable, format!("rank {} is at its address", other.rank))),
        None => Ok(devices),
    }
}

/// What the system knows of a pool whose service does not answer; `None`: it is no more.
fn unreachable(system: &SystemState, id: PoolId) -> Option<msg::PoolInfo> {
    let row = system.pools.get(&id)?;
    let targets = |ranks: &[Rank]| ranks.iter().filter_map(|rank| system.members.get(rank)).map(|m| m.targets).sum();
    let silent: Vec<Rank> = row.servers.iter().copied().filter(|rank| !system.is_joined(*rank)).collect();
    let count: u32 = targets(&row.servers);
    Some(msg::PoolInfo {
        id,
        label: row.label.clone(),
        map_version: 0,
        targets: count,
        disabled_targets: targets(&silent),
        ranks: row.servers.clone(),
        silent_ranks: silent,
        containers: 0,
        space: msg::Space { total: row.bytes_per_target * u64::from(count), used: 0, metadata: 0, data: 0 },
        free_min: 0,
        free_max: 0,
        leader: None,
        voters: Vec::new(),
        rebuild: msg::Rebuild {
            state: msg::RebuildState::Idle,
            groups: 0,
            left: 0,
            records: 0,
            bytes: 0,
            same: 0,
            anew: 0,
            seconds_left: None,
            awaited: Vec::new(),
        },
    })
}

fn device(rank: Rank, target: TargetIndex, path: &str, kind: &msg::DeviceKind, storage: Storage) -> msg::DeviceInfo {
    msg::DeviceInfo {
        rank,
        target,
        path: path.to_string(),
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
    }
}

pub(super) fn container_list(slot: &Slot<PoolState>) -> msg::ContainerList {
    slot.group.local(|pool| {
        let ready = pool.containers.iter().filter(|(_, c)| c.phase == Phase::Ready);
        let mut containers: Vec<_> = ready.map(|(id, c)| container_info(pool, *id, c)).collect();
        containers.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
        msg::ContainerList { containers }
    })
}

pub(super) fn container_info(pool: &PoolState, id: types::ContainerId, container: &Container) -> msg::ContainerInfo {
    msg::ContainerInfo {
        pool: pool.id,
        id,
        label: container.label.clone().unwrap_or_default(),
        layout: container.layout,
        created: container.created,
        snapshots: container.snapshots.len() as u32,
        latest_snapshot: container.snapshots.keys().next_back().copied().unwrap_or(Epoch::ZERO),
        properties: container_properties(container),
    }
}

pub(super) fn container_properties(container: &Container) -> Vec<(String, String)> {
    let mut values = all_properties(ContainerProperty::TABLE, &container.properties);
    set(&mut values, "label", container.label.as_deref().unwrap_or_default());
    set(&mut values, "layout_type", container.layout.name());
    values
}

/// The attributes named, or all when none is.
pub(super) fn attributes(container: &Container, names: &[String]) -> Result<msg::Attributes, Error> {
    if names.is_empty() {
        return Ok(msg::Attributes { attributes: container.attributes.clone().into_iter().collect() });
    }
    let wanted = names.iter().map(|name| {
        let found = container.attributes.get_key_value(name).map(|(name, value)| (name.clone(), value.clone()));
        found.ok_or_else(|| {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A new server was started at the address of one that was lost: its devices were shown twice, those of the lost one never.
    #[test]
    fn who_answers_at_the_address_of_another_does_not_speak_for_it() {
        let devices = |rank| vec![device(Rank(rank), TargetIndex(0), "", &msg::DeviceKind::File, Storage::default())];
        assert_eq!(its_own(Rank(4), devices(4)), Ok(devices(4)));
        let refused = its_own(Rank(3), devices(4)).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (Code::Unreachable, "rank 4 is at its address"));
    }
}

//! The control service: the system, its pools and its containers.
//!
//! # Shape
//! State is in [`replica::Replica`]s: one for the system ([`system`]), one a pool ([`pool`]). What
//! must also happen on the targets is done by [`reconcile`]: the state first says what is wanted
//! (`Creating`, `Destroying`), the targets are told, then the state says it is done. A restart
//! finds what is half done and finishes it.
//!
//! # Always true
//! 1. One change at a time; queries read the last complete state.
//! 2. Orders to targets are idempotent, and repeated at every start.
//!
//! # Not here
//! Several servers: membership and consensus come behind [`replica`]. Access control.

mod answers;
pub mod pool;
mod reconcile;
pub mod replica;
mod resize;
pub mod system;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use net::{Handler, Reply, Request};
use rt::Hlc;
use rt::disk::fs;
use types::{ByteSize, Code, ContainerId, Epoch, Error, Label, PoolId, Rank};
use uuid::Uuid;
use wire::control as msg;
use wire::opcode::Repeat;
use wire::{Opcode, Wire};

use crate::hold::HorizonHold;
use crate::sessions::Sessions;
use crate::target::order::{Order, TargetHandle};
use crate::target::parse;
use pool::{Container, PoolCommand, PoolState};
use replica::Replica;
use system::{Phase, SystemCommand, SystemState};

/// Smallest share of a pool on one target: room for its trees and a checkpoint's copies of them.
const POOL_BYTES_PER_TARGET_MIN: u64 = 16 << 20;
/// Most object ids handed out at once.
const OBJECT_IDS_MAX: u64 = 1 << 32;

/// Where the service keeps its documents, and how it describes its server.
pub struct ServiceConfig {
    pub directory: PathBuf,
    pub system_name: String,
    pub release: String,
    /// Where clients reach this server.
    pub address: String,
    pub fault_domain: String,
    /// Where each target keeps its data, by target.
    pub devices: Vec<(String, msg::DeviceKind)>,
    pub layout: Rc<dyn Layout>,
}

/// Which parts of which files and devices are whose: the program's that hosts the engine.
pub trait Layout {
    /// The size of each target's data region, by target, when all of them have `bytes` together; absent: what the
    /// devices have now.
    ///
    /// # Errors
    /// `Invalid`, `NoSpace`: with what stands in the way.
    fn plan(&self, bytes: Option<u64>) -> Result<Vec<u64>, Error>;

    /// Makes durable what each target's data region is to have: after a restart the targets go on from there.
    ///
    /// # Errors
    /// `Io`: what was wanted before is wanted still.
    fn keep(&self, wanted: &[u64]) -> Result<(), Error>;
}

/// The control service of a server that is a system by itself.
pub struct Service {
    config: ServiceConfig,
    targets: Vec<TargetHandle>,
    hlc: Hlc,
    hold: HorizonHold,
    sessions: Sessions,
    system: RefCell<Replica<SystemState>>,
    pools: RefCell<BTreeMap<PoolId, Replica<PoolState>>>,
    /// Held by the one change under way.
    changes: tokio::sync::Mutex<()>,
}

impl Service {
    /// Opens or creates the service's documents, then finishes what a stop left half done.
    ///
    /// # Errors
    /// `Io` and `BadFormat` from the documents; a target's, from finishing.
    pub async fn start(
        config: ServiceConfig,
        targets: Vec<TargetHandle>,
        hlc: Hlc,
        hold: HorizonHold,
    ) -> Result<Rc<Service>, Error> {
        let io = |e: rt::disk::DiskError| Error::new(Code::Io, e.to_string());
        fs::create_dir_all(&config.directory).map_err(io)?;
        let path = config.directory.join("system.json");
        let system = if fs::exists(&path) {
            Replica::<SystemState>::open(path)?
        } else {
            let state = SystemState { name: config.system_name.clone(), id: rt::random_uuid(), pools: BTreeMap::new() };
            Replica::create(path, state)?
        };
        let mut pools = BTreeMap::new();
        for (&id, row) in &system.state().pools {
            let path = pool_path(&config, id);
            // A pool that is being made or removed may have no document yet or any more.
            if row.phase == Phase::Ready || fs::exists(&path) {
                pools.insert(id, Replica::open(path)?);
            }
        }
        let service = Rc::new(Service {
            config,
            targets,
            hlc,
            hold,
            sessions: Sessions::default(),
            system: RefCell::new(system),
            pools: RefCell::new(pools),
            changes: tokio::sync::Mutex::new(()),
        });
        service.reconcile_all().await?;
        Ok(service)
    }

    /// The name of the system, as its document has it.
    pub fn system_name(&self) -> String {
        self.system.borrow().state().name.clone()
    }

    async fn answer(&self, opcode: Opcode, body: &[u8]) -> Result<Vec<u8>, Error> {
        match opcode {
            Opcode::SystemQuery => Ok(self.system_info().to_bytes()),
            Opcode::StorageQuery => Ok(self.storage_info().await?.to_bytes()),
            Opcode::StorageResize => Ok(self.storage_resize(parse(body)?).await?.to_bytes()),
            Opcode::PoolResize => Ok(self.pool_resize(parse(body)?).await?.to_bytes()),
            Opcode::PoolCreate => Ok(self.pool_create(parse(body)?).await?.to_bytes()),
            Opcode::PoolList => Ok(self.pool_list().await?.to_bytes()),
            Opcode::PoolQuery => {
                Ok(self.pool_info(self.find_pool(&parse::<msg::PoolName>(body)?.pool)?).await?.to_bytes())
            }
            Opcode::PoolDestroy => Ok(self.pool_destroy(parse(body)?).await?.to_bytes()),
            Opcode::PoolGetProperties => Ok(self.pool_properties(&parse::<msg::PoolName>(body)?.pool)?.to_bytes()),
            Opcode::PoolSetProperties => Ok(self.pool_set_properties(parse(body)?).await?.to_bytes()),
            Opcode::PoolConnect => Ok(self.pool_map(&parse::<msg::PoolName>(body)?.pool)?.to_bytes()),
            Opcode::PoolMapSince => {
                let known = parse::<msg::PoolMapSince>(body)?;
                Ok(self.pool_map_since(&known.pool, known.version)?.to_bytes())
            }
            Opcode::ContainerCreate => Ok(self.container_create(parse(body)?).await?.to_bytes()),
            Opcode::ContainerList => Ok(self.container_list(&parse::<msg::PoolName>(body)?.pool)?.to_bytes()),
            Opcode::ContainerQuery => self.with_container(
                body,
                |name: msg::ContainerName| (name.pool, name.container),
                |pool, id, _| Ok(answers::container_info(pool, id, pool.container(id)?).to_bytes()),
            ),
            Opcode::ContainerDestroy => Ok(self.container_destroy(parse(body)?).await?.to_bytes()),
            Opcode::ContainerGetProperties => self.with_container(
                body,
                |name: msg::ContainerName| (name.pool, name.container),
                |pool, id, _| {
                    Ok(msg::Properties { values: answers::container_properties(pool.container(id)?) }.to_bytes())
                },
            ),
            Opcode::ContainerListAttributes => self.with_container(
                body,
                |name: msg::ContainerName| (name.pool, name.container),
                |pool, id, _| {
                    let names = pool.container(id)?.attributes.keys().map(|name| (name.clone(), Default::default()));
                    Ok(msg::Attributes { attributes: names.collect() }.to_bytes())
                },
            ),
            Opcode::ContainerGetAttributes => {
                let wanted: msg::AttributeNames = parse(body)?;
                let names = wanted.names.clone();
                self.with_container(
                    body,
                    |_: msg::AttributeNames| (wanted.pool, wanted.container),
                    |pool, id, _| Ok(answers::attributes(pool.container(id)?, &names)?.to_bytes()),
                )
            }
            Opcode::SnapshotList => self.with_container(
                body,
                |name: msg::ContainerName| (name.pool, name.container),
                |pool, id, _| Ok(answers::snapshots(pool.container(id)?).to_bytes()),
            ),
            Opcode::ContainerSetProperties => self.container_set_properties(parse(body)?).await.map(|()| ().to_bytes()),
            Opcode::ContainerSetAttributes => {
                let change: msg::SetAttributes = parse(body)?;
                let attributes = change.attributes.into_iter().map(|(name, value)| (name, value.0)).collect();
                self.change_container(&change.pool, &change.container, |id, _| {
                    Ok(PoolCommand::SetAttributes { id, attributes })
                })
                .await
                .map(|_| ().to_bytes())
            }
            Opcode::ContainerDeleteAttributes => {
                let change: msg::AttributeNames = parse(body)?;
                self.change_container(&change.pool, &change.container, |id, _| {
                    Ok(PoolCommand::DeleteAttributes { id, names: change.names })
                })
                .await
                .map(|_| ().to_bytes())
            }
            Opcode::SnapshotCreate => Ok(self.snapshot_create(parse(body)?).await?.to_bytes()),
            Opcode::ContainerRollback => Ok(self.container_rollback(parse(body)?).await?.to_bytes()),
            Opcode::SnapshotDestroy => Ok(self.snapshot_destroy(parse(body)?).await?.to_bytes()),
            Opcode::AllocateObjectIds => {
                let wanted: msg::AllocateObjectIds = parse(body)?;
                if wanted.count == 0 || wanted.count > OBJECT_IDS_MAX {
                    let text = format!("{} object ids at once; ask for 1 to {OBJECT_IDS_MAX}", wanted.count);
                    return Err(Error::new(Code::Invalid, text));
                }
                let count = wanted.count;
                let first = self
                    .change_container(&wanted.pool, &wanted.container, |id, _| {
                        Ok(PoolCommand::AllocateObjectIds { id, count })
                    })
                    .await?;
                Ok(msg::ObjectIdRange { first, count }.to_bytes())
            }
            Opcode::Echo => Ok(body.to_vec()),
            _ => Err(Error::new(
                Code::Protocol,
                format!("{} is a request for a target, not for the control service", opcode.name()),
            )),
        }
    }

    // ---- pools ----

    async fn pool_create(&self, request: msg::PoolCreate) -> Result<msg::PoolInfo, Error> {
        let label = parse_label(&request.label)?;
        for (name, value) in &request.properties {
            pool::checked(types::PoolProperty::TABLE, name, value, true)?;
        }
        let _change = self.changes.lock().await;
        // Who repeats a command that made the pool should hear that, and not of the space it took.
        self.system.borrow().state().check_label(&label, None)?;
        let bytes_per_target = self.pool_share(label.as_str(), request.bytes, 0).await?;
        let id = PoolId(rt::random_uuid());
        self.propose_system(SystemCommand::CreatePool { id, label: label.clone(), bytes_per_target })?;
        let state = PoolState {
            id,
            label: label.to_string(),
            map_version: 1,
            targets: self.targets.len() as u32,
            bytes_per_target,
            properties: request.properties.into_iter().collect(),
            containers: BTreeMap::new(),
        };
        let made = match Replica::create(pool_path(&self.config, id), state) {
            Ok(replica) => {
                self.pools.borrow_mut().insert(id, replica);
                self.finish_creating_pool(id).await
            }
            Err(e) => Err(e),
        };
        if let Err(error) = made {
            // Half a pool helps nobody: take it away again; a failure of that is mended at the
            // next start, where the row still says so.
            self.propose_system(SystemCommand::DestroyPool { id })?;
            self.finish_destroying_pool(id).await?;
            return Err(error);
        }
        self.pool_info(id).await
    }

    /// How much of `bytes` each target gives, if there is room for it. The pool has `present` there already.
    async fn pool_share(&self, label: &str, bytes: u64, present: u64) -> Result<u64, Error> {
        let targets = self.targets.len() as u64;
        let share = bytes / targets;
        if share < POOL_BYTES_PER_TARGET_MIN {
            let least = ByteSize(POOL_BYTES_PER_TARGET_MIN * targets);
            let text = format!("pool '{label}' of {} is too small for {targets} targets", ByteSize(bytes));
            return Err(Error::new(Code::Invalid, text).remedy(format!("give it at least {least}")));
        }
        let mut room = u64::MAX;
        for target in &self.targets {
            let storage = target.ask(|done| Order::Storage { done }).await?;
            room = room.min(storage.capacity.saturating_sub(storage.reserved.saturating_sub(present)));
        }
        if share > room {
            let text =
                format!("pool '{label}' of {} does not fit: {} are free", ByteSize(bytes), ByteSize(room * targets));
            return Err(Error::new(Code::NoSpace, text)
                .remedy("ask for less, destroy a pool, or give the server more storage (`dmg storage query`)"));
        }
        Ok(share)
    }

    async fn pool_destroy(&self, request: msg::PoolDestroy) -> Result<(), Error> {
        let _change = self.changes.lock().await;
        let id = self.find_pool(&request.pool)?;
        let containers = self.with_pool(id, |pool| Ok(pool.containers.len()))?;
        if containers > 0 && !request.recursive {
            let text = format!("pool '{}' holds {containers} containers", request.pool);
            return Err(Error::new(Code::Busy, text).remedy("destroy them first, or use --recursive"));
        }
        self.propose_system(SystemCommand::DestroyPool { id })?;
        self.finish_destroying_pool(id).await
    }

    async fn pool_set_properties(&self, request: msg::PoolSetProperties) -> Result<(), Error> {
        let _change = self.changes.lock().await;
        let id = self.find_pool(&request.pool)?;
        for (name, value) in &request.properties {
            let property = pool::checked(types::PoolProperty::TABLE, name, value, false)?;
            if property.name == "label" {
                self.propose_system(SystemCommand::RelabelPool { id, label: parse_label(value)? })?;
            }
        }
        let before = self.with_pool(id, |state| Ok(state.share()))?;
        self.propose_pool(id, PoolCommand::SetProperties { values: request.properties })?;
        match self.with_pool(id, |state| Ok(state.share()))? {
            same if same == before => Ok(()),
            _ => self.order_pool(id).await,
        }
    }

    // ---- containers ----

    async fn container_create(&self, request: msg::ContainerCreate) -> Result<msg::ContainerInfo, Error> {
        let label = match request.label.as_str() {
            "" => None,
            text => Some(parse_label(text)?),
        };
        let _change = self.changes.lock().await;
        let pool = self.find_pool(&request.pool)?;
        let id = ContainerId(rt::random_uuid());
        let command = PoolCommand::CreateContainer {
            id,
            label,
            layout: request.layout,
            created: self.hlc.now(),
            properties: request.properties,
            attributes: request.attributes.into_iter().map(|(name, value)| (name, value.0)).collect(),
        };
        self.propose_pool(pool, command)?;
        if let Err(error) = self.finish_creating_container(pool, id).await {
            self.propose_pool(pool, PoolCommand::DestroyContainer { id })?;
            self.finish_destroying_container(pool, id).await?;
            return Err(error);
        }
        self.with_pool(pool, |state| Ok(answers::container_info(state, id, state.container(id)?)))
    }

    async fn container_destroy(&self, request: msg::ContainerDestroy) -> Result<(), Error> {
        let _change = self.changes.lock().await;
        let pool = self.find_pool(&request.pool)?;
        let id = self.with_pool(pool, |state| state.find(&request.container))?;
        self.propose_pool(pool, PoolCommand::DestroyContainer { id })?;
        self.finish_destroying_container(pool, id).await
    }

    /// Keeps a container as it is now (K17).
    ///
    /// The hold comes before the epoch is chosen: from then on no target gives up what this epoch
    /// can see, though it does not know of the snapshot yet.
    async fn snapshot_create(&self, request: msg::SnapshotCreate) -> Result<msg::SnapshotInfo, Error> {
        let _change = self.changes.lock().await;
        let pool = self.find_pool(&request.pool)?;
        let id = self.with_pool(pool, |state| state.find(&request.container))?;
        let _hold = self.hold.take();
        let epoch = self.hlc.now();
        self.propose_pool(pool, PoolCommand::CreateSnapshot { id, epoch, name: request.name.clone() })?;
        if let Err(error) = self.tell_kept(pool, id).await {
            // A snapshot that some target may not keep is none. The hold lasts until nobody believes in it.
            self.propose_pool(pool, PoolCommand::DestroySnapshot { id, epoch })?;
            return Err(error);
        }
        Ok(msg::SnapshotInfo { epoch, name: request.name })
    }

    async fn snapshot_destroy(&self, request: msg::SnapshotDestroy) -> Result<(), Error> {
        let _change = self.changes.lock().await;
        let pool = self.find_pool(&request.pool)?;
        let id = self.with_pool(pool, |state| state.find(&request.container))?;
        let epoch = self.with_pool(pool, |state| state.find_snapshot(id, &request.snapshot))?;
        self.propose_pool(pool, PoolCommand::DestroySnapshot { id, epoch })?;
        self.tell_kept(pool, id).await
    }

    async fn container_set_properties(&self, change: msg::ContainerSetProperties) -> Result<(), Error> {
        let _change = self.changes.lock().await;
        let pool = self.find_pool(&change.pool)?;
        let id = self.with_pool(pool, |state| state.find(&change.container))?;
        let before = self.with_pool(pool, |state| Ok(state.container(id)?.retention()))?;
        self.propose_pool(pool, PoolCommand::SetContainerProperties { id, values: change.properties })?;
        match self.with_pool(pool, |state| Ok(state.container(id)?.retention()))? {
            same if same == before => Ok(()),
            _ => self.tell_kept(pool, id).await,
        }
    }

    /// Takes a container back to a snapshot, or to another moment that is still kept.
    ///
    /// The state is changed first: from then on every target goes back, whatever is restarted meanwhile.
    async fn container_rollback(&self, request: msg::ContainerRollback) -> Result<msg::SnapshotInfo, Error> {
        let _change = self.changes.lock().await;
        let pool = self.find_pool(&request.pool)?;
        let id = self.with_pool(pool, |state| state.find(&request.container))?;
        let _hold = self.hold.take();
        let to = self.with_pool(pool, |state| state.find_snapshot(id, &request.snapshot))?;
        let name = self.with_pool(pool, |state| Ok(state.container(id)?.snapshots.get(&to).cloned()))?;
        let rollback = pool::Rollback { to, asked: self.hlc.now() };
        self.propose_pool(pool, PoolCommand::Rollback { id, rollback })?;
        if let Err(error) = self.finish_rollback(pool, id).await {
            // Left to be finished at the next start, it would undo what a target takes until then. One that
            // has ended takes nothing.
            if error.code == Code::ShuttingDown {
                return Err(error);
            }
            self.propose_pool(pool, PoolCommand::RolledBack { id })?;
            return Err(error.remedy("a part of the container may have gone back: ask for the rollback again"));
        }
        self.tell_kept(pool, id).await?;
        Ok(msg::SnapshotInfo { epoch: to, name: name.unwrap_or_default() })
    }

    /// One change of one container's row that no target needs to hear of.
    async fn change_container(
        &self,
        pool: &str,
        container: &str,
        command: impl FnOnce(ContainerId, &Container) -> Result<PoolCommand, Error>,
    ) -> Result<u64, Error> {
        let _change = self.changes.lock().await;
        let pool = self.find_pool(pool)?;
        let command = self.with_pool(pool, |state| {
            let id = state.find(container)?;
            command(id, state.container(id)?)
        })?;
        self.propose_pool(pool, command)
    }

    // ---- state ----

    fn find_pool(&self, name: &str) -> Result<PoolId, Error> {
        self.system.borrow().state().find(name)
    }

    fn with_pool<T>(&self, id: PoolId, read: impl FnOnce(&PoolState) -> Result<T, Error>) -> Result<T, Error> {
        let pools = self.pools.borrow();
        let pool = pools.get(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no pool {id}")))?;
        read(pool.state())
    }

    fn with_container<M: Wire, T>(
        &self,
        body: &[u8],
        names: impl FnOnce(M) -> (String, String),
        read: impl FnOnce(&PoolState, ContainerId, Epoch) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (pool, container) = names(parse(body)?);
        self.with_pool(self.find_pool(&pool)?, |state| read(state, state.find(&container)?, Epoch::MAX))
    }

    fn propose_system(&self, command: SystemCommand) -> Result<(), Error> {
        self.system.borrow_mut().propose(command)
    }

    fn propose_pool(&self, id: PoolId, command: PoolCommand) -> Result<u64, Error> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no pool {id}")))?;
        pool.propose(command)
    }
}

impl Handler for Service {
    async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
        if request.opcode == Opcode::Echo {
            return Ok(Reply { body: request.body, bulk: request.bulk });
        }
        let work = self.answer(request.opcode, &request.body);
        let body = match request.opcode.repeat() {
            Repeat::Harmless => work.await?,
            // Nothing is remembered over a restart yet.
            Repeat::Once => self.sessions.once(request.session.0, request.sequence, || 0, |_| work).await?,
        };
        Ok(Reply { body: body.into(), bulk: None })
    }
}

fn pool_path(config: &ServiceConfig, id: PoolId) -> PathBuf {
    config.directory.join(format!("pool-{id}.json"))
}

fn parse_label(text: &str) -> Result<Label, Error> {
    Label::parse(text).map_err(|e| Error::new(Code::Invalid, e.to_string()))
}

/// This release runs a system of one server.
pub(crate) const RANK: Rank = Rank(0);

fn uuid_bytes(id: Uuid) -> wire::encoding::Bytes {
    wire::encoding::Bytes(id.as_bytes().to_vec())
}

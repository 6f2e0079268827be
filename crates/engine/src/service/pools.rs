//! Pools: making and removing them (the system's leader), and changing them (the pool's).

use std::rc::Rc;
use std::time::Duration;

use types::{ByteSize, Code, Error, Label, PoolId, Rank};
use wire::control as msg;
use wire::{Opcode, Wire};

use super::Service;
use super::pool::{self, PoolCommand, PoolDone, PoolState};
use super::route::Call;
use super::slot::Slot;
use super::spread;
use super::system::{Phase, SystemCommand, SystemDone, SystemState};
use crate::target::parse;

/// Smallest share of a pool on one target: room for its trees and a checkpoint's copies of them.
const POOL_BYTES_PER_TARGET_MIN: u64 = 16 << 20;
/// How long a pool that is to be destroyed may take to say whether it is empty: others wait behind.
const DESTROY_ASKS_MAX: Duration = Duration::from_secs(5);

impl Service {
    /// Answers a request as the leader of a pool.
    pub(super) async fn answer_for_pool(
        self: &Rc<Self>,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        term: u64,
    ) -> Result<Vec<u8>, Error> {
        let body = &call.body;
        match call.opcode {
            Opcode::PoolQuery => Ok(self.pool_info(id, slot).await?.to_bytes()),
            Opcode::PoolResize => Ok(self.pool_resize(call, id, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::PoolChangeTargets => {
                Ok(self.pool_change_targets(call, id, slot, term, parse(body)?).await?.to_bytes())
            }
            Opcode::PoolExtend => Ok(self.pool_extend(call, id, slot, parse(body)?).await?.to_bytes()),
            Opcode::PoolRebuild => Ok(self.pool_rebuild(call, id, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::PoolQueryTargets => Ok(self.pool_query_targets(id, slot, parse(body)?).await?.to_bytes()),
            Opcode::PoolGetProperties => Ok(self.pool_properties(slot).to_bytes()),
            Opcode::PoolSetProperties => {
                Ok(self.pool_set_properties(call, id, slot, term, parse(body)?).await?.to_bytes())
            }
            Opcode::PoolGetAcl => Ok(self.pool_acl(slot).to_bytes()),
            Opcode::PoolChangeAcl => Ok(self.pool_change_acl(call, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::PoolConnect => Ok(self.pool_map(slot)?.to_bytes()),
            Opcode::PoolMapSince => {
                let known: msg::PoolMapSince = parse(body)?;
                Ok(self.pool_map_since(slot, known.version)?.to_bytes())
            }
            _ => self.answer_for_container(call, slot, term).await,
        }
    }

    pub(super) async fn pool_create(
        self: &Rc<Self>,
        call: &Call,
        term: u64,
        request: msg::PoolCreate,
    ) -> Result<msg::PoolInfo, Error> {
        let label = parse_label(&request.label)?;
        for (name, value) in &request.properties {
            pool::checked(types::PoolProperty::TABLE, name, value, true)?;
        }
        let _change = self.system.changes.lock().await;
        let done = match call.name().and_then(|name| self.system.group.recall(name)) {
            Some(done) => done?,
            None => {
                // Who repeats a command that made the pool should hear that, and not of the space it took.
                self.system.group.local(|system| system.check_label(&label, None))?;
                self.system.group.local(somebody_serves)?;
                let servers = self.system.group.local(|system| {
                    let servers = spread::choose(system, &request.servers)?;
                    spread::check_redundancy(system, &servers, &request.properties)?;
                    Ok::<_, Error>(servers)
                })?;
                let bytes_per_target = self.pool_share(label.as_str(), request.bytes, 0, &servers).await?;
                let command = SystemCommand::CreatePool {
                    id: PoolId(rt::random_uuid()),
                    label,
                    bytes_per_target,
                    // Whose agent makes the first replica: one that is in it.
                    maker: *servers.iter().find(|rank| **rank == self.rank).unwrap_or(&servers[0]),
                    servers,
                    properties: request.properties,
                    acl: request.acl,
                };
                self.system.propose(Some(term), call.name(), &command).await??
            }
        };
        let SystemDone::Pool { id } = done else {
            return Err(Error::new(Code::Protocol, "this request was something else than the making of a pool"));
        };
        self.system.wait(call.until, |system| made(system, id)).await??;
        self.ask_pool(id, Opcode::PoolQuery, call.until).await
    }

    pub(super) async fn pool_destroy(
        self: &Rc<Self>,
        call: &Call,
        term: u64,
        request: msg::PoolDestroy,
    ) -> Result<(), Error> {
        let _change = self.system.changes.lock().await;
        let done = call.name().and_then(|name| self.system.group.recall(name));
        let id = match done {
            Some(Ok(SystemDone::Pool { id })) => id,
            Some(Err(error)) => return Err(error),
            _ => {
                let id = self.system.group.local(|system| system.find(&request.pool))?;
                if !request.recursive {
                    let info = self.is_it_empty(id, &request.pool, call.until).await?;
                    if info.containers > 0 {
                        let text = format!("pool '{}' holds {} containers", request.pool, info.containers);
                        return Err(Error::new(Code::Busy, text).remedy("destroy them first, or use --recursive"));
                    }
                }
                let command = SystemCommand::DestroyPool { id, trouble: None };
                self.system.propose(Some(term), call.name(), &command).await??;
                id
            }
        };
        self.system.wait(call.until, |system| (!system.pools.contains_key(&id)).then_some(())).await
    }

    /// What a pool's service says of it, before the pool is destroyed.
    ///
    /// # Errors
    /// `Busy`: it does not answer.
    async fn is_it_empty(self: &Rc<Self>, id: PoolId, name: &str, until: rt::Instant) -> Result<msg::PoolInfo, Error> {
        let asked = self.ask_pool(id, Opcode::PoolQuery, until.min(rt::now() + DESTROY_ASKS_MAX)).await;
        asked.map_err(|error: Error| match error.code {
            Code::NotFound => error,
            _ => {
                let text = format!("pool '{name}' does not say whether it holds containers: {}", error.message);
                let remedy = error.remedy.map_or(String::new(), |remedy| format!("{remedy}, or "));
                let remedy = format!("{remedy}destroy it whatever it holds, with --recursive");
                Error::new(Code::Busy, text).remedy(remedy)
            }
        })
    }

    /// How much of `bytes` each target gives, if there is room for it. The pool has `present` there already.
    async fn pool_share(&self, label: &str, bytes: u64, present: u64, servers: &[Rank]) -> Result<u64, Error> {
        let mut targets = 0;
        let mut room = u64::MAX;
        for (rank, devices) in self.all_storage(servers).await {
            for device in devices.map_err(|error| {
                let text = format!("rank {rank} does not say how much room it has: {}", error.message);
                Error::new(error.code, text).remedy("bring it back, or exclude it with `dmg system exclude`")
            })? {
                if let Some(failure) = device.failure {
                    return Err(Error::new(Code::Io, format!("target {} of rank {rank}: {failure}", device.target))
                        .remedy("look after its device, then restart the server"));
                }
                targets += 1;
                room = room.min(device.total.saturating_sub(device.reserved.saturating_sub(present)));
            }
        }
        let share = bytes / targets.max(1);
        if share < POOL_BYTES_PER_TARGET_MIN {
            let least = ByteSize(POOL_BYTES_PER_TARGET_MIN * targets);
            let text = format!("pool '{label}' of {} is too small for {targets} targets", ByteSize(bytes));
            return Err(Error::new(Code::Invalid, text).remedy(format!("give it at least {least}")));
        }
        if share > room {
            let text =
                format!("pool '{label}' of {} does not fit: {} are free", ByteSize(bytes), ByteSize(room * targets));
            return Err(Error::new(Code::NoSpace, text)
                .remedy("ask for less, destroy a pool, or give the server more storage (`dmg storage query`)"));
        }
        Ok(share)
    }

    async fn pool_resize(
        self: &Rc<Self>,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::PoolResize,
    ) -> Result<msg::PoolInfo, Error> {
        let _change = slot.changes.lock().await;
        let done = match call.name().and_then(|name| slot.group.recall(name)) {
            Some(done) => done?,
            None => {
                let (label, present, servers) = slot.group.local(|pool| {
                    let servers: Vec<Rank> = pool.servers().iter().map(|server| server.rank).collect();
                    (pool.label.clone(), pool.bytes_per_target, servers)
                });
                let bytes_per_target = self.pool_share(&label, request.bytes, present, &servers).await?;
                self.refuse_below_use(id, slot, bytes_per_target).await?;
                self.tell_system(call.name(), SystemCommand::ResizePool { id, bytes_per_target }).await?;
                slot.propose(Some(term), call.name(), &PoolCommand::Resize { bytes_per_target }).await??
            }
        };
        if let PoolDone::Version { version } = done {
            self.done(slot, version, None, call.until).await?;
        }
        self.pool_info(id, slot).await
    }

    async fn refuse_below_use(&self, id: PoolId, slot: &Slot<PoolState>, share: u64) -> Result<(), Error> {
        let (mut most, mut targets) = (0, 0);
        for (_, spaces) in self.all_spaces(id, slot).await {
            for (space, _) in spaces? {
                most = most.max(space.used);
                targets += 1;
            }
        }
        if most <= share {
            return Ok(());
        }
        let label = slot.group.local(|pool| pool.label.clone());
        let (wanted, least) = (ByteSize(share * targets), ByteSize(most * targets));
        let text = format!("pool '{label}' cannot have {wanted}: its fullest target uses {}", ByteSize(most));
        Err(Error::new(Code::NoSpace, text).remedy(format!("delete something, or give it at least {least}")))
    }

    /// A label is the system's to give; the rest is the pool's own.
    async fn pool_set_properties(
        &self,
        call: &Call,
        id: PoolId,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::PoolSetProperties,
    ) -> Result<(), Error> {
        let _change = slot.changes.lock().await;
        for (name, value) in &request.properties {
            let property = pool::checked(types::PoolProperty::TABLE, name, value, false)?;
            if property.name == "label" {
                let label = parse_label(value)?;
                self.tell_system(call.name(), SystemCommand::RelabelPool { id, label }).await?;
            }
        }
        let command = PoolCommand::SetProperties { values: request.properties };
        match slot.propose(Some(term), call.name(), &command).await?? {
            PoolDone::Version { version } => self.done(slot, version, None, call.until).await,
            _ => Ok(()),
        }
    }
}

/// # Errors
/// `Invalid`: an administrator stopped all servers that there are.
fn somebody_serves(system: &SystemState) -> Result<(), Error> {
    let is_stopped = system.members.keys().any(|rank| system.is_stopped(*rank));
    if is_stopped && system.joined().next().is_none() {
        let text = "no server serves: an administrator stopped them";
        return Err(Error::new(Code::Invalid, text).remedy("start them with `dmg system start`"));
    }
    Ok(())
}

/// What became of a pool that is being made.
fn made(system: &SystemState, id: PoolId) -> Option<Result<(), Error>> {
    match system.pools.get(&id) {
        Some(row) => match row.phase {
            Phase::Creating => None,
            Phase::Ready => Some(Ok(())),
            Phase::Destroying => Some(Err(row.trouble.clone().unwrap_or_else(taken_away))),
        },
        None => Some(Err(taken_away())),
    }
}

pub(super) fn taken_away() -> Error {
    Error::new(Code::Canceled, "it was made, and taken away again")
}

pub(super) fn parse_label(text: &str) -> Result<Label, Error> {
    Label::parse(text).map_err(|e| Error::new(Code::Invalid, e.to_string()))
}

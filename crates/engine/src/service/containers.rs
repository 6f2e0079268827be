//! Containers of a pool: what its leader answers.
//!
//! A command that was done before, here or at an earlier leader, is not done again: what it said then is known
//! ([`raft::Group::recall`]), and what is left is to wait until all have followed it, and to answer from the state.

use std::rc::Rc;

use types::{Code, ContainerId, Error};
use wire::control as msg;
use wire::{Opcode, Wire};

use super::pool::{Container, PoolCommand, PoolDone, PoolState, Rollback};
use super::pools::{parse_label, taken_away};
use super::route::Call;
use super::slot::Slot;
use super::system::Phase;
use super::{Service, answers};
use crate::target::parse;

/// Most object ids handed out at once.
const OBJECT_IDS_MAX: u64 = 1 << 32;

impl Service {
    pub(super) async fn answer_for_container(
        self: &Rc<Self>,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
    ) -> Result<Vec<u8>, Error> {
        let body = &call.body;
        match call.opcode {
            Opcode::ContainerCreate => Ok(self.container_create(call, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::ContainerList => Ok(answers::container_list(slot).to_bytes()),
            Opcode::ContainerQuery => {
                look(slot, body, |pool, id, container| Ok(answers::container_info(pool, id, container).to_bytes()))
            }
            Opcode::ContainerDestroy => Ok(self.container_destroy(call, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::ContainerGetProperties => look(slot, body, |_, _, container| {
                Ok(msg::Properties { values: answers::container_properties(container) }.to_bytes())
            }),
            Opcode::ContainerListAttributes => look(slot, body, |_, _, container| {
                let names = container.attributes.keys().map(|name| (name.clone(), Default::default()));
                Ok(msg::Attributes { attributes: names.collect() }.to_bytes())
            }),
            Opcode::ContainerGetAttributes => {
                let wanted: msg::AttributeNames = parse(body)?;
                slot.group.local(|pool| {
                    let container = pool.container(pool.find(&wanted.container)?)?;
                    Ok(answers::attributes(container, &wanted.names)?.to_bytes())
                })
            }
            Opcode::SnapshotList => look(slot, body, |_, _, container| Ok(answers::snapshots(container).to_bytes())),
            Opcode::ContainerSetProperties => {
                let change: msg::ContainerSetProperties = parse(body)?;
                let make =
                    |_: &PoolState, id| Ok(PoolCommand::SetContainerProperties { id, values: change.properties });
                Ok(self.change_and_follow(call, slot, term, &change.container, make).await?.to_bytes())
            }
            Opcode::ContainerSetAttributes => {
                let change: msg::SetAttributes = parse(body)?;
                let attributes = change.attributes;
                self.change(call, slot, term, &change.container, |_, id| {
                    Ok(PoolCommand::SetAttributes { id, attributes })
                })
                .await?;
                Ok(().to_bytes())
            }
            Opcode::ContainerDeleteAttributes => {
                let change: msg::AttributeNames = parse(body)?;
                let names = change.names;
                self.change(call, slot, term, &change.container, |_, id| {
                    Ok(PoolCommand::DeleteAttributes { id, names })
                })
                .await?;
                Ok(().to_bytes())
            }
            Opcode::ContainerGetAcl => look(slot, body, |_, _, container| Ok(container.owned_acl().to_bytes())),
            Opcode::ContainerChangeAcl => {
                Ok(self.container_change_acl(call, slot, term, parse(body)?).await?.to_bytes())
            }
            Opcode::ContainerSetOwner => Ok(self.container_set_owner(call, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::SnapshotCreate => Ok(self.snapshot_create(call, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::SnapshotDestroy => {
                let gone: msg::SnapshotDestroy = parse(body)?;
                let make = |pool: &PoolState, id| {
                    let epoch = pool.find_snapshot(id, &gone.snapshot)?;
                    Ok(PoolCommand::DestroySnapshot { id, epoch })
                };
                Ok(self.change_and_follow(call, slot, term, &gone.container, make).await?.to_bytes())
            }
            Opcode::ContainerRollback => Ok(self.rollback(call, slot, term, parse(body)?).await?.to_bytes()),
            Opcode::AllocateObjectIds => {
                let msg::AllocateObjectIds { container, count, .. } = parse(body)?;
                if count == 0 || count > OBJECT_IDS_MAX {
                    let text = format!("{count} object ids at once; ask for 1 to {OBJECT_IDS_MAX}");
                    return Err(Error::new(Code::Invalid, text));
                }
                let make = |_: &PoolState, id| Ok(PoolCommand::AllocateObjectIds { id, count });
                match self.change(call, slot, term, &container, make).await? {
                    PoolDone::Ids { first } => Ok(msg::ObjectIdRange { first, count }.to_bytes()),
                    _ => Err(other_request()),
                }
            }
            other => Err(self.not_ours(other)),
        }
    }

    /// One command about a container, unless it was done before.
    pub(super) async fn change(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        container: &str,
        command: impl FnOnce(&PoolState, ContainerId) -> Result<PoolCommand, Error>,
    ) -> Result<PoolDone, Error> {
        if let Some(done) = call.name().and_then(|name| slot.group.recall(name)) {
            return done;
        }
        let command = slot.group.local(|pool| command(pool, pool.find(container)?))?;
        slot.propose(Some(term), call.name(), &command).await?
    }

    /// One command about a container that targets must follow.
    async fn change_and_follow(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        container: &str,
        command: impl FnOnce(&PoolState, ContainerId) -> Result<PoolCommand, Error>,
    ) -> Result<(), Error> {
        let _change = slot.changes.lock().await;
        // Before it may be on its way out. After a repeat it may be gone, and in nobody's way.
        let id = slot.group.local(|pool| pool.find(container)).ok();
        match self.change(call, slot, term, container, command).await? {
            PoolDone::Version { version } => self.done(slot, version, id, call.until).await,
            _ => Ok(()),
        }
    }

    async fn container_create(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::ContainerCreate,
    ) -> Result<msg::ContainerInfo, Error> {
        let label = match request.label.as_str() {
            "" => None,
            text => Some(parse_label(text)?),
        };
        let _change = slot.changes.lock().await;
        let done = match call.name().and_then(|name| slot.group.recall(name)) {
            Some(done) => done?,
            None => {
                let command = PoolCommand::CreateContainer {
                    id: ContainerId(rt::random_uuid()),
                    label,
                    layout: request.layout,
                    created: self.hlc.now(),
                    properties: request.properties,
                    attributes: request.attributes,
                    acl: request.acl,
                };
                slot.propose(Some(term), call.name(), &command).await??
            }
        };
        let PoolDone::Container { id } = done else { return Err(other_request()) };
        slot.wait(call.until, |pool| match pool.containers.get(&id) {
            Some(container) => match container.phase {
                Phase::Creating => None,
                Phase::Ready => Some(Ok(answers::container_info(pool, id, container))),
                Phase::Destroying => Some(Err(container.trouble.clone().unwrap_or_else(taken_away))),
            },
            None => Some(Err(taken_away())),
        })
        .await?
    }

    async fn container_destroy(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::ContainerDestroy,
    ) -> Result<(), Error> {
        let make = |_: &PoolState, id| Ok(PoolCommand::DestroyContainer { id, trouble: None });
        self.change_and_follow(call, slot, term, &request.container, make).await
    }

    /// Keeps a container as it is now (K17).
    ///
    /// The hold comes before the epoch is chosen, on every server: from then on no target gives up what this epoch can see,
    /// though it does not know of the snapshot yet. Each has held before it reported, and its clock at that moment came here
    /// with the report, so that the epoch is above every horizon.
    async fn snapshot_create(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::SnapshotCreate,
    ) -> Result<msg::SnapshotInfo, Error> {
        let _change = slot.changes.lock().await;
        let done = match call.name().and_then(|name| slot.group.recall(name)) {
            Some(done) => done?,
            None => {
                let id = slot.group.local(|pool| pool.find(&request.container))?;
                let made = self.hold_and_snap(call, slot, term, id, request.name).await;
                if made.is_err() {
                    slot.propose(Some(term), None, &PoolCommand::LetGo { id }).await??;
                }
                let made = made?;
                if let (PoolDone::Snapshot { epoch, version, .. }, id) = (&made, id)
                    && let Err(error) = self.done(slot, *version, Some(id), call.until).await
                {
                    // A snapshot that some target may not keep is none.
                    let destroy = PoolCommand::DestroySnapshot { id, epoch: *epoch };
                    slot.propose(Some(term), None, &destroy).await??;
                    return Err(error);
                }
                made
            }
        };
        match done {
            PoolDone::Snapshot { epoch, name, .. } => Ok(msg::SnapshotInfo { epoch, name }),
            _ => Err(other_request()),
        }
    }

    async fn hold_and_snap(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        id: ContainerId,
        name: String,
    ) -> Result<PoolDone, Error> {
        if let PoolDone::Version { version } = slot.propose(Some(term), None, &PoolCommand::Hold { id }).await?? {
            self.done(slot, version, Some(id), call.until).await?;
        }
        let command = PoolCommand::CreateSnapshot { id, epoch: self.hlc.now(), name };
        slot.propose(Some(term), call.name(), &command).await?
    }

    /// Takes a container back to a snapshot, or to another moment that is still kept.
    ///
    /// The state is changed first: from then on every target goes back, whatever is restarted meanwhile.
    async fn rollback(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::ContainerRollback,
    ) -> Result<msg::SnapshotInfo, Error> {
        let _change = slot.changes.lock().await;
        let asked = self.hlc.now();
        let id = slot.group.local(|pool| pool.find(&request.container)).ok();
        let done = self
            .change(call, slot, term, &request.container, |pool, id| {
                let to = pool.find_snapshot(id, &request.snapshot)?;
                Ok(PoolCommand::Rollback { id, rollback: Rollback { to, asked } })
            })
            .await?;
        let PoolDone::Snapshot { epoch, name, version } = done else { return Err(other_request()) };
        if let Err(error) = self.done(slot, version, id, call.until).await {
            // Left to be finished later, it would undo what a target takes until then. One that has ended takes nothing.
            if matches!(error.code, Code::ShuttingDown | Code::TimedOut) {
                return Err(error);
            }
            if let Some(id) = id {
                slot.propose(Some(term), None, &PoolCommand::RolledBack { id, asked }).await??;
            }
            return Err(error.remedy("a part of the container may have gone back: ask for the rollback again"));
        }
        Ok(msg::SnapshotInfo { epoch, name })
    }
}

/// Looks at a container that a request names.
fn look(
    slot: &Slot<PoolState>,
    body: &[u8],
    read: impl FnOnce(&PoolState, ContainerId, &Container) -> Result<Vec<u8>, Error>,
) -> Result<Vec<u8>, Error> {
    let name: msg::ContainerName = parse(body)?;
    slot.group.local(|pool| {
        let id = pool.find(&name.container)?;
        read(pool, id, pool.container(id)?)
    })
}

/// Two requests with one name: a client that numbers wrongly.
pub(super) fn other_request() -> Error {
    Error::new(Code::Protocol, "a request of this number was something else")
}

//! A pool's state: properties, map version, containers, snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use placement::{Event, PoolMap, SLOTS_MAX, Server, TargetState};
use types::{
    Acl, AclOf, Code, ContainerId, ContainerProperty, Epoch, Error, Label, Layout, PoolId, PoolProperty, PrincipalName,
    Property, PropertyError, Rank, Span, TargetIndex, check_property,
};
use wire::control::{AclChange, TargetChange};
use wire::encoding::Bytes;
use wire::{DecodeError, Reader, Wire, message};

use super::healing;
use super::state::Format;
use super::system::{Phase, unknown};
use crate::target::order::PoolShare;

/// Most containers in a pool, snapshots of a container and attributes of a container: all of it is in the memory of every
/// replica, and in a snapshot of the log.
const CONTAINERS_MAX: usize = 4096;
const SNAPSHOTS_MAX: usize = 1024;
const ATTRIBUTES_MAX: usize = 1024;
/// Widths of groups that have copies.
pub(super) const WIDTHS: RangeInclusive<u32> = 2..=SLOTS_MAX as u32;
/// Longest attribute name and value, in bytes.
const ATTRIBUTE_NAME_BYTES_MAX: usize = 512;
const ATTRIBUTE_VALUE_BYTES_MAX: usize = 64 << 10;
/// Object ids below this are reserved to the faces (a POSIX container's superblock and root).
const FIRST_OBJECT_ID: u64 = 1024;

message! {
    pub struct PoolState {
        pub format: Format,
        pub id: PoolId,
        /// Empty until the pool is created.
        pub label: String,
        /// Grows with every change that servers act upon.
        pub version: u64,
        /// Which servers and targets it has, and how they stand.
        pub map: Option<Map>,
        /// Positions of targets that an administrator excluded: they come back when he wants it.
        pub kept_out: BTreeSet<u32>,
        pub bytes_per_target: u64,
        /// Only those that were set; the table has the defaults.
        pub properties: BTreeMap<String, String>,
        pub containers: BTreeMap<ContainerId, Container>,
        /// Positions of targets that are out, and that nobody waits for any more.
        pub given_up: BTreeSet<u32>,
        /// Widths of groups, from two up, of which any may have been written, and the version of the map by which each came to
        /// be one.
        pub widths: BTreeMap<u32, u32>,
        /// An administrator's word about what is on its way.
        pub rebuild: RebuildWord,
        /// Positions of targets that are out for good and that an administrator wants back: they come as soon as nobody is in the
        /// way, and their shares are made.
        pub wanted_back: BTreeSet<u32>,
        /// Positions of targets that an administrator drains, or has drained. One that fails meanwhile comes back, for what only
        /// it has, and goes on.
        pub drained: BTreeSet<u32>,
        /// The system's policy is that pools make nothing anew by themselves.
        pub is_rebuild_off: bool,
        /// Who may do what, once somebody proves who he is.
        pub acl: Acl,
    }
}

/// A pool's map, with the encoding of `wire`'s; addresses are the system's to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map(pub PoolMap);

impl Wire for Map {
    fn encode(&self, out: &mut Vec<u8>) {
        let no_id = PoolId::from_bytes([0; 16]);
        object::map::to_message(no_id, "", &self.0, |_| String::new()).encode(out);
    }
    fn decode(from: &mut Reader<'_>) -> Result<Map, DecodeError> {
        let message = wire::control::PoolMap::decode(from)?;
        let map = object::map::from_message(&message).map_err(|_| DecodeError::Invalid { what: "the pool map" })?;
        Ok(Map(map.map))
    }
}

message! {
    /// A server of the pool, with all its targets.
    pub struct PoolServer {
        pub rank: Rank,
        pub fault_path: String,
        pub targets: u32,
        /// The share of each of its targets relative to others.
        pub weight: u32,
    }
}

message! {
    pub struct Container {
        pub label: Option<String>,
        pub layout: Layout,
        pub created: Epoch,
        pub phase: Phase,
        /// Version of the pool's state that targets must have followed before the phase, a rollback or a snapshot goes on.
        pub since: u64,
        pub properties: BTreeMap<String, String>,
        pub attributes: BTreeMap<String, Bytes>,
        /// Oldest first; a snapshot without a name has the empty one.
        pub snapshots: BTreeMap<Epoch, String>,
        pub next_object_id: u64,
        /// A rollback that some targets may not know of yet.
        pub rollback: Option<Rollback>,
        /// A snapshot is being made: no target moves its horizon.
        pub is_held: bool,
        /// Why it is taken away again.
        pub trouble: Option<Error>,
        pub acl: Acl,
    }
}

message! {
    /// Going back to `to`, as asked for at `asked`.
    #[derive(Copy)]
    pub struct Rollback {
        pub to: Epoch,
        pub asked: Epoch,
    }
}

message! {
    /// A change of the pool. What it needs of the outside (ids, epochs) its proposer put into it.
    pub enum PoolCommand {
        Create {
            label: String,
            bytes_per_target: u64,
            servers: Vec<PoolServer>,
            properties: Vec<(String, String)>,
            acl: Option<Acl>,
        } = 1,
        Resize { bytes_per_target: u64 } = 2,
        SetProperties { values: Vec<(String, String)> } = 3,
        CreateContainer {
            id: ContainerId,
            label: Option<Label>,
            layout: Layout,
            created: Epoch,
            properties: Vec<(String, String)>,
            attributes: Vec<(String, Bytes)>,
            acl: Option<Acl>,
        } = 4,
        ContainerCreated { id: ContainerId } = 5,
        DestroyContainer { id: ContainerId, trouble: Option<Error> } = 6,
        ContainerDestroyed { id: ContainerId } = 7,
        SetContainerProperties { id: ContainerId, values: Vec<(String, String)> } = 8,
        SetAttributes { id: ContainerId, attributes: Vec<(String, Bytes)> } = 9,
        DeleteAttributes { id: ContainerId, names: Vec<String> } = 10,
        /// Before a snapshot's epoch is chosen: from here on no target gives up what it could see.
        Hold { id: ContainerId } = 11,
        /// No snapshot comes of it.
        LetGo { id: ContainerId } = 12,
        CreateSnapshot { id: ContainerId, epoch: Epoch, name: String } = 13,
        DestroySnapshot { id: ContainerId, epoch: Epoch } = 14,
        /// Later snapshots go too.
        Rollback { id: ContainerId, rollback: Rollback } = 15,
        /// Every target knows.
        RolledBack { id: ContainerId, asked: Epoch } = 16,
        AllocateObjectIds { id: ContainerId, count: u64 } = 17,
        /// Targets of these ranks failed, or are taken for failed, by the map of `version`.
        Exclude { version: u32, ranks: Vec<Rank> } = 18,
        /// Their servers are back: what they hold is brought up to date.
        Reintegrate { version: u32, ranks: Vec<Rank> } = 19,
        /// Targets of these ranks have all that they are to have, by the map of `version`.
        Reintegrated { version: u32, ranks: Vec<Rank> } = 20,
        /// What was under way by the map of `version` has come to its end.
        Finish { version: u32, what: Finished } = 21,
        /// An administrator's word about targets: of each rank those with these numbers, or all.
        ChangeTargets { change: TargetChange, ranks: Vec<Rank>, indices: Vec<TargetIndex>, force: bool } = 24,
        /// The system's row of the pool names servers that the map does not have.
        AddServers { servers: Vec<PoolServer> } = 25,
        /// New targets of these ranks have made their shares, by the map of `version`: they take their part.
        Extend { version: u32, ranks: Vec<Rank> } = 26,
        /// Groups of these widths are about to be written for the first time.
        UseWidths { widths: Vec<u32> } = 27,
        /// An administrator stops what is on its way, or has it go on.
        Rebuild { start: bool } = 28,
        /// What the system's policy says of making anew what failed targets held.
        FollowPolicy { rebuild: bool } = 29,
        /// Of a container, or of the pool.
        ChangeAcl { container: Option<ContainerId>, change: AclChange } = 30,
        /// Whoever is not named stays.
        SetOwner { id: ContainerId, user: Option<PrincipalName>, group: Option<PrincipalName> } = 31,
    }
}

message! {
    /// What an administrator said of what is on its way in a pool. It lasts until nothing is.
    #[derive(Copy)]
    pub enum RebuildWord {
        None = 1,
        /// Everything stays as far as it came.
        Stop = 2,
        /// What failed is made anew, whatever the pool's policy says.
        Start = 3,
    }
}

message! {
    /// What comes to its end in a pool's map.
    #[derive(Copy)]
    pub enum Finished {
        /// What failed targets held, and others too, is elsewhere.
        Rebuilt = 1,
        /// Who drained is empty; who is new, or has come back, has all that it is to have.
        Arrived = 2,
        /// What only given-up targets had is written off.
        GivenUp = 3,
        /// What might take places from those that are awaited is put off until they are there.
        PutOff = 4,
        /// What was put off, and an administrator still wants, begins anew.
        Resumed = 5,
    }
}

message! {
    /// What a command says when it was done. `version`: which the targets must have followed before it is done there, too.
    pub enum PoolDone {
        Version { version: u64 } = 1,
        Container { id: ContainerId } = 2,
        /// The first of the ids handed out.
        Ids { first: u64 } = 3,
        Snapshot { epoch: Epoch, name: String, version: u64 } = 4,
    }
}

impl raft::StateMachine for PoolState {
    const NAME: &'static str = "pool";
    type Command = PoolCommand;
    type Response = Result<PoolDone, Error>;

    fn apply(&mut self, command: PoolCommand) -> Result<PoolDone, Error> {
        // Every refusal comes before the first change.
        match command {
            PoolCommand::Create { label, bytes_per_target, servers, properties, acl } => {
                if !self.is_created() {
                    self.map = Some(Map(first_map(servers)?));
                    (self.label, self.bytes_per_target, self.version) = (label, bytes_per_target, 1);
                    self.properties = properties.into_iter().collect();
                    self.acl = acl.unwrap_or_else(|| AclOf::Pool.default_acl());
                }
            }
            PoolCommand::Resize { bytes_per_target } => {
                self.bytes_per_target = bytes_per_target;
                self.version += 1;
            }
            PoolCommand::SetProperties { values } => self.set_properties(values)?,
            PoolCommand::CreateContainer { id, label, layout, created, properties, attributes, acl } => {
                let acl = self.first_acl(acl)?;
                let made = Container { layout, acl, ..Container::new(created, self.version + 1) };
                self.create_container(id, label, made, properties, attributes)?;
                return Ok(PoolDone::Container { id });
            }
            PoolCommand::ContainerCreated { id } => {
                // A creation that was given up meanwhile stays so.
                let container = self.container_mut(id)?;
                if container.phase == Phase::Creating {
                    container.phase = Phase::Ready;
                }
            }
            PoolCommand::DestroyContainer { id, trouble } => {
                let container = self.touch(id)?;
                (container.phase, container.trouble) = (Phase::Destroying, trouble);
            }
            PoolCommand::ContainerDestroyed { id } => {
                if self.containers.get(&id).is_some_and(|c| c.phase == Phase::Destroying) {
                    self.containers.remove(&id);
                }
            }
            PoolCommand::SetContainerProperties { id, values } => self.set_container_properties(id, values)?,
            PoolCommand::SetAttributes { id, attributes } => self.container_mut(id)?.set_attributes(attributes)?,
            PoolCommand::DeleteAttributes { id, names } => {
                let container = self.container_mut(id)?;
                if let Some(name) = names.iter().find(|name| !container.attributes.contains_key(*name)) {
                    return Err(Error::new(Code::NotFound, format!("no attribute '{name}'")));
                }
                names.iter().for_each(|name| {
                    container.attributes.remove(name);
                });
            }
            PoolCommand::Hold { id } => self.touch(id)?.is_held = true,
            PoolCommand::LetGo { id } => self.touch(id)?.is_held = false,
            PoolCommand::CreateSnapshot { id, epoch, name } => {
                self.container_mut(id)?.create_snapshot(epoch, name.clone())?;
                self.touch(id)?.is_held = false;
                return Ok(PoolDone::Snapshot { epoch, name, version: self.version });
            }
            PoolCommand::DestroySnapshot { id, epoch } => {
                let removed = self.container_mut(id)?.snapshots.remove(&epoch);
                removed.ok_or_else(|| Error::new(Code::NotFound, format!("no snapshot at {epoch}")))?;
                self.touch(id)?;
            }
            PoolCommand::Rollback { id, rollback } => {
                let container = self.touch(id)?;
                container.snapshots.retain(|epoch, _| *epoch <= rollback.to);
                container.rollback = Some(rollback);
                let name = container.snapshots.get(&rollback.to).cloned().unwrap_or_default();
                return Ok(PoolDone::Snapshot { epoch: rollback.to, name, version: self.version });
            }
            PoolCommand::RolledBack { id, asked } => {
                let container = self.container_mut(id)?;
                // Another may have been asked for meanwhile.
                if container.rollback.is_some_and(|rollback| rollback.asked == asked) {
                    container.rollback = None;
                }
            }
            PoolCommand::AllocateObjectIds { id, count } => {
                let container = self.container_mut(id)?;
                let first = container.next_object_id;
                container.next_object_id = first
                    .checked_add(count)
                    .ok_or_else(|| Error::new(Code::Quota, "the container has handed out all its object ids"))?;
                return Ok(PoolDone::Ids { first });
            }
            PoolCommand::Exclude { version, ranks } => self.change_map(version, &ranks, Event::Exclude)?,
            PoolCommand::Reintegrate { version, ranks } => {
                self.happen_by(version, |pool, map| {
                    healing::returning(map, &ranks, &pool.kept_out, &pool.wanted_back)
                })?;
            }
            PoolCommand::Reintegrated { version, ranks } => self.change_map(version, &ranks, Event::Reintegrated)?,
            PoolCommand::Finish { version, what } => {
                self.happen_by(version, |pool, map| healing::events(map, &pool.given_up, &pool.drained, what))?;
            }
            PoolCommand::ChangeTargets { change, ranks, indices, force } => {
                self.change_targets(change, &ranks, &indices, force)?;
            }
            PoolCommand::AddServers { servers } => self.add_servers(servers)?,
            PoolCommand::Extend { version, ranks } => self.change_map(version, &ranks, Event::Extend)?,
            PoolCommand::UseWidths { widths } => self.use_widths(&widths),
            PoolCommand::Rebuild { start } => self.order_rebuild(start)?,
            PoolCommand::FollowPolicy { rebuild } => {
                let before = self.heal();
                self.is_rebuild_off = !rebuild;
                self.version += u64::from(self.heal() != before);
            }
            PoolCommand::ChangeAcl { container, change } => {
                self.change_acl(container, change)?;
                return Ok(
                    container.map_or(PoolDone::Version { version: self.version }, |id| PoolDone::Container { id })
                );
            }
            PoolCommand::SetOwner { id, user, group } => {
                self.set_owner(id, user, group)?;
                return Ok(PoolDone::Container { id });
            }
        }
        Ok(PoolDone::Version { version: self.version })
    }
}

impl PoolState {
    /// Before the first command: the same on every replica.
    pub fn empty(id: PoolId) -> PoolState {
        PoolState {
            format: Format,
            id,
            label: String::new(),
            version: 0,
            map: None,
            kept_out: BTreeSet::new(),
            bytes_per_target: 0,
            properties: BTreeMap::new(),
            containers: BTreeMap::new(),
            given_up: BTreeSet::new(),
            widths: BTreeMap::new(),
            rebuild: RebuildWord::None,
            wanted_back: BTreeSet::new(),
            drained: BTreeSet::new(),
            is_rebuild_off: false,
            acl: Acl::default(),
        }
    }

    pub fn is_created(&self) -> bool {
        self.version > 0
    }

    /// The map, once the pool is created.
    pub fn map(&self) -> Option<&PoolMap> {
        self.map.as_ref().map(|map| &map.0)
    }

    pub fn servers(&self) -> &[Server] {
        self.map().map_or(&[], PoolMap::servers)
    }

    /// Targets of all servers.
    pub fn targets(&self) -> u32 {
        self.servers().iter().map(|server| server.targets).sum()
    }

    /// Lets something happen to all targets of some servers for which it means anything, unless an administrator keeps
    /// them out.
    fn change_map(&mut self, version: u32, ranks: &[Rank], event: Event) -> Result<(), Error> {
        self.happen_by(version, |pool, map| {
            let targets = map.targets().iter().zip(0..).filter(|(target, _)| ranks.contains(&target.rank));
            let meant = targets.filter(|(target, position)| pool.may_happen(event, target.state(), *position));
            meant.map(|(_, position)| (position, event)).collect()
        })
    }

    /// Lets happen what is to happen by a map of that version.
    fn happen_by(
        &mut self,
        version: u32,
        events: impl FnOnce(&PoolState, &PoolMap) -> Vec<(u32, Event)>,
    ) -> Result<(), Error> {
        let Some(Map(map)) = &self.map else { return Ok(()) };
        // Decided by another map: whoever decided looks again.
        if map.version() != version {
            return Ok(());
        }
        let events = events(self, map);
        self.happen(events)
    }

    /// Whether an event that nobody asked for means anything to a target, and is not against an administrator's word.
    pub(super) fn may_happen(&self, event: Event, state: TargetState, position: u32) -> bool {
        let is_way_in = matches!(event, Event::Reintegrate | Event::Extend);
        matches!(state.after(event), Ok(Some(_))) && (!is_way_in || self.may_return(position))
    }

    /// Has widths in use from now on; what no group can have is passed over.
    fn use_widths(&mut self, widths: &[u32]) {
        let since = self.map().map_or(0, PoolMap::version);
        let before = self.widths.len();
        for width in widths.iter().filter(|width| WIDTHS.contains(width)) {
            self.widths.entry(*width).or_insert(since);
        }
        self.version += u64::from(self.widths.len() != before);
    }

    /// On one server, where nothing ever changed: nobody has copies, and there is nobody to ask. Its targets need no map,
    /// and go the shorter way.
    pub(super) fn is_alone(&self) -> bool {
        self.map().is_none_or(|map| map.servers().len() == 1 && map.version() == 1)
    }

    /// The share of a target's time that moving data may take while requests come, in percent.
    pub(super) fn rebuild_budget(&self) -> u32 {
        // Whatever is in the state was checked when it came.
        self.property("rebuild_budget").parse().unwrap_or(30).clamp(1, 100)
    }

    /// The value of a property of the table, set or by default.
    pub(super) fn property(&self, name: &str) -> &str {
        let default = PoolProperty::TABLE.iter().find(|row| row.name == name).map_or("", |row| row.default);
        self.properties.get(name).map_or(default, String::as_str)
    }

    /// What each target gives.
    pub fn share(&self) -> PoolShare {
        let percent: u64 = self.property("space_rb").parse().unwrap_or(0);
        PoolShare {
            quota: self.bytes_per_target,
            reserve: self.bytes_per_target / 100 * percent.min(100),
            scrub: self.property("scrub_freq").parse().unwrap_or(Span::FOREVER),
            is_alone: self.is_alone(),
        }
    }

    /// The ready container called `name`, a label or a UUID.
    ///
    /// # Errors
    /// `NotFound`, with the nearest label.
    pub fn find(&self, name: &str) -> Result<ContainerId, Error> {
        let ready = || self.containers.iter().filter(|(_, c)| c.phase == Phase::Ready);
        let found = match name.parse::<ContainerId>() {
            Ok(id) => ready().find(|(known, _)| **known == id),
            Err(_) => ready().find(|(_, c)| c.label.as_deref() == Some(name)),
        };
        found.map(|(id, _)| *id).ok_or_else(|| {
            let nearest = types::nearest(name, ready().filter_map(|(_, c)| c.label.as_deref()));
            let list = format!("list containers with `daos container list {}`", self.label);
            unknown("container", name, nearest, &list)
        })
    }

    /// The snapshot of a container called `name`: its name, or its epoch as text.
    pub fn find_snapshot(&self, id: ContainerId, name: &str) -> Result<Epoch, Error> {
        let snapshots = &self.container(id)?.snapshots;
        let named = snapshots.iter().find(|(_, n)| !n.is_empty() && *n == name).map(|(epoch, _)| *epoch);
        let at = || name.parse::<Epoch>().ok().filter(|epoch| snapshots.contains_key(epoch));
        named.or_else(at).ok_or_else(|| {
            let nearest = types::nearest(name, snapshots.values().map(String::as_str));
            unknown("snapshot", name, nearest, "list snapshots with `daos container list-snaps`")
        })
    }

    pub fn container(&self, id: ContainerId) -> Result<&Container, Error> {
        self.containers.get(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no container {id}")))
    }

    pub(super) fn container_mut(&mut self, id: ContainerId) -> Result<&mut Container, Error> {
        self.containers.get_mut(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no container {id}")))
    }

    /// A container that changes so that targets must hear of it.
    fn touch(&mut self, id: ContainerId) -> Result<&mut Container, Error> {
        let version = self.version + 1;
        let container = self.container_mut(id)?;
        container.since = version;
        self.version = version;
        self.container_mut(id)
    }

    fn set_properties(&mut self, values: Vec<(String, String)>) -> Result<(), Error> {
        for (name, value) in &values {
            checked(PoolProperty::TABLE, name, value, false)?;
        }
        let told = |pool: &PoolState| (pool.share(), pool.heal(), pool.rebuild_budget());
        let before = told(self);
        for (name, value) in values {
            let property = checked(PoolProperty::TABLE, &name, &value, false)?;
            if property.name == "label" {
                self.label.clone_from(&value);
            }
            self.properties.insert(property.name.to_string(), value);
        }
        self.version += u64::from(told(self) != before);
        Ok(())
    }

    fn check_label(&self, label: &str, except: Option<ContainerId>) -> Result<(), Error> {
        match self.containers.iter().find(|(id, c)| c.label.as_deref() == Some(label) && Some(**id) != except) {
            Some((id, _)) => Err(Error::new(
                Code::Exists,
                format!("pool '{}' has a container labelled '{label}' already ({id})", self.label),
            )
            .remedy("choose another label")),
            None => Ok(()),
        }
    }

    fn create_container(
        &mut self,
        id: ContainerId,
        label: Option<Label>,
        mut container: Container,
        properties: Vec<(String, String)>,
        attributes: Vec<(String, Bytes)>,
    ) -> Result<(), Error> {
        if let Some(label) = &label {
            self.check_label(label.as_str(), None)?;
        }
        if self.containers.len() >= CONTAINERS_MAX {
            return Err(Error::new(
                Code::Quota,
                format!("pool '{}' has {CONTAINERS_MAX} containers, its limit", self.label),
            )
            .remedy("destroy a container first"));
        }
        for (name, value) in properties {
            let property = checked(ContainerProperty::TABLE, &name, &value, true)?;
            container.properties.insert(property.name.to_string(), value);
        }
        container.label = label.map(|label| label.to_string());
        container.set_attributes(attributes)?;
        self.containers.insert(id, container);
        self.version += 1;
        Ok(())
    }

    fn set_container_properties(&mut self, id: ContainerId, values: Vec<(String, String)>) -> Result<(), Error> {
        let mut rows = Vec::with_capacity(values.len());
        for (name, value) in values {
            let property = checked(ContainerProperty::TABLE, &name, &value, false)?;
            if property.name == "label" {
                self.check_label(&value, Some(id))?;
            }
            rows.push((property.name, value));
        }
        let container = self.container_mut(id)?;
        let before = container.retention();
        for (name, value) in rows {
            if name == "label" {
                container.label = Some(value.clone());
            }
            container.properties.insert(name.to_string(), value);
        }
        if container.retention() != before {
            self.touch(id)?;
        }
        Ok(())
    }
}

impl Container {
    /// One that is being made, with nothing in it.
    fn new(created: Epoch, since: u64) -> Container {
        Container {
            label: None,
            layout: Layout::Unknown,
            created,
            phase: Phase::Creating,
            since,
            properties: BTreeMap::new(),
            attributes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            next_object_id: FIRST_OBJECT_ID,
            rollback: None,
            is_held: false,
            trouble: None,
            acl: Acl::default(),
        }
    }

    /// How much history stays readable beside the snapshots.
    pub fn retention(&self) -> Span {
        self.properties.get("retention").and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn set_attributes(&mut self, attributes: Vec<(String, Bytes)>) -> Result<(), Error> {
        for (name, Bytes(value)) in &attributes {
            if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX {
                let text = format!("an attribute's name has 1 to {ATTRIBUTE_NAME_BYTES_MAX} bytes, not {}", name.len());
                return Err(Error::new(Code::Invalid, text));
            }
            if value.len() > ATTRIBUTE_VALUE_BYTES_MAX {
                let text = format!("attribute '{name}' of {} bytes is over {ATTRIBUTE_VALUE_BYTES_MAX}", value.len());
                return Err(Error::new(Code::ValueTooBig, text).remedy("store it as a value in an object"));
            }
        }
        let new = attributes.iter().filter(|(name, _)| !self.attributes.contains_key(name)).count();
        if self.attributes.len() + new > ATTRIBUTES_MAX {
            return Err(Error::new(Code::Quota, format!("a container has at most {ATTRIBUTES_MAX} attributes")));
        }
        self.attributes.extend(attributes);
        Ok(())
    }

    fn create_snapshot(&mut self, epoch: Epoch, name: String) -> Result<(), Error> {
        if !name.is_empty() {
            Label::parse(&name)
                .map_err(|e| Error::new(Code::Invalid, e.to_string().replace("label", "snapshot name")))?;
            if self.snapshots.values().any(|known| *known == name) {
                return Err(Error::new(Code::Exists, format!("a snapshot named '{name}' exists already"))
                    .remedy("choose another name, or destroy that one first"));
            }
        }
        if self.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(Error::new(Code::Quota, format!("a container has at most {SNAPSHOTS_MAX} snapshots"))
                .remedy("destroy one first"));
        }
        self.snapshots.insert(epoch, name);
        Ok(())
    }
}

/// The map of a pool that is made of these servers.
fn first_map(servers: Vec<PoolServer>) -> Result<PoolMap, Error> {
    let servers = servers.into_iter().map(server_of).collect::<Result<_, Error>>()?;
    PoolMap::create(servers).map_err(|error| Error::new(Code::Invalid, error.to_string()))
}

/// A server as the map has it.
pub(super) fn server_of(server: PoolServer) -> Result<Server, Error> {
    let PoolServer { rank, fault_path, targets, weight } = server;
    let path = fault_path.parse();
    let path = path.map_err(|error: placement::PathError| Error::new(Code::Invalid, error.to_string()))?;
    Ok(Server { rank, path, targets, weight })
}

/// The row of a property that may take this value now.
pub(super) fn checked(
    table: &'static [Property],
    name: &str,
    value: &str,
    creating: bool,
) -> Result<&'static Property, Error> {
    check_property(table, name, value, creating).map_err(property_error)
}

pub(super) fn property_error(error: PropertyError) -> Error {
    let code = match error {
        PropertyError::Unknown { .. } | PropertyError::Value { .. } => Code::Invalid,
        PropertyError::Fixed { .. } | PropertyError::By { .. } | PropertyError::ReadOnly { .. } => Code::NoPermission,
    };
    Error::new(code, error.to_string())
}

/// Every property of `table`, set or by default, in the table's order.
pub(super) fn all_properties(table: &[Property], set: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let value = |p: &Property| set.get(p.name).cloned().unwrap_or_else(|| p.default.to_string());
    table.iter().map(|p| (p.name.to_string(), value(p))).collect()
}

#[cfg(test)]
mod tests;

//! A pool's state: properties, map version, containers, snapshots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::{
    Code, ContainerId, ContainerProperty, Epoch, Error, Label, Layout, PoolId, PoolProperty, Property, PropertyError,
    Span, check_property,
};

use super::replica::StateMachine;
use super::system::{Phase, unknown};
use crate::target::order::PoolShare;

/// Most containers in a pool, snapshots of a container and attributes of a container: each is part
/// of a document that is rewritten whole.
const CONTAINERS_MAX: usize = 4096;
const SNAPSHOTS_MAX: usize = 1024;
const ATTRIBUTES_MAX: usize = 1024;
/// Longest attribute name and value, in bytes.
const ATTRIBUTE_NAME_BYTES_MAX: usize = 512;
const ATTRIBUTE_VALUE_BYTES_MAX: usize = 64 << 10;
/// Object ids below this are reserved to the faces (a POSIX container's superblock and root).
const FIRST_OBJECT_ID: u64 = 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolState {
    pub id: PoolId,
    pub label: String,
    pub map_version: u32,
    pub targets: u32,
    pub bytes_per_target: u64,
    /// Only those that were set; the table has the defaults.
    pub properties: BTreeMap<String, String>,
    pub containers: BTreeMap<ContainerId, Container>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub label: Option<String>,
    /// [`Layout`]'s name.
    pub layout: String,
    pub created: Epoch,
    pub phase: Phase,
    pub properties: BTreeMap<String, String>,
    pub attributes: BTreeMap<String, Hex>,
    /// Oldest first; a snapshot without a name has the empty one.
    pub snapshots: BTreeMap<Epoch, String>,
    pub next_object_id: u64,
    /// A rollback that some targets may not know of yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
}

/// Going back to `to`, as asked for at `asked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    pub to: Epoch,
    pub asked: Epoch,
}

/// Bytes, as hexadecimal text in the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|b| format!("{b:02x}")).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hex, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes();
        let pairs = digits.chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        pairs.collect::<Option<Vec<u8>>>().map(Hex).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

pub enum PoolCommand {
    Resize {
        bytes_per_target: u64,
    },
    SetProperties {
        values: Vec<(String, String)>,
    },
    CreateContainer {
        id: ContainerId,
        label: Option<Label>,
        layout: Layout,
        created: Epoch,
        properties: Vec<(String, String)>,
        attributes: Vec<(String, Vec<u8>)>,
    },
    ContainerCreated {
        id: ContainerId,
    },
    DestroyContainer {
        id: ContainerId,
    },
    ContainerDestroyed {
        id: ContainerId,
    },
    SetContainerProperties {
        id: ContainerId,
        values: Vec<(String, String)>,
    },
    SetAttributes {
        id: ContainerId,
        attributes: Vec<(String, Vec<u8>)>,
    },
    DeleteAttributes {
        id: ContainerId,
        names: Vec<String>,
    },
    CreateSnapshot {
        id: ContainerId,
        epoch: Epoch,
        name: String,
    },
    DestroySnapshot {
        id: ContainerId,
        epoch: Epoch,
    },
    /// Later snapshots go too.
    Rollback {
        id: ContainerId,
        rollback: Rollback,
    },
    /// Every target knows.
    RolledBack {
        id: ContainerId,
    },
    AllocateObjectIds {
        id: ContainerId,
        count: u64,
    },
}

impl StateMachine for PoolState {
    const NAME: &'static str = "pool";
    type Command = PoolCommand;
    /// First of the ids handed out; 0 for every other command.
    type Output = u64;

    fn apply(&mut self, command: PoolCommand) -> Result<u64, Error> {
        match command {
            PoolCommand::Resize { bytes_per_target } => self.bytes_per_target = bytes_per_target,
            PoolCommand::SetProperties { values } => {
                for (name, value) in values {
                    let property = checked(types::PoolProperty::TABLE, &name, &value, false)?;
                    if property.name == "label" {
                        self.label.clone_from(&value);
                    }
                    self.properties.insert(property.name.to_string(), value);
                }
            }
            PoolCommand::CreateContainer { id, label, layout, created, properties, attributes } => {
                self.create_container(id, label, layout, created, properties, attributes)?;
            }
            PoolCommand::ContainerCreated { id } => self.container_mut(id)?.phase = Phase::Ready,
            PoolCommand::DestroyContainer { id } => self.container_mut(id)?.phase = Phase::Destroying,
            PoolCommand::ContainerDestroyed { id } => {
                self.containers.remove(&id);
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
            PoolCommand::CreateSnapshot { id, epoch, name } => self.container_mut(id)?.create_snapshot(epoch, name)?,
            PoolCommand::DestroySnapshot { id, epoch } => {
                let removed = self.container_mut(id)?.snapshots.remove(&epoch);
                removed.ok_or_else(|| Error::new(Code::NotFound, format!("no snapshot at {epoch}")))?;
            }
            PoolCommand::Rollback { id, rollback } => {
                let container = self.container_mut(id)?;
                container.snapshots.retain(|epoch, _| *epoch <= rollback.to);
                container.rollback = Some(rollback);
            }
            PoolCommand::RolledBack { id } => self.container_mut(id)?.rollback = None,
            PoolCommand::AllocateObjectIds { id, count } => {
                let container = self.container_mut(id)?;
                let first = container.next_object_id;
                container.next_object_id = first
                    .checked_add(count)
                    .ok_or_else(|| Error::new(Code::Quota, "the container has handed out all its object ids"))?;
                return Ok(first);
            }
        }
        Ok(0)
    }
}

impl PoolState {
    /// What each target gives.
    pub fn share(&self) -> PoolShare {
        let property = |name: &str| {
            let default = PoolProperty::TABLE.iter().find(|row| row.name == name).map_or("", |row| row.default);
            self.properties.get(name).map_or(default, String::as_str)
        };
        let percent: u64 = property("space_rb").parse().unwrap_or(0);
        PoolShare {
            quota: self.bytes_per_target,
            reserve: self.bytes_per_target / 100 * percent.min(100),
            scrub: property("scrub_freq").parse().unwrap_or(Span::FOREVER),
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

    fn container_mut(&mut self, id: ContainerId) -> Result<&mut Container, Error> {
        self.containers.get_mut(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no container {id}")))
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
        layout: Layout,
        created: Epoch,
        properties: Vec<(String, String)>,
        attributes: Vec<(String, Vec<u8>)>,
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
        let mut set = BTreeMap::new();
        for (name, value) in properties {
            let property = checked(ContainerProperty::TABLE, &name, &value, true)?;
            set.insert(property.name.to_string(), value);
        }
        let mut container = Container {
            label: label.map(|l| l.to_string()),
            layout: layout.name().to_string(),
            created,
            phase: Phase::Creating,
            properties: set,
            attributes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            next_object_id: FIRST_OBJECT_ID,
            rollback: None,
        };
        container.set_attributes(attributes)?;
        self.containers.insert(id, container);
        Ok(())
    }

    fn set_container_properties(&mut self, id: ContainerId, values: Vec<(String, String)>) -> Result<(), Error> {
        for (name, value) in values {
            let property = checked(ContainerProperty::TABLE, &name, &value, false)?;
            if property.name == "label" {
                self.check_label(&value, Some(id))?;
                self.container_mut(id)?.label = Some(value.clone());
            }
            self.container_mut(id)?.properties.insert(property.name.to_string(), value);
        }
        Ok(())
    }
}

impl Container {
    pub fn layout(&self) -> Layout {
        self.layout.parse().unwrap_or_default()
    }

    /// How much history stays readable beside the snapshots.
    pub fn retention(&self) -> Span {
        self.properties.get("retention").and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    fn set_attributes(&mut self, attributes: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        for (name, value) in attributes {
            if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX {
                let text = format!("an attribute's name has 1 to {ATTRIBUTE_NAME_BYTES_MAX} bytes, not {}", name.len());
                return Err(Error::new(Code::Invalid, text));
            }
            if value.len() > ATTRIBUTE_VALUE_BYTES_MAX {
                let text = format!("attribute '{name}' of {} bytes is over {ATTRIBUTE_VALUE_BYTES_MAX}", value.len());
                return Err(Error::new(Code::ValueTooBig, text).remedy("store it as a value in an object"));
            }
            self.attributes.insert(name, Hex(value));
        }
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Err(Error::new(Code::Quota, format!("a container has at most {ATTRIBUTES_MAX} attributes")));
        }
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
        PropertyError::Fixed { .. } | PropertyError::ReadOnly { .. } => Code::NoPermission,
    };
    Error::new(code, error.to_string())
}

/// Every property of `table`, set or by default, in the table's order.
pub(super) fn all_properties(table: &[Property], set: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let value = |p: &Property| set.get(p.name).cloned().unwrap_or_else(|| p.default.to_string());
    table.iter().map(|p| (p.name.to_string(), value(p))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 16])
    }
    fn pool_with(label: &str) -> PoolState {
        let mut pool = PoolState {
            id: PoolId::from_bytes([9; 16]),
            label: "tank".into(),
            map_version: 1,
            targets: 2,
            bytes_per_target: 1 << 30,
            properties: BTreeMap::new(),
            containers: BTreeMap::new(),
        };
        pool.apply(create(1, label)).unwrap();
        pool.apply(PoolCommand::ContainerCreated { id: id(1) }).unwrap();
        pool
    }
    fn create(n: u8, label: &str) -> PoolCommand {
        PoolCommand::CreateContainer {
            id: id(n),
            label: Some(Label::parse(label).unwrap()),
            layout: Layout::Posix,
            created: Epoch(5),
            properties: vec![],
            attributes: vec![],
        }
    }

    #[test]
    fn ids_are_handed_out_once_and_above_the_reserved_ones() {
        let mut pool = pool_with("home");
        let first = pool.apply(PoolCommand::AllocateObjectIds { id: id(1), count: 10 }).unwrap();
        let second = pool.apply(PoolCommand::AllocateObjectIds { id: id(1), count: 1 }).unwrap();
        assert_eq!((first, second), (FIRST_OBJECT_ID, FIRST_OBJECT_ID + 10));
        assert!(pool.apply(PoolCommand::AllocateObjectIds { id: id(1), count: u64::MAX }).is_err());
    }

    #[test]
    fn snapshots_are_found_by_name_and_by_epoch() {
        let mut pool = pool_with("home");
        let snap =
            |epoch, name: &str| PoolCommand::CreateSnapshot { id: id(1), epoch: Epoch(epoch), name: name.into() };
        pool.apply(snap(10, "before")).unwrap();
        pool.apply(snap(20, "")).unwrap();
        assert_eq!(pool.apply(snap(30, "before")).unwrap_err().code, Code::Exists);
        assert_eq!(pool.find_snapshot(id(1), "before"), Ok(Epoch(10)));
        assert_eq!(pool.find_snapshot(id(1), "0x14"), Ok(Epoch(20)));
        assert_eq!(pool.find_snapshot(id(1), "befor").unwrap_err().remedy.unwrap(), "did you mean 'before'?");
        pool.apply(PoolCommand::DestroySnapshot { id: id(1), epoch: Epoch(10) }).unwrap();
        assert!(pool.find_snapshot(id(1), "before").is_err());
    }

    #[test]
    fn a_refused_label_leaves_both_containers_as_they_were() {
        let mut pool = pool_with("home");
        pool.apply(create(2, "work")).unwrap();
        let rename = PoolCommand::SetContainerProperties { id: id(2), values: vec![("label".into(), "home".into())] };
        assert_eq!(pool.apply(rename).unwrap_err().code, Code::Exists);
        assert_eq!(pool.container(id(2)).unwrap().label.as_deref(), Some("work"));
    }

    /// The state survives its document, attributes of any bytes included.
    #[test]
    fn state_round_trips_as_json() {
        let mut pool = pool_with("home");
        let attributes = vec![("raw".to_string(), vec![0, 255, 10])];
        pool.apply(PoolCommand::SetAttributes { id: id(1), attributes }).unwrap();
        pool.apply(PoolCommand::CreateSnapshot { id: id(1), epoch: Epoch(7), name: "a".into() }).unwrap();
        let text = serde_json::to_string(&pool).unwrap();
        assert_eq!(serde_json::from_str::<PoolState>(&text).unwrap(), pool);
    }
}

//! The system's state: which pools there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::{Code, Error, Label, PoolId};
use uuid::Uuid;

use super::replica::StateMachine;

/// Most pools in a system; each has a document and a row on every target.
const POOLS_MAX: usize = 1024;

/// All that the system as a whole knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemState {
    pub name: String,
    pub id: Uuid,
    pub pools: BTreeMap<PoolId, PoolRow>,
}

/// One pool, as the system sees it; the rest is in the pool's own state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolRow {
    pub label: String,
    pub bytes_per_target: u64,
    pub phase: Phase,
}

/// Where a thing made on several targets stands. A restart carries on from here.
///
/// ```text
///  (none) --create--> Creating --done--> Ready --destroy--> Destroying --done--> (none)
///                         \_______________destroy______________/
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Creating,
    Ready,
    Destroying,
}

pub enum SystemCommand {
    CreatePool { id: PoolId, label: Label, bytes_per_target: u64 },
    PoolCreated { id: PoolId },
    DestroyPool { id: PoolId },
    PoolDestroyed { id: PoolId },
    RelabelPool { id: PoolId, label: Label },
    ResizePool { id: PoolId, bytes_per_target: u64 },
}

impl StateMachine for SystemState {
    const NAME: &'static str = "system";
    type Command = SystemCommand;
    type Output = ();

    fn apply(&mut self, command: SystemCommand) -> Result<(), Error> {
        match command {
            SystemCommand::CreatePool { id, label, bytes_per_target } => {
                self.check_label(&label, None)?;
                if self.pools.len() >= POOLS_MAX {
                    return Err(Error::new(Code::Quota, format!("the system has {POOLS_MAX} pools, its limit"))
                        .remedy("destroy a pool first"));
                }
                let row = PoolRow { label: label.to_string(), bytes_per_target, phase: Phase::Creating };
                self.pools.insert(id, row);
            }
            SystemCommand::PoolCreated { id } => self.row(id)?.phase = Phase::Ready,
            SystemCommand::DestroyPool { id } => self.row(id)?.phase = Phase::Destroying,
            SystemCommand::PoolDestroyed { id } => {
                self.pools.remove(&id);
            }
            SystemCommand::RelabelPool { id, label } => {
                self.check_label(&label, Some(id))?;
                self.row(id)?.label = label.to_string();
            }
            SystemCommand::ResizePool { id, bytes_per_target } => self.row(id)?.bytes_per_target = bytes_per_target,
        }
        Ok(())
    }
}

impl SystemState {
    /// The ready pool called `name`, a label or a UUID.
    ///
    /// # Errors
    /// `NotFound`, with the nearest label.
    pub fn find(&self, name: &str) -> Result<PoolId, Error> {
        let ready = || self.pools.iter().filter(|(_, row)| row.phase == Phase::Ready);
        let found = match name.parse::<PoolId>() {
            Ok(id) => ready().find(|(known, _)| **known == id),
            Err(_) => ready().find(|(_, row)| row.label == name),
        };
        found.map(|(id, _)| *id).ok_or_else(|| {
            let nearest = types::nearest(name, ready().map(|(_, row)| row.label.as_str()));
            unknown("pool", name, nearest, "list pools with `dmg pool list`")
        })
    }

    fn row(&mut self, id: PoolId) -> Result<&mut PoolRow, Error> {
        self.pools.get_mut(&id).ok_or_else(|| Error::new(Code::NotFound, format!("no pool {id}")))
    }

    /// Whether a pool may be called `label`. `except`: the pool that is to be renamed.
    ///
    /// # Errors
    /// `Exists`.
    pub fn check_label(&self, label: &Label, except: Option<PoolId>) -> Result<(), Error> {
        match self.pools.iter().find(|(id, row)| row.label == label.as_str() && Some(**id) != except) {
            Some((id, _)) => Err(Error::new(Code::Exists, format!("a pool labelled '{label}' exists already ({id})"))
                .remedy("choose another label")),
            None => Ok(()),
        }
    }
}

/// "No such thing", with the nearest name or the command that lists the names.
pub(super) fn unknown(what: &str, name: &str, nearest: Option<&str>, list: &str) -> Error {
    let error = Error::new(Code::NotFound, format!("no {what} '{name}'"));
    match nearest {
        Some(nearest) => error.remedy(format!("did you mean '{nearest}'?")),
        None => error.remedy(list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> SystemState {
        SystemState { name: "daos_server".into(), id: Uuid::nil(), pools: BTreeMap::new() }
    }
    fn id(n: u8) -> PoolId {
        PoolId::from_bytes([n; 16])
    }
    fn create(n: u8, label: &str) -> SystemCommand {
        SystemCommand::CreatePool { id: id(n), label: Label::parse(label).unwrap(), bytes_per_target: 1 }
    }

    #[test]
    fn a_pool_is_found_by_label_or_uuid_once_it_is_ready() {
        let mut system = system();
        system.apply(create(1, "tank")).unwrap();
        assert_eq!(system.find("tank").unwrap_err().code, Code::NotFound);
        system.apply(SystemCommand::PoolCreated { id: id(1) }).unwrap();
        assert_eq!(system.find("tank"), Ok(id(1)));
        assert_eq!(system.find(&id(1).to_string()), Ok(id(1)));
        let error = system.find("tnak").unwrap_err();
        assert_eq!(error.remedy.as_deref(), Some("did you mean 'tank'?"));
    }

    #[test]
    fn two_pools_never_share_a_label() {
        let mut system = system();
        system.apply(create(1, "tank")).unwrap();
        assert_eq!(system.apply(create(2, "tank")).unwrap_err().code, Code::Exists);
        system.apply(create(2, "bay")).unwrap();
        let relabel = SystemCommand::RelabelPool { id: id(2), label: Label::parse("tank").unwrap() };
        assert_eq!(system.apply(relabel).unwrap_err().code, Code::Exists);
        let same = SystemCommand::RelabelPool { id: id(2), label: Label::parse("bay").unwrap() };
        assert!(system.apply(same).is_ok());
    }
}

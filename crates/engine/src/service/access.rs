//! Access control lists and owners: kept in the pool's state, and obeyed by nobody yet.
//!
//! # Not here
//! What a list is (`types::Acl`); who asks, which nobody proves, so nothing is refused by a list.

use types::{Acl, AclOf, Code, ContainerId, Error, PrincipalName};
use wire::control::{self as msg, AclChange};

use super::Service;
use super::containers::other_request;
use super::pool::{Container, PoolCommand, PoolDone, PoolState};
use super::route::Call;
use super::slot::Slot;

/// Text of the lists of a pool and its containers together: an eighth of what a snapshot of the state may have, and room
/// for 2 KiB a container.
const ACLS_BYTES_MAX: usize = 8 << 20;

impl PoolState {
    /// The list of a container that is about to be made.
    pub(super) fn first_acl(&self, wanted: Option<Acl>) -> Result<Acl, Error> {
        let acl = wanted.unwrap_or_else(|| AclOf::Container.default_acl());
        acl.check(AclOf::Container)?;
        self.check_room(&acl, &Acl::default())?;
        Ok(acl)
    }

    /// Changes the list of a container, or of the pool. Targets do not act upon it.
    pub(super) fn change_acl(&mut self, container: Option<ContainerId>, change: AclChange) -> Result<(), Error> {
        let (of, old) = match container {
            Some(id) => (AclOf::Container, &self.container(id)?.acl),
            None => (AclOf::Pool, &self.acl),
        };
        let new = match change {
            AclChange::Overwrite { acl } => acl,
            AclChange::Update { acl } => old.updated(&acl)?,
            AclChange::Delete { principal } => old.without(&principal).ok_or_else(|| {
                let text = format!("the ACL of the {of} has no entry for {principal}");
                Error::new(Code::NotFound, text).remedy("see the entries with `get-acl`")
            })?,
        };
        new.check(of)?;
        self.check_room(&new, old)?;
        match container {
            Some(id) => self.container_mut(id)?.acl = new,
            None => self.acl = new,
        }
        Ok(())
    }

    /// Whether there is room for a list in place of another. What makes them smaller is always taken. Cost: a look at every entry
    /// of the pool.
    fn check_room(&self, new: &Acl, old: &Acl) -> Result<(), Error> {
        let others = self.containers.values().map(|container| container.acl.bytes()).sum::<usize>() + self.acl.bytes();
        if new.bytes() > old.bytes() && others - old.bytes() + new.bytes() > ACLS_BYTES_MAX {
            let text =
                format!("the ACLs of pool '{}' and its containers have {ACLS_BYTES_MAX} bytes, the limit", self.label);
            return Err(Error::new(Code::Quota, text).remedy("permit it to groups instead of their members"));
        }
        Ok(())
    }

    /// Gives a container another owner, or owner's group. They are where its properties are.
    pub(super) fn set_owner(
        &mut self,
        id: ContainerId,
        user: Option<PrincipalName>,
        group: Option<PrincipalName>,
    ) -> Result<(), Error> {
        let container = self.container_mut(id)?;
        for (property, name) in [("owner", user), ("group", group)] {
            container.properties.extend(name.map(|name| (property.to_string(), name.to_string())));
        }
        Ok(())
    }

    fn owned_acl(&self) -> msg::OwnedAcl {
        let property = |name| self.property(name).to_string();
        msg::OwnedAcl { owner: property("owner"), group: property("group"), acl: self.acl.clone() }
    }
}

impl Container {
    pub(super) fn owned_acl(&self) -> msg::OwnedAcl {
        let property = |name| self.properties.get(name).cloned().unwrap_or_default();
        msg::OwnedAcl { owner: property("owner"), group: property("group"), acl: self.acl.clone() }
    }
}

impl Service {
    pub(super) fn pool_acl(&self, slot: &Slot<PoolState>) -> msg::OwnedAcl {
        slot.group.local(PoolState::owned_acl)
    }

    pub(super) async fn pool_change_acl(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::PoolChangeAcl,
    ) -> Result<msg::OwnedAcl, Error> {
        let command = PoolCommand::ChangeAcl { container: None, change: request.change };
        slot.propose(Some(term), call.name(), &command).await??;
        Ok(self.pool_acl(slot))
    }

    pub(super) async fn container_change_acl(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::ContainerChangeAcl,
    ) -> Result<msg::OwnedAcl, Error> {
        let change = request.change;
        let make = |_: &PoolState, id| Ok(PoolCommand::ChangeAcl { container: Some(id), change });
        // By its id: a repeat may find it under another label.
        match self.change(call, slot, term, &request.container, make).await? {
            PoolDone::Container { id } => slot.group.local(|pool| Ok(pool.container(id)?.owned_acl())),
            _ => Err(other_request()),
        }
    }

    pub(super) async fn container_set_owner(
        &self,
        call: &Call,
        slot: &Slot<PoolState>,
        term: u64,
        request: msg::ContainerSetOwner,
    ) -> Result<(), Error> {
        let msg::ContainerSetOwner { user, group, .. } = request;
        if user.is_none() && group.is_none() {
            let error = Error::new(Code::Invalid, "neither an owner nor an owner's group is named");
            return Err(error.remedy("name one of them, or both"));
        }
        let make = |_: &PoolState, id| Ok(PoolCommand::SetOwner { id, user, group });
        self.change(call, slot, term, &request.container, make).await?;
        Ok(())
    }
}

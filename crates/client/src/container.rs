//! A container: properties, attributes, snapshots, and the way to its objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::object::ArrayShape;
use ::object::retry;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use placement::GroupNumber;
use types::{
    Chosen, Code, ContainerId, Epoch, Error, Hints, ObjectClass, ObjectId, ObjectType, PrincipalName, Rank, Redundancy,
    Result, SymbolicClass,
};
use wire::Opcode;
use wire::control::{self, AclChange, ContainerInfo, ObjectIdRange, OwnedAcl, SnapshotInfo};
use wire::data::{
    DiffRequest, DiffResponse, Difference, Direction, LIST_ENTRIES_MAX, ListObjectsRequest, ListObjectsResponse,
};

use crate::call::{Outgoing, decode};
use crate::ids::IdRange;
use crate::pool::Routed;
use crate::view::To;
use crate::{Array, IN_FLIGHT_MAX, Kv, Object, Pool};

/// The objects of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectList {
    /// In order of their ids.
    pub objects: Vec<ObjectId>,
    /// Servers that are out, and were not asked, because what is as redundant as the container says is elsewhere, too. Of
    /// objects with fewer copies they may have what nobody else tells of: where any is named, such may be missing.
    pub unheard: Vec<Rank>,
}

/// An open container, as it is now or as it was at an epoch.
#[derive(Clone)]
pub struct Container {
    inner: Arc<Inner>,
    view: View,
}

struct Inner {
    pool: Pool,
    id: ContainerId,
    label: String,
    /// For objects whose class nobody chose: the name of a class, or of a rule to choose by; or empty.
    class: String,
    /// Failures that objects are to survive.
    redundancy_factor: usize,
    ids: IdRange,
}

/// When a handle looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    Latest,
    At(Epoch),
}

impl Container {
    pub(crate) fn new(pool: Pool, info: ContainerInfo) -> Container {
        let property = |wanted: &str| info.properties.iter().find(|(name, _)| name == wanted).map(|(_, text)| text);
        let class = property("oclass").cloned().unwrap_or_default();
        let redundancy_factor = property("rd_fac").and_then(|text| text.parse().ok()).unwrap_or(0);
        let label = if info.label.is_empty() { info.id.to_string() } else { info.label };
        let inner = Inner { pool, id: info.id, label, class, redundancy_factor, ids: IdRange::default() };
        Container { inner: Arc::new(inner), view: View::Latest }
    }

    pub fn id(&self) -> ContainerId {
        self.inner.id
    }

    /// The label it had when it was opened; its id if it had none.
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub async fn info(&self) -> Result<ContainerInfo> {
        self.control(Opcode::ContainerQuery, &self.name()).await
    }

    /// Every property, set or by default.
    pub async fn properties(&self) -> Result<Vec<(String, String)>> {
        let properties: control::Properties = self.control(Opcode::ContainerGetProperties, &self.name()).await?;
        Ok(properties.values)
    }

    /// # Errors
    /// `Invalid`: an unknown property or a bad value; `NoPermission`: one that is fixed.
    pub async fn set_properties(&self, properties: Vec<(String, String)>) -> Result<()> {
        let control::ContainerName { pool, container } = self.name();
        let request = control::ContainerSetProperties { pool, container, properties };
        self.control(Opcode::ContainerSetProperties, &request).await
    }

    /// Its access control list, which is kept and not enforced yet; whoever may reach the system may do all of this.
    pub async fn acl(&self) -> Result<OwnedAcl> {
        self.control(Opcode::ContainerGetAcl, &self.name()).await
    }

    /// Changes the access control list, and returns what has become of it.
    ///
    /// # Errors
    /// `NotFound`: no entry of whose is to be deleted. `Invalid`: a permission that a container cannot give, or a list that
    /// is too long; `Quota`: with the others of the pool it is.
    pub async fn change_acl(&self, change: AclChange) -> Result<OwnedAcl> {
        let control::ContainerName { pool, container } = self.name();
        self.control(Opcode::ContainerChangeAcl, &control::ContainerChangeAcl { pool, container, change }).await
    }

    /// Gives the container another owner, or owner's group; whoever is not named stays.
    ///
    /// # Errors
    /// `Invalid`: neither is named.
    pub async fn set_owner(&self, user: Option<PrincipalName>, group: Option<PrincipalName>) -> Result<()> {
        let control::ContainerName { pool, container } = self.name();
        self.control(Opcode::ContainerSetOwner, &control::ContainerSetOwner { pool, container, user, group }).await
    }

    /// Values of the user attributes named; of all when none is.
    ///
    /// # Errors
    /// `NotFound`: one named is not there.
    pub async fn attributes(&self, names: &[&str]) -> Result<Vec<(String, Bytes)>> {
        let found: control::Attributes =
            self.control(Opcode::ContainerGetAttributes, &self.attribute_request(names)).await?;
        Ok(found.attributes.into_iter().map(|(name, value)| (name, value.0.into())).collect())
    }

    pub async fn set_attributes(&self, attributes: Vec<(String, Bytes)>) -> Result<()> {
        let control::ContainerName { pool, container } = self.name();
        let bytes = |(name, value): (String, Bytes)| (name, wire::encoding::Bytes(value.to_vec()));
        let request =
            control::SetAttributes { pool, container, attributes: attributes.into_iter().map(bytes).collect() };
        self.control(Opcode::ContainerSetAttributes, &request).await
    }

    pub async fn attribute_names(&self) -> Result<Vec<String>> {
        let found: control::Attributes = self.control(Opcode::ContainerListAttributes, &self.name()).await?;
        Ok(found.attributes.into_iter().map(|(name, _)| name).collect())
    }

    pub async fn delete_attributes(&self, names: &[&str]) -> Result<()> {
        self.control(Opcode::ContainerDeleteAttributes, &self.attribute_request(names)).await
    }

    /// Keeps the container as it is now, under an epoch and, if you like, a name.
    ///
    /// # Errors
    /// `Exists`: a snapshot has this name.
    pub async fn create_snapshot(&self, name: Option<&str>) -> Result<SnapshotInfo> {
        let control::ContainerName { pool, container } = self.name();
        let request = control::SnapshotCreate { pool, container, name: name.unwrap_or_default().into() };
        self.control(Opcode::SnapshotCreate, &request).await
    }

    /// Snapshots, oldest first.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let list: control::SnapshotList = self.control(Opcode::SnapshotList, &self.name()).await?;
        Ok(list.snapshots)
    }

    /// Lets a snapshot go. `snapshot`: a name, or an epoch as text.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn destroy_snapshot(&self, snapshot: &str) -> Result<()> {
        let control::ContainerName { pool, container } = self.name();
        let request = control::SnapshotDestroy { pool, container, snapshot: snapshot.into() };
        self.control(Opcode::SnapshotDestroy, &request).await
    }

    /// Takes the container back to a snapshot: what was written later is gone, later snapshots too.
    /// Writers get `Busy` (and try again by themselves) until the servers have removed it.
    ///
    /// # Errors
    /// `NotFound`: no such snapshot.
    pub async fn rollback(&self, snapshot: &str) -> Result<SnapshotInfo> {
        let control::ContainerName { pool, container } = self.name();
        let request = control::ContainerRollback { pool, container, snapshot: snapshot.into() };
        self.control(Opcode::ContainerRollback, &request).await
    }

    /// The container as it was at `epoch`, to read only. Stays readable while a snapshot keeps it.
    pub fn at(&self, epoch: Epoch) -> Container {
        Container { inner: self.inner.clone(), view: View::At(epoch) }
    }

    /// The container as a snapshot keeps it, to read only. `snapshot`: a name, or an epoch as text. An epoch
    /// may also be any moment within the container's `retention`; reads say when it is not.
    ///
    /// # Errors
    /// `NotFound`, with the names there are.
    pub async fn at_snapshot(&self, snapshot: &str) -> Result<Container> {
        let snapshots = self.snapshots().await?;
        let epoch = snapshot.parse::<Epoch>().ok();
        let named = snapshots.iter().find(|found| found.name == snapshot && !snapshot.is_empty());
        match named.or_else(|| snapshots.iter().find(|found| Some(found.epoch) == epoch)) {
            Some(found) => Ok(self.at(found.epoch)),
            None if epoch.is_some_and(|epoch| epoch > Epoch::ZERO) => Ok(self.at(epoch.unwrap_or_default())),
            None => {
                let names =
                    snapshots.iter().map(|s| if s.name.is_empty() { s.epoch.to_string() } else { s.name.clone() });
                let remedy = match names.collect::<Vec<_>>().join(", ") {
                    none if none.is_empty() => "it has no snapshots".to_string(),
                    some => format!("it has {some}"),
                };
                let text = format!("container '{}' has no snapshot '{snapshot}'", self.label());
                Err(Error::new(Code::NotFound, text).remedy(remedy))
            }
        }
    }

    /// The epoch this handle reads at; `None`: the latest.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.view {
            View::Latest => None,
            View::At(epoch) => Some(epoch),
        }
    }

    /// A range of `count` object ids that nobody else gets.
    pub async fn allocate_ids(&self, count: u64) -> Result<ObjectIdRange> {
        let control::ContainerName { pool, container } = self.name();
        self.control(Opcode::AllocateObjectIds, &control::AllocateObjectIds { pool, container, count }).await
    }

    /// Failures of servers that its objects are to survive: the property `rd_fac`.
    pub fn redundancy_factor(&self) -> usize {
        self.inner.redundancy_factor
    }

    /// The class of objects whose user names none, or a rule to choose one by; or nothing: the property `oclass`.
    pub fn object_class(&self) -> &str {
        &self.inner.class
    }

    /// A new object's id. Without a class the container's `oclass` is taken; or else copies as the redundancy factor has
    /// it, as far as the pool has fault domains, on all targets (`SX`, `RP_2GX`) for arrays and key-value stores and
    /// in one group (`S1`, `RP_2G1`) for the rest.
    ///
    /// # Errors
    /// `Invalid` or `NotSupported`: the pool cannot hold objects of this class.
    pub async fn new_object(&self, kind: ObjectType, class: Option<ObjectClass>) -> Result<ObjectId> {
        self.writable()?;
        let class = class.map_or_else(|| self.default_class(kind), Ok)?;
        self.inner.pool.view().admits_class(class)?;
        Ok(ObjectId::new(kind, class, 0, self.inner.ids.next(self).await?))
    }

    fn default_class(&self, kind: ObjectType) -> Result<ObjectClass> {
        let (name, factor, spread) = (&self.inner.class, self.inner.redundancy_factor, self.inner.pool.view().spread());
        if let Ok(class) = name.parse() {
            return Ok(class);
        }
        let symbolic = SymbolicClass::by_name(name);
        let chosen = match symbolic {
            Some(symbolic) => symbolic.resolve(factor, spread, kind),
            None => ObjectClass::automatic(factor, spread, kind, Hints::default()),
        };
        let Chosen { class, tolerates, .. } = chosen.map_err(|error| {
            Error::new(Code::Invalid, error.to_string()).remedy("name a class with fewer copies, such as SX")
        })?;
        match class.redundancy() {
            // Cells were not asked for, and nothing writes them yet: as many copies survive as much.
            Redundancy::Erasure { .. } if !name.to_ascii_uppercase().contains("EC_") => Ok(copied(class, tolerates)),
            _ => Ok(class),
        }
    }

    pub fn object(&self, oid: ObjectId) -> Object {
        Object::new(self.clone(), oid)
    }

    pub fn kv(&self, oid: ObjectId) -> Kv {
        Kv::new(self.object(oid))
    }

    pub fn array(&self, oid: ObjectId, shape: ArrayShape) -> Array {
        Array::new(self.object(oid), shape)
    }

    /// Every object with data.
    ///
    /// While servers are out, the others are asked: they have copies of all objects that are as redundant as the container
    /// says. Of others they may have none: the answer names the servers that were not asked. If more are out than the
    /// redundancy factor makes up for, they are waited for.
    ///
    /// Cost: a walk over every target's list; the result is held in memory.
    pub async fn list_objects(&self) -> Result<ObjectList> {
        let view = self.inner.pool.view();
        let (targets, mut unheard) = (view.witnesses(self.copies()), view.unheard(self.copies()));
        let of_target = |position| async move { self.list_objects_on(position).await };
        let lists: Vec<BTreeSet<ObjectId>> =
            stream::iter(targets).map(of_target).buffered(IN_FLIGHT_MAX).try_collect().await?;
        // Who went meanwhile may not have told all.
        unheard.extend(self.inner.pool.view().unheard(self.copies()));
        let objects = lists.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
        Ok(ObjectList { objects, unheard: unheard.into_iter().collect() })
    }

    fn copies(&self) -> usize {
        self.inner.redundancy_factor + 1
    }

    async fn list_objects_on(&self, position: u32) -> Result<BTreeSet<ObjectId>> {
        let mut objects = BTreeSet::new();
        let mut after = None;
        loop {
            let (limit, direction) = (LIST_ENTRIES_MAX, Direction::Forward);
            let request = ListObjectsRequest { container: self.id(), at: self.read_epoch(), after, limit, direction };
            let routed = || Routed { to: To::Target { position }, out: Outgoing::message(&request) };
            // What goes meanwhile has its objects elsewhere, too.
            let route = &mut |view: &Arc<crate::view::View>| Ok(view.is_witness(position, self.copies()).then(routed));
            let reply = self.located(self.inner.pool.call_if(Opcode::ListObjects, route).await)?;
            let Some(reply) = reply else { return Ok(objects) };
            let page: ListObjectsResponse = self.located(decode(Opcode::ListObjects, &reply))?;
            objects.extend(page.objects.into_iter().map(|(_, oid)| oid));
            if page.next.is_none() {
                return Ok(objects);
            }
            after = page.next;
        }
    }

    /// What differs between `from` and this handle's moment, given to `each` some at a time, target by target.
    /// Both moments must be kept: snapshots, or within the container's `retention`.
    ///
    /// Of several copies the leader's is told, as the pool map had it in the beginning. Returned are the servers that are out
    /// and were not asked, as of [`Container::list_objects`]: changes of objects with fewer copies than the container asks for
    /// may lie there and nowhere else.
    ///
    /// Cost: proportional to what changed.
    ///
    /// # Errors
    /// `NotFound`: a moment is not kept. `Again`: a server went while it told; what was given to `each` holds, and is
    /// not all.
    pub async fn diff(&self, from: Epoch, mut each: impl FnMut(Vec<Difference>)) -> Result<Vec<Rank>> {
        let first = self.inner.pool.view();
        for position in first.witnesses(self.copies()) {
            let mut after = wire::encoding::Bytes(Vec::new());
            loop {
                let (container, to) = (self.id(), self.read_epoch());
                let request = DiffRequest { container, from, to, after, limit: LIST_ENTRIES_MAX };
                let routed = || Routed { to: To::Target { position }, out: Outgoing::message(&request) };
                let route =
                    &mut |view: &Arc<crate::view::View>| Ok(view.is_witness(position, self.copies()).then(routed));
                let reply = self.located(self.inner.pool.call_if(Opcode::Diff, route).await)?;
                let reply = reply.ok_or_else(|| {
                    let (rank, target) = first.name(position);
                    let what = format!("target {target} of server {rank} went while it told what differs");
                    Error::new(Code::Again, what).remedy("start over")
                });
                let page: DiffResponse = self.located(reply.and_then(|reply| decode(Opcode::Diff, &reply)))?;
                let told = |found: &Difference| {
                    let group = GroupNumber::from_u32(found.group);
                    group.is_none_or(|group| first.leads(position, group.pg(), group.width()))
                };
                each(page.differences.into_iter().filter(told).collect());
                if page.next.0.is_empty() {
                    break;
                }
                after = page.next;
            }
        }
        Ok(first.unheard(self.copies()).into_iter().collect())
    }

    /// The epoch in requests.
    pub(crate) fn read_epoch(&self) -> Epoch {
        self.epoch().unwrap_or(Epoch::MAX)
    }

    /// # Errors
    /// `NoPermission` on a view of the past.
    pub(crate) fn writable(&self) -> Result<()> {
        match self.view {
            View::Latest => Ok(()),
            View::At(epoch) => Err(Error::new(
                Code::NoPermission,
                format!("container '{}' is open as it was at {epoch}, which cannot change", self.label()),
            )
            .remedy("open the container itself to write")),
        }
    }

    fn name(&self) -> control::ContainerName {
        control::ContainerName { pool: self.inner.pool.name(), container: self.inner.id.to_string() }
    }

    fn attribute_request(&self, names: &[&str]) -> control::AttributeNames {
        let control::ContainerName { pool, container } = self.name();
        control::AttributeNames { pool, container, names: names.iter().map(|name| name.to_string()).collect() }
    }

    async fn control<R: wire::Wire>(&self, opcode: Opcode, request: &(impl wire::Wire + Sync)) -> Result<R> {
        self.located(self.inner.pool.system().control(opcode, request).await)
    }

    fn located<T>(&self, result: Result<T>) -> Result<T> {
        retry::located(result, self.label(), || {
            format!("container '{}' of pool '{}'", self.label(), self.inner.pool.label())
        })
    }
}

/// As many groups, each of copies enough to survive so many failures.
fn copied(class: ObjectClass, tolerates: usize) -> ObjectClass {
    let copies = u8::try_from(tolerates + 1).unwrap_or(u8::MAX);
    ObjectClass::of(Redundancy::Replicas { copies }, class.groups()).unwrap_or(class)
}

//! A pool: its map, its targets, its containers.

use std::sync::{Arc, Mutex};

use ::object::map::AddressedMap;
use ::object::retry::{self, Failure};
use net::{Address, Reply};
use placement::{Layout as Placement, Placed};
use types::{Code, Error, Layout, ObjectId, PoolId, Rank, Result, TargetIndex};
use wire::Opcode;
use wire::control::{self, ContainerInfo, PoolInfo};

use crate::call::{Again, Operation, Outgoing};
use crate::link::Link;
use crate::{Container, System};

/// What a container is to be.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    pub label: Option<String>,
    pub layout: Layout,
    pub properties: Vec<(String, String)>,
    pub attributes: Vec<(String, bytes::Bytes)>,
}

impl ContainerSpec {
    /// A container called `label`, with defaults for the rest.
    pub fn labelled(label: &str) -> ContainerSpec {
        ContainerSpec { label: Some(label.into()), ..ContainerSpec::default() }
    }
}

/// An open pool.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    system: System,
    id: PoolId,
    label: String,
    view: Mutex<Arc<View>>,
    /// Held by the one who fetches a newer map.
    refreshing: tokio::sync::Mutex<()>,
}

/// One version of the pool map, ready for use.
pub(crate) struct View {
    pub(crate) version: u32,
    pub(crate) placement: Placement,
    /// By position in the map.
    pub(crate) targets: Vec<TargetView>,
}

pub(crate) struct TargetView {
    pub(crate) rank: Rank,
    pub(crate) index: TargetIndex,
    up: bool,
    /// `None`: nobody knows where its server answers.
    link: Option<Arc<Link>>,
}

/// What to send, and to which target, by position in the map.
pub(crate) struct Routed {
    pub(crate) position: usize,
    pub(crate) out: Outgoing,
}

impl Pool {
    pub(crate) fn new(system: System, map: control::PoolMap) -> Result<Pool> {
        let (id, label) = (map.id, map.label.clone());
        let view = Mutex::new(Arc::new(View::new(&system, map)?));
        Ok(Pool { inner: Arc::new(Inner { system, id, label, view, refreshing: tokio::sync::Mutex::new(()) }) })
    }

    pub fn id(&self) -> PoolId {
        self.inner.id
    }

    /// The label it had when it was opened.
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    pub fn system(&self) -> &System {
        &self.inner.system
    }

    /// State and space.
    pub async fn info(&self) -> Result<PoolInfo> {
        self.located(self.inner.system.pool_info(&self.name()).await)
    }

    pub async fn containers(&self) -> Result<Vec<ContainerInfo>> {
        let list: control::ContainerList =
            self.control(Opcode::ContainerList, &control::PoolName { pool: self.name() }).await?;
        Ok(list.containers)
    }

    /// # Errors
    /// `Exists`: a container has this label. `Invalid`: label, properties or attributes.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerInfo> {
        let attribute = |(name, value): (String, bytes::Bytes)| (name, wire::encoding::Bytes(value.to_vec()));
        let request = control::ContainerCreate {
            pool: self.name(),
            label: spec.label.unwrap_or_default(),
            layout: spec.layout,
            properties: spec.properties,
            attributes: spec.attributes.into_iter().map(attribute).collect(),
        };
        self.control(Opcode::ContainerCreate, &request).await
    }

    /// Removes a container and its data. `name`: label or UUID.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn destroy_container(&self, name: &str) -> Result<()> {
        let request = control::ContainerDestroy { pool: self.name(), container: name.into() };
        self.control(Opcode::ContainerDestroy, &request).await
    }

    /// Opens a container. `name`: label or UUID.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn container(&self, name: &str) -> Result<Container> {
        let request = control::ContainerName { pool: self.name(), container: name.into() };
        let info: ContainerInfo = self.control(Opcode::ContainerQuery, &request).await?;
        Ok(Container::new(self.clone(), info))
    }

    /// The pool in requests: its id, which a change of label does not touch.
    pub(crate) fn name(&self) -> String {
        self.inner.id.to_string()
    }

    pub(crate) async fn control<R: wire::Wire>(&self, opcode: Opcode, request: &(impl wire::Wire + Sync)) -> Result<R> {
        self.located(self.inner.system.control(opcode, request).await)
    }

    fn located<T>(&self, result: Result<T>) -> Result<T> {
        retry::located(result, &self.inner.label, || format!("pool '{}'", self.inner.label))
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.inner.view.lock().expect("nothing panics while it holds the pool map").clone()
    }

    /// Asks one target. `route` says which (by position) and what, by the pool map in use; it is
    /// asked again for every attempt.
    pub(crate) async fn call(
        &self,
        opcode: Opcode,
        route: &mut (dyn FnMut(&Arc<View>) -> Result<Routed> + Send),
    ) -> Result<Reply> {
        let mut operation = Operation::new(self.inner.system.links(), opcode, self.inner.system.deadline());
        let mut last: Option<Failure> = None;
        loop {
            let view = self.view();
            let Routed { position, out } = match (route(&view), last.take()) {
                (Ok(routed), _) => routed,
                (Err(_), Some(failure)) => return Err(operation.give_up(failure)),
                (Err(error), None) => return Err(error),
            };
            let Some(target) = view.targets.get(position) else {
                return Err(Error::new(Code::Again, "the pool has shrunk while its targets were walked over"));
            };
            let link = target.link.as_ref().filter(|_| target.up);
            let failure = match link {
                Some(link) => match operation.attempt(self.inner.system.links(), link, out).await {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => failure,
                },
                None => Failure::Refused(target.down()),
            };
            let again = operation.after(failure.clone()).await?;
            if again == Again::NewMap || link.is_none() {
                self.refresh(view.version).await;
            }
            last = Some(failure);
        }
    }

    /// Fetches the pool map, unless somebody has got one newer than `known` meanwhile. A failure
    /// is the next attempt's to meet.
    async fn refresh(&self, known: u32) {
        let _refreshing = self.inner.refreshing.lock().await;
        if self.view().version > known {
            return;
        }
        let fetched = async {
            let name = control::PoolName { pool: self.name() };
            let map: control::PoolMap = self.inner.system.control(Opcode::PoolConnect, &name).await?;
            View::new(&self.inner.system, map)
        };
        match fetched.await {
            Ok(view) => *self.inner.view.lock().expect("nothing panics while it holds the pool map") = Arc::new(view),
            Err(error) => tracing::warn!(pool = self.inner.label, %error, "the pool map could not be fetched"),
        }
    }
}

impl View {
    fn new(system: &System, map: control::PoolMap) -> Result<View> {
        let version = map.version;
        let located = |error: Error| Error { message: format!("pool '{}': {}", map.label, error.message), ..error };
        let AddressedMap { map: pool_map, addresses } = ::object::map::from_message(&map).map_err(located)?;
        let placement = Placement::new(pool_map);
        let address_of = |text: &String| text.parse::<Address>().ok();
        let addresses: Vec<Option<Address>> = addresses.iter().map(address_of).collect();
        let view = |target: &placement::Target| {
            let address = addresses.get(target.server as usize).and_then(Option::as_ref);
            let link = address.map(|address| system.links().target(address, target.index.0));
            TargetView { rank: target.rank, index: target.index, up: target.state().serves(), link }
        };
        let targets = placement.map().targets().iter().map(view).collect();
        Ok(View { version, placement, targets })
    }
}

impl View {
    /// Where an object's groups lie.
    ///
    /// # Errors
    /// `Invalid`: its class cannot be placed in this pool. `NotSupported`: it is redundant, and nothing here writes
    /// copies or cells yet.
    pub(crate) fn place(&self, oid: ObjectId) -> Result<Placed> {
        let error =
            |code, what: String| Error::new(code, what).remedy("use a class without redundancy, such as S1 or SX");
        let placed = self.placement.place(oid).map_err(|found| error(Code::Invalid, found.to_string()))?;
        match (placed.slots(), oid.class()) {
            (1, _) | (_, None) => Ok(placed),
            (_, Some(class)) => {
                let what = format!("class {class} is redundant, which this release does not write yet");
                Err(error(Code::NotSupported, what))
            }
        }
    }
}

impl TargetView {
    /// Whether requests to it stay in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.link.as_ref().is_some_and(|link| matches!(link.address(), Address::Mem(_)))
    }

    fn down(&self) -> Error {
        Error::new(Code::Unreachable, format!("target {} of server {} is down", self.index, self.rank))
            .remedy("see `dmg system query`, and start the server again")
    }
}

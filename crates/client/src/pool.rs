//! A pool: its map, its targets, its containers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::object::map::{AddressedDelta, AddressedMap};
use ::object::retry::{self, Failure};
use futures_util::future::{Either, select};
use net::Reply;
use types::{Acl, Code, Error, Layout, ObjectClass, PoolId, Redundancy, Result, SymbolicClass, UNDER_WAY_MAX};
use wire::Opcode;
use wire::control::{self, AclChange, ContainerInfo, OwnedAcl, PoolInfo};
use wire::opcode::Repeat;

use crate::call::{Again, Operation, Outgoing};
use crate::link::Links;
use crate::view::{To, View};
use crate::window::Place;
use crate::{Container, System};

/// What a container is to be.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    pub label: Option<String>,
    pub layout: Layout,
    pub properties: Vec<(String, String)>,
    pub attributes: Vec<(String, bytes::Bytes)>,
    /// `None`: the default one.
    pub acl: Option<Acl>,
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
    /// Held by the one who fetches a newer map: when it was fetched last, or could not be.
    refreshing: tokio::sync::Mutex<Option<rt::Instant>>,
}

/// What to send, and to whom.
pub(crate) struct Routed {
    pub(crate) to: To,
    pub(crate) out: Outgoing,
}

/// The longest that one operation waits for a newer map before it tries again with the one there is.
const REFRESH_MAX: Duration = Duration::from_secs(2);
/// Every so many failures the whole map is fetched: a server that answers elsewhere now does not make a new version.
const WHOLE_MAP_EVERY: u32 = 4;
/// After this time without an answer it is asked whether who is to answer is still in the pool.
const SLOW: Duration = Duration::from_secs(1);
/// How often from then on. All slow requests share an answer.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Pool {
    pub(crate) fn new(system: System, map: control::PoolMap) -> Result<Pool> {
        let AddressedMap { map: found, addresses } = ::object::map::from_message(&map)?;
        let view = View::new(found, addresses);
        system.learn(view.addresses());
        let (view, refreshing) = (Mutex::new(Arc::new(view)), tokio::sync::Mutex::new(None));
        Ok(Pool { inner: Arc::new(Inner { system, id: map.id, label: map.label, view, refreshing }) })
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

    /// Its access control list, which is kept and not enforced yet; whoever may reach the system may do all of this.
    pub async fn acl(&self) -> Result<OwnedAcl> {
        self.located(self.inner.system.pool_acl(&self.name()).await)
    }

    /// # Errors
    /// As of [`System::change_pool_acl`].
    pub async fn change_acl(&self, change: AclChange) -> Result<OwnedAcl> {
        self.located(self.inner.system.change_pool_acl(&self.name(), change).await)
    }

    pub async fn containers(&self) -> Result<Vec<ContainerInfo>> {
        let list: control::ContainerList =
            self.control(Opcode::ContainerList, &control::PoolName { pool: self.name() }).await?;
        Ok(list.containers)
    }

    /// In how many ways its servers fail apart: copies of anything are at most as many.
    pub fn fault_domains(&self) -> usize {
        self.view().spread().domains
    }

    /// # Errors
    /// `Exists`: a container has this label. `Invalid`: label, properties, attributes or access control list; or a class or redundancy factor
    /// that the pool has too few fault domains for.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerInfo> {
        self.located(check_redundancy(&self.view(), &spec.properties))?;
        let attribute = |(name, value): (String, bytes::Bytes)| (name, wire::encoding::Bytes(value.to_vec()));
        let request = control::ContainerCreate {
            pool: self.name(),
            label: spec.label.unwrap_or_default(),
            layout: spec.layout,
            properties: spec.properties,
            attributes: spec.attributes.into_iter().map(attribute).collect(),
            acl: spec.acl,
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

    /// Asks whoever `route` says, by the pool map in use; it is asked again for every attempt.
    ///
    /// Who does not answer or is not the right one any more makes a newer map be fetched, and the same request, under
    /// the same number, goes to whom that one names. `None`: `route` says that there is nobody to ask any more.
    pub(crate) async fn call_if(
        &self,
        opcode: Opcode,
        route: &mut (dyn FnMut(&Arc<View>) -> Result<Option<Routed>> + Send),
    ) -> Result<Option<Reply>> {
        let links = self.inner.system.links();
        let began = rt::now();
        let _place = match opcode.repeat() {
            Repeat::Once => Some(self.enter(links).await?),
            Repeat::Harmless => None,
        };
        let left = self.inner.system.deadline().saturating_sub(began.elapsed());
        let mut operation = Operation::new(links, opcode, left);
        let mut last: Option<Failure> = None;
        // Counts those asked of several that may know.
        let mut turn = 0;
        loop {
            let view = self.view();
            let Routed { to, out } = match (route(&view), last.take()) {
                (Ok(Some(routed)), _) => routed,
                (Ok(None), _) => return Ok(None),
                (Err(_), Some(failure)) => return Err(operation.give_up(failure)),
                (Err(error), None) => return Err(error),
            };
            let (failure, others) = match view.candidates(to) {
                Ok(candidates) => {
                    // With a newer map there may be fewer than were asked.
                    let asked = candidates.get(turn).or_else(|| candidates.get(0));
                    let link = asked.map_or_else(|| Err(nobody()), |position| view.link(links, position));
                    let failure = match link {
                        Ok(link) => {
                            let attempt = std::pin::pin!(operation.attempt(links, &link, out));
                            let excluded = std::pin::pin!(self.excluded(&view, asked));
                            match select(attempt, excluded).await {
                                Either::Left((Ok(reply), _)) => return Ok(Some(reply)),
                                Either::Left((Err(failure), _)) => failure,
                                Either::Right((error, _)) => Failure::Lost(error),
                            }
                        }
                        Err(error) => Failure::Refused(error),
                    };
                    (failure, candidates.get(turn + 1).is_some())
                }
                Err(error) => (Failure::Refused(error), false),
            };
            if others && retry::another_may_know(&failure) {
                operation.passed_over(&failure);
                turn += 1;
            } else {
                let again = operation.after(failure.clone()).await?;
                turn = 0;
                if again == Again::NewMap {
                    let whole = operation.failures().is_multiple_of(WHOLE_MAP_EVERY);
                    self.refresh(view.version(), Duration::ZERO, operation.left(), whole).await;
                }
            }
            last = Some(failure);
        }
    }

    /// Waits until what was asked for long before is over.
    ///
    /// # Errors
    /// `TimedOut`.
    async fn enter<'a>(&self, links: &'a Links) -> Result<Place<'a>> {
        let deadline = self.inner.system.deadline();
        rt::timeout(deadline, links.window.enter()).await.map_err(|_| {
            let text =
                format!("{UNDER_WAY_MAX} requests before this one have not been answered in {} s", deadline.as_secs());
            Error::new(Code::TimedOut, text).remedy("see `dmg system query` for servers that do not answer")
        })
    }

    /// As [`Pool::call_if`], where there is always somebody to ask.
    pub(crate) async fn call(
        &self,
        opcode: Opcode,
        route: &mut (dyn FnMut(&Arc<View>) -> Result<Routed> + Send),
    ) -> Result<Reply> {
        self.call_if(opcode, &mut |view| route(view).map(Some)).await?.ok_or_else(nobody)
    }

    /// Waits until the pool's map says that a target, which is slow to answer, does not serve any more: whoever is dead, or
    /// cut off, says nothing.
    async fn excluded(&self, view: &View, position: Option<u32>) -> Error {
        // On one server there is nobody else to ask.
        if view.map().servers().len() == 1 {
            return std::future::pending().await;
        }
        // The first look is short: it may go by who has died, to who waits for him.
        let (mut pause, mut limit) = (SLOW, SLOW / 2);
        loop {
            rt::sleep(std::mem::replace(&mut pause, LOOK_AGAIN)).await;
            self.refresh(view.version(), LOOK_AGAIN, limit, false).await;
            limit = (limit * 2).min(REFRESH_MAX);
            if let Some(position) = position.filter(|position| !self.view().serves(*position)) {
                return view.excluded(position);
            }
        }
    }

    /// Fetches the pool map, unless somebody has done so since, or up to `recent` before. A failure is the next attempt's to
    /// meet.
    async fn refresh(&self, known: u32, recent: Duration, left: Duration, whole: bool) {
        let (asked, until) = (rt::now(), rt::now() + left.min(REFRESH_MAX));
        let Ok(mut fetched) = rt::timeout(left.min(REFRESH_MAX), self.inner.refreshing.lock()).await else { return };
        // Many requests fail together, and one answer does for all of them.
        if self.view().version() > known || fetched.is_some_and(|fetched| fetched + recent > asked) {
            return;
        }
        match self.newer(until, whole).await {
            Ok(Some(view)) => {
                self.inner.system.learn(view.addresses());
                *self.inner.view.lock().expect("nothing panics while it holds the pool map") = Arc::new(view);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(pool = self.inner.label, %error, "the pool map could not be fetched"),
        }
        *fetched = Some(rt::now());
    }

    /// The map as it is now; `None` if it is the one in use.
    async fn newer(&self, until: rt::Instant, whole: bool) -> Result<Option<View>> {
        let view = self.view();
        let system = &self.inner.system;
        if !whole {
            let since = control::PoolMapSince { pool: self.name(), version: view.version() };
            match system.control_within(Opcode::PoolMapSince, &since, until - rt::now()).await? {
                control::PoolMapNews::Delta { delta } => match advanced(&view, &delta) {
                    Ok(found) => return Ok(found),
                    Err(error) => tracing::warn!(pool = self.inner.label, %error, "the whole map is fetched instead"),
                },
                control::PoolMapNews::Whole { map } => return replaced(&view, &map),
            }
        }
        let name = control::PoolName { pool: self.name() };
        let map: control::PoolMap = system.control_within(Opcode::PoolConnect, &name, until - rt::now()).await?;
        replaced(&view, &map)
    }
}

fn nobody() -> Error {
    Error::new(Code::Again, "the pool has changed while its targets were walked over").remedy("start over")
}

/// The view that a delta makes of one; `None` if nothing has changed.
fn advanced(view: &View, delta: &control::PoolMapDelta) -> Result<Option<View>> {
    let AddressedDelta { delta, addresses } = ::object::map::delta_from_message(delta)?;
    if delta.to == view.version() {
        return Ok(None);
    }
    let mut map = view.map().clone();
    map.advance(&delta).map_err(|error| Error::new(Code::Protocol, error.to_string()))?;
    Ok(Some(View::new(map, view.texts().iter().cloned().chain(addresses).collect())))
}

/// The view that a map makes; `None` if it is not newer. A replica of the service may be behind.
fn replaced(view: &View, map: &control::PoolMap) -> Result<Option<View>> {
    let AddressedMap { map, addresses } = ::object::map::from_message(map)?;
    let is_new = map.version() > view.version() || (map.version() == view.version() && addresses != view.texts());
    Ok(is_new.then(|| View::new(map, addresses)))
}

/// A class that bears less than the redundancy factor promises would not be what objects get, nor be told of.
fn check_promise(class: ObjectClass, properties: &[(String, String)]) -> Result<()> {
    let named = properties.iter().rfind(|(name, _)| matches!(name.as_str(), "rd_fac" | "rf"));
    let factor: usize = named.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let tolerance = class.redundancy().tolerance();
    if tolerance >= factor {
        return Ok(());
    }
    let what = format!(
        "objects of class {class} survive the loss of {tolerance} fault domains, and rd_fac:{factor} promises more"
    );
    let copies = Redundancy::Replicas { copies: u8::try_from(factor + 1).unwrap_or(u8::MAX) };
    let wider =
        ObjectClass::of(copies, class.groups()).map_or(String::new(), |wider| format!("name class {wider}, or "));
    Err(Error::new(Code::Invalid, what).remedy(format!("{wider}use rd_fac:{tolerance}")))
}

/// What a new container's objects are to survive has to be possible in this pool: its user has said so by name.
fn check_redundancy(view: &View, properties: &[(String, String)]) -> Result<()> {
    let domains = view.spread().domains;
    for (name, value) in properties {
        match name.as_str() {
            // What is no number is for the service to refuse, with all else that is.
            "rd_fac" | "rf" if value.parse::<usize>().is_ok_and(|factor| factor >= domains) => {
                let needed = value.parse::<usize>().unwrap_or(0).saturating_add(1);
                let what =
                    format!("redundancy factor {value} needs {needed} fault domains, and the pool has {domains}");
                let remedy = format!("use rd_fac:{} or less, or add servers to the pool", domains.saturating_sub(1));
                return Err(Error::new(Code::Invalid, what).remedy(remedy));
            }
            "oclass" if !value.is_empty() => match value.parse::<ObjectClass>() {
                Ok(class) => {
                    view.admits_class(class)?;
                    check_promise(class, properties)?;
                }
                Err(_) if SymbolicClass::by_name(value).is_some() => {}
                Err(error) => {
                    return Err(Error::new(Code::Invalid, error.to_string()).remedy("name a class that there is"));
                }
            },
            _ => {}
        }
    }
    Ok(())
}

//! A system: what is asked of its control service.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ::object::retry::Failure;
use net::{Address, Caller};
use types::{Acl, Code, Error, Rank, Result, SessionId, TargetIndex};
use wire::control::{
    AclChange, LogMasksSet, OwnedAcl, PoolChangeAcl, PoolChangeTargets, PoolCreate, PoolDestroy, PoolExtend, PoolInfo,
    PoolList, PoolMap, PoolName, PoolQueryTargets, PoolRebuild, PoolResize, PoolServers, PoolSetProperties, PoolTarget,
    PoolTargets, PoolTargetsChanged, Properties, SetLogMasks, StorageInfo, StorageResize, SystemAttributes,
    SystemChangeTargets, SystemExclude, SystemInfo, SystemSetAttributes, SystemSetProperties, SystemStop,
    SystemTargetsChanged, TargetChange, Token, TokenCreate,
};
use wire::{Opcode, Wire};

use crate::Pool;
use crate::call::{Operation, Outgoing, decode};
use crate::link::Links;

/// How long [`System::connect`] looks for a server: one that is just starting is found, and a wrong
/// address is not waited for.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Addresses remembered: of a large system's servers these are enough to find one that answers.
const ADDRESSES_MAX: usize = 64;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct SystemOptions {
    /// Name of the system meant, so that a wrong address is noticed; `None` for whichever is there.
    pub system: Option<String>,
    /// The time one operation may take, repeats included.
    pub deadline: Duration,
}

impl Default for SystemOptions {
    fn default() -> SystemOptions {
        SystemOptions { system: None, deadline: Duration::from_secs(30) }
    }
}

/// A connection to a system of servers.
#[derive(Clone)]
pub struct System {
    inner: Arc<Inner>,
}

struct Inner {
    /// Those that were given first, then those that pool maps named.
    addresses: Mutex<Vec<Address>>,
    /// The address that answered last.
    preferred: AtomicUsize,
    options: SystemOptions,
    links: Links,
    /// Lives as long as any handle. After `links`, so that connections are closed first.
    companion: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl System {
    /// Connects to the first of `addresses` that answers.
    ///
    /// # Errors
    /// `Unreachable`: none answers within 3 s. `Invalid`: no address. What a server says when it is
    /// of another system or release.
    pub async fn connect(addresses: &[Address], options: SystemOptions) -> Result<System> {
        let system = System::at(addresses, options)?;
        system.control_within::<SystemInfo>(Opcode::SystemQuery, &(), system.deadline().min(CONNECT_MAX)).await?;
        Ok(system)
    }

    /// As [`System::connect`], also where no leader answers: for what a server does by itself.
    ///
    /// # Errors
    /// As [`System::connect`].
    pub async fn connect_to_any(addresses: &[Address], options: SystemOptions) -> Result<System> {
        let system = System::at(addresses, options)?;
        system.control_within::<()>(Opcode::Echo, &(), system.deadline().min(CONNECT_MAX)).await?;
        Ok(system)
    }

    fn at(addresses: &[Address], options: SystemOptions) -> Result<System> {
        if addresses.is_empty() {
            return Err(Error::new(Code::Invalid, "no server address given")
                .remedy("give one, such as localhost:10001 or unix:///path/to/socket"));
        }
        let session = SessionId(rt::random_u64());
        let caller = Caller { session, system: options.system.clone().unwrap_or_default(), clock: rt::Hlc::new() };
        let inner = Inner {
            addresses: Mutex::new(addresses.to_vec()),
            preferred: AtomicUsize::new(0),
            options,
            links: Links::new(caller),
            companion: OnceLock::new(),
        };
        Ok(System { inner: Arc::new(inner) })
    }

    /// Members of the system.
    pub async fn info(&self) -> Result<SystemInfo> {
        self.control(Opcode::SystemQuery, &()).await
    }

    /// Makes a token with which one server may join, within `seconds`.
    ///
    /// # Errors
    /// `Invalid`: no such time; `Quota`: too many wait to be used.
    pub async fn create_token(&self, seconds: u64) -> Result<Token> {
        self.control(Opcode::SystemToken, &TokenCreate { seconds }).await
    }

    /// Excludes ranks, or, with `exclude` false, lets them come back.
    ///
    /// # Errors
    /// `NotFound`: no such rank; `Invalid`: none would be left.
    pub async fn exclude(&self, ranks: Vec<Rank>, exclude: bool) -> Result<()> {
        self.control(Opcode::SystemExclude, &SystemExclude { ranks, exclude }).await
    }

    /// Sets attributes of the system; an empty value removes one.
    ///
    /// # Errors
    /// `Invalid`: a name or a value cannot be; `Quota`: too many.
    pub async fn set_attributes(&self, attributes: Vec<(String, String)>) -> Result<()> {
        self.control(Opcode::SystemSetAttributes, &SystemSetAttributes { attributes }).await
    }

    /// All attributes of the system.
    pub async fn attributes(&self) -> Result<Vec<(String, String)>> {
        let answer: SystemAttributes = self.control(Opcode::SystemGetAttributes, &()).await?;
        Ok(answer.attributes)
    }

    /// Changes properties of the system.
    ///
    /// # Errors
    /// `Invalid`: an unknown property or a bad value; `NoPermission`: one that is fixed.
    pub async fn set_properties(&self, properties: Vec<(String, String)>) -> Result<()> {
        self.control(Opcode::SystemSetProperties, &SystemSetProperties { properties }).await
    }

    /// Properties of the system: those that are its own, and those that were set.
    pub async fn properties(&self) -> Result<Vec<(String, String)>> {
        let answer: Properties = self.control(Opcode::SystemGetProperties, &()).await?;
        Ok(answer.values)
    }

    /// Devices and targets of the servers.
    pub async fn storage(&self) -> Result<StorageInfo> {
        self.control(Opcode::StorageQuery, &()).await
    }

    /// Makes a pool: reserves `bytes` in all, spread evenly over the targets.
    ///
    /// # Errors
    /// `Exists`: a pool has this label. `NoSpace`: more than is free. `Invalid`: label or properties.
    pub async fn create_pool(&self, label: &str, bytes: u64, properties: Vec<(String, String)>) -> Result<PoolInfo> {
        self.create_pool_on(PoolServers::All, label, bytes, properties, None).await
    }

    /// As [`System::create_pool`], on some of the servers, and with an access control list instead of the default one.
    ///
    /// # Errors
    /// Further: `NotFound`: no such rank; `Invalid`: one does not take part, or there are not so many.
    pub async fn create_pool_on(
        &self,
        servers: PoolServers,
        label: &str,
        bytes: u64,
        properties: Vec<(String, String)>,
        acl: Option<Acl>,
    ) -> Result<PoolInfo> {
        self.control(Opcode::PoolCreate, &PoolCreate { label: label.into(), bytes, servers, properties, acl }).await
    }

    /// Excludes, drains or reintegrates targets of a pool: of each rank those that `targets` names, or all if it names none.
    /// `force`: also when data may be out of reach by it.
    ///
    /// # Errors
    /// `NotFound`: no such pool, rank or target. `Invalid`: it means nothing to them, or too few would be left.
    pub async fn change_targets(
        &self,
        name: &str,
        change: TargetChange,
        ranks: Vec<Rank>,
        targets: Vec<TargetIndex>,
        force: bool,
    ) -> Result<PoolInfo> {
        let request = PoolChangeTargets { pool: name.into(), change, ranks, targets, force };
        self.control(Opcode::PoolChangeTargets, &request).await
    }

    /// Stops what is on its way in a pool, or has it go on, and what failed made anew whatever the pool's policy says; returns
    /// when the pool's servers know.
    ///
    /// # Errors
    /// `NotFound`: no such pool, or nothing that could be stopped.
    pub async fn rebuild(&self, name: &str, start: bool) -> Result<PoolInfo> {
        self.control(Opcode::PoolRebuild, &PoolRebuild { pool: name.into(), start }).await
    }

    /// Gives a pool more servers; returns when their targets are on their way in.
    ///
    /// # Errors
    /// `NotFound`: no such pool or rank. `Exists`: the pool has one of them already. `Invalid`: one does not take part.
    /// `NoSpace`: one has no room for its share.
    pub async fn extend_pool(&self, name: &str, ranks: Vec<Rank>) -> Result<PoolInfo> {
        self.control(Opcode::PoolExtend, &PoolExtend { pool: name.into(), ranks }).await
    }

    /// How targets of a rank stand in a pool; all of them, if none is named.
    ///
    /// # Errors
    /// `NotFound`: no such pool, rank or target.
    pub async fn query_targets(&self, name: &str, rank: Rank, targets: Vec<TargetIndex>) -> Result<Vec<PoolTarget>> {
        let request = PoolQueryTargets { pool: name.into(), rank, targets };
        let answer: PoolTargets = self.control(Opcode::PoolQueryTargets, &request).await?;
        Ok(answer.targets)
    }

    /// Drains or reintegrates ranks in all pools that they are in. Each pool says for itself what became of it.
    ///
    /// # Errors
    /// `NotFound`: no such rank.
    pub async fn change_ranks(&self, change: TargetChange, ranks: Vec<Rank>) -> Result<Vec<PoolTargetsChanged>> {
        let request = SystemChangeTargets { ranks, change };
        let answer: SystemTargetsChanged = self.control(Opcode::SystemChangeTargets, &request).await?;
        Ok(answer.pools)
    }

    /// Has ranks stop serving, or, with `stop` false, serve again; all, if none is named.
    ///
    /// # Errors
    /// `NotFound`: no such rank.
    pub async fn stop_ranks(&self, ranks: Vec<Rank>, stop: bool) -> Result<()> {
        self.control(Opcode::SystemStop, &SystemStop { ranks, stop }).await
    }

    /// Changes what servers log (`info,engine=debug`; empty: what they logged at their start), on all of them if no rank is
    /// named. Each says for itself what became of it.
    ///
    /// # Errors
    /// `NotFound`: no such rank.
    pub async fn set_log_masks(&self, ranks: Vec<Rank>, masks: &str) -> Result<Vec<(Rank, Option<Error>)>> {
        let answer: LogMasksSet =
            self.control(Opcode::SetLogMasks, &SetLogMasks { ranks, masks: masks.into() }).await?;
        Ok(answer.servers)
    }

    /// All pools.
    pub async fn pools(&self) -> Result<Vec<PoolInfo>> {
        let list: PoolList = self.control(Opcode::PoolList, &()).await?;
        Ok(list.pools)
    }

    /// One pool's state and space. `name`: label or UUID, here and below.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pool_info(&self, name: &str) -> Result<PoolInfo> {
        self.control(Opcode::PoolQuery, &pool_name(name)).await
    }

    /// Frees a pool's space. `recursive`: also when it has containers.
    ///
    /// # Errors
    /// `NotFound`; `Busy`: it has containers.
    pub async fn destroy_pool(&self, name: &str, recursive: bool) -> Result<()> {
        self.control(Opcode::PoolDestroy, &PoolDestroy { pool: name.into(), recursive }).await
    }

    /// Every property of a pool, set or by default.
    pub async fn pool_properties(&self, name: &str) -> Result<Vec<(String, String)>> {
        let properties: Properties = self.control(Opcode::PoolGetProperties, &pool_name(name)).await?;
        Ok(properties.values)
    }

    /// Changes properties of a pool.
    ///
    /// # Errors
    /// `NotFound`; `Invalid`: an unknown property or a bad value; `NoPermission`: one that is fixed.
    pub async fn set_pool_properties(&self, name: &str, properties: Vec<(String, String)>) -> Result<()> {
        self.control(Opcode::PoolSetProperties, &PoolSetProperties { pool: name.into(), properties }).await
    }

    /// The access control list of a pool. It is kept and not enforced yet.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pool_acl(&self, name: &str) -> Result<OwnedAcl> {
        self.control(Opcode::PoolGetAcl, &pool_name(name)).await
    }

    /// Changes the access control list of a pool, and returns what has become of it.
    ///
    /// # Errors
    /// `NotFound`: no such pool, or no entry of whose is to be deleted. `Invalid`: a permission that a pool cannot give, or
    /// a list that is too long; `Quota`: with those of the containers it is.
    pub async fn change_pool_acl(&self, name: &str, change: AclChange) -> Result<OwnedAcl> {
        self.control(Opcode::PoolChangeAcl, &PoolChangeAcl { pool: name.into(), change }).await
    }

    /// Gives the targets' data `bytes` in all; `None`: what their devices have now. Returns when it is durable what is
    /// wanted; [`System::storage`] says how far the targets have come.
    ///
    /// # Errors
    /// `NoSpace`: too few for what is stored or reserved, or more than there is; `Invalid`: no such size can be.
    pub async fn resize_storage(&self, bytes: Option<u64>) -> Result<StorageInfo> {
        self.control(Opcode::StorageResize, &StorageResize { bytes }).await
    }

    /// Makes a pool reserve `bytes` in all.
    ///
    /// # Errors
    /// `NotFound`; `NoSpace`: fewer than are used, or more than are free; `Invalid`: too few for its targets.
    pub async fn resize_pool(&self, name: &str, bytes: u64) -> Result<PoolInfo> {
        self.control(Opcode::PoolResize, &PoolResize { pool: name.into(), bytes }).await
    }

    /// Opens a pool.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pool(&self, name: &str) -> Result<Pool> {
        let map: PoolMap = self.control(Opcode::PoolConnect, &pool_name(name)).await?;
        Pool::new(self.clone(), map)
    }

    /// Keeps `companion` (a server in this process, say) until the last handle on this system, its
    /// pools, containers and objects is dropped. The first call counts.
    pub fn keep(&self, companion: Arc<dyn Any + Send + Sync>) {
        let _ = self.inner.companion.set(companion);
    }

    /// Closes every connection. Operations on any handle of this system fail from now on, those
    /// under way at their next attempt.
    pub fn close(&self) {
        self.inner.links.close();
    }

    pub(crate) fn links(&self) -> &Links {
        &self.inner.links
    }

    /// The time one operation may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.inner.options.deadline
    }

    /// Asks the control service.
    pub(crate) async fn control<R: Wire>(&self, opcode: Opcode, request: &(impl Wire + Sync)) -> Result<R> {
        self.control_within(opcode, request, self.deadline()).await
    }

    /// Remembers where servers answer, for when those known are gone.
    pub(crate) fn learn<'a>(&self, found: impl Iterator<Item = &'a Address>) {
        let mut known = self.inner.addresses.lock().expect("nothing panics while it holds the addresses");
        for address in found {
            if known.len() >= ADDRESSES_MAX {
                return;
            }
            if !known.contains(address) {
                known.push(address.clone());
            }
        }
    }

    /// The preferred address, its number, and how many there are.
    fn preferred(&self) -> (Address, usize, usize) {
        let known = self.inner.addresses.lock().expect("nothing panics while it holds the addresses");
        let preferred = self.inner.preferred.load(Ordering::Relaxed);
        (known[preferred % known.len()].clone(), preferred, known.len())
    }

    /// Asks the control service within `time`: one server after the other, until one answers.
    pub(crate) async fn control_within<R: Wire>(
        &self,
        opcode: Opcode,
        request: &(impl Wire + Sync),
        time: Duration,
    ) -> Result<R> {
        let body = request.to_bytes();
        let mut operation = Operation::new(&self.inner.links, opcode, time);
        let mut passed_over = 0;
        loop {
            let (address, preferred, known) = self.preferred();
            let link = self.inner.links.control(&address);
            let failure = match operation
                .attempt_of(
                    known.saturating_sub(passed_over),
                    &self.inner.links,
                    &link,
                    Outgoing { body: body.clone(), bulk: None },
                )
                .await
            {
                Ok(reply) => return decode(opcode, &reply),
                // Here a thing in use is an answer (a pool with containers), not a crowd to wait out.
                Err(Failure::Refused(error)) if error.code == Code::Busy => return Err(error),
                Err(failure) => failure,
            };
            let elsewhere = match &failure {
                // It is no replica of the service, or not the one that answers; or belongs to another system by now; or its
                // clock is wrong, if ours is not.
                Failure::Refused(error) => {
                    matches!(error.code, Code::NoService | Code::ShuttingDown | Code::Mismatch | Code::ClockOffset)
                }
                Failure::Unreachable(_) | Failure::Lost(_) | Failure::Broken(_) => true,
                Failure::Final(_) => false,
            };
            if elsewhere {
                // Only if nobody else has moved on already.
                let next = preferred.wrapping_add(1);
                let _ = self.inner.preferred.compare_exchange(preferred, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            // Each is asked once before anybody is asked again, after a pause.
            if elsewhere && passed_over + 1 < known {
                operation.passed_over(&failure);
                passed_over += 1;
            } else {
                operation.after(failure).await?;
                passed_over = 0;
            }
        }
    }
}

fn pool_name(name: &str) -> PoolName {
    PoolName { pool: name.into() }
}

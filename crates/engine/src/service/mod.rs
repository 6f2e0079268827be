//! The control services: the system, its pools and its containers.
//!
//! # Shape
//! ```text
//!   request --> route: to whoever leads the service ----------- peers, to another server
//!                 |
//!        control (system), pools, containers: propose a command, wait until it is done
//!                 |                                        ^
//!   raft: replicas of system and pools                     | reports
//!                 |                                        |
//!   agent, on every server: makes its targets agree --> driver, at the leader: says that it is done
//! ```
//! State is in replicas: one group for the system ([`system`]), one a pool ([`pool`]). What must also happen on the
//! targets is done in three steps: the state first says what is wanted (`Creating`, `Destroying`), every server's
//! [`agent`] tells its targets and reports, then the leader's [`driver`] has the state say that it is done. So a server that
//! restarts, or another leader, finds what is half done and finishes it.
//!
//! # Always true
//! 1. One change of a pool's containers at a time; queries see every change that was answered before.
//! 2. Orders to targets are idempotent, and repeated at every start.
//! 3. A command takes effect once, whichever server it was sent to, and however often (K5): see [`named`].
//! 4. Who decides for the state decides for one term: a leader that is none any more changes nothing.
//!
//! # Not here
//! Consensus itself (`raft`); who lives (`net::membership`); whether a request is permitted: access control lists are kept, and
//! not enforced.

mod access;
mod administer;
mod agent;
mod answers;
pub mod book;
mod clock;
mod containers;
mod control;
mod driver;
#[cfg(test)]
mod golden;
mod healing;
pub mod identity;
mod life;
mod peers;
pub mod pool;
mod pools;
mod resize;
mod route;
mod slot;
mod spread;
pub mod state;
mod subscribe;
pub mod system;
mod targets;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use net::{Handler, Reply, Request};
use raft::GroupId;
use rt::Hlc;
use rt::disk::fs;
use types::{Code, Error, PoolId, Rank, SessionId, SystemId};
use wire::control as msg;

use crate::detection::Detection;
use crate::hold::HorizonHold;
use crate::sessions::Sessions;
use crate::target::order::TargetHandle;
use crate::widths::WantedWidths;
use identity::{Kept, Place};
use peers::Peers;
use pool::PoolState;
use slot::{Slot, open_group};
use system::{SystemCommand, SystemState};

/// How long a server that stops waits for what still uses its replicas.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server that is a system by itself may take to make its targets agree with the state, before it serves.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Where the service keeps its replicas, and how it describes its server.
pub struct ServiceConfig {
    pub directory: PathBuf,
    pub system_name: String,
    pub release: String,
    /// Where clients and other servers reach this one.
    pub address: String,
    /// What fails together with it; empty: it fails by itself.
    pub fault_path: String,
    /// Where each target keeps its data, by target.
    pub devices: Vec<(String, msg::DeviceKind)>,
    pub layout: Rc<dyn Layout>,
    pub detection: Detection,
    /// The system to join, for a server that is in none.
    pub join: Option<JoinConfig>,
}

/// Whom to ask for a place in a system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinConfig {
    pub addresses: Vec<String>,
    /// Of a server that has a place, none is asked for.
    pub token: String,
}

/// Which parts of which files and devices are whose: the program's that hosts the engine.
pub trait Layout {
    /// The size of each target's data region, by target, when all of them have `bytes` together; absent: what the
    /// devices have now.
    ///
    /// # Errors
    /// `Invalid`, `NoSpace`: with what stands in the way.
    fn plan(&self, bytes: Option<u64>) -> Result<Vec<u64>, Error>;

    /// Makes durable what each target's data region is to have: after a restart the targets go on from there.
    ///
    /// # Errors
    /// `Io`: what was wanted before is wanted still.
    fn keep(&self, wanted: &[u64]) -> Result<(), Error>;
}

/// The control services of one server.
pub struct Service {
    config: ServiceConfig,
    targets: Vec<TargetHandle>,
    hlc: Hlc,
    hold: HorizonHold,
    /// What targets here want their pools to have in use.
    widths: WantedWidths,
    sessions: Sessions,
    rank: Rank,
    peers: Rc<Peers>,
    kept: RefCell<Kept>,
    system: Slot<SystemState>,
    pools: RefCell<BTreeMap<PoolId, Rc<Slot<PoolState>>>>,
    /// The state of the system here includes all that was answered before this server started.
    is_current: Cell<bool>,
    /// The version of the system's state that this server has followed since it started.
    followed: Cell<u64>,
    /// Who lives, as far as this server heard.
    life: life::Heard,
    /// Whether its clock is right, as far as others say.
    clock: clock::Clock,
    /// What a look at all groups of a pool found last.
    served: RefCell<healing::Served>,
    tasks: RefCell<rt::TaskSet>,
}

/// Ends the tasks of a service when its engine is dropped: they hold the service.
pub(crate) struct Tasks(Rc<Service>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.tasks.borrow_mut().abort_all();
        for slot in self.0.pools.borrow().values() {
            slot.tasks.borrow_mut().abort_all();
        }
    }
}

impl Service {
    /// Opens the server's replicas, or makes the system, or joins one; then finishes what a stop left half done.
    ///
    /// # Errors
    /// `Io` and `BadFormat` from the files; of a server that shall join, why it may not, or that nobody answers.
    pub(crate) async fn start(
        config: ServiceConfig,
        targets: Vec<TargetHandle>,
        hlc: Hlc,
        hold: HorizonHold,
        widths: WantedWidths,
    ) -> Result<(Rc<Service>, Tasks), Error> {
        let io = |e: rt::disk::DiskError| Error::new(Code::Io, e.to_string());
        fs::create_dir_all(config.directory.join("pools")).map_err(io)?;
        let mut kept = Kept::take(&config.directory)?;
        let place = kept.identity.place.clone();
        kept.change(|identity| {
            // Whoever is told of no system makes one, and remembers that before it does. One that was told of a system once,
            // and has no place in it yet, does not: it would be a second one.
            let is_new = identity.incarnation == 0;
            identity.incarnation += 1;
            if place.is_none() && config.join.is_none() && is_new {
                let system = SystemId(rt::random_uuid());
                let name = config.system_name.clone();
                identity.place = Some(Place { system, name, rank: Rank(0), is_founder: true });
            }
        })?;
        let peers = Peers::new(config.system_name.clone(), hlc.clone());
        if kept.identity.place.is_none() {
            life::ask_for_a_place(&config, &peers, &mut kept, targets.len() as u32).await?;
        }
        let place = kept.identity.place.clone().expect("it has one by now, or was refused");
        let rank = place.rank;
        peers.learn(rank, u64::MAX, &config.address);
        for (other, incarnation, address) in book::read(&book::path(&config.directory)).entries {
            peers.learn(other, incarnation, &address);
        }
        let group = open_group(
            &config.directory.join("system"),
            GroupId(place.system.to_bytes()),
            raft::Peer { rank, address: raft::Address(config.address.clone()) },
            SystemState::empty(),
            &peers,
            place.is_founder,
            config.detection.replicas(),
        )
        .await?;
        let service = Rc::new(Service {
            config,
            targets,
            hlc,
            hold,
            widths,
            sessions: Sessions::default(),
            rank,
            peers,
            kept: RefCell::new(kept),
            system: Slot::new(group),
            pools: RefCell::default(),
            is_current: Cell::new(false),
            followed: Cell::new(0),
            life: life::Heard::default(),
            clock: clock::Clock::new(),
            served: RefCell::default(),
            tasks: RefCell::default(),
        });
        let tasks = Tasks(Rc::clone(&service));
        service.open_pools().await?;
        service.begin(&place).await?;
        Ok((service, tasks))
    }

    /// Starts the tasks; a system of one server is whole when this returns.
    async fn begin(self: &Rc<Service>, place: &Place) -> Result<(), Error> {
        self.learn_addresses();
        // Who has a replica of a group with members knows them at once; the library may take a moment to say so.
        let begun = rt::now();
        while place.is_founder && self.system.group.members().addresses.is_empty() && begun.elapsed() < STOP_PATIENCE {
            rt::sleep(Duration::from_millis(1)).await;
        }
        let is_alone = self.decides() && self.others().is_empty();
        // Alone, the clock is right by itself; else nobody is served before it was compared, and nobody elected.
        self.system.group.may_lead(false);
        let standing = self.judge_clock();
        self.act_on_clock(standing).await?;
        if is_alone {
            self.form(place).await?;
        }
        {
            let mut tasks = self.tasks.borrow_mut();
            tasks.spawn_local(self.clone().come_in());
            tasks.spawn_local(self.clone().subscribe_to_system());
            tasks.spawn_local(self.clone().keep_addresses());
            tasks.spawn_local(self.clone().follow_system());
            tasks.spawn_local(self.clone().drive_system());
            tasks.spawn_local(self.clone().watch_life());
            tasks.spawn_local(self.clone().keep_clock());
            tasks.spawn_local(self.clone().watch_room());
        }
        if is_alone {
            let settled = rt::timeout(SETTLE_PATIENCE, async {
                while !self.is_settled() {
                    rt::sleep(Duration::from_millis(1)).await;
                }
            });
            if settled.await.is_err() {
                tracing::warn!("some target does not do what its pools want; see above for why");
            }
        }
        Ok(())
    }

    /// Makes the system, unless a start before did.
    async fn form(&self, place: &Place) -> Result<(), Error> {
        let Place { name, system, .. } = place.clone();
        // Nobody else is asked: it leads as soon as it has written that down.
        let begun = rt::now();
        while let Err(error) = self.system.confirm().await {
            if begun.elapsed() > SETTLE_PATIENCE {
                return Err(Error::new(Code::Io, format!("the system's service does not begin: {error}"))
                    .remedy("look at the disk that the server's directory lies on"));
            }
            rt::sleep(Duration::from_millis(1)).await;
        }
        self.system.propose(None, None, &SystemCommand::Form { name, id: system }).await??;
        self.enter_system().await
    }

    /// The name of the system.
    pub fn system_name(&self) -> String {
        self.kept.borrow().identity.place.as_ref().map(|place| place.name.clone()).unwrap_or_default()
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    /// What the replicas here hold, encoded: equal on all servers once they have come to rest (K19).
    pub fn states(&self) -> BTreeMap<String, Vec<u8>> {
        use wire::Wire;
        let pools = self.pools.borrow();
        let pools = pools.iter().map(|(id, slot)| (id.to_string(), slot.group.local(Wire::to_bytes)));
        pools.chain([("system".to_string(), self.system.group.local(Wire::to_bytes))]).collect()
    }

    /// True if this server leads the system's service.
    pub fn leads(&self) -> bool {
        self.system.reign().is_some()
    }

    /// Ends in good order: hands over what it leads, and closes the replicas, so that they can be opened again.
    pub(crate) async fn stop(self: Rc<Self>, tasks: Tasks) {
        self.hand_over().await;
        self.system.ending.send_replace(true);
        for slot in self.pools.borrow().values() {
            slot.ending.send_replace(true);
        }
        drop(tasks);
        let until = rt::now() + STOP_PATIENCE;
        let mut service = self;
        let service = loop {
            match Rc::try_unwrap(service) {
                Ok(service) => break service,
                // Aborted tasks and handlers let go of it when they are run next.
                Err(shared) if rt::now() < until => {
                    service = shared;
                    rt::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => {
                    tracing::warn!("a request still uses the service; its replicas stop as a crash would stop them");
                    return;
                }
            }
        };
        for (_, slot) in service.pools.into_inner() {
            if let Some(slot) = Rc::into_inner(slot) {
                slot.shutdown().await;
            }
        }
        service.system.shutdown().await;
    }

    /// Nobody waits for an election because this server stops.
    async fn hand_over(&self) {
        self.system.hand_over(self.rank).await;
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for slot in pools {
            slot.hand_over(self.rank).await;
        }
    }
}

impl Handler for Service {
    async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
        if request.opcode == wire::Opcode::Echo {
            return Ok(Reply { body: request.body, bulk: request.bulk });
        }
        let body = match request.opcode as u16 >> 8 {
            3 => self.answer_peer(request).await?,
            _ => self.route(route::Call::of(request)).await?,
        };
        Ok(Reply { body: body.into(), bulk: None })
    }
}

/// A client's request as consensus knows it, so that it takes effect once (K5).
///
/// Every request is a session of its own there: a client numbers its requests over all services and targets, so that the
/// numbers a group sees are anything but dense, and which a group saw first means nothing. What is remembered, then, are
/// the last some thousand commands of each group. Session 0 has no memory.
fn named(session: SessionId, sequence: u64) -> Option<raft::Request> {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let name = mix(mix(session.0).wrapping_add(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (session.0 != 0).then_some(raft::Request { session: SessionId(name), number: 1 })
}

//! A target alone, on a machine that can lose its power: for tests.

use std::rc::Rc;
use std::time::Duration;

use net::{Handler, Limits, Request};
use rt::Hlc;
use rt::sim::{NodeId, Sim, SimConfig};
use types::{Conditions, ContainerId, Epoch, Error, Key, ObjectId, PoolId, SessionId, TargetIndex};
use uuid::Uuid;
use vos::Origin;
use wire::data::{AkeyWrite, Committed, Payload, Place, PunchRequest, PunchScope, UpdateRequest, Value};
use wire::encoding::Bytes;
use wire::{Opcode, Wire};

use super::Target;
use crate::hold::HorizonHold;
use crate::target::open::{self, RegionConfig, Shared, TargetConfig};

pub(super) const POOL: PoolId = PoolId::from_bytes([1; 16]);
pub(super) const CONTAINER: ContainerId = ContainerId::from_bytes([2; 16]);
pub(super) const PLACE: Place =
    Place { container: CONTAINER, oid: ObjectId { hi: 1, lo: 1 }, group: 0, map_version: 1 };
/// A target on a machine that can lose its power.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) node: NodeId,
    /// The life that runs now.
    pub(super) target: Rc<Target>,
}

impl Machine {
    pub(super) async fn new() -> Machine {
        Machine::named("server").await
    }

    pub(super) async fn named(name: &str) -> Machine {
        let node = rt::sim::current().node(name);
        let target = rt::sim::current().spawn_on(node, Machine::begin(true)).await.unwrap();
        let (pool, quota) = (POOL, 16 << 20);
        let machine = Machine { node, target };
        machine
            .on(|target| async move {
                let mut store = target.store.borrow_mut();
                store.create_pool(pool, quota, Origin::default()).unwrap();
                store.create_container(pool, CONTAINER, Origin::default()).unwrap();
                target.groups.set_alone(pool, true, &[pool]);
            })
            .await;
        machine
    }

    pub(super) async fn begin(format: bool) -> Rc<Target> {
        let region = |path: &str, bytes| RegionConfig {
            path: path.into(),
            base: 0,
            bytes,
            thin: true,
            own_file: true,
            medium: Default::default(),
        };
        let config = TargetConfig {
            index: TargetIndex(0),
            store: Uuid::from_bytes([3; 16]),
            log: region("/log", 1 << 20),
            metadata: None,
            data: region("/data", 32 << 20),
            memory: 4 << 20,
            io_timeout: media::IO_TIMEOUT,
            format,
        };
        let (hold, limits) = (HorizonHold::default(), Limits::default());
        let shared = Shared {
            hlc: Hlc::new(),
            hold,
            widths: Default::default(),
            limits,
            incarnation: 1,
            lease: crate::replication::LEASE,
        };
        let target = open::open(config, &shared, &Default::default()).await.unwrap();
        // As the service says to whoever has just started.
        let pools = target.store.borrow().pools();
        pools.iter().for_each(|pool| target.groups.set_alone(*pool, true, &pools));
        target
    }

    pub(super) async fn on<T: 'static, F: Future<Output = T> + 'static>(&self, act: impl FnOnce(Rc<Target>) -> F) -> T {
        rt::sim::current().spawn_on(self.node, act(self.target.clone())).await.unwrap()
    }

    /// The power goes, and comes back.
    pub(super) async fn cut(&mut self) {
        let sim = rt::sim::current();
        sim.crash(self.node);
        self.target = sim.restart(self.node, Machine::begin(false)).await.unwrap();
    }

    /// Destroys the page of a session on the device: every copy that there is.
    pub(super) async fn lose_page(&self, session: u64) {
        self.on(move |_| async move {
            let mode = rt::disk::OpenMode { create: false, direct: true, exclusive_lock: false };
            let disk = rt::disk::Disk::open("/data", mode).unwrap();
            let (mut page, mut lost) = (rt::disk::IoBuf::zeroed(media::PAGE_BYTES), 0);
            for at in (0..disk.len().unwrap() - media::PAGE_BYTES as u64).step_by(media::BLOCK_BYTES) {
                disk.read_now(at, &mut page).unwrap();
                let is_session = media::decode_page(&page).is_ok_and(|header| header.kind.get() == 3);
                if is_session && page[40..48] == session.to_le_bytes() {
                    page[600] ^= 1;
                    disk.write_now(at, &page).unwrap();
                    lost += 1;
                }
            }
            disk.sync_now().unwrap();
            assert!(lost > 0);
        })
        .await;
    }

    pub(super) async fn ask(&self, session: u64, sequence: u64, opcode: Opcode, body: Vec<u8>) -> Result<Epoch, Error> {
        self.on(move |target| async move {
            let reply = target.handle(request(session, sequence, opcode, body)).await?;
            Ok(Committed::from_bytes(&reply.body).unwrap().epoch)
        })
        .await
    }

    pub(super) async fn put(&self, session: u64, sequence: u64, key: &str, value: &str) -> Result<Epoch, Error> {
        self.ask(session, sequence, Opcode::Update, update(key, value, Conditions::None)).await
    }

    pub(super) async fn insert(&self, session: u64, sequence: u64, key: &str) -> Result<Epoch, Error> {
        self.ask(session, sequence, Opcode::Update, update(key, "new", Conditions::DkeyInsert)).await
    }

    pub(super) async fn remove(&self, session: u64, sequence: u64, key: &str) -> Result<Epoch, Error> {
        let scope = PunchScope::Dkey { dkey: Key::new(key.as_bytes()).unwrap() };
        let punch = PunchRequest { place: PLACE, conditions: Conditions::None, scope };
        self.ask(session, sequence, Opcode::Punch, punch.to_bytes()).await
    }

    pub(super) async fn get(&self, key: &'static str) -> String {
        self.on(move |target| async move {
            let (dkey, mut out) = (Key::new(key.as_bytes()).unwrap(), Vec::new());
            let (mut store, akey) = (target.store.borrow_mut(), Key::literal("v"));
            store.fetch_value(CONTAINER, Epoch::MAX, 0, PLACE.oid, &dkey, &akey, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        })
        .await
    }
}

pub(super) fn request(session: u64, sequence: u64, opcode: Opcode, body: Vec<u8>) -> Request {
    let (session, deadline) = (SessionId(session), rt::now() + Duration::from_secs(10));
    Request { opcode, session, sequence, clock: Epoch::ZERO, deadline, body: body.into(), bulk: None }
}

pub(super) fn update(key: &str, value: &str, conditions: Conditions) -> Vec<u8> {
    let bytes = value.as_bytes().to_vec();
    let payload = Payload::Inline { checksums: codec::checksum::of_chunks(&bytes), bytes: Bytes(bytes) };
    let akeys = vec![AkeyWrite { akey: Key::literal("v"), value: Value::Single { payload } }];
    let dkey = Key::new(key.as_bytes()).unwrap();
    UpdateRequest { place: PLACE, dkey, conditions, akeys }.to_bytes()
}

pub(super) fn simulated<F: Future<Output = ()> + 'static>(play: F) {
    Sim::new(SimConfig::seeded(1)).run(play);
}

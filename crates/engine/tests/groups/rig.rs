//! Servers of one target each, a map that is told to them late, and a client that retries.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use engine::hold::HorizonHold;
use engine::target::open::{self, RegionConfig, Shared, TargetConfig};
use engine::target::order::{Heal, Order, PoolShare, PoolView, TargetHandle};
use engine::widths::WantedWidths;
use net::{Address, Caller, Connection, Limits, Listener};
use placement::{Change, Event, FaultPath, Layout, PoolMap, Server};
use rt::Hlc;
use rt::disk::IoBuf;
use rt::sim::NodeId;
use types::{Code, Conditions, ContainerId, Epoch, Error, Key, ObjectId, PoolId, Rank, SessionId, Span, TargetIndex};
use uuid::Uuid;
use wire::data::{
    AkeyRead, AkeyWrite, Committed, FetchRequest, FetchResponse, INLINE_BYTES_MAX, Payload, Place, Selection,
    UpdateRequest, Value,
};
use wire::encoding::Bytes;
use wire::hello::Service;
use wire::{Opcode, Wire};

pub const POOL: PoolId = PoolId::from_bytes([1; 16]);
pub const CONTAINER: ContainerId = ContainerId::from_bytes([2; 16]);
const OID: ObjectId = ObjectId { hi: 1, lo: 1 };
const WIDTH: usize = 3;
/// Placement groups 0 and 5, of three copies.
pub const GROUPS: [u32; 2] = [WIDTH as u32, 5 << 8 | WIDTH as u32];
/// How long a client tries.
const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_millis(400);

fn address(n: usize) -> Address {
    format!("mem://server-{n}").parse().unwrap()
}

/// All servers, and the service that has the map.
pub struct Cluster {
    nodes: Vec<NodeId>,
    map: RefCell<PoolMap>,
    excluded: Cell<Option<usize>>,
    /// Hears of no map, not even of the first when it starts.
    deaf: Cell<Option<usize>>,
    widths: RefCell<BTreeSet<u32>>,
    wanted: Vec<WantedWidths>,
    /// Of the present lives.
    handles: RefCell<Vec<Option<TargetHandle>>>,
    lives: RefCell<Vec<u64>>,
}

impl Cluster {
    pub async fn new(servers: usize) -> Rc<Cluster> {
        let sim = rt::sim::current();
        let of =
            |n: usize| Server { rank: Rank(n as u32), path: FaultPath::of_rank(Rank(n as u32)), targets: 1, weight: 1 };
        let cluster = Rc::new(Cluster {
            nodes: (0..servers).map(|n| sim.node(&format!("server-{n}"))).collect(),
            map: RefCell::new(PoolMap::create((0..servers).map(of).collect()).unwrap()),
            excluded: Cell::new(None),
            deaf: Cell::new(None),
            widths: RefCell::new((2..=placement::SLOTS_MAX as u32).collect()),
            wanted: (0..servers).map(|_| WantedWidths::default()).collect(),
            handles: RefCell::new(vec![None; servers]),
            lives: RefCell::new(vec![0; servers]),
        });
        for n in 0..servers {
            sim.spawn_on(cluster.nodes[n], cluster.clone().live(n, true));
        }
        while cluster.handles.borrow().iter().any(Option::is_none) {
            rt::sleep(Duration::from_millis(5)).await;
        }
        cluster
    }

    pub fn servers(&self) -> usize {
        self.nodes.len()
    }

    pub fn node(&self, n: usize) -> NodeId {
        self.nodes[n]
    }

    fn layout(&self) -> Layout {
        Layout::new(self.map.borrow().clone())
    }

    pub fn leader(&self, group: u32) -> usize {
        self.layout().reign(group >> 8, WIDTH).leader.unwrap() as usize
    }

    /// Members that have everything.
    pub fn whole(&self, group: u32) -> Vec<usize> {
        let reign = self.layout().reign(group >> 8, WIDTH);
        reign.members.iter().filter(|member| member.is_whole).map(|member| member.position as usize).collect()
    }

    /// Whoever has a seat in a group, whole or not.
    pub fn seats(&self, group: u32) -> Vec<usize> {
        let reign = self.layout().reign(group >> 8, WIDTH);
        reign.members.iter().map(|member| member.position as usize).collect()
    }

    pub fn members(&self) -> Vec<usize> {
        (0..self.servers()).filter(|n| self.excluded.get() != Some(*n)).collect()
    }

    fn config(n: usize, format: bool) -> TargetConfig {
        let region = |path: &str, bytes| RegionConfig {
            path: path.into(),
            base: 0,
            bytes,
            thin: true,
            own_file: true,
            medium: Default::default(),
        };
        TargetConfig {
            index: TargetIndex(0),
            store: Uuid::from_bytes([3 + n as u8; 16]),
            log: region("/log", 1 << 20),
            metadata: None,
            data: region("/data", 32 << 20),
            memory: 4 << 20,
            io_timeout: media::IO_TIMEOUT,
            format,
        }
    }

    /// One life of a server.
    async fn live(self: Rc<Self>, n: usize, format: bool) {
        let life = {
            let mut lives = self.lives.borrow_mut();
            lives[n] += 1;
            lives[n]
        };
        let hlc = Hlc::new();
        let limits = Limits::default();
        let (hold, widths) = (HorizonHold::default(), self.wanted[n].clone());
        let shared =
            Shared { hlc: hlc.clone(), hold, widths, limits, incarnation: life, lease: engine::replication::LEASE };
        let (handle, _thread) = open::start(Cluster::config(n, format), shared).await.expect("a target opens");
        if format {
            let share = PoolShare { quota: 16 << 20, reserve: 0, scrub: Span::FOREVER, is_alone: false };
            handle.ask(|done| Order::SetPool { id: POOL, share, done }).await.unwrap();
            handle.ask(|done| Order::CreateContainer { pool: POOL, id: CONTAINER, done }).await.unwrap();
        }
        let listener = Listener::bind(&address(n), "test", hlc).await.unwrap();
        self.handles.borrow_mut()[n] = Some(handle.clone());
        // The service tells it the map after a while, and each that follows.
        let this = self.clone();
        rt::spawn_local(async move {
            let mut told = None;
            while this.lives.borrow()[n] == life {
                let view = this.view(n);
                if told.as_ref() != Some(&view) && this.deaf.get() != Some(n) {
                    told = Some(view.clone());
                    let _ = this.tell(n, view).await;
                }
                rt::sleep(Duration::from_millis(1 + rt::sim::current().random_u64() % 100)).await;
            }
        });
        while let Some(incoming) = listener.accept().await {
            if handle.serve(incoming).is_err() {
                return;
            }
        }
    }

    async fn tell(&self, n: usize, view: PoolView) -> Result<(), Error> {
        let handle = self.handles.borrow()[n].clone().expect("it lives");
        handle.ask(|done| Order::SetMap { pool: POOL, view, done }).await.map(drop)
    }

    /// Gives the pool less room on one server than on the others.
    pub async fn set_quota(&self, n: usize, quota: u64) {
        let handle = self.handles.borrow()[n].clone().expect("it lives");
        let share = PoolShare { quota, reserve: 0, scrub: Span::FOREVER, is_alone: false };
        handle.ask(|done| Order::SetPool { id: POOL, share, done }).await.unwrap();
    }

    fn view(&self, n: usize) -> PoolView {
        let addresses = (0..self.servers()).map(|n| (Rank(n as u32), address(n))).collect();
        let widths = self.widths.borrow().clone();
        PoolView {
            map: self.map.borrow().clone(),
            widths,
            heal: Heal::All,
            budget: 50,
            addresses,
            rank: Rank(n as u32),
        }
    }

    /// What the pool has in use, as its state says from now on.
    pub fn use_widths(&self, widths: &[u32]) {
        *self.widths.borrow_mut() = widths.iter().copied().collect();
    }

    /// What a server's targets want in use.
    pub fn wants(&self, n: usize) -> Vec<u32> {
        self.wanted[n].of(POOL, |_| false).into_iter().collect()
    }

    pub fn stop(&self, n: usize, is_power_cut: bool) {
        self.handles.borrow_mut()[n] = None;
        self.lives.borrow_mut()[n] += 1;
        match is_power_cut {
            true => rt::sim::current().crash(self.nodes[n]),
            false => rt::sim::current().kill(self.nodes[n]),
        }
    }

    pub fn start(self: &Rc<Self>, n: usize) {
        rt::sim::current().restart(self.nodes[n], self.clone().live(n, false));
    }

    pub fn deafen(&self, n: Option<usize>) {
        self.deaf.set(n);
    }

    pub fn exclude(&self, n: usize) {
        self.excluded.set(Some(n));
        self.map.borrow_mut().apply(&Change::Happen(vec![(n as u32, Event::Exclude)])).unwrap();
    }

    /// Somebody is excluded, and not on its way back.
    pub fn is_out(&self) -> bool {
        self.excluded.get().is_some()
    }

    /// Who was excluded is a member again, without the data: there is no rebuild here.
    pub fn reintegrate(&self) {
        let Some(n) = self.excluded.take() else { return };
        self.map.borrow_mut().apply(&Change::Happen(vec![(n as u32, Event::Reintegrate)])).unwrap();
    }

    /// Stops all servers, and looks at what their stores hold.
    pub async fn stores(&self) -> Vec<Stored> {
        let mut all = Vec::new();
        for n in 0..self.servers() {
            let handle = self.handles.borrow_mut()[n].take();
            if let Some(handle) = handle {
                handle.ask(|done| Order::Stop { done }).await.expect("a healthy target stops in order");
            }
            rt::sim::current().kill(self.nodes[n]);
            let looked = rt::sim::current().restart(self.nodes[n], async move { Stored::read(n) }).await;
            all.push(looked.expect("a store that is not whole was named"));
        }
        all
    }
}

/// What a store holds.
pub struct Stored {
    /// By group, key and epoch.
    pub values: BTreeMap<(u32, String, Epoch), String>,
    pub undecided: Vec<vos::Undecided>,
    /// Outcomes that it remembers.
    pub unsettled: usize,
    /// Of which it knows anything.
    pub groups: Vec<u32>,
}

impl Stored {
    fn read(n: usize) -> Stored {
        let (mut store, _) = open::open_store(Cluster::config(n, false)).expect("a store that was closed opens");
        store.check().expect_clean();
        let mut values = BTreeMap::new();
        let undecided = GROUPS.iter().flat_map(|group| store.standing(POOL, *group).unwrap().prepared).collect();
        let unsettled = GROUPS.iter().map(|group| store.standing(POOL, *group).unwrap().decided.len()).sum();
        let groups = store.groups(POOL).unwrap();
        let mut branches = vec![vos::Branch::default()];
        while let Some(branch) = branches.pop() {
            if branch.akey.is_none() {
                let children = store.stored_children(CONTAINER, &branch, None, vos::LIST_MAX).expect("it is whole");
                for child in children.entries {
                    branches.push(match child {
                        vos::Child::Object(object) => vos::Branch { object: Some(object), ..vos::Branch::default() },
                        vos::Child::Key(key) if branch.dkey.is_none() => {
                            vos::Branch { dkey: Some(key), ..branch.clone() }
                        }
                        vos::Child::Key(key) => vos::Branch { akey: Some(key), ..branch.clone() },
                    });
                }
                continue;
            }
            let (Some(object), Some(dkey)) = (&branch.object, &branch.dkey) else { unreachable!("an akey is below") };
            let (group, key) = (object.group, dkey.to_string());
            let records = store.stored_records(CONTAINER, &branch, None, vos::LIST_MAX).expect("it is whole");
            for record in records.entries {
                let (vos::Stored::Single(_), Some(version)) = (&record.what, record.version) else { continue };
                let bytes = store.stored_bytes(CONTAINER, &record.key).expect("it is whole").expect("it is a value").0;
                values.insert((group, key.clone(), version.epoch), String::from_utf8(bytes).unwrap());
            }
        }
        Stored { values, undecided, unsettled, groups }
    }
}

/// A client with a session of its own.
pub struct Client {
    cluster: Rc<Cluster>,
    caller: Caller,
    sequence: u64,
    map: PoolMap,
    links: BTreeMap<usize, Connection>,
}

impl Client {
    pub fn new(cluster: Rc<Cluster>, session: u64) -> Client {
        let caller = Caller { session: SessionId(session), system: "test".into(), clock: Hlc::new() };
        let map = cluster.map.borrow().clone();
        Client { cluster, caller, sequence: 0, map, links: BTreeMap::new() }
    }

    /// The number of the last request.
    pub fn last(&self) -> u64 {
        self.sequence
    }

    pub async fn put(&mut self, group: u32, key: &str, value: &str, conditions: Conditions) -> Result<Epoch, Error> {
        self.sequence += 1;
        self.put_as(self.sequence, group, key, value, conditions).await
    }

    /// Under the number of a request that may have been sent before.
    pub async fn put_as(
        &mut self,
        sequence: u64,
        group: u32,
        key: &str,
        value: &str,
        conditions: Conditions,
    ) -> Result<Epoch, Error> {
        let checksums = codec::checksum::of_chunks(value.as_bytes());
        let (payload, bulk) = match value.len() > INLINE_BYTES_MAX {
            true => {
                let bulk = IoBuf::from_slice(value.as_bytes());
                (Payload::Bulk { offset: 0, bytes: value.len() as u32, checksums }, Some(bulk))
            }
            false => (Payload::Inline { bytes: Bytes(value.as_bytes().to_vec()), checksums }, None),
        };
        let akeys = vec![AkeyWrite { akey: Key::literal("v"), value: Value::Single { payload } }];
        let dkey = Key::new(key.as_bytes()).unwrap();
        let body = |map_version| {
            let place = Place { container: CONTAINER, oid: OID, group, map_version };
            UpdateRequest { place, dkey: dkey.clone(), conditions, akeys: akeys.clone() }.to_bytes()
        };
        let reply = self.retry(group, Opcode::Update, sequence, &body, bulk).await?;
        Ok(Committed::from_bytes(&reply.body).unwrap().epoch)
    }

    pub async fn get(&mut self, group: u32, key: &str) -> Result<Option<String>, Error> {
        let body = |map_version| fetch(group, key, Epoch::MAX, map_version);
        let reply = self.retry(group, Opcode::Fetch, 0, &body, None).await?;
        Ok(value(&reply))
    }

    /// At this server, once, whether or not it leads.
    pub async fn put_at(&mut self, n: usize, group: u32, key: &str, value: &str) -> Result<Epoch, Error> {
        self.sequence += 1;
        let place = Place { container: CONTAINER, oid: OID, group, map_version: self.map.version() };
        let checksums = codec::checksum::of_chunks(value.as_bytes());
        let payload = Payload::Inline { bytes: Bytes(value.as_bytes().to_vec()), checksums };
        let akeys = vec![AkeyWrite { akey: Key::literal("v"), value: Value::Single { payload } }];
        let dkey = Key::new(key.as_bytes()).unwrap();
        let body = UpdateRequest { place, dkey, conditions: Conditions::None, akeys }.to_bytes();
        let link = self.link(n).await?;
        let reply = link.call(Opcode::Update, self.sequence, body, None, CALL).await?;
        Ok(Committed::from_bytes(&reply.body).unwrap().epoch)
    }

    /// From this server, once.
    pub async fn get_at(&mut self, n: usize, group: u32, key: &str, at: Epoch) -> Result<Option<String>, Error> {
        let body = fetch(group, key, at, self.map.version());
        let link = self.link(n).await?;
        Ok(value(&link.call(Opcode::Fetch, 0, body, None, CALL).await?))
    }

    /// It does not listen yet.
    pub async fn link_is_refused(&mut self, n: usize) -> bool {
        self.link(n).await.is_err()
    }

    async fn link(&mut self, n: usize) -> Result<Connection, Error> {
        if let Some(link) = self.links.get(&n).filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        let link = Connection::open(&address(n), Service::Target { index: 0 }, &self.caller, CALL).await?;
        self.links.insert(n, link.clone());
        Ok(link)
    }

    /// Asks the leader until somebody answers.
    async fn retry(
        &mut self,
        group: u32,
        opcode: Opcode,
        sequence: u64,
        body: &dyn Fn(u32) -> Vec<u8>,
        bulk: Option<IoBuf>,
    ) -> Result<net::Reply, Error> {
        let deadline = rt::now() + PATIENCE;
        let mut last = Error::new(Code::TimedOut, "nobody was asked");
        while rt::now() < deadline {
            let leader = Layout::new(self.map.clone()).reign(group >> 8, WIDTH).leader.unwrap() as usize;
            let answer = match self.link(leader).await {
                Ok(link) => {
                    link.call(opcode, sequence, body(self.map.version()), bulk.clone(), CALL).await.map_err(Error::from)
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(reply) => return Ok(reply),
                Err(error) if may_help(&error) => last = error,
                Err(error) => return Err(error),
            }
            // Some go on by an old map until they are told.
            let is_keen = self.caller.session.0.is_multiple_of(2) && rt::random_u64().is_multiple_of(2);
            if last.code == Code::Stale || is_keen || last.code == Code::Unreachable {
                self.map = self.cluster.map.borrow().clone();
            }
            rt::sleep(Duration::from_millis(1 + rt::random_u64() % 50)).await;
        }
        Err(Error::new(Code::TimedOut, format!("given up after: {last}")))
    }
}

/// Asking again may: a frame of the handshake that came twice ends its link, too.
fn may_help(error: &Error) -> bool {
    error.is_transient() || matches!(error.code, Code::Stale | Code::Protocol)
}

fn fetch(group: u32, key: &str, at: Epoch, map_version: u32) -> Vec<u8> {
    let place = Place { container: CONTAINER, oid: OID, group, map_version };
    let akeys = vec![AkeyRead { akey: Key::literal("v"), selection: Selection::Single }];
    let dkey = Key::new(key.as_bytes()).unwrap();
    FetchRequest { place, dkey, at, conditions: Conditions::None, akeys }.to_bytes()
}

fn value(reply: &net::Reply) -> Option<String> {
    let answer = FetchResponse::from_bytes(&reply.body).unwrap();
    let piece = answer.akeys[0].pieces.first()?;
    let payload = piece.payload.as_ref()?;
    let bulk = reply.bulk.as_deref().unwrap_or_default();
    Some(String::from_utf8(payload.bytes(bulk).unwrap().to_vec()).unwrap())
}

//! Servers made of maps: every object is the list of what was done to it, and a read replays the
//! list up to its epoch. They can be told to misbehave.
//!
//! All servers share what they hold, as if every change were at once with everybody who is to have it; but only the
//! leader of a group by the map of the moment changes it, and says what it is now.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use client::{Address, Code, ContainerSpec, Error, System, SystemOptions};
use codec::checksum;
use net::{Handler, Limits, Listener, Reply, Request};
use placement::{Change as MapChange, Event, FaultPath, GroupNumber, Layout, MapParts, PoolMap, Server};
use rt::disk::IoBuf;
use types::{Conditions, ContainerId, Epoch, Extent, Key, ObjectId, PoolId, Rank, SessionId};
use wire::control as msg;
use wire::data::{
    AkeyData, Committed, DiffRequest, DiffResponse, Difference, DifferenceKind, Direction, FetchRequest, FetchResponse,
    INLINE_BYTES_MAX, ListAkeysRequest, ListDkeysRequest, ListExtentsRequest, ListExtentsResponse, ListKeysResponse,
    ListObjectsRequest, ListObjectsResponse, Payload, Piece, Place, PunchRequest, PunchScope, QueryKeysRequest,
    QueryKeysResponse, Selection, UpdateRequest, Value,
};
use wire::encoding::Bytes;
use wire::hello::Service;
use wire::opcode::Repeat;
use wire::{Opcode, Wire};

/// What the server does wrong with the next request of an opcode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every link breaks before the request is looked at.
    BreakBefore,
    /// It is done, and then every link breaks.
    BreakAfter,
    /// Nothing at all comes back, ever.
    Silence,
    /// It is not done.
    Refuse(Code),
    /// It is done, and one bit of the data in the answer is flipped.
    Corrupt,
    /// It is done, and the answer is noise.
    Noise,
}

/// Whom a server with a wrong clock lets in no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Whoever is after a target.
    Targets,
    All,
}

/// The server's whole state.
pub struct Fake {
    /// By rank.
    names: Vec<String>,
    system: RefCell<String>,
    map: RefCell<PoolMap>,
    targets: u32,
    /// Ranks whose control service is none.
    pub no_service: RefCell<BTreeSet<usize>>,
    /// Ranks that let nobody in, because a clock is off: whoever says hello is told so.
    pub fenced: RefCell<BTreeMap<usize, Fence>>,
    /// Ranks that are not sure what was at any moment.
    pub unsure: RefCell<BTreeSet<usize>>,
    clock: Cell<u64>,
    containers: RefCell<BTreeMap<ContainerId, msg::ContainerInfo>>,
    snapshots: RefCell<Vec<msg::SnapshotInfo>>,
    next_id: Cell<u64>,
    objects: RefCell<BTreeMap<(ContainerId, u32, ObjectId), History>>,
    results: RefCell<BTreeMap<(SessionId, u64), Reply>>,
    faults: RefCell<VecDeque<(Opcode, Fault)>>,
    /// By rank.
    listeners: RefCell<BTreeMap<usize, rt::JoinHandle<()>>>,
    links: RefCell<Vec<(usize, rt::JoinHandle<()>)>>,
    /// Requests that targets have seen, and which one.
    pub asked: RefCell<Vec<(Opcode, u32)>>,
    /// Requests seen, repeats included.
    pub seen: RefCell<BTreeMap<Opcode, u32>>,
    /// Requests under way now, and the most there were.
    under_way: Cell<(usize, usize)>,
}

type History = Vec<(Epoch, Change)>;

enum Change {
    Update(UpdateRequest, Vec<u8>),
    Punch(PunchScope),
}

/// An object as it stands: dkeys, akeys, values.
type Table = BTreeMap<Key, BTreeMap<Key, Stored>>;

#[derive(Clone)]
enum Stored {
    Single(Vec<u8>),
    Array { record_bytes: u32, records: Vec<Option<Vec<u8>>> },
}

pub const POOL: PoolId = PoolId::from_bytes([7; 16]);

impl Fake {
    /// A server with pool `tank` on `targets` targets, listening.
    pub async fn start(targets: u32) -> Rc<Fake> {
        Fake::cluster(1, targets).await
    }

    /// Servers with pool `tank` on `targets` targets of each, listening.
    pub async fn cluster(servers: usize, targets: u32) -> Rc<Fake> {
        let fake = Fake::of(servers, targets);
        fake.clone().listen().await;
        fake
    }

    pub fn new(targets: u32) -> Rc<Fake> {
        Fake::of(1, targets)
    }

    fn of(servers: usize, targets: u32) -> Rc<Fake> {
        let server = |rank| Server { rank: Rank(rank), path: FaultPath::of_rank(Rank(rank)), targets, weight: 1 };
        let map = PoolMap::create((0..servers as u32).map(server).collect()).unwrap();
        Rc::new(Fake {
            names: (0..servers).map(|_| format!("fake-{:016x}", rt::random_u64())).collect(),
            system: RefCell::new("daos_server".into()),
            map: RefCell::new(map),
            targets,
            no_service: RefCell::default(),
            fenced: RefCell::default(),
            unsure: RefCell::default(),
            clock: Cell::new(1000),
            containers: RefCell::default(),
            snapshots: RefCell::default(),
            next_id: Cell::new(1),
            objects: RefCell::default(),
            results: RefCell::default(),
            faults: RefCell::default(),
            listeners: RefCell::default(),
            links: RefCell::default(),
            asked: RefCell::default(),
            seen: RefCell::default(),
            under_way: Cell::default(),
        })
    }

    pub async fn listen(self: Rc<Fake>) {
        for rank in 0..self.names.len() {
            self.clone().listen_as(rank).await;
        }
    }

    /// Server `rank` begins to listen, again perhaps.
    pub async fn listen_as(self: Rc<Fake>, rank: usize) {
        let listener = Listener::bind(&self.address_of(rank), "daos_server", rt::Hlc::new()).await.unwrap();
        let fake = self.clone();
        let task = rt::spawn_local(async move {
            while let Some(incoming) = listener.accept().await {
                let service = match incoming.service() {
                    Service::Control => None,
                    Service::Target { index } => Some(*index),
                };
                let is_refused = match fake.fenced.borrow().get(&rank) {
                    None => false,
                    Some(Fence::Targets) => service.is_some(),
                    Some(Fence::All) => true,
                };
                if is_refused {
                    let reason = Error::new(Code::ClockOffset, "the server's clock is off by 3600 s");
                    rt::spawn_local(incoming.refuse(reason.remedy("set the clock")));
                    continue;
                }
                let handler = Rc::new(Serving { fake: fake.clone(), rank, target: service });
                let link = rt::spawn_local(net::serve(incoming, Limits::default(), 1, handler));
                fake.links.borrow_mut().push((rank, link));
            }
        });
        self.listeners.borrow_mut().insert(rank, task);
    }

    /// Server `rank` is gone; nobody says so in the map.
    pub fn stop(&self, rank: usize) {
        if let Some(listener) = self.listeners.borrow_mut().remove(&rank) {
            listener.abort();
        }
        let gone = |link: &mut (usize, rt::JoinHandle<()>)| link.0 == rank;
        self.links.borrow_mut().extract_if(.., gone).for_each(|(_, link)| link.abort());
    }

    pub fn address(&self) -> Address {
        self.address_of(0)
    }

    pub fn address_of(&self, rank: usize) -> Address {
        Address::Mem(self.names[rank].clone())
    }

    /// Something happens to all targets of some servers.
    pub fn happen(&self, event: Event, ranks: &[usize]) {
        let mut map = self.map.borrow_mut();
        let of = |&rank: &usize| map.positions_of(Rank(rank as u32)).map(|p| (p, event)).collect::<Vec<_>>();
        let events = ranks.iter().flat_map(of).collect();
        map.apply(&MapChange::Happen(events)).unwrap();
    }

    /// A later version of the map that says the same.
    pub fn renumber(&self, version: u32) {
        let parts = MapParts { version, ..self.map.borrow().parts() };
        *self.map.borrow_mut() = PoolMap::from_parts(parts).unwrap();
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.map.borrow().clone())
    }

    /// The rank of the server that leads the group of an object of one group.
    pub fn leader_of(&self, oid: ObjectId) -> usize {
        let layout = self.layout();
        let placed = layout.place(oid).unwrap();
        (layout.leader(placed.pgs()[0], placed.width()).unwrap() / self.targets) as usize
    }

    /// Ranks of the servers that were asked for this since the last call.
    pub fn ranks_asked(&self, opcode: Opcode) -> Vec<usize> {
        let asked = self.asked.borrow_mut().drain(..).filter(|(of, _)| *of == opcode).collect::<Vec<_>>();
        asked.into_iter().map(|(_, position)| (position / self.targets) as usize).collect()
    }

    pub async fn connect(&self) -> System {
        self.connect_with(SystemOptions::default()).await
    }

    pub async fn connect_with(&self, options: SystemOptions) -> System {
        System::connect(&[self.address()], options).await.unwrap()
    }

    /// A container `box`, made if need be, over a connection of its own.
    pub async fn container(&self) -> client::Container {
        let pool = self.connect().await.pool("tank").await.unwrap();
        if self.containers.borrow().is_empty() {
            pool.create_container(ContainerSpec::labelled("box")).await.unwrap();
        }
        pool.container("box").await.unwrap()
    }

    /// The next request of `opcode` meets `fault`; those after it the faults added after.
    pub fn fail(&self, opcode: Opcode, fault: Fault) {
        self.faults.borrow_mut().push_back((opcode, fault));
    }

    pub fn seen(&self, opcode: Opcode) -> u32 {
        self.seen.borrow().get(&opcode).copied().unwrap_or_default()
    }

    /// How many updates and punches took effect.
    pub fn changes(&self) -> usize {
        self.objects.borrow().values().map(Vec::len).sum()
    }

    /// The most requests that were under way at once, since the last call.
    pub fn most_under_way(&self) -> usize {
        let (now, most) = self.under_way.get();
        self.under_way.set((now, now));
        most
    }

    pub fn break_links(&self) {
        self.links.borrow_mut().drain(..).for_each(|(_, link)| link.abort());
    }

    fn map_message(&self) -> msg::PoolMap {
        object::map::to_message(POOL, "tank", &self.map.borrow(), |rank| self.text(rank))
    }

    fn text(&self, rank: Rank) -> String {
        self.address_of(rank.0 as usize).to_string()
    }

    fn tick(&self) -> Epoch {
        self.clock.set(self.clock.get() + 1);
        Epoch(self.clock.get())
    }
}

/// One link's view of the server: its control service, or one of its targets.
struct Serving {
    fake: Rc<Fake>,
    rank: usize,
    target: Option<u32>,
}

impl Handler for Serving {
    async fn handle(self: Rc<Self>, request: Request) -> Result<Reply, Error> {
        let fake = &self.fake;
        *fake.seen.borrow_mut().entry(request.opcode).or_default() += 1;
        let (now, most) = fake.under_way.get();
        fake.under_way.set((now + 1, most.max(now + 1)));
        // Lets requests that were sent together be seen together.
        rt::yield_now().await;
        let (now, most) = fake.under_way.get();
        fake.under_way.set((now - 1, most));

        let fault = {
            let mut faults = fake.faults.borrow_mut();
            let found = faults.iter().position(|(opcode, _)| *opcode == request.opcode);
            found.and_then(|index| faults.remove(index)).map(|(_, fault)| fault)
        };
        match fault {
            Some(Fault::BreakBefore) => {
                fake.break_links();
                Err(Error::new(Code::Misc, "nobody reads this"))
            }
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Refuse(code)) => Err(Error::new(code, "refused for a test")),
            Some(Fault::BreakAfter) => {
                let reply = self.once(&request);
                fake.break_links();
                reply
            }
            Some(Fault::Corrupt) => self.once(&request).map(corrupt),
            Some(Fault::Noise) => {
                self.once(&request).map(|_| Reply { body: b"\xff\xff\xffnoise"[..].into(), bulk: None })
            }
            None => self.once(&request),
        }
    }
}

fn corrupt(mut reply: Reply) -> Reply {
    match &mut reply.bulk {
        Some(bulk) => bulk[0] ^= 1,
        None => {
            // The last byte of an inline payload lies before its one checksum and the list's count.
            let mut body = reply.body.to_vec();
            let end = body.len() - 9;
            body[end] ^= 1;
            reply.body = body.into();
        }
    }
    reply
}

impl Serving {
    fn once(&self, request: &Request) -> Result<Reply, Error> {
        let name = (request.session, request.sequence);
        if let Some(Reply { body, bulk }) = self.fake.results.borrow().get(&name) {
            return Ok(Reply { body: body.clone(), bulk: bulk.clone() });
        }
        let (body, bulk) = match self.target {
            None => (self.control(request)?, None),
            Some(target) => self.data(target, request)?,
        };
        let reply = Reply { body: body.into(), bulk };
        if request.opcode.repeat() == Repeat::Once {
            let copy = Reply { body: reply.body.clone(), bulk: reply.bulk.clone() };
            self.fake.results.borrow_mut().insert(name, copy);
        }
        Ok(reply)
    }

    fn control(&self, request: &Request) -> Result<Vec<u8>, Error> {
        let fake = &self.fake;
        if fake.no_service.borrow().contains(&self.rank) {
            return Err(Error::new(Code::NoService, "no replica of the service is here"));
        }
        let body = &request.body[..];
        Ok(match request.opcode {
            Opcode::SystemQuery => {
                let name = fake.system.borrow().clone();
                msg::SystemInfo { name, release: "0".into(), members: vec![], leader: None, voters: vec![] }.to_bytes()
            }
            Opcode::PoolConnect => {
                check_pool(&parse::<msg::PoolName>(body).pool)?;
                fake.map_message().to_bytes()
            }
            Opcode::PoolMapSince => {
                let known: msg::PoolMapSince = parse(body);
                check_pool(&known.pool)?;
                let delta = fake.map.borrow().delta_since(known.version);
                match delta.map(|delta| object::map::delta_to_message(&delta, |rank| fake.text(rank))) {
                    Some(delta) => msg::PoolMapNews::Delta { delta }.to_bytes(),
                    None => msg::PoolMapNews::Whole { map: fake.map_message() }.to_bytes(),
                }
            }
            Opcode::PoolDestroy => {
                let request: msg::PoolDestroy = parse(body);
                check_pool(&request.pool)?;
                if !request.recursive {
                    return Err(Error::new(Code::Busy, "pool 'tank' holds containers").remedy("destroy them first"));
                }
                ().to_bytes()
            }
            Opcode::ContainerCreate => {
                let request: msg::ContainerCreate = parse(body);
                check_pool(&request.pool)?;
                if fake.containers.borrow().values().any(|known| known.label == request.label) {
                    return Err(Error::new(Code::Exists, format!("container '{}' exists", request.label)));
                }
                let id = ContainerId::from_bytes([1 + fake.containers.borrow().len() as u8; 16]);
                let info = msg::ContainerInfo {
                    pool: POOL,
                    id,
                    label: request.label,
                    layout: request.layout,
                    created: fake.tick(),
                    snapshots: 0,
                    latest_snapshot: Epoch::ZERO,
                    properties: request.properties,
                };
                fake.containers.borrow_mut().insert(id, info.clone());
                info.to_bytes()
            }
            Opcode::ContainerList => {
                msg::ContainerList { containers: fake.containers.borrow().values().cloned().collect() }.to_bytes()
            }
            Opcode::ContainerQuery => {
                let name: msg::ContainerName = parse(body);
                let containers = fake.containers.borrow();
                let found =
                    containers.values().find(|c| c.label == name.container || c.id.to_string() == name.container);
                found
                    .ok_or_else(|| Error::new(Code::NotFound, format!("no container '{}'", name.container)))?
                    .to_bytes()
            }
            Opcode::SnapshotCreate => {
                let info = msg::SnapshotInfo { epoch: fake.tick(), name: parse::<msg::SnapshotCreate>(body).name };
                fake.snapshots.borrow_mut().push(info.clone());
                info.to_bytes()
            }
            Opcode::SnapshotList => msg::SnapshotList { snapshots: fake.snapshots.borrow().clone() }.to_bytes(),
            Opcode::AllocateObjectIds => {
                let count = parse::<msg::AllocateObjectIds>(body).count;
                let first = fake.next_id.get();
                fake.next_id.set(first + count);
                msg::ObjectIdRange { first, count }.to_bytes()
            }
            other => return Err(Error::new(Code::NotSupported, format!("the fake has no {}", other.name()))),
        })
    }

    fn data(&self, target: u32, request: &Request) -> Result<(Vec<u8>, Option<IoBuf>), Error> {
        let body = &request.body[..];
        let fake = &self.fake;
        let position = self.rank as u32 * fake.targets + target;
        fake.asked.borrow_mut().push((request.opcode, position));
        let layout = fake.layout();
        // Who has part in the group, and by which map the sender found him.
        let check = |place: &Place, past: bool| {
            let group = GroupNumber::from_u32(place.group).expect("a group and a width");
            if place.map_version < layout.version() {
                return Err(Error::new(Code::Stale, "the pool map is older than mine"));
            }
            let slots = layout.slots(group.pg(), group.width());
            if past && slots.iter().any(|slot| slot.serving == Some(position)) {
                let sure = !fake.unsure.borrow().contains(&self.rank);
                return sure.then_some(()).ok_or_else(|| Error::new(Code::Again, "not sure what was then"));
            }
            match layout.leader_among(&slots) == Some(position) {
                true => Ok(()),
                false => Err(Error::new(Code::Again, format!("target {position} does not lead group {group}"))),
            }
        };
        let key_of = |place: &Place, at: Epoch| {
            check(place, at != Epoch::MAX).map(|()| (place.container, place.group, place.oid))
        };
        let answer = match request.opcode {
            Opcode::Update => {
                let update: UpdateRequest = parse(body);
                let key = key_of(&update.place, Epoch::MAX)?;
                let table = self.table(&key, Epoch::MAX);
                let akeys: Vec<&Key> = update.akeys.iter().map(|write| &write.akey).collect();
                judge(&table, &update.dkey, &akeys, update.conditions)?;
                let epoch = fake.tick();
                let bulk = request.bulk.as_ref().map(|bulk| bulk.to_vec()).unwrap_or_default();
                verify(&update, &bulk);
                fake.objects.borrow_mut().entry(key).or_default().push((epoch, Change::Update(update, bulk)));
                Committed { epoch }.to_bytes()
            }
            Opcode::Punch => {
                let punch: PunchRequest = parse(body);
                let key = key_of(&punch.place, Epoch::MAX)?;
                let table = self.table(&key, Epoch::MAX);
                match &punch.scope {
                    PunchScope::Object => {}
                    PunchScope::Dkey { dkey } => judge(&table, dkey, &[], punch.conditions)?,
                    PunchScope::Akeys { dkey, akeys } => {
                        judge(&table, dkey, &akeys.iter().collect::<Vec<_>>(), punch.conditions)?
                    }
                    PunchScope::Extents { dkey, akey, .. } => judge(&table, dkey, &[akey], punch.conditions)?,
                }
                let epoch = fake.tick();
                fake.objects.borrow_mut().entry(key).or_default().push((epoch, Change::Punch(punch.scope)));
                Committed { epoch }.to_bytes()
            }
            Opcode::Fetch => {
                let fetch: FetchRequest = parse(body);
                let key = key_of(&fetch.place, fetch.at)?;
                return answer_fetch(&self.table(&key, fetch.at), &fetch);
            }
            Opcode::ListObjects => {
                let list: ListObjectsRequest = parse(body);
                let objects = fake.objects.borrow();
                let holds = |number: u32| {
                    let group = GroupNumber::from_u32(number).unwrap();
                    layout.slots(group.pg(), group.width()).iter().any(|slot| slot.serving == Some(position))
                };
                let mut found: Vec<(u32, ObjectId)> = objects
                    .keys()
                    .filter(|key| key.0 == list.container && holds(key.1) && !self.table(key, list.at).is_empty())
                    .map(|key| (key.1, key.2))
                    .filter(|found| list.after.is_none_or(|after| *found > after))
                    .collect();
                // Pages of two, whatever was asked for: the client has to come back.
                let is_all = found.len() <= 2;
                found.truncate(2);
                let next = found.last().copied().filter(|_| !is_all);
                ListObjectsResponse { objects: found, next }.to_bytes()
            }
            Opcode::Diff => {
                let diff: DiffRequest = parse(body);
                let mut differences = Vec::new();
                for ((container, group, oid), history) in fake.objects.borrow().iter() {
                    let number = GroupNumber::from_u32(*group).unwrap();
                    let slots = layout.slots(number.pg(), number.width());
                    if *container != diff.container || !slots.iter().any(|slot| slot.serving == Some(position)) {
                        continue;
                    }
                    for (_, change) in history.iter().filter(|(epoch, _)| *epoch > diff.from && *epoch <= diff.to) {
                        if let Change::Update(update, _) = change {
                            let (dkey, akey) = (update.dkey.clone(), update.akeys[0].akey.clone());
                            let kind = DifferenceKind::Added;
                            differences.push(Difference { group: *group, oid: *oid, dkey, akey, extent: None, kind });
                        }
                    }
                }
                DiffResponse { differences, next: Bytes(vec![]) }.to_bytes()
            }
            Opcode::ListDkeys => {
                let list: ListDkeysRequest = parse(body);
                let key = key_of(&list.place, list.at)?;
                page(self.table(&key, list.at).into_keys(), list.after, list.limit, list.direction)
            }
            Opcode::ListAkeys => {
                let list: ListAkeysRequest = parse(body);
                let key = key_of(&list.place, list.at)?;
                let akeys = self.table(&key, list.at).remove(&list.dkey).unwrap_or_default();
                page(akeys.into_keys(), list.after, list.limit, list.direction)
            }
            Opcode::ListExtents => {
                let list: ListExtentsRequest = parse(body);
                let key = key_of(&list.place, list.at)?;
                let akeys = self.table(&key, list.at).remove(&list.dkey).unwrap_or_default();
                let Some(Stored::Array { record_bytes, records }) = akeys.get(&list.akey) else {
                    return Ok((ListExtentsResponse { record_bytes: 0, extents: vec![], next: None }.to_bytes(), None));
                };
                let extents = runs(records, Extent::new(list.within.start, records.len() as u64));
                let extents = extents.into_iter().filter(|(_, there)| *there).map(|(e, _)| (e, Epoch(1))).collect();
                ListExtentsResponse { record_bytes: *record_bytes, extents, next: None }.to_bytes()
            }
            Opcode::QueryKeys => {
                let query: QueryKeysRequest = parse(body);
                let key = key_of(&query.place, query.at)?;
                let last_write = fake.objects.borrow().get(&key).and_then(|h| h.last()).map_or(Epoch::ZERO, |l| l.0);
                answer_query(&self.table(&key, query.at), &query, last_write).to_bytes()
            }
            other => return Err(Error::new(Code::NotSupported, format!("the fake has no {}", other.name()))),
        };
        Ok((answer, None))
    }

    /// An object's group as it stood at `at`.
    fn table(&self, key: &(ContainerId, u32, ObjectId), at: Epoch) -> Table {
        let mut table = Table::new();
        let objects = self.fake.objects.borrow();
        for (_, change) in objects.get(key).into_iter().flatten().filter(|(epoch, _)| *epoch <= at) {
            match change {
                Change::Update(update, bulk) => apply(&mut table, update, bulk),
                Change::Punch(scope) => punch(&mut table, scope),
            }
        }
        table
    }
}

fn parse<M: Wire>(body: &[u8]) -> M {
    M::from_bytes(body).expect("the client speaks properly")
}

fn check_pool(name: &str) -> Result<(), Error> {
    if name == "tank" || name == POOL.to_string() {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, format!("no pool '{name}'")).remedy("list pools with `dmg pool list`"))
}

fn judge(table: &Table, dkey: &Key, akeys: &[&Key], conditions: Conditions) -> Result<(), Error> {
    let there = |akey: &&Key| table.get(dkey).is_some_and(|akeys| akeys.contains_key(*akey));
    let refused = match conditions {
        Conditions::None => None,
        Conditions::DkeyInsert => table.contains_key(dkey).then_some(Code::Exists),
        Conditions::DkeyExists => (!table.contains_key(dkey)).then_some(Code::NotFound),
        Conditions::AkeyInsert => akeys.iter().any(there).then_some(Code::Exists),
        Conditions::AkeyExists => (!akeys.iter().all(there)).then_some(Code::NotFound),
    };
    refused.map_or(Ok(()), |code| Err(Error::new(code, format!("condition on '{dkey}'"))))
}

/// The client's checksums are right, always.
fn verify(update: &UpdateRequest, bulk: &[u8]) {
    for write in &update.akeys {
        let payloads: Vec<&Payload> = match &write.value {
            Value::Single { payload } => vec![payload],
            Value::Array { extents, .. } => extents.iter().map(|extent| &extent.payload).collect(),
        };
        for payload in payloads {
            checksum::verify_chunks(payload.bytes(bulk).unwrap(), payload.checksums()).unwrap();
        }
    }
}

fn apply(table: &mut Table, update: &UpdateRequest, bulk: &[u8]) {
    let akeys = table.entry(update.dkey.clone()).or_default();
    for write in &update.akeys {
        match &write.value {
            Value::Single { payload } => {
                akeys.insert(write.akey.clone(), Stored::Single(payload.bytes(bulk).unwrap().to_vec()));
            }
            Value::Array { record_bytes, extents } => {
                let empty = Stored::Array { record_bytes: *record_bytes, records: vec![] };
                let Stored::Array { records, .. } = akeys.entry(write.akey.clone()).or_insert(empty) else { panic!() };
                for write in extents {
                    let bytes = write.payload.bytes(bulk).unwrap();
                    let end = write.extent.end() as usize;
                    records.resize(records.len().max(end), None);
                    for (record, bytes) in
                        records[write.extent.start as usize..end].iter_mut().zip(bytes.chunks(*record_bytes as usize))
                    {
                        *record = Some(bytes.to_vec());
                    }
                }
            }
        }
    }
}

fn punch(table: &mut Table, scope: &PunchScope) {
    match scope {
        PunchScope::Object => table.clear(),
        PunchScope::Dkey { dkey } => drop(table.remove(dkey)),
        PunchScope::Akeys { dkey, akeys } => {
            let left = table.get_mut(dkey).map(|found| {
                akeys.iter().for_each(|akey| drop(found.remove(akey)));
                found.len()
            });
            if left == Some(0) {
                table.remove(dkey);
            }
        }
        PunchScope::Extents { dkey, akey, extents } => {
            if let Some(Stored::Array { records, .. }) = table.get_mut(dkey).and_then(|akeys| akeys.get_mut(akey)) {
                for extent in extents {
                    let end = extent.end().min(records.len() as u64) as usize;
                    records[(extent.start as usize).min(end)..end].fill(None);
                }
            }
        }
    }
}

fn answer_fetch(table: &Table, fetch: &FetchRequest) -> Result<(Vec<u8>, Option<IoBuf>), Error> {
    let akeys: Vec<&Key> = fetch.akeys.iter().map(|read| &read.akey).collect();
    judge(table, &fetch.dkey, &akeys, fetch.conditions)?;
    let mut bulk = IoBuf::default();
    let mut answer = Vec::new();
    for read in &fetch.akeys {
        let stored = table.get(&fetch.dkey).and_then(|akeys| akeys.get(&read.akey));
        answer.push(match (stored, &read.selection) {
            (Some(Stored::Single(value)), Selection::Single) => {
                let payload = Some(place(&mut bulk, value));
                AkeyData {
                    record_bytes: value.len() as u32,
                    pieces: vec![Piece { extent: Extent::new(0, 1), payload }],
                }
            }
            (Some(Stored::Array { record_bytes, records }), Selection::Array { extents }) => {
                let runs = extents.iter().flat_map(|extent| runs(records, *extent));
                let piece = |(extent, there): (Extent, bool)| {
                    let range = extent.start as usize..extent.end() as usize;
                    let bytes = || records[range].iter().flatten().flatten().copied().collect::<Vec<u8>>();
                    Piece { extent, payload: there.then(|| place(&mut bulk, &bytes())) }
                };
                AkeyData { record_bytes: *record_bytes, pieces: runs.map(piece).collect() }
            }
            _ => AkeyData { record_bytes: 0, pieces: vec![] },
        });
    }
    if bulk.len() > types::VALUE_BYTES_MAX {
        return Err(Error::new(Code::Overflow, "too much for one answer"));
    }
    Ok((FetchResponse { akeys: answer }.to_bytes(), Some(bulk).filter(|bulk| !bulk.is_empty())))
}

/// Cuts an extent into runs that are all there or all holes; what lies beyond the records is left out.
fn runs(records: &[Option<Vec<u8>>], extent: Extent) -> Vec<(Extent, bool)> {
    let mut runs: Vec<(Extent, bool)> = Vec::new();
    for index in extent.start..extent.end().min(records.len() as u64) {
        let there = records[index as usize].is_some();
        match runs.last_mut() {
            Some((run, same)) if *same == there => run.count += 1,
            _ => runs.push((Extent::new(index, 1), there)),
        }
    }
    runs
}

fn place(bulk: &mut IoBuf, bytes: &[u8]) -> Payload {
    let checksums = checksum::of_chunks(bytes);
    if bytes.len() <= INLINE_BYTES_MAX {
        return Payload::Inline { bytes: Bytes(bytes.to_vec()), checksums };
    }
    let offset = bulk.len() as u32;
    bulk.extend_from_slice(bytes);
    Payload::Bulk { offset, bytes: bytes.len() as u32, checksums }
}

fn answer_query(table: &Table, query: &QueryKeysRequest, last_write: Epoch) -> QueryKeysResponse {
    let integers: Vec<u64> = table
        .keys()
        .filter(|dkey| query.dkey.as_ref().is_none_or(|wanted| wanted == *dkey))
        .filter_map(|dkey| match dkey {
            Key::Integer(n) => Some(*n),
            Key::Bytes(_) => None,
        })
        .collect();
    let of = query.dkey.clone().or(integers.last().copied().map(Key::Integer));
    let array = of.and_then(|dkey| table.get(&dkey)).zip(query.akey.as_ref()).and_then(|(akeys, akey)| akeys.get(akey));
    let (array_end, record_bytes) = match array {
        Some(Stored::Array { record_bytes, records }) => {
            (records.iter().rposition(Option::is_some).map_or(0, |last| last as u64 + 1), *record_bytes)
        }
        _ => (0, 0),
    };
    let (dkey_min, dkey_max) = (integers.first().copied(), integers.last().copied());
    QueryKeysResponse { dkey_min, dkey_max, array_end, record_bytes, last_write }
}

fn page(keys: impl Iterator<Item = Key>, after: Option<Key>, limit: u32, direction: Direction) -> Vec<u8> {
    let mut all: Vec<Key> = keys.collect();
    if direction == Direction::Backward {
        all.reverse();
    }
    let is_left = |key: &Key| match (&after, direction) {
        (None, _) => true,
        (Some(after), Direction::Forward) => key > after,
        (Some(after), Direction::Backward) => key < after,
    };
    all.retain(is_left);
    // Short pages: the client has to come back.
    let is_all = all.len() <= limit.min(5) as usize;
    all.truncate(limit.min(5) as usize);
    let next = all.last().cloned().filter(|_| !is_all);
    ListKeysResponse { keys: all, next }.to_bytes()
}

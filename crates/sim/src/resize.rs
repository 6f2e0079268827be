//! A scenario of its own: the targets' data grows and shrinks while clients write and read, and while the server dies
//! and comes back in the middle of it.
//!
//! The regions are small, so that what is stored lies behind the ends that they are to have, and must move.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use client::{Container, ContainerSpec, System};
use rt::Rng;
use rt::sim::{NodeId, Sim};
use types::{Code, ObjectId, ObjectType};

use crate::nemesis::{self, Faults};
use crate::oracle::{Oracle, Outcome};
use crate::scenario::{ServerNode, faulty, restart_server, start_server, stop_server, whole_stores};
use crate::workload::{self, connect, is_unknown, patiently};

const CLIENTS: u64 = 2;
const TARGETS: u64 = 2;
const MIB: u64 = 1 << 20;
/// What the pool reserves of each target: less than the smallest of them has for it.
const SHARE: u64 = 16 * MIB;
/// Sizes of a target's data, in MiB.
const SIZES: [u64; 8] = [22, 22, 23, 24, 26, 30, 40, 90];
/// The size that they have in the end.
const LAST: u64 = 23;
/// Keys of the client that fills the regions, and bytes of its values at most.
const HOARD: u64 = 60;
const HOARD_BYTES: u64 = 800_000;

/// How a run went.
#[derive(Debug)]
pub struct Report {
    pub faults: Faults,
    /// Sizes that were taken, and those that were refused.
    pub resizes: [u32; 2],
    /// Bytes of values that were seen to have moved.
    pub moved: u64,
    pub trace: u64,
}

/// Sizes asked for so far.
#[derive(Default)]
struct Sizes {
    taken: Cell<u32>,
    refused: Cell<u32>,
    moved: Cell<u64>,
}

impl Sizes {
    fn note_moved(&self, bytes: impl Iterator<Item = u64>) {
        self.moved.set(self.moved.get().max(bytes.sum()));
    }
}

/// Runs the scenario of `seed`. Panics on a broken promise.
pub fn run(seed: u64) -> Report {
    let sim = Sim::new(faulty(seed));
    let server = ServerNode::new(&sim);
    let clients: Vec<NodeId> = (0..CLIENTS).map(|n| sim.node(&format!("client-{n}"))).collect();
    let hoarder = sim.node("hoarder");
    let (faults, sizes) = sim.run(play(seed, server, clients, hoarder));
    let resizes = [sizes.taken.get(), sizes.refused.get()];
    Report { faults, resizes, moved: sizes.moved.get(), trace: sim.trace_hash() }
}

async fn play(seed: u64, server: ServerNode, clients: Vec<NodeId>, hoarder: NodeId) -> (Faults, Rc<Sizes>) {
    let sim = rt::sim::current();
    if !seed.is_multiple_of(2) {
        // Fences take many steps to come down and to go up, and much happens in between.
        sim.arm("media.fence.slice", rt::fault::When::Chance(0.97));
    }
    start_server(&server);
    let system = connect().await;
    system.create_pool("tank", TARGETS * SHARE, Vec::new()).await.expect("there is room for a pool");
    let (calm, sizes) = (Rc::new(Cell::new(false)), Rc::new(Sizes::default()));
    let torment = {
        let (server, clients, calm) = (server.clone(), clients.clone(), calm.clone());
        rt::spawn_local(nemesis::torment(server, clients, Rng::seeded(seed ^ 0x5eed), calm))
    };
    let resizing = rt::spawn_local(resize(system.clone(), Rng::seeded(seed ^ 0x512e), calm.clone(), sizes.clone()));
    let hoarding = sim.spawn_on(hoarder, hoard(Rng::seeded(seed ^ 0x40a8d), calm.clone()));
    let running: Vec<_> = clients
        .iter()
        .zip(0..)
        .map(|(node, number)| sim.spawn_on(*node, workload::run(number, Rng::seeded(seed.wrapping_add(number + 1)))))
        .collect();
    let mut witnesses = Vec::new();
    for client in running {
        witnesses.push(client.await.expect("a client that broke a promise has said which"));
    }
    calm.set(true);
    let faults = torment.await.expect("the nemesis only sleeps and breaks things");
    resizing.await.expect("sizes are only asked for");
    let hoard = hoarding.await.expect("a hoarder that was cheated has said how");

    patiently(|| system.resize_storage(Some(TARGETS * LAST * MIB))).await;
    // Once more from power off, on the way there.
    sim.crash(server.node);
    restart_server(&server);
    let system = connect().await;
    settle(&system, &sizes).await;
    let pool = patiently(|| system.pool("tank")).await;
    for witness in &witnesses {
        witness.verify(&pool).await;
    }
    hoard.verify(&patiently(|| pool.container("hoard")).await).await;
    drop((pool, system));
    stop_server(&server).await;
    sim.spawn_on(server.node, check()).await.expect("a store that broke an invariant has said which");
    (faults, sizes)
}

/// Asks for one size after the other, sooner or later than the one before is there.
async fn resize(system: System, mut dice: Rng, calm: Rc<Cell<bool>>, sizes: Rc<Sizes>) {
    while !calm.get() {
        let size = SIZES[dice.below(SIZES.len() as u64) as usize] * MIB;
        match system.resize_storage(Some(TARGETS * size)).await {
            Ok(info) => {
                sizes.taken.set(sizes.taken.get() + 1);
                sizes.note_moved(info.devices.iter().map(|device| device.moved_bytes));
            }
            Err(error) if error.code == Code::NoSpace => sizes.refused.set(sizes.refused.get() + 1),
            Err(error) => assert!(is_unknown(&error), "a size that may be: {error}"),
        }
        rt::sleep(Duration::from_millis(dice.below(1_500))).await;
    }
}

/// Waits until every target has the size that it is to have.
async fn settle(system: &System, sizes: &Sizes) {
    for _ in 0..1_000 {
        let devices = patiently(|| system.storage()).await.devices;
        sizes.note_moved(devices.iter().map(|device| device.moved_bytes));
        assert!(devices.iter().all(|device| device.wanted_bytes == LAST * MIB), "K1: what was taken is wanted");
        if devices.iter().all(|device| device.data_bytes == LAST * MIB) {
            return;
        }
        rt::sleep(Duration::from_secs(1)).await;
    }
    panic!("the targets do not come to their size: {:#?}", patiently(|| system.storage()).await.devices);
}

/// Opens every store of the stopped server and walks all of it: K8, and every byte of every value.
async fn check() {
    for store in whole_stores() {
        assert_eq!(store.media().data_bytes(), LAST * MIB);
        let report = store.check_with(vos::CheckOptions { data: true, ..vos::CheckOptions::default() });
        report.expect_clean();
    }
}

/// What a client that fills the regions put there.
struct Hoard {
    object: ObjectId,
    oracle: RefCell<Oracle>,
}

/// Puts and removes large values, so that free space is in pieces and some values lie far behind.
async fn hoard(mut dice: Rng, calm: Rc<Cell<bool>>) -> Hoard {
    let system = connect().await;
    let pool = patiently(|| system.pool("tank")).await;
    let properties = vec![("retention".to_string(), "0".to_string())];
    loop {
        match pool
            .create_container(ContainerSpec { properties: properties.clone(), ..ContainerSpec::labelled("hoard") })
            .await
        {
            Ok(_) => break,
            Err(error) if error.code == Code::Exists => break,
            Err(error) => assert!(is_unknown(&error), "refused: {error}"),
        }
    }
    let container = patiently(|| pool.container("hoard")).await;
    let object = patiently(|| container.new_object(ObjectType::KvHashed, None)).await;
    let hoard = Hoard { object, oracle: RefCell::default() };
    while !calm.get() {
        let key = format!("key-{}", dice.below(HOARD));
        if !hoard.oracle.borrow().is_known(&key) {
            rt::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let kv = container.kv(object);
        let value = (dice.below(8) > 0).then(|| {
            let mut bytes = vec![0; 1 + dice.below(HOARD_BYTES) as usize];
            dice.fill(&mut bytes);
            bytes
        });
        let done = match &value {
            Some(bytes) => kv.put(key.as_str(), bytes).await.map(drop),
            None => kv.remove(key.as_str()).await.map(drop),
        };
        match done {
            Ok(()) => hoard.oracle.borrow_mut().wrote(&key, value, Outcome::Acknowledged),
            // What was given up is not free yet.
            Err(error) if error.code == Code::NoSpace => {}
            Err(error) if is_unknown(&error) => hoard.oracle.borrow_mut().wrote(&key, value, Outcome::Unknown),
            Err(error) => panic!("refused: {error}"),
        }
        rt::sleep(Duration::from_millis(dice.below(20))).await;
    }
    hoard
}

impl Hoard {
    async fn verify(&self, container: &Container) {
        for key in (0..HOARD).map(|n| format!("key-{n}")) {
            let kv = container.kv(self.object);
            let found = patiently(|| kv.get(key.as_str())).await;
            self.oracle.borrow().judge(&key, &found.map(|bytes| bytes.to_vec())).expect("K1 after moving");
        }
    }
}

//! What a store remembers of requests that took effect: exactly those whose records are there, after any
//! crash, and never more than the stated bounds (K5, K6, K8).

mod rig;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use media::Lsn;
use rig::{container, dkeys, object, on_node, pool};
use rt::sim::disk::{Recorder, Volume};
use rt::sim::{Sim, SimConfig};
use types::{Conditions, Epoch, Key, SessionId};
use vos::model::{Scope, Write};
use vos::{EFFECTS_MAX, Error, Origin, Recall, Store};

const LOG_BYTES: u64 = 256 << 10;
/// So small that sixteen sessions are remembered.
const DATA_BYTES: u64 = 8 << 20;
const MEMORY_BYTES: usize = 2 << 20;
const SESSIONS: usize = 16;

/// A request that took effect: who asked, what epoch the answer says, and the position of its record.
type Effect = (Origin, Epoch, Lsn);
/// All effects of a run, and what was owed when: `(device events so far, effects acknowledged)`.
type Notes = (Vec<Effect>, Vec<(usize, usize)>);

fn origin(session: u64, seq: u64) -> Origin {
    Origin { session: SessionId(session), seq }
}

/// What should be remembered after `effects`, by the definition: of the sixteen sessions that did something
/// last, by the epochs, a page full of what each did last. An effect that has none is as late as any before it.
fn remembered(effects: &[Effect]) -> BTreeMap<SessionId, Vec<(u64, Epoch)>> {
    let mut kept: BTreeMap<SessionId, (Epoch, Vec<(u64, Epoch)>)> = BTreeMap::new();
    let mut latest = Epoch::ZERO;
    for (origin, epoch, _) in effects {
        let at = if *epoch == Epoch::ZERO { latest } else { *epoch };
        latest = latest.max(at);
        if !kept.contains_key(&origin.session) && kept.len() == SESSIONS {
            let oldest = kept.iter().map(|(session, (newest, _))| (*newest, *session)).min();
            kept.remove(&oldest.unwrap().1);
        }
        let (newest, ring) = kept.entry(origin.session).or_default();
        *newest = at.max(*newest);
        ring.push((origin.seq, *epoch));
        if ring.len() > EFFECTS_MAX {
            ring.remove(0);
        }
    }
    kept.into_iter().map(|(session, (_, ring))| (session, ring)).collect()
}

fn found(store: &mut Store) -> BTreeMap<SessionId, Vec<(u64, Epoch)>> {
    store.sessions().into_iter().map(|session| (session, store.effects(session).unwrap())).collect()
}

fn put(store: &mut Store, epoch: u64, origin: Origin, key: u64, conditions: Conditions) -> Result<Lsn, Error> {
    let akeys = [(Key::literal("v"), Write::Single(rig::content(key, 40)))];
    rig::update(store, container(0), Epoch(epoch), origin, object(0), &Key::from(key), conditions, &akeys)
}

/// Requests of many sessions: every kind that a client can make, some refused, numbers with gaps and not quite
/// in order.
struct Scenario {
    store: Store,
    effects: Vec<Effect>,
    next: u64,
    acknowledged: Vec<(usize, usize)>,
}

impl Scenario {
    fn new() -> Scenario {
        let store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
        Scenario { store, effects: Vec::new(), next: 0, acknowledged: Vec::new() }
    }

    fn act(&mut self, session: u64, epoch: Epoch, act: impl Fn(&mut Store, Origin, u64) -> Result<Lsn, Error>) {
        self.next += 1;
        // Pairs change places: 2, 1, 4, 3.
        let seq = 10 * ((self.next - 1) ^ 1);
        let lsn = loop {
            match act(&mut self.store, origin(session, seq), self.next) {
                Err(Error::Media(media::Error::Busy { .. } | media::Error::LogFull { .. })) => {
                    self.store.media().checkpoint_blocking().unwrap();
                }
                done => break done.unwrap(),
            }
        };
        let epoch = if epoch == Epoch::MAX { Epoch(self.next) } else { epoch };
        self.effects.push((origin(session, seq), epoch, lsn));
    }

    fn put(&mut self, session: u64) {
        self.act(session, Epoch::MAX, |store, origin, n| put(store, n, origin, n % 50, Conditions::None));
    }

    fn prepare(&mut self, change: u64) -> (Origin, Epoch) {
        self.next += 1;
        let (origin, epoch) = (origin(3, 10 * self.next), Epoch(self.next));
        let (dkey, akeys) = (dkeys()[1].clone(), vec![(Key::literal("t"), Write::Single(vec![1; 400]))]);
        let update = vos::model::Step::Update { object: object(1), dkey, conditions: Conditions::None, akeys };
        let op = rig::Op::Prepare { change, container: 1, epoch, steps: vec![update] };
        rig::submit_as(&mut self.store, &op, origin).unwrap();
        (origin, epoch)
    }

    fn settle(&mut self, recorder: &Recorder) {
        self.store.media().flush_now().unwrap();
        self.acknowledged.push((recorder.events(), self.effects.len()));
    }

    fn play(&mut self, recorder: &Recorder) {
        let none = Epoch::ZERO;
        self.act(1, none, |store, origin, _| store.create_pool(pool(0), 6 << 20, origin));
        self.act(1, none, |store, origin, _| store.create_container(pool(0), container(0), origin));
        self.act(1, none, |store, origin, _| store.create_container(pool(0), container(1), origin));
        self.settle(recorder);
        // More sessions than are remembered, coming back in another order.
        for round in 0..3 {
            for n in 0..20 {
                self.put(100 + n * (round + 1) % 23);
            }
            self.settle(recorder);
            if round == 1 {
                self.store.media().checkpoint_blocking().unwrap();
            }
            let refused = put(&mut self.store, 10_000, origin(7, 10_000 + round), 5, Conditions::DkeyInsert);
            assert!(matches!(refused, Err(Error::Exists)));
        }
        // Every kind of request.
        self.act(2, Epoch::MAX, |store, origin, n| {
            let (dkey, akey) = (dkeys()[0].clone(), Key::literal("a"));
            let akeys = [(akey, Write::Single(rig::content(n, 9000)))];
            rig::update(store, container(1), Epoch(n), origin, object(1), &dkey, Conditions::None, &akeys)
        });
        self.act(2, Epoch::MAX, |store, origin, n| {
            let scope = Scope::Dkey(dkeys()[0].clone());
            let op = rig::Op::Punch { container: 1, epoch: Epoch(n), object: 1, scope, conditions: Conditions::None };
            rig::submit_as(store, &op, origin).map(|(_, lsn)| lsn.unwrap())
        });
        self.act(2, none, |store, origin, n| store.set_snapshots(container(1), &[Epoch(n)], origin));
        // A prepare is no effect yet, its commit is; an abort leaves none.
        let prepared: Vec<(Origin, Epoch)> = (1..=2).map(|change| self.prepare(change)).collect();
        self.settle(recorder);
        let lsn = rig::commit(&mut self.store, 1).unwrap();
        self.effects.push((prepared[0].0, prepared[0].1, lsn));
        self.settle(recorder);
        rig::abort(&mut self.store, 2).unwrap();
        self.settle(recorder);
        self.store.media().checkpoint_blocking().unwrap();
        self.act(1, none, |store, origin, _| store.destroy_container(container(1), origin));
        self.settle(recorder);
        // One session beyond what its page holds, while others come and go.
        for n in 0..EFFECTS_MAX as u64 + 40 {
            self.put(5);
            if n % 60 == 0 {
                self.put(200 + n);
                self.settle(recorder);
            }
            if n == 300 || n == 520 {
                self.store.media().checkpoint_blocking().unwrap();
            }
        }
        self.settle(recorder);
        while self.store.maintain(8).unwrap() {}
        self.store.media().checkpoint_blocking().unwrap();
        assert_eq!(found(&mut self.store), remembered(&self.effects));
        self.store.check().expect_clean();
    }
}

/// Recovers from `volume` and compares; returns how many effects are there, and what is remembered.
fn recover(volume: &Volume, effects: Rc<[Effect]>, owed: usize, seed: u64, again: bool) -> (usize, String) {
    let sim = Sim::new(SimConfig::seeded(seed));
    let node = sim.node("target");
    sim.install(node, volume);
    let expected = effects.clone();
    let result = sim.run(async move {
        let body = async move {
            let (mut store, recovered, _) = match rig::open(MEMORY_BYTES) {
                Ok(opened) => opened,
                // A cut during format leaves no store, and nothing was promised.
                Err(Error::Media(media::Error::Format(_)) | Error::Corrupt { .. }) if owed == 0 => {
                    return (0, String::new());
                }
                Err(error) => panic!("{error}"),
            };
            let kept = expected.iter().take_while(|(_, _, lsn)| *lsn < recovered.to).count();
            assert!(kept >= owed, "{kept} effects are left of {owed} acknowledged ones");
            let wanted = remembered(&expected[..kept]);
            assert_eq!(found(&mut store), wanted);
            for (session, ring) in &wanted {
                for (seq, epoch) in ring {
                    let origin = Origin { session: *session, seq: *seq };
                    assert_eq!(store.recall(origin).unwrap(), Recall::Done(*epoch));
                }
            }
            for (origin, _, _) in &expected[kept..] {
                assert_eq!(store.recall(*origin).unwrap(), Recall::Never, "lost with the power, and may run again");
            }
            store.check().expect_clean();
            (kept, format!("{wanted:?}"))
        };
        rt::sim::current().spawn_on(node, body).await.unwrap()
    });
    if again {
        // K6: what recovery left on the device recovers to the same.
        let once_more = recover(&sim.volume(node), effects, owed, seed, false);
        if result.0 > 0 {
            assert_eq!(once_more, result);
        }
    }
    result
}

#[test]
fn after_any_power_cut_exactly_the_requests_whose_effects_are_there_are_remembered() {
    let sim = Sim::new(SimConfig::seeded(5));
    let node = sim.node("target");
    let recorder = sim.record(node);
    let recording = recorder.clone();
    let noted: Rc<RefCell<Notes>> = Rc::default();
    let notes = noted.clone();
    sim.run(async move {
        let body = async move {
            let mut scenario = Scenario::new();
            scenario.play(&recording);
            *notes.borrow_mut() = (scenario.effects, scenario.acknowledged);
        };
        rt::sim::current().spawn_on(node, body).await.unwrap();
    });
    let (effects, acknowledged) = noted.take();
    let effects: Rc<[Effect]> = effects.into();
    let mut replay = recorder.replay();
    let mut furthest = 0;
    loop {
        let events = replay.events();
        let owed = acknowledged.iter().take_while(|(at, _)| *at <= events).map(|(_, count)| *count).max();
        let owed = owed.unwrap_or(0);
        for cut in 0..4 {
            let cut = events as u64 * 4 + cut;
            let again = cut.is_multiple_of(3);
            furthest = recover(&replay.power_cut(cut), effects.clone(), owed, cut, again).0.max(furthest);
        }
        if events.is_multiple_of(5) {
            recover(&replay.kill(), effects.clone(), owed, events as u64, false);
        }
        if !replay.step() {
            break;
        }
    }
    println!("{} device events, {} effects", recorder.events(), effects.len());
    assert_eq!(furthest, effects.len(), "after the last event everything is there");
}

#[test]
fn pages_of_sessions_belong_to_no_pool_and_are_bounded() {
    on_node(1, || {
        let mut store = rig::format(LOG_BYTES, DATA_BYTES, MEMORY_BYTES);
        store.create_pool(pool(0), 6 << 20, Origin::default()).unwrap();
        store.create_container(pool(0), container(0), Origin::default()).unwrap();
        put(&mut store, 1, Origin::default(), 1, Conditions::None).unwrap();
        let (used, pages) = (store.pool_space(pool(0)).unwrap().used, store.check().pages);
        assert!(store.sessions().is_empty());
        for session in 1..=3 * SESSIONS as u64 {
            put(&mut store, 1 + session, origin(session, 1), 1, Conditions::None).unwrap();
        }
        let report = store.check();
        report.expect_clean();
        assert_eq!((report.pages, store.pool_space(pool(0)).unwrap().used), (pages + SESSIONS as u64, used));
        assert_eq!(store.session_bytes_max(), (SESSIONS * media::PAGE_BYTES) as u64);
        assert_eq!(store.recall(origin(1, 1)).unwrap(), Recall::Never, "nothing is known of a forgotten session");
    });
}

//! Two targets on machines of their own; one is to have what the other has.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use net::Handler;
use rt::disk::IoBuf;
use types::{Code, Conditions, Epoch, Error, Key};
use wire::copy::{
    CopyDigestRequest, CopyDigestResponse, CopyMemoryRequest, CopyMemoryResponse, CopyRecord, CopyRequest,
    CopyResponse, CopyValue, SessionEffects, SessionMemory,
};
use wire::data::{AkeyRead, FetchRequest, FetchResponse, Payload, Selection};
use wire::{Opcode, Wire};

use super::{Pulled, Source};
use crate::target::Target;
use crate::target::machine::{CONTAINER, Machine, PLACE, POOL, request, simulated};

/// What happens to the answer of a request (from 0) on its way, and how long that takes.
type Meddle = Box<dyn Fn(u32, &mut CopyResponse, &mut IoBuf) -> Duration>;

/// Another machine, as a source.
struct Other {
    machine: Rc<RefCell<Machine>>,
    meddle: Meddle,
    asked: Cell<u32>,
}

impl Other {
    async fn ask(&self, opcode: Opcode, body: Vec<u8>) -> Result<net::Reply, Error> {
        let (node, target) = {
            let machine = self.machine.borrow();
            (machine.node, machine.target.clone())
        };
        let sim = rt::sim::current();
        sim.spawn_on(node, async move { target.handle(request(0, 0, opcode, body)).await }).await.unwrap()
    }
}

impl Source for Other {
    async fn copy(&self, request: CopyRequest) -> Result<(CopyResponse, IoBuf), Error> {
        let reply = self.ask(Opcode::Copy, request.to_bytes()).await?;
        let (mut response, mut bulk) =
            (CopyResponse::from_bytes(&reply.body).unwrap(), reply.bulk.unwrap_or_else(|| IoBuf::with_capacity(0)));
        let asked = self.asked.replace(self.asked.get() + 1);
        let pause = (self.meddle)(asked, &mut response, &mut bulk);
        rt::sleep(pause).await;
        Ok((response, bulk))
    }

    async fn digest(&self, request: CopyDigestRequest) -> Result<CopyDigestResponse, Error> {
        let reply = self.ask(Opcode::CopyDigest, request.to_bytes()).await?;
        Ok(CopyDigestResponse::from_bytes(&reply.body).unwrap())
    }

    async fn memory(&self, request: CopyMemoryRequest) -> Result<CopyMemoryResponse, Error> {
        // These targets have no maps that they could wait for.
        on(&self.machine, |target| async move { target.memory_behind(request.after) }).await
    }
}

/// Text of key `n` after `version` updates, of all lengths: in the tree, staged, in blocks.
fn text(n: u64, version: u64) -> String {
    let len = [10, 1500, 3000, 4096, 40_000][(n % 5) as usize];
    format!("{n}.{version} ").repeat(len / 4 + 1)
}

const KEYS: u64 = 240;

/// Of all keys: each version of each value, and the deletes.
fn records() -> u64 {
    (0..KEYS).map(|n| 1 + n % 3 + u64::from(n % 11 == 0)).sum()
}

/// A machine with data, and one without.
async fn two() -> (Rc<RefCell<Machine>>, Rc<RefCell<Machine>>) {
    let (full, empty) = (Machine::new().await, Machine::named("empty").await);
    for n in 0..KEYS {
        for version in 0..1 + n % 3 {
            full.put(7, n * 10 + version + 1, &format!("k{n}"), &text(n, version)).await.unwrap();
        }
        if n % 11 == 0 {
            full.remove(7, n * 10 + 9, &format!("k{n}")).await.unwrap();
        }
    }
    (Rc::new(RefCell::new(full)), Rc::new(RefCell::new(empty)))
}

async fn pull(
    full: &Rc<RefCell<Machine>>,
    empty: &Rc<RefCell<Machine>>,
    meddle: impl Fn(u32, &mut CopyResponse, &mut IoBuf) -> Duration + 'static,
) -> Result<Pulled, Error> {
    let source = Other { machine: full.clone(), meddle: Box::new(meddle), asked: Cell::new(0) };
    let (node, target) = {
        let machine = empty.borrow();
        (machine.node, machine.target.clone())
    };
    let work = async move { target.pull(&source, CONTAINER, PLACE.group).await };
    let gone = |_| Err(Error::new(Code::ShuttingDown, "the machine is gone"));
    rt::sim::current().spawn_on(node, work).await.unwrap_or_else(gone)
}

/// Does something on a machine, in the life that runs now.
async fn on<T: 'static, F: Future<Output = T> + 'static>(
    machine: &Rc<RefCell<Machine>>,
    act: impl FnOnce(Rc<Target>) -> F,
) -> T {
    let (node, target) = {
        let machine = machine.borrow();
        (machine.node, machine.target.clone())
    };
    rt::sim::current().spawn_on(node, act(target)).await.unwrap()
}

/// The life that runs now.
fn life(machine: &Rc<RefCell<Machine>>) -> Machine {
    machine.borrow().clone()
}

/// The power of a machine goes, and comes back.
async fn cut(machine: &Rc<RefCell<Machine>>) {
    let sim = rt::sim::current();
    let node = machine.borrow().node;
    sim.crash(node);
    let next = sim.restart(node, Machine::begin(false)).await.unwrap();
    machine.borrow_mut().target = next;
}

/// What a client gets of a key: the value, which it verifies.
async fn read(machine: &Rc<RefCell<Machine>>, key: String) -> String {
    let akeys = vec![AkeyRead { akey: Key::literal("v"), selection: Selection::Single }];
    let dkey = Key::new(key.into_bytes()).unwrap();
    let fetch = FetchRequest { place: PLACE, dkey, at: Epoch::MAX, conditions: Conditions::None, akeys };
    let ask = |target: Rc<Target>| async move { target.handle(request(0, 0, Opcode::Fetch, fetch.to_bytes())).await };
    let reply = on(machine, ask).await.unwrap();
    let bulk = reply.bulk.unwrap_or_else(|| IoBuf::with_capacity(0));
    let answer = FetchResponse::from_bytes(&reply.body).unwrap();
    let Some(payload) = answer.akeys[0].pieces.first().and_then(|piece| piece.payload.as_ref()) else {
        return String::new();
    };
    let bytes = payload.bytes(&bulk).unwrap();
    codec::checksum::verify_chunks(bytes, payload.checksums()).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn is_whole(machine: &Rc<RefCell<Machine>>) {
    for n in 0..KEYS {
        let expected = if n % 11 == 0 { String::new() } else { text(n, n % 3) };
        assert!(read(machine, format!("k{n}")).await == expected, "k{n}");
    }
    on(machine, |target| async move { target.store.borrow().check().expect_clean() }).await;
}

fn nothing(_: u32, _: &mut CopyResponse, _: &mut IoBuf) -> Duration {
    Duration::ZERO
}

#[test]
fn a_target_gets_what_another_has_and_keeps_it() {
    simulated(async {
        let (full, empty) = two().await;
        let pulled = pull(&full, &empty, nothing).await.unwrap();
        assert_eq!(pulled.records, records());
        is_whole(&empty).await;
        cut(&empty).await;
        is_whole(&empty).await;
        // Once more brings nothing new.
        let pulled = pull(&full, &empty, nothing).await.unwrap();
        assert_eq!(pulled, Pulled { same: records(), ..Pulled::default() });
        is_whole(&empty).await;
    });
}

/// A target that got a group as a copy led it next, and did a client's repeat a second time: it had the data, and not the
/// memory of whose request it was. Seeds 2018 of `k1_durable` and 2028 of `k14_one_leader` showed it. (K5)
#[test]
fn a_repeat_at_whoever_took_over_gets_the_first_answer() {
    simulated(async {
        let (full, empty) = two().await;
        // It knew the session before it learnt what that did elsewhere; the group's copy takes this record from it again.
        life(&empty).put(7, 5, "k1", "what nobody else has").await.unwrap();
        pull(&full, &empty, nothing).await.unwrap();
        let source = Other { machine: full.clone(), meddle: Box::new(nothing), asked: Cell::new(0) };
        let remember = |target: Rc<Target>| async move { target.take_memory(&source, POOL).await };
        on(&empty, remember).await.unwrap();
        let last = KEYS * 10 - 10 + 1;
        let first = life(&full).put(7, last, "k239", "what is sent again").await.unwrap();
        for _ in 0..2 {
            let again = life(&empty).put(7, last, "k239", "what is sent again").await.unwrap();
            assert_eq!(again, first);
            is_whole(&empty).await;
            cut(&empty).await;
        }
    });
}

/// Who was out gets what it missed, and no more, wherever its power goes on the way; what it did alone, and nobody else has,
/// goes. Nothing is dropped for that.
#[test]
fn who_was_out_gets_what_it_missed() {
    simulated(async {
        let (full, out) = two().await;
        pull(&full, &out, nothing).await.unwrap();
        let missed = 30;
        for n in 0..missed {
            life(&full).put(7, 10_000 + n, &format!("k{}", n * 8), &text(n * 8, n * 8 % 3)).await.unwrap();
        }
        for n in 0..7 {
            life(&out).put(9, 1 + n, &format!("k{}", 1 + n * 30), "what nobody else has").await.unwrap();
            life(&out).remove(9, 100 + n, &format!("k{}", 2 + n * 30)).await.unwrap();
        }
        // Half of it, and then the power goes: what came stays, and is not taken for all.
        let stop = |asked, _: &mut CopyResponse, _: &mut IoBuf| Duration::from_secs(if asked == 1 { 3600 } else { 0 });
        let (from, to) = (full.clone(), out.clone());
        let copying = rt::spawn_local(async move { pull(&from, &to, stop).await });
        rt::sleep(Duration::from_secs(2)).await;
        cut(&out).await;
        drop(copying);
        let pulled = pull(&full, &out, nothing).await.unwrap();
        assert!(pulled.records > 0 && pulled.records < missed, "half of it came before: {pulled:?}");
        assert!(pulled.removed > 0 && pulled.removed < 14 && pulled.anew == 0, "{pulled:?}");
        assert_eq!(pulled.same + pulled.records, records() + missed, "{pulled:?}");
        for n in 0..KEYS {
            let expected = if n % 11 == 0 && n % 8 != 0 { String::new() } else { text(n, n % 3) };
            assert!(read(&out, format!("k{n}")).await == expected, "k{n}");
        }
        on(&out, |target| async move { target.store.borrow().check().expect_clean() }).await;
    });
}

/// Who takes longer between two parts than a container is held begins again, and is not satisfied with halves.
#[test]
fn a_hold_that_ends_on_the_way_costs_a_new_beginning() {
    simulated(async {
        let (full, empty) = two().await;
        let _upkeep = [&full, &empty].map(|machine| {
            let machine = machine.borrow();
            rt::sim::current().spawn_on(machine.node, machine.target.clone().upkeep())
        });
        let slow = |asked, _: &mut CopyResponse, _: &mut IoBuf| Duration::from_secs(if asked == 0 { 11 } else { 0 });
        let pulled = pull(&full, &empty, slow).await.unwrap();
        // A new look at all of it, that is: what came is there.
        assert!(pulled.same > 0 && pulled.records == records() && pulled.anew == 0, "{pulled:?}");
        is_whole(&empty).await;
    });
}

/// Each part took longer than a container is held, however often it was begun: that was called damage, and is none.
#[test]
fn a_source_that_lets_go_every_time_is_asked_again_and_not_taken_for_damaged() {
    simulated(async {
        let (full, empty) = two().await;
        // As if it had begun anew before each answer; what came is nothing, so that no try is the last.
        let lapses = |asked, response: &mut CopyResponse, _: &mut IoBuf| {
            response.hold += 1 + u64::from(asked);
            response.records.clear();
            Duration::ZERO
        };
        let refused = pull(&full, &empty, lapses).await.unwrap_err();
        assert!(refused.code == Code::Again && refused.is_transient(), "{refused}");
        assert!(refused.message.contains("was let go of 4 times"), "{refused}");
        // As it is tried again.
        pull(&full, &empty, nothing).await.unwrap();
        is_whole(&empty).await;
    });
}

/// Sums differed, and all was dropped, with what had come to the member since the pull began. It was compared up to that
/// moment all the same, and found whole: a value that the member had acknowledged was gone.
#[test]
fn a_group_that_is_copied_anew_has_what_was_written_meanwhile() {
    simulated(async {
        let machines = [Machine::new().await, Machine::named("member").await];
        let keys = 8;
        for n in 0..keys {
            machines[0].put(7, n + 1, &format!("k{n}"), &text(n, 0)).await.unwrap();
        }
        let [full, member] = machines.map(|machine| Rc::new(RefCell::new(machine)));
        // A record is left out until they differed so often that nothing is believed; each answer takes a while.
        let leave_out = |asked, response: &mut CopyResponse, _: &mut IoBuf| {
            if asked < super::pull::UNLIKE_MAX {
                response.records.pop();
            }
            Duration::from_secs(1)
        };
        let (from, to) = (full.clone(), member.clone());
        let copying = rt::spawn_local(async move { pull(&from, &to, leave_out).await });
        rt::sleep(Duration::from_millis(500)).await;
        // As a leader has all members write it.
        for machine in [&full, &member] {
            life(machine).put(8, 1, "meanwhile", "acknowledged").await.unwrap();
        }
        let pulled = copying.await.unwrap().unwrap();
        assert_eq!(pulled.anew, 1, "{pulled:?}");
        assert_eq!(read(&member, "meanwhile".into()).await, "acknowledged");
        for n in 0..keys {
            assert!(read(&member, format!("k{n}")).await == text(n, 0), "k{n}");
        }
        // It has that and no more.
        let again = pull(&full, &member, nothing).await.unwrap();
        assert_eq!(again, Pulled { same: keys + 1, ..Pulled::default() });
    });
}

/// A bit that flips on the way is seen before anything is kept; a record that is left out, by the sums.
#[test]
fn what_arrives_damaged_or_not_at_all_is_noticed() {
    simulated(async {
        let (full, empty) = two().await;
        let flip = |asked, _: &mut CopyResponse, bulk: &mut IoBuf| {
            if asked == 0 {
                bulk[100] ^= 1;
            }
            Duration::ZERO
        };
        assert_eq!(pull(&full, &empty, flip).await.unwrap_err().code, Code::Checksum);
        let leave_out = |asked, response: &mut CopyResponse, _: &mut IoBuf| {
            if asked == 0 {
                response.records.remove(3);
            }
            Duration::ZERO
        };
        let pulled = pull(&full, &empty, leave_out).await.unwrap();
        let found = Pulled { records: records(), bytes: pulled.bytes, same: records() - 1, removed: 0, anew: 0 };
        assert_eq!(pulled, found, "it was looked for again");
        is_whole(&empty).await;
        let never = |_: u32, response: &mut CopyResponse, _: &mut IoBuf| {
            response.records.retain(|record| !matches!(record.value, CopyValue::Punch));
            Duration::ZERO
        };
        let fresh = Rc::new(RefCell::new(Machine::named("fresh").await));
        assert_eq!(pull(&full, &fresh, never).await.unwrap_err().code, Code::DataLoss);
    });
}

/// What a source says is not believed where it cannot be: records of other groups, places that lead nowhere, bulk data that
/// is not there, a horizon that is yet to come. Nothing of it is kept.
#[test]
fn what_no_honest_source_says_is_refused() {
    simulated(async {
        let (full, _) = two().await;
        let lies: [fn(&mut CopyResponse); 5] = [
            |part| part.records[2].key.0[3] ^= 1,
            |part| part.next.0 = vec![0],
            |part| part.horizon = Epoch(u64::MAX - 1),
            |part| {
                for record in &mut part.records {
                    if let CopyValue::Single { payload: Payload::Bulk { bytes, .. } } = &mut record.value {
                        *bytes = 0;
                    }
                }
            },
            |part| {
                let bulk =
                    |record: &CopyRecord| matches!(&record.value, CopyValue::Single { payload: Payload::Bulk { .. } });
                let large = part.records.iter().find(|record| bulk(record)).unwrap().clone();
                part.records.extend(vec![large; 200]);
            },
        ];
        for (number, lie) in lies.into_iter().enumerate() {
            let empty = Rc::new(RefCell::new(Machine::named(&format!("empty-{number}")).await));
            let later = usize::from(number == 1) as u32;
            let meddle = move |asked, part: &mut CopyResponse, _: &mut IoBuf| {
                if asked == later {
                    lie(part);
                }
                Duration::ZERO
            };
            assert_eq!(pull(&full, &empty, meddle).await.unwrap_err().code, Code::Checksum, "lie {number}");
            on(&empty, |target| async move { target.store.borrow().check().expect_clean() }).await;
        }
    });
}

/// A source that only remembers, and says anything.
struct Liar(Box<dyn Fn(Option<u64>) -> CopyMemoryResponse>);

impl Source for Liar {
    async fn copy(&self, _: CopyRequest) -> Result<(CopyResponse, IoBuf), Error> {
        unreachable!("it has no data")
    }

    async fn digest(&self, _: CopyDigestRequest) -> Result<CopyDigestResponse, Error> {
        unreachable!("it has no data")
    }

    async fn memory(&self, request: CopyMemoryRequest) -> Result<CopyMemoryResponse, Error> {
        Ok((self.0)(request.after))
    }
}

fn told(session: u64, floor: u64, list: &[(u64, Epoch)]) -> SessionMemory {
    SessionMemory { session, effects: Some(SessionEffects { floor, list: list.to_vec() }) }
}

/// A floor of all ones was believed, made durable and passed on; a cursor that grew by one without a session would have been
/// followed 2^64 times. Nothing of a lie is kept.
#[test]
fn what_no_honest_source_remembers_is_refused() {
    simulated(async {
        let machine = Rc::new(RefCell::new(Machine::new().await));
        let one = Epoch(1);
        let late = Epoch(u64::MAX - 1);
        let many = |count: u64| (1..=count).map(|session| told(session, 0, &[(1, one)])).collect::<Vec<_>>();
        let lies: Vec<(Vec<SessionMemory>, Option<u64>)> = vec![
            (vec![told(5, u64::MAX, &[])], None),
            (vec![told(5, 9, &[(8, one)])], None),
            (vec![told(5, 0, &[(8, one), (7, one)])], None),
            (vec![told(5, 0, &[(8, one), (8, one)])], None),
            (vec![told(5, 0, &(0..=vos::EFFECTS_MAX as u64).map(|seq| (seq, one)).collect::<Vec<_>>())], None),
            (vec![told(5, 0, &[(8, late)])], None),
            (vec![told(0, 0, &[(8, one)])], None),
            (vec![told(5, 0, &[(8, one)]), told(4, 0, &[(8, one)])], None),
            (vec![told(5, 0, &[(8, one)])], Some(6)),
            (vec![], Some(6)),
            (many(65), None),
        ];
        for (number, (sessions, next)) in lies.into_iter().enumerate() {
            let lie = CopyMemoryResponse { sessions, next };
            let liar = Liar(Box::new(move |_| lie.clone()));
            let learn = |target: Rc<Target>| async move { target.take_memory(&liar, POOL).await };
            assert_eq!(on(&machine, learn).await.unwrap_err().code, Code::Checksum, "lie {number}");
        }
        // One that says the same for ever.
        let stuck =
            Liar(Box::new(|_| CopyMemoryResponse { sessions: vec![told(5, 0, &[(8, Epoch(1))])], next: Some(5) }));
        let learn = |target: Rc<Target>| async move { target.take_memory(&stuck, POOL).await };
        assert_eq!(on(&machine, learn).await.unwrap_err().code, Code::Checksum);
        on(&machine, |target| async move {
            let mut store = target.store.borrow_mut();
            assert_eq!(store.memories(None, 9).unwrap().len(), 1, "of the last, what it said the first time");
            store.check().expect_clean();
        })
        .await;
    });
}

/// Of a session whose page cannot be read where a group comes from, nobody can tell: its requests are refused for good, with
/// what to do about it, and others' are known.
#[test]
fn what_a_source_cannot_read_is_refused_here_too_and_nothing_else() {
    simulated(async {
        let machine = Rc::new(RefCell::new(Machine::new().await));
        let now = life(&machine).put(6, 1, "k", "six").await.unwrap();
        let source = Liar(Box::new(move |_| CopyMemoryResponse {
            sessions: vec![SessionMemory { session: 5, effects: None }, told(7, 0, &[(3, now)])],
            next: None,
        }));
        on(&machine, |target: Rc<Target>| async move { target.take_memory(&source, POOL).await }).await.unwrap();
        for _ in 0..2 {
            let refused = life(&machine).put(5, 9, "k", "five").await.unwrap_err();
            assert!(refused.code == Code::Checksum && !refused.is_transient(), "{refused}");
            assert!(refused.remedy.unwrap().contains("new session"));
            assert_eq!(life(&machine).put(7, 3, "k", "seven").await, Ok(now));
            assert_eq!(life(&machine).get("k").await, "six");
            cut(&machine).await;
        }
        life(&machine).put(7, 4, "k", "seven").await.unwrap();
    });
}

/// The power of the one who copies goes; the next life completes it.
#[test]
fn a_copy_goes_on_after_a_power_cut() {
    simulated(async {
        let (full, empty) = two().await;
        for part in 1..4 {
            let stop = move |asked, _: &mut CopyResponse, _: &mut IoBuf| {
                Duration::from_secs(if asked == part { 3600 } else { 0 })
            };
            let (from, to) = (full.clone(), empty.clone());
            let copying = rt::spawn_local(async move { pull(&from, &to, stop).await });
            rt::sleep(Duration::from_secs(2)).await;
            cut(&empty).await;
            drop(copying);
        }
        pull(&full, &empty, nothing).await.unwrap();
        is_whole(&empty).await;
    });
}

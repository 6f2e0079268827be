//! Requests that took effect before this process began, or whose run was cut off after its effect: they get the
//! first run's answer from what the store remembers.
//!
//! # Not here
//! Requests of this process ([`crate::sessions`], which comes first). How effects are remembered (`vos`).

use net::Request;
use rt::metrics::Counter;
use types::{Code, ContainerId, Error};
use vos::{Origin, Recall};
use wire::data::Committed;

use super::Target;
use crate::sessions;

pub static RECALLED: Counter =
    Counter::new("engine_answers_recalled", "requests answered from what the store remembers of their first run");

impl Target {
    /// The answer of a request that took effect before.
    ///
    /// # Errors
    /// `TimedOut`: it is too old to tell. `Checksum`: what the store remembers cannot be read, of this session's
    /// requests or at all.
    pub(super) async fn recall(&self, request: &Request) -> Result<Option<Committed>, Error> {
        let origin = Origin { session: request.session, seq: request.sequence };
        let recalled = self.store.borrow_mut().recall(origin);
        match recalled.map_err(|error| self.refusal(ContainerId::from_bytes([0; 16]), error))? {
            Recall::Never => Ok(None),
            Recall::Forgotten => Err(sessions::too_old(request.sequence)),
            Recall::Unreadable => {
                let text = format!(
                    "target {} cannot read what this session did: nobody can tell whether request {} ran before",
                    self.index, request.sequence
                );
                Err(Error::new(Code::Checksum, text)
                    .remedy("read what it was to write, and decide anew in a new session: start the program again"))
            }
            Recall::Done(epoch) => {
                // A run that was cut off in this life may have left its effect on the way to the device.
                let last = self.store.borrow().last_lsn();
                self.durable(last).await?;
                RECALLED.add(1);
                tracing::debug!(sequence = request.sequence, %epoch, "answered from what the store remembers");
                Ok(Some(Committed { epoch }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use net::{Handler, Limits};
    use rt::Hlc;
    use rt::sim::{NodeId, Sim, SimConfig};
    use types::{Conditions, Epoch, Key, ObjectId, PoolId, SessionId, TargetIndex};
    use uuid::Uuid;
    use wire::data::{AkeyWrite, Payload, Place, PunchRequest, PunchScope, UpdateRequest, Value};
    use wire::encoding::Bytes;
    use wire::{Opcode, Wire};

    use super::*;
    use crate::hold::HorizonHold;
    use crate::target::open::{self, RegionConfig, Shared, TargetConfig};

    const CONTAINER: ContainerId = ContainerId::from_bytes([2; 16]);
    const PLACE: Place = Place { container: CONTAINER, oid: ObjectId { hi: 1, lo: 1 }, group: 0, map_version: 1 };
    const ALICE: u64 = 71;
    const BOB: u64 = 72;

    /// A target on a machine that can lose its power.
    struct Machine {
        node: NodeId,
        /// The life that runs now.
        target: Rc<Target>,
    }

    impl Machine {
        async fn new() -> Machine {
            let node = rt::sim::current().node("server");
            let target = rt::sim::current().spawn_on(node, Machine::begin(true)).await.unwrap();
            let (pool, quota) = (PoolId::from_bytes([1; 16]), 16 << 20);
            let machine = Machine { node, target };
            machine
                .on(|target| async move {
                    let mut store = target.store.borrow_mut();
                    store.create_pool(pool, quota, Origin::default()).unwrap();
                    store.create_container(pool, CONTAINER, Origin::default()).unwrap();
                })
                .await;
            machine
        }

        async fn begin(format: bool) -> Rc<Target> {
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
            open::open(config, &Shared { hlc: Hlc::new(), hold, limits, incarnation: 1 }).await.unwrap()
        }

        async fn on<T: 'static, F: Future<Output = T> + 'static>(&self, act: impl FnOnce(Rc<Target>) -> F) -> T {
            rt::sim::current().spawn_on(self.node, act(self.target.clone())).await.unwrap()
        }

        /// The power goes, and comes back.
        async fn cut(&mut self) {
            let sim = rt::sim::current();
            sim.crash(self.node);
            self.target = sim.restart(self.node, Machine::begin(false)).await.unwrap();
        }

        /// Destroys the page of a session on the device: every copy that there is.
        async fn lose_page(&self, session: u64) {
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

        async fn ask(&self, session: u64, sequence: u64, opcode: Opcode, body: Vec<u8>) -> Result<Epoch, Error> {
            self.on(move |target| async move {
                let reply = target.handle(request(session, sequence, opcode, body)).await?;
                Ok(Committed::from_bytes(&reply.body).unwrap().epoch)
            })
            .await
        }

        async fn put(&self, session: u64, sequence: u64, key: &str, value: &str) -> Result<Epoch, Error> {
            self.ask(session, sequence, Opcode::Update, update(key, value, Conditions::None)).await
        }

        async fn insert(&self, session: u64, sequence: u64, key: &str) -> Result<Epoch, Error> {
            self.ask(session, sequence, Opcode::Update, update(key, "new", Conditions::DkeyInsert)).await
        }

        async fn remove(&self, session: u64, sequence: u64, key: &str) -> Result<Epoch, Error> {
            let scope = PunchScope::Dkey { dkey: Key::new(key.as_bytes()).unwrap() };
            let punch = PunchRequest { place: PLACE, conditions: Conditions::None, scope };
            self.ask(session, sequence, Opcode::Punch, punch.to_bytes()).await
        }

        async fn get(&self, key: &'static str) -> String {
            self.on(move |target| async move {
                let (dkey, mut out) = (Key::new(key.as_bytes()).unwrap(), Vec::new());
                let (mut store, akey) = (target.store.borrow_mut(), Key::literal("v"));
                store.fetch_value(CONTAINER, Epoch::MAX, 0, PLACE.oid, &dkey, &akey, &mut out).unwrap();
                String::from_utf8(out).unwrap()
            })
            .await
        }
    }

    fn request(session: u64, sequence: u64, opcode: Opcode, body: Vec<u8>) -> Request {
        let (session, deadline) = (SessionId(session), rt::now() + Duration::from_secs(10));
        Request { opcode, session, sequence, clock: Epoch::ZERO, deadline, body: body.into(), bulk: None }
    }

    fn update(key: &str, value: &str, conditions: Conditions) -> Vec<u8> {
        let bytes = value.as_bytes().to_vec();
        let payload = Payload::Inline { checksums: codec::checksum::of_chunks(&bytes), bytes: Bytes(bytes) };
        let akeys = vec![AkeyWrite { akey: Key::literal("v"), value: Value::Single { payload } }];
        let dkey = Key::new(key.as_bytes()).unwrap();
        UpdateRequest { place: PLACE, dkey, conditions, akeys }.to_bytes()
    }

    fn simulated<F: Future<Output = ()> + 'static>(play: F) {
        Sim::new(SimConfig::seeded(1)).run(play);
    }

    /// Bob wrote between Alice's write and its repeat: his stays, and the repeat gets the first answer.
    #[test]
    fn a_repeat_over_a_restart_gets_the_first_answer_and_overwrites_nothing() {
        simulated(async {
            let mut machine = Machine::new().await;
            let first = machine.put(ALICE, 5, "k", "alice").await.unwrap();
            machine.cut().await;
            machine.put(BOB, 1, "k", "bob").await.unwrap();
            assert_eq!(machine.put(ALICE, 5, "k", "alice").await, Ok(first));
            assert_eq!(machine.get("k").await, "bob");
            let removed = machine.remove(ALICE, 6, "k").await.unwrap();
            machine.put(BOB, 2, "k", "again").await.unwrap();
            machine.cut().await;
            assert_eq!(machine.remove(ALICE, 6, "k").await, Ok(removed));
            assert_eq!(machine.get("k").await, "again");
        });
    }

    #[test]
    fn an_insert_is_not_refused_for_what_it_inserted_itself() {
        simulated(async {
            let mut machine = Machine::new().await;
            let first = machine.insert(ALICE, 1, "k").await.unwrap();
            machine.cut().await;
            assert_eq!(machine.insert(ALICE, 1, "k").await, Ok(first));
            assert_eq!(machine.insert(ALICE, 2, "k").await.unwrap_err().code, Code::Exists, "another insert is");
        });
    }

    /// A refusal changed nothing. It is remembered as long as the process lives, and no longer.
    #[test]
    fn what_was_refused_may_be_run_again_after_a_restart() {
        simulated(async {
            let mut machine = Machine::new().await;
            machine.insert(BOB, 1, "k").await.unwrap();
            assert_eq!(machine.insert(ALICE, 1, "k").await.unwrap_err().code, Code::Exists);
            machine.remove(BOB, 2, "k").await.unwrap();
            assert_eq!(machine.insert(ALICE, 1, "k").await.unwrap_err().code, Code::Exists, "the same process");
            machine.cut().await;
            machine.insert(ALICE, 1, "k").await.unwrap();
        });
    }

    /// Its handler ends when its thread does, or panics: the effect may be on its way to the device by then.
    #[test]
    fn a_run_that_is_cut_off_after_its_effect_is_not_done_twice() {
        simulated(async {
            let machine = Machine::new().await;
            let first = machine
                .on(|target| async move {
                    let body = update("k", "new", Conditions::DkeyInsert);
                    let run = target.clone().handle(request(ALICE, 1, Opcode::Update, body));
                    futures_util::pin_mut!(run);
                    assert!(futures_util::poll!(run).is_pending(), "it waits for the device");
                    target.store.borrow_mut().effects(SessionId(ALICE)).unwrap()
                })
                .await;
            assert_eq!(machine.insert(ALICE, 1, "k").await.map(|epoch| vec![(1, epoch)]), Ok(first));
        });
    }

    #[test]
    fn a_request_older_than_what_is_remembered_is_refused() {
        simulated(async {
            let mut machine = Machine::new().await;
            for sequence in 1..=vos::EFFECTS_MAX as u64 + 3 {
                machine.put(ALICE, sequence, "k", "v").await.unwrap();
            }
            machine.cut().await;
            assert_eq!(machine.put(ALICE, 3, "k", "v").await.unwrap_err().code, Code::TimedOut);
            machine.put(ALICE, 4, "k", "v").await.unwrap();
        });
    }

    /// The page of a session rots on the device. The target opens, other sessions have what they had, and requests of
    /// this one are refused, new ones too: they cannot be told from repeats.
    #[test]
    fn requests_of_a_session_whose_memory_is_damaged_are_refused_and_not_done_again() {
        simulated(async {
            let mut machine = Machine::new().await;
            machine.put(ALICE, 5, "k", "alice").await.unwrap();
            let bobs = machine.put(BOB, 1, "other", "bob").await.unwrap();
            machine.on(|target| async move { target.media.checkpoint_now().await.unwrap() }).await;
            machine.put(BOB, 2, "k", "bob").await.unwrap();
            machine.lose_page(ALICE).await;
            for _ in 0..2 {
                machine.cut().await;
                for sequence in [5, 6] {
                    let refused = machine.put(ALICE, sequence, "k", "alice").await.unwrap_err();
                    assert_eq!(refused.code, Code::Checksum);
                    assert!(refused.message.contains(&format!("whether request {sequence} ran before")), "{refused}");
                    assert!(refused.remedy.unwrap().contains("new session"));
                }
                assert_eq!(machine.remove(ALICE, 7, "k").await.unwrap_err().code, Code::Checksum);
                assert_eq!(machine.get("k").await, "bob");
                assert_eq!(machine.put(BOB, 1, "other", "bob").await, Ok(bobs), "others are remembered");
            }
            machine.put(ALICE + 9, 1, "k", "alice").await.unwrap();
            assert_eq!(machine.get("k").await, "alice");
        });
    }
}

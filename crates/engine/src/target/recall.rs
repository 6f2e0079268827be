//! Requests that took effect before this process began, in a run that was cut off after its effect, or at another target
//! whose work this one does now: they get the first run's answer from what the store remembers.
//!
//! The store is asked each time, and nobody keeps what it said: it learns of effects as a member of a group that others
//! lead, and from those who give it groups, at any time.
//!
//! # Not here
//! Requests of this process ([`crate::sessions`], which comes first). How effects are remembered (`vos`).

use rt::metrics::Counter;
use types::{Code, ContainerId, Epoch, Error};
use vos::{Origin, Recall};
use wire::data::Committed;

use super::Target;
use crate::sessions;

pub static RECALLED: Counter =
    Counter::new("engine_answers_recalled", "requests answered from what the store remembers of their first run");

impl Target {
    /// The answer of a request that took effect before. Of one that did not, without a wait.
    ///
    /// Cost: a hash lookup for a number above all that took effect in its session; else a look at a page.
    ///
    /// # Errors
    /// `Uncertain`: it is too old to tell. `Checksum`: what the store remembers cannot be read, of this session's
    /// requests or at all.
    pub(super) async fn recall(&self, origin: Origin) -> Result<Option<Committed>, Error> {
        let Some(epoch) = self.recalled(origin)? else { return Ok(None) };
        // The effect may still be on its way to the device.
        let last = self.store.borrow().last_lsn();
        self.durable(last).await?;
        Ok(Some(Committed { epoch }))
    }

    /// When a request took effect, if it may have: the store knows of effects of its session up to there.
    ///
    /// # Errors
    /// As for [`Target::recall`].
    pub(super) fn recalled(&self, origin: Origin) -> Result<Option<Epoch>, Error> {
        let is_new = origin.session.0 == 0 || self.store.borrow().highest_effect(origin.session) < origin.seq;
        if is_new { Ok(None) } else { self.look_up(origin) }
    }

    fn look_up(&self, origin: Origin) -> Result<Option<Epoch>, Error> {
        let recalled = self.store.borrow_mut().recall(origin);
        match recalled.map_err(|error| self.refusal(ContainerId::from_bytes([0; 16]), error))? {
            Recall::Never => Ok(None),
            Recall::Forgotten => Err(sessions::too_old(origin.seq)),
            Recall::Unreadable => {
                let text = format!(
                    "target {} cannot tell what this session did, for that cannot be read here, or where it has data from: \
                     nobody knows whether request {} ran before",
                    self.index, origin.seq
                );
                Err(Error::new(Code::Checksum, text)
                    .remedy("read what it was to write, and decide anew in a new session: start the program again"))
            }
            Recall::Done(epoch) => {
                RECALLED.add(1);
                tracing::debug!(sequence = origin.seq, %epoch, "answered from what the store remembers");
                Ok(Some(epoch))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use net::Handler;
    use types::{Code, Conditions, Epoch, SessionId};
    use vos::Origin;
    use wire::data::{Committed, UpdateRequest};
    use wire::{Opcode, Wire};

    use crate::target::Target;
    use crate::target::machine::{CONTAINER, Machine, request, simulated, update};
    use crate::target::update::with_update;

    const ALICE: u64 = 71;
    const BOB: u64 = 72;

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

    /// What a member does of what its leader decided: the store changes, and no request came here.
    async fn as_member(target: &Rc<Target>, session: u64, seq: u64, body: &[u8]) -> Epoch {
        let update = UpdateRequest::from_bytes(body).unwrap();
        let (origin, epoch) = (Origin { session: SessionId(session), seq }, target.hlc.now());
        let deadline = rt::now() + std::time::Duration::from_secs(1);
        let placed = target.place(&update, rt::disk::IoBuf::with_capacity(0), deadline).await.unwrap();
        let write = |write: &vos::Update<'_>| target.store.borrow_mut().update(CONTAINER, epoch, origin, write);
        with_update(&update, &placed, write).unwrap();
        epoch
    }

    /// A group drains from its leader to a member whose client had asked it for something before, so that its table of
    /// answers had met the session. It is the only holder then, and a repeat comes of what the leader had it do: it took
    /// that for new, wrote over what Bob had written since, and refused Alice's insert for what it had inserted itself. (K5)
    #[test]
    fn what_a_target_did_as_a_member_is_not_done_again_when_it_is_the_only_holder() {
        simulated(async {
            let machine = Machine::new().await;
            machine.put(ALICE, 10, "other", "met").await.unwrap();
            let first = machine
                .on(|target| async move {
                    let put = as_member(&target, ALICE, 50, &update("k", "alice", Conditions::None)).await;
                    (put, as_member(&target, ALICE, 51, &update("i", "new", Conditions::DkeyInsert)).await)
                })
                .await;
            machine.put(BOB, 1, "k", "bob").await.unwrap();
            assert_eq!(machine.put(ALICE, 50, "k", "alice").await, Ok(first.0));
            assert_eq!(machine.get("k").await, "bob");
            assert_eq!(machine.insert(ALICE, 51, "i").await, Ok(first.1));
        });
    }

    /// A repeat waits for its bulk data to be written; what it repeats becomes known here meanwhile.
    #[test]
    fn what_becomes_known_while_a_repeat_waits_counts() {
        simulated(async {
            let machine = Machine::new().await;
            let (first, again) = machine
                .on(|target| async move {
                    let body = update("k", &"large ".repeat(5000), Conditions::None);
                    let repeat = target.clone().handle(request(ALICE, 1, Opcode::Update, body.clone()));
                    futures_util::pin_mut!(repeat);
                    assert!(futures_util::poll!(&mut repeat).is_pending(), "it waits for the device");
                    assert_eq!(target.store.borrow().highest_effect(SessionId(ALICE)), 0, "nothing took effect yet");
                    let first = as_member(&target, ALICE, 1, &body).await;
                    (first, Committed::from_bytes(&repeat.await.unwrap().body).unwrap().epoch)
                })
                .await;
            assert_eq!(again, first);
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
            assert_eq!(machine.put(ALICE, 3, "k", "v").await.unwrap_err().code, Code::Uncertain);
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

//! The state of a service on servers that have no vote in it: they subscribe, and voters tell them the news.
//!
//! Every server is to know the system's state, and every server of a pool that pool's. Few are members of the groups that decide
//! it. Each of the others asks one of the voters, which answers when there is something that the asker does not have, or after
//! [`HOLD`]; and so on. What the asker learns so is a state that was true: it orders its targets by it, and finds by it who
//! is to decide. What is true *now* only a leader says.
//!
//! # Always true
//! 1. A server has one question of a kind under way, whatever happens, and asks less often the more often nobody answers.
//! 2. Who is cut off from consensus says that it does not know, and whom it would ask.
//! 3. Whom to ask is not decided for long: a voter that answers and hears nothing itself keeps nobody behind.
//!
//! # Not here
//! What the news are (`raft`'s); who votes ([`super::slot`]); what follows from a state ([`super::agent`]).

use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::select;
use raft::{GroupId, StateMachine, Taken};
use types::{Code, Error, PoolId, Rank};
use wire::encoding::Bytes;
use wire::peer::{Newer, Subscribe, Told};
use wire::{Opcode, Wire};

use super::Service;
use super::life::ALONE;
use super::pool::PoolState;
use super::slot::Slot;
use crate::target::parse;

/// How long a voter waits for news. A server that asks a voter which is no more finds that out so much later, and [`ANSWER_MAX`]
/// says how much: it is the price of shorter ones that they come more often.
const HOLD: Duration = Duration::from_secs(2);
/// How long an answer may take, all in all.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// After one that did not answer, doubled with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Answers of one voter, after which another is asked.
const TURN: u32 = 30;
/// How often a voter looks whether it is one still.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Service {
    /// Has the system's state come here while this server has no vote in it.
    pub(super) async fn subscribe_to_system(self: Rc<Self>) {
        // Everybody knows who votes.
        self.subscribe(&self.system, self.system_group(), || self.peers.ranks()).await;
    }

    /// Has a pool's state come here while this server has no vote in it.
    pub(super) async fn subscribe_to_pool(self: Rc<Self>, id: PoolId, slot: Rc<Slot<PoolState>>) {
        let servers = || {
            self.system.group.local(|system| {
                let row = system.pools.get(&id);
                // In the beginning its maker is all there is.
                row.map(|row| match row.phase {
                    super::system::Phase::Creating => vec![row.maker],
                    _ => row.servers.clone(),
                })
            })
        };
        self.subscribe(&slot, GroupId(id.to_bytes()), || servers().unwrap_or_default()).await;
    }

    async fn subscribe<S: StateMachine>(&self, slot: &Slot<S>, group: GroupId, others: impl Fn() -> Vec<Rank>) {
        let (mut teller, mut answers, mut failures) = (None, 0u32, 0);
        loop {
            let is_fed = slot.group.is_fed();
            slot.group.may_lead(self.clock.is_right() && (is_fed || !slot.group.is_left()));
            if is_fed {
                slot.group.forget_news();
                (teller, failures) = (None, 0);
                rt::sleep(if self.others().is_empty() { ALONE } else { LOOK_EVERY }).await;
                continue;
            }
            let asked = teller.or_else(|| self.choose_teller(&slot.group.voters(), &others, failures));
            let outcome = match asked {
                Some(rank) => self.ask_for_news(slot, group, rank).await,
                None => Err(Error::new(Code::Unreachable, "nobody is known who might know")),
            };
            match outcome {
                Ok(()) => {
                    (failures, answers) = (0, answers + 1);
                    teller = asked.filter(|_| !answers.is_multiple_of(TURN));
                }
                Err(error) => {
                    tracing::debug!(me = %self.rank, %group, ?asked, %error, "no news");
                    (teller, failures) = (None, failures + 1);
                    rt::sleep(pause(failures)).await;
                }
            }
        }
    }

    /// Some voter, or, when these do not answer, somebody who may know of others.
    fn choose_teller(&self, voters: &BTreeSet<Rank>, others: impl Fn() -> Vec<Rank>, failures: u32) -> Option<Rank> {
        let voters: Vec<Rank> = voters.iter().copied().filter(|rank| *rank != self.rank).collect();
        let is_others_turn = voters.is_empty() || failures % 4 == 3;
        let mut from = if is_others_turn { others() } else { voters };
        from.retain(|rank| *rank != self.rank);
        (!from.is_empty()).then(|| from[rt::random_u64() as usize % from.len()])
    }

    /// # Errors
    /// Nobody answers there, or knows anything; or what is said cannot be read.
    async fn ask_for_news<S: StateMachine>(&self, slot: &Slot<S>, group: GroupId, rank: Rank) -> Result<(), Error> {
        let (have, part) = slot.group.wanted();
        let leader = slot.group.standing().leader.map(|leader| leader.rank);
        let question = Subscribe { group: Bytes(group.0.to_vec()), have, leader, part };
        let body = self.peers.ask_patiently(rank, Opcode::Subscribe, question.to_bytes(), ANSWER_MAX).await?;
        let Told { voters, leader, term, newer } = parse(&body)?;
        for (rank, incarnation, address) in voters.iter().filter(|(rank, ..)| *rank != self.rank) {
            self.peers.learn(*rank, *incarnation, address);
        }
        let is_known = newer != Newer::Unknown;
        let voters = voters.into_iter().map(|(rank, ..)| rank).collect();
        let taken = slot.group.take_news(voters, leader, term, have, newer);
        match taken.map_err(|error| Error::new(Code::Protocol, error.to_string()))? {
            Taken::Nothing if !is_known => Err(Error::new(Code::Again, format!("rank {rank} does not know either"))),
            Taken::Nothing | Taken::Part | Taken::State => Ok(()),
        }
    }

    /// Answers a server that subscribes.
    ///
    /// # Errors
    /// `Again`: there is no such group here.
    pub(super) async fn tell_news(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let question: Subscribe = parse(body)?;
        let id = super::route::group_id(&question.group.0)?;
        let told = if id == self.system_group() {
            self.told(&self.system, &question).await
        } else {
            let slot = self.pools.borrow().get(&PoolId::from_bytes(id.0)).cloned();
            let slot = slot.ok_or_else(|| Error::new(Code::Again, "there is no such group here"))?;
            self.told(&slot, &question).await
        };
        Ok(told.to_bytes())
    }

    async fn told<S: StateMachine>(&self, slot: &Slot<S>, question: &Subscribe) -> Told {
        let until = rt::now() + HOLD;
        let mut changes = slot.group.changes();
        let mut ending = slot.ending.subscribe();
        loop {
            let leader = slot.group.standing().leader.map(|leader| leader.rank);
            let is_newer = slot.group.has_news(question.have) || leader != question.leader || question.part.is_some();
            if is_newer || !slot.group.is_fed() || *ending.borrow() || rt::now() >= until {
                break;
            }
            let changed = pin!(changes.changed());
            let ends = pin!(ending.changed());
            let _ = rt::timeout(until - rt::now(), select(changed, ends)).await;
        }
        let standing = slot.group.standing();
        let newer = slot.group.told(question.have, question.part).unwrap_or(Newer::Unknown);
        let known = slot.group.voters().into_iter().filter_map(|rank| {
            // Of itself it knows where it is whatever anybody says; others are to believe a later start of it.
            let (incarnation, address) = match rank == self.rank {
                true => (self.incarnation(), self.config.address.clone()),
                false => self.peers.entry(rank)?,
            };
            Some((rank, incarnation, address))
        });
        let leader = standing.leader.map(|leader| leader.rank);
        Told { voters: known.collect(), leader, term: standing.term, newer }
    }
}

/// How long to wait after so many failures, by chance: whoever lost the same voter does not come at once.
fn pause(failures: u32) -> Duration {
    let most = PAUSE_FIRST.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    most / 2 + Duration::from_nanos(rt::random_u64() % (most.as_nanos() as u64 / 2))
}

//! Getting what the map says this target is to have, and it has not: group by group, from their leaders.
//!
//! One task a pool, for the life of the target. It is the same work whatever it is for: this target stands in for one
//! that failed, it comes back, it is new, or another drains. It does it for one version of the map after the other,
//! and says for which all is here ([`Target::filling`]); the service asks, and finishes what is under way.
//!
//! What cannot be had, a group or all that one server has, keeps nothing else from coming; only, all is not here yet.
//!
//! A group that nobody serves is not filled: what it has waits for who had it last. The service knows of that.

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rt::disk::IoBuf;
use types::{Code, ContainerId, Error, PoolId};
use wire::copy::{
    CopyDigestRequest, CopyDigestResponse, CopyListRequest, CopyListResponse, CopyMemoryRequest, CopyMemoryResponse,
    CopyRequest, CopyResponse,
};
use wire::peer::Filling;
use wire::{Opcode, Wire};

use super::progress::{self, Key, Progress, sooner};
use super::view::View;
use super::{RETRY_MAX, Target};
use crate::replication::Peer;
use crate::target::rebuild::{GROUPS_UNDER_WAY, Pulled, Source};

/// Groups that are looked at in one step.
const GROUPS_AT_ONCE: usize = 64;
/// Groups that are known to be missing at a time: more are asked for when these are here.
const MISSING_MAX: usize = 64 << 10;

/// How far a pool's groups are here.
#[derive(Default)]
pub(super) struct Fill {
    groups: RefCell<Progress>,
    progress: Cell<Filling>,
}

/// A group that is to come from who leads it.
struct Missing {
    leader: Peer,
    container: ContainerId,
    number: u32,
}

impl Missing {
    fn key(&self) -> Key {
        (self.container, self.number)
    }
}

impl Fill {
    fn came(&self, pulled: Pulled, spent: Duration) {
        let Filling { version, groups, left, records, bytes, same, anew, spent_ms } = self.progress.get();
        self.progress.set(Filling {
            version,
            groups: groups + 1,
            left: left.saturating_sub(1),
            records: records + pulled.records,
            bytes: bytes + pulled.bytes,
            same: same + pulled.same,
            anew: anew + pulled.anew,
            spent_ms: spent_ms + spent.as_millis() as u64,
        });
    }

    /// All is here by a version of the map.
    fn is_full(&self, version: u32) {
        self.progress.set(Filling { version, left: 0, ..self.progress.get() });
    }
}

/// Who leads a group, as a source.
struct Leader<'a> {
    target: &'a Target,
    view: &'a View,
    peer: Peer,
}

impl Source for Leader<'_> {
    async fn copy(&self, request: CopyRequest) -> Result<(CopyResponse, IoBuf), Error> {
        let request = CopyRequest { map_version: self.view.version(), ..request };
        let (body, bulk) = self.ask(Opcode::Copy, request.to_bytes()).await?;
        Ok((body, bulk.unwrap_or_else(|| IoBuf::with_capacity(0))))
    }

    async fn digest(&self, request: CopyDigestRequest) -> Result<CopyDigestResponse, Error> {
        let request = CopyDigestRequest { map_version: self.view.version(), ..request };
        Ok(self.ask(Opcode::CopyDigest, request.to_bytes()).await?.0)
    }

    async fn memory(&self, request: CopyMemoryRequest) -> Result<CopyMemoryResponse, Error> {
        let request = CopyMemoryRequest { map_version: self.view.version(), ..request };
        Ok(self.ask(Opcode::CopyMemory, request.to_bytes()).await?.0)
    }
}

impl Leader<'_> {
    async fn ask<T: Wire>(&self, opcode: Opcode, body: Vec<u8>) -> Result<(T, Option<IoBuf>), Error> {
        let reply = self.target.groups.peers.ask(self.view, self.peer, opcode, body, None).await?;
        let undecodable =
            |error| Error::new(Code::Protocol, format!("the answer of {} does not decode: {error}", self.peer));
        Ok((T::from_bytes(&reply.body).map_err(undecodable)?, reply.bulk))
    }
}

impl Target {
    /// How far this target has got with what it is to have of a pool.
    pub(in crate::target) fn filling(&self, pool: PoolId) -> Filling {
        self.groups.fills.borrow().get(&pool).map_or_else(Filling::default, |fill| fill.progress.get())
    }

    /// Begins to fill, the first time that there is a map.
    pub(super) fn begin_to_fill(self: &Rc<Self>, pool: PoolId) {
        if let Entry::Vacant(first) = self.groups.fills.borrow_mut().entry(pool) {
            let fill = first.insert(Rc::default()).clone();
            drop(rt::spawn_local(self.clone().fill(pool, fill)));
        }
    }

    async fn fill(self: Rc<Self>, pool: PoolId, fill: Rc<Fill>) {
        let mut pause = RETRY_MAX;
        loop {
            let mapped = self.groups.mapped.notified();
            let Some(view) = self.groups.view(pool) else { return };
            if fill.progress.get().version == view.version() {
                mapped.await;
                continue;
            }
            if !view.goes_on() {
                mapped.await;
                continue;
            }
            match self.fill_once(&view, pool, &fill).await {
                Ok(()) => {
                    fill.is_full(view.version());
                    pause = RETRY_MAX;
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(target_index = %self.index, %pool, %error, "not all is here yet");
                    pause = RETRY_MAX;
                    // With the next map, or after a while.
                    let _ = rt::timeout(pause, mapped).await;
                }
                Err(error) => {
                    tracing::warn!(
                        target_index = %self.index, %pool, %error, ?pause,
                        "something that it is to have cannot be had: it is tried again"
                    );
                    let is_same = rt::timeout(pause, mapped).await.is_err();
                    pause = if is_same { progress::longer(pause) } else { RETRY_MAX };
                }
            }
        }
    }

    /// Gets all that is missing by one map.
    async fn fill_once(self: &Rc<Self>, view: &View, pool: PoolId, fill: &Fill) -> Result<(), Error> {
        if view.is_settled() {
            let Filling { groups, records, bytes, same, .. } = fill.progress.take();
            if groups > 0 {
                tracing::info!(
                    target_index = %self.index, %pool, groups, records, bytes, same, "all that it is to have is here"
                );
            }
            fill.groups.borrow_mut().clear();
            // Whoever is out and awaited may be back soon, and has most of it then.
            return match view.is_awaited() {
                true => Ok(()),
                false => self.drop_strangers(view, pool).await,
            };
        }
        loop {
            let (missing, unlisted) = self.missing(view, pool, fill).await?;
            let is_all = missing.is_empty();
            fill.progress.set(Filling { left: missing.len() as u64, ..fill.progress.get() });
            let unfilled = self.fill_all(view, pool, missing, fill).await.err();
            let untold = self.remember(view, pool, fill).await.err();
            match sooner(sooner(unlisted, unfilled), untold) {
                Some(trouble) => return Err(trouble),
                None if is_all => return Ok(()),
                None => {}
            }
        }
    }

    /// Another map may give a group to somebody else, or have it led by somebody else; or all is to wait.
    fn goes_on_by(&self, view: &View, pool: PoolId) -> Result<(), Error> {
        let newest = self.groups.view(pool);
        match newest.is_some_and(|newest| newest.version() == view.version() && newest.goes_on()) {
            true => Ok(()),
            false => Err(Error::new(Code::Again, "the pool map has changed, or its rebuild was stopped")),
        }
    }

    /// Gets groups. Of one that cannot be had the others do not wait; of a leader that does not answer, its others do.
    async fn fill_all(
        self: &Rc<Self>,
        view: &View,
        pool: PoolId,
        missing: Vec<Missing>,
        fill: &Fill,
    ) -> Result<(), Error> {
        let (mut trouble, mut silent) = (None, BTreeSet::new());
        let (mut waiting, mut under_way) = (missing.into_iter(), FuturesUnordered::new());
        loop {
            while under_way.len() < GROUPS_UNDER_WAY {
                let Some(one) = waiting.find(|one| !silent.contains(&one.leader)) else { break };
                self.goes_on_by(view, pool)?;
                under_way.push(async move {
                    let leader = Leader { target: self, view, peer: one.leader };
                    let filled = self.fill_group(&leader, one.container, one.number, fill).await;
                    (one, filled)
                });
            }
            let Some((Missing { leader, container, number }, filled)) = under_way.next().await else { break };
            if let Err(error) = filled {
                if error.is_transient() {
                    silent.insert(leader);
                }
                let message = format!("placement group {number:#x} of container {container}: {}", error.message);
                trouble = sooner(trouble, Some(Error { message, ..error }));
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Learns which requests took effect at those who gave it groups: it may be asked to lead these next. After the groups:
    /// what takes effect from now on comes to it as their member.
    async fn remember(self: &Rc<Self>, view: &View, pool: PoolId, fill: &Fill) -> Result<(), Error> {
        let leads = |(_, number): Key, giver, since| {
            let reign = view.reign(number);
            reign.is_ok_and(|reign| reign.leader == Some(giver) && reign.member_since(view.me) == Some(since))
        };
        let givers = fill.groups.borrow_mut().givers(leads);
        let mut trouble = None;
        for peer in givers {
            self.goes_on_by(view, pool)?;
            match self.take_memory(&Leader { target: self, view, peer }, pool).await {
                Ok(()) => fill.groups.borrow_mut().told(peer),
                Err(error) => trouble = sooner(trouble, Some(error)),
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Groups that this target is to have and has not, by what their leaders say that they have, and those that it has
    /// something of, which may be nothing by now at their leaders. Not more than a bound; none, if there are none. With the
    /// trouble of a leader that says nothing, or not of all its groups.
    async fn missing(
        self: &Rc<Self>,
        view: &View,
        pool: PoolId,
        fill: &Fill,
    ) -> Result<(Vec<Missing>, Option<Error>), Error> {
        let mut missing = self.unproved(view, pool, fill).await?;
        let known: BTreeSet<Key> = missing.iter().map(Missing::key).collect();
        let mut trouble = None;
        for peer in view.others() {
            if missing.len() >= MISSING_MAX {
                break;
            }
            let leader = Leader { target: self, view, peer };
            let listed = self.missing_of(&leader, pool, fill, &known, &mut missing).await;
            trouble = sooner(trouble, listed.err());
        }
        // Of all leaders in turns: several are asked at a time.
        let mut before: BTreeMap<Peer, usize> = BTreeMap::new();
        missing.sort_by_cached_key(|one| {
            let place = before.entry(one.leader).or_default();
            *place += 1;
            *place
        });
        Ok((missing, trouble))
    }

    /// Those that a leader has data of.
    async fn missing_of(
        &self,
        leader: &Leader<'_>,
        pool: PoolId,
        fill: &Fill,
        known: &BTreeSet<Key>,
        missing: &mut Vec<Missing>,
    ) -> Result<(), Error> {
        let (view, peer) = (leader.view, leader.peer);
        let (mut after, mut unserved) = (None, None);
        loop {
            let list = CopyListRequest { pool, map_version: view.version(), after };
            let (found, _) = leader.ask::<CopyListResponse>(Opcode::CopyList, list.to_bytes()).await?;
            for (container, number) in found.groups {
                let is_new = !known.contains(&(container, number));
                if is_new && self.is_missing(view, peer, (container, number), fill)? {
                    missing.push(Missing { leader: peer, container, number });
                }
            }
            for number in found.unserved {
                let reign = view.reign(number)?;
                if reign.has(view.me) && !reign.whole.contains(&view.me) {
                    unserved.get_or_insert(number);
                }
            }
            if found.next.is_some() && found.next <= after {
                return Err(Error::new(Code::Protocol, format!("the list of {peer} does not lead any further")));
            }
            after = found.next;
            if after.is_none() || missing.len() >= MISSING_MAX {
                break;
            }
        }
        let text = |number| format!("{peer} leads placement group {number:#x}, and does not serve it yet");
        unserved.map_or(Ok(()), |number| Err(Error::new(Code::Again, text(number))))
    }

    /// Groups that something is here of, from another time.
    async fn unproved(&self, view: &View, pool: PoolId, fill: &Fill) -> Result<Vec<Missing>, Error> {
        let mut unproved = Vec::new();
        let containers = self.store.borrow().containers(pool);
        for container in containers {
            let mut after = None;
            loop {
                let found = self.store.borrow_mut().stored_groups(container, after, GROUPS_AT_ONCE);
                let found = found.map_err(|error| self.refusal(container, error))?;
                for number in &found {
                    // What is no group of the pool is nobody's, and who leads no more is not asked.
                    let leader = view.reign(*number).ok().and_then(|reign| reign.leader);
                    if let Some(leader) = leader
                        && self.is_missing(view, leader, (container, *number), fill)?
                    {
                        unproved.push(Missing { leader, container, number: *number });
                    }
                }
                after = found.last().copied();
                if found.len() < GROUPS_AT_ONCE || unproved.len() >= MISSING_MAX {
                    break;
                }
                rt::yield_now().await;
            }
        }
        Ok(unproved)
    }

    fn is_missing(&self, view: &View, leader: Peer, key: Key, fill: &Fill) -> Result<bool, Error> {
        let reign = view.reign(key.1)?;
        let Some(since) = reign.member_since(view.me) else { return Ok(false) };
        let is_mine = !reign.whole.contains(&view.me);
        Ok(reign.leader == Some(leader) && is_mine && fill.groups.borrow().is_missing(key, leader, since))
    }

    /// Drops the data of groups that others have, and this target is no member of any more: it stood in for somebody.
    async fn drop_strangers(&self, view: &View, pool: PoolId) -> Result<(), Error> {
        let containers = self.store.borrow().containers(pool);
        for container in containers {
            let mut after = None;
            loop {
                let found = self.store.borrow_mut().stored_groups(container, after, GROUPS_AT_ONCE);
                let found = found.map_err(|error| self.refusal(container, error))?;
                for number in &found {
                    // What is no group of the pool is not this target's to judge.
                    let Ok(reign) = view.reign(*number) else { continue };
                    if reign.leader.is_some() && !reign.has(view.me) {
                        self.drop_whole(container, *number).await?;
                    }
                }
                after = found.last().copied();
                if found.len() < GROUPS_AT_ONCE {
                    break;
                }
                rt::yield_now().await;
            }
        }
        Ok(())
    }

    async fn fill_group(
        self: &Rc<Self>,
        leader: &Leader<'_>,
        container: ContainerId,
        number: u32,
        fill: &Fill,
    ) -> Result<(), Error> {
        let (key, giver, began) = ((container, number), leader.peer, rt::now());
        if let Some(why) = fill.groups.borrow().rests(key, giver, began) {
            return Err(why);
        }
        let since = leader.view.reign(number)?.member_since(leader.view.me);
        // Whatever is here is of another time, all of it or nothing: it is compared, not believed.
        let pulled = self.pull(leader, container, number).await;
        let failed = |why: &Error| fill.groups.borrow_mut().failed(key, giver, why, rt::now());
        let pulled = pulled.inspect_err(failed)?;
        tracing::debug!(target_index = %self.index, %container, number, leader = %leader.peer, ?pulled, "a group is here");
        fill.came(pulled, began.elapsed());
        if let Some(since) = since {
            fill.groups.borrow_mut().came(key, giver, since);
        }
        Ok(())
    }
}

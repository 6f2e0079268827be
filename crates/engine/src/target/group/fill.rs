//! Getting what the map says this target is to have, and it has not: group by group, from their leaders.
//!
//! One task a pool, for the life of the target. It is the same work whatever it is for: this target stands in for one
//! that failed, it comes back, it is new, or another drains. It does it for one version of the map after the other,
//! and says for which all is here ([`Target::filling`]); the service asks, and finishes what is under way.
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
    /// Groups that came whole, and the version since which this target had been a member of them: as long as it is one
    /// without a break, it gets whatever comes.
    done: RefCell<BTreeMap<(ContainerId, u32), u32>>,
    progress: Cell<Filling>,
}

/// A group that is to come from who leads it.
struct Missing {
    leader: Peer,
    container: ContainerId,
    number: u32,
}

impl Missing {
    fn key(&self) -> (ContainerId, u32) {
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
                Ok(()) => fill.is_full(view.version()),
                Err(error) => {
                    match error.is_transient() {
                        true => tracing::debug!(target_index = %self.index, %pool, %error, "not all is here yet"),
                        false => tracing::warn!(
                            target_index = %self.index, %pool, %error,
                            "something that it is to have cannot be had: it is tried again"
                        ),
                    }
                    // With the next map, or after a while.
                    let _ = rt::timeout(RETRY_MAX, mapped).await;
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
            fill.done.borrow_mut().clear();
            // Whoever is out and awaited may be back soon, and has most of it then.
            return match view.is_awaited() {
                true => Ok(()),
                false => self.drop_strangers(view, pool).await,
            };
        }
        loop {
            let missing = self.missing(view, pool, fill).await?;
            fill.progress.set(Filling { left: missing.len() as u64, ..fill.progress.get() });
            if missing.is_empty() {
                return self.remember(view, pool).await;
            }
            self.fill_all(view, pool, missing, fill).await?;
        }
    }

    /// Gets groups, some at a time. Of one that cannot be had the others do not wait; of a leader that does not answer, its
    /// others do.
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
                // Another map may give it to somebody else, or have it led by somebody else; or it is to wait.
                let newest = self.groups.view(pool);
                if newest.is_none_or(|newest| newest.version() != view.version() || !newest.goes_on()) {
                    return Err(Error::new(Code::Again, "the pool map has changed, or its rebuild was stopped"));
                }
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
                trouble.get_or_insert(Error { message, ..error });
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Learns which requests took effect at those who serve: it may be asked to lead what they lead now. After the groups:
    /// what takes effect from now on comes to it as their member.
    async fn remember(self: &Rc<Self>, view: &View, pool: PoolId) -> Result<(), Error> {
        for peer in view.others() {
            self.take_memory(&Leader { target: self, view, peer }, pool).await?;
        }
        Ok(())
    }

    /// Groups that this target is to have and has not, by what their leaders say that they have, and those that it has
    /// something of, which may be nothing by now at their leaders. Not more than a bound; none, if there are none.
    async fn missing(self: &Rc<Self>, view: &View, pool: PoolId, fill: &Fill) -> Result<Vec<Missing>, Error> {
        let mut missing = self.unproved(view, pool, fill).await?;
        let known: BTreeSet<(ContainerId, u32)> = missing.iter().map(Missing::key).collect();
        for peer in view.others() {
            let leader = Leader { target: self, view, peer };
            let mut after = None;
            loop {
                let list = CopyListRequest { pool, map_version: view.version(), after };
                let (found, _) = leader.ask::<CopyListResponse>(Opcode::CopyList, list.to_bytes()).await?;
                for (container, number) in found.groups {
                    let is_new = !known.contains(&(container, number));
                    if is_new && self.is_missing(view, peer, (container, number), fill)? {
                        missing.push(Missing { leader: peer, container, number });
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
            if missing.len() >= MISSING_MAX {
                break;
            }
        }
        // Of all leaders in turns: several are asked at a time.
        let mut before: BTreeMap<Peer, usize> = BTreeMap::new();
        missing.sort_by_cached_key(|one| {
            let place = before.entry(one.leader).or_default();
            *place += 1;
            *place
        });
        Ok(missing)
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

    fn is_missing(&self, view: &View, leader: Peer, key: (ContainerId, u32), fill: &Fill) -> Result<bool, Error> {
        let reign = view.reign(key.1)?;
        let Some(since) = reign.member_since(view.me) else { return Ok(false) };
        let is_mine = !reign.whole.contains(&view.me);
        Ok(reign.leader == Some(leader) && is_mine && fill.done.borrow().get(&key) != Some(&since))
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
        let began = rt::now();
        let since = leader.view.reign(number)?.member_since(leader.view.me);
        // Whatever is here is of another time, all of it or nothing: it is compared, not believed.
        let pulled = self.pull(leader, container, number).await?;
        tracing::debug!(target_index = %self.index, %container, number, leader = %leader.peer, ?pulled, "a group is here");
        fill.came(pulled, began.elapsed());
        fill.done.borrow_mut().extend(since.map(|since| ((container, number), since)));
        Ok(())
    }
}

//! Getting what the map says this target is to have, and it has not: group by group, from their leaders.
//!
//! One task a pool, for the life of the target. It does its work for one version of the map after the other, and says for
//! which all is here ([`Target::filled`]); the service asks, and lets the target serve again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use rt::disk::IoBuf;
use types::{Code, ContainerId, Epoch, Error, PoolId};
use wire::copy::{CopyDigestRequest, CopyDigestResponse, CopyListRequest, CopyListResponse, CopyRequest, CopyResponse};
use wire::{Opcode, Wire};

use super::view::View;
use super::{RETRY_MAX, Target};
use crate::replication::Peer;
use crate::target::rebuild::{Pulled, Source};

/// Groups that are looked at in one step.
const GROUPS_AT_ONCE: usize = 64;

/// How far a pool's groups are here.
#[derive(Default)]
pub(super) struct Fill {
    /// The version of the map for which all is here.
    version: Cell<u32>,
    /// Groups that came whole, and since when their reign was.
    done: RefCell<BTreeMap<(ContainerId, u32), u32>>,
    pulled: Cell<Pulled>,
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
    /// The version of a pool's map for which this target has all that it is to have; zero for none.
    pub(in crate::target) fn filled(&self, pool: PoolId) -> u32 {
        self.groups.fills.borrow().get(&pool).map_or(0, |fill| fill.version.get())
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
            if fill.version.get() == view.version() {
                mapped.await;
                continue;
            }
            match self.fill_once(&view, pool, &fill).await {
                Ok(()) => {
                    if !view.is_settled() {
                        let Pulled { records, bytes } = fill.pulled.take();
                        tracing::info!(target_index = %self.index, %pool, records, bytes, "all that it is to have is here");
                    }
                    fill.version.set(view.version());
                }
                Err(error) => {
                    tracing::debug!(target_index = %self.index, %pool, %error, "not all that it is to have is here yet");
                    // With the next map, or after a while.
                    let _ = rt::timeout(RETRY_MAX, mapped).await;
                }
            }
        }
    }

    /// Gets all that is missing by one map.
    async fn fill_once(self: &Rc<Self>, view: &View, pool: PoolId, fill: &Fill) -> Result<(), Error> {
        if view.is_settled() {
            fill.done.borrow_mut().clear();
            return self.drop_strangers(view, pool).await;
        }
        // Who stands in for one that is down gets what is written, and no more: that one is expected back.
        if !view.is_coming() {
            return Ok(());
        }
        for peer in view.others() {
            let leader = Leader { target: self, view, peer };
            let mut after = None;
            loop {
                let list = CopyListRequest { pool, map_version: view.version(), after };
                let (found, _) = leader.ask::<CopyListResponse>(Opcode::CopyList, list.to_bytes()).await?;
                for (container, number) in found.groups {
                    self.fill_group(&leader, container, number, fill).await?;
                }
                if found.next.is_some() && found.next <= after {
                    return Err(Error::new(Code::Protocol, format!("the list of {peer} does not lead any further")));
                }
                after = found.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
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
        let (view, key) = (leader.view, (container, number));
        let reign = view.reign(number)?;
        let is_mine = reign.has(view.me) && !reign.whole.contains(&view.me);
        if reign.leader != Some(leader.peer) || !is_mine || fill.done.borrow().get(&key) == Some(&reign.since) {
            return Ok(());
        }
        // What is here is of another time: others may have given up parts of it. What comes as a change meanwhile, the
        // leader has, too.
        self.drop_whole(container, number).await?;
        let Pulled { records, bytes } = self.pull(leader, container, number, Epoch::ZERO).await?;
        let before = fill.pulled.get();
        fill.pulled.set(Pulled { records: before.records + records, bytes: before.bytes + bytes });
        fill.done.borrow_mut().insert(key, reign.since);
        Ok(())
    }
}

//! Orders from the service, one after another; and links, beside them.

use std::rc::Rc;
use std::time::Duration;

use net::Limits;
use tokio::sync::mpsc;
use types::{Code, ContainerId, Epoch, Error, PoolId, Span};

use super::order::{Holdings, LinkOrder, Order, PoolShare, PoolSpace, Queues, Storage};
use super::{Target, is_pressure};

/// How long an order waits for a checkpoint to make room.
const ORDER_PATIENCE: Duration = Duration::from_secs(30);

impl Target {
    /// Serves links and carries orders out until the last handle is gone or an order says stop.
    pub(super) async fn carry_out(self: &Rc<Self>, queues: Queues, limits: Limits, incarnation: u64) {
        let Queues { orders, links } = queues;
        tokio::select! {
            biased;
            () = self.carry_out_orders(orders) => {}
            () = self.keep_links(links, limits, incarnation) => {}
        }
    }

    /// Who is linked to this target. Nothing here waits.
    async fn keep_links(self: &Rc<Self>, mut queue: mpsc::Receiver<LinkOrder>, limits: Limits, incarnation: u64) {
        let mut links = rt::TaskSet::new();
        let mut refusal: Option<Error> = None;
        while let Some(order) = queue.recv().await {
            match order {
                LinkOrder::SetServing { refusal: wanted, done } => {
                    refusal = wanted;
                    match refusal {
                        // To who is linked it is as if the server went: a repeat elsewhere, or later, finds what was done.
                        Some(_) => links.abort_all(),
                        // Until now the clock may have stood, and what was read before a restart is below this.
                        None => self.store.borrow_mut().start_clock(self.hlc.now()),
                    }
                    drop(done.send(Ok(())));
                }
                LinkOrder::Serve { incoming } => match &refusal {
                    Some(reason) => links.spawn_local(incoming.refuse(reason.clone())),
                    None => links.spawn_local(net::serve(incoming, limits, incarnation, self.clone())),
                },
            }
        }
    }

    async fn carry_out_orders(self: &Rc<Self>, mut orders: mpsc::Receiver<Order>) {
        // A caller that no longer waits for an answer is no reason to stop: `send` may fail.
        while let Some(order) = orders.recv().await {
            match order {
                Order::SetPool { id, share, done } => drop(done.send(self.set_pool(id, share).await)),
                Order::DestroyPool { id, is_elsewhere, done } => {
                    drop(done.send(self.destroy_pool(id, is_elsewhere).await));
                }
                Order::SetMap { pool, view, done } => drop(done.send(self.set_map(pool, view))),
                Order::Filling { pool, done } => drop(done.send(Ok(self.filling(pool)))),
                Order::PoolSpace { id, done } => drop(done.send(self.pool_space(id))),
                Order::CreateContainer { pool, id, done } => drop(done.send(self.create_container(pool, id).await)),
                Order::DestroyContainer { id, done } => drop(done.send(self.destroy_container(id).await)),
                Order::Keep { id, snapshots, retention, done } => {
                    drop(done.send(self.keep(id, &snapshots, retention).await));
                }
                Order::Rollback { id, to, asked, done } => drop(done.send(self.rollback(id, to, asked).await)),
                Order::Holdings { done } => drop(done.send(Ok(self.holdings()))),
                Order::Storage { done } => drop(done.send(Ok(self.storage()))),
                Order::MayResize { bytes, done } => drop(done.send(self.may_resize(bytes).await)),
                Order::Resize { bytes, done } => drop(done.send(self.resize(bytes))),
                Order::Stop { done } => {
                    drop(done.send(self.close().await));
                    return;
                }
            }
        }
    }

    async fn set_pool(&self, id: PoolId, share: PoolShare) -> Result<(), Error> {
        let (quota, origin) = (share.quota, vos::Origin::default());
        if self.store.borrow().pools().contains(&id) {
            self.change(None, |store| store.set_quota(id, quota, origin)).await?;
        } else {
            self.change(None, |store| store.create_pool(id, quota, origin)).await?;
        }
        self.store.borrow_mut().set_reserve(id, share.reserve);
        let pools = self.store.borrow().pools();
        self.groups.set_alone(id, share.is_alone, &pools);
        self.scrubber.set_period(id, share.scrub);
        self.upkeep.wake();
        Ok(())
    }

    async fn destroy_pool(&self, id: PoolId, is_elsewhere: bool) -> Result<(), Error> {
        self.scrubber.forget(id);
        let left: Vec<PoolId> = self.store.borrow().pools().into_iter().filter(|pool| *pool != id).collect();
        self.groups.forget(id, &left);
        if !self.store.borrow().pools().contains(&id) {
            return Ok(());
        }
        let containers = self.store.borrow().containers(id);
        if is_elsewhere {
            self.groups.moved_out(&containers);
        }
        for container in containers {
            self.destroy_container(container).await?;
        }
        self.change(None, |store| store.destroy_pool(id, vos::Origin::default())).await?;
        self.upkeep.wake();
        Ok(())
    }

    async fn create_container(&self, pool: PoolId, id: ContainerId) -> Result<(), Error> {
        if self.store.borrow().containers(pool).contains(&id) {
            return Ok(());
        }
        self.groups.moved_in(id);
        self.change(Some(id), |store| store.create_container(pool, id, vos::Origin::default())).await
    }

    async fn destroy_container(&self, id: ContainerId) -> Result<(), Error> {
        self.upkeep.forget(id);
        let destroyed = self.change(Some(id), |store| store.destroy_container(id, vos::Origin::default())).await;
        self.upkeep.wake();
        match destroyed {
            Err(e) if e.code == Code::NotFound => Ok(()),
            other => other,
        }
    }

    async fn keep(&self, id: ContainerId, snapshots: &[Epoch], retention: Span) -> Result<(), Error> {
        self.change(Some(id), |store| store.set_snapshots(id, snapshots, vos::Origin::default())).await?;
        self.upkeep.set_retention(id, retention);
        self.upkeep.wake();
        Ok(())
    }

    async fn rollback(&self, id: ContainerId, to: Epoch, asked: Epoch) -> Result<(), Error> {
        self.change(Some(id), |store| store.rollback(id, to, asked, vos::Origin::default())).await?;
        self.upkeep.wake();
        Ok(())
    }

    fn pool_space(&self, id: PoolId) -> Result<PoolSpace, Error> {
        let space = self.store.borrow().pool_space(id);
        let space = space.map_err(|e| self.refusal(ContainerId::from_bytes([0; 16]), e))?;
        Ok(PoolSpace {
            quota: space.quota,
            metadata: space.pages,
            data: space.bulk,
            is_failed: self.media.failure().is_some(),
        })
    }

    fn holdings(&self) -> Holdings {
        let store = self.store.borrow();
        Holdings { pools: store.pools().into_iter().map(|pool| (pool, store.containers(pool))).collect() }
    }

    fn storage(&self) -> Storage {
        let store = self.store.borrow();
        let usage = self.media.usage();
        let quotas = store.pools().into_iter().filter_map(|pool| store.pool_space(pool).ok());
        Storage {
            capacity: self.usable_with(self.resizer.wanted().min(self.media.data_bytes())),
            reserved: quotas.map(|pool| pool.quota).sum(),
            used: usage.space.capacity - usage.space.free - usage.space.fenced,
            log_bytes: usage.log_bytes,
            failure: self.media.failure().map(|failed| failed.to_string()),
            scrub: self.scrubber.report(),
            resize: self.resizer.report(&self.media),
        }
    }

    /// What pools may reserve together, were the data region of `bytes` bytes.
    pub(super) fn usable_with(&self, bytes: u64) -> u64 {
        let mut usage = self.media.usage();
        let capacity = usage.space.capacity + bytes;
        usage.space.capacity = capacity.saturating_sub(self.media.data_bytes());
        usable_bytes(&usage).saturating_sub(self.store.borrow().session_bytes_max())
    }

    async fn close(&self) -> Result<(), Error> {
        self.media.stop().await.map_err(|e| self.device_error(e))
    }

    /// Applies a change and waits until it is durable, pausing while the store is under pressure.
    async fn change(
        &self,
        container: Option<ContainerId>,
        apply: impl Fn(&mut vos::Store) -> vos::Result<media::Lsn>,
    ) -> Result<(), Error> {
        let deadline = rt::now() + ORDER_PATIENCE;
        let lsn = loop {
            let applied = apply(&mut self.store.borrow_mut());
            match applied {
                Ok(lsn) => break lsn,
                Err(error) if is_pressure(&error) => self.relieved(deadline).await?,
                Err(error) => {
                    return Err(self.refusal(container.unwrap_or(ContainerId::from_bytes([0; 16])), error));
                }
            }
        };
        self.durable(lsn).await
    }
}

/// What pools may reserve together: the data region less room for a checkpoint's copies of changed
/// pages, so that writing down never competes with pools for the last block. Where pages have a device of
/// their own, nothing competes. (Memory of sessions goes off besides.)
fn usable_bytes(usage: &media::Usage) -> u64 {
    let capacity = usage.space.capacity;
    if usage.space.metadata > 0 {
        return capacity.saturating_sub(usage.space.metadata);
    }
    let copies = usage.pages.budget * media::PAGE_BYTES as u64;
    capacity.saturating_sub(copies.max(capacity / 16))
}

//! Making the targets hold what the state says.
//!
//! Each step may be repeated: by the change that wants it, and at every start for whatever a stop
//! left half done.

use types::{ContainerId, Epoch, Error, PoolId};

use super::pool::{PoolCommand, Rollback};
use super::system::{Phase, SystemCommand};
use super::{Service, pool_path};
use crate::target::order::Order;

impl Service {
    /// At start: finishes what is half done, and repeats the rest so that targets and state agree.
    pub(super) async fn reconcile_all(&self) -> Result<(), Error> {
        let pools: Vec<(PoolId, Phase)> =
            self.system.borrow().state().pools.iter().map(|(id, row)| (*id, row.phase)).collect();
        for (id, phase) in pools {
            // A crash between the system's row and the pool's document leaves a pool that nobody
            // was told of: take it away.
            let known = self.pools.borrow().contains_key(&id);
            match phase {
                Phase::Creating if known => self.finish_creating_pool(id).await?,
                Phase::Creating | Phase::Destroying => {
                    self.finish_destroying_pool(id).await?;
                    continue;
                }
                Phase::Ready => self.order_pool(id).await?,
            }
            let containers: Vec<(ContainerId, Phase)> =
                self.with_pool(id, |pool| Ok(pool.containers.iter().map(|(id, c)| (*id, c.phase)).collect()))?;
            for (container, phase) in containers {
                match phase {
                    Phase::Creating => self.finish_creating_container(id, container).await?,
                    Phase::Destroying => self.finish_destroying_container(id, container).await?,
                    Phase::Ready => {
                        self.finish_rollback(id, container).await?;
                        self.tell_kept(id, container).await?;
                    }
                }
            }
        }
        self.remove_strays().await
    }

    pub(super) async fn finish_creating_pool(&self, id: PoolId) -> Result<(), Error> {
        self.order_pool(id).await?;
        self.propose_system(SystemCommand::PoolCreated { id })
    }

    /// Tells every target what the pool may use, and wants done.
    pub(super) async fn order_pool(&self, id: PoolId) -> Result<(), Error> {
        let share = self.with_pool(id, |pool| Ok(pool.share()))?;
        for target in &self.targets {
            target.ask(|done| Order::SetPool { id, share, done }).await?;
        }
        Ok(())
    }

    pub(super) async fn finish_destroying_pool(&self, id: PoolId) -> Result<(), Error> {
        for target in &self.targets {
            target.ask(|done| Order::DestroyPool { id, done }).await?;
        }
        let replica = self.pools.borrow_mut().remove(&id);
        match replica {
            Some(replica) => replica.remove()?,
            None if rt::disk::fs::exists(pool_path(&self.config, id)) => {
                let gone = rt::disk::fs::remove_file(pool_path(&self.config, id));
                gone.map_err(|e| Error::new(types::Code::Io, e.to_string()))?;
            }
            None => {}
        }
        self.propose_system(SystemCommand::PoolDestroyed { id })
    }

    pub(super) async fn finish_creating_container(&self, pool: PoolId, id: ContainerId) -> Result<(), Error> {
        for target in &self.targets {
            target.ask(|done| Order::CreateContainer { pool, id, done }).await?;
        }
        self.tell_kept(pool, id).await?;
        self.propose_pool(pool, PoolCommand::ContainerCreated { id }).map(drop)
    }

    pub(super) async fn finish_destroying_container(&self, pool: PoolId, id: ContainerId) -> Result<(), Error> {
        for target in &self.targets {
            target.ask(|done| Order::DestroyContainer { id, done }).await?;
        }
        self.propose_pool(pool, PoolCommand::ContainerDestroyed { id }).map(drop)
    }

    /// Tells every target what of a container's history must stay readable.
    pub(super) async fn tell_kept(&self, pool: PoolId, id: ContainerId) -> Result<(), Error> {
        let (snapshots, retention): (Vec<Epoch>, _) = self.with_pool(pool, |state| {
            let container = state.container(id)?;
            Ok((container.snapshots.keys().copied().collect(), container.retention()))
        })?;
        for target in &self.targets {
            let snapshots = snapshots.clone();
            target.ask(|done| Order::Keep { id, snapshots, retention, done }).await?;
        }
        Ok(())
    }

    /// Has every target go back, if the state says so; repeated, it undoes nothing that came after.
    pub(super) async fn finish_rollback(&self, pool: PoolId, id: ContainerId) -> Result<(), Error> {
        let Some(Rollback { to, asked }) = self.with_pool(pool, |state| Ok(state.container(id)?.rollback))? else {
            return Ok(());
        };
        for target in &self.targets {
            target.ask(|done| Order::Rollback { id, to, asked, done }).await?;
        }
        self.propose_pool(pool, PoolCommand::RolledBack { id }).map(drop)
    }

    /// Removes from targets what no state knows: the far side of a destroy cut short.
    async fn remove_strays(&self) -> Result<(), Error> {
        for target in &self.targets {
            let holdings = target.ask(|done| Order::Holdings { done }).await?;
            for (pool, containers) in holdings.pools {
                if !self.pools.borrow().contains_key(&pool) {
                    tracing::warn!(%pool, target = %target.index, "removing a pool that the system does not know");
                    target.ask(|done| Order::DestroyPool { id: pool, done }).await?;
                    continue;
                }
                for id in containers {
                    if self.with_pool(pool, |state| Ok(!state.containers.contains_key(&id)))? {
                        tracing::warn!(container = %id, target = %target.index, "removing a container that its pool does not know");
                        target.ask(|done| Order::DestroyContainer { id, done }).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

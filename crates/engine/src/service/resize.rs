//! Other sizes: of the targets' data, and of what a pool reserves.
//!
//! Both are said first and done then: what is wanted is durable before a target hears of it, and is told again at
//! every start.

use types::{ByteSize, Code, Error, PoolId};
use wire::control as msg;

use super::Service;
use super::pool::PoolCommand;
use super::system::SystemCommand;
use crate::target::order::Order;

impl Service {
    /// Every target is asked first, so that a refusal of one leaves all as they are.
    pub(super) async fn storage_resize(&self, request: msg::StorageResize) -> Result<msg::StorageInfo, Error> {
        let _change = self.changes.lock().await;
        let wanted = self.config.layout.plan(request.bytes)?;
        for (target, &bytes) in self.targets.iter().zip(&wanted) {
            target.ask(|done| Order::MayResize { bytes, done }).await?;
        }
        self.config.layout.keep(&wanted)?;
        for (target, &bytes) in self.targets.iter().zip(&wanted) {
            target.ask(|done| Order::Resize { bytes, done }).await?;
        }
        self.storage_info().await
    }

    pub(super) async fn pool_resize(&self, request: msg::PoolResize) -> Result<msg::PoolInfo, Error> {
        let _change = self.changes.lock().await;
        let id = self.find_pool(&request.pool)?;
        let (label, present) = self.with_pool(id, |pool| Ok((pool.label.clone(), pool.bytes_per_target)))?;
        let bytes_per_target = self.pool_share(&label, request.bytes, present).await?;
        self.refuse_below_use(id, &label, bytes_per_target).await?;
        self.propose_pool(id, PoolCommand::Resize { bytes_per_target })?;
        self.propose_system(SystemCommand::ResizePool { id, bytes_per_target })?;
        self.order_pool(id).await?;
        self.pool_info(id).await
    }

    async fn refuse_below_use(&self, id: PoolId, label: &str, share: u64) -> Result<(), Error> {
        let mut most = 0;
        for target in &self.targets {
            let space = target.ask(|done| Order::PoolSpace { id, done }).await?;
            most = most.max(space.metadata + space.data);
        }
        if most <= share {
            return Ok(());
        }
        let targets = self.targets.len() as u64;
        let (wanted, least) = (ByteSize(share * targets), ByteSize(most * targets));
        let text = format!("pool '{label}' cannot have {wanted}: its fullest target uses {}", ByteSize(most));
        Err(Error::new(Code::NoSpace, text).remedy(format!("delete something, or give it at least {least}")))
    }
}

//! Another size for the data of this server's targets.
//!
//! It is said first and done then: what is wanted is durable before a target hears of it, and is told again at every start.

use types::Error;
use wire::control as msg;

use super::Service;
use crate::target::order::Order;

impl Service {
    /// Every target is asked first, so that a refusal of one leaves all as they are.
    pub(super) async fn storage_resize(&self, request: msg::StorageResize) -> Result<msg::StorageInfo, Error> {
        let _change = self.system.changes.lock().await;
        let wanted = self.config.layout.plan(request.bytes)?;
        for (target, &bytes) in self.targets.iter().zip(&wanted) {
            target.ask(|done| Order::MayResize { bytes, done }).await?;
        }
        self.config.layout.keep(&wanted)?;
        for (target, &bytes) in self.targets.iter().zip(&wanted) {
            target.ask(|done| Order::Resize { bytes, done }).await?;
        }
        Ok(msg::StorageInfo { devices: self.server_storage().await.devices })
    }
}

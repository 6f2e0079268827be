//! Object ids: taken from ranges that the pool's service hands out.

use types::Result;
use wire::control::ObjectIdRange;

use crate::Container;

/// Ids fetched at once: one request in a thousand creations. Those unused when the program ends are
/// lost, which 64 bits can bear.
const IDS_PER_RANGE: u64 = 1024;

/// The rest of the last range.
#[derive(Default)]
pub(crate) struct IdRange {
    left: tokio::sync::Mutex<(u64, u64)>,
}

impl IdRange {
    /// An id that nobody else gets.
    pub(crate) async fn next(&self, container: &Container) -> Result<u64> {
        let mut left = self.left.lock().await;
        if left.0 == left.1 {
            let ObjectIdRange { first, count } = container.allocate_ids(IDS_PER_RANGE).await?;
            *left = (first, first + count);
        }
        left.0 += 1;
        Ok(left.0 - 1)
    }
}

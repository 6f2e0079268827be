//! The answering end of a link.

use std::future::Future;
use std::rc::Rc;

use crate::{Incoming, Limits, Reply, Request};

/// What answers requests. One per thread; its futures stay on that thread.
pub trait Handler: 'static {
    /// Answers one request. Runs as a task of its own, beside those of other requests, and to its
    /// end even if the caller has gone.
    fn handle(self: Rc<Self>, request: Request) -> impl Future<Output = Result<Reply, types::Error>> + 'static;
}

/// Welcomes `incoming` and answers its requests until it leaves, misbehaves, or the listener stops.
///
/// Call it on the thread that shall do the work (it spawns local tasks). `incarnation` tells this
/// start of the server from the one before. Handlers still running at the end run on; their answers
/// are dropped.
pub async fn serve<H: Handler>(_incoming: Incoming, _limits: Limits, _incarnation: u64, _handler: Rc<H>) {
    unimplemented!()
}

//! Other targets: one link to each, opened when first needed and again when lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use net::{Address, Bulk, Caller, Connection, Reply};
use rt::Hlc;
use types::{Code, Error, SessionId};
use wire::group::{GroupRequest, GroupResponse};
use wire::hello::Service;
use wire::{Opcode, Wire};

use super::view::View;
use crate::replication::Peer;

/// How long another target may take to answer. It answers when the change is on its device; whoever takes longer is asked
/// again, until the map says that it is out.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// All that this target talks to.
pub(super) struct Peers {
    caller: Caller,
    /// Grows with the targets of its pools' servers.
    links: RefCell<BTreeMap<(Address, u32), Rc<Link>>>,
}

#[derive(Default)]
struct Link {
    current: RefCell<Option<Connection>>,
    /// Held by the one who opens.
    opening: tokio::sync::Mutex<()>,
}

impl Link {
    fn working(&self) -> Option<Connection> {
        self.current.borrow().clone().filter(|connection| !connection.is_closed())
    }
}

impl Peers {
    pub(super) fn new(clock: Hlc) -> Peers {
        // Of any system: its addresses come from the service, which knows.
        let caller = Caller { session: SessionId(rt::random_u64()), system: String::new(), clock };
        Peers { caller, links: RefCell::default() }
    }

    /// Asks another target, once.
    ///
    /// # Errors
    /// Nobody knows whether it did what was asked, unless it said that it did not.
    pub(super) async fn call(
        &self,
        view: &View,
        peer: Peer,
        message: &GroupRequest,
        bulk: Option<Bytes>,
    ) -> Result<GroupResponse, Error> {
        // Repeats are harmless, so that none has to be told by its number.
        let reply = self.ask(view, peer, Opcode::Group, message.to_bytes(), bulk).await?;
        GroupResponse::from_bytes(&reply.body)
            .map_err(|error| Error::new(Code::Protocol, format!("the answer of {peer} does not decode: {error}")))
    }

    /// Asks another target for something that may be asked again.
    ///
    /// # Errors
    /// Its refusal; or it did not answer.
    pub(super) async fn ask(
        &self,
        view: &View,
        peer: Peer,
        opcode: Opcode,
        body: Vec<u8>,
        bulk: Option<Bytes>,
    ) -> Result<Reply, Error> {
        let Some(address) = view.address(peer) else {
            return Err(Error::new(Code::Unreachable, format!("nobody knows where server {} listens", peer.rank)));
        };
        let link = self.links.borrow_mut().entry((address.clone(), peer.target.0)).or_default().clone();
        let connection = match link.working() {
            Some(connection) => connection,
            None => Box::pin(self.open(&link, address, peer)).await?,
        };
        let reply = connection.call_with(opcode, 0, body, bulk.map(Bulk::Shared), ANSWER_MAX).await;
        let reply = reply.inspect_err(|error| {
            if !matches!(error, net::CallError::Refused(_)) {
                link.current.borrow_mut().take();
            }
        })?;
        Ok(reply)
    }

    /// A target is out: should it return, it is another life of it, and what is sent over the old link, or waits for one to be
    /// opened, finds nobody, which may take as long as [`ANSWER_MAX`] to show.
    pub(super) fn part_from(&self, view: &View, peer: Peer) {
        if let Some(address) = view.address(peer) {
            self.links.borrow_mut().remove(&(address.clone(), peer.target.0));
        }
    }

    async fn open(&self, link: &Link, address: &Address, peer: Peer) -> Result<Connection, Error> {
        let _opening = link.opening.lock().await;
        if let Some(connection) = link.working() {
            return Ok(connection);
        }
        let service = Service::Target { index: peer.target.0 };
        let connection = Connection::open(address, service, &self.caller, ANSWER_MAX).await?;
        *link.current.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }
}

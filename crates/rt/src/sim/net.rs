//! The simulated network: what carries the frames of [`crate::mem`] links.
//!
//! # Shape
//! A link is two pipes, one each way. A frame sent draws its fate: lost, or due after a delay, or
//! due twice. Within a pipe frames keep their order. The ends of links are told apart from the
//! handles on them: the handles live with the users, the ends here.
//!
//! # Always true
//! 1. No handle (whose destructor takes the world's lock) is ever stored in here.
//! 2. Frames that perish are set aside and dropped outside the lock: what their bytes belong to may
//!    have a destructor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;

use super::executor::here;
use super::world::{Place, Shared, World};
use super::{NetworkConfig, NodeId};
use crate::mem::{BACKLOG_MAX, Frame, LINK_FRAMES_MAX, LinkError};
use crate::time::nanos;

/// How long `connect` waits for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest a peer waits for the reset after a power cut, when there is one.
const RESET_DELAY_NANOS_MAX: u64 = 1_000_000_000;

/// The end of a link is sent again this often while a partition holds it up.
const RESEND_NANOS: u64 = 200_000_000;

/// One way within a node.
const LOCAL_DELAY_NANOS: std::ops::RangeInclusive<u64> = 1_000..=20_000;

/// How a node stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    PowerCut,
    Killed,
}

#[derive(Default)]
pub(super) struct Net {
    listeners: BTreeMap<String, Listener>,
    /// The node that last listened to a name: where to knock.
    homes: BTreeMap<String, NodeId>,
    pipes: BTreeMap<u64, Pipe>,
    /// Ways on which nothing arrives: from, to.
    cuts: BTreeSet<(NodeId, NodeId)>,
    trash: Vec<Frame>,
    links_made: u64,
    listeners_made: u64,
}

struct Listener {
    id: u64,
    place: Place,
    /// Links that have arrived and are not accepted yet.
    arrived: VecDeque<u64>,
    waker: Option<Waker>,
}

/// One direction of a link. Link `n` has pipe `2n` from the client and `2n + 1` to it.
struct Pipe {
    from: Place,
    to: Place,
    inbox: VecDeque<Frame>,
    in_flight: usize,
    last_arrival: u64,
    /// The sending handle has been dropped, or its node died.
    is_sender_gone: bool,
    is_receiver_gone: bool,
    /// The receiver knows that nothing more will come.
    is_ended: bool,
    /// The sender knows that nobody listens.
    is_broken: bool,
    receiver: Option<Waker>,
    senders: Vec<Waker>,
}

impl Pipe {
    fn new(from: Place, to: Place) -> Pipe {
        Pipe {
            from,
            to,
            inbox: VecDeque::new(),
            in_flight: 0,
            last_arrival: 0,
            is_sender_gone: false,
            is_receiver_gone: false,
            is_ended: false,
            is_broken: false,
            receiver: None,
            senders: Vec::new(),
        }
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }

    fn wake_senders(&mut self) {
        self.senders.drain(..).for_each(Waker::wake);
    }
}

impl Net {
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn heal(&mut self, a: NodeId, b: NodeId) {
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
    }

    /// Frames that have perished, to be dropped outside the lock.
    pub(super) fn take_trash(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.trash)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }
}

fn delay(world: &mut World, a: NodeId, b: NodeId) -> u64 {
    if a == b {
        return world.net_rng.between(*LOCAL_DELAY_NANOS.start(), *LOCAL_DELAY_NANOS.end());
    }
    let (low, high) = (nanos(*world.config.network.delay.start()), nanos(*world.config.network.delay.end()));
    world.net_rng.between(low, high)
}

pub(crate) fn listen(name: &str) -> Result<SimListener, LinkError> {
    let (shared, place) = here();
    let mut world = shared.world();
    if !world.is_alive(place) {
        return Err(LinkError::Closed);
    }
    if world.net.listeners.contains_key(name) {
        return Err(LinkError::NameTaken { name: name.to_owned() });
    }
    world.net.listeners_made += 1;
    let id = world.net.listeners_made;
    world.net.homes.insert(name.to_owned(), place.node);
    world.net.listeners.insert(name.to_owned(), Listener { id, place, arrived: VecDeque::new(), waker: None });
    drop(world);
    Ok(SimListener { shared, name: name.to_owned(), id })
}

pub(crate) struct SimListener {
    shared: Arc<Shared>,
    name: String,
    id: u64,
}

impl SimListener {
    pub(crate) async fn accept(&mut self) -> Result<(SimSender, SimReceiver), LinkError> {
        let link = poll_fn(|cx| {
            let mut world = self.shared.world();
            match world.net.listeners.get_mut(&self.name) {
                Some(listener) if listener.id == self.id => match listener.arrived.pop_front() {
                    Some(link) => Poll::Ready(Ok(link)),
                    None => {
                        listener.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                },
                _ => Poll::Ready(Err(LinkError::Closed)),
            }
        })
        .await?;
        Ok(handles(&self.shared, 2 * link + 1, 2 * link))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut world = self.shared.world();
        if world.net.listeners.get(&self.name).is_none_or(|listener| listener.id != self.id) {
            return;
        }
        let listener = world.net.listeners.remove(&self.name).expect("just seen");
        for link in listener.arrived {
            sender_goes(&mut world, 2 * link + 1);
            receiver_goes(&mut world, 2 * link);
        }
    }
}

/// The handles on one end of a link.
fn handles(shared: &Arc<Shared>, out: u64, back: u64) -> (SimSender, SimReceiver) {
    let sender = SimSender { shared: Arc::clone(shared), pipe: out };
    (sender, SimReceiver { shared: Arc::clone(shared), pipe: back })
}

pub(crate) async fn connect(name: &str) -> Result<(SimSender, SimReceiver), LinkError> {
    let (shared, place) = here();
    let (answer, answered) = oneshot::channel();
    {
        let mut world = shared.world();
        let home = world.net.homes.get(name).copied();
        let there = delay(&mut world, place.node, home.unwrap_or(place.node));
        let at = world.peek_now() + there;
        let name = name.to_owned();
        world.call_at(at, move |shared| knock(shared, name, home, place, answer));
    }
    match crate::time::timeout(CONNECT_TIMEOUT, answered).await {
        Ok(Ok(Some(link))) => Ok(handles(&shared, 2 * link, 2 * link + 1)),
        Ok(Ok(None)) => Err(LinkError::Refused { name: name.to_owned() }),
        // The question or the answer was lost: wait as one would for a machine that is off.
        Ok(Err(_)) => {
            crate::time::sleep(CONNECT_TIMEOUT).await;
            Err(LinkError::Unreachable { name: name.to_owned() })
        }
        Err(_) => Err(LinkError::Unreachable { name: name.to_owned() }),
    }
}

/// A connection request arrives at `home`, and the answer goes back.
fn knock(
    shared: &Arc<Shared>,
    name: String,
    home: Option<NodeId>,
    client: Place,
    answer: oneshot::Sender<Option<u64>>,
) {
    let mut world = shared.world();
    let server_node = home.unwrap_or(client.node);
    if world.net.is_cut(client.node, server_node) || !world.node_mut(server_node).is_up {
        return;
    }
    let has_room = |listener: &Listener| listener.arrived.len() < BACKLOG_MAX;
    let place = world.net.listeners.get(&name).filter(|listener| has_room(listener)).map(|listener| listener.place);
    let link = place.map(|server| {
        world.net.links_made += 1;
        let link = world.net.links_made;
        world.net.pipes.insert(2 * link, Pipe::new(client, server));
        world.net.pipes.insert(2 * link + 1, Pipe::new(server, client));
        let listener = world.net.listeners.get_mut(&name).expect("just seen");
        listener.arrived.push_back(link);
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
        link
    });
    let at = world.peek_now() + delay(&mut world, server_node, client.node);
    world.call_at(at, move |shared| {
        let is_lost = shared.world().net.is_cut(server_node, client.node);
        if (is_lost || answer.send(link).is_err())
            && let Some(link) = link
        {
            // Nobody will ever hold the client's end.
            let mut world = shared.world();
            sender_goes(&mut world, 2 * link);
            receiver_goes(&mut world, 2 * link + 1);
        }
    });
}

pub(crate) struct SimSender {
    shared: Arc<Shared>,
    pipe: u64,
}

impl SimSender {
    pub(crate) async fn send(&self, frame: Frame) -> Result<(), LinkError> {
        let mut frame = Some(frame);
        poll_fn(|cx| {
            let mut world = self.shared.world();
            let Some(pipe) = world.net.pipes.get_mut(&self.pipe) else { return Poll::Ready(Err(LinkError::Closed)) };
            if pipe.is_broken || pipe.is_sender_gone {
                return Poll::Ready(Err(LinkError::Closed));
            }
            if pipe.inbox.len() + pipe.in_flight >= LINK_FRAMES_MAX {
                if !pipe.senders.iter().any(|waker| waker.will_wake(cx.waker())) {
                    pipe.senders.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            let frame = frame.take().expect("a frame is sent once");
            transmit(&mut world, self.pipe, frame);
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Drop for SimSender {
    fn drop(&mut self) {
        sender_goes(&mut self.shared.world(), self.pipe);
    }
}

/// Draws the fate of a frame.
fn transmit(world: &mut World, id: u64, frame: Frame) {
    let Some(pipe) = world.net.pipes.get(&id) else { return };
    let (from, to) = (pipe.from, pipe.to);
    let is_local = from.node == to.node;
    let NetworkConfig { drop, duplicate, .. } = world.config.network;
    let is_dropped = world.net_rng.chance(drop) && !is_local;
    let is_doubled = world.net_rng.chance(duplicate) && !is_local;
    let digest = frame.head.iter().fold(0u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    world.note(5, id ^ digest);
    if is_dropped || world.net.is_cut(from.node, to.node) {
        world.net.trash.push(frame);
        return;
    }
    if !world.is_alive(to) {
        world.net.trash.push(frame);
        // A machine that is up answers frames for a dead process; one that is off does not.
        if world.node_mut(to.node).is_up {
            let at = world.peek_now() + 2 * delay(world, from.node, to.node);
            tell(world, at, id, Side::Sender);
            tell(world, at, id ^ 1, Side::Receiver);
        }
        return;
    }
    if is_doubled {
        deliver_later(world, id, Frame { head: frame.head.clone(), bulk: frame.bulk.clone() });
    }
    deliver_later(world, id, frame);
}

fn deliver_later(world: &mut World, id: u64, frame: Frame) {
    let Some(pipe) = world.net.pipes.get(&id) else { return };
    let (from, to) = (pipe.from, pipe.to);
    let due = world.peek_now() + delay(world, from.node, to.node);
    let Some(pipe) = world.net.pipes.get_mut(&id) else { return };
    let at = due.max(pipe.last_arrival);
    pipe.last_arrival = at;
    pipe.in_flight += 1;
    world.call_at(at, move |shared| {
        let mut world = shared.world();
        let is_lost = world.net.is_cut(from.node, to.node) || !world.is_alive(to);
        let Some(pipe) = world.net.pipes.get_mut(&id) else { return drop((world, frame)) };
        pipe.in_flight -= 1;
        if is_lost || pipe.is_receiver_gone {
            pipe.wake_senders();
            world.net.trash.push(frame);
        } else {
            pipe.inbox.push_back(frame);
            pipe.wake_receiver();
        }
    });
}

pub(crate) struct SimReceiver {
    shared: Arc<Shared>,
    pipe: u64,
}

impl SimReceiver {
    pub(crate) async fn recv(&mut self) -> Option<Frame> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(frame) = self.try_recv() {
            return Poll::Ready(Some(frame));
        }
        let mut world = self.shared.world();
        match world.net.pipes.get_mut(&self.pipe) {
            Some(pipe) if !pipe.is_ended && !pipe.is_receiver_gone => {
                pipe.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(None),
        }
    }

    pub(crate) fn try_recv(&mut self) -> Option<Frame> {
        let mut world = self.shared.world();
        let pipe = world.net.pipes.get_mut(&self.pipe)?;
        let frame = pipe.inbox.pop_front()?;
        pipe.wake_senders();
        Some(frame)
    }
}

impl Drop for SimReceiver {
    fn drop(&mut self) {
        receiver_goes(&mut self.shared.world(), self.pipe);
    }
}

/// The side of a pipe that is told of the other's end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

fn sender_goes(world: &mut World, id: u64) {
    let Some(pipe) = world.net.pipes.get_mut(&id) else { return };
    if std::mem::replace(&mut pipe.is_sender_gone, true) {
        return forget_if_unused(world, id);
    }
    let (from, to, last) = (pipe.from, pipe.to, pipe.last_arrival);
    let due = world.peek_now() + delay(world, from.node, to.node);
    tell(world, due.max(last), id, Side::Receiver);
}

fn receiver_goes(world: &mut World, id: u64) {
    let Some(pipe) = world.net.pipes.get_mut(&id) else { return };
    world.net.trash.extend(pipe.inbox.drain(..));
    if std::mem::replace(&mut pipe.is_receiver_gone, true) {
        return forget_if_unused(world, id);
    }
    let (from, to) = (pipe.from, pipe.to);
    let at = world.peek_now() + delay(world, to.node, from.node);
    tell(world, at, id, Side::Sender);
}

/// Lets one side know, at `at`, that the other is gone; later, if a partition is in the way.
fn tell(world: &mut World, at: u64, id: u64, side: Side) {
    world.call_at(at, move |shared| {
        let mut world = shared.world();
        let Some(pipe) = world.net.pipes.get(&id) else { return };
        // The news of an end goes the way of the frames, or back to who sends them.
        let (from, to) = match side {
            Side::Receiver => (pipe.from, pipe.to),
            Side::Sender => (pipe.to, pipe.from),
        };
        if world.net.is_cut(from.node, to.node) {
            let again = world.peek_now() + RESEND_NANOS;
            return tell(&mut world, again, id, side);
        }
        let Some(pipe) = world.net.pipes.get_mut(&id) else { return };
        match side {
            Side::Receiver => {
                pipe.is_ended = true;
                pipe.wake_receiver();
            }
            Side::Sender => {
                pipe.is_broken = true;
                pipe.wake_senders();
            }
        }
        forget_if_unused(&mut world, id);
    });
}

fn forget_if_unused(world: &mut World, id: u64) {
    if world.net.pipes.get(&id).is_some_and(|pipe| pipe.is_sender_gone && pipe.is_receiver_gone) {
        world.net.pipes.remove(&id);
    }
}

/// Takes the ends of links and the listeners of `node` away. Called once it is marked down.
pub(super) fn node_stops(world: &mut World, node: NodeId, end: End) {
    world.net.listeners.retain(|_, listener| listener.place.node != node);
    // Both pipes of a link share its fate: the peer hears on both, or on neither.
    let mut resets: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let touched: Vec<u64> = world
        .net
        .pipes
        .iter()
        .filter(|(_, pipe)| pipe.from.node == node || pipe.to.node == node)
        .map(|(&id, _)| id)
        .collect();
    for id in touched {
        let now = world.peek_now();
        let (from, to) = (world.net.pipes[&id].from, world.net.pipes[&id].to);
        let reset = match resets.get(&(id / 2)) {
            Some(known) => *known,
            None => {
                let after = match end {
                    End::Killed => Some(delay(world, from.node, to.node)),
                    End::PowerCut if world.net_rng.chance(0.5) => Some(world.net_rng.below(RESET_DELAY_NANOS_MAX)),
                    End::PowerCut => None,
                };
                resets.insert(id / 2, after);
                after
            }
        };
        let Some(pipe) = world.net.pipes.get_mut(&id) else { continue };
        if pipe.from.node == node {
            pipe.is_sender_gone = true;
        }
        if pipe.to.node == node {
            pipe.is_receiver_gone = true;
            world.net.trash.extend(pipe.inbox.drain(..));
        }
        if pipe.is_sender_gone && pipe.is_receiver_gone {
            world.net.pipes.remove(&id);
            continue;
        }
        let side = if pipe.from.node == node { Side::Receiver } else { Side::Sender };
        if let Some(after) = reset {
            tell(world, now + after, id, side);
        }
    }
}

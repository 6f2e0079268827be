//! Which servers live: SWIM, by the library `foca`, as a plain state machine over whatever carries its messages.
//!
//! Every period each server asks one other whether it is there, and when that is silent, others to ask it. One that
//! stays silent is *suspected*; everybody hears of it with other messages, itself too, and it may refute. Only a
//! suspicion that nobody refuted for [`Settings::suspicion_of`] so many servers makes a server *down*.
//!
//! # Who is suspected is told, and asked
//! The library trusts to gossip: that the suspect hears of it, and that all hear its answer. Where messages are lost, some do
//! not in time, and of a thousand servers one is enough, for a server that anybody takes for dead is dead to all. So whoever has a
//! suspicion asks the suspect itself ([`ASKED_AT`]), and says why it asks: the answer is its refutation.
//!
//! # Shape
//! [`Membership::handle`] takes a message, [`Membership::tick`] lets time pass; both leave messages to send and
//! [`Event`]s to be taken. Time is a [`Duration`] since whenever the driver likes.
//!
//! # A server that was slow itself
//! A process that was stopped, or got no processor, finds on waking that everybody was silent. So time in which
//! it did not run does not count: when a timer is late, all wait as much longer, and one round trip more, in
//! which answers that lie in the sockets are read. It does this for [`POSTPONED_MOST`] at most until a timer
//! is in time again, so that a server that is always slow still finds out who is dead.
//!
//! # Not here
//! What follows from a server being down (the system's service decides), addresses, and carrying messages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Codec, Config, Foca, Header, Identity, Message, NoCustomBroadcast, Notification, PeriodicParams, Timer};
use types::Rank;
use wire::Wire;
use wire::encoding::{DecodeError, Reader};

use crate::metrics::{ASKED, POSTPONED};

/// A timer that is later than this was not run in time.
const LATE: Duration = Duration::from_millis(50);
/// How much longer timers wait in all, until one is in time again.
pub const POSTPONED_MOST: Duration = Duration::from_secs(10);
/// When in the time of a suspicion the suspect is asked, in eighths; at once, too, by who suspected it first.
const ASKED_AT: [u32; 4] = [2, 4, 6, 7];
/// Up to so many servers news gets round in [`Settings::suspicion`]; each doubling takes a fifth longer.
const SMALL: usize = 32;
/// Ranks that a message may name: bounds what any messages can make this server remember.
pub const RANKS_MAX: u32 = 64 << 10;
/// Longest message.
const MESSAGE_BYTES_MAX: usize = 1400;

/// One life of a server: it takes another number when it starts again, or was wrongly taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    pub rank: Rank,
    /// Grows with each start of the server.
    pub start: u64,
    /// Counts what it refuted too late.
    pub renewed: u32,
}

/// How fast, and how sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Each server asks one other in this time.
    pub period: Duration,
    /// In which an answer is expected; under half of `period`.
    pub round_trip: Duration,
    /// From suspicion to certainty, in a system of few servers.
    pub suspicion: Duration,
    /// Who is asked to ask.
    pub indirect: usize,
}

impl Default for Settings {
    /// A server that dies is down for everybody some 1.7 s later.
    fn default() -> Settings {
        Settings {
            period: Duration::from_millis(300),
            round_trip: Duration::from_millis(100),
            suspicion: Duration::from_millis(1000),
            // Each way over another is four messages: of a network that loses one in twenty, 19 in 100 fail, and three in a
            // row 100 times as often as five.
            indirect: 5,
        }
    }
}

impl Settings {
    /// From suspicion to certainty among so many servers: time for the news to get to all, and for the answer.
    pub fn suspicion_of(&self, servers: usize) -> Duration {
        self.suspicion + self.suspicion / 5 * (servers / SMALL).max(1).ilog2()
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Up(Life),
    Down(Life),
    /// This server was taken for dead, and goes on as another life.
    Renewed(Life),
}

/// What one server knows of all.
pub struct Membership {
    foca: Foca<Life, LifeCodec, Chance, NoCustomBroadcast>,
    outside: Outside,
    settings: Settings,
    postponed: Duration,
    /// What its configuration was made for.
    size: u32,
}

/// What the library wants done.
#[derive(Default)]
struct Outside {
    now: Duration,
    /// By time, and then in the order they came.
    timers: BTreeMap<(Duration, u64), Due>,
    /// What the library does follows from time, and not from a message.
    is_own: bool,
    count: u64,
    messages: Vec<(Life, Vec<u8>)>,
    events: Vec<Event>,
}

/// What is to be done at some time.
enum Due {
    Library(Timer<Life>),
    /// To ask who is suspected, unless it has refuted that by then.
    Ask {
        suspect: Life,
        incarnation: u16,
    },
}

/// Of so many servers, by doublings.
fn size(servers: usize) -> u32 {
    (servers + 2).ilog2()
}

fn config(settings: &Settings, servers: usize) -> Config {
    let repeats = 4 * size(servers) + 4;
    let every = |period: u32, members: usize| {
        Some(PeriodicParams {
            frequency: settings.period * period,
            num_members: NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN),
        })
    };
    Config {
        probe_period: settings.period,
        probe_rtt: settings.round_trip,
        num_indirect_probes: NonZeroUsize::new(settings.indirect).unwrap_or(NonZeroUsize::MIN),
        max_transmissions: u8::try_from(repeats).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX),
        suspect_to_down_after: settings.suspicion_of(servers),
        remove_down_after: Some(Duration::from_secs(3600)),
        max_packet_size: NonZeroUsize::new(MESSAGE_BYTES_MAX).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: every(30, 1),
        // What was parted finds itself again.
        periodic_announce_to_down_members: every(20, 2),
        periodic_gossip: every(1, 3),
    }
}

impl Membership {
    /// Of a system that has some `servers` servers by now.
    pub fn new(me: Life, settings: &Settings, servers: usize, seed: u64) -> Membership {
        let settings = *settings;
        let foca = Foca::new(me, config(&settings, servers), Chance(rt::Rng::seeded(seed)), LifeCodec);
        Membership { foca, outside: Outside::default(), settings, postponed: Duration::ZERO, size: size(servers) }
    }

    /// So many servers there are by now: how often news is repeated, and how long who is silent may refute it, depends on it.
    /// Cost: none, but for each doubling.
    pub fn resize(&mut self, servers: usize) {
        if size(servers) != self.size {
            self.size = size(servers);
            let resized = self.foca.set_config(config(&self.settings, servers));
            debug_assert!(resized.is_ok(), "what depends on the size may be changed");
        }
    }

    /// This server, as it calls itself now.
    pub fn me(&self) -> Life {
        *self.foca.identity()
    }

    /// Servers that live, without this one.
    pub fn living(&self) -> impl Iterator<Item = Life> + '_ {
        self.foca.iter_members().map(|member| *member.id())
    }

    /// Makes oneself known to a server. Until somebody answers, that is all that happens: call it again.
    pub fn join(&mut self, now: Duration, other: Life) {
        self.outside.now = now;
        let sent = self.foca.announce(other, &mut self.outside);
        self.note(sent);
    }

    /// Takes servers for living, and tells nobody: in a system that has long been there, all know of each other. One that does
    /// not live is found out like any other.
    pub fn know(&mut self, now: Duration, others: impl Iterator<Item = Life>) {
        self.outside.now = now;
        let known = self.foca.apply_many(others.map(foca::Member::alive), false, &mut self.outside);
        self.note(known);
    }

    /// A message came. Whatever it holds, it does no harm; what is wrong with it is logged.
    pub fn handle(&mut self, now: Duration, message: &[u8]) {
        self.outside.now = now;
        let handled = self.foca.handle_data(message, &mut self.outside);
        self.note(handled);
    }

    /// Lets time pass: call it at [`Membership::next`], or when something came.
    pub fn tick(&mut self, now: Duration) {
        self.outside.now = now;
        if self.was_late(now) {
            return;
        }
        while let Some(entry) = self.outside.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                // Past: the library (2.0) would tell the suspect that it counts as dead even then, and that one would take
                // another name for nothing.
                Due::Library(Timer::ChangeSuspectToDown { member_id, incarnation, .. })
                    if !self.is_suspected(member_id, incarnation) => {}
                Due::Library(timer) => {
                    self.outside.is_own = true;
                    let handled = self.foca.handle_timer(timer, &mut self.outside);
                    self.outside.is_own = false;
                    self.note(handled);
                }
                Due::Ask { suspect, incarnation } if self.is_suspected(suspect, incarnation) => {
                    self.ask(suspect, incarnation);
                }
                Due::Ask { .. } => {}
            }
        }
    }

    /// Whether a suspicion of that moment still stands.
    fn is_suspected(&self, suspect: Life, incarnation: u16) -> bool {
        let known = self.foca.iter_membership_state().find(|member| *member.id() == suspect);
        known.is_some_and(|member| member.incarnation() == incarnation && member.state() == foca::State::Suspect)
    }

    /// Asks a suspect whether it is there, and tells it that it is suspected. A message as the library makes them; of ourselves
    /// it says nothing that is news to anybody.
    fn ask(&mut self, suspect: Life, incarnation: u16) {
        let (src, dst) = (self.me(), suspect);
        let header = Header { src, src_incarnation: 0, dst, message: Message::Ping(0) };
        let suspicion = foca::Member::new(suspect, incarnation, foca::State::Suspect);
        let mut message = Vec::with_capacity(128);
        let made = LifeCodec.encode_header(&header, &mut message);
        // One piece of news follows.
        message.put_u16(1);
        if made.and_then(|()| LifeCodec.encode_member(&suspicion, &mut message)).is_ok() {
            ASKED.add(1);
            self.outside.messages.push((suspect, message));
        }
    }

    /// Postpones everything when this server was slow. True: nothing is due before more was read.
    fn was_late(&mut self, now: Duration) -> bool {
        let Some((&(due, _), _)) = self.outside.timers.first_key_value() else { return false };
        let late = now.saturating_sub(due);
        if late < LATE {
            // In time, if it is time at all.
            if due <= now {
                self.postponed = Duration::ZERO;
            }
            return false;
        }
        let more = late + self.settings.round_trip;
        if self.postponed + more > POSTPONED_MOST {
            return false;
        }
        self.postponed += more;
        POSTPONED.add(1);
        let timers = std::mem::take(&mut self.outside.timers);
        self.outside.timers = timers.into_iter().map(|((due, count), timer)| ((due + more, count), timer)).collect();
        true
    }

    /// When something is to be done next.
    pub fn next(&self) -> Option<Duration> {
        self.outside.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// Messages to carry, each to the server of a life; one that is lost is nothing bad.
    pub fn take_messages(&mut self) -> Vec<(Life, Vec<u8>)> {
        std::mem::take(&mut self.outside.messages)
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.outside.events)
    }

    fn note(&self, outcome: Result<(), foca::Error>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, "membership");
        }
    }
}

impl Outside {
    fn insert(&mut self, after: Duration, due: Due) {
        self.count += 1;
        self.timers.insert((self.now + after, self.count), due);
    }
}

impl foca::Runtime<Life> for Outside {
    fn notify(&mut self, notification: Notification<'_, Life>) {
        match notification {
            Notification::MemberUp(life) => self.events.push(Event::Up(*life)),
            Notification::MemberDown(life) => self.events.push(Event::Down(*life)),
            Notification::Rename(before, after) if before.start != after.start => {
                self.events.push(Event::Down(*before))
            }
            Notification::Rejoin(life) => self.events.push(Event::Renewed(*life)),
            Notification::Rename(..) | Notification::Active | Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Life, data: &[u8]) {
        self.messages.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Life>, after: Duration) {
        if let Timer::ChangeSuspectToDown { member_id: suspect, incarnation, .. } = event {
            if self.is_own {
                self.insert(Duration::ZERO, Due::Ask { suspect, incarnation });
            }
            for eighths in ASKED_AT {
                self.insert(after * eighths / 8, Due::Ask { suspect, incarnation });
            }
        }
        self.insert(after, Due::Library(event));
    }
}

impl Identity for Life {
    type Addr = Rank;

    fn renew(&self) -> Option<Life> {
        Some(Life { renewed: self.renewed.wrapping_add(1), ..*self })
    }

    fn addr(&self) -> Rank {
        self.rank
    }

    fn win_addr_conflict(&self, other: &Life) -> bool {
        self > other
    }
}

/// Chance as the library wants it.
struct Chance(rt::Rng);

impl rand_core::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

/// The library's messages as ours ([`wire::membership`]).
struct LifeCodec;

impl Codec<Life> for LifeCodec {
    type Error = DecodeError;

    fn encode_header(&mut self, header: &Header<Life>, buf: impl BufMut) -> Result<(), DecodeError> {
        use wire::membership::GossipKind as Kind;
        let kind = match &header.message {
            Message::Ping(number) => Kind::Ping { number: *number },
            Message::Ack(number) => Kind::Ack { number: *number },
            Message::PingReq { target, probe_number } => {
                Kind::PingRequest { number: *probe_number, target: (*target).into() }
            }
            Message::IndirectPing { origin, probe_number } => {
                Kind::IndirectPing { number: *probe_number, origin: (*origin).into() }
            }
            Message::IndirectAck { target, probe_number } => {
                Kind::IndirectAck { number: *probe_number, target: (*target).into() }
            }
            Message::ForwardedAck { origin, probe_number } => {
                Kind::ForwardedAck { number: *probe_number, origin: (*origin).into() }
            }
            Message::Announce => Kind::Announce,
            Message::Feed => Kind::Feed,
            Message::Gossip => Kind::Gossip,
            Message::Broadcast => Kind::Broadcast,
            Message::TurnUndead => Kind::TakenForDead,
        };
        let (from, to) = (header.src.into(), header.dst.into());
        put(&wire::membership::GossipHeader { from, incarnation: header.src_incarnation.into(), to, kind }, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Life>, DecodeError> {
        use wire::membership::GossipKind as Kind;
        let header: wire::membership::GossipHeader = take(buf)?;
        let message = match header.kind {
            Kind::Ping { number } => Message::Ping(number),
            Kind::Ack { number } => Message::Ack(number),
            Kind::PingRequest { number, target } => {
                Message::PingReq { target: target.try_into()?, probe_number: number }
            }
            Kind::IndirectPing { number, origin } => {
                Message::IndirectPing { origin: origin.try_into()?, probe_number: number }
            }
            Kind::IndirectAck { number, target } => {
                Message::IndirectAck { target: target.try_into()?, probe_number: number }
            }
            Kind::ForwardedAck { number, origin } => {
                Message::ForwardedAck { origin: origin.try_into()?, probe_number: number }
            }
            Kind::Announce => Message::Announce,
            Kind::Feed => Message::Feed,
            Kind::Gossip => Message::Gossip,
            Kind::Broadcast => Message::Broadcast,
            Kind::TakenForDead => Message::TurnUndead,
        };
        let (src, dst) = (header.from.try_into()?, header.to.try_into()?);
        Ok(Header { src, src_incarnation: small(header.incarnation)?, dst, message })
    }

    fn encode_member(&mut self, member: &foca::Member<Life>, buf: impl BufMut) -> Result<(), DecodeError> {
        use wire::membership::Liveness as State;
        let state = match member.state() {
            foca::State::Alive => State::Alive,
            foca::State::Suspect => State::Suspect,
            foca::State::Down => State::Down,
        };
        let life = (*member.id()).into();
        put(&wire::membership::News { life, incarnation: member.incarnation().into(), state }, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<Life>, DecodeError> {
        use wire::membership::Liveness as State;
        let news: wire::membership::News = take(buf)?;
        let state = match news.state {
            State::Alive => foca::State::Alive,
            State::Suspect => foca::State::Suspect,
            State::Down => foca::State::Down,
        };
        Ok(foca::Member::new(news.life.try_into()?, small(news.incarnation)?, state))
    }
}

/// Appends a message, whole or not at all.
fn put(message: &impl Wire, mut buf: impl BufMut) -> Result<(), DecodeError> {
    let bytes = message.to_bytes();
    match bytes.len().checked_sub(buf.remaining_mut()) {
        None | Some(0) => {
            buf.put_slice(&bytes);
            Ok(())
        }
        Some(missing) => Err(DecodeError::Short { missing }),
    }
}

/// Takes one message off the front.
fn take<M: Wire>(mut buf: impl Buf) -> Result<M, DecodeError> {
    let (message, taken) = {
        let chunk = buf.chunk();
        let mut reader = Reader::new(chunk);
        (M::decode(&mut reader)?, chunk.len() - reader.left())
    };
    buf.advance(taken);
    Ok(message)
}

/// The library counts refutations in 16 bits.
fn small(incarnation: u32) -> Result<u16, DecodeError> {
    incarnation.try_into().map_err(|_| DecodeError::Invalid { what: "an incarnation" })
}

impl From<Life> for wire::membership::Life {
    fn from(Life { rank, start, renewed }: Life) -> Self {
        wire::membership::Life { rank, start, renewed }
    }
}

impl TryFrom<wire::membership::Life> for Life {
    type Error = DecodeError;

    fn try_from(life: wire::membership::Life) -> Result<Life, DecodeError> {
        let wire::membership::Life { rank, start, renewed } = life;
        match rank.0 < RANKS_MAX {
            true => Ok(Life { rank, start, renewed }),
            false => Err(DecodeError::Invalid { what: "a rank" }),
        }
    }
}

#[cfg(test)]
mod tests;

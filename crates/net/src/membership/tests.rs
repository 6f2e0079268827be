//! Servers that gossip over a network in virtual time, which loses, delays and parts; servers die, stop for a while,
//! and get no processor.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A system of servers, all in one process.
struct Cluster {
    now: Duration,
    servers: Vec<Server>,
    /// Messages under way, by when they arrive.
    net: BTreeMap<(Duration, u64), (usize, Vec<u8>)>,
    sent: u64,
    chance: rt::Rng,
    loss: f64,
    /// Servers that hear only one another.
    island: BTreeSet<usize>,
    /// (when, who says so, what).
    events: Vec<(Duration, usize, Event)>,
}

struct Server {
    membership: Membership,
    is_dead: bool,
    /// It does nothing before then; what arrives waits.
    stopped_until: Duration,
    inbox: Vec<Vec<u8>>,
}

fn life(index: usize) -> Life {
    Life { rank: Rank(index as u32), start: 1, renewed: 0 }
}

impl Cluster {
    fn new(count: usize, seed: u64) -> Cluster {
        let server = |index| Server {
            membership: Membership::new(life(index), &Settings::default(), count, seed + index as u64),
            is_dead: false,
            stopped_until: Duration::ZERO,
            inbox: Vec::new(),
        };
        let mut cluster = Cluster {
            now: Duration::ZERO,
            servers: (0..count).map(server).collect(),
            net: BTreeMap::new(),
            sent: 0,
            chance: rt::Rng::seeded(seed ^ 0x5157_494d),
            loss: 0.0,
            island: BTreeSet::new(),
            events: Vec::new(),
        };
        for index in 1..count {
            cluster.servers[index].membership.join(Duration::ZERO, life(index - 1));
            cluster.collect(index);
        }
        cluster
    }

    /// Takes what a server wants sent, and what it says.
    fn collect(&mut self, index: usize) {
        for (to, message) in self.servers[index].membership.take_messages() {
            self.sent += 1;
            let to = to.rank.0 as usize;
            let is_parted = self.island.contains(&index) != self.island.contains(&to);
            if is_parted || self.chance.chance(self.loss) {
                continue;
            }
            let delay = Duration::from_micros(self.chance.between(100, 3000));
            self.net.insert((self.now + delay, self.sent), (to, message));
        }
        let events = self.servers[index].membership.take_events();
        self.events.extend(events.into_iter().map(|event| (self.now, index, event)));
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let arrives = self.net.first_key_value().map(|((at, _), _)| *at);
            let due = self.servers.iter().filter(|server| !server.is_dead);
            let due = due.filter_map(|server| Some(server.membership.next()?.max(server.stopped_until))).min();
            let wakes =
                self.servers.iter().filter(|s| !s.inbox.is_empty() && !s.is_dead).map(|s| s.stopped_until).min();
            let next = arrives.into_iter().chain(due).chain(wakes).min().unwrap_or(end);
            self.now = next.clamp(self.now, end);
            while let Some(entry) = self.net.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, message) = entry.remove();
                self.servers[to].inbox.push(message);
            }
            for index in 0..self.servers.len() {
                let server = &mut self.servers[index];
                if server.is_dead || server.stopped_until > self.now {
                    continue;
                }
                // What a driver does: time first, then what came.
                let is_due = server.membership.next().is_some_and(|due| due <= self.now);
                if is_due || !server.inbox.is_empty() {
                    server.membership.tick(self.now);
                    for message in std::mem::take(&mut server.inbox) {
                        server.membership.handle(self.now, &message);
                    }
                    self.collect(index);
                }
            }
        }
    }

    fn knows_all(&self) -> bool {
        let living: BTreeSet<u32> =
            (0..self.servers.len()).filter(|index| !self.servers[*index].is_dead).map(|index| index as u32).collect();
        self.servers.iter().filter(|server| !server.is_dead).all(|server| {
            let mut known: BTreeSet<u32> = server.membership.living().map(|life| life.rank.0).collect();
            known.insert(server.membership.me().rank.0);
            known == living
        })
    }

    /// Who said of whom that it was down.
    fn downs(&self) -> Vec<(Duration, usize, Life)> {
        let down = |(at, by, event): &(Duration, usize, Event)| match event {
            Event::Down(life) => Some((*at, *by, *life)),
            _ => None,
        };
        self.events.iter().filter_map(down).collect()
    }
}

#[test]
fn servers_find_one_another_through_any_of_them() {
    for count in [2, 3, 9, 40] {
        let mut cluster = Cluster::new(count, 1);
        cluster.run(10_000 * MS);
        assert!(cluster.knows_all(), "{count} servers");
        assert_eq!(cluster.downs(), [], "{count} servers");
    }
}

#[test]
fn a_dead_server_is_down_for_all_others_and_a_new_life_of_it_is_up_again() {
    for (count, seed) in [(3, 1), (3, 2), (5, 3), (20, 4)] {
        let mut cluster = Cluster::new(count, seed);
        cluster.run(10_000 * MS);
        cluster.servers[1].is_dead = true;
        let died = cluster.now;
        cluster.run(10_000 * MS);
        assert!(cluster.knows_all());
        let downs = cluster.downs();
        assert_eq!(downs.len(), count - 1, "each of the others says so once");
        let last = downs.iter().map(|(at, _, _)| *at - died).max().unwrap();
        println!("{count} servers: down for all after {last:?}");
        assert!(last < 4000 * MS, "{last:?}");
        let again = Life { start: 2, ..life(1) };
        let server = &mut cluster.servers[1];
        server.membership = Membership::new(again, &Settings::default(), count, 77);
        server.is_dead = false;
        server.inbox.clear();
        server.membership.join(cluster.now, life(0));
        cluster.collect(1);
        cluster.run(10_000 * MS);
        assert!(cluster.knows_all());
        assert!(cluster.servers[0].membership.living().any(|life| life == again));
    }
}

/// A tenth of all messages is lost: nobody alive is taken for dead.
#[test]
fn lost_messages_bury_nobody() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(5, seed);
        cluster.run(5_000 * MS);
        cluster.loss = 0.1;
        cluster.run(120_000 * MS);
        assert_eq!(cluster.downs(), [], "seed {seed}");
        // Seed 11 showed servers that took new names though they had refuted.
        let renewed = |(_, _, event): &(Duration, usize, Event)| matches!(event, Event::Renewed(_));
        assert!(!cluster.events.iter().any(renewed), "seed {seed}");
    }
}

/// A server gets no processor for up to 0.8 s, again and again. It suspects nobody for what it did not see itself, and refutes
/// what others suspect.
#[test]
fn a_server_that_is_slow_buries_nobody_and_is_not_buried() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(5, seed);
        cluster.run(5_000 * MS);
        for _ in 0..60 {
            let (who, pause) = (cluster.chance.below(5) as usize, cluster.chance.between(50, 800) as u32);
            cluster.servers[who].stopped_until = cluster.now + pause * MS;
            cluster.run(1_500 * MS);
        }
        assert_eq!(cluster.downs(), [], "seed {seed}");
    }
}

/// Everybody is stopped at once, as when a virtual machine with all of them is: nobody takes anybody for dead.
#[test]
fn a_pause_of_all_buries_nobody() {
    let mut cluster = Cluster::new(5, 3);
    cluster.run(5_000 * MS);
    for seconds in [1, 4, 9] {
        for server in &mut cluster.servers {
            server.stopped_until = cluster.now + seconds * 1000 * MS;
        }
        cluster.run((seconds + 5) * 1000 * MS);
        assert_eq!(cluster.downs(), [], "{seconds} s");
    }
}

/// A server that hangs for long is down; when it goes on it hears so, takes another name, and is up again.
#[test]
fn a_server_that_hung_comes_back_under_another_name() {
    let mut cluster = Cluster::new(5, 9);
    cluster.run(5_000 * MS);
    cluster.servers[2].stopped_until = cluster.now + 8_000 * MS;
    cluster.run(8_000 * MS);
    let downs = cluster.downs();
    assert_eq!(downs.len(), 4);
    assert!(downs.iter().all(|(_, _, who)| *who == life(2)));
    cluster.run(10_000 * MS);
    assert!(cluster.knows_all());
    assert!(cluster.events.iter().any(|(_, by, event)| *by == 2 && matches!(event, Event::Renewed(_))));
    assert_eq!(cluster.downs().len(), 4, "and it buried nobody when it went on");
}

/// Two are cut off from three: each side takes the other for dead, and finds it again.
#[test]
fn sides_that_were_parted_find_each_other_again() {
    let mut cluster = Cluster::new(5, 5);
    cluster.run(5_000 * MS);
    cluster.island = BTreeSet::from([1, 4]);
    cluster.run(10_000 * MS);
    let said: BTreeSet<(usize, u32)> = cluster.downs().iter().map(|(_, by, who)| (*by, who.rank.0)).collect();
    let across = (0..5).flat_map(|a| (0..5).map(move |b| (a, b)));
    let across = across.filter(|(a, b)| cluster.island.contains(a) != cluster.island.contains(b));
    assert_eq!(said, across.map(|(a, b)| (a, b as u32)).collect());
    cluster.island.clear();
    cluster.run(30_000 * MS);
    assert!(cluster.knows_all());
}

/// What is sent by each server and second does not grow with their number.
#[test]
fn messages_do_not_grow_with_the_system() {
    let rate = |count: usize| {
        let mut cluster = Cluster::new(count, 2);
        cluster.run(20_000 * MS);
        let before = cluster.sent;
        cluster.run(20_000 * MS);
        (cluster.sent - before) as f64 / 20.0 / count as f64
    };
    let (few, many) = (rate(5), rate(60));
    println!("{few:.1} and {many:.1} messages a second and server");
    assert!(many < few * 1.5 && many < 40.0, "{few} {many}");
}

#[test]
fn any_bytes_are_safe() {
    let mut cluster = Cluster::new(3, 1);
    cluster.run(2_000 * MS);
    let sample = {
        let server = &mut cluster.servers[0].membership;
        server.join(cluster.now, life(1));
        server.take_messages().remove(0).1
    };
    for at in 0..sample.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut bad = sample.clone();
            bad[at] = byte;
            cluster.servers[1].membership.handle(cluster.now, &bad);
            cluster.servers[1].membership.handle(cluster.now, &bad[..at]);
        }
    }
}

/// A message may name any rank; this server remembers only so many.
#[test]
fn ranks_beyond_the_bound_are_refused() {
    let named = |rank| wire::membership::Life { rank: Rank(rank), start: 1, renewed: 0 };
    assert_eq!(Life::try_from(named(RANKS_MAX - 1)).map(|life| life.rank), Ok(Rank(RANKS_MAX - 1)));
    for rank in [RANKS_MAX, u32::MAX] {
        assert_eq!(Life::try_from(named(rank)), Err(DecodeError::Invalid { what: "a rank" }));
        let from = Header { src: life(0), src_incarnation: 0, dst: life(1), message: Message::Gossip };
        let mut bytes = Vec::new();
        LifeCodec.encode_header(&from, &mut bytes).unwrap();
        bytes.extend(1u16.to_be_bytes());
        bytes.extend(
            wire::membership::News { life: named(rank), incarnation: 0, state: wire::membership::Liveness::Alive }
                .to_bytes(),
        );
        let mut server = Membership::new(life(1), &Settings::default(), 3, 1);
        server.handle(Duration::ZERO, &bytes);
        assert_eq!(server.living().count(), 0);
    }
}

/// Of a thousand servers in a network that loses a message in ten, fifteen live ones were taken for dead in half a minute: gossip
/// had brought the suspicion round, and the answer of the suspect not yet. So the suspect itself is asked, again and again,
/// and what it is told makes it refute.
#[test]
fn who_is_suspected_is_asked_and_its_answer_counts() {
    let settings = Settings::default();
    let mut asker = Membership::new(life(0), &settings, 20, 1);
    asker.know(Duration::ZERO, (1..20).map(life));
    let mut asked: Vec<(Duration, Life, Vec<u8>)> = Vec::new();
    // Nobody answers anything.
    let is_down = |event: &Event| matches!(event, Event::Down(_));
    let mut now = Duration::ZERO;
    let down = loop {
        asker.tick(now);
        if let Some(Event::Down(down)) = asker.take_events().into_iter().find(is_down) {
            break down;
        }
        for (to, message) in asker.take_messages() {
            let header: wire::membership::GossipHeader = take(&message[..]).unwrap();
            if header.kind == (wire::membership::GossipKind::Ping { number: 0 }) {
                asked.push((now, to, message));
            }
        }
        now = asker.next().unwrap().max(now);
    };
    let asked: Vec<_> = asked.into_iter().filter(|(_, to, _)| *to == down).collect();
    let began = now - settings.suspicion_of(20);
    let at: Vec<u128> = asked.iter().map(|(at, ..)| (*at - began).as_millis()).collect();
    assert_eq!(at, [0, 250, 500, 750, 875]);
    // Another asks that one, which lives.
    let mut suspect = Membership::new(down, &settings, 20, 2);
    suspect.know(Duration::ZERO, [life(0)].into_iter());
    suspect.handle(Duration::ZERO, &asked[0].2);
    let answers = suspect.take_messages();
    let refutes = |(to, message): &(Life, Vec<u8>)| {
        let header: wire::membership::GossipHeader = take(&message[..]).unwrap();
        *to == life(0) && header.incarnation == 1 && header.kind == wire::membership::GossipKind::Ack { number: 0 }
    };
    assert!(answers.iter().any(refutes), "{answers:?}");
}

/// The founder of a system is alone when it begins. It kept the patience of one or two servers, however many came.
#[test]
fn a_system_that_grew_is_as_patient_as_one_that_began_so() {
    let first_down = |began_with: usize, servers: usize| {
        let mut membership = Membership::new(life(0), &Settings::default(), began_with, 1);
        membership.know(Duration::ZERO, (1..200).map(life));
        membership.resize(servers);
        loop {
            let now = membership.next().expect("it always has something to do");
            membership.tick(now);
            membership.take_messages();
            if membership.take_events().iter().any(|event| matches!(event, Event::Down(_))) {
                return now;
            }
        }
    };
    assert_eq!(first_down(2, 200), first_down(200, 200));
    assert!(first_down(2, 2) < first_down(2, 200));
}

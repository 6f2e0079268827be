//! Who lives, asked of many servers: the state machine that servers run (`net::membership`), in an event loop of its own.
//!
//! No servers, no disks, no links: messages that take a while or are lost, and servers that die, or get no processor for
//! some time, in which what comes to them waits.
//!
//! # Bounds
//! A server knows of all others, in a list that the library walks for each server that a message speaks of or that it learns of, and
//! when it chooses some: memory grows with the square of their number, 24 B an entry, and time with the square too, but for
//! all getting to know all, which grows with the cube. Three thousand take 260 MB and a quarter of a minute; ten thousand
//! 2.5 GB and four minutes, of which knowing each other takes more than two. Sixty-four thousand would take 100 GB.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use net::membership::{Event, Life, Membership, Settings};
use rt::Rng;
use types::Rank;

/// One way, in microseconds.
const DELAY_MICROS: (u64, u64) = (50, 1_000);
/// Servers that die together are this far apart in time, so that their deaths fall anywhere within periods.
const DEATHS_APART: Duration = Duration::from_millis(410);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub servers: usize,
    /// Share of messages that are lost.
    pub loss: f64,
    /// Share of servers that get no processor, now and then.
    pub starved: f64,
    /// For how long, at most; each again and again, with twice as long between.
    pub starved_for: Duration,
    /// How long it goes on before anybody dies.
    pub calm: Duration,
    /// How many die.
    pub deaths: usize,
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// From a death to the first server that says so.
    pub first: Duration,
    /// To half of all servers, to 99 of 100, and to the last, over all deaths.
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
    /// Servers that never heard of a death.
    pub missed: usize,
    /// By each server, each second, when nothing happens.
    pub messages: f64,
    pub bytes: f64,
    /// Living servers that were taken for dead by somebody, and how often anybody said so.
    pub wronged: usize,
    pub wrongs: usize,
    /// Of these, servers that had their processor all the time.
    pub bystanders: usize,
    /// Server-seconds that were watched.
    pub watched: f64,
}

impl Answer {
    pub fn periods(time: Duration) -> f64 {
        time.as_secs_f64() / Settings::default().period.as_secs_f64()
    }
}

enum Happening {
    Arrives {
        to: usize,
        message: Vec<u8>,
    },
    /// It has something to do, or goes on.
    Wakes(usize),
    Starves(usize),
    Dies(usize),
}

struct Server {
    membership: Membership,
    died: Option<Duration>,
    stopped_until: Duration,
    inbox: Vec<Vec<u8>>,
    /// When it is woken next.
    woken: Option<Duration>,
}

struct World {
    now: Duration,
    servers: Vec<Server>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: slab::Slab<Happening>,
    dice: Rng,
    question: Question,
    starved: BTreeSet<usize>,
    sent: u64,
    sent_bytes: u64,
    /// Who says when that whom is down.
    downs: Vec<(Duration, usize, usize)>,
}

fn life(server: usize) -> Life {
    Life { rank: Rank(server as u32), start: 1, renewed: 0 }
}

/// Asks it. Equal questions have equal answers.
pub fn ask(question: Question) -> Answer {
    let mut world = World::new(question);
    let calm = question.calm;
    world.run(calm);
    let (sent, sent_bytes) = (world.sent, world.sent_bytes);
    for death in 0..question.deaths {
        let victim = world.dice.below(question.servers as u64) as usize;
        let at = world.now + DEATHS_APART * death as u32;
        world.schedule(at, Happening::Dies(victim));
    }
    let settings = Settings::default();
    world.run(
        calm + DEATHS_APART * question.deaths as u32
            + settings.suspicion_of(question.servers) * 3
            + settings.period * 30,
    );
    let died: Vec<Option<Duration>> = world.servers.iter().map(|server| server.died).collect();
    let mut answer = Answer {
        messages: sent as f64 / question.servers as f64 / calm.as_secs_f64(),
        bytes: sent_bytes as f64 / question.servers as f64 / calm.as_secs_f64(),
        watched: question.servers as f64 * world.now.as_secs_f64(),
        ..Answer::default()
    };
    let mut taken: Vec<Duration> = Vec::new();
    let mut heard = BTreeSet::new();
    let mut wronged = BTreeSet::new();
    for (at, by, whom) in &world.downs {
        match died[*whom] {
            Some(death) if *at >= death => {
                if heard.insert((*by, *whom)) {
                    taken.push(*at - death);
                }
            }
            _ => {
                wronged.insert(*whom);
                answer.wrongs += 1;
            }
        }
    }
    answer.wronged = wronged.len();
    answer.bystanders = wronged.difference(&world.starved).count();
    taken.sort_unstable();
    let dead = died.iter().flatten().count();
    answer.missed = dead * (question.servers - dead) - heard.iter().filter(|(by, _)| died[*by].is_none()).count();
    if let (Some(first), Some(last)) = (taken.first(), taken.last()) {
        let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
        (answer.first, answer.p50, answer.p99, answer.max) = (*first, at(0.5), at(0.99), *last);
    }
    answer
}

impl World {
    fn new(question: Question) -> World {
        let mut dice = Rng::seeded(question.seed);
        let count = question.servers;
        let server = |index: usize| {
            let mut membership =
                Membership::new(life(index), &Settings::default(), count, question.seed + index as u64);
            membership.know(Duration::ZERO, (0..count).filter(|other| *other != index).map(life));
            // That all are up is no event here, and would take as much memory as the list of them.
            membership.take_events();
            Server { membership, died: None, stopped_until: Duration::ZERO, inbox: Vec::new(), woken: None }
        };
        let servers: Vec<Server> = (0..count).map(server).collect();
        let starved: BTreeSet<usize> = (0..count).filter(|_| dice.chance(question.starved)).collect();
        let mut world = World {
            now: Duration::ZERO,
            servers,
            queue: BinaryHeap::new(),
            happenings: slab::Slab::new(),
            dice,
            question,
            starved: starved.clone(),
            sent: 0,
            sent_bytes: 0,
            downs: Vec::new(),
        };
        for index in 0..count {
            world.wake_when_due(index);
        }
        for index in starved {
            let at = Duration::from_micros(world.dice.below(question.starved_for.as_micros() as u64 * 3));
            world.schedule(at, Happening::Starves(index));
        }
        world
    }

    fn schedule(&mut self, at: Duration, happening: Happening) {
        // Slots are used again: the key breaks ties by them, which is as good as any order.
        let slot = self.happenings.insert(happening) as u64;
        self.queue.push(Reverse((at, slot)));
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((at, slot))) = self.queue.peek().copied().filter(|Reverse((at, _))| *at <= until) {
            self.queue.pop();
            self.now = at;
            match self.happenings.remove(slot as usize) {
                Happening::Arrives { to, message } => {
                    if self.servers[to].died.is_none() {
                        self.servers[to].inbox.push(message);
                        self.go_on(to);
                    }
                }
                Happening::Wakes(index) => {
                    if self.servers[index].woken == Some(at) {
                        self.servers[index].woken = None;
                        self.go_on(index);
                    }
                }
                Happening::Starves(index) => {
                    let most = self.question.starved_for.as_micros() as u64;
                    let pause = Duration::from_micros(most / 4 + self.dice.below(most * 3 / 4));
                    self.servers[index].stopped_until = at + pause;
                    self.schedule(at + self.question.starved_for * 3, Happening::Starves(index));
                }
                Happening::Dies(index) => {
                    self.servers[index].died.get_or_insert(at);
                }
            }
        }
        self.now = until;
    }

    /// What a driver does: time first, then what came.
    fn go_on(&mut self, index: usize) {
        let (now, server) = (self.now, &mut self.servers[index]);
        if server.died.is_some() {
            return;
        }
        if server.stopped_until > now {
            let until = server.stopped_until;
            if server.woken != Some(until) {
                server.woken = Some(until);
                self.schedule(until, Happening::Wakes(index));
            }
            return;
        }
        server.membership.tick(now);
        for message in std::mem::take(&mut server.inbox) {
            server.membership.handle(now, &message);
        }
        let (messages, events) = (server.membership.take_messages(), server.membership.take_events());
        for (to, message) in messages {
            self.sent += 1;
            self.sent_bytes += message.len() as u64;
            if self.dice.chance(self.question.loss) {
                continue;
            }
            let at = now + Duration::from_micros(self.dice.between(DELAY_MICROS.0, DELAY_MICROS.1));
            self.schedule(at, Happening::Arrives { to: to.rank.0 as usize, message });
        }
        for event in events {
            if let Event::Down(whom) = event {
                self.downs.push((now, index, whom.rank.0 as usize));
            }
        }
        self.wake_when_due(index);
    }

    fn wake_when_due(&mut self, index: usize) {
        let due = self.servers[index].membership.next().map(|due| due.max(self.now));
        if let Some(due) = due
            && self.servers[index].woken.is_none_or(|woken| woken > due || woken <= self.now)
        {
            self.servers[index].woken = Some(due);
            self.schedule(due, Happening::Wakes(index));
        }
    }
}

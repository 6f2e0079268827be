//! Pool maps through messages: random histories come back as they were, and bytes gone wrong are refused or are maps
//! that can be used.

use object::map::{delta_from_message, delta_to_message, from_message, to_message};
use placement::{Change, Event, Layout, PoolMap, Server, TargetState};
use types::{Code, PoolId, Rank};
use wire::Wire;
use wire::control::{PoolMap as Message, PoolMapDelta};

const POOL: PoolId = PoolId::from_bytes([7; 16]);

/// splitmix64: reproducible, and nothing to depend on.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn server(rank: u32) -> Server {
    let path = format!("/rack{}/host{rank}", rank / 2).parse().unwrap();
    Server { rank: Rank(rank), path, targets: 1 + rank % 3, weight: 1 + rank % 2 }
}

fn address(rank: Rank) -> String {
    match rank.0 % 5 {
        4 => String::new(),
        _ => format!("tcp://node{rank}:10001"),
    }
}

/// Tries something at random; most of it is refused, which is as well.
fn turn(chance: &mut Chance, map: &mut PoolMap) {
    let ranks = map.servers().len() as u32;
    let change = match chance.below(8) {
        0 if ranks < 12 => Change::Add(vec![server(ranks)]),
        0 | 1 => {
            let of = Rank(chance.below(ranks as usize) as u32);
            Change::Happen(map.positions_of(of).map(|position| (position, Event::Exclude)).collect())
        }
        2 => {
            let arrives = |(position, target): (usize, &placement::Target)| {
                let event = match target.state() {
                    TargetState::Down => Event::Rebuilt,
                    TargetState::Drain => Event::Drained,
                    TargetState::Up(placement::CameFrom::New) => Event::Extended,
                    TargetState::Up(_) => Event::Reintegrated,
                    _ => return None,
                };
                Some((position as u32, event))
            };
            Change::Happen(map.targets().iter().enumerate().filter_map(arrives).collect())
        }
        3 => {
            let is_away = |(_, target): &(usize, &placement::Target)| target.state() == TargetState::Away;
            let away = map.targets().iter().enumerate().filter(is_away);
            Change::Happen(away.map(|(position, _)| (position as u32, Event::GiveUp)).collect())
        }
        _ => {
            let event = Event::ALL[chance.below(Event::ALL.len())];
            Change::Happen(vec![(chance.below(map.targets().len()) as u32, event)])
        }
    };
    let _ = map.apply(&change);
}

fn history(seed: u64, turns: usize, mut each: impl FnMut(&mut Chance, &PoolMap)) {
    let mut chance = Chance(seed);
    let mut map = PoolMap::create((0..1 + chance.below(5) as u32).map(server).collect()).unwrap();
    for _ in 0..turns {
        turn(&mut chance, &mut map);
        each(&mut chance, &map);
    }
}

#[test]
fn maps_and_deltas_come_back_as_they_were() {
    let (mut greatest, mut deltas) = (0, 0);
    for seed in 0..60 {
        println!("seed {seed}");
        let mut known: Option<PoolMap> = None;
        history(seed, 300, |chance, map| {
            greatest = greatest.max(map.version());
            let message = to_message(POOL, "tank", map, address);
            let found = from_message(&Message::from_bytes(&message.to_bytes()).unwrap()).unwrap();
            assert_eq!(&found.map, map);
            let expected: Vec<String> = map.servers().iter().map(|server| address(server.rank)).collect();
            assert_eq!(found.addresses, expected);
            if chance.below(5) > 0 {
                return;
            }
            if let Some(mut old) = known.replace(map.clone())
                && let Some(delta) = map.delta_since(old.version())
            {
                let bytes = delta_to_message(&delta, address).to_bytes();
                let found = delta_from_message(&PoolMapDelta::from_bytes(&bytes).unwrap()).unwrap();
                assert_eq!(found.delta, delta);
                assert_eq!(found.addresses.len(), delta.servers.len());
                old.advance(&found.delta).unwrap();
                assert_eq!(&old, map);
                deltas += 1;
            }
        });
    }
    assert!(greatest > placement::HISTORY_MAX && deltas > 1000, "version {greatest}, {deltas} deltas");
}

#[test]
fn neighbours_of_which_the_same_is_said_take_one_run() {
    let servers = (0..1000).map(|rank| Server { targets: 16, ..server(rank) }).collect();
    let mut map = PoolMap::create(servers).unwrap();
    let message = to_message(POOL, "tank", &map, address);
    assert_eq!(message.standings.len(), 1);
    assert!(message.to_bytes().len() < 70_000);
    map.apply(&Change::Happen(map.positions_of(Rank(500)).map(|p| (p, Event::Exclude)).collect())).unwrap();
    assert_eq!(to_message(POOL, "tank", &map, address).standings.len(), 2);
}

#[test]
fn bytes_gone_wrong_are_refused_or_are_maps_to_place_with() {
    let mut taken = 0;
    history(1, 400, |chance, map| {
        let whole = to_message(POOL, "tank", map, |_| String::new()).to_bytes();
        for _ in 0..40 {
            let mut bytes = whole.clone();
            // The counts in front, or anything: the numbers of a map are small, so most bytes of it are zero.
            let at = match chance.below(3) {
                0 => 24 + chance.below(16),
                _ => chance.below(bytes.len()),
            };
            bytes[at] = [0, 1, 2, 3, 0x40, 0x80, 0xff, chance.next() as u8][chance.below(8)];
            let Ok(message) = Message::from_bytes(&bytes) else { continue };
            match from_message(&message) {
                Ok(found) => {
                    taken += usize::from(found.map != *map);
                    let layout = Layout::new(found.map);
                    let pg = chance.below(layout.pg_count() as usize) as u32;
                    assert!(layout.slots(pg, 4).len() <= 4);
                    layout.interval(pg, 2);
                }
                Err(error) => assert_eq!(error.code, Code::Protocol),
            }
        }
    });
    assert!(taken > 50, "{taken} other maps were met");
}

#[test]
fn a_message_that_is_no_map_says_why() {
    let map = PoolMap::create(vec![server(0)]).unwrap();
    let mut message = to_message(POOL, "tank", &map, address);
    message.servers[0].fault_path = "nowhere".into();
    let error = from_message(&message).unwrap_err();
    assert!(
        error.message.starts_with("the map of pool 'tank' cannot be one: 'nowhere' is not a fault path"),
        "{error}"
    );
    let mut endless = to_message(POOL, "tank", &map, address);
    endless.standings = vec![endless.standings[0].clone(); 9];
    endless.standings.iter_mut().for_each(|run| run.count = u32::MAX);
    let error = from_message(&endless).unwrap_err();
    assert!(error.message.contains("at most 4194304 are supported"), "{error}");
}

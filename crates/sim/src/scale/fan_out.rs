//! How a change of a pool's map reaches everybody: worked out from the messages that carry it.
//!
//! Two ways: five voters have it by consensus, and each tells a fifth of the others, which subscribe (decision 0021); or the leader
//! tells some, and these tell others, as a tree of subscriptions would.

use engine::service::pool::PoolCommand;
use object::map::{delta_to_message, to_message};
use placement::{Change, Event, MapError};
use types::{PoolId, Rank};
use wire::Wire;
use wire::encoding::Bytes;
use wire::frame::HEADER_BYTES;
use wire::peer::{LogId, Newer, Told};

use super::Shape;

/// Who votes in a large system, and how long one of them waits for news before it answers that there are none: as
/// `engine::service` has it.
const VOTERS: u32 = 5;
const HOLD_SECONDS: f64 = 2.0;
/// Whom one server of a tree tells.
pub const BRANCHES: u64 = 32;

/// What one change takes.
#[derive(Clone, Copy, Debug)]
pub struct FanOut {
    /// Of the message that carries the change, with its header; and of one that carries the whole map.
    pub change_bytes: u64,
    pub map_bytes: u64,
    /// Told by each voter, and their bytes: the command that makes the change, in a message of its own.
    pub voter_messages: u64,
    pub voter_bytes: u64,
    /// Questions that each voter is asked in a second when nothing changes, for each group.
    pub voter_questions: f64,
    /// The same in a tree, and how many rounds that takes.
    pub tree_bytes: u64,
    pub tree_rounds: u32,
}

/// A server of the pool is excluded: all others, and whoever uses the pool, are to hear of it.
///
/// # Errors
/// [`MapError`]: never for shapes of more than one server.
pub fn exclusion(shape: Shape) -> Result<FanOut, MapError> {
    let mut map = shape.map()?;
    let before = map.version();
    let targets = 0..shape.targets_per_server;
    map.apply(&Change::Happen(targets.map(|target| (target, Event::Exclude)).collect()))?;
    let address = |rank: Rank| format!("tcp://10.{}.{}.{}:10001", rank.0 >> 16, rank.0 >> 8 & 255, rank.0 & 255);
    let header = HEADER_BYTES as u64;
    let delta = map.delta_since(before).expect("it remembers its last version");
    let change_bytes = header + delta_to_message(&delta, address).to_bytes().len() as u64;
    let map_bytes = header + to_message(PoolId::from_bytes([1; 16]), "tank", &map, address).to_bytes().len() as u64;
    let others = u64::from(shape.servers()) - 1;
    let command = PoolCommand::Exclude { version: before, ranks: vec![Rank(0)] };
    let commands = vec![Bytes(command.to_bytes())];
    let voters = (0..VOTERS.min(shape.servers())).map(|rank| (Rank(rank), 1, address(Rank(rank)))).collect();
    let newer = Newer::Commands { to: LogId { term: 1, index: 1 }, commands };
    let news = Told { voters, leader: Some(Rank(0)), term: 1, newer };
    let news_bytes = header + news.to_bytes().len() as u64;
    let subscribers = u64::from(shape.servers().saturating_sub(VOTERS)).div_ceil(VOTERS.into());
    let mut told = 0;
    let mut tree_rounds = 0;
    let mut tellers = 1;
    while told < others {
        tellers *= BRANCHES;
        told += tellers;
        tree_rounds += 1;
    }
    Ok(FanOut {
        change_bytes,
        map_bytes,
        voter_messages: subscribers,
        voter_bytes: subscribers * news_bytes,
        voter_questions: subscribers as f64 / HOLD_SECONDS,
        tree_bytes: others.min(BRANCHES) * change_bytes,
        tree_rounds,
    })
}

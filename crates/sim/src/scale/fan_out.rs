//! How a change of a pool's map reaches everybody: worked out from the messages that carry it.
//!
//! Two ways: the leader tells each by itself, as today's replicas are told (up to `raft::limits::MEMBERS_MAX` servers); or it tells
//! some, and these tell others, as a tree of subscriptions would.

use object::map::{delta_to_message, to_message};
use placement::{Change, Event, MapError};
use types::{PoolId, Rank};
use wire::Wire;
use wire::frame::HEADER_BYTES;

use super::Shape;

/// Whom one server of a tree tells.
pub const BRANCHES: u64 = 32;

/// What one change takes.
#[derive(Clone, Copy, Debug)]
pub struct FanOut {
    /// Of the message that carries the change, with its header; and of one that carries the whole map.
    pub change_bytes: u64,
    pub map_bytes: u64,
    /// Sent by the leader when it tells each by itself.
    pub direct_bytes: u64,
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
        direct_bytes: others * change_bytes,
        tree_bytes: others.min(BRANCHES) * change_bytes,
        tree_rounds,
    })
}

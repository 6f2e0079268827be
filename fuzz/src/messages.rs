//! Every message of `wire`. The first byte of the input picks which.

use wire::Wire;
use wire::control::*;
use wire::data::*;
use wire::hello::{Hello, Welcome};
use wire::peer::{
    Consensus, Forward, Gossip, Join, Joined, Propose, Reported, ServerSpace, ServerSpaceQuery, ServerStorage,
};

/// Decodes a message and, if it is one, encodes it again.
fn round_trip<T: Wire>(data: &[u8]) {
    if let Ok(message) = T::from_bytes(data) {
        assert_eq!(message.to_bytes(), data, "what decodes encodes to the same bytes");
    }
}

/// An error decodes numbers it does not know to `Misc`, so only its decoder is under test.
fn error(data: &[u8]) {
    if let Ok(error) = types::Error::from_bytes(data) {
        assert!(error.to_bytes().len() == data.len());
    }
}

/// A pool map is worked with: what is taken for one places objects, and says the same again.
fn pool_map(data: &[u8]) {
    let Ok(message) = PoolMap::from_bytes(data) else { return };
    assert_eq!(message.to_bytes(), data, "what decodes encodes to the same bytes");
    let Ok(found) = object::map::from_message(&message) else { return };
    let again = object::map::to_message(message.id, &message.label, &found.map, |rank| {
        let of_rank = |server: &&MapServer| server.rank == rank;
        message.servers.iter().find(of_rank).map(|server| server.address.clone()).unwrap_or_default()
    });
    assert_eq!(object::map::from_message(&again).as_ref(), Ok(&found), "a map is sent as it is");
    let layout = placement::Layout::new(found.map);
    for pg in [0, 17, layout.pg_count() - 1] {
        layout.slots(pg, 3);
        layout.interval(pg, 2);
    }
}

fn pool_map_delta(data: &[u8]) {
    let Ok(message) = PoolMapDelta::from_bytes(data) else { return };
    assert_eq!(message.to_bytes(), data, "what decodes encodes to the same bytes");
    let Ok(found) = object::map::delta_from_message(&message) else { return };
    let path = placement::FaultPath::of_rank(types::Rank(0));
    let server = placement::Server { rank: types::Rank(0), path, targets: 4, weight: 1 };
    let mut map = placement::PoolMap::create(vec![server]).expect("four targets are a map");
    if map.advance(&found.delta).is_ok() {
        placement::Layout::new(map).slots(7, 3);
    }
}

macro_rules! round_trips {
    ($($message:ty),* $(,)?) => { &[$(round_trip::<$message>,)* error, pool_map, pool_map_delta] };
}

const MESSAGES: &[fn(&[u8])] = round_trips![
    Hello,
    Welcome,
    Consensus,
    Forward,
    Gossip,
    Join,
    Joined,
    Propose,
    Reported,
    ServerSpace,
    ServerSpaceQuery,
    ServerStorage,
    SystemInfo,
    StorageInfo,
    PoolCreate,
    PoolName,
    PoolDestroy,
    PoolSetProperties,
    Properties,
    PoolList,
    PoolInfo,
    PoolMapSince,
    PoolMapNews,
    ContainerCreate,
    ContainerName,
    ContainerList,
    ContainerInfo,
    ContainerDestroy,
    ContainerSetProperties,
    AttributeNames,
    SetAttributes,
    Attributes,
    SnapshotCreate,
    SnapshotDestroy,
    SnapshotInfo,
    SnapshotList,
    AllocateObjectIds,
    ObjectIdRange,
    UpdateRequest,
    Committed,
    FetchRequest,
    FetchResponse,
    PunchRequest,
    ListObjectsRequest,
    ListObjectsResponse,
    ListDkeysRequest,
    ListAkeysRequest,
    ListKeysResponse,
    ListExtentsRequest,
    ListExtentsResponse,
    QueryKeysRequest,
    QueryKeysResponse,
];

pub(crate) fn any(data: &[u8]) {
    let Some((&pick, rest)) = data.split_first() else { return };
    MESSAGES[usize::from(pick) % MESSAGES.len()](rest);
}

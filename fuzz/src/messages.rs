//! Every message of `wire`. The first byte of the input picks which.

use std::fmt::Debug;

use wire::Wire;
use wire::control::*;
use wire::copy::*;
use wire::data::*;
use wire::group::*;
use wire::hello::*;
use wire::membership::*;
use wire::peer::*;

/// Decodes a message and, if it is one, encodes it again.
fn round_trip<T: Wire>(data: &[u8]) {
    if let Ok(message) = T::from_bytes(data) {
        assert_eq!(message.to_bytes(), data, "what decodes encodes to the same bytes");
    }
}

/// The same for what has an error in it: a number from a newer server becomes `Misc`, so that not the bytes but their
/// meaning is the same again.
fn with_errors<T: Wire + PartialEq + Debug>(data: &[u8]) {
    let Ok(message) = T::from_bytes(data) else { return };
    let again = message.to_bytes();
    assert_eq!(again.len(), data.len(), "an error keeps its length");
    assert_eq!(T::from_bytes(&again), Ok(message), "what decodes means the same again");
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

macro_rules! messages {
    ([$($message:ty),* $(,)?], [$($faulty:ty),* $(,)?], [$($worked:ident),*], [$($later:ty),* $(,)?]) => {
        &[$(round_trip::<$message>,)* $(with_errors::<$faulty>,)* $($worked,)* $(round_trip::<$later>),*]
    };
}

/// An input names its message by the place in all lists together. One more in a list moves those of the lists behind it, and the
/// first byte of what is kept of these in `found/message` is to be moved with them. The last list grows without that.
#[rustfmt::skip]
const MESSAGES: &[fn(&[u8])] = messages![
    [
        // hello, peer
        Hello, Welcome, Consensus, Forward, Gossip, Join, Joined, Propose, Reported, ServerSpace, ServerSpaceQuery,
        ServerStorage, ServerLog, Gossiped, Filling,
        // membership
        GossipHeader, News,
        // control
        StorageInfo, StorageResize, TokenCreate, Token, SystemExclude, SystemStop, SystemChangeTargets, SetLogMasks,
        SystemSetAttributes, SystemSetProperties, SystemAttributes, PoolCreate, PoolName, PoolDestroy,
        PoolSetProperties, Properties, PoolList, PoolInfo, PoolMapSince, PoolMapNews, PoolChangeTargets, PoolExtend, PoolRebuild, PoolQueryTargets,
        PoolTargets, PoolResize, ContainerCreate, ContainerName, ContainerList, ContainerInfo, ContainerDestroy,
        ContainerSetProperties, ContainerRollback, AttributeNames, SetAttributes, Attributes, SnapshotCreate,
        SnapshotDestroy, SnapshotInfo, SnapshotList, AllocateObjectIds, ObjectIdRange,
        // data
        UpdateRequest, Committed, FetchRequest, FetchResponse, PunchRequest, ListObjectsRequest, ListObjectsResponse,
        ListDkeysRequest, ListAkeysRequest, ListKeysResponse, ListExtentsRequest, ListExtentsResponse,
        QueryKeysRequest, QueryKeysResponse, DiffRequest, DiffResponse,
        // group, copy
        GroupRequest, CopyListRequest, CopyListResponse, CopyRequest, CopyResponse, CopyDigestRequest,
        CopyDigestResponse, CopyMemoryRequest, CopyMemoryResponse,
        // subscriptions
        Subscribe, Told, Newer, LogId,
    ],
    [types::Error, SystemInfo, SystemTargetsChanged, PoolTargetsChanged, LogMasksSet, Report, GroupResponse],
    [pool_map, pool_map_delta],
    // access control lists, placement
    [PoolChangeAcl, ContainerChangeAcl, ContainerSetOwner, OwnedAcl, Placing]
];

pub(crate) fn any(data: &[u8]) {
    let Some((&pick, rest)) = data.split_first() else { return };
    MESSAGES[usize::from(pick) % MESSAGES.len()](rest);
}

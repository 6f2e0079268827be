//! Every message of `wire`. The first byte of the input picks which.

use wire::Wire;
use wire::control::*;
use wire::data::*;
use wire::hello::{Hello, Welcome};

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

macro_rules! round_trips {
    ($($message:ty),* $(,)?) => { &[$(round_trip::<$message>,)* error] };
}

const MESSAGES: &[fn(&[u8])] = round_trips![
    Hello,
    Welcome,
    SystemInfo,
    StorageInfo,
    PoolCreate,
    PoolName,
    PoolDestroy,
    PoolSetProperties,
    Properties,
    PoolList,
    PoolInfo,
    PoolMap,
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

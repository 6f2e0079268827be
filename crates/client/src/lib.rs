//! The client: systems, pools, containers and objects, as handles.
//!
//! # Shape
//! ```text
//!   System --pool()--> Pool --container()--> Container --object(), kv(), array()--> Object, Kv, Array
//!      |                 |
//!      | control calls   | pool map, placement, a link per target
//!      v                 v
//!   call (retry with the same sequence until the deadline) -> link (one connection per service)
//! ```
//! Every handle is a cheap clone that can be used from any task or thread; every future is `Send`,
//! and dropping one is safe: what it had sent may or may not take effect.
//!
//! # Always true
//! 1. A request keeps its number through all its repeats, so it takes effect once.
//! 2. Every operation ends by the system's deadline, and says when its outcome is unknown.
//! 3. Every byte read was verified against the checksum it was written with.
//! 4. Who leads a group is asked for its latest state and to change it; whoever serves it for what is past. Who does not
//!    answer has a successor by a newer map: a user hears of it when time or copies run out.
//! 5. What is under way is bounded: [`IN_FLIGHT_MAX`] requests for one operation.
//!
//! # Not here
//! Connections and frames (`net`); what a request contains (`object`); where objects lie
//! (`placement`); files and directories (`dfs`).
#![forbid(unsafe_code)]

mod array;
mod call;
mod container;
mod ids;
mod key;
mod keys;
mod kv;
mod link;
mod object;
mod pool;
mod system;
mod view;
mod window;

pub use array::{Array, ArrayInfo, READ_BYTES_MAX};
pub use container::{Container, ObjectList};
pub use key::IntoKey;
pub use keys::KeyCursor;
pub use kv::Kv;
pub use object::{Extents, KeyEnds, Object, ShardInfo};
pub use pool::{ContainerSpec, Pool};
pub use system::{System, SystemOptions};
pub use view::ShardState;

pub use ::object::{AkeyQuery, AkeyResult, AkeyUpdate, ArrayShape, NewValue, Query};
pub use bytes::Bytes;
pub use net::Address;
pub use rt::disk::IoBuf;
pub use types::{
    Ace, Acl, AclError, AclOf, Code, Conditions, ContainerId, Epoch, Error, Extent, Key, Layout, ObjectClass, ObjectId,
    ObjectType, Permissions, PoolId, Principal, PrincipalName, Result,
};
pub use wire::control::{
    AclChange, ContainerInfo, DeviceInfo, DeviceKind, Member, MemberState, ObjectIdRange, OwnedAcl, PoolInfo,
    PoolServers, PoolTarget, Rebuild, RebuildState, SnapshotInfo, Space, StorageInfo, SystemInfo, TargetChange,
};
pub use wire::data::{Difference, DifferenceKind, Direction};

/// Requests one operation has under way at most: enough to keep several targets and the network
/// busy, few enough that memory stays small (8 pieces of 4 MiB).
pub const IN_FLIGHT_MAX: usize = 8;

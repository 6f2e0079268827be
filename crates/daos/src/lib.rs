//! DAOS: a transactional, versioned object store, as a library.
//!
//! A *system* is a set of servers, or one inside your process. A *pool* reserves space in it; a
//! *container* is a dataset in a pool; an *object* in a container is a table of keys and values, a
//! key-value store or an array. A *snapshot* keeps a container as it was. Files and directories are
//! in [`dfs`].
//!
//! ```
//! # fn main() -> daos::Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("data");
//! daos::block_on(async {
//!     // A system in this process, in a directory of its own. `System::connect` opens one elsewhere.
//!     let options = daos::EmbeddedOptions { bytes: Some(2 << 30), ..Default::default() };
//!     let system = daos::System::embedded_with(&path, options).await?;
//!     system.create_pool("tank", 1 << 30, vec![]).await?;
//!     let pool = system.pool("tank").await?;
//!     pool.create_container(daos::ContainerSpec::labelled("notes")).await?;
//!     let container = pool.container("notes").await?;
//!
//!     // A key-value store in it.
//!     let notes = container.kv(container.new_object(daos::ObjectType::KvHashed, None).await?);
//!     notes.put("greeting", b"hello").await?;
//!
//!     // What a snapshot has seen stays.
//!     container.create_snapshot(Some("monday")).await?;
//!     notes.put("greeting", b"good evening").await?;
//!     let monday = container.at_snapshot("monday").await?.kv(notes.object().id());
//!     assert_eq!(monday.get("greeting").await?.unwrap(), &b"hello"[..]);
//!     assert_eq!(notes.get("greeting").await?.unwrap(), &b"good evening"[..]);
//!
//!     // Everything acknowledged is durable; this only closes in good order.
//!     system.shutdown().await
//! })
//! # }
//! ```
//!
//! # Shape
//! [`System`] is the client's, and with it the server if that is in this process; everything else
//! is re-exported. Handles are cheap to clone and may be used from any task of a tokio runtime;
//! [`block_on`] brings a small one for programs that have none.
//!
//! # Not here
//! Anything but the face: `client`, `dfs` and `control` do the work.
#![forbid(unsafe_code)]

mod system;

pub use client::{
    Ace, Acl, AclChange, AclError, AclOf, Address, AkeyQuery, AkeyResult, AkeyUpdate, Array, ArrayInfo, ArrayShape,
    Bytes, Code, Conditions, Container, ContainerId, ContainerInfo, ContainerSpec, DeviceInfo, DeviceKind, Difference,
    DifferenceKind, Direction, Epoch, Error, Extent, Extents, IntoKey, IoBuf, Key, KeyCursor, KeyEnds, Kv, Layout,
    Member, MemberState, NewValue, Object, ObjectClass, ObjectId, ObjectIdRange, ObjectType, OwnedAcl, Permissions,
    Pool, PoolId, PoolInfo, Principal, PrincipalName, Query, Result, ShardInfo, ShardState, SnapshotInfo, Space,
    StorageInfo, SystemInfo, SystemOptions,
};
pub use control::embedded::EmbeddedOptions;
pub use dfs;
pub use rt::block_on;
pub use system::System;

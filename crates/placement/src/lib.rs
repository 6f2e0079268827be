//! Where objects lie: from a pool map to targets, as a pure function.
//!
//! # Shape
//! ```text
//!   object, class --hash--> placement groups, one per object group     (Layout::place)
//!   placement group --weighted rendezvous--> ordered targets           (a table, once a map version)
//!   dkey --hash, or round robin for arrays--> one of the object's groups (Placed::group_of)
//! ```
//! A *placement group* ("PG") is a key range of the store: every object group lies in exactly one,
//! and all of a PG lies on the same targets, so that a PG is the unit of moving, rebuilding and
//! forgetting.
//!
//! # Always true
//! 1. The same map gives the same layout on every machine and in every release that speaks this
//!    version: integers only, own [`hash`], golden values in the tests. [`Layout::digest`] tells
//!    whether two parties agree.
//! 2. A target that goes down moves nothing: it keeps its place and is shown as down.
//! 3. A target that leaves the map moves only the PGs it was a member of.
//! 4. The groups of one object lie in different PGs, and on different targets while there are enough.
//!
//! # Not here
//! A tree of fault domains: a domain is a server (rank) for now; [`Layout`] keeps the shape for
//! more. Moving data when a map changes.
#![forbid(unsafe_code)]

pub mod hash;
mod layout;
mod map;
mod place;

pub use layout::{Layout, MEMBERS_MAX};
pub use map::{MapError, PGS_PER_TARGET, PoolMap, TARGETS_MAX, Target, pg_count};
pub use place::{Group, PlaceError, Placed, group_count};

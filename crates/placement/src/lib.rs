//! Where objects lie: from a pool map to targets, as a pure function.
//!
//! # Shape
//! ```text
//!   what happened --one match--> state of a target --a version--> pool map   (PoolMap::apply)
//!   object, class --hash--> placement groups, one per object group           (Layout::place)
//!   placement group --draws, fault domains--> slots, each with its target    (Layout::slots)
//!   dkey --hash, or round robin for arrays--> one of the object's groups     (Placed::group_of)
//!   placement group --back through the map's memory--> who leads, who is a member since when (Layout::reign)
//!   two versions --difference--> what is to be copied, what may go           (Layout::plan)
//! ```
//! A *placement group* ("PG") is a key range of the store: every object group lies in exactly one,
//! and all of a PG lies on the same targets, so that a PG is the unit of moving, rebuilding and
//! forgetting. A *slot* is one place in it: an object of three copies uses the first three.
//!
//! # Always true
//! 1. The same map gives the same layout on every machine and in every release that speaks this
//!    version: integers only, own [`hash`], golden values in the tests. [`Layout::digest`] tells
//!    whether two parties agree.
//! 2. Slots of a PG stand in distinct fault domains while there are enough, the highest level first (K12).
//! 3. A target that fails moves nobody else: only its own slots get substitutes (K12).
//! 4. Who serves a slot has its data: a target begins to serve where it was being filled, by a change of the map that
//!    says it is full.
//! 5. An object stays in its PGs for good. They are different ones, and had different targets, while there were
//!    enough, when the pool was made.
//!
//! # Not here
//! Copying data: [`Layout::plan`] says what. The bytes of a map on the wire. Weights that change; exceptions for
//! single PGs that would even out the load; removing a server from the map (what is out stays known, as out).
#![forbid(unsafe_code)]

mod claim;
mod domain;
mod draw;
mod group_number;
pub mod hash;
mod layout;
mod map;
mod place;
mod plan;
mod reign;
mod state;
mod view;

pub use domain::{FaultPath, PATH_BYTES_MAX, PATH_PARTS_MAX, PathError};
pub use group_number::GroupNumber;
pub use layout::{Layout, SLOTS_MAX, Slot, Stale};
pub use map::{
    Change, HISTORY_MAX, MapDelta, MapError, MapParts, PG_COUNT_MAX, PGS_PER_TARGET, PoolMap, STANDINGS_MAX, Server,
    Standing, TARGETS_MAX, Target, WEIGHT_MAX, pg_count,
};
pub use place::{GROUPS_MAX, PlaceError, Placed, group_count};
pub use plan::{Move, Release};
pub use reign::{Membership, Reign};
pub use state::{CameFrom, Event, Refused, TargetState};
